//! The records of topics from where a consumer stands.
//!
//! ```text
//! claim   the consumer's id is this handle's     place   where it begins in each partition
//! cursor  one partition, read from there         here    partitions in turn, and waiting for more
//! ```
//!
//! Invariants: an id is claimed by one opening at a time, for as long as one of its sources lives. Partitions take
//! turns; one that is held back is neither read nor waited for.

mod claim;
mod cursor;
mod place;

use std::collections::BTreeMap;
use std::ops::Range;
use std::task::Waker;
use std::time::Duration;

use super::Store;
use super::input::Input;
use super::reader::{ForeignTopic, Watcher};
use crate::consumer::{GapPolicy, Visibility};
use crate::error::{Error, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::record::RecordView;
use crate::topic::Polled;
use crate::transaction::{Fetched, Source, SourceSpec, Step};
use crate::wake::{Arc, Registered};
use claim::IdClaim;
use cursor::{Cursor, Reading, Stopped};
use place::{places, refuse_written};

pub(super) use claim::Claimed;

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

/// How long a source waits for several owners at once before it looks again, where there is no thread to watch them.
const LOOK_AT_ALL: Duration = Duration::from_millis(2);

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
        // Whoever goes elsewhere does not stand before it any more, and must not step over it.
        self.gap.take_if(|(of, at, lost)| (*of, *at) == (topic, partition) && lost.start != next);
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

impl Drop for StoreSource {
    fn drop(&mut self) {
        self.forget_waker();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Bytes;
    use crate::consumer::{ConsumerStyle, Whence};
    use crate::error::ErrorKind;
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
