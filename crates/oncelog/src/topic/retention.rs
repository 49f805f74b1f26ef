//! What a topic keeps: how much, how long, and what must stay whatever these limits say.
//!
//! Whole segment files are removed, the oldest first: see [`decide`], which only calculates.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::de::Deserializer;
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ids::LogOffset;

/// Limits of what a topic keeps, and what must be kept. Without limits everything is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The most bytes of segment files that the topic keeps, over all its partitions, not counting the room that is
    /// taken ahead in the newest ones. When there are more, the oldest
    /// files go, down to the one that is being written. A segment is ended when a quarter of its partition's share is
    /// reached, so that files can go one by one.
    pub max_total_bytes: Option<u64>,
    /// The longest that a segment file is kept after its last record was appended, by a clock that never goes back. A
    /// file that is that old and still open to records is ended, so a record of a quiet topic lives twice as long at
    /// most. Compaction makes one file of several only where all their records came within a quarter of it.
    pub max_file_age: Option<Duration>,
    /// What neither limit removes.
    pub blocking_minimum: MinimumRetention,
}

/// What must be kept of a topic. If it takes all of `max_total_bytes`, the topic is full: appends wait or are refused,
/// and no record is removed that must be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum MinimumRetention {
    /// Nothing: the limits decide.
    #[default]
    Nothing,
    /// Segment files whose last record was appended less than so long ago, and those that are still open to records.
    Age(Duration),
    /// What one of these consumers has not committed yet, whichever owner of the store it belongs to; one that was
    /// never there yet has committed nothing.
    Consumers {
        /// Their ids; the empty one is the topic's global consumer.
        ids: ConsumerIds,
        /// One that has something to read, and has committed nothing for so long, is abandoned and counts no more until
        /// it commits again. `None`: it is waited for without end.
        expiry: Option<Duration>,
    },
}

impl MinimumRetention {
    /// What one of these consumers has not committed yet, however long it takes.
    #[must_use]
    pub const fn consumers(ids: &'static [&'static str]) -> MinimumRetention {
        MinimumRetention::Consumers { ids: ConsumerIds(Ids::Constant(ids)), expiry: None }
    }

    /// What one of these consumers has not committed yet, if it committed anything within `expiry`.
    #[must_use]
    pub const fn consumers_until(ids: &'static [&'static str], expiry: Duration) -> MinimumRetention {
        MinimumRetention::Consumers { ids: ConsumerIds(Ids::Constant(ids)), expiry: Some(expiry) }
    }
}

/// Ids of consumers: constants, or [`From`] names that are known at run time only.
#[derive(Clone)]
pub struct ConsumerIds(Ids);

#[derive(Clone)]
enum Ids {
    Constant(&'static [&'static str]),
    Owned(Vec<String>),
}

impl ConsumerIds {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let (constant, owned): (&[&str], &[String]) = match &self.0 {
            Ids::Constant(ids) => (ids, &[]),
            Ids::Owned(ids) => (&[], ids),
        };
        constant.iter().copied().chain(owned.iter().map(String::as_str))
    }
}

impl<S: Into<String>> FromIterator<S> for ConsumerIds {
    fn from_iter<I: IntoIterator<Item = S>>(ids: I) -> ConsumerIds {
        ConsumerIds(Ids::Owned(ids.into_iter().map(Into::into).collect()))
    }
}

impl PartialEq for ConsumerIds {
    fn eq(&self, other: &ConsumerIds) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ConsumerIds {}

impl fmt::Debug for ConsumerIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for ConsumerIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let ids: Vec<&str> = self.iter().collect();
        ids.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ConsumerIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        Vec::<String>::deserialize(deserializer).map(|ids| ConsumerIds(Ids::Owned(ids)))
    }
}

impl Retention {
    /// Everything is kept.
    pub const NONE: Retention =
        Retention { max_total_bytes: None, max_file_age: None, blocking_minimum: MinimumRetention::Nothing };

    /// Whether anything is ever removed.
    #[must_use]
    pub fn has_limits(&self) -> bool {
        self.max_total_bytes.is_some() || self.max_file_age.is_some()
    }

    /// The most bytes of a topic whose appends wait or are refused beyond them; else `None`.
    pub(crate) fn hard_limit(&self) -> Option<u64> {
        self.max_total_bytes.filter(|_| self.blocking_minimum != MinimumRetention::Nothing)
    }

    /// # Errors
    /// `Invalid`: no topic can keep so little, or a consumer has no such id.
    pub(crate) fn check(&self, partitions: u32) -> Result<()> {
        let least = u64::from(partitions) * 4096;
        if self.max_total_bytes.is_some_and(|bytes| bytes < least) {
            return Err(Error::invalid(format!("max_total_bytes must be at least {least}: 4096 for each partition")));
        }
        match &self.blocking_minimum {
            MinimumRetention::Consumers { ids, .. } => {
                if ids.iter().next().is_none() {
                    return Err(Error::invalid("blocking_minimum_retention names no consumer"));
                }
                let complaint = ids.iter().filter(|id| !id.is_empty()).find_map(crate::ids::name_complaint);
                complaint.map_or(Ok(()), |complaint| Err(Error::invalid(format!("a bad consumer id: {complaint}"))))
            }
            _ => Ok(()),
        }
    }
}

/// What retention knows of a segment file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileView {
    /// The offset behind all that ever goes into it, as far as that is known.
    pub(crate) behind: LogOffset,
    pub(crate) bytes: u64,
    /// When it was first seen to get no more records; `None`: it still may.
    pub(crate) sealed_ms: Option<i64>,
}

/// What retention knows of a partition.
#[derive(Clone, Debug)]
pub(crate) struct PartitionView {
    /// Its files, the oldest first.
    pub(crate) files: Vec<FileView>,
    /// Nothing from here on may go.
    pub(crate) floor: LogOffset,
}

/// Where each partition should begin, at `now_ms` of the store's clock, if `wanted` more bytes are to find room.
/// `None`: where it begins now.
pub(crate) fn decide(
    retention: &Retention,
    partitions: &[PartitionView],
    wanted: u64,
    now_ms: i64,
) -> Vec<Option<LogOffset>> {
    let age = |file: &FileView| file.sealed_ms.map_or(Duration::ZERO, |sealed| elapsed(sealed, now_ms));
    // A file that is being written goes only where the consumers that count have done with it: it has to make room.
    let may_go = |view: &PartitionView, file: &FileView| match &retention.blocking_minimum {
        MinimumRetention::Nothing => file.sealed_ms.is_some() && file.behind <= view.floor,
        MinimumRetention::Age(least) => file.sealed_ms.is_some() && file.behind <= view.floor && age(file) >= *least,
        MinimumRetention::Consumers { .. } => file.behind <= view.floor,
    };
    let mut gone: Vec<usize> = partitions.iter().map(|_| 0).collect();
    if let Some(oldest) = retention.max_file_age {
        for (view, gone) in partitions.iter().zip(&mut gone) {
            let old = |file: &&FileView| file.sealed_ms.is_some() && may_go(view, file) && age(file) >= oldest;
            *gone = view.files.iter().take_while(old).count();
        }
    }
    if let Some(most) = retention.max_total_bytes {
        let bytes =
            |(view, gone): (&PartitionView, &usize)| view.files[*gone..].iter().map(|file| file.bytes).sum::<u64>();
        let mut total: u64 = partitions.iter().zip(&gone).map(bytes).sum();
        let head = |at: usize, gone: &[usize]| {
            let file = partitions[at].files.get(gone[at]).filter(|file| may_go(&partitions[at], file))?;
            Some((file.sealed_ms.unwrap_or(i64::MAX), at, file.bytes))
        };
        let mut heads: BTreeSet<_> = (0..partitions.len()).filter_map(|at| head(at, &gone)).collect();
        while total.saturating_add(wanted) > most {
            let Some((_, at, bytes)) = heads.pop_first() else { break };
            total -= bytes;
            gone[at] += 1;
            heads.extend(head(at, &gone));
        }
    }
    let start = |(view, gone): (&PartitionView, &usize)| gone.checked_sub(1).map(|last| view.files[last].behind);
    partitions.iter().zip(&gone).map(start).collect()
}

/// The time from one moment to a later one; none if it is not later.
pub(crate) fn elapsed(from_ms: i64, to_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(sizes: &[u64], sealed: usize) -> Vec<FileView> {
        let file = |(at, bytes): (usize, &u64)| FileView {
            behind: LogOffset(at as u64 * 10 + 10),
            bytes: *bytes,
            sealed_ms: (at < sealed).then_some(at as i64 * 1000),
        };
        sizes.iter().enumerate().map(file).collect()
    }

    fn starts(retention: &Retention, views: &[PartitionView], wanted: u64, now: i64) -> Vec<Option<u64>> {
        decide(retention, views, wanted, now).into_iter().map(|start| start.map(|start| start.0)).collect()
    }

    #[test]
    fn by_bytes_the_oldest_files_go_but_never_the_one_that_is_written() {
        let view = PartitionView { files: files(&[100, 100, 100, 100], 3), floor: LogOffset(40) };
        let keep = |bytes| Retention { max_total_bytes: Some(bytes), ..Retention::NONE };
        assert_eq!(starts(&keep(400), std::slice::from_ref(&view), 0, 0), [None]);
        assert_eq!(starts(&keep(399), std::slice::from_ref(&view), 0, 0), [Some(10)]);
        assert_eq!(starts(&keep(200), std::slice::from_ref(&view), 0, 0), [Some(20)]);
        assert_eq!(starts(&keep(1), std::slice::from_ref(&view), 0, 0), [Some(30)]);
        // Over partitions, the oldest of all first.
        let other = PartitionView { files: files(&[300, 100], 1), floor: LogOffset(40) };
        assert_eq!(starts(&keep(700), &[view.clone(), other.clone()], 0, 0), [Some(10), None]);
        assert_eq!(starts(&keep(600), &[view, other], 0, 0), [Some(10), Some(10)]);
    }

    #[test]
    fn by_age_a_file_goes_when_its_last_record_is_old_and_all_before_it() {
        let view = PartitionView { files: files(&[1, 1, 1, 1], 3), floor: LogOffset(40) };
        let keep = Retention { max_file_age: Some(Duration::from_secs(5)), ..Retention::NONE };
        let at = |now| starts(&keep, std::slice::from_ref(&view), 0, now)[0];
        assert_eq!((at(4999), at(5000), at(6000), at(900_000)), (None, Some(10), Some(20), Some(30)));
        assert_eq!(at(i64::MIN), None, "a clock that went back removes nothing");
    }

    #[test]
    fn what_must_be_kept_is_kept_whatever_the_limits_say() {
        let view = |floor| PartitionView { files: files(&[100, 100, 100, 100], 3), floor: LogOffset(floor) };
        let mut keep = Retention {
            max_total_bytes: Some(1),
            max_file_age: Some(Duration::ZERO),
            blocking_minimum: MinimumRetention::Age(Duration::from_secs(2)),
        };
        assert_eq!(starts(&keep, &[view(40)], 0, 3000), [Some(20)]);
        keep.blocking_minimum = MinimumRetention::consumers(&["slow"]);
        assert_eq!(starts(&keep, &[view(29)], 0, 1 << 40), [Some(20)]);
        assert_eq!(starts(&keep, &[view(9)], 0, 1 << 40), [None]);
        // The one that is being written makes room too, if those who count have read it to the end.
        assert_eq!(starts(&keep, &[view(40)], 0, 1 << 40), [Some(40)]);
        keep.max_total_bytes = Some(400);
        keep.max_file_age = None;
        assert_eq!(starts(&keep, &[view(40)], 0, 0), [None]);
        assert_eq!(starts(&keep, &[view(40)], 101, 0), [Some(20)]);
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let keep = |bytes, blocking_minimum| {
            Retention { max_total_bytes: Some(bytes), max_file_age: None, blocking_minimum }.check(2).is_ok()
        };
        assert!(keep(8192, MinimumRetention::consumers(&["a", ""])));
        assert!(!keep(8191, MinimumRetention::Nothing));
        assert!(!keep(8192, MinimumRetention::consumers(&[])));
        let long: ConsumerIds = ["x".repeat(300)].into_iter().collect();
        assert!(!keep(8192, MinimumRetention::Consumers { ids: long, expiry: None }));
    }

    #[test]
    fn ids_are_equal_by_what_they_say() {
        let owned: ConsumerIds = ["a", "b"].into_iter().collect();
        let constant = MinimumRetention::consumers(&["a", "b"]);
        assert_eq!(constant, MinimumRetention::Consumers { ids: owned, expiry: None });
        let bytes = postcard::to_allocvec(&constant).unwrap();
        assert_eq!(postcard::from_bytes::<MinimumRetention>(&bytes).unwrap(), constant);
    }
}
