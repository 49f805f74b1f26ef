//! The input of the demo: lines, numbered from 1, from a log or made up, once or several times over.
//!
//! Invariants: the same input gives the same lines whoever reads it, from whichever [`Position`] the reading starts; a
//! log that grows meanwhile is read as far as it reached at the start of the demo; every line comes out, also one that
//! cannot be taken, and memory is bounded by [`LINE_BYTES_MAX`] whatever the file holds.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Take};
use std::path::{Path, PathBuf};

use super::orders;
use super::parse::{self, Parsed};
use crate::exit::{self, Failure};

/// A line must fit into a record, which has 16 MiB at most, with its key, its number and the rest of the envelope.
const LINE_BYTES_MAX: usize = (16 << 20) - 4096;

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// So many orders, made up from a seed.
    Orders { records: u64, seed: u64 },
    /// So many bytes of a log.
    Log { path: PathBuf, bytes: u64 },
}

/// A line, or why it cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Taken(Parsed),
    NotParsed,
    TooLong,
}

/// Where a reader stands; kept in the store with what was loaded up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The number of the next line, counted from 1 through all passes.
    pub(crate) next_line: u64,
    /// How many times the input was read to its end.
    pub(crate) pass: u64,
    /// Where the next line starts in this pass: a byte of a log, or the number of an order.
    pub(crate) place: u64,
}

impl Position {
    pub(crate) const START: Position = Position { next_line: 1, pass: 0, place: 0 };
}

impl Input {
    /// The log at `path`, as far as it reaches now.
    ///
    /// # Errors
    /// It is missing, or no file that can be read.
    pub(crate) fn log(path: &Path) -> Result<Input, Failure> {
        let doing = format!("read the input {}", path.display());
        let found = std::fs::metadata(path).map_err(|error| Failure::io(&doing, &error))?;
        if found.is_dir() {
            return Err(Failure::plain(format_args!("cannot {doing}: it is a directory, --input takes a file")));
        }
        if !found.is_file() {
            let why = "it is not a plain file, and it is read more than once";
            return Err(Failure::plain(format_args!("cannot {doing}: {why}")));
        }
        File::open(path).map_err(|error| Failure::io(&doing, &error))?;
        Ok(Input::Log { path: path.to_owned(), bytes: found.len() })
    }
}

/// Reads an input `repeat` times over.
pub(crate) struct Reader {
    input: Input,
    repeat: u64,
    position: Position,
    file: Option<BufReader<Take<File>>>,
    buffer: Vec<u8>,
}

impl Reader {
    /// Starts at `position`.
    pub(crate) fn new(input: Input, repeat: u64, position: Position) -> Reader {
        Reader { input, repeat, position, file: None, buffer: Vec::new() }
    }

    /// Where it stands: behind the last line that it gave.
    pub(crate) fn position(&self) -> Position {
        self.position
    }

    /// The next line with its number; `None` at the end of the last pass.
    ///
    /// # Errors
    /// The log cannot be read any more, or became shorter.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, Line)>, Failure> {
        while self.position.pass < self.repeat {
            let read = match self.input {
                Input::Orders { records, seed } => self.next_order(records, seed),
                Input::Log { bytes, .. } => self.next_of_log(bytes)?,
            };
            if let Some((line, behind)) = read {
                let number = self.position.next_line;
                self.position = Position { next_line: number + 1, place: behind, ..self.position };
                return Ok(Some((number, line)));
            }
            self.file = None;
            self.position = Position { pass: self.position.pass + 1, place: 0, ..self.position };
        }
        Ok(None)
    }

    fn next_order(&self, records: u64, seed: u64) -> Option<(Line, u64)> {
        let number = self.position.place;
        (number < records).then(|| (Line::Taken(orders::order(seed, number)), number + 1))
    }

    fn next_of_log(&mut self, bytes: u64) -> Result<Option<(Line, u64)>, Failure> {
        let place = self.position.place;
        if place >= bytes {
            return Ok(None);
        }
        let Input::Log { path, .. } = &self.input else { return Ok(None) };
        let failed = |error| Failure::io(format_args!("read the input {}", path.display()), &error);
        let file = match &mut self.file {
            Some(file) => file,
            closed => closed.insert(open_at(path, place, bytes).map_err(failed)?),
        };
        self.buffer.clear();
        let kept = file.by_ref().take(LINE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut self.buffer).map_err(failed)?;
        if kept == 0 {
            let what = format!("the input {} became shorter while it was read", path.display());
            return Err(Failure::new(exit::FAILURE, what));
        }
        let mut behind = place + kept as u64;
        if self.buffer.last() != Some(&b'\n') {
            behind += file.skip_until(b'\n').map_err(failed)? as u64;
        }
        Ok(Some((read_line(&self.buffer), behind)))
    }
}

fn open_at(path: &Path, place: u64, bytes: u64) -> std::io::Result<BufReader<Take<File>>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(place))?;
    Ok(BufReader::with_capacity(64 << 10, file.take(bytes - place)))
}

fn read_line(bytes: &[u8]) -> Line {
    let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.len() > LINE_BYTES_MAX {
        return Line::TooLong;
    }
    match parse::access(text) {
        Some((client, amount)) => Line::Taken(Parsed { client: client.to_owned(), amount, text: text.to_owned() }),
        None => Line::NotParsed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 5 "-" "-""#;

    fn all(reader: &mut Reader) -> Vec<(u64, Line)> {
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn reading_from_any_position_gives_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, format!("{GOOD}\r\nbad\n\n{GOOD}")).unwrap();
        for input in [Input::log(&path).unwrap(), Input::Orders { records: 4, seed: 3 }] {
            let mut whole = Reader::new(input.clone(), 3, Position::START);
            let mut positions = vec![whole.position()];
            let mut lines = Vec::new();
            while let Some(line) = whole.next().unwrap() {
                lines.push(line);
                positions.push(whole.position());
            }
            assert_eq!(lines.len(), 12);
            assert!(lines.iter().map(|(number, _)| *number).eq(1..=12));
            for (done, position) in positions.into_iter().enumerate() {
                assert_eq!(all(&mut Reader::new(input.clone(), 3, position)), lines[done..]);
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let exact = format!("{GOOD} {}", "x".repeat(LINE_BYTES_MAX - GOOD.len() - 1));
        std::fs::write(&path, format!("{exact}\n{exact}x\n{exact}{exact}\r\n{GOOD}\n{exact}x")).unwrap();
        let lines = all(&mut Reader::new(Input::log(&path).unwrap(), 1, Position::START));
        let taken: Vec<_> = lines.iter().map(|(_, line)| matches!(line, Line::Taken(_))).collect();
        assert_eq!(taken, [true, false, false, true, false]);
        assert_eq!(lines[4].1, Line::TooLong);
    }

    #[test]
    fn a_log_that_grows_is_read_as_it_was_and_one_that_shrinks_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, format!("{GOOD}\n{GOOD}\n")).unwrap();
        let input = Input::log(&path).unwrap();
        std::fs::write(&path, format!("{GOOD}\n{GOOD}\n{GOOD}\n")).unwrap();
        assert_eq!(all(&mut Reader::new(input.clone(), 1, Position::START)).len(), 2);
        std::fs::write(&path, format!("{GOOD}\n")).unwrap();
        let mut reader = Reader::new(input, 1, Position::START);
        assert!(reader.next().unwrap().is_some());
        assert!(reader.next().is_err());
    }
}
