//! Making a store of a backup.
//!
//! ```text
//! points    up to which frame each owner is brought: the backup's, or a later one of its archive
//! lay       the files as the backup has them; names: claims as rows and frames say
//! frames    the frames as a journal, recovered as after a crash, closed in order
//! ```
//!
//! `RESTORING` stands for `STORE` while the directory is filled, and becomes it by one rename when all is recovered and
//! durable. So a directory that was left half restored is no store, says what it is, and can be restored into again.

mod archived;
mod frames;
mod lay;
mod mark;
mod names;
mod points;

use std::path::Path;

use super::super::layout::{Layout, MAIN, store_file_bytes};
use crate::backup::{ArchiveReach, BackupManifest, BackupTarget};
use crate::chance::Chance;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk, StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StoreId};
use crate::wake::Arc;
use archived::Archive;
use frames::Reading;
use lay::Site;
use names::Known;

pub(super) use mark::RestoreMark;

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
    replay_bytes: u64,
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
    /// Owners that are restored up to an earlier frame than that time says, and that frame: at it they would have read
    /// more of a topic of another owner than there is.
    pub held_back: Vec<(String, Lsn)>,
    /// Owners of which the archive holds another history than the one that was restored, and its last frame: see
    /// [`ArchiveReach::other_history`].
    pub other_histories: Vec<(String, Lsn)>,
    /// Owners whose frames are archived and that are not in it: they were made after the backup, which says nothing of
    /// them. Asked for a time only; a later backup has them.
    pub left_out: Vec<String>,
}

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
            replay_bytes: 64 << 20,
            network: false,
        }
    }

    /// The backup of that name.
    pub fn backup(self, name: impl Into<String>) -> RestoreOptions {
        RestoreOptions { backup: Some(name.into()), ..self }
    }

    /// Brings the owner of that name (`main` for most stores) from the backup on to the state as of frame `lsn`, by the
    /// frames that `StoreOptions::journal_archive` has kept. Other owners stay at the LSN of the backup. Unless one
    /// is named, the newest backup from before that frame is taken.
    pub fn until_lsn(self, owner: impl Into<String>, lsn: Lsn) -> RestoreOptions {
        RestoreOptions { until: Until::Lsn(owner.into(), lsn), ..self }
    }

    /// Brings all owners from the backup on to their state at that time, in milliseconds since 1970, by the frames that
    /// `StoreOptions::journal_archive` has kept. What had happened at which time was noted once a second while the
    /// store was open and had something new, by the clock of its machine; the notes since the last trim point are lost
    /// in a crash, so behind one it is about `StoreOptions::archive_interval`. It is never later than asked for.
    /// Where the archive ends before that time, so does what is restored: see [`RestoreReport::newest_ms`]. Of several
    /// owners one that would be ahead of what it has read of another one is taken back to before that:
    /// [`RestoreReport::held_back`]. Unless one is named, the newest backup from before that time is taken.
    pub fn until_time(self, ms: i64) -> RestoreOptions {
        RestoreOptions { until: Until::Time(ms), ..self }
    }

    /// Sets how much of the archive is replayed in one step: 64 MiB unless set. What a step changes in the tables is in
    /// memory until it ends, and each ends with a trim point and begins new segments. The frames that the backup itself
    /// holds are one step at least.
    pub fn replay_bytes(self, bytes: u64) -> RestoreOptions {
        RestoreOptions { replay_bytes: bytes.max(1), ..self }
    }

    /// Sets the disk on which the store is made: the machine's unless set.
    pub fn disk(self, disk: Arc<dyn Disk>) -> RestoreOptions {
        RestoreOptions { disk, ..self }
    }

    /// Sets the clock: the machine's unless set.
    pub fn clock(self, clock: Arc<dyn Clock>) -> RestoreOptions {
        RestoreOptions { clock, ..self }
    }

    /// As `StoreOptions::allow_network_file_system`.
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
    /// `NotFound`: no such backup, or none at all, or no such owner in it. `Corrupt`: a manifest or a chunk is damaged
    /// or gone, the error names it and the file of the store to which it belongs; `UnsupportedVersion`. `Invalid`:
    /// `dir` holds something. `Locked`: another process restores into it. `Full`, `Unavailable`. Of archived frames:
    /// `NotFound`: no backup is from before that point, or the archive ends before it; `Gap`: frames are missing in
    /// between, the text says which; `Conflict`: an owner has read more of a topic of another one than is restored of
    /// that, or two owners have a topic of one name: choose a later point.
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

    /// Reads what is archived behind a backup.
    pub(super) fn verify_archives(&self, target: &BackupTarget, name: &str) -> Result<Vec<ArchiveReach>> {
        let manifest = target.read_manifest(name)?;
        let owners = manifest.owners.iter().filter(|owner| owner.rows_lsn.is_some());
        let archives = owners.map(|owner| Archive::of(target, &manifest, owner));
        archives.filter_map(|archive| archive.verify().transpose()).collect()
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
        let points = site.points()?;
        let mut laid = Vec::new();
        for (owner, point) in manifest.owners.iter().zip(&points) {
            laid.push(site.lay_owner(owner, point, &mut known)?);
        }
        site.lay_segments(&site.named_segments(&known)?)?;
        site.claim(&mut known)?;
        let mut report = RestoreReport {
            backup: name.to_owned(),
            taken_ms: manifest.taken_ms,
            source: manifest.identity,
            store: identity,
            owners: Vec::new(),
            topics: 0,
            records: 0,
            bytes: manifest.bytes(),
            newest_ms: points.iter().map(|point| point.newest_ms).min().unwrap_or(manifest.taken_ms),
            held_back: Vec::new(),
            other_histories: Vec::new(),
            left_out: site.left_out()?,
        };
        for (owner, point) in manifest.owners.iter().zip(&points) {
            let named = |lsn| (owner.name.clone(), lsn);
            report.held_back.extend(point.held_back.map(named));
            report.other_histories.extend(point.trail.other_history.map(named));
        }
        let mut reading = Reading::default();
        if !is_kept(StepSite::RestoreBeforeStore) {
            site.become_store()?;
        }
        for ((owner, point), laid) in manifest.owners.iter().zip(&points).zip(laid) {
            site.recover_all((owner, point), laid, &mut known, (&mut report, &mut reading))?;
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
}
