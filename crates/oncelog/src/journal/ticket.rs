//! What callers wait on: a group of frames that become durable together.

use std::task::Waker;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;
use crate::wake::{Arc, Condvar, Mutex, RaceSite, Wakers, keeps};

/// What `enqueue` gives: the frame's LSN, and something to wait on.
#[must_use]
pub(crate) struct Ticket {
    pub(crate) lsn: Lsn,
    pub(super) group: Arc<Group>,
}

/// Frames that are written and synced together.
#[derive(Default)]
pub(super) struct Group {
    state: Mutex<GroupState>,
    changed: Condvar,
}

#[derive(Default)]
struct GroupState {
    done: Option<Done>,
    /// The last leader asks one waiter of this group to lead.
    baton: bool,
    waiters: usize,
    /// Tasks that wait, by the LSN of their frame. They never lead.
    wakers: Wakers,
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    /// As durable as asked for, and applied.
    Applied,
    /// The sync was good, and then it was seen that another process has taken the owner over.
    Fenced,
    /// The write or sync of this very group failed.
    InDoubt,
    /// An earlier group failed; this one was never written.
    NotWritten,
}

impl Group {
    /// What became of it, once that is known.
    pub(super) fn done(&self) -> Option<Done> {
        self.state.lock().done
    }

    /// Waits until the group is done, or its caller is asked to lead.
    pub(super) fn wait(&self) {
        let mut state = self.state.lock();
        state.waiters += 1;
        while state.done.is_none() && !state.baton {
            state = self.changed.wait(state);
        }
        state.waiters -= 1;
        state.baton = false;
    }

    /// Waits for a moment, or until the group is done.
    pub(super) fn wait_a_moment(&self) {
        let state = self.state.lock();
        if state.done.is_none() {
            self.changed.wait_a_moment(state);
        }
    }

    /// Tells all who wait for it.
    pub(super) fn finish(&self, done: Done) {
        let wakers = {
            let mut state = self.state.lock();
            state.done = Some(done);
            std::mem::take(&mut state.wakers)
        };
        self.changed.notify_all();
        wakers.wake();
    }

    /// Has `waker` woken when the group is done, in the place of the one before for that frame; `false`: it is done.
    pub(super) fn register(&self, lsn: Lsn, waker: &Waker) -> bool {
        // A waker is code of others: it is cloned and dropped when no lock is held.
        let waker = waker.clone();
        let before = {
            let mut state = self.state.lock();
            if state.done.is_some() && keeps(RaceSite::TaskOfDoneGroup) {
                return false;
            }
            state.wakers.put(lsn.0, waker)
        };
        drop(before);
        true
    }

    /// Asks one of those who wait for this group to lead it; `false` when nobody waits yet.
    pub(super) fn pass_baton(&self) -> bool {
        let mut state = self.state.lock();
        state.baton = true;
        if state.waiters == 0 {
            return false;
        }
        self.changed.notify_one();
        true
    }
}

impl Done {
    /// The answer to those who wait.
    pub(super) fn answer(self) -> Result<()> {
        match self {
            Done::Applied => Ok(()),
            Done::InDoubt => Err(Error::new(
                ErrorKind::InDoubt,
                "the disk failed while this was made durable; it may be there or not: reopen the store and look",
            )),
            Done::Fenced => Err(Error::new(
                ErrorKind::Fenced,
                "another process has taken this owner over while this was made durable; it may be there or not: stop",
            )),
            Done::NotWritten => Err(Error::closed()),
        }
    }
}
