//! What the demo can be told, and what it tells its workers.

use std::path::PathBuf;

use clap::{Args, Parser, value_parser};

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
        WorkerArguments::command().debug_assert();
    }
}
