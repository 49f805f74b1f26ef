//! Read, process, commit: each record changes a state of 100 B, and state and progress are committed together, durably.
//!
//! Timed: reading the input, from the page cache, and all commits to the last answer. The yardsticks write one frame a
//! commit with the offset and the state, and sync it; nothing of theirs goes on while they wait. Oncelog is a processor
//! with a table of one row.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use oncelog::{AsEngine, Bytes, Outcome, Processor, RecordRef, Store, SyncPolicy, TableDef, Tx};

use crate::Result;
use crate::figures::{Figures, Timed};
use crate::records::{KEY_BYTES, Records};
use crate::subject_store::{SubjectStore, TOPIC};
use crate::workload::{Size, Subject, Workload};
use crate::yardstick::{FRAME_HEAD_BYTES, LogFile, Scan};

const RECORD_BYTES: usize = 100;
const STATE_BYTES: usize = 100;
const STATE: TableDef<Bytes, Bytes> = TableDef::new("state");
const STATE_KEY: &[u8] = b"state";
/// Records of the input that are written together.
const BATCH: usize = 1000;

pub(super) struct Once {
    name: &'static str,
    about: &'static str,
    /// Records that share a commit.
    group: usize,
    /// Commits of Oncelog that may wait for the disk while the next is filled.
    in_flight: usize,
    commits: usize,
}

pub(super) const ONE_BY_ONE: Once = Once {
    name: "once-1",
    about: "exactly once, a durable commit for each record, waited for; oncelog: commits_in_flight(0)",
    group: 1,
    in_flight: 0,
    commits: 4000,
};

pub(super) const ONE_AHEAD: Once = Once {
    name: "once-1-ahead",
    about: "the same, oncelog with up to 4 commits in flight, which share syncs; the yardsticks wait",
    group: 1,
    in_flight: 4,
    commits: 4000,
};

pub(super) const HUNDREDS: Once = Once {
    name: "once-100",
    about: "exactly once, 100 records a durable commit; oncelog with up to 4 in flight; the yardsticks wait",
    group: 100,
    in_flight: 4,
    commits: 4000,
};

impl Workload for Once {
    fn name(&self) -> &'static str {
        self.name
    }

    fn unit(&self) -> &'static str {
        "records"
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn run(&self, subject: Subject, dir: &Path, size: Size) -> Result<Figures> {
        let records = Records::of(RECORD_BYTES);
        let count = size.pick(self.commits, 20) * self.group;
        match subject {
            Subject::Oncelog => self.store(dir, size, &records, count),
            yardstick => self.yardstick(yardstick, dir, &records, count),
        }
    }
}

impl Once {
    fn yardstick(&self, subject: Subject, dir: &Path, records: &Records, count: usize) -> Result<Figures> {
        let input_dir = dir.join("input");
        std::fs::create_dir(&input_dir)?;
        let mut input = LogFile::create(&input_dir, Subject::Raw, 0)?;
        for (from, to) in batches(count) {
            input.append_batch((from..to).map(|n| records.get(n)))?;
        }
        input.sync()?;
        let frame = FRAME_HEAD_BYTES + size_of::<u64>() + STATE_BYTES;
        let mut output = LogFile::create(dir, subject, count / self.group * frame)?;
        let mut scan = Scan::open(input.path())?;
        let (mut offset, mut state) = (0_u64, [0; STATE_BYTES]);
        let start = Instant::now();
        while let Some(payload) = scan.next()? {
            let (key, value) = payload.split_at_checked(KEY_BYTES).ok_or("a record is too short")?;
            process(&mut state, key, value);
            offset += 1;
            if offset.is_multiple_of(self.group as u64) {
                output.append_batch(std::iter::once((&offset.to_le_bytes()[..], black_box(&state[..]))))?;
                output.sync()?;
            }
        }
        let elapsed = start.elapsed();
        check(offset, count)?;
        Ok(Figures { count: offset, elapsed, latency: None, syncs: output.syncs() })
    }

    fn store(&self, dir: &Path, size: Size, records: &Records, count: usize) -> Result<Figures> {
        let mut state = [0; STATE_BYTES];
        let change = |record: RecordRef<'_, Bytes, Bytes>, tx: &mut Tx<'_>| {
            process(&mut state, record.key()?, record.value()?);
            tx.table(STATE)?.put(STATE_KEY, black_box(&state[..]))?;
            Ok(Outcome::Commit)
        };
        let prepare = |store: &Store| {
            let producer = store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
            for (from, to) in batches(count) {
                producer.append_batch((from..to).map(|n| records.get(n)))?;
            }
            store.trim()?;
            let processor = Processor::new("bench", TOPIC).table(STATE).commits_in_flight(self.in_flight);
            // Groups are ended by their count alone.
            let processor = processor.commit_records(self.group as u64).commit_interval(Duration::from_secs(3600));
            Ok(processor.build(store.as_engine(), change)?)
        };
        SubjectStore::measure(dir, size, prepare, |_, task| {
            let start = Instant::now();
            let done = task.step(None)?;
            let elapsed = start.elapsed();
            check(done, count)?;
            Ok(Timed { count: done, elapsed, latency: None })
        })
    }
}

fn batches(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).step_by(BATCH).map(move |from| (from, count.min(from + BATCH)))
}

/// The state after a record: its bytes, as far as there is room.
#[inline]
fn process(state: &mut [u8; STATE_BYTES], key: &[u8], value: &[u8]) {
    let (head, tail) = state.split_at_mut(KEY_BYTES);
    head.copy_from_slice(key);
    tail.copy_from_slice(value);
}

const _: () = assert!(STATE_BYTES == RECORD_BYTES);

fn check(done: u64, count: usize) -> Result<()> {
    if done == count as u64 { Ok(()) } else { Err(format!("{done} records of {count} were processed").into()) }
}
