//! One round over one partition: what it reads, what it decides and the files that it writes. It knows nothing of trim
//! points: what it has written means nothing until it is exchanged.
//!
//! ```text
//! Keys -> (Judge -> Write) for each group of segments -> Ending
//!                    \-> when there is enough, what was made is exchanged, and it goes on
//! ```
//!
//! Invariants: a record goes only if one of the same key is behind it, below `stop`, or if it is a tombstone whose time
//! is over. The time of a tombstone is given only when all in front of it has been gone through, so that it never goes
//! before what it ends. So from a group on that is passed over, for which there is no room, no time is given, and the
//! next round begins with the keys of this one again. At no time are there copies of more than a piece and one group.
//! Dropped before its end, a round leaves no file behind. It reads one batch at a time, and holds no lock.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::record::{Batch, BatchError, RecordView, Verdict};
use crate::segment::{BatchReader, Generation, Rewriter, Segment, SegmentHead, TombstoneTime};
use crate::topic::{Compaction, LastOffsets, Part, Partition, Topic, groups};
use crate::wake::Arc;

/// A step reads so much, or one batch if it is larger.
pub(super) const STEP_BYTES: usize = 1 << 20;
/// A file that is written, and one that is opened to be read, count as so many bytes; and a batch at least as so many.
const FILE_COST: usize = 32 << 10;
const OPEN_COST: usize = 8 << 10;
const BATCH_COST: usize = 1 << 9;
/// What was made is exchanged when it stands for so many segments, if it is not much: no exchange takes long.
const EXCHANGE_SEGMENTS: usize = 256;

/// Which of the segments of a partition become one, and the file that they become.
pub(super) struct Made {
    pub(super) of: Range<usize>,
    pub(super) file: Rewriter,
    /// So many records are not in it any more.
    pub(super) gone: u64,
}

/// What a round may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// For keys.
    pub(super) memory: usize,
    /// What was made is exchanged when it is so much: old files go as soon as that.
    pub(super) piece_bytes: u64,
}

/// The compaction of one partition. Dropped before its end, it leaves nothing behind.
pub(super) struct Round {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    pub(super) settings: Compaction,
    generation: Generation,
    limits: Limits,
    now_ms: i64,
    /// Records below it are removed anyhow.
    start: LogOffset,
    pub(super) segments: Vec<Arc<Segment>>,
    keys: LastOffsets,
    /// What is compacted ends here: at a batch.
    pub(super) stop: LogOffset,
    phase: Phase,
    /// The segment that is being read, and how far.
    at: usize,
    reader: Option<BatchReader>,
    /// How many files were opened to be read in this step.
    opened: usize,
    /// Groups that were not looked at yet.
    groups: VecDeque<Range<usize>>,
    /// The one that is being looked at.
    group: Range<usize>,
    /// Finished, and not exchanged yet.
    made: Vec<Made>,
    /// So many records are gone with what was exchanged.
    pub(super) removed_records: u64,
    /// Files of what was exchanged are left to take away.
    pub(super) clears: bool,
    /// Something is other than it was when it began, or when it last passed a group over.
    has_changed: bool,
    /// What files may still take in this step.
    room: u64,
    /// Why the first group was passed over.
    no_room: Option<Error>,
}

enum Phase {
    Keys,
    /// Whether the one segment changes at all.
    Judge,
    Write(Box<Made>),
    /// All is written.
    Ending,
    Over,
}

impl Round {
    /// Over `segments`, which are not empty, up to `stop`.
    pub(super) fn begin(
        topic: &Arc<Topic>,
        partition: &Arc<Partition>,
        settings: Compaction,
        segments: Vec<Arc<Segment>>,
        (generation, stop): (Generation, LogOffset),
        limits: Limits,
        now_ms: i64,
    ) -> Round {
        let compacted = partition.compacted();
        let first_dirty = segments.iter().position(|segment| segment.end().offset > compacted);
        Round {
            topic: Arc::clone(topic),
            partition: Arc::clone(partition),
            settings,
            generation,
            limits,
            now_ms,
            start: partition.start(),
            keys: LastOffsets::new(partition.fresh_salt()),
            stop,
            phase: Phase::Keys,
            at: first_dirty.unwrap_or(segments.len()),
            segments,
            reader: None,
            opened: 0,
            groups: VecDeque::new(),
            group: 0..0,
            made: Vec::new(),
            removed_records: 0,
            clears: false,
            has_changed: false,
            room: 0,
            no_room: None,
        }
    }

    /// Reads and writes a little, and does with it what is next, up to the next exchange. Its files take `room` bytes
    /// at most.
    ///
    /// # Errors
    /// `Full`: so much is not enough for the file that is being written, which is gone; see [`Round::hand_back`] and
    /// [`Round::pass_over`].
    pub(super) fn step(&mut self, room: u64) -> Result<()> {
        let mut done = 0;
        (self.opened, self.room) = (0, room);
        if let Phase::Write(made) = &mut self.phase {
            made.file.has_room(room);
        }
        while done + self.opened * OPEN_COST < STEP_BYTES && !self.wants_exchange() {
            self.partition.check_takes()?;
            let notes_keys = matches!(self.phase, Phase::Keys);
            match self.batch() {
                Ok(cost) => done += cost,
                Err(_) if self.is_removed(self.at) => {
                    done += FILE_COST;
                    self.go_behind_what_is_removed(notes_keys);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Retention takes from the front, meanwhile too.
    fn is_removed(&self, at: usize) -> bool {
        self.segments.get(at).is_some_and(|segment| !self.partition.holds(segment))
    }

    /// What was being read is removed. What was made of others counts, and so do all keys: where a record is the last
    /// of its key, those before it may go.
    fn go_behind_what_is_removed(&mut self, notes_keys: bool) {
        if notes_keys {
            self.reader = None;
            while self.is_removed(self.at) {
                self.at += 1;
            }
            self.phase = Phase::Keys;
        } else {
            self.groups.push_front(self.group.clone());
            self.next_group();
        }
    }

    /// Whether there is enough to be exchanged, or nothing more to come.
    pub(super) fn wants_exchange(&self) -> bool {
        let bytes = || self.made.iter().map(|made| made.file.bytes()).sum::<u64>();
        let segments = || self.made.iter().map(|made| made.of.len()).sum::<usize>();
        matches!(self.phase, Phase::Ending) || bytes() >= self.limits.piece_bytes || segments() >= EXCHANGE_SEGMENTS
    }

    /// The end of all that it was begun over, if there were memory for all keys.
    pub(super) fn end(&self) -> LogOffset {
        self.segments.last().map_or(self.stop, |segment| segment.end().offset)
    }

    /// What is to be exchanged, and how far each key is once with it.
    pub(super) fn take_made(&mut self) -> (Vec<Made>, LogOffset) {
        let before = self.partition.compacted();
        let is_all = matches!(self.phase, Phase::Ending) && self.no_room.is_none();
        let compacted = if is_all { self.stop } else { before };
        self.has_changed |= !self.made.is_empty() || compacted > before;
        (std::mem::take(&mut self.made), compacted)
    }

    /// What was taken is exchanged.
    pub(super) fn is_exchanged(&mut self) {
        if matches!(self.phase, Phase::Ending) {
            self.phase = Phase::Over;
        }
    }

    /// Whether anything is other than it was when it began, or when it last passed a group over. One that has changed
    /// nothing would be followed by its like.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed
    }

    /// Whether each key is once below `stop` now: it has passed nothing over.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Over) && self.no_room.is_none()
    }

    /// Why it has come to nothing, if it has: it has passed a group over, and made no room since.
    pub(super) fn take_failure(&mut self) -> Option<Error> {
        if self.has_changed { None } else { self.no_room.take() }
    }

    /// Whether nothing is left to do.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over) && !self.clears
    }

    /// There was no room for the file that is being written: it goes, and is begun again when what is finished has been
    /// exchanged. `false`: nothing is finished.
    pub(super) fn hand_back(&mut self) -> bool {
        if self.made.is_empty() {
            return false;
        }
        self.phase = Phase::Ending;
        self.groups.push_front(self.group.clone());
        self.next_group();
        true
    }

    /// There is no room for the new file of the group that is being looked at, although nothing that is finished could
    /// make any: it stays as it is for this round, and the next may be smaller.
    pub(super) fn pass_over(&mut self, error: Error) {
        self.has_changed = false;
        self.no_room.get_or_insert(error);
        self.next_group();
    }

    /// Reads a batch, and does with it what is next; gives what it cost.
    fn batch(&mut self) -> Result<usize> {
        match std::mem::replace(&mut self.phase, Phase::Ending) {
            Phase::Keys => self.note_keys(),
            Phase::Judge => self.judge(),
            Phase::Write(made) => self.write(made),
            end @ (Phase::Ending | Phase::Over) => {
                self.phase = end;
                Ok(FILE_COST)
            }
        }
    }

    /// Stands at the next batch of the segments below `end`, from `from` on; `false` when there is none.
    fn advance(&mut self, from: LogOffset, end: usize) -> Result<bool> {
        while self.at < end {
            let segment = &self.segments[self.at];
            let reader = match &mut self.reader {
                Some(reader) => reader,
                None => {
                    self.opened += 1;
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
            return Ok(FILE_COST);
        }
        let Some(reader) = &self.reader else { return Err(Error::closed()) };
        let batch = reader.current()?;
        let has_room = || self.has_room_for(&batch, compacted).map_err(|error| self.malformed(&error));
        // One is always taken, so that there is an end.
        if !self.keys.is_empty() && !has_room()? {
            self.stop = batch.base_offset().min(self.stop);
            self.plan();
            return Ok(FILE_COST);
        }
        for record in batch.records() {
            let record = record.map_err(|error| self.malformed(&error))?;
            if let Some(key) = record.key.filter(|_| record.offset >= compacted) {
                self.keys.note(key, record.offset);
            }
        }
        let bytes = reader.current_bytes().len();
        self.phase = Phase::Keys;
        Ok(bytes.max(BATCH_COST))
    }

    /// Whether there is memory for the keys of a batch that are new.
    fn has_room_for(&self, batch: &Batch<'_>, from: LogOffset) -> std::result::Result<bool, BatchError> {
        let mut new = Vec::new();
        let most = self.keys.bytes() + batch.records_bytes() + batch.head().count as usize * 16;
        if most.saturating_mul(8) <= self.limits.memory {
            // Whatever they are.
            return Ok(true);
        }
        for record in batch.records() {
            let record = record?;
            let Some(key) = record.key.filter(|_| record.offset >= from) else { continue };
            if self.keys.last(key).is_none() {
                new.push(key.len());
            }
        }
        Ok(self.keys.peak_with(new) <= self.limits.memory)
    }

    /// All keys are known that there is memory for.
    fn plan(&mut self) {
        let part = |segment: &Arc<Segment>| {
            let end = segment.end();
            let sealed_ms = end.sealed_ms.unwrap_or(self.now_ms);
            let filled_ms = end.filled_ms.unwrap_or(sealed_ms);
            Part { bytes: end.position, offsets: segment.head.base_offset..end.offset, filled_ms, sealed_ms }
        };
        let parts: Vec<_> = self.segments.iter().map(part).collect();
        let spec = &self.topic.spec;
        self.groups = groups(&parts, self.stop, spec.roll_size(), spec.retention.max_file_age).into();
        self.next_group();
    }

    fn next_group(&mut self) {
        self.reader = None;
        let mut left = None;
        while left.is_none() {
            let Some(mut group) = self.groups.pop_front() else {
                self.phase = Phase::Ending;
                return;
            };
            while group.start < group.end && self.is_removed(group.start) {
                group.start += 1;
            }
            left = Some(group).filter(|group| !group.is_empty());
        }
        let Some(group) = left else { return };
        self.at = group.start;
        self.group = group;
        self.phase = Phase::Judge;
    }

    /// Whether the next batch of a group of one segment changes; several are written anew anyhow.
    fn judge(&mut self) -> Result<usize> {
        let group = self.group.clone();
        if group.len() == 1 {
            let end = self.segments[group.start].end();
            let has_old_tombstones = end.tombstones_until().is_some_and(|until| until <= self.now_ms);
            // Nothing was written since: only tombstones can go.
            if self.keys.is_empty() && !has_old_tombstones && end.offset <= self.partition.compacted() {
                self.next_group();
                return Ok(BATCH_COST);
            }
            if !self.advance(LogOffset(0), group.end)? {
                // Its time has come, and nothing went: else it would be read again and again.
                if has_old_tombstones && end.offset <= self.stop && self.no_room.is_none() {
                    self.partition.has_no_tombstones(&self.segments[group.start]);
                    self.has_changed = true;
                }
                self.next_group();
                return Ok(FILE_COST);
            }
            let Some(reader) = &self.reader else { return Err(Error::closed()) };
            let (batch, bytes) = (reader.current()?, reader.current_bytes().len());
            let verdict = self.judged(&batch)?;
            let is_new = verdict.has_tombstones() && matches!(self.tombstones(&batch), Some(TombstoneTime::Counted(_)));
            if verdict.gone == 0 && !is_new {
                self.phase = Phase::Judge;
                return Ok(bytes.max(BATCH_COST));
            }
        }
        (self.at, self.reader) = (group.start, None);
        let head = SegmentHead {
            generation: self.generation,
            salt: self.partition.fresh_salt(),
            ..self.segments[group.start].head
        };
        let file = Rewriter::begin(self.partition.open_files(), self.partition.dir(), head, self.room)?;
        self.phase = Phase::Write(Box::new(Made { of: group, file, gone: 0 }));
        Ok(FILE_COST)
    }

    /// Writes what stays of the next batch.
    fn write(&mut self, mut made: Box<Made>) -> Result<usize> {
        if !self.advance(LogOffset(0), made.of.end)? {
            let segments = &self.segments[made.of.clone()];
            let ends = || segments.iter().map(|segment| segment.end());
            let end = ends().next_back().map_or(LogOffset(0), |end| end.offset);
            let (sealed, filled) =
                (ends().filter_map(|end| end.sealed_ms).max(), ends().filter_map(|end| end.filled_ms).min());
            made.file.finish(end, sealed, filled)?;
            self.room = made.file.room();
            self.made.push(*made);
            self.next_group();
            return Ok(FILE_COST);
        }
        let Some(reader) = &self.reader else { return Err(Error::closed()) };
        let (batch, bytes) = (reader.current()?, reader.current_bytes());
        let verdict = self.judged(&batch)?;
        let before = made.file.bytes();
        made.file.add((bytes, &batch), &verdict, self.tombstones(&batch), self.partition.compression())?;
        // Compressed in another way it may be much more.
        let put = usize::try_from(made.file.bytes() - before).unwrap_or(usize::MAX);
        let bytes = bytes.len().max(put);
        made.gone += verdict.gone;
        self.phase = Phase::Write(made);
        Ok(bytes.max(BATCH_COST))
    }

    /// When the tombstones of the batch that is being read may go: at a time that is known, or, if what they end goes
    /// now, at one that is counted from the exchange. If some of that may stay, nobody knows when.
    fn tombstones(&self, batch: &Batch<'_>) -> Option<TombstoneTime> {
        self.known_time(batch).map(TombstoneTime::At).or_else(|| {
            let stamp = self.now_ms.saturating_add(self.settings.tombstone_retention_ms());
            let goes_now = batch.next_offset() <= self.stop && self.no_room.is_none();
            goes_now.then_some(TombstoneTime::Counted(stamp))
        })
    }

    fn known_time(&self, batch: &Batch<'_>) -> Option<i64> {
        self.segments.get(self.at)?.end().time_of(batch.tombstones_until_ms()?)
    }

    fn judged(&self, batch: &Batch<'_>) -> Result<Verdict> {
        let tombstones_go = self.known_time(batch).is_some_and(|until| until <= self.now_ms);
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
        // It was given up just when it had exchanged something.
        if self.clears
            && let Err(error) = self.partition.clear_leftovers()
        {
            tracing::warn!(%error, "files that were compacted stay");
        }
    }
}
