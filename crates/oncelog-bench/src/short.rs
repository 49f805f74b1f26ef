//! Some seconds of it: what the disk of this machine gives to a minimal log, what Oncelog makes of it, and the ratio.
//!
//! First each workload is run once at its smallest, to learn how much of it fits the time; then both yardsticks and the
//! store take turns.

use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::figures::{Figures, Spread};
use crate::machine::Machine;
use crate::records::KEY_BYTES;
use crate::scratch::Scratch;
use crate::workload::{Size, Subject, Workload};
use crate::workloads;

/// Of each subject, so that a ratio does not hang on one moment.
const ROUNDS: usize = 2;
/// What goes into making files and stores, of the time that is given.
const SETUP_SHARE: f64 = 0.4;

/// What a short run is told.
#[derive(Clone, Debug)]
pub struct Short {
    /// Where it works, in a directory of its own that is removed; the current directory unless set.
    pub dir: Option<PathBuf>,
    /// About so long. On a slow disk less is done.
    pub time: Duration,
    /// Bytes of a record, key and value; at least [`Short::RECORD_BYTES_MIN`].
    pub record_bytes: usize,
}

/// What it was measured on, and what was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Processors.
    pub cores: usize,
    /// The file system, with its options.
    pub file_system: String,
    /// Load averages before the start.
    pub load: String,
    /// A line for each workload.
    pub lines: Vec<Line>,
}

/// One workload: medians over the rounds.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its name, as `oncelog-bench` has it.
    pub name: &'static str,
    /// What the rates count.
    pub unit: &'static str,
    /// A minimal log on this disk, per second: the better of a file that grows and one that was filled before.
    pub disk: f64,
    /// Oncelog, per second.
    pub oncelog: f64,
    /// From call to answer in microseconds, half of the calls and 99 of 100, where that was sampled.
    pub latency_us: Option<(f64, f64)>,
}

impl Line {
    /// What Oncelog makes of the disk.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.oncelog / self.disk.max(1e-9)
    }
}

impl Short {
    /// A key, and a value of some bytes.
    pub const RECORD_BYTES_MIN: usize = KEY_BYTES + 8;

    /// Runs it; `about` is told what comes next.
    ///
    /// # Errors
    /// The directory cannot be used, or the disk or a store failed.
    pub fn run(&self, mut about: impl FnMut(&str)) -> Result<Report> {
        let scratch = Scratch::make(self.dir.as_deref())?;
        let Machine { cores, file_system, load, .. } = Machine::look(scratch.path());
        let workloads = workloads::of_short_run(self.record_bytes.max(Self::RECORD_BYTES_MIN));
        let runs = workloads.len() * Subject::ALL.len() * ROUNDS;
        let each = self.time.as_secs_f64() * (1.0 - SETUP_SHARE) / runs as f64;
        let mut lines = Vec::new();
        for workload in &workloads {
            about(&format!("{}: {}", workload.name(), workload.about()));
            lines.push(line(&**workload, &scratch, each)?);
        }
        Ok(Report { cores, file_system, load, lines })
    }
}

fn line(workload: &dyn Workload, scratch: &Scratch, seconds: f64) -> Result<Line> {
    let run = |subject: Subject, round: usize, size: Size| -> Result<Figures> {
        let dir = Scratch::inside(scratch.path(), &format!("{}-{subject}-{round}", workload.name()))?;
        let figures = workload.run(subject, dir.path(), size)?;
        dir.clear()?;
        Ok(figures)
    };
    // The smallest run says how long one thousandth takes at most.
    let pilot = run(Subject::Raw, 0, Size::Part(1))?;
    let thousandths = (seconds / pilot.elapsed.as_secs_f64().max(1e-6)).clamp(1.0, 1000.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 1000")]
    let size = Size::Part(thousandths as u32);
    let (mut raw, mut zeroed, mut oncelog) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        raw.push(run(Subject::Raw, round, size)?);
        zeroed.push(run(Subject::Zeroed, round, size)?);
        oncelog.push(run(Subject::Oncelog, round, size)?);
    }
    let rate = |figures: &[Figures]| median(figures.iter().map(Figures::rate));
    let latency = |of: fn(&crate::figures::Latency) -> Duration| {
        let found: Vec<f64> =
            oncelog.iter().filter_map(|one| Some(of(one.latency.as_ref()?).as_secs_f64() * 1e6)).collect();
        (!found.is_empty()).then(|| median(found))
    };
    Ok(Line {
        name: workload.name(),
        unit: workload.unit(),
        disk: rate(&raw).max(rate(&zeroed)),
        oncelog: rate(&oncelog),
        latency_us: latency(|latency| latency.p50).zip(latency(|latency| latency.p99)),
    })
}

fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    Spread::of(numbers).map_or(0.0, |spread| spread.median)
}
