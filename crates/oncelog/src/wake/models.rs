//! How models are run, and the model of [`Signal`].
//!
//! A model is a few lines on two to five threads that use the real code. Loom runs it once for each order of its steps
//! (with at most so many switches away from a thread that could go on). Shuttle runs it in so many orders by chance,
//! half of them with few switches at the worst places (PCT, Burckhardt and others 2010), and can so afford larger ones.
//! Both say when an assertion fails and when all threads wait for each other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64 as Counter, Ordering::Relaxed};

use super::*;

/// Runs `model` in every order of its steps with at most `switches` switches that no thread asked for; at least
/// `runs_min` orders, or the model shows nothing.
pub(crate) fn check(switches: usize, runs_min: u64, model: impl Fn() + Send + Sync + 'static) {
    let runs = std::sync::Arc::new(Counter::new(0));
    let counted = std::sync::Arc::clone(&runs);
    explore(switches, move || {
        counted.fetch_add(1, Relaxed);
        model();
    });
    let runs = runs.load(Relaxed);
    println!("{runs} orders");
    // Shuttle runs as many as it is told.
    assert!(runs >= runs_min || cfg!(shuttle), "only {runs} orders: the threads do not meet");
}

/// The proof that `model` can fail: without the step at `site`, it does.
pub(crate) fn check_needs(site: RaceSite, switches: usize, model: impl Fn() + Send + Sync + 'static) {
    leave_out(Some(site));
    let ran = catch_unwind(AssertUnwindSafe(|| explore(switches, model)));
    leave_out(None);
    assert!(ran.is_err(), "nothing noticed that {site:?} was left out");
}

#[cfg(loom)]
fn explore(switches: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(switches);
    builder.max_branches = 100_000;
    builder.check(model);
}

#[cfg(shuttle)]
fn explore(switches: usize, model: impl Fn() + Send + Sync + 'static) {
    explore_so_many(schedules(), switches, model);
}

/// How many orders shuttle tries.
#[cfg(shuttle)]
pub(crate) fn schedules() -> usize {
    std::env::var("ONCELOG_SCHEDULES").map_or(10_000, |count| count.parse().expect("a number"))
}

#[cfg(shuttle)]
pub(crate) fn explore_so_many(count: usize, switches: usize, model: impl Fn() + Send + Sync + 'static) {
    use shuttle::scheduler::{PctScheduler, RandomScheduler};

    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    let model = std::sync::Arc::new(model);
    let again = std::sync::Arc::clone(&model);
    shuttle::Runner::new(RandomScheduler::new(count / 2), config.clone()).run(move || model());
    shuttle::Runner::new(PctScheduler::new(switches, count / 2), config).run(move || again());
}

/// A whole store needs that much.
#[cfg(shuttle)]
const STACK_BYTES: usize = 1 << 20;

/// One thread brings news while two wait for it.
fn two_wait_for_news() {
    let signal = Arc::new(Signal::default());
    let news = Arc::new(AtomicU64::new(0));
    let waiters: Vec<_> = (0..2)
        .map(|_| {
            let (signal, news) = (Arc::clone(&signal), Arc::clone(&news));
            let wait = move || {
                signal.wait_until(Duration::from_secs(1), || news.load(Ordering::SeqCst) > 0);
                // The wait has no other end in a model: time does not pass.
                assert_eq!(news.load(Ordering::SeqCst), 1);
            };
            spawn("waiter".to_owned(), wait).expect("a model starts threads")
        })
        .collect();
    news.store(1, Ordering::SeqCst);
    signal.raise();
    for waiter in waiters {
        waiter.join().expect("no waiter panics");
    }
}

/// A task whose thread sleeps until it is woken.
#[derive(Default)]
pub(crate) struct Task {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl std::task::Wake for Task {
    fn wake(self: Arc<Self>) {
        *self.woken.lock() = true;
        self.changed.notify_all();
    }
}

impl Task {
    /// Sleeps until it is woken, for ever if it is not: a model has no other way to say that a wake-up is lost.
    pub(crate) fn sleep(&self) {
        let mut woken = self.woken.lock();
        while !*woken {
            woken = self.changed.wait(woken);
        }
        *woken = false;
    }
}

/// One thread brings news twice while a task waits for both.
fn a_task_waits_for_news() {
    let signal = Arc::new(Signal::default());
    let news = Arc::new(AtomicU64::new(0));
    let (theirs, their_news) = (Arc::clone(&signal), Arc::clone(&news));
    let brings = move || {
        for _ in 0..2 {
            their_news.fetch_add(1, Ordering::SeqCst);
            theirs.raise();
        }
    };
    let brings = spawn("brings".to_owned(), brings).expect("a model starts threads");
    let task = Arc::new(Task::default());
    let waker = Waker::from(Arc::clone(&task));
    let mut registered = Registered::default();
    while signal.register(&mut registered, &waker, || news.load(Ordering::SeqCst) == 2) {
        task.sleep();
    }
    brings.join().expect("it does not panic");
    assert_eq!(signal.waiting.load(Ordering::SeqCst), 0, "a waker that is gone is counted");
}

#[test]
fn no_task_is_forgotten() {
    check(3, 100, a_task_waits_for_news);
}

#[test]
fn a_task_asks_again_when_its_waker_is_kept() {
    check_needs(RaceSite::TaskAsksAgain, 3, a_task_waits_for_news);
}

#[test]
fn no_raise_is_lost() {
    check(3, 100, two_wait_for_news);
}

#[test]
fn a_raise_takes_the_lock_of_those_who_wait() {
    check_needs(RaceSite::SignalLock, 3, two_wait_for_news);
}

#[test]
fn who_waits_asks_again_under_the_lock() {
    check_needs(RaceSite::SignalAsksAgain, 3, two_wait_for_news);
}
