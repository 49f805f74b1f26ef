//! A rate limiter: each client has a bucket of tokens that fills with time; a request takes one, or is refused. The
//! bucket, the decision and the request's consumption are one atomic step, so a crash grants nothing twice.
//!
//! `rate-limiter [DIR [REQUESTS]]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::time::Duration;

use oncelog::{
    ConsumerStyle, Error, IdempotentProducerConfig, Outcome, Postcard, Processor, RecordRef, Result, Store, TableDef,
    TopicDef, Tx, U64, Utf8, Whence,
};
use serde::{Deserialize, Serialize};

/// When a client asked, in milliseconds of its own clock.
const REQUESTS: TopicDef<Utf8, U64> = TopicDef::new("requests");
/// Whether a request was granted, by client.
const DECISIONS: TopicDef<Utf8, Postcard<Decision>> = TopicDef::new("decisions");
const BUCKETS: TableDef<Utf8, Postcard<Bucket>> = TableDef::new("buckets");

const CAPACITY: u64 = 5;
const MS_PER_TOKEN: u64 = 100;

#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
struct Bucket {
    tokens: u64,
    /// When the last token came.
    filled_ms: u64,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq)]
enum Decision {
    Granted,
    /// To be asked again then.
    Refused {
        retry_ms: u64,
    },
}

impl Bucket {
    fn full(now_ms: u64) -> Bucket {
        Bucket { tokens: CAPACITY, filled_ms: now_ms }
    }

    fn ask(&mut self, now_ms: u64) -> Decision {
        // A clock that went back brings no tokens.
        let came = now_ms.saturating_sub(self.filled_ms) / MS_PER_TOKEN;
        self.tokens = CAPACITY.min(self.tokens + came);
        self.filled_ms += came * MS_PER_TOKEN;
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Decision::Granted
            }
            None => Decision::Refused { retry_ms: self.filled_ms + MS_PER_TOKEN },
        }
    }
}

fn limit(request: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let (client, now_ms) = (request.key()?, request.value()?);
    let mut buckets = tx.table(BUCKETS)?;
    let mut bucket = buckets.get(client)?.unwrap_or_else(|| Bucket::full(now_ms));
    let decision = bucket.ask(now_ms);
    buckets.put(client, &bucket)?;
    tx.append(DECISIONS, client, &decision)?;
    Ok(Outcome::Commit)
}

/// The clients of this example: three, of which one asks far too often.
fn request(number: u64) -> (&'static str, u64) {
    match number % 10 {
        0 => ("ann", number * 40),
        1 | 2 => ("bob", number * 40),
        _ => ("eve", number * 40),
    }
}

fn main() -> Result<()> {
    let store = Store::open(oncelog_examples::store_dir("rate-limiter"))?;
    let run = Processor::new("limiter", REQUESTS).table(BUCKETS).output(DECISIONS).start(&store, limit)?;
    let gate = store.idempotent_producer(REQUESTS, IdempotentProducerConfig::new("gate"))?;
    let end = oncelog_examples::number(2, 500);
    let mut last = None;
    for number in gate.current_sequence().0..end {
        let (client, at_ms) = request(number);
        last = Some(gate.submit(client, &at_ms)?);
    }
    last.map(|last| last.wait()).transpose()?;
    if !run.wait_caught_up(Duration::from_secs(600))? {
        return Err(Error::user("the limiter is slow today"));
    }
    run.stop()?;

    // What a plain program would have decided must be what is in the log.
    let mut buckets: BTreeMap<&str, Bucket> = BTreeMap::new();
    let mut tally: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut decisions = store.consumer(DECISIONS, ConsumerStyle::NonTx(Whence::Oldest))?;
    for number in 0..end {
        let (client, at_ms) = request(number);
        let expected = buckets.entry(client).or_insert_with(|| Bucket::full(at_ms)).ask(at_ms);
        let record = decisions.next().transpose()?.ok_or_else(|| Error::user("a decision is missing"))?;
        let told = (record.key_as::<Utf8>()?, record.value_as::<Postcard<Decision>>()?);
        if told != (Some(client), Some(expected)) {
            return Err(Error::user(format!("request {number}: {told:?} in the log, {expected:?} expected")));
        }
        let (granted, refused) = tally.entry(client).or_default();
        *if expected == Decision::Granted { granted } else { refused } += 1;
    }
    for (client, (granted, refused)) in tally {
        println!("{client}: {granted} granted, {refused} refused");
    }
    drop(decisions);
    store.close()
}
