//! What there is in a store: its topics, tables and consumers, read from the store's own rows page by page.

use std::ops::Bound;

use super::{Core, Store};
use crate::codec::Input;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, ProducerEpoch, Sequence, TableId, TopicId};
use crate::producer::StampState;
use crate::table::{ScanRange, TableSpec};
use crate::topic::TopicSpec;
use crate::transaction::system::{self, CatalogueKey};

/// Rows read at once.
const PAGE_ROWS: usize = 1024;

/// How far a consumer has come in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerProgress {
    /// The consumer's id.
    pub consumer: String,
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset that it will read.
    pub next: LogOffset,
}

/// What is known of one producer in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducerProgress {
    /// The producer's name; of messages that a [`Coordinator`](crate::Coordinator) takes in, that of its backend, a
    /// `/`, and the producer's.
    pub producer: String,
    /// Whether it sends to a coordinator.
    pub coordinated: bool,
    /// The topic that it appends to; `None` for stamps on transactions.
    pub topic: Option<String>,
    /// The partition, or the producer's own number of a stream.
    pub partition: PartitionId,
    /// The newest generation; 0 where there are none.
    pub epoch: ProducerEpoch,
    /// All sequences before it are stored.
    pub next: Sequence,
    /// The last batches, five at most, oldest first.
    pub recent: Vec<RecentBatch>,
}

/// A batch that a producer sent lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecentBatch {
    /// Its first sequence.
    pub first: Sequence,
    /// How many records or messages it has.
    pub count: u32,
    /// Where its first record is; `None` for a stamp that is tied to no records.
    pub offset: Option<LogOffset>,
}

/// One partition of a topic, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionInfo {
    /// Its number.
    pub partition: PartitionId,
    /// The first offset that is kept.
    pub start: LogOffset,
    /// The offset behind the last visible record.
    pub end: LogOffset,
    /// How many segment files hold it.
    pub segments: usize,
    /// Bytes of records in these files, heads included.
    pub bytes: u64,
    /// Of a compacted topic: bytes of older files that were not compacted yet.
    pub dirty_bytes: u64,
    /// Of a compacted topic: below this offset each key is once.
    pub compacted: LogOffset,
}

impl Store {
    /// All topics, by id.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`.
    pub fn topics(&self) -> Result<Vec<(TopicId, TopicSpec)>> {
        let all = (CatalogueKey::Topic(TopicId(0)).encode(), CatalogueKey::Topic(TopicId(u32::MAX)).encode());
        self.inner.core.catalogue(&all.0, &all.1, |key, row| match CatalogueKey::decode(key) {
            Some(CatalogueKey::Topic(id)) => Ok((id, system::decode_row(row)?)),
            _ => Err(malformed("catalogue")),
        })
    }

    /// All tables, by id.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`.
    pub fn tables(&self) -> Result<Vec<(TableId, TableSpec)>> {
        let all = (CatalogueKey::Table(TableId(0)).encode(), CatalogueKey::Table(TableId(u32::MAX)).encode());
        self.inner.core.catalogue(&all.0, &all.1, |key, row| match CatalogueKey::decode(key) {
            Some(CatalogueKey::Table(id)) => Ok((id, system::decode_row(row)?)),
            _ => Err(malformed("catalogue")),
        })
    }

    /// How far every consumer has come in every partition that it has read from, by consumer.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`.
    pub fn consumers(&self) -> Result<Vec<ConsumerProgress>> {
        let core = &self.inner.core;
        core.check_open()?;
        let names: std::collections::BTreeMap<_, _> =
            self.topics()?.into_iter().map(|(id, spec)| (id, spec.name)).collect();
        let mut found = Vec::new();
        core.each_row(system::PROGRESS, Bound::Unbounded, Bound::Unbounded, |key, row| {
            let (consumer, topic, partition) = read_progress_key(key).ok_or_else(|| malformed("progress"))?;
            let name = match names.get(&topic) {
                Some(name) => name.clone(),
                None => match core.input(topic) {
                    Ok(topic) => topic.name().to_owned(),
                    // Another owner has deleted it.
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                    Err(error) => return Err(error),
                },
            };
            let (consumer, next) = (consumer.to_owned(), system::decode_row(row)?);
            found.push(ConsumerProgress { consumer, topic: name, partition, next });
            Ok(())
        })?;
        Ok(found)
    }

    /// What is known of every producer with stamps, in each partition that it has sent to, by name.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`.
    pub fn producers(&self) -> Result<Vec<ProducerProgress>> {
        let core = &self.inner.core;
        core.check_open()?;
        let names: std::collections::BTreeMap<_, _> =
            self.topics()?.into_iter().map(|(id, spec)| (id, spec.name)).collect();
        let mut found = Vec::new();
        core.each_row(system::STAMPS, Bound::Unbounded, Bound::Unbounded, |key, row| {
            let (producer, topic, partition) = read_progress_key(key).ok_or_else(|| malformed("stamps"))?;
            let coordinated = topic == TopicId::COORDINATED;
            let topic = match (topic, names.get(&topic)) {
                (TopicId::STAMPED | TopicId::COORDINATED, _) => None,
                (_, Some(name)) => Some(name.clone()),
                // It was deleted since its name was read.
                (_, None) => return Ok(()),
            };
            let state: StampState = system::decode_row(row)?;
            let recent = state.recent().map(|(first, count, offset)| RecentBatch { first, count, offset }).collect();
            let (producer, epoch, next) = (producer.to_owned(), state.epoch, state.next);
            found.push(ProducerProgress { producer, coordinated, topic, partition, epoch, next, recent });
            Ok(())
        })?;
        Ok(found)
    }

    /// The partitions of a topic.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Corrupt`, `Closed`.
    pub fn describe_topic(&self, topic: &str) -> Result<Vec<PartitionInfo>> {
        let core = &self.inner.core;
        core.check_open()?;
        let visible = core.pipeline.view.visible();
        let topic = core.topic(topic)?;
        let describe = |partition: &crate::wake::Arc<crate::topic::Partition>| {
            let (segments, bytes) = partition.size();
            PartitionInfo {
                partition: partition.id,
                start: partition.start(),
                end: partition.end_at(visible),
                segments,
                bytes,
                dirty_bytes: partition.dirt().dirty,
                compacted: partition.compacted(),
            }
        };
        Ok(topic.partitions.iter().map(describe).collect())
    }
}

impl Core {
    fn catalogue<T>(&self, first: &[u8], last: &[u8], read: impl Fn(&[u8], &[u8]) -> Result<T>) -> Result<Vec<T>> {
        self.check_open()?;
        let mut found = Vec::new();
        self.each_row(system::CATALOGUE, Bound::Included(first), Bound::Included(last), |key, row| {
            found.push(read(key, row)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Hands the visible rows of a range of one of the store's own tables to `visit`, in key order.
    pub(super) fn each_row(
        &self,
        table: TableId,
        first: Bound<&[u8]>,
        last: Bound<&[u8]>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let visible = self.pin_visible();
        let rows = self.tables.shard(table, system::SHARD);
        let mut from = first.map(<[u8]>::to_vec);
        loop {
            let range = ScanRange::between(from.as_ref().map(Vec::as_slice), last);
            let page = rows.scan(ScanRange { limit: PAGE_ROWS, ..range }, visible.lsn())?;
            for (key, row) in &page {
                visit(key, row)?;
            }
            match page.into_iter().nth(PAGE_ROWS - 1) {
                Some((key, _)) => from = Bound::Excluded(key),
                None => return Ok(()),
            }
        }
    }
}

pub(super) fn read_progress_key(key: &[u8]) -> Option<(&str, TopicId, PartitionId)> {
    let mut input = Input::new(key);
    let consumer = std::str::from_utf8(input.bytes()?).ok()?;
    let (topic, partition) = system::read_partition_key(input.take(8)?)?;
    Some((consumer, topic, partition))
}

fn malformed(table: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a row of the {table} is malformed"))
}
