//! Duplicates by ids of the outer world: once within what is remembered, and remembered for as long as was said.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for threads")]

#[path = "common/set_clock.rs"]
mod set_clock;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use oncelog::disk::MemoryDisk;
use oncelog::{
    Bytes, ConsumerStyle, Error, KeepIds, MessageId, Outcome, PartitionId, Processor, ProducerStamp, SeenIds, Sequence,
    Store, StoreOptions, TableDef, TopicDef, U64, Utf8,
};
use set_clock::SetClock;

const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");
const FOR_EVER: SeenIds = SeenIds::new("requests", KeepIds::for_ever());
const AN_HOUR: SeenIds = SeenIds::new("requests", KeepIds::for_time(Duration::from_secs(3600)));

#[derive(Default)]
struct Home {
    disk: Arc<MemoryDisk>,
    clock: Arc<SetClock>,
}

impl Home {
    fn options(&self) -> StoreOptions {
        let options = Store::options().disk(Arc::clone(&self.disk) as _).clock(Arc::clone(&self.clock) as _);
        options.journal_file_bytes(64 << 10)
    }

    /// Nothing happens but by the test's calls.
    fn open(&self) -> Store {
        self.options().manual_duties().open("/memory").unwrap()
    }
}

/// Counts once for each id.
fn take_in(store: &Store, ids: &SeenIds, id: impl AsRef<[u8]>) -> bool {
    store
        .transact(|tx| {
            let first_time = tx.first_time(ids.clone(), id.as_ref())?;
            if first_time {
                tx.table(ROWS)?.update("count", |count| count.unwrap_or(0) + 1)?;
            }
            Ok(first_time)
        })
        .unwrap()
}

fn count(store: &Store) -> u64 {
    store.snapshot().unwrap().get(ROWS, "count").unwrap().unwrap_or(0)
}

/// Rows that are kept for a name, by id and by age.
fn rows(store: &Store, name: &str) -> (usize, usize) {
    let snapshot = store.snapshot().unwrap();
    let rows = |prefix: &str| {
        let table: TableDef<Bytes, Bytes> = TableDef::named(format!("{prefix}.{name}"));
        snapshot.scan(table, ..).unwrap().len()
    };
    (rows("ids"), rows("ids-by-age"))
}

#[test]
fn each_id_is_taken_in_once_also_after_a_restart() {
    let home = Home::default();
    let store = home.open();
    let ids: [&[u8]; 5] = [b"b7c1", b"", &[0, 255, 0], "ü".as_bytes(), &[7; 4000]];
    for round in 0..2 {
        for id in ids {
            assert_eq!(take_in(&store, &FOR_EVER, id), round == 0);
        }
    }
    let others = SeenIds::new("others", KeepIds::for_ever());
    assert!(take_in(&store, &others, "b7c1"), "names do not know each other");
    store.close().unwrap();
    let store = home.open();
    for id in ids {
        assert!(store.snapshot().unwrap().has_seen(&FOR_EVER, id).unwrap());
        assert!(!take_in(&store, &FOR_EVER, id));
    }
    assert_eq!((count(&store), rows(&store, "requests")), (6, (5, 5)));
    let stamp = ProducerStamp::new("a:b", PartitionId(1), Sequence(2));
    assert!(take_in(&store, &FOR_EVER, MessageId::from(&stamp)) && !take_in(&store, &FOR_EVER, "a:b:1:2"));
}

#[test]
fn what_is_not_committed_was_not_seen() {
    let home = Home::default();
    let store = home.open();
    let mut given_up = store.begin().unwrap();
    assert!(given_up.tx().first_time(FOR_EVER, "a").unwrap());
    assert!(!given_up.tx().first_time(FOR_EVER, "a").unwrap(), "it knows its own");
    given_up.abort();
    let failed = store.transact(|tx| {
        assert!(tx.first_time(FOR_EVER, "a")?);
        Err::<(), _>(Error::user("no"))
    });
    assert!(failed.is_err());
    assert!(take_in(&store, &FOR_EVER, "a"));
    // Two at once: one meets a conflict, and is told so.
    let (mut one, mut other) = (store.begin().unwrap(), store.begin().unwrap());
    assert!(one.tx().first_time(FOR_EVER, "b").unwrap() && other.tx().first_time(FOR_EVER, "b").unwrap());
    one.commit().unwrap();
    assert_eq!(other.commit().unwrap_err().kind(), oncelog::ErrorKind::Conflict);
    assert!(!take_in(&store, &FOR_EVER, "b"));
}

#[test]
fn ids_are_remembered_for_that_time_whatever_the_wall_clock_says() {
    let home = Home::default();
    home.clock.jump(1_700_000_000_000);
    let store = home.open();
    assert!(take_in(&store, &AN_HOUR, "early"));
    home.clock.pass(1800);
    assert!(take_in(&store, &AN_HOUR, "late"));
    home.clock.jump(365 * 86_400_000);
    assert_eq!(store.forget_ids(&AN_HOUR).unwrap(), 0, "a wall clock that is put ahead");
    home.clock.jump(-2 * 365 * 86_400_000);
    home.clock.pass(1799);
    assert_eq!(store.forget_ids(&AN_HOUR).unwrap(), 0, "not a second sooner");
    store.close().unwrap();
    // The wall clock is behind: the store's clock goes on where it was.
    let store = home.open();
    assert_eq!(store.forget_ids(&AN_HOUR).unwrap(), 0);
    assert!(take_in(&store, &AN_HOUR, "later"));
    home.clock.pass(1);
    assert_eq!(store.forget_ids(&AN_HOUR).unwrap(), 1);
    assert!(!take_in(&store, &AN_HOUR, "late") && !take_in(&store, &AN_HOUR, "later"));
    assert!(take_in(&store, &AN_HOUR, "early"), "it was forgotten");
    home.clock.pass(4000);
    store.run_duties().unwrap();
    assert_eq!(rows(&store, "requests"), (0, 0), "by the duties too");
}

#[test]
fn the_last_are_those_that_came_last_and_not_those_with_greater_bytes() {
    const LAST: SeenIds = SeenIds::new("requests", KeepIds::last(10));
    let home = Home::default();
    let mut store = home.open();
    // All in one millisecond, each with smaller bytes than the one before, and over a restart with the clock set back.
    for number in (0..40_u8).rev() {
        assert!(take_in(&store, &LAST, [number]));
        if number == 5 {
            store.close().unwrap();
            home.clock.jump(-1_000_000);
            store = home.open();
        }
    }
    assert_eq!(store.forget_ids(&LAST).unwrap(), 30);
    let snapshot = store.snapshot().unwrap();
    for number in 0..40_u8 {
        assert_eq!(snapshot.has_seen(&LAST, [number]).unwrap(), number < 10, "{number}");
    }
}

#[test]
fn the_last_so_many_are_remembered() {
    const LAST: SeenIds = SeenIds::new("requests", KeepIds::last(100));
    let home = Home::default();
    let store = home.open();
    let id = |number: u32| format!("{number:x}");
    for number in 0..250 {
        home.clock.pass(1);
        assert!(take_in(&store, &LAST, id(number)));
        // What is given up does not count.
        let mut given_up = store.begin().unwrap();
        given_up.tx().first_time(LAST, format!("never {number}")).unwrap();
        given_up.abort();
        if number % 40 == 0 {
            store.forget_ids(&LAST).unwrap();
        }
        let kept = rows(&store, "requests").0;
        assert!(kept >= 100.min(number as usize + 1) && kept <= 141, "{kept} after {number}");
    }
    assert_eq!(store.forget_ids(&LAST).unwrap(), 9);
    assert_eq!(rows(&store, "requests"), (100, 100));
    let snapshot = store.snapshot().unwrap();
    for number in 0..250 {
        assert_eq!(snapshot.has_seen(&LAST, id(number)).unwrap(), number >= 150, "{number}");
    }
    // A limit by time besides, and one that was made narrower by a newer program.
    let both = SeenIds::new("requests", KeepIds::for_time(Duration::from_secs(50)).and_last(80));
    store.forget_ids(&both).unwrap();
    assert_eq!(rows(&store, "requests"), (50, 50));
    assert_eq!(store.forget_ids(&SeenIds::new("requests", KeepIds::last(0))).unwrap(), 50);
}

#[test]
fn forgetting_goes_in_steps_and_gets_through() {
    let ids = SeenIds::new("many", KeepIds::for_time(Duration::from_secs(10)).and_last(20_000));
    let home = Home::default();
    let store = home.open();
    let fill = |from: u32, to: u32| {
        for first in (from..to).step_by(1000) {
            store
                .transact(|tx| {
                    (first..first + 1000).try_for_each(|n| tx.first_time(ids.clone(), n.to_be_bytes()).map(drop))
                })
                .unwrap();
        }
    };
    fill(0, 30_000);
    let mut steps = 0;
    while rows(&store, "many").0 > 20_000 {
        let before = rows(&store, "many").0;
        store.run_duties().unwrap();
        assert!(before - rows(&store, "many").0 <= 4096, "a bounded number at a time");
        home.clock.pass(u64::from(steps == 0) * 5);
        steps += 1;
        assert!(steps < 20);
    }
    assert_eq!(rows(&store, "many"), (20_000, 20_000));
    home.clock.pass(10);
    assert_eq!(store.forget_ids(&ids).unwrap(), 20_000);
    assert_eq!(rows(&store, "many"), (0, 0));
}

/// Long ids under small limits: what goes is as many as fit into a transaction, and one name keeps no other waiting.
#[test]
fn long_ids_go_under_small_limits() {
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().manual_duties().max_record_bytes(8 << 10).max_transaction_bytes(16 << 10);
    let store = options.open(dir.path().join("store")).unwrap();
    let names = ["a", "b"].map(|name| SeenIds::new(name, KeepIds::for_time(Duration::ZERO)));
    for number in 0..100u32 {
        for ids in &names {
            take_in(&store, ids, [&number.to_be_bytes()[..], &[7; 2000]].concat());
        }
    }
    for _ in 0..3 {
        store.run_duties().unwrap();
    }
    assert_eq!((rows(&store, "a"), rows(&store, "b")), ((0, 0), (0, 0)));
    // Of those who use a name the one who remembers longest is right, and who forgets by hand changes nothing for them.
    let long = SeenIds::new("c", KeepIds::for_time(Duration::from_secs(3600)));
    let short = SeenIds::new("c", KeepIds::for_time(Duration::ZERO));
    assert!(take_in(&store, &long, "one") && take_in(&store, &short, "two"));
    store.run_duties().unwrap();
    assert_eq!(rows(&store, "c"), (2, 2));
    assert_eq!(store.forget_ids(&short).unwrap(), 2);
    assert!(take_in(&store, &long, "three"));
    store.run_duties().unwrap();
    assert!(!take_in(&store, &long, "three"));
}

#[test]
fn the_background_forgets_by_itself() {
    let ids = SeenIds::new("fast", KeepIds::for_time(Duration::ZERO));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().retention_interval(Duration::from_millis(20)).open(dir.path().join("store")).unwrap();
    for number in 0..50 {
        take_in(&store, &ids, [number]);
    }
    let started = Instant::now();
    while rows(&store, "fast") != (0, 0) {
        assert!(started.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(5));
    }
    store.close().unwrap();
}

#[test]
fn what_a_function_takes_back_was_not_seen() {
    const EVENTS: TopicDef<U64, Utf8> = TopicDef::new("events");
    let store = Store::in_memory().unwrap();
    let producer = store.producer(EVENTS).unwrap();
    for id in ["again", "again", "skip", "skip", "fine"] {
        producer.append(&0, id).unwrap();
    }
    let mut told = Vec::new();
    let mut consumer = store.consumer(EVENTS, ConsumerStyle::ClientTx("once".into())).unwrap();
    let processed = consumer.try_process(None, |event, tx| {
        let (id, first_time) = (event.value()?.to_owned(), tx.first_time(FOR_EVER, event.value()?)?);
        told.push((id.clone(), first_time));
        Ok(match (id.as_str(), told.len()) {
            ("again", 1) => Outcome::Retry,
            ("skip", _) => Outcome::Skip,
            _ => Outcome::Commit,
        })
    });
    assert_eq!(processed.unwrap(), 5);
    // Once more for the retry; what is skipped has no effects, and its mark is one.
    let expected = [("again", true), ("again", true), ("again", false), ("skip", true), ("skip", true), ("fine", true)];
    assert_eq!(told, expected.map(|(id, first)| (id.to_owned(), first)));
    drop((producer, consumer));
    store.close().unwrap();
}

#[test]
fn a_processor_of_several_threads_does_each_id_once() {
    const EVENTS: TopicDef<U64, Utf8> = TopicDef::new("events").partitions(4);
    const DONE: TableDef<U64, U64> = TableDef::new("done").shards(4);
    let store = Store::in_memory().unwrap();
    let producer = store.producer(EVENTS).unwrap();
    // Each id twice, in partitions by chance.
    for number in 0..400u64 {
        producer.append(&(number * 7), &format!("id {}", number % 200)).unwrap();
    }
    let run = Processor::new("once", EVENTS)
        .table(DONE)
        .threads(4)
        .commit_records(7)
        .start(&store, |event, tx| {
            if tx.first_time(FOR_EVER, event.value()?)? {
                tx.table(DONE)?.put(&event.key()?, &1)?;
            }
            Ok(Outcome::Commit)
        })
        .unwrap();
    assert!(run.wait_caught_up(Duration::from_secs(60)).unwrap());
    run.stop().unwrap();
    assert_eq!(store.snapshot().unwrap().scan(DONE, ..).unwrap().len(), 200);
    store.close().unwrap();
}
