//! What a coordinator has done, counted under the lock under which it is done.

/// What a [`Coordinator`](super::Coordinator) has done since it was made. All numbers are of one moment:
/// `opened` is always the sum of `committed`, `aborted`, `in_doubt` and [`pending`](CoordinatorSnapshot::pending).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CoordinatorSnapshot {
    /// Messages, or batches of them, that transactions were asked for.
    pub received: u64,
    /// Those of them that had been taken in before.
    pub duplicates_filtered: u64,
    /// Transactions that were opened.
    pub opened: u64,
    /// Transactions that were committed.
    pub committed: u64,
    /// Transactions that were given up, by their user, by the backend, or by the timeout.
    pub aborted: u64,
    /// Those of them that were given up by the timeout.
    pub timed_out: u64,
    /// Transactions of which the disk did not say whether they were committed.
    pub in_doubt: u64,
    /// Transactions that are open.
    pub pending: u64,
}

/// The counts of a coordinator, as they go: see [`CoordinatorStats::snapshot`].
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorStats<'c>(pub(super) &'c super::Coordinator);

impl CoordinatorStats<'_> {
    /// All counts, as of one moment.
    #[must_use]
    pub fn snapshot(&self) -> CoordinatorSnapshot {
        self.0.counts()
    }
}
