//! A disk in memory with little room, so that a damaged length meets a full disk and not an endless one.

use std::io;
use std::path::{Path, PathBuf};

use oncelog::disk::{Disk, DiskFile, FileIdentity, MemoryDisk, OpenMode, SyncSite};

/// No file grows beyond this.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct SmallDisk(MemoryDisk);

struct SmallFile(Box<dyn DiskFile>);

impl Disk for SmallDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(SmallFile(self.0.open(path, mode)?)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        self.0.identity(path)
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.0.sync_dir(dir, site)
    }
}

fn room(end: u64) -> io::Result<()> {
    if end > FILE_BYTES_MAX { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

impl DiskFile for SmallFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.0.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        room(position.saturating_add(bytes.len() as u64))?;
        self.0.write_at(bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        room(len)?;
        self.0.set_len(len)
    }

    fn preallocate(&self, end: u64) -> io::Result<()> {
        room(end)?;
        self.0.preallocate(end)
    }

    fn sync(&self, site: SyncSite) -> io::Result<()> {
        self.0.sync(site)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.identity()
    }
}
