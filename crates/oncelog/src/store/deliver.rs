//! Delayed records whose time has come: appended, and taken from those that wait, in one transaction.
//!
//! Done by the background. What is due goes by topic and in order of time; a topic that cannot take its records (it is
//! full, say) holds up no other and is tried again later. Read at the head: what is due may be on its way to the disk,
//! and then the transaction that appends it stands behind it in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use super::{Core, Store};
use crate::disk::{StepSite, is_kept};
use crate::error::{ErrorKind, Result};
use crate::ids::{TimerId, TopicId};
use crate::table::{Direction, ScanRange};
use crate::transaction::{EngineTx, due_until, read_delayed_key, system};
use crate::view::Pin;

/// So many that are due are looked at at once.
const ROWS_AT_ONCE: usize = 1024;
/// A transaction is ended at so many bytes of records, or rows that go.
const BYTES_AT_ONCE: usize = 1 << 20;
const KEYS_AT_ONCE: usize = 4096;
/// What could not be appended is tried again after so long.
const AGAIN_MS: i64 = 1000;

/// What became of a round.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    /// All that was due is appended.
    Done,
    /// Something was cancelled meanwhile: look again.
    Again,
    /// Some topics could not take their records.
    Stuck,
}

impl Store {
    /// The records of a topic that wait for their time, in order of time: see [`Producer::append_at`]. Costs by all
    /// that wait in the store.
    ///
    /// [`Producer::append_at`]: crate::Producer::append_at
    ///
    /// # Errors
    /// `NotFound`: no such topic, or none of this owner; `Corrupt`, `Closed`.
    pub fn timers(&self, topic: &str) -> Result<Vec<TimerId>> {
        let core = self.core();
        core.check_open()?;
        let id = core.topic(topic)?.id;
        let mut found = Vec::new();
        core.each_row(system::DELAYED, Bound::Unbounded, Bound::Unbounded, |key, _| {
            found.extend(read_delayed_key(key).filter(|(_, topic, _)| *topic == id).map(|(timer, ..)| timer));
            Ok(())
        })?;
        Ok(found)
    }

    /// Appends the delayed records whose time has come, now. The background does it by itself; this is for a store with
    /// [`manual_duties`](crate::StoreOptions::manual_duties). Durable on return.
    ///
    /// # Errors
    /// `Full`, `Corrupt`, `InDoubt`, `Fenced`, `Closed`. A topic that cannot take its records is no error: it is told
    /// as a warning and tried again.
    pub fn deliver_due(&self) -> Result<()> {
        self.core().check_open()?;
        self.core().deliver_due()
    }
}

impl Core {
    /// How long until the next delayed record is due; `None`: none waits.
    pub(super) fn until_due(&self) -> Option<Duration> {
        let due = self.pipeline.delays.next_due()?;
        let left = due.saturating_sub(self.options.clock.now_ms());
        Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    /// Appends what is due.
    pub(super) fn deliver_due(&self) -> Result<()> {
        let delays = &self.pipeline.delays;
        while self.until_due().is_some_and(|left| left.is_zero()) {
            let now_ms = self.options.clock.now_ms();
            delays.forget();
            let round = self.deliver_until(now_ms);
            // Whatever became of it, those that wait are looked at again: what was added since is known besides.
            let soonest = if matches!(round, Ok(Round::Done | Round::Again)) { i64::MIN } else { now_ms + AGAIN_MS };
            if let Some(first) = self.first_waiting().unwrap_or(Some(now_ms)) {
                delays.found(first.max(soonest));
            }
            if round? == Round::Stuck {
                break;
            }
        }
        Ok(())
    }

    fn deliver_until(&self, now_ms: i64) -> Result<Round> {
        let (last, mut first) = (due_until(now_ms), Bound::Unbounded);
        let (mut stuck, mut again) = (BTreeSet::new(), false);
        loop {
            let range = ScanRange::between(first.as_ref().map(Vec::as_slice), Bound::Included(&last));
            let rows = self.tables.shard(system::DELAYED, system::SHARD);
            let page = rows.scan(ScanRange { limit: ROWS_AT_ONCE, ..range }, self.pin_head().lsn())?;
            let mut due: BTreeMap<TopicId, Vec<Vec<u8>>> = BTreeMap::new();
            for (key, _) in &page {
                let topic = read_delayed_key(key).map(|(_, topic, _)| topic).unwrap_or_default();
                // In order of time: nothing of a topic goes before what could not.
                if !stuck.contains(&topic) {
                    due.entry(topic).or_default().push(key.clone());
                }
            }
            for (topic, keys) in due {
                match self.deliver_to(&keys) {
                    Ok(()) => continue,
                    Err(error) if error.kind() == ErrorKind::Conflict => again = true,
                    Err(error) if self.pipeline.journal.has_failed() || error.kind() == ErrorKind::Closed => {
                        return Err(error);
                    }
                    Err(error) => tracing::warn!(%error, %topic, "delayed records that are due cannot be appended yet"),
                }
                stuck.insert(topic);
            }
            match page.into_iter().nth(ROWS_AT_ONCE - 1) {
                Some((key, _)) => first = Bound::Excluded(key),
                None if again => return Ok(Round::Again),
                None => return Ok(if stuck.is_empty() { Round::Done } else { Round::Stuck }),
            }
        }
    }

    /// Appends some that are due, of one topic.
    fn deliver_to(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut left = keys.iter().peekable();
        while left.peek().is_some() {
            let mut tx = self.begin();
            while let Some(key) = left.next_if(|_| tx.bytes() < BYTES_AT_ONCE) {
                tx.stage_due(key)?;
            }
            self.pipeline.submit_at_once(tx)?.wait()?;
        }
        if is_kept(StepSite::DueInOneStep) { Ok(()) } else { self.forget_waiting(keys) }
    }

    /// Removes what waits for a topic that is deleted.
    pub(super) fn forget_delayed(&self, topic: TopicId) -> Result<()> {
        let mut waiting = Vec::new();
        self.each_row(system::DELAYED, Bound::Unbounded, Bound::Unbounded, |key, _| {
            if system::topic_of_key(key) == Some(topic) {
                waiting.push(key.to_vec());
            }
            Ok(())
        })?;
        waiting.chunks(KEYS_AT_ONCE).try_for_each(|keys| self.forget_waiting(keys))
    }

    fn forget_waiting(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut tx = self.begin();
        keys.iter().try_for_each(|key| tx.put(system::DELAYED, system::SHARD, key, None))?;
        self.pipeline.submit_at_once(tx)?.wait().map(drop)
    }

    fn first_waiting(&self) -> Result<Option<i64>> {
        let range = ScanRange { limit: 1, direction: Direction::Up, ..ScanRange::ALL };
        let first = self.tables.shard(system::DELAYED, system::SHARD).scan(range, self.pin_head().lsn())?;
        Ok(first.first().and_then(|(key, _)| read_delayed_key(key)).map(|(timer, ..)| timer.due_ms))
    }

    /// All that has its place.
    fn pin_head(&self) -> Pin {
        self.pipeline.view.pin(|| self.pipeline.journal.head())
    }
}
