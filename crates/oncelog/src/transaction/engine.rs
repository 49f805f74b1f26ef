//! What stands between the handles and an engine. The embedded store is one; a cluster can be another.

use std::ops::Range;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;

use super::ids::{IdTables, KeepIds};
use crate::consumer::{GapPolicy, Visibility, Whence};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, ProducerEpoch, Sequence, ShardId, TableId, TimerId, TopicId};
use crate::record::{Batch, BatchError, Header, RecordView, Records};
use crate::table::{ScanRange, TableSpec};
use crate::topic::TopicSpec;

/// A record to be appended.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewRecord<'a> {
    /// Decides the partition, if there is one and no partition is named, unless `route` does.
    pub key: Option<&'a [u8]>,
    /// What decides the partition instead of the key: see [`Codec::route`](crate::Codec::route).
    pub route: Option<&'a [u8]>,
    /// The content; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values beside the content, in order.
    pub headers: &'a [Header<'a>],
    /// Milliseconds since the Unix epoch; the engine's clock, read once for each transaction, when `None`.
    pub timestamp_ms: Option<i64>,
}

/// A stamp to be put on a transaction: `count` sequences of a producer, from `first` on.
#[derive(Clone, Copy, Debug)]
pub struct NewStamp<'a> {
    /// The producer's name.
    pub producer: &'a str,
    /// Its generation, as [`Engine::open_producer`] gave it; `None` where no generation fences another.
    pub epoch: Option<ProducerEpoch>,
    /// The topic of the records that are stamped; 0 for a stamp that is tied to no topic.
    pub topic: TopicId,
    /// The partition of these records, or the producer's own count of its streams.
    pub partition: PartitionId,
    /// The first sequence.
    pub first: Sequence,
    /// How many, at least 1.
    pub count: u32,
    /// Where a producer starts that was never heard of.
    pub initial: Sequence,
}

/// What a stamp is, for who put it on a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "what is a duplicate must not be done again"]
#[non_exhaustive]
pub enum Stamped {
    /// The next one of its producer: the stamp happens with the transaction, or not at all.
    New,
    /// Done before, and durable: give the transaction up. With the offset of the first record then, if records were
    /// stamped and the batch is one of the producer's last five.
    Duplicate(Option<LogOffset>),
    /// Another transaction has staged it and is not decided: try later. Should that one be given up, the stamp is free
    /// again.
    InProgress,
}

/// How records are gathered that are appended one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppenderOptions {
    /// The longest that a record waits for others.
    pub linger: Duration,
    /// The most bytes that are gathered; the engine's own measure when `None`.
    pub batch_bytes: Option<usize>,
}

/// Appends records one by one, of which many make a batch. They are durable after the engine's next sync.
pub trait Appender: Send + Sync {
    /// Gives the offset of the record, which is not yet written.
    ///
    /// # Errors
    /// `Invalid`: over a limit, or no such partition; `Full`, `Unavailable`, `Closed`: no offset was given.
    fn append(&self, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<LogOffset>;
}

/// Topics, tables, transactions and sources of one kind of log.
pub trait Engine: Send + Sync {
    /// The same for all that stand for one open engine, and for no other that is open at the same time.
    fn handle_id(&self) -> usize;

    /// The topic of that name, made if there is none.
    ///
    /// # Errors
    /// `Invalid`: it exists and differs from `spec`, or no topic can be so.
    fn open_topic(&self, spec: &TopicSpec) -> Result<TopicId>;

    /// The topic of that name for reading: also one that only others append to. Made if there is none.
    ///
    /// # Errors
    /// As [`Engine::open_topic`]; `Unavailable`: who appends to it is being opened.
    fn open_input(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.open_topic(spec)
    }

    /// As [`Engine::open_topic`], for records that nobody could process: none of them may go because another of its key
    /// came.
    ///
    /// # Errors
    /// As [`Engine::open_topic`]; `Invalid` too: it is compacted by key.
    fn open_dead_letters(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.open_topic(spec)
    }

    /// The topic of that name, if there is one, whoever appends to it.
    fn find_topic(&self, name: &str) -> Result<Option<(TopicId, TopicSpec)>>;

    /// The table of that name, made if there is none.
    ///
    /// # Errors
    /// `Invalid`: it exists and differs from `spec`, or no table can be so.
    fn open_table(&self, spec: &TableSpec) -> Result<TableId>;

    /// The table of that name, if there is one.
    fn find_table(&self, name: &str) -> Result<Option<(TableId, TableSpec)>>;

    /// Where ids of that name are remembered. From now on the engine forgets them as `keep` says.
    ///
    /// # Errors
    /// As [`Engine::open_table`].
    fn open_ids(&self, name: &str, keep: KeepIds) -> Result<IdTables>;

    /// An empty transaction, durable when its commit is answered.
    fn begin(&self) -> Result<Box<dyn EngineTx>>;

    /// An empty transaction whose commit may be answered before it is durable. Only appends may go into it. It is made
    /// durable `within` that time after its answer, or as soon as the engine does so by itself if that is sooner.
    fn begin_lax(&self, within: Option<Duration>) -> Result<Box<dyn EngineTx>>;

    /// Whether appends to the topic may be refused with `TopicFull`.
    fn may_be_full(&self, _topic: TopicId) -> bool {
        false
    }

    /// Waits a moment for room in a topic that is full; `false`: none will come.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Closed`.
    fn wait_for_room(&self, _topic: TopicId) -> Result<bool> {
        Ok(false)
    }

    /// What gathers records for a topic; made durable `within` that time after they are written, as by
    /// [`Engine::begin_lax`].
    ///
    /// # Errors
    /// `NotFound`: no such topic.
    fn appender(&self, topic: TopicId, options: AppenderOptions, within: Option<Duration>)
    -> Result<Box<dyn Appender>>;

    /// Opens a producer of stamps for a partition: gives the next generation of it, which is durable and fences the one
    /// before, and the sequence that comes next.
    ///
    /// # Errors
    /// `Invalid`: a bad name, or no such partition.
    fn open_producer(
        &self,
        producer: &str,
        topic: TopicId,
        partition: PartitionId,
        initial: Sequence,
    ) -> Result<(ProducerEpoch, Sequence)>;

    /// Makes everything that was answered so far durable.
    fn flush(&self) -> Result<()>;

    /// Sources of the records that `spec` names, at least one and `count` at most: each has the partitions whose number
    /// is its own modulo their count, of every topic. The consumer's id is claimed once for all of them, and free when
    /// the last is dropped. A partition without committed progress begins where `spec.whence` says; for a consumer
    /// that is remembered that place is committed, so that it stays.
    ///
    /// # Errors
    /// `Locked`: another handle consumes under this id. `NotFound`: no such topic. `Invalid`: no such partition, a
    /// topic named twice, or a position behind the end of a partition.
    fn sources(&self, spec: &SourceSpec<'_>, count: usize) -> Result<Vec<Box<dyn Source>>>;

    /// The offset behind the last durable record of each partition.
    ///
    /// # Errors
    /// `NotFound`: no such topic.
    fn ends(&self, topic: TopicId) -> Result<Vec<LogOffset>>;

    /// Where the consumer stands in each partition, if more than the sources of this engine consume under its id;
    /// `None` if nobody else does, and whoever has the sources knows.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Unavailable`.
    fn shared_progress(&self, _consumer: &str, _topic: TopicId) -> Result<Option<Vec<LogOffset>>> {
        Ok(None)
    }

    /// The engine's clock: milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// The place among all ids that come: microseconds since the Unix epoch by the engine's clock for what grows old,
    /// or what goes for them. Each is greater than the one before, and than those in the tables of
    /// [`Engine::open_ids`].
    fn next_arrival(&self) -> u64;

    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;

    /// Pauses the calling thread, as for a back-off.
    fn pause(&self, pause: Duration);

    /// Ends every [`Source::wait`] early.
    fn wake(&self);
}

/// What to read, as whom, and from where.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SourceSpec<'a> {
    /// Whose progress it is; nothing is claimed or remembered when `None`. The empty id is the one global consumer of
    /// each of the topics.
    pub consumer: Option<&'a str>,
    /// The topics.
    pub topics: &'a [TopicId],
    /// Only these partitions of each topic; all when `None`.
    pub partitions: Option<&'a [PartitionId]>,
    /// Where a partition without committed progress begins.
    pub whence: Whence,
    /// Which records are shown.
    pub visibility: Visibility,
    /// What happens when the next records are gone.
    pub gaps: GapPolicy,
    /// The tables whose shards go with the partitions: an engine that gives a partition to another process, gives the
    /// shards as well.
    pub tables: &'a [TableId],
}

impl<'a> SourceSpec<'a> {
    /// The durable records of `topics`, from the oldest, remembering nothing.
    #[must_use]
    pub fn new(topics: &'a [TopicId]) -> SourceSpec<'a> {
        SourceSpec {
            consumer: None,
            topics,
            partitions: None,
            whence: Whence::default(),
            visibility: Visibility::default(),
            gaps: GapPolicy::default(),
            tables: &[],
        }
    }

    /// Goes on where that consumer stands, which is claimed for as long as the sources live.
    #[must_use]
    pub fn consumer(self, consumer: &'a str) -> SourceSpec<'a> {
        SourceSpec { consumer: Some(consumer), ..self }
    }

    /// Reads only these partitions of each topic.
    #[must_use]
    pub fn partitions(self, partitions: &'a [PartitionId]) -> SourceSpec<'a> {
        SourceSpec { partitions: Some(partitions), ..self }
    }

    /// Sets where a partition without committed progress begins.
    #[must_use]
    pub fn whence(self, whence: Whence) -> SourceSpec<'a> {
        SourceSpec { whence, ..self }
    }

    /// Sets which records are shown.
    #[must_use]
    pub fn visibility(self, visibility: Visibility) -> SourceSpec<'a> {
        SourceSpec { visibility, ..self }
    }

    /// Sets what happens when the next records are gone. A gap that is skipped is passed over by the next progress.
    #[must_use]
    pub fn gaps(self, gaps: GapPolicy) -> SourceSpec<'a> {
        SourceSpec { gaps, ..self }
    }

    /// Names the tables whose shards go with the partitions.
    #[must_use]
    pub fn tables(self, tables: &'a [TableId]) -> SourceSpec<'a> {
        SourceSpec { tables, ..self }
    }
}

/// A place in a transaction to which it can be rolled back.
#[derive(Clone, Copy, Debug)]
pub struct TxMark {
    pub(crate) undo: usize,
    pub(crate) appends: usize,
}

impl AppenderOptions {
    /// With the engine's own measure for batches.
    #[must_use]
    pub fn new(linger: Duration) -> AppenderOptions {
        AppenderOptions { linger, batch_bytes: None }
    }
}

impl TxMark {
    /// A mark of two positions that only the engine that made it understands.
    #[must_use]
    pub fn new(undo: usize, appends: usize) -> TxMark {
        TxMark { undo, appends }
    }

    /// The two positions.
    #[must_use]
    pub fn positions(&self) -> (usize, usize) {
        (self.undo, self.appends)
    }
}

/// One transaction: everything in it happens in one atomic step, or not at all. Dropping it aborts it.
pub trait EngineTx: Send {
    /// Stages a record; gives the partition it goes to.
    ///
    /// # Errors
    /// `Invalid`: over `max_record_bytes` or `max_transaction_bytes`, or no such partition.
    fn append(&mut self, topic: TopicId, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<PartitionId>;

    /// The value of a row, own writes included.
    fn get(&mut self, table: TableId, shard: ShardId, key: &[u8]) -> Result<Option<Bytes>>;

    /// Rows of a range, own writes included. Of the range, what it went through becomes part of what must not change
    /// until the commit: up to the last row where it stopped at the limit.
    fn scan(&mut self, table: TableId, shard: ShardId, range: ScanRange<'_>) -> Result<Vec<(Vec<u8>, Bytes)>>;

    /// Stages a row; `None` deletes it.
    fn put(&mut self, table: TableId, shard: ShardId, key: &[u8], value: Option<Bytes>) -> Result<()>;

    /// Stages the next offset that `consumer` will read.
    ///
    /// # Errors
    /// `Invalid`: lower than what is committed.
    fn progress(&mut self, consumer: &str, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()>;

    /// Stages a record that is appended at `due_ms` of the engine's clock, or soon after.
    ///
    /// # Errors
    /// As [`EngineTx::append`]; `Invalid` also where the engine has no delayed records.
    fn delay(
        &mut self,
        topic: TopicId,
        partition: Option<PartitionId>,
        due_ms: i64,
        record: NewRecord<'_>,
    ) -> Result<TimerId>;

    /// Stages that a delayed record is not appended; `false`: it was, or there is none.
    ///
    /// # Errors
    /// `Invalid` where the engine has no delayed records.
    fn cancel(&mut self, timer: TimerId) -> Result<bool>;

    /// Sets the bytes at which a batch of it is ended and the next begun, for the records that follow.
    ///
    /// # Errors
    /// `Closed`.
    fn batch_bytes(&mut self, bytes: usize) -> Result<()>;

    /// The transaction happens only if `next` is the next offset of the partition when it gets its place.
    ///
    /// # Errors
    /// `Invalid`: no such partition. The commit answers `Conflict` if it is not so, with
    /// [`Error::next_offset`](crate::Error::next_offset).
    fn expect_offset(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) -> Result<()>;

    /// Stages a stamp, which says that what the transaction does is done once. Of two transactions with one stamp at
    /// most one happens.
    ///
    /// # Errors
    /// `Invalid`: not the next sequence of that producer, see [`Error::expected_sequence`](crate::Error), or a bad
    /// name;
    /// `Fenced`: of an older generation.
    fn stamp(&mut self, stamp: &NewStamp<'_>) -> Result<Stamped>;

    /// The place to which [`EngineTx::rollback`] can go back. Marks made before are void.
    fn mark(&mut self) -> TxMark;

    /// Takes back what was staged since `mark`.
    fn rollback(&mut self, mark: TxMark);

    /// Bytes staged so far.
    fn bytes(&self) -> usize;

    /// Decides the transaction's place and hands it over, without waiting for the disk.
    ///
    /// # Errors
    /// `Conflict`, `Full`, `Invalid`, `Closed`: it did not happen and never will.
    fn submit(self: Box<Self>) -> Result<Box<dyn PendingCommit>>;
}

/// A transaction that has its place and waits for its answer.
pub trait PendingCommit: Send {
    /// Whether [`PendingCommit::wait`] would answer at once.
    fn is_done(&self) -> bool;

    /// The caller goes on to other work: the engine's own thread, if it has one, takes the transaction to the disk.
    fn hand_over(&self);

    /// Has `waker` woken once when the answer is there, instead of the one given before; [`PendingCommit::hand_over`]
    /// was called. `false`: the caller waits now, since it is there, or nobody else would bring it.
    fn wake_when_done(&self, waker: &Waker) -> bool;

    /// Waits for the answer.
    ///
    /// # Errors
    /// `InDoubt`: the disk failed, it may have happened; `Closed`: it did not happen.
    fn wait(self: Box<Self>) -> Result<Committed>;
}

/// What a committed transaction appended, in order of topic and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// An entry for each partition that records went to.
    pub appended: Vec<Appended>,
}

/// Records of one transaction in one partition: their offsets follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The offset of the first record.
    pub first: LogOffset,
    /// How many records.
    pub count: u64,
}

/// Records of one partition that were read together, borrowed from the read buffer; a cursor over them.
#[derive(Clone, Debug)]
pub struct Fetched<'a> {
    /// The topic.
    pub topic: TopicId,
    /// Its name.
    pub topic_name: &'a str,
    /// The partition.
    pub partition: PartitionId,
    /// Where the source stood: no record of a lower offset is given.
    pub from: LogOffset,
    /// The offset behind the last of these records.
    pub next: LogOffset,
    records: Records<'a>,
}

impl<'a> Fetched<'a> {
    pub(crate) fn new(
        topic: TopicId,
        topic_name: &'a str,
        partition: PartitionId,
        from: LogOffset,
        batch: Batch<'a>,
    ) -> Fetched<'a> {
        Fetched { topic, topic_name, partition, from, next: batch.next_offset(), records: batch.records() }
    }

    #[cold]
    #[inline(never)]
    fn malformed(&self, error: BatchError) -> Error {
        let what = format!("topic {:?}, partition {}: {error}", self.topic_name, self.partition);
        Error::new(ErrorKind::Corrupt, what)
    }
}

impl<'a> Iterator for Fetched<'a> {
    type Item = Result<RecordView<'a>>;

    #[inline(always)]
    fn next(&mut self) -> Option<Result<RecordView<'a>>> {
        loop {
            match self.records.next()? {
                Ok(record) if record.offset < self.from => {}
                Ok(record) => return Some(Ok(record)),
                Err(error) => return Some(Err(self.malformed(error))),
            }
        }
    }
}

/// What a visitor of records wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The record is done with; the next one.
    Next,
    /// The record is done with; return.
    NextAndReturn,
    /// The record is not done with: return, and give it again.
    Stay,
}

/// Records in the order of their partitions, from where a consumer stands.
pub trait Source: Send {
    /// Where it stands: the next offset of each partition.
    fn positions(&self) -> Vec<(TopicId, PartitionId, LogOffset)>;

    /// Hands records that are there now to `visit`, round-robin over partitions, until it says otherwise or there are
    /// no more. Gives how many were done with.
    ///
    /// # Errors
    /// `Gap`: the next record is gone (see [`Source::gap`]); whatever `visit` fails with, that record not done with.
    fn poll(&mut self, visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>) -> Result<u64>;

    /// Records that are there now, from one partition, and the source stands behind them: whoever is not done with them
    /// all goes back by [`Source::seek`]. Partitions take turns. `None` when there are no more. Faster than
    /// [`Source::poll`] where each record is little work: what is done with one can be compiled into the loop.
    ///
    /// # Errors
    /// `Gap`: the next record is gone (see [`Source::gap`]); `Corrupt`, `Closed`.
    fn poll_batch(&mut self) -> Result<Option<Fetched<'_>>> {
        if self.find_batch()? { self.found_batch().map(Some) } else { Ok(None) }
    }

    /// Finds the records that [`Source::poll_batch`] would give; `false` when there are none. The source does not move,
    /// but over a gap that is skipped.
    ///
    /// # Errors
    /// As [`Source::poll_batch`].
    fn find_batch(&mut self) -> Result<bool>;

    /// The records that were found by the call before, and the source stands behind them.
    ///
    /// # Errors
    /// `Corrupt`; `Invalid`: none were found.
    fn found_batch(&mut self) -> Result<Fetched<'_>>;

    /// Hands out nothing of these partitions, and counts nothing of them as more to come, until the next call. The
    /// others go on.
    fn hold(&mut self, held: &[(TopicId, PartitionId)]);

    /// Reads on at `next`.
    fn seek(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset);

    /// The offsets that are gone at the place where it stands, after an error of kind `Gap`.
    fn gap(&self) -> Option<(TopicId, PartitionId, Range<LogOffset>)>;

    /// Waits until there may be more or `enough` says so, for `limit` at most. `enough` is asked again after each
    /// [`Engine::wake`].
    fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool);

    /// Has `waker` woken once when there may be more or the engine has ended, instead of the one given before.
    /// `false`: there may be more already, and nothing is kept.
    fn wake_when_more(&mut self, waker: &Waker) -> bool;

    /// Forgets the waker, if it was not woken yet.
    fn forget_waker(&mut self);

    /// Records that are there and not yet polled.
    fn lag(&self) -> u64;
}
