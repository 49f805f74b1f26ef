//! Questions to the cluster, and topics made there.
//!
//! Invariants:
//! * A question has a time limit; a broker that does not answer is `Unavailable`.
//! * Committed offsets are stable ones: those of transactions that are not decided are waited for, not passed over.
//! * The end of a partition is the offset behind its last record that can be read. Markers of transactions and records
//!   that were aborted have offsets too; behind the last record they do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use oncelog::{Error, ErrorKind, LogOffset, PartitionId, Result};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use crate::failure;
use crate::numbers::{list, offset_from, partition_from, partition_to};

/// So long a broker may take for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// So long it may take until all brokers know a new topic.
const SPREAD_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Clients that only ask. None of them joins a group.
pub(crate) struct Cluster {
    config: ClientConfig,
    admin: AdminClient<DefaultClientContext>,
    /// Sees what is not decided too.
    uncommitted: BaseConsumer,
    committed: BaseConsumer,
    /// Reads the ends of partitions; it is assigned anew for each question.
    probe: Mutex<BaseConsumer>,
    /// Asks for the offsets of a group.
    groups: Mutex<BTreeMap<String, Arc<BaseConsumer>>>,
}

impl Cluster {
    pub(crate) fn connect(config: &ClientConfig) -> Result<Cluster> {
        let client = |settings: &[(&str, &str)]| consumer(config, settings);
        let admin = config.create().map_err(|error| failure::error("make a client", error))?;
        let cluster = Cluster {
            config: config.clone(),
            admin,
            uncommitted: client(&[("isolation.level", "read_uncommitted")])?,
            committed: client(&[])?,
            // A group is what the client library reads for; nothing is ever committed under this one.
            probe: Mutex::new(client(&[("group.id", "oncelog-probe"), ("enable.partition.eof", "true")])?),
            groups: Mutex::default(),
        };
        let asked = cluster.committed.fetch_metadata(Some("oncelog-is-anybody-there"), ANSWER_MAX);
        asked.map_err(|error| failure::error("reach the cluster", error))?;
        Ok(cluster)
    }

    /// The settings that every client of this cluster begins with.
    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// How many partitions a topic has; `None`: there is no such topic.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<u32>> {
        let doing = || format!("look up topic {topic:?}");
        let metadata = self.committed.fetch_metadata(Some(topic), ANSWER_MAX);
        let metadata = metadata.map_err(|error| failure::error(doing(), error))?;
        let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
        match found.error().map(Code::from) {
            None => {}
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
            Some(code) => return Err(failure::error(doing(), KafkaError::MetadataFetch(code))),
        }
        // While it is being made some have no leader yet.
        if found.partitions().iter().any(|partition| partition.leader() < 0) {
            return Err(failure::error(doing(), KafkaError::MetadataFetch(Code::LeaderNotAvailable)));
        }
        Ok(u32::try_from(found.partitions().len()).ok())
    }

    /// Makes a topic with as many replicas as the brokers have as their default, and waits until it can be used. One
    /// that is there already is left as it is.
    pub(crate) fn create(&self, topic: &str, partitions: u32, settings: &[(&str, &str)]) -> Result<()> {
        let doing = || format!("make topic {topic:?}");
        let mut new = NewTopic::new(topic, i32::try_from(partitions).unwrap_or(i32::MAX), TopicReplication::Fixed(-1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let options = AdminOptions::new().operation_timeout(Some(ANSWER_MAX)).request_timeout(Some(ANSWER_MAX));
        let made = wait_for(self.admin.create_topics([&new], &options));
        for made in made.map_err(|error| failure::error(doing(), error))? {
            match made {
                Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
                Err((_, code)) => return Err(failure::error(doing(), KafkaError::AdminOp(code))),
            }
        }
        let deadline = Instant::now() + SPREAD_MAX;
        loop {
            match self.partitions(topic) {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                Err(error) => return Err(error),
            }
            if Instant::now() > deadline {
                return Err(Error::new(ErrorKind::Unavailable, format!("topic {topic:?} was made, and is not there")));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The first offset, and the one up to which everything is decided.
    pub(crate) fn low_and_stable(&self, topic: &str, partition: PartitionId) -> Result<(LogOffset, LogOffset)> {
        watermarks(&self.committed, topic, partition)
    }

    /// The first offset, and the one behind everything that was written, decided or not.
    pub(crate) fn low_and_high(&self, topic: &str, partition: PartitionId) -> Result<(LogOffset, LogOffset)> {
        watermarks(&self.uncommitted, topic, partition)
    }

    /// What a group has committed, in the order of `places`; `None` where it has committed nothing.
    pub(crate) fn committed<'p>(
        &self,
        group: &str,
        places: impl IntoIterator<Item = (&'p str, PartitionId)>,
    ) -> Result<Vec<Option<LogOffset>>> {
        let doing = || format!("read the committed offsets of group {group:?}");
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in places {
            asked.add_partition(topic, partition_to(partition));
        }
        let order: Vec<(String, i32)> =
            asked.elements().iter().map(|place| (place.topic().to_owned(), place.partition())).collect();
        let client = self.group(group)?;
        let found = client.committed_offsets(asked, ANSWER_MAX).map_err(|error| failure::error(doing(), error))?;
        let offset_of = |(topic, partition): &(String, i32)| {
            let Some(found) = found.find_partition(topic, *partition) else { return Ok(None) };
            found.error().map_err(|error| failure::error(doing(), error))?;
            match found.offset() {
                Offset::Offset(offset) => Ok(Some(offset_from(offset))),
                _ => Ok(None),
            }
        };
        order.iter().map(offset_of).collect()
    }

    fn group(&self, group: &str) -> Result<Arc<BaseConsumer>> {
        let mut groups = lock(&self.groups);
        if let Some(client) = groups.get(group) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(consumer(&self.config, &[("group.id", group)])?);
        groups.insert(group.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// The offsets behind the last records of all partitions.
    pub(crate) fn ends(&self, topic: &str, partitions: u32) -> Result<Vec<LogOffset>> {
        let all: Result<Vec<_>> =
            (0..partitions).map(|number| self.low_and_stable(topic, PartitionId(number))).collect();
        let mut tails: Vec<Tail> = all?.into_iter().map(|(low, stable)| Tail::new(low, stable)).collect();
        let probe = lock(&self.probe);
        while tails.iter().any(|tail| tail.end.is_none()) {
            look_at(&probe, topic, &mut tails)?;
        }
        Ok(tails.iter().map(|tail| tail.end.unwrap_or(tail.low)).collect())
    }
}

/// What is known of the end of a partition: no record that can be read is in `from..stable`, until the end is known.
struct Tail {
    low: LogOffset,
    stable: LogOffset,
    /// Where one begins to look.
    from: LogOffset,
    /// The last record that was seen from there.
    seen: Option<LogOffset>,
    end: Option<LogOffset>,
}

impl Tail {
    fn new(low: LogOffset, stable: LogOffset) -> Tail {
        let end = (stable <= low).then_some(low);
        Tail { low, stable, from: LogOffset(stable.0.saturating_sub(1)).max(low), seen: None, end }
    }

    /// A record was read; whether that is all there is to know.
    fn see(&mut self, offset: LogOffset) -> bool {
        if offset < self.stable {
            self.seen = Some(offset);
        }
        offset.plus(1) >= self.stable
    }

    /// All that is there from `from` on was read: the end is known, or one looks farther back.
    fn settle(&mut self) {
        match self.seen {
            Some(last) => self.end = Some(last.plus(1)),
            None if self.from <= self.low => self.end = Some(self.low),
            None => {
                let looked = (self.stable.0 - self.from.0).saturating_mul(8);
                self.from = LogOffset(self.stable.0.saturating_sub(looked)).max(self.low);
            }
        }
    }
}

/// One look at all tails whose end is not known.
fn look_at(probe: &BaseConsumer, topic: &str, tails: &mut [Tail]) -> Result<()> {
    let doing = || format!("read the end of topic {topic:?}");
    let at = |number: usize| partition_from(i32::try_from(number).unwrap_or(i32::MAX));
    let mut open: BTreeSet<usize> = (0..tails.len()).filter(|number| tails[*number].end.is_none()).collect();
    let assigned = list(open.iter().map(|number| (topic, at(*number), tails[*number].from)));
    probe.assign(&assigned).map_err(|error| failure::error(doing(), error))?;
    let deadline = Instant::now() + ANSWER_MAX;
    let mut read = Ok(());
    while !open.is_empty() && read.is_ok() {
        let done = match probe.poll(LOOK_EVERY) {
            Some(Ok(message)) => {
                let number = partition_from(message.partition()).0 as usize;
                let tail = tails.get_mut(number).filter(|_| open.contains(&number) && message.topic() == topic);
                tail.is_some_and(|tail| tail.see(offset_from(message.offset()))).then_some(number)
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition_from(partition).0 as usize),
            Some(Err(error)) if !failure::is_passing(&error) => {
                read = Err(failure::error(doing(), error));
                None
            }
            Some(Err(_)) | None => None,
        };
        if let Some(number) = done.filter(|number| open.remove(number)) {
            tails[number].settle();
        }
        if Instant::now() > deadline {
            read = Err(Error::new(ErrorKind::Unavailable, format!("Kafka: cannot {}: no answer", doing())));
        }
    }
    // What is left of it is never polled.
    let _ = probe.unassign();
    read
}

/// A client that reads what is committed and remembers nothing by itself.
pub(crate) fn consumer(config: &ClientConfig, settings: &[(&str, &str)]) -> Result<BaseConsumer> {
    let mut config = config.clone();
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false").set("check.crcs", "true");
    config.set("auto.offset.reset", "earliest").set("allow.auto.create.topics", "false");
    for (key, value) in settings {
        config.set(*key, *value);
    }
    config.create().map_err(|error| failure::error("make a client", error))
}

fn watermarks(client: &BaseConsumer, topic: &str, partition: PartitionId) -> Result<(LogOffset, LogOffset)> {
    let asked = client.fetch_watermarks(topic, partition_to(partition), ANSWER_MAX);
    let (low, high) = asked.map_err(|error| {
        failure::error(format_args!("look up the offsets of topic {topic:?}, partition {partition}"), error)
    })?;
    Ok((offset_from(low), offset_from(high)))
}

/// A lock that goes on after a panic: what it guards is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Blocks until the future is ready.
fn wait_for<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_behind_the_last_record_that_is_found() {
        let mut tail = Tail::new(LogOffset(5), LogOffset(20));
        assert_eq!((tail.end, tail.from), (None, LogOffset(19)));
        tail.settle();
        assert_eq!((tail.end, tail.from), (None, LogOffset(12)));
        assert!(!tail.see(LogOffset(14)));
        // Written meanwhile.
        assert!(tail.see(LogOffset(21)));
        tail.settle();
        assert_eq!(tail.end, Some(LogOffset(15)));
    }

    #[test]
    fn a_partition_of_markers_alone_ends_where_it_begins() {
        let mut tail = Tail::new(LogOffset(5), LogOffset(7));
        tail.settle();
        tail.settle();
        assert_eq!(tail.end, Some(LogOffset(5)));
        assert_eq!(Tail::new(LogOffset(5), LogOffset(5)).end, Some(LogOffset(5)));
    }

    #[test]
    fn a_future_is_waited_for() {
        assert_eq!(wait_for(async { 7 }), 7);
    }
}
