//! Reading a partition in order, across segments, up to the end that is visible; holes between are told, not jumped.

use std::ops::Range;

use super::Partition;
use crate::error::{Error, Result};
use crate::ids::LogOffset;
use crate::record::Batch;
use crate::segment::{BatchReader, Segment};
use crate::wake::Arc;

/// A cursor in one partition.
pub(crate) struct PartitionReader {
    partition: Arc<Partition>,
    next: LogOffset,
    reader: Option<BatchReader>,
}

/// What comes next in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    /// A batch that holds the next record, and maybe records before it; it is the current one.
    Batch,
    /// These offsets should come next and are gone.
    Gap(Range<LogOffset>),
    /// Nothing below the limit.
    End,
}

impl PartitionReader {
    /// A cursor whose next record is the one at `next`.
    pub(crate) fn new(partition: Arc<Partition>, next: LogOffset) -> PartitionReader {
        PartitionReader { partition, next, reader: None }
    }

    pub(crate) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Reads on at `next`.
    pub(crate) fn seek(&mut self, next: LogOffset) {
        if next != self.next {
            self.next = next;
            self.reader = None;
        }
    }

    /// Gives the buffers back: nothing more comes for now. There may be thousands of cursors that have caught up.
    pub(crate) fn rest(&mut self) {
        if let Some(reader) = &mut self.reader {
            reader.rest();
        }
    }

    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.reader.as_ref().map_or(0, BatchReader::held_bytes)
    }

    /// Reads the batch with the next record, below `limit`; or the one that stands for its offset where that record was
    /// compacted away, which may hold none behind it. The cursor stands behind that batch afterwards.
    pub(crate) fn poll(&mut self, limit: LogOffset) -> Result<Polled> {
        loop {
            let mut sought = None;
            let error = match self.poll_once(limit, &mut sought) {
                Err(error) => error,
                polled => return polled,
            };
            // The topic may have been deleted meanwhile, or another segment have taken the place of this one, and its
            // file be gone: then that it cannot be read means nothing.
            self.partition.check_there()?;
            let read = sought.as_ref().or(self.reader.as_ref().map(BatchReader::segment));
            if read.is_none_or(|segment| self.partition.holds(segment)) {
                return Err(error);
            }
            self.reader = None;
        }
    }

    /// Says in `sought` in which segment the record was looked for.
    fn poll_once(&mut self, limit: LogOffset, sought: &mut Option<Arc<Segment>>) -> Result<Polled> {
        self.partition.check_there()?;
        if self.next >= limit {
            return Ok(Polled::End);
        }
        if let Some(removed) = self.removed(limit) {
            return Ok(removed);
        }
        let at_end = self.reader.as_ref().is_none_or(|reader| reader.segment().end().offset <= self.next);
        if at_end {
            let Some(segment) = self.partition.segment_from(self.next) else {
                return Ok(Polled::Gap(self.next..limit));
            };
            let base = segment.head.base_offset;
            if base > self.next {
                return Ok(Polled::Gap(self.next..base.min(limit)));
            }
            self.reader = None;
            *sought = Some(Arc::clone(&segment));
            match BatchReader::seek(segment, self.next) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => return self.removed(limit).ok_or(error),
            }
        }
        let Some(reader) = &mut self.reader else { return Ok(Polled::End) };
        match reader.advance(limit) {
            Ok(true) if reader.next_offset() > self.next => {
                self.next = reader.next_offset();
                Ok(Polled::Batch)
            }
            // The end of the segment says that there are records behind `next`.
            Ok(_) => {
                let what = format!("record {} is missing from its segment", self.next);
                Err(reader.segment().damaged(0, what))
            }
            Err(error) => self.removed(limit).ok_or(error),
        }
    }

    /// The current batch, with its checksum compared.
    pub(crate) fn current(&self) -> Result<Batch<'_>> {
        self.reader.as_ref().ok_or_else(Error::closed)?.current()
    }

    /// What was removed while it was about to be read: its segment is then no longer one of the partition's, and that
    /// its file cannot be read means nothing.
    fn removed(&self, limit: LogOffset) -> Option<Polled> {
        let start = self.partition.start();
        (start > self.next).then(|| Polled::Gap(self.next..start.min(limit)))
    }
}
