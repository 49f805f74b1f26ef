//! The broker of the tests, a word count to run on it, and eyes from outside: plain clients that know nothing of us.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::disallowed_methods, reason = "the cluster lives by the real clock")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use oncelog::{Outcome, Processor, RecordRef, Result, TableDef, TopicDef, Tx, U64, Utf8};
use oncelog_kafka::{Kafka, KafkaOptions};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

pub(crate) const PARTITIONS: u32 = 4;
/// Longer than anything takes on a machine that builds beside it.
pub(crate) const LONG: Duration = Duration::from_secs(120);

/// Where the broker is; `None`, and said, if there is none.
pub(crate) fn broker() -> Option<String> {
    // Shown when a test fails. Several tests of one process begin with this.
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    if let Ok(servers) = std::env::var("ONCELOG_KAFKA") {
        return Some(servers);
    }
    let why = std::env::var("ONCELOG_KAFKA_ABSENT");
    let why = why.unwrap_or_else(|_| "ONCELOG_KAFKA names no broker; `cargo xtask kafka test` starts one".to_owned());
    let _ = writeln!(std::io::stdout(), "LEFT OUT: {why}");
    None
}

/// A name that no other test has, nor another run on the same broker.
pub(crate) fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
    format!("{name}.{nanos:x}.{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

/// A word count of its own: application, input, output and table.
#[derive(Clone)]
pub(crate) struct WordCount {
    pub(crate) servers: String,
    pub(crate) application: String,
}

impl WordCount {
    pub(crate) fn new(servers: &str) -> WordCount {
        WordCount { servers: servers.to_owned(), application: unique("app") }
    }

    pub(crate) fn words(&self) -> TopicDef<Utf8, U64> {
        TopicDef::named(format!("{}.words", self.application)).partitions(PARTITIONS)
    }

    pub(crate) fn counts(&self) -> TopicDef<Utf8, U64> {
        TopicDef::named(format!("{}.counts", self.application)).partitions(PARTITIONS)
    }

    pub(crate) fn totals(&self) -> TableDef<Utf8, U64> {
        TableDef::named("totals of words").shards(PARTITIONS)
    }

    pub(crate) fn options(&self) -> KafkaOptions {
        Kafka::options(&self.servers).application(&self.application).session_timeout(Duration::from_secs(3))
    }

    pub(crate) fn processor(&self) -> Processor<Utf8, U64> {
        Processor::new("word count", self.words()).table(self.totals()).output(self.counts())
    }

    /// Counts a word, and tells how often it has come.
    pub(crate) fn count(
        &self,
    ) -> impl Fn(RecordRef<'_, Utf8, U64>, &mut Tx<'_>) -> Result<Outcome> + Send + Sync + 'static {
        let (totals, counts) = (self.totals(), self.counts());
        move |word, tx| {
            let total = tx.table(totals.clone())?.update(word.key()?, |total| total.unwrap_or(0) + 1)?;
            tx.append(counts.clone(), word.key()?, &total)?;
            Ok(Outcome::Commit)
        }
    }

    /// Each word has been told 1, 2, 3 ... up to how often it was written, each number once.
    #[track_caller]
    pub(crate) fn assert_told(&self, written: &BTreeMap<String, u64>) {
        let mut told: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (key, value) in read_all(&self.servers, self.counts().name(), PARTITIONS) {
            told.entry(key).or_default().push(u64::from_be_bytes(value.try_into().unwrap()));
        }
        let expected: BTreeMap<String, Vec<u64>> =
            written.iter().map(|(word, count)| (word.clone(), (1..=*count).collect())).collect();
        for (word, expected) in &expected {
            assert_eq!(told.get(word), Some(expected), "{word}");
        }
        assert_eq!(told.len(), expected.len());
    }

    /// The table here holds how often each word was written.
    #[track_caller]
    pub(crate) fn assert_totals(&self, kafka: &Kafka, written: &BTreeMap<String, u64>) {
        let snapshot = kafka.snapshot().unwrap();
        let rows: BTreeMap<String, u64> = snapshot.scan(self.totals(), ..).unwrap().into_iter().collect();
        assert_eq!(&rows, written);
    }
}

/// What a process does that is killed, or stopped for a while, from outside: it counts until it is.
pub(crate) fn be_child() {
    let (Ok(dir), Ok(servers), Ok(application)) =
        (std::env::var("CHILD_DIR"), std::env::var("CHILD_SERVERS"), std::env::var("CHILD_APPLICATION"))
    else {
        return;
    };
    let job = WordCount { servers, application };
    let kafka = job.options().open(dir).unwrap();
    // Small groups, so that there are many commits to be killed in.
    let run = job.processor().threads(2).commit_records(20).start(&kafka, job.count()).unwrap();
    let began = Instant::now();
    while !run.is_finished() && began.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(20));
    }
    run.stop().unwrap();
}

/// A process that does so; the binary has a test `child` that calls [`be_child`].
pub(crate) fn start_child(job: &WordCount, dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["child", "--exact", "--nocapture"]).env("CHILD_DIR", dir);
    child.env("CHILD_SERVERS", &job.servers).env("CHILD_APPLICATION", &job.application);
    child.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

/// Writes words from outside, and knows how often each was.
pub(crate) struct Writer {
    producer: BaseProducer,
    topic: String,
    pub(crate) written: BTreeMap<String, u64>,
    count: u64,
}

/// So many different words.
const WORDS: u64 = 37;

impl Writer {
    pub(crate) fn new(servers: &str, topic: &str) -> Writer {
        Writer {
            producer: config(servers).create().unwrap(),
            topic: topic.to_owned(),
            written: BTreeMap::new(),
            count: 0,
        }
    }

    /// One that writes in transactions.
    pub(crate) fn transactional(servers: &str, topic: &str) -> Writer {
        let producer: BaseProducer = config(servers).set("transactional.id", unique("writer")).create().unwrap();
        producer.init_transactions(LONG).unwrap();
        Writer { producer, topic: topic.to_owned(), written: BTreeMap::new(), count: 0 }
    }

    fn send(&mut self) -> String {
        // Spread, and the same in each run.
        let word = format!("word {}", self.count.wrapping_mul(2_654_435_761) % WORDS);
        self.count += 1;
        let value = self.count.to_be_bytes();
        while let Err((error, _)) =
            self.producer.send(BaseRecord::to(&self.topic).key(word.as_bytes()).payload(value.as_slice()))
        {
            assert!(error.to_string().contains("full"), "{error}");
            self.producer.poll(Duration::from_millis(10));
        }
        word
    }

    /// Writes so many words; they are on the broker on return.
    pub(crate) fn write(&mut self, count: u64) {
        for _ in 0..count {
            let word = self.send();
            *self.written.entry(word).or_default() += 1;
        }
        self.producer.flush(LONG).unwrap();
    }

    pub(crate) fn commit(&mut self, count: u64) {
        self.producer.begin_transaction().unwrap();
        self.write(count);
        self.producer.commit_transaction(LONG).unwrap();
    }

    pub(crate) fn abort(&mut self, count: u64) {
        self.producer.begin_transaction().unwrap();
        for _ in 0..count {
            self.send();
        }
        self.producer.flush(LONG).unwrap();
        self.producer.abort_transaction(LONG).unwrap();
    }
}

fn config(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers).set("partitioner", "murmur2_random").set("linger.ms", "1");
    // Once, also when a broker comes and goes.
    config.set("enable.idempotence", "true");
    config
}

/// Everything that an outsider reads from a topic under `read_committed`: in order within a partition.
pub(crate) fn read_all(servers: &str, topic: &str, partitions: u32) -> Vec<(String, Vec<u8>)> {
    let reader: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", "outside")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap() {
        list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    reader.assign(&list).unwrap();
    let (mut all, mut ends) = (Vec::new(), 0);
    let deadline = Instant::now() + LONG;
    while ends < partitions {
        assert!(Instant::now() < deadline, "the topic cannot be read to its end");
        match reader.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let key = String::from_utf8(message.key().unwrap_or_default().to_vec()).unwrap();
                all.push((key, message.payload().unwrap_or_default().to_vec()));
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ends += 1,
            Some(Err(error)) => panic!("{error}"),
            None => {}
        }
    }
    all
}
