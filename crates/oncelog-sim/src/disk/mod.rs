//! A simulated disk: a volatile page cache over durable content, under power cuts and faults that a seed chooses.
//!
//! ```text
//! the store -> SimDisk, SimFile -> World: faults  may refuse, cut short, or stop the machine
//!                                         tree    names: as seen | as durable, and the changes between
//!                                         inode   bytes: as seen | as durable, and the writes between
//!                                         trace   one hash over all calls and answers
//!          power_cut -> survival: which of the changes and writes between reached the disk
//! ```
//!
//! What a sync promised holds under every power cut; what it did not may survive in any part, whatever is worst for the
//! store: see [`Survival`]. The model is at least as hostile as the assumptions in [`oncelog::disk`]:
//! * a sector of 512 bytes goes to the disk whole; nothing larger does;
//! * a sync of a file does not save its name, and a sync of a directory saves only the names in it;
//! * a rename is atomic: the target is the old or the new file, never neither;
//! * a length is saved in the order of its changes, but in no order with the bytes: what it covers may be zeros;
//! * a sync that failed leaves its pages clean: reads show them, and no later sync saves them unless written again.
//!
//! Everything follows from the seed and the calls: the same calls in the same order give the same answers, the same
//! [`trace_hash`](SimDisk::trace_hash), and the same disk after every crash. So a `SimDisk` must be used by one thread
//! at a time if a run is to be repeated, though it may be shared.

mod faults;
mod file;
mod inode;
mod map;
mod pages;
mod rot;
mod slip;
mod survival;
mod trace;
mod tree;
mod world;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oncelog::disk::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, SharedMap, SyncSite};

pub use faults::{Failure, Repeat};
pub use slip::Slip;
pub use survival::Survival;

use file::SimFile;
use world::World;

/// A disk that loses what was not synced. Clones are the same disk; for another one with the same content see
/// [`copy_tree`](SimDisk::copy_tree).
#[derive(Clone)]
pub struct SimDisk {
    world: Arc<Mutex<World>>,
}

impl SimDisk {
    /// An empty disk. All chance on it comes from `seed`.
    pub fn new(seed: u64) -> Self {
        SimDisk::of(World::new(seed))
    }

    /// How many clones of it there are, open files among them.
    #[must_use]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.world)
    }

    fn of(world: World) -> Self {
        SimDisk { world: Arc::new(Mutex::new(world)) }
    }

    /// A test that panicked elsewhere must not hide what the disk holds, so a poisoned lock is taken all the same.
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Crashes.
impl SimDisk {
    /// Cuts the power and starts the machine again: of what was not synced the seed chooses who survives. Open handles
    /// are dead, locks free, waiting faults forgotten; the disk works again. Costs what the unsynced data costs.
    ///
    /// Returns the rule that was chosen, for messages.
    pub fn power_cut(&self) -> Survival {
        self.world().power_cut(None)
    }

    /// Cuts the power with a given rule; the seed chooses only the details.
    pub fn power_cut_with(&self, survival: Survival) {
        self.world().power_cut(Some(survival));
    }

    /// Ends all processes, as `kill -9`: handles are dead and locks free, but the page cache stays, still unsynced.
    /// Waiting faults are forgotten.
    pub fn process_kill(&self) {
        self.world().process_kill();
    }

    /// Stops the machine in the middle of the `changes`-th change from now (1 is the next one): a write, a change of
    /// length, a sync, a creation, a renaming or a removal. That call fails, having done all, nothing, or (a write) a
    /// part of its work, and so does every call after it, until [`power_cut`](Self::power_cut) or
    /// [`process_kill`](Self::process_kill).
    pub fn crash_after(&self, changes: u64) {
        self.world().faults.crash_after(changes);
    }

    /// As [`crash_after`](Self::crash_after), in the middle of the next sync from `site`.
    pub fn crash_at_sync(&self, site: SyncSite) {
        self.world().faults.crash_at_sync(site);
    }

    /// Frees every lock while the processes that hold them live on and do not know: what must never happen, and what
    /// fencing is for.
    pub fn break_locks(&self) {
        self.world().break_locks();
    }

    /// Whether the machine has stopped at a crash point.
    pub fn is_dead(&self) -> bool {
        self.world().faults.dead
    }

    /// Changes so far, over all crashes: what [`crash_after`](Self::crash_after) counts.
    pub fn ops(&self) -> u64 {
        self.world().faults.ops
    }

    /// Calls so far, over all crashes, reads and opens included: what [`fail_op`](Self::fail_op) counts.
    pub fn all_ops(&self) -> u64 {
        self.world().faults.all_ops
    }

    /// The hash of every call, answer and crash so far. Runs of one seed must agree on it.
    pub fn trace_hash(&self) -> u64 {
        self.world().trace_hash()
    }

    /// Starts chance anew from `seed`: with [`copy_tree`](Self::copy_tree), many fates of one and the same moment.
    pub fn reseed(&self, seed: u64) {
        self.world().reseed(seed);
    }
}

/// Faults. Those that wait for a moment are forgotten at a crash; the others are properties of the disk and stay.
impl SimDisk {
    /// Fails the next sync with `EIO`, or the next one from `site`. A part of what it should have saved is saved; the
    /// rest is shown to readers, and no later sync saves it. Several calls fail several syncs.
    pub fn fail_next_sync(&self, site: Option<SyncSite>) {
        self.world().faults.fail_next_sync(site);
    }

    /// Fails the `nth` call from now (1 is the next one), whatever it is. A sync fails as under
    /// [`fail_next_sync`](Self::fail_next_sync); any other call has done nothing.
    pub fn fail_op(&self, nth: u64, failure: Failure, repeat: Repeat) {
        self.world().faults.fail_op(nth, failure, repeat);
    }

    /// Forgets the faults that wait for a moment, as if someone had repaired the disk. A stopped machine runs on.
    pub fn clear_faults(&self) {
        self.world().faults.clear();
    }

    /// Lets all files together take `bytes` (lengths and preallocated space); what goes beyond answers `StorageFull`,
    /// sometimes after a short write. A removed file frees its space at once. `None` is no limit, and what is free is
    /// not known then.
    pub fn capacity(&self, bytes: Option<u64>) {
        self.world().faults.capacity = bytes;
    }

    /// As [`capacity`](Self::capacity): so many bytes more than what is taken now.
    pub fn leave_room(&self, bytes: u64) {
        self.world().leave_room(bytes);
    }

    /// Makes reads and writes short or `Interrupted` at random.
    pub fn choppy(&self, choppy: bool) {
        self.world().faults.choppy = choppy;
    }

    /// Lets the syncs of one site answer `Ok` and do their work late or never, to see that some test notices.
    pub fn slip_syncs(&self, slip: Option<Slip>) {
        self.world().faults.slip = slip;
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("ops", &self.ops()).field("paths", &self.paths()).finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let handle = self.world().open(path, mode)?;
        Ok(Box::new(SimFile::new(Arc::clone(&self.world), handle)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.world().list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.world().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.world().remove(path)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.world().create_dir(dir)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.world().remove_dir(dir)
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        self.world().identity(path)
    }

    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.world().sync_dir(dir, site)
    }

    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        Ok(self.world().map_shared(path, words, access)?)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<Option<u64>> {
        self.world().free_bytes(dir)
    }

    fn boot_id(&self) -> u128 {
        self.world().boots()
    }
}
