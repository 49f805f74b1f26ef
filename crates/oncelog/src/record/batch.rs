//! Filling a batch: records are encoded as they come, into one buffer, and the head is made at the end.

use super::Header;
use super::head::{
    ATTRIBUTES_AT, BASE_SEQUENCE_AT, BASE_TIMESTAMP_AT, BATCH_BYTES_MAX, BATCH_HEAD_BYTES, COUNT_AT, CRC_AT,
    LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT, MAGIC, MAGIC_AT, MAX_TIMESTAMP_AT, PRODUCER_EPOCH_AT,
    PRODUCER_ID_AT, set_field,
};
use crate::codec::{crc32c_of, put_varint, varint_len, zigzag};

/// Longest varints of a length or an offset delta, and of a timestamp delta.
const VARINT32_BYTES_MAX: usize = 5;
const VARINT64_BYTES_MAX: usize = 10;

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
    records: Vec<u8>,
    count: u32,
    /// Both mean nothing while there are no records.
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
}

/// A state of a [`BatchBuilder`] to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    records_bytes: usize,
    count: u32,
    max_timestamp_ms: i64,
}

impl BatchBuilder {
    /// An empty batch; allocates with the first record.
    pub(crate) fn new() -> BatchBuilder {
        BatchBuilder::default()
    }

    /// The most that `draft` can add to [`BatchBuilder::len_bytes`]; at most 17 bytes too much, as deltas are not known yet.
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
        // Readers add with wrap-around too, so deltas that do not fit 64 bits come back right.
        let timestamp_delta = zigzag(draft.timestamp_ms.wrapping_sub(self.base_timestamp_ms));
        let offset_delta = zigzag(i64::from(self.count));
        let body = 1 + varint_len(timestamp_delta) + varint_len(offset_delta) + content_len(draft);
        let room = BATCH_BYTES_MAX - self.len_bytes();
        assert!(body <= room && body + VARINT32_BYTES_MAX <= room, "a batch beyond the limit of its format");

        let mut start = Numbers::default();
        start.put((body as u64) << 1);
        start.put(0);
        start.put(timestamp_delta);
        start.put(offset_delta);
        start.put_len_of(draft.key);
        let mut middle = Numbers::default();
        middle.put_len_of(draft.value);
        let mut end = Numbers::default();
        end.put((draft.headers.len() as u64) << 1);

        let out = &mut self.records;
        out.reserve(body + VARINT32_BYTES_MAX + 3 * NUMBERS_BYTES);
        start.append_to(out);
        out.extend_from_slice(draft.key.unwrap_or_default());
        middle.append_to(out);
        out.extend_from_slice(draft.value.unwrap_or_default());
        end.append_to(out);
        for header in draft.headers {
            put_nullable(out, Some(header.name.as_bytes()));
            put_nullable(out, header.value);
        }
        self.count += 1;
        self.max_timestamp_ms = self.max_timestamp_ms.max(draft.timestamp_ms);
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
        BATCH_HEAD_BYTES + self.records.len()
    }

    /// The present state, for [`BatchBuilder::rollback`].
    pub(crate) fn mark(&self) -> Mark {
        Mark { records_bytes: self.records.len(), count: self.count, max_timestamp_ms: self.max_timestamp_ms }
    }

    /// Drops the records pushed since `mark` was taken, as if they had never been. A mark is void once the builder went
    /// back behind it or was cleared.
    pub(crate) fn rollback(&mut self, mark: Mark) {
        debug_assert!(mark.count <= self.count && mark.records_bytes <= self.records.len(), "a void mark");
        self.records.truncate(mark.records_bytes);
        self.count = mark.count;
        self.max_timestamp_ms = mark.max_timestamp_ms;
    }

    /// Drops all records and keeps the buffer.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.count = 0;
    }

    /// Appends the batch to `out`: at base offset 0, in no segment, by no Kafka producer, not compressed. Without records
    /// there is no batch, and nothing is appended. Costs one checksum and one copy.
    pub(crate) fn finish_into(&self, out: &mut Vec<u8>) {
        let Some(last_offset_delta) = self.count.checked_sub(1) else { return };
        // `push` keeps both within 31 bits: the length by its assertion, the count as each record takes seven bytes.
        let behind = u32::try_from(self.len_bytes() - LEADER_EPOCH_AT).expect("push keeps a batch below its limit");
        let mut head = [0; BATCH_HEAD_BYTES];
        set_field(&mut head, LENGTH_AT, behind.to_be_bytes());
        set_field(&mut head, LEADER_EPOCH_AT, (-1i32).to_be_bytes());
        head[MAGIC_AT] = MAGIC;
        set_field(&mut head, LAST_OFFSET_DELTA_AT, last_offset_delta.to_be_bytes());
        set_field(&mut head, BASE_TIMESTAMP_AT, self.base_timestamp_ms.to_be_bytes());
        set_field(&mut head, MAX_TIMESTAMP_AT, self.max_timestamp_ms.to_be_bytes());
        set_field(&mut head, PRODUCER_ID_AT, (-1i64).to_be_bytes());
        set_field(&mut head, PRODUCER_EPOCH_AT, (-1i16).to_be_bytes());
        set_field(&mut head, BASE_SEQUENCE_AT, (-1i32).to_be_bytes());
        set_field(&mut head, COUNT_AT, self.count.to_be_bytes());
        let crc = crc32c_of(&[&head[ATTRIBUTES_AT..], &self.records]);
        set_field(&mut head, CRC_AT, crc.to_be_bytes());
        out.reserve(self.len_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(&self.records);
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

#[inline]
fn len_len(len: usize) -> usize {
    varint_len((len as u64) << 1)
}

const NUMBERS_BYTES: usize = 32;

/// A few varints.
#[derive(Default)]
struct Numbers {
    bytes: [u8; NUMBERS_BYTES],
    len: usize,
}

impl Numbers {
    #[inline(always)]
    fn put(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = (value & 0x7F) as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = (value & 0x7F) as u8;
        self.len += 1;
    }

    #[inline(always)]
    fn put_len_of(&mut self, bytes: Option<&[u8]>) {
        self.put(bytes.map_or(zigzag(-1), |bytes| (bytes.len() as u64) << 1));
    }

    #[inline(always)]
    fn append_to(&self, out: &mut Vec<u8>) {
        let len = out.len() + self.len;
        out.extend_from_slice(&self.bytes);
        out.truncate(len);
    }
}

/// A length or count as the zig-zag varint of a number that is not negative.
#[inline]
fn put_len(out: &mut Vec<u8>, len: usize) {
    put_varint(out, (len as u64) << 1);
}

/// Bytes behind their length, or the length -1 where there are none.
#[inline]
fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_len(out, bytes.len());
            out.extend_from_slice(bytes);
        }
        None => put_varint(out, zigzag(-1)),
    }
}
