//! A shard against a plain model that keeps every version for ever, under random writes, pins, scans and write-backs;
//! and the state file against damage.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;

use super::backend::{StateBackend, StateBatch, StateKey};
use super::snapshot::SnapshotBackend;
use super::{Shard, Tables};
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::error::ErrorKind;
use crate::ids::{Epoch, Lsn, ShardId, StoreId, TableId};
use crate::view::{Pin, View};
use crate::wake::{Arc, AtomicU64, Ordering};

const TABLE: TableId = TableId(16);
const STORE: StoreId = StoreId([3; 16]);

fn backend(disk: &Arc<MemoryDisk>) -> SnapshotBackend {
    let salt = AtomicU64::new(0);
    let dir = PathBuf::from("/");
    SnapshotBackend::new(Arc::clone(disk) as _, dir, STORE, Epoch(1), move || salt.fetch_add(1, Ordering::Relaxed))
}

/// Every version of every key.
#[derive(Default)]
struct Model(BTreeMap<Vec<u8>, Vec<(u64, Option<u8>)>>);

impl Model {
    fn at(&self, lsn: u64) -> BTreeMap<Vec<u8>, u8> {
        let newest = |versions: &Vec<(u64, Option<u8>)>| versions.iter().rev().find(|v| v.0 <= lsn).and_then(|v| v.1);
        self.0.iter().filter_map(|(key, versions)| Some((key.clone(), newest(versions)?))).collect()
    }
}

fn rows_of(shard: &Shard, start: Bound<&[u8]>, end: Bound<&[u8]>, limit: usize, lsn: u64) -> BTreeMap<Vec<u8>, u8> {
    let rows = shard.scan(start, end, limit, Lsn(lsn)).unwrap();
    rows.into_iter().map(|(key, value)| (key, value[0])).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, Option<u8>),
    Publish,
    Pin,
    Unpin(usize),
    WriteBack,
    Scan(u8, u8, usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..12u8, proptest::option::weighted(0.7, any::<u8>())).prop_map(|(key, value)| Op::Put(key, value)),
        2 => Just(Op::Publish),
        1 => Just(Op::Pin),
        1 => (0..4usize).prop_map(Op::Unpin),
        1 => Just(Op::WriteBack),
        2 => (0..12u8, 0..12u8, 1..14usize).prop_map(|(start, end, limit)| Op::Scan(start, end, limit)),
    ];
    proptest::collection::vec(op, 1..120)
}

proptest! {
    #[test]
    fn every_state_that_can_be_asked_for_is_right(ops in ops()) {
        let view = Arc::new(View::default());
        let tables = Tables::new(Arc::new(backend(&Arc::default())), Arc::clone(&view));
        let shard = tables.shard(TABLE, ShardId(0));
        let (mut model, mut lsn, mut pins) = (Model::default(), 0u64, Vec::<Pin>::new());
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    lsn += 1;
                    let old = model.0.entry(vec![key]).or_default();
                    let before = old.last().map_or(0, |version| version.0);
                    let horizon = view.horizon();
                    prop_assert_eq!(shard.turn().changed_since(&[key], horizon), before > horizon.0);
                    old.push((lsn, value));
                    shard.turn().put(vec![key], value.map(|value| Bytes::from(vec![value])), Lsn(lsn));
                }
                Op::Publish => view.publish(Lsn(lsn)),
                Op::Pin => pins.push(view.pin(|| Lsn(lsn))),
                Op::Unpin(at) if at < pins.len() => drop(pins.remove(at)),
                Op::Unpin(_) => {}
                Op::WriteBack => {
                    view.publish(Lsn(lsn));
                    tables.write_back(Lsn(lsn), StateBatch::new()).unwrap();
                }
                Op::Scan(start, end, limit) => {
                    let (start, end) = ([start], [end]);
                    let found = rows_of(&shard, Bound::Included(&start), Bound::Excluded(&end), limit, lsn);
                    let inside = |key: &Vec<u8>| key[..] >= start[..] && key[..] < end[..];
                    let expected: BTreeMap<_, _> =
                        model.at(lsn).into_iter().filter(|(key, _)| inside(key)).take(limit).collect();
                    prop_assert_eq!(found, expected);
                }
            }
            for at in pins.iter().map(|pin| pin.lsn().0).chain([view.visible().0, lsn]) {
                let expected = model.at(at);
                prop_assert_eq!(&rows_of(&shard, Bound::Unbounded, Bound::Unbounded, usize::MAX, at), &expected);
                for key in 0..12u8 {
                    let found = shard.get(&[key], Lsn(at)).unwrap().map(|value| value[0]);
                    prop_assert_eq!(found, expected.get(&vec![key]).copied());
                }
            }
        }
        // With nobody looking at the past, a write-back leaves nothing in memory.
        pins.clear();
        view.publish(Lsn(lsn));
        tables.write_back(Lsn(lsn), StateBatch::new()).unwrap();
        prop_assert_eq!(shard.dirty_rows(), 0);
        prop_assert_eq!(rows_of(&shard, Bound::Unbounded, Bound::Unbounded, usize::MAX, lsn), model.at(lsn));
    }
}

#[test]
fn a_row_of_the_past_conflicts_even_after_a_write_back() {
    let view = Arc::new(View::default());
    let tables = Tables::new(Arc::new(backend(&Arc::default())), Arc::clone(&view));
    let shard = tables.shard(TABLE, ShardId(0));
    let reader = view.pin(|| Lsn(0));
    shard.turn().put(b"k".to_vec(), None, Lsn(1));
    view.publish(Lsn(1));
    tables.write_back(Lsn(1), StateBatch::new()).unwrap();
    assert!(shard.turn().changed_since(b"k", reader.lsn()));
    assert!(shard.turn().range_changed_since(Bound::Unbounded, Bound::Unbounded, reader.lsn()));
}

#[test]
fn the_state_file_comes_back_and_every_flipped_bit_is_seen() {
    let disk = Arc::new(MemoryDisk::default());
    let first = backend(&disk);
    let mut batch = StateBatch::new();
    for n in 0..50u8 {
        batch.insert(StateKey::of(TABLE, ShardId(0), &[n]), Some(Bytes::from(vec![n; 9])));
    }
    first.apply(&batch, Lsn(7)).unwrap();
    let name = first.current().unwrap();
    let again = backend(&disk);
    again.load(name).unwrap();
    assert_eq!(again.applied_lsn(), Lsn(7));
    assert_eq!(again.scan(Bound::Unbounded, Bound::Unbounded, usize::MAX).unwrap().len(), 50);

    let file = disk.open(&name.path(&PathBuf::from("/")), OpenMode::Write).unwrap();
    let whole = file.read_whole(1 << 20).unwrap();
    for bit in 0..whole.len() * 8 {
        let flipped = [whole[bit / 8] ^ (1 << (bit % 8))];
        file.write_all_at(&flipped, (bit / 8) as u64).unwrap();
        let error = again.load(name).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion), "bit {bit}: {error}");
        file.write_all_at(&whole[bit / 8..=bit / 8], (bit / 8) as u64).unwrap();
    }
    for len in 0..whole.len() as u64 {
        file.set_len(len).unwrap();
        assert_eq!(again.load(name).unwrap_err().kind(), ErrorKind::Corrupt, "cut to {len}");
        file.write_all_at(&whole, 0).unwrap();
    }
    again.load(name).unwrap();
}

#[test]
fn a_state_that_cannot_be_written_changes_nothing() {
    let disk = Arc::new(MemoryDisk::default());
    let state = backend(&disk);
    let row = |value: u8| StateBatch::from([(StateKey::of(TABLE, ShardId(0), b"k"), Some(Bytes::from(vec![value])))]);
    state.apply(&row(1), Lsn(1)).unwrap();
    let nowhere = SnapshotBackend::new(Arc::clone(&disk) as _, PathBuf::from("/none"), STORE, Epoch(1), || 0);
    assert_eq!(nowhere.apply(&row(2), Lsn(2)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((nowhere.applied_lsn(), nowhere.current()), (Lsn(0), None));
    assert_eq!(disk.list(&PathBuf::from("/")).unwrap().len(), 1);
}
