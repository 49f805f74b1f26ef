//! What of the tables is in memory only: which shards, and about how many bytes.
//!
//! Invariant: a shard with rows in its dirty map is in the ledger, and so is one whose turn somebody has: a frame may
//! have its LSN before its rows are in the map. It leaves under the turn when there are none. So a trim looks at
//! changed shards only, however many there are.

use std::collections::BTreeSet;

use super::shard::Versions;
use crate::ids::{Lsn, ShardId, TableId};
use crate::wake::{AtomicU64, AtomicUsize, Mutex, Ordering};

/// What a row takes in a map beyond its key and its values, and a version beyond its value; about.
const ROW_MEMORY: usize = 96;
const VERSION_MEMORY: usize = 48;

/// The dirty rows of all tables of one owner.
#[derive(Default)]
pub(super) struct Ledger {
    /// About the memory of rows that the backend does not have.
    unwritten: AtomicUsize,
    /// By name: a shard holds the ledger, and rows that nobody could write would keep both for ever.
    shards: Mutex<BTreeSet<(TableId, ShardId)>>,
    /// Below this the backend has everything. 0 before the first write of an opening, since recovery puts rows of its
    /// own beside those of the last frame.
    unwritten_from: AtomicU64,
    /// Up to here it has everything when the write that is under way is done.
    writing: AtomicU64,
}

impl Ledger {
    pub(super) fn unwritten_bytes(&self) -> usize {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// A row that took `before` and was last changed at `last` now takes `after`. Called under the shard's turn.
    pub(super) fn changed(&self, last: Lsn, before: usize, after: usize) {
        // A row that is being written now counts anew.
        let before = if last.0 > self.writing.load(Ordering::SeqCst) { before } else { 0 };
        self.unwritten.fetch_add(after, Ordering::Relaxed);
        self.sub(before);
    }

    fn sub(&self, bytes: usize) {
        let _ =
            self.unwritten.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(bytes)));
    }

    /// Everything up to `lsn` is about to be written: gives what [`Ledger::end_write`] wants back.
    pub(super) fn begin_write(&self, lsn: Lsn) -> usize {
        self.writing.store(lsn.0, Ordering::SeqCst);
        self.unwritten_bytes()
    }

    /// Everything up to `lsn` is written.
    pub(super) fn end_write(&self, lsn: Lsn, begun: usize) {
        self.unwritten_from.store(lsn.0 + 1, Ordering::SeqCst);
        self.sub(begun);
    }

    /// The shard may get its first row. Called under its turn.
    pub(super) fn is_dirty(&self, name: (TableId, ShardId)) {
        self.shards.lock().insert(name);
    }

    /// The shard has no row in memory any more. Called under its turn.
    pub(super) fn is_clean(&self, name: (TableId, ShardId)) {
        self.shards.lock().remove(&name);
    }

    pub(super) fn dirty_shards(&self) -> Vec<(TableId, ShardId)> {
        self.shards.lock().iter().copied().collect()
    }

    /// Below which LSN the backend has everything.
    pub(super) fn unwritten_from(&self) -> Lsn {
        Lsn(self.unwritten_from.load(Ordering::SeqCst))
    }
}

/// About the memory that a row takes.
pub(super) fn row_memory(key: &[u8], versions: &Versions) -> usize {
    let values: usize = versions.iter().map(|(_, value)| value.as_ref().map_or(0, |value| value.len())).sum();
    ROW_MEMORY + key.len() + versions.len() * VERSION_MEMORY + values
}
