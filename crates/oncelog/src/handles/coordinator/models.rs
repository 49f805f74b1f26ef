//! A coordinator in every order of two threads: of two who end one transaction one does, of two who want one message
//! one gets it, and the counts add up at any moment.

#![allow(clippy::unwrap_used, reason = "a model fails by panicking")]

use std::time::Duration;

use super::{Coordinator, CoordinatorError, CoordinatorSnapshot, InMemoryStateBackend, TxnOutcome};
use crate::clock::Clock;
use crate::handles::ProducerStamp;
use crate::ids::{PartitionId, Sequence};
use crate::wake::models::check;
use crate::wake::{Arc, AtomicU64, Ordering, spawn};

/// Time passes when the model says so.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now_ms(&self) -> i64 {
        0
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }

    fn sleep(&self, _pause: Duration) {}
}

fn coordinator() -> (Arc<Coordinator>, Arc<Hand>) {
    let hand = Arc::new(Hand::default());
    let backend = InMemoryStateBackend::new().clock(Arc::clone(&hand) as _);
    (Arc::new(Coordinator::new(backend).timeout(Duration::from_secs(5))), hand)
}

fn stamp() -> ProducerStamp {
    ProducerStamp::new("p", PartitionId(0), Sequence(0))
}

fn check_counts(counts: CoordinatorSnapshot) {
    assert_eq!(counts.opened, counts.committed + counts.aborted + counts.in_doubt + counts.pending, "{counts:?}");
}

/// One commits, one aborts what is open for too long.
fn a_commit_and_the_timeout() {
    let (coordinator, hand) = coordinator();
    let txn = coordinator.begin_transaction(&stamp()).unwrap().unwrap();
    coordinator.add_state_change(txn, b"k", b"v").unwrap();
    let other = Arc::clone(&coordinator);
    let keeper = spawn("keeper".to_owned(), move || {
        hand.0.store(6, Ordering::SeqCst);
        let ended = other.maintenance().unwrap();
        check_counts(other.stats().snapshot());
        ended
    });
    let committed = coordinator.commit_transaction(txn);
    let ended = keeper.unwrap().join().unwrap();
    let is_there = coordinator.state(b"k").unwrap().is_some();
    match committed {
        Ok(_) => assert!(is_there && ended == 0),
        Err(CoordinatorError::TimedOut { .. } | CoordinatorError::Busy(_)) => assert!(!is_there),
        Err(other) => panic!("{other:?}"),
    }
    let outcome = coordinator.outcome(txn).unwrap();
    assert_eq!(outcome, if is_there { TxnOutcome::Committed } else { TxnOutcome::Aborted });
    assert_eq!(coordinator.begin_transaction(&stamp()).unwrap().is_none(), is_there, "free again, or taken in");
    check_counts(coordinator.stats().snapshot());
}

/// Both deliver one message.
fn two_deliver_one_message() {
    let (coordinator, _) = coordinator();
    let deliver = |coordinator: &Coordinator| match coordinator.begin_transaction(&stamp()) {
        Ok(Some(txn)) => {
            coordinator.add_state_change(txn, b"k", b"v").unwrap();
            coordinator.commit_transaction(txn).unwrap();
            1
        }
        Ok(None) | Err(CoordinatorError::InProgress(_)) => 0,
        Err(other) => panic!("{other:?}"),
    };
    let other = Arc::clone(&coordinator);
    let thread = spawn("other".to_owned(), move || deliver(&other));
    let mine = deliver(&coordinator);
    assert_eq!(mine + thread.unwrap().join().unwrap(), 1, "by one of them");
    let counts = coordinator.stats().snapshot();
    assert_eq!((counts.committed, counts.received, counts.pending), (1, 2, 0));
}

/// One stages while the other aborts.
fn two_at_work_in_one_transaction() {
    let (coordinator, _) = coordinator();
    let txn = coordinator.begin_transaction(&stamp()).unwrap().unwrap();
    let other = Arc::clone(&coordinator);
    let thread = spawn("other".to_owned(), move || other.abort_transaction(txn));
    let staged = coordinator.add_state_change(txn, b"k", b"v");
    match (staged, thread.unwrap().join().unwrap()) {
        (Ok(()) | Err(CoordinatorError::AlreadyFinalised(_)), Ok(())) => {
            assert!(coordinator.pending_transactions().is_empty());
        }
        (Ok(()), Err(CoordinatorError::Busy(_))) => assert_eq!(coordinator.pending_transactions(), [txn]),
        (Err(CoordinatorError::Busy(_)), Ok(())) => {}
        other => panic!("{other:?}"),
    }
    check_counts(coordinator.stats().snapshot());
}

#[test]
fn a_commit_beside_the_timeout_is_whole_or_absent() {
    check(2, 20, a_commit_and_the_timeout);
}

#[test]
fn of_two_who_deliver_one_message_one_takes_it_in() {
    check(2, 20, two_deliver_one_message);
}

#[test]
fn a_transaction_has_one_at_work_in_it() {
    check(2, 5, two_at_work_in_one_transaction);
}
