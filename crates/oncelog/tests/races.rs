//! What a simulation on one thread cannot reach: a disk that calls the test at each write and sync, so that threads
//! meet at the worst moment, and functions that do not behave.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for threads")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use hooked_disk::{Event, on};
use oncelog::disk::{Disk, MemoryDisk, OpenMode, SyncSite};
use oncelog::{
    Bytes, ConsumerStyle, ErrorKind, IdempotentProducerConfig, LogOffset, Outcome, PartitionId, Processor, Step, Store,
    StoreOptions, SyncPolicy, TableDef, TopicDef, U64, Utf8, Whence,
};

const LINES: TopicDef<Bytes, Bytes> = TopicDef::new("lines").partitions(2);
const ONE: TopicDef<Bytes, Bytes> = TopicDef::new("one");
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "segment")
}

#[test]
fn a_segment_written_while_a_trim_syncs_it_is_synced_by_the_next() {
    // 1: at the sync of partition 0 an append to partition 1 starts; its write waits for the sync of partition 1.
    let phase = Arc::new(AtomicUsize::new(0));
    let (go, started) = mpsc::channel();
    let (go, waiting, synced) = (Mutex::new(go), AtomicBool::new(false), AtomicBool::new(false));
    let unsynced: Arc<Mutex<BTreeMap<PathBuf, bool>>> = Arc::default();
    let (at, seen) = (Arc::clone(&phase), Arc::clone(&unsynced));
    let hook = move |event: Event<'_>| {
        let second = |path: &Path| path.components().any(|part| part.as_os_str() == "000001");
        match event {
            Event::Sync(path, SyncSite::Segment) => {
                if !second(path) && at.compare_exchange(1, 2, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    go.lock().unwrap().send(()).unwrap();
                    while !waiting.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                }
                seen.lock().unwrap().insert(path.to_owned(), false);
                synced.fetch_or(second(path), Ordering::SeqCst);
            }
            Event::Write(path, position)
                if is_segment(path) && position > 0 && second(path) && at.load(Ordering::SeqCst) == 2 =>
            {
                waiting.store(true, Ordering::SeqCst);
                while !synced.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            }
            Event::Wrote(path) if is_segment(path) => drop(seen.lock().unwrap().insert(path.to_owned(), true)),
            _ => {}
        }
        Ok(())
    };
    let store = on(&Arc::default(), hook).open("/s").unwrap();
    let producer = store.producer(LINES).unwrap();
    let append = |partition| producer.append_record(Some(PartitionId(partition)), None, Some(b"v"), &[], None).unwrap();
    append(0);
    append(1);
    std::thread::scope(|scope| {
        let append = &append;
        scope.spawn(move || {
            started.recv().unwrap();
            append(1);
        });
        phase.store(1, Ordering::SeqCst);
        store.trim().unwrap();
    });
    store.trim().unwrap();
    let left: Vec<_> =
        unsynced.lock().unwrap().iter().filter(|(_, left)| **left).map(|(path, _)| path.clone()).collect();
    assert!(left.is_empty(), "behind the trim point and not synced: {left:?}");
}

#[test]
fn a_sync_that_fails_for_want_of_space_ends_the_handle_all_the_same() {
    let fails = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&fails);
    let hook = move |event: Event<'_>| match event {
        Event::Sync(_, SyncSite::Segment) if theirs.swap(false, Ordering::SeqCst) => {
            Err(io::ErrorKind::StorageFull.into())
        }
        _ => Ok(()),
    };
    let disk = Arc::default();
    let store = on(&disk, hook).open("/s").unwrap();
    store.producer(ONE).unwrap().append(b"k", b"v").unwrap();
    fails.store(true, Ordering::SeqCst);
    assert_eq!(store.trim().unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(store.trim().unwrap_err().kind(), ErrorKind::Closed);
    drop(store);
    let again = on(&disk, |_| Ok(())).open("/s").unwrap();
    assert_eq!(again.offsets("one", PartitionId(0)).unwrap().1.0, 1);
}

/// Between its place and the copy somebody else has the segment's file given up, and no descriptor is left to open it
/// again: what has its place is carried out.
#[test]
fn a_segments_file_is_held_from_its_place_to_the_copy() {
    let none_left = Arc::new(AtomicBool::new(false));
    let meanwhile = Arc::new(Mutex::new(None::<Box<dyn FnOnce() + Send>>));
    let (theirs, inside) = (Arc::clone(&none_left), Arc::clone(&meanwhile));
    let hook = move |event: Event<'_>| match event {
        Event::Open(path, _) if is_segment(path) && theirs.load(Ordering::SeqCst) => {
            Err(io::Error::from_raw_os_error(24)) // EMFILE
        }
        Event::Sync(_, SyncSite::JournalGroup) => {
            let act = inside.lock().unwrap().take();
            act.into_iter().for_each(|act| act());
            Ok(())
        }
        _ => Ok(()),
    };
    let store = on(&Arc::default(), hook).manual_duties().max_open_files(1).open("/s").unwrap();
    let (one, lines) = (store.producer(ONE).unwrap(), store.producer(LINES).unwrap());
    for _ in 0..3 {
        lines.append_record(Some(PartitionId(0)), None, Some(b"v"), &[], None).unwrap();
        // Behind this the only file that is open is that of `one`.
        one.append(b"k", b"v").unwrap();
        let (snapshot, left) = (store.snapshot().unwrap(), Arc::clone(&none_left));
        *meanwhile.lock().unwrap() = Some(Box::new(move || {
            left.store(true, Ordering::SeqCst);
            let read = snapshot.read("lines", PartitionId(0), LogOffset(0), |_| Ok(Step::Next));
            assert_eq!(read.unwrap_err().kind(), ErrorKind::Unavailable);
        }));
        one.append(b"k", b"v").unwrap();
        assert!(none_left.swap(false, Ordering::SeqCst), "a commit without a sync");
    }
    assert_eq!(store.offsets("one", PartitionId(0)).unwrap().1.0, 6);
    assert_eq!(store.snapshot().unwrap().read("one", PartitionId(0), LogOffset(0), |_| Ok(Step::Next)).unwrap().0, 6);
    store.close().unwrap();
}

/// Whoever is about to open a file of a topic that is deleted at that moment is told that, and of no damage.
#[test]
fn a_topic_that_is_deleted_while_its_file_is_opened_is_not_damaged() {
    type Look = fn(&Store) -> oncelog::Result<u64>;
    let looks: [Look; 3] = [
        |store| {
            let mut consumer = store.consumer(ONE, ConsumerStyle::NonTx(Whence::Oldest))?;
            consumer.next().transpose().map(|record| u64::from(record.is_some()))
        },
        |store| store.snapshot()?.read("one", PartitionId(0), LogOffset(0), |_| Ok(Step::Next)).map(|next| next.0),
        |store| store.offset_at_time("one", PartitionId(0), 1).map(|offset| offset.0),
    ];
    for look in looks {
        let disk = Arc::new(MemoryDisk::default());
        let store = on(&disk, |_| Ok(())).manual_duties().open("/s").unwrap();
        store.producer(ONE).unwrap().append(b"k", b"v").unwrap();
        store.close().unwrap();
        let meanwhile = Arc::new(Mutex::new(None::<Store>));
        let inside = Arc::clone(&meanwhile);
        let hook = move |event: Event<'_>| {
            // The index of a segment is opened before the segment is.
            let is_index = |path: &Path| path.extension().is_some_and(|kind| kind == "index");
            if matches!(event, Event::Open(path, OpenMode::Read) if is_index(path)) {
                let store = inside.lock().unwrap().take();
                store.into_iter().for_each(|store| store.delete_topic("one").unwrap());
            }
            Ok(())
        };
        let store = on(&disk, hook).manual_duties().open("/s").unwrap();
        *meanwhile.lock().unwrap() = Some(store.clone());
        let told = look(&store).unwrap_err();
        assert!(meanwhile.lock().unwrap().is_none(), "no index was opened");
        assert_eq!(told.kind(), ErrorKind::NotFound, "{told}");
        store.close().unwrap();
    }
}

/// Whether a topic or a table was made is in doubt: whoever waited to make it too must not take over its claim, which
/// is the right one if it was.
#[test]
fn a_name_whose_making_is_in_doubt_is_not_claimed_anew() {
    type Make = fn(&Store) -> oncelog::Result<()>;
    let makes: [Make; 2] = [
        |store| store.producer(ONE)?.append(b"k", b"v").map(drop),
        |store| store.transact(|tx| tx.table(ROWS)?.put("k", &1)),
    ];
    for make in makes {
        let disk = Arc::new(MemoryDisk::default());
        let meanwhile = Arc::new(Mutex::new(None::<Store>));
        let (other, theirs) = (Arc::new(Mutex::new(None)), Arc::clone(&meanwhile));
        let others = Arc::clone(&other);
        let hook = move |event: Event<'_>| match event {
            Event::Sync(_, SyncSite::JournalGroup) => {
                let Some(store) = theirs.lock().unwrap().take() else { return Ok(()) };
                *others.lock().unwrap() = Some(std::thread::spawn(move || make(&store)));
                // It has seen that the store is open, and waits for its turn.
                std::thread::sleep(Duration::from_millis(50));
                Err(io::Error::other("a failure on purpose"))
            }
            _ => Ok(()),
        };
        let store = on(&disk, hook).manual_duties().open("/s").unwrap();
        *meanwhile.lock().unwrap() = Some(store.clone());
        assert_eq!(make(&store).unwrap_err().kind(), ErrorKind::InDoubt);
        let other = other.lock().unwrap().take().unwrap();
        assert_eq!(other.join().unwrap().unwrap_err().kind(), ErrorKind::Closed);
        drop(store);
        let store = on(&disk, |_| Ok(())).open("/s").unwrap();
        make(&store).unwrap();
        store.close().unwrap();
    }
}

#[test]
fn a_failed_making_of_a_store_leaves_that_of_another_process_alone() {
    let disk = Arc::new(MemoryDisk::default());
    let first: Arc<Mutex<Option<Store>>> = Arc::default();
    let (theirs, made) = (Arc::clone(&disk), Arc::clone(&first));
    let hook = move |event: Event<'_>| match event {
        Event::Open(path, OpenMode::Create) if path.ends_with("MANIFEST") => {
            let faster = on(&theirs, |_| Ok(())).open("/s").unwrap();
            faster.producer(ONE).unwrap().append(b"k", b"v").unwrap();
            *made.lock().unwrap() = Some(faster);
            Err(io::Error::other("out of descriptors"))
        }
        _ => Ok(()),
    };
    assert!(on(&disk, hook).open("/s").is_err());
    first.lock().unwrap().take().unwrap().close().unwrap();
    let again = on(&disk, |_| Ok(())).open("/s").unwrap();
    assert_eq!(again.offsets("one", PartitionId(0)).unwrap().1.0, 1);
}

/// A disk whose next sync of the journal panics when the flag is set.
fn panicking() -> (StoreOptions, Arc<AtomicBool>) {
    let panics = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&panics);
    let hook = move |event: Event<'_>| {
        let hit = matches!(event, Event::Sync(_, SyncSite::JournalGroup)) && theirs.swap(false, Ordering::SeqCst);
        assert!(!hit, "the disk panics");
        Ok(())
    };
    (on(&Arc::default(), hook), panics)
}

#[test]
fn a_panic_of_the_disk_is_an_answer_to_those_who_wait() {
    let (options, panics) = panicking();
    let store = options.open("/s").unwrap();
    let producer = store.producer(ONE).unwrap();
    panics.store(true, Ordering::SeqCst);
    let pending = producer.submit(b"k", b"v").unwrap();
    // The background leads, and panics.
    while !pending.is_done() {
        std::thread::yield_now();
    }
    assert_eq!(pending.wait().unwrap_err().kind(), ErrorKind::InDoubt);
    assert_eq!(producer.append(b"k", b"v").unwrap_err().kind(), ErrorKind::Closed);
}

/// What a sync that panicked has lost no later sync brings back.
#[test]
fn a_flush_in_which_the_disk_panics_ends_the_handle() {
    let (options, panics) = panicking();
    let store = options.manual_duties().open("/s").unwrap();
    let lax = store.producer(ONE).unwrap().sync_policy(SyncPolicy::Os);
    lax.append(b"k", b"v").unwrap();
    panics.store(true, Ordering::SeqCst);
    let flushed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| store.flush()));
    assert!(flushed.is_err(), "no sync");
    assert_eq!(store.flush().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(lax.append(b"k", b"v").unwrap_err().kind(), ErrorKind::Closed);
}

/// Of one whose process has ended, and of one that may still live: then the name of a table file stays, empty.
#[test]
fn a_recovery_without_space_gives_back_what_it_took() {
    for (process, stays) in [(2, 0), (1, 1)] {
        let disk = Arc::new(MemoryDisk::default());
        let full = |event: Event<'_>| match event {
            Event::Write(path, _) if path.extension().is_some_and(|kind| kind == "table") => {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        };
        let dead = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&dead);
        let dies =
            move |_: Event<'_>| if theirs.load(Ordering::SeqCst) { Err(io::Error::other("dead")) } else { Ok(()) };
        let store = on(&disk, dies).simulated_process(1).manual_duties().open("/s").unwrap();
        for _ in 0..100 {
            store.producer(ONE).unwrap().append(b"k", &[1; 500]).unwrap();
        }
        dead.store(true, Ordering::SeqCst);
        assert!(store.close().is_err());
        let files = || count(&disk, Path::new("/s"));
        let before = files();
        for _ in 0..3 {
            let opened = on(&disk, full).simulated_process(process).open("/s");
            assert_eq!(opened.unwrap_err().kind(), ErrorKind::Full);
            // What the crash left may go, nothing may come.
            assert!(files() <= before + stays);
        }
        let again = on(&disk, |_| Ok(())).simulated_process(process).open("/s").unwrap();
        assert_eq!(again.offsets("one", PartitionId(0)).unwrap().1.0, 100);
        assert_eq!(disk.list(Path::new("/s/owners/main/state")).unwrap().len(), 1);
    }
}

#[test]
fn a_claim_that_is_made_again_and_fails_stays() {
    let fails = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&fails);
    let hook = move |event: Event<'_>| match event {
        Event::SyncDir(dir, _) if dir.ends_with("consumers/audit") && theirs.load(Ordering::SeqCst) => {
            Err(io::Error::other("the sync fails"))
        }
        _ => Ok(()),
    };
    let disk = Arc::default();
    let store = on(&disk, hook.clone()).open("/s").unwrap();
    let audit = || ConsumerStyle::ClientTx("audit".to_owned());
    drop(store.consumer(ONE, audit()).unwrap());
    // Its progress is gone with the topic, the name is not.
    store.delete_topic("one").unwrap();
    // In an opening that does not remember that the name is its own.
    store.close().unwrap();
    let store = on(&disk, hook).open("/s").unwrap();
    fails.store(true, Ordering::SeqCst);
    assert!(store.consumer(LINES, audit()).is_err());
    let other = on(&disk, |_| Ok(())).attach("/s", "other").unwrap();
    let refused = other.consumer(TopicDef::<Bytes, Bytes>::new("of the other"), audit()).err().unwrap();
    assert_eq!((refused.kind(), refused.holder_owner()), (ErrorKind::Locked, Some("main")));
    fails.store(false, Ordering::SeqCst);
    store.consumer(LINES, audit()).unwrap();
}

/// The rows of stamps follow from those before: what they were at the trim point must be in it.
#[test]
fn a_producer_that_goes_on_during_a_trim_is_known_after_a_crash() {
    let (dead, inside) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None::<Box<dyn FnOnce() + Send>>)));
    let (theirs, meanwhile) = (Arc::clone(&dead), Arc::clone(&inside));
    let hook = move |event: Event<'_>| {
        if theirs.load(Ordering::SeqCst) {
            return Err(io::Error::other("dead"));
        }
        if let Event::Sync(_, SyncSite::Segment) = event {
            let act = meanwhile.lock().unwrap().take();
            act.into_iter().for_each(|act| act());
        }
        Ok(())
    };
    let disk = Arc::default();
    let store = on(&disk, hook).manual_duties().open("/s").unwrap();
    let gate = Arc::new(store.idempotent_producer(ONE, IdempotentProducerConfig::new("gate")).unwrap());
    (0..5).for_each(|_| gate.append(b"k", b"before").map(drop).unwrap());
    let theirs = Arc::clone(&gate);
    *inside.lock().unwrap() =
        Some(Box::new(move || (0..5).for_each(|_| theirs.append(b"k", b"during").map(drop).unwrap())));
    store.trim().unwrap();
    gate.append(b"k", b"behind").unwrap();
    dead.store(true, Ordering::SeqCst);
    drop(gate);
    assert!(store.close().is_err());
    inside.lock().unwrap().take();
    let again = on(&disk, |_| Ok(())).open("/s").unwrap();
    assert_eq!(again.recovery_report().frames, 6);
    let gate = again.idempotent_producer(ONE, IdempotentProducerConfig::new("gate")).unwrap();
    assert_eq!(gate.current_sequence().0, 11);
}

/// With a background that trims, and without.
#[test]
fn a_full_disk_under_a_full_table_memory_is_told_and_passes() {
    const ROWS: TableDef<U64, Utf8> = TableDef::new("rows");
    for manual in [false, true] {
        let full = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&full);
        let hook = move |event: Event<'_>| match event {
            Event::Write(path, _) if path.extension().is_some_and(|kind| kind == "table") => {
                if theirs.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
            }
            _ => Ok(()),
        };
        let options = on(&Arc::default(), hook).table_memory(1 << 20);
        let store = if manual { options.manual_duties() } else { options }.open("/s").unwrap();
        let value = "v".repeat(1000);
        let put = |n: u64| store.transact(|tx| tx.table(ROWS)?.put(&n, &value));
        put(0).unwrap();
        full.store(true, Ordering::SeqCst);
        let done = (1..2000).take_while(|n| match put(*n) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Full);
                false
            }
        });
        let done = done.count() as u64;
        assert!((100..1999).contains(&done), "{done}");
        assert_eq!(store.snapshot().unwrap().scan(ROWS, ..).unwrap().len() as u64, done + 1);
        full.store(false, Ordering::SeqCst);
        (done + 1..2000).try_for_each(put).unwrap();
        assert_eq!(store.snapshot().unwrap().scan(ROWS, ..).unwrap().len(), 2000);
        store.close().unwrap();
    }
}

/// Journal files cannot be made any more, and those that are there are filled to the last frame.
#[test]
fn a_full_disk_is_synced_and_trimmed_without_a_frame_and_then_goes_on() {
    for closes_at_once in [false, true] {
        let full = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&full);
        let hook = move |event: Event<'_>| match event {
            Event::Open(path, OpenMode::CreateNew) if path.extension().is_some_and(|kind| kind == "journal") => {
                if theirs.load(Ordering::SeqCst) {
                    Err(io::ErrorKind::StorageFull.into())
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        };
        let disk = Arc::default();
        let store = on(&disk, hook).manual_duties().open("/s").unwrap();
        let producer = store.producer(ONE).unwrap().sync_policy(SyncPolicy::Os);
        let mut appended = 0;
        let mut append = |value: &[u8]| producer.append(b"k", value).map(|_| appended += 1);
        (0..90).for_each(|_| append(&[1; 1000]).unwrap());
        full.store(true, Ordering::SeqCst);
        for value in [&[1; 1000][..], b""] {
            let error = (0..1000).find_map(|_| append(value).err());
            assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::Full));
        }
        if !closes_at_once {
            store.flush().unwrap();
            store.trim().unwrap();
            (0..10).for_each(|_| append(&[1; 1000]).unwrap());
        }
        store.close().unwrap();
        full.store(false, Ordering::SeqCst);
        let again = on(&disk, |_| Ok(())).open("/s").unwrap();
        assert!(again.recovery_report().clean);
        assert_eq!(again.offsets("one", PartitionId(0)).unwrap().1.0, appended);
    }
}

fn count(disk: &MemoryDisk, dir: &Path) -> usize {
    let inside = |path: &PathBuf| if disk.list(path).is_ok() { count(disk, path) } else { 1 };
    disk.list(dir).unwrap().iter().map(inside).sum()
}

#[test]
fn a_processor_stops_while_its_function_asks_for_another_try() {
    let store = Store::in_memory().unwrap();
    store.producer(ONE).unwrap().append(b"k", b"v").unwrap();
    let run = Processor::new("p", ONE).start(&store, |_, _| Ok(Outcome::Retry)).unwrap();
    let (ended, wait) = mpsc::channel();
    let stopping = std::thread::spawn(move || ended.send(run.stop()).unwrap());
    wait.recv_timeout(Duration::from_secs(60)).expect("it stops").unwrap();
    stopping.join().unwrap();
}

#[test]
fn a_break_ends_a_processor() {
    let store = Store::in_memory().unwrap();
    store.producer(ONE).unwrap().append(b"k", b"v").unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&calls);
    let count = move |_: oncelog::RecordRef<'_, Bytes, Bytes>, _: &mut oncelog::Tx<'_>| {
        theirs.fetch_add(1, Ordering::SeqCst);
        Ok(Outcome::Break)
    };
    let run = Processor::new("p", ONE).start(&store, count).unwrap();
    while !run.is_finished() {
        std::thread::yield_now();
    }
    run.stop().unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    assert_eq!(store.committed_offsets("p", "one").unwrap()[0].0, 0);
}

#[test]
fn a_transaction_that_always_loses_to_itself_is_told() {
    let store = Store::in_memory().unwrap();
    store.transact(|tx| tx.table(ROWS)?.put("k", &0)).unwrap();
    let mut runs = 0u64;
    let lost = store.transact(|tx| {
        runs += 1;
        let seen = tx.table(ROWS)?.get("k")?;
        assert!(seen.is_some());
        // Another transaction, within: it changes what this one has read.
        store.transact(|inner| inner.table(ROWS)?.put("k", &runs))?;
        tx.table(ROWS)?.put("other", &1)
    });
    assert_eq!(lost.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(store.snapshot().unwrap().get(ROWS, "other").unwrap(), None);
}

#[test]
fn a_thread_that_only_submits_does_not_keep_the_trim_point_from_moving() {
    let states = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&states);
    let hook = move |event: Event<'_>| {
        if let Event::Sync(_, SyncSite::TableFile) = event {
            theirs.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    };
    let store = on(&Arc::default(), hook).trim_bytes(128 << 10).queue_bytes(32 << 10).open("/s").unwrap();
    let producer = store.producer(ONE).unwrap();
    let mut submitted = 0;
    while states.load(Ordering::SeqCst) < 4 {
        drop(producer.submit(b"k", &[1; 1000]).unwrap());
        submitted += 1;
        assert!(submitted < 1_000_000, "a gigabyte without a trim");
    }
}

#[test]
fn wild_numbers_under_right_checksums_are_corrupt() {
    // next LSN, position, epoch of a manifest (docs/format.md)
    for (at, value) in [(144, 0), (136, u64::MAX - 7), (136, 1), (104, u64::MAX)] {
        let disk = Arc::new(MemoryDisk::default());
        let store = on(&disk, |_| Ok(())).open("/s").unwrap();
        store.producer(ONE).unwrap().append(b"k", b"v").unwrap();
        store.close().unwrap();
        let file = disk.open(Path::new("/s/owners/main/MANIFEST"), OpenMode::Write).unwrap();
        for copy in [8192, 12288] {
            let mut bytes = [0; 256];
            file.read_full_at(&mut bytes, copy).unwrap();
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            let sum = crc32c::crc32c(&bytes[..252]);
            bytes[252..].copy_from_slice(&sum.to_le_bytes());
            file.write_all_at(&bytes, copy).unwrap();
        }
        drop(file);
        let error = on(&disk, |_| Ok(())).open("/s").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{at} = {value}: {error}");
    }
}

#[test]
fn never_trimming_by_itself_is_allowed() {
    let store = on(&Arc::default(), |_| Ok(())).trim_bytes(u64::MAX).open("/s").unwrap();
    store.producer(ONE).unwrap().append(b"k", b"v").unwrap();
    store.trim().unwrap();
    store.close().unwrap();
}
