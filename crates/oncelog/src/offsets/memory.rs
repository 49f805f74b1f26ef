//! Offsets for as long as the process lives.

use std::collections::BTreeMap;

use super::error::OffsetError;
use super::offset::Offset;
use super::store::{OffsetStore, advance, storable};
use crate::wake::Mutex;

/// Keeps offsets in memory: for tests, and for sources that begin anew with each process.
#[derive(Default)]
pub struct InMemoryOffsetStore {
    offsets: Mutex<BTreeMap<String, Offset>>,
}

impl InMemoryOffsetStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> InMemoryOffsetStore {
        InMemoryOffsetStore::default()
    }
}

impl OffsetStore for InMemoryOffsetStore {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        Ok(self.offsets.lock().get(source).cloned())
    }

    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        let mut offsets = self.offsets.lock();
        advance(source, offsets.get(source), offset)?;
        Ok(offsets.insert(source.to_owned(), offset.clone()))
    }

    fn commit_all(&self, new: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        let mut offsets = self.offsets.lock();
        new.iter().try_for_each(|(source, offset)| advance(source, offsets.get(source), offset))?;
        let replace =
            |(source, offset): (&String, &Offset)| (source.clone(), offsets.insert(source.clone(), offset.clone()));
        Ok(new.iter().map(replace).collect())
    }

    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        storable(source, offset)?;
        Ok(self.offsets.lock().insert(source.to_owned(), offset.clone()))
    }

    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        Ok(self.offsets.lock().clone())
    }

    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        Ok(self.offsets.lock().remove(source))
    }

    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        Ok(std::mem::take(&mut *self.offsets.lock()))
    }
}
