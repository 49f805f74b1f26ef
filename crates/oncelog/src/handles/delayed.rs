//! Delayed records: a record that waits for its time in the store, and can be taken back until then.
//!
//! First there is a timer, which the caller is given; the record gets its offset when it is appended. What brings it is
//! the background of whoever has the store open (`store/deliver.rs`).

use std::time::Duration;

use super::append::Given;
use super::def::TopicDef;
use super::producer::Producer;
use super::tx::Tx;
use crate::codec::Codec;
use crate::error::{ErrorKind, Result};
use crate::ids::{PartitionId, TimerId};
use crate::record::Header;

impl<K: Codec, V: Codec> Producer<K, V> {
    /// Delays a record: it is appended at `due_ms`, in milliseconds since the Unix epoch, or soon after, and not if
    /// [`Producer::cancel`] comes first. Durable on return, whatever the sync policy. It gets its offset and its
    /// timestamp when it is appended; those of a partition come in the order of their times, and those of one time in
    /// the order in which they were delayed.
    ///
    /// The append, and that it waits no more, are one step: a crash makes neither two records of it nor none. Time is
    /// that of the wall clock: one that jumps ahead brings it early. While no process has the store open it waits on,
    /// and comes when one has. It takes memory and disk as a row of a table does.
    ///
    /// ```
    /// use oncelog::{Store, TopicDef, U64, Utf8};
    /// # fn main() -> oncelog::Result<()> {
    /// const REMINDERS: TopicDef<Utf8, U64> = TopicDef::new("reminders");
    /// let store = Store::in_memory()?;
    /// let reminders = store.producer(REMINDERS)?;
    /// let tea = reminders.append_after(std::time::Duration::from_secs(240), "tea", &1)?;
    /// assert_eq!(store.timers("reminders")?, [tea]);
    /// assert!(reminders.cancel(tea)?);
    /// assert!(!reminders.cancel(tea)?, "it waits no more");
    /// # store.close()
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Producer::append`], but for a full topic: that holds it up when it is due, until there is room.
    pub fn append_at(&self, due_ms: i64, key: &K::Value, value: &V::Value) -> Result<TimerId> {
        self.append_record_at(due_ms, None, Some(key), Some(value), &[])
    }

    /// As [`Producer::append_at`], so long from now.
    ///
    /// # Errors
    /// As [`Producer::append_at`].
    pub fn append_after(&self, delay: Duration, key: &K::Value, value: &V::Value) -> Result<TimerId> {
        let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
        self.append_at(self.engine.now_ms().saturating_add(delay_ms), key, value)
    }

    /// As [`Producer::append_at`], with everything given: key or none, value or tombstone, headers, partition. Without
    /// a partition it is chosen now.
    ///
    /// # Errors
    /// As [`Producer::append_at`].
    pub fn append_record_at(
        &self,
        due_ms: i64,
        partition: Option<PartitionId>,
        key: Option<&K::Value>,
        value: Option<&V::Value>,
        headers: &[Header<'_>],
    ) -> Result<TimerId> {
        let mut tx = self.engine.begin()?;
        let given = Given::<K, V> { key, value, headers, timestamp_ms: None };
        let timer = given.encoded(|record| tx.delay(self.topic, partition, due_ms, record))?;
        tx.submit()?.wait().map(|_| timer)
    }

    /// Takes a delayed record back; durable on return. `false`: it was appended, or cancelled, before.
    ///
    /// # Errors
    /// `Full`, `InDoubt`, `Closed`.
    pub fn cancel(&self, timer: TimerId) -> Result<bool> {
        loop {
            let mut tx = self.engine.begin()?;
            let waits = tx.cancel(timer)?;
            match tx.submit()?.wait() {
                // It has just been appended, or cancelled.
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                done => return done.map(|_| waits),
            }
        }
    }
}

impl Tx<'_> {
    /// Stages a record that is appended at `due_ms`, in milliseconds since the Unix epoch, as
    /// [`Producer::append_at`] has it: it waits from the commit on.
    ///
    /// # Errors
    /// As [`Tx::append`].
    pub fn append_at<K: Codec, V: Codec>(
        &mut self,
        topic: TopicDef<K, V>,
        due_ms: i64,
        key: &K::Value,
        value: &V::Value,
    ) -> Result<TimerId> {
        let id = self.bindings.topic(self.engine, &topic)?;
        Given::<K, V>::pair(key, value).encoded(|record| self.inner.delay(id, None, due_ms, record))
    }

    /// Stages that a delayed record is not appended; `false`: it was, or there is none.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`. The commit answers `Conflict` when it is appended meanwhile.
    pub fn cancel(&mut self, timer: TimerId) -> Result<bool> {
        self.inner.cancel(timer)
    }
}
