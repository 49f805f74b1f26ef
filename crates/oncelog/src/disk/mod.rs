//! The two I/O traits and the disks behind them. Every byte the store reads or writes goes through [`Disk`].
//!
//! ```text
//! store, journal, segment  ->  Disk, DiskFile  ->  RealDisk | MemoryDisk | the simulator's disk
//! ```
//!
//! What the rest of the crate assumes of a disk, and nothing more:
//! * written bytes may be lost, in any subset of 512-byte sectors, until a `sync` of that file returns `Ok`;
//! * a new, renamed or removed name may be lost until a `sync_dir` of its directory returns `Ok`;
//! * after a `sync` that failed nothing is known of the bytes since the last good one, and what is read back from the
//!   page cache proves nothing. No sync is ever retried.
//!
//! Every sync says from where it is called ([`SyncSite`]): so a test can drop the syncs of one place and see that
//! something notices.

pub(crate) mod machine;
#[cfg(all(unix, not(any(loom, shuttle))))]
mod map;
mod memory;
mod overlay;
mod real;
mod steps;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use memory::MemoryDisk;
pub(crate) use overlay::OverlayDisk;
pub use real::RealDisk;
#[cfg(not(oncelog_mutants))]
pub(crate) use steps::StepSite;
pub(crate) use steps::is_kept;
#[cfg(oncelog_mutants)]
pub use steps::{StepSite, break_steps};

use crate::wake::{Arc, AtomicU64};

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; the file must exist.
    Read,
    /// For reading and writing; the file must exist.
    Write,
    /// For reading and writing; made if it does not exist.
    Create,
    /// For reading and writing; `AlreadyExists` if it does.
    CreateNew,
}

/// Where in the store a sync is asked for, and so what it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SyncSite {
    /// A group of frames: the moment of truth of every durable commit.
    JournalGroup,
    /// The end of a full journal file, before the first frame goes to the next.
    JournalRotate,
    /// A new or recycled journal file, before a frame names it.
    JournalFile,
    /// The directory entry of a new journal file.
    JournalDir,
    /// Segment bytes, before the trim point passes the frames that hold them.
    Segment,
    /// The directory entries of new segments.
    SegmentDir,
    /// The directory entries of a new partition or topic.
    TopicDir,
    /// The claim that names a topic's owner and id.
    TopicClaim,
    /// The directory in which the claim on a consumer's id was, before another owner may have the id.
    ClaimGone,
    /// The blocks of a table file, before the manifest names the state that they make.
    TableFile,
    /// The directory entry of a new table file.
    TableDir,
    /// The first copy of the manifest.
    ManifestFirst,
    /// The second copy of the manifest, written only when the first is safe.
    ManifestSecond,
    /// The file that makes a directory a store.
    StoreFile,
    /// The directories of a new store.
    StoreDir,
    /// The journal of an owner that is gone, before a reader shows what is in it.
    ReaderJournal,
    /// The manifest of an owner that is gone, before a reader shows what its trim point says.
    ReaderManifest,
    /// The directories of a new owner, before its manifest and with it.
    OwnerDir,
    /// A file of offsets, before it takes its name.
    OffsetFile,
    /// The directory of a file of offsets.
    OffsetDir,
    /// The directory of a file of offsets, before what was read there is shown.
    OffsetRead,
    /// What a repair keeps of bytes that it is about to give up.
    Aside,
    /// The directory of what a repair keeps.
    AsideDir,
    /// A segment that a repair has mended, before a trim point says so; and all that an earlier attempt has left.
    Mended,
    /// A compacted segment, before it takes its name.
    Compacted,
    /// The directory entries of compacted segments, before a trim point names them.
    CompactedDir,
    /// A checkpoint, before it takes its name.
    CheckpointFile,
    /// The directory of a checkpoint.
    CheckpointDir,
    /// The directory of checkpoints, before what was read there is shown.
    CheckpointRead,
    /// A chunk or a manifest of a backup, before it takes its name.
    BackupFile,
    /// The directory of chunks, before a manifest names them, and that of a manifest.
    BackupDir,
    /// A file that is restored, before it is recovered.
    RestoreFile,
    /// The directory of files that are restored.
    RestoreDir,
    /// Frames that are to be archived, before the trim point passes them.
    ArchiveFile,
    /// The directory of frames that are to be archived.
    ArchiveDir,
}

impl SyncSite {
    /// Every site of a store at work, for tests that drop each in turn. Those of offset files and of repairs have tests
    /// of their own.
    pub const ALL: [SyncSite; 20] = [
        SyncSite::JournalGroup,
        SyncSite::JournalRotate,
        SyncSite::JournalFile,
        SyncSite::JournalDir,
        SyncSite::Segment,
        SyncSite::SegmentDir,
        SyncSite::Compacted,
        SyncSite::CompactedDir,
        SyncSite::TopicDir,
        SyncSite::TopicClaim,
        SyncSite::ClaimGone,
        SyncSite::TableFile,
        SyncSite::TableDir,
        SyncSite::ManifestFirst,
        SyncSite::ManifestSecond,
        SyncSite::StoreFile,
        SyncSite::StoreDir,
        SyncSite::ReaderJournal,
        SyncSite::ReaderManifest,
        SyncSite::OwnerDir,
    ];
}

/// Which file it is, whatever its name. Two files of one machine have different identities while both are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    /// The file system.
    pub device: u64,
    /// The file on it.
    pub inode: u64,
}

/// A file system, or something that behaves like one.
pub trait Disk: Send + Sync {
    /// Opens a file. See [`OpenMode`] for what must exist.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;
    /// Full paths of the files and directories in `dir`, in no order. `NotFound` when there is no such directory.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Open handles to it stay usable.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory. `AlreadyExists` when there is something of that name, `NotFound` when there is no parent.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Whether this is the machine's file system itself, of which the machine can be asked more.
    fn is_of_machine(&self) -> bool {
        false
    }
    /// Which file or directory has that name now. Where that is not known, always the same.
    fn identity(&self, path: &Path) -> io::Result<FileIdentity>;
    /// Makes the names in `dir` durable: what was created, renamed and removed there.
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()>;

    /// The first `words` words of a file that is at least so long, as memory that every process sees which maps it.
    /// Nothing of it is durable. The file must never be cut while somebody maps it.
    ///
    /// # Errors
    /// `Unsupported`: there is no such memory here (the default). `InvalidData`: the file is shorter.
    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        let _ = (path, words, access);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// How many bytes may still be written to the file system that `dir` is on; `None` where that is not known (the
    /// default).
    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        let _ = dir;
        Ok(None)
    }

    /// A number that stays as long as the machine runs: what is in its page cache and in shared memory stays as long.
    /// 0 where that is not known (the default).
    fn boot_id(&self) -> u128 {
        0
    }
}

/// How shared memory is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapAccess {
    /// Loads only, with [`Ordering::Relaxed`](std::sync::atomic::Ordering::Relaxed); anything else may end the process.
    Read,
    /// Loads and stores.
    Write,
}

/// Words of memory that several processes share, and the means to wait for a change of one.
pub trait SharedMap: Send + Sync {
    /// The words. At most loads where the map was made with [`MapAccess::Read`].
    fn words(&self) -> &[AtomicU64];
    /// What it was made for.
    fn access(&self) -> MapAccess;
    /// Waits until the word is woken, if its low half still is `seen`; for `limit` at most. May return without cause.
    fn wait(&self, word: usize, seen: u32, limit: Duration);
    /// Wakes everybody who waits for the word, in every process.
    fn wake(&self, word: usize);
}

/// Whether the process, or the machine, has no file descriptors left: closing some file helps.
pub(crate) fn lacks_descriptors(error: &io::Error) -> bool {
    // ENFILE and EMFILE, which have these numbers on Linux and macOS.
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

#[allow(clippy::len_without_is_empty, reason = "a file's length is a measurement, not a container's size")]
/// An open file. All methods take `&self`; positions are given, there is no cursor.
pub trait DiskFile: Send + Sync {
    /// Reads some bytes at `position`; 0 at or after the end. May read less than asked, may say `Interrupted`.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes some bytes at `position`. May write less than asked, may say `Interrupted`.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or extends (with zeros) to `len`, and gives back space preallocated beyond.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes space for bytes `0..end` without changing the length, so that writing them cannot fail for want of space.
    fn preallocate(&self, end: u64) -> io::Result<()>;
    /// Makes everything written so far durable, with the length (`fdatasync`). `Ok` is a promise; after an error
    /// nothing is known and it must not be tried again.
    fn sync(&self, site: SyncSite) -> io::Result<()>;
    /// Takes the advisory lock of this file if it is free: `true` when it is now held. Freed when the file is dropped.
    fn try_lock(&self) -> io::Result<bool>;
    /// Which file it is. Where that is not known, always the same.
    fn identity(&self) -> io::Result<FileIdentity>;
    /// Whether somebody else holds the lock of this file. The answer is that of a moment; asking keeps nobody from
    /// asking too, and whoever takes a lock that may be asked for tries again.
    ///
    /// # Errors
    /// `Unsupported`: this disk cannot tell (the default).
    fn is_locked(&self) -> io::Result<bool> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The loops over short and interrupted reads and writes, in one place.
impl dyn DiskFile + '_ {
    /// Reads until `buffer` is full or the file ends; gives how much was read.
    pub fn read_full_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read_at(&mut buffer[done..], position + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Writes all of `bytes`.
    pub fn write_all_at(&self, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, position) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    bytes = &bytes[count..];
                    position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The whole file, refusing one longer than `bytes_max`.
    pub fn read_whole(&self, bytes_max: u64) -> io::Result<Vec<u8>> {
        let len = self.len()?;
        if len > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{len} bytes, more than {bytes_max}")));
        }
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        let read = self.read_full_at(&mut bytes, 0)?;
        bytes.truncate(read);
        Ok(bytes)
    }
}
