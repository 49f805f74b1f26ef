//! Bytes and lengths under power cuts and kills.

use std::collections::BTreeSet;

use super::super::pages::{PAGE, SECTOR};
use super::super::{SimDisk, Survival};
use super::{SITE, durable, kind, open, outcomes, path};
use oncelog::disk::{Disk, OpenMode};

#[test]
fn a_synced_write_survives_every_cut() {
    for seed in 0..500 {
        let disk = SimDisk::new(seed);
        let file = durable(&disk, "a", &[1; 5000]);
        file.write_all_at(&[2; 700], 300).unwrap();
        file.sync(SITE).unwrap();
        disk.power_cut();
        let mut expected = vec![1; 5000];
        expected[300..1000].fill(2);
        assert_eq!(disk.read_file("a").unwrap(), expected);
    }
}

#[test]
fn every_kind_of_loss_occurs() {
    // Eight sectors, overwritten one after the other: bit i tells whether the i-th write survived.
    let seen = outcomes(2000, |disk| {
        let file = durable(disk, "a", &[1; 8 * SECTOR]);
        for sector in 0..8 {
            file.write_all_at(&[2; SECTOR], (sector * SECTOR) as u64).unwrap();
        }
        disk.power_cut();
        let bytes = disk.read_file("a").unwrap();
        bytes.chunks(SECTOR).enumerate().fold(0_u32, |bits, (sector, bytes)| {
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a sector is whole");
            bits | u32::from(bytes[0] == 2) << sector
        })
    });
    assert!(seen.contains(&0), "all lost");
    assert!(seen.contains(&0xff), "all kept");
    assert!((1..8).all(|count| seen.contains(&((1 << count) - 1))), "any prefix");
    assert!((1..8).all(|count| seen.contains(&(0xff << count & 0xff))), "any suffix");
    assert!(seen.len() > 100, "any subset: {}", seen.len());
}

#[test]
fn a_large_write_is_torn_at_sectors_and_at_pages() {
    let cut = |disk: &SimDisk, survival| {
        let file = durable(disk, "a", &[1; 4 * PAGE]);
        file.write_all_at(&[2; 4 * PAGE - 200], 100).unwrap();
        disk.power_cut_with(survival);
        let bytes = disk.read_file("a").unwrap();
        assert_eq!((bytes[0], bytes[4 * PAGE - 1]), (1, 1));
        bytes.chunks(SECTOR).map(|sector| sector[200]).collect::<Vec<u8>>()
    };
    let torn = outcomes(300, |disk| cut(disk, Survival::Prefix));
    assert!(torn.iter().all(|sectors| sectors.is_sorted_by(|a, b| a >= b)), "a prefix of the write");
    assert!(torn.len() > 20, "torn at any sector: {}", torn.len());
    let pages = outcomes(300, |disk| cut(disk, Survival::Pages));
    assert!(pages.iter().flat_map(|sectors| sectors.chunks(8)).all(|page| page.iter().all(|byte| *byte == page[0])));
    assert!(pages.len() > 8, "pages on their own: {}", pages.len());
    assert!(outcomes(300, |disk| cut(disk, Survival::Sectors)).len() > 100);
}

#[test]
fn a_sector_may_be_caught_between_two_writes() {
    let seen = outcomes(500, |disk| {
        let file = durable(disk, "a", &[1; SECTOR]);
        file.write_all_at(&[2; 100], 0).unwrap();
        file.write_all_at(&[3; 100], 50).unwrap();
        disk.power_cut();
        let bytes = disk.read_file("a").unwrap();
        (bytes[0], bytes[60])
    });
    assert_eq!(seen, BTreeSet::from([(1, 1), (2, 2), (2, 3)]));
}

#[test]
fn growth_may_be_lost_zero_partial_or_kept() {
    let seen = outcomes(1000, |disk| {
        let file = durable(disk, "a", &[1; 100]);
        file.write_all_at(&[2; 2000], 100).unwrap();
        disk.power_cut();
        let bytes = disk.read_file("a").unwrap();
        assert_eq!(bytes[..100], [1; 100]);
        assert!(bytes[100..].iter().all(|byte| [0, 2].contains(byte)));
        let zeros = bytes[100..].iter().filter(|byte| **byte == 0).count();
        (bytes.len(), zeros)
    });
    assert!(seen.contains(&(100, 0)), "lost");
    assert!(seen.contains(&(2100, 0)), "kept");
    assert!(seen.contains(&(2100, 2000)), "only the length");
    assert!(seen.iter().any(|(len, zeros)| *len > 100 && *len < 2100 && *zeros == 0), "shorter, all good");
    assert!(seen.iter().any(|(len, _)| *len > 100 && *len < 2100 && len % SECTOR != 0), "shorter by any byte");
}

#[test]
fn cutting_a_file_shows_zeros_when_it_grows_again() {
    let seen = outcomes(300, |disk| {
        let file = durable(disk, "a", &[1; 10_000]);
        file.set_len(5000).unwrap();
        file.set_len(9000).unwrap();
        let mut expected = vec![1; 5000];
        expected.resize(9000, 0);
        assert_eq!(disk.read_file("a").unwrap(), expected);
        if disk.ops().is_multiple_of(2) {
            file.write_all_at(&[7], 8999).unwrap();
        }
        disk.power_cut();
        disk.read_file("a").unwrap().len()
    });
    assert!(seen.is_superset(&BTreeSet::from([5000, 9000, 10_000])), "{seen:?}");
}

#[test]
fn after_a_cut_nothing_is_unsynced() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        durable(&disk, "a", &[1; 3000]).write_all_at(&[2; 9000], 1000).unwrap();
        open(&disk, "b", OpenMode::CreateNew).write_all_at(&[3; 100], 0).unwrap();
        disk.power_cut();
        let after = (disk.paths(), disk.read_file("a").unwrap());
        for survival in Survival::ALL {
            disk.power_cut_with(survival);
            assert_eq!((disk.paths(), disk.read_file("a").unwrap()), after);
        }
    }
}

#[test]
fn a_kill_keeps_the_cache_and_it_is_still_unsynced() {
    let seen = outcomes(100, |disk| {
        let file = durable(disk, "a", &[1; 100]);
        file.write_all_at(&[2; 100], 0).unwrap();
        disk.process_kill();
        assert_eq!(disk.read_file("a").unwrap(), [2; 100]);
        disk.power_cut();
        disk.read_file("a").unwrap()[0]
    });
    assert_eq!(seen, BTreeSet::from([1, 2]));
}

#[test]
fn a_crash_ends_handles_and_locks() {
    for crash in [SimDisk::process_kill, |disk: &SimDisk| disk.power_cut_with(Survival::Sectors)] {
        let disk = SimDisk::new(1);
        let before = durable(&disk, "a", b"x");
        assert!(before.try_lock().unwrap());
        assert!(!open(&disk, "a", OpenMode::Read).try_lock().unwrap());
        crash(&disk);
        assert!(before.write_at(b"y", 0).is_err());
        assert!(before.read_at(&mut [0], 0).is_err());
        assert!(before.sync(SITE).is_err());
        assert!(before.len().is_err() && before.try_lock().is_err());
        let after = open(&disk, "a", OpenMode::Write);
        assert!(after.try_lock().unwrap());
        drop(before);
        assert!(!open(&disk, "a", OpenMode::Read).try_lock().unwrap(), "the old handle had nothing to free");
    }
}

#[test]
fn a_lock_belongs_to_the_file_and_to_one_handle() {
    let disk = SimDisk::new(1);
    let first = durable(&disk, "a", b"x");
    let second = open(&disk, "a", OpenMode::Write);
    assert!(first.try_lock().unwrap() && first.try_lock().unwrap());
    disk.rename(&path("a"), &path("b")).unwrap();
    assert!(!second.try_lock().unwrap());
    drop(second);
    assert!(!open(&disk, "b", OpenMode::Read).try_lock().unwrap());
    drop(first);
    assert!(open(&disk, "b", OpenMode::Read).try_lock().unwrap());
}

#[test]
fn a_handle_for_reading_does_not_write() {
    let disk = SimDisk::new(1);
    durable(&disk, "a", b"x");
    let file = open(&disk, "a", OpenMode::Read);
    assert_eq!(kind(file.write_at(b"y", 0)), std::io::ErrorKind::PermissionDenied);
    assert_eq!(kind(file.set_len(0)), std::io::ErrorKind::PermissionDenied);
    assert_eq!(kind(open(&disk, "a", OpenMode::Write).write_at(b"y", u64::MAX)), std::io::ErrorKind::FileTooLarge);
}
