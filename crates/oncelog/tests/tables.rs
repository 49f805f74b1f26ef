//! Tables from outside: larger than the memory given to them, in ranges and pages, and what a page lets change.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

use std::sync::Arc;

use oncelog::disk::MemoryDisk;
use oncelog::{Bytes, Direction, ErrorKind, Postcard, Store, StoreOptions, TableDef, U64, Utf8};

const ROWS: TableDef<U64, Bytes> = TableDef::new("rows");
const NAMES: TableDef<Utf8, U64> = TableDef::new("names");
const MEMORY: usize = 1 << 20;

fn options(disk: &Arc<MemoryDisk>) -> StoreOptions {
    StoreOptions::new().disk(Arc::clone(disk) as _).table_memory(MEMORY).journal_file_bytes(1 << 20)
}

fn value(n: u64, round: u64) -> Vec<u8> {
    [n.to_be_bytes(), round.to_be_bytes()].concat().repeat(12)
}

/// Five times the memory given, by several threads or by one that does the duties itself; then all of it again.
fn fill(store: &Store, threads: u64) {
    for round in 0..2 {
        std::thread::scope(|scope| {
            for thread in 0..threads {
                scope.spawn(move || {
                    for batch in 0..100 / threads {
                        let first = (thread * (100 / threads) + batch) * 250;
                        store
                            .transact(|tx| {
                                let mut rows = tx.table(ROWS)?;
                                (first..first + 250).try_for_each(|n| rows.put(&n, &value(n, round)))
                            })
                            .unwrap();
                    }
                });
            }
        });
    }
}

fn check(store: &Store) {
    let snapshot = store.snapshot().unwrap();
    for n in (0..25_000).step_by(617) {
        assert_eq!(snapshot.get(ROWS, &n).unwrap(), Some(value(n, 1)));
    }
    let rows = snapshot.scan(ROWS, ..).unwrap();
    assert_eq!(rows.len(), 25_000);
    assert!(rows.iter().zip(0..).all(|(row, n)| *row == (n, value(n, 1))));
    let last: Vec<u64> = snapshot.page(ROWS, .., Direction::Down, 3).unwrap().into_iter().map(|row| row.0).collect();
    assert_eq!(last, [24_999, 24_998, 24_997]);
}

#[test]
fn state_five_times_the_memory_given_to_it_works() {
    for manual in [false, true] {
        let disk = Arc::new(MemoryDisk::default());
        let given = || if manual { options(&disk).manual_duties() } else { options(&disk) };
        let store = given().open("/s").unwrap();
        fill(&store, if manual { 1 } else { 4 });
        check(&store);
        store.close().unwrap();
        let store = given().open("/s").unwrap();
        assert!(store.recovery_report().clean);
        check(&store);
    }
}

#[test]
fn pages_and_prefixes_see_own_writes() {
    let store = Store::in_memory().unwrap();
    store
        .transact(|tx| {
            let mut names = tx.table(NAMES)?;
            (0..600).try_for_each(|n| names.put(&format!("a{n:04}"), &n))?;
            names.put("b", &1)?;
            names.put("ba", &2)?;
            names.put("c", &3)
        })
        .unwrap();
    let mut tx = store.begin().unwrap();
    let mut names = tx.table(NAMES).unwrap();
    names.delete("a0001").unwrap();
    names.put("a00005", &7).unwrap();
    names.put("bb", &8).unwrap();
    let keys = |rows: Vec<(String, u64)>| rows.into_iter().map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(keys(names.page(.., Direction::Up, 4).unwrap()), ["a0000", "a00005", "a0002", "a0003"]);
    assert_eq!(keys(names.page(..="bb", Direction::Down, 3).unwrap()), ["bb", "ba", "b"]);
    assert_eq!(names.page(.., Direction::Up, 0).unwrap(), []);
    assert_eq!(keys(names.prefix("b").unwrap()), ["b", "ba", "bb"]);
    assert_eq!(names.prefix("a").unwrap().len(), 600);
    assert_eq!(names.page(.., Direction::Up, 601).unwrap().len(), 601);
    let all = keys(names.scan(..).unwrap());
    let mut back = keys(names.page(.., Direction::Down, usize::MAX).unwrap());
    back.reverse();
    assert_eq!(all, back);
    tx.commit().unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(keys(snapshot.prefix(NAMES, "b").unwrap()), ["b", "ba", "bb"]);
    assert_eq!(keys(snapshot.page(NAMES, "a0599".."c", Direction::Up, 2).unwrap()), ["a0599", "b"]);
}

#[test]
fn what_lies_behind_a_page_may_change_and_what_is_in_it_may_not() {
    let store = Store::in_memory().unwrap();
    let put = |name: &str| store.transact(|tx| tx.table(NAMES)?.put(name, &1));
    ["b", "d", "f", "h"].into_iter().try_for_each(put).unwrap();
    for (direction, other, conflicts) in [
        (Direction::Up, "g", false),
        (Direction::Up, "f", false),
        (Direction::Up, "c", true),
        (Direction::Up, "a", true),
        (Direction::Down, "c", false),
        (Direction::Down, "g", true),
        (Direction::Down, "z", true),
    ] {
        let mut tx = store.begin().unwrap();
        let mut names = tx.table(NAMES).unwrap();
        assert_eq!(names.page(.., direction, 2).unwrap().len(), 2);
        names.put("found", &2).unwrap();
        put(other).unwrap();
        let committed = tx.commit().map(drop).map_err(|error| error.kind());
        assert_eq!(committed, if conflicts { Err(ErrorKind::Conflict) } else { Ok(()) }, "{direction:?} {other}");
        store
            .transact(|tx| {
                let mut names = tx.table(NAMES)?;
                ["a", "c", "g", "z", "found"].into_iter().try_for_each(|name| names.delete(name))
            })
            .unwrap();
    }
}

#[test]
fn too_little_memory_is_refused() {
    let error = StoreOptions::new().table_memory(1000).open("/nowhere").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[test]
fn a_row_that_another_codec_wrote_is_named() {
    const AS_BYTES: TableDef<Utf8, Postcard<u8>> = TableDef::new("mixed");
    const AS_TEXT: TableDef<Utf8, Postcard<String>> = TableDef::new("mixed");
    let store = Store::in_memory().unwrap();
    store.transact(|tx| tx.table(AS_BYTES)?.put("ann", &200)).unwrap();
    let snapshot = store.snapshot().unwrap();
    let told = [
        snapshot.get(AS_TEXT, "ann").unwrap_err(),
        snapshot.scan(AS_TEXT, ..).unwrap_err(),
        store.transact(|tx| tx.table(AS_TEXT)?.get("ann").map(drop)).unwrap_err(),
    ];
    for error in told {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(r#"table "mixed", row "ann": the value is none of postcard"#), "{error}");
    }
}
