//! `oncelog table`: looking at tables.
//!
//! A look shows one state of the owner, and may have to begin anew where the owner moves on: so what it prints is put
//! aside until it is whole.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Bound;
use std::str::FromStr;

use clap::{Args, Subcommand};
use oncelog::{Codec as _, Engine, ErrorKind, ScanRange, ShardId, StoreReader, TableId, TableSpec, U64};
use serde::Serialize;

use crate::cli::{Output, OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::json::Content;
use crate::open;
use crate::out::{self, Stdout};

/// What `oncelog table` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog table list")]
pub(crate) struct TableArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the tables of all owners
    List(ListArguments),
    /// Print the value of one row
    Get(GetArguments),
    /// Print rows, by shard and key
    Scan(ScanArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog table list\n  oncelog table list --output json")]
struct ListArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog table get totals ann\n  oncelog table get by-number 42\n  \
                        oncelog table get blobs 0x00ff\n\n\
                        A key is text, a number where keys of the table are numbers, or bytes in hexadecimal behind \
                        0x. Exit code 3 where there is no such row.")]
struct GetArguments {
    /// Name of the table
    table: String,
    /// The row's key
    key: Key,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  oncelog table scan totals\n  oncelog table scan totals --from ann --to bob --max 10\n  \
                        oncelog table scan totals --output json\n\n\
                        Text: key, tab, value. JSON: one object a line."
)]
struct ScanArguments {
    /// Name of the table
    table: String,
    /// The first key
    #[arg(long, value_name = "KEY")]
    from: Option<Key>,
    /// The key to stop before
    #[arg(long, value_name = "KEY")]
    to: Option<Key>,
    /// Only this shard
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    /// End after so many rows
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// A key as it is given.
#[derive(Clone, Debug)]
struct Key(String);

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Key, String> {
        match text.strip_prefix("0x").map(from_hex) {
            Some(None) => Err("behind 0x must come pairs of hexadecimal digits".to_owned()),
            _ => Ok(Key(text.to_owned())),
        }
    }
}

impl Key {
    /// Its bytes under a codec.
    ///
    /// # Errors
    /// It is no such key.
    fn bytes(&self, codec: &str) -> Result<Vec<u8>, Failure> {
        if let Some(bytes) = self.0.strip_prefix("0x").and_then(from_hex) {
            return Ok(bytes);
        }
        if codec != U64::ID {
            return Ok(self.0.clone().into_bytes());
        }
        let number: Result<u64, _> = self.0.parse();
        let number = number
            .map_err(|_| Failure::usage_of(format_args!("keys of this table are numbers, {:?} is none", self.0)))?;
        Ok(number.to_be_bytes().to_vec())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| if let [high, low] = pair { Some(digit(*high)? << 4 | digit(*low)?) } else { None }).collect()
}

/// Bytes for people: a number, text, or hexadecimal where it is neither.
fn show(codec: &str, bytes: &[u8]) -> String {
    if let (true, Ok(number)) = (codec == U64::ID, U64::decode(bytes)) {
        return number.to_string();
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
        _ => bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    }
}

/// Bytes for programs.
#[derive(Serialize)]
#[serde(untagged)]
enum Cell<'a> {
    Number(u64),
    Content(Content<'a>),
}

impl Cell<'_> {
    fn of<'a>(codec: &str, bytes: &'a [u8]) -> Cell<'a> {
        match U64::decode(bytes) {
            Ok(number) if codec == U64::ID => Cell::Number(number),
            _ => Cell::Content(Content(Some(bytes))),
        }
    }
}

/// Does what was asked.
///
/// # Errors
/// As told by what was asked.
pub(crate) fn run(arguments: TableArguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::List(arguments) => list(&arguments),
        Verb::Get(arguments) => get(&arguments),
        Verb::Scan(arguments) => scan(&arguments),
    }
}

#[derive(Serialize)]
struct Listed {
    table: String,
    id: TableId,
    owner: String,
    shards: u32,
    key_codec: String,
    value_codec: String,
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let mut listed = Vec::new();
    for owner in reader.owners()? {
        for (id, spec) in reader.look(&owner.name, oncelog::Store::tables)? {
            let TableSpec { name: table, shards, key_codec, value_codec } = spec;
            listed.push(Listed { table, id, owner: owner.name.clone(), shards, key_codec, value_codec });
        }
    }
    listed.sort_by(|one, other| one.table.cmp(&other.table));
    out::answer(arguments.output.output, &listed, |listed| {
        let row = |table: &Listed| {
            let (key, value) = (table.key_codec.clone(), table.value_codec.clone());
            vec![table.table.clone(), table.shards.to_string(), key, value, table.owner.clone()]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        out::columns(&["TABLE", "SHARDS", "KEYS", "VALUES", "OWNER"], &rows)
    })
}

/// The owner of a table.
///
/// # Errors
/// There is no such table.
fn owner_of(reader: &StoreReader, table: &str) -> Result<String, Failure> {
    reader.owner_of_table(table)?.ok_or_else(|| {
        Failure::new(exit::NOT_FOUND, format_args!("there is no table {table:?}"))
            .hint("`oncelog table list` shows what there is")
    })
}

fn table_in(engine: &dyn Engine, table: &str) -> oncelog::Result<(TableId, TableSpec)> {
    let missing = || oncelog::Error::new(ErrorKind::NotFound, format!("there is no table {table:?}"));
    engine.find_table(table)?.ok_or_else(missing)
}

fn get(arguments: &GetArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let owner = owner_of(&reader, &arguments.table)?;
    // What is wrong with the key is no error of the library.
    let found = reader.look(&owner, |store| {
        let engine = open::engine(store);
        let (id, spec) = table_in(&*engine, &arguments.table)?;
        let key = match arguments.key.bytes(&spec.key_codec) {
            Ok(key) => key,
            Err(failure) => return Ok(Err(failure)),
        };
        let mut tx = engine.begin()?;
        for shard in 0..spec.shards {
            if let Some(value) = tx.get(id, ShardId(shard), &key)? {
                return Ok(Ok(Some((spec, key, value))));
            }
        }
        Ok(Ok(None))
    })??;
    let Some((spec, key, value)) = found else {
        let what = format!("table {:?} has no row {:?}", arguments.table, arguments.key.0);
        return Err(Failure::new(exit::NOT_FOUND, what));
    };
    out::answer(arguments.output.output, &row_of(&spec, &key, &value), |_| show(&spec.value_codec, &value))
}

#[derive(Serialize)]
struct Row<'a> {
    key: Cell<'a>,
    value: Cell<'a>,
}

fn row_of<'a>(spec: &TableSpec, key: &'a [u8], value: &'a [u8]) -> Row<'a> {
    Row { key: Cell::of(&spec.key_codec, key), value: Cell::of(&spec.value_codec, value) }
}

/// Rows read at once.
const PAGE_ROWS: usize = 1000;

fn scan(arguments: &ScanArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let owner = owner_of(&reader, &arguments.table)?;
    let failed = |error| Failure::io("put rows aside", &error);
    let mut aside = tempfile::tempfile().map_err(failed)?;
    reader.look(&owner, |store| {
        let engine = open::engine(store);
        let (id, spec) = table_in(&*engine, &arguments.table)?;
        aside.set_len(0).and_then(|()| aside.rewind()).map_err(oncelog::Error::user)?;
        Ok(Rows { arguments, engine: &*engine, id, spec: &spec, aside: &mut aside }.print())
    })??;
    aside.seek(SeekFrom::Start(0)).map_err(failed)?;
    let (mut out, mut block) = (Stdout::new(), vec![0; 64 << 10]);
    loop {
        match aside.read(&mut block).map_err(failed)? {
            0 => return out.flush(),
            read => out.write(&block[..read])?,
        }
    }
}

/// The rows of a table, on their way out.
struct Rows<'a> {
    arguments: &'a ScanArguments,
    engine: &'a dyn Engine,
    id: TableId,
    spec: &'a TableSpec,
    aside: &'a mut std::fs::File,
}

impl Rows<'_> {
    fn print(&mut self) -> Result<(), Failure> {
        let bytes = |key: &Option<Key>| key.as_ref().map(|key| key.bytes(&self.spec.key_codec)).transpose();
        let (from, to) = (bytes(&self.arguments.from)?, bytes(&self.arguments.to)?);
        let shards = match self.arguments.shard {
            Some(shard) if shard >= self.spec.shards => {
                let what = format!("table {:?} has {} shards, there is no {shard}", self.spec.name, self.spec.shards);
                return Err(Failure::usage_of(what));
            }
            Some(shard) => shard..shard + 1,
            None => 0..self.spec.shards,
        };
        let mut left = self.arguments.max.unwrap_or(u64::MAX);
        for shard in shards {
            let mut start = from.clone().map_or(Bound::Unbounded, Bound::Included);
            while left > 0 {
                let end = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                let range = ScanRange::between(start.as_ref().map(Vec::as_slice), end);
                let limit = usize::try_from(left).unwrap_or(PAGE_ROWS).min(PAGE_ROWS);
                // A transaction remembers what it has read, so each page has its own. Nobody writes meanwhile.
                let page = self.engine.begin()?.scan(self.id, ShardId(shard), ScanRange { limit, ..range })?;
                self.put(&page)?;
                left -= page.len() as u64;
                match page.into_iter().nth(limit - 1) {
                    Some((key, _)) => start = Bound::Excluded(key),
                    None => break,
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, page: &[(Vec<u8>, impl AsRef<[u8]>)]) -> Result<(), Failure> {
        let mut text = Vec::new();
        for (key, value) in page {
            let value = value.as_ref();
            match self.arguments.output.output {
                Output::Json => {
                    serde_json::to_writer(&mut text, &row_of(self.spec, key, value)).map_err(Failure::plain)?
                }
                Output::Text => {
                    let (key, value) = (show(&self.spec.key_codec, key), show(&self.spec.value_codec, value));
                    text.extend_from_slice(format!("{key}\t{value}").as_bytes());
                }
            }
            text.push(b'\n');
        }
        self.aside.write_all(&text).map_err(|error| Failure::io("put rows aside", &error))
    }
}
