//! One large store: what it costs on the disk, to append to, to read, to commit in, to open.
//!
//! It is filled in slabs of equal size, in batches of 64 KiB; appends are answered before they are durable, but the
//! background syncs and trims all the time, so over a slab that is in its time. Behind the first slabs and behind the
//! last the same three things are measured: appending a slab, reading the first slabs, committing a row durably.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use oncelog::{Bytes, Consumer, ConsumerStyle, Store, SyncPolicy, TableDef, TopicDef, Whence};

use super::{Alone, Scale, Value};
use crate::Result;
use crate::child::{self, Role};
use crate::figures::{Latency, Spread};
use crate::print;
use crate::records::Records;
use crate::subject_store::{SubjectStore, options, store_dir};
use crate::workload::Size;

pub(super) struct Large;

const TOPIC: TopicDef<Bytes, Bytes> = TopicDef::new("large");
const ROWS: TableDef<Bytes, Bytes> = TableDef::new("rows");
const RECORD_BYTES: usize = 1024;
/// Records of one batch: 64 KiB.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = (RECORD_BYTES * BATCH) as u64;
/// What a child appends before its parent hears that it has begun.
const BEGIN_BATCHES: usize = 16;

impl Alone for Large {
    fn name(&self) -> &'static str {
        "large"
    }

    fn about(&self) -> &'static str {
        "a store of --gigabytes, 1 KiB records in batches of 64 KiB: disk, memory, opening, cost against its first part"
    }

    fn run(&self, dir: &Path, scale: Scale) -> Result<Vec<Value>> {
        let mut values = Vec::new();
        let slabs = Slabs::of(scale);
        let subject = SubjectStore::open(dir, scale.size)?;
        let (small, large) = fill(&subject, slabs, scale)?;
        let payload = slabs.count as f64 * slabs.bytes() as f64;
        let written = subject.written() as f64;
        subject.store.close()?;
        let grown = |what: &'static str, pick: fn(&Costs) -> f64| {
            Value::of(what, [pick(&large) / pick(&small)], "x", "<= 1.1 (at 50 GB)")
        };
        values.push(Value::of("payload", [payload / 1e9], "GB", "-")?);
        values.push(Value::of("append, a slab", [slabs.bytes() as f64 / large.append / 1e6], "MB/s", "-")?);
        values.push(grown("append, large / small", |costs| costs.append)?);
        values.push(grown("read, large / small", |costs| costs.read)?);
        values.push(grown("commit p50, large / small", |costs| costs.commit)?);

        let topics = store_dir(dir).join("topics");
        let at_rest = "<= 1.05";
        values.push(Value::of("disk of the records / payload", [used(&topics)? as f64 / payload], "x", at_rest)?);
        values.push(Value::of("disk of the store / payload", [used(&store_dir(dir))? as f64 / payload], "x", "-")?);
        values.push(Value::of("bytes written / payload", [written / payload], "x", "<= 2.1")?);

        let sync = one_sync(dir, scale)?;
        values.push(Value::of("one sync of 1 KiB written over", sync, "ms", "-")?);
        values.push(Value::of("opening, clean", open_clean(dir, scale)?, "ms", "<= 2")?);
        // Before a writer is killed: what it then has lost is a gap to whoever reads on.
        values.push(Value::of("memory of a process that reads all", [memory(dir, scale)?], "MB", "<= 24")?);
        values.push(Value::of("opening, after kill -9", open_killed(dir, scale)?, "ms", "<= 500")?);
        Ok(values)
    }
}

/// How the store is filled.
#[derive(Clone, Copy)]
struct Slabs {
    count: usize,
    batches: usize,
    /// After so many, and again after all, costs are looked at.
    few: usize,
}

impl Slabs {
    fn of(scale: Scale) -> Slabs {
        let batches = scale.size.pick(1000, 4);
        let slab = batches as u64 * BATCH_BYTES;
        let count = usize::try_from(scale.bytes.div_ceil(slab)).unwrap_or(usize::MAX).max(4);
        // A gigabyte is 15 slabs; of a smaller store, its first half.
        Slabs { count, batches, few: (count / 2).min(15) }
    }

    fn bytes(self) -> u64 {
        self.batches as u64 * BATCH_BYTES
    }
}

/// Seconds: the median slab appended, one record read, one commit.
struct Costs {
    append: f64,
    read: f64,
    commit: f64,
}

/// Fills the store; gives the costs when it was small and when it was full.
fn fill(subject: &SubjectStore, slabs: Slabs, scale: Scale) -> Result<(Costs, Costs)> {
    let records = Records::of(RECORD_BYTES);
    let producer = subject.store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
    let mut times = Vec::with_capacity(slabs.count);
    let mut small = None;
    for slab in 0..slabs.count {
        let start = Instant::now();
        for _ in 0..slabs.batches {
            producer.append_batch(black_box(&records).batch(BATCH))?;
        }
        times.push(start.elapsed().as_secs_f64());
        if slab + 1 == slabs.few {
            // The first is slower: the journal's files are new.
            small = Some(costs(subject, &times[1.min(times.len() - 1)..], slabs, scale)?);
        }
    }
    let last = &times[slabs.count - slabs.few..];
    let large = costs(subject, last, slabs, scale)?;
    Ok((small.ok_or("the store is too small")?, large))
}

fn costs(subject: &SubjectStore, slabs_took: &[f64], slabs: Slabs, scale: Scale) -> Result<Costs> {
    let store = &subject.store;
    store.trim()?;
    let append = Spread::of(slabs_took.iter().copied()).ok_or("no slab")?.median;
    let count = slabs.batches * BATCH;
    let mut reads = Vec::new();
    for _ in 0..scale.rounds + 1 {
        let mut consumer = store.consumer(TOPIC, ConsumerStyle::NonTx(Whence::Oldest))?;
        let start = Instant::now();
        read(&mut consumer, count)?;
        reads.push(start.elapsed().as_secs_f64() / count as f64);
    }
    // The first has warmed up.
    let read = Spread::of(reads.drain(1..)).ok_or("no reads")?.median;
    let mut commits = Vec::new();
    for n in 0..scale.size.pick(500, 10) {
        let start = Instant::now();
        store.transact(|tx| tx.table(ROWS)?.put(&(n as u64).to_le_bytes(), b"row"))?;
        commits.push(start.elapsed());
    }
    let commit = Latency::of(commits).ok_or("no commits")?.p50.as_secs_f64();
    Ok(Costs { append, read, commit })
}

/// Reads `count` records or to the end.
fn read(consumer: &mut Consumer<Bytes, Bytes>, count: usize) -> Result<usize> {
    let mut seen = 0;
    while seen < count {
        let Some(batch) = consumer.next_batch()? else { break };
        for record in batch {
            let record = record?;
            black_box((record.key()?, record.value()?));
            seen += 1;
        }
    }
    Ok(seen)
}

/// Bytes that the file system has given to what is in `dir`.
fn used(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        sum += if meta.is_dir() { used(&entry.path())? } else { given(&meta) };
    }
    Ok(sum)
}

#[cfg(unix)]
fn given(meta: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    meta.blocks() * 512
}

/// Not known here.
#[cfg(not(unix))]
fn given(meta: &fs::Metadata) -> u64 {
    meta.len()
}

/// What the machine needs for the least that an opening must do, in milliseconds.
fn one_sync(dir: &Path, scale: Scale) -> Result<Vec<f64>> {
    let path = dir.join("sync");
    fs::write(&path, [0; 16 << 10])?;
    let mut file = fs::OpenOptions::new().write(true).open(&path)?;
    file.sync_all()?;
    let mut took = Vec::new();
    for round in 0..scale.size.pick(50, 4) {
        let start = Instant::now();
        std::io::Seek::rewind(&mut file)?;
        std::io::Write::write_all(&mut file, &[u8::from(round % 2 == 0); 1024])?;
        file.sync_data()?;
        took.push(milliseconds(start.elapsed()));
    }
    fs::remove_file(path)?;
    Ok(took)
}

fn open_clean(dir: &Path, scale: Scale) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..4 * scale.rounds {
        let start = Instant::now();
        let store = options(scale.size).open(store_dir(dir))?;
        took.push(milliseconds(start.elapsed()));
        if !store.recovery_report().clean {
            return Err("the store was not closed in order".into());
        }
        // A store that is open for a while: the opening before must not be in the time of the next one's syncs.
        std::thread::sleep(Duration::from_millis(20));
        store.close()?;
    }
    Ok(took)
}

fn open_killed(dir: &Path, scale: Scale) -> Result<Vec<f64>> {
    let mut took = Vec::new();
    for _ in 0..scale.rounds {
        let mut writer = child::start(Role::Writer, dir, scale.size)?;
        writer.line()?;
        std::thread::sleep(Duration::from_millis(scale.size.pick(1000, 20) as u64));
        writer.kill()?;
        let start = Instant::now();
        let store = options(scale.size).open(store_dir(dir))?;
        took.push(milliseconds(start.elapsed()));
        if store.recovery_report().clean {
            return Err("the store of a killed process looks closed".into());
        }
        store.close()?;
    }
    Ok(took)
}

/// In a child: appends until it is killed.
pub(crate) fn write_on(dir: &Path, size: Size) -> Result<()> {
    let store = options(size).open(store_dir(dir))?;
    let producer = store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
    let records = Records::of(RECORD_BYTES);
    for batch in 0.. {
        producer.append_batch(records.batch(BATCH))?;
        if batch == BEGIN_BATCHES {
            print::line("begun");
        }
    }
    Ok(())
}

fn memory(dir: &Path, scale: Scale) -> Result<f64> {
    let mut reader = child::start(Role::Reader, dir, scale.size)?;
    let kilobytes: f64 = reader.line()?.parse()?;
    reader.end()?;
    Ok(kilobytes / 1000.0)
}

/// In a child: opens the store, reads all, says how much memory that took at most.
pub(crate) fn read_all(dir: &Path, size: Size) -> Result<()> {
    let store = options(size).open(store_dir(dir))?;
    let mut consumer = store.consumer(TOPIC, ConsumerStyle::NonTx(Whence::Oldest))?;
    let seen = read(&mut consumer, usize::MAX)?;
    let end = end_of(&store)?;
    if seen as u64 != end {
        return Err(format!("read {seen} records of {end}").into());
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|rest| rest.split_whitespace().next());
    print::line(peak.ok_or("the peak of the memory is not known here")?);
    drop(consumer);
    Ok(store.close()?)
}

fn end_of(store: &Store) -> Result<u64> {
    let (start, end) = store.offsets(TOPIC.name(), oncelog::PartitionId(0))?;
    Ok(end.0 - start.0)
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
