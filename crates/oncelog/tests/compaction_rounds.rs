//! Rounds of key compaction come to an end, whatever a topic holds, and go on when retention takes from under them.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

#[path = "common/set_clock.rs"]
mod set_clock;

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use oncelog::{Bytes, Compaction, PartitionId, Store, TopicChange, TopicDef};
use set_clock::SetClock;

const PLAIN: TopicDef<Bytes, Bytes> = TopicDef::new("plain").file_roll_size(1024);

/// Compacts, in a moment.
fn compact(store: &Store, topic: &str) {
    let (done, is_done) = channel();
    let (of, topic) = (store.clone(), topic.to_owned());
    thread::spawn(move || done.send(of.compact(&topic)));
    is_done.recv_timeout(Duration::from_secs(60)).expect("it does not come to an end").unwrap();
}

#[test]
fn records_with_neither_key_nor_value_are_no_tombstones() {
    let clock = Arc::new(SetClock::default());
    let dir = tempfile::tempdir().unwrap();
    let options = Store::options().clock(Arc::clone(&clock) as _).manual_duties();
    let store = options.open(dir.path()).unwrap();
    let producer = store.producer(PLAIN).unwrap();
    let zero = Some(PartitionId(0));
    // Each fills a file, so that each is judged by itself.
    for number in 0..10_u8 {
        let _keyless = producer.append_record(zero, None, None, &[], None).unwrap();
        producer.append(&[number][..], &[number; 900]).unwrap();
    }
    let compaction = Compaction::new().min_dirty_percent(0).tombstone_retention(Duration::from_secs(60));
    store.alter_topic("plain", &TopicChange::default().compaction(Some(compaction))).unwrap();
    for _ in 0..3 {
        compact(&store, "plain");
        clock.pass(100);
        store.run_duties().unwrap();
    }
    let rounds = store.compaction_stats("plain").unwrap().rounds;
    for _ in 0..20 {
        clock.pass(10);
        store.run_duties().unwrap();
    }
    let later = store.compaction_stats("plain").unwrap().rounds;
    assert_eq!(later, rounds, "nothing is due");
}
