//! A state as bytes, and back; and the bytes of the earlier library. `docs/format.md` has the tables.
//!
//! Invariants: equal states have equal bytes, and what decodes encodes to the same bytes again: names rise, numbers
//! have one form, nothing is left over. Checksums are compared before anything else is believed. The head stays as it
//! is in all versions, up to its checksum, so that a newer one is told from a damaged one.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::key::Lineage;
use super::state::{CheckpointId, CheckpointState};
use crate::codec::{CheckSite, Input, crc32c, put_bytes, put_varint, same, varint_len};
use crate::error::{Error, ErrorKind, Result};
use crate::offsets::Offset;

pub(super) const MAGIC: [u8; 8] = *b"OLCHECKP";
pub(super) const VERSION: u32 = 1;
/// The head with its checksum.
pub(super) const HEAD_BYTES: usize = 76;
const SUM_BYTES: usize = 4;
/// Of a whole checkpoint.
pub(super) const BYTES_MAX: u64 = 1 << 30;

/// What kinds of offsets begin with.
const SEQUENCE: u8 = 0;
const TIMESTAMP: u8 = 1;
const CUSTOM: u8 = 2;

/// Why bytes are no checkpoint, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) kind: ErrorKind,
    pub(super) position: u64,
    pub(super) what: String,
}

impl Flaw {
    fn new(position: usize, what: impl Into<String>) -> Flaw {
        Flaw { kind: ErrorKind::Corrupt, position: position as u64, what: what.into() }
    }

    /// As an error about `whose` bytes.
    pub(super) fn told(&self, whose: &str) -> Error {
        Error::new(self.kind, format!("{whose}: {}, at byte {}", self.what, self.position))
    }
}

pub(super) fn encode(state: &CheckpointState) -> Result<Vec<u8>> {
    let mut out = vec![0; HEAD_BYTES];
    put_bytes(&mut out, state.id.stream_id.as_bytes());
    put_varint(&mut out, state.operator_states.len() as u64);
    for (name, operator) in &state.operator_states {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, operator);
    }
    put_varint(&mut out, state.source_offsets.len() as u64);
    for (name, offset) in &state.source_offsets {
        put_bytes(&mut out, name.as_bytes());
        put_offset(&mut out, offset)
            .ok_or_else(|| Error::invalid(format!("source {name:?}: {offset} is a policy and no place")))?;
    }
    put_varint(&mut out, state.metadata.len() as u64);
    for (name, text) in &state.metadata {
        put_bytes(&mut out, name.as_bytes());
        put_bytes(&mut out, text.as_bytes());
    }
    let bytes = (out.len() + SUM_BYTES) as u64;
    if bytes > BYTES_MAX {
        return Err(Error::invalid(format!("a checkpoint of {bytes} bytes, more than {BYTES_MAX}")));
    }
    if !state.lineage.can_be() {
        return Err(Error::invalid(format!("there is no line {}", state.lineage)));
    }
    put_head(&mut out, state, bytes);
    let sum = crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(out)
}

fn put_head(out: &mut [u8], state: &CheckpointState, bytes: u64) {
    let (id, Lineage { number, parent, from }) = (&state.id, state.lineage);
    let head: [&[u8]; 11] = [
        &MAGIC,
        &VERSION.to_le_bytes(),
        &number.to_le_bytes(),
        &parent.to_le_bytes(),
        &from.to_le_bytes(),
        &id.sequence.to_le_bytes(),
        &id.created_at.timestamp().to_le_bytes(),
        &id.created_at.timestamp_subsec_nanos().to_le_bytes(),
        &state.watermark_ns.to_le_bytes(),
        &state.event_count.to_le_bytes(),
        &bytes.to_le_bytes(),
    ];
    let head = head.concat();
    out[..head.len()].copy_from_slice(&head);
    out[head.len()..HEAD_BYTES].copy_from_slice(&crc32c(&head).to_le_bytes());
}

/// `None`: it is no place.
fn put_offset(out: &mut Vec<u8>, offset: &Offset) -> Option<()> {
    match offset {
        Offset::Sequence(sequence) => {
            out.push(SEQUENCE);
            out.extend_from_slice(&sequence.to_le_bytes());
        }
        Offset::Timestamp(time) => {
            out.push(TIMESTAMP);
            out.extend_from_slice(&time.timestamp().to_le_bytes());
            out.extend_from_slice(&time.timestamp_subsec_nanos().to_le_bytes());
        }
        Offset::Custom(text) => {
            out.push(CUSTOM);
            put_bytes(out, text.as_bytes());
        }
        Offset::Earliest | Offset::Latest => return None,
    }
    Some(())
}

pub(super) fn decode(bytes: &[u8]) -> std::result::Result<CheckpointState, Flaw> {
    let head = bytes.first_chunk::<HEAD_BYTES>().ok_or_else(|| Flaw::new(bytes.len(), "it ends within its head"))?;
    if head[..MAGIC.len()] != MAGIC {
        return Err(Flaw::new(0, "it does not begin as a checkpoint does"));
    }
    let (summed, sum) = head.split_at(HEAD_BYTES - SUM_BYTES);
    if !same(CheckSite::CheckpointHead, little_u32(sum), crc32c(summed)) {
        return Err(Flaw::new(summed.len(), "the checksum of its head does not fit"));
    }
    let mut reader = Reader { input: Input::new(&summed[MAGIC.len()..]), end: summed.len() };
    let version = reader.u32()?;
    if version != VERSION {
        let what = format!("its version is {version}, this program knows {VERSION}");
        return Err(Flaw { kind: ErrorKind::UnsupportedVersion, position: MAGIC.len() as u64, what });
    }
    let lineage = Lineage { number: reader.u32()?, parent: reader.u32()?, from: reader.u64()? };
    let (sequence, created_at) = (reader.u64()?, reader.time()?);
    let (watermark_ns, event_count, length) = (reader.u64()?, reader.u64()?, reader.u64()?);
    if !lineage.can_be() || sequence < lineage.from {
        return Err(Flaw::new(12, format!("sequence {sequence} cannot be on line {lineage}")));
    }
    if length != bytes.len() as u64 || bytes.len() < HEAD_BYTES + SUM_BYTES {
        return Err(Flaw::new(bytes.len(), format!("it should have {length} bytes, and has {}", bytes.len())));
    }
    let (summed, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
    if !same(CheckSite::CheckpointBody, little_u32(sum), crc32c(summed)) {
        return Err(Flaw::new(summed.len(), "its checksum does not fit"));
    }
    let mut reader = Reader { input: Input::new(&summed[HEAD_BYTES..]), end: summed.len() };
    let id = CheckpointId { stream_id: reader.text()?, sequence, created_at };
    let operator_states = reader.entries(Reader::owned)?;
    let source_offsets = reader.entries(Reader::offset)?;
    let metadata = reader.entries(Reader::text)?;
    reader.finish()?;
    Ok(CheckpointState { id, lineage, operator_states, source_offsets, watermark_ns, event_count, metadata })
}

/// The bytes of the earlier library: see [`CheckpointState::import`].
pub(super) fn import(stream_id: String, bytes: &[u8]) -> std::result::Result<CheckpointState, Flaw> {
    let mut reader = Reader { input: Input::new(bytes), end: bytes.len() };
    let (sequence, watermark_ns, event_count) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let mut state = CheckpointState::new(CheckpointId { stream_id, sequence, created_at: DateTime::<Utc>::UNIX_EPOCH });
    (state.watermark_ns, state.event_count) = (watermark_ns, event_count);
    for _ in 0..reader.u32()? {
        let (at, name) = (reader.position(), reader.long_text()?);
        let operator = reader.long_bytes()?.to_vec();
        if state.operator_states.insert(name, operator).is_some() {
            return Err(Flaw::new(at, "an operator comes twice"));
        }
    }
    if !reader.input.is_empty() {
        for _ in 0..reader.u32()? {
            let (at, name) = (reader.position(), reader.long_text()?);
            let offset = Offset::Sequence(reader.u64()?);
            if state.source_offsets.insert(name, offset).is_some() {
                return Err(Flaw::new(at, "a source comes twice"));
            }
        }
    }
    reader.finish()?;
    Ok(state)
}

fn little_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Bytes that end at `end` of what is read, so that a flaw has a position.
struct Reader<'a> {
    input: Input<'a>,
    end: usize,
}

type Read<T> = std::result::Result<T, Flaw>;

impl<'a> Reader<'a> {
    fn position(&self) -> usize {
        self.end - self.input.rest().len()
    }

    fn flaw(&self, what: &str) -> Flaw {
        Flaw::new(self.position(), what)
    }

    fn u8(&mut self) -> Read<u8> {
        self.input.u8().ok_or_else(|| self.flaw("it ends within a number"))
    }

    fn u32(&mut self) -> Read<u32> {
        self.input.u32().ok_or_else(|| self.flaw("it ends within a number"))
    }

    fn u64(&mut self) -> Read<u64> {
        self.input.u64().ok_or_else(|| self.flaw("it ends within a number"))
    }

    fn time(&mut self) -> Read<DateTime<Utc>> {
        let at = self.position();
        let (seconds, nanos) = (self.u64()?.cast_signed(), self.u32()?);
        DateTime::from_timestamp(seconds, nanos).ok_or_else(|| Flaw::new(at, "there is no such time"))
    }

    /// A number in its one form.
    fn varint(&mut self) -> Read<u64> {
        let before = self.position();
        let number = self.input.varint().ok_or_else(|| self.flaw("it ends within a number"))?;
        let is_shortest = self.position() - before == varint_len(number);
        if is_shortest { Ok(number) } else { Err(Flaw::new(before, "a number is longer than it need be")) }
    }

    fn take(&mut self, length: u64) -> Read<&'a [u8]> {
        let taken = usize::try_from(length).ok().and_then(|length| self.input.take(length));
        taken.ok_or_else(|| self.flaw(&format!("{length} bytes should follow")))
    }

    fn bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.varint()?;
        self.take(length)
    }

    fn owned(&mut self) -> Read<Vec<u8>> {
        self.bytes().map(<[u8]>::to_vec)
    }

    fn text(&mut self) -> Read<String> {
        let at = self.position();
        text_of(self.bytes()?, at)
    }

    /// Bytes behind their length in four bytes.
    fn long_bytes(&mut self) -> Read<&'a [u8]> {
        let length = self.u32()?;
        self.take(length.into())
    }

    fn long_text(&mut self) -> Read<String> {
        let at = self.position();
        text_of(self.long_bytes()?, at)
    }

    fn offset(&mut self) -> Read<Offset> {
        let at = self.position();
        match self.u8()? {
            SEQUENCE => self.u64().map(Offset::Sequence),
            TIMESTAMP => self.time().map(Offset::Timestamp),
            CUSTOM => self.text().map(Offset::Custom),
            kind => Err(Flaw::new(at, format!("there is no offset of kind {kind}"))),
        }
    }

    /// Names that rise, and what belongs to each.
    fn entries<T>(&mut self, value: impl Fn(&mut Reader<'a>) -> Read<T>) -> Read<BTreeMap<String, T>> {
        let mut entries = BTreeMap::new();
        for _ in 0..self.varint()? {
            let (at, name) = (self.position(), self.text()?);
            if entries.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(Flaw::new(at, "names are not in their order"));
            }
            entries.insert(name, value(self)?);
        }
        Ok(entries)
    }

    fn finish(self) -> Read<()> {
        if self.input.is_empty() { Ok(()) } else { Err(self.flaw("bytes follow that belong to nothing")) }
    }
}

fn text_of(bytes: &[u8], position: usize) -> Read<String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Flaw::new(position, "a text is not UTF-8"))
}
