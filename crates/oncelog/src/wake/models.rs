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
    assert!(runs >= runs_min, "only {runs} orders: the threads do not meet");
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
    let count = std::env::var("ONCELOG_SCHEDULES").map_or(10_000, |count| count.parse().expect("a number"));
    let model = std::sync::Arc::new(model);
    let again = std::sync::Arc::clone(&model);
    shuttle::check_random(move || model(), count / 2);
    shuttle::check_pct(move || again(), count / 2, switches);
}

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
