//! The file of the page that this owner shares with readers in other processes: made before the manifest names the
//! opening, locked as long as the owner lives, believed by nobody afterwards.
//!
//! Liveness is a lock, not a process id: ids are given out again, and a reader may live in another namespace of them.
//! The lock is on the page and not on the manifest, so a reader that asks for it can keep nobody from becoming the
//! owner. Nothing of the page is synced, and nothing of it is needed after a crash.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Core;
use super::layout::make_dir;
use super::loader::TopicLoader;
use crate::clock::Clock;
use crate::disk::{Disk, DiskFile, MapAccess, OpenMode, SharedMap};
use crate::error::{Error, Result};
use crate::ids::{Epoch, LogOffset, Lsn, PartitionId, TopicId};
use crate::page::{Board, PageName, PageState, Watch, Watched, file_words};
use crate::table::ScanRange;
use crate::topic::{Partition, PartitionState, SegmentRow, TopicSpec};
use crate::transaction::system::{self, CatalogueKey};
use crate::wake::{Arc, Mutex};

/// A reader that asks whether the page is locked holds its lock for a moment.
const LOCK_TRIES: u32 = 2000;
const LOCK_PAUSE: Duration = Duration::from_millis(1);

/// The page of a living owner. The lock ends with it.
pub(super) struct OwnerPage {
    /// `None` where processes cannot share memory: then readers know that there is an owner, and wait until it ends.
    board: Option<Arc<Board>>,
    lock: Mutex<Option<Box<dyn DiskFile>>>,
}

/// A partition as it is now, with the name of its topic.
pub(super) type PartitionNow = (TopicId, String, PartitionId, Watched);

impl Core {
    /// Shows what this opening has used so far; topics that are used from now on are shown when they are put together.
    /// Only before the store is handed out.
    pub(super) fn show_loaded(&self, loader: &TopicLoader) -> Result<()> {
        let Some(board) = self.page.as_ref().and_then(OwnerPage::board) else { return Ok(()) };
        let visible = self.pipeline.view.visible();
        for topic in self.pipeline.topics.all_loaded() {
            for partition in &topic.partitions {
                let watched = Watched { start: partition.start(), end: partition.end_at(visible) };
                board.show((topic.id, &topic.spec.name), partition.id, watched)?;
            }
        }
        board.publish(visible);
        *loader.board.lock() = Some(Arc::clone(board));
        Ok(())
    }

    /// Shows all other topics too, and then that the owner serves. Costs a look at a few rows for each partition, so
    /// it is the first work of the background and not part of the opening.
    fn show_rest(&self) -> Result<()> {
        let Some(board) = self.page.as_ref().and_then(OwnerPage::board) else { return Ok(()) };
        for (topic, name, partition, watched) in self.partitions_now()? {
            // One that was used meanwhile is shown already, and stays as it is.
            board.show((topic, &name), partition, watched)?;
        }
        board.serve();
        Ok(())
    }

    /// Shows what could not be shown before, for want of space or of descriptors: until that is done readers find
    /// nothing.
    pub(super) fn show_what_is_left(&self) {
        if self.page.as_ref().and_then(OwnerPage::board).is_some_and(|board| board.is_partial())
            && let Err(error) = self.show_rest()
        {
            tracing::warn!(%error, "readers in other processes cannot be shown what there is; tried again");
        }
    }

    /// All partitions of all topics. What is not in use is not put together for it: its rows say the same.
    pub(super) fn partitions_now(&self) -> Result<Vec<PartitionNow>> {
        let pin = self.pin_visible();
        let mut found = Vec::new();
        let (first, last) = (CatalogueKey::Topic(TopicId(0)).encode(), CatalogueKey::Topic(TopicId(u32::MAX)).encode());
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        for (key, row) in rows.scan(ScanRange::between(Bound::Included(&first), Bound::Included(&last)), pin.lsn())? {
            let Some(CatalogueKey::Topic(id)) = CatalogueKey::decode(&key) else { continue };
            let spec: TopicSpec = system::decode_row(&row)?;
            match self.pipeline.topics.loaded(id) {
                Some(topic) => {
                    let now = |partition: &Arc<Partition>| {
                        let watched = Watched { start: partition.start(), end: partition.end_at(pin.lsn()) };
                        (id, spec.name.clone(), partition.id, watched)
                    };
                    found.extend(topic.partitions.iter().map(now));
                }
                None => {
                    for number in 0..spec.partitions {
                        let (start, end) = self.at_trim_point(id, PartitionId(number), pin.lsn())?;
                        found.push((id, spec.name.clone(), PartitionId(number), Watched { start, end }));
                    }
                }
            }
        }
        Ok(found)
    }

    fn at_trim_point(&self, topic: TopicId, partition: PartitionId, lsn: Lsn) -> Result<(LogOffset, LogOffset)> {
        let key = system::partition_key(topic, partition);
        let state = self.tables.shard(system::PARTITIONS, system::SHARD).get(&key, lsn)?;
        let Some(state) = state else { return Ok(Default::default()) };
        let state: PartitionState = system::decode_row(&state)?;
        let last = [&key[..], &[0xff; 8]].concat();
        let segments = self.tables.shard(system::SEGMENTS, system::SHARD);
        let range = ScanRange::between(Bound::Included(&key), Bound::Included(&last));
        let first = segments.scan(ScanRange { limit: 1, ..range }, lsn)?;
        let first = first.first().map(|(_, row)| system::decode_row::<SegmentRow>(row)).transpose()?;
        Ok((first.map_or(state.start, |row| row.base_offset.max(state.start)), state.next_offset))
    }
}

/// The path of a file of a page.
pub(super) fn page_path(dir: &Path, epoch: Epoch, number: usize) -> PathBuf {
    dir.join(format!("{:010}-{number:03}.page", epoch.0))
}

fn is_of(path: &Path, epoch: Epoch) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{:010}-", epoch.0)))
}

impl OwnerPage {
    /// Makes the page of the opening `name.epoch`. Of those before only what tells of a failed journal stays, until
    /// [`OwnerPage::forget_earlier`]. Only with the owner's lock.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: the page could not be made.
    pub(super) fn make(disk: &Arc<dyn Disk>, clock: &dyn Clock, dir: &Path, name: PageName) -> Result<OwnerPage> {
        make_dir(&**disk, dir).map_err(|error| Error::io(dir, "make the place of the page", error))?;
        let path = page_path(dir, name.epoch, 0);
        let earlier = Earlier::find(disk, dir)?;
        remove_all(&**disk, dir, |page| *page != path && earlier.pages.iter().any(|kept| kept == page))?;
        let file = make_file(&**disk, &path, 0)?;
        lock(&*file, &path, clock)?;
        let board = match disk.map_shared(&path, file_words(0), MapAccess::Write) {
            Ok(head) => Some(Arc::new(Board::begin(name, maker(disk, dir, name.epoch, head))?)),
            Err(error) => {
                tracing::warn!(%error, "no shared memory: readers in other processes wait until this store is closed");
                None
            }
        };
        Ok(OwnerPage { board, lock: Mutex::new(Some(file)) })
    }

    /// What is written as things become visible.
    pub(super) fn board(&self) -> Option<&Arc<Board>> {
        self.board.as_ref()
    }

    /// A recovery is complete and durable: what earlier openings left in doubt is settled.
    pub(super) fn forget_earlier(disk: &dyn Disk, dir: &Path, epoch: Epoch) {
        if let Err(error) = remove_all(disk, dir, |path| is_of(path, epoch)) {
            // From now on our own page says that nothing before it counts.
            tracing::warn!(%error, "an old page stays");
        }
    }

    /// An opening has ended for want of space before it showed anything: its page says nothing, and goes.
    pub(super) fn forget_own(disk: &dyn Disk, dir: &Path, epoch: Epoch) {
        let _ = remove_all(disk, dir, |path| !is_of(path, epoch));
    }

    /// The owner ends: readers look for themselves from now on.
    pub(super) fn end(&self, state: PageState) {
        if let Some(board) = &self.board {
            board.set_state(state);
        }
        *self.lock.lock() = None;
        if let Some(board) = &self.board {
            // Once more: who looked between the two saw an owner that has ended and is still there.
            board.set_state(state);
        }
    }
}

/// Makes further files; the first is there.
fn maker(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    epoch: Epoch,
    head: Arc<dyn SharedMap>,
) -> Box<dyn Fn(usize) -> Result<Arc<dyn SharedMap>> + Send + Sync> {
    let (disk, dir) = (Arc::clone(disk), dir.to_owned());
    Box::new(move |number| {
        if number == 0 {
            return Ok(Arc::clone(&head));
        }
        let path = page_path(&dir, epoch, number);
        make_file(&*disk, &path, number)?;
        disk.map_shared(&path, file_words(number), MapAccess::Write)
            .map_err(|error| Error::io(&path, "map a page", error))
    })
}

/// Makes a file of zeros with all its blocks: what has none could fail when it is first touched, and that is a signal.
fn make_file(disk: &dyn Disk, path: &Path, number: usize) -> Result<Box<dyn DiskFile>> {
    let bytes = file_words(number) as u64 * 8;
    // There is one already if an earlier attempt to add it failed half-way.
    let file = disk.open(path, OpenMode::Create).map_err(|error| Error::io(path, "make a page", error))?;
    let sized = file.set_len(bytes).and_then(|()| file.preallocate(bytes));
    match sized {
        Ok(()) => Ok(file),
        Err(error) => {
            // Best effort: the next opening removes it too.
            let _ = disk.remove(path);
            Err(Error::io(path, "make a page", error))
        }
    }
}

fn lock(file: &dyn DiskFile, path: &Path, clock: &dyn Clock) -> Result<()> {
    for _ in 0..LOCK_TRIES {
        if file.try_lock().map_err(|error| Error::io(path, "lock a page", error))? {
            return Ok(());
        }
        clock.sleep(LOCK_PAUSE);
    }
    Err(Error::locked(path, "another process has the page of this store", None))
}

/// What the pages say that no owner holds any more: down to the newest opening that has served.
pub(super) struct Earlier {
    pages: Vec<PathBuf>,
    /// The journal of one of them failed, in this running of the machine: then this was visible, and what lies behind
    /// it may be in the page cache alone.
    pub(super) failed_at: Option<Lsn>,
}

impl Earlier {
    /// An opening that ended before it served has settled nothing, so what was before it is asked too.
    pub(super) fn find(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Earlier> {
        let mut found = match disk.list(dir) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Error::io(dir, "list the pages", error)),
        };
        found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with("-000.page")));
        // Names begin with the epoch, in as many digits each.
        found.sort_by(|one, other| other.cmp(one));
        let (mut pages, mut visible, mut failed) = (Vec::new(), Lsn(0), false);
        for path in found {
            let map = |number| {
                let mapped = disk.map_shared(&path, file_words(number), MapAccess::Read);
                mapped.map_err(|error| Error::io(&path, "map a page", error))
            };
            // One that is not made to the end says nothing, nor does one of another running of the machine.
            let Ok(head) = map(0) else { continue };
            let Ok(Some(watch)) = Watch::open(Box::new(move |_| Ok(Arc::clone(&head)))) else { continue };
            if watch.name().boot != disk.boot_id() {
                continue;
            }
            pages.push(path);
            visible = visible.max(watch.visible());
            match watch.state() {
                PageState::Partial => {}
                PageState::Failed => failed = true,
                PageState::Serving | PageState::Closed => break,
            }
        }
        Ok(Earlier { pages, failed_at: failed.then_some(visible) })
    }
}

fn remove_all(disk: &dyn Disk, dir: &Path, keep: impl Fn(&Path) -> bool) -> Result<()> {
    let mut found = disk.list(dir).map_err(|error| Error::io(dir, "list the pages", error))?;
    found.sort();
    let is_page = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "page");
    for path in found.iter().filter(is_page).filter(|path| !keep(path)) {
        match disk.remove(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(path, "remove an old page", error));
            }
            _ => {}
        }
    }
    Ok(())
}
