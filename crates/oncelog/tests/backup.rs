//! Backups of a running store: whole at one LSN, written once, found damaged where they are, restored as they were.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/copy.rs"]
mod copy;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use copy::copy_dir;
use oncelog::{
    BackupTarget, Compression, ConsumerOptions, ConsumerStyle, ErrorKind, GapPolicy, IdempotentProducerConfig,
    LogOffset, PartitionId, RestoreOptions, Store, StoreReader, SyncPolicy, TableDef, TopicDef, U64, Utf8, Whence,
};

const LEDGER: TopicDef<Utf8, U64> = TopicDef::new("ledger").file_roll_size(8192);
const NOISE: TopicDef<Utf8, Utf8> = TopicDef::new("noise").partitions(2).file_roll_size(4096).max_total_bytes(64 << 10);
const ACCOUNTS: TableDef<U64, U64> = TableDef::new("accounts");
const POSTED: TableDef<Utf8, U64> = TableDef::new("posted");
const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines").file_roll_size(4096);
const PACKED: TopicDef<Utf8, Utf8> = TopicDef::new("packed").partitions(2).compression(Compression::Lz4);

fn open(dir: &Path) -> Store {
    Store::options()
        .journal_file_bytes(64 << 10)
        .trim_bytes(128 << 10)
        .retention_interval(Duration::from_millis(20))
        .open(dir)
        .unwrap()
}

/// A store with several segments, rows, a consumer, a producer with stamps, and frames behind the trim point.
fn fill(dir: &Path) -> Store {
    let store = Store::options().journal_file_bytes(64 << 10).open(dir).unwrap();
    let (lines, packed) = (store.producer(LINES).unwrap(), store.producer(PACKED).unwrap());
    for n in 0..100 {
        lines.append("k", &format!("line {n} {}", "y".repeat(100))).unwrap();
        packed.append(&n.to_string(), &"z".repeat(300)).unwrap();
        store.transact(|tx| tx.table(POSTED)?.put(&n.to_string(), &n)).unwrap();
    }
    let mut mail = store.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
    assert_eq!(mail.by_ref().take(10).count(), 10);
    drop(mail);
    let mut all = store.consumer(PACKED, ConsumerStyle::GlobalTx).unwrap();
    assert_eq!(all.by_ref().take(10).count(), 10);
    drop(all);
    store.trim().unwrap();
    for n in 100..120 {
        lines.append("k", &format!("line {n}")).unwrap();
        store.transact(|tx| tx.table(POSTED)?.put(&n.to_string(), &n)).unwrap();
    }
    store
}

/// All that a store shows.
fn content(dir: &Path) -> Vec<String> {
    let reader = StoreReader::open(dir).unwrap();
    assert!(reader.verify(|_| {}).unwrap().is_sound());
    reader
        .look("main", |state| {
            let mut all = Vec::new();
            for (_, spec) in state.topics()? {
                all.push(format!("{spec:?}"));
                for partition in (0..spec.partitions).map(PartitionId) {
                    all.push(format!("{:?}", state.offsets(&spec.name, partition)?));
                }
            }
            for record in state.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest))? {
                let record = record?;
                all.push(format!("{:?} {:?} {:?} {}", record.id.offset, record.key, record.value, record.timestamp_ms));
            }
            for record in state.consumer(PACKED, ConsumerStyle::NonTx(Whence::Oldest))? {
                let record = record?;
                all.push(format!("{:?} {:?} {:?} {}", record.id.offset, record.key, record.value, record.timestamp_ms));
            }
            all.push(format!("{:?}", state.snapshot()?.scan(POSTED, ..)?));
            all.push(format!("{:?} {:?}", state.consumers()?, state.tables()?));
            Ok(all)
        })
        .unwrap()
}

fn target(dir: &Path) -> BackupTarget {
    BackupTarget::dir(dir.join("target")).unwrap()
}

/// Files below a directory, with their sizes.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push((entry.path(), entry.metadata().unwrap().len()));
        }
    }
    found
}

#[test]
fn what_is_restored_is_what_was_there_record_for_record() {
    let dir = tempfile::tempdir().unwrap();
    let (data, restored) = (dir.path().join("data"), dir.path().join("restored"));
    let store = fill(&data);
    let payments = store.idempotent_producer(LINES, IdempotentProducerConfig::new("payments")).unwrap();
    payments.append("k", "once").unwrap();
    let target = target(dir.path());
    let made = store.backup(&target).unwrap();
    assert_eq!(made.store, store.id());
    let before = content(&data);
    // What comes later is not in it.
    store.producer(LINES).unwrap().append("k", "too late").unwrap();
    store.delete_topic("packed").unwrap();

    let listed = target.list().unwrap();
    assert_eq!((listed.len(), &listed[0].name, &listed[0].owners), (1, &made.name, &made.owners));
    let report = RestoreOptions::new().backup(&made.name).restore(&target, &restored).unwrap();
    assert_eq!((report.source, &report.backup, report.topics), (store.id(), &made.name, 2));
    assert_eq!((report.records, &report.owners), (221, &made.owners));
    assert_eq!(content(&restored), before);
    // Both can be open, and the copy goes on by itself.
    let copy = Store::open(&restored).unwrap();
    assert_eq!(copy.id(), report.store);
    assert_ne!(copy.id(), store.id());
    assert!(copy.recovery_report().clean);
    assert_eq!(copy.producer(LINES).unwrap().append("k", "goes on").unwrap(), LogOffset(121));
    let mut mail = copy.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
    assert_eq!(mail.next().unwrap().unwrap().id.offset, LogOffset(9), "nine were passed");
    let again = copy.idempotent_producer(LINES, IdempotentProducerConfig::new("payments")).unwrap();
    assert_eq!(again.current_sequence(), payments.current_sequence(), "what was stored stays stored");
    again.append("k", "twice").unwrap();
}

/// Threads transfer between accounts, each transfer a record and three rows in one transaction; backups are made beside
/// them by the process itself and by a reader. In each, the sum holds and records are as many as were posted.
#[test]
fn backups_beside_writers_hold_whole_transactions() {
    const ACCOUNTS_COUNT: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = open(&data);
    store.transact(|tx| (0..ACCOUNTS_COUNT).try_for_each(|n| tx.table(ACCOUNTS)?.put(&n, &1000))).unwrap();
    store.transact(|tx| tx.table(POSTED)?.put("all", &0)).unwrap();
    let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let target = target(dir.path());
    let names = std::thread::scope(|scope| {
        for seed in 1..4u64 {
            let (store, stop, done) = (&store, &stop, &done);
            scope.spawn(move || {
                let noise = store.producer(NOISE).unwrap();
                let mut state = seed;
                let mut draw = move || {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed * 2 + 1);
                    state >> 33
                };
                while !stop.load(Ordering::SeqCst) {
                    let (from, to, cents) = (draw() % ACCOUNTS_COUNT, draw() % ACCOUNTS_COUNT, draw() % 10);
                    let transferred = store.transact(|tx| {
                        let mut accounts = tx.table(ACCOUNTS)?;
                        let has = accounts.get(&from)?.unwrap();
                        let cents = cents.min(has);
                        accounts.put(&from, &(has - cents))?;
                        let has = accounts.get(&to)?.unwrap();
                        accounts.put(&to, &(has + cents))?;
                        let mut posted = tx.table(POSTED)?;
                        let count = posted.get("all")?.unwrap();
                        posted.put("all", &(count + 1))?;
                        tx.append(LEDGER, &from.to_string(), &cents)
                    });
                    transferred.unwrap();
                    noise.append(&from.to_string(), &"n".repeat(200)).unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let reader = StoreReader::open(&data).unwrap();
        let mut names = Vec::new();
        for round in 0..8 {
            let until = done.load(Ordering::SeqCst) + 100;
            while done.load(Ordering::SeqCst) < until {
                std::thread::yield_now();
            }
            let made = if round % 2 == 0 { store.backup(&target) } else { reader.backup(&target) };
            names.push(made.map(|made| made.name));
        }
        stop.store(true, Ordering::SeqCst);
        names
    });
    let mut last = 0;
    for name in names {
        let name = name.unwrap();
        let restored = dir.path().join(&name);
        RestoreOptions::new().backup(&name).restore(&target, &restored).unwrap();
        assert!(StoreReader::open(&restored).unwrap().verify(|_| {}).unwrap().is_sound());
        let store = Store::open(&restored).unwrap();
        let rows = store.snapshot().unwrap().scan(ACCOUNTS, ..).unwrap();
        assert_eq!(rows.iter().map(|(_, cents)| cents).sum::<u64>(), 1000 * ACCOUNTS_COUNT);
        let posted = store.snapshot().unwrap().get(POSTED, "all").unwrap().unwrap();
        let ledger = store.consumer(LEDGER, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
        assert_eq!(ledger.map(Result::unwrap).count() as u64, posted);
        assert!(posted > last, "each backup is later than the one before");
        last = posted;
    }
}

#[test]
fn what_is_there_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("data"));
    let lines = store.producer(LINES).unwrap();
    let round = |from: u64, to: u64| {
        for n in from..to {
            lines.append("k", &format!("{n} {}", "x".repeat(5000))).unwrap();
        }
        let rows = |tx: &mut oncelog::Tx<'_>| {
            (10 * from..10 * to).try_for_each(|n| tx.table(POSTED)?.put(&format!("{n:08} {}", "r".repeat(50)), &n))
        };
        store.transact(rows).unwrap();
        store.trim().unwrap();
    };
    round(0, 1000);
    let target = target(dir.path());
    let first = store.backup(&target).unwrap();
    assert!(first.new_bytes > 5_000_000 && first.new_bytes == first.bytes, "{first:?}");
    let again = store.backup(&target).unwrap();
    assert_eq!((again.new_bytes, again.new_chunks, again.bytes), (0, 0, first.bytes));
    round(1000, 1005);
    let more = store.backup(&target).unwrap();
    assert!(more.new_bytes < 600_000, "a segment, and the rows near those that are new: {more:?}");
    // A chunk that somebody took away is written again, whatever earlier backups say.
    let lost = files(&dir.path().join("target/chunks")).into_iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    fs::remove_file(&lost.0).unwrap();
    assert_eq!(store.backup(&target).unwrap().new_bytes, lost.1);
    // Two stores share what is the same, and a backup of one does not stand for the other.
    let other = open(&dir.path().join("other"));
    other.producer(LINES).unwrap().append("k", "other").unwrap();
    let of_other = other.backup(&target).unwrap();
    let restored = dir.path().join("restored");
    let report = RestoreOptions::new().backup(&of_other.name).restore(&target, &restored).unwrap();
    assert_eq!((report.source, report.records), (other.id(), 1));
}

#[test]
fn old_backups_go_and_the_others_stay_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = fill(&data);
    let target = target(dir.path());
    let first = store.backup(&target).unwrap().name;
    store.delete_topic("packed").unwrap();
    store.trim().unwrap();
    let second = store.backup(&target).unwrap().name;
    let before = files(&dir.path().join("target")).len();
    assert_eq!(target.prune(2).unwrap().removed_chunks, 0);
    assert_eq!(target.prune(0).unwrap_err().kind(), ErrorKind::Invalid);
    let pruned = target.prune(1).unwrap();
    assert_eq!((&pruned.removed, &pruned.kept), (&vec![first.clone()], &vec![second.clone()]));
    assert!(pruned.removed_chunks > 0);
    assert_eq!(files(&dir.path().join("target")).len() as u64, before as u64 - 1 - pruned.removed_chunks);
    let verified = RestoreOptions::new().verify(&target, dir.path().join("scratch")).unwrap();
    assert!(verified.store.is_sound() && !dir.path().join("scratch").exists());
    let gone = RestoreOptions::new().backup(&first).restore(&target, dir.path().join("r")).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    // Nobody prunes beside a backup, nor beside one whose process was killed, until somebody says so.
    let mark = dir.path().join("target/marks/backup-0000000000000001");
    fs::write(&mark, "pid 1").unwrap();
    let locked = target.prune(1).unwrap_err();
    assert_eq!((locked.kind(), locked.file()), (ErrorKind::Locked, Some(&*mark)));
    store.backup(&target).unwrap();
    fs::rename(&mark, dir.path().join("target/marks/prune-0000000000000001")).unwrap();
    assert_eq!(store.backup(&target).unwrap_err().kind(), ErrorKind::Locked);
    assert_eq!(target.unlock().unwrap(), 1);
    store.backup(&target).unwrap();
}

/// A backup that somebody has renamed, or whose number has more digits, disturbs no order.
#[test]
fn backups_go_by_their_numbers_and_others_names_do_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(&dir.path().join("data"));
    let target = target(dir.path());
    let first = store.backup(&target).unwrap().name;
    let place = |name: &str| dir.path().join(format!("target/backups/{name}.backup"));
    for name in ["before-upgrade", "99999999-latest", "7", "+0000009-00000000"] {
        fs::copy(place(&first), place(name)).unwrap();
    }
    store.delete_topic("packed").unwrap();
    let second = store.backup(&target).unwrap().name;
    assert!(first.starts_with("00000001-") && second.starts_with("00000002-"), "{first}, {second}");
    // Behind eight digits come nine, though not in the order of letters.
    fs::rename(place(&second), place("99999999-00000000")).unwrap();
    let third = store.backup(&target).unwrap().name;
    assert!(third.starts_with("100000000-"), "{third}");
    let names: Vec<_> = target.list().unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, [first.as_str(), "99999999-00000000", &third]);
    assert_eq!(RestoreOptions::new().restore(&target, dir.path().join("newest")).unwrap().backup, third);
    let pruned = target.prune(1).unwrap();
    assert_eq!((pruned.removed, pruned.kept), (names[..2].to_vec(), vec![third]));
    assert!(place("before-upgrade").exists());
    let kept = RestoreOptions::new().backup("before-upgrade").verify(&target, dir.path().join("scratch")).unwrap();
    assert!(kept.store.is_sound() && kept.restored.topics == 2);
}

/// Every object of a target damaged in turn: each way is seen, and the error names the object.
#[test]
fn damage_of_a_backup_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(&dir.path().join("data"));
    let target = target(dir.path());
    store.backup(&target).unwrap();
    let scratch = dir.path().join("scratch");
    let mut seen = 0;
    for (path, bytes) in files(&dir.path().join("target")) {
        let good = fs::read(&path).unwrap();
        let mut bad = vec![Vec::new(), good[..good.len() - 1].to_vec(), [&good[..], &[0]].concat()];
        for at in [0, bytes / 3, bytes / 2, bytes - 1] {
            let mut flipped = good.clone();
            flipped[usize::try_from(at).unwrap()] ^= 4;
            bad.push(flipped);
        }
        for bad in bad {
            fs::write(&path, bad).unwrap();
            let error = RestoreOptions::new().verify(&target, &scratch).unwrap_err();
            assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&*path)), "{error}");
            assert!(!scratch.exists());
        }
        fs::remove_file(&path).unwrap();
        let error = RestoreOptions::new().verify(&target, &scratch).unwrap_err();
        if path.extension().is_some_and(|extension| extension == "backup") {
            assert_eq!(error.kind(), ErrorKind::NotFound);
        } else {
            assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&*path)), "{error}");
            assert!(error.to_string().contains("owners/main/") || error.to_string().contains("topics/"), "{error}");
        }
        fs::write(&path, good).unwrap();
        seen += 1;
    }
    assert!(seen >= 8, "{seen} objects");
    assert!(RestoreOptions::new().verify(&target, &scratch).unwrap().store.is_sound());
}

/// Rot in the source is told, and never kept as good.
#[test]
fn damage_of_the_source_makes_no_backup() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    drop(fill(&data));
    let segment = files(&data.join("topics/lines")).into_iter().map(|(path, _)| path).min().unwrap();
    let table = files(&data.join("owners/main/state"))[0].0.clone();
    let paths = files(&data.join("topics/lines")).into_iter().map(|(path, _)| path);
    let segment = paths.filter(|path| path.extension().is_some_and(|kind| kind == "segment")).min().unwrap_or(segment);
    for (path, at) in [(&segment, 200), (&segment, 85), (&segment, 20), (&table, 8192 + 5000)] {
        let good = fs::read(path).unwrap();
        let mut bad = good.clone();
        // Of the table file, all blocks but the head: some are not in use.
        let flips = if *path == table { (at..bad.len()).step_by(512).collect() } else { vec![at] };
        flips.into_iter().for_each(|at| bad[at] ^= 1);
        fs::write(path, bad).unwrap();
        let target = target(dir.path());
        let error = StoreReader::open(&data).unwrap().backup(&target).unwrap_err();
        assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(&**path)), "{error}");
        assert!(target.list().unwrap().is_empty());
        fs::write(path, good).unwrap();
    }
    StoreReader::open(&data).unwrap().backup(&target(dir.path())).unwrap();
}

/// An owner whose manifest is gone or rotten is not left out: there is no backup, however alive the others are.
#[test]
fn an_owner_that_cannot_be_read_is_not_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let (data, target) = (dir.path().join("data"), target(dir.path()));
    let main = open(&data);
    let billing = Store::attach(&data, "billing").unwrap();
    main.producer(LINES).unwrap().append("k", "of main").unwrap();
    billing.producer(LEDGER).unwrap().append("k", &1).unwrap();
    billing.close().unwrap();
    let told = |manifest: &Path, store: Option<&Store>| {
        let made = match store {
            Some(store) => store.backup(&target),
            None => StoreReader::open(&data).unwrap().backup(&target),
        };
        let error = made.expect_err("an owner is left out");
        assert_eq!((error.kind(), error.file()), (ErrorKind::Corrupt, Some(manifest)), "{error}");
        assert!(target.list().unwrap().is_empty());
        let error = StoreReader::open(&data).unwrap().snapshot().map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    };
    let each_damage = |owner: &str, store: Option<&Store>| {
        let manifest = data.join("owners").join(owner).join("MANIFEST");
        let good = fs::read(&manifest).unwrap();
        let rotten = good.iter().map(|byte| byte ^ 1).collect::<Vec<_>>();
        for bad in [None, Some(&good[..100]), Some(&rotten[..]), Some(&[])] {
            match bad {
                None => fs::remove_file(&manifest).unwrap(),
                Some(bad) => fs::write(&manifest, bad).unwrap(),
            }
            told(&manifest, store);
            fs::write(&manifest, &good).unwrap();
        }
    };
    each_damage("billing", Some(&main));
    each_damage("billing", None);
    // A copy of it is no other owner.
    let twin = data.join("owners/twin");
    copy_dir(&data.join("owners/billing"), &twin);
    told(&twin.join("MANIFEST"), Some(&main));
    fs::remove_dir_all(&twin).unwrap();
    main.close().unwrap();
    each_damage("main", None);
    let gone = dir.path().join("gone");
    fs::rename(data.join("owners/main"), &gone).unwrap();
    told(&data.join("owners/main/MANIFEST"), None);
    fs::rename(&gone, data.join("owners/main")).unwrap();
    // What nobody has finished to make, and what is no owner, are none.
    fs::create_dir_all(data.join("owners/begun/journal")).unwrap();
    fs::write(data.join("owners/stray"), "x").unwrap();
    let made = StoreReader::open(&data).unwrap().backup(&target).unwrap();
    assert_eq!(made.owners.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["billing", "main"]);
}

#[test]
fn a_restore_takes_an_empty_directory_and_half_of_one_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = fill(&data);
    let target = target(dir.path());
    let none = RestoreOptions::new().restore(&target, dir.path().join("r")).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert!(!dir.path().join("r").exists());
    store.backup(&target).unwrap();
    let full = dir.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("photo"), "x").unwrap();
    assert_eq!(RestoreOptions::new().restore(&target, &full).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(RestoreOptions::new().restore(&target, &data).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(RestoreOptions::new().restore(&target, full.join("photo")).unwrap_err().kind(), ErrorKind::Invalid);
    // One that met damage is half restored: it says so to everybody, and can be restored again.
    let chunk = files(&dir.path().join("target/chunks")).remove(0).0;
    let good = fs::read(&chunk).unwrap();
    fs::write(&chunk, "spoilt").unwrap();
    let half = dir.path().join("half");
    assert_eq!(RestoreOptions::new().restore(&target, &half).unwrap_err().kind(), ErrorKind::Corrupt);
    let told = |error: oncelog::Error| {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("restore"), "{error}");
    };
    told(Store::open(&half).map(drop).unwrap_err());
    told(StoreReader::open(&half).map(drop).unwrap_err());
    told(Store::adopt(&half).map(drop).unwrap_err());
    told(Store::repair(&half).map(drop).unwrap_err());
    fs::write(&chunk, good).unwrap();
    RestoreOptions::new().restore(&target, &half).unwrap();
    assert_eq!(content(&half), content(&data));
}

/// A scratch directory that is anything but empty stays as it is, whatever a verification answers.
#[test]
fn a_verification_removes_only_what_it_has_made() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let store = fill(&data);
    let target = target(dir.path());
    store.backup(&target).unwrap();
    store.close().unwrap();
    let before = (files(&data), content(&data));
    let verify = |backup: Option<&str>, scratch: &Path| {
        let options = RestoreOptions::new();
        let options = backup.into_iter().fold(options, |options, name| options.backup(name));
        options
            .verify(&target, scratch)
            .map(|verified| assert!(verified.store.is_sound()))
            .map_err(|error| error.kind())
    };
    assert_eq!(verify(None, &data), Err(ErrorKind::Invalid));
    assert_eq!(verify(Some("00000001-mistyped"), &data), Err(ErrorKind::NotFound));
    assert_eq!((files(&data), content(&data)), before);
    let photos = dir.path().join("photos");
    fs::create_dir(&photos).unwrap();
    fs::write(photos.join("photo"), "x").unwrap();
    assert_eq!(verify(None, &photos), Err(ErrorKind::Invalid));
    assert!(photos.join("photo").exists());
    // Somebody else restores there.
    let busy = dir.path().join("busy");
    fs::create_dir(&busy).unwrap();
    let restoring = fs::File::create(busy.join("RESTORING")).unwrap();
    restoring.lock().unwrap();
    fs::create_dir(busy.join("topics")).unwrap();
    fs::write(busy.join("topics/half"), "x").unwrap();
    assert_eq!(verify(None, &busy), Err(ErrorKind::Locked));
    assert!(busy.join("topics/half").exists());
    drop(restoring);
    // It need not be what a restore has left.
    let mark = fs::read(data.join("STORE")).unwrap();
    for not_left in [&b""[..], &[0; 48], &mark[..20], b"a song", &[1; 48]] {
        fs::write(busy.join("RESTORING"), not_left).unwrap();
        assert_eq!(verify(None, &busy), Err(ErrorKind::Invalid), "{not_left:?}");
        assert!(busy.join("topics/half").exists());
    }
    fs::write(busy.join("RESTORING"), &mark).unwrap();
    fs::write(busy.join("photo"), "x").unwrap();
    assert_eq!(verify(None, &busy), Err(ErrorKind::Invalid));
    assert!(busy.join("topics/half").exists() && busy.join("photo").exists());
    fs::remove_file(busy.join("photo")).unwrap();
    // What it has left goes, but a link in it leads nowhere.
    #[cfg(unix)]
    std::os::unix::fs::symlink(&photos, busy.join("topics/link")).unwrap();
    assert_eq!(verify(None, &busy), Ok(()));
    assert!(!busy.exists() && photos.join("photo").exists());
    let song = dir.path().join("song");
    fs::create_dir(&song).unwrap();
    for (begun, expected) in [(&b""[..], Ok(())), (&mark[..20], Ok(())), (b"a song", Err(ErrorKind::Invalid))] {
        let _ = fs::create_dir(&song);
        fs::write(song.join("RESTORING"), begun).unwrap();
        assert_eq!(verify(None, &song), expected, "{begun:?}");
        assert_eq!(song.exists(), expected.is_err());
    }
    #[cfg(unix)]
    {
        let (link, room) = (dir.path().join("scratch"), dir.path().join("room"));
        fs::create_dir(&room).unwrap();
        std::os::unix::fs::symlink(&room, &link).unwrap();
        assert_eq!(verify(None, &link), Ok(()));
        assert_eq!((files(&room).len(), files(&photos).len()), (0, 1));
    }
}

/// Owners that read each other's topics are cut together: nobody is ahead of what he read.
#[test]
fn owners_are_cut_together() {
    const JOBS: TopicDef<Utf8, U64> = TopicDef::new("jobs");
    const BILLS: TopicDef<Utf8, U64> = TopicDef::new("bills");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (main, billing) = (open(&data), Store::attach(&data, "billing").unwrap());
    main.producer(JOBS).unwrap();
    billing.producer(BILLS).unwrap();
    let stop = AtomicBool::new(false);
    let target = target(dir.path());
    let made = std::thread::scope(|scope| {
        scope.spawn(|| {
            let jobs = main.producer(JOBS).unwrap();
            let mut n = 0;
            while !stop.load(Ordering::SeqCst) {
                jobs.append("k", &n).unwrap();
                n += 1;
            }
        });
        scope.spawn(|| {
            let mut jobs = billing.consumer(JOBS, ConsumerStyle::ClientTx("billing".into())).unwrap();
            while !stop.load(Ordering::SeqCst) {
                jobs.try_process(Some(10), |record, tx| {
                    tx.append(BILLS, "k", &record.value()?)?;
                    Ok(oncelog::Outcome::Commit)
                })
                .unwrap();
            }
        });
        let mut made = Vec::new();
        for round in 0..6 {
            std::thread::sleep(Duration::from_millis(30));
            let backup = match round % 3 {
                0 => main.backup(&target),
                1 => billing.backup(&target),
                _ => StoreReader::open(&data).unwrap().backup(&target),
            };
            made.push(backup.map(|made| made.name));
        }
        stop.store(true, Ordering::SeqCst);
        made
    });
    let mut last = 0;
    for name in made {
        let restored = dir.path().join(name.as_ref().unwrap());
        let report = RestoreOptions::new().backup(name.unwrap()).restore(&target, &restored).unwrap();
        assert_eq!(report.owners.len(), 2);
        let (main, billing) = (Store::open(&restored).unwrap(), Store::attach(&restored, "billing").unwrap());
        let end = main.offsets("jobs", PartitionId(0)).unwrap().1;
        let read = billing.committed_offsets("billing", "jobs").unwrap()[0];
        let billed = billing.offsets("bills", PartitionId(0)).unwrap().1;
        assert!(read <= end && read == billed && read.0 >= last, "{read} read of {end}, {billed} billed");
        last = read.0;
    }
    assert!(last > 0, "nothing was read");
}

fn archived(target: &BackupTarget) -> oncelog::StoreOptions {
    Store::options()
        .journal_file_bytes(64 << 10)
        .trim_bytes(32 << 10)
        .journal_archive(target.clone())
        .archive_interval(Duration::from_millis(50))
}

/// The values of `lines`, as the store in `dir` shows them, and the LSN up to which it was restored.
fn lines_of(dir: &Path) -> Vec<String> {
    assert!(StoreReader::open(dir).unwrap().verify(|_| {}).unwrap().is_sound());
    let store = Store::open(dir).unwrap();
    let lines = store.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
    lines.map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap()).collect()
}

fn wait_for_archive(store: &Store) {
    store.trim().unwrap();
    for _ in 0..500 {
        if store.stats().archive_behind_bytes == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{:?}", store.stats());
}

/// Between two backups any frame can be had: also over crashes, over topics that came and went, and a backup is not
/// needed for what the archive holds.
#[test]
fn any_point_between_backups_can_be_had() {
    const BRIEF: TopicDef<Utf8, Utf8> = TopicDef::new("brief");
    const LAX: TopicDef<Utf8, U64> = TopicDef::new("lax");
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let target = target(dir.path());
    let mut points = Vec::new();
    let mut n = 0;
    let mut first = None;
    for opening in 0..4 {
        let store = archived(&target).open(&data).unwrap();
        let lines = store.producer(LINES).unwrap();
        // Answered before they are durable: behind a crash their offsets go on at a bound, which no frame tells of.
        let lax = store.producer(LAX).unwrap().sync_policy(SyncPolicy::Os);
        if first.is_none() {
            lines.append("k", "before").unwrap();
            first = Some(store.backup(&target).unwrap());
        }
        for round in 0..30 {
            lines.append("k", &format!("line {n} {}", "y".repeat(500))).unwrap();
            store.transact(|tx| tx.table(POSTED)?.put(&(n % 7).to_string(), &n)).unwrap();
            lax.append("k", &n).unwrap();
            n += 1;
            if round == 10 {
                store.producer(BRIEF).unwrap().append("b", &opening.to_string()).unwrap();
            }
            if round == 20 {
                store.delete_topic("brief").unwrap();
            }
            if round % 9 == 0 {
                let visible = store.backup(&BackupTarget::dir(dir.path().join(format!("p{n}"))).unwrap()).unwrap();
                points.push((visible.owners[0].1, n, round));
            }
        }
        wait_for_archive(&store);
        if opening % 2 == 0 {
            // As a crash leaves it: the copy is what goes on.
            let copy = dir.path().join("copy");
            copy_dir(&data, &copy);
            drop(store);
            fs::remove_dir_all(&data).unwrap();
            fs::rename(&copy, &data).unwrap();
        } else {
            store.close().unwrap();
        }
    }
    for (lsn, count, round) in points {
        let restored = dir.path().join(format!("r{lsn}"));
        let report = RestoreOptions::new().until_lsn("main", lsn).restore(&target, &restored).unwrap();
        assert_eq!((report.owners[0].1, &report.backup), (lsn, &first.as_ref().unwrap().name));
        let lines = lines_of(&restored);
        assert_eq!(lines.len() as u64, count + 1, "at {lsn}");
        assert!(lines[usize::try_from(count).unwrap()].starts_with(&format!("line {} ", count - 1)));
        let store = Store::open(&restored).unwrap();
        let lax = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).on_gap(GapPolicy::Skip);
        let lax: Vec<u64> = store
            .consumer(LAX, lax)
            .unwrap()
            .map(|record| u64::from_be_bytes(record.unwrap().value.unwrap()[..].try_into().unwrap()))
            .collect();
        assert!(lax.iter().copied().eq(0..lax.len() as u64) && lax.len() as u64 + 1 >= count, "{lax:?} of {count}");
        assert_eq!(store.snapshot().unwrap().get(POSTED, &((count - 1) % 7).to_string()).unwrap(), Some(count - 1));
        assert_eq!(store.offsets("brief", PartitionId(0)).is_ok(), (10..20).contains(&round), "at round {round}");
    }
    // A gap is told with its frames, and what lies behind the end too.
    let folder = fs::read_dir(dir.path().join("target/journal")).unwrap().next().unwrap().unwrap().path().join("main");
    let mut pieces: Vec<_> = fs::read_dir(&folder).unwrap().map(|piece| piece.unwrap().path()).collect();
    pieces.sort();
    assert!(pieces.len() > 4, "{pieces:?}");
    let frames = |piece: &Path| {
        let name = piece.file_stem().unwrap().to_str().unwrap();
        let mut numbers = name.split('-').take(2).map(|number| number.parse::<u64>().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    };
    let last = frames(pieces.last().unwrap()).1;
    let until = |lsn: u64| {
        let into = dir.path().join("gap");
        let error = RestoreOptions::new().until_lsn("main", oncelog::Lsn(lsn)).restore(&target, &into).unwrap_err();
        assert!(Store::open(&into).is_err());
        error
    };
    assert_eq!(until(last + 1).kind(), ErrorKind::NotFound);
    let hidden = &pieces[pieces.len() / 2];
    let (from, to) = frames(hidden);
    let good = fs::read(hidden).unwrap();
    fs::remove_file(hidden).unwrap();
    let gap = until(last);
    assert_eq!(gap.kind(), ErrorKind::Gap);
    assert!(gap.to_string().contains(&format!("{from} to {to}")), "{gap}");
    fs::write(hidden, &good[..good.len() - 1]).unwrap();
    let damaged = until(last);
    assert_eq!((damaged.kind(), damaged.file()), (ErrorKind::Corrupt, Some(&**hidden)));
    fs::write(hidden, good).unwrap();
    // What a later backup holds goes with the earlier ones.
    let store = archived(&target).open(&data).unwrap();
    wait_for_archive(&store);
    store.backup(&target).unwrap();
    assert!(target.prune(1).unwrap().removed_pieces > 4);
}

/// A backup does not hold the segments of a topic that its own frames delete: up to before that it is of no use.
#[test]
fn what_a_backup_has_left_out_is_not_restored_without() {
    let dir = tempfile::tempdir().unwrap();
    let store = fill(&dir.path().join("data"));
    let (target, elsewhere) = (target(dir.path()), BackupTarget::dir(dir.path().join("elsewhere")).unwrap());
    let before = store.backup(&elsewhere).unwrap().owners[0].1;
    store.delete_topic("packed").unwrap();
    let made = store.backup(&target).unwrap();
    assert!(made.owners[0].1 > before);
    let restore = |options: RestoreOptions, name: &str| {
        let restored = options.restore(&target, dir.path().join(name));
        restored.map(|report| report.topics).map_err(|error| (error.kind(), error.to_string().contains("segment")))
    };
    let until = RestoreOptions::new().until_lsn("main", before);
    assert_eq!(restore(until.clone(), "newest"), Err((ErrorKind::NotFound, false)));
    assert_eq!(restore(until.backup(&made.name), "named"), Err((ErrorKind::NotFound, true)));
    assert_eq!(restore(RestoreOptions::new(), "whole"), Ok(1));
}

#[test]
fn a_time_between_backups_can_be_had() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let target = target(dir.path());
    let store = archived(&target).open(&data).unwrap();
    let lines = store.producer(LINES).unwrap();
    store.backup(&target).unwrap();
    let now_ms = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        i64::try_from(now.as_millis()).unwrap()
    };
    lines.append("k", "first").unwrap();
    wait_for_archive(&store);
    std::thread::sleep(Duration::from_millis(20));
    let between = now_ms();
    std::thread::sleep(Duration::from_millis(20));
    lines.append("k", "second").unwrap();
    wait_for_archive(&store);
    let restore = |ms, name: &str| {
        let into = dir.path().join(name);
        RestoreOptions::new().until_time(ms).restore(&target, &into).map(|report| (report, lines_of(&into)))
    };
    let (report, found) = restore(between, "one").unwrap();
    assert_eq!(found, ["first"]);
    assert!(report.newest_ms <= between && report.newest_ms > between - 10_000);
    assert_eq!(restore(now_ms(), "two").unwrap().1, ["first", "second"]);
    assert_eq!(restore(1_000, "never").unwrap_err().kind(), ErrorKind::NotFound);
}

/// Until when all is there is said of the owner that is least far, whatever the archive of another one holds.
#[test]
fn what_is_newest_is_said_of_all_owners() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let target = target(dir.path());
    let store = archived(&target).open(&data).unwrap();
    // Its frames are archived by nobody.
    let other = Store::attach(&data, "other").unwrap();
    let lines = store.producer(LINES).unwrap();
    let made = store.backup(&target).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    lines.append("k", "later").unwrap();
    wait_for_archive(&store);
    let into = dir.path().join("restored");
    let report = RestoreOptions::new().until_time(i64::MAX).restore(&target, &into).unwrap();
    assert!(report.owners[0].1 > made.owners[0].1, "{report:?} of {made:?}");
    assert_eq!(report.newest_ms, report.taken_ms);
    drop(other);
}

/// Another disk comes in the place of the one with the backups: it is written as any new one.
#[test]
fn a_target_that_is_made_anew_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, place) = (dir.path().join("data"), dir.path().join("target"));
    let target = target(dir.path());
    let store = archived(&target).open(&data).unwrap();
    let lines = store.producer(LINES).unwrap();
    lines.append("k", "before").unwrap();
    wait_for_archive(&store);
    store.backup(&target).unwrap();
    fs::rename(&place, dir.path().join("away")).unwrap();
    fs::create_dir(&place).unwrap();
    lines.append("k", "between").unwrap();
    wait_for_archive(&store);
    store.backup(&target).unwrap();
    lines.append("k", "behind").unwrap();
    wait_for_archive(&store);
    let into = dir.path().join("restored");
    RestoreOptions::new().until_time(i64::MAX).restore(&target, &into).unwrap();
    assert_eq!(lines_of(&into), ["before", "between", "behind"]);
}

/// A target that cannot be written holds nothing up, until what waits for it is too much; then it is told, and all is
/// there when it can be written again.
#[test]
fn an_archive_that_cannot_be_written_is_told_and_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let (data, place) = (dir.path().join("data"), dir.path().join("target"));
    let target = target(dir.path());
    let options = || archived(&target).archive_spool_bytes(300 << 10);
    let store = options().open(&data).unwrap();
    let lines = store.producer(LINES).unwrap();
    lines.append("k", "before").unwrap();
    wait_for_archive(&store);
    store.backup(&target).unwrap();
    fs::rename(&place, dir.path().join("away")).unwrap();
    fs::write(&place, "in the way").unwrap();
    let mut appended = 0;
    let refused = loop {
        match lines.append("k", &"x".repeat(2000)) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
        assert!(appended < 5000, "{:?}", store.stats());
        if appended % 20 == 0 {
            store.trim().unwrap();
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(appended > 100, "{appended}");
    let stats = store.stats();
    assert!(stats.archive_failures > 0 && stats.archive_behind_bytes >= 300 << 10, "{stats:?}");
    // Closed and opened meanwhile: it is remembered.
    store.close().unwrap();
    let store = options().open(&data).unwrap();
    let lines = store.producer(LINES).unwrap();
    assert_eq!(lines.append("k", "no").unwrap_err().kind(), ErrorKind::Full);
    fs::remove_file(&place).unwrap();
    fs::rename(dir.path().join("away"), &place).unwrap();
    wait_for_archive(&store);
    let end = lines.append("k", "again").unwrap();
    assert_eq!(end, LogOffset(appended + 1));
    wait_for_archive(&store);
    let into = dir.path().join("restored");
    let far = i64::MAX;
    RestoreOptions::new().until_time(far).restore(&target, &into).unwrap();
    assert_eq!(lines_of(&into).len() as u64, appended + 2);
}
