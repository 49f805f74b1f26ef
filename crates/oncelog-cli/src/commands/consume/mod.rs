//! `oncelog consume`: prints the records of a topic.
//!
//! ```text
//! reading  without a group: beside whoever writes, remembered nowhere     group  as a consumer that is remembered
//! format   what is printed of a record
//! ```
//!
//! Invariant: a group's progress is committed only after what was printed has been taken by whoever reads it.

mod format;
mod group;
mod reading;

use std::str::FromStr;

use clap::Args;
use oncelog::{ErrorKind, PartitionId, Whence};

use crate::cli::{LockArguments, StoreArgument};
use crate::exit::Failure;
use crate::time;
use format::{Format, Kind, Template};

/// What `oncelog consume` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog consume orders\n  oncelog consume orders --from latest --follow\n  \
                        oncelog consume orders --group mail --max 100\n  \
                        oncelog consume orders --from 2026-05-01T12:00Z --format json\n  \
                        oncelog consume orders --template '{partition}:{offset} {key} {value}'\n\n\
                        Without --group or --global nothing is remembered, and no lock is needed: it works beside a \
                        process that writes. With them the place is committed after what was printed was taken, so \
                        after a crash some records may be printed again, and none is left out.")]
#[command(group = clap::ArgGroup::new("who"))]
pub(crate) struct ConsumeArguments {
    /// Name of the topic
    topic: String,
    /// Print each record once for this consumer id, and remember where it stands
    #[arg(long, value_name = "ID", group = "who")]
    group: Option<String>,
    /// Print each record once over all global consumers of the topic
    #[arg(long, group = "who")]
    global: bool,
    /// The owner that remembers a new consumer id [default: main]. One that is known stays with its owner
    #[arg(long, value_name = "NAME", requires = "who")]
    owner: Option<String>,
    /// Where to begin: oldest, latest, an offset, or a time as in 2026-05-01T12:30Z. With --group or --global: only
    /// where it has not begun yet
    #[arg(long, value_name = "PLACE", default_value = "oldest")]
    from: From,
    /// Read only this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// At the end wait for more
    #[arg(long)]
    follow: bool,
    /// End after so many records
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// What is printed: the value's bytes and a newline, a line of JSON, or what --template says
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Kind::Value)]
    #[arg(default_value_if("template", clap::builder::ArgPredicate::IsPresent, "template"))]
    format: Kind,
    /// A line for each record, with {topic}, {partition}, {offset}, {timestamp}, {key}, {value}, {header:NAME}, and
    /// \t, \n, \\, {{, }}
    #[arg(long, value_name = "TEXT")]
    template: Option<Template>,
    /// Go on behind records that are lost, and say so, instead of failing
    #[arg(long)]
    skip_gaps: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    lock: LockArguments,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct From(Whence);

impl FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        time::parse_place(text).map(From)
    }
}

/// Prints the records.
///
/// # Errors
/// The topic is not there, or another process consumes as this group; the store failed.
pub(crate) fn run(arguments: &ConsumeArguments) -> Result<(), Failure> {
    let format = match (arguments.format, &arguments.template) {
        (Kind::Value, None) => Format::Value,
        (Kind::Json, None) => Format::Json,
        (Kind::Template, Some(template)) => Format::Template(template.clone()),
        (Kind::Template, None) => return Err(Failure::usage_of("--format template needs --template TEXT")),
        (_, Some(_)) => return Err(Failure::usage_of("--template prints what it says, not another --format")),
    };
    let is_remembered = arguments.group.is_some() || arguments.global;
    if !is_remembered && (arguments.lock.takeover || arguments.lock.wait > 0) {
        return Err(Failure::usage_of("without --group or --global no lock is needed: no --wait and no --takeover"));
    }
    if is_remembered { group::run(arguments, &format) } else { reading::run(arguments, &format) }
}

/// An error on the way, with what can be done about it here.
fn told(error: oncelog::Error) -> Failure {
    let is_gap = error.kind() == ErrorKind::Gap;
    let failure = Failure::from(error);
    if is_gap { failure.hint("these records are gone; --skip-gaps goes on behind them") } else { failure }
}

impl ConsumeArguments {
    /// The partitions to read, of so many.
    ///
    /// # Errors
    /// There is no such one; or an offset is to be of several.
    fn partitions(&self, count: u32) -> Result<Vec<PartitionId>, Failure> {
        match self.partition {
            Some(partition) if partition >= count => Err(Failure::usage_of(format_args!(
                "topic {:?} has {count} partitions, there is no {partition}",
                self.topic
            ))),
            Some(partition) => Ok(vec![PartitionId(partition)]),
            None if count > 1 && matches!(self.from.0, Whence::Position(_)) => {
                let what = format!("topic {:?} has {count} partitions: say which by --partition", self.topic);
                Err(Failure::usage_of(what))
            }
            None => Ok((0..count).map(PartitionId).collect()),
        }
    }
}
