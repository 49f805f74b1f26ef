//! When checkpoints are taken, what is in them, and going on from one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::operator::{CheckpointOperator, call};
use super::state::{CheckpointId, CheckpointState, time_of_ms};
use super::store::{CheckpointStore, DamagedCheckpoint, LatestCheckpoint};
use crate::clock::{Clock, SystemClock};
use crate::error::{Error, Result};
use crate::offsets::{self, Offset};
use crate::wake::{Arc, Mutex, MutexGuard};

/// Takes checkpoints of streams, each by its own distance and time, and brings a stream back to its newest good one.
/// `Send + Sync`; threads may share one, and the streams do not wait for each other.
///
/// Once: register the operators, then [`recover`](CheckpointManager::recover), which says where to go on. Then for each
/// event: process it, with all operators; then [`on_event`](CheckpointManager::on_event), on the same thread or in the
/// same order.
///
/// ```
/// use std::sync::Arc;
/// use oncelog::{CheckpointManager, InMemoryCheckpointStore, OperatorState};
/// # fn main() -> oncelog::Result<()> {
/// let store = Arc::new(InMemoryCheckpointStore::new(3));
/// for life in 0..2 {
///     let sum = Arc::new(OperatorState::<u64>::default());
///     let manager = CheckpointManager::new(Arc::clone(&store), 100);
///     manager.register("orders", "sum", Arc::clone(&sum))?;
///     let next = match manager.recover("orders")? {
///         Some(recovered) => recovered.next.expect("there is always more"),
///         None => 1,
///     };
///     assert_eq!(next, if life == 0 { 1 } else { 201 });
///     assert_eq!(sum.with(|sum| *sum), (1..next).sum::<u64>());
///     for sequence in next..=250 {
///         sum.with(|sum| *sum += sequence);
///         manager.on_event("orders", sequence, sequence * 1_000)?;
///     }
///     // The process ends here without a word: what came behind 200 is processed again.
/// }
/// # Ok(())
/// # }
/// ```
pub struct CheckpointManager<S: CheckpointStore> {
    store: S,
    interval: u64,
    time_interval: Option<Duration>,
    clock: Arc<dyn Clock>,
    streams: Mutex<BTreeMap<String, Arc<Mutex<Stream>>>>,
}

/// What is known of a stream. Its lock is held while operators and the store are called for it, so that a checkpoint is
/// of one moment.
#[derive(Default)]
struct Stream {
    operators: BTreeMap<String, Arc<dyn CheckpointOperator>>,
    /// `None` until the stream is recovered, or its first event finds that there is nothing to recover.
    now: Option<Now>,
    /// Whether an attempt to recover failed: operators may be at different places.
    is_broken: bool,
    taken: u64,
}

impl Stream {
    /// Puts the stream elsewhere; until that has been done once, it is nowhere.
    fn put<R>(&mut self, put: impl FnOnce(&mut Stream) -> Result<R>) -> Result<R> {
        (self.now, self.is_broken) = (None, true);
        let done = put(self)?;
        self.is_broken = false;
        Ok(done)
    }
}

/// Where a stream is.
struct Now {
    /// What the next checkpoint says, but for the operators that are registered.
    state: CheckpointState,
    /// The last event.
    last: Option<u64>,
    /// From which sequence the distance is counted.
    base: u64,
    /// Since when the time is counted.
    since: Duration,
    /// Whether something has come since the last checkpoint.
    is_ahead: bool,
}

impl Now {
    /// Something was set. Before the first event there is no checkpoint for it: it would say that one is included.
    fn has_changed(&mut self) {
        self.is_ahead = self.last.is_some();
    }
}

/// Where a stream goes on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Recovered {
    /// The checkpoint.
    pub state: CheckpointState,
    /// The last event that is included.
    pub last: u64,
    /// The next to process; `None` behind the last there can be.
    pub next: Option<u64>,
    /// Newer checkpoints that could not be read, the newest first.
    pub damaged: Vec<DamagedCheckpoint>,
    /// Registered operators of which the checkpoint says nothing: they begin anew.
    pub new_operators: Vec<String>,
    /// Operators of which it says something and that are not registered. Their state is carried along in the next
    /// checkpoints, until [`CheckpointManager::forget_operator`].
    pub unclaimed: Vec<String>,
}

impl<S: CheckpointStore> CheckpointManager<S> {
    /// Takes a checkpoint of a stream whenever its sequence has come `interval` further; 0 is never, which leaves the
    /// time and [`CheckpointManager::checkpoint`].
    pub fn new(store: S, interval: u64) -> CheckpointManager<S> {
        let (clock, streams) = (SystemClock::shared(), Mutex::default());
        CheckpointManager { store, interval, time_interval: None, clock, streams }
    }

    /// Takes a checkpoint also when so long has passed since the last one and something has come. Looked at by every
    /// [`CheckpointManager::on_event`] of that stream, and by [`CheckpointManager::checkpoint_due`], to be called while
    /// nothing comes.
    #[must_use]
    pub fn time_interval(mut self, interval: Duration) -> CheckpointManager<S> {
        self.time_interval = Some(interval);
        self
    }

    /// Sets where the time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> CheckpointManager<S> {
        self.clock = clock;
        self
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Has an operator's state in every checkpoint of a stream.
    ///
    /// # Errors
    /// `Invalid`: the stream is under way, so its state would lack what came before; or there is one of that name.
    pub fn register(
        &self,
        stream: &str,
        operator: impl Into<String>,
        state: impl CheckpointOperator + 'static,
    ) -> Result<()> {
        let (entry, name) = (self.entry(stream), operator.into());
        let mut entry = entry.lock();
        if entry.now.is_some() {
            let what = format!("stream {stream:?} is under way: register operator {name:?} before it is recovered");
            return Err(Error::invalid(what));
        }
        if entry.operators.contains_key(&name) {
            return Err(Error::invalid(format!("stream {stream:?} has an operator {name:?} already")));
        }
        entry.operators.insert(name, Arc::new(state));
        Ok(())
    }

    /// Brings a stream back to its newest good checkpoint: its operators are restored, and its schedule goes on from
    /// there. `None`: there is no checkpoint, and the operators are at their beginning. Also after a failure in the
    /// middle, to process again from there.
    ///
    /// # Errors
    /// As [`CheckpointStore::latest`], and `User`: an operator failed. The stream does not go on until it is recovered.
    pub fn recover(&self, stream: &str) -> Result<Option<Recovered>> {
        let entry = self.entry(stream);
        let mut entry = entry.lock();
        entry.put(|entry| match self.store.latest(stream)? {
            Some(latest) => self.adopt(entry, latest).map(Some),
            None => {
                entry.operators.iter().try_for_each(|(name, operator)| restore(name, &**operator, None))?;
                entry.now = Some(self.beginning(stream));
                Ok(None)
            }
        })
    }

    /// Takes a stream back to the checkpoint at `sequence`, or the newest good one before, on a new line: see
    /// [`CheckpointStore::rewind`]. Operators and schedule are as after [`CheckpointManager::recover`].
    ///
    /// # Errors
    /// As [`CheckpointStore::rewind`] and [`CheckpointManager::recover`].
    pub fn rewind(&self, stream: &str, sequence: u64) -> Result<Recovered> {
        let entry = self.entry(stream);
        let mut entry = entry.lock();
        let found = self.store.rewind(stream, sequence)?;
        entry.put(|entry| self.adopt(entry, found))
    }

    /// Counts an event that was processed, and takes a checkpoint if one is due: `true`. A watermark that goes back is
    /// ignored, as events out of order have one.
    ///
    /// # Errors
    /// `Invalid`: the sequence does not rise (after a rewind of the source, [`CheckpointManager::rewind`]), or the
    /// stream has checkpoints and was not recovered: the event is not counted. Else no checkpoint could be taken, for
    /// the reasons of [`CheckpointStore::save`] or because an operator failed (`User`); the event is counted, and the
    /// next one tries again.
    pub fn on_event(&self, stream: &str, sequence: u64, watermark_ns: u64) -> Result<bool> {
        let entry = self.entry(stream);
        let mut entry = entry.lock();
        let now = self.begun(&mut entry, stream)?;
        if let Some(last) = now.last.filter(|last| sequence <= *last) {
            let what = format!("stream {stream:?}: sequence {sequence} comes after {last}; only a rewind goes back");
            return Err(Error::invalid(what));
        }
        if now.last.is_none() {
            now.base = sequence.saturating_sub(1);
            now.since = self.clock.monotonic();
        }
        now.last = Some(sequence);
        now.is_ahead = true;
        now.state.id.sequence = sequence;
        now.state.event_count = now.state.event_count.saturating_add(1);
        now.state.watermark_ns = now.state.watermark_ns.max(watermark_ns);
        let is_far = self.interval > 0 && sequence - now.base >= self.interval;
        if is_far || self.is_late(now) {
            return self.take(&mut entry).map(|()| true);
        }
        Ok(false)
    }

    /// Takes a checkpoint now; `false` where nothing has come since the last one.
    ///
    /// # Errors
    /// As [`CheckpointManager::on_event`].
    pub fn checkpoint(&self, stream: &str) -> Result<bool> {
        self.checkpoint_if(&self.entry(stream), |_| true)
    }

    /// Takes the checkpoints for which it is time; gives how many.
    ///
    /// # Errors
    /// The first error; the other streams have been seen to.
    pub fn checkpoint_due(&self) -> Result<u64> {
        self.checkpoint_each(|now| self.is_late(now))
    }

    /// Takes a last checkpoint of each stream that is ahead of its last one; gives how many. For an orderly end.
    ///
    /// # Errors
    /// As [`CheckpointManager::checkpoint_due`].
    pub fn close(self) -> Result<u64> {
        self.checkpoint_each(|_| true)
    }

    /// How many checkpoints of a stream this manager has taken.
    #[must_use]
    pub fn total_checkpoints(&self, stream: &str) -> u64 {
        self.entry(stream).lock().taken
    }

    /// How many events of a stream there were, those before this process included.
    #[must_use]
    pub fn event_count(&self, stream: &str) -> u64 {
        self.entry(stream).lock().now.as_ref().map_or(0, |now| now.state.event_count)
    }

    /// Sets what to read next of a source: part of the next checkpoints. Set it before the
    /// [`on_event`](CheckpointManager::on_event) of the event behind which it points: that call may take a checkpoint,
    /// which then says where the operators are. What is set behind it is part of the one after; a stream
    /// is ahead then, also if nothing else comes, so [`close`](CheckpointManager::close) takes a last one.
    ///
    /// # Errors
    /// `Invalid`: it would go back, or is a policy and no place; or as [`CheckpointManager::on_event`].
    pub fn set_source_offset(&self, stream: &str, source: &str, next: impl Into<Offset>) -> Result<()> {
        let (entry, next) = (self.entry(stream), next.into());
        let mut entry = entry.lock();
        let now = self.begun(&mut entry, stream)?;
        offsets::advance(source, now.state.source_offsets.get(source), &next)?;
        now.state.set_source_offset(source, next);
        now.has_changed();
        Ok(())
    }

    /// Sets a text: part of the next checkpoints. When: as with [`CheckpointManager::set_source_offset`].
    ///
    /// # Errors
    /// As [`CheckpointManager::on_event`].
    pub fn set_metadata(&self, stream: &str, name: impl Into<String>, text: impl Into<String>) -> Result<()> {
        let entry = self.entry(stream);
        let mut entry = entry.lock();
        let now = self.begun(&mut entry, stream)?;
        now.state.metadata.insert(name.into(), text.into());
        now.has_changed();
        Ok(())
    }

    /// Sets the state of an operator that is not registered: part of the next checkpoints. When: as with
    /// [`CheckpointManager::set_source_offset`].
    ///
    /// # Errors
    /// `Invalid`: it is registered, and asked for its state; or as [`CheckpointManager::on_event`].
    pub fn set_operator_state(&self, stream: &str, operator: &str, state: Vec<u8>) -> Result<()> {
        let entry = self.entry(stream);
        let mut entry = entry.lock();
        if entry.operators.contains_key(operator) {
            return Err(Error::invalid(format!("stream {stream:?}: operator {operator:?} is asked for its state")));
        }
        let now = self.begun(&mut entry, stream)?;
        now.state.set_operator_state(operator, state);
        now.has_changed();
        Ok(())
    }

    /// Leaves an operator out of the next checkpoints; whether there was one.
    ///
    /// # Errors
    /// As [`CheckpointManager::on_event`].
    pub fn forget_operator(&self, stream: &str, operator: &str) -> Result<bool> {
        let entry = self.entry(stream);
        let mut entry = entry.lock();
        // What fails unregisters nothing.
        let state = self.begun(&mut entry, stream)?.state.operator_states.remove(operator);
        let was_there = entry.operators.remove(operator).is_some() || state.is_some();
        if let Some(now) = entry.now.as_mut().filter(|_| was_there) {
            now.has_changed();
        }
        Ok(was_there)
    }

    fn entry(&self, stream: &str) -> Arc<Mutex<Stream>> {
        Arc::clone(self.streams.lock().entry(stream.to_owned()).or_default())
    }

    /// Where the stream is; one that nobody recovered begins, if there is nothing to recover.
    fn begun<'e>(&self, entry: &'e mut MutexGuard<'_, Stream>, stream: &str) -> Result<&'e mut Now> {
        if entry.is_broken {
            let what = format!("stream {stream:?}: the last attempt to recover it failed; recover it first");
            return Err(Error::invalid(what));
        }
        if entry.now.is_none() && self.store.checkpoint_count(stream)? > 0 {
            let what = format!("stream {stream:?} has checkpoints: recover it first, or what they hold is lost");
            return Err(Error::invalid(what));
        }
        Ok(entry.now.get_or_insert_with(|| self.beginning(stream)))
    }

    fn beginning(&self, stream: &str) -> Now {
        let id = CheckpointId { stream_id: stream.to_owned(), sequence: 0, created_at: time_of_ms(0) };
        let since = self.clock.monotonic();
        Now { state: CheckpointState::new(id), last: None, base: 0, since, is_ahead: false }
    }

    /// Goes on from a checkpoint.
    fn adopt(&self, entry: &mut Stream, latest: LatestCheckpoint) -> Result<Recovered> {
        let LatestCheckpoint { state, damaged } = latest;
        for (name, operator) in &entry.operators {
            restore(name, &**operator, state.operator_states.get(name).map(Vec::as_slice))?;
        }
        let (names, held) = (&entry.operators, &state.operator_states);
        let new_operators = names.keys().filter(|name| !held.contains_key(*name)).cloned().collect();
        let unclaimed = held.keys().filter(|name| !names.contains_key(*name)).cloned().collect();
        let (last, since) = (state.id.sequence, self.clock.monotonic());
        entry.now = Some(Now { state: state.clone(), last: Some(last), base: last, since, is_ahead: false });
        Ok(Recovered { state, last, next: last.checked_add(1), damaged, new_operators, unclaimed })
    }

    fn is_late(&self, now: &Now) -> bool {
        let passed = self.clock.monotonic().saturating_sub(now.since);
        now.is_ahead && self.time_interval.is_some_and(|interval| passed >= interval)
    }

    /// Takes a checkpoint of a stream that is under way.
    fn take(&self, entry: &mut Stream) -> Result<()> {
        let Stream { operators, now: Some(now), taken, .. } = entry else { return Ok(()) };
        for (name, operator) in operators.iter() {
            let state = call(name, "say its state", || operator.snapshot())?;
            now.state.set_operator_state(name.clone(), state);
        }
        now.state.id.created_at = time_of_ms(self.clock.now_ms());
        self.store.save(&now.state)?;
        now.base = now.state.id.sequence;
        now.since = self.clock.monotonic();
        now.is_ahead = false;
        *taken += 1;
        Ok(())
    }

    fn checkpoint_if(&self, entry: &Mutex<Stream>, is_due: impl Fn(&Now) -> bool) -> Result<bool> {
        let mut entry = entry.lock();
        let is_due = entry.now.as_ref().is_some_and(|now| now.is_ahead && is_due(now));
        if is_due {
            self.take(&mut entry)?;
        }
        Ok(is_due)
    }

    fn checkpoint_each(&self, is_due: impl Fn(&Now) -> bool) -> Result<u64> {
        let entries: Vec<_> = self.streams.lock().values().cloned().collect();
        let (mut count, mut first_error) = (0, None);
        for entry in entries {
            match self.checkpoint_if(&entry, &is_due) {
                Ok(taken) => count += u64::from(taken),
                Err(error) => drop(first_error.get_or_insert(error)),
            }
        }
        first_error.map_or(Ok(count), Err)
    }
}

fn restore(name: &str, operator: &dyn CheckpointOperator, state: Option<&[u8]>) -> Result<()> {
    call(name, "take its state", || operator.restore(state))
}
