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

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Core;
use super::claims::Name;
use super::reader::StoreReader;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::topic::{self, ConsumerIds, MinimumRetention, PartitionView, Topic, TopicSpec, decide, elapsed};
use crate::transaction::EngineTx;
use crate::transaction::system::{self, CatalogueKey};
use crate::wake::{Arc, AtomicU64, Mutex, Ordering};

/// An append that waits looks again after so long, for consumers of other owners, which wake nobody here.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// So many topics that nobody uses are put together in a round of the background.
const LOADED_AT_ONCE: usize = 32;
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
    /// Topics with limits and those that are compacted; `None`: not looked for yet.
    limited: Mutex<Option<BTreeMap<TopicId, Limited>>>,
    /// One round at a time.
    round: Mutex<Round>,
    looks: Mutex<Looks>,
    pub(super) removed_segments: AtomicU64,
    pub(super) removed_bytes: AtomicU64,
}

/// Why a topic is looked after.
#[derive(Clone, Copy)]
struct Limited {
    has_limits: bool,
    /// It has something to do although nobody appends to it.
    has_ages: bool,
    is_compacted: bool,
}

impl Limited {
    fn of(spec: &TopicSpec) -> Limited {
        let is_compacted = spec.compaction.is_some();
        let has_ages = spec.retention.max_file_age.is_some() || is_compacted;
        Limited { has_limits: spec.retention.has_limits(), has_ages, is_compacted }
    }

    fn is_looked_after(self) -> bool {
        self.has_limits || self.is_compacted
    }
}

/// How far the rounds of the background have come.
#[derive(Default)]
struct Round {
    /// When the last one over all in use was.
    last: Option<Duration>,
    /// When topics that hold too much were last looked for.
    over: Duration,
    /// Topics up to here that nobody uses were put together and looked at.
    loaded: Option<TopicId>,
}

/// Which topics a round looks at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    All,
    /// Those in use, and a few of the others, in turn.
    InUse,
    /// Those that hold too much, or whose appends were refused.
    Over,
}

/// Where consumers of other owners stand.
#[derive(Default)]
struct Looks {
    reader: Option<StoreReader>,
    owners: BTreeMap<String, OwnerLook>,
}

/// What is known of the consumers of one owner.
#[derive(Default)]
struct OwnerLook {
    /// Asked for; `None`: not seen yet.
    positions: BTreeMap<(String, TopicId), Option<Vec<LogOffset>>>,
    /// It is not looked at before.
    not_before: Duration,
}

/// Where a consumer stands.
struct Seen {
    /// At least here, in each partition.
    next: Vec<LogOffset>,
    /// It is there now, and was not only at some time before.
    is_now: bool,
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
            if Limited::of(spec).is_looked_after() {
                limited.insert(id, Limited::of(spec));
            } else {
                limited.remove(&id);
            }
        }
    }

    /// What is due now: once in an interval, and when a topic that is in use holds too much.
    pub(super) fn retain_if_due(&self) -> Result<()> {
        let now = self.options.clock.monotonic();
        let mut round = self.retaining.round.lock();
        let interval = self.options.retention_interval;
        match round.last.map(|last| now.saturating_sub(last)) {
            Some(passed) if passed < interval => {
                if now.saturating_sub(round.over) < LOOK_AGAIN.min(interval) {
                    return Ok(());
                }
                round.over = now;
                self.retain_some(&mut round, Which::Over)
            }
            _ => {
                (round.last, round.over) = (Some(now), now);
                self.retain_some(&mut round, Which::InUse)
            }
        }
    }

    /// A round over all topics, now.
    pub(super) fn retain(&self) -> Result<()> {
        let mut round = self.retaining.round.lock();
        round.last = Some(self.options.clock.monotonic());
        self.retain_some(&mut round, Which::All)
    }

    fn retain_some(&self, round: &mut Round, which: Which) -> Result<()> {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let mut starts = Vec::new();
        for topic in self.topics_of(round, which)? {
            if !topic.spec.retention.has_limits() {
                continue;
            }
            match self.decide_for(&topic, now_ms) {
                Ok(decided) => {
                    let moves = topic.partitions.iter().zip(decided);
                    let moves = moves.filter_map(|(partition, start)| Some((Arc::clone(partition), start?)));
                    // One that is being deleted takes no part.
                    starts.extend(moves.filter(|(partition, _)| partition.check_takes().is_ok()));
                }
                Err(error) if error.kind() == ErrorKind::Closed => return Err(error),
                // The others are not to suffer for it.
                Err(error) => {
                    tracing::error!(%error, topic = topic.spec.name, "what may go of a topic cannot be decided");
                }
            }
        }
        match self.remove_below(&starts) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn topics_of(&self, round: &mut Round, which: Which) -> Result<Vec<Arc<Topic>>> {
        let topics = &self.pipeline.topics;
        if which == Which::Over {
            let limited = self.retaining.limited.lock();
            let loaded = limited.iter().flat_map(BTreeMap::keys).filter_map(|id| topics.loaded(*id));
            let is_over = |topic: &Arc<Topic>| topic.partitions.first().is_some_and(|part| part.usage().is_over());
            return Ok(loaded.filter(is_over).collect());
        }
        let limited = self.limited()?;
        let mut found: Vec<_> = limited.keys().filter_map(|id| topics.loaded(*id)).collect();
        // What nobody uses has not grown: only its age can have come.
        let due = |why: &Limited| why.has_ages || (why.has_limits && which == Which::All);
        let unused = limited.iter().filter(|(id, why)| due(why) && topics.loaded(**id).is_none());
        let mut unused: Vec<_> = unused.map(|(id, _)| *id).collect();
        if which == Which::InUse {
            let behind = unused.partition_point(|id| Some(*id) <= round.loaded);
            unused.rotate_left(behind);
            unused.truncate(LOADED_AT_ONCE);
            round.loaded = unused.last().copied();
        }
        for id in unused {
            match topics.get(id) {
                Ok(topic) => found.push(topic),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if let Some(limited) = &mut *self.retaining.limited.lock() {
                        limited.remove(&id);
                    }
                }
                Err(error) => tracing::error!(%error, topic = %id, "old records cannot be looked for"),
            }
        }
        Ok(found)
    }

    /// The topics in use that are compacted.
    pub(super) fn compacted_topics(&self) -> Result<Vec<Arc<Topic>>> {
        let compacted = self.limited()?.into_iter().filter(|(_, why)| why.is_compacted);
        Ok(compacted.filter_map(|(id, _)| self.pipeline.topics.loaded(id)).collect())
    }

    fn limited(&self) -> Result<BTreeMap<TopicId, Limited>> {
        let mut known = self.retaining.limited.lock();
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let (first, last) = (CatalogueKey::Topic(TopicId(0)).encode(), CatalogueKey::Topic(TopicId(u32::MAX)).encode());
        let mut found = BTreeMap::new();
        self.each_row(system::CATALOGUE, Bound::Included(&first), Bound::Included(&last), |key, row| {
            let spec: TopicSpec = system::decode_row(row)?;
            let why = Limited::of(&spec);
            if let Some(CatalogueKey::Topic(id)) = CatalogueKey::decode(key).filter(|_| why.is_looked_after()) {
                found.insert(id, why);
            }
            Ok(())
        })?;
        Ok(known.insert(found).clone())
    }

    fn decide_for(&self, topic: &Topic, now_ms: i64) -> Result<Vec<Option<LogOffset>>> {
        let retention = &topic.spec.retention;
        let wanted = topic.partitions.first().map_or(0, |partition| partition.usage().wanted());
        let visible = self.pipeline.view.visible();
        let mut views: Vec<PartitionView> = Vec::with_capacity(topic.partitions.len());
        // Where appends wait for the age of what is there, a file that is old enough is ended, or it would never go.
        let end_at = match &retention.blocking_minimum {
            MinimumRetention::Age(least) if wanted > 0 => {
                Some(retention.max_file_age.map_or(*least, |age| age.min(*least)))
            }
            _ => retention.max_file_age,
        };
        for partition in &topic.partitions {
            let (files, news) = partition.files(&mut partition.turn(), now_ms, end_at);
            if news {
                self.pipeline.journal.at_rest(|applier, _| applier.touch(partition));
            }
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
    pub(super) fn lower_floors(
        &self,
        topic: &Topic,
        ids: &ConsumerIds,
        expiry: Option<Duration>,
        views: &mut [PartitionView],
        now_ms: i64,
    ) -> Result<()> {
        let mut notes = Vec::new();
        for id in ids.iter() {
            let seen = self.positions_of(id, topic)?;
            for ((view, partition), next) in views.iter_mut().zip(&topic.partitions).zip(seen.next) {
                let key = system::progress_key(id, topic.id, partition.id);
                let is_behind = next < partition.end_at(self.pipeline.view.visible());
                let abandoned = match expiry {
                    Some(expiry) if seen.is_now && is_behind => {
                        self.is_abandoned(key, next, expiry, now_ms, &mut notes)?
                    }
                    _ => false,
                };
                if !abandoned {
                    view.floor = view.floor.min(next);
                }
            }
        }
        match self.note(notes) {
            // A note that is missing is made later, and never too early. What goes now makes room.
            Err(error) if error.kind() == ErrorKind::Full => Ok(()),
            noted => noted,
        }
    }

    /// Whether a consumer that has something to read has stood at `next` for `expiry`. What is to be noted of it goes
    /// to `notes`.
    fn is_abandoned(
        &self,
        key: Vec<u8>,
        next: LogOffset,
        expiry: Duration,
        now_ms: i64,
        notes: &mut Vec<(Vec<u8>, WaitedFor)>,
    ) -> Result<bool> {
        let visible = self.pin_visible();
        let row = self.tables.shard(system::WAITED_FOR, system::SHARD).get(&key, visible.lsn())?;
        let known: Option<WaitedFor> = row.map(|row| system::decode_row(&row)).transpose()?;
        match known {
            Some(known) if known.next == next => Ok(elapsed(known.since_ms, now_ms) >= expiry),
            // It has moved. A place that is not the noted one never counts as abandoned, so a busy consumer need not be
            // noted each time.
            Some(known) if elapsed(known.since_ms, now_ms) < expiry / NOTES_IN_EXPIRY => Ok(false),
            _ => {
                notes.push((key, WaitedFor { next, since_ms: now_ms }));
                Ok(false)
            }
        }
    }

    fn note(&self, notes: Vec<(Vec<u8>, WaitedFor)>) -> Result<()> {
        if notes.is_empty() {
            return Ok(());
        }
        let mut tx = self.begin();
        for (key, waited) in notes {
            tx.put(system::WAITED_FOR, system::SHARD, &key, Some(system::encode_row(&waited)?.into()))?;
        }
        self.pipeline.submit_at_once(tx)?.wait().map(drop)
    }

    /// The next offset that the consumer reads of each partition, at least.
    fn positions_of(&self, id: &str, topic: &Topic) -> Result<Seen> {
        let name = if id.is_empty() { Name::Global(topic.id, &topic.spec.name) } else { Name::Consumer(id) };
        match topic::find_claim(&*self.disk, &name.dir(&self.layout))? {
            Some(claim) if claim.owner != self.layout.name => self.positions_elsewhere(&claim.owner, id, topic),
            _ => {
                let partitions = topic.partitions.iter().map(|partition| partition.id);
                let next =
                    partitions.map(|partition| self.committed(id, topic.id, partition)).collect::<Result<_>>()?;
                Ok(Seen { next, is_now: true })
            }
        }
    }

    /// One look at an owner answers for all of its consumers that were ever asked for.
    fn positions_elsewhere(&self, owner: &str, id: &str, topic: &Topic) -> Result<Seen> {
        let clock = &self.options.clock;
        let mut looks = self.retaining.looks.lock();
        let Looks { reader, owners } = &mut *looks;
        let known = owners.entry(owner.to_owned()).or_default();
        let key = (id.to_owned(), topic.id);
        known.positions.entry(key.clone()).or_default();
        let before = clock.monotonic();
        let is_now = before >= known.not_before;
        if is_now {
            let looked = self.retention_reader(reader).and_then(|reader| {
                reader.look(owner, |store| {
                    let mut found = BTreeMap::new();
                    for (id, topic) in known.positions.keys() {
                        let Ok(input) = self.input(*topic) else { continue };
                        let partitions = (0..input.partitions()).map(PartitionId);
                        let next = partitions.map(|partition| store.core().committed(id, *topic, partition));
                        found.insert((id.clone(), *topic), Some(next.collect::<Result<Vec<_>>>()?));
                    }
                    Ok(found)
                })
            });
            let took = clock.monotonic().saturating_sub(before);
            known.not_before = clock.monotonic().saturating_add((took * 10).max(LOOK_AGAIN / 2));
            match looked {
                Ok(found) => known.positions = found,
                Err(error) => {
                    let what = "nothing is removed ahead of a consumer that cannot be seen";
                    tracing::warn!(%error, owner, consumer = id, "{what}");
                    known.positions.values_mut().for_each(|next| *next = None);
                }
            }
        }
        match known.positions.get(&key).cloned().flatten() {
            Some(next) => Ok(Seen { next, is_now }),
            None => Ok(Seen { next: vec![LogOffset(0); topic.partitions.len()], is_now: false }),
        }
    }

    /// One that does not wait for an owner that is being opened: others wait for the background meanwhile.
    fn retention_reader<'r>(&self, reader: &'r mut Option<StoreReader>) -> Result<&'r StoreReader> {
        if let Some(reader) = reader {
            return Ok(reader);
        }
        let (disk, clock) = (Arc::clone(&self.disk), Arc::clone(&self.options.clock));
        let options = StoreReader::options().disk(disk).clock(clock).patience(Duration::ZERO);
        Ok(reader.insert(options.open(&self.layout.dir)?))
    }

    /// Waits until the topic may have room again, a moment at most. `false`: nobody will make any.
    ///
    /// # Errors
    /// `Closed`; what a round of retention fails with.
    pub(super) fn wait_for_room(&self, id: TopicId) -> Result<bool> {
        self.check_open()?;
        let topic = self.pipeline.topics.get(id)?;
        self.wait_for_room_in(&topic, LOOK_AGAIN)
    }

    /// As [`Core::wait_for_room`], of a topic that has refused something since it last had room, for `limit` at most.
    pub(super) fn wait_for_refused(&self, limit: Duration) -> Result<bool> {
        self.check_open()?;
        let refuses = |topic: &Arc<Topic>| topic.partitions.first().is_some_and(|part| part.usage().wanted() > 0);
        let loaded = self.limited()?.into_keys().filter_map(|id| self.pipeline.topics.loaded(id)).find(refuses);
        // Else it has come meanwhile.
        loaded.map_or(Ok(true), |topic| self.wait_for_room_in(&topic, limit.min(LOOK_AGAIN)))
    }

    fn wait_for_room_in(&self, topic: &Topic, limit: Duration) -> Result<bool> {
        let Some(partition) = topic.partitions.first() else { return Ok(false) };
        if !self.pipeline.has_background {
            let before = self.retaining.removed_bytes.load(Ordering::SeqCst);
            self.retain()?;
            return Ok(self.retaining.removed_bytes.load(Ordering::SeqCst) > before);
        }
        self.pipeline.journal.wake_background();
        partition.usage().wait(limit);
        if self.pipeline.journal.has_failed() { Err(Error::closed()) } else { Ok(true) }
    }

    /// Whether appends to the topic are ever refused for what it holds.
    pub(super) fn may_be_full(&self, id: TopicId) -> bool {
        let topic = self.pipeline.topics.loaded(id);
        topic.is_some_and(|topic| topic.partitions.first().is_some_and(|partition| partition.usage().has_limit()))
    }
}
