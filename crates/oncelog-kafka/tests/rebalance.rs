//! Instances that come and go while the words flow: partitions and their tables move, and nothing is lost or doubled.

#![allow(clippy::disallowed_methods, reason = "the cluster lives by the real clock")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{LONG, WordCount, Writer, broker};
use oncelog::ProcessorHandle;
use oncelog_kafka::Kafka;

fn start(job: &WordCount, dir: &std::path::Path) -> (Kafka, ProcessorHandle) {
    let kafka = job.options().open(dir).unwrap();
    let run = job.processor().threads(1).commit_records(50).start(&kafka, job.count()).unwrap();
    (kafka, run)
}

#[track_caller]
fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn partitions_move_with_their_tables() {
    let Some(servers) = broker() else { return };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let job = WordCount::new(&servers);
    let (first_kafka, first) = start(&job, dirs[0].path());
    let stop = Arc::new(AtomicBool::new(false));
    let flow = {
        let (stop, mut writer) = (Arc::clone(&stop), Writer::new(&servers, job.words().name()));
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                writer.write(50);
                std::thread::sleep(Duration::from_millis(10));
            }
            writer.written
        })
    };
    wait_until("the first works", || first.processed() > 500);
    let (second_kafka, second) = start(&job, dirs[1].path());
    wait_until("the second gets a share", || second.processed() > 500);
    let before = first.processed();
    wait_until("the first keeps one", || first.processed() > before + 500);
    // The second goes; its partitions come back to the first, whose copies of their tables are behind by now.
    second.stop().unwrap();
    drop(second_kafka);
    stop.store(true, Ordering::SeqCst);
    let written = flow.join().unwrap();
    assert!(first.wait_caught_up(LONG).unwrap());
    job.assert_totals(&first_kafka, &written);
    first.stop().unwrap();
    job.assert_told(&written);
}
