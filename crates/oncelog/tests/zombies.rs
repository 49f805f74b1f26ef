//! An opening that has lost its lock without knowing, asleep in the middle of a trim, while another one takes the owner
//! over and goes on: what the first still writes must not be where the second has its rows.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and replaces files")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use hooked_disk::{Event, over};
use oncelog::disk::{Disk, RealDisk};
use oncelog::{
    BackupTarget, Compaction, ConsumerStyle, ErrorKind, RestoreOptions, Result, Store, StoreOptions, StoreReader,
    TableDef, TopicDef, U64, Utf8, Whence,
};

const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

/// What happens before a write to a table file.
type Moment = Box<dyn FnMut() + Send>;

/// The machine's disk, on which the moment comes before writes to a table file.
fn sleepy(moment: &Arc<Mutex<Option<Moment>>>) -> Arc<dyn Disk> {
    let moment = Arc::clone(moment);
    over(Arc::new(RealDisk), move |event| {
        if let Event::Write(path, _) = event
            && path.extension().is_some_and(|kind| kind == "table")
        {
            // Taken out: it makes writes of its own.
            let taken = moment.lock().unwrap().take();
            if let Some(mut taken) = taken {
                taken();
                moment.lock().unwrap().get_or_insert(taken);
            }
        }
        Ok(())
    })
}

fn options() -> StoreOptions {
    StoreOptions::new().journal_file_bytes(64 << 10).manual_duties()
}

fn key(n: u64) -> String {
    format!("row-{n:05}-{}", "x".repeat(80))
}

fn put(store: &Store, value: u64) {
    store
        .transact(|tx| {
            let mut rows = tx.table(ROWS)?;
            (0..300).try_for_each(|n| rows.put(&key(n), &(value * 1000 + n)))
        })
        .unwrap();
}

fn assert_all(rows: &[(String, u64)], value: u64) {
    assert!(rows.iter().map(|row| row.1).eq((0..300).map(|n| value * 1000 + n)), "other rows than those of {value}");
}

/// Somebody puts another file in the place of the manifest, so that its lock is free.
fn lose_lock(dir: &Path) {
    let manifest = dir.join("owners/main/MANIFEST");
    std::fs::copy(&manifest, manifest.with_extension("copy")).unwrap();
    std::fs::rename(manifest.with_extension("copy"), &manifest).unwrap();
}

fn table_files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir.join("owners/main/state")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn who_sleeps_in_a_trim_does_no_harm_to_who_has_taken_over() -> Result<()> {
    // Before each of the writes of its trim, until there are no more.
    for asleep_before in 0.. {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().to_owned();
        let moment = Arc::default();
        let first = options().disk(sleepy(&moment)).open(&dir)?;
        put(&first, 1);
        first.trim()?;
        put(&first, 2);
        let (second, path) = (Arc::new(Mutex::new(None)), dir.clone());
        let (theirs, mut writes) = (Arc::clone(&second), 0);
        *moment.lock().unwrap() = Some(Box::new(move || {
            if writes == asleep_before {
                lose_lock(&path);
                let store = options().open(&path).unwrap();
                assert_all(&store.snapshot().unwrap().scan(ROWS, ..).unwrap(), 2);
                put(&store, 3);
                store.trim().unwrap();
                put(&store, 4);
                *theirs.lock().unwrap() = Some(store);
            }
            writes += 1;
        }));
        let trimmed = first.trim();
        let Some(second) = second.lock().unwrap().take() else {
            trimmed?;
            *moment.lock().unwrap() = None;
            assert!(asleep_before > 2, "{asleep_before}");
            return first.close();
        };
        assert_eq!(trimmed.unwrap_err().kind(), ErrorKind::Fenced);
        drop(first);
        assert_all(&StoreReader::open(&dir)?.snapshot()?.scan(ROWS, ..)?, 3);
        assert_all(&second.snapshot()?.scan(ROWS, ..)?, 4);
        second.trim()?;
        second.close()?;
        assert_eq!(table_files(&dir).len(), 1, "the old one is gone");
        let third = options().open(&dir)?;
        assert!(third.recovery_report().clean);
        assert_all(&third.snapshot()?.scan(ROWS, ..)?, 4);
        third.close()?;
    }
    Ok(())
}

/// Its rows are not its successor's, whatever the manifest says of those.
#[test]
fn who_has_lost_the_owner_unawares_makes_no_backup() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let first = options().open(&dir)?;
    put(&first, 1);
    first.trim()?;
    put(&first, 2);
    lose_lock(&dir);
    let second = options().open(&dir)?;
    put(&second, 3);
    second.trim()?;
    let target = BackupTarget::dir(home.path().join("target"))?;
    assert_eq!(first.backup(&target).unwrap_err().kind(), ErrorKind::Fenced);
    assert!(target.list()?.is_empty());
    second.backup(&target)?;
    let copy = home.path().join("copy");
    RestoreOptions::new().restore(&target, &copy)?;
    assert_all(&StoreReader::open(&copy)?.snapshot()?.scan(ROWS, ..)?, 3);
    drop((first, second));
    Ok(())
}

/// The suspicion outlives who had it first: another one that is killed before its own file counts.
#[test]
fn who_takes_over_from_one_that_suspected_suspects_too() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let first = options().simulated_process(1).open(dir)?;
    put(&first, 1);
    first.trim()?;
    put(&first, 2);
    let before = table_files(dir);
    // As an opening of process 2 leaves it that ends before its recovery is complete: its file's name, and its own name
    // as that of the holder.
    lose_lock(dir);
    let name = before[0].file_name().unwrap().to_str().unwrap().to_owned();
    let (_, salt) = name.split_once('-').unwrap();
    std::fs::write(before[0].with_file_name(format!("0000000002-{salt}")), b"").unwrap();
    let third = options().simulated_process(3).open(dir)?;
    let after = table_files(dir);
    assert!(after.len() == 1 && after != before, "{after:?}");
    assert_all(&third.snapshot()?.scan(ROWS, ..)?, 2);
    drop(third);
    // Nobody is suspected now: it is written on.
    let fourth = options().simulated_process(4).open(dir)?;
    put(&fourth, 5);
    fourth.trim()?;
    assert_eq!(table_files(dir), after);
    drop((first, fourth));
    Ok(())
}

#[test]
fn who_has_lost_the_lock_takes_no_name_and_gives_none_back() -> Result<()> {
    const LATE: TopicDef<Utf8, U64> = TopicDef::new("late");
    const TABLE: TableDef<Utf8, U64> = TableDef::new("late-rows");
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    let asleep = options().open(&dir)?;
    lose_lock(&dir);
    // The successor makes names that the other does not know of.
    let awake = options().open(&dir)?;
    awake.producer(LATE)?.append("ann", &1)?;
    awake.transact(|tx| tx.table(TABLE)?.put("ann", &1))?;
    let mut reader = awake.consumer(LATE, ConsumerStyle::ClientTx("mail".into()))?;

    // The other wakes, and finds them in its way.
    let fenced = |error: oncelog::Error| assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    fenced(asleep.forget_consumer("mail").unwrap_err());
    fenced(asleep.create_consumers(["mail"]).unwrap_err());
    fenced(asleep.producer(LATE).and_then(|late| late.append("zombie", &2)).unwrap_err());
    fenced(asleep.transact(|tx| tx.table(TABLE)?.put("zombie", &2)).unwrap_err());
    drop(asleep);

    assert_eq!(reader.try_process(None, |_, _| Ok(oncelog::Outcome::Commit))?, 1);
    awake.producer(LATE)?.append("bob", &3)?;
    awake.trim()?;
    drop(reader);
    awake.close()?;
    let again = options().open(&dir)?;
    let read: Vec<_> = again.consumer(LATE, ConsumerStyle::NonTx(Whence::Oldest))?.collect::<Result<_>>()?;
    assert_eq!(read.len(), 2, "every record of the successor is there");
    assert_eq!(again.snapshot()?.get(TABLE, "ann")?, Some(1));
    assert_eq!(again.committed_offsets("mail", LATE.name())?, [oncelog::LogOffset(1)]);
    again.close()
}

/// A successor cuts the tails that it has written anew elsewhere, and takes away what nothing names and what it
/// deletes. Whoever still knows these files is told that it has lost the owner, not that they are damaged.
#[test]
fn who_has_lost_the_owner_is_told_so_and_not_of_damage() -> Result<()> {
    const CUT: TopicDef<Utf8, U64> = TopicDef::new("cut");
    const GONE: TopicDef<Utf8, U64> = TopicDef::new("gone");
    const DELETED: TopicDef<Utf8, U64> = TopicDef::new("deleted");
    const OTHER: TopicDef<Utf8, U64> = TopicDef::new("other");
    type Haunt = fn(&Store) -> Result<()>;
    fn reads(store: &Store, topic: TopicDef<Utf8, U64>) -> Result<()> {
        store.consumer(topic, ConsumerStyle::NonTx(Whence::Oldest))?.try_for_each(|record| record.map(drop))
    }
    let cases: [(&str, usize, Haunt); 7] = [
        ("opens and reads a file that was cut", 1, |store| reads(store, CUT)),
        ("reads a file that was cut and that it has open", 100, |store| reads(store, CUT)),
        ("reads a file that was taken away", 1, |store| reads(store, GONE)),
        ("appends to a file that was taken away", 1, |store| store.producer(GONE)?.append("zombie", &9).map(drop)),
        ("looks for a time", 1, |store| store.offset_at_time("cut", oncelog::PartitionId(0), 1 << 50).map(drop)),
        ("uses a topic that was deleted", 1, |store| store.producer(DELETED).map(drop)),
        ("asks for the end of a topic that was deleted", 1, |store| {
            store.offsets("deleted", oncelog::PartitionId(0)).map(drop)
        }),
    ];
    let mut others = Vec::new();
    for (what, files, haunt) in cases {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("store");
        let before = options().open(&dir)?;
        before.producer(DELETED)?.append("ann", &1)?;
        before.close()?;
        let asleep = options().max_open_files(files).open(&dir)?;
        let cut = asleep.producer(CUT)?;
        cut.append("ann", &1)?;
        asleep.trim()?;
        cut.append_record(None, Some("bob"), Some(&2), &[], Some(1 << 50))?;
        asleep.producer(GONE)?.append("ann", &1)?;
        // Nobody works with the others now.
        asleep.producer(OTHER)?.append("ann", &1)?;
        lose_lock(&dir);
        let awake = options().open(&dir)?;
        awake.delete_topic("deleted")?;
        match haunt(&asleep) {
            Err(told) if told.kind() == ErrorKind::Fenced => {}
            other => others.push((what, other)),
        }
        drop((cut, asleep));
        awake.close()?;
    }
    assert!(others.is_empty(), "told otherwise: {others:#?}");
    Ok(())
}

/// An opening that was overtaken while it gave compacted segments their names. Nothing of what it has named is part of
/// anything; and since nobody else would look for it before the next opening, it takes it away.
#[test]
fn who_is_overtaken_while_it_names_what_it_compacted_takes_the_names_back() -> Result<()> {
    const PRICES: TopicDef<Utf8, U64> =
        TopicDef::new("prices").file_roll_size(1024).compaction(Compaction::new().min_dirty_percent(0));
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_owned();
    let (second, path) = (Arc::new(Mutex::new(None::<Store>)), dir.clone());
    let theirs = Arc::clone(&second);
    let disk = over(Arc::new(RealDisk), move |event| {
        if matches!(event, Event::Rename(from, _) if from.to_str().unwrap().ends_with(".segment.new"))
            && theirs.lock().unwrap().is_none()
        {
            lose_lock(&path);
            // It sweeps there when the topic is first used.
            *theirs.lock().unwrap() = Some(options().open(&path).unwrap());
        }
        Ok(())
    });
    let first = options().disk(disk).open(&dir)?;
    let prices = first.producer(PRICES)?;
    for number in 0..300 {
        prices.append(&key(number % 7), &number)?;
    }
    first.trim()?;
    let all = || -> Result<Vec<u64>> {
        let found =
            StoreReader::open(&dir)?.cursor("prices", Whence::Oldest)?.map(|record| record.map(|one| one.id.offset.0));
        found.collect()
    };
    let failed = first.compact("prices").unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Fenced, "{failed}");
    let second = second.lock().unwrap().take().expect("it was overtaken");
    let named = || {
        let names =
            std::fs::read_dir(dir.join("topics/prices/000000")).unwrap().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.into_string().unwrap());
        names.filter(|name| name.len() > 40 && name.contains(".segment")).collect::<Vec<_>>()
    };
    assert_eq!(named(), Vec::<String>::new());
    assert_eq!(all()?, (0..300).collect::<Vec<_>>());
    drop((prices, first));
    assert!(second.compact("prices")?.removed_records > 200);
    assert!(!named().is_empty(), "who has the owner does give names");
    let left: Vec<_> = all()?;
    assert!(left.len() < 40 && left.ends_with(&[293, 294, 295, 296, 297, 298, 299]), "{left:?}");
    second.close()
}

/// The same at the worst moment: who sweeps has just seen the file under the name that it has while it is written.
#[test]
fn who_sweeps_while_another_names_what_it_compacted_goes_on() -> Result<()> {
    const PRICES: TopicDef<Utf8, U64> = TopicDef::new("prices");
    let home = tempfile::tempdir().unwrap();
    let first = options().open(home.path())?;
    first.producer(PRICES)?.append("mine", &7)?;
    // Killed, as far as the next opening is told.
    first.trim()?;
    lose_lock(home.path());
    let dir = home.path().join("topics/prices/000000");
    let unfinished = dir.join("00000000000000000000-0000000001-00000000000016777217.segment.new");
    std::fs::write(&unfinished, "anything").unwrap();
    let named = unfinished.with_extension("");
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::Remove(path) = event
            && path == unfinished
        {
            std::fs::rename(path, path.with_extension("")).unwrap();
        }
        Ok(())
    });
    let second = options().disk(disk).open(home.path())?;
    second.producer(PRICES)?.append("mine", &8)?;
    assert!(named.exists(), "it was not met");
    drop(first);
    let here = second.consumer(PRICES, ConsumerStyle::NonTx(Whence::Oldest))?.map(|record| record.unwrap().id.offset.0);
    assert_eq!(here.collect::<Vec<_>>(), [0, 1]);
    let beside = StoreReader::open(home.path())?.cursor("prices", Whence::Oldest)?;
    assert_eq!(beside.map(|record| record.unwrap().id.offset.0).collect::<Vec<_>>(), [0, 1]);
    second.close()
}
