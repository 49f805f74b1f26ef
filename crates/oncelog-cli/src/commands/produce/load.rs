//! What a named producer has loaded: how many lines, and the checksum of them.
//!
//! Invariant: the row that says it is in the commit of the lines that it counts, with a stamp that no other transaction
//! can have. So after a crash both are there or neither is, and the next run goes on behind the last line stored.

use oncelog::{Engine, EngineTx, NewStamp, PartitionId, Sequence, ShardId, Stamped, TableDef, TableId, TopicId, Utf8};

use super::input::{Lines, Rules};
use crate::exit::Failure;

/// A load by a named producer.
pub(super) struct Load {
    producer: String,
    topic: TopicId,
    table: TableId,
    /// The row's.
    key: String,
    lines: u64,
    checksum: Checksum,
}

impl Load {
    /// What that producer has loaded into the topic. Reads the lines that are stored, and leaves `lines` behind them.
    ///
    /// # Errors
    /// These lines are not those that were stored.
    pub(super) fn resume(
        engine: &dyn Engine,
        owner: &str,
        topic: TopicId,
        producer: &str,
        rules: &Rules,
        lines: &mut Lines,
    ) -> Result<Load, Failure> {
        // A table is one owner's, so each owner has one.
        let table = TableDef::<Utf8, Utf8>::named(format!("oncelog-loads-{owner}"));
        let table = engine.open_table(&table.spec(1))?;
        let key = format!("{topic}/{producer}");
        let stored = engine.begin()?.get(table, ShardId(0), key.as_bytes())?;
        let mut load = Load {
            producer: producer.to_owned(),
            topic,
            table,
            key,
            lines: 0,
            checksum: Checksum::new(&rules.describe()),
        };
        if let Some(row) = stored {
            load.pass(&row, rules, lines)?;
        }
        Ok(load)
    }

    /// How many lines are counted.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    fn pass(&mut self, row: &[u8], rules: &Rules, lines: &mut Lines) -> Result<(), Failure> {
        let malformed = || Failure::plain(format_args!("the row {:?} of a load is malformed", self.key));
        let (count, checksum) = read_row(row).ok_or_else(malformed)?;
        let bar = lines.bar();
        while self.lines < count {
            let Some(line) = lines.next(rules.line_bytes_max())? else {
                let (name, producer, have) = (lines.name(), &self.producer, self.lines);
                let what = format!("{name} has {have} lines, and producer {producer:?} has stored {count}");
                return Err(Failure::plain(what).hint("give the whole input again, or take another --producer-id"));
            };
            self.add(line.bytes);
            if self.lines.is_multiple_of(4096) {
                bar.set_position(lines.position());
            }
        }
        bar.finish_and_clear();
        if self.checksum.0 == checksum {
            return Ok(());
        }
        let (name, producer) = (lines.name(), &self.producer);
        let what = format!("{name}: the first {count} lines are not those that producer {producer:?} has stored");
        Err(Failure::plain(what).hint("give the input as it was, read in the same way, or take another --producer-id"))
    }

    /// Counts a line.
    pub(super) fn add(&mut self, line: &[u8]) {
        self.lines += 1;
        self.checksum.add(line);
    }

    /// Puts the mark of what is counted into the commit of the last `records` lines.
    ///
    /// # Errors
    /// `Conflict`: another one loads as this producer.
    pub(super) fn mark(&self, tx: &mut dyn EngineTx, records: u64) -> Result<(), Failure> {
        let first = Sequence(self.lines - records);
        let stamp = NewStamp {
            producer: &self.producer,
            epoch: None,
            // Lines go to the partitions of their keys, so the stamps are tied to no partition of the topic: the
            // topic's id is the number of the stream.
            topic: TopicId(0),
            partition: PartitionId(self.topic.0),
            first,
            count: u32::try_from(records).unwrap_or(u32::MAX),
            initial: Sequence(0),
        };
        let row = format!("{} {:016x}", self.lines, self.checksum.0);
        tx.put(self.table, ShardId(0), self.key.as_bytes(), Some(row.into()))?;
        match tx.stamp(&stamp)? {
            Stamped::New => Ok(()),
            _ => {
                let producer = &self.producer;
                Err(Failure::plain(format_args!("producer {producer:?}: line {} is stored already", first.0 + 1))
                    .hint("a program uses this producer id too: take another --producer-id"))
            }
        }
    }
}

fn read_row(row: &[u8]) -> Option<(u64, u64)> {
    let (lines, checksum) = std::str::from_utf8(row).ok()?.split_once(' ')?;
    Some((lines.parse().ok()?, u64::from_str_radix(checksum, 16).ok()?))
}

/// Of all lines so far, their ends included: FNV-1a in 64 bits.
struct Checksum(u64);

impl Checksum {
    fn new(rules: &str) -> Checksum {
        let mut checksum = Checksum(0xcbf2_9ce4_8422_2325);
        checksum.add(rules.as_bytes());
        checksum
    }

    fn add(&mut self, line: &[u8]) {
        for byte in line.iter().chain(b"\n") {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
