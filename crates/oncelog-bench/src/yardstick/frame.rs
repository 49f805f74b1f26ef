//! A frame: length, checksum, payload.

/// Bytes before the payload.
pub(crate) const FRAME_HEAD_BYTES: usize = 8;

/// Appends a frame whose payload is `parts` one behind the other. One copy and one checksum.
pub(crate) fn put_frame(out: &mut Vec<u8>, parts: [&[u8]; 2]) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    for part in parts {
        out.extend_from_slice(part);
    }
    let (head, payload) = out[start..].split_at_mut(FRAME_HEAD_BYTES);
    // Payloads here are a few KiB at most.
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    head[..4].copy_from_slice(&len.to_le_bytes());
    head[4..].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
}

/// What is at the start of some bytes.
pub(super) enum Found<'a> {
    /// A payload whose checksum is right.
    Payload(&'a [u8]),
    /// A frame that goes on behind these bytes, or nothing yet.
    Partial,
    /// Zeros: the end of what was written.
    End,
    /// Neither.
    Damaged,
}

/// Looks at the frame at the start of `bytes`.
#[inline]
pub(super) fn read_frame(bytes: &[u8]) -> Found<'_> {
    let Some((head, rest)) = bytes.split_first_chunk::<FRAME_HEAD_BYTES>() else { return Found::Partial };
    let (len, sum) = (word(head, 0), word(head, 4));
    if len == 0 {
        return Found::End;
    }
    match rest.get(..len as usize) {
        None => Found::Partial,
        Some(payload) if crc32c::crc32c(payload) == sum => Found::Payload(payload),
        Some(_) => Found::Damaged,
    }
}

#[inline]
fn word(head: &[u8; FRAME_HEAD_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}
