//! A record as one line of JSON, and back: docs/cli-json.md is the specification.
//!
//! Invariant: what is written and read again is the same record: key, value, headers, timestamp, byte for byte.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncelog::RecordView;
use serde::de::Error as _;
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A record to be written.
#[derive(Serialize)]
struct Written<'a> {
    topic: &'a str,
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
    key: Content<'a>,
    value: Content<'a>,
    headers: Vec<WrittenHeader<'a>>,
}

#[derive(Serialize)]
struct WrittenHeader<'a> {
    name: &'a str,
    value: Content<'a>,
}

/// Bytes, or none: a string where they are UTF-8, else an object that holds them in base64.
pub(crate) struct Content<'a>(pub(crate) Option<&'a [u8]>);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(bytes) = self.0 else { return serializer.serialize_none() };
        if let Ok(text) = std::str::from_utf8(bytes) {
            return serializer.serialize_str(text);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry("base64", &STANDARD.encode(bytes))?;
        map.end()
    }
}

/// Appends the record as one line, its end included.
pub(crate) fn write(topic: &str, partition: u32, record: &RecordView<'_>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let headers = record.headers().map(|header| WrittenHeader { name: header.name, value: Content(header.value) });
    let written = Written {
        topic,
        partition,
        offset: record.offset.0,
        timestamp_ms: record.timestamp_ms,
        key: Content(record.key),
        value: Content(record.value),
        headers: headers.collect(),
    };
    serde_json::to_writer(&mut *out, &written)?;
    out.push(b'\n');
    Ok(())
}

/// A record that was read. Where it was (`topic`, `offset`) says nothing of where it goes.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Read {
    #[serde(default, rename = "topic")]
    _topic: Option<String>,
    #[serde(default)]
    pub(crate) partition: Option<u32>,
    #[serde(default, rename = "offset")]
    _offset: Option<u64>,
    #[serde(default)]
    pub(crate) timestamp_ms: Option<i64>,
    #[serde(default, deserialize_with = "content")]
    pub(crate) key: Option<Vec<u8>>,
    #[serde(deserialize_with = "content")]
    pub(crate) value: Option<Vec<u8>>,
    #[serde(default)]
    pub(crate) headers: Vec<ReadHeader>,
}

/// A header that was read.
#[derive(Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadHeader {
    pub(crate) name: String,
    #[serde(deserialize_with = "content")]
    pub(crate) value: Option<Vec<u8>>,
}

/// Reads a line.
pub(crate) fn read(line: &[u8]) -> serde_json::Result<Read> {
    serde_json::from_slice(line)
}

fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "null, a string, or {\"base64\": a string}")]
    enum Found {
        Nothing(()),
        Text(String),
        Bytes(Base64),
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Base64 {
        base64: String,
    }
    Ok(match Found::deserialize(deserializer)? {
        Found::Nothing(()) => None,
        Found::Text(text) => Some(text.into_bytes()),
        Found::Bytes(Base64 { base64 }) => {
            Some(STANDARD.decode(base64).map_err(|error| D::Error::custom(format_args!("not base64: {error}")))?)
        }
    })
}
