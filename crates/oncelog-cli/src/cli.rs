//! What can be asked of the command: its nouns and verbs, and the arguments that many of them share. The arguments of
//! one command stand in its own file, beside what it does with them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    backup, bench, checkpoint, completions, consume, doctor, dump, group, man, produce, producer, repair, stats, table,
    topic, verify,
};
use crate::demo::DemoArguments;

/// Exactly-once event processing in one Rust program.
#[derive(Parser, Debug)]
#[command(name = "oncelog", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Examples:\n  oncelog demo\n  oncelog topic create orders --partitions 4\n  \
                        oncelog produce orders lines.txt\n  oncelog consume orders --follow\n\n\
                        The store is named with --store DIR or by the variable ONCELOG_STORE, else it is \
                        ./oncelog-data.\n\n\
                        Exit codes: 0 done, 1 failed, 2 wrong call, 3 not found, \
                        4 damaged or of a newer version, 5 in use by another process")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the command can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Topics: make, list, look at, change, delete
    Topic(topic::TopicArguments),
    /// Append the lines of a file or of the standard input to a topic
    Produce(produce::ProduceArguments),
    /// Print the records of a topic
    Consume(consume::ConsumeArguments),
    /// Consumers that are remembered: where they stand, how far behind they are
    Group(group::GroupArguments),
    /// Producers with stamps: what is stored of each
    Producer(producer::ProducerArguments),
    /// Tables: list, look up, scan
    Table(table::TableArguments),
    /// Checkpoints of streams: list, look at, make, go back, prune
    Checkpoint(checkpoint::CheckpointArguments),
    /// Backups of a whole store: make, list, restore, verify, prune
    Backup(backup::BackupArguments),
    /// What there is in a store, in numbers
    Stats(stats::StatsArguments),
    /// Check every checksum and every invariant of a store
    Verify(verify::VerifyArguments),
    /// Make a damaged store one that can be opened, with all that is good in it
    Repair(repair::RepairArguments),
    /// Whether this place and this machine can keep a store
    Doctor(doctor::DoctorArguments),
    /// How fast this disk is, and what Oncelog makes of it
    Bench(bench::BenchArguments),
    /// Segment files: what is in them
    Segment(dump::SegmentArguments),
    /// Journals: what an opening would replay
    Journal(dump::JournalArguments),
    /// Count a stream of events while the counting process is killed again and again, and check the result
    ///
    /// A worker process loads the events into a store and keeps totals per customer, with an alert for each customer
    /// whose total passes a limit. It is killed without warning, also while it recovers from the kill before, and
    /// started again. At the end totals, alerts and records are compared with a plain recount of the input: nothing may
    /// be missing, nothing may be counted twice. Without options it takes some seconds and 400 MB of disk.
    Demo(DemoArguments),
    /// Print what a shell needs to complete this command's arguments
    Completions(completions::CompletionsArguments),
    /// Write the manual pages. For packagers: `cargo xtask man` calls it
    #[command(hide = true)]
    Man(man::ManArguments),
}

/// The first argument by which the demo calls its worker. No command for people: neither help nor tips name it.
pub(crate) const WORKER: &str = "demo-worker";

/// Which store.
#[derive(Args, Debug)]
pub(crate) struct StoreArgument {
    /// Directory of the store
    #[arg(long = "store", value_name = "DIR", env = "ONCELOG_STORE", default_value = "./oncelog-data")]
    #[arg(hide_env_values = true)]
    pub(crate) dir: PathBuf,
}

/// How the answer is written.
#[derive(Args, Debug)]
pub(crate) struct OutputArgument {
    /// How the answer is written: for people, or as one JSON document
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Text)]
    pub(crate) output: Output,
}

/// See [`OutputArgument`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns
    Text,
    /// One JSON document
    Json,
}

/// What to do while another process has what this command needs.
#[derive(Args, Debug)]
pub(crate) struct LockArguments {
    /// Wait so long for another process that has the store, instead of failing at once
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) wait: u64,
    /// Kill the process that has the store, running or stopped, and recover what it left
    #[arg(long)]
    pub(crate) takeover: bool,
}

/// The arguments as they are parsed: what names the store or the output may also stand before the command, where many
/// look for it, and is moved to the end. There the command takes it or, having no use for it, says so.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.into_iter().collect();
    let mut moved = Vec::new();
    while let Some(first) = given.get(1).and_then(|first| first.to_str()) {
        let count = match first {
            "--store" | "--output" if given.len() > 3 => 2,
            _ if first.starts_with("--store=") || first.starts_with("--output=") => 1,
            _ => break,
        };
        moved.extend(given.drain(1..=count));
    }
    let end = given.iter().position(|argument| argument == "--").unwrap_or(given.len());
    given.splice(end..end, moved);
    given
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_store_may_be_named_first() {
        let moved = |line: &str| {
            let all = arguments(line.split(' ').map(OsString::from));
            all.iter().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(moved("oncelog --store s topic list"), "oncelog topic list --store s");
        assert_eq!(moved("oncelog --output=json --store=s stats"), "oncelog stats --output=json --store=s");
        assert_eq!(moved("oncelog --store s produce t -- -x"), "oncelog produce t --store s -- -x");
        assert_eq!(moved("oncelog --store"), "oncelog --store");
        assert_eq!(moved("oncelog topic list --store s"), "oncelog topic list --store s");
    }

    /// Goes through the whole tree: each command that can be run has an example of itself in its help.
    #[test]
    fn every_command_shows_an_example() {
        fn visit(path: &str, command: &mut clap::Command, seen: &mut usize) {
            let help = command.render_long_help().to_string();
            let example = help.split("Example").nth(1).unwrap_or_else(|| panic!("{path}: no example in\n{help}"));
            assert!(example.contains(path), "{path}: the example is of another command:\n{example}");
            *seen += 1;
            for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
                let path = format!("{path} {}", inner.get_name());
                visit(&path, inner, seen);
            }
        }
        let mut seen = 0;
        visit("oncelog", &mut Cli::command(), &mut seen);
        assert!(seen > 15, "only {seen} commands were looked at");
    }
}
