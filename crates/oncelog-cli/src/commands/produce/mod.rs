//! `oncelog produce`: appends lines to a topic.
//!
//! ```text
//! input  lines -> records     load  the lines that a named producer has stored     run  batches, in flight, durable
//! ```
//!
//! Invariants: what is answered is durable. A batch never waits for a line that has not come yet: it is handed over
//! before a read could block. With `--producer-id` the mark of how far the load has come is in the commit of the lines.

mod input;
mod load;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, value_parser};
use indicatif::ProgressBar;
use oncelog::{Engine, NewRecord, PartitionId, PendingCommit, Store, TopicDef, TopicId, TopicSpec};
use serde::Serialize;

use crate::cli::{LockArguments, OutputArgument, StoreArgument};
use crate::exit::Failure;
use crate::open::{self, MAIN};
use crate::out;
use input::{Format, Lines, Record, Rules};
use load::Load;

/// What `oncelog produce` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog produce orders lines.txt\n  \
                        tail -f access.log | oncelog produce access --create\n  \
                        oncelog produce orders lines.txt --key-delimiter : --producer-id nightly\n  \
                        oncelog consume orders --format json | oncelog produce copy --create --format json\n\n\
                        A key goes to the partition to which the library's producers send it: by Kafka's hash of the \
                        key as its codec writes it; of a pair the first part alone decides. Of a codec that is a \
                        program's own all of the key decides, as it does unless that program says otherwise: then name \
                        the partition. Records without a key go round.\n\n\
                        With --producer-id a load can be interrupted, or run twice: each line is stored once. Line n \
                        is sequence n; a checksum of the lines that are stored is kept in the table \
                        oncelog-loads-OWNER, and an input whose earlier lines have changed is refused.")]
pub(crate) struct ProduceArguments {
    /// Name of the topic
    topic: String,
    /// File whose lines are records; - is the standard input
    #[arg(default_value = "-", value_name = "FILE")]
    file: PathBuf,
    /// What a line is: a value, or a record as JSON, as `consume --format json` writes it
    #[arg(long, value_enum, default_value_t = Format::Value)]
    format: Format,
    /// What stands between key and value, at its first place in a line; \t is a tab. Without it records have no key
    #[arg(long, value_name = "TEXT", value_parser = input::parse_delimiter)]
    key_delimiter: Option<String>,
    /// The partition that all records go to, instead of that of their key
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Put each record into the partition that its line of JSON names
    #[arg(long, conflicts_with = "partition")]
    keep_partitions: bool,
    /// When records are made durable: always (each batch), os (within 5 s), periodic:MS, bytes:N. At the end all are
    #[arg(long, value_name = "POLICY", default_value = "always")]
    sync: Sync,
    /// Records in one batch, which is one commit, at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = value_parser!(u64).range(1..=1_000_000))]
    batch: u64,
    /// Make the topic, and the store, if they are not there
    #[arg(long)]
    create: bool,
    /// Name under which what was loaded is remembered, so that each line is stored once however often this is run
    #[arg(long, value_name = "NAME")]
    producer_id: Option<String>,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    output: OutputArgument,
}

/// When what was appended survives a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sync {
    Always,
    Os,
    Periodic(Duration),
    Bytes(u64),
}

impl FromStr for Sync {
    type Err = String;

    fn from_str(text: &str) -> Result<Sync, String> {
        let number = |text: &str| text.parse().ok().filter(|number| *number > 0);
        let sync = match text.split_once(':') {
            None if text == "always" => Some(Sync::Always),
            None if text == "os" => Some(Sync::Os),
            Some(("periodic", ms)) => number(ms).map(|ms| Sync::Periodic(Duration::from_millis(ms))),
            Some(("bytes", bytes)) => number(bytes).map(Sync::Bytes),
            _ => None,
        };
        sync.ok_or_else(|| "must be always, os, periodic:MS or bytes:N".to_owned())
    }
}

/// Batches that are on their way to the disk at once.
const IN_FLIGHT_MAX: usize = 16;
/// A batch of more bytes is handed over before it has all its records.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What was done.
#[derive(Serialize)]
struct Produced {
    topic: String,
    /// Records that are appended now.
    records: u64,
    /// Lines that were stored by an earlier run.
    stored_before: u64,
}

/// Appends the lines.
///
/// # Errors
/// The topic is not there, or another process writes it; a line is none; the store or the input failed. What came
/// before a bad line is stored; how many lines are is told.
pub(crate) fn run(arguments: &ProduceArguments) -> Result<(), Failure> {
    if arguments.producer_id.is_some() && arguments.sync != Sync::Always {
        return Err(Failure::usage_of("--producer-id makes each batch durable with its mark: --sync must be always"));
    }
    if arguments.keep_partitions && arguments.format != Format::Json {
        return Err(Failure::usage_of("--keep-partitions needs --format json, which says which partitions"));
    }
    if arguments.key_delimiter.is_some() && arguments.format != Format::Value {
        return Err(Failure::usage_of("--key-delimiter needs --format value; a line of JSON has a key of its own"));
    }
    // Before the store is made: an input that is not there makes nothing.
    let lines = Lines::open(&arguments.file)?;
    let store = open_store(arguments)?;
    let produced = produce(arguments, &store, lines);
    let closed = store.close();
    let produced = produced?;
    closed?;
    out::answer(arguments.output.output, &produced, |produced| match produced.stored_before {
        0 => format!("{} records appended", produced.records),
        before => format!("{} records appended, {before} lines were stored before", produced.records),
    })
}

fn open_store(arguments: &ProduceArguments) -> Result<Store, Failure> {
    match open::owner_of_topic(&arguments.store, &arguments.topic, &arguments.lock) {
        Err(failure) if arguments.create && failure.is_not_found() => {
            open::owner_or_new(&arguments.store, MAIN, &arguments.lock)
        }
        Err(failure) if failure.is_not_found() => Err(failure.hint(format!(
            "`oncelog topic list` shows what there is; --create, or `oncelog topic create {}`, makes one",
            arguments.topic
        ))),
        opened => opened,
    }
}

fn produce(arguments: &ProduceArguments, store: &Store, mut lines: Lines) -> Result<Produced, Failure> {
    let engine = open::engine(store);
    let spec = match engine.find_topic(&arguments.topic)? {
        Some((_, spec)) => spec,
        None => TopicDef::<oncelog::Bytes, oncelog::Bytes>::named(arguments.topic.clone()).spec(),
    };
    let topic = engine.open_topic(&spec)?;
    let rules = Rules::new(arguments.format, arguments.key_delimiter.clone(), &spec);
    let mut load = match &arguments.producer_id {
        Some(name) => Some(Load::resume(&*engine, store.owner(), topic, name, &rules, &mut lines)?),
        None => None,
    };
    let stored_before = load.as_ref().map_or(0, Load::lines);
    let mut to = Appending::new(arguments, &*engine, topic, &spec);
    let bar = lines.bar();
    let fed = feed(&rules, &mut lines, &mut to, &mut load, &bar);
    // Of a bad line too: what came before it was taken.
    let finished = to.finish(load.as_ref());
    bar.finish_and_clear();
    match finished.and(fed) {
        Ok(()) => Ok(Produced { topic: spec.name, records: to.stored, stored_before }),
        Err(failure) if to.is_certain => Err(failure.hint_too(how_to_go_on(stored_before + to.stored, load.is_some()))),
        Err(failure) => Err(failure),
    }
}

/// A line is a record, so their number says where to go on.
fn how_to_go_on(stored: u64, is_load: bool) -> String {
    match stored {
        0 => "nothing is stored".to_owned(),
        stored if is_load => format!("{stored} lines are stored, and the same call goes on behind them"),
        stored => format!("the first {stored} lines are stored: go on behind them"),
    }
}

/// Appends all lines, or those up to the first that is none.
fn feed(
    rules: &Rules,
    lines: &mut Lines,
    to: &mut Appending<'_>,
    load: &mut Option<Load>,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    while let Some(line) = lines.next(rules.line_bytes_max())? {
        let record = rules.record(line.bytes).map_err(|what| line.refuse(what))?;
        to.append(&record).map_err(|failure| line.refuse_if_told(failure))?;
        if let Some(load) = load {
            load.add(line.bytes);
        }
        if to.is_full() || lines.would_wait() {
            to.hand_over(load.as_ref())?;
            bar.set_position(lines.position());
        }
    }
    Ok(())
}

/// Records on their way to the store.
struct Appending<'a> {
    engine: &'a dyn Engine,
    topic: TopicId,
    partitions: u32,
    /// Of the topic: what of a key decides its partition.
    key_codec: String,
    partition: Option<PartitionId>,
    keep_partitions: bool,
    sync: Sync,
    batch: u64,
    /// Bytes handed over since the last sync, under `Sync::Bytes`.
    unsynced: u64,
    open: Option<Open>,
    in_flight: VecDeque<(Box<dyn PendingCommit>, u64)>,
    /// Records that are stored for sure, from the first on; all of them when [`Appending::finish`] is done.
    stored: u64,
    /// Nothing is known to be stored or not beyond them.
    is_certain: bool,
}

/// A batch that grows.
struct Open {
    tx: Box<dyn oncelog::EngineTx>,
    records: u64,
}

impl<'a> Appending<'a> {
    fn new(arguments: &ProduceArguments, engine: &'a dyn Engine, topic: TopicId, spec: &TopicSpec) -> Appending<'a> {
        Appending {
            engine,
            topic,
            partitions: spec.partitions,
            key_codec: spec.key_codec.clone(),
            partition: arguments.partition.map(PartitionId),
            keep_partitions: arguments.keep_partitions,
            sync: arguments.sync,
            batch: arguments.batch,
            unsynced: 0,
            open: None,
            in_flight: VecDeque::new(),
            stored: 0,
            is_certain: true,
        }
    }

    fn append(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let partition = match record.partition.filter(|_| self.keep_partitions) {
            Some(partition) if partition >= self.partitions => {
                let what = format!("it names partition {partition}, and the topic has {}", self.partitions);
                return Err(Failure::plain(what));
            }
            Some(partition) => Some(PartitionId(partition)),
            None => self.partition,
        };
        let headers = record.headers();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let route = key.and_then(|key| oncelog::route_of(&self.key_codec, key));
        let timestamp_ms = record.timestamp_ms;
        let new = NewRecord { key, route: route.as_deref(), value, headers: &headers, timestamp_ms };
        if self.open.is_none() {
            self.open = Some(Open { tx: self.begin()?, records: 0 });
        }
        // A record that is refused leaves the others as they are.
        if let Some(open) = &mut self.open {
            open.tx.append(self.topic, partition, new)?;
            open.records += 1;
        }
        Ok(())
    }

    fn begin(&self) -> oncelog::Result<Box<dyn oncelog::EngineTx>> {
        match self.sync {
            Sync::Always => self.engine.begin(),
            Sync::Os | Sync::Bytes(_) => self.engine.begin_lax(None),
            Sync::Periodic(within) => self.engine.begin_lax(Some(within)),
        }
    }

    fn is_full(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.records >= self.batch || open.tx.bytes() >= BATCH_BYTES_MAX)
    }

    /// Gives the open batch its place, with the mark of the load; waits for the oldest when many are on their way.
    fn hand_over(&mut self, load: Option<&Load>) -> Result<(), Failure> {
        let Some(Open { mut tx, records }) = self.open.take() else { return Ok(()) };
        if let Some(load) = load {
            load.mark(&mut *tx, records)?;
        }
        self.unsynced += tx.bytes() as u64;
        let pending = tx.submit()?;
        pending.hand_over();
        self.in_flight.push_back((pending, records));
        if self.in_flight.len() >= IN_FLIGHT_MAX {
            self.wait_for_oldest()?;
        }
        if let Sync::Bytes(most) = self.sync
            && self.unsynced >= most
        {
            self.flush()?;
            self.unsynced = 0;
        }
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> Result<(), Failure> {
        let Some((oldest, records)) = self.in_flight.pop_front() else { return Ok(()) };
        oldest.wait().inspect_err(|_| self.is_certain = false)?;
        self.stored += records;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.engine.flush().inspect_err(|_| self.is_certain = false)?)
    }

    /// All that was appended is durable when this returns.
    fn finish(&mut self, load: Option<&Load>) -> Result<(), Failure> {
        let handed_over = self.hand_over(load);
        while !self.in_flight.is_empty() {
            self.wait_for_oldest()?;
        }
        self.flush()?;
        handed_over
    }
}
