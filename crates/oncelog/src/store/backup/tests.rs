//! Backups that nobody makes: put together by hand, so that restoring meets what it must not believe.

use super::*;
use crate::backup::BackupTarget;
use crate::codec::{U64, Utf8};
use crate::disk::{Disk, MemoryDisk};
use crate::error::{ErrorKind, Result};
use crate::handles::{TableDef, TopicDef};
use crate::store::Store;
use crate::wake::Arc;

const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines");
const ROWS: TableDef<U64, U64> = TableDef::new("rows");

struct Place {
    disk: Arc<dyn Disk>,
    target: BackupTarget,
}

impl Place {
    fn new() -> Place {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let target = BackupTarget::dir_on(Arc::clone(&disk), "/target").unwrap();
        Place { disk, target }
    }

    fn open(&self) -> Store {
        let options = Store::options().manual_duties().journal_file_bytes(64 << 10).disk(Arc::clone(&self.disk));
        options.open("/data").unwrap()
    }

    fn restore(&self) -> Result<RestoreReport> {
        RestoreOptions::new().disk(Arc::clone(&self.disk)).restore(&self.target, "/restored")
    }
}

/// What a backup holds is of one opening: offsets between its rows and its frames that are missing are no hole.
#[test]
fn rows_of_another_moment_than_their_frames_are_told() {
    let place = Place::new();
    let store = place.open();
    let append = |value: u64| {
        store.producer(LINES).unwrap().append("k", &value.to_string()).unwrap();
        store.transact(|tx| tx.table(ROWS)?.put(&value, &value)).unwrap();
    };
    append(1);
    store.trim().unwrap();
    let early = store.backup(&place.target).unwrap().name;
    append(2);
    store.trim().unwrap();
    append(3);
    let late = store.backup(&place.target).unwrap().name;
    place.restore().unwrap();
    let early = place.target.read_manifest(&early).unwrap();
    let mut mixed = place.target.read_manifest(&late).unwrap();
    let frames = mixed.files.remove("owners/main/frames").unwrap();
    mixed.files = early.files;
    mixed.files.insert("owners/main/frames".to_owned(), frames);
    place.target.write_manifest(&mixed, 9).unwrap();
    let restored = RestoreOptions::new().disk(Arc::clone(&place.disk)).restore(&place.target, "/mixed");
    assert_eq!(restored.unwrap_err().kind(), ErrorKind::Corrupt);
}
