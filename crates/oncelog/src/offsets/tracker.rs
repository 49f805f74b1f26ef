//! How far a consumer is in each of its sources, and when that is committed.
//!
//! ```text
//! record -- lower than what is pending or stored? --> pending -- due --> wanted
//!                                                                               |
//!                      all that waited are told <-- one commit of all that is wanted, by one of those who wait
//! ```
//!
//! Invariants: the store is told by one caller at a time, who has the turn; so what is committed and what is reset have
//! an order. Whoever records asks the store what is committed, since others may share it, in this process or another;
//! what it says counts only if nothing was recorded or reset here meanwhile. What is recorded while a commit is on its
//! way stays pending behind it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::error::OffsetError;
use super::offset::Offset;
use super::store::{OffsetStore, advance};
use crate::clock::{Clock, SystemClock};
use crate::wake::{Arc, Condvar, Mutex};

/// When what was recorded is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommitStrategy {
    /// With each record.
    #[default]
    Auto,
    /// With the `n`th, 2`n`th ... record **of its source**; see [`OffsetTracker::commit_interval`] and
    /// [`OffsetTracker::commit_in_background`] for the time.
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

/// Tracks sources over an [`OffsetStore`]. `Send + Sync`; threads may share one, and then share its commits: what is
/// due while one is on its way goes with the next, in one step.
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
    state: Mutex<State>,
    /// The turn is free, or something was committed.
    turned: Condvar,
}

#[derive(Default)]
struct State {
    sources: BTreeMap<String, Source>,
    /// Somebody has the turn to tell the store.
    is_taken: bool,
    /// Numbers what is recorded.
    changes: u64,
    /// How often a source was reset or forgotten.
    resets: u64,
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
    /// The number of the last record.
    recorded: u64,
    /// Records up to this number are committed.
    committed: u64,
    /// Somebody waits for its commit.
    is_wanted: bool,
}

/// What one commit is to make of sources, each with the number of the record it is.
type Wanted = BTreeMap<String, (Offset, u64)>;

impl<S: OffsetStore> OffsetTracker<S> {
    /// Commits each record.
    pub fn new(store: S) -> OffsetTracker<S> {
        OffsetTracker::with_strategy(store, CommitStrategy::Auto)
    }

    /// Commits as `strategy` says.
    pub fn with_strategy(store: S, strategy: CommitStrategy) -> OffsetTracker<S> {
        let (reset_policy, out_of_range) = (OffsetResetPolicy::default(), OutOfRangePolicy::default());
        let (clock, state, turned) = (SystemClock::shared(), Mutex::default(), Condvar::new());
        OffsetTracker { store, strategy, reset_policy, out_of_range, interval: None, clock, state, turned }
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
    /// nothing comes; or else by a thread: [`OffsetTracker::commit_in_background`].
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
        if let Some(Source { pending: Some(pending), .. }) = self.state.lock().sources.get(source) {
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
    /// The store is asked each time ([`OffsetStore::peek`]), since others may have committed through it: a map in
    /// memory, a row of a store, the identity of one file, or the bytes of a small one; never a sync.
    ///
    /// # Errors
    /// `InvalidOffset`: lower than what was recorded before, or committed by anybody, or no place; nothing has changed.
    /// Those of the store: where it cannot say what is committed nothing has changed; where the commit failed it is
    /// recorded, and committed by a later call.
    pub fn record(&self, source: &str, next: Offset) -> Result<(), OffsetError> {
        if let Some(number) = self.note(source, next)? {
            self.settle(BTreeMap::from([(source.to_owned(), number)]))?;
        }
        self.commit_due()
    }

    /// Records; gives the number of the record if it is to be committed.
    fn note(&self, source: &str, next: Offset) -> Result<Option<u64>, OffsetError> {
        loop {
            let seen = {
                let state = self.state.lock();
                if let Some(Source { pending: Some(pending), .. }) = state.sources.get(source) {
                    advance(source, Some(pending), &next)?;
                }
                state.seen(source)
            };
            let stored = self.store.peek(source)?;
            let mut state = self.state.lock();
            // What was pending then is pending still, or it is what was committed.
            if state.seen(source) == seen {
                advance(source, stored.as_ref(), &next)?;
                return Ok(self.is_recorded(&mut state, source, next));
            }
            // Somebody was faster, and may have recorded or committed more.
        }
    }

    fn is_recorded(&self, state: &mut State, source: &str, next: Offset) -> Option<u64> {
        state.changes += 1;
        let number = state.changes;
        let known = state.sources.entry(source.to_owned()).or_default();
        if known.pending.is_none() {
            known.since = self.clock.monotonic();
        }
        (known.pending, known.recorded) = (Some(next), number);
        known.count += 1;
        let due = match self.strategy {
            CommitStrategy::Auto => true,
            CommitStrategy::Periodic(records) => known.count >= records.max(1),
            CommitStrategy::Manual => false,
        };
        if due {
            known.count = 0;
        }
        due.then_some(number)
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

    pub(super) fn strategy(&self) -> CommitStrategy {
        self.strategy
    }

    /// How long it is until something is due; `None` where nothing is pending.
    pub(super) fn until_due(&self) -> Option<Duration> {
        let (interval, now) = (self.interval?, self.clock.monotonic());
        let state = self.state.lock();
        let pending = state.sources.values().filter(|known| known.pending.is_some());
        pending.map(|known| known.since.saturating_add(interval).saturating_sub(now)).min()
    }

    /// Commits what is pending of a source; does nothing if there is nothing.
    ///
    /// # Errors
    /// `InvalidOffset`: somebody else has committed more through the store. Those of the store; it stays pending.
    pub fn commit(&self, source: &str) -> Result<(), OffsetError> {
        let pending = self.state.lock().pending(|name, _| name == source);
        self.settle(pending)
    }

    /// Commits what is pending of all sources, in one step.
    ///
    /// # Errors
    /// As [`OffsetTracker::commit`].
    pub fn commit_all(&self) -> Result<(), OffsetError> {
        self.commit_those(|_| true)
    }

    fn commit_those(&self, which: impl Fn(&Source) -> bool) -> Result<(), OffsetError> {
        let pending = self.state.lock().pending(|_, known| which(known));
        self.settle(pending)
    }

    /// Waits until the records of these numbers are committed: by somebody who has the turn, or with all that others
    /// wait for by then, by this caller.
    fn settle(&self, mut records: BTreeMap<String, u64>) -> Result<(), OffsetError> {
        loop {
            let (turn, wanted) = {
                let mut state = self.state.lock();
                loop {
                    records.retain(|source, number| state.want(source, *number));
                    if records.is_empty() {
                        return Ok(());
                    }
                    if !state.is_taken {
                        break;
                    }
                    state = self.turned.wait(state);
                }
                (Turn::take(self, &mut state), state.take_wanted())
            };
            let mut refused = self.tell_store(&wanted)?;
            let mut state = self.state.lock();
            for (source, (_, number)) in wanted.iter().filter(|(source, _)| !refused.contains_key(*source)) {
                state.is_committed(source, *number);
            }
            drop(state);
            drop(turn);
            // What others waited for they try themselves, and are told.
            if let Some(refusal) = records.keys().find_map(|source| refused.remove(source)) {
                return Err(refusal);
            }
        }
    }

    /// Commits in one step; where that is refused, since somebody else has overtaken one of them through the store,
    /// each by itself. Gives what was refused then.
    fn tell_store(&self, wanted: &Wanted) -> Result<BTreeMap<String, OffsetError>, OffsetError> {
        if wanted.len() > 1 {
            let offsets = wanted.iter().map(|(source, (offset, _))| (source.clone(), offset.clone()));
            match self.store.commit_all(&offsets.collect()) {
                Ok(_) => return Ok(BTreeMap::new()),
                Err(OffsetError::InvalidOffset(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let each = wanted.iter().map(|(source, (offset, _))| (source, self.store.commit(source, offset)));
        Ok(each.filter_map(|(source, told)| Some((source.clone(), told.err()?))).collect())
    }

    /// Sets a source, back or forth, and drops what was pending for it.
    ///
    /// # Errors
    /// As [`OffsetStore::reset`]; then nothing is dropped.
    pub fn reset(&self, source: &str, offset: Offset) -> Result<(), OffsetError> {
        self.alone(source, || self.store.reset(source, &offset))
    }

    /// Forgets a source, and what was pending for it.
    ///
    /// # Errors
    /// As [`OffsetStore::clear`]; then nothing is dropped.
    pub fn clear(&self, source: &str) -> Result<(), OffsetError> {
        self.alone(source, || self.store.clear(source))
    }

    /// Tells the store when nobody else does, and forgets what is known of the source.
    fn alone<T>(&self, source: &str, tell: impl FnOnce() -> Result<T, OffsetError>) -> Result<(), OffsetError> {
        let _turn = {
            let mut state = self.state.lock();
            while state.is_taken {
                state = self.turned.wait(state);
            }
            Turn::take(self, &mut state)
        };
        tell()?;
        let mut state = self.state.lock();
        state.resets += 1;
        state.sources.remove(source);
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
        let state = self.state.lock();
        state.sources.iter().filter_map(|(source, known)| Some((source.clone(), known.pending.clone()?))).collect()
    }

    /// Commits what is pending, unless the strategy is [`CommitStrategy::Manual`], and ends. Dropping does the same,
    /// and logs what goes wrong.
    ///
    /// # Errors
    /// As [`OffsetTracker::commit`].
    pub fn close(self) -> Result<(), OffsetError> {
        self.end()
    }

    /// What is left behind is not tried again when it is dropped.
    pub(super) fn end(&self) -> Result<(), OffsetError> {
        let closed = self.shut();
        self.state.lock().sources.clear();
        closed
    }

    fn shut(&self) -> Result<(), OffsetError> {
        match self.strategy {
            CommitStrategy::Manual => Ok(()),
            CommitStrategy::Auto | CommitStrategy::Periodic(_) => self.commit_all(),
        }
    }
}

impl State {
    /// What changes with each record, commit or reset of the source.
    fn seen(&self, source: &str) -> (u64, u64) {
        (self.resets, self.sources.get(source).map_or(0, |known| known.recorded))
    }

    /// The numbers of the records that are pending.
    fn pending(&self, which: impl Fn(&str, &Source) -> bool) -> BTreeMap<String, u64> {
        let pending = self.sources.iter().filter(|(source, known)| known.pending.is_some() && which(source, known));
        pending.map(|(source, known)| (source.clone(), known.recorded)).collect()
    }

    /// Notes that somebody waits for the commit of the record; `false`: it is committed, or dropped by a reset.
    fn want(&mut self, source: &str, number: u64) -> bool {
        match self.sources.get_mut(source) {
            Some(known) if known.committed < number => {
                known.is_wanted = true;
                true
            }
            _ => false,
        }
    }

    fn take_wanted(&mut self) -> Wanted {
        let wanted = |(source, known): (&String, &mut Source)| {
            let pending = std::mem::take(&mut known.is_wanted).then(|| known.pending.clone()).flatten()?;
            Some((source.clone(), (pending, known.recorded)))
        };
        self.sources.iter_mut().filter_map(wanted).collect()
    }

    /// The record is committed, and all before it; what was recorded since stays pending.
    fn is_committed(&mut self, source: &str, number: u64) {
        if let Some(known) = self.sources.get_mut(source) {
            known.committed = number;
            if known.recorded == number {
                known.pending = None;
            }
        }
    }
}

/// The turn to tell the store, given back when it is dropped; also by a panic of the store.
struct Turn<'t, S: OffsetStore>(&'t OffsetTracker<S>);

impl<'t, S: OffsetStore> Turn<'t, S> {
    fn take(tracker: &'t OffsetTracker<S>, state: &mut State) -> Turn<'t, S> {
        state.is_taken = true;
        Turn(tracker)
    }
}

impl<S: OffsetStore> Drop for Turn<'_, S> {
    fn drop(&mut self) {
        self.0.state.lock().is_taken = false;
        self.0.turned.notify_all();
    }
}

impl<S: OffsetStore> Drop for OffsetTracker<S> {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "offsets that were pending are not committed");
        }
    }
}
