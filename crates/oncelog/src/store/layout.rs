//! Where things are in a store directory, and how one comes to be.
//!
//! A directory is a store from the moment that the file `STORE` is there, which is put in its place last. Before, it
//! holds only what an interrupted making may leave, and the making starts over.

use std::io;
use std::path::{Path, PathBuf};

use super::manifest::ManifestFile;
use crate::chance::Chance;
use crate::codec::{CheckSite, Input, crc32c, same};
use crate::disk::{Disk, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, OwnerId, StoreId, escape_name};
use crate::journal::FileName;
use crate::table::TableFileName;

const MAGIC: [u8; 8] = *b"ONCELOG\0";
/// The format of the whole directory.
pub(super) const FORMAT: u32 = 1;
const SUMMED_BYTES: usize = 44;

/// The paths of a store and of one of its owners.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) dir: PathBuf,
    /// The owner's name.
    pub(super) name: String,
    pub(super) store_file: PathBuf,
    pub(super) owners: PathBuf,
    pub(super) owner: PathBuf,
    pub(super) manifest: PathBuf,
    pub(super) journal: PathBuf,
    pub(super) state: PathBuf,
    pub(super) aside: PathBuf,
    /// Frames that are to be archived.
    pub(super) archive: PathBuf,
    pub(super) page: PathBuf,
    pub(super) topics: PathBuf,
    /// Claims on names of tables and consumers; those on topics are with the topics.
    pub(super) tables: PathBuf,
    pub(super) consumers: PathBuf,
}

/// The owner that [`Store::open`](super::Store::open) takes, made with the store.
pub(super) const MAIN: &str = "main";

impl Layout {
    pub(super) fn of(dir: &Path, owner: &str) -> Layout {
        let owners = dir.join("owners");
        let owner_dir = owners.join(escape_name(owner));
        Layout {
            dir: dir.to_owned(),
            name: owner.to_owned(),
            store_file: dir.join("STORE"),
            manifest: owner_dir.join("MANIFEST"),
            journal: owner_dir.join("journal"),
            state: owner_dir.join("state"),
            aside: owner_dir.join("aside"),
            archive: owner_dir.join("archive"),
            page: owner_dir.join("page"),
            topics: dir.join("topics"),
            tables: dir.join("tables"),
            consumers: dir.join("consumers"),
            owners,
            owner: owner_dir,
        }
    }

    /// Makes the store if `dir` holds none.
    ///
    /// # Errors
    /// `Invalid`: `dir` is a file or holds something else; `Locked`: another process is making it.
    pub(super) fn ensure_store(&self, disk: &dyn Disk, chance: &Chance, may_create: bool) -> Result<()> {
        if let Err(error) = disk.list(&self.dir) {
            return match error.kind() {
                io::ErrorKind::NotFound if may_create => Layout::of(&self.dir, MAIN).create(disk, chance),
                io::ErrorKind::NotFound => Err(Error::new(ErrorKind::NotFound, "there is no store").in_file(&self.dir)),
                io::ErrorKind::NotADirectory => Err(self.is_a_file()),
                _ => Err(Error::io(&self.dir, "list the store", error)),
            };
        }
        let found = disk.list(&self.dir).map_err(|error| Error::io(&self.dir, "list the store", error))?;
        if found.contains(&self.store_file) {
            return Ok(());
        }
        if found.contains(&self.restoring_file()) {
            return Err(self.half_restored());
        }
        let ours = [&self.owners, &self.topics, &self.tables, &self.consumers, &self.new_store_file()];
        let is_ours = |path: &PathBuf| ours.contains(&path) || is_scratch(path);
        if let Some(foreign) = found.iter().find(|path| !is_ours(path)) {
            let what = "the directory is not a store and holds something else; name another or an empty one";
            return Err(Error::invalid(what).in_file(foreign));
        }
        if may_create {
            Layout::of(&self.dir, MAIN).create(disk, chance)
        } else {
            Err(Error::new(ErrorKind::NotFound, "there is no store").in_file(&self.dir))
        }
    }

    /// The directories that owners share, but for theirs.
    pub(super) fn shared_dirs(&self) -> [&PathBuf; 3] {
        [&self.topics, &self.tables, &self.consumers]
    }

    /// The directories that every owner has.
    pub(super) fn owner_dirs(&self) -> [&PathBuf; 3] {
        [&self.journal, &self.state, &self.aside]
    }

    fn new_store_file(&self) -> PathBuf {
        self.dir.join("STORE.new")
    }

    /// What stands for `STORE` while a backup is restored into the directory.
    pub(super) fn restoring_file(&self) -> PathBuf {
        self.dir.join("RESTORING")
    }

    /// For whoever restores it: the directory is a store to nobody else.
    pub(super) fn while_restoring(self) -> Layout {
        Layout { store_file: self.restoring_file(), ..self }
    }

    fn half_restored(&self) -> Error {
        let what = "a restore into this directory is under way or was not finished: restore again, or remove it";
        Error::invalid(what).in_file(&self.restoring_file())
    }

    /// Makes the store with its owner `main`, which this is the layout of.
    fn create(&self, disk: &dyn Disk, chance: &Chance) -> Result<()> {
        let mut made = Vec::new();
        self.create_in(disk, chance, &mut made).inspect_err(|_| {
            // A name whose sync has failed may stay seen and never become durable: away with what this attempt has
            // made, so that the next one makes it anew. Best effort; a directory that somebody uses is not empty and
            // stays.
            for dir in made.iter().rev() {
                let _ = disk.remove_dir(dir);
            }
        })
    }

    fn create_in(&self, disk: &dyn Disk, chance: &Chance, made: &mut Vec<PathBuf>) -> Result<()> {
        let doing = |error| Error::io(&self.dir, "make the store", error);
        make_dir_all(disk, &self.dir, made).map_err(doing)?;
        let of_owner = [&self.owners, &self.owner].into_iter().chain(self.owner_dirs());
        for dir in of_owner.chain(self.shared_dirs()) {
            match disk.create_dir(dir) {
                Ok(()) => made.push(dir.clone()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(dir, "make the store", error)),
            }
        }
        let mut manifest = ManifestFile::lock(disk, &self.manifest, OpenMode::Create)?;
        // Looked at under the lock: another process may have made the store meanwhile, or somebody removed STORE.
        let names = disk.list(&self.dir).map_err(doing)?;
        if names.contains(&self.store_file) {
            return Ok(());
        }
        if !disk.list(&self.journal).map_err(doing)?.is_empty() {
            return Err(Error::corrupt(&self.store_file, 0, "the file that makes this a store is gone"));
        }
        self.fill(disk, chance, &mut manifest).inspect_err(|_| {
            // Still under the lock, and there was no store: these files are of this attempt.
            for file in [&self.store_file, &self.new_store_file(), &self.manifest] {
                let _ = disk.remove(file);
            }
        })
    }

    fn fill(&self, disk: &dyn Disk, chance: &Chance, manifest: &mut ManifestFile) -> Result<()> {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&chance.next_u64().to_le_bytes());
        id[8..].copy_from_slice(&chance.next_u64().to_le_bytes());
        let store = StoreId(id);
        manifest.begin(store, MAIN, OwnerId(0))?;
        for dir in [&self.owner, &self.owners, &self.dir] {
            let synced = disk.sync_dir(dir, SyncSite::StoreDir);
            synced.map_err(|error| Error::sync(dir, "make the store", error))?;
        }
        self.write_store_file(disk, store, store)
    }

    /// Replaces the file: the old one or the new one has the name.
    pub(super) fn write_store_file(&self, disk: &dyn Disk, store: StoreId, identity: StoreId) -> Result<()> {
        let bytes = store_file_bytes(store, identity);
        let new = self.new_store_file();
        let written = disk.open(&new, OpenMode::Create).and_then(|file| {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)?;
            file.sync(SyncSite::StoreFile)?;
            disk.rename(&new, &self.store_file)?;
            disk.sync_dir(&self.dir, SyncSite::StoreDir)
        });
        written.map_err(|error| Error::io(&self.store_file, "make the store", error))
    }

    /// Makes the names of the store's own files and directories durable. A process that was killed may have made them
    /// and not synced: then they are seen and would still be lost with the power.
    pub(super) fn sync_names(&self, disk: &dyn Disk) -> Result<()> {
        for dir in [&self.owner, &self.owners, &self.dir] {
            disk.sync_dir(dir, SyncSite::StoreDir).map_err(|error| Error::io(dir, "sync the store", error))?;
        }
        sync_parent(disk, &self.dir).map_err(|error| Error::io(&self.dir, "sync the store", error))
    }

    /// Removes the files that the opening `epoch` has made, as far as that goes: nothing may name them yet. The
    /// directories that it has used are `partitions`. `shared` is the epoch of the table file that the manifest names,
    /// if somebody else may still write to it: see [`Inherits`](super::heir::Inherits).
    pub(super) fn remove_epoch(&self, disk: &dyn Disk, epoch: Epoch, shared: Option<Epoch>, partitions: &[PathBuf]) {
        let list = |dir: &Path| disk.list(dir).unwrap_or_default();
        let segments = partitions.iter().flat_map(|partition| list(partition));
        let (journal, state, aside) = (list(&self.journal), list(&self.state), list(&self.aside));
        let of_journal =
            journal.into_iter().filter(|path| FileName::of_path(path).is_some_and(|name| name.epoch == epoch));
        let (of_tables, others): (Vec<_>, Vec<_>) = state
            .into_iter()
            .filter_map(|path| Some((TableFileName::of_path(&path)?, path)))
            .partition(|(name, _)| name.epoch == epoch);
        // One newer than what the manifest names says that another may still live: one such name stays.
        let is_said = |named| others.iter().any(|(other, _)| other.epoch > named);
        let says_so = shared.is_some_and(|named| !is_said(named));
        for (_, path) in of_tables {
            let _ = if says_so {
                disk.open(&path, OpenMode::Write).and_then(|file| file.set_len(0))
            } else {
                disk.remove(&path)
            };
        }
        // NUMBER-EPOCH.segment, LSN-EPOCH.torn; what a repair has kept has names of its own.
        let named = format!("{:010}", epoch.0);
        let torn = aside.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "torn"));
        let of_others = segments.chain(torn).filter(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            stem.split('-').nth(1) == Some(&named)
        });
        for path in of_journal.chain(of_others) {
            let _ = disk.remove(&path);
        }
    }

    pub(super) fn is_a_file(&self) -> Error {
        Error::invalid("this is a file, a store is a directory").in_file(&self.dir)
    }

    /// What the store's files call it, and what it is called outside: another name once a copy was adopted. Checked.
    pub(super) fn read_identities(&self, disk: &dyn Disk) -> Result<(StoreId, StoreId)> {
        let path = &self.store_file;
        let file = disk.open(path, OpenMode::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => self.is_a_file(),
            io::ErrorKind::NotFound if disk.open(&self.restoring_file(), OpenMode::Read).is_ok() => {
                self.half_restored()
            }
            _ => Error::io(path, "open the store", error),
        })?;
        let bytes = file.read_whole(4096).map_err(|error| Error::io(path, "read the store", error))?;
        read_store_file(&bytes, path)
    }
}

/// What the bytes of the file that makes a directory a store say: what its files call it, and what it is called
/// outside.
///
/// # Errors
/// `Corrupt`, `UnsupportedVersion`, naming `path`.
pub(super) fn read_store_file(bytes: &[u8], path: &Path) -> Result<(StoreId, StoreId)> {
    let mut input = Input::new(bytes);
    let parsed = (|| {
        let (magic, format): ([u8; 8], u32) = (input.array()?, input.u32()?);
        Some((magic, format, StoreId(input.array()?), StoreId(input.array()?), input.u32()?))
    })();
    let damaged = || Error::corrupt(path, 0, "the file that makes this a store is damaged");
    let (magic, format, store, identity, sum) = parsed.ok_or_else(damaged)?;
    if magic != MAGIC || !input.is_empty() || !same(CheckSite::StoreFile, sum, crc32c(&bytes[..SUMMED_BYTES])) {
        return Err(damaged());
    }
    if format != FORMAT {
        let what = format!("the store has format {format}, this program knows {FORMAT}");
        return Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(path));
    }
    Ok((store, identity))
}

/// Whether these bytes are what a power cut may leave of [`store_file_bytes`] that were never synced.
pub(super) fn is_cut_store_file(bytes: &[u8]) -> bool {
    bytes.len() <= SUMMED_BYTES + 4 && (bytes.iter().all(|byte| *byte == 0) || bytes.starts_with(&MAGIC))
}

/// What is in `STORE`.
pub(super) fn store_file_bytes(store: StoreId, identity: StoreId) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&store.0);
    bytes.extend_from_slice(&identity.0);
    let sum = crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    bytes
}

/// Whether the command's `doctor` has made it and was killed before it could remove it.
fn is_scratch(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(".oncelog-"))
}

/// Makes `dir`, there or not.
pub(super) fn make_dir(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match disk.create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Makes `dir` with the directories above it, durably. Those that are there may have been made by a process that was
/// killed before its sync, so all the names on the way are synced all the same.
pub(super) fn make_dir_all(disk: &dyn Disk, dir: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_dir_all(disk, parent, made)?;
    }
    match disk.create_dir(dir) {
        Ok(()) => made.push(dir.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // Some file systems refuse before they look.
        Err(error) => return disk.list(dir).map(drop).map_err(|_| error),
    }
    match sync_parent(disk, dir) {
        // A directory above that cannot be opened is none that we have made.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    }
}

fn sync_parent(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => disk.sync_dir(parent, SyncSite::StoreDir),
        Some(_) => disk.sync_dir(Path::new("."), SyncSite::StoreDir),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    /// What a killed `doctor` has left is in nobody's way; other things are.
    #[test]
    fn a_store_is_made_beside_what_the_command_left() {
        let layout = Layout::of(Path::new("/s"), MAIN);
        let made = |name: &str| {
            let disk = MemoryDisk::default();
            disk.create_dir(&layout.dir).unwrap();
            disk.create_dir(&layout.dir.join(name)).unwrap();
            layout.ensure_store(&disk, &Chance::from_seed(7), true).map_err(|error| error.kind())
        };
        assert_eq!(made(".oncelog-doctor-Xy12"), Ok(()));
        assert_eq!(made("photos"), Err(ErrorKind::Invalid));
    }

    /// An opening that suspects another gives back what it took, but for a name that makes the next one suspect it too.
    #[test]
    fn a_name_that_says_that_another_may_live_stays() {
        let layout = Layout::of(Path::new("/s"), MAIN);
        let name = |epoch| TableFileName { epoch: Epoch(epoch), salt: 7 };
        // Which epochs have left a table file beside that of epoch 9, and what is left of it then.
        let left = |others: &[u64], shared| {
            let disk = MemoryDisk::default();
            for dir in [&layout.dir, &layout.owners, &layout.owner, &layout.state] {
                disk.create_dir(dir).unwrap();
            }
            for epoch in others.iter().chain(&[9]) {
                let file = disk.open(&name(*epoch).path(&layout.state), OpenMode::CreateNew).unwrap();
                file.write_all_at(b"rows", 0).unwrap();
            }
            layout.remove_epoch(&disk, Epoch(9), shared, &[]);
            let found = disk.list(&layout.state).unwrap();
            assert!(others.iter().all(|epoch| found.contains(&name(*epoch).path(&layout.state))), "not its own");
            let own = name(9).path(&layout.state);
            found.contains(&own).then(|| disk.open(&own, OpenMode::Read).unwrap().len().unwrap())
        };
        assert_eq!(left(&[5], None), None, "nobody is suspected");
        assert_eq!(left(&[5], Some(Epoch(5))), Some(0), "the name alone");
        assert_eq!(left(&[3, 5], Some(Epoch(5))), Some(0), "one that is older, and was not swept away, says nothing");
        assert_eq!(left(&[5, 7], Some(Epoch(5))), None, "another says so already");
    }
}
