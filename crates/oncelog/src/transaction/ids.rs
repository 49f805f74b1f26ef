//! What an engine is told of ids that are remembered: for how long, and in which tables they are.

use std::time::Duration;

use crate::ids::TableId;

/// For how long ids are remembered, at least. What has a limit is forgotten some time after it, by the engine and in
/// the background; with two limits whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct KeepIds {
    time: Option<Duration>,
    count: Option<u64>,
}

impl KeepIds {
    /// For that time, by a clock that no jump of the wall clock moves while the store is open.
    pub const fn for_time(time: Duration) -> KeepIds {
        KeepIds { time: Some(time), count: None }
    }

    /// The last so many, in the order in which they came.
    pub const fn last(count: u64) -> KeepIds {
        KeepIds { time: None, count: Some(count) }
    }

    /// For ever: their table grows with every id.
    pub const fn for_ever() -> KeepIds {
        KeepIds { time: None, count: None }
    }

    /// And not more than the last so many.
    pub const fn and_last(self, count: u64) -> KeepIds {
        KeepIds { count: Some(count), ..self }
    }

    /// What both ask for: the longer time and the greater number, and no limit where one of them has none.
    pub(crate) fn longest(self, other: KeepIds) -> KeepIds {
        let time = self.time.zip(other.time).map(|(one, two)| one.max(two));
        KeepIds { time, count: self.count.zip(other.count).map(|(one, two)| one.max(two)) }
    }

    /// The longest that an id is remembered for sure, if that is limited.
    #[must_use]
    pub const fn time(&self) -> Option<Duration> {
        self.time
    }

    /// The most ids that are remembered for sure, if they are limited.
    #[must_use]
    pub const fn count(&self) -> Option<u64> {
        self.count
    }
}

/// Where an engine keeps the ids of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IdTables {
    /// An id, and when it came: an [`Engine::next_arrival`](super::Engine::next_arrival).
    pub by_id: TableId,
    /// When an id came, and the id: no value.
    pub by_age: TableId,
}

impl IdTables {
    /// Those tables.
    #[must_use]
    pub fn new(by_id: TableId, by_age: TableId) -> IdTables {
        IdTables { by_id, by_age }
    }

    /// The key by age of an id: sorts by time.
    pub(crate) fn age_key(arrival_us: u64, id: &[u8]) -> Vec<u8> {
        [&arrival_us.to_be_bytes()[..], id].concat()
    }

    /// Reads what [`IdTables::age_key`] wrote.
    pub(crate) fn read_age_key(key: &[u8]) -> Option<(u64, &[u8])> {
        let (arrival_us, id) = key.split_first_chunk::<8>()?;
        Some((u64::from_be_bytes(*arrival_us), id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_by_age_sort_by_time_and_read_back() {
        let times = [0, 1, 255, 256, 1_700_000_000_000_000, u64::MAX];
        let keys: Vec<_> = times.iter().map(|at| IdTables::age_key(*at, b"id")).collect();
        assert!(keys.is_sorted());
        for (at, key) in times.iter().zip(&keys) {
            assert_eq!(IdTables::read_age_key(key), Some((*at, &b"id"[..])));
        }
        assert_eq!(IdTables::read_age_key(&[0; 7]), None);
    }
}
