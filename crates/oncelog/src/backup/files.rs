//! A target that is a directory. An object is a file that is never changed: written beside, synced, renamed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::chance::Chance;
use crate::disk::{Disk, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::wake::{Arc, Mutex};

/// What a file is called while it is written; whoever finds it later knows that it is none.
const NEW: &str = "new";

/// See the module.
pub(super) struct Files {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    chance: Chance,
    /// The directories that are known to be there, with their names durable.
    made: Mutex<BTreeSet<PathBuf>>,
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf, chance: Chance) -> Files {
        Files { disk, dir, chance, made: Mutex::default() }
    }

    /// The files below `folder`, down to `depth` directories, as their names below it, in order.
    pub(super) fn list(&self, folder: &str, depth: usize) -> Result<Vec<String>> {
        let mut found = Vec::new();
        self.list_into(&self.dir.join(folder), "", depth, &mut found)?;
        found.sort();
        Ok(found)
    }

    fn list_into(&self, dir: &Path, above: &str, depth: usize, found: &mut Vec<String>) -> Result<()> {
        let paths = match self.disk.list(dir) {
            Ok(paths) => paths,
            // A directory that is not there has nothing in it; a file in the place of one is no object.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(Error::io(dir, "list the backups", error)),
        };
        for path in paths {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let name = format!("{above}{name}");
            if depth > 1 {
                self.list_into(&path, &format!("{name}/"), depth - 1, found)?;
            } else if path.extension().is_none_or(|extension| extension != NEW) {
                found.push(name);
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        let path = self.dir.join(name);
        let doing = |error| Error::io(&path, "read a backup", error);
        match self.disk.open(&path, OpenMode::Read) {
            Ok(file) => file.read_whole(bytes_max).map(Some).map_err(doing),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(doing(error)),
        }
    }

    /// The length of the file; `None`: there is none.
    pub(super) fn bytes(&self, name: &str) -> Result<Option<u64>> {
        let path = self.dir.join(name);
        match self.disk.open(&path, OpenMode::Read).and_then(|file| file.len()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::io(&path, "look at a backup", error)),
        }
    }

    /// What is in the file is durable on return; its name is when its directory is [synced](Files::settle).
    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.dir.join(name);
        match self.write_to(&path, bytes) {
            // A directory is gone that was there: another disk has come in its place, or somebody took it away.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.made.lock().clear();
                self.write_to(&path, bytes)
            }
            written => written,
        }
    }

    fn write_to(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        if let Some(dir) = path.parent() {
            self.make_dir(dir).map_err(|error| Error::io(dir, "make a directory for backups", error))?;
        }
        // Others may write the same at the same time: each under a name of its own.
        let new = path.with_extension(format!("{:016x}.{NEW}", self.chance.next_u64()));
        let written = self.disk.open(&new, OpenMode::CreateNew).and_then(|file| {
            file.write_all_at(bytes, 0)?;
            file.sync(SyncSite::BackupFile)?;
            drop(file);
            self.disk.rename(&new, path)
        });
        written.map_err(|error| {
            // Best effort: what stays is no object, and goes with the next prune.
            let _ = self.disk.remove(&new);
            Error::io(path, "write a backup", error)
        })
    }

    /// Makes the names in `folder` durable.
    pub(super) fn settle(&self, folder: &str) -> Result<()> {
        self.synced(folder, self.disk.sync_dir(&self.dir.join(folder), SyncSite::BackupDir))
    }

    /// As [`Files::settle`], of a folder that may never have been made.
    pub(super) fn settle_if_there(&self, folder: &str) -> Result<()> {
        match self.disk.sync_dir(&self.dir.join(folder), SyncSite::BackupDir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => self.synced(folder, synced),
        }
    }

    fn synced(&self, folder: &str, synced: io::Result<()>) -> Result<()> {
        synced.map_err(|error| Error::sync(&self.dir.join(folder), "sync a directory of backups", error))
    }

    /// Whether there was one.
    pub(super) fn remove(&self, name: &str) -> Result<bool> {
        let path = self.dir.join(name);
        match self.disk.remove(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io(&path, "remove a backup", error)),
        }
    }

    /// Gives a file another name, durably.
    pub(super) fn rename(&self, name: &str, to: &str) -> Result<()> {
        let (from, to) = (self.dir.join(name), self.dir.join(to));
        let renamed = self.disk.rename(&from, &to);
        renamed.map_err(|error| Error::io(&from, "set a damaged chunk aside", error))?;
        name.rsplit_once('/').map_or(Ok(()), |(folder, _)| self.settle(folder))
    }

    /// What was being written when somebody was killed.
    pub(super) fn remove_unfinished(&self, folder: &str) -> Result<()> {
        let dir = self.dir.join(folder);
        let paths = match self.disk.list(&dir) {
            Ok(paths) => paths,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            Err(error) => return Err(Error::io(&dir, "list the backups", error)),
        };
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == NEW)) {
            match self.disk.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(path, "remove an unfinished backup", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Makes a directory with those above it, durably. One that is there may have been made by somebody who was killed
    /// before the sync, so its name is synced all the same.
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        if self.made.lock().contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent
            && dir != self.dir
        {
            self.make_dir(parent)?;
        }
        match self.disk.create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        match self.disk.sync_dir(parent.unwrap_or(Path::new(".")), SyncSite::BackupDir) {
            // A directory above that cannot be opened is none that we have made.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && dir == self.dir => {}
            synced => synced?,
        }
        self.made.lock().insert(dir.to_owned());
        Ok(())
    }
}
