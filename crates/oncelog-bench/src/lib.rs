//! `oncelog-bench`: our own workloads, beside two yardsticks that do the least a log can do.
//!
//! ```text
//! rounds:   raw  zeroed  oncelog | raw  zeroed  oncelog | ...      one subject at a time, in fresh directories
//! figures:  medians over the rounds, and their ratios               a machine's mood meets all three alike
//! ```
//!
//! Absolute numbers say something about a machine, ratios say something about a program. All three subjects write the
//! same records with as many threads to the same file system and are as durable as each other when they answer. Nothing
//! here judges: goals are printed beside the ratios, and whoever reads decides how quiet the machine was.
//!
//! Some things have no yardstick: how large a store is on the disk, how long it takes to open. They are measured of the
//! store alone, in `alone`, and have a table of their own.
//!
//! The program is all of it; [`short`] is a run of some seconds for `oncelog bench`, on the same workloads.
//!
//! Reading order: `workload` (what a workload is), `yardstick` (the two minimal logs), `workloads` (all of them),
//! `rounds` (who runs when), `alone`, `report` (the tables).
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and keeps files of its own")]

mod alone;
mod child;
mod figures;
mod goals;
mod json;
mod machine;
mod options;
mod print;
mod records;
mod report;
mod rounds;
mod scratch;
pub mod short;
mod subject_store;
mod threads;
mod workload;
mod workloads;
mod yardstick;

use std::process::ExitCode;

use machine::Machine;
use options::Options;
use scratch::Scratch;

/// What anything here fails with: it goes to whoever started the program, as text.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// The program, with the arguments of its process.
#[must_use]
pub fn main() -> ExitCode {
    let options = Options::of_command_line();
    let ran = match (options.child, &options.dir) {
        (Some(role), Some(dir)) => child::run(role, dir, options.size()),
        (Some(_), None) => Err("a child works in a directory that it is given".into()),
        (None, _) => run(&options),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::note(&format!("oncelog-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.list {
        options::workload_lines(|name| options.wants(name)).iter().for_each(|line| print::line(line));
        return Ok(());
    }
    let chosen: Vec<_> = workloads::all().into_iter().filter(|workload| options.wants(workload.name())).collect();
    let wants_alone = |name| options.wants_alone() && options.wants(name);
    let chosen_alone: Vec<_> = alone::all().into_iter().filter(|alone| wants_alone(alone.name())).collect();
    if chosen.is_empty() && chosen_alone.is_empty() {
        return Err("no workload has such a name; --list shows them".into());
    }
    let scratch = Scratch::make(options.dir.as_deref())?;
    let machine = Machine::look(scratch.path());
    machine.lines().iter().for_each(|line| print::line(line));
    print::line(&options.line());
    let results = rounds::run(&chosen, scratch.path(), options)?;
    let found = alone::run(&chosen_alone, scratch.path(), options)?;
    for line in report::lines(&results, &found) {
        print::line(&line);
    }
    if let Some(file) = &options.json {
        std::fs::write(file, json::text(&machine, &results, &found))?;
    }
    print::line("verdict: none");
    Ok(())
}
