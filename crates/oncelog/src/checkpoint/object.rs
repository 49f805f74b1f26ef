//! Checkpoints in object storage.
//!
//! ```text
//! PREFIX/STREAM/00000000000000000300-0-0-0.checkpoint   as files have it; the stream's name escaped, with = for %
//! ```
//!
//! An object is put as a whole and never changed, which is all that is asked of the storage; there is no lock. Two
//! processes that save for one stream at the same time may keep a few too many. A rewind still decides: what is on an
//! older line never counts, whenever it arrives.

use std::path::PathBuf;

use object_store::ObjectStore;
use object_store::path::Path;

use super::bytes::BYTES_MAX;
use super::key::Key;
use super::shelf::{Change, Shelf, View, shelved};
use crate::error::{Error, Result};
use crate::ids::{escape_name, unescape_name};
use crate::objects::{Objects, Task, place};
use crate::wake::{Arc, Mutex};

/// Keeps each checkpoint as an object, in whatever the crate `object_store` speaks to: S3 and alike, a directory,
/// memory. As durable when saved as that storage is. Many processes may read; one at a time should save for a stream.
///
/// ```
/// use std::sync::Arc;
/// use object_store::memory::InMemory;
/// use oncelog::{CheckpointId, CheckpointState, CheckpointStore, ObjectCheckpointStore};
/// # fn main() -> oncelog::Result<()> {
/// let store = ObjectCheckpointStore::new(Arc::new(InMemory::new()), "backups/checkpoints");
/// store.save(&CheckpointState::new(CheckpointId::new("orders", 42)))?;
/// assert_eq!(store.latest("orders")?.expect("one was saved").state.id.sequence, 42);
/// # Ok(())
/// # }
/// ```
pub struct ObjectCheckpointStore {
    objects: Objects,
    max_per_stream: usize,
    /// Held by the one of this process that changes something.
    changing: Mutex<()>,
}

const MAX_PER_STREAM: usize = 10;

impl ObjectCheckpointStore {
    /// The checkpoints under `prefix`. Nothing is asked of the storage yet.
    ///
    /// The calling thread does the work, and waits. Storage that is reached over the network needs a runtime: see
    /// [`ObjectCheckpointStore::on_runtime`].
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str) -> ObjectCheckpointStore {
        let objects = Objects::new(objects, prefix);
        ObjectCheckpointStore { objects, max_per_stream: MAX_PER_STREAM, changing: Mutex::default() }
    }

    /// Has the work done by a runtime, to which `spawn` gives a task: `move |task| drop(handle.spawn(task))` with a
    /// handle of tokio's. The calling thread waits; it must not be the one that the runtime needs for the work.
    #[must_use]
    pub fn on_runtime(mut self, spawn: impl Fn(Task) + Send + Sync + 'static) -> ObjectCheckpointStore {
        self.objects.on_runtime(spawn);
        self
    }

    /// Sets how many checkpoints of a stream are kept: 10 unless set, and one at least.
    #[must_use]
    pub fn max_per_stream(mut self, max: usize) -> ObjectCheckpointStore {
        self.max_per_stream = max;
        self
    }

    fn dir_of(&self, stream: &str) -> Path {
        self.objects.prefix().clone().join(escape_name(stream).replace('%', "="))
    }

    fn location(&self, stream: &str, key: Key) -> Path {
        self.dir_of(stream).join(key.name())
    }

    fn keys_of(&self, stream: &str) -> Result<Vec<Key>> {
        let found = self.objects.list(self.dir_of(stream), "list checkpoints")?;
        let key = |(path, _): (Path, u64)| {
            let key = path.filename().and_then(Key::of_name).filter(|key| self.location(stream, *key) == path);
            let stray = || Error::corrupt(&place(&path), 0, "not the name of a checkpoint; take it away");
            key.ok_or_else(stray)
        };
        found.into_iter().map(key).collect()
    }
}

/// One stream's objects.
struct Stream<'s> {
    store: &'s ObjectCheckpointStore,
    stream: String,
}

impl View for Stream<'_> {
    fn keys(&mut self) -> Result<Vec<Key>> {
        self.store.keys_of(&self.stream)
    }

    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>> {
        self.store.objects.read(&self.store.location(&self.stream, key), BYTES_MAX, "read a checkpoint")
    }
}

impl Shelf for ObjectCheckpointStore {
    fn max_per_stream(&self) -> usize {
        self.max_per_stream
    }

    fn place(&self, stream: &str, key: Key) -> Option<PathBuf> {
        Some(place(&self.location(stream, key)))
    }

    fn view(&self, stream: &str) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(Stream { store: self, stream: stream.to_owned() }))
    }

    fn change(&self, stream: &str, decide: &mut dyn FnMut(&mut dyn View) -> Result<Change>) -> Result<u64> {
        let _changing = self.changing.lock();
        let change = decide(&mut Stream { store: self, stream: stream.to_owned() })?;
        let has_written = change.write.is_some();
        if let Some((key, bytes)) = change.write {
            self.objects.write(self.location(stream, key), bytes, "save a checkpoint")?;
        }
        let mut removed = 0;
        for key in change.remove {
            match self.objects.remove(self.location(stream, key), "remove a checkpoint") {
                Ok(was_there) => removed += u64::from(was_there),
                // It has happened; what should have made room goes with the next one.
                Err(error) if has_written => {
                    tracing::warn!(stream, %error, "a checkpoint is saved; older ones could not be removed");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    fn stream_names(&self) -> Result<Vec<String>> {
        let listed = self.objects.list_dirs(self.objects.prefix().clone(), "list streams")?;
        let name = |path: &Path| {
            let stream = path.filename().and_then(|name| unescape_name(&name.replace('=', "%")));
            stream.ok_or_else(|| Error::corrupt(&place(path), 0, "not the name of a stream; take it away"))
        };
        listed.iter().map(name).collect()
    }
}

shelved!(ObjectCheckpointStore);

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use object_store::memory::InMemory;

    use super::*;
    use crate::checkpoint::{CheckpointId, CheckpointState, CheckpointStore, Lineage};
    use crate::error::ErrorKind;

    pub(in crate::checkpoint) fn in_memory() -> ObjectCheckpointStore {
        ObjectCheckpointStore::new(Arc::new(InMemory::new()), "some/prefix")
    }

    fn state(sequence: u64) -> CheckpointState {
        CheckpointState::new(CheckpointId::new("s", sequence))
    }

    fn key(sequence: u64) -> Key {
        Key { sequence, lineage: Lineage::FIRST }
    }

    #[test]
    fn a_damaged_object_is_passed_over_and_named() {
        let store = in_memory();
        store.save(&state(1)).unwrap();
        store.save(&state(2)).unwrap();
        store.objects.write(store.location("s", key(2)), b"spoilt".to_vec(), "test").unwrap();
        let latest = store.latest("s").unwrap().unwrap();
        assert_eq!((latest.state.id.sequence, latest.damaged.len()), (1, 1));
        let place = PathBuf::from("some/prefix/s/00000000000000000002-0-0-0.checkpoint");
        assert_eq!(latest.damaged[0].error.file(), Some(&*place));
        store.objects.write(store.dir_of("s").join("notes.txt"), Vec::new(), "test").unwrap();
        assert_eq!(store.latest("s").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
