//! Laying frames out in new files, whole and durable, as if they had been written one by one: for an owner that is made
//! of what another had.

use std::path::PathBuf;

use super::file::{FILE_HEAD_BYTES, FileName, JournalFile, JournalPosition};
use super::frame::{self, HEAD_BYTES, Kind, ROTATE_BYTES, frame_bytes};
use crate::chance::Chance;
use crate::disk::{Disk, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{Epoch, Lsn, StoreId};
use crate::wake::Arc;

/// Bytes of a file, unless a frame needs more.
const FILE_BYTES: u64 = 1 << 20;
/// Files have a multiple of it.
const PAGE_BYTES: u64 = 4096;

/// Writes the journal of an opening that never was.
pub(crate) struct FrameLayer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: StoreId,
    epoch: Epoch,
    chance: Arc<Chance>,
    start: JournalPosition,
    at: JournalPosition,
    file: JournalFile,
}

impl FrameLayer {
    /// An empty journal whose first frame will be `next`.
    pub(crate) fn begin(
        disk: &Arc<dyn Disk>,
        dir: PathBuf,
        store: StoreId,
        epoch: Epoch,
        chance: &Arc<Chance>,
        next: Lsn,
    ) -> Result<FrameLayer> {
        let (name, salt) = (FileName { epoch, slot: 1 }, chance.next_u64());
        let file = JournalFile::create(&**disk, &dir, store, name, salt, PAGE_BYTES)?;
        let start = JournalPosition { file: name, salt, position: FILE_HEAD_BYTES, next_lsn: next, chain: 0 };
        let (disk, chance) = (Arc::clone(disk), Arc::clone(chance));
        Ok(FrameLayer { disk, dir, store, epoch, chance, start, at: start, file })
    }

    /// The LSN that the next frame must have.
    pub(crate) fn next_lsn(&self) -> Lsn {
        self.at.next_lsn
    }

    /// Lays the next frame out.
    pub(crate) fn push(&mut self, body: &[u8]) -> Result<()> {
        let room = frame_bytes(body.len());
        if self.at.position + room + ROTATE_BYTES > self.file.bytes {
            self.rotate(room)?;
        }
        let mut bytes = vec![0; HEAD_BYTES];
        bytes.extend_from_slice(body);
        let (lsn, chain) = (self.at.next_lsn, self.at.chain);
        let durable = Lsn(lsn.0 - 1);
        self.at.chain = frame::seal(&mut bytes, Kind::Data, lsn, durable, chain, self.at.salt, self.at.position);
        self.write(&bytes)?;
        self.at.position += room;
        self.at.next_lsn = lsn.next();
        Ok(())
    }

    /// Makes all of it durable; gives where replay starts.
    pub(crate) fn finish(self) -> Result<JournalPosition> {
        self.sync()?;
        Ok(self.start)
    }

    fn rotate(&mut self, room: u64) -> Result<()> {
        let name = FileName { epoch: self.epoch, slot: self.at.file.slot + 1 };
        let bytes = (FILE_HEAD_BYTES + room + ROTATE_BYTES).max(FILE_BYTES).next_multiple_of(PAGE_BYTES);
        let salt = self.chance.next_u64();
        let next = JournalFile::create(&*self.disk, &self.dir, self.store, name, salt, bytes)?;
        let mut frame = frame::rotate_frame(name, salt);
        let (lsn, chain) = (self.at.next_lsn, self.at.chain);
        let durable = Lsn(lsn.0 - 1);
        self.at.chain = frame::seal(&mut frame, Kind::Rotate, lsn, durable, chain, self.at.salt, self.at.position);
        self.write(&frame)?;
        self.sync()?;
        self.file = next;
        self.at = JournalPosition { file: name, salt, position: FILE_HEAD_BYTES, ..self.at };
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<()> {
        let written = self.file.file.write_all_at(bytes, self.at.position);
        written.map_err(|error| Error::io(&self.file.path, "write the journal", error))
    }

    fn sync(&self) -> Result<()> {
        let synced = self.file.file.sync(SyncSite::RestoreFile);
        synced.map_err(|error| Error::sync(&self.file.path, "sync the journal", error))
    }
}
