//! For those who come from the local transactional log inspired by acid-state and Kafka: what that log still holds is
//! taken over, each record once however often this is killed, and then worked off in the three styles.
//!
//! `from-txlog DIR OLD [DIE-AFTER]`: OLD is a text file that stands for the old log, a job to a line. See
//! docs/migrate/txlog.md.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::fs::File;
use std::io::{BufRead, BufReader};

use oncelog::{
    ConsumerOptions, ConsumerStyle, Error, IdempotentProducerConfig, Outcome, Postcard, RecordRef, Result, RetryPolicy,
    Store, TableDef, TopicDef, Tx, U64, Utf8, Whence, commit, retry, skip,
};
use serde::{Deserialize, Serialize};

/// What the old log held: a type of the program's own, which serde writes.
#[derive(Serialize, Deserialize)]
struct Job {
    name: String,
    seconds: u64,
}

const JOBS: TopicDef<U64, Postcard<Job>> = TopicDef::new("jobs").file_roll_size(1 << 20);
const DONE: TableDef<Utf8, U64> = TableDef::new("done");
const FAILED: TopicDef<U64, Postcard<Job>> = TopicDef::new("jobs.failed");

fn main() -> Result<()> {
    let Some(old) = std::env::args_os().nth(2) else {
        return Err(Error::user("usage: from-txlog DIR OLD [DIE-AFTER]"));
    };
    let store = Store::open(oncelog_examples::store_dir("from-txlog"))?;
    take_over(&store, old.as_ref(), oncelog_examples::number(3, u64::MAX))?;

    // Each job once for this worker. Done with and written down is one step, so it is not done again after a crash.
    let how = ConsumerOptions::new(ConsumerStyle::ClientTx("worker".into()))
        .retry(RetryPolicy::new().attempts_max(3))
        .dead_letter(FAILED);
    let mut worker = store.consumer(JOBS, how)?;
    let count = worker.try_process(None, work)?;
    println!("{count} jobs are worked off now");

    // Each job once over all consumers that ask so.
    let mut all = store.consumer(JOBS, ConsumerStyle::GlobalTx)?;
    let mut first = 0;
    for job in &mut all {
        job?;
        first += 1;
    }
    println!("{first} for whoever was first");

    // As often as one likes, and fastest.
    let mut audit = store.consumer(JOBS, ConsumerStyle::NonTx(Whence::Oldest))?;
    let mut seconds = 0;
    audit.try_process(None, |job, _| {
        seconds += job.value()?.seconds;
        Ok(Outcome::Commit)
    })?;
    println!("{seconds} seconds in all");
    for (name, times) in store.snapshot()?.scan(DONE, ..)? {
        println!("{name}: {times}");
    }
    drop((worker, all, audit));
    store.close()
}

/// The place in the old log is the sequence of the record here. So a run that was killed is gone on with, and what it
/// has sent already is stored once.
fn take_over(store: &Store, old: &std::path::Path, die_after: u64) -> Result<()> {
    let jobs = store.idempotent_producer(JOBS, IdempotentProducerConfig::new("old log"))?;
    let next = jobs.current_sequence().0;
    let lines = BufReader::new(File::open(old).map_err(Error::user)?).lines();
    let mut waiting = Vec::new();
    for (place, line) in (0..).zip(lines).skip(usize::try_from(next).map_err(Error::user)?) {
        if place - next == die_after {
            std::process::abort();
        }
        let line = line.map_err(Error::user)?;
        let (name, seconds) = line.split_once(' ').unwrap_or((&line, "0"));
        let job = Job { name: name.to_owned(), seconds: seconds.parse().map_err(Error::user)? };
        waiting.push(jobs.submit(&place, &job)?);
    }
    let taken = waiting.len();
    waiting.into_iter().try_for_each(|pending| pending.wait().map(drop))?;
    println!("{taken} jobs were taken over");
    Ok(())
}

fn work(job: RecordRef<'_, U64, Postcard<Job>>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let Job { name, seconds } = job.value()?;
    if name == "noop" {
        skip!()
    }
    tx.table(DONE)?.update(&name, |times| times.unwrap_or(0) + 1)?;
    if seconds > 3600 {
        // What was staged is taken back. After the third time it goes to the failed ones, in the step that passes it.
        retry!()
    }
    commit!()
}
