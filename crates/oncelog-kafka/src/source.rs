//! The records of a member's partitions, handed out so that whatever is handed out is committed or comes again.
//!
//! ```text
//! poll: producer ready -> partitions as decided -> committed offsets and tables settled -> back to what is committed
//!       -> the group's metadata -> records, until the group decides anew or there are no more
//! ```
//!
//! Invariants:
//! * A poll begins where the member has committed. A processor submits what it was handed before it polls again, so a
//!   partition that stands elsewhere had its transaction refused, and is read again from there.
//! * Partitions come and go between polls only: then nothing of them is in an open transaction.
//! * Nothing is handed out before the tables are where the committed offsets are.
//! * A member that the group does not know any more is replaced by a new one, which begins as every member does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use oncelog::{
    Error, ErrorKind, Fetched, Header, Headers, LogOffset, PartitionId, RecordView, Result, Source, Step, TopicId,
};
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Headers as _, OwnedMessage};
use rdkafka::{Message, TopicPartitionList};

use crate::assignment::{self, Decision};
use crate::engine::{Claim, Shared};
use crate::failure;
use crate::member::Member;
use crate::numbers::{Place, list, offset_from, partition_from};
use crate::restore::Restore;
use crate::tx::not_there;

/// Between two looks at whether a wait is over.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A member that is replaced so often in so short a time has another one of its name beside it.
const REPLACED_MAX: usize = 5;
const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// Records of a partition that is held back that are kept here before the client library is told to fetch no more.
const KEPT_MAX: usize = 1000;

type Key = (TopicId, PartitionId);

/// See the module.
pub(crate) struct KafkaSource {
    engine: Arc<Shared>,
    member: Arc<Member>,
    /// Which of this process's members of the group it is.
    number: usize,
    /// When members were replaced, lately.
    replaced: Vec<Instant>,
    parts: BTreeMap<Key, Part>,
    held: BTreeSet<Key>,
    restore: Option<Restore>,
    gap: Option<(TopicId, PartitionId, Range<LogOffset>)>,
    /// Told by the client library while we waited.
    failed: Option<KafkaError>,
    /// Headers of the record at hand, as our views have them.
    headers: Vec<u8>,
    /// Frees the processor's name when the last of its sources is dropped.
    _claim: Arc<Claim>,
}

/// A partition that is ours.
struct Part {
    /// Everything before it was handed out.
    position: LogOffset,
    /// Fetched, and not yet handed out.
    kept: VecDeque<OwnedMessage>,
    is_paused: bool,
}

impl KafkaSource {
    pub(crate) fn new(engine: Arc<Shared>, member: Arc<Member>, number: usize, claim: Arc<Claim>) -> KafkaSource {
        KafkaSource {
            engine,
            member,
            number,
            replaced: Vec::new(),
            parts: BTreeMap::new(),
            held: BTreeSet::new(),
            restore: None,
            gap: None,
            failed: None,
            headers: Vec::new(),
            _claim: claim,
        }
    }

    /// Everything that has to be so before a record is handed out; `false`: not yet.
    fn prepare(&mut self) -> Result<bool> {
        if !self.member.ready()? {
            return Ok(false);
        }
        while let Some(decision) = self.member.consumer.context().first() {
            match decision {
                Decision::Take(places) => self.take(&places)?,
                Decision::Leave(places) => self.leave(&places)?,
            }
            self.member.consumer.context().pop();
        }
        if self.member.is_unsettled() {
            self.settle()?;
        }
        if let Some(restore) = &mut self.restore {
            match restore.step(&self.member.keep.home) {
                Ok(false) => return Ok(false),
                Ok(true) => self.restore = None,
                Err(error) => {
                    // What a step had read and not committed is read again.
                    let tables = &self.member.keep.tables;
                    self.restore = self.restore.take().map(|begun| begun.and(tables, &[]));
                    return Err(error);
                }
            }
            self.resume_all()?;
        }
        self.member.followed();
        self.go_back()?;
        Ok(self.member.take_metadata())
    }

    fn name(&self, topic: TopicId) -> Arc<str> {
        let named = self.member.keep.topics.iter().find(|(id, _)| *id == topic);
        named.map_or_else(|| Arc::from(""), |(_, name)| Arc::clone(name))
    }

    fn key(&self, (topic, partition): &Place) -> Option<Key> {
        let found = self.member.keep.topics.iter().find(|(_, name)| **name == **topic);
        found.map(|(id, _)| (*id, *partition))
    }

    /// Where the group stands in these partitions: committed, or the first offset where nothing is committed.
    fn stands(&self, keys: &[Key]) -> Result<Vec<(Key, LogOffset)>> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let cluster = &self.member.keep.home.cluster;
        let names: Vec<(Arc<str>, PartitionId)> =
            keys.iter().map(|(topic, partition)| (self.name(*topic), *partition)).collect();
        let places = names.iter().map(|(name, partition)| (&**name, *partition));
        let committed = cluster.committed(&self.member.keep.group, places)?;
        let mut stands = Vec::with_capacity(keys.len());
        for ((key, (name, partition)), committed) in keys.iter().zip(&names).zip(committed) {
            let next = match committed {
                Some(next) => next,
                None => {
                    self.check_tables_are_empty(key.1)?;
                    cluster.low_and_stable(name, *partition)?.0
                }
            };
            stands.push((*key, next));
        }
        Ok(stands)
    }

    /// Nothing is committed: then nothing may be in the tables either, or all of it would be done again on top.
    fn check_tables_are_empty(&self, partition: PartitionId) -> Result<()> {
        let keep = &self.member.keep;
        for table in &keep.tables {
            let partitions = keep.home.cluster.partitions(&table.changelog)?.unwrap_or(0);
            let ends = keep.home.cluster.ends(&table.changelog, partitions)?;
            let (low, _) = keep.home.cluster.low_and_stable(&table.changelog, partition)?;
            if ends.get(partition.0 as usize).is_some_and(|end| *end > low) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "group {:?} has no committed offset for partition {partition}, and changelog {:?} is not \
                         empty: the offsets have expired or were deleted. Put them back, or delete the changelog to \
                         begin anew",
                        keep.group, table.changelog
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Partitions have come.
    fn take(&mut self, places: &[Place]) -> Result<()> {
        let keys: Vec<Key> = places.iter().filter_map(|place| self.key(place)).collect();
        let stands = self.stands(&keys)?;
        assignment::take(&self.member.consumer, &self.list(&stands))?;
        self.member.learn(stands.iter().copied());
        for (key, position) in stands {
            self.parts.insert(key, Part { position, kept: VecDeque::new(), is_paused: false });
            self.engine.arrive(&self.member, key);
        }
        self.restore(keys)
    }

    /// Partitions are to go. All of theirs that was handed out is committed, or will be done again elsewhere.
    fn leave(&mut self, places: &[Place]) -> Result<()> {
        let keys: Vec<Key> = places.iter().filter_map(|place| self.key(place)).collect();
        for key in &keys {
            // The client library remembers it, also for when the partition comes again.
            self.pause(*key, false)?;
            self.parts.remove(key);
            self.member.forget(key.0, key.1);
            self.engine.depart(&self.member, *key);
        }
        // Before anybody else has them.
        let is_gone = |partition: &PartitionId| !self.parts.keys().any(|(_, left)| left == partition);
        let gone: Vec<PartitionId> = keys.iter().map(|(_, partition)| *partition).filter(is_gone).collect();
        let restore = self.restore.take();
        let was_restoring = restore.is_some();
        self.restore = restore.and_then(|begun| begun.without(&self.member.keep.tables, &gone));
        if was_restoring && self.restore.is_none() {
            self.resume_all()?;
        }
        let mut list = TopicPartitionList::new();
        for (topic, partition) in places {
            list.add_partition(topic, crate::numbers::partition_to(*partition));
        }
        assignment::leave(&self.member.consumer, &list)
    }

    /// The last outcome was unknown, or the tables did not follow: the cluster says what is so.
    fn settle(&mut self) -> Result<()> {
        let keys: Vec<Key> = self.parts.keys().copied().collect();
        let stands = self.stands(&keys)?;
        self.member.learn(stands);
        self.restore(keys)?;
        self.member.settle();
        Ok(())
    }

    /// Begins to bring the tables of these partitions to where the committed offsets are.
    fn restore(&mut self, keys: Vec<Key>) -> Result<()> {
        let tables = &self.member.keep.tables;
        if tables.is_empty() || keys.is_empty() {
            return Ok(());
        }
        let mut partitions: Vec<PartitionId> = keys.into_iter().map(|(_, partition)| partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        self.restore = Some(match self.restore.take() {
            Some(begun) => begun.and(tables, &partitions),
            None => Restore::new(tables, &partitions),
        });
        // Until then nothing is handed out, so nothing needs to be fetched.
        let all: Vec<Key> = self.parts.keys().copied().collect();
        all.into_iter().try_for_each(|key| self.pause(key, true))
    }

    fn resume_all(&mut self) -> Result<()> {
        let paused: Vec<Key> = self.parts.iter().filter(|(_, part)| part.is_paused).map(|(key, _)| *key).collect();
        paused.into_iter().try_for_each(|key| self.pause(key, false))
    }

    fn pause(&mut self, key: Key, pause: bool) -> Result<()> {
        let name = self.name(key.0);
        let Some(part) = self.parts.get_mut(&key).filter(|part| part.is_paused != pause) else { return Ok(()) };
        let list = list([(&*name, key.1, part.position)]);
        let consumer = &self.member.consumer;
        let done = if pause { consumer.pause(&list) } else { consumer.resume(&list) };
        done.map_err(|error| failure::error("pause or resume a partition", error))?;
        part.is_paused = pause;
        Ok(())
    }

    /// Goes back to what is committed, where something else was handed out.
    fn go_back(&mut self) -> Result<()> {
        let stands = self.parts.iter().filter_map(|(key, part)| {
            let committed = self.member.committed(key.0, key.1)?;
            (committed != part.position).then_some((*key, committed))
        });
        let astray: Vec<(Key, LogOffset)> = stands.collect();
        if astray.is_empty() {
            return Ok(());
        }
        self.resume_all()?;
        let consumer = &self.member.consumer;
        if assignment::is_cooperative(consumer) {
            let list = self.list(&astray);
            assignment::leave(consumer, &list)?;
            assignment::take(consumer, &list)?;
        } else {
            let stands = self.parts.keys().filter_map(|key| Some((*key, self.member.committed(key.0, key.1)?)));
            let stands: Vec<(Key, LogOffset)> = stands.collect();
            assignment::take(consumer, &self.list(&stands))?;
        }
        let all_anew = !assignment::is_cooperative(consumer);
        for (key, part) in &mut self.parts {
            let committed = astray.iter().find(|(at, _)| at == key).map(|(_, committed)| *committed);
            if let Some(committed) = committed.or(all_anew.then_some(part.position)) {
                *part = Part { position: committed, kept: VecDeque::new(), is_paused: false };
            }
        }
        Ok(())
    }

    fn list(&self, stands: &[(Key, LogOffset)]) -> TopicPartitionList {
        let named: Vec<(Arc<str>, PartitionId, LogOffset)> =
            stands.iter().map(|((topic, partition), next)| (self.name(*topic), *partition, *next)).collect();
        list(named.iter().map(|(name, partition, next)| (&**name, *partition, *next)))
    }

    /// Records that were kept, of partitions that are not held back; `None`: hand out more.
    fn hand_out_kept(&mut self, visit: &mut Visit<'_>, done: &mut u64) -> Result<Option<()>> {
        let ready: Vec<Key> = self
            .parts
            .iter()
            .filter(|(key, part)| !self.held.contains(key) && !part.kept.is_empty())
            .map(|(key, _)| *key)
            .collect();
        for key in ready {
            while let Some(message) = self.parts.get_mut(&key).and_then(|part| part.kept.pop_front()) {
                match show(&message, key, &mut self.headers, &mut self.parts, visit) {
                    Ok(Step::Next) => *done += 1,
                    Ok(Step::NextAndReturn) => {
                        *done += 1;
                        return Ok(Some(()));
                    }
                    stay => {
                        if let Some(part) = self.parts.get_mut(&key) {
                            part.kept.push_front(message);
                        }
                        return stay.map(|_| Some(()));
                    }
                }
            }
            self.pause(key, false)?;
        }
        Ok(None)
    }

    /// Keeps a record that cannot be handed out now.
    fn keep(&mut self, key: Key, message: OwnedMessage) -> Result<()> {
        let Some(part) = self.parts.get_mut(&key) else { return Ok(()) };
        part.kept.push_back(message);
        if part.kept.len() >= KEPT_MAX { self.pause(key, true) } else { Ok(()) }
    }

    /// What an error of the client library means for the records.
    fn judge(&mut self, error: KafkaError) -> Result<()> {
        // Whatever it is told as.
        if let Some((code, _)) = self.member.consumer.client().fatal_error() {
            return self.replace(KafkaError::MessageConsumptionFatal(code));
        }
        if matches!(error, KafkaError::MessageConsumption(Code::AutoOffsetReset | Code::OffsetOutOfRange)) {
            return self.look_for_gap(error);
        }
        if failure::is_passing(&error) {
            tracing::debug!(%error, "Kafka");
            return Ok(());
        }
        Err(failure::error(format_args!("read for processor {:?}", self.member.keep.processor), error))
    }

    /// The group does not know the member any more: because it was away for too long, or because another one has its
    /// name. A new one takes its place.
    fn replace(&mut self, error: KafkaError) -> Result<()> {
        let now = Instant::now();
        self.replaced.retain(|then| now.duration_since(*then) < REPLACED_WITHIN);
        self.replaced.push(now);
        if self.replaced.len() >= REPLACED_MAX {
            let doing = format!("read for processor {:?}: is its directory in use twice?", self.member.keep.processor);
            return Err(failure::error(doing, error));
        }
        tracing::warn!(%error, "another member takes its place");
        self.abandon();
        self.member = Arc::new(self.engine.join(&self.member.keep, self.number)?);
        Ok(())
    }

    /// Leaves everything to others.
    fn abandon(&mut self) {
        for key in self.parts.keys() {
            self.engine.depart(&self.member, *key);
        }
        self.parts.clear();
        self.restore = None;
        self.member.consumer.context().end(&self.member.consumer);
    }

    /// Some partition does not have the offset at which it stands.
    fn look_for_gap(&mut self, error: KafkaError) -> Result<()> {
        for ((topic, partition), part) in &self.parts {
            let name = self.name(*topic);
            let (low, stable) = self.member.keep.home.cluster.low_and_stable(&name, *partition)?;
            if part.position < low {
                let lost = part.position..low;
                self.gap = Some((*topic, *partition, lost.clone()));
                return Err(Error::lost(&name, partition.0, lost));
            }
            if part.position > stable {
                let at = part.position;
                let what = format!(
                    "topic {name:?}, partition {partition} ends at {stable}, before {at}, where processor {:?} stands: \
                     it was made anew, or has lost what was acknowledged",
                    self.member.keep.processor
                );
                return Err(Error::new(ErrorKind::Corrupt, what).because(error));
            }
        }
        Ok(())
    }

    /// Serves the group and the client library for a moment; a record that comes is kept.
    fn serve(&mut self, limit: Duration) {
        let member = Arc::clone(&self.member);
        match member.consumer.poll(limit) {
            Some(Ok(message)) => {
                let place = (message.topic().to_owned(), partition_from(message.partition()));
                if let Some(key) = self.key(&place)
                    && let Err(error) = self.keep(key, message.detach())
                {
                    tracing::warn!(%error, "a partition goes on being fetched");
                }
            }
            Some(Err(error)) => self.failed = Some(error),
            None => {}
        }
    }
}

type Visit<'v> = dyn FnMut(TopicId, PartitionId, RecordView<'_>) -> Result<Step> + 'v;

/// Shows a record to the visitor, unless it was shown; the partition stands behind it if the visitor is done with it.
fn show(
    message: &impl Message,
    key: Key,
    headers: &mut Vec<u8>,
    parts: &mut BTreeMap<Key, Part>,
    visit: &mut Visit<'_>,
) -> Result<Step> {
    let offset = offset_from(message.offset());
    let Some(part) = parts.get_mut(&key) else { return Ok(Step::Next) };
    let view = RecordView::new(
        offset,
        message.timestamp().to_millis().unwrap_or(-1),
        message.key(),
        message.payload(),
        read_headers(message, headers)?,
    );
    let step = visit(key.0, key.1, view)?;
    if step != Step::Stay {
        part.position = offset.plus(1);
    }
    Ok(step)
}

fn read_headers<'h>(message: &impl Message, bytes: &'h mut Vec<u8>) -> Result<Headers<'h>> {
    let Some(headers) = message.headers().filter(|headers| headers.count() > 0) else { return Ok(Headers::NONE) };
    let unreadable = || {
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let what = format!("topic {topic:?}, partition {partition}, offset {offset}: a header's name is not UTF-8");
        Error::new(ErrorKind::Corrupt, what)
    };
    bytes.clear();
    // The client library panics at names that are not UTF-8.
    let all = catch_unwind(AssertUnwindSafe(|| headers.iter().collect::<Vec<_>>())).map_err(|_| unreadable())?;
    Headers::encode(all.iter().map(|header| Header { name: header.key, value: header.value }), bytes);
    Headers::decode(bytes).ok_or_else(unreadable)
}

impl Source for KafkaSource {
    fn positions(&self) -> Vec<(TopicId, PartitionId, LogOffset)> {
        self.parts.iter().map(|((topic, partition), part)| (*topic, *partition, part.position)).collect()
    }

    fn poll(&mut self, visit: &mut Visit<'_>) -> Result<u64> {
        if let Some(error) = self.failed.take() {
            self.judge(error)?;
        }
        match self.prepare() {
            Ok(true) => {}
            Ok(false) => return Ok(0),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(%error, "tried again");
                return Ok(0);
            }
            Err(error) => return Err(error),
        }
        let mut done = 0;
        if self.hand_out_kept(visit, &mut done)?.is_some() {
            return Ok(done);
        }
        let member = Arc::clone(&self.member);
        while member.consumer.context().is_empty() {
            let message = match member.consumer.poll(Duration::ZERO) {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.judge(error)?;
                    break;
                }
                None => break,
            };
            let place = (message.topic().to_owned(), partition_from(message.partition()));
            let Some(key) = self.key(&place) else { continue };
            if self.parts.get(&key).is_none_or(|part| offset_from(message.offset()) < part.position) {
                continue;
            }
            if self.held.contains(&key) || self.parts.get(&key).is_some_and(|part| !part.kept.is_empty()) {
                self.keep(key, message.detach())?;
                continue;
            }
            match show(&message, key, &mut self.headers, &mut self.parts, visit) {
                Ok(Step::Next) => done += 1,
                Ok(Step::NextAndReturn) => return Ok(done + 1),
                stay => {
                    self.keep(key, message.detach())?;
                    return stay.map(|_| done);
                }
            }
        }
        Ok(done)
    }

    fn find_batch(&mut self) -> Result<bool> {
        Err(not_there("consumers beside a processor"))
    }

    fn found_batch(&mut self) -> Result<Fetched<'_>> {
        Err(not_there("consumers beside a processor"))
    }

    fn hold(&mut self, held: &[(TopicId, PartitionId)]) {
        self.held = held.iter().copied().collect();
    }

    /// A poll goes back by itself to what is committed, and a processor asks for no other place.
    fn seek(&mut self, _topic: TopicId, _partition: PartitionId, _next: LogOffset) {}

    fn gap(&self) -> Option<(TopicId, PartitionId, Range<LogOffset>)> {
        self.gap.clone()
    }

    fn wait(&mut self, limit: Duration, enough: &dyn Fn() -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if enough() || left.is_zero() {
                return;
            }
            self.serve(left.min(LOOK_EVERY));
            let has_kept = self.parts.iter().any(|(key, part)| !self.held.contains(key) && !part.kept.is_empty());
            let has_decided = !self.member.consumer.context().is_empty();
            if has_kept || has_decided || self.failed.is_some() || self.restore.is_some() || self.member.is_unsettled()
            {
                return;
            }
        }
    }

    fn wake_when_more(&mut self, _waker: &Waker) -> bool {
        false
    }

    fn forget_waker(&mut self) {}

    fn lag(&self) -> u64 {
        let lag = |((topic, partition), part): (&Key, &Part)| {
            let ends = self.engine.ends(*topic).ok()?;
            Some(ends.get(partition.0 as usize)?.0.saturating_sub(part.position.0))
        };
        self.parts.iter().filter_map(lag).sum()
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.abandon();
    }
}
