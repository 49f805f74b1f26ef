//! An ingester that may be killed and started again as often as one likes: each line of a file is stored once.
//!
//! `dedup-ingester DIR FILE [DIE-AFTER]`: with DIE-AFTER it kills itself without warning after so many lines.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};

use oncelog::{Error, IdempotentProducerConfig, PartitionId, Result, Store, TopicDef, U64, Utf8};

const LINES: TopicDef<U64, Utf8> = TopicDef::new("lines");
/// Lines on their way to the disk at once: they share syncs.
const IN_FLIGHT: usize = 1_000;

fn main() -> Result<()> {
    let Some(file) = std::env::args_os().nth(2) else {
        return Err(Error::user("usage: dedup-ingester DIR FILE [DIE-AFTER]"));
    };
    let die_after = oncelog_examples::number(3, u64::MAX);
    let store = Store::open(oncelog_examples::store_dir("dedup-ingester"))?;

    // The store knows how far this producer came, because a line and its sequence are stored in one step. A second
    // ingester of the same name would fence this one.
    let name = format!("ingester-{}", file.to_string_lossy().replace('/', "-"));
    let lines = store.idempotent_producer(LINES, IdempotentProducerConfig::new(name))?;
    let done = lines.current_sequence().0;
    println!("{done} lines are there already");

    let mut on_their_way = VecDeque::new();
    let input = BufReader::new(File::open(&file).map_err(Error::user)?);
    for (number, line) in (0..).zip(input.lines()) {
        if number < done {
            continue;
        }
        if number - done == die_after {
            std::process::abort();
        }
        on_their_way.push_back(lines.submit(&number, &line.map_err(Error::user)?)?);
        if on_their_way.len() == IN_FLIGHT
            && let Some(first) = on_their_way.pop_front()
        {
            first.wait()?;
        }
    }
    for answer in on_their_way {
        answer.wait()?;
    }
    let (start, end) = store.offsets(LINES.name(), PartitionId(0))?;
    println!("{} lines are there now", end.0 - start.0);
    store.close()
}
