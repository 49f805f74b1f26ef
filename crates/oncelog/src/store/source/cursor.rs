//! One partition of a source: where it stands, and its records from there.

use super::super::reader::{ForeignTopic, PartitionCursor};
use crate::error::{ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::record::{Batch, RecordView};
use crate::topic::{PartitionReader, Polled};
use crate::transaction::{Fetched, Step};
use crate::wake::Arc;

/// A place in a partition.
pub(super) struct Cursor {
    pub(super) topic: TopicId,
    pub(super) topic_name: String,
    pub(super) partition: PartitionId,
    /// The next record to hand out.
    pub(super) next: LogOffset,
    /// It is not to be handed out now.
    pub(super) is_held: bool,
    pub(super) reading: Reading,
}

/// Where a cursor's records come from.
pub(super) enum Reading {
    Own(Box<PartitionReader>),
    /// Another owner's topic, by its page and its files, or by a recovery in memory while nobody has that owner.
    Foreign(Arc<ForeignTopic>, Box<PartitionCursor>),
}

/// Why a cursor stopped.
pub(super) enum Stopped {
    Drained,
    ByVisitor,
}

impl Cursor {
    /// Whether the topic was deleted. One of another owner says so when its end is asked for.
    pub(super) fn check_there(&self) -> Result<()> {
        match &self.reading {
            Reading::Own(reader) => reader.partition().check_there(),
            Reading::Foreign(..) => Ok(()),
        }
    }

    /// The offset behind the last record to be handed out now. While another owner is being opened there is nothing
    /// more of it: it has its reasons to take long, and whoever reads it goes on when it serves.
    pub(super) fn end(&self, shown: Lsn) -> Result<LogOffset> {
        match &self.reading {
            Reading::Own(reader) => Ok(reader.partition().end_at(shown)),
            Reading::Foreign(topic, _) => match topic.watched(self.partition) {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::debug!(%error, "nothing to be read of another owner for now");
                    Ok(self.next)
                }
                watched => Ok(watched?.end),
            },
        }
    }

    /// Finds the batch with the next record.
    pub(super) fn advance(&mut self, shown: Lsn) -> Result<Polled> {
        let limit = self.end(shown)?;
        if self.next >= limit {
            match &mut self.reading {
                Reading::Own(reader) => reader.rest(),
                Reading::Foreign(_, cursor) => cursor.rest(),
            }
            return Ok(Polled::End);
        }
        match &mut self.reading {
            Reading::Own(reader) => {
                reader.seek(self.next);
                reader.poll(limit)
            }
            Reading::Foreign(_, cursor) => {
                cursor.next = self.next;
                match cursor.advance(limit) {
                    Err(error) if error.kind() == ErrorKind::Unavailable => Ok(Polled::End),
                    polled => polled,
                }
            }
        }
    }

    /// Hands out the records of the current batch.
    pub(super) fn visit(
        &mut self,
        done: &mut u64,
        visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>,
    ) -> Result<Stopped> {
        let batch = self.reading.current()?;
        let behind = batch.next_offset();
        for record in Fetched::new(self.topic, &self.topic_name, self.partition, self.next, batch) {
            let record = record?;
            match visit(self.topic, self.partition, record)? {
                Step::Stay => return Ok(Stopped::ByVisitor),
                step => {
                    self.next = record.offset.plus(1);
                    *done += 1;
                    if step == Step::NextAndReturn {
                        return Ok(Stopped::ByVisitor);
                    }
                }
            }
        }
        self.next = behind;
        Ok(Stopped::Drained)
    }
}

impl Reading {
    /// The batch that was found, with its checksum compared.
    pub(super) fn current(&self) -> Result<Batch<'_>> {
        match self {
            Reading::Own(reader) => reader.current(),
            Reading::Foreign(_, cursor) => cursor.current(),
        }
    }
}
