//! The operations of short histories, which are tried in every order with every crash.

use super::ops::Done;
use super::world::World;

/// One operation. What is left to chance is decided by the seed of the history, the same one for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Short {
    Append,
    Spread,
    Lax,
    Transact,
    Submit,
    Stamped,
    SendAgain,
    TakeIn,
    Coordinate,
    /// An id comes for the first time, and is forgotten.
    Seen,
    Gather,
    Process,
    Join,
    Consume,
    Tail,
    Fleeting,
    Churn,
    Alter,
    /// Something is consumed, and its consumer put elsewhere.
    Move,
    /// Something is consumed, and its consumer forgotten.
    Forget,
    /// A consumer id that both owners have, one after the other.
    Round,
    Outside,
    Delay,
    /// A topic is filled and compacted.
    Compact,
    Side,
    /// Enough to roll segments and to fill a file of the journal.
    Fill,
    Trim,
    Close,
    /// The process is killed, its page cache stays, and the store is opened again: the next crash may be in that.
    Kill,
    /// As `Kill`, and a reader looks before the store is opened.
    Ruins,
}

impl Short {
    pub(crate) const ALL: [Short; 30] = [
        Short::Append,
        Short::Spread,
        Short::Lax,
        Short::Transact,
        Short::Submit,
        Short::Stamped,
        Short::SendAgain,
        Short::TakeIn,
        Short::Coordinate,
        Short::Seen,
        Short::Gather,
        Short::Process,
        Short::Join,
        Short::Consume,
        Short::Tail,
        Short::Fleeting,
        Short::Churn,
        Short::Alter,
        Short::Move,
        Short::Forget,
        Short::Round,
        Short::Outside,
        Short::Delay,
        Short::Compact,
        Short::Side,
        Short::Fill,
        Short::Trim,
        Short::Close,
        Short::Kill,
        Short::Ruins,
    ];

    /// One of each kind: a commit, one that is answered early, one with everything in it, what moves files and what
    /// ends an opening.
    pub(crate) const CORE: [Short; 7] =
        [Short::Append, Short::Lax, Short::Stamped, Short::Process, Short::Trim, Short::Close, Short::Kill];
}

impl World {
    /// One operation of a short history.
    pub(super) fn short(&mut self, op: Short) -> Done {
        match op {
            Short::Append => self.append(),
            Short::Spread => self.append_spread(),
            Short::Lax => self.append_lax(),
            Short::Transact => self.transact(),
            Short::Submit => self.submit_some(),
            Short::Stamped => self.append_stamped(),
            Short::SendAgain => self.send_again(),
            Short::TakeIn => self.take_in(),
            Short::Coordinate => self.coordinate(),
            Short::Seen => self.see_and_forget(),
            Short::Gather => self.gather(),
            Short::Process => self.process(),
            Short::Join => self.join_every_fate(),
            Short::Consume => self.consume(),
            Short::Tail => self.tail(),
            Short::Fleeting => self.fleeting(),
            Short::Churn => self.churn(),
            Short::Alter => self.alter_plain(),
            Short::Move => self.consume_and(World::move_one_by_one),
            Short::Forget => self.consume_and(World::forget_one_by_one),
            Short::Round => self.go_all_round(),
            Short::Outside => self.offsets_outside(),
            Short::Delay => self.delay_and_deliver(),
            Short::Compact => self.fill_and_compact(),
            Short::Side => self.side(),
            Short::Fill => self.fill(),
            Short::Trim => self.trim_now(),
            Short::Close => self.close_now(),
            Short::Kill => self.kill_and_open(),
            Short::Ruins => self.kill_and_look(),
        }
    }

    /// What came before the crash is what is forgotten.
    fn see_and_forget(&mut self) -> Done {
        let crashes = self.outcome.crashes;
        self.first_time()?;
        if self.outcome.crashes > crashes { Ok(()) } else { self.forget_ids() }
    }

    /// Several records, each nearly as long as a segment may be.
    fn fill(&mut self) -> Done {
        for _ in 0..3 {
            let crashes = self.outcome.crashes;
            self.append_long()?;
            if self.outcome.crashes > crashes {
                break;
            }
        }
        Ok(())
    }
}
