//! The coordinator over a store and in memory: each trap that earlier coordinators fell into, as a test.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

#[path = "common/set_clock.rs"]
mod set_clock;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{
    Bytes, Committed, Consumer, ConsumerStyle, Coordinator, CoordinatorError, Error, ErrorKind,
    IdempotentProducerConfig, InMemoryStateBackend, LogOffset, PartitionId, ProducerStamp, Sequence, Stamped,
    StateBackend, StateRows, StateTransaction, Store, StoreOptions, TableDef, TopicDef, TxnId, TxnOutcome, U64, Utf8,
};
use proptest::prelude::*;
use set_clock::SetClock;

fn options(disk: &Arc<MemoryDisk>, clock: &Arc<SetClock>) -> StoreOptions {
    Store::options().disk(Arc::clone(disk) as _).clock(Arc::clone(clock) as _).journal_file_bytes(64 << 10)
}

/// A store in memory that can be left as a crash leaves it, and opened again.
struct Home {
    disk: Arc<MemoryDisk>,
    clock: Arc<SetClock>,
}

impl Home {
    fn new() -> Home {
        let clock = Arc::new(SetClock::default());
        clock.jump(1_700_000_000_000);
        Home { disk: Arc::default(), clock }
    }

    fn open(&self) -> Store {
        options(&self.disk, &self.clock).open("/memory").unwrap()
    }

    fn coordinator(&self, store: &Store) -> Coordinator {
        Coordinator::new(store.state_backend("app").unwrap())
    }
}

fn stamp(sequence: u64) -> ProducerStamp {
    ProducerStamp::new("sensor-7", PartitionId(0), Sequence(sequence))
}

/// Over both backends, for what must be the same in both.
fn both(test: impl Fn(&dyn Fn() -> Coordinator, &SetClock)) {
    let home = Home::new();
    let store = home.open();
    test(&|| home.coordinator(&store), &home.clock);
    let clock = Arc::new(SetClock::default());
    let backend: Arc<dyn StateBackend> = Arc::new(InMemoryStateBackend::new().clock(Arc::clone(&clock) as _));
    test(&|| Coordinator::shared(Arc::clone(&backend)), &clock);
}

/// Takes a message in, counting under `key`; `false`: it was taken in before.
fn take_in(coordinator: &Coordinator, stamp: &ProducerStamp, key: &[u8]) -> Result<bool, CoordinatorError> {
    let Some(txn) = coordinator.begin_transaction(stamp)? else { return Ok(false) };
    let count = coordinator.state_in(txn, key)?.map_or(0, |bytes| bytes[0]);
    coordinator.add_state_change(txn, key, &[count + 1])?;
    coordinator.commit_transaction(txn)?;
    Ok(true)
}

fn count(coordinator: &Coordinator, key: &[u8]) -> u8 {
    coordinator.state(key).unwrap().map_or(0, |bytes| bytes[0])
}

#[test]
fn a_message_is_taken_in_once() {
    both(|coordinator, _| {
        let coordinator = coordinator();
        assert!(take_in(&coordinator, &stamp(0), b"k").unwrap());
        assert!(!take_in(&coordinator, &stamp(0), b"k").unwrap());
        assert!(take_in(&coordinator, &stamp(1), b"k").unwrap());
        for old in [0, 1, 0] {
            assert!(!take_in(&coordinator, &stamp(old), b"k").unwrap());
        }
        assert_eq!(count(&coordinator, b"k"), 2);
        assert_eq!(coordinator.expected_sequence("sensor-7", PartitionId(0)).unwrap(), Sequence(2));
        let counts = coordinator.stats().snapshot();
        assert_eq!((counts.received, counts.duplicates_filtered, counts.opened, counts.committed), (6, 4, 2, 2));
    });
}

#[test]
fn the_mark_is_never_there_before_the_changes() {
    let home = Home::new();
    let store = home.open();
    let coordinator = home.coordinator(&store);
    // An abort leaves the message deliverable.
    let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    coordinator.add_state_change(txn, b"k", b"lost").unwrap();
    assert_eq!(coordinator.state(b"k").unwrap(), None, "nobody sees what is not committed");
    coordinator.abort_transaction(txn).unwrap();
    assert_eq!(coordinator.expected_sequence("sensor-7", PartitionId(0)).unwrap(), Sequence(0));
    // So does the end of the process in the middle of a transaction.
    let lost = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    coordinator.add_state_change(lost, b"k", b"lost").unwrap();
    drop(coordinator);
    drop(store);
    let store = home.open();
    let coordinator = home.coordinator(&store);
    assert_eq!(coordinator.state(b"k").unwrap(), None);
    assert_eq!(coordinator.outcome(lost).unwrap(), TxnOutcome::Aborted);
    assert!(take_in(&coordinator, &stamp(0), b"k").unwrap());
    assert_eq!(count(&coordinator, b"k"), 1);
}

#[test]
fn duplicates_are_known_after_a_restart_and_across_generations() {
    let home = Home::new();
    for round in 0..3 {
        let store = home.open();
        let coordinator = home.coordinator(&store);
        for sequence in 0..10 {
            assert_eq!(take_in(&coordinator, &stamp(sequence), b"k").unwrap(), round == 0);
        }
        assert_eq!(count(&coordinator, b"k"), 10);
        drop(coordinator);
        store.close().unwrap();
    }
}

#[test]
fn one_of_two_transactions_for_a_stamp_is_told_to_wait() {
    both(|make, _| {
        let (one, other) = (make(), make());
        let first = one.begin_transaction(&stamp(0)).unwrap().unwrap();
        // The same, the next, and through another coordinator.
        for again in
            [one.begin_transaction(&stamp(0)), one.begin_transaction(&stamp(1)), other.begin_transaction(&stamp(0))]
        {
            assert!(matches!(again, Err(CoordinatorError::InProgress(_))), "{again:?}");
        }
        let elsewhere = ProducerStamp::new("sensor-7", PartitionId(1), Sequence(0));
        let beside = one.begin_transaction(&elsewhere).unwrap().unwrap();
        one.abort_transaction(first).unwrap();
        // The same stamp again after the abort, by whoever comes.
        let second = other.begin_transaction(&stamp(0)).unwrap().unwrap();
        assert!(second > first);
        other.add_state_change(second, b"k", &[1]).unwrap();
        other.commit_transaction(second).unwrap();
        one.commit_transaction(beside).unwrap();
        assert_eq!(one.begin_transaction(&stamp(0)).unwrap(), None);
        assert!(one.begin_transaction(&stamp(1)).unwrap().is_some());
    });
}

#[test]
fn sequences_that_skip_ahead_are_told_with_the_one_that_is_missing() {
    both(|coordinator, _| {
        let coordinator = coordinator()
            .initial_sequence(Sequence(1))
            .producer(IdempotentProducerConfig::new("old").initial_sequence(Sequence(700)));
        match coordinator.begin_transaction(&stamp(3)) {
            Err(CoordinatorError::OutOfOrder { stamp: told, expected }) => {
                assert_eq!((told, expected), (stamp(3), Sequence(1)));
            }
            other => panic!("{other:?}"),
        }
        assert!(take_in(&coordinator, &stamp(1), b"k").unwrap());
        let old = |sequence| ProducerStamp::new("old", PartitionId(0), Sequence(sequence));
        assert!(take_in(&coordinator, &old(700), b"k").unwrap());
        assert!(matches!(take_in(&coordinator, &old(702), b"k"), Err(CoordinatorError::OutOfOrder { .. })));
        assert!(!take_in(&coordinator, &old(3), b"k").unwrap(), "what is before the first was taken in elsewhere");
        let error = Error::from(coordinator.begin_transaction(&old(702)).unwrap_err());
        assert_eq!((error.kind(), error.expected_sequence()), (ErrorKind::Invalid, Some(Sequence(701))));
    });
}

#[test]
fn batches_share_a_commit() {
    both(|coordinator, _| {
        let coordinator = coordinator();
        let txn = coordinator.begin_batch(&stamp(0), 100).unwrap().unwrap();
        coordinator.commit_transaction(txn).unwrap();
        assert_eq!(coordinator.begin_batch(&stamp(0), 100).unwrap(), None);
        assert_eq!(coordinator.begin_transaction(&stamp(57)).unwrap(), None);
        // Half of it is there: the caller cuts where he is told.
        match coordinator.begin_batch(&stamp(90), 20) {
            Err(CoordinatorError::OutOfOrder { expected, .. }) => assert_eq!(expected, Sequence(100)),
            other => panic!("{other:?}"),
        }
        assert!(matches!(coordinator.begin_batch(&stamp(100), 0), Err(CoordinatorError::Store(_))));
    });
}

#[test]
fn what_has_ended_says_how() {
    both(|coordinator, _| {
        let coordinator = coordinator();
        let done = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
        assert_eq!(coordinator.outcome(done).unwrap(), TxnOutcome::Open);
        assert_eq!(coordinator.pending_transactions(), [done]);
        coordinator.commit_transaction(done).unwrap();
        let given_up = coordinator.begin_transaction(&stamp(1)).unwrap().unwrap();
        coordinator.abort_transaction(given_up).unwrap();
        assert_eq!(coordinator.outcome(done).unwrap(), TxnOutcome::Committed);
        assert_eq!(coordinator.outcome(given_up).unwrap(), TxnOutcome::Aborted);
        let never = TxnId { epoch: done.epoch + 1, number: 0 };
        let next = TxnId { epoch: done.epoch, number: given_up.number + 1 };
        type Call = fn(&Coordinator, TxnId) -> Result<(), CoordinatorError>;
        let calls: [Call; 3] = [
            |coordinator, txn| coordinator.commit_transaction(txn).map(drop),
            |coordinator, txn| coordinator.abort_transaction(txn),
            |coordinator, txn| coordinator.add_state_change(txn, b"k", b"v"),
        ];
        for call in calls {
            assert!(matches!(call(&coordinator, done), Err(CoordinatorError::AlreadyCommitted(txn)) if txn == done));
            assert!(matches!(call(&coordinator, given_up), Err(CoordinatorError::AlreadyFinalised(_))));
            assert!(matches!(call(&coordinator, never), Err(CoordinatorError::Invalid(_))));
            assert!(matches!(call(&coordinator, next), Err(CoordinatorError::Invalid(_))));
        }
        assert!(coordinator.pending_transactions().is_empty());
        assert_eq!(done.to_string().parse::<TxnId>().unwrap(), done);
        assert!("7".parse::<TxnId>().is_err());
    });
}

#[test]
fn a_transaction_deletes_and_reads_its_own_writes() {
    both(|coordinator, _| {
        let coordinator = coordinator();
        let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
        for key in [&b"a/1"[..], b"a/2", b"b/1"] {
            coordinator.add_state_change(txn, key, key).unwrap();
        }
        coordinator.commit_transaction(txn).unwrap();
        let txn = coordinator.begin_transaction(&stamp(1)).unwrap().unwrap();
        assert_eq!(coordinator.state_in(txn, b"a/1").unwrap().as_deref(), Some(&b"a/1"[..]));
        coordinator.remove_state(txn, b"a/1").unwrap();
        coordinator.add_state_change(txn, b"a/3", b"new").unwrap();
        assert_eq!(coordinator.state_in(txn, b"a/1").unwrap(), None);
        let keys = |rows: Vec<(Vec<u8>, Vec<u8>)>| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(coordinator.scan_in(txn, b"a/").unwrap()), [b"a/2", b"a/3"]);
        assert_eq!(keys(coordinator.scan(b"a/").unwrap()), [b"a/1", b"a/2"], "others see what is committed");
        coordinator.commit_transaction(txn).unwrap();
        assert_eq!(keys(coordinator.scan(b"").unwrap()), [b"a/2", b"a/3", b"b/1"]);
    });
}

#[test]
fn what_was_read_must_not_have_changed() {
    both(|coordinator, _| {
        let coordinator = coordinator();
        let other = |sequence| ProducerStamp::new("other", PartitionId(0), Sequence(sequence));
        assert!(take_in(&coordinator, &stamp(0), b"k").unwrap());
        let late = coordinator.begin_transaction(&stamp(1)).unwrap().unwrap();
        assert_eq!(coordinator.state_in(late, b"k").unwrap().unwrap(), [1]);
        coordinator.add_state_change(late, b"k", &[2]).unwrap();
        assert!(take_in(&coordinator, &other(0), b"k").unwrap());
        match coordinator.commit_transaction(late) {
            Err(CoordinatorError::Store(error)) => assert_eq!(error.kind(), ErrorKind::Conflict),
            other => panic!("{other:?}"),
        }
        // It has not happened, and comes again.
        assert_eq!(coordinator.outcome(late).unwrap(), TxnOutcome::Aborted);
        assert!(take_in(&coordinator, &stamp(1), b"k").unwrap());
        assert_eq!(count(&coordinator, b"k"), 3);
        let scanning = coordinator.begin_transaction(&stamp(2)).unwrap().unwrap();
        coordinator.scan_in(scanning, b"").unwrap();
        coordinator.add_state_change(scanning, b"x", b"").unwrap();
        assert!(take_in(&coordinator, &other(1), b"l").unwrap());
        assert!(coordinator.commit_transaction(scanning).is_err(), "a row came into a range that it had read");
        let counts = coordinator.stats().snapshot();
        assert_eq!((counts.committed, counts.aborted, counts.opened), (4, 2, 6));
    });
}

#[test]
fn transactions_that_are_open_for_too_long_end() {
    both(|make, clock| {
        let coordinator = make().timeout(Duration::from_secs(5));
        let slow = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
        coordinator.add_state_change(slow, b"k", b"slow").unwrap();
        clock.pass_by(Duration::from_secs(4));
        // Neither a wall clock that goes back nor one that is put ahead says anything.
        clock.jump(-86_400_000);
        assert_eq!(coordinator.maintenance().unwrap(), 0);
        clock.jump(2 * 86_400_000);
        assert_eq!(coordinator.maintenance().unwrap(), 0);
        clock.pass_by(Duration::from_secs(2));
        assert_eq!(coordinator.maintenance().unwrap(), 1);
        assert!(
            matches!(coordinator.commit_transaction(slow), Err(CoordinatorError::TimedOut { txn, .. }) if txn == slow)
        );
        assert_eq!(coordinator.outcome(slow).unwrap(), TxnOutcome::Aborted);
        // Without maintenance: by its own next call, and by the next that wants its stamp.
        let slow = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
        clock.pass_by(Duration::from_secs(6));
        let commit = coordinator.commit_transaction(slow);
        assert!(matches!(commit, Err(CoordinatorError::TimedOut { .. })), "{commit:?}");
        let slow = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
        clock.pass_by(Duration::from_secs(6));
        let next = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
        assert!(matches!(coordinator.abort_transaction(slow), Err(CoordinatorError::TimedOut { .. })));
        coordinator.commit_transaction(next).unwrap();
        assert_eq!(coordinator.state(b"k").unwrap(), None);
        let counts = coordinator.stats().snapshot();
        assert_eq!((counts.opened, counts.aborted, counts.timed_out, counts.committed), (4, 3, 3, 1));
    });
}

#[test]
fn what_is_abandoned_ends_with_whatever_else_is_done() {
    both(|make, clock| {
        let coordinator = make().timeout(Duration::from_secs(5));
        let of = |producer: &str| ProducerStamp::new(producer, PartitionId(0), Sequence(0));
        let abandoned = coordinator.begin_transaction(&of("a")).unwrap().unwrap();
        clock.pass_by(Duration::from_secs(3));
        let second = coordinator.begin_transaction(&of("b")).unwrap().unwrap();
        coordinator.add_state_change(abandoned, b"k", b"v").unwrap();
        clock.pass_by(Duration::from_secs(3));
        let third = coordinator.begin_transaction(&of("c")).unwrap().unwrap();
        assert_eq!(coordinator.pending_transactions(), [second, third], "by a begin that wants nothing of it");
        clock.pass_by(Duration::from_secs(3));
        coordinator.commit_transaction(third).unwrap();
        assert!(coordinator.pending_transactions().is_empty(), "by a commit");
        assert_eq!(coordinator.outcome(second).unwrap(), TxnOutcome::Aborted);
        let counts = coordinator.stats().snapshot();
        assert_eq!((counts.timed_out, counts.committed, counts.pending), (2, 1, 0));
    });
}

#[test]
fn not_more_are_open_than_may_be() {
    both(|make, clock| {
        let coordinator = make().max_open(2).timeout(Duration::from_secs(5));
        let of = |producer: &str| ProducerStamp::new(producer, PartitionId(0), Sequence(0));
        let first = coordinator.begin_transaction(&of("a")).unwrap().unwrap();
        coordinator.begin_transaction(&of("b")).unwrap().unwrap();
        assert!(matches!(coordinator.begin_transaction(&of("c")), Err(CoordinatorError::TooManyOpen { limit: 2 })));
        coordinator.abort_transaction(first).unwrap();
        let third = coordinator.begin_transaction(&of("c")).unwrap().unwrap();
        coordinator.commit_transaction(third).unwrap();
        assert_eq!(coordinator.begin_transaction(&of("c")).unwrap(), None, "a duplicate takes no place for good");
        coordinator.begin_transaction(&of("a")).unwrap().unwrap();
        clock.pass_by(Duration::from_secs(6));
        coordinator.begin_transaction(&of("d")).unwrap().expect("the two others are over");
        assert_eq!(coordinator.pending_transactions().len(), 1);
    });
}

#[test]
fn outcomes_are_known_for_as_long_as_was_asked() {
    let home = Home::new();
    let store = home.open();
    let coordinator = home.coordinator(&store).outcome_retention(Duration::from_secs(60));
    let take = |coordinator: &Coordinator, sequence| {
        let txn = coordinator.begin_transaction(&stamp(sequence)).unwrap().unwrap();
        coordinator.commit_transaction(txn).unwrap();
        txn
    };
    let first = take(&coordinator, 0);
    let given_up = coordinator.begin_transaction(&stamp(1)).unwrap().unwrap();
    coordinator.abort_transaction(given_up).unwrap();
    home.clock.pass_by(Duration::from_secs(40));
    let second = take(&coordinator, 1);
    home.clock.jump(-3_600_000);
    home.clock.pass_by(Duration::from_secs(19));
    coordinator.maintenance().unwrap();
    assert_eq!(coordinator.outcome(first).unwrap(), TxnOutcome::Committed, "not a moment sooner");
    drop(coordinator);
    store.close().unwrap();

    let store = home.open();
    let coordinator = home.coordinator(&store).outcome_retention(Duration::from_secs(60));
    assert_eq!(coordinator.outcome(first).unwrap(), TxnOutcome::Committed);
    assert_eq!(coordinator.outcome(given_up).unwrap(), TxnOutcome::Aborted);
    home.clock.pass_by(Duration::from_secs(30));
    coordinator.maintenance().unwrap();
    assert_eq!(coordinator.outcome(first).unwrap(), TxnOutcome::Unknown);
    assert!(matches!(coordinator.commit_transaction(first), Err(CoordinatorError::AlreadyFinalised(_))));
    assert_eq!(coordinator.outcome(second).unwrap(), TxnOutcome::Committed);
    assert_eq!(coordinator.outcome(given_up).unwrap(), TxnOutcome::Aborted, "younger than what is forgotten");
    let third = take(&coordinator, 2);
    assert!(third > second && third.epoch > second.epoch, "ids are not given twice");
    // Duplicates are none of it: they are known for ever.
    home.clock.pass_by(Duration::from_secs(86_400 * 365));
    coordinator.maintenance().unwrap();
    assert_eq!(coordinator.outcome(third).unwrap(), TxnOutcome::Unknown);
    assert_eq!(coordinator.begin_transaction(&stamp(0)).unwrap(), None);
}

#[test]
fn outcomes_do_not_heap_up_without_maintenance() {
    both(|make, clock| {
        let coordinator = make().outcome_retention(Duration::from_millis(1));
        let mut ids = Vec::new();
        for sequence in 0..600 {
            let txn = coordinator.begin_transaction(&stamp(sequence)).unwrap().unwrap();
            coordinator.commit_transaction(txn).unwrap();
            ids.push(txn);
            clock.pass_by(Duration::from_millis(1));
        }
        let known = ids.iter().filter(|txn| coordinator.outcome(**txn).unwrap() == TxnOutcome::Committed).count();
        assert!(known <= 256, "{known} are kept");
    });
}

#[test]
fn outcomes_do_not_heap_up_where_each_opening_commits_little() {
    let home = Home::new();
    let mut ids = Vec::new();
    for day in 0..5 {
        let store = home.open();
        let coordinator = home.coordinator(&store);
        for sequence in 3 * day..3 * day + 3 {
            let txn = coordinator.begin_transaction(&stamp(sequence)).unwrap().unwrap();
            coordinator.commit_transaction(txn).unwrap();
            ids.push(txn);
        }
        let is_known = |txn: &&TxnId| coordinator.outcome(**txn).unwrap() == TxnOutcome::Committed;
        assert_eq!(ids.iter().filter(is_known).count(), 3, "on day {day}");
        drop(coordinator);
        store.close().unwrap();
        home.clock.pass_by(Duration::from_secs(86_400));
    }
}

const ALERTS: TopicDef<Utf8, U64> = TopicDef::new("alerts");
const EVENTS: TopicDef<Utf8, Bytes> = TopicDef::new("events");
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

fn events(store: &Store) -> Consumer<Utf8, Bytes> {
    store.consumer(EVENTS, ConsumerStyle::ClientTx("app".into())).unwrap()
}

#[test]
fn records_rows_state_and_progress_are_one_step() {
    let home = Home::new();
    let store = home.open();
    let coordinator = home.coordinator(&store);
    let producer = store.producer(EVENTS).unwrap();
    for event in [b"0", b"1"] {
        producer.append("k", event).unwrap();
    }
    let mut consumer = events(&store);
    let fill = |txn| {
        coordinator.add_state_change(txn, b"k", b"v")?;
        coordinator.with_store(txn, |tx| {
            tx.append(ALERTS, "k", &1)?;
            tx.table(ROWS)?.put("k", &1)
        })
    };
    let is_there = |store: &Store| {
        let snapshot = store.snapshot().unwrap();
        let alerts = store.offsets("alerts", PartitionId(0)).map_or(0, |(_, end)| end.0);
        let consumed = store.committed_offsets("app", "events").unwrap()[0].0;
        (alerts, consumed, snapshot.get(ROWS, "k").unwrap(), coordinator.state(b"k").unwrap().is_some())
    };
    consumer.next().unwrap().unwrap();
    let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    fill(txn).unwrap();
    coordinator.abort_transaction(txn).unwrap();
    assert_eq!(is_there(&store), (0, 0, None, false));
    let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    fill(txn).unwrap();
    let committed = coordinator.commit_with(txn, &mut consumer).unwrap();
    assert_eq!(committed.appended[0].first, LogOffset(0));
    assert_eq!(is_there(&store), (1, 1, Some(1), true));
    assert_eq!(consumer.next().unwrap().unwrap().value.as_deref(), Some(&b"1"[..]));
    // A duplicate has nothing to commit but that it was read.
    assert_eq!(coordinator.begin_transaction(&stamp(0)).unwrap(), None);
    consumer.commit().unwrap();
    // What a function fails with leaves the transaction open; a panic ends it.
    let txn = coordinator.begin_transaction(&stamp(1)).unwrap().unwrap();
    let failed = coordinator.with_store(txn, |_| Err::<(), _>(Error::user("no")));
    assert!(matches!(failed, Err(CoordinatorError::Store(error)) if error.kind() == ErrorKind::User));
    let panics = std::panic::AssertUnwindSafe(|| coordinator.with_store(txn, |_| -> oncelog::Result<()> { panic!() }));
    assert!(std::panic::catch_unwind(panics).is_err());
    assert!(matches!(coordinator.commit_transaction(txn), Err(CoordinatorError::AlreadyFinalised(_))));
    assert!(coordinator.begin_transaction(&stamp(1)).unwrap().is_some());
}

#[test]
fn a_state_that_is_in_no_store_has_no_topics() {
    let coordinator = Coordinator::new(InMemoryStateBackend::new());
    let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    let refused = coordinator.with_store(txn, |tx| tx.append(ALERTS, "k", &1)).unwrap_err();
    assert_eq!(Error::from(refused).kind(), ErrorKind::Invalid);
    let store = Store::in_memory().unwrap();
    store.producer(EVENTS).unwrap().append("k", b"0").unwrap();
    let mut consumer = events(&store);
    consumer.next().unwrap().unwrap();
    let refused = coordinator.commit_with(txn, &mut consumer).unwrap_err();
    assert_eq!(Error::from(refused).kind(), ErrorKind::Invalid);
    assert_eq!(coordinator.outcome(txn).unwrap(), TxnOutcome::Aborted);
}

#[test]
fn backends_of_one_store_do_not_know_each_other() {
    let home = Home::new();
    let store = home.open();
    let one = Coordinator::new(store.state_backend("one").unwrap());
    let other = Coordinator::new(store.state_backend("other").unwrap());
    assert!(take_in(&one, &stamp(0), b"k").unwrap());
    assert!(take_in(&other, &stamp(0), b"k").unwrap());
    assert!(store.state_backend("a/b").is_err() && store.state_backend("").is_ok());
    let long = ProducerStamp::new("x".repeat(300), PartitionId(0), Sequence(0));
    let refused = Error::from(one.begin_transaction(&long).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
}

#[test]
fn threads_take_each_message_in_once_and_the_counts_add_up() {
    const MESSAGES: u64 = 60;
    both(|make, _| {
        let coordinator = make();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // All of them deliver all messages of two producers, in order, until each is in.
                    for sequence in 0..MESSAGES {
                        for producer in ["a", "b"] {
                            let stamp = ProducerStamp::new(producer, PartitionId(0), Sequence(sequence));
                            loop {
                                match take_in(&coordinator, &stamp, producer.as_bytes()) {
                                    Ok(_) => break,
                                    Err(CoordinatorError::InProgress(_)) => thread::yield_now(),
                                    Err(other) => panic!("{other:?}"),
                                }
                            }
                            let counts = coordinator.stats().snapshot();
                            let ended = counts.committed + counts.aborted + counts.in_doubt;
                            assert_eq!(counts.opened, ended + counts.pending, "{counts:?}");
                        }
                    }
                });
            }
        });
        assert_eq!(u64::from(count(&coordinator, b"a")), MESSAGES);
        assert_eq!(u64::from(count(&coordinator, b"b")), MESSAGES);
        let counts = coordinator.stats().snapshot();
        assert_eq!((counts.committed, counts.pending, counts.aborted), (2 * MESSAGES, 0, 0));
        assert_eq!(counts.duplicates_filtered, 2 * MESSAGES * 3);
        assert!(counts.received >= counts.opened + counts.duplicates_filtered);
    });
}

const PRODUCERS: [&str; 3] = ["p0", "p1", "p2"];

/// Takes in `messages` of each of three producers, in batches; then knows all of them.
fn take_in_many(coordinator: &Coordinator, messages: u64, batch: u32) {
    let stamp = |producer, first| ProducerStamp::new(producer, PartitionId(0), Sequence(first));
    for first in (0..messages).step_by(batch as usize) {
        for producer in PRODUCERS {
            let txn = coordinator.begin_batch(&stamp(producer, first), batch).unwrap().expect("it is new");
            coordinator.commit_transaction(txn).unwrap();
        }
    }
    for first in [0, 1, messages / 2, messages - 1] {
        assert_eq!(coordinator.begin_transaction(&stamp("p1", first)).unwrap(), None, "{first} was taken in");
    }
    coordinator.maintenance().unwrap();
}

/// What tables take of a store after so many messages of each of three producers.
fn table_bytes_after(messages: u64, batch: u32) -> u64 {
    let home = Home::new();
    let store = home.open();
    let coordinator = home.coordinator(&store).outcome_retention(Duration::ZERO);
    take_in_many(&coordinator, messages, batch);
    let snapshot = store.snapshot().unwrap();
    for producer in PRODUCERS {
        let next = snapshot.next_coordinated("app", producer, PartitionId(0)).unwrap();
        assert_eq!(next, Some(Sequence(messages)));
    }
    drop((coordinator, snapshot));
    store.close().unwrap();
    let files = home.disk.list(Path::new("/memory/owners/main/state")).unwrap();
    files.iter().map(|path| home.disk.open(path, OpenMode::Read).unwrap().len().unwrap()).sum()
}

/// Ten million messages from three producers, a thousand to a commit.
#[test]
fn duplicate_state_goes_by_producers_and_not_by_messages() {
    let few = table_bytes_after(10, 1);
    let many = table_bytes_after(3_334_000, 1_000);
    assert!(many <= few + (4 << 10), "{few} bytes of tables for 30 messages, {many} for ten million");
}

/// The same one by one, in memory.
#[test]
fn duplicate_state_in_memory_goes_by_producers() {
    let backend = Arc::new(InMemoryStateBackend::new());
    let coordinator = Coordinator::shared(Arc::clone(&backend) as _).outcome_retention(Duration::ZERO);
    take_in_many(&coordinator, 100_000, 1);
    assert!(backend.duplicate_state_bytes() < 1024, "{}", backend.duplicate_state_bytes());
}

#[test]
fn a_stamp_on_a_transaction_is_never_a_coordinators() {
    let home = Home::new();
    let store = home.open();
    let coordinator = home.coordinator(&store);
    let namesake = ProducerStamp::new("app/sensor-7", PartitionId(0), Sequence(0));
    store.transact(|tx| tx.stamp(&namesake).map(|stamped| assert_eq!(stamped, Stamped::New))).unwrap();
    assert_eq!(coordinator.expected_sequence("sensor-7", PartitionId(0)).unwrap(), Sequence(0));
    assert!(take_in(&coordinator, &stamp(0), b"k").unwrap(), "it never came here");
    assert!(take_in(&coordinator, &stamp(1), b"k").unwrap());
    assert_eq!(
        store.snapshot().unwrap().next_sequence("app/sensor-7", None, PartitionId(0)).unwrap(),
        Some(Sequence(1))
    );
    let known = |producer: &oncelog::ProducerProgress| (producer.coordinated, producer.next);
    let mut listed: Vec<_> = store.producers().unwrap().iter().map(known).collect();
    listed.sort();
    assert_eq!(listed, [(false, Sequence(1)), (true, Sequence(2))]);
    drop(coordinator);
    drop(store);
    let store = home.open();
    assert!(!take_in(&home.coordinator(&store), &stamp(1), b"k").unwrap(), "after a replay too");
}

/// How a commit of the backend below ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    /// It fails, and nothing has happened.
    Nothing,
    /// It has happened, and nobody is told so.
    Done,
    /// It has not happened, and nobody is told so.
    NotDone,
    /// It has happened, and a panic is told.
    Panics,
}

/// A backend whose commits end as the test says.
struct Moody {
    inner: Arc<InMemoryStateBackend>,
    fate: Arc<Mutex<Fate>>,
}

struct MoodyTransaction(Box<dyn StateTransaction>, Arc<Mutex<Fate>>);

impl StateBackend for Moody {
    fn begin(&self) -> oncelog::Result<(TxnId, Box<dyn StateTransaction>)> {
        let (txn, inner) = self.inner.begin()?;
        Ok((txn, Box::new(MoodyTransaction(inner, Arc::clone(&self.fate)))))
    }

    fn get(&self, key: &[u8]) -> oncelog::Result<Option<Vec<u8>>> {
        self.inner.get(key)
    }

    fn range_scan(&self, prefix: &[u8]) -> oncelog::Result<StateRows> {
        self.inner.range_scan(prefix)
    }

    fn next_sequence(&self, producer_id: &str, partition: PartitionId) -> oncelog::Result<Option<Sequence>> {
        self.inner.next_sequence(producer_id, partition)
    }

    fn outcome(&self, txn: TxnId) -> oncelog::Result<Option<TxnOutcome>> {
        self.inner.outcome(txn)
    }

    fn forget_outcomes(&self, retention: Duration, limit: usize) -> oncelog::Result<usize> {
        self.inner.forget_outcomes(retention, limit)
    }

    fn monotonic(&self) -> Duration {
        self.inner.monotonic()
    }
}

impl StateTransaction for MoodyTransaction {
    fn stamp(&mut self, stamp: &ProducerStamp, count: u32, initial: Sequence) -> oncelog::Result<Stamped> {
        self.0.stamp(stamp, count, initial)
    }

    fn get(&mut self, key: &[u8]) -> oncelog::Result<Option<Vec<u8>>> {
        self.0.get(key)
    }

    fn range_scan(&mut self, prefix: &[u8]) -> oncelog::Result<StateRows> {
        self.0.range_scan(prefix)
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> oncelog::Result<()> {
        self.0.put(key, value)
    }

    fn commit(self: Box<Self>) -> oncelog::Result<Committed> {
        let fate = *self.1.lock().unwrap();
        match fate {
            Fate::Well => self.0.commit(),
            Fate::Nothing => Err(Error::new(ErrorKind::Unavailable, "no")),
            Fate::Done => {
                self.0.commit()?;
                Err(Error::new(ErrorKind::InDoubt, "nobody knows"))
            }
            Fate::NotDone => Err(Error::new(ErrorKind::InDoubt, "nobody knows")),
            Fate::Panics => {
                self.0.commit()?;
                panic!("behind the commit")
            }
        }
    }
}

#[test]
fn a_backend_that_fails_loses_and_doubles_nothing() {
    let inner = Arc::new(InMemoryStateBackend::new());
    let fate = Arc::new(Mutex::new(Fate::Well));
    let coordinator = Coordinator::new(Moody { inner, fate: Arc::clone(&fate) });
    let fates = [Fate::Nothing, Fate::Done, Fate::Well, Fate::NotDone, Fate::Nothing, Fate::Done];
    for (number, fated) in (0u8..).zip(fates) {
        let sequence = u64::from(number);
        *fate.lock().unwrap() = fated;
        let txn = coordinator.begin_transaction(&stamp(sequence)).unwrap().unwrap();
        coordinator.add_state_change(txn, &[number], b"v").unwrap();
        coordinator.add_state_change(txn, b"last", &[number]).unwrap();
        let kind = coordinator.commit_transaction(txn).map_err(|error| Error::from(error).kind());
        let is_there = matches!(fated, Fate::Well | Fate::Done);
        match fated {
            Fate::Well => assert!(kind.is_ok()),
            Fate::Nothing => assert_eq!(kind.unwrap_err(), ErrorKind::Unavailable),
            Fate::Done | Fate::NotDone | Fate::Panics => assert_eq!(kind.unwrap_err(), ErrorKind::InDoubt),
        }
        // Whoever looks knows; and the message comes again until it is in.
        assert_eq!(coordinator.outcome(txn).unwrap() == TxnOutcome::Committed, is_there);
        assert_eq!(coordinator.state(&[number]).unwrap().is_some(), is_there);
        *fate.lock().unwrap() = Fate::Well;
        assert_eq!(take_in(&coordinator, &stamp(sequence), b"again").unwrap(), !is_there);
    }
    let counts = coordinator.stats().snapshot();
    assert_eq!((counts.committed, counts.aborted, counts.in_doubt, counts.pending), (1 + 3, 2, 3, 0));
}

#[test]
fn a_panic_in_a_commit_leaves_it_in_doubt() {
    let inner = Arc::new(InMemoryStateBackend::new());
    let coordinator = Coordinator::new(Moody { inner, fate: Arc::new(Mutex::new(Fate::Panics)) });
    let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| coordinator.commit_transaction(txn).map(drop)))
        .expect_err("the backend's panic");
    let counts = coordinator.stats().snapshot();
    assert_eq!((counts.in_doubt, counts.aborted, counts.pending), (1, 0, 0));
    assert_eq!(coordinator.outcome(txn).unwrap(), TxnOutcome::Committed);
}

/// Gives one id to all.
struct Forgetful(Moody);

impl StateBackend for Forgetful {
    fn begin(&self) -> oncelog::Result<(TxnId, Box<dyn StateTransaction>)> {
        Ok((TxnId::default(), self.0.begin()?.1))
    }

    fn get(&self, key: &[u8]) -> oncelog::Result<Option<Vec<u8>>> {
        self.0.get(key)
    }

    fn range_scan(&self, prefix: &[u8]) -> oncelog::Result<StateRows> {
        self.0.range_scan(prefix)
    }

    fn next_sequence(&self, producer_id: &str, partition: PartitionId) -> oncelog::Result<Option<Sequence>> {
        self.0.next_sequence(producer_id, partition)
    }

    fn outcome(&self, txn: TxnId) -> oncelog::Result<Option<TxnOutcome>> {
        self.0.outcome(txn)
    }

    fn forget_outcomes(&self, retention: Duration, limit: usize) -> oncelog::Result<usize> {
        self.0.forget_outcomes(retention, limit)
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

#[test]
fn an_id_that_is_open_is_not_taken_again() {
    let inner = Arc::new(InMemoryStateBackend::new());
    let coordinator = Coordinator::new(Forgetful(Moody { inner, fate: Arc::new(Mutex::new(Fate::Well)) }));
    let txn = coordinator.begin_transaction(&stamp(0)).unwrap().unwrap();
    coordinator.add_state_change(txn, b"k", b"first").unwrap();
    let other = ProducerStamp::new("another", PartitionId(0), Sequence(0));
    let refused = Error::from(coordinator.begin_transaction(&other).unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    coordinator.commit_transaction(txn).unwrap();
    assert_eq!(coordinator.state(b"k").unwrap().as_deref(), Some(&b"first"[..]));
    assert!(take_in(&coordinator, &other, b"n").unwrap(), "its stamp is free");
    let counts = coordinator.stats().snapshot();
    assert_eq!((counts.opened, counts.committed, counts.pending), (2, 2, 0));
}

/// A step of a random life of a coordinator.
#[derive(Clone, Debug)]
enum Life {
    /// The next message of one of three producers, so many further on.
    Begin(u8, u8),
    Put(u8, u8, u8),
    Delete(u8, u8),
    Look(u8, u8),
    Commit(u8),
    Abort(u8),
    Pass(u8),
    Maintain,
    Reopen,
}

fn life() -> impl Strategy<Value = Life> {
    let slot = 0..3u8;
    prop_oneof![
        4 => (0..3u8, 0..3u8).prop_map(|(producer, ahead)| Life::Begin(producer, ahead)),
        4 => (slot.clone(), 0..4u8, any::<u8>()).prop_map(|(slot, key, value)| Life::Put(slot, key, value)),
        1 => (slot.clone(), 0..4u8).prop_map(|(slot, key)| Life::Delete(slot, key)),
        2 => (slot.clone(), 0..4u8).prop_map(|(slot, key)| Life::Look(slot, key)),
        4 => slot.clone().prop_map(Life::Commit),
        2 => slot.prop_map(Life::Abort),
        1 => (0..4u8).prop_map(Life::Pass),
        1 => Just(Life::Maintain),
        1 => Just(Life::Reopen),
    ]
}

type Changes = BTreeMap<u8, Option<u8>>;

/// What a coordinator is, in maps: what is committed, and who has what open since when.
#[derive(Default)]
struct Plain {
    rows: BTreeMap<u8, u8>,
    next: [u64; 3],
    /// Whose, since when, and what it changes.
    open: BTreeMap<TxnId, (u8, u64, Changes)>,
    ended: BTreeMap<TxnId, TxnOutcome>,
    now: u64,
}

const TIMEOUT: u64 = 5;

impl Plain {
    fn end(&mut self, txn: TxnId, outcome: TxnOutcome) -> Changes {
        self.ended.insert(txn, outcome);
        self.open.remove(&txn).unwrap().2
    }

    fn is_over(&self, txn: TxnId) -> bool {
        self.now - self.open[&txn].1 > TIMEOUT
    }

    fn end_all_over(&mut self) {
        let over: Vec<_> = self.open.keys().copied().filter(|txn| self.is_over(*txn)).collect();
        over.into_iter().for_each(|txn| drop(self.end(txn, TxnOutcome::Aborted)));
    }

    /// A transaction of that slot that is open and not over; one that is over ends by the call.
    fn pick(&mut self, slot: u8) -> Option<(TxnId, bool)> {
        let txn = self.open.keys().nth(slot.into()).copied()?;
        let over = self.is_over(txn);
        if over {
            self.end(txn, TxnOutcome::Aborted);
        }
        Some((txn, over))
    }

    fn step(&mut self, coordinator: &Coordinator, clock: &SetClock, step: &Life) {
        let timed_out = |answer: Result<(), CoordinatorError>| {
            assert!(matches!(answer, Err(CoordinatorError::TimedOut { .. })), "{answer:?}");
        };
        match *step {
            Life::Begin(producer, ahead) => {
                let next = self.next[usize::from(producer)];
                let sequence = (next + u64::from(ahead)).saturating_sub(1);
                let stamp = ProducerStamp::new(format!("p{producer}"), PartitionId(0), Sequence(sequence));
                let answer = coordinator.begin_transaction(&stamp);
                self.end_all_over();
                let taken = self.open.values().any(|(other, ..)| *other == producer);
                match answer {
                    Ok(None) => assert!(sequence < next),
                    Ok(Some(txn)) => {
                        assert!(sequence == next && !taken);
                        assert!(self.open.keys().chain(self.ended.keys()).all(|before| txn > *before), "ids rise");
                        self.open.insert(txn, (producer, self.now, BTreeMap::new()));
                    }
                    Err(CoordinatorError::InProgress(_)) => assert!(sequence >= next && taken),
                    Err(CoordinatorError::OutOfOrder { expected, .. }) => {
                        assert!(sequence > next && !taken && expected == Sequence(next));
                    }
                    Err(other) => panic!("{other:?}"),
                }
            }
            Life::Put(slot, key, value) => {
                let Some((txn, over)) = self.pick(slot) else { return };
                let answer = coordinator.add_state_change(txn, &[key], &[value]);
                if over {
                    timed_out(answer)
                } else {
                    answer.unwrap()
                }
                if let Some(open) = self.open.get_mut(&txn) {
                    open.2.insert(key, Some(value));
                }
            }
            Life::Delete(slot, key) => {
                let Some((txn, over)) = self.pick(slot) else { return };
                let answer = coordinator.remove_state(txn, &[key]);
                if over {
                    timed_out(answer)
                } else {
                    answer.unwrap()
                }
                if let Some(open) = self.open.get_mut(&txn) {
                    open.2.insert(key, None);
                }
            }
            // Only its own: what others change under a read is for other tests.
            Life::Look(slot, key) => {
                let own = self.open.values().nth(slot.into()).and_then(|open| open.2.get(&key).copied());
                let Some(own) = own else { return };
                let Some((txn, over)) = self.pick(slot) else { return };
                let answer = coordinator.state_in(txn, &[key]);
                if over {
                    timed_out(answer.map(drop))
                } else {
                    assert_eq!(answer.unwrap(), own.map(|value| vec![value]))
                }
            }
            Life::Commit(slot) => {
                let Some((txn, over)) = self.pick(slot) else { return };
                let answer = coordinator.commit_transaction(txn).map(drop);
                let own = self.open.remove(&txn);
                self.end_all_over();
                self.open.extend(own.map(|own| (txn, own)));
                if over {
                    return timed_out(answer);
                }
                answer.unwrap();
                self.next[usize::from(self.open[&txn].0)] += 1;
                for (key, value) in self.end(txn, TxnOutcome::Committed) {
                    match value {
                        Some(value) => self.rows.insert(key, value),
                        None => self.rows.remove(&key),
                    };
                }
            }
            Life::Abort(slot) => {
                let Some((txn, over)) = self.pick(slot) else { return };
                let answer = coordinator.abort_transaction(txn);
                if over {
                    return timed_out(answer);
                }
                answer.unwrap();
                self.end(txn, TxnOutcome::Aborted);
            }
            Life::Pass(seconds) => {
                clock.pass_by(Duration::from_secs(seconds.into()));
                self.now += u64::from(seconds);
            }
            Life::Maintain => {
                let before = self.open.len();
                self.end_all_over();
                assert_eq!(coordinator.maintenance().unwrap(), before - self.open.len());
            }
            Life::Reopen => {}
        }
        self.check(coordinator);
    }

    fn check(&self, coordinator: &Coordinator) {
        let rows: StateRows = self.rows.iter().map(|(key, value)| (vec![*key], vec![*value])).collect();
        assert_eq!(coordinator.scan(b"").unwrap(), rows);
        assert_eq!(coordinator.pending_transactions(), self.open.keys().copied().collect::<Vec<_>>());
        for (txn, outcome) in &self.ended {
            assert_eq!(coordinator.outcome(*txn).unwrap(), *outcome, "{txn}");
        }
        for (producer, next) in ["p0", "p1", "p2"].into_iter().zip(self.next) {
            assert_eq!(coordinator.expected_sequence(producer, PartitionId(0)).unwrap(), Sequence(next));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn a_coordinator_is_as_plain_maps(steps in proptest::collection::vec(life(), 1..80)) {
        let timeout = Duration::from_secs(TIMEOUT);
        let home = Home::new();
        let mut plain = Plain::default();
        let mut store = home.open();
        let mut coordinator = home.coordinator(&store).timeout(timeout);
        for step in &steps {
            if matches!(step, Life::Reopen) {
                drop(coordinator);
                store.close().unwrap();
                store = home.open();
                coordinator = home.coordinator(&store).timeout(timeout);
                let open: Vec<_> = plain.open.keys().copied().collect();
                open.into_iter().for_each(|txn| drop(plain.end(txn, TxnOutcome::Aborted)));
            }
            plain.step(&coordinator, &home.clock, step);
        }
        let clock = Arc::new(SetClock::default());
        let in_memory = Coordinator::new(InMemoryStateBackend::new().clock(Arc::clone(&clock) as _)).timeout(timeout);
        let mut plain = Plain::default();
        steps.iter().for_each(|step| plain.step(&in_memory, &clock, step));
    }
}
