//! Key compaction where room is scarce: what is reserved stays, what does not fit waits and keeps nothing else waiting.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;
#[path = "common/set_clock.rs"]
mod set_clock;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hooked_disk::Event;
use oncelog::disk::{Disk as _, MemoryDisk, OpenMode};
use oncelog::{
    Bytes, Compaction, Compression, ConsumerOptions, ConsumerStyle, ErrorKind, PartitionId, Result, Store,
    StoreOptions, SyncPolicy, TopicChange, TopicDef, Whence,
};
use set_clock::SetClock;

const ZERO: PartitionId = PartitionId(0);
const PRICES: TopicDef<Bytes, Bytes> =
    TopicDef::new("prices").file_roll_size(1 << 20).compaction(Compaction::new().min_dirty_percent(0));

type Row = (u64, Vec<u8>, Option<Vec<u8>>);
type Rows = Vec<Row>;

/// All records that are left. A gap is a failure.
fn read(store: &Store) -> Rows {
    let options = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest));
    let records = store.consumer(PRICES, options).unwrap().map(|record| record.unwrap());
    let row = |record: oncelog::Record| {
        (record.id.offset.0, record.key.unwrap().to_vec(), record.value.map(|value| value.to_vec()))
    };
    records.map(row).collect()
}

/// Only records that have another one of their key behind them may be missing; below `end` all of these are.
fn check(written: &[Row], left: &[Row], end: u64) {
    let last: BTreeMap<_, _> = written.iter().map(|row| (&row.1, row.0)).collect();
    let of = |rows: &[Row]| rows.iter().map(|row| row.0).collect::<Vec<_>>();
    let left_over = written.iter().filter(|row| left.contains(row)).cloned().collect::<Rows>();
    assert_eq!(of(&left_over), of(left), "something else than what was written");
    for row in written.iter().filter(|row| !left.contains(row)) {
        assert!(last[&row.1] > row.0, "record {}, the last of its key, is gone", row.0);
    }
    let mut seen = BTreeMap::new();
    for (offset, key, _) in left.iter().filter(|row| row.0 < end) {
        assert_eq!(seen.insert(key, offset), None, "{offset} is not the first of its key below {end}");
    }
}

fn compacted(store: &Store) -> u64 {
    store.describe_topic("prices").unwrap()[0].compacted.0
}

fn names_on(disk: &Arc<MemoryDisk>) -> Vec<String> {
    let found = disk.list(Path::new("/s/topics/prices/000000")).unwrap();
    let mut names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.retain(|name| !name.ends_with(".index"));
    names.sort();
    names
}

fn is_unfinished(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(".segment.new")
}

/// How many bytes all files of a disk in memory hold.
fn held(disk: &MemoryDisk, at: &Path) -> u64 {
    match disk.list(at) {
        Ok(names) => names.iter().map(|name| held(disk, name)).sum(),
        Err(_) => disk.open(at, OpenMode::Read).and_then(|file| file.len()).unwrap_or(0),
    }
}

/// Large records, some of which are superseded in each file of a mebibyte.
fn append_large(store: &Store, topic: &TopicDef<Bytes, Bytes>, count: u64, rows: &mut Rows) {
    let producer = store.producer(topic.clone()).unwrap().sync_policy(SyncPolicy::Os);
    for number in rows.len() as u64..rows.len() as u64 + count {
        let key = if number % 5 == 0 { b"hot".to_vec() } else { number.to_be_bytes().to_vec() };
        let value = number.to_be_bytes().repeat(16 << 10);
        rows.push((producer.append(&key, &value).unwrap().0, key, Some(value)));
    }
    store.flush().unwrap();
}

/// A disk in memory that takes `capacity` bytes, as it says when it is asked, and the least that it ever said.
fn roomy(disk: &Arc<MemoryDisk>, capacity: &Arc<AtomicU64>) -> (StoreOptions, Arc<AtomicU64>, Arc<AtomicU64>) {
    let (least, begun) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicU64::new(0)));
    let free = {
        let (disk, capacity) = (Arc::clone(disk), Arc::clone(capacity));
        move || capacity.load(Ordering::SeqCst).saturating_sub(held(&disk, Path::new("/s")))
    };
    let hook = {
        let (free, least, begun) = (free.clone(), Arc::clone(&least), Arc::clone(&begun));
        move |event: Event<'_>| {
            match event {
                Event::Wrote(path) if is_unfinished(path) => drop(least.fetch_min(free(), Ordering::SeqCst)),
                Event::Open(path, OpenMode::CreateNew) if is_unfinished(path) => {
                    begun.fetch_add(1, Ordering::SeqCst);
                }
                _ => {}
            }
            Ok(())
        }
    };
    let disk = hooked_disk::with_room(Arc::clone(disk) as _, hook, free);
    (StoreOptions::new().journal_file_bytes(64 << 10).trim_bytes(256 << 10).disk(disk), least, begun)
}

const RESERVE: u64 = 3 << 20;

/// A round makes no second copy of all: what is finished takes the place of what it was made from when room ends.
#[test]
fn room_for_a_few_files_is_enough_and_what_is_reserved_stays() -> Result<()> {
    let (disk, capacity) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(u64::MAX)));
    let (options, least, _) = roomy(&disk, &capacity);
    let store = options.compaction_reserve(RESERVE).manual_duties().open("/s")?;
    let large = PRICES;
    let mut written = Rows::new();
    append_large(&store, &large, 20 * 8, &mut written);
    store.trim()?;
    // For two mebibytes beside the step of one that must have room.
    capacity.store(held(&disk, Path::new("/s")) + RESERVE + (3 << 20), Ordering::SeqCst);
    let stats = store.compact("prices")?;
    assert_eq!((stats.rounds, stats.failures, stats.dirty_bytes), (1, 0, 0), "{stats:?}");
    assert!(stats.bytes_before > 15 << 20, "{stats:?}");
    assert!(least.load(Ordering::SeqCst) >= RESERVE, "{}", least.load(Ordering::SeqCst));
    check(&written, &read(&store), compacted(&store));
    assert!(names_on(&disk).iter().all(|name| !name.ends_with(".new")));
    store.close()
}

#[test]
fn without_room_nothing_is_begun_and_it_is_tried_again_later() -> Result<()> {
    let (disk, capacity) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(u64::MAX)));
    let (options, _, begun) = roomy(&disk, &capacity);
    let clock = Arc::new(SetClock::default());
    let store = options.compaction_reserve(RESERVE).manual_duties().clock(Arc::clone(&clock) as _).open("/s")?;
    let large = PRICES;
    let mut written = Rows::new();
    append_large(&store, &large, 5 * 8, &mut written);
    store.trim()?;
    capacity.store(held(&disk, Path::new("/s")) + RESERVE, Ordering::SeqCst);
    let work = |seconds: u64| -> Result<()> {
        clock.pass(seconds);
        (0..20).try_for_each(|_| store.run_duties())
    };
    (0..9).try_for_each(|_| work(6))?;
    let stats = store.compaction_stats("prices")?;
    assert_eq!((stats.rounds, stats.failures, stats.without_room), (0, 1, 1), "{stats:?}");
    assert_eq!(store.stats().compactions_without_room, 1);
    assert!(stats.last_error.is_some_and(|told| told.contains("bytes are free")));
    let refused = store.compact("prices").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    assert_eq!(begun.load(Ordering::SeqCst), 0, "nothing is written in vain");
    store.producer(large)?.append(b"others", b"have room")?;
    assert!(read(&store)[..written.len()] == written, "something is gone");
    capacity.store(u64::MAX, Ordering::SeqCst);
    (0..3).try_for_each(|_| work(20))?;
    assert_eq!(store.compaction_stats("prices")?.rounds, 1);
    store.close()
}

/// A file whose batches take much more when they are written anew: a step that reads little must not write much.
#[test]
fn what_grows_when_it_is_written_anew_takes_nothing_of_what_is_reserved() -> Result<()> {
    let (disk, capacity) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(u64::MAX)));
    let (options, least, begun) = roomy(&disk, &capacity);
    let store = options.compaction_reserve(RESERVE).manual_duties().open("/s")?;
    let producer = store.producer(PRICES.compression(Compression::Lz4))?;
    let mut written = Rows::new();
    for number in 0..60_u64 {
        // Some of each batch goes, so that no batch stays as it was.
        let rows = [b"hot".to_vec(), number.to_be_bytes().to_vec()].map(|key| (key, vec![7; 200_000]));
        let at = producer.append_batch(rows.iter().map(|(key, value)| (&key[..], &value[..])))?;
        let rows =
            rows.into_iter().zip(at.appended[0].first.0..).map(|((key, value), offset)| (offset, key, Some(value)));
        written.extend(rows);
    }
    drop(producer);
    store.alter_topic("prices", &TopicChange::default().compression(Compression::None).file_roll_size(1024))?;
    append_large(&store, &PRICES, 1, &mut written);
    store.alter_topic("prices", &TopicChange::default().file_roll_size(1 << 20))?;
    store.trim()?;
    let small = held(&disk, Path::new("/s"));
    assert!(small < 1 << 20, "{small}");
    capacity.store(small + RESERVE + (2 << 20), Ordering::SeqCst);
    let refused = store.compact("prices").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Full, "{refused}");
    assert!(begun.load(Ordering::SeqCst) > 0, "it was tried");
    assert!(least.load(Ordering::SeqCst) >= RESERVE, "{} of {RESERVE} are left", least.load(Ordering::SeqCst));
    capacity.store(u64::MAX, Ordering::SeqCst);
    store.compact("prices")?;
    check(&written, &read(&store), compacted(&store));
    assert!(held(&disk, Path::new("/s")) > 10 << 20);
    store.close()
}

/// The first file is too large for the room that there is; those behind it are compacted all the same. A tombstone
/// there stays as long as what it ends, however long that is. And the large one is tried less and less often.
#[test]
fn what_does_not_fit_keeps_nothing_behind_it_waiting() -> Result<()> {
    const TOMBSTONES_STAY: Duration = Duration::from_secs(60);
    let (disk, capacity) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(u64::MAX)));
    let (options, least, begun) = roomy(&disk, &capacity);
    let clock = Arc::new(SetClock::default());
    let store = options.compaction_reserve(RESERVE).manual_duties().clock(Arc::clone(&clock) as _).open("/s")?;
    let settings = Compaction::new().min_dirty_percent(0).tombstone_retention(TOMBSTONES_STAY);
    let topic = PRICES.compaction(settings).file_roll_size(8 << 20);
    let mut written = Rows::new();
    let producer = store.producer(topic.clone())?;
    written.push((producer.append(b"ends", b"long before")?.0, b"ends".to_vec(), Some(b"long before".to_vec())));
    append_large(&store, &topic, 40, &mut written);
    store.alter_topic("prices", &TopicChange::default().file_roll_size(1 << 20))?;
    append_large(&store, &topic, 1, &mut written);
    written.push((producer.append_record(Some(ZERO), Some(b"ends"), None, &[], None)?.0, b"ends".to_vec(), None));
    for _ in 0..4 {
        append_large(&store, &topic, 7, &mut written);
    }
    store.trim()?;
    capacity.store(held(&disk, Path::new("/s")) + RESERVE + (2 << 20), Ordering::SeqCst);
    let work = |seconds: u64| -> Result<()> {
        (0..seconds / 6).try_for_each(|_| {
            clock.pass(6);
            (0..30).try_for_each(|_| store.run_duties())
        })
    };
    let before = names_on(&disk);
    work(54)?;
    let stats = store.compaction_stats("prices")?;
    assert_eq!((stats.rounds, stats.failures, stats.without_room), (0, 1, 1), "{stats:?}");
    assert!(stats.removed_records > 3, "{stats:?}");
    let after = names_on(&disk);
    assert_eq!(after[0], before[0], "the first one is as it was");
    assert!(after[1..4].iter().all(|name| !before.contains(name)), "{before:?} {after:?}");
    check(&written, &read(&store), compacted(&store));
    // A second time at 60 seconds, and then two, four, eight and sixteen minutes after each other, and so on.
    work(600)?;
    let stats = store.compaction_stats("prices")?;
    assert_eq!((stats.rounds, stats.without_room), (0, 4), "{stats:?}");
    work(3600)?;
    let stats = store.compaction_stats("prices")?;
    assert_eq!((stats.rounds, stats.without_room), (0, 8), "{stats:?}");
    assert!(begun.load(Ordering::SeqCst) < 30, "{begun:?} files were begun");
    assert!(least.load(Ordering::SeqCst) >= RESERVE, "{}", least.load(Ordering::SeqCst));
    // By now the tombstone is old, and what it ends is there.
    let left = read(&store);
    check(&written, &left, compacted(&store));
    assert_eq!(left.iter().filter(|row| row.1 == b"ends").count(), 2);
    // Then there is room. From now on the time of the tombstone counts.
    capacity.store(u64::MAX, Ordering::SeqCst);
    work(1000)?;
    let stats = store.compaction_stats("prices")?;
    assert_eq!((stats.rounds > 0, stats.dirty_bytes, stats.last_error.clone()), (true, 0, None), "{stats:?}");
    work(120)?;
    let left = read(&store);
    assert_eq!(left.iter().filter(|row| row.1 == b"ends").count(), 0);
    written.retain(|row| row.1 != b"ends");
    check(&written, &left, compacted(&store));
    store.close()
}

/// What later files give back makes room for one that did not fit.
#[test]
fn by_hand_what_did_not_fit_is_tried_again_when_others_made_room() -> Result<()> {
    let (disk, capacity) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(u64::MAX)));
    let (options, least, _) = roomy(&disk, &capacity);
    let store = options.compaction_reserve(RESERVE).manual_duties().open("/s")?;
    let mut written = Rows::new();
    append_large(&store, &PRICES.file_roll_size(4 << 20), 30, &mut written);
    store.alter_topic("prices", &TopicChange::default().file_roll_size(1 << 20))?;
    let producer = store.producer(PRICES)?;
    for number in 0..80_u64 {
        let value = number.to_be_bytes().repeat(8 << 10);
        written.push((producer.append(b"hot", &value)?.0, b"hot".to_vec(), Some(value)));
    }
    store.trim()?;
    capacity.store(held(&disk, Path::new("/s")) + RESERVE + (2 << 20), Ordering::SeqCst);
    let stats = store.compact("prices")?;
    assert_eq!((stats.rounds, stats.failures, stats.dirty_bytes), (1, 0, 0), "{stats:?}");
    assert!(least.load(Ordering::SeqCst) >= RESERVE, "{}", least.load(Ordering::SeqCst));
    check(&written, &read(&store), compacted(&store));
    store.close()
}

/// Moving the trim point costs room, so without any it is not moved for a compaction.
#[test]
fn without_room_the_trim_point_is_not_moved_either() -> Result<()> {
    let (disk, capacity) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(u64::MAX)));
    let (options, ..) = roomy(&disk, &capacity);
    let store = options.trim_bytes(1 << 30).compaction_reserve(RESERVE).manual_duties().open("/s")?;
    let mut written = Rows::new();
    append_large(&store, &PRICES, 5 * 8, &mut written);
    let tables = || held(&disk, Path::new("/s/owners/main/state"));
    let before = tables();
    capacity.store(held(&disk, Path::new("/s")) + RESERVE, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(store.compact("prices").unwrap_err().kind(), ErrorKind::Full);
    }
    assert_eq!(tables(), before);
    capacity.store(u64::MAX, Ordering::SeqCst);
    store.compact("prices")?;
    assert!(tables() > before, "and with room it is");
    check(&written, &read(&store), compacted(&store));
    store.close()
}
