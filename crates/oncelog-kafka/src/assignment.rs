//! Which partitions come and go, as the group decides.
//!
//! The client library tells it in the middle of a poll, when records may be in a transaction that is not committed yet.
//! So it is only noted here, and acted upon by the source before it hands out anything again. Until then the group
//! waits, and nobody else gets what we have.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use oncelog::Result;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{ClientContext, TopicPartitionList};

use crate::cluster::lock;
use crate::failure;
use crate::numbers::{Place, places};

/// What the group has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Take(Vec<Place>),
    Leave(Vec<Place>),
}

/// Decisions that were not acted upon yet.
#[derive(Default)]
pub(crate) struct Assignments {
    decisions: Mutex<VecDeque<Decision>>,
    /// Nobody acts upon them any more.
    ending: AtomicBool,
}

impl Assignments {
    pub(crate) fn first(&self) -> Option<Decision> {
        lock(&self.decisions).front().cloned()
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.decisions).is_empty()
    }

    /// The first one was acted upon.
    pub(crate) fn pop(&self) {
        lock(&self.decisions).pop_front();
    }

    /// From now on all is agreed to at once.
    pub(crate) fn end(&self, consumer: &BaseConsumer<Assignments>) {
        self.ending.store(true, Ordering::SeqCst);
        while let Some(decision) = self.first() {
            self.pop();
            let mut list = TopicPartitionList::new();
            let (Decision::Take(all) | Decision::Leave(all)) = &decision;
            for (topic, partition) in all {
                list.add_partition(topic, crate::numbers::partition_to(*partition));
            }
            // The consumer is closed next, and leaves whatever it has.
            let _ = match decision {
                Decision::Take(_) => take(consumer, &list),
                Decision::Leave(_) => leave(consumer, &list),
            };
        }
    }
}

/// Whether partitions come and go one by one, or all at once.
pub(crate) fn is_cooperative(consumer: &BaseConsumer<Assignments>) -> bool {
    matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative)
}

/// Agrees to these partitions, at the offsets in the list.
pub(crate) fn take(consumer: &BaseConsumer<Assignments>, list: &TopicPartitionList) -> Result<()> {
    let taken = if is_cooperative(consumer) { consumer.incremental_assign(list) } else { consumer.assign(list) };
    taken.map_err(|error| failure::error("take partitions", error))
}

/// Gives these partitions back.
pub(crate) fn leave(consumer: &BaseConsumer<Assignments>, list: &TopicPartitionList) -> Result<()> {
    let left = if is_cooperative(consumer) { consumer.incremental_unassign(list) } else { consumer.unassign() };
    left.map_err(|error| failure::error("give partitions back", error))
}

impl ClientContext for Assignments {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::info!(%error, reason, "Kafka");
    }
}

impl ConsumerContext for Assignments {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, code: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let taking = code == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.ending.load(Ordering::SeqCst) {
            let _ = if taking { take(consumer, list) } else { leave(consumer, list) };
            return;
        }
        let all = places(list);
        tracing::info!(taking, partitions = ?all, "the group has decided");
        lock(&self.decisions).push_back(if taking { Decision::Take(all) } else { Decision::Leave(all) });
    }
}
