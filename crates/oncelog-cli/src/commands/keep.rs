//! What a topic keeps, on the command line.

use std::time::Duration;

use clap::Args;
use oncelog::{MinimumRetention, Retention, TopicChange};
use serde::Serialize;

use crate::exit::{self, Failure};

/// How much and how long a topic keeps, and what must stay.
#[derive(Args, Debug)]
pub(crate) struct KeepArguments {
    /// The most bytes of segment files that are kept over all partitions, or `none`. The oldest go first
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_bytes: Option<Limit<u64>>,
    /// The longest that a segment file is kept after its last record, as 7d, 12h, 30m or 90s, or `none`
    #[arg(long, value_name = "AGE", value_parser = age)]
    max_age: Option<Limit<Duration>>,
    /// Never remove what this consumer has not read; may be given again for others. Where all of --max-bytes is kept
    /// for them, library producers wait, and `oncelog produce` ends with an error, until they have read
    #[arg(long, value_name = "CONSUMER", conflicts_with = "keep_age")]
    keep_for: Vec<String>,
    /// Wait for these consumers no longer than this if they commit nothing
    #[arg(long, value_name = "AGE", requires = "keep_for", value_parser = whole_age)]
    expiry: Option<Duration>,
    /// Never remove what was appended less than so long ago, or `none`: only the limits decide
    #[arg(long, value_name = "AGE", value_parser = age)]
    keep_age: Option<Limit<Duration>>,
}

/// A limit that is set or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit<T> {
    At(T),
    None,
}

impl<T> Limit<T> {
    fn value(self) -> Option<T> {
        match self {
            Limit::At(value) => Some(value),
            Limit::None => None,
        }
    }
}

fn bytes(text: &str) -> Result<Limit<u64>, String> {
    if text == "none" {
        return Ok(Limit::None);
    }
    text.parse().map(Limit::At).map_err(|_| "a number of bytes, or none".to_owned())
}

fn age(text: &str) -> Result<Limit<Duration>, String> {
    if text == "none" { Ok(Limit::None) } else { whole_age(text).map(Limit::At) }
}

pub(crate) fn whole_age(text: &str) -> Result<Duration, String> {
    let complaint = || "a whole number of days, hours, minutes or seconds: 7d, 12h, 30m, 90s".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(complaint)?;
    let seconds: u64 = match unit {
        "d" => 86_400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return Err(complaint()),
    };
    let number: u64 = number.parse().map_err(|_| complaint())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(complaint)
}

impl KeepArguments {
    /// Whether anything is said.
    pub(crate) fn is_there(&self) -> bool {
        self.max_bytes.is_some() || self.max_age.is_some() || !self.keep_for.is_empty() || self.keep_age.is_some()
    }

    fn minimum(&self) -> Option<MinimumRetention> {
        if !self.keep_for.is_empty() {
            let ids = self.keep_for.iter().collect();
            return Some(MinimumRetention::Consumers { ids, expiry: self.expiry });
        }
        self.keep_age.map(|age| age.value().map_or(MinimumRetention::Nothing, MinimumRetention::Age))
    }

    /// What a new topic keeps.
    pub(crate) fn retention(&self) -> Retention {
        Retention {
            max_total_bytes: self.max_bytes.and_then(Limit::value),
            max_file_age: self.max_age.and_then(Limit::value),
            blocking_minimum: self.minimum().unwrap_or_default(),
        }
    }

    /// The change of a topic that is there.
    pub(crate) fn change(&self, mut change: TopicChange) -> TopicChange {
        if let Some(limit) = self.max_bytes {
            change = change.max_total_bytes(limit.value());
        }
        if let Some(limit) = self.max_age {
            change = change.max_file_age(limit.value());
        }
        match self.minimum() {
            Some(minimum) => change.blocking_minimum_retention(minimum),
            None => change,
        }
    }
}

/// What a topic keeps, to be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Kept {
    max_bytes: Option<u64>,
    max_age_s: Option<u64>,
    keep_for: Vec<String>,
    expiry_s: Option<u64>,
    keep_age_s: Option<u64>,
}

impl Kept {
    pub(crate) fn of(retention: &Retention) -> Kept {
        let mut kept = Kept {
            max_bytes: retention.max_total_bytes,
            max_age_s: retention.max_file_age.map(|age| age.as_secs()),
            keep_for: Vec::new(),
            expiry_s: None,
            keep_age_s: None,
        };
        match &retention.blocking_minimum {
            MinimumRetention::Consumers { ids, expiry } => {
                kept.keep_for = ids.iter().map(str::to_owned).collect();
                kept.expiry_s = expiry.map(|expiry| expiry.as_secs());
            }
            MinimumRetention::Age(age) => kept.keep_age_s = Some(age.as_secs()),
            _ => {}
        }
        kept
    }

    /// In one line.
    pub(crate) fn text(&self) -> String {
        let mut said = Vec::new();
        said.extend(self.max_bytes.map(|bytes| format!("at most {bytes} bytes")));
        said.extend(self.max_age_s.map(|age| format!("for {age} s at most")));
        said.extend(self.keep_age_s.map(|age| format!("for {age} s at least")));
        if !self.keep_for.is_empty() {
            let until = self.expiry_s.map_or_else(String::new, |expiry| format!(" (or idle for {expiry} s)"));
            said.push(format!("until read by {}{until}", self.keep_for.join(", ")));
        }
        if said.is_empty() { "everything".to_owned() } else { said.join("; ") }
    }
}

/// # Errors
/// Of usage: nothing is to be changed.
pub(crate) fn something(is_there: bool) -> Result<(), Failure> {
    if is_there {
        Ok(())
    } else {
        Err(Failure::new(exit::USAGE, "say what is to be changed, as --compression lz4 or --max-age 7d: see --help"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        assert_eq!(whole_age("7d").unwrap(), Duration::from_secs(7 * 86_400));
        assert_eq!(age("90s").unwrap(), Limit::At(Duration::from_secs(90)));
        assert_eq!(age("none").unwrap(), Limit::None);
        for wrong in ["", "7", "d", "-1d", "1.5h", "1w", "99999999999999999999d", "999999999999999999d", "7\u{e9}"] {
            assert!(whole_age(wrong).is_err(), "{wrong}");
        }
    }
}
