//! Who runs when: in every round each subject once, so that a slow minute of the machine meets all of them.

use std::path::Path;

use crate::Result;
use crate::figures::{Figures, Spread};
use crate::options::Options;
use crate::print;
use crate::scratch::Scratch;
use crate::workload::{Subject, Workload};

/// All counted rounds of one workload.
pub(crate) struct Outcome {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) about: &'static str,
    pub(crate) subjects: Vec<SubjectRounds>,
}

/// The counted rounds of one subject, in order.
pub(crate) struct SubjectRounds {
    pub(crate) subject: Subject,
    pub(crate) rounds: Vec<Figures>,
}

/// Runs the workloads one after the other in directories inside `dir`.
pub(crate) fn run(workloads: &[Box<dyn Workload>], dir: &Path, options: &Options) -> Result<Vec<Outcome>> {
    workloads.iter().map(|workload| run_one(&**workload, dir, options)).collect()
}

fn run_one(workload: &dyn Workload, dir: &Path, options: &Options) -> Result<Outcome> {
    print::note(&format!("{} ...", workload.name()));
    let fresh = |subject| SubjectRounds { subject, rounds: Vec::new() };
    let mut subjects: Vec<SubjectRounds> = options.subjects().into_iter().map(fresh).collect();
    let before = options.warm_up_rounds();
    for round in 0..before + options.rounds() {
        for of_subject in &mut subjects {
            let subject = of_subject.subject;
            let name = format!("{}-{subject}-{round}", workload.name());
            let scratch = Scratch::inside(dir, &name)?;
            let figures = workload.run(subject, scratch.path(), options.size());
            let figures = figures.map_err(|error| format!("{name}: {error}"))?;
            scratch.clear()?;
            if round >= before {
                of_subject.rounds.push(figures);
            }
        }
    }
    Ok(Outcome { name: workload.name(), unit: workload.unit(), about: workload.about(), subjects })
}

impl Outcome {
    /// The median rate of a subject, if it took part.
    pub(crate) fn rate(&self, subject: Subject) -> Option<f64> {
        let rounds = self.subjects.iter().find(|of| of.subject == subject)?;
        rounds.rate().map(|spread| spread.median)
    }

    /// The median of a subject's p99 in microseconds, where latency was sampled.
    pub(crate) fn p99_us(&self, subject: Subject) -> Option<f64> {
        let rounds = self.subjects.iter().find(|of| of.subject == subject)?;
        rounds.p99_us().map(|spread| spread.median)
    }
}

impl SubjectRounds {
    pub(crate) fn rate(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(Figures::rate))
    }

    pub(crate) fn p50_us(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| Some(round.latency?.p50.as_secs_f64() * 1e6)))
    }

    pub(crate) fn p99_us(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| Some(round.latency?.p99.as_secs_f64() * 1e6)))
    }

    pub(crate) fn syncs(&self) -> Option<Spread> {
        Spread::of(self.rounds.iter().map(|round| round.syncs as f64))
    }

    pub(crate) fn count(&self) -> u64 {
        self.rounds.first().map_or(0, |round| round.count)
    }
}
