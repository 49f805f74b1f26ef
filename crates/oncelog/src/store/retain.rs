//! Retention: in the background, or when an append finds its topic full.
//!
//! ```text
//! files of each limited topic, and where those stand who must have read them
//!     -> decide (topic::retention)  -> remove_below, all topics in one durable step  -> appends that wait go on
//! ```
//!
//! Ages are told by a clock of the store: it goes on by the monotonic clock while the store is open, its reading is
//! part of the trim point, and an opening goes on at that reading or at the wall clock's, whichever is later. So a wall
//! clock that jumps while the store is open removes nothing early, and one that went back while it was closed neither.
//!
//! Who must have read: the position of a consumer of this owner is what is visible; one of another owner's is looked up
//! in that owner's journal, which costs a recovery in memory, and so only if the limits would remove something, and
//! never for more than a tenth of the time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Core;
use super::claims::Name;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::topic::{self, ConsumerIds, MinimumRetention, PartitionView, Topic, TopicSpec, decide, elapsed};
use crate::transaction::EngineTx;
use crate::transaction::system::{self, CatalogueKey};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering};

/// An append that waits looks again after so long, for consumers of other owners, which wake nobody here.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The part of its expiry that a consumer may move on before it is noted again.
const NOTES_IN_EXPIRY: u32 = 16;

/// The store's clock for ages.
#[derive(Debug)]
pub(super) struct StoreTime {
    /// Its reading when the monotonic clock showed `since`.
    base_ms: i64,
    since: Duration,
}

impl StoreTime {
    /// Goes on at `recorded`, or at the wall clock if that is later.
    pub(super) fn go_on(recorded: Option<i64>, clock: &dyn Clock) -> StoreTime {
        let base_ms = recorded.unwrap_or(i64::MIN).max(clock.now_ms());
        StoreTime { base_ms, since: clock.monotonic() }
    }

    /// Milliseconds since the Unix epoch, or what went for them; never goes back.
    pub(super) fn now_ms(&self, clock: &dyn Clock) -> i64 {
        let passed = clock.monotonic().saturating_sub(self.since);
        self.base_ms.saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
    }
}

/// What retention keeps in memory.
#[derive(Default)]
pub(super) struct Retaining {
    /// Topics with limits; `None`: not looked for yet.
    limited: Mutex<Option<BTreeSet<TopicId>>>,
    /// One round at a time, and when the last one was.
    round: Mutex<Option<Duration>>,
    looks: Mutex<Looks>,
    pub(super) removed_segments: AtomicU64,
    pub(super) removed_bytes: AtomicU64,
}

/// Where consumers of other owners stood when these were last looked at.
#[derive(Default)]
struct Looks {
    positions: BTreeMap<(String, TopicId), Vec<LogOffset>>,
    /// No owner is looked at before.
    not_before: Duration,
}

/// Where a consumer stood that is waited for, and since when, by the store's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitedFor {
    pub(crate) next: LogOffset,
    pub(crate) since_ms: i64,
}

impl Core {
    /// A topic is so from now on.
    pub(super) fn note_limits(&self, id: TopicId, spec: &TopicSpec) {
        if let Some(limited) = &mut *self.retaining.limited.lock() {
            if spec.retention.has_limits() {
                limited.insert(id)
            } else {
                limited.remove(&id)
            };
        }
    }

    /// What is due now: once in an interval, and when a topic that is in use holds too much.
    pub(super) fn retain_if_due(&self) -> Result<()> {
        let now = self.options.clock.monotonic();
        let mut last = self.retaining.round.lock();
        let passed = last.map(|last| now.saturating_sub(last));
        let is_due = passed.is_none_or(|passed| passed >= self.options.retention_interval);
        if is_due
            || (passed.is_none_or(|passed| passed >= LOOK_AGAIN.min(self.options.retention_interval))
                && self.some_topic_is_over())
        {
            *last = Some(now);
            self.retain_all()?;
        }
        Ok(())
    }

    /// A round over all topics, now.
    pub(super) fn retain(&self) -> Result<()> {
        let mut last = self.retaining.round.lock();
        *last = Some(self.options.clock.monotonic());
        self.retain_all()
    }

    fn some_topic_is_over(&self) -> bool {
        let limited = self.retaining.limited.lock().clone().unwrap_or_default();
        let topics = limited.iter().filter_map(|id| self.pipeline.topics.loaded(*id));
        topics.filter_map(|topic| topic.partitions.first().cloned()).any(|partition| partition.usage().is_over())
    }

    fn retain_all(&self) -> Result<()> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let (mut starts, mut gone) = (Vec::new(), Vec::new());
        for id in self.limited()? {
            let topic = match self.pipeline.topics.get(id) {
                Ok(topic) => topic,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    gone.push(id);
                    continue;
                }
                Err(error) => {
                    tracing::error!(%error, topic = %id, "old records cannot be looked for");
                    continue;
                }
            };
            let decided = self.decide_for(&topic, now_ms)?;
            let moves = topic.partitions.iter().zip(decided);
            starts.extend(moves.filter_map(|(partition, start)| Some((Arc::clone(partition), start?))));
        }
        if let Some(limited) = &mut *self.retaining.limited.lock() {
            limited.retain(|id| !gone.contains(id));
        }
        let removed = self.remove_below(&starts);
        if removed.is_ok() && !starts.is_empty() {
            tracing::debug!(partitions = starts.len(), "old records were removed");
        }
        removed
    }

    fn limited(&self) -> Result<Vec<TopicId>> {
        let mut known = self.retaining.limited.lock();
        if let Some(known) = &*known {
            return Ok(known.iter().copied().collect());
        }
        let (first, last) = (CatalogueKey::Topic(TopicId(0)).encode(), CatalogueKey::Topic(TopicId(u32::MAX)).encode());
        let mut found = BTreeSet::new();
        self.each_row(system::CATALOGUE, Bound::Included(&first), Bound::Included(&last), |key, row| {
            let spec: TopicSpec = system::decode_row(row)?;
            if let Some(CatalogueKey::Topic(id)) = CatalogueKey::decode(key).filter(|_| spec.retention.has_limits()) {
                found.insert(id);
            }
            Ok(())
        })?;
        Ok(known.insert(found).iter().copied().collect())
    }

    fn decide_for(&self, topic: &Topic, now_ms: i64) -> Result<Vec<Option<LogOffset>>> {
        let retention = &topic.spec.retention;
        let wanted = topic.partitions.first().map_or(0, |partition| partition.usage().wanted());
        let visible = self.pipeline.view.visible();
        let mut views: Vec<PartitionView> = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let files = partition.files(&mut partition.turn(), now_ms, retention.max_file_age);
            views.push(PartitionView { files, floor: partition.end_at(visible) });
        }
        let decided = decide(retention, &views, wanted, now_ms);
        let MinimumRetention::Consumers { ids, expiry } = &retention.blocking_minimum else { return Ok(decided) };
        if decided.iter().all(Option::is_none) {
            return Ok(decided);
        }
        self.lower_floors(topic, ids, *expiry, &mut views, now_ms)?;
        Ok(decide(retention, &views, wanted, now_ms))
    }

    /// Nothing goes that one of the consumers has not read, unless it is abandoned.
    fn lower_floors(
        &self,
        topic: &Topic,
        ids: &ConsumerIds,
        expiry: Option<Duration>,
        views: &mut [PartitionView],
        now_ms: i64,
    ) -> Result<()> {
        let mut notes = Vec::new();
        for id in ids.iter() {
            let positions = self.positions_of(id, topic)?;
            for ((view, partition), next) in views.iter_mut().zip(&topic.partitions).zip(positions) {
                let key = system::progress_key(id, topic.id, partition.id);
                let is_behind = next < partition.end_at(self.pipeline.view.visible());
                let abandoned = match expiry {
                    Some(expiry) => self.is_abandoned(key, next, is_behind, expiry, now_ms, &mut notes)?,
                    None => false,
                };
                if !abandoned {
                    view.floor = view.floor.min(next);
                }
            }
        }
        self.note(notes)
    }

    /// Whether a consumer has something to read and has not moved for `expiry`. What is to be noted of it goes to
    /// `notes`.
    fn is_abandoned(
        &self,
        key: Vec<u8>,
        next: LogOffset,
        is_behind: bool,
        expiry: Duration,
        now_ms: i64,
        notes: &mut Vec<(Vec<u8>, WaitedFor)>,
    ) -> Result<bool> {
        let visible = self.pin_visible();
        let row = self.tables.shard(system::WAITED_FOR, system::SHARD).get(&key, visible.lsn())?;
        let known: Option<WaitedFor> = row.map(|row| system::decode_row(&row)).transpose()?;
        let waited = known.map(|known| elapsed(known.since_ms, now_ms));
        if is_behind && known.is_some_and(|known| known.next == next) {
            return Ok(waited.is_some_and(|waited| waited >= expiry));
        }
        // It has moved, or has nothing to do. A note that is too old says that it moved earlier than it did, so a place
        // that is not the noted one never counts as abandoned.
        if known.is_none_or(|known| known.next != next)
            || waited.is_some_and(|waited| waited >= expiry / NOTES_IN_EXPIRY)
        {
            notes.push((key, WaitedFor { next, since_ms: now_ms }));
        }
        Ok(false)
    }

    fn note(&self, notes: Vec<(Vec<u8>, WaitedFor)>) -> Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin();
        for (key, waited) in notes {
            tx.put(system::WAITED_FOR, system::SHARD, &key, Some(system::encode_row(&waited)?.into()))?;
        }
        Box::new(tx).submit()?.wait().map(drop)
    }

    /// The next offset that the consumer reads of each partition, at least.
    fn positions_of(&self, id: &str, topic: &Topic) -> Result<Vec<LogOffset>> {
        let name = if id.is_empty() { Name::Global(topic.id, &topic.spec.name) } else { Name::Consumer(id) };
        let partitions = topic.partitions.iter().map(|partition| partition.id);
        match topic::find_claim(&*self.disk, &name.dir(&self.layout))? {
            Some(claim) if claim.owner != self.layout.name => self.positions_elsewhere(&claim.owner, id, topic),
            _ => partitions.map(|partition| self.committed(id, topic.id, partition)).collect(),
        }
    }

    fn positions_elsewhere(&self, owner: &str, id: &str, topic: &Topic) -> Result<Vec<LogOffset>> {
        let clock = &self.options.clock;
        let key = (id.to_owned(), topic.id);
        let mut looks = self.retaining.looks.lock();
        let before = clock.monotonic();
        if before >= looks.not_before {
            let partitions = topic.partitions.iter().map(|partition| partition.id);
            let look = self.foreign_reader().and_then(|reader| {
                reader.look(owner, |store| {
                    let at = |partition: PartitionId| store.core().committed(id, topic.id, partition);
                    partitions.clone().map(at).collect::<Result<Vec<_>>>()
                })
            });
            let took = clock.monotonic().saturating_sub(before);
            looks.not_before = clock.monotonic().saturating_add((took * 10).max(LOOK_AGAIN / 2));
            match look {
                Ok(positions) => {
                    looks.positions.insert(key.clone(), positions);
                }
                Err(error) => {
                    let what = "nothing is removed ahead of a consumer that cannot be seen";
                    tracing::warn!(%error, owner, consumer = id, "{what}");
                }
            }
        }
        Ok(looks.positions.get(&key).cloned().unwrap_or_else(|| vec![LogOffset(0); topic.partitions.len()]))
    }

    /// Waits until the topic may have room again, a moment at most. `false`: nobody will make any.
    ///
    /// # Errors
    /// `Closed`; what a round of retention fails with.
    pub(super) fn wait_for_room(&self, id: TopicId) -> Result<bool> {
        self.check_open()?;
        let topic = self.pipeline.topics.get(id)?;
        let Some(partition) = topic.partitions.first() else { return Ok(false) };
        if !self.pipeline.has_background {
            let before = self.retaining.removed_bytes.load(Ordering::SeqCst);
            self.retain()?;
            return Ok(self.retaining.removed_bytes.load(Ordering::SeqCst) > before);
        }
        self.pipeline.journal.wake_background();
        partition.usage().wait(LOOK_AGAIN);
        if self.pipeline.journal.has_failed() { Err(Error::closed()) } else { Ok(true) }
    }

    /// Whether appends to the topic are ever refused for what it holds.
    pub(super) fn may_be_full(&self, id: TopicId) -> bool {
        let topic = self.pipeline.topics.loaded(id);
        topic.is_some_and(|topic| topic.partitions.first().is_some_and(|partition| partition.usage().has_limit()))
    }
}
