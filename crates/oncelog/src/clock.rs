//! The only source of time. A store asks the [`Clock`] it was opened with; the simulator gives one of its own.
//!
//! Nothing that must be right depends on it: order, fencing and duplicates never look at a clock.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Wall time and pauses.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch, UTC. May jump in both directions.
    fn now_ms(&self) -> i64;
    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;
    /// Waits. A simulated clock moves on instead.
    fn sleep(&self, pause: Duration);
}

/// The clock of the machine.
#[derive(Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

#[allow(clippy::disallowed_methods, reason = "this is the room that knows the time")]
impl SystemClock {
    /// The clock of the machine, shared.
    #[must_use]
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(SystemClock { start: std::time::Instant::now() })
    }
}

#[allow(clippy::disallowed_methods, reason = "this is the room that knows the time")]
impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        match since {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

impl fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
