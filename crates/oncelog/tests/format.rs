//! The bytes on disk are those that `docs/format.md` says. The page's tables are read as they stand: every field is
//! looked up by its name there, so that the page cannot go its own way; golden bytes below see to it that the format
//! cannot.
//!
//! A golden value that differs means another format, with one exception: salts and identities come from the seed, so
//! another order of drawing them changes these and the checksums over them. Look which bytes differ.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::Digest as _;

use oncelog::clock::Clock;
use oncelog::disk::{Disk, MapAccess, MemoryDisk, OpenMode};
use oncelog::{
    BackupTarget, Bytes, CheckpointId, CheckpointState, CheckpointStore, Compaction, ConsumerStyle,
    FileCheckpointStore, IdempotentProducerConfig, Offset, Outcome, PartitionId, ProducerStamp, Sequence, Store,
    StoreOptions, SyncPolicy, TableDef, TopicDef, U64, Utf8,
};

const PAGE: &str = include_str!("../../../docs/format.md");
const NOW_MS: i64 = 1_700_000_000_000;
const JOURNAL_FILE_BYTES: u64 = 4096;
/// `docs/format.md`: frames start here, at multiples of 8.
const FRAMES_AT: usize = 512;

const ORDERS: TopicDef<Utf8, Bytes> = TopicDef::new("Orders").partitions(2);
const TOTALS: TableDef<Utf8, U64> = TableDef::new("totals");

struct Stopped;

impl Clock for Stopped {
    fn now_ms(&self) -> i64 {
        NOW_MS
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _pause: Duration) {}
}

// The page.

/// A row of a table with offsets.
struct Field {
    offset: usize,
    size: usize,
    kind: String,
    name: String,
    meaning: String,
}

/// A table with offsets, named by the heading above it.
struct Structure {
    name: String,
    fields: Vec<Field>,
}

fn structures() -> Vec<Structure> {
    let mut found: Vec<Structure> = Vec::new();
    let (mut heading, mut inside) = ("", false);
    for line in PAGE.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            heading = title;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        match cells[..] {
            ["offset", "size", "type", "name", "meaning"] => {
                found.push(Structure { name: heading.to_owned(), fields: Vec::new() });
                inside = true;
            }
            [offset, size, kind, name, meaning] if inside && !offset.starts_with('-') => {
                let number = |text: &str| text.parse().expect("offsets and sizes are numbers");
                let (kind, name, meaning) = (kind.to_owned(), name.to_owned(), meaning.to_owned());
                let field = Field { offset: number(offset), size: number(size), kind, name, meaning };
                found.last_mut().expect("a row has a table").fields.push(field);
            }
            [_, _, _, _, _] => {}
            _ => inside = false,
        }
    }
    found
}

fn structure(name: &str) -> Structure {
    let found = structures().into_iter().find(|structure| structure.name == name);
    found.unwrap_or_else(|| panic!("the page has no table {name:?}"))
}

impl Structure {
    fn size(&self) -> usize {
        self.fields.iter().map(|field| field.size).sum()
    }

    fn field(&self, name: &str) -> &Field {
        let found = self.fields.iter().find(|field| field.name == name);
        found.unwrap_or_else(|| panic!("{} has no field {name:?} in the page", self.name))
    }

    fn range(&self, name: &str) -> Range<usize> {
        let field = self.field(name);
        field.offset..field.offset + field.size
    }

    fn bytes<'b>(&self, of: &'b [u8], name: &str) -> &'b [u8] {
        &of[self.range(name)]
    }

    /// A field as the number that its type says it is.
    fn number(&self, of: &[u8], name: &str) -> i128 {
        let (field, bytes) = (self.field(name), self.bytes(of, name));
        let (kind, big) = field.kind.strip_suffix(" be").map_or((field.kind.as_str(), false), |kind| (kind, true));
        assert_eq!(kind[1..].parse(), Ok(field.size * 8), "{}: the type of {name:?} and its size", self.name);
        let from_top: Vec<u8> = if big { bytes.to_vec() } else { bytes.iter().rev().copied().collect() };
        let value = from_top.iter().fold(0i128, |value, byte| value << 8 | i128::from(*byte));
        let negative = kind.starts_with('i') && from_top[0] >= 0x80;
        if negative { value - (1 << (field.size * 8)) } else { value }
    }

    fn usize(&self, of: &[u8], name: &str) -> usize {
        usize::try_from(self.number(of, name)).expect("a small number")
    }

    /// The magic that the page gives, against the bytes.
    fn check_magic(&self, of: &[u8]) {
        let field = self.field("magic");
        let text = field.meaning.split('`').nth(1).expect("the magic stands in backticks").replace("\\0", "\0");
        assert_eq!(self.bytes(of, "magic"), text.as_bytes(), "{}", self.name);
    }

    /// The checksum of that name, over all bytes before it.
    fn check_sum(&self, of: &[u8], name: &str) {
        let stored = self.number(of, name);
        assert_eq!(stored, sum(&[&of[..self.field(name).offset]]), "{}: {name}", self.name);
    }

    fn check_zero(&self, of: &[u8]) {
        let zeros = self.fields.iter().filter(|field| field.name == "zero");
        zeros.for_each(|field| assert!(of[field.offset..field.offset + field.size].iter().all(|byte| *byte == 0)));
    }
}

fn sum(parts: &[&[u8]]) -> i128 {
    i128::from(parts.iter().fold(0, |sum, part| crc32c::crc32c_append(sum, part)))
}

// The store.

/// A small store that is still open, with a file of each kind.
struct Made {
    disk: Arc<MemoryDisk>,
    store: Store,
}

impl Made {
    /// Frame 1 makes the topic, frame 2 appends to it; the others bring a row of each kind, until the first journal
    /// file is full.
    fn new() -> Made {
        let disk = Arc::new(MemoryDisk::default());
        let options = StoreOptions::new()
            .disk(Arc::clone(&disk) as _)
            .clock(Arc::new(Stopped))
            .seed(1)
            .manual_duties()
            .journal_file_bytes(JOURNAL_FILE_BYTES);
        let made = Made { disk, store: options.open("/s").expect("a new store") };
        made.fill().expect("a store that works");
        made
    }

    fn fill(&self) -> oncelog::Result<()> {
        let store = &self.store;
        let producer = store.producer(ORDERS)?;
        producer.append("ann", b"first")?;
        store.transact(|tx| tx.table(TOTALS)?.put("ann", &5))?;
        store.producer(ORDERS)?.sync_policy(SyncPolicy::Os).append("ann", b"second")?;
        let mut audit = store.consumer(ORDERS, ConsumerStyle::ClientTx("audit".to_owned()))?;
        audit.try_process(Some(1), |_, _| Ok(Outcome::Commit))?;
        while self.list("/s/owners/main/journal").len() < 2 {
            producer.append("ann", &[7; 500])?;
        }
        Ok(())
    }

    fn list(&self, dir: &str) -> Vec<PathBuf> {
        let mut paths = self.disk.list(Path::new(dir)).expect("a directory of the store");
        paths.sort();
        paths
    }

    fn read(&self, path: impl AsRef<Path>) -> Vec<u8> {
        let file = self.disk.open(path.as_ref(), OpenMode::Read).expect("a file of the store");
        file.read_whole(1 << 20).expect("a small file")
    }

    fn journal(&self, slot: u32) -> Vec<u8> {
        self.read(format!("/s/owners/main/journal/0000000001-{slot:06}.journal"))
    }

    fn segment(&self) -> Vec<u8> {
        self.read("/s/topics/%4Frders/000000/00000000000000000000-0000000001.segment")
    }

    fn claim(&self) -> Vec<u8> {
        self.read("/s/topics/%4Frders/CLAIM")
    }

    /// The one table file, with its name.
    fn table_file(&self) -> (String, Vec<u8>) {
        let paths = self.list("/s/owners/main/state");
        assert_eq!(paths.len(), 1);
        let name = paths[0].file_name().and_then(|name| name.to_str()).expect("a name in ASCII");
        (name.to_owned(), self.read(&paths[0]))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the frames of a journal file are.
fn frames(file: &[u8]) -> Vec<usize> {
    let head = structure("Frame head");
    let mut found = Vec::new();
    let mut at = FRAMES_AT;
    while file.get(at..at + 4) == Some(b"OLfr") {
        found.push(at);
        at = (at + head.size() + head.usize(&file[at..], "body bytes")).next_multiple_of(8);
    }
    found
}

fn body(file: &[u8], frame: usize) -> &[u8] {
    let head = structure("Frame head");
    let start = frame + head.size();
    &file[start..start + head.usize(&file[frame..], "body bytes")]
}

// The tests.

#[test]
fn tables_of_the_page_have_no_hole_and_no_overlap() {
    let found = structures();
    for structure in &found {
        let mut next = 0;
        for field in &structure.fields {
            assert_eq!(field.offset, next, "{}: {}", structure.name, field.name);
            next += field.size;
        }
    }
    // Each of these is held against a file below.
    let names: Vec<&str> = found.iter().map(|structure| structure.name.as_str()).collect();
    let tested = [
        "STORE",
        "MANIFEST file",
        "MANIFEST copy",
        "MANIFEST holder",
        "Journal file head",
        "Frame head",
        "Rotate body",
        "Batch head",
        "Page head",
        "Page entry",
        "Segment head",
        "Index head",
        "Index entry",
        "Table file head",
        "Block check",
        "CLAIM head",
        "Checkpoint head",
        "Backup head",
        "Piece head",
    ];
    assert_eq!(names, tested);
}

#[test]
fn store_and_claim() {
    let made = Made::new();
    let (page, store) = (structure("STORE"), made.read("/s/STORE"));
    assert_eq!(store.len(), page.size());
    page.check_magic(&store);
    page.check_sum(&store, "checksum");
    assert_eq!(page.number(&store, "format"), 1);
    assert_eq!(page.bytes(&store, "store"), made.store.id().0);

    let (page, claim) = (structure("CLAIM head"), made.claim());
    page.check_magic(&claim);
    assert_eq!(page.bytes(&claim, "store"), made.store.id().0);
    assert_eq!(page.number(&claim, "topic"), 1);
    let (summed, stored) = claim.split_at(claim.len() - 4);
    assert_eq!(page.number(&claim, "partitions"), 2);
    assert_eq!(&summed[page.size()..], b"\x04main\x06Orders\x04utf8\x05bytes");
    assert_eq!(stored, crc32c::crc32c(summed).to_le_bytes());
}

#[test]
fn page() {
    let made = Made::new();
    let (head, entry) = (structure("Page head"), structure("Page entry"));
    let path = Path::new("/s/owners/main/page/0000000001-000.page");
    assert_eq!(made.disk.open(path, OpenMode::Read).expect("a page").len().expect("a length"), 8192 * 8);
    let map = made.disk.map_shared(path, 8192, MapAccess::Read).expect("a page in memory");
    let words = map.words().iter().flat_map(|word| word.load(std::sync::atomic::Ordering::SeqCst).to_le_bytes());
    let bytes: Vec<u8> = words.collect();
    assert_eq!(head.bytes(&bytes, "magic"), b"OLPAGE\0\x01");
    assert_eq!(head.bytes(&bytes, "store"), made.store.id().0);
    assert_eq!(head.number(&bytes, "epoch"), 1);
    assert_eq!(head.number(&bytes, "process"), i128::from(std::process::id()));
    assert_eq!(head.bytes(&bytes, "boot"), made.disk.boot_id().to_le_bytes());
    assert_eq!(head.number(&bytes, "number"), 0);
    let at = head.field("checksum").offset;
    assert_eq!(head.number(&bytes, "checksum"), i128::from(crc32c::crc32c(&bytes[..at])));
    assert_eq!(head.number(&bytes, "state"), 1);
    let visible = head.number(&bytes, "visible LSN");
    assert_eq!(head.usize(&bytes, "entries"), 2, "partitions of Orders");
    for (at, partition) in [oncelog::PartitionId(0), oncelog::PartitionId(1)].into_iter().enumerate() {
        let bytes = &bytes[head.size() + at * entry.size()..][..entry.size()];
        assert_eq!(entry.number(bytes, "key"), (1 << 32) + i128::from(partition.0));
        assert_eq!(entry.number(bytes, "start"), 0);
        entry.check_zero(bytes);
        let ends = [("first LSN", "first end"), ("second LSN", "second end")];
        let ends = ends.map(|(lsn, end)| (entry.number(bytes, lsn), entry.number(bytes, end)));
        let newest = ends.into_iter().filter(|(lsn, _)| *lsn <= visible).max().expect("one is visible");
        let (_, end) = made.store.offsets("Orders", partition).expect("an end");
        assert_eq!(newest.1, i128::from(end.0));
    }
}

#[test]
fn manifest() {
    let made = Made::new();
    made.store.trim().expect("room");
    let (file, copy) = (structure("MANIFEST file"), structure("MANIFEST copy"));
    let bytes = made.read("/s/owners/main/MANIFEST");
    assert_eq!(bytes.len(), file.size());
    file.check_zero(&bytes);
    let (holder, about) = (file.bytes(&bytes, "holder"), structure("MANIFEST holder"));
    assert_eq!(holder.len(), about.size());
    assert_eq!(about.number(holder, "pid"), i128::from(std::process::id()));
    about.check_zero(holder);
    about.check_sum(holder, "checksum");
    // The first opening has epoch 1, and leaves the copies of the making alone.
    let made_first = file.bytes(&bytes, "even first copy");
    // Two copies of one write differ in one field, and so in their checksums.
    let same_but_second = |one: &[u8], other: &[u8]| {
        copy.check_sum(other, "checksum");
        assert_eq!(copy.number(one, "second") + copy.number(other, "second"), 1);
        let until = copy.range("second").start;
        assert_eq!(one[..until], other[..until]);
    };
    same_but_second(made_first, file.bytes(&bytes, "even second copy"));
    assert_eq!((copy.number(made_first, "epoch"), copy.number(made_first, "has trim")), (0, 0));
    let first = file.bytes(&bytes, "odd first copy");
    same_but_second(first, file.bytes(&bytes, "odd second copy"));
    assert_eq!(first.len(), copy.size());
    copy.check_magic(first);
    copy.check_sum(first, "checksum");
    copy.check_zero(first);
    // Made, opened, recovered, trimmed.
    assert_eq!((copy.number(first, "version"), copy.number(first, "generation")), (1, 4));
    assert_eq!((copy.number(first, "closed"), copy.number(first, "epoch")), (0, 1));
    assert_eq!(copy.bytes(first, "store"), made.store.id().0);
    assert_eq!(copy.bytes(first, "owner").split(|byte| *byte == 0).next(), Some(&b"main"[..]));

    // The trim point is behind the last frame of the second journal file.
    let journal = made.journal(2);
    let (head, at) = (structure("Frame head"), frames(&journal));
    let last = *at.last().expect("a frame in the second file");
    let end = (last + head.size() + body(&journal, last).len()).next_multiple_of(8);
    assert_eq!(copy.number(first, "has trim"), 1);
    assert_eq!((copy.number(first, "journal epoch"), copy.number(first, "journal slot")), (1, 2));
    assert_eq!(copy.bytes(first, "journal salt"), structure("Journal file head").bytes(&journal, "salt"));
    assert_eq!(copy.usize(first, "journal position"), end);
    assert_eq!(copy.number(first, "next LSN"), head.number(&journal[last..], "LSN") + 1);
    assert_eq!(copy.bytes(first, "chain"), head.bytes(&journal[last..], "head checksum"));
    let number = |name| copy.number(first, name);
    let named = format!("{:010}-{:016x}.table", number("table epoch"), number("table salt"));
    assert_eq!(made.table_file().0, named);

    made.store.clone().close().expect("an orderly close");
    let closed = made.read("/s/owners/main/MANIFEST");
    assert_eq!(copy.number(file.bytes(&closed, "odd first copy"), "closed"), 1);
}

#[test]
fn journal_file_head_and_frame_heads() {
    let made = Made::new();
    let (file_head, frame_head) = (structure("Journal file head"), structure("Frame head"));
    let (mut lsn, mut chain) = (1, [0; 4].to_vec());
    for slot in [1, 2] {
        let file = made.journal(slot);
        assert_eq!(file.len() as u64, JOURNAL_FILE_BYTES);
        assert_eq!(file_head.size(), FRAMES_AT);
        file_head.check_magic(&file);
        file_head.check_sum(&file, "checksum");
        file_head.check_zero(&file);
        assert_eq!((file_head.number(&file, "version"), file_head.number(&file, "slot")), (1, i128::from(slot)));
        assert_eq!((file_head.number(&file, "epoch"), file_head.usize(&file, "bytes")), (1, file.len()));
        assert_eq!(file_head.bytes(&file, "store"), made.store.id().0);
        for at in frames(&file) {
            let (bytes, body) = (&file[at..], body(&file, at));
            frame_head.check_magic(bytes);
            assert_eq!(frame_head.number(bytes, "LSN"), lsn);
            assert!(frame_head.number(bytes, "durable") < lsn);
            assert_eq!(frame_head.bytes(bytes, "chain"), chain);
            assert_eq!(frame_head.number(bytes, "body checksum"), sum(&[body]));
            let position = (at as u64).to_le_bytes();
            let summed = &bytes[..frame_head.field("head checksum").offset];
            let expected = sum(&[file_head.bytes(&file, "salt"), &position, summed]);
            assert_eq!(frame_head.number(bytes, "head checksum"), expected);
            chain = frame_head.bytes(bytes, "head checksum").to_vec();
            match frame_head.number(bytes, "kind") {
                1 => lsn += 1,
                kind => assert_eq!((kind, slot), (2, 1), "only the first file is full"),
            }
        }
    }
}

#[test]
fn rotate_body() {
    let made = Made::new();
    let (head, page) = (structure("Frame head"), structure("Rotate body"));
    let (first, second) = (made.journal(1), made.journal(2));
    let last = *frames(&first).last().expect("a frame");
    assert_eq!(head.number(&first[last..], "kind"), 2);
    let body = body(&first, last);
    assert_eq!(body.len(), page.size());
    assert_eq!((head.size() + body.len()).next_multiple_of(8), 64);
    assert_eq!((page.number(body, "epoch"), page.number(body, "slot")), (1, 2));
    assert_eq!(page.bytes(body, "salt"), structure("Journal file head").bytes(&second, "salt"));
    let next = &second[FRAMES_AT..];
    assert_eq!(head.number(&first[last..], "LSN"), head.number(next, "LSN"));
}

#[test]
fn segment_head_and_batch() {
    let made = Made::new();
    let (page, batch_page, file) = (structure("Segment head"), structure("Batch head"), made.segment());
    page.check_magic(&file);
    page.check_sum(&file, "checksum");
    page.check_zero(&file);
    assert_eq!((page.number(&file, "version"), page.number(&file, "epoch")), (1, 1));
    assert_eq!((page.number(&file, "topic"), page.number(&file, "partition")), (1, 0));
    assert_eq!((page.bytes(&file, "store"), page.number(&file, "base offset")), (&made.store.id().0[..], 0));
    assert_eq!(page.number(&file, "generation"), 0);

    // Batches follow each other from the end of the head to the end of the file, one record each.
    let (mut at, mut offset) = (page.size(), 0);
    while at < file.len() {
        let batch = &file[at..];
        let bytes = batch_page.range("length").end + batch_page.usize(batch, "length");
        let batch = &batch[..bytes];
        assert_eq!((batch_page.number(batch, "magic"), batch_page.number(batch, "base offset")), (2, offset));
        assert_eq!(batch_page.number(batch, "checksum"), sum(&[&batch[batch_page.field("attributes").offset..]]));
        let place = sum(&[
            page.bytes(&file, "salt"),
            &(at as u64).to_le_bytes(),
            &batch[..batch_page.field("place").offset],
            &batch[batch_page.field("magic").offset..batch_page.field("attributes").offset],
        ]);
        assert_eq!(batch_page.number(batch, "place"), place);
        for (name, value) in [("attributes", 0), ("last offset delta", 0), ("count", 1)] {
            assert_eq!(batch_page.number(batch, name), value, "{name}");
        }
        for name in ["producer id", "producer epoch", "base sequence"] {
            assert_eq!(batch_page.number(batch, name), -1, "{name}");
        }
        for name in ["base timestamp", "max timestamp"] {
            assert_eq!(batch_page.number(batch, name), i128::from(NOW_MS), "{name}");
        }
        (at, offset) = (at + bytes, offset + 1);
    }
    assert_eq!(at, file.len());
    // The one record fills what the page's head leaves of the first batch.
    let record = &file[page.size() + batch_page.size()..];
    assert_eq!(record[..15], *b"\x1c\0\0\0\x06ann\x0afirst\0");
}

#[test]
fn index_file() {
    let made = Made::new();
    let value = vec![7; 10_000];
    for _ in 0..5 {
        made.store.producer(ORDERS).expect("there").append("ann", &value).expect("room");
    }
    let (id, Made { disk, store }) = (made.store.id(), made);
    store.close().expect("in order");
    let read = |kind: &str| {
        let path = format!("/s/topics/%4Frders/000000/00000000000000000000-0000000001.{kind}");
        disk.open(Path::new(&path), OpenMode::Read).and_then(|file| file.read_whole(1 << 20)).expect("a file")
    };
    let (file, segment) = (read("index"), read("segment"));
    let (page, entry_page, segment_page) =
        (structure("Index head"), structure("Index entry"), structure("Segment head"));
    page.check_magic(&file);
    page.check_zero(&file);
    assert_eq!((page.number(&file, "version"), page.bytes(&file, "store")), (1, &id.0[..]));
    for name in ["topic", "partition", "base offset", "epoch", "salt", "generation"] {
        assert_eq!(page.number(&file, name), segment_page.number(&segment, name), "{name}");
    }
    assert_eq!(page.usize(&file, "covered"), segment.len());
    assert_eq!(page.number(&file, "max timestamp"), i128::from(NOW_MS));
    let count = page.usize(&file, "entries");
    let end = page.size() + count * entry_page.size();
    assert_eq!((count >= 2, file.len()), (true, end + 4));
    assert_eq!(i128::from(u32::from_le_bytes(file[end..].try_into().unwrap())), sum(&[&file[..end]]));
    let mut last = None;
    for entry in file[page.size()..end].chunks(entry_page.size()) {
        let position = entry_page.usize(entry, "position");
        let batch = &segment[position..];
        assert_eq!(entry_page.number(entry, "offset"), structure("Batch head").number(batch, "base offset"));
        let before = if last.is_none() { i128::from(i64::MIN) } else { i128::from(NOW_MS) };
        assert_eq!(entry_page.number(entry, "max before"), before);
        assert!(last.is_none_or(|last| position >= last + (16 << 10)));
        last = Some(position);
    }
}

/// Of ten records of one key and a tombstone of another, each in a batch, a compacted segment holds one of each, and
/// stands for all offsets.
#[test]
fn compacted_segment() {
    const KEYED: TopicDef<Utf8, Bytes> = TopicDef::new("keyed").compaction(Compaction::new());
    let made = Made::new();
    let keyed = made.store.producer(KEYED.file_roll_size(1024)).expect("a topic");
    keyed.append_record(None, Some("gone"), None, &[], None).expect("room");
    for number in 0..10 {
        keyed.append("here", &[number; 40]).expect("room");
    }
    made.store.compact("keyed").expect("room");
    let dir = Path::new("/s/topics/keyed/000000");
    let names = made.disk.list(dir).expect("a directory");
    let generation = (1 << 24) + 1;
    let name = dir.join(format!("{:020}-{:010}-{generation:020}.segment", 0, 1));
    assert!(names.contains(&name), "{names:?}");
    let file = made.disk.open(&name, OpenMode::Read).and_then(|file| file.read_whole(1 << 20)).expect("a file");
    let (page, batch_page) = (structure("Segment head"), structure("Batch head"));
    page.check_magic(&file);
    page.check_sum(&file, "checksum");
    assert_eq!((page.number(&file, "generation"), page.number(&file, "epoch")), (generation, 1));
    let last = made.store.describe_topic("keyed").expect("there")[0].compacted.0;
    let (mut at, mut found) = (page.size(), Vec::new());
    while at < file.len() {
        let batch = &file[at..];
        let bytes = batch_page.range("length").end + batch_page.usize(batch, "length");
        let number = |name| batch_page.number(&batch[..bytes], name);
        assert_eq!(number("checksum"), sum(&[&batch[batch_page.field("attributes").offset..bytes]]));
        found.push([number("base offset"), number("last offset delta"), number("count"), number("attributes")]);
        if number("attributes") == 64 {
            assert_eq!(number("base timestamp"), i128::from(NOW_MS) + 24 * 3600 * 1000);
            assert_eq!(number("max timestamp"), i128::from(NOW_MS));
        }
        at += bytes;
    }
    assert_eq!(found, [[0, 0, 1, 64], [1, i128::from(last) - 2, 1, 0]]);
}

/// The space that a table file holds is put together by the page alone; redb then finds the rows in it.
#[test]
fn table_file() {
    let made = Made::new();
    made.store.trim().expect("room");
    let (page, check_page, (name, file)) = (structure("Table file head"), structure("Block check"), made.table_file());
    page.check_magic(&file);
    page.check_sum(&file, "checksum");
    page.check_zero(&file);
    assert_eq!((page.number(&file, "version"), page.bytes(&file, "store")), (1, &made.store.id().0[..]));
    let (epoch, salt) = (page.number(&file, "epoch"), page.number(&file, "salt"));
    assert_eq!(format!("{epoch:010}-{salt:016x}.table"), name);
    let bytes = page.usize(&file, "block");

    let manifest = made.read("/s/owners/main/MANIFEST");
    let (copy, trim) =
        (structure("MANIFEST copy"), structure("MANIFEST file").bytes(&manifest, "odd first copy").to_vec());
    let generation = copy.number(&trim, "table generation");
    let mut space = vec![0; copy.usize(&trim, "table bytes")];
    let head = copy.bytes(&trim, "table head");
    space[..head.len()].copy_from_slice(head);
    let (mut written, group) = (0, bytes / check_page.size());
    for block in 1..space.len() / bytes {
        let checks = bytes + block / group * (group + 1) * bytes;
        let check = &file[checks + block % group * check_page.size()..];
        let stored = check_page.number(check, "generation");
        if stored == 0 {
            continue;
        }
        assert!((1..=generation).contains(&stored));
        let content = &file[checks + bytes + block % group * bytes..][..bytes];
        let sums = [page.bytes(&file, "salt"), &(block as u64).to_le_bytes(), check_page.bytes(check, "generation")];
        assert_eq!(check_page.number(check, "checksum"), sum(&[sums[0], sums[1], sums[2], content]), "block {block}");
        space[block * bytes..][..bytes].copy_from_slice(content);
        written += 1;
    }
    assert!(written > 3, "{written}");

    let memory = redb::backends::InMemoryBackend::new();
    redb::StorageBackend::set_len(&memory, space.len() as u64).expect("room");
    redb::StorageBackend::write(&memory, 0, &space).expect("room");
    let library = redb::Builder::new().create_with_backend(memory).expect("a database");
    let read = redb::ReadableDatabase::begin_read(&library).expect("a state");
    let table = read.open_table(redb::TableDefinition::<&[u8], &[u8]>::new("rows")).expect("the table of rows");
    let mut rows = Vec::new();
    for row in table.range::<&[u8]>(..).expect("rows") {
        let (key, value) = row.expect("a row");
        rows.push(format!("{}: {}", hex(key.value()), hex(value.value())));
    }
    let lsn = copy.number(&trim, "next LSN") - 1;
    assert_eq!(rows.remove(0), format!(": {}", hex(&u64::try_from(lsn).expect("small").to_le_bytes())));
    assert_eq!(rows, GOLDEN_ROWS, "key: value");
}

/// The frame of the first append, put together by hand from the page, is what the store wrote.
#[test]
fn a_frame_made_by_hand() {
    let made = Made::new();
    let journal = made.journal(1);
    let at = frames(&journal)[1];

    let record = b"\x1c\0\0\0\x06ann\x0afirst\0";
    let mut content = Vec::new();
    content.extend_from_slice(&0u16.to_be_bytes());
    content.extend_from_slice(&0u32.to_be_bytes());
    content.extend_from_slice(&NOW_MS.to_be_bytes());
    content.extend_from_slice(&NOW_MS.to_be_bytes());
    content.extend_from_slice(&[0xFF; 8 + 2 + 4]);
    content.extend_from_slice(&1u32.to_be_bytes());
    content.extend_from_slice(record);
    let mut batch = 0u64.to_be_bytes().to_vec();
    batch.extend_from_slice(&u32::try_from(4 + 1 + 4 + content.len()).unwrap().to_be_bytes());
    batch.extend_from_slice(&[0xFF; 4]);
    batch.push(2);
    batch.extend_from_slice(&crc32c::crc32c(&content).to_be_bytes());
    batch.extend_from_slice(&content);

    let mut by_hand = vec![1, 1];
    by_hand.extend_from_slice(&1u32.to_le_bytes());
    by_hand.extend_from_slice(&0u32.to_le_bytes());
    by_hand.push(u8::try_from(batch.len()).unwrap());
    by_hand.extend_from_slice(&batch);
    by_hand.extend_from_slice(&[0, 0]);
    assert_eq!(hex(body(&journal, at)), hex(&by_hand));

    let mut head = b"OLfr".to_vec();
    head.extend_from_slice(&u32::try_from(by_hand.len()).unwrap().to_le_bytes());
    head.extend_from_slice(&2u64.to_le_bytes());
    head.extend_from_slice(&1u64.to_le_bytes());
    head.extend_from_slice(structure("Frame head").bytes(&journal[frames(&journal)[0]..], "head checksum"));
    head.extend_from_slice(&1u32.to_le_bytes());
    head.extend_from_slice(&crc32c::crc32c(&by_hand).to_le_bytes());
    let salt = structure("Journal file head").bytes(&journal, "salt");
    let checksum = sum(&[salt, &(at as u64).to_le_bytes(), &head]);
    head.extend_from_slice(&u32::try_from(checksum).unwrap().to_le_bytes());
    let frame = [head, by_hand].concat();
    assert_eq!(hex(&journal[at..at + frame.len()]), hex(&frame));
    assert_eq!(hex(&frame), GOLDEN_FRAME);
}

/// The stamps of a frame, put together by hand from the page, and the row that follows from them.
#[test]
fn a_stamped_frame_and_its_row() {
    let disk = Arc::new(MemoryDisk::default());
    let options = StoreOptions::new().disk(Arc::clone(&disk) as _).clock(Arc::new(Stopped)).seed(7).manual_duties();
    let store = options.journal_file_bytes(JOURNAL_FILE_BYTES).open("/s").expect("a new store");
    let config = IdempotentProducerConfig::new("gate").partition(PartitionId(1)).initial_sequence(Sequence(5));
    let producer = store.idempotent_producer(ORDERS, config).expect("a producer");
    producer.append_batch([("ann", &b"first"[..]), ("bob", b"second")]).expect("room");
    let tie = ProducerStamp { producer_id: "d".to_owned(), partition: PartitionId(2), sequence: Sequence(0) };
    store.transact(|tx| tx.stamp(&tie).map(drop)).expect("room");
    let read = |path: &Path| disk.open(path, OpenMode::Read).unwrap().read_whole(1 << 20).unwrap();
    let journal = read(Path::new("/s/owners/main/journal/0000000001-000001.journal"));
    let at = frames(&journal);

    let mut stamp = vec![0, 1, 4];
    stamp.extend_from_slice(b"gate");
    stamp.extend_from_slice(&1u64.to_le_bytes());
    stamp.extend_from_slice(&1u32.to_le_bytes());
    stamp.extend_from_slice(&1u32.to_le_bytes());
    stamp.extend_from_slice(&5u64.to_le_bytes());
    stamp.push(2);
    let stamped = body(&journal, at[2]);
    assert_eq!(hex(&stamped[stamped.len() - stamp.len()..]), hex(&stamp));
    let mut tied = vec![1, 0, 0, 1, 1, b'd'];
    tied.extend_from_slice(&[0; 8 + 4]);
    tied.extend_from_slice(&2u32.to_le_bytes());
    tied.extend_from_slice(&0u64.to_le_bytes());
    tied.push(1);
    assert_eq!(hex(body(&journal, at[3])), hex(&tied));

    // The first frame of a producer is its opening: a row like any other, with the epoch.
    let key = [&b"\x04gate"[..], &1u32.to_be_bytes(), &1u32.to_be_bytes()].concat();
    let opened = [&[1, 0, 1][..], &5u32.to_le_bytes(), &[0; 4], &[13], &key, &[5, 1, 1, 5, 0], &[0]].concat();
    assert_eq!(hex(body(&journal, at[1])), hex(&opened));
}

/// A checkpoint with something of everything, the first of a second line.
fn checkpoint(disk: &Arc<MemoryDisk>) -> (CheckpointState, Vec<u8>) {
    let mut state = CheckpointState::new(CheckpointId::new("Orders", 300));
    state.id.created_at = "2023-11-14T22:13:20.000000005Z".parse().expect("a time");
    state.set_operator_state("sum", vec![7]);
    state.set_source_offset("a", 301);
    state.set_source_offset("b", "timestamp:1970-01-01T00:00:01.000000002Z".parse::<Offset>().expect("an offset"));
    state.set_source_offset("c", Offset::Custom("x".into()));
    state.metadata.insert("host".into(), "h1".into());
    (state.watermark_ns, state.event_count) = (9_000, 290);
    let store =
        FileCheckpointStore::open_on(Arc::clone(disk) as Arc<dyn Disk>, Arc::new(Stopped), "/c").expect("opens");
    store.save(&state).expect("room");
    let rewound = store.rewind("Orders", 300).expect("it is there").state;
    let dir = disk.list(Path::new("/c/%4Frders")).expect("a directory");
    let path = Path::new("/c/%4Frders/00000000000000000300-1-0-300.checkpoint").to_owned();
    assert!(dir.contains(&path) && dir.len() == 2, "{dir:?}");
    let file = disk.open(&path, OpenMode::Read).expect("it is there");
    (rewound, file.read_whole(1 << 20).expect("readable"))
}

#[test]
fn checkpoints() {
    let (state, bytes) = checkpoint(&Arc::new(MemoryDisk::default()));
    let head = structure("Checkpoint head");
    head.check_magic(&bytes);
    head.check_sum(&bytes, "head checksum");
    for (name, value) in [
        ("version", 1),
        ("line", 1),
        ("parent", 0),
        ("from", 300),
        ("sequence", 300),
        ("seconds", 1_700_000_000),
        ("nanoseconds", 5),
        ("watermark", 9_000),
        ("events", 290),
        ("bytes", bytes.len() as i128),
    ] {
        assert_eq!(head.number(&bytes, name), value, "{name}");
    }
    let (summed, stored) = bytes.split_at(bytes.len() - 4);
    assert_eq!(i128::from(u32::from_le_bytes(stored.try_into().expect("four bytes"))), sum(&[summed]));
    assert_eq!(hex(&bytes[..head.size() - 4]), GOLDEN_CHECKPOINT_HEAD);
    assert_eq!(hex(&summed[head.size()..]), GOLDEN_CHECKPOINT_REST);
    assert_eq!(CheckpointState::deserialize(&bytes).expect("a checkpoint"), state);
}

const GOLDEN_CHECKPOINT_HEAD: &str = "\
    4f4c434845434b50\
    01000000\
    01000000\
    00000000\
    2c01000000000000\
    2c01000000000000\
    00f1536500000000\
    05000000\
    2823000000000000\
    2201000000000000\
    8700000000000000";
const GOLDEN_CHECKPOINT_REST: &str = "\
    064f7264657273\
    01\
    0373756d0107\
    03\
    0161002d01000000000000\
    016201010000000000000002000000\
    0163020178\
    01\
    04686f7374026831";

#[test]
fn golden_bytes() {
    let made = Made::new();
    let (journal, segment) = (made.journal(1), made.segment());
    assert_eq!(hex(&made.read("/s/STORE")), GOLDEN_STORE);
    assert_eq!(hex(&made.claim()), GOLDEN_CLAIM);
    assert_eq!(hex(&segment[..80]), GOLDEN_SEGMENT_HEAD);
    assert_eq!(hex(&segment[80..156]), GOLDEN_BATCH);
    assert_eq!(hex(&journal[..60]), GOLDEN_JOURNAL_HEAD);
    assert_eq!(hex(body(&journal, frames(&journal)[0])), GOLDEN_TOPIC_FRAME_BODY);
    // The table head is the library's, and another version of it may fill it otherwise.
    let copy = &made.read("/s/owners/main/MANIFEST")[8192..8192 + 1024];
    assert_eq!(hex(&copy[..180]), GOLDEN_MANIFEST);
}

const GOLDEN_STORE: &str = "\
    4f4e43454c4f4700\
    01000000\
    c15c0289ec2d0a9167ec8e65a18debbe\
    c15c0289ec2d0a9167ec8e65a18debbe\
    785d1c1e";
const GOLDEN_CLAIM: &str = "\
    4f4c434c41494d31\
    c15c0289ec2d0a9167ec8e65a18debbe\
    01000000\
    02000000\
    046d61696e\
    064f7264657273\
    0475746638\
    056279746573\
    47ed5a8a";
const GOLDEN_SEGMENT_HEAD: &str = "\
    4f4c5345474d4e54\
    01000000\
    01000000\
    00000000\
    0000000000000000\
    c15c0289ec2d0a9167ec8e65a18debbe\
    0000000000000000\
    0100000000000000\
    b9b501d1d854bb71\
    077cebc2\
    0000000000000000";
const GOLDEN_BATCH: &str = "\
    0000000000000000\
    00000040\
    3705b1e5\
    02\
    f2ef6081\
    0000\
    00000000\
    0000018bcfe56800\
    0000018bcfe56800\
    ffffffffffffffff\
    ffff\
    ffffffff\
    00000001\
    1c00000006616e6e0a666972737400";
const GOLDEN_JOURNAL_HEAD: &str = "\
    4f4c4a4f55524e4c\
    01000000\
    01000000\
    c15c0289ec2d0a9167ec8e65a18debbe\
    0100000000000000\
    0bc942ee9086c171\
    0010000000000000\
    b93a503a";
const GOLDEN_TOPIC_FRAME_BODY: &str = "\
    01\
    00\
    03\
    0000000000000000\
    07544f7264657273\
    030101\
    0000000000000000\
    016e\
    04010210\
    0000000000000000\
    057400000001\
    1f01064f726465727302047574663805627974657380808080010000000000\
    00";
const GOLDEN_FRAME: &str = "\
    4f4c6672\
    59000000\
    0200000000000000\
    0100000000000000\
    01010e6a\
    01000000\
    7d16b0d4\
    31ea611b\
    01\
    01\
    01000000\
    00000000\
    4c\
    000000000000000000000040ffffffff02f2ef60810000000000000000018bcfe568000000018bcfe56800ffffffffff\
    ffffffffffffffffff00000001\
    1c00000006616e6e0a666972737400\
    00\
    00";
const GOLDEN_MANIFEST: &str = "\
    4f4c4d414e494645\
    01000000\
    00000000\
    0300000000000000\
    c15c0289ec2d0a9167ec8e65a18debbe\
    6d61696e0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000\
    00000000000000000000000000000000\
    0100000000000000\
    01000000\
    01000000\
    0100000000000000\
    0bc942ee9086c171\
    0002000000000000\
    0100000000000000\
    00000000\
    0100000000000000\
    5e5532fbeea293f8\
    0100000000000000";
const GOLDEN_ROWS: &[&str] = &[
    "000000000000000042746f74616c73: 0110",
    "0000000000000000544f7264657273: 0101",
    "00000000000000006200000010: 0106746f74616c73010475746638067536342d6265",
    "00000000000000006e: 010211",
    "00000000000000007400000001: 01064f726465727302047574663805627974657380808080010000000000",
    "000000000000000075: 0101",
    "00000001000000000561756469740000000100000000: 0101",
    "00000001000000000561756469740000000100000001: 0100",
    "00000002000000000000000100000000: 01818040",
    "00000003000000000000000100000000: 01070000",
    "000000040000000000000001000000000000000000000000: \
     010001b9eb86888d9bd5dd719a180780a0abfef962000180a0abfef962000000",
    "00000006000000006e6f77: 0180a0abfef962",
    "0000001000000000616e6e: 0000000000000005",
];

/// The one object below `dir`.
fn only_object(disk: &MemoryDisk, dir: &str) -> Vec<u8> {
    let mut path = PathBuf::from(dir);
    while let Ok(inside) = disk.list(&path) {
        path = inside.first().expect("something in the directory").clone();
    }
    let file = disk.open(&path, OpenMode::Read).expect("it is there");
    file.read_whole(1 << 20).expect("readable")
}

/// A varint of one byte.
fn small(bytes: &mut &[u8]) -> usize {
    let (first, rest) = bytes.split_first().expect("a byte");
    assert!(*first < 0x80);
    *bytes = rest;
    usize::from(*first)
}

fn take<'b>(bytes: &mut &'b [u8], count: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}

fn little(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[test]
fn backups() {
    let made = Made::new();
    let target = BackupTarget::dir_on(Arc::clone(&made.disk) as _, "/t").expect("a target");
    made.store.trim().expect("room");
    made.store.producer(ORDERS).expect("a topic").append("ann", b"later").expect("room");
    let report = made.store.backup(&target).expect("room");
    let bytes = only_object(&made.disk, "/t/backups");
    let head = structure("Backup head");
    head.check_magic(&bytes);
    head.check_sum(&bytes, "head checksum");
    assert_eq!(head.number(&bytes, "version"), 1);
    assert_eq!(head.bytes(&bytes, "store"), made.store.id().0);
    assert_eq!(head.bytes(&bytes, "identity"), made.store.id().0);
    assert_eq!(head.number(&bytes, "taken"), i128::from(NOW_MS));
    assert_eq!(head.usize(&bytes, "bytes"), bytes.len());
    let (summed, stored) = bytes.split_at(bytes.len() - 4);
    assert_eq!(i128::from(little(stored)), sum(&[summed]));

    let mut rest = &summed[head.size()..];
    assert_eq!(small(&mut rest), 1, "owners");
    let name = small(&mut rest);
    assert_eq!(take(&mut rest, name), b"main");
    assert_eq!((little(take(&mut rest, 4)), little(take(&mut rest, 8))), (0, 1), "number and epoch");
    let opening = little(take(&mut rest, 8));
    let (rows, lsn) = (little(take(&mut rest, 8)) - 1, little(take(&mut rest, 8)));
    assert_eq!((lsn, rows), (report.owners[0].1.0, lsn - 1), "one frame is behind the trim point");
    let link = little(take(&mut rest, 8));
    let files = small(&mut rest);
    let mut seen = Vec::new();
    for _ in 0..files {
        let len = small(&mut rest);
        let path = String::from_utf8(take(&mut rest, len).to_vec()).expect("text");
        let salt = little(take(&mut rest, 8));
        let mut content = Vec::new();
        for _ in 0..small(&mut rest) {
            let hash = hex(take(&mut rest, 32));
            let len = little(take(&mut rest, 4));
            let chunk = made.read(format!("/t/chunks/{}/{hash}", &hash[..2]));
            assert_eq!(hex(&sha2::Sha256::digest(&chunk)), hash);
            assert_eq!(chunk.len() as u64, len);
            content.extend(chunk);
        }
        assert_eq!(salt != 0, path.ends_with(".segment"));
        seen.push((path, content));
    }
    assert!(rest.is_empty());
    let (frames, rows, segment) = (&seen[0], &seen[1], &seen[2]);
    assert_eq!((seen.len(), frames.0.as_str(), rows.0.as_str()), (3, "owners/main/frames", "owners/main/rows"));
    // The frame that came last, as it is in the journal.
    let mut stream = &frames.1[..];
    assert_eq!((small(&mut stream), little(take(&mut stream, 8))), (1, lsn));
    let len = small(&mut stream);
    assert_eq!(stream.len(), len);
    // Nothing is archived: the link begins at the trim point.
    let manifest = made.read("/s/owners/main/MANIFEST");
    let (copy, file) = (structure("MANIFEST copy"), structure("MANIFEST file"));
    let trim = file.bytes(&manifest, "odd first copy");
    assert_eq!((copy.number(trim, "archive from"), copy.number(trim, "archive link")), (0, 0));
    assert_eq!(copy.number(trim, "opening"), i128::from(opening));
    assert_eq!(copy.bytes(trim, "openings")[8..16], opening.to_le_bytes(), "of epoch 1");
    let id = made.store.id().0;
    let named = ["journal salt", "journal position", "chain", "next LSN"];
    let words = [&id[8..], &id[..8]].map(little).into_iter();
    let words = words.chain(named.map(|name| u64::try_from(copy.number(trim, name)).expect("a number")));
    assert_eq!(next_link(words.fold(0, |state, word| mix(state ^ mix(word))), lsn, stream), link);
    assert!(stream.windows(5).any(|bytes| bytes == b"later"));
    // The first row is the least of the catalogue.
    let mut stream = &rows.1[..];
    assert_eq!(small(&mut stream), 1);
    let len = small(&mut stream);
    assert_eq!(&take(&mut stream, len)[..8], [0; 8]);
    assert_eq!(segment.1, made.read(format!("/s/{}", segment.0))[..segment.1.len()]);
}

/// The output of SplitMix64.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

fn next_link(link: u64, lsn: u64, body: &[u8]) -> u64 {
    let sum = u64::try_from(sum(&[body])).expect("32 bits");
    mix(mix(link ^ lsn) ^ ((sum << 32) ^ body.len() as u64))
}

#[test]
fn pieces_of_an_archive() {
    let disk = Arc::new(MemoryDisk::default());
    let target = BackupTarget::dir_on(Arc::clone(&disk) as _, "/t").expect("a target");
    let options = StoreOptions::new().disk(Arc::clone(&disk) as _).clock(Arc::new(Stopped)).seed(1).manual_duties();
    let store = options.journal_archive(target).open("/s").expect("a new store");
    store.producer(ORDERS).expect("a topic").append("ann", b"first").expect("room");
    let id = store.id();
    store.close().expect("room");
    let folder = PathBuf::from(format!("/t/journal/{id}/main"));
    let paths = disk.list(&folder).expect("a folder");
    let bytes = only_object(&disk, "/t/journal");
    let head = structure("Piece head");
    head.check_magic(&bytes);
    head.check_sum(&bytes, "head checksum");
    for (name, value) in [("version", 1), ("first", 1), ("last", 2), ("bytes", bytes.len() as i128)] {
        assert_eq!(head.number(&bytes, name), value, "{name}");
    }
    assert_eq!((head.bytes(&bytes, "store"), head.bytes(&bytes, "identity")), (&id.0[..], &id.0[..]));
    let (summed, stored) = bytes.split_at(bytes.len() - 4);
    assert_eq!(i128::from(little(stored)), sum(&[summed]));
    let mut rest = &summed[head.size()..];
    let name = small(&mut rest);
    assert_eq!(take(&mut rest, name), b"main");
    assert_eq!(small(&mut rest), 1, "marks");
    assert_eq!((little(take(&mut rest, 8)), little(take(&mut rest, 8))), (2, NOW_MS.unsigned_abs()));
    let mut link = u64::try_from(head.number(&bytes, "before")).expect("a number");
    let name = format!("{:020}-{:020}-{link:016x}-{:016x}.frames", 1, 2, head.number(&bytes, "after"));
    assert_eq!(paths, [folder.join(name)]);
    let mut frames = rest;
    for lsn in 1..=2 {
        assert_eq!(little(take(&mut frames, 8)), lsn);
        // Shorter than 16 KiB.
        let first = usize::from(take(&mut frames, 1)[0]);
        let len = if first < 128 { first } else { first - 128 + (usize::from(take(&mut frames, 1)[0]) << 7) };
        link = next_link(link, lsn, take(&mut frames, len));
    }
    assert_eq!(i128::from(link), head.number(&bytes, "after"));
    let manifest = structure("MANIFEST file");
    let whole = disk.open(Path::new("/s/owners/main/MANIFEST"), OpenMode::Read).expect("a manifest");
    let whole = whole.read_whole(1 << 20).expect("a manifest");
    let copy = structure("MANIFEST copy");
    let trim = manifest.bytes(&whole, "odd first copy");
    assert_eq!((copy.number(trim, "archive from"), copy.number(trim, "archive link")), (1, i128::from(link)));
    assert_eq!(little(take(&mut rest, 8)), 1, "the first frame");
    assert!(rest.windows(5).any(|bytes| bytes == b"first"));
}
