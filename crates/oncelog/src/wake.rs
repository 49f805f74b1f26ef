//! Threads, locks and wake-ups: the one shim through which the crate synchronises, so that a model checker can stand in
//! for the standard library. Built with `--cfg loom` it is loom (every interleaving of a small model), with
//! `--cfg shuttle` it is shuttle (random interleavings of a whole store), else it is `std`.
//!
//! Rules of the house, which `cargo xtask tidy` checks: no other room names `std::sync` (but for `Arc`) or
//! `std::thread`. Three things are different under a model checker:
//! * A lock is free again after each run, so nothing here may live in a `static`.
//! * Time does not pass, so [`Condvar::wait_timeout`] ends by a wake-up only. Its limit bounds the harm of a wake-up
//!   that is lost to a bug, and a model that hangs for want of it has found the bug. Who looks again in any case takes
//!   [`Condvar::wait_a_moment`], which a model checker ends at any time.
//! * What [`plain`] offers is no step of a model: see there for whom it is.
//! * `Arc` is always the one of `std`: the crate has no `unsafe` code that could depend on how it counts.
//!
//! A poisoned lock is taken all the same: the crate calls no user code while it holds one, and a panic of its own ends
//! the store handle.

#[cfg(all(test, any(loom, shuttle)))]
pub(crate) mod models;
pub(crate) mod plain;

#[cfg(loom)]
use loom::{sync, thread};
#[cfg(shuttle)]
use shuttle::{sync, thread};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::PoisonError;
use std::task::Waker;
use std::time::Duration;
#[cfg(not(any(loom, shuttle)))]
use std::{sync, thread};

pub(crate) use std::sync::{Arc, Weak};
pub(crate) use sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
pub(crate) use thread::yield_now;

/// How many threads the machine runs at once, as far as it says.
pub(crate) fn parallelism() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A lock for one holder at a time.
#[derive(Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A free lock around `value`.
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(sync::Mutex::new(value))
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}

/// A lock for many readers or one writer.
#[derive(Default)]
pub(crate) struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    /// A free lock around `value`.
    pub(crate) fn new(value: T) -> RwLock<T> {
        RwLock(sync::RwLock::new(value))
    }

    /// Waits until no writer holds it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until nobody holds it.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}

/// A place to wait for a change of what a [`Mutex`] guards.
#[derive(Debug, Default)]
pub(crate) struct Condvar(sync::Condvar);

impl Condvar {
    /// A condition nobody waits for yet.
    pub(crate) fn new() -> Condvar {
        Condvar(sync::Condvar::new())
    }

    /// Gives the lock up until woken; may wake without cause.
    pub(crate) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Condvar::wait`], for `limit` at most.
    pub(crate) fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
        self.0.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Gives the lock up and waits for a moment, or until woken: a pause between two looks.
    pub(crate) fn wait_a_moment<T>(&self, guard: MutexGuard<'_, T>) {
        if cfg!(any(loom, shuttle)) {
            drop(guard);
            yield_now();
        } else {
            drop(self.wait_timeout(guard, Duration::from_millis(1)));
        }
    }

    /// Wakes one waiter.
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes every waiter.
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Tasks that wait for the same thing, each under a number of its own.
#[derive(Debug, Default)]
pub(crate) struct Wakers(BTreeMap<u64, Waker>);

impl Wakers {
    /// Keeps `waker` under `number`; gives what was there. A waker is code of others: drop it outside the lock.
    #[must_use = "it is dropped when no lock is held"]
    pub(crate) fn put(&mut self, number: u64, waker: Waker) -> Option<Waker> {
        self.0.insert(number, waker)
    }

    /// Wakes all of them, when no lock is held. One that panics does not keep the others from it.
    pub(crate) fn wake(self) {
        for waker in self.0.into_values() {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }
}

/// What threads and tasks can wait on: the news that something became visible.
///
/// Invariant: each waker that is kept is counted in `waiting`, which changes with it under the lock.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    wakers: Mutex<(u64, Wakers)>,
    changed: Condvar,
    waiting: AtomicUsize,
}

/// The number under which a task waits for a [`Signal`]; it may have been woken since.
#[derive(Debug, Default)]
pub(crate) struct Registered(Option<u64>);

impl Signal {
    /// Tells every waiter that there is news. Costs one atomic load when nobody waits.
    pub(crate) fn raise(&self) {
        fence_of_models();
        if self.waiting.load(Ordering::SeqCst) > 0 {
            let mut woken = Wakers::default();
            if keeps(RaceSite::SignalLock) {
                let mut wakers = self.wakers.lock();
                woken = std::mem::take(&mut wakers.1);
                self.waiting.fetch_sub(woken.0.len(), Ordering::SeqCst);
            }
            self.changed.notify_all();
            woken.wake();
        }
    }

    /// Waits until `ready` says so or `limit` is over. `ready` is asked again after each [`Signal::raise`].
    pub(crate) fn wait_until(&self, limit: Duration, mut ready: impl FnMut() -> bool) {
        if ready() {
            return;
        }
        self.waiting.fetch_add(1, Ordering::SeqCst);
        fence_of_models();
        let guard = self.wakers.lock();
        // Asked again under the lock: a raise between the first question and here would otherwise be missed.
        if !keeps(RaceSite::SignalAsksAgain) || !ready() {
            drop(self.changed.wait_timeout(guard, limit));
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    /// Has `waker` woken by the next [`Signal::raise`], in the place of the one that `registered` stands for. `false`:
    /// `ready` says so already, and nothing is kept.
    pub(crate) fn register(&self, registered: &mut Registered, waker: &Waker, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            self.unregister(registered);
            return false;
        }
        let waker = waker.clone();
        let before = {
            let mut wakers = self.wakers.lock();
            let number = *registered.0.get_or_insert_with(|| {
                wakers.0 += 1;
                wakers.0
            });
            let before = wakers.1.put(number, waker);
            if before.is_none() {
                self.waiting.fetch_add(1, Ordering::SeqCst);
            }
            before
        };
        drop(before);
        fence_of_models();
        // Asked again now that a raise sees the waker: one between the first question and here would be missed.
        if keeps(RaceSite::TaskAsksAgain) && ready() {
            self.unregister(registered);
            return false;
        }
        true
    }

    /// Forgets the waker that `registered` stands for.
    pub(crate) fn unregister(&self, registered: &mut Registered) {
        let Some(number) = registered.0.take() else { return };
        let forgotten = {
            let mut wakers = self.wakers.lock();
            let forgotten = wakers.1.0.remove(&number);
            if forgotten.is_some() {
                self.waiting.fetch_sub(1, Ordering::SeqCst);
            }
            forgotten
        };
        drop(forgotten);
    }
}

/// Orders the loads and stores before it with those behind it, as `ordering` says.
pub(crate) fn fence(ordering: Ordering) {
    // Shuttle runs one thread at a time: everything is in order there.
    #[cfg(not(shuttle))]
    sync::atomic::fence(ordering);
    #[cfg(shuttle)]
    let _ = ordering;
}

/// Loom takes a `SeqCst` access for one that acquires and releases, which is less; with a fence it sees what we mean:
/// of "news, then is there a waiter?" and "a waiter, then is there news?" one at least sees the other.
fn fence_of_models() {
    #[cfg(loom)]
    loom::sync::atomic::fence(Ordering::SeqCst);
}

/// A step that keeps threads in order. A model leaves each out in turn, and must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RaceSite {
    /// A raise takes the lock of those who wait: none of them is between its last question and its sleep.
    SignalLock,
    /// Who waits asks again under that lock: what was raised before it was counted is not missed.
    SignalAsksAgain,
    /// A task asks again once its waker is kept: what was raised before it was counted is not missed.
    TaskAsksAgain,
    /// A task that comes when its group is done already is not left waiting.
    TaskOfDoneGroup,
    /// The leader passes the baton to one who waits for the next group.
    Baton,
    /// A nudge is remembered for a background that is not waiting yet.
    NudgeIsKept,
    /// A leader has the applier before it lets go of the writer: who has both sees all that is written applied.
    ApplierBeforeWriterIsFree,
    /// A group is told last, when it is durable and applied.
    AnswerLast,
    /// Who leads next knows that the last write or sync failed.
    FailureIsPassedOn,
    /// Who moves the trim point looks whether a group has failed, at the place that it moves to.
    TrimLooksForFailure,
    /// Who makes all durable waits for a leader that has its frames and not yet the writer.
    SettleWaits,
    /// What is pinned is chosen while the horizon cannot move.
    PinUnderLock,
    /// Of a partition's two slots in the shared page the older one is filled: the other is as of what is visible.
    OlderSlot,
    /// A slot is marked while it is changed: no reader takes a new end for an old LSN.
    SlotIsMarked,
    /// A reader looks once more at the slot it takes: what was newer may have been replaced meanwhile.
    SlotIsStillThere,
    /// Who waits for the shared page asks again once it has said so: what was shown meanwhile is not missed.
    PageAsksAgain,
    /// What is shown is ordered before the look whether anybody waits for the shared page.
    PageFence,
    /// Who seals open batches does so under a lock: nobody finds none left while their frames have no place yet.
    SealingLock,
}

/// Whether the step at `site` is taken: always, but in a model that leaves it out.
#[inline]
pub(crate) fn keeps(site: RaceSite) -> bool {
    #[cfg(any(loom, shuttle))]
    return LEFT_OUT.get() != Some(site);
    #[cfg(not(any(loom, shuttle)))]
    {
        let _ = site;
        true
    }
}

// A model runs all its threads on the thread of its test.
#[cfg(any(loom, shuttle))]
std::thread_local! {
    static LEFT_OUT: std::cell::Cell<Option<RaceSite>> = const { std::cell::Cell::new(None) };
}

/// Leaves out the step at `site` in the models of this test from now on.
#[cfg(all(test, any(loom, shuttle)))]
pub(crate) fn leave_out(site: Option<RaceSite>) {
    LEFT_OUT.set(site);
}

/// A thread that [`spawn`] started.
#[derive(Debug)]
pub(crate) struct Thread<T>(thread::JoinHandle<T>);

/// Starts a thread of that name.
pub(crate) fn spawn<T: Send + 'static>(
    name: String,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<Thread<T>> {
    thread::Builder::new().name(name).spawn(run).map(Thread)
}

impl<T> Thread<T> {
    /// Waits for its end and gives what it returned, or the panic that ended it.
    pub(crate) fn join(self) -> std::thread::Result<T> {
        self.0.join()
    }
}
