//! Reading batches in order: large blocks into one reused buffer, each batch checked for its place before its length is
//! believed, and for its content before it is handed out.

use super::{Segment, SegmentEnd};
use crate::codec::{CheckSite, same};
use crate::error::{Error, Result};
use crate::ids::LogOffset;
use crate::record::{self, Batch, BatchHead};
use crate::wake::Arc;

const BLOCK_BYTES: usize = 256 << 10;

/// Reads one segment from some position on. Costs one `pread` for each 256 KiB and holds that much, or one batch if it
/// is larger.
pub(crate) struct BatchReader {
    segment: Arc<Segment>,
    /// What of the file is in the buffer.
    block_start: u64,
    block: Vec<u8>,
    /// Where the next batch starts.
    position: u64,
    /// The batch before it, once one was read: its length, and the offset behind its records.
    current: (usize, LogOffset),
    /// Batches at or behind this position are not looked at; moves with the segment's end.
    end: SegmentEnd,
}

impl BatchReader {
    /// A reader of `segment` whose first batch is the one that holds `from`, or the next one behind.
    pub(crate) fn seek(segment: Arc<Segment>, from: LogOffset) -> Result<BatchReader> {
        let position = segment.index().nearest(from);
        let end = segment.end();
        let mut reader = BatchReader { segment, block_start: 0, block: Vec::new(), position, current: (0, from), end };
        while reader.position < reader.end.position {
            let head = reader.load_head()?;
            reader.segment.index().add(head.base_offset, reader.position);
            if head.next_offset() > from {
                break;
            }
            reader.position += head.bytes as u64;
        }
        Ok(reader)
    }

    pub(crate) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The next batch, unless it starts at or after offset `limit` or at the end of the segment.
    #[cfg(test)]
    pub(crate) fn next(&mut self, limit: LogOffset) -> Result<Option<Batch<'_>>> {
        if self.advance(limit)? { self.current().map(Some) } else { Ok(None) }
    }

    /// Reads the next batch, which becomes the current one; `false` when it starts at or after offset `limit` or at the
    /// end of the segment.
    pub(crate) fn advance(&mut self, limit: LogOffset) -> Result<bool> {
        if self.position >= self.end.position {
            self.end = self.segment.end();
            if self.position >= self.end.position {
                return Ok(false);
            }
        }
        let head = self.load_head()?;
        if head.base_offset >= limit {
            return Ok(false);
        }
        self.load(head.bytes)?;
        self.position += head.bytes as u64;
        self.current = (head.bytes, head.next_offset());
        Ok(true)
    }

    /// The offset behind the current batch.
    pub(crate) fn next_offset(&self) -> LogOffset {
        self.current.1
    }

    /// The current batch, with its checksum compared.
    pub(crate) fn current(&self) -> Result<Batch<'_>> {
        let (len, _) = self.current;
        let position = self.position - len as u64;
        // In the buffer, as `advance` has seen to.
        let start = usize::try_from(position - self.block_start).unwrap_or(usize::MAX);
        let bytes = &self.block[start..start + len];
        Batch::check(bytes).map_err(|error| Error::corrupt(&self.segment.path, position, error))
    }

    /// The head of the batch at `position`, believed only if it was written for this place.
    fn load_head(&mut self) -> Result<BatchHead> {
        self.load(record::BATCH_HEAD_BYTES)?;
        let position = self.position;
        let start = usize::try_from(position - self.block_start).unwrap_or(usize::MAX);
        let bytes = &self.block[start..];
        let damaged = |what: &dyn std::fmt::Display| Error::corrupt(&self.segment.path, position, what);
        let place = record::place_checksum(self.segment.head.salt, position, bytes);
        if !same(CheckSite::BatchPlace, record::place_of(bytes), place) {
            return Err(damaged(&"the head of a batch is damaged, or the batch belongs elsewhere"));
        }
        let head = BatchHead::peek(bytes).map_err(|error| damaged(&error))?;
        if position + head.bytes as u64 > self.end.position {
            return Err(damaged(&"a batch reaches beyond the end of the segment"));
        }
        Ok(head)
    }

    /// Makes sure that `count` bytes from `position` on are in the buffer.
    fn load(&mut self, count: usize) -> Result<()> {
        let block_end = self.block_start + self.block.len() as u64;
        let loaded = self.block_start <= self.position && self.position + count as u64 <= block_end;
        if loaded {
            return Ok(());
        }
        let left = usize::try_from(self.end.position - self.position).unwrap_or(usize::MAX);
        let wanted = count.max(BLOCK_BYTES).min(left);
        self.block.resize(wanted, 0);
        self.block_start = self.position;
        let read = self.segment.file()?.read_full_at(&mut self.block, self.position);
        let read = read.map_err(|error| Error::io(&self.segment.path, "read a segment", error))?;
        self.block.truncate(read);
        if read < count {
            let at = self.position + read as u64;
            return Err(Error::corrupt(&self.segment.path, at, "a segment was cut short"));
        }
        Ok(())
    }
}
