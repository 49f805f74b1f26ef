//! Removing the oldest records of a topic.
//!
//! All that one round removes goes with one trim point: it holds the new starts and no rows for the segments that go.
//! Then the starts are shown, first to this process and then to others, and, when nobody waits for it any more, the
//! files are removed. Until the trim point is durable nothing has changed.

use super::manifest::State;
use super::page::OwnerPage;
use super::{Core, Store};
use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId};
use crate::topic::{Partition, Removal};
use crate::wake::{Arc, Ordering};

impl Store {
    /// Removes the records of a partition below `offset`; durable on return, and all or nothing after a crash. Segments
    /// that hold no other records are given back to the file system, the newest one too; what else lies in a segment
    /// with records that are kept takes its room until they go, and cannot be read any more.
    ///
    /// Consumers that stand below `offset` are told a [`Gap`](crate::ErrorKind::Gap) that ends there; offsets go on as
    /// if nothing had happened. Nothing is done if what is kept begins at `offset` or above it already. Moves the trim
    /// point.
    ///
    /// ```
    /// use oncelog::{LogOffset, PartitionId, Store, TopicDef, Utf8};
    /// # fn main() -> oncelog::Result<()> {
    /// const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines");
    /// let store = Store::in_memory()?;
    /// store.producer(LINES)?.append_batch([("a", "1"), ("b", "2"), ("c", "3")])?;
    /// store.truncate_before("lines", PartitionId(0), LogOffset(2))?;
    /// assert_eq!(store.offsets("lines", PartitionId(0))?, (LogOffset(2), LogOffset(3)));
    /// # store.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// `NotFound`: no such topic, or none of this owner. `Invalid`: no such partition, or `offset` is behind its
    /// visible end. `Full`: no room for the trim point; nothing was removed, and no later one removes it. `InDoubt`,
    /// `Closed`.
    pub fn truncate_before(&self, topic: &str, partition: PartitionId, offset: LogOffset) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        let topic = core.topic(topic)?;
        let partition = topic.partition(partition)?;
        let end = partition.end_at(core.pipeline.view.visible());
        if offset > end {
            let what =
                format!("topic {:?}, partition {}: {offset} is behind the end, {end}", topic.spec.name, partition.id);
            return Err(Error::invalid(what));
        }
        core.remove_below(&[(Arc::clone(partition), offset)])
    }
}

impl Core {
    /// Removes what lies below these offsets, which must be visible, in one durable step.
    pub(super) fn remove_below(&self, starts: &[(Arc<Partition>, LogOffset)]) -> Result<()> {
        let removed = self.remove_records(starts);
        for (partition, _) in starts {
            // What cannot be removed now is removed after the next ones, or when the partition is next put together.
            if let Err(error) = partition.clear_leftovers() {
                tracing::warn!(%error, "files of removed records stay");
            }
        }
        removed
    }

    fn remove_records(&self, starts: &[(Arc<Partition>, LogOffset)]) -> Result<()> {
        let _one_at_a_time = self.removing.lock();
        let starts: Vec<_> = starts.iter().filter(|(partition, start)| *start > partition.start()).collect();
        if starts.is_empty() {
            return Ok(());
        }
        let plan = |(partition, start): &&(Arc<Partition>, LogOffset)| {
            {
                let mut turn = partition.turn();
                partition.check_takes()?;
                partition.plan_removal(&mut turn, *start);
            }
            self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
            Ok(())
        };
        let moved = starts.iter().try_for_each(plan).and_then(|()| self.trim(State::Open));
        let Err(error) = moved else { return Ok(()) };
        // Whatever it says: another trim may have done it, or be about to. While none is on its way, what is not done
        // is taken back for good.
        let _no_trim = self.trimming.lock();
        starts.iter().for_each(|(partition, _)| partition.keep_all());
        if starts.iter().all(|(partition, start)| partition.start() >= *start) { Ok(()) } else { Err(error) }
    }

    /// The trim point no longer holds what `removal` names.
    pub(super) fn remove_segments(&self, partition: &Partition, removal: &Removal) {
        partition.removed(removal);
        self.retaining.removed_segments.fetch_add(removal.count() as u64, Ordering::SeqCst);
        self.retaining.removed_bytes.fetch_add(removal.bytes(), Ordering::SeqCst);
        if let Some(board) = self.page.as_ref().and_then(OwnerPage::board) {
            board.set_start(partition.topic, partition.id, partition.start());
        }
    }
}
