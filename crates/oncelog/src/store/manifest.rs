//! The manifest: the lock of an owner, its epoch, and the trim point from which recovery starts.
//!
//! ```text
//! byte 0: first copy | byte 4096: second copy | byte 8192: who holds the lock, for messages only
//! ```
//!
//! It is updated in place and never renamed over, so the lock stays on one inode. Both copies are written at each
//! change, first the one that is damaged or behind, the other only when that is durable: so at every instant one of
//! them is whole, and one that is damaged while the other is whole was either being written or has rotted; the other
//! tells the truth.

use std::io;
use std::path::{Path, PathBuf};

use crate::codec::{CheckSite, Input, crc32c, same};
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, OwnerId, StoreId};
use crate::journal::{FileName, JournalPosition};
use crate::table::SnapshotName;

const MAGIC: [u8; 8] = *b"OLMANIFE";
const VERSION: u32 = 1;
const COPY_BYTES: usize = 256;
const SUMMED_BYTES: usize = COPY_BYTES - 4;
const COPIES_AT: [u64; 2] = [0, 4096];
const HOLDER_AT: u64 = 8192;
/// Longest name of an owner.
pub(super) const OWNER_BYTES: usize = 64;
const NUMBER_AT: usize = 180;
/// Beyond any journal file.
const POSITION_MAX: u64 = 1 << 40;

/// Whether the owner was left in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// In use, or left by a crash.
    Open,
    /// Closed: everything is at the trim point.
    Closed,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manifest {
    pub(super) generation: u64,
    pub(super) store: StoreId,
    pub(super) owner: String,
    /// The owner's number.
    pub(super) number: OwnerId,
    pub(super) epoch: Epoch,
    pub(super) state: State,
    /// Where replay starts, and the state there. `None` before the first opening is done.
    pub(super) trim: Option<(JournalPosition, SnapshotName)>,
}

/// The manifest's file, locked.
pub(super) struct ManifestFile {
    path: PathBuf,
    file: Option<Box<dyn DiskFile>>,
    now: Option<Manifest>,
    /// The copy that is written first: one that is damaged or behind, so that the good one stays until it is replaced.
    first: usize,
    /// Whether this process has written and synced both copies itself. What it has only read may be in memory alone.
    confirmed: bool,
}

impl ManifestFile {
    /// Takes the lock.
    ///
    /// # Errors
    /// `Locked` by another process; `Corrupt`: there is no manifest where there must be one.
    pub(super) fn lock(disk: &dyn Disk, path: &Path, mode: OpenMode) -> Result<ManifestFile> {
        let file = disk.open(path, mode).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(path, 0, "the manifest is gone"),
            _ => Error::io(path, "open the manifest", error),
        })?;
        if !file.try_lock().map_err(|error| Error::io(path, "lock the manifest", error))? {
            let pid = read_holder(file.as_ref());
            return Err(Error::locked(path, "another process has this store open", pid));
        }
        Ok(ManifestFile { path: path.to_owned(), file: Some(file), now: None, first: 0, confirmed: false })
    }

    /// Writes the manifest of a new owner.
    pub(super) fn begin(&mut self, store: StoreId, owner: &str, number: OwnerId) -> Result<()> {
        let (epoch, state, trim) = (Epoch(0), State::Open, None);
        self.write(Manifest { generation: 1, store, owner: owner.to_owned(), number, epoch, state, trim })
    }

    /// What the manifest at `path` says, whoever holds its lock; `None` where there is none or no whole copy.
    pub(super) fn peek(disk: &dyn Disk, path: &Path) -> Result<Option<Manifest>> {
        let file = match disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "open the manifest", error)),
        };
        let mut newest: Option<Manifest> = None;
        // One copy is whole at every instant, but the two are read one after the other: a second look finds it.
        for at in COPIES_AT.into_iter().chain(COPIES_AT) {
            match read_copy(file.as_ref(), path, at) {
                Ok(copy) if newest.as_ref().is_none_or(|newest| newest.generation < copy.generation) => {
                    newest = Some(copy);
                }
                Err(error) if error.kind() != ErrorKind::Corrupt => return Err(error),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(newest)
    }

    /// Reads what is true, repairing a copy that is damaged when it is next written. Says whether one was.
    ///
    /// # Errors
    /// `Corrupt`: both copies are damaged, or it is another owner's or store's.
    pub(super) fn read(&mut self, store: StoreId, owner: &str) -> Result<(Manifest, bool)> {
        let file = self.file()?;
        let copies = COPIES_AT.map(|at| read_copy(file, &self.path, at));
        let (first, second) = match copies {
            // Whole, and of a newer format: not damage, whatever the other copy says.
            [Err(newer), _] | [_, Err(newer)] if newer.kind() == ErrorKind::UnsupportedVersion => return Err(newer),
            [Err(first), Err(_)] => return Err(first),
            [first, second] => (first.ok(), second.ok()),
        };
        let damaged = first.is_none() || second.is_none();
        let generation = |copy: &Option<Manifest>| copy.as_ref().map(|copy| copy.generation);
        self.first = usize::from(generation(&second) < generation(&first));
        let newest = [first, second].into_iter().flatten().max_by_key(|copy| copy.generation);
        let found = newest.ok_or_else(|| Error::corrupt(&self.path, 0, "the manifest is damaged"))?;
        if found.store != store {
            return Err(Error::corrupt(&self.path, 0, "this is the manifest of another store"));
        }
        if found.owner != owner {
            return Err(Error::corrupt(&self.path, 0, format!("this is the manifest of owner {:?}", found.owner)));
        }
        self.now = Some(found.clone());
        Ok((found, damaged))
    }

    /// Changes what it says; durable on return.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = self.now.clone().ok_or_else(Error::closed)?;
        next.generation += 1;
        change(&mut next);
        self.write(next)
    }

    fn write(&mut self, next: Manifest) -> Result<()> {
        let bytes = encode(&next);
        let file = self.file()?;
        let kept = self.now.as_ref().filter(|_| !self.confirmed).map(encode);
        // The copy that stays while the other is written must be on the disk and not only in memory, where a killed
        // process or a failed sync may have left it. The same bytes once more harm nothing if it is.
        let confirmed = kept.map_or(Ok(()), |kept| {
            file.write_all_at(&kept, COPIES_AT[1 - self.first])?;
            file.sync(SyncSite::ManifestFirst)
        });
        let written = confirmed
            .and_then(|()| file.write_all_at(&bytes, COPIES_AT[self.first]))
            .and_then(|()| file.sync(SyncSite::ManifestFirst))
            .and_then(|()| file.write_all_at(&bytes, COPIES_AT[1 - self.first]))
            .and_then(|()| file.sync(SyncSite::ManifestSecond));
        // Never `Full`: half written, it may say the new or the old.
        written.map_err(|error| Error::sync(&self.path, "write the manifest", error))?;
        self.now = Some(next);
        self.confirmed = true;
        Ok(())
    }

    /// Says who holds the lock, for the message that others get.
    pub(super) fn write_holder(&self, pid: u32) -> Result<()> {
        let written = self.file()?.write_all_at(&pid.to_le_bytes(), HOLDER_AT);
        written.map_err(|error| Error::io(&self.path, "write the manifest", error))
    }

    /// Frees the lock.
    pub(super) fn unlock(&mut self) {
        self.file = None;
    }

    fn file(&self) -> Result<&dyn DiskFile> {
        self.file.as_deref().ok_or_else(Error::closed)
    }
}

fn read_holder(file: &dyn DiskFile) -> Option<u32> {
    let mut pid = [0; 4];
    let read = file.read_full_at(&mut pid, HOLDER_AT).ok()?;
    (read == pid.len()).then(|| u32::from_le_bytes(pid)).filter(|pid| *pid != 0)
}

fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::with_capacity(COPY_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::from(manifest.state == State::Closed).to_le_bytes());
    out.extend_from_slice(&manifest.generation.to_le_bytes());
    out.extend_from_slice(&manifest.store.0);
    let mut owner = [0; OWNER_BYTES];
    owner[..manifest.owner.len()].copy_from_slice(manifest.owner.as_bytes());
    out.extend_from_slice(&owner);
    out.extend_from_slice(&manifest.epoch.0.to_le_bytes());
    if let Some((at, state)) = &manifest.trim {
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&at.file.slot.to_le_bytes());
        for number in [at.file.epoch.0, at.salt, at.position, at.next_lsn.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&at.chain.to_le_bytes());
        for number in [state.lsn.0, state.epoch.0, state.salt] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    out.resize(NUMBER_AT, 0);
    out.extend_from_slice(&manifest.number.0.to_le_bytes());
    out.resize(SUMMED_BYTES, 0);
    let sum = crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn read_copy(file: &dyn DiskFile, path: &Path, at: u64) -> Result<Manifest> {
    let mut bytes = [0; COPY_BYTES];
    let read = file.read_full_at(&mut bytes, at).map_err(|error| Error::io(path, "read the manifest", error))?;
    let damaged = || Error::corrupt(path, at, "the manifest is damaged");
    let (summed, sum) = bytes[..read].split_last_chunk::<4>().ok_or_else(damaged)?;
    if read < COPY_BYTES || !same(CheckSite::Manifest, u32::from_le_bytes(*sum), crc32c(summed)) {
        return Err(damaged());
    }
    let mut input = Input::new(summed);
    if input.array() != Some(MAGIC) {
        return Err(damaged());
    }
    match input.u32() {
        Some(VERSION) => decode(&mut input, summed).ok_or_else(damaged),
        Some(version) => {
            let what = format!("manifest format {version}, this program knows {VERSION}");
            Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(path))
        }
        None => Err(damaged()),
    }
}

fn decode(input: &mut Input<'_>, whole: &[u8]) -> Option<Manifest> {
    let state = if input.u32()? == 1 { State::Closed } else { State::Open };
    let generation = input.u64()?;
    let store = StoreId(input.array()?);
    let owner = input.take(OWNER_BYTES)?;
    let owner = owner.split(|byte| *byte == 0).next()?;
    let owner = std::str::from_utf8(owner).ok()?.to_owned();
    let epoch = Epoch(input.u64()?);
    let trim = match input.u32()? {
        0 => None,
        _ => {
            let slot = input.u32()?;
            let file = FileName { epoch: Epoch(input.u64()?), slot };
            let (salt, position, next_lsn) = (input.u64()?, input.u64()?, Lsn(input.u64()?));
            let chain = input.u32()?;
            let state = SnapshotName { lsn: Lsn(input.u64()?), epoch: Epoch(input.u64()?), salt: input.u64()? };
            Some((JournalPosition { file, salt, position, next_lsn, chain }, state))
        }
    };
    let number = OwnerId(Input::new(whole.get(NUMBER_AT..)?).u32()?);
    let sane = number <= OwnerId::MAX
        && generation < u64::MAX
        && epoch.0 < u64::MAX
        && (state == State::Open || trim.is_some())
        && trim.as_ref().is_none_or(|(at, _)| (1..u64::MAX).contains(&at.next_lsn.0) && at.position < POSITION_MAX);
    sane.then_some(Manifest { generation, store, owner, number, epoch, state, trim })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;

    fn manifest(generation: u64) -> Manifest {
        let at = JournalPosition {
            file: FileName { epoch: Epoch(3), slot: 7 },
            salt: 11,
            position: 512,
            next_lsn: Lsn(42),
            chain: 9,
        };
        let state = SnapshotName { lsn: Lsn(41), epoch: Epoch(3), salt: 12 };
        let (store, owner) = (StoreId([5; 16]), "main".to_owned());
        let number = OwnerId(6);
        Manifest { generation, store, owner, number, epoch: Epoch(3), state: State::Closed, trim: Some((at, state)) }
    }

    fn written() -> (MemoryDisk, ManifestFile) {
        let disk = MemoryDisk::default();
        let mut file = ManifestFile::lock(&disk, Path::new("/MANIFEST"), OpenMode::Create).unwrap();
        file.write(manifest(7)).unwrap();
        (disk, file)
    }

    #[test]
    fn comes_back() {
        let (_disk, mut file) = written();
        assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(7), false));
        assert_eq!(file.read(StoreId([6; 16]), "main").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(file.read(StoreId([5; 16]), "other").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn any_one_flipped_bit_of_a_copy_changes_nothing() {
        let (_disk, mut file) = written();
        for at in COPIES_AT {
            for bit in 0..COPY_BYTES as u64 * 8 {
                let mut byte = [0];
                file.file().unwrap().read_full_at(&mut byte, at + bit / 8).unwrap();
                let flipped = [byte[0] ^ (1 << (bit % 8))];
                file.file().unwrap().write_all_at(&flipped, at + bit / 8).unwrap();
                assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(7), true));
                file.file().unwrap().write_all_at(&byte, at + bit / 8).unwrap();
            }
        }
    }

    #[test]
    fn the_newer_copy_counts_and_both_damaged_is_an_error() {
        let (_disk, mut file) = written();
        file.file().unwrap().write_all_at(&encode(&manifest(8)), COPIES_AT[0]).unwrap();
        assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(8), false));
        for at in COPIES_AT {
            file.file().unwrap().write_all_at(&[0xFF; 8], at).unwrap();
        }
        assert_eq!(file.read(StoreId([5; 16]), "main").unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
