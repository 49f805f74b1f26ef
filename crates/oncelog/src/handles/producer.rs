//! Appending records to one topic.

use std::borrow::Cow;
use std::marker::PhantomData;
#[cfg(feature = "async")]
use std::pin::Pin;
#[cfg(feature = "async")]
use std::task::{Context, Poll};
use std::time::Duration;

use super::append::{Given, first_offset, stage_all};
use super::def::TopicDef;
use super::tx::encode;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::Header;
use crate::transaction::{Appender, AppenderOptions, Committed, Engine, EngineTx, NewRecord, PendingCommit};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering};

/// When an acknowledged append survives a power cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SyncPolicy {
    /// On return: each append waits for a sync, which it shares with all that wait at the same time.
    #[default]
    Always,
    /// After the next `flush`, or when the store's background has synced, which it does within 5 s. Until then the
    /// record is not shown to readers.
    Os,
    /// As `Os`, within this time: a millisecond at least, and never more than `Os` takes. All appends of the store are
    /// synced as often as the most careful of its producers asks.
    Periodic(Duration),
    /// As `Os`; besides, the append that brings what this producer has appended since its last sync to so many bytes of
    /// keys, values and headers is synced before its answer, with all before it.
    Bytes(u64),
}

/// What an append does when its topic holds as much as it may, and none of it may go: see
/// [`MinimumRetention`](crate::MinimumRetention).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits, until consumers have read and old records go.
    #[default]
    Block,
    /// It fails with [`TopicFull`](ErrorKind::TopicFull): nothing was written.
    Fail,
}

impl WhenFull {
    /// Tries again as long as the topic is full, if appends wait for that.
    pub(super) fn patiently<T>(
        self,
        engine: &dyn Engine,
        topic: TopicId,
        mut attempt: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        loop {
            match attempt() {
                Err(error) if error.kind() == ErrorKind::TopicFull && self == WhenFull::Block => {
                    if !engine.wait_for_room(topic)? {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }
}

/// Counts what a producer has appended since its last sync.
#[derive(Debug, Default)]
pub(super) struct Unsynced(AtomicU64);

impl SyncPolicy {
    /// A transaction over `bytes` of content that is answered as the policy says.
    pub(super) fn begin(self, engine: &dyn Engine, unsynced: &Unsynced, bytes: usize) -> Result<Box<dyn EngineTx>> {
        match self {
            SyncPolicy::Always => engine.begin(),
            SyncPolicy::Os => engine.begin_lax(None),
            SyncPolicy::Periodic(within) => engine.begin_lax(Some(within.max(Duration::from_millis(1)))),
            SyncPolicy::Bytes(most) if unsynced.count(bytes, most) => engine.begin(),
            SyncPolicy::Bytes(_) => engine.begin_lax(None),
        }
    }

    /// Counts `bytes` that were appended before they were counted, and syncs if the policy says so.
    pub(super) fn catch_up(self, engine: &dyn Engine, unsynced: &Unsynced, bytes: usize) -> Result<()> {
        match self {
            SyncPolicy::Bytes(most) if unsynced.count(bytes, most) => engine.flush().map_err(|error| {
                unsynced.owe();
                match error.kind() {
                    // The records have their place: who took this for "nothing was written" would append them twice.
                    ErrorKind::Full | ErrorKind::Unavailable => {
                        Error::new(ErrorKind::InDoubt, "appended, but the sync that is due could not be made")
                            .because(error)
                    }
                    _ => error,
                }
            }),
            _ => Ok(()),
        }
    }
}

impl Unsynced {
    /// What was to be synced was not: the next append is.
    fn owe(&self) {
        self.0.store(u64::MAX / 2, Ordering::Relaxed);
    }

    /// Adds `bytes`; whether there are `most` now, so that a sync is due. It counts from zero then.
    fn count(&self, bytes: usize, most: u64) -> bool {
        let is_due = self.0.fetch_add(bytes as u64, Ordering::Relaxed).saturating_add(bytes as u64) >= most;
        if is_due {
            self.0.store(0, Ordering::Relaxed);
        }
        is_due
    }
}

/// The bytes of a record's content.
fn content_bytes(record: &NewRecord<'_>) -> usize {
    let header = |header: &Header<'_>| header.name.len() + header.value.map_or(0, <[u8]>::len);
    let (key, value) = (record.key.map_or(0, <[u8]>::len), record.value.map_or(0, <[u8]>::len));
    key + value + record.headers.iter().map(header).sum::<usize>()
}

/// Key and value.
type EncodedPair<'r> = (Cow<'r, [u8]>, Cow<'r, [u8]>);

/// Appends to one topic. Cheap to make; `Send + Sync`, many threads may share one.
pub struct Producer<K, V> {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) topic: TopicId,
    sync_policy: SyncPolicy,
    unsynced: Unsynced,
    linger: Option<Duration>,
    batch_bytes: Option<usize>,
    when_full: WhenFull,
    /// Made when the options are set, so that an append finds it.
    appender: Option<Box<dyn Appender>>,
    /// Where records that are gathered are encoded, so that an append allocates nothing.
    encoded: Mutex<(Vec<u8>, Vec<u8>)>,
    codecs: PhantomData<fn() -> (K, V)>,
}

/// An answer that is still to come. What it is about was handed over: dropping this takes nothing back.
///
/// With feature `async` it is a [`Future`] too, which any executor can run. It is woken when the answer is there; over
/// a store with [`StoreOptions::manual_duties`](crate::StoreOptions::manual_duties), where nobody else would bring it,
/// the poll itself goes to the disk.
#[must_use]
pub struct Pending<T>(Answer<T>);

enum Answer<T> {
    Awaited(Box<dyn PendingCommit>, Box<dyn FnOnce(Committed) -> T + Send>),
    There(Result<T>),
    /// A future that was polled again after its end.
    #[cfg(feature = "async")]
    Taken,
}

impl<T> Pending<T> {
    pub(crate) fn new(
        inner: Box<dyn PendingCommit>,
        answer: impl FnOnce(Committed) -> T + Send + 'static,
    ) -> Pending<T> {
        Pending(Answer::Awaited(inner, Box::new(answer)))
    }

    /// An answer that is known.
    pub(super) fn there(answer: Result<T>) -> Pending<T> {
        Pending(Answer::There(answer))
    }

    /// Whether [`Pending::wait`] would return at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match &self.0 {
            Answer::Awaited(pending, _) => pending.is_done(),
            _ => true,
        }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// `InDoubt`: the disk failed, it may have happened: reopen and look. `Closed`: an earlier failure, it did not
    /// happen.
    pub fn wait(self) -> Result<T> {
        match self.0 {
            Answer::Awaited(pending, answer) => pending.wait().map(answer),
            Answer::There(answer) => answer,
            #[cfg(feature = "async")]
            Answer::Taken => Err(Error::invalid("the answer was taken before")),
        }
    }
}

#[cfg(feature = "async")]
impl<T: Unpin> Future for Pending<T> {
    type Output = Result<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        if let Answer::Awaited(pending, _) = &self.0
            && !pending.is_done()
            && pending.wake_when_done(context.waker())
        {
            return Poll::Pending;
        }
        Poll::Ready(Pending(std::mem::replace(&mut self.0, Answer::Taken)).wait())
    }
}

impl<K: Codec, V: Codec> Producer<K, V> {
    pub(crate) fn open(engine: Arc<dyn Engine>, topic: &TopicDef<K, V>) -> Result<Producer<K, V>> {
        let topic = engine.open_topic(&topic.spec())?;
        Ok(Producer {
            engine,
            topic,
            sync_policy: SyncPolicy::Always,
            unsynced: Unsynced::default(),
            linger: None,
            batch_bytes: None,
            when_full: WhenFull::Block,
            appender: None,
            encoded: Mutex::default(),
            codecs: PhantomData,
        })
    }

    /// Sets when an acknowledged append survives a power cut.
    #[must_use]
    pub fn sync_policy(self, sync_policy: SyncPolicy) -> Self {
        Producer { sync_policy, ..self }.prepared()
    }

    /// Gathers single records for up to so long before they are written, many in one batch, under a lax sync policy: an
    /// append then costs next to nothing, and gives the offset at once. Until the batch is written, at the latest after
    /// this time, at [`Producer::flush`] or at an orderly close, a killed process loses it too, and not only a power
    /// cut. The sync policy's time begins when it is written.
    ///
    /// Under [`SyncPolicy::Always`] there is nothing to gather, and appends answer `Invalid`.
    #[must_use]
    pub fn linger(self, linger: Duration) -> Self {
        Producer { linger: Some(linger), ..self }.prepared()
    }

    /// Sets the bytes at which a batch is ended and the next begun, also within [`Producer::append_batch`]: those of
    /// the store unless set. With [`Producer::linger`] it is 4 MiB at most, or a quarter of a journal file.
    #[must_use]
    pub fn batch_bytes(self, bytes: usize) -> Self {
        Producer { batch_bytes: Some(bytes), ..self }.prepared()
    }

    /// Sets what an append does when its topic is full. Under `manual_duties` nobody else removes anything, so an
    /// append that waits removes what may go itself, and fails if that is not enough.
    #[must_use]
    pub fn when_full(self, when_full: WhenFull) -> Self {
        Producer { when_full, ..self }
    }

    fn prepared(self) -> Self {
        // What is wrong here is told by the append.
        let appender = self.make_appender().and_then(Result::ok);
        Producer { appender, ..self }
    }

    fn make_appender(&self) -> Option<Result<Box<dyn Appender>>> {
        let mut options = AppenderOptions::new(self.linger?);
        options.batch_bytes = self.batch_bytes;
        Some(match self.sync_policy {
            SyncPolicy::Always => Err(Error::invalid("linger gathers appends under a lax sync policy only")),
            SyncPolicy::Periodic(within) => self.engine.appender(self.topic, options, Some(within)),
            SyncPolicy::Os | SyncPolicy::Bytes(_) => self.engine.appender(self.topic, options, None),
        })
    }

    /// Appends one record, to the partition of its key; gives its offset once it is as durable as the sync policy says.
    /// Callers that wait together share one disk sync (group commit, DeWitt et al. 1984).
    ///
    /// # Errors
    /// `Invalid`: over a limit or no encoding; `Full`: no space, nothing was written; `TopicFull`, where
    /// [`Producer::when_full`] says so: the topic is full, nothing was written; `Closed`; `InDoubt`: the sync failed,
    /// the record may be there: reopen the store and look.
    pub fn append(&self, key: &K::Value, value: &V::Value) -> Result<LogOffset> {
        let record = Given::<K, V>::pair(key, value);
        if self.linger.is_none() || (K::as_encoded(key).is_some() && V::as_encoded(value).is_some()) {
            return record.encoded(|record| self.put(None, record));
        }
        let mut encoded = self.encoded.lock();
        let (key_bytes, value_bytes) = &mut *encoded;
        record.encoded_in(key_bytes, value_bytes, |record| self.put(None, record))
    }

    /// Appends one record without a key.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub fn append_value(&self, value: &V::Value) -> Result<LogOffset> {
        let record = Given::<K, V> { key: None, value: Some(value), headers: &[], timestamp_ms: None };
        record.encoded(|record| self.put(None, record))
    }

    /// Hands one record over without waiting; its offset comes with the answer. One busy thread fills groups this way.
    ///
    /// # Errors
    /// As [`Producer::append`], but for `InDoubt`, which [`Pending::wait`] tells.
    pub fn submit(&self, key: &K::Value, value: &V::Value) -> Result<Pending<LogOffset>> {
        let record = Given::<K, V>::pair(key, value);
        let pending = record.encoded(|record| self.submit_record(self.when_full, None, record))?;
        pending.hand_over();
        Ok(Pending::new(pending, first_offset))
    }

    /// As [`Producer::append`], with a future for the answer. The record is handed over by the call, not by the first
    /// poll: dropping the future takes nothing back, and the record is there as a whole, or after a crash not at all.
    /// So the future borrows nothing.
    ///
    /// The call encodes, and may wait as any append does when too much is on its way already; with
    /// [`Producer::linger`] and [`SyncPolicy::Bytes`], the append that makes a sync due waits for it. For room in a
    /// full topic it never waits, whatever [`Producer::when_full`] says: who would make it may need this very thread.
    /// The answer is `TopicFull`, and nothing was written.
    ///
    /// ```
    /// # use oncelog::{Store, TopicDef, U64, Utf8};
    /// const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders");
    /// async fn order(store: &Store) -> oncelog::Result<()> {
    ///     let orders = store.producer(ORDERS)?;
    ///     let (ann, bob) = (orders.append_async("ann", &250), orders.append_async("bob", &75));
    ///     // One sync for both.
    ///     println!("{} {}", ann.await?, bob.await?);
    ///     Ok(())
    /// }
    /// ```
    #[cfg(feature = "async")]
    pub fn append_async(&self, key: &K::Value, value: &V::Value) -> Pending<LogOffset> {
        let given = Given::<K, V>::pair(key, value);
        if self.linger.is_some() {
            return Pending::there(given.encoded(|record| self.gather(WhenFull::Fail, None, record)));
        }
        let submitted = given.encoded(|record| self.submit_record(WhenFull::Fail, None, record));
        submitted.map_or_else(
            |error| Pending::there(Err(error)),
            |pending| {
                pending.hand_over();
                Pending::new(pending, first_offset)
            },
        )
    }

    /// As [`Producer::append_batch`], with a future for the answer, as [`Producer::append_async`].
    #[cfg(feature = "async")]
    pub fn append_batch_async<'r>(
        &self,
        records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
    ) -> Pending<Committed>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        self.submit_batch(records).unwrap_or_else(|error| Pending::there(Err(error)))
    }

    /// Encodes before it begins, so that it is known whether these bytes make a sync due.
    #[cfg(feature = "async")]
    fn submit_batch<'r>(
        &self,
        records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>,
    ) -> Result<Pending<Committed>>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        let encoded = |(key, value)| Ok((encode::<K>(key)?, encode::<V>(value)?));
        let encoded = records.into_iter().map(encoded).collect::<Result<Vec<_>>>()?;
        let pending = self.submit_encoded(WhenFull::Fail, &encoded)?;
        pending.hand_over();
        Ok(Pending::new(pending, |committed| committed))
    }

    /// Appends many records in one atomic step: after a crash all are there, or none. Those of one partition get
    /// offsets that follow each other; gives the first of each partition, with how many went there.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub fn append_batch<'r>(&self, records: impl IntoIterator<Item = (&'r K::Value, &'r V::Value)>) -> Result<Committed>
    where
        K::Value: 'r,
        V::Value: 'r,
    {
        if self.engine.may_be_full(self.topic) {
            // What is refused is sent again, so it is kept.
            let encoded = |(key, value)| Ok((encode::<K>(key)?, encode::<V>(value)?));
            let encoded = records.into_iter().map(encoded).collect::<Result<Vec<_>>>()?;
            return self.submit_encoded(self.when_full, &encoded)?.wait();
        }
        let mut tx = self.sync_policy.begin(&*self.engine, &self.unsynced, 0)?;
        if let Some(bytes) = self.batch_bytes {
            tx.batch_bytes(bytes)?;
        }
        stage_all::<K, V>(&mut *tx, self.topic, None, records)?;
        let bytes = tx.bytes();
        let committed = tx.submit()?.wait()?;
        self.sync_policy.catch_up(&*self.engine, &self.unsynced, bytes)?;
        Ok(committed)
    }

    fn submit_encoded(&self, when_full: WhenFull, records: &[EncodedPair<'_>]) -> Result<Box<dyn PendingCommit>> {
        let bytes = records.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.counted(when_full, bytes, |mut tx| {
            if let Some(bytes) = self.batch_bytes {
                tx.batch_bytes(bytes)?;
            }
            for (key, value) in records {
                let route = K::route(key);
                let record =
                    NewRecord { key: Some(key), route: Some(&route), value: Some(value), ..NewRecord::default() };
                tx.append(self.topic, None, record)?;
            }
            tx.submit()
        })
    }

    /// Appends one record with everything given: key or none, value or tombstone, headers, timestamp, partition.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub fn append_record(
        &self,
        partition: Option<PartitionId>,
        key: Option<&K::Value>,
        value: Option<&V::Value>,
        headers: &[Header<'_>],
        timestamp_ms: Option<i64>,
    ) -> Result<LogOffset> {
        Given::<K, V> { key, value, headers, timestamp_ms }.encoded(|record| self.put(partition, record))
    }

    /// Appends one record to `partition` only if it gets the offset `expected` there: so of several who decide by what
    /// they have read up to there, one goes first and the others look again.
    ///
    /// # Errors
    /// `Conflict`: another record is there already, or none is there yet: nothing was written, and
    /// [`Error::next_offset`] says what the next offset is. Else as [`Producer::append`].
    pub fn append_expecting(
        &self,
        partition: PartitionId,
        expected: LogOffset,
        key: &K::Value,
        value: &V::Value,
    ) -> Result<LogOffset> {
        let pending = Given::<K, V>::pair(key, value).encoded(|record| {
            self.counted(self.when_full, content_bytes(&record), |mut tx| {
                tx.expect_offset(self.topic, partition, expected)?;
                tx.append(self.topic, Some(partition), record)?;
                tx.submit()
            })
        })?;
        pending.wait().map(first_offset)
    }

    /// Makes every append that was acknowledged so far durable, by this producer or any other of the store.
    ///
    /// # Errors
    /// `InDoubt`: the sync failed; `Closed`.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    fn put(&self, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<LogOffset> {
        if self.linger.is_some() {
            return self.gather(self.when_full, partition, record);
        }
        self.submit_record(self.when_full, partition, record)?.wait().map(first_offset)
    }

    fn gather(&self, when_full: WhenFull, partition: Option<PartitionId>, record: NewRecord<'_>) -> Result<LogOffset> {
        let offset = when_full.patiently(&*self.engine, self.topic, || match &self.appender {
            Some(appender) => appender.append(partition, record),
            None => match self.make_appender() {
                Some(appender) => appender?.append(partition, record),
                None => Err(Error::closed()),
            },
        })?;
        if let SyncPolicy::Bytes(_) = self.sync_policy {
            self.sync_policy.catch_up(&*self.engine, &self.unsynced, content_bytes(&record))?;
        }
        Ok(offset)
    }

    fn submit_record(
        &self,
        when_full: WhenFull,
        partition: Option<PartitionId>,
        record: NewRecord<'_>,
    ) -> Result<Box<dyn PendingCommit>> {
        self.counted(when_full, content_bytes(&record), |mut tx| {
            tx.append(self.topic, partition, record)?;
            tx.submit()
        })
    }

    /// Fills a transaction over `bytes` of content and submits it.
    fn counted(
        &self,
        when_full: WhenFull,
        bytes: usize,
        fill: impl Fn(Box<dyn EngineTx>) -> Result<Box<dyn PendingCommit>>,
    ) -> Result<Box<dyn PendingCommit>> {
        when_full.patiently(&*self.engine, self.topic, || {
            let tx = self.sync_policy.begin(&*self.engine, &self.unsynced, bytes)?;
            fill(tx).inspect_err(|_| self.unsynced.owe())
        })
    }
}
