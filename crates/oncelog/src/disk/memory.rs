//! A disk in memory, for stores that live as long as the process: `Store::in_memory` and the tests of users.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, SharedMap, SyncSite};
use crate::wake::plain::{AtomicBool, Mutex, RwLock};
use crate::wake::{self, Arc, AtomicU64, Condvar, Ordering};

/// Files and directories in memory. Everything is gone with the last handle.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    tree: Mutex<Tree>,
}

#[derive(Debug, Default)]
struct Tree {
    files: BTreeMap<PathBuf, Arc<Content>>,
    dirs: BTreeSet<PathBuf>,
    /// Files made so far.
    made: u64,
}

#[derive(Debug, Default)]
struct Content {
    bytes: RwLock<Vec<u8>>,
    locked: AtomicBool,
    identity: FileIdentity,
    map: Mutex<Option<Arc<MemoryMap>>>,
}

/// Words that all threads of the process share, beside the bytes of their file.
#[derive(Debug)]
struct MemoryMap {
    words: Box<[AtomicU64]>,
    waiting: wake::Mutex<()>,
    woken: Condvar,
}

struct MemoryFile {
    content: Arc<Content>,
    holds_lock: AtomicBool,
}

impl Tree {
    fn has_dir(&self, dir: &Path) -> bool {
        dir.as_os_str().is_empty() || dir.parent().is_none() || self.dirs.contains(dir)
    }

    fn has_parent_of(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if !self.has_dir(parent) => Err(io::ErrorKind::NotFound.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for MemoryDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut tree = self.tree.lock();
        let content = match (tree.files.get(path), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => Arc::clone(content),
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                tree.has_parent_of(path)?;
                tree.made += 1;
                let identity = FileIdentity { device: 0, inode: tree.made };
                let content = Arc::new(Content { identity, ..Content::default() });
                tree.files.insert(path.to_owned(), Arc::clone(&content));
                content
            }
        };
        Ok(Box::new(MemoryFile { content, holds_lock: AtomicBool::new(false) }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let tree = self.tree.lock();
        if !tree.has_dir(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(tree.files.keys().chain(&tree.dirs).filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.has_parent_of(to)?;
        let content = tree.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        tree.files.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.tree.lock().files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.has_parent_of(dir)?;
        if tree.files.contains_key(dir) || !tree.dirs.insert(dir.to_owned()) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let full = tree.files.keys().chain(&tree.dirs).any(|path| path.parent() == Some(dir));
        if full {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        if tree.dirs.remove(dir) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        let tree = self.tree.lock();
        match tree.files.get(path) {
            Some(content) => Ok(content.identity),
            None if tree.has_dir(path) => Ok(FileIdentity::default()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_dir(&self, _dir: &Path, _site: SyncSite) -> io::Result<()> {
        Ok(())
    }

    fn map_shared(&self, path: &Path, words: usize, _access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        let content = self.tree.lock().files.get(path).cloned().ok_or(io::ErrorKind::NotFound)?;
        if content.bytes.read().len() < words * size_of::<u64>() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut map = content.map.lock();
        let made = || {
            let words = (0..words).map(|_| AtomicU64::new(0)).collect();
            Arc::new(MemoryMap { words, waiting: wake::Mutex::new(()), woken: Condvar::new() })
        };
        let map: &Arc<MemoryMap> = map.get_or_insert_with(made);
        if map.words.len() < words { Err(io::ErrorKind::InvalidData.into()) } else { Ok(Arc::clone(map) as _) }
    }

    fn boot_id(&self) -> u128 {
        1
    }
}

impl SharedMap for MemoryMap {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn access(&self) -> MapAccess {
        MapAccess::Write
    }

    fn wait(&self, word: usize, seen: u32, limit: Duration) {
        let guard = self.waiting.lock();
        let now = self.words.get(word).map(|word| word.load(Ordering::SeqCst));
        if now.is_some_and(|now| now & u64::from(u32::MAX) == u64::from(seen)) {
            drop(self.woken.wait_timeout(guard, limit));
        }
    }

    fn wake(&self, _word: usize) {
        drop(self.waiting.lock());
        self.woken.notify_all();
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let bytes = self.content.bytes.read();
        let start = usize::try_from(position).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&self, new: &[u8], position: u64) -> io::Result<usize> {
        let start = usize::try_from(position).map_err(io::Error::other)?;
        let mut bytes = self.content.bytes.write();
        let end = start + new.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(new);
        Ok(new.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.bytes.read().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.content.bytes.write().resize(len, 0);
        Ok(())
    }

    fn preallocate(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _site: SyncSite) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        let taken = !self.content.locked.swap(true, Ordering::SeqCst);
        self.holds_lock.fetch_or(taken, Ordering::SeqCst);
        Ok(taken)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(self.content.identity)
    }

    fn is_locked(&self) -> io::Result<bool> {
        Ok(self.content.locked.load(Ordering::SeqCst) && !self.holds_lock.load(Ordering::SeqCst))
    }
}

impl Drop for MemoryFile {
    fn drop(&mut self) {
        if self.holds_lock.load(Ordering::SeqCst) {
            self.content.locked.store(false, Ordering::SeqCst);
        }
    }
}
