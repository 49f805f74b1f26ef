//! A sparse index of one segment: from offsets and from timestamps to places, an entry for a batch every 16 KiB. Grows
//! as batches are applied and as readers walk over them; kept beside the segment in a file that is never synced.
//!
//! Invariant: it covers the segment from its first batch up to one position, without a gap, so the greatest timestamp
//! before each entry is known. An index is a hint and never a proof: whoever jumps by it checks that the batch it finds
//! was written for that place and has the offset that the entry says, and else throws the index away. Its checksum, and
//! the salt of its segment, are what its timestamps are believed by.

use super::head::{Generation, SEGMENT_HEAD_BYTES, SegmentHead};
use crate::codec::{CheckSite, Input, crc32c, same};
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};
use crate::record::BatchHead;

/// Entries are at least this many bytes apart.
const INTERVAL_BYTES: u64 = 16 << 10;

const MAGIC: [u8; 8] = *b"OLINDEX\0";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 88;
const ENTRY_BYTES: usize = 24;

/// Where a batch starts, and what lies before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// The offset of the batch's first record.
    pub(super) offset: LogOffset,
    pub(super) position: u64,
    /// The greatest timestamp of a record before it in the segment, `i64::MIN` when there is none.
    pub(super) max_before_ms: i64,
}

/// Entries in order of their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SparseIndex {
    /// Never empty: the first is the segment's first batch.
    entries: Vec<IndexEntry>,
    /// The next batch to be taken in starts here.
    covered: u64,
    /// The greatest timestamp of a record before `covered`.
    max_timestamp_ms: i64,
    /// How many entries its file holds.
    saved: usize,
}

impl SparseIndex {
    pub(super) fn new(base_offset: LogOffset) -> SparseIndex {
        let first = IndexEntry { offset: base_offset, position: SEGMENT_HEAD_BYTES, max_before_ms: i64::MIN };
        SparseIndex { entries: vec![first], covered: SEGMENT_HEAD_BYTES, max_timestamp_ms: i64::MIN, saved: 1 }
    }

    /// Takes in the batch at `position`, if it is the next one. Its head must have been checked with its content.
    pub(super) fn add(&mut self, head: &BatchHead, position: u64) {
        if position != self.covered {
            return;
        }
        if self.entries.last().is_none_or(|last| position - last.position >= INTERVAL_BYTES) {
            let (offset, max_before_ms) = (head.base_offset, self.max_timestamp_ms);
            self.entries.push(IndexEntry { offset, position, max_before_ms });
        }
        self.covered = position + head.bytes as u64;
        self.max_timestamp_ms = self.max_timestamp_ms.max(head.max_timestamp_ms);
    }

    /// Where to start walking to find `offset`: the last entry at or before it.
    pub(super) fn nearest(&self, offset: LogOffset) -> IndexEntry {
        let at = self.entries.partition_point(|entry| entry.offset <= offset);
        self.entries[at.saturating_sub(1)]
    }

    /// Where to start walking to find the first record that is not older than `timestamp_ms`: all before are older.
    pub(super) fn before_time(&self, timestamp_ms: i64) -> IndexEntry {
        let at = self.entries.partition_point(|entry| entry.max_before_ms < timestamp_ms);
        self.entries[at.saturating_sub(1)]
    }

    /// The next batch to be taken in starts here.
    pub(super) fn covered(&self) -> u64 {
        self.covered
    }

    /// How many entries its file does not hold.
    pub(super) fn unsaved(&self) -> usize {
        self.entries.len() - self.saved
    }

    /// Its file holds all of it.
    pub(super) fn is_saved(&mut self) {
        self.saved = self.entries.len();
    }

    pub(super) fn encode(&self, head: &SegmentHead) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.entries.len() * ENTRY_BYTES + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_le_bytes());
        out.extend_from_slice(&head.store.0);
        out.extend_from_slice(&head.topic.0.to_le_bytes());
        out.extend_from_slice(&head.partition.0.to_le_bytes());
        out.extend_from_slice(&head.base_offset.0.to_le_bytes());
        out.extend_from_slice(&head.epoch.0.to_le_bytes());
        out.extend_from_slice(&head.salt.to_le_bytes());
        out.extend_from_slice(&self.covered.to_le_bytes());
        out.extend_from_slice(&self.max_timestamp_ms.to_le_bytes());
        out.extend_from_slice(&head.generation.0.to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.offset.0.to_le_bytes());
            out.extend_from_slice(&entry.position.to_le_bytes());
            out.extend_from_slice(&entry.max_before_ms.to_le_bytes());
        }
        let sum = crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// The largest file of an index of a segment that ends at `end`.
    pub(super) fn bytes_max(end: u64) -> u64 {
        (HEAD_BYTES + 4) as u64 + (end / INTERVAL_BYTES + 1) * ENTRY_BYTES as u64
    }

    /// Reads what [`SparseIndex::encode`] wrote for this segment, when that ended at `end` or before; what is wrong
    /// with it otherwise.
    pub(super) fn decode(bytes: &[u8], head: &SegmentHead, end: u64) -> Result<SparseIndex, &'static str> {
        let (summed, sum) = bytes.split_last_chunk::<4>().ok_or("cut short")?;
        if !same(CheckSite::IndexFile, u32::from_le_bytes(*sum), crc32c(summed)) {
            return Err("damaged");
        }
        let mut input = Input::new(summed);
        let mut read = || {
            let (magic, version, count): ([u8; 8], u32, u32) = (input.array()?, input.u32()?, input.u32()?);
            let store = StoreId(input.array()?);
            let (topic, partition) = (TopicId(input.u32()?), PartitionId(input.u32()?));
            let (base_offset, epoch, salt) = (LogOffset(input.u64()?), Epoch(input.u64()?), input.u64()?);
            let (covered, max_timestamp_ms) = (input.u64()?, input.u64()?.cast_signed());
            let generation = Generation(input.u64()?);
            let of = SegmentHead { store, topic, partition, base_offset, epoch, generation, salt };
            Some((magic == MAGIC && version == VERSION, count, of, covered, max_timestamp_ms))
        };
        let (known, count, of, covered, max_timestamp_ms) = read().ok_or("cut short")?;
        if !known {
            return Err("of another format");
        }
        if of != *head {
            return Err("of another segment");
        }
        if covered > end {
            return Err("of more than the segment holds");
        }
        let mut entries = Vec::with_capacity((input.rest().len() / ENTRY_BYTES).min(count as usize));
        for _ in 0..count {
            let mut entry = || {
                let (offset, position) = (LogOffset(input.u64()?), input.u64()?);
                Some(IndexEntry { offset, position, max_before_ms: input.u64()?.cast_signed() })
            };
            entries.push(entry().ok_or("cut short")?);
        }
        let first = SparseIndex::new(head.base_offset).entries[0];
        let rises = entries.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset
                && pair[0].position < pair[1].position
                && pair[0].max_before_ms <= pair[1].max_before_ms
        });
        let within =
            entries.last().is_some_and(|last| last.position < covered && last.max_before_ms <= max_timestamp_ms);
        if entries.first() != Some(&first) || !rises || !within || !input.is_empty() {
            return Err("malformed");
        }
        let saved = entries.len();
        Ok(SparseIndex { entries, covered, max_timestamp_ms, saved })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: SegmentHead = SegmentHead {
        store: StoreId([1; 16]),
        topic: TopicId(2),
        partition: PartitionId(3),
        base_offset: LogOffset(100),
        epoch: Epoch(4),
        generation: Generation(0),
        salt: 5,
    };

    fn batch(base: u64, bytes: usize, max_timestamp_ms: i64) -> BatchHead {
        let builder = {
            let mut builder = crate::record::BatchBuilder::new();
            builder.push(&crate::record::Draft { key: None, value: None, headers: &[], timestamp_ms: 0 });
            builder
        };
        let mut made = Vec::new();
        builder.finish_into(&mut made);
        let mut head = BatchHead::peek(&made).unwrap();
        (head.bytes, head.base_offset, head.max_timestamp_ms) = (bytes, LogOffset(base), max_timestamp_ms);
        head
    }

    fn index(batches: u64) -> (SparseIndex, u64) {
        let (mut index, mut position) = (SparseIndex::new(HEAD.base_offset), SEGMENT_HEAD_BYTES);
        for number in 0..batches {
            let head = batch(100 + number, 5000, i64::try_from(number % 7).unwrap());
            index.add(&head, position);
            position += 5000;
        }
        (index, position)
    }

    #[test]
    fn comes_back_from_its_bytes_and_only_for_its_segment() {
        let (made, end) = index(50);
        let bytes = made.encode(&HEAD);
        assert_eq!(bytes.len(), HEAD_BYTES + made.entries.len() * ENTRY_BYTES + 4);
        assert!(bytes.len() as u64 <= SparseIndex::bytes_max(end));
        let read = SparseIndex::decode(&bytes, &HEAD, end).unwrap();
        assert_eq!((&read.entries, read.covered, read.unsaved()), (&made.entries, end, 0));
        let foreign = SegmentHead { salt: 6, ..HEAD };
        assert_eq!(SparseIndex::decode(&bytes, &foreign, end), Err("of another segment"));
        assert_eq!(SparseIndex::decode(&bytes, &HEAD, end - 1), Err("of more than the segment holds"));
    }

    #[test]
    fn batches_behind_a_gap_are_left_out() {
        let (mut made, end) = index(10);
        made.add(&batch(200, 5000, 0), end + 5000);
        assert_eq!(made.covered(), end);
    }

    proptest! {
        #[test]
        fn no_damage_is_believed(at in 0usize..400, bit in 0u8..8, cut in 0usize..400) {
            let (made, end) = index(50);
            let mut bytes = made.encode(&HEAD);
            let whole = bytes.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(SparseIndex::decode(&bytes, &HEAD, end).is_err());
            prop_assert!(SparseIndex::decode(&whole[..cut % whole.len()], &HEAD, end).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut summed = bytes;
            let sum = crc32c(&summed);
            summed.extend_from_slice(&sum.to_le_bytes());
            prop_assert!(SparseIndex::decode(&summed, &HEAD, u64::MAX).is_err());
        }
    }
}
