//! What people and programs give to the command `oncelog`: records as lines of JSON, moments and places. A command is
//! no library, so the files that read these are compiled here once more.

#[allow(dead_code, reason = "what writes records needs a store")]
#[path = "../../crates/oncelog-cli/src/json.rs"]
mod json;
#[allow(dead_code, reason = "what the command prints")]
#[path = "../../crates/oncelog-cli/src/time.rs"]
mod time;

use serde::Serialize;

use json::Content;

/// A record as the command writes it, but for where it is.
#[derive(Serialize)]
struct Written<'r> {
    partition: Option<u32>,
    timestamp_ms: Option<i64>,
    key: Content<'r>,
    value: Content<'r>,
    headers: Vec<WrittenHeader<'r>>,
}

#[derive(Serialize)]
struct WrittenHeader<'r> {
    name: &'r str,
    value: Content<'r>,
}

/// A line, and an argument. A record that can be read, written again, is read as the same.
pub(crate) fn input(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = (time::parse_place(text), time::parse_ms(text));
    }
    let Ok(read) = json::read(bytes) else { return };
    let headers =
        read.headers.iter().map(|header| WrittenHeader { name: &header.name, value: Content(header.value.as_deref()) });
    let written = Written {
        partition: read.partition,
        timestamp_ms: read.timestamp_ms,
        key: Content(read.key.as_deref()),
        value: Content(read.value.as_deref()),
        headers: headers.collect(),
    };
    let line = serde_json::to_vec(&written).expect("strings and numbers");
    let again = json::read(&line).expect("what was just written");
    let place = |read: &json::Read| (read.partition, read.timestamp_ms);
    assert_eq!(place(&again), place(&read));
    assert_eq!((again.key, again.value, again.headers), (read.key, read.value, read.headers));
}
