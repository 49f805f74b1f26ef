//! `oncelog segment dump` and `oncelog journal dump`: what is in the files.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use oncelog::{BatchInfo, FrameInfo, SegmentInfo};
use serde::Serialize;

use crate::cli::{OutputArgument, StoreArgument};
use crate::exit::Failure;
use crate::open::{self, MAIN};
use crate::out;

/// What `oncelog segment` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog segment dump oncelog-data/topics/orders/000000/*.segment")]
pub(crate) struct SegmentArguments {
    #[command(subcommand)]
    verb: SegmentVerb,
}

#[derive(Subcommand, Debug)]
enum SegmentVerb {
    /// Print the head and the batches of segment files, comparing each checksum
    Dump(SegmentDumpArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog segment dump oncelog-data/topics/orders/000000/*.segment\n\n\
                        Batches behind the end that the store knows mean nothing; `oncelog consume` shows those that \
                        count. Bytes behind the last batch that are none are remarked: half written, or left by a \
                        crash. Exit code 4 where a batch is damaged that the store counts on.")]
struct SegmentDumpArguments {
    /// The files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgument,
}

/// What `oncelog journal` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog journal dump")]
pub(crate) struct JournalArguments {
    #[command(subcommand)]
    verb: JournalVerb,
}

#[derive(Subcommand, Debug)]
enum JournalVerb {
    /// Print the frames behind the trim point, which are what an opening would replay
    Dump(JournalDumpArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog journal dump\n  oncelog journal dump --owner billing --output json\n\n\
                        Works beside a process that writes. After an orderly end there is nothing to replay.")]
struct JournalDumpArguments {
    /// Whose journal
    #[arg(long, value_name = "NAME", default_value = MAIN)]
    owner: String,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Segment {
    file: String,
    store: String,
    topic_id: u32,
    partition: u32,
    opening: u64,
    /// Which compaction has written it; 0: none.
    generation: u64,
    base_offset: u64,
    end: u64,
    /// What is behind the end, where it is no batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    behind: Option<String>,
    batches: Vec<Batch>,
}

#[derive(Serialize)]
struct Batch {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<u64>,
    bytes: u64,
    first: u64,
    next: u64,
    records: u32,
    max_timestamp_ms: i64,
}

#[derive(Serialize)]
struct Frame {
    lsn: u64,
    bytes: u64,
    batches: Vec<Batch>,
    rows: Vec<Row>,
    stamps: Vec<Stamp>,
}

#[derive(Serialize)]
struct Row {
    table_id: u32,
    shard: u32,
    key_bytes: usize,
    /// `None`: deleted.
    value_bytes: Option<usize>,
}

#[derive(Serialize)]
struct Stamp {
    producer: String,
    first: u64,
    count: u32,
}

impl Batch {
    fn of(batch: &BatchInfo) -> Batch {
        let BatchInfo { bytes, first, next, records, max_timestamp_ms, .. } = *batch;
        let (first, next) = (first.0, next.0);
        Batch { topic_id: None, partition: None, position: None, bytes, first, next, records, max_timestamp_ms }
    }
}

/// Dumps segments.
///
/// # Errors
/// One is not there, is none, or is damaged.
pub(crate) fn segment(arguments: SegmentArguments) -> Result<(), Failure> {
    let SegmentVerb::Dump(SegmentDumpArguments { files, output }) = arguments.verb;
    let mut segments = Vec::new();
    for file in files {
        if file.exists() && file.extension().is_none_or(|kind| kind != "segment") {
            let what = format!("{} is no segment file: their names end in .segment", file.display());
            return Err(Failure::usage_of(what));
        }
        let info = SegmentInfo::read(&file)?;
        let at = |batch: &BatchInfo| Batch { position: Some(batch.position), ..Batch::of(batch) };
        segments.push(Segment {
            file: file.display().to_string(),
            store: info.store.to_string(),
            topic_id: info.topic.0,
            partition: info.partition.0,
            opening: info.epoch.0,
            generation: info.generation,
            base_offset: info.base_offset.0,
            end: info.end,
            behind: info.behind.clone(),
            batches: info.batches.iter().map(at).collect(),
        });
    }
    out::answer(output.output, &segments, |segments| segments.iter().map(Segment::text).collect())
}

impl Segment {
    fn text(&self) -> String {
        let Segment { file, store, topic_id, partition, opening, generation, base_offset, end, behind, batches } = self;
        let written = if *generation == 0 { String::new() } else { format!("generation   {generation}\n") };
        let behind = behind.as_ref().map_or_else(String::new, |what| format!("behind       means nothing: {what}\n"));
        let row = |batch: &Batch| {
            let position = batch.position.unwrap_or_default().to_string();
            let numbers = [batch.bytes, batch.records.into(), batch.first, batch.next].map(|number| number.to_string());
            std::iter::once(position).chain(numbers).chain([batch.max_timestamp_ms.to_string()]).collect()
        };
        let rows: Vec<Vec<String>> = batches.iter().map(row).collect();
        format!(
            "file         {file}\nstore        {store}\ntopic id     {topic_id}\npartition    {partition}\n\
             opening      {opening}\n{written}base offset  {base_offset}\nend          byte {end}\n{behind}\n{}\n",
            out::columns(&["POSITION", "BYTES", "RECORDS", "FIRST", "NEXT", "MAX TIMESTAMP"], &rows)
        )
    }
}

/// Dumps a journal.
///
/// # Errors
/// There is no such owner, or its journal is damaged.
pub(crate) fn journal(arguments: JournalArguments) -> Result<(), Failure> {
    let JournalVerb::Dump(JournalDumpArguments { owner, store, output }) = arguments.verb;
    let frames: Vec<_> = open::reader(&store)?.frames(&owner)?.iter().map(Frame::of).collect();
    out::answer(output.output, &frames, |frames| {
        let row = |frame: &Frame| {
            let records = frame.batches.iter().map(|batch| u64::from(batch.records)).sum::<u64>();
            let stamps: Vec<_> = frame.stamps.iter().map(|stamp| stamp.producer.as_str()).collect();
            let numbers = [frame.lsn, frame.bytes, frame.batches.len() as u64, records, frame.rows.len() as u64];
            numbers.iter().map(u64::to_string).chain([stamps.join(",")]).collect()
        };
        let rows: Vec<Vec<String>> = frames.iter().map(row).collect();
        out::columns(&["LSN", "BYTES", "BATCHES", "RECORDS", "ROWS", "STAMPS"], &rows)
    })
}

impl Frame {
    fn of(frame: &FrameInfo) -> Frame {
        let batch = |(topic, partition, batch): &(oncelog::TopicId, oncelog::PartitionId, BatchInfo)| Batch {
            topic_id: Some(topic.0),
            partition: Some(partition.0),
            ..Batch::of(batch)
        };
        let rows = frame.rows.iter().map(|(table, shard, key, value)| {
            let (table_id, shard) = (table.0, shard.0);
            Row { table_id, shard, key_bytes: key.len(), value_bytes: *value }
        });
        let stamps = frame.stamps.iter().map(|(producer, first, count)| {
            let (producer, first, count) = (producer.clone(), *first, *count);
            Stamp { producer, first, count }
        });
        Frame {
            lsn: frame.lsn.0,
            bytes: frame.bytes,
            batches: frame.batches.iter().map(batch).collect(),
            rows: rows.collect(),
            stamps: stamps.collect(),
        }
    }
}
