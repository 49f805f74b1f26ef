//! Moving the trim point: everything up to it is made durable in its own place, then the journal before it is recycled.
//!
//! Order: sync the segments, write and sync the tables, name both in the manifest, then give up the old state of the
//! tables and the old journal files.
//! At every instant the manifest names a state and a journal position that fit each other.

use std::ops::Bound;
use std::time::Duration;

use bytes::Bytes;

use super::manifest::State;
use super::{Core, compact};
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::journal::JournalPosition;
use crate::segment::{Segment, SegmentEnd};
use crate::table::{ScanRange, StateKey, TableBatch};
use crate::topic::{Exchange, Partition, PartitionState, Removal, SegmentRow};
use crate::transaction::EngineTx;
use crate::transaction::system;
use crate::wake::{Arc, Ordering, RaceSite, keeps};

impl Core {
    /// Moves the trim point to the newest frame and leaves the owner in `state`.
    ///
    /// # Errors
    /// `Full`: nothing has changed and it can be tried again. Anything else ends the handle.
    pub(super) fn trim(&self, state: State) -> Result<()> {
        let _one_at_a_time = self.trimming.lock();
        self.pipeline.flush()?;
        let journal = &self.pipeline.journal;
        let placed = journal.placed_bytes();
        let (position, pin, mut touched, noted, rows) = journal.at_rest(|applier, position| {
            // What the rows were at that place is written, and what follows from them is replayed over it: so the
            // versions of that place stay, however fast they change meanwhile.
            let pin = self.pipeline.view.pin(|| Lsn(position.next_lsn.0 - 1));
            let touched = applier.take_touched();
            let rows = if journal.has_failed() && keeps(RaceSite::TrimLooksForFailure) {
                // Since the flush above a group has failed: it is behind this place, and not applied.
                Err(Error::closed())
            } else {
                self.partition_rows(&touched)
            };
            (position, pin, touched, applier.deleted(), rows)
        });
        // As of that place: what is deleted before it is replayed by nobody, what is deleted behind it is for the next
        // trim. And not while the applier is held: looking at rows waits for turns, and whoever has one may be waiting
        // to lead.
        let rows = rows.and_then(|(mut rows, mut changes)| {
            let (deleted, mut gone) = self.deleted_rows(noted, pin.lsn())?;
            if !deleted.is_empty() {
                touched.retain(|partition| !deleted.contains(&partition.topic));
                changes.leave_out(&deleted);
                rows.retain(|key, _| place_of_row(key).is_none_or(|topic| !deleted.contains(&topic)));
                rows.append(&mut gone);
            }
            Ok((rows, (changes, deleted)))
        });
        let moved = rows.and_then(|(rows, changes)| self.trim_to(position, &touched, rows, state).map(|()| changes));
        drop(pin);
        let found_full = moved.as_ref().is_err_and(|error| error.kind() == ErrorKind::Full);
        self.pipeline.pressure.end_round(found_full);
        match moved {
            Ok((Changes { ends, removals, exchanges }, deleted)) => {
                journal.at_rest(|applier, _| applier.are_forgotten(&deleted));
                ends.iter().for_each(|(segment, end)| segment.is_recorded(*end));
                touched.iter().for_each(|partition| partition.settle());
                removals.iter().for_each(|(partition, removal)| self.remove_segments(partition, removal));
                exchanges.iter().for_each(|(partition, exchange)| partition.exchanged(exchange));
                self.pipeline.trim_at.store(placed.saturating_add(self.options.trim_bytes), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                journal.at_rest(|applier, _| touched.iter().for_each(|partition| applier.touch(partition)));
                if error.kind() == ErrorKind::Full {
                    // Not with every commit: the next try writes all of the state again.
                    let next = journal.placed_bytes().saturating_add(self.options.trim_bytes / 4);
                    self.pipeline.trim_at.store(next, Ordering::Relaxed);
                } else {
                    journal.fail();
                }
                Err(error)
            }
        }
    }

    /// Those of `noted` that are deleted as of `at`, which is pinned, and the rows in which the trim point says
    /// something of them, to delete.
    fn deleted_rows(&self, noted: Vec<TopicId>, at: Lsn) -> Result<(Vec<TopicId>, TableBatch)> {
        let (mut deleted, mut rows) = (Vec::new(), TableBatch::new());
        let catalogue = self.tables.shard(system::CATALOGUE, system::SHARD);
        for topic in noted {
            if catalogue.get(&system::CatalogueKey::Topic(topic).encode(), at)?.is_some() {
                continue;
            }
            let first = system::partition_key(topic, PartitionId(0));
            let last = [&system::partition_key(topic, PartitionId(u32::MAX))[..], &[0xff; 9]].concat();
            for table in [system::PARTITIONS, system::SEGMENTS] {
                let shard = self.tables.shard(table, system::SHARD);
                let range = (Bound::Included(&first[..]), Bound::Included(&last[..]));
                for (key, _) in shard.scan(ScanRange::between(range.0, range.1), at)? {
                    rows.insert(StateKey::of(table, system::SHARD, &key), None);
                }
            }
            deleted.push(topic);
        }
        Ok((deleted, rows))
    }

    fn trim_to(
        &self,
        position: JournalPosition,
        touched: &[Arc<Partition>],
        rows: TableBatch,
        state: State,
    ) -> Result<()> {
        let archived = if !is_kept(StepSite::ArchiveBeforeTrim) || self.options.mends.is_some() {
            // A mutant: what is not archived is given up. Or a repair: what it takes is not what was.
            None
        } else {
            self.spool_until(position)?
        };
        touched.iter().try_for_each(|partition| partition.sync())?;
        // Blocks of the table file are not of this opening alone: whoever has lost the owner keeps off.
        self.fence.check()?;
        self.tables.write_back(Lsn(position.next_lsn.0 - 1), rows)?;
        let Some(root) = self.backend.root() else { return Ok(()) };
        if !is_kept(StepSite::TrimBeforeRemoval) {
            touched.iter().for_each(|partition| self.remove_segments(partition, &partition.removal()));
            touched.iter().try_for_each(|partition| partition.clear_leftovers())?;
        }
        if !is_kept(StepSite::TrimBeforeExchange) {
            let exchanges = touched.iter().filter_map(|partition| Some((partition, partition.exchange()?)));
            exchanges.for_each(|(partition, exchange)| partition.exchanged(&exchange));
            touched.iter().try_for_each(|partition| partition.clear_leftovers())?;
        }
        if !is_kept(StepSite::ManifestBeforeRecycling) {
            self.pipeline.journal.release_before(position)?;
        }
        // A manifest that could not be written may be there or not: the handle ends, whatever the reason.
        self.manifest
            .lock()
            .update(|next| {
                next.trim = Some((position, root));
                next.state = state;
                next.archived = archived;
            })
            .inspect_err(|_| self.pipeline.journal.fail())?;
        tracing::debug!(lsn = position.next_lsn.0 - 1, ?state, "trim point moved");
        self.backend.confirm();
        // What cannot be removed now is swept away at the next opening.
        if let Err(error) = self.pipeline.journal.release_before(position) {
            tracing::warn!(%error, "an old journal file stays");
        }
        Ok(())
    }

    /// What the background does between two waits.
    pub(super) fn duties(&self) -> Result<()> {
        let journal = &self.pipeline.journal;
        self.fence.settle().inspect_err(|_| journal.fail())?;
        self.show_what_is_left();
        if self.pipeline.lingering.next_due().is_some() {
            self.pipeline.seal_lingering(Some(self.options.clock.monotonic()))?;
        }
        // One group only: a thread that submits without a pause must not keep the other duties from their turn.
        journal.lead();
        if self.lax_sync_is_due() {
            self.pipeline.flush()?;
        }
        let rows_are_due = self.pipeline.pressure.is_due(self.tables.unwritten_bytes());
        let mut trimmed = Ok(());
        let is_due = rows_are_due || journal.placed_bytes() >= self.pipeline.trim_at.load(Ordering::Relaxed);
        if self.archive_is_due() || is_due {
            trimmed = self.trim(State::Open);
        }
        if self.options.manual_duties {
            // Told where it failed.
            let _ = self.ship_spool();
        }
        // None keeps the others from their turn.
        let (delivered, retained, forgot) = (self.deliver_some(), self.retain_if_due(), self.forget_ids_if_due());
        let compacted = self.compact_if_due();
        let prepared = journal.prepare_spare();
        trimmed.and(delivered).and(retained).and(forgot).and(compacted).and(prepared)
    }

    /// How long the background waits at most between two looks.
    pub(super) fn duty_interval(&self) -> Duration {
        (self.sync_interval() / 4).clamp(Duration::from_millis(1), Duration::from_secs(1))
    }

    /// How long the background waits now: until the next look, or until an open batch has lingered long enough.
    pub(super) fn next_duty(&self) -> Duration {
        if self.has_ids_to_forget() {
            return Duration::ZERO;
        }
        let due = self.pipeline.lingering.next_due();
        let due = due.map(|due| due.saturating_sub(self.options.clock.monotonic()));
        let wait = if self.compacting.is_at_work() { compact::PAUSE } else { self.duty_interval() };
        let soonest = due.into_iter().chain(self.until_due()).min();
        soonest.map_or(wait, |due| due.min(wait))
    }

    /// The longest that something written stays unsynced, as the store and all who append to it asked for.
    fn sync_interval(&self) -> Duration {
        let asked = Duration::from_nanos(self.pipeline.sync_within.load(Ordering::Relaxed));
        self.options.os_sync_interval.min(asked)
    }

    /// What is appended from now on is synced within that time.
    pub(super) fn sync_within(&self, within: Duration) {
        let nanos = u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        // The background may be in a longer wait.
        if self.pipeline.sync_within.load(Ordering::Relaxed) > nanos
            && self.pipeline.sync_within.fetch_min(nanos, Ordering::Relaxed) > nanos
        {
            self.pipeline.journal.wake_background();
        }
    }

    fn lax_sync_is_due(&self) -> bool {
        let mut since = self.unsynced_since.lock();
        if !self.pipeline.journal.has_unsynced() {
            *since = None;
            return false;
        }
        let now = self.options.clock.monotonic();
        // It may have taken one wait to notice, and takes another until the next look.
        let patience = self.sync_interval().saturating_sub(2 * self.duty_interval());
        let due = now.saturating_sub(*since.get_or_insert(now)) >= patience;
        if due {
            *since = None;
        }
        due
    }

    /// The orderly end: nothing new is taken, everything is at the trim point, no bound is needed any more.
    pub(super) fn finish(&self) -> Result<()> {
        self.compacting.give_up(|_| true);
        self.pipeline.close_to_lax();
        self.pipeline.flush()?;
        match if self.options.continued { Ok(()) } else { self.clear_bounds() } {
            // A trim gives journal files back, and so the room for one more frame.
            Err(error) if error.kind() == ErrorKind::Full => {
                self.trim(State::Open)?;
                self.clear_bounds()?;
            }
            cleared => cleared?,
        }
        self.pipeline.journal.close()?;
        self.trim(State::Closed)?;
        for topic in self.pipeline.topics.all_loaded() {
            topic.partitions.iter().try_for_each(|partition| partition.shrink())?;
        }
        Ok(())
    }

    fn clear_bounds(&self) -> Result<()> {
        let mut tx = self.begin();
        for (key, _) in tx.scan(system::BOUNDS, system::SHARD, ScanRange::ALL)? {
            tx.put(system::BOUNDS, system::SHARD, &key, None)?;
        }
        Box::new(tx).submit()?.wait().map(drop)
    }
}

/// What follows when a trim point is durable.
#[derive(Default)]
struct Changes {
    /// Segments with the ends that it gives them.
    ends: Vec<(Arc<Segment>, SegmentEnd)>,
    /// What it says nothing of any more.
    removals: Vec<(Arc<Partition>, Removal)>,
    /// What it puts in place of others.
    exchanges: Vec<(Arc<Partition>, Exchange)>,
}

impl Changes {
    /// What is of these topics is no part of it.
    fn leave_out(&mut self, topics: &[TopicId]) {
        let stays = |topic: TopicId| !topics.contains(&topic);
        self.ends.retain(|(segment, _)| stays(segment.head.topic));
        self.removals.retain(|(partition, _)| stays(partition.topic));
        self.exchanges.retain(|(partition, _)| stays(partition.topic));
    }
}

/// The topic of a row that says where a partition is.
fn place_of_row(key: &[u8]) -> Option<TopicId> {
    let (table, _, own) = StateKey::read(key)?;
    let of_place = [system::PARTITIONS, system::SEGMENTS].contains(&table);
    of_place.then(|| system::read_partition_key(own)).flatten().map(|(topic, _)| topic)
}

impl Core {
    /// The rows that say where the partitions are now, as far as the last trim point does not say it, and what time it
    /// is.
    fn partition_rows(&self, touched: &[Arc<Partition>]) -> Result<(TableBatch, Changes)> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let (mut rows, mut changes) = (TableBatch::new(), Changes::default());
        let flat = |table, key: &[u8]| StateKey::of(table, system::SHARD, key);
        rows.insert(flat(system::TIME, system::TIME_KEY), Some(Bytes::from(system::encode_row(&now_ms)?)));
        for partition in touched {
            let key = system::partition_key(partition.topic, partition.id);
            let removal = partition.removal();
            let exchange = partition.exchange();
            let compacted = exchange.as_ref().map_or(LogOffset(0), |exchange| exchange.compacted);
            let state = PartitionState {
                next_offset: partition.applied_end(),
                start: partition.start().max(removal.start),
                compacted: partition.compacted().max(compacted),
            };
            rows.insert(flat(system::PARTITIONS, &key), Some(Bytes::from(system::encode_row(&state)?)));
            for (segment, end) in partition.changes(now_ms) {
                let key = system::segment_key(partition.topic, partition.id, segment.head.base_offset);
                let row = system::encode_row(&SegmentRow::of(&segment.head, end))?;
                rows.insert(flat(system::SEGMENTS, &key), Some(Bytes::from(row)));
                changes.ends.push((segment, end));
            }
            for base in removal.bases() {
                rows.insert(flat(system::SEGMENTS, &system::segment_key(partition.topic, partition.id, base)), None);
            }
            changes.removals.push((Arc::clone(partition), removal));
            let Some(exchange) = exchange else { continue };
            let key = |segment: &Segment| {
                let key = system::segment_key(partition.topic, partition.id, segment.head.base_offset);
                flat(system::SEGMENTS, &key)
            };
            exchange.old.iter().for_each(|segment| drop(rows.insert(key(segment), None)));
            for segment in &exchange.new {
                let row = system::encode_row(&SegmentRow::of(&segment.head, segment.end()))?;
                rows.insert(key(segment), Some(Bytes::from(row)));
            }
            changes.exchanges.push((Arc::clone(partition), exchange));
        }
        Ok((rows, changes))
    }
}
