//! Rounds of key compaction come to an end, whatever a topic holds and whoever appends, go on when retention takes from
//! under them, and are in nobody's way.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for threads")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;
#[path = "common/set_clock.rs"]
mod set_clock;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use hooked_disk::Event;
use oncelog::clock::Clock as _;
use oncelog::disk::{Disk as _, MemoryDisk, SyncSite};
use oncelog::{
    Bytes, Compaction, ConsumerStyle, LogOffset, PartitionId, Result, Store, SyncPolicy, TopicChange, TopicDef, Whence,
};
use set_clock::SetClock;

const ZERO: PartitionId = PartitionId(0);
const PLAIN: TopicDef<Bytes, Bytes> = TopicDef::new("plain").file_roll_size(1024);
const PRICES: TopicDef<Bytes, Bytes> =
    TopicDef::new("prices").file_roll_size(1024).compaction(Compaction::new().min_dirty_percent(0));

/// Compacts, in a moment.
fn compact(store: &Store, topic: &str) {
    let (done, is_done) = channel();
    let (of, topic) = (store.clone(), topic.to_owned());
    thread::spawn(move || done.send(of.compact(&topic)));
    is_done.recv_timeout(Duration::from_secs(60)).expect("it does not come to an end").unwrap();
}

#[test]
fn records_with_neither_key_nor_value_are_no_tombstones() {
    let clock = Arc::new(SetClock::default());
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().clock(Arc::clone(&clock) as _).manual_duties();
    let store = options.open(dir.path()).unwrap();
    let producer = store.producer(PLAIN).unwrap();
    let zero = Some(PartitionId(0));
    // Each fills a file, so that each is judged by itself.
    for number in 0..10_u8 {
        let _keyless = producer.append_record(zero, None, None, &[], None).unwrap();
        producer.append(&[number][..], &[number; 900]).unwrap();
    }
    let compaction = Compaction::new().min_dirty_percent(0).tombstone_retention(Duration::from_secs(60));
    store.alter_topic("plain", &TopicChange::default().compaction(Some(compaction))).unwrap();
    for _ in 0..3 {
        compact(&store, "plain");
        clock.pass(100);
        store.run_duties().unwrap();
    }
    let rounds = store.compaction_stats("plain").unwrap().rounds;
    for _ in 0..20 {
        clock.pass(10);
        store.run_duties().unwrap();
    }
    let later = store.compaction_stats("plain").unwrap().rounds;
    assert_eq!(later, rounds, "nothing is due");
}

/// Each fills a file; those of the last `keys` stay.
fn append_files(store: &Store, count: u64, keys: u64) {
    let producer = store.producer(PRICES).unwrap().sync_policy(SyncPolicy::Os);
    for number in 0..count {
        producer.append(&(number % keys).to_be_bytes(), &[7; 900]).unwrap();
    }
    store.flush().unwrap();
}

fn offsets(store: &Store) -> Vec<u64> {
    let consumer = store.consumer(PRICES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
    consumer.map(|record| record.unwrap().id.offset.0).collect()
}

fn segment_names(disk: &MemoryDisk) -> Vec<String> {
    let found = disk.list(Path::new("/s/topics/prices/000000")).unwrap();
    let names = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    names.filter(|name| name.ends_with(".segment")).collect()
}

/// What is sealed when it begins is compacted, and what comes meanwhile is for the next time.
#[test]
fn by_hand_it_ends_although_somebody_appends_all_the_time() -> Result<()> {
    let (disk, slot) = (Arc::new(MemoryDisk::default()), Arc::new(Mutex::new(None::<Store>)));
    let (theirs, appended) = (Arc::clone(&slot), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&appended);
    let hook = move |event: Event<'_>| {
        // Whenever something was exchanged, as much is there as was before.
        if matches!(event, Event::SyncDir(_, SyncSite::CompactedDir))
            && counted.load(Ordering::SeqCst) < 200
            && let Some(store) = &*theirs.lock().unwrap()
        {
            append_files(store, 20, 5);
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    // Keys of some of them at a time.
    let options = hooked_disk::on(&disk, hook).journal_file_bytes(16 << 20).manual_duties().compaction_memory(300);
    let store = options.open("/s")?;
    append_files(&store, 40, 5);
    *slot.lock().unwrap() = Some(store.clone());
    let stats = store.compact("prices")?;
    *slot.lock().unwrap() = None;
    let appended = appended.load(Ordering::SeqCst);
    assert!((1..100).contains(&appended), "it has worked {appended} times for who appended");
    assert!(stats.rounds > 1, "{stats:?}");
    let mut seen = BTreeSet::new();
    for offset in offsets(&store).into_iter().filter(|offset| *offset < 39) {
        assert!(seen.insert(offset % 5), "{offset} is there, and one of its key was before");
    }
    store.close()
}

/// A step of the round is under way, by duties that nothing else is due in.
fn step(store: &Store) {
    store.run_duties().unwrap();
}

/// Retention takes the file that is being read: for its keys, to be written anew, or to be put together with others.
/// All that was learnt of keys stays good, so no round is begun again.
#[test]
fn a_round_goes_on_behind_what_retention_takes_from_under_it() -> Result<()> {
    const RECORD: usize = 64 << 10;
    // More than a step reads.
    let large = PRICES.file_roll_size(3 << 20);
    for steps in 1..16 {
        let (disk, clock) = (Arc::new(MemoryDisk::default()), Arc::new(SetClock::default()));
        let options = Store::options().disk(Arc::clone(&disk) as _).clock(Arc::clone(&clock) as _).manual_duties();
        let store = options.max_open_files(1).open("/s")?;
        let producer = store.producer(large.clone())?.sync_policy(SyncPolicy::Os);
        let append = |count: u64| {
            for number in 0..count {
                let key = if number % 3 == 0 { b"hot".to_vec() } else { number.to_be_bytes().to_vec() };
                producer.append(&key, &[7; RECORD]).unwrap();
            }
        };
        append(45 * 4);
        store.flush()?;
        store.trim()?;
        clock.pass(6);
        (0..steps).for_each(|_| step(&store));
        let before = segment_names(&disk).len();
        store.truncate_before("prices", ZERO, LogOffset(100))?;
        assert!(segment_names(&disk).len() < before, "{steps}: a file is gone");
        for _ in 0..200 {
            clock.pass_by(Duration::from_millis(20));
            step(&store);
        }
        let stats = store.compaction_stats("prices")?;
        assert_eq!((stats.rounds, stats.failures, stats.dirty_bytes), (1, 0, 0), "{steps}: {stats:?}");
        let opening = 1 << 24;
        let rounds =
            segment_names(&disk).iter().filter_map(|name| name[..name.len() - 8].get(32..)?.parse().ok()).max();
        assert_eq!(rounds.unwrap_or(opening + 1), opening + 1, "{steps}: the second round was begun");
        let left = offsets(&store);
        let hot = left.iter().filter(|offset| *offset % 3 == 0).count();
        assert!(left[0] >= 100 && hot < 20, "{steps}: {left:?}");
        assert!((100..180).filter(|offset| offset % 3 != 0).all(|offset| left.contains(&offset)), "{steps}: {left:?}");
        store.close()?;
    }
    Ok(())
}

/// Who looks at a store from beside has time to see it all between two moves of its trim point, again and again.
#[test]
fn exchanges_leave_those_time_who_look_from_beside() -> Result<()> {
    let (disk, exchanges) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&exchanges);
    let hook = move |event: Event<'_>| {
        if matches!(event, Event::SyncDir(_, SyncSite::CompactedDir)) {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    let clock = Arc::new(SetClock::default());
    // Each file is exchanged by itself.
    let options = hooked_disk::on(&disk, hook).journal_file_bytes(16 << 20).compaction_piece_bytes(1);
    let store = options.manual_duties().clock(Arc::clone(&clock) as _).open("/s")?;
    append_files(&store, 200, 5);
    store.trim()?;
    clock.pass(6);
    let mut last = 0;
    for _ in 0..3 {
        (0..300).for_each(|_| step(&store));
        let now = exchanges.load(Ordering::SeqCst);
        assert!((last + 1..=last + 16).contains(&now), "{last} exchanges, and at one time up to {now}");
        last = now;
        clock.pass_by(Duration::from_millis(499));
        (0..300).for_each(|_| step(&store));
        assert_eq!(exchanges.load(Ordering::SeqCst), last);
        clock.pass_by(Duration::from_millis(1));
    }
    // By hand too.
    let begun = clock.monotonic();
    compact(&store, "prices");
    let (took, more) = (clock.monotonic() - begun, exchanges.load(Ordering::SeqCst) - last);
    assert!(more > 100 && took >= Duration::from_millis(500 * (more / 16 - 1)), "{more} within {took:?}");
    store.close()
}

/// Runs it in a thread; something is there when it is done.
fn elsewhere(store: &Store, work: impl FnOnce(&Store) + Send + 'static) -> Receiver<()> {
    let (done, is_done) = channel();
    let store = store.clone();
    thread::spawn(move || {
        work(&store);
        drop(store);
        let _ = done.send(());
    });
    is_done
}

/// A file system may take its time to remove a large file. Who moves the trim point or removes something else meanwhile
/// does not wait for that.
#[test]
fn nobody_waits_until_old_files_are_gone() -> Result<()> {
    const LINES: TopicDef<Bytes, Bytes> = TopicDef::new("lines").file_roll_size(1024);
    for by_hand in [true, false] {
        let (disk, is_shut) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicBool::new(false)));
        let (theirs, waits) = (Arc::clone(&is_shut), Arc::new(AtomicBool::new(false)));
        let met = Arc::clone(&waits);
        let hook = move |event: Event<'_>| {
            while matches!(event, Event::Remove(path) if path.starts_with("/s/topics/prices"))
                && theirs.load(Ordering::SeqCst)
            {
                met.store(true, Ordering::SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        };
        let store = hooked_disk::on(&disk, hook).journal_file_bytes(16 << 20).manual_duties().open("/s")?;
        append_files(&store, 100, 5);
        let lines = store.producer(LINES)?;
        (0..10).try_for_each(|_| lines.append(b"k", &[7; 900]).map(drop))?;
        is_shut.store(true, Ordering::SeqCst);
        let removing = elsewhere(&store, move |store| match by_hand {
            true => store.compact("prices").map(drop).unwrap(),
            false => store.truncate_before("prices", ZERO, LogOffset(50)).unwrap(),
        });
        while !waits.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        let others = elsewhere(&store, |store| {
            store.trim().unwrap();
            store.truncate_before("lines", ZERO, LogOffset(5)).unwrap();
        });
        let waited = others.recv_timeout(Duration::from_secs(30));
        let still = removing.try_recv();
        is_shut.store(false, Ordering::SeqCst);
        removing.recv_timeout(Duration::from_secs(60)).expect("it does not come to an end");
        assert!(waited.is_ok(), "who has nothing to do with it waits for files to go");
        assert!(still.is_err(), "it was not at the gate");
        assert_eq!(store.offsets("lines", ZERO)?.0, LogOffset(5));
        // Without a generation: not compacted.
        let left = segment_names(&disk).iter().filter(|name| name.len() < 40).count();
        assert!(left < 60, "{left} files are there when it says that they are gone");
        store.close()?;
    }
    Ok(())
}

/// Old files are still being removed when their topic is deleted and made anew, with files of the same names.
#[test]
fn old_files_of_a_deleted_topic_are_not_taken_for_those_of_the_next() -> Result<()> {
    for by_hand in [true, false] {
        let (disk, is_shut) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicBool::new(false)));
        let (theirs, waits) = (Arc::clone(&is_shut), Arc::new(AtomicBool::new(false)));
        let met = Arc::clone(&waits);
        let hook = move |event: Event<'_>| {
            let first = "000000/00000000000000000000-0000000001.segment";
            let hit = matches!(event, Event::Remove(path) if path.ends_with(first));
            if hit && theirs.load(Ordering::SeqCst) && !met.swap(true, Ordering::SeqCst) {
                // Once only.
                while theirs.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Ok(())
        };
        let store = hooked_disk::on(&disk, hook).journal_file_bytes(16 << 20).manual_duties().open("/s")?;
        append_files(&store, 20, 5);
        is_shut.store(true, Ordering::SeqCst);
        let removing = elsewhere(&store, move |store| {
            // It may be told that the topic is deleted.
            let _ = match by_hand {
                true => store.compact("prices").map(drop),
                false => store.truncate_before("prices", ZERO, LogOffset(10)),
            };
        });
        while !waits.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        let anew = elsewhere(&store, |store| {
            store.delete_topic("prices").unwrap();
            append_files(store, 1, 1);
        });
        let _ = anew.recv_timeout(Duration::from_millis(300));
        is_shut.store(false, Ordering::SeqCst);
        removing.recv_timeout(Duration::from_secs(60)).expect("it does not come to an end");
        let _ = anew.recv_timeout(Duration::from_secs(60));
        assert_eq!(segment_names(&disk), ["00000000000000000000-0000000001.segment"], "by hand: {by_hand}");
        assert_eq!(offsets(&store), [0]);
        store.close()?;
    }
    Ok(())
}

/// A round is given up just when it has exchanged its files: the old ones go all the same.
#[test]
fn a_round_that_is_given_up_leaves_no_old_files() -> Result<()> {
    type End = fn(Store) -> Result<Option<Store>>;
    let ends: [(&str, End); 3] = [
        ("close", |store| store.close().map(|()| None)),
        ("alter", |store| store.alter_topic("prices", &TopicChange::default().compaction(None)).map(|()| Some(store))),
        ("by hand", |store| store.compact("prices").map(|_| Some(store))),
    ];
    for (name, end) in ends {
        let (disk, clock) = (Arc::new(MemoryDisk::default()), Arc::new(SetClock::default()));
        let options = hooked_disk::on(&disk, |_| Ok(())).journal_file_bytes(16 << 20).manual_duties();
        let store = options.clock(Arc::clone(&clock) as _).open("/s")?;
        append_files(&store, 150, 5);
        store.trim()?;
        clock.pass(6);
        // Without a generation: not compacted. Those of the last keys stay.
        let old = || segment_names(&disk).iter().filter(|name| name.len() < 40).count();
        for steps in 0.. {
            step(&store);
            if store.compaction_stats("prices")?.rounds == 1 {
                break;
            }
            assert!(steps < 100, "it comes to no end");
        }
        assert!(old() > 100, "they are there at first");
        let store = end(store)?;
        assert!(old() < 10, "{name}: {} old files are left", old());
        store.map_or(Ok(()), Store::close)?;
    }
    Ok(())
}
