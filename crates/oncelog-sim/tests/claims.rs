//! Names that are given back, on a disk that loses what was not synced.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::path::Path;
use std::sync::Arc;

use oncelog::StoreOptions;
use oncelog::disk::{Disk, OpenMode, SyncSite};
use oncelog_sim::disk::{SimDisk, Survival};

/// Somebody has put a file beside the claim, so that the directory stays: the claim is gone for good all the same.
#[test]
fn an_id_that_was_given_back_stays_so_where_its_directory_cannot_go() {
    let disk = SimDisk::new(1);
    let options = || StoreOptions::new().disk(Arc::new(disk.clone())).manual_duties().journal_file_bytes(4096);
    let store = options().open("/s").unwrap();
    store.create_consumers(["mail"]).unwrap();
    let dir = Path::new("/s/consumers/mail");
    disk.open(&dir.join("note"), OpenMode::CreateNew).unwrap();
    disk.sync_dir(dir, SyncSite::TopicDir).unwrap();
    store.forget_consumer("mail").unwrap();
    disk.crash_after(1);
    drop(store);
    disk.power_cut_with(Survival::Nothing);
    let other = options().attach("/s", "other").unwrap();
    other.create_consumers(["mail"]).unwrap();
    other.close().unwrap();
}
