//! The contract with whatever keeps tables: atomic batches, each with the LSN that it brings the state to.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::error::Result;
use crate::ids::{Lsn, ShardId, TableId};

/// Keeps the rows of all tables of one owner.
///
/// Rows have one flat, ordered key: table id and shard id (four bytes each, most significant first), then the row's own
/// key bytes.
pub(crate) trait TableBackend: Send + Sync {
    /// The row of that flat key.
    ///
    /// # Errors
    /// `Corrupt` when what is stored fails its checksum: never a wrong value.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Hands key and value of the rows between `start` and `end` to `visit`, in key order or against it, until it says
    /// otherwise. Rows that are not visited are not read.
    ///
    /// # Errors
    /// As [`TableBackend::get`].
    fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<()>;

    /// Brings the state to `lsn` by all of `batch`, or changes nothing; durable on return.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: nothing has changed.
    fn apply(&self, batch: &TableBatch, lsn: Lsn) -> Result<()>;
}

/// In which order rows are visited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// In key order.
    #[default]
    Up,
    /// Against key order.
    Down,
}

/// What a visitor of rows wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// The next row.
    Next,
    /// No more.
    Stop,
}

/// Rows by flat key; `None` deletes.
pub(crate) type TableBatch = BTreeMap<Vec<u8>, Option<Bytes>>;

/// A flat key.
pub(crate) struct StateKey;

impl StateKey {
    pub(crate) const PREFIX_BYTES: usize = 8;

    pub(crate) fn prefix(table: TableId, shard: ShardId) -> [u8; Self::PREFIX_BYTES] {
        let mut prefix = [0; Self::PREFIX_BYTES];
        prefix[..4].copy_from_slice(&table.0.to_be_bytes());
        prefix[4..].copy_from_slice(&shard.0.to_be_bytes());
        prefix
    }

    /// Table, shard and the row's own key.
    pub(crate) fn read(key: &[u8]) -> Option<(TableId, ShardId, &[u8])> {
        let (table, rest) = key.split_first_chunk()?;
        let (shard, own) = rest.split_first_chunk()?;
        Some((TableId(u32::from_be_bytes(*table)), ShardId(u32::from_be_bytes(*shard)), own))
    }

    pub(crate) fn of(table: TableId, shard: ShardId, key: &[u8]) -> Vec<u8> {
        [&Self::prefix(table, shard)[..], key].concat()
    }
}

/// The flat bounds of a range of keys within one shard.
pub(crate) fn state_range(
    table: TableId,
    shard: ShardId,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let flat = |key: &[u8]| StateKey::of(table, shard, key);
    let start = match start {
        Bound::Unbounded => Bound::Included(flat(&[])),
        other => other.map(flat),
    };
    let end = match end {
        Bound::Unbounded => match shard.0.checked_add(1) {
            Some(next) => Bound::Excluded(StateKey::of(table, ShardId(next), &[])),
            None => Bound::Excluded(StateKey::of(TableId(table.0 + 1), ShardId(0), &[])),
        },
        other => other.map(flat),
    };
    (start, end)
}
