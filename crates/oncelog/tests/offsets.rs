//! Offsets in a store of ours, and two processes that share a directory of them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, and waits for processes, to which a child prints"
)]

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use oncelog::{
    FileOffsetStore, LockFileOffsetStore, NumericOffsets, Offset, OffsetError, OffsetStore, OffsetTracker, Store,
};

fn sequence(number: u64) -> Offset {
    Offset::Sequence(number)
}

#[test]
fn a_store_keeps_offsets_as_it_keeps_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let offsets = store.offset_store("feeds");
    assert_eq!(offsets.get("a").unwrap(), None);
    assert_eq!(offsets.commit("a", &sequence(5)).unwrap(), None);
    assert!(matches!(offsets.commit("a", &sequence(4)).unwrap_err(), OffsetError::InvalidOffset(_)));
    let both = |a, b| BTreeMap::from([("a".to_owned(), sequence(a)), ("b".to_owned(), sequence(b))]);
    offsets.commit_all(&both(4, 1)).unwrap_err();
    assert_eq!(offsets.get("b").unwrap(), None, "one that is refused refuses all");
    assert_eq!(offsets.commit_all(&both(6, 1)).unwrap()["a"], Some(sequence(5)));
    assert_eq!(offsets.reset("a", &Offset::Custom("x:y".into())).unwrap(), Some(sequence(6)));
    assert!(store.offset_store("others").get_all().unwrap().is_empty());
    drop(offsets);
    store.close().unwrap();

    let store = Store::open(&path).unwrap();
    let offsets = store.offset_store("feeds");
    assert_eq!(offsets.get("a").unwrap(), Some(Offset::Custom("x:y".into())));
    assert_eq!(offsets.clear("b").unwrap(), Some(sequence(1)));
    assert_eq!(offsets.clear_all().unwrap().len(), 1);
    assert!(offsets.get_all().unwrap().is_empty());
    let tracker = OffsetTracker::new(offsets);
    let record = |number| tracker.record("a", sequence(number));
    thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for number in 0..20 {
                    match record(number * 8 + thread) {
                        Ok(()) | Err(OffsetError::InvalidOffset(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    assert_eq!(tracker.get_all_committed().unwrap()["a"], sequence(19 * 8 + 7));
    tracker.close().unwrap();
    store.close().unwrap();
}

/// Set in a child process: the directory.
const DIR: &str = "ONCELOG_TEST_OFFSETS_DIR";
/// Set in a child process: which one it is.
const NUMBER: &str = "ONCELOG_TEST_OFFSETS_NUMBER";
/// For how long they work: a minute by hand.
const SECONDS: &str = "ONCELOG_TEST_OFFSETS_SECONDS";

/// Not a test by itself: the work of a child.
#[test]
fn work_of_a_child() {
    let (Some(dir), Ok(number)) = (std::env::var_os(DIR), std::env::var(NUMBER)) else { return };
    let (me, seconds): (u64, u64) = (number.parse().unwrap(), std::env::var(SECONDS).unwrap().parse().unwrap());
    let locked = LockFileOffsetStore::open(&dir, "client").unwrap();
    let file = FileOffsetStore::open(std::path::Path::new(&dir).join("offsets.json")).unwrap();
    let began = Instant::now();
    let mut highest = 0;
    while began.elapsed() < Duration::from_secs(seconds) {
        // What nobody has committed yet; the other may be faster.
        let mine = locked.load(1, 1).unwrap().unwrap_or(0) + 1 + me;
        for saved in [locked.save(1, 1, mine), file.save(1, 1, mine)] {
            match saved {
                Ok(before) => assert!(before.is_none_or(|before| before <= mine), "{before:?} was replaced by {mine}"),
                Err(OffsetError::InvalidOffset(_)) => continue,
                Err(error) => panic!("{error}"),
            }
            highest = highest.max(mine);
        }
        let now = locked.load(1, 1).unwrap().unwrap();
        assert!(now >= highest, "{now} is stored after {highest} was");
        // Its own source: every save must be there.
        let own = 10 + me;
        let next = locked.load(1, own).unwrap().unwrap_or(0) + 1;
        let pair =
            |next: Offset| BTreeMap::from([("x".to_owned(), next.clone()), (format!("topic-1-consumer-{own}"), next)]);
        match locked.commit_all(&pair(sequence(next))) {
            Ok(_) => assert_eq!(locked.load(1, own).unwrap(), Some(next)),
            // The other is further in `x`: then neither.
            Err(OffsetError::InvalidOffset(_)) => {
                assert_eq!(locked.load(1, own).unwrap().unwrap_or(0), next - 1);
                locked.save(1, own, next).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    println!("highest: {highest}");
}

#[test]
fn two_processes_on_one_directory_lose_nothing_and_never_go_back() {
    let dir = tempfile::tempdir().unwrap();
    let seconds = std::env::var(SECONDS).unwrap_or_else(|_| "3".to_owned());
    let children: Vec<_> = (0..2)
        .map(|number: u64| {
            Command::new(std::env::current_exe().unwrap())
                .args(["work_of_a_child", "--exact", "--nocapture"])
                .env(DIR, dir.path())
                .env(NUMBER, number.to_string())
                .env(SECONDS, &seconds)
                .output_in_thread()
        })
        .collect();
    let mut highest = 0;
    for child in children {
        let output = child.join().unwrap();
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{said}\n{errors}");
        let line = said.lines().find_map(|line| line.split_once("highest: ")).unwrap();
        highest = highest.max(line.1.trim().parse().unwrap());
    }
    let locked = LockFileOffsetStore::open(dir.path(), "client").unwrap();
    assert_eq!(locked.load(1, 1).unwrap(), Some(highest));
    assert!(highest > 20, "{highest}");
}

trait OutputInThread {
    fn output_in_thread(&mut self) -> thread::JoinHandle<std::process::Output>;
}

impl OutputInThread for Command {
    fn output_in_thread(&mut self) -> thread::JoinHandle<std::process::Output> {
        self.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = self.spawn().unwrap();
        thread::spawn(move || child.wait_with_output().unwrap())
    }
}
