//! Readers and owners in different processes: an owner is killed again and again while a reader looks.
//!
//! The owner is this very test program, started once more: see [`owner_process`].
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and waits for processes")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a child speaks to its parent, and figures are shown")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use oncelog::{
    ErrorKind, LogOffset, PartitionId, ReaderCursor, Store, StoreReader, TableDef, TopicDef, U64, Utf8, Whence,
};

const LEFT: TopicDef<Utf8, U64> = TopicDef::new("left").file_roll_size(4096);
const RIGHT: TopicDef<Utf8, U64> = TopicDef::new("Right").partitions(3).file_roll_size(4096);
const NEXT: TableDef<Utf8, U64> = TableDef::new("next");
const CHILD: &str = "ONCELOG_TEST_OWNER_OF";

/// Not a test by itself: as a child of one, it owns the store and counts up until it is killed. Each number goes to
/// both topics and the table in one transaction.
#[test]
fn owner_process() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&dir));
    loop {
        store.transact(count_up).unwrap();
    }
}

fn count_up(tx: &mut oncelog::Tx<'_>) -> oncelog::Result<()> {
    let number = tx.table(NEXT)?.get("number")?.unwrap_or(0);
    tx.append(LEFT, "left", &number)?;
    tx.append(RIGHT, &format!("k{}", number % 5), &number)?;
    tx.table(NEXT)?.put("number", &(number + 1))
}

/// Small files, so that trims and rolls come often.
fn open(dir: &Path) -> Store {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match Store::options().journal_file_bytes(16 << 10).trim_bytes(64 << 10).open(dir) {
            Ok(store) => return store,
            Err(error) if error.kind() == ErrorKind::Locked && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn start(dir: &Path) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program);
    child.args(["owner_process", "--exact", "--nocapture"]).env(CHILD, dir).stdout(Stdio::null());
    child.spawn().unwrap()
}

/// What a reader keeps of what it was shown.
struct Reader {
    reader: StoreReader,
    left: ReaderCursor,
    right: ReaderCursor,
    left_seen: Vec<u64>,
    right_seen: Vec<u64>,
    snapshot_seen: u64,
    /// The newest row of the table, by LSN; and how often the owner had overtaken the reader's state.
    table_seen: (u64, u64),
    overtaken: u64,
}

fn ends(snapshot: &oncelog::ReaderSnapshot) -> (u64, u64) {
    let left = snapshot.end_offset("left", PartitionId(0)).unwrap().0;
    let right = (0..3).map(|partition| snapshot.end_offset("Right", PartitionId(partition)).unwrap().0).sum();
    (left, right)
}

impl Reader {
    fn new(dir: &Path) -> Reader {
        let reader = StoreReader::open(dir).unwrap();
        let cursor = |topic: &str| reader.cursor(topic, Whence::Oldest).unwrap();
        let (left, right) = (cursor("left"), cursor("Right"));
        Reader {
            reader,
            left,
            right,
            left_seen: Vec::new(),
            right_seen: Vec::new(),
            snapshot_seen: 0,
            table_seen: (0, 0),
            overtaken: 0,
        }
    }

    fn look(&mut self) {
        let snapshot = self.reader.snapshot().unwrap();
        let (left, right) = ends(&snapshot);
        assert_eq!(left, right, "half a transaction");
        assert!(left >= self.snapshot_seen, "{} were seen, now {left}", self.snapshot_seen);
        self.snapshot_seen = left;
        self.look_at_tables(&snapshot, left);
        for (cursor, seen) in [(&mut self.left, &mut self.left_seen), (&mut self.right, &mut self.right_seen)] {
            for record in cursor {
                seen.push(u64::from_be_bytes(record.unwrap().value.unwrap()[..].try_into().unwrap()));
            }
        }
        // In order in one partition, each once.
        assert!(self.left_seen.iter().copied().eq(0..self.left_seen.len() as u64));
        assert!(self.left_seen.len() as u64 >= left);
    }
}

impl Reader {
    /// The row counts the transactions up to the LSN of the tables, and that is not above the one of the topics.
    fn look_at_tables(&mut self, snapshot: &oncelog::ReaderSnapshot, left: u64) {
        let lsn = snapshot.tables_lsn("main").unwrap();
        assert!(lsn <= snapshot.lsn("main").unwrap());
        match snapshot.get(NEXT, "number") {
            Ok(number) => {
                let number = number.unwrap_or(0);
                assert!(number <= left, "a row of a transaction whose records are not there: {number} {left}");
                assert!((lsn.0, number) >= self.table_seen, "{:?}, now {number} at {lsn}", self.table_seen);
                self.table_seen = (lsn.0, number);
            }
            Err(error) if error.kind() == ErrorKind::Conflict => self.overtaken += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn readers_see_whole_transactions_over_kills_and_restarts_of_the_owner() {
    let home = tempfile::tempdir().unwrap();
    let dir: PathBuf = home.path().join("store");
    // The topics, so that cursors have something to stand on.
    open(&dir).transact(count_up).unwrap();
    let mut reader = Reader::new(&dir);
    let mut looks_at_ruins = 0;
    for round in 0..10u64 {
        let mut owner = start(&dir);
        let until = Instant::now() + Duration::from_millis(60 + 37 * (round % 4));
        let before = reader.left_seen.len();
        // Until it has written something this round, however slow the machine is.
        let hard_stop = Instant::now() + Duration::from_secs(120);
        while (Instant::now() < until || reader.left_seen.len() == before) && Instant::now() < hard_stop {
            reader.look();
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        if round % 3 != 2 {
            // Nobody owns it; what is shown now must be there later.
            reader.look();
            looks_at_ruins += 1;
        }
    }
    assert!(looks_at_ruins > 0 && reader.left_seen.len() > 10);
    let store = open(&dir);
    let number = store.snapshot().unwrap().get(NEXT, "number").unwrap().unwrap();
    reader.look();
    println!("{} records, {} states of tables overtaken", reader.left_seen.len(), reader.overtaken);
    store.trim().unwrap();
    reader.look();
    assert_eq!(reader.table_seen.1, number);
    assert_eq!(reader.left_seen.len() as u64, number);
    let mut right = reader.right_seen.clone();
    right.sort_unstable();
    assert!(right.into_iter().eq(0..number), "each number once");
    assert_eq!(store.offsets("left", PartitionId(0)).unwrap().1, LogOffset(number));
}

const WAITER: &str = "ONCELOG_TEST_WAITER_OF";

fn now_ns() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// Not a test by itself: as a child of one, it waits for records and says when each came.
#[test]
fn waiter_process() {
    let Some(dir) = std::env::var_os(WAITER) else { return };
    let reader = StoreReader::open(Path::new(&dir)).unwrap();
    let mut cursor = reader.cursor("left", Whence::Latest).unwrap();
    eprintln!("ready");
    loop {
        match cursor.next_record(Duration::from_secs(60)).unwrap() {
            Some(record) => eprintln!("{} {}", record.id.offset, now_ns()),
            None => return,
        }
    }
}

/// A reader in another process is woken by a record, and does not find it by looking again: that would take
/// milliseconds. Prints the latencies.
#[test]
fn a_reader_in_another_process_is_woken() {
    use std::io::{BufRead, BufReader};
    const RECORDS: usize = 200;
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = Store::open(&dir).unwrap();
    let left = store.producer(LEFT).unwrap();
    left.append("k", &0).unwrap();
    let mut waiter = Command::new(std::env::current_exe().unwrap());
    waiter.args(["waiter_process", "--exact", "--nocapture"]).env(WAITER, &dir);
    let mut waiter = waiter.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(waiter.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    assert_eq!(lines.next().unwrap(), "ready");
    let mut latencies = Vec::new();
    for value in 0..RECORDS {
        // It sleeps again by then.
        std::thread::sleep(Duration::from_millis(2));
        let offset = left.append("k", &(value as u64)).unwrap();
        let answered = now_ns();
        let line = lines.next().unwrap();
        let (at, came) = line.split_once(' ').unwrap();
        assert_eq!(at.parse(), Ok(offset.0));
        latencies.push(came.parse::<u64>().unwrap().saturating_sub(answered));
    }
    waiter.kill().unwrap();
    waiter.wait().unwrap();
    latencies.sort_unstable();
    let at = |percent: usize| latencies[RECORDS * percent / 100] / 1000;
    println!(
        "from the answer to the append until the reader has it: p50 {} us, p90 {} us, p99 {} us",
        at(50),
        at(90),
        at(99)
    );
    // Far above what it takes, far below what looking again would take on average, also on a busy machine.
    assert!(latencies[RECORDS / 4] < 20_000_000, "{} us", latencies[RECORDS / 4] / 1000);
}
