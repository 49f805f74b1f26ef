//! A transaction of the embedded store while it is being filled: nothing here is visible to anybody else.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::task::Waker;

use bytes::Bytes;

use super::commit::{Pending, Pipeline};
use super::engine::{Committed, EngineTx, NewRecord, NewStamp, PendingCommit, Stamped, TxMark};
use super::spares::SMALL_BYTES;
use super::stamps::StagedStamp;
use super::system;
use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId, ShardId, TableId, TimerId, TopicId};
use crate::journal::Durability;
use crate::record::{BatchBuilder, Draft, Mark, partition_of};
use crate::table::{Direction, ScanRange};
use crate::topic::{Partition, Topic};
use crate::view::Pin;
use crate::wake::Arc;

/// A row that was read or is to be written.
pub(super) type RowKey = (TableId, ShardId, Vec<u8>);

/// A range of rows that was read.
pub(super) type RangeKey = (TableId, ShardId, Bound<Vec<u8>>, Bound<Vec<u8>>);

/// What must not have changed when the transaction gets its place.
#[derive(Default)]
pub(super) struct ReadSet {
    pub(super) keys: Vec<RowKey>,
    pub(super) ranges: Vec<RangeKey>,
}

/// Records for one partition, in batches that are not too large to be read as one.
pub(super) struct StagedPartition {
    /// The partition's next offset must be this one.
    pub(super) expected: Option<LogOffset>,
    pub(super) partition: Arc<Partition>,
    pub(super) batches: Vec<BatchBuilder>,
}

impl StagedPartition {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.iter().all(BatchBuilder::is_empty)
    }
}

/// A transaction that is being filled.
pub(crate) struct StoreTx {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) durability: Durability,
    /// What it reads is as of this LSN; taken with the first read.
    pub(super) pin: Option<Pin>,
    pub(super) reads: ReadSet,
    pub(super) writes: BTreeMap<RowKey, Option<Bytes>>,
    pub(super) appends: Vec<StagedPartition>,
    /// In the order in which they were staged: that of their sequences.
    pub(super) stamps: Vec<StagedStamp>,
    appends_index: BTreeMap<(TopicId, PartitionId), usize>,
    last_append: usize,
    undo_writes: Vec<Undo>,
    undo_appends: Vec<UndoAppend>,
    pub(super) marking: bool,
    bytes: usize,
    timestamp_ms: Option<i64>,
    topic: Option<Arc<Topic>>,
    batch_bytes: usize,
    spread: Option<u32>,
    /// What is staged was admitted before, whatever the limits are now.
    admitted: bool,
}

/// What takes back one change other than an append.
enum Undo {
    Row(RowKey, Option<Option<Bytes>>),
    Stamp,
    /// What was expected of this staged partition before.
    Expect(usize, Option<LogOffset>),
}

struct UndoAppend {
    staged: usize,
    batches: usize,
    mark: Option<Mark>,
    bytes: usize,
}

/// What a row costs in a frame beyond its key and value.
const ROW_BYTES: usize = 24;

impl StoreTx {
    pub(crate) fn new(pipeline: Arc<Pipeline>, durability: Durability) -> StoreTx {
        StoreTx {
            batch_bytes: pipeline.limits.batch_bytes,
            pipeline,
            durability,
            pin: None,
            reads: ReadSet::default(),
            writes: BTreeMap::new(),
            appends: Vec::new(),
            stamps: Vec::new(),
            appends_index: BTreeMap::new(),
            last_append: usize::MAX,
            undo_writes: Vec::new(),
            undo_appends: Vec::new(),
            marking: false,
            bytes: 0,
            timestamp_ms: None,
            topic: None,
            spread: None,
            admitted: false,
        }
    }

    /// Whether anything would be written.
    pub(super) fn is_read_only(&self) -> bool {
        self.writes.is_empty()
            && self.stamps.is_empty()
            && self.appends.iter().all(|staged| staged.expected.is_none() && staged.is_empty())
    }

    fn pin(&mut self) -> &Pin {
        let pipeline = &self.pipeline;
        self.pin.get_or_insert_with(|| pipeline.view.pin(|| pipeline.journal.head()))
    }

    /// What is staged from now on was within the limits of sizes before, whatever they are now.
    pub(crate) fn admit(&mut self) {
        self.admitted = true;
    }

    pub(super) fn grow(&mut self, more: usize) -> Result<()> {
        let max = self.pipeline.limits.transaction_bytes_max;
        if self.bytes + more > max && !self.admitted {
            return Err(Error::invalid(format!(
                "the transaction is over the limit of {max} bytes (max_transaction_bytes)"
            )));
        }
        self.bytes += more;
        Ok(())
    }

    fn write(&mut self, key: RowKey, value: Option<Bytes>) -> Result<()> {
        self.grow(row_bytes(&key, &value))?;
        if let Some(row) = self.writes.get_mut(&key) {
            self.bytes -= row_bytes(&key, row);
            let before = std::mem::replace(row, value);
            if self.marking {
                self.undo_writes.push(Undo::Row(key, Some(before)));
            }
            return Ok(());
        }
        if self.marking {
            self.undo_writes.push(Undo::Row(key.clone(), None));
        }
        self.writes.insert(key, value);
        Ok(())
    }

    pub(super) fn stage_stamp(&mut self, stamp: StagedStamp) -> Result<()> {
        self.grow(stamp.bytes())?;
        self.stamps.push(stamp);
        if self.marking {
            self.undo_writes.push(Undo::Stamp);
        }
        Ok(())
    }

    fn topic(&mut self, id: TopicId) -> Result<Arc<Topic>> {
        match &self.topic {
            Some(topic) if topic.id == id => Ok(Arc::clone(topic)),
            _ => {
                let topic = self.pipeline.topics.get(id)?;
                Ok(Arc::clone(self.topic.insert(topic)))
            }
        }
    }

    fn choose_partition(&mut self, topic: &Topic, key: Option<&[u8]>) -> PartitionId {
        let partitions = topic.spec.partitions;
        match key {
            _ if partitions == 1 => PartitionId(0),
            Some(key) => partition_of(key, partitions),
            // Records without a key stay together within a transaction, and spread over partitions between them.
            None => PartitionId(*self.spread.get_or_insert_with(|| self.pipeline.next_spread()) % partitions),
        }
    }

    /// The partition that a record goes to, if its topic takes it, and the topic's name.
    pub(super) fn place_of(
        &mut self,
        topic: TopicId,
        partition: Option<PartitionId>,
        record: &NewRecord<'_>,
    ) -> Result<(PartitionId, String)> {
        let topic = self.topic(topic)?;
        topic.check_key(record.key)?;
        let partition = partition.unwrap_or_else(|| self.choose_partition(&topic, record.route.or(record.key)));
        topic.partition(partition)?;
        Ok((partition, topic.spec.name.clone()))
    }

    fn staged(&mut self, topic: &Topic, partition: PartitionId) -> Result<usize> {
        if let Some(last) = self.appends.get(self.last_append)
            && (last.partition.topic, last.partition.id) == (topic.id, partition)
        {
            return Ok(self.last_append);
        }
        let at = match self.appends_index.get(&(topic.id, partition)) {
            Some(at) => *at,
            None => {
                let partition = Arc::clone(topic.partition(partition)?);
                self.appends_index.insert((partition.topic, partition.id), self.appends.len());
                self.appends.push(StagedPartition { partition, expected: None, batches: vec![BatchBuilder::new()] });
                self.appends.len() - 1
            }
        };
        self.last_append = at;
        Ok(at)
    }
}

impl EngineTx for StoreTx {
    fn append(&mut self, topic: TopicId, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<PartitionId> {
        // Taken out and put back: counting its users up and down costs more than much of the rest.
        let topic = match self.topic.take() {
            Some(last) if last.id == topic => last,
            _ => self.pipeline.topics.get(topic)?,
        };
        if !self.admitted {
            topic.check_key(record.key)?;
        }
        let timestamp_ms = match record.timestamp_ms {
            Some(given) => given,
            None => *self.timestamp_ms.get_or_insert_with(|| self.pipeline.clock.now_ms()),
        };
        let draft = Draft { key: record.key, value: record.value, headers: record.headers, timestamp_ms };
        let bytes = BatchBuilder::encoded_len(&draft);
        let max = self.pipeline.limits.record_bytes_max;
        if bytes > max && !self.admitted {
            let name = &topic.spec.name;
            return Err(Error::invalid(format!(
                "a record of {bytes} bytes for topic {name:?} is over the limit of {max} bytes (max_record_bytes)"
            )));
        }
        let partition = partition.unwrap_or_else(|| self.choose_partition(&topic, record.route.or(record.key)));
        let at = self.staged(&topic, partition)?;
        self.grow(bytes)?;
        let batch_bytes = self.batch_bytes;
        let batches = &mut self.appends[at].batches;
        if self.marking {
            let mark = batches.last().map(BatchBuilder::mark);
            self.undo_appends.push(UndoAppend { staged: at, batches: batches.len(), mark, bytes });
        }
        let full = batches.last().is_none_or(|batch| !batch.is_empty() && batch.len_bytes() + bytes > batch_bytes);
        if full {
            batches.push(BatchBuilder::new());
        }
        if let Some(batch) = batches.last_mut() {
            if batch.outgrows(SMALL_BYTES, bytes) {
                batch.continue_in(self.pipeline.spares.take());
            }
            batch.push(&draft);
        }
        self.topic = Some(topic);
        Ok(partition)
    }

    fn get(&mut self, table: TableId, shard: ShardId, key: &[u8]) -> Result<Option<Bytes>> {
        let row = (table, shard, key.to_vec());
        if let Some(own) = self.writes.get(&row) {
            return Ok(own.clone());
        }
        let lsn = self.pin().lsn();
        let value = self.pipeline.tables.shard(table, shard).get(key, lsn)?;
        self.reads.keys.push(row);
        Ok(value)
    }

    fn scan(&mut self, table: TableId, shard: ShardId, range: ScanRange<'_>) -> Result<Vec<(Vec<u8>, Bytes)>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let lsn = self.pin().lsn();
        let within = |bound: Bound<&[u8]>| bound.map(|key| (table, shard, key.to_vec()));
        let start = match range.start {
            Bound::Unbounded => Bound::Included((table, shard, Vec::new())),
            start => within(start),
        };
        let own = self.writes.range((start, Bound::Unbounded));
        let own = own.take_while(|((t, s, key), _)| (*t, *s) == (table, shard) && is_up_to(key, range.end));
        let own: BTreeMap<&[u8], &Option<Bytes>> = own.map(|((_, _, key), value)| (&key[..], value)).collect();
        // Own deletions can hide as many rows.
        let hidden = own.values().filter(|value| value.is_none()).count();
        let wanted = ScanRange { limit: range.limit.saturating_add(hidden), ..range };
        let kept = self.pipeline.tables.shard(table, shard).scan(wanted, lsn)?;
        let size = || kept.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let cut = kept.len() == wanted.limit || (wanted.bytes < usize::MAX && size() >= wanted.bytes);
        let last_kept = if cut { kept.last().map(|(key, _)| key.clone()) } else { None };
        let mut merged: BTreeMap<Vec<u8>, Option<Bytes>> =
            kept.into_iter().map(|(key, value)| (key, Some(value))).collect();
        for (key, value) in own {
            // Between it and the last one that was found there may be more.
            let beyond = last_kept.as_deref().is_some_and(|last| match range.direction {
                Direction::Up => key > last,
                Direction::Down => key < last,
            });
            if !beyond {
                merged.insert(key.to_vec(), value.clone());
            }
        }
        let there = merged.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let found: Vec<_> = match range.direction {
            Direction::Up => there.take(range.limit).collect(),
            Direction::Down => there.rev().take(range.limit).collect(),
        };
        self.reads.ranges.push(read_range(table, shard, range, &found));
        Ok(found)
    }

    fn put(&mut self, table: TableId, shard: ShardId, key: &[u8], value: Option<Bytes>) -> Result<()> {
        let max = self.pipeline.limits.record_bytes_max;
        let bytes = key.len() + value.as_ref().map_or(0, Bytes::len);
        if bytes > max {
            return Err(Error::invalid(format!(
                "a row of {bytes} bytes is over the limit of {max} bytes (max_record_bytes)"
            )));
        }
        self.write((table, shard, key.to_vec()), value)
    }

    fn progress(&mut self, consumer: &str, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        let key = system::progress_key(consumer, topic, partition);
        if let Some(committed) = self.get(system::PROGRESS, system::SHARD, &key)? {
            let committed: LogOffset = system::decode_row(&committed)?;
            if next < committed {
                let what = format!("consumer {consumer:?}: offset {next} is lower than the committed {committed}");
                return Err(Error::invalid(what));
            }
        }
        let value = Bytes::from(system::encode_row(&next)?);
        self.write((system::PROGRESS, system::SHARD, key), Some(value))
    }

    fn delay(
        &mut self,
        topic: TopicId,
        partition: Option<PartitionId>,
        due_ms: i64,
        record: NewRecord<'_>,
    ) -> Result<TimerId> {
        self.stage_delayed(topic, partition, due_ms, record)
    }

    fn cancel(&mut self, timer: TimerId) -> Result<bool> {
        self.stage_cancel(timer)
    }

    fn batch_bytes(&mut self, bytes: usize) -> Result<()> {
        self.batch_bytes = bytes;
        Ok(())
    }

    fn expect_offset(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        let topic = self.topic(topic)?;
        let at = self.staged(&topic, partition)?;
        let before = self.appends[at].expected.replace(next);
        if self.marking {
            self.undo_writes.push(Undo::Expect(at, before));
        }
        Ok(())
    }

    fn stamp(&mut self, stamp: &NewStamp<'_>) -> Result<Stamped> {
        StoreTx::stamp(self, stamp)
    }

    fn mark(&mut self) -> TxMark {
        self.marking = true;
        self.undo_writes.clear();
        self.undo_appends.clear();
        TxMark::new(0, 0)
    }

    fn rollback(&mut self, mark: TxMark) {
        while self.undo_writes.len() > mark.undo {
            let Some(undo) = self.undo_writes.pop() else { break };
            let (key, before) = match undo {
                Undo::Row(key, before) => (key, before),
                Undo::Stamp => {
                    self.bytes -= self.stamps.pop().map_or(0, |stamp| stamp.bytes());
                    continue;
                }
                Undo::Expect(staged, before) => {
                    self.appends[staged].expected = before;
                    continue;
                }
            };
            if let Some(undone) = self.writes.remove(&key) {
                self.bytes -= row_bytes(&key, &undone);
            }
            if let Some(value) = before {
                self.bytes += row_bytes(&key, &value);
                self.writes.insert(key, value);
            }
        }
        while self.undo_appends.len() > mark.appends {
            let Some(undo) = self.undo_appends.pop() else { break };
            let batches = &mut self.appends[undo.staged].batches;
            batches.truncate(undo.batches);
            if let (Some(batch), Some(mark)) = (batches.last_mut(), undo.mark) {
                batch.rollback(mark);
            }
            self.bytes -= undo.bytes;
        }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn submit(self: Box<Self>) -> Result<Box<dyn PendingCommit>> {
        let pipeline = Arc::clone(&self.pipeline);
        Ok(Box::new(pipeline.submit(*self)?))
    }
}

impl PendingCommit for Pending {
    fn is_done(&self) -> bool {
        Pending::is_done(self)
    }

    fn hand_over(&self) {
        Pending::hand_over(self);
    }

    fn wake_when_done(&self, waker: &Waker) -> bool {
        Pending::wake_when_done(self, waker)
    }

    fn wait(self: Box<Self>) -> Result<Committed> {
        Pending::wait(*self)
    }
}

fn row_bytes(key: &RowKey, value: &Option<Bytes>) -> usize {
    key.2.len() + value.as_ref().map_or(0, Bytes::len) + ROW_BYTES
}

fn is_up_to(key: &[u8], end: Bound<&[u8]>) -> bool {
    std::ops::RangeBounds::<[u8]>::contains(&(Bound::Unbounded, end), key)
}

/// What of a range a scan depends on: where it stopped at its limit, not what lies behind the last row.
fn read_range(table: TableId, shard: ShardId, range: ScanRange<'_>, found: &[(Vec<u8>, Bytes)]) -> RangeKey {
    let last = found.get(range.limit - 1).map(|(key, _)| Bound::Included(key.clone()));
    let (start, end) = (range.start.map(<[u8]>::to_vec), range.end.map(<[u8]>::to_vec));
    match (last, range.direction) {
        (Some(last), Direction::Up) => (table, shard, start, last),
        (Some(last), Direction::Down) => (table, shard, last, end),
        (None, _) => (table, shard, start, end),
    }
}
