//! Appends that are answered when they survive a power cut, one record each, from one thread or many.
//!
//! Timed: from the moment when all threads stand ready until the last has its last answer.

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::Result;
use crate::figures::{Figures, Latency};
use crate::records::Records;
use crate::subject_store::{SubjectStore, TOPIC};
use crate::workload::{Size, Subject, Workload};
use crate::yardstick::{FRAME_HEAD_BYTES, GroupLog, LogFile};

const RECORD_BYTES: usize = 100;

pub(super) struct Durable {
    name: &'static str,
    about: &'static str,
    threads: usize,
    /// Operations of each thread.
    calls: usize,
    /// One of so many operations is timed by itself, with two readings of the clock.
    sample: usize,
}

pub(super) const THREADS_1: Durable = Durable {
    name: "durable-1",
    about: "durable append, 100 B, one record a call, 1 thread; one call of 4 timed",
    threads: 1,
    calls: 5000,
    sample: 4,
};

pub(super) const THREADS_8: Durable = Durable {
    name: "durable-8",
    about: "the same from 8 threads; one call of 8 timed",
    threads: 8,
    calls: 2000,
    sample: 8,
};

pub(super) const THREADS_64: Durable = Durable {
    name: "durable-64",
    about: "the same from 64 threads; one call of 16 timed",
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
        let records = Records::of(RECORD_BYTES);
        let calls = size.pick(self.calls, self.sample);
        match subject {
            Subject::Oncelog => {
                let subject = SubjectStore::open(dir, size)?;
                let producer = subject.store.producer(TOPIC)?;
                subject.settle()?;
                let append = |key: &[u8], value: &[u8]| {
                    black_box(producer.append(key, value)?);
                    Ok(())
                };
                let figures = self.measure(calls, &records, &append, &|| subject.syncs())?;
                drop(producer);
                subject.store.close()?;
                Ok(figures)
            }
            yardstick => {
                let bytes = self.threads * (calls + warm_up(calls)) * (FRAME_HEAD_BYTES + RECORD_BYTES);
                let log = GroupLog::new(LogFile::create(dir, yardstick, bytes)?);
                self.measure(calls, &records, &|key, value| log.append(key, value), &|| log.syncs())
            }
        }
    }
}

type Append<'a> = &'a (dyn Fn(&[u8], &[u8]) -> Result<()> + Sync);

impl Durable {
    fn measure(&self, calls: usize, records: &Records, append: Append<'_>, syncs: &dyn Fn() -> u64) -> Result<Figures> {
        let ready = Barrier::new(self.threads + 1);
        let done = Barrier::new(self.threads + 1);
        let work = |thread: usize| {
            let warm = (0..warm_up(calls)).try_for_each(|n| append_nth(records, thread + n, append));
            ready.wait();
            let worked = warm.and_then(|()| self.work(thread, calls, records, append));
            done.wait();
            worked
        };
        std::thread::scope(|scope| {
            let work = &work;
            let threads: Vec<_> = (0..self.threads).map(|thread| scope.spawn(move || work(thread))).collect();
            ready.wait();
            let (start, before) = (Instant::now(), syncs());
            done.wait();
            let (elapsed, syncs) = (start.elapsed(), syncs() - before);
            let mut samples = Vec::new();
            for thread in threads {
                samples.extend(thread.join().map_err(|_| "a thread of the workload panicked")??);
            }
            Ok(Figures { count: (self.threads * calls) as u64, elapsed, latency: Latency::of(samples), syncs })
        })
    }

    /// The appends of one thread; gives the times of those that were sampled. Threads start at different places of the
    /// sampling, so that they do not all read the clock in the same group.
    fn work(&self, thread: usize, calls: usize, records: &Records, append: Append<'_>) -> Result<Vec<Duration>> {
        let mut samples = Vec::with_capacity(calls / self.sample + 1);
        for n in 0..calls {
            if !(n + thread).is_multiple_of(self.sample) {
                append_nth(records, n + thread, append)?;
                continue;
            }
            let start = Instant::now();
            append_nth(records, n + thread, append)?;
            samples.push(start.elapsed());
        }
        Ok(samples)
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
