//! Our numbers as the client library has them, and back. Pure.

use oncelog::{LogOffset, PartitionId};
use rdkafka::{Offset, TopicPartitionList};

/// A partition of a topic, by the topic's name.
pub(crate) type Place = (String, PartitionId);

pub(crate) fn partition_to(partition: PartitionId) -> i32 {
    // No topic has more.
    i32::try_from(partition.0).unwrap_or(i32::MAX)
}

pub(crate) fn partition_from(partition: i32) -> PartitionId {
    PartitionId(u32::try_from(partition).unwrap_or(0))
}

pub(crate) fn offset_to(offset: LogOffset) -> Offset {
    Offset::Offset(i64::try_from(offset.0).unwrap_or(i64::MAX))
}

pub(crate) fn offset_from(offset: i64) -> LogOffset {
    LogOffset(u64::try_from(offset).unwrap_or(0))
}

/// Partitions with the offset to go on at, as a list of the client library.
pub(crate) fn list<'p>(places: impl IntoIterator<Item = (&'p str, PartitionId, LogOffset)>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for (topic, partition, next) in places {
        // An offset that is a number is always taken.
        let _ = list.add_partition_offset(topic, partition_to(partition), offset_to(next));
    }
    list
}

/// The partitions of such a list.
pub(crate) fn places(list: &TopicPartitionList) -> Vec<Place> {
    let elements = list.elements();
    elements.iter().map(|element| (element.topic().to_owned(), partition_from(element.partition()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let made = list([("a", PartitionId(3), LogOffset(7)), ("b", PartitionId(0), LogOffset(0))]);
        assert_eq!(places(&made), [("a".to_owned(), PartitionId(3)), ("b".to_owned(), PartitionId(0))]);
        assert_eq!(made.elements()[0].offset(), Offset::Offset(7));
        assert_eq!(offset_from(-1), LogOffset(0));
    }
}
