//! `oncelog stats`: what there is in a store, in numbers.

use clap::Args;
use serde::Serialize;

use crate::cli::{OutputArgument, StoreArgument};
use crate::exit::Failure;
use crate::open;
use crate::out;

/// What `oncelog stats` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog stats\n  oncelog stats --output json\n\n\
                        `offsets` are those between the starts and ends of partitions. Some may have no record: \
                        after a loss that was told, or a compaction.")]
pub(crate) struct StatsArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Stats {
    store: String,
    dir: String,
    owners: Vec<OwnerStats>,
}

#[derive(Default, Serialize)]
struct OwnerStats {
    owner: String,
    /// The process that has it open.
    pid: Option<u32>,
    /// How often it was opened for writing.
    openings: u64,
    topics: u64,
    partitions: u64,
    /// Between the starts and ends of partitions: some may have no record, after a loss that was told or a compaction.
    offsets: u64,
    /// Of records in segment files, heads included.
    record_bytes: u64,
    segments: u64,
    tables: u64,
    consumers: u64,
    /// What an opening would read of the journal.
    frames_to_replay: u64,
    frames_bytes: u64,
}

/// Tells them.
///
/// # Errors
/// There is no store, or it cannot be read.
pub(crate) fn run(arguments: &StatsArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let mut owners = Vec::new();
    for owner in reader.owners()? {
        let stats = reader.look(&owner.name, count)?;
        owners.push(OwnerStats { owner: owner.name, pid: owner.pid, openings: owner.openings, ..stats });
    }
    let dir = arguments.store.dir.display().to_string();
    let stats = Stats { store: reader.id().to_string(), dir, owners };
    out::answer(arguments.output.output, &stats, Stats::text)
}

fn count(store: &oncelog::Store) -> oncelog::Result<OwnerStats> {
    let report = store.recovery_report();
    let mut stats =
        OwnerStats { frames_to_replay: report.frames, frames_bytes: report.frames_bytes, ..Default::default() };
    for (_, spec) in store.topics()? {
        stats.topics += 1;
        for partition in store.describe_topic(&spec.name)? {
            stats.partitions += 1;
            stats.offsets += partition.end.0 - partition.start.0;
            stats.record_bytes += partition.bytes;
            stats.segments += partition.segments as u64;
        }
    }
    stats.tables = store.tables()?.len() as u64;
    let mut consumers: Vec<_> = store.consumers()?.into_iter().map(|found| found.consumer).collect();
    consumers.dedup();
    stats.consumers = consumers.len() as u64;
    Ok(stats)
}

impl Stats {
    fn text(&self) -> String {
        let mut text = format!("store  {}\nat     {}\n", self.store, self.dir);
        for owner in &self.owners {
            let who = owner.pid.map_or_else(|| "nobody".to_owned(), |pid| format!("process {pid}"));
            let lines = [
                ("open in", who),
                ("openings", owner.openings.to_string()),
                ("topics", owner.topics.to_string()),
                ("partitions", owner.partitions.to_string()),
                ("offsets", owner.offsets.to_string()),
                ("record bytes", owner.record_bytes.to_string()),
                ("segments", owner.segments.to_string()),
                ("tables", owner.tables.to_string()),
                ("consumers", owner.consumers.to_string()),
                ("to replay", format!("{} frames, {} bytes", owner.frames_to_replay, owner.frames_bytes)),
            ];
            text.push_str(&format!("\nowner {}\n", owner.owner));
            lines.iter().for_each(|(name, value)| text.push_str(&format!("  {name:<13}{value}\n")));
        }
        text
    }
}
