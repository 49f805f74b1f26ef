//! What says that a directory is no store yet, while it is filled.

use std::io;
use std::path::{Path, PathBuf};

use super::super::super::layout::{Layout, is_cut_store_file, make_dir_all, read_store_file};
use super::RestoreOptions;
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, Result};
use crate::wake::Arc;

/// What an interrupted restore may leave beside its mark.
const MADE: [&str; 4] = ["owners", "topics", "tables", "consumers"];

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
            return Err(holds_something(other));
        }
        let mode = if is_left { OpenMode::Write } else { OpenMode::CreateNew };
        let file = disk.open(path, mode).map_err(doing)?;
        if !file.try_lock().map_err(doing)? {
            return Err(Error::locked(path, "another process restores into this directory", None));
        }
        let left = self.left_by_a_restore(layout, &*file)?;
        for left in &left {
            remove_tree(disk, left).map_err(|error| Error::io(left, "remove what a restore has left", error))?;
        }
        if !left.is_empty() {
            // Before the mark is written anew: one that was cut short says that there is nothing beside it.
            disk.sync_dir(dir, SyncSite::RestoreDir).map_err(doing)?;
        }
        let written = file.set_len(0).and_then(|()| file.write_all_at(&bytes, 0));
        written.and_then(|()| file.sync(SyncSite::RestoreFile)).map_err(doing)?;
        disk.sync_dir(dir, SyncSite::RestoreDir).map_err(doing)?;
        Ok(RestoreMark { disk: Arc::clone(&self.disk), path: path.clone(), _locked: file })
    }
}

impl RestoreOptions {
    /// What is beside the mark, which is locked: all of it was left by a restore, or nothing is touched.
    fn left_by_a_restore(&self, layout: &Layout, file: &dyn DiskFile) -> Result<Vec<PathBuf>> {
        let (disk, dir, path) = (&*self.disk, &layout.dir, &layout.store_file);
        let doing = |error| Error::io(path, "begin a restore", error);
        let is_in_place = match disk.identity(path) {
            Ok(found) => found == file.identity().map_err(doing)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(doing(error)),
        };
        let found = disk.list(dir).map_err(doing)?;
        if !is_in_place {
            // Whoever had the lock before has made a store of it, or removed it.
            let other = Error::locked(path, "another process restores into this directory", None);
            return Err(found.iter().find(|found| *found != path).map_or(other, |store| holds_something(store)));
        }
        let bytes = file.read_whole(4096).map_err(doing)?;
        let is_mark = read_store_file(&bytes, path).is_ok();
        if !is_mark && !is_cut_store_file(&bytes) {
            let what = "this is not what a restore has left; a store is restored into an empty directory";
            return Err(Error::invalid(what).in_file(path));
        }
        let is_made = |found: &Path| is_mark && MADE.iter().any(|name| found.ends_with(name));
        let (left, others): (Vec<_>, Vec<_>) =
            found.into_iter().filter(|found| found != path).partition(|found| is_made(found));
        others.first().map_or(Ok(left), |other| Err(holds_something(other)))
    }
}

fn holds_something(other: &Path) -> Error {
    Error::invalid("a store is restored into an empty directory, and this one holds something").in_file(other)
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
            self.disk.sync_dir(dir, SyncSite::RestoreDir)?;
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
