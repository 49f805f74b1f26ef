//! `oncelog checkpoint`, over files and over a store: right and wrong calls, damage, and the way back.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use common::shell::Shell;
use oncelog::{CheckpointManager, CheckpointStore, FileCheckpointStore, OperatorState, Store};

/// Checkpoints of `orders` at 10, 20 and 30.
fn fill(store: impl CheckpointStore) {
    let manager = CheckpointManager::new(store, 10);
    manager.register("orders", "sum", OperatorState::<u64>::default()).unwrap();
    manager.set_source_offset("orders", "feed-0", 7).unwrap();
    for sequence in 1..=30 {
        manager.on_event("orders", sequence, sequence * 1_000).unwrap();
    }
}

fn sequences(listed: &str) -> Vec<(&str, &str, &str)> {
    let rows = listed.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.map(|row| (row[1], row[2], row[3])).collect()
}

#[test]
fn a_stream_goes_back_and_forth() {
    let shell = Shell::new();
    fill(FileCheckpointStore::open(shell.path("files")).unwrap());
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    fill(store.checkpoint_store("feeds"));
    store.close().unwrap();
    for place in ["--dir files", "--name feeds"] {
        let listed = shell.ok(&format!("checkpoint list {place}"));
        assert_eq!(sequences(&listed), [("10", "0", "yes"), ("20", "0", "yes"), ("30", "0", "yes")]);
        let shown = shell.ok(&format!("checkpoint show orders {place}"));
        for line in
            ["sequence   30", "next       31", "events     30", "watermark  30000 ns", "source     feed-0: sequence:7"]
        {
            assert!(shown.contains(line), "no {line:?} in\n{shown}");
        }
        assert_eq!(shell.ok(&format!("checkpoint show orders --operator sum {place}")), "\0");
        let json = shell.ok(&format!("checkpoint show orders --sequence 10 --output json {place}"));
        assert!(json.contains(r#""sequence":10,"next":11"#), "{json}");

        let dry = shell.ok(&format!("checkpoint restore orders --sequence 25 --dry-run {place}"));
        assert!(dry.contains("to      20") && dry.contains("nothing was done"), "{dry}");
        assert_eq!(sequences(&shell.ok(&format!("checkpoint list orders {place}"))).len(), 3);
        shell.ok(&format!("checkpoint restore orders --sequence 25 {place}"));
        let listed = shell.ok(&format!("checkpoint list {place}"));
        assert_eq!(sequences(&listed), [("10", "0", "yes"), ("20", "1", "yes"), ("30", "0", "no")]);
        shell.ok(&format!("checkpoint restore orders --sequence 30 {place}"));
        assert!(shell.ok(&format!("checkpoint show orders {place}")).contains("sequence   30"));

        shell.ok(&format!(
            "checkpoint create orders --sequence 40 --source feed-0=41 --events 40 --metadata why=by-hand {place}"
        ));
        let shown = shell.ok(&format!("checkpoint show orders {place}"));
        assert!(
            shown.contains("line       2, from line 0 at 30") && shown.contains("metadata   why: by-hand"),
            "{shown}"
        );
        assert!(shown.contains("watermark  30000 ns"), "as before, where nothing is told: {shown}");
        shell.fails(&format!("checkpoint create orders --sequence 40 {place}"), 2, "is at 40 already");
        shell.fails(&format!("checkpoint create orders --sequence 41 --watermark-ns 29999 {place}"), 2, "watermark");

        let dry = shell.ok(&format!("checkpoint prune orders --keep 1 --dry-run {place}"));
        assert!(dry.starts_with("deleted  3\nleft     1\nnothing"), "{dry}");
        assert_eq!(shell.ok(&format!("checkpoint prune orders --before 20 {place}")), "deleted  1\nleft     3\n");
        assert_eq!(shell.ok(&format!("checkpoint prune orders --before 999 {place}")), "deleted  2\nleft     1\n");
        assert_eq!(shell.ok(&format!("checkpoint prune orders --all --yes {place}")), "deleted  1\nleft     0\n");
        shell.fails(&format!("checkpoint list orders {place}"), 3, "orders");
        assert_eq!(shell.ok(&format!("checkpoint list --output json {place}")), "[]\n");
    }
}

#[test]
fn damage_is_named_and_the_one_before_is_shown() {
    let shell = Shell::new();
    fill(FileCheckpointStore::open(shell.path("files")).unwrap());
    let file = shell.path("files/orders/00000000000000000030-0-0-0.checkpoint");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[80] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let shown = shell.ok("checkpoint show orders --dir files");
    assert!(
        shown.contains("sequence   20") && shown.contains("damage     ") && shown.contains("000030-0-0-0"),
        "{shown}"
    );
    let output = shell.command("checkpoint list --dir files").output().unwrap();
    let (listed, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!((output.status.code(), sequences(&listed).len()), (Some(4), 3), "{listed}");
    assert!(listed.contains("its checksum does not fit") && told.contains("1 checkpoint cannot be read"), "{told}");
    shell.fails("checkpoint show orders --sequence 30 --dir files", 4, "000030-0-0-0");
    let dry = shell.ok("checkpoint prune orders --before 999 --dry-run --dir files");
    let pruned = shell.ok("checkpoint prune orders --before 999 --dir files");
    assert!(dry.starts_with(&pruned) && pruned == "deleted  1\nleft     2\n", "not the newest good one: {dry}{pruned}");
    for sequence in [30, 29] {
        let restored = shell.ok(&format!("checkpoint restore orders --sequence {sequence} --dir files"));
        assert!(restored.contains("to      20"), "{restored}");
        assert_eq!(restored.contains("damage  ") && restored.contains("000030-0-0-0"), sequence == 30, "{restored}");
    }
    std::fs::write(shell.path("files/orders/notes.txt"), "").unwrap();
    shell.fails("checkpoint list --dir files", 4, "notes.txt");
}

#[test]
fn checkpoints_of_the_earlier_library_are_taken_over() {
    let shell = Shell::new();
    let numbers = [300_u64, 9_000, 300].map(u64::to_le_bytes).concat();
    let (none, one) = (0_u32.to_le_bytes(), 1_u32.to_le_bytes());
    let old = [&numbers[..], &none, &one, &one, b"k", &301_u64.to_le_bytes()].concat();
    std::fs::write(shell.path("old.bin"), &old).unwrap();
    let shown = shell.ok("checkpoint create orders --import old.bin --events 17 --dir new/files");
    for line in ["sequence   300", "events     17", "watermark  9000 ns", "source     k: sequence:301"] {
        assert!(shown.contains(line), "no {line:?} in\n{shown}");
    }
    std::fs::write(shell.path("cut.bin"), &old[..old.len() - 1]).unwrap();
    shell.fails("checkpoint create orders --import cut.bin --dir new/files", 4, "cut.bin");
    shell.fails("checkpoint create orders --import none.bin --dir new/files", 3, "none.bin");
}

#[test]
fn wrong_calls() {
    let shell = Shell::new();
    for (line, part) in [
        ("checkpoint list", "--dir"),
        ("checkpoint list --dir a --name b", "--name"),
        ("checkpoint create s --dir a", "--import"),
        ("checkpoint create s --sequence x --dir a", "x"),
        ("checkpoint create s --sequence 1 --source feed --dir a", "equals"),
        ("checkpoint create s --sequence 1 --source feed=here --dir a", "here"),
        ("checkpoint create s --sequence 1 --source feed=latest --dir a", "latest"),
        ("checkpoint prune s --dir a", "--before"),
        ("checkpoint prune s --all --dir a", "--yes"),
        ("checkpoint prune s --keep 0 --dir a", "--keep"),
        ("checkpoint restore s --dir a", "--sequence"),
        ("checkpoint show s --operator x --output json --dir a", "--output"),
    ] {
        shell.fails(line, 2, part);
    }
    shell.fails("checkpoint list --dir a", 3, "a");
    assert!(!shell.path("a").exists(), "a wrong call has made something");
    shell.fails("checkpoint list --name feeds", 3, "there is no store");
    Store::open(shell.path("oncelog-data")).unwrap().close().unwrap();
    shell.fails("checkpoint list --name feeds", 3, "feeds");
}
