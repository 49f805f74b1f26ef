//! What becomes of a record after a call of the function: from how the call ended, and how often it was tried, to what
//! is to be done. Pure; `handles` does it.

use std::time::Duration;

use super::{Outcome, RetryPolicy};
use crate::error::{Error, ErrorKind};

/// What becomes of a record whose processing function panicked or failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailurePolicy {
    /// Stop with the error: the record is unprocessed, and the first one again after a restart.
    #[default]
    Stop,
    /// As [`Outcome::Retry`]: as often as the [`RetryPolicy`] says, then to the dead-letter topic if there is one, else
    /// stop with the error.
    Retry,
    /// As [`Outcome::Skip`], with a warning in the log.
    Skip,
    /// As [`Outcome::DeadLetter`].
    DeadLetter,
}

/// What is done after which end of a call.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    pub(crate) retry: RetryPolicy,
    pub(crate) on_panic: FailurePolicy,
    pub(crate) on_error: FailurePolicy,
    /// Whether a dead-letter topic is named.
    pub(crate) dead_letters: bool,
}

/// How a call of the function ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Answered(Outcome),
    Failed(Error),
    /// With the panic's text.
    Panicked(String),
}

/// What is to be done with the record.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is done with; its effects stay if it asked for that, and are gone already otherwise.
    Done,
    /// Done, without effects, and whoever looks at the log is told why.
    SkipTold(String),
    /// Done; it goes to the dead-letter topic, for this reason.
    DeadLetter(String),
    /// It is handed out again after the pause.
    Again(Duration),
    /// It stays unprocessed, as it was asked for.
    Break,
    /// It stays unprocessed, and this is why.
    Fail(Error),
}

const ASKED_FOR: &str = "the processing function asked for it";
const NONE_NAMED: &str = "the processing function asked for the dead-letter topic, and none is named";

impl Rules {
    /// What follows when the call that made it `attempts` ended so.
    pub(crate) fn judge(&self, ended: Ended, attempts: u32) -> Verdict {
        let asked =
            || Error::new(ErrorKind::User, format!("the processing function asked for a retry {attempts} times"));
        match ended {
            Ended::Answered(Outcome::Commit | Outcome::Skip) => Verdict::Done,
            Ended::Answered(Outcome::Break) => Verdict::Break,
            Ended::Answered(Outcome::Retry) => self.again(attempts, asked),
            Ended::Answered(Outcome::DeadLetter) if self.dead_letters => Verdict::DeadLetter(ASKED_FOR.to_owned()),
            Ended::Answered(Outcome::DeadLetter) => Verdict::Fail(Error::invalid(NONE_NAMED)),
            Ended::Panicked(text) => {
                let error = || Error::new(ErrorKind::User, format!("the processing function panicked: {text}"));
                self.follow(self.on_panic, attempts, error)
            }
            Ended::Failed(error) if is_of_the_record(&error) => self.follow(self.on_error, attempts, || error),
            Ended::Failed(error) => Verdict::Fail(error),
        }
    }

    fn follow(&self, policy: FailurePolicy, attempts: u32, error: impl FnOnce() -> Error) -> Verdict {
        match policy {
            FailurePolicy::Stop => Verdict::Fail(error()),
            FailurePolicy::Retry => self.again(attempts, error),
            FailurePolicy::Skip => Verdict::SkipTold(error().to_string()),
            FailurePolicy::DeadLetter => self.bury(error),
        }
    }

    fn again(&self, attempts: u32, error: impl FnOnce() -> Error) -> Verdict {
        match self.retry.pause_after(attempts) {
            Some(pause) => Verdict::Again(pause),
            None => self.bury(error),
        }
    }

    fn bury(&self, error: impl FnOnce() -> Error) -> Verdict {
        let error = error();
        if self.dead_letters { Verdict::DeadLetter(error.to_string()) } else { Verdict::Fail(error) }
    }
}

/// Whether an error is one that another record might not have met: of the function's own, a record that cannot be
/// decoded, an effect that is not allowed. The others are the engine's, and no record is to blame.
fn is_of_the_record(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::User | ErrorKind::Invalid | ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(policy: FailurePolicy, dead_letters: bool) -> Rules {
        let retry = RetryPolicy::new().attempts_max(2);
        Rules { retry, on_panic: policy, on_error: policy, dead_letters }
    }

    fn user() -> Ended {
        Ended::Failed(Error::user("no such customer"))
    }

    #[test]
    fn each_end_has_its_verdict() {
        let stop = rules(FailurePolicy::Stop, false);
        assert!(matches!(stop.judge(Ended::Answered(Outcome::Commit), 1), Verdict::Done));
        assert!(matches!(stop.judge(Ended::Answered(Outcome::Skip), 1), Verdict::Done));
        assert!(matches!(stop.judge(Ended::Answered(Outcome::Break), 1), Verdict::Break));
        assert!(matches!(stop.judge(Ended::Answered(Outcome::Retry), 1), Verdict::Again(_)));
        assert!(matches!(stop.judge(user(), 1), Verdict::Fail(error) if error.kind() == ErrorKind::User));
        assert!(matches!(stop.judge(Ended::Panicked("x".into()), 1), Verdict::Fail(_)));
        let skip = rules(FailurePolicy::Skip, false);
        assert!(matches!(skip.judge(user(), 1), Verdict::SkipTold(why) if why.contains("no such customer")));
        let bury = rules(FailurePolicy::DeadLetter, true);
        assert!(matches!(bury.judge(Ended::Panicked("x".into()), 1), Verdict::DeadLetter(why) if why.contains('x')));
    }

    #[test]
    fn after_the_last_attempt_the_dead_letter_topic_or_the_error() {
        for ended in [|| Ended::Answered(Outcome::Retry), user, || Ended::Panicked("x".into())] {
            let (buried, told) = (rules(FailurePolicy::Retry, true), rules(FailurePolicy::Retry, false));
            assert!(matches!(buried.judge(ended(), 1), Verdict::Again(_)));
            assert!(matches!(buried.judge(ended(), 2), Verdict::DeadLetter(_)));
            assert!(matches!(told.judge(ended(), 2), Verdict::Fail(error) if error.kind() == ErrorKind::User));
        }
        let unnamed = rules(FailurePolicy::Stop, false).judge(Ended::Answered(Outcome::DeadLetter), 1);
        assert!(matches!(unnamed, Verdict::Fail(error) if error.kind() == ErrorKind::Invalid));
    }

    #[test]
    fn no_record_is_blamed_for_what_the_engine_says() {
        let kinds = [ErrorKind::Closed, ErrorKind::InDoubt, ErrorKind::Corrupt, ErrorKind::Full, ErrorKind::Conflict];
        for policy in [FailurePolicy::Retry, FailurePolicy::Skip, FailurePolicy::DeadLetter] {
            for kind in kinds {
                let verdict = rules(policy, true).judge(Ended::Failed(Error::new(kind, "x")), 9);
                assert!(matches!(verdict, Verdict::Fail(error) if error.kind() == kind), "{kind:?}, {policy:?}");
            }
        }
    }
}
