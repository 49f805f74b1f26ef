//! Many topics, many consumers, large records: what an opening looks at, and what is bounded.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hooked_disk::{Event, on, over};
use oncelog::disk::{Disk, MemoryDisk, OpenMode, SyncSite};
use oncelog::{Bytes, ConsumerStyle, ErrorKind, Outcome, PartitionId, StoreOptions, TableDef, TopicDef, U64, Utf8};

const ONE: TopicDef<Utf8, Bytes> = TopicDef::new("one");
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

fn named(number: usize) -> String {
    format!("topic {number}")
}

/// A store that notes which directories and files below `topics` are looked at.
fn watched(disk: &Arc<MemoryDisk>, seen: &Arc<Mutex<Vec<PathBuf>>>) -> StoreOptions {
    let seen = Arc::clone(seen);
    on(disk, move |event| {
        if let Event::Open(path, _) | Event::List(path) | Event::Remove(path) = event
            && path.to_str().unwrap().contains("/topics/")
        {
            seen.lock().unwrap().push(path.to_owned());
        }
        Ok(())
    })
    .manual_duties()
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
    let store = watched(&disk, &seen).open("/s").unwrap();
    for number in 0..40 {
        append(&store, &named(number), b"first");
    }
    store.close().unwrap();
    seen.lock().unwrap().clear();
    let store = watched(&disk, &seen).open("/s").unwrap();
    assert!(seen.lock().unwrap().is_empty(), "a clean opening looks at no topic");
    store.trim().unwrap();
    append(&store, &named(7), b"second");
    // A copy of the disk as a crash would leave it: the lock is in the process, not in the bytes.
    let left = Arc::new(copy(&disk, Path::new("/")));
    drop(store);
    seen.lock().unwrap().clear();
    let store = watched(&left, &seen).open("/s").unwrap();
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
    let store = watched(&disk, &seen).open("/s").unwrap();
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

#[test]
fn a_topic_made_anew_inherits_nothing() {
    let disk = Arc::new(MemoryDisk::default());
    let store = StoreOptions::new().disk(Arc::clone(&disk) as _).manual_duties().open("/s").unwrap();
    let old = store.producer(ONE).unwrap();
    for _ in 0..3 {
        old.append("k", b"old").unwrap();
    }
    old.append("k", &vec![1; 40_000]).unwrap();
    let style = || ConsumerStyle::ClientTx("ann".to_owned());
    let mut consumer = store.consumer(ONE, style()).unwrap();
    consumer.try_process(Some(2), |_, _| Ok(Outcome::Commit)).unwrap();
    store.trim().unwrap();
    assert_eq!(store.consumers().unwrap().len(), 1);
    let id = store.topics().unwrap()[0].0;
    store.delete_topic("one").unwrap();

    assert_eq!(store.delete_topic("one").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(old.append("k", b"late").unwrap_err().kind(), ErrorKind::NotFound);
    let error = consumer.try_process(None, |_, _| Ok(Outcome::Commit)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(store.offsets("one", PartitionId(0)).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.topics().unwrap().is_empty() && store.consumers().unwrap().is_empty());
    assert!(disk.list(Path::new("/s/topics")).unwrap().is_empty());
    drop(consumer);

    let new = store.producer(ONE).unwrap();
    assert_ne!(store.topics().unwrap()[0].0, id);
    assert_eq!(new.append("k", b"new").unwrap().0, 0);
    let mut seen = Vec::new();
    let mut consumer = store.consumer(ONE, style()).unwrap();
    consumer
        .try_process(None, |record, _| {
            seen.push(record.value_bytes().unwrap().to_vec());
            Ok(Outcome::Commit)
        })
        .unwrap();
    assert_eq!(seen, [b"new".to_vec()]);
    drop((old, new, consumer));
    store.close().unwrap();
    let store = StoreOptions::new().disk(disk).manual_duties().open("/s").unwrap();
    assert_eq!(store.offsets("one", PartitionId(0)).unwrap().1.0, 1);
}

/// The disk as it was at some instant.
fn crashed(disk: &MemoryDisk) -> Arc<MemoryDisk> {
    Arc::new(copy(disk, Path::new("/")))
}

/// The disk, of which is kept what it holds before each change.
fn keeping(disk: &Arc<MemoryDisk>, moments: &Arc<Mutex<Vec<Arc<MemoryDisk>>>>) -> Arc<dyn Disk> {
    let (inner, moments) = (Arc::clone(disk), Arc::clone(moments));
    over(Arc::clone(disk) as _, move |event| {
        if let Event::Rename(..)
        | Event::Remove(_)
        | Event::CreateDir(_)
        | Event::RemoveDir(_)
        | Event::SyncDir(..)
        | Event::Write(..) = event
        {
            let left = crashed(&inner);
            moments.lock().unwrap().push(left);
        }
        Ok(())
    })
}

#[test]
fn a_deletion_is_whole_from_whatever_instant_a_crash_leaves() {
    let disk = Arc::new(MemoryDisk::default());
    let moments = Arc::new(Mutex::new(Vec::new()));
    let options = || StoreOptions::new().manual_duties().journal_file_bytes(4096).trim_bytes(16 << 10);
    let open = |disk: &Arc<MemoryDisk>| options().disk(Arc::clone(disk) as _).open("/s");
    let deleted_at;
    {
        let store = options().disk(keeping(&disk, &moments)).open("/s").unwrap();
        append(&store, "one", b"first");
        append(&store, "other", b"stays");
        store.trim().unwrap();
        append(&store, "one", b"second");
        moments.lock().unwrap().clear();
        store.delete_topic("one").unwrap();
        deleted_at = moments.lock().unwrap().len();
        append(&store, "one", b"anew");
        store.trim().unwrap();
    }
    let moments = std::mem::take(&mut *moments.lock().unwrap());
    assert!(moments.len() > 10, "{}", moments.len());
    let mut shapes = std::collections::BTreeSet::new();
    for (at, left) in moments.into_iter().enumerate() {
        let store = open(&left).unwrap();
        let end = store.offsets("one", PartitionId(0)).map(|(_, end)| end.0).ok();
        shapes.insert(end);
        assert_eq!(store.offsets("other", PartitionId(0)).unwrap().1.0, 1);
        if end.is_none() && at < deleted_at {
            assert!(left.list(Path::new("/s/topics/one")).is_err(), "nothing is left of it");
        }
        let next = append(&store, "one", b"more");
        assert_eq!(next, end.unwrap_or(0));
        store.trim().unwrap();
        // And again, from what that left.
        let again = open(&crashed(&left)).unwrap();
        assert_eq!(again.offsets("one", PartitionId(0)).unwrap().1.0, next + 1);
    }
    assert_eq!(shapes.into_iter().collect::<Vec<_>>(), [None, Some(0), Some(1), Some(2)]);
}

#[test]
fn the_largest_value_and_the_smallest_fit() {
    let store = oncelog::Store::in_memory().unwrap();
    let producer = store.producer(ONE).unwrap();
    let large = vec![5; 16 << 20];
    assert_eq!(producer.append("a key of some length", &large).unwrap().0, 0);
    assert_eq!(producer.append("", b"").unwrap().0, 1);
    let mut lengths = Vec::new();
    let read = |record: oncelog::RecordView<'_>| {
        lengths.push(record.value.unwrap().len());
        Ok(oncelog::Step::Next)
    };
    store.snapshot().unwrap().read("one", PartitionId(0), oncelog::LogOffset(0), read).unwrap();
    assert_eq!(lengths, [16 << 20, 0]);
    let error = producer.append("k", &vec![5; 17 << 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[cfg(target_os = "linux")]
#[test]
fn few_files_are_open_for_many_topics() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreOptions::new().max_open_files(16).open(dir.path()).unwrap();
    let ours = || {
        let all = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = all.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
        links
            .filter(|path| path.starts_with(dir.path()) && path.extension().is_some_and(|kind| kind == "segment"))
            .count()
    };
    for round in 0..3u64 {
        for number in 0..200 {
            assert_eq!(append(&store, &named(number), &[9; 100]), round);
        }
        assert!(ours() <= 16 && store.stats().open_files <= 16, "{}", ours());
    }
    for number in 0..200 {
        let end = store
            .snapshot()
            .unwrap()
            .read(&named(number), PartitionId(0), oncelog::LogOffset(0), |_| Ok(oncelog::Step::Next));
        assert_eq!(end.unwrap().0, 3);
    }
    assert!(ours() <= 16);
    store.close().unwrap();
    assert_eq!(ours(), 0);
}

/// How often each site has synced.
#[derive(Clone, Default)]
struct Syncs(Arc<Mutex<BTreeMap<SyncSite, usize>>>);

impl Syncs {
    /// A disk whose syncs are counted.
    fn count(&self) -> Arc<dyn Disk> {
        let syncs = self.clone();
        over(Arc::new(MemoryDisk::default()), move |event| {
            if let Event::Sync(_, site) | Event::SyncDir(_, site) = event {
                *syncs.0.lock().unwrap().entry(site).or_default() += 1;
            }
            Ok(())
        })
    }
    fn of(&self, site: SyncSite) -> usize {
        self.0.lock().unwrap().get(&site).copied().unwrap_or(0)
    }
    fn all(&self) -> usize {
        self.0.lock().unwrap().values().sum()
    }
    fn forget(&self) {
        self.0.lock().unwrap().clear();
    }
}

#[test]
fn an_opening_after_an_orderly_close_waits_for_one_sync_and_the_first_commit_for_another() {
    let syncs = Syncs::default();
    let disk = syncs.count();
    let open = || StoreOptions::new().disk(Arc::clone(&disk)).manual_duties().open("/s").unwrap();
    for _ in 0..3 {
        let store = open();
        append(&store, "one", b"value");
        store.close().unwrap();
    }
    syncs.forget();
    let store = open();
    assert_eq!((syncs.of(SyncSite::ManifestFirst), syncs.all()), (1, 1));
    append(&store, "one", b"value");
    assert_eq!(syncs.of(SyncSite::ManifestSecond), 1, "nothing is answered before both copies are durable");
    store.run_duties().unwrap();
    append(&store, "one", b"value");
    assert_eq!((syncs.of(SyncSite::ManifestFirst), syncs.of(SyncSite::ManifestSecond)), (1, 1));
    store.close().unwrap();
    // Without a commit it is for the background.
    let store = open();
    syncs.forget();
    store.run_duties().unwrap();
    store.run_duties().unwrap();
    assert_eq!((syncs.of(SyncSite::ManifestSecond), syncs.of(SyncSite::ManifestFirst)), (1, 0));
}

#[test]
fn topics_made_together_share_their_syncs() {
    let syncs = Syncs::default();
    let disk = syncs.count();
    let open = || StoreOptions::new().disk(Arc::clone(&disk)).manual_duties().open("/s").unwrap();
    let store = open();
    let specs = |from: usize| {
        (from..from + 100).map(|number| TopicDef::<Utf8, Bytes>::named(named(number)).partitions(2).spec())
    };
    store.create_topics(specs(0)).unwrap();
    syncs.forget();
    // Half of them are there, and one is named twice.
    store.create_topics(specs(50).chain(specs(100).take(1))).unwrap();
    assert_eq!(syncs.of(SyncSite::TopicClaim), 50, "each claim on its own, before it has its name");
    // Each directory of a topic, and the one above once for each group of at most 64.
    assert_eq!(syncs.of(SyncSite::TopicDir), 50 + 2);
    assert!(syncs.of(SyncSite::JournalGroup) <= 2, "{:?}", syncs.0);
    let differing = TopicDef::<Utf8, Bytes>::named(named(3)).partitions(5).spec();
    let new = TopicDef::<Utf8, Bytes>::new("new").spec();
    let error = store.create_topics([new, differing]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(store.topics().unwrap().len(), 150, "of one group, all are made or none");
    let twice = [2, 3].map(|partitions| TopicDef::<Utf8, Bytes>::new("twice").partitions(partitions).spec());
    assert_eq!(store.create_topics(twice).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.create_topics([TopicDef::<Utf8, Bytes>::new("").spec()]).unwrap_err().kind(), ErrorKind::Invalid);
    store.create_topics([]).unwrap();
    store.close().unwrap();
    let store = open();
    assert_eq!(store.topics().unwrap().len(), 150);
    let producer = store.producer(TopicDef::<Utf8, Bytes>::named(named(149)).partitions(2)).unwrap();
    assert_eq!(producer.append("k", b"value").unwrap().0, 0);
}

#[test]
fn consumers_made_together_are_claimed_once() {
    let syncs = Syncs::default();
    let disk = syncs.count();
    let open = |owner| StoreOptions::new().disk(Arc::clone(&disk)).manual_duties().attach("/s", owner).unwrap();
    let store = open("main");
    append(&store, "one", b"value");
    let ids: Vec<String> = (0..100).map(|number| format!("consumer {number}")).collect();
    let create = |store: &oncelog::Store| store.create_consumers(ids.iter().map(String::as_str));
    syncs.forget();
    create(&store).unwrap();
    assert_eq!((syncs.of(SyncSite::TopicClaim), syncs.of(SyncSite::TopicDir)), (100, 100 + 2));
    syncs.forget();
    create(&store).unwrap();
    let mut consumer = store.consumer(ONE, ConsumerStyle::ClientTx(ids[7].clone())).unwrap();
    assert_eq!(consumer.try_process(None, |_, _| Ok(Outcome::Commit)).unwrap(), 1);
    assert_eq!(syncs.of(SyncSite::TopicClaim), 0, "known by now");
    assert_eq!(store.create_consumers(["a", ""]).unwrap_err().kind(), ErrorKind::Invalid);
    let other = open("other");
    assert_eq!(create(&other).unwrap_err().kind(), ErrorKind::Locked);
}
