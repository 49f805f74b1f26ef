//! Records that asked for another attempt: how often they were tried, and when they come again. Pure.
//!
//! Invariant: there is one of a partition at most, since what is behind it waits for it. Other partitions do not.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{LogOffset, PartitionId, TopicId};

/// See the module. Times are of a monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct Attempts(BTreeMap<(TopicId, PartitionId), Attempt>);

#[derive(Clone, Copy, Debug)]
struct Attempt {
    offset: LogOffset,
    count: u32,
    due: Duration,
}

impl Attempts {
    /// How often the record was tried.
    pub(crate) fn of(&self, topic: TopicId, partition: PartitionId, offset: LogOffset) -> u32 {
        let found = self.0.get(&(topic, partition)).filter(|tried| tried.offset == offset);
        found.map_or(0, |tried| tried.count)
    }

    /// The record was tried so often and is due again then.
    pub(crate) fn again(
        &mut self,
        (topic, partition): (TopicId, PartitionId),
        offset: LogOffset,
        count: u32,
        due: Duration,
    ) {
        self.0.insert((topic, partition), Attempt { offset, count, due });
    }

    /// The record is done with.
    pub(crate) fn settle(&mut self, topic: TopicId, partition: PartitionId, offset: LogOffset) {
        if self.0.get(&(topic, partition)).is_some_and(|tried| tried.offset == offset) {
            self.0.remove(&(topic, partition));
        }
    }

    /// Whether no record waits for another attempt.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Of a consumer that stands at `positions`: the partitions that have to wait at `now`, and when the first of them
    /// has waited long enough.
    pub(crate) fn held(
        &self,
        positions: &[(TopicId, PartitionId, LogOffset)],
        now: Duration,
    ) -> (Vec<(TopicId, PartitionId)>, Option<Duration>) {
        let waits = |(topic, partition, next): &(TopicId, PartitionId, LogOffset)| {
            let tried = self.0.get(&(*topic, *partition))?;
            (tried.offset == *next && tried.due > now).then_some(((*topic, *partition), tried.due))
        };
        let held: Vec<_> = positions.iter().filter_map(waits).collect();
        let first = held.iter().map(|(_, due)| *due).min();
        (held.into_iter().map(|(place, _)| place).collect(), first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_waits_for_its_record_only_and_until_it_is_due() {
        let (one, other) = ((TopicId(1), PartitionId(0)), (TopicId(1), PartitionId(1)));
        let mut attempts = Attempts::default();
        attempts.again(one, LogOffset(5), 2, Duration::from_secs(3));
        attempts.again(other, LogOffset(7), 1, Duration::from_secs(2));
        assert_eq!((attempts.of(one.0, one.1, LogOffset(5)), attempts.of(one.0, one.1, LogOffset(4))), (2, 0));
        let stands = |first, second| [(one.0, one.1, LogOffset(first)), (other.0, other.1, LogOffset(second))];
        let secs = Duration::from_secs;
        assert_eq!(attempts.held(&stands(5, 7), secs(1)), (vec![one, other], Some(secs(2))));
        assert_eq!(attempts.held(&stands(5, 7), secs(2)), (vec![one], Some(secs(3))));
        // Taken back to a record before it.
        assert_eq!(attempts.held(&stands(4, 7), secs(1)), (vec![other], Some(secs(2))));
        attempts.settle(one.0, one.1, LogOffset(4));
        assert!(!attempts.is_empty());
        attempts.settle(one.0, one.1, LogOffset(5));
        attempts.settle(other.0, other.1, LogOffset(7));
        assert!(attempts.is_empty());
    }
}
