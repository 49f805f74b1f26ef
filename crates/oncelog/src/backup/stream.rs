//! Rows and frames as streams of bytes, and back, over the chunks of a file.

use std::collections::{BTreeSet, VecDeque};
use std::ops::ControlFlow;

use super::chunks::{CHUNK_BYTES, Chunk};
use super::manifest::FileImage;
use super::target::BackupTarget;
use crate::codec::{Input, put_bytes};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Lsn;

/// Both kinds of streams begin with it.
const VERSION: u8 = 1;

/// A row or a frame has 1 GiB at most, and a key and lengths beside that: more need not be gathered to know that it is
/// none.
const ITEM_BYTES_MAX: usize = (1 << 30) + (1 << 20);

/// How a stream of rows begins.
pub(crate) fn rows_begin() -> Vec<u8> {
    vec![VERSION]
}

/// How a stream of frames begins.
pub(crate) fn frames_begin() -> Vec<u8> {
    vec![VERSION]
}

/// Adds a row, by its flat key.
pub(crate) fn put_row(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    put_bytes(out, key);
    put_bytes(out, value);
}

/// Adds a frame.
pub(crate) fn put_frame(out: &mut Vec<u8>, lsn: Lsn, body: &[u8]) {
    out.extend_from_slice(&lsn.0.to_le_bytes());
    put_bytes(out, body);
}

/// Reads a file of a backup. Every chunk is compared with its hash.
pub(crate) struct ChunkReader<'t> {
    target: &'t BackupTarget,
    /// The store's file, as errors name it.
    path: String,
    chunks: VecDeque<Chunk>,
    buffer: Vec<u8>,
    /// How much of the buffer was handed out.
    taken: usize,
    /// What is gathered for one item.
    item_bytes_max: usize,
}

impl<'t> ChunkReader<'t> {
    pub(crate) fn new(target: &'t BackupTarget, path: &str, file: &FileImage) -> ChunkReader<'t> {
        let (path, chunks) = (path.to_owned(), file.chunks.iter().copied().collect());
        ChunkReader { target, path, chunks, buffer: Vec::new(), taken: 0, item_bytes_max: ITEM_BYTES_MAX }
    }

    /// The next chunk; `None`: that was the last.
    ///
    /// # Errors
    /// `Corrupt`: it is gone or is not what was written, naming the object, and the store's file that it belongs to.
    pub(crate) fn next_chunk(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(chunk) = self.chunks.pop_front() else { return Ok(None) };
        let object = chunk.id.object();
        let place = self.target.object_place(&object);
        let told =
            |position: u64, what: &str| Error::corrupt(&place, position, format!("a chunk of {} {what}", self.path));
        let length = u64::from(chunk.bytes);
        let bytes = match self.target.read_object(&object, CHUNK_BYTES as u64) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                return Err(told(length, "is too long").because(error));
            }
            bytes => bytes?.ok_or_else(|| told(0, "is gone"))?,
        };
        let found = bytes.len() as u64;
        if found != length {
            return Err(told(
                found.min(length),
                &format!("is damaged: it has {found} bytes, and should have {length}"),
            ));
        }
        if !chunk.is_of(&bytes) {
            return Err(told(0, "is damaged: its hash does not fit"));
        }
        Ok(Some(bytes))
    }

    /// Hands every row to `each`, in order of keys, until it breaks off.
    pub(crate) fn rows(self, mut each: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>) -> Result<()> {
        self.items(|input| {
            let mut ahead = *input;
            let (Some(key), Some(value)) = (ahead.bytes(), ahead.bytes()) else { return Ok(Taken::Part) };
            *input = ahead;
            each(key, value).map(|flow| if flow.is_break() { Taken::Enough } else { Taken::Item })
        })
    }

    /// Hands every frame to `each`.
    pub(crate) fn frames(self, mut each: impl FnMut(Lsn, &[u8]) -> Result<()>) -> Result<()> {
        self.items(|input| {
            let mut ahead = *input;
            let (Some(lsn), Some(body)) = (ahead.u64(), ahead.bytes()) else { return Ok(Taken::Part) };
            *input = ahead;
            each(Lsn(lsn), body).map(|()| Taken::Item)
        })
    }

    /// `take` takes one item from the input, if there is a whole one.
    fn items(mut self, mut take: impl FnMut(&mut Input<'_>) -> Result<Taken>) -> Result<()> {
        let mut begun = false;
        while let Some(bytes) = self.next_chunk()? {
            self.buffer.drain(..self.taken);
            self.buffer.extend_from_slice(&bytes);
            let mut input = Input::new(&self.buffer);
            if !begun {
                begun = true;
                match input.u8() {
                    Some(VERSION) => {}
                    version => {
                        let version = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
                        let what = format!("{}: version {version}, this program knows {VERSION}", self.path);
                        return Err(Error::new(ErrorKind::UnsupportedVersion, what));
                    }
                }
            }
            while !input.is_empty() {
                match take(&mut input)? {
                    Taken::Item => {}
                    Taken::Part => break,
                    Taken::Enough => return Ok(()),
                }
            }
            self.taken = self.buffer.len() - input.rest().len();
            let open = self.buffer.len() - self.taken;
            if open > self.item_bytes_max {
                let what = format!("{}: {open} bytes, and no end of a row or frame", self.path);
                return Err(Error::new(ErrorKind::Corrupt, what));
            }
        }
        if !begun || self.taken < self.buffer.len() {
            let what = format!("{}: the stream ends in the middle", self.path);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(())
    }
}

impl BackupTarget {
    /// Reads all chunks of a backup, and renames those that are not what was written to `HASH.damaged`. So no backup
    /// counts on them any more, and the next one writes anew what its store still has; then this one is whole again
    /// too. Gives what is wrong with each; those that are gone are among them.
    ///
    /// # Errors
    /// `NotFound`: no such backup. `Corrupt`, `UnsupportedVersion`: its manifest cannot be read. `Unavailable`.
    pub fn set_damaged_aside(&self, backup: &str) -> Result<Vec<Error>> {
        let (mut seen, mut damaged) = (BTreeSet::new(), Vec::new());
        for (path, file) in &self.read_manifest(backup)?.files {
            for chunk in &file.chunks {
                if !seen.insert(chunk.id) {
                    continue;
                }
                let only = FileImage { salt: 0, chunks: vec![*chunk] };
                let Err(error) = ChunkReader::new(self, path, &only).next_chunk() else { continue };
                if error.kind() != ErrorKind::Corrupt {
                    return Err(error);
                }
                if self.object_bytes(&chunk.id.object())?.is_some() {
                    self.set_aside(&chunk.id.object())?;
                }
                damaged.push(error);
            }
        }
        Ok(damaged)
    }
}

/// What was taken of a stream.
enum Taken {
    Item,
    /// Nothing: the rest of it comes with the next chunk.
    Part,
    /// An item, and no more are asked for.
    Enough,
}

/// Hands every frame of a stream that is in memory to `each`.
pub(crate) fn frames_of(stream: &[u8], mut each: impl FnMut(Lsn, &[u8]) -> Result<()>) -> Result<()> {
    let mut input = Input::new(stream.get(1..).unwrap_or_default());
    while let (Some(lsn), Some(body)) = (input.u64(), input.bytes()) {
        each(Lsn(lsn), body)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Uploads;
    use crate::codec::put_varint;
    use crate::disk::MemoryDisk;
    use crate::wake::Arc;

    /// A small manifest names one chunk so often that what seems to be one row would fill the memory.
    #[test]
    fn a_row_without_an_end_is_not_gathered() {
        let target = BackupTarget::dir_on(Arc::new(MemoryDisk::default()), "/target").unwrap();
        let mut bytes = rows_begin();
        put_varint(&mut bytes, 1 << 50);
        bytes.resize(1 << 20, 0);
        let chunk = Uploads::begin(&target, 0).unwrap().put(&bytes).unwrap();
        let file = FileImage { salt: 0, chunks: vec![chunk; 100] };
        let read = |item_bytes_max| {
            let mut reader = ChunkReader::new(&target, "owners/main/rows", &file);
            reader.item_bytes_max = item_bytes_max;
            reader.rows(|_, _| unreachable!("there is no row")).unwrap_err()
        };
        let error = read(8 << 20);
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("no end"), "{error}");
        assert!(read(ITEM_BYTES_MAX).to_string().contains("in the middle"));
    }
}
