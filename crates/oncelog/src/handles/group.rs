//! The records that share a commit: one transaction that is being filled, and those that wait for the disk.
//!
//! ```text
//! stage(record) -> function in a transaction -> verdict -> effects, progress, dead letters     is_full -> submit
//!                                                                                                           |
//!                                   Progress <- settle <- waiting: at most `in_flight` without an answer <--+
//! ```
//!
//! Invariants: the progress past a record is in the transaction with its effects, or with its dead letter. A group that
//! was not submitted leaves nothing behind. Groups settle in the order in which they were submitted.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::dead_letter::{self, Obituary, Room};
use super::progress::{Positions, Progress};
use super::tx::{Bindings, Scope, Tx};
use super::worker::{Call, End, InputName, Settings};
use crate::consumer::{Attempts, Ended, Outcome, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::RecordView;
use crate::transaction::{Engine, EngineTx, PendingCommit};
use crate::wake::Arc;

/// How many records share a commit, and how many commits may wait for the disk at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouping {
    pub(super) records: u64,
    pub(super) bytes: usize,
    pub(super) interval: Duration,
    pub(super) in_flight: usize,
}

/// The clock is looked at after so many records at the latest.
const LOOK_EVERY_MAX: u64 = 64;

/// A record with its place.
#[derive(Clone, Copy)]
pub(super) struct AtHand<'a> {
    pub(super) topic: TopicId,
    pub(super) partition: PartitionId,
    pub(super) view: RecordView<'a>,
}

/// Everything of a worker that the visitor of records needs while the source is lent to the poll.
pub(super) struct Group {
    engine: Arc<dyn Engine>,
    consumer: String,
    settings: Settings,
    bindings: Bindings,
    tx: Option<Box<dyn EngineTx>>,
    filled: Filled,
    started: Duration,
    next_look: u64,
    /// Most records of a group now: fewer than asked for after a group was lost to a conflict.
    limit: u64,
    /// How often in a row a group was lost.
    lost: u32,
    /// Records that are tried again.
    attempts: Attempts,
    waiting: VecDeque<(Box<dyn PendingCommit>, Filled)>,
    /// What the submitted groups have consumed.
    submitted: BTreeMap<(TopicId, PartitionId), LogOffset>,
    progress: Arc<Progress>,
}

/// What a group holds.
#[derive(Default)]
struct Filled {
    records: u64,
    dead_letters: u64,
    /// What it will have consumed; the partition at hand last.
    positions: Positions,
}

impl Group {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        consumer: String,
        settings: Settings,
        positions: &Positions,
        progress: Arc<Progress>,
    ) -> Group {
        let limit = settings.grouping.records;
        Group {
            engine,
            consumer,
            settings,
            bindings: Bindings::default(),
            tx: None,
            filled: Filled::default(),
            started: Duration::ZERO,
            next_look: 1,
            limit,
            lost: 0,
            attempts: Attempts::default(),
            waiting: VecDeque::new(),
            submitted: positions.iter().map(|(topic, partition, next)| ((*topic, *partition), *next)).collect(),
            progress,
        }
    }

    /// Calls the function, and acts on what it answers; says why when the record stays unprocessed.
    pub(super) fn stage(
        &mut self,
        record: &AtHand<'_>,
        stop: &dyn Fn() -> bool,
        call: &mut Call<'_>,
    ) -> Result<Option<End>> {
        let staged = self.try_until_final(record, stop, call);
        if !matches!(staged, Ok(Some(End::Again))) {
            self.attempts.settle(record.topic, record.partition, record.view.offset);
        }
        if let Ok(None) = staged {
            self.filled.records += 1;
            self.filled.pass(record.topic, record.partition, record.view.offset.plus(1));
        }
        staged
    }

    fn try_until_final(
        &mut self,
        record: &AtHand<'_>,
        stop: &dyn Fn() -> bool,
        call: &mut Call<'_>,
    ) -> Result<Option<End>> {
        let AtHand { topic, partition, view } = record;
        let mut attempts = self.attempts.of(*topic, *partition, view.offset);
        loop {
            let ended = self.call(record, call)?;
            if matches!(ended, Ended::Answered(Outcome::Commit)) {
                return Ok(None);
            }
            // Over the limit of a transaction is a matter of all that share it: the record is judged when it is alone.
            if matches!(&ended, Ended::Failed(error) if error.kind() == ErrorKind::Invalid) && self.filled.records > 0 {
                self.submit()?;
                continue;
            }
            attempts += 1;
            match self.settings.rules.judge(ended, attempts) {
                Verdict::Done => return Ok(None),
                Verdict::SkipTold(reason) => {
                    let name = self.input(record.topic).map_or("", |input| &input.name);
                    let (partition, offset) = (record.partition, record.view.offset);
                    tracing::warn!(topic = name, %partition, %offset, reason, "a record is skipped");
                    return Ok(None);
                }
                Verdict::DeadLetter(reason) => {
                    self.bury(record, attempts, &reason)?;
                    return Ok(None);
                }
                Verdict::Again(_) if stop() => return Ok(Some(End::Stopped)),
                Verdict::Again(pause) => {
                    let due = self.engine.monotonic().saturating_add(pause);
                    self.attempts.again((*topic, *partition), view.offset, attempts, due);
                    return Ok(Some(End::Again));
                }
                Verdict::Break => return Ok(Some(End::Broken)),
                Verdict::Fail(error) => return Err(error),
            }
        }
    }

    /// One call of the function. Its effects are taken back unless it asks for the commit.
    fn call(&mut self, record: &AtHand<'_>, call: &mut Call<'_>) -> Result<Ended> {
        self.begin()?;
        let scope = self.scope(record);
        let Some(inner) = self.tx.as_deref_mut() else { return Err(Error::closed()) };
        let mark = inner.mark();
        let mut tx = Tx { engine: &*self.engine, inner, bindings: &mut self.bindings, scope };
        let ended = catch_unwind(AssertUnwindSafe(|| call(record, &mut tx)));
        // Before anything else: what a panic carries may panic again when it is dropped.
        if !matches!(ended, Ok(Ok(Outcome::Commit))) {
            inner.rollback(mark);
        }
        Ok(match ended {
            Ok(Ok(outcome)) => Ended::Answered(outcome),
            Ok(Err(error)) => Ended::Failed(error),
            Err(panic) => Ended::Panicked(text_of(&*panic)),
        })
    }

    fn begin(&mut self) -> Result<()> {
        if self.tx.is_none() {
            self.tx = Some(self.engine.begin()?);
            self.started = self.engine.monotonic();
            self.next_look = 1;
        }
        Ok(())
    }

    /// In a processor, tables of several shards are bound to the partition at hand.
    fn scope(&self, record: &AtHand<'_>) -> Option<Scope> {
        if !self.settings.sharded {
            return None;
        }
        let partitions = self.input(record.topic).map_or(1, |input| input.partitions);
        Some(Scope { partition: record.partition, partitions })
    }

    fn input(&self, topic: TopicId) -> Option<&InputName> {
        self.settings.inputs.iter().find(|input| input.topic == topic)
    }

    /// Stages the dead letter; in a transaction of its own if it does not fit into the one at hand.
    fn bury(&mut self, record: &AtHand<'_>, attempts: u32, reason: &str) -> Result<()> {
        let Some(dead_letters) = self.settings.dead_letters else {
            return Err(Error::invalid("no dead-letter topic is named"));
        };
        loop {
            self.begin()?;
            let Some(tx) = self.tx.as_deref_mut() else { return Err(Error::closed()) };
            let input = self.settings.inputs.iter().find(|input| input.topic == record.topic);
            let why = Obituary {
                topic_name: input.map_or("", |input| &input.name),
                partition: record.partition,
                consumer: &self.consumer,
                attempts,
                reason,
            };
            let mark = tx.mark();
            let room = if self.filled.records > 0 { Room::Shared } else { Room::Alone };
            match dead_letter::stage(tx, dead_letters, &record.view, &why, room) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::Invalid && self.filled.records > 0 => {
                    tx.rollback(mark);
                    self.submit()?;
                }
                Err(error) => return Err(error),
            }
        }
        self.filled.dead_letters += 1;
        Ok(())
    }

    /// Records that are tried again.
    pub(super) fn attempts(&self) -> &Attempts {
        &self.attempts
    }

    pub(super) fn now(&self) -> Duration {
        self.engine.monotonic()
    }

    /// Submits the group if it is to be, and waits while too many are on their way.
    pub(super) fn submit_if_full(&mut self) -> Result<()> {
        if self.is_full() {
            self.submit()?;
            self.settle(self.settings.grouping.in_flight)?;
        }
        Ok(())
    }

    /// The clock is read ever more rarely while records are fast.
    fn is_full(&mut self) -> bool {
        let bytes = self.tx.as_deref().map_or(0, EngineTx::bytes);
        let records = self.filled.records;
        if records >= self.limit || bytes >= self.settings.grouping.bytes {
            return true;
        }
        if records < self.next_look {
            return false;
        }
        let interval = self.settings.grouping.interval;
        let elapsed = self.engine.monotonic().saturating_sub(self.started);
        self.next_look = records + if elapsed < interval / 4 { records.min(LOOK_EVERY_MAX) } else { 1 };
        elapsed >= interval
    }

    /// Gives the group at hand its place, with the progress that it makes.
    pub(super) fn submit(&mut self) -> Result<()> {
        let Some(mut tx) = self.tx.take() else { return Ok(()) };
        if self.filled.records == 0 {
            return Ok(());
        }
        for (topic, partition, next) in &self.filled.positions {
            tx.progress(&self.consumer, *topic, *partition, *next)?;
        }
        let pending = tx.submit()?;
        if self.settings.grouping.in_flight > 0 {
            pending.hand_over();
        }
        let filled = std::mem::take(&mut self.filled);
        self.submitted.extend(filled.positions.iter().map(|(topic, partition, next)| ((*topic, *partition), *next)));
        self.waiting.push_back((pending, filled));
        self.limit = self.limit.saturating_mul(2).min(self.settings.grouping.records);
        self.lost = 0;
        Ok(())
    }

    /// Takes the answers that are there, and waits until at most `in_flight` groups have none yet.
    pub(super) fn settle(&mut self, in_flight: usize) -> Result<()> {
        while self.waiting.len() > in_flight || self.waiting.front().is_some_and(|(oldest, _)| oldest.is_done()) {
            let Some((oldest, filled)) = self.waiting.pop_front() else { break };
            oldest.wait()?;
            self.progress.add(filled.records, filled.dead_letters, &filled.positions);
        }
        Ok(())
    }

    /// Whether the group at hand was refused its place for a reason that may not be there when its records are handed
    /// out again: what it read has changed, or it was too large. Then fewer share the next one, so that whoever takes
    /// long gets through as well. Gives how often in a row that happened.
    pub(super) fn lose(&mut self, refused: &Error) -> Option<u32> {
        let was_refused = self.tx.is_none() && self.filled.records > 0;
        let may_pass = match refused.kind() {
            ErrorKind::Conflict => true,
            ErrorKind::Invalid => self.filled.records > 1,
            _ => false,
        };
        if !(was_refused && may_pass) {
            return None;
        }
        self.limit = (self.filled.records / 2).max(1);
        self.lost += 1;
        Some(self.lost)
    }

    /// Forgets the group at hand; gives how many records it had, and where the submitted ones end.
    pub(super) fn forget(&mut self) -> (u64, &BTreeMap<(TopicId, PartitionId), LogOffset>) {
        self.tx = None;
        (std::mem::take(&mut self.filled).records, &self.submitted)
    }

    /// Where what was submitted ends.
    pub(super) fn stands(&self, topic: TopicId, partition: PartitionId) -> Option<LogOffset> {
        self.submitted.get(&(topic, partition)).copied()
    }

    /// Records before `next` are not to be had: a commit of its own that passes them. Durable on return.
    pub(super) fn pass(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        let tx = self.engine.begin()?;
        self.submit_pass(tx, topic, partition, next)?.wait()?;
        self.passed(topic, partition, next);
        Ok(())
    }

    /// Gives a transaction its place in which everything before `next` is done with; [`Group::passed`] when it is
    /// answered.
    pub(super) fn submit_pass(
        &self,
        mut tx: Box<dyn EngineTx>,
        topic: TopicId,
        partition: PartitionId,
        next: LogOffset,
    ) -> Result<Box<dyn PendingCommit>> {
        tx.progress(&self.consumer, topic, partition, next)?;
        tx.submit()
    }

    pub(super) fn passed(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) {
        self.submitted.insert((topic, partition), next);
        self.progress.add(0, 0, &vec![(topic, partition, next)]);
    }
}

impl Filled {
    fn pass(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) {
        let is_at_hand = |(t, p, _): &&mut (TopicId, PartitionId, LogOffset)| (*t, *p) == (topic, partition);
        if let Some((.., at)) = self.positions.last_mut().filter(is_at_hand) {
            *at = next;
            return;
        }
        match self.positions.iter().position(|(t, p, _)| (*t, *p) == (topic, partition)) {
            Some(known) => {
                let last = self.positions.len() - 1;
                self.positions.swap(known, last);
                self.pass(topic, partition, next);
            }
            None => self.positions.push((topic, partition, next)),
        }
    }
}

pub(super) fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
