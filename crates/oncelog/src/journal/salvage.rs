//! What is still good in a damaged journal: for a repair, which keeps the frames before the damage.
//!
//! A frame behind a damaged one is whole, and is not taken: its rows and records build on what is lost, so what it
//! would make was never the state of the store. What is kept is a prefix, which is what every crash leaves too. Frames
//! behind are looked at for one thing: the offsets that they gave out, which are never given out again.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::{FILE_HEAD_BYTES, FileName, JournalFile, JournalPosition, read_head};
use super::frame::{self, Kind, STEP};
use super::replay::{FILE_BYTES_MAX, Replayed, replay_into};
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StoreId};

/// Where a journal is damaged that was once durable there.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) error: Error,
    /// Where the next frame would have been.
    pub(crate) at: JournalPosition,
}

/// Hands every frame's LSN and body from `start` on to `each`, as [`replay`](super::replay) does, but ends where one is
/// damaged or gone. A file whose head alone is damaged is read all the same: the frames say themselves where they
/// belong.
///
/// # Errors
/// Whatever `each` fails with; `Unavailable`: a file cannot be read; `UnsupportedVersion`.
pub(crate) fn salvage(
    disk: &dyn Disk,
    dir: &Path,
    store: StoreId,
    start: JournalPosition,
    mut each: impl FnMut(Lsn, &[u8]) -> Result<()>,
) -> Result<(Replayed, Option<Cut>)> {
    let mut done = Replayed { frames: 0, frames_bytes: 0, end: start, torn: None };
    let mut refused = false;
    let mut each = |lsn: Lsn, body: &[u8]| each(lsn, body).inspect_err(|_| refused = true);
    let open = |at: &JournalPosition| open_anyhow(disk, dir, store, at);
    match replay_into(&mut done, (disk, dir, store), None, open, &mut each) {
        Ok(()) => Ok((done, None)),
        Err(error) if error.kind() == ErrorKind::Corrupt && !refused => {
            let at = done.end;
            Ok((done, Some(Cut { error, at })))
        }
        Err(error) => Err(error),
    }
}

fn open_anyhow(disk: &dyn Disk, dir: &Path, store: StoreId, at: &JournalPosition) -> Result<JournalFile> {
    let damaged = match JournalFile::open(disk, dir, store, at.file, at.salt, OpenMode::Read) {
        Err(error) if error.kind() == ErrorKind::Corrupt => error,
        opened => return opened,
    };
    let path = at.file.path(dir);
    let file = match disk.open(&path, OpenMode::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(damaged),
        opened => opened.map_err(|error| Error::io(&path, "open a journal file", error))?,
    };
    match read_head(&*file, &path, store) {
        // Whole, and of another life: the frames of this one were given up or written over.
        Ok(_) => return Err(damaged),
        Err(error) if error.kind() == ErrorKind::Corrupt => {}
        Err(error) => return Err(error),
    }
    let bytes = file.len().map_err(|error| Error::io(&path, "measure a journal file", error))?;
    Ok(JournalFile { name: at.file, path, salt: at.salt, bytes, file })
}

/// What lies behind a cut.
#[derive(Debug, Default)]
pub(crate) struct Behind {
    /// Bytes of files, from where they are no longer needed to the last that is not zero.
    pub(crate) files: Vec<(PathBuf, Range<u64>)>,
    /// The newest LSN of a frame there.
    pub(crate) last: Lsn,
    /// How many frames are whole.
    pub(crate) frames: u64,
}

/// Looks at what is behind `at`, and hands the bodies of the frames that are whole to `each`.
///
/// # Errors
/// `Unavailable`: a file cannot be read.
pub(crate) fn behind(
    disk: &dyn Disk,
    dir: &Path,
    store: StoreId,
    at: &JournalPosition,
    mut each: impl FnMut(&[u8]),
) -> Result<Behind> {
    let mut found = Behind { last: Lsn(at.next_lsn.0.saturating_sub(1)), ..Behind::default() };
    let mut paths = disk.list(dir).map_err(|error| Error::io(dir, "list the journal", error))?;
    paths.sort();
    for path in paths {
        let Some(name) = FileName::of_path(&path).filter(|name| name.epoch >= at.file.epoch) else { continue };
        let doing = |error| Error::io(&path, "read the journal", error);
        let file = disk.open(&path, OpenMode::Read).map_err(doing)?;
        let whole = file.read_whole(FILE_BYTES_MAX).map_err(doing)?;
        let (salt, start) = match read_head(&*file, &path, store) {
            _ if name == at.file => (Some(at.salt), at.position),
            Ok(head) => (Some(head.salt), FILE_HEAD_BYTES),
            Err(_) => (None, 0),
        };
        let frames = salt.map_or(0, |salt| look(&whole, salt, start, at.next_lsn, &mut found, &mut each));
        let end = whole.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
        // A spare file has no frame of its life; one whose head is damaged may have.
        if end > start && (frames > 0 || name == at.file || salt.is_none()) {
            found.files.push((path, start..end));
        }
    }
    Ok(found)
}

/// Gives how many frames of this life are there, whole or not.
fn look(whole: &[u8], salt: u64, start: u64, from: Lsn, found: &mut Behind, each: &mut impl FnMut(&[u8])) -> u64 {
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(whole.len());
    let mut heads = 0;
    for at in (start..whole.len()).step_by(STEP) {
        let Some(head) = frame::read_head(&whole[at..], salt, at as u64).filter(|head| head.lsn >= from) else {
            continue;
        };
        heads += 1;
        if head.kind != Kind::Data {
            continue;
        }
        found.last = found.last.max(head.lsn);
        if let Some(body) = frame::read_body(&whole[at..], &head) {
            found.frames += 1;
            each(body);
        }
    }
    heads
}
