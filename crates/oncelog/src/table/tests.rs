//! A shard against a plain model that keeps every version for ever, under random writes, pins, scans and write-backs;
//! and the table file against damage.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proptest::prelude::*;

use super::backend::{Direction, StateKey, TableBackend, TableBatch, Visit};
use super::file::BlockFile;
use super::{ScanRange, Shard, TableFileName, TableHome, TableRoot, TableStore, Tables};
use crate::disk::{Disk, DiskFile, FileIdentity, MemoryDisk, OpenMode, SyncSite};
use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, Lsn, ShardId, StoreId, TableId};
use crate::view::{Pin, View};
use crate::wake::{Arc, AtomicU64, Ordering};

const TABLE: TableId = TableId(16);
const STORE: StoreId = StoreId([3; 16]);
const NAME: TableFileName = TableFileName { epoch: Epoch(1), salt: 77 };

fn home(disk: &Arc<MemoryDisk>) -> TableHome {
    TableHome { disk: Arc::clone(disk) as _, dir: PathBuf::from("/"), store: STORE, memory: 1 << 20 }
}

fn made(disk: &Arc<MemoryDisk>) -> TableStore {
    TableStore::create(&home(disk), NAME).unwrap()
}

/// As after a crash before the first state was confirmed.
fn again(disk: &Arc<MemoryDisk>) -> TableStore {
    let _ = disk.remove(&NAME.path(&PathBuf::from("/")));
    made(disk)
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

fn rows_of(shard: &Shard, range: ScanRange<'_>, lsn: u64) -> Vec<(Vec<u8>, u8)> {
    let rows = shard.scan(range, Lsn(lsn)).unwrap();
    rows.into_iter().map(|(key, value)| (key, value[0])).collect()
}

#[derive(Clone, Debug)]
enum Op {
    Put(u8, Option<u8>),
    Publish,
    Pin,
    Unpin(usize),
    WriteBack,
    Scan(u8, u8, usize, bool),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0..12u8, proptest::option::weighted(0.7, any::<u8>())).prop_map(|(key, value)| Op::Put(key, value)),
        2 => Just(Op::Publish),
        1 => Just(Op::Pin),
        1 => (0..4usize).prop_map(Op::Unpin),
        1 => Just(Op::WriteBack),
        2 => (0..12u8, 0..12u8, 0..14usize, any::<bool>()).prop_map(|(start, end, limit, up)| {
            Op::Scan(start, end, limit, up)
        }),
    ];
    proptest::collection::vec(op, 1..120)
}

proptest! {
    #[test]
    fn every_state_that_can_be_asked_for_is_right(ops in ops()) {
        let view = Arc::new(View::default());
        let tables = Tables::new(Arc::new(made(&Arc::default())), Arc::clone(&view));
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
                    tables.write_back(Lsn(lsn), TableBatch::new()).unwrap();
                }
                Op::Scan(start, end, limit, up) => {
                    let (start, end) = ([start], [end]);
                    let direction = if up { Direction::Up } else { Direction::Down };
                    let range = ScanRange::between(Bound::Included(&start), Bound::Excluded(&end));
                    let found = rows_of(&shard, ScanRange { direction, limit, ..range }, lsn);
                    let inside = |key: &Vec<u8>| key[..] >= start[..] && key[..] < end[..];
                    let mut expected: Vec<_> = model.at(lsn).into_iter().filter(|(key, _)| inside(key)).collect();
                    if !up {
                        expected.reverse();
                    }
                    expected.truncate(limit);
                    prop_assert_eq!(found, expected);
                }
            }
            for at in pins.iter().map(|pin| pin.lsn().0).chain([view.visible().0, lsn]) {
                let expected = model.at(at);
                let everything: Vec<_> = expected.clone().into_iter().collect();
                prop_assert_eq!(rows_of(&shard, ScanRange::ALL, at), everything);
                for key in 0..12u8 {
                    let found = shard.get(&[key], Lsn(at)).unwrap().map(|value| value[0]);
                    prop_assert_eq!(found, expected.get(&vec![key]).copied());
                }
            }
        }
        // With nobody looking at the past, a write-back leaves nothing in memory.
        pins.clear();
        view.publish(Lsn(lsn));
        tables.write_back(Lsn(lsn), TableBatch::new()).unwrap();
        prop_assert_eq!(shard.dirty_rows(), 0);
        prop_assert_eq!(rows_of(&shard, ScanRange::ALL, lsn), model.at(lsn).into_iter().collect::<Vec<_>>());
    }
}

/// A frame may be durable and applied before the thread that enqueued it has put its rows: it still has the turn.
#[test]
fn a_write_waits_for_rows_whose_frame_has_its_place() {
    let disk = Arc::new(MemoryDisk::default());
    let backend = Arc::new(made(&disk));
    let tables = Arc::new(Tables::new(Arc::clone(&backend) as _, Arc::default()));
    let shard = tables.shard(TABLE, ShardId(0));
    let mut turn = shard.turn();
    let theirs = Arc::clone(&tables);
    let write = crate::wake::spawn("writes".to_owned(), move || theirs.write_back(Lsn(1), TableBatch::new())).unwrap();
    crate::clock::SystemClock::shared().sleep(std::time::Duration::from_millis(50));
    turn.put(b"k".to_vec(), Some(Bytes::from_static(b"v")), Lsn(1));
    drop(turn);
    write.join().unwrap().unwrap();
    assert_eq!(backend.get(&StateKey::of(TABLE, ShardId(0), b"k")).unwrap().as_deref(), Some(&b"v"[..]));
    drop(tables.shard(TABLE, ShardId(1)).turn());
    assert_eq!(tables.ledger.dirty_shards().len(), 1, "a turn without a row leaves nothing");
}

#[test]
fn a_row_of_the_past_conflicts_even_after_a_write_back() {
    let view = Arc::new(View::default());
    let tables = Tables::new(Arc::new(made(&Arc::default())), Arc::clone(&view));
    let shard = tables.shard(TABLE, ShardId(0));
    let reader = view.pin(|| Lsn(0));
    shard.turn().put(b"k".to_vec(), None, Lsn(1));
    view.publish(Lsn(1));
    tables.write_back(Lsn(1), TableBatch::new()).unwrap();
    assert!(shard.turn().changed_since(b"k", reader.lsn()));
    assert!(shard.turn().range_changed_since(Bound::Unbounded, Bound::Unbounded, reader.lsn()));
}

#[test]
fn a_held_snapshot_keeps_its_own_version_and_no_more() {
    let view = Arc::new(View::default());
    let tables = Tables::new(Arc::new(made(&Arc::default())), Arc::clone(&view));
    let shard = tables.shard(TABLE, ShardId(0));
    let put = |lsn: u64| {
        shard.turn().put(b"k".to_vec(), Some(Bytes::from(lsn.to_le_bytes().to_vec())), Lsn(lsn));
        view.publish(Lsn(lsn));
    };
    put(1);
    let held = view.pin(|| view.visible());
    (2..100).for_each(put);
    // The held one, the one that was visible when the last came, and the last.
    assert_eq!(shard.versions(b"k"), 3);
    assert_eq!(shard.get(b"k", held.lsn()).unwrap().unwrap()[0], 1);
    drop(held);
    put(100);
    assert_eq!(shard.versions(b"k"), 2);
}

/// As after a disk that failed: nobody ever writes them.
#[test]
fn rows_that_were_never_written_go_with_their_tables() {
    let backend: Arc<dyn TableBackend> = Arc::new(made(&Arc::default()));
    let tables = Tables::new(Arc::clone(&backend), Arc::default());
    tables.shard(TABLE, ShardId(0)).turn().put(b"k".to_vec(), Some(Bytes::from_static(b"v")), Lsn(1));
    drop(tables);
    assert_eq!(Arc::strong_count(&backend), 1);
}

#[test]
fn rows_are_counted_until_they_are_written_and_clean_shards_are_not_looked_at() {
    let view = Arc::new(View::default());
    let tables = Tables::new(Arc::new(made(&Arc::default())), Arc::clone(&view));
    for number in 0..1000 {
        let shard = tables.shard(TABLE, ShardId(number));
        shard.turn().put(b"k".to_vec(), Some(Bytes::from_static(b"some value")), Lsn(1));
    }
    assert!(tables.unwritten_bytes() > 1000 * 100);
    assert_eq!(tables.ledger.dirty_shards().len(), 1000);
    view.publish(Lsn(1));
    tables.write_back(Lsn(1), TableBatch::new()).unwrap();
    assert_eq!((tables.unwritten_bytes(), tables.ledger.dirty_shards().len()), (0, 0));
    // Held by a snapshot, a row stays in memory but waits for nothing.
    let held = view.pin(|| view.visible());
    tables.shard(TABLE, ShardId(7)).turn().put(b"k".to_vec(), None, Lsn(2));
    view.publish(Lsn(2));
    tables.write_back(Lsn(2), TableBatch::new()).unwrap();
    assert_eq!((tables.unwritten_bytes(), tables.ledger.dirty_shards().len()), (0, 1));
    drop(held);
    view.publish(Lsn(2));
    tables.write_back(Lsn(3), TableBatch::new()).unwrap();
    assert_eq!(tables.ledger.dirty_shards().len(), 0);
}

#[test]
fn a_scan_looks_at_no_more_rows_than_it_gives() {
    let (disk, view) = (Arc::default(), Arc::new(View::default()));
    let counting = Arc::new(Counting { inner: made(&disk), visited: AtomicU64::new(0) });
    let tables = Tables::new(Arc::clone(&counting) as Arc<dyn TableBackend>, Arc::clone(&view));
    let shard = tables.shard(TABLE, ShardId(0));
    for n in 0..200u8 {
        shard.turn().put(vec![n], Some(Bytes::from(vec![n])), Lsn(1));
    }
    view.publish(Lsn(1));
    tables.write_back(Lsn(1), TableBatch::new()).unwrap();
    for (direction, expected) in [(Direction::Up, [10, 11, 12]), (Direction::Down, [199, 198, 197])] {
        counting.visited.store(0, Ordering::Relaxed);
        let start = [10];
        let range = ScanRange { start: Bound::Included(&start), direction, limit: 3, ..ScanRange::ALL };
        let rows = shard.scan(range, Lsn(1)).unwrap();
        assert_eq!(rows.iter().map(|(key, _)| key[0]).collect::<Vec<_>>(), expected);
        assert_eq!(counting.visited.load(Ordering::Relaxed), 3);
    }
}

struct Counting {
    inner: TableStore,
    visited: AtomicU64,
}

impl TableBackend for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(key)
    }

    fn scan(
        &self,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<()> {
        self.inner.scan(start, end, direction, &mut |key, value| {
            self.visited.fetch_add(1, Ordering::Relaxed);
            visit(key, value)
        })
    }

    fn apply(&self, batch: &TableBatch, lsn: Lsn) -> Result<()> {
        self.inner.apply(batch, lsn)
    }
}

/// A batch of `count` rows of one kind.
fn rows(first: u32, count: u32, value: u8) -> TableBatch {
    let row = |n: u32| (StateKey::of(TABLE, ShardId(0), &n.to_be_bytes()), Some(Bytes::from(vec![value; 40])));
    (first..first + count).map(row).collect()
}

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn all(store: &TableStore) -> Result<Content> {
    let mut found = Content::new();
    store.scan(Bound::Excluded(&[0]), Bound::Unbounded, Direction::Up, &mut |key, value| {
        found.insert(key.to_vec(), value.to_vec());
        Visit::Next
    })?;
    Ok(found)
}

fn expected(batches: &[TableBatch]) -> Content {
    let mut rows = Content::new();
    for (key, value) in batches.iter().flatten() {
        match value {
            Some(value) => rows.insert(key.clone(), value.to_vec()),
            None => rows.remove(key),
        };
    }
    rows
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_table_file_is_what_was_applied_and_confirmed(
        steps in proptest::collection::vec((0..400u32, 1..120u32, any::<u8>(), 0..5u8), 1..12)
    ) {
        let disk = Arc::new(MemoryDisk::default());
        let mut store = made(&disk);
        let mut confirmed: (Option<(TableRoot, Lsn)>, Content) = (None, Content::new());
        for (lsn, (first, count, value, what)) in (1u64..).zip(steps) {
            let mut batch = rows(first, count, value);
            if what == 0 {
                batch.values_mut().for_each(|value| *value = None);
            }
            store.apply(&batch, Lsn(lsn)).unwrap();
            let mut rows = confirmed.1.clone();
            for (key, value) in &batch {
                match value {
                    Some(value) => rows.insert(key.clone(), value.to_vec()),
                    None => rows.remove(key),
                };
            }
            prop_assert_eq!(&all(&store).unwrap(), &rows);
            if what != 1 {
                store.confirm();
                confirmed = (store.root().map(|root| (root, Lsn(lsn))), rows);
            }
            if what <= 2 {
                // A restart; what was applied and not confirmed has not happened.
                store = match &confirmed.0 {
                    Some((root, lsn)) => TableStore::open(&home(&disk), root, *lsn, OpenMode::Write).unwrap(),
                    None => again(&disk),
                };
                prop_assert_eq!(&all(&store).unwrap(), &confirmed.1);
            }
        }
    }
}

/// A table file of several generations, closed; with its root and what is in it.
fn small(disk: &Arc<MemoryDisk>) -> (TableRoot, Lsn, Content) {
    let store = made(disk);
    let batches = [rows(0, 60, 1), rows(40, 30, 2), rows(20, 3, 3)];
    for (lsn, batch) in (1..).zip(&batches) {
        store.apply(batch, Lsn(lsn)).unwrap();
        store.confirm();
    }
    (store.root().unwrap(), Lsn(3), expected(&batches))
}

/// Opens and reads everything: the rows as they must be, or an error of the right kind.
fn look(disk: &Arc<MemoryDisk>, root: &TableRoot, lsn: Lsn, rows: &Content, what: &str) -> bool {
    let found = TableStore::open(&home(disk), root, lsn, OpenMode::Read).and_then(|store| all(&store));
    match found {
        Ok(found) => {
            assert_eq!(&found, rows, "{what}");
            true
        }
        Err(error) => {
            let told = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
            assert!(told && error.file().is_some(), "{what}: {error:?}");
            false
        }
    }
}

#[test]
fn every_flipped_bit_of_a_table_file_is_told_or_harmless() {
    let disk = Arc::new(MemoryDisk::default());
    let (root, lsn, rows) = small(&disk);
    let path = root.file.path(&PathBuf::from("/"));
    let file = disk.open(&path, OpenMode::Write).unwrap();
    let whole = file.read_whole(1 << 24).unwrap();
    let blocks = BlockFile::open(&home(&disk).disk, &PathBuf::from("/"), STORE, &root, OpenMode::Read, 0).unwrap();
    let written: Vec<u64> =
        (1..root.len / 4096).filter(|block| blocks.read(block * 4096, &mut [0; 4096]).is_ok()).collect();
    assert!(written.len() > 5, "{written:?}");
    let mut told = 0;
    for bit in 0..whole.len() * 8 {
        let at = bit / 8;
        file.write_all_at(&[whole[at] ^ (1 << (bit % 8))], at as u64).unwrap();
        // Each block alone; where it is a bit of a check, by a fresh look at it.
        let within = (at as u64).saturating_sub(4096);
        let block = match within / 4096 % 513 {
            0 => within / (513 * 4096) * 512 + within % 4096 / 8,
            number => within / (513 * 4096) * 512 + number - 1,
        };
        if at >= 4096 && written.contains(&block) {
            if (within / 4096).is_multiple_of(513) {
                blocks.roll_back(Some(&root));
            }
            let error = blocks.read(block * 4096, &mut [0; 4096]).expect_err("a flipped bit in a block or its check");
            assert!(error.to_string().contains("damaged"), "bit {bit}: {error}");
            told += 1;
        }
        // Through the library: every bit of the head, of others a sample.
        if at < 64 || bit % 4001 == 0 {
            look(&disk, &root, lsn, &rows, &format!("bit {bit}"));
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
        if (within / 4096).is_multiple_of(513) {
            blocks.roll_back(Some(&root));
        }
    }
    assert!(told >= written.len() * (4096 + 8) * 8, "{told}");
    assert!(look(&disk, &root, lsn, &rows, "as it was"));
}

#[test]
fn every_length_and_every_lost_sector_of_a_table_file_is_told_or_harmless() {
    let disk = Arc::new(MemoryDisk::default());
    let (root, lsn, rows) = small(&disk);
    let file = disk.open(&root.file.path(&PathBuf::from("/")), OpenMode::Write).unwrap();
    let whole = file.read_whole(1 << 24).unwrap();
    let mut told = 0;
    for len in (0..whole.len()).step_by(509) {
        file.set_len(len as u64).unwrap();
        told += usize::from(!look(&disk, &root, lsn, &rows, &format!("cut to {len}")));
        file.write_all_at(&whole, 0).unwrap();
    }
    assert!(told > 50, "{told}");
    // The file as it was one state before, for stale sectors.
    let stale_disk = Arc::new(MemoryDisk::default());
    let stale_store = made(&stale_disk);
    for (lsn, batch) in (1..).zip([rows_of_small(0), rows_of_small(1)]) {
        stale_store.apply(&batch, Lsn(lsn)).unwrap();
        stale_store.confirm();
    }
    let stale = stale_disk.open(&root.file.path(&PathBuf::from("/")), OpenMode::Read).unwrap();
    let stale = stale.read_whole(1 << 24).unwrap();
    let sectors = whole.len() / 512;
    for sector in 0..sectors {
        let at = sector * 512;
        let zeros = vec![0; 512];
        let old = stale.get(at..at + 512).map_or_else(|| zeros.clone(), <[u8]>::to_vec);
        let other = (sector * 7 + 8) % sectors * 512;
        for (what, bytes) in [("zeroed", zeros), ("stale", old), ("another's", whole[other..other + 512].to_vec())] {
            file.write_all_at(&bytes, at as u64).unwrap();
            look(&disk, &root, lsn, &rows, &format!("sector {sector} {what}"));
        }
        file.write_all_at(&whole[at..at + 512], at as u64).unwrap();
    }
    assert!(look(&disk, &root, lsn, &rows, "as it was"));
}

fn rows_of_small(at: usize) -> TableBatch {
    [rows(0, 60, 1), rows(40, 30, 2)][at].clone()
}

#[test]
fn a_damaged_block_ends_no_other_rows_and_is_told_by_its_place() {
    let disk = Arc::new(MemoryDisk::default());
    let store = made(&disk);
    for (lsn, first) in [(1, 0), (2, 5_000), (3, 10_000)] {
        store.apply(&rows(first, 5_000, 1), Lsn(lsn)).unwrap();
        store.confirm();
    }
    let root = store.root().unwrap();
    drop(store);
    let path = root.file.path(&PathBuf::from("/"));
    let file = disk.open(&path, OpenMode::Write).unwrap();
    let (mut told, mut fine) = (0, 0);
    for block in (1..root.len / 4096).step_by(7) {
        let at = 4096 + block / 512 * 513 * 4096 + 4096 + block % 512 * 4096;
        let mut byte = [0];
        file.read_full_at(&mut byte, at + 900).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at + 900).unwrap();
        if let Ok(store) = TableStore::open(&home(&disk), &root, Lsn(3), OpenMode::Write) {
            for n in (0..15_000u32).step_by(50) {
                match store.get(&StateKey::of(TABLE, ShardId(0), &n.to_be_bytes())) {
                    Ok(value) => {
                        assert_eq!(value.as_deref(), Some(&[1; 40][..]));
                        fine += 1;
                    }
                    Err(error) => {
                        assert_eq!((error.kind(), error.position()), (ErrorKind::Corrupt, Some(at)), "{error:?}");
                        assert_eq!(error.file(), Some(path.as_path()));
                        told += 1;
                    }
                }
            }
        }
        file.write_all_at(&byte, at + 900).unwrap();
    }
    assert!(told > 10 && fine > 1000, "{told} {fine}");
}

#[test]
fn a_state_of_another_time_or_store_is_refused() {
    let disk = Arc::new(MemoryDisk::default());
    let (root, lsn, _) = small(&disk);
    let kind = |home: &TableHome, root: &TableRoot, lsn: Lsn| {
        TableStore::open(home, root, lsn, OpenMode::Write).err().map(|error| error.kind())
    };
    assert_eq!(kind(&home(&disk), &root, lsn), None);
    assert_eq!(kind(&home(&disk), &root, Lsn(2)), Some(ErrorKind::Corrupt));
    let other = TableHome { store: StoreId([4; 16]), ..home(&disk) };
    assert_eq!(kind(&other, &root, lsn), Some(ErrorKind::Corrupt));
    let gone = TableRoot { file: TableFileName { epoch: Epoch(2), salt: 1 }, ..root };
    assert_eq!(kind(&home(&disk), &gone, lsn), Some(ErrorKind::Corrupt));
}

#[test]
fn opening_reads_little_of_a_large_file() {
    let disk = Arc::new(MemoryDisk::default());
    let store = made(&disk);
    for lsn in 1..=20u32 {
        store.apply(&rows(lsn * 5_000, 5_000, 1), Lsn(u64::from(lsn))).unwrap();
        store.confirm();
    }
    let root = store.root().unwrap();
    drop(store);
    let counting = Arc::new(CountingDisk { inner: Arc::clone(&disk), read: Arc::default() });
    let there = TableHome { disk: Arc::clone(&counting) as Arc<dyn Disk>, ..home(&disk) };
    TableStore::open(&there, &root, Lsn(20), OpenMode::Write).unwrap();
    let read = counting.read.load(Ordering::Relaxed);
    assert!(root.len > 8 << 20 && read < root.len / 20, "read {read} of {}", root.len);
}

#[derive(Debug)]
struct CountingDisk {
    inner: Arc<MemoryDisk>,
    read: Arc<AtomicU64>,
}

struct CountingFile(Box<dyn DiskFile>, Arc<AtomicU64>);

impl Disk for CountingDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(CountingFile(self.inner.open(path, mode)?, Arc::clone(&self.read))))
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.inner.sync_dir(dir, site)
    }
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        self.inner.identity(path)
    }
}

impl DiskFile for CountingFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.1.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.0.read_at(buffer, position)
    }
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn preallocate(&self, end: u64) -> io::Result<()> {
        self.0.preallocate(end)
    }
    fn sync(&self, site: SyncSite) -> io::Result<()> {
        self.0.sync(site)
    }
    fn try_lock(&self) -> io::Result<bool> {
        self.0.try_lock()
    }
    fn identity(&self) -> io::Result<FileIdentity> {
        self.0.identity()
    }
}

/// A reader beside the owner, whose state is no longer in force, meets blocks of later states in the room that its own
/// has left, whole and with their checks: what it is given is of its own state, or it is told.
#[test]
fn a_reader_of_a_state_is_never_given_a_block_of_a_later_one() {
    let disk = Arc::new(MemoryDisk::default());
    let (then, ..) = small(&disk);
    let beside = || BlockFile::open(&home(&disk).disk, &PathBuf::from("/"), STORE, &then, OpenMode::Read, 0).unwrap();
    let read = |file: &BlockFile, block: u64| {
        let mut bytes = [0; 4096];
        file.read(block * 4096, &mut bytes).map(|()| bytes)
    };
    let blocks: Vec<_> = (1..then.len / 4096).filter_map(|block| Some((block, read(&beside(), block).ok()?))).collect();
    let owner = TableStore::open(&home(&disk), &then, Lsn(3), OpenMode::Write).unwrap();
    let (mut same, mut later) = (0, 0);
    for lsn in 4..12 {
        owner.apply(&rows(0, 100, u8::try_from(lsn).unwrap()), Lsn(lsn)).unwrap();
        owner.confirm();
        let file = beside();
        for (block, before) in &blocks {
            match read(&file, *block) {
                Ok(bytes) => {
                    assert!(bytes == *before, "block {block} is another one");
                    same += 1;
                }
                Err(error) => later += usize::from(error.to_string().contains("of a later state")),
            }
        }
    }
    assert!(same > 10 && later > 10, "{same} {later}");
}
