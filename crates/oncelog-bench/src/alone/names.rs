//! Many topics and many consumers against one of each.
//!
//! The same number of durable appends, handed over without waiting and then waited for, to one topic and to all in
//! turn; and the same number of durable offset commits, one after the other, of one consumer and of all in turn. Each
//! topic and consumer was used once before: what is made at the first use is not in the time.

use std::path::Path;
use std::time::Instant;

use oncelog::{Bytes, Consumer, Producer, Store, SyncPolicy, TopicDef};

use super::{Alone, Scale, Value};
use crate::Result;
use crate::records::Records;
use crate::subject_store::{SubjectStore, TOPIC};
use crate::workloads::{commit_one, open_consumers};

pub(super) struct Names;

const RECORD_BYTES: usize = 100;
/// Appends that wait for their answers at one time.
const IN_FLIGHT: usize = 1000;

impl Alone for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn about(&self) -> &'static str {
        "--names topics and as many consumers, against one of each: durable appends and offset commits; making them"
    }

    fn run(&self, dir: &Path, scale: Scale) -> Result<Vec<Value>> {
        let subject = SubjectStore::open(dir, scale.size)?;
        let store = &subject.store;
        let many = scale.names;
        let mut values = Vec::new();

        let specs = (0..many).map(|n| topic(n).spec());
        let start = Instant::now();
        store.create_topics(specs)?;
        let made = start.elapsed().as_secs_f64();
        values.push(Value::of("making topics together, each", [made / many as f64 * 1e3], "ms", "-")?);
        let few = many.min(scale.size.pick(200, 5));
        let start = Instant::now();
        for n in 0..few {
            store.producer(TopicDef::<Bytes, Bytes>::named(format!("alone-{n}")))?;
        }
        let made = start.elapsed().as_secs_f64();
        values.push(Value::of("making topics one by one, each", [made / few as f64 * 1e3], "ms", "-")?);

        let producers = (0..many).map(|n| Ok(store.producer(topic(n))?)).collect::<Result<Vec<_>>>()?;
        append_in_turn(&producers, many)?;
        let mut ratios = Vec::new();
        for _ in 0..scale.rounds {
            let one = append_in_turn(&producers[..1], many)?;
            let all = append_in_turn(&producers, many)?;
            ratios.push(all / one);
        }
        values.push(Value::of("append, all topics / one", ratios, "x", "<= 1.2")?);
        drop(producers);

        let start = Instant::now();
        let ids: Vec<String> = (0..many).map(|n| format!("made-{n}")).collect();
        store.create_consumers(ids.iter().map(String::as_str))?;
        let made = start.elapsed().as_secs_f64();
        values.push(Value::of("making consumers together, each", [made / many as f64 * 1e3], "ms", "-")?);
        values.push(commits(store, scale)?);
        subject.store.close()?;
        Ok(values)
    }
}

fn topic(n: usize) -> TopicDef<Bytes, Bytes> {
    TopicDef::named(format!("topic-{n}"))
}

/// Seconds for `count` appends.
fn append_in_turn(producers: &[Producer<Bytes, Bytes>], count: usize) -> Result<f64> {
    let records = Records::of(RECORD_BYTES);
    let start = Instant::now();
    let mut pending = Vec::with_capacity(IN_FLIGHT);
    for n in 0..count {
        let (key, value) = records.get(n);
        pending.push(producers[n % producers.len()].submit(key, value)?);
        if pending.len() == IN_FLIGHT {
            pending.drain(..).try_for_each(|one| one.wait().map(drop))?;
        }
    }
    pending.into_iter().try_for_each(|one| one.wait().map(drop))?;
    Ok(start.elapsed().as_secs_f64())
}

/// Of all consumers in turn against one, as many commits of each.
fn commits(store: &Store, scale: Scale) -> Result<Value> {
    let many = scale.names;
    let rounds = scale.rounds.min(3);
    let producer = store.producer(TOPIC)?.sync_policy(SyncPolicy::Os);
    let records = Records::of(RECORD_BYTES);
    for _ in 0..(many * (rounds + 1)).div_ceil(1000) {
        producer.append_batch(records.batch(1000))?;
    }
    store.flush()?;
    let mut all = open_consumers(store, 1, many + 1)?.pop().ok_or("no consumers")?;
    let mut one = all.pop().ok_or("no consumer")?;
    let seconds = |consumers: &mut dyn FnMut(usize) -> Result<()>| -> Result<f64> {
        let start = Instant::now();
        (0..many).try_for_each(consumers)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let of_all = |all: &mut Vec<Consumer<Bytes, Bytes>>| seconds(&mut |n| commit_one(&mut all[n]));
    of_all(&mut all)?;
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let by_one = seconds(&mut |_| commit_one(&mut one))?;
        ratios.push(of_all(&mut all)? / by_one);
    }
    Value::of("offset commit, all consumers / one", ratios, "x", "<= 1.2")
}
