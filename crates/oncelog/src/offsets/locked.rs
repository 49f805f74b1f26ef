//! A small file for each source, which several processes may share.
//!
//! ```text
//! BASE/CONSUMER/topic-1-consumer-100.offset   the decimal offset and a line feed: sources of two numbers
//!               orders.json                   as `text` has it, with one source: all others, name escaped
//!               .commit                       several sources that are being committed in one step
//!               .clear                        all sources, as they were, which are being forgotten in one step
//!               .lock                         the lock of the directory; never removed
//! ```
//!
//! Several sources in one step: they are written to `.commit`, which takes its name in one step; then each file is
//! replaced, then `.commit` is removed. Likewise `.clear`, whose files are removed. Whoever is to change something and
//! finds one of the two finishes it first, so there is never more than one; whoever reads looks there first, and
//! changes nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::OffsetError;
use super::numeric::NumericKey;
use super::offset::Offset;
use super::replace::{Ground, Held};
use super::store::{OffsetStore, advance, storable};
use super::text;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk};
use crate::ids::{NAME_BYTES_MAX, escape_name};
use crate::wake::Arc;

/// Keeps each source in a small file of its own, under a lock of the directory: several processes may share it, and a
/// read sees what another process has saved. After a crash a file is the one before or the one after. A read costs a
/// sync of the directory, so that what it shows stays.
///
/// A directory that cannot be written, by its permissions or by those of its file system, can be opened and read; a
/// change there is `Io`, with the name of the file that could not be opened. (A file system that has made itself
/// read-only after an error may show what it forgets when the machine starts again.)
///
/// Directories that an earlier client has written (`topic-1-consumer-100.offset` with a decimal number) are taken over
/// as they are. Such a file has no room for a checksum: a digit that rots into another digit is not noticed. Sources of
/// other names have one.
///
/// ```
/// use oncelog::{LockFileOffsetStore, NumericOffsets};
/// # fn main() -> Result<(), oncelog::OffsetError> {
/// # let dir = tempfile::tempdir().unwrap();
/// let offsets = LockFileOffsetStore::open(dir.path(), "billing")?;
/// offsets.save(1, 100, 42)?;
/// let file = dir.path().join("billing/topic-1-consumer-100.offset");
/// assert_eq!(std::fs::read_to_string(file).unwrap(), "42\n");
/// # Ok(())
/// # }
/// ```
pub struct LockFileOffsetStore {
    ground: Ground,
    dir: PathBuf,
}

const LOCK: &str = ".lock";
const COMMIT: &str = ".commit";
const CLEAR: &str = ".clear";
/// Longer than any number. An offset of one's own that does not fit is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;

impl LockFileOffsetStore {
    /// The offsets of `consumer_name` under `base_dir`; both directories are made if they are not there. A name that is
    /// not made of letters, digits, `-`, `_` and `.`, or begins with a dot, is escaped: none leaves `base_dir`.
    ///
    /// # Errors
    /// `Serialization`: there is a file of another name than ours in the directory; it is named, and nothing is done.
    /// `InvalidOffset`: the name cannot be used. `Io`: with the file or directory; also where the directory is not
    /// there and cannot be made.
    pub fn open(base_dir: impl AsRef<Path>, consumer_name: &str) -> Result<LockFileOffsetStore, OffsetError> {
        LockFileOffsetStore::open_on(Arc::new(RealDisk), SystemClock::shared(), base_dir, consumer_name)
    }

    /// As [`LockFileOffsetStore::open`], on another disk and with another clock.
    ///
    /// # Errors
    /// As [`LockFileOffsetStore::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        base_dir: impl AsRef<Path>,
        consumer_name: &str,
    ) -> Result<LockFileOffsetStore, OffsetError> {
        let base = base_dir.as_ref();
        let dir = base.join(dir_name(consumer_name)?);
        let store = LockFileOffsetStore { ground: Ground::of_offsets(disk, clock), dir };
        // Each by itself: one that is there may have been made by somebody who was killed before the sync.
        store.ground.make_dir(base)?;
        store.ground.make_dir(&store.dir)?;
        store.ground.read_locked(&store.dir.join(LOCK), || store.files())?;
        Ok(store)
    }

    /// Sets how long others may have the lock before `Lock` is told: 30 s unless set.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> LockFileOffsetStore {
        self.ground.patience = patience;
        self
    }

    /// The directory of the files.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes the lock, and finishes what one who had it before has begun.
    fn lock(&self) -> Result<Held, OffsetError> {
        let held = self.ground.lock(&self.dir.join(LOCK))?;
        let begun = self.begun()?;
        if !begun.is_empty() {
            self.finish(&begun)?;
        }
        Ok(held)
    }

    /// What is being done in one step: sources with the offset that they get, or with none, which are being forgotten.
    fn begun(&self) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        let mut begun = BTreeMap::new();
        for name in [COMMIT, CLEAR] {
            let path = self.dir.join(name);
            if let Some(bytes) = self.ground.read(&path, text::BYTES_MAX)? {
                let offsets = text::read(&path, &bytes)?.into_iter();
                begun.extend(offsets.map(|(source, offset)| (source, (name == COMMIT).then_some(offset))));
            }
        }
        Ok(begun)
    }

    fn finish(&self, begun: &BTreeMap<String, Option<Offset>>) -> Result<(), OffsetError> {
        let mut gone = Vec::new();
        for (source, offset) in begun {
            match offset {
                Some(offset) => self.write(source, offset)?,
                None => gone.push(self.path(source)?),
            }
        }
        self.ground.retire_all(&gone)?;
        // Only now, when all of it is durable.
        self.ground.retire_all(&[self.dir.join(COMMIT), self.dir.join(CLEAR)])
    }

    /// Writes down under `name` what is to be done in one step, and does it. The caller holds the lock.
    fn begin(&self, name: &str, offsets: &BTreeMap<String, Offset>) -> Result<(), OffsetError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let text = text::write(offsets);
        if text.len() as u64 > text::BYTES_MAX {
            return Err(OffsetError::InvalidOffset(format!("more than {} bytes in one step", text::BYTES_MAX)));
        }
        self.ground.replace(&self.dir.join(name), text.as_bytes())?;
        // From here on it has happened: whoever takes the lock next finishes what is left.
        if let Err(error) = self.begun().and_then(|begun| self.finish(&begun)) {
            tracing::warn!(%error, "offsets are changed; their files are by whoever comes next");
        }
        Ok(())
    }

    fn write(&self, source: &str, offset: &Offset) -> Result<(), OffsetError> {
        self.ground.replace(&self.path(source)?, bytes_of(source, offset).as_bytes())
    }

    fn path(&self, source: &str) -> Result<PathBuf, OffsetError> {
        if source.parse::<NumericKey>().is_ok() {
            return Ok(self.dir.join(format!("{source}.offset")));
        }
        let name = escape_name(source);
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let what =
                format!("a source has a name of 1 to {NAME_BYTES_MAX} bytes, escaped; {source:?} has {}", name.len());
            return Err(OffsetError::InvalidOffset(what));
        }
        Ok(self.dir.join(format!("{name}.json")))
    }

    fn read(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        let path = self.path(source)?;
        self.ground.read(&path, FILE_BYTES_MAX)?.map(|bytes| parse(&path, source, &bytes)).transpose()
    }

    /// The sources that have a file. Leftovers of a crash in the middle of a replacement are passed over.
    fn files(&self) -> Result<Vec<String>, OffsetError> {
        let paths = self.ground.disk.list(&self.dir).map_err(|error| OffsetError::io(&self.dir, error))?;
        let mut sources = Vec::new();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if [LOCK, COMMIT, CLEAR].contains(&name) || name.ends_with(".new") {
                continue;
            }
            let numeric = name.strip_suffix(".offset").filter(|source| source.parse::<NumericKey>().is_ok());
            let source = match (numeric, name.strip_suffix(".json")) {
                (Some(source), _) => source.to_owned(),
                (None, Some(_)) => self.source_of(&path)?,
                (None, None) => {
                    return Err(OffsetError::bad_file(&path, "not the name of an offset file; take it away"));
                }
            };
            sources.push(source);
        }
        Ok(sources)
    }

    /// The source that a file of a name of ours says it is of, which must be the one of its name.
    fn source_of(&self, path: &Path) -> Result<String, OffsetError> {
        let bytes = self.ground.read(path, FILE_BYTES_MAX)?.unwrap_or_default();
        let offsets = text::read(path, &bytes)?;
        match offsets.into_keys().next() {
            Some(source) if self.path(&source)? == path => Ok(source),
            _ => Err(OffsetError::bad_file(path, "what is in it belongs to a file of another name")),
        }
    }

    /// Everything that is committed. The caller holds the lock, as far as there is one.
    fn all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        let mut offsets = BTreeMap::new();
        for source in self.files()? {
            if let Some(offset) = self.read(&source)? {
                offsets.insert(source, offset);
            }
        }
        for (source, offset) in self.begun()? {
            match offset {
                Some(offset) => offsets.insert(source, offset),
                None => offsets.remove(&source),
            };
        }
        Ok(offsets)
    }

    fn change<T>(
        &self,
        source: &str,
        change: impl FnOnce(Option<&Offset>) -> Result<T, OffsetError>,
        write: impl FnOnce() -> Result<(), OffsetError>,
    ) -> Result<Option<Offset>, OffsetError> {
        let _held = self.lock()?;
        let before = self.read(source)?;
        change(before.as_ref())?;
        write()?;
        Ok(before)
    }

    fn storable(&self, source: &str, offset: &Offset) -> Result<(), OffsetError> {
        storable(source, offset)?;
        self.path(source)?;
        if bytes_of(source, offset).len() as u64 > FILE_BYTES_MAX {
            let what = format!("source {source:?}: the offset is longer than the {FILE_BYTES_MAX} bytes of a file");
            return Err(OffsetError::InvalidOffset(what));
        }
        if source.parse::<NumericKey>().is_ok() && offset.as_sequence().is_none() {
            let what = format!("source {source:?} holds a number, and {offset} is none");
            return Err(OffsetError::InvalidOffset(what));
        }
        Ok(())
    }
}

impl OffsetStore for LockFileOffsetStore {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        let offset = self.peek(source)?;
        self.ground.confirm(&self.dir)?;
        Ok(offset)
    }

    fn peek(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.path(source)?;
        // First what is being done in one step: whoever does that changes the files, and removes this last.
        match self.begun()?.remove(source) {
            Some(begun) => Ok(begun),
            None => self.read(source),
        }
    }

    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        self.storable(source, offset)?;
        self.change(source, |before| advance(source, before, offset), || self.write(source, offset))
    }

    fn commit_all(&self, new: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        new.iter().try_for_each(|(source, offset)| self.storable(source, offset))?;
        let _held = self.lock()?;
        let mut before = BTreeMap::new();
        for (source, offset) in new {
            let stored = self.read(source)?;
            advance(source, stored.as_ref(), offset)?;
            before.insert(source.clone(), stored);
        }
        self.begin(COMMIT, new)?;
        Ok(before)
    }

    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        self.storable(source, offset)?;
        self.change(source, |_| Ok(()), || self.write(source, offset))
    }

    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        let offsets = self.ground.read_locked(&self.dir.join(LOCK), || self.all())?;
        self.ground.confirm(&self.dir)?;
        Ok(offsets)
    }

    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        let path = self.path(source)?;
        self.change(source, |_| Ok(()), || self.ground.retire_all(&[path]))
    }

    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        let _held = self.lock()?;
        let all = self.all()?;
        self.begin(CLEAR, &all)?;
        Ok(all)
    }
}

/// What is in the file of a source.
pub(super) fn bytes_of(source: &str, offset: &Offset) -> String {
    match (source.parse::<NumericKey>(), offset) {
        (Ok(_), Offset::Sequence(sequence)) => format!("{sequence}\n"),
        _ => text::write(&BTreeMap::from([(source.to_owned(), offset.clone())])),
    }
}

pub(super) fn parse(path: &Path, source: &str, bytes: &[u8]) -> Result<Offset, OffsetError> {
    if source.parse::<NumericKey>().is_err() {
        let mut offsets = text::read(path, bytes)?;
        let offset = offsets.remove(source).filter(|_| offsets.is_empty());
        return offset.ok_or_else(|| OffsetError::bad_file(path, "what is in it belongs to a file of another name"));
    }
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let digits = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(sequence) if is_number => Ok(Offset::Sequence(sequence)),
        _ => Err(OffsetError::bad_file(path, "it should hold a decimal number and a line feed")),
    }
}

/// A name that an earlier client could have used as it is stays as it is; every other is escaped.
fn dir_name(consumer: &str) -> Result<String, OffsetError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_plain = !consumer.starts_with('.') && consumer.bytes().all(plain);
    let name = if is_plain { consumer.to_owned() } else { escape_name(consumer) };
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "too long, or empty");
        return Err(OffsetError::InvalidOffset(format!("consumer name {consumer:?}: {error}")));
    }
    Ok(name)
}
