//! Reading everything in order, from the page cache, with checksums compared.
//!
//! Each pass starts at the first record. Timed: the passes; the bytes were written in batches and synced before.
//! Oncelog reads batch by batch as a consumer that remembers nothing; or hands each record to a function of such a
//! consumer; or to that of a processor, which commits its progress once, durably, at the end of a pass: that commit is
//! in its time.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use oncelog::{AsEngine, Bytes, ConsumerStyle, Outcome, Processor, Producer, Store, SyncPolicy, Whence};

use crate::Result;
use crate::figures::{Figures, Timed};
use crate::records::{KEY_BYTES, Records};
use crate::subject_store::{SubjectStore, TOPIC};
use crate::workload::{Size, Subject, Workload};
use crate::yardstick::{FRAME_HEAD_BYTES, LogFile, Scan};

/// Records that are written together.
const BATCH: usize = 1000;

pub(super) struct Reading {
    name: &'static str,
    about: &'static str,
    record_bytes: usize,
    batches: usize,
    passes: usize,
    through: Through,
}

/// How Oncelog reads.
#[derive(Clone, Copy)]
enum Through {
    Batches,
    Function,
    Processor,
}

pub(super) const RECORDS_100: Reading = Reading {
    name: "read-100",
    about: "sequential read, warm, 100 B; oncelog: a NonTx consumer, batch by batch",
    record_bytes: 100,
    batches: 1000,
    passes: 5,
    through: Through::Batches,
};

pub(super) const RECORDS_1K: Reading =
    Reading { name: "read-1k", about: "the same, 1 KiB", record_bytes: 1024, batches: 200, ..RECORDS_100 };

pub(super) const FUNCTION_100: Reading = Reading {
    name: "read-function-100",
    about: "as read-100; oncelog: each record handed to the function of a NonTx consumer",
    through: Through::Function,
    ..RECORDS_100
};

pub(super) const PROCESSOR_100: Reading = Reading {
    name: "read-processor-100",
    about: "as read-100; oncelog: a processor, one durable commit of its progress a pass",
    through: Through::Processor,
    ..RECORDS_100
};

impl Workload for Reading {
    fn name(&self) -> &'static str {
        self.name
    }

    fn unit(&self) -> &'static str {
        "records"
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn run(&self, subject: Subject, dir: &Path, size: Size) -> Result<Figures> {
        let records = Records::of(self.record_bytes);
        let (batches, passes) = (size.pick(self.batches, 4), size.pick(self.passes, 1));
        let expected = Seen::of(&records, batches);
        match subject {
            Subject::Oncelog => {
                let prepare = |store: &Store| fill(store, &records, batches);
                let through = self.through;
                SubjectStore::measure(dir, size, prepare, |subject, _| {
                    times(passes, expected, |pass, seen| match through {
                        Through::Batches => by_batches(&subject.store, seen),
                        Through::Function => by_function(&subject.store, seen),
                        Through::Processor => by_processor(&subject.store, &format!("reader-{pass}"), seen),
                    })
                })
            }
            yardstick => {
                let bytes = batches * BATCH * (FRAME_HEAD_BYTES + self.record_bytes);
                let mut log = LogFile::create(dir, yardstick, bytes)?;
                (0..batches).try_for_each(|_| log.append_batch(records.batch(BATCH)))?;
                log.sync()?;
                let before = log.syncs();
                let timed = times(passes, expected, |_, seen| by_scan(log.path(), seen))?;
                Ok(timed.with_syncs(log.syncs() - before))
            }
        }
    }
}

impl Reading {
    /// The same with other records; of large ones fewer, so that the bytes stay about the same.
    pub(super) fn of(self, record_bytes: usize) -> Reading {
        let batches = (self.batches * self.record_bytes / record_bytes.max(1)).max(4);
        Reading { record_bytes, batches, ..self }
    }
}

/// All passes, each of which must see what is there.
fn times(passes: usize, expected: Seen, mut one: impl FnMut(usize, &mut Seen) -> Result<Duration>) -> Result<Timed> {
    let mut elapsed = Duration::ZERO;
    for pass in 0..passes {
        let mut seen = Seen::default();
        elapsed += one(pass, &mut seen)?;
        if seen != expected {
            return Err(format!("read {seen:?} instead of {expected:?}").into());
        }
    }
    Ok(Timed { count: passes as u64 * expected.records, elapsed, latency: None })
}

fn fill(store: &Store, records: &Records, batches: usize) -> Result<Producer<Bytes, Bytes>> {
    let producer = store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
    for _ in 0..batches {
        producer.append_batch(records.batch(BATCH))?;
    }
    store.trim()?;
    Ok(producer)
}

fn by_scan(path: &Path, seen: &mut Seen) -> Result<Duration> {
    let mut scan = Scan::open(path)?;
    let start = Instant::now();
    while let Some(payload) = scan.next()? {
        let (key, value) = payload.split_at_checked(KEY_BYTES).ok_or("a record is too short")?;
        seen.add(key, value);
    }
    Ok(start.elapsed())
}

/// What a pass has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    records: u64,
    key_bytes: u64,
    value_bytes: u64,
}

impl Seen {
    fn of(records: &Records, batches: usize) -> Seen {
        let count = (batches * BATCH) as u64;
        let key_bytes = KEY_BYTES as u64;
        let value_bytes = records.record_bytes() as u64 - key_bytes;
        Seen { records: count, key_bytes: count * key_bytes, value_bytes: count * value_bytes }
    }

    #[inline]
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.records += 1;
        self.key_bytes += black_box(key).len() as u64;
        self.value_bytes += black_box(value).len() as u64;
    }
}

fn by_batches(store: &Store, seen: &mut Seen) -> Result<Duration> {
    let mut consumer = store.consumer(TOPIC, ConsumerStyle::NonTx(Whence::Oldest))?;
    let start = Instant::now();
    while let Some(batch) = consumer.next_batch()? {
        for record in batch {
            let record = record?;
            seen.add(record.key()?, record.value()?);
        }
    }
    Ok(start.elapsed())
}

fn by_function(store: &Store, seen: &mut Seen) -> Result<Duration> {
    let mut consumer = store.consumer(TOPIC, ConsumerStyle::NonTx(Whence::Oldest))?;
    let start = Instant::now();
    consumer.try_process(None, |record, _| {
        seen.add(record.key()?, record.value()?);
        Ok(Outcome::Commit)
    })?;
    Ok(start.elapsed())
}

fn by_processor(store: &Store, name: &str, seen: &mut Seen) -> Result<Duration> {
    // One commit for all.
    let processor = Processor::new(name, TOPIC).commit_records(u64::MAX).commit_interval(Duration::from_secs(3600));
    let mut task = processor.build(store.as_engine(), |record, _| {
        seen.add(record.key()?, record.value()?);
        Ok(Outcome::Commit)
    })?;
    let start = Instant::now();
    task.step(None)?;
    Ok(start.elapsed())
}
