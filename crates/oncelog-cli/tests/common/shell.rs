//! A store at the prompt: a directory of its own, and the command in it.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use assert_cmd::Command as Asserted;
use tempfile::TempDir;

use super::{failure, oncelog};

/// Where the command is run.
pub(crate) struct Shell(TempDir);

impl Shell {
    pub(crate) fn new() -> Shell {
        Shell(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The command with arguments that are parted by blanks.
    pub(crate) fn command(&self, line: &str) -> Asserted {
        let mut command = oncelog(self.0.path());
        command.env_remove("ONCELOG_STORE").args(line.split_whitespace());
        command
    }

    /// What it answers; it must succeed and say nothing else.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> String {
        answer(line, &self.command(line).output().unwrap())
    }

    /// As [`Shell::ok`], with something to read.
    #[track_caller]
    pub(crate) fn ok_on(&self, line: &str, input: impl Into<Vec<u8>>) -> String {
        answer(line, &self.command(line).write_stdin(input).output().unwrap())
    }

    /// It must fail with this code, with one line that holds this part.
    #[track_caller]
    pub(crate) fn fails(&self, line: &str, code: i32, part: &str) {
        self.fails_on(line, "", code, part);
    }

    /// As [`Shell::fails`], with something to read.
    #[track_caller]
    pub(crate) fn fails_on(&self, line: &str, input: impl Into<Vec<u8>>, code: i32, part: &str) {
        let (found, told) = failure(&self.command(line).write_stdin(input).output().unwrap());
        assert!(found == code && told.contains(part), "`{line}`: code {found}, not {code} with {part:?}: {told}");
    }

    /// Fails with that code; all that it tells, what can be done too.
    #[track_caller]
    pub(crate) fn told(&self, line: &str, input: impl Into<Vec<u8>>, code: i32) -> String {
        let output = self.command(line).write_stdin(input).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "`{line}`: {told}");
        told
    }

    /// The command in the background, its input and output in the hands of the test.
    pub(crate) fn start(&self, line: &str) -> Background {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oncelog"));
        command.current_dir(self.0.path()).env_remove("ONCELOG_STORE").env_remove("RUST_LOG");
        command.args(line.split_whitespace()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Background(command.spawn().unwrap())
    }
}

#[track_caller]
fn answer(line: &str, output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "`{line}`: {stdout}");
    stdout.into_owned()
}

/// A process that ends with the test.
pub(crate) struct Background(pub(crate) Child);

impl Background {
    /// SIGKILL, and the end of it.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.kill();
    }
}
