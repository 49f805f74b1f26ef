//! Failures: one line for people, one exit code for scripts, and a second line where something can be done about it.
//!
//! Each kind of error that the library knows has its code and its advice here, and nowhere else.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | it is done |
//! | 1 | it failed: the line says why |
//! | 2 | the call is wrong |
//! | 3 | what was named does not exist |
//! | 4 | a store is damaged, or was written by a newer Oncelog |
//! | 5 | another process has the store |

use std::fmt;
use std::io;
use std::process::ExitCode;

use clap::CommandFactory as _;
use oncelog::ErrorKind;

use crate::out;

/// It failed.
pub(crate) const FAILURE: u8 = 1;
/// The call is wrong.
pub(crate) const USAGE: u8 = 2;
/// What was named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// A store is damaged, or was written by a newer Oncelog.
pub(crate) const CORRUPT: u8 = 4;
/// Another process has the store.
pub(crate) const LOCKED: u8 = 5;

/// Why a command ends without having done its work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// To be told in one line.
    Told {
        /// The exit code.
        code: u8,
        /// One line, without the name of the command.
        message: String,
        /// What the user can do next, if that is known.
        hint: Option<String>,
    },
    /// Nobody reads what the command writes: it ends quietly.
    Unread,
}

impl Failure {
    /// A failure with a code and one line of text; what the text has of further lines is folded into it.
    pub(crate) fn new(code: u8, message: impl fmt::Display) -> Failure {
        let message = message.to_string();
        let lines: Vec<_> = message.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Failure::Told { code, message: lines.join(" "), hint: None }
    }

    /// A plain failure.
    pub(crate) fn plain(message: impl fmt::Display) -> Failure {
        Failure::new(FAILURE, message)
    }

    /// What the operating system refused.
    pub(crate) fn io(doing: impl fmt::Display, error: &io::Error) -> Failure {
        let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { FAILURE };
        Failure::new(code, format_args!("cannot {doing}: {error}"))
    }

    /// A wrong call, from the parser's many lines: what is wrong and how to mend it stays, the usage goes.
    pub(crate) fn usage(rendered: &str) -> Failure {
        let told = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
        let told = told.filter(|line| !line.is_empty() && !line.starts_with("For more information"));
        let told: Vec<_> = told.map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
        let told = told.join(" ").replace(" tip: ", "; ");
        Failure::new(USAGE, format_args!("{told} (see '{} --help')", called(std::env::args())))
    }

    /// A wrong call that the parser could not see.
    pub(crate) fn usage_of(message: impl fmt::Display) -> Failure {
        Failure::new(USAGE, format_args!("{message} (see '{} --help')", called(std::env::args())))
    }

    /// Whether it is that something named does not exist.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Failure::Told { code: NOT_FOUND, .. })
    }

    /// With code `now` where it had `before`.
    pub(crate) fn instead_of(self, before: u8, now: u8) -> Failure {
        match self {
            Failure::Told { code, message, hint } if code == before => Failure::Told { code: now, message, hint },
            other => other,
        }
    }

    /// Puts what was being done before the message.
    pub(crate) fn while_doing(self, doing: &str) -> Failure {
        match self {
            Failure::Told { code, message, hint } => {
                Failure::Told { code, message: format!("{doing}: {message}"), hint }
            }
            Failure::Unread => Failure::Unread,
        }
    }

    /// Says what can be done about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        match self {
            Failure::Told { code, message, .. } => Failure::Told { code, message, hint: Some(hint.into()) },
            Failure::Unread => Failure::Unread,
        }
    }

    /// Says more of what can be done about it.
    pub(crate) fn hint_too(self, more: impl fmt::Display) -> Failure {
        match self {
            Failure::Told { code, message, hint } => {
                let hint = hint.map_or_else(|| more.to_string(), |hint| format!("{hint}; {more}"));
                Failure::Told { code, message, hint: Some(hint) }
            }
            Failure::Unread => Failure::Unread,
        }
    }

    /// Tells it on stderr and gives the exit code.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Failure::Told { code, message, hint } => {
                out::complain(&message);
                if let Some(hint) = hint {
                    out::advise(&hint);
                }
                ExitCode::from(code)
            }
            Failure::Unread => ExitCode::SUCCESS,
        }
    }
}

impl From<oncelog::Error> for Failure {
    fn from(error: oncelog::Error) -> Failure {
        let (code, hint) = of_kind(&error);
        let failure = Failure::new(code, &error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

/// The exit code of an error, and what can be done about it.
fn of_kind(error: &oncelog::Error) -> (u8, Option<String>) {
    let hint = |text: &str| Some(text.to_owned());
    match error.kind() {
        ErrorKind::NotFound => (NOT_FOUND, None),
        ErrorKind::Invalid => (USAGE, None),
        ErrorKind::Corrupt => (
            CORRUPT,
            hint("`oncelog verify` tells all that is damaged; restore from a backup, or see `oncelog repair`"),
        ),
        ErrorKind::UnsupportedVersion => (CORRUPT, hint("use the version of oncelog that wrote it, or a newer one")),
        ErrorKind::Locked => (LOCKED, Some(when_locked(error))),
        ErrorKind::Full => (FAILURE, hint("free some space on that file system and call again")),
        ErrorKind::TopicFull => {
            (FAILURE, hint("call again when its consumers have read, or raise its limit with `oncelog topic alter`"))
        }
        ErrorKind::InDoubt => {
            (FAILURE, hint("the disk failed: look at the system's log; the store recovers when it is opened"))
        }
        ErrorKind::Fenced => (FAILURE, hint("another process has taken over: leave it to that one")),
        ErrorKind::Unavailable => {
            (FAILURE, hint("try again later; if it stays so, `oncelog doctor` looks at the place"))
        }
        _ => (FAILURE, None),
    }
}

fn when_locked(error: &oncelog::Error) -> String {
    error.holder_pid().map_or_else(
        || "call again in a moment".to_owned(),
        |pid| format!("stop {}, or call again when it has ended", process(pid)),
    )
}

/// A process, as people can find it.
pub(crate) fn process(pid: u32) -> String {
    program_of(pid).map_or_else(|| format!("process {pid}"), |name| format!("process {pid} ({name})"))
}

/// The command as far as its nouns and verbs were named right: the help that is pointed at is that of the call.
fn called(arguments: impl Iterator<Item = String>) -> String {
    let mut named = vec!["oncelog".to_owned()];
    let mut command = crate::cli::Cli::command();
    for argument in arguments.skip(1) {
        let Some(found) = command.find_subcommand(&argument) else { break };
        named.push(argument);
        command = found.clone();
    }
    named.join(" ")
}

/// What the system calls the program that runs as `pid`, if it says.
fn program_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_call_is_told_in_one_line_with_its_tip() {
        let rendered = "error: unexpected argument '--kill' found\n\n  tip: a similar argument exists: '--kills'\n\n\
                        Usage: oncelog demo [OPTIONS]\n\nFor more information, try '--help'.\n";
        let message = "unexpected argument '--kill' found; a similar argument exists: '--kills' (see 'oncelog --help')";
        assert_eq!(Failure::usage(rendered), Failure::new(USAGE, message));
    }

    #[test]
    fn help_is_that_of_the_verb_that_was_called() {
        let of = |line: &str| called(line.split(' ').map(str::to_owned));
        assert_eq!(of("oncelog topic create x --partitions 0"), "oncelog topic create");
        assert_eq!(of("oncelog consume topic"), "oncelog consume");
        assert_eq!(of("oncelog --frob topic"), "oncelog");
    }

    #[test]
    fn kinds_become_codes() {
        let code = |kind| match Failure::from(oncelog::Error::new(kind, "a\nb")) {
            Failure::Told { code, message, .. } => {
                assert_eq!(message, "a b");
                code
            }
            Failure::Unread => 0,
        };
        assert_eq!(code(ErrorKind::NotFound), 3);
        assert_eq!(code(ErrorKind::Corrupt), 4);
        assert_eq!(code(ErrorKind::UnsupportedVersion), 4);
        assert_eq!(code(ErrorKind::Locked), 5);
        assert_eq!(code(ErrorKind::Full), 1);
        assert_eq!(code(ErrorKind::Invalid), 2);
    }
}
