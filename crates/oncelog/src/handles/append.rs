//! From what users append to what a transaction takes: keys and values encoded, and with a key what decides its
//! partition. The same for all producers.

use std::borrow::Borrow;

use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::Header;
use crate::transaction::{Committed, EngineTx, NewRecord};

/// A record as its producer was given it: key or none, value or tombstone, headers, timestamp.
pub(super) struct Given<'r, K: Codec, V: Codec> {
    pub(super) key: Option<&'r K::Value>,
    pub(super) value: Option<&'r V::Value>,
    pub(super) headers: &'r [Header<'r>],
    pub(super) timestamp_ms: Option<i64>,
}

impl<'r, K: Codec, V: Codec> Given<'r, K, V> {
    /// With key and value, and nothing else.
    pub(super) fn pair(key: &'r K::Value, value: &'r V::Value) -> Self {
        Given { key: Some(key), value: Some(value), headers: &[], timestamp_ms: None }
    }

    /// Hands the encoded record to `take`. What holds its bytes is not copied.
    ///
    /// # Errors
    /// `Invalid`: key or value has no encoding; what `take` says.
    pub(super) fn encoded<T>(&self, take: impl FnOnce(NewRecord<'_>) -> Result<T>) -> Result<T> {
        self.encoded_in(&mut Vec::new(), &mut Vec::new(), take)
    }

    /// As [`Given::encoded`], with memory that is used again.
    #[inline]
    pub(super) fn encoded_in<T>(
        &self,
        key_bytes: &mut Vec<u8>,
        value_bytes: &mut Vec<u8>,
        take: impl FnOnce(NewRecord<'_>) -> Result<T>,
    ) -> Result<T> {
        let key = self.key.map(|key| encoded::<K>(key, key_bytes)).transpose()?;
        let value = self.value.map(|value| encoded::<V>(value, value_bytes)).transpose()?;
        let route = key.map(K::route);
        let (route, headers, timestamp_ms) = (route.as_ref().map(Borrow::borrow), self.headers, self.timestamp_ms);
        take(NewRecord { key, route, value, headers, timestamp_ms })
    }
}

/// Stages many records in order; gives how many.
pub(super) fn stage_all<'r, K: Codec, V: Codec>(
    tx: &mut dyn EngineTx,
    topic: TopicId,
    partition: Option<PartitionId>,
    records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
) -> Result<u32>
where
    K::Value: 'r,
    V::Value: 'r,
{
    let (mut key_bytes, mut value_bytes, mut count) = (Vec::new(), Vec::new(), 0u32);
    for (key, value) in records {
        let record = Given::<K, V>::pair(key, value);
        record.encoded_in(&mut key_bytes, &mut value_bytes, |record| tx.append(topic, partition, record))?;
        count = count.checked_add(1).ok_or_else(|| Error::invalid("more records than one batch can count"))?;
    }
    Ok(count)
}

/// The bytes of a value, in `buffer` unless the value holds them.
#[inline]
pub(super) fn encoded<'b, C: Codec>(value: &'b C::Value, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
    if let Some(bytes) = C::as_encoded(value) {
        return Ok(bytes);
    }
    encode_into::<C>(value, buffer)?;
    Ok(buffer)
}

/// Encodes a value over what was in `out`.
pub(super) fn encode_into<C: Codec>(value: &C::Value, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    C::encode(value, out)
        .map_err(|reason| Error::invalid(format!("the value has no encoding as {}", C::id())).because(reason))
}

/// The offset of the first record.
pub(super) fn first_offset(committed: Committed) -> LogOffset {
    committed.appended.first().map_or(LogOffset(0), |appended| appended.first)
}
