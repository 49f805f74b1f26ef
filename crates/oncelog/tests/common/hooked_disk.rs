//! A disk that calls the test at each write and sync, so that threads meet at the worst moment, or the disk fails.

#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oncelog::StoreOptions;
use oncelog::disk::{Disk, DiskFile, FileIdentity, MemoryDisk, OpenMode, SyncSite};

/// What is about to happen, or has just happened, on the disk.
pub(crate) enum Event<'a> {
    Open(&'a Path, OpenMode),
    Write(&'a Path, u64),
    Wrote(&'a Path),
    Sync(&'a Path, SyncSite),
    SyncDir(&'a Path),
}

pub(crate) type Hook = Arc<dyn Fn(Event<'_>) -> io::Result<()> + Send + Sync>;

/// A disk in memory that asks first.
pub(crate) struct HookedDisk {
    disk: Arc<MemoryDisk>,
    hook: Hook,
}

struct HookedFile {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    hook: Hook,
}

impl Disk for HookedDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        (self.hook)(Event::Open(path, mode))?;
        let file = self.disk.open(path, mode)?;
        Ok(Box::new(HookedFile { file, path: path.to_owned(), hook: Arc::clone(&self.hook) }))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        self.disk.identity(path)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        (self.hook)(Event::SyncDir(dir))?;
        self.disk.sync_dir(dir, site)
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        (self.hook)(Event::Write(&self.path, position))?;
        let written = self.file.write_at(bytes, position)?;
        (self.hook)(Event::Wrote(&self.path))?;
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
        (self.hook)(Event::Sync(&self.path, site))?;
        self.file.sync(site)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.file.try_lock()
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.identity()
    }
}

/// A store on `disk` that asks `hook` first, with small journal files.
pub(crate) fn on(
    disk: &Arc<MemoryDisk>,
    hook: impl Fn(Event<'_>) -> io::Result<()> + Send + Sync + 'static,
) -> StoreOptions {
    let disk = HookedDisk { disk: Arc::clone(disk), hook: Arc::new(hook) };
    StoreOptions::new().journal_file_bytes(64 << 10).disk(Arc::new(disk))
}
