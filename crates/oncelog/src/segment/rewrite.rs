//! Writing a segment in place of some that follow each other: with their records, but for those that are compacted
//! away.
//!
//! ```text
//! 0..10 | 10..20 | 20..40   ->   BASE-EPOCH-GENERATION.segment.new   ->  sync, rename   ->  the trim point names it
//! ```
//!
//! It is written under a name that nobody reads, and is whole and durable before it gets its own. Invariants: its
//! batches follow each other without a gap from its base offset to its end, as those of any segment; offsets, keys,
//! values and timestamps are those of the records that it was made from. It takes no more room than it was given.
//! Whatever goes wrong, dropping it leaves no file behind. Memory: one batch, and what is gathered for one write.

use std::io;
use std::path::{Path, PathBuf};

use super::head::{SEGMENT_HEAD_BYTES, SegmentHead};
use super::index::SparseIndex;
use super::{Fresh, OpenFiles, Segment, SegmentEnd, TombstoneTime};
use crate::disk::{DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::record::{self, Batch, BatchBuilder, BatchHead, Compression, Span, Tombstones, Verdict};
use crate::wake::{Arc, Mutex};

/// Bytes are gathered up to this before they are written.
const WRITE_BYTES: usize = 256 << 10;
/// So much is written between two syncs: a sync keeps others from the disk, so no one may be long.
const SYNC_BYTES: u64 = 4 << 20;
/// So many offsets a batch stands for at most.
const SPAN_MAX: u64 = 1 << 31;

/// A segment that is being written in place of others.
pub(crate) struct Rewriter {
    files: Arc<OpenFiles>,
    dir: PathBuf,
    head: SegmentHead,
    /// Where it is until it is named.
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    /// Behind what is gathered.
    position: u64,
    gathered: Vec<u8>,
    /// It may grow up to here.
    room_end: u64,
    unsynced: u64,
    /// Batches stand for all offsets below.
    next: LogOffset,
    end: SegmentEnd,
    index: SparseIndex,
    builder: BatchBuilder,
    is_named: bool,
}

impl Rewriter {
    /// Begins to write the segment `head` in `dir`, where it may take `room` bytes for now.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub(crate) fn begin(files: &Arc<OpenFiles>, dir: &Path, head: SegmentHead, room: u64) -> Result<Rewriter> {
        let path = head.unfinished_path(dir);
        let file = files.with_room(|| files.disk.open(&path, OpenMode::CreateNew));
        let file = file.map_err(|error| Error::io(&path, "make a compacted segment", error))?;
        Ok(Rewriter {
            files: Arc::clone(files),
            dir: dir.to_owned(),
            head,
            path,
            file: Some(file),
            position: SEGMENT_HEAD_BYTES,
            gathered: head.encode(),
            room_end: room,
            unsynced: 0,
            next: head.base_offset,
            end: SegmentEnd::empty(&head),
            index: SparseIndex::new(head.base_offset),
            builder: BatchBuilder::new(),
            is_named: false,
        })
    }

    /// Adds what `verdict` leaves of a batch, which is `bytes`, and of which `tombstones` says when they may go.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: it is to be dropped; `Corrupt`.
    pub(crate) fn add(
        &mut self,
        (bytes, batch): (&[u8], &Batch<'_>),
        verdict: &Verdict,
        tombstones: Option<TombstoneTime>,
        compression: Compression,
    ) -> Result<()> {
        if verdict.is_empty() {
            return Ok(());
        }
        let until_ms = match tombstones.filter(|_| verdict.has_tombstones()) {
            Some(TombstoneTime::At(until_ms)) => {
                self.end.tombstones_until_ms = self.end.tombstones_until_ms.max(Some(until_ms));
                Some(until_ms)
            }
            Some(TombstoneTime::Counted(stamp_ms)) => {
                self.end.fresh = Some(Fresh { stamp_ms, until_ms: None });
                Some(stamp_ms)
            }
            None => None,
        };
        let as_it_was =
            verdict.gone == 0 && batch.tombstones_until_ms() == until_ms && batch.base_offset() == self.next;
        if as_it_was {
            return self.put(bytes.to_vec());
        }
        self.stand_for(LogOffset(batch.next_offset().0.saturating_sub(SPAN_MAX)))?;
        let mut builder = std::mem::take(&mut self.builder);
        let thinned = verdict.thin(batch, self.next, until_ms, &mut builder);
        let span = thinned.map_err(|error| self.malformed(&error))?;
        let mut out = Vec::with_capacity(builder.len_bytes());
        builder.finish_span(&span, compression, &mut out);
        builder.clear();
        self.builder = builder;
        self.put(out)
    }

    /// Ends it at `end` and makes it durable, but for its name. Times of what it was made from are kept.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: it is to be dropped.
    pub(crate) fn finish(&mut self, end: LogOffset, sealed_ms: Option<i64>, filled_ms: Option<i64>) -> Result<()> {
        self.stand_for(end)?;
        self.write()?;
        self.end = SegmentEnd { position: self.position, offset: self.next, sealed_ms, filled_ms, ..self.end };
        let Some(file) = self.file.take() else { return Err(Error::closed()) };
        let cut = file.set_len(self.position);
        cut.map_err(|error| Error::io(&self.path, "write a compacted segment", error))?;
        file.sync(SyncSite::Compacted).map_err(|error| Error::sync(&self.path, "sync a compacted segment", error))
    }

    /// Gives it the name that readers go by, once it is finished; durable when the directory is synced.
    ///
    /// # Errors
    /// `Unavailable`: it is to be dropped.
    pub(crate) fn name(&mut self) -> Result<()> {
        let path = self.head.path(&self.dir);
        let named = self.files.disk.rename(&self.path, &path);
        named.map_err(|error| Error::io(&self.path, "name a compacted segment", error))?;
        self.is_named = true;
        Ok(())
    }

    /// The segment, once it is named and the directory was synced.
    pub(crate) fn segment(&self) -> Arc<Segment> {
        let mut segment = Segment::closed(&self.files, &self.dir, self.head, self.end);
        segment.recorded = Mutex::new(None);
        segment.index = Mutex::new(Some(self.index.clone()));
        Arc::new(segment)
    }

    /// Beside what it has on the disk it may take `room` bytes from now on, and no more.
    pub(crate) fn has_room(&mut self, room: u64) {
        self.room_end = (self.position - self.gathered.len() as u64).saturating_add(room);
    }

    /// So many bytes of its room are left.
    pub(crate) fn room(&self) -> u64 {
        self.room_end.saturating_sub(self.position)
    }

    /// How much of it there is.
    pub(crate) fn bytes(&self) -> u64 {
        self.position
    }

    /// Where it is once it is named.
    pub(crate) fn named_path(&self) -> PathBuf {
        self.head.path(&self.dir)
    }

    /// It is part of the log, or may be: its file is not taken away any more.
    pub(crate) fn keep(mut self) {
        self.path = PathBuf::new();
    }

    /// Has batches without records stand for the offsets below `to` that none stands for.
    fn stand_for(&mut self, to: LogOffset) -> Result<()> {
        while self.next < to {
            let last_offset_delta = (to.0 - self.next.0).min(SPAN_MAX) - 1;
            let last_offset_delta = u32::try_from(last_offset_delta).unwrap_or(u32::MAX >> 1);
            let span = Span { base: self.next, last_offset_delta, tombstones: Tombstones::Unknown };
            let mut out = Vec::new();
            BatchBuilder::new().finish_span(&span, Compression::None, &mut out);
            self.put(out)?;
        }
        Ok(())
    }

    /// Stamps a batch for its place, behind the others.
    fn put(&mut self, mut batch: Vec<u8>) -> Result<()> {
        self.check_room(batch.len() as u64)?;
        let head = BatchHead::peek(&batch).map_err(|error| self.malformed(&error))?;
        let place = record::place_checksum(self.head.salt, self.position, &batch);
        record::set_place(&mut batch, place);
        self.index.add(&head, self.position);
        self.gathered.extend_from_slice(&batch);
        self.position += batch.len() as u64;
        self.next = head.next_offset();
        self.end.max_timestamp_ms = self.end.max_timestamp_ms.max(head.max_timestamp_ms);
        if self.gathered.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    /// Whether there is room for what is gathered and so much more.
    fn check_room(&self, more: u64) -> Result<()> {
        if self.position.saturating_add(more) <= self.room_end {
            return Ok(());
        }
        let bytes = self.gathered.len() as u64 + more;
        let what = format!("{bytes} bytes more are not free for a compaction");
        Err(Error::new(ErrorKind::Full, what).in_file(&self.path))
    }

    fn write(&mut self) -> Result<()> {
        self.check_room(0)?;
        let doing = |error: io::Error| Error::io(&self.path, "write a compacted segment", error);
        let Some(file) = &self.file else { return Err(Error::closed()) };
        let start = self.position - self.gathered.len() as u64;
        // First the room: what is written without may be told as missing by a sync, when it is too late.
        file.preallocate(self.position).map_err(doing)?;
        file.write_all_at(&self.gathered, start).map_err(doing)?;
        self.unsynced += self.gathered.len() as u64;
        self.gathered.clear();
        if self.unsynced >= SYNC_BYTES {
            self.unsynced = 0;
            let synced = file.sync(SyncSite::Compacted);
            synced.map_err(|error| Error::sync(&self.path, "sync a compacted segment", error))?;
        }
        Ok(())
    }

    fn malformed(&self, error: &record::BatchError) -> Error {
        Error::corrupt(&self.head.path(&self.dir), self.position, format!("a batch cannot be written anew: {error}"))
    }
}

impl Drop for Rewriter {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        self.file = None;
        let path = if self.is_named { self.head.path(&self.dir) } else { self.path.clone() };
        // Best effort: what stays is taken away when the partition is next put together.
        if let Err(error) = self.files.disk.remove(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "a compacted segment that nothing names stays");
        }
    }
}
