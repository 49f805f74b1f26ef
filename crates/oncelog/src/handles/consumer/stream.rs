//! Consumers for tasks: a stream of records, and a function that may await.
//!
//! ```text
//! poll -- is the step past the record before on its way to the disk? --> woken when it is answered
//!      \- is there a record?                                         --> woken by news
//! ```
//!
//! Invariants: a step past a record that has its place stands in `passing` until it is answered, whoever drops the
//! future that waits for it; every other use of the handle waits for it first. A record that has no such step is handed
//! out again. A waker is forgotten with the future that gave it. Only a partition whose next record waits for another
//! attempt is held back, and only for as long as a turn takes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_core::Stream;

use super::{AtHand, Consumer, ConsumerOptions, Reading, ends_for_good};
use crate::codec::Codec;
use crate::consumer::{Attempts, Ended, Outcome, Rules, Verdict};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::dead_letter::{self, DeadLetters, Obituary, Room};
use crate::handles::group::text_of;
use crate::handles::tx::{Bindings, Tx};
use crate::handles::worker::hold_back;
use crate::record::{Header, Record};
use crate::transaction::{Engine, EngineTx, NewRecord, PendingCommit, Source};
use crate::wake::{Arc, Condvar, Mutex, spawn};

/// How often in a row a record's transaction is lost to others before it is told.
const LOST_MAX: u32 = 10_000;

/// A poll looks so often for records before it lets other tasks run.
const LOOKS: u32 = 3;

/// What a consumer keeps for its asynchronous forms.
pub(super) struct ForTasks {
    engine: Arc<dyn Engine>,
    rules: Rules,
    dead_letters: Option<DeadLetters>,
    consumer: String,
    passing: Option<Passing>,
    /// Records that are tried again.
    attempts: Attempts,
}

/// A step past a record that has its place and no answer yet.
struct Passing {
    pending: Box<dyn PendingCommit>,
    passed: AtHand,
}

impl ForTasks {
    pub(super) fn new(
        engine: &Arc<dyn Engine>,
        how: &ConsumerOptions,
        dead_letters: Option<DeadLetters>,
        consumer: &str,
    ) -> ForTasks {
        let rules = Rules { dead_letters: dead_letters.is_some(), ..how.rules };
        let (engine, consumer) = (Arc::clone(engine), consumer.to_owned());
        ForTasks { engine, rules, dead_letters, consumer, passing: None, attempts: Attempts::default() }
    }
}

impl<K: Codec, V: Codec> Consumer<K, V> {
    /// A stream of owned records that waits at the end of the log for more, woken by what is appended. Asking for the
    /// next record commits the one before, in the styles that remember, without holding up the thread. It ends when the
    /// store is closed, or taken over by another process, with the error.
    ///
    /// Dropping it leaves the consumer as an iterator would: the record that was handed out last is at hand, to be
    /// committed or taken back by [`Consumer::rewind`], unless the next was asked for already. None is lost and none is
    /// passed that was not handed out. Reading itself is done by the poll, from the page cache or the disk.
    ///
    /// ```
    /// # use oncelog::{Consumer, Record, U64, Utf8};
    /// use std::{future::poll_fn, pin::Pin};
    /// use futures_core::Stream;
    ///
    /// async fn first(consumer: &mut Consumer<Utf8, U64>) -> oncelog::Result<Option<Record>> {
    ///     let mut records = consumer.stream();
    ///     // `records.next().await` with the extension traits of the `futures` crate.
    ///     poll_fn(|context| Pin::new(&mut records).poll_next(context)).await.transpose()
    /// }
    /// ```
    pub fn stream(&mut self) -> RecordStream<'_, K, V> {
        RecordStream { consumer: self, closed: false }
    }

    /// As [`Consumer::process`] for a function that may await, with the record as its own: until `count_max` records
    /// are done with or the function answers [`Outcome::Break`]. A record's effects and the step past it are one
    /// commit, durable before the next record is handed out; `commit_records` plays no part.
    ///
    /// Dropping the future leaves the record at hand unprocessed: its effects are gone, it is the next one again, and
    /// the consumer may be used in any way. If its commit had its place already, the record is done with as a whole
    /// (or after a crash not at all), and whatever the consumer does next waits for that first.
    ///
    /// A record that asks for another attempt holds up its own partition; records of others come meanwhile. The pause
    /// is slept by a thread of its own.
    ///
    /// # Errors
    /// As [`Consumer::process`].
    ///
    /// ```
    /// # use oncelog::{Consumer, Outcome, TableDef, U64, Utf8};
    /// const BILLED: TableDef<Utf8, U64> = TableDef::new("billed");
    /// # async fn bill(_: &str) -> u64 { 1 }
    /// async fn bill_ten(orders: &mut Consumer<Utf8, U64>) -> oncelog::Result<u64> {
    ///     orders
    ///         .process_async(Some(10), async |record, tx| {
    ///             let Some(name) = record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok()) else {
    ///                 return Ok(Outcome::Skip);
    ///             };
    ///             let number = bill(name).await;
    ///             tx.table(BILLED)?.put(name, &number)?;
    ///             Ok(Outcome::Commit)
    ///         })
    ///         .await
    /// }
    /// ```
    pub async fn process_async<F>(&mut self, count_max: Option<u64>, mut process: F) -> Result<u64>
    where
        F: AsyncFnMut(Record, &mut Tx<'_>) -> Result<Outcome>,
    {
        let (mut bindings, mut rest) = (Bindings::default(), Rest::default());
        let mut done = 0;
        while count_max.is_none_or(|max| done < max) {
            let mut turn = Turn(&mut *self);
            let Some(record) = turn.record(&mut rest).await? else { continue };
            match turn.process(&record, &mut bindings, &mut process).await? {
                Left::Passed => {
                    turn.settled().await?;
                    done += 1;
                }
                Left::ForAnother => {}
                Left::Unprocessed => break,
            }
        }
        Ok(done)
    }

    /// Waits for the step that has its place, if one has.
    pub(super) fn settle(&mut self) -> Result<()> {
        let Some(Passing { pending, passed }) = self.tasks.passing.take() else { return Ok(()) };
        pending.wait()?;
        if let Reading::Remembered(worker) = &mut self.reading {
            worker.passed(passed.topic, passed.partition, passed.next);
        }
        Ok(())
    }

    fn poll_settled(&mut self, context: &Context<'_>) -> Poll<Result<()>> {
        if let Some(Passing { pending, .. }) = &self.tasks.passing
            && !pending.is_done()
            && pending.wake_when_done(context.waker())
        {
            return Poll::Pending;
        }
        Poll::Ready(self.settle())
    }

    /// Gives the step past what is at hand its place, with what is in `tx`. It stays at hand if that fails.
    fn submit_at_hand(&mut self, tx: Option<Box<dyn EngineTx>>) -> Result<()> {
        let Some(at_hand) = self.at_hand else { return Ok(()) };
        let pending = match (&self.reading, tx) {
            (Reading::Remembered(worker), tx) => {
                let tx = tx.map_or_else(|| self.tasks.engine.begin(), Ok)?;
                Some(worker.submit_pass(tx, at_hand.topic, at_hand.partition, at_hand.next)?)
            }
            (Reading::Plain(_), tx) => tx.map(EngineTx::submit).transpose()?,
        };
        self.at_hand = None;
        if let Some(pending) = pending {
            pending.hand_over();
            self.tasks.passing = Some(Passing { pending, passed: at_hand });
        }
        Ok(())
    }

    /// Gives the step over records that are lost at the end its place; `false` if there are none.
    fn submit_skipped(&mut self) -> Result<bool> {
        let Reading::Remembered(worker) = &self.reading else { return Ok(false) };
        let Some((topic, partition, next)) = worker.skipped() else { return Ok(false) };
        let pending = worker.submit_pass(self.tasks.engine.begin()?, topic, partition, next)?;
        pending.hand_over();
        self.tasks.passing = Some(Passing { pending, passed: AtHand { topic, partition, from: next, next } });
        Ok(true)
    }

    /// The next record, when what was at hand is durably done with.
    fn poll_record(&mut self, context: &Context<'_>) -> Poll<Result<Record>> {
        ready!(self.poll_settled(context))?;
        if self.at_hand.is_some() {
            self.submit_at_hand(None)?;
            ready!(self.poll_settled(context))?;
        }
        for _ in 0..LOOKS {
            if let Some(record) = self.next_there()? {
                self.reading.source().forget_waker();
                return Poll::Ready(Ok(record));
            }
            if self.submit_skipped()? {
                ready!(self.poll_settled(context))?;
            }
            if self.reading.source().wake_when_more(context.waker()) {
                return Poll::Pending;
            }
        }
        // News after each look, and nothing for us: others may run before we look again.
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A stream of records: see [`Consumer::stream`].
pub struct RecordStream<'c, K: Codec, V: Codec> {
    consumer: &'c mut Consumer<K, V>,
    closed: bool,
}

impl<K: Codec, V: Codec> Stream for RecordStream<'_, K, V> {
    type Item = Result<Record>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Record>>> {
        if self.closed {
            return Poll::Ready(None);
        }
        let record = ready!(self.consumer.poll_record(context));
        self.closed = record.as_ref().is_err_and(ends_for_good);
        Poll::Ready(Some(record))
    }
}

impl<K: Codec, V: Codec> Drop for RecordStream<'_, K, V> {
    fn drop(&mut self) {
        self.consumer.reading.source().forget_waker();
    }
}

/// The turn of one record. Whatever ends it before the step past the record has its place, the record is the next one
/// again.
struct Turn<'c, K: Codec, V: Codec>(&'c mut Consumer<K, V>);

/// How a turn leaves its record.
enum Left {
    /// The step past it has its place.
    Passed,
    /// It comes again, after a pause.
    ForAnother,
    /// As the function asked for.
    Unprocessed,
}

impl<K: Codec, V: Codec> Drop for Turn<'_, K, V> {
    fn drop(&mut self) {
        let source = self.0.reading.source();
        source.forget_waker();
        source.hold(&[]);
        self.0.rewind();
    }
}

impl<K: Codec, V: Codec> Turn<'_, K, V> {
    /// The next record of a partition that need not wait; `None` when one has waited long enough.
    async fn record(&mut self, rest: &mut Rest) -> Result<Option<Record>> {
        let Consumer { reading, tasks, .. } = &mut *self.0;
        rest.hold_back(reading.source(), tasks);
        std::future::poll_fn(|context| match self.0.poll_record(context) {
            Poll::Ready(record) => Poll::Ready(record.map(Some)),
            Poll::Pending => rest.poll_over(context).map(|over| over.map(|()| None)),
        })
        .await
    }

    async fn settled(&mut self) -> Result<()> {
        std::future::poll_fn(|context| self.0.poll_settled(context)).await
    }

    /// Calls the function, and acts on what it answers.
    async fn process<F>(&mut self, record: &Record, bindings: &mut Bindings, process: &mut F) -> Result<Left>
    where
        F: AsyncFnMut(Record, &mut Tx<'_>) -> Result<Outcome>,
    {
        let left = self.try_once(record, bindings, process).await;
        if !matches!(left, Ok(Left::ForAnother)) {
            self.0.tasks.attempts.settle(record.id.topic, record.id.partition, record.id.offset);
        }
        left
    }

    async fn try_once<F>(&mut self, record: &Record, bindings: &mut Bindings, process: &mut F) -> Result<Left>
    where
        F: AsyncFnMut(Record, &mut Tx<'_>) -> Result<Outcome>,
    {
        let engine = Arc::clone(&self.0.tasks.engine);
        let id = record.id;
        let mut lost = 0;
        loop {
            let mut tx = engine.begin()?;
            let ended = call(&*engine, &mut *tx, bindings, record, process).await;
            if !matches!(ended, Ended::Answered(Outcome::Commit)) {
                // Its effects are taken back.
                tx = engine.begin()?;
                let tasks = &mut self.0.tasks;
                let attempts = tasks.attempts.of(id.topic, id.partition, id.offset) + 1;
                match tasks.rules.judge(ended, attempts) {
                    Verdict::Done => {}
                    Verdict::SkipTold(reason) => {
                        let topic = &self.0.topic_name;
                        tracing::warn!(topic, partition = %id.partition, offset = %id.offset, reason,
                            "a record is skipped");
                    }
                    Verdict::DeadLetter(reason) => self.bury(&mut *tx, record, attempts, &reason)?,
                    Verdict::Again(pause) => {
                        let due = engine.monotonic().saturating_add(pause);
                        tasks.attempts.again((id.topic, id.partition), id.offset, attempts, due);
                        return Ok(Left::ForAnother);
                    }
                    Verdict::Break => return Ok(Left::Unprocessed),
                    Verdict::Fail(error) => return Err(error),
                }
            }
            match self.0.submit_at_hand(Some(tx)) {
                Ok(()) => return Ok(Left::Passed),
                Err(error) if error.kind() == ErrorKind::Conflict && lost < LOST_MAX => lost += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn bury(&self, tx: &mut dyn EngineTx, record: &Record, attempts: u32, reason: &str) -> Result<()> {
        let ForTasks { dead_letters, consumer, .. } = &self.0.tasks;
        let dead_letters = dead_letters.ok_or_else(|| Error::invalid("no dead-letter topic is named"))?;
        let (topic_name, id) = (self.0.topic_name.as_str(), record.id);
        let why = Obituary { topic_name, partition: id.partition, consumer, attempts, reason };
        let headers = record.headers.iter().map(|(name, value)| Header { name, value: value.as_deref() });
        let headers: Vec<Header<'_>> = headers.collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let parts = NewRecord { key, route: None, value, headers: &headers, timestamp_ms: Some(record.timestamp_ms) };
        dead_letter::stage_parts(tx, dead_letters, id.offset, parts, &why, Room::Alone)
    }
}

/// One call of the function, to its end or its panic.
async fn call<F>(
    engine: &dyn Engine,
    inner: &mut dyn EngineTx,
    bindings: &mut Bindings,
    record: &Record,
    process: &mut F,
) -> Ended
where
    F: AsyncFnMut(Record, &mut Tx<'_>) -> Result<Outcome>,
{
    let mut tx = Tx { engine, inner, bindings, scope: None };
    let mut called = pin!(process(record.clone(), &mut tx));
    let caught = |context: &mut Context<'_>| {
        let polled = catch_unwind(AssertUnwindSafe(|| called.as_mut().poll(context)));
        match polled {
            Ok(polled) => polled.map(Ok),
            Err(panic) => Poll::Ready(Err(text_of(&*panic))),
        }
    };
    match std::future::poll_fn(caught).await {
        Ok(Ok(outcome)) => Ended::Answered(outcome),
        Ok(Err(error)) => Ended::Failed(error),
        Err(panic) => Ended::Panicked(panic),
    }
}

/// Waiting until the first partition that is held back may go on.
#[derive(Default)]
struct Rest {
    until: Option<Until>,
    /// What is due before has waited long enough, whatever the clock says.
    slept_until: Duration,
}

struct Until {
    due: Duration,
    left: Duration,
    /// Begun when there was nothing else to do.
    pause: Option<Pause>,
}

impl Rest {
    /// Holds partitions back whose next record waits for another attempt.
    fn hold_back(&mut self, source: &mut dyn Source, tasks: &ForTasks) {
        let now = tasks.engine.monotonic().max(self.slept_until);
        let left = hold_back(source, &tasks.attempts, now);
        let due = left.map(|left| now.saturating_add(left));
        if due != self.until.as_ref().map(|until| until.due) {
            self.until = due.zip(left).map(|(due, left)| Until { due, left, pause: None });
        }
    }

    /// Ready when a partition may go on; never if none is held back.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(Until { due, left, pause }) = &mut self.until else { return Poll::Pending };
        if pause.is_none() {
            *pause = Some(Pause::start(*left)?);
        }
        if let Some(pause) = pause {
            ready!(Pin::new(pause).poll(context));
        }
        self.slept_until = *due;
        self.until = None;
        Poll::Ready(Ok(()))
    }
}

/// A pause that a thread of its own sleeps: the library has no timer. Dropping it ends the thread.
struct Pause(Arc<(Mutex<Slept>, Condvar)>);

#[derive(Default)]
struct Slept {
    is_over: bool,
    waker: Option<Waker>,
}

impl Pause {
    fn start(pause: Duration) -> Result<Pause> {
        let shared = Arc::new((Mutex::new(Slept { is_over: pause.is_zero(), waker: None }), Condvar::new()));
        if !pause.is_zero() {
            let theirs = Arc::clone(&shared);
            spawn("oncelog-pause".to_owned(), move || sleep(&theirs, pause)).map_err(|error| {
                Error::new(ErrorKind::Unavailable, "no thread for the pause before another attempt").because(error)
            })?;
        }
        Ok(Pause(shared))
    }
}

/// Woken early without cause, the attempt comes early: no harm is done.
fn sleep((slept, changed): &(Mutex<Slept>, Condvar), pause: Duration) {
    let mut slept = slept.lock();
    if !slept.is_over {
        slept = changed.wait_timeout(slept, pause);
    }
    slept.is_over = true;
    let waker = slept.waker.take();
    drop(slept);
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Future for Pause {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waker = context.waker().clone();
        let mut slept = self.0.0.lock();
        if slept.is_over {
            return Poll::Ready(());
        }
        let before = slept.waker.replace(waker);
        drop(slept);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let (slept, changed) = &*self.0;
        let mut slept = slept.lock();
        slept.is_over = true;
        let waker = slept.waker.take();
        drop(slept);
        changed.notify_all();
        drop(waker);
    }
}
