//! The only way to stdout and stderr, and what happens when nobody reads there.
//!
//! Data goes to stdout through one buffer: [`Stdout::flush`] gives it to whoever reads before anything is said to be
//! done. Everything else goes to stderr.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::Output;
use crate::exit::Failure;

/// Writes one line to stdout, at once.
///
/// # Errors
/// The reader has gone, which ends the command quietly; or the line could not be written.
pub(crate) fn line(line: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(refused)
}

/// Writes one line to stderr. There is nowhere left to tell of a failure here.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "oncelog: {message}");
}

/// Writes a line beside a message that went before.
pub(crate) fn advise(hint: &str) {
    let _ = writeln!(io::stderr().lock(), "  what can be done: {hint}");
}

fn refused(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::io("write to the standard output", &error),
    }
}

/// The standard output, for much data.
pub(crate) struct Stdout(BufWriter<StdoutLock<'static>>);

impl Stdout {
    pub(crate) fn new() -> Stdout {
        Stdout(BufWriter::with_capacity(256 << 10, io::stdout().lock()))
    }

    /// # Errors
    /// As [`line`].
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).map_err(refused)
    }

    /// Hands everything to the reader. What was written before is out when this returns.
    ///
    /// # Errors
    /// As [`line`].
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        // The lock of the standard library has a buffer of its own behind ours.
        self.0.flush().and_then(|()| self.0.get_mut().flush()).map_err(refused)
    }
}

impl Drop for Stdout {
    fn drop(&mut self) {
        // What could be told of a failure here was told by `flush`.
        let _ = self.flush();
    }
}

/// Whether somebody still reads the standard output. Asked by those who wait and have nothing to write: they would
/// never find out.
///
/// # Errors
/// Nobody does.
pub(crate) fn check_read() -> Result<(), Failure> {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let stdout = io::stdout();
        let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // What cannot be asked is told by the next write.
        let answered = poll(&mut asked, Some(&now)).is_ok_and(|count| count > 0);
        if answered && asked[0].revents().intersects(PollFlags::ERR) {
            return Err(Failure::Unread);
        }
    }
    Ok(())
}

/// Tells an answer: as a JSON document, or as the text that is made of it.
///
/// # Errors
/// As [`line`].
pub(crate) fn answer<T: Serialize>(output: Output, told: &T, text: impl FnOnce(&T) -> String) -> Result<(), Failure> {
    match output {
        Output::Json => line(serde_json::to_string(told).map_err(Failure::plain)?),
        Output::Text => {
            let text = text(told);
            if text.is_empty() { Ok(()) } else { line(text.trim_end_matches('\n')) }
        }
    }
}

/// Text in columns, with a line of names above; numbers to the right.
pub(crate) fn columns(names: &[&str], rows: &[Vec<String>]) -> String {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0).max(names[at].len());
    let right = |at: usize| !rows.is_empty() && rows.iter().all(|row| is_number(&row[at]) || row[at] == "-");
    let mut text = String::new();
    let head: Vec<String> = names.iter().map(|name| name.to_string()).collect();
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().enumerate().map(|(at, cell)| {
            let fill = " ".repeat(width(at) - cell.chars().count());
            if right(at) { format!("{fill}{cell}") } else { format!("{cell}{fill}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A bar on stderr, seen only where that is a terminal: one that hides `total` where it is not known.
pub(crate) fn progress(total: Option<u64>, template: &str) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [vec!["ann".to_owned(), "7".to_owned()], vec!["b".to_owned(), "1200".to_owned()]];
        assert_eq!(columns(&["NAME", "LAG"], &rows), "NAME   LAG\nann      7\nb     1200\n");
    }
}
