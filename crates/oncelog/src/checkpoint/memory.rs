//! Checkpoints for as long as the process lives.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::key::Key;
use super::shelf::{Change, Shelf, View, shelved};
use crate::error::Result;
use crate::wake::Mutex;

/// Keeps checkpoints in memory, as the bytes that other stores keep too: for tests.
pub struct InMemoryCheckpointStore {
    streams: Mutex<BTreeMap<String, Kept>>,
    max_per_stream: usize,
}

/// By age, which tells the checkpoints of a stream apart.
type Kept = BTreeMap<(u32, u64), (Key, Vec<u8>)>;

impl InMemoryCheckpointStore {
    /// An empty one that keeps at most so many checkpoints of each stream, and one at least.
    #[must_use]
    pub fn new(max_per_stream: usize) -> InMemoryCheckpointStore {
        InMemoryCheckpointStore { streams: Mutex::default(), max_per_stream }
    }
}

/// Those of one stream, as they were.
struct Seen(Kept);

impl View for Seen {
    fn keys(&mut self) -> Result<Vec<Key>> {
        Ok(self.0.values().map(|(key, _)| *key).collect())
    }

    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(&key.age()).map(|(_, bytes)| bytes.clone()))
    }
}

impl Shelf for InMemoryCheckpointStore {
    fn max_per_stream(&self) -> usize {
        self.max_per_stream
    }

    fn place(&self, _: &str, _: Key) -> Option<PathBuf> {
        None
    }

    fn view(&self, stream: &str) -> Result<Box<dyn View + '_>> {
        Ok(Box::new(Seen(self.streams.lock().get(stream).cloned().unwrap_or_default())))
    }

    fn change(&self, stream: &str, decide: &mut dyn FnMut(&mut dyn View) -> Result<Change>) -> Result<u64> {
        let mut streams = self.streams.lock();
        let mut seen = Seen(streams.get(stream).cloned().unwrap_or_default());
        let change = decide(&mut seen)?;
        let mut kept = seen.0;
        if let Some((key, bytes)) = change.write {
            kept.insert(key.age(), (key, bytes));
        }
        let gone = change.remove.iter().filter(|key| kept.remove(&key.age()).is_some()).count();
        streams.insert(stream.to_owned(), kept);
        Ok(gone as u64)
    }

    fn stream_names(&self) -> Result<Vec<String>> {
        Ok(self.streams.lock().keys().cloned().collect())
    }
}

shelved!(InMemoryCheckpointStore);
