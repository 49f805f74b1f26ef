//! The names: directories as the process sees them, and as the disk holds them.
//!
//! Every change of names is one [`Change`] in a log until the directory is synced: made (`to`), removed (`from`), or
//! renamed (both, and atomic also between directories). A power cut applies a subset of the log to the durable names,
//! and what cannot be reached from the root then is gone.
//!
//! Invariants: a node has at most one cached and one durable name (there are no hard links); `home` and `durable_home`
//! are the inverse of the entries of directories; a directory that the log and `diverged` do not name is the same in
//! the cache and on the disk.

mod durable;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

use super::inode::Inode;
use super::survival::{Plan, Time};

/// Number of a file or directory; never given out twice on one disk.
pub(super) type Ino = u64;

pub(super) const ROOT: Ino = 1;

/// A name in a directory.
pub(super) type Place = (Ino, OsString);

/// All files and directories.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: BTreeMap<Ino, Node>,
    log: Vec<Change>,
    /// Directories whose sync failed: they differ from the disk although the log says nothing of it.
    diverged: BTreeSet<Ino>,
    next: Ino,
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    home: Option<Place>,
    durable_home: Option<Place>,
}

#[derive(Clone, Debug)]
enum Body {
    File(Box<File>),
    Dir(Dir),
}

/// A file, and who has it open.
#[derive(Clone, Debug, Default)]
pub(super) struct File {
    pub(super) inode: Inode,
    /// The handle that holds the advisory lock.
    pub(super) lock: Option<u64>,
    pub(super) handles: u64,
}

#[derive(Clone, Debug, Default)]
struct Dir {
    entries: BTreeMap<OsString, Ino>,
    durable: BTreeMap<OsString, Ino>,
}

/// An unsynced change of names.
#[derive(Clone, Debug)]
struct Change {
    time: Time,
    ino: Ino,
    from: Option<Place>,
    to: Option<Place>,
}

impl Change {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }

    fn dirs(&self) -> impl Iterator<Item = Ino> {
        self.places().map(|(dir, _)| *dir)
    }
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node { body: Body::Dir(Dir::default()), home: None, durable_home: None };
        Tree { nodes: BTreeMap::from([(ROOT, root)]), log: Vec::new(), diverged: BTreeSet::new(), next: ROOT + 1 }
    }
}

/// Looking.
impl Tree {
    /// What `path` names. Absolute and relative paths both start at the one root.
    pub(super) fn find(&self, path: &Path) -> io::Result<Ino> {
        self.walk(&names(path)?)
    }

    /// The directory that holds `path`, and its name there. `None` for the root.
    pub(super) fn place(&self, path: &Path) -> io::Result<Option<Place>> {
        let names = names(path)?;
        let Some((name, dirs)) = names.split_last() else { return Ok(None) };
        let dir = self.walk(dirs)?;
        self.dir(dir)?;
        Ok(Some((dir, name.to_os_string())))
    }

    fn walk(&self, names: &[&OsStr]) -> io::Result<Ino> {
        names.iter().try_fold(ROOT, |dir, name| {
            self.dir(dir)?.entries.get(*name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    pub(super) fn at(&self, place: &Place) -> Option<Ino> {
        self.dir(place.0).ok()?.entries.get(&place.1).copied()
    }

    pub(super) fn is_dir(&self, ino: Ino) -> bool {
        self.dir(ino).is_ok()
    }

    pub(super) fn names(&self, dir: Ino) -> io::Result<impl Iterator<Item = (&OsString, Ino)>> {
        Ok(self.dir(dir)?.entries.iter().map(|(name, ino)| (name, *ino)))
    }

    pub(super) fn file(&self, ino: Ino) -> io::Result<&File> {
        match self.nodes.get(&ino).map(|node| &node.body) {
            Some(Body::File(file)) => Ok(file),
            Some(Body::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    pub(super) fn file_mut(&mut self, ino: Ino) -> io::Result<&mut File> {
        match self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            Some(Body::File(file)) => Ok(file),
            Some(Body::Dir(_)) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Whether the process sees a name for `ino`.
    pub(super) fn is_named(&self, ino: Ino) -> bool {
        self.nodes.get(&ino).is_some_and(|node| node.home.is_some())
    }

    /// Files that have a name, with their paths, in the order of the paths.
    pub(super) fn paths(&self) -> Vec<(PathBuf, Ino)> {
        let mut found = self.all_paths();
        found.retain(|(_, ino)| !self.is_dir(*ino));
        found
    }

    /// As [`Tree::paths`], directories too.
    pub(super) fn all_paths(&self) -> Vec<(PathBuf, Ino)> {
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, ino)) = open.pop() {
            if let Ok(dir) = self.dir(ino) {
                open.extend(dir.entries.iter().map(|(name, ino)| (path.join(name), *ino)));
            }
            found.push((path, ino));
        }
        found.sort();
        found
    }

    /// Bytes taken by all files that have a name.
    pub(super) fn bytes_used(&self) -> u64 {
        let named = self.nodes.values().filter(|node| node.home.is_some());
        named.map(|node| if let Body::File(file) = &node.body { file.inode.charge() as u64 } else { 0 }).sum()
    }

    /// The time of the first operation that is not synced.
    pub(super) fn unsynced_since(&self) -> Option<Time> {
        let files = self.nodes.values().filter_map(|node| match &node.body {
            Body::File(file) => file.inode.unsynced_since(),
            Body::Dir(_) => None,
        });
        files.chain(self.log.first().map(|change| change.time)).min()
    }

    fn dir(&self, ino: Ino) -> io::Result<&Dir> {
        match self.nodes.get(&ino).map(|node| &node.body) {
            Some(Body::Dir(dir)) => Ok(dir),
            Some(Body::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn dir_mut(&mut self, ino: Ino) -> &mut Dir {
        match self.nodes.get_mut(&ino).map(|node| &mut node.body) {
            Some(Body::Dir(dir)) => dir,
            _ => unreachable!("a place is made of a directory, and directories live until a power cut"),
        }
    }
}

/// Changing names, in the cache and the log.
impl Tree {
    pub(super) fn create_file(&mut self, time: Time, place: Place) -> Ino {
        self.create(time, place, Body::File(Box::default()))
    }

    pub(super) fn create_dir(&mut self, time: Time, place: Place) -> Ino {
        self.create(time, place, Body::Dir(Dir::default()))
    }

    fn create(&mut self, time: Time, place: Place, body: Body) -> Ino {
        let ino = self.next;
        self.next += 1;
        self.nodes.insert(ino, Node { body, home: None, durable_home: None });
        self.change(Change { time, ino, from: None, to: Some(place) });
        ino
    }

    /// Renames `from` to `to`, with the errors of rename(2).
    pub(super) fn rename(&mut self, time: Time, from: Place, to: Place) -> io::Result<()> {
        let ino = self.at(&from).ok_or(io::ErrorKind::NotFound)?;
        match self.at(&to) {
            Some(target) if target == ino => return Ok(()),
            Some(target) => self.may_replace(ino, target)?,
            None => {}
        }
        if self.is_inside(to.0, ino) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.change(Change { time, ino, from: Some(from), to: Some(to) });
        Ok(())
    }

    /// Takes the name away from a file.
    pub(super) fn remove_file(&mut self, time: Time, place: Place) -> io::Result<()> {
        let ino = self.at(&place).ok_or(io::ErrorKind::NotFound)?;
        self.file(ino)?;
        self.change(Change { time, ino, from: Some(place), to: None });
        Ok(())
    }

    /// Takes the name away from an empty directory.
    pub(super) fn remove_dir(&mut self, time: Time, place: Place) -> io::Result<()> {
        let ino = self.at(&place).ok_or(io::ErrorKind::NotFound)?;
        if !self.dir(ino)?.entries.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.change(Change { time, ino, from: Some(place), to: None });
        Ok(())
    }

    fn may_replace(&self, ino: Ino, target: Ino) -> io::Result<()> {
        match (self.dir(ino), self.dir(target)) {
            (Err(_), Err(_)) => Ok(()),
            (Err(_), Ok(_)) => Err(io::ErrorKind::IsADirectory.into()),
            (Ok(_), Err(_)) => Err(io::ErrorKind::NotADirectory.into()),
            (Ok(_), Ok(target)) if target.entries.is_empty() => Ok(()),
            (Ok(_), Ok(_)) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
        }
    }

    fn is_inside(&self, mut dir: Ino, ancestor: Ino) -> bool {
        while dir != ancestor {
            match self.nodes.get(&dir).and_then(|node| node.home.as_ref()) {
                Some((parent, _)) => dir = *parent,
                None => return false,
            }
        }
        true
    }

    fn change(&mut self, change: Change) {
        if let Some((dir, name)) = &change.from {
            self.dir_mut(*dir).entries.remove(name);
        }
        let replaced = change.to.as_ref().and_then(|(dir, name)| {
            let entries = &mut self.dir_mut(*dir).entries;
            entries.insert(name.clone(), change.ino)
        });
        for (ino, home) in [(replaced, None), (Some(change.ino), change.to.clone())] {
            if let Some(node) = ino.and_then(|ino| self.nodes.get_mut(&ino)) {
                node.home = home;
            }
        }
        self.log.push(change);
    }
}

/// The names of a path from the root down. `..` is refused: no file system path of a store needs it.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::ParentDir => return Err(io::ErrorKind::InvalidInput.into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(names)
}
