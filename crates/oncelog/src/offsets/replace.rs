//! Replacing a small file so that after a crash it is the old one or the new one, and a lock around that.
//!
//! The new bytes go to a file beside it, which is synced before it takes the name, and the directory after; where that
//! fails before the new name, it is taken away again. The lock is on a file of its own, which is never removed or
//! renamed: others may hold it open. Who reads one file takes no lock, and may find a name whose directory is not
//! synced yet; so it syncs the directory before it answers. What is read of several files is read under the lock, which
//! takes no right to write.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::OffsetError;
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, FileIdentity, OpenMode, SyncSite};
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

/// A file, and what is in it.
pub(super) type Opened = (Box<dyn DiskFile>, Vec<u8>);

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
        self.take(file, path)
    }

    /// Reads under the lock at `path`, also where nothing can be written: there the lock is taken through a file that
    /// is open for reading only. Where there is no file to lock, nobody has changed anything under the lock, and nobody
    /// can here; who does by another way to the same directory makes the file first, and then it is read again.
    pub(crate) fn read_locked<T>(
        &self,
        path: &Path,
        read: impl Fn() -> Result<T, OffsetError>,
    ) -> Result<T, OffsetError> {
        loop {
            let held = self.lock_to_read(path)?;
            let found = read();
            if held.is_some() || self.read(path, u64::MAX)?.is_none() {
                return found;
            }
        }
    }

    fn lock_to_read(&self, path: &Path) -> Result<Option<Held>, OffsetError> {
        let file = match self.disk.open(path, OpenMode::Create) {
            Err(error) if is_denied(&error) => match self.disk.open(path, OpenMode::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                opened => opened,
            },
            opened => opened,
        };
        self.take(file.map_err(|error| OffsetError::io(path, error))?, path).map(Some)
    }

    fn take(&self, file: Box<dyn DiskFile>, path: &Path) -> Result<Held, OffsetError> {
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
        Ok(self.read_open(path, bytes_max)?.map(|(_, bytes)| bytes))
    }

    /// As [`Ground::read`], with the file.
    pub(super) fn read_open(&self, path: &Path, bytes_max: u64) -> Result<Option<Opened>, OffsetError> {
        let open = self.disk.open(path, OpenMode::Read);
        match open.and_then(|file| file.read_whole(bytes_max).map(|bytes| (file, bytes))) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(OffsetError::bad_file(path, error)),
            Err(error) => Err(OffsetError::io(path, error)),
        }
    }

    /// Whether `path` names the file that is open. `false` too where the disk does not know.
    pub(super) fn is_named(&self, path: &Path, file: &dyn DiskFile) -> Result<bool, OffsetError> {
        let told = |error| OffsetError::io(path, error);
        match self.disk.identity(path) {
            Ok(named) => Ok(named != FileIdentity::default() && named == file.identity().map_err(told)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(told(error)),
        }
    }

    /// What was read of `dir` stays: whoever has put a file in its place there, or taken one away, may not have come to
    /// the sync, by which a power cut would take it back from those who were shown it.
    pub(crate) fn confirm(&self, dir: &Path) -> Result<(), OffsetError> {
        self.sync_unless_read_only(dir, self.sites.read)
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

    /// Takes the names of files of one directory away, there or not; durable on return. Where the sync fails they have
    /// them again: no later sync would save that they are gone, and what was thought to be gone would be back some day.
    /// What is left of one whose names nobody has saved is passed over as what is left of a replacement is.
    pub(super) fn retire_all(&self, paths: &[PathBuf]) -> Result<(), OffsetError> {
        let mut retired = Vec::new();
        let done = paths.iter().try_for_each(|path| match self.disk.rename(path, &new_path(path)) {
            Ok(()) => {
                retired.push(path);
                Ok(())
            }
            // Somebody who was killed may have come so far, and not to the sync.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(OffsetError::io(path, error)),
        });
        let done = done.and_then(|()| paths.first().map_or(Ok(()), |path| self.sync_dir_of(path)));
        for path in retired {
            let _ = match done {
                Ok(()) => self.disk.remove(&new_path(path)),
                Err(_) => self.disk.rename(&new_path(path), path),
            };
        }
        done
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
            // Without the sync it is made anew: no later one would save it.
            Ok(()) => self.sync_dir_of(dir).inspect_err(|_| drop(self.disk.remove_dir(dir))),
            // As with a removal: made, and perhaps never synced.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.was_made(dir),
            // Told before it was looked whether it is there.
            Err(error) if is_denied(&error) && self.disk.list(dir).is_ok() => self.was_made(dir),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
                self.make_dir(above.ok_or_else(|| OffsetError::io(dir, error))?)?;
                self.make_dir(dir)
            }
            Err(error) => Err(OffsetError::io(dir, error)),
        }
    }

    fn was_made(&self, dir: &Path) -> Result<(), OffsetError> {
        self.sync_unless_read_only(dir_of(dir), self.sites.dir)
    }

    /// Nothing unwritten is kept for a file system that cannot be written.
    fn sync_unless_read_only(&self, dir: &Path, site: SyncSite) -> Result<(), OffsetError> {
        match self.disk.sync_dir(dir, site) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
            synced => synced.map_err(|error| OffsetError::io(dir, io::Error::other(error))),
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

/// Whether writing is refused, and reading may not be.
fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
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
