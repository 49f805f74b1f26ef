//! Backups in a history: what is restored elsewhere is what the store shows at that moment, and the store does not
//! notice.

use std::path::Path;
use std::sync::Arc;

use oncelog::disk::{Disk, MemoryDisk};
use oncelog::{BackupTarget, RestoreOptions, StoreOptions};

use super::ops::Done;
use super::ops_readers::is_readers_sync;
use super::world::{World, same_but_for_holes};
use crate::observe::observe;

impl World {
    /// A backup of the store as it is, of which another store is made, on disks that do not fail.
    pub(super) fn back_up(&mut self) -> Done {
        self.reconcile()?;
        let elsewhere: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let told = |error: oncelog::Error| format!("a backup: {error:?}");
        let target = BackupTarget::dir_on(Arc::clone(&elsewhere), "/t").map_err(told)?;
        let crashes = self.outcome.crashes;
        let made = self.store()?.backup(&target);
        if let Err(error) = made {
            let is_told = self.outcome.crashes > crashes || (!self.disk.is_dead() && is_readers_sync(&error));
            return if is_told { Ok(()) } else { self.unreadable(&error) };
        }
        let options = RestoreOptions::new().disk(Arc::clone(&elsewhere)).clock(Arc::clone(&self.clock) as _);
        options.restore(&target, "/r").map_err(told)?;
        let options = StoreOptions::new().disk(elsewhere).clock(Arc::clone(&self.clock) as _).seed(1).manual_duties();
        let restored = options.open(Path::new("/r")).map_err(told)?;
        let seen = observe(&restored).map_err(told)?;
        if same_but_for_holes(&self.certain, &seen) {
            Ok(())
        } else {
            Err(format!("what is there / what is restored: {}", self.certain.difference(&seen)))
        }
    }
}
