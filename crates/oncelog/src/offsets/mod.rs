//! Places to resume at, for sources that are not topics of a store: the earlier systems' offsets, right.
//!
//! ```text
//! record, commit -> OffsetTracker (strategy, policies) -> HookedOffsetStore -> OffsetStore: memory, one file, files
//! ```
//!
//! **A committed offset is the next record to read.** [`Offset::after`] turns the last one processed into it.
//!
//! Invariants:
//! * A store never goes back but by [`OffsetStore::reset`]. The comparison is made inside the store, under its lock, so
//!   threads and processes that share one cannot undo each other.
//! * [`OffsetStore::commit_all`] is one step: all or none, also across a power cut.
//! * What cannot be read is an error that names the file, and never an empty beginning.
//! * `Earliest` and `Latest` are policies and not places: they are given back, and never stored.

mod background;
mod error;
mod file;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod hooks;
mod locked;
mod memory;
mod numeric;
mod offset;
pub(crate) mod replace;
mod store;
mod text;
mod tracker;

pub use background::BackgroundTracker;
pub use error::OffsetError;
pub use file::FileOffsetStore;
pub use hooks::{
    CollectingCommitHook, CommitInfo, DeleteInfo, HookError, HookFailure, HookedOffsetStore, LoggingCommitHook,
    MetricsCommitHook, PostCommitHook,
};
pub use locked::LockFileOffsetStore;
pub use memory::InMemoryOffsetStore;
pub use numeric::{NumericKey, NumericOffsets};
pub use offset::Offset;
pub use store::OffsetStore;
pub(crate) use store::{advance, storable};
pub use tracker::{CommitStrategy, OffsetResetPolicy, OffsetTracker, OutOfRangePolicy};

#[cfg(test)]
mod tests;
