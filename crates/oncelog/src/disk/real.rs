//! The disk of the machine, through the standard library; `fallocate` through rustix on Linux.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, SharedMap, SyncSite};
use crate::wake::Arc;

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

struct RealFile(File);

#[allow(clippy::disallowed_methods, reason = "this is the room that touches the operating system")]
impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        match mode {
            OpenMode::Read | OpenMode::Write => {}
            OpenMode::Create => {
                options.create(true);
            }
            OpenMode::CreateNew => {
                options.create_new(true);
            }
        }
        // What is ours is never a symbolic link: nothing outside the store is touched through one.
        let file = no_follow(&mut options).open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Box::new(RealFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir(dir)
    }

    fn is_of_machine(&self) -> bool {
        true
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        fs::symlink_metadata(path).map(|found| identity(&found))
    }

    #[cfg(unix)]
    fn sync_dir(&self, dir: &Path, _site: SyncSite) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    /// Directories cannot be opened here; the file system orders names itself.
    #[cfg(not(unix))]
    fn sync_dir(&self, _dir: &Path, _site: SyncSite) -> io::Result<()> {
        Ok(())
    }

    #[cfg(all(unix, not(any(loom, shuttle))))]
    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        let file = OpenOptions::new().read(true).write(access == MapAccess::Write).open(path)?;
        Ok(Arc::new(super::map::FileMap::of(&file, words, access)?))
    }

    /// Memory is not shared here: readers in other processes wait until the owner has gone.
    #[cfg(not(all(unix, not(any(loom, shuttle)))))]
    fn map_shared(&self, _path: &Path, _words: usize, _access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn boot_id(&self) -> u128 {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
    }
}

/// Fails with `ELOOP` where the last part of the path is a symbolic link.
#[cfg(target_os = "linux")]
pub(super) fn no_follow(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn no_follow(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

#[cfg(unix)]
pub(super) fn identity(found: &fs::Metadata) -> FileIdentity {
    use std::os::unix::fs::MetadataExt;
    FileIdentity { device: found.dev(), inode: found.ino() }
}

#[cfg(not(unix))]
pub(super) fn identity(_found: &fs::Metadata) -> FileIdentity {
    FileIdentity::default()
}

impl DiskFile for RealFile {
    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buffer, position)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.0, bytes, position)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.0, buffer, position)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.0, bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn preallocate(&self, end: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        loop {
            return match fallocate(&self.0, FallocateFlags::KEEP_SIZE, 0, end) {
                Err(Errno::INTR) => continue,
                // A file system without the call: space is then found out at the write, which ends the handle.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
                other => other.map_err(io::Error::from),
            };
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn preallocate(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _site: SyncSite) -> io::Result<()> {
        self.0.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.metadata().map(|found| identity(&found))
    }

    fn is_locked(&self) -> io::Result<bool> {
        match self.0.try_lock_shared() {
            Ok(()) => self.0.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
