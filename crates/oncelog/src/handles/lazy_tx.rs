//! A transaction that begins with the first thing that is asked of it: for loops in which most records stage nothing.
//!
//! Invariant: there is a mark for the record at hand exactly if it has touched the transaction, so taking its effects
//! back costs nothing where there are none, and neither does going on to the next.

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId, ShardId, TableId, TimerId, TopicId};
use crate::table::ScanRange;
use crate::transaction::{Engine, EngineTx, NewRecord, NewStamp, PendingCommit, Stamped, TxMark};
use crate::wake::Arc;

/// A transaction that many records share, begun when the first of them stages or reads something.
pub(super) struct LazyTx {
    engine: Arc<dyn Engine>,
    inner: Option<Box<dyn EngineTx>>,
    /// Where the record at hand began, if it has touched the transaction.
    mark: Option<TxMark>,
    /// Whether it had begun before the record that touched it last.
    shared: bool,
}

impl LazyTx {
    pub(super) fn new(engine: Arc<dyn Engine>) -> LazyTx {
        LazyTx { engine, inner: None, mark: None, shared: false }
    }

    /// What comes next belongs to another record.
    #[inline]
    pub(super) fn next_record(&mut self) {
        self.mark = None;
    }

    /// Whether the record at hand has staged or read something.
    #[inline]
    pub(super) fn is_touched(&self) -> bool {
        self.mark.is_some()
    }

    /// Whether a record before the one that touched it last has.
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether any record has.
    pub(super) fn has_begun(&self) -> bool {
        self.inner.is_some()
    }

    /// Takes back what the record at hand has staged.
    pub(super) fn take_back(&mut self) {
        if let (Some(inner), Some(mark)) = (&mut self.inner, self.mark.take()) {
            inner.rollback(mark);
        }
    }

    /// The transaction, if it has begun; the next record begins another.
    pub(super) fn take(&mut self) -> Option<Box<dyn EngineTx>> {
        (self.mark, self.shared) = (None, false);
        self.inner.take()
    }

    fn touch(&mut self) -> Result<&mut dyn EngineTx> {
        let shared = self.inner.is_some();
        if !shared {
            self.inner = Some(self.engine.begin()?);
        }
        let Some(inner) = self.inner.as_deref_mut() else { return Err(Error::closed()) };
        if self.mark.is_none() {
            self.mark = Some(inner.mark());
            self.shared = shared;
        }
        Ok(inner)
    }
}

impl EngineTx for LazyTx {
    fn append(&mut self, topic: TopicId, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<PartitionId> {
        self.touch()?.append(topic, partition, record)
    }

    fn get(&mut self, table: TableId, shard: ShardId, key: &[u8]) -> Result<Option<Bytes>> {
        self.touch()?.get(table, shard, key)
    }

    fn scan(&mut self, table: TableId, shard: ShardId, range: ScanRange<'_>) -> Result<Vec<(Vec<u8>, Bytes)>> {
        self.touch()?.scan(table, shard, range)
    }

    fn put(&mut self, table: TableId, shard: ShardId, key: &[u8], value: Option<Bytes>) -> Result<()> {
        self.touch()?.put(table, shard, key, value)
    }

    fn progress(&mut self, consumer: &str, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        self.touch()?.progress(consumer, topic, partition, next)
    }

    fn delay(
        &mut self,
        topic: TopicId,
        partition: Option<PartitionId>,
        due_ms: i64,
        record: NewRecord<'_>,
    ) -> Result<TimerId> {
        self.touch()?.delay(topic, partition, due_ms, record)
    }

    fn cancel(&mut self, timer: TimerId) -> Result<bool> {
        self.touch()?.cancel(timer)
    }

    fn batch_bytes(&mut self, bytes: usize) -> Result<()> {
        self.touch()?.batch_bytes(bytes)
    }

    fn expect_offset(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()> {
        self.touch()?.expect_offset(topic, partition, next)
    }

    fn stamp(&mut self, stamp: &NewStamp<'_>) -> Result<Stamped> {
        self.touch()?.stamp(stamp)
    }

    fn mark(&mut self) -> TxMark {
        self.inner.as_deref_mut().map_or(TxMark::new(0, 0), EngineTx::mark)
    }

    fn rollback(&mut self, mark: TxMark) {
        if let Some(inner) = &mut self.inner {
            inner.rollback(mark);
        }
    }

    fn bytes(&self) -> usize {
        self.inner.as_deref().map_or(0, EngineTx::bytes)
    }

    fn submit(mut self: Box<Self>) -> Result<Box<dyn PendingCommit>> {
        match self.inner.take() {
            Some(inner) => inner.submit(),
            None => self.engine.begin()?.submit(),
        }
    }
}
