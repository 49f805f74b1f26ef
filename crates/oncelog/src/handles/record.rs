//! A record as a processing function gets it: borrowed, decoded when asked.

use std::marker::PhantomData;

use crate::codec::{Codec, CodecError};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, RecordId, TopicId};
use crate::record::{Headers, Record, RecordView};

/// A record with the codecs of its topic. Borrows from the read buffer: nothing is copied until you do.
pub struct RecordRef<'a, K, V> {
    view: RecordView<'a>,
    topic: TopicId,
    topic_name: &'a str,
    partition: PartitionId,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Clone for RecordRef<'_, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for RecordRef<'_, K, V> {}

impl<'a, K, V> RecordRef<'a, K, V> {
    #[inline]
    pub(crate) fn new(
        view: RecordView<'a>,
        topic: TopicId,
        topic_name: &'a str,
        partition: PartitionId,
    ) -> RecordRef<'a, K, V> {
        RecordRef { view, topic, topic_name, partition, codecs: PhantomData }
    }

    /// Its place in the partition.
    #[must_use]
    pub fn offset(&self) -> LogOffset {
        self.view.offset
    }

    /// Its partition.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The name of its topic.
    #[must_use]
    pub fn topic(&self) -> &'a str {
        self.topic_name
    }

    /// The same in every delivery and of no other record of this store: an idempotency key for the outer world.
    #[must_use]
    pub fn id(&self) -> RecordId {
        RecordId { topic: self.topic, partition: self.partition, offset: self.view.offset }
    }

    /// Milliseconds since the Unix epoch, as the producer or its clock said.
    #[must_use]
    pub fn timestamp_ms(&self) -> i64 {
        self.view.timestamp_ms
    }

    /// The bytes of the key, if it has one.
    #[must_use]
    pub fn key_bytes(&self) -> Option<&'a [u8]> {
        self.view.key
    }

    /// The bytes of the value; `None` is a tombstone.
    #[must_use]
    pub fn value_bytes(&self) -> Option<&'a [u8]> {
        self.view.value
    }

    /// The headers, in the order in which they were given.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.view.headers()
    }

    /// A copy that can be kept; one allocation for all of its content.
    #[must_use]
    pub fn to_record(&self) -> Record {
        Record::from_view(&self.view, self.topic, self.partition)
    }

    #[cold]
    #[inline(never)]
    fn undecodable(&self, part: &str, reason: CodecError) -> Error {
        let RecordRef { topic_name, partition, .. } = self;
        let what = format!("topic {topic_name:?}, partition {partition}, offset {}: bad {part}", self.view.offset);
        Error::new(ErrorKind::Invalid, what).because(reason)
    }
}

impl<'a, K: Codec, V: Codec> RecordRef<'a, K, V> {
    /// The key.
    ///
    /// # Errors
    /// `Invalid`: the record has no key, or its bytes are none of this codec.
    #[inline]
    pub fn key(&self) -> Result<K::Ref<'a>> {
        let bytes = self.view.key.ok_or_else(|| self.undecodable("key", CodecError::new("the record has none")))?;
        K::decode(bytes).map_err(|reason| self.undecodable("key", reason))
    }

    /// The value.
    ///
    /// # Errors
    /// `Invalid`: the record is a tombstone, or its bytes are none of this codec.
    #[inline]
    pub fn value(&self) -> Result<V::Ref<'a>> {
        let bytes = self.view.value.ok_or_else(|| self.undecodable("value", CodecError::new("it is a tombstone")))?;
        V::decode(bytes).map_err(|reason| self.undecodable("value", reason))
    }
}
