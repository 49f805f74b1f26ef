//! The table of what `cargo xtask test` runs. To add a step, add an entry: a name, cargo's arguments, and the
//! [`Proof`] by which we believe that it did its work.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Size;

/// One call of cargo.
pub(super) struct Step {
    pub(super) name: &'static str,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(&'static str, OsString)>,
    pub(super) proof: Proof,
}

/// What a step must print, besides exiting with 0, to count as passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The test harness's `test result:` lines; every test counts on its own.
    TestResults,
    /// `checked: N crashes, 0 violations`, with at least so many crashes; the step counts as one test.
    Crashes(u64),
    /// A line that starts with `checked:`; the step counts as one test.
    Checked,
}

impl Step {
    fn new(name: &'static str, arguments: &str, proof: Proof) -> Step {
        let arguments = arguments.split_whitespace().map(str::to_owned).collect();
        Step { name, arguments, environment: Vec::new(), proof }
    }

    fn with(mut self, key: &'static str, value: impl Into<OsString>) -> Step {
        self.environment.push((key, value.into()));
        self
    }

    /// The step as one would type it.
    pub(super) fn shown(&self) -> String {
        let environment = self.environment.iter().map(|(key, value)| format!("{key}={:?} ", value.to_string_lossy()));
        format!("{}cargo {}", environment.collect::<String>(), self.arguments.join(" "))
    }
}

/// Every step, in the order of running: what fails most often and soonest comes first.
pub(super) fn steps(root: &Path, size: Size) -> Vec<Step> {
    let (crashes, longest, stride) = match size {
        Size::Full => (100_000, 2, 1),
        Size::Quick => (5_000, 1, 20),
    };
    let simulate = format!("run --release --locked -p oncelog-sim -- run --crashes {crashes}");
    let exhaust = format!("run --release --locked -p oncelog-sim -- exhaust --core {longest} --all {longest}");
    let failures = format!("run --release --locked -p oncelog-sim -- failures --stride {stride}");
    let flags = std::env::var("RUSTFLAGS").ok();
    // Builds with other flags have directories of their own, so that they do not undo each other.
    let apart = |step: Step, flag: &str, dir: &str| {
        step.with("RUSTFLAGS", with_flag(flags.as_deref(), flag)).with("CARGO_TARGET_DIR", target_dir(root).join(dir))
    };
    let (schedules, store_schedules, fuzz_seconds, offset_seconds) = match size {
        Size::Full => ("10000", "300", 20, "60"),
        Size::Quick => ("1000", "100", 2, "3"),
    };
    vec![
        Step::new(
            "tests",
            "test --workspace --exclude oncelog-kafka --exclude oncelog-sim --features oncelog/async,oncelog-cli/zstd \
             --locked --no-fail-fast -- --skip a_million_lines",
            Proof::TestResults,
        )
        .with("ONCELOG_TEST_OFFSETS_SECONDS", offset_seconds),
        // What takes minutes without optimisation.
        Step::new(
            "tests of the simulator",
            "test --release --locked -p oncelog-sim --no-fail-fast",
            Proof::TestResults,
        ),
        Step::new(
            "a million lines",
            "test --release --locked -p oncelog-cli --test demo a_million_lines",
            Proof::TestResults,
        ),
        Step::new("simulation", &simulate, Proof::Crashes(crashes)),
        Step::new("short histories", &exhaust, Proof::Crashes(1000)),
        Step::new("failing calls", &failures, Proof::Checked),
        Step::new("rot survey", "run --release --locked -p oncelog-sim -- rot --stride 10", Proof::Checked),
        // Built with switches that break the engine on purpose.
        apart(
            Step::new("mutants", "run --release --locked -p oncelog-sim -- mutants --crashes 100000", Proof::Checked),
            "--cfg oncelog_mutants",
            "mutants",
        ),
        apart(
            Step::new(
                "mutants of backups, checkpoints and offset files",
                "test --release --locked -p oncelog-sim --test backup --test checkpoints --test offsets noticed -- \
                    --test-threads=1",
                Proof::TestResults,
            ),
            "--cfg oncelog_mutants",
            "mutants",
        ),
        apart(
            Step::new("models (loom)", "test --locked -p oncelog --features async --lib models::", Proof::TestResults)
                .with("CARGO_PROFILE_TEST_OPT_LEVEL", "1"),
            "--cfg loom -Dwarnings",
            "loom",
        ),
        apart(
            Step::new(
                "models (shuttle)",
                "test --locked -p oncelog --features async --lib models::",
                Proof::TestResults,
            )
            .with("CARGO_PROFILE_TEST_OPT_LEVEL", "1")
            .with("ONCELOG_SCHEDULES", schedules)
            .with("ONCELOG_STORE_SCHEDULES", store_schedules),
            "--cfg shuttle -Dwarnings",
            "shuttle",
        ),
        Step::new("fuzz", &format!("xtask fuzz --seconds {fuzz_seconds}"), Proof::Checked),
    ]
}

fn with_flag(given: Option<&str>, flag: &str) -> String {
    format!("{} {flag}", given.unwrap_or_default()).trim_start().to_owned()
}

fn target_dir(root: &Path) -> PathBuf {
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_simulates_less_and_asks_for_less_proof() {
        let quick = steps(Path::new("/repo"), Size::Quick);
        let full = steps(Path::new("/repo"), Size::Full);
        assert_eq!(quick.len(), full.len());
        assert!(
            quick.iter().any(|step| step.proof == Proof::Crashes(5_000) && step.shown().contains("--crashes 5000"))
        );
        assert!(full.iter().any(|step| step.proof == Proof::Crashes(100_000) && step.shown().contains("100000")));
    }

    #[test]
    fn two_processes_share_offsets_for_a_minute_unless_it_must_be_quick() {
        let seconds = |size| steps(Path::new("/repo"), size)[0].shown().contains("ONCELOG_TEST_OFFSETS_SECONDS=\"60\"");
        assert!(seconds(Size::Full) && !seconds(Size::Quick));
    }

    #[test]
    fn given_flags_are_kept() {
        assert_eq!(with_flag(None, "--cfg loom"), "--cfg loom");
        assert_eq!(with_flag(Some("-g"), "--cfg loom"), "-g --cfg loom");
    }
}
