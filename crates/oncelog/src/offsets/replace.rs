//! Replacing a small file so that after a crash it is the old one or the new one, and a lock around that.
//!
//! The new bytes go to a file beside it, which is synced before it takes the name, and the directory after. The lock is
//! on a file of its own, which is never removed or renamed: others may hold it open. Who reads takes no lock, and may
//! find a name whose directory is not synced yet; so it syncs the directory before it answers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::OffsetError;
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::wake::Arc;

/// Where a store of offsets lives, and for how long it waits for others.
#[derive(Clone)]
pub(super) struct Ground {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    /// How long others may have the lock.
    pub(super) patience: Duration,
}

/// The longest pause between two looks at a lock that is taken.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Held until it is dropped.
pub(super) struct Held {
    _file: Box<dyn DiskFile>,
}

impl Ground {
    /// Takes the lock at `path`, which is made if it is not there.
    pub(super) fn lock(&self, path: &Path) -> Result<Held, OffsetError> {
        let file = self.disk.open(path, OpenMode::Create).map_err(|error| OffsetError::io(path, error))?;
        let until = self.clock.monotonic().saturating_add(self.patience);
        let mut pause = Duration::from_micros(100);
        loop {
            if file.try_lock().map_err(|error| OffsetError::io(path, error))? {
                return Ok(Held { _file: file });
            }
            if self.clock.monotonic() >= until {
                return Err(OffsetError::Lock { file: path.to_owned() });
            }
            self.clock.sleep(pause);
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    /// The bytes of a file; `None` where there is none.
    pub(super) fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, OffsetError> {
        match self.disk.open(path, OpenMode::Read).and_then(|file| file.read_whole(bytes_max)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(OffsetError::bad_file(path, error)),
            Err(error) => Err(OffsetError::io(path, error)),
        }
    }

    /// What was read of `dir` stays: whoever has put a file in its place there, or taken one away, may not have come to
    /// the sync, by which a power cut would take it back from those who were shown it.
    pub(super) fn confirm(&self, dir: &Path) -> Result<(), OffsetError> {
        self.sync_dir(dir, SyncSite::OffsetRead)
    }

    /// Makes `bytes` the file at `path`; durable on return. The caller holds the lock.
    pub(super) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), OffsetError> {
        let new = new_path(path);
        let written = (|| {
            let file = self.disk.open(&new, OpenMode::Create)?;
            file.set_len(0)?;
            file.write_all_at(bytes, 0)?;
            file.sync(SyncSite::OffsetFile)?;
            self.disk.rename(&new, path)
        })();
        written.map_err(|error| OffsetError::io(path, error))?;
        self.sync_dir_of(path)
    }

    /// Removes the file at `path`, there or not; durable on return.
    pub(super) fn remove(&self, path: &Path) -> Result<(), OffsetError> {
        match self.disk.remove(path) {
            Ok(()) => self.sync_dir_of(path),
            // Somebody who was killed may have removed it, and not have come to the sync.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.sync_dir_of(path),
            Err(error) => Err(OffsetError::io(path, error)),
        }
    }

    /// Makes `dir` and what is missing above it; durable on return.
    pub(super) fn make_dir(&self, dir: &Path) -> Result<(), OffsetError> {
        match self.disk.create_dir(dir) {
            Ok(()) => self.sync_dir_of(dir),
            // As with a removal: made, and perhaps never synced.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.sync_dir_of(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
                self.make_dir(above.ok_or_else(|| OffsetError::io(dir, error))?)?;
                self.make_dir(dir)
            }
            Err(error) => Err(OffsetError::io(dir, error)),
        }
    }

    fn sync_dir_of(&self, path: &Path) -> Result<(), OffsetError> {
        self.sync_dir(dir_of(path), SyncSite::OffsetDir)
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> Result<(), OffsetError> {
        self.disk.sync_dir(dir, site).map_err(|error| OffsetError::io(dir, error))
    }
}

/// The directory that a file is in.
pub(super) fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Where the next version of a file is written.
pub(super) fn new_path(path: &Path) -> PathBuf {
    with_suffix(path, ".new")
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}
