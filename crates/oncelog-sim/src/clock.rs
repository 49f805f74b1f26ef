//! A clock that moves only when told, in both directions.

use std::sync::Mutex;
use std::time::Duration;

use oncelog::clock::Clock;

/// Simulated time.
#[derive(Debug)]
pub struct SimClock {
    now: Mutex<(i64, Duration)>,
}

impl Default for SimClock {
    fn default() -> SimClock {
        SimClock { now: Mutex::new((1_700_000_000_000, Duration::ZERO)) }
    }
}

impl SimClock {
    /// Lets time pass.
    pub fn pass(&self, by: Duration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        now.0 = now.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX));
        now.1 = now.1.saturating_add(by);
    }

    /// Sets the wall clock, as an administrator or a time server may.
    pub fn jump_to(&self, wall_ms: i64) {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0 = wall_ms;
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> i64 {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0
    }

    fn monotonic(&self) -> Duration {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner).1
    }

    fn sleep(&self, pause: Duration) {
        self.pass(pause);
    }
}
