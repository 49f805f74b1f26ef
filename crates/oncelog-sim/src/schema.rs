//! The topics, tables and consumers that every simulated history uses, and the processing functions over them.

use std::time::Duration;

use oncelog::{
    Bytes, Compaction, Compression, KeepIds, Outcome, RecordRef, Result, SeenIds, TableDef, TopicDef, Tx, U64, Utf8,
};

use crate::model::Way;

/// Segments are small, so that histories roll them often.
const ROLL: u64 = 2048;

/// Appended to by hand, one partition.
pub const PLAIN: TopicDef<Bytes, Bytes> = TopicDef::new("plain").file_roll_size(ROLL);
/// Keyed, three partitions, compressed, read by the processor.
pub const SPREAD: TopicDef<Utf8, Bytes> =
    TopicDef::new("Spread/3").partitions(3).file_roll_size(ROLL).compression(Compression::Lz4);
/// Written by the processing functions.
pub const OUT: TopicDef<Utf8, U64> = TopicDef::new("out").file_roll_size(ROLL);
/// Appended to before it is durable.
pub const LAX: TopicDef<Bytes, Bytes> = TopicDef::new("lax").partitions(2).file_roll_size(ROLL);
/// Keyed like `SPREAD`, and read beside it.
pub const SIDE: TopicDef<Utf8, U64> = TopicDef::new("side").partitions(3).file_roll_size(ROLL);
/// What could not be processed.
pub const DEAD: TopicDef<Bytes, Bytes> = TopicDef::new("dead").file_roll_size(ROLL);

/// Appended to with stamps, durable or not.
pub const STAMPED: TopicDef<Utf8, Bytes> = TopicDef::new("stamped").partitions(2).file_roll_size(ROLL);

/// Appended to one by one, gathered before it is written, compressed. Not among `TOPICS`: it has a book of its own.
pub const GATHERED: TopicDef<Bytes, Bytes> =
    TopicDef::new("gathered").file_roll_size(ROLL).compression(Compression::Lz4);
/// Records that wait for their time. Not among `TOPICS`: it has a book of its own.
pub const DELAYED: TopicDef<Utf8, U64> = TopicDef::new("delayed").file_roll_size(ROLL);
/// Deleted and made anew.
pub const FLEETING: TopicDef<Bytes, Bytes> = TopicDef::new("fleeting").file_roll_size(ROLL);
/// Appended to, and shortened at its beginning.
pub const SHRINKING: TopicDef<Bytes, Bytes> = TopicDef::new("shrinking").file_roll_size(ROLL);
/// Compacted by key. Not among `TOPICS`: it has a book of its own.
pub const KEYED: TopicDef<Bytes, Bytes> = TopicDef::new("keyed")
    .file_roll_size(1024)
    .compression(Compression::Lz4)
    .compaction(Compaction::new().min_dirty_percent(0).tombstone_retention(Duration::from_secs(4)));
/// Long enough for an index beside its one segment, and with timestamps of its own.
pub const LONG: TopicDef<Bytes, Bytes> = TopicDef::new("long");

/// Names of all topics with their numbers of partitions.
pub const TOPICS: [(&str, u32); 10] = [
    ("plain", 1),
    ("Spread/3", 3),
    ("out", 1),
    ("lax", 2),
    ("stamped", 2),
    ("side", 3),
    ("dead", 1),
    ("long", 1),
    ("fleeting", 1),
    ("shrinking", 1),
];
/// Topics that may jump over a hole after an unclean stop.
pub const LAX_TOPICS: [&str; 2] = ["lax", "stamped"];

/// Sends to `STAMPED`.
pub const GATE: &str = "gate";
/// Stamps transactions.
pub const DEVICE: &str = "device";

/// Sends messages to the coordinator.
pub const FEED: &str = "feed";
/// The state of the coordinator.
pub const COORDINATED: &str = "app";
/// The table of that state.
pub const STATE: TableDef<Bytes, Bytes> = TableDef::new("state.app");
/// How its transactions ended.
pub const OUTCOMES: TableDef<Bytes, Bytes> = TableDef::new("outcomes.app");

/// Ids of the outer world.
pub const SEEN: SeenIds = SeenIds::new(SEEN_NAME, KeepIds::for_ever());
/// Their name.
pub const SEEN_NAME: &str = "once";
/// Their tables.
pub const IDS: TableDef<Bytes, Bytes> = TableDef::new("ids.once");
/// As [`IDS`], by age.
pub const IDS_BY_AGE: TableDef<Bytes, Bytes> = TableDef::new("ids-by-age.once");

/// Rows written by hand.
pub const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");
/// Rows of the processor, sharded like its input.
pub const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
/// Rows of the processor of two inputs.
pub const JOINED: TableDef<Utf8, U64> = TableDef::new("joined");

/// Many rows, of which ranges come and go.
pub const WIDE: TableDef<Utf8, U64> = TableDef::new("wide");

/// Offsets of sources outside, in a table of the store.
pub const FEEDS: &str = "feeds";
/// That table.
pub const FEEDS_ROWS: TableDef<Utf8, Utf8> = TableDef::new("offsets.feeds");

/// Processes `SPREAD`.
pub const PROCESSOR: &str = "totaller";
/// Processes `SPREAD` and `SIDE` together.
pub const JOINER: &str = "joiner";
/// Reads `PLAIN` one by one.
pub const CONSUMER: &str = "one by one";
/// Reads `PLAIN` from where its end was when it came.
pub const LATE: &str = "late";
/// The global consumer, of `LAX`.
pub const GLOBAL: &str = "";
/// An id that one owner takes, gives back, and another one takes.
pub const ROUND: &str = "round";

/// How a topic is written when it is made.
#[must_use]
pub fn way_of(topic: &str) -> Way {
    let specs = [PLAIN.spec(), SPREAD.spec(), OUT.spec(), LAX.spec(), STAMPED.spec(), FLEETING.spec()];
    let spec = specs.iter().find(|spec| spec.name == topic);
    spec.map_or(Way { compression: Compression::None, file_roll_size: ROLL }, Way::from)
}

/// Adds the length of each value to the total of its key; each third total is told to `OUT`. Values that start with 7
/// are skipped after their effects were made, so that these must be taken back.
pub fn total(record: RecordRef<'_, Utf8, Bytes>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let (key, value) = (record.key()?, record.value()?);
    let mut totals = tx.table(TOTALS)?;
    let sum = totals.get(key)?.unwrap_or(0) + value.len() as u64;
    totals.put(key, &sum)?;
    if sum.is_multiple_of(3) {
        tx.append(OUT, key, &sum)?;
    }
    Ok(if value.first() == Some(&7) { Outcome::Skip } else { Outcome::Commit })
}

/// Counts records in a row of `ROWS`.
pub fn count(_record: RecordRef<'_, Bytes, Bytes>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let mut rows = tx.table(ROWS)?;
    let seen = rows.get("seen")?.unwrap_or(0) + 1;
    rows.put("seen", &seen)?;
    Ok(Outcome::Commit)
}
