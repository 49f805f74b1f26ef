//! `topic`, `group`, `table`, `stats` and the rest that answers at once: right and wrong calls, and their exit codes.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use common::shell::Shell;
use oncelog::{
    Coordinator, IdempotentProducerConfig, PartitionId, ProducerStamp, Sequence, Store, TableDef, TopicDef, U64, Utf8,
};

fn rows(text: &str) -> Vec<Vec<&str>> {
    text.lines().map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn a_topic_from_its_making_to_its_end() {
    let shell = Shell::new();
    shell.fails("topic list", 3, "there is no store");
    assert_eq!(shell.ok("topic create orders --partitions 2 --key-codec utf8"), "");
    shell.fails("topic create orders", 1, "exists already");
    shell.fails("topic create orders --if-not-exists", 1, "exists and differs");
    shell.ok("topic create orders --partitions 2 --key-codec utf8 --if-not-exists");
    shell.ok("topic create other --owner billing --compression lz4");
    let listed = shell.ok("topic list");
    assert_eq!(rows(&listed)[1], ["orders", "2", "0", "utf8", "bytes", "main"]);
    assert_eq!(rows(&listed)[2], ["other", "1", "0", "bytes", "bytes", "billing"]);
    assert!(shell.ok("topic describe other").contains("compression  lz4"));

    shell.ok("topic alter other --compression none --roll-bytes 4096");
    let described = shell.ok("topic describe other --output json");
    assert!(described.contains(r#""compression":"none","roll_bytes":4096"#), "{described}");
    shell.ok_on("produce other --batch 1", "x".repeat(3000) + "\n" + &"y".repeat(3000));
    assert!(shell.ok("topic describe other --output json").contains(r#""segments":2"#));

    shell.ok("topic alter other --max-bytes 1000000 --max-age 7d --keep-for audit --keep-for billing --expiry 90s");
    let keeps = "at most 1000000 bytes; for 604800 s at most; until read by audit, billing (or idle for 90 s)";
    assert!(shell.ok("topic describe other").contains(keeps));
    shell.ok("topic alter other --max-bytes none --max-age none --keep-age none");
    assert!(shell.ok("topic describe other").contains("keeps        everything"));
    shell.fails("topic truncate other --before 1", 2, "--yes");
    shell.ok("topic truncate other --before 1 --yes");
    let described = shell.ok("topic describe other --output json");
    assert!(described.contains(r#""start":1,"end":2,"segments":1"#), "{described}");
    assert_eq!(shell.ok("consume other"), "y".repeat(3000) + "\n");
    shell.fails("topic truncate other --before 3 --yes", 2, "behind");
    shell.fails("topic truncate other --partition 1 --before 0 --yes", 2, "partition");
    shell.fails("topic truncate nothing --before 0 --yes", 3, "nothing");

    shell.fails("topic delete orders", 2, "--yes");
    shell.ok("topic delete orders --yes");
    shell.fails("topic describe orders", 3, "orders");
    shell.fails("topic delete orders --yes", 3, "orders");
    shell.fails("topic alter orders --compression lz4", 3, "orders");
}

#[test]
fn only_compression_that_is_built_in_is_offered() {
    let shell = Shell::new();
    if cfg!(feature = "zstd") {
        shell.ok("topic create packed --compression zstd");
        shell.ok_on("produce packed", "x".repeat(3000) + "\n");
        assert_eq!(shell.ok("consume packed"), "x".repeat(3000) + "\n");
    } else {
        shell.fails("topic create packed --compression zstd", 2, "possible values: none, lz4]");
    }
}

#[test]
fn a_load_that_meets_a_full_topic_says_how_far_it_came() {
    let shell = Shell::new();
    let line = |number: u32| format!("{number:04} {}\n", "x".repeat(1000));
    std::fs::write(shell.path("input"), (0..100).map(line).collect::<String>()).unwrap();
    for topic in ["plain", "load"] {
        shell.ok(&format!("topic create {topic} --max-bytes 20000 --roll-bytes 4096 --keep-for audit"));
    }
    let told = shell.told("produce plain input --batch 5", "", 1);
    let stored = shell.ok("consume plain").lines().count();
    assert!(stored > 0 && stored < 100 && stored.is_multiple_of(5), "{stored}");
    assert!(told.contains(&format!("the first {stored} lines are stored: go on behind them")), "{told}");

    let told = shell.told("produce load input --batch 5 --producer-id nightly", "", 1);
    assert!(told.contains("lines are stored, and the same call goes on behind them"), "{told}");
    shell.ok("topic alter load --max-bytes none");
    shell.ok("produce load input --batch 5 --producer-id nightly");
    assert_eq!(shell.ok("consume load"), std::fs::read_to_string(shell.path("input")).unwrap());
}

#[test]
fn a_topic_keeps_the_last_record_of_each_key() {
    let shell = Shell::new();
    shell.ok("topic create prices --compact --dirty-ratio 0.3 --tombstones 7d --compact-lag 0s --roll-bytes 1024");
    let described = shell.ok("topic describe prices");
    assert!(described.contains("compacted    from a dirty ratio of 0.3 on; tombstones for 604800 s; not before 0 s"));
    assert!(described.contains("DIRTY"), "{described}");
    shell.ok("topic alter prices --dirty-ratio 0.25");
    let described = shell.ok("topic describe prices --output json");
    assert!(described.contains(r#""compaction":{"dirty_ratio":0.25,"tombstones_s":604800,"lag_s":0}"#), "{described}");
    let lines: String = (0..200).map(|number| format!("k{}:{}\n", number % 3, "x".repeat(number))).collect();
    shell.ok_on("produce prices --key-delimiter : --batch 5", lines);
    shell.fails_on("produce prices", "no key\n", 1, "compacted by key");
    let told = shell.ok("topic compact prices");
    assert!(told.contains("records are gone"), "{told}");
    let left = shell.ok("consume prices");
    let found: Vec<usize> = left.lines().map(str::len).collect();
    assert!(found.len() < 60 && found.windows(2).all(|pair| pair[0] < pair[1]), "{found:?}");
    assert_eq!(found[found.len() - 3..], [197, 198, 199]);
    let told = shell.ok("topic compact prices --output json");
    assert!(told.contains(r#""rounds":0,"removed_records":0"#), "{told}");
    let described = shell.ok("topic describe prices --output json");
    assert!(described.contains(r#""dirty_bytes":0,"compacted":1"#), "{described}");
    shell.ok("topic alter prices --no-compact");
    assert!(!shell.ok("topic describe prices").contains("compacted "));
    shell.fails("topic compact prices", 2, "not compacted");
    shell.fails("topic alter prices --tombstones 1d", 2, "--compact");
    shell.fails("topic compact nothing", 3, "nothing");
}

#[test]
fn wrong_calls_are_told_before_anything_is_done() {
    let shell = Shell::new();
    for (line, part) in [
        ("topic create", "<TOPIC>"),
        ("topic create orders --partitions 0", "--partitions"),
        ("topic create orders --compression zip", "zip"),
        ("topic create orders --roll-bytes 12", "--roll-bytes"),
        ("topic alter orders", "--compression"),
        ("topic alter orders --max-age 7", "7d"),
        ("topic alter orders --max-bytes few", "none"),
        ("topic alter orders --keep-for a --keep-age 1d", "--keep-age"),
        ("topic create orders --expiry 1d", "--keep-for"),
        ("topic create orders --dirty-ratio 0.5", "--compact"),
        ("topic create orders --compact --dirty-ratio 1.5", "0 to 1"),
        ("topic alter orders --no-compact --compact", "--no-compact"),
        ("topic make orders", "make"),
        ("consume orders --from yesterday", "yesterday"),
        ("consume orders --group a --global", "--global"),
        ("consume orders --owner b", "--group"),
        ("consume orders --template {kye}", "kye"),
        ("consume orders --format template", "--template"),
        ("consume orders --format json --template {key}", "--template"),
        ("consume orders --wait 3", "--wait"),
        ("produce orders --sync now", "always"),
        ("produce orders --sync os --producer-id p", "--producer-id"),
        ("produce orders --keep-partitions", "--format json"),
        ("produce orders --format json --key-delimiter :", "--key-delimiter"),
        ("produce orders --batch 0", "--batch"),
        ("group reset mail", "--to"),
        ("group describe", "GROUP"),
        ("group delete mail", "--yes"),
        ("table get totals 0x0", "hexadecimal"),
        ("stats --output xml", "xml"),
        ("completions tcsh", "tcsh"),
        ("--store s completions bash", "--store"),
    ] {
        shell.fails(line, 2, part);
    }
    assert!(!shell.path("oncelog-data").exists() && !shell.path("s").exists());
    shell.fails("produce orders missing.txt --create", 3, "missing.txt");
    assert!(!shell.path("oncelog-data").exists(), "an input that is not there has made a store");
}

#[test]
fn names_that_no_topic_can_have() {
    let shell = Shell::new();
    shell.fails(&format!("topic create {}", "x".repeat(300)), 2, "bad name");
    shell.fails(&format!("topic describe {}", "x".repeat(300)), 3, "there is no topic");
    shell.fails(&format!("consume {}", "x".repeat(300)), 3, "there is no topic");
    shell.ok("topic create ../../escape");
    assert_eq!(rows(&shell.ok("topic list"))[1][0], "../../escape");
    assert!(!shell.path("../escape").exists());
}

#[test]
fn the_store_is_found_by_option_or_variable() {
    let shell = Shell::new();
    shell.ok("--store one topic create a");
    shell.ok("topic create b --store two");
    let listed = shell.command("topic list").env("ONCELOG_STORE", "two").output().unwrap();
    assert_eq!(rows(&String::from_utf8(listed.stdout).unwrap())[1][0], "b");
    std::fs::write(shell.path("file"), "").unwrap();
    shell.fails("topic create a --store file", 2, "a store is a directory");
}

#[test]
fn groups_come_move_and_go() {
    let shell = Shell::new();
    shell.ok("topic create orders");
    shell.ok_on("produce orders", "a\nb\nc\nd\n");
    assert_eq!(shell.ok("consume orders --group mail --max 3"), "a\nb\nc\n");
    assert_eq!(rows(&shell.ok("group list"))[1], ["mail", "orders", "1", "1", "main"]);
    assert_eq!(rows(&shell.ok("group describe mail"))[1], ["orders", "0", "3", "4", "1"]);

    let planned = shell.ok("group reset mail --to 1 --dry-run");
    assert!(rows(&planned)[1] == ["orders", "0", "3", "1"] && planned.contains("nothing was done"), "{planned}");
    assert_eq!(rows(&shell.ok("group describe mail"))[1][2], "3");
    shell.ok("group reset mail --to 1");
    assert_eq!(shell.ok("consume orders --group mail"), "b\nc\nd\n");
    shell.fails("group reset mail --to 9", 2, "behind the end");
    shell.fails("group reset mail --to oldest --topic others", 3, "never read");
    shell.fails("group reset post --to oldest", 3, "post");

    shell.ok("group delete mail --yes");
    shell.fails("group describe mail", 3, "mail");
    shell.fails("group delete mail --yes", 3, "mail");
    assert_eq!(shell.ok("consume orders --group mail --from 2"), "c\nd\n");
}

#[test]
fn producers_are_shown_with_what_is_stored_of_them() {
    const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines").partitions(2);
    let shell = Shell::new();
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    let config = IdempotentProducerConfig::new("gate").partition(PartitionId(1)).initial_sequence(Sequence(100));
    let gate = store.idempotent_producer(LINES, config).unwrap();
    for line in 0..7 {
        gate.append("k", &format!("{line}")).unwrap();
    }
    let coordinator = Coordinator::new(store.state_backend("app").unwrap());
    let stamp = ProducerStamp::new("sensor 7", PartitionId(3), Sequence(0));
    let txn = coordinator.begin_batch(&stamp, 20).unwrap().unwrap();
    coordinator.commit_transaction(txn).unwrap();
    // Of the same name, and another.
    store.transact(|tx| tx.stamp(&ProducerStamp::new("app/sensor 7", PartitionId(3), Sequence(0))).map(drop)).unwrap();
    // Beside the process that has the store.
    let listed = shell.ok("producer list");
    assert_eq!(rows(&listed)[2], ["app/sensor", "7", "(coordinator)", "3", "20", "0", "main"]);
    assert_eq!(rows(&listed)[1], ["app/sensor", "7", "-", "3", "1", "0", "main"]);
    assert_eq!(rows(&listed)[3], ["gate", "lines", "1", "107", "1", "main"]);
    let described = shell.ok("producer describe gate");
    let batches: Vec<Vec<String>> = (2..7)
        .map(|at| ["lines", "1", &(100 + at).to_string(), "1", &at.to_string()].map(str::to_owned).to_vec())
        .collect();
    assert_eq!(rows(&described)[1..], batches, "the last five");
    let json = shell.ok("producer list --output json");
    assert!(
        json.contains(
            &[
                r#"{"producer":"app/sensor 7","coordinated":true,"topic":null,"#,
                r#""partition":3,"next":20,"epoch":0,"owner":"main"}"#
            ]
            .concat()
        ),
        "{json}"
    );
    shell.fails("producer describe other", 3, "other");
    drop((gate, coordinator));
    store.close().unwrap();
    assert_eq!(shell.ok("producer list"), listed);
}

#[test]
fn the_global_consumer_is_one() {
    let shell = Shell::new();
    shell.ok("topic create orders");
    shell.ok_on("produce orders", "a\nb\nc\n");
    assert_eq!(shell.ok("consume orders --global --max 1"), "a\n");
    assert_eq!(shell.ok("consume orders --global"), "b\nc\n");
    assert_eq!(rows(&shell.ok("group describe --global orders"))[1][2], "3");
    shell.ok("group reset --global orders --to oldest");
    shell.ok("group delete --global orders --yes");
    shell.fails("group describe --global orders", 3, "orders");
}

#[test]
fn a_group_stays_with_its_owner() {
    let shell = Shell::new();
    shell.ok("topic create orders");
    shell.ok_on("produce orders", "a\nb\n");
    assert_eq!(shell.ok("consume orders --group mail --owner billing --max 1"), "a\n");
    assert_eq!(shell.ok("consume orders --group mail"), "b\n");
    assert_eq!(rows(&shell.ok("group list"))[1][4], "billing");
    shell.fails("consume orders --group mail --owner main", 2, "billing");
    // Forgotten, it may be another owner's.
    shell.ok("group delete mail --yes");
    assert_eq!(shell.ok("consume orders --group mail"), "a\nb\n");
    assert_eq!(rows(&shell.ok("group list"))[1][4], "main");
}

#[test]
fn tables_are_shown_by_their_codecs() {
    const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
    const BLOBS: TableDef<U64, oncelog::Bytes> = TableDef::new("blobs").shards(3);
    let shell = Shell::new();
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    store
        .transact(|tx| {
            tx.table(TOTALS)?.put("ann", &250)?;
            tx.table(TOTALS)?.put("bob", &75)?;
            (0..2500).try_for_each(|n| tx.table(BLOBS)?.put(&n, &[0xff, 0]))
        })
        .unwrap();
    // Beside the program that has it open.
    assert_eq!(shell.ok("table get totals ann"), "250\n");
    assert_eq!(shell.ok("table scan totals"), "ann\t250\nbob\t75\n");
    store.close().unwrap();
    assert_eq!(rows(&shell.ok("table list"))[1], ["blobs", "3", "u64-be", "bytes", "main"]);
    assert_eq!(shell.ok("table get blobs 7"), "0xff00\n");
    assert_eq!(
        shell.ok("table get blobs 0x0000000000000007 --output json"),
        "{\"key\":7,\"value\":{\"base64\":\"/wA=\"}}\n"
    );
    assert_eq!(shell.ok("table scan blobs").lines().count(), 2500);
    assert_eq!(shell.ok("table scan blobs --max 1001").lines().count(), 1001);
    let of_shards: usize =
        (0..3).map(|shard| shell.ok(&format!("table scan blobs --shard {shard}")).lines().count()).sum();
    assert_eq!(of_shards, 2500);
    let some = shell.ok("table scan totals --from b --to c --output json");
    assert_eq!(some, "{\"key\":\"bob\",\"value\":75}\n");
    shell.fails("table get totals eve", 3, "eve");
    shell.fails("table get nothing eve", 3, "nothing");
    shell.fails("table scan nothing", 3, "nothing");
    shell.fails("table get blobs seven", 2, "numbers");
    shell.fails("table scan blobs --shard 3", 2, "3 shards");
}

#[test]
fn numbers_completions_and_manual_pages() {
    let shell = Shell::new();
    shell.ok("topic create orders --partitions 3");
    shell.ok_on("produce orders", "a\nb\n");
    let stats = shell.ok("stats --output json");
    assert!(stats.contains(r#""topics":1,"partitions":3,"offsets":2"#), "{stats}");
    assert!(shell.ok("stats").contains("offsets      2"));
    for shell_name in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(shell.ok(&format!("completions {shell_name}")).contains("oncelog"));
    }
    shell.ok("man pages");
    let page = std::fs::read_to_string(shell.path("pages/oncelog-topic-create.1")).unwrap();
    assert!(page.contains("partitions") && page.contains("Examples"), "{page}");
    assert!(shell.path("pages/oncelog.1").exists());
}
