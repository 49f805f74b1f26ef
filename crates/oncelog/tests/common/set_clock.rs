//! A clock whose two hands are set by hand.

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
        self.wall_ms.fetch_add(1000 * i64::try_from(seconds).unwrap(), Ordering::SeqCst);
        self.monotonic_ms.fetch_add(1000 * seconds, Ordering::SeqCst);
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
