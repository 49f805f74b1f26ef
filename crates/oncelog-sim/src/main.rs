//! Runs histories from seeds and tells what was violated.
#![allow(clippy::print_stdout, reason = "a program that reports")]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use oncelog::disk::SyncSite;
use oncelog_sim::history::{self, Outcome, Plan, exhaust};
use oncelog_sim::mutants;
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
    },
    /// Tries every crash of every short history, and every failure of every call of one with everything in it
    Exhaust {
        /// Operations in a history at most: 2 or 3
        #[arg(long, default_value_t = 3)]
        operations: usize,
    },
    /// Damages every file of small stores, and asks whether anybody noticed
    Rot {
        /// Tries every so many-th bit and length
        #[arg(long, default_value_t = 10)]
        stride: u64,
    },
    /// Leaves out each sync, and in builds with `--cfg oncelog_mutants` each checksum, and asks whether anybody noticed
    Mutants {
        /// Crashes after which a mutant counts as having survived
        #[arg(long, default_value_t = 1_000_000)]
        crashes: u64,
        /// Only the syncs whose absence a few thousand crashes show
        #[arg(long)]
        quick: bool,
    },
    /// Runs one history again, as a violation named it
    Replay {
        /// Its seed
        seed: u64,
    },
}

/// Crashes in one history: enough to meet the leftovers of earlier ones, few enough to keep the model small.
const HISTORY_CRASHES: u64 = 25;

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command {
        Command::Run { crashes, seed } => run(crashes, seed),
        Command::Exhaust { operations } => exhaust(operations),
        Command::Rot { stride } => rot(stride),
        Command::Mutants { crashes, quick } => mutants(crashes, quick),
        Command::Replay { seed } => replay(seed),
    }
}

fn exhaust(operations: usize) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let (crashes, failures) = (exhaust::crashes(operations), exhaust::failures());
    let violations: Vec<_> = crashes.violations.iter().chain(&failures.violations).collect();
    violations.iter().take(40).for_each(|violation| println!("{violation}"));
    println!("{} crashes of short histories, {} failed calls", crashes.tried, failures.tried);
    println!("checked: {} runs, {} violations", crashes.tried + failures.tried, violations.len());
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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
        let mut tell = |silent: &str| println!("silent: {silent}");
        let surveyed = [rot::survey(&specimen, stride, &mut tell), rot::survey_guarded(&specimen, stride, &mut tell)];
        for tally in surveyed {
            total.tried += tally.tried;
            total.silent += tally.silent;
        }
    }
    println!("checked: {} damages, {} violations", total.tried, total.silent);
    if total.silent == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn mutants(crashes: u64, quick: bool) -> ExitCode {
    std::panic::set_hook(Box::new(|_| {}));
    let mut hunted = 0;
    let mut survived = 0;
    let mut tell = |name: String, caught: Option<(u64, String)>| {
        hunted += 1;
        match caught {
            Some((after, what)) => {
                println!("{name}: caught after {after}: {}", what.lines().next().unwrap_or_default())
            }
            None => {
                survived += 1;
                println!("{name}: SURVIVED");
            }
        }
    };
    for site in SyncSite::ALL.into_iter().filter(|site| !quick || mutants::QUICK.contains(site)) {
        tell(format!("no sync at {site:?}"), mutants::hunt_sync(site, crashes));
    }
    #[cfg(oncelog_mutants)]
    for site in oncelog::CheckSite::ALL.into_iter().filter(|_| !quick) {
        tell(format!("no check at {site:?}"), mutants::hunt_check(site));
    }
    println!("checked: {hunted} mutants, {survived} survived");
    if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plan(seed: u64) -> Plan {
    Plan { seed, crashes: HISTORY_CRASHES, dropped: None }
}

fn run(crashes: u64, first: u64) -> ExitCode {
    // Panics of a history become violations that name its seed; the text of the hook would only repeat them.
    std::panic::set_hook(Box::new(|_| {}));
    let mut total = Outcome::default();
    let mut violations = 0;
    let mut seed = first;
    while total.crashes < crashes {
        match history::run(plan(seed)) {
            Ok(outcome) => {
                // Every history is run twice, to see that a seed decides everything.
                if history::run(plan(seed)) != Ok(outcome) {
                    println!("seed {seed}: another trace the second time");
                    violations += 1;
                }
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
        if violations >= 20 {
            println!("giving up after {violations} violations");
            break;
        }
        seed += 1;
    }
    let Outcome { crashes, in_recovery, certain, ops, .. } = total;
    let histories = seed - first;
    println!(
        "{histories} histories, {ops} operations, {certain} durable answers, {in_recovery} crashes during recovery"
    );
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
