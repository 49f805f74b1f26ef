//! What is refused, how it is said, and that nothing is harmed by it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and makes its own files")]

use std::path::Path;
use std::sync::Arc;

use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{
    Bytes, ConsumerStyle, ErrorKind, Outcome, PartitionId, Processor, Store, StoreMode, StoreOptions, TableDef,
    TopicDef, U64, Utf8,
};

const LINES: TopicDef<Utf8, Bytes> = TopicDef::new("lines");
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");

fn on(disk: &Arc<MemoryDisk>) -> StoreOptions {
    StoreOptions::new().disk(Arc::clone(disk) as _).journal_file_bytes(64 << 10)
}

fn write(disk: &MemoryDisk, path: &str, bytes: &[u8]) {
    disk.open(Path::new(path), OpenMode::Create).unwrap().write_all_at(bytes, 0).unwrap();
}

fn read(disk: &MemoryDisk, path: &str) -> Vec<u8> {
    disk.open(Path::new(path), OpenMode::Read).unwrap().read_whole(1 << 20).unwrap()
}

#[test]
fn a_newer_format_is_left_alone() {
    let disk = Arc::new(MemoryDisk::default());
    on(&disk).open("/s").unwrap().close().unwrap();
    let mut bytes = read(&disk, "/s/STORE");
    bytes[8] += 1;
    let (summed, sum) = bytes.split_last_chunk_mut::<4>().unwrap();
    *sum = crc32c::crc32c(summed).to_le_bytes();
    write(&disk, "/s/STORE", &bytes);
    let manifest = read(&disk, "/s/owners/main/MANIFEST");
    let error = on(&disk).open("/s").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::UnsupportedVersion);
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(error.file(), Some(Path::new("/s/STORE")));
    assert_eq!(read(&disk, "/s/owners/main/MANIFEST"), manifest, "nothing is written");
}

#[test]
fn what_is_not_a_store_is_not_made_one() {
    let disk = Arc::new(MemoryDisk::default());
    disk.create_dir(Path::new("/s")).unwrap();
    write(&disk, "/s/thesis.txt", b"years of work");
    let error = on(&disk).open("/s").err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.file(), Some(Path::new("/s/thesis.txt")));
    assert_eq!(disk.list(Path::new("/s")).unwrap().len(), 1, "nothing is left there");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    assert_eq!(Store::open(&file).err().unwrap().kind(), ErrorKind::Invalid);
    let missing = StoreOptions::new().open_mode(StoreMode::Existing).open(dir.path().join("none"));
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
    assert!(!dir.path().join("none").exists());
}

#[test]
fn files_that_are_gone_are_named_and_never_made_anew() {
    for gone in ["/s/owners/main/MANIFEST", "/s/STORE"] {
        let disk = Arc::new(MemoryDisk::default());
        let store = on(&disk).open("/s").unwrap();
        store.producer(LINES).unwrap().append("a", b"1").unwrap();
        store.close().unwrap();
        disk.remove(Path::new(gone)).unwrap();
        let error = on(&disk).open("/s").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{gone}: {error}");
        assert_eq!(error.file(), Some(Path::new(gone)));
    }
}

#[test]
fn limits_are_typed_errors_and_the_handle_goes_on() {
    let store = StoreOptions::new()
        .disk(Arc::new(MemoryDisk::default()))
        .journal_file_bytes(64 << 10)
        .max_record_bytes(1000)
        .max_transaction_bytes(5000)
        .open("/s")
        .unwrap();
    let producer = store.producer(LINES).unwrap();
    let error = producer.append("k", &[0; 1001]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("max_record_bytes") && error.to_string().contains("lines"), "{error}");
    let many: Vec<(&str, &[u8])> = vec![("k", &[0; 900]); 6];
    let error = producer.append_batch(many).unwrap_err();
    assert!(error.to_string().contains("max_transaction_bytes"), "{error}");
    assert_eq!(producer.append("k", &[0; 900]).unwrap().0, 0);
    let error = producer.append_record(Some(PartitionId(7)), None, None, &[], None).unwrap_err();
    assert!(error.to_string().contains("there is no 7"), "{error}");
}

#[test]
fn a_record_of_the_default_limit_goes_through() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    let limit = (16 << 20) + (64 << 10);
    assert_eq!(producer.append("k", &vec![1; limit]).unwrap_err().kind(), ErrorKind::Invalid);
    producer.append("k", &vec![1; limit - 100]).unwrap();
    producer.append("", b"").unwrap();
    let mut lengths = Vec::new();
    let mut consumer = store.consumer(LINES, ConsumerStyle::ClientTx("c".into())).unwrap();
    consumer
        .try_process(None, |record, _| {
            lengths.push(record.value()?.len());
            Ok(Outcome::Commit)
        })
        .unwrap();
    assert_eq!(lengths, [limit - 100, 0]);
}

#[test]
fn another_definition_is_refused() {
    let store = Store::in_memory().unwrap();
    store.producer(LINES).unwrap();
    let other_codec: TopicDef<Utf8, Utf8> = TopicDef::new("lines");
    assert!(store.producer(other_codec).err().unwrap().to_string().contains("value codec bytes, not utf8"));
    assert!(store.producer(LINES.partitions(2)).err().unwrap().to_string().contains("partitions"));
    store.transact(|tx| tx.table(ROWS)?.put("a", &1)).unwrap();
    let other: TableDef<Utf8, Utf8> = TableDef::new("rows");
    assert_eq!(store.snapshot().unwrap().get(other, "a").unwrap_err().kind(), ErrorKind::Invalid);
    for bad in ["", &"x".repeat(241), &"É".repeat(60)] {
        let error = store.producer(TopicDef::<Utf8, Bytes>::named(bad)).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
    }
    for strange in ["../../x", "/etc/passwd", "a\0b", "LINES", "."] {
        store.producer(TopicDef::<Utf8, Bytes>::named(strange)).unwrap().append("k", b"v").unwrap();
    }
}

#[test]
fn a_processors_table_takes_only_keys_of_its_partition() {
    let input: TopicDef<Utf8, Bytes> = TopicDef::new("in").partitions(4);
    let store = Store::in_memory().unwrap();
    store.producer(input.clone()).unwrap().append("ann", b"x").unwrap();
    let engine = oncelog::AsEngine::as_engine(&store);
    let mut task = Processor::new("p", input)
        .table(ROWS)
        .build(engine, |record, tx| {
            tx.table(ROWS)?.put(record.key()?, &1)?;
            // Some of these belong to other partitions.
            for n in 0..20 {
                tx.table(ROWS)?.put(&format!("other {n}"), &1)?;
            }
            Ok(Outcome::Commit)
        })
        .unwrap();
    let error = task.step(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("partition"), "{error}");
    assert_eq!(store.snapshot().unwrap().get(ROWS, "ann").unwrap(), None, "nothing of the record is committed");
}

#[test]
fn a_closed_store_answers_so_on_every_handle() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    let mut consumer = store.consumer(LINES, ConsumerStyle::ClientTx("c".into())).unwrap();
    let open = store.begin().unwrap();
    store.clone().close().unwrap();
    assert_eq!(producer.append("k", b"v").unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(producer.flush().unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(consumer.try_process(None, |_, _| Ok(Outcome::Commit)).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.transact(|tx| tx.append(LINES, "k", b"v")).unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(store.snapshot().err().unwrap().kind(), ErrorKind::Closed);
    let mut open = open;
    let staged = open.append(LINES, "k", b"v").and_then(|()| open.commit().map(drop));
    assert_eq!(staged.unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn a_user_error_comes_back_as_it_is() {
    let store = Store::in_memory().unwrap();
    let producer = store.producer(LINES).unwrap();
    producer.append("k", b"1").unwrap();
    producer.append("k", b"2").unwrap();
    let mut consumer = store.consumer(LINES, ConsumerStyle::ClientTx("c".into())).unwrap();
    let error = consumer
        .try_process(None, |record, _| match record.value()? {
            b"2" => Err(oncelog::Error::user(std::io::Error::other("the mail server is away"))),
            _ => Ok(Outcome::Commit),
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::User);
    assert!(error.to_string().contains("the mail server is away"), "{error}");
    assert_eq!(store.committed_offsets("c", "lines").unwrap()[0].0, 1);
}
