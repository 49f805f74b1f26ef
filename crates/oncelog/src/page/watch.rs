//! The reader's side of a page: finds entries, takes ends that belong together, waits for news.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::board::MapFile;
use super::{
    PageName, PageState, Place, at, begin_wait, end_at, low_half, name_hash, of, read_key, read_name, read_state,
    start, visible,
};
use crate::disk::{MapAccess, SharedMap};
use crate::error::Result;
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering, RaceSite, keeps, yield_now};

/// Where memory cannot be written, nobody can be told that somebody waits: the reader looks again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// After so many attempts to find ends that belong together, others may run first.
const SPINS: u32 = 64;

/// A page that a reader looks at.
pub(crate) struct Watch {
    name: PageName,
    map: MapFile,
    head: Arc<dyn SharedMap>,
    files: Mutex<Vec<Arc<dyn SharedMap>>>,
    index: Mutex<Index>,
}

/// The entries found so far.
#[derive(Default)]
struct Index {
    /// In order, so that two readers of one page do the same.
    entries: BTreeMap<(TopicId, PartitionId), usize>,
    topics: HashMap<TopicId, u32>,
    looked_at: usize,
}

/// How far an owner has come with what it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct News {
    raised: u32,
    visible: Lsn,
    state: PageState,
}

/// What a page says of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    /// The first offset that is kept.
    pub(crate) start: LogOffset,
    /// The offset behind the last record that is visible.
    pub(crate) end: LogOffset,
}

/// Partitions as of one LSN.
pub(crate) type Ends = HashMap<(TopicId, PartitionId), Watched>;

impl Watch {
    /// Looks at the page behind `map`; `None` if it is not made to the end.
    ///
    /// # Errors
    /// Those of `map`.
    pub(crate) fn open(map: MapFile) -> Result<Option<Watch>> {
        let head = map(0)?;
        let Some((name, 0)) = read_name(head.words()) else { return Ok(None) };
        let files = Mutex::new(vec![Arc::clone(&head)]);
        Ok(Some(Watch { name, map, head, files, index: Mutex::default() }))
    }

    /// Whose it is.
    pub(crate) fn name(&self) -> &PageName {
        &self.name
    }

    /// What the owner is doing, as far as it has told.
    pub(crate) fn state(&self) -> PageState {
        read_state(self.head.words())
    }

    /// Everything up to it is visible.
    pub(crate) fn visible(&self) -> Lsn {
        visible(self.head.words())
    }

    /// How many partitions the topic of that id and name has; 0: there is no such topic.
    pub(crate) fn partitions(&self, topic: TopicId, name: &str) -> Result<u32> {
        let mut index = self.index.lock();
        self.look(&mut index)?;
        let count = index.topics.get(&topic).copied().unwrap_or(0);
        let first = index.entries.get(&(topic, PartitionId(0))).copied();
        drop(index);
        let Some(first) = first else { return Ok(0) };
        let fits = self.with(first, |entry| {
            let named = entry[of::NAME].load(Ordering::Relaxed) == name_hash(name);
            named && read_key(entry) == Some((topic, PartitionId(0)))
        })?;
        Ok(if fits { count } else { 0 })
    }

    /// The partition now; `None`: there is no such one.
    pub(crate) fn partition(&self, topic: TopicId, partition: PartitionId) -> Result<Option<Watched>> {
        let mut tries = 0;
        loop {
            let lsn = self.visible();
            match self.partition_at(topic, partition, lsn)? {
                Some(Some(watched)) => return Ok(Some(watched)),
                None => return Ok(None),
                Some(None) => pause(&mut tries),
            }
        }
    }

    /// The partition as of `lsn`, which must have been visible: `Some(None)` when the owner has gone on too far.
    fn partition_at(&self, topic: TopicId, partition: PartitionId, lsn: Lsn) -> Result<Option<Option<Watched>>> {
        let number = {
            let mut index = self.index.lock();
            let known = index.entries.get(&(topic, partition)).copied();
            if known.is_none() {
                self.look(&mut index)?;
            }
            match known.or_else(|| index.entries.get(&(topic, partition)).copied()) {
                Some(number) => number,
                None => return Ok(None),
            }
        };
        self.with(number, |entry| {
            if read_key(entry) != Some((topic, partition)) {
                return None;
            }
            Some(end_at(entry, lsn).map(|end| Watched { start: start(entry), end }))
        })
    }

    /// All partitions as of one LSN.
    pub(crate) fn all(&self) -> Result<(Lsn, Ends)> {
        let mut tries = 0;
        'again: loop {
            let lsn = self.visible();
            let entries: Vec<_> = {
                let mut index = self.index.lock();
                self.look(&mut index)?;
                index.entries.iter().map(|(key, number)| (*key, *number)).collect()
            };
            let mut found = HashMap::with_capacity(entries.len());
            for ((topic, partition), _) in entries {
                match self.partition_at(topic, partition, lsn)? {
                    Some(Some(watched)) => drop(found.insert((topic, partition), watched)),
                    // Deleted.
                    None => {}
                    Some(None) => {
                        pause(&mut tries);
                        continue 'again;
                    }
                }
            }
            return Ok((lsn, found));
        }
    }

    /// Waits until `ready` says so or there is any news, for `limit` at most.
    pub(crate) fn wait(&self, limit: Duration, mut ready: impl FnMut() -> bool) {
        if self.head.access() == MapAccess::Write {
            let seen = begin_wait(self.head.words());
            if !keeps(RaceSite::PageAsksAgain) || !ready() {
                self.head.wait(at::NEWS, seen, limit);
            }
        } else if !ready() {
            let seen = low_half(self.head.words()[at::NEWS].load(Ordering::Relaxed));
            self.head.wait(at::NEWS, seen, limit.min(LOOK_AGAIN));
        }
    }

    /// What there is to see now. Whatever comes from now on ends [`Watch::wait_behind`] it.
    pub(crate) fn news(&self) -> News {
        let words = self.head.words();
        let raised = if self.head.access() == MapAccess::Write {
            begin_wait(words)
        } else {
            low_half(words[at::NEWS].load(Ordering::Relaxed))
        };
        News { raised, visible: self.visible(), state: self.state() }
    }

    /// Waits until there is more to see than `news`, for `limit` at most. May return without cause.
    pub(crate) fn wait_behind(&self, news: &News, limit: Duration) {
        let told = self.head.access() == MapAccess::Write;
        self.head.wait(at::NEWS, news.raised, if told { limit } else { limit.min(LOOK_AGAIN) });
    }

    /// Adds entries that are new since the last look.
    fn look(&self, index: &mut Index) -> Result<()> {
        let count = self.head.words()[at::ENTRIES].load(Ordering::Relaxed);
        crate::wake::fence(Ordering::Acquire);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        while index.looked_at < count {
            let number = index.looked_at;
            if let Some((topic, partition)) = self.with(number, read_key)? {
                index.entries.insert((topic, partition), number);
                let count = index.topics.entry(topic).or_default();
                *count = (*count).max(partition.0.saturating_add(1));
            }
            index.looked_at += 1;
        }
        Ok(())
    }

    fn with<R>(&self, entry: usize, look: impl FnOnce(&[AtomicU64]) -> R) -> Result<R> {
        let place = Place::of(entry);
        let mut files = self.files.lock();
        while files.len() <= place.file {
            let mapped = (self.map)(files.len())?;
            files.push(mapped);
        }
        let file = Arc::clone(&files[place.file]);
        drop(files);
        Ok(look(place.entry(file.words())))
    }
}

fn pause(tries: &mut u32) {
    *tries += 1;
    // A model checker changes threads only where it is told to.
    if cfg!(any(loom, shuttle)) || tries.is_multiple_of(SPINS) {
        yield_now();
    }
}
