//! Appending records to one topic.

use std::marker::PhantomData;

use super::def::TopicDef;
use super::tx::encode;
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::Header;
use crate::transaction::{Committed, Engine, EngineTx, NewRecord, PendingCommit};
use crate::wake::Arc;

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
}

impl SyncPolicy {
    /// A transaction that is answered as the policy says.
    pub(super) fn begin(self, engine: &dyn Engine) -> Result<Box<dyn EngineTx>> {
        match self {
            SyncPolicy::Always => engine.begin(),
            SyncPolicy::Os => engine.begin_lax(),
        }
    }
}

/// Appends to one topic. Cheap to make; `Send + Sync`, many threads may share one.
pub struct Producer<K, V> {
    engine: Arc<dyn Engine>,
    topic: TopicId,
    sync_policy: SyncPolicy,
    codecs: PhantomData<fn() -> (K, V)>,
}

/// An answer that is still to come.
#[must_use]
pub struct Pending<T> {
    inner: Box<dyn PendingCommit>,
    answer: Box<dyn FnOnce(Committed) -> T + Send>,
}

impl<T> Pending<T> {
    pub(crate) fn new(
        inner: Box<dyn PendingCommit>,
        answer: impl FnOnce(Committed) -> T + Send + 'static,
    ) -> Pending<T> {
        Pending { inner, answer: Box::new(answer) }
    }

    /// Whether [`Pending::wait`] would return at once.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.inner.is_done()
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// `InDoubt`: the disk failed, it may have happened: reopen and look. `Closed`: an earlier failure, it did not
    /// happen.
    pub fn wait(self) -> Result<T> {
        self.inner.wait().map(self.answer)
    }
}

impl<K: Codec, V: Codec> Producer<K, V> {
    pub(crate) fn open(engine: Arc<dyn Engine>, topic: &TopicDef<K, V>) -> Result<Producer<K, V>> {
        let topic = engine.open_topic(&topic.spec())?;
        Ok(Producer { engine, topic, sync_policy: SyncPolicy::Always, codecs: PhantomData })
    }

    /// Sets when an acknowledged append survives a power cut.
    #[must_use]
    pub fn sync_policy(self, sync_policy: SyncPolicy) -> Self {
        Producer { sync_policy, ..self }
    }

    /// Appends one record, to the partition of its key; gives its offset once it is as durable as the sync policy says.
    /// Callers that wait together share one disk sync (group commit, DeWitt et al. 1984).
    ///
    /// # Errors
    /// `Invalid`: over a limit or no encoding; `Full`: no space, nothing was written; `Closed`; `InDoubt`: the sync
    /// failed, the record may be there: reopen the store and look.
    pub fn append(&self, key: &K::Value, value: &V::Value) -> Result<LogOffset> {
        let key = encode::<K>(key)?;
        let value = encode::<V>(value)?;
        let mut tx = self.begin()?;
        tx.append(self.topic, None, NewRecord { key: Some(&key), value: Some(&value), ..NewRecord::default() })?;
        tx.submit()?.wait().map(first_offset)
    }

    /// Appends one record without a key.
    ///
    /// # Errors
    /// As [`Producer::append`].
    pub fn append_value(&self, value: &V::Value) -> Result<LogOffset> {
        let value = encode::<V>(value)?;
        let mut tx = self.begin()?;
        tx.append(self.topic, None, NewRecord { value: Some(&value), ..NewRecord::default() })?;
        tx.submit()?.wait().map(first_offset)
    }

    /// Hands one record over without waiting; its offset comes with the answer. One busy thread fills groups this way.
    ///
    /// # Errors
    /// As [`Producer::append`], but for `InDoubt`, which [`Pending::wait`] tells.
    pub fn submit(&self, key: &K::Value, value: &V::Value) -> Result<Pending<LogOffset>> {
        let key = encode::<K>(key)?;
        let value = encode::<V>(value)?;
        let mut tx = self.begin()?;
        tx.append(self.topic, None, NewRecord { key: Some(&key), value: Some(&value), ..NewRecord::default() })?;
        let pending = tx.submit()?;
        pending.hand_over();
        Ok(Pending::new(pending, first_offset))
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
        let mut tx = self.begin()?;
        let (mut key_bytes, mut value_bytes) = (Vec::new(), Vec::new());
        for (key, value) in records {
            encode_into::<K>(key, &mut key_bytes)?;
            encode_into::<V>(value, &mut value_bytes)?;
            let record = NewRecord { key: Some(&key_bytes), value: Some(&value_bytes), ..NewRecord::default() };
            tx.append(self.topic, None, record)?;
        }
        tx.submit()?.wait()
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
        let key = key.map(encode::<K>).transpose()?;
        let value = value.map(encode::<V>).transpose()?;
        let record = NewRecord { key: key.as_deref(), value: value.as_deref(), headers, timestamp_ms };
        let mut tx = self.begin()?;
        tx.append(self.topic, partition, record)?;
        tx.submit()?.wait().map(first_offset)
    }

    /// Makes every append that was acknowledged so far durable, by this producer or any other of the store.
    ///
    /// # Errors
    /// `InDoubt`: the sync failed; `Closed`.
    pub fn flush(&self) -> Result<()> {
        self.engine.flush()
    }

    fn begin(&self) -> Result<Box<dyn EngineTx>> {
        self.sync_policy.begin(&*self.engine)
    }
}

pub(super) fn encode_into<C: Codec>(value: &C::Value, out: &mut Vec<u8>) -> Result<()> {
    out.clear();
    C::encode(value, out)
        .map_err(|reason| Error::invalid(format!("the value has no encoding as {}", C::ID)).because(reason))
}

pub(super) fn first_offset(committed: Committed) -> LogOffset {
    committed.appended.first().map_or(LogOffset(0), |appended| appended.first)
}
