//! The file of a yardstick, and buffered appends to it.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::frame::put_frame;
use crate::Result;
use crate::workload::Subject;

/// The unit in which zeros are written: after larger ones small writes into the page cache were slower.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A log file that is written from its beginning on.
pub(crate) struct LogFile {
    file: File,
    path: PathBuf,
    syncs: AtomicU64,
    buffer: Vec<u8>,
}

impl LogFile {
    /// Makes the file in `dir`. For [`Subject::Zeroed`] it has `bytes` of zeros, durable.
    pub(crate) fn create(dir: &Path, subject: Subject, bytes: usize) -> Result<LogFile> {
        let path = dir.join("log");
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if subject == Subject::Zeroed {
            for _ in 0..bytes.div_ceil(ZEROS.len()) {
                file.write_all(&ZEROS)?;
            }
            file.rewind()?;
        }
        file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(LogFile { file, path, syncs: AtomicU64::new(0), buffer: Vec::new() })
    }

    /// Appends a frame for each record with one write. Not synced.
    pub(crate) fn append_batch<'r>(&mut self, records: impl Iterator<Item = (&'r [u8], &'r [u8])>) -> Result<()> {
        self.buffer.clear();
        for (key, value) in records {
            put_frame(&mut self.buffer, [key, value]);
        }
        Ok((&self.file).write_all(&self.buffer)?)
    }

    /// Writes frames that are made already. Not synced.
    pub(super) fn write(&self, frames: &[u8]) -> Result<()> {
        Ok((&self.file).write_all(frames)?)
    }

    /// Makes what was written durable.
    pub(crate) fn sync(&self) -> Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        Ok(self.file.sync_data()?)
    }

    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
