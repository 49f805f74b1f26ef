//! Runs one step: its output goes through to ours as it comes, and into a [`Tally`].

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::steps::Step;
use super::tally::{Exit, Tally, Verdict};

/// Runs `step` to its end. A step that cannot even start is a failed one.
pub(super) fn run(root: &Path, step: &Step) -> Verdict {
    match watch(root, step) {
        Ok((exit, tally)) => tally.judge(step.proof, exit),
        Err(error) => Verdict::failed(format!("could not be run: {error}")),
    }
}

fn watch(root: &Path, step: &Step) -> io::Result<(Exit, Tally)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut child = Command::new(cargo)
        .args(&step.arguments)
        .envs(step.environment.iter().map(|(key, value)| (key, value)))
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut tally = Tally::default();
    if let Some(output) = child.stdout.take() {
        pass_through(output, &mut tally)?;
    }
    let exit = if child.wait()?.success() { Exit::Well } else { Exit::Badly };
    Ok((exit, tally))
}

fn pass_through(output: impl Read, tally: &mut Tally) -> io::Result<()> {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        let mut ours = io::stdout().lock();
        ours.write_all(&line)?;
        ours.flush()?;
        tally.read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(())
}
