//! What every store of checkpoints does.

use super::key::Lineage;
use super::state::CheckpointState;
use crate::error::{Error, ErrorKind, Result};
use crate::wake::Arc;

/// Keeps the checkpoints of streams, at most so many of each. Object-safe; share one as `Arc<dyn CheckpointStore>`.
///
/// Each stream has a current line ([`Lineage`]); what a rewind has left behind is listed until it has to make room, and
/// never taken for the newest.
pub trait CheckpointStore: Send + Sync {
    /// Saves a checkpoint; as durable on return as the store can be, and whole or absent before. One of the same
    /// sequence is replaced; what is too much goes after that.
    ///
    /// # Errors
    /// `Invalid`: the stream has no usable name, or the state cannot be written; its watermark is before that of the
    /// newest good one of the line; or it is older than that one, and there is room for one only. `Fenced`: the stream
    /// was rewound, and this is of the line before: stop. `Conflict`: it was rewound twice at once.
    /// `UnsupportedVersion`: a newer version wrote the newest of the line. `Full`, `Locked`, `Unavailable`. What was
    /// there before is there.
    fn save(&self, state: &CheckpointState) -> Result<()>;

    /// The newest of the current line that can be read, and what had to be passed over. `None`: there is none at all.
    ///
    /// # Errors
    /// `Corrupt`: there are some, and none can be read. `UnsupportedVersion`: a newer version wrote the newest; it is
    /// not passed over. `Unavailable`, `Locked`: it is not known.
    fn latest(&self, stream: &str) -> Result<Option<LatestCheckpoint>>;

    /// The one of exactly this sequence; one that a rewind has left behind too.
    ///
    /// # Errors
    /// As [`CheckpointStore::latest`], but that nothing is passed over.
    fn get(&self, stream: &str, sequence: u64) -> Result<Option<CheckpointState>>;

    /// All that there are, by sequence, damaged ones too: nothing is read of them.
    ///
    /// # Errors
    /// `Corrupt`: there is something that is no checkpoint. `Unavailable`.
    fn list(&self, stream: &str) -> Result<Vec<CheckpointEntry>>;

    /// Deletes those before a sequence that are older than the newest good one of the current line; gives how many.
    /// What is newer and damaged stays until there is a newer good one: only through it may the good one be known.
    ///
    /// # Errors
    /// `Corrupt`: none can be read; then none is deleted. `Unavailable`, `Locked`: some may be gone.
    fn delete_before(&self, stream: &str, sequence: u64) -> Result<u64>;

    /// How many there are of a stream.
    ///
    /// # Errors
    /// As [`CheckpointStore::list`].
    fn checkpoint_count(&self, stream: &str) -> Result<u64> {
        Ok(self.list(stream)?.len() as u64)
    }

    /// The streams that have one.
    ///
    /// # Errors
    /// As [`CheckpointStore::list`].
    fn streams(&self) -> Result<Vec<String>>;

    /// Forgets a stream: deletes all of its checkpoints, good ones too, and gives how many. It begins anew then.
    ///
    /// # Errors
    /// `Unavailable`, `Locked`: some may be gone.
    fn clear(&self, stream: &str) -> Result<u64>;

    /// The checkpoint of exactly this sequence, whatever line it is on, or else, also where that one is damaged, the
    /// newest good one before it on the current line: what [`CheckpointStore::rewind`] goes back to. What was passed
    /// over is told.
    ///
    /// # Errors
    /// `NotFound`: there is none. `Corrupt`: there is, and none can be read. Others as [`CheckpointStore::latest`].
    fn at_or_before(&self, stream: &str, sequence: u64) -> Result<LatestCheckpoint> {
        let mut damaged = Vec::new();
        let entries = self.list(stream)?;
        let exact = entries.iter().rev().find(|entry| entry.sequence == sequence);
        let before = entries.iter().rev().filter(|entry| entry.is_current && entry.sequence < sequence);
        for entry in exact.into_iter().chain(before) {
            match self.get(stream, entry.sequence) {
                Ok(Some(state)) => return Ok(LatestCheckpoint { state, damaged }),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    damaged.push(DamagedCheckpoint { sequence: entry.sequence, lineage: entry.lineage, error });
                }
                Err(error) => return Err(error),
            }
        }
        let none =
            Error::new(ErrorKind::NotFound, format!("stream {stream:?}: no good checkpoint at or before {sequence}"));
        Err(damaged.into_iter().next().map_or(none, |newest| newest.error))
    }

    /// Goes back to the checkpoint that [`CheckpointStore::at_or_before`] finds: a new line begins there. It is saved
    /// again as the first of that line, so the rewind is durable on return, and whoever is still on the old line is
    /// refused from then on.
    ///
    /// # Errors
    /// As [`CheckpointStore::at_or_before`] and [`CheckpointStore::save`].
    fn rewind(&self, stream: &str, sequence: u64) -> Result<LatestCheckpoint> {
        let mut found = self.at_or_before(stream, sequence)?;
        let newest = self.list(stream)?.iter().map(|entry| entry.lineage.number).max().unwrap_or(0);
        let number = newest.checked_add(1).ok_or_else(|| Error::invalid("there are no more lines"))?;
        found.state.lineage = found.state.lineage.branch(number, found.state.id.sequence);
        self.save(&found.state)?;
        Ok(found)
    }
}

/// What there is to go on from.
#[derive(Debug)]
#[non_exhaustive]
pub struct LatestCheckpoint {
    /// The newest that could be read.
    pub state: CheckpointState,
    /// Newer ones that could not, the newest first.
    pub damaged: Vec<DamagedCheckpoint>,
}

/// A checkpoint that cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub struct DamagedCheckpoint {
    /// Up to where it went.
    pub sequence: u64,
    /// The line that it was on.
    pub lineage: Lineage,
    /// What is wrong with it, and where.
    pub error: Error,
}

/// A checkpoint, by what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointEntry {
    /// The last event that is included.
    pub sequence: u64,
    /// The line that it is on.
    pub lineage: Lineage,
    /// Whether it counts: not left behind by a rewind.
    pub is_current: bool,
}

impl<S: CheckpointStore + ?Sized> CheckpointStore for Arc<S> {
    fn save(&self, state: &CheckpointState) -> Result<()> {
        (**self).save(state)
    }

    fn latest(&self, stream: &str) -> Result<Option<LatestCheckpoint>> {
        (**self).latest(stream)
    }

    fn get(&self, stream: &str, sequence: u64) -> Result<Option<CheckpointState>> {
        (**self).get(stream, sequence)
    }

    fn list(&self, stream: &str) -> Result<Vec<CheckpointEntry>> {
        (**self).list(stream)
    }

    fn delete_before(&self, stream: &str, sequence: u64) -> Result<u64> {
        (**self).delete_before(stream, sequence)
    }

    fn checkpoint_count(&self, stream: &str) -> Result<u64> {
        (**self).checkpoint_count(stream)
    }

    fn streams(&self) -> Result<Vec<String>> {
        (**self).streams()
    }

    fn clear(&self, stream: &str) -> Result<u64> {
        (**self).clear(stream)
    }

    fn at_or_before(&self, stream: &str, sequence: u64) -> Result<LatestCheckpoint> {
        (**self).at_or_before(stream, sequence)
    }

    fn rewind(&self, stream: &str, sequence: u64) -> Result<LatestCheckpoint> {
        (**self).rewind(stream, sequence)
    }
}
