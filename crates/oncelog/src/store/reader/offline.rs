//! A store that nobody has open: a recovery in memory shows what the next owner will show.

use super::super::Store;
use super::super::layout::Layout;
use super::super::manifest::{Manifest, State};
use super::super::options::{Beside, StoreMode, StoreOptions};
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, OpenMode, OverlayDisk, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{Epoch, Lsn};
use crate::wake::Arc;

/// What the next owner will show, without its changes to the files.
pub(super) struct Offline {
    pub(super) store: Store,
    /// The opening that the manifest named.
    pub(super) epoch: Epoch,
}

impl Offline {
    /// Recovers in memory. Takes as long as a recovery, and as much memory as what it would write: the journal behind
    /// the trim point. With `failed_at`, nothing behind that LSN is believed.
    ///
    /// # Errors
    /// As an opening; `Unavailable`: the manifest or the journal could not be synced. Files may also be missing because
    /// an owner has begun to change them: ask whether the manifest still names the same opening.
    pub(super) fn recover(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        layout: &Layout,
        manifest: &Manifest,
        failed_at: Option<Lsn>,
        beside: Beside,
    ) -> Result<Offline> {
        sync_manifest(&**disk, layout)?;
        if manifest.state == State::Open && failed_at.is_none() {
            sync_journal(&**disk, layout)?;
        }
        let options = StoreOptions::new()
            .disk(Arc::new(OverlayDisk::over(Arc::clone(disk))))
            .clock(Arc::clone(clock))
            .open_mode(StoreMode::Existing)
            .manual_duties()
            .journal_file_bytes(4096)
            .trim_bytes(u64::MAX)
            .only_looks(failed_at, beside);
        let store = options.attach(&layout.dir, &layout.name)?;
        Ok(Offline { store, epoch: manifest.epoch })
    }
}

/// A process that was killed may have written frames and not synced them: they are seen, and a power cut would take
/// them back. What a reader shows must stay, so it syncs them first; that changes no byte.
pub(super) fn sync_journal(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    let dir = &layout.journal;
    let mut files = disk.list(dir).map_err(|error| Error::io(dir, "list the journal", error))?;
    files.sort();
    for path in files.iter().filter(|path| path.extension().is_some_and(|kind| kind == "journal")) {
        let file = match disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            // An owner has come; whoever asked looks again.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::io(path, "open a journal file", error)),
        };
        sync(&*file, SyncSite::ReaderJournal).map_err(|error| Error::sync(path, "sync the journal", error))?;
    }
    Ok(())
}

/// A process that was killed may have moved its trim point and not synced it. Its rows would be the same without; but
/// records that it removes would be back.
pub(super) fn sync_manifest(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    let path = &layout.manifest;
    let file = disk.open(path, OpenMode::Read).map_err(|error| Error::io(path, "open the manifest", error))?;
    sync(&*file, SyncSite::ReaderManifest).map_err(|error| Error::sync(path, "sync the manifest", error))
}

fn sync(file: &dyn DiskFile, site: SyncSite) -> std::io::Result<()> {
    match file.sync(site) {
        // Nothing unwritten is kept for a file system that cannot be written.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        synced => synced,
    }
}
