//! The loop under consumers and processors: poll, call, act on the outcome, commit in groups.
//!
//! ```text
//! Source -- record --> your function(record, tx) --> Outcome      many records, one EngineTx, progress with it
//!                                                      |
//!                      submit (place decided) <---------+--> at most `in_flight` groups wait for their sync
//! ```
//!
//! Invariant: the progress of a record is in the same transaction as its effects. When a group meets a `Conflict`, the
//! source goes back to what was submitted last, and the records are handed out again.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::tx::{Bindings, Tx};
use crate::consumer::{Outcome, RetryPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::RecordView;
use crate::transaction::{Engine, EngineTx, PendingCommit, Source, SourceSpec, Step};
use crate::wake::Arc;

/// How many records share a commit, and how many commits may wait for the disk at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grouping {
    pub(super) records: u64,
    pub(super) bytes: usize,
    pub(super) interval: Duration,
    pub(super) in_flight: usize,
}

/// Why a run over the source returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// There is nothing more for now.
    Drained,
    /// As many records as were asked for.
    Counted,
    /// The function said so.
    Broken,
    /// Whoever runs it said so.
    Stopped,
}

/// A processing function on raw records.
pub(super) type Call<'f> = dyn FnMut(TopicId, PartitionId, RecordView<'_>, &mut Tx<'_>) -> Result<Outcome> + 'f;

/// A consumer's source with the group that is being filled.
pub(super) struct Worker {
    engine: Arc<dyn Engine>,
    consumer: String,
    source: Box<dyn Source>,
    group: Group,
}

/// Everything of the worker that the visitor of records needs while the source is lent to the poll.
struct Group {
    grouping: Grouping,
    retry: RetryPolicy,
    sharded: bool,
    bindings: Bindings,
    tx: Option<Box<dyn EngineTx>>,
    records: u64,
    started_ms: i64,
    next_look: u64,
    /// What the group at hand will have consumed.
    progress: BTreeMap<(TopicId, PartitionId), LogOffset>,
    /// What the submitted groups have consumed.
    submitted: BTreeMap<(TopicId, PartitionId), LogOffset>,
    waiting: VecDeque<Box<dyn PendingCommit>>,
    attempts: u32,
    conflict: bool,
}

/// The clock is looked at after so many records at the latest.
const LOOK_EVERY_MAX: u64 = 64;
/// Conflicts in a row after which they are told: then the function itself changes what it reads, by another
/// transaction.
const CONFLICTS_MAX: u32 = 10_000;
/// A pause before another attempt is made of pieces, between which the worker can be stopped.
const PAUSE_PIECE: Duration = Duration::from_millis(20);

impl Worker {
    /// Starts where `consumer` stands. With `sharded`, tables of several shards are bound to the partition at hand.
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        consumer: &str,
        topics: &[TopicId],
        grouping: Grouping,
        retry: RetryPolicy,
        sharded: bool,
    ) -> Result<Worker> {
        let mut sources = engine.sources(&SourceSpec::new(topics).consumer(consumer), 1)?;
        let source = sources.pop().ok_or_else(Error::closed)?;
        let positions = source.positions();
        let group = Group {
            grouping,
            retry,
            sharded,
            bindings: Bindings::default(),
            tx: None,
            records: 0,
            started_ms: 0,
            next_look: 1,
            progress: BTreeMap::new(),
            submitted: positions.into_iter().map(|(topic, partition, next)| ((topic, partition), next)).collect(),
            waiting: VecDeque::new(),
            attempts: 0,
            conflict: false,
        };
        Ok(Worker { engine, consumer: consumer.to_owned(), source, group })
    }

    /// Processes records that are there, `count_max` at most, until `stop` says so; everything counted is durable on
    /// return.
    pub(super) fn run(
        &mut self,
        count_max: Option<u64>,
        stop: &dyn Fn() -> bool,
        call: &mut Call<'_>,
    ) -> Result<(u64, End)> {
        let mut done = 0;
        let mut conflicts = 0;
        loop {
            let before = done;
            let end = self.poll(count_max, stop, &mut done, call);
            let submitted = self.group.submit(&self.consumer);
            if self.group.conflict {
                self.group.conflict = false;
                done -= self.rewind();
                conflicts += 1;
                if conflicts < CONFLICTS_MAX {
                    continue;
                }
            }
            let settled = self.group.settle(0);
            if end.is_err() || submitted.is_err() || settled.is_err() {
                self.rewind();
            }
            let end = end?;
            submitted?;
            settled?;
            if end != End::Drained || done == before {
                return Ok((done, end));
            }
        }
    }

    fn poll(
        &mut self,
        count_max: Option<u64>,
        stop: &dyn Fn() -> bool,
        done: &mut u64,
        call: &mut Call<'_>,
    ) -> Result<End> {
        if count_max.is_some_and(|max| *done >= max) {
            return Ok(End::Counted);
        }
        let (group, engine, consumer) = (&mut self.group, &*self.engine, &self.consumer);
        let mut end = End::Drained;
        self.source.poll(&mut |topic, partition, record| {
            if stop() {
                end = End::Stopped;
                return Ok(Step::Stay);
            }
            if let Some(ended) = group.process(engine, consumer, topic, partition, record, stop, call)? {
                end = ended;
                return Ok(Step::Stay);
            }
            *done += 1;
            if group.is_full(engine) {
                group.submit(consumer)?;
                group.settle(group.grouping.in_flight)?;
            }
            if count_max.is_some_and(|max| *done >= max) {
                end = End::Counted;
                return Ok(Step::NextAndReturn);
            }
            Ok(Step::Next)
        })?;
        Ok(end)
    }

    /// Goes back to what was submitted; gives how many records of the group at hand that undoes.
    fn rewind(&mut self) -> u64 {
        self.group.tx = None;
        self.group.attempts = 0;
        self.group.progress.clear();
        for ((topic, partition), next) in &self.group.submitted {
            self.source.seek(*topic, *partition, *next);
        }
        std::mem::take(&mut self.group.records)
    }

    /// Steps over offsets that are gone, which an error of kind `Gap` told of; the step is durable on return.
    pub(super) fn skip_gap(&mut self) -> Result<()> {
        let Some((topic, partition, lost)) = self.source.gap() else { return Ok(()) };
        let mut tx = self.engine.begin()?;
        tx.progress(&self.consumer, topic, partition, lost.end)?;
        tx.submit()?.wait()?;
        self.group.submitted.insert((topic, partition), lost.end);
        self.source.seek(topic, partition, lost.end);
        Ok(())
    }

    pub(super) fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        self.source.wait(limit, enough);
    }

    pub(super) fn lag(&self) -> u64 {
        self.source.lag()
    }
}

impl Group {
    /// Calls the function until its outcome is final; says why when the record stays unprocessed.
    #[allow(clippy::too_many_arguments, reason = "what a record is, and who asks")]
    fn process(
        &mut self,
        engine: &dyn Engine,
        consumer: &str,
        topic: TopicId,
        partition: PartitionId,
        record: RecordView<'_>,
        stop: &dyn Fn() -> bool,
        call: &mut Call<'_>,
    ) -> Result<Option<End>> {
        loop {
            if self.tx.is_none() {
                self.tx = Some(engine.begin()?);
                self.started_ms = engine.now_ms();
                self.next_look = 1;
            }
            let Some(inner) = self.tx.as_deref_mut() else { continue };
            let mark = inner.mark();
            let scope = self.sharded.then_some(partition);
            let mut tx = Tx { engine, inner, bindings: &mut self.bindings, scope };
            let outcome = catch_unwind(AssertUnwindSafe(|| call(topic, partition, record, &mut tx)));
            let outcome = outcome.unwrap_or_else(|panic| Err(panicked(&*panic)));
            if !matches!(outcome, Ok(Outcome::Commit)) {
                inner.rollback(mark);
            }
            match outcome? {
                Outcome::Commit | Outcome::Skip => {
                    self.attempts = 0;
                    self.records += 1;
                    self.progress.insert((topic, partition), record.offset.plus(1));
                    return Ok(None);
                }
                Outcome::Break => {
                    self.attempts = 0;
                    return Ok(Some(End::Broken));
                }
                Outcome::Retry => {
                    self.back_off(engine, consumer, record.offset, stop)?;
                    if stop() {
                        return Ok(Some(End::Stopped));
                    }
                }
            }
        }
    }

    /// Commits what came before, so that it does not wait for the record that is tried again, then pauses.
    fn back_off(
        &mut self,
        engine: &dyn Engine,
        consumer: &str,
        offset: LogOffset,
        stop: &dyn Fn() -> bool,
    ) -> Result<()> {
        self.attempts += 1;
        let Some(pause) = self.retry.pause_after(self.attempts) else {
            let attempts = std::mem::take(&mut self.attempts);
            return Err(Error::new(ErrorKind::User, format!("record {offset} asked for a retry {attempts} times")));
        };
        self.submit(consumer)?;
        self.settle(0)?;
        let mut left = pause;
        while !left.is_zero() && !stop() {
            let piece = left.min(PAUSE_PIECE);
            engine.pause(piece);
            left -= piece;
        }
        Ok(())
    }

    /// Whether the group is to be submitted. The clock is read ever more rarely while records are fast.
    fn is_full(&mut self, engine: &dyn Engine) -> bool {
        let bytes = self.tx.as_deref().map_or(0, EngineTx::bytes);
        if self.records >= self.grouping.records || bytes >= self.grouping.bytes {
            return true;
        }
        if self.records < self.next_look {
            return false;
        }
        let elapsed = engine.now_ms().abs_diff(self.started_ms);
        let interval = u64::try_from(self.grouping.interval.as_millis()).unwrap_or(u64::MAX);
        let step = if elapsed < interval / 4 { self.records.min(LOOK_EVERY_MAX) } else { 1 };
        self.next_look = self.records + step;
        elapsed >= interval
    }

    /// Gives the group at hand its place, with the progress it makes.
    fn submit(&mut self, consumer: &str) -> Result<()> {
        let Some(mut tx) = self.tx.take() else { return Ok(()) };
        if self.progress.is_empty() {
            return Ok(());
        }
        for ((topic, partition), next) in &self.progress {
            tx.progress(consumer, *topic, *partition, *next)?;
        }
        match tx.submit() {
            Ok(pending) => {
                if self.grouping.in_flight > 0 {
                    pending.hand_over();
                }
                self.waiting.push_back(pending);
                self.submitted.append(&mut self.progress);
                self.records = 0;
                Ok(())
            }
            Err(error) => {
                self.conflict = error.kind() == ErrorKind::Conflict;
                Err(error)
            }
        }
    }

    /// Waits until at most `in_flight` groups have no answer yet.
    fn settle(&mut self, in_flight: usize) -> Result<()> {
        while self.waiting.len() > in_flight {
            let Some(oldest) = self.waiting.pop_front() else { break };
            oldest.wait()?;
        }
        Ok(())
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let what = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let what = what.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned());
    Error::new(ErrorKind::User, format!("the processing function panicked: {what}"))
}
