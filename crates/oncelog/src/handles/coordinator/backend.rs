//! The contract with whatever keeps the state of a coordinator: everything of a transaction in one step.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::handles::{ProducerStamp, Transaction};
use crate::ids::{PartitionId, Sequence};
use crate::transaction::{Committed, Stamped};

/// A transaction of a coordinator, named for good: no backend gives an id twice, also not after a restart. Written as
/// `4-17`; later ones are greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxnId {
    /// The opening of the backend that gave it.
    pub epoch: u64,
    /// Counted within that.
    pub number: u64,
}

impl TxnId {
    pub(crate) const BYTES: usize = 16;

    pub(crate) fn to_bytes(self) -> [u8; TxnId::BYTES] {
        (u128::from(self.epoch) << 64 | u128::from(self.number)).to_be_bytes()
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<TxnId> {
        let (epoch, number) = bytes.split_first_chunk::<8>()?;
        Some(TxnId { epoch: u64::from_be_bytes(*epoch), number: u64::from_be_bytes(number.try_into().ok()?) })
    }

    /// The lowest that is greater.
    pub(crate) fn next(self) -> TxnId {
        TxnId { epoch: self.epoch, number: self.number.saturating_add(1) }
    }
}

impl fmt::Display for TxnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.number)
    }
}

impl FromStr for TxnId {
    type Err = Error;

    fn from_str(text: &str) -> Result<TxnId> {
        let parts = text.split_once('-').and_then(|(epoch, number)| Some((epoch.parse().ok()?, number.parse().ok()?)));
        let (epoch, number) = parts.ok_or_else(|| Error::invalid(format!("{text:?} is no id of a transaction")))?;
        Ok(TxnId { epoch, number })
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TxnOutcome {
    /// It has not: it is being filled, or its commit is on its way.
    Open,
    /// Everything of it has happened, durably as far as the backend is durable.
    Committed,
    /// Nothing of it has happened, or ever will: it was aborted, timed out, refused, or lost in a crash.
    Aborted,
    /// It ended longer ago than outcomes are kept.
    Unknown,
}

/// Keys and values in order.
pub type StateRows = Vec<(Vec<u8>, Vec<u8>)>;

/// Where a [`Coordinator`](super::Coordinator) keeps what it must know: state by key, which messages were taken in, and
/// how transactions ended.
///
/// [`Store::state_backend`](crate::Store::state_backend) is the durable one, [`InMemoryStateBackend`] one for tests.
/// For one of your own, all that must hold is in [`StateTransaction::commit`].
///
/// [`InMemoryStateBackend`]: super::InMemoryStateBackend
pub trait StateBackend: Send + Sync {
    /// An empty transaction, under an id that was never given before. Dropping it gives it up; until then, or until its
    /// commit is answered, its outcome is [`TxnOutcome::Open`].
    ///
    /// # Errors
    /// `Closed`, `Unavailable`.
    fn begin(&self) -> Result<(TxnId, Box<dyn StateTransaction>)>;

    /// The committed value under `key`.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The committed rows whose keys begin with `prefix`, in key order.
    ///
    /// # Errors
    /// As [`StateBackend::get`].
    fn range_scan(&self, prefix: &[u8]) -> Result<StateRows>;

    /// The next sequence of a producer in a partition, as committed; `None` when nothing of it was ever taken in.
    ///
    /// # Errors
    /// As [`StateBackend::get`].
    fn next_sequence(&self, producer_id: &str, partition: PartitionId) -> Result<Option<Sequence>>;

    /// How a transaction ended; `None` when no such id was ever given.
    ///
    /// # Errors
    /// As [`StateBackend::get`].
    fn outcome(&self, txn: TxnId) -> Result<Option<TxnOutcome>>;

    /// Forgets outcomes that are older than `retention`, the oldest and not more than `limit`; gives how many. Told by
    /// a clock that never goes back while the backend is open.
    ///
    /// # Errors
    /// As [`StateTransaction::commit`].
    fn forget_outcomes(&self, retention: Duration, limit: usize) -> Result<usize>;

    /// Time since some fixed instant; never goes back.
    fn monotonic(&self) -> Duration;
}

/// One transaction of a [`StateBackend`]. Dropping it gives it up, and its stamp is free again.
pub trait StateTransaction: Send {
    /// Stages the mark that the `count` messages from `stamp` on are taken in. Of a producer that was never heard of
    /// the next is `initial`.
    ///
    /// # Errors
    /// `Invalid`: they are not the next ones, with [`Error::expected_sequence`], or the name cannot be used.
    fn stamp(&mut self, stamp: &ProducerStamp, count: u32, initial: Sequence) -> Result<Stamped>;

    /// The value under `key`, own changes included. Becomes part of what must not change until the commit.
    ///
    /// # Errors
    /// `Corrupt`, `Closed`.
    fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The rows whose keys begin with `prefix`, in key order, as [`StateTransaction::get`].
    ///
    /// # Errors
    /// As [`StateTransaction::get`].
    fn range_scan(&mut self, prefix: &[u8]) -> Result<StateRows>;

    /// Stages a value; `None` deletes.
    ///
    /// # Errors
    /// `Invalid`: over a limit.
    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()>;

    /// Makes all that was staged happen, the mark and the outcome with it, **in one step: all of it or nothing**, also
    /// when the disk fails half-way, the process is killed or the power goes. A mark without its changes loses a
    /// message for good, changes without their mark are made twice.
    ///
    /// # Errors
    /// `InDoubt`, `Fenced`: it may have happened as a whole or not at all, and [`StateBackend::outcome`] will tell when
    /// the backend has been opened again. With any other kind, `Conflict` where something that it read has changed,
    /// nothing has happened.
    fn commit(self: Box<Self>) -> Result<Committed>;

    /// The transaction of a store that this is, for records and tables beside the state; `None` where it is none.
    fn as_store(&mut self) -> Option<&mut Transaction> {
        None
    }

    /// As [`StateTransaction::commit`], but hands the transaction of the store to `commit`, which commits it with more.
    ///
    /// # Errors
    /// `Invalid`: there is no store; what `commit` fails with.
    fn commit_by(self: Box<Self>, commit: &mut dyn FnMut(Transaction) -> Result<Committed>) -> Result<Committed> {
        let _ = commit;
        Err(Error::new(ErrorKind::Invalid, "the state is in no store, whose transactions alone can hold more"))
    }
}
