//! The one error of the crate. Its [`ErrorKind`] is the caller's next step; its message names file or topic, and
//! position.
//!
//! Small by design: kinds are few, text is for people, and nothing in the crate matches on text. Causes are kept as a
//! chain.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::ids::{LogOffset, ProducerEpoch, Sequence};

/// The result of everything in this crate that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself is wrong: fix it. Nothing was written.
    Invalid,
    /// What was named does not exist.
    NotFound,
    /// Something that the transaction read has changed since: run it again. Nothing was written.
    Conflict,
    /// Another process (see [`Error::holder_pid`]) or another handle of this one has it: wait, or stop the other.
    Locked,
    /// A newer generation has taken over: stop.
    Fenced,
    /// The disk failed at the moment of truth; the change may be there or not. Reopen the store and look.
    InDoubt,
    /// Bytes on disk are not what was written there. Restore; nothing was repaired or skipped.
    Corrupt,
    /// No space left for what was asked: free some and call again. Nothing was written.
    Full,
    /// The topic holds as much as it may, and all of it must be kept until its consumers have read it: wait, or have
    /// them read. Nothing was written.
    TopicFull,
    /// The operating system or a server refused for now: try later.
    Unavailable,
    /// The files were written by a newer Oncelog: upgrade. Nothing was written.
    UnsupportedVersion,
    /// Records that should come next are gone (see [`Error::gap`]): decide where to go on.
    Gap,
    /// The handle has ended, by `close` or by an earlier failure: reopen.
    Closed,
    /// Your own function failed or panicked; its error is the [`source`](StdError::source).
    User,
}

/// What went wrong, where, and why. See [`Error::kind`] for what to do next.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    file: Option<PathBuf>,
    position: Option<u64>,
    holder_pid: Option<u32>,
    holder_owner: Option<String>,
    gap: Option<Range<LogOffset>>,
    expected_sequence: Option<Sequence>,
    current_epoch: Option<ProducerEpoch>,
    next_offset: Option<LogOffset>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` that says `message`.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner {
            kind,
            message: message.into(),
            file: None,
            position: None,
            holder_pid: None,
            holder_owner: None,
            gap: None,
            expected_sequence: None,
            current_epoch: None,
            next_offset: None,
            source: None,
        }))
    }

    /// Wraps an error of your own, to be returned from a processing function and found again as the
    /// [`source`](StdError::source).
    #[must_use]
    pub fn user(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::new(ErrorKind::User, "the processing function failed").because(error)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Invalid, message)
    }

    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the store is closed")
    }

    pub(crate) fn corrupt(file: &Path, position: u64, what: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Corrupt, what.to_string()).at(file, position)
    }

    /// Turns an I/O error into the kind that tells what to do, naming the file and what was tried.
    pub(crate) fn io(file: &Path, doing: &str, error: io::Error) -> Error {
        let kind = match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => ErrorKind::Full,
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            // What `DiskFile::read_whole` says of a file that is longer than it can be.
            io::ErrorKind::InvalidData => ErrorKind::Corrupt,
            _ => ErrorKind::Unavailable,
        };
        let mut wrapped = Error::new(kind, format!("cannot {doing}")).because(error);
        wrapped.0.file = Some(file.to_owned());
        wrapped
    }

    /// Whether it is that a path went through something else than a directory.
    pub(crate) fn is_not_a_directory(&self) -> bool {
        let source = self.0.source.as_ref().and_then(|source| source.downcast_ref::<io::Error>());
        source.is_some_and(|source| source.kind() == io::ErrorKind::NotADirectory)
    }

    /// A sync that failed. Never `Full`, whatever the reason: nothing is known of what it should have covered, and
    /// trying again would prove nothing.
    pub(crate) fn sync(file: &Path, doing: &str, error: io::Error) -> Error {
        Error::unknown(file, doing, error)
    }

    /// Behind it nobody knows what is there. `Unavailable`, whatever the reason: after `Full` one goes on as if nothing
    /// had happened.
    pub(crate) fn unknown(file: &Path, doing: &str, error: io::Error) -> Error {
        let mut wrapped = Error::io(file, doing, error);
        wrapped.0.kind = ErrorKind::Unavailable;
        wrapped
    }

    pub(crate) fn locked(file: &Path, what: impl fmt::Display, holder_pid: Option<u32>) -> Error {
        let mut error = Error::new(ErrorKind::Locked, what.to_string());
        error.0.file = Some(file.to_owned());
        error.0.holder_pid = holder_pid;
        error
    }

    /// `what` belongs to another owner, which `pid` has now.
    pub(crate) fn owned(file: &Path, what: impl fmt::Display, owner: &str, pid: Option<u32>) -> Error {
        let mut error = Error::locked(file, format!("{what} belongs to owner {owner:?}"), pid);
        error.0.holder_owner = Some(owner.to_owned());
        error
    }

    /// Of kind `Gap`: the records at these offsets are gone.
    #[must_use]
    pub fn lost(topic: &str, partition: u32, lost: Range<LogOffset>) -> Error {
        let what = format!("topic {topic}, partition {partition}: lost {}..{}", lost.start, lost.end);
        let mut error = Error::new(ErrorKind::Gap, what);
        error.0.gap = Some(lost);
        error
    }

    /// A stamp that is not the next one of its producer.
    pub(crate) fn out_of_sequence(what: impl fmt::Display, got: Sequence, expected: Sequence) -> Error {
        let mut error = Error::invalid(format!("{what}: sequence {got} is out of order, {expected} is the next"));
        error.0.expected_sequence = Some(expected);
        error
    }

    /// A partition whose next offset is not the one that an append expects.
    pub(crate) fn unexpected_offset(topic: &str, partition: u32, expected: LogOffset, next: LogOffset) -> Error {
        let what =
            format!("topic {topic}, partition {partition}: the next offset is {next}, not {expected} as expected");
        let mut error = Error::new(ErrorKind::Conflict, what);
        error.0.next_offset = Some(next);
        error
    }

    /// A stamp of an older generation of its producer.
    pub(crate) fn fenced_producer(what: impl fmt::Display, epoch: ProducerEpoch, current: ProducerEpoch) -> Error {
        let what = format!("{what}: opened again elsewhere, epoch {epoch} is over, {current} is at work");
        let mut error = Error::new(ErrorKind::Fenced, what);
        error.0.current_epoch = Some(current);
        error
    }

    #[must_use]
    pub(crate) fn at(mut self, file: &Path, position: u64) -> Error {
        self.0.file = Some(file.to_owned());
        self.0.position = Some(position);
        self
    }

    #[must_use]
    pub(crate) fn in_file(mut self, file: &Path) -> Error {
        self.0.file.get_or_insert_with(|| file.to_owned());
        self
    }

    /// The same with its cause, which is found again as the [`source`](StdError::source).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller can do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file that the error is about, if it is about one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The byte position within [`Error::file`], if known.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.0.position
    }

    /// The process that holds what was asked for, with [`ErrorKind::Locked`].
    #[must_use]
    pub fn holder_pid(&self) -> Option<u32> {
        self.0.holder_pid
    }

    /// The owner to whom what was asked for belongs, with [`ErrorKind::Locked`] when that is another one of this store.
    #[must_use]
    pub fn holder_owner(&self) -> Option<&str> {
        self.0.holder_owner.as_deref()
    }

    /// The half-open range of log offsets that is gone, with [`ErrorKind::Gap`].
    #[must_use]
    pub fn gap(&self) -> Option<Range<LogOffset>> {
        self.0.gap.clone()
    }

    /// The sequence that the store expects next of a producer, with [`ErrorKind::Invalid`] where a stamp skipped ahead:
    /// what lies between was lost on the way, or was never sent.
    #[must_use]
    pub fn expected_sequence(&self) -> Option<Sequence> {
        self.0.expected_sequence
    }

    /// The next offset of the partition, with [`ErrorKind::Conflict`] where an append expected another.
    #[must_use]
    pub fn next_offset(&self) -> Option<LogOffset> {
        self.0.next_offset
    }

    /// The epoch that has taken over, with [`ErrorKind::Fenced`] where a producer was opened again.
    #[must_use]
    pub fn current_epoch(&self) -> Option<ProducerEpoch> {
        self.0.current_epoch
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(file) = &self.0.file {
            write!(f, " ({}", file.display())?;
            if let Some(position) = self.0.position {
                write!(f, " at byte {position}")?;
            }
            f.write_str(")")?;
        }
        if let Some(pid) = self.0.holder_pid {
            write!(f, ", held by process {pid}")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| source.as_ref() as &(dyn StdError + 'static))
    }
}
