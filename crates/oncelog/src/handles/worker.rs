//! The loop under consumers and processors: poll, call, act on the outcome, commit in groups.
//!
//! ```text
//! Source -- record --> your function(record, tx) --> Outcome      many records, one EngineTx, progress with it
//!                                                      |
//!                      submit (place decided) <---------+--> at most `in_flight` groups wait for their sync
//! ```
//!
//! Invariant: whatever ends a group without a place, the source goes back to what was submitted last, and the records
//! are handed out again. See `group` for what a commit holds.

use std::time::Duration;

use super::dead_letter::DeadLetters;
use super::group::{AtHand, Group, Grouping};
use super::progress::Progress;
use super::tx::Tx;
use crate::consumer::{Attempts, GapPolicy, Outcome, Rules};
use crate::error::Result;
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::transaction::{Engine, EngineTx, PendingCommit, Source, Step};
use crate::wake::{Arc, Signal};

/// How a worker goes about its work.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) grouping: Grouping,
    pub(super) rules: Rules,
    /// What the source does about records that are lost.
    pub(super) gaps: GapPolicy,
    /// Where records go that are given up.
    pub(super) dead_letters: Option<DeadLetters>,
    /// Whether tables of several shards are bound to the partition at hand.
    pub(super) sharded: bool,
    pub(super) inputs: Arc<[InputName]>,
}

/// What a worker knows of a topic that it reads.
#[derive(Clone, Debug)]
pub(super) struct InputName {
    pub(super) topic: TopicId,
    pub(super) name: String,
    pub(super) partitions: u32,
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
    /// Not for good: a record waits for another attempt, and its partition with it.
    Again,
}

/// A processing function on raw records.
pub(super) type Call<'f> = dyn FnMut(&AtHand<'_>, &mut Tx<'_>) -> Result<Outcome> + 'f;

/// A consumer's source with the group that is being filled.
pub(super) struct Worker {
    source: Box<dyn Source>,
    group: Group,
    gaps: GapPolicy,
    progress: Arc<Progress>,
}

/// Woken when there is something to do; this only bounds the harm of a wake-up that is lost to a bug.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Groups lost in a row after which it is told: then the function itself changes what it reads, by another transaction.
const LOST_MAX: u32 = 10_000;

/// Keeps partitions back whose next record waits for another attempt; gives how long the first of them still waits.
pub(super) fn hold_back(source: &mut dyn Source, attempts: &Attempts, now: Duration) -> Option<Duration> {
    if attempts.is_empty() {
        return None;
    }
    let (held, due) = attempts.held(&source.positions(), now);
    source.hold(&held);
    due.map(|due| due.saturating_sub(now))
}

impl Worker {
    /// Goes on where `source`, which is that of `consumer`, stands. `moved` is raised with each answered commit.
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        source: Box<dyn Source>,
        consumer: &str,
        settings: Settings,
        moved: Arc<Signal>,
    ) -> Worker {
        let positions = source.positions();
        let progress = Arc::new(Progress::starting_at(positions.clone(), moved));
        let gaps = settings.gaps;
        let group = Group::new(engine, consumer.to_owned(), settings, &positions, Arc::clone(&progress));
        Worker { source, group, gaps, progress }
    }

    /// Processes records that are there, `count_max` at most, until `stop` says so; everything counted is durable on
    /// return.
    pub(super) fn run(
        &mut self,
        count_max: Option<u64>,
        stop: &dyn Fn() -> bool,
        call: &mut Call<'_>,
    ) -> Result<(u64, End)> {
        let ran = self.run_free(count_max, stop, call);
        // Whoever uses the source in another way next sees all of it.
        self.source.hold(&[]);
        ran
    }

    fn run_free(&mut self, count_max: Option<u64>, stop: &dyn Fn() -> bool, call: &mut Call<'_>) -> Result<(u64, End)> {
        let mut done = 0;
        loop {
            let before = done;
            let pause = hold_back(&mut *self.source, self.group.attempts(), self.group.now());
            let polled = self.poll(count_max, stop, &mut done, call);
            let placed = self.group.submit();
            if let Some(error) = placed.as_ref().err().or(polled.as_ref().err())
                && let Some(lost) = self.group.lose(error)
            {
                done -= self.rewind();
                if lost < LOST_MAX {
                    continue;
                }
            }
            let settled = self.group.settle(0);
            if polled.is_err() || placed.is_err() || settled.is_err() {
                self.rewind();
            }
            // What the poll ended with comes behind the group: whoever is told of a gap, and steps over it, is told
            // that all before it is done with.
            placed?;
            settled?;
            match (polled?, pause) {
                (End::Again, _) => {}
                (End::Drained, _) if done > before => {}
                (End::Drained, Some(_)) if stop() => return Ok((done, End::Stopped)),
                (End::Drained, Some(pause)) => self.source.wait(pause.min(WAIT_MAX), stop),
                (End::Drained, None) => return self.pass_skipped().map(|()| (done, End::Drained)),
                (end, _) => return Ok((done, end)),
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
        let group = &mut self.group;
        let mut end = End::Drained;
        self.source.poll(&mut |topic, partition, view| {
            if stop() {
                end = End::Stopped;
                return Ok(Step::Stay);
            }
            if let Some(ended) = group.stage(&AtHand { topic, partition, view }, stop, call)? {
                end = ended;
                return Ok(Step::Stay);
            }
            *done += 1;
            group.submit_if_full()?;
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
        let (records, submitted) = self.group.forget();
        for ((topic, partition), next) in submitted {
            self.source.seek(*topic, *partition, *next);
        }
        records
    }

    /// Steps over offsets that are gone, which an error of kind `Gap` told of; the step is durable on return.
    pub(super) fn skip_gap(&mut self) -> Result<()> {
        let Some((topic, partition, lost)) = self.source.gap() else { return Ok(()) };
        self.pass(topic, partition, lost.end)?;
        self.source.seek(topic, partition, lost.end);
        Ok(())
    }

    /// The next partition whose source went over records that are lost, with none behind them whose progress would pass
    /// them too. To be asked when all that was handed out is done with.
    pub(super) fn skipped(&self) -> Option<(TopicId, PartitionId, LogOffset)> {
        let positions = if self.gaps == GapPolicy::Skip { self.source.positions() } else { Vec::new() };
        let is_ahead =
            |at: &(TopicId, PartitionId, LogOffset)| self.group.stands(at.0, at.1).is_some_and(|to| to < at.2);
        positions.into_iter().find(is_ahead)
    }

    /// Commits that those are passed, so that they are told of once; durable on return.
    pub(super) fn pass_skipped(&mut self) -> Result<()> {
        while let Some((topic, partition, next)) = self.skipped() {
            self.pass(topic, partition, next)?;
        }
        Ok(())
    }

    /// Commits that everything before `next` is done with; durable on return.
    pub(super) fn pass(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        self.group.pass(topic, partition, next)
    }

    /// As [`Worker::pass`] in two steps, with what is in `tx`: its place now, [`Worker::passed`] when it is answered.
    pub(super) fn submit_pass(
        &self,
        tx: Box<dyn EngineTx>,
        topic: TopicId,
        partition: PartitionId,
        next: LogOffset,
    ) -> Result<Box<dyn PendingCommit>> {
        self.group.submit_pass(tx, topic, partition, next)
    }

    pub(super) fn passed(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) {
        self.group.passed(topic, partition, next);
    }

    /// The records, for whoever takes them without a function and tells by [`Worker::pass`] what is done with.
    pub(super) fn source(&mut self) -> &mut dyn Source {
        &mut *self.source
    }

    pub(super) fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        self.source.wait(limit, enough);
    }

    pub(super) fn lag(&self) -> u64 {
        self.source.lag()
    }

    pub(super) fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}
