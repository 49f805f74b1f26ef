//! Six processes on one directory: a producer, two owners that consume what it writes, three readers. Each is killed
//! (`SIGKILL`), stopped for a while (`SIGSTOP`, `SIGCONT`), or stopped and then taken over, at moments of chance, some
//! 200 times. At the end each consumer has each record once; and at no time has a reader seen half a transaction, a row
//! of another state than the snapshot's, or a record that later was gone, whichever reader had seen it.
//!
//! The processes are this test itself, started again. `ONCELOG_CHAOS_KILLS` and `ONCELOG_CHAOS_SEED` change how often
//! and which chance.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, waits for processes, and shows figures"
)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use oncelog::{
    ConsumerOptions, ConsumerStyle, Error, ErrorKind, LogOffset, Outcome, PartitionId, Processor, ReaderSnapshot,
    Result, Step, StoreOptions, StoreReader, TableDef, TopicDef, U64, Utf8, Whence,
};
use rustix::process::{Pid, Signal, kill_process};

/// Each number is a record of both, and the row says how many there are: three effects of one transaction.
const LEFT: TopicDef<Utf8, U64> = TopicDef::new("left").file_roll_size(8 << 10);
const RIGHT: TopicDef<Utf8, U64> = TopicDef::new("Right").partitions(3).file_roll_size(8 << 10);
const SENT: TableDef<Utf8, U64> = TableDef::new("sent");
/// What the two consumers make of it: a record and a row for each record, in one transaction with their progress.
const BILLED: TopicDef<Utf8, U64> = TopicDef::new("billed").file_roll_size(8 << 10);
const BILLS: TableDef<Utf8, U64> = TableDef::new("bills");
const AUDITED: TopicDef<Utf8, U64> = TopicDef::new("audited").partitions(3).file_roll_size(8 << 10);
const AUDITS: TableDef<Utf8, U64> = TableDef::new("audits");
const TOPICS: [(&str, u32); 4] = [("left", 1), ("Right", 3), ("billed", 1), ("audited", 3)];

const KEYS: u64 = 5;
const ROLE: &str = "ONCELOG_CHAOS_ROLE";
const DIR: &str = "ONCELOG_CHAOS_DIR";
const TAKEOVER: &str = "ONCELOG_CHAOS_TAKEOVER";
const FLOOR: &str = "ONCELOG_CHAOS_FLOOR";
/// In the order of the processes below.
const ROLES: [&str; 6] = ["producer", "billing", "audit", "reader", "reader", "reader"];
const OWNERS: usize = 3;
/// Short looks of a reader for each long one.
const LOOKS: usize = 50;
/// A process that takes longer to come to something is a failure.
const PATIENCE: Duration = Duration::from_secs(120);

fn key_of(n: u64) -> String {
    format!("k{}", n % KEYS)
}

/// Small files, so that rolls, rotations and trims come all the time.
fn options() -> StoreOptions {
    let options = StoreOptions::new().journal_file_bytes(16 << 10).trim_bytes(64 << 10);
    let options = options.standby(if std::env::var_os(TAKEOVER).is_some() { Duration::ZERO } else { PATIENCE });
    if std::env::var_os(TAKEOVER).is_some() { options.takeover() } else { options }
}

/// Not a test by itself: what the processes run.
#[test]
fn one_of_the_processes() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    // Ends with the parent, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    match role.as_str() {
        "producer" => produce(&dir),
        "billing" => bill(&dir),
        "audit" => audit(&dir),
        _ => watch(&dir),
    }
}

fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nchaos {what}").unwrap();
    out.flush().unwrap();
}

fn produce(dir: &Path) {
    let store = options().open(dir).unwrap();
    say("at work");
    loop {
        store.transact(send_one).unwrap();
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn send_one(tx: &mut oncelog::Tx<'_>) -> Result<()> {
    let n = tx.table(SENT)?.get("sent")?.unwrap_or(0);
    tx.append(LEFT, &key_of(n), &n)?;
    tx.append(RIGHT, &key_of(n), &n)?;
    tx.table(SENT)?.put("sent", &(n + 1))
}

/// While the topics' owner is being opened there is nothing to read.
fn is_for_now(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

fn bill(dir: &Path) {
    let store = options().attach(dir, "billing").unwrap();
    say("at work");
    loop {
        let how = ConsumerOptions::new(ConsumerStyle::ClientTx("billing".to_owned())).commit_records(5);
        let done = store.consumer(LEFT, how).and_then(|mut consumer| {
            consumer.try_process(None, |record, tx| {
                let n = record.value()?;
                tx.table(BILLS)?.update(record.key()?, |sum| sum.unwrap_or(0) + n + 1)?;
                tx.append(BILLED, record.key()?, &n)?;
                Ok(Outcome::Commit)
            })
        });
        match done {
            Err(error) if !is_for_now(&error) => panic!("{error:?}"),
            _ => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn audit(dir: &Path) {
    let store = options().attach(dir, "audit").unwrap();
    say("at work");
    loop {
        let processor = Processor::new("audit", RIGHT).table(AUDITS).output(AUDITED).commit_records(7).threads(2);
        let run = processor.start(&store, |record, tx| {
            let (key, n) = (record.key()?, record.value()?);
            tx.table(AUDITS)?.update(key, |sum| sum.unwrap_or(0) + n + 1)?;
            tx.append(AUDITED, key, &n)?;
            Ok(Outcome::Commit)
        });
        match run.and_then(until_it_ends) {
            Err(error) if is_for_now(&error) => std::thread::sleep(Duration::from_millis(2)),
            ended => panic!("{ended:?}"),
        }
    }
}

fn until_it_ends(run: oncelog::ProcessorHandle) -> Result<()> {
    while !run.is_finished() {
        std::thread::sleep(Duration::from_millis(5));
    }
    run.stop()
}

/// The records of all topics that somebody has seen: sums of ends over partitions.
type Seen = [u64; 4];

fn ends(snapshot: &ReaderSnapshot) -> Seen {
    TOPICS.map(|(topic, partitions)| {
        let end = |number| match snapshot.end_offset(topic, PartitionId(number)) {
            Ok(end) => end.0,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => panic!("{error:?}"),
        };
        (0..partitions).map(end).sum()
    })
}

/// The life of a reader: what others have seen before it began must be there, and it looks until it is killed.
fn watch(dir: &Path) {
    let reader = StoreReader::options().patience(PATIENCE).table_memory(1 << 20).open(dir).unwrap();
    let floor: Vec<u64> = std::env::var(FLOOR).unwrap().split(' ').map(|end| end.parse().unwrap()).collect();
    let mut seen: Seen = floor.try_into().unwrap();
    let mut cursor = reader.cursor("left", Whence::Position(LogOffset(seen[0].saturating_sub(50)))).unwrap();
    let mut rows = [0; 3];
    loop {
        // Many short looks for each long one: what could be seen in half is so for a moment only.
        let mut snapshot = reader.snapshot().unwrap();
        for _ in 0..LOOKS {
            let now = ends(&snapshot);
            assert!(now.iter().zip(&seen).all(|(now, seen)| now >= seen), "{seen:?} were seen, now {now:?}");
            assert_eq!(now[0], now[1], "half a transaction");
            // Owners are looked at in the order of their names, so what was made of the records is not newer than they.
            assert!(now[2] <= now[0] && now[3] <= now[1], "consumed before it was there: {now:?}");
            seen = now;
            snapshot = reader.snapshot().unwrap();
        }
        let now = ends(&snapshot);
        look_at_tables(&snapshot, now, &mut rows);
        for record in cursor.by_ref() {
            let record = record.unwrap();
            let n = u64::from_be_bytes(record.value.unwrap()[..].try_into().unwrap());
            assert_eq!((record.id.offset.0, record.key.unwrap()), (n, key_of(n).into_bytes().into()));
        }
        assert!(cursor.positions()[0].1.0 >= now[0], "records that a snapshot has shown are not there");
        read_back(&snapshot, now);
        seen = now;
        // Said before it is looked at again: whoever begins later must see as much.
        say(&format!("seen {} {} {} {}", seen[0], seen[1], seen[2], seen[3]));
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The last records of what the consumers have made: in order, none twice.
fn read_back(snapshot: &ReaderSnapshot, now: Seen) {
    let mut next = now[2].saturating_sub(30);
    let from = LogOffset(next);
    let read = |record: oncelog::RecordView<'_>| {
        let n = u64::from_be_bytes(record.value.unwrap().try_into().unwrap());
        assert_eq!(n, next, "billed twice, or not at all");
        next += 1;
        Ok(Step::Next)
    };
    if now[2] > 0 {
        snapshot.read("billed", PartitionId(0), from, read).unwrap();
        assert_eq!(next, now[2]);
    }
}

/// Each row belongs to the tables' LSN, which is not above that of the topics and never goes back.
fn look_at_tables(snapshot: &ReaderSnapshot, now: Seen, rows: &mut [u64; 3]) {
    for owner in ["main", "billing", "audit"] {
        assert!(snapshot.tables_lsn(owner) <= snapshot.lsn(owner), "{owner}: tables from the future");
    }
    let sum = |table: TableDef<Utf8, U64>| -> Result<Option<u64>> {
        let rows = snapshot.scan(table, ..)?;
        Ok((!rows.is_empty()).then(|| rows.iter().map(|(_, sum)| sum).sum()))
    };
    let counts: [Result<Option<u64>>; 3] = [snapshot.get(SENT, "sent"), sum(BILLS), sum(AUDITS)];
    for (at, (found, rows)) in counts.into_iter().zip(rows).enumerate() {
        let found = match found {
            Ok(found) => found.unwrap_or(0),
            // The owner has gone on.
            Err(error) if error.kind() == ErrorKind::Conflict => continue,
            Err(error) => panic!("{error:?}"),
        };
        assert!(found >= *rows, "a reader sees older rows than before: {} {found}", *rows);
        *rows = found;
        match at {
            0 => assert!(found <= now[0], "a row without its records"),
            // One consumer goes in order, so its sums are those of the first so many numbers.
            1 => assert!(is_triangular(found) && found <= triangular(now[2]), "half a transaction: {found}"),
            _ => assert!(found <= triangular(now[1]), "more than was sent: {found}"),
        }
    }
}

/// 1 + 2 + ... + n.
fn triangular(n: u64) -> u64 {
    n * (n + 1) / 2
}

fn is_triangular(sum: u64) -> bool {
    triangular((2 * sum).isqrt()) == sum
}

/// A process, and a thread that listens to it.
struct Other {
    role: usize,
    child: Child,
    ears: Option<std::thread::JoinHandle<()>>,
    at_work: Arc<AtomicU64>,
}

/// What all readers have seen so far, the most of each.
type Floor = Arc<[AtomicU64; 4]>;

impl Other {
    fn start(role: usize, dir: &Path, floor: &Floor, takeover: bool) -> Other {
        let seen: Vec<String> = floor.iter().map(|seen| seen.load(Ordering::SeqCst).to_string()).collect();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["one_of_the_processes", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, ROLES[role]).env(DIR, dir).env(FLOOR, seen.join(" "));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if takeover {
            command.env(TAKEOVER, "1");
        }
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let (floor, at_work) = (Arc::clone(floor), Arc::new(AtomicU64::new(0)));
        let heard = Arc::clone(&at_work);
        let ears = std::thread::spawn(move || {
            for line in said.lines().map_while(std::result::Result::ok) {
                let Some(what) = line.strip_prefix("chaos ") else { continue };
                if let Some(seen) = what.strip_prefix("seen ") {
                    for (floor, seen) in floor.iter().zip(seen.split(' ')) {
                        floor.fetch_max(seen.parse().unwrap(), Ordering::SeqCst);
                    }
                }
                heard.fetch_add(1, Ordering::SeqCst);
            }
        });
        Other { role, child, ears: Some(ears), at_work }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Whatever it said is heard before this returns.
    fn end(&mut self) {
        self.child.wait().unwrap();
        if let Some(ears) = self.ears.take() {
            ears.join().unwrap();
        }
    }

    fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.end();
    }

    fn wait_at_work(&mut self) {
        let until = Instant::now() + PATIENCE;
        while self.at_work.load(Ordering::SeqCst) == 0 {
            self.assert_alive();
            assert!(Instant::now() < until, "{} does not come to work", ROLES[self.role]);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} has ended by itself: {status}; what it saw is above", ROLES[self.role]);
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Chance from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % limit
    }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

#[derive(Default, Debug)]
struct Figures {
    kills: [u64; 6],
    stops: u64,
    takeovers: u64,
    looks: u64,
}

#[test]
fn through_kills_and_stops_each_consumer_has_each_record_once_and_readers_see_no_half() {
    let kills = setting("ONCELOG_CHAOS_KILLS", 200);
    let seed = setting("ONCELOG_CHAOS_SEED", 1);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let begun = Instant::now();
    // The topics, so that whoever comes first has something to stand on.
    let store = options().open(&dir).unwrap();
    store.transact(send_one).unwrap();
    store.close().unwrap();
    let (floor, mut dice, mut figures) = (Floor::default(), Dice(seed), Figures::default());
    let mut others: Vec<Other> = (0..ROLES.len()).map(|role| Other::start(role, &dir, &floor, false)).collect();
    others.iter_mut().for_each(Other::wait_at_work);
    while figures.kills.iter().sum::<u64>() < kills {
        std::thread::sleep(Duration::from_millis(20 + dice.below(120)));
        others.iter_mut().for_each(Other::assert_alive);
        let at = usize::try_from(dice.below(6)).unwrap();
        let other = &mut others[at];
        match dice.below(10) {
            0 | 1 => {
                other.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(dice.below(200)));
                other.signal(Signal::CONT);
                figures.stops += 1;
            }
            // A stopped owner keeps its lock: the next one kills it, and recovers. One that has not yet said that it is
            // the holder cannot be found.
            2 | 3 if at < OWNERS => {
                other.wait_at_work();
                other.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(dice.below(50)));
                let mut next = Other::start(at, &dir, &floor, true);
                next.wait_at_work();
                other.end();
                others[at] = next;
                figures.takeovers += 1;
                figures.kills[at] += 1;
            }
            _ => {
                other.kill();
                figures.looks += if at >= OWNERS { other.at_work.load(Ordering::SeqCst) } else { 0 };
                *other = Other::start(at, &dir, &floor, false);
                // Some are killed again before they come to work: in their recovery, or while they look for an owner.
                if dice.below(4) > 0 {
                    other.wait_at_work();
                }
                figures.kills[at] += 1;
            }
        }
    }
    let sent = finish(&dir, &mut others);
    figures.looks += others.iter().skip(OWNERS).map(|other| other.at_work.load(Ordering::SeqCst)).sum::<u64>();
    others[1..].iter_mut().for_each(Other::kill);
    recount(&dir, sent);
    println!("seed {seed}: {sent} records of each topic, {figures:?}, {:?}", begun.elapsed());
    let least = figures.looks.min(sent);
    assert!(least > kills && (kills < 100 || figures.kills.iter().all(|kills| *kills > 5)), "too little has happened");
}

/// The producer ends; the others go on until all is consumed. Gives how much was sent.
fn finish(dir: &Path, others: &mut [Other]) -> u64 {
    others[0].kill();
    let store = options().open(dir).unwrap();
    let sent = store.snapshot().unwrap().get(SENT, "sent").unwrap().unwrap();
    let reader = StoreReader::options().patience(PATIENCE).open(dir).unwrap();
    let until = Instant::now() + PATIENCE;
    loop {
        others[1..].iter_mut().for_each(Other::assert_alive);
        let now = ends(&reader.snapshot().unwrap());
        assert_eq!((now[0], now[1]), (sent, sent));
        if now[2] >= sent && now[3] >= sent {
            return sent;
        }
        assert!(Instant::now() < until, "consumers do not catch up: {now:?} of {sent}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// By plain means, from the owners themselves.
fn recount(dir: &Path, sent: u64) {
    let sums: BTreeMap<String, u64> = (0..sent).fold(BTreeMap::new(), |mut sums, n| {
        *sums.entry(key_of(n)).or_default() += n + 1;
        sums
    });
    for (owner, topic, partitions, table) in [("billing", "billed", 1, BILLS), ("audit", "audited", 3, AUDITS)] {
        let store = options().attach(dir, owner).unwrap();
        let snapshot = store.snapshot().unwrap();
        let mut found = Vec::new();
        for partition in (0..partitions).map(PartitionId) {
            let read = |record: oncelog::RecordView<'_>| {
                found.push(u64::from_be_bytes(record.value.unwrap().try_into().unwrap()));
                Ok(Step::Next)
            };
            snapshot.read(topic, partition, LogOffset(0), read).unwrap();
        }
        found.sort_unstable();
        assert!(found.into_iter().eq(0..sent), "{owner}: each record once");
        let rows: BTreeMap<String, u64> = snapshot.scan(table, ..).unwrap().into_iter().collect();
        assert_eq!(rows, sums, "{owner}");
    }
}
