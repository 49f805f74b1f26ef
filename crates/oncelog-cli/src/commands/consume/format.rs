//! What is printed of a record.

use std::str::FromStr;

use clap::ValueEnum;
use oncelog::{PartitionId, RecordView};

use crate::exit::Failure;
use crate::json;

/// The formats, by the names that people give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// The value's bytes and a newline; a tombstone is an empty line
    Value,
    /// A line of JSON, which `produce --format json` reads
    Json,
    /// What --template says
    Template,
}

/// What is printed.
pub(super) enum Format {
    Value,
    Json,
    Template(Template),
}

impl Format {
    /// Appends what is printed of `record`.
    ///
    /// # Errors
    /// None that is known: JSON is written to memory.
    pub(super) fn write(
        &self,
        topic: &str,
        partition: PartitionId,
        record: &RecordView<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        match self {
            Format::Value => {
                out.extend_from_slice(record.value.unwrap_or_default());
                out.push(b'\n');
            }
            Format::Json => json::write(topic, partition.0, record, out).map_err(Failure::plain)?,
            Format::Template(template) => template.write(topic, partition, record, out),
        }
        Ok(())
    }
}

/// A line with places for the parts of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Topic,
    Partition,
    Offset,
    Timestamp,
    Key,
    Value,
    /// The first of that name.
    Header(String),
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Template, String> {
        let (mut pieces, mut plain) = (Vec::new(), String::new());
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            match c {
                '\\' => plain.push(match rest.next() {
                    Some('t') => '\t',
                    Some('n') => '\n',
                    Some('\\') => '\\',
                    _ => return Err("behind \\ must come t, n or \\".to_owned()),
                }),
                '{' | '}' if rest.as_str().starts_with(c) => {
                    rest.next();
                    plain.push(c);
                }
                '}' => return Err("} without {; }} stands for one".to_owned()),
                '{' => {
                    let (name, behind) = rest.as_str().split_once('}').ok_or("{ without }; {{ stands for one")?;
                    pieces.extend((!plain.is_empty()).then(|| Piece::Text(std::mem::take(&mut plain))));
                    pieces.push(Piece::named(name)?);
                    rest = behind.chars();
                }
                c => plain.push(c),
            }
        }
        plain.push('\n');
        pieces.push(Piece::Text(plain));
        Ok(Template(pieces))
    }
}

impl Piece {
    fn named(name: &str) -> Result<Piece, String> {
        Ok(match name {
            "topic" => Piece::Topic,
            "partition" => Piece::Partition,
            "offset" => Piece::Offset,
            "timestamp" => Piece::Timestamp,
            "key" => Piece::Key,
            "value" => Piece::Value,
            name => match name.strip_prefix("header:") {
                Some(header) => Piece::Header(header.to_owned()),
                None => {
                    return Err(format!(
                        "a record has no {{{name}}}, but topic, partition, offset, timestamp, key, value, header:NAME"
                    ));
                }
            },
        })
    }
}

impl Template {
    fn write(&self, topic: &str, partition: PartitionId, record: &RecordView<'_>, out: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Topic => out.extend_from_slice(topic.as_bytes()),
                Piece::Partition => out.extend_from_slice(partition.to_string().as_bytes()),
                Piece::Offset => out.extend_from_slice(record.offset.to_string().as_bytes()),
                Piece::Timestamp => out.extend_from_slice(record.timestamp_ms.to_string().as_bytes()),
                Piece::Key => out.extend_from_slice(record.key.unwrap_or_default()),
                Piece::Value => out.extend_from_slice(record.value.unwrap_or_default()),
                Piece::Header(name) => {
                    let found = record.headers().find(|header| header.name == name);
                    out.extend_from_slice(found.and_then(|header| header.value).unwrap_or_default());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read() {
        let text = |text: &str| Piece::Text(text.to_owned());
        let parsed = |text: &str| text.parse::<Template>().map(|template| template.0);
        assert_eq!(parsed("{key}\\t{{{value}}}"), Ok(vec![Piece::Key, text("\t{"), Piece::Value, text("}\n")]));
        assert_eq!(parsed("{header:a:b}"), Ok(vec![Piece::Header("a:b".to_owned()), text("\n")]));
        assert_eq!(parsed(""), Ok(vec![text("\n")]));
        for wrong in ["{", "}", "{kye}", "\\x", "\\", "{}", "a } b"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
