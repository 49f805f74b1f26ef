//! Opening a batch: first the checksum, then records one by one, borrowed from its bytes.

use std::iter::FusedIterator;

use super::compress::{Compression, Inflated};
use super::head::{ATTRIBUTES_AT, BATCH_HEAD_BYTES, CRC_AT, HORIZON, RECORD_BYTES_MIN, field};
use super::{BatchError, BatchHead, Header};
use crate::codec::{CheckSite, Input, crc32c, put_varint, same, zigzag, zigzag_back};
use crate::ids::LogOffset;

/// A batch whose checksum was right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch<'a> {
    head: BatchHead,
    records: &'a [u8],
}

impl<'a> Batch<'a> {
    /// As [`Batch::open`], for batches that are not compressed.
    #[cfg(test)]
    pub(crate) fn check(bytes: &'a [u8]) -> Result<Batch<'a>, BatchError> {
        let (head, records) = Batch::checked(bytes)?;
        if head.attributes == 0 { Ok(Batch { head, records }) } else { Err(BatchError::Attributes(head.attributes)) }
    }

    /// Opens `bytes`, which are one batch and nothing else. Costs one checksum; records are parsed as they are asked
    /// for. Compressed ones are inflated into `inflated`, which is cleared or that of this batch, and borrowed from
    /// there.
    ///
    /// # Errors
    /// `Truncated`, `Length`: more or fewer bytes than the head says. `Checksum`: damaged. `NotBuiltIn`, `TooLarge` and
    /// others: not for us, see there.
    pub(crate) fn open(bytes: &'a [u8], inflated: &'a Inflated) -> Result<Batch<'a>, BatchError> {
        let (head, records) = Batch::checked(bytes)?;
        let kind = Compression::of_bits(head.attributes & !HORIZON)?;
        if kind == Compression::None {
            return Ok(Batch { head, records });
        }
        let records = inflated.get(kind, records)?;
        if head.count as usize > records.len() / RECORD_BYTES_MIN {
            return Err(BatchError::Malformed("there are more records than bytes for them"));
        }
        Ok(Batch { head, records })
    }

    /// Whether `bytes` are one batch whose checksum is right, whatever its records are.
    pub(crate) fn is_whole(bytes: &[u8]) -> bool {
        Batch::checked(bytes).is_ok()
    }

    /// Head and records of `bytes`, after the checksum.
    fn checked(bytes: &'a [u8]) -> Result<(BatchHead, &'a [u8]), BatchError> {
        let (head, records) = bytes.split_first_chunk::<BATCH_HEAD_BYTES>().ok_or(BatchError::Truncated)?;
        let claimed = BatchHead::measure(head)?;
        if bytes.len() < claimed {
            return Err(BatchError::Truncated);
        }
        if bytes.len() > claimed {
            return Err(BatchError::Length);
        }
        let stored = u32::from_be_bytes(field(head, CRC_AT));
        if !same(CheckSite::BatchBody, stored, crc32c(&bytes[ATTRIBUTES_AT..])) {
            return Err(BatchError::Checksum);
        }
        Ok((BatchHead::read(head)?, records))
    }

    /// The offset that the batch starts at.
    pub(crate) fn base_offset(&self) -> LogOffset {
        self.head.base_offset
    }

    /// Its head.
    pub(crate) fn head(&self) -> &BatchHead {
        &self.head
    }

    /// The offset behind the batch.
    pub(crate) fn next_offset(&self) -> LogOffset {
        self.head.next_offset()
    }

    /// How many bytes its records take, not compressed.
    pub(crate) fn records_bytes(&self) -> usize {
        self.records.len()
    }

    /// How many records there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> u32 {
        self.head.count
    }

    /// The greatest timestamp of a record, as the writer says.
    pub(crate) fn max_timestamp_ms(&self) -> i64 {
        self.head.max_timestamp_ms
    }

    /// When its tombstones may go, by the store's clock; `None`: they were not compacted yet, or there are none.
    pub(crate) fn tombstones_until_ms(&self) -> Option<i64> {
        (self.head.attributes & HORIZON != 0).then_some(self.head.base_timestamp_ms)
    }

    /// The records in order.
    pub(crate) fn records(&self) -> Records<'a> {
        Records { rest: Input::new(self.records), left: self.head.count, next_delta: 0, head: self.head }
    }
}

/// The records of a batch. Ends after the first error, which may come behind the last record: only an iteration to the
/// end has seen that count and bytes agree.
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    rest: Input<'a>,
    left: u32,
    /// The least offset delta that the next record may have.
    next_delta: i64,
    head: BatchHead,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return self.end().map(Err);
        }
        self.left -= 1;
        let record = self.record();
        if record.is_err() {
            self.left = 0;
            self.rest = Input::new(&[]);
        }
        Some(record)
    }
}

impl FusedIterator for Records<'_> {}

// Inlined into the caller's loop on purpose: handing a parsed record on through memory costs more than parsing it.
impl<'a> Records<'a> {
    #[inline(always)]
    fn record(&mut self) -> Result<RecordView<'a>, BatchError> {
        let mut body = length(&mut self.rest).and_then(|len| self.rest.take(len)).map(Input::new).ok_or(CUT)?;
        if body.array() != Some([0]) {
            return Err(BatchError::Malformed("a record has attributes"));
        }
        let timestamp_delta = signed(&mut body).ok_or(CUT)?;
        let offset_delta = signed(&mut body).ok_or(CUT)?;
        if offset_delta < self.next_delta || offset_delta > i64::from(self.head.last_offset_delta) {
            return Err(BatchError::Malformed("an offset is out of order or outside the batch"));
        }
        self.next_delta = offset_delta + 1;
        let key = nullable(&mut body).ok_or(CUT)?;
        let value = nullable(&mut body).ok_or(CUT)?;
        let headers = Headers::check(body)?;
        Ok(RecordView {
            offset: self.head.base_offset.plus(offset_delta.unsigned_abs()),
            // The writer subtracted with wrap-around.
            timestamp_ms: self.head.base_timestamp_ms.wrapping_add(timestamp_delta),
            key,
            value,
            headers,
        })
    }

    /// The error of bytes behind the last record, told once.
    #[cold]
    fn end(&mut self) -> Option<BatchError> {
        let trailing = !self.rest.is_empty();
        self.rest = Input::new(&[]);
        trailing.then_some(BatchError::Malformed("there are bytes behind the last record"))
    }
}

/// A record in the log, borrowed from the buffer that it was read into.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Its place in the partition.
    pub offset: LogOffset,
    /// Milliseconds since the Unix epoch, as the writer gave them.
    pub timestamp_ms: i64,
    /// What decided the partition, if anything did.
    pub key: Option<&'a [u8]>,
    /// The content; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    headers: Headers<'a>,
}

impl<'a> RecordView<'a> {
    /// A record that comes from elsewhere than a batch of ours, for engines.
    #[must_use]
    pub fn new(
        offset: LogOffset,
        timestamp_ms: i64,
        key: Option<&'a [u8]>,
        value: Option<&'a [u8]>,
        headers: Headers<'a>,
    ) -> RecordView<'a> {
        RecordView { offset, timestamp_ms, key, value, headers }
    }

    /// The headers in the order they were written.
    #[must_use]
    pub fn headers(&self) -> Headers<'a> {
        self.headers
    }
}

/// The headers of a record, one after the other. Parsed from the record's bytes again by each iteration; that they
/// parse was seen when the record was.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    rest: Input<'a>,
    left: usize,
}

impl<'a> Headers<'a> {
    /// No headers.
    pub const NONE: Headers<'static> = Headers { rest: Input::new(&[]), left: 0 };

    /// The headers of [`Headers::encode`]; `None` for any other bytes.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Headers<'a>> {
        Headers::check(Input::new(bytes)).ok()
    }

    /// Appends the bytes of these headers to `out`, as they are in a record, for engines.
    pub fn encode<'h>(headers: impl ExactSizeIterator<Item = Header<'h>>, out: &mut Vec<u8>) {
        // No slice is longer than what the signed type holds.
        let number = |count: usize| zigzag(i64::try_from(count).unwrap_or(i64::MAX));
        put_varint(out, number(headers.len()));
        let mut put = |bytes: Option<&[u8]>| {
            put_varint(out, bytes.map_or(zigzag(-1), |bytes| number(bytes.len())));
            out.extend_from_slice(bytes.unwrap_or_default());
        };
        headers.for_each(|header| {
            put(Some(header.name.as_bytes()));
            put(header.value);
        });
    }

    /// The headers that fill the rest of a record, count first. Parses all of them, so that iterating cannot fail.
    #[inline(always)]
    fn check(rest: Input<'a>) -> Result<Headers<'a>, BatchError> {
        let mut headers = Headers { rest, left: 0 };
        headers.left = length(&mut headers.rest).ok_or(CUT)?;
        let rest = if headers.left == 0 { headers.rest } else { headers.behind().ok_or(BAD_HEADER)? };
        if rest.is_empty() { Ok(headers) } else { Err(BatchError::Malformed("there are bytes behind a record's end")) }
    }

    /// What comes behind the last header, if all of them can be parsed.
    #[inline(never)]
    fn behind(mut self) -> Option<Input<'a>> {
        for _ in 0..self.left {
            header(&mut self.rest)?;
        }
        Some(self.rest)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = Header<'a>;

    fn next(&mut self) -> Option<Header<'a>> {
        self.left = self.left.checked_sub(1)?;
        header(&mut self.rest)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Headers<'_> {}

impl FusedIterator for Headers<'_> {}

const CUT: BatchError = BatchError::Malformed("a length is negative or reaches behind its record");
const BAD_HEADER: BatchError = BatchError::Malformed("a header ends early or its name is not UTF-8");

fn header<'a>(input: &mut Input<'a>) -> Option<Header<'a>> {
    let len = length(input)?;
    let name = std::str::from_utf8(input.take(len)?).ok()?;
    Some(Header { name, value: nullable(input)? })
}

/// Bytes behind their length, which is -1 where there are none.
#[inline(always)]
fn nullable<'a>(input: &mut Input<'a>) -> Option<Option<&'a [u8]>> {
    match signed(input)? {
        -1 => Some(None),
        len => input.take(usize::try_from(len).ok()?).map(Some),
    }
}

/// A length or count. Only a claim: taking that many bytes decides.
#[inline(always)]
fn length(input: &mut Input<'_>) -> Option<usize> {
    usize::try_from(signed(input)?).ok()
}

/// A zig-zag varint. Those of a byte or two, which nearly all are, are read here, the others out of line.
#[inline(always)]
fn signed(input: &mut Input<'_>) -> Option<i64> {
    let (number, rest) = match input.rest() {
        [low @ ..0x80, rest @ ..] => (u64::from(*low), rest),
        [low, high @ ..0x80, rest @ ..] => (u64::from(low & 0x7F) | u64::from(*high) << 7, rest),
        _ => return long_signed(input),
    };
    *input = Input::new(rest);
    Some(zigzag_back(number))
}

#[cold]
#[inline(never)]
fn long_signed(input: &mut Input<'_>) -> Option<i64> {
    input.varint().map(zigzag_back)
}
