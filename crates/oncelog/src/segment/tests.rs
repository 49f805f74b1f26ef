//! Batches written to a segment are found again from any offset, in any block; what is not the segment is refused.

use std::path::Path;

use proptest::prelude::*;

use super::salvage::{Run, salvage};
use super::{BatchReader, Follower, Generation, OpenFiles, SEGMENT_HEAD_BYTES, Segment, SegmentEnd, SegmentHead};
use crate::disk::{MemoryDisk, OpenMode};
use crate::error::ErrorKind;
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};
use crate::record::{BatchBuilder, Compression, Draft, set_base_offset};
use crate::wake::Arc;

const HEAD: SegmentHead = SegmentHead {
    store: StoreId([1; 16]),
    topic: TopicId(2),
    partition: PartitionId(3),
    base_offset: LogOffset(100),
    epoch: Epoch(4),
    generation: Generation(0),
    salt: 5,
};

fn in_memory() -> Arc<OpenFiles> {
    Arc::new(OpenFiles::new(Arc::new(MemoryDisk::default()), Arc::new(|| Ok(())), 8))
}

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
fn filled(disk: &Arc<OpenFiles>, batches: &[Vec<Vec<u8>>]) -> (Arc<Segment>, Vec<Vec<u8>>) {
    let segment = Segment::create(disk, Path::new("/"), HEAD, 0).unwrap();
    let (mut position, mut offset, mut all) = (SEGMENT_HEAD_BYTES, HEAD.base_offset.0, Vec::new());
    for values in batches {
        let mut bytes = batch(offset, values);
        segment.apply(position, &mut bytes).unwrap();
        position += bytes.len() as u64;
        offset += values.len() as u64;
        all.extend(values.iter().cloned());
    }
    (segment, all)
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
        let disk = in_memory();
        let (segment, all) = filled(&disk, &batches);
        let end = segment.end();
        prop_assert_eq!(end.offset, LogOffset(100 + all.len() as u64));
        // As known from a trim point: nothing of the index is in memory.
        let again = Segment::recovered(&disk, Path::new("/"), HEAD, end);
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
    let disk = in_memory();
    let (segment, _) = filled(&disk, &[vec![b"a".to_vec(), b"b".to_vec()], vec![b"c".to_vec()]]);
    assert_eq!(read_from(&segment, 100, 102).len(), 2);
    assert_eq!(read_from(&segment, 100, 103).len(), 3);
    assert_eq!(read_from(&segment, 100, 100).len(), 0);
}

#[test]
fn a_batch_that_this_build_cannot_inflate_is_not_called_damaged() {
    let disk = in_memory();
    let segment = Segment::create(&disk, Path::new("/"), HEAD, 0).unwrap();
    let mut builder = BatchBuilder::new();
    builder.push(&Draft { key: None, value: Some(b"v"), headers: &[], timestamp_ms: 1 });
    let mut bytes = Vec::new();
    builder.finish_deflated(Compression::Zstd, b"no frame", &mut bytes);
    set_base_offset(&mut bytes, HEAD.base_offset);
    segment.apply(SEGMENT_HEAD_BYTES, &mut bytes).unwrap();

    let mut reader = BatchReader::seek(Arc::clone(&segment), HEAD.base_offset).unwrap();
    let told = reader.next(LogOffset(u64::MAX)).err().unwrap();
    let kind = if Compression::Zstd.is_built_in() { ErrorKind::Corrupt } else { ErrorKind::UnsupportedVersion };
    assert_eq!(told.kind(), kind, "{told}");
    assert!(told.to_string().contains(segment.path.to_str().unwrap()), "{told}");
    let mut follower = Follower::open(disk.disk.as_ref(), &segment.path, |_| true).unwrap().unwrap();
    assert!(follower.advance(HEAD.base_offset, LogOffset(u64::MAX)).unwrap().is_some());
    let told = follower.current().err().unwrap();
    assert_eq!(told.kind(), kind, "{told}");
}

#[test]
fn a_batch_in_another_compression_of_kafkas_is_named_and_not_called_damaged() {
    for (bits, name) in [(1u8, "gzip"), (2, "snappy")] {
        let disk = in_memory();
        let segment = Segment::create(&disk, Path::new("/"), HEAD, 0).unwrap();
        let mut bytes = batch(HEAD.base_offset.0, &[b"v".to_vec()]);
        // The attributes, and Kafka's checksum over them and all behind.
        bytes[22] = bits;
        let sum = crate::codec::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&sum.to_be_bytes());
        segment.apply(SEGMENT_HEAD_BYTES, &mut bytes).unwrap();
        let mut reader = BatchReader::seek(Arc::clone(&segment), HEAD.base_offset).unwrap();
        let told = reader.next(LogOffset(u64::MAX)).err().unwrap();
        assert_eq!(told.kind(), ErrorKind::UnsupportedVersion, "{told}");
        assert!(told.to_string().contains(name), "{told}");
    }
}

#[test]
fn a_reader_that_rests_holds_no_buffer_and_goes_on_where_it_was() {
    let values: Vec<Vec<u8>> = (0..40u8).map(|n| vec![n; 4000]).collect();
    let batches: Vec<_> = values.iter().map(|value| vec![value.clone()]).collect();
    let disk = in_memory();
    let (segment, _) = filled(&disk, &batches);
    let first = segment.head.base_offset;
    let mut reader = BatchReader::seek(Arc::clone(&segment), first).unwrap();
    let mut follower = Follower::open(disk.disk.as_ref(), &segment.path, |_| true).unwrap().unwrap();
    let limit = LogOffset(u64::MAX);
    for (at, value) in (first.0..).map(LogOffset).zip(&values) {
        let batch = reader.next(limit).unwrap().unwrap();
        assert_eq!(batch.records().next().unwrap().unwrap().value, Some(&value[..]));
        assert!(reader.held_bytes() > 0);
        reader.rest();
        assert!(follower.advance(at, limit).unwrap().is_some());
        let batch = follower.current().unwrap();
        assert_eq!(batch.records().next().unwrap().unwrap().value, Some(&value[..]));
        follower.rest();
        assert_eq!((reader.held_bytes(), follower.held_bytes()), (0, 0));
    }
    assert!(reader.next(limit).unwrap().is_none());
}

#[test]
fn a_batch_that_is_moved_or_of_another_segment_is_refused() {
    let disk = in_memory();
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
    let disk = in_memory();
    filled(&disk, &[vec![b"a".to_vec()]]);
    let end = SegmentEnd { position: 120, offset: LogOffset(101), max_timestamp_ms: 0, ..SegmentEnd::empty(&HEAD) };
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

/// Many small batches whose timestamps are `times`, over several index entries.
fn timed(files: &Arc<OpenFiles>, times: &[i64]) -> Arc<Segment> {
    let segment = Segment::create(files, Path::new("/"), HEAD, 0).unwrap();
    let (mut position, mut offset) = (SEGMENT_HEAD_BYTES, HEAD.base_offset.0);
    for pair in times.chunks(2) {
        let mut builder = BatchBuilder::new();
        for timestamp_ms in pair {
            builder.push(&Draft { key: None, value: Some(&[9; 2000]), headers: &[], timestamp_ms: *timestamp_ms });
        }
        let mut bytes = Vec::new();
        builder.finish_into(&mut bytes);
        set_base_offset(&mut bytes, LogOffset(offset));
        segment.apply(position, &mut bytes).unwrap();
        position += bytes.len() as u64;
        offset += pair.len() as u64;
    }
    segment
}

fn first_since(times: &[i64], timestamp_ms: i64) -> Option<LogOffset> {
    (100..).zip(times).find(|(_, time)| **time >= timestamp_ms).map(|(offset, _)| LogOffset(offset))
}

/// Files of `segment` as a later opening has them: nothing in memory.
fn cold(files: &Arc<OpenFiles>, segment: &Segment) -> Arc<Segment> {
    Segment::recovered(files, Path::new("/"), HEAD, segment.end())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn the_first_record_not_older_is_found_whatever_the_order_of_times(
        times in proptest::collection::vec(0i64..40, 1..120),
    ) {
        let files = in_memory();
        let segment = timed(&files, &times);
        segment.save_index();
        let (kept, walked) = (cold(&files, &segment), cold(&in_memory(), &segment));
        for timestamp_ms in -1..42 {
            let expected = first_since(&times, timestamp_ms);
            prop_assert_eq!(BatchReader::first_since(&segment, timestamp_ms).unwrap(), expected);
            prop_assert_eq!(BatchReader::first_since(&kept, timestamp_ms).unwrap(), expected);
        }
        // Only the copy of the index is new: the other disk has no such segment.
        prop_assert!(BatchReader::first_since(&walked, 0).is_err());
        prop_assert_eq!(files.indexes(), (u64::from(times.len() > 10), 0));
    }
}

#[test]
fn a_bad_index_is_made_anew_and_never_believed() {
    let times: Vec<i64> = (0..400).collect();
    let files = in_memory();
    let segment = timed(&files, &times);
    segment.save_index();
    let file = files.disk.open(&segment.index_path(), OpenMode::Write).unwrap();
    let good = file.read_whole(1 << 20).unwrap();
    for (offset, timestamp_ms) in [(100, 0), (377, 277), (499, 399)] {
        let cold = cold(&files, &segment);
        assert_eq!(BatchReader::first_since(&cold, timestamp_ms).unwrap(), Some(LogOffset(offset)));
        assert_eq!(read_from(&cold, offset, u64::MAX).len(), usize::try_from(500 - offset).unwrap());
    }
    assert_eq!(files.indexes(), (3, 0));
    // One whose checksum holds and that leads astray: every position 8 bytes on.
    let mut astray = good[..good.len() - 4].to_vec();
    for entry in astray[88 + 24..].chunks_exact_mut(24) {
        entry[8] = entry[8].wrapping_add(8);
    }
    let sum = crate::codec::crc32c(&astray);
    astray.extend_from_slice(&sum.to_le_bytes());
    let file = files.disk.open(&segment.index_path(), OpenMode::Write).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(&astray, 0).unwrap();
    let (loaded, rebuilt) = files.indexes();
    let misled = cold(&files, &segment);
    assert_eq!(read_from(&misled, 377, u64::MAX).len(), 123);
    assert_eq!(BatchReader::first_since(&misled, 277).unwrap(), Some(LogOffset(377)));
    assert_eq!(files.indexes(), (loaded + 1, rebuilt + 1));
    assert!(files.disk.open(&segment.index_path(), OpenMode::Read).is_err(), "it is gone");
    // A torn one, and an empty one.
    for bytes in [&good[..good.len() / 2], &[]] {
        let file = files.disk.open(&segment.index_path(), OpenMode::Create).unwrap();
        file.set_len(0).unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let before = files.indexes().1;
        assert_eq!(read_from(&cold(&files, &segment), 377, u64::MAX).len(), 123);
        assert_eq!(files.indexes().1, before + 1);
    }
}

#[test]
fn files_that_are_open_stay_within_the_limit_and_nothing_unsynced_is_lost_sight_of() {
    let files = Arc::new(OpenFiles::new(Arc::new(MemoryDisk::default()), Arc::new(|| Ok(())), 4));
    let mut segments = Vec::new();
    for base in 0..20 {
        let head = SegmentHead { base_offset: LogOffset(base * 10), ..HEAD };
        let segment = Segment::create(&files, Path::new("/"), head, 0).unwrap();
        segment.apply(SEGMENT_HEAD_BYTES, &mut batch(base * 10, &[vec![1; 9]])).unwrap();
        segments.push(segment);
        assert!(files.open() <= 4, "{}", files.open());
    }
    for segment in &segments {
        assert_eq!(read_from(segment, segment.head.base_offset.0, u64::MAX).len(), 1);
        segment.sync().unwrap();
        assert!(files.open() <= 4);
    }
    let held: Vec<_> = segments[..6].iter().map(|segment| segment.file().unwrap()).collect();
    assert_eq!(files.open(), 6, "files in use are not given up");
    drop(held);
    segments[9].file().unwrap();
    assert!(files.open() <= 4);
    drop(segments);
    assert_eq!(files.open(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_salvage_keeps_every_good_batch_and_no_other(
        batches in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..4), 1..20),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..8), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let disk = in_memory();
        let (segment, _) = filled(&disk, &batches);
        let (end, file) = (segment.end(), segment.file().unwrap());
        let whole = file.read_whole(1 << 20).unwrap();
        for (index, bit) in flips {
            let at = 80 + index.index(whole.len() - 80);
            let mut byte = [0];
            file.read_full_at(&mut byte, at as u64).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << bit], at as u64).unwrap();
        }
        let len = cut.map_or(whole.len(), |cut| 80 + cut.index(whole.len() - 80));
        file.set_len(len as u64).unwrap();
        let damaged = file.read_whole(1 << 20).unwrap();

        let found = salvage(&*disk.disk, &segment.path, &HEAD, end).unwrap().unwrap();
        let (mut position, mut offset, mut lost) = (80, 100, Vec::new());
        for values in &batches {
            let (next, last) = (position + batch(offset, values).len(), offset + values.len() as u64);
            let is_good = damaged.get(position..next) == Some(&whole[position..next]);
            let holds = |run: &Run| run.offsets.start.0 <= offset && last <= run.offsets.end.0;
            prop_assert_eq!(found.runs.iter().any(holds), is_good);
            if !is_good {
                lost.extend(offset..last);
            }
            (position, offset) = (next, last);
        }
        let told = found.lost(&HEAD, end).into_iter().flat_map(|offsets| offsets.start.0..offsets.end.0);
        prop_assert_eq!(told.collect::<Vec<_>>(), lost);
        let mut all: Vec<_> = found.runs.iter().map(|run| run.bytes.clone()).chain(found.bad.clone()).collect();
        all.sort_by_key(|bytes| bytes.start);
        let mut at = SEGMENT_HEAD_BYTES;
        for bytes in all {
            prop_assert_eq!(bytes.start, at);
            at = bytes.end;
        }
        prop_assert_eq!(at, end.position);
        prop_assert_eq!(found.is_whole(end), damaged == whole);
    }
}
