//! The store's own tables: the catalogue, the progress of consumers, the bounds of lax appends, and what the trim point
//! says of partitions and segments. They are rows like any others, so they are atomic with what they go with.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::codec::put_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, ShardId, TableId, TopicId};

/// The one shard of the store's own tables.
pub(crate) const SHARD: ShardId = ShardId(0);
/// Topics, tables and the next free ids.
pub(crate) const CATALOGUE: TableId = TableId(0);
/// The next offset to read, by consumer, topic and partition.
pub(crate) const PROGRESS: TableId = TableId(1);
/// Below what offset a partition may answer appends before they are durable.
pub(crate) const BOUNDS: TableId = TableId(2);
/// The state of partitions at the trim point; never in a frame.
pub(crate) const PARTITIONS: TableId = TableId(3);
/// The segments at the trim point; never in a frame.
pub(crate) const SEGMENTS: TableId = TableId(4);

/// The store's clock at the trim point; never in a frame.
pub(crate) const TIME: TableId = TableId(6);
/// The key of its one row.
pub(crate) const TIME_KEY: &[u8] = b"now";
/// Where a consumer stood that retention waits for, and since when, by consumer, topic and partition.
pub(crate) const WAITED_FOR: TableId = TableId(7);

/// Records that wait for their time, by time, number, topic and partition.
pub(crate) const DELAYED: TableId = TableId(8);

/// The last of these tables: whoever looks at all goes up to it.
pub(crate) const NEWEST: TableId = DELAYED;

/// What was stored last of each producer, by name, topic (0 for stamps that are tied to no topic) and partition.
pub(crate) const STAMPS: TableId = TableId(5);

/// Every row's value starts with it.
const ROW_VERSION: u8 = 1;

/// What the catalogue says under one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CatalogueKey {
    Topic(TopicId),
    Table(TableId),
    NextIds,
    /// The newest opening that found the owner not closed in order.
    Unclean,
    /// A topic that is deleted, and whose files may still be there.
    Deleted(TopicId),
}

/// The ids that the next new topic and table will get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NextIds {
    pub(crate) topic: u32,
    pub(crate) table: u32,
}

impl CatalogueKey {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            CatalogueKey::Topic(id) => [b"t", &id.0.to_be_bytes()[..]].concat(),
            CatalogueKey::Table(id) => [b"b", &id.0.to_be_bytes()[..]].concat(),
            CatalogueKey::NextIds => b"n".to_vec(),
            CatalogueKey::Unclean => b"u".to_vec(),
            CatalogueKey::Deleted(id) => [b"d", &id.0.to_be_bytes()[..]].concat(),
        }
    }

    pub(crate) fn decode(key: &[u8]) -> Option<CatalogueKey> {
        let (kind, id) = key.split_first()?;
        let number = || Some(u32::from_be_bytes(id.try_into().ok()?));
        match kind {
            b't' => Some(CatalogueKey::Topic(TopicId(number()?))),
            b'b' => Some(CatalogueKey::Table(TableId(number()?))),
            b'n' if id.is_empty() => Some(CatalogueKey::NextIds),
            b'u' if id.is_empty() => Some(CatalogueKey::Unclean),
            b'd' => Some(CatalogueKey::Deleted(TopicId(number()?))),
            _ => None,
        }
    }
}

/// The key of the catalogue's row that says which topic has that name.
pub(crate) fn topic_name_key(name: &str) -> Vec<u8> {
    [b"T", name.as_bytes()].concat()
}

/// The key of the catalogue's row that says which table has that name.
pub(crate) fn table_name_key(name: &str) -> Vec<u8> {
    [b"B", name.as_bytes()].concat()
}

/// The value of one of the store's own rows.
pub(crate) fn encode_row(row: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_extend(row, vec![ROW_VERSION])
        .map_err(|error| Error::invalid("a row of the store cannot be encoded").because(error))
}

/// Reads what [`encode_row`] wrote.
pub(crate) fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&ROW_VERSION, row)) => postcard::from_bytes(row)
            .map_err(|error| Error::new(ErrorKind::Corrupt, "a row of the store is malformed").because(error)),
        Some((version, _)) => Err(Error::new(
            ErrorKind::UnsupportedVersion,
            format!("a row of the store has format {version}, this program knows {ROW_VERSION}"),
        )),
        None => Err(Error::new(ErrorKind::Corrupt, "a row of the store is empty")),
    }
}

/// As [`decode_row`], for a row that borrows from its bytes.
pub(crate) fn decode_borrowed<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T> {
    let malformed = || Error::new(ErrorKind::Corrupt, "a row of the store is malformed");
    match bytes.split_first() {
        Some((&ROW_VERSION, row)) => postcard::from_bytes(row).map_err(|error| malformed().because(error)),
        _ => Err(malformed()),
    }
}

/// Topic and partition, sorted by number.
pub(crate) fn partition_key(topic: TopicId, partition: PartitionId) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&topic.0.to_be_bytes());
    key[4..].copy_from_slice(&partition.0.to_be_bytes());
    key
}

/// Reads what [`partition_key`] wrote.
pub(crate) fn read_partition_key(key: &[u8]) -> Option<(TopicId, PartitionId)> {
    let (topic, partition) = key.split_first_chunk::<4>()?;
    let partition = partition.first_chunk::<4>()?;
    Some((TopicId(u32::from_be_bytes(*topic)), PartitionId(u32::from_be_bytes(*partition))))
}

/// The topic that a row of bounds, progress or stamps is about: topic and partition end the key.
pub(crate) fn topic_of_key(key: &[u8]) -> Option<TopicId> {
    read_partition_key(key.last_chunk::<8>()?).map(|(topic, _)| topic)
}

/// The key of a segment's row: segments of a partition sort by base offset.
pub(crate) fn segment_key(topic: TopicId, partition: PartitionId, base_offset: LogOffset) -> Vec<u8> {
    [&partition_key(topic, partition)[..], &base_offset.0.to_be_bytes()].concat()
}

/// The key of a producer's stamps in a partition.
pub(crate) fn stamp_key(producer: &str, topic: TopicId, partition: PartitionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(producer.len() + 10);
    put_bytes(&mut key, producer.as_bytes());
    key.extend_from_slice(&partition_key(topic, partition));
    key
}

/// The key of a consumer's progress in a partition.
pub(crate) fn progress_key(consumer: &str, topic: TopicId, partition: PartitionId) -> Vec<u8> {
    let mut key = progress_prefix(consumer);
    key.extend_from_slice(&partition_key(topic, partition));
    key
}

/// What the keys of one consumer's progress start with.
pub(crate) fn progress_prefix(consumer: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(consumer.len() + 10);
    put_bytes(&mut key, consumer.as_bytes());
    key
}
