//! Reading a segment that another process writes: its end is not known here, only the offset up to which records are
//! visible, and the batches themselves say where they are.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::head::SegmentHead;
use super::index::SparseIndex;
use super::refused;
use crate::codec::{CheckSite, same};
use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{Error, Result};
use crate::ids::LogOffset;
use crate::record::{self, Batch, BatchHead, Inflated};

const BLOCK_BYTES: usize = 256 << 10;

/// A cursor in one segment of another process. Holds a block of 256 KiB, or one batch if it is larger.
pub(crate) struct Follower {
    path: PathBuf,
    file: Box<dyn DiskFile>,
    head: SegmentHead,
    block_start: u64,
    block: Vec<u8>,
    /// The records of the batch that was handed out last, if it is a compressed one.
    inflated: Inflated,
    /// Records below it were visible, and so written, when the block was read; what is behind them may have come since.
    settled: LogOffset,
    index: SparseIndex,
    position: u64,
    /// The batch that was taken last: where, and how long.
    current: (u64, usize),
}

/// What stands at a follower's position.
enum Here {
    Batch(BatchHead),
    /// The file ends here, or nothing was written yet.
    Nothing,
}

impl Follower {
    /// Opens a segment and checks that it is the one that its place and name say; `None`: it is gone.
    pub(crate) fn open(disk: &dyn Disk, path: &Path, expected: impl Fn(&SegmentHead) -> bool) -> Result<Option<Self>> {
        let file = match disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "open a segment", error)),
        };
        let head = SegmentHead::read(file.as_ref(), path)?;
        let named = path.parent().map(|dir| head.path(dir));
        if named.as_deref() != Some(path) || !expected(&head) {
            return Err(Error::corrupt(path, 0, "another segment is in this place"));
        }
        let index = SparseIndex::new(head.base_offset);
        let position = index.nearest(head.base_offset).position;
        Ok(Some(Follower {
            path: path.to_owned(),
            file,
            head,
            block_start: 0,
            block: Vec::new(),
            inflated: Inflated::default(),
            settled: LogOffset(0),
            index,
            position,
            current: (position, 0),
        }))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What its head says.
    pub(crate) fn head(&self) -> &SegmentHead {
        &self.head
    }

    /// Where the batch begins that was taken last.
    pub(crate) fn current_position(&self) -> u64 {
        self.current.0
    }

    /// Walks to the batch that holds `to`, or as far as there are batches. Everything below `limit` is visible, `to` is
    /// below it.
    pub(crate) fn seek(&mut self, to: LogOffset, limit: LogOffset) -> Result<()> {
        let mut next = self.head.base_offset;
        self.position = self.index.nearest(to).position;
        while next <= to {
            match self.look(next, limit)? {
                Here::Batch(head) if head.next_offset() <= to => {
                    next = head.next_offset();
                    self.position += head.bytes as u64;
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Whether there is a batch at the cursor; see [`Follower::advance`].
    pub(crate) fn is_at_batch(&mut self, next: LogOffset, limit: LogOffset) -> Result<bool> {
        Ok(matches!(self.look(next, limit)?, Here::Batch(_)))
    }

    /// Makes the batch at the cursor, which should hold record `next`, the current one, and gives its offsets; `None`
    /// when the file ends there. Everything below `limit` is visible and `next` is below it: so what is there is not
    /// being written, but there or elsewhere.
    pub(crate) fn advance(&mut self, next: LogOffset, limit: LogOffset) -> Result<Option<Range<LogOffset>>> {
        let Here::Batch(head) = self.look(next, limit)? else { return Ok(None) };
        let position = self.position;
        if self.load(head.bytes, limit)? < head.bytes {
            return Err(Error::corrupt(&self.path, position, "a segment was cut short"));
        }
        self.position += head.bytes as u64;
        self.current = (position, head.bytes);
        self.inflated.clear();
        Ok(Some(head.base_offset..head.next_offset()))
    }

    /// Gives the buffers back; the current batch is gone with them.
    pub(crate) fn rest(&mut self) {
        self.block = Vec::new();
        self.inflated = Inflated::default();
    }

    /// How much its block takes.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.block.capacity()
    }

    /// The batch that was taken last, with its checksum compared.
    pub(crate) fn current(&self) -> Result<Batch<'_>> {
        let (position, bytes) = self.current;
        let batch = Batch::open(self.at(position, bytes), &self.inflated);
        batch.map_err(|error| refused(&self.path, position, &error))
    }

    /// The batch's head, believed only if it was written for this place.
    fn look(&mut self, next: LogOffset, limit: LogOffset) -> Result<Here> {
        if next >= self.settled {
            self.block.clear();
        }
        let there = self.load(record::BATCH_HEAD_BYTES, limit)?;
        let position = self.position;
        let bytes = self.at(position, there);
        if bytes.len() == record::BATCH_HEAD_BYTES {
            let place = record::place_checksum(self.head.salt, position, bytes);
            if same(CheckSite::BatchPlace, record::place_of(bytes), place) {
                let head = BatchHead::peek(bytes);
                if let Ok(head) = &head {
                    self.index.add(head, position);
                }
                return head.map(Here::Batch).map_err(|error| Error::corrupt(&self.path, position, error));
            }
        }
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Here::Nothing);
        }
        let what = "the head of a batch is damaged, or the batch belongs elsewhere";
        Err(Error::corrupt(&self.path, position, what))
    }

    /// `count` bytes at `position`, as far as the block holds them.
    fn at(&self, position: u64, count: usize) -> &[u8] {
        let skipped = position.checked_sub(self.block_start).and_then(|skipped| usize::try_from(skipped).ok());
        let start = skipped.unwrap_or(usize::MAX).min(self.block.len());
        &self.block[start..start.saturating_add(count).min(self.block.len())]
    }

    /// Makes sure that `count` bytes from the cursor on are in the block, if the file has them; gives how many are.
    fn load(&mut self, count: usize, limit: LogOffset) -> Result<usize> {
        if self.block_start <= self.position && self.at(self.position, count).len() == count {
            return Ok(count);
        }
        if count > BLOCK_BYTES {
            // What a batch claims is believed as far as the file goes, before memory is taken for it.
            let end = self.file.len().map_err(|error| Error::io(&self.path, "read a segment", error))?;
            let left = end.saturating_sub(self.position);
            if (count as u64) > left {
                return Ok(usize::try_from(left).unwrap_or(0));
            }
        }
        self.block.resize(count.max(BLOCK_BYTES), 0);
        let read = self.file.read_full_at(&mut self.block, self.position);
        let read = read.map_err(|error| Error::io(&self.path, "read a segment", error))?;
        self.block.truncate(read);
        (self.block_start, self.settled) = (self.position, limit);
        Ok(read.min(count))
    }
}
