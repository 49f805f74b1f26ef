//! Consuming as somebody who is remembered: by a consumer id, or as the topic's global consumer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use oncelog::{Engine, LogOffset, PartitionId, Source, SourceSpec, Store, TopicId};

use super::ConsumeArguments;
use super::format::Format;
use crate::exit::{self, Failure};
use crate::open::{self, MAIN};
use crate::out::{self, Stdout};

/// Records, or bytes of what is printed, that share a commit while there are more.
const COMMIT_RECORDS: u64 = 10_000;
const COMMIT_BYTES: usize = 4 << 20;
/// How long it waits at most before it looks whether anybody still reads what it prints.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Prints the records, and commits how far it has come.
///
/// # Errors
/// The topic is not there; another process has the owner; the store failed, or what was printed could not be written:
/// then the group stands before what was not taken.
pub(super) fn run(arguments: &ConsumeArguments, format: &Format) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let info = open::topic_of(&reader, &arguments.topic)?;
    let partitions = arguments.partitions(info.partitions)?;
    let holder = match &arguments.group {
        Some(id) => reader.owner_of_consumer(id)?,
        None => reader.owner_of_global_consumer(&arguments.topic)?,
    };
    let owner = choose_owner(arguments, holder)?;
    let store = match open::owner(&arguments.store, &owner, &arguments.lock) {
        Err(failure) if failure.is_not_found() => open::owner_or_new(&arguments.store, &owner, &arguments.lock)?,
        opened => opened?,
    };
    let consumed = consume(arguments, format, &store, &partitions);
    let closed = store.close();
    consumed?;
    Ok(closed?)
}

/// A consumer id belongs to one owner for life.
fn choose_owner(arguments: &ConsumeArguments, holder: Option<String>) -> Result<String, Failure> {
    match (holder, &arguments.owner) {
        (Some(holder), Some(asked)) if holder != *asked => {
            let what = format!("this consumer belongs to owner {holder:?}, not {asked:?}");
            Err(Failure::new(exit::USAGE, what).hint("leave --owner out, or take another --group"))
        }
        (Some(holder), _) => Ok(holder),
        (None, asked) => Ok(asked.clone().unwrap_or_else(|| MAIN.to_owned())),
    }
}

fn consume(
    arguments: &ConsumeArguments,
    format: &Format,
    store: &Store,
    partitions: &[PartitionId],
) -> Result<(), Failure> {
    let engine = open::engine(store);
    let (topic, _) = engine
        .find_topic(&arguments.topic)?
        .ok_or_else(|| Failure::new(exit::NOT_FOUND, format_args!("there is no topic {:?}", arguments.topic)))?;
    let consumer = arguments.group.clone().unwrap_or_default();
    let topics = [topic];
    let spec = SourceSpec::new(&topics).consumer(&consumer).partitions(partitions).whence(arguments.from.0);
    let source = engine.sources(&spec, 1)?.pop().ok_or_else(|| Failure::plain("there is nothing to read"))?;
    let out = Stdout::new();
    let mut consuming =
        Consuming { engine, topic, consumer, source, out, passed: BTreeMap::new(), records: 0, bytes: 0 };
    let consumed = consuming.run(arguments, format);
    // Also after a failure of the store: what was printed is passed, if it is taken.
    match consumed {
        Err(Failure::Unread) => Err(Failure::Unread),
        consumed => {
            let committed = consuming.commit();
            consumed.and(committed)
        }
    }
}

/// A consumer at work.
struct Consuming {
    engine: Arc<dyn Engine>,
    topic: TopicId,
    /// Empty for the global one.
    consumer: String,
    source: Box<dyn Source>,
    out: Stdout,
    /// Printed and not committed: the next offset of each partition.
    passed: BTreeMap<PartitionId, LogOffset>,
    records: u64,
    bytes: usize,
}

impl Consuming {
    fn run(&mut self, arguments: &ConsumeArguments, format: &Format) -> Result<(), Failure> {
        let mut left = arguments.max.unwrap_or(u64::MAX);
        while left > 0 {
            let printed = match self.print_batch(&arguments.topic, left, format) {
                Err(failure) if arguments.skip_gaps && self.source.gap().is_some() => {
                    drop(failure);
                    self.skip_gap();
                    continue;
                }
                printed => printed?,
            };
            match printed {
                Some(count) => left -= count,
                None => {
                    self.commit()?;
                    if !arguments.follow {
                        return Ok(());
                    }
                    self.source.wait(WAIT_MAX, &|| false);
                    out::check_read()?;
                }
            }
            if self.records >= COMMIT_RECORDS || self.bytes >= COMMIT_BYTES {
                self.commit()?;
            }
        }
        Ok(())
    }

    /// Prints records that were read together, `left` at most; gives how many, `None` where there are no more.
    fn print_batch(&mut self, topic: &str, left: u64, format: &Format) -> Result<Option<u64>, Failure> {
        let Some(mut records) = self.source.poll_batch().map_err(super::told)? else { return Ok(None) };
        let (partition, behind) = (records.partition, records.next);
        let (mut text, mut count) = (Vec::new(), 0);
        let mut next = records.from;
        while count < left {
            let Some(record) = records.next() else {
                next = behind;
                break;
            };
            let record = record?;
            format.write(topic, partition, &record, &mut text)?;
            next = record.offset.plus(1);
            count += 1;
        }
        self.out.write(&text)?;
        self.passed.insert(partition, next);
        self.records += count;
        self.bytes += text.len();
        Ok(Some(count))
    }

    fn skip_gap(&mut self) {
        if let Some((topic, partition, lost)) = self.source.gap() {
            out::complain(&format!("partition {partition}: lost {}..{}", lost.start, lost.end));
            self.source.seek(topic, partition, lost.end);
            self.passed.insert(partition, lost.end);
        }
    }

    /// First what was printed goes out; then it is durable that it did.
    fn commit(&mut self) -> Result<(), Failure> {
        self.out.flush()?;
        if self.passed.is_empty() {
            return Ok(());
        }
        let mut tx = self.engine.begin()?;
        for (partition, next) in &self.passed {
            tx.progress(&self.consumer, self.topic, *partition, *next)?;
        }
        tx.submit()?.wait()?;
        self.passed.clear();
        (self.records, self.bytes) = (0, 0);
        Ok(())
    }
}
