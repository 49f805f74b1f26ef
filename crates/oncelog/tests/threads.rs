//! Many threads on one store, with trims and tiny journal files in between: what each sees is one state that was.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use oncelog::disk::MemoryDisk;
use oncelog::{
    ConsumerStyle, LogOffset, Outcome, PartitionId, Processor, Step, Store, StoreOptions, SyncPolicy, TableDef,
    TopicDef, U64, Utf8,
};

const ACCOUNTS: TableDef<U64, U64> = TableDef::new("accounts");
const TRANSFERS: TopicDef<Utf8, U64> = TopicDef::new("transfers").partitions(3).file_roll_size(4096);
const COUNTS: TableDef<Utf8, U64> = TableDef::new("counts");

const MONEY: u64 = 1000;
const EACH: u64 = 10;

fn busy_store() -> Store {
    StoreOptions::new()
        .disk(Arc::new(MemoryDisk::default()))
        .journal_file_bytes(16 << 10)
        .trim_bytes(32 << 10)
        .batch_bytes(2048)
        .open("/s")
        .unwrap()
}

/// Moves money between accounts, and says so in a topic, in one transaction.
fn transfer(store: &Store, thread: u64, n: u64) {
    let (from, to) = ((thread * 7 + n) % EACH, (n * 3 + 1) % EACH);
    store
        .transact(|tx| {
            let mut accounts = tx.table(ACCOUNTS)?;
            let have = accounts.get(&from)?.unwrap_or(0);
            if have > 0 && from != to {
                let there = accounts.get(&to)?.unwrap_or(0);
                accounts.put(&from, &(have - 1))?;
                accounts.put(&to, &(there + 1))?;
            }
            tx.append(TRANSFERS, &format!("{thread}"), &n)
        })
        .unwrap();
}

#[test]
fn every_snapshot_has_all_the_money_and_whole_transfers() {
    let store = busy_store();
    store.transact(|tx| (0..EACH).try_for_each(|n| tx.table(ACCOUNTS)?.put(&n, &(MONEY / EACH)))).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4u64)
            .map(|thread| {
                let store = &store;
                scope.spawn(move || (0..1500).for_each(|n| transfer(store, thread, n)))
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                store.trim().unwrap();
            }
        });
        scope.spawn(|| {
            let mut last = store.snapshot().unwrap().lsn();
            while !done.load(Ordering::SeqCst) {
                let snapshot = store.snapshot().unwrap();
                assert!(snapshot.lsn() >= last);
                last = snapshot.lsn();
                let sum = |rows: Vec<(u64, u64)>| rows.into_iter().map(|(_, money)| money).sum::<u64>();
                assert_eq!(sum(snapshot.scan(ACCOUNTS, ..).unwrap()), MONEY);
                std::thread::yield_now();
                assert_eq!(sum(snapshot.scan(ACCOUNTS, ..).unwrap()), MONEY, "the same state later");
            }
        });
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::SeqCst);
    });
    let snapshot = store.snapshot().unwrap();
    let mut seen: Vec<(String, u64)> = Vec::new();
    for partition in (0..3).map(PartitionId) {
        let read = snapshot.read("transfers", partition, LogOffset(0), |record| {
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            seen.push((key, u64::from_be_bytes(record.value.unwrap().try_into().unwrap())));
            Ok(Step::Next)
        });
        assert_eq!(read.unwrap(), snapshot.end_offset("transfers", partition).unwrap());
    }
    for thread in 0..4 {
        let own: Vec<u64> = seen.iter().filter(|(key, _)| *key == format!("{thread}")).map(|(_, n)| *n).collect();
        assert_eq!(own, (0..1500).collect::<Vec<_>>(), "thread {thread}: in order, once");
    }
    drop(snapshot);
    store.close().unwrap();
}

#[test]
fn a_processor_counts_each_record_once_beside_writers_of_every_kind() {
    let store = busy_store();
    let run = Processor::new("counter", TRANSFERS)
        .table(COUNTS)
        .commit_records(7)
        .start(&store, |record, tx| {
            let mut counts = tx.table(COUNTS)?;
            let next = counts.get(record.key()?)?.unwrap_or(0) + 1;
            counts.put(record.key()?, &next)?;
            Ok(Outcome::Commit)
        })
        .unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                let producer = store.producer(TRANSFERS).unwrap();
                let producer = if thread == 0 { producer.sync_policy(SyncPolicy::Os) } else { producer };
                let key = format!("{thread}");
                let mut waiting = Vec::new();
                for n in 0..500u64 {
                    match thread {
                        2 => waiting.push(producer.submit(&key, &n).unwrap()),
                        _ => assert!(producer.append(&key, &n).is_ok()),
                    }
                }
                waiting.into_iter().for_each(|pending| assert!(pending.wait().is_ok()));
                producer.flush().unwrap();
            });
        }
    });
    while run.processed() < 2000 {
        assert!(!run.is_finished(), "{:?}", run.stop());
        std::thread::yield_now();
    }
    run.stop().unwrap();
    let counts = store.snapshot().unwrap().scan(COUNTS, ..).unwrap();
    let mut counts: Vec<_> = counts;
    counts.sort();
    let expected: Vec<_> = (0..4).map(|thread| (format!("{thread}"), 500)).collect();
    assert_eq!(counts, expected);
}

#[test]
fn submitted_records_need_nobody_to_wait() {
    let store = busy_store();
    let producer = store.producer(TRANSFERS).unwrap();
    for n in 0..100u64 {
        drop(producer.submit("k", &n).unwrap());
    }
    let mut consumer = store.consumer(TRANSFERS, ConsumerStyle::ClientTx("c".into())).unwrap();
    assert_eq!(consumer.process(Some(100), |_, _| Ok(Outcome::Commit)).unwrap(), 100);
}

#[test]
fn a_blocked_consumer_is_woken_by_an_append_and_by_close() {
    let store = busy_store();
    let producer = store.producer(TRANSFERS).unwrap();
    std::thread::scope(|scope| {
        let reader = {
            let mut consumer = store.consumer(TRANSFERS, ConsumerStyle::ClientTx("c".into())).unwrap();
            scope.spawn(move || {
                let first = consumer.process(Some(1), |_, _| Ok(Outcome::Commit));
                (first, consumer.process(None, |_, _| Ok(Outcome::Commit)))
            })
        };
        producer.append("k", &1).unwrap();
        while store.committed_offsets("c", "transfers").unwrap().iter().all(|offset| offset.0 == 0) {
            std::thread::yield_now();
        }
        store.clone().close().unwrap();
        let (first, second) = reader.join().unwrap();
        assert_eq!(first.unwrap(), 1);
        assert_eq!(second.unwrap_err().kind(), oncelog::ErrorKind::Closed);
    });
}
