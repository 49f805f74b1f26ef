//! Topics to be read: the owner's own, and those that others write.
//!
//! Who reads another's topic keeps its progress and effects in its own journal, keyed by an id that is unique in the
//! store. So a record and what was done about it never meet in one frame, and need not: a record that was shown is
//! durable and stays.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Core;
use super::reader::{ForeignTopic, StoreReader, Watchers};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::topic::{self, Topic, TopicSpec, topic_dir};
use crate::wake::{Arc, Mutex};

/// How long a call waits for another owner that is just being opened.
const PATIENCE: Duration = Duration::from_secs(2);

/// Topics of other owners that were used here.
#[derive(Default)]
pub(super) struct ForeignTopics {
    /// Made with the first.
    reader: Mutex<Option<StoreReader>>,
    known: Mutex<BTreeMap<TopicId, Arc<ForeignTopic>>>,
    pub(super) watchers: Watchers,
}

/// A topic to be read.
pub(super) enum Input {
    Own(Arc<Topic>),
    Foreign(Arc<ForeignTopic>),
}

impl Input {
    pub(super) fn id(&self) -> TopicId {
        match self {
            Input::Own(topic) => topic.id,
            Input::Foreign(topic) => topic.info.id,
        }
    }

    pub(super) fn name(&self) -> &str {
        match self {
            Input::Own(topic) => &topic.spec.name,
            Input::Foreign(topic) => &topic.info.name,
        }
    }

    pub(super) fn partitions(&self) -> u32 {
        match self {
            Input::Own(topic) => topic.spec.partitions,
            Input::Foreign(topic) => topic.info.partitions,
        }
    }

    /// What it is like. The size of another owner's segment files, how it
    /// compresses them and how long it keeps them, is that owner's affair.
    pub(super) fn spec(&self) -> TopicSpec {
        match self {
            Input::Own(topic) => topic.spec.clone(),
            Input::Foreign(topic) => {
                let info = topic.info.clone();
                TopicSpec {
                    name: info.name,
                    partitions: info.partitions,
                    key_codec: info.key_codec,
                    value_codec: info.value_codec,
                    file_roll_size: crate::handles::FILE_ROLL_SIZE,
                    // Each batch says how it is compressed.
                    compression: crate::record::Compression::None,
                    retention: crate::topic::Retention::NONE,
                    compaction: None,
                }
            }
        }
    }
}

impl Core {
    /// The topic of that name for reading, made if there is none.
    pub(super) fn open_input(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.check_open()?;
        match self.find_input(&spec.name)? {
            Some(Input::Foreign(topic)) => {
                Input::Foreign(Arc::clone(&topic)).spec().admit(spec)?;
                Ok(topic.info.id)
            }
            _ => self.open_topic(spec),
        }
    }

    /// The topic of that name, whosever it is, if there is one.
    pub(super) fn find_input(&self, name: &str) -> Result<Option<Input>> {
        if let Some(topic) = self.pipeline.topics.find(name)? {
            return Ok(Some(Input::Own(topic)));
        }
        let dir = topic_dir(&self.layout.topics, name);
        match topic::find_claim(&*self.disk, &dir)? {
            Some(claim) if claim.owner != self.layout.name => {
                let topic = Arc::new(self.foreign_reader()?.foreign(name).map_err(|error| match error.kind() {
                    ErrorKind::NotFound => {
                        let owner = &claim.owner;
                        Error::new(ErrorKind::NotFound, format!("owner {owner:?} has not made its topic {name:?} yet"))
                    }
                    _ => error,
                })?);
                self.foreign.known.lock().insert(topic.info.id, Arc::clone(&topic));
                Ok(Some(Input::Foreign(topic)))
            }
            _ => Ok(None),
        }
    }

    /// The topic of that name, which must be there.
    pub(super) fn input_named(&self, name: &str) -> Result<Input> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no topic {name:?}"));
        self.find_input(name)?.ok_or_else(missing)
    }

    /// The topic with that id.
    pub(super) fn input(&self, id: TopicId) -> Result<Input> {
        if id.owner() == self.owner {
            return self.pipeline.topics.get(id).map(Input::Own);
        }
        if let Some(topic) = self.foreign.known.lock().get(&id) {
            return Ok(Input::Foreign(Arc::clone(topic)));
        }
        let infos = self.foreign_reader()?.topics()?;
        let info = infos.into_iter().find(|info| info.id == id);
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no topic with the id {id}"));
        self.input_named(&info.ok_or_else(missing)?.name)
    }

    /// The offset behind the last durable record of each partition.
    pub(super) fn ends(&self, topic: &Input) -> Result<Vec<LogOffset>> {
        match topic {
            Input::Own(topic) => {
                let visible = self.pipeline.view.visible();
                Ok(topic.partitions.iter().map(|partition| partition.end_at(visible)).collect())
            }
            Input::Foreign(topic) => {
                let partitions = (0..topic.info.partitions).map(PartitionId);
                partitions.map(|partition| topic.watched(partition).map(|watched| watched.end)).collect()
            }
        }
    }

    fn foreign_reader(&self) -> Result<StoreReader> {
        let mut reader = self.foreign.reader.lock();
        if let Some(reader) = &*reader {
            return Ok(reader.clone());
        }
        let (disk, clock) = (Arc::clone(&self.disk), Arc::clone(&self.options.clock));
        let made = StoreReader::options().disk(disk).clock(clock).patience(PATIENCE).open(&self.layout.dir)?;
        Ok(reader.insert(made).clone())
    }
}
