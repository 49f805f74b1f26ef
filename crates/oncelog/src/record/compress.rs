//! Compressing the records of a batch, as Kafka does: the head stays as it is, what follows is one LZ4 frame or one
//! zstd frame.
//!
//! Whoever inflates gives a limit. What claims to hold more is refused before memory is taken, what holds more without
//! saying so while it streams: a small batch that holds the world costs the limit and the decoder's own blocks,
//! 13 MiB at most.
//!
//! Invariants: what is inflated is one frame, whole to its end mark, with nothing behind it.

use std::cell::{Cell, OnceCell};
use std::io;
#[cfg(any(feature = "lz4", feature = "zstd"))]
use std::io::Read;

use serde::{Deserialize, Serialize};

use super::BatchError;

/// Memory larger than this is not kept for the next batch.
const SPARE_BYTES_MAX: usize = 4 << 20;

/// A batch that would hold more is not compressed, and a compressed one that holds more is refused.
/// Half as large again while the memory grows, and the decoder's blocks: 64 MiB are never passed.
pub(crate) const INFLATED_BYTES_MAX: usize = 32 << 20;

/// How the records of a batch are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// LZ4 frames: fast. In every build that has the feature `lz4`, which is on unless turned off.
    Lz4,
    /// Zstandard: smaller, slower. Only with the feature `zstd`.
    Zstd,
}

impl Compression {
    /// Whether this build of the library can do it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        match self {
            Compression::None => true,
            Compression::Lz4 => cfg!(feature = "lz4"),
            Compression::Zstd => cfg!(feature = "zstd"),
        }
    }

    /// The attribute bits that say so.
    pub(super) fn bits(self) -> u16 {
        match self {
            Compression::None => 0,
            Compression::Lz4 => 3,
            Compression::Zstd => 4,
        }
    }

    /// What attributes say that have no other bits.
    pub(super) fn of_bits(attributes: u16) -> Result<Compression, BatchError> {
        let all = [Compression::None, Compression::Lz4, Compression::Zstd];
        let Some(found) = all.into_iter().find(|kind| kind.bits() == attributes) else {
            return Err(match attributes {
                1 => BatchError::NotKnown("gzip"),
                2 => BatchError::NotKnown("snappy"),
                _ => BatchError::Attributes(attributes),
            });
        };
        if found.is_built_in() { Ok(found) } else { Err(BatchError::NotBuiltIn(found)) }
    }

    /// `bytes` compressed, where that is smaller and the build can do it.
    pub(super) fn deflate(self, bytes: &[u8]) -> Option<Vec<u8>> {
        if bytes.len() > INFLATED_BYTES_MAX {
            return None;
        }
        let deflated = match self {
            Compression::None => return None,
            Compression::Lz4 => lz4_deflate(bytes),
            Compression::Zstd => zstd_deflate(bytes),
        };
        deflated.ok().filter(|deflated| deflated.len() < bytes.len())
    }

    /// Replaces the content of `out` by what `bytes` hold, `max` bytes at most.
    ///
    /// # Errors
    /// `TooLarge`; `Malformed`: not one whole frame, or more than that.
    pub(super) fn inflate(self, bytes: &[u8], out: &mut Vec<u8>, max: usize) -> Result<(), BatchError> {
        out.clear();
        let inflated = match self {
            Compression::None => return Err(BatchError::Malformed("there is nothing to inflate")),
            Compression::Lz4 => lz4_inflate(bytes, out, max),
            Compression::Zstd => zstd_inflate(bytes, out, max),
        };
        match inflated {
            Ok(true) => Ok(()),
            Ok(false) => Err(BatchError::TooLarge(max)),
            Err(_) => Err(BatchError::Malformed("the compressed records are not one whole frame")),
        }
    }
}

/// The records of one batch, once they are inflated; its memory is used again for the next.
#[derive(Default)]
pub(crate) struct Inflated {
    records: OnceCell<Vec<u8>>,
    spare: Cell<Vec<u8>>,
}

impl Inflated {
    /// Makes place for another batch.
    pub(crate) fn clear(&mut self) {
        if let Some(records) = self.records.take()
            && records.capacity() <= SPARE_BYTES_MAX
        {
            self.spare.set(records);
        }
    }

    /// What `bytes` hold, inflated the first time.
    pub(super) fn get(&self, kind: Compression, bytes: &[u8]) -> Result<&[u8], BatchError> {
        if let Some(records) = self.records.get() {
            return Ok(records);
        }
        let mut out = self.spare.take();
        kind.inflate(bytes, &mut out, INFLATED_BYTES_MAX)?;
        Ok(self.records.get_or_init(|| out))
    }
}

/// Reads `from` to its end; `false` when there is more than `max`. Memory grows with what has come, never beyond `max`:
/// that there is more is seen by one byte beside it.
#[cfg(any(feature = "lz4", feature = "zstd"))]
fn read_up_to(mut from: impl Read, out: &mut Vec<u8>, max: usize) -> io::Result<bool> {
    loop {
        let filled = out.len();
        if filled == max {
            return has_ended(from);
        }
        let room = (filled * 2).max(64 << 10).min(max);
        out.reserve_exact(room - filled);
        out.resize(room, 0);
        let mut at = filled;
        while at < room {
            match from.read(&mut out[at..]) {
                Ok(0) => {
                    out.truncate(at);
                    return Ok(true);
                }
                Ok(read) => at += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(any(feature = "lz4", feature = "zstd"))]
fn has_ended(mut from: impl Read) -> io::Result<bool> {
    loop {
        match from.read(&mut [0]) {
            Ok(read) => return Ok(read == 0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(feature = "lz4")]
fn lz4_deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    use lz4_flex::frame::{BlockMode, FrameEncoder, FrameInfo};
    // Kafka's own reader takes independent blocks only.
    let info = FrameInfo::new().block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::with_capacity(bytes.len() / 2));
    io::Write::write_all(&mut encoder, bytes)?;
    encoder.finish().map_err(io::Error::other)
}

#[cfg(feature = "lz4")]
fn lz4_inflate(bytes: &[u8], out: &mut Vec<u8>, max: usize) -> io::Result<bool> {
    let frame = Lz4Frame::walk(bytes).ok_or(io::ErrorKind::InvalidData)?;
    if frame.claims.is_some_and(|claimed| claimed > max as u64) {
        return Ok(false);
    }
    read_up_to(lz4_flex::frame::FrameDecoder::new(bytes), out, max)
}

/// What the outside of an LZ4 frame says, as its specification ("LZ4 Frame Format Description") lays it out.
#[cfg(feature = "lz4")]
struct Lz4Frame {
    /// How many bytes it holds.
    claims: Option<u64>,
}

#[cfg(feature = "lz4")]
impl Lz4Frame {
    /// Goes over the blocks without opening them: `None` unless `bytes` are one frame, from its magic to its end mark
    /// and the checksum behind that. The decoder takes a frame that is cut between two blocks for a whole one, and a
    /// second frame for more of the first.
    fn walk(bytes: &[u8]) -> Option<Lz4Frame> {
        const MAGIC: [u8; 4] = 0x184D_2204u32.to_le_bytes();
        const UNCOMPRESSED: u32 = 1 << 31;
        let rest = bytes.strip_prefix(&MAGIC)?;
        let flags = *rest.first()?;
        let has = |bit: u8| flags & (1 << bit) != 0;
        let (dictionary, content_checksum, content_size, block_checksums) = (has(0), has(2), has(3), has(4));
        if flags >> 6 != 1 || dictionary {
            return None;
        }
        let mut rest = rest.get(2..)?;
        let mut claims = None;
        if content_size {
            let (size, behind) = rest.split_first_chunk()?;
            (claims, rest) = (Some(u64::from_le_bytes(*size)), behind);
        }
        rest = rest.get(1..)?;
        loop {
            let (size, behind) = rest.split_first_chunk()?;
            let block = u32::from_le_bytes(*size) as usize;
            if block == 0 {
                let checksum_bytes = if content_checksum { 4 } else { 0 };
                return (behind.len() == checksum_bytes).then_some(Lz4Frame { claims });
            }
            let block = block & !(UNCOMPRESSED as usize);
            rest = behind.get(block..)?.get(if block_checksums { 4 } else { 0 }..)?;
        }
    }
}

#[cfg(feature = "zstd")]
fn zstd_deflate(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, zstd::DEFAULT_COMPRESSION_LEVEL)
}

#[cfg(feature = "zstd")]
fn zstd_inflate(bytes: &[u8], out: &mut Vec<u8>, max: usize) -> io::Result<bool> {
    let claims = zstd::zstd_safe::get_frame_content_size(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    if claims.is_some_and(|claimed| claimed > max as u64) {
        return Ok(false);
    }
    let frame_bytes = zstd::zstd_safe::find_frame_compressed_size(bytes).map_err(|_| io::ErrorKind::InvalidData)?;
    if frame_bytes != bytes.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes)?.single_frame();
    // A window is memory too.
    decoder.window_log_max(23)?;
    read_up_to(decoder, out, max)
}

#[cfg(not(feature = "lz4"))]
fn lz4_deflate(_bytes: &[u8]) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(feature = "lz4"))]
fn lz4_inflate(_bytes: &[u8], _out: &mut Vec<u8>, _max: usize) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(feature = "zstd"))]
fn zstd_deflate(_bytes: &[u8]) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(feature = "zstd"))]
fn zstd_inflate(_bytes: &[u8], _out: &mut Vec<u8>, _max: usize) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, any(feature = "lz4", feature = "zstd")))]
mod tests {
    use proptest::prelude::*;

    use super::super::{Batch, BatchBuilder, Draft};
    use super::*;

    fn kinds() -> impl Iterator<Item = Compression> {
        [Compression::Lz4, Compression::Zstd].into_iter().filter(|kind| kind.is_built_in())
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let zeros = vec![0; 30 << 20];
        for kind in kinds() {
            let bomb = kind.deflate(&zeros).unwrap();
            assert!(bomb.len() < zeros.len() / 100, "{kind:?}");
            let mut out = Vec::new();
            let refused = kind.inflate(&bomb, &mut out, 1 << 20);
            assert_eq!(refused, Err(BatchError::TooLarge(1 << 20)), "{kind:?}");
            assert!(out.capacity() <= (1 << 20) + 1, "{kind:?}: {} bytes", out.capacity());
            assert_eq!(kind.inflate(&bomb, &mut out, 30 << 20), Ok(()));
            assert_eq!(out, zeros);
        }
    }

    #[test]
    fn what_is_cut_or_followed_by_more_is_refused() {
        for kind in kinds() {
            let whole = kind.deflate(&[7; 5000]).unwrap();
            let mut out = Vec::new();
            for cut in 0..whole.len() {
                assert!(kind.inflate(&whole[..cut], &mut out, 1 << 20).is_err(), "{kind:?} cut at {cut}");
            }
            for more in [&b"x"[..], &[0; 4], &whole] {
                let more = [&whole[..], more].concat();
                assert!(kind.inflate(&more, &mut out, 1 << 20).is_err(), "{kind:?}");
            }
            assert_eq!(kind.inflate(&whole, &mut out, 1 << 20), Ok(()));
        }
    }

    #[cfg(feature = "lz4")]
    #[test]
    fn frames_of_any_shape_are_gone_over_as_they_are_inflated() {
        use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
        let bytes: Vec<u8> = (0u32..60_000).flat_map(|n| (n / 7).to_le_bytes()).collect();
        for shape in 0..16 {
            let has = |bit: u32| shape & (1 << bit) != 0;
            let info = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_mode(if has(0) { BlockMode::Linked } else { BlockMode::Independent })
                .block_checksums(has(1))
                .content_checksum(has(2))
                .content_size(has(3).then_some(bytes.len() as u64));
            let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
            io::Write::write_all(&mut encoder, &bytes).unwrap();
            let whole = encoder.finish().unwrap();
            let mut out = Vec::new();
            assert_eq!(Compression::Lz4.inflate(&whole, &mut out, bytes.len()), Ok(()), "{shape:#b}");
            assert!(out == bytes);
            for cut in 1..=4 {
                let cut = &whole[..whole.len() - cut];
                assert!(Compression::Lz4.inflate(cut, &mut out, bytes.len()).is_err(), "{shape:#b}");
            }
            let refused = Compression::Lz4.inflate(&whole, &mut out, bytes.len() - 1);
            assert_eq!(refused, Err(BatchError::TooLarge(bytes.len() - 1)));
        }
    }

    type Deflate = fn(&[u8]) -> io::Result<Vec<u8>>;

    #[test]
    fn a_batch_that_is_a_bomb_is_refused_and_says_so() {
        let zeros = vec![0; INFLATED_BYTES_MAX + 1];
        let deflate: [Deflate; 2] = [lz4_deflate, zstd_deflate];
        for (kind, deflate) in [Compression::Lz4, Compression::Zstd].into_iter().zip(deflate) {
            if kind.is_built_in() {
                let mut builder = BatchBuilder::new();
                builder.push(&Draft { key: None, value: None, headers: &[], timestamp_ms: 0 });
                let mut batch = Vec::new();
                builder.finish_deflated(kind, &deflate(&zeros).unwrap(), &mut batch);
                assert!(batch.len() < 1 << 20);
                let refused = Batch::open(&batch, &Inflated::default()).err();
                assert_eq!(refused, Some(BatchError::TooLarge(INFLATED_BYTES_MAX)), "{kind:?}");
            }
        }
    }

    /// Whatever is written can be read: up to the limit compressed, beyond it as it is.
    #[test]
    fn batches_at_the_limit_and_beyond_it_are_written_so_that_they_are_read() {
        let one = |value: &[u8]| {
            let mut builder = BatchBuilder::new();
            builder.push(&Draft { key: None, value: Some(value), headers: &[], timestamp_ms: 0 });
            builder
        };
        let zeros = vec![0; INFLATED_BYTES_MAX + 1];
        let beside = one(&zeros).len_bytes() - one(&[]).len_bytes() - zeros.len() + record_bytes(&one(&[]));
        for kind in kinds() {
            for beyond in [0, 1] {
                let value = &zeros[..INFLATED_BYTES_MAX + beyond - beside];
                let builder = one(value);
                assert_eq!(record_bytes(&builder), INFLATED_BYTES_MAX + beyond);
                let mut batch = Vec::new();
                match builder.deflated(kind) {
                    Some(records) => builder.finish_deflated(kind, &records, &mut batch),
                    None => builder.finish_into(&mut batch),
                }
                assert_eq!(batch.len() > INFLATED_BYTES_MAX, beyond == 1, "{kind:?}");
                let inflated = Inflated::default();
                let read = Batch::open(&batch, &inflated).unwrap();
                let records: Vec<_> = read.records().map(|record| record.unwrap().value.unwrap().len()).collect();
                assert_eq!(records, [value.len()], "{kind:?}");
            }
        }
    }

    fn record_bytes(builder: &BatchBuilder) -> usize {
        builder.len_bytes() - super::super::BATCH_HEAD_BYTES
    }

    #[test]
    fn memory_is_used_again_by_the_next_batch() {
        for kind in kinds() {
            let mut inflated = Inflated::default();
            let (long, short) = (kind.deflate(&[1; 9000]).unwrap(), kind.deflate(&[2; 4000]).unwrap());
            let first = inflated.get(kind, &long).unwrap().as_ptr();
            // Asked for again, it is that of the same batch, whatever the bytes.
            assert_eq!(inflated.get(kind, &short), Ok(&[1; 9000][..]));
            inflated.clear();
            let second = inflated.get(kind, &short).unwrap();
            assert_eq!((second, second.as_ptr()), (&[2; 4000][..], first));
        }
    }

    #[test]
    fn what_claims_too_much_is_refused_before_memory_is_taken() {
        // A frame's head that says how much it holds, as the encoders write it; and an LZ4 frame that ends at once.
        let (terabyte, magic) = (1u64 << 40, 0x184D_2204u32.to_le_bytes());
        let lz4 = [&magic[..], &[0b0110_1000, 0x40], &terabyte.to_le_bytes(), &[0], &[0; 4]].concat();
        let zstd =
            [&0xFD2F_B528u32.to_le_bytes()[..], &[0b1100_0000, 0x58], &terabyte.to_le_bytes(), &[1, 0, 0]].concat();
        for (kind, bomb) in [(Compression::Lz4, lz4), (Compression::Zstd, zstd)] {
            if kind.is_built_in() {
                let mut out = Vec::new();
                let refused = kind.inflate(&bomb, &mut out, INFLATED_BYTES_MAX);
                assert_eq!(refused, Err(BatchError::TooLarge(INFLATED_BYTES_MAX)), "{kind:?}");
                assert_eq!(out.capacity(), 0, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        for kind in kinds() {
            assert_eq!(kind.deflate(b"abc"), None);
        }
        assert_eq!(Compression::None.deflate(&[0; 1000]), None);
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in prop::collection::vec(0u8..4, 0..20_000)) {
            for kind in kinds() {
                if let Some(deflated) = kind.deflate(&bytes) {
                    let mut out = Vec::new();
                    prop_assert_eq!(kind.inflate(&deflated, &mut out, bytes.len()), Ok(()));
                    prop_assert_eq!(&out, &bytes);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic_and_within_the_limit(bytes: Vec<u8>, with_magic: bool) {
            for kind in kinds() {
                let mut out = Vec::new();
                let mut hostile = if with_magic { kind.deflate(&[0; 300]).unwrap()[..7].to_vec() } else { Vec::new() };
                hostile.extend_from_slice(&bytes);
                let _ = kind.inflate(&hostile, &mut out, 1000);
                prop_assert!(out.capacity() <= 1001);
            }
        }
    }
}
