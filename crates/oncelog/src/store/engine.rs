//! The store as an engine.

use std::time::Duration;

use super::Store;
use super::source::StoreSource;
use crate::error::Result;
use crate::ids::{LogOffset, PartitionId, ProducerEpoch, Sequence, TableId, TopicId};
use crate::journal::Durability;
use crate::table::TableSpec;
use crate::topic::TopicSpec;
use crate::transaction::{
    Appender, AppenderOptions, Engine, EngineTx, IdTables, KeepIds, Source, SourceSpec, StoreAppender, StoreTx,
};
use crate::wake::Arc;

/// A store behind the handles.
pub(super) struct StoreEngine(pub(super) Store);

impl StoreEngine {
    fn begin(&self, durability: Durability) -> Result<Box<dyn EngineTx>> {
        let core = &self.0.inner.core;
        core.check_open()?;
        Ok(Box::new(StoreTx::new(Arc::clone(&core.pipeline), durability)))
    }
}

impl Engine for StoreEngine {
    fn handle_id(&self) -> usize {
        Arc::as_ptr(&self.0.inner.core).addr()
    }

    fn open_topic(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.0.inner.core.open_topic(spec)
    }

    fn open_dead_letters(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.0.inner.core.open_dead_letters(spec)
    }

    fn may_be_full(&self, topic: TopicId) -> bool {
        self.0.inner.core.may_be_full(topic)
    }

    fn wait_for_room(&self, topic: TopicId) -> Result<bool> {
        self.0.inner.core.wait_for_room(topic)
    }

    fn find_topic(&self, name: &str) -> Result<Option<(TopicId, TopicSpec)>> {
        Ok(self.0.inner.core.find_input(name)?.map(|topic| (topic.id(), topic.spec())))
    }

    fn open_input(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.0.inner.core.open_input(spec)
    }

    fn open_table(&self, spec: &TableSpec) -> Result<TableId> {
        self.0.inner.core.open_table(spec)
    }

    fn find_table(&self, name: &str) -> Result<Option<(TableId, TableSpec)>> {
        self.0.inner.core.find_table(name)
    }

    fn open_ids(&self, name: &str, keep: KeepIds) -> Result<IdTables> {
        self.0.inner.core.open_ids(self, name, keep)
    }

    fn begin(&self) -> Result<Box<dyn EngineTx>> {
        StoreEngine::begin(self, Durability::Synced)
    }

    fn begin_lax(&self, within: Option<Duration>) -> Result<Box<dyn EngineTx>> {
        let tx = StoreEngine::begin(self, Durability::Written)?;
        if let Some(within) = within {
            self.0.inner.core.sync_within(within);
        }
        Ok(tx)
    }

    fn appender(
        &self,
        topic: TopicId,
        options: AppenderOptions,
        within: Option<Duration>,
    ) -> Result<Box<dyn Appender>> {
        let core = &self.0.inner.core;
        core.check_open()?;
        if let Some(within) = within {
            core.sync_within(within);
        }
        Ok(Box::new(StoreAppender::new(Arc::clone(&core.pipeline), topic, options)?))
    }

    fn open_producer(
        &self,
        producer: &str,
        topic: TopicId,
        partition: PartitionId,
        initial: Sequence,
    ) -> Result<(ProducerEpoch, Sequence)> {
        let core = &self.0.inner.core;
        core.check_open()?;
        core.pipeline.open_producer(producer, topic, partition, initial)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn sources(&self, spec: &SourceSpec<'_>, count: usize) -> Result<Vec<Box<dyn Source>>> {
        let sources = StoreSource::open(&self.0, spec, count)?;
        Ok(sources.into_iter().map(|source| Box::new(source) as Box<dyn Source>).collect())
    }

    fn ends(&self, topic: TopicId) -> Result<Vec<LogOffset>> {
        let core = &self.0.inner.core;
        core.ends(&core.input(topic)?)
    }

    fn now_ms(&self) -> i64 {
        self.0.inner.core.options.clock.now_ms()
    }

    fn next_arrival(&self) -> u64 {
        self.0.inner.core.next_arrival()
    }

    fn monotonic(&self) -> Duration {
        self.0.inner.core.options.clock.monotonic()
    }

    fn pause(&self, pause: Duration) {
        self.0.inner.core.options.clock.sleep(pause);
    }

    fn wake(&self) {
        self.0.inner.core.pipeline.view.news.raise();
    }
}
