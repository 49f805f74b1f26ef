//! Appends that are answered when they survive a power cut, one record each, from one thread or many.
//!
//! Timed: from the moment when all threads stand ready until the last has its last answer.

use std::hint::black_box;
use std::path::Path;

use oncelog::Store;

use crate::Result;
use crate::figures::{Figures, Timed};
use crate::records::Records;
use crate::subject_store::{SubjectStore, TOPIC};
use crate::threads::{Plan, together};
use crate::workload::{Size, Subject, Workload};
use crate::yardstick::{FRAME_HEAD_BYTES, GroupLog, LogFile};

const RECORD_BYTES: usize = 100;

pub(super) struct Durable {
    name: &'static str,
    about: &'static str,
    record_bytes: usize,
    threads: usize,
    /// Operations of each thread.
    calls: usize,
    /// One of so many operations is timed by itself, with two readings of the clock.
    sample: usize,
}

pub(super) const THREADS_1: Durable = Durable {
    name: "durable-1",
    about: "durable append, 100 B, one record a call, 1 thread; one call of 4 timed",
    record_bytes: RECORD_BYTES,
    threads: 1,
    calls: 5000,
    sample: 4,
};

pub(super) const THREADS_8: Durable = Durable {
    name: "durable-8",
    about: "the same from 8 threads; one call of 8 timed",
    record_bytes: RECORD_BYTES,
    threads: 8,
    calls: 2000,
    sample: 8,
};

pub(super) const THREADS_64: Durable = Durable {
    name: "durable-64",
    about: "the same from 64 threads; one call of 16 timed",
    record_bytes: RECORD_BYTES,
    threads: 64,
    calls: 1500,
    sample: 16,
};

impl Workload for Durable {
    fn name(&self) -> &'static str {
        self.name
    }

    fn unit(&self) -> &'static str {
        "appends"
    }

    fn about(&self) -> &'static str {
        self.about
    }

    fn run(&self, subject: Subject, dir: &Path, size: Size) -> Result<Figures> {
        let records = Records::of(self.record_bytes);
        let calls = size.pick(self.calls, self.sample);
        match subject {
            Subject::Oncelog => {
                let prepare = |store: &Store| Ok(store.producer(TOPIC)?);
                SubjectStore::measure(dir, size, prepare, |_, producer| {
                    let append = |key: &[u8], value: &[u8]| {
                        black_box(producer.append(key, value)?);
                        Ok(())
                    };
                    self.measure(calls, &records, &append)
                })
            }
            yardstick => {
                let bytes = self.threads * (calls + warm_up(calls)) * (FRAME_HEAD_BYTES + self.record_bytes);
                let log = GroupLog::new(LogFile::create(dir, yardstick, bytes)?);
                let timed = self.measure(calls, &records, &|key, value| log.append(key, value))?;
                Ok(timed.with_syncs(log.syncs()))
            }
        }
    }
}

impl Durable {
    /// The same with other records.
    pub(super) fn of(self, record_bytes: usize) -> Durable {
        Durable { record_bytes, ..self }
    }
}

type Append<'a> = &'a (dyn Fn(&[u8], &[u8]) -> Result<()> + Sync);

impl Durable {
    fn measure(&self, calls: usize, records: &Records, append: Append<'_>) -> Result<Timed> {
        let worker = |thread: usize| move |n: usize| append_nth(records, thread + n, append);
        let plan = Plan { calls, warm_up: warm_up(calls), sample: self.sample };
        together((0..self.threads).map(worker), plan)
    }
}

fn append_nth(records: &Records, n: usize, append: Append<'_>) -> Result<()> {
    let (key, value) = black_box(records.get(n));
    append(key, value)
}

/// Calls of each thread before the clock is read.
fn warm_up(calls: usize) -> usize {
    calls / 20
}
