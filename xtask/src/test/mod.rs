//! `cargo xtask test`: runs the table of [`steps`] one after the other, all of them, and closes with one line
//! `N passed, M failed`.
//!
//! ```text
//! steps (what to run, what proves it ran)  ->  run (stream the output, read it)  ->  tally (judge)  ->  closing lines
//! ```
//!
//! Invariants:
//! * The closing counts come from what the runs printed, never from what we hoped they would do: a step that exits well
//!   and shows no proof of work has failed.
//! * What was not tested is said, last and loudly. A test that cannot run on this machine writes `LEFT OUT: reason` to
//!   `std::io::stdout()` itself (the test harness swallows the `print` macros) and returns; where `CI` is `true` that
//!   counts as a failure.

mod run;
mod steps;
mod tally;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tally::Verdict;

/// How much to simulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    /// What CI runs.
    Full,
    /// What one runs between two edits.
    Quick,
}

/// Where we run: decides what a left-out test means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ci,
    Desk,
}

struct Done {
    name: &'static str,
    took: Duration,
    verdict: Verdict,
}

/// Runs every step and prints the count. The exit code says whether everything passed.
pub(crate) fn run(root: &Path, size: Size) -> ExitCode {
    let place = if std::env::var("CI").is_ok_and(|ci| ci == "true") { Place::Ci } else { Place::Desk };
    let steps = steps::steps(root, size);
    let count = steps.len();
    let mut done = Vec::new();
    for (index, step) in steps.into_iter().enumerate() {
        println!("\n==== [{}/{count}] {}: {}", index + 1, step.name, step.shown());
        let began = Instant::now();
        let verdict = run::run(root, &step);
        done.push(Done { name: step.name, took: began.elapsed(), verdict });
    }
    let (lines, failed) = closing(&done, place);
    println!("\n{}", lines.join("\n"));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The last lines of the run, and how many things failed.
fn closing(done: &[Done], place: Place) -> (Vec<String>, u64) {
    let mut lines = vec!["==== summary".to_owned()];
    let (mut passed, mut failed) = (0, 0);
    for Done { name, took, verdict } in done {
        let mark = if verdict.failed == 0 { "ok    " } else { "FAILED" };
        lines.push(format!("{mark} {name}: {} ({} s)", verdict.note, took.as_secs()));
        passed += verdict.passed;
        failed += verdict.failed;
    }
    for Done { name, verdict, .. } in done {
        for reason in &verdict.left_out {
            lines.push(format!("LEFT OUT: {name}: {reason}"));
            failed += u64::from(place == Place::Ci);
        }
    }
    lines.push(format!("{passed} passed, {failed} failed"));
    (lines, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(passed: u64, failed: u64, left_out: &[&str]) -> Done {
        let left_out = left_out.iter().map(|reason| (*reason).to_owned()).collect();
        let verdict = Verdict { passed, failed, note: "noted".to_owned(), left_out };
        Done { name: "step", took: Duration::from_secs(3), verdict }
    }

    #[test]
    fn the_last_line_is_the_sum() {
        let (lines, failed) = closing(&[done(5, 0, &[]), done(1, 2, &[])], Place::Ci);
        assert_eq!(lines.last().map(String::as_str), Some("6 passed, 2 failed"));
        assert_eq!(failed, 2);
        assert_eq!(lines[1], "ok     step: noted (3 s)");
        assert_eq!(lines[2], "FAILED step: noted (3 s)");
    }

    #[test]
    fn what_is_left_out_is_named_and_fails_only_in_ci() {
        let steps = [done(5, 0, &["no broker"])];
        let (at_desk, failed_at_desk) = closing(&steps, Place::Desk);
        let (in_ci, failed_in_ci) = closing(&steps, Place::Ci);
        assert!(at_desk.contains(&["LEFT", " OUT: step: no broker"].concat()));
        assert_eq!((failed_at_desk, failed_in_ci), (0, 1));
        assert_eq!(in_ci.last().map(String::as_str), Some("5 passed, 1 failed"));
    }
}
