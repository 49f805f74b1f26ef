//! One partition: who appends next and where (the turn), which segments there are, and the end that readers see.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::disk::{Disk, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{Epoch, LogOffset, Lsn, PartitionId, StoreId, TopicId};
use crate::record::BatchBuilder;
use crate::segment::{SEGMENT_HEAD_BYTES, Segment, SegmentEnd, SegmentHead};
use crate::view::View;
use crate::wake::{Arc, Mutex, MutexGuard, RwLock};

/// What it takes to make the segments of one partition.
pub(crate) struct SegmentMaker {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) chance: Arc<Chance>,
    pub(crate) store: StoreId,
    pub(crate) epoch: Epoch,
    pub(crate) dir: PathBuf,
    pub(crate) file_roll_size: u64,
}

/// A partition that is open.
pub(crate) struct Partition {
    pub(crate) topic: TopicId,
    pub(crate) id: PartitionId,
    maker: SegmentMaker,
    turn: Mutex<Turn>,
    segments: RwLock<Vec<Arc<Segment>>>,
    ends: Mutex<VecDeque<(Lsn, LogOffset)>>,
    view: Arc<View>,
}

/// Who holds it appends next.
#[derive(Default)]
pub(crate) struct Turn {
    pub(crate) next_offset: LogOffset,
    /// Appends that are answered before they are durable stay below it; it is durable itself.
    pub(crate) bound: LogOffset,
    active: Option<Active>,
    /// Set while `gathered` holds records with offsets from `next_offset` on that have no frame yet. Whoever plans
    /// makes one of them before.
    pub(crate) open: Option<OpenBatch>,
    pub(crate) gathered: BatchBuilder,
}

/// A batch that records are still put into.
pub(crate) struct OpenBatch {
    /// Of records that give none themselves.
    pub(crate) timestamp_ms: i64,
    /// On the monotonic clock: when it has waited long enough.
    pub(crate) due: Duration,
    /// Room for so many bytes is taken in the segment.
    pub(crate) limit: usize,
    /// And for so many in the journal.
    pub(crate) promised: u64,
}

/// Where the next batch goes, and how far room is taken.
#[derive(Clone)]
struct Active {
    segment: Arc<Segment>,
    position: u64,
    reserved: u64,
}

/// Where one batch of a frame goes.
pub(crate) struct Placement {
    pub(crate) partition: Arc<Partition>,
    pub(crate) segment: Arc<Segment>,
    pub(crate) position: u64,
    pub(crate) base_offset: LogOffset,
    pub(crate) next_offset: LogOffset,
}

/// A turn's decision, not yet taken.
pub(crate) struct Plan {
    /// In the order of the batches that were planned.
    pub(crate) placements: Vec<Placement>,
    pub(crate) next_offset: LogOffset,
    active: Option<Active>,
    made: Vec<Arc<Segment>>,
}

/// What the trim point says of a partition, except its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionState {
    pub(crate) next_offset: LogOffset,
}

/// What the trim point says of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SegmentRow {
    pub(crate) base_offset: LogOffset,
    pub(crate) epoch: Epoch,
    pub(crate) salt: u64,
    pub(crate) end_position: u64,
    pub(crate) end_offset: LogOffset,
    pub(crate) max_timestamp_ms: i64,
}

impl Partition {
    /// A partition as the trim point knows it. With `continues`, the last segment is written on; otherwise the next
    /// batch starts a new one.
    pub(crate) fn recovered(
        topic: TopicId,
        id: PartitionId,
        maker: SegmentMaker,
        view: Arc<View>,
        state: PartitionState,
        rows: &[SegmentRow],
        continues: bool,
    ) -> Partition {
        let segments: Vec<_> = rows.iter().map(|row| Arc::new(maker.recovered(topic, id, row))).collect();
        // Not behind a hole: offsets within a segment follow each other.
        let goes_on = |segment: &&Arc<Segment>| continues && segment.end().offset == state.next_offset;
        let active = segments.last().filter(goes_on).map(|segment| {
            let position = segment.end().position;
            Active { segment: Arc::clone(segment), position, reserved: position }
        });
        let turn = Turn { next_offset: state.next_offset, bound: LogOffset(0), active, ..Turn::default() };
        Partition {
            topic,
            id,
            maker,
            turn: Mutex::new(turn),
            segments: RwLock::new(segments),
            ends: Mutex::new(VecDeque::from([(Lsn(0), state.next_offset)])),
            view,
        }
    }

    /// Waits for the turn to append.
    pub(crate) fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock()
    }

    /// The offset behind the last record that a reader at `lsn` sees.
    pub(crate) fn end_at(&self, lsn: Lsn) -> LogOffset {
        let ends = self.ends.lock();
        let newest = ends.iter().rev().find(|(version, _)| *version <= lsn);
        newest.or(ends.front()).map_or(LogOffset(0), |(_, end)| *end)
    }

    /// The offset behind the last record that is applied, visible or not.
    pub(crate) fn applied_end(&self) -> LogOffset {
        self.ends.lock().back().map_or(LogOffset(0), |(_, end)| *end)
    }

    /// Where its segments are.
    pub(crate) fn dir(&self) -> &Path {
        &self.maker.dir
    }

    /// The files of its segments.
    pub(crate) fn segment_paths(&self) -> Vec<PathBuf> {
        self.segments.read().iter().map(|segment| segment.path.clone()).collect()
    }

    /// The first offset that is kept.
    pub(crate) fn start(&self) -> LogOffset {
        self.segments.read().first().map_or(LogOffset(0), |segment| segment.head.base_offset)
    }

    /// How many segment files hold records, and their bytes.
    pub(crate) fn size(&self) -> (usize, u64) {
        let segments = self.segments.read();
        let filled = segments.iter().map(|segment| (segment.end(), segment.head.base_offset));
        let filled = filled.filter(|(end, base)| end.offset > *base);
        filled.fold((0, 0), |(count, bytes), (end, _)| (count + 1, bytes + end.position))
    }

    /// Moves the end, as of `lsn`; readers see it when that LSN is visible.
    pub(crate) fn set_end(&self, lsn: Lsn, end: LogOffset) {
        let horizon = self.view.horizon();
        let mut ends = self.ends.lock();
        while ends.get(1).is_some_and(|(second, _)| *second <= horizon) {
            ends.pop_front();
        }
        match ends.back_mut() {
            Some(last) if last.0 == lsn => last.1 = end,
            _ => ends.push_back((lsn, end)),
        }
    }

    /// The segment that holds `offset`, or else the next one with records behind it.
    pub(super) fn segment_from(&self, offset: LogOffset) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let at = segments.partition_point(|segment| segment.head.base_offset <= offset);
        let candidates = segments[at.saturating_sub(1)..].iter();
        candidates.into_iter().find(|segment| segment.end().offset > offset).cloned()
    }

    /// The rows of the segments that hold records, for the trim point.
    pub(crate) fn rows(&self) -> Vec<SegmentRow> {
        let segments = self.segments.read();
        segments.iter().filter(|segment| segment.end().offset > segment.head.base_offset).map(|s| row(s)).collect()
    }

    /// Makes everything applied so far durable, names included.
    pub(crate) fn sync(&self) -> Result<()> {
        let segments = self.segments.read().clone();
        segments.iter().try_for_each(|segment| segment.sync())?;
        let dir = &self.maker.dir;
        let synced = self.maker.disk.sync_dir(dir, SyncSite::SegmentDir);
        synced.map_err(|error| Error::sync(dir, "sync a partition", error))?;
        // Frames in flight may still write to the last two: a roll is decided before its predecessor is applied.
        segments.iter().rev().skip(2).for_each(|segment| segment.rest());
        Ok(())
    }

    /// Gives back what lies behind the end of the segment that was written last before a crash: bytes that recovery has
    /// written anew elsewhere, and room taken ahead. Only after the trim point is durable.
    pub(crate) fn cut_tail(&self, epoch: Epoch) -> Result<()> {
        let last = self.segments.read().iter().rev().find(|segment| segment.head.epoch < epoch).cloned();
        last.map_or(Ok(()), |segment| segment.shrink())
    }

    /// After an orderly close nothing more is written: give back the room that was taken ahead, and a segment that got
    /// no record.
    pub(crate) fn shrink(&self) -> Result<()> {
        let Some(active) = self.turn().active.take() else { return Ok(()) };
        if active.segment.end().offset > active.segment.head.base_offset {
            return active.segment.shrink();
        }
        let path = &active.segment.path;
        self.maker.disk.remove(path).map_err(|error| Error::io(path, "remove an empty segment", error))
    }
}

fn row(segment: &Segment) -> SegmentRow {
    let end = segment.end();
    SegmentRow {
        base_offset: segment.head.base_offset,
        epoch: segment.head.epoch,
        salt: segment.head.salt,
        end_position: end.position,
        end_offset: end.offset,
        max_timestamp_ms: end.max_timestamp_ms,
    }
}

impl Turn {
    /// Decides offsets and places for batches of `(bytes, records)`, taking the room they need. Nothing has changed
    /// until [`Turn::take`].
    ///
    /// # Errors
    /// `Full`, `Unavailable`: no room; `Invalid`: the partition has no offsets left.
    pub(crate) fn plan(
        &self,
        partition: &Arc<Partition>,
        batches: impl IntoIterator<Item = (usize, u32)>,
    ) -> Result<Plan> {
        let mut plan = Plan {
            placements: Vec::new(),
            next_offset: self.next_offset,
            active: self.active.clone(),
            made: Vec::new(),
        };
        for (bytes, records) in batches {
            if let Err(error) = plan.add(partition, bytes as u64, u64::from(records)) {
                plan.give_up(partition);
                return Err(error);
            }
        }
        // Known to readers before the frame can be applied; empty until then.
        if !plan.made.is_empty() {
            partition.segments.write().extend(plan.made.iter().cloned());
        }
        Ok(plan)
    }

    /// Takes room for a batch of at most `bytes`, which the next plan finds.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: no room; nothing has changed.
    pub(crate) fn reserve(&mut self, partition: &Arc<Partition>, bytes: usize) -> Result<()> {
        let mut plan = self.plan(partition, [(bytes, 0)])?;
        if let Some(active) = &mut plan.active {
            active.position -= bytes as u64;
        }
        self.active = plan.active;
        Ok(())
    }

    /// Takes the decision of [`Turn::plan`]: the frame that holds these batches has its LSN.
    pub(crate) fn take(&mut self, plan: Plan) {
        self.next_offset = plan.next_offset;
        self.active = plan.active;
    }

    /// Continues at `offset`, leaving a hole that readers are told of.
    pub(crate) fn skip_to(&mut self, offset: LogOffset) {
        if offset > self.next_offset {
            self.next_offset = offset;
            self.active = None;
        }
    }
}

impl Plan {
    fn add(&mut self, partition: &Arc<Partition>, bytes: u64, records: u64) -> Result<()> {
        let maker = &partition.maker;
        let full = self.active.as_ref().is_none_or(|active| {
            active.position + bytes > maker.file_roll_size && active.position > SEGMENT_HEAD_BYTES
        });
        if full {
            let segment = Arc::new(maker.make(partition, self.next_offset, bytes)?);
            self.made.push(Arc::clone(&segment));
            let reserved = SEGMENT_HEAD_BYTES + bytes;
            self.active = Some(Active { segment, position: SEGMENT_HEAD_BYTES, reserved });
        }
        let Some(active) = &mut self.active else { return Err(Error::closed()) };
        let end = active.position + bytes;
        if end > active.reserved {
            // Ahead in steps that grow with the segment, so that small topics stay small.
            let ahead = (end + end.clamp(16 << 10, 16 << 20)).min(maker.file_roll_size).max(end);
            active.segment.reserve(ahead)?;
            active.reserved = ahead;
        }
        let next_offset = self.next_offset.0.checked_add(records).filter(|next| *next <= i64::MAX.cast_unsigned());
        let next_offset = LogOffset(next_offset.ok_or_else(|| Error::invalid("the partition has no offsets left"))?);
        self.placements.push(Placement {
            partition: Arc::clone(partition),
            segment: Arc::clone(&active.segment),
            position: active.position,
            base_offset: self.next_offset,
            next_offset,
        });
        active.position = end;
        self.next_offset = next_offset;
        Ok(())
    }

    /// Undoes what was made for a decision that is not taken.
    pub(crate) fn give_up(self, partition: &Partition) {
        if self.made.is_empty() {
            return;
        }
        partition.segments.write().retain(|segment| !self.made.iter().any(|made| Arc::ptr_eq(made, segment)));
        for segment in self.made {
            // Best effort: a file that nothing names is also swept away at the next opening.
            let _ = partition.maker.disk.remove(&segment.path);
        }
    }
}

impl SegmentMaker {
    fn make(&self, partition: &Partition, base_offset: LogOffset, room: u64) -> Result<Segment> {
        let head = SegmentHead {
            store: self.store,
            topic: partition.topic,
            partition: partition.id,
            base_offset,
            epoch: self.epoch,
            salt: self.chance.next_u64(),
        };
        Segment::create(&self.disk, &self.dir, head, room)
    }

    fn recovered(&self, topic: TopicId, partition: PartitionId, row: &SegmentRow) -> Segment {
        let head = SegmentHead {
            store: self.store,
            topic,
            partition,
            base_offset: row.base_offset,
            epoch: row.epoch,
            salt: row.salt,
        };
        let end =
            SegmentEnd { position: row.end_position, offset: row.end_offset, max_timestamp_ms: row.max_timestamp_ms };
        Segment::recovered(&self.disk, &self.dir, head, end)
    }
}
