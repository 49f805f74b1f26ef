//! The disk from outside: looking at files, and damaging them, behind the back of whoever uses them. None of this is
//! counted, traced, or subject to faults, and it works on a stopped machine.
//!
//! What is changed is changed on the disk: it is durable. To change names or whole contents, the names around them are
//! made durable first; meant for a disk at rest, best a fresh [`copy_tree`](SimDisk::copy_tree).

use std::io;
use std::path::{Path, PathBuf};

use super::SimDisk;
use super::inode::Inode;
use super::pages::SECTOR;
use super::trace::{Trace, hash_path};
use super::tree::{Place, Tree};

/// Looking at files and damaging them.
impl SimDisk {
    /// The same names and bytes, cached and durable, on a disk of its own that nobody has open. It goes on with the
    /// same chance and the same properties, without waiting faults. Cheap: pages are shared until written.
    pub fn copy_tree(&self) -> SimDisk {
        SimDisk::of(self.world().copy())
    }

    /// All files with their lengths, by path from the root, in order.
    pub fn paths(&self) -> Vec<(PathBuf, u64)> {
        let world = self.world();
        let files = world.tree.paths().into_iter();
        files.filter_map(|(path, ino)| Some((path, world.tree.file(ino).ok()?.inode.len() as u64))).collect()
    }

    /// All names and bytes that are seen, and what space they take, in one number.
    pub fn image_hash(&self) -> u64 {
        let world = self.world();
        let mut trace = Trace::default();
        for (path, ino) in world.tree.all_paths() {
            let inode = world.tree.file(ino).map(|file| &file.inode).ok();
            trace.note(&[hash_path(&path), inode.map_or(u64::MAX, Inode::content_hash)]);
        }
        trace.hash()
    }

    /// What readers of a file see.
    ///
    /// # Errors
    /// `NotFound`, or `IsADirectory`.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let world = self.world();
        let inode = &world.tree.file(world.tree.find(path.as_ref())?)?.inode;
        let mut bytes = vec![0; inode.len()];
        inode.read(0, &mut bytes);
        Ok(bytes)
    }

    /// Makes a file of `bytes`, or gives one this content; missing directories too. All of it is durable.
    ///
    /// # Errors
    /// `IsADirectory` or `NotADirectory`, when `path` is in the way.
    pub fn write_file(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let tree = &mut self.world().tree;
        let place = make_dirs(tree, path.as_ref())?;
        let ino = tree.at(&place).unwrap_or_else(|| tree.create_file(0, place.clone()));
        tree.file_mut(ino)?.inode = Inode::with_content(bytes);
        tree.sync_dir(place.0);
        Ok(())
    }

    /// Flips bit `bit` (0 to 7) of byte `byte`, in what is read and in what is durable.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` past the end.
    pub fn flip_bit(&self, path: impl AsRef<Path>, byte: u64, bit: u8) -> io::Result<()> {
        self.damage(path.as_ref(), |inode| {
            let byte = within(inode, byte)?;
            inode.rot(byte, |value| *value ^= 1 << (bit % 8));
            Ok(())
        })
    }

    /// Zeroes sector `sector` (512 bytes, or what there is of them), in what is read and in what is durable.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` past the end.
    pub fn zero_sector(&self, path: impl AsRef<Path>, sector: u64) -> io::Result<()> {
        self.damage(path.as_ref(), |inode| {
            let start = within(inode, sector.saturating_mul(SECTOR as u64))?;
            let end = inode.len().min(start + SECTOR);
            (start..end).for_each(|byte| inode.rot(byte, |value| *value = 0));
            Ok(())
        })
    }

    /// Cuts or extends a file, and makes all of it durable.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn truncate(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.damage(path.as_ref(), |inode| {
            inode.set_len(0, len);
            inode.adopt_cache();
            Ok(())
        })
    }

    /// Takes a file away, durably.
    ///
    /// # Errors
    /// `NotFound`, or `IsADirectory`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let tree = &mut self.world().tree;
        let place = place(tree, path.as_ref())?;
        tree.remove_file(0, place.clone())?;
        tree.sync_dir(place.0);
        Ok(())
    }

    /// Renames a file or directory, durably, replacing what had the name.
    ///
    /// # Errors
    /// `NotFound`, and those of rename(2) when a directory is in the way.
    pub fn rename_file(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
        let tree = &mut self.world().tree;
        let (from, to) = (place(tree, from.as_ref())?, place(tree, to.as_ref())?);
        tree.rename(0, from.clone(), to.clone())?;
        tree.sync_dir(from.0);
        tree.sync_dir(to.0);
        Ok(())
    }

    fn damage(&self, path: &Path, damage: impl FnOnce(&mut Inode) -> io::Result<()>) -> io::Result<()> {
        let tree = &mut self.world().tree;
        let ino = tree.find(path)?;
        damage(&mut tree.file_mut(ino)?.inode)
    }
}

fn within(inode: &Inode, byte: u64) -> io::Result<usize> {
    let byte = usize::try_from(byte).ok().filter(|byte| *byte < inode.len());
    byte.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn place(tree: &Tree, path: &Path) -> io::Result<Place> {
    tree.place(path)?.ok_or_else(|| io::ErrorKind::IsADirectory.into())
}

/// Makes the directories above `path` that are missing, and all of them durable.
fn make_dirs(tree: &mut Tree, path: &Path) -> io::Result<Place> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for dir in above {
        let Some(place) = tree.place(dir)? else { continue };
        if tree.at(&place).is_none() {
            tree.create_dir(0, place.clone());
        }
        tree.sync_dir(place.0);
    }
    place(tree, path)
}
