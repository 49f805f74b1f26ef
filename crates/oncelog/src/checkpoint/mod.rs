//! Checkpoints of streams: what operators knew after an event, kept so that a stream goes on from there.
//!
//! ```text
//! on_event -> CheckpointManager (due?) -> operators snapshot -> CheckpointState -> bytes -> CheckpointStore:
//!                                                                    memory, files, objects, a table of a store
//! recover  <- newest good of the current line  <- what is damaged is passed over, and told
//! ```
//!
//! A checkpoint is not a backup: it holds one stream's state, and knows nothing of topics and tables.
//!
//! Invariants:
//! * The bytes of a state are one and the same, whoever writes them; what reads back is what was written, or an error.
//! * What cannot be read is passed over aloud where an older one can be read, and is else an error: never a beginning.
//! * A rewind begins a new line ([`Lineage`]). What the line before did behind that point is never what comes next,
//!   and a writer that is still on the old line is refused.
//! * Whatever is deleted, the newest good one stays; a new one is durable before an old one goes.
//!
//! `key` decides (pure), `shelf` acts over whatever keeps the bytes, each store only keeps bytes.

mod bytes;
mod file;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod key;
mod manager;
mod memory;
#[cfg(feature = "object-store")]
mod object;
mod operator;
pub(crate) mod shelf;
mod state;
mod store;

pub use file::FileCheckpointStore;
pub(crate) use key::Key;
pub use key::Lineage;
pub use manager::{CheckpointManager, Recovered};
pub use memory::InMemoryCheckpointStore;
#[cfg(feature = "object-store")]
pub use object::ObjectCheckpointStore;
pub use operator::{CheckpointOperator, OperatorState};
pub(crate) use shelf::{Change, Shelf, View, shelved};
pub use state::{CheckpointId, CheckpointState};
pub use store::{CheckpointEntry, CheckpointStore, DamagedCheckpoint, LatestCheckpoint};

#[cfg(test)]
mod tests;
