//! What is known of one producer in one partition, and the two questions that are asked of it. Pure.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::ids::{LogOffset, ProducerEpoch, Sequence};

/// So many batches answer with the offset of their first copy.
pub(crate) const RECENT_BATCHES: usize = 5;

/// The numbers of one batch: `count` sequences from `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// `None` where nothing is to be fenced.
    pub(crate) epoch: Option<ProducerEpoch>,
    pub(crate) first: Sequence,
    pub(crate) count: u32,
}

/// What is known of one producer in one partition. The value of a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StampState {
    /// The newest generation; 0 before the first.
    pub(crate) epoch: ProducerEpoch,
    /// All before it are stored.
    pub(crate) next: Sequence,
    /// Oldest first, [`RECENT_BATCHES`] at most.
    recent: VecDeque<StampedBatch>,
}

/// Sequences that were stored together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StampedBatch {
    first: Sequence,
    count: u32,
    /// Where the first of them went; `None` for a stamp that is tied to no records.
    offset: Option<LogOffset>,
}

/// What a stamp is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The next one.
    New,
    /// Stored before; the first of its records is there.
    Duplicate(Option<LogOffset>),
    /// Stored before, longer ago than is remembered with offsets.
    OldDuplicate,
    /// Not the next one: what lies between was lost, or belongs to another batch.
    Gap { expected: Sequence },
    /// Of an older generation.
    Fenced { current: ProducerEpoch },
}

impl StampState {
    /// Of a producer that nothing is known of, whose first sequence will be `initial`.
    pub(crate) fn unknown(initial: Sequence) -> StampState {
        StampState { epoch: ProducerEpoch(0), next: initial, recent: VecDeque::new() }
    }

    /// What `stamp` is.
    pub(crate) fn check(&self, stamp: &Stamp) -> Verdict {
        if stamp.epoch.is_some_and(|epoch| epoch < self.epoch) {
            return Verdict::Fenced { current: self.epoch };
        }
        if stamp.first == self.next {
            return Verdict::New;
        }
        if stamp.end() > self.next {
            return Verdict::Gap { expected: self.next };
        }
        let holds =
            |batch: &&StampedBatch| batch.first <= stamp.first && stamp.first.0 - batch.first.0 < batch.count.into();
        match self.recent.iter().find(holds) {
            Some(batch) => Verdict::Duplicate(batch.offset.map(|offset| offset.plus(stamp.first.0 - batch.first.0))),
            None => Verdict::OldDuplicate,
        }
    }

    /// The last batches, oldest first: first sequence, how many, and where the first went.
    pub(crate) fn recent(&self) -> impl Iterator<Item = (Sequence, u32, Option<LogOffset>)> + '_ {
        self.recent.iter().map(|batch| (batch.first, batch.count, batch.offset))
    }

    /// About how many bytes it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<StampState>() + self.recent.capacity() * size_of::<StampedBatch>()
    }

    /// The batch is stored, its first record at `offset`. Of a stamp that is [`Verdict::New`].
    pub(crate) fn advance(&mut self, stamp: &Stamp, offset: Option<LogOffset>) {
        debug_assert_eq!(self.next, stamp.first, "only the next one is stored");
        self.epoch = self.epoch.max(stamp.epoch.unwrap_or_default());
        self.next = stamp.end();
        self.recent.push_back(StampedBatch { first: stamp.first, count: stamp.count, offset });
        while self.recent.len() > RECENT_BATCHES {
            self.recent.pop_front();
        }
    }
}

impl Stamp {
    /// Behind its last sequence.
    pub(crate) fn end(&self) -> Sequence {
        self.first.plus(self.count.into())
    }
}
