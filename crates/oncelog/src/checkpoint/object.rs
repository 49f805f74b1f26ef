//! Checkpoints in object storage.
//!
//! ```text
//! PREFIX/STREAM/00000000000000000300-0-0-0.checkpoint   as files have it; the stream's name escaped, with = for %
//! ```
//!
//! An object is put as a whole and never changed, which is all that is asked of the storage; there is no lock. Two
//! processes that save for one stream at the same time may keep a few too many. A rewind still decides: what is on an
//! older line never counts, whenever it arrives.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::bytes::BYTES_MAX;
use super::key::Key;
use super::shelf::{Change, Shelf, View, shelved};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{escape_name, unescape_name};
use crate::wake::{Arc, Condvar, Mutex};

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
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    max_per_stream: usize,
    spawn: Option<Arc<Spawn>>,
    /// Held by the one of this process that changes something.
    changing: Mutex<()>,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Spawn = dyn Fn(Task) + Send + Sync;

const MAX_PER_STREAM: usize = 10;

impl ObjectCheckpointStore {
    /// The checkpoints under `prefix`. Nothing is asked of the storage yet.
    ///
    /// The calling thread does the work, and waits. Storage that is reached over the network needs a runtime: see
    /// [`ObjectCheckpointStore::on_runtime`].
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, prefix: &str) -> ObjectCheckpointStore {
        let (prefix, changing) = (Path::from(prefix), Mutex::default());
        ObjectCheckpointStore { objects, prefix, max_per_stream: MAX_PER_STREAM, spawn: None, changing }
    }

    /// Has the work done by a runtime, to which `spawn` gives a task: `move |task| drop(handle.spawn(task))` with a
    /// handle of tokio's. The calling thread waits; it must not be the one that the runtime needs for the work.
    #[must_use]
    pub fn on_runtime(mut self, spawn: impl Fn(Task) + Send + Sync + 'static) -> ObjectCheckpointStore {
        self.spawn = Some(Arc::new(spawn));
        self
    }

    /// Sets how many checkpoints of a stream are kept: 10 unless set, and one at least.
    #[must_use]
    pub fn max_per_stream(mut self, max: usize) -> ObjectCheckpointStore {
        self.max_per_stream = max;
        self
    }

    fn dir_of(&self, stream: &str) -> Path {
        self.prefix.clone().join(escape_name(stream).replace('%', "="))
    }

    fn location(&self, stream: &str, key: Key) -> Path {
        self.dir_of(stream).join(key.name())
    }

    /// Does the work of `future` and waits for its end.
    fn wait<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Result<T> {
        let done = Arc::new(Done { state: Mutex::new(State::Working { was_woken: true }), changed: Condvar::new() });
        match &self.spawn {
            Some(spawn) => {
                let ending = Ending(Arc::clone(&done));
                spawn(Box::pin(async move { ending.end(future.await) }));
                done.wait_for_end()
            }
            None => run(&done, pin!(future)),
        }
    }

    fn keys_of(&self, stream: &str) -> Result<Vec<Key>> {
        let (objects, dir) = (Arc::clone(&self.objects), self.dir_of(stream));
        let found = self.wait(async move {
            let mut listed = objects.list(Some(&dir));
            let mut found = Vec::new();
            while let Some(object) = std::future::poll_fn(|context| listed.as_mut().poll_next(context)).await {
                found.push(object?.location);
            }
            Ok(found)
        })?;
        let found: Vec<Path> = found.map_err(|error| self.told("list checkpoints", error))?;
        let key = |path: Path| {
            let key = path.filename().and_then(Key::of_name).filter(|key| self.location(stream, *key) == path);
            let stray = || Error::corrupt(&place(&path), 0, "not the name of a checkpoint; take it away");
            key.ok_or_else(stray)
        };
        found.into_iter().map(key).collect()
    }

    fn read(&self, stream: &str, key: Key) -> Result<Option<Vec<u8>>> {
        let (objects, path) = (Arc::clone(&self.objects), self.location(stream, key));
        let read = self.wait(async move {
            let found = objects.get(&path).await?;
            if found.meta.size > BYTES_MAX {
                return Ok(Err(found.meta.size));
            }
            found.bytes().await.map(|bytes| Ok(bytes.to_vec()))
        })?;
        match read {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => {
                let what = format!("{size} bytes, more than {BYTES_MAX}");
                Err(Error::corrupt(&place(&self.location(stream, key)), 0, what))
            }
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.told("read a checkpoint", error)),
        }
    }

    fn write(&self, path: Path, bytes: Vec<u8>) -> Result<()> {
        let objects = Arc::clone(&self.objects);
        let put = self.wait(async move { objects.put(&path, bytes.into()).await })?;
        put.map(drop).map_err(|error| self.told("save a checkpoint", error))
    }

    fn remove(&self, path: Path) -> Result<u64> {
        let objects = Arc::clone(&self.objects);
        match self.wait(async move { objects.delete(&path).await })? {
            Ok(()) => Ok(1),
            Err(object_store::Error::NotFound { .. }) => Ok(0),
            Err(error) => Err(self.told("remove a checkpoint", error)),
        }
    }

    /// What the storage says: nothing is known of what it did.
    fn told(&self, doing: &str, error: object_store::Error) -> Error {
        let what = format!("cannot {doing} in {}", self.objects);
        Error::new(ErrorKind::Unavailable, what).in_file(&place(&self.prefix)).because(error)
    }
}

/// A place in the storage, as errors name it.
fn place(path: &Path) -> PathBuf {
    PathBuf::from(path.to_string())
}

/// One stream's objects.
struct Objects<'s> {
    store: &'s ObjectCheckpointStore,
    stream: String,
}

impl View for Objects<'_> {
    fn keys(&mut self) -> Result<Vec<Key>> {
        self.store.keys_of(&self.stream)
    }

    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>> {
        self.store.read(&self.stream, key)
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
        Ok(Box::new(Objects { store: self, stream: stream.to_owned() }))
    }

    fn change(&self, stream: &str, decide: &mut dyn FnMut(&mut dyn View) -> Result<Change>) -> Result<u64> {
        let _changing = self.changing.lock();
        let change = decide(&mut Objects { store: self, stream: stream.to_owned() })?;
        let has_written = change.write.is_some();
        if let Some((key, bytes)) = change.write {
            self.write(self.location(stream, key), bytes)?;
        }
        let mut removed = 0;
        for key in change.remove {
            match self.remove(self.location(stream, key)) {
                Ok(count) => removed += count,
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
        let (objects, prefix) = (Arc::clone(&self.objects), self.prefix.clone());
        let listed = self.wait(async move { objects.list_with_delimiter(Some(&prefix)).await })?;
        let listed = listed.map_err(|error| self.told("list streams", error))?;
        let name = |path: &Path| {
            let stream = path.filename().and_then(|name| unescape_name(&name.replace('=', "%")));
            stream.ok_or_else(|| Error::corrupt(&place(path), 0, "not the name of a stream; take it away"))
        };
        listed.common_prefixes.iter().map(name).collect()
    }
}

shelved!(ObjectCheckpointStore);

/// Where the end of some work is waited for.
struct Done<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

enum State<T> {
    /// And whether something may have come further since it was last looked at.
    Working {
        was_woken: bool,
    },
    Ended(T),
    /// It was dropped before its end.
    Dropped,
}

/// The end of a task, which comes also where the task is dropped.
struct Ending<T>(Arc<Done<T>>);

impl<T> Ending<T> {
    fn end(&self, value: T) {
        *self.0.state.lock() = State::Ended(value);
        self.0.changed.notify_all();
    }
}

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        if let State::Working { .. } = *state {
            *state = State::Dropped;
            self.0.changed.notify_all();
        }
    }
}

impl<T> Done<T> {
    fn wait_for_end(&self) -> Result<T> {
        let mut state = self.state.lock();
        loop {
            match std::mem::replace(&mut *state, State::Dropped) {
                State::Ended(value) => return Ok(value),
                State::Dropped => {
                    let what = "the runtime ended before the object storage answered";
                    return Err(Error::new(ErrorKind::Unavailable, what));
                }
                working @ State::Working { .. } => *state = working,
            }
            state = self.changed.wait(state);
        }
    }
}

impl<T: Send> Wake for Done<T> {
    fn wake(self: Arc<Self>) {
        if let State::Working { was_woken } = &mut *self.state.lock() {
            *was_woken = true;
        }
        self.changed.notify_all();
    }
}

/// Does the work on this thread.
fn run<T: Send + 'static>(done: &Arc<Done<T>>, mut future: Pin<&mut impl Future<Output = T>>) -> Result<T> {
    let waker = Waker::from(Arc::clone(done));
    let mut context = Context::from_waker(&waker);
    loop {
        if let State::Working { was_woken } = &mut *done.state.lock() {
            *was_woken = false;
        }
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context))) {
            Ok(Poll::Ready(value)) => return Ok(value),
            Ok(Poll::Pending) => {}
            Err(_) => {
                let what = "the object storage panicked; if it is reached over a network, give its work to a runtime \
                            (`on_runtime`)";
                return Err(Error::invalid(what));
            }
        }
        let mut state = done.state.lock();
        while matches!(*state, State::Working { was_woken: false }) {
            state = done.changed.wait(state);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::thread;

    use object_store::memory::InMemory;

    use super::*;
    use crate::checkpoint::{CheckpointId, CheckpointState, CheckpointStore, Lineage};

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
    fn work_is_done_here_or_elsewhere() {
        // A task that is woken by another thread.
        async fn slow() -> u32 {
            let woken = Arc::new(Mutex::new(false));
            std::future::poll_fn(move |context| {
                if *woken.lock() {
                    return Poll::Ready(7);
                }
                let (woken, waker) = (Arc::clone(&woken), context.waker().clone());
                thread::spawn(move || {
                    *woken.lock() = true;
                    waker.wake();
                });
                Poll::Pending
            })
            .await
        }
        assert_eq!(in_memory().wait(slow()).unwrap(), 7);
        let by_thread = in_memory().on_runtime(|task| {
            thread::spawn(move || {
                run(
                    &Arc::new(Done { state: Mutex::new(State::Working { was_woken: true }), changed: Condvar::new() }),
                    pin!(task),
                )
            });
        });
        assert_eq!(by_thread.wait(slow()).unwrap(), 7);
        let error = in_memory().on_runtime(drop).wait(slow()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "dropped before its end");
        let error = in_memory().wait(async { panic!("no reactor") }).map(|(): ()| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_damaged_object_is_passed_over_and_named() {
        let store = in_memory();
        store.save(&state(1)).unwrap();
        store.save(&state(2)).unwrap();
        store.write(store.location("s", key(2)), b"spoilt".to_vec()).unwrap();
        let latest = store.latest("s").unwrap().unwrap();
        assert_eq!((latest.state.id.sequence, latest.damaged.len()), (1, 1));
        let place = PathBuf::from("some/prefix/s/00000000000000000002-0-0-0.checkpoint");
        assert_eq!(latest.damaged[0].error.file(), Some(&*place));
        store.write(store.dir_of("s").join("notes.txt"), Vec::new()).unwrap();
        assert_eq!(store.latest("s").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
