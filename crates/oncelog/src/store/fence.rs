//! The second line behind the lock: is this opening still the one that has the owner?
//!
//! The question is asked *after* the sync of a commit and before its answer. A new owner makes its epoch durable and
//! then reads the journal; so whoever still sees its own epoch after its sync knows that a later reader of the journal
//! will find its frame. A look before the write would prove nothing: a process can be stopped between the two.
//!
//! The manifest is looked up by its path, so that one that is gone or was replaced is noticed too. It costs a `stat`
//! and one read from the page cache, and no file descriptor.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::{Copy, read_copies};
use crate::codec::{CheckSite, crc32c_of, same};
use crate::disk::{Disk, DiskFile, FileIdentity, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Epoch;
use crate::wake::{Arc, AtomicBool, Mutex, Ordering};

/// How often a manifest without a whole copy of ours is read again: the background may be writing it, one copy at a
/// time, and this thread may have been stopped in the middle of its read.
const LOOKS: u32 = 8;

/// What one opening compares with.
pub(super) struct Fence {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// The locked file, until the handle ends: it must not keep the lock longer.
    file: Mutex<Option<Arc<dyn DiskFile>>>,
    identity: FileIdentity,
    epoch: Epoch,
    opening: u64,
    /// Its epoch is written.
    begun: AtomicBool,
    /// Somebody else has been seen. Sticks.
    tripped: AtomicBool,
    /// The second copy of the manifest may be in memory only.
    unsettled: AtomicBool,
}

impl Fence {
    pub(super) fn new(
        disk: &Arc<dyn Disk>,
        path: &Path,
        file: Arc<dyn DiskFile>,
        epoch: Epoch,
        opening: u64,
    ) -> Result<Fence> {
        let identity = file.identity().map_err(|error| Error::io(path, "identify the manifest", error))?;
        Ok(Fence {
            disk: Arc::clone(disk),
            path: path.to_owned(),
            file: Mutex::new(Some(file)),
            identity,
            epoch,
            opening,
            begun: AtomicBool::new(false),
            tripped: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
        })
    }

    /// From now on a manifest without this opening's epoch is another's.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
    }

    /// Lets go of the file.
    pub(super) fn end(&self) {
        *self.file.lock() = None;
    }

    /// The second copy of the manifest was written and is not synced.
    pub(super) fn is_unsettled(&self) {
        self.unsettled.store(true, Ordering::SeqCst);
    }

    /// Both copies are durable.
    pub(super) fn is_settled(&self) {
        self.unsettled.store(false, Ordering::SeqCst);
    }

    /// Makes the second copy durable that the opening has written, if nobody has since. The opening need not wait for
    /// it, since its epoch is durable by the first. But then one damaged sector, or one last write of a zombie, would
    /// bring back the epoch before; so nothing is answered as durable before both are.
    ///
    /// # Errors
    /// `InDoubt`: the sync failed.
    pub(super) fn settle(&self) -> Result<()> {
        if !self.unsettled.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Held while it syncs: whoever comes second waits for the answer of the first.
        let mut file = self.file.lock();
        if !self.unsettled.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Err(error) = file.as_ref().ok_or_else(Error::closed)?.sync(SyncSite::ManifestSecond) {
            // Never tried again.
            *file = None;
            return Err(Error::sync(&self.path, "write the manifest", error));
        }
        self.is_settled();
        Ok(())
    }

    /// Whether another opening was seen.
    pub(super) fn has_tripped(&self) -> bool {
        self.tripped.load(Ordering::SeqCst)
    }

    /// Whether this opening still has the owner.
    ///
    /// # Errors
    /// `Fenced`: no, and never again. `Unavailable`: it could not be found out.
    pub(super) fn check(&self) -> Result<()> {
        if self.has_tripped() {
            return Err(self.fenced("another process has taken this owner over"));
        }
        match self.disk.identity(&self.path) {
            Ok(found) if found == self.identity => {}
            Ok(_) => return Err(self.trip("the manifest was replaced")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.trip("the manifest was removed"));
            }
            Err(error) => return Err(Error::unknown(&self.path, "look for the manifest", error)),
        }
        let file = self.file.lock().clone().ok_or_else(Error::closed)?;
        for _ in 0..LOOKS {
            match self.look(&*file)? {
                Seen::Ours => return Ok(()),
                Seen::Another => return Err(self.trip("another process has taken this owner over")),
                Seen::Nobody => {}
            }
        }
        Err(self.trip("the manifest no longer says that this process has the owner"))
    }

    fn look(&self, file: &dyn DiskFile) -> Result<Seen> {
        let copies = match read_copies(file, &self.path) {
            // A newer program has it now.
            Err(newer) if newer.kind() == ErrorKind::UnsupportedVersion => return Ok(Seen::Another),
            copies => copies?,
        };
        let mut seen = if self.begun.load(Ordering::SeqCst) { Seen::Nobody } else { Seen::Ours };
        for copy in copies.into_iter().flatten() {
            let Copy::Whole(copy) = copy else { continue };
            let is_ours = same(CheckSite::Fence, token(copy.epoch, copy.opening), token(self.epoch, self.opening));
            if is_ours {
                seen = Seen::Ours;
            } else if copy.epoch >= self.epoch {
                return Ok(Seen::Another);
            }
        }
        Ok(seen)
    }

    fn trip(&self, what: &str) -> Error {
        self.tripped.store(true, Ordering::SeqCst);
        self.fenced(what)
    }

    fn fenced(&self, what: &str) -> Error {
        let what = format!("{what}; what was not answered may be there or not: stop");
        Error::new(ErrorKind::Fenced, what).in_file(&self.path)
    }
}

enum Seen {
    Ours,
    Another,
    Nobody,
}

fn token(epoch: Epoch, opening: u64) -> u32 {
    crc32c_of(&[&epoch.0.to_le_bytes(), &opening.to_le_bytes()])
}
