//! What is still good in a damaged segment: for a repair, which keeps the batches before and behind the damage.
//!
//! ```text
//! head | batch | batch | ##bad## | batch | batch      ->  run 0..20 | bad bytes | run 30..50
//! ```
//!
//! A batch is taken only if both of its checksums fit, and that of the place covers salt and position: so a search for
//! the next good one may step byte by byte, and finds neither an old batch nor one that lies in a payload.
//! Memory: a window of the file, and one batch.

use std::ops::Range;
use std::path::Path;

use super::{SEGMENT_HEAD_BYTES, SegmentEnd, SegmentHead};
use crate::codec::{CheckSite, same};
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::record::{self, Batch, BatchError, BatchHead, Inflated};

const WINDOW_BYTES: usize = 1 << 20;

/// Good batches without a bad byte between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) bytes: Range<u64>,
    pub(crate) offsets: Range<LogOffset>,
    pub(crate) max_timestamp_ms: i64,
}

/// What is in a segment file, as far as it is part of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Salvaged {
    /// Whether the head is the one that is expected.
    pub(crate) head: bool,
    /// In order.
    pub(crate) runs: Vec<Run>,
    /// Bytes that are no good batch, or that the file no longer has.
    pub(crate) bad: Vec<Range<u64>>,
    /// Bytes behind the end, which mean nothing.
    pub(crate) behind: u64,
}

impl Salvaged {
    /// Whether it is all that it should be.
    pub(crate) fn is_whole(&self, end: SegmentEnd) -> bool {
        let all = SEGMENT_HEAD_BYTES..end.position;
        self.head && matches!(&self.runs[..], [run] if run.bytes == all)
    }

    /// The offsets that may have been those of records where bytes are bad.
    pub(crate) fn lost(&self, head: &SegmentHead, end: SegmentEnd) -> Vec<Range<LogOffset>> {
        let (mut next, mut at, mut lost) = (head.base_offset, SEGMENT_HEAD_BYTES, Vec::new());
        for run in &self.runs {
            if run.bytes.start > at {
                lost.push(next..run.offsets.start);
            }
            (next, at) = (run.offsets.end, run.bytes.end);
        }
        if at < end.position {
            lost.push(next..end.offset);
        }
        lost.retain(|offsets| offsets.start < offsets.end);
        lost
    }
}

/// Looks through the segment at `path`, which should be `head` and reach to `end`; `None`: there is no such file.
///
/// # Errors
/// `Unavailable`: it cannot be read. That is no damage that could be cut out: the disk may read it another time.
pub(crate) fn salvage(disk: &dyn Disk, path: &Path, head: &SegmentHead, end: SegmentEnd) -> Result<Option<Salvaged>> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(path, "open a segment", error)),
    };
    let is_head = match head.check(&*file, path) {
        Ok(()) => true,
        Err(error) if error.kind() == ErrorKind::Corrupt => false,
        Err(error) => return Err(error),
    };
    let len = file.len().map_err(|error| Error::io(path, "measure a segment", error))?;
    let limit = len.min(end.position);
    let mut window = Window { file: &*file, path, len, start: 0, bytes: Vec::new() };
    let mut found = Salvaged { head: is_head, behind: len - limit, ..Salvaged::default() };
    let (mut at, mut next) = (SEGMENT_HEAD_BYTES, head.base_offset);
    while at < limit {
        let start = at;
        let batch = loop {
            match window.good_batch(head.salt, at..limit, next..end.offset)? {
                Some(batch) => break Some(batch),
                None if at < limit => at += 1,
                None => break None,
            }
        };
        if at > start {
            found.bad.push(start..at);
        }
        if let Some(batch) = batch {
            found.add(at, &batch);
            at += batch.bytes as u64;
            next = batch.next_offset();
        }
    }
    if limit < end.position {
        found.bad.push(limit.max(SEGMENT_HEAD_BYTES)..end.position);
    }
    Ok(Some(found))
}

impl Salvaged {
    fn add(&mut self, at: u64, batch: &BatchHead) {
        let end = at + batch.bytes as u64;
        match self.runs.last_mut().filter(|run| run.bytes.end == at) {
            Some(run) => {
                (run.bytes.end, run.offsets.end) = (end, batch.next_offset());
                run.max_timestamp_ms = run.max_timestamp_ms.max(batch.max_timestamp_ms);
            }
            None => self.runs.push(Run {
                bytes: at..end,
                offsets: batch.base_offset..batch.next_offset(),
                max_timestamp_ms: batch.max_timestamp_ms,
            }),
        }
    }
}

/// Whose segment that file is, and the offset behind its last good record, whether it is part of the log or not.
/// `None`: it is no segment, or has no good record.
///
/// # Errors
/// As [`salvage`].
pub(crate) fn last_offset(disk: &dyn Disk, path: &Path) -> Result<Option<(SegmentHead, LogOffset)>> {
    let file = disk.open(path, OpenMode::Read).map_err(|error| Error::io(path, "open a segment", error))?;
    let head = match SegmentHead::read(&*file, path) {
        Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
        Err(_) => return Ok(None),
        Ok(head) => head,
    };
    let position = file.len().map_err(|error| Error::io(path, "measure a segment", error))?;
    let end = SegmentEnd { position, offset: LogOffset(u64::MAX), ..SegmentEnd::empty(&head) };
    let found = salvage(disk, path, &head, end)?;
    Ok(found.and_then(|found| found.runs.last().map(|run| (head, run.offsets.end))))
}

/// Writes the batches of `run`, which are in the segment `from`, as the whole segment `head` in `dir`; durable but for
/// its name. What has that name is written over: the rest of an attempt. Its end has the times of `times`, the end of
/// the segment that it is a part of.
pub(crate) fn copy_run(
    disk: &dyn Disk,
    dir: &Path,
    (from, salt): (&Path, u64),
    run: &Run,
    head: &SegmentHead,
    times: SegmentEnd,
) -> Result<SegmentEnd> {
    let source = disk.open(from, OpenMode::Read).map_err(|error| Error::io(from, "open a segment", error))?;
    let path = head.path(dir);
    let doing = |error| Error::io(&path, "write a segment", error);
    let file = disk.open(&path, OpenMode::Create).map_err(doing)?;
    file.set_len(0).and_then(|()| file.write_all_at(&head.encode(), 0)).map_err(doing)?;
    let len = source.len().map_err(|error| Error::io(from, "measure a segment", error))?;
    let mut window = Window { file: &*source, path: from, len, start: 0, bytes: Vec::new() };
    let (mut at, mut to) = (run.bytes.start, SEGMENT_HEAD_BYTES);
    while at < run.bytes.end {
        let all = LogOffset(0)..LogOffset(u64::MAX);
        let changed = || Error::corrupt(from, at, "a batch has changed while it was copied");
        let batch = window.good_batch(salt, at..run.bytes.end, all)?.ok_or_else(changed)?;
        let mut bytes = window.get(at, batch.bytes)?.to_vec();
        let place = record::place_checksum(head.salt, to, &bytes);
        record::set_place(&mut bytes, place);
        file.write_all_at(&bytes, to).map_err(doing)?;
        (at, to) = (at + batch.bytes as u64, to + batch.bytes as u64);
    }
    file.sync(SyncSite::Mended).map_err(|error| Error::sync(&path, "sync a segment", error))?;
    Ok(SegmentEnd { position: to, offset: run.offsets.end, max_timestamp_ms: run.max_timestamp_ms, ..times })
}

/// A part of a file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    /// Of the file.
    len: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// `count` bytes at `position`, fewer where the file ends.
    fn get(&mut self, position: u64, count: usize) -> Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        let wanted = position..self.len.min(position.saturating_add(count as u64)).max(position);
        if wanted.start < held.start || wanted.end > held.end {
            self.bytes.resize(count.max(WINDOW_BYTES), 0);
            let read = self.file.read_full_at(&mut self.bytes, position);
            let read = read.map_err(|error| Error::io(self.path, "read a segment", error))?;
            self.bytes.truncate(read);
            self.start = position;
        }
        let skipped = usize::try_from(position - self.start).unwrap_or(usize::MAX).min(self.bytes.len());
        let end = skipped.saturating_add(count).min(self.bytes.len());
        Ok(&self.bytes[skipped..end])
    }

    /// The head of the batch at the beginning of `bytes`, if there is a good one that is no longer than they are and
    /// has offsets out of `offsets` only.
    fn good_batch(&mut self, salt: u64, bytes: Range<u64>, offsets: Range<LogOffset>) -> Result<Option<BatchHead>> {
        let at = bytes.start;
        let head = self.get(at, record::BATCH_HEAD_BYTES)?;
        let Ok(batch) = BatchHead::peek(head) else { return Ok(None) };
        let fits = batch.bytes as u64 <= bytes.end.saturating_sub(at)
            && batch.base_offset >= offsets.start
            && batch.next_offset() <= offsets.end;
        if !fits || !same(CheckSite::BatchPlace, batch.place, record::place_checksum(salt, at, head)) {
            return Ok(None);
        }
        let whole = self.get(at, batch.bytes)?;
        Ok((whole.len() == batch.bytes && is_good(whole)).then_some(batch))
    }
}

/// Whether all records can be read, or would be by another build of the library.
fn is_good(bytes: &[u8]) -> bool {
    let inflated = Inflated::default();
    match Batch::open(bytes, &inflated) {
        Ok(batch) => batch.records().all(|record| record.is_ok()),
        Err(BatchError::NotBuiltIn(_) | BatchError::NotKnown(_)) => true,
        Err(_) => false,
    }
}
