//! The frames behind the rows laid out as a journal, and recovered as after a crash.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::super::super::layout::Layout;
use super::super::super::options::StoreOptions;
use super::super::super::reading::{Ahead, Ends, Reads};
use super::RestoreReport;
use super::lay::{Site, owner_file};
use super::names::Known;
use super::points::Point;
use crate::backup::OwnerImage;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, OwnerId, TopicId};
use crate::journal::{FrameLayer, JournalPosition};
use crate::transaction::{Effect, effects, system};
use crate::wake::Arc;

impl Site<'_> {
    pub(super) fn lay_frames(
        &self,
        owner: &OwnerImage,
        layout: &Layout,
        (rows_lsn, point): (Lsn, &Point),
        known: &mut Known,
    ) -> Result<JournalPosition> {
        let (disk, dir, goal) = (&self.options.disk, layout.journal.clone(), point.goal);
        let mut layer = FrameLayer::begin(disk, dir, self.manifest.store, owner.epoch, &self.chance, rows_lsn.next())?;
        let path = owner_file(&owner.name, "frames");
        let out_of_order =
            |lsn: Lsn, next: Lsn| Error::new(ErrorKind::Corrupt, format!("{path}: frame {lsn} where {next} should be"));
        let mut lay = |layer: &mut FrameLayer, lsn: Lsn, body: &[u8]| {
            if lsn > goal {
                return Ok(());
            }
            if lsn != layer.next_lsn() {
                return Err(out_of_order(lsn, layer.next_lsn()));
            }
            for effect in effects(body)? {
                if let Effect::Row { table, shard: system::SHARD, key, value } = effect {
                    known.note(&owner.name, table, key, value)?;
                }
            }
            layer.push(body)
        };
        self.open(&path)?.frames(|lsn, body| lay(&mut layer, lsn, body))?;
        let held = owner.lsn.min(goal).next();
        if layer.next_lsn() != held {
            return Err(out_of_order(held, layer.next_lsn()));
        }
        let behind = (owner.lsn.next(), goal);
        self.archive(owner).each_frame(&point.trail, behind, &mut |lsn, body| lay(&mut layer, lsn, body))?;
        if layer.next_lsn() != goal.next() {
            return Err(out_of_order(goal.next(), layer.next_lsn()));
        }
        layer.finish()
    }

    /// Recovers an owner and closes it in order.
    pub(super) fn recover(&self, owner: &OwnerImage, report: &mut RestoreReport, reading: &mut Reading) -> Result<()> {
        if owner.rows_lsn.is_none() {
            report.owners.push((owner.name.clone(), owner.lsn));
            return Ok(());
        }
        let options = StoreOptions::new()
            .disk(Arc::clone(&self.options.disk))
            .clock(Arc::clone(&self.options.clock))
            .manual_duties()
            .journal_file_bytes(64 << 10)
            .restoring();
        let options = if self.options.network { options.allow_network_file_system() } else { options };
        let store = options.attach(&self.layout.dir, &owner.name)?;
        report.owners.push((owner.name.clone(), store.core().pipeline.view.visible()));
        report.topics += store.topics()?.len() as u64;
        let core = store.core();
        let (mut ends, mut reads) = (Ends::default(), Reads::of(core.owner));
        for table in [system::CATALOGUE, system::PROGRESS] {
            core.each_row(table, Bound::Unbounded, Bound::Unbounded, |key, value| {
                ends.row(table, key, Some(value))?;
                reads.row(table, key, Some(value)).map(drop)
            })?;
        }
        for (topic, name, partition, watched) in core.partitions_now()? {
            report.records += watched.end.0 - watched.start.0;
            ends.is_at(topic, partition, watched.end);
            reading.names.insert(topic, name);
        }
        reading.ends.insert(core.owner, ends);
        reading.reads.push((owner.name.clone(), reads));
        store.close()
    }

    pub(super) fn become_store(&self) -> Result<()> {
        let store = self.layout.dir.join("STORE");
        let renamed = self.disk().rename(&self.layout.store_file, &store);
        renamed.map_err(|error| Error::io(&store, "end a restore", error))?;
        self.sync_dir(&self.layout.dir)
    }
}

/// Who has read what of whom.
#[derive(Default)]
pub(super) struct Reading {
    names: BTreeMap<TopicId, String>,
    ends: BTreeMap<OwnerId, Ends>,
    reads: Vec<(String, Reads)>,
}

impl Reading {
    /// Owners may be restored up to points that do not fit each other: offsets that one of them has passed would be
    /// given to other records.
    pub(super) fn check(&self) -> Result<()> {
        for (owner, reads) in &self.reads {
            let Some(Ahead { topic, partition, next, limit }) = reads.ahead_of(&self.ends) else { continue };
            let name = self.names.get(&topic).map_or_else(|| topic.to_string(), |name| format!("{name:?}"));
            let what = format!("owner {owner:?} has read topic {name}, partition {partition}, up to {next}");
            return Err(Error::new(ErrorKind::Conflict, format!("{what}, and it is restored up to {limit} only")));
        }
        Ok(())
    }
}
