//! A function over topics with tables, run exactly once for each record.
//!
//! ```text
//! Processor --start--> a thread for each share of the partitions: Worker over a Source --+--> ProcessorHandle
//!           --build--> one share of all of them, driven by the caller: ProcessorTask     |
//!                                                                     (see `running`) <--+
//! ```
//!
//! Invariant: a partition number is the business of one thread, for all inputs. So is the shard of a table with that
//! number, and threads do not meet in the processor's own tables.

use std::marker::PhantomData;
use std::time::Duration;

use super::dead_letter::DeadLetterTopic;
use super::def::{TableDef, TopicDef};
use super::group::{AtHand, Grouping};
use super::progress::Progress;
use super::record::RecordRef;
use super::running::{self, ProcessorHandle};
use super::tx::Tx;
use super::worker::{End, InputName, Settings, Worker};
use crate::codec::{Bytes, Codec};
use crate::consumer::{FailurePolicy, GapPolicy, Outcome, RetryPolicy, Rules};
use crate::error::{Error, Result};
use crate::ids::{self, TableId, TopicId};
use crate::table::TableSpec;
use crate::topic::TopicSpec;
use crate::transaction::{Engine, Source, SourceSpec};
use crate::wake::{Arc, Signal, parallelism};

/// What a processor reads, keeps and writes, and how its work is grouped into commits.
///
/// # Several inputs
/// Each further input has a function of its own; all share the processor's tables, and need as many partitions as each
/// other for that. Records of a partition come in order; between partitions, and between inputs, no order is kept.
///
/// ```
/// use oncelog::{Outcome, Processor, RecordRef, Result, Store, TableDef, TopicDef, Tx, U64, Utf8};
///
/// const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(4);
/// const REFUNDS: TopicDef<Utf8, Utf8> = TopicDef::new("refunds").partitions(4);
/// const OPEN: TableDef<Utf8, U64> = TableDef::new("open orders");
/// const PUZZLES: TopicDef<oncelog::Bytes, oncelog::Bytes> = TopicDef::new("puzzles");
///
/// fn order(order: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
///     tx.table(OPEN)?.put(order.key()?, &order.value()?)?;
///     Ok(Outcome::Commit)
/// }
///
/// fn refund(refund: RecordRef<'_, Utf8, Utf8>, tx: &mut Tx<'_>) -> Result<Outcome> {
///     let mut open = tx.table(OPEN)?;
///     if open.get(refund.key()?)?.is_none() {
///         return Ok(Outcome::DeadLetter); // in the commit that passes the record
///     }
///     open.delete(refund.key()?)?;
///     Ok(Outcome::Commit)
/// }
///
/// # fn main() -> Result<()> {
/// let store = Store::in_memory()?;
/// let run = Processor::new("orders", ORDERS)
///     .input(REFUNDS, refund)
///     .table(OPEN)
///     .dead_letter(PUZZLES)
///     .threads(2)
///     .start(&store, order)?;
/// store.producer(ORDERS)?.append("ann", &250)?;
/// store.producer(REFUNDS)?.append("bob", "wrong size")?;
/// assert!(run.wait_caught_up(std::time::Duration::from_secs(60))?);
/// assert_eq!((run.processed(), run.dead_letters()), (2, 1));
/// run.stop()?;
/// # store.close()
/// # }
/// ```
#[must_use]
pub struct Processor<K, V> {
    name: String,
    input: TopicDef<K, V>,
    more: Vec<(TopicSpec, Arc<RawCall>)>,
    tables: Vec<NamedTable>,
    outputs: Vec<TopicSpec>,
    dead_letters: Option<DeadLetterTopic>,
    grouping: Grouping,
    rules: Rules,
    gaps: GapPolicy,
    threads: Option<usize>,
}

/// A table with the number of shards that its definition says, if it does.
struct NamedTable {
    spec: TableSpec,
    shards: Option<u32>,
}

/// The function of a further input, on raw records.
type RawCall = dyn Fn(&AtHand<'_>, &mut Tx<'_>) -> Result<Outcome> + Send + Sync;

impl<K: Codec, V: Codec> Processor<K, V> {
    /// A processor of that name over `input`. The name is its consumer id: its progress is kept under it.
    pub fn new(name: &str, input: TopicDef<K, V>) -> Self {
        let grouping = Grouping { records: 1000, bytes: 1 << 20, interval: Duration::from_millis(10), in_flight: 8 };
        Processor {
            name: name.to_owned(),
            input,
            more: Vec::new(),
            tables: Vec::new(),
            outputs: Vec::new(),
            dead_letters: None,
            grouping,
            rules: Rules::default(),
            gaps: GapPolicy::default(),
            threads: None,
        }
    }

    /// A further input, of any type, with its own function; made at the start.
    pub fn input<IK: Codec, IV: Codec>(
        mut self,
        topic: TopicDef<IK, IV>,
        process: impl Fn(RecordRef<'_, IK, IV>, &mut Tx<'_>) -> Result<Outcome> + Send + Sync + 'static,
    ) -> Self {
        let name = topic.name().to_owned();
        let call = move |hand: &AtHand<'_>, tx: &mut Tx<'_>| {
            process(RecordRef::new(hand.view, hand.topic, &name, hand.partition), tx)
        };
        self.more.push((topic.spec(), Arc::new(call)));
        self
    }

    /// A table of the processor, with a shard for each partition of the input; made at the start. Its keys must belong
    /// to the partition of the record at hand.
    pub fn table<TK: Codec, TV: Codec>(mut self, table: TableDef<TK, TV>) -> Self {
        let partitions = self.input.spec().partitions;
        self.tables.push(NamedTable { spec: table.spec(partitions), shards: table.shard_count() });
        self
    }

    /// A topic that the processor appends to; made at the start.
    pub fn output<OK: Codec, OV: Codec>(mut self, topic: TopicDef<OK, OV>) -> Self {
        self.outputs.push(topic.spec());
        self
    }

    /// The topic that records go to which are given up: after the last attempt, by [`FailurePolicy::DeadLetter`], or
    /// because the function answers [`Outcome::DeadLetter`]. Made at the start. Key, value and headers are those of the
    /// record, byte for byte, with headers behind them that say where it was and why it is here
    /// (`oncelog.dead.topic`, `.partition`, `.offset`, `.timestamp`, `.consumer`, `.attempts`, `.reason`). Its codecs
    /// are [`Bytes`], or those that all inputs have; the key decides the partition, as it does for a producer. Never a
    /// compacted topic (`Invalid` at the start): letters of one key would take each other's place, and one without a
    /// key has none there.
    pub fn dead_letter<DK: Codec, DV: Codec>(mut self, topic: TopicDef<DK, DV>) -> Self {
        self.dead_letters = Some(DeadLetterTopic::of(&topic));
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

    /// Sets how many commits may wait for the disk while the next one is being filled: 8 unless set, for each thread.
    pub fn commits_in_flight(mut self, commits: usize) -> Self {
        self.grouping.in_flight = commits;
        self
    }

    /// Sets on how many threads [`Processor::start`] spreads the partitions, at least one and at most one for each
    /// partition: as many as the machine runs at once unless set.
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Sets when and how often a record is tried again. Attempts are counted in memory: after a restart anew.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.rules.retry = retry;
        self
    }

    /// Sets what becomes of a record whose function panicked: it stops unless set.
    pub fn on_panic(mut self, policy: FailurePolicy) -> Self {
        self.rules.on_panic = policy;
        self
    }

    /// Sets what becomes of a record whose function failed for a reason of its own, or could not decode it (errors of
    /// the kinds `User`, `Invalid`, `NotFound`): it stops unless set. It stops at any other error, since then no record
    /// is to blame.
    pub fn on_error(mut self, policy: FailurePolicy) -> Self {
        self.rules.on_error = policy;
        self
    }

    /// Sets what is done on its threads when records are gone: it stops unless set.
    pub fn on_gap(mut self, gaps: GapPolicy) -> Self {
        self.gaps = gaps;
        self
    }

    /// Makes tables and topics where needed and takes the processor's place in its inputs, without starting a thread:
    /// the caller drives it by [`ProcessorTask::step`]. The function may keep state of its own and borrow: it is called
    /// by the caller's thread alone.
    ///
    /// # Errors
    /// `Invalid`: a name or a definition that does not fit what exists, inputs that cannot share a table; `Locked`: the
    /// processor runs already.
    pub fn build<F>(self, engine: Arc<dyn Engine>, process: F) -> Result<ProcessorTask<K, V, F>>
    where
        F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    {
        let plan = self.prepare(&*engine)?;
        let source = plan.sources(&*engine, 1)?.pop().ok_or_else(Error::closed)?;
        Ok(plan.task(&engine, source, &Arc::default(), process))
    }

    /// Starts the processor on threads of its own, which share the function: what it is to remember belongs in tables.
    ///
    /// # Errors
    /// As [`Processor::build`]; `Unavailable`: no thread to be had.
    pub fn start<F>(self, engine: &(impl AsEngine + ?Sized), process: F) -> Result<ProcessorHandle>
    where
        F: Fn(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome> + Send + Sync + 'static,
    {
        let engine = engine.as_engine();
        let plan = self.prepare(&*engine)?;
        let moved = Arc::default();
        let process = Arc::new(process);
        let task = |source| {
            let process = Arc::clone(&process);
            let process = move |record: RecordRef<'_, K, V>, tx: &mut Tx<'_>| process(record, tx);
            plan.task(&engine, source, &moved, process)
        };
        let sources = plan.sources(&*engine, self.threads.unwrap_or_else(parallelism).max(1))?;
        let tasks: Vec<_> = sources.into_iter().map(task).collect();
        running::start(&self.name, engine, tasks, self.gaps, moved)
    }

    /// Checks everything, then makes what is not there.
    fn prepare(&self, engine: &dyn Engine) -> Result<Prepared> {
        self.check()?;
        let open = |spec: &TopicSpec| {
            let topic = engine.open_input(spec)?;
            Ok(InputName { topic, name: spec.name.clone(), partitions: spec.partitions })
        };
        let inputs: Arc<[InputName]> = self.inputs().iter().map(open).collect::<Result<_>>()?;
        let tables = self.tables.iter().map(|table| self.open_table(engine, table)).collect::<Result<_>>()?;
        for output in &self.outputs {
            engine.open_topic(output)?;
        }
        let dead_letters = self.dead_letters.as_ref().map(|topic| topic.open(engine)).transpose()?;
        let more = inputs.iter().skip(1).zip(&self.more).map(|(input, (_, call))| (input.topic, Arc::clone(call)));
        Ok(Prepared {
            name: self.name.clone(),
            more: more.collect(),
            tables,
            settings: Settings {
                grouping: self.grouping,
                rules: Rules { dead_letters: dead_letters.is_some(), ..self.rules },
                // Told, and skipped by the threads if they are to.
                gaps: GapPolicy::Stop,
                dead_letters,
                sharded: true,
                inputs,
            },
        })
    }

    fn inputs(&self) -> Vec<TopicSpec> {
        std::iter::once(self.input.spec()).chain(self.more.iter().map(|(spec, _)| spec.clone())).collect()
    }

    fn check(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::invalid(format!("processor {:?}: {what}", self.name)));
        if let Some(complaint) = ids::name_complaint(&self.name) {
            return refuse(format!("bad name: {complaint}"));
        }
        let inputs = self.inputs();
        for (at, input) in inputs.iter().enumerate() {
            let TopicSpec { name, partitions, .. } = input;
            if inputs[..at].iter().any(|other| other.name == *name) {
                return refuse(format!("topic {name:?} is named twice as an input"));
            }
            if !self.tables.is_empty() && *partitions != inputs[0].partitions {
                let (first, other) = (&inputs[0].name, inputs[0].partitions);
                return refuse(format!(
                    "inputs that share tables need as many partitions as each other: {first:?} has {other}, {name:?} \
                     has {partitions}"
                ));
            }
        }
        for NamedTable { spec, shards } in &self.tables {
            if let Some(shards) = shards.filter(|shards| *shards != spec.shards) {
                let (name, partitions) = (&spec.name, spec.shards);
                return refuse(format!(
                    "table {name:?} is to have {shards} shards, but needs one for each of the input's {partitions} \
                     partitions"
                ));
            }
        }
        let buries = [self.rules.on_panic, self.rules.on_error].contains(&FailurePolicy::DeadLetter);
        match &self.dead_letters {
            None if buries => refuse("records shall go to a dead-letter topic, and none is named".to_owned()),
            Some(DeadLetterTopic { spec, .. }) => match complaint_of_dead_letters(spec, &inputs) {
                Some(complaint) => refuse(format!("dead-letter topic {:?}: {complaint}", spec.name)),
                None => Ok(()),
            },
            None => Ok(()),
        }
    }

    fn open_table(&self, engine: &dyn Engine, table: &NamedTable) -> Result<TableId> {
        let TableSpec { name, shards: wanted, .. } = &table.spec;
        if let Some((_, TableSpec { shards, .. })) = engine.find_table(name)?
            && shards != *wanted
        {
            return Err(Error::invalid(format!(
                "processor {:?}: table {name:?} has {shards} shards for good, and the input {wanted} partitions. A \
                 table that is touched before its processor is started gets one shard, unless its definition says how \
                 many: TableDef::shards({wanted}). Take another name, or an input of {shards} partitions",
                self.name
            )));
        }
        engine.open_table(&table.spec)
    }
}

/// What is wrong with a dead-letter topic for these inputs.
pub(super) fn complaint_of_dead_letters(topic: &TopicSpec, inputs: &[TopicSpec]) -> Option<&'static str> {
    if inputs.iter().any(|input| input.name == topic.name) {
        return Some("it is an input too, so records would come round for ever");
    }
    if topic.compaction.is_some() {
        return Some("it is compacted by key, so one letter would take the place of another");
    }
    let fits = |codec: &str, of: fn(&TopicSpec) -> &str| codec == Bytes::ID || inputs.iter().all(|i| of(i) == codec);
    let keys_fit = fits(&topic.key_codec, |input| &input.key_codec);
    let values_fit = fits(&topic.value_codec, |input| &input.value_codec);
    (!keys_fit || !values_fit).then_some("its codecs are neither Bytes nor those of all inputs")
}

/// A processor that was checked, and whose topics and tables are there.
struct Prepared {
    name: String,
    more: Arc<[(TopicId, Arc<RawCall>)]>,
    tables: Vec<TableId>,
    settings: Settings,
}

impl Prepared {
    fn sources(&self, engine: &dyn Engine, count: usize) -> Result<Vec<Box<dyn Source>>> {
        let topics: Vec<TopicId> = self.settings.inputs.iter().map(|input| input.topic).collect();
        engine.sources(&SourceSpec::new(&topics).consumer(&self.name).tables(&self.tables), count)
    }

    fn task<K, V, F>(
        &self,
        engine: &Arc<dyn Engine>,
        source: Box<dyn Source>,
        moved: &Arc<Signal>,
        process: F,
    ) -> ProcessorTask<K, V, F> {
        let worker = Worker::new(Arc::clone(engine), source, &self.name, self.settings.clone(), Arc::clone(moved));
        let (inputs, more) = (Arc::clone(&self.settings.inputs), Arc::clone(&self.more));
        ProcessorTask { worker, inputs, more, process, codecs: PhantomData }
    }
}

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
    /// The first is the input of `process`.
    inputs: Arc<[InputName]>,
    more: Arc<[(TopicId, Arc<RawCall>)]>,
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
    /// Whatever the function fails with (a panic as kind `User`), where the policies do not say otherwise: that record
    /// is unprocessed, those before it are committed. `TopicFull`: an output is full; what was not committed is
    /// processed again. `Gap`, `Corrupt`, `Full`, `InDoubt`, `Closed`.
    pub fn step(&mut self, count_max: Option<u64>) -> Result<u64> {
        self.run(count_max, &|| false).map(|(count, _)| count)
    }

    pub(super) fn run(&mut self, count_max: Option<u64>, stop: &dyn Fn() -> bool) -> Result<(u64, End)> {
        let ProcessorTask { worker, inputs, more, process, .. } = self;
        worker.run(count_max, stop, &mut |hand, tx| match inputs.first() {
            Some(first) if first.topic == hand.topic => {
                process(RecordRef::new(hand.view, hand.topic, &first.name, hand.partition), tx)
            }
            _ => match more.iter().find(|(topic, _)| *topic == hand.topic) {
                Some((_, call)) => call(hand, tx),
                None => Err(Error::invalid(format!("topic {} is no input", hand.topic))),
            },
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

    /// How many records went to the dead-letter topic, durably, since it was built.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.worker.progress().dead_letters()
    }

    pub(super) fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        self.worker.wait(limit, enough);
    }

    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(self.worker.progress())
    }

    pub(super) fn inputs(&self) -> Arc<[InputName]> {
        Arc::clone(&self.inputs)
    }
}
