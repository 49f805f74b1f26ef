//! What users hold: definitions of topics and tables, producers, transactions, consumers, processors. They know an
//! engine only by its traits, so the same code runs on any.
//!
//! ```text
//! Producer, Transaction --append--> EngineTx
//! Consumer, Processor: Source --record--> your function --Tx--> EngineTx
//! ```
//!
//! Invariant: a handle never decides what is durable or visible; it encodes, asks the engine, and decodes.

mod append;
mod consumer;
mod coordinator;
mod dead_letter;
mod def;
mod delayed;
mod group;
mod idempotent;
mod lazy_tx;
mod plain;
mod processor;
mod producer;
mod progress;
mod record;
mod running;
mod scan;
mod seen_ids;
mod tx;
mod worker;

#[cfg(feature = "async")]
pub use consumer::RecordStream;
pub use consumer::{Batch, Consumer, ConsumerOptions, Waiting};
pub use coordinator::{
    Coordinator, CoordinatorError, CoordinatorSnapshot, CoordinatorStats, InMemoryStateBackend, StateBackend,
    StateRows, StateTransaction, TxnId, TxnOutcome,
};
pub(crate) use def::FILE_ROLL_SIZE;
pub(crate) use def::shard_of;
pub use def::{TableDef, TopicDef};
pub use idempotent::{IdempotentProducer, IdempotentProducerConfig, ProducerStamp, StampedAppend};
pub use processor::{AsEngine, Processor, ProcessorTask};
pub use producer::{Pending, Producer, SyncPolicy, WhenFull};
pub use record::RecordRef;
pub use running::{PartitionProgress, ProcessorHandle};
pub(crate) use scan::Scan;
pub use seen_ids::{MessageId, SeenIds};
pub use tx::{Table, Transaction, Tx};
pub(crate) use tx::{decode_row, encode};
