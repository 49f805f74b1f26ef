//! One round over one partition: what it reads, what it decides and the files that it writes. It knows nothing of trim
//! points: what it has written means nothing until it is exchanged.
//!
//! ```text
//! Keys -> (Judge -> Write) for each group of segments -> Exchange
//! ```
//!
//! Invariants: a record goes only if one of the same key is behind it, below `stop`, or if it is a tombstone whose time
//! is over. Dropped before its end, a round leaves no file behind. It reads one batch at a time, and holds no lock.

use std::collections::VecDeque;
use std::ops::Range;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::record::{Batch, BatchError, RecordView, Verdict};
use crate::segment::{BatchReader, Generation, Rewriter, Segment, SegmentHead};
use crate::topic::{Compaction, LastOffsets, Partition, Topic, groups};
use crate::wake::Arc;

/// A step reads so much, or one batch if it is larger.
const STEP_BYTES: usize = 1 << 20;

/// Which of the segments of a partition become one, and the file that they become.
pub(super) struct Made {
    pub(super) of: Range<usize>,
    pub(super) file: Rewriter,
}

/// The compaction of one partition. Dropped before its end, it leaves nothing behind.
pub(super) struct Round {
    pub(super) topic: Arc<Topic>,
    pub(super) partition: Arc<Partition>,
    settings: Compaction,
    generation: Generation,
    memory: usize,
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
    /// Groups that were not looked at yet.
    groups: VecDeque<Range<usize>>,
    pub(super) made: Vec<Made>,
    pub(super) removed_records: u64,
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
pub(super) enum Stepped {
    On,
    /// There is only the exchange left to do.
    Written,
}

impl Round {
    /// Over `segments`, which are not empty, up to `stop`.
    pub(super) fn begin(
        topic: &Arc<Topic>,
        partition: &Arc<Partition>,
        settings: Compaction,
        segments: Vec<Arc<Segment>>,
        (generation, stop): (Generation, LogOffset),
        memory: usize,
        now_ms: i64,
    ) -> Round {
        let compacted = partition.compacted();
        let first_dirty = segments.iter().position(|segment| segment.end().offset > compacted);
        Round {
            topic: Arc::clone(topic),
            partition: Arc::clone(partition),
            settings,
            generation,
            memory,
            now_ms,
            start: partition.start(),
            keys: LastOffsets::new(partition.fresh_salt()),
            stop,
            phase: Phase::Keys,
            at: first_dirty.unwrap_or(segments.len()),
            segments,
            reader: None,
            groups: VecDeque::new(),
            made: Vec::new(),
            removed_records: 0,
        }
    }

    /// Reads a little, and does with it what is next.
    pub(super) fn step(&mut self) -> Result<Stepped> {
        let mut read = 0;
        while read < STEP_BYTES {
            self.partition.check_takes()?;
            match self.batch() {
                Ok(0) if matches!(self.phase, Phase::Exchange) => return Ok(Stepped::Written),
                Ok(bytes) => read += bytes,
                Err(error) => {
                    // Retention has taken away what was being read: the next round begins behind it.
                    let gone = self.segments.get(self.at).is_some_and(|segment| !self.partition.holds(segment));
                    let what = "records that were being compacted are removed";
                    return Err(if gone { Error::new(ErrorKind::Conflict, what).because(error) } else { error });
                }
            }
        }
        Ok(Stepped::On)
    }

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
