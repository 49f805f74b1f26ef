//! Lines, and the records that they are.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use clap::ValueEnum;
use indicatif::ProgressBar;
use oncelog::{Codec as _, Header, TopicSpec, U64, Utf8};

use crate::exit::{self, Failure};
use crate::json;
use crate::out;

/// What a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A value, or a key and a value
    Value,
    /// A record
    Json,
}

/// The longest line that can be a record: one of 16 MiB, and in JSON each byte may be six.
const VALUE_LINE_MAX: usize = 17 << 20;
const JSON_LINE_MAX: usize = 128 << 20;

/// What stands between key and value, as it is given: with `\t` for a tab.
pub(super) fn parse_delimiter(text: &str) -> Result<String, String> {
    let text = text.replace("\\t", "\t");
    if text.is_empty() || text.contains('\n') {
        return Err("must be some text on one line".to_owned());
    }
    Ok(text)
}

/// The lines of a file or of the standard input, one after the other.
pub(super) struct Lines {
    name: String,
    input: BufReader<Box<dyn Read>>,
    /// Of a plain file.
    total: Option<u64>,
    read: u64,
    number: u64,
    line: Vec<u8>,
}

/// One line, without its end.
pub(super) struct Line<'a> {
    name: &'a str,
    number: u64,
    pub(super) bytes: &'a [u8],
}

impl Lines {
    /// # Errors
    /// There is no such file, or it cannot be read.
    pub(super) fn open(path: &Path) -> Result<Lines, Failure> {
        let is_stdin = path.as_os_str() == "-";
        let name = if is_stdin { "the standard input".to_owned() } else { path.display().to_string() };
        let (input, total): (Box<dyn Read>, _) = if is_stdin {
            (Box::new(io::stdin().lock()), None)
        } else {
            let failed = |error| Failure::io(format_args!("read {name}"), &error);
            let file = File::open(path).map_err(failed)?;
            let about = file.metadata().map_err(failed)?;
            if about.is_dir() {
                return Err(Failure::plain(format_args!("cannot read {name}: it is a directory")));
            }
            (Box::new(file), about.is_file().then_some(about.len()))
        };
        let input = BufReader::with_capacity(256 << 10, input);
        Ok(Lines { name, input, total, read: 0, number: 0, line: Vec::new() })
    }

    /// The next line. The last one need not have an end.
    ///
    /// # Errors
    /// It has more than `bytes_max`; or the input cannot be read.
    pub(super) fn next(&mut self, bytes_max: usize) -> Result<Option<Line<'_>>, Failure> {
        self.line.clear();
        let mut limited = (&mut self.input).take(bytes_max as u64 + 1);
        let read = limited.read_until(b'\n', &mut self.line);
        let read = read.map_err(|error| Failure::io(format_args!("read {}", self.name), &error))?;
        if read == 0 {
            return Ok(None);
        }
        self.read += read as u64;
        self.number += 1;
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if read > bytes_max {
            let (name, number) = (&self.name, self.number);
            return Err(Failure::plain(format_args!("{name}, line {number}: longer than {bytes_max} bytes")));
        }
        Ok(Some(Line { name: &self.name, number: self.number, bytes: &self.line }))
    }

    /// Whether the next line may still be on its way.
    pub(super) fn would_wait(&self) -> bool {
        self.total.is_none() && !self.input.buffer().contains(&b'\n')
    }

    /// How far it was read: in bytes of a file, in lines of anything else.
    pub(super) fn position(&self) -> u64 {
        if self.total.is_some() { self.read } else { self.number }
    }

    /// A bar that shows it.
    pub(super) fn bar(&self) -> ProgressBar {
        match self.total {
            Some(total) => out::progress(Some(total), "{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left"),
            None => out::progress(None, "{human_pos} lines, {per_sec}, {elapsed}"),
        }
    }

    /// What is being read.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Line<'_> {
    /// The line is none.
    pub(super) fn refuse(&self, what: impl fmt::Display) -> Failure {
        Failure::plain(format_args!("{}, line {}: {what}", self.name, self.number))
    }

    /// The record that it is was not taken: by its own fault or not.
    pub(super) fn refuse_if_told(&self, failure: Failure) -> Failure {
        // A wrong call of the library is a wrong line here: what was called is right.
        failure.instead_of(exit::USAGE, exit::FAILURE).while_doing(&format!("{}, line {}", self.name, self.number))
    }
}

/// A record to be appended.
pub(super) struct Record<'a> {
    pub(super) key: Option<Cow<'a, [u8]>>,
    pub(super) value: Option<Cow<'a, [u8]>>,
    headers: Vec<json::ReadHeader>,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) partition: Option<u32>,
}

impl Record<'_> {
    pub(super) fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|header| Header { name: &header.name, value: header.value.as_deref() }).collect()
    }
}

/// How lines become records of a topic.
pub(super) struct Rules {
    format: Format,
    key_delimiter: Option<String>,
    key_codec: String,
    value_codec: String,
}

impl Rules {
    pub(super) fn new(format: Format, key_delimiter: Option<String>, spec: &TopicSpec) -> Rules {
        let (key_codec, value_codec) = (spec.key_codec.clone(), spec.value_codec.clone());
        Rules { format, key_delimiter, key_codec, value_codec }
    }

    /// What of them decides what a line means.
    pub(super) fn describe(&self) -> String {
        format!("{:?} {:?}", self.format, self.key_delimiter)
    }

    pub(super) fn line_bytes_max(&self) -> usize {
        match self.format {
            Format::Value => VALUE_LINE_MAX,
            Format::Json => JSON_LINE_MAX,
        }
    }

    /// The record that a line is.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn record<'l>(&self, line: &'l [u8]) -> Result<Record<'l>, String> {
        let record = match self.format {
            Format::Json => {
                let json::Read { partition, timestamp_ms, key, value, headers, .. } =
                    json::read(line).map_err(|error| format!("no record in JSON: {error}"))?;
                let (key, value) = (key.map(Cow::Owned), value.map(Cow::Owned));
                Record { key, value, headers, timestamp_ms, partition }
            }
            Format::Value => {
                let (key, value) = self.split(line)?;
                let (key, value) = (key.map(Cow::Borrowed), Some(Cow::Borrowed(value)));
                Record { key, value, headers: Vec::new(), timestamp_ms: None, partition: None }
            }
        };
        check(&self.key_codec, "key", record.key.as_deref())?;
        check(&self.value_codec, "value", record.value.as_deref())?;
        Ok(record)
    }

    fn split<'l>(&self, line: &'l [u8]) -> Result<(Option<&'l [u8]>, &'l [u8]), String> {
        let Some(delimiter) = &self.key_delimiter else { return Ok((None, line)) };
        let at = line.windows(delimiter.len()).position(|here| here == delimiter.as_bytes());
        let at = at.ok_or_else(|| format!("no {delimiter:?} between a key and a value"))?;
        Ok((Some(&line[..at]), &line[at + delimiter.len()..]))
    }
}

/// Bytes that no program could decode are not stored, as far as we know the codec.
fn check(codec: &str, what: &str, bytes: Option<&[u8]>) -> Result<(), String> {
    let Some(bytes) = bytes else { return Ok(()) };
    if codec == Utf8::ID && std::str::from_utf8(bytes).is_err() {
        return Err(format!("its {what} is not UTF-8, which is what {what}s of this topic are"));
    }
    if codec == U64::ID && bytes.len() != 8 {
        return Err(format!("its {what} has {} bytes; {what}s of this topic are numbers of 8 bytes", bytes.len()));
    }
    if !oncelog::may_be_of(codec, bytes) {
        return Err(format!("its {what} is no encoding of {codec}, which is what {what}s of this topic are"));
    }
    Ok(())
}
