//! A member of a processor's group: one consumer, one transactional producer, and what they have agreed on.
//!
//! ```text
//! begin -> send outputs and changelogs -> delivered -> send offsets with the group's metadata -> commit -> local
//! commit \________________ abort, and the records come again _______________/        \ outcome unknown: a fresh
//! producer, see `ready`
//! ```
//!
//! Invariants:
//! * The group's metadata is taken before records are handed out. If the partitions were given away since, the broker
//!   refuses the offsets, and so the transaction.
//! * A commit is the business of the thread that polls the member. Another one, whose partition has come here
//!   meanwhile, would borrow a membership that it has lost.
//! * A commit whose outcome is not known is never repeated and never taken for granted: the producer is replaced by one
//!   of the same transactional id, which ends the transaction one way or the other, and then the committed offsets say
//!   which.
//! * Local tables change after the cluster's commit is known. If that fails they are behind, and are brought up from
//!   the changelog before the next record.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use oncelog::{Error, ErrorKind, LogOffset, PartitionId, Result, TopicId};
use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::ToBytes;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use crate::assignment::Assignments;
use crate::cluster::lock;
use crate::failure::{self, Next};
use crate::numbers::{Place, list, offset_from, partition_from, partition_to};
use crate::restore::{Home, KeptTable};
use crate::tx::{Staged, invalid};

/// Between two looks at what is on its way.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// Before a call is made again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);
/// So long one waits for the coordinator before it is somebody else's turn.
const INIT_MAX: Duration = Duration::from_secs(5);

/// What all members of a processor in this process have in common.
pub(crate) struct Keep {
    pub(crate) processor: String,
    pub(crate) group: String,
    pub(crate) topics: Vec<(TopicId, Arc<str>)>,
    pub(crate) tables: Vec<KeptTable>,
    pub(crate) home: Arc<Home>,
    pub(crate) transaction_timeout: Duration,
}

pub(crate) struct Member {
    pub(crate) keep: Arc<Keep>,
    pub(crate) consumer: BaseConsumer<Assignments>,
    /// Who it is to the coordinator of transactions.
    name: String,
    producer_config: ClientConfig,
    state: Mutex<State>,
    /// Up to where the local tables have followed. Apart, so that who asks does not wait for a commit.
    applied: Mutex<BTreeMap<(TopicId, PartitionId), LogOffset>>,
}

#[derive(Default)]
struct State {
    producer: Option<ThreadedProducer<Deliveries>>,
    /// The producer has its place, and what one before it left open is decided.
    is_ready: bool,
    /// Offsets and tables are to be asked for before the next record.
    is_unsettled: bool,
    metadata: Option<ConsumerGroupMetadata>,
    /// Who polls, and so has what was handed out.
    poller: Option<ThreadId>,
    committed: BTreeMap<(TopicId, PartitionId), LogOffset>,
}

/// What became of the records that were sent.
#[derive(Default)]
pub(crate) struct Deliveries(Mutex<Delivered>);

#[derive(Default)]
struct Delivered {
    failed: Option<(Place, KafkaError)>,
    /// The offset behind the last record of each partition.
    nexts: BTreeMap<Place, LogOffset>,
}

/// Why a transaction did not happen, or may not have.
enum Failed {
    /// It did not, and the producer can begin another.
    Aborted(Error),
    /// Nobody knows.
    Unknown(KafkaError),
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut delivered = lock(&self.0);
        match result {
            Ok(message) => {
                let next = offset_from(message.offset()).plus(1);
                let place = (message.topic().to_owned(), partition_from(message.partition()));
                delivered.nexts.entry(place).and_modify(|known| *known = next.max(*known)).or_insert(next);
            }
            Err((error, message)) => {
                let place = (message.topic().to_owned(), partition_from(message.partition()));
                delivered.failed.get_or_insert((place, error.clone()));
            }
        }
    }
}

impl Member {
    pub(crate) fn new(
        keep: Arc<Keep>,
        name: String,
        consumer: BaseConsumer<Assignments>,
        producer_config: ClientConfig,
    ) -> Member {
        Member { keep, consumer, name, producer_config, state: Mutex::default(), applied: Mutex::default() }
    }

    /// Sees to it that there is a producer that can begin; `false`: the coordinator does not answer, try later.
    pub(crate) fn ready(&self) -> Result<bool> {
        let mut state = lock(&self.state);
        if state.is_ready {
            return Ok(true);
        }
        let producer = match state.producer.take() {
            Some(producer) => producer,
            None => {
                let made = self.producer_config.create_with_context(Deliveries::default());
                made.map_err(|error| failure::error("make a producer", error))?
            }
        };
        match producer.init_transactions(INIT_MAX) {
            Ok(()) => {
                state.producer = Some(producer);
                state.is_ready = true;
                Ok(true)
            }
            Err(error) => match failure::next(&error) {
                Next::CallAgain => {
                    state.producer = Some(producer);
                    Ok(false)
                }
                Next::Abort | Next::Replace => {
                    let error = failure::error(format_args!("begin as producer {:?}", self.name), error);
                    if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Fenced) {
                        tracing::warn!(%error, "another producer is made");
                        return Ok(false);
                    }
                    Err(error)
                }
            },
        }
    }

    /// Whether offsets and tables are to be asked for.
    pub(crate) fn is_unsettled(&self) -> bool {
        lock(&self.state).is_unsettled
    }

    /// The cluster says that this is committed.
    pub(crate) fn learn(&self, committed: impl IntoIterator<Item = ((TopicId, PartitionId), LogOffset)>) {
        lock(&self.state).committed.extend(committed);
    }

    /// Offsets were asked for, and tables are on their way there.
    pub(crate) fn settle(&self) {
        lock(&self.state).is_unsettled = false;
    }

    /// These are no longer ours.
    pub(crate) fn forget(&self, topic: TopicId, partition: PartitionId) {
        lock(&self.state).committed.remove(&(topic, partition));
        lock(&self.applied).remove(&(topic, partition));
    }

    /// The next offset of a partition that is ours.
    pub(crate) fn committed(&self, topic: TopicId, partition: PartitionId) -> Option<LogOffset> {
        lock(&self.state).committed.get(&(topic, partition)).copied()
    }

    /// The tables are where the committed offsets are.
    pub(crate) fn followed(&self) {
        let committed = lock(&self.state).committed.clone();
        *lock(&self.applied) = committed;
    }

    /// Up to where the tables have followed in a partition that is ours.
    pub(crate) fn applied(&self, topic: TopicId, partition: PartitionId) -> Option<LogOffset> {
        lock(&self.applied).get(&(topic, partition)).copied()
    }

    /// Takes the metadata for what is handed out next; `false`: the partitions were taken from us.
    pub(crate) fn take_metadata(&self) -> bool {
        let metadata = self.consumer.group_metadata();
        // Asked after the metadata, so that it is none of a member that has lost its place.
        let lost = self.consumer.assignment_lost();
        let mut state = lock(&self.state);
        state.metadata = metadata;
        state.poller = Some(std::thread::current().id());
        !lost
    }

    /// Makes all of it happen, on the cluster and then here.
    ///
    /// # Errors
    /// `Conflict`: the records are to be handed out again; it did not happen, or the next look at the committed offsets
    /// will tell. `Invalid`: it can never happen. Of the local store: it has happened, and the tables here are behind.
    pub(crate) fn commit(&self, staged: Staged) -> Result<()> {
        let mut state = lock(&self.state);
        let logs = self.changelogs(&staged)?;
        let ours = state.poller == Some(std::thread::current().id())
            && staged.progress.iter().all(|(topic, partition, _)| state.committed.contains_key(&(*topic, *partition)));
        let (true, true, Some(producer), Some(metadata)) =
            (ours, state.is_ready, state.producer.as_ref(), state.metadata.as_ref())
        else {
            return Err(again("its partitions are no longer here"));
        };
        match self.transact(producer, metadata, &staged, &logs) {
            Ok(nexts) => {
                let progress = staged.progress.iter().map(|(topic, partition, next)| ((*topic, *partition), *next));
                let applied: Vec<_> = progress.collect();
                state.committed.extend(applied.iter().copied());
                // Until the tables have followed.
                state.is_unsettled = true;
                self.follow(staged, &logs, &nexts)?;
                state.is_unsettled = false;
                lock(&self.applied).extend(applied);
                Ok(())
            }
            Err(Failed::Aborted(error)) => Err(error),
            Err(Failed::Unknown(error)) => {
                tracing::warn!(%error, producer = self.name, "the outcome of a transaction is not known yet");
                (state.producer, state.is_ready, state.is_unsettled) = (None, false, true);
                Err(again("its outcome is not known yet").because(error))
            }
        }
    }

    /// The topics that the changes go to.
    fn changelogs<'s>(&'s self, staged: &Staged) -> Result<BTreeMap<oncelog::TableId, &'s str>> {
        let mut logs = BTreeMap::new();
        for table in &staged.tables {
            let Some(kept) = self.keep.tables.iter().find(|kept| kept.id == *table) else {
                return Err(invalid(format!(
                    "processor {:?} uses a table that is not its own: on Kafka each table is named by \
                     Processor::table, and by one processor",
                    self.keep.processor
                )));
            };
            logs.insert(*table, kept.changelog.as_str());
        }
        Ok(logs)
    }

    fn transact(
        &self,
        producer: &ThreadedProducer<Deliveries>,
        metadata: &ConsumerGroupMetadata,
        staged: &Staged,
        logs: &BTreeMap<oncelog::TableId, &str>,
    ) -> std::result::Result<BTreeMap<Place, LogOffset>, Failed> {
        let deadline = Instant::now() + self.keep.transaction_timeout;
        *lock(&producer.context().0) = Delivered::default();
        call(deadline, |_| producer.begin_transaction()).map_err(Failed::Unknown)?;
        let staged_well = self.send(producer, staged, logs, deadline).and_then(|()| {
            let offsets = staged.progress.iter().filter_map(|(topic, partition, next)| {
                let (_, name) = self.keep.topics.iter().find(|(id, _)| id == topic)?;
                Some((&**name, *partition, *next))
            });
            let offsets = list(offsets);
            call(deadline, |left| producer.send_offsets_to_transaction(&offsets, metadata, left))
                .map_err(|error| (again("its offsets were refused").because(error.clone()), error))
        });
        if let Err((told, cause)) = staged_well {
            return Err(self.abort(producer, told, cause));
        }
        match call(deadline, |left| producer.commit_transaction(left)) {
            Ok(()) => Ok(std::mem::take(&mut lock(&producer.context().0).nexts)),
            Err(error) if failure::next(&error) == Next::Abort => {
                let told = again("its commit was refused").because(error.clone());
                Err(self.abort(producer, told, error))
            }
            Err(error) => Err(Failed::Unknown(error)),
        }
    }

    /// Sends records and changes, and waits until all are delivered.
    fn send(
        &self,
        producer: &ThreadedProducer<Deliveries>,
        staged: &Staged,
        logs: &BTreeMap<oncelog::TableId, &str>,
        deadline: Instant,
    ) -> std::result::Result<(), (Error, KafkaError)> {
        for append in &staged.appends {
            let mut record = BaseRecord::<[u8], [u8]>::to(&append.topic).partition(partition_to(append.partition));
            record = record.timestamp(append.timestamp_ms);
            record.key = append.key.as_deref();
            record.payload = append.value.as_deref();
            record.headers = append.headers.clone();
            enqueue(producer, record, deadline)?;
        }
        for change in staged.last_changes() {
            let Some(topic) = logs.get(&change.table) else { continue };
            let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition_to(PartitionId(change.shard.0)));
            record.key = Some(&change.key);
            record.payload = change.value.as_deref();
            enqueue(producer, record, deadline)?;
        }
        // By short looks: the library's own wait goes by tenths of a second.
        while let Err(error) = producer.flush(Duration::ZERO) {
            if Instant::now() > deadline || error != KafkaError::Flush(Code::OperationTimedOut) {
                return Err((again("its records were not delivered in time").because(error.clone()), error));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        match lock(&producer.context().0).failed.take() {
            None => Ok(()),
            Some(((topic, partition), error)) => Err((refused(&topic, partition, error.clone()), error)),
        }
    }

    /// Gives the transaction up; says what is to be told.
    fn abort(&self, producer: &ThreadedProducer<Deliveries>, told: Error, cause: KafkaError) -> Failed {
        if producer.client().fatal_error().is_some() || failure::next(&cause) == Next::Replace {
            return Failed::Unknown(cause);
        }
        tracing::info!(error = %told, producer = self.name, "a transaction is aborted");
        let deadline = Instant::now() + self.keep.transaction_timeout;
        match call(deadline, |left| producer.abort_transaction(left)) {
            Ok(()) => Failed::Aborted(told),
            Err(error) => Failed::Unknown(error),
        }
    }

    /// The local tables follow the cluster.
    fn follow(
        &self,
        staged: Staged,
        logs: &BTreeMap<oncelog::TableId, &str>,
        nexts: &BTreeMap<Place, LogOffset>,
    ) -> Result<()> {
        if staged.changes.is_empty() {
            return Ok(());
        }
        let mut local = staged.local;
        for ((topic, partition), next) in nexts {
            if logs.values().any(|log| log == topic) {
                self.keep.home.checkpoints.put(&mut *local, topic, *partition, *next)?;
            }
        }
        match local.submit().and_then(oncelog::PendingCommit::wait) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::new(error.kind(), "the tables here are behind the cluster").because(error)),
        }
    }
}

/// Makes a call again while it says that this would do, until the deadline.
fn call(
    deadline: Instant,
    mut make: impl FnMut(Duration) -> std::result::Result<(), KafkaError>,
) -> std::result::Result<(), KafkaError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match make(left.max(AGAIN_AFTER)) {
            Err(error) if failure::next(&error) == Next::CallAgain && !left.is_zero() => {
                std::thread::sleep(AGAIN_AFTER.min(left));
            }
            ended => return ended,
        }
    }
}

fn enqueue<K, P>(
    producer: &ThreadedProducer<Deliveries>,
    mut record: BaseRecord<'_, K, P>,
    deadline: Instant,
) -> std::result::Result<(), (Error, KafkaError)>
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            // Back pressure: what is on its way makes room.
            Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < deadline => {
                std::thread::sleep(LOOK_EVERY);
                record = back;
            }
            Err((error, back)) => {
                let partition = partition_from(back.partition.unwrap_or(0));
                return Err((refused(back.topic, partition, error.clone()), error));
            }
        }
    }
}

/// A record was not taken: for good, or for now.
fn refused(topic: &str, partition: PartitionId, cause: KafkaError) -> Error {
    let error = failure::error(format_args!("append to topic {topic:?}, partition {partition}"), cause);
    match error.kind() {
        ErrorKind::Invalid | ErrorKind::NotFound => error,
        _ => again("a record was not delivered").because(error),
    }
}

/// Of the kind that has the records handed out again.
fn again(why: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("Kafka: the transaction is done again: {why}"))
}
