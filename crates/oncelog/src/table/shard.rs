//! One shard of a table: its dirty rows with their versions, over the backend.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::backend::{StateBackend, StateBatch, StateKey, state_range};
use crate::error::Result;
use crate::ids::{Lsn, ShardId, TableId};
use crate::view::View;
use crate::wake::{Arc, RwLock, RwLockWriteGuard};

/// The versions of one row, oldest first; `None` is a deletion.
type Versions = Vec<(Lsn, Option<Bytes>)>;
type Rows = BTreeMap<Vec<u8>, Versions>;

/// A row as it is read: key and value.
type Row = (Vec<u8>, Bytes);

/// One independent part of a table.
pub(crate) struct Shard {
    table: TableId,
    shard: ShardId,
    backend: Arc<dyn StateBackend>,
    view: Arc<View>,
    dirty: RwLock<Rows>,
}

/// The turn of a shard: while it is held no other commit can change it and no reader can look.
pub(crate) struct ShardGuard<'a> {
    shard: &'a Shard,
    rows: RwLockWriteGuard<'a, Rows>,
    horizon: Lsn,
}

impl Shard {
    pub(super) fn new(table: TableId, shard: ShardId, backend: Arc<dyn StateBackend>, view: Arc<View>) -> Shard {
        Shard { table, shard, backend, view, dirty: RwLock::default() }
    }

    /// Waits for the shard's turn.
    pub(crate) fn turn(&self) -> ShardGuard<'_> {
        ShardGuard { shard: self, rows: self.dirty.write(), horizon: self.view.horizon() }
    }

    /// The value of `key` at `lsn`, which must be pinned.
    pub(crate) fn get(&self, key: &[u8], lsn: Lsn) -> Result<Option<Bytes>> {
        // Held while the backend is asked: the trim takes it before it changes what the backend says.
        let dirty = self.dirty.read();
        match dirty.get(key).and_then(|versions| newest(versions, lsn)) {
            Some(value) => Ok(value.clone()),
            None => self.backend.get(&StateKey::of(self.table, self.shard, key)),
        }
    }

    /// At most `limit` rows of the range at `lsn`, in key order.
    pub(crate) fn scan(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, limit: usize, lsn: Lsn) -> Result<Vec<Row>> {
        let dirty = self.dirty.read();
        if is_empty(start, end) {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        let mut from = start.map(<[u8]>::to_vec);
        loop {
            let (flat_start, flat_end) = state_range(self.table, self.shard, from.as_ref().map(Vec::as_slice), end);
            let (flat_start, flat_end) = (flat_start.as_ref().map(Vec::as_slice), flat_end.as_ref().map(Vec::as_slice));
            let kept = self.backend.scan(flat_start, flat_end, limit)?;
            // Dirty rows behind the last row that the backend gave belong to the next round.
            let last = (kept.len() == limit).then(|| kept.last().map(|row| row.0[StateKey::PREFIX_BYTES..].to_vec()));
            let until = match &last {
                Some(Some(key)) => Bound::Included(key.as_slice()),
                _ => end,
            };
            let mut merged: BTreeMap<Vec<u8>, Option<Bytes>> =
                kept.into_iter().map(|(key, value)| (key[StateKey::PREFIX_BYTES..].to_vec(), Some(value))).collect();
            for (key, versions) in dirty.range::<[u8], _>((from.as_ref().map(Vec::as_slice), until)) {
                if let Some(value) = newest(versions, lsn) {
                    merged.insert(key.clone(), value.clone());
                }
            }
            found.extend(merged.into_iter().filter_map(|(key, value)| Some((key, value?))));
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
            match last.flatten() {
                Some(key) => from = Bound::Excluded(key),
                None => return Ok(found),
            }
            if is_empty(from.as_ref().map(Vec::as_slice), end) {
                return Ok(found);
            }
        }
    }

    /// How many rows are held in memory.
    #[cfg(test)]
    pub(super) fn dirty_rows(&self) -> usize {
        self.dirty.read().len()
    }

    /// Puts the newest version up to `lsn` of each dirty row into `batch`. Where somebody still looks at an older
    /// state, that state's row is kept in memory, since the backend is about to forget it.
    pub(super) fn collect_dirty(&self, lsn: Lsn, batch: &mut StateBatch) -> Result<()> {
        let mut dirty = self.dirty.write();
        let horizon = self.view.horizon();
        for (key, versions) in dirty.iter_mut() {
            let Some(value) = newest(versions, lsn).cloned() else { continue };
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
        !is_empty(start, end) && self.rows.range::<[u8], _>((start, end)).any(|(_, versions)| is_newer(versions, lsn))
    }

    /// Adds the version of `key` that frame `lsn` makes, and drops those that nobody can ask for any more.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Option<Bytes>, lsn: Lsn) {
        let versions = self.rows.entry(key).or_default();
        let needed = versions.iter().rposition(|(version, _)| *version <= self.horizon).unwrap_or(0);
        versions.drain(..needed);
        match versions.last_mut() {
            Some(last) if last.0 == lsn => last.1 = value,
            _ => versions.push((lsn, value)),
        }
    }
}

/// The newest version at or below `lsn`.
fn newest(versions: &Versions, lsn: Lsn) -> Option<&Option<Bytes>> {
    versions.iter().rev().find(|(version, _)| *version <= lsn).map(|(_, value)| value)
}

fn is_newer(versions: &Versions, lsn: Lsn) -> bool {
    versions.last().is_some_and(|(version, _)| *version > lsn)
}

/// Whether no key can lie in the range; `BTreeMap::range` panics on some such ranges.
fn is_empty(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end) | Bound::Included(end)) => start >= end,
    }
}
