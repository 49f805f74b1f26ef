//! The owner's side of the page: it writes, and makes further files as partitions are added.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    PageName, PageState, Place, Watched, at, begin_entry, clear_entry, complete, name_hash, publish, raise, read_state,
    set_end, set_start, visible, write_name, write_state,
};
use crate::disk::SharedMap;
use crate::error::Result;
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering, RwLock};

/// Makes or finds the file of that number, and maps it. A file that is made holds zeros and has all of its blocks.
pub(crate) type MapFile = Box<dyn Fn(usize) -> Result<Arc<dyn SharedMap>> + Send + Sync>;

/// What an owner shows.
pub(crate) struct Board {
    name: PageName,
    make: MapFile,
    head: Arc<dyn SharedMap>,
    files: RwLock<Vec<Arc<dyn SharedMap>>>,
    known: Mutex<Known>,
}

/// Which entries are taken. Those of deleted topics are not given out again: the next opening begins anew.
#[derive(Default)]
struct Known {
    entries: BTreeMap<(TopicId, PartitionId), usize>,
    /// Deleted topics: who looked them up before, and is slow, does not show them again.
    deleted: BTreeSet<TopicId>,
    next: usize,
}

impl Board {
    /// A page without partitions that nobody believes yet.
    ///
    /// # Errors
    /// Those of `make`.
    pub(crate) fn begin(name: PageName, make: MapFile) -> Result<Board> {
        let head = make(0)?;
        write_state(head.words(), PageState::Partial);
        write_name(head.words(), &name, 0);
        let files = RwLock::new(vec![Arc::clone(&head)]);
        Ok(Board { name, make, head, files, known: Mutex::default() })
    }

    /// Makes sure that so many more partitions have room.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: no room; nothing has changed.
    pub(crate) fn reserve(&self, partitions: usize) -> Result<()> {
        let last = self.known.lock().next + partitions;
        self.grow_to(Place::of(last).file)
    }

    fn grow_to(&self, file: usize) -> Result<()> {
        let mut files = self.files.write();
        while files.len() <= file {
            let number = files.len();
            let made = (self.make)(number)?;
            write_name(made.words(), &self.name, number);
            files.push(made);
        }
        Ok(())
    }

    /// Shows a partition of the topic of that name as it is now; one that is shown already, or whose topic is deleted,
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Board::reserve`]: then readers are told that the page is not complete.
    pub(crate) fn show(&self, (topic, name): (TopicId, &str), partition: PartitionId, watched: Watched) -> Result<()> {
        let mut known = self.known.lock();
        if known.entries.contains_key(&(topic, partition)) || known.deleted.contains(&topic) {
            return Ok(());
        }
        let number = known.next;
        self.grow_to(Place::of(number).file).inspect_err(|_| self.set_state(PageState::Partial))?;
        self.with(number, |entry| begin_entry(entry, (topic, name_hash(name)), partition, watched));
        known.next += 1;
        known.entries.insert((topic, partition), number);
        self.head.words()[at::ENTRIES].store(known.next as u64, Ordering::Release);
        Ok(())
    }

    /// The end of a partition as of `lsn`, which is not visible yet. Called by one thread at a time.
    pub(crate) fn set_end(&self, topic: TopicId, partition: PartitionId, lsn: Lsn, end: LogOffset) {
        let number = self.known.lock().entries.get(&(topic, partition)).copied();
        match number {
            Some(number) => self.with(number, |entry| set_end(entry, lsn, end, visible(self.head.words()))),
            // Every topic is shown before it can be appended to.
            None => self.set_state(PageState::Partial),
        }
    }

    /// The first offset of a partition that is kept, which never goes back. Nothing for one that is not shown.
    pub(crate) fn set_start(&self, topic: TopicId, partition: PartitionId, start: LogOffset) {
        let number = self.known.lock().entries.get(&(topic, partition)).copied();
        if let Some(number) = number {
            self.with(number, |entry| set_start(entry, start));
        }
    }

    /// Everything up to `lsn` is visible.
    pub(crate) fn publish(&self, lsn: Lsn) {
        if publish(self.head.words(), lsn) {
            self.head.wake(at::NEWS);
        }
    }

    /// The topic is deleted, and all that was ever appended to it is applied.
    pub(crate) fn forget(&self, topic: TopicId) {
        let mut known = self.known.lock();
        known.deleted.insert(topic);
        let gone: Vec<_> = known.entries.keys().filter(|(found, _)| *found == topic).copied().collect();
        for partition in gone {
            if let Some(number) = known.entries.remove(&partition) {
                self.with(number, clear_entry);
            }
        }
        drop(known);
        self.wake_all();
    }

    /// Says what the owner is doing, and lets everybody look.
    pub(crate) fn set_state(&self, state: PageState) {
        write_state(self.head.words(), state);
        self.wake_all();
    }

    /// Whether readers are told that what it shows is not complete.
    pub(crate) fn is_partial(&self) -> bool {
        read_state(self.head.words()) == PageState::Partial
    }

    /// All there is has been shown: readers are served from now on, unless the owner has ended.
    pub(crate) fn serve(&self) {
        if complete(self.head.words()) {
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        if raise(self.head.words()) {
            self.head.wake(at::NEWS);
        }
    }

    fn with<R>(&self, entry: usize, act: impl FnOnce(&[AtomicU64]) -> R) -> R {
        let place = Place::of(entry);
        act(place.entry(self.files.read()[place.file].words()))
    }
}
