//! The backend over redb: a copy-on-write B-tree on a [`BlockFile`].
//!
//! ```text
//! apply: begin -> one redb commit (blocks, then its header in memory) -> settle: checks, one sync -> TableRoot
//!        -> the caller makes the root durable in the manifest -> confirm
//! ```
//!
//! Invariants:
//! * A state is in force when the manifest names its root. Until then the one before is whole in the file.
//! * The LSN that a state reflects is a row of it, so a root of one time and blocks of another do not pass.
//! * The library never reads all of a file: its allocator's state is part of each commit, and where it would do
//!   without, the answer is `Corrupt`.
//! * Whatever goes wrong inside the library, a panic included, ends its instance and not the process; the next call
//!   opens another one over the same blocks.

use std::fmt;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::result::Result as StdResult;

use bytes::Bytes;
use redb::{ReadOnlyTable, ReadableDatabase, StorageError, TableDefinition, TableError};

use super::backend::{Direction, TableBackend, TableBatch, Visit};
use super::blocks::{TableFileName, TableRoot};
use super::file::BlockFile;
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, StoreId};
use crate::wake::{Arc, Mutex, Ordering, RwLock, plain};

type Rows = ReadOnlyTable<&'static [u8], &'static [u8]>;

const ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");
/// The row of the LSN that the state reflects: before all flat keys, which have eight bytes at least.
const LSN_KEY: &[u8] = &[];
/// Of the memory given, the part for checks of blocks.
const CHECKS_SHARE: usize = 16;
/// What one group of checks takes.
const GROUP_MEMORY: usize = 4096 + 128;

/// Where and for whom a table file is.
#[derive(Clone)]
pub(crate) struct TableHome {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) store: StoreId,
    /// Bytes of memory for what was read and for what is being written.
    pub(crate) memory: usize,
}

impl TableHome {
    fn groups_max(&self) -> usize {
        self.memory / CHECKS_SHARE / GROUP_MEMORY
    }
}

/// All rows of one owner, in one table file.
pub(crate) struct TableStore {
    file: Arc<BlockFile>,
    cache_bytes: usize,
    /// An instance of the library; none before the first question and after a failure.
    live: RwLock<Option<Arc<Live>>>,
    /// One change at a time, opening the library included.
    changing: Mutex<()>,
    /// The state in force: the file goes back to it when a change fails.
    root: Mutex<Option<TableRoot>>,
    /// The newest state, in force or about to be.
    newest: Mutex<Option<TableRoot>>,
}

impl TableStore {
    /// A new file without rows.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub(crate) fn create(home: &TableHome, name: TableFileName) -> Result<TableStore> {
        let file = BlockFile::create(&home.disk, &home.dir, home.store, name, home.groups_max())?;
        Ok(TableStore::over(home, file, None))
    }

    /// The file as `root` says, which reflects `lsn`. With [`OpenMode::Read`] it can be read only.
    ///
    /// # Errors
    /// `Corrupt`: it is not there, or not what was written; `UnsupportedVersion`.
    pub(crate) fn open(home: &TableHome, root: &TableRoot, lsn: Lsn, mode: OpenMode) -> Result<TableStore> {
        let file = BlockFile::open(&home.disk, &home.dir, home.store, root, mode, home.groups_max())?;
        if mode != OpenMode::Read {
            // What lies behind was written by a process that did not come to name it.
            file.cut(root.len);
        }
        TableStore::at(home, file, root.clone(), lsn)
    }

    /// A new file of the opening `epoch`, with what `root` says of another: for an opening that cannot know whether
    /// somebody else still writes to that.
    ///
    /// # Errors
    /// As [`TableStore::open`]; `Full`.
    pub(crate) fn copy(home: &TableHome, root: &TableRoot, lsn: Lsn, epoch: Epoch) -> Result<TableStore> {
        let (file, root) = BlockFile::copy(&home.disk, &home.dir, home.store, root, epoch, home.groups_max())?;
        TableStore::at(home, file, root, lsn)
    }

    fn at(home: &TableHome, file: BlockFile, root: TableRoot, lsn: Lsn) -> Result<TableStore> {
        let store = TableStore::over(home, file, Some(root));
        let found = store.read(|rows| Ok(rows.get(LSN_KEY)?.map(|lsn| lsn.value().to_vec())))?;
        if found.as_deref() != Some(&lsn.0.to_le_bytes()) {
            return Err(Error::corrupt(store.path(), 0, format!("the table file is not that of LSN {lsn}")));
        }
        Ok(store)
    }

    fn over(home: &TableHome, file: BlockFile, root: Option<TableRoot>) -> TableStore {
        TableStore {
            file: Arc::new(file),
            cache_bytes: home.memory - home.memory / CHECKS_SHARE,
            live: RwLock::default(),
            changing: Mutex::new(()),
            newest: Mutex::new(root.clone()),
            root: Mutex::new(root),
        }
    }

    /// What the manifest must name for the last [`TableBackend::apply`] to be in force.
    pub(crate) fn root(&self) -> Option<TableRoot> {
        self.newest.lock().clone()
    }

    /// The manifest names the last [`TableStore::root`], durably: the state before is given up.
    pub(crate) fn confirm(&self) {
        let newest = self.root();
        if let Some(root) = &newest {
            self.file.cut(root.len);
        }
        *self.root.lock() = newest;
    }

    /// All rows of the newest state, as they are now: what makes them up is not given up before this is dropped.
    pub(crate) fn hold(&self) -> Result<HeldRows> {
        Ok(HeldRows { live: self.live()?, path: self.path().to_owned() })
    }

    pub(crate) fn name(&self) -> TableFileName {
        self.file.name()
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    /// Asks the rows of the newest state. If another thread's failure has ended the instance meanwhile, asks again.
    fn read<T>(&self, mut ask: impl FnMut(&Rows) -> StdResult<T, StorageError>) -> Result<T>
    where
        T: Default,
    {
        let mut again = true;
        loop {
            let live = self.live()?;
            let Some(rows) = &live.rows else { return Ok(T::default()) };
            let failed = match catch_unwind(AssertUnwindSafe(|| ask(rows))) {
                Ok(Ok(found)) => return Ok(found),
                Ok(Err(error)) => Failed::of(error.into(), self.path()),
                Err(_) => Failed::panicked(self.path()),
            };
            self.give_up(&live);
            if !(failed.by_another && std::mem::take(&mut again)) {
                return Err(failed.error);
            }
        }
    }

    fn live(&self) -> Result<Arc<Live>> {
        if let Some(live) = &*self.live.read() {
            return Ok(Arc::clone(live));
        }
        let _one = self.changing.lock();
        self.live_now()
    }

    /// As [`TableStore::live`], while no change is under way.
    fn live_now(&self) -> Result<Arc<Live>> {
        if let Some(live) = &*self.live.read() {
            return Ok(Arc::clone(live));
        }
        self.file.drop_held();
        let live = Arc::new(Live::open(&self.file, self.cache_bytes)?);
        *self.live.write() = Some(Arc::clone(&live));
        Ok(live)
    }

    /// Ends an instance, so that the next question opens another.
    fn give_up(&self, ended: &Arc<Live>) {
        let mut live = self.live.write();
        if live.as_ref().is_some_and(|live| Arc::ptr_eq(&live.instance, &ended.instance)) {
            *live = None;
        }
    }

    fn change(&self, batch: &TableBatch, lsn: Lsn) -> StdResult<(Live, TableRoot), Failed> {
        let live = self.live_now().map_err(Failed::alone)?;
        self.file.begin();
        let changed = catch_unwind(AssertUnwindSafe(|| live.commit(batch, lsn)));
        let changed = changed.map_err(|_| Failed::panicked(self.path()))?;
        changed.map_err(|error| Failed::of(error, self.path()))?;
        let root = self.file.settle().map_err(Failed::alone)?;
        let next = catch_unwind(AssertUnwindSafe(|| live.renewed())).map_err(|_| Failed::panicked(self.path()))?;
        Ok((next.map_err(|error| Failed::of(error, self.path()))?, root))
    }
}

impl TableBackend for TableStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.read(|rows| Ok(rows.get(key)?.map(|value| Bytes::copy_from_slice(value.value()))))
    }

    fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<()> {
        // What was visited before a failure of another thread is not visited twice.
        let mut last: Option<Vec<u8>> = None;
        self.read(|rows| {
            let (start, end) = match (&last, direction) {
                (Some(last), Direction::Up) => (Bound::Excluded(last.as_slice()), end),
                (Some(last), Direction::Down) => (start, Bound::Excluded(last.as_slice())),
                (None, _) => (start, end),
            };
            let mut range = rows.range::<&[u8]>((start, end))?;
            let mut seen = None;
            let mut step = || -> StdResult<bool, StorageError> {
                let row = match direction {
                    Direction::Up => range.next(),
                    Direction::Down => range.next_back(),
                };
                let Some(row) = row else { return Ok(false) };
                let (key, value) = row?;
                let going_on = visit(key.value(), value.value()) == Visit::Next;
                seen = Some(key);
                Ok(going_on)
            };
            let ended = loop {
                match step() {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            if let (Err(_), Some(key)) = (&ended, seen) {
                last = Some(key.value().to_vec());
            }
            ended
        })
    }

    fn apply(&self, batch: &TableBatch, lsn: Lsn) -> Result<()> {
        let _one = self.changing.lock();
        let mut again = true;
        loop {
            let failed = match self.change(batch, lsn) {
                Ok((live, root)) => {
                    *self.live.write() = Some(Arc::new(live));
                    *self.newest.lock() = Some(root);
                    return Ok(());
                }
                Err(failed) => failed,
            };
            if let Some(live) = self.live.write().take() {
                live.instance.retire();
            }
            self.file.roll_back(self.root.lock().as_ref());
            if !(failed.by_another && std::mem::take(&mut again)) {
                return Err(failed.error);
            }
        }
    }
}

/// See [`TableStore::hold`].
pub(crate) struct HeldRows {
    live: Arc<Live>,
    path: PathBuf,
}

impl HeldRows {
    /// The LSN that they reflect; `None`: nothing was ever applied.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn lsn(&self) -> Result<Option<Lsn>> {
        let row = self.ask(|rows| Ok(rows.get(LSN_KEY)?.map(|lsn| lsn.value().first_chunk().copied())))?;
        Ok(row.flatten().flatten().map(|lsn| Lsn(u64::from_le_bytes(lsn))))
    }

    /// Hands the rows with flat keys from `first` on to `each`, in order, until it answers `Stop`.
    ///
    /// # Errors
    /// `Corrupt`; what `each` fails with.
    pub(crate) fn each(&self, first: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Result<Visit>) -> Result<()> {
        let asked = self.ask(|rows| {
            for row in rows.range::<&[u8]>(first..)? {
                let (key, value) = row?;
                if key.value() == LSN_KEY {
                    continue;
                }
                match each(key.value(), value.value()) {
                    Ok(Visit::Next) => {}
                    Ok(Visit::Stop) => break,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(()))
        });
        asked?.unwrap_or(Ok(()))
    }

    /// `None`: nothing was ever applied.
    fn ask<T>(&self, ask: impl FnOnce(&Rows) -> StdResult<T, redb::Error>) -> Result<Option<T>> {
        let Some(rows) = &self.live.rows else { return Ok(None) };
        match catch_unwind(AssertUnwindSafe(|| ask(rows))) {
            Ok(Ok(asked)) => Ok(Some(asked)),
            Ok(Err(error)) => Err(Failed::of(error, &self.path).error),
            Err(_) => Err(Failed::panicked(&self.path).error),
        }
    }
}

/// An instance of the library, and the rows of the newest state that it shows.
struct Live {
    /// None before the first commit.
    rows: Option<Rows>,
    instance: Arc<Instance>,
}

/// The library itself. When it is dropped nothing that it would still write reaches the file.
struct Instance {
    library: Option<redb::Database>,
    retired: Arc<plain::AtomicBool>,
}

impl Live {
    fn open(file: &Arc<BlockFile>, cache_bytes: usize) -> Result<Live> {
        let retired = Arc::new(plain::AtomicBool::new(false));
        let space = LibrarySpace { file: Arc::clone(file), retired: Arc::clone(&retired) };
        let opened = catch_unwind(AssertUnwindSafe(|| -> StdResult<Live, redb::Error> {
            let mut builder = redb::Builder::new();
            builder.set_cache_size(cache_bytes);
            // It would read all of the file: never needed, as each commit holds what is needed to do without.
            builder.set_repair_callback(redb::RepairSession::abort);
            let library = builder.create_with_backend(space)?;
            let instance = Arc::new(Instance { library: Some(library), retired });
            let rows = instance.rows()?;
            Ok(Live { rows, instance })
        }));
        match opened {
            Ok(opened) => opened.map_err(|error| Failed::of(error, file.path()).error),
            Err(_) => Err(Failed::panicked(file.path()).error),
        }
    }

    fn commit(&self, batch: &TableBatch, lsn: Lsn) -> StdResult<(), redb::Error> {
        let Some(library) = &self.instance.library else { return Err(redb::Error::DatabaseClosed) };
        let mut change = library.begin_write()?;
        change.set_quick_repair(true);
        {
            let mut rows = change.open_table(ROWS)?;
            for (key, value) in batch {
                match value {
                    Some(value) => drop(rows.insert(key.as_slice(), &**value)?),
                    None => drop(rows.remove(key.as_slice())?),
                }
            }
            rows.insert(LSN_KEY, lsn.0.to_le_bytes().as_slice())?;
        }
        change.commit()?;
        Ok(())
    }

    /// The same instance, showing the newest state.
    fn renewed(&self) -> StdResult<Live, redb::Error> {
        Ok(Live { rows: self.instance.rows()?, instance: Arc::clone(&self.instance) })
    }
}

impl Instance {
    fn rows(&self) -> StdResult<Option<Rows>, redb::Error> {
        let Some(library) = &self.library else { return Err(redb::Error::DatabaseClosed) };
        match library.begin_read()?.open_table(ROWS) {
            Ok(rows) => Ok(Some(rows)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // It writes on closing what it needs for a faster opening. The state in force has that already.
        self.retire();
        let library = self.library.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(library)));
    }
}

/// What went wrong in the library.
struct Failed {
    error: Error,
    /// The instance had been ended before by a failure that another thread was told of.
    by_another: bool,
}

impl Failed {
    fn alone(error: Error) -> Failed {
        Failed { error, by_another: false }
    }

    fn panicked(path: &Path) -> Failed {
        Failed::alone(Error::corrupt(path, 0, "the table file does not hold together"))
    }

    fn of(error: redb::Error, path: &Path) -> Failed {
        match error {
            redb::Error::Io(error) => match error.downcast::<Error>() {
                Ok(ours) => Failed::alone(ours),
                Err(error) => Failed::alone(Error::io(path, "use the table file", error)),
            },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
                let error = Error::new(ErrorKind::Unavailable, "the table file failed before").in_file(path);
                Failed { error: error.because(error_text(&redb::Error::PreviousIo)), by_another: true }
            }
            redb::Error::RepairAborted => {
                Failed::alone(Error::corrupt(path, 0, "the table file does not say which of its blocks are free"))
            }
            redb::Error::ValueTooLarge(bytes) => Failed::alone(Error::invalid(format!("a row of {bytes} bytes"))),
            error => Failed::alone(Error::corrupt(path, 0, "the table file does not hold together").because(error)),
        }
    }
}

fn error_text(error: &redb::Error) -> String {
    error.to_string()
}

/// The block file as an instance of the library sees it.
struct LibrarySpace {
    file: Arc<BlockFile>,
    retired: Arc<plain::AtomicBool>,
}

impl LibrarySpace {
    fn check_in_use(&self) -> io::Result<()> {
        if self.retired.load(Ordering::SeqCst) { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

impl fmt::Debug for LibrarySpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LibrarySpace").field(&self.file.path()).finish()
    }
}

impl redb::StorageBackend for LibrarySpace {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_in_use()?;
        self.file.set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check_in_use()?;
        self.file.barrier()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_in_use()?;
        self.file.write(offset, data)
    }
}
