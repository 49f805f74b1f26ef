//! The bytes, what follows from which checkpoints there are, and every store against the same promises.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::bytes::HEAD_BYTES;
use super::key::{Key, current, surplus};
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::error::{Error, ErrorKind};
use crate::offsets::Offset;

fn state(stream: &str, sequence: u64) -> CheckpointState {
    let mut state = CheckpointState::new(CheckpointId::new(stream, sequence));
    state.set_operator_state("sum", sequence.to_le_bytes().to_vec());
    state.set_source_offset("feed", sequence + 1);
    (state.watermark_ns, state.event_count) = (sequence * 1_000, sequence);
    state
}

fn on_line(stream: &str, sequence: u64, lineage: Lineage) -> CheckpointState {
    CheckpointState { lineage, ..state(stream, sequence) }
}

fn line(number: u32, parent: u32, from: u64) -> Lineage {
    Lineage { number, parent, from }
}

fn full() -> CheckpointState {
    let mut full = on_line("Strom/\u{e9}\0", 1 << 40, line(3, 1, 77));
    full.id.created_at = DateTime::<Utc>::from_timestamp(-1, 999_999_999).unwrap();
    full.set_operator_state("", Vec::new());
    full.set_operator_state("window", vec![0xFF; 300]);
    full.set_source_offset("file", Offset::Custom("token \"x\"\n".into()));
    full.set_source_offset("time", Offset::Timestamp(DateTime::<Utc>::MAX_UTC));
    full.metadata.insert("host".into(), "k\u{fc}che".into());
    full.metadata.insert("a".into(), String::new());
    full
}

#[test]
fn every_field_comes_back_and_equal_states_have_equal_bytes() {
    let (one, mut other) = (full(), full());
    other.metadata = one.metadata.clone().into_iter().rev().collect();
    let bytes = one.serialize().unwrap();
    assert_eq!(bytes, other.serialize().unwrap());
    assert_eq!(CheckpointState::deserialize(&bytes).unwrap(), one);
}

#[test]
fn every_flipped_bit_and_every_other_length_is_noticed() {
    let whole = full().serialize().unwrap();
    let refused = |bytes: &[u8], what: &str| {
        let error = CheckpointState::deserialize(bytes).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
    };
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        refused(&damaged, &format!("bit {bit}"));
    }
    (0..whole.len()).for_each(|length| refused(&whole[..length], &format!("cut to {length}")));
    refused(&[&whole[..], &[0]].concat(), "one byte more");
    refused(&[&whole[..], &whole[..]].concat(), "twice");
    refused(&[0; 4096], "zeros");
}

/// Bytes with checksums that fit, whatever is in them.
fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = (bytes.len() + 4) as u64;
    bytes[64..72].copy_from_slice(&length.to_le_bytes());
    let head = crate::codec::crc32c(&bytes[..HEAD_BYTES - 4]);
    bytes[HEAD_BYTES - 4..HEAD_BYTES].copy_from_slice(&head.to_le_bytes());
    let sum = crate::codec::crc32c(&bytes);
    [&bytes[..], &sum.to_le_bytes()].concat()
}

#[test]
fn bytes_with_right_checksums_that_mean_nothing_are_refused() {
    let empty = CheckpointState::new(CheckpointId::new("s", 1)).serialize().unwrap();
    let head = &empty[..HEAD_BYTES];
    let said = |rest: &[u8]| CheckpointState::deserialize(&sealed([head, rest].concat())).unwrap_err().to_string();
    assert!(CheckpointState::deserialize(&sealed([head, b"\x01s\0\0\0"].concat())).is_ok());
    for (rest, part) in [
        (&b""[..], "ends within a number"),
        (b"\x01s\0\0\0\0", "belong to nothing"),
        (b"\x01s\x80\0\0\0", "longer than it need be"),
        (b"\x01\xFF\0\0\0", "not UTF-8"),
        (b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01s", "should follow"),
        (b"\x01s\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "ends within a number"),
        (b"\x01s\x02\x01b\0\x01a\0\0\0", "not in their order"),
        (b"\x01s\x02\x01b\0\x01b\0\0\0", "not in their order"),
        (b"\x01s\0\x01\x01f\x03\0", "no offset of kind 3"),
        (b"\x01s\0\x01\x01f\x01\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F\0\0\0\0\0", "no such time"),
    ] {
        assert!(said(rest).contains(part), "{rest:?}: {}", said(rest));
    }
    let with_head = |at: usize, field: &[u8]| {
        let mut bytes = [head, b"\x01s\0\0\0"].concat();
        bytes[at..at + field.len()].copy_from_slice(field);
        CheckpointState::deserialize(&sealed(bytes)).unwrap_err()
    };
    assert_eq!(with_head(8, &2_u32.to_le_bytes()).kind(), ErrorKind::UnsupportedVersion);
    assert!(with_head(16, &1_u32.to_le_bytes()).to_string().contains("cannot be on line"));
    let second = [1_u32.to_le_bytes(), 0_u32.to_le_bytes()].concat();
    assert!(with_head(12, &[&second[..], &9_u64.to_le_bytes()].concat()).to_string().contains("cannot be on line"));
    assert!(with_head(44, &u32::MAX.to_le_bytes()).to_string().contains("no such time"));
}

#[test]
fn what_cannot_be_written_is_refused() {
    for policy in [Offset::Earliest, Offset::Latest] {
        let mut state = state("s", 1);
        state.set_source_offset("f", policy);
        assert_eq!(state.serialize().unwrap_err().kind(), ErrorKind::Invalid);
    }
    for impossible in [line(0, 0, 1), line(1, 1, 0), line(2, 3, 0)] {
        assert_eq!(on_line("s", 1, impossible).serialize().unwrap_err().kind(), ErrorKind::Invalid);
    }
    let store = InMemoryCheckpointStore::new(3);
    assert_eq!(store.save(&on_line("s", 1, line(1, 0, 2))).unwrap_err().kind(), ErrorKind::Invalid);
    for name in ["", &*"x".repeat(300)] {
        assert_eq!(store.save(&state(name, 1)).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

/// What the earlier library wrote: everything little-endian, lengths in four bytes.
fn earlier(operators: &[(&str, &[u8])], sources: Option<&[(&str, u64)]>) -> Vec<u8> {
    let mut bytes: Vec<u8> = [7_u64, 9_000, 42].iter().flat_map(|number| number.to_le_bytes()).collect();
    let length = |bytes: &mut Vec<u8>, length: usize| bytes.extend(u32::try_from(length).unwrap().to_le_bytes());
    length(&mut bytes, operators.len());
    for (name, operator) in operators {
        length(&mut bytes, name.len());
        bytes.extend(name.bytes());
        length(&mut bytes, operator.len());
        bytes.extend(*operator);
    }
    if let Some(sources) = sources {
        length(&mut bytes, sources.len());
        for (name, offset) in sources {
            length(&mut bytes, name.len());
            bytes.extend(name.bytes());
            bytes.extend(offset.to_le_bytes());
        }
    }
    bytes
}

#[test]
fn checkpoints_of_the_earlier_library_are_imported() {
    let bytes = earlier(&[("window", b"abc"), ("filter", b"")], Some(&[("k-0", 1_234_567), ("file", 4096)]));
    let state = CheckpointState::import("s", &bytes).unwrap();
    assert_eq!((&*state.id.stream_id, state.id.sequence, state.watermark_ns, state.event_count), ("s", 7, 9_000, 42));
    assert_eq!(state.operator_states, BTreeMap::from([("filter".into(), vec![]), ("window".into(), b"abc".to_vec())]));
    assert_eq!(state.source_offsets["k-0"], Offset::Sequence(1_234_567));
    assert_eq!((state.lineage, state.id.created_at), (Lineage::FIRST, DateTime::<Utc>::UNIX_EPOCH));
    let store = InMemoryCheckpointStore::new(3);
    store.save(&state).unwrap();
    assert_eq!(store.get("s", 7).unwrap().unwrap(), state);

    let without = earlier(&[("window", b"abc")], None);
    assert!(CheckpointState::import("s", &without).unwrap().source_offsets.is_empty(), "its sources may be missing");
    // Every cut but that one is told, and so is what is behind; the earlier library took some for whole.
    for length in 0..bytes.len() {
        let cut = CheckpointState::import("s", &bytes[..length]);
        assert_eq!(cut.is_ok(), length == earlier(&[("window", b"abc"), ("filter", b"")], None).len(), "{length}");
    }
    assert!(CheckpointState::import("s", &[&bytes[..], &[0]].concat()).is_err());
    let claims = [&[0; 24][..], &u32::MAX.to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
    assert_eq!(CheckpointState::import("s", &claims).unwrap_err().kind(), ErrorKind::Corrupt);
    for twice in [earlier(&[("a", b""), ("a", b"")], None), earlier(&[], Some(&[("a", 1), ("a", 1)]))] {
        assert!(CheckpointState::import("s", &twice).is_err(), "no map wrote that");
    }
    assert!(CheckpointState::import("s", &full().serialize().unwrap()).is_err());
    assert!(CheckpointState::deserialize(&bytes).is_err());
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-c]{0,2}"]
}

fn any_offset() -> impl Strategy<Value = Offset> {
    let time = (any::<i32>(), 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| Offset::Timestamp(DateTime::from_timestamp(seconds.into(), nanos).unwrap()));
    prop_oneof![any::<u64>().prop_map(Offset::Sequence), time, any_text().prop_map(Offset::Custom)]
}

prop_compose! {
    fn any_state()(
        names in (any_text(), any::<u64>(), any::<u32>()),
        operator_states in prop::collection::btree_map(any_text(), any::<Vec<u8>>(), 0..4),
        source_offsets in prop::collection::btree_map(any_text(), any_offset(), 0..4),
        metadata in prop::collection::btree_map(any_text(), any_text(), 0..4),
        numbers in any::<(u64, u64, u64)>(),
    ) -> CheckpointState {
        let (stream, sequence, parent) = names;
        let mut state = CheckpointState::new(CheckpointId::new(stream, sequence));
        if parent < u32::MAX {
            state.lineage = Lineage { number: parent + 1, parent, from: numbers.0.min(sequence) };
        }
        CheckpointState { operator_states, source_offsets, metadata, watermark_ns: numbers.1, event_count: numbers.2,
            ..state }
    }
}

proptest! {
    #[test]
    fn states_come_back(state in any_state()) {
        let bytes = state.serialize().unwrap();
        prop_assert_eq!(CheckpointState::deserialize(&bytes).unwrap(), state);
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes: Vec<u8>, rest: Vec<u8>) {
        let _ = (CheckpointState::deserialize(&bytes), CheckpointState::import("s", &bytes));
        let head = state("s", 1).serialize().unwrap()[..HEAD_BYTES].to_vec();
        if let Ok(state) = CheckpointState::deserialize(&sealed([head, rest.clone()].concat())) {
            prop_assert_eq!(&state.serialize().unwrap()[HEAD_BYTES..][..rest.len()], &rest[..]);
        }
    }

    #[test]
    fn names_and_rows_of_keys_come_back(sequence: u64, number: u32, from: u64) {
        let lineage = if number == 0 { Lineage::FIRST } else { line(number, number / 2, from.min(sequence)) };
        let key = Key { sequence, lineage };
        prop_assert_eq!(Key::of_name(&key.name()), Some(key));
        prop_assert_eq!(Key::all_of_bytes(&[key.to_bytes(), key.to_bytes()].concat()), Some(vec![key, key]));
        prop_assert_eq!(Key::all_of_bytes(&key.to_bytes()[1..]), None);
    }

    /// Random lives of a stream against a model that keeps each line as a list of what counts.
    #[test]
    fn lines_are_what_a_model_says(steps in prop::collection::vec((0_u8..4, 0_u64..40), 1..40)) {
        let store = InMemoryCheckpointStore::new(1_000);
        let (mut model, mut at, mut lineage) = (Vec::<u64>::new(), 0, Lineage::FIRST);
        for (step, number) in steps {
            if step < 3 {
                at += number + 1;
                model.push(at);
                store.save(&on_line("s", at, lineage)).unwrap();
            } else if let Some(back) = model.iter().rposition(|sequence| *sequence <= number * 4) {
                let target = model[back];
                // One behind that, unless there is one exactly there, which may be one that was left behind.
                if store.get("s", number * 4).unwrap().is_some_and(|found| found.id.sequence != target) {
                    continue;
                }
                let found = store.rewind("s", number * 4).unwrap();
                prop_assert_eq!(found.state.id.sequence, target);
                model.truncate(back + 1);
                (at, lineage) = (target, found.state.lineage);
            }
            let entries = store.list("s").unwrap();
            let current: Vec<u64> =
                entries.iter().filter(|entry| entry.is_current).map(|entry| entry.sequence).collect();
            prop_assert_eq!(&current, &model);
            prop_assert_eq!(store.latest("s").unwrap().map(|latest| latest.state.id.sequence), model.last().copied());
        }
    }
}

#[test]
fn other_spellings_are_no_names() {
    let good = Key { sequence: 300, lineage: line(2, 1, 7) }.name();
    assert_eq!(good, "00000000000000000300-2-1-7.checkpoint");
    for other in [
        "300-2-1-7.checkpoint",
        "00000000000000000300-02-1-7.checkpoint",
        "00000000000000000300-+2-1-7.checkpoint",
        "00000000000000000300-2-1-7.checkpoint.bak",
        "00000000000000000300-2-1-7-0.checkpoint",
        "00000000000000000300-2-2-7.checkpoint",
        "00000000000000000300-0-0-7.checkpoint",
        "00000000000000000300-2-1-301.checkpoint",
        "99999999999999999999-0-0-0.checkpoint",
        "-0-0-0.checkpoint",
    ] {
        assert_eq!(Key::of_name(other), None, "{other}");
    }
}

#[test]
fn the_current_line_goes_through_its_parents() {
    let key = |sequence, lineage| Key { sequence, lineage };
    let (first, second, third) = (Lineage::FIRST, line(1, 0, 200), line(2, 1, 300));
    let keys = [key(100, first), key(300, first), key(200, second), key(300, second), key(350, second)];
    let sequences = |keys: &[Key]| current(keys).iter().map(|key| key.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&keys), [350, 300, 200, 100]);
    let keys = [&keys[..], &[key(320, third)]].concat();
    assert_eq!(sequences(&keys), [320, 300, 200, 100]);
    // From where the second parted: the third parts there too.
    assert_eq!(second.branch(2, 200), line(2, 0, 200));
    assert_eq!(second.branch(2, 350), line(2, 1, 350));
    // Room is made first by what no longer counts, then by the oldest, and never by the new one.
    let gone = |max| surplus(&keys, key(330, third), None, max).iter().map(|key| key.sequence).collect::<Vec<_>>();
    assert_eq!(gone(7), [] as [u64; 0]);
    assert_eq!(gone(4), [300, 350, 100]);
    assert_eq!(gone(1).len(), 6);
    assert_eq!(gone(0).len(), 6, "one stays");
    assert_eq!(surplus(&keys, key(310, third), None, 1).len(), 6);
    assert!(!surplus(&keys, key(310, third), Some(key(320, third)), 1).contains(&key(320, third)));
}

fn memory_disk() -> Arc<dyn Disk> {
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir(Path::new("/d")).unwrap();
    disk
}

fn files_on(disk: &Arc<dyn Disk>) -> crate::error::Result<FileCheckpointStore> {
    FileCheckpointStore::open_on(Arc::clone(disk), SystemClock::shared(), "/d/base")
}

/// Each store, fresh, with room for so many.
fn stores(max: usize) -> Vec<(&'static str, Arc<dyn CheckpointStore>)> {
    vec![
        ("memory", Arc::new(InMemoryCheckpointStore::new(max))),
        ("files", Arc::new(files_on(&memory_disk()).unwrap().max_per_stream(max))),
        #[cfg(feature = "object-store")]
        ("objects", Arc::new(super::object::tests::in_memory().max_per_stream(max))),
    ]
}

fn sequences(store: &dyn CheckpointStore, stream: &str) -> Vec<u64> {
    store.list(stream).unwrap().iter().map(|entry| entry.sequence).collect()
}

fn latest(store: &dyn CheckpointStore, stream: &str) -> Option<u64> {
    store.latest(stream).unwrap().map(|latest| latest.state.id.sequence)
}

#[test]
fn the_newest_of_each_stream_are_kept() {
    for (name, store) in stores(3) {
        assert!(store.latest("a").unwrap().is_none(), "{name}");
        assert!(store.streams().unwrap().is_empty(), "{name}");
        for sequence in [10, 20, 30, 40] {
            store.save(&state("a", sequence)).unwrap();
        }
        store.save(&state("A b/../c", 7)).unwrap();
        assert_eq!(sequences(&*store, "a"), [20, 30, 40], "{name}");
        assert_eq!(store.get("a", 30).unwrap().unwrap().operator_states, state("a", 30).operator_states, "{name}");
        assert!(store.get("a", 10).unwrap().is_none(), "{name}");
        assert_eq!(store.streams().unwrap(), ["A b/../c", "a"], "{name}");
        assert_eq!((store.checkpoint_count("a").unwrap(), store.checkpoint_count("b").unwrap()), (3, 0), "{name}");

        let again = CheckpointState { event_count: 99, ..state("a", 30) };
        store.save(&again).unwrap();
        assert_eq!(sequences(&*store, "a"), [20, 30, 40], "{name}: the same sequence replaces");
        assert_eq!(store.get("a", 30).unwrap().unwrap().event_count, 99, "{name}");
        assert_eq!(latest(&*store, "a"), Some(40), "{name}");

        assert_eq!(store.delete_before("a", 30).unwrap(), 1, "{name}");
        assert_eq!(store.delete_before("a", 1_000).unwrap(), 1, "{name}: the newest good one stays");
        assert_eq!(sequences(&*store, "a"), [40], "{name}");
        assert_eq!(store.delete_before("b", 1_000).unwrap(), 0, "{name}");
        assert_eq!(store.clear("a").unwrap(), 1, "{name}");
        assert_eq!(store.streams().unwrap(), ["A b/../c"], "{name}");
        assert_eq!((latest(&*store, "a"), latest(&*store, "A b/../c")), (None, Some(7)), "{name}");
    }
}

#[test]
fn a_rewind_leaves_the_abandoned_future_behind() {
    for (name, store) in stores(10) {
        [100, 200, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
        let found = store.rewind("s", 250).unwrap();
        assert_eq!((found.state.id.sequence, found.state.lineage), (200, line(1, 0, 200)), "{name}");
        assert_eq!(latest(&*store, "s"), Some(200), "{name}: at once, and not only with the next one");
        let error = store.save(&state("s", 400)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{name}: {error}");
        store.save(&on_line("s", 220, line(1, 0, 200))).unwrap();
        let entries: Vec<_> = store.list("s").unwrap().iter().map(|entry| (entry.sequence, entry.is_current)).collect();
        assert_eq!(entries, [(100, true), (200, true), (220, true), (300, false)], "{name}");
        assert_eq!(latest(&*store, "s"), Some(220), "{name}");
        let error = store.save(&on_line("s", 230, line(1, 0, 100))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{name}: {error}");

        // The way back, as long as it is there.
        let back = store.rewind("s", 300).unwrap();
        assert_eq!((back.state.id.sequence, back.state.lineage), (300, line(2, 0, 300)), "{name}");
        let current: Vec<_> =
            store.list("s").unwrap().iter().filter(|entry| entry.is_current).map(|entry| entry.sequence).collect();
        assert_eq!(current, [100, 300], "{name}: 200 and 220 are of the line between");
        assert_eq!(store.rewind("s", 99).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
        assert_eq!(store.rewind("none", 99).unwrap_err().kind(), ErrorKind::NotFound, "{name}");
    }
}

#[test]
fn what_a_rewind_left_behind_makes_room_first() {
    for (name, store) in stores(3) {
        [100, 200, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
        let lineage = store.rewind("s", 100).unwrap().state.lineage;
        store.save(&on_line("s", 110, lineage)).unwrap();
        assert_eq!(sequences(&*store, "s"), [100, 110, 300], "{name}");
        store.save(&on_line("s", 120, lineage)).unwrap();
        assert_eq!(sequences(&*store, "s"), [100, 110, 120], "{name}");
        store.save(&on_line("s", 130, lineage)).unwrap();
        assert_eq!(sequences(&*store, "s"), [110, 120, 130], "{name}");
    }
}

#[test]
fn sixteen_threads_save_and_look() {
    for (name, store) in stores(4) {
        let threads = (0..16).map(|thread| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                for number in 0..15_u64 {
                    let sequence = number * 16 + thread + 1;
                    store.save(&state("s", sequence)).unwrap();
                    let latest = store.latest("s").unwrap().unwrap();
                    assert!(latest.state.id.sequence >= sequence && latest.damaged.is_empty());
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!((latest(&*store, "s"), store.checkpoint_count("s").unwrap()), (Some(240), 4), "{name}");
    }
}

fn put(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) {
    let file = disk.open(path, OpenMode::Create).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

fn file_of(sequence: u64) -> std::path::PathBuf {
    Path::new("/d/base/s").join(Key { sequence, lineage: Lineage::FIRST }.name())
}

fn bytes_of(disk: &Arc<dyn Disk>, path: &Path) -> Vec<u8> {
    disk.open(path, OpenMode::Read).unwrap().read_whole(1 << 20).unwrap()
}

#[test]
fn a_damaged_newest_is_passed_over_aloud_and_the_last_good_one_stays() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    [100, 200, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    let whole = bytes_of(&disk, &file_of(300));
    let foreign = state("other", 300).serialize().unwrap();
    let older = bytes_of(&disk, &file_of(100));
    let mut flipped = whole.clone();
    flipped[90] ^= 1;
    for spoilt in [&b""[..], &whole[..whole.len() - 1], &[0; 500], &flipped, &foreign, &older, b"text"] {
        put(&disk, &file_of(300), spoilt);
        let latest = store.latest("s").unwrap().unwrap();
        assert_eq!((latest.state.id.sequence, latest.damaged.len()), (200, 1));
        let error = &latest.damaged[0].error;
        assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&*file_of(300))), "{error}");
        assert_eq!(store.get("s", 300).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(bytes_of(&disk, &file_of(300)), spoilt, "it is not touched");
    }
    assert_eq!(store.delete_before("s", 1_000).unwrap(), 1, "the oldest");
    assert_eq!(sequences(&store, "s"), [200, 300], "the newest good one, and what comes before it");
    disk.remove(&file_of(300)).unwrap();

    put(&disk, &file_of(200), b"");
    for error in [store.latest("s").unwrap_err(), store.delete_before("s", 1_000).unwrap_err()] {
        assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&*file_of(200))), "{error}");
    }
    assert_eq!(sequences(&store, "s"), [200], "what cannot be read is no reason to delete it");
    assert_eq!(store.rewind("s", 200).unwrap_err().kind(), ErrorKind::Corrupt);
    store.save(&state("s", 200)).unwrap();
    assert_eq!(latest(&store, "s"), Some(200), "and the next one mends it");
}

#[test]
fn a_damaged_first_of_a_new_line_falls_back_on_the_way_and_not_into_what_was_left() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    [100, 200, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    let lineage = store.rewind("s", 200).unwrap().state.lineage;
    put(&disk, &Path::new("/d/base/s").join(Key { sequence: 200, lineage }.name()), b"spoilt");
    assert_eq!(latest(&store, "s"), Some(100));
}

fn file_on(sequence: u64, lineage: Lineage) -> std::path::PathBuf {
    Path::new("/d/base/s").join(Key { sequence, lineage }.name())
}

#[test]
fn what_leads_to_the_newest_good_one_is_not_deleted() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    [100, 200].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    let first = store.rewind("s", 200).unwrap().state.lineage;
    store.save(&on_line("s", 300, first)).unwrap();
    let second = store.rewind("s", 300).unwrap().state.lineage;
    assert_eq!((first, second), (line(1, 0, 200), line(2, 1, 300)));
    put(&disk, &file_on(300, second), b"spoilt");
    put(&disk, &file_on(200, first), b"spoilt");
    assert_eq!(latest(&store, "s"), Some(100));
    assert_eq!(store.delete_before("s", 250).unwrap(), 0, "only the damaged 200 knows where line 1 came from");
    assert_eq!(latest(&store, "s"), Some(100));
    assert_eq!(store.delete_before("s", 1_000).unwrap(), 0);
    assert_eq!(latest(&store, "s"), Some(100));
    // Behind a good one they go as others do.
    store.save(&on_line("s", 400, second)).unwrap();
    assert_eq!(store.delete_before("s", 1_000).unwrap(), 3);
    assert_eq!(sequences(&store, "s"), [400]);
}

#[test]
fn a_watermark_goes_back_with_a_rewind_only() {
    let at = |sequence, watermark_ns| CheckpointState { watermark_ns, ..state("s", sequence) };
    for (name, store) in stores(10) {
        store.save(&at(100, 50)).unwrap();
        store.save(&at(200, 70)).unwrap();
        for (sequence, watermark) in [(300, 69), (300, 0), (200, 69)] {
            let error = store.save(&at(sequence, watermark)).unwrap_err();
            assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("watermark"), "{name}: {error}");
        }
        assert_eq!(sequences(&*store, "s"), [100, 200], "{name}");
        store.save(&at(150, 60)).unwrap();
        store.save(&at(200, 70)).unwrap();
        store.save(&at(300, 70)).unwrap();
        let lineage = store.rewind("s", 100).unwrap().state.lineage;
        let on_line = |watermark_ns| CheckpointState { lineage, ..at(120, watermark_ns) };
        assert_eq!(store.save(&on_line(49)).unwrap_err().kind(), ErrorKind::Invalid, "{name}");
        store.save(&on_line(55)).unwrap();
        assert_eq!(latest(&*store, "s"), Some(120), "{name}");
    }
}

#[test]
fn what_a_damaged_newest_said_binds_nobody() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap().max_per_stream(2);
    [100, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    put(&disk, &file_of(300), b"spoilt");
    store.save(&state("s", 200)).unwrap();
    assert_eq!((latest(&store, "s"), sequences(&store, "s")), (Some(200), vec![200, 300]));
    let error = store.save(&CheckpointState { watermark_ns: 199_999, ..state("s", 250) }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "that of the newest good one does: {error}");
    let one = files_on(&disk).unwrap().max_per_stream(1);
    one.save(&state("s", 250)).unwrap();
    assert_eq!(sequences(&one, "s"), [250]);
}

#[test]
fn the_newest_good_one_makes_no_room_for_an_older_one() {
    for (name, store) in stores(1) {
        store.save(&state("s", 200)).unwrap();
        let error = store.save(&state("s", 100)).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("200"), "{name}: {error}");
        assert_eq!(sequences(&*store, "s"), [200], "{name}");
        store.save(&CheckpointState { event_count: 99, ..state("s", 200) }).unwrap();
        assert_eq!(store.get("s", 200).unwrap().unwrap().event_count, 99, "{name}: the same sequence replaces");
    }
    // Where there is room for two, the newest stays, although it comes before what is damaged.
    let disk = memory_disk();
    let store = files_on(&disk).unwrap().max_per_stream(2);
    [200, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    put(&disk, &file_of(300), b"spoilt");
    store.save(&state("s", 100)).unwrap();
    assert_eq!((latest(&store, "s"), sequences(&store, "s")), (Some(200), vec![100, 200]));
}

#[test]
fn one_that_is_too_long_to_be_read_is_passed_over_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = FileCheckpointStore::open(dir.path()).unwrap();
    [100, 200].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    let path = dir.path().join("s").join(Key { sequence: 200, lineage: Lineage::FIRST }.name());
    let file = crate::disk::RealDisk.open(&path, OpenMode::Write).unwrap();
    file.set_len(super::bytes::BYTES_MAX + 1).unwrap();
    let latest = store.latest("s").unwrap().unwrap();
    assert_eq!((latest.state.id.sequence, latest.damaged.len()), (100, 1));
    assert_eq!(latest.damaged[0].error.file(), Some(&*path));
    assert_eq!(store.at_or_before("s", 200).unwrap().state.id.sequence, 100);
    store.save(&state("s", 300)).unwrap();
}

#[test]
fn a_rewind_to_a_damaged_one_goes_to_the_good_one_before_aloud() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    [100, 200, 300].iter().for_each(|sequence| store.save(&state("s", *sequence)).unwrap());
    put(&disk, &file_of(200), b"spoilt");
    let found = store.rewind("s", 200).unwrap();
    assert_eq!((found.state.id.sequence, found.damaged.len(), found.damaged[0].sequence), (100, 1, 200));
    assert_eq!(found.damaged[0].error.file(), Some(&*file_of(200)));
    assert_eq!(latest(&store, "s"), Some(100));
}

#[test]
fn a_newer_version_is_not_passed_over() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    store.save(&state("s", 100)).unwrap();
    let mut newer = state("s", 200).serialize().unwrap();
    newer[8] = 2;
    newer.truncate(newer.len() - 4);
    put(&disk, &file_of(200), &sealed(newer));
    let error = store.latest("s").unwrap_err();
    assert_eq!((error.kind(), error.file()), (ErrorKind::UnsupportedVersion, Some(&*file_of(200))));
}

#[test]
fn files_of_others_are_named_and_leftovers_taken_away() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    store.save(&state("s", 100)).unwrap();
    let left = file_of(200).with_extension("checkpoint.new");
    put(&disk, &left, b"half");
    assert_eq!(sequences(&store, "s"), [100]);
    store.save(&state("s", 300)).unwrap();
    assert!(disk.open(&left, OpenMode::Read).is_err(), "whoever was killed has left it");
    for stray in ["notes.txt", "00000000000000000300-0-0-0.checkpoint.bak", "300.checkpoint"] {
        let path = Path::new("/d/base/s").join(stray);
        put(&disk, &path, b"");
        for error in [store.latest("s").unwrap_err(), store.save(&state("s", 400)).unwrap_err()] {
            assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&*path)), "{error}");
        }
        disk.remove(&path).unwrap();
    }
    disk.create_dir(Path::new("/d/base/Not Escaped")).unwrap();
    assert_eq!(files_on(&disk).err().unwrap().kind(), ErrorKind::Corrupt);
}

#[test]
fn names_stay_in_their_directory_and_reading_makes_none() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    assert!(store.latest("s").unwrap().is_none() && store.streams().unwrap().is_empty());
    assert_eq!(store.delete_before("s", 9).unwrap() + store.clear("s").unwrap(), 0);
    assert!(disk.list(Path::new("/d")).unwrap().is_empty(), "looking has made something");
    for stream in ["../../x", "/abs", "a/b", "..", ".hidden", "Ann", "ann", "nul\0"] {
        store.save(&state(stream, 1)).unwrap();
        assert_eq!(latest(&store, stream), Some(1), "{stream}");
    }
    assert_eq!(disk.list(Path::new("/d/base")).unwrap().len(), 8, "each has its own");
    assert_eq!(disk.list(Path::new("/d")).unwrap().len(), 1);
    assert_eq!(store.streams().unwrap().len(), 8);
}

#[test]
fn a_lock_that_others_keep_is_told() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap().patience(Duration::from_millis(5));
    store.save(&state("s", 1)).unwrap();
    let held = disk.open(Path::new("/d/base/s/.lock"), OpenMode::Write).unwrap();
    assert!(held.try_lock().unwrap());
    assert_eq!(store.save(&state("s", 2)).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(latest(&store, "s"), Some(1), "reading needs no lock");
    store.save(&state("t", 1)).unwrap();
    drop(held);
    store.save(&state("s", 2)).unwrap();
}

#[test]
fn a_directory_that_somebody_took_away_is_made_again() {
    let disk = memory_disk();
    let store = files_on(&disk).unwrap();
    store.save(&state("s", 1)).unwrap();
    let dir = Path::new("/d/base/s");
    disk.list(dir).unwrap().iter().for_each(|path| disk.remove(path).unwrap());
    disk.remove_dir(dir).unwrap();
    assert!(store.latest("s").unwrap().is_none());
    store.save(&state("s", 2)).unwrap();
    assert_eq!(latest(&store, "s"), Some(2));
}

/// A clock that a test sets.
#[derive(Default)]
struct SetClock(std::sync::atomic::AtomicU64);

impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn sleep(&self, _: Duration) {}
}

type Sum = Arc<OperatorState<u64>>;
type Kept = Arc<InMemoryCheckpointStore>;

/// A manager of the streams `a` and `b`, with an operator for `a`.
fn manager(store: &Kept, interval: u64) -> (CheckpointManager<Kept>, Sum) {
    let (manager, sum) = (CheckpointManager::new(Arc::clone(store), interval), Sum::default());
    manager.register("a", "sum", Arc::clone(&sum)).unwrap();
    (manager, sum)
}

fn process(manager: &CheckpointManager<Kept>, sum: &Sum, sequences: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    let event = |sequence: &u64| {
        sum.with(|sum| *sum += sequence);
        manager.on_event("a", *sequence, sequence * 10).unwrap()
    };
    sequences.filter(event).collect()
}

#[test]
fn each_stream_has_its_own_schedule_which_goes_on_after_a_restart() {
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let (first, sum) = manager(&store, 10);
    assert!(first.recover("a").unwrap().is_none());
    assert_eq!(process(&first, &sum, 1..=25), [10, 20]);
    assert!(!first.on_event("b", 9, 0).unwrap(), "its own distance");
    assert_eq!((first.total_checkpoints("a"), first.total_checkpoints("b")), (2, 0));
    // Killed here: what came behind 20 is gone.
    let (second, sum) = manager(&store, 10);
    let recovered = second.recover("a").unwrap().unwrap();
    assert_eq!((recovered.last, recovered.next), (20, Some(21)));
    assert!(recovered.damaged.is_empty() && recovered.new_operators.is_empty() && recovered.unclaimed.is_empty());
    assert_eq!(sum.with(|sum| *sum), (1..=20).sum::<u64>(), "the checkpoint really holds the state");
    assert_eq!(process(&second, &sum, 21..=32), [30], "ten further on, not at once and not at ten");
    assert_eq!(second.total_checkpoints("a"), 1);
    let state = store.get("a", 30).unwrap().unwrap();
    assert_eq!((state.event_count, state.watermark_ns), (30, 300));
    assert!(state.id.created_at.timestamp() > 1_600_000_000);
}

#[test]
fn events_are_counted_and_not_sequence_numbers() {
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let manager = CheckpointManager::new(Arc::clone(&store), 1_000);
    for sequence in [5_000, 5_500, 5_999, 6_100] {
        let taken = manager.on_event("a", sequence, 0).unwrap();
        assert_eq!(taken, sequence == 5_999, "{sequence}: the distance begins where the stream does");
    }
    assert_eq!(store.get("a", 5_999).unwrap().unwrap().event_count, 3);
    assert_eq!(manager.event_count("a"), 4);
    assert!(manager.checkpoint("a").unwrap());
    assert!(!manager.checkpoint("a").unwrap(), "nothing has come since");
    let again = CheckpointManager::new(Arc::clone(&store), 1_000);
    again.recover("a").unwrap();
    again.on_event("a", 6_101, 0).unwrap();
    assert_eq!(again.event_count("a"), 5);
    let never = CheckpointManager::new(Arc::new(InMemoryCheckpointStore::new(1)), 0);
    assert!(!never.on_event("a", 0, 0).unwrap() && !never.on_event("a", u64::MAX, 0).unwrap());
    assert!(never.checkpoint("a").unwrap());
    assert_eq!(never.recover("a").unwrap().unwrap().next, None);
}

#[test]
fn time_takes_checkpoints_too() {
    let (store, clock) = (Arc::new(InMemoryCheckpointStore::new(10)), Arc::new(SetClock::default()));
    let set = |seconds| clock.0.store(seconds, std::sync::atomic::Ordering::SeqCst);
    let manager = CheckpointManager::new(Arc::clone(&store), 0)
        .time_interval(Duration::from_secs(5))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>);
    set(100);
    assert!(!manager.on_event("a", 1, 0).unwrap(), "the time begins with the stream");
    set(104);
    assert!(!manager.on_event("a", 2, 0).unwrap());
    set(105);
    assert!(manager.on_event("a", 3, 0).unwrap());
    assert!(!manager.on_event("a", 4, 0).unwrap());
    assert_eq!(manager.checkpoint_due().unwrap(), 0);
    set(110);
    assert_eq!(manager.checkpoint_due().unwrap(), 1, "nothing need come");
    set(200);
    assert_eq!(manager.checkpoint_due().unwrap(), 0, "nothing has come");
    assert_eq!(sequences(&*store, "a"), [3, 4]);
    manager.on_event("a", 5, 0).unwrap();
    manager.on_event("b", 7, 0).unwrap();
    assert_eq!(manager.close().unwrap(), 1, "b; an orderly end");
    assert_eq!((latest(&*store, "a"), latest(&*store, "b")), (Some(5), Some(7)));
    assert_eq!(store.get("a", 5).unwrap().unwrap().id.created_at.timestamp(), 1_700_000_000);
}

#[test]
fn a_stream_that_was_not_recovered_does_not_begin_anew() {
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let (first, sum) = manager(&store, 10);
    process(&first, &sum, 1..=10);
    let (second, _) = manager(&store, 10);
    let error = second.on_event("a", 11, 0).unwrap_err();
    assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("recover"), "{error}");
    second.recover("a").unwrap();
    for again in [10, 3] {
        let error = second.on_event("a", again, 0).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("rewind"), "{error}");
    }
    assert_eq!(second.event_count("a"), 10, "what is refused is not counted");
    let late = second.register("a", "late", Sum::default()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Invalid, "it would lack what came before");
}

#[test]
fn a_watermark_never_goes_back_but_by_a_rewind() {
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let manager = CheckpointManager::new(Arc::clone(&store), 1);
    for (sequence, watermark) in [(1, 50), (2, 40), (3, 60), (4, 10)] {
        manager.on_event("a", sequence, watermark).unwrap();
    }
    let watermark = |sequence| store.get("a", sequence).unwrap().unwrap().watermark_ns;
    assert_eq!([1, 2, 3, 4].map(watermark), [50, 50, 60, 60]);
    manager.recover("a").unwrap();
    manager.on_event("a", 5, 20).unwrap();
    assert_eq!(watermark(5), 60, "also after a restart");
    manager.rewind("a", 2).unwrap();
    manager.on_event("a", 3, 55).unwrap();
    assert_eq!(watermark(3), 55);
}

#[test]
fn a_manager_rewinds_state_and_schedule() {
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let (manager, sum) = manager(&store, 10);
    process(&manager, &sum, 1..=35);
    let recovered = manager.rewind("a", 19).unwrap();
    assert_eq!((recovered.last, recovered.next, sum.with(|sum| *sum)), (10, Some(11), (1..=10).sum::<u64>()));
    assert_eq!(process(&manager, &sum, 11..=20), [20]);
    assert_eq!(latest(&*store, "a"), Some(20), "not 30, which was left behind");
    assert_eq!(manager.recover("a").unwrap().unwrap().last, 20);
    // One who does not know of it is refused, and cannot put the abandoned future before the new line.
    let (zombie, sum) = self::manager(&store, 10);
    zombie.recover("a").unwrap();
    process(&zombie, &sum, 21..=25);
    manager.rewind("a", 10).unwrap();
    let refused: Vec<_> = (26..=31).filter_map(|sequence| zombie.on_event("a", sequence, 0).err()).collect();
    assert!(refused.len() == 2 && refused.iter().all(|error| error.kind() == ErrorKind::Fenced), "{refused:?}");
    assert_eq!(latest(&*store, "a"), Some(10));
}

#[test]
fn operators_that_fail_leave_no_checkpoint_that_lies() {
    struct Moody(std::sync::atomic::AtomicU8);
    impl CheckpointOperator for Moody {
        fn snapshot(&self) -> crate::error::Result<Vec<u8>> {
            match self.0.load(std::sync::atomic::Ordering::SeqCst) {
                1 => Err(Error::user("not now")),
                2 => panic!("ouch"),
                _ => Ok(b"fine".to_vec()),
            }
        }
        fn restore(&self, state: Option<&[u8]>) -> crate::error::Result<()> {
            match self.0.load(std::sync::atomic::Ordering::SeqCst) {
                0 => Ok(()),
                _ => panic!("cannot take {state:?}"),
            }
        }
    }
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let (manager, moody) = (CheckpointManager::new(Arc::clone(&store), 2), Arc::new(Moody(0.into())));
    let mood = |mood| moody.0.store(mood, std::sync::atomic::Ordering::SeqCst);
    manager.register("a", "moody", Arc::clone(&moody)).unwrap();
    assert!(manager.register("a", "moody", Sum::default()).is_err(), "twice");
    manager.on_event("a", 1, 0).unwrap();
    for (number, said) in [(1, "not now"), (2, "ouch")] {
        mood(number);
        let error = manager.on_event("a", u64::from(number) + 1, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        assert!(error.to_string().contains("moody") && error.to_string().contains(said), "{error}");
    }
    assert_eq!((manager.event_count("a"), store.checkpoint_count("a").unwrap()), (3, 0), "counted, not taken");
    mood(0);
    assert!(manager.on_event("a", 4, 0).unwrap(), "the next one tries again");
    mood(1);
    assert_eq!(manager.recover("a").unwrap_err().kind(), ErrorKind::User);
    assert!(manager.on_event("a", 5, 0).is_err(), "it does not go on from half a state");
    mood(0);
    assert_eq!(manager.recover("a").unwrap().unwrap().next, Some(5));
}

#[test]
fn a_stream_whose_operators_did_not_begin_takes_no_event() {
    struct Reset(std::sync::atomic::AtomicBool);
    impl CheckpointOperator for Reset {
        fn snapshot(&self) -> crate::error::Result<Vec<u8>> {
            Ok(Vec::new())
        }
        fn restore(&self, _: Option<&[u8]>) -> crate::error::Result<()> {
            match self.0.load(std::sync::atomic::Ordering::SeqCst) {
                true => Err(Error::user("not now")),
                false => Ok(()),
            }
        }
    }
    let (manager, reset) = (CheckpointManager::new(InMemoryCheckpointStore::new(3), 1), Arc::new(Reset(true.into())));
    manager.register("a", "reset", Arc::clone(&reset)).unwrap();
    assert_eq!(manager.recover("a").unwrap_err().kind(), ErrorKind::User);
    for refused in [manager.on_event("a", 1, 0).map(drop), manager.set_metadata("a", "host", "one")] {
        let error = refused.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains("recover"), "{error}");
    }
    assert_eq!(manager.event_count("a"), 0);
    reset.0.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(manager.recover("a").unwrap().is_none());
    assert!(manager.on_event("a", 1, 0).unwrap());
}

#[test]
fn what_is_set_behind_the_last_event_is_in_the_last_checkpoint() {
    type Manager = CheckpointManager<Kept>;
    let sets: [fn(&Manager) -> crate::error::Result<()>; 4] = [
        |manager| manager.set_source_offset("a", "feed", 8),
        |manager| manager.set_metadata("a", "host", "one"),
        |manager| manager.set_operator_state("a", "by hand", b"x".to_vec()),
        |manager| manager.forget_operator("a", "gone").map(|was_there| assert!(was_there)),
    ];
    for (number, set) in sets.iter().enumerate() {
        let store = Arc::new(InMemoryCheckpointStore::new(3));
        let manager = CheckpointManager::new(Arc::clone(&store), 1);
        manager.set_operator_state("a", "gone", b"y".to_vec()).unwrap();
        assert!(!manager.checkpoint("a").unwrap(), "no event has come of which it could be");
        assert!(manager.on_event("a", 7, 0).unwrap());
        let before = store.get("a", 7).unwrap().unwrap();
        set(&manager).unwrap();
        assert_eq!(manager.close().unwrap(), 1, "{number}");
        let after = store.get("a", 7).unwrap().unwrap();
        assert_eq!((sequences(&*store, "a"), after.event_count), (vec![7], 1), "{number}");
        let of = |state: &CheckpointState| {
            (state.source_offsets.clone(), state.metadata.clone(), state.operator_states.clone())
        };
        assert_ne!(of(&before), of(&after), "{number}");
    }
    let store = Arc::new(InMemoryCheckpointStore::new(3));
    let manager = CheckpointManager::new(Arc::clone(&store), 1);
    manager.set_metadata("a", "host", "one").unwrap();
    assert_eq!((manager.close().unwrap(), store.checkpoint_count("a").unwrap()), (0, 0), "no event has come");
}

#[test]
fn operators_that_come_and_go_are_told() {
    let store = Arc::new(InMemoryCheckpointStore::new(10));
    let (first, sum) = manager(&store, 10);
    first.set_operator_state("a", "by hand", b"x".to_vec()).unwrap();
    assert!(first.set_operator_state("a", "sum", Vec::new()).is_err(), "it is asked for its state");
    first.set_source_offset("a", "feed", 4).unwrap();
    assert!(first.set_source_offset("a", "feed", 3).is_err(), "only a rewind goes back");
    assert!(first.set_source_offset("a", "feed", Offset::Latest).is_err(), "no place");
    first.set_metadata("a", "host", "one").unwrap();
    process(&first, &sum, 1..=10);
    let second = CheckpointManager::new(Arc::clone(&store), 10);
    second.register("a", "max", Sum::default()).unwrap();
    let recovered = second.recover("a").unwrap().unwrap();
    assert_eq!(
        (recovered.new_operators, recovered.unclaimed),
        (vec!["max".into()], vec!["by hand".into(), "sum".into()])
    );
    assert_eq!(
        (&recovered.state.source_offsets["feed"], &*recovered.state.metadata["host"]),
        (&Offset::Sequence(4), "one")
    );
    assert!(second.forget_operator("a", "by hand").unwrap() && !second.forget_operator("a", "other").unwrap());
    let third = CheckpointManager::new(Arc::clone(&store), 10);
    third.register("a", "sum", Sum::default()).unwrap();
    assert!(third.forget_operator("a", "sum").is_err(), "not before it is recovered");
    assert!(third.register("a", "sum", Sum::default()).is_err(), "what is refused has changed nothing");
    for sequence in 11..=20 {
        second.on_event("a", sequence, 0).unwrap();
    }
    let state = store.get("a", 20).unwrap().unwrap();
    assert_eq!(state.operator_states.keys().collect::<Vec<_>>(), ["max", "sum"], "what nobody claims is carried along");
    assert_eq!(state.source_offsets["feed"], Offset::Sequence(4));
}

#[test]
fn a_store_that_fails_keeps_the_stream_going() {
    struct Fails<S>(S, std::sync::atomic::AtomicBool);
    impl<S: CheckpointStore> CheckpointStore for Fails<S> {
        fn save(&self, state: &CheckpointState) -> crate::error::Result<()> {
            match self.1.load(std::sync::atomic::Ordering::SeqCst) {
                true => Err(Error::new(ErrorKind::Full, "no room")),
                false => self.0.save(state),
            }
        }
        fn latest(&self, stream: &str) -> crate::error::Result<Option<LatestCheckpoint>> {
            self.0.latest(stream)
        }
        fn get(&self, stream: &str, sequence: u64) -> crate::error::Result<Option<CheckpointState>> {
            self.0.get(stream, sequence)
        }
        fn list(&self, stream: &str) -> crate::error::Result<Vec<CheckpointEntry>> {
            self.0.list(stream)
        }
        fn delete_before(&self, stream: &str, sequence: u64) -> crate::error::Result<u64> {
            self.0.delete_before(stream, sequence)
        }
        fn streams(&self) -> crate::error::Result<Vec<String>> {
            self.0.streams()
        }
        fn clear(&self, stream: &str) -> crate::error::Result<u64> {
            self.0.clear(stream)
        }
    }
    let manager = CheckpointManager::new(Fails(InMemoryCheckpointStore::new(3), true.into()), 2);
    manager.on_event("a", 1, 0).unwrap();
    assert_eq!(manager.on_event("a", 2, 0).unwrap_err().kind(), ErrorKind::Full);
    manager.store().1.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(manager.on_event("a", 3, 0).unwrap());
    assert_eq!((manager.total_checkpoints("a"), manager.event_count("a")), (1, 3));
}

#[test]
fn sixteen_streams_do_not_mix() {
    let store = Arc::new(InMemoryCheckpointStore::new(100));
    let manager = Arc::new(CheckpointManager::new(Arc::clone(&store), 7));
    let threads = (0..16_u64).map(|number| {
        let manager = Arc::clone(&manager);
        thread::spawn(move || {
            let (stream, sum) = (format!("stream {number}"), Sum::default());
            manager.register(&stream, "sum", Arc::clone(&sum)).unwrap();
            for sequence in 1..=100 {
                sum.with(|sum| *sum += sequence * number);
                manager.on_event(&stream, sequence, 0).unwrap();
            }
            assert_eq!(manager.total_checkpoints(&stream), 14);
            assert_eq!(manager.recover(&stream).unwrap().unwrap().last, 98);
            assert_eq!(sum.with(|sum| *sum), (1..=98).sum::<u64>() * number);
        })
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(store.streams().unwrap().len(), 16);
}
