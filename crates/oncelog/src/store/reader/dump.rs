//! What is in the files, for people: the batches of a segment, the frames of a journal. Reads, and judges only what it
//! reads: whether a file should be there, or reach further, is for [`StoreReader::verify`] to say.

use std::path::Path;

use super::StoreReader;
use super::live::{Found, Live};
use super::owner::OwnerReader;
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogOffset, Lsn, PartitionId, ShardId, StoreId, TableId, TopicId};
use crate::journal;
use crate::record::BatchHead;
use crate::segment::{Follower, SegmentHead, last_offset};
use crate::topic;
use crate::transaction::{Effect, effects};

/// A segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentInfo {
    /// The store that it belongs to.
    pub store: StoreId,
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// The opening that has made it, or what it was compacted from.
    pub epoch: Epoch,
    /// Which compaction has written it; 0: none, it is as its records were appended.
    pub generation: u64,
    /// Where it begins.
    pub base_offset: LogOffset,
    /// Its batches, in order.
    pub batches: Vec<BatchInfo>,
    /// Where they end. What is behind means nothing.
    pub end: u64,
    /// Why the bytes behind the end are no batch, where there are any: half written, or left over from a crash.
    pub behind: Option<String>,
}

/// A record batch in a segment or in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BatchInfo {
    /// The byte that it begins at; 0 in a frame.
    pub position: u64,
    /// Its bytes.
    pub bytes: u64,
    /// The offset of its first record.
    pub first: LogOffset,
    /// The offset behind its last record.
    pub next: LogOffset,
    /// How many records it has: fewer than offsets where some were compacted away.
    pub records: u32,
    /// The greatest timestamp of its records; the least `i64` where there is none.
    pub max_timestamp_ms: i64,
}

/// A frame of a journal: one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FrameInfo {
    /// Its place in the journal.
    pub lsn: Lsn,
    /// Bytes of its content.
    pub bytes: u64,
    /// Records that it appends.
    pub batches: Vec<(TopicId, PartitionId, BatchInfo)>,
    /// Rows that it writes, or deletes where the length is `None`: table, shard, key, bytes of the value.
    pub rows: Vec<(TableId, ShardId, Vec<u8>, Option<usize>)>,
    /// Producers whose stamps it carries, with their first sequence and how many.
    pub stamps: Vec<(String, u64, u32)>,
}

impl BatchInfo {
    fn of(head: &BatchHead, position: u64) -> BatchInfo {
        let (first, next, max_timestamp_ms) = (head.base_offset, head.next_offset(), head.max_timestamp_ms);
        BatchInfo { position, bytes: head.bytes as u64, first, next, records: head.count, max_timestamp_ms }
    }
}

impl SegmentInfo {
    /// Reads a segment file, up to where no batch follows. The checksums of each batch are compared. Bytes that are no
    /// batch are damage where the store around the file says that there is a record, or, where there is no store, where
    /// a good batch follows; else they are remarked in [`SegmentInfo::behind`].
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`: it is no segment, another than its name says, or a batch is damaged; `Unavailable`.
    pub fn read(path: impl AsRef<Path>) -> Result<SegmentInfo> {
        read_segment(&RealDisk, path.as_ref())
    }
}

fn read_segment(disk: &dyn Disk, path: &Path) -> Result<SegmentInfo> {
    let missing = || {
        let what = format!("there is no file {}", path.display());
        Error::new(ErrorKind::NotFound, what)
    };
    let mut segment = Follower::open(disk, path, |_| true)?.ok_or_else(missing)?;
    let head = *segment.head();
    let (mut next, mut batches) = (head.base_offset, Vec::new());
    let behind = loop {
        match next_batch(&mut segment, next) {
            Ok(Some(batch)) => {
                next = batch.next;
                batches.push(batch);
            }
            Ok(None) => break None,
            Err(error) if error.kind() == ErrorKind::Corrupt && next >= known_end(disk, path, &head)? => {
                break Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    };
    let end = batches.last().map_or(crate::segment::SEGMENT_HEAD_BYTES, |last: &BatchInfo| last.position + last.bytes);
    let (store, topic, partition) = (head.store, head.topic, head.partition);
    let (epoch, generation, base_offset) = (head.epoch, head.generation.0, head.base_offset);
    Ok(SegmentInfo { store, topic, partition, epoch, generation, base_offset, batches, end, behind })
}

fn next_batch(segment: &mut Follower, next: LogOffset) -> Result<Option<BatchInfo>> {
    if segment.advance(next, LogOffset(u64::MAX))?.is_none() {
        return Ok(None);
    }
    let batch = segment.current()?;
    Ok(Some(BatchInfo::of(batch.head(), segment.current_position())))
}

/// The offset below which the records of a segment are there for certain.
fn known_end(disk: &dyn Disk, path: &Path, head: &SegmentHead) -> Result<LogOffset> {
    match end_in_store(disk, path, head) {
        Some(end) => Ok(end),
        // On its own: what is followed by a good batch was not being written.
        None => Ok(last_offset(disk, path)?.map_or(head.base_offset, |(_, end)| end)),
    }
}

/// As the store around the file says, if there is one that can be read.
fn end_in_store(disk: &dyn Disk, path: &Path, head: &SegmentHead) -> Option<LogOffset> {
    let partition = path.parent()?;
    let topic_dir = partition.parent()?;
    let reader = StoreReader::open(topic_dir.parent()?.parent()?).ok()?;
    let claim = topic::find_claim(disk, topic_dir).ok()??;
    let (_, end) = reader.offsets(&claim.name, head.partition).ok()?;
    let pieces = topic::pieces(disk, partition).ok()?;
    // One that does not count is the rest of a crash.
    let Some(at) = pieces.iter().position(|piece| piece.path == path) else { return Some(head.base_offset) };
    Some(pieces.get(at + 1).map_or(end, |next| end.min(next.base)))
}

impl StoreReader {
    /// The frames of an owner's journal behind its trim point: what an opening would replay. Up to what is visible
    /// where the owner lives.
    ///
    /// # Errors
    /// `NotFound`: there is no such owner; `Corrupt`, with file and position; `Unavailable`: the owner is being opened,
    /// or moves its trim point faster than its journal can be read.
    pub fn frames(&self, owner: &str) -> Result<Vec<FrameInfo>> {
        self.known_owner(owner)?.frames()
    }
}

impl OwnerReader {
    fn frames(&self) -> Result<Vec<FrameInfo>> {
        for _ in 0..super::look::LOOKS {
            let manifest = self.manifest()?;
            let until = match Live::find(&self.disk, &self.layout, self.store, manifest.epoch)? {
                Found::Serving(live) => Some(live.watch.visible()),
                Found::Nobody { failed_at } => failed_at,
                Found::Opening => {
                    self.clock.sleep(super::owner::PAUSES.1);
                    continue;
                }
            };
            let Some((start, _)) = &manifest.trim else { return Ok(Vec::new()) };
            let mut frames = Vec::new();
            let (disk, dir) = (&*self.disk, &self.layout.journal);
            let read = journal::replay(disk, dir, self.store, *start, until, |lsn, body| {
                frames.push(frame_info(lsn, body).map_err(|error| error.in_file(dir))?);
                Ok(())
            });
            if self.manifest()?.generation == manifest.generation {
                return read.map(|_| frames);
            }
        }
        Err(self.takes_its_time("is being opened, or moves its trim point faster than its journal can be read"))
    }
}

fn frame_info(lsn: Lsn, body: &[u8]) -> Result<FrameInfo> {
    let (mut batches, mut rows, mut stamps) = (Vec::new(), Vec::new(), Vec::new());
    for effect in effects(body)? {
        match effect {
            Effect::Batch { topic, partition, bytes } => {
                let head = BatchHead::peek(bytes)
                    .map_err(|error| Error::new(ErrorKind::Corrupt, format!("frame {lsn}: {error}")))?;
                batches.push((topic, partition, BatchInfo::of(&head, 0)));
            }
            Effect::Row { table, shard, key, value } => rows.push((table, shard, key.to_vec(), value.map(<[u8]>::len))),
            Effect::Stamp { producer, stamp, .. } => stamps.push((producer.to_owned(), stamp.first.0, stamp.count)),
        }
    }
    Ok(FrameInfo { lsn, bytes: body.len() as u64, batches, rows, stamps })
}
