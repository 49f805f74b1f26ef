//! The archive of the journal: every frame is kept, so that a backup can be brought to any later point.
//!
//! ```text
//! trim point moves: frames behind the old one -> spool (durable) -> manifest -> journal files are given up
//!                                                   | by a thread of its own
//!                                                   v
//!                            TARGET/journal/STORE/OWNER/FIRST-LAST.frames, then the spool file is removed
//! ```
//!
//! Invariants:
//! * No trim point passes a frame that is not in the spool or in the archive, the ones that end a recovery included. So
//!   the trim point says how far the frames are kept, and nothing else need be remembered.
//! * What is spooled was durable in the journal: no recovery ever takes it back. A crash between spool and manifest has
//!   the same frames spooled again, in other pieces; whoever reads them takes each once.
//! * Nothing waits for the target, which may be far away: a spool that grows beyond its limit refuses what is new.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Core;
use super::layout::make_dir;
use crate::backup::{BackupTarget, JOURNAL, PIECE_BYTES_MAX, Piece, TimeMark, frames_of_name};
use crate::disk::{OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StoreId, escape_name};
use crate::journal::{self, JournalPosition};
use crate::wake::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering, Thread, spawn};

/// A piece is ended at about so many bytes.
const PIECE_BYTES: usize = 16 << 20;
/// The time is noted so often, if there is a new frame.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// So many notes wait for the next piece; when there are more, every second one goes.
const MARKS_MAX: usize = 4096;
/// What could not be brought to the target is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// How the journal is archived.
#[derive(Clone)]
pub(super) struct ArchiveOptions {
    pub(super) target: BackupTarget,
    pub(super) interval: Duration,
    pub(super) spool_bytes_max: u64,
}

/// What an open store keeps of its archive.
#[derive(Default)]
pub(super) struct Archiving {
    marks: Mutex<Marks>,
    /// Bytes in the spool.
    pub(super) behind: AtomicU64,
    pub(super) failures: AtomicU64,
    /// The directory of the spool is there, durably.
    is_made: AtomicBool,
    waiting: Mutex<()>,
    spooled: Condvar,
    stop: AtomicBool,
}

#[derive(Default)]
struct Marks {
    marks: Vec<TimeMark>,
    last: Option<Duration>,
    /// When the trim point last moved for the archive.
    trimmed: Option<Duration>,
}

/// Where the pieces of an owner are in a target.
pub(super) fn archive_folder(identity: StoreId, owner: &str) -> String {
    format!("{JOURNAL}/{identity}/{}", escape_name(owner))
}

impl Core {
    /// Notes the time, and says whether the trim point should move so that what is new comes to the archive.
    pub(super) fn archive_is_due(&self) -> bool {
        let Some(options) = &self.options.journal_archive else { return false };
        let (now, visible) = (self.options.clock.monotonic(), self.pipeline.view.visible());
        let is_new = visible > self.trimmed_lsn();
        let mut marks = self.archiving.marks.lock();
        if marks.last.is_none_or(|last| now.saturating_sub(last) >= MARK_EVERY) {
            marks.last = Some(now);
            if marks.marks.last().is_none_or(|mark| mark.lsn < visible) && is_new {
                marks.marks.push(TimeMark { lsn: visible, ms: self.options.clock.now_ms() });
                if marks.marks.len() > MARKS_MAX {
                    let mut at = 0;
                    marks.marks.retain(|_| {
                        at += 1;
                        at % 2 == 0
                    });
                }
            }
        }
        let since = *marks.trimmed.get_or_insert(now);
        if now.saturating_sub(since) < options.interval {
            return false;
        }
        marks.trimmed = Some(now);
        is_new
    }

    /// The last frame before the trim point.
    fn trimmed_lsn(&self) -> Lsn {
        self.manifest.lock().trim_position().map_or(Lsn(0), |at| Lsn(at.next_lsn.0 - 1))
    }

    /// Keeps the frames between the trim point in force and `position`, which is about to follow it. Durable on return.
    ///
    /// # Errors
    /// `Full`: no room; nothing has changed.
    pub(super) fn spool_until(&self, position: JournalPosition) -> Result<()> {
        if self.options.journal_archive.is_none() {
            return Ok(());
        }
        let Some(from) = self.manifest.lock().trim_position() else { return Ok(()) };
        if from.next_lsn >= position.next_lsn {
            return Ok(());
        }
        self.make_spool()?;
        let (now_ms, last) = (self.options.clock.now_ms(), Lsn(position.next_lsn.0 - 1));
        let marks = std::mem::take(&mut self.archiving.marks.lock().marks);
        let (store, owner) = (self.store, &self.layout.name);
        let mut piece = Piece::begin(store, self.identity, owner, from.next_lsn);
        journal::replay(&*self.disk, &self.layout.journal, store, from, Some(last), |lsn, body| {
            piece.push(lsn, body);
            if piece.frames.len() >= PIECE_BYTES || lsn == last {
                let next = Piece::begin(store, self.identity, owner, lsn.next());
                let mut whole = std::mem::replace(&mut piece, next);
                let within = |mark: &&TimeMark| (whole.first..=whole.last).contains(&mark.lsn);
                whole.marks = marks.iter().filter(within).copied().collect();
                if lsn == last {
                    whole.marks.push(TimeMark { lsn, ms: now_ms });
                }
                self.spool(&whole)?;
            }
            Ok(())
        })?;
        let dir = &self.layout.archive;
        self.disk
            .sync_dir(dir, SyncSite::ArchiveDir)
            .map_err(|error| Error::sync(dir, "sync the spool of the archive", error))?;
        self.note_spool();
        self.archiving.spooled.notify_all();
        Ok(())
    }

    /// Makes the directory of the spool, durably. One that is there may have been made by a process that was killed
    /// before its sync.
    fn make_spool(&self) -> Result<()> {
        if self.archiving.is_made.load(Ordering::SeqCst) {
            return Ok(());
        }
        let dir = &self.layout.archive;
        make_dir(&*self.disk, dir).map_err(|error| Error::io(dir, "make the spool of the archive", error))?;
        let synced = self.disk.sync_dir(&self.layout.owner, SyncSite::ArchiveDir);
        synced.map_err(|error| Error::sync(dir, "sync the spool of the archive", error))?;
        self.archiving.is_made.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn spool(&self, piece: &Piece) -> Result<()> {
        let dir = &self.layout.archive;
        let path = dir.join(piece.name());
        // Whoever had the owner before may still write: not to the same file.
        let new = path.with_extension(format!("{}.new", self.epoch));
        let doing = |error| Error::io(&path, "spool frames for the archive", error);
        let bytes = piece.encode();
        let file = self.disk.open(&new, OpenMode::Create).map_err(doing)?;
        file.set_len(0).and_then(|()| file.write_all_at(&bytes, 0)).map_err(|error| {
            // Space is what may be wanting.
            let _ = self.disk.remove(&new);
            doing(error)
        })?;
        let synced = file.sync(SyncSite::ArchiveFile);
        synced.map_err(|error| Error::sync(&path, "sync the spool of the archive", error))?;
        self.disk.rename(&new, &path).map_err(doing)
    }

    /// The pieces in the spool, oldest first.
    fn spooled(&self) -> Result<Vec<PathBuf>> {
        let dir = &self.layout.archive;
        let mut found = match self.disk.list(dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Error::io(dir, "list the spool of the archive", error)),
        };
        found.retain(|path| piece_of(path).is_some());
        found.sort();
        Ok(found)
    }

    /// Takes stock of the spool, and refuses what is new where it holds too much.
    pub(super) fn note_spool(&self) {
        let Some(options) = &self.options.journal_archive else { return };
        let Ok(pieces) = self.spooled() else { return };
        let size = |path: &PathBuf| self.disk.open(path, OpenMode::Read).and_then(|file| file.len()).unwrap_or(0);
        let behind: u64 = pieces.iter().map(size).sum();
        self.archiving.behind.store(behind, Ordering::SeqCst);
        self.pipeline.archive_full.store(behind >= options.spool_bytes_max, Ordering::SeqCst);
    }

    /// Brings what is spooled to the target, oldest first. Gives how many pieces that were.
    ///
    /// # Errors
    /// The target cannot be written: what is not there stays in the spool.
    pub(super) fn ship_spool(&self) -> Result<u64> {
        let Some(options) = &self.options.journal_archive else { return Ok(0) };
        let (folder, mut shipped) = (archive_folder(self.identity, &self.layout.name), 0);
        let pieces = self.spooled().inspect_err(|error| self.note_archive_failure(error))?;
        for path in pieces {
            self.ship(&options.target, &folder, &path).inspect_err(|error| self.note_archive_failure(error))?;
            shipped += 1;
            self.note_spool();
        }
        Ok(shipped)
    }

    fn ship(&self, target: &BackupTarget, folder: &str, path: &Path) -> Result<()> {
        let Some(name) = piece_of(path) else { return Ok(()) };
        let read = self.disk.open(path, OpenMode::Read).and_then(|file| file.read_whole(PIECE_BYTES_MAX));
        let bytes = read.map_err(|error| Error::io(path, "read the spool of the archive", error))?;
        // Rot is not archived as if it were frames.
        Piece::decode(&bytes, path)?;
        target.write_object(&format!("{folder}/{name}"), &bytes)?;
        target.settle_folder(folder)?;
        // Were this undone by a power cut, it is archived once more.
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(path, "remove what is archived", error))
            }
            _ => Ok(()),
        }
    }

    fn note_archive_failure(&self, error: &Error) {
        self.archiving.failures.fetch_add(1, Ordering::SeqCst);
        let behind = self.archiving.behind.load(Ordering::SeqCst);
        tracing::error!(%error, owner = self.layout.name, behind, "frames of the journal cannot be archived");
    }
}

/// The name of a piece; `None`: the file is something else.
fn piece_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str().filter(|name| frames_of_name(name).is_some())
}

/// The thread that brings the spool to the target. Dropping it ends and joins it; what is spooled then is brought to
/// the target once more, and if that fails, by the next opening.
pub(super) struct Shipping {
    core: Arc<Core>,
    thread: Option<Thread<()>>,
}

impl Shipping {
    /// `None`: nothing is archived.
    pub(super) fn start(core: &Arc<Core>) -> Result<Option<Shipping>> {
        core.note_spool();
        if core.options.journal_archive.is_none() || core.options.manual_duties {
            return Ok(None);
        }
        let theirs = Arc::clone(core);
        let thread = spawn("oncelog-archive".to_owned(), move || run(&theirs)).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no thread for the archive of the journal").because(error)
        })?;
        Ok(Some(Shipping { core: Arc::clone(core), thread: Some(thread) }))
    }
}

fn run(core: &Core) {
    let archiving = &core.archiving;
    while !archiving.stop.load(Ordering::SeqCst) {
        // Told where it failed.
        let _ = core.ship_spool();
        let waiting = archiving.waiting.lock();
        if !archiving.stop.load(Ordering::SeqCst) {
            drop(archiving.spooled.wait_timeout(waiting, TRY_AGAIN));
        }
    }
}

impl Drop for Shipping {
    fn drop(&mut self) {
        self.core.archiving.stop.store(true, Ordering::SeqCst);
        self.core.archiving.spooled.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has no panics of its own making; a target's are its end.
            let _ = thread.join();
        }
    }
}
