//! The spine end to end through the public interface, on a disk in memory and on the real one.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

use std::path::Path;
use std::sync::Arc;

use oncelog::disk::MemoryDisk;
use oncelog::{
    ConsumerStyle, ErrorKind, LogOffset, Outcome, PartitionId, Processor, RecordRef, Result, Store, StoreOptions,
    SyncPolicy, TableDef, TopicDef, Tx, U64, Utf8,
};

const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(4);
const ALERTS: TopicDef<Utf8, U64> = TopicDef::new("alerts");
const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
const NOTES: TableDef<Utf8, Utf8> = TableDef::new("notes");

fn total(order: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let mut totals = tx.table(TOTALS)?;
    let before = totals.get(order.key()?)?.unwrap_or(0);
    let sum = before + order.value()?;
    totals.put(order.key()?, &sum)?;
    if before <= 1000 && sum > 1000 {
        tx.append(ALERTS, order.key()?, &sum)?;
    }
    Ok(Outcome::Commit)
}

fn on(disk: &Arc<MemoryDisk>) -> StoreOptions {
    StoreOptions::new().disk(Arc::clone(disk) as _).journal_file_bytes(64 << 10)
}

#[test]
fn records_state_output_and_progress_come_back() {
    let disk = Arc::new(MemoryDisk::default());
    {
        let store = on(&disk).open("/s").unwrap();
        let producer = store.producer(ORDERS).unwrap();
        for n in 0..500u64 {
            let customer = format!("customer-{}", n % 7);
            producer.append(&customer, &n).unwrap();
        }
        let mut task = Processor::new("totals", ORDERS)
            .table(TOTALS)
            .output(ALERTS)
            .build(oncelog::AsEngine::as_engine(&store), total)
            .unwrap();
        assert_eq!(task.step(None).unwrap(), 500);
        assert_eq!(task.lag(), 0);
        drop(task);
        store.close().unwrap();
    }
    let store = on(&disk).open("/s").unwrap();
    assert!(store.recovery_report().clean);
    let snapshot = store.snapshot().unwrap();
    let expected: u64 = (0..500).filter(|n| n % 7 == 3).sum();
    assert_eq!(snapshot.get(TOTALS, "customer-3").unwrap(), Some(expected));
    assert_eq!(snapshot.scan(TOTALS, ..).unwrap().len(), 7);
    let mut alerts = 0;
    let mut consumer = store.consumer(ALERTS, ConsumerStyle::ClientTx("audit".into())).unwrap();
    consumer
        .try_process(None, |_, _| {
            alerts += 1;
            Ok(Outcome::Commit)
        })
        .unwrap();
    assert_eq!(alerts, 7);
    let progress = store.committed_offsets("totals", "orders").unwrap();
    assert_eq!(progress.iter().map(|offset| offset.0).sum::<u64>(), 500);
}

#[test]
fn a_store_that_was_not_closed_recovers() {
    let disk = Arc::new(MemoryDisk::default());
    let store = on(&disk).open("/s").unwrap();
    let producer = store.producer(ORDERS).unwrap();
    for n in 0..100u64 {
        producer.append("ann", &n).unwrap();
    }
    store.transact(|tx| tx.table(NOTES)?.put("k", "v")).unwrap();
    // A copy of the disk as a crash would leave it: the lock is in the process, not in the bytes.
    let left = Arc::new(copy(&disk, Path::new("/")));
    drop((producer, store));

    let again = on(&left).open("/s").unwrap();
    assert!(!again.recovery_report().clean);
    assert!(again.recovery_report().frames >= 100, "{}", again.recovery_report());
    assert_eq!(again.snapshot().unwrap().get(NOTES, "k").unwrap().as_deref(), Some("v"));
    let mut seen = Vec::new();
    let mut consumer = again.consumer(ORDERS, ConsumerStyle::ClientTx("audit".into())).unwrap();
    let read = |record: RecordRef<'_, Utf8, U64>, _: &mut Tx<'_>| {
        seen.push(record.value()?);
        Ok(Outcome::Commit)
    };
    assert_eq!(consumer.try_process(None, read).unwrap(), 100);
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_crash_leaves_no_second_copy_behind() {
    let disk = Arc::new(MemoryDisk::default());
    let store = on(&disk).open("/s").unwrap();
    let producer = store.producer(ALERTS).unwrap();
    producer.append("ann", &0).unwrap();
    store.trim().unwrap();
    for n in 0..1000u64 {
        producer.append("ann", &n).unwrap();
    }
    let left = Arc::new(copy(&disk, Path::new("/")));
    store.close().unwrap();
    on(&left).open("/s").unwrap().close().unwrap();
    let bytes = |disk: &MemoryDisk| -> u64 {
        use oncelog::disk::{Disk, OpenMode};
        let segments = disk.list(Path::new("/s/topics/alerts/000000")).unwrap();
        segments.iter().map(|path| disk.open(path, OpenMode::Read).unwrap().len().unwrap()).sum()
    };
    assert!(bytes(&left) < bytes(&disk) + 500, "{} against {}", bytes(&left), bytes(&disk));
}

fn copy(disk: &MemoryDisk, from: &Path) -> MemoryDisk {
    use oncelog::disk::{Disk, OpenMode};
    fn walk(from: &MemoryDisk, to: &MemoryDisk, dir: &Path) {
        for path in from.list(dir).unwrap() {
            if from.list(&path).is_ok() {
                to.create_dir(&path).unwrap();
                walk(from, to, &path);
            } else {
                let bytes = from.open(&path, OpenMode::Read).unwrap().read_whole(1 << 30).unwrap();
                to.open(&path, OpenMode::Create).unwrap().write_all_at(&bytes, 0).unwrap();
            }
        }
    }
    let to = MemoryDisk::default();
    walk(disk, &to, from);
    to
}

#[test]
fn outcomes_do_what_they_say() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(ALERTS).unwrap();
    for n in 0..10u64 {
        producer.append("k", &n).unwrap();
    }
    let mut consumer = store.consumer(ALERTS, ConsumerStyle::ClientTx("c".into())).unwrap();
    let mut retries = 0;
    let done = consumer.try_process(None, |record, tx| {
        tx.table(NOTES)?.put(&format!("seen-{}", record.value()?), "x")?;
        match record.value()? {
            2 => oncelog::skip!(),
            3 if retries < 3 => {
                retries += 1;
                oncelog::retry!()
            }
            6 => oncelog::stop!(),
            _ => oncelog::commit!(),
        }
    });
    assert_eq!(done.unwrap(), 6);
    assert_eq!(retries, 3);
    let seen: Vec<_> = store.snapshot().unwrap().scan(NOTES, ..).unwrap().into_iter().map(|(key, _)| key).collect();
    assert_eq!(seen, ["seen-0", "seen-1", "seen-3", "seen-4", "seen-5"]);
    assert_eq!(store.committed_offsets("c", "alerts").unwrap(), [LogOffset(6)]);
    assert_eq!(consumer.lag(), 4);
    let failed = consumer.try_process(None, |_, _| panic!("at the disco"));
    let error = failed.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    assert!(error.to_string().contains("at the disco"));
    assert_eq!(store.committed_offsets("c", "alerts").unwrap(), [LogOffset(6)]);
    assert_eq!(consumer.try_process(Some(2), |_, _| oncelog::commit!()).unwrap(), 2);
    let second = store.consumer(ALERTS, ConsumerStyle::ClientTx("c".into()));
    let error = second.err().unwrap();
    assert_eq!((error.kind(), error.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
}

#[test]
fn two_threads_lose_no_update() {
    let store = Store::in_memory().unwrap();
    let add = |count: u64| {
        for _ in 0..count {
            store
                .transact(|tx| {
                    let mut totals = tx.table(TOTALS)?;
                    let before = totals.get("n")?.unwrap_or(0);
                    totals.put("n", &(before + 1))
                })
                .unwrap();
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| add(500));
        }
    });
    assert_eq!(store.snapshot().unwrap().get(TOTALS, "n").unwrap(), Some(2000));
}

#[test]
fn progress_that_is_read_beside_a_processor_never_goes_back() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(ALERTS).unwrap();
    for n in 0..3000u64 {
        drop(producer.submit("k", &n).unwrap());
    }
    producer.flush().unwrap();
    let mut task = Processor::new("p", ALERTS)
        .commit_records(1)
        .build(oncelog::AsEngine::as_engine(&store), |_, _| Ok(Outcome::Commit))
        .unwrap();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || task.step(None).unwrap());
        let mut last = LogOffset(0);
        while !running.is_finished() {
            let now = store.committed_offsets("p", "alerts").unwrap()[0];
            assert!(now >= last, "{now} after {last}");
            last = now;
        }
    });
}

#[test]
fn lax_appends_are_shown_when_durable() {
    let store = Store::in_memory().unwrap();
    let lax = store.producer(ALERTS).unwrap().sync_policy(SyncPolicy::Os);
    lax.append("a", &1).unwrap();
    lax.append("a", &2).unwrap();
    assert_eq!(store.offsets("alerts", PartitionId(0)).unwrap(), (LogOffset(0), LogOffset(0)));
    lax.flush().unwrap();
    assert_eq!(store.offsets("alerts", PartitionId(0)).unwrap(), (LogOffset(0), LogOffset(2)));
}

#[test]
fn a_processor_on_its_thread_keeps_up() {
    let store = Store::in_memory().unwrap();
    let run = Processor::new("totals", ORDERS).table(TOTALS).output(ALERTS).start(&store, total).unwrap();
    let producer = store.producer(ORDERS).unwrap();
    for n in 0..1000u64 {
        producer.append(&format!("c{}", n % 10), &1).unwrap();
    }
    while run.processed() < 1000 {
        assert!(!run.is_finished(), "{:?}", run.stop());
        std::thread::yield_now();
    }
    run.stop().unwrap();
    assert_eq!(store.snapshot().unwrap().get(TOTALS, "c3").unwrap(), Some(100));
}

#[test]
fn a_real_directory_is_locked_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/store");
    let store = Store::open(&path).unwrap();
    let error = Store::open(&path).err().unwrap();
    assert_eq!((error.kind(), error.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
    store.producer(ALERTS).unwrap().append("a", &1).unwrap();
    store.close().unwrap();
    let store = Store::open(&path).unwrap();
    assert!(store.recovery_report().clean);
    assert_eq!(store.offsets("alerts", PartitionId(0)).unwrap().1, LogOffset(1));
}
