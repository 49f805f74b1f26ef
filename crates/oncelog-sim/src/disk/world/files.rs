//! Calls on open files.

use std::io;
use std::path::Path;

use oncelog::disk::{FileIdentity, SyncSite};

use super::{Call, Handle, Ino, Verdict, World};
use crate::disk::faults::{dead, stale_handle};
use crate::disk::pages::SECTOR;
use crate::disk::trace::{hash_bytes, hash_path};

/// No simulated file is longer: a wild position must not become a wild allocation.
const FILE_BYTES_MAX: u64 = 1 << 36;

impl World {
    pub(in crate::disk) fn read(&mut self, handle: Handle, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.check(handle)?;
        let subject = [handle.ino, position, buffer.len() as u64];
        let count = self.call(Call::Read, &subject, |world| {
            let most = if world.faults.choppy { world.chop(buffer.len())? } else { buffer.len() };
            let Ok(position) = usize::try_from(position) else { return Ok(0) };
            let count = world.tree.file(handle.ino)?.inode.read(position, &mut buffer[..most]);
            Ok(count as u64)
        })?;
        let count = usize::try_from(count).map_err(io::Error::other)?;
        self.trace.note(&[hash_bytes(&buffer[..count])]);
        Ok(count)
    }

    /// Writes some of `bytes`. Unlike other calls, a write that the machine stops in may be done by half, at any byte.
    pub(in crate::disk) fn write(&mut self, handle: Handle, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.check_writes(handle)?;
        let start = door(position, bytes.len() as u64)?;
        let outcome = match self.admit(Call::Write) {
            Verdict::Go | Verdict::Pretend => self.write_some(handle.ino, bytes, start),
            Verdict::Fail(error) => Err(error),
            Verdict::Dead => Err(dead()),
            Verdict::Crash => {
                self.leave_maps();
                let count = self.torn_len(bytes.len(), start);
                let _done_and_not_told = self.write_some(handle.ino, &bytes[..count], start);
                Err(dead())
            }
        };
        self.trace.note(&[Call::Write.code(), handle.ino, position, hash_bytes(bytes)]);
        self.trace.note_outcome(&outcome);
        usize::try_from(outcome?).map_err(io::Error::other)
    }

    fn write_some(&mut self, ino: Ino, mut bytes: &[u8], start: usize) -> io::Result<u64> {
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.faults.choppy {
            bytes = &bytes[..self.chop(bytes.len())?];
        }
        let fits = self.fitting(ino, start, bytes.len())?;
        if fits < bytes.len() && (fits == 0 || self.dice.one_in(2)) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let now = self.now();
        self.tree.file_mut(ino)?.inode.write(now, start, &bytes[..fits]);
        Ok(fits as u64)
    }

    /// How much of a write the machine that stopped in it had done: nothing, or up to a sector, or up to any byte.
    fn torn_len(&mut self, len: usize, start: usize) -> usize {
        let part = self.dice.up_to(len);
        match self.dice.below(3) {
            0 => 0,
            1 => ((start + part) / SECTOR * SECTOR).saturating_sub(start),
            _ => part,
        }
    }

    pub(in crate::disk) fn len(&mut self, handle: Handle) -> io::Result<u64> {
        self.check(handle)?;
        self.call(Call::Len, &[handle.ino], |world| Ok(world.tree.file(handle.ino)?.inode.len() as u64))
    }

    pub(in crate::disk) fn set_len(&mut self, handle: Handle, len: u64) -> io::Result<()> {
        self.check_writes(handle)?;
        let end = door(len, 0)?;
        let done = self.call(Call::SetLen, &[handle.ino, len], |world| {
            world.require(handle.ino, end)?;
            let now = world.now();
            world.tree.file_mut(handle.ino)?.inode.set_len(now, end);
            Ok(0)
        });
        done.map(drop)
    }

    pub(in crate::disk) fn preallocate(&mut self, handle: Handle, len: u64) -> io::Result<()> {
        self.check_writes(handle)?;
        let end = door(len, 0)?;
        let done = self.call(Call::Preallocate, &[handle.ino, len], |world| {
            world.require(handle.ino, end)?;
            world.tree.file_mut(handle.ino)?.inode.preallocate(end);
            Ok(0)
        });
        done.map(drop)
    }

    pub(in crate::disk) fn sync(&mut self, handle: Handle, site: SyncSite) -> io::Result<()> {
        self.check(handle)?;
        let before = self.faults.dead;
        let done = self.call(Call::Sync(site), &[handle.ino], |world| {
            world.tree.file_mut(handle.ino)?.inode.sync();
            Ok(0)
        });
        if done.is_ok() {
            self.synced(handle.ino, site);
        } else if !before && !self.faults.dead {
            let (now, plan) = (self.now(), self.plan_of_failed_sync());
            self.tree.file_mut(handle.ino)?.inode.fail_sync(now, &plan.for_node(handle.ino));
        }
        done.map(drop)
    }

    pub(in crate::disk) fn try_lock(&mut self, handle: Handle) -> io::Result<bool> {
        self.check(handle)?;
        let taken = self.call(Call::Lock, &[handle.ino], |world| {
            let file = world.tree.file_mut(handle.ino)?;
            let holder = *file.lock.get_or_insert(handle.id);
            Ok(u64::from(holder == handle.id))
        })?;
        Ok(taken == 1)
    }

    pub(in crate::disk) fn identity_of(&mut self, handle: Handle) -> io::Result<FileIdentity> {
        self.check(handle)?;
        let inode = self.call(Call::Identify, &[handle.ino], |_| Ok(handle.ino))?;
        Ok(FileIdentity { device: 0, inode })
    }

    pub(in crate::disk) fn is_locked(&mut self, handle: Handle) -> io::Result<bool> {
        self.check(handle)?;
        let locked = self.call(Call::Lock, &[handle.ino], |world| {
            let holder = world.tree.file(handle.ino)?.lock;
            Ok(u64::from(holder.is_some_and(|holder| holder != handle.id)))
        })?;
        Ok(locked == 1)
    }

    pub(in crate::disk) fn close(&mut self, handle: Handle) {
        if handle.generation != self.generation {
            return;
        }
        if let Ok(file) = self.tree.file_mut(handle.ino) {
            file.handles -= 1;
            file.lock = file.lock.filter(|holder| *holder != handle.id);
            self.tree.free_if_lost(handle.ino);
        }
    }

    fn check(&self, handle: Handle) -> io::Result<()> {
        if handle.generation == self.generation { Ok(()) } else { Err(stale_handle()) }
    }

    fn check_writes(&self, handle: Handle) -> io::Result<()> {
        self.check(handle)?;
        if handle.writes { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    /// How much to do of what was asked: some, or nothing but `Interrupted`.
    fn chop(&mut self, len: usize) -> io::Result<usize> {
        match self.dice.below(4) {
            0 => Err(io::ErrorKind::Interrupted.into()),
            1 => Ok(len),
            _ => Ok(len.min(1 + self.dice.up_to(len))),
        }
    }

    /// How much of `len` bytes at `start` the capacity lets a file take.
    fn fitting(&self, ino: Ino, start: usize, len: usize) -> io::Result<usize> {
        let Some(end_max) = self.end_max(ino)? else { return Ok(len) };
        let room = end_max.saturating_sub(start as u64);
        Ok(usize::try_from(room).unwrap_or(usize::MAX).min(len))
    }

    /// `StorageFull` when the capacity does not let a file be `end` long.
    fn require(&self, ino: Ino, end: usize) -> io::Result<()> {
        match self.end_max(ino)? {
            Some(end_max) if end_max < end as u64 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    /// How long a file may get: what it has, and what is free.
    fn end_max(&self, ino: Ino) -> io::Result<Option<u64>> {
        let Some(free) = self.free().filter(|_| self.tree.is_named(ino)) else { return Ok(None) };
        Ok(Some(self.tree.file(ino)?.inode.charge() as u64 + free))
    }

    pub(in crate::disk) fn free_bytes(&mut self, dir: &Path) -> io::Result<Option<u64>> {
        self.call(Call::Room, &[hash_path(dir)], |world| {
            world.tree.find(dir)?;
            Ok(world.free().unwrap_or(u64::MAX))
        })?;
        Ok(self.free())
    }

    pub(in crate::disk) fn leave_room(&mut self, bytes: u64) {
        self.faults.capacity = Some(self.tree.bytes_used() + bytes);
    }

    fn free(&self) -> Option<u64> {
        self.faults.capacity.map(|capacity| capacity.saturating_sub(self.tree.bytes_used()))
    }
}

/// Checks a range at the door, so that nothing inside needs to think of overflow.
fn door(position: u64, len: u64) -> io::Result<usize> {
    match position.checked_add(len) {
        Some(end) if end <= FILE_BYTES_MAX => {
            usize::try_from(end).and(usize::try_from(position)).map_err(|_| io::ErrorKind::FileTooLarge.into())
        }
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    }
}
