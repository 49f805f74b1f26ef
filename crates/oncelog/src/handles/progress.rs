//! How far a worker is: written by its thread when a commit was answered, read by whoever asks.

use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::wake::{Arc, AtomicU64, Ordering, Signal};

/// The durable progress of one worker since it was made.
#[derive(Debug, Default)]
pub(super) struct Progress {
    processed: AtomicU64,
    dead_letters: AtomicU64,
    /// Sorted by topic and partition.
    places: Vec<(TopicId, PartitionId, AtomicU64)>,
    /// Raised when any of it has moved; shared with the workers beside it.
    moved: Arc<Signal>,
}

/// Next offsets by topic and partition.
pub(super) type Positions = Vec<(TopicId, PartitionId, LogOffset)>;

impl Progress {
    pub(super) fn starting_at(mut positions: Positions, moved: Arc<Signal>) -> Progress {
        positions.sort_unstable();
        let places = positions.into_iter().map(|(topic, partition, next)| (topic, partition, AtomicU64::new(next.0)));
        Progress { places: places.collect(), moved, ..Progress::default() }
    }

    /// Adds what became durable.
    pub(super) fn add(&self, processed: u64, dead_letters: u64, positions: &Positions) {
        for (topic, partition, next) in positions {
            let found = self.places.binary_search_by_key(&(*topic, *partition), |(t, p, _)| (*t, *p));
            if let Some((.., place)) = found.ok().and_then(|at| self.places.get(at)) {
                place.store(next.0, Ordering::SeqCst);
            }
        }
        self.dead_letters.fetch_add(dead_letters, Ordering::SeqCst);
        self.processed.fetch_add(processed, Ordering::SeqCst);
        self.moved.raise();
    }

    pub(super) fn processed(&self) -> u64 {
        self.processed.load(Ordering::SeqCst)
    }

    pub(super) fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::SeqCst)
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = (TopicId, PartitionId, LogOffset)> + '_ {
        self.places.iter().map(|(topic, partition, next)| (*topic, *partition, LogOffset(next.load(Ordering::SeqCst))))
    }
}
