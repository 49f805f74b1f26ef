//! Checking the bytes of a segment as they go by, without holding a batch: for whoever copies them.

use super::head::SEGMENT_HEAD_BYTES;
use crate::codec::{CheckSite, same};
use crate::ids::LogOffset;
use crate::record::{BATCH_HEAD_BYTES, BatchError, BatchHead, place_checksum};

/// Kafka's checksum covers a batch from here on.
const SUMMED_FROM: usize = 21;

/// What of a segment was seen so far.
pub(crate) struct SegmentCheck {
    salt: u64,
    /// Where in the segment the next byte is.
    position: u64,
    /// Where the batch began that the next byte is of.
    batch_at: u64,
    /// Its head, as far as it was seen.
    head: Vec<u8>,
    /// When that was whole: what it says, and the checksum of what it should cover, so far.
    batch: Option<(BatchHead, u32)>,
    /// Behind the last whole batch.
    next_offset: Option<LogOffset>,
}

/// What is wrong, and where in the segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SegmentFlaw {
    pub(crate) position: u64,
    pub(crate) what: BatchError,
}

impl SegmentCheck {
    /// Of a segment with that salt.
    pub(crate) fn new(salt: u64) -> SegmentCheck {
        let head = Vec::with_capacity(BATCH_HEAD_BYTES);
        SegmentCheck { salt, position: 0, batch_at: SEGMENT_HEAD_BYTES, head, batch: None, next_offset: None }
    }

    /// The next bytes, from the first of the segment on. Its head is passed over.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), SegmentFlaw> {
        if self.position < SEGMENT_HEAD_BYTES {
            let head = usize::try_from(SEGMENT_HEAD_BYTES - self.position).unwrap_or(usize::MAX).min(bytes.len());
            bytes = &bytes[head..];
            self.position += head as u64;
        }
        while !bytes.is_empty() {
            let taken = match &mut self.batch {
                None => {
                    let taken = (BATCH_HEAD_BYTES - self.head.len()).min(bytes.len());
                    self.head.extend_from_slice(&bytes[..taken]);
                    if self.head.len() == BATCH_HEAD_BYTES {
                        self.begin_batch()?;
                    }
                    taken
                }
                Some((head, sum)) => {
                    let left = self.batch_at + head.bytes as u64 - self.position;
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    *sum = crc32c::crc32c_append(*sum, &bytes[..taken]);
                    taken
                }
            };
            self.position += taken as u64;
            bytes = &bytes[taken..];
            self.end_batch()?;
        }
        Ok(())
    }

    /// The segment ends here; gives the offset behind its last record, if it has one.
    pub(crate) fn finish(self) -> Result<Option<LogOffset>, SegmentFlaw> {
        let whole = self.head.is_empty() && self.position >= SEGMENT_HEAD_BYTES;
        if whole { Ok(self.next_offset) } else { Err(self.flaw(BatchError::Truncated)) }
    }

    fn begin_batch(&mut self) -> Result<(), SegmentFlaw> {
        let head = BatchHead::peek(&self.head).map_err(|what| self.flaw(what))?;
        if !same(CheckSite::BatchPlace, head.place, place_checksum(self.salt, self.batch_at, &self.head)) {
            return Err(self.flaw(BatchError::Checksum));
        }
        if self.next_offset.is_some_and(|next| head.base_offset < next) {
            return Err(self.flaw(BatchError::Malformed("its offsets come twice")));
        }
        self.batch = Some((head, crc32c::crc32c(&self.head[SUMMED_FROM..])));
        Ok(())
    }

    fn end_batch(&mut self) -> Result<(), SegmentFlaw> {
        let Some((head, sum)) = &self.batch else { return Ok(()) };
        if self.position < self.batch_at + head.bytes as u64 {
            return Ok(());
        }
        if !same(CheckSite::BatchBody, head.crc, *sum) {
            return Err(self.flaw(BatchError::Checksum));
        }
        self.next_offset = Some(head.next_offset());
        self.batch_at = self.position;
        self.batch = None;
        self.head.clear();
        Ok(())
    }

    fn flaw(&self, what: BatchError) -> SegmentFlaw {
        SegmentFlaw { position: self.batch_at, what }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchBuilder, Draft, set_base_offset, set_place};

    fn segment(salt: u64) -> Vec<u8> {
        let mut bytes = vec![0; 80];
        for (base, values) in [(5u64, 3usize), (8, 1), (20, 200)] {
            let mut batch = BatchBuilder::new();
            for _ in 0..values {
                batch.push(&Draft { key: None, value: Some(b"some value"), headers: &[], timestamp_ms: 7 });
            }
            let at = bytes.len();
            batch.finish_into(&mut bytes);
            set_base_offset(&mut bytes[at..], LogOffset(base));
            let sum = place_checksum(salt, at as u64, &bytes[at..]);
            set_place(&mut bytes[at..], sum);
        }
        bytes
    }

    fn check(bytes: &[u8], piece: usize) -> Result<Option<LogOffset>, SegmentFlaw> {
        let mut check = SegmentCheck::new(9);
        bytes.chunks(piece).try_for_each(|piece| check.feed(piece))?;
        check.finish()
    }

    #[test]
    fn all_is_seen_however_it_comes() {
        let bytes = segment(9);
        for piece in [1, 7, 60, 61, 62, 100, 1 << 20] {
            assert_eq!(check(&bytes, piece), Ok(Some(LogOffset(220))), "{piece}");
        }
        assert_eq!(check(&bytes[..80], 11), Ok(None));
        assert!(check(&segment(8), 100).is_err(), "of another salt");
        for bit in 80 * 8..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bad, 64).is_err(), "bit {bit}");
        }
        assert_eq!(check(&bytes[..bytes.len() - 1], 50).unwrap_err().what, BatchError::Truncated);
    }
}
