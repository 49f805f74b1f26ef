//! The owners of a store beside `main`: how one comes to be, and how it gets its number.
//!
//! Numbers are part of topic ids, so none is given twice. They are given under the lock of the file `owners/LOCK`,
//! which is never removed: the next is one above those of all manifests. An owner is made when its manifest is whole;
//! the directories that it needs are durable before. Until then it holds only what an interrupted making may leave,
//! and the making starts over.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::{Layout, MAIN};
use super::manifest::{Manifest, ManifestFile};
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{OwnerId, StoreId, owner_name_complaint};

/// How often, and with what pause, the lock under which owners are made is tried. It is held for a few syncs.
const LOCK_TRIES: u32 = 2000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Whether `name` can name an owner.
pub(super) fn check_owner_name(name: &str) -> Result<()> {
    match owner_name_complaint(name) {
        Some(complaint) => Err(Error::invalid(format!("{name:?} cannot name an owner: {complaint}"))),
        None => Ok(()),
    }
}

impl Layout {
    /// Makes the owner if the store has none of that name. `main` is made with the store.
    ///
    /// # Errors
    /// `NotFound`: there is none and `may_create` is not set; `Full`: all numbers are given; `Corrupt`: the manifest of
    /// another owner cannot be read, and so not its number.
    pub(super) fn ensure_owner(
        &self,
        disk: &dyn Disk,
        clock: &dyn Clock,
        store: StoreId,
        may_create: bool,
    ) -> Result<()> {
        if self.name == MAIN || !is_unmade(disk, &self.owner)? {
            return Ok(());
        }
        if !may_create {
            let what = format!("the store has no owner {:?}", self.name);
            return Err(Error::new(ErrorKind::NotFound, what).in_file(&self.owner));
        }
        let _one_at_a_time = self.lock_owners(disk, clock)?;
        if !is_unmade(disk, &self.owner)? {
            return Ok(());
        }
        let number = self.next_number(disk)?;
        let mut made = Vec::new();
        self.make_owner(disk, store, number, &mut made).inspect_err(|_| {
            // As with a store: a name whose sync has failed may stay seen and never become durable.
            let _ = disk.remove(&self.manifest);
            for dir in made.iter().rev() {
                let _ = disk.remove_dir(dir);
            }
        })
    }

    /// Waits for the lock under which owners are made and names are claimed.
    pub(super) fn lock_owners(&self, disk: &dyn Disk, clock: &dyn Clock) -> Result<Box<dyn DiskFile>> {
        let path = self.owners.join("LOCK");
        let doing = |error| Error::io(&path, "lock the owners of the store", error);
        let file = disk.open(&path, OpenMode::Create).map_err(doing)?;
        for _ in 0..LOCK_TRIES {
            if file.try_lock().map_err(doing)? {
                return Ok(file);
            }
            clock.sleep(LOCK_PAUSE);
        }
        Err(Error::locked(&path, "another process is making an owner or claiming a name", None))
    }

    /// One above all that are given.
    fn next_number(&self, disk: &dyn Disk) -> Result<OwnerId> {
        let mut highest = OwnerId(0);
        let mut found = disk.list(&self.owners).map_err(|error| Error::io(&self.owners, "list the owners", error))?;
        found.sort();
        for owner in found.iter().filter(|path| !path.ends_with("LOCK")) {
            if let Some(found) = manifest_of(disk, owner)? {
                highest = highest.max(found.number);
            }
        }
        if highest == OwnerId::MAX {
            return Err(Error::new(ErrorKind::Full, "the store has all the owners it can have").in_file(&self.owners));
        }
        Ok(OwnerId(highest.0 + 1))
    }

    fn make_owner(&self, disk: &dyn Disk, store: StoreId, number: OwnerId, made: &mut Vec<PathBuf>) -> Result<()> {
        for dir in [&self.owner, &self.journal, &self.state, &self.aside] {
            match disk.create_dir(dir) {
                Ok(()) => made.push(dir.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(dir, "make an owner", error)),
            }
        }
        let sync = |dir: &Path| {
            disk.sync_dir(dir, SyncSite::OwnerDir).map_err(|error| Error::sync(dir, "make an owner", error))
        };
        // The manifest makes it an owner: whoever sees one must find what belongs to it.
        sync(&self.owner)?;
        sync(&self.owners)?;
        ManifestFile::lock(disk, &self.manifest, OpenMode::Create)?.begin(store, &self.name, number)?;
        sync(&self.owner)
    }
}

/// The manifest of the owner in that directory; `None`: its making was not finished, or it is no directory.
///
/// # Errors
/// `Corrupt`: something was written there, and there is no manifest, or no whole copy.
pub(super) fn manifest_of(disk: &dyn Disk, owner: &Path) -> Result<Option<Manifest>> {
    let path = owner.join("MANIFEST");
    if let Some(found) = ManifestFile::peek(disk, &path)? {
        return Ok(Some(found));
    }
    match is_unmade(disk, owner) {
        Ok(true) => return Ok(None),
        Ok(false) => {}
        Err(error) if error.is_not_a_directory() => return Ok(None),
        Err(error) => return Err(error),
    }
    // It may have been made meanwhile.
    let found = ManifestFile::peek(disk, &path)?;
    found.map(Some).ok_or_else(|| Error::corrupt(&path, 0, "the manifest of an owner is gone or damaged"))
}

/// Whether the making of an owner was not finished: it has no manifest and has never written anything. With files and
/// no manifest it is damaged, which its opening tells.
pub(super) fn is_unmade(disk: &dyn Disk, owner: &Path) -> Result<bool> {
    if ManifestFile::peek(disk, &owner.join("MANIFEST"))?.is_some() {
        return Ok(false);
    }
    for dir in [owner.join("journal"), owner.join("state")] {
        match disk.list(&dir) {
            Ok(files) if files.is_empty() => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) => return Ok(false),
            Err(error) => return Err(Error::io(&dir, "look for an owner", error)),
        }
    }
    Ok(true)
}
