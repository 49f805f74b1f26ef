//! Topics and tables of the owner: looked up in memory, made by a transaction on the store's own tables.

use std::io;
use std::path::{Path, PathBuf};

use super::Core;
use super::claims::{CLAIMS_AT_ONCE, Name};
use super::layout::make_dir;
use super::page::OwnerPage;
use super::rows::RowsAt;
use crate::disk::SyncSite;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TableId, TopicId};
use crate::journal::Durability;
use crate::page::Watched;
use crate::table::{FIRST_USER_TABLE, TableSpec};
use crate::topic::{self, Claim, Topic, TopicSpec, partition_dir, topic_dir};
use crate::transaction::system::{self, CatalogueKey, NextIds};
use crate::transaction::{EngineTx, StoreTx};
use crate::view::Pin;
use crate::wake::Arc;

impl Core {
    /// The topic of that name, made if there is none; durable on return.
    pub(super) fn open_topic(&self, spec: &TopicSpec) -> Result<TopicId> {
        self.check_open()?;
        let existing = |topic: Arc<Topic>| {
            topic.spec.admit(spec)?;
            topic.warn_of_ignored(spec);
            topic.spec.check_built_in(ErrorKind::UnsupportedVersion).map(|()| topic.id)
        };
        if let Some(topic) = self.pipeline.topics.find(&spec.name)? {
            return existing(topic);
        }
        spec.check()?;
        spec.check_built_in(ErrorKind::Invalid)?;
        let _one_at_a_time = self.creating.lock();
        match self.pipeline.topics.find(&spec.name)? {
            Some(topic) => existing(topic),
            None => self.create(&[spec])?.pop().ok_or_else(Error::closed),
        }
    }

    /// The topic of that name, which must be there.
    pub(super) fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no topic {name:?}"));
        self.pipeline.topics.find(name)?.ok_or_else(missing)
    }

    /// Makes those of `specs` that are not there; durable on return. After an error some may have been made.
    pub(super) fn create_topics(&self, specs: &[TopicSpec]) -> Result<()> {
        self.check_open()?;
        let _one_at_a_time = self.creating.lock();
        for specs in specs.chunks(CLAIMS_AT_ONCE) {
            let mut new: Vec<&TopicSpec> = Vec::with_capacity(specs.len());
            for spec in specs {
                match self.pipeline.topics.find(&spec.name)? {
                    Some(topic) => {
                        topic.spec.admit(spec)?;
                        topic.warn_of_ignored(spec);
                    }
                    None => {
                        spec.check()?;
                        spec.check_built_in(ErrorKind::Invalid)?;
                        match new.iter().find(|new| new.name == spec.name) {
                            Some(twice) => twice.admit(spec)?,
                            None => new.push(spec),
                        }
                    }
                }
            }
            self.create(&new)?;
        }
        Ok(())
    }

    /// Makes topics that are not there, in one commit.
    fn create(&self, specs: &[&TopicSpec]) -> Result<Vec<TopicId>> {
        if specs.is_empty() {
            return Ok(Vec::new());
        }
        let mut tx = self.begin();
        let mut next = self.next_ids(&mut tx)?;
        let mut ids = Vec::with_capacity(specs.len());
        for _ in specs {
            let id = TopicId(next.topic);
            let all_given = || Error::new(ErrorKind::Full, "this owner has given all its topic ids");
            next.topic = id.next().ok_or_else(all_given)?.0;
            ids.push(id);
        }
        let board = self.page.as_ref().and_then(OwnerPage::board);
        if let Some(board) = board {
            board.reserve(specs.iter().map(|spec| spec.partitions as usize).sum())?;
        }
        self.claim_topics(&ids, specs)?;
        put_row(&mut tx, &CatalogueKey::NextIds.encode(), &next)?;
        for (id, spec) in ids.iter().zip(specs) {
            put_row(&mut tx, &CatalogueKey::Topic(*id).encode(), *spec)?;
            put_row(&mut tx, &system::topic_name_key(&spec.name), id)?;
        }
        Box::new(tx).submit()?.wait()?;
        ids.iter().zip(specs).for_each(|(id, spec)| self.note_limits(*id, spec));
        if let Some(board) = board {
            // Before anybody can append to them.
            for (id, spec) in ids.iter().zip(specs) {
                for partition in 0..spec.partitions {
                    let watched = Watched { start: LogOffset(0), end: LogOffset(0) };
                    board.show((*id, &spec.name), PartitionId(partition), watched)?;
                }
            }
        }
        Ok(ids)
    }

    /// Claims the names and makes the directories. A claim that is our own, or that is not there yet, is the rest of an
    /// attempt that failed, since our catalogue does not know the name: it is taken over.
    fn claim_topics(&self, ids: &[TopicId], specs: &[&TopicSpec]) -> Result<()> {
        let disk = &*self.disk;
        let _one_at_a_time = self.lock_names()?;
        let mut claims = Vec::with_capacity(specs.len());
        for (id, spec) in ids.iter().zip(specs) {
            let dir = topic_dir(&self.layout.topics, &spec.name);
            if self.find_own_claim(&dir, &format!("topic {:?}", spec.name))?.is_some() {
                // The rest of an attempt that failed, or of a topic that was deleted.
                self.clear_topic_dir(&dir)?;
            } else {
                self.check_unused(&dir, spec)?;
            }
            let TopicSpec { name, partitions, key_codec, value_codec, .. } = (*spec).clone();
            let (store, owner) = (self.store, self.layout.name.clone());
            claims.push((dir, Claim { store, topic: *id, partitions, owner, name, key_codec, value_codec }));
        }
        self.fill_topics(&claims).inspect_err(|_| {
            // A name whose sync has failed may stay seen and never become durable: away with it. Best effort.
            for (dir, claim) in &claims {
                self.remove_claim(dir);
                for partition in 0..claim.partitions {
                    let _ = disk.remove_dir(&partition_dir(dir, PartitionId(partition)));
                }
                let _ = disk.remove_dir(dir);
            }
        })
    }

    /// A directory without a claim is the rest of a making only as long as nothing was written into it.
    fn check_unused(&self, dir: &Path, spec: &TopicSpec) -> Result<()> {
        for partition in 0..spec.partitions {
            let path = partition_dir(dir, PartitionId(partition));
            match self.disk.list(&path) {
                Ok(found) if found.is_empty() => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(_) => return Err(Error::corrupt(&Claim::path(dir), 0, "the claim of a topic is gone")),
                Err(error) => return Err(Error::io(&path, "look for records of a topic", error)),
            }
        }
        Ok(())
    }

    fn fill_topics(&self, claims: &[(PathBuf, Claim)]) -> Result<()> {
        let disk = &*self.disk;
        for (dir, claim) in claims {
            make_dir(disk, dir).map_err(|error| Error::io(dir, "make a topic", error))?;
            for partition in 0..claim.partitions {
                let path = partition_dir(dir, PartitionId(partition));
                make_dir(disk, &path).map_err(|error| Error::io(&path, "make a partition", error))?;
            }
        }
        topic::write_claims(disk, claims)?;
        let topics = &self.layout.topics;
        disk.sync_dir(topics, SyncSite::TopicDir).map_err(|error| Error::io(topics, "sync the topics", error))
    }

    /// The table of that name, made if there is none; durable on return.
    pub(super) fn open_table(&self, spec: &TableSpec) -> Result<TableId> {
        self.check_open()?;
        spec.check()?;
        let _one_at_a_time = self.creating.lock();
        if let Some((id, found)) = self.find_table(&spec.name)? {
            found.admit(spec)?;
            self.check_claim_of(&Name::Table(&spec.name, id))?;
            return Ok(id);
        }
        let mut tx = self.begin();
        let mut next = self.next_ids(&mut tx)?;
        let id = TableId(next.table);
        next.table += 1;
        self.claim_names(&[Name::Table(&spec.name, id)])?;
        put_row(&mut tx, &CatalogueKey::NextIds.encode(), &next)?;
        put_row(&mut tx, &CatalogueKey::Table(id).encode(), spec)?;
        put_row(&mut tx, &system::table_name_key(&spec.name), &id)?;
        Box::new(tx).submit()?.wait()?;
        Ok(id)
    }

    /// The table of that name.
    pub(super) fn find_table(&self, name: &str) -> Result<Option<(TableId, TableSpec)>> {
        let visible = self.pin_visible();
        RowsAt { tables: &self.tables, lsn: visible.lsn() }.table(name)
    }

    /// The next offset that `consumer` will read, as visible.
    pub(super) fn committed(&self, consumer: &str, topic: TopicId, partition: PartitionId) -> Result<LogOffset> {
        let visible = self.pin_visible();
        let rows = self.tables.shard(system::PROGRESS, system::SHARD);
        let row = rows.get(&system::progress_key(consumer, topic, partition), visible.lsn())?;
        row.map_or(Ok(LogOffset(0)), |row| system::decode_row(&row))
    }

    /// The newest state that is shown, held: without the pin a commit could drop the version between the question which
    /// state that is and the look at its rows.
    pub(super) fn pin_visible(&self) -> Pin {
        let view = &self.pipeline.view;
        view.pin(|| view.visible())
    }

    pub(super) fn begin(&self) -> StoreTx {
        StoreTx::new(Arc::clone(&self.pipeline), Durability::Synced)
    }

    fn next_ids(&self, tx: &mut StoreTx) -> Result<NextIds> {
        let row = tx.get(system::CATALOGUE, system::SHARD, &CatalogueKey::NextIds.encode())?;
        row.map_or(Ok(NextIds { topic: self.owner.first_topic().0, table: FIRST_USER_TABLE }), |row| {
            system::decode_row(&row)
        })
    }
}

fn put_row(tx: &mut StoreTx, key: &[u8], row: &impl serde::Serialize) -> Result<()> {
    let value = system::encode_row(row)?;
    tx.put(system::CATALOGUE, system::SHARD, key, Some(value.into()))
}
