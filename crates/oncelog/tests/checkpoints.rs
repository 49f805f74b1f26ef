//! Checkpoints in a table of a store, on the machine's disk, and of a process that is killed.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, and lives in the real world"
)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use oncelog::{
    CheckpointId, CheckpointManager, CheckpointState, CheckpointStore, ErrorKind, FileCheckpointStore, Lineage,
    OperatorState, Store,
};

fn state(stream: &str, sequence: u64) -> CheckpointState {
    let mut state = CheckpointState::new(CheckpointId::new(stream, sequence));
    state.set_operator_state("sum", vec![sequence.to_le_bytes()[0]; 5_000]);
    state
}

fn sequences(store: &dyn CheckpointStore, stream: &str) -> Vec<u64> {
    store.list(stream).unwrap().iter().map(|entry| entry.sequence).collect()
}

#[test]
fn a_store_keeps_checkpoints_as_it_keeps_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let kept = store.checkpoint_store("feeds").max_per_stream(3);
    assert!(kept.latest("a").unwrap().is_none() && kept.streams().unwrap().is_empty());
    assert_eq!((kept.delete_before("a", 9).unwrap(), kept.clear("a").unwrap()), (0, 0));
    [10, 20, 30, 40].iter().for_each(|sequence| kept.save(&state("a", *sequence)).unwrap());
    kept.save(&state("b/../\0", 7)).unwrap();
    assert_eq!(sequences(&kept, "a"), [20, 30, 40]);
    assert_eq!(kept.rewind("a", 35).unwrap().state.id.sequence, 30);
    assert_eq!(kept.save(&state("a", 50)).unwrap_err().kind(), ErrorKind::Fenced);
    assert!(store.checkpoint_store("others").streams().unwrap().is_empty());
    drop(kept);
    store.close().unwrap();

    let store = Store::open(&path).unwrap();
    let kept = store.checkpoint_store("feeds").max_per_stream(3);
    assert_eq!(kept.streams().unwrap(), ["a", "b/../\0"]);
    let latest = kept.latest("a").unwrap().unwrap().state;
    assert_eq!((latest.id.sequence, latest.lineage.number), (30, 1));
    assert_eq!(latest.operator_states, state("a", 30).operator_states);
    kept.save(&CheckpointState::clone(&latest)).unwrap();
    assert_eq!(kept.get("a", 20).unwrap().unwrap().operator_states, state("a", 20).operator_states);
    assert_eq!(kept.delete_before("a", 1_000).unwrap(), 2, "20, and 40, which was left behind; not the newest");
    assert_eq!((sequences(&kept, "a"), kept.clear("a").unwrap()), (vec![30], 1));
    assert_eq!((kept.streams().unwrap(), kept.checkpoint_count("a").unwrap()), (vec!["b/../\0".to_owned()], 0));
    drop(kept);
    store.close().unwrap();
}

#[test]
fn threads_that_save_in_one_table_lose_nothing() {
    let store = Store::in_memory().unwrap();
    let kept = Arc::new(store.checkpoint_store("feeds").max_per_stream(4));
    let saved: Vec<_> = std::thread::scope(|scope| {
        let save = |thread: u64| {
            let kept = Arc::clone(&kept);
            scope.spawn(move || (0..10).try_for_each(|number| kept.save(&state("s", number * 8 + thread))))
        };
        let threads: Vec<_> = (0..8).map(save).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    saved.into_iter().for_each(|saved| saved.unwrap());
    assert_eq!(kept.latest("s").unwrap().unwrap().state.id.sequence, 79);
    assert_eq!(kept.checkpoint_count("s").unwrap(), 4);
}

#[test]
fn a_read_only_directory_can_be_read_and_says_so_when_it_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let store = FileCheckpointStore::open(dir.path()).unwrap();
    store.save(&state("s", 1)).unwrap();
    let file = std::fs::read_dir(dir.path().join("s")).unwrap().map(|entry| entry.unwrap().path());
    let file = file.into_iter().find(|path| path.extension().is_some_and(|end| end == "checkpoint")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(store.latest("s").unwrap().unwrap().state.id.sequence, 1);
    // A file where the stream's directory should be.
    std::fs::write(dir.path().join("t"), b"").unwrap();
    let error = store.save(&state("t", 1)).unwrap_err();
    assert!(error.file().is_some_and(|file| file.starts_with(dir.path())), "{error}");
    let error = FileCheckpointStore::open(&file).err().unwrap();
    assert!(error.file() == Some(&*file), "{error}");
}

/// Set in a child process: the directory.
const DIR: &str = "ONCELOG_TEST_CHECKPOINTS_DIR";

type Counts = OperatorState<BTreeMap<u64, u64>>;

/// A manager over the files, and its operator.
fn manager(dir: &Path) -> (CheckpointManager<FileCheckpointStore>, Arc<Counts>) {
    let counts = Arc::new(Counts::default());
    let manager = CheckpointManager::new(FileCheckpointStore::open(dir).unwrap().max_per_stream(3), 7);
    manager.register("s", "counts", Arc::clone(&counts)).unwrap();
    (manager, counts)
}

/// Not a test by itself: the work of a child, which ends when it is killed.
#[test]
fn work_of_a_child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let (manager, counts) = manager(Path::new(&dir));
    let next = manager.recover("s").unwrap().map_or(1, |recovered| recovered.next.unwrap());
    println!("from {next}");
    for sequence in next.. {
        counts.with(|counts| *counts.entry(sequence % 5).or_default() += 1);
        if manager.on_event("s", sequence, sequence).unwrap() {
            println!("taken {sequence}");
        }
    }
}

#[test]
fn a_killed_process_goes_on_from_what_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut answered = 0;
    for round in 0..10_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["work_of_a_child", "--exact", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let number = |line: &str, mark: &str| line.strip_prefix(mark).map(|number| number.parse::<u64>().unwrap());
        // The harness writes before, on the same line.
        let from = lines.find_map(|line| number(&line[line.find("from ").unwrap_or(0)..], "from ")).unwrap();
        assert!(from > answered, "it begins at {from}, and {answered} was answered");
        let taken = lines.filter_map(|line| number(&line, "taken ")).nth(usize::try_from(round * 3).unwrap()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        answered = taken;
    }
    let (manager, counts) = manager(dir.path());
    let recovered = manager.recover("s").unwrap().unwrap();
    assert!(recovered.last >= answered && recovered.damaged.is_empty(), "{recovered:?}");
    assert_eq!(recovered.state.event_count, recovered.last, "each event is in it once");
    let expected = (1..=recovered.last).fold(BTreeMap::new(), |mut counts, sequence| {
        *counts.entry(sequence % 5).or_default() += 1;
        counts
    });
    assert_eq!(counts.with(|counts| counts.clone()), expected);
    assert_eq!(manager.store().list("s").unwrap().len(), 3);
    assert_eq!(recovered.state.lineage, Lineage::FIRST);
}
