//! Oncelog: exactly-once event processing in one Rust program.

mod chance;
pub mod clock;
mod codec;
mod consumer;
pub mod disk;
mod error;
mod handles;
mod ids;
mod journal;
mod record;
mod segment;
mod store;
mod table;
mod topic;
mod transaction;
mod view;
mod wake;

pub use codec::{Bytes, Codec, CodecError, Postcard, U64, Utf8};
#[cfg(oncelog_mutants)]
pub use codec::{CheckSite, skip_check};
pub use consumer::{ConsumerStyle, Outcome, RetryPolicy};
pub use error::{Error, ErrorKind, Result};
pub use handles::{
    AsEngine, Consumer, Pending, Processor, ProcessorHandle, ProcessorTask, Producer, RecordRef, SyncPolicy, Table,
    TableDef, TopicDef, Transaction, Tx,
};
pub use ids::{Epoch, LogOffset, Lsn, NAME_BYTES_MAX, PartitionId, RecordId, ShardId, StoreId, TableId, TopicId};
pub use record::{Header, Headers, Record, RecordView};
pub use store::{LostOffsets, RecoveryReport, Snapshot, Store, StoreMode, StoreOptions, TornTailReport};
pub use table::{StateBackend, StateBatch, TableSpec};
pub use topic::TopicSpec;
pub use transaction::{Appended, Committed, Engine, EngineTx, NewRecord, PendingCommit, Source, Step, TxMark};
