//! The end of what a round has written: the new files get their names, the trim point names them, the old files go.
//!
//! ```text
//! rename each -> sync of the directory -> plan_exchange (turn) -> trim point -> exchanged -> old files go bit by bit
//! ```
//!
//! Invariants: until the trim point is durable the old segments count, and a crash leaves all of an exchange or
//! nothing. What was named and came to nothing is taken away before anything else is compacted; an opening that was
//! overtaken while it named takes its names back. No old file is removed under a lock.

use super::round::{Made, Round};
use crate::disk::SyncSite;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::segment::Rewriter;
use crate::store::Core;
use crate::store::manifest::State;
use crate::topic::{Exchange, Partition};

impl Core {
    /// Puts what was written in place of what it was made from. The end of a round, and within one whenever there is
    /// enough, so that the room for old and new is never much.
    pub(super) fn exchange_made(&self, round: &mut Round) -> Result<()> {
        let (made, compacted) = round.take_made();
        let gone: u64 = made.iter().map(|made| made.gone).sum();
        let exchanged = self.exchange(round, made, compacted)?;
        round.removed_records += gone;
        round.is_exchanged();
        round.clears = exchanged.is_some();
        let (before, after) = exchanged.as_ref().map_or((0, 0), Exchange::bytes);
        let mut topics = self.compacting.topics.lock();
        let stats = topics.entry(round.topic.id).or_default();
        stats.bytes_before += before;
        stats.bytes_after += after;
        stats.removed_records += gone;
        let (topic, partition) = (&round.topic.spec.name, round.partition.id);
        tracing::debug!(topic, %partition, gone, before, after, "compacted segments are exchanged");
        if round.is_done() {
            stats.rounds += 1;
            stats.last_error = None;
            tracing::info!(topic, %partition, records = round.removed_records, upto = %round.stop, "compacted");
        }
        Ok(())
    }

    fn exchange(&self, round: &Round, made: Vec<Made>, compacted: LogOffset) -> Result<Option<Exchange>> {
        let partition = &round.partition;
        // Of the exchange before.
        partition.clear_leftovers()?;
        let _one_at_a_time = self.removing.lock();
        self.check_open()?;
        partition.check_takes()?;
        let (mut old, mut files) = (Vec::new(), Vec::new());
        for Made { of, file, .. } in made {
            let before = old.len();
            old.extend(round.segments[of].iter().filter(|segment| partition.holds(segment)).cloned());
            // Else all of it was removed meanwhile.
            if old.len() > before {
                files.push(file);
            }
        }
        if files.is_empty() {
            partition.is_compacted(compacted);
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
            return Ok(None);
        }
        self.fence.check()?;
        // And again: it may have been stopped in between, and nobody looks for the names of who was overtaken.
        if let Err(error) = self.name_all(partition, &mut files).and_then(|()| self.fence.check()) {
            partition.leave_over(files.iter().map(Rewriter::named_path));
            return Err(error);
        }
        let new = files.iter().map(Rewriter::segment).collect();
        let exchange = Exchange { old, new, compacted };
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
            _ if !is_undone => {
                // Only now: nobody comes to see any more what the tombstones of these files end.
                let now_ms = self.store_time.now_ms(&*self.options.clock);
                partition.count_tombstones(&exchange.new, now_ms, round.settings.tombstone_retention_ms());
                self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
                Ok(Some(exchange))
            }
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
}
