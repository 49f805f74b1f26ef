//! Faults on request.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};

use super::super::pages::SECTOR;
use super::super::{Failure, Repeat, SimDisk, Slip, Survival};
use super::{DIR, SITE, durable, kind, open, outcomes, path, root};
use oncelog::disk::{Disk, OpenMode, SyncSite};

/// Replaces a file the safe way: seven changes.
fn replace(disk: &SimDisk, content: &[u8; 2]) -> io::Result<()> {
    let file = disk.open(&path("a.new"), OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(&content[..1], 0)?;
    file.write_all_at(&content[1..], 1)?;
    file.sync(SITE)?;
    disk.rename(&path("a.new"), &path("a"))?;
    disk.sync_dir(root(), DIR)
}

#[test]
fn a_crash_at_each_change_in_turn() {
    for seed in 0..100 {
        for crash_at in 1.. {
            let disk = SimDisk::new(seed);
            durable(&disk, "a", b"11");
            let before = disk.ops();
            disk.crash_after(crash_at);
            let done = replace(&disk, b"22");
            assert_eq!(done.is_err(), disk.is_dead());
            assert_eq!(disk.ops() - before, if done.is_ok() { 7 } else { crash_at });
            if done.is_ok() {
                assert_eq!(crash_at, 8);
                break;
            }
            assert!(disk.open(&path("a"), OpenMode::Read).is_err(), "dead is dead");
            if seed % 2 == 0 {
                disk.process_kill()
            } else {
                let _rule = disk.power_cut();
            }
            assert!(!disk.is_dead());
            let found = disk.read_file("a").unwrap();
            assert!(found == b"11" || found == b"22", "{found:?}");
            replace(&disk, b"33").unwrap();
            disk.power_cut();
            assert_eq!(disk.read_file("a").unwrap(), b"33");
        }
    }
}

#[test]
fn a_crash_waits_for_a_sync_of_its_site() {
    let disk = SimDisk::new(1);
    durable(&disk, "a", b"11");
    disk.crash_at_sync(DIR);
    let before = disk.ops();
    replace(&disk, b"22").unwrap_err();
    assert!(disk.is_dead());
    assert_eq!(disk.ops() - before, 7, "all before the sync of the directory was done");
    disk.process_kill();
    assert_eq!(disk.read_file("a").unwrap(), b"22");
    replace(&disk, b"33").unwrap();
}

#[test]
fn a_write_that_crashes_may_be_done_in_part() {
    let seen = outcomes(300, |disk| {
        let file = durable(disk, "a", &[1; 2000]);
        disk.crash_after(1);
        file.write_all_at(&[2; 1900], 100).unwrap_err();
        disk.process_kill();
        let bytes = disk.read_file("a").unwrap();
        let written = bytes.iter().filter(|byte| **byte == 2).count();
        assert!(bytes[100..100 + written].iter().all(|byte| *byte == 2), "a prefix");
        written
    });
    assert!(seen.contains(&0));
    assert!(seen.iter().any(|count| *count > 0 && (100 + count) % SECTOR == 0));
    assert!(seen.iter().filter(|count| (100 + *count) % SECTOR != 0).count() > 20);
}

#[test]
fn a_failed_sync_is_not_made_good_by_a_later_one() {
    let seen = outcomes(300, |disk| {
        let file = durable(disk, "a", &[1; 3 * SECTOR]);
        file.write_all_at(&[2; 3 * SECTOR], 0).unwrap();
        disk.fail_next_sync(Some(SITE));
        file.sync(SyncSite::JournalGroup).unwrap_or_else(|_| panic!("another site"));
        file.write_all_at(&[3; 3 * SECTOR], 0).unwrap();
        assert_eq!(file.sync(SITE).unwrap_err().raw_os_error(), Some(5));
        file.sync(SITE).unwrap();
        assert_eq!(disk.read_file("a").unwrap(), [3; 3 * SECTOR], "readers see it");
        file.write_all_at(&[4; 1], 700).unwrap();
        file.sync(SITE).unwrap();
        disk.power_cut();
        let bytes = disk.read_file("a").unwrap();
        assert_eq!((bytes[SECTOR], bytes[700], bytes[2 * SECTOR - 1]), (3, 4, 3), "written again, the sector is saved");
        (bytes[0], bytes[3 * SECTOR - 1])
    });
    assert_eq!(seen, BTreeSet::from([(2, 2), (2, 3), (3, 2), (3, 3)]));
}

#[test]
fn growth_that_a_sync_failed_to_save_becomes_zeros_or_is_lost() {
    let seen = outcomes(300, |disk| {
        let file = durable(disk, "a", &[1; SECTOR]);
        file.write_all_at(&[2; SECTOR], SECTOR as u64).unwrap();
        disk.fail_next_sync(None);
        file.sync(SITE).unwrap_err();
        file.write_all_at(&[3; SECTOR], 2 * SECTOR as u64).unwrap();
        file.sync(SITE).unwrap();
        disk.power_cut();
        let bytes = disk.read_file("a").unwrap();
        assert_eq!((bytes.len(), bytes[0], bytes[2 * SECTOR]), (3 * SECTOR, 1, 3));
        bytes[SECTOR]
    });
    assert_eq!(seen, BTreeSet::from([0, 2]));
}

#[test]
fn the_chosen_call_fails() {
    let disk = SimDisk::new(1);
    let file = durable(&disk, "a", b"1");
    let before = disk.all_ops();
    disk.fail_op(2, Failure::EIO, Repeat::Once);
    assert_eq!(file.len().unwrap(), 1);
    assert_eq!(file.read_at(&mut [0], 0).unwrap_err().raw_os_error(), Some(5));
    assert_eq!(file.read_at(&mut [0], 0).unwrap(), 1);
    assert_eq!(disk.all_ops(), before + 3);
    disk.fail_op(1, Failure::EMFILE, Repeat::Sticky);
    for _ in 0..3 {
        assert_eq!(disk.open(&path("a"), OpenMode::Read).err().unwrap().raw_os_error(), Some(24));
        assert_eq!(file.write_at(b"2", 0).unwrap(), 1, "what is open stays usable");
    }
    disk.clear_faults();
    disk.fail_op(1, Failure::EROFS, Repeat::Sticky);
    for _ in 0..3 {
        assert_eq!(kind(file.write_at(b"3", 0)), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(disk.open(&path("a"), OpenMode::Write)), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(disk.open(&path("b"), OpenMode::Create)), ErrorKind::ReadOnlyFilesystem);
        assert_eq!(kind(disk.remove(&path("a"))), ErrorKind::ReadOnlyFilesystem);
        disk.open(&path("a"), OpenMode::Read).unwrap();
    }
    disk.process_kill();
    let file = open(&disk, "a", OpenMode::Write);
    disk.fail_op(1, Failure::ENOSPC, Repeat::Sticky);
    assert_eq!(kind(file.set_len(10)), ErrorKind::StorageFull);
    assert_eq!(kind(file.write_at(b"4", 0)), ErrorKind::StorageFull);
    file.sync(SITE).unwrap();
    disk.clear_faults();
    disk.fail_op(1, Failure::EINTR, Repeat::Sticky);
    file.write_all_at(b"5", 0).unwrap();
    assert_eq!(disk.read_file("a").unwrap(), b"5");
}

#[test]
fn an_injected_error_at_a_sync_loses_what_it_should_have_saved() {
    let seen = outcomes(100, |disk| {
        let file = durable(disk, "a", b"1");
        file.write_all_at(b"2", 0).unwrap();
        disk.fail_op(1, Failure::EIO, Repeat::Once);
        file.sync(SITE).unwrap_err();
        file.sync(SITE).unwrap();
        disk.power_cut();
        disk.read_file("a").unwrap()
    });
    assert_eq!(seen, BTreeSet::from([b"1".to_vec(), b"2".to_vec()]));
}

#[test]
fn a_full_disk_takes_no_more_until_space_is_freed() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        durable(&disk, "a", &[1; 600]);
        let file = open(&disk, "b", OpenMode::CreateNew);
        assert_eq!(disk.free_bytes(&path("")).unwrap(), None);
        disk.capacity(Some(1000));
        assert_eq!(disk.free_bytes(&path("")).unwrap(), Some(400));
        assert_eq!(kind(file.write_all_at(&[2; 500], 0)), ErrorKind::StorageFull);
        assert!(file.len().unwrap() <= 400);
        file.set_len(0).unwrap();
        file.write_all_at(&[2; 400], 0).unwrap();
        assert_eq!(kind(file.write_at(&[2], 400)), ErrorKind::StorageFull);
        assert_eq!(kind(file.set_len(401)), ErrorKind::StorageFull);
        file.write_all_at(&[3; 400], 0).unwrap();
        assert_eq!(disk.free_bytes(&path("")).unwrap(), Some(0));
        disk.remove(&path("a")).unwrap();
        assert_eq!(disk.free_bytes(&path("")).unwrap(), Some(600));
        file.write_all_at(&[4; 600], 400).unwrap();
        file.set_len(10).unwrap();
        open(&disk, "c", OpenMode::CreateNew).write_all_at(&[5; 990], 0).unwrap();
        disk.capacity(None);
        file.write_all_at(&[6; 5000], 0).unwrap();
    }
}

#[test]
fn preallocated_space_is_there_when_it_is_written() {
    let disk = SimDisk::new(1);
    disk.capacity(Some(1000));
    let (file, other) = (open(&disk, "a", OpenMode::CreateNew), open(&disk, "b", OpenMode::CreateNew));
    file.preallocate(800).unwrap();
    assert_eq!(file.len().unwrap(), 0);
    assert_eq!(kind(other.preallocate(201)), ErrorKind::StorageFull);
    assert_eq!(kind(other.set_len(201)), ErrorKind::StorageFull);
    other.write_all_at(&[1; 200], 0).unwrap();
    file.write_all_at(&[2; 800], 0).unwrap();
    file.set_len(700).unwrap();
    other.write_all_at(&[3; 100], 200).unwrap();
    file.preallocate(700).unwrap();
    assert_eq!(kind(file.preallocate(701)), ErrorKind::StorageFull);
}

#[test]
fn unsynced_preallocation_may_be_lost() {
    let seen = outcomes(100, |disk| {
        durable(disk, "a", b"").preallocate(800).unwrap();
        disk.capacity(Some(1000));
        disk.power_cut();
        open(disk, "b", OpenMode::Create).preallocate(1000).is_ok()
    });
    assert_eq!(seen, BTreeSet::from([false, true]));
}

#[test]
fn a_choppy_disk_interrupts_and_does_less_than_asked() {
    let (mut interrupted, mut short) = (0, 0);
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.choppy(true);
        let bytes: Vec<u8> = (0..=255).cycle().take(3000).collect();
        let file = durable(&disk, "a", &bytes);
        let mut read = vec![0; 4000];
        assert_eq!(file.read_full_at(&mut read, 0).unwrap(), 3000);
        assert_eq!(read[..3000], bytes);
        match file.read_at(&mut read, 0) {
            Ok(count) => short += u32::from(count < 3000),
            Err(error) => interrupted += u32::from(error.kind() == ErrorKind::Interrupted),
        }
        disk.power_cut();
        assert_eq!(disk.read_file("a").unwrap(), bytes);
    }
    assert!(interrupted > 0 && short > 0);
}

#[test]
fn dropped_syncs_save_nothing_and_say_ok() {
    let seen = outcomes(100, |disk| {
        let file = durable(disk, "a", b"1");
        disk.slip_syncs(Some(Slip::LeftOut(SITE)));
        file.write_all_at(b"2", 0).unwrap();
        file.sync(SITE).unwrap();
        disk.power_cut();
        let first = disk.read_file("a").unwrap();
        let file = open(disk, "a", OpenMode::Write);
        file.write_all_at(b"3", 0).unwrap();
        file.sync(SyncSite::JournalGroup).unwrap();
        disk.power_cut();
        assert_eq!(disk.read_file("a").unwrap(), b"3", "other sites are true");
        first
    });
    assert_eq!(seen, BTreeSet::from([b"1".to_vec(), b"2".to_vec()]));
    let names = outcomes(100, |disk| {
        disk.slip_syncs(Some(Slip::LeftOut(DIR)));
        open(disk, "a", OpenMode::CreateNew);
        disk.sync_dir(root(), DIR).unwrap();
        disk.power_cut();
        disk.paths().len()
    });
    assert_eq!(names, BTreeSet::from([0, 1]));
}

/// What is left of `2` over a durable `1` after a power cut that saves nothing unsynced.
fn after(slip: Slip, calls: impl FnOnce(&SimDisk, &dyn oncelog::disk::DiskFile)) -> Vec<u8> {
    let disk = SimDisk::new(1);
    let file = durable(&disk, "a", b"1");
    disk.slip_syncs(Some(slip));
    file.write_all_at(b"2", 0).unwrap();
    file.sync(SITE).unwrap();
    calls(&disk, &*file);
    disk.power_cut_with(Survival::Nothing);
    disk.read_file("a").unwrap()
}

#[test]
fn a_late_sync_comes_with_the_next_change() {
    let late = Slip::Late(SITE);
    assert_eq!(after(late, |_, _| {}), b"1");
    assert_eq!(after(late, |disk, _| drop(disk.list(root()).unwrap())), b"1", "looking changes nothing");
    assert_eq!(after(late, |disk, _| drop(open(disk, "b", OpenMode::CreateNew))), b"2");
    let stops = |disk: &SimDisk, _: &dyn oncelog::disk::DiskFile| {
        disk.crash_after(1);
        disk.open(&path("b"), OpenMode::CreateNew).err().unwrap();
    };
    assert_eq!(after(late, stops), b"1", "the machine stops before it");
}

#[test]
fn a_sync_behind_another_waits_for_that() {
    let behind = Slip::Behind(SITE, DIR);
    assert_eq!(after(behind, |disk, _| drop(open(disk, "b", OpenMode::CreateNew))), b"1");
    assert_eq!(after(behind, |disk, _| disk.sync_dir(root(), DIR).unwrap()), b"1", "the machine may stop between");
    let both = |disk: &SimDisk, _: &dyn oncelog::disk::DiskFile| {
        disk.sync_dir(root(), DIR).unwrap();
        open(disk, "b", OpenMode::CreateNew);
    };
    assert_eq!(after(behind, both), b"2");
}
