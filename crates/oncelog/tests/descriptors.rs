//! No file descriptors left: a process has its limit (`setrlimit`) filled up but for none, one, two and so on, and does
//! everything that opens files. Each time it is told by a typed error or it succeeds; nothing is damaged; and when
//! descriptors are back, the same handle does the same.
//!
//! The limit is the whole process's, so the process is another one: this test itself, started again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, takes descriptors, and shows figures"
)]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use oncelog::{
    Bytes, ConsumerStyle, Error, ErrorKind, LogOffset, Outcome, PartitionId, Result, Step, Store, StoreOptions,
    StoreReader, SyncPolicy, TableDef, TopicDef, U64, Utf8, Whence,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const LEFT: TopicDef<Utf8, U64> = TopicDef::new("left").file_roll_size(1024);
const RIGHT: TopicDef<Utf8, U64> = TopicDef::new("Right").partitions(2).file_roll_size(1024);
const LAX: TopicDef<Bytes, Bytes> = TopicDef::new("lax").file_roll_size(1024);
const GONE: TopicDef<Bytes, Bytes> = TopicDef::new("gone");
const NOTES: TopicDef<Bytes, Bytes> = TopicDef::new("notes");
const COUNT: TableDef<Utf8, U64> = TableDef::new("count");
const DIR: &str = "ONCELOG_TEST_DESCRIPTORS";
const LIMIT: u64 = 128;
/// More than any call needs at once.
const SPARE_MAX: usize = 12;

/// All descriptors but so many are taken as long as it lives.
struct Taken {
    _files: Vec<File>,
}

impl Taken {
    fn all_but(spare: usize) -> Taken {
        let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        files.truncate(files.len().saturating_sub(spare));
        Taken { _files: files }
    }
}

/// A store at work, and what it was told to be there.
struct Work {
    dir: PathBuf,
    store: Option<Store>,
    count: u64,
    lax: u64,
    made: u64,
    notes: u64,
    consumed: u64,
}

fn options() -> StoreOptions {
    StoreOptions::new().journal_file_bytes(4096).trim_bytes(32 << 10).max_open_files(4)
}

/// Definitions hold names that live as long as the program.
fn named(number: u64) -> &'static str {
    Box::leak(format!("made-{number}").into_boxed_str())
}

type Op = fn(&mut Work) -> Result<()>;

/// Everything that opens files, twice where the second time is another way.
const OPS: [(&str, Op); 14] = [
    ("transact", Work::transact),
    ("append many", Work::append_many),
    ("trim", Work::trim),
    ("make a topic", Work::make_topic),
    ("make a table", Work::make_table),
    ("lax", Work::lax),
    ("look", Work::look),
    ("consume", Work::consume),
    ("delete", Work::delete),
    ("another owner", Work::another_owner),
    ("reader", Work::reader),
    ("open again", Work::open_again),
    ("open", Work::open_again),
    ("transact again", Work::transact),
];

impl Work {
    fn store(&mut self) -> Result<Store> {
        if self.store.is_none() {
            self.store = Some(options().open(&self.dir)?);
        }
        Ok(self.store.clone().unwrap())
    }

    fn transact(&mut self) -> Result<()> {
        self.store()?.transact(|tx| {
            let n = tx.table(COUNT)?.get("n")?.unwrap_or(0);
            tx.append(LEFT, "left", &n)?;
            tx.append(RIGHT, &format!("k{}", n % 5), &n)?;
            tx.table(COUNT)?.put("n", &(n + 1))
        })?;
        self.count += 1;
        Ok(())
    }

    /// Rolls segments and rotates the journal.
    fn append_many(&mut self) -> Result<()> {
        (0..30).try_for_each(|_| self.transact())
    }

    fn trim(&mut self) -> Result<()> {
        self.store()?.trim()
    }

    fn make_topic(&mut self) -> Result<()> {
        let name = named(self.made);
        let topic = TopicDef::<Bytes, Bytes>::new(name);
        let appended = self.store()?.producer(topic).and_then(|made| made.append(b"", b""))?;
        assert_eq!(appended, LogOffset(0));
        self.made += 1;
        Ok(())
    }

    fn make_table(&mut self) -> Result<()> {
        let name = named(self.made);
        self.store()?.transact(|tx| tx.table(TableDef::<Utf8, U64>::new(name))?.put("k", &1))?;
        self.made += 1;
        Ok(())
    }

    fn lax(&mut self) -> Result<()> {
        let store = self.store()?;
        store.producer(LAX)?.sync_policy(SyncPolicy::Os).append(b"", &[1; 300])?;
        self.lax += 1;
        store.flush()
    }

    fn look(&mut self) -> Result<()> {
        let (count, store) = (self.count, self.store()?);
        let snapshot = store.snapshot()?;
        assert_eq!(snapshot.get(COUNT, "n")?.unwrap_or(0), count);
        let mut seen = 0;
        snapshot.read("left", PartitionId(0), LogOffset(0), |record| {
            assert_eq!(record.offset.0, seen);
            seen += 1;
            Ok(Step::Next)
        })?;
        assert_eq!(seen, count);
        Ok(())
    }

    fn consume(&mut self) -> Result<()> {
        let store = self.store()?;
        let mut consumer = store.consumer(LEFT, ConsumerStyle::ClientTx("c".to_owned()))?;
        let mut tried = self.consumed;
        let done = consumer.try_process(None, |record, tx| {
            assert!(record.value()? == tried, "{} {tried}", record.value()?);
            tried += 1;
            tx.table(COUNT)?.put("consumed", &tried)?;
            Ok(Outcome::Commit)
        });
        // Where it failed, the record at hand is not done with.
        self.consumed = store.committed_offsets("c", "left")?[0].0;
        let row = store.snapshot()?.get(COUNT, "consumed")?;
        assert_eq!(row.unwrap_or(0), self.consumed);
        done.map(drop)
    }

    fn delete(&mut self) -> Result<()> {
        let store = self.store()?;
        store.producer(GONE)?.append(b"", b"")?;
        store.delete_topic("gone")
    }

    fn another_owner(&mut self) -> Result<()> {
        let other = options().attach(&self.dir, "other")?;
        let offset = other.producer(NOTES)?.append(b"", b"")?;
        assert_eq!(offset.0, self.notes);
        self.notes += 1;
        other.close()
    }

    fn reader(&mut self) -> Result<()> {
        self.store()?;
        let reader = StoreReader::options().patience(std::time::Duration::from_secs(2)).open(&self.dir)?;
        let snapshot = reader.snapshot()?;
        match snapshot.get(COUNT, "n") {
            Ok(rows) => assert!(rows.unwrap_or(0) <= self.count),
            Err(error) if error.kind() == ErrorKind::Conflict => {}
            Err(error) => return Err(error),
        }
        if self.count > 0 {
            assert_eq!(snapshot.end_offset("left", PartitionId(0))?.0, self.count);
            let mut cursor = reader.cursor("left", Whence::Oldest)?;
            let read: Vec<_> = cursor.by_ref().collect::<Result<_>>()?;
            assert_eq!(read.len() as u64, self.count);
        }
        Ok(())
    }

    fn open_again(&mut self) -> Result<()> {
        if let Some(store) = self.store.take() {
            store.close()?;
        }
        self.store().map(drop)
    }
}

/// Told in words of its own, and not as damage or want of space.
fn check_told(name: &str, spare: usize, error: &Error) {
    let kinds = [ErrorKind::Unavailable, ErrorKind::Conflict];
    assert!(kinds.contains(&error.kind()), "{name} with {spare} descriptors: {error:?}");
}

/// Not a test by itself: what the other process does.
#[test]
fn the_process_without_descriptors() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(LIMIT), maximum: hard }).unwrap();
    let mut work = Work { dir: PathBuf::from(dir), store: None, count: 0, lax: 0, made: 0, notes: 0, consumed: 0 };
    let mut told = BTreeMap::<&str, usize>::new();
    for spare in 0..=SPARE_MAX {
        for (name, op) in OPS {
            if name == "open" {
                work.store.take().unwrap().close().unwrap();
            }
            let taken = Taken::all_but(spare);
            let tried = op(&mut work);
            drop(taken);
            if let Err(error) = tried {
                check_told(name, spare, &error);
                *told.entry(name).or_default() += 1;
                op(&mut work).unwrap_or_else(|error| panic!("{name}, when {spare} descriptors became more: {error:?}"));
            } else {
                assert!(spare > 0 || !matches!(name, "open" | "another owner" | "reader"), "{name} took none");
            }
        }
        work.look().unwrap();
    }
    println!("told: {told:?}");
    check_afterwards(work);
}

/// Everything once, after an opening with all descriptors.
fn check_afterwards(mut work: Work) {
    work.open_again().unwrap();
    let store = work.store().unwrap();
    assert!(store.recovery_report().clean);
    work.look().unwrap();
    work.reader().unwrap();
    work.consume().unwrap();
    assert_eq!(work.consumed, work.count);
    // Those that said `Ok`, and some that were told at the flush.
    assert!(store.offsets("lax", PartitionId(0)).unwrap().1.0 >= work.lax);
    for number in 0..work.made {
        let name = named(number);
        let topic = store.offsets(name, PartitionId(0)).is_ok_and(|(_, end)| end.0 == 1);
        let table = store.snapshot().unwrap().get(TableDef::<Utf8, U64>::new(name), "k").unwrap() == Some(1);
        assert!(topic || table, "{name}");
    }
    assert_eq!(store.offsets("gone", PartitionId(0)).unwrap_err().kind(), ErrorKind::NotFound);
    store.close().unwrap();
}

fn run(dir: &Path) -> (bool, String) {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["the_process_without_descriptors", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .output()
        .unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn without_descriptors_everything_is_told_and_goes_on_when_they_are_back() {
    let home = tempfile::tempdir().unwrap();
    let (fine, said) = run(&home.path().join("store"));
    println!("{said}");
    assert!(fine && said.contains("told: "), "see above");
}
