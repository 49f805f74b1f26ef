//! The head of a frame: what makes a frame this frame, in this life of this file, at this place, after that other
//! frame.
//!
//! The head's checksum covers the file's salt, the position, the chain to the frame before, and the checksum of the
//! body. So neither an old frame in a recycled file, nor a frame inside a payload, nor one moved elsewhere can be
//! taken for it.

use super::file::FileName;
use crate::codec::{CheckSite, Input, crc32c, crc32c_of, same};
use crate::ids::{Epoch, Lsn};

/// Bytes before the body.
pub(crate) const HEAD_BYTES: usize = 40;
const SUMMED_BYTES: usize = 36;
const ALIGN: u64 = 8;
const MAGIC: u32 = u32::from_le_bytes(*b"OLfr");
/// Frames start at multiples of [`ALIGN`], so that a search for them can step by it.
pub(crate) const STEP: usize = 8;
const ROTATE_BODY_BYTES: usize = 20;
/// Room that every file keeps for the frame that names the next one.
pub(crate) const ROTATE_BYTES: u64 = frame_bytes(ROTATE_BODY_BYTES);

/// Bytes in the file of a frame with such a body, filled up to the next frame's place.
pub(crate) const fn frame_bytes(body: usize) -> u64 {
    ((HEAD_BYTES + body) as u64).next_multiple_of(ALIGN)
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Content of the room above.
    Data,
    /// The last frame of a file: names the next. Has the LSN of the first frame there.
    Rotate,
}

/// A frame's head, without what only the file knows (salt, position).
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameHead {
    pub(crate) kind: Kind,
    pub(crate) body_bytes: u32,
    pub(crate) lsn: Lsn,
    /// How far the journal was durable when this frame was written.
    pub(crate) durable: Lsn,
    /// The head checksum of the frame before.
    pub(crate) chain: u32,
    pub(crate) body_sum: u32,
    /// This head's own checksum: the next frame's `chain`.
    pub(crate) sum: u32,
}

/// Writes the head for the body behind it into the first [`HEAD_BYTES`] of `frame`; gives the head's checksum.
pub(crate) fn seal(frame: &mut [u8], kind: Kind, lsn: Lsn, durable: Lsn, chain: u32, salt: u64, position: u64) -> u32 {
    let (head, body) = frame.split_at_mut(HEAD_BYTES);
    // Bodies are limited far below 4 GiB when they are made.
    let body_bytes = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let kind: u32 = if kind == Kind::Data { 1 } else { 2 };
    head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
    head[4..8].copy_from_slice(&body_bytes.to_le_bytes());
    head[8..16].copy_from_slice(&lsn.0.to_le_bytes());
    head[16..24].copy_from_slice(&durable.0.to_le_bytes());
    head[24..28].copy_from_slice(&chain.to_le_bytes());
    head[28..32].copy_from_slice(&kind.to_le_bytes());
    head[32..36].copy_from_slice(&crc32c(body).to_le_bytes());
    let sum = head_sum(&head[..SUMMED_BYTES], salt, position);
    head[36..40].copy_from_slice(&sum.to_le_bytes());
    sum
}

fn head_sum(summed: &[u8], salt: u64, position: u64) -> u32 {
    crc32c_of(&[&salt.to_le_bytes(), &position.to_le_bytes(), summed])
}

/// The head at the start of `bytes`, if it was written for this life of the file and this position.
pub(crate) fn read_head(bytes: &[u8], salt: u64, position: u64) -> Option<FrameHead> {
    let head = bytes.get(..HEAD_BYTES)?;
    let mut input = Input::new(head);
    if input.u32()? != MAGIC {
        return None;
    }
    let body_bytes = input.u32()?;
    let (lsn, durable, chain) = (Lsn(input.u64()?), Lsn(input.u64()?), input.u32()?);
    let kind = match input.u32()? {
        1 => Kind::Data,
        2 => Kind::Rotate,
        _ => return None,
    };
    let (body_sum, sum) = (input.u32()?, input.u32()?);
    same(CheckSite::FrameHead, sum, head_sum(&head[..SUMMED_BYTES], salt, position)).then_some(FrameHead {
        kind,
        body_bytes,
        lsn,
        durable,
        chain,
        body_sum,
        sum,
    })
}

/// The body behind `head` in `bytes` (which start at the head), if it is whole.
pub(crate) fn read_body<'a>(bytes: &'a [u8], head: &FrameHead) -> Option<&'a [u8]> {
    let body = bytes.get(HEAD_BYTES..)?.get(..usize::try_from(head.body_bytes).ok()?)?;
    same(CheckSite::FrameBody, head.body_sum, crc32c(body)).then_some(body)
}

/// The whole frame that names the next file, its head still to be sealed.
pub(crate) fn rotate_frame(next: FileName, salt: u64) -> Vec<u8> {
    let mut frame = vec![0; HEAD_BYTES];
    frame.extend_from_slice(&next.epoch.0.to_le_bytes());
    frame.extend_from_slice(&next.slot.to_le_bytes());
    frame.extend_from_slice(&salt.to_le_bytes());
    frame
}

/// The file and salt that a rotate frame's body names.
pub(crate) fn read_rotate(body: &[u8]) -> Option<(FileName, u64)> {
    let mut input = Input::new(body);
    let name = FileName { epoch: Epoch(input.u64()?), slot: input.u32()? };
    Some((name, input.u64()?))
}

const _: () = assert!(STEP as u64 == ALIGN && HEAD_BYTES.is_multiple_of(STEP));
