//! How records are consumed: the styles, what a processing function answers, and when a record is tried again. Pure.

mod attempts;
mod failure;

use std::time::Duration;

use crate::ids::LogOffset;

pub(crate) use attempts::Attempts;
pub use failure::FailurePolicy;
pub(crate) use failure::{Ended, Rules, Verdict};

/// Where a consumer begins that has no committed progress. Resolved once, for each partition, to an offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Whence {
    /// At the first record that is kept.
    #[default]
    Oldest,
    /// Behind the last record that is there.
    Latest,
    /// At this offset. If that is no longer kept, the consumer is told of a gap.
    Position(LogOffset),
    /// At the first record with this timestamp or a later one, in milliseconds since the Unix epoch; behind the last
    /// record if there is none.
    Time(i64),
}

/// Which records a consumer is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Visibility {
    /// Those that are durable: what was shown once never disappears.
    #[default]
    Durable,
    /// Also those that are written and not yet synced: shown sooner, and a power cut may take them back. Progress over
    /// them is committed only together with the records themselves.
    Written,
}

/// What happens when the records that should come next are gone: by retention, by a power cut or by a repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapPolicy {
    /// An error of kind `Gap` says which ones; it comes again until the gap is skipped.
    #[default]
    Stop,
    /// What is lost is logged as a warning, and the next record comes.
    Skip,
}

/// Who gets which records, and what is remembered of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConsumerStyle {
    /// The fastest: nothing is remembered, each opening begins where it says. Each record at least once, for as long
    /// as the handle lives: it is handed out again where its effects could not be committed.
    NonTx(Whence),
    /// Each record once for this consumer id: its progress is committed in the same step as the effects of the record.
    ClientTx(String),
    /// Each record once over all consumers of the topic that have this style; there is one of them at a time.
    GlobalTx,
}

/// What a processing function answers for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Outcome {
    /// Done: progress and effects become one commit.
    Commit,
    /// Hand me the same record again, after the back-off; its effects are taken back.
    Retry,
    /// Done, without effects.
    Skip,
    /// Stop here: this record stays unprocessed, its effects are taken back.
    Break,
    /// Done, without effects: the record goes to the dead-letter topic, in the commit that passes it.
    DeadLetter,
}

/// When and how often a record is tried again after [`Outcome::Retry`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The first pause; doubled with each further attempt.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How often a record is tried in all; without end when `None`.
    pub attempts_max: Option<u32>,
}

impl Default for RetryPolicy {
    /// From 10 ms, doubling to 5 s, without end.
    fn default() -> RetryPolicy {
        RetryPolicy { backoff: Duration::from_millis(10), backoff_max: Duration::from_secs(5), attempts_max: None }
    }
}

impl RetryPolicy {
    /// The default policy.
    #[must_use]
    pub fn new() -> RetryPolicy {
        RetryPolicy::default()
    }

    /// Sets the first and the longest pause.
    #[must_use]
    pub fn backoff(self, first: Duration, longest: Duration) -> RetryPolicy {
        RetryPolicy { backoff: first, backoff_max: longest, ..self }
    }

    /// Sets how often a record is tried in all.
    #[must_use]
    pub fn attempts_max(self, attempts: u32) -> RetryPolicy {
        RetryPolicy { attempts_max: Some(attempts), ..self }
    }

    /// The pause after `attempts` that asked for another; `None` when there shall be no more.
    #[must_use]
    pub fn pause_after(&self, attempts: u32) -> Option<Duration> {
        if self.attempts_max.is_some_and(|max| attempts >= max) {
            return None;
        }
        let doubled = self.backoff.saturating_mul(1 << attempts.saturating_sub(1).min(30));
        Some(doubled.min(self.backoff_max))
    }
}

/// Answers [`Outcome::Commit`] from a processing function.
#[macro_export]
macro_rules! commit {
    () => {
        return ::std::result::Result::Ok($crate::Outcome::Commit)
    };
}

/// Answers [`Outcome::Retry`] from a processing function.
#[macro_export]
macro_rules! retry {
    () => {
        return ::std::result::Result::Ok($crate::Outcome::Retry)
    };
}

/// Answers [`Outcome::Skip`] from a processing function.
#[macro_export]
macro_rules! skip {
    () => {
        return ::std::result::Result::Ok($crate::Outcome::Skip)
    };
}

/// Answers [`Outcome::Break`] from a processing function.
#[macro_export]
macro_rules! stop {
    () => {
        return ::std::result::Result::Ok($crate::Outcome::Break)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_attempts_end() {
        let policy = RetryPolicy::new().backoff(Duration::from_millis(10), Duration::from_millis(35)).attempts_max(4);
        let pauses: Vec<_> = (1..=4).map(|attempts| policy.pause_after(attempts).map(|p| p.as_millis())).collect();
        assert_eq!(pauses, [Some(10), Some(20), Some(35), None]);
        assert_eq!(RetryPolicy::new().pause_after(u32::MAX), Some(Duration::from_secs(5)));
    }
}
