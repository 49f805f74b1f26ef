//! Several owners on one store: how they come to be, what belongs to whom, who keeps whom out.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::Path;
use std::sync::Arc;

use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{Bytes, ErrorKind, OwnerId, Store, StoreMode, StoreOptions, TopicDef, TopicId};

const ORDERS: TopicDef<Bytes, Bytes> = TopicDef::new("orders");
const BILLS: TopicDef<Bytes, Bytes> = TopicDef::new("bills");

fn options(disk: &Arc<MemoryDisk>) -> StoreOptions {
    StoreOptions::new().disk(Arc::clone(disk) as _).journal_file_bytes(64 << 10)
}

fn append(store: &Store, topic: TopicDef<Bytes, Bytes>, value: &[u8]) -> TopicId {
    let mut tx = store.begin().unwrap();
    tx.append(topic, b"", value).unwrap();
    tx.commit().unwrap().appended[0].topic
}

#[test]
fn owners_live_side_by_side_with_topic_ids_that_never_meet() {
    let disk = Arc::new(MemoryDisk::default());
    for _ in 0..2 {
        let main = options(&disk).open("/s").unwrap();
        let billing = options(&disk).attach("/s", "billing").unwrap();
        let audit = options(&disk).attach("/s", "audit").unwrap();
        assert_eq!((main.owner(), billing.owner(), audit.owner()), ("main", "billing", "audit"));
        assert_eq!((main.id(), billing.id()), (audit.id(), audit.id()));
        assert_eq!(append(&main, ORDERS, b"1"), TopicId(1));
        let (bills, audits) = (append(&billing, BILLS, b"2"), append(&audit, TopicDef::new("audits"), b"3"));
        assert_eq!((bills.owner(), audits.owner()), (OwnerId(1), OwnerId(2)));
        assert_eq!((bills, audits), (TopicId((1 << 22) + 1), TopicId((2 << 22) + 1)));
        for store in [main, billing, audit] {
            store.close().unwrap();
        }
    }
}

#[test]
fn an_owner_is_in_one_place_at_a_time_and_others_are_free() {
    let disk = Arc::new(MemoryDisk::default());
    let billing = options(&disk).attach("/s", "billing").unwrap();
    let second = options(&disk).attach("/s", "billing").unwrap_err();
    assert_eq!((second.kind(), second.holder_pid()), (ErrorKind::Locked, Some(std::process::id())));
    options(&disk).open("/s").unwrap().close().unwrap();
    billing.close().unwrap();
    options(&disk).attach("/s", "billing").unwrap().close().unwrap();
}

#[test]
fn an_owner_is_made_only_when_asked_for() {
    let disk = Arc::new(MemoryDisk::default());
    options(&disk).open("/s").unwrap().close().unwrap();
    let missing = options(&disk).open_mode(StoreMode::Existing).attach("/s", "billing").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(!disk.list(Path::new("/s/owners")).unwrap().iter().any(|path| path.ends_with("billing")));
}

#[test]
fn names_of_owners_stay_inside_and_apart() {
    let disk = Arc::new(MemoryDisk::default());
    for name in ["", "a\0b", &"x".repeat(65), &"x".repeat(300)] {
        let refused = options(&disk).attach("/s", name).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name:?}");
    }
    let names = ["../../x", "..", "/etc", "Billing", "billing", "LOCK", "%41", "é", &"y".repeat(64)];
    let stores: Vec<_> = names.iter().map(|name| options(&disk).attach("/s", name).unwrap()).collect();
    let mut owners = disk.list(Path::new("/s/owners")).unwrap();
    owners.retain(|path| disk.list(path).is_ok());
    assert_eq!(owners.len(), names.len() + 1, "one directory for each, and main");
    assert!(disk.list(Path::new("/etc")).is_err());
    drop(stores);
    for name in names {
        let again = options(&disk).open_mode(StoreMode::Existing).attach("/s", name).unwrap();
        assert_eq!(again.owner(), name);
    }
}

#[test]
fn a_manifest_that_is_gone_is_damage_and_never_a_second_owner() {
    let disk = Arc::new(MemoryDisk::default());
    let billing = options(&disk).attach("/s", "billing").unwrap();
    append(&billing, BILLS, b"1");
    billing.close().unwrap();
    disk.remove(Path::new("/s/owners/billing/MANIFEST")).unwrap();
    assert_eq!(options(&disk).attach("/s", "billing").unwrap_err().kind(), ErrorKind::Corrupt);
    // Nor is its number known, so nobody gets one that it may have.
    assert_eq!(options(&disk).attach("/s", "audit").unwrap_err().kind(), ErrorKind::Corrupt);
    options(&disk).open("/s").unwrap();
}

#[test]
fn an_interrupted_making_starts_over() {
    let disk = Arc::new(MemoryDisk::default());
    options(&disk).open("/s").unwrap().close().unwrap();
    disk.create_dir(Path::new("/s/owners/billing")).unwrap();
    disk.create_dir(Path::new("/s/owners/billing/journal")).unwrap();
    disk.open(Path::new("/s/owners/billing/MANIFEST"), OpenMode::Create).unwrap();
    let audit = options(&disk).attach("/s", "audit").unwrap();
    let billing = options(&disk).attach("/s", "billing").unwrap();
    let (first, second) = (append(&audit, ORDERS, b"1"), append(&billing, BILLS, b"1"));
    assert_eq!((first.owner(), second.owner()), (OwnerId(1), OwnerId(2)));
}
