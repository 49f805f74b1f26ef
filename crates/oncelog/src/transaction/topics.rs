//! The topics of an owner that somebody has used: each is put together when it is first asked for, and then kept, so an
//! opening costs the same however many there are.
//!
//! Invariant: there is one [`Topic`] for each id, since its partitions hold the turns to append. Whoever puts one
//! together holds `loading` from the look at the rows until it is in the map.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, ErrorKind, Result};
use crate::ids::TopicId;
use crate::topic::{Topic, TopicSpec};
use crate::wake::{Arc, AtomicBool, Mutex, RwLock};

/// Where topics come from: the catalogue, and the rows of the trim point.
pub(crate) trait LoadTopics: Send + Sync {
    /// The id of the topic of that name, if there is one.
    fn find(&self, name: &str) -> Result<Option<TopicId>>;

    /// Puts a topic together that nobody has used in this opening, so that the trim point says all of it.
    ///
    /// # Errors
    /// `Corrupt`: its directory or claim is not what the catalogue says; `Unavailable`.
    fn load(&self, id: TopicId) -> Result<Option<Topic>>;
}

/// The topics of an owner, by id and by name.
pub(crate) struct Topics {
    loader: Arc<dyn LoadTopics>,
    maps: RwLock<TopicMaps>,
    loading: Mutex<()>,
    /// Topics that were deleted in this opening, or are about to be.
    retired: RwLock<BTreeSet<TopicId>>,
}

#[derive(Default)]
struct TopicMaps {
    by_id: BTreeMap<TopicId, Arc<Topic>>,
    by_name: BTreeMap<String, TopicId>,
}

impl Topics {
    pub(crate) fn new(loader: Arc<dyn LoadTopics>) -> Topics {
        Topics { loader, maps: RwLock::default(), loading: Mutex::default(), retired: RwLock::default() }
    }

    /// The topic with that id.
    ///
    /// # Errors
    /// `NotFound`: there is none; what [`LoadTopics::load`] says.
    pub(crate) fn get(&self, id: TopicId) -> Result<Arc<Topic>> {
        if let Some(topic) = self.loaded(id) {
            return Ok(topic);
        }
        let _one_at_a_time = self.loading.lock();
        if let Some(topic) = self.loaded(id) {
            return Ok(topic);
        }
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no topic with the id {id}"));
        let topic = Arc::new(self.loader.load(id)?.ok_or_else(missing)?);
        let mut maps = self.maps.write();
        maps.by_name.insert(topic.spec.name.clone(), id);
        maps.by_id.insert(id, Arc::clone(&topic));
        Ok(topic)
    }

    /// The topic of that name, if there is one.
    ///
    /// # Errors
    /// What [`LoadTopics`] says.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Arc<Topic>>> {
        {
            let maps = self.maps.read();
            if let Some(topic) = maps.by_name.get(name).and_then(|id| maps.by_id.get(id)) {
                return Ok(Some(Arc::clone(topic)));
            }
        }
        match self.loader.find(name)? {
            Some(id) => self.get(id).map(Some),
            None => Ok(None),
        }
    }

    /// Notes that nothing more may happen to the topic, or that something may again.
    pub(crate) fn set_retired(&self, id: TopicId, retired: bool) {
        let mut all = self.retired.write();
        if retired {
            all.insert(id)
        } else {
            all.remove(&id)
        };
    }

    /// Whether rows about the topic may still be made. To be asked under the turn of these rows.
    ///
    /// # Errors
    /// `NotFound`: it is deleted, or about to be.
    pub(crate) fn check_takes_rows(&self, id: TopicId) -> Result<()> {
        if self.retired.read().contains(&id) {
            return Err(Error::new(ErrorKind::NotFound, format!("the topic with the id {id} is deleted")));
        }
        Ok(())
    }

    /// The topic is deleted: its row is gone.
    pub(crate) fn remove(&self, topic: &Topic) {
        topic.partitions.iter().for_each(|partition| partition.set_gone());
        let mut maps = self.maps.write();
        maps.by_id.remove(&topic.id);
        if maps.by_name.get(&topic.spec.name) == Some(&topic.id) {
            maps.by_name.remove(&topic.spec.name);
        }
    }

    /// The topic is as `spec` says from now on; its partitions stay what they are. Nothing if nobody has used it.
    pub(crate) fn alter(&self, id: TopicId, spec: &TopicSpec) {
        let mut maps = self.maps.write();
        let Some(topic) = maps.by_id.get_mut(&id) else { return };
        topic.partitions.iter().for_each(|partition| partition.write_as(spec));
        *topic = Arc::new(Topic {
            id,
            spec: spec.clone(),
            partitions: topic.partitions.clone(),
            warned: AtomicBool::new(false),
        });
    }

    /// Those that were used in this opening, by id.
    pub(crate) fn all_loaded(&self) -> Vec<Arc<Topic>> {
        self.maps.read().by_id.values().cloned().collect()
    }

    /// The topic with that id, if it was used in this opening.
    pub(crate) fn loaded(&self, id: TopicId) -> Option<Arc<Topic>> {
        self.maps.read().by_id.get(&id).cloned()
    }
}
