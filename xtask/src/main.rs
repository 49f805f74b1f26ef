//! Chores of this repository, written in Rust so that they run wherever the code builds: `cargo xtask help`.
//!
//! * [`mod@fuzz`]: any bytes to everything that reads bytes, under libFuzzer.
//! * [`mod@test`]: every test there is, as a table of steps, and a count at the end.
//! * [`mod@kafka`]: a real Apache Kafka on this machine.
//! * `man`: the manual pages of the command;
//! * [`mod@tidy`]: what the compiler does not check about the repository, one file per rule.
//!
//! No dependencies: this is the first thing that is built on a fresh machine.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command talks to the person who called it")]
#![allow(clippy::disallowed_methods, reason = "chores use the real disk and clock; nothing here is simulated")]

mod fuzz;
mod kafka;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use test::Size;

const USAGE: &str = "\
usage: cargo xtask <command>

    test [--quick]   run all tests, with all the set-up they need; --quick simulates fewer crashes
    fuzz [--seconds N] [TARGET ...]
                     run each fuzz target, or those named, for 60 or so many seconds each
    kafka up [--brokers 1|3] | kill | down | status
                     start an Apache Kafka on loopback, also after a kill; kill it without warning; end it and
                     remove its data; or say where it is
    kafka test [ARGUMENT ...]
                     run the tests of oncelog-kafka on a broker of their own
    man              write the manual pages of the command to target/man
    tidy             check what the compiler does not: floors, docs, leftovers, layout, dependencies
    help             print this

exit code: 0 all well, 1 something failed, 2 the command line was wrong";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Command {
    Test(Size),
    Man,
    Fuzz(fuzz::Options),
    Kafka(kafka::Action),
    Tidy,
    Help,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match parse(&words) {
        Ok(Command::Test(size)) => test::run(&root(), size),
        Ok(Command::Fuzz(options)) => fuzz::run(&root(), &options),
        Ok(Command::Kafka(action)) => kafka::run(&root(), &action),
        Ok(Command::Man) => man(&root()),
        Ok(Command::Tidy) => tidy::run(&root()),
        Ok(Command::Help) => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Err(complaint) => {
            eprintln!("{complaint}\n\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(words: &[&str]) -> Result<Command, String> {
    match words {
        ["test"] => Ok(Command::Test(Size::Full)),
        ["test", "--quick"] => Ok(Command::Test(Size::Quick)),
        ["fuzz", rest @ ..] => fuzz::parse(rest).map(Command::Fuzz),
        ["kafka", rest @ ..] => kafka::parse(rest).map(Command::Kafka),
        ["man"] => Ok(Command::Man),
        ["tidy"] => Ok(Command::Tidy),
        ["help" | "--help" | "-h"] => Ok(Command::Help),
        [] => Err("a command is missing".to_owned()),
        words => Err(format!("not a command: {}", words.join(" "))),
    }
}

/// The command writes its own manual, from the definition of its arguments.
fn man(root: &Path) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let pages = root.join("target/man");
    let mut call = std::process::Command::new(cargo);
    call.current_dir(root).args(["run", "--quiet", "--locked", "-p", "oncelog-cli", "--", "man"]).arg(&pages);
    match call.status() {
        Ok(status) if status.success() => {
            println!("the manual is in {}", pages.display());
            ExitCode::SUCCESS
        }
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot run cargo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the checkout. Cargo names the package's directory at run time; a binary that is run by hand remembers
/// where it was built.
fn root() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_apart() {
        assert_eq!(parse(&["test"]), Ok(Command::Test(Size::Full)));
        assert_eq!(parse(&["test", "--quick"]), Ok(Command::Test(Size::Quick)));
        assert_eq!(parse(&["man"]), Ok(Command::Man));
        assert_eq!(parse(&["tidy"]), Ok(Command::Tidy));
        assert_eq!(parse(&["help"]), Ok(Command::Help));
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(parse(&[]).is_err());
        assert!(parse(&["tset"]).is_err());
        assert!(parse(&["tidy", "--quick"]).is_err());
    }
}
