//! Real kills: a child process runs a parallel processor of two inputs over several partitions, with a table, an output
//! and dead letters, and is killed with `SIGKILL` at moments of chance, again and again. At the end a plain recount of
//! what was sent must give the same, each effect once.
//!
//! The child is this test itself, started again with an environment variable that names the store.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for processes")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use oncelog::{
    AsEngine, Bytes, FailurePolicy, LogOffset, Outcome, PartitionId, Processor, RecordRef, Result, RetryPolicy, Step,
    Store, StoreOptions, TableDef, TopicDef, Tx, U64, Utf8,
};

const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(5).file_roll_size(64 << 10);
const REFUNDS: TopicDef<Utf8, Utf8> = TopicDef::new("refunds").partitions(5).file_roll_size(64 << 10);
const SUMS: TopicDef<Utf8, U64> = TopicDef::new("sums").partitions(2).file_roll_size(64 << 10);
const DEAD: TopicDef<Bytes, Bytes> = TopicDef::new("dead").file_roll_size(64 << 10);
const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
/// Of one shard: threads meet in it.
const SEEN: TableDef<Utf8, U64> = TableDef::new("seen").shards(1);
/// How far the child has sent, in the commit with what it sent.
const SENT: TableDef<Utf8, U64> = TableDef::new("sent").shards(1);

const RECORDS: u64 = 40_000;
const KEYS: u64 = 101;
const KILLS: u64 = 12;
/// Set for the child only.
const CHILD: &str = "ONCELOG_TEST_KILLS_STORE";

fn options() -> StoreOptions {
    StoreOptions::new().journal_file_bytes(256 << 10).trim_bytes(512 << 10)
}

fn key_of(n: u64) -> String {
    format!("customer-{}", n % KEYS)
}

/// What is to become of the order with that number.
fn is_dead(n: u64) -> bool {
    n % 997 == 5
}

fn order(order: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let (key, n) = (order.key()?, order.value()?);
    let sum = tx.table(TOTALS)?.update(key, |sum| sum.unwrap_or(0) + n)?;
    tx.append(SUMS, key, &sum)?;
    if n % 512 == 0 {
        tx.table(SEEN)?.update("rare", |seen| seen.unwrap_or(0) + 1)?;
    }
    match n {
        n if is_dead(n) && n % 2 == 0 => std::panic::resume_unwind(Box::new("as it was to be")),
        n if is_dead(n) => Err(oncelog::Error::user("as it was to be")),
        _ => Ok(Outcome::Commit),
    }
}

fn refund(refund: RecordRef<'_, Utf8, Utf8>, tx: &mut Tx<'_>) -> Result<Outcome> {
    tx.table(TOTALS)?.update(refund.key()?, |sum| sum.unwrap_or(0) + (1 << 40))?;
    Ok(if refund.value()?.ends_with('7') { Outcome::Skip } else { Outcome::Commit })
}

fn processor() -> Processor<Utf8, U64> {
    Processor::new("p", ORDERS)
        .input(REFUNDS, refund)
        .table(TOTALS)
        .output(SUMS)
        .dead_letter(DEAD)
        .on_panic(FailurePolicy::DeadLetter)
        .on_error(FailurePolicy::Retry)
        .retry(RetryPolicy::new().backoff(Duration::from_millis(1), Duration::from_millis(1)).attempts_max(2))
        .commit_records(64)
        .threads(3)
}

/// The life of the child: it sends what is not yet sent, beside the processor, and ends when all is processed.
fn child(dir: &Path) {
    let store = options().open(dir).unwrap();
    let run = processor().start(&store, order).unwrap();
    let mut sent = store.snapshot().unwrap().get(SENT, "sent").unwrap().unwrap_or(0);
    while sent < RECORDS {
        let until = (sent + 50).min(RECORDS);
        let mut batch = store.begin().unwrap();
        for n in sent..until {
            batch.append(ORDERS, &key_of(n), &n).unwrap();
            if n % 3 == 0 {
                batch.append(REFUNDS, &key_of(n), &n.to_string()).unwrap();
            }
        }
        batch.table(SENT).unwrap().put("sent", &until).unwrap();
        batch.commit().unwrap();
        sent = until;
    }
    assert!(run.wait_caught_up(Duration::from_secs(120)).unwrap());
    run.stop().unwrap();
    store.close().unwrap();
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_again_and_again_each_effect_is_there_once", "--nocapture"])
        .env(CHILD, dir)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn killed_again_and_again_each_effect_is_there_once() {
    if let Some(dir) = std::env::var_os(CHILD) {
        return child(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let mut killed = 0;
    for round in 0..KILLS {
        let mut child = start(&path);
        // From the opening, over the middle of the work, to close to its end.
        std::thread::sleep(Duration::from_millis(5 + (round * 37) % 160));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
    }
    assert!(killed > KILLS / 2, "only {killed} of {KILLS} kills came before the end");
    assert!(start(&path).wait().unwrap().success());
    recount(&options().open(&path).unwrap());
}

/// The same result by plain means.
fn recount(store: &Store) {
    let mut totals = BTreeMap::<String, u64>::new();
    let mut sums: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut orders = BTreeMap::<String, Vec<u64>>::new();
    for n in 0..RECORDS {
        if n % 3 == 0 && n % 10 != 7 {
            *totals.entry(key_of(n)).or_default() += 1 << 40;
        }
        if !is_dead(n) {
            *totals.entry(key_of(n)).or_default() += n;
            orders.entry(key_of(n)).or_default().push(n);
        }
    }
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.scan(TOTALS, ..).unwrap().into_iter().collect::<BTreeMap<_, _>>(), totals);
    let rare = (0..RECORDS).filter(|n| n % 512 == 0 && !is_dead(*n)).count() as u64;
    assert_eq!(snapshot.get(SEEN, "rare").unwrap(), Some(rare));
    for partition in 0..2 {
        let read = |record: oncelog::RecordView<'_>| {
            let key = String::from_utf8(record.key.unwrap().to_vec()).unwrap();
            let sum = u64::from_be_bytes(record.value.unwrap().try_into().unwrap());
            sums.entry(key).or_default().push(sum);
            Ok(Step::Next)
        };
        snapshot.read("sums", PartitionId(partition), LogOffset(0), read).unwrap();
    }
    // An output for each order, in order: each sum holds the amounts of all orders before it and of some refunds.
    for (key, orders) in &orders {
        let amounts = sums[key].iter().map(|sum| sum & ((1 << 40) - 1)).collect::<Vec<_>>();
        let expected = orders.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        });
        assert_eq!(amounts, expected.collect::<Vec<_>>(), "{key}");
        assert!(sums[key].is_sorted(), "{key}");
    }
    let mut dead = Vec::new();
    let read = |record: oncelog::RecordView<'_>| {
        dead.push(u64::from_be_bytes(record.value.unwrap().try_into().unwrap()));
        Ok(Step::Next)
    };
    snapshot.read("dead", PartitionId(0), LogOffset(0), read).unwrap();
    dead.sort_unstable();
    assert_eq!(dead, (0..RECORDS).filter(|n| is_dead(*n)).collect::<Vec<_>>(), "each dead letter once");
    let mut rest = processor().build(store.as_engine(), order).unwrap();
    assert_eq!(rest.step(None).unwrap(), 0);
}
