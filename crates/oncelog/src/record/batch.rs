//! Filling a batch: records are encoded as they come, into one buffer, and the head is made at the end.

use super::Header;
use super::compress::Compression;
use super::head::{
    ATTRIBUTES_AT, BASE_OFFSET_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_BYTES_MAX, BATCH_HEAD_BYTES, COUNT_AT,
    CRC_AT, HORIZON, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT, MAGIC, MAGIC_AT, MAX_TIMESTAMP_AT,
    PRODUCER_EPOCH_AT, PRODUCER_ID_AT, set_field,
};
use crate::codec::{crc32c_of, varint_len, zigzag};
use crate::ids::LogOffset;

/// Longest varints of a length or an offset delta, and of a timestamp delta.
const VARINT32_BYTES_MAX: usize = 5;
const VARINT64_BYTES_MAX: usize = 10;

const BUFFER_BYTES_MIN: usize = 256;

/// A record to be encoded; borrowed, as it is copied once, into the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [Header<'a>],
    pub(crate) timestamp_ms: i64,
}

/// A batch in the making. Offsets count from 0 without a hole; timestamps count from that of the first record.
#[derive(Clone, Debug, Default)]
pub(crate) struct BatchBuilder {
    /// The records are its first `used` bytes; the rest is there to be written over. A record whose size is known is
    /// one slice to fill, which is a third faster than appending to a vector field by field.
    buffer: Vec<u8>,
    used: usize,
    count: u32,
    /// Both mean nothing while there are no records.
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

/// Which offsets a batch stands for, and what it says of its tombstones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) base: LogOffset,
    /// The last one, counted from the base.
    pub(crate) last_offset_delta: u32,
    pub(crate) tombstones: Tombstones,
}

/// What a batch says of its tombstones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tombstones {
    /// Nothing.
    Unknown,
    /// They may go when the store's clock shows the batch's base timestamp.
    UntilBaseTimestamp,
}

/// A state of a [`BatchBuilder`] to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    used: usize,
    count: u32,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// An empty batch; allocates with the first record.
    pub(crate) fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// The most that `draft` can add to [`BatchBuilder::len_bytes`]; at most 17 bytes too much, as deltas are not
    /// known yet.
    pub(crate) fn encoded_len(draft: &Draft<'_>) -> usize {
        let deltas = VARINT64_BYTES_MAX + VARINT32_BYTES_MAX;
        VARINT32_BYTES_MAX + 1 + deltas + content_len(draft)
    }

    /// Adds a record behind the others. Amortised, one copy of the content and no allocation.
    ///
    /// # Panics
    /// If the batch grows beyond [`BATCH_BYTES_MAX`]. Compare [`BatchBuilder::encoded_len`] with your limit first.
    #[inline]
    pub(crate) fn push(&mut self, draft: &Draft<'_>) {
        if self.count == 0 {
            self.base_timestamp_ms = draft.timestamp_ms;
            self.max_timestamp_ms = draft.timestamp_ms;
        }
        self.put(draft, self.count);
    }

    /// As [`BatchBuilder::push`], so many offsets behind the base. Offsets must rise, and timestamps of all count from
    /// `base_timestamp_ms`.
    pub(crate) fn push_at(&mut self, draft: &Draft<'_>, offset_delta: u32, base_timestamp_ms: i64) {
        if self.count == 0 {
            self.base_timestamp_ms = base_timestamp_ms;
            self.max_timestamp_ms = draft.timestamp_ms;
        }
        self.put(draft, offset_delta);
    }

    #[inline(always)]
    fn put(&mut self, draft: &Draft<'_>, offset_delta: u32) {
        // Readers add with wrap-around too, so deltas that do not fit 64 bits come back right.
        let timestamp_delta = zigzag(draft.timestamp_ms.wrapping_sub(self.base_timestamp_ms));
        let offset_delta = u64::from(offset_delta) << 1;
        let body = 1 + number_len(timestamp_delta) + number_len(offset_delta) + content_len(draft);
        let bytes = len_len(body) + body;
        assert!(bytes <= BATCH_BYTES_MAX - self.len_bytes(), "a batch beyond the limit of its format");
        let end = self.used + bytes;
        if end > self.buffer.len() {
            self.grow(end);
        }
        let out = &mut self.buffer[self.used..end];
        let mut at = put_len(out, 0, body);
        at = put_number(out, at, 0);
        at = put_number(out, at, timestamp_delta);
        at = put_number(out, at, offset_delta);
        at = put_nullable(out, at, draft.key);
        at = put_nullable(out, at, draft.value);
        at = put_len(out, at, draft.headers.len());
        for header in draft.headers {
            at = put_nullable(out, at, Some(header.name.as_bytes()));
            at = put_nullable(out, at, header.value);
        }
        debug_assert_eq!(at, bytes);
        self.used = end;
        self.count += 1;
        self.max_timestamp_ms = self.max_timestamp_ms.max(draft.timestamp_ms);
    }

    #[cold]
    fn grow(&mut self, end: usize) {
        self.buffer.resize(end.max(self.buffer.len() * 2).max(BUFFER_BYTES_MIN), 0);
    }

    /// Whether there are no records.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many records there are.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// What [`BatchBuilder::finish_into`] would append.
    #[inline]
    pub(crate) fn len_bytes(&self) -> usize {
        BATCH_HEAD_BYTES + self.used
    }

    /// Bytes of records for which there is memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether `more` bytes of records are more than there is memory for, and that is `small`.
    #[inline]
    pub(crate) fn outgrows(&self, small: usize, more: usize) -> bool {
        self.buffer.len() <= small && self.used + more > small
    }

    /// Goes on in the memory of `spare`, an empty batch.
    pub(crate) fn continue_in(&mut self, spare: BatchBuilder) {
        if spare.buffer.len() > self.buffer.len() {
            let before = std::mem::replace(&mut self.buffer, spare.buffer);
            self.buffer[..self.used].copy_from_slice(&before[..self.used]);
        }
    }

    /// Drops all records and keeps the memory.
    pub(crate) fn clear(&mut self) {
        (self.used, self.count) = (0, 0);
    }

    /// The present state, for [`BatchBuilder::rollback`].
    pub(crate) fn mark(&self) -> Mark {
        Mark { used: self.used, count: self.count, max_timestamp_ms: self.max_timestamp_ms }
    }

    /// Drops the records pushed since `mark` was taken, as if they had never been. A mark is void once the builder went
    /// back behind it or was cleared.
    pub(crate) fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.count <= self.count && mark.used <= self.used, "a void mark");
        self.used = mark.used;
        self.count = mark.count;
        self.max_timestamp_ms = mark.max_timestamp_ms;
    }

    /// Appends the batch to `out`: at base offset 0, in no segment, by no Kafka producer, not compressed. Without
    /// records there is no batch, and nothing is appended. Costs one checksum and one copy.
    pub(crate) fn finish_into(&self, out: &mut Vec<u8>) {
        self.finish(Compression::None, &self.buffer[..self.used], out);
    }

    /// The records compressed, where that makes them smaller.
    pub(crate) fn deflated(&self, compression: Compression) -> Option<Vec<u8>> {
        compression.deflate(&self.buffer[..self.used])
    }

    /// As [`BatchBuilder::finish_into`], with `records` as [`BatchBuilder::deflated`] gave them.
    pub(crate) fn finish_deflated(&self, compression: Compression, records: &[u8], out: &mut Vec<u8>) {
        self.finish(compression, records, out);
    }

    fn finish(&self, compression: Compression, records: &[u8], out: &mut Vec<u8>) {
        let Some(last_offset_delta) = self.count.checked_sub(1) else { return };
        let span = Span { base: LogOffset(0), last_offset_delta, tombstones: Tombstones::Unknown };
        self.finish_as(&span, compression, records, out);
    }

    /// Appends the batch to `out` at its place in the partition, compressed where that makes it smaller. Without
    /// records it only stands for its offsets.
    pub(crate) fn finish_span(&self, span: &Span, compression: Compression, out: &mut Vec<u8>) {
        match self.deflated(compression) {
            Some(records) => self.finish_as(span, compression, &records, out),
            None => self.finish_as(span, Compression::None, &self.buffer[..self.used], out),
        }
    }

    fn finish_as(&self, span: &Span, compression: Compression, records: &[u8], out: &mut Vec<u8>) {
        let horizon = if span.tombstones == Tombstones::UntilBaseTimestamp { HORIZON } else { 0 };
        let (base_timestamp_ms, max_timestamp_ms) = match self.count {
            0 => (i64::MIN, i64::MIN),
            _ => (self.base_timestamp_ms, self.max_timestamp_ms),
        };
        let bytes = BATCH_HEAD_BYTES + records.len();
        // `push` keeps both within 31 bits: the length by its assertion, the count as each record takes seven bytes.
        let behind = u32::try_from(bytes - LEADER_EPOCH_AT).expect("push keeps a batch below its limit");
        let mut head = [0; BATCH_HEAD_BYTES];
        set_field(&mut head, BASE_OFFSET_AT, span.base.0.to_be_bytes());
        set_field(&mut head, LENGTH_AT, behind.to_be_bytes());
        set_field(&mut head, LEADER_EPOCH_AT, (-1i32).to_be_bytes());
        head[MAGIC_AT] = MAGIC;
        set_field(&mut head, ATTRIBUTES_AT, (compression.bits() | horizon).to_be_bytes());
        set_field(&mut head, LAST_OFFSET_DELTA_AT, span.last_offset_delta.to_be_bytes());
        set_field(&mut head, BASE_TIMESTAMP_AT, base_timestamp_ms.to_be_bytes());
        set_field(&mut head, MAX_TIMESTAMP_AT, max_timestamp_ms.to_be_bytes());
        set_field(&mut head, PRODUCER_ID_AT, (-1i64).to_be_bytes());
        set_field(&mut head, PRODUCER_EPOCH_AT, (-1i16).to_be_bytes());
        set_field(&mut head, BASE_SEQUENCE_AT, (-1i32).to_be_bytes());
        set_field(&mut head, COUNT_AT, self.count.to_be_bytes());
        let crc = crc32c_of(&[&head[ATTRIBUTES_AT..], records]);
        set_field(&mut head, CRC_AT, crc.to_be_bytes());
        out.reserve(bytes);
        out.extend_from_slice(&head);
        out.extend_from_slice(records);
    }
}

/// Encoded size of what does not depend on the batch.
#[inline]
fn content_len(draft: &Draft<'_>) -> usize {
    let headers =
        draft.headers.iter().map(|header| nullable_len(Some(header.name.as_bytes())) + nullable_len(header.value));
    nullable_len(draft.key) + nullable_len(draft.value) + len_len(draft.headers.len()) + headers.sum::<usize>()
}

#[inline]
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| len_len(bytes.len()) + bytes.len())
}

#[inline(always)]
fn len_len(len: usize) -> usize {
    number_len((len as u64) << 1)
}

/// As `varint_len`, for numbers that mostly take a byte or two.
#[inline(always)]
fn number_len(value: u64) -> usize {
    if value < 0x80 {
        1
    } else if value < 0x4000 {
        2
    } else {
        varint_len(value)
    }
}

// The writers below take the position to write at and return the one behind, so that it can stay in a register:
// inlined, and without a reference to it.

/// A length or count: the zig-zag varint of a number that is not negative.
#[inline(always)]
fn put_len(out: &mut [u8], at: usize, len: usize) -> usize {
    put_number(out, at, (len as u64) << 1)
}

/// A varint. Those of a byte or two, which nearly all are, are written here, the others out of line.
#[inline(always)]
fn put_number(out: &mut [u8], at: usize, number: u64) -> usize {
    let low = (number & 0x7F) as u8;
    if number < 0x80 {
        out[at] = low;
        at + 1
    } else if number < 0x4000 {
        out[at..at + 2].copy_from_slice(&[low | 0x80, (number >> 7 & 0x7F) as u8]);
        at + 2
    } else {
        put_long(out, at, number)
    }
}

#[cold]
#[inline(never)]
fn put_long(out: &mut [u8], mut at: usize, mut number: u64) -> usize {
    while number >= 0x80 {
        out[at] = (number & 0x7F) as u8 | 0x80;
        number >>= 7;
        at += 1;
    }
    out[at] = (number & 0x7F) as u8;
    at + 1
}

/// Bytes behind their length, or the length -1 where there are none.
#[inline(always)]
fn put_nullable(out: &mut [u8], at: usize, bytes: Option<&[u8]>) -> usize {
    let Some(bytes) = bytes else { return put_number(out, at, zigzag(-1)) };
    let at = put_len(out, at, bytes.len());
    out[at..at + bytes.len()].copy_from_slice(bytes);
    at + bytes.len()
}
