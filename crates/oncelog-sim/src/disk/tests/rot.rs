//! Damage by hand, copies, and repetition.

use std::io::ErrorKind;

use super::super::{SimDisk, Survival};
use super::{SITE, durable, kind, open, path};
use oncelog::disk::OpenMode;

#[test]
fn what_is_done_by_hand_is_durable() {
    let disk = SimDisk::new(1);
    disk.write_file("d/e/a", &[1; 1500]).unwrap();
    disk.write_file("d/b", b"b").unwrap();
    disk.flip_bit("d/e/a", 1000, 7).unwrap();
    disk.zero_sector("d/e/a", 0).unwrap();
    disk.rename_file("d/b", "d/e/c").unwrap();
    disk.write_file("gone", b"x").unwrap();
    disk.remove_file("gone").unwrap();
    disk.truncate("d/e/a", 1200).unwrap();
    disk.power_cut_with(Survival::Nothing);
    let mut expected = vec![1; 1200];
    expected[..512].fill(0);
    expected[1000] = 0x81;
    assert_eq!(disk.read_file("d/e/a").unwrap(), expected);
    assert_eq!(disk.paths(), [(path("d/e/a"), 1200), (path("d/e/c"), 1)]);
    assert_eq!(kind(disk.flip_bit("d/e/a", 1200, 0)), ErrorKind::InvalidInput);
    assert_eq!(kind(disk.zero_sector("d/e/a", 3)), ErrorKind::InvalidInput);
    assert_eq!(kind(disk.read_file("d")), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.write_file("d/e/c/x", b"")), ErrorKind::NotADirectory);
}

#[test]
fn rot_leaves_unsynced_bytes_unsynced() {
    let disk = SimDisk::new(1);
    let file = durable(&disk, "a", &[1; 100]);
    file.write_all_at(&[2; 50], 0).unwrap();
    disk.flip_bit("a", 99, 1).unwrap();
    assert_eq!((disk.read_file("a").unwrap()[0], disk.read_file("a").unwrap()[99]), (2, 3));
    disk.power_cut_with(Survival::Nothing);
    assert_eq!((disk.read_file("a").unwrap()[0], disk.read_file("a").unwrap()[99]), (1, 3));
}

#[test]
fn a_copy_is_another_disk_with_the_same_fate() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let file = durable(&disk, "a", &[1; 9000]);
        assert!(file.try_lock().unwrap());
        file.write_all_at(&[2; 8000], 500).unwrap();
        let (copy, other) = (disk.copy_tree(), disk.copy_tree());
        assert!(open(&copy, "a", OpenMode::Write).try_lock().unwrap(), "no locks come along");
        file.write_all_at(&[3; 9000], 0).unwrap();
        assert_eq!(copy.read_file("a").unwrap()[600], 2);
        assert_eq!(copy.power_cut(), other.power_cut());
        assert_eq!(copy.read_file("a").unwrap(), other.read_file("a").unwrap());
        assert_eq!(disk.read_file("a").unwrap(), [3; 9000]);
        file.sync(SITE).unwrap();
    }
}

#[test]
fn one_moment_has_many_fates() {
    let disk = SimDisk::new(1);
    durable(&disk, "a", &[1; 9000]).write_all_at(&[2; 9000], 0).unwrap();
    let fates: std::collections::BTreeSet<_> = (0..200)
        .map(|seed| {
            let copy = disk.copy_tree();
            copy.reseed(seed);
            copy.power_cut();
            copy.read_file("a").unwrap()
        })
        .collect();
    assert!(fates.len() > 50);
}

#[test]
fn zeros_take_no_space() {
    // A gibibyte, copied a thousand times: this would not end if zeros were kept.
    let disk = SimDisk::new(1);
    let file = durable(&disk, "a", b"");
    let zeros = vec![0; 1 << 20];
    for mebibyte in 0..1024 {
        file.write_all_at(&zeros, mebibyte << 20).unwrap();
    }
    file.sync(SITE).unwrap();
    file.write_all_at(b"x", 1 << 29).unwrap();
    for seed in 0..1000 {
        let copy = disk.copy_tree();
        copy.reseed(seed);
        copy.power_cut();
        assert_eq!(copy.paths(), [(path("a"), 1 << 30)]);
    }
}
