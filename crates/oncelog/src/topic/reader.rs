//! Reading a partition in order, across segments, up to the end that is visible; holes between are told, not jumped.

use std::ops::Range;

use super::Partition;
use crate::error::{Error, Result};
use crate::ids::LogOffset;
use crate::record::Batch;
use crate::segment::BatchReader;
use crate::wake::Arc;

/// A cursor in one partition.
pub(crate) struct PartitionReader {
    partition: Arc<Partition>,
    next: LogOffset,
    reader: Option<BatchReader>,
}

/// What comes next in a partition.
pub(crate) enum Polled<'a> {
    /// A batch that holds the next record, and maybe records before it.
    Batch(Batch<'a>),
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

    /// The batch with the next record, below `limit`. The cursor stands behind that batch afterwards.
    pub(crate) fn poll(&mut self, limit: LogOffset) -> Result<Polled<'_>> {
        if self.next >= limit {
            return Ok(Polled::End);
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
            self.reader = Some(BatchReader::seek(segment, self.next)?);
        }
        let Some(reader) = &mut self.reader else { return Ok(Polled::End) };
        let segment = Arc::clone(reader.segment());
        match reader.next(limit)? {
            Some(batch) if batch.next_offset() > self.next => {
                self.next = batch.next_offset();
                Ok(Polled::Batch(batch))
            }
            // The end of the segment says that there are records behind `next`.
            _ => Err(Error::corrupt(&segment.path, 0, format!("record {} is missing from its segment", self.next))),
        }
    }
}
