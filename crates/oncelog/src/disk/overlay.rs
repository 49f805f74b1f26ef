//! A disk over another one that is only read: what is written stays in memory and is gone with it. So a reader can go
//! through a recovery, and see what it would show, without touching the store.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::{Disk, DiskFile, FileIdentity, MapAccess, OpenMode, SharedMap, SyncSite};
use crate::wake::{Arc, Mutex};

const PAGE_BYTES: u64 = 4096;

/// See the module. Locks are free for everybody here, and syncs do nothing.
pub(crate) struct OverlayDisk {
    under: Arc<dyn Disk>,
    layer: Mutex<Layer>,
}

/// What differs from the disk beneath.
#[derive(Default)]
struct Layer {
    /// Files that were opened or made here; `None`: removed.
    files: BTreeMap<PathBuf, Option<Arc<Content>>>,
    dirs: BTreeSet<PathBuf>,
}

/// A file as it is seen here.
struct Content {
    /// Where its first bytes are, if any are beneath.
    source: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    len: u64,
    /// So much of the source still shows, where no page hides it.
    shows: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

struct OverlayFile {
    content: Arc<Content>,
    /// Open as long as this handle is.
    source: Option<Box<dyn DiskFile>>,
    writes: bool,
}

impl OverlayDisk {
    /// Nothing differs yet.
    pub(crate) fn over(under: Arc<dyn Disk>) -> OverlayDisk {
        OverlayDisk { under, layer: Mutex::default() }
    }

    fn found_beneath(&self, path: &Path) -> io::Result<Option<u64>> {
        match self.under.open(path, OpenMode::Read) {
            Ok(file) => file.len().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The file of that name, as it is seen here.
    fn find(&self, layer: &mut Layer, path: &Path) -> io::Result<Option<Arc<Content>>> {
        if let Some(known) = layer.files.get(path) {
            return Ok(known.clone());
        }
        let Some(len) = self.found_beneath(path)? else { return Ok(None) };
        let state = Mutex::new(State { len, shows: len, pages: BTreeMap::new() });
        let content = Arc::new(Content { source: Some(path.to_owned()), state });
        layer.files.insert(path.to_owned(), Some(Arc::clone(&content)));
        Ok(Some(content))
    }
}

impl Disk for OverlayDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut layer = self.layer.lock();
        let content = match (self.find(&mut layer, path)?, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content,
            (None, OpenMode::Read | OpenMode::Write) => return Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::Create | OpenMode::CreateNew) => {
                let state = Mutex::new(State { len: 0, shows: 0, pages: BTreeMap::new() });
                let content = Arc::new(Content { source: None, state });
                layer.files.insert(path.to_owned(), Some(Arc::clone(&content)));
                content
            }
        };
        drop(layer);
        let source = content.source.as_deref().map(|source| self.under.open(source, OpenMode::Read)).transpose()?;
        Ok(Box::new(OverlayFile { content, source, writes: mode != OpenMode::Read }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let layer = self.layer.lock();
        let mut names: BTreeSet<PathBuf> = match self.under.list(dir) {
            Ok(names) => names.into_iter().collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound && layer.dirs.contains(dir) => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        for (path, content) in layer.files.iter().filter(|(path, _)| path.parent() == Some(dir)) {
            if content.is_some() {
                names.insert(path.clone())
            } else {
                names.remove(path)
            };
        }
        names.extend(layer.dirs.iter().filter(|path| path.parent() == Some(dir)).cloned());
        Ok(names.into_iter().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut layer = self.layer.lock();
        let content = self.find(&mut layer, from)?.ok_or(io::ErrorKind::NotFound)?;
        layer.files.insert(from.to_owned(), None);
        layer.files.insert(to.to_owned(), Some(content));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut layer = self.layer.lock();
        self.find(&mut layer, path)?.ok_or(io::ErrorKind::NotFound)?;
        layer.files.insert(path.to_owned(), None);
        Ok(())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut layer = self.layer.lock();
        let there = self.under.list(dir).is_ok();
        if there || !layer.dirs.insert(dir.to_owned()) { Err(io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        // One that is beneath stays: nobody here misses the space.
        self.layer.lock().dirs.remove(dir);
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path, _site: SyncSite) -> io::Result<()> {
        Ok(())
    }

    /// That of the file beneath; files that are made here have none.
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        match self.find(&mut self.layer.lock(), path)? {
            Some(content) => {
                content.source.as_deref().map_or(Ok(FileIdentity::default()), |at| self.under.identity(at))
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn boot_id(&self) -> u128 {
        self.under.boot_id()
    }

    /// Only to look at what others share.
    fn map_shared(&self, path: &Path, words: usize, access: MapAccess) -> io::Result<Arc<dyn SharedMap>> {
        match access {
            MapAccess::Read => self.under.map_shared(path, words, access),
            // Whoever only reads is content with less.
            MapAccess::Write => Err(io::ErrorKind::PermissionDenied.into()),
        }
    }
}

impl OverlayFile {
    /// The page as it is seen, zeros behind what shows of the source.
    fn page(&self, state: &State, number: u64) -> io::Result<Box<[u8]>> {
        if let Some(page) = state.pages.get(&number) {
            return Ok(page.clone());
        }
        let start = number * PAGE_BYTES;
        let mut page = vec![0; door(PAGE_BYTES)?];
        if let Some(source) = &self.source
            && start < state.shows
        {
            let shown = door((state.shows - start).min(PAGE_BYTES))?;
            source.read_full_at(&mut page[..shown], start)?;
        }
        Ok(page.into_boxed_slice())
    }
}

fn door(number: u64) -> io::Result<usize> {
    usize::try_from(number).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl DiskFile for OverlayFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.content.state.lock();
        let wanted = door(state.len.saturating_sub(position).min(buffer.len() as u64))?;
        if wanted == 0 {
            return Ok(0);
        }
        // In one go where nothing was written over.
        let (first, last) = (position / PAGE_BYTES, (position + wanted as u64 - 1) / PAGE_BYTES);
        let plain = position + wanted as u64 <= state.shows && state.pages.range(first..=last).next().is_none();
        if let (true, Some(source)) = (plain, &self.source) {
            return source.read_at(&mut buffer[..wanted], position);
        }
        let within = door(position % PAGE_BYTES)?;
        let page = self.page(&state, first)?;
        let count = wanted.min(page.len() - within);
        buffer[..count].copy_from_slice(&page[within..within + count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        if !self.writes {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.content.state.lock();
        let (number, within) = (position / PAGE_BYTES, door(position % PAGE_BYTES)?);
        let mut page = self.page(&state, number)?;
        let count = bytes.len().min(page.len() - within);
        page[within..within + count].copy_from_slice(&bytes[..count]);
        state.pages.insert(number, page);
        state.len = state.len.max(position + count as u64);
        Ok(count)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.state.lock().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.writes {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut state = self.content.state.lock();
        if len < state.len {
            let _ = state.pages.split_off(&len.div_ceil(PAGE_BYTES));
            if let Some(page) = state.pages.get_mut(&(len / PAGE_BYTES)) {
                page[door(len % PAGE_BYTES)?..].fill(0);
            }
            state.shows = state.shows.min(len);
        }
        state.len = len;
        Ok(())
    }

    fn preallocate(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, _site: SyncSite) -> io::Result<()> {
        Ok(())
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    /// That of the file beneath: other owners live there, whoever this layer is for.
    fn is_locked(&self) -> io::Result<bool> {
        self.source.as_ref().map_or(Ok(false), |source| source.is_locked())
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        self.source.as_ref().map_or(Ok(FileIdentity::default()), |source| source.identity())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::disk::MemoryDisk;

    /// One change of a file.
    #[derive(Clone, Debug)]
    enum Change {
        Write(u64, Vec<u8>),
        Cut(u64),
    }

    fn changes() -> impl Strategy<Value = Vec<Change>> {
        let write = (0..20_000u64, prop::collection::vec(any::<u8>(), 1..6000));
        let one = prop_oneof![
            3 => write.prop_map(|(position, bytes)| Change::Write(position, bytes)),
            1 => (0..20_000u64).prop_map(Change::Cut),
        ];
        prop::collection::vec(one, 0..12)
    }

    fn change(file: &dyn DiskFile, change: &Change) {
        match change {
            Change::Write(position, bytes) => file.write_all_at(bytes, *position).unwrap(),
            Change::Cut(len) => file.set_len(*len).unwrap(),
        }
    }

    proptest! {
        /// What is seen over a file is what a copy of it would show, and the file stays as it was.
        #[test]
        fn a_file_looks_changed_and_is_not(before in changes(), after in changes()) {
            let (real, copy) = (Arc::new(MemoryDisk::default()), MemoryDisk::default());
            let path = Path::new("/f");
            let (beneath, twin) =
                (real.open(path, OpenMode::Create).unwrap(), copy.open(path, OpenMode::Create).unwrap());
            for step in &before {
                change(&*beneath, step);
                change(&*twin, step);
            }
            let untouched = beneath.read_whole(1 << 20).unwrap();
            let overlay = OverlayDisk::over(Arc::clone(&real) as Arc<dyn Disk>);
            let over = overlay.open(path, OpenMode::Write).unwrap();
            for step in &after {
                change(&*over, step);
                change(&*twin, step);
                prop_assert_eq!(over.read_whole(1 << 20).unwrap(), twin.read_whole(1 << 20).unwrap());
            }
            prop_assert_eq!(beneath.read_whole(1 << 20).unwrap(), untouched);
            // Another handle sees the same.
            let again = overlay.open(path, OpenMode::Read).unwrap();
            prop_assert_eq!(again.read_whole(1 << 20).unwrap(), twin.read_whole(1 << 20).unwrap());
        }
    }

    #[test]
    fn names_are_made_and_removed_here_only() {
        let real = Arc::new(MemoryDisk::default());
        real.create_dir(Path::new("/d")).unwrap();
        real.open(Path::new("/d/old"), OpenMode::Create).unwrap();
        let overlay = OverlayDisk::over(Arc::clone(&real) as Arc<dyn Disk>);
        let names = || {
            let found = overlay.list(Path::new("/d")).unwrap();
            found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        overlay.open(Path::new("/d/new"), OpenMode::CreateNew).unwrap();
        overlay.create_dir(Path::new("/d/sub")).unwrap();
        assert_eq!(names(), ["new", "old", "sub"]);
        let taken = overlay.open(Path::new("/d/old"), OpenMode::CreateNew).map(drop).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        overlay.rename(Path::new("/d/old"), Path::new("/d/renamed")).unwrap();
        overlay.remove(Path::new("/d/new")).unwrap();
        assert_eq!(names(), ["renamed", "sub"]);
        let gone = overlay.open(Path::new("/d/old"), OpenMode::Read).map(drop).unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        assert_eq!(real.list(Path::new("/d")).unwrap(), [Path::new("/d/old")]);
    }
}
