//! A processor on its threads: each drives a task over its share of the partitions, and one handle is told of all.
//!
//! Invariants: the end of one thread is the end of all, in order: each commits what it has done with. The first error
//! is kept until somebody is told, once. When a handle says that it is finished, its name is free.

use std::collections::BTreeMap;
use std::time::Duration;

use super::processor::ProcessorTask;
use super::progress::{Positions, Progress};
use super::record::RecordRef;
use super::tx::Tx;
use super::worker::{End, InputName};
use crate::codec::Codec;
use crate::consumer::{GapPolicy, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::transaction::Engine;
use crate::wake::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering, Signal, Thread, spawn};

/// Woken by appends and by stop; this only bounds the harm of a wake-up that is lost to a bug.
const WAIT_MAX: Duration = Duration::from_secs(1);
/// So often one looks at progress that other processes make too.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// So long nothing is tried while an output is full.
const FULL_WAIT: Duration = Duration::from_millis(100);

/// A processor that runs on threads. Dropping the handle stops it as [`ProcessorHandle::stop`] does, telling no error.
pub struct ProcessorHandle {
    shared: Arc<Shared>,
    threads: Vec<Thread<()>>,
    inputs: Arc<[InputName]>,
    progress: Vec<Arc<Progress>>,
}

/// Where a processor stands in one partition of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartitionProgress {
    /// The input's name.
    pub topic: String,
    /// The partition.
    pub partition: PartitionId,
    /// The next offset to be processed: all before it is processed and durable.
    pub next: LogOffset,
    /// The offset behind the last durable record.
    pub end: LogOffset,
}

impl PartitionProgress {
    /// How many records are there and not yet processed.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.end.0.saturating_sub(self.next.0)
    }
}

struct Shared {
    /// The processor's.
    name: String,
    engine: Arc<dyn Engine>,
    stop: AtomicBool,
    running: AtomicUsize,
    error: Mutex<Option<Error>>,
    /// Raised with each commit that is answered, and with the end.
    moved: Arc<Signal>,
}

/// Starts a thread for each of the tasks.
pub(super) fn start<K, V, F>(
    name: &str,
    engine: Arc<dyn Engine>,
    tasks: Vec<ProcessorTask<K, V, F>>,
    gaps: GapPolicy,
    moved: Arc<Signal>,
) -> Result<ProcessorHandle>
where
    K: Codec,
    V: Codec,
    F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome> + Send + 'static,
    ProcessorTask<K, V, F>: Send + 'static,
{
    let inputs = tasks.first().map(ProcessorTask::inputs).unwrap_or_default();
    let progress = tasks.iter().map(ProcessorTask::progress).collect();
    let (stop, running, error) = (AtomicBool::new(false), AtomicUsize::new(tasks.len()), Mutex::new(None));
    let shared = Arc::new(Shared { name: name.to_owned(), engine, stop, running, error, moved });
    // If a thread is not to be had, dropping the handle ends those that run.
    let mut handle = ProcessorHandle { shared, threads: Vec::new(), inputs, progress };
    for (number, task) in tasks.into_iter().enumerate() {
        let mut end = EndOfAll { shared: Arc::clone(&handle.shared), orderly: false };
        // No thread can have a NUL in its name.
        let name = format!("oncelog-{name}-{number}").replace('\0', "\u{fffd}");
        let thread = spawn(name, move || end.drive(task, gaps))
            .map_err(|error| Error::new(ErrorKind::Unavailable, "no thread for the processor").because(error))?;
        handle.threads.push(thread);
    }
    Ok(handle)
}

/// Held by a thread: when it goes, also by a panic, all end.
struct EndOfAll {
    shared: Arc<Shared>,
    orderly: bool,
}

impl EndOfAll {
    fn drive<K, V, F>(&mut self, task: ProcessorTask<K, V, F>, gaps: GapPolicy)
    where
        K: Codec,
        V: Codec,
        F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    {
        // The task is dropped on return, and with it this thread's part of the claim on the name.
        self.shared.run(task, gaps);
        self.orderly = true;
    }
}

impl Drop for EndOfAll {
    fn drop(&mut self) {
        if !self.orderly {
            self.shared.fail(Error::new(ErrorKind::Closed, "a thread of the processor panicked"));
        }
        self.shared.running.fetch_sub(1, Ordering::SeqCst);
        self.shared.stop();
    }
}

impl Shared {
    /// Drives the task until somebody says stop.
    fn run<K, V, F>(&self, mut task: ProcessorTask<K, V, F>, gaps: GapPolicy)
    where
        K: Codec,
        V: Codec,
        F: FnMut(RecordRef<'_, K, V>, &mut Tx<'_>) -> Result<Outcome>,
    {
        let stop = || self.stop.load(Ordering::SeqCst);
        while !stop() {
            let ran = match task.run(None, &stop) {
                Err(error) if error.kind() == ErrorKind::Gap && gaps == GapPolicy::Skip => {
                    tracing::warn!(%error, "a processor goes on behind records that are lost");
                    task.skip_gap().map(|()| End::Counted)
                }
                ran => ran.map(|(_, end)| end),
            };
            match ran {
                // An output is full: what was not committed is processed again.
                Err(error) if error.kind() == ErrorKind::TopicFull => self.moved.wait_until(FULL_WAIT, &stop),
                Ok(End::Broken) => return,
                Ok(End::Drained) => task.wait(WAIT_MAX, &stop),
                Ok(End::Counted | End::Stopped | End::Again) => {}
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Keeps the error to be told. One that says no more than that the store has ended gives way to its reason.
    fn fail(&self, error: Error) {
        let mut kept = self.error.lock();
        if kept.as_ref().is_none_or(|kept| kept.kind() == ErrorKind::Closed) {
            *kept = Some(error);
        }
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.engine.wake();
        self.moved.raise();
    }
}

impl ProcessorHandle {
    /// Records processed and durable since the start, those that were skipped or given up included.
    #[must_use]
    pub fn processed(&self) -> u64 {
        self.progress.iter().map(|progress| progress.processed()).sum()
    }

    /// Records that went to the dead-letter topic, durably, since the start.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.progress.iter().map(|progress| progress.dead_letters()).sum()
    }

    /// Where it stands in each partition of its inputs, now; on an engine that spreads it over processes, all of them.
    ///
    /// # Errors
    /// `NotFound`: an input is gone; `Unavailable`: the cluster cannot be asked.
    pub fn progress(&self) -> Result<Vec<PartitionProgress>> {
        let ends = self.ends()?;
        let mut all = Vec::with_capacity(ends.len());
        for (topic, partition, next) in self.positions()? {
            if let Some(input) = self.inputs.iter().find(|input| input.topic == topic)
                && let Some(end) = ends.get(&(topic, partition))
            {
                all.push(PartitionProgress { topic: input.name.clone(), partition, next, end: *end });
            }
        }
        all.sort_by(|one, other| (&one.topic, one.partition).cmp(&(&other.topic, other.partition)));
        Ok(all)
    }

    /// Records that are there and not yet processed, now.
    ///
    /// # Errors
    /// `NotFound`: an input is gone.
    pub fn lag(&self) -> Result<u64> {
        Ok(self.progress()?.iter().map(PartitionProgress::lag).sum())
    }

    /// Waits until every record that is there at the call is processed and durable; `false` if that takes longer than
    /// `timeout`, or never comes because the processor has ended by [`Outcome::Break`].
    ///
    /// # Errors
    /// What the processor has ended with, if it has: [`ProcessorHandle::stop`] does not tell it again.
    pub fn wait_caught_up(&self, timeout: Duration) -> Result<bool> {
        let engine = &self.shared.engine;
        let goal = self.ends()?;
        let deadline = engine.monotonic().saturating_add(timeout);
        loop {
            // Asked before the goal is looked at: what was done with before the end counts.
            let finished = self.is_finished();
            let shared = self.shared_positions()?;
            if shared.as_ref().map_or_else(|| self.has_reached(&goal), |all| reach(all.iter().copied(), &goal)) {
                return Ok(true);
            }
            if finished {
                return self.shared.error.lock().take().map_or(Ok(false), Err);
            }
            let left = deadline.saturating_sub(engine.monotonic());
            if left.is_zero() {
                return Ok(false);
            }
            let moved = &self.shared.moved;
            match shared {
                Some(_) => moved.wait_until(left.min(LOOK_EVERY), || self.is_finished()),
                None => moved.wait_until(left.min(WAIT_MAX), || self.is_finished() || self.has_reached(&goal)),
            }
        }
    }

    /// Whether it has ended by itself: with an error, which [`ProcessorHandle::stop`] tells, or by [`Outcome::Break`].
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shared.running.load(Ordering::SeqCst) == 0
    }

    /// Ends it after the records at hand, which are taken back if they ask for a retry, and gives what it ended with.
    /// What was done with is durable on return, and the name is free.
    ///
    /// # Errors
    /// What stopped it, if it had stopped by itself: see [`ProcessorTask::step`].
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.shared.stop();
        for thread in self.threads.drain(..) {
            // A panic was kept as an error when it passed.
            let _ = thread.join();
        }
        self.shared.error.lock().take().map_or(Ok(()), Err)
    }

    fn ends(&self) -> Result<Ends> {
        let mut ends = BTreeMap::new();
        for input in &*self.inputs {
            let of_topic = self.shared.engine.ends(input.topic)?;
            ends.extend((0..).zip(of_topic).map(|(number, end)| ((input.topic, PartitionId(number)), end)));
        }
        Ok(ends)
    }

    fn positions(&self) -> Result<Positions> {
        Ok(self.shared_positions()?.unwrap_or_else(|| self.own_positions().collect()))
    }

    fn own_positions(&self) -> impl Iterator<Item = (TopicId, PartitionId, LogOffset)> + '_ {
        self.progress.iter().flat_map(|progress| progress.positions())
    }

    /// Where all stand that run the processor, if others may.
    fn shared_positions(&self) -> Result<Option<Positions>> {
        let mut all = Vec::new();
        for InputName { topic, .. } in &*self.inputs {
            let Some(nexts) = self.shared.engine.shared_progress(&self.shared.name, *topic)? else { return Ok(None) };
            all.extend((0..).zip(nexts).map(|(number, next)| (*topic, PartitionId(number), next)));
        }
        Ok(Some(all))
    }

    fn has_reached(&self, goal: &Ends) -> bool {
        reach(self.own_positions(), goal)
    }
}

/// The offsets behind the last records, by partition.
type Ends = BTreeMap<(TopicId, PartitionId), LogOffset>;

fn reach(mut positions: impl Iterator<Item = (TopicId, PartitionId, LogOffset)>, goal: &Ends) -> bool {
    positions.all(|(topic, partition, next)| goal.get(&(topic, partition)).is_none_or(|end| next >= *end))
}

impl Drop for ProcessorHandle {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a processor had stopped");
        }
    }
}
