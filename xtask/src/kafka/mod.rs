//! `cargo xtask kafka`: a real Apache Kafka on this machine, for tests and for whoever wants to try.
//!
//! ```text
//! Maven Central --(jars, once)--> tools directory     up -> Cluster: a directory, a JVM for each broker --> bootstrap
//!                                                     down -> kills them and removes the directory
//! ```
//!
//! * [`mod@jars`]: the class path, brought by Maven and kept outside the checkout.
//! * [`mod@cluster`]: brokers in KRaft mode on loopback, with ports, data and logs of their own.
//! * [`mod@process`]: what one asks the system about a process.
//!
//! Invariants: what runs is what its directory says, so `up` twice is `up` once, and a broker that was killed comes
//! back by `up` with its data. A process is killed only if its command line names our directory.

mod cluster;
mod jars;
mod process;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cluster::Cluster;

/// What to do with the brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Starts so many, unless they run.
    Up(u32),
    /// Ends them and removes their data.
    Down,
    /// Ends them as a power cut would, and keeps their data: [`Action::Up`] starts them again.
    Kill,
    /// Says whether they run, and where.
    Status,
    /// Starts one apart, runs the tests of `oncelog-kafka` against it with these arguments, and ends it.
    Test(Vec<String>),
}

/// The brokers that one cluster may have.
const BROKERS: [u32; 2] = [1, 3];

/// Reads the words behind `kafka`.
pub(crate) fn parse(words: &[&str]) -> Result<Action, String> {
    match words {
        ["up"] => Ok(Action::Up(1)),
        ["up", "--brokers", number] => {
            let number = number.parse().ok().filter(|number| BROKERS.contains(number));
            number.map(Action::Up).ok_or_else(|| "--brokers wants 1 or 3".to_owned())
        }
        ["down"] => Ok(Action::Down),
        ["kill"] => Ok(Action::Kill),
        ["status"] => Ok(Action::Status),
        ["test", rest @ ..] => Ok(Action::Test(rest.iter().map(|word| (*word).to_owned()).collect())),
        _ => Err("kafka wants one of: up [--brokers 1|3], kill, down, status, test [ARGUMENT ...]".to_owned()),
    }
}

/// Does it. The exit code says whether it is done; that of `status`, whether all brokers run.
pub(crate) fn run(root: &Path, action: &Action) -> ExitCode {
    let done = match action {
        Action::Up(brokers) => up(&Cluster::at(home(root)), *brokers).map(|()| true),
        Action::Down => Cluster::at(home(root)).down().map(|()| true),
        Action::Kill => Cluster::at(home(root)).stop().map(|()| true),
        Action::Status => Cluster::at(home(root)).status(),
        Action::Test(arguments) => test(root, arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(complaint) => {
            eprintln!("kafka: {complaint}");
            ExitCode::FAILURE
        }
    }
}

fn home(root: &Path) -> PathBuf {
    target_dir(root).join("kafka")
}

fn target_dir(root: &Path) -> PathBuf {
    root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

fn up(cluster: &Cluster, brokers: u32) -> Result<(), String> {
    let jars = jars::get()?;
    let bootstrap = cluster.up(&jars, brokers)?;
    cluster::say(&format!("Apache Kafka {} runs: {bootstrap}", jars::KAFKA));
    cluster::say(&format!("data and logs are in {}; `cargo xtask kafka down` ends it", cluster.dir().display()));
    Ok(())
}

/// Tests that find no broker say so themselves, each for itself, with the reason that we give them.
fn test(root: &Path, arguments: &[String]) -> Result<bool, String> {
    let cluster = Cluster::at(target_dir(root).join("kafka-test"));
    cluster.down()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut tests = Command::new(cargo);
    tests.current_dir(root).args(["test", "--locked", "-p", "oncelog-kafka", "--no-fail-fast"]).args(arguments);
    match jars::get() {
        Ok(jars) => {
            let bootstrap = cluster.up(&jars, 1)?;
            tests.env("ONCELOG_KAFKA", bootstrap);
        }
        Err(complaint) => {
            println!("no broker: {complaint}");
            tests.env_remove("ONCELOG_KAFKA").env("ONCELOG_KAFKA_ABSENT", complaint);
        }
    }
    let ran = tests.status().map_err(|error| format!("cannot run cargo: {error}"));
    let passed = ran?.success();
    // What the brokers said is worth keeping when something failed.
    if passed {
        cluster.down()?
    } else {
        cluster.stop()?
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broker_unless_told() {
        assert_eq!(parse(&["up"]), Ok(Action::Up(1)));
        assert_eq!(parse(&["up", "--brokers", "3"]), Ok(Action::Up(3)));
        assert_eq!(parse(&["kill"]), Ok(Action::Kill));
        assert_eq!(parse(&["down"]), Ok(Action::Down));
        assert_eq!(parse(&["status"]), Ok(Action::Status));
        assert_eq!(
            parse(&["test", "--test", "kills"]),
            Ok(Action::Test(vec!["--test".to_owned(), "kills".to_owned()]))
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for words in [&[][..], &["up", "--brokers"], &["up", "--brokers", "2"], &["up", "now"], &["down", "1"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
