//! What an opening found and did, to be told and never hidden.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use crate::ids::{LogOffset, Lsn, PartitionId};

/// What an opening found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Whether the store was closed in order before, so that there was nothing to recover.
    pub clean: bool,
    /// Frames that were replayed from the journal.
    pub frames: u64,
    /// Their bytes.
    pub frames_bytes: u64,
    /// What was cut off at the end of the journal: never acknowledged, or no longer to be told from such.
    pub torn: Option<TornTailReport>,
    /// Offsets that were given out, perhaps, to appends that were acknowledged before they were durable, and are
    /// skipped.
    pub lost: Vec<LostOffsets>,
    /// A copy of the manifest was damaged; the other served.
    pub manifest_repaired: bool,
    /// Files that nothing names, left by a crash and removed.
    pub swept: Vec<PathBuf>,
    /// The journal is archived from now on, and its frames before this one are not in the archive, or end somewhere
    /// before it: an opening without [`StoreOptions::journal_archive`](crate::StoreOptions::journal_archive) has given
    /// them up. No earlier backup can be brought behind it: make one.
    pub archive_gap: Option<Lsn>,
}

/// Bytes that were cut off at the end of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTailReport {
    /// The journal file.
    pub file: PathBuf,
    /// Where in it the first bad byte is.
    pub position: u64,
    /// Where the bytes were kept.
    pub kept_in: PathBuf,
}

/// Offsets of one partition that no record has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostOffsets {
    /// The topic's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The half-open range.
    pub offsets: Range<LogOffset>,
}

/// What a store holds in memory and what it has met since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStats {
    /// Topics that were used in this opening; the others cost nothing.
    pub topics_used: usize,
    /// Segment files that are open: see [`StoreOptions::max_open_files`](crate::StoreOptions::max_open_files).
    pub open_files: usize,
    /// Indexes of segments that were read from their files.
    pub indexes_loaded: u64,
    /// Index files that were damaged, or led to no record, and were made anew from the segment. No harm was done.
    pub indexes_rebuilt: u64,
    /// Segment files that were removed because of the limits of their topics, or by hand.
    pub removed_segments: u64,
    /// How many bytes these held.
    pub removed_bytes: u64,
    /// Compactions of a partition that were brought to their end. Of one topic
    /// [`Store::compaction_stats`](crate::Store::compaction_stats) tells.
    pub compactions: u64,
    /// Compactions that failed: they are tried again.
    pub compactions_failed: u64,
    /// Those among them for which there was no room.
    pub compactions_without_room: u64,
    /// Bytes of the segment files that compaction replaced.
    pub compacted_bytes_before: u64,
    /// Bytes of those that took their place.
    pub compacted_bytes_after: u64,
    /// Appends that were refused, or had to wait, because their topic was full.
    pub appends_refused: u64,
    /// Topics whose delayed records are due and cannot be appended, because they are full, say.
    pub topics_held: usize,
    /// Bytes of the journal that are to be archived and are not yet where
    /// [`StoreOptions::journal_archive`](crate::StoreOptions::journal_archive) says.
    pub archive_behind_bytes: u64,
    /// How often they could not be brought there.
    pub archive_failures: u64,
    /// The first frame from which on all are archived, or will be, without a gap: a backup from there or behind it can
    /// be brought to any later point. `None`: the journal is not archived, or is not yet.
    pub archive_from: Option<Lsn>,
    /// Files of frames in the owner's directory that had rotted before they were archived. They were set aside, with
    /// `.damaged` behind their names, and their frames are missing in the archive: make a backup.
    pub archive_set_aside: u64,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gap = |f: &mut fmt::Formatter<'_>| match self.archive_gap {
            Some(from) => write!(f, "; the archive of the journal begins anew at frame {from}: make a backup"),
            None => Ok(()),
        };
        if self.clean {
            f.write_str("closed in order, nothing to recover")?;
            return gap(f);
        }
        write!(f, "recovered: {} frames replayed ({} bytes)", self.frames, self.frames_bytes)?;
        if let Some(torn) = &self.torn {
            let (file, position, kept) = (torn.file.display(), torn.position, torn.kept_in.display());
            write!(f, "; torn tail cut from {file} at byte {position}, kept in {kept}")?;
        }
        for lost in &self.lost {
            let LostOffsets { topic, partition, offsets } = lost;
            write!(f, "; topic {topic:?}, partition {partition}: lost {}..{}", offsets.start, offsets.end)?;
        }
        if self.manifest_repaired {
            f.write_str("; a damaged copy of the manifest was replaced")?;
        }
        if !self.swept.is_empty() {
            write!(f, "; {} leftover files removed", self.swept.len())?;
        }
        gap(f)
    }
}
