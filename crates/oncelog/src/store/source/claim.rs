//! The claim on a consumer's id: one handle of the store is at work for it at a time.

use super::super::Store;
use super::super::claims::Name;
use super::super::input::Input;
use crate::error::{Error, Result};
use crate::ids::TopicId;

/// What one handle at a time may have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::store) enum Claimed {
    /// A consumer id, over all topics.
    Id(String),
    /// The place of the global consumer of a topic.
    Global(TopicId),
}

/// The claim on a consumer's id, given back when it is dropped.
pub(super) struct IdClaim {
    store: Store,
    claimed: Vec<Claimed>,
}

impl IdClaim {
    /// Claims `consumer` for `topics`.
    ///
    /// # Errors
    /// `Locked`: another handle, or another owner, has it.
    pub(super) fn take(store: &Store, consumer: &str, topics: &[Input]) -> Result<IdClaim> {
        let core = &store.inner.core;
        let wanted = match consumer {
            "" => topics.iter().map(|topic| Claimed::Global(topic.id())).collect(),
            id => vec![Claimed::Id(id.to_owned())],
        };
        let mut held = core.consumers.lock();
        let name_of = |id: &TopicId| topics.iter().find(|topic| topic.id() == *id).map_or("", Input::name);
        if let Some(taken) = wanted.iter().find(|claimed| held.contains(claimed)) {
            let what = match taken {
                Claimed::Id(id) => format!("consumer {id:?} is at work already"),
                Claimed::Global(id) => format!("the global consumer of topic {:?} is at work already", name_of(id)),
            };
            return Err(Error::locked(&core.layout.dir, what, Some(std::process::id())));
        }
        let names = wanted.iter().map(|claimed| match claimed {
            Claimed::Id(id) => Name::Consumer(id),
            Claimed::Global(id) => Name::Global(*id, name_of(id)),
        });
        core.claim_consumers(&names.collect::<Vec<_>>())?;
        held.extend(wanted.iter().cloned());
        Ok(IdClaim { store: store.clone(), claimed: wanted })
    }
}

impl Drop for IdClaim {
    fn drop(&mut self) {
        let mut held = self.store.inner.core.consumers.lock();
        self.claimed.iter().for_each(|claimed| {
            held.remove(claimed);
        });
    }
}
