//! Calls on paths.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oncelog::disk::{FileIdentity, MapAccess, OpenMode, SyncSite};

use super::{Call, Handle, Ino, World};
use crate::disk::map::SimMap;
use crate::disk::trace::hash_path;
use crate::disk::tree::Place;

impl World {
    pub(in crate::disk) fn open(&mut self, path: &Path, mode: OpenMode) -> io::Result<Handle> {
        let writes = mode != OpenMode::Read;
        let creates = matches!(mode, OpenMode::Create | OpenMode::CreateNew)
            && self.tree.place(path).is_ok_and(|place| place.is_some_and(|place| self.tree.at(&place).is_none()));
        let call = if creates { Call::Create } else { Call::Open { writes } };
        let ino = self.call(call, &[hash_path(path)], |world| {
            if creates {
                let place = world.place(path)?;
                return Ok(world.tree.create_file(world.now(), place));
            }
            if let OpenMode::CreateNew = mode {
                world.tree.find(path)?;
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let ino = world.tree.find(path)?;
            world.tree.file(ino).map(|_| ino)
        })?;
        self.tree.file_mut(ino)?.handles += 1;
        self.next_handle += 1;
        Ok(Handle { ino, id: self.next_handle, generation: self.generation, writes })
    }

    pub(in crate::disk) fn map_shared(
        &mut self,
        path: &Path,
        words: usize,
        access: MapAccess,
    ) -> io::Result<Arc<SimMap>> {
        let call = Call::Open { writes: access == MapAccess::Write };
        let ino = self.call(call, &[hash_path(path), words as u64], |world| {
            let ino = world.tree.find(path)?;
            if world.tree.file(ino)?.inode.len() < words * 8 {
                return Err(io::ErrorKind::InvalidData.into());
            }
            Ok(ino)
        })?;
        let map = self.maps.entry(ino).or_insert_with(|| Arc::new(SimMap::new(words)));
        Ok(Arc::clone(map))
    }

    pub(in crate::disk) fn list(&mut self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        self.call(Call::List, &[hash_path(path)], |world| {
            let dir = world.tree.find(path)?;
            paths.extend(world.tree.names(dir)?.map(|(name, _)| path.join(name)));
            Ok(paths.len() as u64)
        })?;
        Ok(paths)
    }

    pub(in crate::disk) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let done = self.call(Call::Rename, &[hash_path(from), hash_path(to)], |world| {
            let (from, to) = (world.place(from)?, world.place(to)?);
            world.tree.rename(world.now(), from, to).map(|()| 0)
        });
        done.map(drop)
    }

    pub(in crate::disk) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let done = self.call(Call::Remove, &[hash_path(path)], |world| {
            let place = world.place(path)?;
            world.tree.remove_file(world.now(), place).map(|()| 0)
        });
        done.map(drop)
    }

    pub(in crate::disk) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let done = self.call(Call::CreateDir, &[hash_path(path)], |world| {
            let place = world.tree.place(path)?.ok_or(io::ErrorKind::AlreadyExists)?;
            if world.tree.at(&place).is_some() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            Ok(world.tree.create_dir(world.now(), place))
        });
        done.map(drop)
    }

    pub(in crate::disk) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        let done = self.call(Call::RemoveDir, &[hash_path(path)], |world| {
            let place = world.place(path)?;
            world.tree.remove_dir(world.now(), place).map(|()| 0)
        });
        done.map(drop)
    }

    pub(in crate::disk) fn identity(&mut self, path: &Path) -> io::Result<FileIdentity> {
        let inode = self.call(Call::Identify, &[hash_path(path)], |world| world.tree.find(path))?;
        Ok(FileIdentity { device: 0, inode })
    }

    pub(in crate::disk) fn sync_dir(&mut self, path: &Path, site: SyncSite) -> io::Result<()> {
        let before = self.faults.dead;
        let done = self.call(Call::SyncDir(site), &[hash_path(path)], |world| {
            let dir = world.dir(path)?;
            world.tree.sync_dir(dir);
            Ok(0)
        });
        match (&done, self.dir(path)) {
            (Ok(_), Ok(dir)) => self.synced(dir, site),
            (Err(_), Ok(dir)) if !before && !self.faults.dead => {
                let plan = self.plan_of_failed_sync();
                self.tree.fail_sync_dir(dir, &plan);
            }
            _ => {}
        }
        done.map(drop)
    }

    fn dir(&self, path: &Path) -> io::Result<Ino> {
        let dir = self.tree.find(path)?;
        if self.tree.is_dir(dir) { Ok(dir) } else { Err(io::ErrorKind::NotADirectory.into()) }
    }

    /// The place of a path that must not be the root.
    fn place(&self, path: &Path) -> io::Result<Place> {
        self.tree.place(path)?.ok_or_else(|| io::ErrorKind::IsADirectory.into())
    }
}
