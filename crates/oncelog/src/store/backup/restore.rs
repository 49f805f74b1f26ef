//! Making a store of a backup.
//!
//! `RESTORING` stands for `STORE` while the directory is filled, and becomes it by one rename when all is recovered and
//! durable. So a directory that was left half restored is no store, says what it is, and can be restored into again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::super::archive::archive_folder;
use super::super::claims::{CLAIMS_AT_ONCE, global_claim_dir};
use super::super::layout::{Layout, MAIN, make_dir, make_dir_all, store_file_bytes};
use super::super::listing::read_progress_key;
use super::super::manifest::ManifestFile;
use super::super::options::StoreOptions;
use crate::backup::{
    BackupManifest, BackupTarget, ChunkReader, FilePlace, OwnerImage, PIECE_BYTES_MAX, Piece, frames_of_name,
};
use crate::chance::Chance;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, DiskFile, OpenMode, RealDisk, StepSite, SyncSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, Lsn, PartitionId, StoreId, TableId, TopicId, escape_name};
use crate::journal::{FrameLayer, JournalPosition};
use crate::segment::SegmentHead;
use crate::table::{StateKey, TableBackend, TableBatch, TableFileName, TableHome, TableSpec, TableStore, Visit};
use crate::topic::{self, Claim, SegmentRow, TopicSpec, topic_dir};
use crate::transaction::system::{self, CatalogueKey};
use crate::transaction::{Effect, effects};
use crate::wake::Arc;

/// How a store is made of a backup.
///
/// ```
/// use oncelog::{BackupTarget, RestoreOptions, Store};
/// # fn main() -> oncelog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// # let target = BackupTarget::dir(dir.path().join("backups"))?;
/// # let store = Store::open(dir.path().join("data"))?;
/// # store.backup(&target)?;
/// let restored = RestoreOptions::new().restore(&target, dir.path().join("restored"))?;
/// let again = Store::open(dir.path().join("restored"))?;
/// assert_eq!(again.id(), restored.store);
/// assert_ne!(again.id(), store.id(), "it is not taken for the original");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct RestoreOptions {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    backup: Option<String>,
    until: Until,
    network: bool,
}

/// Up to where a backup is restored.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Until {
    /// As it is.
    Backup,
    /// The owner of that name up to that frame.
    Lsn(String, Lsn),
    /// All owners up to that time, by the clock of the machine on which they were open.
    Time(i64),
}

/// A store that was made of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreReport {
    /// The backup's name.
    pub backup: String,
    /// When that was made, by the clock of the machine that made it, in milliseconds since 1970.
    pub taken_ms: i64,
    /// The store that it is of.
    pub source: StoreId,
    /// What the new store is called.
    pub store: StoreId,
    /// Its owners, and the LSN of each up to which it was restored.
    pub owners: Vec<(String, Lsn)>,
    /// How many topics it has.
    pub topics: u64,
    /// How many offsets their partitions hold, from the first that is kept to the end: as many records, but for gaps.
    pub records: u64,
    /// Bytes of segments, rows and frames of the backup that were read for it.
    pub bytes: u64,
    /// The latest moment, in milliseconds since 1970, of which it is known that all until then is in it: when the
    /// owners were cut for the backup, or the newest note of the archive that was passed; of several owners that of the
    /// one which is least far. Known to the time that cutting, or a note, takes; of no meaning where a backup was named
    /// and restored up to a frame before its end.
    pub newest_ms: i64,
}

/// Rows are written in batches of about so many bytes.
const ROWS_AT_ONCE: usize = 8 << 20;
const TABLE_MEMORY: usize = 64 << 20;

impl Default for RestoreOptions {
    fn default() -> RestoreOptions {
        RestoreOptions::new()
    }
}

impl RestoreOptions {
    /// The newest backup in the target.
    pub fn new() -> RestoreOptions {
        RestoreOptions {
            disk: Arc::new(RealDisk),
            clock: SystemClock::shared(),
            backup: None,
            until: Until::Backup,
            network: false,
        }
    }

    /// The backup of that name.
    pub fn backup(self, name: impl Into<String>) -> RestoreOptions {
        RestoreOptions { backup: Some(name.into()), ..self }
    }

    /// Brings the owner of that name (`main` for most stores) from the backup on to the state as of frame `lsn`, by the
    /// frames that [`StoreOptions::journal_archive`] has kept. Other owners stay at the LSN of the backup. Unless one
    /// is named, the newest backup from before that frame is taken.
    pub fn until_lsn(self, owner: impl Into<String>, lsn: Lsn) -> RestoreOptions {
        RestoreOptions { until: Until::Lsn(owner.into(), lsn), ..self }
    }

    /// Brings all owners from the backup on to their state at that time, in milliseconds since 1970, by the frames that
    /// [`StoreOptions::journal_archive`] has kept. What had happened at which time was noted once a second while the
    /// store was open and had something new, by the clock of its machine; the notes since the last trim point are lost
    /// in a crash, so behind one it is about [`StoreOptions::archive_interval`]. It is never later than asked for.
    /// Where the archive ends before that time, so does what is restored: see [`RestoreReport::newest_ms`]. Unless one
    /// is named, the newest backup from before that time is taken.
    pub fn until_time(self, ms: i64) -> RestoreOptions {
        RestoreOptions { until: Until::Time(ms), ..self }
    }

    /// Sets the disk on which the store is made: the machine's unless set.
    pub fn disk(self, disk: Arc<dyn Disk>) -> RestoreOptions {
        RestoreOptions { disk, ..self }
    }

    /// Sets the clock: the machine's unless set.
    pub fn clock(self, clock: Arc<dyn Clock>) -> RestoreOptions {
        RestoreOptions { clock, ..self }
    }

    /// As [`StoreOptions::allow_network_file_system`].
    pub fn allow_network_file_system(self) -> RestoreOptions {
        RestoreOptions { network: true, ..self }
    }

    /// Makes a store in `dir`, which must be empty or not there, of a backup in `target`: with all owners, each as it
    /// was at its LSN, and an identity of its own. Durable on return. A crash, or an error, leaves a directory that no
    /// call takes for a store and that can be restored into again.
    ///
    /// What is restored is what a recovery makes of it, as after a crash at that LSN, and was closed in order then. Ids
    /// of topics and offsets go on from there: so a record that is appended now may have the
    /// [`RecordId`](crate::RecordId) of another one that the first store appended later. Where ids are keys in the
    /// outer world, put the store's in front.
    ///
    /// # Errors
    /// `NotFound`: no such backup, or none at all. `Corrupt`: a manifest or a chunk is damaged or gone, the error names
    /// it and the file of the store to which it belongs; `UnsupportedVersion`. `Invalid`: `dir` holds something.
    /// `Locked`: another process restores into it. `Full`, `Unavailable`. Of archived frames: `NotFound`: no backup is
    /// from before that point, or the archive ends before it; `Gap`: frames are missing in between, the text says
    /// which; `Conflict`: an owner has read more of a topic of another one than is restored of that: choose a later
    /// point.
    pub fn restore(&self, target: &BackupTarget, dir: impl AsRef<Path>) -> Result<RestoreReport> {
        self.restore_marked(target, dir.as_ref(), &mut None)
    }

    /// As [`RestoreOptions::restore`]. From `mark` on, once it is there, what is in the directory was made by this
    /// call, and nobody else restores into it until it is dropped.
    pub(super) fn restore_marked(
        &self,
        target: &BackupTarget,
        dir: &Path,
        mark: &mut Option<RestoreMark>,
    ) -> Result<RestoreReport> {
        let (name, manifest) = self.choose(target)?;
        let restored = self.restore_into(target, &name, &manifest, dir, mark);
        restored.map_err(|error| match target.read_manifest(&name) {
            Err(gone) if gone.kind() == ErrorKind::NotFound => {
                let what = format!("the backup {name:?} was pruned meanwhile");
                Error::new(ErrorKind::NotFound, what).because(error)
            }
            _ => error,
        })
    }

    /// The backup to begin with.
    fn choose(&self, target: &BackupTarget) -> Result<(String, BackupManifest)> {
        if let Some(name) = &self.backup {
            return Ok((name.clone(), target.read_manifest(name)?));
        }
        let mut store = None;
        for name in target.names()?.into_iter().rev() {
            let manifest = target.read_manifest(&name)?;
            // That of the newest backup: another store has a history of its own.
            let is_of_store = *store.get_or_insert(manifest.identity) == manifest.identity;
            let is_before = match &self.until {
                Until::Backup => true,
                Until::Lsn(owner, lsn) => {
                    let image = manifest.owners.iter().find(|image| image.name == *owner);
                    // All of it: it left out the segments of topics that its own frames delete.
                    image.is_some_and(|image| image.rows_lsn.is_some() && image.lsn <= *lsn)
                }
                Until::Time(ms) => manifest.taken_ms <= *ms,
            };
            if is_of_store && is_before {
                return Ok((name, manifest));
            }
        }
        let what = if store.is_some() { "there is no backup from before that point" } else { "there is no backup" };
        Err(Error::new(ErrorKind::NotFound, what).in_file(&target.object_place("")))
    }

    fn restore_into(
        &self,
        target: &BackupTarget,
        name: &str,
        manifest: &BackupManifest,
        dir: &Path,
        mark: &mut Option<RestoreMark>,
    ) -> Result<RestoreReport> {
        let chance = Arc::new(Chance::from_os()?);
        let identity = StoreId(std::array::from_fn(|_| chance.next_u64().to_le_bytes()[0]));
        let layout = Layout::of(dir, MAIN).while_restoring();
        *mark = Some(self.mark(&layout, store_file_bytes(manifest.store, identity))?);
        let site = Site { options: self, target, manifest, layout, chance };
        let mut known = Known::default();
        site.make_dirs()?;
        let mut newest_ms = i64::MAX;
        for owner in &manifest.owners {
            let mut newest_of_owner = manifest.taken_ms;
            let goal = site.goal_of(owner, &mut newest_of_owner)?;
            newest_ms = newest_ms.min(newest_of_owner);
            site.lay_owner(owner, goal, &mut known)?;
        }
        site.check_segments(&known)?;
        site.lay_segments()?;
        site.claim(&known)?;
        let mut report = RestoreReport {
            backup: name.to_owned(),
            taken_ms: manifest.taken_ms,
            source: manifest.identity,
            store: identity,
            owners: Vec::new(),
            topics: 0,
            records: 0,
            bytes: manifest.bytes(),
            newest_ms,
        };
        let mut reading = Reading::default();
        if !is_kept(StepSite::RestoreBeforeStore) {
            site.become_store()?;
        }
        for owner in &manifest.owners {
            site.recover(owner, &mut report, &mut reading)?;
        }
        reading.check()?;
        if is_kept(StepSite::RestoreBeforeStore) {
            site.become_store()?;
        }
        Ok(report)
    }

    pub(super) fn shared_disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Makes the directory, with what says that it is no store yet; holds the lock on that. What an earlier attempt has
    /// left is taken away.
    fn mark(&self, layout: &Layout, bytes: Vec<u8>) -> Result<RestoreMark> {
        let (disk, dir, path) = (&*self.disk, &layout.dir, &layout.store_file);
        let doing = |error| Error::io(path, "begin a restore", error);
        let made = make_dir_all(disk, dir, &mut Vec::new()).and_then(|()| disk.list(dir));
        let found = made.map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => Error::invalid("this is a file, a store is a directory").in_file(dir),
            _ => Error::io(dir, "make the directory", error),
        })?;
        let is_left = found.contains(path);
        if let Some(other) = found.iter().find(|_| !is_left) {
            let what = "a store is restored into an empty directory, and this one holds something";
            return Err(Error::invalid(what).in_file(other));
        }
        let mode = if is_left { OpenMode::Write } else { OpenMode::CreateNew };
        let file = disk.open(path, mode).map_err(doing)?;
        if !file.try_lock().map_err(doing)? {
            return Err(Error::locked(path, "another process restores into this directory", None));
        }
        for left in found.iter().filter(|left| *left != path) {
            remove_tree(disk, left).map_err(|error| Error::io(left, "remove what a restore has left", error))?;
        }
        let written = file.set_len(0).and_then(|()| file.write_all_at(&bytes, 0));
        written.and_then(|()| file.sync(SyncSite::RestoreFile)).map_err(doing)?;
        disk.sync_dir(dir, SyncSite::RestoreDir).map_err(doing)?;
        Ok(RestoreMark { disk: Arc::clone(&self.disk), path: path.clone(), _locked: file })
    }
}

/// Says that a directory was empty, or held what a restore had left, before it was restored into.
pub(super) struct RestoreMark {
    disk: Arc<dyn Disk>,
    /// Of `RESTORING`.
    path: PathBuf,
    _locked: Box<dyn DiskFile>,
}

impl RestoreMark {
    /// Removes what was restored, with the directory. A crash on the way leaves a directory that says that it is no
    /// store.
    pub(super) fn remove_restored(self) -> Result<()> {
        let Some(dir) = self.path.parent() else { return Ok(()) };
        let removed = self.remove_all(dir);
        removed.map_err(|error| Error::io(dir, "remove what was restored", error))
    }

    fn remove_all(&self, dir: &Path) -> io::Result<()> {
        let store = dir.join("STORE");
        if self.disk.list(dir)?.contains(&store) {
            self.disk.rename(&store, &self.path)?;
        }
        let inside = self.disk.list(dir)?;
        inside.iter().filter(|path| **path != self.path).try_for_each(|path| remove_tree(&*self.disk, path))?;
        self.disk.remove(&self.path)?;
        match self.disk.remove_dir(dir) {
            // It was given as a symbolic link to a directory, which is empty again.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            removed => removed,
        }
    }
}

/// Where a backup is being restored.
struct Site<'s> {
    options: &'s RestoreOptions,
    target: &'s BackupTarget,
    manifest: &'s BackupManifest,
    /// Of `main`.
    layout: Layout,
    chance: Arc<Chance>,
}

/// What the rows of all owners say of names.
#[derive(Default)]
struct Known {
    topics: BTreeMap<TopicId, (String, TopicSpec)>,
    tables: BTreeMap<TableId, (String, TableSpec)>,
    /// Who has read what, and for which owner; the empty consumer is a topic's global one.
    progress: BTreeSet<(String, TopicId, PartitionId, String)>,
    segments: Vec<(TopicId, PartitionId, SegmentRow)>,
}

impl Known {
    /// Takes note of a row of the store's own tables.
    fn note(&mut self, owner: &str, table: TableId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match (table, value) {
            (system::CATALOGUE, value) => match (CatalogueKey::decode(key), value) {
                (Some(CatalogueKey::Topic(id)), Some(value)) => {
                    let spec: TopicSpec = system::decode_row(value)?;
                    spec.check().map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
                    self.topics.insert(id, (owner.to_owned(), spec));
                }
                (Some(CatalogueKey::Topic(id)), None) => drop(self.topics.remove(&id)),
                (Some(CatalogueKey::Table(id)), Some(value)) => {
                    let spec: TableSpec = system::decode_row(value)?;
                    spec.check().map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
                    self.tables.insert(id, (owner.to_owned(), spec));
                }
                (Some(CatalogueKey::Table(id)), None) => drop(self.tables.remove(&id)),
                _ => {}
            },
            (system::PROGRESS, value) => {
                let malformed = || Error::new(ErrorKind::Corrupt, "a row of the progress is malformed");
                let (consumer, topic, partition) = read_progress_key(key).ok_or_else(malformed)?;
                let place = (consumer.to_owned(), topic, partition, owner.to_owned());
                if value.is_some() {
                    self.progress.insert(place)
                } else {
                    self.progress.remove(&place)
                };
            }
            (system::SEGMENTS, Some(value)) => {
                let malformed = || Error::new(ErrorKind::Corrupt, "a row of the segments is malformed");
                let (topic, partition) = system::read_partition_key(key).ok_or_else(malformed)?;
                self.segments.push((topic, partition, system::decode_row(value)?));
            }
            _ => {}
        }
        Ok(())
    }
}

impl Site<'_> {
    fn disk(&self) -> &dyn Disk {
        &*self.options.disk
    }

    fn make_dirs(&self) -> Result<()> {
        let layout = &self.layout;
        for dir in [&layout.owners, &layout.topics, &layout.tables, &layout.consumers] {
            make_dir(self.disk(), dir).map_err(|error| Error::io(dir, "restore the store", error))?;
        }
        self.sync_dir(&layout.dir)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        let synced = self.disk().sync_dir(dir, SyncSite::RestoreDir);
        synced.map_err(|error| Error::sync(dir, "sync a restored directory", error))
    }

    /// Manifest, table file and journal of an owner.
    fn lay_owner(&self, owner: &OwnerImage, goal: Lsn, known: &mut Known) -> Result<()> {
        let (disk, store) = (self.disk(), self.manifest.store);
        let layout = Layout::of(&self.layout.dir, &owner.name);
        for dir in [&layout.owner].into_iter().chain(layout.owner_dirs()) {
            make_dir(disk, dir).map_err(|error| Error::io(dir, "restore an owner", error))?;
        }
        let trim = match owner.rows_lsn {
            None => None,
            Some(rows_lsn) => {
                let table = self.lay_rows(owner, &layout, rows_lsn, known)?;
                let root = table.root().ok_or_else(Error::closed)?;
                Some((self.lay_frames(owner, &layout, (rows_lsn, goal), known)?, root))
            }
        };
        let mut manifest = ManifestFile::lock(disk, &layout.manifest, OpenMode::CreateNew)?;
        manifest.begin(store, &owner.name, owner.number)?;
        manifest.update(|next| {
            (next.epoch, next.trim) = (owner.epoch, trim);
        })?;
        [&layout.owner, &layout.owners].into_iter().try_for_each(|dir| self.sync_dir(dir))
    }

    fn lay_rows(&self, owner: &OwnerImage, layout: &Layout, lsn: Lsn, known: &mut Known) -> Result<TableStore> {
        let home = TableHome {
            disk: Arc::clone(&self.options.disk),
            dir: layout.state.clone(),
            store: self.manifest.store,
            memory: TABLE_MEMORY,
        };
        let table = TableStore::create(&home, TableFileName { epoch: owner.epoch, salt: self.chance.next_u64() })?;
        let (mut batch, mut bytes) = (TableBatch::new(), 0);
        self.open(&owner_file(&owner.name, "rows"))?.rows(|key, value| {
            if let Some((table, shard, own)) = StateKey::read(key)
                && shard == system::SHARD
            {
                known.note(&owner.name, table, own, Some(value))?;
            }
            batch.insert(key.to_vec(), Some(bytes::Bytes::copy_from_slice(value)));
            bytes += key.len() + value.len();
            if bytes >= ROWS_AT_ONCE {
                table.apply(&batch, lsn)?;
                table.confirm();
                (batch, bytes) = (TableBatch::new(), 0);
            }
            Ok(())
        })?;
        table.apply(&batch, lsn)?;
        table.confirm();
        Ok(table)
    }

    fn lay_frames(
        &self,
        owner: &OwnerImage,
        layout: &Layout,
        (rows_lsn, goal): (Lsn, Lsn),
        known: &mut Known,
    ) -> Result<JournalPosition> {
        let (disk, dir) = (&self.options.disk, layout.journal.clone());
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
        if goal > owner.lsn {
            self.each_archived(owner, owner.lsn.next(), &mut |piece| {
                piece.each(|lsn, body| if lsn < layer.next_lsn() { Ok(()) } else { lay(&mut layer, lsn, body) })?;
                Ok(if piece.last < goal { Visit::Next } else { Visit::Stop })
            })?;
            if layer.next_lsn() <= goal {
                let (owner, last) = (&owner.name, Lsn(layer.next_lsn().0 - 1));
                let what = format!("the archive of owner {owner:?} ends at frame {last}, before {goal}");
                return Err(Error::new(ErrorKind::NotFound, what));
            }
        }
        layer.finish()
    }

    /// Up to which frame an owner is restored.
    fn goal_of(&self, owner: &OwnerImage, newest_ms: &mut i64) -> Result<Lsn> {
        match &self.options.until {
            _ if owner.rows_lsn.is_none() => Ok(owner.lsn),
            Until::Lsn(name, lsn) if *name == owner.name => {
                if owner.rows_lsn.is_some_and(|rows| rows > *lsn) {
                    let what = format!("the backup of owner {name:?} is from after frame {lsn}");
                    return Err(Error::new(ErrorKind::NotFound, what));
                }
                Ok(*lsn)
            }
            Until::Backup | Until::Lsn(..) => Ok(owner.lsn),
            Until::Time(ms) if self.manifest.taken_ms > *ms => {
                Err(Error::new(ErrorKind::NotFound, "the backup is from after that time"))
            }
            Until::Time(ms) => {
                let mut goal = owner.lsn;
                self.each_archived(owner, owner.lsn.next(), &mut |piece| {
                    for mark in &piece.marks {
                        if mark.ms > *ms {
                            return Ok(Visit::Stop);
                        }
                        goal = goal.max(mark.lsn);
                        *newest_ms = mark.ms.max(*newest_ms);
                    }
                    Ok(Visit::Next)
                })?;
                Ok(goal)
            }
        }
    }

    /// Hands the archived pieces of an owner from frame `next` on to `each`, without a gap, until it answers `Stop` or
    /// there are no more.
    fn each_archived(
        &self,
        owner: &OwnerImage,
        mut next: Lsn,
        each: &mut dyn FnMut(&Piece) -> Result<Visit>,
    ) -> Result<()> {
        let folder = archive_folder(self.manifest.identity, &owner.name);
        let names = self.target.list_objects(&folder, 1)?;
        let mut pieces: Vec<_> = names.iter().filter_map(|name| Some((frames_of_name(name)?, name))).collect();
        pieces.sort();
        for ((first, last), name) in pieces {
            if last < next {
                continue;
            }
            let object = format!("{folder}/{name}");
            let place = self.target.object_place(&object);
            if first > next {
                let (owner, until) = (&owner.name, Lsn(first.0 - 1));
                let what = format!("frames {next} to {until} of owner {owner:?} are missing in the archive");
                return Err(Error::new(ErrorKind::Gap, what).in_file(&place));
            }
            let gone = || Error::corrupt(&place, 0, "a piece of the archived journal is gone");
            let bytes = self.target.read_object(&object, PIECE_BYTES_MAX)?.ok_or_else(gone)?;
            let piece = Piece::decode(&bytes, &place)?;
            let told = (piece.store, piece.identity, &piece.owner, piece.first, piece.last);
            if told != (self.manifest.store, self.manifest.identity, &owner.name, first, last) {
                return Err(Error::corrupt(&place, 0, "a piece of another archive"));
            }
            if each(&piece)? == Visit::Stop {
                return Ok(());
            }
            next = last.next();
        }
        Ok(())
    }

    /// A file of the backup.
    fn open(&self, path: &str) -> Result<ChunkReader<'_>> {
        let gone = || Error::new(ErrorKind::Corrupt, format!("the backup does not hold {path}"));
        let file = self.manifest.files.get(path).ok_or_else(gone)?;
        Ok(ChunkReader::new(self.target, path, file))
    }

    /// Whether the backup has all segments that the rows name: not those of topics that its frames delete, if it is
    /// restored up to before that.
    fn check_segments(&self, known: &Known) -> Result<()> {
        for (topic, partition, row) in &known.segments {
            let Some((_, spec)) = known.topics.get(topic) else { continue };
            let head = SegmentHead {
                store: self.manifest.store,
                topic: *topic,
                partition: *partition,
                base_offset: row.base_offset,
                epoch: row.epoch,
                generation: row.generation,
                salt: row.salt,
            };
            let path = head.path(&topic::partition_dir(&topic_dir(Path::new("topics"), &spec.name), *partition));
            let file = path.to_str().and_then(|path| self.manifest.files.get(path));
            if file.is_none_or(|file| (file.salt, file.bytes()) != (row.salt, row.end_position)) {
                let what = format!("the backup does not hold {}, which its rows name", path.display());
                return Err(match &self.options.until {
                    Until::Lsn(..) => {
                        let why = format!("{what}: the topic was deleted behind that frame; take an earlier backup");
                        Error::new(ErrorKind::NotFound, why)
                    }
                    _ => Error::new(ErrorKind::Corrupt, what),
                });
            }
        }
        Ok(())
    }

    /// The segments, as they are.
    fn lay_segments(&self) -> Result<()> {
        let mut dirs = BTreeSet::new();
        for (path, _) in self.manifest.files.iter().filter(|(path, _)| FilePlace::of(path) == Some(FilePlace::Segment))
        {
            let to = path.split('/').fold(self.layout.dir.clone(), |dir, part| dir.join(part));
            let above: Vec<PathBuf> = to.ancestors().skip(1).take(2).map(Path::to_owned).collect();
            for dir in above.iter().rev().filter(|dir| !dirs.contains(*dir)) {
                make_dir(self.disk(), dir).map_err(|error| Error::io(dir, "restore a topic", error))?;
            }
            dirs.extend(above);
            let doing = |error| Error::io(&to, "restore a segment", error);
            let (file, mut position) = (self.disk().open(&to, OpenMode::CreateNew).map_err(doing)?, 0);
            let mut chunks = self.open(path)?;
            while let Some(chunk) = chunks.next_chunk()? {
                file.write_all_at(&chunk, position).map_err(doing)?;
                position += chunk.len() as u64;
            }
            file.sync(SyncSite::RestoreFile).map_err(|error| Error::sync(&to, "sync a restored segment", error))?;
        }
        // The deepest first.
        dirs.iter().rev().try_for_each(|dir| self.sync_dir(dir))
    }

    /// The claims on all names that the rows know, and the directories of partitions.
    fn claim<'k>(&self, known: &'k Known) -> Result<()> {
        let mut claims = Vec::new();
        let claim = |topic, owner: &str, name: &str, spec: Option<&TopicSpec>| Claim {
            store: self.manifest.store,
            topic,
            partitions: spec.map_or(0, |spec| spec.partitions),
            owner: owner.to_owned(),
            name: name.to_owned(),
            key_codec: spec.map(|spec| spec.key_codec.clone()).unwrap_or_default(),
            value_codec: spec.map(|spec| spec.value_codec.clone()).unwrap_or_default(),
        };
        for (id, (owner, spec)) in &known.topics {
            claims.push((topic_dir(&self.layout.topics, &spec.name), claim(*id, owner, &spec.name, Some(spec))));
        }
        for (id, (owner, spec)) in &known.tables {
            let dir = self.layout.tables.join(escape_name(&spec.name));
            claims.push((dir, claim(TopicId(id.0), owner, &spec.name, None)));
        }
        // An id is one name in all topics, the global consumer of each topic another one.
        let name = |(consumer, topic, _, owner): &'k (String, TopicId, PartitionId, String)| {
            (consumer, consumer.is_empty().then_some(topic), owner)
        };
        let whose: BTreeSet<_> = known.progress.iter().map(name).collect();
        for (consumer, topic, owner) in whose {
            match topic.map(|id| (id, known.topics.get(id))) {
                None => {
                    let dir = self.layout.consumers.join(escape_name(consumer));
                    claims.push((dir, claim(TopicId(0), owner, consumer, None)));
                }
                Some((id, Some((_, spec)))) => {
                    claims.push((global_claim_dir(&self.layout, *id), claim(*id, owner, &spec.name, None)));
                }
                // Deleted.
                Some((_, None)) => {}
            }
        }
        for (dir, claim) in &claims {
            make_dir(self.disk(), dir).map_err(|error| Error::io(dir, "restore a name", error))?;
            for partition in (0..claim.partitions).map(PartitionId) {
                let dir = topic::partition_dir(dir, partition);
                make_dir(self.disk(), &dir).map_err(|error| Error::io(&dir, "restore a topic", error))?;
            }
        }
        claims.chunks(CLAIMS_AT_ONCE).try_for_each(|claims| topic::write_claims(self.disk(), claims))?;
        let layout = &self.layout;
        [&layout.topics, &layout.tables, &layout.consumers].into_iter().try_for_each(|dir| self.sync_dir(dir))
    }

    /// Recovers an owner and closes it in order.
    fn recover(&self, owner: &OwnerImage, report: &mut RestoreReport, reading: &mut Reading) -> Result<()> {
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
        for (topic, name, partition, watched) in store.core().partitions_now()? {
            report.records += watched.end.0 - watched.start.0;
            reading.ends.insert((topic, partition), (name, watched.end));
        }
        let number = store.core().owner;
        store.core().each_row(system::PROGRESS, Bound::Unbounded, Bound::Unbounded, |key, value| {
            if let Some((_, topic, partition)) = read_progress_key(key)
                && topic.owner() != number
            {
                reading.read.push((owner.name.clone(), topic, partition, system::decode_row(value)?));
            }
            Ok(())
        })?;
        store.close()
    }

    fn become_store(&self) -> Result<()> {
        let store = self.layout.dir.join("STORE");
        let renamed = self.disk().rename(&self.layout.store_file, &store);
        renamed.map_err(|error| Error::io(&store, "end a restore", error))?;
        self.sync_dir(&self.layout.dir)
    }
}

/// Who has read what of whom.
#[derive(Default)]
struct Reading {
    ends: BTreeMap<(TopicId, PartitionId), (String, LogOffset)>,
    /// In topics of other owners.
    read: Vec<(String, TopicId, PartitionId, LogOffset)>,
}

impl Reading {
    /// Owners may be restored up to points that do not fit each other: offsets that one of them has passed would be
    /// given to other records.
    fn check(&self) -> Result<()> {
        for (owner, topic, partition, next) in &self.read {
            let Some((name, end)) = self.ends.get(&(*topic, *partition)) else { continue };
            if next > end {
                let what = format!("owner {owner:?} has read topic {name:?}, partition {partition}, up to {next}");
                return Err(Error::new(ErrorKind::Conflict, format!("{what}, and it is restored up to {end} only")));
            }
        }
        Ok(())
    }
}

fn owner_file(owner: &str, stream: &str) -> String {
    format!("owners/{}/{stream}", escape_name(owner))
}

/// Removes a file, or a directory with all that is in it. Of a symbolic link only the link: what it leads to is not
/// what a restore has made.
fn remove_tree(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    let Err(error) = disk.remove(path) else { return Ok(()) };
    let Ok(inside) = disk.list(path) else { return Err(error) };
    inside.iter().try_for_each(|path| remove_tree(disk, path))?;
    disk.remove_dir(path)
}
