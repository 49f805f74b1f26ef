//! The archive of the journal: every frame is kept, so that a backup can be brought to any later point.
//!
//! ```text
//! trim point moves: frames behind the old one -> spool (durable) -> manifest -> journal files are given up
//!                                                   | by a thread of its own
//!                                                   v
//!                            TARGET/journal/STORE/OWNER/PIECE.frames, then the spool file is removed
//! ```
//!
//! Invariants:
//! * No trim point passes a frame that is not in the spool or in the archive, the ones that end a recovery included. So
//!   the trim point says how far the frames are kept. With it the manifest says from where on, and the [`Link`] of the
//!   last one, which the next piece follows: a trim point of an opening that does not archive takes that away, so the
//!   next one that does knows that there is a gap, and begins anew.
//! * What is spooled was durable in the journal: no recovery ever takes it back. A crash between spool and manifest has
//!   the same frames spooled again, in other pieces; whoever reads them takes each once.
//! * Nothing waits for the target, which may be far away: a spool that grows beyond its limit refuses what is new.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Core;
use super::layout::make_dir;
use super::manifest::{Archived, Manifest};
use super::options::StoreOptions;
use crate::backup::{BackupTarget, JOURNAL, Link, PIECE_BYTES_MAX, Piece, PieceName, TimeMark};
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
/// Added to the name of a file in the spool that has rotted.
const DAMAGED: &str = "damaged";
/// A file of the spool that cannot be read so often is set aside, so that its frames are known to be missing.
const READS_MAX: u32 = 8;
/// What could not be brought to the target is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Stock of the spool is taken behind so many pieces.
const PIECES_BETWEEN_LOOKS: usize = 64;
/// The end of a store is held up for about so long; what is not in the target by then is for the next opening.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);

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
    /// Files in the spool that had rotted.
    pub(super) set_aside: AtomicU64,
    /// How often files of the spool could not be read.
    unreadable: Mutex<BTreeMap<PathBuf, u32>>,
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

    /// From which frame on there is no gap.
    pub(super) fn archive_from(&self) -> Option<Lsn> {
        let archived = self.manifest.lock().archived();
        archived.filter(|_| self.options.journal_archive.is_some()).map(|archived| archived.from)
    }

    /// Keeps the frames between the trim point in force and `position`, which is about to follow it. Durable on return.
    /// Gives what the manifest says of the archive with that trim point.
    ///
    /// # Errors
    /// `Full`: no room; nothing has changed.
    pub(super) fn spool_until(&self, position: JournalPosition) -> Result<Option<Archived>> {
        let (from, archived) = {
            let manifest = self.manifest.lock();
            (manifest.trim_position().unwrap_or(position), manifest.archived())
        };
        let is_new = from.next_lsn < position.next_lsn;
        if self.options.journal_archive.is_none() {
            return Ok(archived.filter(|_| !is_new));
        }
        let begun = archived.unwrap_or_else(|| Archived { from: from.next_lsn, link: begin_at(self.store, &from) });
        if !is_new {
            return Ok(Some(begun));
        }
        self.make_spool()?;
        let marks = std::mem::take(&mut self.archiving.marks.lock().marks);
        let spooled = self.spool_frames(from, position, begun.link, &marks);
        let after = spooled.inspect_err(|_| {
            // For the next try.
            self.archiving.marks.lock().marks.splice(..0, marks.iter().copied());
        })?;
        let dir = &self.layout.archive;
        self.disk
            .sync_dir(dir, SyncSite::ArchiveDir)
            .map_err(|error| Error::sync(dir, "sync the spool of the archive", error))?;
        self.note_spool();
        self.archiving.spooled.notify_all();
        Ok(Some(Archived { link: after, ..begun }))
    }

    /// Writes the frames of the journal from one place to another, behind that with the link `before`, to files of the
    /// spool. Gives the link of the last one.
    fn spool_frames(
        &self,
        from: JournalPosition,
        to: JournalPosition,
        before: Link,
        marks: &[TimeMark],
    ) -> Result<Link> {
        let (now_ms, last) = (self.options.clock.now_ms(), Lsn(to.next_lsn.0 - 1));
        let (store, owner) = (self.store, &self.layout.name);
        let mut piece = Piece::begin(store, self.identity, owner, (from.next_lsn, before));
        journal::replay(&*self.disk, &self.layout.journal, store, from, Some(last), |lsn, body| {
            piece.push(lsn, body);
            if piece.frames.len() >= PIECE_BYTES || lsn == last {
                let next = Piece::begin(store, self.identity, owner, (lsn.next(), piece.after));
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
        Ok(piece.after)
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
        self.sweep_spool();
        self.archiving.is_made.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// What earlier openings were writing when they were killed. Best effort.
    fn sweep_spool(&self) {
        let found = self.disk.list(&self.layout.archive).unwrap_or_default();
        for left in found.iter().filter(|path| path.extension().is_some_and(|kind| kind == "new")) {
            if let Err(error) = self.disk.remove(left) {
                tracing::warn!(%error, file = %left.display(), "an unfinished piece of the archive stays");
            }
        }
    }

    fn spool(&self, piece: &Piece) -> Result<()> {
        let dir = &self.layout.archive;
        let path = dir.join(piece.name().to_string());
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
        let set_aside = found.iter().filter(|path| path.extension().is_some_and(|kind| kind == DAMAGED)).count();
        self.archiving.set_aside.store(set_aside as u64, Ordering::SeqCst);
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
        self.ship_while(|| true)
    }

    /// As [`Core::ship_spool`], at the end of the store: a target that is slow does not hold it up for long.
    pub(super) fn ship_last(&self) -> Result<u64> {
        let clock = &self.options.clock;
        let until = clock.monotonic().saturating_add(CLOSE_WITHIN);
        self.ship_while(|| clock.monotonic() < until)
    }

    fn ship_while(&self, goes_on: impl Fn() -> bool) -> Result<u64> {
        let Some(options) = &self.options.journal_archive else { return Ok(0) };
        let pieces = self.spooled().inspect_err(|error| self.note_archive_failure(error))?;
        let shipped = self.ship_pieces(&options.target, pieces, goes_on);
        self.note_spool();
        shipped
    }

    fn ship_pieces(&self, target: &BackupTarget, pieces: Vec<PathBuf>, goes_on: impl Fn() -> bool) -> Result<u64> {
        let (mut shipped, mut met) = (0, None);
        for (at, path) in pieces.into_iter().enumerate().take_while(|_| goes_on()) {
            // Whoever waits for room need not wait for the last one; but it looks at all of them.
            if at % PIECES_BETWEEN_LOOKS == PIECES_BETWEEN_LOOKS - 1 {
                self.note_spool();
            }
            let Err(not_shipped) = self.ship(target, &path) else {
                shipped += 1;
                self.archiving.unreadable.lock().remove(&path);
                continue;
            };
            self.note_archive_failure(not_shipped.error());
            // None keeps those behind it from being archived.
            match not_shipped {
                NotShipped::Damaged(_) => self.set_aside(&path)?,
                NotShipped::Unreadable(_) if self.is_given_up(&path) => self.set_aside(&path)?,
                NotShipped::Unreadable(_) | NotShipped::Newer(_) => {}
                // Twice, and it is not the piece.
                NotShipped::OfTarget(error) if met.is_some() => return Err(error),
                NotShipped::OfTarget(error) => met = Some(error),
            }
        }
        met.map_or(Ok(shipped), Err)
    }

    /// Whether a file of the spool has failed to be read so often that it is not waited for any longer.
    fn is_given_up(&self, path: &Path) -> bool {
        let mut unreadable = self.archiving.unreadable.lock();
        let failed = unreadable.entry(path.to_owned()).or_default();
        *failed += 1;
        let is_given_up = *failed >= READS_MAX;
        if is_given_up {
            unreadable.remove(path);
        }
        is_given_up
    }

    fn ship(&self, target: &BackupTarget, path: &Path) -> std::result::Result<(), NotShipped> {
        let Some(name) = piece_of(path) else { return Ok(()) };
        let read = self.disk.open(path, OpenMode::Read).and_then(|file| file.read_whole(PIECE_BYTES_MAX));
        let bytes = read.map_err(|error| match Error::io(path, "read the spool of the archive", error) {
            too_long if too_long.kind() == ErrorKind::Corrupt => NotShipped::Damaged(too_long),
            error => NotShipped::Unreadable(error),
        })?;
        // Rot is not archived as if it were frames.
        let piece = Piece::decode(&bytes, path).map_err(|error| match error.kind() {
            ErrorKind::UnsupportedVersion => NotShipped::Newer(error),
            _ => NotShipped::Damaged(error),
        })?;
        if (piece.store, &piece.owner, piece.name()) != (self.store, &self.layout.name, name) {
            let what = "frames that are spooled under another name than theirs";
            return Err(NotShipped::Damaged(Error::corrupt(path, 0, what)));
        }
        // Frames of before the store was adopted belong to what it was called then.
        let folder = archive_folder(piece.identity, &piece.owner);
        let written = target.write_object(&format!("{folder}/{name}"), &bytes);
        written.and_then(|()| target.settle_folder(&folder)).map_err(NotShipped::OfTarget)?;
        // Were this undone by a power cut, it is archived once more.
        match self.disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NotShipped::Unreadable(Error::io(path, "remove what is archived", error)))
            }
            _ => Ok(()),
        }
    }

    /// Keeps what has rotted for whoever looks into it; its frames are missing in the archive, which whoever looks
    /// there is told. Were this undone by a power cut, it is done once more.
    fn set_aside(&self, path: &Path) -> Result<()> {
        let aside = path.with_extension(format!("frames.{DAMAGED}"));
        let moved = self.disk.rename(path, &aside);
        moved.map_err(|error| Error::io(path, "set a damaged piece of the archive aside", error))?;
        tracing::error!(file = %aside.display(), "frames are missing in the archive: make a backup");
        Ok(())
    }

    fn note_archive_failure(&self, error: &Error) {
        self.archiving.failures.fetch_add(1, Ordering::SeqCst);
        let behind = self.archiving.behind.load(Ordering::SeqCst);
        tracing::error!(%error, owner = self.layout.name, behind, "frames of the journal cannot be archived");
    }
}

/// Why a piece is not in the target.
enum NotShipped {
    /// It is not what was spooled.
    Damaged(Error),
    /// Its file cannot be read, or not be removed.
    Unreadable(Error),
    /// A newer program has spooled it.
    Newer(Error),
    OfTarget(Error),
}

impl NotShipped {
    fn error(&self) -> &Error {
        match self {
            NotShipped::Damaged(error)
            | NotShipped::Unreadable(error)
            | NotShipped::Newer(error)
            | NotShipped::OfTarget(error) => error,
        }
    }
}

/// The name of a piece; `None`: the file is something else.
fn piece_of(path: &Path) -> Option<PieceName> {
    PieceName::read(path.file_name()?.to_str()?)
}

/// The link of the frame before that place, where nothing is archived before it: whatever else was written in the life
/// of that journal file is in the chain.
pub(super) fn begin_at(store: StoreId, at: &JournalPosition) -> Link {
    let half = |from: usize| u64::from_le_bytes(std::array::from_fn(|byte| store.0[from + byte]));
    Link::begin(&[half(8), half(0), at.salt, at.position, u64::from(at.chain), at.next_lsn.0])
}

/// The first frame that is archived from now on, if frames before it are not.
pub(super) fn archive_gap(options: &StoreOptions, found: &Manifest) -> Option<Lsn> {
    let (at, _) = found.trim.as_ref().filter(|_| options.journal_archive.is_some() && found.archived.is_none())?;
    let gap = Some(at.next_lsn).filter(|first| *first > Lsn(1))?;
    tracing::warn!(frame = gap.0, "the journal was not archived up to this frame: make a backup");
    Some(gap)
}

/// The thread that brings the spool to the target. Dropping it ends and joins it; what is spooled then is brought to
/// the target by [`Core::ship_last`], or by the next opening.
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
        let _ = core.ship_while(|| !archiving.stop.load(Ordering::SeqCst));
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
