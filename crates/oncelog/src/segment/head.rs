//! The first 80 bytes of a segment: whose it is, so that one deleted, renamed, doubled or brought from elsewhere is
//! seen.

use std::path::{Path, PathBuf};

use crate::codec::{CheckSite, Input, crc32c, same};
use crate::disk::DiskFile;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};

const MAGIC: [u8; 8] = *b"OLSEGMNT";
const VERSION: u32 = 1;
const SUMMED_BYTES: usize = 68;
/// The first batch starts here.
pub(crate) const SEGMENT_HEAD_BYTES: u64 = 80;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub(crate) store: StoreId,
    pub(crate) topic: TopicId,
    pub(crate) partition: PartitionId,
    pub(crate) base_offset: LogOffset,
    /// The opening that made it. Another writes on in it only if every opening since was closed in order.
    pub(crate) epoch: Epoch,
    /// Part of every batch's place checksum.
    pub(crate) salt: u64,
}

/// Where the file of a segment is.
pub(crate) fn segment_path(dir: &Path, base_offset: LogOffset, epoch: Epoch) -> PathBuf {
    dir.join(format!("{:020}-{:010}.segment", base_offset.0, epoch.0))
}

impl SegmentHead {
    /// Where the file of this segment is.
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        segment_path(dir, self.base_offset, self.epoch)
    }

    /// Where the segment begins whose file or index that is, and the opening that made it, by its name.
    pub(crate) fn name_of(path: &Path) -> Option<(LogOffset, Epoch)> {
        let name = path.file_name()?.to_str()?;
        let stem = name.strip_suffix(".segment").or_else(|| name.strip_suffix(".index"))?;
        let (base, epoch) = stem.split_once('-')?;
        Some((LogOffset(base.parse().ok()?), Epoch(epoch.parse().ok()?)))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(usize::try_from(SEGMENT_HEAD_BYTES).unwrap_or(0));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.topic.0.to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&[0; 8]);
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
            input.take(8)?;
            let store = StoreId(input.array()?);
            let (base_offset, epoch, salt) = (LogOffset(input.u64()?), Epoch(input.u64()?), input.u64()?);
            let head = SegmentHead { store, topic, partition, base_offset, epoch, salt };
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
                "another segment is in this place: topic id {}, partition {}, base offset {}, epoch {}",
                found.topic, found.partition, found.base_offset, found.epoch
            )
        };
        Err(Error::corrupt(path, 0, what))
    }
}
