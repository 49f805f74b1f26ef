//! An owner that consumes what other owners write: once each, with progress and effects in a journal of its own.
#![allow(
    clippy::unwrap_used,
    clippy::zombie_processes,
    clippy::disallowed_methods,
    reason = "a test may fail by panic, and waits for processes it kills"
)]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hooked_disk::{Event, over};
use oncelog::disk::MemoryDisk;
use oncelog::{
    Bytes, ConsumerOptions, ConsumerStyle, ErrorKind, LogOffset, Outcome, PartitionId, Processor, Result, Store,
    StoreOptions, TableDef, TopicDef, U64, Utf8, Visibility, Whence,
};

const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(3).file_roll_size(16 << 10);
const BILLS: TopicDef<Utf8, U64> = TopicDef::new("bills").partitions(3);
const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
const SEEN: TableDef<U64, U64> = TableDef::new("seen").shards(1);
/// Set for the child only.
const CHILD: &str = "ONCELOG_TEST_FOREIGN_STORE";

fn options(disk: &Arc<MemoryDisk>) -> StoreOptions {
    StoreOptions::new().disk(Arc::clone(disk) as _).journal_file_bytes(64 << 10)
}

fn send(store: &Store, numbers: std::ops::Range<u64>) -> Result<()> {
    store.transact(|tx| {
        numbers.clone().try_for_each(|n| tx.append(ORDERS, &format!("customer-{}", n % 7), &n).map(drop))
    })
}

fn client(id: &str) -> ConsumerStyle {
    ConsumerStyle::ClientTx(id.to_owned())
}

/// Counts what is there into a table.
fn count(store: &Store, how: impl Into<ConsumerOptions>) -> Result<u64> {
    store.consumer(ORDERS, how)?.try_process(None, |order, tx| {
        let n = order.value()?;
        tx.table(SEEN)?.update(&n, |seen| seen.unwrap_or(0) + 1)?;
        Ok(Outcome::Commit)
    })
}

fn assert_each_once(store: &Store, count: u64) {
    let snapshot = store.snapshot().unwrap();
    for n in 0..count {
        assert_eq!(snapshot.get(SEEN, &n).unwrap(), Some(1), "record {n}");
    }
    assert_eq!(snapshot.get(SEEN, &count).unwrap(), None);
}

#[test]
fn each_record_once_whoever_of_the_two_comes_and_goes() -> Result<()> {
    let disk = Arc::new(MemoryDisk::default());
    let mut main = options(&disk).open("/s")?;
    let mut sent = 0;
    for round in 0..6 {
        let billing = options(&disk).attach("/s", "billing")?;
        send(&main, sent..sent + 50)?;
        assert_eq!(count(&billing, client("bill"))?, 50, "round {round}");
        send(&main, sent + 50..sent + 70)?;
        sent += 70;
        // Without its owner too.
        main.close()?;
        assert_eq!(count(&billing, client("bill"))?, 20, "round {round}");
        assert_eq!(count(&billing, client("bill"))?, 0, "round {round}");
        let next = billing.committed_offsets("bill", "orders")?;
        for (partition, next) in (0..).map(PartitionId).zip(&next) {
            assert_eq!(billing.offsets("orders", partition)?.1, *next);
        }
        assert_eq!(next.iter().map(|next| next.0).sum::<u64>(), sent);
        billing.close()?;
        main = options(&disk).open("/s")?;
    }
    assert_each_once(&options(&disk).attach("/s", "billing")?, sent);
    Ok(())
}

#[test]
fn whence_partitions_and_styles_are_as_with_a_topic_of_ones_own() -> Result<()> {
    let disk = Arc::new(MemoryDisk::default());
    let main = options(&disk).open("/s")?;
    let billing = options(&disk).attach("/s", "billing")?;
    send(&main, 0..100)?;
    // Where it begins is committed when it is opened.
    drop(billing.consumer(ORDERS, ConsumerOptions::new(client("late")).start(Whence::Latest))?);
    send(&main, 100..110)?;
    assert_eq!(count(&billing, client("late"))?, 10);
    // NonTx remembers nothing; GlobalTx is one in the whole store.
    let plain = || {
        billing.consumer(ORDERS, ConsumerStyle::NonTx(Whence::Oldest))?.try_process(None, |_, _| Ok(Outcome::Commit))
    };
    assert_eq!((plain()?, plain()?), (110, 110));
    let global = billing.consumer(ORDERS, ConsumerStyle::GlobalTx)?;
    let refused = main.consumer(ORDERS, ConsumerStyle::GlobalTx).map(drop).unwrap_err();
    assert_eq!((refused.kind(), refused.holder_owner()), (ErrorKind::Locked, Some("billing")));
    drop(global);
    let behind = ConsumerOptions::new(client("far")).start(Whence::Position(LogOffset(1000)));
    assert_eq!(billing.consumer(ORDERS, behind).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    let no_such = ConsumerOptions::new(client("far")).partitions(vec![PartitionId(3)]);
    assert_eq!(billing.consumer(ORDERS, no_such).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_and_says_whose_the_topic_is() -> Result<()> {
    let disk = Arc::new(MemoryDisk::default());
    let main = options(&disk).open("/s")?;
    let billing = options(&disk).attach("/s", "billing")?;
    send(&main, 0..10)?;
    let written = ConsumerOptions::new(client("w")).visibility(Visibility::Written);
    let refused = billing.consumer(ORDERS, written).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("\"main\""), "{refused}");
    // Other codecs, other partitions.
    const BYTES: TopicDef<Utf8, Bytes> = TopicDef::new("orders").partitions(3);
    assert_eq!(billing.consumer(BYTES, client("c")).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    const FEW: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(2);
    assert_eq!(billing.consumer(FEW, client("c")).map(drop).unwrap_err().kind(), ErrorKind::Invalid);
    // It is an input and stays nobody else's output, also in the commit with a record's effects.
    let echo = billing.consumer(ORDERS, client("c"))?.try_process(None, |order, tx| {
        tx.append(ORDERS, order.key()?, &1)?;
        Ok(Outcome::Commit)
    });
    let refused = echo.unwrap_err();
    assert_eq!((refused.kind(), refused.holder_owner()), (ErrorKind::Locked, Some("main")), "{refused}");
    assert_eq!(billing.committed_offsets("c", "orders")?, [LogOffset(0); 3]);
    assert_eq!(count(&billing, client("c"))?, 10);
    Ok(())
}

#[test]
fn a_processor_runs_over_topics_of_others_and_its_own() -> Result<()> {
    const OWN: TopicDef<Utf8, U64> = TopicDef::new("own").partitions(3);
    let disk = Arc::new(MemoryDisk::default());
    let main = options(&disk).open("/s")?;
    send(&main, 0..10)?;
    let billing = options(&disk).attach("/s", "billing")?;
    let run = Processor::new("bill", ORDERS)
        .input(OWN, |own, tx| {
            tx.table(TOTALS)?.update(own.key()?, |sum| sum.unwrap_or(0) + 1_000_000)?;
            Ok(Outcome::Commit)
        })
        .table(TOTALS)
        .output(BILLS)
        .threads(3)
        .start(&billing, |order, tx| {
            let (key, n) = (order.key()?, order.value()?);
            let sum = tx.table(TOTALS)?.update(key, |sum| sum.unwrap_or(0) + n)?;
            tx.append(BILLS, key, &sum)?;
            Ok(Outcome::Commit)
        })?;
    for n in 0..20 {
        send(&main, 10 + n * 10..20 + n * 10)?;
        billing.transact(|tx| tx.append(OWN, "customer-3", &n).map(drop))?;
    }
    assert!(run.wait_caught_up(Duration::from_secs(60))?);
    run.stop()?;
    let snapshot = billing.snapshot()?;
    for customer in 0..7 {
        let own = if customer == 3 { 20_000_000 } else { 0 };
        let sum: u64 = (0..210).filter(|n| n % 7 == customer).sum();
        assert_eq!(snapshot.get(TOTALS, format!("customer-{customer}").as_str())?, Some(sum + own));
    }
    let bills = (0..3).map(|partition| billing.offsets("bills", PartitionId(partition)).map(|(_, end)| end.0));
    assert_eq!(bills.sum::<Result<u64>>()?, 210);
    Ok(())
}

/// Three owners, one of which waits for all three: it is woken by each, and looks at none without cause.
#[test]
fn whoever_waits_for_several_owners_does_not_look_all_the_time() -> Result<()> {
    const A: TopicDef<Utf8, U64> = TopicDef::new("a");
    const B: TopicDef<Utf8, U64> = TopicDef::new("b");
    const C: TopicDef<Utf8, U64> = TopicDef::new("c");
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    // Every look at another owner asks whether that lives.
    let disk = over(Arc::new(MemoryDisk::default()), move |event| {
        counts.fetch_add(usize::from(matches!(event, Event::IsLocked(_))), Ordering::Relaxed);
        Ok(())
    });
    let options = || StoreOptions::new().disk(Arc::clone(&disk));
    let (main, other) = (options().open("/s")?, options().attach("/s", "other")?);
    let waits = options().attach("/s", "waits")?;
    main.producer(A)?.append("k", &0)?;
    other.producer(B)?.append("k", &0)?;
    let add = |record: oncelog::RecordRef<'_, Utf8, U64>, tx: &mut oncelog::Tx<'_>| {
        let n = record.value()?;
        tx.table(TOTALS)?.update("sum", |sum| sum.unwrap_or(0) + n)?;
        Ok(Outcome::Commit)
    };
    let run = Processor::new("waits", A).input(B, add).input(C, add).table(TOTALS).start(&waits, add)?;
    assert!(run.wait_caught_up(Duration::from_secs(60))?);
    std::thread::sleep(Duration::from_millis(100));
    let before = asked.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(600));
    let looks = asked.load(Ordering::Relaxed) - before;
    assert!(looks < 60, "{looks} looks at owners that had nothing new");
    for n in 1..=50u64 {
        main.producer(A)?.append("k", &n)?;
        other.producer(B)?.append("k", &n)?;
        waits.producer(C)?.append("k", &n)?;
        assert!(run.wait_caught_up(Duration::from_secs(60))?);
    }
    run.stop()?;
    assert_eq!(waits.snapshot()?.get(TOTALS, "sum")?, Some(3 * 50 * 51 / 2));
    Ok(())
}

/// The life of the child: it counts what the owner of the topic sends, in commits of a few, until it is killed.
#[cfg(unix)]
fn child(dir: &Path) {
    let billing = Store::attach(dir, "billing").unwrap();
    loop {
        let counted = count(&billing, ConsumerOptions::new(client("bill")).commit_records(3)).unwrap();
        if counted == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_consumer_in_another_process_is_killed_again_and_again_and_so_is_no_record() -> Result<()> {
    if let Some(dir) = std::env::var_os(CHILD) {
        child(Path::new(&dir));
        return Ok(());
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut main = Store::open(&path)?;
    let mut sent = 0;
    send(&main, 0..1)?;
    sent += 1;
    for round in 0..8u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "a_consumer_in_another_process_is_killed_again_and_again_and_so_is_no_record",
                "--nocapture",
            ])
            .env(CHILD, &path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        for step in 0..10 {
            send(&main, sent..sent + 20)?;
            sent += 20;
            if step == 5 && round % 2 == 1 {
                main.close()?;
                main = Store::open(&path)?;
            }
            std::thread::sleep(Duration::from_millis(10 + 7 * (round * 10 + step) % 23));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let billing = Store::attach(&path, "billing")?;
    assert!(!billing.recovery_report().clean);
    count(&billing, client("bill"))?;
    assert_each_once(&billing, sent);
    Ok(())
}
