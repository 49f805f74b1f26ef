//! Chunks: bytes named by their hash, and how files are cut into them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sha2::{Digest as _, Sha256};

use super::target::{BackupTarget, CHUNKS};
use crate::codec::{CheckSite, crc32c, same};
use crate::error::{Error, Result};

/// Files are cut at multiples of it.
pub(crate) const CHUNK_BYTES: usize = 4 << 20;
/// Rows are cut where their keys say so, in chunks of at least so much ...
const ROWS_BYTES_MIN: usize = 64 << 10;
/// ... about four times as much, and at most so much and a row.
const ROWS_BYTES_MAX: usize = 1 << 20;
/// One row in so many ends a chunk, of those behind the least.
const ROWS_IN_CHUNK: u32 = 2048;

/// The hash of a chunk: SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChunkId(pub(crate) [u8; 32]);

/// A chunk in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) id: ChunkId,
    pub(crate) bytes: u32,
}

impl ChunkId {
    pub(crate) fn of(bytes: &[u8]) -> ChunkId {
        ChunkId(Sha256::digest(bytes).into())
    }

    /// Its object in a target.
    pub(super) fn object(self) -> String {
        let name = self.to_string();
        format!("{CHUNKS}/{}/{name}", &name[..2])
    }

    /// Reads what [`ChunkId::object`] wrote, without the folder of all chunks; `None`: it is something else.
    pub(super) fn of_object(name: &str) -> Option<ChunkId> {
        let (folder, name) = name.split_once('/')?;
        if !name.is_ascii() || name.len() != 64 || !name.starts_with(folder) || folder.len() != 2 {
            return None;
        }
        let mut id = [0; 32];
        for (byte, digits) in id.iter_mut().zip(name.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(ChunkId(id)).filter(|id| id.to_string() == name)
    }

    /// Whether the bytes are those of the chunk.
    pub(super) fn is_of(self, bytes: &[u8]) -> bool {
        same(CheckSite::BackupChunk, u32::from(ChunkId::of(bytes) != self), 0)
    }
}

impl Chunk {
    /// Whether the bytes are those of the chunk.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        self.id.is_of(bytes)
    }
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The chunks of a target, and more of them.
pub(crate) struct Uploads<'t> {
    target: &'t BackupTarget,
    /// With their lengths, as far as those are known yet.
    known: BTreeMap<ChunkId, Option<u64>>,
    /// Folders with chunks that count on being there. Whoever wrote one that was found may have been killed before its
    /// name was durable.
    folders: BTreeSet<u8>,
    /// Chunks of this folder are read before they are counted on ...
    scrub: u8,
    /// ... once each.
    scrubbed: BTreeSet<ChunkId>,
    pub(crate) new_chunks: u64,
    pub(crate) new_bytes: u64,
}

impl<'t> Uploads<'t> {
    pub(crate) fn begin(target: &'t BackupTarget, scrub: u8) -> Result<Uploads<'t>> {
        let listed = target.list_sized(CHUNKS, 2)?;
        let known = listed.iter().filter_map(|(name, bytes)| Some((ChunkId::of_object(name)?, *bytes))).collect();
        let (folders, scrubbed) = (BTreeSet::new(), BTreeSet::new());
        Ok(Uploads { target, known, folders, scrub, scrubbed, new_chunks: 0, new_bytes: 0 })
    }

    /// Whether all of these are there, so that nothing of the file need be read.
    pub(crate) fn has(&mut self, chunks: &[Chunk]) -> Result<bool> {
        for chunk in chunks {
            if !self.is_there(chunk)? {
                return Ok(false);
            }
        }
        self.folders.extend(chunks.iter().map(|chunk| chunk.id.0[0]));
        Ok(true)
    }

    /// Puts a chunk, if it is not there.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<Chunk> {
        let id = ChunkId::of(bytes);
        let length = u32::try_from(bytes.len()).map_err(|_| Error::invalid("a chunk above 4 GiB"))?;
        let chunk = Chunk { id, bytes: length };
        if !self.is_there(&chunk)? {
            self.target.write_object(&id.object(), bytes)?;
            self.known.insert(id, Some(u64::from(length)));
            self.scrubbed.insert(id);
            self.new_chunks += 1;
            self.new_bytes += u64::from(length);
        }
        self.folders.insert(id.0[0]);
        Ok(chunk)
    }

    /// Whether a chunk is there with the length that it should have, and is the one of its hash if it is its turn to be
    /// looked at. One that was cut short, or is found rotten, is not.
    fn is_there(&mut self, chunk: &Chunk) -> Result<bool> {
        let Some(known) = self.known.get_mut(&chunk.id) else { return Ok(false) };
        let object = chunk.id.object();
        let found = match *known {
            Some(bytes) => Some(bytes),
            None => self.target.object_bytes(&object)?,
        };
        *known = found;
        if found == Some(u64::from(chunk.bytes)) && self.is_whole(chunk, &object) {
            return Ok(true);
        }
        self.known.remove(&chunk.id);
        let place = self.target.object_place(&object);
        tracing::warn!(chunk = %place.display(), ?found, expected = chunk.bytes, "a damaged chunk is written anew");
        Ok(false)
    }

    /// Whether a chunk that is not looked at, or is what it should be. One that cannot be read is not: it is written
    /// anew, which tells better whether the target can be.
    fn is_whole(&mut self, chunk: &Chunk, object: &str) -> bool {
        if chunk.id.0[0] != self.scrub || !self.scrubbed.insert(chunk.id) {
            return true;
        }
        let read = self.target.read_object(object, u64::from(chunk.bytes));
        read.is_ok_and(|bytes| bytes.is_some_and(|bytes| chunk.is_of(&bytes)))
    }

    /// Makes the names of all chunks durable that were put or asked for.
    pub(crate) fn settle(&mut self) -> Result<()> {
        while let Some(folder) = self.folders.first().copied() {
            self.target.settle_folder(&format!("{CHUNKS}/{folder:02x}"))?;
            self.folders.remove(&folder);
        }
        Ok(())
    }
}

/// Cuts a stream into chunks as it comes.
pub(crate) struct Cutter {
    buffer: Vec<u8>,
    chunks: Vec<Chunk>,
}

impl Cutter {
    /// A stream that begins with these bytes.
    pub(crate) fn new(begin: Vec<u8>) -> Cutter {
        Cutter { buffer: begin, chunks: Vec::new() }
    }

    /// Adds bytes; cuts at multiples of [`CHUNK_BYTES`].
    pub(crate) fn push(&mut self, bytes: &[u8], uploads: &mut Uploads<'_>) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.cut_all(CHUNK_BYTES, uploads)
    }

    /// Adds a row. Where a chunk ends is decided by keys, so that rows that stay make chunks that stay, whatever comes
    /// or goes before them.
    pub(crate) fn push_row(&mut self, key: &[u8], value: &[u8], uploads: &mut Uploads<'_>) -> Result<()> {
        super::stream::put_row(&mut self.buffer, key, value);
        let len = self.buffer.len();
        if len >= ROWS_BYTES_MAX || (len >= ROWS_BYTES_MIN && crc32c(key).is_multiple_of(ROWS_IN_CHUNK)) {
            self.cut_all(1, uploads)?;
        }
        Ok(())
    }

    /// The chunks, with the last one.
    pub(crate) fn finish(mut self, uploads: &mut Uploads<'_>) -> Result<Vec<Chunk>> {
        self.cut_all(1, uploads)?;
        Ok(self.chunks)
    }

    /// Cuts at multiples of [`CHUNK_BYTES`], and what is left then if it has so many bytes.
    fn cut_all(&mut self, bytes_min: usize, uploads: &mut Uploads<'_>) -> Result<()> {
        let (mut rest, mut cut) = (&self.buffer[..], 0);
        while rest.len() >= bytes_min {
            let (chunk, behind) = rest.split_at(rest.len().min(CHUNK_BYTES));
            self.chunks.push(uploads.put(chunk)?);
            (rest, cut) = (behind, cut + chunk.len());
        }
        self.buffer.drain(..cut);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::wake::Arc;

    #[test]
    fn names_are_those_of_sha256sum() {
        // FIPS 180-2, B.1.
        let id = ChunkId::of(b"abc");
        assert_eq!(id.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(ChunkId::of_object(id.object().strip_prefix("chunks/").unwrap()), Some(id));
        for other in ["ba", "ba/ba", "bb/ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "ba/é"] {
            assert_eq!(ChunkId::of_object(other), None);
        }
        let upper = "ba/BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        assert_eq!(ChunkId::of_object(upper), None);
    }

    /// One row more, one less and one changed: nearly all chunks stay.
    #[test]
    fn rows_that_stay_make_chunks_that_stay() {
        let target = BackupTarget::dir_on(Arc::new(MemoryDisk::default()), "/target").unwrap();
        let mut uploads = Uploads::begin(&target, 0).unwrap();
        let mut cut = |without: u32, changed: u32, more: &[u8]| {
            let mut cutter = Cutter::new(vec![1]);
            for row in (0..40_000u32).filter(|row| *row != without) {
                let value = if row == changed { [1; 90] } else { [0; 90] };
                cutter.push_row(&row.to_be_bytes(), &value, &mut uploads).unwrap();
                if row == 20_000 && !more.is_empty() {
                    cutter.push_row(more, b"x", &mut uploads).unwrap();
                }
            }
            cutter.finish(&mut uploads).unwrap()
        };
        let before = cut(u32::MAX, u32::MAX, b"");
        assert!(before.len() > 10, "{} chunks", before.len());
        let after = cut(17, 39_000, &[0, 0, 78, 32, 1]);
        let new = after.iter().filter(|chunk| !before.contains(chunk)).count();
        assert!(new <= 5, "{new} of {} chunks are new", after.len());
    }
}
