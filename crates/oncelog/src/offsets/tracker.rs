//! How far a consumer is in each of its sources, and when that is committed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::error::OffsetError;
use super::offset::Offset;
use super::store::{OffsetStore, advance};
use crate::clock::{Clock, SystemClock};
use crate::wake::{Arc, Mutex};

/// When what was recorded is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitStrategy {
    /// With each record.
    #[default]
    Auto,
    /// With the `n`th, 2`n`th ... record **of its source**; see [`OffsetTracker::commit_interval`] for the time.
    Periodic(u64),
    /// When [`OffsetTracker::commit`] is called.
    Manual,
}

/// Where a source begins for which nothing is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OffsetResetPolicy {
    /// At its beginning.
    #[default]
    Earliest,
    /// At its end.
    Latest,
    /// Nowhere: it is an error.
    None,
}

/// Where a source goes on whose stored offset it no longer has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutOfRangePolicy {
    /// Nowhere: it is an error that says what there is.
    #[default]
    Error,
    /// At the first that is there.
    Start,
    /// Behind the last.
    End,
}

/// Tracks sources over an [`OffsetStore`]. `Send + Sync`; threads may share one.
///
/// ```
/// use oncelog::{CommitStrategy, InMemoryOffsetStore, Offset, OffsetTracker};
/// # fn main() -> Result<(), oncelog::OffsetError> {
/// let tracker = OffsetTracker::with_strategy(InMemoryOffsetStore::new(), CommitStrategy::Periodic(2));
/// assert_eq!(tracker.get_offset("orders")?, Offset::Earliest);
/// tracker.record("orders", Offset::after(0)?)?;
/// assert!(tracker.get_all_committed()?.is_empty(), "the second record commits");
/// tracker.record("orders", Offset::after(1)?)?;
/// assert_eq!(tracker.get_all_committed()?["orders"], Offset::Sequence(2));
/// tracker.close()?; // commits what is pending
/// # Ok(())
/// # }
/// ```
pub struct OffsetTracker<S: OffsetStore> {
    store: S,
    strategy: CommitStrategy,
    reset_policy: OffsetResetPolicy,
    out_of_range: OutOfRangePolicy,
    interval: Option<Duration>,
    clock: Arc<dyn Clock>,
    sources: Mutex<BTreeMap<String, Source>>,
    /// Held while the store is asked or told and what is known here follows it: so nothing that is recorded, committed
    /// or reset at the same time comes between. Taken before `sources`.
    order: Mutex<()>,
}

/// What is known of a source beside the store.
#[derive(Default)]
struct Source {
    /// Recorded and not committed.
    pending: Option<Offset>,
    /// Since when something is pending.
    since: Duration,
    /// Records since the last commit by count.
    count: u64,
}

impl<S: OffsetStore> OffsetTracker<S> {
    /// Commits each record.
    pub fn new(store: S) -> OffsetTracker<S> {
        OffsetTracker::with_strategy(store, CommitStrategy::Auto)
    }

    /// Commits as `strategy` says.
    pub fn with_strategy(store: S, strategy: CommitStrategy) -> OffsetTracker<S> {
        let (reset_policy, out_of_range) = (OffsetResetPolicy::default(), OutOfRangePolicy::default());
        let (clock, sources) = (SystemClock::shared(), Mutex::default());
        OffsetTracker {
            store,
            strategy,
            reset_policy,
            out_of_range,
            interval: None,
            clock,
            sources,
            order: Mutex::default(),
        }
    }

    /// Sets where a source begins for which nothing is stored.
    #[must_use]
    pub fn with_reset_policy(mut self, policy: OffsetResetPolicy) -> OffsetTracker<S> {
        self.reset_policy = policy;
        self
    }

    /// Sets where a source goes on whose stored offset it no longer has.
    #[must_use]
    pub fn with_out_of_range_policy(mut self, policy: OutOfRangePolicy) -> OffsetTracker<S> {
        self.out_of_range = policy;
        self
    }

    /// With [`CommitStrategy::Periodic`], commits what is pending for so long too. Looked at by every
    /// [`OffsetTracker::record`] of any source, and by [`OffsetTracker::commit_due`], which a consumer calls while
    /// nothing comes.
    #[must_use]
    pub fn commit_interval(mut self, interval: Duration) -> OffsetTracker<S> {
        self.interval = Some(interval);
        self
    }

    /// Sets where the time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> OffsetTracker<S> {
        self.clock = clock;
        self
    }

    /// The store.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Where to read on: what was recorded last, else what is committed, else what the policy says (`Earliest` or
    /// `Latest`, which the caller makes a number of, once, and records).
    ///
    /// # Errors
    /// `SourceNotFound`: nothing is stored, and the policy is `None`. Those of the store.
    pub fn get_offset(&self, source: &str) -> Result<Offset, OffsetError> {
        if let Some(Source { pending: Some(pending), .. }) = self.sources.lock().get(source) {
            return Ok(pending.clone());
        }
        match (self.store.get(source)?, self.reset_policy) {
            (Some(offset), _) => Ok(offset),
            (None, OffsetResetPolicy::Earliest) => Ok(Offset::Earliest),
            (None, OffsetResetPolicy::Latest) => Ok(Offset::Latest),
            (None, OffsetResetPolicy::None) => Err(OffsetError::SourceNotFound(source.to_owned())),
        }
    }

    /// As [`OffsetTracker::get_offset`], for a source that has the sequences of `there`: a stored one that is gone, or
    /// never was, is told apart from one that is missing.
    ///
    /// # Errors
    /// `OutOfRange`: with what there is, unless the policy says where to go on. Else as [`OffsetTracker::get_offset`].
    pub fn get_offset_within(&self, source: &str, there: Range<u64>) -> Result<Offset, OffsetError> {
        let offset = self.get_offset(source)?;
        match (offset.as_sequence(), self.out_of_range) {
            (Some(sequence), policy) if sequence < there.start || sequence > there.end => match policy {
                OutOfRangePolicy::Start => Ok(Offset::Sequence(there.start)),
                OutOfRangePolicy::End => Ok(Offset::Sequence(there.end)),
                OutOfRangePolicy::Error => {
                    let (name, Range { start, end }) = (source.to_owned(), there);
                    Err(OffsetError::OutOfRange { name, offset: sequence, start, end })
                }
            },
            _ => Ok(offset),
        }
    }

    /// Says that `next` is the next to read of `source`, and commits it if the strategy says so.
    ///
    /// # Errors
    /// `InvalidOffset`: lower than what was recorded or committed before, or no place; nothing has changed. Those of
    /// the store: it is recorded, and committed by a later call.
    pub fn record(&self, source: &str, next: Offset) -> Result<(), OffsetError> {
        let due = self.note(source, next)?;
        if due {
            self.commit(source)?;
        }
        self.commit_due()
    }

    /// Whether the record that was noted is to be committed.
    fn note(&self, source: &str, next: Offset) -> Result<bool, OffsetError> {
        let _in_order = self.order.lock();
        let pending = self.sources.lock().get(source).and_then(|known| known.pending.clone());
        let is_first = pending.is_none();
        let before = if is_first { self.store.get(source)? } else { pending };
        advance(source, before.as_ref(), &next)?;
        let mut sources = self.sources.lock();
        let known = sources.entry(source.to_owned()).or_default();
        if is_first {
            known.since = self.clock.monotonic();
        }
        known.pending = Some(next);
        known.count += 1;
        let due = match self.strategy {
            CommitStrategy::Auto => true,
            CommitStrategy::Periodic(records) => known.count >= records.max(1),
            CommitStrategy::Manual => false,
        };
        if due {
            known.count = 0;
        }
        Ok(due)
    }

    /// Commits what has been pending for as long as [`OffsetTracker::commit_interval`] says, in one step.
    ///
    /// # Errors
    /// As [`OffsetTracker::commit`].
    pub fn commit_due(&self) -> Result<(), OffsetError> {
        let (Some(interval), CommitStrategy::Periodic(_)) = (self.interval, self.strategy) else { return Ok(()) };
        let now = self.clock.monotonic();
        self.commit_those(|known| now.saturating_sub(known.since) >= interval)
    }

    /// Commits what is pending of a source; does nothing if there is nothing.
    ///
    /// # Errors
    /// `InvalidOffset`: somebody else has committed more through the store. Those of the store; it stays pending.
    pub fn commit(&self, source: &str) -> Result<(), OffsetError> {
        let _in_order = self.order.lock();
        self.commit_in_order(source)
    }

    fn commit_in_order(&self, source: &str) -> Result<(), OffsetError> {
        let pending = self.sources.lock().get(source).and_then(|known| known.pending.clone());
        let Some(pending) = pending else { return Ok(()) };
        self.store.commit(source, &pending)?;
        self.is_committed(source);
        Ok(())
    }

    /// Commits what is pending of all sources, in one step.
    ///
    /// # Errors
    /// As [`OffsetTracker::commit`].
    pub fn commit_all(&self) -> Result<(), OffsetError> {
        self.commit_those(|_| true)
    }

    fn commit_those(&self, which: impl Fn(&Source) -> bool) -> Result<(), OffsetError> {
        let _in_order = self.order.lock();
        let pending: BTreeMap<String, Offset> = {
            let sources = self.sources.lock();
            let which = sources.iter().filter(|(_, known)| which(known));
            which.filter_map(|(source, known)| Some((source.clone(), known.pending.clone()?))).collect()
        };
        if pending.is_empty() {
            return Ok(());
        }
        match self.store.commit_all(&pending) {
            Ok(_) => pending.keys().for_each(|source| self.is_committed(source)),
            // Somebody else has overtaken one of them, which must not hold up the others.
            Err(OffsetError::InvalidOffset(_)) => {
                let each: Vec<_> = pending.keys().map(|source| self.commit_in_order(source)).collect();
                return each.into_iter().find(Result::is_err).unwrap_or(Ok(()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes it out of what is pending.
    fn is_committed(&self, source: &str) {
        if let Some(known) = self.sources.lock().get_mut(source) {
            known.pending = None;
        }
    }

    /// Sets a source, back or forth, and drops what was pending for it.
    ///
    /// # Errors
    /// As [`OffsetStore::reset`]; then nothing is dropped.
    pub fn reset(&self, source: &str, offset: Offset) -> Result<(), OffsetError> {
        let _in_order = self.order.lock();
        self.store.reset(source, &offset)?;
        self.sources.lock().remove(source);
        Ok(())
    }

    /// Forgets a source, and what was pending for it.
    ///
    /// # Errors
    /// As [`OffsetStore::clear`]; then nothing is dropped.
    pub fn clear(&self, source: &str) -> Result<(), OffsetError> {
        let _in_order = self.order.lock();
        self.store.clear(source)?;
        self.sources.lock().remove(source);
        Ok(())
    }

    /// What is committed.
    ///
    /// # Errors
    /// Those of the store.
    pub fn get_all_committed(&self) -> Result<BTreeMap<String, Offset>, OffsetError> {
        self.store.get_all()
    }

    /// What was recorded and is not committed.
    #[must_use]
    pub fn get_all_pending(&self) -> BTreeMap<String, Offset> {
        let sources = self.sources.lock();
        sources.iter().filter_map(|(source, known)| Some((source.clone(), known.pending.clone()?))).collect()
    }

    /// Commits what is pending, unless the strategy is [`CommitStrategy::Manual`], and ends. Dropping does the same,
    /// and logs what goes wrong.
    ///
    /// # Errors
    /// As [`OffsetTracker::commit`].
    pub fn close(self) -> Result<(), OffsetError> {
        let closed = self.shut();
        self.sources.lock().clear();
        closed
    }

    fn shut(&self) -> Result<(), OffsetError> {
        match self.strategy {
            CommitStrategy::Manual => Ok(()),
            CommitStrategy::Auto | CommitStrategy::Periodic(_) => self.commit_all(),
        }
    }
}

impl<S: OffsetStore> Drop for OffsetTracker<S> {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "offsets that were pending are not committed");
        }
    }
}
