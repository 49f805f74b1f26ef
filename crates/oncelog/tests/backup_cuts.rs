//! Backups of a store that changes at the worst moments: what is deleted, trimmed or made while it is copied is no
//! damage, and owners fit each other whatever they do between their cuts.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;
#[path = "common/set_clock.rs"]
mod set_clock;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use hooked_disk::{Event, over};
use oncelog::disk::{MemoryDisk, OpenMode, RealDisk};
use oncelog::{
    BackupTarget, ConsumerStyle, ErrorKind, Outcome, PartitionId, RestoreOptions, Store, StoreReader, TableDef,
    TopicDef, U64, Utf8,
};
use set_clock::SetClock;

const KEPT: TopicDef<Utf8, Utf8> = TopicDef::new("kept").file_roll_size(4096);
const BRIEF: TopicDef<Utf8, Utf8> = TopicDef::new("brief");
const ROWS: TableDef<U64, Utf8> = TableDef::new("rows");
const JOBS: TopicDef<Utf8, U64> = TopicDef::new("jobs");
const BILLS: TopicDef<Utf8, U64> = TopicDef::new("bills");

fn open(dir: &Path) -> Store {
    Store::options().journal_file_bytes(64 << 10).manual_duties().open(dir).unwrap()
}

/// A target in memory that tells of each chunk before it is written.
fn target(each_chunk: impl Fn() + Send + Sync + 'static) -> BackupTarget {
    let disk = over(Arc::new(MemoryDisk::default()), move |event| {
        if let Event::Open(path, OpenMode::CreateNew) = event
            && path.components().any(|part| part.as_os_str() == "chunks")
        {
            each_chunk();
        }
        Ok(())
    });
    BackupTarget::dir_on(disk, "/target").unwrap()
}

fn restored(target: &BackupTarget, dir: &Path) -> Store {
    RestoreOptions::new().restore(target, dir).unwrap();
    assert!(StoreReader::open(dir).unwrap().verify(|_| {}).unwrap().is_sound());
    Store::open(dir).unwrap()
}

/// The files of a deleted topic go at once, without a move of the trim point.
#[test]
fn a_topic_that_is_deleted_while_it_is_copied_is_no_damage() {
    for by_owner in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("data"));
        let (kept, brief) = (store.producer(KEPT).unwrap(), store.producer(BRIEF).unwrap());
        for n in 0..50 {
            kept.append("k", &format!("{n} {}", "x".repeat(200))).unwrap();
            brief.append("b", &n.to_string()).unwrap();
        }
        store.trim().unwrap();
        let (deleted, theirs) = (AtomicU32::new(0), store.clone());
        let target = target(move || {
            if deleted.fetch_add(1, Ordering::SeqCst) == 0 {
                theirs.delete_topic("brief").unwrap();
            }
        });
        let made = match by_owner {
            true => store.backup(&target),
            false => StoreReader::open(store.dir()).unwrap().backup(&target),
        };
        made.unwrap();
        let copy = restored(&target, &dir.path().join("restored"));
        assert_eq!(copy.offsets("kept", PartitionId(0)).unwrap().1.0, 50);
        assert_eq!(copy.offsets("brief", PartitionId(0)).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// Blocks of the tables are used again when the trim point has moved twice: beside an owner that does so faster than
/// its rows are read the same block may be found changed in one cut after the other.
#[test]
fn tables_that_are_trimmed_faster_than_they_are_read_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let fill = |store: &Store, round: u32| {
        let put = |tx: &mut oncelog::Tx<'_>| {
            (0..600).try_for_each(|n| tx.table(ROWS)?.put(&n, &format!("{round:03}{}", "r".repeat(300))))
        };
        store.transact(put).unwrap();
        store.trim().unwrap();
    };
    fill(&store, 0);
    // A cut looks for the page, then reads of the tables, then the manifest again; what is read then is copied.
    let (was_cut, reads, spoilt, theirs) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0), store.clone());
    let counted = Arc::new(spoilt);
    let spoilt = Arc::clone(&counted);
    let disk = over(Arc::new(RealDisk), move |event| {
        match event {
            Event::Open(path, _) if path.components().any(|part| part.as_os_str() == "page") => {
                was_cut.store(0, Ordering::SeqCst);
                reads.store(0, Ordering::SeqCst);
            }
            Event::Read(path) if path.ends_with("owners/main/MANIFEST") => {
                was_cut.store(reads.load(Ordering::SeqCst), Ordering::SeqCst);
            }
            Event::Read(path) if path.parent().is_some_and(|dir| dir.ends_with("owners/main/state")) => {
                reads.fetch_add(1, Ordering::SeqCst);
                if was_cut.load(Ordering::SeqCst) > 0 && spoilt.load(Ordering::SeqCst) < 5 {
                    let round = spoilt.fetch_add(1, Ordering::SeqCst);
                    (1..4).for_each(|more| fill(&theirs, 10 * round + more));
                    // The block that comes first, each time.
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
            }
            _ => {}
        }
        Ok(())
    });
    let target = target(|| ());
    StoreReader::options().disk(disk).open(store.dir()).unwrap().backup(&target).unwrap();
    assert_eq!(counted.load(Ordering::SeqCst), 5);
    let copy = restored(&target, &dir.path().join("restored"));
    let rows = copy.snapshot().unwrap().scan(ROWS, ..).unwrap();
    assert_eq!(rows.len(), 600);
    assert!(rows.iter().all(|(_, row)| row[..3] == rows[0].1[..3]), "rows of one moment");
}

/// `main` is cut before it makes a topic, which `worker` has read when it is cut.
#[test]
fn a_topic_that_is_made_between_two_cuts_is_in_the_backup_of_its_reader() {
    for has_another in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let (main, worker) = (open(&data), Store::attach(&data, "worker").unwrap());
        if has_another {
            main.producer(KEPT).unwrap().append("k", "x").unwrap();
        }
        worker.producer(BILLS).unwrap();
        let (once, theirs) = (AtomicU32::new(0), (main.clone(), worker.clone()));
        let disk = over(Arc::new(RealDisk), move |event| {
            // The first look at the manifest of the second owner comes behind the first one's cut.
            if let Event::Open(path, OpenMode::Read) = event
                && path.starts_with(theirs.1.dir().join("owners/worker/page"))
                && once.fetch_add(1, Ordering::SeqCst) == 0
            {
                let (main, worker) = &theirs;
                let jobs = main.producer(JOBS).unwrap();
                for n in 0..5 {
                    jobs.append("j", &n).unwrap();
                }
                let mut jobs = worker.consumer(JOBS, ConsumerStyle::ClientTx("worker".into())).unwrap();
                let read = jobs.try_process(Some(5), |record, tx| {
                    tx.append(BILLS, "b", &record.value()?)?;
                    Ok(Outcome::Commit)
                });
                read.unwrap();
            }
            Ok(())
        });
        let target = target(|| ());
        StoreReader::options().disk(disk).open(&data).unwrap().backup(&target).unwrap();
        let copy = dir.path().join("restored");
        let main = restored(&target, &copy);
        let worker = Store::attach(&copy, "worker").unwrap();
        let billed = worker.offsets("bills", PartitionId(0)).unwrap().1.0;
        assert_eq!(billed, 5, "the worker was cut behind its reading");
        assert_eq!(main.offsets("jobs", PartitionId(0)).unwrap().1.0, 5, "and what it has read is there");
    }
}

/// `billing` is cut while it has the topic, then it gives the name up, and `main` is cut when it has taken it.
#[test]
fn a_name_that_moves_between_two_cuts_is_in_the_backup_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (main, billing) = (open(&data), Store::attach(&data, "billing").unwrap());
    billing.producer(BRIEF).unwrap();
    let (once, theirs) = (AtomicU32::new(0), (main.clone(), billing.clone()));
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::Open(path, OpenMode::Read) = event
            && path.starts_with(theirs.0.dir().join("owners/main/page"))
            && once.fetch_add(1, Ordering::SeqCst) == 0
        {
            theirs.1.delete_topic("brief").unwrap();
            theirs.0.producer(BRIEF).unwrap().append("b", "of main").unwrap();
        }
        Ok(())
    });
    let target = target(|| ());
    StoreReader::options().disk(disk).open(&data).unwrap().backup(&target).unwrap();
    let copy = restored(&target, &dir.path().join("restored"));
    assert_eq!(copy.offsets("brief", PartitionId(0)).unwrap().1.0, 1);
    drop((main, billing));
}

/// A store with records in segments that a trim point names.
fn filled(dir: &Path) -> Store {
    let store = open(dir);
    let kept = store.producer(KEPT).unwrap();
    for n in 0..50 {
        kept.append("k", &format!("{n} {}", "x".repeat(200))).unwrap();
    }
    store.trim().unwrap();
    store
}

/// Each backup reads what is in one folder of chunks, each time the next one, before it counts on it.
#[test]
fn a_rotten_chunk_is_found_when_its_turn_comes() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("data"));
    let place = dir.path().join("target");
    let target = BackupTarget::dir(&place).unwrap();
    let mut name = store.backup(&target).unwrap().name;
    for folder in std::fs::read_dir(place.join("chunks")).unwrap().map(|folder| folder.unwrap().path()) {
        let number = u64::from_str_radix(folder.file_name().unwrap().to_str().unwrap(), 16).unwrap();
        for chunk in std::fs::read_dir(&folder).unwrap().map(|chunk| chunk.unwrap().path()) {
            let mut bytes = std::fs::read(&chunk).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(&chunk, bytes).unwrap();
        }
        // So that the next one is that which reads this folder.
        let backup = |name: &str| place.join(format!("backups/{name}.backup"));
        let renamed = format!("{:08}-00000000", 256 * (number + 1) + number - 1);
        std::fs::rename(backup(&name), backup(&renamed)).unwrap();
        let again = store.backup(&target).unwrap();
        assert!(again.new_chunks > 0, "{again:?}");
        assert!(RestoreOptions::new().verify(&target, dir.path().join("scratch")).unwrap().is_sound());
        std::fs::remove_file(backup(&renamed)).unwrap();
        name = again.name;
    }
}

/// What has rotted in the target need not be removed by hand.
#[test]
fn damaged_chunks_are_set_aside_and_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("data"));
    let place = dir.path().join("target");
    let target = BackupTarget::dir(&place).unwrap();
    let first = store.backup(&target).unwrap();
    assert!(target.set_damaged_aside(&first.name).unwrap().is_empty());
    let mut chunks = Vec::new();
    for folder in std::fs::read_dir(place.join("chunks")).unwrap() {
        chunks.extend(std::fs::read_dir(folder.unwrap().path()).unwrap().map(|chunk| chunk.unwrap().path()));
    }
    // Flipped, cut, too long for a chunk, and gone.
    let good = std::fs::read(&chunks[0]).unwrap();
    let flipped: Vec<u8> = good.iter().map(|byte| byte ^ 1).collect();
    let bad = [Some(flipped), Some(good[..good.len() / 2].to_vec()), Some(vec![0; (4 << 20) + 1]), None];
    for (chunk, bad) in chunks.iter().zip(&bad) {
        match bad {
            Some(bad) => std::fs::write(chunk, bad).unwrap(),
            None => std::fs::remove_file(chunk).unwrap(),
        }
    }
    let mut told: Vec<_> = target.set_damaged_aside(&first.name).unwrap();
    told.sort_by_key(|error| chunks.iter().position(|chunk| error.file() == Some(chunk)));
    assert!(told.iter().all(|error| error.kind() == ErrorKind::Corrupt));
    assert_eq!(
        told.iter().filter_map(|error| error.file()).collect::<Vec<_>>(),
        chunks[..4].iter().collect::<Vec<_>>()
    );
    for (chunk, bad) in chunks.iter().zip(bad) {
        assert!(!chunk.exists());
        let aside = chunk.with_extension("damaged");
        assert_eq!(bad.is_some().then(|| std::fs::read(aside).unwrap()), bad);
    }
    // Both are whole then: they share them.
    assert_eq!(store.backup(&target).unwrap().new_chunks, 4);
    for name in target.list().unwrap().into_iter().map(|info| info.name) {
        let verified = RestoreOptions::new().backup(name).verify(&target, dir.path().join("scratch")).unwrap();
        assert!(verified.is_sound());
    }
}

/// A chunk that is cut short, or longer than it was, does not count as there.
#[test]
fn a_chunk_of_another_length_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let kept = store.producer(KEPT).unwrap();
    for n in 0..50 {
        kept.append("k", &format!("{n} {}", "x".repeat(200))).unwrap();
        store.transact(|tx| tx.table(ROWS)?.put(&n, "row")).unwrap();
    }
    store.trim().unwrap();
    let target = BackupTarget::dir(dir.path().join("target")).unwrap();
    let first = store.backup(&target).unwrap();
    let mut chunks = Vec::new();
    for folder in std::fs::read_dir(dir.path().join("target/chunks")).unwrap() {
        chunks.extend(std::fs::read_dir(folder.unwrap().path()).unwrap().map(|chunk| chunk.unwrap().path()));
    }
    assert_eq!(chunks.len() as u64, first.new_chunks);
    let (scratch, mut damaged) = (dir.path().join("scratch"), Vec::new());
    for (at, chunk) in chunks.iter().enumerate() {
        let good = std::fs::read(chunk).unwrap();
        let cut = good.len() / 2;
        let (bad, position) = match at % 2 {
            0 => (good[..cut].to_vec(), cut),
            _ => ([&good[..], b"more"].concat(), good.len()),
        };
        std::fs::write(chunk, &bad).unwrap();
        let error = RestoreOptions::new().verify(&target, &scratch).unwrap_err();
        assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&**chunk)), "{error}");
        assert_eq!(error.position(), Some(position as u64), "{error}");
        std::fs::write(chunk, good).unwrap();
        damaged.push((chunk, bad));
    }
    damaged.iter().for_each(|(chunk, bad)| std::fs::write(chunk, bad).unwrap());
    let again = store.backup(&target).unwrap();
    assert_eq!((again.new_chunks, again.new_bytes), (first.new_chunks, first.new_bytes));
    assert!(RestoreOptions::new().verify(&target, &scratch).unwrap().store.is_sound());
    assert_eq!(store.backup(&target).unwrap().new_chunks, 0);
}

/// However long it takes to copy: what came later is not in it.
#[test]
fn a_backup_is_of_the_moment_when_it_was_cut() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    clock.pass(1_000);
    let options = Store::options().manual_duties().clock(Arc::clone(&clock) as _);
    let store = options.open(dir.path().join("data")).unwrap();
    store.producer(KEPT).unwrap().append("k", "before").unwrap();
    for (by_owner, cut_ms) in [(true, 1_000_000), (false, 1_060_000)] {
        let (once, theirs) = (AtomicU32::new(0), Arc::clone(&clock));
        let target = target(move || {
            if once.fetch_add(1, Ordering::SeqCst) == 0 {
                theirs.pass(60);
            }
        });
        let made = match by_owner {
            true => store.backup(&target),
            false => StoreReader::options().clock(Arc::clone(&clock) as _).open(store.dir()).unwrap().backup(&target),
        };
        assert_eq!(target.list().unwrap()[0].taken_ms, cut_ms, "by its owner: {by_owner}");
        let restore = |ms, name: &str| {
            let restored = RestoreOptions::new().until_time(ms).restore(&target, dir.path().join(name));
            restored.map(|report| (report.backup, report.taken_ms)).map_err(|error| error.kind())
        };
        assert_eq!(restore(cut_ms - 1, "early"), Err(ErrorKind::NotFound));
        assert_eq!(restore(cut_ms, &format!("at{cut_ms}")), Ok((made.unwrap().name, cut_ms)));
    }
}

/// Marks that are taken away by hand while a backup is made: a prune may have come and gone, so it is none.
#[test]
fn a_backup_whose_mark_was_taken_away_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    store.producer(KEPT).unwrap().append("k", "x").unwrap();
    let place = dir.path().join("target");
    let (plain, pruned) = (BackupTarget::dir(&place).unwrap(), Arc::new(AtomicU32::new(0)));
    store.backup(&plain).unwrap();
    store.producer(KEPT).unwrap().append("k", "more").unwrap();
    let (theirs, count) = (plain.clone(), Arc::clone(&pruned));
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::Open(path, OpenMode::CreateNew) = event
            && path.components().any(|part| part.as_os_str() == "chunks")
            && count.fetch_add(1, Ordering::SeqCst) == 0
        {
            assert_eq!(theirs.prune(1).unwrap_err().kind(), ErrorKind::Locked);
            assert_eq!(theirs.unlock().unwrap(), 1);
            theirs.prune(1).unwrap();
        }
        Ok(())
    });
    let error = store.backup(&BackupTarget::dir_on(disk, &place).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    assert!(error.file().unwrap().starts_with(place.join("marks")), "{error}");
    assert!(pruned.load(Ordering::SeqCst) > 0);
    assert_eq!(plain.list().unwrap().len(), 1);
    assert!(RestoreOptions::new().verify(&plain, dir.path().join("scratch")).unwrap().store.is_sound());
    store.backup(&plain).unwrap();
}

/// Marks that are taken away by hand in the last moment: what was pruned then knew nothing of the manifest.
#[test]
fn a_backup_whose_mark_was_taken_away_while_it_was_named_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    store.producer(KEPT).unwrap().append("k", "x").unwrap();
    let place = dir.path().join("target");
    let plain = BackupTarget::dir(&place).unwrap();
    let first = store.backup(&plain).unwrap().name;
    store.producer(KEPT).unwrap().append("k", "more").unwrap();
    let (theirs, once) = (plain.clone(), AtomicU32::new(0));
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::Open(path, OpenMode::CreateNew) = event
            && path.parent().is_some_and(|dir| dir.ends_with("backups"))
            && once.fetch_add(1, Ordering::SeqCst) == 0
        {
            assert_eq!(theirs.unlock().unwrap(), 1);
            assert!(theirs.prune(1).unwrap().removed_chunks > 0);
        }
        Ok(())
    });
    let error = store.backup(&BackupTarget::dir_on(disk, &place).unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    let left: Vec<_> = plain.list().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(left, [first]);
    assert!(RestoreOptions::new().verify(&plain, dir.path().join("scratch")).unwrap().store.is_sound());
}

/// A slow backup ends behind one that was cut later: that one stays the newest.
#[test]
fn the_newest_backup_is_the_one_that_was_cut_last() {
    for by_owner in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("data"));
        store.producer(KEPT).unwrap().append("k", "before").unwrap();
        let disk: Arc<dyn oncelog::disk::Disk> = Arc::new(MemoryDisk::default());
        let plain = BackupTarget::dir_on(Arc::clone(&disk), "/target").unwrap();
        let (once, theirs, later) = (AtomicU32::new(0), (store.clone(), plain.clone()), Arc::new(OnceLock::new()));
        let made = Arc::clone(&later);
        let slow = over(disk, move |event| {
            if let Event::Open(path, OpenMode::CreateNew) = event
                && path.components().any(|part| part.as_os_str() == "chunks")
                && once.fetch_add(1, Ordering::SeqCst) == 0
            {
                theirs.0.producer(KEPT).unwrap().append("k", "meanwhile").unwrap();
                made.set(theirs.0.backup(&theirs.1).unwrap().name).unwrap();
            }
            Ok(())
        });
        let slow = BackupTarget::dir_on(slow, "/target").unwrap();
        let earlier = match by_owner {
            true => store.backup(&slow),
            false => StoreReader::open(store.dir()).unwrap().backup(&slow),
        };
        let (earlier, later) = (earlier.unwrap().name, later.get().unwrap());
        let listed: Vec<_> = plain.list().unwrap().into_iter().map(|info| info.name).collect();
        assert_eq!(listed.iter().collect::<Vec<_>>(), [&earlier, later]);
        let copy = restored(&plain, &dir.path().join("restored"));
        assert_eq!(copy.offsets("kept", PartitionId(0)).unwrap().1.0, 2);
        assert_eq!(plain.prune(1).unwrap().kept, [later.as_str()]);
        // Behind both comes the next.
        let next = store.backup(&plain).unwrap().name;
        assert!(next > *later, "{next} behind {later}");
    }
}

/// A folder of chunks that vanishes before its names are durable: what was in it is in no backup.
#[test]
fn chunks_that_are_taken_away_meanwhile_make_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    store.producer(KEPT).unwrap().append("k", "x").unwrap();
    let place = dir.path().join("target");
    let once = AtomicU32::new(0);
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::SyncDir(path, _) = event
            && path.parent().is_some_and(|dir| dir.ends_with("chunks"))
            && once.fetch_add(1, Ordering::SeqCst) == 0
        {
            std::fs::remove_dir_all(path).unwrap();
        }
        Ok(())
    });
    let target = BackupTarget::dir_on(disk, &place).unwrap();
    store.backup(&target).unwrap_err();
    assert!(target.list().unwrap().is_empty());
    store.backup(&target).unwrap();
    assert!(RestoreOptions::new().verify(&target, dir.path().join("scratch")).unwrap().store.is_sound());
}

/// Pruning is what makes room, so it needs none.
#[test]
fn a_full_target_can_be_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let is_full = Arc::new(AtomicBool::new(false));
    let full = Arc::clone(&is_full);
    let disk = over(Arc::new(RealDisk), move |event| match event {
        Event::Write(..) if full.load(Ordering::SeqCst) => Err(std::io::ErrorKind::StorageFull.into()),
        _ => Ok(()),
    });
    let target = BackupTarget::dir_on(disk, dir.path().join("target")).unwrap();
    for value in ["one", "two"] {
        store.producer(KEPT).unwrap().append("k", value).unwrap();
        store.backup(&target).unwrap();
    }
    store.producer(KEPT).unwrap().append("k", "three").unwrap();
    is_full.store(true, Ordering::SeqCst);
    assert_eq!(store.backup(&target).unwrap_err().kind(), ErrorKind::Full);
    assert_eq!(target.prune(1).unwrap().removed.len(), 1);
    is_full.store(false, Ordering::SeqCst);
    store.backup(&target).unwrap();
    assert_eq!(target.list().unwrap().len(), 2);
}

/// Between a look at a directory and the lock on its mark another restore makes a store of it.
#[test]
fn a_restore_into_what_has_just_become_a_store_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    store.producer(KEPT).unwrap().append("k", "x").unwrap();
    let target = BackupTarget::dir(dir.path().join("target")).unwrap();
    store.backup(&target).unwrap();
    let into = dir.path().join("restored");
    std::fs::create_dir(&into).unwrap();
    std::fs::write(into.join("RESTORING"), "").unwrap();
    let (theirs, once) = ((target.clone(), into.clone()), AtomicU32::new(0));
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::TryLock(path) = event
            && path.ends_with("RESTORING")
            && once.fetch_add(1, Ordering::SeqCst) == 0
        {
            RestoreOptions::new().restore(&theirs.0, &theirs.1).unwrap();
        }
        Ok(())
    });
    let error = RestoreOptions::new().disk(disk).restore(&target, &into).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    assert!(StoreReader::open(&into).unwrap().verify(|_| {}).unwrap().is_sound());
    assert_eq!(Store::open(&into).unwrap().offsets("kept", PartitionId(0)).unwrap().1.0, 1);
    // Or it removes all, and yet another one has begun.
    let (busy, once) = (dir.path().join("busy"), AtomicU32::new(0));
    std::fs::create_dir(&busy).unwrap();
    std::fs::copy(into.join("STORE"), busy.join("RESTORING")).unwrap();
    let begun = busy.clone();
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::TryLock(path) = event
            && path.ends_with("RESTORING")
            && once.fetch_add(1, Ordering::SeqCst) == 0
        {
            std::fs::rename(path, begun.join("old")).unwrap();
            std::fs::copy(begun.join("old"), path).unwrap();
            std::fs::remove_file(begun.join("old")).unwrap();
            std::fs::create_dir(begun.join("topics")).unwrap();
        }
        Ok(())
    });
    RestoreOptions::new().disk(disk).restore(&target, &busy).unwrap_err();
    assert!(busy.join("topics").exists() && !busy.join("owners").exists());
}
