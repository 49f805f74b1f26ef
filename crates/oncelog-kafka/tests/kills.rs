//! Processes that are killed without warning, at any place, and come back: each word is told once for each time that it
//! was written, and the tables are right.

#![allow(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::time::{Duration, Instant};

use common::{LONG, WordCount, Writer, be_child, broker, start_child};

const KILLS: u64 = 12;

/// What the killed process does; a test only so that this binary can be run as one.
#[test]
fn child() {
    be_child();
}

#[test]
fn a_killed_process_leaves_nothing_out_and_nothing_twice() {
    let Some(servers) = broker() else { return };
    let dir = tempfile::tempdir().unwrap();
    let job = WordCount::new(&servers);
    {
        let kafka = job.options().open(dir.path()).unwrap();
        job.processor().threads(2).start(&kafka, job.count()).unwrap().stop().unwrap();
        kafka.close().unwrap();
    }
    let mut writer = Writer::new(&servers, job.words().name());
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..KILLS {
        let mut child = start_child(&job, dir.path());
        // It takes its time to join; then it is killed at some place of its work.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let alive = Duration::from_millis(300 + (random >> 33) % 2500);
        let began = Instant::now();
        while began.elapsed() < alive {
            writer.write(100);
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let kafka = job.options().open(dir.path()).unwrap();
    let run = job.processor().threads(2).start(&kafka, job.count()).unwrap();
    assert!(run.wait_caught_up(LONG).unwrap());
    // All but what is left of the last kill was done by those that were killed.
    let all: u64 = writer.written.values().sum();
    assert!(run.processed() < all, "{} of {all}", run.processed());
    job.assert_totals(&kafka, &writer.written);
    run.stop().unwrap();
    job.assert_told(&writer.written);
}
