//! Putting consumers elsewhere, and forgetting them, while nobody is at work for them.
//!
//! Forgetting is one transaction over all rows of progress, and then the claim on the name: a crash between leaves a
//! claim without progress, which the next one who asks for the id, or forgets it again, finds its own.

use std::ops::Bound;

use super::claims::Name;
use super::source::Claimed;
use super::{Core, Store};
use crate::disk::{StepSite, SyncSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId};
use crate::table::ScanRange;
use crate::topic::Claim;
use crate::transaction::EngineTx;
use crate::transaction::system;

impl Store {
    /// Puts a consumer at these places of a topic, forward or back; durable on return, all or nothing. The empty id is
    /// the topic's global consumer.
    ///
    /// # Errors
    /// `Locked`: a handle consumes under this id, or it is another owner's. `NotFound`: no such topic. `Invalid`: no
    /// such partition, or a place behind its end. `Full`, `InDoubt`, `Closed`.
    pub fn reset_consumer(&self, consumer: &str, topic: &str, places: &[(PartitionId, LogOffset)]) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        let input = core.input_named(topic)?;
        let (claimed, name) = match consumer {
            "" => (Claimed::Global(input.id()), Name::Global(input.id(), topic)),
            id => (Claimed::Id(id.to_owned()), Name::Consumer(id)),
        };
        let held = core.consumers.lock();
        core.check_idle(&held, &claimed, &name)?;
        core.claim_consumers(&[name])?;
        let mut tx = core.begin();
        for (partition, next) in places {
            let (_, end) = self.offsets(topic, *partition)?;
            if *next > end {
                let what = format!("topic {topic:?}, partition {partition}: {next} is behind the end, {end}");
                return Err(Error::invalid(what));
            }
            let key = system::progress_key(consumer, input.id(), *partition);
            tx.put(system::PROGRESS, system::SHARD, &key, Some(system::encode_row(next)?.into()))?;
            // Retention has not waited for it at that place yet.
            tx.put(system::WAITED_FOR, system::SHARD, &key, None)?;
        }
        Box::new(tx).submit()?.wait().map(drop)
    }

    /// Forgets a consumer: where it stands in all topics, and to which owner its id belongs. Durable on return. One
    /// that comes under the id later begins anew, and may be another owner's.
    ///
    /// # Errors
    /// `Locked`: a handle consumes under this id, or it is another owner's. `NotFound`: nothing is known of it.
    /// `Full`, `InDoubt`, `Closed`.
    pub fn forget_consumer(&self, consumer: &str) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        if consumer.is_empty() {
            return Err(Error::invalid("a consumer has a name; a global one is forgotten by its topic"));
        }
        let (first, last) = progress_of(&[&system::progress_prefix(consumer)[..]]);
        core.forget(&Claimed::Id(consumer.to_owned()), &Name::Consumer(consumer), &first, &last)
    }

    /// Forgets where the global consumer of a topic stands; see [`Store::forget_consumer`].
    ///
    /// # Errors
    /// As [`Store::forget_consumer`]; `NotFound` also where there is no such topic.
    pub fn forget_global_consumer(&self, topic: &str) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        let id = core.input_named(topic)?.id();
        let (first, last) = progress_of(&[&system::progress_prefix("")[..], &id.0.to_be_bytes()]);
        core.forget(&Claimed::Global(id), &Name::Global(id, topic), &first, &last)
    }
}

/// The first and the last key that progress under this prefix can have.
fn progress_of(prefix: &[&[u8]]) -> (Vec<u8>, Vec<u8>) {
    let first = prefix.concat();
    let last = [&first[..], &[0xff; 9]].concat();
    (first, last)
}

impl Core {
    /// Nobody may be at work for it while it is moved; `held` stays locked meanwhile.
    fn check_idle(&self, held: &std::collections::BTreeSet<Claimed>, claimed: &Claimed, name: &Name<'_>) -> Result<()> {
        if !held.contains(claimed) {
            return Ok(());
        }
        let what = format!("{} is at work", name.text());
        Err(Error::locked(&self.layout.dir, what, Some(std::process::id())))
    }

    fn forget(&self, claimed: &Claimed, name: &Name<'_>, first: &[u8], last: &[u8]) -> Result<()> {
        let held = self.consumers.lock();
        self.check_idle(&held, claimed, name)?;
        let _one_at_a_time = self.creating.lock();
        let mut tx = self.begin();
        let range = ScanRange::between(Bound::Included(first), Bound::Included(last));
        let rows = tx.scan(system::PROGRESS, system::SHARD, range)?;
        for (key, _) in &rows {
            tx.put(system::PROGRESS, system::SHARD, key, None)?;
            tx.put(system::WAITED_FOR, system::SHARD, key, None)?;
        }
        let mut was_claimed = !is_kept(StepSite::ProgressBeforeClaim) && self.give_back_claim(name)?;
        if !rows.is_empty() {
            Box::new(tx).submit()?.wait()?;
        }
        was_claimed |= self.give_back_claim(name)?;
        if rows.is_empty() && !was_claimed {
            return Err(Error::new(ErrorKind::NotFound, format!("nothing is known of {}", name.text())));
        }
        Ok(())
    }

    /// Removes the claim on a name, if there is one; durable on return.
    fn give_back_claim(&self, name: &Name<'_>) -> Result<bool> {
        let (disk, dir) = (&*self.disk, name.dir(&self.layout));
        let _one_at_a_time = self.lock_names()?;
        if self.find_own_claim(&dir, &name.text())?.is_none() {
            return Ok(false);
        }
        self.claimed.lock().remove(&dir);
        disk.remove(&Claim::path(&dir)).map_err(|error| Error::io(&dir, "give a name back", error))?;
        let _ = disk.remove(&dir.join("CLAIM.new"));
        // Not empty when somebody has put something there, and stays then: a directory without a claim claims nothing.
        let changed = match disk.remove_dir(&dir) {
            Ok(()) => dir.parent().unwrap_or(&self.layout.dir),
            Err(_) => &dir,
        };
        disk.sync_dir(changed, SyncSite::ClaimGone).map_err(|error| Error::sync(changed, "give a name back", error))?;
        Ok(true)
    }
}
