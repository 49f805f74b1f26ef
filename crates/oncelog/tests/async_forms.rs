//! Futures and streams: each dropped at every await, many at once, woken and not polled in circles, ended by a close
//! and by a failing disk.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for threads")]

#[path = "common/gap_at_end.rs"]
mod gap_at_end;
#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use futures_core::Stream;
use gap_at_end::with_a_gap_at_the_end;
use hooked_disk::{Event, on};
use oncelog::disk::{MemoryDisk, SyncSite};
use oncelog::{
    Consumer, ConsumerOptions, ConsumerStyle, Error, ErrorKind, FailurePolicy, IdempotentProducerConfig, LogOffset,
    MinimumRetention, Outcome, Pair, Record, RecordStream, Result, RetryPolicy, Sequence, StampedAppend, Store,
    StoreOptions, SyncPolicy, TableDef, TopicDef, U64, Utf8, Whence,
};

const LINES: TopicDef<Utf8, U64> = TopicDef::new("lines");
const WIDE: TopicDef<Utf8, U64> = TopicDef::new("wide").partitions(4);
const OUT: TopicDef<Utf8, U64> = TopicDef::new("out");
const DEAD: TopicDef<Utf8, U64> = TopicDef::new("dead");
const SUMS: TableDef<Utf8, U64> = TableDef::new("sums");

/// Long enough that a test which waits so long has found a wake-up that was lost.
const LOST: Duration = Duration::from_secs(20);

/// A waker that counts, and something to wait on.
#[derive(Default)]
struct Bell {
    rung: Mutex<usize>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.rung.lock().unwrap() += 1;
        self.changed.notify_all();
    }
}

impl Bell {
    fn rung(&self) -> usize {
        *self.rung.lock().unwrap()
    }

    /// Waits until it has rung more than `seen` times.
    fn wait(&self, seen: usize) {
        let (rung, late) =
            self.changed.wait_timeout_while(self.rung.lock().unwrap(), LOST, |rung| *rung <= seen).unwrap();
        assert!(!late.timed_out() || *rung > seen, "a wake-up is lost");
    }
}

/// Polls at most `polls` times, each but the first after a wake-up; whether it completed, and what it gave.
fn poll_times<F: Future + ?Sized>(mut future: Pin<&mut F>, polls: usize) -> Option<F::Output> {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    for at in 0..polls {
        let seen = bell.rung();
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending if at + 1 < polls => bell.wait(seen),
            Poll::Pending => {}
        }
    }
    None
}

fn block_on<F: Future>(future: F) -> F::Output {
    poll_times(pin!(future), usize::MAX).unwrap()
}

fn next<'s>(stream: &'s mut RecordStream<'_, Utf8, U64>) -> impl Future<Output = Option<Result<Record>>> + 's {
    poll_fn(move |context| Pin::new(&mut *stream).poll_next(context))
}

/// One more await for the function under test.
async fn breathe() {
    let mut breathed = false;
    poll_fn(|context| {
        if std::mem::replace(&mut breathed, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn client(id: &str) -> ConsumerStyle {
    ConsumerStyle::ClientTx(id.to_owned())
}

fn value_of(record: &Record) -> u64 {
    u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())
}

/// What is in a topic, read by somebody who remembers nothing.
fn values(store: &Store, topic: TopicDef<Utf8, U64>) -> Vec<u64> {
    let consumer = store.consumer(topic, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
    consumer.map(|record| value_of(&record.unwrap())).collect()
}

fn fill(store: &Store, values: impl IntoIterator<Item = u64>) {
    let producer = store.producer(LINES).unwrap();
    for value in values {
        producer.append("k", &value).unwrap();
    }
}

/// Both forms, with nothing to wake them but the other owner's commits, its close and its return.
#[test]
fn tasks_are_woken_by_what_other_owners_write() {
    let disk = Arc::new(MemoryDisk::default());
    let open = || StoreOptions::new().disk(Arc::clone(&disk) as _);
    let (main, own) = (open().open("/s").unwrap(), open().attach("/s", "own").unwrap());
    fill(&main, [0]);
    let late = |store: Store, value: u64| {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            fill(&store, [value]);
        })
    };
    let mut consumer = own.consumer(LINES, client("c")).unwrap();
    let mut stream = consumer.stream();
    assert_eq!(value_of(&block_on(next(&mut stream)).unwrap().unwrap()), 0);
    let writing = late(main.clone(), 1);
    assert_eq!(value_of(&block_on(next(&mut stream)).unwrap().unwrap()), 1);
    drop(stream);
    writing.join().unwrap();
    let writing = late(main.clone(), 2);
    let counted = block_on(consumer.process_async(Some(1), async |_, _| Ok(Outcome::Commit))).unwrap();
    assert_eq!(counted, 1);
    writing.join().unwrap();
    main.close().unwrap();
    let back = {
        let again = open();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            let main = again.open("/s").unwrap();
            fill(&main, [3]);
            main
        })
    };
    let mut stream = consumer.stream();
    assert_eq!(value_of(&block_on(next(&mut stream)).unwrap().unwrap()), 3);
    drop(back.join().unwrap());
    let closing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        own.close().unwrap();
    });
    assert_eq!(block_on(next(&mut stream)).unwrap().unwrap_err().kind(), ErrorKind::Closed);
    closing.join().unwrap();
}

#[test]
fn a_stream_of_a_store_that_was_taken_over_ends() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    std::fs::rename(dir.path().join("owners/main/MANIFEST"), dir.path().join("away")).unwrap();
    assert_eq!(store.producer(LINES).unwrap().append("k", &1).unwrap_err().kind(), ErrorKind::Fenced);
    let mut stream = consumer.stream();
    assert_eq!(block_on(next(&mut stream)).unwrap().unwrap_err().kind(), ErrorKind::Fenced);
    assert!(block_on(next(&mut stream)).is_none());
}

/// What becomes of a sync of the journal.
#[derive(Clone, Copy, PartialEq)]
enum Syncs {
    Pass,
    Wait,
    Fail,
    Panic,
}

/// How the syncs of frames go, as the test says.
struct Gate {
    syncs: Mutex<Syncs>,
    changed: Condvar,
    passed: AtomicUsize,
}

impl Gate {
    fn set(&self, syncs: Syncs) {
        *self.syncs.lock().unwrap() = syncs;
        self.changed.notify_all();
    }

    fn pass(&self) -> io::Result<()> {
        let now = *self.changed.wait_while(self.syncs.lock().unwrap(), |now| *now == Syncs::Wait).unwrap();
        self.passed.fetch_add(1, Ordering::SeqCst);
        match now {
            Syncs::Fail => Err(io::Error::other("the sync fails")),
            Syncs::Panic => panic!("the disk of the test panics"),
            _ => Ok(()),
        }
    }
}

fn gated() -> (Store, Arc<Gate>) {
    let gate = Gate { syncs: Mutex::new(Syncs::Pass), changed: Condvar::new(), passed: AtomicUsize::new(0) };
    let gate = Arc::new(gate);
    let theirs = Arc::clone(&gate);
    let hook = move |event: Event<'_>| match event {
        Event::Sync(_, SyncSite::JournalGroup) => theirs.pass(),
        _ => Ok(()),
    };
    let store = on(&Arc::default(), hook).open("/store").unwrap();
    store.producer(LINES).unwrap().append("k", &0).unwrap();
    (store, gate)
}

#[test]
fn an_append_that_is_dropped_at_any_await_is_there_as_a_whole() {
    for polls in 0..2 {
        let (store, gate) = gated();
        let producer = store.producer(LINES).unwrap();
        let mut tx = store.begin().unwrap();
        tx.append(LINES, "k", &7).unwrap();
        tx.table(SUMS).unwrap().put("k", &7).unwrap();
        gate.set(Syncs::Wait);
        let mut one = producer.append_async("k", &1);
        let mut batch = producer.append_batch_async([("k", &2), ("k", &3)]);
        let mut committed = tx.commit_async();
        assert!(poll_times(Pin::new(&mut one), polls).is_none(), "answered before its sync");
        assert!(poll_times(Pin::new(&mut batch), polls).is_none());
        assert!(poll_times(Pin::new(&mut committed), polls).is_none());
        drop((one, batch, committed));
        gate.set(Syncs::Pass);
        assert_eq!(producer.append("k", &4).unwrap(), LogOffset(5), "the handle goes on behind them");
        assert_eq!(values(&store, LINES), [0, 1, 2, 3, 7, 4]);
        store.close().unwrap();
    }
}

#[test]
fn a_stamped_append_that_is_dropped_is_stored_once_however_often_it_is_sent() {
    for polls in 0..2 {
        let (store, gate) = gated();
        let producer = store.idempotent_producer(LINES, IdempotentProducerConfig::new("till")).unwrap();
        gate.set(Syncs::Wait);
        let mut one = producer.append_async("k", &1);
        let mut batch = producer.append_batch_async([("k", &2), ("k", &3)]);
        let mut with = producer.append_batch_with_async(Sequence(3), [("k", &4)]);
        assert!(poll_times(Pin::new(&mut one), polls).is_none());
        assert!(poll_times(Pin::new(&mut batch), polls).is_none());
        assert!(poll_times(Pin::new(&mut with), polls).is_none());
        drop((one, batch, with));
        gate.set(Syncs::Pass);
        assert_eq!(producer.current_sequence(), Sequence(4));
        let again = block_on(producer.append_batch_with_async(Sequence(3), [("k", &4)])).unwrap();
        assert_eq!(again, StampedAppend::Repeated(LogOffset(4)));
        assert_eq!(block_on(producer.append_async("k", &5)).unwrap(), LogOffset(5));
        assert_eq!(values(&store, LINES), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn answers_and_errors_come_by_await() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    assert_eq!(block_on(producer.append_async("k", &1)).unwrap(), LogOffset(0));
    let batch = block_on(producer.append_batch_async([("k", &2), ("k", &3)])).unwrap();
    assert_eq!((batch.appended[0].first, batch.appended[0].count), (LogOffset(1), 2));
    let mut pending = producer.append_async("k", &4);
    assert_eq!(block_on(&mut pending).unwrap(), LogOffset(3));
    assert_eq!(block_on(&mut pending).unwrap_err().kind(), ErrorKind::Invalid, "the answer was taken");
    let stray = store.idempotent_producer(LINES, IdempotentProducerConfig::new("till")).unwrap();
    let error = block_on(stray.append_batch_with_async(Sequence(9), [("k", &9)])).unwrap_err();
    assert_eq!((error.kind(), error.expected_sequence()), (ErrorKind::Invalid, Some(Sequence(0))));
    let lax = store.producer(LINES).unwrap().sync_policy(SyncPolicy::Bytes(16));
    let offsets = [4, 5, 6].map(|value| block_on(lax.append_async("k", &value)).unwrap().0);
    assert_eq!(offsets, [4, 5, 6]);
    let gathering = store.producer(LINES).unwrap().sync_policy(SyncPolicy::Os).linger(Duration::from_secs(1));
    assert_eq!(block_on(gathering.append_async("k", &7)).unwrap(), LogOffset(7));
    let mut first = store.begin().unwrap();
    let mut second = store.begin().unwrap();
    for tx in [&mut first, &mut second] {
        let sum = tx.table(SUMS).unwrap().get("k").unwrap().unwrap_or(0);
        tx.table(SUMS).unwrap().put("k", &(sum + 1)).unwrap();
    }
    block_on(first.commit_async()).unwrap();
    assert_eq!(block_on(second.commit_async()).unwrap_err().kind(), ErrorKind::Conflict);
    store.close().unwrap();
    assert_eq!(block_on(producer.append_async("k", &8)).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn without_a_background_the_poll_goes_to_the_disk() {
    let disk = Arc::new(MemoryDisk::default());
    let store = StoreOptions::new().disk(disk).manual_duties().open("/store").unwrap();
    let producer = store.producer(LINES).unwrap();
    let mut append = producer.append_async("k", &1);
    assert_eq!(poll_times(Pin::new(&mut append), 1).unwrap().unwrap(), LogOffset(0));
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    assert_eq!(poll_times(pin!(next(&mut consumer.stream())), 1).unwrap().unwrap().unwrap().id.offset, LogOffset(0));
    let count = consumer.process_async(Some(0), async |_, _| Ok(Outcome::Commit));
    assert_eq!(poll_times(pin!(count), 1).unwrap().unwrap(), 0);
    consumer.commit().unwrap();
    assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(1)]);
}

#[test]
fn tasks_share_syncs_and_are_woken_once_for_each_answer() {
    let (store, gate) = gated();
    let producer = store.producer(LINES).unwrap();
    gate.set(Syncs::Wait);
    let bells: Vec<_> = (0..500).map(|_| Arc::new(Bell::default())).collect();
    let mut appends: Vec<_> = (1..=500).map(|value| producer.append_async("k", &value)).collect();
    let syncs_before = gate.passed.load(Ordering::SeqCst);
    for (append, bell) in appends.iter_mut().zip(&bells) {
        // Asked twice: the second waker takes the place of the first.
        for _ in 0..2 {
            let waker = Waker::from(Arc::clone(bell));
            assert!(Pin::new(&mut *append).poll(&mut Context::from_waker(&waker)).is_pending());
        }
    }
    gate.set(Syncs::Pass);
    for ((append, bell), at) in appends.into_iter().zip(&bells).zip(1..) {
        bell.wait(0);
        assert!(append.is_done());
        assert_eq!(append.wait().unwrap(), LogOffset(at));
    }
    assert!(bells.iter().all(|bell| bell.rung() == 1), "woken more than once");
    let syncs = gate.passed.load(Ordering::SeqCst) - syncs_before;
    assert!(syncs <= 3, "{syncs} syncs for 500 appends that waited together");
}

#[test]
fn a_failing_disk_and_a_panicking_one_answer_every_task() {
    for (how, first) in [(Syncs::Fail, ErrorKind::InDoubt), (Syncs::Panic, ErrorKind::InDoubt)] {
        let (store, gate) = gated();
        let producer = store.producer(LINES).unwrap();
        let mut consumer = store.consumer(LINES, ConsumerStyle::NonTx(Whence::Latest)).unwrap();
        let waits = std::thread::spawn(move || {
            let mut stream = consumer.stream();
            let told = block_on(next(&mut stream)).unwrap().unwrap_err().kind();
            (told, block_on(next(&mut stream)).is_none())
        });
        gate.set(Syncs::Wait);
        let leading = producer.append_async("k", &1);
        // The leader has taken the first one when it waits at the gate; the others are groups behind it.
        std::thread::sleep(Duration::from_millis(50));
        let behind: Vec<_> = (2..10).map(|value| producer.append_async("k", &value)).collect();
        gate.set(how);
        assert_eq!(block_on(leading).unwrap_err().kind(), first);
        for append in behind {
            let kind = block_on(append).unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::Closed | ErrorKind::InDoubt), "{kind:?}");
        }
        assert_eq!(waits.join().unwrap(), (ErrorKind::Closed, true), "the stream hears of it");
        assert_eq!(block_on(producer.append_async("k", &9)).unwrap_err().kind(), ErrorKind::Closed);
    }
}

#[test]
fn many_tasks_append_while_the_store_is_closed_and_each_is_answered() {
    let store = Store::in_memory().unwrap();
    let started = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (producer, started) = (store.producer(LINES).unwrap(), Arc::clone(&started));
            std::thread::spawn(move || {
                for at in 0.. {
                    started.fetch_add(1, Ordering::SeqCst);
                    if let Err(error) = block_on(producer.append_async("k", &at)) {
                        return error.kind();
                    }
                }
                unreachable!("it is closed before")
            })
        })
        .collect();
    while started.load(Ordering::SeqCst) < 100 {
        std::thread::yield_now();
    }
    store.close().unwrap();
    for task in tasks {
        assert_eq!(task.join().unwrap(), ErrorKind::Closed);
    }
}

#[test]
fn a_stream_that_is_dropped_at_any_await_loses_and_repeats_nothing() {
    for style in [client("c"), ConsumerStyle::GlobalTx, ConsumerStyle::NonTx(Whence::Oldest)] {
        for polls in 0.. {
            let (store, gate) = gated();
            fill(&store, 1..4);
            let mut consumer = store.consumer(LINES, style.clone()).unwrap();
            let mut given = Vec::new();
            let all = async {
                let mut stream = consumer.stream();
                while given.len() < 4 {
                    given.push(value_of(&next(&mut stream).await.unwrap().unwrap()));
                    breathe().await;
                }
            };
            let completed = poll_times(pin!(all), polls).is_some();
            drop(gate);
            given.extend(consumer.by_ref().map(|record| value_of(&record.unwrap())));
            assert_eq!(given, [0, 1, 2, 3], "{style:?} dropped after {polls} polls");
            drop(consumer);
            if style == client("c") {
                assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(4)]);
            }
            if completed {
                break;
            }
            assert!(polls < 100, "it never completes");
        }
    }
}

#[test]
fn a_stream_that_is_dropped_while_its_commit_is_on_the_way_has_made_it() {
    let (store, gate) = gated();
    fill(&store, [1]);
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    {
        let mut stream = consumer.stream();
        block_on(next(&mut stream)).unwrap().unwrap();
        gate.set(Syncs::Wait);
        assert!(poll_times(pin!(next(&mut stream)), 1).is_none(), "the next is handed out before the step is durable");
    }
    // The first was said to be done with when the next was asked for.
    consumer.rewind();
    gate.set(Syncs::Pass);
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 1);
    assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(1)]);
    consumer.rewind();
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 1, "at hand, and not asked past");
}

#[test]
fn a_stream_is_woken_by_what_is_appended_and_by_a_close() {
    for style in [client("c"), ConsumerStyle::NonTx(Whence::Oldest)] {
        let store = Store::in_memory().unwrap();
        let mut consumer = store.consumer(WIDE, style).unwrap();
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        let mut stream = consumer.stream();
        let mut poll = |seen: &mut usize| {
            *seen = bell.rung();
            Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker))
        };
        let mut seen = 0;
        assert!(poll(&mut seen).is_pending());
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(bell.rung(), 0, "woken for nothing");
        let producer = store.producer(WIDE).unwrap();
        for at in 0..20u64 {
            producer.append(&at.to_string(), &at).unwrap();
            bell.wait(seen);
            let got = loop {
                match poll(&mut seen) {
                    Poll::Ready(record) => break value_of(&record.unwrap().unwrap()),
                    Poll::Pending => bell.wait(seen),
                }
            };
            assert_eq!(got, at);
            while poll(&mut seen).is_pending() && bell.rung() > seen {}
        }
        assert!(bell.rung() < 150, "{} wake-ups for 20 records", bell.rung());
        store.close().unwrap();
        let told = loop {
            match poll(&mut seen) {
                Poll::Ready(told) => break told.unwrap().unwrap_err(),
                Poll::Pending => bell.wait(seen),
            }
        };
        assert_eq!(told.kind(), ErrorKind::Closed);
        assert!(matches!(poll(&mut seen), Poll::Ready(None)));
    }
}

#[test]
fn a_dropped_waiter_leaves_no_waker_behind() {
    let store = Store::in_memory().unwrap();
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    let bell = Arc::new(Bell::default());
    {
        let waker = Waker::from(Arc::clone(&bell));
        let mut stream = consumer.stream();
        assert!(Pin::new(&mut stream).poll_next(&mut Context::from_waker(&waker)).is_pending());
        drop(stream);
        let mut process = pin!(consumer.process_async(None, async |_, _| Ok(Outcome::Commit)));
        assert!(process.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert!(Arc::strong_count(&bell) > 2);
    }
    assert_eq!(Arc::strong_count(&bell), 1);
    fill(&store, [1]);
    assert_eq!(bell.rung(), 0);
}

/// Adds each value to a sum, and appends the sum, with awaits between.
async fn sum_up(consumer: &mut Consumer<Utf8, U64>, count: u64) -> Result<u64> {
    consumer
        .process_async(Some(count), async |record, tx| {
            breathe().await;
            let sum = tx.table(SUMS)?.get("sum")?.unwrap_or(0) + value_of(&record);
            tx.table(SUMS)?.put("sum", &sum)?;
            breathe().await;
            tx.append(OUT, "sum", &sum)?;
            breathe().await;
            Ok(Outcome::Commit)
        })
        .await
}

#[test]
fn processing_that_is_dropped_at_any_await_has_each_effect_once() {
    for style in [client("c"), ConsumerStyle::GlobalTx, ConsumerStyle::NonTx(Whence::Oldest)] {
        for polls in 0.. {
            let (store, _gate) = gated();
            fill(&store, [1, 2]);
            let mut consumer = store.consumer(LINES, style.clone()).unwrap();
            let completed = poll_times(pin!(sum_up(&mut consumer, 3)), polls).is_some();
            let already = values(&store, OUT).len() as u64;
            // The handle goes on with what is left, in its blocking form.
            let rest = consumer
                .try_process(None, |record, tx| {
                    let sum = tx.table(SUMS)?.get("sum")?.unwrap_or(0) + record.value()?;
                    tx.table(SUMS)?.put("sum", &sum)?;
                    tx.append(OUT, "sum", &sum)?;
                    Ok(Outcome::Commit)
                })
                .unwrap();
            assert_eq!(values(&store, OUT), [0, 1, 3], "{style:?} dropped after {polls} polls");
            assert!(already + rest <= 3 && already + rest >= 2, "{already} were done and {rest} were left");
            assert!(completed == (rest == 0) || rest == 0);
            drop(consumer);
            if style == client("c") {
                assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(3)]);
            }
            if completed {
                assert!(polls > 9, "it awaited nothing");
                break;
            }
            assert!(polls < 100, "it never completes");
        }
    }
}

#[test]
fn each_outcome_does_as_in_the_blocking_form() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..8);
    let how = ConsumerOptions::new(client("c"))
        .dead_letter(DEAD)
        .on_panic(FailurePolicy::DeadLetter)
        .on_error(FailurePolicy::Retry)
        .retry(RetryPolicy::new().backoff(Duration::from_millis(1), Duration::from_millis(2)).attempts_max(3));
    let mut consumer = store.consumer(LINES, how).unwrap();
    let mut calls = Vec::new();
    let count = block_on(consumer.process_async(None, async |record, tx| {
        let value = value_of(&record);
        calls.push(value);
        tx.append(OUT, "k", &value)?;
        breathe().await;
        match value {
            1 => Ok(Outcome::Skip),
            2 => Ok(Outcome::DeadLetter),
            3 => panic!("on purpose"),
            4 => Err(Error::user("always")),
            5 if calls.iter().filter(|call| **call == 5).count() < 3 => Ok(Outcome::Retry),
            7 => Ok(Outcome::Break),
            _ => Ok(Outcome::Commit),
        }
    }));
    assert_eq!(count.unwrap(), 7);
    assert_eq!(calls, [0, 1, 2, 3, 4, 4, 4, 5, 5, 5, 6, 7]);
    assert_eq!(values(&store, OUT), [0, 5, 6]);
    assert_eq!(values(&store, DEAD), [2, 3, 4]);
    assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(7)]);
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 7, "the one that broke off is next");
}

#[test]
fn a_dead_letter_goes_to_the_partition_that_a_producer_would_choose() {
    type Hour = Pair<Utf8, U64>;
    const HOURS: TopicDef<Hour, U64> = TopicDef::new("hours");
    const LATE: TopicDef<Hour, U64> = TopicDef::new("late hours").partitions(8);
    let store = Store::in_memory().unwrap();
    let hours = store.producer(HOURS).unwrap();
    for n in 0..20 {
        hours.append(&("ann".to_owned(), n), &n).unwrap();
    }
    let mut consumer = store.consumer(HOURS, ConsumerOptions::new(client("c")).dead_letter(LATE)).unwrap();
    let buried = consumer.process_async(Some(20), async |_, _| Ok(Outcome::DeadLetter));
    assert_eq!(block_on(buried).unwrap(), 20);
    let chosen = LATE.partition_of(&("ann".to_owned(), 0)).unwrap();
    assert_eq!(store.offsets("late hours", chosen).unwrap(), (LogOffset(0), LogOffset(20)));
}

#[test]
fn an_error_of_the_function_leaves_its_record_unprocessed() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..3);
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    let fails = async |record: Record, tx: &mut oncelog::Tx<'_>| {
        tx.append(OUT, "k", &value_of(&record))?;
        if value_of(&record) == 1 { Err(Error::user("no")) } else { Ok(Outcome::Commit) }
    };
    assert_eq!(block_on(consumer.process_async(None, fails)).unwrap_err().kind(), ErrorKind::User);
    assert_eq!(values(&store, OUT), [0]);
    assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(1)]);
}

#[test]
fn a_record_whose_transaction_is_lost_to_another_is_processed_again() {
    let store = Store::in_memory().unwrap();
    fill(&store, [5]);
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    let mut calls = 0;
    let count = block_on(consumer.process_async(Some(1), async |record, tx| {
        let sum = tx.table(SUMS)?.get("sum")?.unwrap_or(0);
        calls += 1;
        if calls < 3 {
            let mut other = store.begin()?;
            other.table(SUMS)?.put("sum", &(100 * calls))?;
            other.commit_async().await?;
        }
        tx.table(SUMS)?.put("sum", &(sum + value_of(&record)))?;
        Ok(Outcome::Commit)
    }));
    assert_eq!((count.unwrap(), calls), (1, 3));
    assert_eq!(store.begin().unwrap().table(SUMS).unwrap().get("sum").unwrap(), Some(205));
}

#[test]
fn only_the_partition_that_waits_for_another_attempt_is_held_up() {
    const TOPIC: TopicDef<Utf8, U64> = TopicDef::new("two").partitions(2);
    let store = Store::in_memory().unwrap();
    let two = store.producer(TOPIC).unwrap();
    // Partition 0 has 0, 1, 2; partition 1 has 10, 11, 12.
    for value in [0, 1, 2, 10, 11, 12] {
        let partition = oncelog::PartitionId(u32::from(value >= 10));
        two.append_record(Some(partition), None, Some(&value), &[], None).unwrap();
    }
    for style in [client("c"), ConsumerStyle::NonTx(Whence::Oldest)] {
        let pause = Duration::from_millis(300);
        let how = ConsumerOptions::new(style).retry(RetryPolicy::new().backoff(pause, pause));
        let mut consumer = store.consumer(TOPIC, how).unwrap();
        let mut calls = Vec::new();
        let mut asked = None;
        let count = block_on(consumer.process_async(Some(6), async |record, tx| {
            let value = value_of(&record);
            calls.push(value);
            tx.append(OUT, "k", &value)?;
            if value == 1 && asked.is_none() {
                asked = Some(Instant::now());
                return Ok(Outcome::Retry);
            }
            if value == 1 {
                assert!(asked.unwrap().elapsed() >= pause);
            }
            Ok(Outcome::Commit)
        }));
        assert_eq!(count.unwrap(), 6);
        let of = |partition: u64| calls.iter().copied().filter(|value| value / 10 == partition).collect::<Vec<_>>();
        assert_eq!((of(0), of(1)), (vec![0, 1, 1, 2], vec![10, 11, 12]), "each partition in its order");
        let place = |value| calls.iter().rposition(|call| *call == value).unwrap();
        assert!(place(12) < place(1), "the other partition went on meanwhile: {calls:?}");
    }
    assert_eq!(values(&store, OUT).len(), 12, "effects of the attempt that asked for another are gone");
}

/// The pause ends also while there is always something else to do, and by its thread when there is nothing.
#[test]
fn a_partition_that_has_waited_long_enough_is_tried_again_among_others() {
    const TOPIC: TopicDef<Utf8, U64> = TopicDef::new("two").partitions(2);
    let store = Store::in_memory().unwrap();
    let two = store.producer(TOPIC).unwrap();
    let append = |partition, value: u64| {
        let partition = oncelog::PartitionId(partition);
        two.append_record(Some(partition), None, Some(&value), &[], None).unwrap();
    };
    append(0, 0);
    append(1, 1);
    let pause = Duration::from_millis(20);
    let how = ConsumerOptions::new(client("c")).retry(RetryPolicy::new().backoff(pause, pause));
    let mut consumer = store.consumer(TOPIC, how).unwrap();
    let (mut tries, mut others, began) = (0, 0, Instant::now());
    let done = block_on(consumer.process_async(None, async |record, _| {
        if value_of(&record) == 0 {
            tries += 1;
            return Ok(if tries < 4 { Outcome::Retry } else { Outcome::Break });
        }
        others += 1;
        assert!(began.elapsed() < LOST, "it never comes again");
        append(1, others);
        Ok(Outcome::Commit)
    }));
    assert_eq!((done.unwrap(), tries), (others, 4));
    assert!(began.elapsed() >= 3 * pause && others > 0);
}

#[test]
fn records_that_are_lost_at_the_end_are_skipped_once_and_for_all() {
    for by_function in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let store = with_a_gap_at_the_end(home.path(), LINES);
        let skips = ConsumerOptions::new(client("c")).on_gap(oncelog::GapPolicy::Skip);
        let mut consumer = store.consumer(LINES, skips).unwrap();
        let (_, end) = store.offsets("lines", oncelog::PartitionId(0)).unwrap();
        let began = Instant::now();
        let passes = |mut waits: Pin<&mut dyn Future<Output = ()>>| {
            while store.committed_offsets("c", "lines").unwrap() != [end] {
                assert!(poll_times(waits.as_mut(), 1).is_none() && began.elapsed() < LOST, "it is not passed");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        if by_function {
            let process = consumer.process_async(None, async |_, _| Ok(Outcome::Commit));
            passes(pin!(async { drop(process.await) }));
        } else {
            let mut stream = consumer.stream();
            assert_eq!(value_of(&block_on(next(&mut stream)).unwrap().unwrap()), 7);
            passes(pin!(async { drop(next(&mut stream).await) }));
        }
        drop(consumer);
        store.close().unwrap();
        // Whoever is told of gaps is not told of this one again.
        let store = Store::open(home.path().join("cut")).unwrap();
        let mut stops = store.consumer(LINES, client("c")).unwrap();
        assert!(stops.next().is_none());
        fill(&store, [8]);
        assert_eq!(value_of(&stops.next().unwrap().unwrap()), 8);
    }
}

#[test]
fn a_pause_ends_with_its_future() {
    let store = Store::in_memory().unwrap();
    fill(&store, [1]);
    let long = RetryPolicy::new().backoff(Duration::from_secs(3600), Duration::from_secs(3600));
    let mut consumer = store.consumer(LINES, ConsumerOptions::new(client("c")).retry(long)).unwrap();
    let began = Instant::now();
    assert!(poll_times(pin!(consumer.process_async(None, async |_, _| Ok(Outcome::Retry))), 1).is_none());
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 1);
    drop(consumer);
    store.close().unwrap();
    assert!(began.elapsed() < LOST);
}

#[test]
fn many_tasks_consume_and_append_on_many_threads() {
    const TASKS: u64 = 16;
    const EACH: u64 = 50;
    let store = Store::in_memory().unwrap();
    let consumers = (0..TASKS).map(|task| {
        let mut consumer = store.consumer(WIDE, client(&format!("c{task}"))).unwrap();
        std::thread::spawn(move || {
            let mut stream = consumer.stream();
            (0..TASKS * EACH).map(|_| value_of(&block_on(next(&mut stream)).unwrap().unwrap())).sum::<u64>()
        })
    });
    let consumers: Vec<_> = consumers.collect();
    let producers = (0..TASKS).map(|task| {
        let producer = store.producer(WIDE).unwrap();
        std::thread::spawn(move || {
            for at in 0..EACH {
                block_on(producer.append_async(&format!("{task} {at}"), &(task * EACH + at))).unwrap();
            }
        })
    });
    producers.collect::<Vec<_>>().into_iter().for_each(|producer| producer.join().unwrap());
    for consumer in consumers {
        assert_eq!(consumer.join().unwrap(), (0..TASKS * EACH).sum::<u64>());
    }
}

/// What executors of several threads ask for.
#[test]
fn futures_may_go_from_thread_to_thread() {
    fn is_send<T: Send>(value: T) -> T {
        value
    }
    let store = Store::in_memory().unwrap();
    fill(&store, [1]);
    let producer = store.producer(LINES).unwrap();
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    let append = is_send(producer.append_async("k", &2));
    std::thread::spawn(move || block_on(append).unwrap()).join().unwrap();
    let task = is_send(async move {
        is_send(consumer.stream());
        sum_up(&mut consumer, 2).await
    });
    assert_eq!(std::thread::spawn(move || block_on(task).unwrap()).join().unwrap(), 2);
}

/// On one thread, whoever would make room runs on it too.
#[test]
fn an_append_to_a_full_topic_says_so_and_blocks_no_executor() {
    const KEPT: TopicDef<Utf8, Utf8> = TopicDef::new("kept")
        .max_total_bytes(8 << 10)
        .blocking_minimum_retention(MinimumRetention::consumers(&["reads"]));
    let disk = Arc::new(MemoryDisk::default());
    let store = StoreOptions::new().disk(disk as _).manual_duties().open("/s").unwrap();
    let _reads = store.consumer(KEPT, client("reads")).unwrap();
    let value = "x".repeat(500);
    for linger in [None, Some(Duration::from_millis(1))] {
        let mut producer = store.producer(KEPT).unwrap();
        if let Some(linger) = linger {
            producer = producer.sync_policy(SyncPolicy::Os).linger(linger);
        }
        let full = (0..100).find_map(|_| block_on(producer.append_async("k", &value)).err());
        assert_eq!(full.unwrap().kind(), ErrorKind::TopicFull);
    }
    let producer = store.producer(KEPT).unwrap();
    let full = block_on(producer.append_batch_async([("k", &*value), ("l", &*value)])).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::TopicFull);
    let stamped = store.idempotent_producer(KEPT, IdempotentProducerConfig::new("p")).unwrap();
    let before = stamped.current_sequence();
    let batch = [("k", &*value)];
    let answers = [
        block_on(stamped.append_async("k", &value)).map(drop),
        block_on(stamped.append_batch_async(batch)).map(drop),
        block_on(stamped.append_batch_with_async(before, batch)).map(drop),
    ];
    for full in answers {
        assert_eq!(full.unwrap_err().kind(), ErrorKind::TopicFull);
    }
    assert_eq!(stamped.current_sequence(), before, "nothing was used");
}
