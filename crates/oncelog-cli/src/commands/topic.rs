//! `oncelog topic`: make, list, look at, change and delete topics.

use clap::{Args, Subcommand, ValueEnum, value_parser};
use oncelog::{Codec as _, Compression, StoreReader, TopicId, TopicSpec};
use serde::Serialize;

use super::compaction::{Compacted, CompactionArguments, Compacts};
use super::keep::{self, KeepArguments, Kept};
use crate::cli::{LockArguments, OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open::{self, MAIN};
use crate::out;

/// What `oncelog topic` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog topic create orders --partitions 4")]
pub(crate) struct TopicArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a topic, and the store if there is none
    Create(CreateArguments),
    /// List the topics of all owners
    List(ListArguments),
    /// Show what a topic is, and its partitions
    Describe(DescribeArguments),
    /// Change how a topic is written from now on, and what it keeps
    Alter(AlterArguments),
    /// Remove records that others of their keys have followed, now: a program that has the store open does it by itself
    Compact(CompactArguments),
    /// Remove the oldest records of a partition
    Truncate(TruncateArguments),
    /// Delete a topic with its records, the progress of its consumers and what is known of its producers
    Delete(DeleteArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog topic create orders\n  \
                        oncelog topic create orders --partitions 4 --compression lz4 --key-codec utf8\n  \
                        oncelog topic create events --max-bytes 1000000000 --max-age 7d\n  \
                        oncelog topic create orders --max-bytes 1000000000 --keep-for billing --keep-for audit\n  \
                        oncelog topic create prices --compact --dirty-ratio 0.3 --tombstones 7d")]
struct CreateArguments {
    /// Name of the topic
    topic: String,
    /// How many partitions it has. Fixed once it exists
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=65_536))]
    partitions: u32,
    /// How its batches are compressed
    #[arg(long, value_enum, value_name = "KIND", default_value_t = Kind::None)]
    compression: Kind,
    /// Bytes at which a segment file is ended and the next begun
    #[arg(long, value_name = "BYTES", default_value_t = 256 << 20, value_parser = value_parser!(u64).range(1024..))]
    roll_bytes: u64,
    #[command(flatten)]
    keep: KeepArguments,
    #[command(flatten)]
    compaction: CompactionArguments,
    /// Codec of the keys, as programs know it: bytes, utf8, u64-be, postcard-1 or a program's own
    #[arg(long, value_name = "CODEC", default_value = oncelog::Bytes::ID)]
    key_codec: String,
    /// Codec of the values
    #[arg(long, value_name = "CODEC", default_value = oncelog::Bytes::ID)]
    value_codec: String,
    /// The owner that writes it, for life; made if there is none
    #[arg(long, value_name = "NAME", default_value = MAIN)]
    owner: String,
    /// Be content if it exists and is the same
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog topic list\n  oncelog topic list --output json\n\n\
                        OFFSETS are those between the starts and ends of its partitions. Some may have no record: \
                        after a loss that was told, or a compaction.")]
struct ListArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog topic describe orders")]
struct DescribeArguments {
    /// Name of the topic
    topic: String,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog topic alter orders --compression lz4\n  \
                        oncelog topic alter orders --max-age 30d --keep-age none\n  \
                        oncelog topic alter prices --compact --roll-bytes 16000000\n  \
                        oncelog topic alter prices --no-compact\n\n\
                        What is written already stays as it is, and is read as before. What is too much or too old by\n\
                        new limits goes when a program next has the store open.")]
struct AlterArguments {
    /// Name of the topic
    topic: String,
    /// How its batches are compressed from now on
    #[arg(long, value_enum, value_name = "KIND")]
    compression: Option<Kind>,
    /// Bytes at which a segment file is ended and the next begun, from now on
    #[arg(long, value_name = "BYTES", value_parser = value_parser!(u64).range(1024..))]
    roll_bytes: Option<u64>,
    #[command(flatten)]
    keep: KeepArguments,
    #[command(flatten)]
    compaction: CompactionArguments,
    /// Compact it no more; what is gone stays gone
    #[arg(long, conflicts_with_all = ["compact", "dirty_ratio", "tombstones", "compact_lag"])]
    no_compact: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog topic compact prices\n\n\
                        The newest segment file of each partition stays as it is, and what the topic has to keep.")]
struct CompactArguments {
    /// Name of the topic
    topic: String,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog topic truncate orders --partition 2 --before 1000 --yes\n\n\
                        Consumers that stand below are told of a gap. Offsets go on as if nothing had happened.")]
struct TruncateArguments {
    /// Name of the topic
    topic: String,
    /// The partition
    #[arg(long, value_name = "N", default_value_t = 0)]
    partition: u32,
    /// The first offset that is kept
    #[arg(long, value_name = "OFFSET")]
    before: u64,
    /// Yes, remove them: there is no way back
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog topic delete orders --yes")]
struct DeleteArguments {
    /// Name of the topic
    topic: String,
    /// Yes, delete it: there is no way back
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
}

/// The ways of compression, by the names that people give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    None,
    Lz4,
    #[cfg(feature = "zstd")]
    Zstd,
}

impl Kind {
    fn compression(self) -> Compression {
        match self {
            Kind::None => Compression::None,
            Kind::Lz4 => Compression::Lz4,
            #[cfg(feature = "zstd")]
            Kind::Zstd => Compression::Zstd,
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// As told by what was asked.
pub(crate) fn run(arguments: TopicArguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Create(arguments) => create(&arguments),
        Verb::List(arguments) => list(&arguments),
        Verb::Describe(arguments) => describe(&arguments),
        Verb::Alter(arguments) => alter(&arguments),
        Verb::Compact(arguments) => compact(&arguments),
        Verb::Truncate(arguments) => truncate(&arguments),
        Verb::Delete(arguments) => delete(&arguments),
    }
}

fn create(arguments: &CreateArguments) -> Result<(), Failure> {
    let spec = TopicSpec {
        name: arguments.topic.clone(),
        partitions: arguments.partitions,
        key_codec: arguments.key_codec.clone(),
        value_codec: arguments.value_codec.clone(),
        file_roll_size: arguments.roll_bytes,
        compression: arguments.compression.compression(),
        retention: arguments.keep.retention(),
        compaction: arguments.compaction.apply(None)?,
    };
    let store = open::owner_or_new(&arguments.store, &arguments.owner, &arguments.lock)?;
    let engine = open::engine(&store);
    if let Some((_, found)) = engine.find_topic(&spec.name)? {
        let same = TopicSpec { name: found.name.clone(), ..spec.clone() } == found;
        let name = &spec.name;
        return match (arguments.if_not_exists, same) {
            (true, true) => Ok(store.close()?),
            (true, false) => Err(Failure::plain(format_args!("topic {name:?} exists and differs"))
                .hint(format!("`oncelog topic describe {name}` shows what it is"))),
            (false, _) => Err(Failure::plain(format_args!("topic {name:?} exists already"))
                .hint("take another name, or say --if-not-exists")),
        };
    }
    engine.open_topic(&spec)?;
    drop(engine);
    Ok(store.close()?)
}

#[derive(Serialize)]
struct Listed {
    topic: String,
    id: TopicId,
    owner: String,
    partitions: u32,
    key_codec: String,
    value_codec: String,
    /// Between the first that is kept and the end, over all partitions: some may have no record.
    offsets: u64,
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let listed = topics(&reader)?;
    out::answer(arguments.output.output, &listed, |listed| {
        let row = |topic: &Listed| {
            let (partitions, offsets) = (topic.partitions.to_string(), topic.offsets.to_string());
            let (key, value) = (topic.key_codec.clone(), topic.value_codec.clone());
            vec![topic.topic.clone(), partitions, offsets, key, value, topic.owner.clone()]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        out::columns(&["TOPIC", "PARTITIONS", "OFFSETS", "KEYS", "VALUES", "OWNER"], &rows)
    })
}

fn topics(reader: &StoreReader) -> Result<Vec<Listed>, Failure> {
    let mut listed = Vec::new();
    for info in reader.topics()? {
        let mut offsets = 0;
        for partition in 0..info.partitions {
            let (start, end) = reader.offsets(&info.name, oncelog::PartitionId(partition))?;
            offsets += end.0 - start.0;
        }
        let oncelog::TopicInfo { name: topic, id, partitions, key_codec, value_codec, owner, .. } = info;
        listed.push(Listed { topic, id, owner, partitions, key_codec, value_codec, offsets });
    }
    Ok(listed)
}

#[derive(Serialize)]
struct Described {
    topic: String,
    id: TopicId,
    owner: String,
    key_codec: String,
    value_codec: String,
    compression: &'static str,
    roll_bytes: u64,
    keeps: Kept,
    /// `None`: it is not.
    compaction: Option<Compacts>,
    partitions: Vec<DescribedPartition>,
}

#[derive(Serialize)]
struct DescribedPartition {
    partition: u32,
    start: u64,
    end: u64,
    segments: usize,
    bytes: u64,
    /// Of a compacted topic: bytes of older files that were not compacted yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    dirty_bytes: Option<u64>,
    /// Of a compacted topic: below this offset each key is once.
    #[serde(skip_serializing_if = "Option::is_none")]
    compacted: Option<u64>,
}

fn describe(arguments: &DescribeArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let info = open::topic_of(&reader, &arguments.topic)?;
    let (spec, found) = reader.look(&info.owner, |store| {
        let missing =
            || oncelog::Error::new(oncelog::ErrorKind::NotFound, format!("there is no topic {:?}", info.name));
        let (_, spec) = open::engine(store).find_topic(&info.name)?.ok_or_else(missing)?;
        Ok((spec, store.describe_topic(&info.name)?))
    })?;
    let partitions = found.iter().map(|found| -> DescribedPartition {
        let (partition, start, end) = (found.partition.0, found.start.0, found.end.0);
        let of_compacted = |number| spec.compaction.is_some().then_some(number);
        DescribedPartition {
            partition,
            start,
            end,
            segments: found.segments,
            bytes: found.bytes,
            dirty_bytes: of_compacted(found.dirty_bytes),
            compacted: of_compacted(found.compacted.0),
        }
    });
    let partitions = partitions.collect();
    let described = Described {
        topic: info.name,
        id: info.id,
        owner: info.owner,
        key_codec: spec.key_codec,
        value_codec: spec.value_codec,
        compression: name_of(spec.compression),
        roll_bytes: spec.file_roll_size,
        keeps: Kept::of(&spec.retention),
        compaction: spec.compaction.as_ref().map(Compacts::of),
        partitions,
    };
    out::answer(arguments.output.output, &described, Described::text)
}

impl Described {
    fn text(&self) -> String {
        let Described { topic, id, owner, key_codec, value_codec, compression, roll_bytes, keeps, compaction, .. } =
            self;
        let keeps = keeps.text();
        let compacted = compaction.as_ref().map(|how| format!("compacted    {}\n", how.text())).unwrap_or_default();
        let row = |found: &DescribedPartition| {
            let numbers = [found.partition.into(), found.start, found.end, found.segments as u64, found.bytes];
            numbers
                .into_iter()
                .chain(found.dirty_bytes)
                .chain(found.compacted)
                .map(|number| number.to_string())
                .collect()
        };
        let rows: Vec<Vec<String>> = self.partitions.iter().map(row).collect();
        let columns = ["PARTITION", "START", "END", "SEGMENTS", "BYTES", "DIRTY", "COMPACTED"];
        let columns = if compaction.is_some() { &columns[..] } else { &columns[..5] };
        format!(
            "topic        {topic}\nid           {id}\nowner        {owner}\nkeys         {key_codec}\nvalues       \
             {value_codec}\ncompression  {compression}\nroll bytes   {roll_bytes}\nkeeps        \
             {keeps}\n{compacted}\n{}",
            out::columns(columns, &rows)
        )
    }
}

fn name_of(compression: Compression) -> &'static str {
    match compression {
        Compression::None => "none",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
        _ => "unknown",
    }
}

fn alter(arguments: &AlterArguments) -> Result<(), Failure> {
    let AlterArguments { compaction, no_compact, .. } = arguments;
    let compacts = compaction.is_there() || *no_compact;
    let written = arguments.compression.is_some() || arguments.roll_bytes.is_some();
    keep::something(written || arguments.keep.is_there() || compacts)?;
    let store = open::owner_of_topic(&arguments.store, &arguments.topic, &arguments.lock)?;
    let mut change = oncelog::TopicChange::default();
    if let Some(kind) = arguments.compression {
        change = change.compression(kind.compression());
    }
    if let Some(bytes) = arguments.roll_bytes {
        change = change.file_roll_size(bytes);
    }
    if compacts {
        let now = open::engine(&store).find_topic(&arguments.topic)?.and_then(|(_, spec)| spec.compaction);
        change = change.compaction(if *no_compact { None } else { compaction.apply(now)? });
    }
    store.alter_topic(&arguments.topic, &arguments.keep.change(change))?;
    Ok(store.close()?)
}

fn compact(arguments: &CompactArguments) -> Result<(), Failure> {
    let store = open::owner_of_topic(&arguments.store, &arguments.topic, &arguments.lock)?;
    let compacted = Compacted::of(&arguments.topic, &store.compact(&arguments.topic)?);
    store.close()?;
    out::answer(arguments.output.output, &compacted, Compacted::text)
}

fn truncate(arguments: &TruncateArguments) -> Result<(), Failure> {
    let TruncateArguments { topic, partition, before, yes, store, lock } = arguments;
    if !yes {
        let what = format!("nothing was removed from topic {topic:?}: say --yes, there is no way back");
        return Err(Failure::new(exit::USAGE, what));
    }
    let store = open::owner_of_topic(store, topic, lock)?;
    store.truncate_before(topic, oncelog::PartitionId(*partition), oncelog::LogOffset(*before))?;
    Ok(store.close()?)
}

fn delete(arguments: &DeleteArguments) -> Result<(), Failure> {
    if !arguments.yes {
        let what = format!("topic {:?} was not deleted: say --yes, there is no way back", arguments.topic);
        return Err(Failure::new(exit::USAGE, what));
    }
    let store = open::owner_of_topic(&arguments.store, &arguments.topic, &arguments.lock)?;
    store.delete_topic(&arguments.topic)?;
    Ok(store.close()?)
}
