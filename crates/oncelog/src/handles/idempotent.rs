//! Appending records that are stored once, however often they are sent.

use std::fmt;
use std::marker::PhantomData;

use super::append::{Given, first_offset, stage_all};
use super::def::TopicDef;
use super::producer::{Pending, SyncPolicy, Unsynced, WhenFull};
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, ProducerEpoch, Sequence, TopicId};
use crate::record::Header;
use crate::transaction::{Engine, EngineTx, NewStamp, PendingCommit, Stamped};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering};

/// Who an [`IdempotentProducer`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct IdempotentProducerConfig {
    producer_id: String,
    partition: PartitionId,
    initial_sequence: Sequence,
}

impl IdempotentProducerConfig {
    /// The producer of that name, which writes to partition 0 and starts at sequence 0. The name is for life: what it
    /// wrote is remembered under it.
    pub fn new(producer_id: impl Into<String>) -> IdempotentProducerConfig {
        let (partition, initial_sequence) = (PartitionId(0), Sequence(0));
        IdempotentProducerConfig { producer_id: producer_id.into(), partition, initial_sequence }
    }

    /// Sets the partition that all its records go to. Each partition has sequences of its own; a producer that writes
    /// to several opens a handle for each.
    pub fn partition(self, partition: PartitionId) -> Self {
        IdempotentProducerConfig { partition, ..self }
    }

    /// Sets the first sequence of a producer that the store has never heard of.
    pub fn initial_sequence(self, initial_sequence: Sequence) -> Self {
        IdempotentProducerConfig { initial_sequence, ..self }
    }

    pub(super) fn into_parts(self) -> (String, PartitionId, Sequence) {
        (self.producer_id, self.partition, self.initial_sequence)
    }
}

/// One thing that a producer sends, named so that it is known again: by the producer, one of its streams, and the place
/// in that stream.
///
/// A transaction that takes in something from outside carries the stamp of it ([`Tx::stamp`](crate::Tx::stamp)), and
/// then happens once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProducerStamp {
    /// The producer's name.
    pub producer_id: String,
    /// The producer's own number of a stream.
    pub partition: PartitionId,
    /// The place in that stream.
    pub sequence: Sequence,
}

impl ProducerStamp {
    /// The stamp of those three.
    #[must_use]
    pub fn new(producer_id: impl Into<String>, partition: PartitionId, sequence: Sequence) -> ProducerStamp {
        ProducerStamp { producer_id: producer_id.into(), partition, sequence }
    }
}

/// `producer:partition:sequence`.
impl fmt::Display for ProducerStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.producer_id, self.partition, self.sequence)
    }
}

/// What became of records that may have been sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum StampedAppend {
    /// They are stored now, from this offset on.
    Appended(LogOffset),
    /// They were stored before, from this offset on, and are there once.
    Repeated(LogOffset),
    /// They were stored before, more than five batches ago: where is no longer known.
    Duplicate,
}

impl StampedAppend {
    /// Where the first record is, if that is known.
    #[must_use]
    pub fn offset(self) -> Option<LogOffset> {
        match self {
            StampedAppend::Appended(offset) | StampedAppend::Repeated(offset) => Some(offset),
            StampedAppend::Duplicate => None,
        }
    }
}

/// Appends to one partition of a topic, with a sequence for each record: what is sent again under its sequence is
/// stored once, also after a crash, and answered with the offset of the first. `Send + Sync`.
///
/// Opening one takes the next epoch, durably: an older handle of the same producer, wherever it is, gets `Fenced` from
/// then on. To go on after `InDoubt` or a crash, open it again: [`IdempotentProducer::current_sequence`] is behind the
/// last record that is stored, so send again from there, or send again what was not answered with
/// [`IdempotentProducer::append_with`] and let the store find out.
pub struct IdempotentProducer<K, V> {
    engine: Arc<dyn Engine>,
    topic: TopicId,
    config: IdempotentProducerConfig,
    epoch: ProducerEpoch,
    sync_policy: SyncPolicy,
    unsynced: Unsynced,
    when_full: WhenFull,
    /// Held until a batch has its place, so that places are in the order of sequences.
    placing: Mutex<()>,
    /// The sequence that comes next; changed under `placing`, and read by those who do not want to wait for a place.
    next: AtomicU64,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> IdempotentProducer<K, V> {
    pub(crate) fn open(
        engine: Arc<dyn Engine>,
        topic: &TopicDef<K, V>,
        config: IdempotentProducerConfig,
    ) -> Result<IdempotentProducer<K, V>> {
        let topic = engine.open_topic(&topic.spec())?;
        let IdempotentProducerConfig { producer_id, partition, initial_sequence } = &config;
        let (epoch, next) = engine.open_producer(producer_id, topic, *partition, *initial_sequence)?;
        Ok(IdempotentProducer {
            engine,
            topic,
            epoch,
            config,
            sync_policy: SyncPolicy::Always,
            unsynced: Unsynced::default(),
            when_full: WhenFull::Block,
            placing: Mutex::default(),
            next: AtomicU64::new(next.0),
            codecs: PhantomData,
        })
    }

    /// Sets when an acknowledged append survives a power cut. A repeated one is answered when the first is durable.
    #[must_use]
    pub fn sync_policy(self, sync_policy: SyncPolicy) -> Self {
        IdempotentProducer { sync_policy, ..self }
    }

    /// Sets what an append does when its topic is full: see [`Producer::when_full`](crate::Producer::when_full). One
    /// that waits keeps its place: other appends of this producer, and [`IdempotentProducer::issue`], come behind it.
    #[must_use]
    pub fn when_full(self, when_full: WhenFull) -> Self {
        IdempotentProducer { when_full, ..self }
    }

    /// The generation of this handle.
    #[must_use]
    pub fn epoch(&self) -> ProducerEpoch {
        self.epoch
    }

    /// The sequence that the next append gets.
    #[must_use]
    pub fn current_sequence(&self) -> Sequence {
        Sequence(self.next.load(Ordering::SeqCst))
    }

    /// Takes the next sequence, for a record that is to be known by its stamp before it is sent: keep the stamp with
    /// the record, send it with [`IdempotentProducer::append_with`], and again until it is answered. Records are stored
    /// in the order of their sequences: one whose sequence was issued before must come before. Waits behind an append
    /// that waits for room.
    pub fn issue(&self) -> ProducerStamp {
        let _placing = self.placing.lock();
        let sequence = self.current_sequence();
        self.next.store(sequence.plus(1).0, Ordering::SeqCst);
        self.stamp_of(sequence)
    }

    /// The stamp of a sequence that was issued, to send its record again.
    ///
    /// # Errors
    /// `Invalid`: it was not, or by an earlier handle and never stored, see [`IdempotentProducer::was_issued`].
    pub fn reissue(&self, sequence: Sequence) -> Result<ProducerStamp> {
        if self.was_issued(sequence) {
            return Ok(self.stamp_of(sequence));
        }
        let IdempotentProducerConfig { producer_id, initial_sequence, .. } = &self.config;
        let next = self.current_sequence();
        let what =
            format!("producer {producer_id:?}: sequence {sequence} was not issued, {initial_sequence}..{next} were");
        Err(Error::invalid(what))
    }

    fn stamp_of(&self, sequence: Sequence) -> ProducerStamp {
        ProducerStamp { producer_id: self.config.producer_id.clone(), partition: self.config.partition, sequence }
    }

    /// Whether `sequence` was issued by this handle, or a record was stored under it before: it is one of those below
    /// [`IdempotentProducer::current_sequence`].
    ///
    /// One that an earlier handle issued and nobody stored is not: the store never heard of it, and it is issued anew.
    /// So who keeps records with their stamps until they are answered, over restarts too, first sends what he has kept,
    /// in order, by [`IdempotentProducer::append_with`], and only then issues or appends anything else. The other way
    /// round a new record gets the sequence, and the one that was kept is taken for its repetition.
    #[must_use]
    pub fn was_issued(&self, sequence: Sequence) -> bool {
        (self.config.initial_sequence..self.current_sequence()).contains(&sequence)
    }

    /// Appends one record under the next sequence; gives its offset once it is as durable as the sync policy says.
    ///
    /// # Errors
    /// `Fenced`: the producer was opened again, stop. `Conflict`: a transaction uses this producer's sequences at the
    /// same time. `Invalid`, `Full`, `TopicFull`, `Closed`: nothing was written, and the sequence is not used.
    /// `InDoubt`: it may be there; reopen the store and the producer, and append it again under its sequence.
    pub fn append(&self, key: &K::Value, value: &V::Value) -> Result<LogOffset> {
        self.submit(key, value)?.wait()
    }

    /// As [`IdempotentProducer::append`], without waiting for the disk. What is submitted in a row has sequences in a
    /// row.
    ///
    /// # Errors
    /// As [`IdempotentProducer::append`], but for `InDoubt`, which [`Pending::wait`] tells.
    pub fn submit(&self, key: &K::Value, value: &V::Value) -> Result<Pending<LogOffset>> {
        self.submit_new(self.when_full, &mut |tx| self.stage(tx, &Given::pair(key, value)))
    }

    /// Appends one record with everything given: key or none, value or tombstone, headers, timestamp.
    ///
    /// # Errors
    /// As [`IdempotentProducer::append`].
    pub fn append_record(
        &self,
        key: Option<&K::Value>,
        value: Option<&V::Value>,
        headers: &[Header<'_>],
        timestamp_ms: Option<i64>,
    ) -> Result<LogOffset> {
        let record = Given { key, value, headers, timestamp_ms };
        self.submit_new(self.when_full, &mut |tx| self.stage(tx, &record))?.wait()
    }

    /// Appends many records in one atomic step, under sequences that follow each other; gives the offset of the first.
    ///
    /// # Errors
    /// As [`IdempotentProducer::append`]; `Invalid` also where there are no records.
    pub fn append_batch<'r>(&self, records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>) -> Result<LogOffset>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        let records: Vec<_> = records.into_iter().collect();
        self.submit_new(self.when_full, &mut |tx| self.stage_all(tx, &records))?.wait()
    }

    /// Appends one record under a sequence of the caller's: the next one, or one that may have been stored before.
    ///
    /// # Errors
    /// As [`IdempotentProducer::append`]; `Invalid` where `sequence` skips ahead, with the next one in
    /// [`Error::expected_sequence`].
    pub fn append_with(&self, sequence: Sequence, key: &K::Value, value: &V::Value) -> Result<StampedAppend> {
        self.append_batch_with(sequence, [(key, value)])
    }

    /// As [`IdempotentProducer::append_batch`], the first record under a sequence of the caller's. A batch that is sent
    /// again must be cut as it was.
    ///
    /// # Errors
    /// As [`IdempotentProducer::append_with`].
    pub fn append_batch_with<'r>(
        &self,
        first: Sequence,
        records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
    ) -> Result<StampedAppend>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        self.submit_batch_with(self.when_full, first, records)?.answer().wait()
    }

    /// As [`IdempotentProducer::append`], with a future for the answer. The record is handed over, and its sequence
    /// used, by the call: see [`Producer::append_async`](crate::Producer::append_async). After `TopicFull` the sequence
    /// is not used.
    #[cfg(feature = "async")]
    pub fn append_async(&self, key: &K::Value, value: &V::Value) -> Pending<LogOffset> {
        let submitted = self.submit_new(WhenFull::Fail, &mut |tx| self.stage(tx, &Given::pair(key, value)));
        submitted.unwrap_or_else(|error| Pending::there(Err(error)))
    }

    /// As [`IdempotentProducer::append_batch`], with a future for the answer, as
    /// [`IdempotentProducer::append_async`].
    #[cfg(feature = "async")]
    pub fn append_batch_async<'r>(
        &self,
        records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
    ) -> Pending<LogOffset>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        let records: Vec<_> = records.into_iter().collect();
        let submitted = self.submit_new(WhenFull::Fail, &mut |tx| self.stage_all(tx, &records));
        submitted.unwrap_or_else(|error| Pending::there(Err(error)))
    }

    /// As [`IdempotentProducer::append_batch_with`], with a future for the answer. After one that was dropped, send
    /// the same again under its sequence: it is stored once.
    #[cfg(feature = "async")]
    pub fn append_batch_with_async<'r>(
        &self,
        first: Sequence,
        records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
    ) -> Pending<StampedAppend>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        match self.submit_batch_with(WhenFull::Fail, first, records) {
            Ok(submitted) => {
                submitted.hand_over();
                submitted.answer()
            }
            Err(error) => Pending::there(Err(error)),
        }
    }

    fn submit_batch_with<'r>(
        &self,
        when_full: WhenFull,
        first: Sequence,
        records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
    ) -> Result<Submitted>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        let records: Vec<_> = records.into_iter().collect();
        let _placing = self.placing.lock();
        self.submit_at(when_full, Some(first), &mut |tx| self.stage_all(tx, &records))
    }

    /// Makes every append that was acknowledged so far durable, by this producer or any other of the store.
    ///
    /// # Errors
    /// `InDoubt`: the sync failed; `Closed`.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    fn stage(&self, tx: &mut dyn EngineTx, record: &Given<'_, K, V>) -> Result<u32> {
        record.encoded(|record| tx.append(self.topic, Some(self.config.partition), record)).map(|_| 1)
    }

    fn stage_all(&self, tx: &mut dyn EngineTx, records: &[(&K::Value, &V::Value)]) -> Result<u32> {
        match stage_all::<K, V>(tx, self.topic, Some(self.config.partition), records.iter().copied())? {
            0 => Err(Error::invalid("a stamped batch without records")),
            count => Ok(count),
        }
    }

    fn submit_new(
        &self,
        when_full: WhenFull,
        stage: &mut dyn FnMut(&mut dyn EngineTx) -> Result<u32>,
    ) -> Result<Pending<LogOffset>> {
        let _placing = self.placing.lock();
        match self.submit_at(when_full, None, stage)? {
            Submitted::New(pending) => {
                pending.hand_over();
                Ok(Pending::new(pending, first_offset))
            }
            Submitted::Before(_) => Err(self.contested("somebody else has used the next sequence")),
        }
    }

    fn submit_at(
        &self,
        when_full: WhenFull,
        first: Option<Sequence>,
        stage: &mut dyn FnMut(&mut dyn EngineTx) -> Result<u32>,
    ) -> Result<Submitted> {
        when_full.patiently(&*self.engine, self.topic, || self.try_submit_at(first, stage))
    }

    fn try_submit_at(
        &self,
        first: Option<Sequence>,
        stage: &mut dyn FnMut(&mut dyn EngineTx) -> Result<u32>,
    ) -> Result<Submitted> {
        let next = self.current_sequence();
        let first = first.unwrap_or(next);
        let mut tx = self.sync_policy.begin(&*self.engine, &self.unsynced, 0)?;
        let count = stage(&mut *tx)?;
        let bytes = tx.bytes();
        let stamp = NewStamp {
            producer: &self.config.producer_id,
            epoch: Some(self.epoch),
            topic: self.topic,
            partition: self.config.partition,
            first,
            count,
            initial: self.config.initial_sequence,
        };
        match tx.stamp(&stamp)? {
            Stamped::New => {
                let pending = tx.submit()?;
                self.next.store(first.plus(count.into()).max(next).0, Ordering::SeqCst);
                self.sync_policy.catch_up(&*self.engine, &self.unsynced, bytes)?;
                Ok(Submitted::New(pending))
            }
            Stamped::Duplicate(offset) => Ok(Submitted::Before(offset)),
            Stamped::InProgress => Err(self.contested("a transaction with a stamp of it is not decided yet")),
        }
    }

    fn contested(&self, what: &str) -> Error {
        Error::new(ErrorKind::Conflict, format!("producer {:?}: {what}", self.config.producer_id))
    }
}

enum Submitted {
    New(Box<dyn PendingCommit>),
    Before(Option<LogOffset>),
}

impl Submitted {
    #[cfg(feature = "async")]
    fn hand_over(&self) {
        if let Submitted::New(pending) = self {
            pending.hand_over();
        }
    }

    fn answer(self) -> Pending<StampedAppend> {
        match self {
            Submitted::New(pending) => {
                Pending::new(pending, |committed| StampedAppend::Appended(first_offset(committed)))
            }
            Submitted::Before(Some(offset)) => Pending::there(Ok(StampedAppend::Repeated(offset))),
            Submitted::Before(None) => Pending::there(Ok(StampedAppend::Duplicate)),
        }
    }
}
