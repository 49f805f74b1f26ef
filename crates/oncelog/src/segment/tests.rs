//! Batches written to a segment are found again from any offset, in any block; what is not the segment is refused.

use std::path::Path;

use proptest::prelude::*;

use super::{BatchReader, SEGMENT_HEAD_BYTES, Segment, SegmentEnd, SegmentHead};
use crate::disk::{Disk, MemoryDisk};
use crate::error::ErrorKind;
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};
use crate::record::{BatchBuilder, Draft, set_base_offset};
use crate::wake::Arc;

const HEAD: SegmentHead = SegmentHead {
    store: StoreId([1; 16]),
    topic: TopicId(2),
    partition: PartitionId(3),
    base_offset: LogOffset(100),
    epoch: Epoch(4),
    salt: 5,
};

fn batch(base: u64, values: &[Vec<u8>]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(&Draft { key: None, value: Some(value), headers: &[], timestamp_ms: base.cast_signed() });
    }
    let mut bytes = Vec::new();
    builder.finish_into(&mut bytes);
    set_base_offset(&mut bytes, LogOffset(base));
    bytes
}

/// A segment with these batches of values, and the values by offset.
fn filled(disk: &Arc<dyn Disk>, batches: &[Vec<Vec<u8>>]) -> (Arc<Segment>, Vec<Vec<u8>>) {
    let segment = Segment::create(disk, Path::new("/"), HEAD, 0).unwrap();
    let (mut position, mut offset, mut all) = (SEGMENT_HEAD_BYTES, HEAD.base_offset.0, Vec::new());
    for values in batches {
        let mut bytes = batch(offset, values);
        segment.apply(position, &mut bytes).unwrap();
        position += bytes.len() as u64;
        offset += values.len() as u64;
        all.extend(values.iter().cloned());
    }
    (Arc::new(segment), all)
}

fn read_from(segment: &Arc<Segment>, from: u64, limit: u64) -> Vec<(u64, Vec<u8>)> {
    let mut reader = BatchReader::seek(Arc::clone(segment), LogOffset(from)).unwrap();
    let mut found = Vec::new();
    while let Some(batch) = reader.next(LogOffset(limit)).unwrap() {
        for record in batch.records() {
            let record = record.unwrap();
            found.push((record.offset.0, record.value.unwrap().to_vec()));
        }
    }
    found.retain(|(offset, _)| *offset >= from);
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn every_offset_is_found_by_a_fresh_reader_and_by_one_that_was_there(
        batches in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 1..6), 1..60),
    ) {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let (segment, all) = filled(&disk, &batches);
        let end = segment.end();
        prop_assert_eq!(end.offset, LogOffset(100 + all.len() as u64));
        // As known from a trim point: nothing of the index is in memory.
        let again = Arc::new(Segment::recovered(&disk, Path::new("/"), HEAD, end));
        for from in (100..end.offset.0).step_by(7) {
            let skipped = usize::try_from(from - 100).unwrap();
            let expected: Vec<_> = (from..).zip(all[skipped..].iter().cloned()).collect();
            prop_assert_eq!(&read_from(&segment, from, u64::MAX), &expected);
            prop_assert_eq!(&read_from(&again, from, u64::MAX), &expected);
        }
    }
}

#[test]
fn a_limit_hides_the_batches_behind_it() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let (segment, _) = filled(&disk, &[vec![b"a".to_vec(), b"b".to_vec()], vec![b"c".to_vec()]]);
    assert_eq!(read_from(&segment, 100, 102).len(), 2);
    assert_eq!(read_from(&segment, 100, 103).len(), 3);
    assert_eq!(read_from(&segment, 100, 100).len(), 0);
}

#[test]
fn a_batch_that_is_moved_or_of_another_segment_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let value = vec![vec![7u8; 30]];
    let (segment, _) = filled(&disk, &[value.clone(), value.clone()]);
    let len = batch(100, &value).len() as u64;
    let file = segment.file().unwrap();
    let mut first = vec![0; usize::try_from(len).unwrap()];
    file.read_full_at(&mut first, SEGMENT_HEAD_BYTES).unwrap();
    file.write_all_at(&first, SEGMENT_HEAD_BYTES + len).unwrap();
    let mut reader = BatchReader::seek(Arc::clone(&segment), LogOffset(100)).unwrap();
    assert!(reader.next(LogOffset(u64::MAX)).unwrap().is_some());
    let error = reader.next(LogOffset(u64::MAX)).err().unwrap();
    assert_eq!((error.kind(), error.position()), (ErrorKind::Corrupt, Some(SEGMENT_HEAD_BYTES + len)));
}

#[test]
fn another_file_in_its_place_is_named() {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    filled(&disk, &[vec![b"a".to_vec()]]);
    let end = SegmentEnd { position: 120, offset: LogOffset(101), max_timestamp_ms: 0 };
    for (wanted, says) in [
        (SegmentHead { store: StoreId([9; 16]), ..HEAD }, "another store"),
        (SegmentHead { salt: 6, ..HEAD }, "another segment"),
        (SegmentHead { topic: TopicId(8), ..HEAD }, "another segment"),
    ] {
        let error = Segment::recovered(&disk, Path::new("/"), wanted, end).file().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains(says), "{error}");
    }
    let error = Segment::recovered(&disk, Path::new("/none"), HEAD, end).file().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let beyond = SegmentEnd { position: 1 << 20, ..end };
    assert_eq!(
        Segment::recovered(&disk, Path::new("/"), HEAD, beyond).file().err().unwrap().kind(),
        ErrorKind::Corrupt
    );
}
