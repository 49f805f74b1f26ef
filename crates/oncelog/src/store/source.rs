//! The records of topics from where a consumer stands.
//!
//! Invariants: an id is claimed by one opening at a time, for as long as one of its sources lives. Where a remembered
//! consumer begins is committed before its first record is handed out, so it never begins anywhere else.

use std::collections::BTreeSet;
use std::ops::Range;
use std::task::Waker;
use std::time::Duration;

use super::claims::Name;
use super::{Core, Store};
use crate::consumer::{GapPolicy, Visibility, Whence};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::record::RecordView;
use crate::topic::{Partition, PartitionReader, Polled, Topic};
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
    gap: Option<(TopicId, PartitionId, Range<LogOffset>)>,
    _claim: Option<Arc<IdClaim>>,
    registered: Registered,
}

struct Cursor {
    topic: Arc<Topic>,
    partition: PartitionId,
    /// The next record to hand out.
    next: LogOffset,
    reader: PartitionReader,
}

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
    topic: Arc<Topic>,
    partition: Arc<Partition>,
}

/// Why a cursor stopped.
enum Stopped {
    Drained,
    ByVisitor,
}

impl IdClaim {
    fn take(store: &Store, consumer: &str, topics: &[Arc<Topic>]) -> Result<IdClaim> {
        let core = &store.inner.core;
        let wanted = match consumer {
            "" => topics.iter().map(|topic| Claimed::Global(topic.id)).collect(),
            id => vec![Claimed::Id(id.to_owned())],
        };
        let mut held = core.consumers.lock();
        if let Some(taken) = wanted.iter().find(|claimed| held.contains(claimed)) {
            let what = match taken {
                Claimed::Id(id) => format!("consumer {id:?} is at work already"),
                Claimed::Global(id) => {
                    let name = topics.iter().find(|topic| topic.id == *id).map_or("", |topic| &topic.spec.name);
                    format!("the global consumer of topic {name:?} is at work already")
                }
            };
            return Err(Error::locked(&core.layout.dir, what, Some(std::process::id())));
        }
        for claimed in &wanted {
            let name_of =
                |id: &TopicId| topics.iter().find(|topic| topic.id == *id).map_or("", |topic| &topic.spec.name);
            core.claim_consumer(&match claimed {
                Claimed::Id(id) => Name::Consumer(id),
                Claimed::Global(id) => Name::Global(*id, name_of(id)),
            })?;
        }
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
        let topics = spec.topics.iter().map(|id| core.pipeline.topics.get(*id)).collect::<Result<Vec<_>>>()?;
        let places = places(&topics, spec.partitions)?;
        let claim = spec.consumer.map(|consumer| IdClaim::take(store, consumer, &topics).map(Arc::new)).transpose()?;
        let starts = match spec.consumer {
            Some(consumer) => core.resume(consumer, &places, spec)?,
            None => core.resolve_all(&places, spec)?,
        };
        let count = count.clamp(1, topics.iter().map(|topic| topic.partitions.len()).max().unwrap_or(1));
        let source = |_| StoreSource {
            store: store.clone(),
            visibility: spec.visibility,
            gaps: spec.gaps,
            cursors: Vec::new(),
            turn: 0,
            gap: None,
            _claim: claim.clone(),
            registered: Registered::default(),
        };
        let mut sources: Vec<StoreSource> = (0..count).map(source).collect();
        for (place, next) in places.into_iter().zip(starts) {
            let Place { topic, partition } = place;
            let id = partition.id;
            let reader = PartitionReader::new(partition, next);
            sources[id.0 as usize % count].cursors.push(Cursor { topic, partition: id, next, reader });
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
        self.cursors.iter().try_for_each(|cursor| cursor.reader.partition().check_there())?;
        let shown = core.shown(self.visibility);
        let count = self.cursors.len();
        loop {
            let chosen = (0..count).map(|step| (self.turn + step) % count).find_map(|at| {
                let limit = self.cursors[at].reader.partition().end_at(shown);
                (self.cursors[at].next < limit).then_some((at, limit))
            });
            let Some((at, limit)) = chosen else { return Ok(None) };
            let cursor = &mut self.cursors[at];
            cursor.reader.seek(cursor.next);
            match cursor.reader.poll(limit)? {
                Polled::Batch => {
                    self.turn = at + 1;
                    return Ok(Some(at));
                }
                Polled::End => return Ok(None),
                Polled::Gap(lost) => {
                    let error = Error::lost(&cursor.topic.spec.name, cursor.partition.0, lost.clone());
                    match self.gaps {
                        GapPolicy::Skip => {
                            tracing::warn!(%error, "a consumer goes on behind records that are lost");
                            cursor.next = lost.end;
                        }
                        _ => {
                            self.gap = Some((cursor.topic.id, cursor.partition, lost));
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    fn has_more(&self) -> bool {
        let shown = self.shown();
        let news = |cursor: &Cursor| {
            let partition = cursor.reader.partition();
            cursor.next < partition.end_at(shown) || partition.check_there().is_err()
        };
        self.cursors.iter().any(news)
    }
}

/// The partitions that are asked for, topic by topic.
fn places(topics: &[Arc<Topic>], partitions: Option<&[PartitionId]>) -> Result<Vec<Place>> {
    let mut ids = BTreeSet::new();
    let mut places = Vec::new();
    for topic in topics {
        if !ids.insert(topic.id) {
            return Err(Error::invalid(format!("topic {:?} is named twice", topic.spec.name)));
        }
        let chosen: Vec<Arc<Partition>> = match partitions {
            None => topic.partitions.clone(),
            Some(chosen) => {
                let chosen: BTreeSet<PartitionId> = chosen.iter().copied().collect();
                chosen.into_iter().map(|id| topic.partition(id).cloned()).collect::<Result<_>>()?
            }
        };
        places.extend(chosen.into_iter().map(|partition| Place { topic: Arc::clone(topic), partition }));
    }
    Ok(places)
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
                let (topic, partition) = (place.topic.id, place.partition.id);
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
        let end = self.partition.end_at(shown);
        match whence {
            Whence::Oldest => Ok(self.partition.start()),
            Whence::Latest => Ok(end),
            Whence::Position(position) if position > end => {
                let (name, id) = (&self.topic.spec.name, self.partition.id);
                let what = format!("topic {name:?}, partition {id}: position {position} is behind the end, {end}");
                Err(Error::invalid(what))
            }
            Whence::Position(position) => Ok(position),
            Whence::Time(timestamp_ms) => self.partition.offset_at_time(timestamp_ms, end),
        }
    }
}

impl Cursor {
    /// Hands out the records of the current batch.
    fn visit(
        &mut self,
        done: &mut u64,
        visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>,
    ) -> Result<Stopped> {
        let batch = self.reader.current()?;
        let behind = batch.next_offset();
        for record in Fetched::new(self.topic.id, &self.topic.spec.name, self.partition, self.next, batch) {
            let record = record?;
            match visit(self.topic.id, self.partition, record)? {
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
        self.cursors.iter().map(|cursor| (cursor.topic.id, cursor.partition, cursor.next)).collect()
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

    fn poll_batch(&mut self) -> Result<Option<Fetched<'_>>> {
        let Some(at) = self.advance()? else { return Ok(None) };
        let cursor = &mut self.cursors[at];
        let (from, topic) = (cursor.next, &cursor.topic);
        let batch = cursor.reader.current()?;
        cursor.next = batch.next_offset();
        Ok(Some(Fetched::new(topic.id, &topic.spec.name, cursor.partition, from, batch)))
    }

    fn seek(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) {
        for cursor in &mut self.cursors {
            if cursor.topic.id == topic && cursor.partition == partition {
                cursor.next = next;
            }
        }
    }

    fn gap(&self) -> Option<(TopicId, PartitionId, Range<LogOffset>)> {
        self.gap.clone()
    }

    fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        let core = &self.store.inner.core;
        core.pipeline.view.news.wait_until(limit, || self.has_more() || core.check_open().is_err() || enough());
    }

    fn wake_when_more(&mut self, waker: &Waker) -> bool {
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
        let behind = |cursor: &Cursor| cursor.reader.partition().end_at(shown).0.saturating_sub(cursor.next.0);
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
        let core = &store.inner.core;
        core.trim(crate::store::manifest::State::Open).unwrap();
        let topic = core.pipeline.topics.find("rolled").unwrap().unwrap();
        let partition = topic.partition(PartitionId(0)).unwrap();
        let first = partition.forget_first();
        first.close();
        core.disk.remove(&first.path).unwrap();
        partition.start()
    }

    fn half_read(store: &Store, gaps: GapPolicy) -> Consumer<Bytes, Bytes> {
        let style = ConsumerStyle::NonTx(Whence::Oldest);
        let mut consumer = store.consumer(TOPIC, ConsumerOptions::new(style).on_gap(gaps)).unwrap();
        assert_eq!(consumer.next().unwrap().unwrap().id.offset, LogOffset(0));
        consumer
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
