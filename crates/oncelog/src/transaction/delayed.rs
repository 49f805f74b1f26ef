//! Records that wait for their time: rows of the store until they are due, then records like any others.
//!
//! A row is staged by a transaction like any other row; it gets a timer id at once, and its offset when it is appended.
//! Its key begins with the time, so what is due is at the front, and ends with topic and partition, so it goes with its
//! topic.

use std::borrow::Cow;
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::engine::{EngineTx, NewRecord};
use super::staged::StoreTx;
use super::system::{self, CatalogueKey};
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, PartitionId, TimerId, TopicId};
use crate::record::{BatchBuilder, Draft, Header};
use crate::table::{Direction, ScanRange};
use crate::wake::{AtomicU64, Ordering};

type HeaderValue<'a> = Option<Cow<'a, [u8]>>;

/// A record that waits, as its row's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DelayedRow<'a> {
    #[serde(borrow)]
    key: Option<Cow<'a, [u8]>>,
    #[serde(borrow)]
    value: Option<Cow<'a, [u8]>>,
    headers: Vec<(Cow<'a, str>, HeaderValue<'a>)>,
}

/// When the next delayed record is due, and the numbers of timers.
#[derive(Debug)]
pub(crate) struct Delays {
    /// By [`order_of`]; at the most, nothing waits.
    next_due: AtomicU64,
    next_number: AtomicU64,
}

impl Delays {
    /// Before anything is known. `epoch` keeps the numbers of different openings apart: 2^40 for each.
    pub(crate) fn new(epoch: Epoch) -> Delays {
        Delays { next_due: AtomicU64::new(0), next_number: AtomicU64::new(epoch.0 << 40) }
    }

    /// When the next one is due; `None`: none waits.
    pub(crate) fn next_due(&self) -> Option<i64> {
        Some(self.next_due.load(Ordering::SeqCst)).filter(|order| *order != u64::MAX).map(time_of)
    }

    /// One more waits until then; whether it is the first of all.
    pub(super) fn add(&self, due_ms: i64) -> bool {
        self.next_due.fetch_min(order_of(due_ms), Ordering::SeqCst) > order_of(due_ms)
    }

    /// About to look which is the first: what is added meanwhile counts.
    pub(crate) fn forget(&self) {
        self.next_due.store(u64::MAX, Ordering::SeqCst);
    }

    /// This is the first, of those that were there.
    pub(crate) fn found(&self, due_ms: i64) {
        self.next_due.fetch_min(order_of(due_ms), Ordering::SeqCst);
    }
}

/// Times as numbers that sort as they do.
fn order_of(time_ms: i64) -> u64 {
    time_ms.cast_unsigned() ^ (1 << 63)
}

fn time_of(order: u64) -> i64 {
    (order ^ (1 << 63)).cast_signed()
}

/// The key of a record that waits: time, number, topic, partition.
fn key_of(timer: TimerId, topic: TopicId, partition: PartitionId) -> Vec<u8> {
    [&timer_prefix(timer)[..], &system::partition_key(topic, partition)].concat()
}

fn timer_prefix(timer: TimerId) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&order_of(timer.due_ms).to_be_bytes());
    key[8..].copy_from_slice(&timer.number.to_be_bytes());
    key
}

/// Reads what [`key_of`] wrote.
pub(crate) fn read_delayed_key(key: &[u8]) -> Option<(TimerId, TopicId, PartitionId)> {
    let (order, rest) = key.split_first_chunk::<8>()?;
    let (number, place) = rest.split_first_chunk::<8>()?;
    let (topic, partition) = system::read_partition_key(place)?;
    let timer = TimerId { due_ms: time_of(u64::from_be_bytes(*order)), number: u64::from_be_bytes(*number) };
    Some((timer, topic, partition))
}

/// The last key of those that are due at `now_ms`.
pub(crate) fn due_until(now_ms: i64) -> Vec<u8> {
    key_of(TimerId { due_ms: now_ms, number: u64::MAX }, TopicId(u32::MAX), PartitionId(u32::MAX))
}

fn malformed() -> Error {
    Error::new(ErrorKind::Corrupt, "the key of a delayed record is malformed")
}

impl StoreTx {
    /// Stages a record that waits until `due_ms`.
    pub(super) fn stage_delayed(
        &mut self,
        topic: TopicId,
        partition: Option<PartitionId>,
        due_ms: i64,
        record: NewRecord<'_>,
    ) -> Result<TimerId> {
        let (partition, name) = self.place_of(topic, partition, record.route.or(record.key))?;
        // It must fit when it is due: nobody is there to be told then.
        let draft = Draft { key: record.key, value: record.value, headers: record.headers, timestamp_ms: i64::MAX };
        let (bytes, max) = (BatchBuilder::encoded_len(&draft), self.pipeline.limits.record_bytes_max);
        if bytes > max {
            let what = format!("a record of {bytes} bytes for topic {name:?} is over the limit of {max} bytes");
            return Err(Error::invalid(format!("{what} (max_record_bytes)")));
        }
        let header =
            |header: &Header<'_>| (Cow::Owned(header.name.to_owned()), header.value.map(|v| Cow::Owned(v.to_vec())));
        let row = DelayedRow {
            key: record.key.map(Cow::Borrowed),
            value: record.value.map(Cow::Borrowed),
            headers: record.headers.iter().map(header).collect(),
        };
        let number = self.pipeline.delays.next_number.fetch_add(1, Ordering::SeqCst);
        let timer = TimerId { due_ms, number };
        let row = Bytes::from(system::encode_row(&row)?);
        self.put(system::DELAYED, system::SHARD, &key_of(timer, topic, partition), Some(row))?;
        Ok(timer)
    }

    /// Stages that the record of `timer` is not appended; `false`: it was, or there is none.
    pub(super) fn stage_cancel(&mut self, timer: TimerId) -> Result<bool> {
        let first = timer_prefix(timer);
        let last = [&first[..], &[0xff; 9]].concat();
        let (start, end) = (Bound::Included(&first[..]), Bound::Included(&last[..]));
        let range = ScanRange { start, end, direction: Direction::Up, limit: 1 };
        let found = self.scan(system::DELAYED, system::SHARD, range)?;
        let Some((key, _)) = found.first() else { return Ok(false) };
        self.put(system::DELAYED, system::SHARD, key, None)?;
        Ok(true)
    }

    /// Stages what is due: the row goes, the record is appended; nothing if it was cancelled. What waits for a topic
    /// that is deleted goes without a record.
    pub(crate) fn stage_due(&mut self, key: &[u8]) -> Result<()> {
        let Some(row) = self.get(system::DELAYED, system::SHARD, key)? else { return Ok(()) };
        let (_, topic, partition) = read_delayed_key(key).ok_or_else(malformed)?;
        if is_kept(StepSite::DueInOneStep) {
            self.put(system::DELAYED, system::SHARD, key, None)?;
        }
        if self.get(system::CATALOGUE, system::SHARD, &CatalogueKey::Topic(topic).encode())?.is_none() {
            return Ok(());
        }
        let row: DelayedRow<'_> = system::decode_borrowed(&row)?;
        let headers: Vec<_> =
            row.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let (key, value) = (row.key.as_deref(), row.value.as_deref());
        let record = NewRecord { key, route: None, value, headers: &headers, timestamp_ms: None };
        self.append(topic, Some(partition), record).map(drop)
    }

    /// When the first of the records that it has wait is due.
    pub(super) fn first_due(&self) -> Option<i64> {
        let first = (system::DELAYED, system::SHARD, Vec::new());
        let rows = self.writes.range(first..).take_while(|((table, ..), _)| *table == system::DELAYED);
        let mut waiting = rows.filter(|(_, row)| row.is_some());
        waiting.find_map(|((_, _, key), _)| read_delayed_key(key).map(|(timer, ..)| timer.due_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_by_time_and_read_back() {
        let key = |due_ms, number| key_of(TimerId { due_ms, number }, TopicId(7), PartitionId(3));
        let in_order = [key(i64::MIN, 9), key(-1, 0), key(0, 0), key(5, 1), key(5, 2), key(i64::MAX, 0)];
        assert!(in_order.is_sorted());
        let timer = TimerId { due_ms: -5, number: 77 };
        let read = read_delayed_key(&key_of(timer, TopicId(7), PartitionId(3)));
        assert_eq!(read, Some((timer, TopicId(7), PartitionId(3))));
        assert_eq!(system::topic_of_key(&key(5, 1)), Some(TopicId(7)));
        assert!(due_until(5) > key(5, u64::MAX) && due_until(5) < key(6, 0));
    }

    #[test]
    fn the_first_due_is_known_whatever_comes_between() {
        let delays = Delays::new(Epoch(3));
        assert_eq!(delays.next_due(), Some(i64::MIN), "nobody has looked yet");
        delays.forget();
        assert_eq!(delays.next_due(), None);
        assert!(delays.add(50));
        assert!(!delays.add(60));
        delays.found(55);
        assert_eq!(delays.next_due(), Some(50));
    }
}
