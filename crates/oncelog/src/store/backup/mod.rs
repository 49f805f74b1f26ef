//! A whole store copied while it runs, and made again elsewhere.
//!
//! ```text
//! backup    each owner cut at one LSN (reader::cut) -> rows and frames as streams, segments as they are -> chunks
//!           -> the manifest, last
//! restore   segments as they are, rows -> table file, frames -> journal, claims from the rows -> the recovery of a
//!           crash -> closed in order -> STORE
//! ```
//!
//! Invariants:
//! * A backup asks nothing of an owner that lives and holds up nothing: appends, trims and removals go on. What it
//!   finds gone on its way has been removed since, so it takes another cut; what it has copied is not copied again.
//! * What is copied was compared with its checksums: rot in the source is told and never kept as good.
//! * A restored store is what recovery makes of rows and frames, as after a crash at that LSN. So it is proven by the
//!   same code, and by the store's own verification.
//! * A directory is a store when all of this is done and durable. Until then it says that it is not.

mod create;
mod restore;
#[cfg(test)]
mod tests;
mod verify;

pub use create::BackupReport;
pub use restore::{RestoreOptions, RestoreReport};
pub use verify::BackupVerification;
