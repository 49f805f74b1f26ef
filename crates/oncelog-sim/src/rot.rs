//! Rot: flips bits, cuts, zeroes and swaps in every file of a small store, and asks whether anybody noticed.
//!
//! Allowed answers: an error that says `Corrupt`; the same state as before; for a store that was not closed in order,
//! a state without the last group of frames, if the opening said that it cut a torn tail (a zeroed sector may hold the
//! ends and heads of several small groups, and take those; one that held all that is left of the journal's end takes it
//! without a trace). Anything else is silent rot.

use std::ops::{ControlFlow, Range};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oncelog::{ErrorKind, PartitionId, RecoveryReport, Result, Store, StoreOptions};

use crate::clock::SimClock;
use crate::dice::Dice;
use crate::disk::{SimDisk, Slip, Survival};
use crate::lanes::spread;
use crate::model::Model;
use crate::observe::observe;
use crate::schema::{LONG, OUT, PLAIN, ROWS, SPREAD};

const DIR: &str = "/data/store";
const MANIFEST: &str = "/data/store/owners/main/MANIFEST";

/// The timestamps of the records of `LONG`, which need not rise.
const TIMES: [i64; 4] = [1000, 3000, 2000, 4000];

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One bit is the other way round.
    Bit(u64),
    /// The file ends there.
    Cut(u64),
    /// 512 bytes from there are zero.
    ZeroSector(u64),
    /// The file has changed places with another.
    SwappedWith(usize),
    /// The file is gone.
    Gone,
}

/// A small store, closed in order or not, and what it holds.
pub struct Specimen {
    disk: SimDisk,
    before: Model,
    /// The earlier states, oldest first, for a store that was not closed.
    earlier: Vec<Model>,
}

impl Specimen {
    /// Makes a store with every kind of file.
    ///
    /// # Errors
    /// Whatever the store says; nothing is wrong with its disk yet.
    pub fn make(seed: u64, closed: bool) -> Result<Specimen> {
        let disk = SimDisk::new(seed);
        let store = options(&disk, seed).open(DIR)?;
        let mut dice = Dice::new(seed);
        let spread = store.producer(SPREAD)?;
        let plain = store.producer(PLAIN)?;
        // The first record is long enough that the second has an entry of its own in the index.
        for (at, timestamp_ms) in TIMES.into_iter().enumerate() {
            let value = vec![b'l'; if at == 0 { 17 << 10 } else { 30 }];
            store.producer(LONG)?.append_record(None, Some(b"key"), Some(&value), &[], Some(timestamp_ms))?;
        }
        let mut earlier = Vec::new();
        for round in 0..12u64 {
            earlier.push(observe(&store)?);
            let value = vec![b'a' + u8::try_from(round).unwrap_or(0); 40 + dice.up_to(200)];
            store.transact(|tx| {
                tx.table(ROWS)?.put(&format!("k{round}"), &round)?;
                tx.append(PLAIN, b"key", &value)?;
                tx.append(OUT, "key", &round)
            })?;
            if round == 5 {
                plain.append(b"key", &value)?;
                spread.append("spread", &value)?;
                store.trim()?;
            }
        }
        let before = observe(&store)?;
        if closed {
            store.close()?;
            Ok(Specimen { disk, before, earlier: Vec::new() })
        } else {
            disk.crash_after(1);
            drop((spread, plain));
            let _ = store.close();
            disk.process_kill();
            Ok(Specimen { disk, before, earlier })
        }
    }

    /// The files, with their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.disk.paths()
    }

    /// Does the damage to a copy, opens it and looks at everything; says what was silently wrong.
    ///
    /// # Errors
    /// What nobody noticed.
    pub fn try_damage(&self, file: usize, damage: Damage) -> std::result::Result<(), String> {
        let files = self.files();
        let (path, _) = &files[file];
        let disk = self.disk.copy_tree();
        let done = match damage {
            Damage::Bit(bit) => disk.flip_bit(path, bit / 8, u8::try_from(bit % 8).unwrap_or(0)),
            Damage::Cut(len) => disk.truncate(path, len),
            Damage::ZeroSector(sector) => disk.zero_sector(path, sector),
            Damage::Gone => disk.remove_file(path),
            Damage::SwappedWith(other) => swap(&disk, path, &files[other].0),
        };
        done.map_err(|error| format!("the test itself failed: {error}"))?;
        let what = |found: String| format!("{} {damage:?}: {found}", path.display());
        match open_and_look(&disk) {
            Err(error) if error.kind() == ErrorKind::Corrupt || error.kind() == ErrorKind::UnsupportedVersion => Ok(()),
            Err(error) => Err(what(format!("not told as rot but as {error:?}"))),
            Ok(Looked { wrong_time: Some(timestamp_ms), .. }) => {
                Err(what(format!("another record is the first since {timestamp_ms}")))
            }
            Ok(Looked { seen, .. }) if seen == self.before => Ok(()),
            Ok(Looked { seen, report, .. }) => {
                let groups = if matches!(damage, Damage::ZeroSector(_)) { self.earlier.len() } else { 1 };
                let gone = matches!(damage, Damage::ZeroSector(sector) if holds_the_end(&disk, path, sector));
                let told = (report.torn.is_some() || gone)
                    && self.earlier.iter().rev().take(groups).any(|earlier| *earlier == seen);
                if told { Ok(()) } else { Err(what(format!("{} ({report})", self.before.difference(&seen)))) }
            }
        }
    }
}

/// Where the copies of the manifest begin.
const COPIES: [u64; 4] = [0, 4096, 8192, 12288];

/// Nothing but what was synced survives a power cut, behind a first commit and behind a trim; then one copy of the
/// manifest is damaged, each in turn. What was answered must be there all the same.
///
/// Crashes alone do not show that the second copy is synced: a write never touches the copy that is durable.
///
/// # Errors
/// What is missing.
pub fn one_bad_copy(seed: u64, slip: Option<Slip>) -> std::result::Result<(), String> {
    [false, true].into_iter().try_for_each(|trims| {
        let (disk, before) = cut(seed, slip, trims).map_err(|error| format!("the test itself failed: {error:?}"))?;
        COPIES.into_iter().try_for_each(|copy| {
            let disk = disk.copy_tree();
            let flipped = disk.flip_bit(MANIFEST, copy + 20, 3);
            flipped.map_err(|error| format!("the test itself failed: {error}"))?;
            let found = options(&disk, 99).open(DIR).and_then(|store| observe(&store));
            match found.map_err(|error| format!("{error:?}"))? {
                seen if seen == before => Ok(()),
                seen => Err(before.difference(&seen)),
            }
        })
    })
}

/// A disk behind a power cut, and what had been answered.
fn cut(seed: u64, slip: Option<Slip>, trims: bool) -> Result<(SimDisk, Model)> {
    let disk = SimDisk::new(seed);
    let commit = |store: &Store| store.transact(|tx| tx.append(PLAIN, b"key", &seed.to_le_bytes()));
    // So that each copy was written before.
    for _ in 0..2 {
        let store = options(&disk, seed).open(DIR)?;
        commit(&store)?;
        store.close()?;
    }
    disk.slip_syncs(slip);
    let store = options(&disk, seed).open(DIR)?;
    commit(&store)?;
    if trims {
        store.trim()?;
    }
    let before = observe(&store)?;
    disk.power_cut_with(Survival::Nothing);
    drop(store);
    disk.slip_syncs(None);
    Ok((disk, before))
}

/// Whether a zeroed sector of a journal file held the whole end of the journal: then nothing is left of what was there,
/// and a journal that ended before it looks the same.
fn holds_the_end(disk: &SimDisk, path: &Path, sector: u64) -> bool {
    let is_journal = path.extension().is_some_and(|kind| kind == "journal");
    let bytes = disk.read_file(path).unwrap_or_default();
    let start = usize::try_from(sector * 512).unwrap_or(usize::MAX).min(bytes.len());
    is_journal && bytes[start..].iter().all(|byte| *byte == 0)
}

fn swap(disk: &SimDisk, one: &PathBuf, other: &PathBuf) -> std::io::Result<()> {
    let (first, second) = (disk.read_file(one)?, disk.read_file(other)?);
    disk.write_file(one, &second)?;
    disk.write_file(other, &first)
}

fn options(disk: &SimDisk, seed: u64) -> StoreOptions {
    // Who made the store has ended when it is looked at.
    StoreOptions::new()
        .simulated_process(seed)
        .disk(Arc::new(disk.clone()))
        .clock(Arc::new(SimClock::default()))
        .seed(seed)
        .manual_duties()
        .journal_file_bytes(4096)
        .trim_bytes(64 << 10)
}

/// What an opening after the damage shows.
struct Looked {
    seen: Model,
    report: RecoveryReport,
    /// A timestamp that is answered with a wrong offset.
    wrong_time: Option<i64>,
    indexes_rebuilt: u64,
}

fn open_and_look(disk: &SimDisk) -> Result<Looked> {
    let store: Store = options(disk, 99).open(DIR)?;
    // Everything that can be read is read: opening a topic or a table reads its claim too.
    let (_, _, _) = (store.producer(PLAIN)?, store.producer(SPREAD)?, store.producer(OUT)?);
    store.begin()?.table(ROWS).map(drop)?;
    let mut wrong_time = None;
    for timestamp_ms in TIMES.into_iter().flat_map(|time| [time, time + 1]) {
        let expected = TIMES.iter().take_while(|time| **time < timestamp_ms).count();
        let found = store.offset_at_time(LONG.name(), PartitionId(0), timestamp_ms)?;
        if found.0 != expected as u64 {
            wrong_time = Some(timestamp_ms);
        }
    }
    let (seen, report) = (observe(&store)?, store.recovery_report().clone());
    Ok(Looked { seen, report, wrong_time, indexes_rebuilt: store.stats().indexes_rebuilt })
}

impl Specimen {
    /// The bytes of a file that are in use and under a checksum: a flipped bit there must be told, harmless or not.
    fn guarded(&self, file: usize) -> Vec<Range<u64>> {
        let files = self.files();
        let (path, len) = &files[file];
        let closed = self.earlier.is_empty();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match name.rsplit_once('.').map_or(name, |(_, kind)| kind) {
            "STORE" | "CLAIM" | "index" => std::iter::once(0..*len).collect(),
            "MANIFEST" => vec![0..1024, 4096..5120, 8192..9216, 12288..13312],
            "table" => std::iter::once(0..52).collect(),
            // Of a store that was not closed, segments behind the trim point are made anew from the journal.
            "segment" if closed => vec![0..72, 80..*len],
            "journal" if self.is_told(file, Damage::ZeroSector(0)) => std::iter::once(0..60).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the damage is an error, or a line in the report.
    fn is_told(&self, file: usize, damage: Damage) -> bool {
        let disk = self.disk.copy_tree();
        let files = self.files();
        let (path, _) = &files[file];
        let done = match damage {
            Damage::Bit(bit) => disk.flip_bit(path, bit / 8, u8::try_from(bit % 8).unwrap_or(0)),
            Damage::ZeroSector(sector) => disk.zero_sector(path, sector),
            _ => return false,
        };
        if done.is_err() {
            return false;
        }
        match open_and_look(&disk) {
            Err(error) => error.kind() == ErrorKind::Corrupt || error.kind() == ErrorKind::UnsupportedVersion,
            Ok(looked) => looked.report.torn.is_some() || looked.report.manifest_repaired || looked.indexes_rebuilt > 0,
        }
    }

    /// The places of the frames in the journal files that recovery reads, without what fills them up to multiples of 8.
    fn frames(&self, file: usize) -> Vec<Range<u64>> {
        let files = self.files();
        let (path, _) = &files[file];
        let in_use = !self.earlier.is_empty() && path.extension().is_some_and(|kind| kind == "journal");
        if !in_use || !self.is_told(file, Damage::ZeroSector(1)) {
            return Vec::new();
        }
        let bytes = self.disk.read_file(path).unwrap_or_default();
        let mut found = Vec::new();
        let mut at = 512;
        while let Some(&[b'O', b'L', b'f', b'r', a, b, c, d]) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>())
        {
            let body = u32::from_le_bytes([a, b, c, d]) as usize;
            found.push(at as u64..(at + 40 + body) as u64);
            at = (at + 40 + body).next_multiple_of(8);
        }
        found
    }
}

/// What a round of damage came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Damages tried.
    pub tried: u64,
    /// Damages that nobody noticed.
    pub silent: u64,
}

/// Flips every `stride`-th bit of everything that is in use and under a checksum; tells those that nobody told of,
/// even if no harm came of it: the check that should have seen it is gone. Ends when `tell` breaks off.
pub fn survey_guarded(specimen: &Specimen, stride: u64, tell: impl FnMut(&str) -> ControlFlow<()> + Send) -> Tally {
    let files = specimen.files();
    let bits = |file| {
        let ranges = specimen.guarded(file).into_iter().chain(specimen.frames(file));
        ranges.flat_map(|range| range.start * 8..range.end * 8).step_by(usize::try_from(stride).unwrap_or(1))
    };
    let flips = (0..files.len()).flat_map(|file| bits(file).map(move |bit| (file, bit)).collect::<Vec<_>>());
    let check = |(file, bit): (usize, u64)| {
        let is_told = specimen.is_told(file, Damage::Bit(bit));
        if is_told { Ok(()) } else { Err(format!("{} bit {bit}: nobody told", files[file].0.display())) }
    };
    tally(flips, check, tell)
}

/// Tries every `stride`-th bit of every file, every `stride`-th length, every sector, every pair of files swapped, and
/// each file gone; tells each that nobody noticed. Ends when `tell` breaks off.
pub fn survey(specimen: &Specimen, stride: u64, tell: impl FnMut(&str) -> ControlFlow<()> + Send) -> Tally {
    let files = specimen.files();
    let damages = (0..files.len()).flat_map(|at| damages(&files, at, stride).map(move |damage| (at, damage)));
    tally(damages, |(file, damage)| specimen.try_damage(file, damage), tell)
}

fn damages(files: &[(PathBuf, u64)], at: usize, stride: u64) -> impl Iterator<Item = Damage> + use<> {
    let (path, len) = &files[at];
    let (len, count) = (*len, files.len());
    // A table file is larger than all others together; a test beside its code tries all its bits.
    let stride = if path.extension().is_some_and(|kind| kind == "table") { stride * 16 + 1 } else { stride };
    let step = usize::try_from(stride).unwrap_or(1);
    // Another start in each file, so that strides do not always hit the same fields.
    let bits = ((at as u64 * 7) % stride..len * 8).step_by(step).map(Damage::Bit);
    let cuts = (0..len).step_by(step).map(Damage::Cut);
    let sectors = (0..len.div_ceil(512)).map(Damage::ZeroSector);
    let swaps = (at + 1..count).map(Damage::SwappedWith);
    bits.chain(cuts).chain(sectors).chain(swaps).chain([Damage::Gone])
}

fn tally<D: Send>(
    damages: impl Iterator<Item = D> + Send,
    check: impl Fn(D) -> std::result::Result<(), String> + Sync,
    mut tell: impl FnMut(&str) -> ControlFlow<()> + Send,
) -> Tally {
    let mut tally = Tally::default();
    let try_one = |damage| catch_unwind(AssertUnwindSafe(|| check(damage)));
    spread(damages, try_one, |checked| {
        tally.tried += 1;
        let Err(silent) = checked.unwrap_or_else(|_| Err("the engine panicked".to_owned())) else {
            return ControlFlow::Continue(());
        };
        tally.silent += 1;
        tell(&silent)
    });
    tally
}
