//! All offsets in one file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::OffsetError;
use super::offset::Offset;
use super::replace::{Ground, dir_of, with_suffix};
use super::store::{OffsetStore, advance, storable};
use super::text;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, DiskFile, RealDisk};
use crate::wake::{Arc, Mutex};

/// Keeps the offsets of all sources in one JSON file that people can read, which is replaced as a whole: after a crash
/// it is the one before or the one after. A lock on a file beside it (`.lock`) lets several processes share it. Each
/// commit costs two syncs and a file of the size of all offsets; [`OffsetStore::commit_all`] costs the same. A read
/// costs a sync of the directory: what it shows stays, also when another process has just put it there. A look for a
/// tracker ([`OffsetStore::peek`]) costs none, and reads the file only when it is another than at the last look: it is
/// held open for that, and its offsets in memory.
///
/// Where the file cannot be written, by permissions or by its file system, it can be opened and read; a commit there is
/// `Io`, with the name of the file that could not be opened. (A file system that has made itself read-only after an
/// error may show what it forgets when the machine starts again.)
///
/// ```
/// use oncelog::{FileOffsetStore, Offset, OffsetStore};
/// # fn main() -> Result<(), oncelog::OffsetError> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = FileOffsetStore::open(dir.path().join("offsets.json"))?;
/// store.commit("orders", &Offset::after(41)?)?;
/// assert_eq!(store.get("orders")?, Some(Offset::Sequence(42)));
/// assert!(store.commit("orders", &Offset::Sequence(7)).is_err(), "only a reset goes back");
/// # Ok(())
/// # }
/// ```
pub struct FileOffsetStore {
    ground: Ground,
    path: PathBuf,
    lock: PathBuf,
    seen: Mutex<Option<Seen>>,
}

/// What was in the file at the last look. A file is never written once it has the name, and while it is open no other
/// has its identity: as long as the name is that of this one, this is what is in it.
struct Seen {
    file: Box<dyn DiskFile>,
    offsets: BTreeMap<String, Offset>,
}

impl FileOffsetStore {
    /// The offsets in the file at `path`, which is made by the first commit; its directory must be there.
    ///
    /// # Errors
    /// `Serialization`: the file is there and holds something else. `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<FileOffsetStore, OffsetError> {
        FileOffsetStore::open_on(Arc::new(RealDisk), SystemClock::shared(), path)
    }

    /// As [`FileOffsetStore::open`], on another disk and with another clock.
    ///
    /// # Errors
    /// As [`FileOffsetStore::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        path: impl AsRef<Path>,
    ) -> Result<FileOffsetStore, OffsetError> {
        let path = path.as_ref().to_owned();
        if path.file_name().is_none() {
            return Err(OffsetError::InvalidOffset(format!("{} is not the path of a file", path.display())));
        }
        let lock = with_suffix(&path, ".lock");
        let store = FileOffsetStore { ground: Ground::of_offsets(disk, clock), path, lock, seen: Mutex::default() };
        store.read()?;
        Ok(store)
    }

    /// Sets how long others may have the lock before `Lock` is told: 30 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> FileOffsetStore {
        self.ground.patience = patience;
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn read(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        let bytes = self.ground.read(&self.path, text::BYTES_MAX)?;
        bytes.map_or_else(|| Ok(BTreeMap::new()), |bytes| text::read(&self.path, &bytes))
    }

    /// What is there now.
    fn look(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        let mut seen = self.seen.lock();
        let is_current = seen.as_ref().map(|seen| self.ground.is_named(&self.path, &*seen.file)).transpose()?;
        if is_current != Some(true) {
            *seen = None;
            if let Some((file, bytes)) = self.ground.read_open(&self.path, text::BYTES_MAX)? {
                *seen = Some(Seen { file, offsets: text::read(&self.path, &bytes)? });
            }
        }
        Ok(seen.as_ref().and_then(|seen| seen.offsets.get(source).cloned()))
    }

    /// What is there and stays there.
    fn shown(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        let offsets = self.read()?;
        self.ground.confirm(dir_of(&self.path))?;
        Ok(offsets)
    }

    /// Reads, changes and writes under the lock. What `change` refuses is not written.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Offset>) -> Result<T, OffsetError>,
    ) -> Result<T, OffsetError> {
        let _held = self.ground.lock(&self.lock)?;
        let before = self.read()?;
        let mut offsets = before.clone();
        let answer = change(&mut offsets)?;
        // Written also where nothing changes: what was read may be in the memory of the machine only, where a process
        // that was killed, or a sync that failed, has left it.
        let text = text::write(&offsets);
        if text.len() as u64 > text::BYTES_MAX {
            let what =
                format!("{}: {} bytes of offsets, more than {}", self.path.display(), text.len(), text::BYTES_MAX);
            return Err(OffsetError::InvalidOffset(what));
        }
        self.ground.replace(&self.path, text.as_bytes())?;
        Ok(answer)
    }
}

impl OffsetStore for FileOffsetStore {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        Ok(self.shown()?.remove(source))
    }

    fn peek(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.look(source)
    }

    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        self.change(|offsets| {
            advance(source, offsets.get(source), offset)?;
            Ok(offsets.insert(source.to_owned(), offset.clone()))
        })
    }

    fn commit_all(&self, new: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        self.change(|offsets| {
            let mut before = BTreeMap::new();
            for (source, offset) in new {
                advance(source, offsets.get(source), offset)?;
                before.insert(source.clone(), offsets.insert(source.clone(), offset.clone()));
            }
            Ok(before)
        })
    }

    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        storable(source, offset)?;
        self.change(|offsets| Ok(offsets.insert(source.to_owned(), offset.clone())))
    }

    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.shown()
    }

    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.change(|offsets| Ok(offsets.remove(source)))
    }

    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.change(|offsets| Ok(std::mem::take(offsets)))
    }
}
