//! Readers beside an owner, after it, and while it changes: in one process, on the real disk.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail by panic, and copies its own files"
)]

#[path = "common/copy.rs"]
mod copy;
#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use copy::copy_dir;
use hooked_disk::{Event, over};
use oncelog::disk::{OpenMode, RealDisk};
use oncelog::{
    Bytes, Compression, ErrorKind, LogOffset, PartitionId, Result, Step, Store, StoreOptions, StoreReader, SyncPolicy,
    TopicDef, U64, Utf8, Whence,
};

const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("Orders").partitions(2).file_roll_size(2048);
const ALERTS: TopicDef<Utf8, Bytes> = TopicDef::new("alerts").file_roll_size(2048);
const ZERO: PartitionId = PartitionId(0);

fn options() -> StoreOptions {
    Store::options().journal_file_bytes(64 << 10)
}

fn values(reader: &StoreReader) -> Vec<u64> {
    let mut found: Vec<u64> = reader
        .cursor("Orders", Whence::Oldest)
        .unwrap()
        .map(|record| u64::from_be_bytes(record.unwrap().value.unwrap()[..].try_into().unwrap()))
        .collect();
    found.sort_unstable();
    found
}

fn append(store: &Store, values: std::ops::Range<u64>) {
    let orders = store.producer(ORDERS).unwrap();
    for value in values {
        orders.append(&format!("k{}", value % 7), &value).unwrap();
    }
}

#[test]
fn a_reader_follows_an_owner_and_outlives_it() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    assert_eq!(StoreReader::open(&dir).unwrap_err().kind(), ErrorKind::NotFound);
    let store = options().open(&dir)?;
    let reader = StoreReader::open(&dir)?;
    assert_eq!(reader.topics()?, []);
    assert_eq!(reader.offsets("Orders", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
    append(&store, 0..100);
    let topics = reader.topics()?;
    assert_eq!((topics.len(), topics[0].name.as_str(), topics[0].partitions), (1, "Orders", 2));
    assert_eq!(reader.offsets("Orders", PartitionId(2)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(values(&reader), (0..100).collect::<Vec<_>>());
    // A cursor goes on where it was, over rolls, a close, a new owner.
    let mut cursor = reader.cursor("Orders", Whence::Latest)?;
    append(&store, 100..300);
    assert!(cursor.wait(Duration::from_secs(10))?);
    let mut seen = 0;
    seen += cursor.by_ref().count();
    store.close()?;
    assert_eq!(values(&reader), (0..300).collect::<Vec<_>>());
    assert!(!cursor.wait(Duration::ZERO)?);
    let store = options().open(&dir)?;
    append(&store, 300..400);
    seen += cursor.by_ref().count();
    assert_eq!(seen, 300);
    assert_eq!(values(&reader), (0..400).collect::<Vec<_>>());
    store.close()
}

#[test]
fn a_reader_inflates_what_is_compressed_with_and_without_an_owner() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let small = TopicDef::<Utf8, Bytes>::new("small").file_roll_size(4096).compression(Compression::Lz4);
    let store = options().open(&dir)?;
    let producer = store.producer(small.clone())?;
    let value = b"again and again, ".repeat(50);
    for _ in 0..30 {
        producer.append_batch((0..20).map(|_| ("k", value.as_slice())))?;
    }
    producer.append("k", b"x")?;
    let reader = StoreReader::open(&dir)?;
    let look = |reader: &StoreReader| {
        let values: Vec<_> =
            reader.cursor("small", Whence::Oldest).unwrap().map(|record| record.unwrap().value.unwrap()).collect();
        assert_eq!(values.len(), 601);
        assert!(values[..600].iter().all(|found| found[..] == value[..]) && values[600][..] == b"x"[..]);
    };
    look(&reader);
    // A second home, as a kill would leave it: here the records come out of the journal.
    let killed = home.path().join("killed");
    copy_dir(&dir, &killed);
    look(&StoreReader::open(&killed)?);
    drop(producer);
    store.close()?;
    look(&StoreReader::open(&dir)?);
    let stored: usize = files(&dir.join("topics/small")).iter().map(|(_, bytes)| bytes.len()).sum();
    assert!(stored < 601 * value.len() / 10, "{stored}");
    Ok(())
}

#[test]
fn after_a_kill_a_reader_shows_what_recovery_will_show_and_changes_nothing() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    append(&store, 0..200);
    store.producer(ALERTS)?.sync_policy(SyncPolicy::Os).append("late", b"written and not synced")?;
    // The store as it stands, without its owner.
    let dead = home.path().join("dead");
    copy_dir(&dir, &dead);
    // A copy is refused beside the first.
    store.close()?;
    let before = files(&dead);
    let reader = StoreReader::open(&dead)?;
    assert_eq!(values(&reader), (0..200).collect::<Vec<_>>());
    assert_eq!(files(&dead), before, "a reader writes nothing");
    let (_, end) = reader.offsets("alerts", ZERO)?;
    let recovered = options().open(&dead)?;
    assert_eq!(recovered.offsets("alerts", ZERO)?.1, end);
    assert_eq!(values(&reader), (0..200).collect::<Vec<_>>());
    append(&recovered, 200..250);
    assert_eq!(values(&reader), (0..250).collect::<Vec<_>>());
    Ok(())
}

/// Paths, lengths and contents.
fn files(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path))
        } else {
            found.push((path.clone(), std::fs::read(&path).unwrap()))
        }
    }
    found.sort();
    found
}

#[test]
fn a_snapshot_stays_while_the_owner_goes_on() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    let reader = StoreReader::open(&dir)?;
    let both = |value: u64| {
        store.transact(|tx| {
            tx.append(ORDERS, "same", &value)?;
            tx.append(ALERTS, "same", &value.to_be_bytes()[..])
        })
    };
    (0..50).try_for_each(both)?;
    let snapshot = reader.snapshot()?;
    (50..200).try_for_each(both)?;
    let count = |topic: &str| -> Result<u64> {
        let mut count = 0;
        for partition in 0..reader.topics()?.iter().find(|info| info.name == topic).unwrap().partitions {
            snapshot.read(topic, PartitionId(partition), LogOffset(0), |_| {
                count += 1;
                Ok(Step::Next)
            })?;
        }
        Ok(count)
    };
    assert_eq!((count("Orders")?, count("alerts")?), (50, 50));
    store.close()?;
    assert_eq!((count("Orders")?, count("alerts")?), (50, 50));
    assert_eq!(snapshot.end_offset("alerts", ZERO)?, LogOffset(50));
    assert_eq!(snapshot.end_offset("nothing", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(snapshot.end_offset("alerts", PartitionId(1)).unwrap_err().kind(), ErrorKind::Invalid);
    Ok(())
}

#[test]
fn times_positions_stops_and_seeks() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    let alerts = store.producer(ALERTS)?;
    for at in 0..300 {
        alerts.append_record(None, Some("k"), Some(&vec![7u8; 30][..]), &[], Some(1000 + at))?;
    }
    let reader = StoreReader::open(&dir)?;
    let at = |whence| -> Result<u64> { Ok(reader.cursor("alerts", whence)?.positions()[0].1.0) };
    assert_eq!(at(Whence::Oldest)?, 0);
    assert_eq!(at(Whence::Latest)?, 300);
    assert_eq!(at(Whence::Position(LogOffset(17)))?, 17);
    assert_eq!(at(Whence::Time(1123))?, 123);
    assert_eq!(at(Whence::Time(5000))?, 300);
    let mut cursor = reader.cursor("alerts", Whence::Oldest)?;
    // One record at a time, each once; a record that is not taken comes again.
    for expected in 0..20 {
        let mut found = Vec::new();
        let stays = cursor.poll(|_, record| {
            found.push(record.offset.0);
            Ok(Step::Stay)
        })?;
        let taken = cursor.poll(|_, record| {
            found.push(record.offset.0);
            Ok(Step::NextAndReturn)
        })?;
        assert_eq!((stays, taken, found), (0, 1, vec![expected, expected]));
    }
    cursor.seek(ZERO, LogOffset(290));
    assert_eq!(cursor.lag()?, 10);
    assert_eq!(cursor.next().unwrap()?.id.offset, LogOffset(290));
    assert_eq!(cursor.positions(), [(ZERO, LogOffset(291))]);
    // An error of the visitor is the caller's own, and nothing is lost by it.
    let failed = cursor.poll(|_, _| Err(oncelog::Error::user("mine"))).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::User);
    assert_eq!(cursor.count(), 9);
    Ok(())
}

#[test]
fn damage_is_told_with_file_and_position() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    let alerts = store.producer(ALERTS)?;
    for _ in 0..100 {
        alerts.append("k", &[9; 100])?;
    }
    let reader = StoreReader::open(&dir)?;
    let mut segments: Vec<_> = files(&dir.join("topics/alerts/000000")).into_iter().map(|(path, _)| path).collect();
    segments.retain(|path| path.extension().is_some_and(|kind| kind == "segment"));
    assert!(segments.len() > 4);
    let mut bytes = std::fs::read(&segments[1]).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    // In place: the owner has it open.
    std::fs::write(&segments[1], &bytes).unwrap();
    let error = reader.cursor("alerts", Whence::Oldest)?.find_map(Result::err).expect("rot is found");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.file(), Some(segments[1].as_path()));
    assert!(error.position().is_some_and(|position| position <= at as u64 && position + 300 > at as u64));
    Ok(())
}

/// Whether a segment ends where it should only the owner's rows can say: a reader asks them before it tells of a loss.
#[test]
fn a_segment_that_is_cut_between_batches_or_taken_away_is_told_as_damage() -> Result<()> {
    for trimmed in [false, true] {
        for cut in [true, false] {
            let home = tempfile::tempdir().unwrap();
            let store = options().open(home.path())?;
            let alerts = store.producer(ALERTS)?;
            (0..100).try_for_each(|_| alerts.append("k", &[9; 100]).map(drop))?;
            if trimmed {
                store.trim()?;
            }
            let dir = home.path().join("topics/alerts/000000");
            let mut segments: Vec<_> = files(&dir).into_iter().map(|(path, _)| path).collect();
            segments.retain(|path| path.extension().is_some_and(|kind| kind == "segment"));
            segments.sort();
            for (segment, next) in [(&segments[2], Some(&segments[3])), (segments.last().unwrap(), None)] {
                let whole = std::fs::read(segment).unwrap();
                if cut {
                    // Batches of one length: the last one goes, and the file ends as if it had never been there.
                    let length = u64::from(u32::from_be_bytes(whole[88..92].try_into().unwrap())) + 12;
                    let batches = (store.offsets("alerts", ZERO)?.1.0, next.map(|next| base(next)));
                    let count = batches.1.unwrap_or(batches.0) - base(segment);
                    let file = std::fs::OpenOptions::new().write(true).open(segment).unwrap();
                    file.set_len(80 + (count - 1) * length).unwrap();
                } else {
                    std::fs::remove_file(segment).unwrap();
                }
                let reader = StoreReader::open(home.path())?;
                let error = reader.cursor("alerts", Whence::Oldest)?.find_map(Result::err).expect("damage is found");
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{trimmed} {cut}: {error}");
                let named = if trimmed { segment.as_path() } else { dir.as_path() };
                assert_eq!(error.file(), Some(named), "{trimmed} {cut}: {error}");
                std::fs::write(segment, whole).unwrap();
            }
            assert_eq!(StoreReader::open(home.path())?.cursor("alerts", Whence::Oldest)?.count(), 100);
        }
    }
    Ok(())
}

/// The first offset of a segment, by its name.
fn base(segment: &Path) -> u64 {
    segment.file_name().unwrap().to_str().unwrap()[..20].parse().unwrap()
}

#[test]
fn a_hole_behind_the_last_record_is_a_gap_beside_an_owner_too() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    let alerts = store.producer(ALERTS)?.sync_policy(SyncPolicy::Os);
    (0..5).try_for_each(|_| alerts.append("k", b"not synced").map(drop))?;
    store.flush()?;
    let dead = home.path().join("dead");
    copy_dir(&dir, &dead);
    Store::adopt(&dead)?;
    // After an unclean stop the topic goes on at its bound; nothing is appended there yet.
    let _owner = options().open(&dead)?;
    let reader = StoreReader::open(&dead)?;
    let (_, end) = reader.offsets("alerts", ZERO)?;
    assert!(end > LogOffset(5), "{end}");
    let mut cursor = reader.cursor("alerts", Whence::Oldest)?;
    assert_eq!(cursor.by_ref().take(5).filter(Result::is_ok).count(), 5);
    assert_eq!(cursor.next().unwrap().unwrap_err().gap(), Some(LogOffset(5)..end));
    cursor.seek(ZERO, end);
    assert!(cursor.next().is_none());
    Ok(())
}

/// What recovery cuts off is not synced away: a power cut can bring it back behind the end that the owner's rows say.
#[test]
fn what_recovery_told_as_lost_stays_lost_when_its_bytes_come_back() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    let alerts = store.producer(ALERTS)?.sync_policy(SyncPolicy::Os);
    (0..5).try_for_each(|_| alerts.append("k", b"synced").map(drop))?;
    store.trim()?;
    let dead = home.path().join("dead");
    copy_dir(&dir, &dead);
    (0..3).try_for_each(|_| alerts.append("k", b"not synced").map(drop))?;
    store.flush()?;
    let segment = Path::new("topics/alerts/000000").join(format!("{:020}-{:010}.segment", 0, 1));
    let longer = std::fs::read(dir.join(&segment)).unwrap();
    store.close()?;
    Store::adopt(&dead)?;
    let owner = options().open(&dead)?;
    let (_, lost_until) = owner.offsets("alerts", ZERO)?;
    let back = |end: usize| {
        let file = std::fs::OpenOptions::new().write(true).open(dead.join(&segment)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &longer[end..], end as u64).unwrap();
    };
    let end = std::fs::read(dead.join(&segment)).unwrap().len();
    back(end);
    for appended in [0, 1] {
        (0..appended).try_for_each(|_| owner.producer(ALERTS)?.append("k", b"later").map(drop))?;
        let reader = StoreReader::open(&dead)?;
        let mut cursor = reader.cursor("alerts", Whence::Oldest)?;
        assert_eq!(cursor.by_ref().take(5).filter(Result::is_ok).count(), 5);
        assert_eq!(cursor.next().unwrap().unwrap_err().gap(), Some(LogOffset(5)..lost_until));
        let mut within = reader.cursor("alerts", Whence::Position(LogOffset(6)))?;
        assert_eq!(within.next().unwrap().unwrap_err().gap(), Some(LogOffset(6)..lost_until));
        cursor.seek(ZERO, lost_until);
        assert_eq!(cursor.count(), appended);
    }
    Ok(())
}

#[test]
fn leftovers_of_a_topic_that_was_not_made_are_no_topic() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    append(&store, 0..3);
    std::fs::create_dir_all(dir.join("topics/side/000000")).unwrap();
    std::fs::write(dir.join("owners/LOCK"), b"").unwrap();
    let reader = StoreReader::open(&dir)?;
    assert_eq!(reader.topics()?.len(), 1);
    assert_eq!(reader.offsets("side", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
    let snapshot = reader.snapshot()?;
    assert_eq!(snapshot.end_offset("side", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(snapshot.end_offset("Orders", ZERO)?, reader.offsets("Orders", ZERO)?.1);
    Ok(())
}

#[test]
fn a_deleted_topic_is_deleted_for_readers_and_one_made_anew_is_another() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    let alerts = store.producer(ALERTS)?;
    (0..100).try_for_each(|_| alerts.append("k", &[9; 100]).map(drop))?;
    append(&store, 0..10);
    let reader = StoreReader::open(&dir)?;
    let mut cursor = reader.cursor("alerts", Whence::Oldest)?;
    let mut slow = reader.cursor("alerts", Whence::Oldest)?;
    assert_eq!(slow.poll(|_, _| Ok(Step::NextAndReturn))?, 1);
    let snapshot = reader.snapshot()?;
    store.delete_topic("alerts")?;
    let is_gone = |cursor: &mut oncelog::ReaderCursor| {
        assert_eq!(cursor.lag().unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(cursor.poll(|_, _| Ok(Step::Next)).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(cursor.wait(Duration::from_secs(60)).unwrap_err().kind(), ErrorKind::NotFound);
    };
    is_gone(&mut cursor);
    is_gone(&mut slow);
    let of_snapshot = |snapshot: &oncelog::ReaderSnapshot| {
        snapshot.read("alerts", ZERO, LogOffset(0), |_| Ok(Step::Next)).unwrap_err().kind()
    };
    assert_eq!(of_snapshot(&snapshot), ErrorKind::NotFound);
    assert_eq!(reader.offsets("alerts", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(reader.topics()?.len(), 1);
    store.producer(ALERTS)?.append("k", b"of the new one")?;
    is_gone(&mut cursor);
    assert_eq!(of_snapshot(&snapshot), ErrorKind::NotFound);
    assert_eq!(reader.offsets("alerts", ZERO)?, (LogOffset(0), LogOffset(1)));
    store.close()?;
    // Without an owner it is the same.
    is_gone(&mut slow);
    assert_eq!(of_snapshot(&snapshot), ErrorKind::NotFound);
    assert_eq!(reader.cursor("alerts", Whence::Oldest)?.count(), 1);
    assert_eq!(values(&reader), (0..10).collect::<Vec<_>>());
    Ok(())
}

/// The making of a topic may fail behind its claim; then the id goes to the next topic, and the claim still names it.
#[test]
fn a_claim_that_names_the_id_of_another_topic_is_no_topic() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let store = options().open(&dir)?;
    store.producer(ALERTS)?.append("k", b"not theirs")?;
    let mut claim = std::fs::read(dir.join("topics/alerts/CLAIM")).unwrap();
    claim.truncate(claim.len() - 4);
    let name = claim.windows(6).position(|bytes| bytes == b"alerts").unwrap();
    claim[name..name + 6].copy_from_slice(b"failed");
    claim.extend(crc32c::crc32c(&claim).to_le_bytes());
    std::fs::create_dir_all(dir.join("topics/failed/000000")).unwrap();
    std::fs::write(dir.join("topics/failed/CLAIM"), claim).unwrap();
    let reader = StoreReader::open(&dir)?;
    let check = || -> Result<()> {
        assert_eq!(reader.offsets("failed", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(reader.cursor("failed", Whence::Oldest).map(drop).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(reader.snapshot()?.end_offset("failed", ZERO).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(reader.topics()?.len(), 1);
        assert_eq!(reader.offsets("alerts", ZERO)?.1, LogOffset(1));
        Ok(())
    };
    check()?;
    store.close()?;
    check()
}

#[test]
fn what_could_not_be_shown_to_readers_is_shown_when_there_is_room() -> Result<()> {
    const MANY: TopicDef<Utf8, U64> = TopicDef::new("many").partitions(1100);
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    store.producer(MANY)?.append("k", &1)?;
    store.close()?;
    for manual in [false, true] {
        let refusals = Arc::new(AtomicU32::new(2));
        let left = Arc::clone(&refusals);
        // Files of a page behind the first cannot be made for a while.
        let disk = over(Arc::new(RealDisk), move |event| match event {
            Event::Open(path, OpenMode::Create)
                if path.to_string_lossy().ends_with("-001.page")
                    && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() =>
            {
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        });
        let options = options().disk(disk);
        let store = if manual { options.manual_duties() } else { options }.open(home.path())?;
        if manual {
            let reader = StoreReader::options().patience(Duration::ZERO).open(home.path())?;
            assert_eq!(reader.snapshot().map(drop).unwrap_err().kind(), ErrorKind::Unavailable);
            store.run_duties()?;
            store.run_duties()?;
        }
        let reader = StoreReader::options().patience(Duration::from_secs(30)).open(home.path())?;
        let snapshot = reader.snapshot()?;
        let ends = (0..1100).map(|number| snapshot.end_offset("many", PartitionId(number)).map(|end| end.0));
        assert_eq!(ends.sum::<Result<u64>>()?, 1);
        assert_eq!(refusals.load(Ordering::SeqCst), 0);
        store.close()?;
    }
    Ok(())
}
