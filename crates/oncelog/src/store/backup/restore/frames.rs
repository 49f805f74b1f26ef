//! The frames behind the rows laid out as a journal, and recovered as after a crash.
//!
//! What recovery replays it holds in memory, so a long archive is replayed in steps: frames are laid, recovered and
//! brought to a trim point, then the next ones are laid behind that. A step ends where the frames of the backup do, or
//! later: that has no segments of topics that its own frames delete.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::super::super::Store;
use super::super::super::layout::Layout;
use super::super::super::manifest::{ManifestFile, State};
use super::super::super::options::StoreOptions;
use super::super::super::reading::{Ahead, Ends, Reads};
use super::RestoreReport;
use super::lay::{Site, owner_file};
use super::names::Known;
use super::points::Point;
use crate::backup::OwnerImage;
use crate::disk::OpenMode;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, OwnerId, TopicId};
use crate::journal::{FrameLayer, JournalPosition};
use crate::table::Visit;
use crate::transaction::system;
use crate::wake::Arc;

impl Site<'_> {
    /// Lays the frames of the backup, and what is archived behind them, as much as is replayed in one step. Gives where
    /// replay starts, and the last frame that was laid.
    pub(super) fn lay_frames(
        &self,
        owner: &OwnerImage,
        layout: &Layout,
        (rows_lsn, point): (Lsn, &Point),
        known: &mut Known,
    ) -> Result<(JournalPosition, Lsn)> {
        let (disk, dir, goal) = (&self.options.disk, layout.journal.clone(), point.goal);
        let mut bytes = 0;
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
            bytes += body.len();
            known.frame(&owner.name, body)?;
            layer.push(body)
        };
        self.open(&path)?.frames(|lsn, body| lay(&mut layer, lsn, body))?;
        let held = owner.lsn.min(goal).next();
        if layer.next_lsn() != held {
            return Err(out_of_order(held, layer.next_lsn()));
        }
        self.lay_archived(owner, point, (&mut layer, bytes), known)?;
        let laid = Lsn(layer.next_lsn().0 - 1);
        Ok((layer.finish()?, laid))
    }

    /// Lays archived frames behind those that are laid, of which there are so many bytes.
    fn lay_archived(
        &self,
        owner: &OwnerImage,
        point: &Point,
        (layer, bytes): (&mut FrameLayer, usize),
        known: &mut Known,
    ) -> Result<()> {
        let mut bytes = bytes as u64;
        self.archive(owner).each_frame(&point.trail, (layer.next_lsn(), point.goal), &mut |lsn, body| {
            if bytes >= self.options.replay_bytes {
                return Ok(Visit::Stop);
            }
            if lsn != layer.next_lsn() {
                let what =
                    format!("the archive of owner {:?}: frame {lsn} where {} should be", owner.name, layer.next_lsn());
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
            bytes += body.len() as u64;
            known.frame(&owner.name, body)?;
            layer.push(body).map(|()| Visit::Next)
        })
    }

    /// Recovers what is laid of an owner, step by step up to its goal, and closes it in order.
    pub(super) fn recover_all(
        &self,
        (owner, point): (&OwnerImage, &Point),
        laid: Lsn,
        known: &mut Known,
        (report, reading): (&mut RestoreReport, &mut Reading),
    ) -> Result<()> {
        // What the backup itself holds is of one opening: there offsets that are missing are damage.
        let is_archived = point.goal > owner.lsn;
        let options = |options: StoreOptions| if is_archived { options.over_holes() } else { options };
        let mut laid = laid;
        while laid < point.goal {
            self.recovered(owner, |as_well| options(as_well).continued())?.close()?;
            laid = self.lay_step(owner, (laid, point), known)?;
        }
        self.recover(owner, options, report, reading)
    }

    /// Lays the frames of the next step behind the trim point of the last one.
    fn lay_step(&self, owner: &OwnerImage, (laid, point): (Lsn, &Point), known: &mut Known) -> Result<Lsn> {
        let (disk, store) = (&self.options.disk, self.manifest.store);
        let layout = Layout::of(&self.layout.dir, &owner.name);
        let mut manifest = ManifestFile::lock(&**disk, &layout.manifest, OpenMode::Write)?;
        let (found, _) = manifest.read(store, &owner.name)?;
        let (at, root) = found.trim.ok_or_else(Error::closed)?;
        if at.next_lsn != laid.next() {
            let what = format!("a step of the restore ends at frame {}, not at {laid}", at.next_lsn.0 - 1);
            return Err(Error::corrupt(&layout.manifest, 0, what));
        }
        let epoch = Epoch(found.epoch.0 + 1);
        let mut layer = FrameLayer::begin(disk, layout.journal.clone(), store, epoch, &self.chance, at.next_lsn)?;
        self.lay_archived(owner, point, (&mut layer, 0), known)?;
        let laid_now = Lsn(layer.next_lsn().0 - 1);
        if laid_now == laid {
            let what = format!("the archive of owner {:?} ends at frame {laid}, before {}", owner.name, point.goal);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let start = layer.finish()?;
        self.remove_deleted(known)?;
        self.claim(known)?;
        manifest.update(|next| {
            (next.epoch, next.state, next.trim) = (epoch, State::Open, Some((start, root)));
        })?;
        Ok(laid_now)
    }

    /// The owner, recovered.
    fn recovered(&self, owner: &OwnerImage, as_well: impl Fn(StoreOptions) -> StoreOptions) -> Result<Store> {
        let options = StoreOptions::new()
            .disk(Arc::clone(&self.options.disk))
            .clock(Arc::clone(&self.options.clock))
            .manual_duties()
            .journal_file_bytes(64 << 10)
            .restoring();
        let options = if self.options.network { options.allow_network_file_system() } else { options };
        as_well(options).attach(&self.layout.dir, &owner.name)
    }

    /// Recovers an owner and closes it in order.
    fn recover(
        &self,
        owner: &OwnerImage,
        options: impl Fn(StoreOptions) -> StoreOptions,
        report: &mut RestoreReport,
        reading: &mut Reading,
    ) -> Result<()> {
        if owner.rows_lsn.is_none() {
            report.owners.push((owner.name.clone(), owner.lsn));
            return Ok(());
        }
        let store = self.recovered(owner, options)?;
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
        self.sync_dir(&self.layout.dir).inspect_err(|_| {
            // Best effort: a restore that has failed has made no store.
            let _ = self.disk().rename(&store, &self.layout.store_file);
        })
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
