//! Reading that remembers nothing: batch by batch, with the function compiled into the loop over records.
//!
//! Nothing is paid for a record but its parsing and the call: the transaction begins when a record stages something,
//! one net for panics spans a batch, and there is no progress to keep. Effects that are staged share commits.
//!
//! Invariant: the source never stands behind a record whose effects are neither committed nor in the transaction at
//! hand; when that is lost, the source goes back to where its first record was.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::dead_letter::{self, DeadLetters, Obituary, Room};
use super::group::text_of;
use super::lazy_tx::LazyTx;
use super::record::RecordRef;
use super::tx::{Bindings, Tx};
use super::worker::{End, hold_back};
use crate::codec::Codec;
use crate::consumer::{Attempts, Ended, Outcome, Rules, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::transaction::{Engine, EngineTx as _, Fetched, Source};
use crate::wake::Arc;

/// A source with the transaction that the records at hand share.
pub(super) struct Plain {
    engine: Arc<dyn Engine>,
    source: Box<dyn Source>,
    commit_records: u64,
    tx: LazyTx,
    court: Court,
    bindings: Bindings,
    /// Where the source stood when the transaction at hand was empty, in the partitions that were read since.
    stood: BTreeMap<(TopicId, PartitionId), LogOffset>,
    /// Records done with since then.
    records: u64,
}

/// What decides over records whose function did not simply finish.
struct Court {
    rules: Rules,
    dead_letters: Option<DeadLetters>,
    /// Records that are tried again.
    attempts: Attempts,
}

/// Effects are committed when they are as large as this, at the latest.
const COMMIT_BYTES: usize = 1 << 20;
/// Conflicts in a row after which they are told.
const CONFLICTS_MAX: u32 = 10_000;

/// Why the loop over a batch was left, when no record is to be judged.
enum Left {
    /// All of its records are done with.
    Through,
    /// As many records as were asked for are done with.
    Counted,
    /// The transaction at hand is full.
    Full,
    /// The function answered something that is neither `Commit` nor `Skip`.
    Asked(Outcome),
}

/// Why reading stops, with what is staged still to be committed.
enum Halt {
    /// Only for the commit.
    Full,
    /// A record is tried again after a pause, and its partition waits for it.
    Again,
    End(End),
}

impl Plain {
    pub(super) fn new(
        engine: Arc<dyn Engine>,
        source: Box<dyn Source>,
        rules: Rules,
        dead_letters: Option<DeadLetters>,
        commit_records: u64,
    ) -> Plain {
        let tx = LazyTx::new(Arc::clone(&engine));
        Plain {
            engine,
            source,
            commit_records,
            tx,
            court: Court { rules, dead_letters, attempts: Attempts::default() },
            bindings: Bindings::default(),
            stood: BTreeMap::new(),
            records: 0,
        }
    }

    /// Hands out records that are there, `count_max` at most; effects of all that are counted are durable on return.
    pub(super) fn run<K: Codec, V: Codec>(
        &mut self,
        count_max: Option<u64>,
        process: &mut impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<(u64, End)> {
        let ran = self.run_free(count_max, process);
        self.source.hold(&[]);
        ran
    }

    fn run_free<K: Codec, V: Codec>(
        &mut self,
        count_max: Option<u64>,
        process: &mut impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<(u64, End)> {
        let (mut done, mut conflicts) = (0, 0);
        loop {
            let pause = hold_back(&mut *self.source, &self.court.attempts, self.engine.monotonic());
            let halt = self.read(count_max, &mut done, process);
            if let Err(error) = self.commit() {
                done -= self.rewind();
                conflicts += 1;
                if error.kind() == ErrorKind::Conflict && conflicts < CONFLICTS_MAX {
                    continue;
                }
                return Err(error);
            }
            conflicts = 0;
            match halt? {
                Halt::Full | Halt::Again => {}
                Halt::End(End::Drained) if let Some(pause) = pause => self.source.wait(pause, &|| false),
                Halt::End(end) => return Ok((done, end)),
            }
        }
    }

    /// Reads until there is something to commit or to tell.
    fn read<K: Codec, V: Codec>(
        &mut self,
        count_max: Option<u64>,
        done: &mut u64,
        process: &mut impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<Halt> {
        loop {
            let left = count_max.map_or(u64::MAX, |max| max - *done);
            if left == 0 {
                return Ok(Halt::End(End::Counted));
            }
            if !self.tx.has_begun() {
                self.stood.clear();
                self.records = 0;
            }
            let Some(batch) = self.source.poll_batch()? else { return Ok(Halt::End(End::Drained)) };
            let (topic, partition) = (batch.topic, batch.partition);
            self.stood.entry((topic, partition)).or_insert(batch.from);
            let mut pass = Pass { at: batch.from, records: 0 };
            let room = self.commit_records.saturating_sub(self.records).max(1);
            let work = Work { engine: &*self.engine, tx: &mut self.tx, bindings: &mut self.bindings, left, room };
            // Kept for the record that gives trouble, if one does.
            let records = batch.clone();
            let left = catch_unwind(AssertUnwindSafe(|| pass.through(batch, work, process)));
            *done += pass.records;
            self.records += pass.records;
            let ended = match left {
                Ok(Ok(Left::Through)) => continue,
                Ok(Ok(Left::Full)) => {
                    self.source.seek(topic, partition, pass.at);
                    return Ok(Halt::Full);
                }
                Ok(Ok(Left::Counted)) => {
                    self.source.seek(topic, partition, pass.at);
                    return Ok(Halt::End(End::Counted));
                }
                Ok(Ok(Left::Asked(outcome))) => Ended::Answered(outcome),
                Ok(Err(error)) => Ended::Failed(error),
                Err(panic) => Ended::Panicked(text_of(&*panic)),
            };
            self.tx.take_back();
            let now = self.engine.monotonic();
            let is_done = self.court.judge(ended, &mut self.tx, records, pass.at, now);
            let next = if matches!(is_done, Ok(None)) { pass.at.plus(1) } else { pass.at };
            self.source.seek(topic, partition, next);
            if let Some(halt) = is_done? {
                return Ok(halt);
            }
            *done += 1;
            self.records += 1;
        }
    }
    pub(super) fn source(&mut self) -> &mut dyn Source {
        &mut *self.source
    }

    pub(super) fn lag(&self) -> u64 {
        self.source.lag()
    }

    /// Makes what is staged durable.
    fn commit(&mut self) -> Result<()> {
        let Some(tx) = self.tx.take() else { return Ok(()) };
        tx.submit()?.wait()?;
        self.stood.clear();
        self.records = 0;
        Ok(())
    }

    /// Goes back to where the effects begin that were lost; gives how many records that undoes.
    fn rewind(&mut self) -> u64 {
        for ((topic, partition), next) in std::mem::take(&mut self.stood) {
            self.source.seek(topic, partition, next);
        }
        std::mem::take(&mut self.records)
    }
}

impl Court {
    /// What becomes of the record at `at`, whose effects are taken back: `None` when it is done with.
    fn judge(
        &mut self,
        ended: Ended,
        tx: &mut LazyTx,
        batch: Fetched<'_>,
        at: LogOffset,
        now: Duration,
    ) -> Result<Option<Halt>> {
        // Over the limit of a transaction is a matter of all that share it: alone the record may fit.
        if matches!(&ended, Ended::Failed(error) if error.kind() == ErrorKind::Invalid) && tx.is_shared() {
            return Ok(Some(Halt::Full));
        }
        let (topic, partition) = (batch.topic, batch.partition);
        let attempts = self.attempts.of(topic, partition, at) + 1;
        self.attempts.settle(topic, partition, at);
        match self.rules.judge(ended, attempts) {
            Verdict::Done => Ok(None),
            Verdict::SkipTold(reason) => {
                tracing::warn!(topic = batch.topic_name, partition = %batch.partition, offset = %at, reason,
                    "a record is skipped");
                Ok(None)
            }
            Verdict::DeadLetter(reason) => self.bury(tx, batch, at, attempts, &reason),
            Verdict::Again(pause) => {
                self.attempts.again((topic, partition), at, attempts, now.saturating_add(pause));
                Ok(Some(Halt::Again))
            }
            Verdict::Break => Ok(Some(Halt::End(End::Broken))),
            Verdict::Fail(error) => Err(error),
        }
    }

    fn bury(
        &mut self,
        tx: &mut LazyTx,
        batch: Fetched<'_>,
        at: LogOffset,
        attempts: u32,
        reason: &str,
    ) -> Result<Option<Halt>> {
        let dead_letters = self.dead_letters.ok_or_else(|| Error::invalid("no dead-letter topic is named"))?;
        let Fetched { topic, topic_name, partition, .. } = batch;
        for record in batch {
            let record = record?;
            if record.offset < at {
                continue;
            }
            let why = Obituary { topic_name, partition, consumer: "", attempts, reason };
            let room = if tx.has_begun() { Room::Shared } else { Room::Alone };
            return match dead_letter::stage(tx, dead_letters, &record, &why, room) {
                Ok(()) => Ok(None),
                Err(error) if error.kind() == ErrorKind::Invalid && room == Room::Shared => {
                    tx.take_back();
                    // It comes again and is judged the same, in a transaction of its own.
                    self.attempts.again((topic, partition), at, attempts - 1, Duration::ZERO);
                    Ok(Some(Halt::Full))
                }
                Err(error) => Err(error),
            };
        }
        Err(Error::new(ErrorKind::Corrupt, format!("record {at} of topic {topic_name:?} is not in its batch")))
    }
}

/// How far a pass over a batch has come.
struct Pass {
    /// The record at hand, or else the one behind the last that is done with.
    at: LogOffset,
    records: u64,
}

/// What a pass over a batch works with.
struct Work<'a> {
    engine: &'a dyn Engine,
    tx: &'a mut LazyTx,
    bindings: &'a mut Bindings,
    /// Records that may still be done.
    left: u64,
    /// Records that may still share the transaction.
    room: u64,
}

impl Pass {
    #[inline]
    fn through<K: Codec, V: Codec>(
        &mut self,
        batch: Fetched<'_>,
        work: Work<'_>,
        process: &mut impl FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    ) -> Result<Left> {
        let (topic, name, partition) = (batch.topic, batch.topic_name, batch.partition);
        let Work { engine, tx, bindings, left, room } = work;
        for record in batch {
            let record = record?;
            self.at = record.offset;
            tx.next_record();
            let record = RecordRef::new(record, topic, name, partition);
            match process(record, &mut Tx { engine, inner: &mut *tx, bindings: &mut *bindings, scope: None })? {
                Outcome::Commit => {}
                Outcome::Skip => tx.take_back(),
                asked => return Ok(Left::Asked(asked)),
            }
            self.at = self.at.plus(1);
            self.records += 1;
            if self.records >= left {
                return Ok(Left::Counted);
            }
            if tx.is_touched() && (self.records >= room || tx.bytes() >= COMMIT_BYTES) {
                return Ok(Left::Full);
            }
        }
        Ok(Left::Through)
    }
}
