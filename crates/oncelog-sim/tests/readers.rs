//! Readers of a store whose journal failed, and whose next owner was killed before its recovery was complete.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::sync::Arc;

use oncelog::disk::SyncSite;
use oncelog::{Bytes, LogOffset, PartitionId, Store, StoreOptions, StoreReader, TopicDef};
use oncelog_sim::disk::{SimDisk, Survival};

const DIR: &str = "/data/store";
const PLAIN: TopicDef<Bytes, Bytes> = TopicDef::new("plain");

fn options(disk: &SimDisk) -> StoreOptions {
    Store::options().disk(Arc::new(disk.clone())).seed(1).manual_duties().journal_file_bytes(4096)
}

fn end(disk: &SimDisk) -> LogOffset {
    let reader = StoreReader::options().disk(Arc::new(disk.clone())).open(DIR).unwrap();
    reader.offsets("plain", PartitionId(0)).unwrap().1
}

/// Three records are durable, the sync of the fourth fails, and the process ends.
fn failed_journal() -> SimDisk {
    let disk = SimDisk::new(1);
    let store = options(&disk).open(DIR).unwrap();
    let plain = store.producer(PLAIN).unwrap();
    for _ in 0..3 {
        plain.append(b"k", b"durable").unwrap();
    }
    disk.fail_next_sync(Some(SyncSite::JournalGroup));
    plain.append(b"k", b"in doubt").unwrap_err();
    drop(plain);
    let _ = store.close();
    disk.clear_faults();
    disk.process_kill();
    disk
}

#[test]
fn a_failed_journal_is_remembered_until_a_recovery_is_complete() {
    let mut openings = 0;
    for steps in 1..400 {
        let disk = failed_journal();
        assert_eq!(end(&disk), LogOffset(3));
        disk.crash_after(steps);
        let opened = options(&disk).open(DIR);
        let dead = disk.is_dead();
        drop(opened);
        disk.process_kill();
        // What the page cache still shows of the fourth record proves nothing, unless a recovery has made it durable.
        let shown = end(&disk);
        disk.power_cut_with(Survival::Nothing);
        assert!(end(&disk) >= shown, "{steps} steps into the recovery: {shown} was shown, {} is left", end(&disk));
        let store = options(&disk).open(DIR).unwrap();
        assert!(store.offsets("plain", PartitionId(0)).unwrap().1 >= shown, "{steps} steps into the recovery");
        if !dead {
            assert!(steps > 10);
            return;
        }
        openings += 1;
    }
    panic!("{openings} openings did not come to their end");
}
