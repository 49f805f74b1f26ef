//! Key compaction: when, and of what. In the background, a little at a time, or by hand.
//!
//! ```text
//! choose   the partition with the greatest share of what was not compacted, if that is enough
//! keys     of what was not compacted: where each was last written, as many as there is memory for; it ends there
//! write    from the first segment on: what stays, to new files under names that nobody reads; synced
//! exchange the new files get their names, the trim point names them, the old files go
//! ```
//!
//! What a round reads and writes is in `round`, how it takes effect in `exchange`; both know nothing of when.
//!
//! Invariants: at most one round is under way, whoever drives it: the background, or somebody who compacts by hand.
//! The newest segment with records is never touched, nor what somebody may still have to read (`min_lag`,
//! `blocking_minimum_retention`). A round goes by what its topic was when it began, and is given up when that changes.
//! No turn is held while records are read or written. A step reads or writes about a mebibyte, or removes some files:
//! the background's other duties, of which answering tasks is one, never wait longer.

mod exchange;
mod pace;
mod round;

use std::collections::BTreeMap;
use std::time::Duration;

use super::manifest::State;
use super::{Core, Store};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::topic::{Compactable, Compaction, MinimumRetention, Partition, PartitionView, Topic};
use crate::wake::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering};
use pace::Pace;
use round::{Limits, Round, STEP_BYTES};

/// The background waits so long between two steps: others want the disk too.
pub(super) const PAUSE: Duration = Duration::from_millis(1);
/// A partition whose compaction failed, or that may not be compacted, is left alone for so many looks.
const LOOKS_LEFT_OUT: u32 = 12;
/// One for which there was no room is left alone twice as long each time, so often.
const DOUBLED_MAX: u32 = 4;
/// As far as there are records.
const NO_END: LogOffset = LogOffset(u64::MAX);
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
    /// Those among them for which there was no room: see
    /// [`StoreOptions::compaction_reserve`](crate::StoreOptions::compaction_reserve).
    pub without_room: u64,
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
    /// Held for a step, and while a round begins.
    slot: Mutex<Slot>,
    at_work: AtomicBool,
    /// So many compact by hand: the background leaves all rounds to them, and does not wait for their steps.
    by_hand: AtomicUsize,
    topics: Mutex<BTreeMap<TopicId, CompactionStats>>,
}

/// The round that is under way, and what is next.
#[derive(Default)]
struct Slot {
    round: Option<Round>,
    /// When it last looked what is due.
    looked: Option<Duration>,
    left_alone: BTreeMap<(TopicId, PartitionId), LeftAlone>,
    pace: Pace,
}

/// A partition that is not looked at for a while.
#[derive(Clone, Copy)]
struct LeftAlone {
    until: Duration,
    /// How often in a row there was no room for it.
    without_room: u32,
}

/// A round that came to nothing.
struct Failed {
    topic: Arc<Topic>,
    partition: PartitionId,
    error: Error,
}

impl Store {
    /// Compacts all partitions of a topic now, whatever share of them was compacted before: the background does so by
    /// itself when there is enough to do, see [`Compaction`]. What the settings and limits of the topic keep is kept,
    /// and the newest segment file of each partition as it is when its turn comes, with all that comes later. Durable
    /// on return. Takes as long as it takes to read all of the topic, however much is appended meanwhile; others append
    /// and read.
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
    /// `NotFound`: no such topic, or none of this owner. `Invalid`: it is not a compacted one. `Full`: no room for
    /// some new file; what was exchanged stays so. `Corrupt`, `InDoubt`, `Closed`: partitions before may be
    /// compacted.
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

    /// Ends the round that is under way, if it is one of these topics; who compacts by hand begins another. Nobody is
    /// in a step on return.
    pub(super) fn give_up(&self, of: impl Fn(TopicId) -> bool) {
        let mut slot = self.slot.lock();
        let given_up = slot.round.take_if(|round| of(round.topic.id));
        self.at_work.store(slot.round.is_some(), Ordering::SeqCst);
        drop(slot);
        // What is left of it to take away is in nobody's way.
        drop(given_up);
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
            all.without_room += one.without_room;
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
        let now = self.options.clock.monotonic();
        if !slot.pace.rest(now).is_zero() {
            self.compacting.at_work.store(false, Ordering::SeqCst);
            return Ok(());
        }
        if slot.round.is_none() {
            let interval = self.options.retention_interval;
            if slot.looked.is_some_and(|looked| now.saturating_sub(looked) < interval) {
                return Ok(());
            }
            slot.looked = Some(now);
            // How often there was no room is remembered until it would long have been tried again.
            let kept = self.time_left_alone(DOUBLED_MAX);
            slot.left_alone.retain(|_, left| now < left.until.saturating_add(kept));
            slot.round = self.next_round(&mut slot)?;
        }
        if slot.round.is_some() {
            self.drive(&mut slot).map(drop).or_else(|failed| self.put_off(&mut slot, &failed))?;
        }
        self.compacting.at_work.store(slot.round.is_some() || slot.looked.is_none(), Ordering::SeqCst);
        Ok(())
    }

    /// Takes the round that is under way a step on. Gives one that is over.
    fn drive(&self, slot: &mut Slot) -> std::result::Result<Option<Round>, Failed> {
        let Some(mut round) = slot.round.take() else { return Ok(None) };
        let failed =
            |error, round: &Round| Failed { topic: Arc::clone(&round.topic), partition: round.partition.id, error };
        self.step(&mut round, &mut slot.pace).map_err(|error| failed(error, &round))?;
        if !round.is_over() {
            slot.round = Some(round);
            return Ok(None);
        }
        if let Some(error) = round.take_failure() {
            return Err(failed(error, &round));
        }
        // There may be more to do, here or elsewhere.
        slot.looked = None;
        if !round.has_changed() {
            self.leave_alone(slot, (round.topic.id, round.partition.id), false);
        } else if round.is_done() {
            slot.left_alone.remove(&(round.topic.id, round.partition.id));
        }
        Ok(Some(round))
    }

    fn step(&self, round: &mut Round, pace: &mut Pace) -> Result<()> {
        if round.clears {
            // What cannot be removed now is removed before the next exchange, or when the partition is put together.
            let cleared = round.partition.clear_some();
            round.clears = cleared.unwrap_or_else(|error| {
                tracing::warn!(%error, "files that were compacted stay");
                false
            });
            return Ok(());
        }
        match self.room(&round.partition).and_then(|room| round.step(room)) {
            // What is finished makes room.
            Err(error) if error.kind() == ErrorKind::Full && round.hand_back() => {}
            Err(error) if error.kind() == ErrorKind::Full => {
                tracing::debug!(%error, topic = round.topic.spec.name, partition = %round.partition.id, "passed over");
                round.pass_over(error);
                return Ok(());
            }
            Ok(()) if round.wants_exchange() => {}
            stepped => return stepped,
        }
        let exchanged = self.exchange_made(round);
        pace.moves(self.options.clock.monotonic());
        exchanged
    }

    /// What a compaction may still write, and leave to others what is theirs.
    fn room(&self, partition: &Partition) -> Result<u64> {
        let dir = partition.dir();
        let free = self.disk.free_bytes(dir).map_err(|error| Error::io(dir, "ask for the room that is left", error))?;
        Ok(free.map_or(u64::MAX, |free| free.saturating_sub(self.options.compaction_reserve)))
    }

    /// # Errors
    /// `Full`: there is not even room for the smallest of these files, or a step.
    fn check_room(&self, partition: &Partition, found: &Compactable) -> Result<()> {
        let room = self.room(partition)?;
        let least = found.segments.iter().map(|segment| segment.end().position).min();
        if room >= least.unwrap_or(0).min(STEP_BYTES as u64) {
            return Ok(());
        }
        let reserve = self.options.compaction_reserve;
        let what = format!("{room} bytes are free beside the {reserve} that a compaction leaves to others");
        Err(Error::new(ErrorKind::Full, what).in_file(partition.dir()))
    }

    /// Leaves a partition alone for a while, which failed.
    fn put_off(&self, slot: &mut Slot, failed: &Failed) -> Result<()> {
        let is_full = failed.error.kind() == ErrorKind::Full;
        self.leave_alone(slot, (failed.topic.id, failed.partition), is_full);
        self.note_failure(failed)
    }

    fn leave_alone(&self, slot: &mut Slot, partition: (TopicId, PartitionId), is_full: bool) {
        let before = slot.left_alone.get(&partition).filter(|_| is_full).map_or(0, |left| left.without_room);
        let until = self.options.clock.monotonic().saturating_add(self.time_left_alone(before));
        slot.left_alone.insert(partition, LeftAlone { until, without_room: before + u32::from(is_full) });
    }

    fn time_left_alone(&self, doubled: u32) -> Duration {
        self.options.retention_interval.saturating_mul(LOOKS_LEFT_OUT << doubled.min(DOUBLED_MAX))
    }

    /// A round that failed is told, and tried again later. Only what ends the handle is an error here.
    fn note_failure(&self, Failed { topic, partition, error }: &Failed) -> Result<()> {
        if error.kind() == ErrorKind::NotFound {
            // The topic is being deleted.
            return Ok(());
        }
        let (name, is_full) = (&topic.spec.name, error.kind() == ErrorKind::Full);
        if is_full {
            tracing::warn!(%error, topic = name, %partition, "no room to compact a partition");
        } else {
            tracing::error!(%error, topic = name, %partition, "a partition could not be compacted");
        }
        let mut topics = self.compacting.topics.lock();
        let stats = topics.entry(topic.id).or_default();
        stats.failures += 1;
        stats.without_room += u64::from(is_full);
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
            match self.begin_round(&topic, &partition, (settings, NO_END), due, &mut slot.pace) {
                Ok(Some(round)) => return Ok(Some(round)),
                Ok(None) => self.leave_alone(slot, (topic.id, partition.id), false),
                Err(error) => self.put_off(slot, &Failed { topic, partition: partition.id, error })?,
            }
        }
        Ok(None)
    }

    fn most_worth_it(&self, slot: &Slot) -> Result<Option<(Arc<Topic>, Arc<Partition>)>> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let now = self.options.clock.monotonic();
        let is_left_alone = |partition| slot.left_alone.get(&partition).is_some_and(|left| now < left.until);
        let (mut best, mut most) = (None, 0);
        for topic in self.compacted_topics()? {
            let Some(settings) = topic.spec.compaction else { continue };
            for partition in &topic.partitions {
                if is_left_alone((topic.id, partition.id)) || partition.check_takes().is_err() {
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
        let tombstones_ms = settings.tombstone_retention_ms();
        let found = partition.compactable(&mut partition.turn(), now_ms, (least_age, tombstones_ms), floor);
        if found.has_news {
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
        }
        found
    }

    /// Begins the compaction of a partition, of what lies below `upto`, unless `wanted` says that it is not worth it.
    fn begin_round(
        &self,
        topic: &Arc<Topic>,
        partition: &Arc<Partition>,
        (settings, upto): (Compaction, LogOffset),
        wanted: impl Fn(&Compactable) -> bool,
        pace: &mut Pace,
    ) -> Result<Option<Round>> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let floor = self.compaction_floor(topic, partition, now_ms)?.min(upto);
        let mut found = self.compactable(topic, partition, settings, now_ms, floor);
        if !found.is_settled && wanted(&found) {
            // Before anything is done for it: a trim that finds no room puts off those that would make some.
            self.check_room(partition, &found)?;
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
            let trimmed = self.trim(State::Open);
            pace.moves(self.options.clock.monotonic());
            trimmed?;
            found = self.compactable(topic, partition, settings, now_ms, floor);
        }
        let Some(last) = found.segments.last().filter(|_| found.is_settled && wanted(&found)) else { return Ok(None) };
        let stop = last.end().offset;
        // Before all of it is read for nothing.
        self.check_room(partition, &found)?;
        partition.clear_leftovers()?;
        let Some(generation) = partition.next_generation() else { return Ok(None) };
        let compacted = partition.compacted();
        tracing::debug!(topic = topic.spec.name, partition = %partition.id, %compacted, %stop, "a compaction begins");
        let (memory, piece_bytes) = (self.options.compaction_memory, self.options.compaction_piece_bytes);
        let limits = Limits { memory, piece_bytes };
        Ok(Some(Round::begin(topic, partition, settings, found.segments, (generation, stop), limits, now_ms)))
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

    /// All rounds that it takes to compact a partition up to where it is sealed now, each by what the topic is then.
    /// Drives whatever round is under way.
    fn compact_partition(&self, of: &Topic, partition: PartitionId) -> Result<()> {
        let wanted = |found: &Compactable| found.dirt.dirty > 0 || found.has_old_tombstones;
        let is_mine = |round: &Round| round.topic.id == of.id && round.partition.id == partition;
        // The background's may have begun too early to see all.
        let too_early = self.compacting.slot.lock().round.take_if(|round| is_mine(round));
        drop(too_early);
        // What is sealed while it is at work is for the next one, or it would never end.
        let mut upto = NO_END;
        loop {
            self.check_open()?;
            let mut slot = self.compacting.slot.lock();
            let rest = slot.pace.rest(self.options.clock.monotonic());
            if !rest.is_zero() {
                drop(slot);
                self.options.clock.sleep(rest);
                continue;
            }
            if slot.round.is_none() {
                let topic = self.topic(&of.spec.name)?;
                if topic.id != of.id {
                    return Err(Error::new(ErrorKind::NotFound, "the topic is deleted"));
                }
                let settings = settings_of(&topic)?;
                let one = topic.partition(partition)?;
                let begun = self.begin_round(&topic, one, (settings, upto), wanted, &mut slot.pace);
                match begun {
                    Ok(None) => return Ok(()),
                    Ok(Some(round)) => {
                        upto = round.end();
                        slot.round = Some(round);
                    }
                    Err(error) => return self.failed_by_hand(Failed { topic, partition, error }),
                }
            }
            match self.drive(&mut slot) {
                Err(failed) if failed.topic.id == of.id && failed.partition == partition => {
                    return self.failed_by_hand(failed);
                }
                Err(failed) => self.put_off(&mut slot, &failed)?,
                Ok(Some(round)) if is_mine(&round) && !round.has_changed() => return Ok(()),
                Ok(_) => {}
            }
            drop(slot);
            if !self.options.manual_duties {
                // Who waits for the slot has his turn.
                self.options.clock.sleep(PAUSE);
            }
        }
    }

    fn failed_by_hand(&self, failed: Failed) -> Result<()> {
        // That it has ended the store, if it has, is told by what comes next.
        let _ = self.note_failure(&failed);
        Err(failed.error)
    }
}
