//! One process after another on the same owner: stopped, waited for, killed, and told that it is over.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test may fail by panic, looks at the clock, and has a child that prints"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use oncelog::{Bytes, ConsumerStyle, ErrorKind, LogOffset, PartitionId, Step, Store, TopicDef, Whence};
use rustix::process::{Pid, Signal, kill_process};

const TICKS: TopicDef<Bytes, Bytes> = TopicDef::new("ticks");
const DIR: &str = "ONCELOG_TAKEOVER_DIR";

/// Not a test of its own: what the other process runs. Appends and says so, for ever.
#[test]
fn the_other_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Store::open(dir).unwrap();
    let ticks = store.producer(TICKS).unwrap();
    for count in 0u64.. {
        let offset = ticks.append(b"", &count.to_le_bytes()).unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "acked {offset}").unwrap();
        out.flush().unwrap();
    }
}

const SILENT: &str = "ONCELOG_TAKEOVER_SILENT_DIR";

/// Not a test of its own: a process that has the lock and has not come to say so.
#[test]
fn the_silent_process() {
    let Ok(dir) = std::env::var(SILENT) else { return };
    let manifest = std::fs::File::options().read(true).write(true).open(Path::new(&dir).join("owners/main/MANIFEST"));
    let manifest = manifest.unwrap();
    manifest.lock().unwrap();
    println!("locked");
    std::thread::sleep(Duration::from_secs(600));
    drop(manifest);
}

#[test]
fn one_that_was_stopped_before_it_said_that_it_has_the_lock_is_found() {
    for another_is_named in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let acked = if another_is_named {
            let other = Other::start(dir.path());
            other.signal(Signal::KILL);
            other.end()
        } else {
            Store::open(dir.path()).unwrap().close().unwrap();
            0
        };
        let mut silent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_silent_process", "--nocapture", "--test-threads=1"])
            .env(SILENT, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(silent.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("locked")));
        kill_process(Pid::from_raw(i32::try_from(silent.id()).unwrap()).unwrap(), Signal::STOP).unwrap();
        let locked = Store::open(dir.path()).unwrap_err();
        assert_eq!((locked.kind(), locked.holder_pid()), (ErrorKind::Locked, Some(silent.id())), "{locked}");
        let taken = Store::options().takeover().open(dir.path());
        // Also where it was not found.
        let _ = silent.kill();
        let ended = silent.wait().unwrap();
        assert!(!ended.success());
        assert!(count(&taken.unwrap()) >= acked);
    }
}

struct Other {
    child: Child,
    said: BufReader<ChildStdout>,
    acked: u64,
}

impl Other {
    fn start(dir: &Path) -> Other {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_other_process", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut other = Other { child, said, acked: 0 };
        other.read_until(5);
        other
    }

    /// Reads what it says until it has appended so much.
    fn read_until(&mut self, enough: u64) {
        let mut line = String::new();
        while self.acked < enough && self.said.read_line(&mut line).unwrap() > 0 {
            if let Some((_, offset)) = line.trim().rsplit_once("acked ") {
                self.acked = offset.parse::<u64>().unwrap() + 1;
            }
            line.clear();
        }
        assert!(enough == u64::MAX || self.acked >= enough, "the other process has ended early");
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap(), signal).unwrap();
    }

    /// How much it was told to be durable before it ended.
    fn end(mut self) -> u64 {
        self.read_until(u64::MAX);
        assert!(!self.child.wait().unwrap().success());
        self.acked
    }
}

fn count(store: &Store) -> u64 {
    let mut next = 0u64;
    if store.topics().unwrap().is_empty() {
        return 0;
    }
    let snapshot = store.snapshot().unwrap();
    let read = snapshot.read("ticks", PartitionId(0), LogOffset(0), |record| {
        assert_eq!(record.value, Some(&next.to_le_bytes()[..]), "each once, in order");
        next += 1;
        Ok(Step::Next)
    });
    read.unwrap();
    next
}

#[test]
fn a_stopped_process_keeps_its_lock_until_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let other = Other::start(dir.path());
    other.signal(Signal::STOP);
    let locked = Store::open(dir.path()).unwrap_err();
    assert_eq!((locked.kind(), locked.holder_pid()), (ErrorKind::Locked, Some(other.pid())));
    let begun = Instant::now();
    let waited = Store::options().standby(Duration::from_millis(300)).open(dir.path()).unwrap_err();
    assert_eq!((waited.kind(), waited.holder_pid()), (ErrorKind::Locked, Some(other.pid())));
    assert!(begun.elapsed() >= Duration::from_millis(300));

    let store = Store::options().takeover().open(dir.path()).unwrap();
    assert!(!store.recovery_report().clean);
    let acked = other.end();
    let found = count(&store);
    assert!(found >= acked, "{acked} were answered, {found} are there");
    // Now it is this process that has it, and it does not kill itself.
    let own = Store::options().takeover().open(dir.path()).unwrap_err();
    assert_eq!((own.kind(), own.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
}

#[test]
fn a_standby_takes_over_when_the_first_dies() {
    let dir = tempfile::tempdir().unwrap();
    let other = Other::start(dir.path());
    let path = dir.path().to_owned();
    let standby = std::thread::spawn(move || {
        let store = Store::options().standby(Duration::from_secs(120)).open(path).unwrap();
        (Instant::now(), store)
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(!standby.is_finished());
    other.signal(Signal::KILL);
    let acked = other.end();
    let (_, store) = standby.join().unwrap();
    assert!(count(&store) >= acked);
}

#[test]
fn a_standby_takes_over_when_the_first_closes() {
    let dir = tempfile::tempdir().unwrap();
    let first = Store::open(dir.path()).unwrap();
    let path = dir.path().to_owned();
    let standby = std::thread::spawn(move || Store::options().standby(Duration::from_secs(120)).open(path).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    first.close().unwrap();
    assert!(standby.join().unwrap().recovery_report().clean);
}

#[test]
fn a_holder_whose_manifest_is_removed_or_replaced_is_fenced() {
    for replaced in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let ticks = store.producer(TICKS).unwrap();
        ticks.append(b"", &0u64.to_le_bytes()).unwrap();
        let mut reader = store.consumer(TICKS, ConsumerStyle::NonTx(Whence::Latest)).unwrap();
        let manifest = dir.path().join("owners/main/MANIFEST");
        if replaced {
            std::fs::copy(&manifest, manifest.with_extension("copy")).unwrap();
            std::fs::rename(manifest.with_extension("copy"), &manifest).unwrap();
        } else {
            std::fs::rename(&manifest, dir.path().join("away")).unwrap();
        }
        let fenced = ticks.append(b"", &1u64.to_le_bytes()).unwrap_err();
        assert_eq!(fenced.kind(), ErrorKind::Fenced, "{fenced}");
        let mut waiting = reader.waiting();
        assert_eq!(waiting.next().unwrap().unwrap_err().kind(), ErrorKind::Fenced);
        assert!(waiting.next().is_none(), "it ends, with the error");
        // And from then on.
        assert_eq!(ticks.append(b"", &2u64.to_le_bytes()).unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(store.trim().unwrap_err().kind(), ErrorKind::Fenced);
        if replaced {
            // Whoever opens it now finds a lock of its own, and everything that was answered.
            let next = Store::open(dir.path()).unwrap();
            assert!(count(&next) >= 1);
            assert_eq!(ticks.append(b"", &2u64.to_le_bytes()).unwrap_err().kind(), ErrorKind::Fenced);
            next.producer(TICKS).unwrap().append(b"", &count(&next).to_le_bytes()).unwrap();
            drop(store);
            next.close().unwrap();
            assert!(count(&Store::open(dir.path()).unwrap()) >= 2);
        } else {
            assert_eq!(Store::open(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}

/// A process that is being started has all open files of its parent until its own program begins. So the lock must be
/// let go of, and not only its file closed.
#[test]
fn a_closed_store_can_be_opened_while_other_threads_start_processes() {
    let dir = tempfile::tempdir().unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::SeqCst) {
                    assert!(Command::new("true").status().unwrap().success());
                }
            });
        }
        let opened: Result<Vec<()>, _> = (0..60).map(|_| Store::open(dir.path()).and_then(Store::close)).collect();
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(opened.is_ok(), "{opened:?}");
    });
}
