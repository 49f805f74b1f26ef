//! Offsets in a store of ours, and two processes that share a directory of them.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, and waits for processes, to which a child prints"
)]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hooked_disk::{Event, over};
use oncelog::clock::SystemClock;
use oncelog::disk::{Disk, MemoryDisk, OpenMode, RealDisk};
use oncelog::{
    CollectingCommitHook, CommitInfo, CommitStrategy, ErrorKind, FileOffsetStore, HookedOffsetStore,
    InMemoryOffsetStore, LockFileOffsetStore, NumericOffsets, Offset, OffsetError, OffsetStore, OffsetTracker, Store,
    TableDef, Utf8,
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

/// A row that somebody else has put into the table is damage, told with store, table and source; it is never an offset.
#[test]
fn a_foreign_row_is_damage_that_names_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let offsets = store.offset_store("feeds");
    offsets.commit("good", &sequence(5)).unwrap();
    let rows = || TableDef::<Utf8, Utf8>::named("offsets.feeds");
    for foreign in ["nonsense", "", "earliest", "latest", "sequence:-1"] {
        store.transact(|tx| tx.table(rows())?.put("bad", foreign)).unwrap();
        let both = BTreeMap::from([("bad".to_owned(), sequence(1)), ("good".to_owned(), sequence(6))]);
        let answers = [
            offsets.get("bad").err(),
            offsets.peek("bad").err(),
            offsets.get_all().err(),
            offsets.commit("bad", &sequence(1)).err(),
            offsets.commit_all(&both).err(),
            offsets.reset("bad", &sequence(1)).err(),
            offsets.clear("bad").err(),
            offsets.clear_all().err(),
        ];
        for (call, error) in answers.into_iter().enumerate() {
            let error = error.unwrap_or_else(|| panic!("call {call} takes {foreign:?} for an offset"));
            assert!(matches!(error, OffsetError::Serialization { .. }), "call {call}, {foreign:?}: {error:?}");
            let told = error.to_string();
            let names = [&*store.dir().display().to_string(), "\"offsets.feeds\"", "\"bad\""];
            assert!(names.iter().all(|name| told.contains(name)), "call {call}, {foreign:?}: {told}");
            assert_eq!(oncelog::Error::from(error).kind(), ErrorKind::Corrupt);
        }
        assert_eq!(offsets.get("good").unwrap(), Some(sequence(5)), "it stands for itself");
        let left = store.snapshot().unwrap().get(rows(), "bad").unwrap();
        assert_eq!(left.as_deref(), Some(foreign), "it is not touched");
    }
    drop(offsets);
    store.close().unwrap();
}

/// The machine's disk, of which nothing may be written; a file system, or an image of one, that says so itself, or
/// directories and files that belong to somebody else.
fn unwritable(kind: io::ErrorKind) -> Arc<dyn Disk> {
    over(Arc::new(RealDisk), move |event| match event {
        Event::Open(_, mode) if mode != OpenMode::Read => Err(kind.into()),
        Event::SyncDir(..) if kind == io::ErrorKind::PermissionDenied => Ok(()),
        Event::Rename(..) | Event::Remove(_) | Event::CreateDir(_) | Event::RemoveDir(_) | Event::SyncDir(..) => {
            Err(kind.into())
        }
        _ => Ok(()),
    })
}

const UNWRITABLE: [io::ErrorKind; 2] = [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied];

fn locked_on(disk: &Arc<dyn Disk>, base: &Path) -> Result<LockFileOffsetStore, OffsetError> {
    LockFileOffsetStore::open_on(Arc::clone(disk), SystemClock::shared(), base, "client")
}

fn file_on(disk: &Arc<dyn Disk>, dir: &Path) -> Result<FileOffsetStore, OffsetError> {
    FileOffsetStore::open_on(Arc::clone(disk), SystemClock::shared(), dir.join("offsets.json"))
}

/// Each change is refused, with the name of a file below `dir`, and has changed nothing.
fn refuses_changes(store: &dyn OffsetStore, kind: io::ErrorKind, dir: &Path) {
    let before = store.get_all().unwrap();
    assert!(!before.is_empty(), "it does not start from nothing");
    let source = before.keys().next().unwrap();
    let changes = [
        store.commit(source, &sequence(1_000)).err(),
        store.commit_all(&BTreeMap::from([(source.clone(), sequence(1_000))])).err(),
        store.reset(source, &sequence(0)).err(),
        store.clear(source).err(),
        store.clear_all().err(),
    ];
    for error in changes {
        let error = error.expect("nothing can be written");
        let OffsetError::Io { file, error: said } = &error else { panic!("{error:?}") };
        assert!(file.starts_with(dir) && file != dir, "{error}");
        assert_eq!(said.kind(), kind, "{error}");
        assert!(error.to_string().contains(&*file.display().to_string()), "{error}");
    }
    assert_eq!(store.get_all().unwrap(), before);
}

#[test]
fn what_cannot_be_written_can_be_read_and_says_so_when_it_is_changed() {
    for kind in UNWRITABLE {
        let dir = tempfile::tempdir().unwrap();
        let both = BTreeMap::from([("topic-1-consumer-2".to_owned(), sequence(7)), ("a/b".to_owned(), sequence(9))]);
        let file = FileOffsetStore::open(dir.path().join("offsets.json")).unwrap();
        let locked = LockFileOffsetStore::open(dir.path(), "client").unwrap();
        file.commit_all(&both).unwrap();
        locked.commit_all(&both).unwrap();
        let disk = unwritable(kind);
        // Also where the locks were never made, as in a directory of an earlier client, or left out of a copy.
        for has_locks in [true, false] {
            if !has_locks {
                std::fs::remove_file(dir.path().join("offsets.json.lock")).unwrap();
                std::fs::remove_file(dir.path().join("client/.lock")).unwrap();
            }
            let stores: [Box<dyn OffsetStore>; 2] =
                [Box::new(file_on(&disk, dir.path()).unwrap()), Box::new(locked_on(&disk, dir.path()).unwrap())];
            for store in stores {
                assert_eq!(store.get_all().unwrap(), both, "{kind}");
                for (source, offset) in &both {
                    assert_eq!(store.get(source).unwrap().as_ref(), Some(offset), "{kind}");
                    assert_eq!(store.peek(source).unwrap().as_ref(), Some(offset), "{kind}");
                }
                assert_eq!(store.get("other").unwrap(), None);
                refuses_changes(&*store, kind, dir.path());
            }
            assert!(!dir.path().join("client/.lock").exists() || has_locks, "reading makes nothing");
        }
        // A directory that is not there is not an empty one.
        let error = locked_on(&disk, &dir.path().join("missing")).err().unwrap();
        assert!(matches!(&error, OffsetError::Io { file, .. } if file.ends_with("missing")), "{error}");
        // And a stray file is told as ever.
        std::fs::write(dir.path().join("client/notes.txt"), b"5").unwrap();
        let error = locked_on(&disk, dir.path()).err().unwrap();
        assert!(matches!(&error, OffsetError::Serialization { file, .. } if file.ends_with("notes.txt")), "{error}");
    }
}

/// Several sources in one step are seen as one, also by those who can only read: what was begun and not finished, and,
/// where somebody can write by another way to the same directory, what is being changed.
#[test]
fn who_can_only_read_sees_steps_whole_and_waits_for_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let locked = LockFileOffsetStore::open(dir.path(), "client").unwrap();
    let both = |number| BTreeMap::from(["a", "b"].map(|source| (source.to_owned(), sequence(number))));
    locked.commit_all(&both(1)).unwrap();
    let half = over(Arc::new(RealDisk), |event| match event {
        Event::Rename(_, to) if to.ends_with("b.json") => Err(io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    locked_on(&half, dir.path()).unwrap().commit_all(&both(2)).unwrap();
    assert!(dir.path().join("client/.commit").exists(), "half of it is done");
    for kind in UNWRITABLE {
        let reader = locked_on(&unwritable(kind), dir.path()).unwrap();
        assert_eq!(reader.get_all().unwrap(), both(2), "{kind}");
        assert_eq!((reader.get("a").unwrap(), reader.get("b").unwrap()), (Some(sequence(2)), Some(sequence(2))));

        let reader = reader.patience(Duration::from_millis(5));
        let held = RealDisk.open(&dir.path().join("client/.lock"), OpenMode::Write).unwrap();
        assert!(held.try_lock().unwrap());
        let error = reader.get_all().unwrap_err();
        assert!(matches!(&error, OffsetError::Lock { file } if file.ends_with(".lock")), "{error}");
        assert_eq!(reader.get("a").unwrap(), Some(sequence(2)), "one source needs no lock");
    }
    // The lock is made by somebody who can write, after it was found that there is none and before the end of the look.
    std::fs::remove_file(dir.path().join("client/.lock")).unwrap();
    locked.commit_all(&both(3)).unwrap();
    std::fs::remove_file(dir.path().join("client/.lock")).unwrap();
    let (path, looks) = (dir.path().to_owned(), AtomicU64::new(0));
    let between = over(unwritable(io::ErrorKind::ReadOnlyFilesystem), move |event| match event {
        Event::Open(file, OpenMode::Read) if file.ends_with("b.json") && looks.fetch_add(1, Ordering::SeqCst) == 2 => {
            LockFileOffsetStore::open(&path, "client").and_then(|other| other.commit_all(&both(4))).unwrap();
            Ok(())
        }
        _ => Ok(()),
    });
    let reader = locked_on(&between, dir.path()).unwrap();
    let all = reader.get_all().unwrap();
    assert!(all == both(3) || all == both(4), "{all:?}");
    assert_eq!(all, both(4), "the test has come between");
}

/// What others commit is known at the next record, at the cost of a look at the name of the file.
#[test]
fn a_tracker_over_a_file_looks_at_its_name_and_waits_for_no_sync() {
    let dir = tempfile::tempdir().unwrap();
    let other = FileOffsetStore::open(dir.path().join("offsets.json")).unwrap();
    other.commit("a", &sequence(1)).unwrap();
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let disk = over(Arc::new(RealDisk), move |event| {
        match event {
            Event::Open(..) | Event::Read(_) | Event::SyncDir(..) | Event::Sync(..) => {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            _ => {}
        }
        Ok(())
    });
    let tracker = OffsetTracker::with_strategy(file_on(&disk, dir.path()).unwrap(), CommitStrategy::Manual);
    tracker.record("a", sequence(2)).unwrap();
    calls.store(0, Ordering::SeqCst);
    (3..1_000).for_each(|number| tracker.record("a", sequence(number)).unwrap());
    assert_eq!(calls.load(Ordering::SeqCst), 0, "nothing is opened, read or synced where nothing has changed");
    // A file that is replaced twice gets the place of the first, which is gone; it is not taken for it.
    for number in (1_000..1_400).step_by(4) {
        other.commit("a", &sequence(number + 1)).unwrap();
        other.commit("a", &sequence(number + 2)).unwrap();
        let refused = tracker.record("a", sequence(number + 1)).unwrap_err();
        assert!(matches!(refused, OffsetError::InvalidOffset(_)), "{refused}");
        other.commit("a", &sequence(number + 3)).unwrap();
        tracker.record("a", sequence(number + 3)).unwrap();
    }
    std::fs::remove_file(dir.path().join("offsets.json")).unwrap();
    assert_eq!(tracker.store().peek("a").unwrap(), None);
    std::fs::write(dir.path().join("offsets.json"), b"{}").unwrap();
    assert!(matches!(tracker.record("a", sequence(9_000)).unwrap_err(), OffsetError::Serialization { .. }));
}

/// Whether each commit replaced the one before it.
fn chain(commits: &mut [CommitInfo]) -> Result<(), String> {
    commits.sort_by_key(|commit| commit.offset.as_sequence());
    let mut before = None;
    for commit in commits {
        if commit.previous_offset != before {
            return Err(format!("{} replaced {before:?}, and was told {:?}", commit.offset, commit.previous_offset));
        }
        before = Some(commit.offset.clone());
    }
    Ok(())
}

/// What hooks of 16 threads on one source are told.
fn told_to_hooks(store: impl OffsetStore) -> Vec<CommitInfo> {
    const EACH: u64 = 30;
    let told = Arc::new(CollectingCommitHook::new());
    let store = HookedOffsetStore::new(store).add_hook(Arc::clone(&told));
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..16 {
            let (store, refused) = (&store, &refused);
            scope.spawn(move || {
                for number in 0..EACH {
                    match store.commit("a", &sequence(number * 16 + thread + 1)) {
                        Ok(_) => {}
                        Err(OffsetError::InvalidOffset(_)) => drop(refused.fetch_add(1, Ordering::SeqCst)),
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let commits = told.commits();
    assert_eq!(commits.len() as u64 + refused.into_inner(), 16 * EACH, "each commit is told once");
    assert!(commits.len() >= 16, "{}", commits.len());
    commits
}

/// Reads what is there, and then commits, as one might who has only `get` and a file.
struct ReadsBefore(InMemoryOffsetStore);

impl OffsetStore for ReadsBefore {
    fn get(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.0.get(source)
    }
    fn commit(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        let before = self.0.get(source)?;
        thread::yield_now();
        self.0.commit(source, offset)?;
        Ok(before)
    }
    fn commit_all(&self, offsets: &BTreeMap<String, Offset>) -> Result<BTreeMap<String, Option<Offset>>, OffsetError> {
        self.0.commit_all(offsets)
    }
    fn reset(&self, source: &str, offset: &Offset) -> Result<Option<Offset>, OffsetError> {
        self.0.reset(source, offset)
    }
    fn get_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.0.get_all()
    }
    fn clear(&self, source: &str) -> Result<Option<Offset>, OffsetError> {
        self.0.clear(source)
    }
    fn clear_all(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.0.clear_all()
    }
}

#[test]
fn the_previous_offsets_of_sixteen_threads_chain() {
    let (dir, memory) = (tempfile::tempdir().unwrap(), || Arc::new(MemoryDisk::default()) as Arc<dyn Disk>);
    let store = Store::in_memory().unwrap();
    let stores: [(&str, Arc<dyn OffsetStore>); 5] = [
        ("memory", Arc::new(InMemoryOffsetStore::new())),
        ("file", Arc::new(file_on(&memory(), Path::new("/")).unwrap())),
        ("files", Arc::new(locked_on(&memory(), Path::new("/base")).unwrap())),
        ("files of the machine", Arc::new(LockFileOffsetStore::open(dir.path(), "client").unwrap())),
        ("table", Arc::new(store.offset_store("feeds"))),
    ];
    for (name, store) in stores {
        chain(&mut told_to_hooks(store)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    store.close().unwrap();
    // It is seen where what was there is read before the lock.
    assert!((0..100).any(|_| chain(&mut told_to_hooks(ReadsBefore(InMemoryOffsetStore::new()))).is_err()));
}

/// With each call of the disk failing in turn: all sources are forgotten and each is told once, or none is.
#[test]
fn what_is_forgotten_is_told_once_and_what_is_not_is_not() {
    let sources: BTreeMap<_, _> = (0..5).map(|number| (format!("s{number}"), sequence(number))).collect();
    for failing in 0.. {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let files = locked_on(&disk, Path::new("/base")).unwrap();
        files.commit_all(&sources).unwrap();
        let (calls, is_broken) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, broken) = (Arc::clone(&calls), Arc::clone(&is_broken));
        // From there on all fail: it has no second try.
        let fails = over(Arc::clone(&disk), move |_| match counted.fetch_add(1, Ordering::SeqCst) {
            call if broken.load(Ordering::SeqCst) == 1 && call >= failing => Err(io::Error::other("on purpose")),
            _ => Ok(()),
        });
        let told = Arc::new(CollectingCommitHook::new());
        let hooked = locked_on(&fails, Path::new("/base")).unwrap();
        let hooked = HookedOffsetStore::new(hooked).add_hook(Arc::clone(&told));
        hooked.clear("never there").unwrap();
        assert!(told.deletes().is_empty(), "there was nothing to forget");
        calls.store(0, Ordering::SeqCst);
        is_broken.store(1, Ordering::SeqCst);
        let cleared = hooked.clear_all();
        let has_failed = calls.load(Ordering::SeqCst) > failing;

        let left = files.get_all().unwrap();
        let deletes = told.deletes();
        let heard: BTreeSet<_> = deletes.iter().map(|told| told.source.clone()).collect();
        assert_eq!(heard.len(), deletes.len(), "call {failing}: each once");
        match cleared {
            Ok(before) => {
                assert!(left.is_empty() && before == sources, "call {failing}: {left:?} is left");
                assert_eq!(heard, sources.keys().cloned().collect(), "call {failing}");
            }
            // Of a sync that failed nobody knows what it has saved.
            Err(_) => {
                assert!(heard.is_empty() && (left == sources || left.is_empty()), "call {failing}: {left:?} is left");
            }
        }
        if !has_failed {
            assert!(failing > 10, "{failing}");
            break;
        }
    }
}

/// Set in a child process: the directory.
const DIR: &str = "ONCELOG_TEST_OFFSETS_DIR";
/// Set in a child process: which one it is.
const NUMBER: &str = "ONCELOG_TEST_OFFSETS_NUMBER";
/// For how long they work: 3 s unless `cargo xtask test` says a minute.
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
