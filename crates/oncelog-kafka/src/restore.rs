//! Bringing local shards to where their changelogs are, after partitions have come to us or an outcome was unknown.
//!
//! ```text
//! checkpoint --> plan: target = end of the changelog, undecided records included
//!                  |  await: everything before the target is decided
//!                  +--> read committed records from checkpoint to target --> local commits, a checkpoint with each
//! ```
//!
//! Invariants:
//! * The group's committed offsets are asked for before the target. A transaction whose offsets count has its records
//!   in the changelog then, but perhaps not its marker yet: so the target is behind undecided records too, and they are
//!   waited for. Whoever restored to what is decided at once would miss the last commit.
//! * A shard without a checkpoint that can be gone on from is emptied first, the checkpoint before the rows.
//! * Everything is done in short steps, so that the group still hears of us and a stop is not kept waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use oncelog::{Engine, EngineTx, Error, LogOffset, PartitionId, Result, ScanRange, ShardId, TableId};
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;

use crate::checkpoints::{Checkpoint, Checkpoints};
use crate::cluster::{self, Cluster};
use crate::failure;
use crate::numbers::{list, offset_from, partition_from};

/// So long a step may take.
const STEP: Duration = Duration::from_millis(100);
/// So many rows, or bytes of them, share a local commit.
const COMMIT_ROWS: usize = 1000;
const COMMIT_BYTES: usize = 1 << 18;
/// The oldest checkpoint that is gone on from. Deletions are dropped from a changelog some time after they were
/// written, see [`DELETE_RETENTION_MS`], and a copy that missed one would keep the row for ever.
const AGE_MAX_MS: i64 = 20 * 60 * 60 * 1000;
/// How long a changelog keeps deletions: longer than the age, with a margin for clocks.
pub(crate) const DELETE_RETENTION_MS: &str = "604800000";

/// Where tables are kept: the local store and the cluster.
pub(crate) struct Home {
    pub(crate) local: Arc<dyn Engine>,
    pub(crate) cluster: Cluster,
    pub(crate) checkpoints: Checkpoints,
}

/// A table of a processor, with the topic that its changes go to.
#[derive(Clone, Debug)]
pub(crate) struct KeptTable {
    pub(crate) id: TableId,
    pub(crate) changelog: String,
}

/// Shards that are being restored; table by table.
pub(crate) struct Restore {
    todo: Vec<(KeptTable, Vec<PartitionId>)>,
    now: Option<TableRestore>,
}

struct TableRestore {
    table: KeptTable,
    shards: Vec<ShardRestore>,
    /// Reads once everything is decided that is to be read.
    reader: Option<BaseConsumer>,
}

struct ShardRestore {
    partition: PartitionId,
    next: LogOffset,
    target: LogOffset,
    /// Whether it has come farther since the last local commit.
    moved: bool,
    done: bool,
}

impl Restore {
    pub(crate) fn new(tables: &[KeptTable], partitions: &[PartitionId]) -> Restore {
        let todo = tables.iter().rev().map(|table| (table.clone(), partitions.to_vec()));
        Restore { todo: todo.collect(), now: None }
    }

    /// What is left of `self`, and these partitions of the same tables.
    pub(crate) fn and(self, tables: &[KeptTable], partitions: &[PartitionId]) -> Restore {
        let mut all: Vec<PartitionId> = self.todo.iter().flat_map(|(_, partitions)| partitions).copied().collect();
        let begun = self.now.iter().flat_map(|now| &now.shards).map(|shard| shard.partition);
        all.extend(begun.chain(partitions.iter().copied()));
        all.sort_unstable();
        all.dedup();
        // From the checkpoints on, so nothing that was done is done again.
        Restore::new(tables, &all)
    }

    /// What is left of `self` without these partitions: somebody else writes to their shards now. Nothing if that is
    /// all.
    pub(crate) fn without(self, tables: &[KeptTable], gone: &[PartitionId]) -> Option<Restore> {
        let mut left: Vec<PartitionId> = self.todo.iter().flat_map(|(_, partitions)| partitions).copied().collect();
        left.extend(self.now.iter().flat_map(|now| &now.shards).map(|shard| shard.partition));
        left.sort_unstable();
        left.dedup();
        left.retain(|partition| !gone.contains(partition));
        (!left.is_empty()).then(|| Restore::new(tables, &left))
    }

    /// Goes on for a moment; whether all is done.
    pub(crate) fn step(&mut self, home: &Home) -> Result<bool> {
        let deadline = Instant::now() + STEP;
        loop {
            if let Some(table) = &mut self.now {
                if !table.step(home, deadline)? {
                    return Ok(false);
                }
                self.now = None;
            }
            let Some((table, partitions)) = self.todo.last() else { return Ok(true) };
            self.now = Some(TableRestore::plan(home, table.clone(), partitions)?);
            self.todo.pop();
        }
    }
}

impl TableRestore {
    fn plan(home: &Home, table: KeptTable, partitions: &[PartitionId]) -> Result<TableRestore> {
        let mut shards = Vec::new();
        for &partition in partitions {
            // In this order: whoever had the shard before may have come farther between the two.
            let known = home.checkpoints.get(&table.changelog, partition)?;
            let (low, target) = home.cluster.low_and_high(&table.changelog, partition)?;
            let next = match known.filter(|known| can_go_on(known, low, target, home.local.now_ms())) {
                Some(Checkpoint { next, .. }) => next,
                None => {
                    empty(home, &table, partition)?;
                    low
                }
            };
            shards.push(ShardRestore { partition, next, target, moved: true, done: next >= target });
        }
        Ok(TableRestore { table, shards, reader: None })
    }

    fn step(&mut self, home: &Home, deadline: Instant) -> Result<bool> {
        if self.reader.is_none() && self.shards.iter().any(|shard| !shard.done) {
            if !self.all_decided(home)? {
                std::thread::sleep(STEP / 10);
                return Ok(false);
            }
            self.reader = Some(self.open(home)?);
        }
        while self.shards.iter().any(|shard| !shard.done) {
            if Instant::now() > deadline {
                return Ok(false);
            }
            self.read(home, deadline)?;
        }
        self.commit(home, home.local.begin()?)?;
        Ok(true)
    }

    fn all_decided(&self, home: &Home) -> Result<bool> {
        for shard in self.shards.iter().filter(|shard| !shard.done) {
            let (_, stable) = home.cluster.low_and_stable(&self.table.changelog, shard.partition)?;
            if stable < shard.target {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn open(&self, home: &Home) -> Result<BaseConsumer> {
        let settings = [("group.id", "oncelog-restore"), ("enable.partition.eof", "true")];
        let reader = cluster::consumer(home.cluster.config(), &settings)?;
        let open = self.shards.iter().filter(|shard| !shard.done);
        let places = list(open.map(|shard| (self.table.changelog.as_str(), shard.partition, shard.next)));
        reader.assign(&places).map_err(|error| self.error(error))?;
        Ok(reader)
    }

    /// Reads what is there into one local commit.
    fn read(&mut self, home: &Home, deadline: Instant) -> Result<()> {
        let Some(reader) = self.reader.take() else { return Ok(()) };
        let mut tx = home.local.begin()?;
        let read = self.fill(&reader, &mut *tx, deadline);
        self.reader = Some(reader);
        read?;
        self.commit(home, tx)
    }

    fn fill(&mut self, reader: &BaseConsumer, tx: &mut dyn EngineTx, deadline: Instant) -> Result<()> {
        let mut rows = 0;
        while rows < COMMIT_ROWS && tx.bytes() < COMMIT_BYTES && self.shards.iter().any(|shard| !shard.done) {
            match reader.poll(deadline.saturating_duration_since(Instant::now())) {
                Some(Ok(message)) => {
                    let partition = partition_from(message.partition());
                    let offset = offset_from(message.offset());
                    // What is behind the target belongs to nobody but a zombie that will be told so, or to us later.
                    if let Some(key) = message.key() {
                        let value = message.payload().map(Bytes::copy_from_slice);
                        tx.put(self.table.id, ShardId(partition.0), key, value)?;
                    }
                    rows += 1;
                    self.advance(partition, offset.plus(1));
                }
                // Everything before the target was decided when the reader began, so this is behind it.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    let partition = partition_from(partition);
                    let target = self.shards.iter().find(|shard| shard.partition == partition).map(|s| s.target);
                    self.advance(partition, target.unwrap_or(LogOffset(0)));
                }
                Some(Err(error)) if failure::is_passing(&error) => {}
                Some(Err(error)) => return Err(self.error(error)),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn advance(&mut self, partition: PartitionId, next: LogOffset) {
        if let Some(shard) = self.shards.iter_mut().find(|shard| shard.partition == partition) {
            shard.next = shard.next.max(next);
            shard.moved = true;
            shard.done = shard.next >= shard.target;
        }
    }

    fn commit(&mut self, home: &Home, mut tx: Box<dyn EngineTx>) -> Result<()> {
        for shard in self.shards.iter_mut().filter(|shard| shard.moved) {
            home.checkpoints.put(&mut *tx, &self.table.changelog, shard.partition, shard.next)?;
            shard.moved = false;
        }
        tx.submit()?.wait().map(drop)
    }

    fn error(&self, cause: KafkaError) -> Error {
        failure::error(format_args!("read changelog {:?}", self.table.changelog), cause)
    }
}

/// Whether a shard that was at `known` can be brought to the end of a changelog that holds `low..target`.
fn can_go_on(known: &Checkpoint, low: LogOffset, target: LogOffset, now_ms: i64) -> bool {
    let in_range = low <= known.next && known.next <= target;
    // A checkpoint of the future was written by a clock that was wrong.
    let age_ms = now_ms.saturating_sub(known.at_ms);
    in_range && (0..=AGE_MAX_MS).contains(&age_ms)
}

/// Takes all rows out of a shard.
fn empty(home: &Home, table: &KeptTable, partition: PartitionId) -> Result<()> {
    loop {
        let mut tx = home.local.begin()?;
        home.checkpoints.forget(&mut *tx, &table.changelog, partition)?;
        let shard = ShardId(partition.0);
        let rows = tx.scan(table.id, shard, ScanRange { limit: COMMIT_ROWS, ..ScanRange::ALL })?;
        for (key, _) in &rows {
            tx.put(table.id, shard, key, None)?;
        }
        let _ = tx.submit()?.wait()?;
        if rows.len() < COMMIT_ROWS {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_may_have_missed_something_is_not_gone_on_from() {
        let known = |next, at_ms| Checkpoint { next: LogOffset(next), at_ms };
        let (low, target, now) = (LogOffset(10), LogOffset(20), 100 * AGE_MAX_MS);
        assert!(can_go_on(&known(10, now), low, target, now));
        assert!(can_go_on(&known(20, now - AGE_MAX_MS), low, target, now));
        assert!(!can_go_on(&known(9, now), low, target, now), "the changelog begins behind it");
        assert!(!can_go_on(&known(21, now), low, target, now), "another changelog");
        assert!(!can_go_on(&known(15, now - AGE_MAX_MS - 1), low, target, now), "too old");
        assert!(!can_go_on(&known(15, now + 1), low, target, now), "from the future");
    }
}
