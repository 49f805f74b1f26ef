//! What the command line can say.

use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::alone::{self, Scale};
use crate::child::Role;
use crate::workload::{Size, Subject};
use crate::workloads;

/// Rounds that are counted, unless the command line says otherwise.
const ROUNDS: usize = 5;
const ROUNDS_QUICK: usize = 2;
const GIGABYTES: f64 = 1.0;
const GIGABYTES_QUICK: f64 = 0.004;
const NAMES: usize = 10_000;
const NAMES_QUICK: usize = 20;

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
    /// Payload of the large store, in units of 10^9 bytes; it needs about as much room again [default: 1]
    #[arg(long, value_name = "N")]
    gigabytes: Option<f64>,
    /// How many topics and consumers are many [default: 10000]
    #[arg(long, value_name = "N")]
    names: Option<usize>,
    /// Only this subject, as for a profiler; there are no ratios then; what concerns the store alone goes with oncelog
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
    /// What this process is for another one of this program
    #[arg(long, hide = true, value_name = "ROLE")]
    pub(crate) child: Option<Role>,
}

/// A line for each workload: its name and what it does.
pub(crate) fn workload_lines(wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let compared = workloads::all().into_iter().map(|workload| (workload.name(), workload.about()));
    let alone = alone::all().into_iter().map(|alone| (alone.name(), alone.about()));
    let all = compared.chain(alone).filter(|(name, _)| wanted(name));
    all.map(|(name, about)| format!("{name:<18} {about}")).collect()
}

impl Options {
    /// What the command line says; ends the program where it asks for help or makes no sense.
    pub(crate) fn of_command_line() -> Options {
        let lines = workload_lines(|_| true);
        let command = Options::command().after_help(format!("Workloads:\n  {}", lines.join("\n  ")));
        Options::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// How large a run of the store alone is.
    #[allow(clippy::cast_possible_truncation, reason = "within bounds by then, and a fraction of a byte is no loss")]
    pub(crate) fn scale(&self) -> Scale {
        let gigabytes = self.gigabytes.unwrap_or(if self.quick { GIGABYTES_QUICK } else { GIGABYTES });
        let names = self.names.unwrap_or(if self.quick { NAMES_QUICK } else { NAMES });
        let bytes = (gigabytes.clamp(0.0, 1e6) * 1e9) as u64;
        Scale { size: self.size(), rounds: self.rounds(), bytes, names: names.max(1) }
    }

    /// Whether what concerns the store alone takes part.
    pub(crate) fn wants_alone(&self) -> bool {
        self.subject.is_none_or(|subject| subject == Subject::Oncelog)
    }

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
