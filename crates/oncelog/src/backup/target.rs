//! Where backups are kept.

use std::path::{Path, PathBuf};

#[cfg(feature = "object-store")]
use super::chunks::CHUNK_BYTES;
use super::files::Files;
use super::manifest::{self, BackupManifest};
use super::reach::{ArchiveReach, Archives};
use crate::chance::Chance;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StoreId};
#[cfg(feature = "object-store")]
use crate::objects::{self, Objects, Task};
use crate::wake::Arc;

/// Manifests are in it.
pub(super) const BACKUPS: &str = "backups";
/// So are chunks in it, each in a folder of the first two digits of its name.
pub(super) const CHUNKS: &str = "chunks";
/// Archived frames are in it, by store and owner.
pub(crate) const JOURNAL: &str = "journal";
const EXTENSION: &str = ".backup";
/// Added to the name of a chunk that has rotted.
const DAMAGED: &str = ".damaged";

/// Where backups are kept: a directory, or a prefix in object storage. Backups of several stores may share one. Cheap
/// to clone.
///
/// ```
/// use oncelog::{BackupTarget, Store};
/// # fn main() -> oncelog::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let store = Store::open(dir.path().join("data"))?;
/// let target = BackupTarget::dir(dir.path().join("backups"))?;
/// let made = store.backup(&target)?;
/// assert_eq!(target.list()?[0].name, made.name);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BackupTarget {
    place: Place,
    chance: Arc<Chance>,
}

#[derive(Clone)]
enum Place {
    Files(Arc<Files>),
    #[cfg(feature = "object-store")]
    Objects(Objects),
}

/// A backup, as [`BackupTarget::list`] tells of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackupInfo {
    /// Its name in the target: backups that were cut later have greater numbers.
    pub name: String,
    /// When it was made, by the clock of the machine, in milliseconds since 1970.
    pub taken_ms: i64,
    /// Which store it is of.
    pub store: StoreId,
    /// The owners of the store, and the LSN of each up to which it is in the backup.
    pub owners: Vec<(String, Lsn)>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// How far the archived journals of the owners carry it, as far as the names of their pieces tell. Only of owners
    /// that have something there: see [`StoreOptions::journal_archive`](crate::StoreOptions::journal_archive).
    pub archives: Vec<ArchiveReach>,
    /// Why it cannot be used, if it cannot: the fields above are empty then.
    pub damage: Option<Error>,
}

impl BackupTarget {
    /// A directory, which the first backup makes. Not inside a store.
    ///
    /// # Errors
    /// `Unavailable`: no random numbers to be had.
    pub fn dir(dir: impl AsRef<Path>) -> Result<BackupTarget> {
        BackupTarget::dir_on(Arc::new(RealDisk), dir)
    }

    /// As [`BackupTarget::dir`], on another disk.
    ///
    /// # Errors
    /// As [`BackupTarget::dir`].
    pub fn dir_on(disk: Arc<dyn Disk>, dir: impl AsRef<Path>) -> Result<BackupTarget> {
        let files = Files::new(disk, dir.as_ref().to_owned(), Chance::from_os()?);
        Ok(BackupTarget { place: Place::Files(Arc::new(files)), chance: Arc::new(Chance::from_os()?) })
    }

    /// What is under `prefix` in object storage. Storage that is reached over the network needs a runtime: see
    /// [`BackupTarget::on_runtime`]. It must be as consistent as S3 is: what was put is listed from then on.
    ///
    /// # Errors
    /// As [`BackupTarget::dir`].
    #[cfg(feature = "object-store")]
    pub fn objects(objects: Arc<dyn object_store::ObjectStore>, prefix: &str) -> Result<BackupTarget> {
        Ok(BackupTarget { place: Place::Objects(Objects::new(objects, prefix)), chance: Arc::new(Chance::from_os()?) })
    }

    /// Has the work of object storage done by a runtime, to which `spawn` gives a task: `move |task|
    /// drop(handle.spawn(task))` with a handle of tokio's. The calling thread waits; it must not be the one that the
    /// runtime needs for the work. Of a directory it changes nothing.
    #[cfg(feature = "object-store")]
    #[must_use]
    pub fn on_runtime(mut self, spawn: impl Fn(Task) + Send + Sync + 'static) -> BackupTarget {
        if let Place::Objects(objects) = &mut self.place {
            objects.on_runtime(spawn);
        }
        self
    }

    /// The backups that are there, oldest first. One whose manifest is damaged is told of too; one that somebody has
    /// given a name of his own is not, and can be restored by that name.
    ///
    /// # Errors
    /// `Unavailable`: the target cannot be read.
    pub fn list(&self) -> Result<Vec<BackupInfo>> {
        let (mut found, archives) = (Vec::new(), Archives::list(self)?);
        for name in self.names()? {
            match self.read_manifest(&name) {
                Ok(manifest) => found.push(BackupInfo {
                    taken_ms: manifest.taken_ms,
                    store: manifest.identity,
                    owners: manifest.owners.iter().map(|owner| (owner.name.clone(), owner.lsn)).collect(),
                    bytes: manifest.bytes(),
                    archives: archives.reaches(&manifest),
                    damage: None,
                    name,
                }),
                // Pruned meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion) => {
                    let (taken_ms, store, owners, bytes) = (0, StoreId([0; 16]), Vec::new(), 0);
                    let (archives, damage) = (Vec::new(), Some(error));
                    found.push(BackupInfo { name, taken_ms, store, owners, bytes, archives, damage });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// The names of all backups, oldest first. Manifests that somebody has called something else are none.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let mut names = self.manifests()?;
        names.retain(|name| number_of(name).is_some());
        names.sort_by_cached_key(|name| (number_of(name), name.clone()));
        Ok(names)
    }

    /// The names of all that may be manifests.
    pub(super) fn manifests(&self) -> Result<Vec<String>> {
        let found = self.list_objects(BACKUPS, 1)?;
        Ok(found.iter().filter_map(|name| name.strip_suffix(EXTENSION)).map(str::to_owned).collect())
    }

    /// The manifest of a backup.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`, `UnsupportedVersion`, naming the object.
    pub(crate) fn read_manifest(&self, name: &str) -> Result<BackupManifest> {
        let object = manifest_object(name);
        let Some(bytes) = self.read_object(&object, manifest::BYTES_MAX)? else {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no backup {name:?}"))
                .in_file(&self.object_place(&object)));
        };
        manifest::decode(&bytes).map_err(|flaw| flaw.in_object(&self.object_place(&object)))
    }

    /// The greatest number of a backup that is there.
    pub(super) fn last_number(&self) -> Result<u64> {
        Ok(self.names()?.last().and_then(|name| number_of(name)).unwrap_or(0))
    }

    /// The folder of chunks that the next backup reads: each in turn.
    pub(crate) fn next_scrub(&self) -> Result<u8> {
        Ok(self.last_number()?.wrapping_add(1).to_le_bytes()[0])
    }

    /// Makes a backup of what is there already, with the number that was [drawn](super::Mark::draw_number) for it;
    /// durable on return. Gives its name.
    pub(crate) fn write_manifest(&self, manifest: &BackupManifest, number: u64) -> Result<String> {
        // Two that draw at once may have one number, and differ behind it.
        let name = format!("{number:08}-{:08x}", self.chance.next_u64() >> 32);
        self.write_object(&manifest_object(&name), &manifest::encode(manifest)?)?;
        self.settle_folder(BACKUPS)?;
        Ok(name)
    }

    /// Takes a backup away again, durably.
    pub(crate) fn take_back(&self, name: &str) -> Result<()> {
        self.remove_object(&manifest_object(name))?;
        self.settle_folder(BACKUPS)
    }

    /// A number that nobody else has drawn.
    pub(super) fn draw(&self) -> u64 {
        self.chance.next_u64()
    }

    /// The objects below `folder`, which lie in folders of folders, `depth` deep: as their names below it, in order.
    pub(crate) fn list_objects(&self, folder: &str, depth: usize) -> Result<Vec<String>> {
        Ok(self.list_sized(folder, depth)?.into_iter().map(|(name, _)| name).collect())
    }

    /// As [`Self::list_objects`], with their lengths where the listing tells them: of files it does not.
    pub(super) fn list_sized(&self, folder: &str, depth: usize) -> Result<Vec<(String, Option<u64>)>> {
        match &self.place {
            Place::Files(files) => Ok(files.list(folder, depth)?.into_iter().map(|name| (name, None)).collect()),
            #[cfg(feature = "object-store")]
            Place::Objects(objects) => {
                let dir = below(objects, folder);
                let start = format!("{dir}/");
                let listed = objects.list(dir, "list the backups")?;
                // Names come out as they went in: characters that storage does not take everywhere were encoded by
                // `below`.
                let named = |(path, bytes): &(object_store::path::Path, u64)| {
                    let name = path.as_ref().strip_prefix(&start)?;
                    Some((objects::decoded(name)?, Some(*bytes)))
                };
                let mut found: Vec<_> = listed.iter().filter_map(named).collect();
                found.sort();
                Ok(found)
            }
        }
    }

    /// The length of the object; `None`: there is none.
    pub(super) fn object_bytes(&self, name: &str) -> Result<Option<u64>> {
        match &self.place {
            Place::Files(files) => files.bytes(name),
            #[cfg(feature = "object-store")]
            Place::Objects(objects) => objects.bytes(&below(objects, name), "look at a backup"),
        }
    }

    /// The object; `None`: there is none.
    pub(crate) fn read_object(&self, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Files(files) => files.read(name, bytes_max),
            #[cfg(feature = "object-store")]
            Place::Objects(objects) => objects.read(&below(objects, name), bytes_max, "read a backup"),
        }
    }

    /// What is in the object is durable on return; its name is when its folder is [settled](Self::settle_folder).
    pub(crate) fn write_object(&self, name: &str, bytes: &[u8]) -> Result<()> {
        match &self.place {
            Place::Files(files) => files.write(name, bytes),
            #[cfg(feature = "object-store")]
            Place::Objects(objects) => objects.write(below(objects, name), bytes.to_vec(), "write a backup"),
        }
    }

    /// Makes the names in `folder`, which was written to or counted on, durable.
    pub(crate) fn settle_folder(&self, folder: &str) -> Result<()> {
        match &self.place {
            Place::Files(files) => files.settle(folder),
            // They are, when a put is answered.
            #[cfg(feature = "object-store")]
            Place::Objects(_) => Ok(()),
        }
    }

    /// As [`BackupTarget::settle_folder`], of a folder that may never have been made.
    pub(super) fn settle_if_there(&self, folder: &str) -> Result<()> {
        match &self.place {
            Place::Files(files) => files.settle_if_there(folder),
            // They are, when a put is answered.
            #[cfg(feature = "object-store")]
            Place::Objects(_) => Ok(()),
        }
    }

    /// Whether there was one.
    pub(crate) fn remove_object(&self, name: &str) -> Result<bool> {
        match &self.place {
            Place::Files(files) => files.remove(name),
            #[cfg(feature = "object-store")]
            Place::Objects(objects) => objects.remove(below(objects, name), "remove a backup"),
        }
    }

    /// Keeps a damaged object under another name, for whoever looks into it: nothing counts on that.
    pub(super) fn set_aside(&self, name: &str) -> Result<()> {
        let aside = format!("{name}{DAMAGED}");
        match &self.place {
            Place::Files(files) => files.rename(name, &aside),
            #[cfg(feature = "object-store")]
            Place::Objects(_) => match self.read_object(name, CHUNK_BYTES as u64) {
                Ok(None) => Ok(()),
                Ok(Some(bytes)) => self.write_object(&aside, &bytes).and_then(|()| self.remove_object(name).map(drop)),
                // No chunk is so long.
                Err(error) if error.kind() == ErrorKind::Corrupt => self.remove_object(name).map(drop),
                Err(error) => Err(error),
            },
        }
    }

    /// Takes away what was being written when somebody was killed.
    pub(super) fn remove_unfinished(&self, folder: &str) -> Result<()> {
        match &self.place {
            Place::Files(files) => files.remove_unfinished(folder),
            #[cfg(feature = "object-store")]
            Place::Objects(_) => Ok(()),
        }
    }

    /// Where an object is, as errors name it.
    pub(crate) fn object_place(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Files(files) => files.dir.join(name),
            #[cfg(feature = "object-store")]
            Place::Objects(objects) => objects::place(&below(objects, name)),
        }
    }
}

impl std::fmt::Debug for BackupTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BackupTarget").field(&self.object_place("")).finish()
    }
}

#[cfg(feature = "object-store")]
fn below(objects: &Objects, name: &str) -> object_store::path::Path {
    name.split('/').fold(objects.prefix().clone(), |path, part| path.join(part))
}

/// The number in the name of a backup; `None`: the name is none that a backup gets.
pub(super) fn number_of(name: &str) -> Option<u64> {
    let (number, random) = name.split_once('-')?;
    let parsed = number.parse().ok()?;
    let is_random = random.len() == 8 && random.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (is_random && number == format!("{parsed:08}")).then_some(parsed)
}

pub(super) fn manifest_object(name: &str) -> String {
    format!("{BACKUPS}/{name}{EXTENSION}")
}

#[cfg(all(test, feature = "object-store"))]
mod tests {
    use super::*;

    /// Storage encodes what it does not take everywhere; whoever lists is given the names that were put.
    #[test]
    fn names_of_objects_come_out_as_they_went_in() {
        let target = BackupTarget::objects(Arc::new(object_store::memory::InMemory::new()), "a prefix").unwrap();
        let names = ["journal/1/%42illing/a", "journal/1/eu%2Fx/b", "journal/1/a%20b/c", "journal/1/~x#%25/d"];
        for name in names {
            target.write_object(name, b"x").unwrap();
        }
        let mut listed = target.list_objects(JOURNAL, 3).unwrap();
        listed.sort();
        let mut expected = names.map(|name| name.strip_prefix("journal/").unwrap());
        expected.sort_unstable();
        assert_eq!(listed, expected);
        for name in names {
            assert_eq!(target.read_object(name, 9).unwrap().as_deref(), Some(&b"x"[..]));
            assert!(target.remove_object(name).unwrap());
        }
        assert!(target.list_objects(JOURNAL, 3).unwrap().is_empty());
    }
}
