//! Oncelog's processors on a real Apache Kafka, exactly once, by changing one line.
//!
//! ```no_run
//! use oncelog::{Outcome, Processor, RecordRef, Result, TableDef, TopicDef, Tx, U64, Utf8};
//! use oncelog_kafka::Kafka;
//!
//! const WORDS: TopicDef<Utf8, Utf8> = TopicDef::new("words").partitions(4);
//! const COUNTS: TopicDef<Utf8, U64> = TopicDef::new("counts").partitions(4);
//! const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals").shards(4);
//!
//! fn count(word: RecordRef<'_, Utf8, Utf8>, tx: &mut Tx<'_>) -> Result<Outcome> {
//!     let total = tx.table(TOTALS)?.update(word.key()?, |total| total.unwrap_or(0) + 1)?;
//!     tx.append(COUNTS, word.key()?, &total)?;
//!     Ok(Outcome::Commit)
//! }
//!
//! # fn main() -> Result<()> {
//! // Instead of `let store = Store::open("./state")?;`
//! let kafka = Kafka::open("localhost:9092", "./state")?;
//! let run = Processor::new("count", WORDS).table(TOTALS).output(COUNTS).start(&kafka, count)?;
//! # run.stop()
//! # }
//! ```
//!
//! Start as many instances as you like, each with a directory of its own: they share the partitions.
//!
//! # How it works
//! ```text
//! group --partitions--> KafkaSource --records--> your function --> KafkaTx: records, rows, progress
//!                          ^                                          |
//!                          |            one Kafka transaction: outputs, changelogs, offsets
//!                          |                                          |
//!                          +--tables <-- local store <-- after the commit is known (member)
//! ```
//! * `source` hands out what is committed or comes again; `assignment` which partitions.
//! * `tx` stages; `member` commits, and finds out what an unknown outcome was.
//! * `restore` brings tables up from changelogs, from where `checkpoints` say they are.
//! * `cluster` asks and makes topics; `engine` is what the handles see.
//!
//! `docs/kafka.md` says what differs from the embedded engine, and what each guarantee rests on.

#![allow(clippy::disallowed_methods, reason = "a client of a real cluster lives by the real clock")]

mod assignment;
mod checkpoints;
mod cluster;
mod engine;
mod failure;
mod member;
mod names;
mod numbers;
mod options;
mod restore;
mod source;
mod tx;

/// Compiles the code of the page about it.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/kafka.md")]
struct Page;

use std::path::Path;
use std::sync::Arc;

use oncelog::{AsEngine, Engine, Result, Snapshot, Store};

use engine::{KafkaEngine, Shared};
pub use options::KafkaOptions;

/// A connection to a cluster, with the directory in which this instance keeps its tables. Cloning gives another handle
/// of the same.
#[derive(Clone)]
pub struct Kafka {
    shared: Arc<Shared>,
    store: Store,
}

impl Kafka {
    /// Opens the directory `dir` and makes contact with the cluster of these servers, by the default options.
    ///
    /// # Errors
    /// As [`KafkaOptions::open`].
    pub fn open(servers: &str, dir: impl AsRef<Path>) -> Result<Kafka> {
        Kafka::options(servers).open(dir)
    }

    /// Options for a connection to the cluster of these servers, `host:port` with commas between.
    pub fn options(servers: &str) -> KafkaOptions {
        KafkaOptions::new(servers)
    }

    /// The tables as they are here: of the partitions that are processed by this instance, all that is committed; of
    /// others, what was so when they left.
    ///
    /// # Errors
    /// As [`Store::snapshot`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        self.store.snapshot()
    }

    /// Closes the directory. Stop the processors before.
    ///
    /// # Errors
    /// As [`Store::close`].
    pub fn close(self) -> Result<()> {
        self.store.close()
    }
}

impl AsEngine for Kafka {
    fn as_engine(&self) -> Arc<dyn Engine> {
        Arc::new(KafkaEngine(Arc::clone(&self.shared)))
    }
}
