//! `repair`, `doctor`, `segment dump`, and where `produce` puts keys: as a user meets them.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use std::fs;
use std::path::PathBuf;

use common::shell::Shell;
use oncelog::{Pair, Store, TopicDef, U64, Utf8};

/// The first segment file of a topic's partition.
fn segment(shell: &Shell, topic: &str) -> PathBuf {
    let dir = shell.path("oncelog-data/topics").join(topic).join("000000");
    let mut found: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|kind| kind == "segment"));
    found.sort();
    found.remove(0)
}

fn flip(path: &PathBuf, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Five lines in five batches.
fn five(shell: &Shell) {
    shell.ok_on("produce lines --create --batch 1", "one\ntwo\nthree\nfour\nfive\n");
}

#[test]
fn a_damaged_store_is_repaired_when_asked_twice() {
    let shell = Shell::new();
    shell.fails("repair", 3, "there is no store");
    five(&shell);
    assert_eq!(shell.ok("repair"), "result   nothing to repair\n");
    assert_eq!(shell.ok("repair --yes"), "result   nothing to repair\n");
    let path = segment(&shell, "lines");
    // In the second of five batches.
    flip(&path, 80 + 70 + 64);
    let damaged = fs::read(&path).unwrap();
    shell.fails("verify", 4, "1 place is damaged");
    let output = shell.command("repair").output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        told.contains("lost     topic \"lines\", partition 0: 1..2") && told.contains("nothing was changed"),
        "{told}"
    );
    assert_eq!(fs::read(&path).unwrap(), damaged, "asked once nothing changes");
    let done = shell.ok("repair --yes --output json");
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["done"], &done["sound"]), (&true.into(), &true.into()), "{done}");
    assert_eq!(done["lost"][0], serde_json::json!({"topic": "lines", "partition": 0, "from": 1, "to": 2}));
    let kept = done["mends"][0]["kept_in"][0].as_str().unwrap();
    let cut = done["mends"][0]["cut_bytes"].as_u64().unwrap();
    assert_eq!(fs::metadata(shell.path(kept)).unwrap().len(), cut);
    assert!(shell.ok("verify").contains("as readers are told"));
    let (code, rest) = common::failure(&shell.command("consume lines").output().unwrap());
    assert!(code == 1 && rest.contains("1..2"), "{code} {rest}");
    assert_eq!(shell.ok("consume lines --from 2"), "three\nfour\nfive\n");
    shell.ok_on("produce lines", "six\n");
    assert_eq!(shell.ok("consume lines --from 5"), "six\n");
}

#[test]
fn a_store_in_use_is_not_repaired_and_what_cannot_be_mended_is_told() {
    let shell = Shell::new();
    five(&shell);
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    shell.fails("repair", 5, "another process");
    shell.fails("repair --yes", 5, "another process");
    store.close().unwrap();
    let state = shell.path("oncelog-data/owners/main/state");
    let table = fs::read_dir(state).unwrap().next().unwrap().unwrap().path();
    fs::write(table, b"").unwrap();
    shell.fails("repair", 4, "1 thing cannot be mended");
    shell.fails("repair --yes", 4, "1 thing cannot be mended");
}

#[test]
fn a_half_written_end_of_a_segment_is_remarked_and_damage_is_damage() {
    let shell = Shell::new();
    five(&shell);
    let path = segment(&shell, "lines");
    let whole = fs::read(&path).unwrap();
    let name = path.strip_prefix(shell.path("")).unwrap().display().to_string();
    assert!(!shell.ok(&format!("segment dump {name}")).contains("behind"));
    shell.fails("segment dump oncelog-data/STORE", 2, "no segment file");
    shell.fails("segment dump oncelog-data", 2, "no segment file");
    // The beginning of another batch, and then nothing.
    fs::write(&path, [&whole[..], &whole[80..120]].concat()).unwrap();
    let told = shell.ok(&format!("segment dump {name}"));
    assert!(told.contains(&format!("end          byte {}", whole.len())) && told.contains("means nothing"), "{told}");
    assert!(shell.ok(&format!("segment dump {name} --output json")).contains("\"behind\":"));
    flip(&path, 80 + 70 + 64);
    shell.fails(&format!("segment dump {name}"), 4, "checksum");
    // The last batch that counts.
    fs::write(&path, &whole).unwrap();
    flip(&path, whole.len() - 2);
    shell.fails(&format!("segment dump {name}"), 4, "checksum");
    // Away from its store nobody knows what counts: what a good batch follows does.
    let elsewhere = shell.path(path.file_name().unwrap().to_str().unwrap());
    fs::copy(&path, &elsewhere).unwrap();
    let name = elsewhere.file_name().unwrap().to_str().unwrap();
    assert!(shell.ok(&format!("segment dump {name}")).contains("means nothing"));
    flip(&elsewhere, 80 + 70 + 64);
    shell.fails(&format!("segment dump {name}"), 4, "checksum");
}

#[test]
fn keys_go_where_typed_producers_put_them() {
    const VISITS: TopicDef<Pair<Utf8, U64>, Utf8> = TopicDef::new("visits").partitions(7);
    let shell = Shell::new();
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    let producer = store.producer(VISITS).unwrap();
    for n in 0..40u64 {
        producer.append(&(format!("user {}", n % 13), n), "here").unwrap();
    }
    store.close().unwrap();
    let all = shell.ok("consume visits --format json");
    shell.ok("topic create copy --partitions 7 --key-codec pair(utf8,u64-be) --value-codec utf8");
    shell.ok_on("produce copy --format json", all.clone());
    let places = |text: &str| {
        let mut found: Vec<_> =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        found.sort_by_key(|record| record["key"].to_string());
        found.into_iter().map(|record| (record["key"].to_string(), record["partition"].clone())).collect::<Vec<_>>()
    };
    assert_eq!(places(&shell.ok("consume copy --format json")), places(&all));
    shell.fails_on(
        "produce copy --key-delimiter :",
        "ann:here\n",
        1,
        "line 1: its key is no encoding of pair(utf8,u64-be)",
    );
}

#[test]
fn the_doctor_looks_with_a_store_and_without_and_leaves_nothing() {
    let shell = Shell::new();
    let names = || fs::read_dir(shell.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let told = shell.ok("doctor");
    assert!(told.contains("times 4 KiB written and synced") && told.contains("there is none yet"), "{told}");
    assert!(names().is_empty(), "{:?}", names());
    five(&shell);
    let told: serde_json::Value = serde_json::from_str(&shell.ok("doctor --output json")).unwrap();
    let checks: Vec<_> = told.as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
    for name in ["file system", "room", "sync", "locks", "shared memory", "open files", "clock", "store", "owner"] {
        assert!(checks.contains(&name), "no check {name:?}: {checks:?}");
    }
    assert_eq!(names(), ["oncelog-data"]);
    let left = fs::read_dir(shell.path("oncelog-data")).unwrap().count();
    assert_eq!(left, 5, "nothing but the store is in the store");
    flip(&shell.path("oncelog-data/STORE"), 9);
    shell.fails("doctor", 1, "1 check failed");
    shell.fails("doctor --store oncelog-data/STORE", 1, "is a file");
}

#[test]
fn the_bench_measures_and_leaves_nothing() {
    let shell = Shell::new();
    shell.fails("bench --dir nowhere", 3, "no directory nowhere");
    shell.fails("bench --size 7", 2, "24..=32768");
    let told: serde_json::Value = serde_json::from_str(&shell.ok("bench --seconds 1 --output json")).unwrap();
    let rows = told["workloads"].as_array().unwrap();
    assert_eq!(rows.len(), 4, "{told}");
    for row in rows {
        let figures = ["disk_per_second", "oncelog_per_second", "ratio"].map(|name| row[name].as_f64().unwrap());
        assert!(figures.iter().all(|figure| *figure > 0.0), "{row}");
        assert!(row["what"] != "other", "{row}");
    }
    assert_eq!(fs::read_dir(shell.path("")).unwrap().count(), 0);
}
