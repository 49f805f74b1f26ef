//! Changing how a topic is written: the row of the catalogue, then the partitions.
//!
//! What is written already says itself how it was: a batch names its compression, a segment ends where it ends. So a
//! change is one row, and a crash leaves the old way or the new one.

use std::time::Duration;

use super::{Core, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::TopicId;
use crate::record::Compression;
use crate::topic::{Compaction, MinimumRetention, Retention, TopicSpec};
use crate::transaction::EngineTx;
use crate::transaction::system::{self, CatalogueKey};

/// What is to change of a topic. What is not named stays.
///
/// ```
/// use oncelog::{Compression, Store, TopicChange, TopicDef, Utf8};
/// # fn main() -> oncelog::Result<()> {
/// const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines");
/// let store = Store::in_memory()?;
/// store.producer(LINES)?;
/// store.alter_topic("lines", &TopicChange::default().compression(Compression::Lz4))?;
/// assert_eq!(store.topics()?[0].1.compression, Compression::Lz4);
/// # store.close()
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct TopicChange {
    partitions: Option<u32>,
    compression: Option<Compression>,
    file_roll_size: Option<u64>,
    max_total_bytes: Option<Option<u64>>,
    max_file_age: Option<Option<Duration>>,
    blocking_minimum: Option<MinimumRetention>,
    compaction: Option<Option<Compaction>>,
}

impl TopicChange {
    /// Batches are compressed so from now on.
    pub fn compression(self, compression: Compression) -> TopicChange {
        TopicChange { compression: Some(compression), ..self }
    }

    /// A segment that would grow beyond so many bytes is ended from now on; at least 1024.
    pub fn file_roll_size(self, bytes: u64) -> TopicChange {
        TopicChange { file_roll_size: Some(bytes), ..self }
    }

    /// Asks for so many partitions, which is refused as `Invalid` unless the topic has so many: with another number its
    /// keys would go to other partitions, and no longer meet what came before them or the rows that processors keep for
    /// them.
    pub fn partitions(self, partitions: u32) -> TopicChange {
        TopicChange { partitions: Some(partitions), ..self }
    }

    /// The most bytes of segment files that are kept from now on; `None`: all. What is too much goes soon.
    pub fn max_total_bytes(self, bytes: Option<u64>) -> TopicChange {
        TopicChange { max_total_bytes: Some(bytes), ..self }
    }

    /// The longest that a segment file is kept from now on; `None`: for ever. What is too old goes soon.
    pub fn max_file_age(self, age: Option<Duration>) -> TopicChange {
        TopicChange { max_file_age: Some(age), ..self }
    }

    /// What no limit removes from now on.
    pub fn blocking_minimum_retention(self, minimum: MinimumRetention) -> TopicChange {
        TopicChange { blocking_minimum: Some(minimum), ..self }
    }

    /// Whether and how it is compacted from now on; `None`: not, and what is gone stays gone. Records without a key
    /// that are there already stay.
    pub fn compaction(self, compaction: Option<Compaction>) -> TopicChange {
        TopicChange { compaction: Some(compaction), ..self }
    }

    fn apply(&self, spec: &TopicSpec) -> Result<TopicSpec> {
        if let Some(asked) = self.partitions.filter(|asked| *asked != spec.partitions) {
            let TopicSpec { name, partitions, .. } = spec;
            let what = format!(
                "topic {name:?} has {partitions} partitions for good, not {asked}: its keys would go elsewhere, away \
                 from the rows of tables that are kept by partition. Make another topic and copy the records"
            );
            return Err(Error::invalid(what));
        }
        let keeps = &spec.retention;
        Ok(TopicSpec {
            retention: Retention {
                max_total_bytes: self.max_total_bytes.unwrap_or(keeps.max_total_bytes),
                max_file_age: self.max_file_age.unwrap_or(keeps.max_file_age),
                blocking_minimum: self.blocking_minimum.clone().unwrap_or_else(|| keeps.blocking_minimum.clone()),
            },
            compaction: self.compaction.unwrap_or(spec.compaction),
            compression: self.compression.unwrap_or(spec.compression),
            file_roll_size: self.file_roll_size.unwrap_or(spec.file_roll_size),
            ..spec.clone()
        })
    }
}

impl Store {
    /// Changes how a topic is written from now on, also by handles that are open; durable on return. What is there
    /// stays as it is.
    ///
    /// # Errors
    /// `NotFound`: no such topic, or none of this owner; `Invalid`: no topic can be so, or not in this build,
    /// another number of partitions, or compaction of one that a processor or consumer of this store puts dead letters
    /// into; nothing has changed. `Full`, `InDoubt`, `Closed`.
    pub fn alter_topic(&self, topic: &str, change: &TopicChange) -> Result<()> {
        self.core().alter_topic(topic, change)
    }
}

fn compacts_dead_letters(name: &str) -> Error {
    let what = format!("topic {name:?} takes dead letters, and one that is compacted by key would lose some of them");
    Error::invalid(what)
}

impl Core {
    /// A topic for dead letters, made if there is none. From now on it cannot be made a compacted one, as long as the
    /// store is open.
    ///
    /// # Errors
    /// `Invalid`: it is compacted; and what else opening a topic fails with.
    pub(super) fn open_dead_letters(&self, spec: &TopicSpec) -> Result<TopicId> {
        let id = self.open_topic(spec)?;
        let _one_at_a_time = self.creating.lock();
        if self.pipeline.topics.get(id)?.spec.compaction.is_some() {
            return Err(compacts_dead_letters(&spec.name));
        }
        self.dead_letters.lock().insert(id);
        Ok(id)
    }

    fn alter_topic(&self, name: &str, change: &TopicChange) -> Result<()> {
        self.check_open()?;
        let _one_at_a_time = self.creating.lock();
        let topic = self.topic(name)?;
        let spec = change.apply(&topic.spec)?;
        spec.check()?;
        spec.check_built_in(ErrorKind::Invalid)?;
        if spec.compaction.is_some() && self.dead_letters.lock().contains(&topic.id) {
            return Err(compacts_dead_letters(name));
        }
        let mut tx = self.begin();
        let (key, row) = (CatalogueKey::Topic(topic.id).encode(), system::encode_row(&spec)?);
        tx.put(system::CATALOGUE, system::SHARD, &key, Some(row.into()))?;
        Box::new(tx).submit()?.wait()?;
        self.pipeline.topics.alter(topic.id, &spec);
        self.note_limits(topic.id, &spec);
        // It goes by what was so.
        self.compacting.give_up(|id| id == topic.id);
        Ok(())
    }
}
