//! The disk of the machine, through the standard library; `fallocate` through rustix on Linux.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, SharedMap, SyncSite};
use crate::wake::{Arc, AtomicBool, Ordering};

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The kind of network file system that a directory is on, if it is known to be on one: a store is refused there,
    /// as its locks may not hold what they promise. `None` too where the system does not tell (not Linux).
    ///
    /// # Errors
    /// What the system says, as that there is no such directory.
    pub fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
        super::machine::network_file_system(dir)
    }
}

struct RealFile {
    file: File,
    /// It has taken the lock.
    locked: AtomicBool,
}

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
        Ok(Box::new(RealFile { file, locked: AtomicBool::new(false) }))
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

    #[cfg(unix)]
    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        let found = rustix::fs::statvfs(dir)?;
        Ok(Some(found.f_bavail.saturating_mul(found.f_frsize)))
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
        std::os::unix::fs::FileExt::read_at(&self.file, buffer, position)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(&self.file, bytes, position)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(&self.file, buffer, position)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(&self.file, bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    #[cfg(target_os = "linux")]
    fn preallocate(&self, end: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;
        loop {
            return match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, end) {
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
        self.file.sync_data()
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.file.try_lock() {
            Ok(()) => {
                self.locked.store(true, Ordering::SeqCst);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.file.metadata().map(|found| identity(&found))
    }

    fn is_locked(&self) -> io::Result<bool> {
        match self.file.try_lock_shared() {
            Ok(()) => self.file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        // The lock is the open file's, and a process that another thread is just starting has that too until its own
        // program begins: closing alone would free the lock only then.
        if self.locked.load(Ordering::SeqCst) {
            let _ = self.file.unlock();
        }
    }
}
