//! `SIGKILL` at every call that an opening makes to the disk: a real process on the real disk ends itself before its
//! n-th call, for every n, and now and then another one does so in the recovery of that; then the store is opened and
//! must hold what was answered, once, whole and in order.
//!
//! The processes are this test itself, started again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, waits for processes, and shows figures"
)]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hooked_disk::{Event, over};
use oncelog::disk::{Disk, RealDisk};
use oncelog::{
    Bytes, ErrorKind, IdempotentProducerConfig, LogOffset, PartitionId, Result, Snapshot, Step, Store, StoreOptions,
    StoreReader, SyncPolicy, TableDef, TopicDef, U64, Utf8,
};
use rustix::process::{Signal, getpid, kill_process};

const LEFT: TopicDef<Utf8, U64> = TopicDef::new("left").file_roll_size(1024);
const RIGHT: TopicDef<Utf8, U64> = TopicDef::new("Right").partitions(2).file_roll_size(1024);
const LAX: TopicDef<Bytes, Bytes> = TopicDef::new("lax").file_roll_size(1024);
const STAMPED: TopicDef<Utf8, U64> = TopicDef::new("stamped").file_roll_size(1024);
const GONE: TopicDef<Bytes, Bytes> = TopicDef::new("gone");
const COUNT: TableDef<Utf8, U64> = TableDef::new("count");
const RECORDS: u64 = 60;
/// More calls than there are.
const NEVER: u64 = 1_000_001;

/// Set for the processes: the store, and before which call it ends; 0: it makes what is to be recovered.
const DIR: &str = "ONCELOG_TEST_RECOVERY_OF";
const CALL: &str = "ONCELOG_TEST_RECOVERY_CALL";

fn die() -> ! {
    kill_process(getpid(), Signal::KILL).unwrap();
    unreachable!("a process that was killed goes on")
}

/// The machine's disk, which counts calls and ends the process before the last of so many.
fn deadly(calls: &Arc<AtomicU64>, last: u64) -> Arc<dyn Disk> {
    let calls = Arc::clone(calls);
    over(Arc::new(RealDisk), move |event| {
        if !matches!(event, Event::Wrote(_)) && calls.fetch_add(1, Ordering::SeqCst) + 1 == last {
            die();
        }
        Ok(())
    })
}

/// Small files, so that recovery has to roll, rotate and sweep.
fn options() -> StoreOptions {
    StoreOptions::new().journal_file_bytes(4096).trim_bytes(1 << 30)
}

/// Not a test by itself: what the processes run. One ends itself before a call of its opening, or says how many calls
/// that took.
#[test]
fn the_process_that_dies() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let last: u64 = std::env::var(CALL).unwrap().parse().unwrap();
    if last == 0 {
        let _not_closed = make_ruins(Path::new(&dir)).unwrap();
        die();
    }
    let calls = Arc::default();
    let _store = options().seed(last).manual_duties().disk(deadly(&calls, last)).open(&dir).unwrap();
    println!("opened after {}", calls.load(Ordering::SeqCst));
    die();
}

fn count_up(tx: &mut oncelog::Tx<'_>) -> Result<()> {
    let n = tx.table(COUNT)?.get("n")?.unwrap_or(0);
    tx.append(LEFT, "left", &n)?;
    tx.append(RIGHT, &format!("k{}", n % 5), &n)?;
    tx.table(COUNT)?.put(&format!("k{}", n % 5), &n)?;
    tx.table(COUNT)?.put("n", &(n + 1))
}

/// Everything that a recovery has work with: rows, rolled segments and rotated journal files behind the trim point,
/// lax appends with their bound, stamps, and a topic that was deleted.
fn make_ruins(dir: &Path) -> Result<Store> {
    let store = options().manual_duties().open(dir)?;
    store.producer(GONE)?.append(b"", b"gone")?;
    for n in 0..RECORDS {
        store.transact(count_up)?;
        if n == RECORDS / 3 {
            store.trim()?;
            store.producer(GONE)?.append(b"", b"in the tail")?;
        }
    }
    let gate = store.idempotent_producer(STAMPED, IdempotentProducerConfig::new("gate"))?;
    for n in 0..5 {
        gate.append("k", &n)?;
    }
    store.delete_topic("gone")?;
    let lax = store.producer(LAX)?.sync_policy(SyncPolicy::Os);
    for n in 0..20u8 {
        lax.append(b"", &[n])?;
    }
    store.transact(count_up)?;
    Ok(store)
}

fn run(dir: &Path, call: u64) -> Option<u64> {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["the_process_that_dies", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(CALL, call.to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(out.status.signal(), Some(9), "call {call}: it was to be killed");
    let said = String::from_utf8(out.stdout).unwrap();
    let opened =
        said.lines().find_map(|line| line.split_once("opened after ").map(|(_, calls)| calls.parse().unwrap()));
    assert!(call > 0 || opened.is_none());
    opened
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn numbers(snapshot: &Snapshot, topic: &str, partition: u32) -> Vec<u64> {
    let mut found = Vec::new();
    let read = |record: oncelog::RecordView<'_>| {
        found.push(u64::from_be_bytes(record.value.unwrap().try_into().unwrap()));
        Ok(Step::Next)
    };
    snapshot.read(topic, PartitionId(partition), LogOffset(0), read).unwrap();
    found
}

/// What the answers said, and whole.
fn check(store: &Store, count: u64, what: &str) {
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.get(COUNT, "n").unwrap(), Some(count), "{what}");
    assert!(numbers(&snapshot, "left", 0).into_iter().eq(0..count), "{what}");
    let mut right: Vec<u64> = (0..2).flat_map(|partition| numbers(&snapshot, "Right", partition)).collect();
    right.sort_unstable();
    assert!(right.into_iter().eq(0..count), "{what}");
    for k in 0..5 {
        let last = (0..count).rfind(|n| n % 5 == k);
        assert_eq!(snapshot.get(COUNT, &format!("k{k}")).unwrap(), last, "{what}");
    }
    assert_eq!(numbers(&snapshot, "stamped", 0), [0, 1, 2, 3, 4], "{what}");
    assert_eq!(snapshot.next_sequence("gate", Some("stamped"), PartitionId(0)).unwrap().unwrap().0, 5, "{what}");
    // A commit behind them has made them durable.
    let mut lax = Vec::new();
    let read = |record: oncelog::RecordView<'_>| {
        lax.extend_from_slice(record.value.unwrap());
        Ok(Step::Next)
    };
    snapshot
        .read("lax", PartitionId(0), LogOffset(0), read)
        .map(drop)
        .or_else(|error| error.gap().map(drop).ok_or(error))
        .unwrap();
    assert!(lax.into_iter().eq(0..20), "{what}");
    assert_eq!(snapshot.end_offset("gone", PartitionId(0)).unwrap_err().kind(), ErrorKind::NotFound, "{what}");
}

fn table_files(dir: &Path) -> Vec<std::ffi::OsString> {
    let state = std::fs::read_dir(dir.join("owners/main/state")).unwrap();
    state.map(|entry| entry.unwrap().file_name()).collect()
}

/// One process ends before `call` of its opening, and perhaps another one in the recovery of that. Gives how many calls
/// it took, if it came to the end.
fn kill_at(call: u64, ruins: &Path, dir: &Path) -> Option<u64> {
    copy(ruins, dir);
    let opened = run(dir, call);
    let what = format!("killed before call {call}");
    if call.is_multiple_of(3) {
        run(dir, 1 + call * 7 % 150);
    }
    if call.is_multiple_of(5) {
        // Whoever looks meanwhile sees as much.
        let snapshot = StoreReader::open(dir).unwrap().snapshot().unwrap();
        assert_eq!(snapshot.get(COUNT, "n").unwrap(), Some(RECORDS + 1), "{what}");
        assert_eq!(snapshot.end_offset("left", PartitionId(0)).unwrap(), LogOffset(RECORDS + 1), "{what}");
    }
    let store = options().manual_duties().open(dir).unwrap_or_else(|error| panic!("{what}: {error:?}"));
    assert_eq!(table_files(dir), table_files(ruins), "{what}: nobody lives who could write to it");
    check(&store, RECORDS + 1, &what);
    store.transact(count_up).unwrap();
    store.close().unwrap();
    let store = options().manual_duties().open(dir).unwrap();
    assert!(store.recovery_report().clean, "{what}");
    check(&store, RECORDS + 2, &what);
    store.close().unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    opened
}

#[test]
fn killed_at_every_call_of_a_recovery_the_next_one_finds_everything() {
    let home = tempfile::tempdir().unwrap();
    // Most of the time is waiting for the disk. Each worker has ruins of its own: copies of one store are refused.
    let calls: Vec<u64> = std::thread::scope(|scope| {
        let work = |worker: u64| {
            let (ruins, dir) =
                (home.path().join(format!("ruins-{worker}")), home.path().join(format!("store-{worker}")));
            run(&ruins, 0);
            let calls = kill_at(NEVER, &ruins, &dir).unwrap();
            for call in (1 + worker..=calls).step_by(4) {
                assert_eq!(kill_at(call, &ruins, &dir), None, "it was to be killed before call {call}");
            }
            calls
        };
        let workers: Vec<_> = (0..4).map(|worker| scope.spawn(move || work(worker))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    assert!(calls.iter().all(|count| *count == calls[0] && *count > 100), "not the same openings: {calls:?}");
    println!("an opening makes {} calls: killed before each, and of these recoveries a third again", calls[0]);
}
