//! A table file: the space of blocks that the library sees, each block with its check.
//!
//! Invariants:
//! * Blocks that the state in force uses are never written. Within its commits the library writes copies only. What it
//!   writes when its own commit is done, and ours is not, is held in memory until the next one begins.
//! * Every block that is read is checked. A block without a check that admits it is `Corrupt`, and so is one of a later
//!   generation than the state that is read. A reader beside the owner meets such blocks when the owner has gone on and
//!   uses the room again; `store` tells that from damage by asking the manifest which state is in force.
//! * The library's header is in memory only. [`BlockFile::settle`] makes a [`TableRoot`] of it when all is durable.
//!
//! Neighbours: `blocks` says what is where, `store` drives the library over this.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::blocks::{
    BLOCK_BYTES, Check, GROUP_BLOCKS, HEAD_BYTES, ROOT_HEAD_BYTES, TableFileName, TableRoot, block_at, check_head,
    checks_at, encode_head, end_of, is_later, short,
};
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{Epoch, StoreId};
use crate::wake::plain::{AtomicBool, AtomicU64, Mutex, RwLock};
use crate::wake::{Arc, Ordering};

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Blocks held in memory until about this many bytes are written in one go, in order.
const HELD_BYTES: usize = 4 << 20;
/// One write to the disk at most.
const RUN_BYTES: usize = 1 << 20;
/// Where the library's header says which of its two slots counts: its tenth byte, lowest bit.
const PRIMARY_AT: usize = 9;

/// A table file of one owner. Readers of blocks share it with one writer.
pub(super) struct BlockFile {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    name: TableFileName,
    file: Box<dyn DiskFile>,
    space: RwLock<Space>,
    groups: RwLock<BTreeMap<u64, Arc<Group>>>,
    groups_max: usize,
    /// One write to the file at a time.
    writing: Mutex<()>,
    /// The name may not be durable yet.
    fresh: AtomicBool,
}

/// What the library sees beyond the blocks on disk.
struct Space {
    head: Box<[u8; ROOT_HEAD_BYTES]>,
    len: u64,
    generation: u64,
    /// No generation up to this one is written here: the opening before may have written it, and a manifest that named
    /// it may have been seen and lost.
    floor: u64,
    held: BTreeMap<u64, Arc<[u8]>>,
    phase: Phase,
}

/// What becomes of blocks that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// They stay in memory: no commit is under way.
    Holding,
    /// They go to the file; the header's slot was this when the commit began.
    Committing(u8),
    /// They stay in memory: the library's commit is done, ours is not.
    Committed,
}

/// The checks of the blocks of one group.
struct Group {
    checks: Vec<AtomicU64>,
    dirty: AtomicBool,
}

impl BlockFile {
    /// Makes a new, empty file.
    pub(super) fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        store: StoreId,
        name: TableFileName,
        groups_max: usize,
    ) -> Result<BlockFile> {
        let path = name.path(dir);
        let doing = |error| Error::io(&path, "make the table file", error);
        let file = disk.open(&path, OpenMode::CreateNew).map_err(doing)?;
        file.write_all_at(&encode_head(store, name), 0).map_err(doing)?;
        let head = Box::new([0; ROOT_HEAD_BYTES]);
        Ok(BlockFile::over(disk, dir, name, file, head, (0, 0), groups_max, true))
    }

    /// Opens the file that `root` names, as `root` says. With [`OpenMode::Read`] nothing can be committed.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        store: StoreId,
        root: &TableRoot,
        mode: OpenMode,
        groups_max: usize,
    ) -> Result<BlockFile> {
        let path = root.file.path(dir);
        let file = disk.open(&path, mode).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(&path, 0, "the table file is gone"),
            _ => Error::io(&path, "open the table file", error),
        })?;
        let mut head = [0; HEAD_BYTES];
        let read = file.read_full_at(&mut head, 0).map_err(|error| Error::io(&path, "read the table file", error))?;
        check_head(&head[..read], store, root.file, &path)?;
        let floor = if mode == OpenMode::Read { root.generation } else { root.generation.saturating_add(1) };
        let opened =
            BlockFile::over(disk, dir, root.file, file, root.head.clone(), (root.len, floor), groups_max, false);
        opened.space.write().floor = floor;
        Ok(opened)
    }

    /// Makes the file of the opening `epoch`, with the same salt, of what `root` says of another one; gives the root
    /// that means it. Blocks are taken over as they are, with their checks: what is damaged stays so, and is told when
    /// it is read.
    ///
    /// # Errors
    /// As [`BlockFile::open`]; `Full`.
    pub(super) fn copy(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        store: StoreId,
        root: &TableRoot,
        epoch: Epoch,
        groups_max: usize,
    ) -> Result<(BlockFile, TableRoot)> {
        let from = BlockFile::open(disk, dir, store, root, OpenMode::Read, groups_max)?;
        let name = TableFileName { epoch, ..root.file };
        let path = name.path(dir);
        let doing = |error| Error::io(&path, "copy the table file", error);
        // An attempt that failed may have begun it.
        let file = disk.open(&path, OpenMode::Create).map_err(doing)?;
        file.set_len(0).and_then(|()| file.write_all_at(&encode_head(store, name), 0)).map_err(doing)?;
        for group in 0..root.len.div_ceil(BLOCK).div_ceil(GROUP_BLOCKS) {
            from.copy_group(group, &*file).map_err(doing)?;
        }
        let root = TableRoot { file: name, ..root.clone() };
        let floor = root.generation.saturating_add(1);
        let opened = BlockFile::over(disk, dir, name, file, root.head.clone(), (root.len, floor), groups_max, true);
        opened.space.write().floor = floor;
        Ok((opened, root))
    }

    /// Copies the checks of a group, and what lies between its first and its last block that was ever written.
    fn copy_group(&self, group: u64, to: &dyn DiskFile) -> io::Result<()> {
        let mut checks = vec![0; BLOCK_BYTES];
        self.file.read_full_at(&mut checks, checks_at(group))?;
        let (entries, _) = checks.as_chunks::<8>();
        let written = |entry: &[u8; 8]| *entry != [0; 8];
        let (Some(first), Some(last)) = (entries.iter().position(written), entries.iter().rposition(written)) else {
            return Ok(());
        };
        to.write_all_at(&checks, checks_at(group))?;
        let mut position = block_at(group * GROUP_BLOCKS + first as u64);
        let end = block_at(group * GROUP_BLOCKS + last as u64) + BLOCK;
        let mut bytes = vec![0; RUN_BYTES];
        while position < end {
            let wanted = bytes.len().min(usize::try_from(end - position).unwrap_or(RUN_BYTES));
            let read = self.file.read_full_at(&mut bytes[..wanted], position)?;
            to.write_all_at(&bytes[..read], position)?;
            if read < wanted {
                break;
            }
            position += read as u64;
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the constructors above are the only callers")]
    fn over(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        name: TableFileName,
        file: Box<dyn DiskFile>,
        head: Box<[u8; ROOT_HEAD_BYTES]>,
        (len, generation): (u64, u64),
        groups_max: usize,
        fresh: bool,
    ) -> BlockFile {
        let space = Space { head, len, generation, floor: 0, held: BTreeMap::new(), phase: Phase::Holding };
        BlockFile {
            disk: Arc::clone(disk),
            dir: dir.to_owned(),
            path: name.path(dir),
            name,
            file,
            space: RwLock::new(space),
            groups: RwLock::default(),
            groups_max: groups_max.max(4),
            writing: Mutex::new(()),
            fresh: AtomicBool::new(fresh),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn name(&self) -> TableFileName {
        self.name
    }

    /// The next generation begins: blocks that are written go to the file, but only as far as a commit of the library
    /// has not yet been seen to end.
    pub(super) fn begin(&self) {
        let mut space = self.space.write();
        space.generation += 1;
        space.phase = Phase::Committing(space.head[PRIMARY_AT] & 1);
    }

    /// Makes what the library has committed durable; what is in the file then means the root that is given.
    ///
    /// # Errors
    /// `Full`: the file is to be [rolled back](BlockFile::roll_back) and may be used; anything else ends its use.
    pub(super) fn settle(&self) -> Result<TableRoot> {
        if self.space.read().phase != Phase::Committed {
            return Err(Error::corrupt(&self.path, 0, "the library's commit was not seen to end"));
        }
        self.write_checks().map_err(|error| Error::io(&self.path, "write the table file", error))?;
        let synced = self.file.sync(SyncSite::TableFile);
        synced.map_err(|error| Error::sync(&self.path, "sync the table file", error))?;
        if self.fresh.load(Ordering::SeqCst) {
            let synced = self.disk.sync_dir(&self.dir, SyncSite::TableDir);
            synced.map_err(|error| Error::sync(&self.dir, "sync the table file's name", error))?;
            self.fresh.store(false, Ordering::SeqCst);
        }
        let mut space = self.space.write();
        space.phase = Phase::Holding;
        Ok(TableRoot { file: self.name, generation: space.generation, len: space.len, head: space.head.clone() })
    }

    /// Back to `root`, or to an empty file: nothing that was written since counts, and its room is given back.
    pub(super) fn roll_back(&self, root: Option<&TableRoot>) {
        let _one = self.writing.lock();
        let mut space = self.space.write();
        let empty = || Box::new([0; ROOT_HEAD_BYTES]);
        space.head = root.map_or_else(empty, |root| root.head.clone());
        space.len = root.map_or(0, |root| root.len);
        space.generation = root.map_or(0, |root| root.generation).max(space.floor);
        space.held.clear();
        space.phase = Phase::Holding;
        self.groups.write().clear();
        self.cut(space.len);
    }

    /// Forgets blocks that the library wrote behind its last commit: for a library that is opened anew.
    pub(super) fn drop_held(&self) {
        self.space.write().held.clear();
    }

    /// Gives back what lies behind the end of a space of `len` bytes. Best effort: it is only room.
    pub(super) fn cut(&self, len: u64) {
        let end = end_of(len);
        if self.file.len().is_ok_and(|now| now > end) {
            let _ = self.file.set_len(end);
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.space.read().len
    }

    /// Sets the length of the space. The file grows when blocks are written, and shrinks when nobody can want them.
    pub(super) fn set_len(&self, len: u64) {
        let mut space = self.space.write();
        space.len = len;
        drop(space.held.split_off(&len.div_ceil(BLOCK)));
    }

    /// Fills `out` with what is at `offset`: whole blocks, or a part of the header.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset < BLOCK {
            let space = self.space.read();
            for (at, byte) in (offset..).zip(out) {
                *byte = in_head(at).and_then(|at| space.head.get(at).copied()).unwrap_or(0);
            }
            return Ok(());
        }
        self.whole_blocks(offset, out.len())?;
        let first = offset / BLOCK;
        for (block, bytes) in (first..).zip(out.chunks_mut(BLOCK_BYTES)) {
            let (held, generation) = {
                let space = self.space.read();
                (space.held.get(&block).cloned(), short(space.generation))
            };
            match held {
                Some(held) => bytes.copy_from_slice(&held),
                None => self.read_block(block, generation, bytes).map_err(in_io)?,
            }
        }
        Ok(())
    }

    fn read_block(&self, block: u64, newest: u32, bytes: &mut [u8]) -> Result<()> {
        let position = block_at(block);
        let read = self.file.read_full_at(bytes, position);
        let read = read.map_err(|error| Error::io(&self.path, "read the table file", error))?;
        if read < bytes.len() {
            return Err(Error::corrupt(&self.path, position, "the table file was cut short"));
        }
        let check = self.group(block / GROUP_BLOCKS)?.check(block);
        if !check.admits(self.name.salt, block, bytes) {
            return Err(Error::corrupt(&self.path, position, "a block of the table file is damaged"));
        }
        if is_later(check.generation(), newest) {
            return Err(Error::corrupt(&self.path, position, "a block of the table file is of a later state"));
        }
        Ok(())
    }

    /// Takes what the library writes: blocks as a whole, or its header.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset < BLOCK {
            let mut space = self.space.write();
            let from = in_head(offset).unwrap_or(usize::MAX);
            let Some(place) = space.head.get_mut(from..).and_then(|rest| rest.get_mut(..bytes.len())) else {
                return Err(io::Error::other("the library's header is longer than it was"));
            };
            place.copy_from_slice(bytes);
            return Ok(());
        }
        self.whole_blocks(offset, bytes.len())?;
        let full = {
            let mut space = self.space.write();
            for (block, bytes) in (offset / BLOCK..).zip(bytes.chunks(BLOCK_BYTES)) {
                space.held.insert(block, Arc::from(bytes));
            }
            matches!(space.phase, Phase::Committing(_)) && space.held.len() * BLOCK_BYTES >= HELD_BYTES
        };
        if full { self.write_held() } else { Ok(()) }
    }

    /// The library asks for all it wrote to be durable. That is when its commit ends, if its header says so; ours makes
    /// it durable when it settles.
    pub(super) fn barrier(&self) -> io::Result<()> {
        if !matches!(self.space.read().phase, Phase::Committing(_)) {
            return Ok(());
        }
        self.write_held()?;
        let mut space = self.space.write();
        if let Phase::Committing(before) = space.phase
            && space.head[PRIMARY_AT] & 1 != before
        {
            space.phase = Phase::Committed;
        }
        Ok(())
    }

    fn whole_blocks(&self, offset: u64, bytes: usize) -> io::Result<()> {
        if offset.is_multiple_of(BLOCK) && bytes.is_multiple_of(BLOCK_BYTES) {
            Ok(())
        } else {
            Err(io::Error::other(format!("{bytes} bytes at {offset} are not whole blocks")))
        }
    }

    /// Writes the blocks that are held, in order, those that lie side by side in one go.
    fn write_held(&self) -> io::Result<()> {
        let _one = self.writing.lock();
        let (held, generation) = {
            let space = self.space.read();
            let held: Vec<_> = space.held.iter().map(|(block, bytes)| (*block, Arc::clone(bytes))).collect();
            (held, short(space.generation))
        };
        for run in runs(&held) {
            self.write_run(run, generation).map_err(in_io)?;
        }
        let mut space = self.space.write();
        for (block, written) in &held {
            if space.held.get(block).is_some_and(|now| Arc::ptr_eq(now, written)) {
                space.held.remove(block);
            }
        }
        Ok(())
    }

    fn write_run(&self, run: &[(u64, Arc<[u8]>)], generation: u32) -> Result<()> {
        let Some((first, _)) = run.first() else { return Ok(()) };
        let group = self.group_to_change(first / GROUP_BLOCKS)?;
        let mut bytes = Vec::with_capacity(run.len() * BLOCK_BYTES);
        for (block, content) in run {
            bytes.extend_from_slice(content);
            group.set(*block, Check::of(self.name.salt, *block, generation, content));
        }
        let written = self.file.write_all_at(&bytes, block_at(*first));
        written.map_err(|error| Error::io(&self.path, "write the table file", error))
    }

    fn write_checks(&self) -> io::Result<()> {
        let _one = self.writing.lock();
        let mut groups = self.groups.write();
        for (group, checks) in groups.iter().filter(|(_, checks)| checks.dirty.load(Ordering::SeqCst)) {
            self.file.write_all_at(&checks.encode(), checks_at(*group))?;
            checks.dirty.store(false, Ordering::SeqCst);
        }
        if groups.len() > self.groups_max {
            groups.clear();
        }
        Ok(())
    }

    fn group(&self, number: u64) -> Result<Arc<Group>> {
        if let Some(found) = self.groups.read().get(&number) {
            return Ok(Arc::clone(found));
        }
        let mut groups = self.groups.write();
        self.load(&mut groups, number)
    }

    /// The group, which stays in memory until it is written.
    fn group_to_change(&self, number: u64) -> Result<Arc<Group>> {
        let mut groups = self.groups.write();
        let group = self.load(&mut groups, number)?;
        group.dirty.store(true, Ordering::SeqCst);
        Ok(group)
    }

    fn load(&self, groups: &mut BTreeMap<u64, Arc<Group>>, number: u64) -> Result<Arc<Group>> {
        if let Some(found) = groups.get(&number) {
            return Ok(Arc::clone(found));
        }
        if groups.len() >= self.groups_max {
            groups.retain(|_, group| group.dirty.load(Ordering::SeqCst));
        }
        let mut bytes = vec![0; BLOCK_BYTES];
        // What lies behind the end of the file was never written.
        let read = self.file.read_full_at(&mut bytes, checks_at(number));
        read.map_err(|error| Error::io(&self.path, "read the table file", error))?;
        let group = Arc::new(Group::decode(&bytes));
        groups.insert(number, Arc::clone(&group));
        Ok(group)
    }
}

impl Group {
    fn decode(bytes: &[u8]) -> Group {
        let (checks, _) = bytes.as_chunks::<8>();
        let checks = checks.iter().map(|check| AtomicU64::new(u64::from_le_bytes(*check))).collect();
        Group { checks, dirty: AtomicBool::new(false) }
    }

    fn encode(&self) -> Vec<u8> {
        self.checks.iter().flat_map(|check| check.load(Ordering::SeqCst).to_le_bytes()).collect()
    }

    fn check(&self, block: u64) -> Check {
        Check(self.checks[in_group(block)].load(Ordering::SeqCst))
    }

    fn set(&self, block: u64, check: Check) {
        self.checks[in_group(block)].store(check.0, Ordering::SeqCst);
    }
}

/// Blocks that lie side by side in the file, a write's worth at a time.
fn runs(held: &[(u64, Arc<[u8]>)]) -> impl Iterator<Item = &[(u64, Arc<[u8]>)]> {
    let together = |a: &(u64, Arc<[u8]>), b: &(u64, Arc<[u8]>)| a.0 + 1 == b.0 && !b.0.is_multiple_of(GROUP_BLOCKS);
    held.chunk_by(together).flat_map(|run| run.chunks(RUN_BYTES / BLOCK_BYTES))
}

fn in_head(offset: u64) -> Option<usize> {
    usize::try_from(offset).ok()
}

/// Which of its group a block is.
fn in_group(block: u64) -> usize {
    usize::try_from(block % GROUP_BLOCKS).unwrap_or(0)
}

/// Our own error on its way through the library.
fn in_io(error: Error) -> io::Error {
    io::Error::other(error)
}
