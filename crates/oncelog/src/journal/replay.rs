//! Reading the journal back: every whole frame from the trim point on, and the verdict on where it ends.
//!
//! The end is one of three. *Clean*: zeros where the next frame would be. *Torn*: something else is there, and no sync
//! can have covered it: cut, kept aside, told. *Corrupt*: something else is there although a later frame, or a later
//! file, shows that a sync had covered it: an error, nothing is cut.

use std::path::{Path, PathBuf};

use super::file::{FILE_HEAD_BYTES, FileName, JournalFile, JournalPosition, read_head};
use super::frame::{self, FrameHead, HEAD_BYTES, Kind, STEP, frame_bytes};
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, Result};
use crate::ids::{Lsn, StoreId};

/// Bytes at the end of the journal that no answer ever covered, or that can no longer be told from such.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TornTail {
    pub(crate) file: PathBuf,
    pub(crate) position: u64,
    /// What was found there, from the first bad byte on; at most 1 MiB of it.
    pub(crate) bytes: Vec<u8>,
}

/// What replay found.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) frames: u64,
    pub(crate) frames_bytes: u64,
    /// Where the next frame would be.
    pub(crate) end: JournalPosition,
    pub(crate) torn: Option<TornTail>,
}

const ASIDE_BYTES_MAX: usize = 1 << 20;
/// A file holds one transaction at least; those are at most 1 GiB.
pub(super) const FILE_BYTES_MAX: u64 = 2 << 30;

/// Hands every frame's LSN and body from `start` on to `each`, in order: to the end, or up to frame `until`, which is
/// known to be durable. What is behind that may be being written, and is not judged.
///
/// # Errors
/// `Corrupt` with file and position where a frame that was once durable is damaged or gone; whatever `each` fails with.
pub(crate) fn replay(
    disk: &dyn Disk,
    dir: &Path,
    store: StoreId,
    start: JournalPosition,
    until: Option<Lsn>,
    mut each: impl FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<Replayed> {
    let mut done = Replayed { frames: 0, frames_bytes: 0, end: start, torn: None };
    let open = |at: &JournalPosition| JournalFile::open(disk, dir, store, at.file, at.salt, OpenMode::Read);
    replay_into(&mut done, (disk, dir, store), until, open, &mut each)?;
    Ok(done)
}

/// As [`replay`], from where `done` ends; what was replayed before an error is in it.
pub(super) fn replay_into(
    done: &mut Replayed,
    (disk, dir, store): (&dyn Disk, &Path, StoreId),
    until: Option<Lsn>,
    open: impl Fn(&JournalPosition) -> Result<JournalFile>,
    each: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<()> {
    let last = until.unwrap_or(Lsn(u64::MAX));
    loop {
        let at = done.end;
        if at.next_lsn > last {
            return Ok(());
        }
        let file = open(&at)?;
        let whole = file
            .file
            .read_whole(file.bytes.min(FILE_BYTES_MAX))
            .map_err(|e| Error::io(&file.path, "read the journal", e))?;
        match replay_file(&whole, done, last, each)? {
            Some((name, salt)) => {
                done.end = JournalPosition { file: name, salt, position: FILE_HEAD_BYTES, ..done.end };
            }
            None if done.end.next_lsn > last => return Ok(()),
            None if until.is_some() => return Err(was_durable(&file, done.end)),
            None => {
                done.torn = judge_end(disk, dir, store, &file, &whole, done.end)?;
                return Ok(());
            }
        }
    }
}

fn was_durable(file: &JournalFile, end: JournalPosition) -> Error {
    Error::corrupt(&file.path, end.position, format!("frame {} was durable and is damaged", end.next_lsn))
}

/// Reads the frames of one file from `done.end` on, up to `last`; gives the next file if this one was ended in order.
fn replay_file(
    whole: &[u8],
    done: &mut Replayed,
    last: Lsn,
    each: &mut dyn FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<Option<(FileName, u64)>> {
    while done.end.next_lsn <= last
        && let Some((head, body)) = frame_at(whole, done.end.salt, done.end.position)
    {
        let follows = head.lsn == done.end.next_lsn && head.chain == done.end.chain;
        if !follows {
            break;
        }
        done.end.chain = head.sum;
        if head.kind == Kind::Rotate {
            return Ok(frame::read_rotate(body));
        }
        each(head.lsn, body)?;
        done.frames += 1;
        done.frames_bytes += body.len() as u64;
        done.end.position += frame_bytes(body.len());
        done.end.next_lsn = head.lsn.next();
    }
    Ok(None)
}

fn frame_at(whole: &[u8], salt: u64, position: u64) -> Option<(FrameHead, &[u8])> {
    let bytes = whole.get(usize::try_from(position).ok()?..)?;
    let head = frame::read_head(bytes, salt, position)?;
    Some((head, frame::read_body(bytes, &head)?))
}

/// Decides what the place is where no next frame could be read.
fn judge_end(
    disk: &dyn Disk,
    dir: &Path,
    store: StoreId,
    file: &JournalFile,
    whole: &[u8],
    end: JournalPosition,
) -> Result<Option<TornTail>> {
    let start = usize::try_from(end.position).unwrap_or(usize::MAX).min(whole.len());
    let tail = &whole[start..];
    if (whole.len() as u64) < file.bytes {
        return Err(Error::corrupt(&file.path, whole.len() as u64, "a journal file was cut short"));
    }
    // How far frames of this life reach into the tail: what is torn, and never stale bytes of an earlier life.
    let mut reach = 0;
    for at in (0..tail.len()).step_by(STEP) {
        let Some(head) = frame::read_head(&tail[at..], end.salt, end.position + at as u64) else { continue };
        if head.durable >= end.next_lsn {
            return Err(was_durable(file, end));
        }
        let body = usize::try_from(head.body_bytes).unwrap_or(usize::MAX);
        reach = at.saturating_add(HEAD_BYTES).saturating_add(body).min(tail.len());
    }
    if has_later_file(disk, dir, store, end)? {
        return Err(was_durable(file, end));
    }
    let marked_end = tail.iter().take(HEAD_BYTES).all(|byte| *byte == 0);
    if reach == 0 && marked_end {
        return Ok(None);
    }
    let kept = reach.max(HEAD_BYTES.min(tail.len())).min(ASIDE_BYTES_MAX);
    Ok(Some(TornTail { file: file.path.clone(), position: end.position, bytes: tail[..kept].to_owned() }))
}

/// Whether another file of the same opening or a later one starts with a frame after `end`. Files are only continued
/// in the next one after a sync of the whole file, so such a frame shows that all before it was durable.
fn has_later_file(disk: &dyn Disk, dir: &Path, store: StoreId, end: JournalPosition) -> Result<bool> {
    for path in disk.list(dir).map_err(|error| Error::io(dir, "list the journal", error))? {
        let Some(name) = FileName::of_path(&path) else { continue };
        if name.epoch < end.file.epoch || name == end.file {
            continue;
        }
        let Ok(file) = disk.open(&path, OpenMode::Read) else { continue };
        let Ok(head) = read_head(file.as_ref(), &path, store) else { continue };
        let mut first = [0; HEAD_BYTES];
        let read = file.read_full_at(&mut first, FILE_HEAD_BYTES);
        read.map_err(|error| Error::io(&path, "read the journal", error))?;
        // Not a rotate frame: that one has the LSN of the first frame in the file after.
        let is_later = |frame: FrameHead| frame.kind == Kind::Data && frame.lsn >= end.next_lsn;
        if frame::read_head(&first, head.salt, FILE_HEAD_BYTES).is_some_and(is_later) {
            return Ok(true);
        }
    }
    Ok(false)
}
