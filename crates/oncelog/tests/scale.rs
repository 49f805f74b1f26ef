//! Many topics, many consumers, large records: what an opening looks at, and what is bounded.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use oncelog::disk::{Disk, DiskFile, FileIdentity, MemoryDisk, OpenMode, SyncSite};
use oncelog::{Bytes, ConsumerStyle, Outcome, PartitionId, StoreOptions, TableDef, TopicDef, U64, Utf8};

const ONE: TopicDef<Utf8, Bytes> = TopicDef::new("one");
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

/// A disk that notes which directories and files below `topics` are looked at.
struct Watched {
    inner: Arc<MemoryDisk>,
    seen: Arc<Mutex<Vec<PathBuf>>>,
}

impl Watched {
    fn note(&self, path: &Path) {
        if path.to_str().unwrap().contains("/topics/") {
            self.seen.lock().unwrap().push(path.to_owned());
        }
    }
}

impl Disk for Watched {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.note(path);
        self.inner.open(path, mode)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.note(dir);
        self.inner.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note(path);
        self.inner.remove(path)
    }
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.inner.remove_dir(dir)
    }
    fn identity(&self, path: &Path) -> io::Result<FileIdentity> {
        self.inner.identity(path)
    }
    fn sync_dir(&self, dir: &Path, site: SyncSite) -> io::Result<()> {
        self.inner.sync_dir(dir, site)
    }
}

fn named(number: usize) -> String {
    format!("topic {number}")
}

fn on(disk: &Arc<MemoryDisk>, seen: &Arc<Mutex<Vec<PathBuf>>>) -> StoreOptions {
    let watched = Watched { inner: Arc::clone(disk), seen: Arc::clone(seen) };
    StoreOptions::new().disk(Arc::new(watched)).manual_duties().journal_file_bytes(64 << 10)
}

/// All files and directories of `from`.
fn copy(from: &MemoryDisk, dir: &Path) -> MemoryDisk {
    fn fill(from: &MemoryDisk, to: &MemoryDisk, dir: &Path) {
        for path in from.list(dir).unwrap() {
            if from.list(&path).is_ok() {
                to.create_dir(&path).unwrap();
                fill(from, to, &path);
            } else {
                let bytes = from.open(&path, OpenMode::Read).unwrap().read_whole(1 << 30).unwrap();
                to.open(&path, OpenMode::Create).unwrap().write_all_at(&bytes, 0).unwrap();
            }
        }
    }
    let to = MemoryDisk::default();
    fill(from, &to, dir);
    to
}

fn append(store: &oncelog::Store, name: &str, value: &[u8]) -> u64 {
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    store.producer(TopicDef::<Utf8, Bytes>::new(name)).unwrap().append("k", value).unwrap().0
}

#[test]
fn an_opening_looks_only_at_the_topics_of_the_journals_tail() {
    let (disk, seen) = (Arc::new(MemoryDisk::default()), Arc::new(Mutex::new(Vec::new())));
    let store = on(&disk, &seen).open("/s").unwrap();
    for number in 0..40 {
        append(&store, &named(number), b"first");
    }
    store.close().unwrap();
    seen.lock().unwrap().clear();
    let store = on(&disk, &seen).open("/s").unwrap();
    assert!(seen.lock().unwrap().is_empty(), "a clean opening looks at no topic");
    store.trim().unwrap();
    append(&store, &named(7), b"second");
    // A copy of the disk as a crash would leave it: the lock is in the process, not in the bytes.
    let left = Arc::new(copy(&disk, Path::new("/")));
    drop(store);
    seen.lock().unwrap().clear();
    let store = on(&left, &seen).open("/s").unwrap();
    assert_eq!(store.recovery_report().frames, 1);
    let touched = seen.lock().unwrap().clone();
    assert!(!touched.is_empty());
    assert!(touched.iter().all(|path| path.starts_with("/s/topics/topic%207")), "{touched:?}");
    for number in 0..40 {
        let expected = if number == 7 { 2 } else { 1 };
        assert_eq!(store.offsets(&named(number), PartitionId(0)).unwrap().1.0, expected);
        assert_eq!(append(&store, &named(number), b"third"), expected);
    }
}

#[test]
fn what_there_is_can_be_listed() {
    let (disk, seen) = (Arc::new(MemoryDisk::default()), Arc::default());
    let store = on(&disk, &seen).open("/s").unwrap();
    for number in 0..3 {
        append(&store, &named(number), b"a value");
    }
    store.transact(|tx| tx.table(ROWS)?.put("k", &1)).unwrap();
    store.producer(ONE).unwrap().append("k", b"v").unwrap();
    let mut consumer = store.consumer(ONE, ConsumerStyle::ClientTx("ann".to_owned())).unwrap();
    consumer.try_process(None, |_, _| Ok(Outcome::Commit)).unwrap();
    let names: Vec<_> = store.topics().unwrap().into_iter().map(|(id, spec)| (id.0, spec.name)).collect();
    let expected: Vec<_> = (1..).zip(["topic 0", "topic 1", "topic 2", "one"].map(str::to_owned)).collect();
    assert_eq!(names, expected);
    assert_eq!(store.tables().unwrap().into_iter().map(|(_, spec)| spec.name).collect::<Vec<_>>(), ["rows"]);
    let consumers = store.consumers().unwrap();
    assert_eq!(consumers.len(), 1);
    assert_eq!((consumers[0].consumer.as_str(), consumers[0].topic.as_str(), consumers[0].next.0), ("ann", "one", 1));
    let parts = store.describe_topic("topic 1").unwrap();
    assert_eq!((parts.len(), parts[0].start.0, parts[0].end.0, parts[0].segments), (1, 0, 1, 1));
    assert!(parts[0].bytes > 80);
}
