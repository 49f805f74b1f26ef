//! Deleting a topic: no more appends, then one frame, then the files.
//!
//! 1. Its partitions refuse appends, bounds and progress. What has its place by then comes before the deletion.
//! 2. One transaction removes its rows: catalogue, name, bounds, progress, stamps; and notes that files are left.
//! 3. Handles that still stand in it answer `NotFound`. The claim of its global consumer and its files are removed, its
//!    own claim last, then the note. What waits for its time goes with the turns of `deliver`, which finds no topic.
//!
//! Ids are never given twice, so a topic made anew under the name inherits nothing. A crash behind step 2 leaves the
//! note, and the next opening goes on with step 3; recovery forgives a frame whose topic is gone when a later frame
//! deletes that topic. The rows that only trim points write go with the first trim point
//! behind the deletion, however the two meet.

use std::io;
use std::ops::Bound;
use std::path::Path;

use super::Core;
use super::claims::Name;
use super::page::OwnerPage;
use crate::disk::SyncSite;
use crate::error::{Error, Result};
use crate::ids::TopicId;
use crate::table::ScanRange;
use crate::topic::{self, Topic, topic_dir};
use crate::transaction::EngineTx;
use crate::transaction::system::{self, CatalogueKey};

impl Core {
    /// Deletes the topic of that name; durable on return.
    pub(super) fn delete_topic(&self, name: &str) -> Result<()> {
        self.check_open()?;
        let _one_at_a_time = self.creating.lock();
        let topic = self.topic(name)?;
        if let Err(error) = self.pipeline.retire(&topic).and_then(|()| self.commit_deletion(&topic)) {
            if !self.pipeline.journal.has_failed() {
                self.pipeline.keep(&topic);
            }
            return Err(error);
        }
        self.pipeline.topics.remove(&topic);
        self.forget_delayed(topic.id);
        if let Some(board) = self.page.as_ref().and_then(OwnerPage::board) {
            // Before its files go: readers in other processes are told that it is deleted, not that records are lost.
            board.forget(topic.id);
        }
        self.pipeline.view.news.raise();
        // What cannot be removed now is removed by the next opening, or by whoever makes a topic of that name.
        if let Err(error) = self.remove_topic_files(&topic).and_then(|()| self.forget_files(topic.id)) {
            tracing::warn!(%error, topic = name, "files of a deleted topic stay");
        }
        Ok(())
    }

    fn commit_deletion(&self, topic: &Topic) -> Result<()> {
        let id = topic.id;
        self.pipeline.journal.at_rest(|applier, _| applier.forget_rows_of(id));
        let mut tx = self.begin();
        let mut delete = |table, key: &[u8]| tx.put(table, system::SHARD, key, None);
        delete(system::CATALOGUE, &CatalogueKey::Topic(id).encode())?;
        delete(system::CATALOGUE, &system::topic_name_key(&topic.spec.name))?;
        let shards = [system::BOUNDS, system::PROGRESS, system::STAMPS, system::WAITED_FOR]
            .map(|id| (id, self.tables.shard(id, system::SHARD)));
        // Whoever looked before the topic was retired holds such a turn until its frame has its LSN.
        shards.iter().for_each(|(_, rows)| drop(rows.turn()));
        drop(self.tables.shard(system::DELAYED, system::SHARD).turn());
        // At the head, not only what is visible: all that was placed by then.
        let head = self.pipeline.view.pin(|| self.pipeline.journal.head());
        for (table, rows) in shards {
            for (key, _) in rows.scan(ScanRange::between(Bound::Unbounded, Bound::Unbounded), head.lsn())? {
                if system::topic_of_key(&key) == Some(id) {
                    delete(table, &key)?;
                }
            }
        }
        let left = system::encode_row(&topic.spec.name)?;
        tx.put(system::CATALOGUE, system::SHARD, &CatalogueKey::Deleted(id).encode(), Some(left.into()))?;
        Box::new(tx).submit()?.wait().map(drop)
    }

    fn remove_topic_files(&self, topic: &Topic) -> Result<()> {
        self.compacting.give_up(|id| id == topic.id);
        // A trim that began before the deletion may still be syncing them.
        let _one_at_a_time = self.trimming.lock();
        topic.partitions.iter().for_each(|partition| partition.close_files());
        self.remove_topic_dir(topic.id, &topic.spec.name)
    }

    /// The claim goes last: a directory that holds records and no claim would be taken for damage.
    fn remove_topic_dir(&self, id: TopicId, name: &str) -> Result<()> {
        let (disk, dir) = (&*self.disk, topic_dir(&self.layout.topics, name));
        let _one_at_a_time = self.lock_names()?;
        let doing = |error| Error::io(&dir, "remove a topic", error);
        // Whichever owner has it: the id is never given again.
        let consumer = Name::Global(id, name).dir(&self.layout);
        if gone(disk.list(&consumer).map(Some)).map_err(doing)?.is_some() {
            self.remove_claim(&consumer);
            let _ = disk.remove_dir(&consumer);
            disk.sync_dir(&self.layout.consumers, SyncSite::TopicDir).map_err(doing)?;
        }
        match topic::find_claim(disk, &dir)? {
            Some(claim) if claim.topic == id && claim.store == self.store => {
                self.clear_topic_dir(&dir)?;
                disk.sync_dir(&dir, SyncSite::TopicDir).map_err(doing)?;
                self.remove_claim(&dir);
            }
            // Made anew meanwhile, by us or by another owner: then it was cleared for that.
            Some(_) => return Ok(()),
            None => {}
        }
        // Not empty when it is not ours, and stays then.
        let _ = disk.remove_dir(&dir);
        disk.sync_dir(&self.layout.topics, SyncSite::TopicDir).map_err(doing)
    }

    /// Removes what is in the partitions of a topic's directory, and these.
    pub(super) fn clear_topic_dir(&self, dir: &Path) -> Result<()> {
        let disk = &*self.disk;
        let clear = || {
            let Some(found) = gone(disk.list(dir).map(Some))? else { return Ok(()) };
            for partition in found {
                // Files beside the partitions are the claim and what others have put there.
                let Ok(files) = disk.list(&partition) else { continue };
                files.iter().try_for_each(|file| gone(disk.remove(file)))?;
                gone(disk.remove_dir(&partition))?;
            }
            Ok(())
        };
        clear().map_err(|error| Error::io(dir, "clear a topic", error))
    }

    fn forget_files(&self, id: TopicId) -> Result<()> {
        let mut tx = self.begin();
        tx.put(system::CATALOGUE, system::SHARD, &CatalogueKey::Deleted(id).encode(), None)?;
        Box::new(tx).submit()?.wait().map(drop)
    }

    /// Removes the files of topics whose deletion a crash has interrupted.
    pub(super) fn sweep_deleted(&self) -> Result<()> {
        let (first, last) = (TopicId(0), TopicId(u32::MAX));
        let (first, last) = (CatalogueKey::Deleted(first).encode(), CatalogueKey::Deleted(last).encode());
        let mut left = Vec::new();
        self.each_row(system::CATALOGUE, Bound::Included(&first), Bound::Included(&last), |key, row| {
            if let Some(CatalogueKey::Deleted(id)) = CatalogueKey::decode(key) {
                left.push((id, system::decode_row::<String>(row)?));
            }
            Ok(())
        })?;
        for (id, name) in left {
            self.remove_topic_dir(id, &name)?;
            self.forget_files(id)?;
        }
        Ok(())
    }
}

/// What is not there need not be removed.
fn gone<T: Default>(done: io::Result<T>) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(T::default()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backup::BackupTarget;
    use crate::codec::Bytes;
    use crate::disk::MemoryDisk;
    use crate::error::ErrorKind;
    use crate::handles::{IdempotentProducerConfig, TopicDef};
    use crate::ids::{LogOffset, PartitionId, Sequence};
    use crate::store::{RestoreOptions, Store, StoreReader};
    use crate::table::{StateKey, Visit};
    use crate::wake::{Arc, spawn};
    use std::time::Duration;

    const TOPIC: TopicDef<Bytes, Bytes> = TopicDef::new("short-lived");

    fn rows_of(core: &Core, topic: TopicId) -> usize {
        let count = |table| {
            let rows = core.tables.shard(table, system::SHARD);
            let pin = core.pin_visible();
            let rows = rows.scan(ScanRange::ALL, pin.lsn()).unwrap();
            rows.iter().filter(|(key, _)| system::topic_of_key(key) == Some(topic)).count()
        };
        [system::PROGRESS, system::STAMPS].map(count).iter().sum()
    }

    #[test]
    fn progress_that_is_on_its_way_to_its_place_goes_with_the_topic() {
        let store = Store::in_memory().unwrap();
        drop(store.producer(TOPIC).unwrap());
        let core = &store.inner.core;
        let topic = core.topic("short-lived").unwrap();
        let rows = core.tables.shard(system::PROGRESS, system::SHARD);
        let mut turn = rows.turn();
        let theirs = store.clone();
        let deletion = spawn("deletes".to_owned(), move || theirs.delete_topic("short-lived")).unwrap();
        while core.pipeline.topics.check_takes_rows(topic.id).is_ok() {
            core.options.clock.sleep(Duration::from_millis(1));
        }
        // What looked before the topic was retired gets its place now, as a commit does under its turn.
        core.options.clock.sleep(Duration::from_millis(50));
        let pin = core.pipeline.view.pin(|| core.pipeline.journal.head());
        let mut other = core.begin();
        other.put(system::CATALOGUE, system::SHARD, b"later", None).unwrap();
        let lsn = { Box::new(other).submit().unwrap().wait().map(|_| pin.lsn().next()).unwrap() };
        let key = system::progress_key("slow", topic.id, PartitionId(0));
        turn.put(key, Some(system::encode_row(&LogOffset(0)).unwrap().into()), lsn);
        drop(turn);
        deletion.join().unwrap().unwrap();
        assert_eq!(rows_of(core, topic.id), 0);
    }

    /// The topics of which the trim point has rows of segments, and those that it knows.
    fn of_trim_point(core: &Core) -> [BTreeSet<TopicId>; 2] {
        let (mut placed, mut known) = (BTreeSet::new(), BTreeSet::new());
        let each = |key: &[u8], _: &[u8]| {
            let (table, _, own) = StateKey::read(key).unwrap();
            if table == system::SEGMENTS {
                placed.extend(system::read_partition_key(own).map(|(topic, _)| topic));
            }
            if let (system::CATALOGUE, Some(CatalogueKey::Topic(id))) = (table, CatalogueKey::decode(own)) {
                known.insert(id);
            }
            Ok(Visit::Next)
        };
        core.backend.hold().unwrap().each(&[], each).unwrap();
        [placed, known]
    }

    /// A trim looks for deleted topics, and one is deleted then. A trim point that has the rows of its segments behind
    /// the frame that deletes it would have them for ever, were this the end.
    #[test]
    fn a_topic_that_is_deleted_in_the_middle_of_a_trim_leaves_no_segments() {
        const OTHER: TopicDef<Bytes, Bytes> = TopicDef::new("deleted-before");
        let store = Store::options().manual_duties().journal_file_bytes(64 << 10).disk(Arc::new(MemoryDisk::default()));
        let store = store.open("/store").unwrap();
        for topic in [TOPIC, OTHER] {
            store.producer(topic).unwrap().append(b"k", b"v").unwrap();
        }
        store.trim().unwrap();
        store.delete_topic("deleted-before").unwrap();
        let core = &store.inner.core;
        let topic = core.topic("short-lived").unwrap();
        store.producer(TOPIC).unwrap().append(b"k", b"more").unwrap();
        // As a deletion begins: the trim looks at it, and finds that it is not deleted.
        core.pipeline.retire(&topic).unwrap();
        core.pipeline.journal.at_rest(|applier, _| applier.forget_rows_of(topic.id));
        let rows = core.tables.shard(system::PARTITIONS, system::SHARD);
        let turn = rows.turn();
        let theirs = store.clone();
        let trim = spawn("trims".to_owned(), move || theirs.trim()).unwrap();
        // It looks at the rows of the other one, as far as it comes.
        core.options.clock.sleep(Duration::from_millis(200));
        core.commit_deletion(&topic).unwrap();
        drop(turn);
        trim.join().unwrap().unwrap();
        let [placed, known] = of_trim_point(core);
        assert!(placed.is_subset(&known), "segments of {placed:?}, and the topics are {known:?}");
        store.trim().unwrap();
        assert_eq!(of_trim_point(core), [const { BTreeSet::new() }; 2]);
    }

    /// Rows of segments that no topic is known of are no reason not to make backups.
    #[test]
    fn segments_of_a_topic_that_is_not_known_are_in_no_backup() {
        let disk = Arc::new(MemoryDisk::default());
        let store = Store::options().manual_duties().journal_file_bytes(64 << 10).disk(Arc::clone(&disk) as _);
        let store = store.open("/store").unwrap();
        store.producer(TOPIC).unwrap().append(b"k", b"v").unwrap();
        store.trim().unwrap();
        let core = &store.inner.core;
        let topic = core.topic("short-lived").unwrap();
        core.pipeline.retire(&topic).unwrap();
        core.commit_deletion(&topic).unwrap();
        core.pipeline.journal.at_rest(|applier, _| applier.are_forgotten(&[topic.id]));
        store.trim().unwrap();
        let [placed, known] = of_trim_point(core);
        assert!(placed.contains(&topic.id) && known.is_empty());
        let target = BackupTarget::dir_on(Arc::new(MemoryDisk::default()), "/target").unwrap();
        store.backup(&target).unwrap();
        StoreReader::options().disk(Arc::clone(&disk) as _).open("/store").unwrap().backup(&target).unwrap();
        let verified = RestoreOptions::new().disk(disk).verify(&target, "/scratch").unwrap();
        assert!(verified.is_sound());
    }

    #[test]
    fn a_producer_of_a_topic_that_is_being_deleted_leaves_no_row() {
        let store = Store::in_memory().unwrap();
        drop(store.producer(TOPIC).unwrap());
        let core = &store.inner.core;
        let topic = core.topic("short-lived").unwrap();
        core.pipeline.retire(&topic).unwrap();
        let refused = store.idempotent_producer(TOPIC, IdempotentProducerConfig::new("late")).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::NotFound);
        let opened = core.pipeline.open_producer("late", topic.id, PartitionId(0), Sequence(0));
        assert_eq!(opened.unwrap_err().kind(), ErrorKind::NotFound);
        core.pipeline.keep(&topic);
        assert_eq!(rows_of(core, topic.id), 0);
        store.idempotent_producer(TOPIC, IdempotentProducerConfig::new("late")).unwrap();
        assert_eq!(rows_of(core, topic.id), 1);
    }
}
