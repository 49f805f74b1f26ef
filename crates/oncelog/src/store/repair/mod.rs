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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use notes::Kept;
pub(super) use notes::Mends;

use super::layout::{Layout, MAIN, make_dir};
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

/// What a plan knows of the owners.
struct Owners {
    /// Their names, and whether there is anything to mend.
    named: Vec<(String, bool)>,
    /// The directories of all names that any of them knows; `None`: there may be more.
    names: Option<BTreeSet<PathBuf>>,
}

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
        let mut done = RepairPlan::default();
        let verification = self.repair_into(dir, &mut done)?;
        Ok(RepairReport { done, verification })
    }

    /// As [`repair`](StoreOptions::repair), and what was done is added to `done`, also up to an error: what was lost is
    /// told there, as the next repair may find nothing of it to mend any more.
    ///
    /// # Errors
    /// See there.
    pub fn repair_into(self, dir: impl AsRef<Path>, done: &mut RepairPlan) -> Result<Verification> {
        let layout = Layout::of(dir.as_ref(), MAIN);
        let mut left = Vec::new();
        let mut locked = lock_owners(&*self.disk, &layout, OpenMode::Write, &mut left)?;
        sync_all(&*self.disk, &layout)?;
        let (plan, owners) = self.planned(&layout)?;
        // As planned, whatever comes of the rest.
        done.left.extend(plan.left);
        if !plan.mends.is_empty() {
            self.mend(&layout, &mut locked, &owners, done)?;
        }
        drop(locked);
        let reader = StoreReader::options().disk(Arc::clone(&self.disk)).clock(Arc::clone(&self.clock));
        Ok(match reader.open(dir) {
            Ok(reader) => reader.verify(|_| {})?,
            Err(error) => Verification { damage: vec![error], ..Verification::default() },
        })
    }

    /// Does what is planned.
    fn mend(&self, layout: &Layout, locked: &mut Locked, owners: &Owners, done: &mut RepairPlan) -> Result<()> {
        let left = std::mem::take(&mut done.left);
        let ended = self.mend_owners(layout, locked, owners, done);
        // The same was left by the plan.
        done.left = left;
        ended
    }

    fn mend_owners(&self, layout: &Layout, locked: &mut Locked, owners: &Owners, done: &mut RepairPlan) -> Result<()> {
        mend_dirs(self, layout, layout.shared_dirs(), Act::Do, done)?;
        let store = mend_store_file(self, layout, Act::Do, done)?;
        for (name, to_mend) in &owners.named {
            let layout = Layout::of(&layout.dir, name);
            let Some(manifest) = locked.get_mut(name).filter(|_| *to_mend) else { continue };
            mend_dirs(self, &layout, layout.owner_dirs(), Act::Do, done)?;
            mend_manifest(self, &layout, manifest, store, Act::Do, done)?;
            // The openings below take it themselves.
            drop(locked.remove(name));
            let left = done.left.len();
            self.mend_owner(&layout, Act::Do, done)?;
            // What nothing names may be what was left.
            if done.left.len() == left {
                self.sweep_owner(&layout)?;
            }
            locked.insert(name.clone(), ManifestFile::lock(&*self.disk, &layout.manifest, OpenMode::Write)?);
        }
        match &owners.names {
            Some(names) => self.forget_unknown_claims(layout, names, Act::Do, done),
            None => Ok(()),
        }
    }

    /// The plan, and what there is to mend of each owner.
    fn planned(&self, layout: &Layout) -> Result<(RepairPlan, Owners)> {
        let memory = StoreOptions { disk: Arc::new(OverlayDisk::over(Arc::clone(&self.disk))), ..self.clone() };
        let (mut plan, mut named, mut names) = (RepairPlan::default(), Vec::new(), BTreeSet::new());
        mend_dirs(&memory, layout, layout.shared_dirs(), Act::Plan, &mut plan)?;
        let store = mend_store_file(&memory, layout, Act::Plan, &mut plan)?;
        for name in lock_owners(&*memory.disk, layout, OpenMode::Read, &mut plan.left)?.into_keys() {
            let layout = Layout::of(&layout.dir, &name);
            let (mut of_owner, before) = (RepairPlan::default(), plan.left.len());
            let mended = (|| {
                mend_dirs(&memory, &layout, layout.owner_dirs(), Act::Plan, &mut of_owner)?;
                let mut manifest = ManifestFile::lock(&*memory.disk, &layout.manifest, OpenMode::Write)?;
                mend_manifest(&memory, &layout, &mut manifest, store, Act::Plan, &mut of_owner)?;
                drop(manifest);
                memory.mend_owner(&layout, Act::Plan, &mut of_owner)
            })();
            let can_open = match mended {
                Ok(known) => {
                    names.extend(known);
                    true
                }
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion) => {
                    plan.left.push(error);
                    false
                }
                Err(error) => return Err(error),
            };
            named.push((name, can_open && !of_owner.mends.is_empty()));
            if can_open {
                plan.add(of_owner);
            } else {
                plan.left.extend(of_owner.left);
            }
            debug_assert!(can_open || plan.left.len() > before);
        }
        // An owner that cannot be read whole may know any name.
        let names = plan.left.is_empty().then_some(names);
        if let Some(names) = &names {
            memory.forget_unknown_claims(layout, names, Act::Plan, &mut plan)?;
        }
        Ok((plan, Owners { named, names }))
    }

    /// Opens an owner, mending what is damaged, and closes it. Gives the directories of the names that it knows.
    fn mend_owner(&self, layout: &Layout, act: Act, plan: &mut RepairPlan) -> Result<BTreeSet<PathBuf>> {
        let mends = Arc::new(Mends::new(&self.disk, layout, act));
        let ended = self.open_mending(layout, act, &mends);
        // Told also up to an error.
        plan.add(mends.take());
        ended
    }

    fn open_mending(&self, layout: &Layout, act: Act, mends: &Arc<Mends>) -> Result<BTreeSet<PathBuf>> {
        let mut options = self.clone().open_mode(StoreMode::Existing).manual_duties();
        options.mends = Some(Arc::clone(mends));
        if act == Act::Plan {
            options = options.only_looks(None, Beside::Nobody).journal_file_bytes(4096).trim_bytes(u64::MAX);
        }
        let store = options.attach(&layout.dir, &layout.name)?;
        let names = store.mend_claims(mends)?;
        match read_rows(&store) {
            Err(error) if error.kind() == ErrorKind::Corrupt => mends.leave(error),
            other => drop(other?),
        }
        if act == Act::Do {
            store.close()?;
        }
        Ok(names)
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
/// Other things that lie in the directory are not touched.
fn sync_all(disk: &dyn Disk, layout: &Layout) -> Result<()> {
    sync_under(disk, &layout.store_file)?;
    sync_names(disk, &layout.owners)?;
    layout.shared_dirs().into_iter().try_for_each(|dir| sync_names(disk, dir))?;
    let synced = disk.sync_dir(&layout.dir, SyncSite::Mended);
    synced.map_err(|error| Error::sync(&layout.dir, "sync the store", error))
}

/// What is in a directory of ours, and its names.
fn sync_names(disk: &dyn Disk, dir: &Path) -> Result<()> {
    match disk.list(dir) {
        Ok(names) => {
            names.iter().try_for_each(|name| sync_under(disk, name))?;
            let synced = disk.sync_dir(dir, SyncSite::Mended);
            synced.map_err(|error| Error::sync(dir, "sync the store", error))
        }
        // Nothing of ours.
        Err(error) if is_no_file(&error) || error.kind() == std::io::ErrorKind::NotADirectory => Ok(()),
        Err(error) => Err(Error::io(dir, "list the store", error)),
    }
}

fn sync_under(disk: &dyn Disk, place: &Path) -> Result<()> {
    match disk.open(place, OpenMode::Read) {
        Ok(file) => {
            let synced = file.sync(SyncSite::Mended);
            synced.map_err(|error| Error::sync(place, "sync the store", error))
        }
        // It leads out of the store, or around in it.
        Err(error) if is_link(&error) => Ok(()),
        Err(error) if is_no_file(&error) => sync_names(disk, place),
        Err(error) => Err(Error::io(place, "sync the store", error)),
    }
}

/// Whether it is gone, or something else than a file of ours: a directory, or a symbolic link.
fn is_no_file(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotFound};
    matches!(error.kind(), IsADirectory | NotFound) || is_link(error)
}

/// Whether a symbolic link was refused.
fn is_link(error: &std::io::Error) -> bool {
    const ELOOP: i32 = 40;
    cfg!(unix) && error.raw_os_error() == Some(ELOOP)
}

/// Locks all owners that were made; those whose manifest is gone are told as what is left.
fn lock_owners(disk: &dyn Disk, layout: &Layout, mode: OpenMode, left: &mut Vec<Error>) -> Result<Locked> {
    let no_store = || Error::new(ErrorKind::NotFound, "there is no store").in_file(&layout.dir);
    let owners = match disk.list(&layout.owners) {
        Ok(owners) => owners,
        Err(_) if disk.list(&layout.dir).is_err_and(|error| error.kind() == std::io::ErrorKind::NotADirectory) => {
            return Err(layout.is_a_file());
        }
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Err(no_store());
        }
        Err(error) => return Err(Error::io(&layout.owners, "list the owners", error)),
    };
    let mut locked = Locked::new();
    for owner in owners.into_iter().filter(|path| !path.ends_with("LOCK")) {
        let path = owner.join("MANIFEST");
        match ManifestFile::peek(disk, &path)? {
            // Everybody would look for it elsewhere.
            Some(manifest) if owner != Layout::of(&layout.dir, &manifest.owner).owner => {
                let what = format!("this is owner {:?}, and its directory has another name", manifest.owner);
                left.push(Error::corrupt(&path, 0, what));
            }
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

/// Makes directories that are gone. Empty ones are lost by programs that copy files only.
fn mend_dirs<const N: usize>(
    options: &StoreOptions,
    layout: &Layout,
    dirs: [&PathBuf; N],
    act: Act,
    plan: &mut RepairPlan,
) -> Result<()> {
    let (disk, mends) = (&*options.disk, Mends::new(&options.disk, layout, act));
    for dir in dirs {
        let doing = |error| Error::io(dir, "make a directory of the store", error);
        match disk.list(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            listed => {
                listed.map_err(doing)?;
                continue;
            }
        }
        mends.note(dir, "a directory of the store is gone: made anew", Kept::default());
        make_dir(disk, dir).map_err(doing)?;
        let above = dir.parent().unwrap_or(dir);
        let synced = disk.sync_dir(above, SyncSite::Mended);
        synced.map_err(|error| Error::sync(above, "make a directory of the store", error))?;
    }
    plan.add(mends.take());
    Ok(())
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
