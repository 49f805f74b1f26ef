//! Exactly once into keyed state: a transaction for each message, known by its stamp, with the changes that it makes.
//!
//! ```text
//! begin_transaction(stamp) -> duplicate | in progress | out of order | TxnId
//!     add_state_change, remove_state, state_in, with_store ...
//! commit_transaction(TxnId) -> StateTransaction::commit: mark, changes, outcome in one step
//! ```
//!
//! Invariants:
//! * The coordinator decides nothing about duplicates or durability: it knows who is at work in which transaction, and
//!   since when. What is a duplicate, what happens as one and what is left after a crash the backend decides, and over
//!   a store that is the one journal frame of a [`Transaction`](crate::Transaction) and its stamp.
//! * A transaction that is at work (a call is in it, or its commit is on its way) is out of the map: nobody else can
//!   end it. So each is ended once, and counted once.
//! * The one lock is held for looking and noting only: never while a backend or a user's function is called.
//! * What is in memory goes by open transactions, never by messages. Each begin and commit ends what is open for too
//!   long; where nothing is, that is one comparison.

mod backend;
mod error;
mod memory;
#[cfg(all(test, any(loom, shuttle)))]
mod models;
mod stats;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

pub use backend::{StateBackend, StateRows, StateTransaction, TxnId, TxnOutcome};
pub use error::CoordinatorError;
pub use memory::InMemoryStateBackend;
pub use stats::{CoordinatorSnapshot, CoordinatorStats};

use super::consumer::Consumer;
use super::idempotent::{IdempotentProducerConfig, ProducerStamp};
use super::tx::Tx;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind};
use crate::ids::{PartitionId, Sequence};
use crate::transaction::{Committed, Stamped};
use crate::wake::{Arc, Mutex, MutexGuard};

type Result<T> = std::result::Result<T, CoordinatorError>;

/// Takes in messages that carry [`ProducerStamp`]s, each once: a transaction holds the changes that a message makes,
/// and the mark that it was taken in is part of its commit. `Send + Sync`.
///
/// A crash, an abort or a timeout leaves the message deliverable, as if it had never come. Duplicates are known for
/// ever, by one number for each producer and partition: messages of one of them are taken in one after the other, in
/// the order of their sequences.
///
/// ```
/// use oncelog::{Coordinator, PartitionId, ProducerStamp, Sequence, Store};
/// # fn main() -> oncelog::Result<()> {
/// # let dir = tempfile::tempdir().map_err(oncelog::Error::user)?;
/// # let path = dir.path().join("store");
/// let store = Store::open(&path)?;
/// let coordinator = Coordinator::new(store.state_backend("readings")?);
/// let stamp = ProducerStamp::new("sensor-7", PartitionId(0), Sequence(0));
///
/// for _ in 0..2 {
///     match coordinator.begin_transaction(&stamp)? {
///         Some(txn) => {
///             coordinator.add_state_change(txn, b"sensor-7", b"21.5")?;
///             coordinator.commit_transaction(txn)?; // durable on return, the mark with it
///         }
///         None => println!("it was taken in before"),
///     }
/// }
/// assert_eq!(coordinator.state(b"sensor-7")?.as_deref(), Some(&b"21.5"[..]));
/// assert_eq!(coordinator.stats().snapshot().duplicates_filtered, 1);
/// # drop(coordinator);
/// # store.close()
/// # }
/// ```
#[must_use]
pub struct Coordinator {
    backend: Arc<dyn StateBackend>,
    timeout: Duration,
    open_max: usize,
    outcome_retention: Duration,
    initial: Sequence,
    initials: BTreeMap<(String, PartitionId), Sequence>,
    work: Mutex<Work>,
}

/// What is under the lock.
#[derive(Default)]
struct Work {
    open: BTreeMap<TxnId, Open>,
    /// Transactions that are being opened, and count as open.
    opening: usize,
    /// No transaction at rest is open since before it.
    oldest: Option<Duration>,
    /// The last that were given up by the timeout, so that their users can be told.
    timed_out: VecDeque<TxnId>,
    counts: CoordinatorSnapshot,
}

impl Work {
    /// A transaction that is open since then is at rest.
    fn rests(&mut self, since: Duration) {
        self.oldest = Some(self.oldest.map_or(since, |oldest| oldest.min(since)));
    }
}

/// An open transaction.
struct Open {
    since: Duration,
    /// `None` while a call is at work in it.
    at_rest: Option<Box<dyn StateTransaction>>,
}

/// How a transaction is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Committed,
    Aborted,
    TimedOut,
    InDoubt,
}

/// With the first commit and each so many later ones outcomes that are too old are forgotten: not all programs live for
/// that many.
const FORGET_EVERY: u64 = 256;
/// So many of them at a time: more than come meanwhile.
const FORGET_AT_ONCE: usize = 1024;
/// So many times that in one [`Coordinator::maintenance`].
const FORGET_ROUNDS: usize = 16;

impl Coordinator {
    /// Over that backend: a transaction may be open for a minute, 1024 may be open at once, and how they ended is kept
    /// for ten minutes, unless set.
    pub fn new(backend: impl StateBackend + 'static) -> Coordinator {
        Coordinator::shared(Arc::new(backend))
    }

    /// As [`Coordinator::new`], over a backend that others use too.
    pub fn shared(backend: Arc<dyn StateBackend>) -> Coordinator {
        Coordinator {
            backend,
            timeout: Duration::from_secs(60),
            open_max: 1024,
            outcome_retention: Duration::from_secs(600),
            initial: Sequence(0),
            initials: BTreeMap::new(),
            work: Mutex::default(),
        }
    }

    /// Sets how long a transaction may be open. Then it is given up: by the next call with its id, by the next begin or
    /// commit of any, or by [`Coordinator::maintenance`].
    pub fn timeout(self, timeout: Duration) -> Coordinator {
        Coordinator { timeout, ..self }
    }

    /// Sets how many transactions may be open at once.
    pub fn max_open(self, open_max: usize) -> Coordinator {
        Coordinator { open_max, ..self }
    }

    /// Sets for how long [`Coordinator::outcome`] knows how a transaction ended, at least. A row of some 40 bytes is
    /// kept for each that was committed within that time. Of several coordinators over one backend the shortest counts.
    pub fn outcome_retention(self, outcome_retention: Duration) -> Coordinator {
        Coordinator { outcome_retention, ..self }
    }

    /// Sets the first sequence of producers that were never heard of: 0 unless set.
    pub fn initial_sequence(self, initial: Sequence) -> Coordinator {
        Coordinator { initial, ..self }
    }

    /// Sets the first sequence of one producer in one partition.
    pub fn producer(mut self, config: IdempotentProducerConfig) -> Coordinator {
        let (producer, partition, initial) = config.into_parts();
        self.initials.insert((producer, partition), initial);
        self
    }

    /// Opens a transaction for the message of that stamp. `None`: it was taken in before, durably.
    ///
    /// # Errors
    /// `InProgress`: another transaction takes in messages of that producer and partition. `OutOfOrder`: a message
    /// before it is missing. `TooManyOpen`. `Store`: the stamp's name cannot be used, or the backend failed.
    pub fn begin_transaction(&self, stamp: &ProducerStamp) -> Result<Option<TxnId>> {
        self.begin_batch(stamp, 1)
    }

    /// Opens a transaction for `count` messages of a producer that follow each other, `first` the first of them: many
    /// share one commit then. `None`: all of them were taken in before, durably.
    ///
    /// # Errors
    /// As [`Coordinator::begin_transaction`]; `OutOfOrder` also where the first of them were taken in before and the
    /// others not: begin with the one that is expected.
    pub fn begin_batch(&self, first: &ProducerStamp, count: u32) -> Result<Option<TxnId>> {
        let _place = self.reserve()?;
        let Some((txn, tx, since)) = self.begin_reserved(first, count)? else {
            self.work.lock().counts.duplicates_filtered += 1;
            return Ok(None);
        };
        let mut work = self.work.lock();
        if work.open.contains_key(&txn) {
            drop(work);
            drop(tx);
            let what = format!("the backend gave the id {txn}, whose transaction is open");
            return Err(Error::new(ErrorKind::Corrupt, what).into());
        }
        work.counts.opened += 1;
        work.rests(since);
        work.open.insert(txn, Open { since, at_rest: Some(tx) });
        Ok(Some(txn))
    }

    /// Counts the message in, and takes a place among the open ones.
    fn reserve(&self) -> Result<Place<'_>> {
        self.end_timed_out();
        let mut work = self.work.lock();
        work.counts.received += 1;
        if work.open.len() + work.opening >= self.open_max {
            return Err(CoordinatorError::TooManyOpen { limit: self.open_max });
        }
        work.opening += 1;
        Ok(Place(self))
    }

    #[allow(clippy::type_complexity, reason = "what is noted under the lock")]
    fn begin_reserved(
        &self,
        first: &ProducerStamp,
        count: u32,
    ) -> Result<Option<(TxnId, Box<dyn StateTransaction>, Duration)>> {
        let (txn, mut tx) = self.backend.begin()?;
        match tx.stamp(first, count, self.initial_of(first)) {
            Ok(Stamped::New) => Ok(Some((txn, tx, self.backend.monotonic()))),
            Ok(Stamped::Duplicate(_)) => Ok(None),
            Ok(Stamped::InProgress) => Err(CoordinatorError::InProgress(first.clone())),
            Err(error) => Err(match error.expected_sequence() {
                Some(expected) => CoordinatorError::OutOfOrder { stamp: first.clone(), expected },
                None => error.into(),
            }),
        }
    }

    fn initial_of(&self, stamp: &ProducerStamp) -> Sequence {
        if self.initials.is_empty() {
            return self.initial;
        }
        let key = (stamp.producer_id.clone(), stamp.partition);
        self.initials.get(&key).copied().unwrap_or(self.initial)
    }

    /// Stages a value. Nobody else sees it before the commit.
    ///
    /// # Errors
    /// `AlreadyCommitted`, `AlreadyFinalised`, `TimedOut`, `Invalid`: the transaction is not open. `Busy`. `Store`:
    /// over a limit.
    pub fn add_state_change(&self, txn: TxnId, key: &[u8], value: &[u8]) -> Result<()> {
        self.work_in(txn, |tx| tx.put(key, Some(value)))
    }

    /// Stages the removal of a value, there or not.
    ///
    /// # Errors
    /// As [`Coordinator::add_state_change`].
    pub fn remove_state(&self, txn: TxnId, key: &[u8]) -> Result<()> {
        self.work_in(txn, |tx| tx.put(key, None))
    }

    /// The value under `key` as the transaction sees it, its own changes included. If somebody changes it before the
    /// commit, that answers `Conflict`.
    ///
    /// # Errors
    /// As [`Coordinator::add_state_change`].
    pub fn state_in(&self, txn: TxnId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.work_in(txn, |tx| tx.get(key))
    }

    /// The rows whose keys begin with `prefix`, as [`Coordinator::state_in`].
    ///
    /// # Errors
    /// As [`Coordinator::add_state_change`].
    pub fn scan_in(&self, txn: TxnId, prefix: &[u8]) -> Result<StateRows> {
        self.work_in(txn, |tx| tx.range_scan(prefix))
    }

    /// Fills the transaction with more than state: output records, rows of tables, anything that a [`Tx`] takes. All
    /// of it happens with the commit. A panic of `fill` gives the transaction up.
    ///
    /// # Errors
    /// As [`Coordinator::add_state_change`]; `Store`: the backend is no store's, or what `fill` fails with: what it
    /// had staged stays staged.
    pub fn with_store<T>(&self, txn: TxnId, fill: impl FnOnce(&mut Tx<'_>) -> crate::error::Result<T>) -> Result<T> {
        self.work_in(txn, |tx| match tx.as_store() {
            Some(transaction) => fill(&mut transaction.tx()),
            None => Err(Error::new(ErrorKind::Invalid, "the state is in no store: there are no topics and tables")),
        })
    }

    /// The committed value under `key`.
    ///
    /// # Errors
    /// `Store`.
    pub fn state(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.backend.get(key)?)
    }

    /// The committed rows whose keys begin with `prefix`.
    ///
    /// # Errors
    /// `Store`.
    pub fn scan(&self, prefix: &[u8]) -> Result<StateRows> {
        Ok(self.backend.range_scan(prefix)?)
    }

    /// The sequence that is expected next of a producer in a partition.
    ///
    /// # Errors
    /// `Store`.
    pub fn expected_sequence(&self, producer_id: &str, partition: PartitionId) -> Result<Sequence> {
        let stamp = ProducerStamp::new(producer_id, partition, Sequence(0));
        Ok(self.backend.next_sequence(producer_id, partition)?.unwrap_or_else(|| self.initial_of(&stamp)))
    }

    /// Makes the transaction happen: its changes, the mark of its messages and all that [`Coordinator::with_store`] put
    /// into it, in one step that is durable on return. Tells the offsets of records that it appended.
    ///
    /// # Errors
    /// `AlreadyCommitted`, `AlreadyFinalised`, `TimedOut`, `Invalid`, `Busy`: nothing was done. `Store`: with the kind
    /// `InDoubt` or `Fenced` nobody knows, reopen the store and ask for the [`Coordinator::outcome`]; with any other
    /// nothing has happened (`Conflict`: something that it read has changed), and the message can be taken in anew.
    pub fn commit_transaction(&self, txn: TxnId) -> Result<Committed> {
        self.commit_by(txn, |tx| tx.commit())
    }

    /// As [`Coordinator::commit_transaction`], in one step with the progress of a consumer of the same store: what it
    /// handed out last is done with exactly if the transaction happened.
    ///
    /// # Errors
    /// As [`Coordinator::commit_transaction`]; what was handed out is still at hand then.
    pub fn commit_with<K: Codec, V: Codec>(&self, txn: TxnId, consumer: &mut Consumer<K, V>) -> Result<Committed> {
        self.commit_by(txn, |tx| tx.commit_by(&mut |transaction| consumer.commit_with(transaction)))
    }

    fn commit_by(
        &self,
        txn: TxnId,
        commit: impl FnOnce(Box<dyn StateTransaction>) -> crate::error::Result<Committed>,
    ) -> Result<Committed> {
        let taken = self.take(txn);
        self.end_timed_out();
        let mut at_work = taken?;
        let Some(tx) = at_work.tx.take() else { return Err(CoordinatorError::Busy(txn)) };
        // Where a panic leaves it nobody knows how far it came.
        at_work.ended = Some(Ended::InDoubt);
        let committed = commit(tx);
        let is_to_forget = at_work.end(match &committed {
            Ok(_) => Ended::Committed,
            Err(error) if matches!(error.kind(), ErrorKind::InDoubt | ErrorKind::Fenced) => Ended::InDoubt,
            Err(_) => Ended::Aborted,
        });
        if is_to_forget {
            // It is tried again, and harms nothing meanwhile.
            if let Err(error) = self.backend.forget_outcomes(self.outcome_retention, FORGET_AT_ONCE) {
                tracing::warn!(%error, "old outcomes of transactions stay");
            }
        }
        Ok(committed?)
    }

    /// Gives the transaction up: nothing of it has happened, and its message can be taken in anew.
    ///
    /// # Errors
    /// `AlreadyCommitted`, `AlreadyFinalised`, `TimedOut`, `Invalid`, `Busy`: nothing was done.
    pub fn abort_transaction(&self, txn: TxnId) -> Result<()> {
        self.take(txn)?.end(Ended::Aborted);
        Ok(())
    }

    /// How a transaction ended, also one of an earlier opening: a commit that a crash left unanswered was committed or
    /// it was not.
    ///
    /// Only of ids that this backend gave: nothing has happened here of one of another backend's or one made up for an
    /// earlier opening, which is told to be `Aborted`.
    ///
    /// # Errors
    /// `Invalid`: this opening has not come to that id. `Store`.
    pub fn outcome(&self, txn: TxnId) -> Result<TxnOutcome> {
        self.backend.outcome(txn)?.ok_or(CoordinatorError::Invalid(txn))
    }

    /// Ends the transactions that were open for too long and forgets outcomes that are old enough, some 16 000 of
    /// these at a time; gives how many transactions were ended. Worth a call now and then where no messages come: each
    /// begin and commit ends what is over too.
    ///
    /// # Errors
    /// `Store`: outcomes could not be forgotten; the transactions were ended.
    pub fn maintenance(&self) -> Result<usize> {
        let ended = self.end_timed_out();
        for _ in 0..FORGET_ROUNDS {
            if self.backend.forget_outcomes(self.outcome_retention, FORGET_AT_ONCE)? < FORGET_AT_ONCE {
                break;
            }
        }
        Ok(ended)
    }

    /// The transactions that are open, the oldest id first.
    #[must_use]
    pub fn pending_transactions(&self) -> Vec<TxnId> {
        self.work.lock().open.keys().copied().collect()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> CoordinatorStats<'_> {
        CoordinatorStats(self)
    }

    fn counts(&self) -> CoordinatorSnapshot {
        let work = self.work.lock();
        CoordinatorSnapshot { pending: work.open.len() as u64, ..work.counts }
    }

    /// Ends what is open for too long and at rest; gives how many.
    fn end_timed_out(&self) -> usize {
        let now = self.backend.monotonic();
        let mut over = Vec::new();
        let mut work = self.work.lock();
        if work.oldest.take_if(|oldest| self.is_over(*oldest, now)).is_none() {
            return 0;
        }
        let Work { open, oldest, .. } = &mut *work;
        for (txn, open) in open {
            if open.at_rest.is_none() {
                continue;
            }
            if !self.is_over(open.since, now) {
                *oldest = Some(oldest.map_or(open.since, |oldest| oldest.min(open.since)));
            } else if let Some(tx) = open.at_rest.take() {
                over.push(AtWork { coordinator: self, txn: *txn, tx: Some(tx), ended: Some(Ended::TimedOut) });
            }
        }
        drop(work);
        // Dropping them ends them, which takes locks.
        over.len()
    }

    fn is_over(&self, since: Duration, now: Duration) -> bool {
        now.saturating_sub(since) > self.timeout
    }

    /// Runs `call` in an open transaction, which nobody else can end meanwhile.
    fn work_in<T>(
        &self,
        txn: TxnId,
        call: impl FnOnce(&mut dyn StateTransaction) -> crate::error::Result<T>,
    ) -> Result<T> {
        let mut at_work = self.take(txn)?;
        let Some(tx) = &mut at_work.tx else { return Err(CoordinatorError::Busy(txn)) };
        let called = call(&mut **tx);
        at_work.put_back();
        Ok(called?)
    }

    /// Takes an open transaction out of the others' reach.
    fn take(&self, txn: TxnId) -> Result<AtWork<'_>> {
        let now = self.backend.monotonic();
        let mut work = self.work.lock();
        let Some(open) = work.open.get_mut(&txn) else { return Err(self.not_open(work, txn)) };
        let (since, tx) = (open.since, open.at_rest.take());
        drop(work);
        let Some(tx) = tx else { return Err(CoordinatorError::Busy(txn)) };
        let at_work = AtWork { coordinator: self, txn, tx: Some(tx), ended: Some(Ended::Aborted) };
        if self.is_over(since, now) {
            at_work.end(Ended::TimedOut);
            return Err(CoordinatorError::TimedOut { txn, timeout: self.timeout });
        }
        Ok(at_work)
    }

    /// Why `txn` is not open.
    fn not_open(&self, work: MutexGuard<'_, Work>, txn: TxnId) -> CoordinatorError {
        if work.timed_out.contains(&txn) {
            return CoordinatorError::TimedOut { txn, timeout: self.timeout };
        }
        drop(work);
        match self.backend.outcome(txn) {
            Ok(Some(TxnOutcome::Committed)) => CoordinatorError::AlreadyCommitted(txn),
            Ok(Some(TxnOutcome::Aborted | TxnOutcome::Unknown)) => CoordinatorError::AlreadyFinalised(txn),
            // Another coordinator has it: of this one it is none.
            Ok(Some(TxnOutcome::Open) | None) => CoordinatorError::Invalid(txn),
            Err(error) => CoordinatorError::Store(error),
        }
    }

    /// Counts it, once; `true`: with this one outcomes are to be forgotten.
    fn note_end(&self, txn: TxnId, ended: Ended) -> bool {
        let mut work = self.work.lock();
        if work.open.remove(&txn).is_none() {
            return false;
        }
        match ended {
            Ended::Committed => {
                work.counts.committed += 1;
                return work.counts.committed % FORGET_EVERY == 1;
            }
            Ended::InDoubt => work.counts.in_doubt += 1,
            Ended::Aborted => work.counts.aborted += 1,
            Ended::TimedOut => {
                work.counts.aborted += 1;
                work.counts.timed_out += 1;
                if work.timed_out.len() >= self.open_max.max(1) {
                    work.timed_out.pop_front();
                }
                work.timed_out.push_back(txn);
            }
        }
        false
    }
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("stats", &self.counts()).finish_non_exhaustive()
    }
}

/// A place among the open transactions, for one that is being opened.
struct Place<'c>(&'c Coordinator);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.work.lock().opening -= 1;
    }
}

/// A transaction that a call is at work in.
struct AtWork<'c> {
    coordinator: &'c Coordinator,
    txn: TxnId,
    tx: Option<Box<dyn StateTransaction>>,
    /// How it is over when this is dropped: given up, where a panic leaves it. `None`: it goes on.
    ended: Option<Ended>,
}

impl AtWork<'_> {
    fn put_back(mut self) {
        let mut work = self.coordinator.work.lock();
        if let Some(open) = work.open.get_mut(&self.txn) {
            open.at_rest = self.tx.take();
            self.ended = None;
            let since = open.since;
            work.rests(since);
        }
    }

    /// As [`Coordinator::note_end`].
    fn end(mut self, ended: Ended) -> bool {
        self.ended = Some(ended);
        self.over()
    }

    fn over(&mut self) -> bool {
        // First: whoever sees that it has ended finds its stamp free.
        drop(self.tx.take());
        self.ended.take().is_some_and(|ended| self.coordinator.note_end(self.txn, ended))
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.over();
    }
}
