//! One partition: who appends next and where (the turn), which segments there are, and the end that readers see.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::TopicSpec;
use super::exchange::Exchange;
use super::usage::Usage;
use crate::chance::Chance;
use crate::disk::{DiskFile, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogOffset, Lsn, PartitionId, StoreId, TopicId};
use crate::record::{BatchBuilder, Compression};
use crate::segment::{BatchReader, Fresh, Generation, OpenFiles, SEGMENT_HEAD_BYTES, Segment, SegmentEnd, SegmentHead};
use crate::view::View;
use crate::wake::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, RwLock};

/// What it takes to make the segments of one partition.
pub(crate) struct SegmentMaker {
    pub(crate) files: Arc<OpenFiles>,
    pub(crate) chance: Arc<Chance>,
    pub(crate) store: StoreId,
    pub(crate) epoch: Epoch,
    pub(crate) dir: PathBuf,
    pub(crate) writing: Writing,
    /// Of the whole topic.
    pub(crate) usage: Arc<Usage>,
}

/// How a partition is written from now on. What is there already says itself how it was.
pub(crate) struct Writing {
    file_roll_size: AtomicU64,
    /// By its number in [`WAYS`].
    compression: AtomicU32,
    /// It is compacted.
    wants_keys: AtomicBool,
}

const WAYS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

impl Writing {
    /// As `spec` says.
    pub(crate) fn of(spec: &TopicSpec) -> Writing {
        let writing = Writing {
            file_roll_size: AtomicU64::new(0),
            compression: AtomicU32::new(0),
            wants_keys: AtomicBool::new(false),
        };
        writing.set(spec);
        writing
    }

    fn set(&self, spec: &TopicSpec) {
        self.file_roll_size.store(spec.roll_size(), Ordering::Relaxed);
        let way = (0..).zip(WAYS).find(|(_, way)| *way == spec.compression);
        self.compression.store(way.map_or(0, |(number, _)| number), Ordering::Relaxed);
        self.wants_keys.store(spec.compaction.is_some(), Ordering::Relaxed);
    }

    fn file_roll_size(&self) -> u64 {
        self.file_roll_size.load(Ordering::Relaxed)
    }
}

/// A partition that is open.
pub(crate) struct Partition {
    pub(crate) topic: TopicId,
    pub(crate) id: PartitionId,
    pub(super) maker: SegmentMaker,
    turn: Mutex<Turn>,
    pub(super) segments: RwLock<Vec<Arc<Segment>>>,
    /// Those that may be written to, or hold more than the trim point says; the last ones, in order.
    pub(super) unsettled: Mutex<Vec<Arc<Segment>>>,
    ends: Mutex<VecDeque<(Lsn, LogOffset)>>,
    view: Arc<View>,
    /// The first offset that is kept: everything below was removed on purpose.
    pub(super) start: AtomicU64,
    /// What the next trim point removes.
    pub(super) removal: Mutex<Removal>,
    /// What the next trim point puts in place of others.
    pub(super) exchange: Mutex<Option<Exchange>>,
    /// Below it each key is once.
    pub(super) compacted: AtomicU64,
    /// Files of segments that were removed or compacted, or came to nothing, and are not taken away yet.
    pub(super) leftovers: Mutex<VecDeque<PathBuf>>,
    /// Held while some of these are taken away.
    pub(super) clearing: Mutex<()>,
    /// How often its compaction was begun in this opening.
    pub(super) generations: AtomicU64,
    /// Takes no more records. Set under the turn.
    retired: AtomicBool,
    /// The topic is deleted.
    gone: AtomicBool,
}

/// What is to be removed with the next trim point: until that is durable it is there.
#[derive(Clone, Default)]
pub(crate) struct Removal {
    /// The first offset that is kept then; 0: nothing is to be removed.
    pub(crate) start: LogOffset,
    pub(super) segments: Vec<Arc<Segment>>,
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
    /// Held until the batch is copied: a file that is in use is not given up, so the copy finds it open also where no
    /// descriptor is left.
    _file: Arc<dyn DiskFile>,
    pub(crate) position: u64,
    pub(crate) base_offset: LogOffset,
    pub(crate) next_offset: LogOffset,
}

/// A turn's decision, not yet taken.
pub(crate) struct Plan {
    /// In the order of the batches that were planned.
    pub(crate) placements: Vec<Placement>,
    pub(crate) next_offset: LogOffset,
    /// How many more bytes the topic holds with it.
    pub(crate) bytes: u64,
    usage: Arc<Usage>,
    active: Option<Active>,
    made: Vec<Arc<Segment>>,
}

/// What the trim point says of a partition, except its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionState {
    pub(crate) next_offset: LogOffset,
    /// The first offset that is kept.
    pub(crate) start: LogOffset,
    /// Below it each key is once.
    pub(crate) compacted: LogOffset,
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
    /// See [`SegmentEnd::sealed_ms`].
    pub(crate) sealed_ms: Option<i64>,
    /// See [`SegmentEnd::filled_ms`].
    pub(crate) filled_ms: Option<i64>,
    pub(crate) generation: Generation,
    /// See [`SegmentEnd::tombstones_until_ms`].
    pub(crate) tombstones_until_ms: Option<i64>,
    /// See [`SegmentEnd::fresh`].
    pub(crate) fresh: Option<Fresh>,
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
        let segments: Vec<_> = rows.iter().map(|row| maker.recovered(topic, id, row)).collect();
        // Not behind a hole: offsets within a segment follow each other. And not one that was ended for its age.
        let goes_on = |segment: &&Arc<Segment>| {
            let end = segment.end();
            continues && end.offset == state.next_offset && end.sealed_ms.is_none()
        };
        let active = segments.last().filter(goes_on).map(|segment| {
            let position = segment.end().position;
            Active { segment: Arc::clone(segment), position, reserved: position }
        });
        let unsettled = active.iter().map(|active| Arc::clone(&active.segment)).collect();
        maker.usage.add(rows.iter().map(|row| row.end_position).sum());
        let turn = Turn { next_offset: state.next_offset, bound: LogOffset(0), active, ..Turn::default() };
        Partition {
            topic,
            id,
            maker,
            turn: Mutex::new(turn),
            segments: RwLock::new(segments),
            unsettled: Mutex::new(unsettled),
            ends: Mutex::new(VecDeque::from([(Lsn(0), state.next_offset)])),
            view,
            start: AtomicU64::new(state.start.0),
            removal: Mutex::default(),
            exchange: Mutex::default(),
            compacted: AtomicU64::new(state.compacted.0),
            leftovers: Mutex::default(),
            clearing: Mutex::default(),
            generations: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            gone: AtomicBool::new(false),
        }
    }

    /// It is written as `spec` says from now on.
    pub(crate) fn write_as(&self, spec: &TopicSpec) {
        self.maker.writing.set(spec);
        self.maker.usage.set_limit(spec);
    }

    /// How much the topic holds.
    pub(crate) fn usage(&self) -> &Arc<Usage> {
        &self.maker.usage
    }

    /// Waits for the turn to append.
    pub(crate) fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock()
    }

    /// Sets whether it takes records, under its turn: what has its place by then comes before what follows.
    pub(crate) fn set_retired(&self, _turn: &Turn, retired: bool) {
        self.retired.store(retired, Ordering::SeqCst);
    }

    /// Its topic is deleted: whoever stands in it is told.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }

    /// # Errors
    /// `NotFound`: the topic is deleted.
    pub(crate) fn check_there(&self) -> Result<()> {
        if self.gone.load(Ordering::SeqCst) { Err(self.deleted()) } else { Ok(()) }
    }

    /// # Errors
    /// `NotFound`: the topic is deleted, or about to be. To be asked under the turn.
    pub(crate) fn check_takes(&self) -> Result<()> {
        if self.retired.load(Ordering::SeqCst) { Err(self.deleted()) } else { Ok(()) }
    }

    fn deleted(&self) -> Error {
        Error::new(ErrorKind::NotFound, format!("the topic with the id {} is deleted", self.topic))
    }

    /// Closes the files of its segments, which are to be removed, since it is gone: nobody else removes any from here
    /// on.
    pub(crate) fn close_files(&self) {
        drop(self.clearing.lock());
        self.segments.read().iter().for_each(|segment| segment.close());
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

    /// Whether every record must have a key.
    pub(crate) fn wants_keys(&self) -> bool {
        self.maker.writing.wants_keys.load(Ordering::Relaxed)
    }

    /// How its batches are compressed.
    pub(crate) fn compression(&self) -> Compression {
        WAYS.get(self.maker.writing.compression.load(Ordering::Relaxed) as usize).copied().unwrap_or_default()
    }

    /// Where its segments are.
    pub(crate) fn dir(&self) -> &Path {
        &self.maker.dir
    }

    /// The files of its segments.
    pub(crate) fn segment_paths(&self) -> Vec<PathBuf> {
        self.segments.read().iter().map(|segment| segment.path.clone()).collect()
    }

    /// Where its segments begin, in order.
    pub(crate) fn bases(&self) -> Vec<LogOffset> {
        self.segments.read().iter().map(|segment| segment.head.base_offset).collect()
    }

    /// The first offset that is kept.
    pub(crate) fn start(&self) -> LogOffset {
        let start = LogOffset(self.start.load(Ordering::SeqCst));
        self.segments.read().first().map_or(start, |segment| segment.head.base_offset.max(start))
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

    /// The first offset below `end` whose record is not older than `timestamp_ms`; `end` if there is none. Timestamps
    /// need not rise: records behind it may be older.
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`; `NotFound`: the topic is deleted.
    pub(crate) fn offset_at_time(&self, timestamp_ms: i64, end: LogOffset) -> Result<LogOffset> {
        let start = self.start();
        let mut from = start;
        while let Some(segment) = self.segment_from(from).filter(|segment| segment.head.base_offset < end) {
            let its_end = segment.end();
            if its_end.max_timestamp_ms >= timestamp_ms {
                match BatchReader::first_since(&segment, timestamp_ms) {
                    Ok(Some(found)) => return Ok(found.max(start).min(end)),
                    Ok(None) => {}
                    // Removed meanwhile: that its file cannot be read means nothing.
                    Err(_) if self.start() > from => {
                        from = self.start();
                        continue;
                    }
                    // Or compacted: what took its place is asked.
                    Err(_) if !self.holds(&segment) => continue,
                    Err(error) => return self.check_there().and(Err(error)),
                }
            }
            from = its_end.offset;
        }
        Ok(end)
    }

    /// The segments that hold more than the trim point says, with their ends. Those that are written no more are sealed
    /// at `now_ms`.
    pub(crate) fn changes(&self, now_ms: i64) -> Vec<(Arc<Segment>, SegmentEnd)> {
        let unsettled = self.unsettled.lock();
        unsettled[..written_no_more(&unsettled)].iter().for_each(|segment| segment.seal(now_ms));
        unsettled.iter().filter(|segment| segment.is_filled()).for_each(|segment| segment.note_filled(now_ms));
        let ends = unsettled.iter().map(|segment| (Arc::clone(segment), segment.end()));
        ends.filter(|(segment, end)| segment.is_filled() && segment.recorded() != Some(*end)).collect()
    }

    /// Makes everything applied so far durable, names included.
    pub(crate) fn sync(&self) -> Result<()> {
        let unsettled = self.unsettled.lock().clone();
        unsettled.iter().try_for_each(|segment| segment.sync())?;
        if unsettled.iter().any(|segment| segment.is_unnamed()) {
            let (dir, files) = (&self.maker.dir, &self.maker.files);
            let synced = files.with_room(|| files.disk.sync_dir(dir, SyncSite::SegmentDir));
            synced.map_err(|error| Error::sync(dir, "sync a partition", error))?;
            unsettled.iter().for_each(|segment| segment.is_named());
        }
        Ok(())
    }

    /// The trim point holds all that [`Partition::changes`] named. Segments that are written no more are sealed: their
    /// indexes go to their files.
    pub(crate) fn settle(&self) {
        let mut unsettled = self.unsettled.lock();
        let done =
            |segment: &Arc<Segment>| segment.end().sealed_ms.is_some() && segment.recorded() == Some(segment.end());
        let sealed = unsettled[..written_no_more(&unsettled)].iter().take_while(|segment| done(segment)).count();
        for segment in unsettled.drain(..sealed) {
            segment.save_index();
        }
    }

    /// The file of the segment that [`Partition::cut_tail`] cuts, and where.
    pub(crate) fn tail(&self, epoch: Epoch) -> Option<(PathBuf, u64)> {
        let segments = self.segments.read();
        let last = segments.iter().rev().find(|segment| segment.head.epoch < epoch);
        last.map(|segment| (segment.path.clone(), segment.end().position))
    }

    /// Gives back what lies behind the ends of all segments that are written no more: a repair that was ended may have
    /// left it there.
    pub(crate) fn cut_leftovers(&self) -> Result<()> {
        let active = self.turn().active.as_ref().map(|active| Arc::clone(&active.segment));
        let segments = self.segments.read().clone();
        let sealed = segments.iter().filter(|segment| active.as_ref().is_none_or(|one| !Arc::ptr_eq(one, segment)));
        sealed.into_iter().try_for_each(|segment| segment.cut_leftover())
    }

    /// Gives back what lies behind the end of the segment that was written last before a crash: bytes that recovery has
    /// written anew elsewhere, and room taken ahead. Only after the trim point is durable.
    pub(crate) fn cut_tail(&self, epoch: Epoch) -> Result<()> {
        let last = self.segments.read().iter().rev().find(|segment| segment.head.epoch < epoch).cloned();
        last.map_or(Ok(()), |segment| segment.shrink())
    }

    /// After an orderly close nothing more is written: give back the room that was taken ahead, and a segment that got
    /// no record; keep the indexes.
    pub(crate) fn shrink(&self) -> Result<()> {
        if let Some(active) = self.turn().active.take() {
            if active.segment.is_filled() {
                active.segment.shrink()?;
            } else {
                active.segment.close();
                let path = &active.segment.path;
                let removed = self.maker.files.disk.remove(path);
                removed.map_err(|error| Error::io(path, "remove an empty segment", error))?;
                self.segments.write().retain(|segment| !Arc::ptr_eq(segment, &active.segment));
            }
        }
        let segments = self.segments.read().clone();
        for segment in segments {
            segment.save_index();
            segment.close();
        }
        Ok(())
    }
}

/// How many of these segments, which are in order, have all their records.
fn written_no_more(unsettled: &[Arc<Segment>]) -> usize {
    // Frames are applied in order: when a later segment has a record, those before it have all of theirs.
    unsettled.iter().rposition(|segment| segment.is_filled()).unwrap_or(0)
}

impl SegmentRow {
    /// What the trim point says of a segment that ends at `end`.
    pub(crate) fn of(head: &SegmentHead, end: SegmentEnd) -> SegmentRow {
        SegmentRow {
            base_offset: head.base_offset,
            epoch: head.epoch,
            salt: head.salt,
            end_position: end.position,
            end_offset: end.offset,
            max_timestamp_ms: end.max_timestamp_ms,
            sealed_ms: end.sealed_ms,
            filled_ms: end.filled_ms,
            generation: head.generation,
            tombstones_until_ms: end.tombstones_until_ms,
            fresh: end.fresh,
        }
    }

    /// How far the segment is part of the log.
    pub(crate) fn end(&self) -> SegmentEnd {
        SegmentEnd {
            position: self.end_position,
            offset: self.end_offset,
            max_timestamp_ms: self.max_timestamp_ms,
            sealed_ms: self.sealed_ms,
            filled_ms: self.filled_ms,
            tombstones_until_ms: self.tombstones_until_ms,
            fresh: self.fresh,
        }
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
        partition.check_takes()?;
        let mut plan = Plan {
            placements: Vec::new(),
            next_offset: self.next_offset,
            bytes: 0,
            usage: Arc::clone(partition.usage()),
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
            partition.unsettled.lock().extend(plan.made.iter().cloned());
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
        // Of a segment that was made for it; the batch counts when it has its place.
        plan.usage.add(plan.bytes.saturating_sub(bytes as u64));
        self.active = plan.active;
        Ok(())
    }

    /// Takes the decision of [`Turn::plan`]: the frame that holds these batches has its LSN.
    pub(crate) fn take(&mut self, plan: Plan) {
        self.next_offset = plan.next_offset;
        self.active = plan.active;
        plan.usage.add(plan.bytes);
    }

    /// The offset behind all that has its place in the newest segment.
    pub(super) fn last_place(&self) -> LogOffset {
        if self.open.is_some() { LogOffset(u64::MAX) } else { self.next_offset }
    }

    /// Whether more may come to `segment`.
    pub(super) fn writes(&self, segment: &Arc<Segment>) -> bool {
        self.active.as_ref().is_some_and(|active| Arc::ptr_eq(&active.segment, segment))
    }

    /// The segment that is written to, if it holds records.
    pub(super) fn filled(&self) -> Option<&Arc<Segment>> {
        self.active.as_ref().map(|active| &active.segment).filter(|segment| segment.is_filled())
    }

    /// The next batch starts a new segment, if it would have gone to one of `segments`.
    pub(super) fn leave(&mut self, segments: &[Arc<Segment>]) {
        if self.active.as_ref().is_some_and(|active| segments.iter().any(|left| Arc::ptr_eq(left, &active.segment))) {
            self.active = None;
        }
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
            active.position + bytes > maker.writing.file_roll_size() && active.position > SEGMENT_HEAD_BYTES
        });
        if full {
            let segment = maker.make(partition, self.next_offset, bytes)?;
            self.bytes += SEGMENT_HEAD_BYTES;
            self.made.push(Arc::clone(&segment));
            let reserved = SEGMENT_HEAD_BYTES + bytes;
            self.active = Some(Active { segment, position: SEGMENT_HEAD_BYTES, reserved });
        }
        let Some(active) = &mut self.active else { return Err(Error::closed()) };
        let end = active.position + bytes;
        if end > active.reserved {
            // Ahead in steps that grow with the segment, so that small topics stay small.
            let ahead = (end + end.clamp(16 << 10, 16 << 20)).min(maker.writing.file_roll_size()).max(end);
            active.segment.reserve(ahead)?;
            active.reserved = ahead;
        }
        // A file that cannot be opened is told before the frame has its place; and from here on it stays open.
        let file = active.segment.file()?;
        let next_offset = self.next_offset.0.checked_add(records).filter(|next| *next <= i64::MAX.cast_unsigned());
        let next_offset = LogOffset(next_offset.ok_or_else(|| Error::invalid("the partition has no offsets left"))?);
        self.placements.push(Placement {
            partition: Arc::clone(partition),
            segment: Arc::clone(&active.segment),
            _file: file,
            position: active.position,
            base_offset: self.next_offset,
            next_offset,
        });
        active.position = end;
        self.next_offset = next_offset;
        self.bytes += bytes;
        Ok(())
    }

    /// Undoes what was made for a decision that is not taken.
    pub(crate) fn give_up(self, partition: &Partition) {
        if self.made.is_empty() {
            return;
        }
        let stays = |segment: &Arc<Segment>| !self.made.iter().any(|made| Arc::ptr_eq(made, segment));
        partition.unsettled.lock().retain(stays);
        partition.segments.write().retain(stays);
        for segment in self.made {
            segment.close();
            // Best effort: a file that nothing names is also swept away when the partition is next put together.
            let _ = partition.maker.files.disk.remove(&segment.path);
        }
    }
}

impl SegmentMaker {
    fn make(&self, partition: &Partition, base_offset: LogOffset, room: u64) -> Result<Arc<Segment>> {
        let head = SegmentHead {
            store: self.store,
            topic: partition.topic,
            partition: partition.id,
            base_offset,
            epoch: self.epoch,
            generation: Generation(0),
            salt: self.chance.next_u64(),
        };
        Segment::create(&self.files, &self.dir, head, room)
    }

    fn recovered(&self, topic: TopicId, partition: PartitionId, row: &SegmentRow) -> Arc<Segment> {
        let head = SegmentHead {
            store: self.store,
            topic,
            partition,
            base_offset: row.base_offset,
            epoch: row.epoch,
            generation: row.generation,
            salt: row.salt,
        };
        let end = row.end();
        Segment::recovered(&self.files, &self.dir, head, end)
    }
}
