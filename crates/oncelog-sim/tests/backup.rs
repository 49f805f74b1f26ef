//! Backups on a disk that loses what was not synced: made and restored with the power cut at every change and with
//! every call failed in turn, of target and source. What is listed is whole, what is restored is what was copied, half
//! of a restore is no store; and each sync left out is noticed.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::Path;
use std::sync::Arc;

use oncelog::clock::SystemClock;
use oncelog::disk::{Disk, SyncSite};
use oncelog::{
    BackupTarget, ConsumerOptions, ConsumerStyle, ErrorKind, GapPolicy, RestoreOptions, StoreOptions, StoreReader,
    SyncPolicy, TableDef, TopicDef, U64, Utf8, Whence,
};
use oncelog_sim::disk::{Failure, Repeat, SimDisk, Slip};

const DIR: &str = "/data/store";
const TARGET: &str = "/far/target";
const RESTORED: &str = "/data/restored";
const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines").file_roll_size(2048);
const COUNTS: TableDef<Utf8, U64> = TableDef::new("counts");

fn shared(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn options(disk: &SimDisk) -> StoreOptions {
    let options = StoreOptions::new().disk(shared(disk)).clock(SystemClock::shared()).seed(7);
    options.journal_file_bytes(8 << 10).manual_duties()
}

fn target(disk: &SimDisk) -> BackupTarget {
    BackupTarget::dir_on(shared(disk), TARGET).unwrap()
}

fn restore(target: &BackupTarget, name: Option<&str>, disk: &SimDisk) -> oncelog::Result<oncelog::RestoreReport> {
    let options = RestoreOptions::new().disk(shared(disk)).clock(SystemClock::shared());
    let options = match name {
        Some(name) => options.backup(name),
        None => options,
    };
    options.restore(target, RESTORED)
}

fn write(disk: &SimDisk, from: u64, to: u64, trimmed: u64) {
    let store = options(disk).open(DIR).unwrap();
    let lines = store.producer(LINES).unwrap();
    for n in from..to {
        lines.append("k", &format!("line {n} {}", "y".repeat(usize::try_from(n % 7).unwrap() * 30))).unwrap();
        store.transact(|tx| tx.table(COUNTS)?.put(&n.to_string(), &n)).unwrap();
        if n == trimmed {
            let mut mail = store.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
            assert_eq!(mail.by_ref().take(10).count(), 10);
            drop(mail);
            store.trim().unwrap();
        }
    }
    // Killed, so that there are frames behind the trim point.
    disk.process_kill();
    drop(store);
}

/// All that the store in `dir` shows.
fn shown(disk: &SimDisk, dir: &str) -> oncelog::Result<Vec<String>> {
    let reader = StoreReader::options().disk(shared(disk)).open(dir)?;
    let verified = reader.verify(|_| {})?;
    // A copy of the manifest that a crash left half written stays, when the opening behind it ends in order.
    let is_copy = |error: &oncelog::Error| error.file().is_some_and(|file| file.ends_with("MANIFEST"));
    assert!(verified.damage.iter().all(|error| dir == DIR && is_copy(error)), "{:?}", verified.damage);
    reader.look("main", |state| {
        let mut all = Vec::new();
        for record in state.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest))? {
            let record = record?;
            all.push(format!("{} {:?}", record.id.offset, record.value));
        }
        all.push(format!("{:?} {:?}", state.snapshot()?.scan(COUNTS, ..)?, state.consumers()?));
        Ok(all)
    })
}

/// A store with a backup of it, and how it was then; and later, with more in it.
struct Specimen {
    /// Store and restored ones.
    near: SimDisk,
    /// The target, with one backup.
    far: SimDisk,
    before: Vec<String>,
    after: Vec<String>,
}

impl Specimen {
    fn new() -> Specimen {
        let (near, far) = (SimDisk::new(1), SimDisk::new(2));
        for (disk, dir) in [(&near, "/data"), (&far, "/far")] {
            disk.create_dir(Path::new(dir)).unwrap();
            disk.sync_dir(Path::new("/"), SyncSite::StoreDir).unwrap();
        }
        write(&near, 0, 40, 30);
        near.power_cut();
        StoreReader::options().disk(shared(&near)).open(DIR).unwrap().backup(&target(&far)).unwrap();
        far.power_cut();
        let before = shown(&near, DIR).unwrap();
        write(&near, 40, 60, 50);
        near.power_cut();
        let after = shown(&near, DIR).unwrap();
        assert_ne!(before, after);
        Specimen { near, far, before, after }
    }

    fn backup(&self, near: &SimDisk, far: &SimDisk) -> oncelog::Result<oncelog::BackupReport> {
        StoreReader::options().disk(shared(near)).clock(SystemClock::shared()).open(DIR)?.backup(&target(far))
    }

    /// Every backup that is listed is whole: the first, and one or two of later.
    fn look(&self, far: &SimDisk, when: &str) -> Result<usize, String> {
        let listed = target(far).list().map_err(|error| format!("{when}: {error}"))?;
        for (at, backup) in listed.iter().enumerate() {
            if let Some(damage) = &backup.damage {
                return Err(format!("{when}: {damage}"));
            }
            let near = SimDisk::new(3);
            near.create_dir(Path::new("/data")).unwrap();
            restore(&target(far), Some(&backup.name), &near).map_err(|error| format!("{when}: {error}"))?;
            let expected = if at == 0 { &self.before } else { &self.after };
            if shown(&near, RESTORED).map_err(|error| format!("{when}: {error}"))? != *expected {
                return Err(format!("{when}: backup {at} is not what was copied"));
            }
        }
        if listed.is_empty() { Err(format!("{when}: the first backup is gone")) } else { Ok(listed.len()) }
    }

    /// Makes a backup with the power cut at change `nth` of the target; `false`: it ended before.
    fn cut_backup(&self, nth: u64, seed: u64, slip: Option<Slip>) -> Result<bool, String> {
        let far = self.far.copy_tree();
        far.reseed(seed);
        far.slip_syncs(slip);
        far.crash_after(nth);
        let made = self.backup(&self.near, &far);
        let was_cut = far.is_dead();
        far.power_cut();
        far.slip_syncs(None);
        let when = format!("cut at change {nth} of the target, seed {seed}");
        let listed = self.look(&far, &when)?;
        if made.is_ok() && listed != 2 {
            return Err(format!("{when}: a backup that was answered is gone"));
        }
        let _ = target(&far).unlock().map_err(|error| error.to_string())?;
        self.backup(&self.near, &far).map_err(|error| format!("{when}: the next one: {error}"))?;
        target(&far).prune(2).map_err(|error| format!("{when}: prune: {error}"))?;
        far.power_cut();
        let listed = target(&far).list().map_err(|error| format!("{when}: {error}"))?;
        for backup in &listed {
            let near = SimDisk::new(3);
            near.create_dir(Path::new("/data")).unwrap();
            let restored = restore(&target(&far), Some(&backup.name), &near);
            restored.map_err(|error| format!("{when}, pruned: {error}"))?;
        }
        if listed.len() == 2 { Ok(was_cut) } else { Err(format!("{when}: {} are left", listed.len())) }
    }

    /// Restores with the power cut at change `nth`; `false`: it ended before.
    fn cut_restore(&self, nth: u64, seed: u64, slip: Option<Slip>) -> Result<bool, String> {
        let near = self.near.copy_tree();
        near.reseed(seed);
        near.slip_syncs(slip);
        near.crash_after(nth);
        let restored = restore(&target(&self.far), None, &near);
        let was_cut = near.is_dead();
        near.power_cut();
        near.slip_syncs(None);
        let when = format!("cut at change {nth} of a restore, seed {seed}");
        match shown(&near, RESTORED) {
            Ok(found) if found == self.before => return Ok(was_cut),
            Ok(_) => return Err(format!("{when}: something else is restored")),
            Err(error) if restored.is_ok() => return Err(format!("{when}: answered, and now {error}")),
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound) => {}
            Err(error) => return Err(format!("{when}: {error}")),
        }
        // Nothing takes half of it for a store; an empty directory may still become one.
        let opened = StoreReader::options().disk(shared(&near)).open(RESTORED).map(drop).unwrap_err();
        if near.list(Path::new(RESTORED)).is_ok_and(|names| !names.is_empty()) && opened.kind() != ErrorKind::Invalid {
            return Err(format!("{when}: {opened}"));
        }
        restore(&target(&self.far), None, &near).map_err(|error| format!("{when}: again: {error}"))?;
        match shown(&near, RESTORED) {
            Ok(found) if found == self.before => Ok(was_cut),
            found => Err(format!("{when}: restored again: {found:?}")),
        }
    }
}

/// All of them, until one is not cut any more.
fn cut_all(cut: impl Fn(u64) -> Result<bool, String>, at_least: u64) {
    let mut nth = 1;
    while cut(nth).unwrap() {
        nth += 1;
    }
    assert!(nth > at_least, "{nth} changes");
}

#[test]
fn a_backup_that_is_cut_is_whole_or_not_there() {
    let specimen = Specimen::new();
    for seed in [1, 2, 3] {
        cut_all(|nth| specimen.cut_backup(nth, seed * 1000 + nth, None), 20);
    }
}

#[test]
fn a_restore_that_is_cut_is_no_store() {
    let specimen = Specimen::new();
    for seed in [1, 2, 3] {
        cut_all(|nth| specimen.cut_restore(nth, seed * 1000 + nth, None), 60);
    }
}

/// Without any one of them some cut is noticed.
#[test]
fn every_sync_is_needed() {
    let specimen = Specimen::new();
    for site in [SyncSite::BackupFile, SyncSite::BackupDir] {
        let cut = |nth| (0..8).find_map(|seed| specimen.cut_backup(nth, seed, Some(Slip::LeftOut(site))).err());
        assert!((1..200).find_map(cut).is_some(), "{site:?} left out");
    }
    for site in [SyncSite::RestoreFile, SyncSite::RestoreDir] {
        let cut = |nth| (0..8).find_map(|seed| specimen.cut_restore(nth, seed, Some(Slip::LeftOut(site))).err());
        assert!((1..400).rev().step_by(7).find_map(cut).is_some(), "{site:?} left out");
    }
}

#[test]
fn a_call_that_fails_makes_no_half_of_a_backup() {
    let specimen = Specimen::new();
    for failure in [Failure::EIO, Failure::ENOSPC, Failure::EMFILE] {
        for of_target in [true, false] {
            let mut nth = 1;
            loop {
                let (near, far) = (specimen.near.copy_tree(), specimen.far.copy_tree());
                let disk = if of_target { &far } else { &near };
                let before = disk.all_ops();
                disk.fail_op(nth, failure, Repeat::Once);
                let made = specimen.backup(&near, &far);
                let calls = disk.all_ops() - before;
                disk.clear_faults();
                let when = format!("{failure:?} at call {nth} of {}", if of_target { "target" } else { "source" });
                let listed = specimen.look(&far, &when).unwrap();
                match &made {
                    Ok(_) => assert_eq!(listed, 2, "{when}"),
                    // One whose last call failed may be there all the same.
                    Err(error) => assert_ne!(error.kind(), ErrorKind::Corrupt, "{when}: {error}"),
                }
                assert_eq!(shown(&near, DIR).unwrap(), specimen.after, "{when}: the store is as it was");
                if calls < nth {
                    break;
                }
                nth += if of_target { 1 } else { 3 };
            }
            assert!(nth > 20, "{nth} calls");
        }
    }
}

#[test]
fn a_call_that_fails_makes_no_half_of_a_store() {
    let specimen = Specimen::new();
    for failure in [Failure::EIO, Failure::ENOSPC] {
        let mut nth = 1;
        loop {
            let near = specimen.near.copy_tree();
            let before = near.all_ops();
            near.fail_op(nth, failure, Repeat::Once);
            let restored = restore(&target(&specimen.far), None, &near);
            let calls = near.all_ops() - before;
            near.clear_faults();
            let when = format!("{failure:?} at call {nth}");
            if let Err(error) = &restored {
                assert_ne!(error.kind(), ErrorKind::Corrupt, "{when}: {error}");
                match shown(&near, RESTORED) {
                    Ok(found) => assert_eq!(found, specimen.before, "{when}"),
                    Err(_) => drop(restore(&target(&specimen.far), None, &near).expect(&when)),
                }
            }
            assert_eq!(shown(&near, RESTORED).expect(&when), specimen.before, "{when}");
            if calls < nth {
                break;
            }
            nth += 2;
        }
        assert!(nth > 100, "{nth} calls");
    }
}

/// A killed process leaves frames, and a trim point, that a power cut may take back. What a backup of them holds, the
/// store must keep; else it goes on with other records under the same offsets.
#[test]
fn what_is_copied_of_a_killed_owner_stays_in_the_source() {
    let kept = |seed, slip: Option<Slip>, trimmed: bool| -> Result<(), String> {
        let (near, far) = (SimDisk::new(seed), SimDisk::new(2));
        for (disk, dir) in [(&near, "/data"), (&far, "/far")] {
            disk.create_dir(Path::new(dir)).unwrap();
            disk.sync_dir(Path::new("/"), SyncSite::StoreDir).unwrap();
        }
        let store = options(&near).open(DIR).unwrap();
        let lines = store.producer(LINES).unwrap();
        lines.append("k", "first").unwrap();
        let lax = store.producer(LINES).unwrap().sync_policy(SyncPolicy::Os);
        for n in 0..20 {
            lax.append("k", &format!("lax {n}")).unwrap();
        }
        if trimmed {
            store.trim().unwrap();
            lax.append("k", "behind the trim point").unwrap();
        }
        // Written, and not synced.
        store.run_duties().unwrap();
        near.process_kill();
        // A process that was killed tells nobody that its journal failed.
        std::mem::forget((lax, lines, store));
        near.slip_syncs(slip);
        let reader = StoreReader::options().disk(shared(&near)).clock(SystemClock::shared()).open(DIR).unwrap();
        reader.backup(&target(&far)).map_err(|error| error.to_string())?;
        drop(reader);
        near.power_cut();
        near.slip_syncs(None);
        let elsewhere = SimDisk::new(3);
        elsewhere.create_dir(Path::new("/data")).unwrap();
        restore(&target(&far), None, &elsewhere).map_err(|error| error.to_string())?;
        let records = |disk: &SimDisk, dir: &str| {
            let options = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).on_gap(GapPolicy::Skip);
            let reader = StoreReader::options().disk(shared(disk)).open(dir)?;
            reader.look("main", |state| {
                let records = state.consumer(LINES, options.clone())?;
                records.map(|record| record.map(|record| format!("{} {:?}", record.id.offset, record.value))).collect()
            })
        };
        let told = |records: oncelog::Result<Vec<String>>| records.map_err(|error| error.to_string());
        let (copied, left) = (told(records(&elsewhere, RESTORED))?, told(records(&near, DIR))?);
        assert_eq!(copied.len(), if trimmed { 22 } else { 21 }, "the lax ones are copied too: {copied:?}");
        if copied == left { Ok(()) } else { Err(format!("{copied:?} were copied, {left:?} are left")) }
    };
    for seed in 1..20 {
        kept(seed, None, seed % 2 == 0).unwrap();
    }
    let noticed = (1..20).find_map(|seed| kept(seed, Some(Slip::LeftOut(SyncSite::ReaderJournal)), false).err());
    assert!(noticed.is_some(), "without the sync nothing is lost");
}

/// A life of a store that archives its journal: trim points, orderly ends, openings. Stops where the machine does.
fn archived_life(near: &SimDisk, far: &SimDisk) -> oncelog::Result<()> {
    for round in 0..3u64 {
        let store = options(near).journal_archive(target(far)).open(DIR)?;
        let lines = store.producer(LINES)?;
        for n in 0..6 {
            lines.append("k", &format!("round {round}, {n} {}", "z".repeat(300)))?;
            store.transact(|tx| tx.table(COUNTS)?.put(&n.to_string(), &(round * 100 + n)))?;
            if n == 3 {
                store.trim()?;
                store.run_duties()?;
            }
        }
        if round == 1 {
            near.process_kill();
        } else {
            store.close()?;
        }
    }
    Ok(())
}

impl Specimen {
    /// The power is cut at change `nth` of the near or the far disk. What is archived after the next opening brings the
    /// backup to all that the store has; `false`: it ended before.
    fn cut_archive(&self, nth: u64, of_far: bool, seed: u64, slip: Option<Slip>) -> Result<bool, String> {
        let (near, far) = (self.near.copy_tree(), self.far.copy_tree());
        for disk in [&near, &far] {
            disk.reseed(seed);
            disk.slip_syncs(slip);
        }
        let cut = if of_far { &far } else { &near };
        cut.crash_after(nth);
        let _ = archived_life(&near, &far);
        let was_cut = cut.is_dead();
        for disk in [&near, &far] {
            disk.power_cut();
            disk.slip_syncs(None);
        }
        let when = format!("cut at change {nth} of {}, seed {seed}", if of_far { "the archive" } else { "the store" });
        let told = |error: oncelog::Error| format!("{when}: {error}");
        let store = options(&near).journal_archive(target(&far)).open(DIR).map_err(told)?;
        store.producer(LINES).and_then(|lines| lines.append("k", "the last")).map_err(told)?;
        store.close().map_err(told)?;
        let all = shown(&near, DIR).map_err(told)?;
        let elsewhere = SimDisk::new(3);
        elsewhere.create_dir(Path::new("/data")).unwrap();
        let options = RestoreOptions::new().disk(shared(&elsewhere)).clock(SystemClock::shared());
        options.until_time(i64::MAX).restore(&target(&far), RESTORED).map_err(told)?;
        let found = shown(&elsewhere, RESTORED).map_err(told)?;
        if found == all { Ok(was_cut) } else { Err(format!("{when}: {found:?} of {all:?}")) }
    }
}

/// No crash leaves a gap in the archive, or a frame that recovery took back.
#[test]
fn an_archive_has_no_gaps() {
    let mut specimen = Specimen::new();
    // The backup is of what the store is now.
    specimen.backup(&specimen.near, &specimen.far).unwrap();
    specimen.before = specimen.after.clone();
    cut_all(|nth| specimen.cut_archive(nth, false, 1000 + nth, None), 60);
    cut_all(|nth| specimen.cut_archive(nth, true, 2000 + nth, None), 15);
    for (site, of_far) in [
        (SyncSite::ArchiveFile, false),
        (SyncSite::ArchiveDir, false),
        (SyncSite::BackupFile, true),
        (SyncSite::BackupDir, true),
    ] {
        let slip = Some(Slip::LeftOut(site));
        let cut = |nth| (0..6).find_map(|seed| specimen.cut_archive(nth, of_far, seed, slip).err());
        assert!((1..400).find_map(cut).is_some(), "{site:?} left out");
    }
}

/// Steps in another order are noticed: a directory that becomes a store before it is recovered, frames that the trim
/// point passes before they are archived.
#[cfg(oncelog_mutants)]
#[test]
fn steps_in_another_order_are_noticed() {
    use oncelog::disk::{StepSite, break_steps};
    let mut specimen = Specimen::new();
    break_steps(Some(StepSite::RestoreBeforeStore));
    let noticed = (1..400).find_map(|nth| specimen.cut_restore(nth, nth, None).err());
    break_steps(None);
    assert!(noticed.is_some(), "a restore becomes a store too early");
    specimen.backup(&specimen.near, &specimen.far).unwrap();
    specimen.before = specimen.after.clone();
    break_steps(Some(StepSite::ArchiveBeforeTrim));
    let noticed = (1..400).find_map(|nth| specimen.cut_archive(nth, false, nth, None).err());
    break_steps(None);
    assert!(noticed.is_some(), "the trim point is before the archive");
}
