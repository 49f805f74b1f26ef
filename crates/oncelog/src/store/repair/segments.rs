//! Mending segments: the good batches stay, before the damage in their file, behind it in files of their own.
//!
//! A segment is known by its head, not by its name. One that is not in its place is looked for, and nothing is cut out
//! of the log that lies whole somewhere in the store.
//!
//! All files of a segment keep its epoch, as readers in other processes go by it: what a later opening has begun
//! counts in place of what an earlier one has behind it.

use std::path::{Path, PathBuf};

use super::super::open::Opening;
use super::is_no_file;
use super::notes::{Kept, Mends};
use crate::disk::{Disk, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, TopicId};
use crate::segment::{self, SEGMENT_HEAD_BYTES, Salvaged, SegmentEnd, SegmentHead};
use crate::topic::{Partition, SegmentRow};
use crate::transaction::system;

impl Opening {
    /// Looks through all segments of the trim point. The rows that it changes become true with the next one.
    pub(in crate::store) fn mend_segments(&mut self, mends: &Mends, lsn: Lsn) -> Result<()> {
        for (id, spec) in self.catalogued(lsn)? {
            let topic = match self.topics.get(id) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    mends.leave(error);
                    continue;
                }
                topic => topic?,
            };
            for partition in &topic.partitions {
                let (_, rows) = self.loader.trim_point(id, partition.id)?;
                for (number, row) in rows.iter().enumerate() {
                    let last = number + 1 == rows.len();
                    self.mend_segment(mends, lsn, (id, &spec.name, partition), row, last)?;
                }
            }
        }
        Ok(())
    }

    fn mend_segment(
        &self,
        mends: &Mends,
        lsn: Lsn,
        (topic, name, partition): (TopicId, &str, &Partition),
        row: &SegmentRow,
        last: bool,
    ) -> Result<()> {
        let disk = &*self.options.disk;
        let head = SegmentHead {
            store: self.store,
            topic,
            partition: partition.id,
            base_offset: row.base_offset,
            epoch: row.epoch,
            generation: row.generation,
            salt: row.salt,
        };
        let end = row.end();
        let path = head.path(partition.dir());
        let mut found = segment::salvage(disk, &path, &head, end)?;
        // Nothing of it is in its place: what is there may be another.
        if found.as_ref().is_none_or(|found| !found.head && found.runs.is_empty()) {
            if find_elsewhere(disk, partition.dir(), &head, &path, mends)? {
                found = segment::salvage(disk, &path, &head, end)?;
            } else if let Some(place) = find_in_store(disk, &self.layout.topics, &head)? {
                let what = format!("the segment is not here but in {}: move it back", place.display());
                mends.leave(Error::corrupt(&path, 0, what));
                return Ok(());
            }
        }
        let Some(found) = found else {
            mends.note(&path, "a segment is gone", Kept::default());
            mends.lose(name, partition.id, row.base_offset..row.end_offset);
            return self.put(topic, partition, lsn, (&head, None));
        };
        if found.is_whole(end) {
            if found.behind > 0 && !last {
                let what = "bytes behind the end of a segment that is written no more: cut off";
                let kept = mends.keep(&path, end.position..u64::MAX)?;
                mends.note(&path, what, kept);
            }
            return Ok(());
        }
        for offsets in found.lost(&head, end) {
            mends.lose(name, partition.id, offsets);
        }
        if !found.head {
            let kept = mends.keep(&path, 0..SEGMENT_HEAD_BYTES)?;
            mends.note(&path, "the head of a segment is damaged: written anew as the trim point knows it", kept);
        }
        for bytes in &found.bad {
            let kept = mends.keep(&path, bytes.clone())?;
            let what = format!("damaged from byte {} to {}", bytes.start, bytes.end);
            mends.note(&path, what, kept);
        }
        self.keep_runs(mends, lsn, (topic, partition), (&head, &path, end), &found)
    }

    /// Makes the good runs the segments of the log. A run at the beginning stays where it is. All have the age of the
    /// segment that they are of, and the time of its tombstones.
    fn keep_runs(
        &self,
        mends: &Mends,
        lsn: Lsn,
        (topic, partition): (TopicId, &Partition),
        (head, path, end): (&SegmentHead, &Path, SegmentEnd),
        found: &Salvaged,
    ) -> Result<()> {
        let (disk, dir) = (&*self.options.disk, partition.dir());
        let stays = found.runs.first().filter(|run| run.bytes.start == SEGMENT_HEAD_BYTES);
        if mends.acts() && !found.head && stays.is_some() {
            let doing = |error| Error::io(path, "write the head of a segment", error);
            let file = disk.open(path, OpenMode::Write).map_err(doing)?;
            file.write_all_at(&head.encode(), 0).map_err(doing)?;
            file.sync(SyncSite::Mended).map_err(|error| Error::sync(path, "sync a segment", error))?;
        }
        let kept_end = stays.map(|run| SegmentEnd {
            position: run.bytes.end,
            offset: run.offsets.end,
            max_timestamp_ms: run.max_timestamp_ms,
            ..end
        });
        self.put(topic, partition, lsn, (head, kept_end))?;
        for run in found.runs.iter().skip(usize::from(stays.is_some())) {
            let part = SegmentHead { base_offset: run.offsets.start, salt: self.chance.next_u64(), ..*head };
            let position = SEGMENT_HEAD_BYTES + (run.bytes.end - run.bytes.start);
            let end = if mends.acts() {
                segment::copy_run(disk, dir, (path, head.salt), run, &part, end)?
            } else {
                let (offset, max_timestamp_ms) = (run.offsets.end, run.max_timestamp_ms);
                SegmentEnd { position, offset, max_timestamp_ms, ..end }
            };
            self.put(topic, partition, lsn, (&part, Some(end)))?;
        }
        if mends.acts() {
            let synced = disk.sync_dir(dir, SyncSite::SegmentDir);
            synced.map_err(|error| Error::sync(dir, "sync a partition", error))?;
        }
        Ok(())
    }

    /// What the next trim point says of a segment; `None`: nothing, it is no longer part of the log.
    fn put(
        &self,
        topic: TopicId,
        partition: &Partition,
        lsn: Lsn,
        (head, end): (&SegmentHead, Option<SegmentEnd>),
    ) -> Result<()> {
        let row = end.map(|end| SegmentRow::of(head, end));
        let row = row.map(|row| system::encode_row(&row)).transpose()?;
        let key = system::segment_key(topic, partition.id, head.base_offset);
        self.tables.shard(system::SEGMENTS, system::SHARD).turn().put(key, row.map(bytes::Bytes::from), lsn);
        Ok(())
    }
}

/// Looks for the segment under another name in its directory, and gives it its own. What has that name keeps its bytes,
/// under one that no segment has: it may be looked for next.
fn find_elsewhere(disk: &dyn Disk, dir: &Path, head: &SegmentHead, path: &Path, mends: &Mends) -> Result<bool> {
    let doing = |error| Error::io(dir, "look for a segment", error);
    let names = disk.list(dir).map_err(doing)?;
    let Some(other) = find_head(disk, &names, head)? else { return Ok(false) };
    if names.iter().any(|name| name == path) {
        let free = |number: &u32| !names.contains(&displaced(path, *number));
        let number = (1..=u32::MAX).find(free).unwrap_or(u32::MAX);
        let away = displaced(path, number);
        mends.note(path, format!("is not this segment: named {} for now", away.display()), Kept::default());
        disk.rename(path, &away).map_err(doing)?;
    }
    mends.note(path, format!("is there as {}: given its name again", other.display()), Kept::default());
    disk.rename(&other, path).map_err(doing)?;
    disk.sync_dir(dir, SyncSite::SegmentDir).map_err(|error| Error::sync(dir, "sync a partition", error))?;
    Ok(true)
}

fn displaced(path: &Path, number: u32) -> PathBuf {
    path.with_extension(format!("displaced-{number}"))
}

/// Looks for the segment in all partitions of all owners.
fn find_in_store(disk: &dyn Disk, topics: &Path, head: &SegmentHead) -> Result<Option<PathBuf>> {
    for topic in names_in(disk, topics)? {
        for partition in names_in(disk, &topic)? {
            if let Some(found) = find_head(disk, &names_in(disk, &partition)?, head)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// What is in a directory; nothing in what is none.
pub(super) fn names_in(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>> {
    match disk.list(dir) {
        Err(error) if is_no_file(&error) || error.kind() == std::io::ErrorKind::NotADirectory => Ok(Vec::new()),
        listed => listed.map_err(|error| Error::io(dir, "look for segments", error)),
    }
}

/// Which of the files is that segment.
fn find_head(disk: &dyn Disk, files: &[PathBuf], head: &SegmentHead) -> Result<Option<PathBuf>> {
    for path in files {
        let file = match disk.open(path, OpenMode::Read) {
            Err(error) if is_no_file(&error) => continue,
            opened => opened.map_err(|error| Error::io(path, "look for a segment", error))?,
        };
        match head.check(&*file, path) {
            Ok(()) => return Ok(Some(path.clone())),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(_) => {}
        }
    }
    Ok(None)
}
