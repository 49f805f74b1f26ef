//! Replaying frames after an unclean stop: rows into the dirty maps, batches into new segments.
//!
//! Every effect names its offset or LSN, so replaying a second time after a crash in between ends in the same state.
//! Nothing is served before the caller has made the result durable in its new places.

use std::collections::BTreeMap;

use super::apply::{Applier, Runs};
use super::frame::{Effect, effects};
use super::stamps::StampOffsets;
use super::system::{self, CatalogueKey};
use super::topics::Topics;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, TopicId};
use crate::producer::{Stamp, StampState, Verdict};
use crate::record::BatchHead;
use crate::table::Tables;
use crate::view::View;

/// Segment bytes are written in steps of about this size.
const FLUSH_BYTES: usize = 1 << 20;

/// Takes frames in LSN order.
pub(crate) struct Replayer<'a> {
    pub(crate) tables: &'a Tables,
    pub(crate) topics: &'a Topics,
    pub(crate) view: &'a View,
    pub(crate) applier: &'a mut Applier,
    /// Frames of several openings: one of them may have skipped offsets, which only its trim point told.
    pub(crate) may_skip: bool,
    runs: Runs,
    unwritten: usize,
    /// Topics whose frames cannot be applied, and why: forgiven when a later frame deletes them.
    missing: BTreeMap<TopicId, Error>,
}

impl<'a> Replayer<'a> {
    pub(crate) fn new(
        tables: &'a Tables,
        topics: &'a Topics,
        view: &'a View,
        applier: &'a mut Applier,
    ) -> Replayer<'a> {
        Replayer {
            tables,
            topics,
            view,
            applier,
            may_skip: false,
            runs: Runs::default(),
            unwritten: 0,
            missing: BTreeMap::new(),
        }
    }

    /// Applies one frame.
    ///
    /// # Errors
    /// `Corrupt`: the frame does not fit what came before it.
    pub(crate) fn frame(&mut self, lsn: Lsn, body: &[u8]) -> Result<()> {
        let in_frame = |error: Error| Error::new(error.kind(), format!("frame {lsn}")).because(error);
        let mut firsts: Vec<(TopicId, PartitionId, LogOffset)> = Vec::new();
        let mut offsets = None;
        for effect in effects(body).map_err(in_frame)? {
            match effect {
                Effect::Batch { topic, partition, bytes } => {
                    let first = self.batch(lsn, topic, partition, bytes)?;
                    if firsts.last().is_none_or(|(t, p, _)| (*t, *p) != (topic, partition)) {
                        firsts.push((topic, partition, first));
                    }
                }
                Effect::Row { table, shard, key, value } => {
                    let value = value.map(bytes::Bytes::copy_from_slice);
                    if table == system::CATALOGUE
                        && let Some(CatalogueKey::Topic(id)) = CatalogueKey::decode(key)
                    {
                        match &value {
                            None => self.delete(id)?,
                            // Made, which nobody has used yet, or altered.
                            Some(row) => self.topics.alter(id, &system::decode_row(row)?),
                        }
                    }
                    self.tables.shard(table, shard).turn().put(key.to_vec(), value, lsn);
                }
                Effect::Stamp { producer, topic, partition, stamp } => {
                    let offsets = offsets.get_or_insert_with(|| StampOffsets::new(std::mem::take(&mut firsts)));
                    let offset = offsets.next(topic, partition, &stamp);
                    let key = system::stamp_key(producer, topic, partition);
                    self.stamp(lsn, producer, key, &stamp, offset)?;
                }
            }
        }
        // Nobody reads yet; moving the horizon keeps the versions of hot rows from piling up.
        self.view.publish(lsn);
        Ok(())
    }

    /// Does to the row of a stamp what was done to it when the frame was decided.
    fn stamp(&self, lsn: Lsn, producer: &str, key: Vec<u8>, stamp: &Stamp, offset: Option<LogOffset>) -> Result<()> {
        let rows = self.tables.shard(system::STAMPS, system::SHARD);
        let mut rows = rows.turn();
        let mut state = match rows.get(&key)? {
            Some(row) => system::decode_row(&row)?,
            None => StampState::unknown(stamp.first),
        };
        if state.check(stamp) != Verdict::New {
            let (got, expected) = (stamp.first, state.next);
            let what = format!("frame {lsn}, producer {producer:?}: sequence {got}, expected {expected}");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        state.advance(stamp, offset);
        rows.put(key, Some(system::encode_row(&state)?.into()), lsn);
        Ok(())
    }

    /// Gives the offset of its first record.
    fn batch(&mut self, lsn: Lsn, topic: TopicId, partition: PartitionId, bytes: &[u8]) -> Result<LogOffset> {
        let corrupt = |what: String| {
            Error::new(ErrorKind::Corrupt, format!("frame {lsn}, topic id {topic}, partition {partition}: {what}"))
        };
        let id = topic;
        let topic = match self.topics.get(id) {
            Ok(topic) => topic,
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(corrupt("no such topic".to_owned())),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.missing.entry(id).or_insert(error);
                let head = BatchHead::peek(bytes).map_err(|error| corrupt(error.to_string()))?;
                return Ok(head.base_offset);
            }
            Err(error) => return Err(error),
        };
        let partition = topic.partition(partition).map_err(|error| corrupt(error.to_string()))?;
        let head = BatchHead::peek(bytes).map_err(|error| corrupt(error.to_string()))?;
        let mut turn = partition.turn();
        if self.may_skip {
            turn.skip_to(head.base_offset);
        }
        if head.base_offset != turn.next_offset || head.bytes != bytes.len() {
            let expected = turn.next_offset;
            return Err(corrupt(format!("a batch at offset {}, expected {expected}", head.base_offset)));
        }
        let records = u32::try_from(head.next_offset().0 - head.base_offset.0)
            .map_err(|_| corrupt("a batch of too many records".to_owned()))?;
        let plan = turn.plan(partition, [(bytes.len(), records)])?;
        for to in &plan.placements {
            self.runs.add(&to.segment, to.position, &mut bytes.to_vec())?;
        }
        turn.take(plan);
        partition.set_end(lsn, turn.next_offset);
        self.applier.touch(partition);
        self.unwritten += bytes.len();
        if self.unwritten >= FLUSH_BYTES {
            self.flush()?;
        }
        Ok(head.base_offset)
    }

    /// The topic ends with this frame. Its files may be gone already.
    fn delete(&mut self, id: TopicId) -> Result<()> {
        self.missing.remove(&id);
        self.flush()?;
        if let Some(topic) = self.topics.loaded(id) {
            topic.partitions.iter().for_each(|partition| partition.close_files());
            self.topics.remove(&topic);
        }
        self.applier.forget_rows_of(id);
        Ok(())
    }

    /// All frames are there.
    ///
    /// # Errors
    /// `Corrupt`: a topic that they name, and that none of them deletes, is not what the catalogue says.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.missing.into_values().next().map_or(Ok(()), Err)
    }

    /// Writes what is still in memory.
    fn flush(&mut self) -> Result<()> {
        self.unwritten = 0;
        self.runs.flush()
    }
}
