//! `oncelog repair`: what a repair would do, and with `--yes` the repair.

use clap::Args;
use oncelog::{LostOffsets, RepairPlan, Store, StoreOptions, Verification};
use serde::Serialize;

use crate::cli::{OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open;
use crate::out;

/// What `oncelog repair` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog repair\n  oncelog repair --yes --store /data/store\n\n\
                        Without --yes it tells what it would do, and which offsets would be lost, and changes nothing. \
                        With --yes every byte that is cut out is first kept in owners/OWNER/aside. Records before and \
                        behind the damage stay; readers get a typed gap where records are lost, and no offset is given \
                        out again. A damaged journal is kept up to the damage: tables and consumers are then as they \
                        were at that moment. Restore a backup rather, if there is one. No process may have the store \
                        open. Exit codes: 0 sound, 1 something is to be mended (without --yes), 4 something stays \
                        damaged, 5 in use")]
pub(crate) struct RepairArguments {
    /// Do it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Told {
    /// Whether it was done.
    done: bool,
    mends: Vec<Mend>,
    lost: Vec<Offsets>,
    skipped: Vec<Offsets>,
    left: Vec<Left>,
    /// Behind a repair: whether a verification finds everything to be as it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    sound: Option<bool>,
}

#[derive(Serialize)]
struct Mend {
    file: String,
    what: String,
    cut_bytes: u64,
    kept_in: Vec<String>,
}

#[derive(Serialize)]
struct Offsets {
    topic: String,
    partition: u32,
    from: u64,
    to: u64,
}

#[derive(Serialize)]
struct Left {
    file: Option<String>,
    position: Option<u64>,
    what: String,
}

/// Repairs the store, or tells what that would do.
///
/// # Errors
/// There is no store, or a process has it open; something is to be mended, or cannot be.
pub(crate) fn run(arguments: &RepairArguments) -> Result<(), Failure> {
    let dir = &arguments.store.dir;
    let told = if arguments.yes {
        let mut done = RepairPlan::default();
        match StoreOptions::new().repair_into(dir, &mut done) {
            Ok(verification) => Told::of(&done, Some(&verification)),
            Err(error) => {
                // What was lost is told now: the next repair may not find it any more.
                if !(done.is_empty() && done.lost.is_empty()) {
                    out::answer(arguments.output.output, &Told::of(&done, None), Told::text_up_to_an_error)?;
                }
                return Err(not_repaired(dir, error));
            }
        }
    } else {
        Told::of(&Store::plan_repair(dir).map_err(|error| not_repaired(dir, error))?, None)
    };
    out::answer(arguments.output.output, &told, Told::text)?;
    let left = told.left.len();
    if left > 0 || told.sound == Some(false) {
        let what = match left {
            0 => "the store is still damaged: `oncelog verify` tells where".to_owned(),
            1 => "1 thing cannot be mended, and stays as it is".to_owned(),
            left => format!("{left} things cannot be mended, and stay as they are"),
        };
        return Err(Failure::new(exit::CORRUPT, what).hint("restore from a backup"));
    }
    if !told.done && !told.mends.is_empty() {
        let hint = "restore a backup if there is one; else copy the directory away and call again with --yes";
        return Err(Failure::plain("nothing was changed: this is what --yes would do").hint(hint));
    }
    Ok(())
}

fn not_repaired(dir: &std::path::Path, error: oncelog::Error) -> Failure {
    let Some(pid) = error.holder_pid() else { return open::no_store(dir, error) };
    let hint = format!("stop {}: a store that is in use cannot be repaired", exit::process(pid));
    Failure::from(error).hint(hint)
}

impl Told {
    fn of(plan: &RepairPlan, verification: Option<&Verification>) -> Told {
        let mends = plan.mends.iter().map(|mend| Mend {
            file: mend.file.display().to_string(),
            what: mend.what.clone(),
            cut_bytes: mend.cut_bytes,
            kept_in: mend.kept_in.iter().map(|path| path.display().to_string()).collect(),
        });
        let offsets = |lost: &LostOffsets| {
            let (topic, partition) = (lost.topic.clone(), lost.partition.0);
            Offsets { topic, partition, from: lost.offsets.start.0, to: lost.offsets.end.0 }
        };
        let left = plan.left.iter().map(|error| Left {
            file: error.file().map(|file| file.display().to_string()),
            position: error.position(),
            what: error.to_string(),
        });
        Told {
            done: verification.is_some(),
            mends: mends.collect(),
            lost: plan.lost.iter().map(offsets).collect(),
            skipped: plan.skipped.iter().map(offsets).collect(),
            left: left.collect(),
            sound: verification.map(Verification::is_sound),
        }
    }

    fn text(&self) -> String {
        let result = match (self.sound, self.mends.is_empty() && self.left.is_empty()) {
            (Some(true), true) | (None, true) => "nothing to repair",
            (Some(true), false) => "repaired: the store is sound",
            (Some(false), _) => "STILL DAMAGED",
            (None, false) => "nothing was changed",
        };
        self.lines(result)
    }

    fn text_up_to_an_error(&self) -> String {
        self.lines("ENDED EARLY: this was done or begun; keep what it says of lost offsets, and call again")
    }

    fn lines(&self, result: &str) -> String {
        let mut text = String::new();
        let mut line = |word: &str, what: String| text.push_str(&format!("{word:<8} {what}\n"));
        for mend in &self.mends {
            let cut = match (mend.cut_bytes, &mend.kept_in[..]) {
                (0, _) => String::new(),
                (bytes, []) => format!("; {bytes} bytes are cut out and kept"),
                (bytes, kept) => format!("; {bytes} bytes are cut out, and kept in {}", kept.join(", ")),
            };
            line("mend", format!("{}: {}{cut}", mend.file, mend.what));
        }
        for Offsets { topic, partition, from, to } in &self.lost {
            line("lost", format!("topic {topic:?}, partition {partition}: {from}..{to}"));
        }
        for Offsets { topic, partition, from, to } in &self.skipped {
            let why = "may have been given out, are given out no more";
            line("skipped", format!("topic {topic:?}, partition {partition}: {from}..{to} {why}"));
        }
        self.left.iter().for_each(|left| line("left", left.what.clone()));
        line("result", result.to_owned());
        text
    }
}
