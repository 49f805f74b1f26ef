//! What the command line can say.

use std::path::PathBuf;

use clap::Parser;

use crate::workload::{Size, Subject};

/// Rounds that are counted, unless the command line says otherwise.
const ROUNDS: usize = 5;
const ROUNDS_QUICK: usize = 2;

/// Oncelog's own workloads beside two minimal logs, as ratios. Measures, and judges nothing.
#[derive(Debug, Parser)]
#[command(name = "oncelog-bench", version)]
pub(crate) struct Options {
    /// Directory to work in; a fresh one is made inside it and removed at the end [default: the current directory]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Only workloads whose names contain this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Only this subject, as for a profiler; there are no ratios then
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<Subject>,
    /// Rounds that are counted, behind one that is not [default: 5]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Small sizes, two rounds, no warm-up: shows that everything runs, and nothing about speed
    #[arg(long)]
    quick: bool,
    /// Also writes all figures of all rounds to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Names the workloads and ends
    #[arg(long)]
    pub(crate) list: bool,
}

impl Options {
    /// Whether a workload of that name is asked for.
    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.as_deref().is_none_or(|part| name.contains(part))
    }

    /// Who takes part, in the order of turns.
    pub(crate) fn subjects(&self) -> Vec<Subject> {
        self.subject.map_or_else(|| Subject::ALL.to_vec(), |one| vec![one])
    }

    pub(crate) fn size(&self) -> Size {
        if self.quick { Size::Quick } else { Size::Full }
    }

    /// Rounds that are counted, at least one.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { ROUNDS_QUICK } else { ROUNDS }).max(1)
    }

    /// Rounds before those.
    pub(crate) fn warm_up_rounds(&self) -> usize {
        usize::from(!self.quick)
    }

    /// What of it the reader of the figures must know.
    pub(crate) fn line(&self) -> String {
        let size = if self.quick { "quick: sizes too small to tell anything about speed" } else { "full sizes" };
        let (rounds, before) = (self.rounds(), self.warm_up_rounds());
        let subjects: Vec<String> = self.subjects().iter().map(Subject::to_string).collect();
        let subjects = subjects.join(" ");
        format!("rounds: {rounds} counted, {before} before them, each {subjects} in turn; {size}")
    }
}
