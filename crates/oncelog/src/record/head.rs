//! The head of a batch: where its fields are, what can be known before the content is checked, and the two fields that
//! change after the batch was made.

use super::BatchError;
use crate::codec::crc32c;
use crate::ids::LogOffset;

/// Size of the head, and so of the smallest batch.
pub(crate) const BATCH_HEAD_BYTES: usize = 61;

/// Size of the largest batch that the format can carry; limits of the store are far below.
pub(crate) const BATCH_BYTES_MAX: usize = i32::MAX as usize;

pub(super) const MAGIC: u8 = 2;

// Where the fields start. Length counts from the leader epoch on, the CRC covers from the attributes on.
pub(super) const BASE_OFFSET_AT: usize = 0;
pub(super) const LENGTH_AT: usize = 8;
pub(super) const LEADER_EPOCH_AT: usize = 12;
pub(super) const MAGIC_AT: usize = 16;
pub(super) const CRC_AT: usize = 17;
pub(super) const ATTRIBUTES_AT: usize = 21;
pub(super) const LAST_OFFSET_DELTA_AT: usize = 23;
pub(super) const BASE_TIMESTAMP_AT: usize = 27;
pub(super) const MAX_TIMESTAMP_AT: usize = 35;
pub(super) const PRODUCER_ID_AT: usize = 43;
pub(super) const PRODUCER_EPOCH_AT: usize = 51;
pub(super) const BASE_SEQUENCE_AT: usize = 53;
pub(super) const COUNT_AT: usize = 57;

const _: () = assert!(BASE_SEQUENCE_AT - PRODUCER_ID_AT == 10 && COUNT_AT + 4 == BATCH_HEAD_BYTES);

/// The attribute that makes the base timestamp the time from which the tombstones of the batch may go (KIP-534).
pub(super) const HORIZON: u16 = 1 << 6;

/// The seven fields of a record take a byte each at least, so a count can be held against the length.
pub(super) const RECORD_BYTES_MIN: usize = 7;

/// What the head of a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    /// Size of the whole batch, head included.
    pub(crate) bytes: usize,
    /// The offset that deltas count from.
    pub(crate) base_offset: LogOffset,
    /// The last offset that belongs to the batch, counted from the base.
    pub(crate) last_offset_delta: u32,
    /// How many records there are, no more than offsets or bytes allow. None only in a batch that stands for offsets
    /// whose records were compacted away.
    pub(crate) count: u32,
    /// Timestamp that deltas count from.
    pub(crate) base_timestamp_ms: i64,
    /// The greatest timestamp of a record, `i64::MIN` when there is none.
    pub(crate) max_timestamp_ms: i64,
    /// Kafka's checksum, over all from the attributes on.
    pub(crate) crc: u32,
    /// The field `partitionLeaderEpoch`: see [`set_place`].
    pub(crate) place: u32,
    pub(super) attributes: u16,
}

impl BatchHead {
    /// Reads the head at the start of `bytes` without a checksum: believe it as far as [`place_checksum`] or the frame
    /// around it is believed. The rest of the batch need not be there.
    ///
    /// # Errors
    /// `Truncated`: not even a head is there. `Length`, `Magic`, `Malformed`: no batch has such a head.
    pub(crate) fn peek(bytes: &[u8]) -> Result<BatchHead, BatchError> {
        let head = bytes.first_chunk().ok_or(BatchError::Truncated)?;
        BatchHead::measure(head)?;
        BatchHead::read(head)
    }

    /// The size of the batch, from the two fields that say where everything else is.
    pub(super) fn measure(head: &[u8; BATCH_HEAD_BYTES]) -> Result<usize, BatchError> {
        let magic = head[MAGIC_AT];
        if magic != MAGIC {
            return Err(BatchError::Magic(magic));
        }
        let behind = i32::from_be_bytes(field(head, LENGTH_AT));
        let bytes = usize::try_from(behind).map_err(|_| BatchError::Length)?.saturating_add(LEADER_EPOCH_AT);
        if (BATCH_HEAD_BYTES..=BATCH_BYTES_MAX).contains(&bytes) { Ok(bytes) } else { Err(BatchError::Length) }
    }

    /// All fields, if they agree with each other.
    pub(super) fn read(head: &[u8; BATCH_HEAD_BYTES]) -> Result<BatchHead, BatchError> {
        let bytes = BatchHead::measure(head)?;
        let base_offset = u64::try_from(i64::from_be_bytes(field(head, BASE_OFFSET_AT)))
            .map_err(|_| BatchError::Malformed("the base offset is negative"))?;
        let last_offset_delta = u32::try_from(i32::from_be_bytes(field(head, LAST_OFFSET_DELTA_AT)))
            .map_err(|_| BatchError::Malformed("the last offset is before the first"))?;
        let count = u32::try_from(i32::from_be_bytes(field(head, COUNT_AT)))
            .map_err(|_| BatchError::Malformed("the count is negative"))?;
        let attributes = u16::from_be_bytes(field(head, ATTRIBUTES_AT));
        if count == 0 && (attributes, bytes) != (0, BATCH_HEAD_BYTES) {
            return Err(BatchError::Malformed("there are no records"));
        }
        if u64::from(count) > u64::from(last_offset_delta) + 1 {
            return Err(BatchError::Malformed("there are more records than offsets"));
        }
        // Of compressed records it is known when they are inflated.
        if attributes & !HORIZON == 0 && count as usize > (bytes - BATCH_HEAD_BYTES) / RECORD_BYTES_MIN {
            return Err(BatchError::Malformed("there are more records than bytes for them"));
        }
        Ok(BatchHead {
            bytes,
            base_offset: LogOffset(base_offset),
            last_offset_delta,
            count,
            base_timestamp_ms: i64::from_be_bytes(field(head, BASE_TIMESTAMP_AT)),
            max_timestamp_ms: i64::from_be_bytes(field(head, MAX_TIMESTAMP_AT)),
            crc: u32::from_be_bytes(field(head, CRC_AT)),
            place: u32::from_be_bytes(field(head, LEADER_EPOCH_AT)),
            attributes,
        })
    }

    /// The offset behind the batch.
    pub(crate) fn next_offset(&self) -> LogOffset {
        self.base_offset.plus(u64::from(self.last_offset_delta) + 1)
    }
}

/// Moves a batch to its place in the partition; offsets of records follow, as they are deltas. Kafka's checksum does
/// not cover the field, so this costs eight bytes.
///
/// # Panics
/// If `batch` is shorter than a head, as the three below.
pub(crate) fn set_base_offset(batch: &mut [u8], base: LogOffset) {
    set_field(batch, BASE_OFFSET_AT, base.0.to_be_bytes());
}

/// The checksum that binds a batch to byte `position` of the segment with that salt, and covers what Kafka's own leaves
/// out: base offset, length, magic, and the Kafka checksum itself, so that the content is bound too. A batch that lies
/// in the value of another one, or that a recycled file still holds, cannot be taken for one that was written there.
pub(crate) fn place_checksum(salt: u64, position: u64, batch: &[u8]) -> u32 {
    let mut covered = [0; 33];
    covered[..8].copy_from_slice(&salt.to_le_bytes());
    covered[8..16].copy_from_slice(&position.to_le_bytes());
    covered[16..28].copy_from_slice(&batch[BASE_OFFSET_AT..LEADER_EPOCH_AT]);
    covered[28..].copy_from_slice(&batch[MAGIC_AT..ATTRIBUTES_AT]);
    crc32c(&covered)
}

/// Stores a [`place_checksum`] in the field `partitionLeaderEpoch`, which Kafka's checksum leaves out and which is -1
/// in every batch that is not in a segment.
pub(crate) fn set_place(batch: &mut [u8], checksum: u32) {
    set_field(batch, LEADER_EPOCH_AT, checksum.to_be_bytes());
}

/// What [`set_place`] stored.
pub(crate) fn place_of(batch: &[u8]) -> u32 {
    u32::from_be_bytes(field(batch, LEADER_EPOCH_AT))
}

/// The field at `at`, which is one of the constants above.
#[inline]
pub(super) fn field<const N: usize>(batch: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&batch[at..at + N]);
    bytes
}

/// Sets the field at `at`.
#[inline]
pub(super) fn set_field<const N: usize>(batch: &mut [u8], at: usize, bytes: [u8; N]) {
    batch[at..at + N].copy_from_slice(&bytes);
}
