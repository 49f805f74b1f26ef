//! For those who come from a streaming library with a checkpoint manager: the bytes of its last checkpoint are taken
//! over once, and then the manager goes on from there, through crashes too.
//!
//! `from-checkpoints DIR [DIE-AFTER]`: see docs/migrate/checkpoints.md.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oncelog::{
    CheckpointManager, CheckpointOperator, CheckpointState, CheckpointStore, Error, FileCheckpointStore, Offset, Result,
};

const STREAM: &str = "tiles";
const FEED: &str = "feed-0";
/// The stream has so many events; the first has sequence 1 and is record 0 of its feed.
const EVENTS: u64 = 1000;

/// The operator as it was: how many events lay on each half of the map, in the eight bytes each that it always wrote.
#[derive(Default)]
struct Halves([AtomicU64; 2]);

impl Halves {
    fn count(&self, event: u64) {
        self.0[usize::from(event.is_multiple_of(3))].fetch_add(1, Ordering::Relaxed);
    }

    fn counted(&self) -> [u64; 2] {
        [0, 1].map(|half| self.0[half].load(Ordering::Relaxed))
    }
}

impl CheckpointOperator for Halves {
    fn snapshot(&self) -> Result<Vec<u8>> {
        Ok(self.counted().map(u64::to_le_bytes).concat())
    }

    fn restore(&self, state: Option<&[u8]>) -> Result<()> {
        let bytes: [u8; 16] = state.map_or(Ok([0; 16]), TryInto::try_into).map_err(Error::user)?;
        for (half, bytes) in self.0.iter().zip(bytes.chunks_exact(8)) {
            half.store(u64::from_le_bytes(bytes.try_into().map_err(Error::user)?), Ordering::Relaxed);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let dir = oncelog_examples::store_dir("from-checkpoints");
    let die_after = oncelog_examples::number(2, u64::MAX);
    let old = dir.join("old-tiles.checkpoint");
    if !old.exists() {
        fs::create_dir_all(&dir).map_err(Error::user)?;
        leave_old(&old).map_err(Error::user)?;
    }

    let store = FileCheckpointStore::open(dir.join("checkpoints"))?.max_per_stream(5);
    // A second run finds its own and does not look at the old one again.
    if store.latest(STREAM)?.is_none() {
        let mut state = CheckpointState::import(STREAM, &fs::read(&old).map_err(Error::user)?)?;
        // That program kept the last record that was read; an offset here is the next to read.
        if let Some(Offset::Sequence(last)) = state.source_offsets.get(FEED).cloned() {
            state.set_source_offset(FEED, Offset::after(last)?);
        }
        store.save(&state)?;
        println!("taken over at sequence {}", state.id.sequence);
    }

    let halves = Arc::new(Halves::default());
    let manager = CheckpointManager::new(store, 100);
    manager.register(STREAM, "halves", Arc::clone(&halves))?;
    let recovered = manager.recover(STREAM)?.ok_or_else(|| Error::user("there is no checkpoint"))?;
    println!("goes on behind sequence {}", recovered.last);
    for sequence in recovered.last + 1..=EVENTS {
        halves.count(sequence);
        manager.set_source_offset(STREAM, FEED, Offset::Sequence(sequence))?;
        manager.on_event(STREAM, sequence, sequence * 20)?;
        if sequence - recovered.last == die_after {
            std::process::abort();
        }
    }
    let [others, thirds] = halves.counted();
    println!("{thirds} of {} events lay on the second half", thirds + others);
    manager.close().map(drop)
}

/// What the old program left, in the old library's bytes: at sequence 500, with all that came before counted.
fn leave_old(path: &Path) -> std::io::Result<()> {
    let counted = Halves::default();
    (1..=500).for_each(|sequence| counted.count(sequence));
    let [others, thirds] = counted.counted();
    let numbers = |numbers: &[u64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    let number = |number: u32| number.to_le_bytes().to_vec();
    let bytes = [
        // Sequence, watermark, events.
        numbers(&[500, 10_000, 500]),
        // One operator: the length of its name, the name, the length of its state, the state.
        number(1),
        number(6),
        b"halves".to_vec(),
        number(16),
        numbers(&[others, thirds]),
        // One source: the length of its name, the name, the last record that was read.
        number(1),
        number(6),
        b"feed-0".to_vec(),
        numbers(&[499]),
    ];
    fs::write(path, bytes.concat())
}
