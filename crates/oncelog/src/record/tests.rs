//! Batches against themselves, against rollback, against flipped bits and hostile bytes; golden bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::head::{ATTRIBUTES_AT, BASE_OFFSET_AT, COUNT_AT, CRC_AT, LAST_OFFSET_DELTA_AT, LEADER_EPOCH_AT, LENGTH_AT};
use super::head::{MAGIC_AT, set_field};
use super::*;
use crate::codec::crc32c;
use crate::ids::{LogOffset, PartitionId, RecordId, TopicId};

/// A record as a test holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
    pub(super) timestamp_ms: i64,
}

impl Event {
    pub(super) fn push_to(&self, builder: &mut BatchBuilder) {
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() }).collect();
        let draft = Draft {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: &headers,
            timestamp_ms: self.timestamp_ms,
        };
        let before = builder.len_bytes();
        builder.push(&draft);
        let grown = builder.len_bytes() - before;
        let bound = BatchBuilder::encoded_len(&draft);
        assert!(grown <= bound && bound <= grown + 17, "{grown} bytes, bound {bound}");
    }

    pub(super) fn of(view: &RecordView<'_>) -> Event {
        Event {
            key: view.key.map(<[u8]>::to_vec),
            value: view.value.map(<[u8]>::to_vec),
            headers: view.headers().map(|header| (header.name.to_owned(), header.value.map(<[u8]>::to_vec))).collect(),
            timestamp_ms: view.timestamp_ms,
        }
    }
}

/// Contents with lengths on both sides of the places where their varints grow.
fn content() -> impl Strategy<Value = Option<Vec<u8>>> {
    let sizes = prop_oneof![8 => 0..20usize, 2 => 60..70usize, 1 => 8_185..8_200usize];
    let bytes = (sizes, any::<u8>()).prop_map(|(size, byte)| vec![byte; size]);
    prop_oneof![1 => Just(None), 4 => bytes.prop_map(Some), 2 => vec(any::<u8>(), 0..8).prop_map(Some)]
}

pub(super) fn events(timestamps: impl Strategy<Value = i64>) -> impl Strategy<Value = Vec<Event>> {
    let headers = vec((any::<String>(), content()), 0..4);
    let event = (content(), content(), headers, timestamps).prop_map(|(key, value, headers, timestamp_ms)| Event {
        key,
        value,
        headers,
        timestamp_ms,
    });
    vec(event, 1..12)
}

pub(super) fn batch_of(events: &[Event]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    events.iter().for_each(|event| event.push_to(&mut builder));
    let mut out = Vec::new();
    builder.finish_into(&mut out);
    out
}

#[cfg(feature = "lz4")]
pub(super) fn compressed_batch_of(events: &[Event]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    events.iter().for_each(|event| event.push_to(&mut builder));
    let records = builder.deflated(super::Compression::Lz4).expect("something to compress");
    let mut out = Vec::new();
    builder.finish_deflated(super::Compression::Lz4, &records, &mut out);
    out
}

fn event(key: &str, value: &str, timestamp_ms: i64) -> Event {
    let bytes = |text: &str| Some(text.as_bytes().to_vec());
    Event { key: bytes(key), value: bytes(value), headers: Vec::new(), timestamp_ms }
}

/// Makes length and checksum right again, as an enemy would.
fn reseal(batch: &mut [u8]) {
    let behind = u32::try_from(batch.len() - LEADER_EPOCH_AT).unwrap();
    set_field(batch, LENGTH_AT, behind.to_be_bytes());
    let crc = crc32c(&batch[ATTRIBUTES_AT..]);
    set_field(batch, CRC_AT, crc.to_be_bytes());
}

/// Reads all that can be read, checking what is promised about it.
fn read_all(bytes: &[u8]) -> Result<Vec<Event>, BatchError> {
    let batch = Batch::check(bytes)?;
    let mut read = Vec::new();
    let mut next = batch.base_offset();
    let mut records = batch.records();
    while let Some(record) = records.next() {
        let Ok(record) = record else {
            assert!(records.next().is_none(), "nothing comes behind an error");
            return Err(record.unwrap_err());
        };
        assert!(record.offset >= next && record.offset < batch.next_offset());
        next = record.offset.plus(1);
        assert_eq!(record.headers().count(), record.headers().len());
        read.push(Event::of(&record));
    }
    assert_eq!(read.len(), batch.count() as usize);
    Ok(read)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

#[test]
fn the_bytes_are_these() {
    let golden = [
        "00000000 00000000  00000047  ffffffff  02  d440ac9b", // base offset, length, leader epoch, magic, crc
        "0000  00000001  00000000 000003e8  00000000 000003e8", // attributes, last delta, base and max timestamp
        "ffffffff ffffffff  ffff  ffffffff  00000002",         // producer id and epoch, base sequence, count
        "12  00 00 00  02 6b  04 7631  00",                    // 9 bytes: k, v1, no headers
        "16  00 01 02  01  01  04  02 68 01  00 00",           // 11 bytes: 1 ms earlier, no key, no value, 2 headers
    ]
    .map(hex)
    .concat();
    let second = Event {
        key: None,
        value: None,
        headers: vec![("h".to_owned(), None), (String::new(), Some(Vec::new()))],
        timestamp_ms: 999,
    };
    let events = [event("k", "v1", 1000), second];
    assert_eq!(batch_of(&events), golden);
    assert_eq!(read_all(&golden), Ok(events.to_vec()));
}

#[test]
fn a_place_is_stamped_beside_the_checksum() {
    let mut batch = batch_of(&[event("k", "v1", 1000), event("k", "v2", 2000)]);
    assert_eq!(place_of(&batch), u32::MAX);
    let untouched = batch.clone();
    set_base_offset(&mut batch, LogOffset(5));
    let place = place_checksum(0x1122_3344_5566_7788, 80, &batch);
    set_place(&mut batch, place);
    assert_eq!(place_of(&batch), place);
    assert_eq!(place_checksum(0x1122_3344_5566_7788, 80, &batch), place, "the field does not cover itself");
    assert_ne!(place_checksum(0x1122_3344_5566_7788, 81, &batch), place);
    assert_ne!(place_checksum(0x1122_3344_5566_7789, 80, &batch), place);
    assert_ne!(place_checksum(0x1122_3344_5566_7788, 80, &untouched), place);

    let head = BatchHead::peek(&batch[..BATCH_HEAD_BYTES]).unwrap();
    assert_eq!((head.bytes, head.base_offset, head.next_offset()), (batch.len(), LogOffset(5), LogOffset(7)));
    assert_eq!((head.count, head.base_timestamp_ms, head.max_timestamp_ms), (2, 1000, 2000));
    assert_eq!(head.place, place);
    let offsets: Vec<_> = Batch::check(&batch).unwrap().records().map(|record| record.unwrap().offset.0).collect();
    assert_eq!(offsets, [5, 6]);
}

#[test]
fn the_place_checksum_is_this() {
    let mut batch = hex("0000000000000005 00000047 ffffffff 02 d440ac9b");
    batch.resize(BATCH_HEAD_BYTES, 0);
    assert_eq!(place_checksum(0x1122_3344_5566_7788, 80, &batch), 0x4CD4_B195);
}

#[test]
fn no_bit_flips_unseen() {
    let mut batch = batch_of(&[event("key", "value", 1000), event("", "more", 2000)]);
    set_base_offset(&mut batch, LogOffset(5));
    let place = place_checksum(1, 2, &batch);
    for bit in 0..batch.len() * 8 {
        batch[bit / 8] ^= 1 << (bit % 8);
        let body = read_all(&batch).is_ok();
        let head = place_checksum(1, 2, &batch) == place;
        match bit / 8 {
            LEADER_EPOCH_AT..MAGIC_AT => assert!(body && head, "the place covers all but itself"),
            BASE_OFFSET_AT..CRC_AT => assert!(!head, "bit {bit}"),
            CRC_AT..ATTRIBUTES_AT => assert!(!head && !body, "bit {bit}"),
            _ => assert_eq!(read_all(&batch), Err(BatchError::Checksum), "bit {bit}"),
        }
        batch[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_batch_is_as_long_as_it_says() {
    let batch = batch_of(&[event("key", "value", 1000)]);
    for len in 0..batch.len() {
        assert_eq!(read_all(&batch[..len]), Err(BatchError::Truncated));
    }
    let longer = [&batch[..], &[0]].concat();
    assert_eq!(read_all(&longer), Err(BatchError::Length));
    assert!(BatchHead::peek(&longer).is_ok());
    assert_eq!(BatchHead::peek(&longer[..BATCH_HEAD_BYTES - 1]), Err(BatchError::Truncated));
    for behind in [i32::MIN, -1, 0, 48, i32::MAX - 11, i32::MAX] {
        let mut bad = batch.clone();
        set_field(&mut bad, LENGTH_AT, behind.to_be_bytes());
        assert_eq!(BatchHead::peek(&bad), Err(BatchError::Length), "{behind}");
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    let batch = batch_of(&[event("key", "value", 1000)]);
    for magic in [0, 1, 3, 255] {
        let mut other = batch.clone();
        other[MAGIC_AT] = magic;
        assert_eq!(BatchHead::peek(&other), Err(BatchError::Magic(magic)));
        assert_eq!(read_all(&other), Err(BatchError::Magic(magic)));
    }
    for bit in 0..16 {
        let mut other = batch.clone();
        set_field(&mut other, ATTRIBUTES_AT, (1u16 << bit).to_be_bytes());
        reseal(&mut other);
        assert_eq!(read_all(&other), Err(BatchError::Attributes(1 << bit)));
    }
}

#[test]
fn a_head_that_contradicts_itself_is_refused() {
    let batch = batch_of(&[event("key", "value", 1000), event("key", "value", 1000)]);
    let with = |at: usize, number: i32| {
        let mut bad = batch.clone();
        set_field(&mut bad, at, number.to_be_bytes());
        reseal(&mut bad);
        bad
    };
    for (at, number) in [(BASE_OFFSET_AT, -1), (LAST_OFFSET_DELTA_AT, -1), (LAST_OFFSET_DELTA_AT, 0)] {
        assert!(matches!(BatchHead::peek(&with(at, number)), Err(BatchError::Malformed(_))));
    }
    for count in [-1, 0, 3] {
        assert!(matches!(BatchHead::peek(&with(COUNT_AT, count)), Err(BatchError::Malformed(_))));
    }
    // Enough offsets, and still no more records than the bytes can hold.
    let mut bad = with(LAST_OFFSET_DELTA_AT, i32::MAX);
    set_field(&mut bad, COUNT_AT, i32::MAX.to_be_bytes());
    assert!(matches!(BatchHead::peek(&bad), Err(BatchError::Malformed(_))));
    // The greatest offsets that a head can claim.
    set_field(&mut bad, COUNT_AT, 2i32.to_be_bytes());
    set_base_offset(&mut bad, LogOffset(i64::MAX.unsigned_abs()));
    reseal(&mut bad);
    assert_eq!(BatchHead::peek(&bad).unwrap().next_offset(), LogOffset((1 << 63) + (1 << 31) - 1));
    assert!(read_all(&bad).is_ok());
}

/// A batch with this count and last offset delta around these records, its checksum right.
fn batch_around(count: i32, last_offset_delta: i32, records: &[u8]) -> Vec<u8> {
    let mut batch = batch_of(&[event("key", "value", 1000)]);
    batch.truncate(BATCH_HEAD_BYTES);
    batch.extend_from_slice(records);
    set_field(&mut batch, COUNT_AT, count.to_be_bytes());
    set_field(&mut batch, LAST_OFFSET_DELTA_AT, last_offset_delta.to_be_bytes());
    reseal(&mut batch);
    batch
}

#[test]
fn count_bytes_and_offsets_of_records_agree() {
    // Six fields of a byte: attributes, timestamp, offset, no key, no value, no headers.
    let record = |offset_delta: u8| [12, 0, 0, offset_delta << 1, 1, 1, 0];
    let two = |first, second| [record(first), record(second)].concat();
    let read = |count, last, records: &[u8]| read_all(&batch_around(count, last, records)).map(|read| read.len());
    assert_eq!(read(2, 1, &two(0, 1)), Ok(2));
    assert_eq!(read(2, 9, &two(3, 9)), Ok(2), "offsets may be missing, as after compaction");
    assert!(read(2, 9, &two(0, 0)).is_err(), "twice");
    assert!(read(2, 9, &two(1, 0)).is_err(), "backwards");
    assert!(read(2, 9, &two(0, 10)).is_err(), "outside");
    assert!(read(1, 9, &[12, 0, 0, 1, 1, 1, 0]).is_err(), "before the base");
    assert!(read(1, 9, &two(0, 1)).is_err(), "bytes behind");
    assert!(read(3, 9, &[&two(0, 1)[..], &[0; 7]].concat()).is_err(), "too few");
    assert!(read(1, 9, &[14, 0, 0, 0, 1, 1, 0, 0]).is_err(), "bytes behind, within the record");
    assert!(read(1, 9, &[12, 1, 0, 0, 1, 1, 0]).is_err(), "attributes");
    assert!(read(1, 9, &[12, 0, 0, 0, 3, 1, 0]).is_err(), "a length of -2");
    assert!(read(1, 9, &[11, 0, 0, 0, 1, 1, 0]).is_err(), "a record of a negative length");
    assert!(read(1, 9, &[12, 0, 0, 0, 1, 1, 1]).is_err(), "a negative count of headers");
    assert!(read(1, 9, &[12, 0, 0, 0, 1, 2, 0]).is_err(), "a value that takes the header count");
    assert!(read(1, 9, &[18, 0, 0, 0, 1, 1, 2, 2, 0xFF, 1]).is_err(), "a name that is no text");
    assert!(read(1, 9, &[14, 0, 0, 0, 1, 1, 2, 1]).is_err(), "a header without a name");
}

#[test]
fn an_owned_record_holds_what_was_seen() {
    let headers =
        vec![("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None), ("a".to_owned(), Some(Vec::new()))];
    let batch = batch_of(&[Event { headers, ..event("key", "value", -7) }]);
    let batch = Batch::check(&batch).unwrap();
    let view = batch.records().next().unwrap().unwrap();
    let record = Record::from_view(&view, TopicId(3), PartitionId(4));
    assert_eq!(record.id, RecordId { topic: TopicId(3), partition: PartitionId(4), offset: LogOffset(0) });
    assert_eq!(record.timestamp_ms, -7);
    assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"value"[..]));
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b""[..]))]);
}

#[test]
fn an_empty_builder_makes_no_batch() {
    let mut out = b"before".to_vec();
    let mut builder = BatchBuilder::new();
    builder.finish_into(&mut out);
    assert_eq!(out, b"before");
    let empty = builder.mark();
    event("k", "v", 1).push_to(&mut builder);
    builder.rollback(empty);
    assert!(builder.is_empty());
    assert_eq!(builder.len_bytes(), BATCH_HEAD_BYTES);
    event("k", "v", 2).push_to(&mut builder);
    builder.finish_into(&mut out);
    assert_eq!(out[6..], batch_of(&[event("k", "v", 2)]), "nothing is left from before");
}

proptest! {
    #[test]
    fn records_come_back(events in events(any::<i64>()), base in 0..=i64::MAX.unsigned_abs()) {
        let mut batch = batch_of(&events);
        set_base_offset(&mut batch, LogOffset(base));
        let checked = Batch::check(&batch).unwrap();
        prop_assert_eq!(checked.base_offset(), LogOffset(base));
        prop_assert_eq!(checked.next_offset(), LogOffset(base + events.len() as u64));
        prop_assert_eq!(Some(checked.max_timestamp_ms()), events.iter().map(|event| event.timestamp_ms).max());
        prop_assert_eq!(read_all(&batch), Ok(events));
    }

    #[test]
    fn a_rollback_leaves_no_trace(
        kept in proptest::option::of(events(any::<i64>())),
        dropped in events(any::<i64>()),
        after in events(any::<i64>()),
    ) {
        let kept = kept.unwrap_or_default();
        let mut builder = BatchBuilder::new();
        kept.iter().for_each(|event| event.push_to(&mut builder));
        let (mark, len) = (builder.mark(), builder.len_bytes());
        dropped.iter().for_each(|event| event.push_to(&mut builder));
        builder.rollback(mark);
        prop_assert_eq!((builder.count() as usize, builder.len_bytes()), (kept.len(), len));
        let mut out = Vec::new();
        builder.finish_into(&mut out);
        prop_assert_eq!(&out, &batch_of(&kept));
        after.iter().for_each(|event| event.push_to(&mut builder));
        out.clear();
        builder.finish_into(&mut out);
        prop_assert_eq!(out.len(), builder.len_bytes());
        prop_assert_eq!(out, batch_of(&[kept, after].concat()));
    }

    #[test]
    fn damaged_batches_are_read_without_panic(
        events in events(any::<i64>()),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut batch = batch_of(&events);
        for (at, byte) in damage {
            let at = at.index(batch.len());
            batch[at] = byte;
        }
        let _ = (read_all(&batch), BatchHead::peek(&batch), read_all(&batch[..cut.index(batch.len())]));
        batch[MAGIC_AT] = 2;
        reseal(&mut batch);
        let _ = read_all(&batch);
        batch.truncate(BATCH_HEAD_BYTES.max(cut.index(batch.len())));
        reseal(&mut batch);
        let _ = read_all(&batch);
    }

    #[test]
    fn hostile_records_are_read_without_panic(
        count in 1..5i32,
        last_offset_delta in prop_oneof![0..5i32, Just(i32::MAX)],
        records in vec(prop_oneof![6 => 0..16u8, 1 => any::<u8>()], 0..80),
    ) {
        let _ = read_all(&batch_around(count, last_offset_delta, &records));
    }

    #[test]
    fn any_bytes_are_read_without_panic(mut bytes in vec(any::<u8>(), 0..200)) {
        let _ = (read_all(&bytes), BatchHead::peek(&bytes));
        if bytes.len() >= BATCH_HEAD_BYTES {
            bytes[MAGIC_AT] = 2;
            reseal(&mut bytes);
            let _ = (read_all(&bytes), BatchHead::peek(&bytes));
        }
    }
}

#[test]
fn headers_can_be_encoded_apart() {
    let given = [
        Header { name: "a", value: Some(b"1") },
        Header { name: "", value: None },
        Header { name: "a", value: Some(b"") },
    ];
    let mut bytes = Vec::new();
    Headers::encode(given.into_iter(), &mut bytes);
    assert_eq!(Headers::decode(&bytes).map(|headers| headers.collect::<Vec<_>>()), Some(given.to_vec()));
    assert!(Headers::decode(&bytes[..bytes.len() - 1]).is_none());
    assert_eq!(Headers::NONE.count(), 0);
}
