//! Mending claims: what the rows know belongs to an owner is its again, and what nobody knows is free.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::super::Store;
use super::super::claims::Name;
use super::super::layout::{Layout, MAIN};
use super::super::listing::read_progress_key;
use super::super::options::StoreOptions;
use super::notes::Mends;
use super::{Act, RepairPlan};
use crate::disk::SyncSite;
use crate::error::{Error, ErrorKind, Result};
use crate::topic::{self, Claim};
use crate::transaction::system;

impl Store {
    /// The claims of tables and consumers; those of topics were mended when these were put together.
    pub(super) fn mend_claims(&self, mends: &Mends) -> Result<()> {
        let core = self.core();
        for (id, spec) in self.tables()? {
            self.mend_claim(mends, &Name::Table(&spec.name, id))?;
        }
        let topics: BTreeMap<_, _> = self.topics()?.into_iter().map(|(id, spec)| (id, spec.name)).collect();
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
            self.mend_claim(mends, &Name::Consumer(consumer))?;
        }
        for (id, name) in global.iter().filter_map(|id| Some((id, topics.get(id)?))) {
            self.mend_claim(mends, &Name::Global(*id, name))?;
        }
        Ok(())
    }

    fn mend_claim(&self, mends: &Mends, name: &Name<'_>) -> Result<()> {
        let core = self.core();
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
    /// Frees the names of damaged claims that no owner knows: nothing was ever committed under them.
    pub(super) fn forget_unknown_claims(&self, layout: &Layout, act: Act, plan: &mut RepairPlan) -> Result<()> {
        let disk = &*self.disk;
        let layout = Layout::of(&layout.dir, MAIN);
        let mends = Mends::new(&self.disk, &layout, act);
        for dir in [&layout.tables, &layout.consumers] {
            let doing = |error| Error::io(dir, "list the claims", error);
            for name in disk.list(dir).map_err(doing)? {
                let Err(error) = topic::find_claim(disk, &name) else { continue };
                if error.kind() != ErrorKind::Corrupt {
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
