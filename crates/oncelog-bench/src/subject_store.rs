//! The store as a subject: default options, on a disk that counts syncs and passes everything on.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::disk::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, RealDisk, SharedMap, SyncSite};
use oncelog::{Bytes, Store, StoreOptions, TopicDef};

use crate::Result;
use crate::figures::{Figures, Timed};
use crate::workload::Size;

/// The topic of every workload: one partition, keys and values as bytes.
pub(crate) const TOPIC: TopicDef<Bytes, Bytes> = TopicDef::new("bench");

/// Small enough that opening a store costs next to nothing.
const JOURNAL_FILE_BYTES_QUICK: u64 = 1 << 20;

/// An open store, and what it has done to its disk.
pub(crate) struct SubjectStore {
    pub(crate) store: Store,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    syncs: AtomicU64,
    written: AtomicU64,
}

/// The options of a subject: those that a store has unless told otherwise.
pub(crate) fn options(size: Size) -> StoreOptions {
    match size {
        Size::Full | Size::Part(_) => StoreOptions::new(),
        Size::Quick => StoreOptions::new().journal_file_bytes(JOURNAL_FILE_BYTES_QUICK),
    }
}

/// Where the store is inside the directory of a run.
pub(crate) fn store_dir(dir: &Path) -> PathBuf {
    dir.join("store")
}

impl SubjectStore {
    /// Opens a new store in `dir`.
    pub(crate) fn open(dir: &Path, size: Size) -> Result<SubjectStore> {
        SubjectStore::open_with(dir, options(size))
    }

    /// Opens the store in `dir`, new or not.
    pub(crate) fn open_with(dir: &Path, options: StoreOptions) -> Result<SubjectStore> {
        let counts = Arc::new(Counts::default());
        let options = options.disk(Arc::new(CountingDisk { counts: Arc::clone(&counts) }));
        Ok(SubjectStore { store: options.open(store_dir(dir))?, counts })
    }

    /// One run: opens a new store, has `prepare` make ready what is not timed, counts the syncs of `work`, closes.
    pub(crate) fn measure<P>(
        dir: &Path,
        size: Size,
        prepare: impl FnOnce(&Store) -> Result<P>,
        work: impl FnOnce(&SubjectStore, &mut P) -> Result<Timed>,
    ) -> Result<Figures> {
        let subject = SubjectStore::open(dir, size)?;
        let mut prepared = prepare(&subject.store)?;
        subject.settle()?;
        let before = subject.syncs();
        let timed = work(&subject, &mut prepared)?;
        let figures = timed.with_syncs(subject.syncs() - before);
        // Handles hold the store open.
        drop(prepared);
        subject.store.close()?;
        Ok(figures)
    }

    /// Has done what the background would otherwise do at the first append, as a store has that is open for a while.
    fn settle(&self) -> Result<()> {
        Ok(self.store.run_duties()?)
    }

    /// Syncs of files and directories since it was opened.
    pub(crate) fn syncs(&self) -> u64 {
        self.counts.syncs.load(Ordering::Relaxed)
    }

    /// Bytes written to files since it was opened, zeros of journal files included.
    pub(crate) fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }
}

struct CountingDisk {
    counts: Arc<Counts>,
}

struct CountingFile {
    file: Box<dyn DiskFile>,
    counts: Arc<Counts>,
}

impl Disk for CountingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = RealDisk.open(path, mode)?;
        Ok(Box::new(CountingFile { file, counts: Arc::clone(&self.counts) }))
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
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
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
        let written = self.file.write_at(bytes, position)?;
        self.counts.written.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
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
        self.counts.syncs.fetch_add(1, Ordering::Relaxed);
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
