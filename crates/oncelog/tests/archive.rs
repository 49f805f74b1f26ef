//! The archive of the journal: what is missing in it is told at once, two histories are never mixed, and several owners
//! are brought to points that fit each other.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/copy.rs"]
mod copy;
#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use copy::copy_dir;
use hooked_disk::{Event, over};
use oncelog::clock::Clock;
use oncelog::disk::RealDisk;
use oncelog::{
    BackupTarget, ConsumerOptions, ConsumerStyle, ErrorKind, GapPolicy, Lsn, Outcome, PartitionId, RestoreOptions,
    RestoreReport, Store, StoreOptions, StoreReader, SyncPolicy, TableDef, TopicDef, U64, Utf8, Whence,
};

const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines").file_roll_size(4096);
const JOBS: TopicDef<Utf8, U64> = TopicDef::new("jobs");
const ROWS: TableDef<U64, U64> = TableDef::new("rows");
const BILLS: TopicDef<Utf8, U64> = TopicDef::new("bills");

/// Each look at it is a millisecond later.
#[derive(Default)]
struct Ticking(AtomicI64);

impl Clock for Ticking {
    fn now_ms(&self) -> i64 {
        1 + self.0.fetch_add(1, Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst).unsigned_abs())
    }

    fn sleep(&self, _: Duration) {}
}

struct Place {
    dir: tempfile::TempDir,
    clock: Arc<Ticking>,
    target: BackupTarget,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let target = BackupTarget::dir(dir.path().join("target")).unwrap();
        Place { dir, clock: Arc::default(), target }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Archived when it is trimmed.
    fn archived(&self) -> StoreOptions {
        self.plain().journal_archive(self.target.clone()).archive_interval(Duration::from_secs(1 << 20))
    }

    fn plain(&self) -> StoreOptions {
        Store::options().journal_file_bytes(64 << 10).clock(Arc::clone(&self.clock) as _).manual_duties()
    }

    fn restore(&self, options: RestoreOptions, name: &str) -> oncelog::Result<(RestoreReport, Vec<String>)> {
        let into = self.path(name);
        let report = options.restore(&self.target, &into)?;
        assert!(StoreReader::open(&into).unwrap().verify(|_| {}).unwrap().is_sound());
        let store = Store::open(&into).unwrap();
        let lines = store.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
        let lines = lines.map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap()).collect();
        Ok((report, lines))
    }
}

/// Appended, archived, and the time behind it.
fn write(store: &Store, place: &Place, lines: &[&str]) -> i64 {
    let producer = store.producer(LINES).unwrap();
    for line in lines {
        producer.append("k", line).unwrap();
        store.trim().unwrap();
    }
    store.run_duties().unwrap();
    assert_eq!(store.stats().archive_behind_bytes, 0);
    place.clock.now_ms()
}

/// A machine is set back to an older image of its disk and goes on: its second history has the names, epochs and LSNs
/// of the first.
#[test]
fn two_histories_are_never_mixed() {
    let place = Place::new();
    let (data, image) = (place.path("data"), place.path("image"));
    let store = place.archived().open(&data).unwrap();
    write(&store, &place, &["before"]);
    let first = store.backup(&place.target).unwrap().name;
    write(&store, &place, &["shared"]);
    store.close().unwrap();
    copy_dir(&data, &image);
    // Pieces of both end at the same frames, as long as they can.
    let store = place.archived().open(&data).unwrap();
    let at_a1 = write(&store, &place, &["a1"]);
    let of_a = store.backup(&place.target).unwrap().name;
    let at_a3 = write(&store, &place, &["a2", "a3"]);
    store.close().unwrap();
    fs::remove_dir_all(&data).unwrap();
    copy_dir(&image, &data);
    let store = place.archived().open(&data).unwrap();
    let at_b1 = write(&store, &place, &["b1"]);
    let of_b = store.backup(&place.target).unwrap().name;
    let at_b3 = write(&store, &place, &["b2", "b3", "b4"]);
    store.close().unwrap();

    let until = |backup: &str, ms: i64| RestoreOptions::new().backup(backup).until_time(ms);
    let (report, lines) = place.restore(until(&first, i64::MAX), "newest").unwrap();
    assert_eq!(lines, ["before", "shared", "b1", "b2", "b3", "b4"]);
    assert_eq!(report.other_histories.len(), 1, "{report:?}");
    for (name, backup, ms, expected) in [
        ("a1", &first, at_a1, &["before", "shared", "a1"][..]),
        ("a3", &first, at_a3, &["before", "shared", "a1", "a2", "a3"]),
        ("b1", &first, at_b1, &["before", "shared", "b1"]),
        ("b3", &first, at_b3, &["before", "shared", "b1", "b2", "b3", "b4"]),
        // A backup belongs to one of them.
        ("of a", &of_a, i64::MAX, &["before", "shared", "a1", "a2", "a3"]),
        ("of b", &of_b, i64::MAX, &["before", "shared", "b1", "b2", "b3", "b4"]),
    ] {
        assert_eq!(place.restore(until(backup, ms), name).unwrap().1, expected, "{name}");
    }
    // Where the frames of one end, it is not gone on with those of the other.
    let end = |name: &String| {
        place.target.list().unwrap().into_iter().find(|info| info.name == *name).unwrap().archives[0].until
    };
    let (of_a_end, of_b_end) = (end(&of_a), end(&of_b));
    assert!(of_a_end < of_b_end);
    let beyond = RestoreOptions::new().backup(&of_a).until_lsn("main", of_b_end);
    assert_eq!(place.restore(beyond, "beyond").unwrap_err().kind(), ErrorKind::NotFound);
    let verified = RestoreOptions::new().backup(&first).verify(&place.target, place.path("scratch")).unwrap();
    assert!(verified.is_sound());
    let reach = &verified.archives[0];
    assert_eq!((reach.until, reach.gap, reach.other_history), (of_b_end, None, Some(of_a_end)));
}

/// A backup that is kept keeps the frames behind it, whatever the numbers of others say: of a machine that was set back
/// the newer one may be of an earlier frame. So does one that somebody has given a name of his own.
#[test]
fn frames_behind_any_backup_that_is_kept_stay() {
    let place = Place::new();
    let (data, image) = (place.path("data"), place.path("image"));
    let store = place.archived().open(&data).unwrap();
    let first = store.backup(&place.target).unwrap().name;
    write(&store, &place, &["shared"]);
    store.close().unwrap();
    copy_dir(&data, &image);
    let store = place.archived().open(&data).unwrap();
    write(&store, &place, &["a1", "a2", "a3", "a4", "a5", "a6"]);
    store.backup(&place.target).unwrap();
    store.close().unwrap();
    fs::remove_dir_all(&data).unwrap();
    copy_dir(&image, &data);
    let store = place.archived().open(&data).unwrap();
    let of_b = store.backup(&place.target).unwrap().name;
    write(&store, &place, &["b1", "b2"]);
    let pruned = place.target.prune(2).unwrap();
    assert_eq!(pruned.removed, [first]);
    assert!(pruned.removed_pieces > 0, "{pruned:?}");
    let until = |backup: &str| RestoreOptions::new().backup(backup).until_time(i64::MAX);
    assert_eq!(place.restore(until(&of_b), "b").unwrap().1, ["shared", "b1", "b2"]);

    let named = |name: &str| place.path(&format!("target/backups/{name}.backup"));
    fs::rename(named(&of_b), named("before-upgrade")).unwrap();
    let newest = store.backup(&place.target).unwrap().name;
    write(&store, &place, &["b3"]);
    assert_eq!(place.target.prune(1).unwrap().kept, [newest]);
    assert_eq!(place.restore(until("before-upgrade"), "named").unwrap().1, ["shared", "b1", "b2", "b3"]);
    fs::remove_file(named("before-upgrade")).unwrap();
    assert!(place.target.prune(1).unwrap().removed_pieces > 0);
    let newest = RestoreOptions::new().until_time(i64::MAX);
    assert_eq!(place.restore(newest, "newest").unwrap().1, ["shared", "b1", "b2", "b3"]);
}

/// What an opening without the option has given up is told by the next one with it, and by whoever lists.
#[test]
fn a_gap_is_told_when_it_is_made_and_where_it_is() {
    let place = Place::new();
    let data = place.path("data");
    let store = place.archived().open(&data).unwrap();
    assert_eq!((store.recovery_report().archive_gap, store.stats().archive_from), (None, Some(Lsn(1))));
    let first = store.backup(&place.target).unwrap();
    write(&store, &place, &["kept"]);
    store.close().unwrap();
    let store = place.plain().open(&data).unwrap();
    assert_eq!((store.recovery_report().archive_gap, store.stats().archive_from), (None, None));
    store.producer(LINES).unwrap().append("k", "given up").unwrap();
    store.close().unwrap();
    // An opening that gives nothing up makes no gap.
    for round in 0..3 {
        let store = place.archived().open(&data).unwrap();
        let report = store.recovery_report();
        if round == 0 {
            let from = report.archive_gap.expect("a gap");
            assert!(report.to_string().contains(&format!("begins anew at frame {from}")), "{report}");
            write(&store, &place, &["behind"]);
            assert_eq!(store.stats().archive_from, Some(from));
        } else {
            assert_eq!(report.archive_gap, None, "{round}");
        }
        store.close().unwrap();
        if round == 1 {
            place.plain().open(&data).unwrap().close().unwrap();
        }
    }
    let listed = place.target.list().unwrap();
    let reach = &listed[0].archives[0];
    let (missing, last) = reach.gap.expect("a gap");
    assert_eq!((reach.owner.as_str(), reach.until.next()), ("main", missing));
    assert!(missing > first.owners[0].1 && missing <= last, "{reach:?}");
    let scratch = place.path("scratch");
    let verified = RestoreOptions::new().verify(&place.target, &scratch).unwrap();
    assert_eq!((verified.is_sound(), verified.archives[0].gap), (true, Some((missing, last))));
    let far = || RestoreOptions::new().until_time(i64::MAX);
    let told = place.restore(far(), "gap").unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Gap);
    assert!(told.to_string().contains(&format!("frames {missing} to {last} ")), "{told}");
    // The next backup needs them no more.
    let store = place.archived().open(&data).unwrap();
    store.backup(&place.target).unwrap();
    write(&store, &place, &["again"]);
    let listed = place.target.list().unwrap();
    assert_eq!((listed[0].archives[0].gap.is_some(), listed[1].archives[0].gap), (true, None));
    assert_eq!(place.restore(far(), "whole").unwrap().1, ["kept", "given up", "behind", "again"]);
}

/// A file of the spool that has rotted keeps nothing from being archived but its own frames.
#[test]
fn a_rotten_file_of_the_spool_is_set_aside() {
    let place = Place::new();
    let data = place.path("data");
    let store = place.archived().open(&data).unwrap();
    write(&store, &place, &["first"]);
    store.backup(&place.target).unwrap();
    let lines = store.producer(LINES).unwrap();
    for line in ["one", "two", "three"] {
        lines.append("k", line).unwrap();
        store.trim().unwrap();
    }
    let spool = data.join("owners/main/archive");
    let spooled = |kind: &str| {
        let mut found: Vec<_> = fs::read_dir(&spool).unwrap().map(|file| file.unwrap().path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == kind));
        found.sort();
        found
    };
    let pieces = spooled("frames");
    assert_eq!(pieces.len(), 3);
    let mut bytes = fs::read(&pieces[1]).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&pieces[1], &bytes).unwrap();
    store.run_duties().unwrap();
    let stats = store.stats();
    assert_eq!((stats.archive_behind_bytes, stats.archive_set_aside, stats.archive_failures), (0, 1, 1));
    assert_eq!((spooled("frames").len(), spooled("damaged").len()), (0, 1));
    assert_eq!(fs::read(&spooled("damaged")[0]).unwrap(), bytes);
    let frame = |path: &Path| path.file_name().unwrap().to_str().unwrap()[..20].parse().map(Lsn).unwrap();
    let missing = (frame(&pieces[1]), Lsn(frame(&pieces[2]).0 - 1));
    assert_eq!(place.target.list().unwrap()[0].archives[0].gap, Some(missing));
    let verified = RestoreOptions::new().verify(&place.target, place.path("scratch")).unwrap();
    assert_eq!(verified.archives[0].gap, Some(missing));
    // It is remembered, until somebody has looked into it.
    store.close().unwrap();
    let store = place.archived().open(&data).unwrap();
    assert_eq!(store.stats().archive_set_aside, 1);
    store.backup(&place.target).unwrap();
    write(&store, &place, &["again"]);
    let far = RestoreOptions::new().until_time(i64::MAX);
    assert_eq!(place.restore(far, "whole").unwrap().1, ["first", "one", "two", "three", "again"]);
}

/// A sector that cannot be read any more is rot too: what is behind it is archived, and it is given up in the end.
#[test]
fn a_file_of_the_spool_that_cannot_be_read_holds_up_nothing() {
    let place = Place::new();
    let oldest = Arc::new(std::sync::Mutex::new(None::<PathBuf>));
    let seen = Arc::clone(&oldest);
    let disk = over(Arc::new(RealDisk), move |event| match event {
        Event::Read(path) if seen.lock().unwrap().as_deref() == Some(path) => {
            Err(std::io::Error::other("a bad sector"))
        }
        _ => Ok(()),
    });
    let data = place.path("data");
    let store = place.archived().disk(disk).open(&data).unwrap();
    write(&store, &place, &["first"]);
    store.backup(&place.target).unwrap();
    let lines = store.producer(LINES).unwrap();
    for line in ["one", "two", "three"] {
        lines.append("k", line).unwrap();
        store.trim().unwrap();
    }
    let spooled = || {
        let files = fs::read_dir(data.join("owners/main/archive")).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.collect();
        files.sort();
        files
    };
    let bad = spooled().remove(0);
    *oldest.lock().unwrap() = Some(bad.clone());
    store.run_duties().unwrap();
    assert_eq!(spooled(), std::slice::from_ref(&bad), "the others are in the archive");
    assert_eq!((store.stats().archive_set_aside, store.stats().archive_failures), (0, 1));
    (0..8).for_each(|_| store.run_duties().unwrap());
    assert_eq!(spooled(), [bad.with_extension("frames.damaged")]);
    let stats = store.stats();
    assert_eq!((stats.archive_set_aside, stats.archive_behind_bytes), (1, 0));
    assert!(place.target.list().unwrap()[0].archives[0].gap.is_some());
}

/// What a killed opening was writing to the spool goes with the next one that writes there.
#[test]
fn unfinished_files_of_the_spool_go() {
    let place = Place::new();
    let data = place.path("data");
    let store = place.archived().open(&data).unwrap();
    write(&store, &place, &["one"]);
    store.close().unwrap();
    let left = data.join("owners/main/archive/00000000000000000007.1.new");
    fs::write(&left, "half").unwrap();
    let store = place.archived().open(&data).unwrap();
    write(&store, &place, &["two"]);
    assert!(!left.exists());
}

/// A piece that the target does not take, for whatever reason of its own, is tried again and holds up nothing.
#[test]
fn a_piece_that_the_target_refuses_holds_up_nothing() {
    let place = Place::new();
    let (refused, is_refused) = (Arc::new(std::sync::Mutex::new(None::<PathBuf>)), Arc::new(AtomicI64::new(1)));
    let (first, flag) = (Arc::clone(&refused), Arc::clone(&is_refused));
    let disk = over(Arc::new(RealDisk), move |event| {
        if let Event::Rename(_, to) = event
            && to.components().any(|part| part.as_os_str() == "journal")
            && flag.load(Ordering::SeqCst) == 1
            && *first.lock().unwrap().get_or_insert_with(|| to.to_owned()) == to
        {
            return Err(std::io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    });
    let target = BackupTarget::dir_on(disk, place.path("target")).unwrap();
    let store = place.plain().journal_archive(target).archive_interval(Duration::from_secs(1 << 20));
    let store = store.open(place.path("data")).unwrap();
    store.backup(&place.target).unwrap();
    let lines = store.producer(LINES).unwrap();
    for line in ["one", "two", "three"] {
        lines.append("k", line).unwrap();
        store.trim().unwrap();
    }
    for _ in 0..3 {
        store.run_duties().unwrap();
        let spool = fs::read_dir(place.path("data/owners/main/archive")).unwrap();
        assert_eq!(spool.count(), 1, "only the one that is refused");
    }
    is_refused.store(0, Ordering::SeqCst);
    store.run_duties().unwrap();
    assert_eq!(store.stats().archive_behind_bytes, 0);
    let far = RestoreOptions::new().until_time(i64::MAX);
    assert_eq!(place.restore(far, "whole").unwrap().1, ["one", "two", "three"]);
}

/// Frames that waited for the target when the store was adopted are those of what it was called then.
#[test]
fn what_waits_when_a_store_is_adopted_comes_to_its_archive() {
    let place = Place::new();
    let data = place.path("data");
    let store = place.archived().open(&data).unwrap();
    let before = store.backup(&place.target).unwrap();
    fs::rename(place.path("target"), place.path("away")).unwrap();
    fs::write(place.path("target"), "in the way").unwrap();
    store.producer(LINES).unwrap().append("k", "waits").unwrap();
    store.close().unwrap();
    fs::remove_file(place.path("target")).unwrap();
    fs::rename(place.path("away"), place.path("target")).unwrap();
    let adopted = Store::adopt(&data).unwrap();
    assert_ne!(adopted, before.store);
    let store = place.archived().open(&data).unwrap();
    store.run_duties().unwrap();
    assert_eq!((store.stats().archive_set_aside, store.stats().archive_behind_bytes), (0, 0));
    let far = RestoreOptions::new().backup(&before.name).until_time(i64::MAX);
    assert_eq!(place.restore(far, "before").unwrap().1, ["waits"]);
}

/// A point is of an owner that the backup has; whom it leaves out is told.
#[test]
fn owners_that_the_backup_does_not_have_are_told() {
    let place = Place::new();
    let data = place.path("data");
    let main = place.archived().open(&data).unwrap();
    let made = main.backup(&place.target).unwrap();
    write(&main, &place, &["one", "two"]);
    let late = place.archived().attach(&data, "late").unwrap();
    late.producer(BILLS).unwrap().append("b", &1).unwrap();
    late.trim().unwrap();
    late.run_duties().unwrap();
    let options = || RestoreOptions::new().backup(&made.name);
    for (owner, lsn) in [("mian", 2), ("late", 1)] {
        let told = place.restore(options().until_lsn(owner, Lsn(lsn)), &format!("to {owner}")).unwrap_err();
        assert_eq!(told.kind(), ErrorKind::NotFound, "{told}");
        assert!(told.to_string().contains(owner), "{told}");
    }
    let (report, lines) = place.restore(options().until_time(i64::MAX).replay_bytes(0), "newest").unwrap();
    assert_eq!((lines, report.left_out), (vec!["one".to_owned(), "two".to_owned()], vec!["late".to_owned()]));
    let again = main.backup(&place.target).unwrap();
    let (report, _) = place.restore(RestoreOptions::new().until_time(i64::MAX), "again").unwrap();
    assert_eq!((report.backup, report.left_out), (again.name, Vec::new()));
}

/// One owner gives a name up and another one takes it: no point has it twice.
#[test]
fn a_name_that_goes_from_owner_to_owner_is_restored_once() {
    const BRIEF: TopicDef<Utf8, Utf8> = TopicDef::new("brief");
    let place = Place::new();
    let data = place.path("data");
    let main = place.archived().open(&data).unwrap();
    let billing = place.archived().attach(&data, "billing").unwrap();
    billing.producer(BRIEF).unwrap().append("b", "of billing").unwrap();
    write(&main, &place, &["one"]);
    let made = main.backup(&place.target).unwrap().name;
    billing.delete_topic("brief").unwrap();
    main.producer(BRIEF).unwrap().append("b", "of main").unwrap();
    write(&main, &place, &["two"]);
    billing.trim().unwrap();
    billing.run_duties().unwrap();
    let newest = place.target.list().unwrap()[0].archives.iter().find(|reach| reach.owner == "main").unwrap().until;
    let options = || RestoreOptions::new().backup(&made);
    // Billing stays as the backup has it.
    let told = place.restore(options().until_lsn("main", newest), "to main").unwrap_err();
    assert_eq!(told.kind(), ErrorKind::Conflict, "{told}");
    for part in ["brief", "main", "billing"] {
        assert!(told.to_string().contains(part), "{told}");
    }
    let (_, lines) = place.restore(options().until_time(i64::MAX), "both").unwrap();
    assert_eq!(lines, ["one", "two"]);
    let both = Store::open(place.path("both")).unwrap();
    assert_eq!(both.offsets("brief", PartitionId(0)).unwrap().1.0, 1);
    // In steps one owner has it before the other: it says so, or it is right.
    match place.restore(options().until_time(i64::MAX).replay_bytes(1), "steps") {
        Ok((_, lines)) => assert_eq!(lines, ["one", "two"]),
        Err(told) => assert!(told.kind() == ErrorKind::Conflict && told.to_string().contains("step"), "{told}"),
    }
}

/// Rot in the archive itself is found by a verification, with the name of the object.
#[test]
fn rot_in_the_archive_is_told() {
    let place = Place::new();
    let store = place.archived().open(place.path("data")).unwrap();
    store.backup(&place.target).unwrap();
    write(&store, &place, &["one", "two", "three"]);
    let folder = place.path("target/journal").join(store.id().to_string()).join("main");
    let mut pieces: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    pieces.sort();
    let verify = || RestoreOptions::new().verify(&place.target, place.path("scratch")).unwrap();
    let whole = verify();
    assert!(whole.is_sound() && whole.archives[0].gap.is_none());
    let mut bytes = fs::read(&pieces[1]).unwrap();
    bytes[100] ^= 1;
    fs::write(&pieces[1], bytes).unwrap();
    let verified = verify();
    assert!(!verified.is_sound() && verified.store.is_sound());
    let reach = &verified.archives[0];
    let damage = reach.damage.as_ref().unwrap();
    assert_eq!((damage.kind(), damage.file()), (ErrorKind::Corrupt, Some(&*pieces[1])), "{damage}");
    assert!(reach.until < whole.archives[0].until);
}

/// The archive of the reader goes further than that of the topic it has read: it is taken back.
#[test]
fn owners_are_taken_back_to_where_they_fit() {
    let place = Place::new();
    let data = place.path("data");
    let main = place.archived().open(&data).unwrap();
    let worker = place.archived().attach(&data, "worker").unwrap();
    let jobs = main.producer(JOBS).unwrap();
    worker.producer(BILLS).unwrap();
    main.backup(&place.target).unwrap();
    let work = |count| {
        let mut jobs = worker.consumer(JOBS, ConsumerStyle::ClientTx("worker".into())).unwrap();
        let read = jobs.try_process(Some(count), |record, tx| {
            tx.append(BILLS, "b", &record.value()?)?;
            Ok(Outcome::Commit)
        });
        read.unwrap();
    };
    let archive = |store: &Store| {
        store.trim().unwrap();
        store.run_duties().unwrap();
    };
    for job in 0..5 {
        jobs.append("j", &job).unwrap();
    }
    archive(&main);
    // These are made and read, and never archived.
    for job in 5..10 {
        jobs.append("j", &job).unwrap();
    }
    work(10);
    archive(&worker);
    let into = place.path("restored");
    let report = RestoreOptions::new().until_time(i64::MAX).restore(&place.target, &into).unwrap();
    let (main, worker) = (Store::open(&into).unwrap(), Store::attach(&into, "worker").unwrap());
    let end = main.offsets("jobs", PartitionId(0)).unwrap().1.0;
    let read = worker.committed_offsets("worker", "jobs").unwrap()[0].0;
    let billed = worker.offsets("bills", PartitionId(0)).unwrap().1.0;
    assert_eq!((end, read, billed), (5, 5, 5), "no further than need be");
    let held_back: Vec<_> = report.held_back.iter().map(|(owner, _)| owner.as_str()).collect();
    assert_eq!(held_back, ["worker"]);
    assert!(report.held_back[0].1 > report.owners[1].1, "{report:?}");
    assert_eq!(report.newest_ms, report.taken_ms, "no note of the worker's is of before");
}

/// Everything that a store shows, and how many segments it has.
fn shown(dir: &Path) -> (Vec<String>, usize) {
    assert!(StoreReader::open(dir).unwrap().verify(|_| {}).unwrap().is_sound());
    let store = Store::open(dir).unwrap();
    let mut all = Vec::new();
    for (_, spec) in store.topics().unwrap() {
        for partition in (0..spec.partitions).map(PartitionId) {
            all.push(format!("{} {partition} {:?}", spec.name, store.offsets(&spec.name, partition).unwrap()));
        }
        let def = TopicDef::<Utf8, Utf8>::new(match spec.name.as_str() {
            "lines" => "lines",
            "brief" => "brief",
            _ => "lax",
        });
        let options = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).on_gap(GapPolicy::Skip);
        for record in store.consumer(def, options).unwrap() {
            let record = record.unwrap();
            all.push(format!("{:?} {:?} {}", record.id, record.value, record.timestamp_ms));
        }
    }
    all.push(format!("{:?} {:?}", store.consumers().unwrap(), store.snapshot().unwrap().scan(ROWS, ..).unwrap()));
    let segments = fs::read_dir(dir.join("topics/lines/000000")).unwrap();
    let segments =
        segments.filter(|file| file.as_ref().unwrap().path().extension().is_some_and(|kind| kind == "segment"));
    let count = segments.count();
    // A topic can be made anew where one was deleted, in whatever step that was.
    for name in ["brief", "gone"] {
        let made = store.producer(TopicDef::<Utf8, Utf8>::new(name)).and_then(|topic| topic.append("b", "again"));
        all.push(format!("{name} {made:?}"));
    }
    (all, count)
}

/// However long the archive is, only one step of it is in memory; and what comes out is the same.
#[test]
fn a_long_archive_is_replayed_in_steps() {
    const BRIEF: TopicDef<Utf8, Utf8> = TopicDef::new("brief");
    const GONE: TopicDef<Utf8, Utf8> = TopicDef::new("gone");
    const LAX: TopicDef<Utf8, Utf8> = TopicDef::new("lax");
    let place = Place::new();
    let data = place.path("data");
    let mut store = place.archived().open(&data).unwrap();
    store.producer(GONE).unwrap().append("g", "in the backup").unwrap();
    store.producer(BRIEF).unwrap().append("b", "first").unwrap();
    store.trim().unwrap();
    store.backup(&place.target).unwrap();
    for round in 0..6 {
        let lines = store.producer(LINES).unwrap();
        let lax = store.producer(LAX).unwrap().sync_policy(SyncPolicy::Os);
        for n in 0..6 {
            lines.append("k", &format!("{round} {n}")).unwrap();
            lax.append("k", &format!("{round} {n}")).unwrap();
            store.transact(|tx| tx.table(ROWS)?.put(&(n % 4), &(round * 10 + n))).unwrap();
        }
        let mut mail = store.consumer(LINES, ConsumerStyle::ClientTx(format!("mail {round}"))).unwrap();
        assert_eq!(mail.by_ref().take(3).count(), 3);
        drop(mail);
        match round {
            1 => store.delete_topic("gone").unwrap(),
            2 | 4 => store.delete_topic("brief").unwrap(),
            3 => {
                store.producer(BRIEF).unwrap().append("b", "second").unwrap();
                let mut all = store.consumer(BRIEF, ConsumerStyle::GlobalTx).unwrap();
                assert_eq!(all.by_ref().take(1).count(), 1);
            }
            _ => {}
        }
        store.trim().unwrap();
        store.run_duties().unwrap();
        if round % 2 == 0 {
            // As a crash leaves it: offsets that may have been given out are skipped.
            let copy = place.path("copy");
            copy_dir(&data, &copy);
            drop(store);
            fs::remove_dir_all(&data).unwrap();
            fs::rename(&copy, &data).unwrap();
            store = place.archived().open(&data).unwrap();
        }
    }
    store.close().unwrap();
    let restored = |bytes: u64| {
        let into = place.path(&format!("steps of {bytes}"));
        let options = RestoreOptions::new().until_time(i64::MAX).replay_bytes(bytes);
        let report = options.restore(&place.target, &into).unwrap();
        (report.owners, report.topics, report.records, shown(&into))
    };
    let at_once = restored(64 << 20);
    assert!(at_once.3.0.iter().any(|line| line.contains("5 5")), "{at_once:?}");
    for bytes in [1, 700, 5000] {
        let in_steps = restored(bytes);
        assert_eq!((&in_steps.0, in_steps.1, in_steps.2), (&at_once.0, at_once.1, at_once.2), "steps of {bytes}");
        assert_eq!(in_steps.3.0, at_once.3.0, "steps of {bytes}");
        assert!(in_steps.3.1 > at_once.3.1, "each step begins a segment");
    }
}
