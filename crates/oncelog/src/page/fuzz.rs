//! What fuzzers may do to the page that processes share.

use std::time::Duration;

use super::*;
use crate::disk::{MapAccess, SharedMap};
use crate::error::Error;
use crate::wake::Arc;

/// Words that nobody changes.
struct Still(Vec<AtomicU64>);

impl SharedMap for Still {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }

    fn access(&self) -> MapAccess {
        MapAccess::Read
    }

    fn wait(&self, _word: usize, _seen: u32, _limit: Duration) {}

    fn wake(&self, _word: usize) {}
}

/// A page of these words: as it is, and with a name that is whole, so that what is behind it is looked at.
pub(crate) fn page(bytes: &[u8]) {
    let words = || {
        let mut words: Vec<_> = bytes.chunks_exact(8).map(word).collect();
        words.resize_with(file_words(0), || AtomicU64::new(0));
        words
    };
    look(words());
    let named = words();
    let name = PageName { store: StoreId([3; 16]), epoch: Epoch(5), pid: 77, boot: 9 };
    write_name(&named, &name, 0);
    look(named);
}

fn word(bytes: &[u8]) -> AtomicU64 {
    AtomicU64::new(bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes)))
}

fn look(words: Vec<AtomicU64>) {
    let shared: Arc<dyn SharedMap> = Arc::new(Still(words));
    let theirs = Arc::clone(&shared);
    let map = move |number| match number {
        0 => Ok(Arc::clone(&theirs)),
        _ => Err(Error::invalid("there is one file")),
    };
    let Ok(Some(watch)) = Watch::open(Box::new(map)) else { return };
    let (lsn, _) = (watch.visible(), watch.state());
    for topic in (0..4).map(TopicId) {
        let _ = watch.partitions(topic, "name");
    }
    for number in 0..16 {
        let entry = Place::of(number).entry(shared.words());
        let _ = (read_key(entry), end_at(entry, lsn), start(entry));
    }
    watch.wait(Duration::ZERO, || false);
}
