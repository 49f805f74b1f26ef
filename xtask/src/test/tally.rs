//! What a step printed, counted, and what we make of it. Pure.

use super::steps::Proof;

/// What a step's output said so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    results: u64,
    passed: u64,
    failed: u64,
    ignored: u64,
    checked: Option<String>,
    left_out: Vec<String>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Well,
    Badly,
}

/// What a step adds to the closing count.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) note: String,
    pub(super) left_out: Vec<String>,
}

impl Verdict {
    pub(super) fn failed(note: String) -> Verdict {
        Verdict { passed: 0, failed: 1, note, left_out: Vec::new() }
    }
}

impl Tally {
    /// Takes one line of output into account.
    pub(super) fn read(&mut self, line: &str) {
        if line.starts_with("test result: ") {
            self.results += 1;
            self.passed += number_before(line, "passed").unwrap_or(0);
            self.failed += number_before(line, "failed").unwrap_or(0);
            self.ignored += number_before(line, "ignored").unwrap_or(0);
        } else if line.starts_with("checked:") {
            self.checked = Some(line.to_owned());
        } else if let Some((_, reason)) = line.split_once("LEFT OUT: ") {
            // Not always at the start: with one thread the harness has already written the test's name.
            self.left_out.push(reason.to_owned());
        }
    }

    /// What all lines together and the exit prove.
    pub(super) fn judge(self, proof: Proof, exit: Exit) -> Verdict {
        let mut verdict = match proof {
            Proof::TestResults => self.judge_tests(exit),
            Proof::Crashes(_) | Proof::Checked => self.judge_check(proof, exit),
        };
        verdict.left_out = self.left_out;
        if self.ignored > 0 {
            verdict.left_out.push(format!("{} tests are marked as ignored", self.ignored));
        }
        verdict
    }

    fn judge_tests(&self, exit: Exit) -> Verdict {
        let (passed, mut failed) = (self.passed, self.failed);
        let mut note = format!("{passed} passed, {failed} failed, in {} runs", self.results);
        if exit == Exit::Badly && failed == 0 {
            failed = 1;
            note += ", but cargo failed: a build error or a crashed run, see above";
        } else if exit == Exit::Well && passed == 0 {
            failed = 1;
            note += ": no test was run";
        }
        Verdict { passed, failed, note, left_out: Vec::new() }
    }

    fn judge_check(&self, proof: Proof, exit: Exit) -> Verdict {
        let shown = self.checked.as_deref().unwrap_or("no `checked:` line");
        match self.objection(proof, exit) {
            Some(objection) => Verdict::failed(format!("{objection} ({shown})")),
            None => Verdict { passed: 1, failed: 0, note: shown.to_owned(), left_out: Vec::new() },
        }
    }

    fn objection(&self, proof: Proof, exit: Exit) -> Option<String> {
        if exit == Exit::Badly {
            return Some("the command failed, see above".to_owned());
        }
        let Some(checked) = &self.checked else {
            return Some("it does not say what it checked".to_owned());
        };
        let Proof::Crashes(wanted) = proof else { return None };
        match (number_before(checked, "crashes"), number_before(checked, "violations")) {
            (Some(crashes), _) if crashes < wanted => Some(format!("fewer than {wanted} crashes")),
            (Some(_), Some(0)) => None,
            _ => Some("it does not say that there were 0 violations".to_owned()),
        }
    }
}

/// The number in front of `word`, as in `3 passed; 0 failed`.
fn number_before(line: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (number, _) =
        words.iter().zip(words.iter().skip(1)).find(|(_, next)| next.trim_end_matches([',', ';']) == word)?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s";
    const BAD: &str = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0s";

    fn judged(lines: &[&str], proof: Proof, exit: Exit) -> Verdict {
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.read(line));
        tally.judge(proof, exit)
    }

    #[test]
    fn test_results_add_up() {
        let verdict = judged(&[GOOD, "running 5 tests", BAD], Proof::TestResults, Exit::Badly);
        assert_eq!((verdict.passed, verdict.failed), (10, 2));
        assert_eq!(verdict.left_out, ["1 tests are marked as ignored"]);
    }

    #[test]
    fn a_build_error_is_one_failure() {
        assert_eq!(judged(&[], Proof::TestResults, Exit::Badly).failed, 1);
        assert_eq!(judged(&[GOOD], Proof::TestResults, Exit::Badly).failed, 1);
    }

    #[test]
    fn a_run_without_tests_is_no_success() {
        let none = GOOD.replace('7', "0");
        assert_eq!(judged(&[], Proof::TestResults, Exit::Well).failed, 1);
        assert_eq!(judged(&[&none], Proof::TestResults, Exit::Well).failed, 1);
        assert_eq!(judged(&[GOOD], Proof::TestResults, Exit::Well).failed, 0);
    }

    #[test]
    fn a_simulation_counts_as_one_and_must_have_done_its_work() {
        let judged = |line: &str, exit| {
            let verdict = judged(&[line], Proof::Crashes(100), exit);
            (verdict.passed, verdict.failed)
        };
        assert_eq!(judged("checked: 100 crashes, 0 violations", Exit::Well), (1, 0));
        assert_eq!(judged("checked: 100 crashes, 0 violations", Exit::Badly), (0, 1));
        assert_eq!(judged("checked: 99 crashes, 0 violations", Exit::Well), (0, 1));
        assert_eq!(judged("checked: 100 crashes, 1 violations", Exit::Well), (0, 1));
        assert_eq!(judged("checked: everything", Exit::Well), (0, 1));
        assert_eq!(judged("all well", Exit::Well), (0, 1));
    }

    #[test]
    fn any_checked_line_will_do_where_nothing_is_counted() {
        assert_eq!(judged(&["checked: 12 mutants, all noticed"], Proof::Checked, Exit::Well).passed, 1);
        assert_eq!(judged(&["done"], Proof::Checked, Exit::Well).failed, 1);
    }

    #[test]
    fn left_out_is_found_also_behind_the_name_of_a_test() {
        let line = ["test kafka ... LEFT", " OUT: no broker"].concat();
        assert_eq!(judged(&[GOOD, &line], Proof::TestResults, Exit::Well).left_out, ["no broker"]);
    }
}
