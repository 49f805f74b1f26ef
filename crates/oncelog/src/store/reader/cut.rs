//! An owner as of one LSN, to be copied: the rows of its trim point, and the frames behind it up to that LSN. Together
//! they are what a recovery would start from.
//!
//! Beside an owner that lives nothing is asked of it and nothing is held. Frames are read at once, and count if the
//! manifest stands still meanwhile. What the rows are made of, and segments, are read later, and may be gone by then:
//! the state that a cut names may be no longer in force. Each block and each batch says whether it is what it should
//! be, so that is an error and never another state; whoever copies takes another cut then. An owner of this very
//! process keeps its state in place for as long as the cut is held.

use std::collections::BTreeMap;

use super::super::Core;
use super::super::archive::begin_at;
use super::super::manifest::{Manifest, State};
use super::super::reading::{Ends, Reads};
use super::StoreReader;
use super::live::{Found, Live};
use super::look::LOOKS;
use super::offline::{sync_journal, sync_manifest};
use super::owner::{OwnerReader, PAUSES};
use crate::backup::{Link, frames_begin, frames_of, put_frame};
use crate::disk::OpenMode;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, TableId};
use crate::journal;
use crate::table::{HeldRows, StateKey, TableHome, TableStore, Visit};
use crate::transaction::{Effect, effects, system};
use crate::wake::Arc;

/// See the module.
pub(in crate::store) struct Cut {
    pub(in crate::store) owner: String,
    reader: Arc<OwnerReader>,
    pub(in crate::store) manifest: Manifest,
    /// What the rows reflect.
    pub(in crate::store) rows_lsn: Lsn,
    /// What rows and frames reflect together.
    pub(in crate::store) lsn: Lsn,
    /// Of the frame of that LSN.
    pub(in crate::store) link: Link,
    /// A stream of frames.
    pub(in crate::store) frames: Vec<u8>,
    /// None of an owner that was never opened to the end.
    pub(in crate::store) rows: Option<HeldRows>,
}

/// Owners go on while they are looked at, each for itself; so often they are looked at again.
const CUTS: u32 = 64;

impl StoreReader {
    /// All owners, cut so that none has read further in a topic than that topic goes. `own` is the one that this
    /// process has.
    ///
    /// # Errors
    /// `Unavailable`: an owner is being opened and takes its time, moves its trim point faster than its journal can be
    /// read, or owners that read each other go on faster than they can be cut together; `Corrupt`.
    pub(in crate::store) fn cuts(&self, own: Option<&Core>) -> Result<Vec<Cut>> {
        let mut met = None;
        for _ in 0..CUTS {
            let mut cuts = Vec::new();
            for (name, reader) in self.inner.all_owners()? {
                let own = own.filter(|core| core.layout.name == name);
                cuts.push(Cut::take(name, &reader, own)?);
            }
            match fit(&cuts) {
                Ok(true) => return Ok(cuts),
                Ok(false) => met = None,
                Err(error) => {
                    // Rows may have gone meanwhile. What is damaged is so in the next cut too.
                    let is_again = met.as_ref().is_some_and(|met: &Error| format!("{met:?}") == format!("{error:?}"));
                    if is_again && are_in_force(&cuts)? {
                        return Err(error);
                    }
                    met = Some(error);
                }
            }
        }
        let what = match &met {
            None => "the owners read each other's topics faster than they can be copied together",
            Some(_) => "the tables change faster than they can be read",
        };
        let unavailable = Error::new(ErrorKind::Unavailable, what).in_file(&self.inner.layout.owners);
        Err(met.into_iter().fold(unavailable, Error::because))
    }
}

impl Cut {
    fn take(owner: String, reader: &Arc<OwnerReader>, own: Option<&Core>) -> Result<Cut> {
        // No trim of this process comes between, so one look is enough.
        let _still = own.map(|core| core.trimming.lock());
        let deadline = reader.clock.monotonic().saturating_add(reader.patience);
        let (mut spoilt, mut met) = (0, None);
        loop {
            let manifest = reader.manifest()?;
            let until = match own {
                Some(core) => Some(core.pipeline.view.visible()),
                None => match Live::find(&reader.disk, &reader.layout, reader.store, manifest.epoch)? {
                    Found::Serving(live) => Some(live.watch.visible()),
                    Found::Nobody { failed_at } => failed_at,
                    Found::Opening if reader.clock.monotonic() < deadline => {
                        reader.clock.sleep(PAUSES.1);
                        continue;
                    }
                    Found::Opening => return Err(reader.takes_its_time("is being opened")),
                },
            };
            let generation = manifest.generation;
            let cut = Cut::of(owner.clone(), reader, own, manifest, until);
            if reader.manifest()?.generation == generation {
                match cut {
                    Ok(cut) => return Ok(cut),
                    // What is damaged is so in the next look too.
                    Err(error) if until.is_some() && met.as_ref() != Some(&format!("{error:?}")) => {
                        met = Some(format!("{error:?}"));
                    }
                    Err(error) => return Err(error),
                }
            }
            spoilt += 1;
            if spoilt == LOOKS {
                return Err(reader.takes_its_time("moves its trim point faster than its journal can be read"));
            }
        }
    }

    fn of(
        owner: String,
        reader: &Arc<OwnerReader>,
        own: Option<&Core>,
        manifest: Manifest,
        until: Option<Lsn>,
    ) -> Result<Cut> {
        let reader = Arc::clone(reader);
        let Some((at, root)) = &manifest.trim else {
            let frames = frames_begin();
            return Ok(Cut {
                owner,
                reader,
                manifest,
                rows_lsn: Lsn(0),
                lsn: Lsn(0),
                link: Link(0),
                frames,
                rows: None,
            });
        };
        let rows_lsn = Lsn(at.next_lsn.0 - 1);
        // A killed process may not have synced all of it: what is copied must stay in the source too.
        if until.is_none() {
            sync_manifest(&*reader.disk, &reader.layout)?;
            if manifest.state == State::Open {
                sync_journal(&*reader.disk, &reader.layout)?;
            }
        }
        let begin = manifest.archived.map_or_else(|| begin_at(reader.store, at), |archived| archived.link);
        let (mut frames, mut link, until) = (frames_begin(), begin, until.map(|until| until.max(rows_lsn)));
        let replayed =
            journal::replay(&*reader.disk, &reader.layout.journal, reader.store, *at, until, |lsn, body| {
                put_frame(&mut frames, lsn, body);
                link = link.next(lsn, body);
                Ok(())
            })?;
        let lsn = Lsn(replayed.end.next_lsn.0 - 1);
        let rows = match own {
            Some(core) => own_rows(core, rows_lsn)?,
            None => {
                let (disk, dir) = (Arc::clone(&reader.disk), reader.layout.state.clone());
                let home = TableHome { disk, dir, store: reader.store, memory: reader.table_memory };
                TableStore::open(&home, root, rows_lsn, OpenMode::Read)?.hold()?
            }
        };
        Ok(Cut { owner, reader, manifest, rows_lsn, lsn, link, frames, rows: Some(rows) })
    }

    /// Whether what was read of its files since it was taken is what it should be: an error counts only if it is.
    fn is_in_force(&self) -> Result<bool> {
        Ok(self.reader.manifest()?.generation == self.manifest.generation)
    }

    /// Hands the rows of one of the store's own tables to `each`.
    fn own_rows(&self, table: TableId, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let prefix = StateKey::prefix(table, system::SHARD);
        let Some(rows) = &self.rows else { return Ok(()) };
        rows.each(&prefix, |key, value| match key.strip_prefix(&prefix) {
            Some(key) => each(key, value).map(|()| Visit::Next),
            None => Ok(Visit::Stop),
        })
    }

    /// Its topics, and where they end.
    fn ends(&self) -> Result<Ends> {
        let mut ends = Ends::default();
        for table in [system::CATALOGUE, system::PARTITIONS] {
            self.own_rows(table, |key, value| ends.row(table, key, Some(value)))?;
        }
        frames_of(&self.frames, |_, body| ends.frame(body))?;
        Ok(ends)
    }

    /// How far its consumers have read in topics of other owners.
    fn reads(&self) -> Result<Reads> {
        let mut reads = Reads::of(self.manifest.number);
        self.own_rows(system::PROGRESS, |key, value| reads.row(system::PROGRESS, key, Some(value)).map(drop))?;
        frames_of(&self.frames, |_, body| reads.frame(body).map(drop))?;
        Ok(reads)
    }

    /// Hands all effects of its frames to `each`.
    pub(in crate::store) fn effects(&self, each: &mut dyn FnMut(Effect<'_>) -> Result<()>) -> Result<()> {
        frames_of(&self.frames, |_, body| effects(body)?.into_iter().try_for_each(&mut *each))
    }
}

/// The rows of the owner that this process has, kept in place: those that the manifest names, of frame `lsn`. A process
/// that has lost the owner, or could not write the manifest, has others.
fn own_rows(core: &Core, lsn: Lsn) -> Result<HeldRows> {
    let rows = core.backend.hold()?;
    // Behind it: whoever still has the owner now had it when the rows were taken.
    core.check_open()?;
    core.fence.check()?;
    let found = rows.lsn()?;
    if found != Some(lsn) {
        let found = found.map_or_else(|| "no frame".to_owned(), |found| format!("frame {found}"));
        let what = format!("the tables are as of {found}, and the trim point is behind frame {lsn}");
        return Err(Error::corrupt(&core.layout.manifest, 0, what));
    }
    Ok(rows)
}

/// Whether nobody has read further than there is, and no topic is cut at two owners, of which one has its name from the
/// other.
fn fit(cuts: &[Cut]) -> Result<bool> {
    if cuts.len() < 2 {
        return Ok(true);
    }
    let mut ends = BTreeMap::new();
    for cut in cuts {
        ends.insert(cut.manifest.number, cut.ends()?);
    }
    if Ends::shared_name(ends.values()).is_some() {
        return Ok(false);
    }
    for cut in cuts {
        if cut.reads()?.ahead_of(&ends).is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether all of them still are what their owners would start from.
pub(in crate::store) fn are_in_force(cuts: &[Cut]) -> Result<bool> {
    for cut in cuts {
        if !cut.is_in_force()? {
            return Ok(false);
        }
    }
    Ok(true)
}
