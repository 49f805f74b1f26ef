//! The demo itself: starts workers, kills them, starts them again until one finishes, and has the result checked.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use oncelog::Store;

use super::DemoArguments;
use super::home::Home;
use super::input::Input;
use super::kills::{Fate, Kills};
use super::life::{End, Life};
use super::recount::Recount;
use super::summary::Summary;
use super::verify::{self, Found};
use crate::cli;
use crate::exit::Failure;

/// Input lines in one transaction of the loader, at most.
const TRANSACTION_LINES_MAX: u64 = 500;
/// Transactions that there shall be for each kill, so that a short input is not over before the last one.
const TRANSACTIONS_PER_KILL: u64 = 20;

/// Runs the demo.
///
/// # Errors
/// The result differs from the recount; or the input, the store or the worker failed.
pub(super) fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    let started = Instant::now();
    let input = match &arguments.input {
        Some(path) => Input::log(path)?,
        None => Input::Orders { records: arguments.records, seed: arguments.seed },
    };
    let recount = Recount::of(&input, arguments.repeat, arguments.alert_over)?;
    let home = Home::take(arguments.store.as_deref())?;
    let is_new = home.claim(&describe(&input, arguments, &recount))?;
    let mut show = Show::new(arguments, &input, &recount);
    let run = show.lives(&home.store)?;
    let found = Found::read(&open_again(&home.store)?)?;
    let summary = Summary {
        recount: &recount,
        findings: verify::compare(&recount, &found),
        kills: &show.kills,
        store: &home.store,
        resumed: !is_new,
        loaded: run.loaded,
        working: run.working,
        total: started.elapsed(),
    };
    summary.tell()
}

fn open_again(store: &Path) -> Result<Store, Failure> {
    Store::open(store).map_err(|error| Failure::from(error).while_doing("the check cannot open the store"))
}

/// What the store is a demo of: everything that the result depends on.
fn describe(input: &Input, arguments: &DemoArguments, recount: &Recount) -> String {
    let what = match input {
        Input::Orders { records, seed } => format!("{records} made-up orders of seed {seed}"),
        Input::Log { bytes, .. } => format!("a log of {bytes} bytes with digest {:016x}", recount.digest),
    };
    let times = if arguments.repeat == 1 { String::new() } else { format!(" {} times over", arguments.repeat) };
    format!("{what}{times} with alerts over {}", arguments.alert_over)
}

/// What the lives of all workers came to.
struct Run {
    /// Lines that were loaded in this demo, and not in an earlier one on the same store.
    loaded: u64,
    /// From the start of the first worker to the end of the last.
    working: Duration,
}

/// The demo while workers come and go.
struct Show<'a> {
    arguments: &'a DemoArguments,
    input: &'a Input,
    transaction_lines: u64,
    /// Work in all: each line is loaded, and each record processed.
    total: u64,
    kills: Kills,
    bar: ProgressBar,
}

impl<'a> Show<'a> {
    fn new(arguments: &'a DemoArguments, input: &'a Input, recount: &Recount) -> Show<'a> {
        let by_kills = recount.lines / (TRANSACTIONS_PER_KILL * arguments.kills.max(1));
        let transaction_lines = arguments.transaction_lines.unwrap_or(by_kills.clamp(1, TRANSACTION_LINES_MAX));
        let total = recount.lines + recount.records();
        let kills = Kills::new(arguments.kills, arguments.seed);
        // Drawn on stderr, and only if that is a terminal.
        let bar = ProgressBar::new(recount.records());
        let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} records counted, {elapsed}{msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Show { arguments, input, transaction_lines, total, kills, bar }
    }

    /// Worker after worker, until one finishes.
    fn lives(&mut self, store: &Path) -> Result<Run, Failure> {
        let started = Instant::now();
        let (mut loaded_before, mut loaded) = (None, 0);
        let mut work_done = 0;
        let mut shortest_opening: Option<Duration> = None;
        let mut after_kill = false;
        loop {
            let fate = self.kills.next(self.total - work_done, self.total, shortest_opening);
            let mut life = Life::start(&mut self.worker(store)?)?;
            let end = life.follow(fate, |seen| {
                self.bar.set_position(seen.processed.max(self.bar.position()));
            })?;
            let pid = life.pid();
            let seen = life.bury();
            loaded_before = loaded_before.or(seen.loaded_before);
            loaded = seen.loaded.max(loaded);
            if after_kill {
                shortest_opening = [shortest_opening, seen.opened_in].into_iter().flatten().min();
            }
            work_done = work_done.max(seen.loaded + seen.processed).min(self.total);
            match end {
                End::Failed(failure) => {
                    self.bar.finish_and_clear();
                    return Err(failure.while_doing("the worker failed"));
                }
                End::Killed { opening } => {
                    self.tell_kill(fate, pid, opening && after_kill);
                    after_kill = true;
                }
                End::Finished => break,
            }
        }
        self.bar.finish_and_clear();
        Ok(Run { loaded: loaded - loaded_before.unwrap_or(loaded), working: started.elapsed() })
    }

    fn tell_kill(&mut self, fate: Fate, pid: u32, in_recovery: bool) {
        self.kills.count(fate, in_recovery);
        let (done, asked) = (self.kills.done(), self.kills.asked());
        let when = if in_recovery { " while it recovered from the kill before" } else { "" };
        self.bar.println(format!("kill {done} of {asked}: process {pid} with signal 9{when}"));
        self.bar.set_message(format!(", {done} of {asked} kills"));
    }

    /// The same program, as a worker.
    fn worker(&self, store: &Path) -> Result<Command, Failure> {
        let program = std::env::current_exe().map_err(|error| Failure::io("find the program itself", &error))?;
        let mut command = Command::new(program);
        command.arg(cli::WORKER).arg("--store").arg(store);
        match self.input {
            Input::Log { path, bytes } => {
                command.arg("--input").arg(path).arg(format!("--input-bytes={bytes}"));
            }
            Input::Orders { records, seed } => {
                command.arg(format!("--records={records}")).arg(format!("--seed={seed}"));
            }
        }
        command.arg(format!("--repeat={}", self.arguments.repeat));
        command.arg(format!("--alert-over={}", self.arguments.alert_over));
        command.arg(format!("--transaction-lines={}", self.transaction_lines));
        command.arg(format!("--pace-ms={}", self.arguments.pace_ms));
        Ok(command)
    }
}
