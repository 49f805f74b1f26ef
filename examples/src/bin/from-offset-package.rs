//! For those who come from a stream library's offset package: a file of last processed offsets is taken over once, and
//! then a tracker goes on over several sources.
//!
//! `from-offset-package DIR [DIE-AFTER]`: see docs/migrate/offset-package.md.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;

use oncelog::{CommitStrategy, Error, FileOffsetStore, Offset, OffsetResetPolicy, OffsetStore, OffsetTracker, Result};

/// How many events each source has.
const EVENTS: u64 = 25;
/// What the old package had: the LAST event that was processed of each source.
const OLD: [(&str, u64); 2] = [("clicks", 9), ("views", 4)];

fn main() -> Result<()> {
    let dir = oncelog_examples::store_dir("from-offset-package");
    let die_after = oncelog_examples::number(2, u64::MAX);
    std::fs::create_dir_all(&dir).map_err(Error::user)?;
    let store = FileOffsetStore::open(dir.join("offsets.json"))?;
    if store.get_all()?.is_empty() {
        // One replacement of one file: all of them are taken over, or none. An offset here is the next to read.
        let taken: Result<BTreeMap<_, _>> =
            OLD.into_iter().map(|(source, last)| Ok((source.to_owned(), Offset::after(last)?))).collect();
        store.commit_all(&taken?)?;
        println!("{} sources were taken over", OLD.len());
    }

    let tracker = OffsetTracker::with_strategy(store, CommitStrategy::Periodic(10))
        .with_reset_policy(OffsetResetPolicy::Earliest);
    let mut processed = 0;
    for source in ["clicks", "views", "orders"] {
        let next = match tracker.get_offset(source)? {
            Offset::Sequence(next) => next,
            // A policy and no place: only the source knows where it begins.
            Offset::Earliest => 0,
            other => return Err(Error::user(format!("{source} stands at {other}"))),
        };
        println!("{source} goes on at {next}");
        for event in next..EVENTS {
            processed += 1;
            tracker.record(source, Offset::after(event)?)?;
            if processed == die_after {
                std::process::abort();
            }
        }
    }
    // What is pending, in one step.
    tracker.close()?;
    println!("{processed} events were processed");
    Ok(())
}
