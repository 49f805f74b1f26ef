//! A cluster as an engine: topics and tables by number, the members of each processor, and whom a commit belongs to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oncelog::{
    Appender, AppenderOptions, Engine, EngineTx, Error, ErrorKind, GapPolicy, IdTables, KeepIds, LogOffset,
    PartitionId, ProducerEpoch, Result, Retention, Sequence, Source, SourceSpec, TableId, TableSpec, TopicId,
    TopicSpec, Visibility, Whence,
};

use crate::assignment::Assignments;
use crate::cluster::lock;
use crate::failure;
use crate::member::{Keep, Member};
use crate::names;
use crate::options::Settings;
use crate::restore::{DELETE_RETENTION_MS, Home, KeptTable};
use crate::source::KafkaSource;
use crate::tx::{KafkaTx, invalid, not_there};

/// What all handles of one engine share.
pub(crate) struct Shared {
    pub(crate) home: Arc<Home>,
    settings: Settings,
    /// Identity of the local store, which names this instance on the cluster.
    instance: String,
    topics: Mutex<BTreeMap<TopicId, Arc<KnownTopic>>>,
    /// Tables that were opened, with the processor that keeps each.
    tables: Mutex<BTreeMap<TableId, KnownTable>>,
    members: Mutex<BTreeMap<Spot, Arc<Member>>>,
    claims: Mutex<BTreeSet<String>>,
    began: Instant,
}

/// A partition of a processor's input.
type Spot = (String, TopicId, PartitionId);

pub(crate) struct KnownTopic {
    pub(crate) name: Arc<str>,
    pub(crate) partitions: u32,
    turn: AtomicU32,
}

struct KnownTable {
    spec: TableSpec,
    processor: Option<String>,
}

/// The engine behind [`Kafka`](crate::Kafka).
pub(crate) struct KafkaEngine(pub(crate) Arc<Shared>);

/// A processor's name while it runs.
pub(crate) struct Claim {
    engine: Arc<Shared>,
    processor: String,
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.engine.claims).remove(&self.processor);
    }
}

impl KnownTopic {
    /// The partition for a record without a key: each in turn.
    pub(crate) fn next_in_turn(&self) -> PartitionId {
        PartitionId(self.turn.fetch_add(1, Ordering::Relaxed) % self.partitions.max(1))
    }
}

/// The number of a topic is made of its name, so that it is the same in every process: FNV-1a (Fowler, Noll, Vo).
fn topic_id(name: &str) -> TopicId {
    TopicId(name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)))
}

impl Shared {
    pub(crate) fn new(home: Arc<Home>, settings: Settings, instance: String) -> Shared {
        Shared {
            home,
            settings,
            instance,
            topics: Mutex::default(),
            tables: Mutex::default(),
            members: Mutex::default(),
            claims: Mutex::default(),
            began: Instant::now(),
        }
    }

    pub(crate) fn topic(&self, id: TopicId) -> Result<Arc<KnownTopic>> {
        let found = lock(&self.topics).get(&id).map(Arc::clone);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("topic {id} was not opened")))
    }

    pub(crate) fn ends(&self, topic: TopicId) -> Result<Vec<LogOffset>> {
        let topic = self.topic(topic)?;
        self.home.cluster.ends(&topic.name, topic.partitions)
    }

    /// Whose commit it is.
    pub(crate) fn member(&self, processor: &str, topic: TopicId, partition: PartitionId) -> Result<Arc<Member>> {
        let found = lock(&self.members).get(&(processor.to_owned(), topic, partition)).map(Arc::clone);
        found.ok_or_else(|| {
            let what = format!("processor {processor:?}: partition {partition} of the input is no longer here");
            Error::new(ErrorKind::Conflict, what)
        })
    }

    pub(crate) fn arrive(&self, member: &Arc<Member>, (topic, partition): (TopicId, PartitionId)) {
        let spot = (member.keep.processor.clone(), topic, partition);
        lock(&self.members).insert(spot, Arc::clone(member));
    }

    /// Unless another member has it by now.
    pub(crate) fn depart(&self, member: &Arc<Member>, (topic, partition): (TopicId, PartitionId)) {
        let spot = (member.keep.processor.clone(), topic, partition);
        let mut members = lock(&self.members);
        if members.get(&spot).is_some_and(|known| Arc::ptr_eq(known, member)) {
            members.remove(&spot);
        }
    }

    fn claim(self: &Arc<Self>, processor: &str) -> Result<Arc<Claim>> {
        if !lock(&self.claims).insert(processor.to_owned()) {
            return Err(Error::new(ErrorKind::Locked, format!("processor {processor:?} runs already")));
        }
        Ok(Arc::new(Claim { engine: Arc::clone(self), processor: processor.to_owned() }))
    }

    fn know(&self, name: &str, partitions: u32) -> Result<TopicId> {
        let id = topic_id(name);
        let mut topics = lock(&self.topics);
        match topics.get(&id) {
            Some(known) if *known.name != *name => Err(invalid(format!(
                "topics {:?} and {name:?} have the same number here: rename one of them",
                known.name
            ))),
            Some(_) => Ok(id),
            None => {
                let topic = KnownTopic { name: Arc::from(name), partitions, turn: AtomicU32::new(0) };
                topics.insert(id, Arc::new(topic));
                Ok(id)
            }
        }
    }

    fn open_topic(&self, spec: &TopicSpec) -> Result<TopicId> {
        let name = &spec.name;
        names::check_topic(name)?;
        let known = lock(&self.topics).get(&topic_id(name)).filter(|known| *known.name == **name).map(Arc::clone);
        let found = match known {
            Some(known) => Some(known.partitions),
            None => self.home.cluster.partitions(name)?,
        };
        let partitions = match found {
            Some(partitions) => partitions,
            None => {
                if spec.retention != Retention::default() || spec.compaction.is_some() {
                    return Err(invalid(format!(
                        "topic {name:?}: what it keeps is the cluster's to say: make it there first, with its settings"
                    )));
                }
                self.home.cluster.create(name, spec.partitions, &[])?;
                spec.partitions
            }
        };
        if partitions != spec.partitions {
            let wanted = spec.partitions;
            return Err(invalid(format!("topic {name:?} has {partitions} partitions on the cluster, not {wanted}")));
        }
        self.know(name, partitions)
    }

    /// The tables are this processor's from now on, and their changelogs are there.
    fn keep_tables(&self, processor: &str, ids: &[TableId], partitions: u32) -> Result<Vec<KeptTable>> {
        let mut kept = Vec::with_capacity(ids.len());
        for id in ids {
            let name = {
                let mut tables = lock(&self.tables);
                let table = tables
                    .get_mut(id)
                    .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("table {id} was not opened")))?;
                let keeper = table.processor.get_or_insert_with(|| processor.to_owned());
                if keeper != processor {
                    return Err(invalid(format!(
                        "table {:?} is that of processor {keeper:?}: on Kafka a table has one processor",
                        table.spec.name
                    )));
                }
                table.spec.name.clone()
            };
            let changelog = names::changelog(&self.settings.application, processor, &name)?;
            match self.home.cluster.partitions(&changelog)? {
                None => {
                    let settings = [("cleanup.policy", "compact"), ("delete.retention.ms", DELETE_RETENTION_MS)];
                    self.home.cluster.create(&changelog, partitions, &settings)?;
                }
                Some(found) if found != partitions => {
                    return Err(invalid(format!(
                        "changelog {changelog:?} has {found} partitions, and the input {partitions}: partitions are \
                         fixed where there are tables"
                    )));
                }
                Some(_) => {}
            }
            kept.push(KeptTable { id: *id, changelog });
        }
        Ok(kept)
    }

    fn sources(self: &Arc<Self>, spec: &SourceSpec<'_>, count: usize) -> Result<Vec<Box<dyn Source>>> {
        let is_whole = spec.partitions.is_none() && spec.whence == Whence::Oldest && spec.gaps == GapPolicy::Stop;
        let Some(processor) = spec.consumer.filter(|name| !name.is_empty() && is_whole) else {
            return Err(not_there("consumers beside a processor"));
        };
        if spec.visibility != Visibility::Durable {
            return Err(not_there("records that are shown before they are durable"));
        }
        let claim = self.claim(processor)?;
        let topics: Vec<Arc<KnownTopic>> = spec.topics.iter().map(|id| self.topic(*id)).collect::<Result<_>>()?;
        let partitions = topics.iter().map(|topic| topic.partitions).max().unwrap_or(1);
        let keep = Arc::new(Keep {
            processor: processor.to_owned(),
            group: names::group(&self.settings.application, processor),
            topics: spec.topics.iter().copied().zip(topics.iter().map(|topic| Arc::clone(&topic.name))).collect(),
            tables: self.keep_tables(processor, spec.tables, partitions)?,
            home: Arc::clone(&self.home),
            transaction_timeout: self.settings.transaction_timeout,
        });
        let source = |number| {
            let member = Arc::new(self.join(&keep, number)?);
            Ok(Box::new(KafkaSource::new(Arc::clone(self), member, number, Arc::clone(&claim))) as Box<dyn Source>)
        };
        (0..count.clamp(1, partitions as usize)).map(source).collect()
    }

    /// One more member of the processor's group.
    pub(crate) fn join(&self, keep: &Arc<Keep>, number: usize) -> Result<Member> {
        let name = names::member(&keep.group, &self.instance, number);
        let millis = |time: Duration| time.as_millis().to_string();
        let mut config = self.home.cluster.config().clone();
        config.set("group.id", &keep.group).set("group.instance.id", &name);
        // With several inputs a partition number has to be the business of one member for all of them. Of the library's
        // strategies only this one sees to that, and it moves all partitions at once.
        let strategy = if keep.topics.len() > 1 { "range" } else { "cooperative-sticky" };
        config.set("partition.assignment.strategy", strategy);
        config.set("session.timeout.ms", millis(self.settings.session_timeout));
        config.set("heartbeat.interval.ms", millis(self.settings.session_timeout / 4));
        config.set("isolation.level", "read_committed").set("auto.offset.reset", "error").set("check.crcs", "true");
        config.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        config.set("allow.auto.create.topics", "false");
        let consumer = config.create_with_context(Assignments::default());
        let consumer: rdkafka::consumer::BaseConsumer<Assignments> =
            consumer.map_err(|error| failure::error("make a consumer", error))?;
        let names: Vec<&str> = keep.topics.iter().map(|(_, name)| &**name).collect();
        let subscribed = rdkafka::consumer::Consumer::subscribe(&consumer, &names);
        subscribed.map_err(|error| failure::error(format_args!("subscribe to {names:?}"), error))?;

        let mut config = self.home.cluster.config().clone();
        config.set("transactional.id", &name).set("linger.ms", "1");
        config.set("transaction.timeout.ms", millis(self.settings.transaction_timeout));
        Ok(Member::new(Arc::clone(keep), name, consumer, config))
    }
}

impl Engine for KafkaEngine {
    fn handle_id(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    fn open_topic(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.0.open_topic(spec)
    }

    /// The cluster knows how many partitions it has, and no more of what a definition says.
    fn find_topic(&self, name: &str) -> Result<Option<(TopicId, TopicSpec)>> {
        names::check_topic(name)?;
        let Some(partitions) = self.0.home.cluster.partitions(name)? else { return Ok(None) };
        let def = oncelog::TopicDef::<oncelog::Bytes, oncelog::Bytes>::named(name).partitions(partitions);
        Ok(Some((self.0.know(name, partitions)?, def.spec())))
    }

    fn open_table(&self, spec: &TableSpec) -> Result<TableId> {
        let id = self.0.home.local.open_table(spec)?;
        let known = || KnownTable { spec: spec.clone(), processor: None };
        lock(&self.0.tables).entry(id).or_insert_with(known);
        Ok(id)
    }

    fn find_table(&self, name: &str) -> Result<Option<(TableId, TableSpec)>> {
        self.0.home.local.find_table(name)
    }

    fn open_ids(&self, _name: &str, _keep: KeepIds) -> Result<IdTables> {
        Err(not_there("remembered ids"))
    }

    fn begin(&self) -> Result<Box<dyn EngineTx>> {
        Ok(Box::new(KafkaTx::begin(&self.0)?))
    }

    fn begin_lax(&self, _within: Option<Duration>) -> Result<Box<dyn EngineTx>> {
        Err(not_there("producers beside a processor"))
    }

    fn appender(
        &self,
        _topic: TopicId,
        _options: AppenderOptions,
        _within: Option<Duration>,
    ) -> Result<Box<dyn Appender>> {
        Err(not_there("producers beside a processor"))
    }

    fn open_producer(
        &self,
        _producer: &str,
        _topic: TopicId,
        _partition: PartitionId,
        _initial: Sequence,
    ) -> Result<(ProducerEpoch, Sequence)> {
        Err(not_there("stamps"))
    }

    /// What was answered is on the cluster.
    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn sources(&self, spec: &SourceSpec<'_>, count: usize) -> Result<Vec<Box<dyn Source>>> {
        self.0.sources(spec, count)
    }

    fn ends(&self, topic: TopicId) -> Result<Vec<LogOffset>> {
        self.0.ends(topic)
    }

    fn shared_progress(&self, consumer: &str, id: TopicId) -> Result<Option<Vec<LogOffset>>> {
        let topic = self.0.topic(id)?;
        let (cluster, group) = (&self.0.home.cluster, names::group(&self.0.settings.application, consumer));
        let places = (0..topic.partitions).map(|number| (&*topic.name, PartitionId(number)));
        let committed = cluster.committed(&group, places)?;
        let next = |(number, committed): (u32, Option<LogOffset>)| match committed {
            Some(next) => Ok(next),
            None => Ok(cluster.low_and_stable(&topic.name, PartitionId(number))?.0),
        };
        let mut nexts: Vec<LogOffset> = (0..).zip(committed).map(next).collect::<Result<_>>()?;
        // What is processed here is done when the tables here have followed.
        let members = lock(&self.0.members);
        for (number, next) in (0..).zip(&mut nexts) {
            if let Some(member) = members.get(&(consumer.to_owned(), id, PartitionId(number))) {
                *next = member.applied(id, PartitionId(number)).map_or(LogOffset(0), |applied| applied.min(*next));
            }
        }
        Ok(Some(nexts))
    }

    fn now_ms(&self) -> i64 {
        self.0.home.local.now_ms()
    }

    fn next_arrival(&self) -> u64 {
        self.0.home.local.next_arrival()
    }

    fn monotonic(&self) -> Duration {
        self.0.began.elapsed()
    }

    fn pause(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    /// Waits look by themselves, often.
    fn wake(&self) {}
}
