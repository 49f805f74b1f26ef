//! Places that a store must not be in, and two directories that are one store.
//!
//! A copied directory has the identity of the first. Opened beside it on one machine it is refused, by a lock in the
//! runtime directory that is named by identity and owner. It is asked for when the manifest is locked already: so who
//! else has it has another manifest, or is about to let go of this one.

use std::path::Path;
use std::time::Duration;

use super::layout::{Layout, MAIN};
use super::manifest::ManifestFile;
use super::options::StoreOptions;
use crate::chance::Chance;
use crate::disk::OpenMode;
use crate::disk::machine::{OpenAt, RuntimeLock, Taken, network_file_system, take_runtime_lock};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{StoreId, escape_name};

/// How long a process that is ending may take to let go of all its locks, and with what pause it is asked.
const ENDING_TRIES: u32 = 400;
const ENDING_PAUSE: Duration = Duration::from_millis(5);

/// Refuses file systems whose locks are not those of this machine.
pub(super) fn check_place(options: &StoreOptions, layout: &Layout) -> Result<()> {
    if options.network || !options.disk.is_of_machine() {
        return Ok(());
    }
    let doing = |error| Error::io(&layout.dir, "ask for the file system", error);
    let Some(kind) = network_file_system(&layout.dir).map_err(doing)? else { return Ok(()) };
    let what = format!("the directory is on a network file system ({kind}), whose locks are not to be relied on");
    Err(Error::new(ErrorKind::Unavailable, what).in_file(&layout.dir))
}

/// Makes sure that no copy of this owner is open on this machine, for as long as the lock is kept.
///
/// # Errors
/// `Locked`: one is.
pub(super) fn lock(options: &StoreOptions, layout: &Layout, identity: StoreId) -> Result<Option<RuntimeLock>> {
    if !options.disk.is_of_machine() {
        return Ok(None);
    }
    let doing = |error| Error::io(&layout.manifest, "look for copies of the store", error);
    let manifest = options.disk.identity(&layout.manifest).map_err(doing)?;
    let at = std::path::absolute(&layout.dir).map_err(doing)?;
    let ours = OpenAt { manifest, dir: at.to_string_lossy().into_owned() };
    let key = format!("{identity}-{}", escape_name(&layout.name));
    let mut other = None;
    for _ in 0..ENDING_TRIES {
        match take_runtime_lock(&key, &ours) {
            Ok(Some(Taken::Held(lock))) => return Ok(Some(lock)),
            Ok(Some(Taken::Busy(busy))) => other = busy,
            Ok(None) => return Ok(None),
            Err(error) => {
                // The store is as safe without; only copies are not recognised.
                tracing::warn!(%error, "no lock in the runtime directory");
                return Ok(None);
            }
        }
        if let Some(other) = other.as_ref().filter(|other| other.manifest != manifest) {
            let there = Layout::of(Path::new(&other.dir), &layout.name).manifest;
            if options.disk.identity(&there).is_ok_and(|there| there == manifest) {
                // No copy: this directory, whose manifest was replaced under its holder. The fence keeps that one out.
                return Ok(None);
            }
            break;
        }
        options.clock.sleep(ENDING_PAUSE);
    }
    let at = other.map_or_else(|| "an unknown place".to_owned(), |other| other.dir);
    let what = format!("a copy of this store is open at {at}; Store::adopt gives this one an identity of its own");
    Err(Error::locked(&layout.dir, what, None))
}

/// See [`Store::adopt`](super::Store::adopt).
pub(super) fn adopt(options: &StoreOptions, dir: &Path) -> Result<StoreId> {
    let disk = &*options.disk;
    let layout = Layout::of(dir, MAIN);
    let chance = Chance::from_os()?;
    layout.ensure_store(disk, &chance, false)?;
    let (store, _) = layout.read_identities(disk)?;
    let mut locked = Vec::new();
    let owners = disk.list(&layout.owners).map_err(|error| Error::io(&layout.owners, "list the owners", error))?;
    for owner in owners.iter().filter(|path| !path.ends_with("LOCK")) {
        let manifest = owner.join("MANIFEST");
        if ManifestFile::peek(disk, &manifest)?.is_some() {
            locked.push(ManifestFile::lock(disk, &manifest, OpenMode::Write)?);
        }
    }
    let identity = StoreId(std::array::from_fn(|_| chance.next_u64().to_le_bytes()[0]));
    layout.write_store_file(disk, store, identity)?;
    drop(locked);
    Ok(identity)
}
