//! Names under power cuts, and the errors of paths.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use super::super::SimDisk;
use super::{DIR, SITE, durable, kind, open, outcomes, path, root};
use oncelog::disk::{Disk, OpenMode};

fn names(disk: &SimDisk) -> Vec<String> {
    disk.paths().into_iter().map(|(path, _)| path.to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_synced_file_without_a_synced_name_may_vanish() {
    let seen = outcomes(100, |disk| {
        let file = open(disk, "a", OpenMode::CreateNew);
        file.write_all_at(b"content", 0).unwrap();
        file.sync(SITE).unwrap();
        disk.power_cut();
        disk.read_file("a").ok()
    });
    assert_eq!(seen, BTreeSet::from([None, Some(b"content".to_vec())]));
}

#[test]
fn a_synced_name_stays() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        open(&disk, "a", OpenMode::CreateNew);
        disk.sync_dir(root(), DIR).unwrap();
        disk.power_cut();
        assert_eq!(names(&disk), ["/a"]);
    }
}

#[test]
fn names_survive_each_on_its_own() {
    let seen = outcomes(1000, |disk| {
        for name in ["a", "b", "c"] {
            open(disk, name, OpenMode::CreateNew);
        }
        disk.power_cut();
        names(disk)
    });
    assert_eq!(seen.len(), 8);
}

#[test]
fn a_removed_file_may_come_back_with_its_durable_content() {
    let seen = outcomes(100, |disk| {
        let file = durable(disk, "a", b"old");
        file.write_all_at(b"new", 0).unwrap();
        disk.remove(&path("a")).unwrap();
        assert_eq!(kind(disk.read_file("a")), ErrorKind::NotFound);
        let mut bytes = [0; 3];
        assert_eq!((file.read_at(&mut bytes, 0).unwrap(), &bytes), (3, b"new"), "an open handle stays usable");
        disk.power_cut();
        disk.read_file("a").ok()
    });
    assert_eq!(seen, BTreeSet::from([None, Some(b"old".to_vec()), Some(b"new".to_vec())]));
    assert_eq!(
        outcomes(100, |disk| {
            durable(disk, "a", b"old");
            disk.remove(&path("a")).unwrap();
            disk.sync_dir(root(), DIR).unwrap();
            disk.power_cut();
            names(disk)
        }),
        BTreeSet::from([vec![]])
    );
}

#[test]
fn a_rename_leaves_the_old_or_the_new_target() {
    let seen = outcomes(300, |disk| {
        durable(disk, "a", b"old");
        let file = open(disk, "a.new", OpenMode::CreateNew);
        file.write_all_at(b"new", 0).unwrap();
        file.sync(SITE).unwrap();
        disk.rename(&path("a.new"), &path("a")).unwrap();
        assert_eq!(disk.read_file("a").unwrap(), b"new");
        disk.power_cut();
        (disk.read_file("a").unwrap(), disk.read_file("a.new").ok())
    });
    let (old, new) = (b"old".to_vec(), b"new".to_vec());
    assert_eq!(seen, BTreeSet::from([(old.clone(), None), (old, Some(new.clone())), (new, None)]));
}

#[test]
fn a_rename_of_unsynced_bytes_may_leave_an_empty_target() {
    let seen = outcomes(300, |disk| {
        durable(disk, "a", b"old");
        open(disk, "b", OpenMode::CreateNew).write_all_at(b"new", 0).unwrap();
        disk.rename(&path("b"), &path("a")).unwrap();
        disk.sync_dir(root(), DIR).unwrap();
        disk.power_cut();
        disk.read_file("a").unwrap()
    });
    assert!(seen.contains(&Vec::new()) && seen.contains(&vec![0; 3]) && seen.contains(b"new".as_slice()), "{seen:?}");
    assert!(!seen.contains(b"old".as_slice()));
}

#[test]
fn a_rename_between_directories_is_atomic() {
    let seen = outcomes(100, |disk| {
        for dir in ["x", "y"] {
            disk.create_dir(&path(dir)).unwrap();
        }
        disk.sync_dir(root(), DIR).unwrap();
        durable(disk, "x/a", b"1");
        disk.rename(&path("x/a"), &path("y/b")).unwrap();
        disk.power_cut();
        names(disk)
    });
    assert_eq!(seen, BTreeSet::from([vec!["/x/a".to_owned()], vec!["/y/b".to_owned()]]));
}

#[test]
fn a_lost_directory_takes_its_files_along() {
    let fate = |save_parent: bool| {
        outcomes(100, move |disk| {
            disk.create_dir(&path("d")).unwrap();
            durable(disk, "d/a", b"1");
            if save_parent {
                disk.sync_dir(root(), DIR).unwrap();
            }
            disk.power_cut();
            assert_eq!(disk.list(root()).unwrap().len(), names(disk).len());
            names(disk)
        })
    };
    assert_eq!(fate(false), BTreeSet::from([vec![], vec!["/d/a".to_owned()]]));
    assert_eq!(fate(true), BTreeSet::from([vec!["/d/a".to_owned()]]));
}

#[test]
fn a_removed_directory_may_come_back() {
    let seen = outcomes(200, |disk| {
        disk.create_dir(&path("d")).unwrap();
        disk.sync_dir(root(), DIR).unwrap();
        durable(disk, "d/a", b"1");
        disk.remove(&path("d/a")).unwrap();
        disk.remove_dir(&path("d")).unwrap();
        disk.power_cut();
        disk.list(&path("d")).ok().map(|found| found.len())
    });
    assert_eq!(seen, BTreeSet::from([None, Some(0), Some(1)]));
}

#[test]
fn a_failed_directory_sync_is_not_made_good_by_a_later_one() {
    let seen = outcomes(200, |disk| {
        open(disk, "a", OpenMode::CreateNew);
        disk.fail_next_sync(None);
        disk.sync_dir(root(), DIR).unwrap_err();
        assert_eq!(names(disk), ["/a"], "it is still shown");
        disk.sync_dir(root(), DIR).unwrap();
        disk.power_cut();
        names(disk).len()
    });
    assert_eq!(seen, BTreeSet::from([0, 1]));
}

#[test]
fn errors_are_those_of_a_file_system() {
    let disk = SimDisk::new(1);
    durable(&disk, "f", b"1");
    disk.create_dir(&path("d")).unwrap();
    durable(&disk, "d/g", b"2");
    let opening = |name: &str, mode| kind(disk.open(&path(name), mode));
    assert_eq!(opening("none", OpenMode::Read), ErrorKind::NotFound);
    assert_eq!(opening("none", OpenMode::Write), ErrorKind::NotFound);
    assert_eq!(opening("none/a", OpenMode::Create), ErrorKind::NotFound);
    assert_eq!(opening("f", OpenMode::CreateNew), ErrorKind::AlreadyExists);
    assert_eq!(opening("d", OpenMode::CreateNew), ErrorKind::AlreadyExists);
    assert_eq!(opening("d", OpenMode::Create), ErrorKind::IsADirectory);
    assert_eq!(opening("", OpenMode::Read), ErrorKind::IsADirectory);
    assert_eq!(opening("f/a", OpenMode::Create), ErrorKind::NotADirectory);
    assert_eq!(opening("../f", OpenMode::Read), ErrorKind::InvalidInput);
    assert_eq!(kind(disk.list(&path("f"))), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.list(&path("none"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.sync_dir(&path("none"), DIR)), ErrorKind::NotFound);
    assert_eq!(kind(disk.create_dir(&path("d"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create_dir(&path("f"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create_dir(root())), ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.create_dir(&path("none/d"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove(&path("none"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.remove(&path("d"))), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.remove_dir(&path("f"))), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.remove_dir(&path("d"))), ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(disk.rename(&path("none"), &path("a"))), ErrorKind::NotFound);
    assert_eq!(kind(disk.rename(&path("f"), &path("d"))), ErrorKind::IsADirectory);
    assert_eq!(kind(disk.rename(&path("d"), &path("f"))), ErrorKind::NotADirectory);
    assert_eq!(kind(disk.rename(&path("d"), &path("d/e"))), ErrorKind::InvalidInput);
    disk.rename(&path("f"), &path("f")).unwrap();
    let mut found = disk.list(root()).unwrap();
    found.sort();
    assert_eq!(found, [path("d"), path("f")]);
    assert_eq!(disk.list("".as_ref()).unwrap().len(), 2, "relative paths start at the same root");
    assert_eq!(disk.read_file("d/g").unwrap(), b"2");
}
