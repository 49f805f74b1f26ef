//! Mending a journal: its frames up to the damage, and no offset behind it that may have been given out.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::super::manifest::{Manifest, State};
use super::super::open::Opening;
use super::notes::{Kept, Mends};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, OwnerId, PartitionId, TopicId};
use crate::journal::{self, Cut};
use crate::record::BatchHead;
use crate::table::{FIRST_USER_TABLE, ScanRange};
use crate::topic::{self, TopicSpec};
use crate::transaction::system::{self, CatalogueKey, NextIds};
use crate::transaction::{Applier, Effect, Replayer, effects};
use crate::wake::Arc;

/// Further on than any partition can have come in frames that cannot be read.
const SKIPPED_OFFSETS: u64 = 1 << 32;
/// More than such frames have made of topics or tables.
const SKIPPED_IDS: u32 = 1 << 10;

/// What frames behind a cut say that must not be said again.
#[derive(Default)]
struct Given {
    /// The offset behind the last record.
    ends: BTreeMap<(TopicId, PartitionId), LogOffset>,
    ids: Vec<NextIds>,
    made: BTreeMap<TopicId, String>,
}

impl Given {
    /// A frame that does not hold together says what it says up to there.
    fn add(&mut self, body: &[u8]) {
        for effect in effects(body).unwrap_or_default() {
            match effect {
                Effect::Batch { topic, partition, bytes } => {
                    let Ok(head) = BatchHead::peek(bytes) else { continue };
                    let end = self.ends.entry((topic, partition)).or_default();
                    *end = head.next_offset().max(*end);
                }
                Effect::Row { table: system::CATALOGUE, key, value: Some(value), .. } => {
                    match CatalogueKey::decode(key) {
                        Some(CatalogueKey::NextIds) => self.ids.extend(system::decode_row::<NextIds>(value).ok()),
                        Some(CatalogueKey::Topic(id)) => {
                            let spec = system::decode_row::<TopicSpec>(value).ok();
                            self.made.extend(spec.map(|spec| (id, spec.name)));
                        }
                        _ => {}
                    }
                }
                Effect::Row { .. } | Effect::Stamp { .. } => {}
            }
        }
    }
}

impl Opening {
    /// As a replay, and where the journal is damaged up to there. Gives the LSN of the next frame.
    pub(in crate::store) fn replay_mending(
        &mut self,
        applier: &mut Applier,
        found: &Manifest,
        mends: &Mends,
    ) -> Result<Lsn> {
        let Some((start, _)) = &found.trim else { return Ok(Lsn(1)) };
        let (disk, dir) = (Arc::clone(&self.options.disk), self.layout.journal.clone());
        let error = match journal::replay(&*disk, &dir, self.store, *start, None, |_, _| Ok(())) {
            Ok(_) => return self.replay(applier, found),
            Err(error) if error.kind() == ErrorKind::Corrupt => error,
            Err(error) => return Err(error),
        };
        let file = start.file.path(&dir);
        if found.state == State::Closed {
            // Everything is at the trim point.
            let kept = mends.keep_whole(&file)?;
            mends.note(&file, format!("{error}: begun anew, no frame in it counts"), kept);
            return Ok(start.next_lsn);
        }
        // Before topics are put together: what they sweep away may be copies of what is lost here.
        let (_, cut) = journal::salvage(&*disk, &dir, self.store, *start, |_, _| Ok(()))?;
        if cut.is_some() {
            mends.cut_journal();
        }
        let mut replayer = Replayer::new(&self.tables, &self.topics, &self.view, applier);
        let (replayed, cut) = journal::salvage(&*disk, &dir, self.store, *start, |lsn, body| {
            replayer.frame(lsn, body).map_err(|error| error.in_file(&dir))
        })?;
        replayer.finish()?;
        (self.report.frames, self.report.frames_bytes) = (replayed.frames, replayed.frames_bytes);
        let end = replayed.end.next_lsn;
        match cut {
            Some(cut) => self.leave_behind(applier, cut, found.number, mends),
            None => {
                let file = error.file().unwrap_or(&file).to_owned();
                let kept = mends.keep(&file, 0..journal::FILE_HEAD_BYTES)?;
                mends.note(&file, format!("{error}: its frames are whole and were taken"), kept);
                if let Some(torn) = &replayed.torn {
                    self.report.torn = Some(self.keep_aside(torn, end)?);
                }
                Ok(end)
            }
        }
    }

    /// Gives up what is behind the cut, and goes on where nothing can have been given out.
    fn leave_behind(&mut self, applier: &mut Applier, cut: Cut, owner: OwnerId, mends: &Mends) -> Result<Lsn> {
        let (disk, dir) = (Arc::clone(&self.options.disk), self.layout.journal.clone());
        let mut given = Given::default();
        let behind = journal::behind(&*disk, &dir, self.store, &cut.at, |body| given.add(body))?;
        let (error, frames, from) = (&cut.error, behind.frames, cut.at.next_lsn);
        let what = format!(
            "{error}: transactions from LSN {from} on are given up, {frames} of which can still be read; tables, \
             progress and stamps are as they were before"
        );
        let damaged = cut.error.file().map_or_else(|| cut.at.file.path(&dir), std::path::Path::to_owned);
        mends.note(&damaged, what, Kept::default());
        for (file, bytes) in behind.files {
            let kept = mends.keep(&file, bytes)?;
            mends.note(&file, "no longer part of the journal", kept);
        }
        self.view.publish(behind.last);
        self.skip_offsets(applier, behind.last, &given, mends)?;
        self.skip_ids(behind.last, &given, owner)?;
        for (id, name) in &given.made {
            if self.catalogue_has(*id, behind.last)? {
                continue;
            }
            let what = format!("topic {name:?} was made behind the damage: it is gone with its records");
            mends.note(&topic::topic_dir(&self.layout.topics, name), what, Kept::default());
        }
        Ok(behind.last.next())
    }

    fn catalogue_has(&self, id: TopicId, lsn: Lsn) -> Result<bool> {
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        Ok(rows.get(&CatalogueKey::Topic(id).encode(), lsn)?.is_some())
    }

    /// All topics of the catalogue.
    pub(super) fn catalogued(&self, lsn: Lsn) -> Result<Vec<(TopicId, TopicSpec)>> {
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        let (first, last) = (CatalogueKey::Topic(TopicId(0)).encode(), CatalogueKey::Topic(TopicId(u32::MAX)).encode());
        let range = ScanRange::between(Bound::Included(&first), Bound::Included(&last));
        let found = rows.scan(range, lsn)?.into_iter().filter_map(|(key, row)| match CatalogueKey::decode(&key) {
            Some(CatalogueKey::Topic(id)) => Some(system::decode_row(&row).map(|spec| (id, spec))),
            _ => None,
        });
        found.collect()
    }

    /// A frame that cannot be read may have appended to any partition.
    ///
    /// # Errors
    /// `Corrupt`: a topic cannot be put together. Then nothing of this owner can be mended: of that topic offsets would
    /// be given out again.
    fn skip_offsets(&mut self, applier: &mut Applier, lsn: Lsn, given: &Given, mends: &Mends) -> Result<()> {
        for (id, spec) in self.catalogued(lsn)? {
            for partition in &self.topics.get(id)?.partitions {
                let mut turn = partition.turn();
                let given = given.ends.get(&(id, partition.id)).copied().unwrap_or_default();
                let seen = given.max(mends.copied(id, partition.id)).max(turn.next_offset);
                if seen > turn.next_offset {
                    mends.lose(&spec.name, partition.id, turn.next_offset..seen);
                }
                let next = seen.plus(SKIPPED_OFFSETS);
                mends.skip(&spec.name, partition.id, seen..next);
                turn.skip_to(next);
                partition.set_end(lsn, next);
                applier.touch(partition);
            }
        }
        Ok(())
    }

    /// Ids of topics and tables are not given again either: claims are durable before the frames that know them.
    fn skip_ids(&mut self, lsn: Lsn, given: &Given, owner: OwnerId) -> Result<()> {
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        let key = CatalogueKey::NextIds.encode();
        let known: Option<NextIds> = rows.get(&key, lsn)?.map(|row| system::decode_row(&row)).transpose()?;
        let mut ids = NextIds { topic: owner.first_topic().0, table: FIRST_USER_TABLE };
        for other in known.iter().chain(&given.ids) {
            (ids.topic, ids.table) = (ids.topic.max(other.topic), ids.table.max(other.table));
        }
        for (dir, next) in [(&self.layout.topics, &mut ids.topic), (&self.layout.tables, &mut ids.table)] {
            let places = self.options.disk.list(dir).map_err(|error| Error::io(dir, "list the claims", error))?;
            for place in places {
                let claim = match topic::find_claim(&*self.options.disk, &place) {
                    Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                    found => found?,
                };
                if let Some(claim) = claim.filter(|claim| claim.owner == self.layout.name) {
                    *next = (*next).max(claim.topic.0.saturating_add(1));
                }
            }
        }
        // Of frames that nobody can read the claims may be gone again, or damaged.
        let further = TopicId(ids.topic.saturating_add(SKIPPED_IDS));
        if further.owner() == owner {
            ids.topic = further.0;
        }
        ids.table = ids.table.saturating_add(SKIPPED_IDS);
        rows.turn().put(key, Some(system::encode_row(&ids)?.into()), lsn);
        Ok(())
    }
}
