//! What a frame holds: batches for partitions, then rows for tables, then stamps of producers.
//!
//! ```text
//! version u8 | batches | topic u32, partition u32, length, batch ... | rows | table u32, shard u32, key, value ...
//!            | stamps | producer, epoch u64, topic u32, partition u32, first sequence u64, count ...
//! ```
//!
//! Counts and lengths are varints; a row's value has its length plus one before it, and 0 deletes. The base offset of a
//! batch is filled in under the partition's turn; its leader epoch is -1 until it is applied.

use std::ops::Range;

use crate::codec::{Input, put_bytes, put_varint};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{PartitionId, ProducerEpoch, Sequence, ShardId, TableId, TopicId};
use crate::journal::FRAME_HEAD_BYTES;
use crate::producer::Stamp;
use crate::record::{BATCH_HEAD_BYTES, BatchBuilder, Compression};

const VERSION: u8 = 1;

/// Builds a frame's bytes, with room for the journal's head in front.
pub(super) struct FrameWriter {
    bytes: Vec<u8>,
}

impl FrameWriter {
    pub(super) fn new(capacity: usize, batches: usize) -> FrameWriter {
        let mut bytes = Vec::with_capacity(FRAME_HEAD_BYTES + capacity + 16);
        bytes.resize(FRAME_HEAD_BYTES, 0);
        bytes.push(VERSION);
        put_varint(&mut bytes, batches as u64);
        FrameWriter { bytes }
    }

    /// Finishes a batch into the frame; gives where it is in the frame's bytes.
    pub(super) fn batch(
        &mut self,
        topic: TopicId,
        partition: PartitionId,
        batch: &BatchBuilder,
        compression: Compression,
    ) -> Range<usize> {
        self.bytes.extend_from_slice(&topic.0.to_le_bytes());
        self.bytes.extend_from_slice(&partition.0.to_le_bytes());
        if let Some(records) = batch.deflated(compression) {
            put_varint(&mut self.bytes, (BATCH_HEAD_BYTES + records.len()) as u64);
            let start = self.bytes.len();
            batch.finish_deflated(compression, &records, &mut self.bytes);
            return start..self.bytes.len();
        }
        put_varint(&mut self.bytes, batch.len_bytes() as u64);
        let start = self.bytes.len();
        batch.finish_into(&mut self.bytes);
        start..self.bytes.len()
    }

    /// All batches are in; `count` rows follow.
    pub(super) fn rows(&mut self, count: usize) {
        put_varint(&mut self.bytes, count as u64);
    }

    pub(super) fn row(&mut self, table: TableId, shard: ShardId, key: &[u8], value: Option<&[u8]>) {
        self.bytes.extend_from_slice(&table.0.to_le_bytes());
        self.bytes.extend_from_slice(&shard.0.to_le_bytes());
        put_bytes(&mut self.bytes, key);
        match value {
            Some(value) => {
                put_varint(&mut self.bytes, value.len() as u64 + 1);
                self.bytes.extend_from_slice(value);
            }
            None => put_varint(&mut self.bytes, 0),
        }
    }

    /// All rows are in; `count` stamps follow.
    pub(super) fn stamps(&mut self, count: usize) {
        put_varint(&mut self.bytes, count as u64);
    }

    pub(super) fn stamp(&mut self, producer: &str, topic: TopicId, partition: PartitionId, stamp: &Stamp) {
        put_bytes(&mut self.bytes, producer.as_bytes());
        self.bytes.extend_from_slice(&stamp.epoch.unwrap_or_default().0.to_le_bytes());
        self.bytes.extend_from_slice(&topic.0.to_le_bytes());
        self.bytes.extend_from_slice(&partition.0.to_le_bytes());
        self.bytes.extend_from_slice(&stamp.first.0.to_le_bytes());
        put_varint(&mut self.bytes, stamp.count.into());
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// One thing that a frame does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    Batch { topic: TopicId, partition: PartitionId, bytes: &'a [u8] },
    Row { table: TableId, shard: ShardId, key: &'a [u8], value: Option<&'a [u8]> },
    Stamp { producer: &'a str, topic: TopicId, partition: PartitionId, stamp: Stamp },
}

/// The effects of a frame's body, in order.
///
/// # Errors
/// What is wrong with a body that is not one, though its checksum holds.
pub(crate) fn effects(body: &[u8]) -> Result<Vec<Effect<'_>>> {
    let mut input = Input::new(body);
    let malformed = |what: &str| Error::new(ErrorKind::Corrupt, what);
    match input.u8() {
        Some(VERSION) => {}
        Some(version) => {
            let what = format!("content of format {version}, this program knows {VERSION}");
            return Err(Error::new(ErrorKind::UnsupportedVersion, what));
        }
        None => return Err(malformed("no content")),
    }
    let mut found = Vec::new();
    read_all(&mut input, &mut found).ok_or_else(|| malformed("malformed content"))?;
    if input.is_empty() { Ok(found) } else { Err(malformed("bytes left over behind the content")) }
}

fn read_all<'a>(input: &mut Input<'a>, found: &mut Vec<Effect<'a>>) -> Option<()> {
    for _ in 0..input.varint()? {
        let (topic, partition) = (TopicId(input.u32()?), PartitionId(input.u32()?));
        found.push(Effect::Batch { topic, partition, bytes: input.bytes()? });
    }
    for _ in 0..input.varint()? {
        let (table, shard) = (TableId(input.u32()?), ShardId(input.u32()?));
        let key = input.bytes()?;
        let value = match input.varint()? {
            0 => None,
            len => Some(input.take(usize::try_from(len - 1).ok()?)?),
        };
        found.push(Effect::Row { table, shard, key, value });
    }
    for _ in 0..input.varint()? {
        let producer = std::str::from_utf8(input.bytes()?).ok()?;
        let epoch = Some(ProducerEpoch(input.u64()?)).filter(|epoch| epoch.0 > 0);
        let (topic, partition) = (TopicId(input.u32()?), PartitionId(input.u32()?));
        let first = Sequence(input.u64()?);
        let count = u32::try_from(input.varint()?).ok().filter(|count| *count > 0)?;
        let stamp = Stamp { epoch, first, count };
        found.push(Effect::Stamp { producer, topic, partition, stamp });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Draft;
    use proptest::prelude::*;

    #[test]
    fn effects_come_back_in_order() {
        let mut writer = FrameWriter::new(0, 1);
        let mut batch = BatchBuilder::new();
        batch.push(&Draft { key: None, value: Some(b"v"), headers: &[], timestamp_ms: 1 });
        let at = writer.batch(TopicId(7), PartitionId(3), &batch, Compression::None);
        let mut batch_bytes = Vec::new();
        batch.finish_into(&mut batch_bytes);
        writer.rows(2);
        writer.row(TableId(16), ShardId(3), b"ann", Some(b"12"));
        writer.row(TableId(1), ShardId(0), b"", None);
        let fenced = Stamp { epoch: Some(ProducerEpoch(3)), first: Sequence(u64::MAX - 9), count: 7 };
        let free = Stamp { epoch: None, first: Sequence(0), count: 1 };
        writer.stamps(2);
        writer.stamp("gate", TopicId(7), PartitionId(3), &fenced);
        writer.stamp("", TopicId(0), PartitionId(0), &free);
        let bytes = writer.finish();
        assert_eq!(bytes[at], batch_bytes);
        let expected = vec![
            Effect::Batch { topic: TopicId(7), partition: PartitionId(3), bytes: &batch_bytes },
            Effect::Row { table: TableId(16), shard: ShardId(3), key: b"ann", value: Some(b"12") },
            Effect::Row { table: TableId(1), shard: ShardId(0), key: b"", value: None },
            Effect::Stamp { producer: "gate", topic: TopicId(7), partition: PartitionId(3), stamp: fenced },
            Effect::Stamp { producer: "", topic: TopicId(0), partition: PartitionId(0), stamp: free },
        ];
        assert_eq!(effects(&bytes[FRAME_HEAD_BYTES..]).unwrap(), expected);
    }

    #[test]
    fn an_empty_value_is_not_a_deletion() {
        let mut writer = FrameWriter::new(0, 0);
        writer.rows(1);
        writer.row(TableId(16), ShardId(0), b"k", Some(b""));
        writer.stamps(0);
        let bytes = writer.finish();
        let expected = Effect::Row { table: TableId(16), shard: ShardId(0), key: b"k", value: Some(b"") };
        assert_eq!(effects(&bytes[FRAME_HEAD_BYTES..]).unwrap(), [expected]);
    }

    #[test]
    fn a_newer_version_is_told_from_rot() {
        assert_eq!(effects(&[VERSION + 1, 0, 0, 0]).unwrap_err().kind(), ErrorKind::UnsupportedVersion);
        assert_eq!(effects(&[]).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(effects(&[VERSION, 0, 0, 0, 0]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = effects(&bytes);
            let mut with_version = vec![VERSION];
            with_version.extend(bytes);
            let _ = effects(&with_version);
        }
    }
}
