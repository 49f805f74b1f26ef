//! One state of all tables, for reading.

use std::borrow::Borrow;
use std::ops::RangeBounds;

use super::Core;
use super::coordinator::coordinated_producer;
use super::rows::RowsAt;
use crate::codec::{Codec, Pair, PairRow};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{Scan, TableDef};
use crate::ids::{LogOffset, Lsn, PartitionId, Sequence, TopicId};
use crate::record::RecordView;
use crate::table::Direction;
use crate::topic::{PartitionReader, Polled};
use crate::transaction::{Step, read_stamp, system};
use crate::view::Pin;
use crate::wake::Arc;

/// All tables and topics as of one durable LSN. Reads do not block writers.
pub struct Snapshot {
    core: Arc<Core>,
    pin: Pin,
}

impl Snapshot {
    pub(super) fn take(core: &Arc<Core>) -> Snapshot {
        Snapshot { core: Arc::clone(core), pin: core.pin_visible() }
    }

    /// The newest commit that it shows.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.pin.lsn()
    }

    /// The value of a row; `None` also where there is no such table.
    ///
    /// # Errors
    /// `Invalid`: the table has other codecs, or the bytes are none of this codec; `Corrupt`.
    pub fn get<K: Codec, V: Codec>(&self, table: TableDef<K, V>, key: &K::Value) -> Result<Option<V::Owned>> {
        self.rows().get(&table, key)
    }

    /// The rows whose keys lie in `range`, in the order of their encoded keys within each shard.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn scan<'k, K: Codec, V: Codec>(
        &self,
        table: TableDef<K, V>,
        range: impl RangeBounds<&'k K::Value>,
    ) -> Result<Vec<(K::Owned, V::Owned)>>
    where
        K::Value: 'k,
    {
        self.rows().run(&table, Scan::range::<K>(range)?)
    }

    /// The first `limit` rows of `range`, from its low or its high end, as [`Snapshot::scan`]. Looks at no more rows
    /// than it gives.
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn page<'k, K: Codec, V: Codec>(
        &self,
        table: TableDef<K, V>,
        range: impl RangeBounds<&'k K::Value>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(K::Owned, V::Owned)>>
    where
        K::Value: 'k,
    {
        self.rows().run(&table, Scan::range::<K>(range)?.page(direction, limit))
    }

    /// The rows whose encoded keys begin with the encoding of `prefix`, as [`Snapshot::scan`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn prefix<K: Codec, V: Codec>(
        &self,
        table: TableDef<K, V>,
        prefix: &K::Value,
    ) -> Result<Vec<(K::Owned, V::Owned)>> {
        self.rows().run(&table, Scan::prefix::<K>(prefix)?)
    }

    /// The rows whose keys have this first part, in the order of the second, as [`Snapshot::scan`].
    ///
    /// # Errors
    /// As [`Snapshot::get`].
    pub fn group<A: Codec, B: Codec, V: Codec>(
        &self,
        table: TableDef<Pair<A, B>, V>,
        first: &A::Value,
    ) -> Result<Vec<PairRow<A, B, V>>>
    where
        A::Owned: Borrow<A::Value>,
        B::Owned: Borrow<B::Value>,
    {
        self.rows().run(&table, Scan::group::<A>(first)?)
    }

    fn rows(&self) -> RowsAt<'_> {
        RowsAt { tables: &self.core.tables, lsn: self.pin.lsn() }
    }

    /// The offset behind the last record of a partition that it shows.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`: no such topic or partition.
    pub fn end_offset(&self, topic: &str, partition: PartitionId) -> Result<LogOffset> {
        Ok(self.core.topic(topic)?.partition(partition)?.end_at(self.pin.lsn()))
    }

    /// The next sequence of a producer: all before it are done. `topic` is that of an
    /// [`IdempotentProducer`](crate::IdempotentProducer), or `None` for [`Tx::stamp`](crate::Tx::stamp). `None` where
    /// the store has never heard of that producer.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Corrupt`.
    pub fn next_sequence(
        &self,
        producer: &str,
        topic: Option<&str>,
        partition: PartitionId,
    ) -> Result<Option<Sequence>> {
        let id = match topic {
            Some(name) => self.core.topic(name)?.id,
            None => TopicId::STAMPED,
        };
        self.next_of(producer, id, partition)
    }

    /// As [`Snapshot::next_sequence`], of a producer whose messages a [`Coordinator`](crate::Coordinator) takes in,
    /// over the backend of that name.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn next_coordinated(&self, backend: &str, producer: &str, partition: PartitionId) -> Result<Option<Sequence>> {
        self.next_of(&coordinated_producer(backend, producer), TopicId::COORDINATED, partition)
    }

    fn next_of(&self, producer: &str, topic: TopicId, partition: PartitionId) -> Result<Option<Sequence>> {
        let key = system::stamp_key(producer, topic, partition);
        Ok(read_stamp(&self.core.tables, &key, self.pin.lsn())?.map(|state| state.next))
    }

    /// Hands the records of a partition that it shows to `visit`, from `from` on, until it says otherwise. Gives the
    /// next offset to read. Nothing is remembered of it: this is for looking, a consumer is for processing.
    ///
    /// # Errors
    /// `Gap`: records from there on are gone, [`Error::gap`] says which; `Corrupt`; whatever `visit` fails with.
    pub fn read(
        &self,
        topic: &str,
        partition: PartitionId,
        from: LogOffset,
        mut visit: impl FnMut(RecordView<'_>) -> Result<Step>,
    ) -> Result<LogOffset> {
        let found = Arc::clone(self.core.topic(topic)?.partition(partition)?);
        let limit = found.end_at(self.pin.lsn());
        let mut reader = PartitionReader::new(found, from);
        let mut next = from;
        loop {
            let batch = match reader.poll(limit)? {
                Polled::Batch => reader.current()?,
                Polled::Gap(lost) => return Err(Error::lost(topic, partition.0, lost)),
                Polled::End => return Ok(next),
            };
            let behind = batch.next_offset();
            for record in batch.records() {
                let record = record.map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
                if record.offset < next {
                    continue;
                }
                let step = visit(record)?;
                if step == Step::Stay {
                    return Ok(record.offset);
                }
                next = record.offset.plus(1);
                if step == Step::NextAndReturn {
                    return Ok(next);
                }
            }
            next = behind;
        }
    }
}
