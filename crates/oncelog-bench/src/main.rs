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
//! Reading order: [`workload`] (what a workload is), [`yardstick`] (the two minimal logs), [`workloads`] (all of them),
//! [`rounds`] (who runs when), [`report`] (the tables).
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock and keeps files of its own")]

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
mod subject_store;
mod workload;
mod workloads;
mod yardstick;

use std::process::ExitCode;

use clap::Parser;
use machine::Machine;
use options::Options;
use scratch::Scratch;

/// What anything here fails with: it goes to whoever started the program, as text.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print::note(&format!("oncelog-bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let chosen: Vec<_> = workloads::all().into_iter().filter(|workload| options.wants(workload.name())).collect();
    if options.list {
        chosen.iter().for_each(|workload| print::line(&format!("{:<18} {}", workload.name(), workload.about())));
        return Ok(());
    }
    if chosen.is_empty() {
        return Err("no workload has such a name; --list shows them".into());
    }
    let scratch = Scratch::make(options.dir.as_deref())?;
    let machine = Machine::look(scratch.path());
    machine.lines().iter().for_each(|line| print::line(line));
    print::line(&options.line());
    let results = rounds::run(&chosen, scratch.path(), options)?;
    for line in report::lines(&results) {
        print::line(&line);
    }
    if let Some(file) = &options.json {
        std::fs::write(file, json::text(&machine, &results))?;
    }
    print::line("verdict: none");
    Ok(())
}
