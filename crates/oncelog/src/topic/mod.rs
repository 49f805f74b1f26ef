//! Topics and their partitions: ordered segments, the turn to append, the end that readers see.
//!
//! ```text
//! turn (offsets and places decided) -> journal -> apply (bytes copied, end moved) -> PartitionReader
//! ```
//!
//! Invariants: log offsets are given out under the partition's turn and never twice. The segments of a partition are
//! in order of their base offsets; where one ends below the base of the next, the records between are lost, and
//! readers get a typed gap. Neighbours: `segment` below; `transaction` above takes the turns and applies frames.

mod claim;
mod compaction;
mod exchange;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod keys;
mod partition;
mod pieces;
mod reader;
mod removal;
mod retention;
mod usage;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub(crate) use claim::{Claim, find_claim, read_claim, write_claims};
pub use compaction::Compaction;
pub(crate) use compaction::{Dirt, Part, groups};
pub(crate) use exchange::{Compactable, Exchange};
pub(crate) use keys::LastOffsets;
pub(crate) use partition::{
    OpenBatch, Partition, PartitionState, Placement, Plan, Removal, SegmentMaker, SegmentRow, Turn, Writing,
};
pub(crate) use pieces::{Piece, pieces};
pub(crate) use reader::{PartitionReader, Polled};
pub use retention::{ConsumerIds, MinimumRetention, Retention};
pub(crate) use retention::{PartitionView, decide, elapsed};
pub(crate) use usage::{Room, Usage};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{self, PartitionId, TopicId};
use crate::record::Compression;
use crate::wake::{Arc, AtomicBool, Ordering};

/// What a topic is: stored with it, and compared when it is opened again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicSpec {
    /// The name, as the user gives it.
    pub name: String,
    /// How many partitions it has, at least 1.
    pub partitions: u32,
    /// [`Codec::ID`](crate::Codec::ID) of its keys.
    pub key_codec: String,
    /// [`Codec::ID`](crate::Codec::ID) of its values.
    pub value_codec: String,
    /// A segment that would grow beyond this many bytes is ended and the next begun.
    pub file_roll_size: u64,
    /// How its batches are compressed.
    pub compression: Compression,
    /// How much and how long it keeps.
    pub retention: Retention,
    /// Whether it keeps only the last record of each key, and how.
    pub compaction: Option<Compaction>,
}

impl TopicSpec {
    /// Most partitions that a topic can have.
    pub const PARTITIONS_MAX: u32 = 1 << 16;

    /// # Errors
    /// `Invalid`: a name, a number or a size that no topic can have.
    pub(crate) fn check(&self) -> Result<()> {
        let complain = |what: &dyn fmt::Display| Err(Error::invalid(format!("topic {:?}: {what}", self.name)));
        if let Some(complaint) = ids::name_complaint(&self.name) {
            return complain(&format_args!("bad name: {complaint}"));
        }
        if self.partitions == 0 || self.partitions > Self::PARTITIONS_MAX {
            return complain(&format_args!("{} partitions, must be 1 to {}", self.partitions, Self::PARTITIONS_MAX));
        }
        if self.file_roll_size < 1024 {
            return complain(&"file_roll_size must be at least 1024 bytes");
        }
        if let Some(complaint) = self.compaction.as_ref().and_then(Compaction::complaint) {
            return complain(&complaint);
        }
        self.retention.check(self.partitions).or_else(|error| complain(&error))
    }

    /// The bytes at which a segment is ended: a topic that holds little has files that are small enough to go.
    pub(crate) fn roll_size(&self) -> u64 {
        let share = |bytes: u64| bytes / (4 * u64::from(self.partitions.max(1)));
        self.retention
            .max_total_bytes
            .map_or(self.file_roll_size, |bytes| self.file_roll_size.min(share(bytes)).max(1024))
    }

    /// # Errors
    /// Of that kind: compressed in a way that this build of the library lacks.
    pub(crate) fn check_built_in(&self, missing: ErrorKind) -> Result<()> {
        if self.compression.is_built_in() {
            return Ok(());
        }
        let (name, kind) = (&self.name, self.compression);
        let what = format!("topic {name:?}: compression by {kind:?} needs a feature that is not built in");
        Err(Error::new(missing, what))
    }

    /// Which settings that `wanted` gives a topic that exists as `self` does not have. They were stored when it was
    /// made, and are changed by `alter` alone: a definition that says nothing of them is no wish to change them.
    pub(crate) fn ignored_settings(&self, wanted: &TopicSpec) -> Vec<&'static str> {
        let settings = [
            ("compression", wanted.compression != self.compression && wanted.compression != Compression::None),
            ("retention", wanted.retention != self.retention && wanted.retention != Retention::default()),
            ("compaction", wanted.compaction.is_some() && wanted.compaction != self.compaction),
        ];
        settings.into_iter().filter_map(|(name, ignored)| ignored.then_some(name)).collect()
    }

    /// Whether a topic that exists as `self` can be used as `wanted`.
    pub(crate) fn admit(&self, wanted: &TopicSpec) -> Result<()> {
        let differ = |what: &str, is: &dyn fmt::Display, asked: &dyn fmt::Display| {
            Err(Error::invalid(format!("topic {:?} has {what} {is}, not {asked}", self.name)))
        };
        if self.partitions != wanted.partitions {
            return differ("a number of partitions of", &self.partitions, &wanted.partitions);
        }
        if self.key_codec != wanted.key_codec {
            return differ("the key codec", &self.key_codec, &wanted.key_codec);
        }
        if self.value_codec != wanted.value_codec {
            return differ("the value codec", &self.value_codec, &wanted.value_codec);
        }
        Ok(())
    }
}

/// A topic that is open.
pub(crate) struct Topic {
    pub(crate) id: TopicId,
    pub(crate) spec: TopicSpec,
    pub(crate) partitions: Vec<Arc<Partition>>,
    /// Somebody was told that settings of a definition have no effect.
    pub(crate) warned: AtomicBool,
}

impl Topic {
    /// Tells, once, that settings of a definition are not those of the topic.
    pub(crate) fn warn_of_ignored(&self, wanted: &TopicSpec) {
        let ignored = self.spec.ignored_settings(wanted);
        if !ignored.is_empty() && !self.warned.swap(true, Ordering::Relaxed) {
            let what =
                "settings of a definition have no effect: the topic was made with others; alter_topic changes them";
            tracing::warn!(topic = self.spec.name, settings = ignored.join(", "), "{what}");
        }
    }

    /// Whether a record may have no key: as the topic is now, also for those who have known it longer.
    ///
    /// # Errors
    /// `Invalid`: the topic is compacted, and what has no key can never be told from others.
    #[inline]
    pub(crate) fn check_key(&self, key: Option<&[u8]>) -> Result<()> {
        if key.is_some() || !self.partitions.first().is_some_and(|partition| partition.wants_keys()) {
            return Ok(());
        }
        Err(Error::invalid(format!("topic {:?} is compacted by key, and the record has none", self.spec.name)))
    }

    /// The partition of that number.
    pub(crate) fn partition(&self, id: PartitionId) -> Result<&Arc<Partition>> {
        self.partitions.get(id.0 as usize).ok_or_else(|| {
            let count = self.spec.partitions;
            Error::invalid(format!("topic {:?} has {count} partitions, there is no {id}", self.spec.name))
        })
    }
}

/// The directory of the topic with that name.
pub(crate) fn topic_dir(topics: &Path, name: &str) -> PathBuf {
    topics.join(ids::escape_name(name))
}

/// The directory of a partition.
pub(crate) fn partition_dir(topic: &Path, partition: PartitionId) -> PathBuf {
    topic.join(format!("{:06}", partition.0))
}
