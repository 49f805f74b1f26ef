//! Mending claims: what the rows know belongs to an owner is its again, and what nobody knows is free.
//!
//! Invariant: a name is free only if the rows of **all** owners were read, and none knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::super::Store;
use super::super::claims::{Name, global_claim_dir};
use super::super::layout::{Layout, MAIN};
use super::super::listing::read_progress_key;
use super::super::options::StoreOptions;
use super::notes::Mends;
use super::segments::names_in;
use super::{Act, RepairPlan};
use crate::disk::{Disk, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::TopicId;
use crate::topic::{self, Claim};
use crate::transaction::system;

impl Store {
    /// The claims of tables and consumers; those of topics were mended when these were put together. Gives the
    /// directories of all names that the rows know.
    pub(super) fn mend_claims(&self, mends: &Mends) -> Result<BTreeSet<PathBuf>> {
        let (core, mut known) = (self.core(), BTreeSet::new());
        for (id, spec) in self.tables()? {
            self.mend_claim(mends, &Name::Table(&spec.name, id), &mut known)?;
        }
        let mut topics: BTreeMap<_, _> = self.topics()?.into_iter().map(|(id, spec)| (id, spec.name)).collect();
        known.extend(topics.values().map(|name| topic::topic_dir(&core.layout.topics, name)));
        let (mut consumers, mut global) = (BTreeSet::new(), BTreeSet::new());
        core.each_row(system::PROGRESS, Bound::Unbounded, Bound::Unbounded, |key, _| {
            match read_progress_key(key) {
                Some(("", topic, _)) => drop(global.insert(topic)),
                Some((consumer, _, _)) => drop(consumers.insert(consumer.to_owned())),
                None => mends.leave(Error::new(ErrorKind::Corrupt, "a row of the progress is malformed")),
            }
            Ok(())
        })?;
        for consumer in &consumers {
            self.mend_claim(mends, &Name::Consumer(consumer), &mut known)?;
        }
        if global.iter().any(|id| !topics.contains_key(id)) {
            topics.extend(self.claimed_topics()?);
        }
        for id in &global {
            match topics.get(id) {
                Some(name) => self.mend_claim(mends, &Name::Global(*id, name), &mut known)?,
                // Deleted, or its own claim is damaged too: then this one stays as it is.
                None => drop(known.insert(global_claim_dir(&core.layout, *id))),
            }
        }
        Ok(known)
    }

    /// The topics of all owners, as their claims name them.
    fn claimed_topics(&self) -> Result<Vec<(TopicId, String)>> {
        let (core, mut topics) = (self.core(), Vec::new());
        let dir = &core.layout.topics;
        for place in core.disk.list(dir).map_err(|error| Error::io(dir, "list the topics", error))? {
            match topic::find_claim(&*core.disk, &place) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {}
                found => topics.extend(found?.filter(|claim| claim.store == core.store).map(|it| (it.topic, it.name))),
            }
        }
        Ok(topics)
    }

    fn mend_claim(&self, mends: &Mends, name: &Name<'_>, known: &mut BTreeSet<PathBuf>) -> Result<()> {
        let core = self.core();
        known.insert(name.dir(&core.layout));
        match core.check_claim_of(name) {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                mends.claim(&name.dir(&core.layout), &name.claim(core), error)
            }
            // Another owner has it, and says so.
            Err(error) if error.kind() == ErrorKind::Locked => {
                mends.leave(error);
                Ok(())
            }
            other => other,
        }
    }
}

impl StoreOptions {
    /// Frees the names of damaged claims that no owner knows: nothing was ever committed under them. `known` is what
    /// owners know.
    pub(super) fn forget_unknown_claims(
        &self,
        layout: &Layout,
        known: &BTreeSet<PathBuf>,
        act: Act,
        plan: &mut RepairPlan,
    ) -> Result<()> {
        let disk = &*self.disk;
        let layout = Layout::of(&layout.dir, MAIN);
        let mends = Mends::new(&self.disk, &layout, act);
        for dir in layout.shared_dirs() {
            let doing = |error| Error::io(dir, "list the claims", error);
            for name in disk.list(dir).map_err(doing)? {
                let Err(error) = topic::find_claim(disk, &name) else { continue };
                if error.kind() != ErrorKind::Corrupt {
                    continue;
                }
                if known.contains(&name) || holds_segments(disk, &name)? {
                    mends.leave(error);
                    continue;
                }
                let path = Claim::path(&name);
                let kept = mends.keep_whole(&path)?;
                mends.note(&path, format!("{error}, and no owner knows the name: it is free again"), kept);
                let doing = |error| Error::io(&path, "free a name", error);
                disk.remove(&path).map_err(doing)?;
                disk.sync_dir(&name, SyncSite::TopicDir).map_err(doing)?;
            }
        }
        plan.add(mends.take());
        Ok(())
    }
}

/// Whether there are records in the directory of a topic.
fn holds_segments(disk: &dyn Disk, topic: &Path) -> Result<bool> {
    for partition in names_in(disk, topic)? {
        if !names_in(disk, &partition)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}
