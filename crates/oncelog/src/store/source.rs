//! The records of topics from where a consumer stands.

use std::ops::Range;
use std::time::Duration;

use super::Store;
use crate::error::{Error, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::RecordView;
use crate::topic::{PartitionReader, Polled, Topic};
use crate::transaction::{Source, Step};
use crate::wake::Arc;

/// A consumer's cursors, one for each partition; holds the consumer's id as long as it lives.
pub(super) struct StoreSource {
    store: Store,
    consumer: String,
    cursors: Vec<Cursor>,
    /// Where the next poll begins, so that no partition starves.
    turn: usize,
    gap: Option<(TopicId, PartitionId, Range<LogOffset>)>,
}

struct Cursor {
    topic: Arc<Topic>,
    partition: PartitionId,
    /// The next record to hand out.
    next: LogOffset,
    reader: PartitionReader,
}

/// Why a cursor stopped.
enum Stopped {
    Drained,
    ByVisitor,
}

impl StoreSource {
    pub(super) fn claim(store: &Store, consumer: &str, topics: &[TopicId]) -> Result<StoreSource> {
        let core = &store.inner.core;
        core.check_open()?;
        if !core.consumers.lock().insert(consumer.to_owned()) {
            let what = format!("consumer {consumer:?} is at work already");
            return Err(Error::locked(&core.layout.dir, what, Some(std::process::id())));
        }
        let (store, consumer) = (store.clone(), consumer.to_owned());
        let mut source = StoreSource { store, consumer, cursors: Vec::new(), turn: 0, gap: None };
        for topic in topics {
            source.add(*topic)?;
        }
        Ok(source)
    }

    fn add(&mut self, topic: TopicId) -> Result<()> {
        let core = &self.store.inner.core;
        let topic = core.pipeline.topics.get(topic)?;
        for partition in &topic.partitions {
            let next = core.committed(&self.consumer, topic.id, partition.id)?;
            let reader = PartitionReader::new(Arc::clone(partition), next);
            self.cursors.push(Cursor { topic: Arc::clone(&topic), partition: partition.id, next, reader });
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        let visible = self.store.inner.core.pipeline.view.visible();
        self.cursors.iter().any(|cursor| cursor.next < cursor.reader.partition().end_at(visible))
    }
}

impl Cursor {
    /// Hands out what is visible in this partition, one batch at a time.
    fn poll_batch(
        &mut self,
        limit: LogOffset,
        done: &mut u64,
        gap: &mut Option<(TopicId, PartitionId, Range<LogOffset>)>,
        visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>,
    ) -> Result<Stopped> {
        self.reader.seek(self.next);
        let batch = match self.reader.poll(limit)? {
            Polled::Batch(batch) => batch,
            Polled::End => return Ok(Stopped::Drained),
            Polled::Gap(lost) => {
                let error = Error::lost(&self.topic.spec.name, self.partition.0, lost.clone());
                *gap = Some((self.topic.id, self.partition, lost));
                return Err(error);
            }
        };
        let behind = batch.next_offset();
        for record in batch.records() {
            let record = record.map_err(|error| {
                let what = format!("topic {:?}, partition {}: {error}", self.topic.spec.name, self.partition);
                Error::new(crate::error::ErrorKind::Corrupt, what)
            })?;
            if record.offset < self.next {
                continue;
            }
            match visit(self.topic.id, self.partition, record)? {
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

impl Source for StoreSource {
    fn positions(&self) -> Vec<(TopicId, PartitionId, LogOffset)> {
        self.cursors.iter().map(|cursor| (cursor.topic.id, cursor.partition, cursor.next)).collect()
    }

    fn poll(&mut self, visit: &mut dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step>) -> Result<u64> {
        let core = Arc::clone(&self.store.inner.core);
        core.check_open()?;
        self.gap = None;
        let (mut done, mut idle) = (0, 0);
        let count = self.cursors.len();
        while idle < count {
            let at = self.turn % count;
            let cursor = &mut self.cursors[at];
            let limit = cursor.reader.partition().end_at(core.pipeline.view.visible());
            if cursor.next >= limit {
                idle += 1;
                self.turn = at + 1;
                continue;
            }
            idle = 0;
            match cursor.poll_batch(limit, &mut done, &mut self.gap, visit)? {
                Stopped::Drained => self.turn = at + 1,
                Stopped::ByVisitor => return Ok(done),
            }
        }
        Ok(done)
    }

    fn seek(&mut self, topic: TopicId, partition: PartitionId, next: LogOffset) {
        for cursor in &mut self.cursors {
            if cursor.topic.id == topic && cursor.partition == partition {
                cursor.next = next;
            }
        }
    }

    fn gap(&self) -> Option<(TopicId, PartitionId, Range<LogOffset>)> {
        self.gap.clone()
    }

    fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        let core = &self.store.inner.core;
        core.pipeline.view.news.wait_until(limit, || self.has_more() || core.check_open().is_err() || enough());
    }

    fn lag(&self) -> u64 {
        let visible = self.store.inner.core.pipeline.view.visible();
        let behind = |cursor: &Cursor| cursor.reader.partition().end_at(visible).0.saturating_sub(cursor.next.0);
        self.cursors.iter().map(behind).sum()
    }
}

impl Drop for StoreSource {
    fn drop(&mut self) {
        self.store.inner.core.consumers.lock().remove(&self.consumer);
    }
}
