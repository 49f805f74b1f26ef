//! A backend in memory that writes all of its rows to a new file at each trim point.
//!
//! ```text
//! file: magic, version, store, lsn | chunk | chunk | ... | empty chunk      chunk: length, checksum, rows
//! ```
//!
//! A chunk's checksum covers its number and the file's LSN, so chunks cannot be swapped, dropped or brought from
//! another file; the empty last chunk shows that none is missing. The manifest names the file, so a file that is not
//! named means nothing, and a named one that is damaged is `Corrupt`.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::backend::{StateBackend, StateBatch};
use crate::codec::{CheckSite, Input, crc32c, crc32c_of, put_bytes, same};
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, StoreId};
use crate::wake::{Arc, Mutex, RwLock};

const MAGIC: [u8; 8] = *b"OLSTATE1";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 48;
const SUMMED_BYTES: usize = 44;
const CHUNK_HEAD_BYTES: usize = 8;
const CHUNK_BYTES: usize = 256 << 10;

/// Which file: the LSN that it reflects and the opening that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotName {
    pub(crate) lsn: Lsn,
    pub(crate) epoch: Epoch,
    /// Tells apart what one opening wrote at one LSN.
    pub(crate) salt: u64,
}

impl SnapshotName {
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:020}-{:010}-{:016x}.state", self.lsn.0, self.epoch.0, self.salt))
    }

    pub(crate) fn is_one(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "state")
    }
}

/// All rows in memory, and in one file as of the last trim point.
pub(crate) struct SnapshotBackend {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: StoreId,
    epoch: Epoch,
    salt: Box<dyn Fn() -> u64 + Send + Sync>,
    rows: RwLock<BTreeMap<Vec<u8>, Bytes>>,
    current: Mutex<Option<SnapshotName>>,
}

impl SnapshotBackend {
    /// An empty backend that will write to `dir`; `salt` gives numbers that do not repeat.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        store: StoreId,
        epoch: Epoch,
        salt: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> SnapshotBackend {
        let (rows, current) = (RwLock::default(), Mutex::new(None));
        SnapshotBackend { disk, dir, store, epoch, salt: Box::new(salt), rows, current }
    }

    /// Takes the rows of a file that must be there and whole.
    pub(crate) fn load(&self, name: SnapshotName) -> Result<()> {
        let path = name.path(&self.dir);
        let file = self.disk.open(&path, OpenMode::Read).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(&path, 0, "the state at the trim point is gone"),
            _ => Error::io(&path, "open the state", error),
        })?;
        *self.rows.write() = Reader { file: file.as_ref(), path: &path, name, position: 0 }.read(self.store)?;
        *self.current.lock() = Some(name);
        Ok(())
    }

    /// The file that holds the state of the last `apply`.
    pub(crate) fn current(&self) -> Option<SnapshotName> {
        *self.current.lock()
    }

    fn write(&self, name: SnapshotName, rows: &BTreeMap<Vec<u8>, Bytes>, batch: &StateBatch) -> Result<()> {
        let path = name.path(&self.dir);
        let written = self.disk.open(&path, OpenMode::CreateNew).and_then(|file| {
            let mut writer = Writer { file: file.as_ref(), lsn: name.lsn, position: 0, number: 0, chunk: Vec::new() };
            writer.head(self.store)?;
            for (key, value) in merged(rows, batch) {
                writer.row(key, value)?;
            }
            writer.finish()?;
            file.sync(SyncSite::Snapshot)?;
            self.disk.sync_dir(&self.dir, SyncSite::SnapshotDir)
        });
        written.map_err(|error| {
            // Best effort: what is not named is also swept away at the next opening.
            let _ = self.disk.remove(&path);
            Error::io(&path, "write the state", error)
        })
    }
}

/// The rows of `rows` as `batch` leaves them, in order.
fn merged<'a>(
    rows: &'a BTreeMap<Vec<u8>, Bytes>,
    batch: &'a StateBatch,
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Bytes)> {
    let (mut old, mut new) = (rows.iter().peekable(), batch.iter().peekable());
    std::iter::from_fn(move || {
        loop {
            let take_old = match (old.peek(), new.peek()) {
                (Some((old_key, _)), Some((new_key, _))) if old_key == new_key => {
                    old.next();
                    false
                }
                (Some((old_key, _)), Some((new_key, _))) => old_key < new_key,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (None, None) => return None,
            };
            if take_old {
                return old.next();
            }
            if let Some((key, Some(value))) = new.next() {
                return Some((key, value));
            }
        }
    })
}

impl StateBackend for SnapshotBackend {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.rows.read().get(key).cloned())
    }

    fn scan(&self, start: Bound<&[u8]>, end: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let rows = self.rows.read();
        let found = rows.range::<[u8], _>((start, end)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn apply(&self, batch: &StateBatch, lsn: Lsn) -> Result<()> {
        let name = SnapshotName { lsn, epoch: self.epoch, salt: (self.salt)() };
        self.write(name, &self.rows.read(), batch)?;
        let mut rows = self.rows.write();
        for (key, value) in batch {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        *self.current.lock() = Some(name);
        Ok(())
    }

    fn applied_lsn(&self) -> Lsn {
        self.current().map_or(Lsn(0), |name| name.lsn)
    }
}

struct Writer<'a> {
    file: &'a dyn DiskFile,
    lsn: Lsn,
    position: u64,
    number: u64,
    chunk: Vec<u8>,
}

impl Writer<'_> {
    fn head(&mut self, store: StoreId) -> io::Result<()> {
        let mut head = MAGIC.to_vec();
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&store.0);
        head.extend_from_slice(&self.lsn.0.to_le_bytes());
        head.resize(SUMMED_BYTES, 0);
        let sum = crc32c(&head);
        head.extend_from_slice(&sum.to_le_bytes());
        self.write(&head)
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        put_bytes(&mut self.chunk, key);
        put_bytes(&mut self.chunk, value);
        if self.chunk.len() >= CHUNK_BYTES { self.end_chunk() } else { Ok(()) }
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.chunk.is_empty() {
            self.end_chunk()?;
        }
        self.end_chunk()
    }

    fn end_chunk(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        let len = u32::try_from(chunk.len()).map_err(io::Error::other)?;
        let mut head = len.to_le_bytes().to_vec();
        head.extend_from_slice(&chunk_sum(self.lsn, self.number, &chunk).to_le_bytes());
        self.write(&head)?;
        self.write(&chunk)?;
        self.number += 1;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.position)?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

fn chunk_sum(lsn: Lsn, number: u64, chunk: &[u8]) -> u32 {
    let len = chunk.len() as u64;
    crc32c_of(&[&lsn.0.to_le_bytes(), &number.to_le_bytes(), &len.to_le_bytes(), chunk])
}

struct Reader<'a> {
    file: &'a dyn DiskFile,
    path: &'a Path,
    name: SnapshotName,
    position: u64,
}

impl Reader<'_> {
    fn read(&mut self, store: StoreId) -> Result<BTreeMap<Vec<u8>, Bytes>> {
        self.head(store)?;
        let mut rows = BTreeMap::new();
        let mut number = 0;
        loop {
            let start = self.position;
            let chunk = self.chunk(number)?;
            if chunk.is_empty() {
                return Ok(rows);
            }
            // Rows share the chunk's memory; a chunk is dropped with its last row.
            let chunk = Bytes::from(chunk);
            let mut input = Input::new(&chunk);
            while !input.is_empty() {
                let row = (|| Some((input.bytes()?.to_vec(), chunk.slice_ref(input.bytes()?))))();
                let (key, value) = row.ok_or_else(|| self.damaged(start))?;
                rows.insert(key, value);
            }
            number += 1;
        }
    }

    fn head(&mut self, store: StoreId) -> Result<()> {
        let head = self.take(HEAD_BYTES)?;
        let mut input = Input::new(&head);
        let parsed = (|| {
            let (magic, version): ([u8; 8], u32) = (input.array()?, input.u32()?);
            let (found, lsn) = (StoreId(input.array()?), Lsn(input.u64()?));
            input.take(SUMMED_BYTES - 36)?;
            Some((magic, version, found, lsn, input.u32()?))
        })();
        let (magic, version, found, lsn, sum) = parsed.ok_or_else(|| self.damaged(0))?;
        if magic != MAGIC || !same(CheckSite::Snapshot, sum, crc32c(&head[..SUMMED_BYTES])) {
            return Err(self.damaged(0));
        }
        if version != VERSION {
            let what = format!("state format {version}, this program knows {VERSION}");
            return Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(self.path));
        }
        if found != store || lsn != self.name.lsn {
            return Err(Error::corrupt(self.path, 0, "this is the state of another store or time"));
        }
        Ok(())
    }

    fn chunk(&mut self, number: u64) -> Result<Vec<u8>> {
        let start = self.position;
        let head = self.take(CHUNK_HEAD_BYTES)?;
        let mut input = Input::new(&head);
        let (len, sum) = input.u32().zip(input.u32()).ok_or_else(|| self.damaged(start))?;
        let left = self.file.len().map_err(|error| Error::io(self.path, "measure the state", error))? - self.position;
        if u64::from(len) > left {
            return Err(self.damaged(start));
        }
        let chunk = self.take(len as usize)?;
        if same(CheckSite::Snapshot, sum, chunk_sum(self.name.lsn, number, &chunk)) {
            Ok(chunk)
        } else {
            Err(self.damaged(start))
        }
    }

    fn take(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; count];
        let read = self.file.read_full_at(&mut bytes, self.position);
        let read = read.map_err(|error| Error::io(self.path, "read the state", error))?;
        if read < count {
            return Err(Error::corrupt(self.path, self.position + read as u64, "the state was cut short"));
        }
        self.position += count as u64;
        Ok(bytes)
    }

    fn damaged(&self, position: u64) -> Error {
        Error::corrupt(self.path, position, "the state at the trim point is damaged")
    }
}
