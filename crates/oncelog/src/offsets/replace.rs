//! Replacing a small file so that after a crash it is the old one or the new one, and a lock around that.
//!
//! The new bytes go to a file beside it, which is synced before it takes the name, and the directory after; where that
//! fails before the new name, it is taken away again. The lock is on a file of its own, which is never removed or
//! renamed: others may hold it open. Who reads takes no lock, and may find a name whose directory is not synced yet; so
//! it syncs the directory before it answers.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::OffsetError;
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::wake::Arc;

/// Where a store of small files lives, and for how long it waits for others.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long others may have the lock.
    pub(crate) patience: Duration,
    pub(crate) sites: Sites,
}

/// What the syncs of small files are for.
#[derive(Clone, Copy)]
pub(crate) struct Sites {
    /// A file, before it takes its name.
    pub(crate) file: SyncSite,
    /// The directory, when a name has changed.
    pub(crate) dir: SyncSite,
    /// The directory, before what was read there is shown.
    pub(crate) read: SyncSite,
}

/// How long others may have a lock unless another time is set.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The longest pause between two looks at a lock that is taken.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Held until it is dropped.
pub(crate) struct Held {
    _file: Box<dyn DiskFile>,
}

impl Ground {
    /// The ground of offsets.
    pub(super) fn of_offsets(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Ground {
        let sites = Sites { file: SyncSite::OffsetFile, dir: SyncSite::OffsetDir, read: SyncSite::OffsetRead };
        Ground { disk, clock, patience: PATIENCE, sites }
    }

    /// Takes the lock at `path`, which is made if it is not there.
    pub(crate) fn lock(&self, path: &Path) -> Result<Held, OffsetError> {
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
    pub(crate) fn read(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, OffsetError> {
        match self.disk.open(path, OpenMode::Read).and_then(|file| file.read_whole(bytes_max)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(OffsetError::bad_file(path, error)),
            Err(error) => Err(OffsetError::io(path, error)),
        }
    }

    /// What was read of `dir` stays: whoever has put a file in its place there, or taken one away, may not have come to
    /// the sync, by which a power cut would take it back from those who were shown it.
    pub(crate) fn confirm(&self, dir: &Path) -> Result<(), OffsetError> {
        self.sync_dir(dir, self.sites.read)
    }

    /// Makes `bytes` the file at `path`; durable on return. The caller holds the lock.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<(), OffsetError> {
        let new = new_path(path);
        let written = (|| {
            let file = self.disk.open(&new, OpenMode::Create)?;
            file.set_len(0)?;
            file.write_all_at(bytes, 0)?;
            file.sync(self.sites.file)?;
            self.disk.rename(&new, path)
        })();
        if let Err(error) = written {
            // It may take room that others want. Where it stays, whoever comes next writes over it or takes it away.
            let _ = self.disk.remove(&new);
            return Err(OffsetError::io(path, error));
        }
        self.sync_dir_of(path)
    }

    /// Removes the file at `path`, there or not; durable on return.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), OffsetError> {
        self.remove_all(&[path.to_owned()]).map(drop)
    }

    /// Removes files of one directory, there or not; durable on return. Gives how many there were.
    pub(crate) fn remove_all(&self, paths: &[PathBuf]) -> Result<u64, OffsetError> {
        let mut removed = 0;
        for path in paths {
            match self.disk.remove(path) {
                Ok(()) => removed += 1,
                // Somebody who was killed may have removed it, and not have come to the sync.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(OffsetError::io(path, error)),
            }
        }
        paths.first().map_or(Ok(()), |path| self.sync_dir_of(path))?;
        Ok(removed)
    }

    /// Makes `dir` and what is missing above it; durable on return.
    pub(crate) fn make_dir(&self, dir: &Path) -> Result<(), OffsetError> {
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
        self.sync_dir(dir_of(path), self.sites.dir)
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> Result<(), OffsetError> {
        // Never as a full disk is told: what was to be done may have happened.
        self.disk.sync_dir(dir, site).map_err(|error| OffsetError::io(dir, io::Error::other(error)))
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
