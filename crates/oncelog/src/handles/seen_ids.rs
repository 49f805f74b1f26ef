//! Duplicates by ids of the outer world: any bytes, remembered in a table for as long as the user says.
//!
//! ```text
//! tx.first_time(REQUESTS, id) -> get by id -> there: false | not: put both: true       one commit with the rest
//! the engine, in the background: by age, the oldest first -> both rows away, a bounded number to a commit
//! ```
//!
//! Invariant: the mark of an id is staged with the effects of its message, so both happen or none. Of two transactions
//! that mark one id one meets a `Conflict`, since both have read that it was not there.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::idempotent::ProducerStamp;
use super::tx::{Bindings, Tx};
use crate::error::Result;
use crate::ids::{RecordId, ShardId};
use crate::transaction::{Engine, IdTables, KeepIds};

/// Ids under a name, with how long they are remembered.
///
/// **What that means for exactly once:** a message is done once if all of its repetitions come within what is
/// remembered. One that comes later is done again. So choose longer than the longest time for which a sender tries
/// again; for senders that count their messages, [`ProducerStamp`]s need no limit and remember for ever.
///
/// ```
/// use std::time::Duration;
/// use oncelog::{KeepIds, SeenIds, Store, TableDef, U64, Utf8};
/// const REQUESTS: SeenIds = SeenIds::new("requests", KeepIds::for_time(Duration::from_secs(7 * 86_400)));
/// const ORDERS: TableDef<Utf8, U64> = TableDef::new("orders");
/// # fn main() -> oncelog::Result<()> {
/// let store = Store::in_memory()?;
/// for _ in 0..2 {
///     store.transact(|tx| {
///         if tx.first_time(REQUESTS, "b7c1-44")? {
///             tx.table(ORDERS)?.update("ann", |count| count.unwrap_or(0) + 1)?;
///         }
///         Ok(())
///     })?;
/// }
/// assert_eq!(store.snapshot()?.get(ORDERS, "ann")?, Some(1));
/// # store.close()
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SeenIds {
    name: Cow<'static, str>,
    keep: KeepIds,
}

impl SeenIds {
    /// Ids under that name. The last program that uses the name says for how long they are remembered.
    pub const fn new(name: &'static str, keep: KeepIds) -> SeenIds {
        SeenIds { name: Cow::Borrowed(name), keep }
    }

    /// Ids under a name that is known at run time only.
    pub fn named(name: impl Into<String>, keep: KeepIds) -> SeenIds {
        SeenIds { name: Cow::Owned(name.into()), keep }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How long they are remembered.
    pub const fn keep(&self) -> KeepIds {
        self.keep
    }
}

/// The identity of a message, as whoever sent it names it: any bytes. Also of one that has a stamp, or is a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Vec<u8>);

impl MessageId {
    /// Those bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> MessageId {
        MessageId(bytes.into())
    }
}

impl AsRef<[u8]> for MessageId {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// As the stamp is written: `producer:partition:sequence`.
impl From<&ProducerStamp> for MessageId {
    fn from(stamp: &ProducerStamp) -> MessageId {
        MessageId(stamp.to_string().into_bytes())
    }
}

/// As the record's id is written: `topic-partition-offset`, where the topic is its number in its store.
impl From<RecordId> for MessageId {
    fn from(record: RecordId) -> MessageId {
        MessageId(record.to_string().into_bytes())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl Bindings {
    fn ids(&mut self, engine: &dyn Engine, ids: &SeenIds) -> Result<IdTables> {
        if let Some((.., tables)) = self.ids.iter().find(|(bound, _)| bound.name == ids.name && bound.keep == ids.keep)
        {
            return Ok(*tables);
        }
        let tables = engine.open_ids(&ids.name, ids.keep)?;
        self.ids.push((ids.clone(), tables));
        Ok(tables)
    }
}

impl Tx<'_> {
    /// Whether `id` comes for the first time, as far as is remembered; from the commit of this transaction on it does
    /// not. With `false` do nothing: it was done before, together with its mark.
    ///
    /// What takes the effects of a record back (`Retry`, `Skip`) takes the mark back too.
    ///
    /// In a processor any thread may ask, whatever the partition of the record at hand. Where one id comes twice at
    /// the same moment, one of the two transactions is run again, and is told `false` then.
    ///
    /// # Errors
    /// `Invalid`: over a limit, or a name that cannot be a table's. `Corrupt`, `Closed`.
    pub fn first_time(&mut self, ids: SeenIds, id: impl AsRef<[u8]>) -> Result<bool> {
        let id = id.as_ref();
        let IdTables { by_id, by_age } = self.bindings.ids(self.engine, &ids)?;
        if self.inner.get(by_id, ShardId(0), id)?.is_some() {
            return Ok(false);
        }
        let arrival = self.engine.next_arrival();
        self.inner.put(by_age, ShardId(0), &IdTables::age_key(arrival, id), Some(Bytes::new()))?;
        self.inner.put(by_id, ShardId(0), id, Some(Bytes::copy_from_slice(&arrival.to_be_bytes())))?;
        Ok(true)
    }
}
