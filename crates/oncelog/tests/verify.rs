//! Verifying: what is damaged is told with its file, what is said to be sound reads as it was written, and an owner at
//! work is never taken for damage.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/copy.rs"]
mod copy;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use copy::copy_dir;
use oncelog::{
    Compression, ConsumerStyle, ErrorKind, Store, StoreReader, TableDef, TopicDef, U64, Utf8, Verification, Whence,
};

const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines").file_roll_size(4096);
const PACKED: TopicDef<Utf8, Utf8> = TopicDef::new("packed").partitions(2).compression(Compression::Lz4);
const COUNTS: TableDef<Utf8, U64> = TableDef::new("counts");

/// A store with every kind of file: several segments, rows, a consumer, and some frames behind the trim point.
fn fill(dir: &Path) -> Store {
    let store = Store::options().journal_file_bytes(64 << 10).open(dir).unwrap();
    let (lines, packed) = (store.producer(LINES).unwrap(), store.producer(PACKED).unwrap());
    for n in 0..60 {
        lines.append("k", &format!("line {n} {}", "y".repeat(100))).unwrap();
        packed.append(&n.to_string(), &"z".repeat(300)).unwrap();
        store.transact(|tx| tx.table(COUNTS)?.put(&n.to_string(), &n)).unwrap();
    }
    let mut mail = store.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
    assert_eq!(mail.by_ref().take(10).count(), 10);
    drop(mail);
    store.trim().unwrap();
    for n in 60..70 {
        lines.append("k", &format!("line {n}")).unwrap();
        store.transact(|tx| tx.table(COUNTS)?.put(&n.to_string(), &n)).unwrap();
    }
    store
}

fn verify(dir: &Path) -> oncelog::Result<Verification> {
    StoreReader::open(dir)?.verify(|_| {})
}

/// All that a store shows.
fn content(dir: &Path) -> oncelog::Result<Vec<String>> {
    StoreReader::open(dir)?.look("main", |state| {
        let mut all = Vec::new();
        for record in state.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest))? {
            all.push(format!("{:?}", record?.value));
        }
        for record in state.consumer(PACKED, ConsumerStyle::NonTx(Whence::Oldest))? {
            all.push(format!("{:?}", record?.key));
        }
        all.push(format!("{:?}", state.snapshot()?.scan(COUNTS, ..)?));
        all.push(format!("{:?} {:?} {:?}", state.consumers()?, state.topics()?, state.tables()?));
        Ok(all)
    })
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() { found.extend(files(&entry.path())) } else { found.push(entry.path()) }
    }
    found.sort();
    found
}

/// Flips one bit at many places of every file. Gives how often it was found, or noted where it means nothing, by
/// kind of file.
fn flip_everything(sound: &Path, scratch: &Path) -> BTreeMap<String, (u32, u32)> {
    let expected = content(sound).unwrap();
    let notes = verify(sound).unwrap().notes.len();
    let mut tally: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for file in files(sound) {
        let bytes = fs::read(&file).unwrap();
        let kind = file.extension().or(file.file_name()).unwrap().to_string_lossy().into_owned();
        // Dense where heads are, then in strides that hit each kilobyte somewhere.
        let places = (0..bytes.len().min(96)).step_by(5).chain((96..bytes.len()).step_by(1009));
        // A few of them; all with the variable set, by hand.
        let every = if std::env::var_os("VERIFY_ALL").is_some() { 1 } else { 11 };
        for place in places.take(60).skip(bytes.len() % every).step_by(every) {
            let _ = fs::remove_dir_all(scratch);
            copy_dir(sound, scratch);
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << (place % 8);
            let there = scratch.join(file.strip_prefix(sound).unwrap());
            fs::write(&there, &damaged).unwrap();
            let (hits, tries) = tally.entry(kind.clone()).or_default();
            *tries += 1;
            let at = format!("{} byte {place}", file.display());
            match verify(scratch) {
                Ok(found) if found.is_sound() => match content(scratch) {
                    Ok(shown) => {
                        assert!(shown == expected || !found.notes.is_empty(), "{at}: said to be sound");
                        *hits += u32::from(found.notes.len() > notes);
                    }
                    Err(error) => panic!("{at}: said to be sound: {error}"),
                },
                Ok(found) => {
                    *hits += 1;
                    let names = |error: &oncelog::Error| {
                        error.file().is_some_and(|named| there.starts_with(named) || named.starts_with(scratch))
                    };
                    assert!(found.damage.iter().all(names), "{at}: {:?}", found.damage);
                }
                Err(error) => {
                    *hits += 1;
                    let kind = error.kind();
                    let expected = [ErrorKind::Corrupt, ErrorKind::UnsupportedVersion];
                    assert!(expected.contains(&kind) && error.file().is_some(), "{at}: {error:?}");
                }
            }
        }
    }
    tally
}

#[test]
fn a_flipped_bit_is_found_or_means_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, killed) = (dir.path().join("sound"), dir.path().join("killed"));
    let store = fill(&sound);
    copy_dir(&sound, &killed);
    store.close().unwrap();
    let found = verify(&sound).unwrap();
    assert!(found.is_sound() && found.notes.is_empty(), "{found:?}");
    assert_eq!((found.topics, found.records, found.owners), (2, 130, 1));
    assert!(found.rows >= 70 && found.claims == 4, "{found:?}");
    let of_closed = flip_everything(&sound, &dir.path().join("flipped"));
    for kind in ["segment", "table", "CLAIM", "STORE", "MANIFEST"] {
        assert!(of_closed[kind].0 > 0, "no flip in a {kind} was found: {of_closed:?}");
    }
    // As a killed process leaves it: the journal counts.
    assert!(verify(&killed).unwrap().frames >= 20);
    let of_killed = flip_everything(&killed, &dir.path().join("flipped"));
    assert!(of_killed["journal"].0 > 0, "no flip in a journal was found: {of_killed:?}");
}

#[test]
fn a_copy_of_the_manifest_that_an_earlier_opening_left_half_written_is_a_note() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(dir.path());
    store.close().unwrap();
    let manifest = dir.path().join("owners/main/MANIFEST");
    // The pairs of both openings; that of the last one begins with its own epoch's parity.
    for opening in 2..=3_u64 {
        Store::open(dir.path()).unwrap().close().unwrap();
        let (own, other) = if opening % 2 == 1 { (8192, 0) } else { (0, 8192) };
        for (at, is_told) in [(own, true), (own + 4096, true), (other, false), (other + 4096, false)] {
            let mut bytes = fs::read(&manifest).unwrap();
            bytes[at..at + 300].fill(0xA5);
            let sound = fs::read(&manifest).unwrap();
            fs::write(&manifest, bytes).unwrap();
            match verify(dir.path()) {
                Ok(found) if !is_told => {
                    assert!(found.is_sound() && found.notes.len() == 1, "{opening}, {at}: {found:?}");
                }
                Ok(found) => assert!(!found.is_sound(), "{opening}, {at}: nobody told"),
                Err(error) => assert!(is_told && error.kind() == ErrorKind::Corrupt, "{opening}, {at}: {error}"),
            }
            fs::write(&manifest, sound).unwrap();
        }
    }
}

#[test]
fn what_is_gone_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, scratch) = (dir.path().join("sound"), dir.path().join("scratch"));
    fill(&sound).close().unwrap();
    let expected = content(&sound).unwrap();
    for file in files(&sound) {
        let _ = fs::remove_dir_all(&scratch);
        copy_dir(&sound, &scratch);
        fs::remove_file(scratch.join(file.strip_prefix(&sound).unwrap())).unwrap();
        let is_sound = verify(&scratch).is_ok_and(|found| found.is_sound());
        assert!(!is_sound || content(&scratch).unwrap() == expected, "{} is gone", file.display());
    }
}

/// Trim points all the time, segments that roll, topics that come and go.
#[test]
fn an_owner_at_work_is_never_taken_for_damage() {
    let dir = tempfile::tempdir().unwrap();
    // The trim point stands still long enough for a look at all rows, most of the time.
    let store = Store::options().journal_file_bytes(128 << 10).trim_bytes(1 << 20).open(dir.path().join("s")).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            let lines = store.producer(LINES.file_roll_size(64 << 10)).unwrap();
            for n in 0u64.. {
                lines.append("k", &"x".repeat(usize::try_from(n % 3000).unwrap())).unwrap();
                store.transact(|tx| tx.table(COUNTS)?.put(&(n % 50).to_string(), &n)).unwrap();
                if n % 20 == 0 {
                    let name = format!("fleeting {n}");
                    store.producer(TopicDef::<Utf8, Utf8>::named(name.clone())).unwrap().append("k", "v").unwrap();
                    store.delete_topic(&name).unwrap();
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let seconds = std::env::var("VERIFY_SECONDS").map_or(3, |seconds| seconds.parse().unwrap());
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut done = 0;
        while Instant::now() < until || done < 3 {
            match verify(&dir.path().join("s")) {
                Ok(found) => {
                    assert!(found.is_sound(), "{:?}", found.damage);
                    done += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    });
    store.close().unwrap();
}

/// Ends the writer also where the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_look_beside_a_lax_producer_shows_what_is_there_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = Store::open(&dir).unwrap();
    let lines = store.producer(LINES).unwrap().sync_policy(oncelog::SyncPolicy::Os);
    for n in 0..10 {
        lines.append("k", &format!("line {n}")).unwrap();
    }
    store.flush().unwrap();
    let reader = StoreReader::open(&dir).unwrap();
    let ends =
        |state: &Store| Ok((state.offsets("lines", oncelog::PartitionId(0))?.1, state.recovery_report().lost.len()));
    assert_eq!(reader.look("main", ends).unwrap(), (oncelog::LogOffset(10), 0));
    drop(reader);
    store.close().unwrap();
}

#[test]
fn a_look_at_one_owner_leaves_the_others_alone() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let options = || Store::options().journal_file_bytes(8 << 10).trim_bytes(16 << 10);
    let main = options().open(&dir).unwrap();
    let lines = main.producer(LINES).unwrap();
    lines.append("k", "first").unwrap();
    let billing = options().attach(&dir, "billing").unwrap();
    let mut mail = billing.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
    assert_eq!(mail.try_process(None, |_, _| Ok(oncelog::Outcome::Commit)).unwrap(), 1);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The other rotates its journal, trims and recycles all the while.
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                lines.append("k", &"x".repeat(500)).unwrap();
            }
        });
        let reader = StoreReader::open(&dir).unwrap();
        let looks: Vec<_> = (0..60).map(|_| reader.look("billing", |state| state.consumers())).collect();
        stop.store(true, Ordering::SeqCst);
        for consumers in looks {
            assert_eq!(consumers.unwrap().len(), 1, "the consumer is there each time");
        }
    });
    drop(mail);
    billing.close().unwrap();
    main.close().unwrap();
}
