//! The doors by which fuzzers come to the decoders; only in builds with `--cfg fuzzing`. Each takes any bytes, must
//! come back, and asserts that what it could decode encodes to the same again.
//!
//! A checksum stops nearly all of a fuzzer's bytes before they are parsed. [`trust_checksums`] lets them through, so
//! that the parsers behind are tried too: these must not panic, and may then believe anything.

use crate::codec::{self, Codec, Postcard, U64, Utf8};
use crate::ids::StoreId;
use crate::record::{Batch, BatchBuilder, Draft, Header, Inflated, RecordView};
use crate::{backup, checkpoint, journal, offsets, page, segment, store, table, topic, transaction};

/// Whether checksums that do not fit are taken for good from now on; those of the blocks of tables never are.
pub fn trust_checksums(trust: bool) {
    codec::trust_checksums(trust);
}

/// A batch of records, compressed or not: those that can be read, encoded again, are read as the same.
pub fn batch(bytes: &[u8]) {
    let inflated = Inflated::default();
    let Ok(batch) = Batch::open(bytes, &inflated) else { return };
    let Ok(records) = batch.records().collect::<Result<Vec<_>, _>>() else { return };
    let mut again = BatchBuilder::new();
    for record in &records {
        let headers: Vec<Header<'_>> = record.headers().collect();
        let (key, value, timestamp_ms) = (record.key, record.value, record.timestamp_ms);
        again.push(&Draft { key, value, headers: &headers, timestamp_ms });
    }
    if again.is_empty() {
        return;
    }
    let mut encoded = Vec::new();
    again.finish_into(&mut encoded);
    let inflated = Inflated::default();
    let batch = Batch::open(&encoded, &inflated).expect("what was just encoded");
    let content = |record: &RecordView<'_>| {
        (record.key.map(<[u8]>::to_vec), record.value.map(<[u8]>::to_vec), record.timestamp_ms)
    };
    let read: Vec<_> = batch.records().map(|record| content(&record.expect("what was just encoded"))).collect();
    assert!(records.iter().map(content).eq(read), "encoded again, the records are others");
}

/// The content of a frame.
pub fn frame(bytes: &[u8]) {
    transaction::fuzz::content(bytes);
}

/// A whole journal file, replayed from its start.
pub fn journal(bytes: &[u8]) {
    let Some(store) = bytes.get(16..).and_then(<[u8]>::first_chunk::<16>) else { return };
    journal::fuzz::replay_file(StoreId(*store), bytes);
}

/// A whole segment with the index beside it: `length of the index (two bytes), index, segment`.
pub fn segment(bytes: &[u8]) {
    let Some((length, bytes)) = bytes.split_first_chunk() else { return };
    let (index, bytes) = bytes.split_at(usize::from(u16::from_le_bytes(*length)).min(bytes.len()));
    segment::fuzz::segment(bytes, index);
}

/// The index of a segment.
pub fn index(bytes: &[u8]) {
    segment::fuzz::index(bytes);
}

/// The copies of a manifest, 1024 bytes each.
pub fn manifest(bytes: &[u8]) {
    store::fuzz::manifest(bytes);
}

/// The claim on a name.
pub fn claim(bytes: &[u8]) {
    topic::fuzz::claim(bytes);
}

/// The page that an owner shares with readers in other processes.
pub fn page(bytes: &[u8]) {
    page::fuzz::page(bytes);
}

/// The head and the blocks of a table file.
pub fn table(bytes: &[u8]) {
    table::fuzz::blocks(bytes);
}

/// A checkpoint.
pub fn checkpoint(bytes: &[u8]) {
    checkpoint::fuzz::checkpoint(bytes);
}

/// A checkpoint of the earlier library.
pub fn checkpoint_import(bytes: &[u8]) {
    checkpoint::fuzz::import(bytes);
}

/// A file of offsets.
pub fn offsets(bytes: &[u8]) {
    offsets::fuzz::offsets(bytes);
}

/// The manifest of a backup.
pub fn backup(bytes: &[u8]) {
    backup::fuzz::manifest(bytes);
}

/// A piece of an archived journal.
pub fn backup_piece(bytes: &[u8]) {
    backup::fuzz::piece(bytes);
}

/// Keys and values: those of the store's own rows, and those of users' codecs.
pub fn values(bytes: &[u8]) {
    transaction::fuzz::rows(bytes);
    if let Ok(text) = Utf8::decode(bytes) {
        assert_eq!(text.as_bytes(), bytes);
    }
    if let Ok(number) = U64::decode(bytes) {
        assert_eq!(number.to_be_bytes(), bytes);
    }
    type Nested = Vec<(u64, Option<String>, Vec<Option<i32>>)>;
    if let Ok(value) = Postcard::<Nested>::decode_owned(bytes) {
        let mut again = Vec::new();
        Postcard::<Nested>::encode(&value, &mut again).expect("what was just decoded");
        assert_eq!(Postcard::<Nested>::decode_owned(&again).expect("what was just encoded"), value);
    }
}
