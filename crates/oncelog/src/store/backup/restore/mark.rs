//! What says that a directory is no store yet, while it is filled.

use std::io;
use std::path::{Path, PathBuf};

use super::super::super::layout::{Layout, make_dir_all};
use super::RestoreOptions;
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, Result};
use crate::wake::Arc;

impl RestoreOptions {
    /// Makes the directory, with what says that it is no store yet; holds the lock on that. What an earlier attempt has
    /// left is taken away.
    pub(super) fn mark(&self, layout: &Layout, bytes: Vec<u8>) -> Result<RestoreMark> {
        let (disk, dir, path) = (&*self.disk, &layout.dir, &layout.store_file);
        let doing = |error| Error::io(path, "begin a restore", error);
        let made = make_dir_all(disk, dir, &mut Vec::new()).and_then(|()| disk.list(dir));
        let found = made.map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => Error::invalid("this is a file, a store is a directory").in_file(dir),
            _ => Error::io(dir, "make the directory", error),
        })?;
        let is_left = found.contains(path);
        if let Some(other) = found.iter().find(|_| !is_left) {
            let what = "a store is restored into an empty directory, and this one holds something";
            return Err(Error::invalid(what).in_file(other));
        }
        let mode = if is_left { OpenMode::Write } else { OpenMode::CreateNew };
        let file = disk.open(path, mode).map_err(doing)?;
        if !file.try_lock().map_err(doing)? {
            return Err(Error::locked(path, "another process restores into this directory", None));
        }
        for left in found.iter().filter(|left| *left != path) {
            remove_tree(disk, left).map_err(|error| Error::io(left, "remove what a restore has left", error))?;
        }
        let written = file.set_len(0).and_then(|()| file.write_all_at(&bytes, 0));
        written.and_then(|()| file.sync(SyncSite::RestoreFile)).map_err(doing)?;
        disk.sync_dir(dir, SyncSite::RestoreDir).map_err(doing)?;
        Ok(RestoreMark { disk: Arc::clone(&self.disk), path: path.clone(), _locked: file })
    }
}

/// Says that a directory was empty, or held what a restore had left, before it was restored into.
pub(in crate::store::backup) struct RestoreMark {
    disk: Arc<dyn Disk>,
    /// Of `RESTORING`.
    path: PathBuf,
    _locked: Box<dyn DiskFile>,
}

impl RestoreMark {
    /// Removes what was restored, with the directory. A crash on the way leaves a directory that says that it is no
    /// store.
    pub(in crate::store::backup) fn remove_restored(self) -> Result<()> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        let removed = self.remove_all(dir);
        removed.map_err(|error| Error::io(dir, "remove what was restored", error))
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        let store = dir.join("STORE");
        if self.disk.list(dir)?.contains(&store) {
            self.disk.rename(&store, &self.path)?;
        }
        let inside = self.disk.list(dir)?;
        inside.iter().filter(|path| **path != self.path).try_for_each(|path| remove_tree(&*self.disk, path))?;
        self.disk.remove(&self.path)?;
        match self.disk.remove_dir(dir) {
            // It was given as a symbolic link to a directory, which is empty again.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            removed => removed,
        }
    }
}

/// Removes a file, or a directory with all that is in it. Of a symbolic link only the link: what it leads to is not
/// what a restore has made.
pub(super) fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let Err(error) = disk.remove(path) else { return Ok(()) };
    let Ok(inside) = disk.list(path) else { return Err(error) };
    inside.iter().try_for_each(|path| remove_tree(disk, path))?;
    disk.remove_dir(path)
}
