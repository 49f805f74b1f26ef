//! For those who come from an RDF stream processor's exactly-once coordinator: triples from several producers that
//! deliver at least once are counted by predicate, each exactly once, through crashes.
//!
//! `from-coordinator DIR [DIE-AFTER]`: kills itself without warning after so many messages. See
//! docs/migrate/coordinator.md.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::thread;
use std::time::Duration;

use oncelog::{
    Coordinator, CoordinatorError, Error, IdempotentProducerConfig, PartitionId, ProducerStamp, Result, Sequence,
    Store, StoreStateBackend, TopicDef, TxnOutcome, Utf8,
};

/// What is told to others goes out in the same commit.
const FIRSTS: TopicDef<Utf8, Utf8> = TopicDef::new("firsts");
/// Messages of each producer.
const MESSAGES: u64 = 300;
const PREDICATES: [&str; 3] = ["rdf:type", "foaf:name", "foaf:knows"];
/// What the old coordinator had taken in of this producer, and counted.
const OLD: (&str, u64) = ("sensor-b", 120);

fn main() -> Result<()> {
    let die_after = oncelog_examples::number(2, u64::MAX);
    let store = Store::open(oncelog_examples::store_dir("from-coordinator"))?;
    let coordinator = open(&store)?;
    let mut deliveries = 0;
    for producer in ["sensor-a", "sensor-b"] {
        // A sender that knows nothing of what has arrived begins at the beginning, each time.
        for sequence in 0..MESSAGES {
            // And sends some of them twice.
            for _ in 0..1 + sequence % 2 {
                deliver(&coordinator, &ProducerStamp::new(producer, PartitionId(0), Sequence(sequence)), || {
                    deliveries += 1;
                    if deliveries > die_after {
                        std::process::abort();
                    }
                })?;
            }
        }
    }
    for (predicate, count) in coordinator.scan(b"count/")? {
        println!("{} {}", String::from_utf8_lossy(&predicate), number(Some(count)));
    }
    let counts = coordinator.stats().snapshot();
    println!("{} taken in, {} duplicates", counts.committed, counts.duplicates_filtered);
    drop(coordinator);
    store.close()
}

/// The old state is moved in once, by a message of its own: killed on the way, it is moved again.
fn open(store: &Store) -> Result<Coordinator> {
    let backend: StoreStateBackend = store.state_backend("triples")?;
    // What the old coordinator had taken in is not taken in again.
    let (producer, taken) = OLD;
    let coordinator =
        Coordinator::new(backend).producer(IdempotentProducerConfig::new(producer).initial_sequence(Sequence(taken)));
    let move_in = ProducerStamp::new("move in", PartitionId(0), Sequence(0));
    if let Some(txn) = coordinator.begin_transaction(&move_in)? {
        for predicate in PREDICATES {
            coordinator.add_state_change(txn, &key(predicate), (taken / 3).to_string().as_bytes())?;
        }
        coordinator.commit_transaction(txn)?;
        println!("the old counts were moved in");
    }
    Ok(coordinator)
}

fn deliver(coordinator: &Coordinator, stamp: &ProducerStamp, mut working: impl FnMut()) -> Result<()> {
    loop {
        let txn = match coordinator.begin_transaction(stamp) {
            Ok(Some(txn)) => txn,
            Ok(None) => return Ok(()),
            // Another thread takes in a message of this producer: wait for that one's end.
            Err(CoordinatorError::InProgress(_)) => {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        working();
        let predicate = PREDICATES[usize::try_from(stamp.sequence.0 % 3).map_err(Error::user)?];
        let count = number(coordinator.state_in(txn, &key(predicate))?) + 1;
        coordinator.add_state_change(txn, &key(predicate), count.to_string().as_bytes())?;
        if count == 1 {
            coordinator.with_store(txn, |tx| tx.append(FIRSTS, predicate, &stamp.to_string()))?;
        }
        match coordinator.commit_transaction(txn) {
            Ok(_) => {
                debug_assert!(matches!(coordinator.outcome(txn), Ok(TxnOutcome::Committed)));
                return Ok(());
            }
            // Somebody else has changed the count in between: nothing has happened, and the message comes again.
            Err(CoordinatorError::Store(error)) if error.kind() == oncelog::ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn key(predicate: &str) -> Vec<u8> {
    format!("count/{predicate}").into_bytes()
}

fn number(count: Option<Vec<u8>>) -> u64 {
    count.and_then(|count| String::from_utf8(count).ok()?.parse().ok()).unwrap_or(0)
}
