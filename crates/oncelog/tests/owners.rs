//! Several owners on one store: how they come to be, what belongs to whom, who keeps whom out.
#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::Path;
use std::sync::Arc;

use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{
    Bytes, ConsumerStyle, ErrorKind, LogOffset, OwnerId, PartitionId, Store, StoreMode, StoreOptions, TableDef,
    TopicDef, TopicId, U64, Utf8,
};

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

#[test]
fn a_topic_a_table_and_a_consumer_belong_to_one_owner_for_life() {
    const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");
    let disk = Arc::new(MemoryDisk::default());
    let main = options(&disk).open("/s").unwrap();
    append(&main, ORDERS, b"1");
    main.transact(|tx| tx.table(ROWS)?.put("a", &1)).unwrap();
    let global = |store: &Store, topic| store.consumer(topic, ConsumerStyle::GlobalTx).map(drop);
    let reader =
        |store: &Store, topic, id: &str| store.consumer(topic, ConsumerStyle::ClientTx(id.to_owned())).map(drop);
    reader(&main, ORDERS, "audit").unwrap();
    global(&main, ORDERS).unwrap();

    let billing = options(&disk).attach("/s", "billing").unwrap();
    append(&billing, BILLS, b"1");
    global(&billing, BILLS).unwrap();
    let refused = [
        billing.producer(ORDERS).map(drop),
        billing.transact(|tx| tx.table(ROWS)?.put("a", &2)),
        reader(&billing, BILLS, "audit"),
        main.producer(BILLS).map(drop),
        // One transaction over topics of two owners.
        main.transact(|tx| {
            tx.append(ORDERS, b"", b"2")?;
            tx.append(BILLS, b"", b"2")
        }),
    ];
    let owners = ["main", "main", "main", "billing", "billing"];
    for (refused, owner) in refused.into_iter().zip(owners) {
        let error = refused.unwrap_err();
        assert_eq!((error.kind(), error.holder_owner()), (ErrorKind::Locked, Some(owner)), "{error}");
        let pid = cfg!(target_os = "linux").then(std::process::id);
        assert_eq!(error.holder_pid(), pid, "{error}");
        assert!(error.to_string().contains(owner), "{error}");
    }
    // The same again when nobody is there, and with another id.
    main.close().unwrap();
    let gone = billing.producer(ORDERS).map(drop).unwrap_err();
    assert_eq!((gone.kind(), gone.holder_owner(), gone.holder_pid()), (ErrorKind::Locked, Some("main"), None));
    reader(&billing, BILLS, "audit 2").unwrap();
    billing.close().unwrap();
    let main = options(&disk).open("/s").unwrap();
    assert_eq!(main.offsets("orders", PartitionId(0)).unwrap().1, LogOffset(1), "a refused transaction did nothing");
    reader(&main, ORDERS, "audit").unwrap();
    assert_eq!(reader(&main, ORDERS, "audit 2").unwrap_err().holder_owner(), Some("billing"));
}

#[test]
fn a_claim_without_its_text_is_free_and_a_damaged_one_is_not() {
    let disk = Arc::new(MemoryDisk::default());
    let main = options(&disk).open("/s").unwrap();
    // What a crash leaves that came between the directory and its claim.
    for dir in ["/s/topics/bills", "/s/consumers/audit"] {
        disk.create_dir(Path::new(dir)).unwrap();
    }
    append(&main, BILLS, b"1");
    main.consumer(BILLS, ConsumerStyle::ClientTx("audit".to_owned())).unwrap();
    // What rot leaves.
    let claim = disk.open(Path::new("/s/consumers/audit/CLAIM"), OpenMode::Write).unwrap();
    claim.write_all_at(&[0xFF], 30).unwrap(); // in the name of its owner
    let billing = options(&disk).attach("/s", "billing").unwrap();
    append(&billing, ORDERS, b"1");
    let refused = billing.consumer(ORDERS, ConsumerStyle::ClientTx("audit".to_owned())).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    // A claim that is gone while records are there.
    disk.remove(Path::new("/s/topics/bills/CLAIM")).unwrap();
    assert_eq!(billing.producer(BILLS).map(drop).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn a_deleted_topic_takes_the_claim_of_its_global_consumer_with_it() {
    let disk = Arc::new(MemoryDisk::default());
    let main = options(&disk).open("/s").unwrap();
    let billing = options(&disk).attach("/s", "billing").unwrap();
    let claims = || disk.list(Path::new("/s/consumers")).unwrap().len();
    for owner in [&main, &billing] {
        append(&main, ORDERS, b"1");
        drop(owner.consumer(ORDERS, ConsumerStyle::GlobalTx).unwrap());
        drop(owner.consumer(ORDERS, ConsumerStyle::ClientTx(format!("of {}", owner.owner()))).unwrap());
        let before = claims();
        main.delete_topic("orders").unwrap();
        assert_eq!(claims(), before - 1, "those of consumers that may read other topics stay");
    }
    // Made anew it has a global consumer again, of whoever comes first.
    append(&main, ORDERS, b"1");
    drop(billing.consumer(ORDERS, ConsumerStyle::GlobalTx).unwrap());
    assert_eq!(main.consumer(ORDERS, ConsumerStyle::GlobalTx).map(drop).unwrap_err().kind(), ErrorKind::Locked);
}
