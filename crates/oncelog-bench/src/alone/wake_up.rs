//! How long until a reader in another process has the record that it waits for.
//!
//! The writer appends durably, one record at a time, each when the reader has had the one before and sleeps again. From
//! the answer of the append, which comes right behind the wake-up call, to the moment when the reader has the record in
//! its hands, by the clock of the machine that both read.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oncelog::{PartitionId, Step, StoreReader, Whence};

use super::{Alone, Scale, Value};
use crate::Result;
use crate::child::{self, Role};
use crate::figures::Latency;
use crate::print;
use crate::subject_store::{SubjectStore, TOPIC, store_dir};

pub(super) struct WakeUp;

/// The reader is back in its sleep by then.
const PAUSE: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(10);
/// The last record.
const LAST: &[u8] = b"last";

impl Alone for WakeUp {
    fn name(&self) -> &'static str {
        "wake-up"
    }

    fn about(&self) -> &'static str {
        "a sleeping reader in another process: from the answer of a durable append until it has the record"
    }

    fn run(&self, dir: &Path, scale: Scale) -> Result<Vec<Value>> {
        let subject = SubjectStore::open(dir, scale.size)?;
        let producer = subject.store.producer(TOPIC)?;
        let mut reader = child::start(Role::Waiter, dir, scale.size)?;
        reader.line()?;
        let mut of_round = || -> Result<Latency> {
            let mut samples = Vec::new();
            for _ in 0..scale.size.pick(500, 20) {
                sleep(PAUSE);
                producer.append(b"key", b"value")?;
                let answered = now_ns()?;
                let had: u64 = reader.line()?.parse()?;
                // Had before the writer had its answer: no time at all.
                samples.push(Duration::from_nanos(had.saturating_sub(answered)));
            }
            Latency::of(samples).ok_or("no samples".into())
        };
        let rounds = (0..scale.rounds).map(|_| of_round()).collect::<Result<Vec<_>>>()?;
        producer.append(LAST, LAST)?;
        reader.end()?;
        drop(producer);
        subject.store.close()?;
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        Ok(vec![
            Value::of("p50", rounds.iter().map(|latency| us(latency.p50)), "us", "<= 30")?,
            Value::of("p99", rounds.iter().map(|latency| us(latency.p99)), "us", "-")?,
        ])
    }
}

/// In a child: says when it has each record.
pub(crate) fn wait_for_records(dir: &Path) -> Result<()> {
    let reader = StoreReader::open(store_dir(dir))?;
    let mut cursor = reader.cursor(TOPIC.name(), Whence::Latest)?;
    // Where it begins is found out now and not with the first record.
    if cursor.positions() != [(PartitionId(0), reader.offsets(TOPIC.name(), PartitionId(0))?.1)] {
        return Err("the reader does not stand at the end".into());
    }
    print::line("ready");
    loop {
        if !cursor.wait(PATIENCE)? {
            return Err("no record has come".into());
        }
        let mut is_last = false;
        cursor.poll(|_, record| {
            is_last = record.key == Some(LAST);
            if !is_last {
                print::line(&now_ns().map_err(oncelog::Error::user)?.to_string());
            }
            Ok(Step::Next)
        })?;
        if is_last {
            return Ok(());
        }
    }
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}
