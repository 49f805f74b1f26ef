//! Whose a name is, and the whole state of an owner, for those who look.
//!
//! A look is a recovery in memory, beside an owner that lives too: frames up to what it shows, over the files of its
//! trim point. Those files stay as they are until the trim point moves, so an answer, good or bad, counts only if the
//! manifest still says the same behind it; else it is asked for again. A bad one beside an owner that lives counts only
//! if the next look meets it too: the files of a topic may be taken away just behind the moment that is looked at.

use std::path::Path;

use super::super::Store;
use super::super::layout::{Layout, MAIN};
use super::super::manifest::ManifestFile;
use super::super::options::Beside;
use super::super::owner::manifest_of;
use super::live::{Found, Live};
use super::offline::Offline;
use super::owner::OwnerReader;
use super::{StoreReader, TopicInfo};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::escape_name;
use crate::process::Life;
use crate::topic;
use crate::wake::Arc;

/// A look that an owner's trim point has spoilt so often is given up.
pub(super) const LOOKS: u32 = 64;

/// An owner of a store, as a reader finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnerInfo {
    /// Its name: `main` is the one that comes with the store.
    pub name: String,
    /// The process that has it open, if one does and says so.
    pub pid: Option<u32>,
    /// How often it was opened for writing.
    pub openings: u64,
}

impl StoreReader {
    /// The owners of the store, by name.
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`.
    pub fn owners(&self) -> Result<Vec<OwnerInfo>> {
        let owners = self.inner.all_owners()?;
        owners.into_iter().map(|(name, owner)| owner.info(name)).collect()
    }

    /// The topic of that name.
    ///
    /// # Errors
    /// `NotFound`: there is none; `Corrupt`; `Unavailable`: its owner is being opened and takes its time.
    pub fn topic(&self, topic: &str) -> Result<TopicInfo> {
        self.inner.find(topic).map(|(info, _)| info)
    }

    /// The owner that has the consumer id, if any has.
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`.
    pub fn owner_of_consumer(&self, consumer: &str) -> Result<Option<String>> {
        self.claimed_by(&self.inner.layout.consumers.join(escape_name(consumer)))
    }

    /// The owner that has the global consumer of a topic, if any has.
    ///
    /// # Errors
    /// `NotFound`: no such topic; `Corrupt`, `Unavailable`.
    pub fn owner_of_global_consumer(&self, topic: &str) -> Result<Option<String>> {
        let id = self.topic(topic)?.id;
        self.claimed_by(&super::super::claims::global_claim_dir(&self.inner.layout, id))
    }

    /// The owner that has the table, if any has.
    ///
    /// # Errors
    /// `Corrupt`, `Unavailable`.
    pub fn owner_of_table(&self, table: &str) -> Result<Option<String>> {
        self.inner.table_owner(table)
    }

    fn claimed_by(&self, dir: &Path) -> Result<Option<String>> {
        match topic::find_claim(&*self.inner.disk, dir)? {
            Some(claim) if claim.store == self.inner.store => Ok(Some(claim.owner)),
            Some(_) => Err(Error::corrupt(&topic::Claim::path(dir), 0, "this is a claim of another store")),
            None => Ok(None),
        }
    }

    /// Shows `look` all that an owner has, as of one moment: a store in memory, over the files of the real one, which
    /// are left as they are. What is written to it goes with it. Costs a recovery: what the journal holds behind the
    /// trim point is read into memory.
    ///
    /// `look` runs again, over another moment, if the owner has moved its trim point meanwhile.
    ///
    /// # Errors
    /// `NotFound`: there is no such owner. `Unavailable`: the owner is being opened and takes its time, or moves its
    /// trim point faster than `look` is done. Else whatever `look` fails with, or an opening.
    pub fn look<R>(&self, owner: &str, look: impl FnMut(&Store) -> Result<R>) -> Result<R> {
        self.known_owner(owner)?.look(look)
    }

    pub(super) fn known_owner(&self, owner: &str) -> Result<Arc<OwnerReader>> {
        let (inner, layout) = (&self.inner, Layout::of(&self.inner.layout.dir, owner));
        // Whatever has become of the others.
        if owner != MAIN && manifest_of(&*inner.disk, &layout.owner)?.is_none() {
            return Err(Error::new(ErrorKind::NotFound, format!("the store has no owner {owner:?}")));
        }
        inner.owner(owner)
    }
}

impl OwnerReader {
    /// Whether a process has it open.
    pub(super) fn is_alive(&self) -> Result<bool> {
        let found = Live::find(&self.disk, &self.layout, self.store, self.manifest()?.epoch)?;
        Ok(!matches!(found, Found::Nobody { .. }))
    }

    fn info(&self, name: String) -> Result<OwnerInfo> {
        let manifest = self.manifest()?;
        let lives = self.is_alive()?;
        let holder = if lives { ManifestFile::holder(&*self.disk, &self.layout.manifest)? } else { None };
        let pid = holder.filter(|holder| holder.life() == Life::Lives).map(|holder| holder.pid);
        Ok(OwnerInfo { name, pid, openings: manifest.epoch.0 })
    }

    pub(super) fn look<R>(&self, mut look: impl FnMut(&Store) -> Result<R>) -> Result<R> {
        let deadline = self.clock.monotonic().saturating_add(self.patience);
        let (mut spoilt, mut met) = (0, None);
        loop {
            let manifest = self.manifest()?;
            // First the manifest, then what is shown: never less than the trim point.
            let (until, beside) = match Live::find(&self.disk, &self.layout, self.store, manifest.epoch)? {
                Found::Serving(live) => (Some(live.watch.visible()), Beside::Owner),
                Found::Nobody { failed_at } => (failed_at, Beside::Nobody),
                Found::Opening if self.clock.monotonic() < deadline => {
                    self.clock.sleep(super::owner::PAUSES.1);
                    continue;
                }
                Found::Opening => return Err(self.takes_its_time("is being opened")),
            };
            let state = Offline::recover(&self.disk, &self.clock, &self.layout, &manifest, until, beside);
            let answer = state.and_then(|state| look(&state.store));
            if self.manifest()?.generation == manifest.generation {
                match &answer {
                    // The files of a topic are taken away when its deletion can be seen, so one that was looked at as
                    // of the moment before is not whole. What is damaged is so in the next look too.
                    Err(error) if until.is_some() && met.as_ref() != Some(&format!("{error:?}")) => {
                        met = Some(format!("{error:?}"));
                    }
                    _ => return answer,
                }
            }
            spoilt += 1;
            if spoilt == LOOKS {
                return Err(self.takes_its_time("moves its trim point faster than its state can be looked at"));
            }
        }
    }

    pub(super) fn takes_its_time(&self, why: &str) -> Error {
        let what = format!("the owner {:?} {why}", self.layout.name);
        Error::new(ErrorKind::Unavailable, what).in_file(&self.layout.owner)
    }
}
