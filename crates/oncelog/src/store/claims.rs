//! To which owner a name belongs, for life: a topic, a table, a consumer id.
//!
//! A claim is made under the lock of `owners/LOCK`, which all owners share: whoever finds a directory without a claim
//! under that lock knows that nobody is about to fill it. It is durable before the first row that needs it, so an owner
//! that has such a row need not look again.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::Core;
use super::layout::{Layout, make_dir};
use super::manifest::ManifestFile;
use crate::disk::SyncSite;
use crate::error::{Error, Result};
use crate::ids::{TableId, TopicId, escape_name};
use crate::process::Life;
use crate::table::ScanRange;
use crate::topic::{self, Claim};
use crate::transaction::system;

/// A name that an owner claims; topics claim theirs in the catalogue.
pub(super) enum Name<'a> {
    Table(&'a str, TableId),
    Consumer(&'a str),
    /// The one global consumer of a topic, by id and name.
    Global(TopicId, &'a str),
}

impl Name<'_> {
    fn dir(&self, layout: &Layout) -> PathBuf {
        match self {
            Name::Table(name, _) => layout.tables.join(escape_name(name)),
            Name::Consumer(name) => layout.consumers.join(escape_name(name)),
            // No escaped name holds `%g`.
            Name::Global(id, _) => layout.consumers.join(format!("%global-{id}")),
        }
    }

    fn text(&self) -> String {
        match self {
            Name::Table(name, _) => format!("table {name:?}"),
            Name::Consumer(name) => format!("consumer {name:?}"),
            Name::Global(_, topic) => format!("the global consumer of topic {topic:?}"),
        }
    }

    fn claim(&self, core: &Core) -> Claim {
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
    /// Makes `name` this owner's; durable on return.
    ///
    /// # Errors
    /// `Locked`: it is another owner's.
    pub(super) fn claim_name(&self, name: &Name<'_>) -> Result<()> {
        let (disk, dir) = (&*self.disk, name.dir(&self.layout));
        let _one_at_a_time = self.layout.lock_owners(disk, &*self.options.clock)?;
        let (claim, above) = (name.claim(self), dir.parent().unwrap_or(&self.layout.dir));
        let sync_name =
            || disk.sync_dir(above, SyncSite::TopicDir).map_err(|error| Error::sync(above, "claim a name", error));
        if self.find_own_claim(&dir, &name.text())?.as_ref() == Some(&claim) {
            // It is ours and stays so, whatever fails now. Whoever made it may not have come to the syncs of its name.
            let synced = disk.sync_dir(&dir, SyncSite::TopicDir);
            return synced.map_err(|error| Error::sync(&dir, "claim a name", error)).and_then(|()| sync_name());
        }
        let made = make_dir(disk, &dir).map_err(|error| Error::io(&dir, "claim a name", error));
        let filled = made.and_then(|()| topic::write_claim(disk, &dir, &claim)).and_then(|()| sync_name());
        filled.inspect_err(|_| {
            // As with a topic: a name whose sync has failed may stay seen and never become durable.
            self.remove_claim(&dir);
            let _ = disk.remove_dir(&dir);
        })
    }

    /// Makes a consumer id this owner's, if it is not known to be.
    ///
    /// # Errors
    /// `Locked`: it is another owner's.
    pub(super) fn claim_consumer(&self, name: &Name<'_>) -> Result<()> {
        let _one_at_a_time = self.creating.lock();
        let first = match name {
            Name::Consumer(id) => system::progress_prefix(id),
            Name::Global(topic, _) => [system::progress_prefix(""), topic.0.to_be_bytes().to_vec()].concat(),
            Name::Table(..) => return self.claim_name(name),
        };
        let last = [&first[..], &[0xff; 8]].concat();
        let visible = self.pin_visible();
        let rows = self.tables.shard(system::PROGRESS, system::SHARD);
        let range = ScanRange::between(Bound::Included(&first), Bound::Included(&last));
        let known = rows.scan(ScanRange { limit: 1, ..range }, visible.lsn())?;
        if known.is_empty() { self.claim_name(name) } else { Ok(()) }
    }

    /// What the catalogue knows must have its claim on disk.
    ///
    /// # Errors
    /// `Corrupt`: it is gone, damaged, or another's.
    pub(super) fn check_claim_of(&self, name: &Name<'_>) -> Result<()> {
        let dir = name.dir(&self.layout);
        match self.find_own_claim(&dir, &name.text())? {
            Some(claim) if claim == name.claim(self) => Ok(()),
            Some(_) => Err(Error::corrupt(&Claim::path(&dir), 0, format!("the claim is not that of {}", name.text()))),
            None => Err(Error::corrupt(&Claim::path(&dir), 0, format!("the claim of {} is gone", name.text()))),
        }
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
