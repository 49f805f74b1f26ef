//! A disk in memory that fails now and then: full for a while, or a call at random. Bytes that were written stay, so a
//! store that is dropped after a failure is found as after the death of its process.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oncelog::disk::{Disk, DiskFile, FileIdentity, MapAccess, MemoryDisk, OpenMode, SharedMap, SyncSite};

/// What goes wrong.
#[derive(Default)]
pub(super) struct Faults {
    /// Nothing that takes space goes well.
    pub(super) full: AtomicBool,
    /// One of so many writes fails; 0: none.
    pub(super) writes: AtomicU64,
    /// One of so many syncs fails; 0: none.
    pub(super) syncs: AtomicU64,
    /// One of so many reads fails; 0: none.
    pub(super) reads: AtomicU64,
    /// What fails is answered as if it had gone well: nothing is written, and zeros are read.
    pub(super) is_silent: AtomicBool,
    dice: AtomicU64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Arc<Faults> {
        Arc::new(Faults { dice: AtomicU64::new(seed), ..Faults::default() })
    }

    /// All goes well from now on.
    pub(super) fn end(&self) {
        self.full.store(false, Ordering::SeqCst);
        [&self.writes, &self.syncs, &self.reads].iter().for_each(|one| one.store(0, Ordering::SeqCst));
    }

    fn strikes(&self, one_of: &AtomicU64) -> bool {
        let count = one_of.load(Ordering::Relaxed);
        count > 0 && super::draw(&self.dice).is_multiple_of(count)
    }

    fn fails(&self, one_of: &AtomicU64) -> io::Result<()> {
        let is_told = !self.is_silent.load(Ordering::Relaxed);
        if self.strikes(one_of) && is_told { Err(io::Error::other("a failure on purpose")) } else { Ok(()) }
    }

    /// Whether a read or a write is to fail without a word.
    fn swallows(&self, one_of: &AtomicU64) -> bool {
        self.is_silent.load(Ordering::Relaxed) && self.strikes(one_of)
    }

    fn takes_space(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

pub(super) struct FailingDisk {
    pub(super) disk: Arc<MemoryDisk>,
    pub(super) faults: Arc<Faults>,
}

struct FailingFile {
    file: Box<dyn DiskFile>,
    faults: Arc<Faults>,
    /// Room that was taken ahead.
    taken: AtomicU64,
}

impl Disk for FailingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        if mode == OpenMode::CreateNew {
            self.faults.takes_space()?;
        }
        let file = self.disk.open(path, mode)?;
        Ok(Box::new(FailingFile { file, faults: Arc::clone(&self.faults), taken: AtomicU64::new(0) }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.faults.fails(&self.faults.writes)?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.faults.fails(&self.faults.writes)?;
        self.disk.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.faults.takes_space()?;
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        self.disk.identity(path)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.faults.fails(&self.faults.syncs)?;
        self.disk.sync_dir(dir, site)
    }
    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        self.disk.map_shared(path, words, access)
    }
}

impl DiskFile for FailingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        if self.faults.swallows(&self.faults.reads) {
            buffer.fill(0);
            return Ok(buffer.len());
        }
        self.faults.fails(&self.faults.reads)?;
        self.file.read_at(buffer, position)
    }
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        if self.faults.swallows(&self.faults.writes) {
            return Ok(bytes.len());
        }
        self.faults.fails(&self.faults.writes)?;
        let end = position + bytes.len() as u64;
        if end > self.taken.load(Ordering::Relaxed) && end > self.file.len()? {
            self.faults.takes_space()?;
        }
        self.file.write_at(bytes, position)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > self.file.len()? {
            self.faults.takes_space()?;
        }
        self.taken.store(0, Ordering::Relaxed);
        self.file.set_len(len)
    }
    fn preallocate(&self, end: u64) -> io::Result<()> {
        if end > self.taken.load(Ordering::Relaxed) {
            self.faults.takes_space()?;
        }
        self.taken.fetch_max(end, Ordering::Relaxed);
        self.file.preallocate(end)
    }
    fn sync(&self, site: SyncSite) -> io::Result<()> {
        self.faults.fails(&self.faults.syncs)?;
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
