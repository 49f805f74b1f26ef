//! A function over a topic with tables, run exactly once for each record.

use std::marker::PhantomData;
use std::time::Duration;

use super::def::{TableDef, TopicDef};
use super::record::RecordRef;
use super::tx::Tx;
use super::worker::{End, Grouping, Worker};
use crate::codec::Codec;
use crate::consumer::{Outcome, RetryPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::ids;
use crate::table::TableSpec;
use crate::topic::TopicSpec;
use crate::transaction::Engine;
use crate::wake::{Arc, AtomicBool, AtomicU64, Ordering, Thread, spawn};

/// What a processor reads, keeps and writes, and how its work is grouped into commits.
#[must_use]
pub struct Processor<K, V> {
    name: String,
    input: TopicDef<K, V>,
    tables: Vec<TableSpec>,
    outputs: Vec<TopicSpec>,
    grouping: Grouping,
    retry: RetryPolicy,
    gaps: GapPolicy,
}

/// What a processor on its thread does when the records that should come next are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GapPolicy {
    /// Stops with the error of kind `Gap`, and again when started again.
    #[default]
    Stop,
    /// Logs what is lost as a warning, and goes on behind it.
    Skip,
}

impl<K: Codec, V: Codec> Processor<K, V> {
    /// A processor of that name over `input`. The name is its consumer id: its progress is kept under it.
    pub fn new(name: &str, input: TopicDef<K, V>) -> Self {
        let grouping = Grouping { records: 1000, bytes: 1 << 20, interval: Duration::from_millis(10), in_flight: 8 };
        Processor {
            name: name.to_owned(),
            input,
            tables: Vec::new(),
            outputs: Vec::new(),
            grouping,
            retry: RetryPolicy::default(),
            gaps: GapPolicy::default(),
        }
    }

    /// A table of the processor, with a shard for each partition of the input; made at the start.
    pub fn table<TK: Codec, TV: Codec>(mut self, table: TableDef<TK, TV>) -> Self {
        self.tables.push(table.spec(self.input.spec().partitions));
        self
    }

    /// A topic that the processor appends to; made at the start.
    pub fn output<OK: Codec, OV: Codec>(mut self, topic: TopicDef<OK, OV>) -> Self {
        self.outputs.push(topic.spec());
        self
    }

    /// Sets after how many records a commit is made at the latest: 1000 unless set.
    pub fn commit_records(mut self, records: u64) -> Self {
        self.grouping.records = records.max(1);
        self
    }

    /// Sets after how many bytes of effects a commit is made at the latest: 1 MiB unless set.
    pub fn commit_bytes(mut self, bytes: usize) -> Self {
        self.grouping.bytes = bytes;
        self
    }

    /// Sets after what time a commit is made at the latest, while there are records: 10 ms unless set. Looked at
    /// between records.
    pub fn commit_interval(mut self, interval: Duration) -> Self {
        self.grouping.interval = interval;
        self
    }

    /// Sets how many commits may wait for the disk while the next one is being filled: 8 unless set.
    pub fn commits_in_flight(mut self, commits: usize) -> Self {
        self.grouping.in_flight = commits;
        self
    }

    /// Sets when and how often a record is tried again.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// Sets what is done on its thread when records are gone: it stops unless set.
    pub fn on_gap(mut self, gaps: GapPolicy) -> Self {
        self.gaps = gaps;
        self
    }

    /// Makes tables and topics where needed and takes the processor's place in the input, without starting a thread:
    /// the caller drives it by [`ProcessorTask::step`].
    ///
    /// # Errors
    /// `Invalid`: a name or a definition that does not fit what exists; `Locked`: the processor runs already.
    pub fn build<F>(self, engine: Arc<dyn Engine>, process: F) -> Result<ProcessorTask<K, V, F>>
    where
        F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    {
        if let Some(complaint) = ids::name_complaint(&self.name) {
            return Err(Error::invalid(format!("processor {:?}: bad name: {complaint}", self.name)));
        }
        let input = engine.open_topic(&self.input.spec())?;
        for table in &self.tables {
            engine.open_table(table)?;
        }
        for output in &self.outputs {
            engine.open_topic(output)?;
        }
        let worker = Worker::new(engine, &self.name, &[input], self.grouping, self.retry, true)?;
        Ok(ProcessorTask { worker, topic_name: self.input.name().to_owned(), process, codecs: PhantomData })
    }

    /// Starts the processor on a thread of its own.
    ///
    /// # Errors
    /// As [`Processor::build`]; `Unavailable`: no thread to be had.
    pub fn start<F>(self, engine: &(impl AsEngine + ?Sized), process: F) -> Result<ProcessorHandle>
    where
        F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome> + Send + 'static,
    {
        let engine = engine.as_engine();
        let name = format!("oncelog-{}", self.name);
        let gaps = self.gaps;
        let mut task = self.build(Arc::clone(&engine), process)?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let run = move || {
            let stop = || theirs.stop.load(Ordering::SeqCst);
            while !stop() {
                let (done, end) = match task.run(Some(STEP_RECORDS), &stop) {
                    Err(error) if error.kind() == ErrorKind::Gap && gaps == GapPolicy::Skip => {
                        tracing::warn!(%error, "a processor goes on behind records that are lost");
                        task.skip_gap()?;
                        continue;
                    }
                    ran => ran?,
                };
                theirs.processed.fetch_add(done, Ordering::Relaxed);
                theirs.lag.store(task.lag(), Ordering::Relaxed);
                if end == End::Broken {
                    break;
                }
                if done == 0 {
                    task.worker.wait(WAIT_MAX, &stop);
                }
            }
            Ok(())
        };
        let thread = spawn(name, run)
            .map_err(|error| Error::new(ErrorKind::Unavailable, "no thread for the processor").because(error))?;
        Ok(ProcessorHandle { engine, shared, thread: Some(thread) })
    }
}

/// Records between two looks at the stop flag.
const STEP_RECORDS: u64 = 10_000;
/// Woken by appends and by stop; this only bounds the harm of a wake-up that is lost to a bug.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Something that a processor can run on: a store, or another engine.
pub trait AsEngine {
    /// The engine, shared.
    fn as_engine(&self) -> Arc<dyn Engine>;
}

impl AsEngine for Arc<dyn Engine> {
    fn as_engine(&self) -> Arc<dyn Engine> {
        Arc::clone(self)
    }
}

/// A processor that the caller drives.
pub struct ProcessorTask<K, V, F> {
    worker: Worker,
    topic_name: String,
    process: F,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K, V, F> ProcessorTask<K, V, F>
where
    K: Codec,
    V: Codec,
    F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
{
    /// Processes the records that are there, `count_max` at most; all that are counted are durable on return.
    ///
    /// # Errors
    /// Whatever the function fails with (a panic as kind `User`): that record is unprocessed, those before it are
    /// committed. `Gap`, `Corrupt`, `Full`, `InDoubt`, `Closed`.
    pub fn step(&mut self, count_max: Option<u64>) -> Result<u64> {
        self.run(count_max, &|| false).map(|(count, _)| count)
    }

    fn run(&mut self, count_max: Option<u64>, stop: &dyn Fn() -> bool) -> Result<(u64, End)> {
        let (name, process) = (&self.topic_name, &mut self.process);
        self.worker.run(count_max, stop, &mut |topic, partition, view, tx| {
            process(RecordRef::new(view, topic, name, partition), tx)
        })
    }

    /// Goes on behind the records that an error of kind `Gap` said are lost. Durable on return.
    ///
    /// # Errors
    /// `Full`, `InDoubt`, `Closed`.
    pub fn skip_gap(&mut self) -> Result<()> {
        self.worker.skip_gap()
    }

    /// How many records are there and not yet processed.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.worker.lag()
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    processed: AtomicU64,
    lag: AtomicU64,
}

/// A processor that runs on a thread. Dropping the handle stops it as [`ProcessorHandle::stop`] does, telling no error.
pub struct ProcessorHandle {
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    thread: Option<Thread<Result<()>>>,
}

impl ProcessorHandle {
    /// Records processed and durable since the start.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.shared.processed.load(Ordering::Relaxed)
    }

    /// Records that were there and not yet processed when it last looked.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.shared.lag.load(Ordering::Relaxed)
    }

    /// Whether it has ended by itself: with an error, which [`ProcessorHandle::stop`] tells, or by [`Outcome::Break`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(Thread::is_finished)
    }

    /// Ends it after the record at hand, which is taken back if it asks for a retry, and gives what it ended with.
    ///
    /// # Errors
    /// What stopped it, if it had stopped by itself: see [`ProcessorTask::step`].
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.engine.wake();
        match self.thread.take().map(Thread::join) {
            None => Ok(()),
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(Error::new(ErrorKind::Closed, "the processor's thread panicked")),
        }
    }
}

impl Drop for ProcessorHandle {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a processor had stopped");
        }
    }
}
