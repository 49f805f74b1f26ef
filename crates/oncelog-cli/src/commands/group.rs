//! `oncelog group`: consumers that are remembered, where they stand, and putting them elsewhere.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand};
use oncelog::{ConsumerProgress, LogOffset, PartitionId, StoreReader, Whence};
use serde::Serialize;

use crate::cli::{LockArguments, OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open;
use crate::out;
use crate::time;

/// What `oncelog group` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog group list")]
pub(crate) struct GroupArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the consumers of all owners, with how many records are ahead of each
    List(ListArguments),
    /// Show where a consumer stands in each partition
    Describe(DescribeArguments),
    /// Put a consumer elsewhere, forward or back
    Reset(ResetArguments),
    /// Forget a consumer: it begins anew when it comes again
    Delete(DeleteArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog group list\n  oncelog group list --output json\n\n\
                        LAG counts offsets that are ahead. Some may have no record: after a loss that was told, or a \
                        compaction. What was removed does not count.")]
struct ListArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Which consumer.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true))]
struct Which {
    /// The consumer's id
    #[arg(value_name = "GROUP", group = "which")]
    group: Option<String>,
    /// The global consumer of this topic
    #[arg(long, value_name = "TOPIC", group = "which")]
    global: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog group describe mail\n  oncelog group describe --global orders")]
struct DescribeArguments {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog group reset mail --to oldest --dry-run\n  \
                        oncelog group reset mail --topic orders --partition 2 --to 1500\n  \
                        oncelog group reset mail --to 2026-05-01T12:00Z\n\n\
                        With --dry-run it only shows what would be done, and needs no lock.")]
struct ResetArguments {
    #[command(flatten)]
    which: Which,
    /// The topic, for a consumer that reads several
    #[arg(long, value_name = "TOPIC", conflicts_with = "global")]
    topic: Option<String>,
    /// Only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Where to: oldest, latest, an offset, or a time as in 2026-05-01T12:30Z
    #[arg(long, value_name = "PLACE")]
    to: To,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog group delete mail --yes")]
struct DeleteArguments {
    #[command(flatten)]
    which: Which,
    /// Yes, forget it: there is no way back
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
}

/// Where a consumer is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct To(Whence);

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<To, String> {
        time::parse_place(text).map(To)
    }
}

/// Does what was asked.
///
/// # Errors
/// As told by what was asked.
pub(crate) fn run(arguments: GroupArguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::List(arguments) => list(&arguments),
        Verb::Describe(arguments) => describe(&arguments),
        Verb::Reset(arguments) => reset(&arguments),
        Verb::Delete(arguments) => delete(&arguments),
    }
}

/// The progress of all consumers, with the owners that remember them.
fn progress(reader: &StoreReader) -> Result<Vec<(String, ConsumerProgress)>, Failure> {
    let mut all = Vec::new();
    for owner in reader.owners()? {
        let found = reader.look(&owner.name, oncelog::Store::consumers)?;
        all.extend(found.into_iter().map(|progress| (owner.name.clone(), progress)));
    }
    Ok(all)
}

/// The end, and how many offsets are ahead of it; `None` where its topic is no longer there. What was removed is not
/// ahead of anybody; an offset without a record, after a loss that was told or a compaction, is.
fn lag(reader: &StoreReader, progress: &ConsumerProgress) -> Option<(u64, u64)> {
    let (start, end) = reader.offsets(&progress.topic, progress.partition).ok()?;
    Some((end.0, end.0.saturating_sub(progress.next.max(start).0)))
}

#[derive(Serialize)]
struct Listed {
    /// `None` for the global consumer.
    group: Option<String>,
    topic: String,
    partitions: usize,
    lag: u64,
    owner: String,
}

const GLOBAL: &str = "(global)";

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let mut listed: BTreeMap<(String, String, String), Listed> = BTreeMap::new();
    for (owner, progress) in progress(&reader)? {
        let group = Some(progress.consumer.clone()).filter(|group| !group.is_empty());
        let (_, ahead) = lag(&reader, &progress).unwrap_or_default();
        let key = (progress.consumer, progress.topic.clone(), owner.clone());
        let topic = progress.topic;
        let entry = listed.entry(key).or_insert(Listed { group, topic, partitions: 0, lag: 0, owner });
        entry.partitions += 1;
        entry.lag += ahead;
    }
    let listed: Vec<_> = listed.into_values().collect();
    out::answer(arguments.output.output, &listed, |listed| {
        let row = |entry: &Listed| {
            let group = entry.group.clone().unwrap_or_else(|| GLOBAL.to_owned());
            let numbers = (entry.partitions.to_string(), entry.lag.to_string());
            vec![group, entry.topic.clone(), numbers.0, numbers.1, entry.owner.clone()]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        out::columns(&["GROUP", "TOPIC", "PARTITIONS", "LAG", "OWNER"], &rows)
    })
}

impl Which {
    fn text(&self) -> String {
        match (&self.group, &self.global) {
            (Some(group), _) => format!("consumer {group:?}"),
            (None, global) => format!("the global consumer of topic {:?}", global.as_deref().unwrap_or_default()),
        }
    }

    fn is(&self, progress: &ConsumerProgress) -> bool {
        match (&self.group, &self.global) {
            (Some(group), _) => progress.consumer == *group,
            (None, global) => progress.consumer.is_empty() && Some(&progress.topic) == global.as_ref(),
        }
    }

    /// Where it stands, and which owner remembers it.
    ///
    /// # Errors
    /// There is no such consumer.
    fn find(&self, reader: &StoreReader) -> Result<(String, Vec<ConsumerProgress>), Failure> {
        let found: Vec<_> = progress(reader)?.into_iter().filter(|(_, progress)| self.is(progress)).collect();
        let Some((owner, _)) = found.first() else {
            let what = format!("there is no {}", self.text().trim_start_matches("the "));
            return Err(Failure::new(exit::NOT_FOUND, what).hint("`oncelog group list` shows what there is"));
        };
        Ok((owner.clone(), found.into_iter().map(|(_, progress)| progress).collect()))
    }
}

#[derive(Serialize)]
struct Described {
    topic: String,
    partition: u32,
    next: u64,
    /// `None` where the topic is no longer there.
    end: Option<u64>,
    lag: Option<u64>,
}

fn describe(arguments: &DescribeArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let (_, found) = arguments.which.find(&reader)?;
    let described: Vec<_> = found
        .into_iter()
        .map(|progress| {
            let ahead = lag(&reader, &progress);
            let ConsumerProgress { topic, partition: PartitionId(partition), next: LogOffset(next), .. } = progress;
            Described { topic, partition, next, end: ahead.map(|(end, _)| end), lag: ahead.map(|(_, lag)| lag) }
        })
        .collect();
    out::answer(arguments.output.output, &described, |described| {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let row = |place: &Described| {
            let (partition, next) = (place.partition.to_string(), place.next.to_string());
            vec![place.topic.clone(), partition, next, number(place.end), number(place.lag)]
        };
        let rows: Vec<_> = described.iter().map(row).collect();
        out::columns(&["TOPIC", "PARTITION", "NEXT", "END", "LAG"], &rows)
    })
}

#[derive(Serialize)]
struct Moved {
    topic: String,
    partition: u32,
    from: Option<u64>,
    to: u64,
    done: bool,
}

fn reset(arguments: &ResetArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let (owner, stands) = arguments.which.find(&reader)?;
    let topic = arguments.topic_of(&stands)?;
    let partitions = open::topic_of(&reader, &topic)?.partitions;
    let chosen: Vec<_> = match arguments.partition {
        Some(partition) if partition >= partitions => {
            let what = format!("topic {topic:?} has {partitions} partitions, there is no {partition}");
            return Err(Failure::usage_of(what));
        }
        Some(partition) => vec![PartitionId(partition)],
        None if partitions > 1 && matches!(arguments.to.0, Whence::Position(_)) => {
            let what = format!("topic {topic:?} has {partitions} partitions: say which by --partition");
            return Err(Failure::usage_of(what));
        }
        None => (0..partitions).map(PartitionId).collect(),
    };
    let places = open::places(&reader, &topic, &chosen, arguments.to.0)?;
    if !arguments.dry_run {
        let store = open::owner(&arguments.store, &owner, &arguments.lock)?;
        let consumer = arguments.which.group.as_deref().unwrap_or_default();
        let moved = store.reset_consumer(consumer, &topic, &places);
        let closed = store.close();
        moved?;
        closed?;
    }
    let moved = places.iter().map(|&(partition, to)| {
        let from = stands.iter().find(|stand| stand.topic == topic && stand.partition == partition);
        let from = from.map(|stand| stand.next.0);
        Moved { topic: topic.clone(), partition: partition.0, from, to: to.0, done: !arguments.dry_run }
    });
    let moved: Vec<_> = moved.collect();
    out::answer(arguments.output.output, &moved, |moved| {
        let row = |moved: &Moved| {
            let from = moved.from.map_or_else(|| "-".to_owned(), |from| from.to_string());
            vec![moved.topic.clone(), moved.partition.to_string(), from, moved.to.to_string()]
        };
        let rows: Vec<_> = moved.iter().map(row).collect();
        let note = if arguments.dry_run { "nothing was done, because of --dry-run\n" } else { "" };
        format!("{}{note}", out::columns(&["TOPIC", "PARTITION", "FROM", "TO"], &rows))
    })
}

impl ResetArguments {
    /// The topic that is meant.
    ///
    /// # Errors
    /// It is none that the consumer reads; or it reads several and none is named.
    fn topic_of(&self, stands: &[ConsumerProgress]) -> Result<String, Failure> {
        let mut topics: Vec<&str> = stands.iter().map(|stand| stand.topic.as_str()).collect();
        topics.sort_unstable();
        topics.dedup();
        let who = self.which.text();
        match (&self.topic, topics.as_slice()) {
            (Some(topic), topics) if topics.contains(&topic.as_str()) => Ok(topic.clone()),
            (Some(topic), _) => {
                Err(Failure::new(exit::NOT_FOUND, format_args!("{who} has never read topic {topic:?}")))
            }
            (None, [topic]) => Ok((*topic).to_owned()),
            (None, topics) => {
                Err(Failure::usage_of(format_args!("{who} reads {}: say which by --topic", topics.join(", "))))
            }
        }
    }
}

fn delete(arguments: &DeleteArguments) -> Result<(), Failure> {
    let who = arguments.which.text();
    if !arguments.yes {
        return Err(Failure::new(
            exit::USAGE,
            format_args!("{who} was not forgotten: say --yes, there is no way back"),
        ));
    }
    let reader = open::reader(&arguments.store)?;
    let holder = match (&arguments.which.group, &arguments.which.global) {
        (Some(group), _) => reader.owner_of_consumer(group)?,
        (None, topic) => reader.owner_of_global_consumer(topic.as_deref().unwrap_or_default())?,
    };
    let Some(owner) = holder else {
        let what = format!("there is no {}", who.trim_start_matches("the "));
        return Err(Failure::new(exit::NOT_FOUND, what).hint("`oncelog group list` shows what there is"));
    };
    let store = open::owner(&arguments.store, &owner, &arguments.lock)?;
    let forgotten = match (&arguments.which.group, &arguments.which.global) {
        (Some(group), _) => store.forget_consumer(group),
        (None, topic) => store.forget_global_consumer(topic.as_deref().unwrap_or_default()),
    };
    let closed = store.close();
    forgotten?;
    Ok(closed?)
}
