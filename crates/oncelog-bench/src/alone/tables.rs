//! Tables four times as large as the memory given to them, beside the library under them with the same memory.
//!
//! Batches of a thousand rows, drawn at random, are put in one durable commit each. Of Oncelog timed: all commits and
//! the trim behind them, so that all rows are in the library by then; of the library alone: its commits. The library's
//! own checks, the journal and the recovery of Oncelog come on top: half of the library's rate is the goal.

use std::path::Path;
use std::time::{Duration, Instant};

use oncelog::{Bytes, TableDef};
use redb::{Database, TableDefinition};

use super::{Alone, Scale, Value};
use crate::Result;
use crate::scratch::Scratch;
use crate::subject_store::{SubjectStore, options};

pub(super) struct Tables;

const ROWS: TableDef<Bytes, Bytes> = TableDef::new("rows");
const LIBRARY_ROWS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("rows");
const VALUE: [u8; 100] = [7; 100];
const BATCH: u64 = 1000;
/// With its key, and what a B-tree of the library needs beside: about so much.
const ROW_BYTES: u64 = 128;

impl Alone for Tables {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn about(&self) -> &'static str {
        "random puts of 100 B rows, 1000 a durable commit, state 4 x the memory given, beside redb alone"
    }

    fn run(&self, dir: &Path, scale: Scale) -> Result<Vec<Value>> {
        let memory = scale.size.pick(32 << 20, 1 << 20);
        let rows = 4 * memory as u64 / ROW_BYTES;
        let batches = scale.size.pick(300, 4) as u64;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..scale.rounds.min(3) {
            let scratch = Scratch::inside(dir, &format!("library-{round}"))?;
            theirs.push(library(scratch.path(), memory, rows, batches)?);
            scratch.clear()?;
            let scratch = Scratch::inside(dir, &format!("oncelog-{round}"))?;
            ours.push(store(scratch.path(), scale, (memory, rows, batches))?);
            scratch.clear()?;
        }
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
        Ok(vec![
            Value::of("oncelog / redb", ratios, "x", ">= 0.5")?,
            Value::of("oncelog", ours, "rows/s", "-")?,
            Value::of("redb", theirs, "rows/s", "-")?,
        ])
    }
}

fn store(dir: &Path, scale: Scale, (memory, rows, batches): (usize, u64, u64)) -> Result<f64> {
    let subject = SubjectStore::open_with(dir, options(scale.size).table_memory(memory))?;
    let store = &subject.store;
    let put = |keys: &[u64]| {
        store.transact(|tx| {
            let mut table = tx.table(ROWS)?;
            keys.iter().try_for_each(|key| table.put(&key.to_be_bytes(), &VALUE))
        })
    };
    in_order(rows).try_for_each(|keys| put(&keys))?;
    store.trim()?;
    let mut keys = Keys(1);
    let start = Instant::now();
    for _ in 0..batches {
        put(&keys.batch(rows))?;
    }
    store.trim()?;
    let elapsed = start.elapsed();
    subject.store.close()?;
    Ok(rate(batches, elapsed))
}

fn library(dir: &Path, memory: usize, rows: u64, batches: u64) -> Result<f64> {
    let database = Database::builder().set_cache_size(memory).create(dir.join("rows"))?;
    let put = |keys: &[u64]| -> Result<()> {
        let tx = database.begin_write()?;
        let mut table = tx.open_table(LIBRARY_ROWS)?;
        for key in keys {
            table.insert(&key.to_be_bytes()[..], &VALUE[..])?;
        }
        drop(table);
        Ok(tx.commit()?)
    };
    in_order(rows).try_for_each(|keys| put(&keys))?;
    let mut keys = Keys(1);
    let start = Instant::now();
    for _ in 0..batches {
        put(&keys.batch(rows))?;
    }
    Ok(rate(batches, start.elapsed()))
}

/// Batches of all keys.
fn in_order(rows: u64) -> impl Iterator<Item = Vec<u64>> {
    (0..rows.div_ceil(BATCH)).map(move |n| (n * BATCH..rows.min((n + 1) * BATCH)).collect())
}

fn rate(batches: u64, elapsed: Duration) -> f64 {
    (batches * BATCH) as f64 / elapsed.as_secs_f64()
}

/// Keys at random, the same in every run.
struct Keys(u64);

impl Keys {
    /// Sorted, which is best for a B-tree.
    fn batch(&mut self, below: u64) -> Vec<u64> {
        let mut keys: Vec<u64> = (0..BATCH).map(|_| self.next() % below).collect();
        keys.sort_unstable();
        keys
    }

    fn next(&mut self) -> u64 {
        // Xorshift (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
