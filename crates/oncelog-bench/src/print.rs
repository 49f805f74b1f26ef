//! The only place that prints.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the way out for results and remarks")]

/// A line of the result.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// A remark that is no result: progress, or why there is none.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}
