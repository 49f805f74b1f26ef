//! One append-only file of a partition: a head, then record batches one behind the other.
//!
//! ```text
//! head (80 bytes) | batch | batch | ...        each batch stamped with a checksum of its place
//! ```
//!
//! Beside it may lie an index, a hint that can be made anew from the batches.
//!
//! Invariants: batches are only ever added, at the position that was decided under the partition's turn. What is in
//! the file beyond [`Segment::end`] means nothing. How much of the file is part of the log is recorded at the trim
//! point, not in the file, so a segment that is shorter or differs is `Corrupt` and never taken for a torn one.
//! Neighbours: `topic` above puts segments in order; `record` below knows the batches.

mod check;
mod files;
mod follow;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod head;
mod index;
mod read;
mod rewrite;
mod salvage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use check::{SegmentCheck, SegmentFlaw};
pub(crate) use files::{OpenFiles, Standing};
pub(crate) use follow::Follower;
pub(crate) use head::{Generation, SEGMENT_HEAD_BYTES, SegmentHead, SegmentName, segment_path};
pub(crate) use read::BatchReader;
pub(crate) use rewrite::Rewriter;
pub(crate) use salvage::{Salvaged, copy_run, last_offset, salvage};

use crate::disk::{DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::record::{self, BatchError, BatchHead};
use crate::wake::{Arc, AtomicBool, Mutex, Ordering};
use files::{GivenUp, Pressure};
use index::{IndexEntry, SparseIndex};

/// An index that has grown by so many entries since it was last saved is saved before it is given up: without them a
/// reader would have to walk 256 KiB again.
const ENTRIES_WORTH_SAVING: usize = 16;

/// Why the batch at `position` is not handed out.
fn refused(path: &Path, position: u64, error: &BatchError) -> Error {
    match error {
        BatchError::NotBuiltIn(_) | BatchError::NotKnown(_) => {
            Error::new(ErrorKind::UnsupportedVersion, error.to_string()).at(path, position)
        }
        _ => Error::corrupt(path, position, error),
    }
}

/// How far a segment is part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// Byte position behind the last batch.
    pub(crate) position: u64,
    /// The offset behind the last record; the base offset when there is none.
    pub(crate) offset: LogOffset,
    /// The greatest timestamp of a record, `i64::MIN` when there is none.
    pub(crate) max_timestamp_ms: i64,
    /// When it was first seen to get no more records, by the store's clock; `None`: it may get some.
    pub(crate) sealed_ms: Option<i64>,
    /// When it was first seen to hold a record, by the store's clock.
    pub(crate) filled_ms: Option<i64>,
    /// When the last of its tombstones may go whose time was known when it was written, by the store's clock.
    pub(crate) tombstones_until_ms: Option<i64>,
    /// Those whose time begins when the segment takes the place of others.
    pub(crate) fresh: Option<Fresh>,
}

/// Tombstones of which what they end is gone with the segment that they are in: their time counts from when nobody
/// comes to see it any more, which is behind the writing of their batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fresh {
    /// Their batches say this.
    stamp_ms: i64,
    /// And it stands for this time, by the store's clock; `None`: it does not count yet.
    until_ms: Option<i64>,
}

impl Fresh {
    pub(crate) fn is_counted(&self) -> bool {
        self.until_ms.is_some()
    }
}

/// When the tombstones of a batch may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TombstoneTime {
    /// By the store's clock.
    At(i64),
    /// Counted from when the segment takes its place; until then the batch says this.
    Counted(i64),
}

/// A segment file, opened when first needed and closed when others need its descriptor more.
pub(crate) struct Segment {
    files: Arc<OpenFiles>,
    pub(crate) path: PathBuf,
    pub(crate) head: SegmentHead,
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    end: Mutex<SegmentEnd>,
    /// `None`: not in memory; a file may hold it.
    index: Mutex<Option<SparseIndex>>,
    /// What the trim point says of it.
    recorded: Mutex<Option<SegmentEnd>>,
    unsynced: AtomicBool,
    /// A sync failed when nobody was there to be told.
    sync_failed: AtomicBool,
    /// Its name may not be durable yet.
    unnamed: AtomicBool,
    /// The file was used since it was last asked for.
    used: AtomicBool,
}

impl Segment {
    /// Makes the file of a new segment with room for `room` bytes behind the head. Not durable until the next trim:
    /// until then the journal holds what is in it. On failure nothing is left behind.
    pub(crate) fn create(files: &Arc<OpenFiles>, dir: &Path, head: SegmentHead, room: u64) -> Result<Arc<Segment>> {
        let path = head.path(dir);
        let file = files.with_room(|| files.disk.open(&path, OpenMode::CreateNew));
        let file = file.map_err(|error| files.judge(Error::io(&path, "make a segment", error)))?;
        let written = file.preallocate(SEGMENT_HEAD_BYTES + room).and_then(|()| file.write_all_at(&head.encode(), 0));
        if let Err(error) = written {
            // Best effort: a file that nothing names is also swept away when its partition is next put together.
            let _ = files.disk.remove(&path);
            return Err(Error::io(&path, "make a segment", error));
        }
        let mut segment = Segment::closed(files, dir, head, SegmentEnd::empty(&head));
        segment.index = Mutex::new(Some(SparseIndex::new(head.base_offset)));
        segment.recorded = Mutex::new(None);
        (segment.unsynced, segment.unnamed) = (AtomicBool::new(true), AtomicBool::new(true));
        segment.file = Mutex::new(Some(Arc::from(file)));
        let segment = Arc::new(segment);
        files.opened(&segment);
        Ok(segment)
    }

    /// A segment that is known from the trim point. The file is opened when first needed.
    pub(crate) fn recovered(files: &Arc<OpenFiles>, dir: &Path, head: SegmentHead, end: SegmentEnd) -> Arc<Segment> {
        Arc::new(Segment::closed(files, dir, head, end))
    }

    fn closed(files: &Arc<OpenFiles>, dir: &Path, head: SegmentHead, end: SegmentEnd) -> Segment {
        Segment {
            files: Arc::clone(files),
            path: head.path(dir),
            head,
            file: Mutex::new(None),
            end: Mutex::new(end),
            index: Mutex::new(None),
            recorded: Mutex::new(Some(end)),
            unsynced: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
            unnamed: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    /// How far it is part of the log.
    pub(crate) fn end(&self) -> SegmentEnd {
        *self.end.lock()
    }

    /// Whether it holds a record.
    pub(crate) fn is_filled(&self) -> bool {
        self.end().offset > self.head.base_offset
    }

    /// It holds records. The first to say so says when.
    pub(crate) fn note_filled(&self, now_ms: i64) {
        self.end.lock().filled_ms.get_or_insert(now_ms);
    }

    /// It gets no more records, and all it ever got are applied. The first to say so says when.
    pub(crate) fn seal(&self, now_ms: i64) {
        self.end.lock().sealed_ms.get_or_insert(now_ms);
    }

    /// Tombstones of it whose time has not begun may go at `until_ms`. The first to say so counts.
    pub(crate) fn count_tombstones(&self, until_ms: i64) {
        if let Some(fresh) = &mut self.end.lock().fresh {
            fresh.until_ms.get_or_insert(until_ms);
        }
    }

    /// It was read to its end, and holds no tombstone that may ever go.
    pub(crate) fn has_no_tombstones(&self) {
        let mut end = self.end.lock();
        (end.tombstones_until_ms, end.fresh) = (None, None);
    }

    /// The open file; its head is checked when it is opened. Not to be kept longer than a step takes.
    pub(crate) fn file(self: &Arc<Self>) -> Result<Arc<dyn DiskFile>> {
        {
            let mut open = self.file.lock();
            if let Some(file) = open.as_ref() {
                self.used.store(true, Ordering::Relaxed);
                return Ok(Arc::clone(file));
            }
            match self.open_file() {
                Ok((file, OpenMode::Read)) => return Ok(Arc::from(file)),
                Ok((file, _)) => {
                    let file: Arc<dyn DiskFile> = Arc::from(file);
                    *open = Some(Arc::clone(&file));
                    drop(open);
                    self.files.opened(self);
                    return Ok(file);
                }
                Err(error) if crate::disk::lacks_descriptors(&error) => {}
                Err(error) => return Err(self.not_opened(error)),
            }
        }
        // Others give up theirs, which takes their locks, so not under ours.
        let opened = self.files.with_room(|| self.open_file()).map_err(|error| self.not_opened(error))?;
        let file: Arc<dyn DiskFile> = Arc::from(opened.0);
        if opened.1 == OpenMode::Read {
            return Ok(file);
        }
        let mut open = self.file.lock();
        if let Some(theirs) = open.as_ref() {
            return Ok(Arc::clone(theirs));
        }
        *open = Some(Arc::clone(&file));
        drop(open);
        self.files.opened(self);
        Ok(file)
    }

    /// For reading alone where the disk takes no writes now. That one is not kept, or it would still be in the way when
    /// the disk takes writes again.
    fn open_file(&self) -> io::Result<(Box<dyn DiskFile>, OpenMode)> {
        let disk = &self.files.disk;
        let opened = match disk.open(&self.path, OpenMode::Write) {
            Ok(file) => (file, OpenMode::Write),
            Err(error) => match error.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    (disk.open(&self.path, OpenMode::Read)?, OpenMode::Read)
                }
                _ => return Err(error),
            },
        };
        self.check_file(opened.0.as_ref()).map_err(io::Error::other)?;
        Ok(opened)
    }

    fn check_file(&self, file: &dyn DiskFile) -> Result<()> {
        self.head.check(file, &self.path)?;
        let len = file.len().map_err(|error| Error::io(&self.path, "measure a segment", error))?;
        if len < self.end().position {
            return Err(Error::corrupt(&self.path, len, "a segment was cut short"));
        }
        Ok(())
    }

    fn not_opened(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::NotFound {
            return self.damaged(0, "a segment that is part of the log is gone");
        }
        let error = error.downcast::<Error>().unwrap_or_else(|error| Error::io(&self.path, "open a segment", error));
        self.files.judge(error)
    }

    /// What is not as it was written, unless it is no longer for this opening to say so.
    pub(crate) fn damaged(&self, position: u64, what: impl fmt::Display) -> Error {
        self.files.judge(Error::corrupt(&self.path, position, what))
    }

    /// Closes the file and forgets the index, if nobody is working with it and `pressure` allows what that takes.
    fn give_up_file(&self, pressure: Pressure) -> GivenUp {
        let mut open = self.file.lock();
        let Some(file) = open.as_ref() else { return GivenUp::Closed };
        // Under the lock nobody new gets it.
        let in_use = Arc::strong_count(file) > 1;
        if in_use || (self.used.swap(false, Ordering::Relaxed) && pressure == Pressure::Mild) {
            return GivenUp::Spared;
        }
        if self.unsynced.load(Ordering::SeqCst) {
            if pressure == Pressure::Mild || self.sync_failed.load(Ordering::SeqCst) {
                return GivenUp::Spared;
            }
            self.unsynced.store(false, Ordering::SeqCst);
            if let Err(error) = file.sync(SyncSite::Segment) {
                tracing::error!(%error, path = %self.path.display(), "a segment could not be synced");
                self.unsynced.store(true, Ordering::SeqCst);
                self.sync_failed.store(true, Ordering::SeqCst);
                return GivenUp::Spared;
            }
        }
        *open = None;
        self.files.closed();
        drop(open);
        let mut index = self.index.lock();
        if index.as_ref().is_some_and(|index| index.unsaved() >= ENTRIES_WORTH_SAVING) {
            self.write_index(&mut index);
        }
        *index = None;
        GivenUp::Closed
    }

    /// Closes the file of a segment that is to be removed.
    pub(crate) fn close(&self) {
        if self.file.lock().take().is_some() {
            self.files.closed();
        }
    }

    /// Takes room so that batches up to byte `end` can be written.
    pub(crate) fn reserve(self: &Arc<Self>, end: u64) -> Result<()> {
        self.file()?.preallocate(end).map_err(|error| Error::io(&self.path, "take room in a segment", error))
    }

    /// Copies whole batches to `position`, stamping each for its place. Writing the same again changes nothing.
    pub(crate) fn apply(self: &Arc<Self>, position: u64, batches: &mut [u8]) -> Result<()> {
        // Kept to the end, so that it is not given up between the write and the note that it wants a sync.
        let file = self.file()?;
        let mut end = self.end();
        let mut heads = Vec::with_capacity(1);
        let mut at = 0;
        while at < batches.len() {
            let here = position + at as u64;
            let malformed = |error| Error::corrupt(&self.path, here, format!("a frame holds a bad batch: {error}"));
            let head = BatchHead::peek(&batches[at..]).map_err(malformed)?;
            let batch = batches[at..].get_mut(..head.bytes).ok_or_else(|| malformed(record::BatchError::Truncated))?;
            let place = record::place_checksum(self.head.salt, here, batch);
            record::set_place(batch, place);
            end.position = here + head.bytes as u64;
            end.offset = head.next_offset();
            end.max_timestamp_ms = end.max_timestamp_ms.max(head.max_timestamp_ms);
            at += head.bytes;
            heads.push((head, here));
        }
        file.write_all_at(batches, position).map_err(|error| Error::io(&self.path, "write a segment", error))?;
        // Also loads the index of a segment that is written on before its end moves: see `load_index`.
        self.with_index(|index| heads.iter().for_each(|(head, here)| index.add(head, *here)));
        // After the write and before the end: a sync that runs meanwhile may or may not cover these bytes, and whoever
        // sees the new end finds that a sync is needed.
        self.unsynced.store(true, Ordering::SeqCst);
        let mut now = self.end.lock();
        // It may have been noted meanwhile that it holds records.
        *now = SegmentEnd { filled_ms: now.filled_ms, sealed_ms: now.sealed_ms, ..end };
        drop(now);
        Ok(())
    }

    /// Makes what was applied durable, if anything was since the last time.
    pub(crate) fn sync(self: &Arc<Self>) -> Result<()> {
        let failed = |error| Err(Error::sync(&self.path, "sync a segment", error));
        if self.sync_failed.load(Ordering::SeqCst) {
            return failed(io::Error::other("an earlier sync of it failed"));
        }
        if !self.unsynced.load(Ordering::SeqCst) {
            return Ok(());
        }
        // The file first: as long as it is held nobody else syncs and closes it.
        let file = self.file()?;
        if self.unsynced.swap(false, Ordering::SeqCst)
            && let Err(error) = file.sync(SyncSite::Segment)
        {
            self.sync_failed.store(true, Ordering::SeqCst);
            return failed(error);
        }
        Ok(())
    }

    /// Whether its name has not been made durable yet.
    pub(crate) fn is_unnamed(&self) -> bool {
        self.unnamed.load(Ordering::SeqCst)
    }

    /// Its directory was synced.
    pub(crate) fn is_named(&self) {
        self.unnamed.store(false, Ordering::SeqCst);
    }

    /// What the trim point says of it, if it says anything.
    pub(crate) fn recorded(&self) -> Option<SegmentEnd> {
        *self.recorded.lock()
    }

    /// The trim point says this of it now.
    pub(crate) fn is_recorded(&self, end: SegmentEnd) {
        *self.recorded.lock() = Some(end);
    }

    /// As [`Segment::shrink`], if there is anything behind the end.
    pub(crate) fn cut_leftover(self: &Arc<Self>) -> Result<()> {
        let len = self.file()?.len().map_err(|error| Error::io(&self.path, "measure a segment", error))?;
        if len > self.end().position { self.shrink() } else { Ok(()) }
    }

    /// Gives back room taken beyond the end, once no more will be written.
    pub(crate) fn shrink(self: &Arc<Self>) -> Result<()> {
        let cut = self.file()?.set_len(self.end().position);
        cut.map_err(|error| Error::io(&self.path, "shrink a segment", error))
    }
}

/// The index.
impl Segment {
    /// Where its index is kept.
    fn index_path(&self) -> PathBuf {
        self.path.with_extension("index")
    }

    fn with_index<T>(&self, act: impl FnOnce(&mut SparseIndex) -> T) -> T {
        let mut index = self.index.lock();
        act(index.get_or_insert_with(|| self.load_index()))
    }

    /// The index from its file, or one that covers nothing yet.
    ///
    /// A file that covers more than the segment holds is left by a crash, and says what the records were that did not
    /// survive. It is removed before the first record is written behind the end: later it could not be told any more.
    fn load_index(&self) -> SparseIndex {
        let (path, end, files) = (self.index_path(), self.end(), &self.files);
        let opened = files.disk.open(&path, OpenMode::Read);
        let read = opened.and_then(|file| file.read_whole(SparseIndex::bytes_max(end.position)));
        let found = match read {
            Ok(bytes) => SparseIndex::decode(&bytes, &self.head, end.position),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return SparseIndex::new(self.head.base_offset),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err("too long"),
            // It may be good, and cannot be had now.
            Err(_) => return SparseIndex::new(self.head.base_offset),
        };
        match found {
            Ok(index) => {
                files.indexes_loaded.fetch_add(1, Ordering::Relaxed);
                index
            }
            Err(what) => {
                self.lose_index(what);
                SparseIndex::new(self.head.base_offset)
            }
        }
    }

    fn lose_index(&self, what: &str) {
        let path = self.index_path();
        tracing::warn!(path = %path.display(), what, "an index is made anew");
        self.files.indexes_rebuilt.fetch_add(1, Ordering::Relaxed);
        // Best effort: it would be found wrong again.
        let _ = self.files.disk.remove(&path);
    }

    /// An entry that led to no such batch.
    fn distrust_index(&self, entry: IndexEntry) {
        let mut index = self.index.lock();
        let wrong = |index: &SparseIndex| index.nearest(entry.offset) == entry;
        // Another reader may have made it anew meanwhile.
        if index.as_ref().is_some_and(wrong) {
            self.lose_index("an entry leads to no batch");
            *index = Some(SparseIndex::new(self.head.base_offset));
        }
    }

    /// Writes what the index has got since it was last written, if anything. Never synced: a torn one is seen.
    pub(crate) fn save_index(&self) {
        let mut index = self.index.lock();
        if index.as_ref().is_some_and(|index| index.unsaved() > 0) {
            self.write_index(&mut index);
        }
    }

    fn write_index(&self, index: &mut Option<SparseIndex>) {
        let Some(index) = index else { return };
        let (path, bytes) = (self.index_path(), index.encode(&self.head));
        let written = self.files.disk.open(&path, OpenMode::Create).and_then(|file| {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)
        });
        match written {
            Ok(()) => index.is_saved(),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "an index is not kept");
                // Half of one would be reported as damage.
                let _ = self.files.disk.remove(&path);
            }
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        self.close();
    }
}

impl SegmentEnd {
    /// When the last of its tombstones may go, if any may and it is known.
    pub(crate) fn tombstones_until(&self) -> Option<i64> {
        match self.fresh {
            Some(fresh) => fresh.until_ms.map(|until| self.tombstones_until_ms.map_or(until, |other| other.max(until))),
            None => self.tombstones_until_ms,
        }
    }

    /// When the tombstones of a batch may go that says `stamp_ms`; `None`: it does not count yet.
    pub(crate) fn time_of(&self, stamp_ms: i64) -> Option<i64> {
        match self.fresh {
            Some(fresh) if fresh.stamp_ms == stamp_ms => fresh.until_ms,
            _ => Some(stamp_ms),
        }
    }

    pub(crate) fn empty(head: &SegmentHead) -> SegmentEnd {
        SegmentEnd {
            position: SEGMENT_HEAD_BYTES,
            offset: head.base_offset,
            max_timestamp_ms: i64::MIN,
            sealed_ms: None,
            filled_ms: None,
            tombstones_until_ms: None,
            fresh: None,
        }
    }
}
