//! The state of a coordinator in a store: its transactions are the store's, their stamps the store's stamps, their
//! outcomes rows of the same frames.
//!
//! ```text
//! table state.NAME      key -> value
//! table outcomes.NAME   TxnId (16 bytes) -> when it was committed      "" -> below which TxnId outcomes may be gone
//! stamp NAME/PRODUCER   of the topic id that is a coordinator's: no stamp of a transaction has it
//! ```
//!
//! Invariants:
//! * A committed transaction has a row until that is forgotten; of one without a row nothing has happened, or it is
//!   below the id in the row `""`, which moves in the same step as rows are removed.
//! * Ids are the owner's epoch, which every opening raises durably before it serves, and a count within it. So none is
//!   given twice, and nothing is written for one that is not committed.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Store;
use crate::codec::Bytes;
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{
    AsEngine, ProducerStamp, StateBackend, StateRows, StateTransaction, TableDef, Transaction, Tx, TxnId, TxnOutcome,
};
use crate::ids::{PartitionId, Sequence, TopicId};
use crate::transaction::{Committed, NewStamp, Stamped};
use crate::wake::{Arc, Mutex};

/// Keeps the state of a [`Coordinator`](crate::Coordinator) in a store; see [`Store::state_backend`].
pub struct StoreStateBackend {
    store: Store,
    tables: Arc<Names>,
}

/// What belongs to one backend.
struct Names {
    name: String,
    state: TableDef<Bytes, Bytes>,
    outcomes: TableDef<Bytes, Bytes>,
}

/// The ids that transactions of coordinators have in this opening.
#[derive(Default)]
pub(super) struct Coordinated(Mutex<Given>);

#[derive(Default)]
struct Given {
    next: u64,
    open: BTreeSet<u64>,
}

/// The row that says below which id outcomes may be gone.
const KNOWN_FROM: &[u8] = b"";

impl Store {
    /// State for a [`Coordinator`](crate::Coordinator), in this store's table `state.NAME`, with keys and values as
    /// bytes. Its duplicates are its own: another backend takes in the messages of the same producers for itself.
    ///
    /// # Errors
    /// `Invalid`: a name that cannot be a table's, or with a `/`; `Locked`: it is another owner's; `Full`, `InDoubt`,
    /// `Closed`.
    pub fn state_backend(&self, name: &str) -> Result<StoreStateBackend> {
        if name.contains('/') {
            return Err(Error::invalid(format!("state {name:?}: a `/` ends the name of a backend in its stamps")));
        }
        let state = TableDef::named(format!("state.{name}"));
        let outcomes = TableDef::named(format!("outcomes.{name}"));
        let engine = self.as_engine();
        engine.open_table(&state.spec(1))?;
        engine.open_table(&outcomes.spec(1))?;
        let tables = Arc::new(Names { name: name.to_owned(), state, outcomes });
        Ok(StoreStateBackend { store: self.clone(), tables })
    }
}

/// The name under which the store knows a producer of a backend, whose own name has no `/`.
pub(super) fn coordinated_producer(backend: &str, producer_id: &str) -> String {
    format!("{backend}/{producer_id}")
}

impl StateBackend for StoreStateBackend {
    fn begin(&self) -> Result<(TxnId, Box<dyn StateTransaction>)> {
        let transaction = self.store.begin()?;
        let core = self.store.core();
        let number = {
            let mut given = core.coordinated.0.lock();
            let number = given.next;
            given.next += 1;
            given.open.insert(number);
            number
        };
        let txn = TxnId { epoch: core.epoch.0, number };
        let id = OpenId { store: self.store.clone(), number };
        Ok((txn, Box::new(Staged { transaction, tables: Arc::clone(&self.tables), txn, id })))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.store.snapshot()?.get(self.tables.state.clone(), key)
    }

    fn range_scan(&self, prefix: &[u8]) -> Result<StateRows> {
        self.store.snapshot()?.prefix(self.tables.state.clone(), prefix)
    }

    fn next_sequence(&self, producer_id: &str, partition: PartitionId) -> Result<Option<Sequence>> {
        self.store.snapshot()?.next_coordinated(&self.tables.name, producer_id, partition)
    }

    fn outcome(&self, txn: TxnId) -> Result<Option<TxnOutcome>> {
        let core = self.store.core();
        {
            let given = core.coordinated.0.lock();
            let now = core.epoch.0;
            if txn.epoch > now || (txn.epoch == now && txn.number >= given.next) {
                return Ok(None);
            }
            if txn.epoch == now && given.open.contains(&txn.number) {
                return Ok(Some(TxnOutcome::Open));
            }
        }
        let snapshot = self.store.snapshot()?;
        if snapshot.get(self.tables.outcomes.clone(), &txn.to_bytes())?.is_some() {
            return Ok(Some(TxnOutcome::Committed));
        }
        let known_from = known_from(snapshot.get(self.tables.outcomes.clone(), KNOWN_FROM)?)?;
        Ok(Some(if txn < known_from { TxnOutcome::Unknown } else { TxnOutcome::Aborted }))
    }

    fn forget_outcomes(&self, retention: Duration, limit: usize) -> Result<usize> {
        let now_ms = self.store.now_for_ages();
        let snapshot = self.store.snapshot()?;
        let first = TxnId { epoch: 0, number: 0 }.to_bytes();
        let oldest = snapshot.page(self.tables.outcomes.clone(), &first[..].., Default::default(), limit)?;
        drop(snapshot);
        let mut old = Vec::new();
        for (key, row) in oldest {
            let (txn, committed_ms) = committed(&key, &row)?;
            if crate::topic::elapsed(committed_ms, now_ms) < retention {
                break;
            }
            old.push(txn);
        }
        let Some(last) = old.last().copied() else { return Ok(0) };
        self.store.transact(|tx| {
            let mut outcomes = tx.table(self.tables.outcomes.clone())?;
            old.iter().try_for_each(|txn| outcomes.delete(&txn.to_bytes()))?;
            let known_from = known_from(outcomes.get(KNOWN_FROM)?)?.max(last.next());
            outcomes.put(KNOWN_FROM, &known_from.to_bytes())
        })?;
        Ok(old.len())
    }

    fn monotonic(&self) -> Duration {
        self.store.as_engine().monotonic()
    }
}

impl Store {
    /// The clock by which rows grow old: it never goes back.
    pub(super) fn now_for_ages(&self) -> i64 {
        let core = self.core();
        core.store_time.now_ms(&*core.options.clock)
    }
}

fn known_from(row: Option<Vec<u8>>) -> Result<TxnId> {
    match row {
        None => Ok(TxnId { epoch: 0, number: 0 }),
        Some(row) => TxnId::from_bytes(&row).ok_or_else(|| malformed("says which outcomes are known")),
    }
}

fn committed(key: &[u8], row: &[u8]) -> Result<(TxnId, i64)> {
    let ms = row.try_into().map(i64::from_be_bytes).ok();
    TxnId::from_bytes(key).zip(ms).ok_or_else(|| malformed("is the outcome of a transaction"))
}

fn malformed(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a row that {what} is malformed"))
}

/// An id whose transaction is not over.
struct OpenId {
    store: Store,
    number: u64,
}

impl Drop for OpenId {
    fn drop(&mut self) {
        self.store.core().coordinated.0.lock().open.remove(&self.number);
    }
}

/// A transaction that is being filled.
struct Staged {
    /// Dropped first: whoever sees the id closed finds its stamp free.
    transaction: Transaction,
    tables: Arc<Names>,
    txn: TxnId,
    id: OpenId,
}

impl Staged {
    fn tx(&mut self) -> Tx<'_> {
        self.transaction.tx()
    }

    /// Adds the outcome; gives what is to be committed.
    fn finish(mut self) -> Result<(Transaction, OpenId)> {
        let now_ms = self.id.store.now_for_ages();
        let (key, outcomes) = (self.txn.to_bytes(), self.tables.outcomes.clone());
        if is_kept(StepSite::OutcomeInFrame) {
            self.tx().table(outcomes)?.put(&key, &now_ms.to_be_bytes())?;
        } else {
            self.id.store.transact(|tx| tx.table(outcomes.clone())?.put(&key, &now_ms.to_be_bytes()))?;
        }
        Ok((self.transaction, self.id))
    }
}

impl StateTransaction for Staged {
    fn stamp(&mut self, stamp: &ProducerStamp, count: u32, initial: Sequence) -> Result<Stamped> {
        let producer = coordinated_producer(&self.tables.name, &stamp.producer_id);
        let (partition, first) = (stamp.partition, stamp.sequence);
        let new = NewStamp {
            producer: &producer,
            epoch: None,
            topic: TopicId::COORDINATED,
            partition,
            first,
            count,
            initial,
        };
        self.tx().inner.stamp(&new)
    }

    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let state = self.tables.state.clone();
        self.tx().table(state)?.get(key)
    }

    fn range_scan(&mut self, prefix: &[u8]) -> Result<StateRows> {
        let state = self.tables.state.clone();
        self.tx().table(state)?.prefix(prefix)
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let state = self.tables.state.clone();
        let mut tx = self.tx();
        let mut state = tx.table(state)?;
        match value {
            Some(value) => state.put(key, value),
            None => state.delete(key),
        }
    }

    fn commit(self: Box<Self>) -> Result<Committed> {
        // The id stays open until the answer is there.
        let (transaction, _id) = self.finish()?;
        transaction.commit()
    }

    fn as_store(&mut self) -> Option<&mut Transaction> {
        Some(&mut self.transaction)
    }

    fn commit_by(self: Box<Self>, commit: &mut dyn FnMut(Transaction) -> Result<Committed>) -> Result<Committed> {
        let (transaction, _id) = self.finish()?;
        commit(transaction)
    }
}
