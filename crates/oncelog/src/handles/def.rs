//! Definitions: the name, shape and codecs of a topic or table, as constants that know no engine.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::tx::encode;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::ids::{PartitionId, ShardId};
use crate::record::{Compression, partition_of};
use crate::table::TableSpec;
use crate::topic::{Compaction, MinimumRetention, Retention, TopicSpec};

/// Segments are ended before they grow beyond this unless the topic says otherwise: 256 MiB.
pub(crate) const FILE_ROLL_SIZE: u64 = 256 << 20;

/// A topic by name, with the codecs of its keys and values.
///
/// ```
/// use oncelog::{TopicDef, U64, Utf8};
/// const ALERTS: TopicDef<Utf8, U64> = TopicDef::new("alerts").partitions(4);
/// ```
pub struct TopicDef<K, V> {
    name: Cow<'static, str>,
    partitions: u32,
    file_roll_size: u64,
    compression: Compression,
    retention: Retention,
    compaction: Option<Compaction>,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TopicDef<K, V> {
    /// A topic of one partition.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        TopicDef {
            name: Cow::Borrowed(name),
            partitions: 1,
            file_roll_size: FILE_ROLL_SIZE,
            compression: Compression::None,
            retention: Retention::NONE,
            compaction: None,
            codecs: PhantomData,
        }
    }

    /// A topic whose name is known at run time only.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        TopicDef { name: Cow::Owned(name.into()), ..Self::new("") }
    }

    /// Sets how many partitions it has, at least 1. Fixed once the topic exists.
    #[must_use]
    pub const fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = partitions;
        self
    }

    /// Sets the bytes at which a segment file is ended and the next begun; at least 1024, 256 MiB unless set.
    #[must_use]
    pub const fn file_roll_size(mut self, bytes: u64) -> Self {
        self.file_roll_size = bytes;
        self
    }

    /// Sets how its batches are compressed: not unless set. Stored with the topic when it is made.
    #[must_use]
    pub const fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Sets the most bytes of segment files that the topic keeps, over all its partitions: without limit unless set.
    /// See [`Retention::max_total_bytes`]. Stored with the topic when it is made; [`Store::alter_topic`] changes it.
    ///
    /// [`Store::alter_topic`]: crate::Store::alter_topic
    #[must_use]
    pub const fn max_total_bytes(mut self, bytes: u64) -> Self {
        self.retention.max_total_bytes = Some(bytes);
        self
    }

    /// Sets the longest that a segment file is kept after its last record: without limit unless set. See
    /// [`Retention::max_file_age`].
    #[must_use]
    pub const fn max_file_age(mut self, age: Duration) -> Self {
        self.retention.max_file_age = Some(age);
        self
    }

    /// Sets what no limit removes: nothing unless set. If that takes all of [`TopicDef::max_total_bytes`], appends wait
    /// or are refused, as [`WhenFull`](crate::WhenFull) says, and no unread record is dropped.
    ///
    /// ```
    /// use oncelog::{MinimumRetention, TopicDef, U64, Utf8};
    /// const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders")
    ///     .max_total_bytes(1 << 30)
    ///     .blocking_minimum_retention(MinimumRetention::consumers(&["billing", "audit"]));
    /// ```
    #[must_use]
    pub const fn blocking_minimum_retention(mut self, minimum: MinimumRetention) -> Self {
        // What was set before holds constants only, or leaks once: a constant function drops nothing.
        std::mem::forget(std::mem::replace(&mut self.retention.blocking_minimum, minimum));
        self
    }

    /// Sets that of each key only the last record is kept: not unless set. Every record must have a key then. See
    /// [`Compaction`].
    #[must_use]
    pub const fn compaction(mut self, compaction: Compaction) -> Self {
        self.compaction = Some(compaction);
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<K: Codec, V: Codec> TopicDef<K, V> {
    /// The partition that records of `key` go to, as [`Codec::route`] and the number of partitions decide: the same as
    /// Kafka's default partitioner chooses.
    ///
    /// # Errors
    /// `Invalid`: the key has no encoding, or the definition has no partitions.
    pub fn partition_of(&self, key: &K::Value) -> Result<PartitionId> {
        if self.partitions == 0 {
            return Err(Error::invalid(format!("topic {:?}: a topic has one partition at least", self.name)));
        }
        Ok(partition_of(&K::route(&encode::<K>(key)?), self.partitions))
    }

    /// What an engine is asked for.
    #[must_use]
    pub fn spec(&self) -> TopicSpec {
        TopicSpec {
            name: self.name.clone().into_owned(),
            partitions: self.partitions,
            key_codec: K::id().into_owned(),
            value_codec: V::id().into_owned(),
            file_roll_size: self.file_roll_size,
            compression: self.compression,
            retention: self.retention.clone(),
            compaction: self.compaction,
        }
    }
}

impl<K, V> Clone for TopicDef<K, V> {
    fn clone(&self) -> Self {
        let (name, retention) = (self.name.clone(), self.retention.clone());
        TopicDef { name, retention, codecs: PhantomData, ..*self }
    }
}

impl<K, V> fmt::Debug for TopicDef<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicDef").field("name", &self.name).field("partitions", &self.partitions).finish()
    }
}

/// A table by name, with the codecs of its keys and values.
///
/// A table is made when it is first used, and keeps its shards for good: as many as its definition says; else one for
/// each partition of the input if a [`Processor`](crate::Processor) that names it is started first; else one. Say the
/// number where a table that belongs to a processor may be touched before the processor is started:
///
/// ```
/// use oncelog::{TableDef, TopicDef, U64, Utf8};
/// const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(4);
/// const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals").shards(4);
/// ```
pub struct TableDef<K, V> {
    name: Cow<'static, str>,
    shards: Option<u32>,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K, V> TableDef<K, V> {
    /// A table of that name.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        TableDef { name: Cow::Borrowed(name), shards: None, codecs: PhantomData }
    }

    /// A table whose name is known at run time only.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        TableDef { name: Cow::Owned(name.into()), shards: None, codecs: PhantomData }
    }

    pub(crate) fn into_name(self) -> Cow<'static, str> {
        self.name
    }

    /// Says how many shards it has: as many as the input of the processor that keeps it has partitions.
    #[must_use]
    pub const fn shards(mut self, shards: u32) -> Self {
        self.shards = Some(shards);
        self
    }

    /// How many shards it says it has, if it does.
    #[must_use]
    pub const fn shard_count(&self) -> Option<u32> {
        self.shards
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<K: Codec, V: Codec> TableDef<K, V> {
    /// What an engine is asked for.
    #[must_use]
    pub fn spec(&self, shards: u32) -> TableSpec {
        TableSpec {
            name: self.name.clone().into_owned(),
            shards,
            key_codec: K::id().into_owned(),
            value_codec: V::id().into_owned(),
        }
    }
}

impl<K, V> Clone for TableDef<K, V> {
    fn clone(&self) -> Self {
        TableDef { name: self.name.clone(), codecs: PhantomData, ..*self }
    }
}

impl<K, V> fmt::Debug for TableDef<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableDef").field("name", &self.name).finish()
    }
}

/// The shard that a row of this encoded key belongs to: the same rule that routes records to partitions.
pub(crate) fn shard_of<K: Codec>(key: &[u8], shards: u32) -> ShardId {
    if shards == 1 {
        return ShardId(0);
    }
    let PartitionId(partition) = partition_of(&K::route(key), shards);
    ShardId(partition)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;

    #[test]
    fn settings_that_have_no_effect_are_named_and_those_that_nobody_gives_are_not() {
        let plain = TopicDef::<Bytes, Bytes>::new("t").spec();
        let limited = TopicDef::<Bytes, Bytes>::new("t").max_total_bytes(1 << 20).spec();
        let packed = TopicDef::<Bytes, Bytes>::new("t").compression(Compression::Lz4).spec();
        assert_eq!(plain.ignored_settings(&limited), ["retention"]);
        assert_eq!(plain.ignored_settings(&packed), ["compression"]);
        assert_eq!(packed.ignored_settings(&limited), ["retention"]);
        for (is, asked) in [(&limited, &plain), (&packed, &plain), (&limited, &limited), (&plain, &plain)] {
            assert!(is.ignored_settings(asked).is_empty(), "{is:?} {asked:?}");
        }
    }
}
