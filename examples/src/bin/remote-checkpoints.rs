//! A stream from outside of any store (here: numbers that are counted by their last digit), whose state is kept as
//! checkpoints in object storage. It may be killed at any moment: it goes on from the newest checkpoint, and processes
//! again only what came behind it. Here the storage is a directory; S3 is another first line in `objects`.
//!
//! `remote-checkpoints [DIR [NUMBERS]]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use oncelog::{CheckpointManager, Error, ObjectCheckpointStore, OperatorState, Result};
use oncelog_examples::{number, store_dir};
use tokio::runtime::Runtime;

const EVERY: u64 = 1_000;

/// The counts, by last digit.
type Counts = OperatorState<BTreeMap<u64, u64>>;

fn main() -> Result<()> {
    let numbers = number(2, 100_000);
    // Whatever is reached over a network needs a runtime, and so does this.
    let runtime = Runtime::new().map_err(Error::user)?;
    let handle = runtime.handle().clone();
    let store = ObjectCheckpointStore::new(objects()?, "checkpoints").max_per_stream(3);
    let store = store.on_runtime(move |task| drop(handle.spawn(task)));

    let counts = Arc::new(Counts::default());
    let manager = CheckpointManager::new(store, EVERY);
    manager.register("numbers", "counts", Arc::clone(&counts))?;
    let next = match manager.recover("numbers")? {
        Some(recovered) => {
            recovered.damaged.iter().for_each(|damaged| println!("passed over: {}", damaged.error));
            recovered.last + 1
        }
        None => 1,
    };
    println!("goes on at {next}");
    for event in next..=numbers {
        counts.with(|counts| *counts.entry(event % 10).or_default() += 1);
        // Behind the processing, and before the next event: so the checkpoint is of this moment.
        manager.on_event("numbers", event, event)?;
    }
    let events = manager.event_count("numbers");
    manager.close()?;
    counts.with(|counts| counts.iter().for_each(|(digit, count)| println!("{digit}: {count}")));
    println!("{events} events");
    Ok(())
}

fn objects() -> Result<Arc<dyn ObjectStore>> {
    let dir = store_dir("remote-checkpoints");
    std::fs::create_dir_all(&dir).map_err(Error::user)?;
    Ok(Arc::new(LocalFileSystem::new_with_prefix(dir).map_err(Error::user)?))
}
