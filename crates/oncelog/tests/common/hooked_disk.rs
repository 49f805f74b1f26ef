//! A disk over another one that tells the test of each call before it makes it: so that threads meet at the worst
//! moment, calls are counted, kept waiting or refused, or the process ends before one.

#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oncelog::StoreOptions;
use oncelog::disk::{Disk, DiskFile, FileIdentity, MapAccess, MemoryDisk, OpenMode, SharedMap, SyncSite};

/// What is about to happen on the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event<'a> {
    Open(&'a Path, OpenMode),
    List(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    CreateDir(&'a Path),
    RemoveDir(&'a Path),
    SyncDir(&'a Path, SyncSite),
    Map(&'a Path),
    /// Of a name, or of an open file.
    Identity(&'a Path),
    Read(&'a Path),
    Write(&'a Path, u64),
    /// This one has happened.
    Wrote(&'a Path),
    Len(&'a Path),
    SetLen(&'a Path),
    Preallocate(&'a Path),
    Sync(&'a Path, SyncSite),
    TryLock(&'a Path),
    IsLocked(&'a Path),
}

/// How many bytes a disk says that it still takes.
pub(crate) type Free = Arc<dyn Fn() -> u64 + Send + Sync>;

pub(crate) type Hook = Arc<dyn Fn(Event<'_>) -> io::Result<()> + Send + Sync>;

struct HookedDisk {
    disk: Arc<dyn Disk>,
    hook: Hook,
    free: Option<Free>,
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
        (self.hook)(Event::List(dir))?;
        self.disk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.hook)(Event::Rename(from, to))?;
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.hook)(Event::Remove(path))?;
        self.disk.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        (self.hook)(Event::CreateDir(dir))?;
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        (self.hook)(Event::RemoveDir(dir))?;
        self.disk.remove_dir(dir)
    }
    fn is_of_machine(&self) -> bool {
        self.disk.is_of_machine()
    }
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        (self.hook)(Event::Identity(path))?;
        self.disk.identity(path)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        (self.hook)(Event::SyncDir(dir, site))?;
        self.disk.sync_dir(dir, site)
    }
    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        (self.hook)(Event::Map(path))?;
        self.disk.map_shared(path, words, access)
    }
    fn boot_id(&self) -> u128 {
        self.disk.boot_id()
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        match &self.free {
            Some(free) => Ok(Some(free())),
            None => self.disk.free_bytes(dir),
        }
    }
}

impl DiskFile for HookedFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        (self.hook)(Event::Read(&self.path))?;
        self.file.read_at(buffer, position)
    }
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        (self.hook)(Event::Write(&self.path, position))?;
        let written = self.file.write_at(bytes, position)?;
        (self.hook)(Event::Wrote(&self.path))?;
        Ok(written)
    }
    fn len(&self) -> io::Result<u64> {
        (self.hook)(Event::Len(&self.path))?;
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        (self.hook)(Event::SetLen(&self.path))?;
        self.file.set_len(len)
    }
    fn preallocate(&self, end: u64) -> io::Result<()> {
        (self.hook)(Event::Preallocate(&self.path))?;
        self.file.preallocate(end)
    }
    fn sync(&self, site: SyncSite) -> io::Result<()> {
        (self.hook)(Event::Sync(&self.path, site))?;
        self.file.sync(site)
    }
    fn try_lock(&self) -> io::Result<bool> {
        (self.hook)(Event::TryLock(&self.path))?;
        self.file.try_lock()
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        (self.hook)(Event::Identity(&self.path))?;
        self.file.identity()
    }
    fn is_locked(&self) -> io::Result<bool> {
        (self.hook)(Event::IsLocked(&self.path))?;
        self.file.is_locked()
    }
}

/// `disk`, which asks `hook` first; an error is the answer.
pub(crate) fn over(
    disk: Arc<dyn Disk>,
    hook: impl Fn(Event<'_>) -> io::Result<()> + Send + Sync + 'static,
) -> Arc<dyn Disk> {
    Arc::new(HookedDisk { disk, hook: Arc::new(hook), free: None })
}

/// As [`over`], of a disk that says how much it still takes.
pub(crate) fn with_room(
    disk: Arc<dyn Disk>,
    hook: impl Fn(Event<'_>) -> io::Result<()> + Send + Sync + 'static,
    free: impl Fn() -> u64 + Send + Sync + 'static,
) -> Arc<dyn Disk> {
    Arc::new(HookedDisk { disk, hook: Arc::new(hook), free: Some(Arc::new(free)) })
}

/// A store on `disk` that asks `hook` first, with small journal files.
pub(crate) fn on(
    disk: &Arc<MemoryDisk>,
    hook: impl Fn(Event<'_>) -> io::Result<()> + Send + Sync + 'static,
) -> StoreOptions {
    StoreOptions::new().journal_file_bytes(64 << 10).disk(over(Arc::clone(disk) as _, hook))
}
