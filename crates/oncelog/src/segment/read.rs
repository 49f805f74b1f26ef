//! Reading batches in order: large blocks into one reused buffer, each batch checked for its place before its length is
//! believed, and for its content before it is handed out.

use super::index::IndexEntry;
use super::{SEGMENT_HEAD_BYTES, Segment, SegmentEnd, refused};
use crate::codec::{CheckSite, same};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::LogOffset;
use crate::record::{self, Batch, BatchHead, Inflated};
use crate::wake::Arc;

const BLOCK_BYTES: usize = 256 << 10;

/// Reads one segment from some position on. Costs one `pread` for each 256 KiB and holds that much, or one batch if it
/// is larger.
pub(crate) struct BatchReader {
    segment: Arc<Segment>,
    /// What of the file is in the buffer: so many bytes from here on. What is behind them is there to be written over.
    block_start: u64,
    filled: usize,
    block: Vec<u8>,
    /// The records of the current batch, if it is a compressed one and was asked for.
    inflated: Inflated,
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
        loop {
            let entry = segment.with_index(|index| index.nearest(from));
            let mut reader = BatchReader::at(&segment, entry);
            if reader.confirm(entry)? {
                reader.walk_to(from)?;
                return Ok(reader);
            }
        }
    }

    /// The offset of the first record of `segment` that is not older than `timestamp_ms`, if there is one.
    pub(crate) fn first_since(segment: &Arc<Segment>, timestamp_ms: i64) -> Result<Option<LogOffset>> {
        loop {
            let entry = segment.with_index(|index| index.before_time(timestamp_ms));
            let mut reader = BatchReader::at(segment, entry);
            if reader.confirm(entry)? {
                return reader.walk_to_time(timestamp_ms);
            }
        }
    }

    fn at(segment: &Arc<Segment>, entry: IndexEntry) -> BatchReader {
        let (segment, end) = (Arc::clone(segment), segment.end());
        BatchReader {
            segment,
            block_start: 0,
            filled: 0,
            block: Vec::new(),
            inflated: Inflated::default(),
            position: entry.position,
            current: (0, entry.offset),
            end,
        }
    }

    /// Whether the batch that the index points to is there. If not, the index is thrown away, so that the next try
    /// begins further in front. What is wrong with the first batch is told by whoever reads it.
    fn confirm(&mut self, entry: IndexEntry) -> Result<bool> {
        if entry.position == SEGMENT_HEAD_BYTES || self.position >= self.end.position {
            return Ok(true);
        }
        let found = match self.load_head() {
            Ok(head) => head.base_offset == entry.offset,
            Err(error) if error.kind() == ErrorKind::Corrupt => false,
            Err(error) => return Err(error),
        };
        if !found {
            self.segment.distrust_index(entry);
        }
        Ok(found)
    }

    /// Stands at the last batch that begins at or before `from`. Only base offsets are gone by: they are under the
    /// checksum of the place, what a head says of its last offset is not.
    fn walk_to(&mut self, from: LogOffset) -> Result<()> {
        let mut before = self.position;
        while self.position < self.end.position {
            let head = self.load_head()?;
            if head.base_offset > from {
                break;
            }
            before = self.position;
            if head.base_offset == from {
                break;
            }
            self.index(&head);
            self.position += head.bytes as u64;
        }
        self.position = before;
        Ok(())
    }

    fn walk_to_time(&mut self, timestamp_ms: i64) -> Result<Option<LogOffset>> {
        while self.position < self.end.position {
            let head = self.load_head()?;
            self.index(&head);
            let position = self.position;
            if !self.advance(LogOffset(u64::MAX))? {
                break;
            }
            let batch = self.current()?;
            if batch.max_timestamp_ms() < timestamp_ms {
                continue;
            }
            let mut since = batch
                .records()
                .filter(|record| record.as_ref().map_or(true, |record| record.timestamp_ms >= timestamp_ms));
            match since.next() {
                Some(Ok(record)) => return Ok(Some(record.offset)),
                Some(Err(error)) => return Err(self.segment.damaged(position, error)),
                // The greatest timestamp that a batch names may be that of a record that is gone from it.
                None => {}
            }
        }
        Ok(None)
    }

    /// Lets the index grow by the batch at `position`, if it is the next one and its content is whole.
    fn index(&mut self, head: &BatchHead) {
        let position = self.position;
        if self.segment.with_index(|index| index.covered()) != position || self.load(head.bytes).is_err() {
            return;
        }
        let start = usize::try_from(position - self.block_start).unwrap_or(usize::MAX);
        if Batch::is_whole(&self.block[start..start + head.bytes]) {
            self.segment.with_index(|index| index.add(head, position));
        }
    }

    /// Gives the buffers back; the current batch is gone with them.
    pub(crate) fn rest(&mut self) {
        (self.block, self.filled) = (Vec::new(), 0);
        self.inflated = Inflated::default();
    }

    /// How much its block takes.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.block.capacity()
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
        self.inflated.clear();
        Ok(true)
    }

    /// The offset behind the current batch.
    pub(crate) fn next_offset(&self) -> LogOffset {
        self.current.1
    }

    /// The bytes of the current batch.
    pub(crate) fn current_bytes(&self) -> &[u8] {
        let (len, _) = self.current;
        let start = usize::try_from(self.position - len as u64 - self.block_start).unwrap_or(usize::MAX);
        &self.block[start..start + len]
    }

    /// The current batch, with its checksum compared.
    pub(crate) fn current(&self) -> Result<Batch<'_>> {
        let position = self.position - self.current.0 as u64;
        // In the buffer, as `advance` has seen to.
        let bytes = self.current_bytes();
        let Segment { files, path, .. } = &*self.segment;
        Batch::open(bytes, &self.inflated).map_err(|error| files.judge(refused(path, position, &error)))
    }

    /// The head of the batch at `position`, believed only if it was written for this place.
    fn load_head(&mut self) -> Result<BatchHead> {
        self.load(record::BATCH_HEAD_BYTES)?;
        let position = self.position;
        let start = usize::try_from(position - self.block_start).unwrap_or(usize::MAX);
        let bytes = &self.block[start..self.filled];
        let damaged = |what: &dyn std::fmt::Display| self.segment.damaged(position, what);
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

    /// Makes sure that `count` bytes from `position` on are in the buffer. What is there already is not read again.
    fn load(&mut self, count: usize) -> Result<()> {
        let block_end = self.block_start + self.filled as u64;
        let loaded = self.block_start <= self.position && self.position + count as u64 <= block_end;
        if loaded {
            return Ok(());
        }
        let left = usize::try_from(self.end.position - self.position).unwrap_or(usize::MAX);
        let wanted = count.max(BLOCK_BYTES).min(left);
        self.keep_from_position();
        if self.block.len() > 4 * wanted.max(BLOCK_BYTES) {
            // A large batch has gone by.
            self.block = self.block[..self.filled].to_vec();
        }
        if self.block.len() < wanted {
            self.block.resize(wanted, 0);
        }
        let at = self.position + self.filled as u64;
        // More may be there than is wanted, of a segment whose end was farther when it was read.
        let missing = self.filled.min(wanted)..wanted;
        let read = self.segment.file()?.read_full_at(&mut self.block[missing], at);
        self.filled += read.map_err(|error| Error::io(&self.segment.path, "read a segment", error))?;
        if self.filled < count {
            let at = self.position + self.filled as u64;
            return Err(self.segment.damaged(at, "a segment was cut short"));
        }
        Ok(())
    }

    /// Moves what the buffer holds from `position` on to its beginning.
    fn keep_from_position(&mut self) {
        let gone = self.position.checked_sub(self.block_start).and_then(|gone| usize::try_from(gone).ok());
        let gone = gone.map_or(self.filled, |gone| gone.min(self.filled));
        self.block.copy_within(gone..self.filled, 0);
        self.filled -= gone;
        self.block_start = self.position;
    }
}
