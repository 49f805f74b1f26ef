//! Making a backup.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use super::super::reader::{Cut, are_in_force};
use super::super::{Core, Store, StoreReader};
use crate::backup::{
    BackupManifest, BackupTarget, CHUNK_BYTES, Chunk, Cutter, FileImage, Mark, MarkKind, OwnerImage, Uploads,
    rows_begin,
};
use crate::disk::{DiskFile, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, PartitionId, StoreId, TableId, TopicId, escape_name};
use crate::segment::{SegmentCheck, SegmentFlaw, SegmentHead};
use crate::table::{StateKey, Visit};
use crate::topic::{SegmentRow, TopicSpec, partition_dir, topic_dir};
use crate::transaction::{Effect, system};

/// A backup that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BackupReport {
    /// Its name in the target.
    pub name: String,
    /// Which store it is of.
    pub store: StoreId,
    /// The owners of the store, and the LSN of each up to which it is in the backup.
    pub owners: Vec<(String, Lsn)>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Chunks that no backup before it had.
    pub new_chunks: u64,
    /// Bytes in them: what was written to the target, but for the manifest.
    pub new_bytes: u64,
}

/// A store goes on while it is copied; so often another cut is taken.
const ATTEMPTS: u32 = 64;

impl Store {
    /// Copies the whole store as it is now, all owners of it, to `target`, while it runs. Durable on return; a crash
    /// before leaves no backup, and chunks that the next one finds. What other backups in the target have is not
    /// written again, and of a segment that they have only the end is read.
    ///
    /// The owner that this is is copied at its visible LSN; others, living or not, each at one of its own, so that no
    /// consumer is ahead of a topic of another owner. Appends go on meanwhile. While it runs, what the state of the
    /// tables is made of is kept in place, so the table file may grow. Costs memory for the journal behind the trim
    /// point ([`StoreOptions::trim_bytes`](crate::StoreOptions::trim_bytes)), reading the tables and what is new of the
    /// segments, and writing what is new.
    ///
    /// # Errors
    /// `Locked`: backups are being pruned there. `Corrupt`: something of the store is not what was written, or a chunk
    /// of the target cannot be. `Full`, `Unavailable`: the target cannot be written; no backup was made. `Unavailable`:
    /// the store changes faster than it can be read. `Closed`.
    pub fn backup(&self, target: &BackupTarget) -> Result<BackupReport> {
        let core = self.core();
        core.check_open()?;
        let (disk, clock) = (core.disk.clone(), core.options.clock.clone());
        let reader = StoreReader::options().disk(disk).clock(clock).open(&core.layout.dir)?;
        backup(&reader, target, Some(core))
    }
}

impl StoreReader {
    /// As [`Store::backup`], beside the owners of the store or without any. Takes no lock of the store and writes
    /// nothing to it. Tables of an owner that lives are read while it may change them: if it moves its trim point twice
    /// meanwhile, they may have to be read again.
    ///
    /// # Errors
    /// As [`Store::backup`]; `Unavailable`: an owner is being opened and takes its time.
    pub fn backup(&self, target: &BackupTarget) -> Result<BackupReport> {
        backup(self, target, None)
    }
}

fn backup(reader: &StoreReader, target: &BackupTarget, own: Option<&Core>) -> Result<BackupReport> {
    let mut mark = Mark::put(target, MarkKind::Backup)?;
    let (uploads, before) = (Uploads::begin(target, target.next_scrub()?)?, newest_of(reader, target)?);
    let mut work = Work { reader, uploads, before, copied: BTreeMap::new() };
    let mut met: Option<(Error, Option<u64>)> = None;
    for _ in 0..ATTEMPTS {
        let cuts = reader.cuts(own)?;
        // Nothing in the cuts is later, and little that is earlier is missing, however long it takes to copy them.
        let (taken_ms, number) = (reader.now_ms(), mark.draw_number()?);
        match work.copy(&cuts, taken_ms) {
            Ok(manifest) => {
                work.uploads.settle()?;
                let name = write_marked(target, &mark, &manifest, number)?;
                return Ok(BackupReport {
                    name,
                    store: manifest.identity,
                    bytes: manifest.bytes(),
                    owners: manifest.owners.into_iter().map(|owner| (owner.name, owner.lsn)).collect(),
                    new_chunks: work.uploads.new_chunks,
                    new_bytes: work.uploads.new_bytes,
                });
            }
            Err(Failed::Otherwise(error)) => return Err(error),
            // What has changed since it was cut is not in the next cut. What is damaged is.
            Err(Failed::OfSource { error, salt }) => {
                let same = |met: &(Error, Option<u64>)| met.1 == salt && format!("{:?}", met.0) == format!("{error:?}");
                let is_again = met.as_ref().is_some_and(same);
                // A segment that is still named by a cut taken behind the failure was not removed by then. Blocks of
                // rows are used again when the trim point has moved twice, so they may fail alike in one cut and the
                // next.
                if is_again && (salt.is_some() || are_in_force(&cuts)?) {
                    return Err(error);
                }
                met = Some((error, salt));
            }
        }
    }
    let what = "the store changes faster than it can be copied";
    let unavailable = Error::new(ErrorKind::Unavailable, what).in_file(reader.dir());
    Err(met.into_iter().map(|(error, _)| error).fold(unavailable, Error::because))
}

/// Writes the manifest of a backup whose mark has kept prunes off until then. One that comes behind this looks at the
/// manifests behind putting its own mark, and so finds this one.
fn write_marked(target: &BackupTarget, mark: &Mark<'_>, manifest: &BackupManifest, number: u64) -> Result<String> {
    mark.check()?;
    let name = target.write_manifest(manifest, number)?;
    if let Err(error) = mark.check() {
        target.take_back(&name)?;
        return Err(error);
    }
    Ok(name)
}

/// The newest backup of the store: segments that it has need not be read again.
fn newest_of(reader: &StoreReader, target: &BackupTarget) -> Result<Option<BackupManifest>> {
    for name in target.names()?.iter().rev() {
        match target.read_manifest(name) {
            Ok(manifest) if manifest.identity == reader.id() => return Ok(Some(manifest)),
            Ok(_) => {}
            // It costs reading, and nothing else. Whoever lists the backups is told.
            Err(error) => tracing::warn!(%error, backup = name, "a backup cannot be read"),
        }
    }
    Ok(None)
}

/// Why a copy came to nothing.
enum Failed {
    /// The store, which may have gone on; with the salt of the segment, if it is one.
    OfSource {
        error: Error,
        salt: Option<u64>,
    },
    Otherwise(Error),
}

impl Failed {
    fn of_rows(error: Error) -> Failed {
        Failed::OfSource { error, salt: None }
    }

    fn of_segment(salt: u64) -> impl Fn(Error) -> Failed {
        move |error| Failed::OfSource { error, salt: Some(salt) }
    }
}

/// What is kept from one attempt to the next.
struct Work<'w> {
    reader: &'w StoreReader,
    uploads: Uploads<'w>,
    before: Option<BackupManifest>,
    /// Segments, by path.
    copied: BTreeMap<String, FileImage>,
}

/// What the rows of an owner say of its segments.
#[derive(Default)]
struct Seen {
    topics: BTreeMap<TopicId, String>,
    segments: Vec<(TopicId, PartitionId, SegmentRow)>,
}

impl Work<'_> {
    fn copy(&mut self, cuts: &[Cut], taken_ms: i64) -> std::result::Result<BackupManifest, Failed> {
        let mut files = BTreeMap::new();
        // What goes first comes first: states of tables, and among segments the oldest.
        let mut seen = Vec::new();
        for cut in cuts.iter().filter(|cut| cut.rows.is_some()) {
            let owner = escape_name(&cut.owner);
            let (rows, of_segments) = self.copy_rows(cut)?;
            files.insert(format!("owners/{owner}/rows"), rows);
            let mut frames = Cutter::new(Vec::new());
            frames.push(&cut.frames, &mut self.uploads).map_err(Failed::Otherwise)?;
            let chunks = frames.finish(&mut self.uploads).map_err(Failed::Otherwise)?;
            files.insert(format!("owners/{owner}/frames"), FileImage { salt: 0, chunks });
            seen.push((cut, of_segments));
        }
        for (cut, seen) in seen {
            let deleted = deleted_in(cut).map_err(Failed::of_rows)?;
            for (topic, partition, row) in seen.segments.into_iter().filter(|(topic, ..)| !deleted.contains(topic)) {
                // What no topic is known of is read by nobody: nor is it restored.
                let Some(name) = seen.topics.get(&topic) else { continue };
                let dir = partition_dir(&topic_dir(&self.reader.dir().join("topics"), name), partition);
                let head = SegmentHead {
                    store: cut.manifest.store,
                    topic,
                    partition,
                    base_offset: row.base_offset,
                    epoch: row.epoch,
                    generation: row.generation,
                    salt: row.salt,
                };
                let (path, file) = self.copy_segment(cut, &dir, &head, &row)?;
                files.insert(path, file);
            }
        }
        let owners = cuts.iter().map(|cut| OwnerImage {
            name: cut.owner.clone(),
            number: cut.manifest.number,
            epoch: cut.manifest.epoch,
            opening: cut.manifest.opening,
            rows_lsn: cut.rows.is_some().then_some(cut.rows_lsn),
            lsn: cut.lsn,
            link: cut.link,
        });
        let store = cuts.first().map_or(self.reader.id(), |cut| cut.manifest.store);
        Ok(BackupManifest { store, identity: self.reader.id(), taken_ms, owners: owners.collect(), files })
    }

    fn copy_rows(&mut self, cut: &Cut) -> std::result::Result<(FileImage, Seen), Failed> {
        let (mut cutter, mut seen, mut of_target) = (Cutter::new(rows_begin()), Seen::default(), None);
        let Some(rows) = &cut.rows else { return Ok(Default::default()) };
        let copied = rows.each(&[], |key, value| {
            seen.note(key, value)?;
            if let Err(error) = cutter.push_row(key, value, &mut self.uploads) {
                of_target = Some(error);
                return Ok(Visit::Stop);
            }
            Ok(Visit::Next)
        });
        copied.map_err(Failed::of_rows)?;
        if let Some(error) = of_target {
            return Err(Failed::Otherwise(error));
        }
        let chunks = cutter.finish(&mut self.uploads).map_err(Failed::Otherwise)?;
        Ok((FileImage { salt: 0, chunks }, seen))
    }

    fn copy_segment(
        &mut self,
        cut: &Cut,
        dir: &Path,
        head: &SegmentHead,
        row: &SegmentRow,
    ) -> std::result::Result<(String, FileImage), Failed> {
        let path = head.path(dir);
        let named = path.strip_prefix(self.reader.dir()).ok().and_then(Path::to_str).map(str::to_owned);
        let outside = || Error::invalid("a segment outside of its store").in_file(&path);
        let of_segment = Failed::of_segment(row.salt);
        let named = named.ok_or_else(outside).map_err(&of_segment)?;
        let copied = self.copied.get(&named).filter(|image| is_of_row(image, row)).cloned();
        if let Some(copied) = copied
            && self.uploads.has(&copied.chunks).map_err(Failed::Otherwise)?
        {
            return Ok((named, copied));
        }
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(&path, 0, "a segment is gone"),
            _ => Error::io(&path, "open a segment", error),
        };
        let file = self.reader.disk().open(&path, OpenMode::Read).map_err(gone).map_err(&of_segment)?;
        head.check(&*file, &path).map_err(&of_segment)?;
        if let Some(known) = self.known(cut, &named, row)
            && self.uploads.has(&known.chunks).map_err(Failed::Otherwise)?
            && ends_alike(&*file, &known).map_err(|error| of_segment(Error::io(&path, "read a segment", error)))?
        {
            return Ok((named, known));
        }
        let chunks = self.copy_checked(&*file, &path, row)?;
        let image = FileImage { salt: row.salt, chunks };
        self.copied.insert(named.clone(), image.clone());
        Ok((named, image))
    }

    /// What is in a segment that the newest backup has copied. An owner that was set back to an older state may go on
    /// in the same segment with other records: so that opening must be one of its history which the other backup is of.
    fn known(&self, cut: &Cut, path: &str, row: &SegmentRow) -> Option<FileImage> {
        let of_history = |before: &&BackupManifest| {
            let mut owners = before.owners.iter();
            let image = owners.find(|image| image.number == cut.manifest.number);
            image.is_some_and(|image| cut.manifest.has_had(image.epoch, image.opening))
        };
        let known = self.before.as_ref().filter(of_history)?.files.get(path)?;
        is_of_row(known, row).then(|| known.clone())
    }

    fn copy_checked(
        &mut self,
        file: &dyn DiskFile,
        path: &Path,
        row: &SegmentRow,
    ) -> std::result::Result<Vec<Chunk>, Failed> {
        let of_segment = Failed::of_segment(row.salt);
        let flawed = |flaw: SegmentFlaw| of_segment(Error::corrupt(path, flaw.position, flaw.what));
        let (mut check, mut position, mut chunks) = (SegmentCheck::new(row.salt), 0, Vec::new());
        while position < row.end_position {
            let wanted = usize::try_from(row.end_position - position).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let mut bytes = vec![0; wanted];
            let read = file.read_full_at(&mut bytes, position);
            let read = read.map_err(|error| of_segment(Error::io(path, "read a segment", error)))?;
            if read < wanted {
                let short = Error::corrupt(path, position + read as u64, "a segment was cut short");
                return Err(of_segment(short));
            }
            check.feed(&bytes).map_err(flawed)?;
            chunks.push(self.uploads.put(&bytes).map_err(Failed::Otherwise)?);
            position += wanted as u64;
        }
        let end = check.finish().map_err(flawed)?;
        if end.is_some_and(|end| end > row.end_offset) {
            let what = format!("a segment ends at offset {}, behind {}", end.unwrap_or_default(), row.end_offset);
            return Err(of_segment(Error::corrupt(path, row.end_position, what)));
        }
        Ok(chunks)
    }
}

/// Whether the image is of the segment that the row names, up to the end that it says.
fn is_of_row(image: &FileImage, row: &SegmentRow) -> bool {
    (image.salt, image.bytes()) == (row.salt, row.end_position)
}

/// Whether the last two chunks of a segment are those of its image: 4 MiB at least, or all of it. A machine that was
/// set back with its memory goes on in the same opening and draws the same salts, so nothing but the records tells its
/// two histories apart: those that differ go on to the end.
fn ends_alike(file: &dyn DiskFile, image: &FileImage) -> io::Result<bool> {
    let mut end = image.bytes();
    for chunk in image.chunks.iter().rev().take(2) {
        let mut bytes = vec![0; chunk.bytes as usize];
        end -= u64::from(chunk.bytes);
        let read = file.read_full_at(&mut bytes, end)?;
        if !chunk.is_of(&bytes[..read]) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Seen {
    fn note(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let own = |table: TableId| key.strip_prefix(&StateKey::prefix(table, system::SHARD));
        if let Some(key) = own(system::CATALOGUE) {
            if let Some(system::CatalogueKey::Topic(id)) = system::CatalogueKey::decode(key) {
                self.topics.insert(id, system::decode_row::<TopicSpec>(value)?.name);
            }
        } else if let Some(key) = own(system::SEGMENTS) {
            let malformed = || Error::new(ErrorKind::Corrupt, "a row of the segments is malformed");
            let (topic, partition) = system::read_partition_key(key).ok_or_else(malformed)?;
            self.segments.push((topic, partition, system::decode_row(value)?));
        }
        Ok(())
    }
}

/// Topics that the frames of the cut delete: their files may be gone already.
fn deleted_in(cut: &Cut) -> Result<BTreeSet<TopicId>> {
    let mut deleted = BTreeSet::new();
    cut.effects(&mut |effect| {
        if let Effect::Row { table: system::CATALOGUE, key, value: None, .. } = effect
            && let Some(system::CatalogueKey::Topic(id)) = system::CatalogueKey::decode(key)
        {
            deleted.insert(id);
        }
        Ok(())
    })?;
    Ok(deleted)
}
