//! What fuzzers may do to a segment and to the index beside it.

use std::path::{Path, PathBuf};

use super::index::SparseIndex;
use super::{BatchReader, Follower, Generation, OpenFiles, Segment, SegmentEnd, SegmentHead};
use crate::disk::{Disk, DiskFile, MemoryDisk, OpenMode};
use crate::error::Result;
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};
use crate::wake::Arc;

/// Every batch of a segment that is said to end where its bytes end, as its owner reads it and as one who is not.
pub(crate) fn segment(bytes: &[u8], index: &[u8]) {
    // An error is an answer too.
    let _ = read(bytes, index);
}

fn read(bytes: &[u8], index: &[u8]) -> Result<()> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let scratch = PathBuf::from("/scratch");
    let head = SegmentHead::read(&*written(&*disk, &scratch, bytes), &scratch)?;
    let dir = Path::new("/");
    let path = head.path(dir);
    drop(written(&*disk, &path, bytes));
    drop(written(&*disk, &path.with_extension("index"), index));
    let mut end = SegmentEnd::empty(&head);
    (end.position, end.offset) = (bytes.len() as u64, LogOffset(u64::MAX));
    let segment =
        Segment::recovered(&Arc::new(OpenFiles::new(Arc::clone(&disk), Arc::new(|| Ok(())), 8)), dir, head, end);
    let _ = BatchReader::first_since(&segment, 0);
    let middle = LogOffset(head.base_offset.0.saturating_add(2));
    let _ = BatchReader::seek(Arc::clone(&segment), middle).and_then(|mut reader| walk(&mut reader));
    let followed = follow(&*disk, &path, head.base_offset);
    walk(&mut BatchReader::seek(segment, head.base_offset)?)?;
    followed
}

fn walk(reader: &mut BatchReader) -> Result<()> {
    while reader.advance(LogOffset(u64::MAX))? {
        reader.current()?.records().for_each(drop);
    }
    Ok(())
}

fn follow(disk: &dyn Disk, path: &Path, base: LogOffset) -> Result<()> {
    let Some(mut follower) = Follower::open(disk, path, |_| true)? else { return Ok(()) };
    let (mut next, limit) = (base, LogOffset(u64::MAX));
    while let Some(range) = follower.advance(next, limit)? {
        follower.current()?.records().for_each(drop);
        next = range.end;
    }
    Ok(())
}

fn written(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Box<dyn DiskFile> {
    let file = disk.open(path, OpenMode::Create).expect("a disk in memory makes files");
    file.write_all_at(bytes, 0).expect("a disk in memory takes all");
    file
}

/// An index for the segment that it says it is of; what is read, encoded again, is read as the same.
pub(crate) fn index(bytes: &[u8]) {
    let field = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u64::from_le_bytes(*field));
    let half = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u32::from_le_bytes(*field));
    let head = SegmentHead {
        store: StoreId(bytes.get(16..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()),
        topic: TopicId(half(32)),
        partition: PartitionId(half(36)),
        base_offset: LogOffset(field(40)),
        epoch: Epoch(field(48)),
        generation: Generation(field(80)),
        salt: field(56),
    };
    let Ok(index) = SparseIndex::decode(bytes, &head, u64::MAX) else { return };
    let again = index.encode(&head);
    assert_eq!(SparseIndex::decode(&again, &head, u64::MAX).as_ref(), Ok(&index), "encoded again, it is another");
    for at in [0, field(40), field(64), u64::MAX] {
        assert!(index.nearest(LogOffset(at)).position < index.covered());
        assert!(index.before_time(at.cast_signed()).position < index.covered());
    }
}
