//! The limit on rows that are in memory only: who would pass it waits until they are written, or writes them itself.
//!
//! Invariant: nobody waits for a trim that cannot help. A full disk is an answer, and so is the end of the store.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::wake::{Arc, Condvar, Mutex};

/// How long a waiter trusts that it will be told.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

type Trim = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Knows the limit, and how the last trims ended.
pub(crate) struct Pressure {
    bytes_max: usize,
    rounds: Mutex<Rounds>,
    ended: Condvar,
    /// How a caller trims, where there is no background that would.
    trim: Mutex<Option<Trim>>,
}

#[derive(Clone, Copy, Default)]
struct Rounds {
    count: u64,
    found_full: bool,
}

impl Pressure {
    pub(crate) fn new(bytes_max: usize) -> Pressure {
        Pressure { bytes_max, rounds: Mutex::default(), ended: Condvar::new(), trim: Mutex::default() }
    }

    /// Callers trim by themselves from now on.
    pub(crate) fn trim_by(&self, trim: Trim) {
        *self.trim.lock() = Some(trim);
    }

    /// So many bytes are a reason to trim: half of what may be, and all of it while the disk is full.
    pub(crate) fn is_due(&self, bytes: usize) -> bool {
        bytes >= if self.rounds.lock().found_full { self.bytes_max } else { self.bytes_max / 2 }
    }

    /// A trim has ended.
    pub(crate) fn end_round(&self, found_full: bool) {
        let mut rounds = self.rounds.lock();
        *rounds = Rounds { count: rounds.count.wrapping_add(1), found_full };
        self.ended.notify_all();
    }

    /// Waits until fewer bytes than the limit are in memory only, as `bytes` says, which gives `None` when that matters
    /// no more. `ask` wakes who trims.
    ///
    /// # Errors
    /// `Full`: they cannot be written. Whatever the caller's own trim fails with.
    pub(crate) fn wait(&self, bytes: impl Fn() -> Option<usize>, ask: impl Fn()) -> Result<()> {
        let over = || bytes().is_some_and(|bytes| bytes >= self.bytes_max);
        while over() {
            let trim = self.trim.lock().clone();
            if let Some(trim) = trim {
                trim()?;
                continue;
            }
            let mut rounds = self.rounds.lock();
            let seen = rounds.count;
            ask();
            while rounds.count == seen && over() {
                rounds = self.ended.wait_timeout(rounds, LOOK_AGAIN);
            }
            let full = rounds.found_full;
            drop(rounds);
            if full && over() {
                let what = "rows that were changed take all of table_memory, and there is no space to write them";
                return Err(Error::new(ErrorKind::Full, what));
            }
        }
        Ok(())
    }
}
