//! From a filled transaction to a frame with its place: turns, validation, offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use super::apply::{Applier, BatchAt};
use super::delayed::Delays;
use super::engine::{Appended, Committed};
use super::frame::FrameWriter;
use super::linger::Lingering;
use super::spares::Spares;
use super::staged::StoreTx;
use super::stamps::{StagedStamp, StampRow, stamp_rows};
use super::system;
use super::topics::Topics;
use crate::clock::Clock;
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, ShardId, TableId};
use crate::journal::{Durability, Journal, Ticket};
use crate::producer::OpenStamps;
use crate::record;
use crate::table::{Pressure, ShardGuard, Tables};
use crate::topic::{Partition, Plan, Room, Topic, Turn};
use crate::view::View;
use crate::wake::{Arc, AtomicBool, AtomicU32, AtomicU64, MutexGuard, Ordering};

/// How far ahead of a partition's next offset its bound is set: one sync for a million lax records.
pub(super) const BOUND_AHEAD: u64 = 1 << 20;

/// Sizes that a transaction must keep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) record_bytes_max: usize,
    pub(crate) transaction_bytes_max: usize,
    /// A batch is ended before it grows beyond this, unless it is one record.
    pub(crate) batch_bytes: usize,
}

/// What turns transactions into frames and frames into what readers see.
pub(crate) struct Pipeline {
    pub(crate) journal: Journal<Applier>,
    pub(crate) tables: Arc<Tables>,
    pub(crate) topics: Arc<Topics>,
    pub(crate) view: Arc<View>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Limits,
    pub(crate) open_stamps: Arc<OpenStamps>,
    pub(crate) lingering: Lingering,
    pub(crate) spares: Spares,
    /// The most nanoseconds that what is written and not synced may wait: the least that anybody asked for.
    pub(crate) sync_within: AtomicU64,
    /// Whether a background thread leads groups for callers that do not wait.
    pub(crate) has_background: bool,
    pub(crate) spread: AtomicU32,
    /// The background is told when this many bytes of journal are placed.
    pub(crate) trim_at: AtomicU64,
    /// How much of the tables may be in memory only.
    pub(crate) pressure: Pressure,
    /// The store is being closed: no more frames that are answered before they are durable. Read under turns.
    pub(crate) closing: AtomicBool,
    /// Appends to topics that were full.
    pub(crate) refused: AtomicU64,
    /// The archive of the journal is behind by as much as it may be.
    pub(crate) archive_full: AtomicBool,
    pub(crate) delays: Delays,
}

/// A transaction that has its place.
pub(crate) struct Pending {
    pipeline: Arc<Pipeline>,
    ticket: Option<Ticket>,
    committed: Committed,
}

impl Pending {
    pub(super) fn is_done(&self) -> bool {
        self.ticket.as_ref().is_none_or(Journal::<Applier>::is_done)
    }

    pub(super) fn hand_over(&self) {
        if self.ticket.is_some() && self.pipeline.has_background {
            self.pipeline.journal.nudge();
        }
    }

    /// Without a background nobody else would lead: then the caller is told to wait, and does.
    pub(super) fn wake_when_done(&self, waker: &Waker) -> bool {
        let Some(ticket) = &self.ticket else { return false };
        self.pipeline.has_background && Journal::<Applier>::register(ticket, waker)
    }

    pub(crate) fn wait(self) -> Result<Committed> {
        match &self.ticket {
            Some(ticket) => self.pipeline.journal.wait(ticket).map(|()| self.committed),
            None => Ok(self.committed),
        }
    }
}

impl Pipeline {
    pub(super) fn next_spread(&self) -> u32 {
        self.spread.fetch_add(1, Ordering::Relaxed)
    }

    /// Gives the transaction its place in the journal; it is then handed over and will happen unless the disk fails.
    ///
    /// # Errors
    /// `Conflict`: what it read has changed; `Full`, `Unavailable`: no room; `Closed`. It did not happen then.
    pub(super) fn submit(self: &Arc<Self>, tx: StoreTx) -> Result<Pending> {
        if !tx.writes.is_empty() {
            self.wait_for_table_memory()?;
        }
        self.submit_at_once(tx)
    }

    /// As [`Pipeline::submit`], however much of the tables is in memory only: for the background, which nobody else
    /// would relieve.
    pub(crate) fn submit_at_once(self: &Arc<Self>, tx: StoreTx) -> Result<Pending> {
        let (ticket, committed) = if tx.is_read_only() {
            (self.confirm_reads(&tx)?, Committed::default())
        } else {
            let timers = tx.timers();
            let (ticket, committed) = self.place(tx)?;
            if timers.into_iter().filter(|timer| self.delays.add(*timer)).count() > 0 {
                self.journal.wake_background();
            }
            (Some(ticket), committed)
        };
        let rows_are_due = self.has_background && self.pressure.is_due(self.tables.unwritten_bytes());
        if ticket.is_some() && (rows_are_due || self.journal.placed_bytes() >= self.trim_at.load(Ordering::Relaxed)) {
            self.journal.wake_background();
        }
        Ok(Pending { pipeline: Arc::clone(self), ticket, committed })
    }

    /// Waits, before any turn is taken, until rows that are in memory only take less than they may.
    pub(crate) fn wait_for_table_memory(&self) -> Result<()> {
        let bytes = || {
            let ends = self.closing.load(Ordering::SeqCst) || self.journal.has_failed();
            (!ends).then(|| self.tables.unwritten_bytes())
        };
        self.pressure.wait(bytes, || self.journal.wake_background())
    }

    /// A transaction that wrote nothing saw one state as a whole; it is answered when that state is durable.
    fn confirm_reads(&self, tx: &StoreTx) -> Result<Option<Ticket>> {
        match &tx.pin {
            Some(pin) if pin.lsn() > self.view.visible() => match self.mark_frame() {
                // Nothing is written by it, so it needs no room either.
                Err(error) if error.kind() == ErrorKind::Full => self.journal.settle().map(|()| None),
                ticket => ticket.map(Some),
            },
            _ => Ok(None),
        }
    }

    /// Takes no more frames that are answered before they are durable; those that have their place are queued on
    /// return.
    pub(crate) fn close_to_lax(&self) {
        self.closing.store(true, Ordering::SeqCst);
        // Whoever has looked before holds a turn until its frame is queued.
        for topic in self.topics.all_loaded() {
            topic.partitions.iter().for_each(|partition| drop(partition.turn()));
        }
    }

    /// Lets nothing more happen to a topic that is about to be deleted; what has its place on return comes before.
    ///
    /// # Errors
    /// `Closed`: the journal has ended.
    pub(crate) fn retire(&self, topic: &Topic) -> Result<()> {
        self.topics.set_retired(topic.id, true);
        for partition in &topic.partitions {
            let mut turn = partition.turn();
            self.seal(partition, &mut turn)?;
            partition.set_retired(&turn, true);
        }
        Ok(())
    }

    /// Takes [`Pipeline::retire`] back.
    pub(crate) fn keep(&self, topic: &Topic) {
        topic.partitions.iter().for_each(|partition| partition.set_retired(&partition.turn(), false));
        self.topics.set_retired(topic.id, false);
    }

    /// Progress and stamps in a topic that is deleted would stay for ever. Asked under the turn of their rows: whoever
    /// deletes takes it after the topic is retired and before it looks for such rows.
    fn check_topics_of_rows(&self, tx: &StoreTx) -> Result<()> {
        let of_table = |id: TableId| {
            let rows = tx.writes.range((id, system::SHARD, Vec::new())..);
            rows.take_while(move |((table, ..), _)| *table == id)
        };
        let rows = [system::PROGRESS, system::WAITED_FOR].into_iter().flat_map(of_table);
        let rows = rows.filter(|(_, value)| value.is_some());
        let topics = rows.filter_map(|((_, _, key), _)| system::topic_of_key(key));
        let topics = topics.chain(tx.timers().into_iter().map(|timer| timer.topic));
        topics.chain(tx.stamps.iter().map(|staged| staged.topic)).try_for_each(|id| self.topics.check_takes_rows(id))
    }

    /// An empty frame, so that the sync of its group covers all before it, and there is something to wait on.
    fn mark_frame(&self) -> Result<Ticket> {
        let mut writer = FrameWriter::new(0, 0);
        writer.rows(0);
        writer.stamps(0);
        self.journal.enqueue(writer.finish(), Vec::new(), Durability::Synced)
    }

    /// Makes everything that has its place durable. Also on a full disk: room for open batches was taken before.
    pub(crate) fn flush(&self) -> Result<()> {
        self.seal_lingering(None)?;
        if self.view.visible() >= self.journal.head() && !self.journal.has_failed() {
            return Ok(());
        }
        self.journal.settle()
    }

    fn place(&self, mut tx: StoreTx) -> Result<(Ticket, Committed)> {
        tx.appends.retain(|staged| staged.expected.is_some() || !staged.is_empty());
        tx.appends.sort_by_key(|staged| (staged.partition.topic, staged.partition.id));
        let (mut bytes, ranges) = encode(&mut tx);
        loop {
            match self.try_place(&tx, bytes, &ranges)? {
                Placing::Done(ticket, committed) => return Ok((ticket, committed)),
                Placing::RaiseBound(again, partition) => {
                    bytes = again;
                    self.raise_bound(&tx.appends[partition].partition)?;
                }
            }
        }
    }

    fn try_place(&self, tx: &StoreTx, mut bytes: Vec<u8>, ranges: &[BatchRange]) -> Result<Placing> {
        if self.archive_full.load(Ordering::Relaxed) && !self.closing.load(Ordering::SeqCst) {
            let what = "the archive of the journal cannot be written, and what waits for it takes all the room it may";
            return Err(Error::new(ErrorKind::Full, what));
        }
        let shards = self.shards_of(tx);
        let mut turns = Turns::take(&shards, tx);
        for (staged, turn) in tx.appends.iter().zip(&mut turns.partitions) {
            self.seal(&staged.partition, turn)?;
        }
        self.validate(tx, &turns.shards)?;
        if tx.durability == Durability::Written && self.closing.load(Ordering::SeqCst) {
            return Err(Error::closed());
        }
        self.check_topics_of_rows(tx)?;
        self.check_expected(tx, &turns)?;
        let plans = turns.plan(tx, ranges)?;
        if let Err(error) = self.check_room(tx, &plans) {
            turns.give_up(tx, plans);
            return Err(error);
        }
        if tx.durability == Durability::Written
            && let Some(past) = turns.past_bound(&plans)
        {
            turns.give_up(tx, plans);
            return Ok(Placing::RaiseBound(bytes, past));
        }
        let committed = Committed { appended: appended(tx, &plans, ranges) };
        let stamps = turns.shards.get(&(system::STAMPS, system::SHARD));
        let stamp_rows = match stamp_rows(tx, stamps, &committed.appended) {
            Ok(rows) => rows,
            Err(error) => {
                turns.give_up(tx, plans);
                return Err(error);
            }
        };
        let mut plans = plans;
        let placements = plans.iter_mut().flat_map(|plan| std::mem::take(&mut plan.placements));
        let mut context = Vec::with_capacity(ranges.len());
        for (range, to) in ranges.iter().zip(placements) {
            record::set_base_offset(&mut bytes[range.bytes.clone()], to.base_offset);
            context.push(BatchAt { bytes: range.bytes.clone(), to });
        }
        let ticket = match self.journal.enqueue(bytes, context, tx.durability) {
            Ok(ticket) => ticket,
            Err(error) => {
                turns.give_up(tx, plans);
                return Err(error);
            }
        };
        if !is_kept(StepSite::StampsInFrame) {
            self.write_apart(&stamp_rows)?;
        }
        turns.decide(tx, plans, stamp_rows, ticket.lsn);
        Ok(Placing::Done(ticket, committed))
    }

    /// What must not be: the rows of stamps in a frame of their own, behind the one with the records.
    #[cold]
    fn write_apart(&self, stamps: &[StampRow]) -> Result<()> {
        let mut writer = FrameWriter::new(stamps.iter().map(|(key, row)| key.len() + row.len() + 32).sum(), 0);
        writer.rows(stamps.len());
        for (key, row) in stamps {
            writer.row(system::STAMPS, system::SHARD, key, Some(row));
        }
        writer.stamps(0);
        self.journal.enqueue(writer.finish(), Vec::new(), Durability::Synced).map(drop)
    }

    /// The shards that the transaction reads or writes, in the order in which turns are taken.
    fn shards_of(&self, tx: &StoreTx) -> BTreeMap<(TableId, ShardId), Arc<crate::table::Shard>> {
        let mut names: BTreeSet<(TableId, ShardId)> =
            tx.writes.keys().map(|(table, shard, _)| (*table, *shard)).collect();
        if !tx.stamps.is_empty() {
            names.insert((system::STAMPS, system::SHARD));
        }
        names.extend(tx.reads.keys.iter().map(|(table, shard, _)| (*table, *shard)));
        names.extend(tx.reads.ranges.iter().map(|(table, shard, _, _)| (*table, *shard)));
        names.into_iter().map(|(table, shard)| ((table, shard), self.tables.shard(table, shard))).collect()
    }

    fn check_room(&self, tx: &StoreTx, plans: &[Plan]) -> Result<()> {
        let room = |plan: &Plan, partition: &Partition| partition.usage().room_for(plan.bytes);
        tx.appends
            .iter()
            .zip(plans)
            .try_for_each(|(staged, plan)| self.admit(&staged.partition, room(plan, &staged.partition)))
    }

    /// # Errors
    /// `TopicFull`, `Invalid`: there is no room, now or ever.
    pub(super) fn admit(&self, partition: &Partition, room: Room) -> Result<()> {
        if room == Room::Enough {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        room.check(&self.topics.get(partition.topic)?.spec.name)
    }

    fn check_expected(&self, tx: &StoreTx, turns: &Turns<'_>) -> Result<()> {
        for (staged, turn) in tx.appends.iter().zip(&turns.partitions) {
            if let Some(expected) = staged.expected.filter(|expected| *expected != turn.next_offset) {
                let Partition { topic, id, .. } = *staged.partition;
                let name = self.topics.get(topic)?.spec.name.clone();
                return Err(Error::unexpected_offset(&name, id.0, expected, turn.next_offset));
            }
        }
        Ok(())
    }

    fn validate(&self, tx: &StoreTx, shards: &BTreeMap<(TableId, ShardId), ShardGuard<'_>>) -> Result<()> {
        let Some(since) = tx.pin.as_ref().map(|pin| pin.lsn()) else { return Ok(()) };
        let changed = tx.reads.keys.iter().any(|(table, shard, key)| {
            shards.get(&(*table, *shard)).is_some_and(|rows| rows.changed_since(key, since))
        });
        let changed = changed
            || tx.reads.ranges.iter().any(|(table, shard, start, end)| {
                let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
                shards.get(&(*table, *shard)).is_some_and(|rows| rows.range_changed_since(start, end, since))
            });
        if changed {
            return Err(Error::new(ErrorKind::Conflict, "a row that the transaction read has changed since"));
        }
        Ok(())
    }

    /// Makes a higher bound of the partition durable, so that lax appends may go on.
    pub(super) fn raise_bound(&self, partition: &Arc<Partition>) -> Result<()> {
        let key = system::partition_key(partition.topic, partition.id);
        let shard = self.tables.shard(system::BOUNDS, system::SHARD);
        let ticket = {
            let mut rows = shard.turn();
            let turn = partition.turn();
            partition.check_takes()?;
            if self.closing.load(Ordering::SeqCst) {
                return Err(Error::closed());
            }
            let bound = turn.next_offset.plus(BOUND_AHEAD);
            let value = system::encode_row(&bound)?;
            let mut writer = FrameWriter::new(value.len() + 64, 0);
            writer.rows(1);
            writer.row(system::BOUNDS, system::SHARD, &key, Some(&value));
            writer.stamps(0);
            let ticket = self.journal.enqueue(writer.finish(), Vec::new(), Durability::Synced)?;
            rows.put(key.to_vec(), Some(value.into()), ticket.lsn);
            (ticket, bound)
        };
        self.journal.wait(&ticket.0)?;
        let mut turn = partition.turn();
        turn.bound = turn.bound.max(ticket.1);
        Ok(())
    }
}

enum Placing {
    Done(Ticket, Committed),
    /// The frame's bytes back, and which of the transaction's partitions has reached its bound.
    RaiseBound(Vec<u8>, usize),
}

/// A batch in the frame's bytes.
struct BatchRange {
    /// Which of the transaction's partitions.
    staged: usize,
    bytes: std::ops::Range<usize>,
    records: u32,
}

fn encode(tx: &mut StoreTx) -> (Vec<u8>, Vec<BatchRange>) {
    let count = tx.appends.iter().flat_map(|staged| &staged.batches).filter(|batch| !batch.is_empty()).count();
    let size: usize = tx.appends.iter().flat_map(|staged| &staged.batches).map(|batch| batch.len_bytes() + 16).sum();
    let rows: usize =
        tx.writes.iter().map(|(key, value)| key.2.len() + value.as_ref().map_or(0, |v| v.len()) + 28).sum();
    let stamps: usize = tx.stamps.iter().map(StagedStamp::bytes).sum();
    let mut writer = FrameWriter::new(size + rows + stamps, count);
    let mut ranges = Vec::with_capacity(count);
    for (at, staged) in tx.appends.iter_mut().enumerate() {
        for batch in staged.batches.iter_mut().filter(|batch| !batch.is_empty()) {
            let records = batch.count();
            let bytes =
                writer.batch(staged.partition.topic, staged.partition.id, batch, staged.partition.compression());
            ranges.push(BatchRange { staged: at, bytes, records });
        }
        staged.batches.drain(..).for_each(|batch| tx.pipeline.spares.keep(batch));
    }
    writer.rows(tx.writes.len());
    for ((table, shard, key), value) in &tx.writes {
        writer.row(*table, *shard, key, value.as_deref());
    }
    let stamps = if is_kept(StepSite::StampsInFrame) { &tx.stamps[..] } else { &[] };
    writer.stamps(stamps.len());
    for staged in stamps {
        writer.stamp(&staged.producer, staged.topic, staged.partition, &staged.stamp);
    }
    (writer.finish(), ranges)
}

fn appended(tx: &StoreTx, plans: &[Plan], ranges: &[BatchRange]) -> Vec<Appended> {
    let mut appended: Vec<Appended> = Vec::with_capacity(plans.len());
    for (at, (staged, plan)) in tx.appends.iter().zip(plans).enumerate() {
        let count = ranges.iter().filter(|range| range.staged == at).map(|range| u64::from(range.records)).sum();
        let Some(first) = plan.placements.first().map(|to| to.base_offset) else { continue };
        appended.push(Appended { topic: staged.partition.topic, partition: staged.partition.id, first, count });
    }
    appended
}

/// All turns of one transaction, taken in order: shards, then partitions.
struct Turns<'a> {
    shards: BTreeMap<(TableId, ShardId), ShardGuard<'a>>,
    partitions: Vec<MutexGuard<'a, Turn>>,
}

impl<'a> Turns<'a> {
    fn take(shards: &'a BTreeMap<(TableId, ShardId), Arc<crate::table::Shard>>, tx: &'a StoreTx) -> Turns<'a> {
        let shards = shards.iter().map(|(name, shard)| (*name, shard.turn())).collect();
        let partitions = tx.appends.iter().map(|staged| staged.partition.turn()).collect();
        Turns { shards, partitions }
    }

    fn plan(&self, tx: &StoreTx, ranges: &[BatchRange]) -> Result<Vec<Plan>> {
        let mut plans = Vec::with_capacity(self.partitions.len());
        for (at, (staged, turn)) in tx.appends.iter().zip(&self.partitions).enumerate() {
            let batches = ranges.iter().filter(|range| range.staged == at);
            match turn.plan(&staged.partition, batches.map(|range| (range.bytes.len(), range.records))) {
                Ok(plan) => plans.push(plan),
                Err(error) => {
                    self.give_up(tx, plans);
                    return Err(error);
                }
            }
        }
        Ok(plans)
    }

    fn past_bound(&self, plans: &[Plan]) -> Option<usize> {
        self.partitions.iter().zip(plans).position(|(turn, plan)| plan.next_offset > turn.bound)
    }

    fn give_up(&self, tx: &StoreTx, plans: Vec<Plan>) {
        for (staged, plan) in tx.appends.iter().zip(plans) {
            plan.give_up(&staged.partition);
        }
    }

    /// The frame has its LSN: what it decided becomes the head of partitions and shards.
    fn decide(mut self, tx: &StoreTx, plans: Vec<Plan>, stamp_rows: Vec<StampRow>, lsn: Lsn) {
        for (turn, plan) in self.partitions.iter_mut().zip(plans) {
            turn.take(plan);
        }
        for ((table, shard, key), value) in &tx.writes {
            if let Some(rows) = self.shards.get_mut(&(*table, *shard)) {
                rows.put(key.clone(), value.clone(), lsn);
            }
        }
        if let Some(rows) = self.shards.get_mut(&(system::STAMPS, system::SHARD)) {
            stamp_rows.into_iter().for_each(|(key, state)| rows.put(key, Some(state), lsn));
        }
    }
}
