//! Who has read how far in whose topics: whether states of several owners fit each other.
//!
//! An owner's consumers may read topics of other owners, and commit how far they are in their own journal. Where states
//! of owners are put together that are not of one moment, none may be ahead of what it has read: offsets that it has
//! passed would be given to other records. Both sides are made of rows and frames, whoever has them.

use std::collections::{BTreeMap, BTreeSet};

use super::listing::read_progress_key;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, OwnerId, PartitionId, TableId, TopicId};
use crate::record::BatchHead;
use crate::topic::{PartitionState, TopicSpec};
use crate::transaction::system::{self, CatalogueKey, NextIds};
use crate::transaction::{Effect, effects};

/// The topics of an owner, and where their partitions end.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    topics: BTreeMap<TopicId, String>,
    /// The id of the next one; `None`: it has made none yet.
    next: Option<TopicId>,
    ends: BTreeMap<(TopicId, PartitionId), LogOffset>,
}

impl Ends {
    /// A row of the store's own tables, or that it is gone.
    pub(super) fn row(&mut self, table: TableId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match (table, value) {
            (system::CATALOGUE, value) => match (CatalogueKey::decode(key), value) {
                (Some(CatalogueKey::Topic(id)), Some(value)) => {
                    drop(self.topics.insert(id, system::decode_row::<TopicSpec>(value)?.name));
                }
                (Some(CatalogueKey::Topic(id)), None) => drop(self.topics.remove(&id)),
                (Some(CatalogueKey::NextIds), Some(value)) => {
                    self.next = Some(TopicId(system::decode_row::<NextIds>(value)?.topic));
                }
                _ => {}
            },
            (system::PARTITIONS, Some(value)) => {
                let state: PartitionState = system::decode_row(value)?;
                let (topic, partition) = system::read_partition_key(key).ok_or_else(|| malformed("partitions"))?;
                self.is_at(topic, partition, state.next_offset);
            }
            _ => {}
        }
        Ok(())
    }

    /// A frame behind what was noted so far.
    pub(super) fn frame(&mut self, body: &[u8]) -> Result<()> {
        for effect in effects(body)? {
            match effect {
                Effect::Row { table, shard: system::SHARD, key, value } => self.row(table, key, value)?,
                Effect::Batch { topic, partition, bytes } => {
                    if let Ok(head) = BatchHead::peek(bytes) {
                        self.is_at(topic, partition, head.next_offset());
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The partition ends there.
    pub(super) fn is_at(&mut self, topic: TopicId, partition: PartitionId, end: LogOffset) {
        self.ends.insert((topic, partition), end);
    }

    /// A name that topics of several owners have: one has given it up, and another one has taken it since.
    pub(super) fn shared_name<'e>(all: impl IntoIterator<Item = &'e Ends>) -> Option<&'e str> {
        let mut seen = BTreeSet::new();
        all.into_iter().flat_map(|ends| ends.topics.values()).map(String::as_str).find(|name| !seen.insert(*name))
    }

    /// How far the partition may have been read; `None`: as far as anybody likes, since the topic was deleted and its
    /// id is never given again. A topic that is not made yet cannot have been read at all.
    fn limit(&self, topic: TopicId, partition: PartitionId) -> Option<LogOffset> {
        let was_made = self.next.is_some_and(|next| topic < next);
        let is_there = self.topics.contains_key(&topic);
        (is_there || !was_made).then(|| match self.ends.get(&(topic, partition)) {
            Some(end) if is_there => *end,
            _ => LogOffset(0),
        })
    }
}

/// How far the consumers of an owner have read in topics of others.
#[derive(Clone, Debug)]
pub(super) struct Reads {
    owner: OwnerId,
    next: BTreeMap<(String, TopicId, PartitionId), LogOffset>,
}

/// Somebody who has read more than there is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ahead {
    pub(super) topic: TopicId,
    pub(super) partition: PartitionId,
    pub(super) next: LogOffset,
    pub(super) limit: LogOffset,
}

impl Reads {
    pub(super) fn of(owner: OwnerId) -> Reads {
        Reads { owner, next: BTreeMap::new() }
    }

    /// A row of the store's own tables, or that it is gone. Whether it says anything of this.
    pub(super) fn row(&mut self, table: TableId, key: &[u8], value: Option<&[u8]>) -> Result<bool> {
        if table != system::PROGRESS {
            return Ok(false);
        }
        let (consumer, topic, partition) = read_progress_key(key).ok_or_else(|| malformed("progress"))?;
        if topic.owner() == self.owner {
            return Ok(false);
        }
        let key = (consumer.to_owned(), topic, partition);
        match value {
            Some(value) => drop(self.next.insert(key, system::decode_row(value)?)),
            None => drop(self.next.remove(&key)),
        }
        Ok(true)
    }

    /// A frame behind what was noted so far. Whether it says anything of this.
    pub(super) fn frame(&mut self, body: &[u8]) -> Result<bool> {
        let mut says = false;
        for effect in effects(body)? {
            if let Effect::Row { table, shard: system::SHARD, key, value } = effect {
                says |= self.row(table, key, value)?;
            }
        }
        Ok(says)
    }

    /// The first who is ahead of the topics of `others`.
    pub(super) fn ahead_of(&self, others: &BTreeMap<OwnerId, Ends>) -> Option<Ahead> {
        let nothing = Ends::default();
        self.next.iter().find_map(|((_, topic, partition), next)| {
            let ends = others.get(&topic.owner()).unwrap_or(&nothing);
            let limit = ends.limit(*topic, *partition).filter(|limit| next > limit)?;
            Some(Ahead { topic: *topic, partition: *partition, next: *next, limit })
        })
    }
}

fn malformed(table: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a row of the {table} is malformed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;
    use crate::handles::TopicDef;

    const OTHER: OwnerId = OwnerId(1);

    fn others(ends: Ends) -> BTreeMap<OwnerId, Ends> {
        BTreeMap::from([(OTHER, ends)])
    }

    fn reads(topic: TopicId, next: u64) -> Reads {
        let mut reads = Reads::of(OwnerId(0));
        let key = system::progress_key("c", topic, PartitionId(0));
        let row = system::encode_row(&LogOffset(next)).unwrap();
        assert!(reads.row(system::PROGRESS, &key, Some(&row)).unwrap());
        reads
    }

    fn made(next: TopicId, topics: &[TopicId]) -> Ends {
        let mut ends = Ends::default();
        let row = system::encode_row(&NextIds { topic: next.0, table: 20 }).unwrap();
        ends.row(system::CATALOGUE, &CatalogueKey::NextIds.encode(), Some(&row)).unwrap();
        let row = system::encode_row(&TopicDef::<Bytes, Bytes>::new("made").spec()).unwrap();
        for topic in topics {
            ends.row(system::CATALOGUE, &CatalogueKey::Topic(*topic).encode(), Some(&row)).unwrap();
        }
        ends
    }

    #[test]
    fn a_topic_that_is_not_made_yet_is_told_from_one_that_was_deleted() {
        let first = OTHER.first_topic();
        let second = first.next().unwrap();
        let third = second.next().unwrap();
        // Made, and nothing in it yet.
        assert!(reads(first, 1).ahead_of(&others(made(second, &[first]))).is_some());
        let mut ends = made(second, &[first]);
        ends.is_at(first, PartitionId(0), LogOffset(3));
        let ends = others(ends);
        assert_eq!(reads(first, 3).ahead_of(&ends), None);
        let ahead = Ahead { topic: first, partition: PartitionId(0), next: LogOffset(4), limit: LogOffset(3) };
        assert_eq!(reads(first, 4).ahead_of(&ends), Some(ahead));
        // Not made yet; deleted; of an owner that is not there.
        assert!(reads(second, 1).ahead_of(&ends).is_some());
        assert_eq!(reads(first, 9).ahead_of(&others(made(third, &[second]))), None);
        assert!(reads(first, 1).ahead_of(&BTreeMap::new()).is_some());
        assert!(reads(first, 1).ahead_of(&others(Ends::default())).is_some());
    }
}
