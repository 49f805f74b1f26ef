//! The manifest: the lock of an owner, its epoch, and the trim point from which recovery starts.
//!
//! ```text
//! byte 0, 4096: two copies of openings with an even epoch | 8192, 12288: of those with an odd one
//! byte 16384: who holds the lock
//! ```
//!
//! It is updated in place and never renamed over, so the lock stays on one inode. An opening writes only the two copies
//! of its own epoch's parity, first one, the other when that is durable, and believes the newest whole one of all four.
//! So at every instant what counts is whole: before an opening has written its first copy, those of the opening before
//! stand untouched; later, one of its own.
//!
//! **Which copy is durable.** The one that is written second says so: whoever reads it knows that the first, which says
//! the same, was durable before it. So the next write begins with the second, and the first stays meanwhile. Where two
//! copies do not agree like this nothing is known, and the one that stays is written and synced once more before.
//!
//! **The opening itself waits for one sync.** Its epoch is durable with its first copy; the second is written at once,
//! and synced before anything is answered that was built on it: see [`Fence::settle`].
//!
//! **A zombie** is an opening whose lock was lost and that does not know. It may wake in any line of this file, so no
//! look before a write protects anything. What does: its copies have other places than those of its successor, and a
//! lower epoch counts less. It looks again behind each copy, so of its successor's successor, whose places it shares,
//! it can damage one copy of two. And a successor reads what the zombie last wrote *after* its own epoch is durable;
//! the zombie gives up files only when it has looked *after* its write: one of the two sees the other.

mod copy;
mod holder;

use std::io;
use std::path::{Path, PathBuf};

use super::fence::Fence;
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{Epoch, OwnerId, StoreId};
use crate::journal::JournalPosition;
use crate::process::Process;
use crate::wake::Arc;
use copy::{COPY_BYTES, FILE_BYTES, OPENINGS, encode, newest, newest_of, place_of};
use holder::{HOLDER_AT, HOLDER_BYTES, encode_holder, read_holder};

pub(super) use copy::{Archived, Copy, Manifest, PAIRS, State, Written, read_copies};

/// The manifest's file, locked.
pub(super) struct ManifestFile {
    path: PathBuf,
    file: Option<Arc<dyn DiskFile>>,
    now: Option<Manifest>,
    /// Of each pair, the copy that is written first: one that is damaged or behind or was written second, so that a
    /// durable one stays until another is.
    first: [usize; 2],
    /// Of each pair, the copy that stays meanwhile, as it was read, where nothing says that it is durable: it may be in
    /// memory only, where a killed process or a failed sync has left it, so it is written once more before the other is
    /// touched.
    stays: [Option<Manifest>; 2],
    /// Set by the opening once it has an epoch of its own.
    fence: Option<Arc<Fence>>,
}

impl ManifestFile {
    /// Takes the lock.
    ///
    /// # Errors
    /// `Locked` by another process; `Corrupt`: there is no manifest where there must be one.
    pub(super) fn lock(disk: &dyn Disk, path: &Path, mode: OpenMode) -> Result<ManifestFile> {
        let file = open(disk, path, mode)?;
        if !file.try_lock().map_err(|error| Error::io(path, "lock the manifest", error))? {
            let pid = read_holder(file.as_ref()).map(|holder| holder.pid);
            return Err(Error::locked(path, "another process has this store open", pid));
        }
        Ok(ManifestFile {
            path: path.to_owned(),
            file: Some(file.into()),
            now: None,
            first: [0; 2],
            stays: [None, None],
            fence: None,
        })
    }

    /// The process that has the lock or had it last, if it said so.
    pub(super) fn holder(disk: &dyn Disk, path: &Path) -> Result<Option<Process>> {
        Ok(read_holder(open(disk, path, OpenMode::Read)?.as_ref()))
    }

    /// Whether the process that had the lock before `own` may still write, though the lock was free. To be asked
    /// before [`ManifestFile::write_holder`].
    pub(super) fn may_be_shared(&self, own: &Process) -> Result<bool> {
        let mut bytes = [0; HOLDER_BYTES];
        let read = self.file()?.read_full_at(&mut bytes, HOLDER_AT as u64);
        read.map_err(|error| Error::io(&self.path, "read the manifest", error))?;
        // All zeros: it has let go of the lock by itself.
        let let_go = bytes.iter().all(|byte| *byte == 0);
        Ok(!let_go && read_holder(self.file()?).is_none_or(|before| before.may_act(own)))
    }

    /// Writes the manifest of a new owner.
    pub(super) fn begin(&mut self, store: StoreId, owner: &str, number: OwnerId) -> Result<()> {
        let extended = self.file()?.set_len(FILE_BYTES as u64);
        extended.map_err(|error| Error::io(&self.path, "write the manifest", error))?;
        let (epoch, opening, state, written) = (Epoch(0), 0, State::Open, Written::First);
        let (trim, archived, openings) = (None, None, Box::new([0; OPENINGS]));
        let owner = owner.to_owned();
        self.write(Manifest {
            generation: 1,
            store,
            owner,
            number,
            epoch,
            opening,
            written,
            state,
            trim,
            archived,
            openings,
        })
    }

    /// What the manifest at `path` says, whoever holds its lock; `None` where there is none or no whole copy.
    pub(super) fn peek(disk: &dyn Disk, path: &Path) -> Result<Option<Manifest>> {
        let file = match disk.open(path, OpenMode::Read) {
            Ok(file) => file,
            // `owners/LOCK` is no owner.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::io(path, "open the manifest", error)),
        };
        // One copy is whole at every instant, but they are read one after the other: a second look finds it.
        for _ in 0..4 {
            let copies = read_copies(file.as_ref(), path)?;
            if let Some(newest) = newest(copies) {
                return Ok(Some(newest));
            }
        }
        Ok(None)
    }

    /// Reads what is true. Says too whether a copy was damaged.
    ///
    /// # Errors
    /// `Corrupt`: both copies of one kind are damaged, or it is another owner's or store's.
    pub(super) fn read(&mut self, store: StoreId, owner: &str) -> Result<(Manifest, bool)> {
        let file = self.file()?;
        let copies = read_copies(file, &self.path)?;
        let mut damaged = false;
        let first = copies.each_ref().map(first_to_write);
        let stays = [0, 1].map(|pair| match &copies[pair][1 - first[pair]] {
            Copy::Whole(manifest) if !second_follows(&copies[pair]) => Some(manifest.clone()),
            Copy::Whole(_) | Copy::Blank | Copy::Damaged => None,
        });
        for (pair, places) in copies.iter().zip(PAIRS) {
            match pair {
                [Copy::Damaged, Copy::Damaged] => {
                    return Err(Error::corrupt(&self.path, places[0] as u64, "the manifest is damaged"));
                }
                // Of an opening that was interrupted in its first write.
                [Copy::Damaged, Copy::Blank] | [Copy::Blank, Copy::Damaged] => {}
                pair => damaged |= pair.contains(&Copy::Damaged),
            }
        }
        let found = newest(copies).ok_or_else(|| Error::corrupt(&self.path, 0, "the manifest is damaged"))?;
        if found.store != store {
            return Err(Error::corrupt(&self.path, 0, "this is the manifest of another store"));
        }
        if found.owner != owner {
            return Err(Error::corrupt(&self.path, 0, format!("this is the manifest of owner {:?}", found.owner)));
        }
        let found = Manifest { written: Written::First, ..found };
        self.now = Some(found.clone());
        (self.first, self.stays) = (first, stays);
        Ok((found, damaged))
    }

    /// Takes the next epoch, durably; from now on whoever had the one before is fenced off. Gives what is true, which
    /// may be more than was read before: the last that a zombie wrote. The second copy is for [`Fence::settle`]. The
    /// owner is in `state` from then on.
    pub(super) fn take_epoch(
        &mut self,
        disk: &Arc<dyn Disk>,
        opening: u64,
        state: State,
    ) -> Result<(Manifest, Arc<Fence>)> {
        let before = self.now.clone().ok_or_else(Error::closed)?;
        let epoch = Epoch(before.epoch.0 + 1);
        let file = self.file.clone().ok_or_else(Error::closed)?;
        let fence = Arc::new(Fence::new(disk, &self.path, file, epoch, opening)?);
        self.fence = Some(Arc::clone(&fence));
        let mut next = before.clone();
        next.generation += 1;
        (next.epoch, next.opening, next.state) = (epoch, opening, state);
        next.openings[place_of(epoch)] = opening;
        self.write_unsettled(next)?;
        fence.is_unsettled();
        fence.begin();
        fence.check()?;
        let copies = read_copies(self.file()?, &self.path)?;
        match newest_of(copies, |copy| copy.epoch < epoch) {
            Some(later) if later.generation > before.generation => {
                let later = Manifest { state: State::Open, written: Written::First, ..later };
                let (trim, archived) = (later.trim.clone(), later.archived);
                self.update(|next| (next.trim, next.archived) = (trim, archived))?;
                Ok((later, fence))
            }
            _ => Ok((before, fence)),
        }
    }

    /// What is archived before the trim point.
    pub(super) fn archived(&self) -> Option<Archived> {
        self.now.as_ref()?.archived
    }

    /// Where a recovery would start.
    pub(super) fn trim_position(&self) -> Option<JournalPosition> {
        self.now.as_ref()?.trim.as_ref().map(|(at, _)| *at)
    }

    /// Changes what it says; durable on return.
    ///
    /// # Errors
    /// `Fenced`: another opening has taken the owner over. What it goes by is as it was.
    pub(super) fn update(&mut self, change: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut next = self.now.clone().ok_or_else(Error::closed)?;
        next.generation += 1;
        change(&mut next);
        self.write(next)
    }

    fn write(&mut self, next: Manifest) -> Result<()> {
        self.write_unsettled(next)?;
        let synced = self.file()?.sync(SyncSite::ManifestSecond);
        synced.map_err(|error| self.doing(error))?;
        if let Some(fence) = &self.fence {
            fence.is_settled();
        }
        self.check_fence()
    }

    /// Writes both copies; the first is durable on return.
    fn write_unsettled(&mut self, next: Manifest) -> Result<()> {
        let pair = pair_of(next.epoch);
        let (first, second) = (self.first[pair], 1 - self.first[pair]);
        let stays = self.stays[pair].take();
        self.check_fence()?;
        if let Some(stays) = stays {
            self.write_copy(&stays, PAIRS[pair][second])?;
            self.sync_first()?;
            self.check_fence()?;
        }
        self.write_copy(&next, PAIRS[pair][first])?;
        self.sync_first()?;
        self.check_fence()?;
        self.write_copy(&Manifest { written: Written::Second, ..next.clone() }, PAIRS[pair][second])?;
        self.check_fence()?;
        self.first[pair] = second;
        self.now = Some(next);
        Ok(())
    }

    /// Writes a damaged copy anew where the other of its pair is whole. For a repair; `keep` is told the place of each
    /// before it is written over.
    ///
    /// # Errors
    /// What `keep` fails with.
    pub(super) fn mend_copies(&mut self, mut keep: impl FnMut(std::ops::Range<u64>) -> Result<()>) -> Result<()> {
        let copies = read_copies(self.file()?, &self.path)?;
        for (pair, places) in copies.iter().zip(PAIRS) {
            let (whole, stays, damaged) = match pair {
                [Copy::Damaged, Copy::Whole(whole)] => (whole, places[1], places[0]),
                [Copy::Whole(whole), Copy::Damaged] => (whole, places[0], places[1]),
                _ => continue,
            };
            keep(damaged as u64..(damaged + COPY_BYTES) as u64)?;
            // As it was read it may be in memory only.
            self.write_copy(whole, stays)?;
            self.sync_first()?;
            let written = if whole.written == Written::First { Written::Second } else { Written::First };
            self.write_copy(&Manifest { written, ..whole.clone() }, damaged)?;
            self.file()?.sync(SyncSite::ManifestSecond).map_err(|error| self.doing(error))?;
        }
        Ok(())
    }

    fn write_copy(&self, copy: &Manifest, place: usize) -> Result<()> {
        self.file()?.write_all_at(&encode(copy), place as u64).map_err(|error| self.doing(error))
    }

    fn sync_first(&self) -> Result<()> {
        self.file()?.sync(SyncSite::ManifestFirst).map_err(|error| self.doing(error))
    }

    /// Half written, it may say the new or the old.
    fn doing(&self, error: io::Error) -> Error {
        Error::unknown(&self.path, "write the manifest", error)
    }

    fn check_fence(&self) -> Result<()> {
        self.fence.as_ref().map_or(Ok(()), |fence| fence.check())
    }

    /// Says who holds the lock, for the message that others get.
    pub(super) fn write_holder(&self, holder: &Process) -> Result<()> {
        let written = self.file()?.write_all_at(&encode_holder(holder), HOLDER_AT as u64);
        written.map_err(|error| Error::io(&self.path, "write the manifest", error))
    }

    /// Frees the lock, and says that nobody has it.
    pub(super) fn unlock(&mut self) {
        if self.check_fence().is_ok()
            && let Ok(file) = self.file()
        {
            // For messages only: one that stays names a process that may still live.
            let _ = file.write_all_at(&[0; HOLDER_BYTES], HOLDER_AT as u64);
        }
        self.file = None;
        if let Some(fence) = self.fence.take() {
            fence.end();
        }
    }

    fn file(&self) -> Result<&dyn DiskFile> {
        self.file.as_deref().ok_or_else(Error::closed)
    }
}

fn open(disk: &dyn Disk, path: &Path, mode: OpenMode) -> Result<Box<dyn DiskFile>> {
    disk.open(path, mode).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::corrupt(path, 0, "the manifest is gone"),
        _ => Error::io(path, "open the manifest", error),
    })
}

/// The pair in which an opening writes.
pub(super) fn pair_of(epoch: Epoch) -> usize {
    usize::from(epoch.0 % 2 == 1)
}

/// Whether both copies are of one write and one of them says that the other was durable before it.
fn second_follows(pair: &[Copy; 2]) -> bool {
    let [Copy::Whole(one), Copy::Whole(other)] = pair else { return false };
    let as_first = |copy: &Manifest| Manifest { written: Written::First, ..copy.clone() };
    one.written != other.written && as_first(one) == as_first(other)
}

/// Which copy of a pair is written first.
fn first_to_write(pair: &[Copy; 2]) -> usize {
    if second_follows(pair) {
        return usize::from(matches!(&pair[1], Copy::Whole(copy) if copy.written == Written::Second));
    }
    let age = |copy: &Copy| match copy {
        Copy::Whole(manifest) => Some((manifest.epoch, manifest.generation)),
        Copy::Blank | Copy::Damaged => None,
    };
    usize::from(age(&pair[1]) < age(&pair[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Link;
    use crate::disk::MemoryDisk;
    use crate::error::ErrorKind;
    use crate::ids::Lsn;
    use crate::journal::FileName;
    use crate::table::{ROOT_HEAD_BYTES, TableFileName, TableRoot};

    fn manifest(generation: u64) -> Manifest {
        let at = JournalPosition {
            file: FileName { epoch: Epoch(3), slot: 7 },
            salt: 11,
            position: 512,
            next_lsn: Lsn(42),
            chain: 9,
        };
        let file = TableFileName { epoch: Epoch(3), salt: 12 };
        let state = TableRoot { file, generation: 8, len: 1 << 20, head: Box::new([7; ROOT_HEAD_BYTES]) };
        let (store, owner) = (StoreId([5; 16]), "main".to_owned());
        let number = OwnerId(6);
        Manifest {
            generation,
            store,
            owner,
            number,
            epoch: Epoch(3),
            opening: 8,
            written: Written::First,
            state: State::Closed,
            trim: Some((at, state)),
            archived: Some(Archived { from: Lsn(9), link: Link(10) }),
            openings: Box::new(std::array::from_fn(|place| place as u64)),
        }
    }

    fn written() -> (MemoryDisk, ManifestFile) {
        let disk = MemoryDisk::default();
        let mut file = ManifestFile::lock(&disk, Path::new("/MANIFEST"), OpenMode::Create).unwrap();
        file.begin(StoreId([5; 16]), "main", OwnerId(6)).unwrap();
        file.write(manifest(7)).unwrap();
        (disk, file)
    }

    fn put(file: &ManifestFile, bytes: &[u8], at: usize) {
        file.file().unwrap().write_all_at(bytes, at as u64).unwrap();
    }

    #[test]
    fn comes_back() {
        let (_disk, mut file) = written();
        assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(7), false));
        assert_eq!(file.read(StoreId([6; 16]), "main").unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(file.read(StoreId([5; 16]), "other").unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn of_a_pair_the_damaged_or_older_copy_is_written_first() {
        let whole = |generation| Copy::Whole(manifest(generation));
        assert_eq!(first_to_write(&[whole(7), whole(7)]), 0);
        assert_eq!(first_to_write(&[whole(7), Copy::Damaged]), 1);
        assert_eq!(first_to_write(&[Copy::Damaged, whole(7)]), 0);
        assert_eq!(first_to_write(&[whole(8), whole(7)]), 1);
        assert_eq!(first_to_write(&[Copy::Blank, Copy::Blank]), 0);
        let second = |generation| Copy::Whole(Manifest { written: Written::Second, ..manifest(generation) });
        assert_eq!(first_to_write(&[whole(7), second(7)]), 1);
        assert_eq!(first_to_write(&[second(7), whole(7)]), 0);
        assert!(second_follows(&[whole(7), second(7)]) && second_follows(&[second(7), whole(7)]));
        assert!(!second_follows(&[whole(8), second(7)]) && !second_follows(&[second(7), second(7)]));
        assert!(!second_follows(&[whole(7), whole(7)]) && !second_follows(&[Copy::Damaged, second(7)]));
        assert_eq!(first_to_write(&[second(8), whole(7)]), 1, "of two writes the older is written over");
        let newer = Manifest { epoch: Epoch(5), ..manifest(1) };
        assert_eq!(first_to_write(&[Copy::Whole(newer), whole(9)]), 1, "the epoch counts before the generation");
    }

    #[test]
    fn any_one_flipped_bit_of_a_copy_changes_nothing() {
        let (_disk, mut file) = written();
        for at in PAIRS.into_iter().flatten() {
            for bit in 0..COPY_BYTES * 8 {
                let mut byte = [0];
                file.file().unwrap().read_full_at(&mut byte, (at + bit / 8) as u64).unwrap();
                put(&file, &[byte[0] ^ (1 << (bit % 8))], at + bit / 8);
                assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(7), true));
                put(&file, &byte, at + bit / 8);
            }
        }
    }

    #[test]
    fn the_newer_copy_counts_and_both_damaged_is_an_error() {
        for pair in PAIRS {
            let (_disk, mut file) = written();
            put(&file, &encode(&manifest(8)), PAIRS[1][0]);
            assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(8), false));
            for at in pair {
                put(&file, &[0xFF; 8], at);
            }
            // Also when the others are whole: they may be older.
            assert_eq!(file.read(StoreId([5; 16]), "main").unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn an_interrupted_first_write_of_an_opening_is_no_damage() {
        let (_disk, mut file) = written();
        for at in PAIRS[1] {
            put(&file, &[0; COPY_BYTES], at);
        }
        put(&file, &[0xFF; 8], PAIRS[1][0]);
        let (found, damaged) = file.read(StoreId([5; 16]), "main").unwrap();
        assert_eq!((found.epoch, found.trim, damaged), (Epoch(0), None, false));
    }

    #[test]
    fn one_that_was_cut_short_is_damaged() {
        for len in [0, 256, 8192, 12288, HOLDER_AT, FILE_BYTES - 1] {
            let (_disk, mut file) = written();
            file.file().unwrap().set_len(len as u64).unwrap();
            assert_eq!(file.read(StoreId([5; 16]), "main").unwrap_err().kind(), ErrorKind::Corrupt, "{len}");
        }
    }

    #[test]
    fn a_lower_epoch_never_wins() {
        let (_disk, mut file) = written();
        let zombie = Manifest { generation: 1000, epoch: Epoch(2), ..manifest(7) };
        for at in PAIRS[0] {
            put(&file, &encode(&zombie), at);
        }
        assert_eq!(file.read(StoreId([5; 16]), "main").unwrap(), (manifest(7), false));
    }
}
