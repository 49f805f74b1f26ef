//! The store as a subject: default options, on a disk that counts syncs and passes everything on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::disk::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, RealDisk, SharedMap, SyncSite};
use oncelog::{Bytes, Store, StoreOptions, TopicDef};

use crate::Result;
use crate::workload::Size;

/// The topic of every workload: one partition, keys and values as bytes.
pub(crate) const TOPIC: TopicDef<Bytes, Bytes> = TopicDef::new("bench");

/// Small enough that opening a store costs next to nothing.
const JOURNAL_FILE_BYTES_QUICK: u64 = 1 << 20;

/// An open store, and how often it has synced.
pub(crate) struct SubjectStore {
    pub(crate) store: Store,
    syncs: Arc<AtomicU64>,
}

impl SubjectStore {
    /// Opens a new store in `dir`.
    pub(crate) fn open(dir: &Path, size: Size) -> Result<SubjectStore> {
        let syncs = Arc::new(AtomicU64::new(0));
        let mut options = StoreOptions::new().disk(Arc::new(CountingDisk { syncs: Arc::clone(&syncs) }));
        if size == Size::Quick {
            options = options.journal_file_bytes(JOURNAL_FILE_BYTES_QUICK);
        }
        Ok(SubjectStore { store: options.open(dir.join("store"))?, syncs })
    }

    /// Has done what the background would otherwise do at the first append, as a store has that is open for a while.
    pub(crate) fn settle(&self) -> Result<()> {
        Ok(self.store.run_duties()?)
    }

    /// Syncs of files and directories since it was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }
}

struct CountingDisk {
    syncs: Arc<AtomicU64>,
}

struct CountingFile {
    file: Box<dyn DiskFile>,
    syncs: Arc<AtomicU64>,
}

impl Disk for CountingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, mode)?;
        Ok(Box::new(CountingFile { file, syncs: Arc::clone(&self.syncs) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        RealDisk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.remove_dir(dir)
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        RealDisk.identity(path)
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        RealDisk.sync_dir(dir, site)
    }

    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        RealDisk.map_shared(path, words, access)
    }

    fn boot_id(&self) -> u128 {
        RealDisk.boot_id()
    }
}

impl DiskFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.file.write_at(bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn preallocate(&self, end: u64) -> io::Result<()> {
        self.file.preallocate(end)
    }

    fn sync(&self, site: SyncSite) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync(site)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.file.is_locked()
    }
}
