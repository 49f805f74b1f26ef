//! What every store of offsets does.

use std::collections::BTreeMap;

use super::error::OffsetError;
use super::offset::Offset;

/// Keeps an offset for each source. Object-safe; share one as `Arc<dyn OffsetStore>`.
///
/// A commit never goes back: an offset that is lower than the stored one, or of another kind, is `InvalidOffset`, and
/// this is decided inside the store, so several threads and, where the store is on a disk, several processes can share
/// it. The same offset again is fine. Custom offsets have no order: the last one counts. `Earliest` and `Latest` are no
/// places, and are refused.
pub trait OffsetStore: Send + Sync {
    /// What is committed for `source`: the next to read.
    ///
    /// # Errors
    /// `Io`, `Serialization`, `Lock`: it is not known; never taken for nothing.
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError>;

    /// As [`OffsetStore::get`], for whoever only asks what may not be gone behind: what it says need not be durable
    /// yet, so no sync is waited for. Costs what `get` costs unless a store says otherwise.
    ///
    /// # Errors
    /// As [`OffsetStore::get`].
    fn peek(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.get(source)
    }

    /// Commits an offset; gives the one that it replaced. As durable on return as the store can be.
    ///
    /// # Errors
    /// `InvalidOffset`: it would go back, or has no text; nothing has changed. `Serialization`, `Lock`: nothing has
    /// changed. `Io`: the disk failed on the way, and either may be there; ask again.
    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError>;

    /// Commits all of them in one step, or none; gives those that they replaced.
    ///
    /// # Errors
    /// As [`OffsetStore::commit`]; one that is refused refuses all.
    fn commit_all(&self, offsets: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError>;

    /// Sets an offset, back or forth, of any kind that is a place; gives the one that it replaced.
    ///
    /// # Errors
    /// As [`OffsetStore::commit`], but that it may go back.
    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError>;

    /// Everything that is committed.
    ///
    /// # Errors
    /// As [`OffsetStore::get`].
    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError>;

    /// Forgets a source; gives what was committed for it.
    ///
    /// # Errors
    /// As [`OffsetStore::commit`].
    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError>;

    /// Forgets all sources in one step, or none; gives what was committed.
    ///
    /// # Errors
    /// As [`OffsetStore::commit`].
    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError>;
}

impl<S: OffsetStore + ?Sized> OffsetStore for std::sync::Arc<S> {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        (**self).get(source)
    }

    fn peek(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        (**self).peek(source)
    }

    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        (**self).commit(source, offset)
    }

    fn commit_all(&self, offsets: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        (**self).commit_all(offsets)
    }

    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        (**self).reset(source, offset)
    }

    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        (**self).get_all()
    }

    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        (**self).clear(source)
    }

    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        (**self).clear_all()
    }
}

/// Whether `offered` may follow `stored` without a reset. Pure; every store decides by it.
pub(crate) fn advance(source: &str, stored: Option<&Offset>, offered: &Offset) -> Result<(), OffsetError> {
    storable(source, offered)?;
    match (stored, offered) {
        (None, _) | (Some(Offset::Custom(_)), Offset::Custom(_)) => Ok(()),
        (Some(stored), offered) if stored <= offered => Ok(()),
        (Some(stored), offered) => Err(OffsetError::regress(source, stored, offered)),
    }
}

/// Whether `offered` is a place.
pub(crate) fn storable(source: &str, offered: &Offset) -> Result<(), OffsetError> {
    if offered.is_place() {
        // A time before year 0 or behind 9999 has no text that can be read again.
        let reads_back = offered.to_string().parse::<Offset>().is_ok_and(|back| back == *offered);
        let what = || format!("source {source:?}: {offered} cannot be written so that it reads back");
        return if reads_back { Ok(()) } else { Err(OffsetError::InvalidOffset(what())) };
    }
    let what = format!("source {source:?}: {offered} is a policy and no place; find the number first, and store that");
    Err(OffsetError::InvalidOffset(what))
}
