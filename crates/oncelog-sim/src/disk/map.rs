//! Memory that processes share through a file: it outlives a process that is killed, and not the power.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use oncelog::disk::{MapAccess, SharedMap};

/// The words of one file, for every process of the simulated machine.
#[derive(Debug)]
pub(super) struct SimMap {
    words: Box<[AtomicU64]>,
}

impl SimMap {
    pub(super) fn new(words: usize) -> SimMap {
        SimMap { words: (0..words).map(|_| AtomicU64::new(0)).collect() }
    }

    /// What another machine has that was copied from this one.
    pub(super) fn copy(&self) -> SimMap {
        SimMap { words: self.words.iter().map(|word| AtomicU64::new(word.load(Ordering::SeqCst))).collect() }
    }

    /// What a power cut may leave in the file: some of the words as they were, the others as they were made.
    pub(super) fn remains(&self, seed: u64) -> SimMap {
        let mixed = |at: usize| seed.rotate_left(u32::try_from(at % 61).unwrap_or(0)) ^ at as u64;
        let keeps = |at: usize| mixed(at).count_ones().is_multiple_of(2);
        let kept = |(at, word): (usize, &AtomicU64)| {
            AtomicU64::new(if seed.is_multiple_of(3) || keeps(at / 64) { word.load(Ordering::SeqCst) } else { 0 })
        };
        SimMap { words: self.words.iter().enumerate().map(kept).collect() }
    }
}

impl SharedMap for SimMap {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn access(&self) -> MapAccess {
        MapAccess::Write
    }

    /// Nobody else runs while one waits here.
    fn wait(&self, _word: usize, _seen: u32, _limit: Duration) {}

    fn wake(&self, _word: usize) {}
}
