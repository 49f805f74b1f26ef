//! Topics that are altered, consumers that are put elsewhere or forgotten, and looks at all of it beside its owner.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use oncelog::disk::MemoryDisk;
use oncelog::{
    Compression, ConsumerStyle, ErrorKind, LogOffset, Outcome, PartitionId, Processor, Store, StoreOptions,
    StoreReader, TableDef, TopicChange, TopicDef, U64, Utf8, Whence,
};

const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines");
const COUNTS: TableDef<Utf8, U64> = TableDef::new("counts");

fn open(disk: &Arc<MemoryDisk>) -> Store {
    StoreOptions::new().disk(Arc::clone(disk) as _).journal_file_bytes(1 << 20).open("/store").unwrap()
}

fn bytes(store: &Store) -> (usize, u64) {
    let found = store.describe_topic("lines").unwrap()[0];
    (found.segments, found.bytes)
}

/// Also by a producer that was open before, and after a crash whose recovery writes the records anew.
#[test]
fn an_altered_topic_is_written_in_the_new_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let producer = store.producer(LINES).unwrap();
    let line = "a line that is compressed well ".repeat(200);
    producer.append("k", &line).unwrap();
    let (_, plain) = bytes(&store);
    assert!(plain > 6000);
    store.alter_topic("lines", &TopicChange::default().compression(Compression::Lz4)).unwrap();
    producer.append("k", &line).unwrap();
    assert!(bytes(&store).1 < plain + 1000, "{} bytes", bytes(&store).1);
    store.alter_topic("lines", &TopicChange::default().file_roll_size(1024)).unwrap();
    for _ in 0..20 {
        producer.append("k", &line).unwrap();
    }
    let (segments, _) = bytes(&store);
    assert!(segments > 2, "{segments} segments");
    assert_eq!(store.topics().unwrap()[0].1.compression, Compression::Lz4);

    let refused = |change: &TopicChange| store.alter_topic("lines", change).unwrap_err().kind();
    assert_eq!(refused(&TopicChange::default().file_roll_size(7)), ErrorKind::Invalid);
    let missing = store.alter_topic("others", &TopicChange::default()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    // Killed: nothing of it is at the trim point.
    let mut copy = std::process::Command::new("cp");
    let copied = copy.arg("-r").arg(dir.path().join("store")).arg(dir.path().join("killed")).status();
    assert!(copied.unwrap().success());
    drop(producer);
    store.close().unwrap();
    let store = Store::open(dir.path().join("killed")).unwrap();
    let spec = store.topics().unwrap()[0].1.clone();
    assert_eq!((spec.compression, spec.file_roll_size), (Compression::Lz4, 1024));
    assert!(bytes(&store).0 > 2, "recovery has rolled as before the change");
    store.producer(LINES).unwrap().append("k", &line).unwrap();
    let all = store.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
    assert_eq!(all.map(|record| record.unwrap().value.unwrap()).filter(|value| *value == line).count(), 23);
}

/// Two inputs of a processor share a table by the number of their partitions. Neither can get another: not by a change,
/// not by a definition, and not by being made anew.
#[test]
fn the_partitions_of_a_topic_are_not_altered() {
    const ORDERS: TopicDef<Utf8, Utf8> = TopicDef::new("orders").partitions(3);
    const REFUNDS: TopicDef<Utf8, Utf8> = TopicDef::new("refunds").partitions(3);
    const OPEN: TableDef<Utf8, Utf8> = TableDef::new("open");
    let store = Store::in_memory().unwrap();
    let start = |refunds: TopicDef<Utf8, Utf8>| {
        let both = Processor::new("both", ORDERS).input(refunds, |_, _| Ok(Outcome::Commit)).table(OPEN);
        both.start(&store, |order, tx| {
            tx.table(OPEN)?.put(order.key()?, order.value()?)?;
            Ok(Outcome::Commit)
        })
    };
    let run = start(REFUNDS).unwrap();
    store.producer(ORDERS).unwrap().append("ann", "250").unwrap();
    assert!(run.wait_caught_up(Duration::from_secs(60)).unwrap());
    let to = |partitions| TopicChange::default().partitions(partitions);
    for change in [to(4), to(1), to(0), to(4).compression(Compression::Lz4)] {
        let refused = store.alter_topic("refunds", &change).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("\"refunds\" has 3 partitions"), "{refused}");
    }
    store.alter_topic("refunds", &to(3).file_roll_size(4096)).unwrap();
    assert_eq!(store.describe_topic("refunds").unwrap().len(), 3);
    run.stop().unwrap();
    assert_eq!(start(REFUNDS.partitions(4)).err().unwrap().kind(), ErrorKind::Invalid);
    // Made anew with another number it no longer fits the table, nor the other input.
    store.delete_topic("refunds").unwrap();
    store.producer(REFUNDS.partitions(4)).unwrap();
    assert_eq!(start(REFUNDS).err().unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(start(REFUNDS.partitions(4)).err().unwrap().kind(), ErrorKind::Invalid);
}

#[test]
fn a_consumer_is_put_elsewhere_and_forgotten() {
    let disk = Arc::new(MemoryDisk::default());
    let store = open(&disk);
    let producer = store.producer(LINES).unwrap();
    for n in 0..5 {
        producer.append("k", &n.to_string()).unwrap();
    }
    let style = || ConsumerStyle::ClientTx("mail".into());
    let next = |store: &Store| store.committed_offsets("mail", "lines").unwrap()[0];
    let mut mail = store.consumer(LINES, style()).unwrap();
    assert_eq!(mail.by_ref().count(), 5);
    let to = |offset| [(PartitionId(0), LogOffset(offset))];
    // Not while somebody is at work for it.
    assert_eq!(store.reset_consumer("mail", "lines", &to(1)).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(store.forget_consumer("mail").unwrap_err().kind(), ErrorKind::Locked);
    drop(mail);
    assert_eq!(store.reset_consumer("mail", "lines", &to(6)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(next(&store), LogOffset(5));
    store.reset_consumer("mail", "lines", &to(1)).unwrap();
    assert_eq!(next(&store), LogOffset(1));
    assert_eq!(store.consumer(LINES, style()).unwrap().count(), 4);

    // Another owner gets the id only when it is forgotten.
    let other = StoreOptions::new().disk(Arc::clone(&disk) as _).journal_file_bytes(1 << 20);
    let other = other.attach("/store", "other").unwrap();
    assert_eq!(other.consumer(LINES, style()).err().unwrap().kind(), ErrorKind::Locked);
    assert_eq!(other.forget_consumer("mail").unwrap_err().kind(), ErrorKind::Locked);
    store.forget_consumer("mail").unwrap();
    assert_eq!(store.consumers().unwrap(), []);
    assert_eq!(store.forget_consumer("mail").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(other.consumer(LINES, style()).unwrap().count(), 5);
    // And the first has not kept it in mind.
    assert_eq!(store.consumer(LINES, style()).err().unwrap().kind(), ErrorKind::Locked);
    other.close().unwrap();
    store.close().unwrap();
}

/// What a look shows is one moment, also where the owner moves its trim point all the time.
#[test]
fn a_look_is_one_moment_beside_an_owner_at_work() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::options().journal_file_bytes(64 << 10).trim_bytes(64 << 10).open(&path).unwrap();
    let write = |n: u64| {
        store.transact(|tx| {
            tx.append(LINES, "k", &format!("{n} {}", "x".repeat(5000)))?;
            tx.table(COUNTS)?.put("n", &(n + 1))
        })
    };
    write(0).unwrap();
    let (stop, pause_us) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for n in 1.. {
                write(n).unwrap();
                std::thread::sleep(Duration::from_micros(pause_us.load(Ordering::Relaxed)));
                if stop.load(Ordering::Relaxed) {
                    return n + 1;
                }
            }
            0
        });
        let reader = StoreReader::open(&path).unwrap();
        let (mut last, mut looks) = (0, 0);
        while looks < 20 || last < 150 {
            let look = reader.look("main", |state| {
                let count = state.snapshot()?.get(COUNTS, "n")?.unwrap_or(0);
                let read = state.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest))?.filter(Result::is_ok).count();
                Ok((count, read as u64))
            });
            match look {
                Ok((count, read)) => {
                    assert_eq!(count, read, "a record without its row, or a row without its record");
                    assert!(count >= last, "{count} after {last}");
                    (last, looks) = (count, looks + 1);
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    // On a slow machine the trim point would move too often for any look, for ever.
                    pause_us.fetch_max(100, Ordering::Relaxed);
                    pause_us
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |us| Some((2 * us).min(20_000)))
                        .unwrap();
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        let written = writing.join().unwrap();
        assert!(last <= written, "{last} of {written}");
    });
    let reader = StoreReader::open(&path).unwrap();
    assert_eq!(reader.look("nobody", |_| Ok(())).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(reader.owners().unwrap()[0].pid, Some(std::process::id()));
    store.close().unwrap();
    assert_eq!(reader.owners().unwrap()[0].pid, None);
}
