//! Processors from outside: several inputs, threads, policies for records that cannot be processed, and the handle.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for threads")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use oncelog::{
    AsEngine, Bytes, ConsumerStyle, ErrorKind, FailurePolicy, LogOffset, Outcome, PartitionId, Processor,
    ProcessorHandle, RecordRef, Result, RetryPolicy, Store, StoreOptions, TableDef, TopicDef, Tx, U64, Utf8,
};

const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders").partitions(8);
const REFUNDS: TopicDef<Utf8, Utf8> = TopicDef::new("refunds").partitions(8);
const ALERTS: TopicDef<Utf8, U64> = TopicDef::new("alerts");
const DEAD: TopicDef<Bytes, Bytes> = TopicDef::new("dead letters");
const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");
const COUNTER: TableDef<Utf8, U64> = TableDef::new("counter").shards(1);
const MINUTE: Duration = Duration::from_secs(60);

fn add(order: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let mut totals = tx.table(TOTALS)?;
    let sum = totals.get(order.key()?)?.unwrap_or(0) + order.value()?;
    totals.put(order.key()?, &sum)?;
    tx.append(ALERTS, order.key()?, &sum)?;
    Ok(Outcome::Commit)
}

fn fill(store: &Store, records: u64) {
    let producer = store.producer(ORDERS).unwrap();
    let records: Vec<_> = (0..records).map(|n| (format!("c{}", n % 37), n)).collect();
    for some in records.chunks(100) {
        producer.append_batch(some.iter().map(|(key, n)| (key.as_str(), n))).unwrap();
    }
}

fn totals_of(records: u64) -> BTreeMap<String, u64> {
    let mut totals = BTreeMap::new();
    (0..records).for_each(|n| *totals.entry(format!("c{}", n % 37)).or_insert(0) += n);
    totals
}

fn caught_up(run: &ProcessorHandle) {
    assert!(run.wait_caught_up(MINUTE).unwrap(), "{:?}", run.progress());
}

/// All records of a topic with one partition.
fn read<T>(
    store: &Store,
    topic: TopicDef<Bytes, Bytes>,
    mut each: impl FnMut(RecordRef<'_, Bytes, Bytes>) -> T,
) -> Vec<T> {
    let mut all = Vec::new();
    let mut consumer = store.consumer(topic, ConsumerStyle::ClientTx("a look".into())).unwrap();
    let look = |record: RecordRef<'_, Bytes, Bytes>, _: &mut Tx<'_>| {
        all.push(each(record));
        Ok(Outcome::Commit)
    };
    consumer.try_process(None, look).unwrap();
    all
}

#[test]
fn threads_share_the_partitions_and_lose_nothing() {
    let store = Store::in_memory().unwrap();
    fill(&store, 5000);
    let names = Arc::new(Mutex::new(BTreeMap::<PartitionId, BTreeSet<String>>::new()));
    let seen = Arc::clone(&names);
    let run = Processor::new("p", ORDERS)
        .table(TOTALS)
        .output(ALERTS)
        .threads(3)
        .commit_records(20)
        .start(&store, move |order, tx| {
            let name = std::thread::current().name().unwrap_or_default().to_owned();
            seen.lock().unwrap().entry(order.partition()).or_default().insert(name);
            add(order, tx)
        })
        .unwrap();
    caught_up(&run);
    assert_eq!((run.processed(), run.lag().unwrap(), run.is_finished()), (5000, 0, false));
    let progress = run.progress().unwrap();
    assert_eq!(progress.iter().map(|at| at.partition.0).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    assert_eq!(progress.iter().map(|at| at.next.0).sum::<u64>(), 5000);
    run.stop().unwrap();
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.scan(TOTALS, ..).unwrap().into_iter().collect::<BTreeMap<_, _>>(), totals_of(5000));
    assert_eq!(snapshot.end_offset("alerts", PartitionId(0)).unwrap(), LogOffset(5000));
    let names = names.lock().unwrap();
    let threads: BTreeSet<_> = names.values().flatten().collect();
    assert_eq!(threads.len(), 3);
    assert!(names.values().all(|threads| threads.len() == 1), "a partition is the business of one thread: {names:?}");
    assert_eq!(names.values().filter(|threads| threads.contains("oncelog-p-0")).count(), 3, "0, 3 and 6");
}

#[test]
fn threads_that_meet_in_a_table_of_one_shard_conflict_and_try_again() {
    let store = Store::in_memory().unwrap();
    fill(&store, 3000);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let run = Processor::new("p", ORDERS)
        .threads(4)
        .commit_records(50)
        .start(&store, move |_, tx| {
            counted.fetch_add(1, Ordering::SeqCst);
            tx.table(COUNTER)?.update("all", |old| old.unwrap_or(0) + 1)?;
            Ok(Outcome::Commit)
        })
        .unwrap();
    caught_up(&run);
    assert_eq!(run.processed(), 3000);
    run.stop().unwrap();
    assert_eq!(store.snapshot().unwrap().get(COUNTER, "all").unwrap(), Some(3000));
    assert!(calls.load(Ordering::SeqCst) >= 3000);
}

#[test]
fn inputs_of_several_types_meet_in_one_table() {
    let store = Store::in_memory().unwrap();
    let refund = |refund: RecordRef<'_, Utf8, Utf8>, tx: &mut Tx<'_>| {
        let cents: u64 = refund.value()?.parse().map_err(oncelog::Error::user)?;
        tx.table(TOTALS)?.update(refund.key()?, |sum| sum.unwrap_or(0) + (cents << 32))?;
        Ok(Outcome::Commit)
    };
    let run = Processor::new("p", ORDERS).input(REFUNDS, refund).table(TOTALS).threads(2).start(&store, add).unwrap();
    let (orders, refunds) = (store.producer(ORDERS).unwrap(), store.producer(REFUNDS).unwrap());
    for n in 0..200u64 {
        let key = format!("c{}", n % 5);
        orders.append(&key, &1).unwrap();
        refunds.append(&key, "2").unwrap();
    }
    caught_up(&run);
    assert_eq!(run.processed(), 400);
    assert_eq!(run.progress().unwrap().len(), 16);
    run.stop().unwrap();
    for n in 0..5 {
        let sum = store.snapshot().unwrap().get(TOTALS, &format!("c{n}")).unwrap();
        assert_eq!(sum, Some(40 + (80 << 32)));
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_made() {
    let store = Store::in_memory().unwrap();
    let pass = |_: RecordRef<'_, Utf8, Utf8>, _: &mut Tx<'_>| Ok(Outcome::Commit);
    let few: TopicDef<Utf8, Utf8> = TopicDef::new("few").partitions(2);
    let p = || Processor::new("p", ORDERS);
    let refused = [
        (p().input(few.clone(), pass).table(TOTALS), "need as many partitions"),
        (p().input(TopicDef::named("orders"), pass), "named twice"),
        (p().table(TableDef::<Utf8, U64>::new("t").shards(3)), "3 shards"),
        (p().on_panic(FailurePolicy::DeadLetter), "none is named"),
        (p().on_error(FailurePolicy::DeadLetter), "none is named"),
        (p().dead_letter(TopicDef::<Bytes, Bytes>::new("orders")), "round for ever"),
        (p().input(REFUNDS, pass).dead_letter(TopicDef::<Utf8, U64>::new("d")), "codecs"),
        (Processor::new("", ORDERS), "bad name"),
    ];
    for (processor, why) in refused {
        let error = processor.build(store.as_engine(), |_, _| Ok(Outcome::Commit)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert_eq!(store.offsets("orders", PartitionId(0)).unwrap_err().kind(), ErrorKind::NotFound);
    // Without a table of the processor, inputs may differ.
    let run = p().input(few, pass).dead_letter(DEAD).start(&store, |_, _| Ok(Outcome::Commit)).unwrap();
    store.producer(TopicDef::<Utf8, Utf8>::new("few").partitions(2)).unwrap().append("k", "v").unwrap();
    caught_up(&run);
    assert_eq!(run.processed(), 1);
}

#[test]
fn a_table_that_was_touched_before_its_processor_is_told_with_what_to_do() {
    let store = Store::in_memory().unwrap();
    store.transact(|tx| tx.table(TOTALS)?.put("c1", &1)).unwrap();
    let refused = Processor::new("p", ORDERS).table(TOTALS).build(store.as_engine(), add).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("TableDef::shards(8)"), "{refused}");
    let said: TableDef<Utf8, U64> = TableDef::new("said").shards(8);
    store.transact(|tx| tx.table(said.clone())?.put("c1", &1)).unwrap();
    let other = store.transact(|tx| tx.table(TableDef::<Utf8, U64>::new("said").shards(4)).map(drop)).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Invalid);
    fill(&store, 10);
    let mut task = Processor::new("p", ORDERS)
        .table(said.clone())
        .build(store.as_engine(), |order, tx| {
            tx.table(said.clone())?.put(order.key()?, &7)?;
            // Not named, not there, and nobody says how many shards: refused rather than given one for good.
            assert_eq!(tx.table(TOTALS)?.get("c1")?, Some(1), "a table of one shard is for everybody");
            let error = tx.table(TableDef::<Utf8, U64>::new("unknown")).map(drop).unwrap_err();
            assert!(error.to_string().contains("Processor::table"), "{error}");
            Ok(Outcome::Commit)
        })
        .unwrap();
    assert_eq!(task.step(None).unwrap(), 10);
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.get(said.clone(), "c1").unwrap(), Some(7), "the row from outside is the processor's");
}

type Look = fn(&mut oncelog::Table<'_, Utf8, U64>) -> Result<()>;

#[test]
fn tables_of_another_number_of_shards_are_refused_whole() {
    let store = Store::in_memory().unwrap();
    fill(&store, 1);
    let three: TableDef<Utf8, U64> = TableDef::new("three").shards(3);
    let looks: [Look; 3] =
        [|table| table.put("c0", &1), |table| table.get("c0").map(drop), |table| table.scan(..).map(drop)];
    for look in looks {
        let mut task = Processor::new("p", ORDERS)
            .build(store.as_engine(), |_, tx| look(&mut tx.table(three.clone())?).map(|()| Outcome::Commit))
            .unwrap();
        let error = task.step(None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("3 shards"), "{error}");
    }
}

/// A processor over `ALERTS` whose function panics at 3, fails at 5, asks for a retry at 7 and gives up at 9.
fn troubled(name: &str) -> Processor<Utf8, U64> {
    Processor::new(name, ALERTS).retry(RetryPolicy::new().backoff(Duration::ZERO, Duration::ZERO).attempts_max(3))
}

fn trouble(record: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
    tx.table(COUNTER)?.update("calls that count", |old| old.unwrap_or(0) + 1)?;
    match record.value()? {
        3 => std::panic::resume_unwind(Box::new("at the disco")),
        5 => Err(oncelog::Error::user("no such customer")),
        7 => Ok(Outcome::Retry),
        9 => Ok(Outcome::DeadLetter),
        _ => Ok(Outcome::Commit),
    }
}

fn alerts(store: &Store, numbers: impl IntoIterator<Item = u64>) {
    let producer = store.producer(ALERTS).unwrap();
    for n in numbers {
        producer.append("k", &n).unwrap();
    }
}

#[test]
fn what_cannot_be_processed_becomes_a_dead_letter_in_the_same_commit() {
    let store = Store::in_memory().unwrap();
    let header = oncelog::Header { name: "trace", value: Some(b"t-1") };
    let producer = store.producer(ALERTS).unwrap();
    for n in 0..12u64 {
        producer.append_record(None, Some("k"), Some(&n), &[header], Some(1000 + i64::try_from(n).unwrap())).unwrap();
    }
    let mut task = troubled("p")
        .on_panic(FailurePolicy::DeadLetter)
        .on_error(FailurePolicy::Retry)
        .dead_letter(DEAD)
        .build(store.as_engine(), trouble)
        .unwrap();
    assert_eq!(task.step(None).unwrap(), 12, "a record that is given up is done with");
    assert_eq!(task.dead_letters(), 4);
    assert_eq!(store.committed_offsets("p", "alerts").unwrap(), [LogOffset(12)]);
    assert_eq!(store.snapshot().unwrap().get(COUNTER, "calls that count").unwrap(), Some(8));
    let letters = read(&store, DEAD, |record| {
        let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap_or_default().to_vec()).unwrap();
        let headers: Vec<_> = record.headers().map(|h| (h.name.to_owned(), text(h.value))).collect();
        let value = u64::from_be_bytes(record.value_bytes().unwrap().try_into().unwrap());
        (text(record.key_bytes()), value, headers)
    });
    let expected = [
        (3, "1", "the processing function panicked: at the disco"),
        (5, "3", "no such customer"),
        (7, "3", "asked for a retry 3 times"),
        (9, "1", "asked for it"),
    ];
    assert_eq!(letters.len(), expected.len());
    for ((key, value, headers), (number, attempts, reason)) in letters.into_iter().zip(expected) {
        assert_eq!((key.as_str(), value), ("k", number));
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        let ours = ["topic", "partition", "offset", "timestamp", "consumer", "attempts", "reason"];
        let ours = ours.map(|name| format!("oncelog.dead.{name}"));
        assert_eq!(names[0], "trace");
        assert_eq!(names[1..], ours);
        let (offset, timestamp) = (number.to_string(), (1000 + number).to_string());
        let values: Vec<_> = headers.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(values[..7], ["t-1", "alerts", "0", &offset, &timestamp, "p", attempts]);
        assert!(values[7].contains(reason), "{values:?}");
    }
}

#[test]
fn a_skipped_failure_leaves_nothing_and_the_next_record_is_next() {
    let store = Store::in_memory().unwrap();
    alerts(&store, [1, 3, 5, 2]);
    let mut task = troubled("p")
        .on_panic(FailurePolicy::Skip)
        .on_error(FailurePolicy::Skip)
        .build(store.as_engine(), trouble)
        .unwrap();
    assert_eq!(task.step(None).unwrap(), 4);
    assert_eq!(store.snapshot().unwrap().get(COUNTER, "calls that count").unwrap(), Some(2));
}

#[test]
fn a_failure_stops_unless_said_otherwise_and_after_the_last_attempt() {
    let store = Store::in_memory().unwrap();
    for (number, told) in [(3u64, "at the disco"), (5, "no such customer"), (7, "asked for a retry 3 times")] {
        alerts(&store, [1, number, 1]);
        let run = troubled("p").start(&store, trouble).unwrap();
        while !run.is_finished() {
            std::thread::yield_now();
        }
        assert_eq!(run.processed(), 1, "the record before it is committed");
        let error = run.wait_caught_up(MINUTE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::User);
        assert!(error.to_string().contains(told), "{error}");
        run.stop().expect("an error is told once");
        let mut rest = Processor::new("p", ALERTS).build(store.as_engine(), |_, _| Ok(Outcome::Commit)).unwrap();
        assert_eq!(rest.step(None).unwrap(), 2, "the record is still there");
    }
    alerts(&store, [9]);
    let error = troubled("p").build(store.as_engine(), trouble).unwrap().step(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn a_panic_is_tried_again_without_its_effects() {
    let store = Store::in_memory().unwrap();
    alerts(&store, [1, 3, 1]);
    let mut calls = 0;
    let mut task = troubled("p")
        .on_panic(FailurePolicy::Retry)
        .build(store.as_engine(), |record, tx| {
            calls += 1;
            if calls == 3 { Ok(Outcome::Commit) } else { trouble(record, tx) }
        })
        .unwrap();
    assert_eq!(task.step(None).unwrap(), 3);
    drop(task);
    assert_eq!(calls, 4);
    assert_eq!(store.snapshot().unwrap().get(COUNTER, "calls that count").unwrap(), Some(2));
}

#[test]
fn a_record_that_cannot_be_decoded_is_no_end_of_the_line() {
    let store = Store::in_memory().unwrap();
    let engine = store.as_engine();
    let topic = engine.open_topic(&ALERTS.spec()).unwrap();
    for value in [&8u64.to_be_bytes()[..], b"no number", &8u64.to_be_bytes()[..]] {
        let mut tx = engine.begin().unwrap();
        let record = oncelog::NewRecord { key: Some(b"k"), value: Some(value), ..oncelog::NewRecord::default() };
        tx.append(topic, None, record).unwrap();
        tx.submit().unwrap().wait().unwrap();
    }
    let run = troubled("p").on_error(FailurePolicy::DeadLetter).dead_letter(DEAD).start(&store, trouble).unwrap();
    caught_up(&run);
    assert_eq!((run.processed(), run.dead_letters()), (3, 1));
    run.stop().unwrap();
    assert_eq!(read(&store, DEAD, |record| record.value_bytes().unwrap().to_vec()), [b"no number".to_vec()]);
}

#[test]
fn no_record_is_blamed_for_a_full_transaction() {
    let disk = Arc::new(oncelog::disk::MemoryDisk::default());
    let store = StoreOptions::new()
        .disk(disk)
        .journal_file_bytes(1 << 20)
        .max_transaction_bytes(16 << 10)
        .max_record_bytes(6 << 10);
    let store = store.open("/s").unwrap();
    let blobs: TopicDef<Utf8, Bytes> = TopicDef::new("blobs");
    let copies: TopicDef<Utf8, Bytes> = TopicDef::new("copies");
    let producer = store.producer(blobs.clone()).unwrap();
    for n in 0..40u8 {
        producer.append("k", &vec![n; 4000]).unwrap();
    }
    // The group would be far over what a transaction may hold.
    let process = {
        let copies = copies.clone();
        move |blob: RecordRef<'_, Utf8, Bytes>, tx: &mut Tx<'_>| {
            let value = blob.value()?;
            if value[0] % 10 == 9 {
                return Ok(Outcome::DeadLetter);
            }
            for _ in 0..if value[0] == 15 { 5 } else { 1 } {
                tx.append(copies.clone(), "k", value)?;
            }
            Ok(Outcome::Commit)
        }
    };
    let run = Processor::new("p", blobs)
        .output(copies)
        .dead_letter(DEAD)
        .on_error(FailurePolicy::DeadLetter)
        .start(&store, process)
        .unwrap();
    caught_up(&run);
    assert_eq!((run.processed(), run.dead_letters()), (40, 5));
    run.stop().unwrap();
    let dead = read(&store, DEAD, |record| record.value_bytes().unwrap()[0]);
    assert_eq!(dead, [9, 15, 19, 29, 39], "15 alone has too many effects, the others had too much company");
    assert_eq!(store.offsets("copies", PartitionId(0)).unwrap().1, LogOffset(35));
}

#[test]
fn one_thread_that_fails_ends_all_in_order() {
    let store = Store::in_memory().unwrap();
    fill(&store, 4000);
    let run = Processor::new("p", ORDERS)
        .table(TOTALS)
        .threads(4)
        .start(&store, |order, tx| match order.value()? {
            1234 => Err(oncelog::Error::user("that one")),
            _ => add(order, tx),
        })
        .unwrap();
    while !run.is_finished() {
        std::thread::yield_now();
    }
    let (processed, progress) = (run.processed(), run.progress().unwrap());
    let error = run.stop().unwrap_err();
    assert!(error.to_string().contains("that one"), "{error}");
    let committed: u64 = store.committed_offsets("p", "orders").unwrap().iter().map(|next| next.0).sum();
    assert_eq!(committed, processed, "what was done with is committed, by every thread");
    assert_eq!(progress.iter().map(|at| at.next.0).sum::<u64>(), processed);
    let run = Processor::new("p", ORDERS).table(TOTALS).threads(4).start(&store, add).unwrap();
    caught_up(&run);
    run.stop().unwrap();
    let totals = store.snapshot().unwrap().scan(TOTALS, ..).unwrap();
    assert_eq!(totals.into_iter().collect::<BTreeMap<_, _>>(), totals_of(4000));
}

#[test]
fn a_second_one_of_the_name_is_locked_out_until_the_first_has_ended() {
    let store = Store::in_memory().unwrap();
    let start = || Processor::new("p", ORDERS).threads(2).start(&store, |_, _| Ok(Outcome::Commit));
    let run = start().unwrap();
    let error = start().err().unwrap();
    assert_eq!((error.kind(), error.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
    run.stop().unwrap();
    drop(start().unwrap());
    start().unwrap().stop().unwrap();
}

/// Runs `what` on another thread: it must come back in time.
fn in_time<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> (T, Duration) {
    let (tell, told) = mpsc::channel();
    let start = Instant::now();
    let thread = std::thread::spawn(move || tell.send(what()).unwrap());
    let came = told.recv_timeout(MINUTE).expect("it comes to an end");
    thread.join().unwrap();
    (came, start.elapsed())
}

#[test]
fn it_stops_in_a_backlog_in_a_back_off_and_while_it_waits() {
    let store = Store::in_memory().unwrap();
    fill(&store, 20_000);
    // In the middle of a backlog.
    let run = Processor::new("backlog", ORDERS)
        .commit_records(10)
        .start(&store, |_, _| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(Outcome::Commit)
        })
        .unwrap();
    while run.processed() == 0 {
        std::thread::yield_now();
    }
    assert!(!run.wait_caught_up(Duration::from_millis(5)).unwrap(), "not in that time");
    let before = run.lag().unwrap();
    assert!(before > 0);
    in_time(|| run.stop()).0.unwrap();
    let committed: u64 = store.committed_offsets("backlog", "orders").unwrap().iter().map(|next| next.0).sum();
    assert!((1..20_000).contains(&committed), "{committed}");
    // In a back-off of an hour.
    let hour = RetryPolicy::new().backoff(Duration::from_secs(3600), Duration::from_secs(3600));
    let run =
        Processor::new("back-off", ORDERS).retry(hour).threads(2).start(&store, |_, _| Ok(Outcome::Retry)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(run.processed(), 0, "the count does not grow");
    assert_eq!(run.lag().unwrap(), 20_000, "lag is told during a back-off");
    let (ended, took) = in_time(|| run.stop());
    ended.unwrap();
    assert!(took < Duration::from_secs(30), "{took:?}");
    // While it waits.
    let run = Processor::new("idle", ALERTS).start(&store, |_, _| Ok(Outcome::Commit)).unwrap();
    caught_up(&run);
    in_time(|| run.stop()).0.unwrap();
}

#[test]
fn a_store_that_is_closed_ends_a_back_off() {
    let store = Store::in_memory().unwrap();
    alerts(&store, [7]);
    let hour = RetryPolicy::new().backoff(Duration::from_secs(3600), Duration::from_secs(3600));
    // A name that no thread can have.
    let run = Processor::new("a\0b", ALERTS).retry(hour).start(&store, |_, _| Ok(Outcome::Retry)).unwrap();
    store.close().unwrap();
    let (error, _) = in_time(move || {
        while !run.is_finished() {
            std::thread::yield_now();
        }
        run.stop().unwrap_err()
    });
    assert_eq!(error.kind(), ErrorKind::Closed);
}

/// What a panic carries, and panics again when it is dropped.
struct Sour;

impl Drop for Sour {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            std::panic::resume_unwind(Box::new("again"));
        }
    }
}

#[test]
fn a_panic_that_panics_again_leaves_nothing_of_its_record() {
    let store = Store::in_memory().unwrap();
    alerts(&store, [1, 3, 1]);
    let mut task = Processor::new("p", ALERTS)
        .build(store.as_engine(), |record, tx| {
            tx.table(COUNTER)?.update("calls that count", |old| old.unwrap_or(0) + 1)?;
            if record.value()? == 3 { std::panic::resume_unwind(Box::new(Sour)) } else { Ok(Outcome::Commit) }
        })
        .unwrap();
    let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.step(None)));
    assert!(passed.is_err(), "such a panic is the caller's");
    let _ = task.step(Some(0)).unwrap();
    drop(task);
    assert_eq!(store.snapshot().unwrap().get(COUNTER, "calls that count").unwrap(), Some(1));
    assert_eq!(store.committed_offsets("p", "alerts").unwrap(), [LogOffset(1)]);
}

#[test]
fn a_break_of_one_thread_ends_all() {
    let store = Store::in_memory().unwrap();
    fill(&store, 100);
    let run = Processor::new("p", ORDERS)
        .threads(4)
        .start(&store, |order, _| Ok(if order.value()? == 50 { Outcome::Break } else { Outcome::Commit }))
        .unwrap();
    assert!(!run.wait_caught_up(MINUTE).unwrap(), "it never is");
    while !run.is_finished() {
        std::thread::yield_now();
    }
    run.stop().unwrap();
}

#[test]
fn a_store_that_is_closed_ends_it_with_a_typed_error() {
    let store = Store::in_memory().unwrap();
    let run = Processor::new("p", ORDERS).threads(4).start(&store, |_, _| Ok(Outcome::Commit)).unwrap();
    store.close().unwrap();
    let (error, _) = in_time(move || {
        loop {
            if run.is_finished() {
                return run.stop().unwrap_err();
            }
            std::thread::yield_now();
        }
    });
    assert_eq!(error.kind(), ErrorKind::Closed);
}

#[test]
fn restarts_at_any_moment_change_nothing() {
    let store = Store::in_memory().unwrap();
    let done = AtomicBool::new(false);
    let records = 6000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fill(&store, records);
            done.store(true, Ordering::SeqCst);
        });
        for round in 0u64.. {
            let last = done.load(Ordering::SeqCst) && round > 20;
            let run = Processor::new("p", ORDERS)
                .table(TOTALS)
                .output(ALERTS)
                .dead_letter(DEAD)
                .threads(1 + usize::try_from(round % 4).unwrap())
                .commit_records(1 + round % 7)
                .commits_in_flight(usize::try_from(round % 3).unwrap())
                .start(
                    &store,
                    |order, tx| if order.value()? % 100 == 99 { Ok(Outcome::DeadLetter) } else { add(order, tx) },
                )
                .unwrap();
            if last {
                caught_up(&run);
            } else {
                std::thread::sleep(Duration::from_micros(300 * (round % 11)));
            }
            if round % 2 == 0 {
                run.stop().unwrap()
            } else {
                drop(run)
            }
            if last {
                break;
            }
        }
    });
    let mut totals = BTreeMap::new();
    (0..records).filter(|n| n % 100 != 99).for_each(|n| *totals.entry(format!("c{}", n % 37)).or_insert(0) += n);
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.scan(TOTALS, ..).unwrap().into_iter().collect::<BTreeMap<_, _>>(), totals);
    assert_eq!(snapshot.end_offset("alerts", PartitionId(0)).unwrap(), LogOffset(records / 100 * 99));
    let mut dead = read(&store, DEAD, |record| u64::from_be_bytes(record.value_bytes().unwrap().try_into().unwrap()));
    dead.sort_unstable();
    assert_eq!(dead, (0..records).filter(|n| n % 100 == 99).collect::<Vec<_>>());
}
