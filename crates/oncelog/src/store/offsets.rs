//! The store's own offsets of sources outside of it: rows of a table, committed as every row is.

use std::collections::BTreeMap;

use super::Store;
use crate::codec::Utf8;
use crate::error::{Error, Result};
use crate::handles::{Table, TableDef};
use crate::offsets::{self, Offset, OffsetError, OffsetStore};

/// Offsets in a table of a store; see [`Store::offset_store`]. A commit is one transaction: durable on return, and
/// threads that commit at once share a sync. A row that holds no place is `Serialization`, with the directory of the
/// store, the table and the source; nothing that touches the source changes it.
pub struct StoreOffsets {
    store: Store,
    table: TableDef<Utf8, Utf8>,
}

impl Store {
    /// Offsets of sources that are not topics of this store, kept in its table `offsets.NAME`. The offsets of its own
    /// consumers are kept for them: see [`Store::committed_offsets`].
    ///
    /// To commit an offset **together with** what was done up to there, put both into one transaction instead.
    ///
    /// ```
    /// use oncelog::{Offset, OffsetStore, Store};
    /// # fn main() -> oncelog::Result<()> {
    /// let store = Store::in_memory()?;
    /// let offsets = store.offset_store("feeds");
    /// offsets.commit("feed-7", &Offset::Sequence(42))?;
    /// assert_eq!(offsets.get("feed-7")?, Some(Offset::Sequence(42)));
    /// # drop(offsets);
    /// # store.close()
    /// # }
    /// ```
    #[must_use]
    pub fn offset_store(&self, name: &str) -> StoreOffsets {
        StoreOffsets { store: self.clone(), table: TableDef::named(format!("offsets.{name}")) }
    }
}

impl StoreOffsets {
    /// Runs `change` in a transaction. What it refuses aborts it.
    fn change<T>(
        &self,
        mut change: impl FnMut(&mut Rows<'_>) -> std::result::Result<T, OffsetError>,
    ) -> std::result::Result<T, OffsetError> {
        let mut refused = None;
        let done = self.store.transact(|tx| {
            let table = tx.table(self.table.clone())?;
            change(&mut Rows { offsets: self, table }).map_err(|error| {
                refused = Some(error);
                Error::invalid("refused")
            })
        });
        match (done, refused) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Some(refused)) => Err(refused),
            (Err(error), None) => Err(OffsetError::Store(error)),
        }
    }

    /// The offset of a row, which others may have put there.
    fn parse(&self, source: &str, text: &str) -> std::result::Result<Offset, OffsetError> {
        let bad = |reason: &dyn std::fmt::Display| {
            let table = self.table.name();
            OffsetError::bad_file(self.store.dir(), format_args!("table {table:?}, source {source:?}: {reason}"))
        };
        match text.parse::<Offset>() {
            Ok(offset) if offset.is_place() => Ok(offset),
            Ok(offset) => Err(bad(&format_args!("{offset} is no place"))),
            Err(error) => Err(bad(&error)),
        }
    }

    fn parse_all(&self, rows: Vec<(String, String)>) -> std::result::Result<BTreeMap<String, Offset>, OffsetError> {
        let one = |(source, text): (String, String)| self.parse(&source, &text).map(|offset| (source, offset));
        rows.into_iter().map(one).collect()
    }
}

/// The rows in a transaction.
struct Rows<'t> {
    offsets: &'t StoreOffsets,
    table: Table<'t, Utf8, Utf8>,
}

impl Rows<'_> {
    fn get(&mut self, source: &str) -> std::result::Result<Option<Offset>, OffsetError> {
        self.table.get(source)?.map(|text| self.offsets.parse(source, &text)).transpose()
    }

    /// Sets a row; gives the one before.
    fn put(&mut self, source: &str, offset: &Offset) -> std::result::Result<Option<Offset>, OffsetError> {
        let before = self.get(source)?;
        self.table.put(source, &offset.to_string())?;
        Ok(before)
    }

    fn advance(&mut self, source: &str, offset: &Offset) -> std::result::Result<Option<Offset>, OffsetError> {
        let before = self.get(source)?;
        offsets::advance(source, before.as_ref(), offset)?;
        self.table.put(source, &offset.to_string())?;
        Ok(before)
    }

    fn all(&mut self) -> std::result::Result<BTreeMap<String, Offset>, OffsetError> {
        self.offsets.parse_all(self.table.scan(..)?)
    }
}

impl OffsetStore for StoreOffsets {
    fn get(&self, source: &str) -> std::result::Result<Option<Offset>, OffsetError> {
        let text = self.store.snapshot().and_then(|snapshot| snapshot.get(self.table.clone(), source))?;
        text.map(|text| self.parse(source, &text)).transpose()
    }

    fn commit(&self, source: &str, offset: &Offset) -> std::result::Result<Option<Offset>, OffsetError> {
        self.change(|rows| rows.advance(source, offset))
    }

    fn commit_all(
        &self,
        offsets: &BTreeMap<String, Offset>,
    ) -> std::result::Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        let one = |rows: &mut Rows<'_>, source: &String, offset| Ok((source.clone(), rows.advance(source, offset)?));
        self.change(|rows| offsets.iter().map(|(source, offset)| one(rows, source, offset)).collect())
    }

    fn reset(&self, source: &str, offset: &Offset) -> std::result::Result<Option<Offset>, OffsetError> {
        offsets::storable(source, offset)?;
        self.change(|rows| rows.put(source, offset))
    }

    fn get_all(&self) -> std::result::Result<BTreeMap<String, Offset>, OffsetError> {
        let rows: Result<Vec<_>> = self.store.snapshot().and_then(|snapshot| snapshot.scan(self.table.clone(), ..));
        self.parse_all(rows?)
    }

    fn clear(&self, source: &str) -> std::result::Result<Option<Offset>, OffsetError> {
        self.change(|rows| {
            let before = rows.get(source)?;
            rows.table.delete(source)?;
            Ok(before)
        })
    }

    fn clear_all(&self) -> std::result::Result<BTreeMap<String, Offset>, OffsetError> {
        self.change(|rows| {
            let all = rows.all()?;
            for source in all.keys() {
                rows.table.delete(source)?;
            }
            Ok(all)
        })
    }
}
