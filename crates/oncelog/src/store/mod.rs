//! The embedded engine: a store directory, the owner taken in it, recovery, background duties, orderly close.
//!
//! ```text
//! DIR/STORE                  makes it a store: format, identity
//! DIR/owners/NAME/MANIFEST   lock, epoch, trim point: updated in place, never renamed over
//! DIR/owners/NAME/journal/   frames since the trim point      DIR/owners/NAME/state/   tables at the trim point
//! DIR/topics/NAME/CLAIM      whose the name is                DIR/topics/NAME/PARTITION/   segments
//! ```
//!
//! Invariants: one process has an owner at a time, and taking it is recovery; every opening takes the next epoch;
//! after an unclean stop nothing old is written again, and what recovery accepted is durable in new places before it
//! is served. Highest floor: uses every room below, implements [`Engine`](crate::transaction::Engine) for the handles.

mod alter;
mod archive;
mod background;
mod backup;
mod catalogue;
mod checkpoints;
mod claims;
mod compact;
mod consumers;
mod coordinator;
mod copies;
mod delete;
mod deliver;
mod engine;
mod fence;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod heir;
mod input;
mod layout;
mod listing;
mod loader;
mod manifest;
#[cfg(all(test, shuttle))]
mod models;
mod offsets;
mod open;
mod options;
mod owner;
mod page;
mod reader;
mod reading;
mod remove;
mod repair;
mod report;
mod retain;
mod rows;
mod seen_ids;
mod snapshot;
mod source;
mod take;
mod trim;

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use alter::TopicChange;
pub use backup::{BackupReport, BackupVerification, RestoreOptions, RestoreReport};
pub use checkpoints::StoreCheckpoints;
pub use compact::CompactionStats;
pub use coordinator::StoreStateBackend;
pub use listing::{ConsumerProgress, PartitionInfo, ProducerProgress, RecentBatch};
pub use offsets::StoreOffsets;
pub use options::{StoreMode, StoreOptions};
pub use reader::{
    BatchInfo, FrameInfo, OwnerInfo, ReaderCursor, ReaderOptions, ReaderSnapshot, SegmentInfo, StoreReader, TopicInfo,
    Verification,
};
pub use repair::{Mend, RepairPlan, RepairReport};
pub use report::{LostOffsets, RecoveryReport, StoreStats, TornTailReport};
pub use snapshot::Snapshot;

use crate::codec::Codec;
use crate::disk::machine::RuntimeLock;
use crate::disk::{Disk, MemoryDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{
    AsEngine, Consumer, ConsumerOptions, IdempotentProducer, IdempotentProducerConfig, Producer, TopicDef, Transaction,
    Tx,
};
use crate::ids::{Epoch, LogOffset, OwnerId, PartitionId, StoreId, TopicId};
use crate::page::PageState;
use crate::segment::OpenFiles;
use crate::table::{TableStore, Tables};
use crate::topic::TopicSpec;
use crate::transaction::{Committed, Engine, Pipeline};
use crate::wake::{Arc, AtomicBool, Mutex, Ordering};
use background::Background;
use compact::Compacting;
use coordinator::Coordinated;
use fence::Fence;
use input::Input;
use layout::Layout;
use manifest::ManifestFile;
use page::OwnerPage;
use retain::{Retaining, StoreTime};
use seen_ids::Remembering;

/// So often in a row no transaction loses to others.
const CONFLICTS_MAX: u32 = 10_000;

/// An open store. Cheap to clone; `Send + Sync`. The last clone closes it when dropped, as [`Store::close`] does but
/// without telling of errors.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What all handles of an open store share; without the background thread, which holds it too.
pub(crate) struct Core {
    disk: Arc<dyn Disk>,
    layout: Layout,
    options: StoreOptions,
    store: StoreId,
    /// What the store is called outside; `store` is what its files call it.
    identity: StoreId,
    only_copy: Mutex<Option<RuntimeLock>>,
    /// The owner's number; its name is in the layout.
    owner: OwnerId,
    epoch: Epoch,
    pipeline: Arc<Pipeline>,
    files: Arc<OpenFiles>,
    backend: Arc<TableStore>,
    tables: Arc<Tables>,
    manifest: Mutex<ManifestFile>,
    fence: Arc<Fence>,
    /// What readers in other processes see; `None` for a store in memory.
    page: Option<OwnerPage>,
    foreign: input::ForeignTopics,
    /// Creating topics and tables goes one at a time.
    creating: Mutex<()>,
    /// Topics that somebody puts dead letters into: they are never compacted. Asked and changed under `creating`.
    dead_letters: Mutex<BTreeSet<TopicId>>,
    /// Consumers that a handle of this store is at work for.
    consumers: Mutex<BTreeSet<source::Claimed>>,
    /// Transactions of coordinators.
    coordinated: Coordinated,
    /// Ids of the outer world.
    remembering: Remembering,
    /// The directories of consumers that are known to be claimed.
    claimed: Mutex<BTreeSet<PathBuf>>,
    /// One trim at a time.
    trimming: Mutex<()>,
    /// Old records are removed by one at a time; taken before `trimming`.
    removing: Mutex<()>,
    retaining: Retaining,
    compacting: Compacting,
    /// Delayed records are appended by one at a time.
    delivering: Mutex<deliver::Delivering>,
    store_time: StoreTime,
    archiving: archive::Archiving,
    /// When it was first seen that something written is not synced.
    unsynced_since: Mutex<Option<std::time::Duration>>,
    report: RecoveryReport,
    closed: AtomicBool,
}

struct Inner {
    core: Arc<Core>,
    background: Mutex<Option<Background>>,
    shipping: Mutex<Option<archive::Shipping>>,
}

impl Store {
    /// Opens the store in `dir`, making it if there is none, and takes its owner `main`. What a crash left is recovered
    /// before this returns: see [`Store::recovery_report`].
    ///
    /// # Errors
    /// `Locked`: another process has it, see [`Error::holder_pid`]. `Corrupt`: something on disk is not what was
    /// written, the error names file and position; nothing was repaired. `UnsupportedVersion`: written by a newer
    /// Oncelog, nothing was changed. `Invalid`: `dir` is a file, or a directory with something else in it. `Full`,
    /// `Unavailable`.
    pub fn open(dir: impl AsRef<Path>) -> Result<Store> {
        StoreOptions::new().open(dir)
    }

    /// Opens the store in `dir` as its owner `owner`, making both if they are not there: for a program beside others on
    /// one store, with topics, tables and consumers of its own. `main` is the owner that [`Store::open`] takes.
    ///
    /// # Errors
    /// As [`Store::open`]; `Locked`: another process has this owner; `Invalid`: a bad name, 64 bytes at most.
    pub fn attach(dir: impl AsRef<Path>, owner: &str) -> Result<Store> {
        StoreOptions::new().attach(dir, owner)
    }

    /// Gives a copy of a store, made by copying its closed directory, an identity of its own, so that it and the first
    /// can be open at the same time and their records be told apart outside. A copy that was never adopted is refused
    /// while the first is open on the same machine. Durable on return; a crash leaves the old identity or the new one.
    ///
    /// # Errors
    /// `NotFound`: there is no store; `Locked`: it is open; `Corrupt`, `Unavailable`.
    pub fn adopt(dir: impl AsRef<Path>) -> Result<StoreId> {
        copies::adopt(&StoreOptions::new(), dir.as_ref())
    }

    /// What [`Store::repair`] would do. Writes nothing, and takes the locks of all owners while it looks.
    ///
    /// # Errors
    /// `NotFound`: there is no store; `Locked`: a process has it open; `Unavailable`: a file cannot be read;
    /// `UnsupportedVersion`.
    pub fn plan_repair(dir: impl AsRef<Path>) -> Result<RepairPlan> {
        StoreOptions::new().plan_repair(dir)
    }

    /// Makes a damaged store one that can be opened again, with all that is good in it. What is not is cut out, kept in
    /// `owners/OWNER/aside`, and told: offsets that are lost are a typed gap to readers, and never given out again.
    /// What cannot be mended is left as it is and told too. Restore a backup rather, if there is one.
    ///
    /// A crash at any instant leaves the damage or the mended store; call again.
    ///
    /// # Errors
    /// As [`Store::plan_repair`]; `Full`: no space to keep what is cut out.
    pub fn repair(dir: impl AsRef<Path>) -> Result<RepairReport> {
        StoreOptions::new().repair(dir)
    }

    /// Options for opening a store.
    pub fn options() -> StoreOptions {
        StoreOptions::new()
    }

    /// A store that lives as long as the process, for tests.
    ///
    /// # Errors
    /// `Unavailable`: no random numbers or no thread to be had.
    pub fn in_memory() -> Result<Store> {
        StoreOptions::new().journal_file_bytes(1 << 20).disk(Arc::new(MemoryDisk::default())).private().open("/memory")
    }

    /// Appends to `topic`, which is made if it does not exist. Of one that exists, settings that its definition gives
    /// and the topic does not have (compression, retention, compaction) are told in the log once and have no effect:
    /// [`Store::alter_topic`] changes them.
    ///
    /// # Errors
    /// `Invalid`: the topic exists with other codecs or another number of partitions; `Full`, `InDoubt`, `Closed`.
    pub fn producer<K: Codec, V: Codec>(&self, topic: TopicDef<K, V>) -> Result<Producer<K, V>> {
        Producer::open(self.as_engine(), &topic)
    }

    /// Appends to `topic`, which is made if it does not exist, so that what is sent twice is stored once. Takes the
    /// next epoch of that producer: an older handle gets `Fenced` from now on.
    ///
    /// # Errors
    /// As [`Store::producer`]; `Invalid`: a bad name, or no such partition.
    pub fn idempotent_producer<K: Codec, V: Codec>(
        &self,
        topic: TopicDef<K, V>,
        config: IdempotentProducerConfig,
    ) -> Result<IdempotentProducer<K, V>> {
        IdempotentProducer::open(self.as_engine(), &topic, config)
    }

    /// Reads `topic`, which is made if it does not exist, in the given [`ConsumerStyle`](crate::ConsumerStyle), or as
    /// [`ConsumerOptions`] say in more detail.
    ///
    /// # Errors
    /// `Locked`: another handle consumes under this id, or globally. `Invalid`: as by
    /// [`Store::producer`], a bad name, a partition that is not there, or a position behind the end.
    pub fn consumer<K: Codec, V: Codec>(
        &self,
        topic: TopicDef<K, V>,
        how: impl Into<ConsumerOptions>,
    ) -> Result<Consumer<K, V>> {
        Consumer::open(self.as_engine(), &topic, &how.into())
    }

    /// Makes topics, those that do not exist: [`TopicDef::spec`] gives what is asked for. For many topics: making them
    /// one by one, at their first use, costs several syncs each, here they share most. Durable on return.
    ///
    /// # Errors
    /// `Invalid`: one exists with other codecs or partitions, or has a bad name; `Locked`: one is another owner's;
    /// `Full`, `InDoubt`, `Closed`. Those before it may have been made: call again.
    pub fn create_topics(&self, topics: impl IntoIterator<Item = TopicSpec>) -> Result<()> {
        self.inner.core.create_topics(&topics.into_iter().collect::<Vec<_>>())
    }

    /// Makes consumer ids this owner's, those that are not yet: for many of them, as [`Store::create_topics`] is for
    /// topics. Durable on return.
    ///
    /// # Errors
    /// `Invalid`: a bad name; `Locked`: one is another owner's; `Full`, `InDoubt`, `Closed`. Those before it may have
    /// been claimed: call again.
    pub fn create_consumers<'a>(&self, ids: impl IntoIterator<Item = &'a str>) -> Result<()> {
        self.inner.core.create_consumers(&ids.into_iter().collect::<Vec<_>>())
    }

    /// A transaction in the long form.
    ///
    /// # Errors
    /// `Closed`.
    pub fn begin(&self) -> Result<Transaction> {
        Transaction::begin(self.as_engine())
    }

    /// Runs `change` in a transaction and commits it; runs it again as often as it meets a `Conflict`. Durable on
    /// return.
    ///
    /// # Errors
    /// Whatever `change` fails with: nothing happened then. `Conflict`: ten thousand times in a row, so that `change`
    /// itself must be what changes the rows it read, by another transaction. `TopicFull`: a topic has no room, see
    /// [`Store::transact_patiently`]. `Full`, `Closed`: nothing happened. `InDoubt`: the disk failed, reopen the store
    /// and look.
    pub fn transact<T>(&self, mut change: impl FnMut(&mut Tx<'_>) -> Result<T>) -> Result<T> {
        let mut attempts = 0u32;
        loop {
            let mut transaction = self.begin()?;
            let made = change(&mut transaction.tx())?;
            match transaction.commit() {
                Ok(Committed { .. }) => return Ok(made),
                Err(error) if error.kind() == ErrorKind::Conflict && attempts < CONFLICTS_MAX => {}
                Err(error) => return Err(error),
            }
            attempts += 1;
            if attempts > 20 {
                self.inner.core.options.clock.sleep(Duration::from_micros(100));
            }
        }
    }

    /// As [`Store::transact`], and waits for room, for `patience` at most, where a topic is full: as long as that its
    /// place is not taken, and nothing of it has happened. `change` runs again after each wait. Only where somebody
    /// else makes room: never on the thread that has to read the full topic.
    ///
    /// # Errors
    /// Those of [`Store::transact`]; `TopicFull`: still so behind that time, or nobody will make room. Nothing
    /// happened.
    pub fn transact_patiently<T>(
        &self,
        patience: Duration,
        mut change: impl FnMut(&mut Tx<'_>) -> Result<T>,
    ) -> Result<T> {
        let (core, clock) = (&self.inner.core, &self.inner.core.options.clock);
        let deadline = clock.monotonic().saturating_add(patience);
        loop {
            match self.transact(&mut change) {
                Err(error) if error.kind() == ErrorKind::TopicFull => {
                    let left = deadline.saturating_sub(clock.monotonic());
                    if left.is_zero() || !core.wait_for_refused(left)? {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// One state of all tables and topics, as of the last durable commit; stays as it is however long it is kept.
    /// Costs nothing to make; while it lives, what it shows of rows that change stays in memory.
    ///
    /// # Errors
    /// `Closed`.
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.inner.core.check_open()?;
        Ok(Snapshot::take(&self.inner.core))
    }

    /// The first offset that is kept and the offset behind the last visible record of a partition.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Invalid`: no such partition.
    pub fn offsets(&self, topic: &str, partition: PartitionId) -> Result<(LogOffset, LogOffset)> {
        let core = &self.inner.core;
        match core.input_named(topic)? {
            Input::Own(topic) => {
                let partition = topic.partition(partition)?;
                Ok((partition.start(), partition.end_at(core.pipeline.view.visible())))
            }
            Input::Foreign(topic) if partition.0 < topic.info.partitions => {
                topic.watched(partition).map(|watched| (watched.start, watched.end))
            }
            Input::Foreign(topic) => Err(reader::no_partition(&topic.info, partition)),
        }
    }

    /// The next offset that `consumer` will read of each partition of `topic`, as committed; 0 where it has read
    /// nothing.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Corrupt`.
    pub fn committed_offsets(&self, consumer: &str, topic: &str) -> Result<Vec<LogOffset>> {
        let core = &self.inner.core;
        let topic = core.input_named(topic)?;
        let partitions = (0..topic.partitions()).map(PartitionId);
        partitions.map(|partition| core.committed(consumer, topic.id(), partition)).collect()
    }

    /// The first visible record of a partition that is not older than `timestamp_ms`; the end if there is none.
    /// Timestamps need not rise: records behind it may be older. Costs a look at one block or two.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Invalid`: no such partition; `Corrupt`, `Unavailable`, `Closed`.
    pub fn offset_at_time(&self, topic: &str, partition: PartitionId, timestamp_ms: i64) -> Result<LogOffset> {
        let core = &self.inner.core;
        core.check_open()?;
        let topic = core.topic(topic)?;
        let partition = topic.partition(partition)?;
        partition.offset_at_time(timestamp_ms, partition.end_at(core.pipeline.view.visible()))
    }

    /// What the store holds in memory and what it has met since it was opened.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let core = &self.inner.core;
        let (indexes_loaded, indexes_rebuilt) = core.files.indexes();
        let compacted = core.compacting.total();
        StoreStats {
            topics_used: core.pipeline.topics.all_loaded().len(),
            open_files: core.files.open(),
            indexes_loaded,
            indexes_rebuilt,
            removed_segments: core.retaining.removed_segments.load(Ordering::SeqCst),
            removed_bytes: core.retaining.removed_bytes.load(Ordering::SeqCst),
            compactions: compacted.rounds,
            compactions_failed: compacted.failures,
            compactions_without_room: compacted.without_room,
            compacted_bytes_before: compacted.bytes_before,
            compacted_bytes_after: compacted.bytes_after,
            appends_refused: core.pipeline.refused.load(Ordering::SeqCst),
            topics_held: core.pipeline.delays.held(),
            archive_behind_bytes: core.archiving.behind.load(Ordering::SeqCst),
            archive_failures: core.archiving.failures.load(Ordering::SeqCst),
            archive_from: core.archive_from(),
            archive_set_aside: core.archiving.set_aside.load(Ordering::SeqCst),
        }
    }

    /// Removes what the limits of the topics say, now: the background does so by itself, see
    /// [`StoreOptions::retention_interval`]. Durable on return.
    ///
    /// # Errors
    /// `Full`: no room for the trim point, nothing was removed. `InDoubt`, `Closed`, `Corrupt`, `Unavailable`.
    pub fn retain(&self) -> Result<()> {
        self.inner.core.check_open()?;
        self.inner.core.retain()
    }

    /// Deletes a topic with its records, the progress of its consumers and the stamps of its producers, in one durable
    /// step. A topic made anew under the name has another id and inherits nothing. Handles that stand in it answer
    /// `NotFound` from then on. Costs a look at the progress of all consumers.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Full`, `InDoubt`, `Closed`.
    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        self.inner.core.delete_topic(topic)
    }

    /// Makes every append and commit that was answered so far durable.
    ///
    /// # Errors
    /// `InDoubt`: the sync failed; `Closed`.
    pub fn flush(&self) -> Result<()> {
        self.inner.core.check_open()?;
        self.inner.core.pipeline.flush()
    }

    pub(crate) fn core(&self) -> &Core {
        &self.inner.core
    }

    /// What the opening found and did.
    #[must_use]
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.inner.core.report
    }

    /// The store's identity, given when it was made or [adopted](Store::adopt).
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.inner.core.identity
    }

    /// The name of the owner that this is.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.inner.core.layout.name
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.core.layout.dir
    }

    /// Does what the background thread would do now: leads waiting groups, syncs lax appends, trims when due. Only
    /// needed with [`StoreOptions::manual_duties`].
    ///
    /// # Errors
    /// `Full`: the trim had no space and will be tried again; `InDoubt`, `Closed`: the disk failed.
    pub fn run_duties(&self) -> Result<()> {
        self.inner.core.check_open()?;
        self.inner.core.duties()
    }

    /// Moves the trim point to the newest durable frame now, so that a later recovery has nothing to replay.
    ///
    /// # Errors
    /// `Full`: no space, nothing has changed; `InDoubt`, `Closed`: the disk failed.
    pub fn trim(&self) -> Result<()> {
        self.inner.core.check_open()?;
        self.inner.core.trim(manifest::State::Open)
    }

    /// Ends all handles of this store in order: what was answered is durable, the trim point is at the end, the lock is
    /// free. Later calls on any handle answer `Closed`.
    ///
    /// # Errors
    /// `InDoubt`, `Full`, `Unavailable`: the disk failed on the way; the next opening recovers.
    pub fn close(self) -> Result<()> {
        self.inner.close()
    }
}

impl AsEngine for Store {
    fn as_engine(&self) -> Arc<dyn Engine> {
        Arc::new(engine::StoreEngine(self.clone()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir()).field("epoch", &self.inner.core.epoch).finish()
    }
}

impl Core {
    fn check_open(&self) -> Result<()> {
        if !self.closed.load(Ordering::SeqCst) && !self.pipeline.journal.has_failed() {
            return Ok(());
        }
        // Once another has been seen, that is the answer.
        if self.fence.has_tripped() { self.fence.check() } else { Err(Error::closed()) }
    }
}

impl Inner {
    fn close(&self) -> Result<()> {
        // Held to the end: whoever closes a second time waits for the first.
        let mut background = self.background.lock();
        if self.core.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        drop(background.take());
        let closed = self.core.finish();
        drop(self.shipping.lock().take());
        if closed.is_ok() {
            // Told where it failed; what stays is for the next opening.
            let _ = self.core.ship_last();
        }
        let failed = self.core.pipeline.journal.has_failed();
        self.core.pipeline.journal.halt();
        self.core.foreign.watchers.end();
        self.core.pipeline.view.news.raise();
        // A trim that is under way writes to the table file of whoever has the owner next.
        let _no_trim = self.core.trimming.lock();
        // First: whoever has the manifest next asks for this one next.
        drop(self.core.only_copy.lock().take());
        self.core.manifest.lock().unlock();
        if let Some(page) = &self.core.page {
            page.end(if failed || closed.is_err() { PageState::Failed } else { PageState::Closed });
        }
        closed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            let dir = self.core.layout.dir.display();
            tracing::warn!(%error, %dir, "a store was not closed in order; the next opening recovers");
        }
    }
}
