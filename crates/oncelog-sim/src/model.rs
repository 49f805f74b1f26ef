//! What a store must look like, in maps. An [`Effect`] is one transaction; a model is what some effects in a row make.

use std::collections::BTreeMap;

use oncelog::{Compression, TopicSpec};

use crate::schema::way_of;

/// A topic's name and a partition's number.
pub type Place = (&'static str, u32);
/// Key and value of a record.
pub type Content = (Vec<u8>, Vec<u8>);

/// The records of one partition by offset, and the offset that comes next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Log {
    /// By offset.
    pub records: BTreeMap<u64, Content>,
    /// Behind the last, or behind a hole.
    pub next: u64,
}

/// How a topic is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Way {
    /// How its batches are compressed.
    pub compression: Compression,
    /// Where its segments end.
    pub file_roll_size: u64,
}

impl From<&TopicSpec> for Way {
    fn from(spec: &TopicSpec) -> Way {
        Way { compression: spec.compression, file_roll_size: spec.file_roll_size }
    }
}

/// Rows by table and key.
pub type Rows = BTreeMap<(&'static str, String), u64>;

/// All of a store that a user can see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Model {
    /// Partitions.
    pub logs: BTreeMap<Place, Log>,
    /// Rows by table and key.
    pub rows: Rows,
    /// The next offset to read, by consumer and partition; 0 is not kept.
    pub progress: BTreeMap<(&'static str, Place), u64>,
    /// The next sequence, by producer and partition, or the topic `""`; 0 is not kept.
    pub stamps: BTreeMap<(&'static str, Place), u64>,
    /// Topics that are written in another way than they were made.
    pub ways: BTreeMap<&'static str, Way>,
}

/// What one transaction does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Effect {
    /// Records, in order.
    pub appends: Vec<(Place, Content)>,
    /// Rows; `None` deletes.
    pub rows: Vec<((&'static str, String), Option<u64>)>,
    /// Progress.
    pub progress: Vec<((&'static str, Place), u64)>,
    /// A topic that is deleted with it.
    pub deleted: Option<&'static str>,
    /// A partition whose records below this offset are removed.
    pub removed: Option<(Place, u64)>,
    /// Next sequences.
    pub stamps: Vec<((&'static str, Place), u64)>,
    /// Topics that are altered.
    pub ways: Vec<(&'static str, Way)>,
    /// A consumer that is forgotten, in all topics.
    pub forgotten: Option<&'static str>,
}

impl Model {
    /// Makes the transaction happen.
    pub fn apply(&mut self, effect: &Effect) {
        if let Some(topic) = effect.deleted {
            self.logs.retain(|place, _| place.0 != topic);
            self.ways.remove(topic);
        }
        if let Some(consumer) = effect.forgotten {
            self.progress.retain(|(id, _), _| *id != consumer);
        }
        if let Some((place, start)) = effect.removed
            && let Some(log) = self.logs.get_mut(&place)
        {
            log.records.retain(|offset, _| *offset >= start);
        }
        for (place, content) in &effect.appends {
            let log = self.logs.entry(*place).or_default();
            log.records.insert(log.next, content.clone());
            log.next += 1;
        }
        for (key, value) in &effect.rows {
            match value {
                Some(value) => self.rows.insert(key.clone(), *value),
                None => self.rows.remove(key),
            };
        }
        for (key, next) in &effect.progress {
            match next {
                0 => self.progress.remove(key),
                next => self.progress.insert(*key, *next),
            };
        }
        for (key, next) in &effect.stamps {
            self.stamps.insert(*key, *next);
        }
        for (topic, way) in &effect.ways {
            if *way == way_of(topic) {
                self.ways.remove(topic)
            } else {
                self.ways.insert(topic, *way)
            };
        }
    }

    /// The offset that the next record of a partition gets.
    #[must_use]
    pub fn next(&self, place: Place) -> u64 {
        self.logs.get(&place).map_or(0, |log| log.next)
    }

    /// Where a consumer stands: the next offset that it gets.
    #[must_use]
    pub fn stands(&self, consumer: &'static str, place: Place) -> u64 {
        self.progress.get(&(consumer, place)).copied().unwrap_or(0)
    }

    /// The row, if there is one.
    #[must_use]
    pub fn row(&self, table: &'static str, key: &str) -> Option<u64> {
        self.rows.get(&(table, key.to_owned())).copied()
    }

    /// The next sequence of a producer.
    #[must_use]
    pub fn stamp(&self, name: (&'static str, Place)) -> u64 {
        self.stamps.get(&name).copied().unwrap_or(0)
    }

    /// In one line, the first thing in which `other` differs.
    #[must_use]
    pub fn difference(&self, other: &Model) -> String {
        for (place, log) in &self.logs {
            let theirs = other.logs.get(place).cloned().unwrap_or_default();
            if *log != theirs {
                let missing = log.records.keys().find(|offset| theirs.records.get(offset) != log.records.get(offset));
                let surplus = theirs.records.keys().find(|offset| !log.records.contains_key(offset));
                let (ours, found) = (log.next, theirs.next);
                return format!("{place:?}: end {ours} / {found}, missing or other {missing:?}, surplus {surplus:?}");
            }
        }
        if self.rows != other.rows {
            let keys = self.rows.keys().chain(other.rows.keys());
            let differs = |key: &&(&'static str, String)| self.rows.get(*key) != other.rows.get(*key);
            let first = keys.into_iter().find(differs).map(|key| (key, self.rows.get(key), other.rows.get(key)));
            return format!("row {first:?}");
        }
        if self.progress != other.progress {
            return format!("progress {:?} / {:?}", self.progress, other.progress);
        }
        if self.stamps != other.stamps {
            return format!("stamps {:?} / {:?}", self.stamps, other.stamps);
        }
        if self.ways != other.ways {
            return format!("ways {:?} / {:?}", self.ways, other.ways);
        }
        format!("partitions {:?} / {:?}", self.logs.keys(), other.logs.keys())
    }
}

/// The partition of a key as Kafka's default partitioner has it (murmur2, Austin Appleby), written from its description
/// and not shared with the engine: a second opinion.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    const MULTIPLY: u32 = 0x5bd1_e995;
    let length = u32::try_from(key.len()).unwrap_or(u32::MAX);
    let mut hash = 0x9747_b28c_u32 ^ length;
    let words = key.chunks_exact(4);
    let tail = words.remainder();
    for word in words {
        let mut mixed = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(MULTIPLY);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MULTIPLY) ^ mixed.wrapping_mul(MULTIPLY);
    }
    if !tail.is_empty() {
        for (at, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(MULTIPLY);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLY);
    hash ^= hash >> 15;
    (hash & 0x7fff_ffff) % partitions
}
