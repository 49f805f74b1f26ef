//! The `oncelog` command: a store at the prompt, and what the library promises shown on the machine of whoever asks.
//!
//! ```text
//! main  parses, runs, answers with an exit code     cli   nouns, verbs, shared arguments   commands/  each of them
//! out   the only way to stdout and stderr           exit  failures and their codes         demo/      `oncelog demo`
//! open  how commands come to a store                json  a record as a line of JSON       time       moments, places
//! ```
//!
//! Invariants: data goes to stdout and everything else to stderr; a failure is one line and one exit code; nobody
//! reading is no failure.

#![allow(
    clippy::disallowed_methods,
    reason = "the lint keeps the library on its simulated disk and clock; a command lives in the real world"
)]

mod cli;
mod commands;
mod demo;
mod exit;
mod json;
mod open;
mod out;
mod time;

use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use cli::{Cli, Command};
use commands::{
    backup, bench, checkpoint, completions, consume, doctor, dump, group, man, produce, producer, repair, stats, table,
    topic, verify,
};
use demo::WorkerArguments;
use exit::Failure;

fn main() -> ExitCode {
    start_log();
    match run() {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => failure.report(),
        Err(error) => refuse(&error),
    }
}

fn run() -> Result<Result<(), Failure>, clap::Error> {
    if std::env::args_os().nth(1).is_some_and(|first| first == cli::WORKER) {
        return WorkerArguments::try_parse_from(std::env::args_os().skip(1)).map(|job| demo::work(&job));
    }
    Cli::try_parse_from(cli::arguments(std::env::args_os())).map(|cli| match cli.command {
        Command::Topic(arguments) => topic::run(arguments),
        Command::Produce(arguments) => produce::run(&arguments),
        Command::Consume(arguments) => consume::run(&arguments),
        Command::Group(arguments) => group::run(arguments),
        Command::Producer(arguments) => producer::run(arguments),
        Command::Table(arguments) => table::run(arguments),
        Command::Checkpoint(arguments) => checkpoint::run(arguments),
        Command::Backup(arguments) => backup::run(arguments),
        Command::Stats(arguments) => stats::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Repair(arguments) => repair::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Segment(arguments) => dump::segment(arguments),
        Command::Journal(arguments) => dump::journal(arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    })
}

/// Help and version are answers; anything else is a wrong call, told in one line.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody reading is no failure.
            let _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(exit::USAGE)
        }
        _ => Failure::usage(&error.render().to_string()).report(),
    }
}

/// What the library tells of its inner life goes to stderr, if `RUST_LOG` names a level: `warn`, `info`, `debug`.
/// Silent otherwise, because what matters comes back as an error and is told once.
fn start_log() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok());
    let level = level.unwrap_or(tracing_subscriber::filter::LevelFilter::OFF);
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).init();
}
