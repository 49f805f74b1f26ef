//! The same processor as on a store, on a real broker: tables, outputs, restarts, other instances.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{LONG, PARTITIONS, WordCount, Writer, broker, read_all, unique};
use oncelog::{Bytes, Error, ErrorKind, Outcome, Processor, RetryPolicy, TableDef, TopicDef, U64, Utf8};
use oncelog_kafka::Kafka;

#[test]
fn words_are_counted_once_over_restarts() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    let kafka = job.options().open(dir.path()).unwrap();
    let run = job.processor().threads(2).start(&kafka, job.count()).unwrap();
    let mut writer = Writer::new(&servers, job.words().name());
    writer.write(2000);
    assert!(run.wait_caught_up(LONG).unwrap());
    assert_eq!((run.processed(), run.lag().unwrap()), (2000, 0));
    assert_eq!(run.progress().unwrap().len(), PARTITIONS as usize);
    job.assert_totals(&kafka, &writer.written);
    run.stop().unwrap();
    kafka.close().unwrap();
    writer.write(1000);

    let kafka = job.options().open(dir.path()).unwrap();
    let run = job.processor().threads(2).start(&kafka, job.count()).unwrap();
    assert!(run.wait_caught_up(LONG).unwrap());
    assert_eq!(run.processed(), 1000);
    job.assert_totals(&kafka, &writer.written);
    run.stop().unwrap();
    job.assert_told(&writer.written);
}

#[test]
fn a_new_instance_restores_its_tables() {
    let Some(servers) = broker() else { return };
    let job = WordCount::new(&servers);
    {
        // The first instance makes the topics.
        let dir = tempfile::tempdir().unwrap();
        let kafka = job.options().open(dir.path()).unwrap();
        job.processor().threads(1).start(&kafka, job.count()).unwrap().stop().unwrap();
    }
    let mut writer = Writer::new(&servers, job.words().name());
    for share in [1500, 500, 0] {
        // Each on another machine, as it were.
        let dir = tempfile::tempdir().unwrap();
        let kafka = job.options().open(dir.path()).unwrap();
        let run = job.processor().threads(1).start(&kafka, job.count()).unwrap();
        writer.write(share);
        assert!(run.wait_caught_up(LONG).unwrap());
        run.stop().unwrap();
        if share > 0 {
            job.assert_totals(&kafka, &writer.written);
        }
    }
    job.assert_told(&writer.written);
}

#[test]
fn what_was_aborted_is_not_seen_and_ends_with_markers_are_reached() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    let kafka = job.options().open(dir.path()).unwrap();
    let run = job.processor().threads(1).start(&kafka, job.count()).unwrap();
    let mut writer = Writer::transactional(&servers, job.words().name());
    writer.commit(300);
    writer.abort(300);
    writer.commit(200);
    writer.abort(100);
    assert!(run.wait_caught_up(LONG).unwrap());
    assert_eq!((run.processed(), run.lag().unwrap()), (500, 0));
    job.assert_totals(&kafka, &writer.written);
    run.stop().unwrap();
    job.assert_told(&writer.written);
}

#[test]
fn outcomes_are_those_of_a_store() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    let graves: TopicDef<Bytes, Bytes> = TopicDef::named(unique("graves"));
    let kafka = job.options().open(dir.path()).unwrap();
    let tries = Arc::new(AtomicU64::new(0));
    let (count, seen) = (job.count(), Arc::clone(&tries));
    let run = job
        .processor()
        .dead_letter(graves.clone())
        .retry(RetryPolicy::new().backoff(Duration::from_millis(1), Duration::from_millis(5)).attempts_max(3))
        .threads(1)
        .start(&kafka, move |word, tx| {
            let number = word.value()?;
            let outcome = count(word, tx)?;
            Ok(match number {
                // What it has staged is taken back each time.
                10 => {
                    seen.fetch_add(1, Ordering::SeqCst);
                    Outcome::Retry
                }
                20 => Outcome::Skip,
                30 => Outcome::DeadLetter,
                _ => outcome,
            })
        })
        .unwrap();
    let mut writer = Writer::new(&servers, job.words().name());
    let mut expected = std::collections::BTreeMap::new();
    for number in 1..=40 {
        let before = writer.written.clone();
        writer.write(1);
        let word = writer.written.iter().find(|(word, count)| before.get(*word) != Some(count)).unwrap().0;
        if ![10, 20, 30].contains(&number) {
            *expected.entry(word.clone()).or_insert(0) += 1;
        }
    }
    assert!(run.wait_caught_up(LONG).unwrap());
    assert_eq!((run.processed(), run.dead_letters()), (40, 2));
    assert_eq!(tries.load(Ordering::SeqCst), 3);
    run.stop().unwrap();
    job.assert_totals(&kafka, &expected);
    job.assert_told(&expected);
    assert_eq!(read_all(&servers, graves.name(), 1).len(), 2);
}

#[test]
fn an_error_stops_it_and_what_came_before_is_committed() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    let kafka = job.options().open(dir.path()).unwrap();
    let count = job.count();
    let run = job
        .processor()
        .threads(1)
        .start(&kafka, move |word, tx| if word.value()? == 50 { Err(Error::user("no more")) } else { count(word, tx) })
        .unwrap();
    Writer::new(&servers, job.words().name()).write(50);
    assert_eq!(run.wait_caught_up(LONG).map_err(|error| error.kind()), Err(ErrorKind::User));
    drop(run);
    // The last word, and at most those of its partition behind it, are left; the name is free.
    let run = job.processor().threads(1).start(&kafka, job.count()).unwrap();
    assert!(run.wait_caught_up(LONG).unwrap());
    run.stop().unwrap();
    assert_eq!(read_all(&servers, job.counts().name(), PARTITIONS).len(), 50);
}

#[test]
fn a_group_that_is_refused_is_done_again_without_what_was_refused() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    let large: TopicDef<Utf8, Utf8> = TopicDef::named(unique("large"));
    let kafka = job.options().open(dir.path()).unwrap();
    let start = |at: u64, tries: u64| {
        let (count, large, tries) = (job.count(), large.clone(), AtomicU64::new(tries));
        let processor = job.processor().output(large.clone()).threads(1).commit_interval(LONG);
        let started = processor.start(&kafka, move |word, tx| {
            if word.value()? == at {
                let is_refused = tries.load(Ordering::SeqCst) > 0;
                tries.store(tries.load(Ordering::SeqCst).saturating_sub(1), Ordering::SeqCst);
                // More than the cluster takes in one record, or not.
                tx.append(large.clone(), "large", &"x".repeat(if is_refused { 3 << 20 } else { 1000 }))?;
            }
            count(word, tx)
        });
        started.unwrap()
    };
    start(0, 0).stop().unwrap();
    let mut writer = Writer::new(&servers, job.words().name());
    writer.write(200);
    // Refused once, with those that came before it.
    let run = start(150, 1);
    assert!(run.wait_caught_up(LONG).unwrap());
    run.stop().unwrap();
    job.assert_told(&writer.written);
    writer.write(200);
    // Refused until it is alone: nobody else is to blame then.
    let run = start(350, 1000);
    let error = run.wait_caught_up(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains(large.name()), "{error}");
    drop(run);
    let run = start(350, 0);
    assert!(run.wait_caught_up(LONG).unwrap());
    run.stop().unwrap();
    job.assert_totals(&kafka, &writer.written);
    job.assert_told(&writer.written);
    assert_eq!(read_all(&servers, large.name(), 1).len(), 2);
}

#[test]
fn what_kafka_cannot_do_is_refused_and_says_so() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    let kafka = job.options().open(dir.path()).unwrap();
    let run = job.processor().threads(1).start(&kafka, job.count()).unwrap();
    let kind = |processor: Processor<Utf8, U64>| {
        processor.start(&kafka, |_, _| Ok(Outcome::Skip)).map(drop).map_err(|error| error.kind())
    };
    assert_eq!(kind(job.processor()), Err(ErrorKind::Locked));
    assert_eq!(kind(Processor::new("other", job.words()).table(job.totals())), Err(ErrorKind::Invalid));
    assert_eq!(kind(Processor::new("other", job.words().partitions(7))), Err(ErrorKind::Invalid));
    assert_eq!(kind(Processor::new("other", TopicDef::new("no such name"))), Err(ErrorKind::Invalid));
    run.stop().unwrap();

    // A table that is not the processor's: found out at the commit, and nothing of it happens.
    let alone: TopicDef<Utf8, U64> = TopicDef::named(unique("alone"));
    let foreign: TableDef<Utf8, U64> = TableDef::new("foreign");
    let run = Processor::new("foreign", alone.clone())
        .threads(1)
        .start(&kafka, move |word, tx| {
            tx.table(foreign.clone())?.put(word.key()?, &1)?;
            Ok(Outcome::Commit)
        })
        .unwrap();
    Writer::new(&servers, alone.name()).write(3);
    let error = run.wait_caught_up(LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("Processor::table"), "{error}");
}

#[test]
fn a_broker_that_is_not_there_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Kafka::open("127.0.0.1:1", dir.path());
    assert_eq!(opened.map(drop).map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
}
