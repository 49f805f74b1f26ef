//! Group commit in its plainest form: one mutex, one condition variable, one leader at a time.
//!
//! Whoever finds no leader becomes it, takes all frames that wait, writes and syncs them, and wakes everybody.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::file::LogFile;
use super::frame::put_frame;
use crate::Result;

/// A log that many threads append to durably.
pub(crate) struct GroupLog {
    log: LogFile,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Frames that wait, and the group that they belong to.
    waiting: Vec<u8>,
    group: u64,
    /// Groups below it are durable.
    durable: u64,
    leading: bool,
    failed: bool,
    /// The buffer of the group before, to be filled again.
    spare: Vec<u8>,
}

impl GroupLog {
    pub(crate) fn new(log: LogFile) -> GroupLog {
        GroupLog { log, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Appends one record; durable on return.
    pub(crate) fn append(&self, key: &[u8], value: &[u8]) -> Result<()> {
        let mut state = self.lock();
        put_frame(&mut state.waiting, [key, value]);
        let group = state.group;
        while state.durable <= group {
            if state.failed {
                return Err("a write or sync of the yardstick failed".into());
            }
            state = if state.leading {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.lead(state)
            };
        }
        Ok(())
    }

    fn lead<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.leading = true;
        let spare = std::mem::take(&mut state.spare);
        let mut frames = std::mem::replace(&mut state.waiting, spare);
        state.group += 1;
        let group = state.group;
        drop(state);
        let written = self.log.write(&frames).and_then(|()| self.log.sync());
        frames.clear();
        let mut state = self.lock();
        state.spare = frames;
        state.leading = false;
        state.failed |= written.is_err();
        if written.is_ok() {
            state.durable = group;
        }
        self.changed.notify_all();
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.log.syncs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Subject;
    use crate::yardstick::Scan;

    #[test]
    fn what_is_answered_is_read_back() {
        for subject in [Subject::Raw, Subject::Zeroed] {
            let dir = tempfile::tempdir().unwrap();
            let log = GroupLog::new(LogFile::create(dir.path(), subject, 64 << 10).unwrap());
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..100).for_each(|_| log.append(b"key", b"value").unwrap()));
                }
            });
            let mut scan = Scan::open(log.log.path()).unwrap();
            let mut count = 0;
            while let Some(payload) = scan.next().unwrap() {
                assert_eq!(payload, b"keyvalue");
                count += 1;
            }
            assert_eq!(count, 400);
            assert!((1..=400).contains(&log.syncs()));
        }
    }
}
