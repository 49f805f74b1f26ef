//! A small store with every kind of file, taken apart into files, damaged, and opened again.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use oncelog::clock::Clock;
use oncelog::disk::{Disk, OpenMode};
use oncelog::{
    Bytes, Compression, ErrorKind, LogOffset, PartitionId, Result, Step, Store, StoreOptions, TableDef, TopicDef, U64,
    Utf8,
};

use crate::small_disk::SmallDisk;

const DIR: &str = "/s";
const EVENTS: TopicDef<Utf8, Bytes> = TopicDef::new("events").partitions(2).file_roll_size(1024);
/// One of each compression.
const PACKED: [TopicDef<Utf8, Bytes>; 2] =
    [TopicDef::new("packed").compression(Compression::Lz4), TopicDef::new("tight").compression(Compression::Zstd)];
const ROWS: TableDef<Utf8, U64> = TableDef::new("rows");
/// A checksum of 32 bits finds every damage of so many bytes side by side.
const SURE_BYTES: usize = 4;

/// Time stands still.
struct Noon;

impl Clock for Noon {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, _pause: Duration) {}
}

/// What a store shows.
type Seen = (Vec<(u32, u64, Vec<u8>, Vec<u8>)>, BTreeMap<String, u64>);

/// The files of a small store, and what it showed.
pub(crate) struct Specimen {
    dirs: Vec<PathBuf>,
    /// In the order of their paths.
    files: Vec<(PathBuf, Vec<u8>)>,
    /// What it showed after each commit, the last one last.
    seen: Vec<Seen>,
    closed: bool,
}

fn open(disk: Arc<SmallDisk>, seed: u64) -> Result<Store> {
    let options = StoreOptions::new().disk(disk).clock(Arc::new(Noon)).seed(seed).manual_duties();
    options.journal_file_bytes(4096).trim_bytes(1 << 20).open(DIR)
}

fn look(store: &Store) -> Result<Seen> {
    let snapshot = store.snapshot()?;
    let mut records = Vec::new();
    for partition in 0..2 {
        let read = snapshot.read("events", PartitionId(partition), LogOffset(0), |record| {
            let bytes = |field: Option<&[u8]>| field.unwrap_or_default().to_vec();
            records.push((partition, record.offset.0, bytes(record.key), bytes(record.value)));
            Ok(Step::Next)
        });
        match read {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            read => drop(read?),
        }
    }
    Ok((records, snapshot.scan(ROWS, ..)?.into_iter().collect()))
}

impl Specimen {
    /// A store that was closed in order, or left as a kill leaves it, with frames behind its trim point.
    ///
    /// # Errors
    /// Whatever the store says; nothing is damaged yet.
    pub(crate) fn make(closed: bool) -> Result<Specimen> {
        let disk = Arc::new(SmallDisk::default());
        let store = open(Arc::clone(&disk), 1)?;
        let events = store.producer(EVENTS)?;
        let mut seen = Vec::new();
        for round in 0..12u64 {
            seen.push(look(&store)?);
            store.transact(|tx| {
                tx.table(ROWS)?.put(&format!("row {round}"), &round)?;
                tx.append(EVENTS, &format!("key {round}"), &[b'a'; 60])
            })?;
            if round == 6 {
                events.append("alone", b"plain")?;
                for topic in PACKED {
                    store.producer(topic)?.append("packed", &[b'a'; 600])?;
                }
                store.trim()?;
            }
        }
        seen.push(look(&store)?);
        let mut specimen = Specimen { dirs: Vec::new(), files: Vec::new(), seen, closed };
        drop(events);
        if closed {
            store.close()?;
        }
        // A store that is still open looks to the next opening as a kill leaves it.
        specimen.take_apart(&disk);
        Ok(specimen)
    }

    fn take_apart(&mut self, disk: &SmallDisk) {
        let mut open = VecDeque::from([PathBuf::from("/")]);
        while let Some(dir) = open.pop_front() {
            let mut paths = disk.list(&dir).expect("a directory that was listed");
            paths.sort();
            for path in paths {
                match disk.open(&path, OpenMode::Read) {
                    Ok(file) => self.files.push((path, file.read_whole(1 << 20).expect("a small file"))),
                    Err(_) => {
                        self.dirs.push(path.clone());
                        open.push_back(path);
                    }
                }
            }
        }
    }

    /// The files of that ending, for seeds.
    pub(crate) fn contents(&self, ending: &str) -> impl Iterator<Item = &[u8]> {
        self.files.iter().filter(move |(path, _)| ends(path, ending)).map(|(_, bytes)| bytes.as_slice())
    }

    fn disk_with(&self, damaged: usize, bytes: &[u8]) -> SmallDisk {
        let disk = SmallDisk::default();
        self.dirs.iter().for_each(|dir| disk.create_dir(dir).expect("a new directory"));
        for (index, (path, whole)) in self.files.iter().enumerate() {
            let file = disk.open(path, OpenMode::Create).expect("a new file");
            file.write_all_at(if index == damaged { bytes } else { whole }, 0).expect("room for a small file");
        }
        disk
    }
}

fn ends(path: &Path, ending: &str) -> bool {
    path.to_str().is_some_and(|path| path.ends_with(ending))
}

/// Damages one file of a store as `input` says and opens it: `file, how, position (two bytes), bytes ...`. A damage
/// that a checksum is sure to find must be told, or change nothing that is seen; of any other, when checksums are
/// believed whatever they say, the store must make what it can, without a panic.
pub(crate) fn damage(specimens: &[Specimen; 2], trust: bool, input: &[u8]) {
    let Some(([file, how, low, high], new)) = input.split_first_chunk::<4>() else { return };
    let specimen = &specimens[usize::from(*file) % 2];
    let file = usize::from(*file) / 2 % specimen.files.len();
    let mut bytes = specimen.files[file].1.clone();
    let at = usize::from(u16::from_le_bytes([*low, *high])) % (bytes.len() + 1);
    let sure = !trust;
    if how % 2 == 0 {
        let new = if sure { &new[..new.len().min(SURE_BYTES)] } else { new };
        bytes.resize(bytes.len().max(at + new.len()), 0);
        bytes[at..at + new.len()].copy_from_slice(new);
    } else {
        bytes.truncate(at);
    }
    oncelog::fuzzing::trust_checksums(trust);
    let (found, told) = open_and_look(specimen.disk_with(file, &bytes));
    oncelog::fuzzing::trust_checksums(false);
    let Ok(found) = found else { return };
    let last = specimen.seen.last().expect("what it showed at last");
    let cut = told && !specimen.closed && specimen.seen.contains(&found);
    let path = specimen.files[file].0.display();
    assert!(!sure || found == *last || cut, "{path}, byte {at}: silently shows something else");
}

/// What it shows, and whether it says that it cut a torn tail. Then it must be of use, or say why not.
fn open_and_look(disk: SmallDisk) -> (Result<Seen>, bool) {
    let store = match open(Arc::new(disk), 2) {
        Ok(store) => store,
        Err(error) => return (Err(error), false),
    };
    let told = store.recovery_report().torn.is_some();
    let seen = store.producer(EVENTS).and_then(|_| look(&store));
    if let Ok(events) = store.producer(EVENTS) {
        let _ = events.append("later", b"more").and_then(|_| store.trim());
    }
    let _ = store.close();
    (seen, told)
}
