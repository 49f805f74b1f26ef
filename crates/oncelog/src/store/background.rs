//! The one thread of a store: leads groups that nobody waits for, syncs lax appends in time, moves the trim point.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::Core;
use crate::error::{Error, ErrorKind, Result};
use crate::wake::{Arc, AtomicBool, Ordering, Thread, spawn};

/// The journal wakes the thread when there is something to answer; this only bounds the harm of a wake-up that is lost
/// to a bug.
const ANSWER_EVERY: Duration = Duration::from_secs(1);

/// The running thread. Dropping it ends and joins it.
pub(super) struct Background {
    core: Arc<Core>,
    stop: Arc<AtomicBool>,
    thread: Option<Thread<()>>,
}

impl Background {
    pub(super) fn start(core: &Arc<Core>) -> Result<Background> {
        let stop = Arc::new(AtomicBool::new(false));
        let (theirs, their_core) = (Arc::clone(&stop), Arc::clone(core));
        let run = move || {
            let ran = catch_unwind(AssertUnwindSafe(|| run(&their_core, &theirs)));
            if ran.is_err() {
                tracing::error!("the background thread panicked; the store must be reopened");
                their_core.pipeline.journal.fail();
                answer_rest(&their_core, &theirs);
            }
        };
        let thread = spawn("oncelog".to_owned(), run).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no thread for the background of the store").because(error)
        })?;
        Ok(Background { core: Arc::clone(core), stop, thread: Some(thread) })
    }
}

fn run(core: &Core, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        match core.duties() {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::Full => tracing::warn!(%error, "no space for background work"),
            Err(error) => {
                if error.kind() != ErrorKind::Closed {
                    tracing::error!(%error, "background work failed");
                }
            }
        }
        if core.pipeline.journal.has_failed() {
            return answer_rest(core, stop);
        }
        core.pipeline.journal.wait_for_work(core.next_duty());
    }
}

/// What is left to do when the journal has failed: frames of tasks, which never lead, get their answer, and who waits
/// for news hears of it.
fn answer_rest(core: &Core, stop: &AtomicBool) {
    core.pipeline.view.news.raise();
    while !stop.load(Ordering::SeqCst) {
        while core.pipeline.journal.lead() {}
        core.pipeline.journal.wait_for_work(ANSWER_EVERY);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.core.pipeline.journal.wake_background();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught and told inside.
            let _ = thread.join();
        }
    }
}
