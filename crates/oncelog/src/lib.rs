//! Exactly-once event processing in one Rust program: an embedded, durable, transactional log.
//!
//! A [`Store`] is a directory. It holds topics (partitioned logs of records), tables (keyed state) and the progress of
//! consumers, and commits changes to all of them in **one atomic durable step**: after a crash, at any instant, an
//! event is processed or it is not, together with everything that its processing did.
//!
//! # Append, process, look
//!
//! ```
//! use oncelog::{Outcome, Processor, RecordRef, Result, Store, TableDef, TopicDef, Tx, U64, Utf8};
//!
//! const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders");
//! const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
//!
//! fn total(order: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
//!     let mut totals = tx.table(TOTALS)?; // reads its own writes
//!     let sum = totals.get(order.key()?)?.unwrap_or(0) + order.value()?;
//!     totals.put(order.key()?, &sum)?;
//!     Ok(Outcome::Commit) // this record, this row: one commit
//! }
//!
//! # fn main() -> Result<()> {
//! # let dir = tempfile::tempdir().map_err(oncelog::Error::user)?;
//! # let path = dir.path().join("store");
//! let store = Store::open(&path)?;
//! store.producer(ORDERS)?.append("ann", &250)?; // durable on return
//! let run = Processor::new("totals", ORDERS).table(TOTALS).start(&store, total)?;
//! assert!(run.wait_caught_up(std::time::Duration::from_secs(60))?);
//! assert_eq!(store.snapshot()?.get(TOTALS, "ann")?, Some(250));
//! run.stop()?;
//! store.close()
//! # }
//! ```
//!
//! # Where to look
//!
//! * [`guide`]: a course in ten lessons. Begin there.
//! * [`Store`]: open, recover, close; [`StoreOptions`] for sizes and limits.
//! * [`TopicDef`], [`TableDef`] and [`Codec`]: what is in topics and tables, as constants that know no engine;
//!   [`Pair`] for several rows of one key.
//! * [`Producer`]: appends, one by one, in batches, without waiting; [`SyncPolicy`] for what an answer promises.
//! * [`IdempotentProducer`]: what is sent twice is stored once; [`ProducerStamp`] does it for whole transactions.
//! * [`SeenIds`]: what comes twice under an id of the outer world is done once.
//! * [`Coordinator`]: messages with stamps into keyed state, by transactions that have ids and outcomes.
//! * [`Store::transact`], [`Transaction`], [`Tx`]: records, rows and reads in one serialisable step.
//! * [`Consumer`] and [`Processor`]: each record once, with an [`Outcome`] for each.
//! * [`CheckpointManager`] and [`OffsetTracker`]: streams that are not topics of a store, and where they go on.
//! * [`Snapshot`]: one state of everything, for looking.
//! * [`Error`] and [`ErrorKind`]: what to do next.
//! * [`Engine`]: what stands between the handles and a log, so that another one can stand there.
//! * [`disk`] and [`clock`]: the ground, to be replaced in simulations.

// What models share with the tests outside names the library.
#[cfg(all(test, shuttle))]
extern crate self as oncelog;

mod backup;
mod chance;
mod checkpoint;
pub mod clock;
mod codec;
mod consumer;
pub mod disk;
mod error;
#[cfg(fuzzing)]
pub mod fuzzing;
mod handles;
mod ids;
mod journal;
#[cfg(feature = "object-store")]
mod objects;
mod offsets;
mod page;
mod process;
mod producer;
mod record;
mod segment;
mod store;
mod table;
mod topic;
mod transaction;
mod view;
mod wake;

#[doc = include_str!("guide.md")]
pub mod guide {}

/// The README's code is compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// So is that of the pages for those who come from elsewhere.
#[cfg(doctest)]
mod migrate {
    #[doc = include_str!("../../../docs/migrate/broker-client.md")]
    struct BrokerClient;
    #[doc = include_str!("../../../docs/migrate/checkpoints.md")]
    struct Checkpoints;
    #[doc = include_str!("../../../docs/migrate/coordinator.md")]
    struct Coordinator;
    #[doc = include_str!("../../../docs/migrate/offset-package.md")]
    struct OffsetPackage;
    #[doc = include_str!("../../../docs/migrate/txlog.md")]
    struct Txlog;
}

/// And that of the page about backups.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/backup.md")]
struct Backups;

pub use backup::{ArchiveReach, BackupInfo, BackupTarget, PruneReport};
#[cfg(feature = "object-store")]
pub use checkpoint::ObjectCheckpointStore;
pub use checkpoint::{
    CheckpointEntry, CheckpointId, CheckpointManager, CheckpointOperator, CheckpointState, CheckpointStore,
    DamagedCheckpoint, FileCheckpointStore, InMemoryCheckpointStore, LatestCheckpoint, Lineage, OperatorState,
    Recovered,
};
pub use codec::{Bytes, Codec, CodecError, Pair, PairRow, Postcard, U64, Utf8, may_be_of, route_of};
#[cfg(oncelog_mutants)]
pub use codec::{CheckSite, skip_check};
pub use consumer::{ConsumerStyle, FailurePolicy, GapPolicy, Outcome, RetryPolicy, Visibility, Whence};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "async")]
pub use handles::RecordStream;
pub use handles::{
    AsEngine, Batch, Consumer, ConsumerOptions, Coordinator, CoordinatorError, CoordinatorSnapshot, CoordinatorStats,
    IdempotentProducer, IdempotentProducerConfig, InMemoryStateBackend, MessageId, PartitionProgress, Pending,
    Processor, ProcessorHandle, ProcessorTask, Producer, ProducerStamp, RecordRef, SeenIds, StampedAppend,
    StateBackend, StateRows, StateTransaction, SyncPolicy, Table, TableDef, TopicDef, Transaction, Tx, TxnId,
    TxnOutcome, Waiting, WhenFull,
};
pub use ids::{
    Epoch, LogOffset, Lsn, NAME_BYTES_MAX, OwnerId, PartitionId, ProducerEpoch, RecordId, Sequence, ShardId, StoreId,
    TableId, TimerId, TopicId,
};
pub use offsets::{
    BackgroundTracker, CollectingCommitHook, CommitInfo, CommitStrategy, DeleteInfo, FileOffsetStore, HookError,
    HookFailure, HookedOffsetStore, InMemoryOffsetStore, LockFileOffsetStore, LoggingCommitHook, MetricsCommitHook,
    NumericKey, NumericOffsets, Offset, OffsetError, OffsetResetPolicy, OffsetStore, OffsetTracker, OutOfRangePolicy,
    PostCommitHook,
};
pub use record::{Compression, Header, Headers, Record, RecordView, partition_of};
pub use store::{
    BackupReport, BackupVerification, BatchInfo, CompactionStats, ConsumerProgress, FrameInfo, LostOffsets, Mend,
    OwnerInfo, PartitionInfo, ProducerProgress, ReaderCursor, ReaderOptions, ReaderSnapshot, RecentBatch,
    RecoveryReport, RepairPlan, RepairReport, RestoreOptions, RestoreReport, SegmentInfo, Snapshot, Store,
    StoreCheckpoints, StoreMode, StoreOffsets, StoreOptions, StoreReader, StoreStateBackend, StoreStats, TopicChange,
    TopicInfo, TornTailReport, Verification,
};
pub use table::{Direction, ScanRange, TableSpec};
pub use topic::{Compaction, ConsumerIds, MinimumRetention, Retention, TopicSpec};
pub use transaction::{
    Appended, Appender, AppenderOptions, Committed, Engine, EngineTx, Fetched, IdTables, KeepIds, NewRecord, NewStamp,
    PendingCommit, Source, SourceSpec, Stamped, Step, TxMark,
};
