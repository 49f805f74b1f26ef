//! The yardsticks: the least that a log can do, done well. No offsets, no index, no recovery, no second copy.
//!
//! ```text
//! frame: length u32 | crc32c of the payload u32 | payload          one `write` for each batch of frames
//! ```
//!
//! `raw` appends to a file that grows; `zeroed` overwrites one that was filled with zeros and synced before, so that a
//! sync has no metadata to write. [`mod@file`] makes and fills the file, [`group`] commits in groups, [`scan`] reads.

mod file;
mod frame;
mod group;
mod scan;

pub(crate) use file::LogFile;
pub(crate) use frame::FRAME_HEAD_BYTES;
pub(crate) use group::GroupLog;
pub(crate) use scan::Scan;
