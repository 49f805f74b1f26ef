//! Key compaction, on the command line.

use std::time::Duration;

use clap::Args;
use oncelog::{Compaction, CompactionStats};
use serde::Serialize;

use super::keep::whole_age;
use crate::exit::Failure;

/// Whether and how a topic is compacted by key.
#[derive(Args, Debug)]
pub(crate) struct CompactionArguments {
    /// Keep only the last record of each key: every record must have a key then
    #[arg(long)]
    compact: bool,
    /// Compact when so much of what may be was not yet: 0.5 unless set, 0 with each segment file that is done
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    dirty_ratio: Option<u8>,
    /// Keep a record without a value so long after what it ends: 1d unless set
    #[arg(long, value_name = "AGE", value_parser = whole_age)]
    tombstones: Option<Duration>,
    /// Never compact what was appended less than so long ago
    #[arg(long, value_name = "AGE", value_parser = whole_age)]
    compact_lag: Option<Duration>,
}

/// A part of one, in hundredths.
fn ratio(text: &str) -> Result<u8, String> {
    let complaint = || "a number from 0 to 1 in hundredths: 0.25".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let part = part.trim_end_matches('0');
    if !digits(whole) || !(part.is_empty() || digits(part)) || part.len() > 2 {
        return Err(complaint());
    }
    let whole: u8 = whole.parse().map_err(|_| complaint())?;
    let part: u8 = format!("{part:0<2}").parse().map_err(|_| complaint())?;
    whole.checked_mul(100).and_then(|whole| whole.checked_add(part)).filter(|all| *all <= 100).ok_or_else(complaint)
}

impl CompactionArguments {
    /// Whether anything is said.
    pub(crate) fn is_there(&self) -> bool {
        self.compact || self.how()
    }

    fn how(&self) -> bool {
        self.dirty_ratio.is_some() || self.tombstones.is_some() || self.compact_lag.is_some()
    }

    /// What a topic that is so `now` is to be.
    ///
    /// # Errors
    /// Of usage: it is said how, and not that.
    pub(crate) fn apply(&self, now: Option<Compaction>) -> Result<Option<Compaction>, Failure> {
        let Some(now) = now.or(self.compact.then(Compaction::new)) else {
            let what = "the topic is not compacted: say --compact with --dirty-ratio, --tombstones or --compact-lag";
            return if self.how() { Err(Failure::usage_of(what)) } else { Ok(None) };
        };
        let percent = self.dirty_ratio.unwrap_or(now.min_dirty_percent);
        let (kept, lag) = (self.tombstones.unwrap_or(now.tombstone_retention), self.compact_lag.unwrap_or(now.min_lag));
        Ok(Some(now.min_dirty_percent(percent).tombstone_retention(kept).min_lag(lag)))
    }
}

/// How a topic is compacted, to be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Compacts {
    dirty_ratio: f64,
    tombstones_s: u64,
    lag_s: u64,
}

impl Compacts {
    pub(crate) fn of(compaction: &Compaction) -> Compacts {
        Compacts {
            dirty_ratio: f64::from(compaction.min_dirty_percent) / 100.0,
            tombstones_s: compaction.tombstone_retention.as_secs(),
            lag_s: compaction.min_lag.as_secs(),
        }
    }

    /// In one line.
    pub(crate) fn text(&self) -> String {
        let Compacts { dirty_ratio, tombstones_s, lag_s } = self;
        format!("from a dirty ratio of {dirty_ratio} on; tombstones for {tombstones_s} s; not before {lag_s} s")
    }
}

/// What a compaction has done, to be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Compacted {
    topic: String,
    rounds: u64,
    removed_records: u64,
    bytes_before: u64,
    bytes_after: u64,
    clean_bytes: u64,
    dirty_bytes: u64,
}

impl Compacted {
    pub(crate) fn of(topic: &str, stats: &CompactionStats) -> Compacted {
        let CompactionStats { rounds, removed_records, bytes_before, bytes_after, clean_bytes, dirty_bytes, .. } =
            *stats;
        let topic = topic.to_owned();
        Compacted { topic, rounds, removed_records, bytes_before, bytes_after, clean_bytes, dirty_bytes }
    }

    pub(crate) fn text(&self) -> String {
        let Compacted { removed_records, bytes_before, bytes_after, dirty_bytes, .. } = self;
        let left =
            if *dirty_bytes == 0 { String::new() } else { format!("; {dirty_bytes} bytes may not be compacted yet") };
        format!("{removed_records} records are gone; {bytes_before} bytes became {bytes_after}{left}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_hundredths() {
        for (text, percent) in [("0", 0), ("0.5", 50), ("0.05", 5), ("0.250", 25), ("1", 100), ("1.0", 100), ("0.", 0)]
        {
            assert_eq!(ratio(text), Ok(percent), "{text}");
        }
        for wrong in ["", ".", ".5", "0.125", "1.01", "2", "-0.5", "0.5.5", "half", "0.a", "50%", "999"] {
            assert!(ratio(wrong).is_err(), "{wrong}");
        }
    }
}
