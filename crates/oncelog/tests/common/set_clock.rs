//! A clock whose two hands are set by hand.
#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use oncelog::clock::Clock;

#[derive(Default)]
pub(crate) struct SetClock {
    pub(crate) wall_ms: AtomicI64,
    monotonic_ms: AtomicU64,
}

impl SetClock {
    pub(crate) fn pass(&self, seconds: u64) {
        self.pass_by(Duration::from_secs(seconds));
    }

    pub(crate) fn pass_by(&self, passed: Duration) {
        let ms = u64::try_from(passed.as_millis()).unwrap();
        self.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
        self.jump(i64::try_from(ms).unwrap());
    }

    /// Goes on to that time of the wall clock, which may not be behind.
    pub(crate) fn pass_to(&self, wall_ms: i64) {
        self.pass_by(Duration::from_millis(u64::try_from(wall_ms - self.now_ms()).unwrap()));
    }

    /// Moves the wall clock alone.
    pub(crate) fn jump(&self, by_ms: i64) {
        self.wall_ms.fetch_add(by_ms, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        self.wall_ms.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.monotonic_ms.load(Ordering::SeqCst))
    }

    fn sleep(&self, pause: Duration) {
        self.monotonic_ms.fetch_add(u64::try_from(pause.as_millis()).unwrap(), Ordering::SeqCst);
    }
}
