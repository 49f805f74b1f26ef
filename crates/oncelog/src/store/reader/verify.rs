//! Verifying a store: every checksum and every invariant, without a lock and without writing, beside its owners too.
//!
//! An owner's journal, rows and claims are checked in one look ([`StoreReader::look`]), which counts only if its trim
//! point stands still meanwhile. Segments take longer, and do not need that: they only grow. A segment can still be
//! taken away, with its topic or by a recovery that has written its records anew, so what is wrong with one counts only
//! if a second look, at the state as it is then, finds it wrong too.
//!
//! What a crash may leave is no damage: a torn tail, a manifest of which one copy is behind. It is noted.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::super::Store;
use super::super::claims::Name;
use super::super::layout::MAIN;
use super::super::manifest::{Copy, Manifest, PAIRS, State, pair_of, read_copies};
use super::super::owner::manifest_of;
use super::super::report::LostOffsets;
use super::StoreReader;
use super::owner::OwnerReader;
use crate::disk::OpenMode;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, ShardId, TableId};
use crate::table::ScanRange;
use crate::topic::{self, Partition, PartitionReader, Polled};
use crate::transaction::system;
use crate::wake::Arc;

/// What a verification has looked at, and what it found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Verification {
    /// Owners whose state was recovered in memory.
    pub owners: u64,
    /// Frames of their journals that were read.
    pub frames: u64,
    /// Topics, with their claims.
    pub topics: u64,
    /// Record batches whose place and content were compared with their checksums.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Rows of tables, the store's own included.
    pub rows: u64,
    /// Claims on names.
    pub claims: u64,
    /// Offsets that no record has: told as gaps to readers, and no damage.
    pub lost: Vec<LostOffsets>,
    /// What a crash has left and the next opening sets right.
    pub notes: Vec<String>,
    /// What is not what was written: errors of kind `Corrupt` or `UnsupportedVersion`, with file and position.
    pub damage: Vec<Error>,
}

/// A manifest copy may be in the middle of being written; it is whole again after so many looks.
const MANIFEST_LOOKS: u32 = 40;
const MANIFEST_PAUSE: Duration = Duration::from_millis(5);
/// What is found wrong otherwise each time is believed after so many looks.
const CONFIRMATIONS: u32 = 8;
/// Rows read at once.
const PAGE_ROWS: usize = 1024;

impl StoreReader {
    /// Checks all that there is: manifests, claims, journals, rows, and every batch of every segment. `seen` is told
    /// how many batches were checked, now and then.
    ///
    /// # Errors
    /// `Unavailable`: an owner is being opened, or moves its trim point faster than its rows can be read. Damage is no
    /// error here: it is what is told.
    pub fn verify(&self, mut seen: impl FnMut(u64)) -> Result<Verification> {
        let mut found = Verification::default();
        for name in self.owners_there(&mut found)? {
            let owner = self.inner.owner(&name)?;
            self.verify_owner(&name, &owner, &mut found, &mut seen)?;
        }
        for dir in [&self.inner.layout.topics, &self.inner.layout.tables, &self.inner.layout.consumers] {
            self.verify_claims(dir, &mut found)?;
        }
        Ok(found)
    }

    /// The names of the owners. One whose manifest cannot be read is damaged, unless nothing was ever written there.
    fn owners_there(&self, found: &mut Verification) -> Result<Vec<String>> {
        let (disk, layout) = (&*self.inner.disk, &self.inner.layout);
        let doing = |error| Error::io(&layout.owners, "list the owners", error);
        let mut names = Vec::new();
        let dirs = disk.list(&layout.owners).map_err(doing)?;
        for dir in dirs.into_iter().filter(|path| !path.ends_with("LOCK")) {
            match manifest_of(disk, &dir) {
                Ok(manifest) => names.extend(manifest.map(|manifest| manifest.owner)),
                Err(error) => found.note_damage(error)?,
            }
        }
        if !names.iter().any(|name| name == MAIN) && found.is_sound() {
            let what = "the owner that every store is made with is gone";
            found.note_damage(Error::corrupt(&layout.manifest, 0, what))?;
        }
        names.sort();
        Ok(names)
    }

    fn verify_owner(
        &self,
        name: &str,
        owner: &OwnerReader,
        found: &mut Verification,
        seen: &mut dyn FnMut(u64),
    ) -> Result<()> {
        if let Err(error) = verify_manifest(owner, found) {
            return found.note_damage(error);
        }
        let looked = owner.look(|state| {
            let mut of_rows = Verification::default();
            verify_rows(state, &mut of_rows)?;
            Ok((state.clone(), of_rows))
        });
        let (state, of_rows) = match looked {
            Ok(looked) => looked,
            Err(error) => return found.note_damage(error),
        };
        found.add(of_rows);
        found.owners += 1;
        let report = state.recovery_report();
        found.frames += report.frames;
        if let Some(torn) = &report.torn {
            let (file, position) = (torn.file.display(), torn.position);
            found.notes.push(format!(
                "a torn tail in {file} at byte {position}: never acknowledged, the next opening cuts it"
            ));
        }
        for (id, spec) in state.topics()? {
            found.topics += 1;
            let loaded = state.core().pipeline.topics.get(id);
            let topic = match loaded {
                Ok(topic) => topic,
                Err(error) => {
                    self.confirm(name, error, found, |state| state.core().pipeline.topics.get(id).map(drop))?;
                    continue;
                }
            };
            for partition in &topic.partitions {
                let (errors, counted) = verify_partition(&state, &spec.name, partition, found.batches, seen);
                found.add(counted);
                let number = partition.id;
                for error in errors {
                    let mark = mark_of(&error);
                    let again = |state: &Store| {
                        let topic = state.core().pipeline.topics.get(id)?;
                        let (errors, _) = verify_partition(state, &spec.name, topic.partition(number)?, 0, &mut |_| {});
                        let same = errors.iter().position(|other| mark_of(other) == mark).unwrap_or(0);
                        errors.into_iter().nth(same).map_or(Ok(()), Err)
                    };
                    self.confirm(name, error, found, again)?;
                }
            }
        }
        Ok(())
    }

    /// Notes damage if another look at the owner, begun after it was met, finds it too.
    fn confirm(
        &self,
        owner: &str,
        mut error: Error,
        found: &mut Verification,
        check: impl Fn(&Store) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..CONFIRMATIONS {
            match self.inner.owner(owner)?.look(|state| Ok(check(state))) {
                Ok(Ok(())) => return Ok(()),
                // Deleted meanwhile.
                Ok(Err(again)) if again.kind() == ErrorKind::NotFound => return Ok(()),
                Ok(Err(again)) if mark_of(&again) == mark_of(&error) => break,
                Ok(Err(again)) => error = again,
                Err(other) => return found.note_damage(other),
            }
        }
        found.note_damage(error)
    }

    fn verify_claims(&self, dir: &Path, found: &mut Verification) -> Result<()> {
        let disk = &*self.inner.disk;
        let names = match disk.list(dir) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return found.note_damage(Error::corrupt(dir, 0, "a directory of the store is gone"));
            }
            Err(error) => return Err(Error::io(dir, "list the claims", error)),
        };
        for name in names {
            match topic::find_claim(disk, &name) {
                Ok(Some(claim)) if claim.store != self.inner.store => {
                    found.note_damage(Error::corrupt(
                        &topic::Claim::path(&name),
                        0,
                        "this is a claim of another store",
                    ))?;
                }
                Ok(claim) => found.claims += u64::from(claim.is_some()),
                Err(error) => found.note_damage(error)?,
            }
        }
        Ok(())
    }
}

impl Verification {
    /// Whether everything is what was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    /// Damage is noted, any other failure ends the verification.
    fn note_damage(&mut self, error: Error) -> Result<()> {
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion) {
            return Err(error);
        }
        if !self.damage.iter().any(|known| mark_of(known) == mark_of(&error)) {
            self.damage.push(error);
        }
        Ok(())
    }

    fn add(&mut self, other: Verification) {
        self.batches += other.batches;
        self.records += other.records;
        self.rows += other.rows;
        self.lost.extend(other.lost);
        self.damage.extend(other.damage);
    }
}

/// What tells one error from another.
fn mark_of(error: &Error) -> String {
    format!("{error:?}")
}

/// Both copies of the manifest. Where the owner was closed in order, or lives and has not just written them, both of
/// its own pair are whole; one of the other pair stays as an earlier opening left it that was cut short in a write.
fn verify_manifest(owner: &OwnerReader, found: &mut Verification) -> Result<()> {
    let path = &owner.layout.manifest;
    let mut damaged: Option<(usize, u64, Manifest)> = None;
    for _ in 0..MANIFEST_LOOKS {
        let manifest = owner.manifest()?;
        let file =
            owner.disk.open(path, OpenMode::Read).map_err(|error| Error::io(path, "open the manifest", error))?;
        let copies = read_copies(&*file, path)?;
        // That of the opening in force first: what is told of it counts more.
        let own = pair_of(manifest.epoch);
        damaged = [own, 1 - own].into_iter().find_map(|pair| match &copies[pair] {
            [Copy::Damaged, Copy::Whole(_)] => Some((pair, PAIRS[pair][0] as u64, manifest.clone())),
            [Copy::Whole(_), Copy::Damaged] => Some((pair, PAIRS[pair][1] as u64, manifest.clone())),
            _ => None,
        });
        if damaged.is_none() {
            return Ok(());
        }
        owner.clock.sleep(MANIFEST_PAUSE);
    }
    let Some((pair, position, manifest)) = damaged else { return Ok(()) };
    if pair != pair_of(manifest.epoch) || manifest.state == State::Open && !owner.is_alive()? {
        let file = path.display();
        found
            .notes
            .push(format!("a copy of {file} at byte {position} is behind, as a crash may leave it; the other serves"));
        return Ok(());
    }
    Err(Error::corrupt(path, position, "a copy of the manifest is damaged; the other serves"))
}

/// All rows, and that they say what can be.
fn verify_rows(state: &Store, found: &mut Verification) -> Result<()> {
    let core = state.core();
    for (id, spec) in state.tables()? {
        core.check_claim_of(&Name::Table(&spec.name, id))?;
    }
    found.rows += read_rows(state)?;
    for progress in state.consumers()? {
        let Ok((_, end)) = state.offsets(&progress.topic, progress.partition) else { continue };
        // Another owner's topic may be seen as of an earlier moment.
        let is_own = core.pipeline.topics.find(&progress.topic)?.is_some();
        if is_own && progress.next > end {
            let (consumer, topic, partition) = (&progress.consumer, &progress.topic, progress.partition);
            let what = format!(
                "consumer {consumer:?} stands at {} in topic {topic:?}, partition {partition}, which ends at {end}",
                progress.next
            );
            return Err(Error::new(ErrorKind::Corrupt, what).in_file(&core.layout.state));
        }
    }
    Ok(())
}

/// Reads all rows; gives how many there are.
pub(in crate::store) fn read_rows(state: &Store) -> Result<u64> {
    let core = state.core();
    let mut tables: Vec<(TableId, u32)> = (0..=system::NEWEST.0).map(|id| (TableId(id), 1)).collect();
    tables.extend(state.tables()?.into_iter().map(|(id, spec)| (id, spec.shards)));
    let (visible, mut found) = (core.pin_visible(), 0);
    for (table, shards) in tables {
        for shard in (0..shards).map(ShardId) {
            let rows = core.tables.shard(table, shard);
            let mut from = std::ops::Bound::Unbounded;
            loop {
                let start = from.as_ref().map(Vec::as_slice);
                let range = ScanRange { limit: PAGE_ROWS, ..ScanRange::between(start, std::ops::Bound::Unbounded) };
                let page = rows.scan(range, visible.lsn())?;
                found += page.len() as u64;
                match page.into_iter().nth(PAGE_ROWS - 1) {
                    Some((key, _)) => from = std::ops::Bound::Excluded(key),
                    None => break,
                }
            }
        }
    }
    Ok(found)
}

/// Every batch of a partition. Behind what is damaged it goes on with the next segment.
fn verify_partition(
    state: &Store,
    name: &str,
    partition: &Arc<Partition>,
    before: u64,
    seen: &mut dyn FnMut(u64),
) -> (Vec<Error>, Verification) {
    let (mut errors, mut found) = (Vec::new(), Verification::default());
    let end = partition.end_at(state.core().pipeline.view.visible());
    let mut next = partition.start();
    while next < end {
        match verify_from(name, partition, &mut next, end, before, &mut found, seen) {
            Ok(()) => break,
            Err(error) => errors.push(error),
        }
        match partition.bases().into_iter().find(|base| *base > next) {
            Some(base) => next = base,
            None => break,
        }
    }
    (errors, found)
}

fn verify_from(
    name: &str,
    partition: &Arc<Partition>,
    next: &mut LogOffset,
    end: LogOffset,
    before: u64,
    found: &mut Verification,
    seen: &mut dyn FnMut(u64),
) -> Result<()> {
    let id: PartitionId = partition.id;
    let begins = partition.start();
    let mut reader = PartitionReader::new(Arc::clone(partition), *next);
    loop {
        match reader.poll(end)? {
            Polled::End => return Ok(()),
            Polled::Gap(offsets) => {
                *next = offsets.end;
                reader.seek(*next);
                found.lost.push(LostOffsets { topic: name.to_owned(), partition: id, offsets });
            }
            Polled::Batch => {
                let batch = reader.current()?;
                let wrong = |what: String| {
                    let what = format!("topic {name:?}, partition {id}, offset {next}: {what}");
                    Error::new(ErrorKind::Corrupt, what).in_file(partition.dir())
                };
                // Where reading begins may be within a batch.
                let is_first = *next == begins && batch.base_offset() < begins;
                if batch.base_offset() != *next && !is_first {
                    return Err(wrong(format!("a batch at offset {}", batch.base_offset())));
                }
                for record in batch.records() {
                    record.map_err(|error| wrong(error.to_string()))?;
                    found.records += 1;
                }
                *next = batch.next_offset();
                found.batches += 1;
                if found.batches.is_multiple_of(256) {
                    seen(before + found.batches);
                }
            }
        }
    }
}
