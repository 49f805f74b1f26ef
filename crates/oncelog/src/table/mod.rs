//! Keyed state: a write-back cache, versioned by LSN, over a [`TableBackend`].
//!
//! ```text
//! commit -> dirty rows (head)  --visible LSN-->  readers
//!               | at the trim point, newest version up to it
//!               v
//!          TableBackend::apply(batch, lsn)      one durable step
//! ```
//!
//! The backend is `library`: redb over a file whose blocks we check (`file`, `blocks`). `ledger` knows what is dirty,
//! `pressure` how much of it may be.
//!
//! Invariants:
//! * A row is looked up in the dirty map first, then in the backend. The dirty map holds, for each of its keys, every
//!   version that somebody can ask for; for all other keys the backend holds the truth.
//! * A version enters the dirty map under the shard's lock, together with the LSN of its frame: whoever reads at an LSN
//!   that exists sees all of that LSN.
//! * So a transaction that began at LSN b is serialisable if no row it read has a version above b when its own frame
//!   gets its LSN (Kung and Robinson 1981, backward validation).
//!
//! The store's own rows (catalogue, progress, bounds, segments) are tables too. Neighbours: `transaction` above.

mod backend;
mod blocks;
mod file;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
mod ledger;
mod library;
mod pressure;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use backend::Direction;
pub(crate) use backend::{StateKey, TableBackend, TableBatch, Visit};
pub(crate) use blocks::{ROOT_HEAD_BYTES, TableFileName, TableRoot};
use ledger::Ledger;
pub(crate) use library::{HeldRows, TableHome, TableStore};
pub(crate) use pressure::Pressure;
pub use shard::ScanRange;
pub(crate) use shard::{Shard, ShardGuard};

use crate::error::{Error, Result};
use crate::ids::{self, Lsn, ShardId, TableId};
use crate::view::View;
use crate::wake::{Arc, RwLock};

/// Ids below this one are the store's own tables.
pub(crate) const FIRST_USER_TABLE: u32 = 16;

/// Most shards that a table can have: as many as a topic has partitions.
const SHARDS_MAX: u32 = 1 << 16;

/// What a table is: stored with it, and compared when it is opened again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSpec {
    /// The name, as the user gives it.
    pub name: String,
    /// How many shards it has: one, or one for each input partition of the processor that owns it.
    pub shards: u32,
    /// [`Codec::ID`](crate::Codec::ID) of its keys.
    pub key_codec: String,
    /// [`Codec::ID`](crate::Codec::ID) of its values.
    pub value_codec: String,
}

impl TableSpec {
    /// # Errors
    /// `Invalid`: a name that no table can have.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(complaint) = ids::name_complaint(&self.name) {
            return Err(Error::invalid(format!("table {:?}: bad name: {complaint}", self.name)));
        }
        if self.shards == 0 || self.shards > SHARDS_MAX {
            return Err(Error::invalid(format!(
                "table {:?}: {} shards, must be 1 to {SHARDS_MAX}",
                self.name, self.shards
            )));
        }
        Ok(())
    }

    /// Whether a table that exists as `self` can be used as `wanted`.
    pub(crate) fn admit(&self, wanted: &TableSpec) -> Result<()> {
        let differ = |what: &str, is: &str, asked: &str| {
            Err(Error::invalid(format!("table {:?} has {what} {is}, not {asked}", self.name)))
        };
        if self.shards != wanted.shards {
            return differ("a number of shards of", &self.shards.to_string(), &wanted.shards.to_string());
        }
        if self.key_codec != wanted.key_codec {
            return differ("the key codec", &self.key_codec, &wanted.key_codec);
        }
        if self.value_codec != wanted.value_codec {
            return differ("the value codec", &self.value_codec, &wanted.value_codec);
        }
        Ok(())
    }
}

/// All shards of all tables of one owner.
pub(crate) struct Tables {
    backend: Arc<dyn TableBackend>,
    view: Arc<View>,
    ledger: Arc<Ledger>,
    shards: RwLock<BTreeMap<(TableId, ShardId), Arc<Shard>>>,
}

impl Tables {
    pub(crate) fn new(backend: Arc<dyn TableBackend>, view: Arc<View>) -> Tables {
        Tables { backend, view, ledger: Arc::default(), shards: RwLock::default() }
    }

    /// The shard of that name, made in memory when first asked for.
    pub(crate) fn shard(&self, table: TableId, shard: ShardId) -> Arc<Shard> {
        if let Some(found) = self.shards.read().get(&(table, shard)) {
            return Arc::clone(found);
        }
        let mut shards = self.shards.write();
        let made = || {
            let (backend, view) = (Arc::clone(&self.backend), Arc::clone(&self.view));
            Arc::new(Shard::new(table, shard, backend, view, Arc::clone(&self.ledger)))
        };
        Arc::clone(shards.entry((table, shard)).or_insert_with(made))
    }

    /// About how many bytes of memory those rows take that the backend does not have.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.ledger.unwritten_bytes()
    }

    /// Writes every dirty row's newest version up to `lsn`, and `more` rows, to the backend in one durable step, then
    /// lets go of the rows that nobody needs in memory any more. Costs by the rows that were changed, not by tables.
    pub(crate) fn write_back(&self, lsn: Lsn, mut more: TableBatch) -> Result<()> {
        let (from, begun) = (self.ledger.unwritten_from(), self.ledger.begin_write(lsn));
        let shards: Vec<_> =
            self.ledger.dirty_shards().into_iter().map(|(table, shard)| self.shard(table, shard)).collect();
        for shard in &shards {
            shard.collect_dirty(from, lsn, &mut more)?;
        }
        self.backend.apply(&more, lsn)?;
        self.ledger.end_write(lsn, begun);
        for shard in &shards {
            shard.forget_clean(lsn);
        }
        Ok(())
    }
}
