//! Reading a yardstick's file in order: large reads into one buffer, every checksum compared.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::frame::{FRAME_HEAD_BYTES, Found, read_frame};
use crate::Result;

const BLOCK_BYTES: usize = 256 << 10;

/// The frames of a file from the first on.
pub(crate) struct Scan {
    file: File,
    buffer: Vec<u8>,
    /// What of the buffer is read from the file and not yet handed out.
    start: usize,
    end: usize,
}

impl Scan {
    pub(crate) fn open(path: &Path) -> Result<Scan> {
        Ok(Scan { file: File::open(path)?, buffer: vec![0; BLOCK_BYTES], start: 0, end: 0 })
    }

    /// The next payload; `None` at the end of the file, or where zeros begin.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>> {
        loop {
            // Found twice because a borrow that is returned cannot end early; the second look is a few instructions.
            let len = match read_frame(&self.buffer[self.start..self.end]) {
                Found::Payload(payload) => payload.len(),
                Found::End => return Ok(None),
                Found::Damaged => return Err("a frame of the yardstick is damaged".into()),
                Found::Partial => {
                    if self.fill()? == 0 {
                        return Ok(None);
                    }
                    continue;
                }
            };
            let from = self.start + FRAME_HEAD_BYTES;
            self.start = from + len;
            return Ok(Some(&self.buffer[from..self.start]));
        }
    }

    /// Reads more behind what is left; gives how much.
    fn fill(&mut self) -> Result<usize> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let read = self.file.read(&mut self.buffer[self.end..])?;
        self.end += read;
        Ok(read)
    }
}
