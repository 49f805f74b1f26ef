//! What the tests of the command share: running it, and reading its summary.

#![allow(dead_code, reason = "each file of tests takes what it needs of it")]

pub(crate) mod shell;

use std::path::Path;
use std::process::Output;

use assert_cmd::Command;

/// The command, in `dir`.
pub(crate) fn oncelog(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncelog"));
    command.current_dir(dir).env_remove("RUST_LOG");
    command
}

/// What a run that succeeded says on stdout; on stderr it says nothing.
pub(crate) fn summary(output: &Output) -> Summary {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), stderr.as_str()), (Some(0), ""), "{stdout}");
    Summary(stdout)
}

/// What a run that failed says on stderr: one line, without the name of the command, and the exit code. Behind it may
/// come one that says what can be done.
#[track_caller]
pub(crate) fn failure(output: &Output) -> (i32, String) {
    let stderr = text(&output.stderr);
    let (told, hint) = stderr.split_once("\n  what can be done: ").unwrap_or((stderr.trim_end_matches('\n'), "-"));
    assert!(stderr.ends_with('\n') && !hint.trim_end_matches('\n').contains('\n'), "{stderr:?}");
    let line = told.strip_prefix("oncelog: ");
    let line = line.unwrap_or_else(|| panic!("not one line of ours: {stderr:?}"));
    assert!(!line.contains('\n') && !line.contains("panicked"), "{stderr:?}");
    (output.status.code().expect("no exit code"), line.to_owned())
}

/// The lines of a summary.
pub(crate) struct Summary(String);

impl Summary {
    /// What the line of that name says.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no line {name:?} in\n{}", self.0)).trim()
    }

    /// The number that the line of that name starts with.
    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        let digits: String = self.get(name).chars().take_while(|c| *c != ' ').filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("no number at {name:?} in\n{}", self.0))
    }

    /// Nothing is lost and nothing is there twice.
    #[track_caller]
    pub(crate) fn assert_exact(&self) {
        assert_eq!((self.number("duplicates"), self.number("lost")), (0, 0), "{}", self.0);
        assert!(self.get("result").starts_with("equal"), "{}", self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}
