//! A transaction of a processor: what it sends, and what it does to tables, staged until its commit.
//!
//! Tables are read and written in a transaction of the local store, which is kept open for that; it happens once the
//! commit of the cluster is known. Everything else is kept in memory, so that a record's effects can be taken back.

use std::collections::HashSet;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use oncelog::{
    Committed, EngineTx, Error, ErrorKind, LogOffset, NewRecord, NewStamp, PartitionId, PendingCommit, Result,
    ScanRange, ShardId, Stamped, TableId, TimerId, TopicId, TxMark, partition_of,
};
use rdkafka::message::{Header, OwnedHeaders};

use crate::engine::Shared;

/// A record to be sent.
pub(crate) struct Append {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: PartitionId,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Option<OwnedHeaders>,
    pub(crate) timestamp_ms: i64,
}

/// A row that was changed.
pub(crate) struct Change {
    pub(crate) table: TableId,
    pub(crate) shard: ShardId,
    pub(crate) key: Bytes,
    pub(crate) value: Option<Bytes>,
}

/// Everything of a transaction, when it is to be committed.
pub(crate) struct Staged {
    pub(crate) appends: Vec<Append>,
    pub(crate) changes: Vec<Change>,
    pub(crate) progress: Vec<(TopicId, PartitionId, LogOffset)>,
    /// Tables that were read or written.
    pub(crate) tables: Vec<TableId>,
    pub(crate) local: Box<dyn EngineTx>,
}

/// See the module.
pub(crate) struct KafkaTx {
    engine: Arc<Shared>,
    consumer: String,
    staged: Staged,
    bytes: usize,
    now_ms: i64,
    mark: Option<Mark>,
    marks: usize,
}

/// Where the record at hand began.
struct Mark {
    number: usize,
    local: TxMark,
    appends: usize,
    changes: usize,
    tables: usize,
    bytes: usize,
}

/// What a record takes besides its bytes, roughly.
const RECORD_OVERHEAD: usize = 32;

impl KafkaTx {
    pub(crate) fn begin(engine: &Arc<Shared>) -> Result<KafkaTx> {
        let local = engine.home.local.begin()?;
        let staged =
            Staged { appends: Vec::new(), changes: Vec::new(), progress: Vec::new(), tables: Vec::new(), local };
        let now_ms = engine.home.local.now_ms();
        let engine = Arc::clone(engine);
        Ok(KafkaTx { engine, consumer: String::new(), staged, bytes: 0, now_ms, mark: None, marks: 0 })
    }
}

impl EngineTx for KafkaTx {
    fn append(&mut self, topic: TopicId, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<PartitionId> {
        let topic = self.engine.topic(topic)?;
        let partition = match (partition, record.route.or(record.key)) {
            (Some(partition), _) if partition.0 >= topic.partitions => {
                let (name, count) = (&topic.name, topic.partitions);
                return Err(invalid(format!("topic {name:?} has {count} partitions, there is no {partition}")));
            }
            (Some(partition), _) => partition,
            (None, Some(route)) => partition_of(route, topic.partitions),
            (None, None) => topic.next_in_turn(),
        };
        let copied = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        let headers = |headers: OwnedHeaders, header: &oncelog::Header<'_>| {
            headers.insert(Header { key: header.name, value: header.value })
        };
        let headers = (!record.headers.is_empty())
            .then(|| record.headers.iter().fold(OwnedHeaders::new_with_capacity(record.headers.len()), headers));
        self.bytes += copied + RECORD_OVERHEAD;
        self.staged.appends.push(Append {
            topic: Arc::clone(&topic.name),
            partition,
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers,
            timestamp_ms: record.timestamp_ms.unwrap_or(self.now_ms),
        });
        Ok(partition)
    }

    fn get(&mut self, table: TableId, shard: ShardId, key: &[u8]) -> Result<Option<Bytes>> {
        self.staged.touch(table);
        self.staged.local.get(table, shard, key)
    }

    fn scan(&mut self, table: TableId, shard: ShardId, range: ScanRange<'_>) -> Result<Vec<(Vec<u8>, Bytes)>> {
        self.staged.touch(table);
        self.staged.local.scan(table, shard, range)
    }

    fn put(&mut self, table: TableId, shard: ShardId, key: &[u8], value: Option<Bytes>) -> Result<()> {
        self.staged.touch(table);
        self.staged.local.put(table, shard, key, value.clone())?;
        self.staged.changes.push(Change { table, shard, key: Bytes::copy_from_slice(key), value });
        Ok(())
    }

    fn progress(&mut self, consumer: &str, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        if self.consumer != consumer {
            if !self.consumer.is_empty() {
                return Err(invalid("a transaction on Kafka makes the progress of one processor".to_owned()));
            }
            consumer.clone_into(&mut self.consumer);
        }
        self.staged.progress.push((topic, partition, next));
        Ok(())
    }

    fn delay(
        &mut self,
        _topic: TopicId,
        _partition: Option<PartitionId>,
        _due_ms: i64,
        _record: NewRecord<'_>,
    ) -> Result<TimerId> {
        Err(not_there("delayed records"))
    }

    fn cancel(&mut self, _timer: TimerId) -> Result<bool> {
        Err(not_there("delayed records"))
    }

    /// Batches are the client library's business.
    fn batch_bytes(&mut self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn expect_offset(&mut self, _topic: TopicId, _partition: PartitionId, _next: LogOffset) -> Result<()> {
        Err(not_there("expected offsets"))
    }

    fn stamp(&mut self, _stamp: &NewStamp<'_>) -> Result<Stamped> {
        Err(not_there("stamps"))
    }

    fn mark(&mut self) -> TxMark {
        self.marks += 1;
        let Staged { appends, changes, tables, local, .. } = &mut self.staged;
        self.mark = Some(Mark {
            number: self.marks,
            local: local.mark(),
            appends: appends.len(),
            changes: changes.len(),
            tables: tables.len(),
            bytes: self.bytes,
        });
        TxMark::new(self.marks, 0)
    }

    fn rollback(&mut self, mark: TxMark) {
        // One that is void is not this one, and is not rolled back to.
        let Some(at) = self.mark.as_ref().filter(|at| at.number == mark.positions().0) else { return };
        self.staged.local.rollback(at.local);
        self.staged.appends.truncate(at.appends);
        self.staged.changes.truncate(at.changes);
        self.staged.tables.truncate(at.tables);
        self.bytes = at.bytes;
    }

    fn bytes(&self) -> usize {
        self.bytes + self.staged.local.bytes()
    }

    /// The whole commit: on return it has happened, or it has not.
    fn submit(self: Box<Self>) -> Result<Box<dyn PendingCommit>> {
        let KafkaTx { engine, consumer, staged, .. } = *self;
        let Some((topic, partition, _)) = staged.progress.first() else {
            return Err(not_there("transactions beside a processor"));
        };
        let member = engine.member(&consumer, *topic, *partition)?;
        member.commit(staged)?;
        Ok(Box::new(Done))
    }
}

impl Staged {
    fn touch(&mut self, table: TableId) {
        if !self.tables.contains(&table) {
            self.tables.push(table);
        }
    }

    /// The last change of each row: what the changelog needs to know.
    pub(crate) fn last_changes(&self) -> Vec<&Change> {
        let mut seen = HashSet::new();
        let is_last = |change: &&Change| seen.insert((change.table, change.shard, change.key.clone()));
        let mut last: Vec<&Change> = self.changes.iter().rev().filter(is_last).collect();
        last.reverse();
        last
    }
}

/// A commit that was waited for. Other producers write between the records of one transaction, so their offsets do not
/// follow each other, and none are given.
struct Done;

impl PendingCommit for Done {
    fn is_done(&self) -> bool {
        true
    }

    fn hand_over(&self) {}

    fn wake_when_done(&self, _waker: &Waker) -> bool {
        false
    }

    fn wait(self: Box<Self>) -> Result<Committed> {
        Ok(Committed::default())
    }
}

pub(crate) fn invalid(what: String) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

/// What the embedded engine has and this one has not.
pub(crate) fn not_there(what: &str) -> Error {
    invalid(format!("there are no {what} on Kafka"))
}
