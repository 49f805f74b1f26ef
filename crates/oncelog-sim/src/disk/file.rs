//! An open file: a handle on the shared [`World`], dead after the next crash.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oncelog::disk::{DiskFile, FileIdentity, SyncSite};

use super::world::{Handle, World};

pub(super) struct SimFile {
    world: Arc<Mutex<World>>,
    handle: Handle,
}

impl SimFile {
    pub(super) fn new(world: Arc<Mutex<World>>, handle: Handle) -> Self {
        SimFile { world, handle }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.world().read(self.handle, buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.world().write(self.handle, bytes, position)
    }

    fn len(&self) -> io::Result<u64> {
        self.world().len(self.handle)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.world().set_len(self.handle, len)
    }

    fn preallocate(&self, end: u64) -> io::Result<()> {
        self.world().preallocate(self.handle, end)
    }

    fn sync(&self, site: SyncSite) -> io::Result<()> {
        self.world().sync(self.handle, site)
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.world().try_lock(self.handle)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.world().identity_of(self.handle)
    }

    fn is_locked(&self) -> io::Result<bool> {
        self.world().is_locked(self.handle)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.world().close(self.handle);
    }
}
