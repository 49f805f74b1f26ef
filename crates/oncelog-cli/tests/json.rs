//! docs/cli-json.md, held to its word: a copy by two pipes is the same, and what is no record is refused.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use common::shell::Shell;
use oncelog::{Bytes, Header, PartitionId, Record, Store, StoreReader, TopicDef, Whence};

/// What a record is, without where it is.
fn contents(shell: &Shell, topic: &str) -> Vec<(PartitionId, Record)> {
    let reader = StoreReader::open(shell.path("oncelog-data")).unwrap();
    let info = reader.topic(topic).unwrap();
    let mut all = Vec::new();
    for partition in (0..info.partitions).map(PartitionId) {
        let cursor = reader.cursor_over(topic, &[partition], Whence::Oldest).unwrap();
        all.extend(cursor.map(|record| (partition, record.unwrap())));
    }
    all
}

#[test]
fn a_copy_is_faithful() {
    const FIRST: TopicDef<Bytes, Bytes> = TopicDef::new("first").partitions(3);
    let shell = Shell::new();
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    let producer = store.producer(FIRST).unwrap();
    let every_byte: Vec<u8> = (0..=255).collect();
    let contents_of = |text: &'static str| Some(text.as_bytes());
    let pieces: [Option<&[u8]>; 8] = [
        None,
        Some(b""),
        contents_of("plain"),
        contents_of("quote \" backslash \\ line\nend\r\ttab \u{0} \u{7f} \u{2028} \u{1f600}"),
        contents_of("{\"base64\":\"AA==\"}"),
        Some(&every_byte),
        Some(&[0xff]),
        Some(&[0xc3, 0x28]),
    ];
    let mut count = 0;
    for (at, key) in pieces.iter().enumerate() {
        for value in &pieces {
            let of_them = [
                Header { name: "trace", value: *value },
                Header { name: "trace", value: *key },
                Header { name: "", value: None },
                Header { name: "\u{e9}\"\n", value: Some(b"") },
            ];
            let headers = &of_them[..count % 5];
            let timestamp = [0, -1, i64::MAX, i64::MIN, 1_795_840_860_250][count % 5];
            let partition = key.is_none().then_some(PartitionId(u32::try_from(at % 3).unwrap()));
            producer.append_record(partition, *key, *value, headers, Some(timestamp)).unwrap();
            count += 1;
        }
    }
    store.close().unwrap();

    shell.ok("topic create second --partitions 3");
    let lines = shell.ok("consume first --format json");
    assert_eq!(lines.lines().count(), count);
    shell.ok_on("produce second --format json --keep-partitions --batch 7", lines.clone());
    let (first, second) = (contents(&shell, "first"), contents(&shell, "second"));
    assert_eq!(first.len(), count);
    for ((of_first, one), (of_second, other)) in first.iter().zip(&second) {
        assert_eq!(of_first, of_second);
        assert_eq!((&one.key, &one.value, &one.headers), (&other.key, &other.value, &other.headers));
        assert_eq!((one.timestamp_ms, one.id.offset), (other.timestamp_ms, other.id.offset));
    }
    assert_eq!(shell.ok("consume second --format json").replace("\"second\"", "\"first\""), lines);
}

#[test]
fn the_example_of_the_page_is_read() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli-json.md")).unwrap();
    let line = page.split("```json\n").nth(1).unwrap().split_once('\n').unwrap().0;
    let shell = Shell::new();
    shell.ok_on("produce orders --create --format json", line);
    let back = shell.ok("consume orders --format json");
    assert_eq!(back.trim_end(), line.replace("\"offset\":7", "\"offset\":0"));
    shell.ok_on("produce orders --format json", "{\"value\":null}\n");
    assert!(shell.ok("consume orders --from 1 --format json").contains("\"key\":null,\"value\":null,\"headers\":[]"));
}

#[test]
fn what_is_no_record_is_refused_with_its_line() {
    let shell = Shell::new();
    shell.ok("topic create orders");
    for (line, part) in [
        ("", "no record in JSON"),
        ("x", "no record in JSON"),
        ("[]", "no record in JSON"),
        ("{}", "missing field `value`"),
        ("{\"vlaue\":\"a\",\"value\":\"b\"}", "unknown field `vlaue`"),
        ("{\"value\":7}", "null, a string, or"),
        ("{\"value\":{\"base64\":\"?\"}}", "base64"),
        ("{\"value\":{\"base64\":\"AA==\",\"hex\":\"\"}}", "null, a string, or"),
        ("{\"value\":\"a\",\"timestamp_ms\":\"now\"}", "expected i64"),
        ("{\"value\":\"a\",\"timestamp_ms\":1.5}", "1.5"),
        ("{\"value\":\"a\",\"headers\":[{\"value\":\"v\"}]}", "missing field `name`"),
        ("{\"value\":\"a\",\"headers\":[{\"name\":\"v\"}]}", "missing field `value`"),
        ("{\"value\":\"a\"} {\"value\":\"b\"}", "trailing"),
        ("{\"value\":\"a\",\"value\":\"b\"}", "duplicate field"),
        ("{\"value\":\"\u{0}\"}", "no record in JSON"),
    ] {
        shell.fails_on("produce orders --format json --batch 1", format!("{{\"value\":\"good\"}}\n{line}\n"), 1, part);
    }
    let before = shell.ok("consume orders").lines().count();
    let told = shell.told("produce orders --format json", "{\"value\":\"a\"}\n{\"vla\":1}\n", 1);
    assert!(told.contains("line 2: no record") && told.contains("the first 1 lines are stored"), "{told}");
    assert_eq!(shell.ok("consume orders").lines().count(), before + 1, "what comes before a bad line is stored");
    let told = shell.told("produce orders --format json", "{\"vla\":1}\n", 1);
    assert!(told.contains("nothing is stored"), "{told}");
    let other = "{\"value\":\"a\",\"partition\":1}\n";
    shell.ok_on("produce orders --format json", other);
    shell.fails_on("produce orders --format json --keep-partitions", other, 1, "partition 1");
}
