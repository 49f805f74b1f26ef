//! The text of an offset file: JSON that people can read, with a checksum that notices what changed without them.
//!
//! ```text
//! {
//!   "oncelog_offsets": 1,
//!   "offsets": {
//!     "orders": "sequence:42"
//!   },
//!   "crc32c": "8d2f31c0"
//! }
//! ```
//!
//! The checksum is over the offsets as they are, `source`, a line feed, the offset, a line feed, in the order of the
//! sources, with lengths before each, so that layout and order of the file do not matter. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::OffsetError;
use super::offset::Offset;
use crate::codec::{CheckSite, crc32c, same};

const VERSION: u64 = 1;
/// Longer than a file of a million sources: what is longer is no offset file, and not read.
pub(super) const BYTES_MAX: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    oncelog_offsets: u64,
    offsets: BTreeMap<String, String>,
    crc32c: String,
}

#[derive(Deserialize)]
struct Version {
    oncelog_offsets: u64,
}

pub(super) fn write(offsets: &BTreeMap<String, Offset>) -> String {
    let offsets: BTreeMap<_, _> = offsets.iter().map(|(source, offset)| (source.clone(), offset.to_string())).collect();
    let crc32c = hex(sum(&offsets));
    let text = Text { oncelog_offsets: VERSION, offsets, crc32c };
    // Strings in maps of strings: there is nothing in it that could fail.
    let mut text = serde_json::to_string_pretty(&text).unwrap_or_default();
    text.push('\n');
    text
}

pub(super) fn read(file: &Path, bytes: &[u8]) -> Result<BTreeMap<String, Offset>, OffsetError> {
    let bad = |reason: &dyn std::fmt::Display| OffsetError::bad_file(file, reason);
    if bytes.is_empty() {
        return Err(bad(&"an offset file is never empty; what was in it is lost"));
    }
    let Version { oncelog_offsets } =
        serde_json::from_slice(bytes).map_err(|error| bad(&format!("this is no offset file: {error}")))?;
    if oncelog_offsets > VERSION {
        return Err(bad(&format!("written in version {oncelog_offsets} of the format; this program knows {VERSION}")));
    }
    let text: Text = serde_json::from_slice(bytes).map_err(|error| bad(&error))?;
    // One spelling only, so that no digit can change without notice.
    let stored = u32::from_str_radix(&text.crc32c, 16).ok().filter(|stored| hex(*stored) == text.crc32c);
    let fits = stored.is_some_and(|stored| same(CheckSite::OffsetFile, stored, sum(&text.offsets)));
    if text.oncelog_offsets != VERSION || !fits {
        return Err(bad(&"the offsets and their checksum do not fit: the file was damaged, or changed by hand"));
    }
    text.offsets
        .into_iter()
        .map(|(source, offset)| match offset.parse::<Offset>() {
            Ok(offset) if offset.is_place() => Ok((source, offset)),
            Ok(offset) => Err(bad(&format!("source {source:?}: {offset} is no place"))),
            Err(error) => Err(bad(&format!("source {source:?}: {error}"))),
        })
        .collect()
}

fn sum(offsets: &BTreeMap<String, String>) -> u32 {
    let mut bytes = Vec::new();
    for part in offsets.iter().flat_map(|(source, offset)| [source, offset]) {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    crc32c(&bytes)
}

fn hex(sum: u32) -> String {
    format!("{sum:08x}")
}
