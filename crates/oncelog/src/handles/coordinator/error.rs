//! What can go wrong with a transaction of a coordinator, as the contract names it.

use std::fmt;
use std::time::Duration;

use super::backend::TxnId;
use crate::error::{Error, ErrorKind};
use crate::handles::ProducerStamp;
use crate::ids::Sequence;

/// Why a [`Coordinator`](super::Coordinator) did not do what it was asked. Nothing of the transaction has happened,
/// but for `Store` with an error of kind `InDoubt` or `Fenced`, which says that nobody knows.
#[derive(Debug)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// The transaction has been committed before. Go on.
    AlreadyCommitted(TxnId),
    /// The transaction has ended before without being committed, or nobody remembers any more how it ended. Nothing of
    /// it can be changed; its message is to be taken in anew.
    AlreadyFinalised(TxnId),
    /// The transaction was open for longer than the timeout and has been given up: its message can be taken in anew.
    TimedOut {
        /// The transaction.
        txn: TxnId,
        /// How long one may be open.
        timeout: Duration,
    },
    /// There never was a transaction of that id here.
    Invalid(TxnId),
    /// Another transaction that is open takes in messages of this producer and partition, which come one after the
    /// other: try when it has ended.
    InProgress(ProducerStamp),
    /// Another thread is at work in the transaction.
    Busy(TxnId),
    /// As many transactions are open as may be.
    TooManyOpen {
        /// So many.
        limit: usize,
    },
    /// The sequence skips ahead: what lies between was lost on the way, or not yet sent.
    OutOfOrder {
        /// What came.
        stamp: ProducerStamp,
        /// What should have come next.
        expected: Sequence,
    },
    /// What keeps the state failed, or refused the call: `Conflict`, `Full` and the like end the transaction, and its
    /// message can be taken in anew.
    Store(Error),
}

impl fmt::Display for CoordinatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordinatorError::AlreadyCommitted(txn) => write!(f, "transaction {txn} is committed already"),
            CoordinatorError::AlreadyFinalised(txn) => write!(f, "transaction {txn} has ended already"),
            CoordinatorError::TimedOut { txn, timeout } => {
                write!(f, "transaction {txn} was open for more than {timeout:?} and is given up")
            }
            CoordinatorError::Invalid(txn) => write!(f, "there never was a transaction {txn}"),
            CoordinatorError::InProgress(stamp) => {
                write!(f, "message {stamp}: an open transaction takes in messages of this producer and partition")
            }
            CoordinatorError::Busy(txn) => write!(f, "another thread is at work in transaction {txn}"),
            CoordinatorError::TooManyOpen { limit } => write!(f, "{limit} transactions are open, which is the limit"),
            CoordinatorError::OutOfOrder { stamp, expected } => {
                write!(f, "message {stamp} is out of order, sequence {expected} is the next")
            }
            CoordinatorError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CoordinatorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CoordinatorError::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for CoordinatorError {
    fn from(error: Error) -> CoordinatorError {
        CoordinatorError::Store(error)
    }
}

impl From<CoordinatorError> for Error {
    fn from(error: CoordinatorError) -> Error {
        let kind = match &error {
            CoordinatorError::Store(_) => {
                let CoordinatorError::Store(error) = error else { return Error::closed() };
                return error;
            }
            CoordinatorError::OutOfOrder { stamp, expected } => {
                return Error::out_of_sequence(format_args!("message {stamp}"), stamp.sequence, *expected);
            }
            CoordinatorError::AlreadyCommitted(_)
            | CoordinatorError::AlreadyFinalised(_)
            | CoordinatorError::TimedOut { .. }
            | CoordinatorError::Invalid(_) => ErrorKind::Invalid,
            CoordinatorError::InProgress(_) | CoordinatorError::Busy(_) => ErrorKind::Conflict,
            CoordinatorError::TooManyOpen { .. } => ErrorKind::Unavailable,
        };
        Error::new(kind, error.to_string())
    }
}
