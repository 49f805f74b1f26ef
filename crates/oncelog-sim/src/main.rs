//! Runs histories from seeds and tells what was violated.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use oncelog_sim::history::{self, Outcome, Plan, exhaust};
use oncelog_sim::lanes::spread;
use oncelog_sim::mutants::{Caught, Mutant};
use oncelog_sim::rot::{self, Specimen, Tally};

#[derive(Parser)]
#[command(version, about = "Simulated crashes of Oncelog, checked against a model")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs histories until there were that many crashes
    Run {
        /// Crashes to survive
        #[arg(long, default_value_t = 100_000)]
        crashes: u64,
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Runs every so many-th history twice, and compares everything that happened
        #[arg(long, default_value_t = 8)]
        repeat: u64,
    },
    /// Tries every crash of every short history
    Exhaust {
        /// So many operations at most, of one of each kind
        #[arg(long, default_value_t = 3)]
        core: usize,
        /// So many operations at most, of any kind
        #[arg(long, default_value_t = 2)]
        all: usize,
    },
    /// Fails every call of histories with everything in them, by every error
    Failures {
        /// So many operations to a history: longer ones meet more of what came before, and take longer
        #[arg(long, default_value_t = 5)]
        length: usize,
        /// Tries every so many-th call, for each error another one
        #[arg(long, default_value_t = 1)]
        stride: u64,
    },
    /// Damages every file of small stores, and asks whether anybody noticed
    Rot {
        /// Tries every so many-th bit and length
        #[arg(long, default_value_t = 10)]
        stride: u64,
    },
    /// Leaves out or moves each sync, and in builds with `--cfg oncelog_mutants` leaves out each check and swaps steps;
    /// asks each time whether anybody noticed
    Mutants {
        /// Crashes after which a mutant counts as having survived
        #[arg(long, default_value_t = 1_000_000)]
        crashes: u64,
        /// Only those whose name has this in it
        #[arg(long)]
        only: Option<String>,
    },
    /// Runs one history again, as a violation named it
    Replay {
        /// Its seed
        seed: u64,
    },
}

/// Crashes in one history: enough to meet the leftovers of earlier ones, few enough to keep the model small.
const HISTORY_CRASHES: u64 = 25;

/// After so many violations a run gives up.
const VIOLATIONS_MAX: u64 = 20;

fn main() -> ExitCode {
    let args = Args::parse();
    // Panics become violations that say how to see them again; what the hook prints would only repeat them.
    if !matches!(args.command, Command::Replay { .. }) {
        std::panic::set_hook(Box::new(|_| {}));
    }
    match args.command {
        Command::Run { crashes, seed, repeat } => run(crashes, seed, repeat),
        Command::Exhaust { core, all } => exhaust(core, all),
        Command::Failures { length, stride } => failures(length, stride),
        Command::Rot { stride } => rot(stride),
        Command::Mutants { crashes, only } => mutants(crashes, only.as_deref()),
        Command::Replay { seed } => replay(seed),
    }
}

fn exhaust(core: usize, all: usize) -> ExitCode {
    conclude(&exhaust::crashes(core, all), "crashes")
}

fn failures(length: usize, stride: u64) -> ExitCode {
    conclude(&exhaust::failures(length, stride), "failed calls")
}

fn conclude(tally: &exhaust::Tally, what: &str) -> ExitCode {
    tally.violations.iter().take(40).for_each(|violation| println!("{violation}"));
    println!("{} came to a state that was known", tally.known);
    println!("checked: {} {what}, {} violations", tally.tried, tally.violations.len());
    if tally.violations.is_empty() && tally.tried > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn rot(stride: u64) -> ExitCode {
    let mut total = Tally::default();
    for (seed, closed) in [(1, true), (2, false)] {
        let specimen = match Specimen::make(seed, closed) {
            Ok(specimen) => specimen,
            Err(error) => {
                println!("no store to damage: {error}");
                return ExitCode::FAILURE;
            }
        };
        let tell = |silent: &str| {
            println!("silent: {silent}");
            ControlFlow::Continue(())
        };
        let surveyed = [rot::survey(&specimen, stride, tell), rot::survey_guarded(&specimen, stride, tell)];
        for tally in surveyed {
            total.tried += tally.tried;
            total.silent += tally.silent;
        }
    }
    println!("checked: {} damages, {} violations", total.tried, total.silent);
    if total.silent == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mutants(crashes: u64, only: Option<&str>) -> ExitCode {
    let mut hunted = 0;
    let mut survived = 0;
    let is_wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    for mutant in Mutant::all().into_iter().filter(|mutant| is_wanted(&mutant.to_string())) {
        hunted += 1;
        match mutant.hunt(crashes) {
            Some(Caught { by, after, what }) => {
                println!("{mutant}: caught by {by} after {after}: {}", what.lines().next().unwrap_or_default());
            }
            None => {
                survived += 1;
                println!("{mutant}: SURVIVED");
            }
        }
    }
    println!("checked: {hunted} mutants, {survived} survived");
    if survived == 0 && hunted > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(seed: u64) -> Plan {
    Plan { seed, crashes: HISTORY_CRASHES, slip: None }
}

/// Runs one history, and a second time to see that its seed decides everything.
fn run_seed(seed: u64, is_repeated: bool) -> Result<Outcome, String> {
    let outcome = history::run(plan(seed)).map_err(|violation| violation.to_string())?;
    if is_repeated && history::run(plan(seed)) != Ok(outcome) {
        return Err(format!("seed {seed}: another trace the second time"));
    }
    Ok(outcome)
}

fn run(crashes: u64, first: u64, repeat: u64) -> ExitCode {
    let mut total = Outcome::default();
    let (mut histories, mut repeated, mut violations) = (0, 0, 0);
    let seeds = (first..).map(|seed| (seed, (seed - first).is_multiple_of(repeat.max(1))));
    let work = |(seed, is_repeated)| (is_repeated, run_seed(seed, is_repeated));
    spread(seeds, work, |(is_repeated, ran)| {
        histories += 1;
        repeated += u64::from(is_repeated);
        match ran {
            Ok(outcome) => {
                total.crashes += outcome.crashes;
                total.in_recovery += outcome.in_recovery;
                total.certain += outcome.certain;
                total.ops += outcome.ops;
            }
            Err(violation) => {
                println!("{violation}");
                violations += 1;
                total.crashes += 1;
            }
        }
        if violations == VIOLATIONS_MAX {
            println!("giving up after {violations} violations");
        }
        if total.crashes >= crashes || violations == VIOLATIONS_MAX {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let Outcome { crashes, in_recovery, certain, ops, .. } = total;
    println!("{histories} histories, {repeated} of them twice, {ops} operations, {certain} durable answers");
    println!("{in_recovery} crashes during recovery");
    println!("checked: {crashes} crashes, {violations} violations");
    if violations == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64) -> ExitCode {
    let _ = tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::TRACE).try_init();
    match history::run(plan(seed)) {
        Ok(outcome) => {
            println!("{outcome:?}");
            ExitCode::SUCCESS
        }
        Err(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
    }
}
