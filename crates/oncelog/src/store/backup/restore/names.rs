//! The names that rows and frames know: topics, tables, consumers, and their claims, which no backup holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::super::claims::{CLAIMS_AT_ONCE, global_claim_dir};
use super::super::super::layout::make_dir;
use super::super::super::listing::read_progress_key;
use super::lay::Site;
use super::mark::remove_tree;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{PartitionId, TableId, TopicId, escape_name};
use crate::table::TableSpec;
use crate::topic::{self, Claim, SegmentRow, TopicSpec, topic_dir};
use crate::transaction::system::{self, CatalogueKey};
use crate::transaction::{Effect, effects};

/// What the rows of all owners say of names.
#[derive(Default)]
pub(super) struct Known {
    pub(super) topics: BTreeMap<TopicId, (String, TopicSpec)>,
    tables: BTreeMap<TableId, (String, TableSpec)>,
    /// Who has read what, and for which owner; the empty consumer is a topic's global one.
    progress: BTreeSet<(String, TopicId, PartitionId, String)>,
    pub(super) segments: Vec<(TopicId, PartitionId, SegmentRow)>,
    /// Topics that are gone again, with their names.
    deleted: Vec<(TopicId, String)>,
    /// The claims that are written, by their directories, and the topics that they are on.
    claimed: BTreeMap<PathBuf, TopicId>,
}

impl Known {
    /// Takes note of a frame.
    pub(super) fn frame(&mut self, owner: &str, body: &[u8]) -> Result<()> {
        for effect in effects(body)? {
            if let Effect::Row { table, shard: system::SHARD, key, value } = effect {
                self.note(owner, table, key, value)?;
            }
        }
        Ok(())
    }

    /// Takes note of a row of the store's own tables.
    pub(super) fn note(&mut self, owner: &str, table: TableId, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match (table, value) {
            (system::CATALOGUE, value) => match (CatalogueKey::decode(key), value) {
                (Some(CatalogueKey::Topic(id)), Some(value)) => {
                    let spec: TopicSpec = system::decode_row(value)?;
                    spec.check().map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
                    self.topics.insert(id, (owner.to_owned(), spec));
                }
                (Some(CatalogueKey::Topic(id)), None) => {
                    let gone = self.topics.remove(&id);
                    self.deleted.extend(gone.map(|(_, spec)| (id, spec.name)));
                }
                (Some(CatalogueKey::Table(id)), Some(value)) => {
                    let spec: TableSpec = system::decode_row(value)?;
                    spec.check().map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))?;
                    self.tables.insert(id, (owner.to_owned(), spec));
                }
                (Some(CatalogueKey::Table(id)), None) => drop(self.tables.remove(&id)),
                _ => {}
            },
            (system::PROGRESS, value) => {
                let malformed = || Error::new(ErrorKind::Corrupt, "a row of the progress is malformed");
                let (consumer, topic, partition) = read_progress_key(key).ok_or_else(malformed)?;
                let place = (consumer.to_owned(), topic, partition, owner.to_owned());
                if value.is_some() {
                    self.progress.insert(place)
                } else {
                    self.progress.remove(&place)
                };
            }
            (system::SEGMENTS, Some(value)) => {
                let malformed = || Error::new(ErrorKind::Corrupt, "a row of the segments is malformed");
                let (topic, partition) = system::read_partition_key(key).ok_or_else(malformed)?;
                self.segments.push((topic, partition, system::decode_row(value)?));
            }
            _ => {}
        }
        Ok(())
    }
}

/// Owners that are restored up to points of different moments may each have a topic of one name: at the later moment
/// one had given it up. Its files would be those of both.
fn check_distinct(topics: &[(PathBuf, Claim)]) -> Result<()> {
    let mut seen: BTreeMap<&Path, &Claim> = BTreeMap::new();
    for (dir, claim) in topics {
        let Some(other) = seen.insert(dir, claim) else { continue };
        let what =
            format!("topic {:?} is one of owner {:?} and one of owner {:?}", claim.name, other.owner, claim.owner);
        let why = "at these points: take others, or where it is a long archive, replay more of it in one step";
        return Err(Error::new(ErrorKind::Conflict, format!("{what} {why}")));
    }
    Ok(())
}

impl Site<'_> {
    /// The claims on all names that the rows know, and the directories of partitions.
    pub(super) fn claim(&self, known: &mut Known) -> Result<()> {
        let mut claims = Vec::new();
        let claim = |topic, owner: &str, name: &str, spec: Option<&TopicSpec>| Claim {
            store: self.manifest.store,
            topic,
            partitions: spec.map_or(0, |spec| spec.partitions),
            owner: owner.to_owned(),
            name: name.to_owned(),
            key_codec: spec.map(|spec| spec.key_codec.clone()).unwrap_or_default(),
            value_codec: spec.map(|spec| spec.value_codec.clone()).unwrap_or_default(),
        };
        for (id, (owner, spec)) in &known.topics {
            claims.push((topic_dir(&self.layout.topics, &spec.name), claim(*id, owner, &spec.name, Some(spec))));
        }
        check_distinct(&claims)?;
        for (id, (owner, spec)) in &known.tables {
            let dir = self.layout.tables.join(escape_name(&spec.name));
            claims.push((dir, claim(TopicId(id.0), owner, &spec.name, None)));
        }
        // An id is one name in all topics, the global consumer of each topic another one.
        let whose = known
            .progress
            .iter()
            .map(|(consumer, topic, _, owner)| (consumer, consumer.is_empty().then_some(topic), owner));
        let whose: BTreeSet<_> = whose.collect();
        for (consumer, topic, owner) in whose {
            match topic.map(|id| (id, known.topics.get(id))) {
                None => {
                    let dir = self.layout.consumers.join(escape_name(consumer));
                    claims.push((dir, claim(TopicId(0), owner, consumer, None)));
                }
                Some((id, Some((_, spec)))) => {
                    claims.push((global_claim_dir(&self.layout, *id), claim(*id, owner, &spec.name, None)));
                }
                // Deleted.
                Some((_, None)) => {}
            }
        }
        // What was claimed in an earlier step stays.
        claims.retain(|(dir, claim)| known.claimed.get(dir) != Some(&claim.topic));
        if claims.is_empty() {
            return Ok(());
        }
        for (dir, claim) in &claims {
            make_dir(self.disk(), dir).map_err(|error| Error::io(dir, "restore a name", error))?;
            for partition in (0..claim.partitions).map(PartitionId) {
                let dir = topic::partition_dir(dir, partition);
                make_dir(self.disk(), &dir).map_err(|error| Error::io(&dir, "restore a topic", error))?;
            }
        }
        claims.chunks(CLAIMS_AT_ONCE).try_for_each(|claims| topic::write_claims(self.disk(), claims))?;
        known.claimed.extend(claims.into_iter().map(|(dir, claim)| (dir, claim.topic)));
        let layout = &self.layout;
        [&layout.topics, &layout.tables, &layout.consumers].into_iter().try_for_each(|dir| self.sync_dir(dir))
    }

    /// Removes what earlier steps have laid of topics that the frames of this one delete.
    pub(super) fn remove_deleted(&self, known: &mut Known) -> Result<()> {
        for (id, name) in std::mem::take(&mut known.deleted) {
            for dir in [topic_dir(&self.layout.topics, &name), global_claim_dir(&self.layout, id)] {
                if known.claimed.get(&dir) == Some(&id) {
                    let removed = remove_tree(self.disk(), &dir);
                    removed.map_err(|error| Error::io(&dir, "remove a topic that was deleted", error))?;
                    known.claimed.remove(&dir);
                }
            }
        }
        [&self.layout.topics, &self.layout.consumers].into_iter().try_for_each(|dir| self.sync_dir(dir))
    }
}
