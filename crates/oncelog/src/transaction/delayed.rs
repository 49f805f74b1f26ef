//! Records that wait for their time: rows of the store until they are due, then records like any others.
//!
//! A row is staged by a transaction like any other row; it gets a timer id at once, and its offset when it is appended.
//! Its key begins with topic and time: what is due of a topic is at its front, and a topic that cannot take its records
//! lies in no other's way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::engine::{EngineTx, NewRecord};
use super::staged::StoreTx;
use super::system::{self, CatalogueKey};
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, PartitionId, TimerId, TopicId};
use crate::record::{BatchBuilder, Draft, Header};
use crate::table::ScanRange;
use crate::wake::{AtomicU64, Mutex, Ordering};

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

/// Where a record waits among those of its topic: its time by [`order_of`], and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    order: u64,
    number: u64,
}

/// Which topics have records that wait, where the first of each is, and the numbers of timers.
#[derive(Debug)]
pub(crate) struct Delays {
    /// The first time of those that are not held up, by [`order_of`]; at the most, there are none.
    next_due: AtomicU64,
    /// When the first of those that are held up is tried again, in nanoseconds of the monotonic clock.
    next_retry: AtomicU64,
    next_number: AtomicU64,
    topics: Mutex<BTreeMap<TopicId, Waiting>>,
}

/// No topic has this id: as long as it is among them nobody has looked which have records that wait.
pub(crate) const UNKNOWN: TopicId = TopicId(0);

/// What is known of a topic: nothing of it waits before `first`.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    first: Spot,
    /// Its topic is deleted: all goes, whenever it is due.
    is_gone: bool,
    /// It could not take its records; tried again then.
    held_until: Option<Duration>,
}

impl Waiting {
    const NOTHING: Waiting = Waiting { first: Spot::NONE, is_gone: false, held_until: None };
}

impl Spot {
    /// Before all, whenever they are due.
    pub(crate) const FIRST: Spot = Spot { order: 0, number: 0 };
    const NONE: Spot = Spot { order: u64::MAX, number: u64::MAX };

    /// Behind it.
    pub(crate) fn next(self) -> Spot {
        match self.number.checked_add(1) {
            Some(number) => Spot { number, ..self },
            None => Spot { order: self.order.saturating_add(1), number: 0 },
        }
    }

    fn of(timer: TimerId) -> Spot {
        Spot { order: order_of(timer.due_ms), number: timer.number }
    }
}

impl Delays {
    /// Before anything is known. `epoch` keeps the numbers of different openings apart: 2^40 for each.
    pub(crate) fn new(epoch: Epoch) -> Delays {
        Delays {
            next_due: AtomicU64::new(0),
            next_retry: AtomicU64::new(u64::MAX),
            next_number: AtomicU64::new(epoch.0 << 40),
            topics: Mutex::new(BTreeMap::from([(UNKNOWN, Waiting { first: Spot::FIRST, ..Waiting::NOTHING })])),
        }
    }

    /// How long until something is due, or tried again; `None`: nothing waits.
    pub(crate) fn until_due(&self, now_ms: i64, now: Duration) -> Option<Duration> {
        let (due, retry) = (self.next_due.load(Ordering::SeqCst), self.next_retry.load(Ordering::SeqCst));
        let left = |due: i64| Duration::from_millis(u64::try_from(due.saturating_sub(now_ms)).unwrap_or(0));
        let due = Some(due).filter(|due| *due != u64::MAX).map(|due| left(time_of(due)));
        let retry = Some(retry).filter(|retry| *retry != u64::MAX);
        let retry = retry.map(|retry| Duration::from_nanos(retry).saturating_sub(now));
        due.into_iter().chain(retry).min()
    }

    /// One more waits; whether it is the first of all.
    pub(super) fn add(&self, timer: TimerId) -> bool {
        self.found(timer.topic, Spot::of(timer))
    }

    /// Something of the topic may wait there; whether that is the first of all.
    pub(crate) fn found(&self, topic: TopicId, spot: Spot) -> bool {
        let mut topics = self.topics.lock();
        let waiting = topics.entry(topic).or_insert(Waiting::NOTHING);
        waiting.first = waiting.first.min(spot);
        let order = if waiting.is_gone { 0 } else { spot.order };
        waiting.held_until.is_none() && self.next_due.fetch_min(order, Ordering::SeqCst) > order
    }

    /// The topic is deleted, and what waits for it from there on goes with the next turns.
    pub(crate) fn found_gone(&self, topic: TopicId, spot: Spot) {
        let mut topics = self.topics.lock();
        let waiting = topics.entry(topic).or_insert(Waiting::NOTHING);
        *waiting = Waiting { first: waiting.first.min(spot), is_gone: true, held_until: None };
        self.next_due.store(0, Ordering::SeqCst);
    }

    /// The topic could not take its records, of which `spot` is the first: tried again at `until`.
    pub(crate) fn hold(&self, topic: TopicId, spot: Spot, until: Duration) {
        let mut topics = self.topics.lock();
        let waiting = topics.entry(topic).or_insert(Waiting::NOTHING);
        *waiting = Waiting { first: waiting.first.min(spot), held_until: Some(until), ..*waiting };
        self.count(&topics);
    }

    /// How many topics are held up.
    pub(crate) fn held(&self) -> usize {
        self.topics.lock().values().filter(|waiting| waiting.held_until.is_some()).count()
    }

    /// Those that are held up are tried again at once.
    pub(crate) fn retry_all(&self) {
        let mut topics = self.topics.lock();
        topics.values_mut().for_each(|waiting| waiting.held_until = None);
        self.count(&topics);
    }

    /// Whether it is to be looked now which topics have records that wait; whoever asks does.
    pub(crate) fn take_unknown(&self, now: Duration) -> bool {
        let mut topics = self.topics.lock();
        let is_due = |waiting: &Waiting| waiting.held_until.is_none_or(|until| until <= now);
        topics.get(&UNKNOWN).is_some_and(is_due) && topics.remove(&UNKNOWN).is_some()
    }

    /// Up to `max` topics that have something due, the first behind `last` first, and where it is. What is added to
    /// them from now on is known besides what [`Delays::found`] says afterwards.
    pub(crate) fn take_due(&self, now_ms: i64, now: Duration, last: TopicId, max: usize) -> Vec<(TopicId, Spot)> {
        let mut topics = self.topics.lock();
        let is_due = |waiting: &Waiting| {
            let is_due = waiting.is_gone || waiting.first.order <= order_of(now_ms);
            is_due && waiting.held_until.is_none_or(|until| until <= now)
        };
        let behind = topics.range((Bound::Excluded(last), Bound::Unbounded)).chain(topics.range(..=last));
        let due = behind.filter(|(topic, waiting)| **topic != UNKNOWN && is_due(waiting)).take(max);
        let due: Vec<_> = due.map(|(topic, waiting)| (*topic, waiting.first)).collect();
        for (topic, _) in &due {
            topics.insert(*topic, Waiting::NOTHING);
        }
        due
    }

    /// What was taken is found or held again by now: forgets topics of which nothing waits, and what is next is known.
    pub(crate) fn settle(&self) {
        let mut topics = self.topics.lock();
        topics.retain(|_, waiting| waiting.first != Spot::NONE);
        self.count(&topics);
    }

    fn count(&self, topics: &BTreeMap<TopicId, Waiting>) {
        let free = topics.values().filter(|waiting| waiting.held_until.is_none());
        let free = free.map(|waiting| if waiting.is_gone { 0 } else { waiting.first.order });
        self.next_due.store(free.min().unwrap_or(u64::MAX), Ordering::SeqCst);
        let held = topics.values().filter_map(|waiting| waiting.held_until).min();
        let held = held.map_or(u64::MAX, |until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
        self.next_retry.store(held, Ordering::SeqCst);
    }
}

/// Times as numbers that sort as they do.
fn order_of(time_ms: i64) -> u64 {
    time_ms.cast_unsigned() ^ (1 << 63)
}

fn time_of(order: u64) -> i64 {
    (order ^ (1 << 63)).cast_signed()
}

/// The key of a record that waits: topic, time, number, partition.
fn key_of(timer: TimerId, partition: PartitionId) -> Vec<u8> {
    [&first_key(timer.topic, Spot::of(timer))[..], &partition.0.to_be_bytes()].concat()
}

/// No key of the topic from there on is before it.
pub(crate) fn first_key(topic: TopicId, spot: Spot) -> Vec<u8> {
    [&topic.0.to_be_bytes()[..], &spot.order.to_be_bytes(), &spot.number.to_be_bytes()].concat()
}

/// No key of the topic that is due at `now_ms` is behind it; `None`: whenever it is due.
pub(crate) fn last_key(topic: TopicId, now_ms: Option<i64>) -> Vec<u8> {
    let order = now_ms.map_or(u64::MAX, order_of);
    [&first_key(topic, Spot { order, number: u64::MAX })[..], &[0xff; 4]].concat()
}

/// Reads what [`key_of`] wrote.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn read_delayed_key(key: &[u8]) -> Result<(TimerId, PartitionId)> {
    let read = || {
        let (topic, rest) = key.split_first_chunk()?;
        let (order, rest) = rest.split_first_chunk()?;
        let (number, partition) = rest.split_first_chunk()?;
        let due_ms = time_of(u64::from_be_bytes(*order));
        let topic = TopicId(u32::from_be_bytes(*topic));
        let timer = TimerId { topic, due_ms, number: u64::from_be_bytes(*number) };
        Some((timer, PartitionId(u32::from_be_bytes(partition.try_into().ok()?))))
    };
    read().ok_or_else(|| Error::new(ErrorKind::Corrupt, "the key of a delayed record is malformed"))
}

/// Where a record of that key waits.
pub(crate) fn spot_of_key(key: &[u8]) -> Result<Spot> {
    Ok(Spot::of(read_delayed_key(key)?.0))
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
        let (partition, name) = self.place_of(topic, partition, &record)?;
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
        let timer = TimerId { topic, due_ms, number };
        let row = Bytes::from(system::encode_row(&row)?);
        self.put(system::DELAYED, system::SHARD, &key_of(timer, partition), Some(row))?;
        Ok(timer)
    }

    /// Stages that the record of `timer` is not appended; `false`: it was, or there is none.
    pub(super) fn stage_cancel(&mut self, timer: TimerId) -> Result<bool> {
        let first = first_key(timer.topic, Spot::of(timer));
        let last = [&first[..], &[0xff; 4]].concat();
        let range = ScanRange::between(Bound::Included(&first), Bound::Included(&last));
        let found = self.scan(system::DELAYED, system::SHARD, ScanRange { limit: 1, ..range })?;
        let Some((key, _)) = found.first() else { return Ok(false) };
        self.put(system::DELAYED, system::SHARD, key, None)?;
        Ok(true)
    }

    /// Whether the topic is in the catalogue; if that changes before the commit, it is a `Conflict`.
    pub(crate) fn has_topic(&mut self, topic: TopicId) -> Result<bool> {
        Ok(self.get(system::CATALOGUE, system::SHARD, &CatalogueKey::Topic(topic).encode())?.is_some())
    }

    /// Stages what is due: the row goes, the record is appended; nothing if it was cancelled. It was within the limits
    /// when it was delayed.
    pub(crate) fn stage_due(&mut self, key: &[u8]) -> Result<()> {
        let Some(row) = self.get(system::DELAYED, system::SHARD, key)? else { return Ok(()) };
        let (timer, partition) = read_delayed_key(key)?;
        let row: DelayedRow<'_> = system::decode_borrowed(&row)?;
        let headers: Vec<_> =
            row.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let (record_key, value) = (row.key.as_deref(), row.value.as_deref());
        let record = NewRecord { key: record_key, route: None, value, headers: &headers, timestamp_ms: None };
        self.admit();
        self.append(timer.topic, Some(partition), record)?;
        if is_kept(StepSite::DueInOneStep) { self.forget_waiting(key) } else { Ok(()) }
    }

    /// Stages that a record waits no more.
    pub(crate) fn forget_waiting(&mut self, key: &[u8]) -> Result<()> {
        self.admit();
        self.put(system::DELAYED, system::SHARD, key, None)
    }

    /// The records that it has wait.
    pub(super) fn timers(&self) -> Vec<TimerId> {
        if self.writes.is_empty() {
            // Most commits: plain appends.
            return Vec::new();
        }
        let first = (system::DELAYED, system::SHARD, Vec::new());
        let rows = self.writes.range(first..).take_while(|((table, ..), _)| *table == system::DELAYED);
        let waiting = rows.filter(|(_, row)| row.is_some());
        waiting.filter_map(|((_, _, key), _)| Some(read_delayed_key(key).ok()?.0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: TopicId = TopicId(1);
    const TWO: TopicId = TopicId(2);
    const NOW: Duration = Duration::from_secs(100);

    fn timer(topic: TopicId, due_ms: i64, number: u64) -> TimerId {
        TimerId { topic, due_ms, number }
    }

    #[test]
    fn keys_sort_by_topic_and_time_and_read_back() {
        let key = |topic, due_ms, number| key_of(timer(topic, due_ms, number), PartitionId(3));
        let in_order = [key(ONE, i64::MIN, 9), key(ONE, -1, 0), key(ONE, 5, 1), key(ONE, 5, 2), key(TWO, -9, 0)];
        assert!(in_order.is_sorted());
        let read = read_delayed_key(&key(TWO, -5, 77)).unwrap();
        assert_eq!(read, (timer(TWO, -5, 77), PartitionId(3)));
        assert!(last_key(ONE, Some(5)) > key(ONE, 5, u64::MAX) && last_key(ONE, Some(5)) < key(ONE, 6, 0));
        assert!(last_key(ONE, None) > key(ONE, i64::MAX, 7) && last_key(ONE, None) < key(TWO, i64::MIN, 0));
        assert!(first_key(ONE, Spot::of(timer(ONE, 5, 1)).next()) <= key(ONE, 5, 2));
        assert_eq!(read_delayed_key(&key(ONE, 5, 1)[1..]).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn the_first_due_is_known_whatever_comes_between() {
        let delays = Delays::new(Epoch(3));
        assert_eq!(delays.until_due(7, NOW), Some(Duration::ZERO), "nobody has looked yet");
        assert!(delays.take_unknown(NOW) && !delays.take_unknown(NOW));
        delays.settle();
        assert_eq!(delays.until_due(7, NOW), None);
        assert!(delays.add(timer(ONE, 50, 0)));
        assert!(!delays.add(timer(TWO, 60, 1)));
        assert_eq!(delays.until_due(7, NOW), Some(Duration::from_millis(43)));
        assert_eq!(delays.take_due(49, NOW, TopicId(0), 9), []);
        let taken = delays.take_due(60, NOW, ONE, 9);
        assert_eq!(taken.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), [TWO, ONE], "in turn");
        // What comes while they are looked at is not forgotten.
        delays.add(timer(TWO, 55, 2));
        delays.settle();
        assert_eq!(delays.take_due(60, NOW, ONE, 9), [(TWO, Spot::of(timer(TWO, 55, 2)))]);
    }

    #[test]
    fn what_is_held_up_waits_by_the_monotonic_clock_and_is_in_nobodys_way() {
        let delays = Delays::new(Epoch(3));
        assert!(delays.take_unknown(NOW));
        delays.settle();
        delays.add(timer(ONE, 50, 0));
        delays.hold(ONE, Spot::of(timer(ONE, 50, 0)), NOW + Duration::from_secs(1));
        assert!(!delays.add(timer(ONE, 40, 1)), "it does not get it tried sooner");
        assert_eq!((delays.held(), delays.until_due(90, NOW)), (1, Some(Duration::from_secs(1))));
        assert!(delays.add(timer(TWO, 95, 2)));
        assert_eq!(delays.until_due(90, NOW), Some(Duration::from_millis(5)));
        assert_eq!(delays.take_due(i64::MAX, NOW, TWO, 9).len(), 1);
        delays.settle();
        let later = NOW + Duration::from_secs(1);
        assert_eq!(delays.take_due(90, later, TWO, 9), [(ONE, Spot::of(timer(ONE, 40, 1)))]);
    }
}
