//! What is shown: the topics and tables of the demo, and the function that counts. The rest of the demo only makes
//! its life hard and checks what it did.
//!
//! ```text
//! input --loader--> requests, by client --count--> totals: a row per client
//!           |                              |-----> alerts: a record per client over the limit
//!           `-> where it stands            `-----> its own progress, all three in one commit
//! ```

use oncelog::{Outcome, Postcard, RecordRef, Result, Store, TableDef, TopicDef, Tx, U64, Utf8};
use serde::{Deserialize, Serialize};

use super::input::Position;

/// The name under which the processor's progress is kept.
pub(super) const PROCESSOR: &str = "totals";
/// What was asked for, by client.
pub(super) const REQUESTS: TopicDef<Utf8, Postcard<Request>> = TopicDef::new("requests").partitions(4);
/// Clients whose total passed the limit, with the total that did.
pub(super) const ALERTS: TopicDef<Utf8, U64> = TopicDef::new("alerts");
/// What each client has had so far.
pub(super) const TOTALS: TableDef<Utf8, Postcard<Totals>> = TableDef::new("totals");
/// Where the loader stands.
const LOADER: TableDef<Utf8, U64> = TableDef::new("loader");

/// A line of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Its number in the input, counted from 1.
    pub(super) line: u64,
    /// Its bytes or cents.
    pub(super) amount: u64,
    /// The line as it was.
    pub(super) text: Vec<u8>,
}

/// What a client has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// How many lines.
    pub(super) hits: u64,
    /// Bytes or cents.
    pub(super) amount: u64,
}

/// Counts one request, and tells of it when the client's total passes `limit`.
pub(super) fn count(limit: u64, request: RecordRef<'_, Utf8, Postcard<Request>>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let client = request.key()?;
    let mut table = tx.table(TOTALS)?;
    let before = table.get(client)?.unwrap_or_default();
    let amount = before.amount.saturating_add(request.value()?.amount);
    table.put(client, &Totals { hits: before.hits + 1, amount })?;
    if before.amount <= limit && amount > limit {
        tx.append(ALERTS, client, &amount)?;
    }
    Ok(Outcome::Commit)
}

/// Where the loader stands, committed together with what it loaded: a kill neither doubles nor drops a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) position: Position,
    /// Lines that are no line of a log.
    pub(super) not_parsed: u64,
    /// Lines that do not fit into a record.
    pub(super) too_long: u64,
}

impl Loaded {
    const NOTHING: Loaded = Loaded { position: Position::START, not_parsed: 0, too_long: 0 };

    /// What the store says.
    pub(super) fn read(store: &Store) -> Result<Loaded> {
        let snapshot = store.snapshot()?;
        let Some(next_line) = snapshot.get(LOADER, "next_line")? else { return Ok(Loaded::NOTHING) };
        let number = |row| Ok::<_, oncelog::Error>(snapshot.get(LOADER, row)?.unwrap_or(0));
        let position = Position { next_line, pass: number("pass")?, place: number("place")? };
        Ok(Loaded { position, not_parsed: number("not_parsed")?, too_long: number("too_long")? })
    }

    /// Stages it.
    pub(super) fn write(&self, tx: &mut Tx<'_>) -> Result<()> {
        let Position { next_line, pass, place } = self.position;
        let mut rows = tx.table(LOADER)?;
        rows.put("next_line", &next_line)?;
        rows.put("pass", &pass)?;
        rows.put("place", &place)?;
        rows.put("not_parsed", &self.not_parsed)?;
        rows.put("too_long", &self.too_long)
    }

    /// How many lines are done.
    pub(super) fn lines(&self) -> u64 {
        self.position.next_line - 1
    }
}
