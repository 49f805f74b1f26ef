//! What a manifest says, and its bytes: a copy is whole or it counts for nothing.

use std::path::Path;

use super::holder::{HOLDER_AT, HOLDER_BYTES};
use crate::backup::Link;
use crate::codec::{CheckSite, Input, crc32c, same};
use crate::disk::DiskFile;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, OWNER_NAME_BYTES_MAX, OwnerId, StoreId};
use crate::journal::{FileName, JournalPosition};
use crate::table::{ROOT_HEAD_BYTES, TableFileName, TableRoot};

const MAGIC: [u8; 8] = *b"OLMANIFE";
const VERSION: u32 = 1;
pub(super) const COPY_BYTES: usize = 1024;
const SUMMED_BYTES: usize = COPY_BYTES - 4;
/// The places of the two copies, for even and odd epochs.
pub(in crate::store) const PAIRS: [[usize; 2]; 2] = [[0, 4096], [8192, 12288]];
pub(super) const FILE_BYTES: usize = HOLDER_AT + HOLDER_BYTES;
/// Longest name of an owner.
pub(in crate::store) const OWNER_BYTES: usize = OWNER_NAME_BYTES_MAX;
const ARCHIVED_AT: usize = 508;
/// So many openings are remembered.
pub(super) const OPENINGS: usize = 32;
const NUMBER_AT: usize = 1000;
/// Beyond any journal file.
const POSITION_MAX: u64 = 1 << 40;
/// Beyond any table file.
const STATE_BYTES_MAX: u64 = 1 << 60;

/// Whether the owner was left in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum State {
    /// In use, or left by a crash.
    Open,
    /// Closed: everything is at the trim point.
    Closed,
}

/// Which of the two copies of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Written {
    First,
    /// When the first was durable.
    Second,
}

/// What a manifest says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Manifest {
    pub(in crate::store) generation: u64,
    pub(in crate::store) store: StoreId,
    pub(in crate::store) owner: String,
    /// The owner's number.
    pub(in crate::store) number: OwnerId,
    pub(in crate::store) epoch: Epoch,
    /// Drawn by the opening: tells two apart that took one epoch.
    pub(in crate::store) opening: u64,
    /// The place of this copy in its write. What [`ManifestFile`] goes by is the first.
    pub(in crate::store) written: Written,
    pub(in crate::store) state: State,
    /// Where replay starts, and the state there. `None` before the first opening is done.
    pub(in crate::store) trim: Option<(JournalPosition, TableRoot)>,
    /// What the archive of the journal holds before the trim point; `None`: there is none, or it ends before.
    pub(in crate::store) archived: Option<Archived>,
    /// What the newest openings have drawn, each in the place of its epoch's remainder: with the epochs, the history of
    /// the owner. Another one that was set back to an earlier state has other numbers from there on.
    pub(in crate::store) openings: Box<[u64; OPENINGS]>,
}

impl Manifest {
    /// Whether opening `epoch` is known to be of this history.
    pub(in crate::store) fn has_had(&self, epoch: Epoch, opening: u64) -> bool {
        let is_near = epoch <= self.epoch && self.epoch.0 - epoch.0 < OPENINGS as u64;
        is_near && opening != 0 && self.openings[place_of(epoch)] == opening
    }
}

/// The place of an opening in [`Manifest::openings`].
pub(super) fn place_of(epoch: Epoch) -> usize {
    usize::try_from(epoch.0 % OPENINGS as u64).unwrap_or_default()
}

/// Frames that are archived, or spooled for that, up to the trim point and without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Archived {
    /// The first of them.
    pub(in crate::store) from: Lsn,
    /// Of the last one.
    pub(in crate::store) link: Link,
}

pub(super) fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut out = Vec::with_capacity(COPY_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&u32::from(manifest.state == State::Closed).to_le_bytes());
    out.extend_from_slice(&manifest.generation.to_le_bytes());
    out.extend_from_slice(&manifest.store.0);
    let mut owner = [0; OWNER_BYTES];
    owner[..manifest.owner.len()].copy_from_slice(manifest.owner.as_bytes());
    out.extend_from_slice(&owner);
    out.extend_from_slice(&manifest.epoch.0.to_le_bytes());
    if let Some((at, state)) = &manifest.trim {
        out.extend_from_slice(&1u32.to_le_bytes());
        out.extend_from_slice(&at.file.slot.to_le_bytes());
        for number in [at.file.epoch.0, at.salt, at.position, at.next_lsn.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&at.chain.to_le_bytes());
        for number in [state.file.epoch.0, state.file.salt, state.generation, state.len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&state.head[..]);
    }
    out.resize(ARCHIVED_AT, 0);
    for number in manifest.archived.map_or([0, 0], |archived| [archived.from.0, archived.link.0]) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for opening in *manifest.openings {
        out.extend_from_slice(&opening.to_le_bytes());
    }
    out.resize(NUMBER_AT, 0);
    out.extend_from_slice(&manifest.number.0.to_le_bytes());
    out.extend_from_slice(&manifest.opening.to_le_bytes());
    out.extend_from_slice(&u32::from(manifest.written == Written::Second).to_le_bytes());
    out.resize(SUMMED_BYTES, 0);
    let sum = crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// What is in the place of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum Copy {
    Whole(Manifest),
    /// Never written.
    Blank,
    Damaged,
}

/// All copies, even epochs first.
///
/// # Errors
/// `UnsupportedVersion`: one is whole and of a newer format; that is not damage, whatever the others say.
pub(in crate::store) fn read_copies(file: &dyn DiskFile, path: &Path) -> Result<[[Copy; 2]; 2]> {
    let mut bytes = [0; FILE_BYTES];
    let read = file.read_full_at(&mut bytes, 0).map_err(|error| Error::unknown(path, "read the manifest", error))?;
    let mut copies = [const { [Copy::Damaged, Copy::Damaged] }; 2];
    // One that was cut short has lost copies, and nobody knows which of the others counts.
    if read < bytes.len() {
        return Ok(copies);
    }
    for (pair, places) in copies.iter_mut().zip(PAIRS) {
        for (copy, place) in pair.iter_mut().zip(places) {
            *copy = read_copy(&bytes[place..][..COPY_BYTES], path)?;
        }
    }
    Ok(copies)
}

/// The newest whole copy.
pub(super) fn newest(copies: [[Copy; 2]; 2]) -> Option<Manifest> {
    newest_of(copies, |_| true)
}

pub(super) fn newest_of(copies: [[Copy; 2]; 2], counts: impl Fn(&Manifest) -> bool) -> Option<Manifest> {
    let whole = copies.into_iter().flatten().filter_map(|copy| match copy {
        Copy::Whole(manifest) => Some(manifest),
        Copy::Blank | Copy::Damaged => None,
    });
    whole.filter(counts).max_by_key(|copy| (copy.epoch, copy.generation))
}

fn read_copy(bytes: &[u8], path: &Path) -> Result<Copy> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(Copy::Blank);
    }
    let Some((summed, sum)) = bytes.split_last_chunk::<4>() else { return Ok(Copy::Damaged) };
    if !same(CheckSite::Manifest, u32::from_le_bytes(*sum), crc32c(summed)) {
        return Ok(Copy::Damaged);
    }
    let mut input = Input::new(summed);
    if input.array() != Some(MAGIC) {
        return Ok(Copy::Damaged);
    }
    match input.u32() {
        Some(VERSION) => Ok(decode(&mut input, summed).map_or(Copy::Damaged, Copy::Whole)),
        Some(version) => {
            let what = format!("manifest format {version}, this program knows {VERSION}");
            Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(path))
        }
        None => Ok(Copy::Damaged),
    }
}

fn decode(input: &mut Input<'_>, whole: &[u8]) -> Option<Manifest> {
    let state = if input.u32()? == 1 { State::Closed } else { State::Open };
    let generation = input.u64()?;
    let store = StoreId(input.array()?);
    let owner = input.take(OWNER_BYTES)?;
    let owner = owner.split(|byte| *byte == 0).next()?;
    let owner = std::str::from_utf8(owner).ok()?.to_owned();
    let epoch = Epoch(input.u64()?);
    let trim = match input.u32()? {
        0 => None,
        _ => {
            let slot = input.u32()?;
            let file = FileName { epoch: Epoch(input.u64()?), slot };
            let (salt, position, next_lsn) = (input.u64()?, input.u64()?, Lsn(input.u64()?));
            let chain = input.u32()?;
            let file = (TableFileName { epoch: Epoch(input.u64()?), salt: input.u64()? }, file);
            let (generation, len) = (input.u64()?, input.u64()?);
            let head: Box<[u8; ROOT_HEAD_BYTES]> = Box::new(input.array()?);
            let (state, file) = (TableRoot { file: file.0, generation, len, head }, file.1);
            Some((JournalPosition { file, salt, position, next_lsn, chain }, state))
        }
    };
    let mut archived = Input::new(whole.get(ARCHIVED_AT..)?);
    let mut word = || archived.u64();
    let archived = Archived { from: Lsn(word()?), link: Link(word()?) };
    let archived = (archived.from != Lsn(0)).then_some(archived);
    let mut openings = Box::new([0; OPENINGS]);
    for opening in &mut *openings {
        *opening = word()?;
    }
    let mut rest = Input::new(whole.get(NUMBER_AT..)?);
    let (number, opening) = (OwnerId(rest.u32()?), rest.u64()?);
    let written = if rest.u32()? == 1 { Written::Second } else { Written::First };
    let sane = number <= OwnerId::MAX
        && generation < u64::MAX
        && epoch.0 < u64::MAX
        && (state == State::Open || trim.is_some())
        && trim.as_ref().is_none_or(|(at, state)| {
            let journal = (1..u64::MAX).contains(&at.next_lsn.0) && at.position < POSITION_MAX;
            journal && state.len < STATE_BYTES_MAX
        });
    sane.then_some(Manifest {
        generation,
        store,
        owner,
        number,
        epoch,
        opening,
        written,
        state,
        trim,
        archived,
        openings,
    })
}
