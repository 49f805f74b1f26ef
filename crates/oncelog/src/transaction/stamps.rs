//! Stamps on transactions: judged when they are staged, judged again under the turn, then part of the frame.
//!
//! The row of a stamp is not in the frame. It follows from the stamp, the row before it and the offsets of the frame's
//! batches, in [`stamp_rows`] when the frame is decided and in the same way when it is replayed. So there is no frame
//! with the records and without the mark that they are there.

use bytes::Bytes;

use super::commit::Pipeline;
use super::engine::{Appended, NewStamp, Stamped};
use super::frame::FrameWriter;
use super::staged::StoreTx;
use super::system;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{self, LogOffset, Lsn, PartitionId, ProducerEpoch, Sequence, TopicId};
use crate::journal::Durability;
use crate::producer::{Stamp, StampClaim, StampState, Verdict};
use crate::table::{ShardGuard, Tables};

/// A stamp of a transaction that is not decided.
pub(super) struct StagedStamp {
    pub(super) producer: String,
    pub(super) topic: TopicId,
    pub(super) partition: PartitionId,
    pub(super) stamp: Stamp,
    key: Vec<u8>,
    /// The first of this transaction under its key has it.
    _claim: Option<StampClaim>,
}

/// The row of a stamp: key and value.
pub(super) type StampRow = (Vec<u8>, Bytes);

/// What a stamp costs in a frame beyond its producer's name.
const STAMP_BYTES: usize = 32;

impl StagedStamp {
    pub(super) fn bytes(&self) -> usize {
        self.producer.len() + STAMP_BYTES
    }
}

/// Where the records of the stamps of one frame begin: those of one partition follow each other as their stamps do.
pub(super) struct StampOffsets(Vec<(TopicId, PartitionId, LogOffset)>);

impl StampOffsets {
    /// Of a frame whose batches begin at these offsets, by partition.
    pub(super) fn new(firsts: impl IntoIterator<Item = (TopicId, PartitionId, LogOffset)>) -> StampOffsets {
        StampOffsets(firsts.into_iter().collect())
    }

    /// The offset of the next stamp's first record; `None` when the frame has none for it.
    pub(super) fn next(&mut self, topic: TopicId, partition: PartitionId, stamp: &Stamp) -> Option<LogOffset> {
        let (.., next) = self.0.iter_mut().find(|(t, p, _)| (*t, *p) == (topic, partition))?;
        let first = *next;
        *next = next.plus(stamp.count.into());
        Some(first)
    }
}

impl StoreTx {
    pub(super) fn stamp(&mut self, new: &NewStamp<'_>) -> Result<Stamped> {
        self.pipeline.check_producer(new.producer, new.topic, new.partition)?;
        let stamp = Stamp { epoch: new.epoch, first: new.first, count: new.count };
        if new.count == 0 || stamp.end().0 == u64::MAX {
            let what = format!("producer {:?}: {} sequences from {} on", new.producer, new.count, new.first);
            return Err(Error::invalid(what));
        }
        let key = system::stamp_key(new.producer, new.topic, new.partition);
        let is_own = self.stamps.iter().any(|staged| staged.key == key);
        // Before the state is read: until it is given up no other transaction moves that on.
        let claim = if is_own { None } else { self.pipeline.open_stamps.claim(&key) };
        let newest = read_stamp(&self.pipeline.tables, &key, Lsn(u64::MAX))?;
        let mut state = newest.unwrap_or_else(|| StampState::unknown(new.initial));
        if let Verdict::Duplicate(_) | Verdict::OldDuplicate = state.check(&stamp) {
            let first = match state.check(&stamp) {
                Verdict::Duplicate(first) => first,
                _ => None,
            };
            self.pipeline.settle_stamp(&key, &stamp)?;
            return Ok(Stamped::Duplicate(first));
        }
        for own in self.stamps.iter().filter(|staged| staged.key == key) {
            state.advance(&own.stamp, None);
        }
        match state.check(&stamp) {
            Verdict::Duplicate(_) | Verdict::OldDuplicate => Ok(Stamped::Duplicate(None)),
            Verdict::Fenced { current } => Err(fenced(new.producer, new.epoch, current)),
            _ if claim.is_none() && !is_own => Ok(Stamped::InProgress),
            Verdict::Gap { expected } => {
                Err(Error::out_of_sequence(format_args!("producer {:?}", new.producer), new.first, expected))
            }
            Verdict::New => {
                let (producer, topic, partition) = (new.producer.to_owned(), new.topic, new.partition);
                self.stage_stamp(StagedStamp { producer, topic, partition, stamp, key, _claim: claim })?;
                Ok(Stamped::New)
            }
        }
    }
}

impl Pipeline {
    fn check_producer(&self, producer: &str, topic: TopicId, partition: PartitionId) -> Result<()> {
        if let Some(complaint) = ids::name_complaint(producer) {
            return Err(Error::invalid(format!("producer {producer:?}: bad name: {complaint}")));
        }
        if ![TopicId::STAMPED, TopicId::COORDINATED].contains(&topic) {
            self.topics.get(topic)?.partition(partition)?;
        }
        Ok(())
    }

    /// Waits until what made `stamp` a duplicate is durable.
    fn settle_stamp(&self, key: &[u8], stamp: &Stamp) -> Result<()> {
        let pin = self.view.pin(|| self.view.visible());
        let durable = read_stamp(&self.tables, key, pin.lsn())?;
        if durable.is_some_and(|state| state.next >= stamp.end()) && !self.journal.has_failed() {
            return Ok(());
        }
        self.flush()
    }

    /// The next generation of a producer in a partition, durable on return.
    pub(crate) fn open_producer(
        &self,
        producer: &str,
        topic: TopicId,
        partition: PartitionId,
        initial: Sequence,
    ) -> Result<(ProducerEpoch, Sequence)> {
        self.check_producer(producer, topic, partition)?;
        let key = system::stamp_key(producer, topic, partition);
        let shard = self.tables.shard(system::STAMPS, system::SHARD);
        let (ticket, state) = {
            let mut rows = shard.turn();
            self.topics.check_takes_rows(topic)?;
            let mut state = match rows.get(&key)? {
                Some(row) => system::decode_row(&row)?,
                None => StampState::unknown(initial),
            };
            state.epoch = ProducerEpoch(state.epoch.0 + 1);
            let value = system::encode_row(&state)?;
            let mut writer = FrameWriter::new(key.len() + value.len() + 32, 0);
            writer.rows(1);
            writer.row(system::STAMPS, system::SHARD, &key, Some(&value));
            writer.stamps(0);
            let ticket = self.journal.enqueue(writer.finish(), Vec::new(), Durability::Synced)?;
            rows.put(key, Some(value.into()), ticket.lsn);
            (ticket, state)
        };
        self.journal.wait(&ticket)?;
        Ok((state.epoch, state.next))
    }
}

/// What is known of a producer at `lsn`, which must be pinned or the newest.
pub(crate) fn read_stamp(tables: &Tables, key: &[u8], lsn: Lsn) -> Result<Option<StampState>> {
    let row = tables.shard(system::STAMPS, system::SHARD).get(key, lsn)?;
    row.map(|row| system::decode_row(&row)).transpose()
}

/// Under the turn of `rows`: the rows that the stamps of the transaction make, if they are still what they were.
pub(super) fn stamp_rows(tx: &StoreTx, rows: Option<&ShardGuard<'_>>, appended: &[Appended]) -> Result<Vec<StampRow>> {
    let Some(rows) = rows.filter(|_| !tx.stamps.is_empty()) else { return Ok(Vec::new()) };
    let mut offsets = StampOffsets::new(appended.iter().map(|to| (to.topic, to.partition, to.first)));
    let mut made: Vec<StampRow> = Vec::with_capacity(tx.stamps.len());
    for staged in &tx.stamps {
        let earlier = made.iter().rposition(|(key, _)| *key == staged.key);
        let row = match earlier {
            Some(at) => Some(made[at].1.clone()),
            None => rows.get(&staged.key)?,
        };
        let mut state = match row {
            Some(row) => system::decode_row(&row)?,
            None => StampState::unknown(staged.stamp.first),
        };
        match state.check(&staged.stamp) {
            Verdict::New => {}
            Verdict::Fenced { current } => return Err(fenced(&staged.producer, staged.stamp.epoch, current)),
            _ => {
                let what = format!("producer {:?}: a stamp that was the next one is no longer", staged.producer);
                return Err(Error::new(ErrorKind::Conflict, what));
            }
        }
        state.advance(&staged.stamp, offsets.next(staged.topic, staged.partition, &staged.stamp));
        let value = Bytes::from(system::encode_row(&state)?);
        match earlier {
            Some(at) => made[at].1 = value,
            None => made.push((staged.key.clone(), value)),
        }
    }
    Ok(made)
}

fn fenced(producer: &str, epoch: Option<ProducerEpoch>, current: ProducerEpoch) -> Error {
    Error::fenced_producer(format_args!("producer {producer:?}"), epoch.unwrap_or_default(), current)
}
