//! Backups: where they are kept, and what is in them. How one is made of a store, and a store of one, is in `store`.
//!
//! ```text
//! TARGET/chunks/ab/abcdef...    bytes of files, each chunk named by the SHA-256 of what it holds
//! TARGET/backups/NAME.backup    a manifest: which owner at which LSN, which files of which chunks
//! TARGET/journal/STORE/OWNER/    archived frames: what happened between backups, in pieces that name what they follow
//! TARGET/marks/KIND-ID          who is at work: a backup, or a prune
//! ```
//!
//! Invariants:
//! * A chunk is never changed, so backups share those that are the same, and an increment is what no chunk holds yet.
//! * A manifest is written last, when all that it names is durable: a backup is whole or not there.
//! * A chunk is removed only while no backup is being made, and only if no manifest names it (`marks`).
//! * Whatever is read is compared with its hash or checksum before anything else is believed.
//!
//! Does not know what a store is made of, but for the names of its files. Neighbours: `disk` and `objects` below.

mod chunks;
mod files;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod history;
mod link;
mod manifest;
mod marks;
mod piece;
mod prune;
mod reach;
mod stream;
mod target;

pub(crate) use chunks::{CHUNK_BYTES, Chunk, Cutter, Uploads};
pub(crate) use history::History;
pub(crate) use link::Link;
pub(crate) use manifest::{BackupManifest, FileImage, OwnerImage};
pub(crate) use marks::{Mark, MarkKind};
pub(crate) use piece::{PIECE_BYTES_MAX, Piece, PieceName, TimeMark};
pub use prune::PruneReport;
pub use reach::ArchiveReach;
pub(crate) use stream::{ChunkReader, frames_begin, frames_of, put_frame, rows_begin};
pub(crate) use target::JOURNAL;
pub use target::{BackupInfo, BackupTarget};
