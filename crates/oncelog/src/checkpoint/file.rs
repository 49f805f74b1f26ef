//! Checkpoints in files, which several processes may share.
//!
//! ```text
//! BASE/STREAM/00000000000000000300-0-0-0.checkpoint   sequence, line, parent, from; the stream's name escaped
//!             *.new                                    one that is being written, or was when somebody was killed
//!             .lock                                    the lock of the directory; never removed
//! ```
//!
//! Each is a file of its own that is never changed: it is written beside, synced, renamed, and the directory synced.
//! Only then do others go. What a killed process has left of one is taken away by whoever changes the stream next.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bytes::BYTES_MAX;
use super::key::Key;
use super::shelf::{Change, Shelf, View, shelved};
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{escape_name, unescape_name};
use crate::offsets::OffsetError;
use crate::offsets::replace::{Ground, Held, PATIENCE, Sites};
use crate::wake::{Arc, Mutex};

/// Keeps each checkpoint in a file of its own, durable when [`save`](crate::CheckpointStore::save) returns; a crash
/// leaves it whole or absent. A lock in the directory of a stream lets several processes share it. Saving costs a file
/// and two syncs, and reads the newest one. Reading needs no lock and writes nothing; it costs a sync of the directory,
/// so that what it shows stays.
///
/// ```
/// use oncelog::{CheckpointId, CheckpointState, CheckpointStore, FileCheckpointStore};
/// # fn main() -> oncelog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = FileCheckpointStore::open(dir.path().join("checkpoints"))?.max_per_stream(3);
/// store.save(&CheckpointState::new(CheckpointId::new("orders", 42)))?;
/// let latest = store.latest("orders")?.expect("one was saved");
/// assert_eq!(latest.state.id.sequence, 42);
/// assert!(latest.damaged.is_empty());
/// # Ok(())
/// # }
/// ```
pub struct FileCheckpointStore {
    ground: Ground,
    base: PathBuf,
    max_per_stream: usize,
    /// The directories that are known to be there for good.
    made: Mutex<BTreeSet<PathBuf>>,
}

const LOCK: &str = ".lock";
const MAX_PER_STREAM: usize = 10;

impl FileCheckpointStore {
    /// The checkpoints under `base_dir`, which the first save makes.
    ///
    /// # Errors
    /// `Corrupt`: there is something else than directories of streams. `Unavailable`: it cannot be read.
    pub fn open(base_dir: impl AsRef<Path>) -> Result<FileCheckpointStore> {
        FileCheckpointStore::open_on(Arc::new(RealDisk), SystemClock::shared(), base_dir)
    }

    /// As [`FileCheckpointStore::open`], on another disk and with another clock.
    ///
    /// # Errors
    /// As [`FileCheckpointStore::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        base_dir: impl AsRef<Path>,
    ) -> Result<FileCheckpointStore> {
        let sites =
            Sites { file: SyncSite::CheckpointFile, dir: SyncSite::CheckpointDir, read: SyncSite::CheckpointRead };
        let store = FileCheckpointStore {
            ground: Ground { disk, clock, patience: PATIENCE, sites },
            base: base_dir.as_ref().to_owned(),
            max_per_stream: MAX_PER_STREAM,
            made: Mutex::default(),
        };
        store.stream_names()?;
        Ok(store)
    }

    /// Sets how many checkpoints of a stream are kept: 10 unless set, and one at least.
    #[must_use]
    pub fn max_per_stream(mut self, max: usize) -> FileCheckpointStore {
        self.max_per_stream = max;
        self
    }

    /// Sets how long others may have the lock before `Locked` is told: 30 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> FileCheckpointStore {
        self.ground.patience = patience;
        self
    }

    /// The directory of all streams.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.base
    }

    fn dir_of(&self, stream: &str) -> PathBuf {
        self.base.join(escape_name(stream))
    }

    /// What is in a directory; nothing where there is none.
    fn names(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        match self.ground.disk.list(dir) {
            Ok(paths) => Ok(paths),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Error::io(dir, "list the checkpoints", error)),
        }
    }

    /// Takes the lock of a stream, whose directory is made where it is missing.
    fn lock(&self, dir: &Path) -> Result<Held> {
        self.make_dir(dir)?;
        match self.ground.lock(&dir.join(LOCK)) {
            // Somebody has taken it away since it was made.
            Err(OffsetError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                self.made.lock().remove(dir);
                self.make_dir(dir)?;
                self.ground.lock(&dir.join(LOCK)).map_err(told)
            }
            locked => locked.map_err(told),
        }
    }

    /// Makes the directory of a stream, if this has not been seen to.
    fn make_dir(&self, dir: &Path) -> Result<()> {
        if self.made.lock().contains(dir) {
            return Ok(());
        }
        // Each by itself: one that is there may have been made by somebody who was killed before the sync.
        self.ground.make_dir(&self.base).and_then(|()| self.ground.make_dir(dir)).map_err(told)?;
        self.made.lock().insert(dir.to_owned());
        Ok(())
    }
}

/// One stream's directory.
struct Dir<'s> {
    store: &'s FileCheckpointStore,
    dir: PathBuf,
}

impl View for Dir<'_> {
    fn keys(&mut self) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        for path in self.store.names(&self.dir)? {
            let name = name_of(&path);
            match Key::of_name(name) {
                Some(key) => keys.push(key),
                None if name == LOCK || name.ends_with(".new") => {}
                None => return Err(Error::corrupt(&path, 0, "not the name of a checkpoint; take it away")),
            }
        }
        Ok(keys)
    }

    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>> {
        self.store.ground.read(&self.dir.join(key.name()), BYTES_MAX).map_err(told)
    }

    fn confirm(&mut self) -> Result<()> {
        self.store.ground.confirm(&self.dir).map_err(told)
    }
}

impl Shelf for FileCheckpointStore {
    fn max_per_stream(&self) -> usize {
        self.max_per_stream
    }

    fn place(&self, stream: &str, key: Key) -> Option<PathBuf> {
        Some(self.dir_of(stream).join(key.name()))
    }

    fn view(&self, stream: &str) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(Dir { store: self, dir: self.dir_of(stream) }))
    }

    fn change(&self, stream: &str, decide: &mut dyn FnMut(&mut dyn View) -> Result<Change>) -> Result<u64> {
        let dir = self.dir_of(stream);
        let _held = self.lock(&dir)?;
        let left: Vec<PathBuf> = self.names(&dir)?.into_iter().filter(|path| name_of(path).ends_with(".new")).collect();
        self.ground.remove_all(&left).map_err(told)?;
        let change = decide(&mut Dir { store: self, dir: dir.clone() })?;
        let has_written = change.write.is_some();
        if let Some((key, bytes)) = change.write {
            self.ground.replace(&dir.join(key.name()), &bytes).map_err(told)?;
        }
        let gone: Vec<PathBuf> = change.remove.iter().map(|key| dir.join(key.name())).collect();
        match self.ground.remove_all(&gone).map_err(told) {
            // It has happened; what should have made room goes with the next one.
            Err(error) if has_written => {
                tracing::warn!(stream, %error, "a checkpoint is saved; older ones could not be removed");
                Ok(0)
            }
            removed => removed,
        }
    }

    fn stream_names(&self) -> Result<Vec<String>> {
        let mut streams = Vec::new();
        for path in self.names(&self.base)? {
            let stream = unescape_name(name_of(&path));
            streams.push(stream.ok_or_else(|| Error::corrupt(&path, 0, "not the name of a stream; take it away"))?);
        }
        Ok(streams)
    }
}

shelved!(FileCheckpointStore);

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// What the ground says, as it is said of checkpoints.
fn told(error: OffsetError) -> Error {
    match error {
        OffsetError::Io { file, error } => Error::io(&file, "use a checkpoint", error),
        other => other.into(),
    }
}
