//! Directories to work in, gone afterwards.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::Result;

/// A directory of our own. Removed with everything in it when dropped.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes one inside `parent`, or else the current directory.
    pub(crate) fn make(parent: Option<&Path>) -> Result<Scratch> {
        let parent = match parent {
            Some(given) => given.to_owned(),
            None => std::env::current_dir()?,
        };
        let path = parent.join(format!(".oncelog-bench-{}", std::process::id()));
        Scratch::at(path)
    }

    /// Makes one of that name inside this one.
    pub(crate) fn inside(parent: &Path, name: &str) -> Result<Scratch> {
        Scratch::at(parent.join(name))
    }

    fn at(path: PathBuf) -> Result<Scratch> {
        fs::create_dir(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Scratch { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it and waits until the file system has done so, so that the next one to run is not charged for it.
    pub(crate) fn clear(self) -> Result<()> {
        let parent = self.path.parent().map(Path::to_owned);
        drop(self);
        parent.map_or(Ok(()), |parent| settle(&parent))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a directory that stays is seen, and nothing depends on it.
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(unix)]
fn settle(dir: &Path) -> Result<()> {
    File::open(dir)?.sync_all().map_err(io::Error::into)
}

/// Directories cannot be opened here.
#[cfg(not(unix))]
fn settle(_dir: &Path) -> Result<()> {
    Ok(())
}
