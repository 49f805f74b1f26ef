//! What can go wrong with offsets, as the contract names it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::offset::Offset;
use crate::error::{Error, ErrorKind};

/// Why an offset was not read or not stored. Nothing has changed, but for `Io` and `Store`: then what was stored before
/// is there, or what was to be stored.
#[derive(Debug)]
#[non_exhaustive]
pub enum OffsetError {
    /// The file system said no: no space, no permission, a read-only file.
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file holds something else than offsets, is damaged, or is of a newer version. It is not touched: mend or
    /// remove it.
    Serialization {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing is stored for this source, and the policy says that there must be.
    SourceNotFound(String),
    /// Others had the lock for too long.
    Lock {
        /// The file that carries the lock.
        file: PathBuf,
    },
    /// The offset cannot be committed: lower than what is there, of another kind, or no place at all. Or the name of
    /// the source cannot be used.
    InvalidOffset(String),
    /// The stored offset lies outside what the source still has.
    OutOfRange {
        /// The source.
        name: String,
        /// What was stored.
        offset: u64,
        /// The first that is still there.
        start: u64,
        /// The one behind the last.
        end: u64,
    },
    /// The store that keeps the offsets failed.
    Store(Error),
}

impl OffsetError {
    pub(crate) fn io(file: &Path, error: io::Error) -> OffsetError {
        OffsetError::Io { file: file.to_owned(), error }
    }

    pub(crate) fn bad_file(file: &Path, reason: impl fmt::Display) -> OffsetError {
        OffsetError::Serialization { file: file.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn regress(source: &str, stored: &Offset, offered: &Offset) -> OffsetError {
        let what = match stored.partial_cmp(offered) {
            None => "of another kind than",
            Some(_) => "before",
        };
        OffsetError::InvalidOffset(format!(
            "source {source:?}: {offered} is {what} {stored}, which is stored; \
            only a reset goes back"
        ))
    }
}

impl fmt::Display for OffsetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OffsetError::Io { file, error } => write!(f, "{}: {error}", file.display()),
            OffsetError::Serialization { file, reason } => write!(f, "{}: {reason}", file.display()),
            OffsetError::SourceNotFound(source) => write!(f, "no offset is stored for source {source:?}"),
            OffsetError::Lock { file } => write!(f, "{}: others have the lock for too long", file.display()),
            OffsetError::InvalidOffset(what) => f.write_str(what),
            OffsetError::OutOfRange { name, offset, start, end } => {
                write!(f, "source {name:?}: offset {offset} is stored, and there is only {start}..{end}")
            }
            OffsetError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OffsetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OffsetError::Io { error, .. } => Some(error),
            OffsetError::Store(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Error> for OffsetError {
    fn from(error: Error) -> OffsetError {
        OffsetError::Store(error)
    }
}

impl From<OffsetError> for Error {
    fn from(error: OffsetError) -> Error {
        let kind = match error {
            OffsetError::Store(error) => return error,
            OffsetError::Io { file, error } => return Error::io(&file, "use an offset file", error),
            OffsetError::Serialization { ref file, ref reason } => return Error::corrupt(file, 0, reason),
            OffsetError::Lock { ref file } => return Error::locked(file, error.to_string(), None),
            OffsetError::SourceNotFound(_) => ErrorKind::NotFound,
            OffsetError::InvalidOffset(_) => ErrorKind::Invalid,
            OffsetError::OutOfRange { .. } => ErrorKind::Gap,
        };
        Error::new(kind, error.to_string())
    }
}
