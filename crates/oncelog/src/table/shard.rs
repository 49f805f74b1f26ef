//! One shard of a table: its dirty rows with their versions, over the backend.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::backend::{Direction, StateKey, TableBackend, TableBatch, Visit, state_range};
use super::ledger::{Ledger, row_memory};
use crate::error::Result;
use crate::ids::{Lsn, ShardId, TableId};
use crate::view::{Holds, View};
use crate::wake::{Arc, RwLock, RwLockWriteGuard};

/// The versions of one row, oldest first; `None` is a deletion.
pub(super) type Versions = Vec<(Lsn, Option<Bytes>)>;
type Rows = BTreeMap<Vec<u8>, Versions>;

/// A row as it is read: key and value.
type Row = (Vec<u8>, Bytes);

/// One independent part of a table.
pub(crate) struct Shard {
    table: TableId,
    shard: ShardId,
    backend: Arc<dyn TableBackend>,
    view: Arc<View>,
    ledger: Arc<Ledger>,
    dirty: RwLock<Rows>,
}

/// The turn of a shard: while it is held no other commit can change it and no reader can look.
pub(crate) struct ShardGuard<'a> {
    shard: &'a Shard,
    rows: RwLockWriteGuard<'a, Rows>,
    /// Asked for when the first row has versions that may not be needed.
    holds: Option<Holds>,
}

/// Which rows of a shard, in which order, and how many at most.
#[derive(Clone, Copy, Debug)]
pub struct ScanRange<'a> {
    /// The lowest key.
    pub start: Bound<&'a [u8]>,
    /// The highest key.
    pub end: Bound<&'a [u8]>,
    /// From which of the two it begins.
    pub direction: Direction,
    /// How many rows at most.
    pub limit: usize,
    /// The row with which keys and values take so many bytes is the last.
    pub bytes: usize,
}

impl<'a> ScanRange<'a> {
    /// Every row, in key order.
    pub const ALL: ScanRange<'static> = ScanRange {
        start: Bound::Unbounded,
        end: Bound::Unbounded,
        direction: Direction::Up,
        limit: usize::MAX,
        bytes: usize::MAX,
    };

    /// All rows between two keys, in key order.
    #[must_use]
    pub fn between(start: Bound<&'a [u8]>, end: Bound<&'a [u8]>) -> ScanRange<'a> {
        ScanRange { start, end, ..ScanRange::ALL }
    }

    /// Whether no key can lie in it; `BTreeMap::range` panics on some such ranges.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match (self.start, self.end) {
            _ if self.limit == 0 => true,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => {
                start >= end
            }
        }
    }
}

impl Shard {
    pub(super) fn new(
        table: TableId,
        shard: ShardId,
        backend: Arc<dyn TableBackend>,
        view: Arc<View>,
        ledger: Arc<Ledger>,
    ) -> Shard {
        Shard { table, shard, backend, view, ledger, dirty: RwLock::default() }
    }

    pub(super) fn name(&self) -> (TableId, ShardId) {
        (self.table, self.shard)
    }

    /// Waits for the shard's turn.
    pub(crate) fn turn(&self) -> ShardGuard<'_> {
        let rows = self.dirty.write();
        if rows.is_empty() {
            // Before the frame has its LSN: a trim up to that LSN looks here, and waits for the turn.
            self.ledger.is_dirty(self.name());
        }
        ShardGuard { shard: self, rows, holds: None }
    }

    /// The value of `key` at `lsn`, which must be pinned.
    pub(crate) fn get(&self, key: &[u8], lsn: Lsn) -> Result<Option<Bytes>> {
        // Held while the backend is asked: the trim takes it before it changes what the backend says.
        let dirty = self.dirty.read();
        match dirty.get(key).and_then(|versions| newest(versions, lsn)) {
            Some((_, value)) => Ok(value.clone()),
            None => self.backend.get(&StateKey::of(self.table, self.shard, key)),
        }
    }

    /// The rows of `range` at `lsn`, which must be pinned. It looks at no more rows of the backend than it needs.
    pub(crate) fn scan(&self, range: ScanRange<'_>, lsn: Lsn) -> Result<Vec<Row>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let dirty = self.dirty.read();
        let mut found = Found { rows: Vec::new(), limit: range.limit, bytes_left: range.bytes };
        let (start, end) = state_range(self.table, self.shard, range.start, range.end);
        let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let up = range.direction == Direction::Up;
        let ours = dirty.range::<[u8], _>((range.start, range.end));
        let ours: Box<dyn Iterator<Item = (&Vec<u8>, &Versions)>> =
            if up { Box::new(ours) } else { Box::new(ours.rev()) };
        let mut ours = ours.filter_map(|(key, versions)| Some((key, newest(versions, lsn)?.1.as_ref()))).peekable();
        self.backend.scan(start, end, range.direction, &mut |flat, value| {
            let key = &flat[StateKey::PREFIX_BYTES..];
            let comes_before = |ours: &[u8]| if up { ours < key } else { ours > key };
            while let Some((ours, value)) = ours.next_if(|(ours, _)| comes_before(ours)) {
                if found.take(ours, value) == Visit::Stop {
                    return Visit::Stop;
                }
            }
            match ours.next_if(|(ours, _)| ours.as_slice() == key) {
                Some((ours, value)) => found.take(ours, value),
                None => found.take(key, Some(&Bytes::copy_from_slice(value))),
            }
        })?;
        for (key, value) in ours {
            if found.is_full() || found.take(key, value) == Visit::Stop {
                break;
            }
        }
        Ok(found.rows)
    }

    /// How many rows are held in memory.
    #[cfg(test)]
    pub(super) fn dirty_rows(&self) -> usize {
        self.dirty.read().len()
    }

    /// How many versions of a row are held in memory.
    #[cfg(test)]
    pub(super) fn versions(&self, key: &[u8]) -> usize {
        self.dirty.read().get(key).map_or(0, Vec::len)
    }

    /// Puts the newest version up to `lsn` of each row that was changed at `from` or later into `batch`. Where somebody
    /// still looks at an older state, that state's row is kept in memory, since the backend is about to forget it.
    pub(super) fn collect_dirty(&self, from: Lsn, lsn: Lsn, batch: &mut TableBatch) -> Result<()> {
        let mut dirty = self.dirty.write();
        let horizon = self.view.horizon();
        for (key, versions) in dirty.iter_mut() {
            let Some((version, value)) = newest(versions, lsn).cloned() else { continue };
            if version < from {
                continue;
            }
            let flat = StateKey::of(self.table, self.shard, key);
            let oldest_kept = versions.first().map_or(lsn, |(version, _)| *version);
            if horizon < oldest_kept {
                versions.insert(0, (Lsn(0), self.backend.get(&flat)?));
            }
            batch.insert(flat, value);
        }
        Ok(())
    }

    /// Lets go of rows whose every version the backend now holds and whose older versions nobody needs.
    pub(super) fn forget_clean(&self, lsn: Lsn) {
        let mut dirty = self.dirty.write();
        let horizon = self.view.horizon();
        dirty.retain(|_, versions| versions.last().is_some_and(|(newest, _)| *newest > lsn.min(horizon)));
        if dirty.is_empty() {
            self.ledger.is_clean(self.name());
        }
    }
}

/// Adds a row that is there.
/// What a scan has found, and how much more it may.
struct Found {
    rows: Vec<Row>,
    limit: usize,
    bytes_left: usize,
}

impl Found {
    fn is_full(&self) -> bool {
        self.rows.len() >= self.limit || self.bytes_left == 0
    }

    fn take(&mut self, key: &[u8], value: Option<&Bytes>) -> Visit {
        if let Some(value) = value {
            self.bytes_left = self.bytes_left.saturating_sub(key.len() + value.len());
            self.rows.push((key.to_vec(), value.clone()));
        }
        if self.is_full() { Visit::Stop } else { Visit::Next }
    }
}

impl ShardGuard<'_> {
    /// The newest value of `key`, durable or not.
    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.rows.get(key).and_then(|versions| versions.last()) {
            Some((_, value)) => Ok(value.clone()),
            None => self.shard.backend.get(&StateKey::of(self.shard.table, self.shard.shard, key)),
        }
    }

    /// Whether `key` has changed since `lsn`.
    pub(crate) fn changed_since(&self, key: &[u8], lsn: Lsn) -> bool {
        self.rows.get(key).is_some_and(|versions| is_newer(versions, lsn))
    }

    /// Whether any row of the range has changed since `lsn`.
    pub(crate) fn range_changed_since(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, lsn: Lsn) -> bool {
        !ScanRange::between(start, end).is_empty()
            && self.rows.range::<[u8], _>((start, end)).any(|(_, versions)| is_newer(versions, lsn))
    }

    /// Adds the version of `key` that frame `lsn` makes, and drops those that nobody can ask for any more.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Option<Bytes>, lsn: Lsn) {
        let ledger = &self.shard.ledger;
        match self.rows.get_mut(&key) {
            Some(versions) => {
                let before = row_memory(&key, versions);
                let last = versions.last().map_or(Lsn(0), |(last, _)| *last);
                match versions.last_mut() {
                    Some(newest) if newest.0 == lsn => newest.1 = value,
                    _ => versions.push((lsn, value)),
                }
                let view = &self.shard.view;
                self.holds.get_or_insert_with(|| view.holds()).prune(versions);
                ledger.changed(last, before, row_memory(&key, versions));
            }
            None => {
                let versions = vec![(lsn, value)];
                ledger.changed(Lsn(0), 0, row_memory(&key, &versions));
                self.rows.insert(key, versions);
            }
        }
    }
}

impl Drop for ShardGuard<'_> {
    fn drop(&mut self) {
        if self.rows.is_empty() {
            self.shard.ledger.is_clean(self.shard.name());
        }
    }
}

/// The newest version at or below `lsn`.
fn newest(versions: &Versions, lsn: Lsn) -> Option<&(Lsn, Option<Bytes>)> {
    versions.iter().rev().find(|(version, _)| *version <= lsn)
}

fn is_newer(versions: &Versions, lsn: Lsn) -> bool {
    versions.last().is_some_and(|(version, _)| *version > lsn)
}
