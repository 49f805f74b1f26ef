//! Rows in the user's types, as of one LSN, whoever shows them: the owner's snapshot or a reader beside it.

use std::ops::Bound;

use bytes::Bytes;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{Scan, TableDef, decode_row, encode, shard_of};
use crate::ids::{LogOffset, Lsn, PartitionId, ShardId, TableId, TopicId};
use crate::table::{Direction, ScanRange, TableSpec, Tables};
use crate::topic::{PartitionState, SegmentRow};
use crate::transaction::system::{self, CatalogueKey};

/// All tables of an owner as of an LSN, which must be pinned if anybody writes to them.
pub(super) struct RowsAt<'a> {
    pub(super) tables: &'a Tables,
    pub(super) lsn: Lsn,
}

/// Key and value, decoded.
type Row<K, V> = (<K as Codec>::Owned, <V as Codec>::Owned);

/// What the trim point says of a record.
#[derive(Default)]
pub(super) enum Whereabouts {
    /// It is in this segment.
    In(SegmentRow),
    /// It is lost, and so are those behind it up to `until`.
    Nowhere {
        /// The first that is not lost.
        until: LogOffset,
    },
    /// It came after the trim point. Nothing is lost there: what an owner loses it has lost before it serves, and a
    /// recovery ends with a trim point.
    #[default]
    Later,
}

impl RowsAt<'_> {
    /// The table of that name.
    pub(super) fn table(&self, name: &str) -> Result<Option<(TableId, TableSpec)>> {
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        let Some(id) = rows.get(&system::table_name_key(name), self.lsn)? else { return Ok(None) };
        let id: TableId = system::decode_row(&id)?;
        let missing = || Error::new(ErrorKind::Corrupt, format!("table {name:?}: the catalogue has no table {id}"));
        let row = rows.get(&CatalogueKey::Table(id).encode(), self.lsn)?.ok_or_else(missing)?;
        let spec: TableSpec = system::decode_row(&row)?;
        spec.check().map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
        Ok(Some((id, spec)))
    }

    /// The value of a row; `None` also where there is no such table.
    pub(super) fn get<K: Codec, V: Codec>(&self, table: &TableDef<K, V>, key: &K::Value) -> Result<Option<V::Owned>> {
        let Some((id, shards)) = self.find(table)? else { return Ok(None) };
        let key = encode::<K>(key)?;
        match self.tables.shard(id, shard_of::<K>(&key, shards)).get(&key, self.lsn)? {
            Some(value) => Ok(Some(decode_row::<K, V>(table.name(), &key, &value)?.1)),
            None => Ok(None),
        }
    }

    /// The rows of a scan; none where there is no such table.
    pub(super) fn run<K: Codec, V: Codec>(&self, table: &TableDef<K, V>, scan: Scan) -> Result<Vec<Row<K, V>>> {
        let Some((id, shards)) = self.find(table)? else { return Ok(Vec::new()) };
        let page = |shard: ShardId, range: ScanRange<'_>| -> Result<Vec<(Vec<u8>, Bytes)>> {
            self.tables.shard(id, shard).scan(range, self.lsn)
        };
        scan.run::<K, V>(table.name(), 0..shards, page)
    }

    /// What is known of the place of a record that is not found: see [`Whereabouts`].
    pub(super) fn whereabouts(&self, topic: TopicId, partition: PartitionId, record: LogOffset) -> Result<Whereabouts> {
        let key = system::partition_key(topic, partition);
        let state = self.tables.shard(system::PARTITIONS, system::SHARD).get(&key, self.lsn)?;
        let state: PartitionState = state.map_or(Ok(PartitionState::default()), |row| system::decode_row(&row))?;
        if record >= state.next_offset {
            return Ok(Whereabouts::Later);
        }
        let here = system::segment_key(topic, partition, record);
        let first = system::segment_key(topic, partition, LogOffset(0));
        let last = system::segment_key(topic, partition, LogOffset(u64::MAX));
        let one = |start: Bound<&[u8]>, end: Bound<&[u8]>, direction| -> Result<Option<SegmentRow>> {
            let range = ScanRange { start, end, direction, limit: 1, ..ScanRange::ALL };
            let rows = self.tables.shard(system::SEGMENTS, system::SHARD).scan(range, self.lsn)?;
            rows.first().map(|(_, row)| system::decode_row(row)).transpose()
        };
        let before = one(Bound::Included(&first), Bound::Included(&here), Direction::Down)?;
        if let Some(row) = before.filter(|row| record < row.end_offset) {
            return Ok(Whereabouts::In(row));
        }
        let after = one(Bound::Excluded(&here), Bound::Included(&last), Direction::Up)?;
        Ok(Whereabouts::Nowhere { until: after.map_or(state.next_offset, |row| row.base_offset) })
    }

    fn find<K: Codec, V: Codec>(&self, table: &TableDef<K, V>) -> Result<Option<(TableId, u32)>> {
        match self.table(table.name())? {
            Some((id, found)) => {
                found.admit(&table.spec(found.shards))?;
                Ok(Some((id, found.shards)))
            }
            None => Ok(None),
        }
    }
}
