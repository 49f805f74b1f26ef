//! Offset commits: a thousand consumers, each of which reads one record and commits, durably, from eight threads.
//!
//! Timed: reading the records, from memory or the page cache, and all commits. The yardsticks write a frame with the
//! consumer, the partition and the offset, and sync it in groups; they check nothing.

use std::hint::black_box;
use std::path::Path;

use oncelog::{Bytes, Consumer, ConsumerStyle, Outcome, Store, SyncPolicy};

use crate::Result;
use crate::figures::Figures;
use crate::records::Records;
use crate::subject_store::{SubjectStore, TOPIC};
use crate::threads::{Plan, together};
use crate::workload::{Size, Subject, Workload};
use crate::yardstick::{FRAME_HEAD_BYTES, GroupLog, LogFile};

const THREADS: usize = 8;
const RECORD_BYTES: usize = 100;
const FRAME_BYTES: usize = FRAME_HEAD_BYTES + 2 * size_of::<u64>();

pub(super) struct Offsets {
    name: &'static str,
    about: &'static str,
    /// Consumers of each thread.
    consumers: usize,
    consumers_quick: usize,
    /// Commits of each consumer that are timed; one more is not.
    commits: usize,
}

pub(super) const DURABLE_8: Offsets = Offsets {
    name: "offsets-8",
    about: "durable offset commits, 1000 consumers from 8 threads, one record a commit; one call of 8 timed",
    consumers: 125,
    consumers_quick: 2,
    commits: 8,
};

impl Workload for Offsets {
    fn name(&self) -> &'static str {
        self.name
    }

    fn unit(&self) -> &'static str {
        "commits"
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn run(&self, subject: Subject, dir: &Path, size: Size) -> Result<Figures> {
        let consumers = size.pick(self.consumers, self.consumers_quick);
        let plan = Plan { calls: consumers * self.commits, warm_up: consumers, sample: 8 };
        match subject {
            Subject::Oncelog => self.store(dir, size, consumers, plan),
            yardstick => {
                let bytes = THREADS * (plan.calls + plan.warm_up) * FRAME_BYTES;
                let log = GroupLog::new(LogFile::create(dir, yardstick, bytes)?);
                let log = &log;
                let worker = |thread: usize| {
                    move |n: usize| {
                        let consumer = (thread * consumers + n % consumers) as u64;
                        let offset = (n / consumers + 1) as u64;
                        log.append(black_box(&consumer.to_le_bytes()), black_box(&offset.to_le_bytes()))
                    }
                };
                let timed = together((0..THREADS).map(worker), plan)?;
                Ok(timed.with_syncs(log.syncs()))
            }
        }
    }
}

impl Offsets {
    fn store(&self, dir: &Path, size: Size, consumers: usize, plan: Plan) -> Result<Figures> {
        let prepare = |store: &Store| {
            let producer = store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
            producer.append_batch(Records::of(RECORD_BYTES).batch(self.commits + 1))?;
            store.flush()?;
            open_consumers(store, THREADS, consumers)
        };
        SubjectStore::measure(dir, size, prepare, |_, consumers| {
            let worker = |of_thread: &mut Vec<Consumer<Bytes, Bytes>>| {
                let mut of_thread = std::mem::take(of_thread);
                move |n: usize| {
                    let at = n % of_thread.len();
                    commit_one(&mut of_thread[at])
                }
            };
            together(consumers.iter_mut().map(worker), plan)
        })
    }
}

/// Consumers of one topic, `each` for each of `threads`.
pub(crate) fn open_consumers(store: &Store, threads: usize, each: usize) -> Result<Vec<Vec<Consumer<Bytes, Bytes>>>> {
    let ids: Vec<String> = (0..threads * each).map(|n| format!("consumer-{n}")).collect();
    store.create_consumers(ids.iter().map(String::as_str))?;
    let open = |id: &String| Ok(store.consumer(TOPIC, ConsumerStyle::ClientTx(id.clone()))?);
    ids.chunks(each).map(|ids| ids.iter().map(open).collect()).collect()
}

/// Hands the consumer its next record and commits it, durably.
pub(crate) fn commit_one(consumer: &mut Consumer<Bytes, Bytes>) -> Result<()> {
    let done = consumer.try_process(Some(1), |record, _| {
        black_box(record.key()?);
        Ok(Outcome::Commit)
    })?;
    if done == 1 { Ok(()) } else { Err("a consumer has found no record".into()) }
}
