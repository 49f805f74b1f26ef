//! Reading a store that another process has open, or nobody: no lock, no write, no record that is later taken back.
//!
//! ```text
//! the owner lives   page: visible LSN, ends of partitions  ->  segments, up to those ends      woken by a futex
//! it does not       manifest, state, journal  ->  a recovery in memory, which shows what the next owner will show
//! ```
//!
//! Tables of an owner that lives are read from its table file, as of its trim point: `tables`.
//!
//! Invariants:
//! * What is shown is durable, or was made durable by the reader's own sync of the journal before it is shown.
//! * An owner lives as long as it holds the lock of its page; a page without that lock is not looked at.
//! * The manifest names the newest opening. A recovery in memory counts only as long as it still names the one that was
//!   recovered; an error met on the way counts only if it does too.
//! * So the ends that a reader sees only grow, whoever comes and goes.

mod cursor;
mod cut;
mod dump;
mod foreign;
mod live;
mod look;
mod offline;
mod owner;
mod snapshot;
mod tables;
mod verify;
mod watcher;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

pub(super) use cursor::PartitionCursor;
pub use cursor::ReaderCursor;
pub(super) use cut::{Cut, are_in_force};
pub use dump::{BatchInfo, FrameInfo, SegmentInfo};
pub(super) use foreign::ForeignTopic;
pub use look::OwnerInfo;
pub use snapshot::ReaderSnapshot;
pub use verify::Verification;
pub(super) use verify::read_rows;
pub(super) use watcher::{Watcher, Watchers};

use super::layout::{Layout, MAIN};
use super::owner::manifest_of;
use crate::clock::{Clock, SystemClock};
use crate::consumer::Whence;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, StoreId, TopicId, escape_name};
use crate::topic::{self, Claim};
use crate::wake::{Arc, Mutex};
use owner::OwnerReader;

/// A store, for looking: beside its owners in whatever process, or without any. Takes no lock and writes nothing, so it
/// works on a read-only file system too. Cheap to clone; `Send + Sync`.
#[derive(Clone)]
pub struct StoreReader {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    layout: Layout,
    store: StoreId,
    /// What the store is called outside; `store` is what its files call it.
    identity: StoreId,
    patience: Duration,
    table_memory: usize,
    owners: Mutex<BTreeMap<String, Arc<OwnerReader>>>,
    /// To whom tables belong, as far as it was asked.
    table_owners: Mutex<BTreeMap<String, String>>,
}

/// How a store is read.
#[derive(Clone)]
#[must_use]
pub struct ReaderOptions {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    patience: Duration,
    table_memory: usize,
}

/// A topic as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// The name, as the user gave it.
    pub name: String,
    /// The topic for life: one made anew under the same name has another.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// The codec of keys.
    pub key_codec: String,
    /// The codec of values.
    pub value_codec: String,
    /// Which owner writes it.
    pub owner: String,
}

impl ReaderOptions {
    /// Sets the disk: the machine's unless set.
    pub fn disk(self, disk: Arc<dyn Disk>) -> ReaderOptions {
        ReaderOptions { disk, ..self }
    }

    /// Sets the clock: the machine's unless set.
    pub fn clock(self, clock: Arc<dyn Clock>) -> ReaderOptions {
        ReaderOptions { clock, ..self }
    }

    /// Sets how long a call waits for an owner that is just being opened, before it answers `Unavailable`: 10 s unless
    /// set.
    pub fn patience(self, patience: Duration) -> ReaderOptions {
        ReaderOptions { patience, ..self }
    }

    /// Sets how much memory is taken for what was read from tables, for each owner and each of its states that a
    /// snapshot looks at: 16 MiB unless set, 1 MiB at least.
    pub fn table_memory(self, bytes: usize) -> ReaderOptions {
        ReaderOptions { table_memory: bytes, ..self }
    }

    /// Opens the store in `dir` for reading.
    ///
    /// # Errors
    /// As [`StoreReader::open`]; `Invalid`: an option out of its range.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<StoreReader> {
        let ReaderOptions { disk, clock, patience, table_memory } = self;
        if table_memory < 1 << 20 {
            return Err(Error::invalid("table_memory must be at least 1 MiB"));
        }
        let layout = Layout::of(dir.as_ref(), MAIN);
        let (store, identity) = layout.read_identities(&*disk).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(ErrorKind::NotFound, "there is no store").in_file(&layout.dir),
            _ => error,
        })?;
        let (owners, table_owners) = (Mutex::default(), Mutex::default());
        let inner = Inner { disk, clock, layout, store, identity, patience, table_memory, owners, table_owners };
        Ok(StoreReader { inner: Arc::new(inner) })
    }
}

impl StoreReader {
    /// Opens the store in `dir` for reading, whoever has it open.
    ///
    /// # Errors
    /// `NotFound`: there is no store; `UnsupportedVersion`: it was made by a newer Oncelog; `Corrupt`, `Unavailable`.
    pub fn open(dir: impl AsRef<Path>) -> Result<StoreReader> {
        StoreReader::options().open(dir)
    }

    /// Options for reading a store.
    pub fn options() -> ReaderOptions {
        let (disk, clock) = (Arc::new(RealDisk), SystemClock::shared());
        ReaderOptions { disk, clock, patience: Duration::from_secs(10), table_memory: 16 << 20 }
    }

    /// The store's identity.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.inner.identity
    }

    pub(super) fn dir(&self) -> &Path {
        &self.inner.layout.dir
    }

    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    pub(super) fn now_ms(&self) -> i64 {
        self.inner.clock.now_ms()
    }

    /// All topics of all owners, by name.
    ///
    /// # Errors
    /// `Corrupt`; `Unavailable`: an owner is being opened and takes its time.
    pub fn topics(&self) -> Result<Vec<TopicInfo>> {
        let topics = &self.inner.layout.topics;
        let dirs = match self.inner.disk.list(topics) {
            Ok(dirs) => dirs,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io(topics, "list the topics", error)),
        };
        let mut found = Vec::new();
        for dir in dirs {
            let claimed = self.inner.read_claim(&dir).and_then(|claim| {
                claim.map_or(Ok(None), |claim| self.inner.info(claim).map(|found| found.map(|(info, _)| info)))
            });
            match claimed {
                Ok(info) => found.extend(info),
                // A claim without its text is the rest of a crash unless somebody asks for that very topic.
                Err(error) if error.kind() == ErrorKind::Corrupt && error.file() == Some(&Claim::path(&dir)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(found)
    }

    /// The first offset that is kept and the offset behind the last visible record of a partition.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Invalid`: no such partition; `Corrupt`; `Unavailable`: the owner is being opened.
    pub fn offsets(&self, topic: &str, partition: PartitionId) -> Result<(LogOffset, LogOffset)> {
        let (info, owner) = self.inner.find(topic)?;
        let watched = owner.partition(info.id, partition)?.ok_or_else(|| no_partition(&info, partition))?;
        Ok((watched.start, watched.end))
    }

    /// One state of everything: of each owner, all topics as of one LSN, and all tables as of one, which is older where
    /// the owner lives. A transaction's records are in it all or not at all, and so are its rows. Costs the look at all
    /// ends.
    ///
    /// # Errors
    /// `Corrupt`; `Unavailable`: an owner is being opened and takes its time.
    pub fn snapshot(&self) -> Result<ReaderSnapshot> {
        ReaderSnapshot::take(self)
    }

    /// A cursor over all partitions of a topic. Nothing is remembered of it.
    ///
    /// # Errors
    /// As [`StoreReader::offsets`].
    pub fn cursor(&self, topic: &str, whence: Whence) -> Result<ReaderCursor> {
        ReaderCursor::open(self, topic, None, whence)
    }

    /// A cursor over these partitions of a topic.
    ///
    /// # Errors
    /// As [`StoreReader::offsets`].
    pub fn cursor_over(&self, topic: &str, partitions: &[PartitionId], whence: Whence) -> Result<ReaderCursor> {
        ReaderCursor::open(self, topic, Some(partitions), whence)
    }
}

impl Inner {
    /// The claim in a topic's directory; `None` if there is none of that name.
    fn read_claim(&self, dir: &Path) -> Result<Option<Claim>> {
        // A directory without a claim comes before the topic; a file among the topics is none.
        let claim = match topic::find_claim(&*self.disk, dir) {
            Err(error) if error.is_not_a_directory() => None,
            found => found?,
        };
        let Some(claim) = claim else { return Ok(None) };
        let fits = claim.store == self.store && dir.ends_with(escape_name(&claim.name));
        if fits { Ok(Some(claim)) } else { Err(Error::corrupt(&Claim::path(dir), 0, "the claim of another topic")) }
    }

    /// The topic of a claim, if its owner knows it.
    fn info(&self, claim: Claim) -> Result<Option<(TopicInfo, Arc<OwnerReader>)>> {
        let owner = self.owner(&claim.owner)?;
        // A topic that is being made may not be shown whole.
        let is_made = owner.partitions(claim.topic, &claim.name)? == claim.partitions;
        let Claim { topic: id, partitions, owner: owner_name, name, key_codec, value_codec, .. } = claim;
        let info = TopicInfo { name, id, partitions, key_codec, value_codec, owner: owner_name };
        Ok((is_made && partitions > 0).then_some((info, owner)))
    }

    fn find(&self, name: &str) -> Result<(TopicInfo, Arc<OwnerReader>)> {
        let claim = self.read_claim(&topic::topic_dir(&self.layout.topics, name))?;
        let found = claim.map_or(Ok(None), |claim| self.info(claim))?;
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no topic {name:?}")))
    }

    /// Which owner has the table of that name; `None`: nobody has claimed it.
    fn table_owner(&self, name: &str) -> Result<Option<String>> {
        // For life: what was found once need not be looked up again.
        if let Some(owner) = self.table_owners.lock().get(name) {
            return Ok(Some(owner.clone()));
        }
        let claim = self.read_claim(&self.layout.tables.join(escape_name(name)))?;
        let owner = claim.map(|claim| claim.owner);
        if let Some(owner) = &owner {
            self.table_owners.lock().insert(name.to_owned(), owner.clone());
        }
        Ok(owner)
    }

    fn owner(&self, name: &str) -> Result<Arc<OwnerReader>> {
        let mut owners = self.owners.lock();
        if let Some(owner) = owners.get(name) {
            return Ok(Arc::clone(owner));
        }
        let layout = Layout::of(&self.layout.dir, name);
        let (disk, clock) = (Arc::clone(&self.disk), Arc::clone(&self.clock));
        let owner = OwnerReader::new(disk, clock, layout, self.store, self.patience, self.table_memory);
        let owner = Arc::new(owner);
        owners.insert(name.to_owned(), Arc::clone(&owner));
        Ok(owner)
    }

    /// Every owner that has been made, by name.
    ///
    /// # Errors
    /// `Corrupt`: one is gone, or nobody can say which it is. None is left out.
    fn all_owners(&self) -> Result<Vec<(String, Arc<OwnerReader>)>> {
        let (dir, layout) = (&self.layout.owners, &self.layout);
        let mut found = Vec::new();
        let paths = self.disk.list(dir).map_err(|error| Error::io(dir, "list the owners", error))?;
        for path in paths.into_iter().filter(|path| !path.ends_with("LOCK")) {
            let Some(manifest) = manifest_of(&*self.disk, &path)? else { continue };
            if path != Layout::of(&layout.dir, &manifest.owner).owner {
                let what = format!("this is owner {:?}, and its directory has another name", manifest.owner);
                return Err(Error::corrupt(&path.join("MANIFEST"), 0, what));
            }
            found.push((manifest.owner.clone(), self.owner(&manifest.owner)?));
        }
        if !found.iter().any(|(name, _)| name == MAIN) {
            return Err(Error::corrupt(&layout.manifest, 0, "the owner that every store is made with is gone"));
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }
}

pub(super) fn no_partition(info: &TopicInfo, partition: PartitionId) -> Error {
    Error::invalid(format!("topic {:?} has {} partitions, there is no {partition}", info.name, info.partitions))
}

impl fmt::Debug for StoreReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreReader").field("dir", &self.inner.layout.dir).finish_non_exhaustive()
    }
}
