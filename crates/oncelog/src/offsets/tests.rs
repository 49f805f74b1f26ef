//! Every store of offsets against the same promises, and what each has of its own.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test fails by panicking, and waits for threads")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, DiskFile, MemoryDisk, OpenMode};
use crate::error::ErrorKind;

fn sequence(number: u64) -> Offset {
    Offset::Sequence(number)
}

fn memory_disk() -> Arc<dyn Disk> {
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir(Path::new("/d")).unwrap();
    disk
}

fn file_on(disk: &Arc<dyn Disk>) -> Result<FileOffsetStore, OffsetError> {
    FileOffsetStore::open_on(Arc::clone(disk), SystemClock::shared(), "/d/offsets.json")
}

fn locked_on(disk: &Arc<dyn Disk>) -> Result<LockFileOffsetStore, OffsetError> {
    LockFileOffsetStore::open_on(Arc::clone(disk), SystemClock::shared(), "/d/base", "client")
}

/// Each store, fresh.
fn stores() -> Vec<(&'static str, Arc<dyn OffsetStore>)> {
    let hooked = HookedOffsetStore::new(InMemoryOffsetStore::new()).add_hook(LoggingCommitHook);
    vec![
        ("memory", Arc::new(InMemoryOffsetStore::new())),
        ("file", Arc::new(file_on(&memory_disk()).unwrap())),
        ("locked", Arc::new(locked_on(&memory_disk()).unwrap())),
        ("hooked", Arc::new(hooked)),
    ]
}

fn put(disk: &Arc<dyn Disk>, path: &str, bytes: &[u8]) {
    let file = disk.open(Path::new(path), OpenMode::Create).unwrap();
    file.set_len(0).unwrap();
    file.write_all_at(bytes, 0).unwrap();
}

fn bytes_of(disk: &Arc<dyn Disk>, path: &str) -> Vec<u8> {
    disk.open(Path::new(path), OpenMode::Read).unwrap().read_whole(1 << 20).unwrap()
}

#[test]
fn no_store_goes_back_but_by_reset() {
    for (name, store) in stores() {
        assert_eq!(store.get("a").unwrap(), None, "{name}");
        assert_eq!(store.commit("a", &sequence(5)).unwrap(), None, "{name}");
        assert_eq!(store.commit("a", &sequence(5)).unwrap(), Some(sequence(5)), "{name}: the same again is fine");
        for refused in [sequence(4), Offset::Custom("x".into()), Offset::Earliest, Offset::Latest] {
            let error = store.commit("a", &refused).unwrap_err();
            assert!(matches!(error, OffsetError::InvalidOffset(_)), "{name}: {error}");
        }
        assert!(store.reset("a", &Offset::Latest).is_err(), "{name}: no place");
        assert_eq!(store.reset("a", &sequence(1)).unwrap(), Some(sequence(5)), "{name}");
        assert_eq!(store.get("a").unwrap(), Some(sequence(1)), "{name}");
        assert_eq!(store.clear("a").unwrap(), Some(sequence(1)), "{name}");
        assert_eq!(store.clear("a").unwrap(), None, "{name}");
        assert_eq!(store.get("a").unwrap(), None, "{name}");
    }
}

#[test]
fn many_are_committed_together_or_not_at_all() {
    for (name, store) in stores() {
        store.commit("a", &sequence(5)).unwrap();
        let both = |a: u64, b: u64| BTreeMap::from([("a".to_owned(), sequence(a)), ("b".to_owned(), sequence(b))]);
        store.commit_all(&both(4, 9)).unwrap_err();
        assert_eq!(store.get_all().unwrap(), BTreeMap::from([("a".to_owned(), sequence(5))]), "{name}");
        let before = store.commit_all(&both(6, 9)).unwrap();
        assert_eq!((&before["a"], &before["b"]), (&Some(sequence(5)), &None), "{name}");
        assert_eq!(store.get_all().unwrap(), both(6, 9), "{name}");
        assert_eq!(store.clear_all().unwrap(), both(6, 9), "{name}");
        assert!(store.get_all().unwrap().is_empty(), "{name}");
    }
}

#[test]
fn sixteen_threads_never_take_a_source_back() {
    for (name, store) in stores() {
        let threads = (0..16).map(|thread| {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let mut highest = 0;
                for number in 0..40_u64 {
                    let offered = number * 16 + thread;
                    if store.commit("a", &sequence(offered)).is_ok() {
                        highest = offered;
                    }
                    let stored = store.get("a").unwrap().and_then(|offset| offset.as_sequence()).unwrap_or(0);
                    assert!(stored >= highest, "{stored} is stored after {highest} was committed");
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(store.get("a").unwrap(), Some(sequence(39 * 16 + 15)), "{name}");
    }
}

#[test]
fn stores_on_a_disk_are_there_again() {
    let disk = memory_disk();
    file_on(&disk).unwrap().commit("a b/../c", &Offset::Custom("token \"x\"\n".into())).unwrap();
    assert_eq!(file_on(&disk).unwrap().get("a b/../c").unwrap(), Some(Offset::Custom("token \"x\"\n".into())));
    locked_on(&disk).unwrap().commit("a b/../c", &sequence(7)).unwrap();
    locked_on(&disk).unwrap().save(1, 100, 42).unwrap();
    assert_eq!(locked_on(&disk).unwrap().get("a b/../c").unwrap(), Some(sequence(7)));
    assert_eq!(bytes_of(&disk, "/d/base/client/topic-1-consumer-100.offset"), b"42\n");
    let numbers = locked_on(&disk).unwrap().list_all().unwrap();
    assert_eq!(numbers, BTreeMap::from([(NumericKey { topic: 1, consumer: 100 }, 42)]));
}

#[test]
fn directories_of_the_earlier_client_are_taken_over() {
    let disk = memory_disk();
    disk.create_dir(Path::new("/d/base")).unwrap();
    disk.create_dir(Path::new("/d/base/client")).unwrap();
    put(&disk, "/d/base/client/topic-1-consumer-100.offset", b"17");
    put(&disk, "/d/base/client/topic-2-consumer-3.offset", b"18446744073709551615\r\n");
    let store = locked_on(&disk).unwrap();
    assert_eq!((store.load(1, 100).unwrap(), store.load(2, 3).unwrap()), (Some(17), Some(u64::MAX)));
    assert_eq!(store.save(1, 100, 18).unwrap(), Some(17));
    assert_eq!(store.delete(2, 3).unwrap(), Some(u64::MAX));
    assert!(store.commit("topic-1-consumer-100", &Offset::Custom("x".into())).is_err(), "there is no room for text");
}

#[test]
fn stray_and_spoilt_files_are_named_and_never_a_beginning() {
    let says = |error: OffsetError, name: &str| {
        assert!(matches!(error, OffsetError::Serialization { .. }), "{error:?}");
        assert!(error.to_string().contains(name), "{error}");
    };
    for stray in
        ["topic-1-consumer-2-old.offset", "topic-01-consumer-2.offset", "topic-1-consumer-+2.offset", "notes.txt"]
    {
        let disk = memory_disk();
        locked_on(&disk).unwrap();
        put(&disk, &format!("/d/base/client/{stray}"), b"5\n");
        says(locked_on(&disk).err().unwrap(), stray);
    }
    for spoilt in [&b""[..], b"\n", b"-1\n", b"5 \n", b"5\n\n", b"0x5\n", b"99999999999999999999\n", b"\xFF"] {
        let disk = memory_disk();
        let store = locked_on(&disk).unwrap();
        put(&disk, "/d/base/client/topic-1-consumer-2.offset", spoilt);
        says(store.load(1, 2).unwrap_err(), "topic-1-consumer-2.offset");
        says(store.save(1, 2, 9).unwrap_err(), "topic-1-consumer-2.offset");
        assert_eq!(bytes_of(&disk, "/d/base/client/topic-1-consumer-2.offset"), spoilt, "it is not touched");
    }
    for spoilt in [&b""[..], b"{}", b"[]", b"{\"oncelog_offsets\": 2}", b"\0\0\0\0", b"not json"] {
        let disk = memory_disk();
        put(&disk, "/d/offsets.json", spoilt);
        says(file_on(&disk).err().unwrap(), "offsets.json");
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_file_is_noticed() {
    let disk = memory_disk();
    let store = file_on(&disk).unwrap();
    store.commit("orders", &sequence(42)).unwrap();
    store.commit("alerts", &Offset::Custom("k9".into())).unwrap();
    let (whole, offsets) = (bytes_of(&disk, "/d/offsets.json"), store.get_all().unwrap());
    let mut harmless = 0;
    let mut look = |damaged: &[u8]| {
        put(&disk, "/d/offsets.json", damaged);
        match store.get_all() {
            Ok(read) => {
                assert_eq!(read, offsets, "{}", String::from_utf8_lossy(damaged));
                harmless += 1;
            }
            Err(error) => assert!(matches!(error, OffsetError::Serialization { .. }), "{error}"),
        }
    };
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        look(&damaged);
    }
    (0..whole.len()).for_each(|length| look(&whole[..length]));
    // White space that became other white space.
    assert!(harmless < whole.len(), "{harmless}");
}

#[test]
fn names_stay_in_their_directory() {
    let disk = memory_disk();
    let clock = SystemClock::shared();
    for name in ["../../x", "/abs", "a/b", "..", ".hidden", "Ann", "ann", "nul\0"] {
        let store = LockFileOffsetStore::open_on(Arc::clone(&disk), Arc::clone(&clock), "/d/base", name).unwrap();
        assert_eq!(store.dir().parent(), Some(Path::new("/d/base")), "{name}");
        store.commit(name, &sequence(1)).unwrap();
        let inside = disk.list(store.dir()).unwrap();
        assert!(inside.iter().all(|path| path.parent() == Some(store.dir())), "{inside:?}");
    }
    let dirs: Vec<PathBuf> = disk.list(Path::new("/d/base")).unwrap();
    assert_eq!(dirs.len(), 8, "each name has its own: {dirs:?}");
    for name in ["", &*"x".repeat(300)] {
        let opened = LockFileOffsetStore::open_on(Arc::clone(&disk), Arc::clone(&clock), "/d/base", name);
        assert!(matches!(opened.err().unwrap(), OffsetError::InvalidOffset(_)));
    }
    let store = locked_on(&disk).unwrap();
    assert!(matches!(store.get(&"x".repeat(300)).unwrap_err(), OffsetError::InvalidOffset(_)));
}

#[test]
fn a_lock_that_others_keep_is_told() {
    let disk = memory_disk();
    let store = locked_on(&disk).unwrap().patience(Duration::from_millis(5));
    let held = disk.open(Path::new("/d/base/client/.lock"), OpenMode::Write).unwrap();
    assert!(held.try_lock().unwrap());
    assert!(matches!(store.save(1, 1, 1).unwrap_err(), OffsetError::Lock { .. }));
    assert_eq!(store.load(1, 1).unwrap(), None, "reading needs no lock");
    drop(held);
    store.save(1, 1, 1).unwrap();
}

/// Time passes by sleeping only; at some moment the lock is free.
struct Sleeper {
    now: Mutex<Duration>,
    free_at: Duration,
    lock: Mutex<Option<Box<dyn DiskFile>>>,
}

impl Clock for Sleeper {
    fn now_ms(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        *self.now.lock().unwrap()
    }

    fn sleep(&self, pause: Duration) {
        let mut now = self.now.lock().unwrap();
        *now += pause;
        assert!(*now < Duration::from_secs(100), "it waits for ever");
        if *now >= self.free_at {
            drop(self.lock.lock().unwrap().take());
        }
    }
}

#[test]
fn a_lock_is_waited_for_as_long_as_patience_lasts_and_not_longer() {
    let patience = Duration::from_secs(30);
    type Commit = fn(Arc<dyn Disk>, Arc<dyn Clock>) -> Result<(), OffsetError>;
    let stores: [(&str, Commit); 2] = [
        ("/d/offsets.json.lock", |disk, clock| {
            FileOffsetStore::open_on(disk, clock, "/d/offsets.json")?.commit("a", &sequence(1)).map(drop)
        }),
        ("/d/base/client/.lock", |disk, clock| {
            LockFileOffsetStore::open_on(disk, clock, "/d/base", "client")?.commit("a", &sequence(1)).map(drop)
        }),
    ];
    for (lock, commit) in stores {
        for free_at in [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(29), Duration::MAX] {
            let disk = memory_disk();
            // Makes the directories.
            commit(Arc::clone(&disk), SystemClock::shared()).unwrap();
            let held = disk.open(Path::new(lock), OpenMode::Write).unwrap();
            assert!(held.try_lock().unwrap());
            let clock = Arc::new(Sleeper { now: Mutex::default(), free_at, lock: Mutex::new(Some(held)) });
            let done = commit(Arc::clone(&disk), Arc::clone(&clock) as _);
            let waited = clock.monotonic();
            let until = free_at.min(patience);
            assert!(
                waited >= until && waited < until + Duration::from_millis(50),
                "{lock}: {waited:?} for {free_at:?}"
            );
            match done {
                Ok(()) => assert!(free_at < patience, "{lock}"),
                Err(error) => {
                    assert!(free_at > patience && matches!(error, OffsetError::Lock { .. }), "{lock}: {error}")
                }
            }
        }
    }
}

#[test]
fn a_commit_of_several_that_was_begun_is_finished() {
    let disk = memory_disk();
    let store = locked_on(&disk).unwrap();
    store.save(1, 1, 1).unwrap();
    let begun = BTreeMap::from([("topic-1-consumer-1".to_owned(), sequence(5)), ("x".to_owned(), sequence(6))]);
    put(&disk, "/d/base/client/.commit", super::text::write(&begun).as_bytes());
    assert_eq!(store.load(1, 1).unwrap(), Some(5), "whoever reads sees it");
    assert_eq!(store.get("x").unwrap(), Some(sequence(6)));
    assert!(store.save(1, 1, 4).is_err(), "whoever writes finishes it first");
    assert_eq!(bytes_of(&disk, "/d/base/client/topic-1-consumer-1.offset"), b"5\n");
    assert!(disk.open(Path::new("/d/base/client/.commit"), OpenMode::Read).is_err());
    assert_eq!(store.get_all().unwrap(), begun);
}

#[test]
fn a_removal_of_all_that_was_begun_is_finished() {
    let disk = memory_disk();
    let store = locked_on(&disk).unwrap();
    store.save(1, 1, 1).unwrap();
    store.commit("x", &sequence(6)).unwrap();
    put(&disk, "/d/base/client/.clear", super::text::write(&store.get_all().unwrap()).as_bytes());
    assert_eq!((store.load(1, 1).unwrap(), store.get("x").unwrap()), (None, None), "whoever reads sees it");
    assert!(store.get_all().unwrap().is_empty());
    assert!(disk.open(Path::new("/d/base/client/x.json"), OpenMode::Read).is_ok(), "who reads changes nothing");
    assert_eq!(store.save(1, 1, 0).unwrap(), None, "whoever writes finishes it first");
    assert_eq!(disk.list(store.dir()).unwrap().len(), 2, "the lock and the new one");
    assert_eq!(locked_on(&disk).unwrap().get_all().unwrap().len(), 1);
    put(&disk, "/d/base/client/.clear", b"{}");
    let error = store.get("x").unwrap_err();
    assert!(matches!(&error, OffsetError::Serialization { file, .. } if file.ends_with(".clear")), "{error}");
}

#[test]
fn hooks_are_told_after_and_cannot_change_what_happened() {
    struct Fails;
    impl PostCommitHook for Fails {
        fn on_commit(&self, _: &CommitInfo) -> Result<(), HookError> {
            Err("no".into())
        }
    }
    struct Panics;
    impl PostCommitHook for Panics {
        fn on_commit(&self, _: &CommitInfo) -> Result<(), HookError> {
            panic!("ouch")
        }
        fn on_delete(&self, _: &DeleteInfo) -> Result<(), HookError> {
            panic!("ouch again")
        }
        fn name(&self) -> &str {
            "panics"
        }
    }
    let (last, counts) = (Arc::new(CollectingCommitHook::new()), Arc::new(MetricsCommitHook::new()));
    let disk = memory_disk();
    let store = HookedOffsetStore::new(file_on(&disk).unwrap())
        .add_hook(Fails)
        .add_hook(Panics)
        .add_hook(Arc::clone(&last))
        .add_hook(Arc::clone(&counts));
    file_on(&disk).unwrap().commit("a", &sequence(3)).unwrap(); // somebody else, an earlier process say
    assert_eq!(store.commit("a", &sequence(5)).unwrap(), Some(sequence(3)));
    assert_eq!(store.clear("a").unwrap(), Some(sequence(5)));
    store.commit("a", &Offset::Latest).unwrap_err();
    let commits = last.commits();
    assert_eq!(commits.len(), 1, "what failed is no commit");
    assert_eq!((&commits[0].offset, &commits[0].previous_offset), (&sequence(5), &Some(sequence(3))));
    assert_eq!(last.deletes()[0].previous_offset, Some(sequence(5)));
    assert_eq!((counts.commits(), counts.deletes(), counts.records()), (1, 1, 2));
    let failures = store.take_failures();
    let told: Vec<_> = failures.iter().map(|failure| failure.error.to_string()).collect();
    assert_eq!(told, ["no", "panicked: ouch", "panicked: ouch again"]);
    assert_eq!(failures[1].hook, "panics");
    assert!(store.take_failures().is_empty());
}

/// A clock that a test sets.
struct SetClock(std::sync::atomic::AtomicU64);

impl Clock for SetClock {
    fn now_ms(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(std::sync::atomic::Ordering::SeqCst))
    }

    fn sleep(&self, _: Duration) {}
}

#[test]
fn periodic_counts_each_source_by_itself() {
    let store = Arc::new(InMemoryOffsetStore::new());
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Periodic(10));
    for number in 1..=25 {
        tracker.record("a", sequence(number)).unwrap();
        if number % 2 == 0 {
            tracker.record("b", sequence(number)).unwrap();
        }
        let expected = (number >= 10).then(|| sequence(number / 10 * 10));
        assert_eq!(store.get("a").unwrap(), expected, "after {number}");
    }
    // The 10th record of b was its number 20.
    assert_eq!(store.get("b").unwrap(), Some(sequence(20)));
    assert_eq!(tracker.get_all_pending(), BTreeMap::from([("a".into(), sequence(25)), ("b".into(), sequence(24))]));
    tracker.commit_all().unwrap();
    assert!(tracker.get_all_pending().is_empty());
    tracker.record("a", sequence(26)).unwrap();
    tracker.close().unwrap();
    assert_eq!(store.get("a").unwrap(), Some(sequence(26)), "an orderly end commits");
}

#[test]
fn periodic_commits_after_a_time_too() {
    let (store, clock) = (Arc::new(InMemoryOffsetStore::new()), Arc::new(SetClock(0.into())));
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Periodic(100))
        .commit_interval(Duration::from_secs(5))
        .clock(Arc::clone(&clock) as Arc<dyn Clock>);
    tracker.record("a", sequence(1)).unwrap();
    clock.0.store(4, std::sync::atomic::Ordering::SeqCst);
    tracker.record("a", sequence(2)).unwrap();
    assert_eq!(store.get("a").unwrap(), None);
    clock.0.store(5, std::sync::atomic::Ordering::SeqCst);
    tracker.record("b", sequence(7)).unwrap();
    assert_eq!((store.get("a").unwrap(), store.get("b").unwrap()), (Some(sequence(2)), None), "any source looks");
    clock.0.store(10, std::sync::atomic::Ordering::SeqCst);
    tracker.commit_due().unwrap();
    assert_eq!(store.get("b").unwrap(), Some(sequence(7)));
}

#[test]
fn a_tracker_refuses_what_goes_back() {
    let store = Arc::new(InMemoryOffsetStore::new());
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Manual);
    tracker.record("a", sequence(5)).unwrap();
    assert!(matches!(tracker.record("a", sequence(4)).unwrap_err(), OffsetError::InvalidOffset(_)), "pending");
    tracker.commit("a").unwrap();
    assert!(matches!(tracker.record("a", sequence(4)).unwrap_err(), OffsetError::InvalidOffset(_)), "committed");
    tracker.record("a", sequence(9)).unwrap();
    tracker.reset("a", sequence(2)).unwrap();
    assert!(tracker.get_all_pending().is_empty(), "a reset drops what was pending");
    tracker.record("a", sequence(3)).unwrap();
    assert_eq!(tracker.get_offset("a").unwrap(), sequence(3));
    assert!(tracker.record("a", Offset::Earliest).is_err(), "a policy is no place");
    // Somebody else goes further through the same store.
    store.commit("a", &sequence(50)).unwrap();
    assert!(matches!(tracker.commit("a").unwrap_err(), OffsetError::InvalidOffset(_)));
    tracker.clear("a").unwrap();
    assert_eq!((tracker.get_offset("a").unwrap(), store.get("a").unwrap()), (Offset::Earliest, None));
}

/// What is pending here is no reason not to look what others have committed.
#[test]
fn a_tracker_refuses_what_is_behind_a_commit_of_others_while_something_is_pending() {
    type Pair = (Arc<dyn OffsetStore>, Arc<dyn OffsetStore>);
    let shared: Arc<dyn OffsetStore> = Arc::new(InMemoryOffsetStore::new());
    let (file, files) = (memory_disk(), memory_disk());
    let pairs: [(&str, Pair); 3] = [
        ("memory", (Arc::clone(&shared), shared)),
        ("file", (Arc::new(file_on(&file).unwrap()), Arc::new(file_on(&file).unwrap()))),
        ("files", (Arc::new(locked_on(&files).unwrap()), Arc::new(locked_on(&files).unwrap()))),
    ];
    for (name, (ours, theirs)) in pairs {
        for strategy in [CommitStrategy::Manual, CommitStrategy::Periodic(100)] {
            theirs.clear("a").unwrap();
            let tracker = OffsetTracker::with_strategy(Arc::clone(&ours), strategy);
            tracker.record("a", sequence(4)).unwrap();
            theirs.commit("a", &sequence(10)).unwrap();
            let refused = tracker.record("a", sequence(5)).unwrap_err();
            assert!(matches!(refused, OffsetError::InvalidOffset(_)), "{name}: {refused}");
            assert_eq!(tracker.get_all_pending()["a"], sequence(4), "{name}: nothing has changed");
            // A hook or a wrapper in between changes nothing about it.
            let hooked = OffsetTracker::with_strategy(HookedOffsetStore::new(Arc::clone(&ours)), strategy);
            hooked.record("a", sequence(10)).unwrap();
            theirs.commit("a", &sequence(12)).unwrap();
            assert!(hooked.record("a", sequence(11)).is_err(), "{name}");
            theirs.reset("a", &sequence(2)).unwrap();
            tracker.record("a", sequence(5)).unwrap();
            tracker.commit("a").unwrap();
            assert_eq!(theirs.get("a").unwrap(), Some(sequence(5)), "{name}");
            hooked.reset("a", sequence(0)).unwrap();
        }
    }
}

#[test]
fn one_source_that_was_overtaken_does_not_hold_up_the_others() {
    let store = Arc::new(InMemoryOffsetStore::new());
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Manual);
    tracker.record("a", sequence(1)).unwrap();
    tracker.record("b", sequence(1)).unwrap();
    store.commit("a", &sequence(9)).unwrap();
    assert!(matches!(tracker.commit_all().unwrap_err(), OffsetError::InvalidOffset(_)));
    assert_eq!(store.get("b").unwrap(), Some(sequence(1)));
}

#[test]
fn what_would_not_read_back_is_refused() {
    let beyond = Offset::Timestamp(DateTime::<Utc>::MAX_UTC);
    let long = Offset::Custom("x".repeat(2 << 20));
    for (name, store) in stores() {
        store.commit("a", &sequence(1)).unwrap();
        assert!(matches!(store.reset("a", &beyond).unwrap_err(), OffsetError::InvalidOffset(_)), "{name}");
        if name == "locked" {
            assert!(matches!(store.commit("b", &long).unwrap_err(), OffsetError::InvalidOffset(_)));
        }
        assert_eq!(store.get_all().unwrap(), BTreeMap::from([("a".to_owned(), sequence(1))]), "{name}");
    }
}

#[test]
fn what_is_missing_and_what_is_gone_are_told_apart() {
    let tracker = |policy| OffsetTracker::new(InMemoryOffsetStore::new()).with_reset_policy(policy);
    assert_eq!(tracker(OffsetResetPolicy::Latest).get_offset("a").unwrap(), Offset::Latest);
    let error = tracker(OffsetResetPolicy::None).get_offset("a").unwrap_err();
    assert!(matches!(&error, OffsetError::SourceNotFound(source) if source == "a"), "{error}");

    let tracker = tracker(OffsetResetPolicy::None);
    tracker.record("a", sequence(10)).unwrap();
    assert_eq!(tracker.get_offset_within("a", 10..10).unwrap(), sequence(10), "the end is a place");
    for there in [11..20, 0..9] {
        match tracker.get_offset_within("a", there.clone()).unwrap_err() {
            OffsetError::OutOfRange { offset: 10, start, end, .. } => assert_eq!(start..end, there),
            error => panic!("{error}"),
        }
    }
    let tracker = tracker.with_out_of_range_policy(OutOfRangePolicy::Start);
    assert_eq!(tracker.get_offset_within("a", 11..20).unwrap(), sequence(11));
    let tracker = tracker.with_out_of_range_policy(OutOfRangePolicy::End);
    assert_eq!(tracker.get_offset_within("a", 11..20).unwrap(), sequence(20));
}

#[test]
fn sixteen_threads_share_a_tracker() {
    for strategy in [CommitStrategy::Auto, CommitStrategy::Periodic(3), CommitStrategy::Manual] {
        let store = Arc::new(InMemoryOffsetStore::new());
        let tracker = Arc::new(OffsetTracker::with_strategy(Arc::clone(&store), strategy));
        let threads = (0..16).map(|thread| {
            let tracker = Arc::clone(&tracker);
            thread::spawn(move || {
                for number in 0..200_u64 {
                    match tracker.record("a", sequence(number * 16 + thread)) {
                        Ok(()) | Err(OffsetError::InvalidOffset(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        });
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(tracker.get_offset("a").unwrap(), sequence(199 * 16 + 15), "{strategy:?}");
        tracker.commit_all().unwrap();
        assert_eq!(store.get("a").unwrap(), Some(sequence(199 * 16 + 15)), "{strategy:?}");
        assert!(tracker.get_all_pending().is_empty());
    }
}

/// A store that counts what it is told, takes its time for it, and lets a test come between.
#[derive(Default)]
struct Slow {
    inner: InMemoryOffsetStore,
    /// Every offset of `a` that was committed, in order; and how often the store was told.
    told: std::sync::Mutex<(Vec<u64>, usize)>,
    pause: Duration,
    /// So many commits panic or fail, by turns.
    failing: std::sync::atomic::AtomicU64,
    /// Called in the next read, once.
    between: std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Slow {
    fn tells(&self, offsets: &BTreeMap<String, Offset>) {
        thread::sleep(self.pause);
        let mut told = self.told.lock().unwrap();
        told.0.extend(offsets.get("a").and_then(Offset::as_sequence));
        told.1 += 1;
    }
}

impl OffsetStore for Slow {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        let found = self.inner.get(source);
        let between = self.between.lock().unwrap().take();
        if let Some(between) = between {
            between();
        }
        found
    }
    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        self.tells(&BTreeMap::from([(source.to_owned(), offset.clone())]));
        let left = self.failing.load(std::sync::atomic::Ordering::SeqCst);
        if left > 0 {
            self.failing.store(left - 1, std::sync::atomic::Ordering::SeqCst);
            assert!(left % 2 == 1, "on purpose");
            return Err(OffsetError::Lock { file: "/lock".into() });
        }
        self.inner.commit(source, offset)
    }
    fn commit_all(&self, offsets: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        self.tells(offsets);
        self.inner.commit_all(offsets)
    }
    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        self.inner.reset(source, offset)
    }
    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.inner.get_all()
    }
    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.inner.clear(source)
    }
    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.inner.clear_all()
    }
}

#[test]
fn threads_that_commit_at_once_share_what_the_store_is_told() {
    const THREADS: u64 = 16;
    const EACH: u64 = 20;
    let store = Arc::new(Slow { pause: Duration::from_millis(2), ..Slow::default() });
    let tracker = OffsetTracker::new(Arc::clone(&store));
    let accepted = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (tracker, accepted) = (&tracker, &accepted);
            scope.spawn(move || {
                let own = format!("own-{thread}");
                for number in 0..EACH {
                    tracker.record(&own, sequence(number)).unwrap();
                    let shared = number * THREADS + thread;
                    match tracker.record("a", sequence(shared)) {
                        // Answered, so it is stored, or more is.
                        Ok(()) => {
                            let stored = tracker.get_all_committed().unwrap()["a"].clone();
                            assert!(stored >= sequence(shared), "{stored} is stored when {shared} was answered");
                            accepted.lock().unwrap().push(shared);
                        }
                        Err(OffsetError::InvalidOffset(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(tracker.get_offset(&own).unwrap(), sequence(EACH - 1));
            });
        }
    });
    let (committed, told) = &*store.told.lock().unwrap();
    assert!(committed.is_sorted_by(|one, next| one < next), "it never goes back, and nothing is told twice");
    assert_eq!(committed.last(), accepted.lock().unwrap().iter().max());
    let records = THREADS * EACH + accepted.lock().unwrap().len() as u64;
    assert!(*told as u64 * 4 < records, "{told} commits for {records} records that were answered");
    assert!(tracker.get_all_pending().is_empty());
}

/// The look at what is stored and the note of what is recorded are two steps: whoever commits between them counts.
#[test]
fn what_is_committed_between_the_look_and_the_record_is_not_gone_behind() {
    for strategy in [CommitStrategy::Auto, CommitStrategy::Manual] {
        let store = Arc::new(Slow::default());
        let tracker = Arc::new(OffsetTracker::with_strategy(Arc::clone(&store), strategy));
        let faster = Arc::clone(&tracker);
        *store.between.lock().unwrap() = Some(Box::new(move || {
            faster.record("a", sequence(12)).unwrap();
            faster.commit("a").unwrap();
        }));
        let refused = tracker.record("a", sequence(11)).unwrap_err();
        assert!(matches!(refused, OffsetError::InvalidOffset(_)), "{refused}");
        assert!(tracker.get_all_pending().is_empty(), "{strategy:?}");
        // And a reset between them counts likewise.
        let faster = Arc::clone(&tracker);
        *store.between.lock().unwrap() = Some(Box::new(move || faster.reset("a", sequence(3)).unwrap()));
        tracker.record("a", sequence(4)).unwrap();
        assert_eq!(tracker.get_offset("a").unwrap(), sequence(4));
    }
}

/// What is recorded while a commit is on its way stays pending; a reset waits for it.
#[test]
fn what_comes_while_a_commit_is_on_its_way_comes_behind_it() {
    let store = Arc::new(Slow { pause: Duration::from_millis(200), ..Slow::default() });
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Manual);
    tracker.record("a", sequence(5)).unwrap();
    thread::scope(|scope| {
        let commit = scope.spawn(|| tracker.commit("a").unwrap());
        thread::sleep(Duration::from_millis(50));
        tracker.record("a", sequence(6)).unwrap();
        commit.join().unwrap();
        assert_eq!(tracker.get_all_pending(), BTreeMap::from([("a".to_owned(), sequence(6))]));
        assert_eq!(store.get("a").unwrap(), Some(sequence(5)));
        let commit = scope.spawn(|| tracker.commit("a").unwrap());
        thread::sleep(Duration::from_millis(50));
        tracker.reset("a", sequence(2)).unwrap();
        commit.join().unwrap();
    });
    assert_eq!(store.get("a").unwrap(), Some(sequence(2)), "the reset was last");
    assert!(tracker.get_all_pending().is_empty());
}

/// A store that panics or fails holds nobody up.
#[test]
fn a_commit_that_fails_or_panics_is_tried_by_the_next() {
    struct Fails(std::sync::atomic::AtomicU64);
    impl OffsetStore for Fails {
        fn get(&self, _: &str) -> Result<Option<Offset>, OffsetError> {
            Ok(None)
        }
        fn commit(&self, _: &str, _: &Offset) -> Result<Option<Offset>, OffsetError> {
            match self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0 => panic!("on purpose"),
                1 => Err(OffsetError::Lock { file: "/lock".into() }),
                _ => Ok(None),
            }
        }
        fn commit_all(&self, _: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
            Ok(BTreeMap::new())
        }
        fn reset(&self, _: &str, _: &Offset) -> Result<Option<Offset>, OffsetError> {
            Ok(None)
        }
        fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
            Ok(BTreeMap::new())
        }
        fn clear(&self, _: &str) -> Result<Option<Offset>, OffsetError> {
            Ok(None)
        }
        fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
            Ok(BTreeMap::new())
        }
    }
    let tracker = OffsetTracker::new(Fails(0.into()));
    let record = |number| tracker.record("a", sequence(number));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| record(1))).is_err());
    assert!(matches!(record(2).unwrap_err(), OffsetError::Lock { .. }));
    assert_eq!(tracker.get_all_pending().len(), 1, "it is recorded all the same");
    record(3).unwrap();
    assert!(tracker.get_all_pending().is_empty());
}

fn in_time(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn what_is_due_is_committed_while_nobody_calls() {
    let store = Arc::new(InMemoryOffsetStore::new());
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Periodic(1_000));
    let tracker = tracker.commit_in_background(Duration::from_millis(20)).unwrap();
    for number in 1..5 {
        let began = std::time::Instant::now();
        tracker.record("a", sequence(number)).unwrap();
        in_time("nobody commits", || store.get("a").unwrap() == Some(sequence(number)));
        assert!(began.elapsed() >= Duration::from_millis(20), "not sooner than that");
    }
    tracker.record("b", sequence(1)).unwrap();
    tracker.close().unwrap();
    assert_eq!(store.get("b").unwrap(), Some(sequence(1)));
    assert_eq!(Arc::strong_count(&store), 1, "nobody is left who has it");
    // Whoever waits for long is not waited for.
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Periodic(1_000));
    let tracker = tracker.commit_in_background(Duration::from_secs(100_000)).unwrap();
    tracker.record("b", sequence(2)).unwrap();
    assert_eq!(store.get("b").unwrap(), Some(sequence(1)));
    drop(tracker);
    assert_eq!((store.get("b").unwrap(), Arc::strong_count(&store)), (Some(sequence(2)), 1));
    for strategy in [CommitStrategy::Auto, CommitStrategy::Manual] {
        let tracker = OffsetTracker::with_strategy(Arc::clone(&store), strategy);
        let refused = tracker.commit_in_background(Duration::from_millis(1)).err().unwrap();
        assert!(matches!(&refused, OffsetError::Store(error) if error.kind() == ErrorKind::Invalid), "{refused}");
    }
}

/// A store that panics and fails at first keeps the thread from nothing, and is not asked without a pause.
#[test]
fn the_background_of_a_tracker_tries_again_after_a_pause() {
    let store = Arc::new(Slow { failing: 4.into(), ..Slow::default() });
    let tracker = OffsetTracker::with_strategy(Arc::clone(&store), CommitStrategy::Periodic(1_000));
    let began = std::time::Instant::now();
    let tracker = tracker.commit_in_background(Duration::from_millis(20)).unwrap();
    tracker.record("a", sequence(7)).unwrap();
    in_time("it gives up", || store.inner.get("a").unwrap() == Some(sequence(7)));
    assert!(began.elapsed() >= Duration::from_millis(5 * 20), "five tries, each after a pause");
    in_time("it stays pending", || tracker.get_all_pending().is_empty());
    tracker.close().unwrap();
}

fn any_offset() -> impl Strategy<Value = Offset> {
    let time = (0_i64..4_000_000_000, 0_u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| Offset::Timestamp(DateTime::<Utc>::from_timestamp(seconds, nanos).unwrap()));
    prop_oneof![
        any::<u64>().prop_map(Offset::Sequence),
        time,
        any::<String>().prop_map(Offset::Custom),
        Just(Offset::Earliest),
        Just(Offset::Latest),
    ]
}

proptest! {
    #[test]
    fn offsets_come_back_from_text_and_from_json(offset in any_offset()) {
        prop_assert_eq!(&offset.to_string().parse::<Offset>().unwrap(), &offset);
        let json = serde_json::to_string(&offset).unwrap();
        prop_assert_eq!(serde_json::from_str::<Offset>(&json).unwrap(), offset);
    }

    #[test]
    fn comparing_is_consistent(one in any_offset(), two in any_offset()) {
        prop_assert_eq!(one.partial_cmp(&two), two.partial_cmp(&one).map(std::cmp::Ordering::reverse));
        prop_assert_eq!(one == two, one.partial_cmp(&two) == Some(std::cmp::Ordering::Equal));
    }

    #[test]
    fn any_text_is_an_offset_or_an_error(text in ".*") {
        let _ = text.parse::<Offset>();
    }
}

#[test]
fn only_sequences_count() {
    assert_eq!(sequence(4).increment(), Some(sequence(5)));
    assert_eq!(sequence(u64::MAX).increment(), None);
    assert!(Offset::after(u64::MAX).is_err());
    for other in [Offset::Custom("x".into()), Offset::Earliest, Offset::Latest] {
        assert_eq!(other.increment(), None);
    }
    assert_eq!("17".parse::<Offset>().unwrap(), sequence(17));
    assert!("sequence:-1".parse::<Offset>().is_err());
    assert!("timestamp:0000-01-01T00:00:00Z".parse::<Offset>().is_ok());
    for unwritable in ["timestamp:0000-01-01T00:00:00+01:00", "timestamp:9999-12-31T23:59:59-00:01"] {
        assert!(unwritable.parse::<Offset>().is_err(), "{unwritable} has no text in UTC");
    }
}
