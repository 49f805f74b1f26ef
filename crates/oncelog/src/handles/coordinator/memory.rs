//! A coordinator's state in maps: for tests of users, and as the shortest statement of what a backend promises.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::backend::{StateBackend, StateRows, StateTransaction, TxnId, TxnOutcome};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::ProducerStamp;
use crate::ids::{PartitionId, Sequence};
use crate::producer::{Stamp, StampState, Verdict};
use crate::transaction::{Committed, Stamped};
use crate::wake::{Arc, Mutex};

/// Keeps the state of a [`Coordinator`](super::Coordinator) in memory: for tests, and where a restart begins anew.
/// Its [`TxnId`]s begin anew too, with each: one of another is not known from its own.
#[must_use]
pub struct InMemoryStateBackend {
    clock: Arc<dyn Clock>,
    memory: Arc<Mutex<Memory>>,
}

type Producer = (String, PartitionId);

#[derive(Default)]
struct Memory {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    stamps: BTreeMap<Producer, StampState>,
    /// Producers of which an open transaction has a stamp.
    claimed: BTreeSet<Producer>,
    next: u64,
    open: BTreeSet<TxnId>,
    /// When each was committed.
    committed: BTreeMap<TxnId, Duration>,
    /// Outcomes below it may be forgotten.
    known_from: TxnId,
}

impl Default for InMemoryStateBackend {
    fn default() -> InMemoryStateBackend {
        InMemoryStateBackend::new()
    }
}

impl InMemoryStateBackend {
    /// An empty one.
    pub fn new() -> InMemoryStateBackend {
        InMemoryStateBackend { clock: SystemClock::shared(), memory: Arc::default() }
    }

    /// Sets the clock of timeouts and retention: the machine's unless set.
    pub fn clock(self, clock: Arc<dyn Clock>) -> InMemoryStateBackend {
        InMemoryStateBackend { clock, ..self }
    }

    /// About how many bytes it keeps to know duplicates: names and numbers of producers.
    #[must_use]
    pub fn duplicate_state_bytes(&self) -> usize {
        let memory = self.memory.lock();
        memory.stamps.iter().map(|((name, _), state)| name.len() + state.memory_bytes()).sum()
    }
}

impl StateBackend for InMemoryStateBackend {
    fn begin(&self) -> Result<(TxnId, Box<dyn StateTransaction>)> {
        let mut memory = self.memory.lock();
        let txn = TxnId { epoch: 0, number: memory.next };
        memory.next += 1;
        memory.open.insert(txn);
        let (clock, memory) = (Arc::clone(&self.clock), Arc::clone(&self.memory));
        let staged = Staged { clock, memory, txn, stamp: None, reads: vec![], scans: vec![], writes: BTreeMap::new() };
        Ok((txn, Box::new(staged)))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.memory.lock().rows.get(key).cloned())
    }

    fn range_scan(&self, prefix: &[u8]) -> Result<StateRows> {
        Ok(rows_of(&self.memory.lock().rows, prefix))
    }

    fn next_sequence(&self, producer_id: &str, partition: PartitionId) -> Result<Option<Sequence>> {
        let memory = self.memory.lock();
        Ok(memory.stamps.get(&(producer_id.to_owned(), partition)).map(|state| state.next))
    }

    fn outcome(&self, txn: TxnId) -> Result<Option<TxnOutcome>> {
        let memory = self.memory.lock();
        Ok(match txn {
            _ if txn.epoch > 0 || txn.number >= memory.next => None,
            _ if memory.open.contains(&txn) => Some(TxnOutcome::Open),
            _ if memory.committed.contains_key(&txn) => Some(TxnOutcome::Committed),
            _ if txn < memory.known_from => Some(TxnOutcome::Unknown),
            _ => Some(TxnOutcome::Aborted),
        })
    }

    fn forget_outcomes(&self, retention: Duration, limit: usize) -> Result<usize> {
        let now = self.clock.monotonic();
        let mut memory = self.memory.lock();
        let mut forgotten = 0;
        while forgotten < limit
            && let Some(oldest) = memory.committed.first_entry()
            && now.saturating_sub(*oldest.get()) >= retention
        {
            let (txn, _) = oldest.remove_entry();
            memory.known_from = memory.known_from.max(txn.next());
            forgotten += 1;
        }
        Ok(forgotten)
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

/// A transaction that is being filled.
struct Staged {
    clock: Arc<dyn Clock>,
    memory: Arc<Mutex<Memory>>,
    txn: TxnId,
    stamp: Option<(Producer, Stamp)>,
    /// What was read, to be the same when it commits.
    reads: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    scans: Vec<(Vec<u8>, StateRows)>,
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl StateTransaction for Staged {
    fn stamp(&mut self, stamp: &ProducerStamp, count: u32, initial: Sequence) -> Result<Stamped> {
        let producer = (stamp.producer_id.clone(), stamp.partition);
        let new = Stamp { epoch: None, first: stamp.sequence, count };
        if count == 0 || new.end().0 == u64::MAX || self.stamp.is_some() {
            return Err(Error::invalid(format!("message {stamp}: {count} sequences, or a second stamp")));
        }
        let mut memory = self.memory.lock();
        let known = memory.stamps.get(&producer).cloned().unwrap_or_else(|| StampState::unknown(initial));
        match known.check(&new) {
            Verdict::Duplicate(_) | Verdict::OldDuplicate => Ok(Stamped::Duplicate(None)),
            _ if memory.claimed.contains(&producer) => Ok(Stamped::InProgress),
            Verdict::New => {
                memory.claimed.insert(producer.clone());
                drop(memory);
                self.stamp = Some((producer, new));
                Ok(Stamped::New)
            }
            Verdict::Gap { expected } => {
                Err(Error::out_of_sequence(format_args!("message {stamp}"), stamp.sequence, expected))
            }
            // Without an epoch nothing is fenced.
            Verdict::Fenced { current } => {
                Err(Error::fenced_producer(format_args!("message {stamp}"), Default::default(), current))
            }
        }
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(own) = self.writes.get(key) {
            return Ok(own.clone());
        }
        let found = self.memory.lock().rows.get(key).cloned();
        self.reads.push((key.to_vec(), found.clone()));
        Ok(found)
    }

    fn range_scan(&mut self, prefix: &[u8]) -> Result<StateRows> {
        let found = rows_of(&self.memory.lock().rows, prefix);
        self.scans.push((prefix.to_vec(), found.clone()));
        let mut merged: BTreeMap<_, _> = found.into_iter().map(|(key, value)| (key, Some(value))).collect();
        let own = self.writes.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        merged.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        Ok(merged.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.writes.insert(key.to_vec(), value.map(<[u8]>::to_vec));
        Ok(())
    }

    fn commit(mut self: Box<Self>) -> Result<Committed> {
        let now = self.clock.monotonic();
        // Under one lock, and nothing in it can fail once it has begun to change.
        let mut memory = self.memory.lock();
        let as_read = |rows: &BTreeMap<Vec<u8>, Vec<u8>>| {
            self.reads.iter().all(|(key, value)| rows.get(key) == value.as_ref())
                && self.scans.iter().all(|(prefix, found)| rows_of(rows, prefix) == *found)
        };
        if !as_read(&memory.rows) {
            return Err(Error::new(ErrorKind::Conflict, "a value that the transaction read has changed since"));
        }
        if let Some((producer, stamp)) = &self.stamp {
            let known = memory.stamps.entry(producer.clone()).or_insert_with(|| StampState::unknown(stamp.first));
            known.advance(stamp, None);
        }
        for (key, value) in std::mem::take(&mut self.writes) {
            match value {
                Some(value) => memory.rows.insert(key, value),
                None => memory.rows.remove(&key),
            };
        }
        memory.committed.insert(self.txn, now);
        drop(memory);
        Ok(Committed::default())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let mut memory = self.memory.lock();
        memory.open.remove(&self.txn);
        if let Some((producer, _)) = &self.stamp {
            memory.claimed.remove(producer);
        }
    }
}

fn rows_of(rows: &BTreeMap<Vec<u8>, Vec<u8>>, prefix: &[u8]) -> StateRows {
    let found = rows.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
    found.map(|(key, value)| (key.clone(), value.clone())).collect()
}
