//! What can be asked of the command: arguments, defaults and help texts, and nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, value_parser};

/// Exactly-once event processing in one Rust program.
#[derive(Parser, Debug)]
#[command(name = "oncelog", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Example:\n  oncelog demo\n\nExit codes: 0 done, 1 failed, 2 wrong call, 3 not found, \
                        4 damaged or of a newer version, 5 in use by another process")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the command can do.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Count a stream of events while the counting process is killed again and again, and check the result
    ///
    /// A worker process loads the events into a store and keeps totals per customer, with an alert for each customer
    /// whose total passes a limit. It is killed without warning, also while it recovers from the kill before, and
    /// started again. At the end totals, alerts and records are compared with a plain recount of the input: nothing may
    /// be missing, nothing may be counted twice. Without options it takes some seconds and 400 MB of disk.
    Demo(DemoArguments),
}

/// The first argument by which the demo calls its worker. No command for people: neither help nor tips name it.
pub(crate) const WORKER: &str = "demo-worker";

/// What `oncelog demo` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog demo\n  oncelog demo --input /var/log/nginx/access.log --kills 20\n  \
                        oncelog demo --records 1000000 --store /mnt/disk/demo")]
pub(crate) struct DemoArguments {
    /// Store to use; the same demo may be run on it again and goes on where it stopped [default: a new one in
    /// ./oncelog-demo]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Web server log in the combined format to be counted, bytes per client address, instead of made-up orders
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// How many orders to make up
    #[arg(long, value_name = "N", default_value_t = 2_000_000, conflicts_with = "input")]
    pub(crate) records: u64,
    /// How many times over to read the input
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
    pub(crate) repeat: u64,
    /// How often to kill the worker
    #[arg(long, value_name = "N", default_value_t = 7)]
    pub(crate) kills: u64,
    /// Total above which a customer gives an alert, in cents or bytes
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub(crate) alert_over: u64,
    /// What the orders and the moments of the kills are drawn from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Input lines in one transaction of the loader [default: by the length of the input, 500 at most]
    #[arg(long, value_name = "N", hide = true, value_parser = value_parser!(u64).range(1..))]
    pub(crate) transaction_lines: Option<u64>,
    /// Pause of the loader after each transaction, for tests that need time to kill
    #[arg(long, value_name = "MS", hide = true, default_value_t = 0)]
    pub(crate) pace_ms: u64,
}

/// The job, as the demo hands it to its worker.
#[derive(Parser, Debug)]
pub(crate) struct WorkerArguments {
    #[arg(long)]
    pub(crate) store: PathBuf,
    #[arg(long, requires = "input_bytes")]
    pub(crate) input: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    pub(crate) input_bytes: u64,
    #[arg(long, default_value_t = 0)]
    pub(crate) records: u64,
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[arg(long)]
    pub(crate) repeat: u64,
    #[arg(long)]
    pub(crate) alert_over: u64,
    #[arg(long)]
    pub(crate) transaction_lines: u64,
    #[arg(long)]
    pub(crate) pace_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
        WorkerArguments::command().debug_assert();
    }
}
