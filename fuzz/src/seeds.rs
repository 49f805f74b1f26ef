//! The seeds of all targets: what a small store writes, so that nothing of it is kept in the repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use oncelog::clock::SystemClock;
use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{
    BackupTarget, CheckpointId, CheckpointState, FileOffsetStore, Offset, OffsetStore, Store, TopicDef, Utf8,
};

use crate::specimen::Specimen;

const JOURNAL_HEAD_BYTES: usize = 512;
const FRAME_HEAD_BYTES: usize = 40;
const SEGMENT_HEAD_BYTES: usize = 80;
/// Where the two copies of each pair are in a manifest.
const MANIFEST_COPIES: [usize; 4] = [0, 4096, 8192, 12288];
/// Rows and keys of every kind, by their first bytes; and what users' codecs read.
const VALUES: [&[u8]; 7] =
    [b"t\0\0\0\x01", b"b\0\0\0\x10", b"n", b"\x01\x02\x03", b"text", b"12345678", b"\x02\x01\x01\x01a\x01\x01\x02"];
/// Lines and arguments of the command.
const COMMANDS: [&[u8]; 5] = [
    br#"{"topic":"t","partition":1,"offset":7,"timestamp_ms":-1,"key":"k","value":null,"headers":[]}"#,
    br#"{"value":{"base64":"AP8="},"headers":[{"name":"h","value":"v"},{"name":"","value":{"base64":""}}]}"#,
    br#"{"key":null,"value":"\u0000\ud83d\ude00"}"#,
    b"oldest",
    b"2026-11-28T06:41:00.25+02:00",
];

/// Writes the seeds as `dir/TARGET/NUMBER`.
///
/// # Errors
/// The directory cannot be written.
pub(crate) fn write(dir: &Path, specimens: &[Specimen; 2]) -> io::Result<()> {
    let files = |ending| -> Vec<Vec<u8>> {
        specimens.iter().flat_map(|specimen| specimen.contents(ending)).map(<[u8]>::to_vec).collect()
    };
    let (journals, segments, indexes) = (files(".journal"), files(".segment"), files(".index"));
    // Files as small as these have none.
    let indexes = if indexes.is_empty() { vec![index()] } else { indexes };
    let no_index = Vec::new();
    let beside = segments.iter().enumerate().map(|(at, segment)| {
        let index = indexes.get(at).unwrap_or(&no_index);
        let length = u16::try_from(index.len()).unwrap_or(0);
        [&length.to_le_bytes()[..], &index[..usize::from(length)], segment].concat()
    });
    let copies = |file: &Vec<u8>| MANIFEST_COPIES.map(|at| file[at..at + 1024].to_vec()).concat();
    let mut whole: Vec<_> = segments.iter().flat_map(|file| batches(&file[SEGMENT_HEAD_BYTES..])).collect();
    whole.extend(whole.iter().filter_map(|batch| bomb(batch)).next());
    let targets: [(&str, Vec<Vec<u8>>); 16] = [
        ("batch", whole),
        ("frame", journals.iter().flat_map(|file| frames(&file[JOURNAL_HEAD_BYTES..])).collect()),
        ("segment", beside.collect()),
        ("journal", journals),
        ("index", indexes),
        ("manifest", files("MANIFEST").iter().map(copies).collect()),
        ("claim", files("CLAIM")),
        ("page", vec![page()]),
        ("table", files(".table").into_iter().map(|file| file[..file.len().min(16 << 10)].to_vec()).collect()),
        ("values", VALUES.map(<[u8]>::to_vec).to_vec()),
        ("checkpoint", vec![checkpoint()]),
        ("checkpoint-import", vec![earlier_checkpoint()]),
        ("backup", backup("/t/backups")),
        ("backup-piece", backup("/t/journal")),
        ("offsets", offsets()),
        ("command", COMMANDS.map(<[u8]>::to_vec).to_vec()),
    ];
    for (target, inputs) in targets {
        assert!(!inputs.is_empty(), "no seeds for {target}");
        let marked = inputs.iter().flat_map(|input| [[&[0], &input[..]].concat(), [&[1], &input[..]].concat()]);
        write_all(&dir.join(target), marked)?;
    }
    let damages = (0..2).flat_map(|trust| {
        (0..32u8).flat_map(move |file| {
            [16u16, 80, 560].map(|at| {
                let [low, high] = at.to_le_bytes();
                vec![trust, file, 0, low, high, 0xFF, 0xFF]
            })
        })
    });
    write_all(&dir.join("store"), damages)
}

/// The contents of the frames from here on: each says its length in four bytes at 4, and starts at a multiple of 8.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(length) = bytes.get(4..8).and_then(<[u8]>::first_chunk).map(|field| u32::from_le_bytes(*field)) {
        let end = FRAME_HEAD_BYTES + length as usize;
        if length == 0 || end > bytes.len() {
            break;
        }
        found.push(bytes[FRAME_HEAD_BYTES..end].to_vec());
        bytes = bytes.get(end.next_multiple_of(8)..).unwrap_or_default();
    }
    found
}

/// The batches from here on: each says its length, without the 12 bytes up to there, at 8.
fn batches(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Some(length) = bytes.get(8..12).and_then(<[u8]>::first_chunk).map(|field| u32::from_be_bytes(*field)) {
        let end = 12 + length as usize;
        if length == 0 || end > bytes.len() {
            break;
        }
        found.push(bytes[..end].to_vec());
        bytes = &bytes[end..];
    }
    found
}

/// A zstd batch whose records are replaced by a frame that holds 75 MiB of one byte: 600 blocks that repeat it.
fn bomb(batch: &[u8]) -> Option<Vec<u8>> {
    const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
    let at = batch.windows(4).position(|bytes| bytes == MAGIC)?;
    // No length, a window of 8 MiB.
    let mut bomb = [&batch[..at], &MAGIC, &[0, 0x68]].concat();
    for number in 0..600u32 {
        let (last, repeats, block_bytes) = (u32::from(number == 599), 1 << 1, 128 << 10);
        let head: u32 = last | repeats | block_bytes << 3;
        bomb.extend_from_slice(&head.to_le_bytes()[..3]);
        bomb.push(b'x');
    }
    let length = u32::try_from(bomb.len() - 12).ok()?;
    bomb[8..12].copy_from_slice(&length.to_be_bytes());
    Some(bomb)
}

/// An index with one entry, which no checksum covers.
fn index() -> Vec<u8> {
    let head: [&[u8]; 3] = [b"OLINDEX\0", &1u32.to_le_bytes(), &1u32.to_le_bytes()];
    let (ids, covered, entry) = ([0; 48], 200u64.to_le_bytes(), [0u64, 80, 1 << 63]);
    let entry = entry.map(u64::to_le_bytes).concat();
    [&head.concat()[..], &ids, &covered, &[0; 16], &entry, &[0; 4]].concat()
}

/// The words of a page with one partition: the visible LSN, the count, and an entry of which both slots are filled.
fn page() -> Vec<u8> {
    let mut words = [0u64; 80];
    (words[10], words[16]) = (1, 2);
    words[64..72].copy_from_slice(&[1 << 32, 2, 20, 1, 10, 0, 0, 0]);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A file of offsets of each kind, a decimal one, and what is in them.
fn offsets() -> Vec<Vec<u8>> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let store = FileOffsetStore::open_on(Arc::clone(&disk), SystemClock::shared(), "/offsets.json").expect("no file");
    let texts = ["timestamp:2026-01-01T00:00:00.5Z", "custom:x\ny", "sequence:18446744073709551615"];
    for (number, text) in texts.iter().enumerate() {
        store.commit(&format!("source {number}"), &text.parse::<Offset>().expect("an offset")).expect("room");
    }
    let file = disk.open(Path::new("/offsets.json"), OpenMode::Read).expect("it was just made");
    let file = file.read_whole(1 << 20).expect("readable");
    let rest = texts.into_iter().chain(["42\n", "17\r\n", "topic-1-consumer-2"]);
    [file].into_iter().chain(rest.map(|text| text.as_bytes().to_vec())).collect()
}

/// A checkpoint with something of everything.
fn checkpoint() -> Vec<u8> {
    let mut state = CheckpointState::new(CheckpointId::new("stream", 300));
    state.set_operator_state("sum", vec![1, 2, 3]);
    for (source, offset) in [("a", "7"), ("b", "custom:x"), ("c", "timestamp:2026-01-01T00:00:00Z")] {
        state.set_source_offset(source, offset.parse::<Offset>().expect("an offset"));
    }
    state.metadata.insert("host".to_owned(), "one".to_owned());
    state.serialize().expect("a state")
}

/// The same of the earlier library: three numbers, an operator, a source.
fn earlier_checkpoint() -> Vec<u8> {
    let numbers = [300u64, 9, 290].map(u64::to_le_bytes).concat();
    let (one, three, offset) = (1u32.to_le_bytes(), 3u32.to_le_bytes(), 7u64.to_le_bytes());
    [&numbers[..], &one, &three, b"sum", &three, &[1, 2, 3], &one, &one, b"a", &offset].concat()
}

/// The objects below `dir` of a target that a small store keeps its backup and its journal in.
fn backup(dir: &str) -> Vec<Vec<u8>> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
    let target = BackupTarget::dir_on(Arc::clone(&disk), "/t").expect("a target");
    let options = Store::options().disk(Arc::clone(&disk)).manual_duties().journal_archive(target.clone());
    let store = options.open("/s").expect("a store");
    let lines = store.producer(TopicDef::<Utf8, Utf8>::new("lines")).expect("a topic");
    lines.append("k", "v").expect("room");
    store.backup(&target).expect("room");
    store.close().expect("room");
    let mut found = Vec::new();
    let mut left = vec![PathBuf::from(dir)];
    while let Some(path) = left.pop() {
        match disk.list(&path) {
            Ok(inside) => left.extend(inside),
            Err(_) => {
                let file = disk.open(&path, OpenMode::Read).expect("it is there");
                found.push(file.read_whole(1 << 20).expect("readable"));
            }
        }
    }
    found
}

fn write_all(dir: &Path, inputs: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for (number, input) in inputs.enumerate() {
        fs::write(dir.join(format!("{number:04}")), input)?;
    }
    Ok(())
}
