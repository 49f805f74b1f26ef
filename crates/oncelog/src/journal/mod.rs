//! The journal: frames in LSN order, each written once, chained and checksummed. A transaction has happened when the
//! sync of its frame's group returned, and it has not when the frame is missing or torn at the tail.
//!
//! ```text
//! enqueue (under turns: LSN and place)  ->  group  ->  one write, one sync  ->  apply, in LSN order  ->  answers
//! ```
//!
//! Invariants:
//! * LSNs are dense. A frame's place (file and position) is decided with its LSN; writing only follows the plan.
//! * One leader writes at a time: it takes every frame that waits and syncs once (group commit, DeWitt et al. 1984).
//!   While it applies its group the next leader may write the next one; applying is in LSN order all the same.
//! * The last frame of a full file names the next file, whose head was durable before; a full file is synced before
//!   the first frame goes to the next one. So a file that is named and not there, or not whole, is `Corrupt`.
//! * A frame carries how far the journal was durable when it was written. A bad frame followed by one that says "you
//!   were durable" is rot and not a torn tail.
//! * A failed sync or write fails that group and all later frames; nothing is retried.
//!
//! What a frame holds is opaque here. Neighbours: `disk` below; `transaction` above gives frames their content and
//! applies them.

mod file;
mod frame;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod group;
mod lay;
#[cfg(all(test, any(loom, shuttle)))]
mod models;
mod replay;
mod salvage;
#[cfg(test)]
mod tests;
mod ticket;
mod writer;

use std::path::PathBuf;

use crate::error::Result;
use crate::wake::Arc;

pub(crate) use file::{FILE_HEAD_BYTES, FileName, JournalPosition};
pub(crate) use frame::{HEAD_BYTES as FRAME_HEAD_BYTES, frame_bytes as frame_room};
pub(crate) use group::{Apply, Journal};
pub(crate) use lay::FrameLayer;
pub(crate) use replay::{TornTail, replay};
pub(crate) use salvage::{Cut, behind, salvage};
pub(crate) use ticket::Ticket;
pub(crate) use writer::{Durability, Placed};

/// Where the journal lives and how large its files are.
#[derive(Clone)]
pub(crate) struct JournalOptions {
    /// The directory of the files.
    pub(crate) dir: PathBuf,
    /// Size of a file; one frame that is larger gets a file of its own size.
    pub(crate) file_bytes: u64,
    /// Files that are kept for another life rather than removed: about as many as one trim gives up.
    pub(crate) spares_max: usize,
    /// Frames may wait in memory up to this many bytes before `enqueue` has its caller write first.
    pub(crate) queue_bytes_max: usize,
    /// Asked after each sync of frames and before they are answered or shown; an error ends the journal.
    pub(crate) fence: Fence,
}

/// Whether this process still has the journal: see [`JournalOptions::fence`].
pub(crate) type Fence = Arc<dyn Fn() -> Result<()> + Send + Sync>;
