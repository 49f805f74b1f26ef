//! A record that stands alone.

use bytes::Bytes;

use super::RecordView;
use crate::codec::{Codec, CodecError};
use crate::error::{Error, Result};
use crate::ids::{PartitionId, RecordId, TopicId};

/// A record of your own: it outlives the buffer it was read into, and a clone of it copies no content.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Which record it is: the same in every delivery.
    pub id: RecordId,
    /// Milliseconds since the Unix epoch, as the writer gave them.
    pub timestamp_ms: i64,
    /// What decided the partition, if anything did.
    pub key: Option<Bytes>,
    /// The content; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Names and values in the order they were written.
    pub headers: Vec<(String, Option<Bytes>)>,
}

impl Record {
    /// The key, decoded; `None` where there is none.
    ///
    /// # Errors
    /// `Invalid`: its bytes are none of this codec; names the place of the record.
    pub fn key_as<K: Codec>(&self) -> Result<Option<K::Ref<'_>>> {
        self.key.as_deref().map(K::decode).transpose().map_err(|reason| self.undecodable("key", reason))
    }

    /// The value, decoded; `None` of a tombstone.
    ///
    /// # Errors
    /// As [`Record::key_as`].
    pub fn value_as<V: Codec>(&self) -> Result<Option<V::Ref<'_>>> {
        self.value.as_deref().map(V::decode).transpose().map_err(|reason| self.undecodable("value", reason))
    }

    fn undecodable(&self, part: &str, reason: CodecError) -> Error {
        let RecordId { topic, partition, offset } = self.id;
        Error::invalid(format!("topic {topic}, partition {partition}, offset {offset}: bad {part}")).because(reason)
    }

    /// Copies `view` out of its buffer. Key, value and header values share one allocation, so keeping one of them keeps
    /// all; header names take one each.
    pub(crate) fn from_view(view: &RecordView<'_>, topic: TopicId, partition: PartitionId) -> Record {
        let values = || view.headers().map(|header| header.value);
        let parts = || [view.key, view.value].into_iter().chain(values()).flatten();
        let mut content = Vec::with_capacity(parts().map(<[u8]>::len).sum());
        parts().for_each(|part| content.extend_from_slice(part));
        let mut content = Bytes::from(content);
        // Hands the parts out again in the order they went in.
        let mut take = |part: Option<&[u8]>| part.map(|part| content.split_to(part.len()));
        Record {
            id: RecordId { topic, partition, offset: view.offset },
            timestamp_ms: view.timestamp_ms,
            key: take(view.key),
            value: take(view.value),
            headers: view.headers().map(|header| (header.name.to_owned(), take(header.value))).collect(),
        }
    }
}
