//! Reading a topic in order, from whatever view there is, across views.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::rows::Whereabouts;
use super::live::Trail;
use super::owner::{ATTEMPTS, OwnerReader, View};
use super::tables::TablesAt;
use super::{StoreReader, TopicInfo, no_partition};
use crate::consumer::Whence;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId};
use crate::record::{Batch, Record, RecordView};
use crate::segment::segment_path;
use crate::topic::{PartitionReader, Polled, SegmentRow, partition_dir, topic_dir};
use crate::transaction::Step;
use crate::wake::Arc;

/// An owner that is overtaken and does not know it is noticed after so long without news.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Without an owner nothing comes; one that opens is noticed after so long.
const LOOK_FOR_OWNER: Duration = Duration::from_millis(5);

/// A cursor over all partitions of a topic, for looking: it is remembered nowhere. Each record once, in the order of
/// its partition, and none that is later taken back.
///
/// As an iterator it yields what is visible and ends there; it goes on when asked again later.
pub struct ReaderCursor {
    info: TopicInfo,
    owner: Arc<OwnerReader>,
    partitions: Vec<PartitionCursor>,
    /// Where the next poll begins, so that no partition starves.
    turn: usize,
    /// Read ahead by the iterator.
    ahead: VecDeque<Record>,
    gap: Option<(PartitionId, Range<LogOffset>)>,
}

/// A place in one partition.
pub(in crate::store) struct PartitionCursor {
    owner: Arc<OwnerReader>,
    info: TopicInfo,
    partition: PartitionId,
    pub(in crate::store) next: LogOffset,
    reading: Option<(View, Reading)>,
}

enum Reading {
    Trail(Box<Trail>),
    Partition(Box<PartitionReader>),
}

/// Why a partition's reading stopped.
pub(super) enum Stopped {
    AtLimit,
    ByVisitor,
    Gap(Range<LogOffset>),
}

/// What the owner's trim point says of the next record.
enum Judged {
    Lost(Range<LogOffset>),
    /// It is where the trail stands.
    Here,
    /// It is in the segment that the trail goes by now: read on.
    Elsewhere,
    /// The owner has come or gone: look again.
    Moved,
}

impl Reading {
    fn poll(&mut self, next: LogOffset, limit: LogOffset) -> Result<Polled> {
        match self {
            Reading::Trail(trail) => trail.poll(next, limit),
            Reading::Partition(reader) => {
                reader.seek(next);
                reader.poll(limit)
            }
        }
    }

    fn current(&self) -> Result<Batch<'_>> {
        match self {
            Reading::Trail(trail) => trail.current(),
            Reading::Partition(reader) => reader.current(),
        }
    }
}

impl PartitionCursor {
    pub(super) fn new(owner: &Arc<OwnerReader>, info: &TopicInfo, partition: PartitionId, next: LogOffset) -> Self {
        PartitionCursor { owner: Arc::clone(owner), info: info.clone(), partition, next, reading: None }
    }

    fn reading(&self, view: &View) -> Result<Reading> {
        let OwnerReader { disk, layout, store, .. } = &*self.owner;
        Ok(match view {
            View::Live(_) => {
                let (name, topic) = (&self.info.name, self.info.id);
                Reading::Trail(Box::new(Trail::new(disk, layout, *store, name, topic, self.partition)))
            }
            View::Offline(offline) => {
                let topic = offline.store.core().pipeline.topics.get(self.info.id)?;
                Reading::Partition(Box::new(PartitionReader::new(
                    Arc::clone(topic.partition(self.partition)?),
                    self.next,
                )))
            }
        })
    }

    /// Hands out the records below `limit`, which must be visible, until `visit` stops it.
    pub(super) fn read(
        &mut self,
        limit: LogOffset,
        done: &mut u64,
        visit: &mut dyn FnMut(RecordView<'_>) -> Result<Step>,
    ) -> Result<Stopped> {
        loop {
            match self.advance(limit)? {
                Polled::Batch => {}
                Polled::End => return Ok(Stopped::AtLimit),
                Polled::Gap(lost) => return Ok(Stopped::Gap(lost)),
            }
            let Some((view, reading)) = self.reading.take() else { return Ok(Stopped::AtLimit) };
            let stopped = reading.current().and_then(|batch| self.hand_out(&batch, done, visit));
            self.reading = Some((view, reading));
            if let Some(stopped) = stopped? {
                return Ok(stopped);
            }
        }
    }

    /// Finds the batch with the next record, below `limit`, which must be visible. `next` stays as it is.
    pub(in crate::store) fn advance(&mut self, limit: LogOffset) -> Result<Polled> {
        // The file that the trim point has named for the record, and in which it was not.
        let mut named = None;
        while self.next < limit {
            let view = self.owner.view()?;
            if let View::Live(live) = &view
                && let Some(watched) = live.watch.partition(self.info.id, self.partition)?
                && self.next < watched.start
            {
                return Ok(Polled::Gap(self.next..watched.start.min(limit)));
            }
            let reading = match self.reading.take() {
                Some((of, reading)) if of.is(&view) => Ok(reading),
                _ => self.reading(&view),
            };
            let (polled, reading) = match reading {
                Ok(mut reading) => (reading.poll(self.next, limit), Some(reading)),
                Err(error) => (Err(error), None),
            };
            let judged = match (polled, reading) {
                // An owner that comes or goes moves files: then nothing is lost, and nothing wrong.
                (Ok(Polled::Gap(_)) | Err(_), _) if self.owner.is_spoilt(&view)? => Judged::Moved,
                // What is deleted is not lost.
                (Ok(Polled::Gap(_)) | Err(_), _) if self.owner.partition(self.info.id, self.partition)?.is_none() => {
                    return Err(deleted(&self.info));
                }
                (Err(error), Some(Reading::Trail(mut trail))) if error.kind() == ErrorKind::Corrupt => {
                    match self.judge_damage(&mut trail, &mut named, limit)? {
                        Judged::Here => return Err(error),
                        judged => self.keep(&view, trail, judged),
                    }
                }
                (Err(error), _) => return Err(error),
                (Ok(Polled::Gap(_)), Some(Reading::Trail(mut trail))) => {
                    let judged = self.judge_gap(&mut trail, &mut named, limit)?;
                    self.keep(&view, trail, judged)
                }
                (Ok(Polled::Batch), Some(Reading::Trail(mut trail))) if trail.is_doubted(self.next, &view) => {
                    let judged = self.judge_batch(&mut trail, &mut named, limit)?;
                    self.keep(&view, trail, judged)
                }
                (Ok(polled), reading) => {
                    self.reading = reading.map(|reading| (view, reading));
                    return Ok(polled);
                }
            };
            match judged {
                Judged::Lost(lost) => return Ok(Polled::Gap(lost)),
                Judged::Here => return Ok(Polled::Batch),
                Judged::Elsewhere => {}
                Judged::Moved => self.owner.look_again()?,
            }
        }
        Ok(Polled::End)
    }

    /// The trail is read on, unless another owner moves its files.
    fn keep(&mut self, view: &View, trail: Box<Trail>, judged: Judged) -> Judged {
        if matches!(judged, Judged::Here | Judged::Elsewhere) {
            self.reading = Some((view.clone(), Reading::Trail(trail)));
        }
        judged
    }

    /// Gives the buffers back: nothing more comes for now.
    pub(in crate::store) fn rest(&mut self) {
        match &mut self.reading {
            Some((_, Reading::Trail(trail))) => trail.rest(),
            Some((_, Reading::Partition(reader))) => reader.rest(),
            None => {}
        }
    }

    /// The files of a living owner do not hold the next record. Whether it is lost, or in another file than that of the
    /// names, or somebody has cut or taken away a segment, is what the owner's trim point says.
    fn judge_gap(&self, trail: &mut Trail, named: &mut Option<PathBuf>, limit: LogOffset) -> Result<Judged> {
        let (topic, next) = (self.info.id, self.next);
        let start = self.owner.partition(topic, self.partition)?.map_or(next, |watched| watched.start);
        if next < start {
            return Ok(Judged::Lost(next..start));
        }
        match self.whereabouts()? {
            None => Ok(Judged::Moved),
            Some(Whereabouts::Nowhere { until }) => Ok(Judged::Lost(next..until.min(limit))),
            Some(Whereabouts::In(row)) => self.go_by(trail, &row, named, limit),
            Some(Whereabouts::Later) => Err(self.missing(&self.dir())),
        }
    }

    /// The record that was found may be none that counts. At the end of what an opening wrote: a recovery may have told
    /// it as lost, and cut it off, and the power that failed after that may have brought it back. Or in a file that
    /// could not be removed, or that a fenced opening has named. What counts is what the owner's trim point says. The
    /// trail keeps the answer.
    fn judge_batch(&self, trail: &mut Trail, named: &mut Option<PathBuf>, limit: LogOffset) -> Result<Judged> {
        match self.whereabouts()? {
            None => Ok(Judged::Moved),
            Some(Whereabouts::Nowhere { until }) => Ok(Judged::Lost(self.next..until.min(limit))),
            Some(Whereabouts::In(row)) if trail.reads(&row) => {
                trail.trust(row.end_offset);
                Ok(Judged::Here)
            }
            Some(Whereabouts::In(row)) => self.go_by(trail, &row, named, limit),
            // Of this opening, which writes on behind the end of the one before.
            Some(Whereabouts::Later) => {
                trail.trust(LogOffset(u64::MAX));
                Ok(Judged::Here)
            }
        }
    }

    /// What was read is damaged: only if it counts.
    fn judge_damage(&self, trail: &mut Trail, named: &mut Option<PathBuf>, limit: LogOffset) -> Result<Judged> {
        match self.whereabouts()? {
            None => Ok(Judged::Moved),
            Some(Whereabouts::In(row)) if !trail.reads(&row) && named.is_none() => {
                self.go_by(trail, &row, named, limit)
            }
            _ => Ok(Judged::Here),
        }
    }

    /// The trail goes by the file of `row`, unless that is where it was sent for this record before.
    fn go_by(
        &self,
        trail: &mut Trail,
        row: &SegmentRow,
        named: &mut Option<PathBuf>,
        limit: LogOffset,
    ) -> Result<Judged> {
        let path = segment_path(&self.dir(), row.base_offset, row.epoch, row.generation);
        if named.as_ref() == Some(&path) {
            return Err(self.missing(&path));
        }
        trail.go_by(row, limit)?;
        *named = Some(path);
        Ok(Judged::Elsewhere)
    }

    fn dir(&self) -> PathBuf {
        partition_dir(&topic_dir(&self.owner.layout.topics, &self.info.name), self.partition)
    }

    /// What the trim point of a living owner says of the next record; `None`: the owner was another one meanwhile.
    fn whereabouts(&self) -> Result<Option<Whereabouts>> {
        let (topic, next) = (self.info.id, self.next);
        for _ in 0..ATTEMPTS {
            let view = self.owner.view()?;
            if matches!(view, View::Offline(_)) {
                return Ok(None);
            }
            let asked = TablesAt::trim_point(&self.owner)?.ask(|rows| rows.whereabouts(topic, self.partition, next));
            if self.owner.is_spoilt(&view)? {
                return Ok(None);
            }
            match asked {
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                asked => return asked.map(Some),
            }
        }
        Err(self.owner.restless())
    }

    fn missing(&self, file: &Path) -> Error {
        let what = format!("record {} is missing: the segment was cut short or taken away", self.next);
        Error::corrupt(file, 0, what)
    }

    /// The batch that [`PartitionCursor::advance`] found.
    pub(in crate::store) fn current(&self) -> Result<Batch<'_>> {
        self.reading.as_ref().ok_or_else(Error::closed)?.1.current()
    }

    fn hand_out(
        &mut self,
        batch: &Batch<'_>,
        done: &mut u64,
        visit: &mut dyn FnMut(RecordView<'_>) -> Result<Step>,
    ) -> Result<Option<Stopped>> {
        for record in batch.records() {
            let record = record.map_err(|error| {
                let what = format!("topic {:?}, partition {}: {error}", self.info.name, self.partition);
                Error::new(ErrorKind::Corrupt, what)
            })?;
            if record.offset < self.next {
                continue;
            }
            let next = record.offset.plus(1);
            match visit(record)? {
                Step::Stay => return Ok(Some(Stopped::ByVisitor)),
                step => {
                    self.next = next;
                    *done += 1;
                    if step == Step::NextAndReturn {
                        return Ok(Some(Stopped::ByVisitor));
                    }
                }
            }
        }
        self.next = batch.next_offset();
        Ok(None)
    }
}

impl ReaderCursor {
    /// Over some partitions, or over all.
    pub(super) fn open(
        reader: &StoreReader,
        topic: &str,
        chosen: Option<&[PartitionId]>,
        whence: Whence,
    ) -> Result<ReaderCursor> {
        let (info, owner) = reader.inner.find(topic)?;
        let all: Vec<_> = (0..info.partitions).map(PartitionId).collect();
        let mut partitions: Vec<PartitionCursor> = Vec::new();
        for partition in chosen.unwrap_or(&all).iter().copied() {
            if partitions.iter().any(|cursor| cursor.partition == partition) {
                continue;
            }
            let watched = owner.partition(info.id, partition)?.ok_or_else(|| no_partition(&info, partition))?;
            let mut cursor = PartitionCursor::new(&owner, &info, partition, watched.start);
            match whence {
                Whence::Oldest => {}
                Whence::Latest => cursor.next = watched.end,
                Whence::Position(offset) => cursor.next = offset,
                Whence::Time(from_ms) => find_time(&mut cursor, watched.end, from_ms)?,
            }
            partitions.push(cursor);
        }
        Ok(ReaderCursor { info, owner, partitions, turn: 0, ahead: VecDeque::new(), gap: None })
    }

    /// Which topic it reads.
    #[must_use]
    pub fn topic(&self) -> &TopicInfo {
        &self.info
    }

    /// The next record of each partition.
    #[must_use]
    pub fn positions(&self) -> Vec<(PartitionId, LogOffset)> {
        let next = |cursor: &PartitionCursor| {
            let ahead = self.ahead.iter().find(|record| record.id.partition == cursor.partition);
            (cursor.partition, ahead.map_or(cursor.next, |record| record.id.offset))
        };
        self.partitions.iter().map(next).collect()
    }

    /// Reads a partition on at `next`.
    pub fn seek(&mut self, partition: PartitionId, next: LogOffset) {
        self.ahead.retain(|record| record.id.partition != partition);
        if let Some(cursor) = self.partitions.iter_mut().find(|cursor| cursor.partition == partition) {
            cursor.next = next;
        }
    }

    /// Hands out what is visible now, until `visit` stops it; gives how many records were taken.
    ///
    /// # Errors
    /// `Gap`: records that come next are gone; [`ReaderCursor::gap`] says which, and [`ReaderCursor::seek`] goes on
    /// behind them. `NotFound`: the topic is deleted. `Corrupt`, with file and position. `Unavailable`: the owner is
    /// being opened and takes its time. Whatever `visit` fails with.
    pub fn poll(&mut self, mut visit: impl FnMut(PartitionId, RecordView<'_>) -> Result<Step>) -> Result<u64> {
        self.give_back();
        self.gap = None;
        let (mut done, mut idle) = (0, 0);
        let count = self.partitions.len();
        while idle < count {
            let at = self.turn % count;
            let end = self.end(self.partitions[at].partition)?;
            let cursor = &mut self.partitions[at];
            if cursor.next >= end {
                cursor.rest();
                idle += 1;
                self.turn = at + 1;
                continue;
            }
            idle = 0;
            let partition = cursor.partition;
            match cursor.read(end, &mut done, &mut |record| visit(partition, record))? {
                Stopped::AtLimit => self.turn = at + 1,
                Stopped::ByVisitor => return Ok(done),
                Stopped::Gap(lost) => {
                    self.gap = Some((partition, lost.clone()));
                    return Err(Error::lost(&self.info.name, partition.0, lost));
                }
            }
        }
        Ok(done)
    }

    /// What the last poll found gone.
    #[must_use]
    pub fn gap(&self) -> Option<(PartitionId, Range<LogOffset>)> {
        self.gap.clone()
    }

    /// How many visible records are ahead.
    ///
    /// # Errors
    /// `NotFound`: the topic is deleted; `Corrupt`, `Unavailable`.
    pub fn lag(&self) -> Result<u64> {
        let mut lag = self.ahead.len() as u64;
        for cursor in &self.partitions {
            lag += self.end(cursor.partition)?.0.saturating_sub(cursor.next.0);
        }
        Ok(lag)
    }

    /// Waits until there is a record, for `limit` at most; whether there is one. On Linux the owner wakes it.
    ///
    /// # Errors
    /// As [`ReaderCursor::lag`].
    pub fn wait(&mut self, limit: Duration) -> Result<bool> {
        self.wait_until(limit, &|| false)
    }

    /// As [`ReaderCursor::wait`]; `enough` is asked now and then and ends it too.
    pub(crate) fn wait_until(&mut self, limit: Duration, enough: &dyn Fn() -> bool) -> Result<bool> {
        let clock = Arc::clone(&self.owner.clock);
        let deadline = clock.monotonic().saturating_add(limit);
        loop {
            if self.lag()? > 0 {
                return Ok(true);
            }
            let left = deadline.saturating_sub(clock.monotonic());
            if left.is_zero() || enough() {
                return Ok(false);
            }
            match self.owner.view()? {
                View::Live(live) => {
                    let before = clock.monotonic();
                    let visible = live.watch.visible();
                    // The lag was asked for before: what came since has moved the visible LSN, now or then.
                    let more = || self.partitions.iter().any(|cursor| self.is_ahead(&live.watch, cursor));
                    live.watch.wait(left.min(LOOK_AGAIN), || live.watch.visible() != visible || more());
                    if clock.monotonic().saturating_sub(before) >= LOOK_AGAIN {
                        self.owner.look_again()?;
                    }
                }
                View::Offline(_) => clock.sleep(left.min(LOOK_FOR_OWNER)),
            }
        }
    }

    /// The next record; `None` when there is none within `limit`.
    ///
    /// # Errors
    /// As [`ReaderCursor::poll`].
    pub fn next_record(&mut self, limit: Duration) -> Result<Option<Record>> {
        if self.ahead.is_empty() {
            self.read_ahead()?;
            if self.ahead.is_empty() && !limit.is_zero() && self.wait(limit)? {
                self.read_ahead()?;
            }
        }
        Ok(self.ahead.pop_front())
    }

    /// Reads some records of one partition.
    fn read_ahead(&mut self) -> Result<()> {
        const RECORDS: usize = 256;
        let (topic, mut ahead) = (self.info.id, VecDeque::new());
        let polled = self.poll(|partition, record| {
            ahead.push_back(Record::from_view(&record, topic, partition));
            Ok(if ahead.len() < RECORDS { Step::Next } else { Step::NextAndReturn })
        });
        self.ahead = ahead;
        match polled {
            // What came before it is handed out first; the next poll meets it again.
            Err(_) if !self.ahead.is_empty() => Ok(()),
            other => other.map(drop),
        }
    }

    /// What was read ahead and not handed out is ahead again.
    fn give_back(&mut self) {
        for (partition, next) in self.positions() {
            if let Some(cursor) = self.partitions.iter_mut().find(|cursor| cursor.partition == partition) {
                cursor.next = next;
            }
        }
        self.ahead.clear();
    }

    fn is_ahead(&self, watch: &crate::page::Watch, cursor: &PartitionCursor) -> bool {
        let watched = watch.partition(self.info.id, cursor.partition);
        watched.is_ok_and(|watched| watched.is_none_or(|watched| watched.end > cursor.next))
    }

    fn end(&self, partition: PartitionId) -> Result<LogOffset> {
        Ok(self.owner.partition(self.info.id, partition)?.ok_or_else(|| deleted(&self.info))?.end)
    }
}

fn deleted(info: &TopicInfo) -> Error {
    Error::new(ErrorKind::NotFound, format!("topic {:?} is deleted", info.name))
}

/// Puts the cursor at the first record of that time or a later one. Reads all that is before it.
pub(super) fn find_time(cursor: &mut PartitionCursor, end: LogOffset, from_ms: i64) -> Result<()> {
    loop {
        let mut done = 0;
        let stopped = cursor.read(end, &mut done, &mut |record| {
            Ok(if record.timestamp_ms >= from_ms { Step::Stay } else { Step::Next })
        });
        match stopped? {
            // Nothing of that time can be there.
            Stopped::Gap(lost) => cursor.next = lost.end,
            Stopped::AtLimit | Stopped::ByVisitor => return Ok(()),
        }
    }
}

impl Iterator for ReaderCursor {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.next_record(Duration::ZERO).transpose()
    }
}
