//! What is sent twice is stored once: producers with sequences, and transactions with stamps.

use std::sync::Arc;

use oncelog::disk::MemoryDisk;
use oncelog::{
    Bytes, ErrorKind, IdempotentProducer, IdempotentProducerConfig, LogOffset, PartitionId, ProducerEpoch,
    ProducerStamp, Sequence, Snapshot, Stamped, StampedAppend, Step, Store, SyncPolicy, TableDef, TopicDef, U64, Utf8,
};

const EVENTS: TopicDef<Utf8, Bytes> = TopicDef::new("events").partitions(2);
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

fn store_on(disk: &Arc<MemoryDisk>) -> Store {
    Store::options()
        .disk(Arc::clone(disk) as _)
        .journal_file_bytes(64 << 10)
        .open("/memory")
        .expect("a store in memory")
}

fn gate(store: &Store) -> IdempotentProducer<Utf8, Bytes> {
    store.idempotent_producer(EVENTS, IdempotentProducerConfig::new("gate")).expect("a producer")
}

fn values(snapshot: &Snapshot, partition: u32) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    snapshot
        .read("events", PartitionId(partition), LogOffset(0), |record| {
            found.push(record.value.expect("a value").to_vec());
            Ok(Step::Next)
        })
        .expect("a readable partition");
    found
}

#[test]
fn a_record_that_is_sent_again_is_stored_once_and_answered_with_its_offset() {
    let disk = Arc::new(MemoryDisk::default());
    let store = store_on(&disk);
    let producer = gate(&store);
    assert_eq!(producer.append("k", b"0").unwrap(), LogOffset(0));
    store.producer(EVENTS).unwrap().append_record(Some(PartitionId(0)), None, Some(b"other"), &[], None).unwrap();
    assert_eq!(producer.append_batch([("k", &b"1"[..]), ("k", b"2")]).unwrap(), LogOffset(2));
    assert_eq!(producer.append_with(Sequence(0), "k", b"0").unwrap(), StampedAppend::Repeated(LogOffset(0)));
    assert_eq!(producer.append_with(Sequence(2), "k", b"2").unwrap(), StampedAppend::Repeated(LogOffset(3)));
    assert_eq!(producer.current_sequence(), Sequence(3));
    assert!(producer.was_issued(Sequence(2)) && !producer.was_issued(Sequence(3)));
    store.close().unwrap();

    let store = store_on(&disk);
    let producer = gate(&store);
    assert_eq!(producer.current_sequence(), Sequence(3));
    assert_eq!(producer.append_with(Sequence(1), "k", b"1").unwrap(), StampedAppend::Repeated(LogOffset(2)));
    assert_eq!(producer.append_with(Sequence(3), "k", b"3").unwrap(), StampedAppend::Appended(LogOffset(4)));
    for value in [b"4", b"5", b"6", b"7", b"8"] {
        producer.append("k", value).unwrap();
    }
    assert_eq!(producer.append_with(Sequence(3), "k", b"3").unwrap(), StampedAppend::Duplicate);
    assert_eq!(producer.append_with(Sequence(4), "k", b"4").unwrap(), StampedAppend::Repeated(LogOffset(5)));
    let shown = values(&store.snapshot().unwrap(), 0);
    assert_eq!(shown, [&b"0"[..], b"other", b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8"]);
}

#[test]
fn a_gap_names_the_sequence_that_is_missing() {
    let store = Store::in_memory().unwrap();
    let config = IdempotentProducerConfig::new("gate").partition(PartitionId(1)).initial_sequence(Sequence(10));
    let producer = store.idempotent_producer(EVENTS, config).unwrap();
    let error = producer.append_with(Sequence(12), "k", b"lost").unwrap_err();
    assert_eq!((error.kind(), error.expected_sequence()), (ErrorKind::Invalid, Some(Sequence(10))));
    producer.append("k", b"10").unwrap();
    let error = producer.append_batch_with(Sequence(10), [("k", &b"10"[..]), ("k", b"11")]).unwrap_err();
    assert_eq!(error.expected_sequence(), Some(Sequence(11)), "half of it is there");
    assert_eq!(producer.append_batch([]).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(values(&store.snapshot().unwrap(), 1), [b"10"]);
}

#[test]
fn a_producer_that_is_opened_again_fences_the_older_handle() {
    let store = Store::in_memory().unwrap();
    let old = gate(&store);
    old.append("k", b"old").unwrap();
    let elsewhere = IdempotentProducerConfig::new("gate").partition(PartitionId(1));
    store.idempotent_producer(EVENTS, elsewhere).unwrap();
    old.append("k", b"still").unwrap();
    let new = gate(&store);
    assert_eq!((old.epoch(), new.epoch()), (ProducerEpoch(1), ProducerEpoch(2)));
    let refused = old.append("k", b"zombie").unwrap_err();
    assert_eq!((refused.kind(), refused.current_epoch()), (ErrorKind::Fenced, Some(ProducerEpoch(2))));
    // Also what it has sent before: it has no business with it any more.
    assert_eq!(old.append_with(Sequence(0), "k", b"old").unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(new.append_with(Sequence(1), "k", b"still").unwrap(), StampedAppend::Repeated(LogOffset(1)));
    new.append("k", b"new").unwrap();
    assert_eq!(values(&store.snapshot().unwrap(), 0), [&b"old"[..], b"still", b"new"]);
}

#[test]
fn a_fence_between_staging_and_commit_holds() {
    let store = Store::in_memory().unwrap();
    let producer = gate(&store);
    let pending = producer.submit("k", b"0").unwrap();
    let new = gate(&store);
    pending.wait().unwrap();
    assert_eq!(new.current_sequence(), Sequence(1), "what has its place comes before the next epoch");
}

fn stamp(sequence: u64) -> ProducerStamp {
    ProducerStamp { producer_id: "device 7".to_owned(), partition: PartitionId(3), sequence: Sequence(sequence) }
}

/// Counts up, once for each stamp.
fn take_in(store: &Store, sequence: u64) -> Stamped {
    store
        .transact(|tx| {
            let stamped = tx.stamp(&stamp(sequence))?;
            if stamped == Stamped::New {
                tx.table(ROWS)?.update("seen", |seen| seen.unwrap_or(0) + 1)?;
                tx.append(EVENTS, "k", b"in")?;
            }
            Ok(stamped)
        })
        .expect("room")
}

#[test]
fn a_transaction_with_a_stamp_happens_once() {
    let disk = Arc::new(MemoryDisk::default());
    let store = store_on(&disk);
    assert_eq!(take_in(&store, 0), Stamped::New);
    assert_eq!(take_in(&store, 0), Stamped::Duplicate(None));
    assert_eq!(take_in(&store, 1), Stamped::New);
    store.close().unwrap();
    let store = store_on(&disk);
    for sequence in [0, 1, 1, 0] {
        assert_eq!(take_in(&store, sequence), Stamped::Duplicate(None));
    }
    let snapshot = store.snapshot().unwrap();
    assert_eq!(snapshot.get(ROWS, "seen").unwrap(), Some(2));
    assert_eq!(snapshot.next_sequence("device 7", None, PartitionId(3)).unwrap(), Some(Sequence(2)));
    assert_eq!(snapshot.next_sequence("device 7", Some("events"), PartitionId(3)).unwrap(), None);
}

#[test]
fn of_two_transactions_with_one_stamp_one_is_told_to_wait() {
    let store = Store::in_memory().unwrap();
    let mut first = store.begin().unwrap();
    assert_eq!(first.stamp(&stamp(0)).unwrap(), Stamped::New);
    let mut second = store.begin().unwrap();
    assert_eq!(second.stamp(&stamp(0)).unwrap(), Stamped::InProgress);
    // Stamps of a producer happen in order: the next has to wait too.
    assert_eq!(second.stamp(&stamp(1)).unwrap(), Stamped::InProgress);
    first.abort();
    assert_eq!(second.stamp(&stamp(0)).unwrap(), Stamped::New, "given up, so free again");
    assert_eq!(second.stamp(&stamp(1)).unwrap(), Stamped::New, "one transaction may take several");
    assert_eq!(second.stamp(&stamp(1)).unwrap(), Stamped::Duplicate(None));
    second.append(EVENTS, "k", b"both").unwrap();
    second.commit().unwrap();
    let mut third = store.begin().unwrap();
    assert_eq!(third.stamp(&stamp(1)).unwrap(), Stamped::Duplicate(None));
    let error = third.stamp(&stamp(9)).unwrap_err();
    assert_eq!((error.kind(), error.expected_sequence()), (ErrorKind::Invalid, Some(Sequence(2))));
    // A submitted transaction is decided: the next stamp need not wait for the disk.
    assert_eq!(third.stamp(&stamp(2)).unwrap(), Stamped::New);
    let pending = third.submit().unwrap();
    assert_eq!(take_in(&store, 3), Stamped::New);
    pending.wait().unwrap();
}

#[test]
fn a_duplicate_is_answered_when_the_first_is_durable() {
    let store = Store::options()
        .disk(Arc::new(MemoryDisk::default()))
        .journal_file_bytes(64 << 10)
        .manual_duties()
        .open("/memory")
        .unwrap();
    let producer = gate(&store).sync_policy(SyncPolicy::Os);
    producer.append("k", b"lax").unwrap();
    assert!(values(&store.snapshot().unwrap(), 0).is_empty(), "not durable");
    assert_eq!(producer.append_with(Sequence(0), "k", b"lax").unwrap(), StampedAppend::Repeated(LogOffset(0)));
    assert_eq!(values(&store.snapshot().unwrap(), 0), [b"lax"], "the answer had to make it so");
}

#[test]
fn threads_that_share_a_producer_leave_no_hole_and_no_copy() {
    let store = Store::in_memory().unwrap();
    let producer = gate(&store);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let producer = &producer;
            scope.spawn(move || {
                for n in 0..50 {
                    producer.append("k", &(thread * 50 + n).to_be_bytes()).unwrap();
                }
            });
        }
    });
    let mut shown = values(&store.snapshot().unwrap(), 0);
    assert_eq!((shown.len(), producer.current_sequence()), (200, Sequence(200)));
    shown.sort();
    shown.dedup();
    assert_eq!(shown.len(), 200);
}

#[test]
fn hostile_names_and_counts_are_refused() {
    let store = Store::in_memory().unwrap();
    let long = "x".repeat(300);
    for name in ["", &long] {
        let refused = store.idempotent_producer(EVENTS, IdempotentProducerConfig::new(name)).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
    }
    let nowhere = IdempotentProducerConfig::new("gate").partition(PartitionId(2));
    assert_eq!(store.idempotent_producer(EVENTS, nowhere).err().unwrap().kind(), ErrorKind::Invalid);
    let last = IdempotentProducerConfig::new("last").initial_sequence(Sequence(u64::MAX));
    let producer = store.idempotent_producer(EVENTS, last).unwrap();
    assert_eq!(producer.append("k", b"v").unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn a_stamp_is_issued_before_its_record_is_sent() -> oncelog::Result<()> {
    let store = Store::in_memory()?;
    let config = || IdempotentProducerConfig::new("gate").initial_sequence(Sequence(10));
    let gate = store.idempotent_producer(EVENTS, config())?;
    let (first, second) = (gate.issue(), gate.issue());
    assert_eq!((first.producer_id.as_str(), first.sequence, second.sequence), ("gate", Sequence(10), Sequence(11)));
    assert_eq!((gate.current_sequence(), gate.was_issued(Sequence(11))), (Sequence(12), true));
    // In their order, and again.
    let early = gate.append_with(second.sequence, "k", b"2").expect_err("refused");
    assert_eq!(early.expected_sequence(), Some(first.sequence));
    let at = gate.append_with(first.sequence, "k", b"1")?;
    assert_eq!(gate.current_sequence(), Sequence(12), "the second stays issued");
    let again = gate.reissue(first.sequence)?;
    assert_eq!(again, first);
    assert_eq!(gate.append_with(again.sequence, "k", b"1")?.offset(), at.offset());
    // Behind one that was issued and never sent nothing is stored: a gap means loss.
    assert_eq!(gate.append("k", b"3").expect_err("refused").expected_sequence(), Some(second.sequence));
    let _ = gate.append_with(second.sequence, "k", b"2")?;
    gate.append("k", b"3")?;
    for never in [Sequence(9), Sequence(13)] {
        assert_eq!(gate.reissue(never).expect_err("refused").kind(), ErrorKind::Invalid);
    }
    Ok(())
}

/// The store knows what is stored, and no more: what was issued and never sent is issued anew after a restart.
#[test]
fn what_was_issued_and_never_stored_is_not_issued_after_a_restart() -> oncelog::Result<()> {
    let disk = Arc::new(MemoryDisk::default());
    let store = store_on(&disk);
    let before = gate(&store);
    let sent = before.issue();
    let _ = before.append_with(sent.sequence, "k", b"sent")?;
    // Kept by the caller, for whom the machine stopped before it could send them.
    let kept = [(before.issue(), b"kept 1"), (before.issue(), b"kept 2")];
    assert!(kept.iter().all(|(stamp, _)| before.was_issued(stamp.sequence)));
    store.close()?;

    let store = store_on(&disk);
    let after = gate(&store);
    assert_eq!(after.current_sequence(), kept[0].0.sequence);
    assert!(after.was_issued(sent.sequence));
    for (stamp, _) in &kept {
        assert!(!after.was_issued(stamp.sequence));
        assert_eq!(after.reissue(stamp.sequence).expect_err("refused").kind(), ErrorKind::Invalid);
    }
    // Sent first, and in order, they are stored under the stamps that they have.
    let early = after.append_with(kept[1].0.sequence, "k", kept[1].1).expect_err("refused");
    assert_eq!(early.expected_sequence(), Some(kept[0].0.sequence));
    for (stamp, value) in &kept {
        assert!(matches!(after.append_with(stamp.sequence, "k", *value)?, StampedAppend::Appended(_)));
        assert_eq!(after.reissue(stamp.sequence)?, *stamp);
    }
    assert_eq!(after.issue().sequence, kept[1].0.sequence.plus(1));
    Ok(())
}

/// Why what was kept comes first.
#[test]
fn a_new_record_takes_the_sequence_of_one_that_was_issued_and_never_stored() -> oncelog::Result<()> {
    let store = Store::in_memory()?;
    let kept = gate(&store).issue();
    let after = gate(&store);
    let at = after.append("k", b"new")?;
    assert_eq!(after.append_with(kept.sequence, "k", b"kept")?, StampedAppend::Repeated(at));
    Ok(())
}
