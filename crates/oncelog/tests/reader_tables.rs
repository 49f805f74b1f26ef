//! Tables, seen by readers that are not the owner: beside one that moves its trim point all the time, after it, and
//! over rot.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic, and damages its own files"
)]
#![allow(clippy::print_stdout, reason = "figures are shown")]

#[path = "common/copy.rs"]
mod copy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use copy::copy_dir;
use oncelog::{Direction, ErrorKind, ReaderSnapshot, Result, Store, StoreOptions, StoreReader, TableDef, U64, Utf8};

const ACCOUNTS: TableDef<Utf8, U64> = TableDef::new("Accounts").shards(3);
const ROUNDS: TableDef<Utf8, U64> = TableDef::new("rounds");
const KEYS: u64 = 400;
const EACH: u64 = 1000;

fn options() -> StoreOptions {
    Store::options().journal_file_bytes(64 << 10)
}

fn key(n: u64) -> String {
    format!("account-{n:04}-{}", "x".repeat(60))
}

fn fill(store: &Store) {
    store
        .transact(|tx| {
            for n in 0..KEYS {
                tx.table(ACCOUNTS)?.put(&key(n), &EACH)?;
            }
            tx.table(ROUNDS)?.put("left", &0)?;
            tx.table(ROUNDS)?.put("right", &0)
        })
        .unwrap();
}

/// Moves something from one account to another, so that the sum stays, and counts in two rows.
fn round(store: &Store, round: u64) -> Result<()> {
    store.transact(|tx| {
        let (from, to) = (key(round * 7 % KEYS), key((round * 13 + 1) % KEYS));
        let mut accounts = tx.table(ACCOUNTS)?;
        let taken = accounts.get(&from)?.unwrap_or(0).min(round % 11);
        accounts.update(&from, |sum| sum.unwrap_or(0) - taken)?;
        accounts.update(&to, |sum| sum.unwrap_or(0) + taken)?;
        tx.table(ROUNDS)?.put("left", &round)?;
        tx.table(ROUNDS)?.put("right", &round)
    })
}

/// Looks at everything in every way; gives the round that it is of.
fn look(snapshot: &ReaderSnapshot) -> Result<u64> {
    let rounds = (snapshot.get(ROUNDS, "left")?.unwrap(), snapshot.get(ROUNDS, "right")?.unwrap());
    assert_eq!(rounds.0, rounds.1, "two rows of one transaction");
    let all: BTreeMap<String, u64> = snapshot.scan(ACCOUNTS, ..)?.into_iter().collect();
    assert_eq!((all.len() as u64, all.values().sum::<u64>()), (KEYS, KEYS * EACH), "nothing is lost or made");
    for n in [0, 17, KEYS - 1] {
        assert_eq!(snapshot.get(ACCOUNTS, &key(n))?.as_ref(), all.get(&key(n)));
    }
    assert_eq!(snapshot.prefix(ACCOUNTS, "account-00")?.len(), 100);
    let (first, last) = (key(10), key(19));
    assert_eq!(snapshot.scan(ACCOUNTS, first.as_str()..=last.as_str())?.len(), 10);
    let page = snapshot.page(ROUNDS, .., Direction::Down, 1)?;
    assert_eq!(page, [("right".to_owned(), rounds.0)]);
    assert_eq!(snapshot.get(ACCOUNTS, "nobody")?, None);
    Ok(rounds.0)
}

#[test]
fn a_reader_sees_one_whole_state_while_the_owner_moves_its_trim_point_all_the_time() {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path()).unwrap();
    fill(&store);
    store.trim().unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::SeqCst) {
                number += 1;
                round(&store, number).unwrap();
                if number % 3 == 0 {
                    store.trim().unwrap();
                }
            }
            number
        });
        let reader = StoreReader::options().table_memory(1 << 20).open(home.path()).unwrap();
        let (mut whole, mut spent, mut newest) = (0, 0, (0, 0));
        let until = Instant::now() + Duration::from_secs(60);
        while (whole < 150 || newest.1 < 100) && Instant::now() < until {
            let snapshot = reader.snapshot().unwrap();
            let (tables, records) = (snapshot.tables_lsn("main").unwrap(), snapshot.lsn("main").unwrap());
            assert!(tables <= records, "{tables} {records}");
            match look(&snapshot) {
                Ok(number) => {
                    whole += 1;
                    assert!(tables.0 >= newest.0 && number >= newest.1, "a reader goes back in time");
                    newest = (tables.0, number);
                    // The same again, as long as it can be shown.
                    if let Err(error) = look(&snapshot).map(|again| assert_eq!(again, number)) {
                        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                    spent += 1;
                }
            }
        }
        done.store(true, Ordering::SeqCst);
        let rounds = writer.join().unwrap();
        println!("{whole} whole looks, {spent} that the owner overtook, {} of {rounds} rounds seen", newest.1);
        assert!(whole >= 150 && newest.1 >= 100, "{whole} looks, of round {}", newest.1);
    });
}

#[test]
fn without_an_owner_a_reader_sees_the_rows_of_the_newest_commit() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (dir, dead) = (home.path().join("store"), home.path().join("dead"));
    let store = options().open(&dir)?;
    let reader = StoreReader::open(&dir)?;
    assert_eq!(reader.snapshot()?.get(ROUNDS, "left")?, None, "no such table");
    fill(&store);
    store.trim()?;
    for number in 1..=50 {
        round(&store, number)?;
    }
    let snapshot = reader.snapshot()?;
    assert_eq!(look(&snapshot)?, 0, "as of the trim point");
    // As a kill would leave it.
    copy_dir(&dir, &dead);
    let newest = store.snapshot()?.lsn();
    store.close()?;
    for (dir, clean) in [(&dir, true), (&dead, false)] {
        let reader = StoreReader::open(dir)?;
        let snapshot = reader.snapshot()?;
        assert_eq!(look(&snapshot)?, 50);
        assert_eq!(snapshot.tables_lsn("main"), snapshot.lsn("main"));
        assert!(snapshot.lsn("main").unwrap() >= newest);
        // An owner comes: what a recovery in memory has shown counts no more, since its files may change.
        let store = options().open(dir)?;
        assert_eq!(store.recovery_report().clean, clean);
        assert_eq!(look(&snapshot).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(look(&reader.snapshot()?)?, 50, "a recovery ends at a trim point");
        store.close()?;
    }
    assert_eq!(snapshot.tables_lsn("nobody"), None);
    Ok(())
}

/// Snapshots that were opened and not read to the end, looked at again when the owner has used their room for rows of
/// the same tables: what they show must be what was then, or nothing.
#[test]
fn a_state_that_the_owner_has_left_behind_is_never_shown_in_part() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    fill(&store);
    store.trim()?;
    let reader = StoreReader::options().table_memory(1 << 20).open(home.path())?;
    let late = reader.snapshot()?;
    let (mut held, mut number, mut shown, mut left) = (Vec::new(), 0, 0, 0);
    for turn in 0..90 {
        let then: Vec<_> = store.snapshot()?.scan(ACCOUNTS, ..)?;
        let snapshot = reader.snapshot()?;
        assert_eq!(snapshot.get(ROUNDS, "left")?, Some(number));
        // Read to the end once, one to six trims later: what was read before is known without a look at the file.
        held.push((turn + turn % 6, snapshot, number, then));
        for _ in 0..20 {
            number += 1;
            round(&store, number)?;
        }
        store.trim()?;
        for (_, snapshot, at, then) in held.extract_if(.., |(due, ..)| *due <= turn) {
            match snapshot.scan(ACCOUNTS, ..).and_then(|rows| Ok((rows, snapshot.get(ROUNDS, "right")?))) {
                Ok((rows, right)) => {
                    assert!(rows == then && right == Some(at), "rows of another state than that of round {at}");
                    shown += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
                    left += 1;
                }
            }
        }
    }
    println!("{shown} looks at older states, {left} at states that were left behind");
    assert!(shown > 0 && left > 0);
    assert_eq!(late.get(ROUNDS, "left").unwrap_err().kind(), ErrorKind::Conflict, "its room was used again");
    assert_eq!(look(&reader.snapshot()?)?, number);
    Ok(())
}

#[test]
fn tables_of_other_owners_are_found_by_name_and_differing_codecs_are_refused() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let (main, billing) = (Store::open(home.path())?, Store::attach(home.path(), "billing")?);
    let bills = TableDef::<Utf8, U64>::new("bills");
    billing.transact(|tx| tx.table(bills.clone())?.put("ann", &7))?;
    main.transact(|tx| tx.table(ROUNDS)?.put("left", &1))?;
    let reader = StoreReader::open(home.path())?;
    assert_eq!(reader.snapshot()?.get(bills.clone(), "ann")?, None, "not at a trim point yet");
    billing.trim()?;
    let snapshot = reader.snapshot()?;
    assert_eq!(snapshot.get(bills, "ann")?, Some(7));
    assert_eq!(snapshot.get(TableDef::<Utf8, U64>::new("never"), "ann")?, None);
    let other = TableDef::<U64, U64>::new("bills");
    assert_eq!(snapshot.get(other, &1).unwrap_err().kind(), ErrorKind::Invalid);
    Ok(())
}

/// Beside an owner that lives, a flipped bit is told as damage and not as an owner that has gone on; or it is in a
/// block that this state does not use. Never another row.
#[test]
fn rot_beside_a_living_owner_is_told_as_damage() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    fill(&store);
    store.trim()?;
    let file = table_file(home.path());
    let whole = std::fs::read(&file).unwrap();
    let (mut told, mut harmless) = (0, 0);
    for at in (512..whole.len()).step_by(1973).filter(|at| whole[*at] != 0) {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        write_over(&file, &damaged);
        let reader = StoreReader::options().table_memory(1 << 20).open(home.path())?;
        match reader.snapshot().and_then(|snapshot| look(&snapshot)) {
            Ok(number) => harmless += u64::from(number == 0),
            Err(error) => {
                assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(file.as_path())), "{error}");
                told += 1;
            }
        }
        write_over(&file, &whole);
    }
    println!("{told} flips told, {harmless} harmless");
    assert!(told > 10, "{told}");
    assert_eq!(look(&StoreReader::open(home.path())?.snapshot()?)?, 0);
    Ok(())
}

fn table_file(dir: &Path) -> PathBuf {
    let found = std::fs::read_dir(dir.join("owners/main/state")).unwrap();
    let mut found: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// In place: the owner has the file open.
fn write_over(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, 0).unwrap();
}
