//! Writing groups of frames where they were planned to be: one write for each run in a file, one sync for the group.

use super::file::{JournalFile, JournalPosition};
use super::frame::{self, HEAD_BYTES, Kind};
use crate::disk::SyncSite;
use crate::error::{Error, Result};
use crate::ids::Lsn;
use crate::wake::Arc;

/// What an answer about a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// The frame's group is synced before the answer.
    Synced,
    /// The frame is written and applied; a later sync makes it durable.
    Written,
}

/// A frame with its LSN and its place.
pub(crate) struct Placed<C> {
    pub(crate) lsn: Lsn,
    /// [`HEAD_BYTES`] of room for the head, then the body.
    pub(crate) bytes: Vec<u8>,
    pub(crate) context: C,
    pub(super) durability: Durability,
    pub(super) file: Arc<JournalFile>,
    pub(super) position: u64,
    /// Set when this is the first frame in its file: the file before, and where its last frame goes.
    pub(super) rotates: Option<(Arc<JournalFile>, u64)>,
}

/// The end of the journal, where the one leader writes.
pub(super) struct Writer {
    chain: u32,
    /// What the syncs so far cover, to the frame.
    durable: Lsn,
    /// The same, to the group: what readers may see. In the middle of a group some partitions would be ahead of others.
    settled: Lsn,
    written: Lsn,
    /// Where the next frame will be.
    end: JournalPosition,
    /// Where the last frame went; `None` before the first.
    file: Option<Arc<JournalFile>>,
    buffer: Vec<u8>,
}

impl Writer {
    /// A writer that goes on at `start`, with everything before it durable.
    pub(super) fn new(start: JournalPosition) -> Writer {
        let durable = Lsn(start.next_lsn.0 - 1);
        Writer {
            chain: start.chain,
            durable,
            settled: durable,
            written: durable,
            end: start,
            file: None,
            buffer: Vec::new(),
        }
    }

    /// What readers may see, were it applied.
    pub(super) fn settled(&self) -> Lsn {
        self.settled
    }

    /// The newest frame that is written, durable or not.
    pub(super) fn written(&self) -> Lsn {
        self.written
    }

    /// Where the next frame will be.
    pub(super) fn end(&self) -> JournalPosition {
        self.end
    }

    /// Whether frames are written that no sync has covered yet.
    pub(super) fn has_unsynced(&self) -> bool {
        self.settled < self.written
    }

    /// Writes `frames` where they belong, and syncs if one of them asks for it. Gives how far the journal is durable.
    pub(super) fn write<C>(&mut self, frames: &mut [Placed<C>]) -> Result<Lsn> {
        let wants_sync = frames.iter().any(|frame| frame.durability == Durability::Synced);
        self.buffer.clear();
        for frame in frames.iter_mut() {
            if let Some((full, position)) = frame.rotates.take() {
                self.write_run(&full)?;
                self.rotate(&full, position, frame)?;
            }
            if self.buffer.is_empty() {
                self.end.position = frame.position;
            }
            let durable = self.durable;
            let chain = frame::seal(
                &mut frame.bytes,
                Kind::Data,
                frame.lsn,
                durable,
                self.chain,
                frame.file.salt,
                frame.position,
            );
            self.chain = chain;
            self.buffer.extend_from_slice(&frame.bytes);
            self.buffer.resize(self.buffer.len().next_multiple_of(frame::STEP), 0);
            self.written = frame.lsn;
        }
        let Some(file) = frames.last().map(|frame| Arc::clone(&frame.file)) else { return Ok(self.settled) };
        self.write_run(&file)?;
        self.file = Some(Arc::clone(&file));
        if wants_sync {
            self.settle()?;
        }
        self.end = JournalPosition {
            file: file.name,
            salt: file.salt,
            position: self.end.position,
            next_lsn: self.written.next(),
            chain: self.chain,
        };
        Ok(self.settled)
    }

    /// Writes what is in the buffer at `end.position`, and behind it the zeros that mark the end: a place that holds
    /// neither zeros nor a frame is then known to be damaged, also in a recycled file.
    fn write_run(&mut self, file: &JournalFile) -> Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let run = self.buffer.len() as u64;
        let room = file.bytes - self.end.position - run;
        let mark = usize::try_from(room.min(HEAD_BYTES as u64)).unwrap_or(HEAD_BYTES);
        self.buffer.resize(self.buffer.len() + mark, 0);
        file.file
            .write_all_at(&self.buffer, self.end.position)
            .map_err(|error| Error::io(&file.path, "write the journal", error))?;
        self.end.position += run;
        self.buffer.clear();
        Ok(())
    }

    /// Ends `full` with the frame that names the file of `next`, and makes all of it durable.
    fn rotate<C>(&mut self, full: &JournalFile, position: u64, next: &Placed<C>) -> Result<()> {
        let mut bytes = frame::rotate_frame(next.file.name, next.file.salt);
        self.chain = frame::seal(&mut bytes, Kind::Rotate, next.lsn, self.durable, self.chain, full.salt, position);
        full.file.write_all_at(&bytes, position).map_err(|error| Error::io(&full.path, "write the journal", error))?;
        sync(full, SyncSite::JournalRotate)?;
        self.durable = Lsn(next.lsn.0 - 1);
        Ok(())
    }

    /// Makes what is written durable.
    pub(super) fn settle(&mut self) -> Result<Lsn> {
        if let Some(file) = self.file.as_ref().filter(|_| self.has_unsynced()) {
            sync(file, SyncSite::JournalGroup)?;
            self.durable = self.written;
            self.settled = self.written;
        }
        Ok(self.settled)
    }
}

fn sync(file: &JournalFile, site: SyncSite) -> Result<()> {
    file.file.sync(site).map_err(|error| Error::io(&file.path, "sync the journal", error))
}
