//! The records of topics from where a consumer stands.
//!
//! Invariants: an id is claimed by one opening at a time, for as long as one of its sources lives. Where a remembered
//! consumer begins is committed before its first record is handed out, so it never begins anywhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::task::Waker;
use std::time::Duration;

use super::claims::Name;
use super::input::Input;
use super::reader::{ForeignTopic, PartitionCursor, TopicInfo, Watcher, no_partition};
use super::{Core, Store};
use crate::consumer::{GapPolicy, Visibility, Whence};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};

use crate::record::{Batch, RecordView};
use crate::topic::{Partition, PartitionReader, Polled};
use crate::transaction::{EngineTx, Fetched, Source, SourceSpec, Step, system};
use crate::wake::{Arc, Registered};

/// A consumer's cursors, one for each partition; shares the claim on the consumer's id with its sisters.
pub(super) struct StoreSource {
    store: Store,
    visibility: Visibility,
    gaps: GapPolicy,
    cursors: Vec<Cursor>,
    /// Where the next poll begins, so that no partition starves.
    turn: usize,
    /// The cursor whose batch was found and not yet handed out.
    found: Option<usize>,
    gap: Option<(TopicId, PartitionId, Range<LogOffset>)>,
    _claim: Option<Arc<IdClaim>>,
    registered: Registered,
    /// Of the owners of its cursors, from the first wait on.
    watchers: Vec<Arc<Watcher>>,
}

struct Cursor {
    topic: TopicId,
    topic_name: String,
    partition: PartitionId,
    /// The next record to hand out.
    next: LogOffset,
    /// It is not to be handed out now.
    is_held: bool,
    reading: Reading,
}

/// Where a cursor's records come from.
enum Reading {
    Own(PartitionReader),
    /// Another owner's topic, by its page and its files, or by a recovery in memory while nobody has that owner.
    Foreign(Arc<ForeignTopic>, Box<PartitionCursor>),
}

/// How long a source waits for several owners at once before it looks again, where there is no thread to watch them.
const LOOK_AT_ALL: Duration = Duration::from_millis(2);

/// What one handle at a time may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimed {
    /// A consumer id, over all topics.
    Id(String),
    /// The place of the global consumer of a topic.
    Global(TopicId),
}

/// The claim on a consumer's id, given back when it is dropped.
struct IdClaim {
    store: Store,
    claimed: Vec<Claimed>,
}

/// A partition to be read.
struct Place {
    topic: TopicId,
    topic_name: String,
    partition: PartitionId,
    of: Of,
}

enum Of {
    Own(Arc<Partition>),
    Foreign(Arc<ForeignTopic>),
}

/// Why a cursor stopped.
enum Stopped {
    Drained,
    ByVisitor,
}

impl IdClaim {
    fn take(store: &Store, consumer: &str, topics: &[Input]) -> Result<IdClaim> {
        let core = &store.inner.core;
        let wanted = match consumer {
            "" => topics.iter().map(|topic| Claimed::Global(topic.id())).collect(),
            id => vec![Claimed::Id(id.to_owned())],
        };
        let mut held = core.consumers.lock();
        let name_of = |id: &TopicId| topics.iter().find(|topic| topic.id() == *id).map_or("", Input::name);
        if let Some(taken) = wanted.iter().find(|claimed| held.contains(claimed)) {
            let what = match taken {
                Claimed::Id(id) => format!("consumer {id:?} is at work already"),
                Claimed::Global(id) => format!("the global consumer of topic {:?} is at work already", name_of(id)),
            };
            return Err(Error::locked(&core.layout.dir, what, Some(std::process::id())));
        }
        let names = wanted.iter().map(|claimed| match claimed {
            Claimed::Id(id) => Name::Consumer(id),
            Claimed::Global(id) => Name::Global(*id, name_of(id)),
        });
        core.claim_consumers(&names.collect::<Vec<_>>())?;
        held.extend(wanted.iter().cloned());
        Ok(IdClaim { store: store.clone(), claimed: wanted })
    }
}

impl Drop for IdClaim {
    fn drop(&mut self) {
        let mut held = self.store.inner.core.consumers.lock();
        self.claimed.iter().for_each(|claimed| {
            held.remove(claimed);
        });
    }
}

impl Drop for StoreSource {
    fn drop(&mut self) {
        self.forget_waker();
    }
}

impl StoreSource {
    /// See [`Engine::sources`](crate::transaction::Engine::sources).
    pub(super) fn open(store: &Store, spec: &SourceSpec<'_>, count: usize) -> Result<Vec<StoreSource>> {
        let core = &store.inner.core;
        core.check_open()?;
        let topics = spec.topics.iter().map(|id| core.input(*id)).collect::<Result<Vec<_>>>()?;
        refuse_written(&topics, spec.visibility)?;
        let places = places(&topics, spec.partitions)?;
        let claim = spec.consumer.map(|consumer| IdClaim::take(store, consumer, &topics).map(Arc::new)).transpose()?;
        let starts = match spec.consumer {
            Some(consumer) => core.resume(consumer, &places, spec)?,
            None => core.resolve_all(&places, spec)?,
        };
        let count = count.clamp(1, topics.iter().map(Input::partitions).max().unwrap_or(1) as usize);
        let source = |_| StoreSource {
            store: store.clone(),
            visibility: spec.visibility,
            gaps: spec.gaps,
            cursors: Vec::new(),
            turn: 0,
            found: None,
            gap: None,
            _claim: claim.clone(),
            registered: Registered::default(),
            watchers: Vec::new(),
        };
        let mut sources: Vec<StoreSource> = (0..count).map(source).collect();
        for (place, next) in places.into_iter().zip(starts) {
            sources[place.partition.0 as usize % count].cursors.push(place.cursor(next));
        }
        Ok(sources)
    }

    fn shown(&self) -> Lsn {
        self.store.inner.core.shown(self.visibility)
    }

    /// Reads a batch of the partition whose turn it is; gives which one, `None` when there is nothing more.
    fn advance(&mut self) -> Result<Option<usize>> {
        let core = &self.store.inner.core;
        core.check_open()?;
        self.gap = None;
        self.cursors.iter().try_for_each(Cursor::check_there)?;
        let shown = core.shown(self.visibility);
        let (from, count) = (self.turn, self.cursors.len());
        let mut step = 0;
        while step < count {
            let at = (from + step) % count;
            let cursor = &mut self.cursors[at];
            if cursor.is_held {
                step += 1;
                continue;
            }
            match cursor.advance(shown)? {
                Polled::Batch => {
                    self.turn = at + 1;
                    return Ok(Some(at));
                }
                Polled::End => step += 1,
                Polled::Gap(lost) => {
                    let error = Error::lost(&cursor.topic_name, cursor.partition.0, lost.clone());
                    match self.gaps {
                        GapPolicy::Skip => {
                            tracing::warn!(%error, "a consumer goes on behind records that are lost");
                            cursor.next = lost.end;
                        }
                        _ => {
                            self.gap = Some((cursor.topic, cursor.partition, lost));
                            return Err(error);
                        }
                    }
                }
            }
        }
        Ok(None)
    }

    fn has_more(&self) -> bool {
        let shown = self.shown();
        let news = |cursor: &Cursor| cursor.check_there().and_then(|()| cursor.end(shown));
        // An error is news too: the next poll meets it.
        let mut free = self.cursors.iter().filter(|cursor| !cursor.is_held);
        free.any(|cursor| news(cursor).map_or(true, |end| end > cursor.next))
    }

    /// Has the owners of its cursors watched, so that what they show is news here; `false` where there is no thread to
    /// do it.
    fn is_woken(&mut self) -> bool {
        let core = &self.store.inner.core;
        if !self.watchers.is_empty() {
            return true;
        }
        let foreign = self.cursors.iter().filter_map(|cursor| match &cursor.reading {
            Reading::Own(_) => None,
            Reading::Foreign(topic, _) => Some(topic),
        });
        let mut owners = BTreeMap::new();
        owners.extend(foreign.map(|topic| (&topic.info.owner, topic)));
        if owners.is_empty() {
            return true;
        }
        if core.options.manual_duties {
            return false;
        }
        let watch = |topic: &Arc<ForeignTopic>| topic.watch(&core.foreign.watchers, &core.pipeline.view);
        match owners.into_values().map(watch).collect::<Result<Vec<_>>>() {
            Ok(watchers) => {
                self.watchers = watchers;
                true
            }
            Err(error) => {
                tracing::warn!(%error, "other owners are looked at now and then");
                false
            }
        }
    }

    /// Waits without being woken, by the store's clock: where no thread of the store is at work, nothing comes but by
    /// the caller, unless the caller has threads of its own.
    fn look_until(&self, limit: Duration, enough: &dyn Fn() -> bool) {
        let core = &self.store.inner.core;
        let clock = &core.options.clock;
        let deadline = clock.monotonic().saturating_add(limit);
        while !self.has_more() && core.check_open().is_ok() && !enough() {
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return;
            }
            clock.sleep(left.min(LOOK_AT_ALL.max(limit / 32)));
        }
    }

    /// The one other owner's topic that all of it is about; `None`: there are several, or some of it is our own.
    fn only_foreign(&self) -> Option<&Arc<ForeignTopic>> {
        let mut only = None;
        for cursor in &self.cursors {
            match (&cursor.reading, only) {
                (Reading::Foreign(topic, _), None) => only = Some(topic),
                (Reading::Foreign(topic, _), Some(found)) if found.info.owner == topic.info.owner => {}
                _ => return None,
            }
        }
        only
    }
}

/// The partitions that are asked for, topic by topic.
fn places(topics: &[Input], partitions: Option<&[PartitionId]>) -> Result<Vec<Place>> {
    let mut ids = BTreeSet::new();
    let mut places = Vec::new();
    for topic in topics {
        if !ids.insert(topic.id()) {
            return Err(Error::invalid(format!("topic {:?} is named twice", topic.name())));
        }
        let chosen: BTreeSet<PartitionId> = match partitions {
            None => (0..topic.partitions()).map(PartitionId).collect(),
            Some(chosen) => chosen.iter().copied().collect(),
        };
        for partition in chosen {
            let of = match topic {
                Input::Own(topic) => Of::Own(Arc::clone(topic.partition(partition)?)),
                Input::Foreign(topic) if partition.0 < topic.info.partitions => Of::Foreign(Arc::clone(topic)),
                Input::Foreign(topic) => return Err(no_partition(&topic.info, partition)),
            };
            places.push(Place { topic: topic.id(), topic_name: topic.name().to_owned(), partition, of });
        }
    }
    Ok(places)
}

/// What another owner has written and not made durable cannot be seen from here.
fn refuse_written(topics: &[Input], visibility: Visibility) -> Result<()> {
    let foreign = topics.iter().find_map(|topic| match topic {
        Input::Foreign(topic) if visibility == Visibility::Written => Some(&topic.info),
        _ => None,
    });
    foreign.map_or(Ok(()), |TopicInfo { name, owner, .. }| {
        let what = format!(
            "topic {name:?} belongs to owner {owner:?}: others see of it what is durable, not what is \
                            only written"
        );
        Err(Error::invalid(what))
    })
}

impl Core {
    fn shown(&self, visibility: Visibility) -> Lsn {
        match visibility {
            Visibility::Durable => self.pipeline.view.visible(),
            Visibility::Written => self.pipeline.view.written(),
        }
    }

    /// Where `consumer` stands in each place. Where it has never been, `whence` is resolved and committed, so that
    /// neither a restart nor retention changes where it begins.
    fn resume(&self, consumer: &str, places: &[Place], spec: &SourceSpec<'_>) -> Result<Vec<LogOffset>> {
        loop {
            let mut tx = self.begin();
            let mut starts = Vec::with_capacity(places.len());
            let shown = self.shown(spec.visibility);
            for place in places {
                let Place { topic, partition, .. } = *place;
                let key = system::progress_key(consumer, topic, partition);
                starts.push(match tx.get(system::PROGRESS, system::SHARD, &key)? {
                    Some(row) => system::decode_row(&row)?,
                    None => {
                        let start = place.resolve(spec.whence, shown)?;
                        tx.progress(consumer, topic, partition, start)?;
                        start
                    }
                });
            }
            // Waits also when there was nothing to write: what it read may be on its way to the disk.
            match Box::new(tx).submit().and_then(|pending| pending.wait()) {
                Ok(_) => return Ok(starts),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn resolve_all(&self, places: &[Place], spec: &SourceSpec<'_>) -> Result<Vec<LogOffset>> {
        let shown = self.shown(spec.visibility);
        places.iter().map(|place| place.resolve(spec.whence, shown)).collect()
    }
}

impl Place {
    fn resolve(&self, whence: Whence, shown: Lsn) -> Result<LogOffset> {
        let partition = match &self.of {
            Of::Own(partition) => partition,
            Of::Foreign(topic) => return topic.resolve(self.partition, whence),
        };
        let end = partition.end_at(shown);
        match whence {
            Whence::Oldest => Ok(partition.start()),
            Whence::Latest => Ok(end),
            Whence::Position(position) if position > end => {
                let (name, id) = (&self.topic_name, self.partition);
                let what = format!("topic {name:?}, partition {id}: position {position} is behind the end, {end}");
                Err(Error::invalid(what))
            }
            Whence::Position(position) => Ok(position),
            Whence::Time(timestamp_ms) => partition.offset_at_time(timestamp_ms, end),
        }
    }

    fn cursor(self, next: LogOffset) -> Cursor {
        let Place { topic, topic_name, partition, of } = self;
        let reading = match of {
            Of::Own(of) => Reading::Own(PartitionReader::new(of, next)),
            Of::Foreign(of) => {
                let cursor = Box::new(of.cursor(partition, next));
                Reading::Foreign(of, cursor)
            }
        };
        Cursor { topic, topic_name, partition, next, is_held: false, reading }
    }
}

impl Reading {
    fn current(&self) -> Result<Batch<'_>> {
        match self {
            Reading::Own(reader) => reader.current(),
            Reading::Foreign(_, cursor) => cursor.current(),
        }
    }
}

impl Cursor {
    /// Whether the topic was deleted. One of another owner says so when its end is asked for.
    fn check_there(&self) -> Result<()> {
        match &self.reading {
            Reading::Own(reader) => reader.partition().check_there(),
            Reading::Foreign(..) => Ok(()),
        }
    }

    /// The offset behind the last record to be handed out now. While another owner is being opened there is nothing
    /// more of it: it has its reasons to take long, and whoever reads it goes on when it serves.
    fn end(&self, shown: Lsn) -> Result<LogOffset> {
        match &self.reading {
            Reading::Own(reader) => Ok(reader.partition().end_at(shown)),
            Reading::Foreign(topic, _) => match topic.watched(self.partition) {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::debug!(%error, "nothing to be read of another owner for now");
                    Ok(self.next)
                }
                watched => Ok(watched?.end),
            },
        }
    }

    /// Finds the batch with the next record.
    fn advance(&mut self, shown: Lsn) -> Result<Polled> {
        let limit = self.end(shown)?;
        if self.next >= limit {
            match &mut self.reading {
                Reading::Own(reader) => reader.rest(),
                Reading::Foreign(_, cursor) => cursor.rest(),
            }
            return Ok(Polled::End);
        }
        match &mut self.reading {
            Reading::Own(reader) => {
                reader.seek(self.next);
                reader.poll(limit)
            }
            Reading::Foreign(_, cursor) => {
                cursor.next = self.next;
                match cursor.advance(limit) {
                    Err(error) if error.kind() == ErrorKind::Unavailable => Ok(Polled::End),
                    polled => polled,
                }
            }
        }
    }

    /// Hands out the records of the current batch.
    fn visit(
        &mut self,
        done: &mut u64,
        visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>,
    ) -> Result<Stopped> {
        let batch = self.reading.current()?;
        let behind = batch.next_offset();
        for record in Fetched::new(self.topic, &self.topic_name, self.partition, self.next, batch) {
            let record = record?;
            match visit(self.topic, self.partition, record)? {
                Step::Stay => return Ok(Stopped::ByVisitor),
                step => {
                    self.next = record.offset.plus(1);
                    *done += 1;
                    if step == Step::NextAndReturn {
                        return Ok(Stopped::ByVisitor);
                    }
                }
            }
        }
        self.next = behind;
        Ok(Stopped::Drained)
    }
}

impl Source for StoreSource {
    fn positions(&self) -> Vec<(TopicId, PartitionId, LogOffset)> {
        self.cursors.iter().map(|cursor| (cursor.topic, cursor.partition, cursor.next)).collect()
    }

    fn poll(&mut self, visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>) -> Result<u64> {
        let mut done = 0;
        while let Some(at) = self.advance()? {
            match self.cursors[at].visit(&mut done, visit) {
                Ok(Stopped::Drained) => {}
                stopped => {
                    // The same partition again: its batch is not done with.
                    self.turn = at;
                    return stopped.map(|_| done);
                }
            }
        }
        Ok(done)
    }

    fn find_batch(&mut self) -> Result<bool> {
        self.found = None;
        self.found = self.advance()?;
        Ok(self.found.is_some())
    }

    fn found_batch(&mut self) -> Result<Fetched<'_>> {
        let found = self.found.take().and_then(|at| self.cursors.get_mut(at));
        let cursor = found.ok_or_else(|| Error::invalid("no records were looked for, or none found"))?;
        let from = cursor.next;
        let batch = cursor.reading.current()?;
        cursor.next = batch.next_offset();
        Ok(Fetched::new(cursor.topic, &cursor.topic_name, cursor.partition, from, batch))
    }

    fn hold(&mut self, held: &[(TopicId, PartitionId)]) {
        for cursor in &mut self.cursors {
            cursor.is_held = held.contains(&(cursor.topic, cursor.partition));
        }
    }

    fn seek(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) {
        for cursor in &mut self.cursors {
            if cursor.topic == topic && cursor.partition == partition {
                cursor.next = next;
            }
        }
    }

    fn gap(&self) -> Option<(TopicId, PartitionId, Range<LogOffset>)> {
        self.gap.clone()
    }

    fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        let is_woken = self.is_woken();
        if self.store.inner.core.options.manual_duties {
            return self.look_until(limit, enough);
        }
        let core = &self.store.inner.core;
        let ready = || self.has_more() || core.check_open().is_err() || enough();
        match self.only_foreign() {
            _ if is_woken => core.pipeline.view.news.wait_until(limit, ready),
            Some(topic) => {
                // An owner that is being opened takes its time; then there is nothing to wait on but the clock.
                if topic.wait(limit, &ready).is_err() {
                    core.pipeline.view.news.wait_until(limit.min(LOOK_AT_ALL), ready);
                }
            }
            None => core.pipeline.view.news.wait_until(limit.min(LOOK_AT_ALL), ready),
        }
    }

    fn wake_when_more(&mut self, waker: &Waker) -> bool {
        if !self.is_woken() {
            return false;
        }
        let mut registered = std::mem::take(&mut self.registered);
        let core = &self.store.inner.core;
        let ready = || self.has_more() || core.check_open().is_err();
        let is_kept = core.pipeline.view.news.register(&mut registered, waker, ready);
        self.registered = registered;
        is_kept
    }

    fn forget_waker(&mut self) {
        self.store.inner.core.pipeline.view.news.unregister(&mut self.registered);
    }

    fn lag(&self) -> u64 {
        let shown = self.shown();
        // What cannot be seen now is not ahead; the next poll tells why.
        let behind = |cursor: &Cursor| cursor.end(shown).map_or(0, |end| end.0.saturating_sub(cursor.next.0));
        self.cursors.iter().map(behind).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;
    use crate::consumer::ConsumerStyle;
    use crate::handles::{Consumer, ConsumerOptions, TopicDef};

    const TOPIC: TopicDef<Bytes, Bytes> = TopicDef::new("rolled").file_roll_size(600 << 10);
    const VALUE: [u8; 1000] = [7; 1000];

    /// The first segment is taken away while somebody has read some of it; gives where the next one starts.
    fn take_away(store: &Store) -> LogOffset {
        let topic = store.inner.core.topic("rolled").unwrap();
        let second = topic.partition(PartitionId(0)).unwrap().bases()[1];
        store.truncate_before("rolled", PartitionId(0), second).unwrap();
        second
    }

    fn half_read(store: &Store, gaps: GapPolicy) -> Consumer<Bytes, Bytes> {
        let style = ConsumerStyle::NonTx(Whence::Oldest);
        let mut consumer = store.consumer(TOPIC, ConsumerOptions::new(style).on_gap(gaps)).unwrap();
        assert_eq!(consumer.next().unwrap().unwrap().id.offset, LogOffset(0));
        consumer
    }

    #[test]
    fn a_consumer_that_has_caught_up_holds_no_buffer() {
        let store = Store::in_memory().unwrap();
        let producer = store.producer(TOPIC).unwrap();
        let append = || (0..100).for_each(|_| producer.append(&b"k"[..], &VALUE[..]).map(drop).unwrap());
        append();
        let topics = [store.inner.core.topic("rolled").unwrap().id];
        let mut source = StoreSource::open(&store, &SourceSpec::new(&topics), 1).unwrap().remove(0);
        for _ in 0..3 {
            let mut polled = 0;
            while let Some(records) = source.poll_batch().unwrap() {
                polled += records.count();
            }
            assert_eq!(polled, 100);
            let Reading::Own(reader) = &source.cursors[0].reading else { panic!("it is its own topic") };
            assert_eq!(reader.held_bytes(), 0);
            append();
        }
    }

    #[test]
    fn a_segment_that_is_removed_while_it_is_read_is_a_gap_and_no_damage() {
        let store = Store::in_memory().unwrap();
        let producer = store.producer(TOPIC).unwrap();
        for _ in 0..1000 {
            producer.append(&b"k"[..], &VALUE[..]).unwrap();
        }
        let mut told = half_read(&store, GapPolicy::Stop);
        let skips = half_read(&store, GapPolicy::Skip);
        let start = take_away(&store);
        assert!(start > LogOffset(500), "{start}");
        let mut next = LogOffset(1);
        let error = loop {
            match told.next().unwrap() {
                Ok(record) => {
                    assert_eq!(record.id.offset, next);
                    next = next.plus(1);
                }
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), error.gap()), (ErrorKind::Gap, Some(next..start)), "{error}");
        assert_eq!(told.next().unwrap().unwrap_err().kind(), ErrorKind::Gap, "told until it is skipped");
        told.skip_gap().unwrap();
        assert_eq!(told.next().unwrap().unwrap().id.offset, start);
        let offsets: Vec<u64> = skips.map(|record| record.unwrap().id.offset.0).collect();
        assert_eq!(offsets, (1..next.0).chain(start.0..1000).collect::<Vec<_>>());
        // Where the removed records would come first.
        let from = |whence| store.consumer(TOPIC, ConsumerStyle::NonTx(whence)).unwrap().next().unwrap();
        assert_eq!(from(Whence::Oldest).unwrap().id.offset, start);
        assert_eq!(from(Whence::Position(LogOffset(3))).unwrap_err().gap(), Some(LogOffset(3)..start));
    }
}
