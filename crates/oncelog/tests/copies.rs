//! Directories that are not what they seem: copies, other paths, symbolic links, file systems that cannot be written.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;

use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use hooked_disk::{Event, over};
use oncelog::disk::{Disk, OpenMode, RealDisk};
use oncelog::{Bytes, ErrorKind, Store, TopicDef};

const LINES: TopicDef<Bytes, Bytes> = TopicDef::new("lines");

fn append(store: &Store) -> u64 {
    store.producer(LINES).unwrap().append(b"", b"line").unwrap().0
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to)
        } else {
            std::fs::copy(entry.path(), to).map(drop).unwrap()
        }
    }
}

#[test]
fn a_copy_is_refused_beside_the_first_until_it_is_adopted() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let store = Store::open(&first).unwrap();
    append(&store);
    store.close().unwrap();
    copy(&first, &second);

    let store = Store::open(&first).unwrap();
    let refused = Store::open(&second).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    assert!(refused.to_string().contains(first.to_str().unwrap()), "{refused}");
    // Another owner of the copy is no copy of this one.
    assert_eq!(Store::adopt(&first).unwrap_err().kind(), ErrorKind::Locked, "not while it is open");
    let adopted = Store::adopt(&second).unwrap();
    assert_ne!(adopted, store.id());
    let other = Store::open(&second).unwrap();
    assert_eq!(other.id(), adopted);
    assert_eq!((append(&store), append(&other)), (1, 1));
    // Both are open again and again, at the same time.
    other.close().unwrap();
    let other = Store::open(&second).unwrap();
    assert_eq!((append(&other), other.id()), (2, adopted));
    store.close().unwrap();
    drop(Store::open(&first).unwrap());
}

#[test]
fn an_adoption_that_was_interrupted_leaves_the_old_identity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let id = store.id();
    store.close().unwrap();
    std::fs::write(path.join("STORE.new"), b"half").unwrap();
    assert_eq!(Store::open(&path).unwrap().id(), id);
    let adopted = Store::adopt(&path).unwrap();
    assert_eq!(Store::open(&path).unwrap().id(), adopted);
}

#[test]
fn one_directory_under_two_paths_is_no_copy() {
    let dir = tempfile::tempdir().unwrap();
    let (path, link) = (dir.path().join("store"), dir.path().join("link"));
    let store = Store::open(&path).unwrap();
    symlink(&path, &link).unwrap();
    let locked = Store::open(&link).unwrap_err();
    assert_eq!((locked.kind(), locked.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
    store.close().unwrap();
    append(&Store::open(&link).unwrap());
}

#[test]
fn nothing_outside_is_touched_through_a_link() {
    for linked in ["STORE", "owners/main/MANIFEST", "topics/lines/CLAIM"] {
        let dir = tempfile::tempdir().unwrap();
        let (path, outside) = (dir.path().join("store"), dir.path().join("outside"));
        let store = Store::open(&path).unwrap();
        append(&store);
        store.close().unwrap();
        std::fs::rename(path.join(linked), &outside).unwrap();
        symlink(&outside, path.join(linked)).unwrap();
        let before = std::fs::read(&outside).unwrap();
        let refused = Store::open(&path).and_then(|store| store.producer(LINES).map(drop));
        assert!(refused.is_err(), "{linked}");
        assert_eq!(std::fs::read(&outside).unwrap(), before, "{linked}");
    }
}

/// The machine's disk, of which nothing may be written.
fn read_only() -> Arc<dyn Disk> {
    over(Arc::new(RealDisk), |event| match event {
        Event::Open(_, mode) if mode != OpenMode::Read => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        Event::Rename(..) | Event::Remove(_) | Event::CreateDir(_) | Event::RemoveDir(_) | Event::SyncDir(..) => {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }
        _ => Ok(()),
    })
}

#[test]
fn a_read_only_file_system_is_told_at_the_opening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    append(&Store::open(&path).unwrap());
    let options = || Store::options().disk(read_only());
    for opened in [options().open(&path), options().attach(&path, "billing"), options().open(dir.path().join("new"))] {
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().to_lowercase().contains("read-only"), "{error}");
    }
    assert_eq!(append(&Store::open(&path).unwrap()), 1);
}
