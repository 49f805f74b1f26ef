//! What others want to hear of a commit, after it has happened.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::OffsetError;
use super::offset::Offset;
use super::store::OffsetStore;
use crate::clock::{Clock, SystemClock};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering};

/// A commit that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitInfo {
    /// The source.
    pub source: String,
    /// What is committed now.
    pub offset: Offset,
    /// What it replaced: as the store had it at that moment, whoever put it there.
    pub previous_offset: Option<Offset>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// A source that was forgotten, and that something was committed for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeleteInfo {
    /// The source.
    pub source: String,
    /// What was committed: never none.
    pub previous_offset: Option<Offset>,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
}

/// What a hook failed with.
pub type HookError = Box<dyn std::error::Error + Send + Sync>;

/// Is told of each commit when it is done, and can change nothing about it.
pub trait PostCommitHook: Send + Sync {
    /// An offset was committed, or reset.
    ///
    /// # Errors
    /// Whatever the hook likes: it is reported apart from the commit, which stands.
    fn on_commit(&self, info: &CommitInfo) -> Result<(), HookError>;

    /// A source was forgotten, by itself or with all others. Does nothing unless it is said what.
    ///
    /// # Errors
    /// As [`PostCommitHook::on_commit`].
    fn on_delete(&self, info: &DeleteInfo) -> Result<(), HookError> {
        let _ = info;
        Ok(())
    }

    /// What it is called in reports.
    fn name(&self) -> &str {
        std::any::type_name::<Self>()
    }
}

/// A hook that failed, or panicked.
#[derive(Debug)]
#[non_exhaustive]
pub struct HookFailure {
    /// Which hook.
    pub hook: String,
    /// Which source it was told of.
    pub source: String,
    /// What it failed with.
    pub error: HookError,
}

/// A store with hooks. Whatever they do, the answer of a commit is that of the store; what they failed with is taken by
/// [`HookedOffsetStore::take_failures`], and logged.
///
/// ```
/// use oncelog::{CollectingCommitHook, HookedOffsetStore, InMemoryOffsetStore, Offset, OffsetStore};
/// use std::sync::Arc;
/// # fn main() -> Result<(), oncelog::OffsetError> {
/// let collected = Arc::new(CollectingCommitHook::new());
/// let store = HookedOffsetStore::new(InMemoryOffsetStore::new()).add_hook(Arc::clone(&collected));
/// store.commit("orders", &Offset::Sequence(1))?;
/// store.commit("orders", &Offset::Sequence(2))?;
/// assert_eq!(collected.commits()[1].previous_offset, Some(Offset::Sequence(1)));
/// # Ok(())
/// # }
/// ```
pub struct HookedOffsetStore<S> {
    inner: S,
    hooks: Vec<Box<dyn PostCommitHook>>,
    clock: Arc<dyn Clock>,
    failures: Mutex<Vec<HookFailure>>,
}

/// Failures that are kept until they are taken; older ones are only in the log then.
const FAILURES_MAX: usize = 1_000;

impl<S: OffsetStore> HookedOffsetStore<S> {
    /// `inner`, without a hook yet.
    pub fn new(inner: S) -> HookedOffsetStore<S> {
        let (hooks, failures) = (Vec::new(), Mutex::default());
        HookedOffsetStore { inner, hooks, clock: SystemClock::shared(), failures }
    }

    /// Adds a hook behind those that are there.
    #[must_use]
    pub fn add_hook(mut self, hook: impl PostCommitHook + 'static) -> HookedOffsetStore<S> {
        self.hooks.push(Box::new(hook));
        self
    }

    /// Sets where timestamps come from.
    #[must_use]
    pub fn clock(self, clock: Arc<dyn Clock>) -> HookedOffsetStore<S> {
        HookedOffsetStore { clock, ..self }
    }

    /// The store without its hooks.
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// What hooks have failed with since this was asked last, oldest first; a thousand at most.
    pub fn take_failures(&self) -> Vec<HookFailure> {
        std::mem::take(&mut *self.failures.lock())
    }

    fn committed(&self, source: &str, offset: &Offset, previous_offset: Option<Offset>) {
        let (source, offset, timestamp) = (source.to_owned(), offset.clone(), self.clock.now_ms());
        let info = CommitInfo { source, offset, previous_offset, timestamp };
        self.run(&info.source, |hook| hook.on_commit(&info));
    }

    /// Where there was nothing, nothing was forgotten.
    fn deleted(&self, source: &str, previous_offset: Option<Offset>) {
        if previous_offset.is_none() {
            return;
        }
        let info = DeleteInfo { source: source.to_owned(), previous_offset, timestamp: self.clock.now_ms() };
        self.run(&info.source, |hook| hook.on_delete(&info));
    }

    /// Runs every hook, whatever those before it do.
    fn run(&self, source: &str, call: impl Fn(&dyn PostCommitHook) -> Result<(), HookError>) {
        for hook in &self.hooks {
            let called = catch_unwind(AssertUnwindSafe(|| call(&**hook)));
            let error = match called {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(panic) => format!("panicked: {}", text_of(&*panic)).into(),
            };
            // A hook whose name panics too has none.
            let name = catch_unwind(AssertUnwindSafe(|| hook.name().to_owned())).unwrap_or_default();
            tracing::warn!(hook = name, source, %error, "a hook failed; the commit stands");
            let mut failures = self.failures.lock();
            if failures.len() == FAILURES_MAX {
                failures.remove(0);
            }
            failures.push(HookFailure { hook: name, source: source.to_owned(), error });
        }
    }
}

impl<S: OffsetStore> OffsetStore for HookedOffsetStore<S> {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.inner.get(source)
    }

    fn peek(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.inner.peek(source)
    }

    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        let before = self.inner.commit(source, offset)?;
        self.committed(source, offset, before.clone());
        Ok(before)
    }

    fn commit_all(&self, offsets: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        let before = self.inner.commit_all(offsets)?;
        for (source, offset) in offsets {
            self.committed(source, offset, before.get(source).cloned().flatten());
        }
        Ok(before)
    }

    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        let before = self.inner.reset(source, offset)?;
        self.committed(source, offset, before.clone());
        Ok(before)
    }

    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.inner.get_all()
    }

    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        let before = self.inner.clear(source)?;
        self.deleted(source, before.clone());
        Ok(before)
    }

    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        let before = self.inner.clear_all()?;
        before.iter().for_each(|(source, offset)| self.deleted(source, Some(offset.clone())));
        Ok(before)
    }
}

impl<H: PostCommitHook + ?Sized> PostCommitHook for std::sync::Arc<H> {
    fn on_commit(&self, info: &CommitInfo) -> Result<(), HookError> {
        (**self).on_commit(info)
    }

    fn on_delete(&self, info: &DeleteInfo) -> Result<(), HookError> {
        (**self).on_delete(info)
    }

    fn name(&self) -> &str {
        (**self).name()
    }
}

/// Logs each commit through `tracing`, at level debug.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoggingCommitHook;

impl PostCommitHook for LoggingCommitHook {
    fn on_commit(&self, info: &CommitInfo) -> Result<(), HookError> {
        let CommitInfo { source, offset, previous_offset, .. } = info;
        let previous = previous_offset.as_ref().map(ToString::to_string);
        tracing::debug!(source, %offset, previous, "an offset was committed");
        Ok(())
    }

    fn on_delete(&self, info: &DeleteInfo) -> Result<(), HookError> {
        let DeleteInfo { source, previous_offset, .. } = info;
        let previous = previous_offset.as_ref().map(ToString::to_string);
        tracing::debug!(source, previous, "an offset was deleted");
        Ok(())
    }
}

/// Keeps all that it is told, for tests.
#[derive(Debug, Default)]
pub struct CollectingCommitHook {
    commits: Mutex<Vec<CommitInfo>>,
    deletes: Mutex<Vec<DeleteInfo>>,
}

impl CollectingCommitHook {
    /// An empty one.
    #[must_use]
    pub fn new() -> CollectingCommitHook {
        CollectingCommitHook::default()
    }

    /// The commits, in the order in which it was told.
    #[must_use]
    pub fn commits(&self) -> Vec<CommitInfo> {
        self.commits.lock().clone()
    }

    /// The sources that were forgotten, in the order in which it was told.
    #[must_use]
    pub fn deletes(&self) -> Vec<DeleteInfo> {
        self.deletes.lock().clone()
    }
}

impl PostCommitHook for CollectingCommitHook {
    fn on_commit(&self, info: &CommitInfo) -> Result<(), HookError> {
        self.commits.lock().push(info.clone());
        Ok(())
    }

    fn on_delete(&self, info: &DeleteInfo) -> Result<(), HookError> {
        self.deletes.lock().push(info.clone());
        Ok(())
    }
}

/// Counts, for whoever asks.
#[derive(Debug, Default)]
pub struct MetricsCommitHook {
    commits: AtomicU64,
    deletes: AtomicU64,
    records: AtomicU64,
}

impl MetricsCommitHook {
    /// All zero.
    #[must_use]
    pub fn new() -> MetricsCommitHook {
        MetricsCommitHook::default()
    }

    /// How many commits and resets there were.
    #[must_use]
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// How many sources were forgotten.
    #[must_use]
    pub fn deletes(&self) -> u64 {
        self.deletes.load(Ordering::Relaxed)
    }

    /// How many records the commits passed, of sources that count in sequences.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }
}

impl PostCommitHook for MetricsCommitHook {
    fn on_commit(&self, info: &CommitInfo) -> Result<(), HookError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let before = info.previous_offset.as_ref().and_then(Offset::as_sequence);
        if let (Some(before), Some(now)) = (before, info.offset.as_sequence()) {
            self.records.fetch_add(now.saturating_sub(before), Ordering::Relaxed);
        }
        Ok(())
    }

    fn on_delete(&self, _info: &DeleteInfo) -> Result<(), HookError> {
        self.deletes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// What a panic said.
fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}
