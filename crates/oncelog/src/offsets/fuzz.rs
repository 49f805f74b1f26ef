//! What fuzzers may do to files of offsets.

use std::fmt::Debug;
use std::path::Path;

use super::error::OffsetError;
use super::numeric::NumericKey;
use super::offset::Offset;
use super::{locked, text};

/// The bytes of a file of either form, of an offset, and of the name of a source of two numbers. What can be read,
/// written again, is read as the same.
pub(crate) fn offsets(bytes: &[u8]) {
    let (file, source) = (Path::new("file"), "topic-1-consumer-2");
    comes_back(text::read(file, bytes), text::write, |text| text::read(file, text.as_bytes()));
    let write = |offset: &Offset| locked::bytes_of(source, offset);
    comes_back(locked::parse(file, source, bytes), write, |text| locked::parse(file, source, text.as_bytes()));
    let Ok(told) = std::str::from_utf8(bytes) else { return };
    comes_back(told.parse::<Offset>(), ToString::to_string, |text| text.parse());
    if let Ok(key) = told.parse::<NumericKey>() {
        assert_eq!(key.to_string(), told, "there is another spelling");
    }
}

fn comes_back<T: Debug + PartialEq>(
    read: Result<T, OffsetError>,
    write: impl Fn(&T) -> String,
    again: impl Fn(&str) -> Result<T, OffsetError>,
) {
    if let Ok(read) = read {
        assert_eq!(again(&write(&read)).expect("what was just written"), read);
    }
}
