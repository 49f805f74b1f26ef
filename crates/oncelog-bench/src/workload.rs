//! What a workload is, and who runs it.

use std::fmt;
use std::path::Path;

use crate::Result;
use crate::figures::Figures;

/// Whoever does the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Subject {
    /// The minimal log on a growing file.
    Raw,
    /// The same on a file that was filled with zeros before.
    Zeroed,
    /// An Oncelog store with default options.
    Oncelog,
}

impl Subject {
    /// In the order in which they take turns.
    pub(crate) const ALL: [Subject; 3] = [Subject::Raw, Subject::Zeroed, Subject::Oncelog];
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Subject::Raw => "raw",
            Subject::Zeroed => "zeroed",
            Subject::Oncelog => "oncelog",
        })
    }
}

/// How much is done in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// Enough to measure.
    Full,
    /// So many thousandths of that, for who has only some seconds.
    Part(u32),
    /// Enough to see that it runs.
    Quick,
}

impl Size {
    /// The count for this size.
    pub(crate) fn pick(self, full: usize, quick: usize) -> usize {
        match self {
            Size::Full => full,
            Size::Part(thousandths) => (full.saturating_mul(thousandths as usize) / 1000).max(quick),
            Size::Quick => quick,
        }
    }
}

/// One kind of work, the same for every subject.
pub(crate) trait Workload {
    /// Short, for tables and `--only`.
    fn name(&self) -> &'static str;
    /// What the rate counts.
    fn unit(&self) -> &'static str;
    /// What is done, and what of it is timed.
    fn about(&self) -> &'static str;
    /// Does it once in `dir`, which is empty. Making files, opening, closing and a short warm-up are not timed.
    fn run(&self, subject: Subject, dir: &Path, size: Size) -> Result<Figures>;
}
