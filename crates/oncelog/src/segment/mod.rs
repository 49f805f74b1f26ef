//! One append-only file of a partition: a head, then record batches one behind the other.
//!
//! ```text
//! head (80 bytes) | batch | batch | ...        each batch stamped with a checksum of its place
//! ```
//!
//! Invariants: batches are only ever added, at the position that was decided under the partition's turn. What is in
//! the file beyond [`Segment::end`] means nothing. How much of the file is part of the log is recorded at the trim
//! point, not in the file, so a segment that is shorter or differs is `Corrupt` and never taken for a torn one.
//! Neighbours: `topic` above puts segments in order; `record` below knows the batches.

mod follow;
mod head;
mod index;
mod read;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub(crate) use follow::Follower;
pub(crate) use head::{SEGMENT_HEAD_BYTES, SegmentHead};
pub(crate) use read::BatchReader;

use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, Result};
use crate::ids::LogOffset;
use crate::record;
use crate::wake::{Arc, AtomicBool, Mutex, MutexGuard, Ordering};
use index::SparseIndex;

/// How far a segment is part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// Byte position behind the last batch.
    pub(crate) position: u64,
    /// The offset behind the last record; the base offset when there is none.
    pub(crate) offset: LogOffset,
    /// The greatest timestamp of a record, `i64::MIN` when there is none.
    pub(crate) max_timestamp_ms: i64,
}

/// A segment file, opened when first needed.
pub(crate) struct Segment {
    disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    pub(crate) head: SegmentHead,
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    end: Mutex<SegmentEnd>,
    index: Mutex<SparseIndex>,
    unsynced: AtomicBool,
}

impl Segment {
    /// Makes the file of a new segment with room for `room` bytes behind the head. Not durable until the next trim:
    /// until then the journal holds what is in it. On failure nothing is left behind.
    pub(crate) fn create(disk: &Arc<dyn Disk>, dir: &Path, head: SegmentHead, room: u64) -> Result<Segment> {
        let path = head.path(dir);
        let file = disk.open(&path, OpenMode::CreateNew).map_err(|error| Error::io(&path, "make a segment", error))?;
        let written = file.preallocate(SEGMENT_HEAD_BYTES + room).and_then(|()| file.write_all_at(&head.encode(), 0));
        if let Err(error) = written {
            // Best effort: a file that nothing names is also swept away at the next opening.
            let _ = disk.remove(&path);
            return Err(Error::io(&path, "make a segment", error));
        }
        let segment = Segment::recovered(disk, dir, head, SegmentEnd::empty(&head));
        segment.unsynced.store(true, Ordering::SeqCst);
        *segment.file.lock() = Some(Arc::from(file));
        Ok(segment)
    }

    /// A segment that is known from the trim point. The file is opened when first needed.
    pub(crate) fn recovered(disk: &Arc<dyn Disk>, dir: &Path, head: SegmentHead, end: SegmentEnd) -> Segment {
        Segment {
            disk: Arc::clone(disk),
            path: head.path(dir),
            head,
            file: Mutex::new(None),
            end: Mutex::new(end),
            index: Mutex::new(SparseIndex::new(head.base_offset)),
            unsynced: AtomicBool::new(false),
        }
    }

    /// How far it is part of the log.
    pub(crate) fn end(&self) -> SegmentEnd {
        *self.end.lock()
    }

    fn index(&self) -> MutexGuard<'_, SparseIndex> {
        self.index.lock()
    }

    /// The open file; its head is checked when it is opened.
    pub(crate) fn file(&self) -> Result<Arc<dyn DiskFile>> {
        let mut open = self.file.lock();
        if let Some(file) = open.as_ref() {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&self.path, OpenMode::Write).or_else(|error| match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                self.disk.open(&self.path, OpenMode::Read)
            }
            _ => Err(error),
        });
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(&self.path, 0, "a segment that is part of the log is gone"),
            _ => Error::io(&self.path, "open a segment", error),
        })?;
        self.head.check(file.as_ref(), &self.path)?;
        let len = file.len().map_err(|error| Error::io(&self.path, "measure a segment", error))?;
        if len < self.end().position {
            return Err(Error::corrupt(&self.path, len, "a segment was cut short"));
        }
        Ok(Arc::clone(open.insert(Arc::from(file))))
    }

    /// Gives the file's descriptor back until somebody reads here again. Only for segments that are written no more.
    pub(crate) fn rest(&self) {
        if !self.unsynced.load(Ordering::SeqCst) {
            *self.file.lock() = None;
        }
    }

    /// Takes room so that batches up to byte `end` can be written.
    pub(crate) fn reserve(&self, end: u64) -> Result<()> {
        self.file()?.preallocate(end).map_err(|error| Error::io(&self.path, "take room in a segment", error))
    }

    /// Copies whole batches to `position`, stamping each for its place. Writing the same again changes nothing.
    pub(crate) fn apply(&self, position: u64, batches: &mut [u8]) -> Result<()> {
        let mut end = self.end();
        let mut index = self.index();
        let mut at = 0;
        while at < batches.len() {
            let here = position + at as u64;
            let malformed = |error| Error::corrupt(&self.path, here, format!("a frame holds a bad batch: {error}"));
            let head = record::BatchHead::peek(&batches[at..]).map_err(malformed)?;
            let batch = batches[at..].get_mut(..head.bytes).ok_or_else(|| malformed(record::BatchError::Truncated))?;
            let place = record::place_checksum(self.head.salt, here, batch);
            record::set_place(batch, place);
            index.add(head.base_offset, here);
            end.position = here + head.bytes as u64;
            end.offset = head.next_offset();
            end.max_timestamp_ms = end.max_timestamp_ms.max(head.max_timestamp_ms);
            at += head.bytes;
        }
        drop(index);
        self.file()?
            .write_all_at(batches, position)
            .map_err(|error| Error::io(&self.path, "write a segment", error))?;
        // After the write and before the end: a sync that runs meanwhile may or may not cover these bytes, and whoever
        // sees the new end finds that a sync is needed.
        self.unsynced.store(true, Ordering::SeqCst);
        *self.end.lock() = end;
        Ok(())
    }

    /// Makes what was applied durable, if anything was since the last time.
    pub(crate) fn sync(&self) -> Result<()> {
        if self.unsynced.swap(false, Ordering::SeqCst) {
            let synced = self.file()?.sync(SyncSite::Segment);
            synced.map_err(|error| Error::sync(&self.path, "sync a segment", error))?;
        }
        Ok(())
    }

    /// Gives back room taken beyond the end, once no more will be written.
    pub(crate) fn shrink(&self) -> Result<()> {
        let cut = self.file()?.set_len(self.end().position);
        cut.map_err(|error| Error::io(&self.path, "shrink a segment", error))
    }
}

impl SegmentEnd {
    pub(crate) fn empty(head: &SegmentHead) -> SegmentEnd {
        SegmentEnd { position: SEGMENT_HEAD_BYTES, offset: head.base_offset, max_timestamp_ms: i64::MIN }
    }
}
