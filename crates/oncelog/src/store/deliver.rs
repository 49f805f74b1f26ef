//! Delayed records whose time has come: appended, and taken from those that wait, in one transaction.
//!
//! Done by the background, so much in a turn, for each topic in order of time. A topic that cannot take its records (it
//! is full, say) is held up by itself and tried again later. Read at the head: what is due may be on its way to the
//! disk, and then the transaction that appends it stands behind it in the journal.
//!
//! What waits for a topic that is deleted goes the same way, without a record.

use std::ops::Bound;
use std::time::Duration;

use super::{Core, Store};
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{TimerId, TopicId};
use crate::table::ScanRange;
use crate::transaction::{Pending, Spot, delayed, system};
use crate::view::Pin;

/// A transaction has so many records at most, and ends with the one that comes to so many bytes.
const ROWS_AT_ONCE: usize = 512;
const BYTES_AT_ONCE: usize = 1 << 20;
/// So many topics have their turn together, and share a sync.
const TOPICS_AT_ONCE: usize = 16;
/// What could not be appended is tried again after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// One at a time delivers; what it knows.
#[derive(Debug, Default)]
pub(super) struct Delivering {
    /// Who had its turn last.
    last: TopicId,
}

impl Store {
    /// The records of a topic that wait for their time, in order of time: see [`Producer::append_at`].
    ///
    /// [`Producer::append_at`]: crate::Producer::append_at
    ///
    /// # Errors
    /// `NotFound`: no such topic, or none of this owner; `Corrupt`, `Closed`.
    pub fn timers(&self, topic: &str) -> Result<Vec<TimerId>> {
        let core = self.core();
        core.check_open()?;
        let id = core.topic(topic)?.id;
        let (first, last) = (delayed::first_key(id, Spot::FIRST), delayed::last_key(id, None));
        let mut found = Vec::new();
        core.each_row(system::DELAYED, Bound::Included(&first), Bound::Included(&last), |key, _| {
            found.push(delayed::read_delayed_key(key)?.0);
            Ok(())
        })?;
        Ok(found)
    }

    /// Appends the delayed records whose time has come, now. The background does it by itself; this is for a store with
    /// [`manual_duties`](crate::StoreOptions::manual_duties), and for tests with a clock of their own. Durable on
    /// return.
    ///
    /// # Errors
    /// `Full`, `Corrupt`, `InDoubt`, `Fenced`, `Closed`: some of what is due waits on. Topics that are full are no
    /// error: [`StoreStats::topics_held`](crate::StoreStats::topics_held) counts them.
    pub fn deliver_due(&self) -> Result<()> {
        let core = self.core();
        core.pipeline.delays.retry_all();
        loop {
            core.check_open()?;
            core.pipeline.wait_for_table_memory()?;
            core.deliver_some()?;
            if core.until_due().is_none_or(|left| !left.is_zero()) {
                return Ok(());
            }
        }
    }
}

impl Core {
    /// How long until a delayed record is due, or tried again; `None`: none waits.
    pub(super) fn until_due(&self) -> Option<Duration> {
        let clock = &self.options.clock;
        self.pipeline.delays.until_due(clock.now_ms(), clock.monotonic())
    }

    /// Appends some of what is due, about a transaction of each of some topics.
    pub(super) fn deliver_some(&self) -> Result<()> {
        let mut delivering = self.delivering.lock();
        if self.until_due().is_none_or(|left| !left.is_zero()) {
            return Ok(());
        }
        let (delays, clock) = (&self.pipeline.delays, &self.options.clock);
        let (now_ms, now) = (clock.now_ms(), clock.monotonic());
        let again = now.saturating_add(AGAIN_AFTER);
        let (mut submitted, mut failed) = (Vec::new(), None);
        if delays.take_unknown(now)
            && let Err(error) = self.find_waiting_topics()
        {
            delays.hold(delayed::UNKNOWN, Spot::FIRST, again);
            failed = Some(error);
        }
        for (topic, first) in delays.take_due(now_ms, now, delivering.last, TOPICS_AT_ONCE) {
            delivering.last = topic;
            match self.deliver_to(topic, first, now_ms) {
                Ok(pending) => submitted.extend(pending),
                Err(error) => {
                    delays.hold(topic, first, again);
                    if self.is_its_own_trouble(&error) {
                        tracing::warn!(%error, %topic, "delayed records that are due cannot be appended yet");
                    } else {
                        failed.get_or_insert(error);
                    }
                }
            }
        }
        delays.settle();
        for (pending, keys) in submitted {
            pending.wait()?;
            if !is_kept(StepSite::DueInOneStep) {
                self.forget_apart(&keys)?;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// That one topic cannot take its records concerns nobody else.
    fn is_its_own_trouble(&self, error: &Error) -> bool {
        matches!(error.kind(), ErrorKind::TopicFull | ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Conflict)
            && !self.pipeline.journal.has_failed()
    }

    /// Hands over the first of what is due in a topic, as much as it can take, and says where to look next.
    #[allow(clippy::type_complexity, reason = "the keys are for a mutant only")]
    fn deliver_to(&self, topic: TopicId, first: Spot, now_ms: i64) -> Result<Option<(Pending, Vec<Vec<u8>>)>> {
        let is_gone = !self.begin().has_topic(topic)?;
        let from = delayed::first_key(topic, first);
        let last = delayed::last_key(topic, (!is_gone).then_some(now_ms));
        let range = ScanRange::between(Bound::Included(&from), Bound::Included(&last));
        let range = ScanRange { limit: ROWS_AT_ONCE, bytes: BYTES_AT_ONCE, ..range };
        let rows = self.tables.shard(system::DELAYED, system::SHARD);
        let found = rows.scan(range, self.pin_head().lsn())?;
        let mut keys: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
        let Some(last_found) = keys.last().cloned() else {
            // It was cancelled, or is not due yet after all.
            self.look_behind(topic, first, is_gone)?;
            return Ok(None);
        };
        let pending = loop {
            match self.submit_due(topic, is_gone, &mut keys) {
                Ok(pending) => break pending,
                // Fewer may fit, or none of the others was cancelled meanwhile.
                Err(error) if keys.len() > 1 && self.is_its_own_trouble(&error) => keys.truncate(keys.len() / 2),
                // Cancelled: the next look does not find it.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    self.pipeline.delays.found(topic, first);
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        };
        let last_taken = keys.last().unwrap_or(&last_found);
        let behind = delayed::spot_of_key(last_taken)?.next();
        if *last_taken == last_found {
            self.look_behind(topic, behind, is_gone)?;
        } else {
            self.note_waiting(topic, behind, is_gone);
        }
        Ok(Some((pending, keys)))
    }

    /// Stages as many of `keys` as can be, leaves out the others, and hands them over.
    fn submit_due(&self, topic: TopicId, is_gone: bool, keys: &mut Vec<Vec<u8>>) -> Result<Pending> {
        let mut tx = self.begin();
        // It is gone still, or is there still, when this is committed.
        if tx.has_topic(topic)? == is_gone {
            return Err(Error::new(ErrorKind::Conflict, "the topic has come or gone"));
        }
        for at in 0..keys.len() {
            let staged = if is_gone { tx.forget_waiting(&keys[at]) } else { tx.stage_due(&keys[at]) };
            match staged {
                Ok(()) => {}
                // Those before it can go.
                Err(_) if at > 0 => {
                    keys.truncate(at);
                    return self.submit_due(topic, is_gone, keys);
                }
                Err(error) => return Err(error),
            }
        }
        self.pipeline.submit_at_once(tx)
    }

    /// Notes what waits next in a topic, from `first` on.
    fn look_behind(&self, topic: TopicId, first: Spot, is_gone: bool) -> Result<()> {
        let (from, last) = (delayed::first_key(topic, first), delayed::last_key(topic, None));
        let range = ScanRange::between(Bound::Included(&from), Bound::Included(&last));
        let rows = self.tables.shard(system::DELAYED, system::SHARD);
        let found = rows.scan(ScanRange { limit: 1, ..range }, self.pin_head().lsn())?;
        if let Some((key, _)) = found.first() {
            self.note_waiting(topic, delayed::spot_of_key(key)?, is_gone);
        }
        Ok(())
    }

    fn note_waiting(&self, topic: TopicId, first: Spot, is_gone: bool) {
        if is_gone {
            self.pipeline.delays.found_gone(topic, first);
        } else {
            self.pipeline.delays.found(topic, first);
        }
    }

    /// The topics for which something waits, each by one look.
    fn find_waiting_topics(&self) -> Result<()> {
        let rows = self.tables.shard(system::DELAYED, system::SHARD);
        let mut from = Vec::new();
        loop {
            let range = ScanRange::between(Bound::Excluded(&from), Bound::Unbounded);
            let found = rows.scan(ScanRange { limit: 1, ..range }, self.pin_head().lsn())?;
            let Some((key, _)) = found.first() else { return Ok(()) };
            let (timer, _) = delayed::read_delayed_key(key)?;
            let is_gone = !self.begin().has_topic(timer.topic)?;
            self.note_waiting(timer.topic, delayed::spot_of_key(key)?, is_gone);
            from = delayed::last_key(timer.topic, None);
        }
    }

    /// What waits for a topic that is deleted goes, with the next turns.
    pub(super) fn forget_delayed(&self, topic: TopicId) {
        self.pipeline.delays.found_gone(topic, Spot::FIRST);
        self.pipeline.journal.wake_background();
    }

    /// What must not be: the rows go in a transaction behind the one with the records.
    #[cold]
    fn forget_apart(&self, keys: &[Vec<u8>]) -> Result<()> {
        let mut tx = self.begin();
        keys.iter().try_for_each(|key| tx.forget_waiting(key))?;
        self.pipeline.submit_at_once(tx)?.wait().map(drop)
    }

    /// All that has its place.
    fn pin_head(&self) -> Pin {
        self.pipeline.view.pin(|| self.pipeline.journal.head())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;
    use crate::handles::TopicDef;

    const GOES: TopicDef<Bytes, Bytes> = TopicDef::new("goes");
    const STAYS: TopicDef<Bytes, Bytes> = TopicDef::new("stays");

    fn rows(store: &Store) -> usize {
        let core = store.core();
        core.tables.shard(system::DELAYED, system::SHARD).scan(ScanRange::ALL, core.pin_head().lsn()).unwrap().len()
    }

    fn delay(store: &Store, topic: &TopicDef<Bytes, Bytes>, count: usize) {
        drop(store.producer(topic.clone()).unwrap());
        let delay = |tx: &mut crate::handles::Tx<'_>| tx.append_at(topic.clone(), i64::MAX, b"", b"").map(drop);
        store.transact(|tx| (0..count).try_for_each(|_| delay(tx))).unwrap();
    }

    /// More than go in one turn, none of them due; also where the one who deleted it had no time for them.
    #[test]
    fn what_waits_for_a_deleted_topic_goes() {
        let home = tempfile::tempdir().unwrap();
        for by_the_next in [false, true] {
            let store = Store::options().manual_duties().open(home.path()).unwrap();
            delay(&store, &GOES, 3 * ROWS_AT_ONCE / 2);
            delay(&store, &STAYS, 1);
            store.delete_topic("goes").unwrap();
            if by_the_next {
                store.close().unwrap();
                let store = Store::options().manual_duties().open(home.path()).unwrap();
                assert!(rows(&store) > ROWS_AT_ONCE);
                store.deliver_due().unwrap();
                assert_eq!(rows(&store), 2);
            } else {
                store.core().deliver_some().unwrap();
                assert!(rows(&store) > 1, "so much in a turn");
                store.core().deliver_some().unwrap();
                assert_eq!(rows(&store), 1);
            }
        }
    }
}
