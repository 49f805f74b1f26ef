//! A whole store in orders by chance: producers, a processor, readers, trims, the background and a close, each on
//! threads of its own, over the embedded library and a disk in memory. Shuttle alone runs these: loom would never end.
//!
//! Time stands still, so what only time would bring (a sync of lax appends, the end of a linger) a flush brings here.
//! Each call into the library and each call to the disk is one step: see [`plain`](crate::wake::plain).

#![allow(clippy::unwrap_used, reason = "a model fails by panicking")]

#[path = "../../tests/common/hooked_disk.rs"]
mod hooked_disk;

use std::io;
use std::time::Duration;

use hooked_disk::{Event, over};

use super::{Snapshot, Store, StoreOptions, StoreReader};
use crate::clock::Clock;
use crate::codec::U64;
use crate::consumer::Outcome;
use crate::disk::MemoryDisk;
use crate::error::ErrorKind;
use crate::handles::{Processor, SyncPolicy, TableDef, TopicDef};
use crate::ids::{LogOffset, PartitionId};
use crate::transaction::Step;
use crate::wake::models::explore_so_many;
use crate::wake::plain::AtomicBool;
use crate::wake::{Arc, Ordering, RaceSite, Thread, leave_out, spawn, yield_now};

const ACCOUNTS: TableDef<U64, U64> = TableDef::new("accounts");
const COUNTS: TableDef<U64, U64> = TableDef::new("counts");
const EVENTS: TopicDef<U64, U64> = TopicDef::new("events").file_roll_size(1024);
const OTHER: TopicDef<U64, U64> = TopicDef::new("other");

/// Time stands still.
struct Noon;

impl Clock for Noon {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _pause: Duration) {
        yield_now();
    }
}

/// As many orders as `ONCELOG_STORE_SCHEDULES` says, since each of them takes milliseconds.
fn check(model: fn()) {
    let count = std::env::var("ONCELOG_STORE_SCHEDULES").map_or(300, |count| count.parse().unwrap());
    explore_so_many(count, 3, model);
}

/// The proof that `model` can fail: without the step at `site`, it does.
fn check_needs(site: RaceSite, model: fn()) {
    leave_out(Some(site));
    let ran = std::panic::catch_unwind(|| explore_so_many(4000, 3, model));
    leave_out(None);
    assert!(ran.is_err(), "nothing noticed that {site:?} was left out");
}

fn options(disk: &Arc<MemoryDisk>) -> StoreOptions {
    let options = StoreOptions::new().disk(Arc::clone(disk) as _).clock(Arc::new(Noon)).seed(1);
    options.journal_file_bytes(4096).trim_bytes(1024)
}

fn open(disk: &Arc<MemoryDisk>) -> Store {
    options(disk).open("/s").unwrap()
}

fn thread<T: Send + 'static>(store: &Store, run: impl FnOnce(&Store) -> T + Send + 'static) -> Thread<T> {
    let store = store.clone();
    spawn("caller".to_owned(), move || run(&store)).unwrap()
}

fn number(bytes: Option<&[u8]>) -> u64 {
    u64::from_be_bytes(bytes.unwrap().try_into().unwrap())
}

/// Keys and values of the records that a snapshot shows, in order.
fn records(snapshot: &Snapshot) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let read = snapshot.read("events", PartitionId(0), LogOffset(0), |record| {
        assert_eq!(record.offset.0, found.len() as u64, "offsets are dense");
        found.push((number(record.key), number(record.value)));
        Ok(Step::Next)
    });
    match read {
        Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        Ok(end) => assert_eq!(end.0, found.len() as u64),
    }
    found
}

/// The records of each key count up from 0: in order, none lost, none doubled.
fn assert_in_order(records: &[(u64, u64)]) {
    for key in 0..9 {
        let own = records.iter().filter(|(from, _)| *from == key).map(|(_, n)| *n);
        assert!(own.enumerate().all(|(at, n)| at as u64 == n), "in order, once: {records:?}");
    }
}

/// Moves one coin between two accounts and says so in a topic, in one transaction.
fn transfer(store: &Store, key: u64, n: u64) {
    let moved = store.transact(|tx| {
        let mut accounts = tx.table(ACCOUNTS)?;
        let (from, to) = (accounts.get(&(n % 2))?.unwrap_or(0), accounts.get(&((n + 1) % 2))?.unwrap_or(0));
        accounts.put(&(n % 2), &(from - 1))?;
        accounts.put(&((n + 1) % 2), &(to + 1))?;
        tx.append(EVENTS, &key, &n)
    });
    moved.unwrap();
}

fn coins(snapshot: &Snapshot) -> u64 {
    snapshot.scan(ACCOUNTS, ..).unwrap().into_iter().map(|(_, coins)| coins).sum()
}

fn transfers_beside_snapshots_and_trims() {
    let disk = Arc::new(MemoryDisk::default());
    let store = open(&disk);
    store.transact(|tx| (0..2).try_for_each(|n| tx.table(ACCOUNTS)?.put(&n, &50))).unwrap();
    let writers = [0, 1].map(|key| thread(&store, move |store| (0..2).for_each(|n| transfer(store, key, n))));
    let trims = thread(&store, |store| store.trim().unwrap());
    let snapshot = store.snapshot().unwrap();
    let seen = records(&snapshot);
    assert_in_order(&seen);
    assert_eq!(coins(&snapshot), 100, "one state");
    store.flush().unwrap();
    assert_eq!((records(&snapshot), coins(&snapshot)), (seen, 100), "the same state later");
    drop(snapshot);
    writers.into_iter().for_each(|writer| writer.join().unwrap());
    trims.join().unwrap();
    store.close().unwrap();
    let store = open(&disk);
    let snapshot = store.snapshot().unwrap();
    assert_eq!((records(&snapshot).len(), coins(&snapshot)), (4, 100));
    assert_in_order(&records(&snapshot));
}

#[test]
fn transactions_are_seen_whole_and_never_taken_back() {
    check(transfers_beside_snapshots_and_trims);
}

/// One producer waits for each sync, one hands over, one gathers records; a processor counts them all.
fn a_processor_beside_producers_of_every_kind() {
    let disk = Arc::new(MemoryDisk::default());
    let store = open(&disk);
    let run = Processor::new("counter", EVENTS).table(COUNTS).commit_records(2).start(&store, |record, tx| {
        let mut counts = tx.table(COUNTS)?;
        let next = counts.get(&record.key()?)?.unwrap_or(0);
        assert_eq!(record.value()?, next, "each record once, in order");
        counts.put(&record.key()?, &(next + 1))?;
        Ok(Outcome::Commit)
    });
    let run = run.unwrap();
    let always = thread(&store, |store| {
        let events = store.producer(EVENTS).unwrap();
        let handed_over = events.submit(&0, &0).unwrap();
        events.append(&0, &1).unwrap();
        handed_over.wait().unwrap();
    });
    let lingers = thread(&store, |store| {
        let events = store.producer(EVENTS).unwrap().sync_policy(SyncPolicy::Os).linger(Duration::from_secs(1));
        for n in 0..2 {
            events.append(&1, &n).unwrap();
        }
        events.flush().unwrap();
    });
    always.join().unwrap();
    lingers.join().unwrap();
    while run.processed() < 4 && !run.is_finished() {
        yield_now();
    }
    run.stop().unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.scan(COUNTS, ..).unwrap(), [(0, 2), (1, 2)]);
    assert_in_order(&records(&snapshot));
    drop(snapshot);
    store.close().unwrap();
}

#[test]
fn a_processor_counts_each_record_once() {
    check(a_processor_beside_producers_of_every_kind);
}

/// A reader by the shared page, as one in another process is, while the owner writes, trims and rolls.
fn a_reader_beside_its_owner() {
    let disk = Arc::new(MemoryDisk::default());
    let store = open(&disk);
    let events = store.producer(EVENTS).unwrap();
    events.append(&0, &0).unwrap();
    let (theirs, clock) = (Arc::clone(&disk), Arc::new(Noon));
    let reads = spawn("reader".to_owned(), move || {
        let reader = StoreReader::options().disk(theirs).clock(clock).open("/s").unwrap();
        let mut before = 0;
        for _ in 0..2 {
            let mut seen = Vec::new();
            let read = reader.snapshot().unwrap().read("events", PartitionId(0), LogOffset(0), |record| {
                seen.push((number(record.key), number(record.value)));
                Ok(Step::Next)
            });
            assert_eq!(read.unwrap().0, seen.len() as u64);
            assert_in_order(&seen);
            assert!(seen.len() >= before, "taken back");
            before = seen.len();
        }
    });
    let trims = thread(&store, |store| store.trim().unwrap());
    for n in 1..4 {
        events.append(&0, &n).unwrap();
    }
    reads.unwrap().join().unwrap();
    trims.join().unwrap();
    drop(events);
    store.close().unwrap();
}

#[test]
fn a_reader_sees_whole_records_in_order() {
    check(a_reader_beside_its_owner);
}

fn writers_while_it_is_closed() {
    let disk = Arc::new(MemoryDisk::default());
    let store = open(&disk);
    let writers = [0, 1].map(|key| {
        let events = store.producer(EVENTS).unwrap();
        let writes = move || (0..2).map(|n| events.append(&key, &n)).take_while(Result::is_ok).count();
        spawn("writer".to_owned(), writes).unwrap()
    });
    store.close().unwrap();
    let answered = writers.map(|writer| writer.join().unwrap());
    let store = open(&disk);
    let seen = records(&store.snapshot().unwrap());
    assert_in_order(&seen);
    for (key, count) in (0..).zip(answered) {
        assert_eq!(seen.iter().filter(|(from, _)| *from == key).count(), count, "answered is found, and nothing else");
    }
}

#[test]
fn what_was_answered_before_a_close_is_found_behind_it() {
    check(writers_while_it_is_closed);
}

/// Two flush what one has gathered: neither returns before it has its place.
fn two_flush_a_gathered_record() {
    let store = open(&Arc::new(MemoryDisk::default()));
    let events = store.producer(EVENTS).unwrap().sync_policy(SyncPolicy::Os).linger(Duration::from_secs(1));
    events.append(&0, &0).unwrap();
    let other = thread(&store, |store| store.flush().unwrap());
    store.flush().unwrap();
    assert_eq!(records(&store.snapshot().unwrap()), [(0, 0)], "flushed and not shown");
    other.join().unwrap();
}

#[test]
fn a_flush_covers_all_that_was_gathered_before_it() {
    check(two_flush_a_gathered_record);
    check_needs(RaceSite::SealingLock, two_flush_a_gathered_record);
}

/// Who makes a topic has the turn of the catalogue, and with a full queue leads while it has it.
fn a_topic_is_made_beside_a_trim() {
    let disk = Arc::new(MemoryDisk::default());
    let store = options(&disk).queue_bytes(0).trim_bytes(1 << 20).manual_duties().open("/s").unwrap();
    let events = store.producer(EVENTS).unwrap();
    drop(store.producer(OTHER).unwrap());
    store.delete_topic("other").unwrap();
    let trims = thread(&store, |store| store.trim().unwrap());
    let makes = thread(&store, |store| drop(store.producer(OTHER).unwrap()));
    events.submit(&0, &0).unwrap().wait().unwrap();
    trims.join().unwrap();
    makes.join().unwrap();
    drop(events);
    store.close().unwrap();
}

#[test]
fn a_trim_holds_nobody_up_who_leads_for_others() {
    check(a_topic_is_made_beside_a_trim);
}

/// A group is durable and its records cannot be put in their place, while the trim point moves: afterwards all of it is
/// there, or nothing. A trim that took it for applied would keep its rows, and give up the frame that has its records.
fn a_group_that_cannot_be_applied_beside_a_trim() {
    let disk = Arc::new(MemoryDisk::default());
    let fails = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&fails);
    let over = over(Arc::clone(&disk) as _, move |event| match event {
        Event::Write(path, position)
            if position > 0
                && theirs.load(Ordering::SeqCst)
                && path.extension().is_some_and(|kind| kind == "segment") =>
        {
            Err(io::Error::other("a failure on purpose"))
        }
        _ => Ok(()),
    });
    let store = options(&disk).disk(over).trim_bytes(1 << 20).manual_duties().open("/s").unwrap();
    store.transact(|tx| (0..2).try_for_each(|n| tx.table(ACCOUNTS)?.put(&n, &50))).unwrap();
    let events = store.producer(EVENTS).unwrap();
    events.append(&0, &0).unwrap();
    fails.store(true, Ordering::SeqCst);
    let trims = thread(&store, |store| drop(store.trim()));
    let moved = store.transact(|tx| {
        tx.table(ACCOUNTS)?.put(&0, &49)?;
        tx.append(EVENTS, &0, &1)
    });
    assert_eq!(moved.unwrap_err().kind(), ErrorKind::InDoubt);
    trims.join().unwrap();
    drop((events, store));
    let store = open(&disk);
    let snapshot = store.snapshot().unwrap();
    let (records, coins) = (records(&snapshot).len(), coins(&snapshot));
    assert!(matches!((records, coins), (1, 100) | (2, 99)), "{records} records, {coins} coins");
}

#[test]
fn what_was_not_applied_is_not_trimmed() {
    check(a_group_that_cannot_be_applied_beside_a_trim);
    check_needs(RaceSite::TrimLooksForFailure, a_group_that_cannot_be_applied_beside_a_trim);
}
