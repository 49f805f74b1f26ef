//! A tracker that looks at the time by itself.
//!
//! ```text
//! OffsetTracker -- commit_in_background --> BackgroundTracker: the same, and a thread that sleeps until one is due
//! ```
//!
//! Invariants: the thread ends before the tracker does, and whoever drops or closes the tracker waits for that. It
//! commits by the tracker's own call, in the turn of everybody; what fails stays pending, and is tried after another
//! interval.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::error::OffsetError;
use super::store::OffsetStore;
use super::tracker::{CommitStrategy, OffsetTracker};
use crate::error::{Error, ErrorKind};
use crate::wake::{Arc, Condvar, Mutex, Thread, spawn};

/// An [`OffsetTracker`] with a thread that commits what has been pending for long enough, whether anything is recorded
/// or not. Made by [`OffsetTracker::commit_in_background`]; used as the tracker that it is.
pub struct BackgroundTracker<S: OffsetStore + 'static> {
    // Dropped first: the thread is gone when the tracker commits what is left.
    duty: Duty,
    tracker: Arc<OffsetTracker<S>>,
}

/// The running thread. Dropping it ends and joins it.
struct Duty {
    end: Arc<End>,
    thread: Option<Thread<()>>,
}

#[derive(Default)]
struct End {
    is_near: Mutex<bool>,
    changed: Condvar,
}

/// Between two looks, however short the interval is.
const PAUSE_MIN: Duration = Duration::from_millis(1);

impl<S: OffsetStore + 'static> OffsetTracker<S> {
    /// As [`OffsetTracker::commit_interval`], with a thread that looks at the time while nothing is recorded. What it
    /// cannot commit is logged, and tried again after another `interval`; also by every call that commits.
    ///
    /// ```
    /// use oncelog::{CommitStrategy, InMemoryOffsetStore, Offset, OffsetStore, OffsetTracker};
    /// use std::time::Duration;
    /// # fn main() -> Result<(), oncelog::OffsetError> {
    /// let tracker = OffsetTracker::with_strategy(InMemoryOffsetStore::new(), CommitStrategy::Periodic(1_000))
    ///     .commit_in_background(Duration::from_millis(10))?;
    /// tracker.record("orders", Offset::after(0)?)?;
    /// while tracker.store().get("orders")?.is_none() {
    ///     std::thread::sleep(Duration::from_millis(1));
    /// }
    /// tracker.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// `Store`, of kind `Invalid`: the strategy is not [`CommitStrategy::Periodic`], which alone has a time; of kind
    /// `Unavailable`: the machine has no thread to give.
    pub fn commit_in_background(self, interval: Duration) -> Result<BackgroundTracker<S>, OffsetError> {
        if !matches!(self.strategy(), CommitStrategy::Periodic(_)) {
            let what = "only the strategy Periodic commits by time; the others have nothing to do in the background";
            return Err(OffsetError::Store(Error::invalid(what)));
        }
        let tracker = Arc::new(self.commit_interval(interval));
        let end = Arc::new(End::default());
        let (theirs, their_end) = (Arc::clone(&tracker), Arc::clone(&end));
        let thread = spawn("oncelog-offsets".to_owned(), move || run(&theirs, &their_end, interval));
        let thread = thread.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no thread for the background of a tracker").because(error)
        })?;
        Ok(BackgroundTracker { duty: Duty { end, thread: Some(thread) }, tracker })
    }
}

fn run<S: OffsetStore>(tracker: &OffsetTracker<S>, end: &End, interval: Duration) {
    let mut pause = interval;
    while !end.came_within(pause.min(interval).max(PAUSE_MIN)) {
        pause = match catch_unwind(AssertUnwindSafe(|| tracker.commit_due())) {
            Ok(Ok(())) => tracker.until_due().unwrap_or(interval),
            Ok(Err(error)) => {
                tracing::warn!(%error, "offsets that are due are not committed; they are tried again");
                interval
            }
            Err(_) => {
                tracing::warn!("the store of offsets panicked; what is due is tried again");
                interval
            }
        };
    }
}

impl End {
    /// Waits for the end, for so long at most; says whether it has come. May return sooner.
    fn came_within(&self, pause: Duration) -> bool {
        let is_near = self.is_near.lock();
        *is_near || *self.changed.wait_timeout(is_near, pause)
    }
}

impl Drop for Duty {
    fn drop(&mut self) {
        *self.end.is_near.lock() = true;
        self.end.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the background of a tracker panicked");
        }
    }
}

impl<S: OffsetStore + 'static> BackgroundTracker<S> {
    /// Ends the thread and commits what is pending. Dropping does the same, and logs what goes wrong.
    ///
    /// # Errors
    /// As [`OffsetTracker::commit`].
    pub fn close(self) -> Result<(), OffsetError> {
        let BackgroundTracker { duty, tracker } = self;
        drop(duty);
        tracker.end()
    }
}

impl<S: OffsetStore + 'static> Deref for BackgroundTracker<S> {
    type Target = OffsetTracker<S>;

    fn deref(&self) -> &OffsetTracker<S> {
        &self.tracker
    }
}
