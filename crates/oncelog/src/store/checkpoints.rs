//! Checkpoints in a table of a store: rows, committed as every row is.
//!
//! ```text
//! ("", STREAM)   -> nothing      the streams that had a checkpoint
//! (STREAM, "")   -> keys         which checkpoints there are, 24 bytes each
//! (STREAM, key)  -> the bytes of one
//! ```
//!
//! Saving, replacing and making room are one transaction.

use std::path::PathBuf;

use super::Store;
use crate::checkpoint::{Change, Key, Shelf, View, shelved};
use crate::codec::{Bytes, Pair, Utf8};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{Table, TableDef};

type Keys = Pair<Utf8, Bytes>;

/// Checkpoints in a table of a store; see [`Store::checkpoint_store`].
pub struct StoreCheckpoints {
    store: Store,
    table: TableDef<Keys, Bytes>,
    max_per_stream: usize,
}

impl Store {
    /// Checkpoints of streams, kept in this store's table `checkpoints.NAME`: durable when saved, and part of every
    /// copy of the store. Processors of this store need none: their progress is in the commit of their effects.
    ///
    /// ```
    /// use oncelog::{CheckpointManager, Store};
    /// # fn main() -> oncelog::Result<()> {
    /// let store = Store::in_memory()?;
    /// let manager = CheckpointManager::new(store.checkpoint_store("feeds"), 100);
    /// assert!(manager.recover("feed-7")?.is_none());
    /// for sequence in 1..=250 {
    ///     manager.on_event("feed-7", sequence, 0)?;
    /// }
    /// assert_eq!(manager.recover("feed-7")?.expect("two were taken").next, Some(201));
    /// # drop(manager);
    /// # store.close()
    /// # }
    /// ```
    #[must_use]
    pub fn checkpoint_store(&self, name: &str) -> StoreCheckpoints {
        let table = TableDef::named(format!("checkpoints.{name}"));
        StoreCheckpoints { store: self.clone(), table, max_per_stream: MAX_PER_STREAM }
    }
}

const MAX_PER_STREAM: usize = 10;

impl StoreCheckpoints {
    /// Sets how many checkpoints of a stream are kept: 10 unless set, and one at least.
    #[must_use]
    pub fn max_per_stream(mut self, max: usize) -> StoreCheckpoints {
        self.max_per_stream = max;
        self
    }
}

fn index_key(stream: &str) -> (String, Vec<u8>) {
    (stream.to_owned(), Vec::new())
}

fn row_key(stream: &str, key: Key) -> (String, Vec<u8>) {
    (stream.to_owned(), key.to_bytes().to_vec())
}

/// The keys that an index row names.
fn keys_of(stream: &str, row: Option<Vec<u8>>) -> Result<Vec<Key>> {
    Key::all_of_bytes(&row.unwrap_or_default()).ok_or_else(|| {
        Error::new(ErrorKind::Corrupt, format!("stream {stream:?}: the row that names its checkpoints is malformed"))
    })
}

/// One state of the table.
struct Seen<'s> {
    shelf: &'s StoreCheckpoints,
    snapshot: super::Snapshot,
    stream: String,
}

impl View for Seen<'_> {
    fn keys(&mut self) -> Result<Vec<Key>> {
        keys_of(&self.stream, self.snapshot.get(self.shelf.table.clone(), &index_key(&self.stream))?)
    }

    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>> {
        self.snapshot.get(self.shelf.table.clone(), &row_key(&self.stream, key))
    }
}

/// The table in a transaction.
struct Staged<'t> {
    table: Table<'t, Keys, Bytes>,
    stream: String,
}

impl View for Staged<'_> {
    fn keys(&mut self) -> Result<Vec<Key>> {
        keys_of(&self.stream, self.table.get(&index_key(&self.stream))?)
    }

    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>> {
        self.table.get(&row_key(&self.stream, key))
    }
}

impl Staged<'_> {
    fn carry_out(&mut self, change: Change) -> Result<u64> {
        let mut keys = self.keys()?;
        if let Some((key, bytes)) = change.write {
            self.table.put(&row_key(&self.stream, key), &bytes)?;
            keys.retain(|other| *other != key);
            keys.push(key);
        }
        let count = keys.len();
        keys.retain(|key| !change.remove.contains(key));
        for key in &change.remove {
            self.table.delete(&row_key(&self.stream, *key))?;
        }
        let stream_key = (String::new(), self.stream.as_bytes().to_vec());
        if keys.is_empty() {
            self.table.delete(&index_key(&self.stream))?;
            self.table.delete(&stream_key)?;
        } else {
            self.table
                .put(&index_key(&self.stream), &keys.iter().flat_map(|key| key.to_bytes()).collect::<Vec<_>>())?;
            self.table.put(&stream_key, &[])?;
        }
        Ok((count - keys.len()) as u64)
    }
}

impl Shelf for StoreCheckpoints {
    fn max_per_stream(&self) -> usize {
        self.max_per_stream
    }

    fn place(&self, _: &str, _: Key) -> Option<PathBuf> {
        None
    }

    fn view(&self, stream: &str) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(Seen { shelf: self, snapshot: self.store.snapshot()?, stream: stream.to_owned() }))
    }

    fn change(&self, stream: &str, decide: &mut dyn FnMut(&mut dyn View) -> Result<Change>) -> Result<u64> {
        self.store.transact(|tx| {
            let mut staged = Staged { table: tx.table(self.table.clone())?, stream: stream.to_owned() };
            let change = decide(&mut staged)?;
            staged.carry_out(change)
        })
    }

    fn stream_names(&self) -> Result<Vec<String>> {
        let rows = self.store.snapshot()?.group(self.table.clone(), "")?;
        let stream = |((_, name), _): ((String, Vec<u8>), _)| {
            let malformed = |_| Error::new(ErrorKind::Corrupt, "a row that names a stream of checkpoints is malformed");
            String::from_utf8(name).map_err(malformed)
        };
        rows.into_iter().map(stream).collect()
    }
}

shelved!(StoreCheckpoints);
