//! Repair: a damaged store is made one that can be opened, with all that is good in it.
//!
//! ```text
//! STORE, manifest copies  ->  for each owner: an opening that mends  ->  close  ->  an opening that sweeps  ->  verify
//! ```
//!
//! **A repair is a recovery that leaves out what is damaged.** What it writes goes to new places, and the trim point
//! that ends the opening is what makes it true: rows of segments that name the good runs, tables as of the last frame
//! before the damage. So a repair that is killed leaves the damage as it was, or the mended store, and is run again.
//! What changes before the trim point is the same whenever it is done: a head, a claim, a manifest copy, written as
//! other files say that they were.
//!
//! Invariants:
//! * Nothing is given up that is not in `aside` before, durably.
//! * No offset is given out again: those of cut records are a hole, and behind a damaged journal, where nobody knows
//!   what was given out, every partition goes on 2^32 further on.
//! * What cannot be mended is left as it is, and told.
//! * The plan is made by the same code, over a disk in memory.

mod journal;
mod names;
mod notes;
mod segments;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

pub(super) use notes::Mends;

use super::layout::{Layout, MAIN};
use super::manifest::ManifestFile;
use super::options::{Beside, StoreMode, StoreOptions};
use super::owner::is_unmade;
use super::reader::{StoreReader, Verification, read_rows};
use super::report::LostOffsets;
use crate::disk::{Disk, OpenMode, OverlayDisk, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::StoreId;
use crate::wake::Arc;

/// What a repair does, or would do.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RepairPlan {
    /// What is mended, in the order in which it is done.
    pub mends: Vec<Mend>,
    /// Offsets of records that are lost: a typed gap to readers.
    pub lost: Vec<LostOffsets>,
    /// Offsets that are left out because they may have been given out by frames that nobody can read.
    pub skipped: Vec<LostOffsets>,
    /// What cannot be mended, and stays as it is.
    pub left: Vec<Error>,
}

/// One thing that is mended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mend {
    /// The file that is damaged, or gone.
    pub file: PathBuf,
    /// What is wrong with it, and what is done.
    pub what: String,
    /// Bytes that are given up.
    pub cut_bytes: u64,
    /// Where they are kept; nowhere as long as it is only a plan.
    pub kept_in: Vec<PathBuf>,
}

/// What a repair has done.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RepairReport {
    /// What was done. Empty where nothing was damaged.
    pub done: RepairPlan,
    /// What a verification found behind it.
    pub verification: Verification,
}

impl RepairPlan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mends.is_empty() && self.left.is_empty()
    }

    fn add(&mut self, other: RepairPlan) {
        self.mends.extend(other.mends);
        self.lost.extend(other.lost);
        self.skipped.extend(other.skipped);
        self.left.extend(other.left);
    }
}

impl fmt::Display for Mend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.what)?;
        if self.cut_bytes > 0 {
            write!(f, "; {} bytes are cut out", self.cut_bytes)?;
        }
        self.kept_in.iter().try_for_each(|kept| write!(f, ", kept in {}", kept.display()))
    }
}

/// Whether a repair looks or acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Plan,
    Do,
}

/// The owners of a store, locked, by name.
type Locked = BTreeMap<String, ManifestFile>;

impl StoreOptions {
    /// See [`Store::plan_repair`](super::Store::plan_repair).
    ///
    /// # Errors
    /// See there.
    pub fn plan_repair(self, dir: impl AsRef<Path>) -> Result<RepairPlan> {
        let layout = Layout::of(dir.as_ref(), MAIN);
        let mut left = Vec::new();
        // For reading: a plan can be made on a file system that cannot be written.
        let _locked = lock_owners(&*self.disk, &layout, OpenMode::Read, &mut left)?;
        let (plan, _) = self.planned(&layout)?;
        Ok(plan)
    }

    /// See [`Store::repair`](super::Store::repair).
    ///
    /// # Errors
    /// See there.
    pub fn repair(self, dir: impl AsRef<Path>) -> Result<RepairReport> {
        let layout = Layout::of(dir.as_ref(), MAIN);
        let mut left = Vec::new();
        let mut locked = lock_owners(&*self.disk, &layout, OpenMode::Write, &mut left)?;
        sync_all(&*self.disk, &layout.dir)?;
        let (plan, owners) = self.planned(&layout)?;
        let mut done = RepairPlan::default();
        if !plan.mends.is_empty() {
            let store = mend_store_file(&self, &layout, Act::Do, &mut done)?;
            for (name, to_mend) in &owners {
                let layout = Layout::of(&layout.dir, name);
                let Some(manifest) = locked.get_mut(name).filter(|_| *to_mend) else { continue };
                mend_manifest(&self, &layout, manifest, store, Act::Do, &mut done)?;
                // The openings below take it themselves.
                drop(locked.remove(name));
                self.mend_owner(&layout, Act::Do, &mut done)?;
                self.sweep_owner(&layout)?;
                locked.insert(name.clone(), ManifestFile::lock(&*self.disk, &layout.manifest, OpenMode::Write)?);
            }
            self.forget_unknown_claims(&layout, Act::Do, &mut done)?;
        }
        done.left = plan.left;
        drop(locked);
        let reader = StoreReader::options().disk(Arc::clone(&self.disk)).clock(Arc::clone(&self.clock));
        let verification = match reader.open(dir) {
            Ok(reader) => reader.verify(|_| {})?,
            Err(error) => Verification { damage: vec![error], ..Verification::default() },
        };
        Ok(RepairReport { done, verification })
    }

    /// The plan, and of each owner whether there is anything to mend.
    fn planned(&self, layout: &Layout) -> Result<(RepairPlan, Vec<(String, bool)>)> {
        let memory = StoreOptions { disk: Arc::new(OverlayDisk::over(Arc::clone(&self.disk))), ..self.clone() };
        let (mut plan, mut owners) = (RepairPlan::default(), Vec::new());
        let store = mend_store_file(&memory, layout, Act::Plan, &mut plan)?;
        for name in lock_owners(&*memory.disk, layout, OpenMode::Read, &mut plan.left)?.into_keys() {
            let layout = Layout::of(&layout.dir, &name);
            let (mut of_owner, before) = (RepairPlan::default(), plan.left.len());
            let mut manifest = ManifestFile::lock(&*memory.disk, &layout.manifest, OpenMode::Write)?;
            let mended = mend_manifest(&memory, &layout, &mut manifest, store, Act::Plan, &mut of_owner);
            drop(manifest);
            let can_open = match mended.and_then(|()| memory.mend_owner(&layout, Act::Plan, &mut of_owner)) {
                Ok(()) => true,
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion) => {
                    plan.left.push(error);
                    false
                }
                Err(error) => return Err(error),
            };
            owners.push((name, can_open && !of_owner.mends.is_empty()));
            if can_open {
                plan.add(of_owner);
            } else {
                plan.left.extend(of_owner.left);
            }
            debug_assert!(can_open || plan.left.len() > before);
        }
        if plan.left.is_empty() {
            memory.forget_unknown_claims(layout, Act::Plan, &mut plan)?;
        }
        Ok((plan, owners))
    }

    /// Opens an owner, mending what is damaged, and closes it.
    fn mend_owner(&self, layout: &Layout, act: Act, plan: &mut RepairPlan) -> Result<()> {
        let mends = Arc::new(Mends::new(&self.disk, layout, act));
        let mut options = self.clone().open_mode(StoreMode::Existing).manual_duties();
        options.mends = Some(Arc::clone(&mends));
        if act == Act::Plan {
            options = options.only_looks(None, Beside::Nobody).journal_file_bytes(4096).trim_bytes(u64::MAX);
        }
        let store = options.attach(&layout.dir, &layout.name)?;
        store.mend_claims(&mends)?;
        match read_rows(&store) {
            Err(error) if error.kind() == ErrorKind::Corrupt => mends.leave(error),
            other => drop(other?),
        }
        if act == Act::Do {
            store.close()?;
        }
        plan.add(mends.take());
        Ok(())
    }

    /// Opens an owner as everybody does, so that what nothing names is removed.
    fn sweep_owner(&self, layout: &Layout) -> Result<()> {
        let store = self.clone().open_mode(StoreMode::Existing).manual_duties().attach(&layout.dir, &layout.name)?;
        for (id, _) in store.topics()? {
            let topic = match store.core().pipeline.topics.get(id) {
                Ok(topic) => topic,
                // Left as it is.
                Err(error) if error.kind() == ErrorKind::Corrupt => continue,
                Err(error) => return Err(error),
            };
            topic.partitions.iter().try_for_each(|partition| partition.cut_leftovers())?;
        }
        store.close()
    }
}

/// Makes durable what is there: an attempt that was killed may have mended what is seen, and not come to the sync.
fn sync_all(disk: &dyn Disk, place: &Path) -> Result<()> {
    let doing = |error| Error::sync(place, "sync the store", error);
    match disk.open(place, OpenMode::Read) {
        Ok(file) => file.sync(SyncSite::Mended).map_err(doing),
        Err(error) if is_no_file(&error) => match disk.list(place) {
            Ok(names) => {
                names.iter().try_for_each(|name| sync_all(disk, name))?;
                disk.sync_dir(place, SyncSite::Mended).map_err(doing)
            }
            // Nothing of ours.
            Err(error) if is_no_file(&error) || error.kind() == std::io::ErrorKind::NotADirectory => Ok(()),
            Err(error) => Err(Error::io(place, "list the store", error)),
        },
        Err(error) => Err(Error::io(place, "sync the store", error)),
    }
}

/// Whether it is gone, or something else than a file of ours: a directory, or a symbolic link.
fn is_no_file(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotFound};
    const ELOOP: i32 = 40;
    matches!(error.kind(), IsADirectory | NotFound) || cfg!(unix) && error.raw_os_error() == Some(ELOOP)
}

/// Locks all owners that were made; those whose manifest is gone are told as what is left.
fn lock_owners(disk: &dyn Disk, layout: &Layout, mode: OpenMode, left: &mut Vec<Error>) -> Result<Locked> {
    let no_store = || Error::new(ErrorKind::NotFound, "there is no store").in_file(&layout.dir);
    let owners = match disk.list(&layout.owners) {
        Ok(owners) => owners,
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(no_store());
        }
        Err(error) => return Err(Error::io(&layout.owners, "list the owners", error)),
    };
    let mut locked = Locked::new();
    for owner in owners.into_iter().filter(|path| !path.ends_with("LOCK")) {
        let path = owner.join("MANIFEST");
        match ManifestFile::peek(disk, &path)? {
            Some(manifest) => {
                locked.insert(manifest.owner, ManifestFile::lock(disk, &path, mode)?);
            }
            None if is_unmade(disk, &owner)? => {}
            None => left.push(Error::corrupt(&path, 0, "the manifest of an owner is gone or damaged")),
        }
    }
    if locked.is_empty() && left.is_empty() {
        return Err(no_store());
    }
    Ok(locked)
}

/// Writes the file `STORE` anew if it is damaged or gone: every manifest says which store it is.
fn mend_store_file(options: &StoreOptions, layout: &Layout, act: Act, plan: &mut RepairPlan) -> Result<StoreId> {
    let disk = &*options.disk;
    let error = match layout.read_identities(disk) {
        Ok((store, _)) => return Ok(store),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => error,
        Err(error) => return Err(error),
    };
    let manifest = ManifestFile::peek(disk, &layout.manifest)?.ok_or(error)?;
    let mends = Mends::new(&options.disk, layout, act);
    let kept = mends.keep_whole(&layout.store_file)?;
    let what = "damaged or gone: written anew as the manifest names the store; a copy that was adopted must be again";
    mends.note(&layout.store_file, what, kept);
    layout.write_store_file(disk, manifest.store, manifest.store)?;
    plan.add(mends.take());
    Ok(manifest.store)
}

/// Writes a damaged copy of the manifest anew. Two that are damaged cannot be mended: nobody knows what they said.
fn mend_manifest(
    options: &StoreOptions,
    layout: &Layout,
    manifest: &mut ManifestFile,
    store: StoreId,
    act: Act,
    plan: &mut RepairPlan,
) -> Result<()> {
    manifest.read(store, &layout.name)?;
    let mends = Mends::new(&options.disk, layout, act);
    manifest.mend_copies(|place| {
        let kept = mends.keep(&layout.manifest, place.clone())?;
        let what = format!("a copy at byte {} is damaged: written anew from the other", place.start);
        mends.note(&layout.manifest, what, kept);
        Ok(())
    })?;
    plan.add(mends.take());
    Ok(())
}
