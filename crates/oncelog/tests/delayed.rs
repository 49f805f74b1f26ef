//! Delayed records: they come when their time has come, once, in order, and not when they were taken back.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for threads")]

#[path = "common/set_clock.rs"]
mod set_clock;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncelog::{
    Bytes, ConsumerOptions, ConsumerStyle, ErrorKind, Header, MinimumRetention, Outcome, PartitionId, Processor,
    Result, Store, StoreOptions, SyncPolicy, TableDef, TopicDef, U64, Utf8, WhenFull, Whence,
};
use set_clock::SetClock;

const REMINDERS: TopicDef<Utf8, U64> = TopicDef::new("reminders").partitions(4);
const OTHERS: TopicDef<Utf8, U64> = TopicDef::new("others");
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

/// A store whose duties are done by hand, at a time that is set by hand.
fn by_hand() -> (Arc<SetClock>, StoreOptions) {
    let clock = Arc::new(SetClock::default());
    let options = Store::options().clock(Arc::clone(&clock) as _).manual_duties();
    (clock, options)
}

/// Values and timestamps of all that is there, by partition and offset.
fn found(store: &Store, topic: TopicDef<Utf8, U64>) -> Vec<(u64, i64)> {
    let options = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest));
    let records = store.consumer(topic, options).unwrap().map(|record| {
        let record = record.unwrap();
        (u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap()), record.timestamp_ms)
    });
    records.collect()
}

fn values(store: &Store, topic: TopicDef<Utf8, U64>) -> Vec<u64> {
    found(store, topic).into_iter().map(|(value, _)| value).collect()
}

#[test]
fn they_come_in_order_of_time_and_then_of_calls() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.clone().open(home.path())?;
    let reminders = store.producer(REMINDERS)?;
    for (due, value) in [(300, 5), (100, 1), (200, 3), (100, 2), (200, 4), (i64::MAX, 6), (-7, 0)] {
        reminders.append_at(due, "one key", &value)?;
    }
    assert!(values(&store, REMINDERS).is_empty());
    store.deliver_due()?;
    assert_eq!(found(&store, REMINDERS), [(0, 0)], "what was due before it was delayed comes at once");
    clock.pass_to(99);
    store.deliver_due()?;
    assert_eq!(values(&store, REMINDERS), [0]);
    clock.pass_to(205);
    store.deliver_due()?;
    store.deliver_due()?;
    assert_eq!(found(&store, REMINDERS), [(0, 0), (1, 205), (2, 205), (3, 205), (4, 205)]);
    drop(reminders);
    store.close()?;
    let store = options.open(home.path())?;
    assert_eq!(store.timers("reminders")?.iter().map(|timer| timer.due_ms).collect::<Vec<_>>(), [300, i64::MAX]);
    clock.pass_to(1000);
    store.run_duties()?;
    assert_eq!(values(&store, REMINDERS), [0, 1, 2, 3, 4, 5]);
    assert_eq!(store.timers("reminders")?.len(), 1);
    store.close()
}

#[test]
fn what_was_taken_back_never_comes() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    let reminders = store.producer(REMINDERS)?;
    let timers: Vec<_> = (0..10).map(|value| reminders.append_at(50, "k", &value).unwrap()).collect();
    assert!(timers.is_sorted());
    assert!(reminders.cancel(timers[3])?);
    assert!(!reminders.cancel(timers[3])?);
    store.transact(|tx| {
        assert!(tx.cancel(timers[5])?);
        assert!(!tx.cancel(timers[5])?, "a transaction sees its own");
        let again = tx.append_at(REMINDERS, 60, "k", &77)?;
        assert!(tx.cancel(again)?);
        tx.append_at(REMINDERS, 60, "k", &5).map(drop)
    })?;
    // One that is given up stages nothing.
    let mut gives_up = store.begin()?;
    gives_up.tx().cancel(timers[6])?;
    gives_up.tx().append_at(REMINDERS, 60, "k", &99)?;
    drop(gives_up);
    clock.pass_to(100);
    store.deliver_due()?;
    assert_eq!(values(&store, REMINDERS), [0, 1, 2, 4, 6, 7, 8, 9, 5]);
    assert!(!reminders.cancel(timers[0])?, "it is there, and waits no more");
    // Of two who have it, one gets it.
    let late = reminders.append_at(500, "k", &10)?;
    let mut one = store.begin()?;
    assert!(one.tx().cancel(late)?);
    assert!(reminders.cancel(late)?);
    assert_eq!(one.commit().unwrap_err().kind(), ErrorKind::Conflict);
    store.close()
}

#[test]
fn headers_partitions_and_tombstones_wait_as_they_are() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    let reminders = store.producer(REMINDERS)?;
    let headers = [Header { name: "why", value: Some(b"because") }, Header { name: "not", value: None }];
    reminders.append_record_at(5, Some(PartitionId(2)), Some("gone"), None, &headers)?;
    reminders.append("ann", &1)?;
    let has_one = |id| store.offsets("reminders", PartitionId(id)).unwrap().1.0 == 1;
    let route = (0..4).find(|id| has_one(*id)).unwrap();
    reminders.append_at(5, "ann", &2)?;
    let bad = reminders.append_record_at(5, Some(PartitionId(4)), None, Some(&1), &[]).unwrap_err();
    assert_eq!(bad.kind(), ErrorKind::Invalid, "{bad}");
    clock.pass_to(10);
    store.deliver_due()?;
    let snapshot = store.snapshot()?;
    let mut seen = 0;
    for partition in 0..4 {
        snapshot.read("reminders", PartitionId(partition), oncelog::LogOffset(0), |record| {
            if record.key == Some(b"gone") {
                assert_eq!((partition, record.value), (2, None));
                let headers: Vec<_> = record.headers().collect();
                assert_eq!(headers.len(), 2);
                assert_eq!((headers[0].name, headers[0].value), ("why", Some(&b"because"[..])));
                assert_eq!((headers[1].name, headers[1].value), ("not", None));
            } else {
                assert_eq!((record.key, partition), (Some(&b"ann"[..]), route), "as its key without a delay");
            }
            seen += 1;
            Ok(oncelog::Step::Next)
        })?;
    }
    assert_eq!(seen, 3);
    store.close()
}

/// More than are looked at at once, over several transactions; nothing of a full topic goes, everything of others does.
#[test]
fn a_full_topic_holds_up_no_other() -> Result<()> {
    const FULL: TopicDef<Bytes, Bytes> = TopicDef::new("full")
        .file_roll_size(2048)
        .max_total_bytes(8 << 10)
        .blocking_minimum_retention(MinimumRetention::Age(Duration::from_secs(1 << 30)));
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    let full = store.producer(FULL)?.when_full(WhenFull::Fail);
    while full.append(b"k", &[1; 500]).is_ok() {}
    let others = store.producer(OTHERS)?;
    store.transact(|tx| (0..1500).try_for_each(|_| tx.append_at(FULL, 10, b"k", &[2; 500]).map(drop)))?;
    store.transact(|tx| (0..3000).try_for_each(|value| tx.append_at(OTHERS, 11, "k", &value).map(drop)))?;
    clock.pass_to(20);
    store.deliver_due()?;
    assert_eq!(values(&store, OTHERS), (0..3000).collect::<Vec<_>>());
    assert_eq!(store.timers("full")?.len(), 1500);
    others.append_at(20, "k", &3000)?;
    store.deliver_due()?;
    assert_eq!(values(&store, OTHERS).len(), 3001, "also when the full one was seen before");
    // When there is room they come, some time after.
    let end = store.offsets("full", PartitionId(0))?.1;
    store.alter_topic("full", &oncelog::TopicChange::default().max_total_bytes(None))?;
    store.deliver_due()?;
    clock.pass_to(5000);
    store.deliver_due()?;
    assert_eq!(store.offsets("full", PartitionId(0))?.1.0, end.0 + 1500);
    assert_eq!(store.timers("full")?, []);
    store.close()
}

/// A topic that holds less than what is due at once: as much comes as there is room for, in order, and the rest when
/// its consumer has made room.
#[test]
fn more_is_due_than_there_is_room() -> Result<()> {
    const SMALL: TopicDef<Utf8, U64> = TopicDef::new("small")
        .file_roll_size(4096)
        .max_total_bytes(32 << 10)
        .blocking_minimum_retention(MinimumRetention::consumers(&["reads"]));
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    drop(store.producer(SMALL)?);
    store.transact(|tx| (0..2000).try_for_each(|value| tx.append_at(SMALL, 10, &"k".repeat(90), &value).map(drop)))?;
    clock.pass_to(20);
    let mut reader = store.consumer(SMALL, ConsumerStyle::ClientTx("reads".into()))?;
    let mut read = Vec::new();
    for _ in 0..200 {
        store.deliver_due()?;
        reader.try_process(None, |record, _| {
            read.push(record.value()?);
            Ok(Outcome::Commit)
        })?;
        store.retain()?;
        clock.pass(1);
    }
    assert_eq!(read, (0..2000).collect::<Vec<_>>());
    assert_eq!(store.stats().topics_held, 0);
    store.close()
}

/// What was within the limits when it was delayed comes, also under lower ones, and in transactions within them.
#[test]
fn limits_are_those_of_the_delay() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.clone().open(home.path())?;
    let others = store.producer(OTHERS)?;
    for value in 0..20 {
        others.append_at(5, &"k".repeat(10_000), &value)?;
    }
    drop(others);
    store.close()?;
    let store = options.max_record_bytes(4096).max_transaction_bytes(16 << 10).open(home.path())?;
    clock.pass_to(10);
    store.deliver_due()?;
    assert_eq!(values(&store, OTHERS), (0..20).collect::<Vec<_>>());
    store.close()
}

/// One that is held up does not make another late, and a clock that is set back does not hold it up for longer.
#[test]
fn who_is_held_up_waits_alone() -> Result<()> {
    const FULL: TopicDef<Bytes, Bytes> = TopicDef::new("full")
        .file_roll_size(2048)
        .max_total_bytes(8 << 10)
        .blocking_minimum_retention(MinimumRetention::Age(Duration::from_secs(1 << 30)));
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    let full = store.producer(FULL)?.when_full(WhenFull::Fail);
    while full.append(b"k", &[1; 500]).is_ok() {}
    full.append_at(10, b"k", &[2; 500])?;
    store.producer(OTHERS)?.append_at(120, "k", &1)?;
    clock.pass_to(100);
    store.run_duties()?;
    assert_eq!(store.stats().topics_held, 1);
    clock.pass_to(130);
    store.run_duties()?;
    assert_eq!(values(&store, OTHERS), [1]);
    store.close()
}

/// A consumer whose transactions begin with the first effect has delayed records too.
#[test]
fn a_consumer_without_transactions_of_its_own_delays_and_cancels() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    let reminders = store.producer(REMINDERS)?;
    let timers = [reminders.append_at(5, "k", &1)?, reminders.append_at(5, "k", &2)?];
    store.producer(OTHERS)?.append("k", &3)?;
    let mut consumer = store.consumer(OTHERS, ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)))?;
    consumer.try_process(None, |record, tx| {
        assert!(tx.cancel(timers[0])?);
        tx.append_at(REMINDERS, 5, "k", &record.value()?)?;
        Ok(Outcome::Commit)
    })?;
    clock.pass_to(10);
    store.deliver_due()?;
    assert_eq!(values(&store, REMINDERS), [2, 3]);
    store.close()
}

/// A record without a key is refused where none is taken, and comes where it was taken before.
#[test]
fn compacted_topics_want_keys_at_the_moment_of_the_delay() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.open(home.path())?;
    let others = store.producer(OTHERS)?;
    let keyless = || others.append_record_at(5, None, None, Some(&7), &[]);
    keyless()?;
    store.alter_topic("others", &oncelog::TopicChange::default().compaction(Some(oncelog::Compaction::default())))?;
    assert_eq!(keyless().unwrap_err().kind(), ErrorKind::Invalid);
    clock.pass_to(10);
    store.deliver_due()?;
    assert_eq!(values(&store, OTHERS), [7]);
    store.close()
}

#[test]
fn they_go_with_their_topic() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (clock, options) = by_hand();
    let store = options.clone().open(home.path())?;
    store.producer(OTHERS)?.append_at(10, "k", &1)?;
    store.producer(REMINDERS)?.append_at(10, "k", &2)?;
    store.delete_topic("others")?;
    assert_eq!(store.timers("others").unwrap_err().kind(), ErrorKind::NotFound);
    drop(store.producer(OTHERS)?);
    assert_eq!(store.timers("others")?, [], "one made anew inherits nothing");
    clock.pass_to(20);
    store.deliver_due()?;
    assert_eq!((values(&store, OTHERS), values(&store, REMINDERS)), (vec![], vec![2]));
    store.close()
}

/// By the background, at the time of day, also those of an earlier opening; a lax transaction too.
#[test]
fn the_background_brings_them() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path())?;
    let reminders = store.producer(REMINDERS)?.sync_policy(SyncPolicy::Os);
    reminders.append_after(Duration::from_secs(1), "k", &2)?;
    reminders.append_after(Duration::from_millis(50), "k", &1)?;
    let begun = Instant::now();
    while values(&store, REMINDERS).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(values(&store, REMINDERS), [1]);
    drop(reminders);
    store.close()?;
    let store = Store::open(home.path())?;
    while values(&store, REMINDERS).len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(values(&store, REMINDERS), [1, 2]);
    store.close()
}

/// A processor that reminds: what it delays is part of its commit.
#[test]
fn a_processor_delays_what_it_says() -> Result<()> {
    let store = Store::in_memory()?;
    let others = store.producer(OTHERS)?;
    (0..50).try_for_each(|value| others.append("k", &value).map(drop))?;
    let tries = AtomicU64::new(0);
    let processor = Processor::new("reminds", OTHERS).table(ROWS).output(REMINDERS);
    let run = processor.start(&store, move |record, tx| {
        tx.append_at(REMINDERS, 0, record.key()?, &record.value()?)?;
        Ok(if tries.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) { Outcome::Retry } else { Outcome::Commit })
    })?;
    run.wait_caught_up(Duration::from_secs(60))?;
    run.stop()?;
    let begun = Instant::now();
    while values(&store, REMINDERS).len() < 50 {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(values(&store, REMINDERS), (0..50).collect::<Vec<_>>());
    assert_eq!(store.timers("reminders")?, []);
    store.close()
}
