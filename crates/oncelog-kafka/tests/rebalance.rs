//! Instances that come and go while the words flow: partitions and their tables move, and nothing is lost or doubled.

#![allow(clippy::disallowed_methods, reason = "the cluster lives by the real clock")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{LONG, WordCount, Writer, be_child, broker, start_child};
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

/// The process that is stopped for a while; a test only so that this binary can be run as one.
#[test]
fn child() {
    be_child();
}

/// Tells a process of our own to stop, or to go on.
fn signal(child: &std::process::Child, name: &str) {
    let told = std::process::Command::new("sh").args(["-c", &format!("kill -{name} {}", child.id())]).status();
    assert!(told.unwrap().success());
}

#[test]
fn a_process_that_was_thought_dead_changes_nothing() {
    let Some(servers) = broker() else { return };
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let job = WordCount::new(&servers);
    let (kafka, run) = start(&job, dirs[0].path());
    let mut writer = Writer::new(&servers, job.words().name());
    let mut child = start_child(&job, dirs[1].path());
    for pause in 0..3 {
        // Both have their share when ours no longer grows by all that is written.
        let mut before = (run.processed(), 0);
        wait_until("the other gets a share", || {
            writer.write(50);
            before.1 += 50;
            run.processed() > before.0 && run.processed() + 500 < before.0 + before.1
        });
        // Stopped in the middle of its work, at another place each time, and for longer than the group waits.
        std::thread::sleep(Duration::from_millis(7 * pause));
        signal(&child, "STOP");
        writer.write(500);
        before = (run.processed(), 0);
        assert!(run.wait_caught_up(LONG).unwrap(), "ours takes over");
        assert!(run.processed() > before.0);
        writer.write(500);
        signal(&child, "CONT");
        writer.write(500);
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(run.wait_caught_up(LONG).unwrap());
    job.assert_totals(&kafka, &writer.written);
    run.stop().unwrap();
    job.assert_told(&writer.written);
}
