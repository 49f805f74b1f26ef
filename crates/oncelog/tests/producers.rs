//! Producers: when an append is durable, what it may expect, and what a record can carry.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hooked_disk::{Event, on};
use oncelog::clock::Clock;
use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{
    Bytes, Compression, ErrorKind, Header, LogOffset, PartitionId, Producer, Step, Store, StoreOptions, SyncPolicy,
    TopicDef, Utf8,
};

const EVENTS: TopicDef<Utf8, Bytes> = TopicDef::new("events");

/// A clock that the test moves, by milliseconds.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.0.load(Ordering::SeqCst)).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, _pause: Duration) {}
}

fn by_hand() -> (Store, Arc<Hand>) {
    let clock = Arc::new(Hand::default());
    let options = StoreOptions::new().disk(Arc::new(MemoryDisk::default())).clock(Arc::clone(&clock) as _);
    (options.journal_file_bytes(64 << 10).manual_duties().open("/memory").unwrap(), clock)
}

fn visible(store: &Store) -> u64 {
    store.offsets("events", PartitionId(0)).unwrap().1.0
}

fn producer(store: &Store, policy: SyncPolicy) -> Producer<Utf8, Bytes> {
    store.producer(EVENTS).unwrap().sync_policy(policy)
}

#[test]
fn periodic_syncs_when_the_time_is_over() {
    let (store, clock) = by_hand();
    let events = producer(&store, SyncPolicy::Periodic(Duration::from_millis(40)));
    events.append("k", b"v").unwrap();
    store.run_duties().unwrap();
    assert_eq!(visible(&store), 0, "not due");
    clock.0.store(40, Ordering::SeqCst);
    store.run_duties().unwrap();
    assert_eq!(visible(&store), 1);
}

#[test]
fn periodic_is_kept_by_the_background() {
    let store = Store::in_memory().unwrap();
    let events = producer(&store, SyncPolicy::Periodic(Duration::from_millis(20)));
    events.append("k", b"v").unwrap();
    let mut consumer = store.consumer(EVENTS, oncelog::ConsumerStyle::ClientTx("c".to_owned())).unwrap();
    // Waits for it; without the policy that would be some seconds.
    let clock = oncelog::clock::SystemClock::shared();
    let start = clock.monotonic();
    consumer.process(Some(1), |_, _| Ok(oncelog::Outcome::Commit)).unwrap();
    let waited = clock.monotonic() - start;
    assert!(waited < Duration::from_secs(1), "{waited:?}");
}

#[test]
fn bytes_syncs_with_the_append_that_fills_them() {
    let (store, _) = by_hand();
    let events = producer(&store, SyncPolicy::Bytes(30));
    for (appended, shown) in [(1, 0), (2, 0), (3, 3), (4, 3), (5, 3), (6, 6)] {
        assert_eq!(events.append("k", b"123456789").unwrap(), LogOffset(appended - 1));
        assert_eq!(visible(&store), shown, "after {appended}");
    }
    events.append_batch([("k", &[0; 40][..])]).unwrap();
    assert_eq!(visible(&store), 7);
}

#[test]
fn flush_makes_all_durable_under_any_policy() {
    for policy in
        [SyncPolicy::Always, SyncPolicy::Os, SyncPolicy::Periodic(Duration::from_secs(3)), SyncPolicy::Bytes(u64::MAX)]
    {
        let (store, _) = by_hand();
        let events = producer(&store, policy);
        events.append("k", b"v").unwrap();
        events.flush().unwrap();
        assert_eq!(visible(&store), 1, "{policy:?}");
    }
}

#[test]
fn an_append_that_expects_another_offset_writes_nothing() {
    let store = Store::in_memory().unwrap();
    let events = producer(&store, SyncPolicy::Always);
    let expecting = |offset| events.append_expecting(PartitionId(0), LogOffset(offset), "k", b"v");
    assert_eq!(expecting(0).unwrap(), LogOffset(0));
    for offset in [0, 2] {
        let error = expecting(offset).unwrap_err();
        assert_eq!((error.kind(), error.next_offset()), (ErrorKind::Conflict, Some(LogOffset(1))));
    }
    assert_eq!(expecting(1).unwrap(), LogOffset(1));
    assert_eq!(visible(&store), 2);
    assert_eq!(
        events.append_expecting(PartitionId(9), LogOffset(0), "k", b"v").unwrap_err().kind(),
        ErrorKind::Invalid
    );

    // Also without a record of its own, and taken back with what it was staged with.
    let mut tx = store.begin().unwrap();
    tx.tx().expect_offset(EVENTS, PartitionId(0), LogOffset(7)).unwrap();
    assert_eq!(tx.commit().unwrap_err().next_offset(), Some(LogOffset(2)));
    let mut tx = store.begin().unwrap();
    tx.tx().expect_offset(EVENTS, PartitionId(0), LogOffset(2)).unwrap();
    assert!(tx.commit().unwrap().appended.is_empty());
}

#[test]
fn of_many_threads_that_expect_one_offset_one_gets_it() {
    let store = Store::in_memory().unwrap();
    let events = producer(&store, SyncPolicy::Always);
    let won = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for offset in 0..50 {
                    match events.append_expecting(PartitionId(0), LogOffset(offset), "k", b"v") {
                        Ok(_) => drop(won.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict),
                    }
                }
            });
        }
    });
    assert_eq!(won.load(Ordering::SeqCst), visible(&store));
}

#[test]
fn a_record_carries_headers_and_time_through_every_form() {
    let store = Store::in_memory().unwrap();
    let headers = [Header { name: "trace", value: Some(b"7") }, Header { name: "empty", value: None }];
    let events = producer(&store, SyncPolicy::Always);
    events.append_record(None, Some("k"), Some(b"v"), &headers, Some(-5)).unwrap();
    store.transact(|tx| tx.append_record(EVENTS, None, Some("k"), None, &headers, Some(12))).unwrap();
    let config = oncelog::IdempotentProducerConfig::new("gate");
    store.idempotent_producer(EVENTS, config).unwrap().append_record(None, Some(b"v"), &headers, Some(13)).unwrap();
    let mut times = Vec::new();
    let visit = |record: oncelog::RecordView<'_>| {
        let found: Vec<_> = record.headers().collect();
        assert_eq!(found, headers);
        times.push((record.timestamp_ms, record.key.is_some(), record.value.is_some()));
        Ok(Step::Next)
    };
    store.snapshot().unwrap().read("events", PartitionId(0), LogOffset(0), visit).unwrap();
    assert_eq!(times, [(-5, true, true), (12, true, false), (13, false, true)]);
}

#[test]
fn gathered_records_have_their_offsets_at_once_and_are_written_in_time() {
    let (store, clock) = by_hand();
    let events = producer(&store, SyncPolicy::Os).linger(Duration::from_millis(10));
    for offset in 0..5 {
        assert_eq!(events.append("k", b"v").unwrap(), LogOffset(offset));
    }
    store.run_duties().unwrap();
    assert_eq!(store.offsets("events", PartitionId(0)).unwrap().1, LogOffset(0));
    // Whoever wants the turn comes behind what was gathered before.
    let plain = producer(&store, SyncPolicy::Always);
    assert_eq!(plain.append("k", b"w").unwrap(), LogOffset(5));
    assert_eq!(visible(&store), 6);
    events.append("k", b"x").unwrap();
    events.flush().unwrap();
    assert_eq!(visible(&store), 7, "a flush writes what is gathered");
    events.append("k", b"y").unwrap();
    clock.0.fetch_add(10, Ordering::SeqCst);
    store.run_duties().unwrap();
    clock.0.fetch_add(6000, Ordering::SeqCst);
    store.run_duties().unwrap();
    store.run_duties().unwrap();
    assert_eq!(visible(&store), 8, "written when it had lingered, and then synced in time");
    events.append("k", b"z").unwrap();
    store.close().unwrap();
}

#[test]
fn an_orderly_close_keeps_what_is_gathered() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || StoreOptions::new().disk(Arc::clone(&disk) as _).journal_file_bytes(64 << 10).open("/m").unwrap();
    let store = open();
    let events = producer(&store, SyncPolicy::Os).linger(Duration::from_secs(60)).batch_bytes(400);
    let large = vec![7; 3000];
    for n in 0..40 {
        let value: &[u8] = if n % 10 == 3 { &large } else { b"small" };
        assert_eq!(events.append("k", value).unwrap(), LogOffset(n));
    }
    drop(events);
    store.close().unwrap();
    let store = open();
    assert!(store.recovery_report().clean);
    assert_eq!(visible(&store), 40);
    let refused = producer(&store, SyncPolicy::Always).linger(Duration::from_millis(1)).append("k", b"v").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

#[test]
fn threads_that_gather_in_one_partition_share_batches_and_offsets_stay_dense() {
    let store = Store::in_memory().unwrap();
    let events = producer(&store, SyncPolicy::Periodic(Duration::from_millis(5))).linger(Duration::from_millis(1));
    let mut offsets: Vec<u64> = std::thread::scope(|scope| {
        let append = || (0..2000).map(|_| events.append("k", &[1; 100]).unwrap().0).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(append)).collect();
        let other = scope.spawn(|| {
            let plain = producer(&store, SyncPolicy::Always);
            (0..50).map(|_| plain.append("k", b"synced").unwrap().0).collect::<Vec<_>>()
        });
        threads.into_iter().chain([other]).flat_map(|thread| thread.join().unwrap()).collect()
    });
    offsets.sort_unstable();
    assert!(offsets.iter().copied().eq(0..8050));
    events.flush().unwrap();
    assert_eq!(visible(&store), 8050);
}

#[test]
fn a_batch_within_append_batch_is_as_large_as_the_producer_says() {
    let store = Store::in_memory().unwrap();
    let events = producer(&store, SyncPolicy::Always).batch_bytes(300);
    let records: Vec<(&str, &[u8])> = vec![("k", &[9; 100]); 20];
    let committed = events.append_batch(records).unwrap();
    assert_eq!((committed.appended.len(), committed.appended[0].count), (1, 20));
    assert_eq!(visible(&store), 20);
}

#[test]
fn a_compressed_topic_reads_as_it_was_written_and_takes_less_room() {
    let disk = Arc::new(MemoryDisk::default());
    let store = StoreOptions::new().disk(Arc::clone(&disk) as _).journal_file_bytes(1 << 20).open("/m").unwrap();
    let small = EVENTS.compression(Compression::Lz4);
    let events = store.producer(small).unwrap();
    let value = b"the same again and again, ".repeat(40);
    let committed = events.append_batch((0..200).map(|_| ("k", value.as_slice()))).unwrap();
    assert_eq!(committed.appended[0].count, 200);
    events.append("k", b"tiny").unwrap();
    let gathered = store.producer(EVENTS).unwrap().sync_policy(SyncPolicy::Os).linger(Duration::from_secs(1));
    (0..100).for_each(|_| assert!(gathered.append("k", &value).is_ok()));
    gathered.flush().unwrap();
    let mut seen = 0;
    let visit = |record: oncelog::RecordView<'_>| {
        let expected: &[u8] = if seen == 200 { b"tiny" } else { &value };
        assert_eq!((record.offset.0, record.value), (seen, Some(expected)));
        seen += 1;
        Ok(Step::Next)
    };
    store.snapshot().unwrap().read("events", PartitionId(0), LogOffset(0), visit).unwrap();
    assert_eq!(seen, 301);
    store.close().unwrap();
    let files = disk.list(Path::new("/m/topics/events/000000")).unwrap();
    let stored: u64 = files.iter().map(|path| disk.open(path, OpenMode::Read).unwrap().len().unwrap()).sum();
    assert!(stored < 60_000, "{stored} bytes for 300 times {}", value.len());
    if !Compression::Zstd.is_built_in() {
        let store = Store::in_memory().unwrap();
        let refused = store.producer(EVENTS.compression(Compression::Zstd)).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_record_beyond_what_is_ever_inflated_is_stored_as_it_is_and_read() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || {
        let options = StoreOptions::new().disk(Arc::clone(&disk) as _).journal_file_bytes(1 << 20);
        options.max_record_bytes(48 << 20).open("/m").unwrap()
    };
    let topics = [Compression::Lz4, Compression::Zstd].into_iter().filter(|kind| kind.is_built_in());
    let topics: Vec<_> =
        topics.map(|kind| TopicDef::<Utf8, Bytes>::named(format!("{kind:?}")).compression(kind)).collect();
    let value = vec![7; 33 << 20];
    let store = open();
    for topic in &topics {
        let large = store.producer(topic.clone()).unwrap();
        large.append("k", &value).unwrap();
    }
    store.close().unwrap();
    let store = open();
    for topic in &topics {
        let mut found = Vec::new();
        let visit = |record: oncelog::RecordView<'_>| {
            let value = record.value.unwrap();
            found.push((value.len(), value[0], value[value.len() - 1]));
            Ok(Step::Next)
        };
        store.snapshot().unwrap().read(topic.name(), PartitionId(0), LogOffset(0), visit).unwrap();
        assert_eq!(found, [(33 << 20, 7, 7)]);
    }
    store.close().unwrap();
}

/// The disk has no room for another journal file from some moment on, with journals of every length: what is answered
/// is there, what is called `Full` is not, and what is there with its sync still due is `InDoubt`.
#[test]
fn a_record_that_has_its_place_is_never_called_full() {
    for bytes in (0..2000).step_by(50) {
        let full = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&full);
        let hook = move |event: Event<'_>| match event {
            Event::Open(path, OpenMode::CreateNew | OpenMode::Create)
                if path.components().any(|part| part.as_os_str() == "journal") && theirs.load(Ordering::SeqCst) =>
            {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        };
        let store = on(&Arc::default(), hook).journal_file_bytes(4096).manual_duties().open("/s").unwrap();
        let events = store.producer(EVENTS).unwrap().sync_policy(SyncPolicy::Bytes(1)).linger(Duration::from_secs(1));
        events.append("first", &vec![0; bytes]).unwrap();
        full.store(true, Ordering::SeqCst);
        let failed = (0..50u64).find_map(|n| Some((n, events.append(&format!("{n}"), &[1; 200]).err()?)));
        let (answered, error) = failed.expect("a disk without room");
        full.store(false, Ordering::SeqCst);
        store.flush().unwrap();
        let there = visible(&store) - 1;
        match error.kind() {
            ErrorKind::Full => assert_eq!(there, answered, "{bytes}: called full, and there"),
            ErrorKind::InDoubt => assert_eq!(there, answered + 1, "{bytes}: in doubt, and without a place"),
            other => panic!("{bytes}: {other:?}"),
        }
    }
}
