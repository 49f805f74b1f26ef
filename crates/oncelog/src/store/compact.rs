//! Key compaction: in the background, a little at a time, or by hand.
//!
//! ```text
//! choose   the partition with the greatest share of what was not compacted, if that is enough
//! keys     of what was not compacted: where each was last written, as many as there is memory for; it ends there
//! write    from the first segment on: what stays, to new files under names that nobody reads; synced
//! exchange the new files get their names, the trim point names them, the old files go
//! ```
//!
//! Invariants: until the trim point is durable the old segments count, and a crash leaves all of a round or nothing.
//! The newest segment with records is never touched, nor what somebody may still have to read (`min_lag`,
//! `blocking_minimum_retention`). A record goes only if one of the same key is behind it, in a segment that gets no
//! more and that the trim point names; a tombstone goes when everything that it ended has been gone for its time. No
//! turn is held while records are read or written. A step reads about a mebibyte, so the background's other duties, of
//! which answering tasks is one, never wait longer.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::manifest::State;
use super::{Core, Store};
use crate::disk::SyncSite;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::{Batch, BatchError, RecordView, Verdict};
use crate::segment::{BatchReader, Generation, Rewriter, Segment, SegmentHead};
use crate::topic::{
    Compactable, Compaction, Exchange, LastOffsets, MinimumRetention, Partition, PartitionView, Topic, groups,
};
use crate::wake::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};

/// A step reads so much, or one batch if it is larger.
const STEP_BYTES: usize = 1 << 20;
/// The background waits so long between two steps: others want the disk too.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// A partition whose compaction failed, or that may not be compacted, is left alone for so many looks.
const LOOKS_LEFT_OUT: u32 = 12;
/// So many partitions are tried in a look.
const TRIES: usize = 8;

/// What compaction has done in a topic since the store was opened, and what there is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Rounds that were brought to their end, each over one partition.
    pub rounds: u64,
    /// Bytes of the files that these replaced.
    pub bytes_before: u64,
    /// Bytes of the files that took their place.
    pub bytes_after: u64,
    /// Records that are gone.
    pub removed_records: u64,
    /// Bytes of older files in which each key is once, over all partitions, as things are now.
    pub clean_bytes: u64,
    /// Bytes of older files that were not compacted yet.
    pub dirty_bytes: u64,
    /// Rounds that failed.
    pub failures: u64,
    /// What the last one that failed said; `None` once a round of the topic goes well again.
    pub last_error: Option<String>,
}

impl CompactionStats {
    /// How many hundredths of the bytes of older files were not compacted yet.
    #[must_use]
    pub fn dirty_percent(&self) -> u8 {
        crate::topic::Dirt { clean: self.clean_bytes, dirty: self.dirty_bytes }.percent()
    }
}

/// What compaction keeps in memory.
#[derive(Default)]
pub(super) struct Compacting {
    /// Held for a step.
    slot: Mutex<Slot>,
    at_work: AtomicBool,
    /// So many compact by hand: the background leaves it to them, and does not wait for their steps.
    by_hand: AtomicUsize,
    /// How often topics have changed: a round goes by what was so when it began. Changed and asked under `slot`.
    changes: AtomicU64,
    topics: Mutex<BTreeMap<TopicId, CompactionStats>>,
}

/// What the background is at.
#[derive(Default)]
struct Slot {
    round: Option<Round>,
    /// When it last looked what is due.
    looked: Option<Duration>,
    /// Partitions that are left alone are not looked at before.
    not_before: BTreeMap<(TopicId, PartitionId), Duration>,
}

/// Which of the segments of a partition become one, and the file that they become.
struct Made {
    of: Range<usize>,
    file: Rewriter,
}

/// The compaction of one partition. Dropped before its end, it leaves nothing behind.
struct Round {
    topic: Arc<Topic>,
    partition: Arc<Partition>,
    settings: Compaction,
    generation: Generation,
    memory: usize,
    now_ms: i64,
    /// Records below it are removed anyhow.
    start: LogOffset,
    segments: Vec<Arc<Segment>>,
    keys: LastOffsets,
    /// What is compacted ends here: at a batch.
    stop: LogOffset,
    phase: Phase,
    /// The segment that is being read, and how far.
    at: usize,
    reader: Option<BatchReader>,
    /// Groups that were not looked at yet.
    groups: VecDeque<Range<usize>>,
    made: Vec<Made>,
    removed_records: u64,
}

enum Phase {
    Keys,
    /// Whether the one segment changes at all.
    Judge(Range<usize>),
    Write(Box<Made>),
    Exchange,
}

/// What has become of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stepped {
    On,
    /// There is only the exchange left to do.
    Written,
}

impl Store {
    /// Compacts all partitions of a topic now, whatever share of them was compacted before: the background does so by
    /// itself when there is enough to do, see [`Compaction`]. What the settings and limits of the topic keep is kept,
    /// and the newest segment file of each partition. Durable on return. Takes as long as it takes to read all of the
    /// topic; others append and read meanwhile.
    ///
    /// ```
    /// use oncelog::{Compaction, Store, TopicDef, Utf8};
    /// # fn main() -> oncelog::Result<()> {
    /// const PRICES: TopicDef<Utf8, Utf8> = TopicDef::new("prices").file_roll_size(1024).compaction(Compaction::new());
    /// let store = Store::in_memory()?;
    /// let prices = store.producer(PRICES)?;
    /// for price in 0..100 {
    ///     prices.append("tea", &price.to_string())?;
    /// }
    /// assert!(store.compact("prices")?.removed_records > 50);
    /// # store.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound`: no such topic, or none of this owner. `Invalid`: it is not a compacted one. `Full`: no room for the
    /// new files, nothing has changed. `Corrupt`, `InDoubt`, `Closed`: partitions before may be compacted.
    pub fn compact(&self, topic: &str) -> Result<CompactionStats> {
        let core = self.core();
        core.check_open()?;
        let topic = core.topic(topic)?;
        settings_of(&topic)?;
        core.compacting.by_hand.fetch_add(1, Ordering::SeqCst);
        let mut partitions = topic.partitions.iter();
        let compacted = partitions.try_for_each(|partition| core.compact_partition(&topic, partition.id));
        core.compacting.by_hand.fetch_sub(1, Ordering::SeqCst);
        compacted.map(|()| core.compaction_stats(&topic))
    }

    /// What compaction has done in a topic since the store was opened, and what there is to do.
    ///
    /// # Errors
    /// `NotFound`: no such topic, or none of this owner; `Closed`.
    pub fn compaction_stats(&self, topic: &str) -> Result<CompactionStats> {
        let core = self.core();
        core.check_open()?;
        core.topic(topic).map(|topic| core.compaction_stats(&topic))
    }
}

fn settings_of(topic: &Topic) -> Result<Compaction> {
    let not_compacted = || Error::invalid(format!("topic {:?} is not compacted: alter it first", topic.spec.name));
    topic.spec.compaction.ok_or_else(not_compacted)
}

impl Compacting {
    /// Whether a round is under way, or one has just ended and there may be more to do.
    pub(super) fn is_at_work(&self) -> bool {
        self.at_work.load(Ordering::SeqCst) && self.by_hand.load(Ordering::SeqCst) == 0
    }

    /// Ends the round of the background, if it is one of these topics; those by hand begin anew. Nobody is in a step on
    /// return.
    pub(super) fn give_up(&self, of: impl Fn(TopicId) -> bool) {
        let mut slot = self.slot.lock();
        self.changes.fetch_add(1, Ordering::SeqCst);
        if slot.round.as_ref().is_some_and(|round| of(round.topic.id)) {
            slot.round = None;
        }
        self.at_work.store(slot.round.is_some(), Ordering::SeqCst);
    }

    /// All topics together.
    pub(super) fn total(&self) -> CompactionStats {
        let topics = self.topics.lock();
        let mut all = CompactionStats::default();
        for one in topics.values() {
            all.rounds += one.rounds;
            all.bytes_before += one.bytes_before;
            all.bytes_after += one.bytes_after;
            all.removed_records += one.removed_records;
            all.failures += one.failures;
        }
        all
    }
}

impl Core {
    fn compaction_stats(&self, topic: &Topic) -> CompactionStats {
        let mut stats = self.compacting.topics.lock().get(&topic.id).cloned().unwrap_or_default();
        for dirt in topic.partitions.iter().map(|partition| partition.dirt()) {
            stats.clean_bytes += dirt.clean;
            stats.dirty_bytes += dirt.dirty;
        }
        stats
    }

    /// A step of what is under way, or else a look at what is due.
    pub(super) fn compact_if_due(&self) -> Result<()> {
        if self.compacting.by_hand.load(Ordering::SeqCst) > 0 {
            return Ok(());
        }
        let mut slot = self.compacting.slot.lock();
        if slot.round.is_none() {
            let now = self.options.clock.monotonic();
            let interval = self.options.retention_interval;
            if slot.looked.is_some_and(|looked| now.saturating_sub(looked) < interval) {
                return Ok(());
            }
            slot.looked = Some(now);
            slot.not_before.retain(|_, until| now < *until);
            slot.round = self.next_round(&mut slot)?;
        }
        let Some(mut round) = slot.round.take() else {
            self.compacting.at_work.store(false, Ordering::SeqCst);
            return Ok(());
        };
        let stepped = self.step(&mut round);
        let (topic, partition) = (Arc::clone(&round.topic), round.partition.id);
        match stepped {
            Ok(Stepped::On) => slot.round = Some(round),
            Ok(Stepped::Written) => {
                // There may be more to do, here or elsewhere.
                slot.looked = None;
                if let Err(error) = self.end_round(round) {
                    self.put_off(&mut slot, &topic, partition, &error)?;
                }
            }
            Err(error) => {
                drop(round);
                self.put_off(&mut slot, &topic, partition, &error)?;
            }
        }
        self.compacting.at_work.store(slot.round.is_some() || slot.looked.is_none(), Ordering::SeqCst);
        Ok(())
    }

    /// Leaves a partition alone for a while, which failed.
    fn put_off(&self, slot: &mut Slot, topic: &Topic, partition: PartitionId, error: &Error) -> Result<()> {
        if error.kind() == ErrorKind::Conflict {
            return Ok(());
        }
        self.leave_alone(slot, topic, partition);
        self.note_failure(topic, partition, error)
    }

    fn leave_alone(&self, slot: &mut Slot, topic: &Topic, partition: PartitionId) {
        let later = self.options.retention_interval.saturating_mul(LOOKS_LEFT_OUT);
        let until = self.options.clock.monotonic().saturating_add(later);
        slot.not_before.insert((topic.id, partition), until);
    }

    /// A round that failed is told, and tried again later. Only what ends the handle is an error here.
    fn note_failure(&self, topic: &Topic, partition: PartitionId, error: &Error) -> Result<()> {
        if error.kind() == ErrorKind::NotFound {
            // The topic is being deleted.
            return Ok(());
        }
        let name = &topic.spec.name;
        tracing::error!(%error, topic = name, %partition, "a partition could not be compacted");
        let mut topics = self.compacting.topics.lock();
        let stats = topics.entry(topic.id).or_default();
        stats.failures += 1;
        stats.last_error = Some(error.to_string());
        drop(topics);
        self.check_open()
    }

    /// The round that is most worth it, if one is. A partition that looks worth it and may not be compacted, since
    /// somebody must read it first, is left alone for a while, so that it keeps no other from its turn.
    fn next_round(&self, slot: &mut Slot) -> Result<Option<Round>> {
        for _ in 0..TRIES {
            let Some((topic, partition)) = self.most_worth_it(slot)? else { return Ok(None) };
            let Some(settings) = topic.spec.compaction else { return Ok(None) };
            let due = |found: &Compactable| found.dirt.is_due(&settings) || found.has_old_tombstones;
            match self.begin_round(&topic, &partition, settings, due) {
                Ok(Some(round)) => return Ok(Some(round)),
                Ok(None) => self.leave_alone(slot, &topic, partition.id),
                Err(error) => self.put_off(slot, &topic, partition.id, &error)?,
            }
        }
        Ok(None)
    }

    fn most_worth_it(&self, slot: &Slot) -> Result<Option<(Arc<Topic>, Arc<Partition>)>> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let (mut best, mut most) = (None, 0);
        for topic in self.compacted_topics()? {
            let Some(settings) = topic.spec.compaction else { continue };
            for partition in &topic.partitions {
                if slot.not_before.contains_key(&(topic.id, partition.id)) || partition.check_takes().is_err() {
                    continue;
                }
                let floor = partition.end_at(self.pipeline.view.visible());
                let found = self.compactable(&topic, partition, settings, now_ms, floor);
                let is_due = found.dirt.is_due(&settings) || found.has_old_tombstones;
                let percent = found.dirt.percent();
                if is_due && (best.is_none() || percent > most) {
                    (best, most) = (Some((Arc::clone(&topic), Arc::clone(partition))), percent);
                }
            }
        }
        Ok(best)
    }

    fn compactable(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        settings: Compaction,
        now_ms: i64,
        floor: LogOffset,
    ) -> Compactable {
        let least_age = match topic.spec.retention.blocking_minimum {
            MinimumRetention::Age(least) => settings.min_lag.max(least),
            _ => settings.min_lag,
        };
        let found = partition.compactable(&mut partition.turn(), now_ms, least_age, floor);
        if found.has_news {
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
        }
        found
    }

    /// Begins the compaction of a partition, unless somebody is at it, or `wanted` says that it is not worth it.
    fn begin_round(
        &self,
        topic: &Arc<Topic>,
        partition: &Arc<Partition>,
        settings: Compaction,
        wanted: impl Fn(&Compactable) -> bool,
    ) -> Result<Option<Round>> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let floor = self.compaction_floor(topic, partition, now_ms)?;
        let mut found = self.compactable(topic, partition, settings, now_ms, floor);
        if !found.is_settled && wanted(&found) {
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
            self.trim(State::Open)?;
            found = self.compactable(topic, partition, settings, now_ms, floor);
        }
        let Some(last) = found.segments.last().filter(|_| found.is_settled && wanted(&found)) else { return Ok(None) };
        let stop = last.end().offset;
        partition.clear_leftovers()?;
        let Some(generation) = partition.next_generation() else { return Ok(None) };
        if !partition.begin_compaction() {
            return Ok(None);
        }
        let compacted = partition.compacted();
        let first_dirty = found.segments.iter().position(|segment| segment.end().offset > compacted);
        let at = first_dirty.unwrap_or(found.segments.len());
        tracing::debug!(topic = topic.spec.name, partition = %partition.id, %compacted, %stop, "a compaction begins");
        Ok(Some(Round {
            topic: Arc::clone(topic),
            partition: Arc::clone(partition),
            settings,
            generation,
            memory: self.options.compaction_memory,
            now_ms,
            start: partition.start(),
            segments: found.segments,
            keys: LastOffsets::new(partition.fresh_salt()),
            stop,
            phase: Phase::Keys,
            at,
            reader: None,
            groups: VecDeque::new(),
            made: Vec::new(),
            removed_records: 0,
        }))
    }

    /// Nothing from here on is compacted yet: it is not visible, or somebody may never miss it.
    fn compaction_floor(&self, topic: &Topic, partition: &Partition, now_ms: i64) -> Result<LogOffset> {
        let visible = self.pipeline.view.visible();
        let MinimumRetention::Consumers { ids, expiry } = &topic.spec.retention.blocking_minimum else {
            return Ok(partition.end_at(visible));
        };
        let view = |partition: &Arc<Partition>| PartitionView { files: Vec::new(), floor: partition.end_at(visible) };
        let mut views: Vec<_> = topic.partitions.iter().map(view).collect();
        self.lower_floors(topic, ids, *expiry, &mut views, now_ms)?;
        Ok(views.get(partition.id.0 as usize).map_or(LogOffset(0), |view| view.floor))
    }

    /// All rounds that it takes to compact a partition to the end, each by what the topic is then.
    fn compact_partition(&self, of: &Topic, partition: PartitionId) -> Result<()> {
        let wanted = |found: &Compactable| found.dirt.dirty > 0 || found.has_old_tombstones;
        let compacting = &self.compacting;
        loop {
            self.check_open()?;
            let (topic, mut round, changes) = {
                let mut slot = compacting.slot.lock();
                // What the background is at is the same, and may have begun too early to see all.
                slot.round = slot.round.take().filter(|round| round.topic.id != of.id);
                let topic = self.topic(&of.spec.name)?;
                if topic.id != of.id {
                    return Err(Error::new(ErrorKind::NotFound, "the topic is deleted"));
                }
                let settings = settings_of(&topic)?;
                let partition = topic.partition(partition)?;
                if partition.is_being_compacted() {
                    drop(slot);
                    self.options.clock.sleep(PAUSE);
                    continue;
                }
                let Some(round) = self.begin_round(&topic, partition, settings, wanted)? else { return Ok(()) };
                (Arc::clone(&topic), round, compacting.changes.load(Ordering::SeqCst))
            };
            let ended = loop {
                let slot = compacting.slot.lock();
                if compacting.changes.load(Ordering::SeqCst) != changes {
                    break Err(Error::new(ErrorKind::Conflict, "a topic was changed while it was being compacted"));
                }
                match self.check_open().and_then(|()| self.step(&mut round)) {
                    Ok(Stepped::On) => {}
                    Ok(Stepped::Written) => break self.end_round(round),
                    Err(error) => break Err(error),
                }
                drop(slot);
                if !self.options.manual_duties {
                    // Who waits for the slot has his turn.
                    self.options.clock.sleep(PAUSE);
                }
            };
            match ended {
                Err(error) if error.kind() != ErrorKind::Conflict => {
                    // That it has ended the store, if it has, is told by what comes next.
                    let _ = self.note_failure(&topic, partition, &error);
                    return Err(error);
                }
                _ => {}
            }
        }
    }

    /// Reads a little, and does with it what is next.
    fn step(&self, round: &mut Round) -> Result<Stepped> {
        let mut read = 0;
        while read < STEP_BYTES {
            round.partition.check_takes()?;
            match round.batch() {
                Ok(0) if matches!(round.phase, Phase::Exchange) => return Ok(Stepped::Written),
                Ok(bytes) => read += bytes,
                Err(error) => {
                    // Retention has taken away what was being read: the next round begins behind it.
                    let gone = round.segments.get(round.at).is_some_and(|segment| !round.partition.holds(segment));
                    let what = "records that were being compacted are removed";
                    return Err(if gone { Error::new(ErrorKind::Conflict, what).because(error) } else { error });
                }
            }
        }
        Ok(Stepped::On)
    }

    /// Puts what was written in place of what it was made from.
    fn end_round(&self, mut round: Round) -> Result<()> {
        let (made, partition) = (std::mem::take(&mut round.made), Arc::clone(&round.partition));
        let exchanged = self.exchange(&round, made)?;
        let (before, after) = exchanged.as_ref().map_or((0, 0), Exchange::bytes);
        let mut topics = self.compacting.topics.lock();
        let stats = topics.entry(round.topic.id).or_default();
        stats.rounds += 1;
        stats.bytes_before += before;
        stats.bytes_after += after;
        stats.removed_records += round.removed_records;
        stats.last_error = None;
        let (topic, records) = (&round.topic.spec.name, round.removed_records);
        tracing::info!(topic, partition = %partition.id, records, before, after, upto = %round.stop, "compacted");
        Ok(())
    }

    fn exchange(&self, round: &Round, made: Vec<Made>) -> Result<Option<Exchange>> {
        let partition = &round.partition;
        let _one_at_a_time = self.removing.lock();
        self.check_open()?;
        partition.check_takes()?;
        let (mut old, mut files) = (Vec::new(), Vec::new());
        for Made { of, file } in made {
            let before = old.len();
            old.extend(round.segments[of].iter().filter(|segment| partition.holds(segment)).cloned());
            // Else all of it was removed meanwhile.
            if old.len() > before {
                files.push(file);
            }
        }
        if files.is_empty() {
            partition.is_compacted(round.stop);
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
            return Ok(None);
        }
        self.fence.check()?;
        if let Err(error) = self.name_all(partition, &mut files) {
            partition.leave_over(files.iter().map(Rewriter::named_path));
            return Err(error);
        }
        let new = files.iter().map(Rewriter::segment).collect();
        let exchange = Exchange { old, new, compacted: round.stop };
        partition.plan_exchange(&mut partition.turn(), exchange.clone());
        self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
        let moved = self.trim(State::Open);
        // Whatever it says: another trim may have done it, or be about to.
        let _no_trim = self.trimming.lock();
        let is_undone = partition.cancel_exchange();
        // Where the journal has failed, the trim point may be there or not.
        if !is_undone || self.pipeline.journal.has_failed() {
            files.into_iter().for_each(Rewriter::keep);
        } else {
            partition.leave_over(files.iter().map(Rewriter::named_path));
        }
        match moved {
            _ if !is_undone => Ok(Some(exchange)),
            Err(error) => Err(error),
            Ok(()) => Err(Error::new(ErrorKind::NotFound, "the topic is deleted")),
        }
    }

    /// Gives new files their names, durably.
    fn name_all(&self, partition: &Partition, files: &mut [Rewriter]) -> Result<()> {
        files.iter_mut().try_for_each(Rewriter::name)?;
        let dir = partition.dir();
        let synced = self.files.with_room(|| self.disk.sync_dir(dir, SyncSite::CompactedDir));
        synced.map_err(|error| {
            // It may have been the name of the segment that is written: nobody may take a later sync for a good one.
            self.pipeline.journal.fail();
            Error::sync(dir, "sync a partition", error)
        })
    }

    /// The trim point names the new segments.
    pub(super) fn exchange_segments(&self, partition: &Partition, exchange: &Exchange) {
        partition.leave_over(partition.exchanged(exchange));
        // What cannot be removed now is removed before the next compaction, or when the partition is next put together.
        if let Err(error) = partition.clear_leftovers() {
            tracing::warn!(%error, "files that were compacted stay");
        }
    }
}

impl Round {
    /// Reads a batch, and does with it what is next; gives how many bytes it had, 0 where something was ended.
    fn batch(&mut self) -> Result<usize> {
        match std::mem::replace(&mut self.phase, Phase::Exchange) {
            Phase::Keys => self.note_keys(),
            Phase::Judge(group) => self.judge(group),
            Phase::Write(made) => self.write(made),
            Phase::Exchange => Ok(0),
        }
    }

    /// Stands at the next batch of the segments below `end`, from `from` on; `false` when there is none.
    fn advance(&mut self, from: LogOffset, end: usize) -> Result<bool> {
        while self.at < end {
            let segment = &self.segments[self.at];
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    let from = from.max(segment.head.base_offset);
                    self.reader.insert(BatchReader::seek(Arc::clone(segment), from)?)
                }
            };
            if reader.advance(LogOffset(u64::MAX))? {
                return Ok(true);
            }
            self.reader = None;
            self.at += 1;
        }
        Ok(false)
    }

    /// Notes the keys of the next batch that was not compacted yet.
    fn note_keys(&mut self) -> Result<usize> {
        let compacted = self.partition.compacted().max(self.start);
        if !self.advance(compacted, self.segments.len())? {
            self.plan();
            return Ok(0);
        }
        let Some(reader) = &self.reader else { return Err(Error::closed()) };
        let batch = reader.current()?;
        for record in batch.records() {
            let record = record.map_err(|error| self.malformed(&error))?;
            if let Some(key) = record.key.filter(|_| record.offset >= compacted) {
                self.keys.note(key, record.offset);
            }
        }
        let (bytes, behind) = (reader.current_bytes().len(), batch.next_offset());
        if self.keys.bytes() >= self.memory {
            self.stop = behind.min(self.stop);
            self.plan();
        } else {
            self.phase = Phase::Keys;
        }
        Ok(bytes)
    }

    /// All keys are known that there is memory for.
    fn plan(&mut self) {
        let parts = self.segments.iter().map(|segment| {
            let end = segment.end();
            (end.position, segment.head.base_offset..end.offset)
        });
        let parts: Vec<_> = parts.collect();
        self.groups = groups(&parts, self.stop, self.topic.spec.roll_size()).into();
        self.next_group();
    }

    fn next_group(&mut self) {
        self.reader = None;
        let Some(group) = self.groups.pop_front() else {
            self.phase = Phase::Exchange;
            return;
        };
        self.at = group.start;
        self.phase = Phase::Judge(group);
    }

    /// Whether the next batch of a group of one segment changes; several are written anew anyhow.
    fn judge(&mut self, group: Range<usize>) -> Result<usize> {
        if group.len() == 1 {
            let segment = &self.segments[group.start];
            let has_old_tombstones = segment.end().tombstones_until_ms.is_some_and(|until| until <= self.now_ms);
            // Nothing was written since: only tombstones can go.
            if self.keys.is_empty() && !has_old_tombstones && segment.end().offset <= self.partition.compacted() {
                self.next_group();
                return Ok(0);
            }
            if !self.advance(LogOffset(0), group.end)? {
                self.next_group();
                return Ok(0);
            }
            let Some(reader) = &self.reader else { return Err(Error::closed()) };
            let (batch, bytes) = (reader.current()?, reader.current_bytes().len());
            let verdict = self.judged(&batch)?;
            let is_new = verdict.has_tombstones() && batch.tombstones_until_ms().is_none();
            if verdict.gone == 0 && !(is_new && self.until_ms(&batch).is_some()) {
                self.phase = Phase::Judge(group);
                return Ok(bytes);
            }
        }
        (self.at, self.reader) = (group.start, None);
        let head = SegmentHead {
            generation: self.generation,
            salt: self.partition.fresh_salt(),
            ..self.segments[group.start].head
        };
        let file = Rewriter::begin(self.partition.open_files(), self.partition.dir(), head)?;
        self.phase = Phase::Write(Box::new(Made { of: group, file }));
        Ok(0)
    }

    /// Writes what stays of the next batch.
    fn write(&mut self, mut made: Box<Made>) -> Result<usize> {
        if !self.advance(LogOffset(0), made.of.end)? {
            let segments = &self.segments[made.of.clone()];
            let ends = || segments.iter().map(|segment| segment.end());
            let end = ends().next_back().map_or(LogOffset(0), |end| end.offset);
            let (sealed, filled) = (ends().filter_map(|end| end.sealed_ms).max(), ends().find_map(|end| end.filled_ms));
            made.file.finish(end, sealed, filled)?;
            self.made.push(*made);
            self.next_group();
            return Ok(0);
        }
        let Some(reader) = &self.reader else { return Err(Error::closed()) };
        let (batch, bytes) = (reader.current()?, reader.current_bytes());
        let verdict = self.judged(&batch)?;
        made.file.add((bytes, &batch), &verdict, self.until_ms(&batch), self.partition.compression())?;
        let bytes = bytes.len();
        self.removed_records += verdict.gone;
        self.phase = Phase::Write(made);
        Ok(bytes)
    }

    /// When the tombstones of a batch may go: as it says, or from now on counted if what they end goes now.
    fn until_ms(&self, batch: &Batch<'_>) -> Option<i64> {
        batch.tombstones_until_ms().or_else(|| {
            let kept = i64::try_from(self.settings.tombstone_retention.as_millis()).unwrap_or(i64::MAX);
            (batch.next_offset() <= self.stop).then(|| self.now_ms.saturating_add(kept))
        })
    }

    fn judged(&self, batch: &Batch<'_>) -> Result<Verdict> {
        // Not one that was given with this round: who reads from the start is to see it.
        let tombstones_go = batch.tombstones_until_ms().is_some_and(|until| until <= self.now_ms);
        let stays = |record: &RecordView<'_>| {
            if record.offset < self.start {
                return false;
            }
            // Without a key: from before the topic was compacted.
            let Some(key) = record.key.filter(|_| record.offset < self.stop) else { return true };
            match self.keys.last(key) {
                Some(last) if last > record.offset => false,
                _ => record.value.is_some() || !tombstones_go,
            }
        };
        let mut verdict = Verdict::default();
        verdict.judge(batch, stays).map_err(|error| self.malformed(&error))?;
        Ok(verdict)
    }

    fn malformed(&self, error: &BatchError) -> Error {
        let (name, partition) = (&self.topic.spec.name, self.partition.id);
        let what = format!("topic {name:?}, partition {partition}: {error}");
        match self.segments.get(self.at) {
            Some(segment) => segment.damaged(0, what),
            None => Error::new(ErrorKind::Corrupt, what),
        }
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        self.partition.end_compaction();
    }
}
