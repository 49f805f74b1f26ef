//! Everything at once: producers of all kinds, processors, consumers of all styles, transfers, topics that come and go,
//! that are compacted and that are cut, trims, and a disk that fails, for many lives of one store. What was answered is
//! there, what was not is there once or not at all, each record has its effect once.
//!
//! Seeded by `ONCELOG_STRESS_SEED`; threads are not, so a seed says what is tried and not in which order.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, waits for threads, and says its seed"
)]

mod disk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk::{FailingDisk, Faults};
use oncelog::disk::MemoryDisk;
use oncelog::{
    Bytes, Compaction, ConsumerOptions, ConsumerStyle, Error, ErrorKind, GapPolicy, IdempotentProducerConfig,
    LogOffset, Outcome, PartitionId, Processor, RecordRef, Result, RetryPolicy, Sequence, Store, StoreOptions,
    SyncPolicy, TableDef, TopicDef, Tx, U64, Whence,
};

const A: TopicDef<U64, U64> = TopicDef::new("a").partitions(4).file_roll_size(8 << 10);
const B: TopicDef<U64, U64> = TopicDef::new("b").partitions(4).file_roll_size(8 << 10);
const STAMPED: TopicDef<U64, U64> = TopicDef::new("stamped").file_roll_size(8 << 10);
const OUT: TopicDef<U64, U64> = TopicDef::new("out").partitions(2).file_roll_size(16 << 10);
const DEAD: TopicDef<Bytes, Bytes> = TopicDef::new("dead");
const PASSING: TopicDef<U64, U64> = TopicDef::new("passing");
const KEPT: TopicDef<U64, U64> =
    TopicDef::new("kept").file_roll_size(4 << 10).compaction(Compaction::new().min_dirty_percent(0));
const CUT: TopicDef<U64, U64> = TopicDef::new("cut").file_roll_size(4 << 10);
/// How often each value had its effect: of the processor, of the consumer that iterates, of the global one.
const SEEN: TableDef<U64, U64> = TableDef::new("seen").shards(4);
const ITERATED: TableDef<U64, U64> = TableDef::new("iterated");
const GLOBAL: TableDef<U64, U64> = TableDef::new("global");
const ACCOUNTS: TableDef<U64, U64> = TableDef::new("accounts");

const LIFE: Duration = Duration::from_millis(350);
const ALL_LIVES: Duration = Duration::from_secs(6);
const ACCOUNTS_COUNT: u64 = 8;
const MONEY: u64 = 8000;

/// The next number of a sequence that a seed begins (splitmix64).
fn draw(dice: &AtomicU64) -> u64 {
    let mut z = dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What the threads know of what must be there.
#[derive(Default)]
struct Known {
    /// Value to the offset that was answered, durably.
    acked: Mutex<BTreeMap<u64, (&'static str, LogOffset)>>,
    /// Stamped records that were answered: sequence to offset.
    stamped: Mutex<BTreeMap<u64, LogOffset>>,
    /// The last value that was answered of each key of the compacted topic.
    kept: Mutex<BTreeMap<u64, u64>>,
    /// Values that were answered by offset in the topic that is cut, and the highest offset that it was cut at.
    cut: Mutex<(BTreeMap<u64, u64>, u64)>,
    next_value: AtomicU64,
}

struct Life<'a> {
    store: &'a Store,
    known: &'a Known,
    ends: &'a AtomicBool,
    dice: AtomicU64,
}

impl Life<'_> {
    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::Relaxed)
    }

    fn roll(&self, below: u64) -> u64 {
        draw(&self.dice) % below
    }

    fn value(&self) -> u64 {
        self.known.next_value.fetch_add(1, Ordering::Relaxed)
    }
}

/// What a failing disk may be answered with; anything else is a broken promise. `false`: the handle has ended.
fn may_be(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::Full | ErrorKind::Unavailable | ErrorKind::Conflict => {
            std::thread::sleep(Duration::from_millis(1));
            true
        }
        ErrorKind::InDoubt | ErrorKind::Closed => false,
        _ => panic!("{error:?}"),
    }
}

/// Does it again and again, until the life or the handle ends.
fn again(life: &Life<'_>, mut once: impl FnMut(&Life<'_>) -> Result<()>) {
    while life.goes_on() {
        if once(life).is_err_and(|error| !may_be(&error)) {
            return;
        }
    }
}

fn produce_durably(life: &Life<'_>) {
    again(life, |life| {
        let (name, producer) =
            if life.roll(2) == 0 { ("a", life.store.producer(A)?) } else { ("b", life.store.producer(B)?) };
        for _ in 0..20 {
            let value = life.value();
            let offset = producer.append(&value, &value)?;
            life.known.acked.lock().unwrap().insert(value, (name, offset));
        }
        Ok(())
    });
}

fn produce_lax(life: &Life<'_>) {
    let policies = [SyncPolicy::Os, SyncPolicy::Periodic(Duration::from_millis(5)), SyncPolicy::Bytes(300)];
    again(life, |life| {
        let producer = life.store.producer(A)?.sync_policy(policies[usize::try_from(life.roll(3)).unwrap()]);
        let producer = if life.roll(2) == 0 { producer.linger(Duration::from_millis(3)) } else { producer };
        let mut answered = Vec::new();
        for _ in 0..life.roll(60) {
            let value = life.value();
            answered.push((value, producer.append(&value, &value)?));
        }
        if life.roll(3) == 0 {
            life.store.flush()?;
            let mut acked = life.known.acked.lock().unwrap();
            acked.extend(answered.into_iter().map(|(value, offset)| (value, ("a", offset))));
        }
        Ok(())
    });
}

/// Sends each sequence until it is answered, also over lives.
fn produce_stamped(life: &Life<'_>) {
    again(life, |life| {
        let producer = life.store.idempotent_producer(STAMPED, IdempotentProducerConfig::new("gate"))?;
        // What was answered is stored.
        let answered = life.known.stamped.lock().unwrap().keys().next_back().copied();
        assert!(answered.is_none_or(|last| producer.current_sequence() > Sequence(last)));
        let mut sequence = answered.map_or(0, |last| last + 1);
        while life.goes_on() {
            let offset = producer.append_with(Sequence(sequence), &sequence, &sequence)?.offset();
            assert!(offset.is_none_or(|offset| offset == LogOffset(sequence)), "{offset:?} of {sequence}");
            life.known.stamped.lock().unwrap().insert(sequence, LogOffset(sequence));
            if life.roll(4) == 0 && sequence > 0 {
                let before = sequence - life.roll(8).min(sequence);
                let _ = producer.append_with(Sequence(before), &before, &before)?;
            }
            sequence += 1;
        }
        Ok(())
    });
}

fn transfer(life: &Life<'_>) {
    again(life, |life| {
        let (from, to, sum) = (life.roll(ACCOUNTS_COUNT), life.roll(ACCOUNTS_COUNT), life.roll(50));
        life.store.transact(|tx| {
            let mut accounts = tx.table(ACCOUNTS)?;
            let have = accounts.get(&from)?.unwrap_or(0);
            if from != to && have >= sum {
                accounts.put(&from, &(have - sum))?;
                accounts.update(&to, |there| there.unwrap_or(0) + sum)?;
            }
            Ok(())
        })
    });
}

fn look(life: &Life<'_>) {
    again(life, |life| {
        assert_eq!(money(life.store)?, MONEY);
        match life.roll(4) {
            0 => life.store.trim(),
            1 => life.store.flush(),
            _ => {
                std::thread::sleep(Duration::from_millis(2));
                Ok(())
            }
        }
    });
}

fn money(store: &Store) -> Result<u64> {
    let snapshot = store.snapshot()?;
    let rows = snapshot.scan(ACCOUNTS, ..)?;
    let middle = ACCOUNTS_COUNT / 2;
    let half = snapshot.scan(ACCOUNTS, ..&middle)?.len() + snapshot.scan(ACCOUNTS, &middle..)?.len();
    assert_eq!(rows.len(), half);
    Ok(rows.iter().map(|(_, have)| have).sum())
}

/// A topic that is made, filled and deleted: each time it begins anew.
fn come_and_go(life: &Life<'_>) {
    again(life, |life| {
        match life.store.delete_topic("passing") {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            deleted => deleted?,
        }
        let producer = life.store.producer(PASSING)?;
        for expected in 0..life.roll(20) {
            assert_eq!(producer.append(&expected, &expected)?, LogOffset(expected));
        }
        Ok(())
    });
}

/// Reads the topic that comes and goes: in order from the first, until it is gone.
fn read_passing(life: &Life<'_>) {
    again(life, |life| {
        let consumer = match life.store.consumer(PASSING, client("passing")) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            consumer => consumer?,
        };
        for record in consumer {
            match record {
                Ok(record) => assert_eq!(record.key.as_deref(), record.value.as_deref()),
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    });
}

/// A few keys, again and again: later values are greater.
fn keep(life: &Life<'_>) {
    again(life, |life| {
        let producer = life.store.producer(KEPT)?;
        for _ in 0..50 {
            let (key, value) = (life.roll(30), life.value());
            producer.append(&key, &value)?;
            life.known.kept.lock().unwrap().insert(key, value);
        }
        Ok(())
    });
}

/// Compacts while it is written, and reads what is left: nothing is missing, and no key goes back.
fn compact(life: &Life<'_>) {
    again(life, |life| {
        match life.store.compact("kept") {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            compacted => drop(compacted?),
        }
        let mut last = BTreeMap::new();
        for record in life.store.consumer(KEPT, ConsumerStyle::NonTx(Whence::Oldest))? {
            let record = record?;
            let before = last.insert(number(record.key.as_deref()), number(record.value.as_deref()));
            assert!(before < Some(number(record.value.as_deref())));
        }
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    });
}

/// A topic whose beginning is cut off now and then.
fn cut(life: &Life<'_>) {
    again(life, |life| {
        let producer = life.store.producer(CUT)?;
        for _ in 0..30 {
            let value = life.value();
            let offset = producer.append(&value, &value)?;
            life.known.cut.lock().unwrap().0.insert(offset.0, value);
        }
        let (start, end) = life.store.offsets("cut", PartitionId(0))?;
        let at = start.0 + life.roll(end.0 - start.0);
        let before = std::mem::replace(&mut life.known.cut.lock().unwrap().1, at);
        life.store.truncate_before("cut", PartitionId(0), LogOffset(at)).inspect_err(|error| {
            // Refused, and no later trim does it.
            if error.kind() == ErrorKind::Full {
                life.known.cut.lock().unwrap().1 = before;
            }
        })
    });
}

/// Reads the topic that is cut: in order, and what is missing is told.
fn read_cut(life: &Life<'_>) {
    again(life, |life| {
        let mut next = None;
        let mut consumer = life.store.consumer(CUT, ConsumerStyle::NonTx(Whence::Oldest))?;
        while let Some(record) = consumer.next() {
            match record {
                Ok(record) => {
                    assert!(next.is_none_or(|next| next == record.id.offset), "{next:?} {}", record.id.offset);
                    next = Some(record.id.offset.plus(1));
                }
                Err(error) if error.kind() == ErrorKind::Gap => {
                    next = error.gap().map(|gap| gap.end);
                    consumer.skip_gap()?;
                }
                Err(error) => return Err(error),
            }
        }
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    });
}

fn number(bytes: Option<&[u8]>) -> u64 {
    u64::from_be_bytes(bytes.unwrap().try_into().unwrap())
}

fn client(id: &str) -> ConsumerOptions {
    ConsumerOptions::new(ConsumerStyle::ClientTx(id.to_owned())).on_gap(GapPolicy::Skip)
}

/// An iterator, and a transaction of its own with each record, up to the end of the log.
fn iterate(life: &Life<'_>) -> Result<()> {
    let mut consumer = life.store.consumer(A, client("iterates"))?;
    while let Some(record) = consumer.next().transpose()? {
        let value = number(record.value.as_deref());
        let mut transaction = life.store.begin()?;
        transaction.table(ITERATED)?.update(&value, |seen| seen.unwrap_or(0) + 1)?;
        consumer.commit_with(transaction)?;
        if !life.goes_on() {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

fn consume_globally(life: &Life<'_>) -> Result<()> {
    let how = ConsumerOptions::new(ConsumerStyle::GlobalTx).on_gap(GapPolicy::Skip).commit_records(7);
    let mut consumer = life.store.consumer(B, how)?;
    while life.goes_on() {
        let count = consumer.try_process(Some(20), |record, tx| {
            tx.table(GLOBAL)?.update(&record.value()?, |seen| seen.unwrap_or(0) + 1)?;
            Ok(Outcome::Commit)
        })?;
        if count == 0 {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}

/// Without a memory: offsets rise.
fn scan(life: &Life<'_>) {
    again(life, |life| {
        let how = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).on_gap(GapPolicy::Skip);
        let mut next = [LogOffset(0); 4];
        for record in life.store.consumer(A, how)? {
            let id = record?.id;
            let next = &mut next[usize::try_from(id.partition.0).unwrap()];
            assert!(id.offset >= *next);
            *next = id.offset.plus(1);
        }
        std::thread::sleep(Duration::from_millis(3));
        Ok(())
    });
}

/// The effect of the processor on a value.
fn effect(value: u64) -> Outcome {
    match value % 50 {
        7 => Outcome::Skip,
        9 => Outcome::DeadLetter,
        _ => Outcome::Commit,
    }
}

fn process(dice: &AtomicU64) -> impl Fn(RecordRef<'_, U64, U64>, &mut Tx<'_>) -> Result<Outcome> + Send + Sync + use<> {
    let dice = AtomicU64::new(draw(dice));
    move |record, tx| {
        let value = record.value()?;
        tx.table(SEEN)?.update(&value, |seen| seen.unwrap_or(0) + 1)?;
        tx.append(OUT, &value, &value)?;
        Ok(if draw(&dice).is_multiple_of(40) { Outcome::Retry } else { effect(value) })
    }
}

fn processor() -> Processor<U64, U64> {
    let millis = Duration::from_millis;
    let retry = RetryPolicy::new().backoff(millis(1), millis(8));
    Processor::new("p", A).retry(retry).dead_letter(DEAD).on_gap(GapPolicy::Skip).commit_records(13)
}

fn run_processor(life: &Life<'_>) {
    again(life, |life| {
        let threads = 1 + usize::try_from(life.roll(4)).unwrap();
        let of_b = process(&life.dice);
        let run = processor().input(B, of_b).table(SEEN).output(OUT).threads(threads);
        let run = run.start(life.store, process(&life.dice))?;
        let until = Instant::now() + Duration::from_millis(20 + life.roll(100));
        while life.goes_on() && Instant::now() < until && !run.is_finished() {
            std::thread::sleep(Duration::from_millis(2));
        }
        run.stop()
    });
}

fn live(store: &Store, known: &Known, faults: &Faults, dice: &AtomicU64, wrong: Wrong) {
    let ends = AtomicBool::new(false);
    let workers: [fn(&Life<'_>); 16] = [
        produce_durably,
        produce_durably,
        produce_lax,
        produce_stamped,
        transfer,
        look,
        come_and_go,
        read_passing,
        |life| again(life, iterate),
        |life| again(life, consume_globally),
        scan,
        run_processor,
        keep,
        compact,
        cut,
        read_cut,
    ];
    std::thread::scope(|scope| {
        for worker in workers {
            let life = Life { store, known, ends: &ends, dice: AtomicU64::new(draw(dice)) };
            let ends = &ends;
            scope.spawn(move || {
                // A worker whose promise is broken ends the others, so that it is told.
                let _ends = EndsAll(ends);
                worker(&life);
                while !ends.load(Ordering::Relaxed) && !std::thread::panicking() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
        }
        let over = Instant::now() + LIFE;
        std::thread::sleep(LIFE / 4);
        // What is told ends a life; in silence there may be many.
        let rarely = if faults.is_silent.load(Ordering::SeqCst) { 1 } else { 50 };
        match wrong {
            Wrong::Syncs => faults.syncs.store(6 * rarely, Ordering::SeqCst),
            Wrong::Writes => faults.writes.store(20 * rarely, Ordering::SeqCst),
            Wrong::Reads => faults.reads.store(6 * rarely, Ordering::SeqCst),
            Wrong::Space | Wrong::Nothing => {}
        }
        while Instant::now() < over && !ends.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
            if wrong == Wrong::Space {
                faults.full.store(draw(dice).is_multiple_of(2), Ordering::SeqCst);
            }
        }
        ends.store(true, Ordering::SeqCst);
    });
}

/// What goes wrong in a life, from its first quarter on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Syncs,
    Writes,
    Reads,
    Space,
    Nothing,
}

const WRONGS: [Wrong; 5] = [Wrong::Syncs, Wrong::Writes, Wrong::Reads, Wrong::Space, Wrong::Nothing];

struct EndsAll<'a>(&'a AtomicBool);

impl Drop for EndsAll<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Every value of a topic with how often it is there, and where last.
fn values(store: &Store, topic: TopicDef<U64, U64>) -> BTreeMap<u64, (u64, LogOffset)> {
    let how = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).on_gap(GapPolicy::Skip);
    let mut found = BTreeMap::new();
    for record in store.consumer(topic, how).unwrap() {
        let record = record.unwrap();
        let value = number(record.value.as_deref());
        let count = found.get(&value).map_or(0, |(count, _)| *count);
        found.insert(value, (count + 1, record.id.offset));
    }
    found
}

fn counts(store: &Store, table: TableDef<U64, U64>) -> BTreeMap<u64, u64> {
    store.snapshot().unwrap().scan(table, ..).unwrap().into_iter().collect()
}

/// What must hold between any two lives.
fn check(store: &Store, known: &Known) {
    assert_eq!(money(store).unwrap(), MONEY);
    let (a, b, stamped) = (values(store, A), values(store, B), values(store, STAMPED));
    for (value, (topic, offset)) in &*known.acked.lock().unwrap() {
        let found = if *topic == "a" { a.get(value) } else { b.get(value) };
        assert_eq!(found, Some(&(1, *offset)), "value {value} of topic {topic}");
    }
    assert!(a.iter().chain(&b).all(|(_, (count, _))| *count == 1), "a value is there twice");
    let answered = known.stamped.lock().unwrap().len() as u64;
    assert!(stamped.len() as u64 >= answered, "{answered} stamped records were answered");
    for (at, (sequence, found)) in (0..).zip(&stamped) {
        assert_eq!((*sequence, *found), (at, (1, LogOffset(at))));
    }
    check_what_shrinks(store, known);
    for (table, name) in [(SEEN, "seen"), (ITERATED, "iterated"), (GLOBAL, "global")] {
        let twice: Vec<_> = counts(store, table).into_iter().filter(|(_, count)| *count != 1).collect();
        assert!(twice.is_empty(), "{name}: more than once: {twice:?}");
    }
}

/// The last values of a compacted topic, and all that is not cut off of the other, with no gap.
fn check_what_shrinks(store: &Store, known: &Known) {
    let oldest = |topic| store.consumer(topic, ConsumerStyle::NonTx(Whence::Oldest)).unwrap().map(Result::unwrap);
    let last: BTreeMap<u64, u64> =
        oldest(KEPT).map(|record| (number(record.key.as_deref()), number(record.value.as_deref()))).collect();
    for (key, value) in &*known.kept.lock().unwrap() {
        assert!(last.get(key).is_some_and(|last| last >= value), "key {key}: {:?}, answered {value}", last.get(key));
    }
    let left: BTreeMap<u64, u64> =
        oldest(CUT).map(|record| (record.id.offset.0, number(record.value.as_deref()))).collect();
    let (answered, cut) = &*known.cut.lock().unwrap();
    let (start, end) = store.offsets("cut", PartitionId(0)).unwrap();
    assert!(start.0 <= *cut || answered.is_empty(), "cut at {start}, and {cut} was asked for");
    assert!(left.keys().copied().eq(start.0..end.0), "{start}..{end} is not dense");
    assert!(answered.range(start.0..).all(|(offset, value)| left.get(offset) == Some(value)));
}

/// Lets everybody finish, on a disk without faults, and compares with what there is.
fn check_end(store: &Store, dice: &AtomicU64) {
    let run = processor().input(B, process(dice)).table(SEEN).output(OUT).start(store, process(dice)).unwrap();
    assert!(run.wait_caught_up(Duration::from_secs(60)).unwrap());
    run.stop().unwrap();
    let ends = AtomicBool::new(false);
    let known = Known::default();
    let life = Life { store, known: &known, ends: &ends, dice: AtomicU64::new(draw(dice)) };
    iterate(&life).unwrap();
    consume_globally(&life).unwrap();
    check(store, &known);
    let keys = |counts: BTreeMap<u64, u64>| counts.into_keys().collect::<BTreeSet<_>>();
    let (a, b): (BTreeSet<_>, BTreeSet<_>) =
        (values(store, A).into_keys().collect(), values(store, B).into_keys().collect());
    assert_eq!(keys(counts(store, ITERATED)), a);
    assert_eq!(keys(counts(store, GLOBAL)), b);
    let all = || a.iter().chain(&b).copied();
    let committed: BTreeSet<_> = all().filter(|value| effect(*value) == Outcome::Commit).collect();
    let misses = |name: &str, found: &BTreeSet<u64>| {
        let differ: Vec<_> = found.symmetric_difference(&committed).take(50).collect();
        assert!(differ.is_empty(), "{name} is not what was committed: {differ:?}");
    };
    misses("seen", &keys(counts(store, SEEN)));
    let out = values(store, OUT);
    assert!(out.values().all(|(count, _)| *count == 1));
    misses("out", &out.into_keys().collect());
    let dead: Vec<_> = store.consumer(DEAD, ConsumerStyle::NonTx(Whence::Oldest)).unwrap().collect();
    assert_eq!(dead.len(), all().filter(|value| effect(*value) == Outcome::DeadLetter).count());
}

fn seed() -> u64 {
    let given = std::env::var("ONCELOG_STRESS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("ONCELOG_STRESS_SEED={seed}");
    seed
}

/// Lives of one store until the time is over, each with something wrong out of `wrongs`.
fn live_again_and_again(seed: u64, faults: &Arc<Faults>, wrongs: &[Wrong]) {
    let dice = AtomicU64::new(seed);
    let disk = Arc::new(FailingDisk { disk: Arc::new(MemoryDisk::default()), faults: Arc::clone(faults) });
    let options = || {
        let disk = Arc::clone(&disk) as _;
        StoreOptions::new().disk(disk).journal_file_bytes(32 << 10).trim_bytes(128 << 10).batch_bytes(2048)
    };
    let known = Known::default();
    let begun = Instant::now();
    let mut lives = 0;
    while begun.elapsed() < ALL_LIVES {
        let store = options().open("/s").unwrap();
        if lives == 0 {
            let each = MONEY / ACCOUNTS_COUNT;
            store.transact(|tx| (0..ACCOUNTS_COUNT).try_for_each(|n| tx.table(ACCOUNTS)?.put(&n, &each))).unwrap();
        }
        check(&store, &known);
        let wrong = wrongs[usize::try_from(draw(&dice) % wrongs.len() as u64).unwrap()];
        live(&store, &known, faults, &dice, wrong);
        if draw(&dice).is_multiple_of(2) {
            faults.end();
        }
        // In order, if the disk lets it.
        let _ = store.close();
        faults.end();
        lives += 1;
    }
    let store = options().open("/s").unwrap();
    check(&store, &known);
    check_end(&store, &dice);
    store.close().unwrap();
    println!("{lives} lives, {} values", known.next_value.load(Ordering::Relaxed));
}

#[test]
fn everything_at_once_on_a_failing_disk() {
    let seed = seed();
    live_again_and_again(seed, &Faults::new(seed), &WRONGS);
}

/// What all of this would see: a disk that fails and does not say so.
#[test]
fn a_failure_that_nobody_tells_is_seen() {
    let seed = seed();
    for wrong in [Wrong::Writes, Wrong::Reads] {
        let faults = Faults::new(seed);
        faults.is_silent.store(true, Ordering::SeqCst);
        let lived = std::panic::catch_unwind(|| live_again_and_again(seed, &faults, &[wrong]));
        assert!(lived.is_err(), "{wrong:?} that fail in silence go unseen");
    }
}
