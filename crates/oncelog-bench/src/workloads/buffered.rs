//! Appends that are answered before they are durable.
//!
//! Timed: from the first call to the answer of the last. The yardsticks then have their bytes in the page cache. So has
//! Oncelog, twice, in journal and segment; what its background thread syncs or trims meanwhile is in its time.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use oncelog::{Store, SyncPolicy};

use crate::Result;
use crate::figures::{Figures, Timed};
use crate::records::Records;
use crate::subject_store::{SubjectStore, TOPIC};
use crate::workload::{Size, Subject, Workload};
use crate::yardstick::{FRAME_HEAD_BYTES, LogFile};

const LINGER: Duration = Duration::from_millis(5);

pub(super) struct Buffered {
    name: &'static str,
    about: &'static str,
    record_bytes: usize,
    /// Records in one call.
    batch: usize,
    calls: usize,
    calls_quick: usize,
    /// Whether Oncelog gathers records before it writes them.
    lingers: bool,
}

pub(super) const BATCHES_100: Buffered = Buffered {
    name: "append-batch-100",
    about: "buffered append, 100 B, 1000 records a call; oncelog: append_batch, SyncPolicy::Os",
    record_bytes: 100,
    batch: 1000,
    calls: 3000,
    calls_quick: 10,
    lingers: false,
};

pub(super) const BATCHES_1K: Buffered = Buffered {
    name: "append-batch-1k",
    about: "the same, 1 KiB",
    record_bytes: 1024,
    batch: 1000,
    calls: 400,
    calls_quick: 2,
    lingers: false,
};

pub(super) const ONES_100: Buffered = Buffered {
    name: "append-one-100",
    about: "buffered append, 100 B, one record a call; oncelog: append, SyncPolicy::Os",
    record_bytes: 100,
    batch: 1,
    calls: 300_000,
    calls_quick: 1000,
    lingers: false,
};

pub(super) const ONES_LINGER_100: Buffered = Buffered {
    name: "append-linger-100",
    about: "the same; oncelog: with linger 5 ms, until the last is written",
    record_bytes: 100,
    batch: 1,
    calls: 3_000_000,
    calls_quick: 1000,
    lingers: true,
};

impl Workload for Buffered {
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
        let records = Records::of(self.record_bytes);
        let calls = size.pick(self.calls, self.calls_quick);
        match subject {
            Subject::Oncelog => self.store(dir, size, &records, calls),
            yardstick => self.yardstick(yardstick, dir, &records, calls),
        }
    }
}

impl Buffered {
    /// The same with other records; of large ones fewer, so that the bytes stay about the same.
    pub(super) fn of(self, record_bytes: usize) -> Buffered {
        let calls = (self.calls * self.record_bytes / record_bytes.max(1)).max(self.calls_quick);
        Buffered { record_bytes, calls, ..self }
    }

    fn yardstick(&self, subject: Subject, dir: &Path, records: &Records, calls: usize) -> Result<Figures> {
        let frame = FRAME_HEAD_BYTES + self.record_bytes;
        let mut log = LogFile::create(dir, subject, (calls + warm_up(calls)) * self.batch * frame)?;
        let mut call = |n: usize| match self.batch {
            1 => log.append_batch(std::iter::once(black_box(records.get(n)))),
            batch => log.append_batch(black_box(records).batch(batch)),
        };
        let elapsed = timed(calls, &mut call)?;
        Ok(self.timed(calls, elapsed).with_syncs(log.syncs()))
    }

    fn store(&self, dir: &Path, size: Size, records: &Records, calls: usize) -> Result<Figures> {
        let prepare = |store: &Store| {
            let producer = store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
            Ok(if self.lingers { producer.linger(LINGER) } else { producer })
        };
        SubjectStore::measure(dir, size, prepare, |subject, producer| {
            let mut call = |n: usize| {
                if self.batch == 1 {
                    let (key, value) = black_box(records.get(n));
                    black_box(producer.append(key, value)?);
                } else {
                    black_box(producer.append_batch(black_box(records).batch(self.batch))?);
                }
                Ok(())
            };
            let mut elapsed = timed(calls, &mut call)?;
            if self.lingers {
                // What the yardstick has given to the operating system by now: an append that is not gathered waits for
                // it.
                let start = Instant::now();
                let (key, value) = records.get(0);
                subject.store.producer(TOPIC)?.sync_policy(SyncPolicy::Os).append(key, value)?;
                elapsed += start.elapsed();
            }
            Ok(self.timed(calls, elapsed))
        })
    }

    fn timed(&self, calls: usize, elapsed: Duration) -> Timed {
        Timed { count: (calls * self.batch) as u64, elapsed, latency: None }
    }
}

/// Calls that are made before the clock is read: the first large writes after a pause are slow on virtual machines.
fn warm_up(calls: usize) -> usize {
    calls / 20
}

fn timed(calls: usize, call: &mut dyn FnMut(usize) -> Result<()>) -> Result<Duration> {
    (0..warm_up(calls)).try_for_each(&mut *call)?;
    let start = Instant::now();
    (0..calls).try_for_each(call)?;
    Ok(start.elapsed())
}
