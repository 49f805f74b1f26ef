//! To which owner a name belongs, for life: a topic, a table, a consumer id.
//!
//! A claim is made under the lock of `owners/LOCK`, which all owners share: whoever finds a directory without a claim
//! under that lock knows that nobody is about to fill it. It is durable before the first row that needs it, so an owner
//! that has such a row need not look again.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::Core;
use super::layout::{Layout, make_dir};
use super::manifest::ManifestFile;
use crate::disk::{DiskFile, SyncSite};
use crate::error::{Error, Result};
use crate::ids::{TableId, TopicId, escape_name, name_complaint};
use crate::process::Life;
use crate::table::ScanRange;
use crate::topic::{self, Claim};
use crate::transaction::system;

/// So many names are claimed under one hold of the lock of all owners.
pub(super) const CLAIMS_AT_ONCE: usize = 64;

/// A name that an owner claims; topics claim theirs in the catalogue.
#[derive(Clone, Copy)]
pub(super) enum Name<'a> {
    Table(&'a str, TableId),
    Consumer(&'a str),
    /// The one global consumer of a topic, by id and name.
    Global(TopicId, &'a str),
}

/// Where the place of a topic's global consumer is claimed. No escaped name holds `%g`.
pub(super) fn global_claim_dir(layout: &Layout, topic: TopicId) -> PathBuf {
    layout.consumers.join(format!("%global-{topic}"))
}

impl Name<'_> {
    pub(super) fn dir(&self, layout: &Layout) -> PathBuf {
        match self {
            Name::Table(name, _) => layout.tables.join(escape_name(name)),
            Name::Consumer(name) => layout.consumers.join(escape_name(name)),
            Name::Global(id, _) => global_claim_dir(layout, *id),
        }
    }

    pub(super) fn text(&self) -> String {
        match self {
            Name::Table(name, _) => format!("table {name:?}"),
            Name::Consumer(name) => format!("consumer {name:?}"),
            Name::Global(_, topic) => format!("the global consumer of topic {topic:?}"),
        }
    }

    pub(super) fn claim(&self, core: &Core) -> Claim {
        let (id, name) = match self {
            Name::Table(name, id) => (id.0, *name),
            Name::Consumer(name) => (0, *name),
            Name::Global(id, name) => (id.0, *name),
        };
        let (store, owner) = (core.store, core.layout.name.clone());
        let (key_codec, value_codec) = (String::new(), String::new());
        Claim { store, topic: TopicId(id), partitions: 0, owner, name: name.to_owned(), key_codec, value_codec }
    }
}

impl Core {
    /// The lock under which names are made and removed, for an opening that still has its owner. The look is exact: a
    /// successor makes names only under this lock, and only when its epoch can be seen. So either it is seen here, or
    /// it comes later and takes over what is left. Nor for one whose journal has failed: what its last commits made of
    /// a name is in doubt, and the claim must stay one that fits.
    ///
    /// # Errors
    /// `Fenced`: another has the owner; nothing of its may be touched. `Locked`, `Closed`.
    pub(super) fn lock_names(&self) -> Result<Box<dyn DiskFile>> {
        let held = self.layout.lock_owners(&*self.disk, &*self.options.clock)?;
        self.check_open()?;
        self.fence.check()?;
        Ok(held)
    }

    /// Makes `names` this owner's; durable on return. Of many, so many at a time that others need not wait long for the
    /// lock; after an error some may be claimed.
    ///
    /// # Errors
    /// `Locked`: one is another owner's.
    pub(super) fn claim_names(&self, names: &[Name<'_>]) -> Result<()> {
        names.chunks(CLAIMS_AT_ONCE).try_for_each(|names| self.claim_some(names))
    }

    fn claim_some(&self, names: &[Name<'_>]) -> Result<()> {
        let disk = &*self.disk;
        let _one_at_a_time = self.lock_names()?;
        let (mut new, mut made) = (Vec::new(), Vec::new());
        for name in names {
            let (dir, claim) = (name.dir(&self.layout), name.claim(self));
            if self.find_own_claim(&dir, &name.text())?.as_ref() == Some(&claim) {
                made.push(dir);
            } else {
                new.push((dir, claim));
            }
        }
        self.fill_claims(&new).inspect_err(|_| {
            // As with a topic: a name whose sync has failed may stay seen and never become durable.
            for (dir, _) in &new {
                self.remove_claim(dir);
                let _ = disk.remove_dir(dir);
            }
        })?;
        // They are ours and stay so, whatever fails now. Whoever made them may not have come to the syncs.
        let sync = |dir: &Path| {
            disk.sync_dir(dir, SyncSite::TopicDir).map_err(|error| Error::sync(dir, "claim a name", error))
        };
        made.iter().try_for_each(|dir| sync(dir))?;
        above(made.iter()).into_iter().try_for_each(sync)
    }

    fn fill_claims(&self, claims: &[(PathBuf, Claim)]) -> Result<()> {
        let disk = &*self.disk;
        for (dir, _) in claims {
            make_dir(disk, dir).map_err(|error| Error::io(dir, "claim a name", error))?;
        }
        topic::write_claims(disk, claims)?;
        above(claims.iter().map(|(dir, _)| dir)).into_iter().try_for_each(|above| {
            disk.sync_dir(above, SyncSite::TopicDir).map_err(|error| Error::sync(above, "claim a name", error))
        })
    }

    /// Makes consumers this owner's, those that are not known to be.
    ///
    /// # Errors
    /// `Locked`: one is another owner's.
    pub(super) fn claim_consumers(&self, names: &[Name<'_>]) -> Result<()> {
        let _one_at_a_time = self.creating.lock();
        let mut unknown = Vec::new();
        for name in names {
            let dir = name.dir(&self.layout);
            let known = self.claimed.lock().contains(&dir) || self.has_progress(name)?;
            if !known && !unknown.iter().any(|(_, known)| *known == dir) {
                unknown.push((*name, dir));
            }
        }
        let (names, dirs): (Vec<_>, Vec<_>) = unknown.into_iter().unzip();
        self.claim_names(&names)?;
        self.claimed.lock().extend(dirs);
        Ok(())
    }

    /// Makes consumer ids this owner's, of many at once.
    pub(super) fn create_consumers(&self, ids: &[&str]) -> Result<()> {
        self.check_open()?;
        for id in ids {
            if let Some(complaint) = name_complaint(id) {
                return Err(Error::invalid(format!("consumer {id:?}: bad name: {complaint}")));
            }
        }
        self.claim_consumers(&ids.iter().map(|id| Name::Consumer(id)).collect::<Vec<_>>())
    }

    /// Whether there are rows of a consumer, so that its claim is durable.
    fn has_progress(&self, name: &Name<'_>) -> Result<bool> {
        let first = match name {
            Name::Consumer(id) => system::progress_prefix(id),
            Name::Global(topic, _) => [system::progress_prefix(""), topic.0.to_be_bytes().to_vec()].concat(),
            Name::Table(..) => return Ok(false),
        };
        let last = [&first[..], &[0xff; 8]].concat();
        let visible = self.pin_visible();
        let rows = self.tables.shard(system::PROGRESS, system::SHARD);
        let range = ScanRange::between(Bound::Included(&first), Bound::Included(&last));
        Ok(!rows.scan(ScanRange { limit: 1, ..range }, visible.lsn())?.is_empty())
    }

    /// What the catalogue knows must have its claim on disk.
    ///
    /// # Errors
    /// `Corrupt`: it is gone, damaged, or another's.
    pub(super) fn check_claim_of(&self, name: &Name<'_>) -> Result<()> {
        let dir = name.dir(&self.layout);
        let other = |what: String| Err(Error::corrupt(&Claim::path(&dir), 0, what));
        let checked = match self.find_own_claim(&dir, &name.text()) {
            Ok(Some(claim)) if claim == name.claim(self) => Ok(()),
            Ok(Some(_)) => other(format!("the claim is not that of {}", name.text())),
            Ok(None) => other(format!("the claim of {} is gone", name.text())),
            Err(error) => Err(error),
        };
        checked.map_err(|error| self.files.judge(error))
    }

    /// The claim in `dir`, if there is one and it is ours.
    ///
    /// # Errors
    /// `Locked`: it is another owner's; `Corrupt`.
    pub(super) fn find_own_claim(&self, dir: &Path, what: &str) -> Result<Option<Claim>> {
        let Some(claim) = topic::find_claim(&*self.disk, dir)? else { return Ok(None) };
        if claim.store != self.store {
            return Err(Error::corrupt(&Claim::path(dir), 0, "this is a claim of another store"));
        }
        if claim.owner == self.layout.name {
            return Ok(Some(claim));
        }
        let manifest = Layout::of(&self.layout.dir, &claim.owner).manifest;
        let holder = ManifestFile::holder(&*self.disk, &manifest).ok().flatten();
        let pid = holder.filter(|holder| holder.life() == Life::Lives).map(|holder| holder.pid);
        Err(Error::owned(dir, what, &claim.owner, pid))
    }

    pub(super) fn remove_claim(&self, dir: &Path) {
        let _ = self.disk.remove(&Claim::path(dir));
        let _ = self.disk.remove(&dir.join("CLAIM.new"));
    }
}

/// The directories above, each once.
fn above<'a>(dirs: impl Iterator<Item = &'a PathBuf>) -> BTreeSet<&'a Path> {
    dirs.filter_map(|dir| dir.parent()).collect()
}
