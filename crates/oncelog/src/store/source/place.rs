//! Where a consumer begins: the partitions that are asked for, and the next record of each.
//!
//! Invariant: where a remembered consumer begins is committed before its first record is handed out, so it never begins
//! anywhere else.

use std::collections::BTreeSet;

use super::super::Core;
use super::super::input::Input;
use super::super::reader::{ForeignTopic, TopicInfo, no_partition};
use super::cursor::{Cursor, Reading};
use crate::consumer::{Visibility, Whence};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::topic::{Partition, PartitionReader};
use crate::transaction::{EngineTx, SourceSpec, system};
use crate::wake::Arc;

/// A partition to be read.
pub(super) struct Place {
    topic: TopicId,
    topic_name: String,
    pub(super) partition: PartitionId,
    of: Of,
}

enum Of {
    Own(Arc<Partition>),
    Foreign(Arc<ForeignTopic>),
}

/// The partitions that are asked for, topic by topic.
pub(super) fn places(topics: &[Input], partitions: Option<&[PartitionId]>) -> Result<Vec<Place>> {
    let mut ids = BTreeSet::new();
    let mut places = Vec::new();
    for topic in topics {
        if !ids.insert(topic.id()) {
            return Err(Error::invalid(format!("topic {:?} is named twice", topic.name())));
        }
        let chosen: BTreeSet<PartitionId> = match partitions {
            None => (0..topic.partitions()).map(PartitionId).collect(),
            Some(chosen) => chosen.iter().copied().collect(),
        };
        for partition in chosen {
            let of = match topic {
                Input::Own(topic) => Of::Own(Arc::clone(topic.partition(partition)?)),
                Input::Foreign(topic) if partition.0 < topic.info.partitions => Of::Foreign(Arc::clone(topic)),
                Input::Foreign(topic) => return Err(no_partition(&topic.info, partition)),
            };
            places.push(Place { topic: topic.id(), topic_name: topic.name().to_owned(), partition, of });
        }
    }
    Ok(places)
}

/// What another owner has written and not made durable cannot be seen from here.
pub(super) fn refuse_written(topics: &[Input], visibility: Visibility) -> Result<()> {
    let foreign = topics.iter().find_map(|topic| match topic {
        Input::Foreign(topic) if visibility == Visibility::Written => Some(&topic.info),
        _ => None,
    });
    foreign.map_or(Ok(()), |TopicInfo { name, owner, .. }| {
        let what = format!(
            "topic {name:?} belongs to owner {owner:?}: others see of it what is durable, not what is \
                            only written"
        );
        Err(Error::invalid(what))
    })
}

impl Core {
    pub(super) fn shown(&self, visibility: Visibility) -> Lsn {
        match visibility {
            Visibility::Durable => self.pipeline.view.visible(),
            Visibility::Written => self.pipeline.view.written(),
        }
    }

    /// Where `consumer` stands in each place. Where it has never been, `whence` is resolved and committed, so that
    /// neither a restart nor retention changes where it begins.
    pub(super) fn resume(&self, consumer: &str, places: &[Place], spec: &SourceSpec<'_>) -> Result<Vec<LogOffset>> {
        loop {
            let mut tx = self.begin();
            let mut starts = Vec::with_capacity(places.len());
            let shown = self.shown(spec.visibility);
            for place in places {
                let Place { topic, partition, .. } = *place;
                let key = system::progress_key(consumer, topic, partition);
                starts.push(match tx.get(system::PROGRESS, system::SHARD, &key)? {
                    Some(row) => system::decode_row(&row)?,
                    None => {
                        let start = place.resolve(spec.whence, shown)?;
                        tx.progress(consumer, topic, partition, start)?;
                        start
                    }
                });
            }
            // Waits also when there was nothing to write: what it read may be on its way to the disk.
            match Box::new(tx).submit().and_then(|pending| pending.wait()) {
                Ok(_) => return Ok(starts),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn resolve_all(&self, places: &[Place], spec: &SourceSpec<'_>) -> Result<Vec<LogOffset>> {
        let shown = self.shown(spec.visibility);
        places.iter().map(|place| place.resolve(spec.whence, shown)).collect()
    }
}

impl Place {
    fn resolve(&self, whence: Whence, shown: Lsn) -> Result<LogOffset> {
        let partition = match &self.of {
            Of::Own(partition) => partition,
            Of::Foreign(topic) => return topic.resolve(self.partition, whence),
        };
        let end = partition.end_at(shown);
        match whence {
            Whence::Oldest => Ok(partition.start()),
            Whence::Latest => Ok(end),
            Whence::Position(position) if position > end => {
                let (name, id) = (&self.topic_name, self.partition);
                let what = format!("topic {name:?}, partition {id}: position {position} is behind the end, {end}");
                Err(Error::invalid(what))
            }
            Whence::Position(position) => Ok(position),
            Whence::Time(timestamp_ms) => partition.offset_at_time(timestamp_ms, end),
        }
    }

    /// Reads it, from `next` on.
    pub(super) fn cursor(self, next: LogOffset) -> Cursor {
        let Place { topic, topic_name, partition, of } = self;
        let reading = match of {
            Of::Own(of) => Reading::Own(Box::new(PartitionReader::new(of, next))),
            Of::Foreign(of) => {
                let cursor = Box::new(of.cursor(partition, next));
                Reading::Foreign(of, cursor)
            }
        };
        Cursor { topic, topic_name, partition, next, is_held: false, reading }
    }
}
