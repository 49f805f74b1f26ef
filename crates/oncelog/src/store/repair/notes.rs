//! What a repair notes on its way, and where it keeps what it gives up.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::layout::{Layout, make_dir};
use super::super::report::LostOffsets;
use super::{Act, Mend, RepairPlan};
use crate::disk::{Disk, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::segment;
use crate::table::{TableFileName, TableHome};
use crate::topic::{self, Claim};
use crate::wake::{Arc, Mutex};

/// So many bytes are copied at once.
const COPY_BYTES: usize = 1 << 20;
/// Longest part of a name that says where the bytes come from: all of them fit a directory entry.
const LABEL_BYTES_MAX: usize = 180;

/// Bytes that are given up, and where they are kept.
#[derive(Debug, Default)]
pub(in crate::store) struct Kept {
    bytes: u64,
    files: Vec<PathBuf>,
}

/// The notes of one owner's repair.
pub(in crate::store) struct Mends {
    disk: Arc<dyn Disk>,
    layout: Layout,
    act: Act,
    noted: Mutex<Noted>,
}

#[derive(Default)]
struct Noted {
    plan: RepairPlan,
    journal_is_cut: bool,
    /// Offsets behind the last record in copies of frames.
    copied: BTreeMap<(TopicId, PartitionId), LogOffset>,
}

impl Mends {
    pub(super) fn new(disk: &Arc<dyn Disk>, layout: &Layout, act: Act) -> Mends {
        Mends { disk: Arc::clone(disk), layout: layout.clone(), act, noted: Mutex::default() }
    }

    /// Whether it is done, and not only planned.
    pub(super) fn acts(&self) -> bool {
        self.act == Act::Do
    }

    pub(super) fn take(&self) -> RepairPlan {
        std::mem::take(&mut self.noted.lock().plan)
    }

    pub(super) fn note(&self, file: &Path, what: impl Into<String>, kept: Kept) {
        let mend = Mend { file: file.to_owned(), what: what.into(), cut_bytes: kept.bytes, kept_in: kept.files };
        if self.acts() {
            tracing::warn!("{mend}");
        }
        self.noted.lock().plan.mends.push(mend);
    }

    pub(super) fn lose(&self, topic: &str, partition: PartitionId, offsets: Range<LogOffset>) {
        if self.acts() {
            tracing::warn!(topic, %partition, start = %offsets.start, end = %offsets.end, "records are lost");
        }
        self.noted.lock().plan.lost.push(LostOffsets { topic: topic.to_owned(), partition, offsets });
    }

    pub(super) fn skip(&self, topic: &str, partition: PartitionId, offsets: Range<LogOffset>) {
        if self.acts() {
            tracing::warn!(topic, %partition, start = %offsets.start, end = %offsets.end, "offsets are left out");
        }
        self.noted.lock().plan.skipped.push(LostOffsets { topic: topic.to_owned(), partition, offsets });
    }

    /// Notes what cannot be mended.
    pub(super) fn leave(&self, error: Error) {
        self.noted.lock().plan.left.push(error);
    }

    /// Whether the journal was cut: then there may have been topics that no catalogue knows any more.
    pub(in crate::store) fn journal_is_cut(&self) -> bool {
        self.noted.lock().journal_is_cut
    }

    /// The journal is damaged: copies of its frames in segments may be the last there are.
    pub(super) fn cut_journal(&self) {
        self.noted.lock().journal_is_cut = true;
    }

    /// Keeps bytes of a file in `aside`, durably; those that the file has.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub(super) fn keep(&self, file: &Path, range: Range<u64>) -> Result<Kept> {
        let doing = |error| Error::io(file, "keep what is cut out", error);
        let source = match self.disk.open(file, OpenMode::Read) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
            Err(error) => return Err(doing(error)),
        };
        let range = range.start..range.end.min(source.len().map_err(doing)?);
        if range.is_empty() {
            return Ok(Kept::default());
        }
        let bytes = range.end - range.start;
        if !self.acts() {
            return Ok(Kept { bytes, files: Vec::new() });
        }
        make_dir(&*self.disk, &self.layout.aside).map_err(doing)?;
        let path = self.free_place(file, range.start)?;
        let doing = |error| Error::io(&path, "keep what is cut out", error);
        let target = self.disk.open(&path, OpenMode::CreateNew).map_err(doing)?;
        let (mut at, mut piece) = (range.start, vec![0; COPY_BYTES]);
        while at < range.end {
            let wanted = piece.len().min(usize::try_from(range.end - at).unwrap_or(COPY_BYTES));
            let read = source.read_full_at(&mut piece[..wanted], at).map_err(doing)?;
            target.write_all_at(&piece[..read], at - range.start).map_err(doing)?;
            if read < wanted {
                break;
            }
            at += read as u64;
        }
        target.sync(SyncSite::Aside).map_err(|error| Error::sync(&path, "keep what is cut out", error))?;
        for dir in [&self.layout.aside, &self.layout.owner] {
            let synced = self.disk.sync_dir(dir, SyncSite::AsideDir);
            synced.map_err(|error| Error::sync(dir, "keep what is cut out", error))?;
        }
        Ok(Kept { bytes, files: vec![path] })
    }

    /// Keeps all of a file.
    pub(super) fn keep_whole(&self, file: &Path) -> Result<Kept> {
        self.keep(file, 0..u64::MAX)
    }

    /// A name in `aside` that says what it is, and that nothing has: what was kept once is never written over.
    fn free_place(&self, file: &Path, position: u64) -> Result<PathBuf> {
        let aside = &self.layout.aside;
        let names = self.disk.list(aside).map_err(|error| Error::io(aside, "list what is kept", error))?;
        let from = file.strip_prefix(&self.layout.dir).unwrap_or(file);
        let label = from.to_string_lossy().replace(['/', '\\'], "+");
        // Names of the store are ASCII.
        let label = label.get(label.len().saturating_sub(LABEL_BYTES_MAX)..).unwrap_or_default();
        let named = |number: u32| aside.join(format!("{label}+{position}.{number}.cut"));
        let free = (1..=u32::MAX).map(named).find(|path| !names.contains(path));
        free.ok_or_else(|| Error::new(ErrorKind::Full, "there is no name left").in_file(aside))
    }

    /// Keeps what a segment file has behind `end` that no row names: copies of frames.
    ///
    /// # Errors
    /// As [`Mends::keep`].
    pub(in crate::store) fn keep_copies_of_frames(&self, path: &Path, end: u64) -> Result<()> {
        if !self.noted.lock().journal_is_cut || path.extension().is_none_or(|kind| kind != "segment") {
            return Ok(());
        }
        let kept = self.keep(path, end..u64::MAX)?;
        if kept.bytes == 0 {
            return Ok(());
        }
        self.note(path, "holds copies of frames that the journal may have lost", kept);
        if let Some((head, end)) = segment::last_offset(&*self.disk, path)? {
            let mut noted = self.noted.lock();
            let known = noted.copied.entry((head.topic, head.partition)).or_default();
            *known = end.max(*known);
        }
        Ok(())
    }

    /// The offset behind the last record in copies of frames; 0 where there are none.
    pub(super) fn copied(&self, topic: TopicId, partition: PartitionId) -> LogOffset {
        self.noted.lock().copied.get(&(topic, partition)).copied().unwrap_or_default()
    }

    /// Writes a claim anew that is damaged or gone, as the catalogue knows it.
    ///
    /// # Errors
    /// `error`, if it is whole and another's; `Full`, `Unavailable`.
    pub(in crate::store) fn claim(&self, dir: &Path, claim: &Claim, error: Error) -> Result<()> {
        let disk = &*self.disk;
        match topic::find_claim(disk, dir) {
            // Two owners say that it is theirs.
            Ok(Some(other)) if (other.store, &other.owner) != (claim.store, &claim.owner) => return Err(error),
            Err(other) if other.kind() != ErrorKind::Corrupt => return Err(other),
            _ => {}
        }
        let path = Claim::path(dir);
        let kept = self.keep_whole(&path)?;
        self.note(&path, format!("{error}: written anew as the catalogue knows it"), kept);
        make_dir(disk, dir).map_err(|error| Error::io(dir, "claim a name", error))?;
        topic::write_claims(disk, &[(dir.to_owned(), claim.clone())])?;
        self.sync_above(dir)
    }

    /// Makes the directory of a partition if it is gone.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub(in crate::store) fn partition_dir(&self, topic: &Path, dir: &Path) -> Result<()> {
        match self.disk.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io(dir, "list a partition", error)),
            Ok(_) => return Ok(()),
        }
        self.note(dir, "the directory of a partition is gone: made anew", Kept::default());
        make_dir(&*self.disk, dir).map_err(|error| Error::io(dir, "make a partition", error))?;
        self.sync_above(dir).and_then(|()| self.sync_above(topic))
    }

    /// Keeps a table file that cannot be read, and without which nothing is lost.
    ///
    /// # Errors
    /// As [`Mends::keep`].
    pub(in crate::store) fn tables(&self, home: &TableHome, name: &TableFileName, error: &Error) -> Result<()> {
        let path = name.path(&home.dir);
        let kept = self.keep_whole(&path)?;
        self.note(&path, format!("{error}: made anew, the journal has every row"), kept);
        Ok(())
    }

    fn sync_above(&self, dir: &Path) -> Result<()> {
        let above = dir.parent().unwrap_or(dir);
        let synced = self.disk.sync_dir(above, SyncSite::TopicDir);
        synced.map_err(|error| Error::sync(above, "sync a mended name", error))
    }
}
