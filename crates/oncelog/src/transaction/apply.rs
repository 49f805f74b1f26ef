//! Applying: copies the batches of durable frames to their places, moves the ends, then shows all of it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::error::{Error, Result};
use crate::ids::{Lsn, PartitionId, TopicId};
use crate::journal::{Apply, Placed};
use crate::page::{Board, PageState};
use crate::segment::Segment;
use crate::topic::{Partition, Placement};
use crate::view::View;
use crate::wake::Arc;

/// Batches at least this large are written from where they are; smaller ones that lie side by side go together.
const DIRECT_BYTES: usize = 64 << 10;

/// Applies the frames of one journal, in LSN order.
pub(crate) struct Applier {
    view: Arc<View>,
    /// What readers in other processes see.
    board: Option<Arc<Board>>,
    runs: Runs,
    /// Partitions that got records since the last trim point.
    touched: BTreeMap<(TopicId, PartitionId), Arc<Partition>>,
    /// Topics that are deleted, or about to be: what the trim point says of them goes with the next one.
    deleted: BTreeSet<TopicId>,
    /// A group could not be applied: no later one may be, or it would show what is not there.
    broken: bool,
}

/// A batch of a frame: where it is in the frame's bytes, and where it goes.
pub(crate) struct BatchAt {
    pub(super) bytes: Range<usize>,
    pub(super) to: Placement,
}

impl Applier {
    pub(crate) fn new(view: Arc<View>, board: Option<Arc<Board>>) -> Applier {
        Applier {
            view,
            board,
            runs: Runs::default(),
            touched: BTreeMap::new(),
            deleted: BTreeSet::new(),
            broken: false,
        }
    }

    /// The partitions that got records since this was last asked.
    pub(crate) fn take_touched(&mut self) -> Vec<Arc<Partition>> {
        std::mem::take(&mut self.touched).into_values().collect()
    }

    fn show(&self, durable: Lsn) -> Result<()> {
        if durable > self.view.visible() {
            self.view.publish(durable);
            if let Some(board) = &self.board {
                board.publish(durable);
            }
        }
        Ok(())
    }

    /// Fills the slots of what a group touched; seen when its LSN is visible.
    fn fill_slots(&self, frames: &[Placed<Vec<BatchAt>>], group_end: Lsn) {
        let Some(board) = &self.board else { return };
        let mut last = None;
        for batch in frames.iter().rev().flat_map(|frame| frame.context.iter().rev()) {
            let partition = &batch.to.partition;
            // From the end: only the last batch of a partition matters, and those before it mostly stand beside it.
            if last.is_none_or(|last| !Arc::ptr_eq(last, partition)) {
                board.set_end(partition.topic, partition.id, group_end, partition.applied_end());
            }
            last = Some(partition);
        }
    }

    /// Notes that a topic is deleted, or about to be: whether it is, its row in the catalogue says.
    pub(crate) fn forget_rows_of(&mut self, topic: TopicId) {
        self.deleted.insert(topic);
    }

    /// The topics that were so noted.
    pub(crate) fn deleted(&self) -> Vec<TopicId> {
        self.deleted.iter().copied().collect()
    }

    /// The trim point says nothing of these topics any more.
    pub(crate) fn are_forgotten(&mut self, topics: &[TopicId]) {
        self.deleted.retain(|topic| !topics.contains(topic));
    }

    /// Notes that a partition must be part of the next trim point.
    pub(crate) fn touch(&mut self, partition: &Arc<Partition>) {
        self.touched.entry((partition.topic, partition.id)).or_insert_with(|| Arc::clone(partition));
    }
}

impl Apply for Applier {
    type Context = Vec<BatchAt>;

    fn apply(&mut self, frames: &mut [Placed<Vec<BatchAt>>], durable: Lsn) -> Result<()> {
        if self.broken {
            return Err(Error::closed());
        }
        // Until all of it has gone well, a panic on the way included.
        self.broken = true;
        self.apply_group(frames, durable)?;
        self.broken = false;
        Ok(())
    }

    fn failed(&mut self) {
        if let Some(board) = &self.board {
            board.set_state(PageState::Failed);
        }
    }
}

impl Applier {
    fn apply_group(&mut self, frames: &mut [Placed<Vec<BatchAt>>], durable: Lsn) -> Result<()> {
        for frame in frames.iter_mut() {
            for batch in &frame.context {
                self.runs.add(&batch.to.segment, batch.to.position, &mut frame.bytes[batch.bytes.clone()])?;
            }
        }
        self.runs.flush()?;
        // What is shown moves from the end of a group to the end of a group, so the ends within one are never asked
        // for.
        let Some(group_end) = frames.last().map(|frame| frame.lsn) else { return self.show(durable) };
        for frame in frames.iter() {
            for batch in &frame.context {
                batch.to.partition.set_end(group_end, batch.to.next_offset);
                self.touch(&batch.to.partition);
            }
        }
        self.fill_slots(frames, group_end);
        if group_end > durable {
            self.view.publish_written(group_end);
        }
        self.show(durable)
    }
}

/// Writes to segments, put together while they lie side by side.
#[derive(Default)]
pub(super) struct Runs {
    open: Vec<Run>,
}

struct Run {
    segment: Arc<Segment>,
    start: u64,
    bytes: Vec<u8>,
}

impl Runs {
    pub(super) fn add(&mut self, segment: &Arc<Segment>, position: u64, batch: &mut [u8]) -> Result<()> {
        let run = self.open.iter_mut().rfind(|run| Arc::ptr_eq(&run.segment, segment));
        if batch.len() >= DIRECT_BYTES {
            if run.is_some() {
                self.flush()?;
            }
            return segment.apply(position, batch);
        }
        match run {
            Some(run) if run.start + run.bytes.len() as u64 == position => run.bytes.extend_from_slice(batch),
            _ => self.open.push(Run { segment: Arc::clone(segment), start: position, bytes: batch.to_vec() }),
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        for mut run in self.open.drain(..) {
            run.segment.apply(run.start, &mut run.bytes)?;
        }
        Ok(())
    }
}
