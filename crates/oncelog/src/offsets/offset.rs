//! A place in a source, of whatever kind the source knows.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::error::OffsetError;

/// A place to resume at: the next to read.
///
/// Written as text it is `sequence:42`, `timestamp:2026-11-28T06:00:00Z`, `custom:any text`, `earliest` or `latest`,
/// and parses back from that; a bare number is a sequence.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Offset {
    /// The number of a record.
    Sequence(u64),
    /// A time.
    Timestamp(DateTime<Utc>),
    /// What only the source understands.
    Custom(String),
    /// Wherever the source begins now: a policy, never a place that can be committed.
    Earliest,
    /// Wherever the source ends now: a policy, never a place that can be committed.
    Latest,
}

impl Offset {
    /// The offset to commit when `last` was the last record processed: one further on.
    ///
    /// # Errors
    /// `InvalidOffset`: there is none behind `u64::MAX`.
    pub fn after(last: u64) -> Result<Offset, OffsetError> {
        let next = last.checked_add(1).map(Offset::Sequence);
        next.ok_or_else(|| OffsetError::InvalidOffset(format!("no sequence comes after {last}")))
    }

    /// The next sequence; `None` at the maximum, and for every other kind, of which nobody knows what comes next.
    #[must_use]
    pub fn increment(&self) -> Option<Offset> {
        match self {
            Offset::Sequence(sequence) => sequence.checked_add(1).map(Offset::Sequence),
            _ => None,
        }
    }

    /// The number, of a sequence.
    #[must_use]
    pub fn as_sequence(&self) -> Option<u64> {
        match self {
            Offset::Sequence(sequence) => Some(*sequence),
            _ => None,
        }
    }

    /// Whether it is a place, and so can be stored.
    #[must_use]
    pub fn is_place(&self) -> bool {
        !matches!(self, Offset::Earliest | Offset::Latest)
    }
}

/// Two sequences compare by number and two times by time; `Earliest` is before and `Latest` behind every other. Of all
/// other pairs nobody knows, custom ones included unless they are equal: `None`.
impl PartialOrd for Offset {
    fn partial_cmp(&self, other: &Offset) -> Option<Ordering> {
        match (self, other) {
            (Offset::Sequence(one), Offset::Sequence(two)) => Some(one.cmp(two)),
            (Offset::Timestamp(one), Offset::Timestamp(two)) => Some(one.cmp(two)),
            (one, two) if one == two => Some(Ordering::Equal),
            (Offset::Earliest, _) | (_, Offset::Latest) => Some(Ordering::Less),
            (_, Offset::Earliest) | (Offset::Latest, _) => Some(Ordering::Greater),
            _ => None,
        }
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Offset::Sequence(sequence) => write!(f, "sequence:{sequence}"),
            Offset::Timestamp(time) => write!(f, "timestamp:{}", time.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Offset::Custom(text) => write!(f, "custom:{text}"),
            Offset::Earliest => f.write_str("earliest"),
            Offset::Latest => f.write_str("latest"),
        }
    }
}

impl FromStr for Offset {
    type Err = OffsetError;

    fn from_str(text: &str) -> Result<Offset, OffsetError> {
        let bad = |why: &dyn fmt::Display| OffsetError::InvalidOffset(format!("{text:?} is no offset: {why}"));
        match text.split_once(':') {
            Some(("sequence", number)) => number.parse().map(Offset::Sequence).map_err(|error| bad(&error)),
            Some(("timestamp", time)) => match DateTime::parse_from_rfc3339(time) {
                // In UTC it may be in a year that has no such text.
                Ok(time) if !(0..=9999).contains(&time.to_utc().year()) => Err(bad(&"not in the years 0 to 9999")),
                Ok(time) => Ok(Offset::Timestamp(time.to_utc())),
                Err(error) => Err(bad(&error)),
            },
            Some(("custom", text)) => Ok(Offset::Custom(text.to_owned())),
            _ => match text {
                "earliest" => Ok(Offset::Earliest),
                "latest" => Ok(Offset::Latest),
                _ => text.parse().map(Offset::Sequence).map_err(|error| bad(&error)),
            },
        }
    }
}

impl From<u64> for Offset {
    fn from(sequence: u64) -> Offset {
        Offset::Sequence(sequence)
    }
}
