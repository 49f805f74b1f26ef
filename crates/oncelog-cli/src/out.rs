//! The only way to stdout and stderr, and what happens when nobody reads there.

use std::fmt;
use std::io::{self, Write as _};

use crate::exit::Failure;

/// Writes one line to stdout, at once.
///
/// # Errors
/// The reader has gone, which ends the command quietly; or the line could not be written.
pub(crate) fn line(line: impl fmt::Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::io("write to the standard output", &error),
    })
}

/// Writes one line to stderr. There is nowhere left to tell of a failure here.
pub(crate) fn complain(message: &str) {
    let _ = writeln!(io::stderr().lock(), "oncelog: {message}");
}
