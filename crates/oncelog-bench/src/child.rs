//! This program once more, as another process: one that is killed, one whose memory is looked at, one that is woken.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::workload::Size;
use crate::{Result, alone};

/// What a child is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    Writer,
    Reader,
    Waiter,
}

/// A running child. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

/// Starts a child that works in `dir`.
pub(crate) fn start(role: Role, dir: &Path, size: Size) -> Result<Running> {
    let name = match role {
        Role::Writer => "writer",
        Role::Reader => "reader",
        Role::Waiter => "waiter",
    };
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", name, "--dir"]).arg(dir).stdin(Stdio::null()).stdout(Stdio::piped());
    if size == Size::Quick {
        command.arg("--quick");
    }
    let mut child = command.spawn()?;
    let out = child.stdout.take().ok_or("a child has no output")?;
    Ok(Running { child, out: BufReader::new(out) })
}

/// What this process does when it is a child.
pub(crate) fn run(role: Role, dir: &Path, size: Size) -> Result<()> {
    match role {
        Role::Writer => alone::write_on(dir, size),
        Role::Reader => alone::read_all(dir, size),
        Role::Waiter => alone::wait_for_records(dir),
    }
}

impl Running {
    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        match self.out.read_line(&mut line)? {
            0 => Err("a child has ended before its time".into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Kills it, as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end, which must be a good one.
    pub(crate) fn end(mut self) -> Result<()> {
        let ended = self.child.wait()?;
        if ended.success() { Ok(()) } else { Err(format!("a child has failed: {ended}").into()) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It is gone already, unless something here has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
