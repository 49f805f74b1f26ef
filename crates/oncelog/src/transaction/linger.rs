//! The accumulator: records that are appended one by one under a lax policy are gathered in an open batch of their
//! partition, which becomes a frame when it is full, when it has lingered long enough, or when somebody else wants the
//! turn.
//!
//! ```text
//! append: take the turn -> encode into the open batch -> offset            no frame, no system call, no allocation
//! seal:   batch -> frame with its LSN -> as every lax frame
//! ```
//!
//! Invariants:
//! * The offset of a record is decided when it is put into the batch, under the turn and below the durable bound. The
//!   batch begins at the turn's next offset, so whoever plans under that turn seals the batch before.
//! * Room in the segment and in the journal is taken when a batch is opened: a `Full` disk is told before an offset is.
//!   So sealing fails only when the journal has ended, and then it ends for everybody.
//! * A record is in memory only until its batch is sealed. A flush seals every open batch, an orderly close too.
//!
//! As Kafka's producer does it (`linger.ms`, `batch.size`), but with offsets at once, as the log is in this process.

use std::collections::BTreeMap;
use std::time::Duration;

use super::EngineTx;
use super::apply::BatchAt;
use super::commit::Pipeline;
use super::engine::{Appender, AppenderOptions, NewRecord};
use super::frame::FrameWriter;
use super::staged::StoreTx;
use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::journal::{Durability, frame_room};
use crate::record::{self, BATCH_HEAD_BYTES, BatchBuilder, Draft, partition_of};
use crate::topic::{OpenBatch, Partition, Topic, Turn};
use crate::wake::{Arc, AtomicU32, AtomicU64, Mutex, MutexGuard, Ordering, RaceSite, keeps};

/// The largest open batch.
const OPEN_BYTES_MAX: usize = 4 << 20;

/// No record is smaller; so an open batch of any size has fewer records than a bound is ahead.
const RECORD_BYTES_MIN: usize = 7;

const _: () = assert!((OPEN_BYTES_MAX / RECORD_BYTES_MIN) as u64 + 1 < super::commit::BOUND_AHEAD);

/// What a frame has beside its one batch, at most.
const FRAME_EXTRA_BYTES: usize = 64;

/// By topic and partition: when it is due.
type Due = BTreeMap<(TopicId, PartitionId), (Duration, Arc<Partition>)>;

/// Partitions with an open batch, and when the first must be sealed.
pub(crate) struct Lingering {
    partitions: Mutex<Due>,
    /// Held while batches are sealed: whoever finds none left to seal must not be ahead of one who is at it.
    sealing: Mutex<()>,
    /// On the monotonic clock, in nanoseconds.
    next_due: AtomicU64,
}

impl Default for Lingering {
    fn default() -> Lingering {
        Lingering { partitions: Mutex::default(), sealing: Mutex::default(), next_due: AtomicU64::new(u64::MAX) }
    }
}

impl Lingering {
    /// When the first open batch must be sealed.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        let due = self.next_due.load(Ordering::SeqCst);
        (due < u64::MAX).then(|| Duration::from_nanos(due))
    }

    /// Notes an open batch; whether it is due before all others.
    fn insert(&self, partition: &Arc<Partition>, due: Duration) -> bool {
        let mut partitions = self.partitions.lock();
        partitions.insert((partition.topic, partition.id), (due, Arc::clone(partition)));
        self.next_due.fetch_min(nanos(due), Ordering::SeqCst) > nanos(due)
    }

    /// Takes those that are due at `now`, or all.
    fn take(&self, now: Option<Duration>) -> Vec<Arc<Partition>> {
        let mut partitions = self.partitions.lock();
        let is_due = |due: Duration| now.is_none_or(|now| due <= now);
        let taken = partitions.values().filter(|(due, _)| is_due(*due)).map(|(_, partition)| Arc::clone(partition));
        let taken: Vec<_> = taken.collect();
        partitions.retain(|_, (due, _)| !is_due(*due));
        let next = partitions.values().map(|(due, _)| nanos(*due)).min();
        self.next_due.store(next.unwrap_or(u64::MAX), Ordering::SeqCst);
        taken
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX - 1).min(u64::MAX - 1)
}

impl Pipeline {
    /// Makes a frame of the open batch of a partition, if it has one.
    ///
    /// # Errors
    /// `Closed`: the journal has ended. Offsets that were given out are gone then, as after a power cut.
    pub(super) fn seal(&self, partition: &Arc<Partition>, turn: &mut Turn) -> Result<()> {
        let Some(open) = turn.open.take() else { return Ok(()) };
        let mut writer = FrameWriter::new(turn.gathered.len_bytes() + 16, 1);
        let range = writer.batch(partition.topic, partition.id, &turn.gathered, partition.compression());
        writer.rows(0);
        writer.stamps(0);
        let count = turn.gathered.count();
        turn.gathered.clear();
        let placed = self.place_sealed(partition, turn, writer.finish(), range, count, open.promised);
        // The room was taken: what can fail is what ends the journal.
        placed.inspect_err(|_| self.journal.fail())
    }

    fn place_sealed(
        &self,
        partition: &Arc<Partition>,
        turn: &mut Turn,
        mut bytes: Vec<u8>,
        range: std::ops::Range<usize>,
        count: u32,
        promised: u64,
    ) -> Result<()> {
        let mut plan = turn.plan(partition, [(range.len(), count)])?;
        let mut context = Vec::with_capacity(1);
        for to in std::mem::take(&mut plan.placements) {
            record::set_base_offset(&mut bytes[range.clone()], to.base_offset);
            context.push(BatchAt { bytes: range.clone(), to });
        }
        let _ = self.journal.enqueue_promised(bytes, context, Durability::Written, promised)?;
        turn.take(plan);
        Ok(())
    }

    /// Seals the batches that are due at `now`, or all of them.
    pub(crate) fn seal_lingering(&self, now: Option<Duration>) -> Result<()> {
        let _one_at_a_time = keeps(RaceSite::SealingLock).then(|| self.lingering.sealing.lock());
        for partition in self.lingering.take(now) {
            let mut turn = partition.turn();
            match &turn.open {
                Some(open) if now.is_some_and(|now| open.due > now) => {
                    let _ = self.lingering.insert(&partition, open.due);
                }
                Some(_) => {
                    self.seal(&partition, &mut turn)?;
                    // Not full: records come slowly, and the buffer would lie about.
                    turn.gathered = BatchBuilder::new();
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Appends one record at a time to the open batches of one topic.
pub(crate) struct StoreAppender {
    pipeline: Arc<Pipeline>,
    topic: Arc<Topic>,
    linger: Duration,
    limit: usize,
    /// Records without a key go here until the batch is full.
    sticky: AtomicU32,
}

impl StoreAppender {
    pub(crate) fn new(pipeline: Arc<Pipeline>, topic: TopicId, options: AppenderOptions) -> Result<StoreAppender> {
        let topic = pipeline.topics.get(topic)?;
        let limits = &pipeline.limits;
        let limit = options.batch_bytes.unwrap_or(limits.batch_bytes).min(OPEN_BYTES_MAX);
        // Two of them fit into a journal file with what is around them.
        let limit = limit.min(usize::try_from(pipeline.journal.file_bytes() / 4).unwrap_or(limit));
        let sticky = AtomicU32::new(pipeline.next_spread());
        Ok(StoreAppender { pipeline, topic, linger: options.linger, limit, sticky })
    }

    fn partition_for(&self, key: Option<&[u8]>) -> PartitionId {
        let partitions = self.topic.spec.partitions;
        match key {
            _ if partitions == 1 => PartitionId(0),
            Some(key) => partition_of(key, partitions),
            None => PartitionId(self.sticky.load(Ordering::Relaxed) % partitions),
        }
    }

    /// A record that fills a batch alone is one.
    fn append_alone(&self, partition: PartitionId, record: NewRecord<'_>) -> Result<LogOffset> {
        let mut tx = StoreTx::new(Arc::clone(&self.pipeline), Durability::Written);
        tx.append(self.topic.id, Some(partition), record)?;
        let committed = Box::new(tx).submit()?.wait()?;
        Ok(committed.appended.first().map_or(LogOffset(0), |appended| appended.first))
    }

    /// Opens a batch; gives the turn back, and nothing when the bound had to be raised without it.
    fn open<'a>(
        &self,
        partition: &'a Arc<Partition>,
        mut turn: MutexGuard<'a, Turn>,
    ) -> Result<Option<MutexGuard<'a, Turn>>> {
        if self.pipeline.closing.load(Ordering::SeqCst) {
            return Err(Error::closed());
        }
        partition.check_takes()?;
        self.pipeline.topics.get(self.topic.id)?;
        if turn.next_offset.plus((self.limit / RECORD_BYTES_MIN) as u64 + 1) > turn.bound {
            drop(turn);
            self.pipeline.raise_bound(partition)?;
            return Ok(None);
        }
        self.pipeline.admit(partition, partition.usage().room_for_open(self.limit as u64))?;
        let promised = frame_room(self.limit + FRAME_EXTRA_BYTES);
        self.pipeline.journal.promise(promised)?;
        if let Err(error) = turn.reserve(partition, self.limit) {
            self.pipeline.journal.give_back(promised);
            return Err(error);
        }
        let clock = &self.pipeline.clock;
        let due = clock.monotonic().saturating_add(self.linger);
        turn.open = Some(OpenBatch { timestamp_ms: clock.now_ms(), due, limit: self.limit, promised });
        if self.pipeline.lingering.insert(partition, due) {
            self.pipeline.journal.wake_background();
        }
        Ok(Some(turn))
    }
}

impl Appender for StoreAppender {
    fn append(&self, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<LogOffset> {
        self.topic.check_key(record.key)?;
        let mut draft = Draft {
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp_ms: record.timestamp_ms.unwrap_or(0),
        };
        let bytes = BatchBuilder::encoded_len(&draft);
        let id = partition.unwrap_or_else(|| self.partition_for(record.route.or(record.key)));
        if BATCH_HEAD_BYTES + bytes > self.limit {
            return self.append_alone(id, record);
        }
        let partition = self.topic.partition(id)?;
        loop {
            let mut turn = partition.turn();
            let fits = match &turn.open {
                Some(open) => turn.gathered.len_bytes() + bytes <= open.limit,
                None => match self.open(partition, turn)? {
                    Some(opened) => {
                        turn = opened;
                        true
                    }
                    None => continue,
                },
            };
            if fits {
                if let (None, Some(open)) = (record.timestamp_ms, &turn.open) {
                    draft.timestamp_ms = open.timestamp_ms;
                }
                let offset = turn.next_offset.plus(turn.gathered.count().into());
                turn.gathered.push(&draft);
                return Ok(offset);
            }
            self.pipeline.seal(partition, &mut turn)?;
            drop(turn);
            self.sticky.store(self.pipeline.next_spread(), Ordering::Relaxed);
            if self.pipeline.has_background {
                self.pipeline.journal.nudge();
            } else {
                self.pipeline.journal.lead();
            }
        }
    }
}
