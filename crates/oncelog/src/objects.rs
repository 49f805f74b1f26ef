//! Object storage without a runtime: what is asked of the crate `object_store`, by calls that wait.
//!
//! Objects are put as a whole and read as a whole; there is no lock and no condition. The calling thread does the work,
//! unless a runtime was given that does: see `docs/decisions/0029-object-storage-without-a-runtime.md`. Does not know
//! what is in an object. Neighbours: `checkpoint` and `backup` above keep theirs here.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Wake, Waker};

use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::error::{Error, ErrorKind, Result};
use crate::wake::{Arc, Condvar, Mutex};

/// What a runtime is given to do.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Spawn = dyn Fn(Task) + Send + Sync;

/// The objects under one prefix. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    spawn: Option<Arc<Spawn>>,
}

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Objects {
        Objects { store, prefix: Path::from(prefix), spawn: None }
    }

    /// Has the work done by a runtime.
    pub(crate) fn on_runtime(&mut self, spawn: impl Fn(Task) + Send + Sync + 'static) {
        self.spawn = Some(Arc::new(spawn));
    }

    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// All objects below `dir`, at any depth, with their lengths.
    pub(crate) fn list(&self, dir: Path, doing: &str) -> Result<Vec<(Path, u64)>> {
        let objects = Arc::clone(&self.store);
        let found = self.wait(async move {
            let mut listed = objects.list(Some(&dir));
            let mut found = Vec::new();
            while let Some(object) = std::future::poll_fn(|context| listed.as_mut().poll_next(context)).await {
                let object = object?;
                found.push((object.location, object.size));
            }
            Ok(found)
        })?;
        found.map_err(|error| self.told(doing, error))
    }

    /// The names that objects below `dir` have in the next place.
    pub(crate) fn list_dirs(&self, dir: Path, doing: &str) -> Result<Vec<Path>> {
        let objects = Arc::clone(&self.store);
        let listed = self.wait(async move { objects.list_with_delimiter(Some(&dir)).await })?;
        Ok(listed.map_err(|error| self.told(doing, error))?.common_prefixes)
    }

    /// The object; `None`: there is none.
    ///
    /// # Errors
    /// `Corrupt`: it has more than `bytes_max`. `Unavailable`.
    pub(crate) fn read(&self, path: &Path, bytes_max: u64, doing: &str) -> Result<Option<Vec<u8>>> {
        let (objects, at) = (Arc::clone(&self.store), path.clone());
        let read = self.wait(async move {
            let found = objects.get(&at).await?;
            if found.meta.size > bytes_max {
                return Ok(Err(found.meta.size));
            }
            found.bytes().await.map(|bytes| Ok(bytes.to_vec()))
        })?;
        match read {
            Ok(Ok(bytes)) => Ok(Some(bytes)),
            Ok(Err(size)) => Err(Error::corrupt(&place(path), 0, format!("{size} bytes, more than {bytes_max}"))),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.told(doing, error)),
        }
    }

    /// The length of the object; `None`: there is none.
    pub(crate) fn bytes(&self, path: &Path, doing: &str) -> Result<Option<u64>> {
        let (objects, at) = (Arc::clone(&self.store), path.clone());
        match self.wait(async move { objects.head(&at).await })? {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.told(doing, error)),
        }
    }

    /// Puts the object, in place of what had its name.
    pub(crate) fn write(&self, path: Path, bytes: Vec<u8>, doing: &str) -> Result<()> {
        let objects = Arc::clone(&self.store);
        let put = self.wait(async move { objects.put(&path, bytes.into()).await })?;
        put.map(drop).map_err(|error| self.told(doing, error))
    }

    /// Whether there was one.
    pub(crate) fn remove(&self, path: Path, doing: &str) -> Result<bool> {
        let objects = Arc::clone(&self.store);
        match self.wait(async move { objects.delete(&path).await })? {
            Ok(()) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.told(doing, error)),
        }
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

    /// What the storage says: nothing is known of what it did.
    fn told(&self, doing: &str, error: object_store::Error) -> Error {
        let what = format!("cannot {doing} in {}", self.store);
        Error::new(ErrorKind::Unavailable, what).in_file(&place(&self.prefix)).because(error)
    }
}

/// A name as it was before [`Path`] encoded it; `None`: it was never encoded so.
pub(crate) fn decoded(name: &str) -> Option<String> {
    let (mut bytes, mut rest) = (Vec::new(), name.as_bytes());
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, behind) = rest.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

/// A place in the storage, as errors name it.
pub(crate) fn place(path: &Path) -> PathBuf {
    PathBuf::from(path.to_string())
}

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
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::thread;

    use object_store::memory::InMemory;

    use super::*;

    fn in_memory() -> Objects {
        Objects::new(Arc::new(InMemory::new()), "some/prefix")
    }

    fn on_runtime(spawn: impl Fn(Task) + Send + Sync + 'static) -> Objects {
        let mut objects = in_memory();
        objects.on_runtime(spawn);
        objects
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
        let by_thread = on_runtime(|task| {
            thread::spawn(move || {
                run(
                    &Arc::new(Done { state: Mutex::new(State::Working { was_woken: true }), changed: Condvar::new() }),
                    pin!(task),
                )
            });
        });
        assert_eq!(by_thread.wait(slow()).unwrap(), 7);
        let error = on_runtime(drop).wait(slow()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "dropped before its end");
        let error = in_memory().wait(async { panic!("no reactor") }).map(|(): ()| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
