//! The first 80 bytes of a segment: whose it is, so that one deleted, renamed, doubled or brought from elsewhere is
//! seen.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::codec::{CheckSite, Input, crc32c, same};
use crate::disk::DiskFile;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};

const MAGIC: [u8; 8] = *b"OLSEGMNT";
const VERSION: u32 = 1;
const SUMMED_BYTES: usize = 68;
/// The first batch starts here.
pub(crate) const SEGMENT_HEAD_BYTES: u64 = 80;
/// The ending of a segment that is being written in place of others.
const UNFINISHED: &str = "segment.new";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub(crate) store: StoreId,
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: LogOffset,
    /// The opening that made it. Another writes on in it only if every opening since was closed in order.
    pub(crate) epoch: Epoch,
    /// Which writing of these records it is.
    pub(crate) generation: Generation,
    /// Part of every batch's place checksum.
    pub(crate) salt: u64,
}

/// Which writing of its records a segment is: 0 as they were appended, else a compaction. Of two that begin at the same
/// offset, and were appended to by the same opening, the later one counts. No two openings make the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Generation(pub(crate) u64);

impl Generation {
    const COUNT_BITS: u32 = 24;

    /// The one of that number, from 1, which the opening `epoch` makes; `None`: it has made all that it can.
    pub(crate) fn made_by(epoch: Epoch, number: u64) -> Option<Generation> {
        let fits = number >> Self::COUNT_BITS == 0 && epoch.0 << Self::COUNT_BITS >> Self::COUNT_BITS == epoch.0;
        fits.then_some(Generation(epoch.0 << Self::COUNT_BITS | number))
    }
}

/// Where the file of a segment is.
pub(crate) fn segment_path(dir: &Path, base_offset: LogOffset, epoch: Epoch, generation: Generation) -> PathBuf {
    let (base, epoch) = (base_offset.0, epoch.0);
    dir.join(match generation {
        Generation(0) => format!("{base:020}-{epoch:010}.segment"),
        Generation(number) => format!("{base:020}-{epoch:010}-{number:020}.segment"),
    })
}

/// What the name of a segment's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentName {
    pub(crate) base: LogOffset,
    pub(crate) epoch: Epoch,
    pub(crate) generation: Generation,
}

impl SegmentName {
    /// Of the file of a segment or, with its ending, of its index.
    pub(crate) fn of(path: &Path, ending: &str) -> Option<SegmentName> {
        let mut parts = path.file_name()?.to_str()?.strip_suffix(ending)?.split('-');
        let (base, epoch) = (LogOffset(parts.next()?.parse().ok()?), Epoch(parts.next()?.parse().ok()?));
        let generation = parts.next().map_or(Ok(0), str::parse).ok().map(Generation)?;
        parts.next().is_none().then_some(SegmentName { base, epoch, generation })
    }
}

impl SegmentHead {
    /// Where the file of this segment is.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        segment_path(dir, self.base_offset, self.epoch, self.generation)
    }

    /// What the name of a segment or of its index says.
    pub(crate) fn name_of(path: &Path) -> Option<SegmentName> {
        SegmentName::of(path, ".segment").or_else(|| SegmentName::of(path, ".index"))
    }

    /// Where the segment is written before it is whole.
    pub(crate) fn unfinished_path(&self, dir: &Path) -> PathBuf {
        self.path(dir).with_extension(UNFINISHED)
    }

    /// Whether a segment was being written there that never came to its name.
    pub(crate) fn is_unfinished(path: &Path) -> bool {
        SegmentName::of(path, ".segment.new").is_some()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(SEGMENT_HEAD_BYTES).unwrap_or(0));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.topic.0.to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.store.0);
        out.extend_from_slice(&self.base_offset.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.0.to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        let sum = crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out.resize(usize::try_from(SEGMENT_HEAD_BYTES).unwrap_or(out.len()), 0);
        out
    }

    /// Reads the head of any segment file.
    pub(crate) fn read(file: &dyn DiskFile, path: &Path) -> Result<SegmentHead> {
        let mut bytes = [0; SUMMED_BYTES + 4];
        let read = file.read_full_at(&mut bytes, 0).map_err(|error| Error::io(path, "read a segment", error))?;
        let mut input = Input::new(&bytes[..read]);
        let parsed = (|| {
            let (magic, version): ([u8; 8], u32) = (input.array()?, input.u32()?);
            let (topic, partition) = (TopicId(input.u32()?), PartitionId(input.u32()?));
            let generation = Generation(input.u64()?);
            let store = StoreId(input.array()?);
            let (base_offset, epoch, salt) = (LogOffset(input.u64()?), Epoch(input.u64()?), input.u64()?);
            let head = SegmentHead { store, topic, partition, base_offset, epoch, generation, salt };
            Some((magic, version, head, input.u32()?))
        })();
        let damaged = || Error::corrupt(path, 0, "the head of a segment is damaged");
        let (magic, version, head, sum) = parsed.ok_or_else(damaged)?;
        if magic != MAGIC || !same(CheckSite::SegmentHead, sum, crc32c(&bytes[..SUMMED_BYTES])) {
            return Err(damaged());
        }
        if version != VERSION {
            let what = format!("segment format {version}, this program knows {VERSION}");
            return Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(path));
        }
        Ok(head)
    }

    /// Whether the file is the segment that is expected here.
    pub(crate) fn check(&self, file: &dyn DiskFile, path: &Path) -> Result<()> {
        let found = SegmentHead::read(file, path)?;
        if found == *self {
            return Ok(());
        }
        let what = if found.store != self.store {
            "a segment of another store".to_owned()
        } else {
            format!(
                "another segment is in this place: topic id {}, partition {}, base offset {}, epoch {}, generation {}",
                found.topic, found.partition, found.base_offset, found.epoch, found.generation.0
            )
        };
        Err(Error::corrupt(path, 0, what))
    }
}
