//! One state of all tables, for reading.

use std::ops::{Bound, RangeBounds};

use super::Core;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{TableDef, decode_row, encode, shard_of};
use crate::ids::{LogOffset, Lsn, PartitionId, Sequence, ShardId, TableId, TopicId};
use crate::record::RecordView;
use crate::table::ScanRange;
use crate::topic::{PartitionReader, Polled};
use crate::transaction::{Step, read_stamp, system};
use crate::view::Pin;
use crate::wake::Arc;

/// All tables and topics as of one durable LSN. Reads do not block writers.
pub struct Snapshot {
    core: Arc<Core>,
    pin: Pin,
}

/// Rows read at once in a scan.
const SCAN_ROWS: usize = 256;

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
        let Some((id, shards)) = self.find(&table)? else { return Ok(None) };
        let key = encode::<K>(key)?;
        let rows = self.core.tables.shard(id, shard_of(&key, shards));
        match rows.get(&key, self.pin.lsn())? {
            Some(value) => Ok(Some(decode_row::<K, V>(&key, &value)?.1)),
            None => Ok(None),
        }
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
        let Some((id, shards)) = self.find(&table)? else { return Ok(Vec::new()) };
        let bound = |bound: Bound<&&K::Value>| match bound {
            Bound::Included(key) => encode::<K>(key).map(Bound::Included),
            Bound::Excluded(key) => encode::<K>(key).map(Bound::Excluded),
            Bound::Unbounded => Ok(Bound::Unbounded),
        };
        let (start, end) = (bound(range.start_bound())?, bound(range.end_bound())?);
        let mut found = Vec::new();
        for shard in 0..shards {
            let rows = self.core.tables.shard(id, ShardId(shard));
            let mut from = start.clone();
            loop {
                let (start, end) = (from.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
                let range = ScanRange { limit: SCAN_ROWS, ..ScanRange::between(start, end) };
                let page = rows.scan(range, self.pin.lsn())?;
                for (key, value) in &page {
                    found.push(decode_row::<K, V>(key, value)?);
                }
                match page.into_iter().nth(SCAN_ROWS - 1) {
                    Some((last, _)) => from = Bound::Excluded(last),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    /// The offset behind the last record of a partition that it shows.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`: no such topic or partition.
    pub fn end_offset(&self, topic: &str, partition: PartitionId) -> Result<LogOffset> {
        Ok(self.core.topic(topic)?.partition(partition)?.end_at(self.pin.lsn()))
    }

    /// The next sequence of a producer: all before it are done. `topic` is that of an
    /// [`IdempotentProducer`](crate::IdempotentProducer), or `None` for stamps on transactions. `None` where the store
    /// has never heard of that producer.
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
            None => TopicId(0),
        };
        let key = system::stamp_key(producer, id, partition);
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

    fn find<K: Codec, V: Codec>(&self, table: &TableDef<K, V>) -> Result<Option<(TableId, u32)>> {
        match self.core.find_table(table.name())? {
            Some((id, found)) => {
                found.admit(&table.spec(found.shards))?;
                Ok(Some((id, found.shards)))
            }
            None => Ok(None),
        }
    }
}
