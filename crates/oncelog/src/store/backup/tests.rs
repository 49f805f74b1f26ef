//! Backups that nobody makes: put together by hand, so that restoring meets what it must not believe.

use super::*;
use crate::backup::{BackupManifest, BackupTarget};
use crate::codec::{U64, Utf8};
use crate::consumer::{ConsumerStyle, Whence};
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

/// An image of the machine with its memory: two histories go on in one opening, and draw the same salts. As long as
/// the records of one are as those of the other, nothing else tells their segments apart.
#[test]
fn a_segment_of_another_history_of_one_opening_is_no_copy() {
    let target = BackupTarget::dir_on(Arc::new(MemoryDisk::default()), "/target").unwrap();
    for value in ["a", "b"] {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let options = Store::options().manual_duties().journal_file_bytes(64 << 10).seed(7).disk(Arc::clone(&disk));
        let store = options.open("/data").unwrap();
        store.producer(LINES).unwrap().append("k", &value.repeat(100)).unwrap();
        store.trim().unwrap();
        let made = store.backup(&target).unwrap();
        assert!(made.new_chunks > 0 && target.list().unwrap().iter().all(|info| info.store == made.store));
        RestoreOptions::new().disk(Arc::clone(&disk)).restore(&target, "/restored").unwrap();
        let lines = Store::options().manual_duties().disk(disk).open("/restored").unwrap();
        let mut lines = lines.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
        assert_eq!(lines.next().unwrap().unwrap().value.unwrap(), value.repeat(100).as_bytes());
    }
}

/// The checksum of a manifest is no signature.
#[test]
fn owners_that_no_store_can_have_are_refused() {
    let place = Place::new();
    let store = place.open();
    store.producer(LINES).unwrap().append("k", "x").unwrap();
    let made = place.target.read_manifest(&store.backup(&place.target).unwrap().name).unwrap();
    let refused = |manifest: &BackupManifest| {
        let name = place.target.write_manifest(manifest, 9).unwrap();
        let options = RestoreOptions::new().disk(Arc::clone(&place.disk)).backup(&name);
        let error = options.restore(&place.target, "/restored").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.file().is_some_and(|file| file.to_str().unwrap().contains(&name)), "{error}");
    };
    for name in ["", "a\0b", &"n".repeat(65), &"n".repeat(240)] {
        let mut named = made.clone();
        named.owners[0].name = name.to_owned();
        for stream in ["rows", "frames"] {
            let file = named.files.remove(&format!("owners/main/{stream}")).unwrap();
            if !name.is_empty() {
                named.files.insert(format!("owners/{}/{stream}", crate::ids::escape_name(name)), file);
            }
        }
        refused(&named);
    }
    let mut twice = made.clone();
    twice.owners.push(twice.owners[0].clone());
    twice.owners[1].name.push('2');
    refused(&twice);
    refused(&BackupManifest { owners: Vec::new(), ..made });
}
