//! Key compaction: what a user may say of it, when it is due, and which segments become one. It only calculates.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::retention::elapsed;
use crate::ids::LogOffset;

/// How a topic is compacted: of each key only the last record is kept, in its place and with its offset. A record
/// without a value, a tombstone, says that its key is gone, and goes itself some time later.
///
/// What is compacted are segment files that get no more records; the newest one never is. So a reader sees each key's
/// last record, and may see older ones too. Offsets whose records are gone are no loss, and nobody is told of them:
/// who asks for one gets the next record behind it.
///
/// Every record must have a key. Limits of the topic count beside it: what they remove is removed, whatever its key.
/// What [`MinimumRetention`](crate::MinimumRetention) keeps is not compacted before it may go.
///
/// ```
/// use std::time::Duration;
/// use oncelog::{Compaction, TopicDef, U64, Utf8};
/// const PRICES: TopicDef<Utf8, U64> = TopicDef::new("prices")
///     .file_roll_size(64 << 20)
///     .compaction(Compaction::new().min_dirty_percent(30).tombstone_retention(Duration::from_secs(3600)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Compaction {
    /// A partition is compacted when so many hundredths of the bytes of its older files were not yet: 50 unless set. 0
    /// compacts with each file that is done, 100 only what was never compacted.
    pub min_dirty_percent: u8,
    /// A file is compacted so long after its last record was appended, and not before: at once unless set. So whoever
    /// is no further behind sees every record.
    pub min_lag: Duration,
    /// A tombstone is kept so long after the records that it ends are gone: 24 hours unless set. Whoever reads from the
    /// start within that time learns that the key is gone.
    pub tombstone_retention: Duration,
}

impl Default for Compaction {
    fn default() -> Compaction {
        Compaction::new()
    }
}

impl Compaction {
    /// As everything is unless set.
    #[must_use]
    pub const fn new() -> Compaction {
        let tombstone_retention = Duration::from_secs(24 * 3600);
        Compaction { min_dirty_percent: 50, min_lag: Duration::ZERO, tombstone_retention }
    }

    /// Sets [`Compaction::min_dirty_percent`], at most 100.
    #[must_use]
    pub const fn min_dirty_percent(self, percent: u8) -> Compaction {
        Compaction { min_dirty_percent: percent, ..self }
    }

    /// Sets [`Compaction::min_lag`].
    #[must_use]
    pub const fn min_lag(self, lag: Duration) -> Compaction {
        Compaction { min_lag: lag, ..self }
    }

    /// Sets [`Compaction::tombstone_retention`].
    #[must_use]
    pub const fn tombstone_retention(self, kept: Duration) -> Compaction {
        Compaction { tombstone_retention: kept, ..self }
    }

    /// Milliseconds of [`Compaction::tombstone_retention`].
    pub(crate) fn tombstone_retention_ms(&self) -> i64 {
        i64::try_from(self.tombstone_retention.as_millis()).unwrap_or(i64::MAX)
    }

    pub(super) fn complaint(&self) -> Option<impl fmt::Display + use<>> {
        let percent = self.min_dirty_percent;
        (percent > 100).then(|| format!("min_dirty_percent is {percent}, must be at most 100"))
    }
}

/// How much of what may be compacted was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirt {
    /// Bytes of files in which each key is once.
    pub(crate) clean: u64,
    /// Bytes of files that may be compacted and were not yet, or not to the end.
    pub(crate) dirty: u64,
}

impl Dirt {
    /// Whether it is time to compact.
    pub(crate) fn is_due(self, settings: &Compaction) -> bool {
        let (dirty, all) = (u128::from(self.dirty), u128::from(self.dirty) + u128::from(self.clean));
        self.dirty > 0 && dirty * 100 >= all * u128::from(settings.min_dirty_percent)
    }

    /// Hundredths.
    pub(crate) fn percent(self) -> u8 {
        let (dirty, all) = (u128::from(self.dirty), u128::from(self.dirty) + u128::from(self.clean));
        (dirty * 100).checked_div(all).and_then(|percent| u8::try_from(percent).ok()).unwrap_or(0)
    }
}

/// So many segments become one at most, however small: files are opened, and go, one by one.
const TOGETHER_MAX: usize = 256;
/// Of what `max_file_age` allows, the time from the first record of a file that is made of several to its last one
/// takes at most one part in so many.
const SPANS_IN_AGE: u32 = 4;

/// What there is to know of a segment before it becomes one with others.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) bytes: u64,
    pub(crate) offsets: Range<LogOffset>,
    /// When it was first seen to hold a record, and to get no more, by the store's clock.
    pub(crate) filled_ms: i64,
    pub(crate) sealed_ms: i64,
}

/// Which of these segments become one: those side by side that fit into `roll_size`. None that begins at `stop` or
/// behind it takes part. Records are lost between two that do not meet, and that must not be hidden: these stay apart.
///
/// A file goes for its age when its last record is old enough. So where files have a greatest age, those stay apart
/// whose records came too long after each other: else a small topic would be one file that is never old.
pub(crate) fn groups(
    segments: &[Part],
    stop: LogOffset,
    roll_size: u64,
    max_file_age: Option<Duration>,
) -> Vec<Range<usize>> {
    let (mut groups, mut bytes): (Vec<Range<usize>>, u64) = (Vec::new(), 0);
    let taking_part = segments.iter().take_while(|part| part.offsets.start < stop);
    for (at, part) in taking_part.enumerate() {
        let joins = |group: &Range<usize>| {
            let others = &segments[group.clone()];
            let since = others.iter().map(|other| other.filled_ms).min().unwrap_or(part.filled_ms);
            let spans_little = max_file_age.is_none_or(|age| elapsed(since, part.sealed_ms) <= age / SPANS_IN_AGE);
            let meets = others.last().is_some_and(|last| last.offsets.end == part.offsets.start);
            meets && spans_little && group.len() < TOGETHER_MAX && bytes.saturating_add(part.bytes) <= roll_size
        };
        match groups.last_mut() {
            Some(last) if joins(last) => {
                last.end = at + 1;
                bytes += part.bytes;
            }
            _ => {
                groups.push(at..at + 1);
                bytes = part.bytes;
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_due_by_the_share_of_what_was_not_compacted() {
        let due = |clean, dirty, percent| Dirt { clean, dirty }.is_due(&Compaction::new().min_dirty_percent(percent));
        assert!(!due(0, 0, 0), "there is nothing to do");
        assert!(due(0, 1, 100) && !due(1, 1 << 40, 100));
        assert!(due(50, 50, 50) && !due(51, 49, 50));
        assert!(due(1 << 40, 1, 0));
        assert!(due(0, u64::MAX, 50) && !due(u64::MAX, u64::MAX - 1, 50));
        assert_eq!([(0, 0), (3, 1), (0, 7)].map(|(clean, dirty)| Dirt { clean, dirty }.percent()), [0, 25, 100]);
    }

    #[test]
    fn small_segments_become_one_and_losses_stay_between() {
        let at = |segments: &[(u64, u64, u64)], stop, roll| {
            let part = |(bytes, from, to): &(u64, u64, u64)| Part {
                bytes: *bytes,
                offsets: LogOffset(*from)..LogOffset(*to),
                filled_ms: 0,
                sealed_ms: i64::MAX,
            };
            let segments: Vec<_> = segments.iter().map(part).collect();
            let found = groups(&segments, LogOffset(stop), roll, None);
            found.iter().map(|group| (group.start, group.end)).collect::<Vec<_>>()
        };
        let three = [(10, 0, 5), (20, 5, 9), (30, 9, 12)];
        assert_eq!(at(&three, 12, 60), [(0, 3)]);
        assert_eq!(at(&three, 12, 59), [(0, 2), (2, 3)]);
        assert_eq!(at(&three, 12, 1), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(at(&three, 9, 60), [(0, 2)]);
        assert_eq!(at(&three, 6, 60), [(0, 2)], "it may stop within one");
        assert_eq!(at(&three, 0, 60), []);
        assert_eq!(at(&[(10, 0, 5), (20, 6, 9), (30, 9, 12)], 12, 60), [(0, 1), (1, 3)]);
    }

    #[test]
    fn what_came_long_after_each_other_stays_apart_where_files_have_an_age() {
        let part = |(at, (filled_ms, sealed_ms)): (usize, &(i64, i64))| {
            let from = at as u64 * 10;
            let (filled_ms, sealed_ms) = (filled_ms * 1000, sealed_ms * 1000);
            Part { bytes: 1, offsets: LogOffset(from)..LogOffset(from + 10), filled_ms, sealed_ms }
        };
        let at = |times: &[(i64, i64)], age| {
            let segments: Vec<_> = times.iter().enumerate().map(part).collect();
            let found = groups(&segments, LogOffset(1000), 1000, Some(Duration::from_secs(age)));
            found.iter().map(|group| (group.start, group.end)).collect::<Vec<_>>()
        };
        let five = [(0, 10), (10, 20), (20, 30), (30, 40), (40, 50)];
        assert_eq!(at(&five, 200), [(0, 5)]);
        assert_eq!(at(&five, 199), [(0, 4), (4, 5)]);
        assert_eq!(at(&five, 100), [(0, 2), (2, 4), (4, 5)]);
        assert_eq!(at(&five, 0), [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]);
        assert_eq!(at(&[(0, 25), (25, 30), (30, 31)], 100), [(0, 1), (1, 3)], "made of some before");
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        assert!(Compaction::new().min_dirty_percent(100).complaint().is_none());
        assert!(Compaction::new().min_dirty_percent(101).complaint().is_some());
    }
}
