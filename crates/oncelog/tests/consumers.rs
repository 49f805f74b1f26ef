//! Styles of consumers, where they begin, and their forms: with a function, as iterators, batch by batch.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/gap_at_end.rs"]
mod gap_at_end;

use std::sync::Arc;
use std::time::Duration;

use gap_at_end::with_a_gap_at_the_end;
use oncelog::disk::MemoryDisk;
use oncelog::{
    AsEngine, Bytes, Consumer, ConsumerOptions, ConsumerStyle, Error, ErrorKind, FailurePolicy, LogOffset,
    MinimumRetention, Outcome, Pair, PartitionId, RecordRef, Result, RetryPolicy, Store, StoreOptions, SyncPolicy,
    TableDef, TopicDef, Tx, U64, Utf8, Visibility, WhenFull, Whence, commit, skip, stop,
};

const LINES: TopicDef<Utf8, U64> = TopicDef::new("lines");
const WIDE: TopicDef<Utf8, U64> = TopicDef::new("wide").partitions(4);
const OUT: TopicDef<Utf8, U64> = TopicDef::new("out");
const SUMS: TableDef<Utf8, U64> = TableDef::new("sums");

fn client(id: &str) -> ConsumerStyle {
    ConsumerStyle::ClientTx(id.to_owned())
}

fn plain(whence: Whence) -> ConsumerStyle {
    ConsumerStyle::NonTx(whence)
}

fn fill(store: &Store, values: impl IntoIterator<Item = u64>) {
    let producer = store.producer(LINES).unwrap();
    for value in values {
        producer.append("k", &value).unwrap();
    }
}

/// The values of what a consumer still gives.
fn values(consumer: &mut Consumer<Utf8, U64>) -> Vec<u64> {
    consumer.map(|record| value_of(&record.unwrap())).collect()
}

fn value_of(record: &oncelog::Record) -> u64 {
    u64::from_be_bytes(record.value.as_deref().unwrap().try_into().unwrap())
}

#[test]
fn a_consumer_begins_where_it_is_told() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    for at in 0..10u64 {
        let time = 1000 * i64::try_from(at).unwrap();
        producer.append_record(None, None, Some(&at), &[], Some(time)).unwrap();
    }
    let from = |whence| values(&mut store.consumer(LINES, plain(whence)).unwrap());
    assert_eq!(from(Whence::Oldest), (0..10).collect::<Vec<_>>());
    assert_eq!(from(Whence::Latest), [0_u64; 0]);
    assert_eq!(from(Whence::Position(LogOffset(7))), [7, 8, 9]);
    assert_eq!(from(Whence::Position(LogOffset(10))), [0_u64; 0]);
    assert_eq!(from(Whence::Time(7000)), [7, 8, 9]);
    assert_eq!(from(Whence::Time(7001)), [8, 9]);
    assert_eq!(from(Whence::Time(i64::MIN)).len(), 10);
    assert_eq!(from(Whence::Time(i64::MAX)), [0_u64; 0]);
    let error = store.consumer(LINES, plain(Whence::Position(LogOffset(11)))).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("position 11") && error.to_string().contains("lines"), "{error}");
}

#[test]
fn time_is_looked_up_in_the_order_of_offsets() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    // A clock that went back: the first record at or after the time, not the last jump.
    for (value, time) in [(0, 10), (1, 50), (2, 20), (3, 60)] {
        producer.append_record(None, None, Some(&value), &[], Some(time)).unwrap();
    }
    let from = |time| values(&mut store.consumer(LINES, plain(Whence::Time(time))).unwrap());
    assert_eq!(from(15), [1, 2, 3]);
    assert_eq!(from(55), [3]);
}

#[test]
fn where_a_remembered_consumer_begins_is_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    fill(&store, 0..3);
    let how = || ConsumerOptions::new(client("late")).start(Whence::Latest);
    drop(store.consumer(LINES, how()).unwrap());
    // It has read nothing, and this comes after it was made: it is not to be lost.
    fill(&store, 3..5);
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(values(&mut store.consumer(LINES, how()).unwrap()), [3, 4]);
    // Its own progress is stronger than what it is told now.
    let mut again = store.consumer(LINES, ConsumerOptions::new(client("late")).start(Whence::Oldest)).unwrap();
    assert_eq!(values(&mut again), [0_u64; 0]);
}

#[test]
fn a_style_that_forgets_leaves_no_trace() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..3);
    let before = store.snapshot().unwrap().lsn();
    // Two at once, and nothing is written.
    let mut one = store.consumer(LINES, plain(Whence::Oldest)).unwrap();
    let mut two = store.consumer(LINES, plain(Whence::Oldest)).unwrap();
    assert_eq!(one.try_process(Some(2), |_, _| commit!()).unwrap(), 2);
    assert_eq!(values(&mut two), [0, 1, 2]);
    assert_eq!(values(&mut one), [2]);
    one.commit().unwrap();
    assert_eq!(store.snapshot().unwrap().lsn(), before);
}

#[test]
fn effects_of_a_style_that_forgets_are_durable_on_return() {
    let store = Store::in_memory().unwrap();
    fill(&store, 1..=2500);
    let mut consumer = store.consumer(LINES, plain(Whence::Oldest)).unwrap();
    let mut most_staged = 0;
    let done = consumer.try_process(None, |record, tx| {
        let value = record.value()?;
        if value % 2 == 1 {
            skip!()
        }
        let sum = tx.table(SUMS)?.update("sum", |sum| sum.unwrap_or(0) + value)?;
        most_staged = most_staged.max(sum);
        commit!()
    });
    assert_eq!(done.unwrap(), 2500);
    let even: u64 = (1..=2500).filter(|value| value % 2 == 0).sum();
    assert_eq!(store.snapshot().unwrap().get(SUMS, "sum").unwrap(), Some(even));
    assert_eq!(most_staged, even);
}

#[test]
fn an_error_takes_back_its_own_record_only() {
    for style in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx] {
        let store = Store::in_memory().unwrap();
        fill(&store, 0..10);
        let mut consumer = store.consumer(LINES, ConsumerOptions::new(style.clone()).commit_records(100)).unwrap();
        let mut fail = true;
        let mut handed = Vec::new();
        let mut run = |fail: &mut bool, panic: bool| {
            consumer.try_process(None, |record, tx| {
                handed.push(record.value()?);
                tx.append(OUT, "k", &record.value()?)?;
                if record.value()? == 6 && std::mem::take(fail) {
                    assert!(!panic, "on purpose");
                    return Err(Error::user("on purpose"));
                }
                commit!()
            })
        };
        let failed = run(&mut fail, false).unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::User, "{style:?}");
        assert_eq!(values(&mut store.consumer(OUT, plain(Whence::Oldest)).unwrap()), [0, 1, 2, 3, 4, 5], "{style:?}");
        fail = true;
        let panicked = run(&mut fail, true).unwrap_err();
        assert!(panicked.to_string().contains("on purpose"), "{panicked}");
        assert_eq!(run(&mut fail, false).unwrap(), 4, "{style:?}");
        let out = values(&mut store.consumer(OUT, plain(Whence::Oldest)).unwrap());
        assert_eq!(out, (0..10).collect::<Vec<_>>(), "{style:?}");
        assert_eq!(handed, [0, 1, 2, 3, 4, 5, 6, 6, 6, 7, 8, 9], "{style:?}");
    }
}

#[test]
fn outcomes_mean_the_same_in_every_style() {
    for style in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx] {
        let store = Store::in_memory().unwrap();
        fill(&store, 0..6);
        let retry = RetryPolicy::new().backoff(Duration::ZERO, Duration::ZERO).attempts_max(3);
        let mut consumer = store.consumer(LINES, ConsumerOptions::new(style).retry(retry)).unwrap();
        let mut tries = 0;
        let done = consumer.try_process(Some(5), |record, tx| {
            tx.append(OUT, "k", &record.value()?)?;
            match record.value()? {
                1 => skip!(),
                2 if tries < 2 => {
                    tries += 1;
                    Ok(Outcome::Retry)
                }
                4 => stop!(),
                _ => commit!(),
            }
        });
        assert_eq!((done.unwrap(), tries), (4, 2));
        let out = store.consumer(OUT, plain(Whence::Oldest)).unwrap();
        assert_eq!(values(&mut { out }), [0, 2, 3]);
        let mut tries = 0;
        let error = consumer.try_process(None, |_, _| {
            tries += 1;
            Ok(Outcome::Retry)
        });
        assert_eq!((error.unwrap_err().kind(), tries), (ErrorKind::User, 3));
        assert_eq!(values(&mut consumer), [4, 5], "the record that was given up is still there");
    }
}

/// A record that asks for another try holds up its own partition only.
#[test]
fn other_partitions_go_on_during_a_back_off() {
    const TWO: TopicDef<Utf8, U64> = TopicDef::new("two").partitions(2);
    for style in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx] {
        let store = Store::in_memory().unwrap();
        let producer = store.producer(TWO).unwrap();
        for (partition, value) in [(0, 0), (0, 1), (1, 10), (1, 11), (1, 12)] {
            producer.append_record(Some(PartitionId(partition)), None, Some(&value), &[], None).unwrap();
        }
        let backoff = std::time::Duration::from_millis(30);
        let retry = RetryPolicy::new().backoff(backoff, backoff).attempts_max(3);
        let mut consumer = store.consumer(TWO, ConsumerOptions::new(style).retry(retry)).unwrap();
        let (mut calls, mut tries) = (Vec::new(), 0);
        let mut process = |record: RecordRef<'_, Utf8, U64>, _: &mut Tx<'_>| {
            calls.push(record.value()?);
            tries += u32::from(record.value()? == 0);
            if record.value()? == 0 && tries < 3 { Ok(Outcome::Retry) } else { Ok(Outcome::Commit) }
        };
        // How often it was tried is remembered from call to call.
        let mut done = 0;
        while done < 5 {
            done += consumer.try_process(Some(1), &mut process).unwrap();
        }
        assert_eq!(calls.iter().filter(|value| **value == 0).count(), 3);
        calls.retain(|value| *value != 0);
        assert_eq!(calls, [10, 11, 12, 1], "the others first, each partition in order");
        assert_eq!(consumer.try_process(None, |_, _| Ok(Outcome::Commit)).unwrap(), 0);
    }
}

#[test]
fn a_dead_letter_fits_where_its_record_did() {
    const DEAD: TopicDef<Bytes, Bytes> = TopicDef::new("dead");
    const BLOBS: TopicDef<Bytes, Bytes> = TopicDef::new("blobs");
    const MAX: usize = 2000;
    for style in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx] {
        let options = || StoreOptions::new().disk(Arc::new(MemoryDisk::default())).max_record_bytes(MAX);
        let store = options().max_transaction_bytes(4096).open("/s").unwrap();
        let blobs = store.producer(BLOBS).unwrap();
        // Down from what is just too large, so that all steps are met.
        let fits = |bytes: usize| blobs.append_record(None, None, Some(&vec![7; bytes][..]), &[], None).is_ok();
        let largest = (0..MAX).rev().find(|bytes| fits(*bytes)).unwrap();
        let sizes = [largest, largest - 60, largest - 150, largest - 400, largest - 1000];
        assert!(sizes[1..].iter().all(|bytes| fits(*bytes)));
        let mut consumer = store.consumer(BLOBS, ConsumerOptions::new(style).dead_letter(DEAD)).unwrap();
        assert_eq!(consumer.try_process(None, |_, _| Ok(Outcome::DeadLetter)).unwrap(), 5);
        let dead = store.consumer(DEAD, plain(Whence::Oldest)).unwrap();
        let dead: Vec<_> = dead.map(Result::unwrap).collect();
        let values: Vec<_> = dead.iter().map(|letter| letter.value.as_ref().unwrap().len()).collect();
        assert_eq!(values, sizes);
        let headers: Vec<_> = dead.iter().map(|letter| letter.headers.len()).collect();
        assert_eq!((headers[0], headers[4]), (0, 7), "{headers:?}");
        assert!(headers.is_sorted() && headers[1..4].iter().all(|count| [0, 3, 6, 7].contains(count)), "{headers:?}");
    }
    // One that was let in when more was allowed.
    let disk = Arc::new(MemoryDisk::default());
    let store = StoreOptions::new().disk(Arc::clone(&disk) as _).open("/s").unwrap();
    store.producer(BLOBS).unwrap().append(b"k", &[7; MAX]).unwrap();
    store.close().unwrap();
    let store = StoreOptions::new().disk(disk).max_record_bytes(MAX).open("/s").unwrap();
    let mut consumer = store.consumer(BLOBS, ConsumerOptions::new(client("c")).dead_letter(DEAD)).unwrap();
    let error = consumer.try_process(None, |_, _| Ok(Outcome::DeadLetter)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("blobs") && error.to_string().contains("max_record_bytes"), "{error}");
}

#[test]
fn a_transaction_is_committed_with_what_was_handed_out() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..4);
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    let add = |value: u64| {
        let mut transaction = store.begin().unwrap();
        transaction.table(SUMS).unwrap().update("k", |sum| sum.unwrap_or(0) + value).unwrap();
        transaction
    };
    let sum = || store.snapshot().unwrap().get(SUMS, "k").unwrap().unwrap_or(0);
    let next = || store.committed_offsets("c", "lines").unwrap()[0];
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 0);
    consumer.commit_with(add(100)).unwrap();
    assert_eq!((sum(), next()), (100, LogOffset(1)));
    // One that loses leaves both as they were, and the record at hand.
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 1);
    let loses = add(1000);
    add(1).commit().unwrap();
    assert_eq!(consumer.commit_with(loses).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((sum(), next()), (101, LogOffset(1)));
    consumer.commit_with(add(1000)).unwrap();
    assert_eq!((sum(), next()), (1101, LogOffset(2)));
    // A batch too; then nothing is at hand.
    for _ in 0..2 {
        assert_eq!(consumer.next_batch().unwrap().unwrap().count(), 1);
        consumer.commit_with(add(5)).unwrap();
    }
    consumer.commit_with(add(0)).unwrap();
    assert_eq!((sum(), next()), (1111, LogOffset(4)));
    let other = Store::in_memory().unwrap();
    assert_eq!(consumer.commit_with(other.begin().unwrap()).unwrap_err().kind(), ErrorKind::Invalid);
    let mut forgets = store.consumer(LINES, plain(Whence::Oldest)).unwrap();
    assert!(forgets.next().is_some());
    forgets.commit_with(add(9)).unwrap();
    assert_eq!((sum(), value_of(&forgets.next().unwrap().unwrap())), (1120, 1));
}

#[test]
fn what_is_given_up_goes_to_the_dead_letter_topic_in_every_style() {
    const DEAD: TopicDef<Utf8, U64> = TopicDef::new("dead");
    for style in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx] {
        let store = Store::in_memory().unwrap();
        fill(&store, 0..6);
        let retry = RetryPolicy::new().backoff(Duration::ZERO, Duration::ZERO).attempts_max(2);
        let how = ConsumerOptions::new(style).retry(retry).dead_letter(DEAD);
        let how = how.on_panic(FailurePolicy::DeadLetter).on_error(FailurePolicy::Skip);
        let mut consumer = store.consumer(LINES, how).unwrap();
        let mut calls = 0;
        let done = consumer.try_process(None, |record, tx| {
            calls += 1;
            tx.append(OUT, "k", &record.value()?)?;
            match record.value()? {
                1 => Ok(Outcome::Retry),
                2 => panic!("on purpose"),
                3 => Ok(Outcome::DeadLetter),
                4 => Err(Error::user("on purpose")),
                _ => commit!(),
            }
        });
        assert_eq!((done.unwrap(), calls), (6, 7));
        let give = |topic| values(&mut store.consumer(topic, plain(Whence::Oldest)).unwrap());
        assert_eq!(give(OUT), [0, 5]);
        assert_eq!(give(DEAD), [1, 2, 3]);
        let mut dead = store.consumer(DEAD, plain(Whence::Oldest)).unwrap();
        let headers = dead.next().unwrap().unwrap().headers;
        assert!(headers.iter().any(|(name, value)| name == "oncelog.dead.attempts" && value.as_deref() == Some(b"2")));
    }
    let store = Store::in_memory().unwrap();
    let nowhere = ConsumerOptions::new(client("c")).on_error(FailurePolicy::DeadLetter);
    assert_eq!(store.consumer(LINES, nowhere).err().unwrap().kind(), ErrorKind::Invalid);
}

#[test]
fn a_dead_letter_goes_to_the_partition_that_a_producer_would_choose() {
    type Hour = Pair<Utf8, U64>;
    const HOURS: TopicDef<Hour, U64> = TopicDef::new("hours").partitions(8);
    const DEAD: TopicDef<Hour, U64> = TopicDef::new("dead hours").partitions(8);
    const RAW: TopicDef<Bytes, Bytes> = TopicDef::new("raw dead hours").partitions(8);
    fn check<K: oncelog::Codec, V: oncelog::Codec>(store: &Store, topic: TopicDef<K, V>, count: usize)
    where
        K::Owned: std::borrow::Borrow<K::Value>,
    {
        let mut letters = store.consumer(topic.clone(), plain(Whence::Oldest)).unwrap();
        let mut found = 0;
        while let Some(letters) = letters.next_batch().unwrap() {
            let partition = letters.partition_id();
            for letter in letters {
                let key = K::decode_owned(letter.unwrap().key_bytes().unwrap()).unwrap();
                assert_eq!(partition, topic.partition_of(std::borrow::Borrow::borrow(&key)).unwrap());
                found += 1;
            }
        }
        assert_eq!(found, count);
    }
    let store = Store::in_memory().unwrap();
    let hours = store.producer(HOURS).unwrap();
    for n in 0..40u64 {
        hours.append(&(format!("user-{}", n % 5), n), &n).unwrap();
    }
    for (dead, style) in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx].into_iter().enumerate() {
        let how = ConsumerOptions::new(style).dead_letter(DEAD);
        let mut consumer = store.consumer(HOURS, how).unwrap();
        assert_eq!(consumer.try_process(None, |_, _| Ok(Outcome::DeadLetter)).unwrap(), 40);
        check(&store, DEAD, 40 * (dead + 1));
    }
    let task = oncelog::Processor::new("p", HOURS).dead_letter(RAW);
    let mut task = task.build(store.as_engine(), |_, _| Ok(Outcome::DeadLetter)).unwrap();
    assert_eq!(task.step(None).unwrap(), 40);
    check(&store, RAW, 40);
}

#[test]
fn the_iterator_commits_one_when_the_next_is_asked_for() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..4);
    let committed = || store.committed_offsets("c", "lines").unwrap()[0].0;
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    for expected in 0..3 {
        assert_eq!(value_of(&consumer.next().unwrap().unwrap()), expected);
        assert_eq!(committed(), expected);
    }
    assert_eq!(consumer.lag(), 1);
    drop(consumer);
    // The last one was not said to be done with: it comes again.
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 2);
    consumer.commit().unwrap();
    consumer.commit().unwrap();
    assert_eq!(committed(), 3);
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 3);
    consumer.rewind();
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 3);
    assert!(consumer.next().is_none());
    assert_eq!(committed(), 4);
    fill(&store, 4..5);
    assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 4, "it goes on when there is more");
}

/// What comes before a gap is not passed with it: not where its commit was refused for what another has changed, and
/// not where it was refused for want of room.
#[test]
fn a_record_before_a_gap_whose_commit_was_refused_is_not_passed_with_the_gap() {
    let dir = tempfile::tempdir().unwrap();
    let store = with_a_gap_at_the_end(dir.path(), LINES);
    // Larger groups, so that the gap is met while the record has no place yet.
    let grouped = |id| ConsumerOptions::new(client(id)).commit_records(10);
    let mut consumer = store.consumer(LINES, grouped("loses")).unwrap();
    let (mut calls, theirs) = (0, store.clone());
    let told = consumer.try_process(None, |record, tx| {
        calls += 1;
        let sum = tx.table(SUMS)?.get("sum")?.unwrap_or(0);
        if calls == 1 {
            theirs.transact(|tx| tx.table(SUMS)?.put("sum", &100))?;
        }
        tx.table(SUMS)?.put("sum", &(sum + record.value()?))?;
        Ok(Outcome::Commit)
    });
    assert_eq!((told.unwrap_err().kind(), calls), (ErrorKind::Gap, 2));
    assert_eq!(store.snapshot().unwrap().get(SUMS, "sum").unwrap(), Some(107));

    let small =
        OUT.max_total_bytes(4 << 10).blocking_minimum_retention(MinimumRetention::Age(Duration::from_secs(3600)));
    let out = store.producer(small.clone()).unwrap().when_full(WhenFull::Fail);
    while out.append("k", &0).is_ok() {}
    let mut consumer = store.consumer(LINES, grouped("finds no room")).unwrap();
    let mut copy = |record: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>| {
        tx.append(small.clone(), "copied", &record.value()?)?;
        Ok(Outcome::Commit)
    };
    for _ in 0..2 {
        let told = consumer.try_process(None, &mut copy).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::TopicFull, "{told}");
        // There is none before which it stands.
        consumer.skip_gap().unwrap();
        assert_eq!(consumer.positions(), [(PartitionId(0), LogOffset(0))]);
    }
    let end = store.offsets("out", PartitionId(0)).unwrap().1;
    store.truncate_before("out", PartitionId(0), end).unwrap();
    let told = consumer.try_process(None, &mut copy).unwrap_err();
    assert_eq!(told.gap().unwrap().start, LogOffset(1), "{told}");
    consumer.skip_gap().unwrap();
    assert_eq!(consumer.try_process(None, &mut copy).unwrap(), 0);
    let copies = store.consumer(OUT, plain(Whence::Position(end))).unwrap();
    assert_eq!(copies.map(|record| value_of(&record.unwrap())).collect::<Vec<_>>(), [7]);
}

#[test]
fn records_that_are_lost_at_the_end_are_skipped_once_and_for_all() {
    type Form = fn(&mut Consumer<Utf8, U64>) -> Result<Vec<u64>>;
    let forms: [(&str, Form); 5] = [
        ("one by one", |consumer| Ok(values(consumer))),
        ("batch by batch", |consumer| {
            let mut seen = Vec::new();
            while let Some(batch) = consumer.next_batch()? {
                for record in batch {
                    seen.push(record?.value()?);
                }
            }
            Ok(seen)
        }),
        ("with a function", |consumer| {
            let mut seen = Vec::new();
            consumer.try_process(None, |record, _| {
                seen.push(record.value()?);
                commit!()
            })?;
            Ok(seen)
        }),
        ("with a function that skips", |consumer| {
            consumer.try_process(None, |_, _| skip!())?;
            Ok(vec![7])
        }),
        ("one with a function, then one by one", |consumer| {
            consumer.try_process(Some(1), |_, _| commit!())?;
            assert!(consumer.next().is_none());
            Ok(vec![7])
        }),
    ];
    for (how, form) in forms {
        for style in [client("c"), ConsumerStyle::GlobalTx] {
            let home = tempfile::tempdir().unwrap();
            let store = with_a_gap_at_the_end(home.path(), LINES);
            let skips = ConsumerOptions::new(style.clone()).on_gap(oncelog::GapPolicy::Skip);
            let mut consumer = store.consumer(LINES, skips).unwrap();
            assert_eq!(form(&mut consumer).unwrap(), [7], "{how}");
            drop(consumer);
            store.close().unwrap();
            // Whoever is told of gaps is not told of this one again.
            let store = Store::open(home.path().join("cut")).unwrap();
            let mut stops = store.consumer(LINES, style).unwrap();
            assert!(stops.next().is_none(), "{how}");
            fill(&store, [8]);
            assert_eq!(values(&mut stops), [8]);
        }
    }
}

#[test]
fn forms_can_be_mixed() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    let batch: Vec<u64> = (0..9).collect();
    producer.append_batch(batch.iter().map(|value| ("k", value))).unwrap();
    for style in [plain(Whence::Oldest), client("c"), ConsumerStyle::GlobalTx] {
        let mut consumer = store.consumer(LINES, style).unwrap();
        assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 0);
        let mut seen = Vec::new();
        consumer
            .try_process(Some(2), |record, _| {
                seen.push(record.value()?);
                commit!()
            })
            .unwrap();
        assert_eq!(seen, [1, 2]);
        assert_eq!(consumer.positions(), [(PartitionId(0), LogOffset(3))]);
        assert_eq!(value_of(&consumer.next().unwrap().unwrap()), 3);
        assert_eq!(consumer.lag(), 5);
        let batch = consumer.next_batch().unwrap().unwrap();
        let rest: Vec<u64> = batch.map(|record| record.unwrap().value().unwrap()).collect();
        assert_eq!(rest, [4, 5, 6, 7, 8]);
        consumer.rewind();
        assert_eq!(values(&mut consumer), [4, 5, 6, 7, 8]);
        assert!(consumer.next_batch().unwrap().is_none());
    }
    assert_eq!(store.committed_offsets("c", "lines").unwrap(), [LogOffset(9)]);
}

#[test]
fn there_is_one_global_consumer_of_a_topic_and_one_of_each_id() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..4);
    let mut global = store.consumer(LINES, ConsumerStyle::GlobalTx).unwrap();
    let refused = store.consumer(LINES, ConsumerStyle::GlobalTx).err().unwrap();
    assert_eq!((refused.kind(), refused.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
    assert!(refused.to_string().contains("lines"), "{refused}");
    // Of another topic there may be one, and a client beside it.
    let _other = store.consumer(OUT, ConsumerStyle::GlobalTx).unwrap();
    let mut client_consumer = store.consumer(LINES, client("c")).unwrap();
    assert_eq!(store.consumer(LINES, client("c")).err().unwrap().kind(), ErrorKind::Locked);
    assert_eq!(store.consumer(LINES, client("")).err().unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(global.try_process(Some(3), |_, _| commit!()).unwrap(), 3);
    drop(global);
    let mut next = store.consumer(LINES, ConsumerStyle::GlobalTx).unwrap();
    assert_eq!(values(&mut next), [3], "each record once over all of them");
    assert_eq!(values(&mut client_consumer), [0, 1, 2, 3]);
}

#[test]
fn a_subset_of_partitions_is_read_alone() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(WIDE).unwrap();
    for partition in 0..4 {
        let value = u64::from(partition);
        producer.append_record(Some(PartitionId(partition)), None, Some(&value), &[], None).unwrap();
    }
    let how = |style, partitions: &[u32]| {
        ConsumerOptions::new(style).partitions(partitions.iter().map(|partition| PartitionId(*partition)))
    };
    let mut some = store.consumer(WIDE, how(plain(Whence::Oldest), &[3, 1, 3])).unwrap();
    let mut found = values(&mut some);
    found.sort_unstable();
    assert_eq!(found, [1, 3]);
    assert_eq!(store.consumer(WIDE, how(plain(Whence::Oldest), &[4])).err().unwrap().kind(), ErrorKind::Invalid);
    let mut first = store.consumer(WIDE, how(client("c"), &[0])).unwrap();
    assert_eq!(store.consumer(WIDE, how(client("c"), &[1])).err().unwrap().kind(), ErrorKind::Locked);
    assert_eq!(values(&mut first), [0]);
    drop(first);
    let mut rest = store.consumer(WIDE, client("c")).unwrap();
    let mut found = values(&mut rest);
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn blocking_forms_wait_for_more_and_end_with_the_store() {
    let store = Store::in_memory().unwrap();
    fill(&store, 0..2);
    let appending = store.clone();
    let (told, heard) = std::sync::mpsc::channel::<()>();
    let writer = std::thread::spawn(move || {
        for value in 2..5 {
            heard.recv().unwrap();
            fill(&appending, value..=value);
        }
        heard.recv().unwrap();
        appending.close().unwrap();
    });
    let mut consumer = store.consumer(LINES, client("c")).unwrap();
    let mut seen = Vec::new();
    let done = consumer.process(Some(3), |record, _| {
        seen.push(record.value()?);
        if record.value()? == 1 {
            told.send(()).unwrap();
        }
        commit!()
    });
    assert_eq!((done.unwrap(), &seen[..]), (3, &[0, 1, 2][..]));
    told.send(()).unwrap();
    for record in consumer.waiting() {
        match record {
            Ok(record) => {
                seen.push(value_of(&record));
                told.send(()).unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Closed),
        }
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    writer.join().unwrap();
}

#[test]
fn written_records_are_shown_early_and_made_durable_by_the_commit_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::options().manual_duties().open(dir.path().join("store")).unwrap();
    let producer = store.producer(LINES).unwrap().sync_policy(SyncPolicy::Os);
    producer.append("k", &7).unwrap();
    let mut durable = store.consumer(LINES, client("durable")).unwrap();
    // Opening has committed where it begins, and with that what was written before.
    assert_eq!(values(&mut durable), [7]);
    let how = |style| ConsumerOptions::new(style).visibility(Visibility::Written);
    let mut written = store.consumer(LINES, how(client("written"))).unwrap();
    let mut looking = store.consumer(LINES, how(plain(Whence::Latest))).unwrap();
    producer.append("k", &8).unwrap();
    assert_eq!(durable.lag(), 0);
    assert_eq!(store.offsets("lines", PartitionId(0)).unwrap().1, LogOffset(1));
    // Only looking makes nothing durable.
    assert_eq!(values(&mut looking), [8]);
    assert_eq!(store.offsets("lines", PartitionId(0)).unwrap().1, LogOffset(1));
    assert_eq!(values(&mut written), [7, 8]);
    assert_eq!(store.committed_offsets("written", "lines").unwrap(), [LogOffset(2)]);
    assert_eq!(store.offsets("lines", PartitionId(0)).unwrap().1, LogOffset(2));
    assert_eq!(values(&mut durable), [8]);
}
