//! Transactions: output records, consumed offsets and table changes of one step, encoded as one journal frame.
//!
//! ```text
//! StoreTx (staged, reads its own writes) -> turns, validation, offsets -> frame -> journal -> apply -> one visible LSN
//! ```
//!
//! Invariants:
//! * Nothing that could still be aborted ever reaches a segment or a table.
//! * Turns are taken in the order of table, shard, topic, partition id, and kept until the frame has its LSN; so what
//!   is decided in one transaction happens before or after what is decided in any other.
//! * What a transaction read is as it was when its frame gets its LSN, else `Conflict` and nothing was written.
//! * Room for everything that applying needs is taken before the LSN: `Full` is an answer, never an accident.
//!
//! The traits [`Engine`] and [`EngineTx`] are all that the handles above know: another engine can stand behind them.

mod apply;
mod commit;
pub(crate) mod delayed;
mod engine;
mod frame;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod ids;
mod linger;
mod recover;
mod spares;
mod staged;
mod stamps;
pub(crate) mod system;
mod topics;

pub(crate) use apply::Applier;
pub(crate) use commit::{Limits, Pending, Pipeline};
pub(crate) use delayed::{Delays, Spot};
pub use engine::{
    Appended, Appender, AppenderOptions, Committed, Engine, EngineTx, Fetched, NewRecord, NewStamp, PendingCommit,
    Source, SourceSpec, Stamped, Step, TxMark,
};
pub(crate) use frame::{Effect, effects};
pub use ids::{IdTables, KeepIds};
pub(crate) use linger::{Lingering, StoreAppender};
pub(crate) use recover::Replayer;
pub(crate) use spares::Spares;
pub(crate) use staged::StoreTx;
pub(crate) use stamps::read_stamp;
pub(crate) use topics::{LoadTopics, Topics};
