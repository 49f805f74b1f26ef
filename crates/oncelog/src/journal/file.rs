//! One journal file: its head, its making (zero-filled and synced before a frame names it) and its recycling.
//!
//! Zeros are written, not only allocated: a sync of blocks that were written before needs no commit of the file
//! system's own journal, which makes a durable append about a third faster.

use std::io;
use std::path::{Path, PathBuf};

use crate::codec::{CheckSite, Input, crc32c, same};
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, StoreId};

const MAGIC: [u8; 8] = *b"OLJOURNL";
const VERSION: u32 = 1;
const SUMMED_BYTES: usize = 56;
/// Frames start here: the head has the first sector to itself.
pub(crate) const FILE_HEAD_BYTES: u64 = 512;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Which file of an owner's journal: the opening that made it, and its count within that opening. Never used again by
/// another opening, so a process that wakes too late cannot write into its successor's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileName {
    pub(crate) epoch: Epoch,
    pub(crate) slot: u32,
}

impl FileName {
    pub(crate) fn path(self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}-{:06}.journal", self.epoch.0, self.slot))
    }

    pub(crate) fn of_path(path: &Path) -> Option<FileName> {
        let (epoch, slot) = path.file_name()?.to_str()?.strip_suffix(".journal")?.split_once('-')?;
        Some(FileName { epoch: Epoch(epoch.parse().ok()?), slot: slot.parse().ok()? })
    }
}

/// A place in the journal from which frames can be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct JournalPosition {
    pub(crate) file: FileName,
    /// Distinguishes the lives of a recycled file.
    pub(crate) salt: u64,
    /// Byte position of the next frame.
    pub(crate) position: u64,
    /// LSN of the next frame.
    pub(crate) next_lsn: Lsn,
    /// Checksum of the frame before.
    pub(crate) chain: u32,
}

/// An open journal file in one of its lives.
pub(crate) struct JournalFile {
    pub(crate) name: FileName,
    pub(crate) path: PathBuf,
    pub(crate) salt: u64,
    pub(crate) bytes: u64,
    pub(crate) file: Box<dyn DiskFile>,
}

impl JournalFile {
    /// Makes a new file, durable with its name. On failure nothing is left behind.
    pub(crate) fn create(
        disk: &dyn Disk,
        dir: &Path,
        store: StoreId,
        name: FileName,
        salt: u64,
        bytes: u64,
    ) -> Result<JournalFile> {
        let path = name.path(dir);
        let file = disk.open(&path, OpenMode::CreateNew).map_err(|error| Error::io(&path, "make a file", error))?;
        let made = JournalFile { name, path, salt, bytes, file };
        let filled = made.fill().and_then(|()| made.begin_life(store)).and_then(|()| {
            disk.sync_dir(dir, SyncSite::JournalDir)?;
            Ok(())
        });
        if let Err(error) = filled {
            // Best effort: an unnamed file is also swept away at the next opening.
            let _ = disk.remove(&made.path);
            return Err(Error::io(&made.path, "prepare a journal file", error));
        }
        Ok(made)
    }

    /// Starts another life of a file whose frames are no longer needed.
    pub(crate) fn recycle(self, store: StoreId, salt: u64) -> Result<JournalFile> {
        let again = JournalFile { salt, ..self };
        again.begin_life(store).map_err(|error| Error::io(&again.path, "recycle a journal file", error))?;
        Ok(again)
    }

    fn fill(&self) -> io::Result<()> {
        let mut position = 0;
        while position < self.bytes {
            let count = (self.bytes - position).min(ZEROS.len() as u64);
            // `count` is at most the length of ZEROS.
            self.file.write_all_at(&ZEROS[..usize::try_from(count).unwrap_or(ZEROS.len())], position)?;
            position += count;
        }
        Ok(())
    }

    /// Writes the head and clears the place of the first frame, then syncs.
    fn begin_life(&self, store: StoreId) -> io::Result<()> {
        let mut head = Vec::with_capacity(SUMMED_BYTES + 4);
        head.extend_from_slice(&MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&self.name.slot.to_le_bytes());
        head.extend_from_slice(&store.0);
        head.extend_from_slice(&self.name.epoch.0.to_le_bytes());
        head.extend_from_slice(&self.salt.to_le_bytes());
        head.extend_from_slice(&self.bytes.to_le_bytes());
        let sum = crc32c(&head);
        head.extend_from_slice(&sum.to_le_bytes());
        self.file.write_all_at(&head, 0)?;
        self.file.write_all_at(&[0; super::frame::HEAD_BYTES], FILE_HEAD_BYTES)?;
        self.file.sync(SyncSite::JournalFile)
    }

    /// Opens a file that must be there, in the life that `salt` names.
    pub(crate) fn open(
        disk: &dyn Disk,
        dir: &Path,
        store: StoreId,
        name: FileName,
        salt: u64,
        mode: OpenMode,
    ) -> Result<JournalFile> {
        let path = name.path(dir);
        let file = disk.open(&path, mode).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(&path, 0, "a journal file that is needed is gone"),
            _ => Error::io(&path, "open a journal file", error),
        })?;
        let found = read_head(file.as_ref(), &path, store)?;
        if (found.name, found.salt) != (name, salt) {
            return Err(Error::corrupt(
                &path,
                0,
                "this is not the journal file that is needed, but another of its kind",
            ));
        }
        Ok(JournalFile { name, path, salt, bytes: found.bytes, file })
    }
}

/// What the head of a journal file says.
pub(crate) struct JournalFileHead {
    pub(crate) name: FileName,
    pub(crate) salt: u64,
    pub(crate) bytes: u64,
}

/// Reads and checks the head of a file of this store.
pub(crate) fn read_head(file: &dyn DiskFile, path: &Path, store: StoreId) -> Result<JournalFileHead> {
    let mut head = [0; SUMMED_BYTES + 4];
    let read = file.read_full_at(&mut head, 0).map_err(|error| Error::io(path, "read a journal file", error))?;
    let corrupt = |what: &str| Error::corrupt(path, 0, what);
    let mut input = Input::new(&head[..read]);
    let parsed = (|| {
        let magic: [u8; 8] = input.array()?;
        let (version, slot) = (input.u32()?, input.u32()?);
        let owner = StoreId(input.array()?);
        let (epoch, salt, bytes) = (Epoch(input.u64()?), input.u64()?, input.u64()?);
        let sum = input.u32()?;
        Some((magic, version, owner, JournalFileHead { name: FileName { epoch, slot }, salt, bytes }, sum))
    })();
    let Some((magic, version, owner, found, sum)) = parsed else {
        return Err(corrupt("a journal file without a whole head"));
    };
    if magic != MAGIC || !same(CheckSite::JournalFile, sum, crc32c(&head[..SUMMED_BYTES])) {
        return Err(corrupt("the head of a journal file is damaged"));
    }
    if version != VERSION {
        let what = format!("journal file format {version}, this program knows {VERSION}");
        return Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(path));
    }
    if owner != store {
        return Err(corrupt("a journal file of another store"));
    }
    Ok(found)
}
