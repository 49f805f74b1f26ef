//! `oncelog bench`: how fast this disk is, and what Oncelog makes of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};
use oncelog_bench::short::{Line, Report, Short};
use serde::Serialize;

use crate::cli::OutputArgument;
use crate::exit::Failure;
use crate::out;

/// What `oncelog bench` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog bench\n  oncelog bench --dir /data --seconds 60\n  \
                        oncelog bench --size 1024 --output json\n\n\
                        Works in a directory of its own, which it removes, and takes up to 1 GiB of room there; one \
                        that was interrupted leaves .oncelog-bench-*, which is in no store's way and can be removed. \
                        DISK is a minimal log: length, checksum and record, and one sync for all who wait. \
                        Oncelog writes the same records and is as durable when it answers, so the ratio says \
                        something of the program and the rates something of the machine. Who else works on it is in \
                        both.")]
pub(crate) struct BenchArguments {
    /// Where to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// About how long
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Bytes of a record
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = value_parser!(u64).range(24..=32768))]
    size: u64,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Measured {
    version: &'static str,
    cores: usize,
    file_system: String,
    load: String,
    record_bytes: u64,
    workloads: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    workload: &'static str,
    what: &'static str,
    unit: &'static str,
    disk_per_second: f64,
    oncelog_per_second: f64,
    ratio: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_us: Option<f64>,
}

/// Measures.
///
/// # Errors
/// The directory cannot be used, or the disk fails.
pub(crate) fn run(arguments: &BenchArguments) -> Result<(), Failure> {
    if !arguments.dir.is_dir() {
        let what = format!("there is no directory {}", arguments.dir.display());
        return Err(Failure::new(crate::exit::NOT_FOUND, what));
    }
    let record_bytes = usize::try_from(arguments.size).unwrap_or(usize::MAX);
    let time = Duration::from_secs(arguments.seconds);
    let short = Short { dir: Some(arguments.dir.clone()), time, record_bytes };
    let bar = out::progress(None, "{spinner} {msg}, {elapsed}");
    let found = short.run(|what| {
        bar.set_message(what.to_owned());
        bar.tick();
    });
    bar.finish_and_clear();
    let Report { cores, file_system, load, lines, .. } = found.map_err(Failure::plain)?;
    let workloads = lines.iter().map(Row::of).collect();
    let version = env!("CARGO_PKG_VERSION");
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
    let measured = Measured { version, cores, file_system, load, record_bytes: arguments.size, workloads };
    out::answer(arguments.output.output, &measured, Measured::text)
}

/// What a workload is, for people.
fn what(name: &str) -> &'static str {
    match name {
        "durable-1" => "durable appends, 1 thread",
        "durable-8" => "durable appends, 8 threads",
        "append-batch-100" => "buffered appends, 1000 a call",
        "read-100" => "sequential read, cached",
        _ => "other",
    }
}

impl Row {
    fn of(line: &Line) -> Row {
        Row {
            workload: line.name,
            what: what(line.name),
            unit: line.unit,
            disk_per_second: line.disk.round(),
            oncelog_per_second: line.oncelog.round(),
            ratio: (line.ratio() * 1000.0).round() / 1000.0,
            p50_us: line.latency_us.map(|(p50, _)| p50.round()),
            p99_us: line.latency_us.map(|(_, p99)| p99.round()),
        }
    }
}

impl Measured {
    fn text(&self) -> String {
        let Measured { version, cores, file_system, load, record_bytes, workloads } = self;
        let build = if cfg!(debug_assertions) { ", a debug build: the figures mean nothing" } else { "" };
        let mut text = format!(
            "oncelog {version}{build}, {cores} cores, load {load}\n{file_system}\nrecords of {record_bytes} bytes, per \
             second\n\n"
        );
        let rows: Vec<Vec<String>> = workloads.iter().map(Row::cells).collect();
        text.push_str(&out::columns(&["WORKLOAD", "DISK", "ONCELOG", "RATIO", "P50 US", "P99 US"], &rows));
        text
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let whole = |number: f64| format!("{number:.0}");
        let time = |us: Option<f64>| us.map_or_else(|| "-".to_owned(), whole);
        let (disk, oncelog) = (whole(self.disk_per_second), whole(self.oncelog_per_second));
        vec![self.what.to_owned(), disk, oncelog, format!("{:.2}", self.ratio), time(self.p50_us), time(self.p99_us)]
    }
}
