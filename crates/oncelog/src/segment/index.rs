//! A sparse index from offsets to positions, in memory: an entry for a batch every few KiB. Built as batches are
//! applied; for batches written before, by walking their heads once from the nearest entry.

use super::head::SEGMENT_HEAD_BYTES;
use crate::ids::LogOffset;

/// Entries are at least this many bytes apart.
const INTERVAL_BYTES: u64 = 16 << 10;

/// Offsets of batches and where they start, ascending in both.
#[derive(Debug)]
pub(super) struct SparseIndex {
    entries: Vec<(LogOffset, u64)>,
}

impl SparseIndex {
    pub(super) fn new(base_offset: LogOffset) -> SparseIndex {
        SparseIndex { entries: vec![(base_offset, SEGMENT_HEAD_BYTES)] }
    }

    /// Notes that a batch with that base offset starts at `position`, if no entry is near.
    pub(super) fn add(&mut self, base_offset: LogOffset, position: u64) {
        let at = self.entries.partition_point(|entry| entry.1 <= position);
        let far_from_before = at == 0 || position - self.entries[at - 1].1 >= INTERVAL_BYTES;
        let far_from_after = self.entries.get(at).is_none_or(|after| after.1 - position >= INTERVAL_BYTES);
        if far_from_before && far_from_after {
            self.entries.insert(at, (base_offset, position));
        }
    }

    /// Where to start walking to find `offset`: the last entry at or before it.
    pub(super) fn nearest(&self, offset: LogOffset) -> u64 {
        let at = self.entries.partition_point(|entry| entry.0 <= offset);
        self.entries[at.saturating_sub(1)].1
    }
}
