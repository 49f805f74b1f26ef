//! Putting a topic together when it is first used: its row in the catalogue, its claim, its partitions and segments as
//! of the trim point; and taking away what crashes have left in its directories.
//!
//! Why this may wait until the topic is used: frames behind the trim point name the topics that they touch, so recovery
//! has put those together. Of any other topic the rows at the trim point say everything. Bytes behind a segment's row
//! and segment files without a row are copies of frames that were replayed into new files or never became durable; they
//! are never the truth, and no new record goes to the partition before they are gone for good.

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::repair::Mends;
use crate::chance::Chance;
use crate::disk::SyncSite;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, PartitionId, StoreId, TopicId};
use crate::page::{Board, Watched};
use crate::segment::{OpenFiles, SegmentHead};
use crate::table::{ScanRange, Tables};
use crate::topic::{
    self, Claim, Partition, PartitionState, SegmentMaker, SegmentRow, Topic, TopicSpec, Usage, Writing, partition_dir,
    topic_dir,
};
use crate::transaction::LoadTopics;
use crate::transaction::system::{self, CatalogueKey};
use crate::view::View;
use crate::wake::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// What it takes to put topics together.
pub(super) struct TopicLoader {
    pub(super) files: Arc<OpenFiles>,
    pub(super) chance: Arc<Chance>,
    pub(super) store: StoreId,
    /// The owner's name.
    pub(super) owner: String,
    pub(super) epoch: Epoch,
    pub(super) topics: PathBuf,
    pub(super) view: Arc<View>,
    pub(super) tables: Arc<Tables>,
    /// Segments of this opening and later ones may be written on. What older ones left may be the rest of a crash.
    pub(super) orderly_since: AtomicU64,
    pub(super) swept: Mutex<Vec<PathBuf>>,
    /// Where a topic is shown before anybody can append to it, once the owner serves.
    pub(super) board: Mutex<Option<Arc<Board>>>,
    /// Set in a repair.
    pub(super) mends: Option<Arc<Mends>>,
}

impl LoadTopics for TopicLoader {
    fn find(&self, name: &str) -> Result<Option<TopicId>> {
        let row = self.catalogue_row(&system::topic_name_key(name))?;
        row.map(|row| system::decode_row(&row)).transpose()
    }

    fn load(&self, id: TopicId) -> Result<Option<Topic>> {
        self.put_together(id).map_err(|error| self.files.judge(error))
    }
}

impl TopicLoader {
    fn put_together(&self, id: TopicId) -> Result<Option<Topic>> {
        let Some(row) = self.catalogue_row(&CatalogueKey::Topic(id).encode())? else { return Ok(None) };
        let spec: TopicSpec = system::decode_row(&row)?;
        spec.check().map_err(|error| self.malformed(&error.to_string()))?;
        let dir = topic_dir(&self.topics, &spec.name);
        if let Err(error) = self.check_claim(&dir, id) {
            let mends = self.mends.as_ref().filter(|_| error.kind() == ErrorKind::Corrupt);
            let Some(mends) = mends else { return Err(error) };
            if self.is_another_topics(&dir, id, mends)? {
                return Err(error);
            }
            mends.claim(&dir, &self.claim_of(id, &spec), error)?;
        }
        let usage = Arc::new(Usage::of(&spec));
        let partitions = (0..spec.partitions).map(PartitionId);
        let partitions = partitions.map(|partition| self.partition((id, partition), &spec, &usage, &dir));
        let partitions = partitions.collect::<Result<Vec<Arc<Partition>>>>()?;
        if let Some(board) = &*self.board.lock() {
            for partition in &partitions {
                let (start, end) = (partition.start(), partition.applied_end());
                board.show((id, &spec.name), partition.id, Watched { start, end })?;
            }
        }
        Ok(Some(Topic { id, spec, partitions, warned: AtomicBool::new(false) }))
    }

    fn catalogue_row(&self, key: &[u8]) -> Result<Option<bytes::Bytes>> {
        let visible = self.view.pin(|| self.view.visible());
        self.tables.shard(system::CATALOGUE, system::SHARD).get(key, visible.lsn())
    }

    fn malformed(&self, what: &str) -> Error {
        Error::new(ErrorKind::Corrupt, format!("a row of the catalogue is malformed: {what}")).in_file(&self.topics)
    }

    /// A topic of the catalogue must have its claim on disk.
    fn check_claim(&self, dir: &Path, id: TopicId) -> Result<()> {
        let claim = topic::read_claim(&*self.files.disk, dir)?;
        if (claim.store, claim.topic, &claim.owner) != (self.store, id, &self.owner) {
            let Claim { topic, owner, .. } = claim;
            let what = format!("the name is claimed for topic id {topic} of owner {owner:?}, and is that of {id} here");
            return Err(Error::corrupt(&Claim::path(dir), 0, what));
        }
        Ok(())
    }

    /// Whether the claim is whole and of another topic: somebody has moved directories, and nothing in them is damaged.
    /// Where the journal was cut it may be of one that was made behind the damage, in place of this.
    fn is_another_topics(&self, dir: &Path, id: TopicId, mends: &Mends) -> Result<bool> {
        match topic::find_claim(&*self.files.disk, dir) {
            Ok(Some(claim)) if claim.topic != id => {
                let key = CatalogueKey::Topic(claim.topic).encode();
                Ok(!mends.journal_is_cut() || self.catalogue_row(&key)?.is_some())
            }
            Err(error) if error.kind() != ErrorKind::Corrupt => Err(error),
            _ => Ok(false),
        }
    }

    fn claim_of(&self, topic: TopicId, spec: &TopicSpec) -> Claim {
        let TopicSpec { name, partitions, key_codec, value_codec, .. } = spec.clone();
        Claim { store: self.store, topic, partitions, owner: self.owner.clone(), name, key_codec, value_codec }
    }

    fn partition(
        &self,
        (topic, id): (TopicId, PartitionId),
        spec: &TopicSpec,
        usage: &Arc<Usage>,
        dir: &Path,
    ) -> Result<Arc<Partition>> {
        let (state, rows) = self.trim_point(topic, id)?;
        let orderly_since = Epoch(self.orderly_since.load(Ordering::SeqCst));
        let continues = rows.last().is_some_and(|row| row.epoch >= orderly_since);
        let maker = SegmentMaker {
            files: Arc::clone(&self.files),
            chance: Arc::clone(&self.chance),
            store: self.store,
            epoch: self.epoch,
            dir: partition_dir(dir, id),
            writing: Writing::of(spec),
            usage: Arc::clone(usage),
        };
        let view = Arc::clone(&self.view);
        let partition = Partition::recovered(topic, id, maker, view, state, &rows, continues);
        if let Some(mends) = &self.mends {
            // Nothing goes before the trim point that ends the repair.
            mends.partition_dir(dir, partition.dir())?;
            self.keep_copies(&partition, orderly_since, mends)?;
            return Ok(Arc::new(partition));
        }
        if !continues && let Err(error) = partition.cut_tail(orderly_since) {
            // Only space is at stake: a segment that is damaged is told when it is read.
            tracing::warn!(%error, "the tail of an old segment stays");
        }
        self.sweep(&partition, orderly_since)?;
        Ok(Arc::new(partition))
    }

    /// What the trim point says of a partition. Rows that are not there: nothing was ever written to it.
    pub(super) fn trim_point(&self, topic: TopicId, id: PartitionId) -> Result<(PartitionState, Vec<SegmentRow>)> {
        let lsn = self.view.pin(|| self.view.visible());
        let key = system::partition_key(topic, id);
        let partitions = self.tables.shard(system::PARTITIONS, system::SHARD);
        let Some(state) = partitions.get(&key, lsn.lsn())? else { return Ok(Default::default()) };
        let last = [&key[..], &[0xff; 8]].concat();
        let segments = self.tables.shard(system::SEGMENTS, system::SHARD);
        let rows = segments.scan(ScanRange::between(Bound::Included(&key), Bound::Included(&last)), lsn.lsn())?;
        let rows = rows.iter().map(|(_, row)| system::decode_row(row)).collect::<Result<_>>()?;
        Ok((system::decode_row(&state)?, rows))
    }

    /// Removes segment files that no row names and that an opening left which did not end in order. Where a file is
    /// missing that a row names, somebody has been at work there, and nothing is touched.
    fn sweep(&self, partition: &Partition, orderly_since: Epoch) -> Result<()> {
        let dir = partition.dir();
        let (strays, complete) = self.strays(partition, orderly_since)?;
        if !complete {
            return Ok(());
        }
        if strays.is_empty() {
            return Ok(());
        }
        for path in &strays {
            match self.files.disk.remove(path) {
                // A fenced opening has taken it away itself, or given it another name.
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(path, "remove a leftover file", error));
                }
                _ => {}
            }
            tracing::info!(path = %path.display(), "removed a segment that a crash left");
        }
        // Whoever reads this directory without us must not find it again when new records have taken its offsets.
        self.files
            .disk
            .sync_dir(dir, SyncSite::SegmentDir)
            .map_err(|error| Error::sync(dir, "sync a partition", error))?;
        self.swept.lock().extend(strays);
        Ok(())
    }

    /// Segment files and indexes that no row names and that an older opening left, in order; and whether the files are
    /// there that rows name.
    fn strays(&self, partition: &Partition, orderly_since: Epoch) -> Result<(Vec<PathBuf>, bool)> {
        let dir = partition.dir();
        let mut found = self.files.disk.list(dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::corrupt(dir, 0, "the directory of a partition is gone"),
            _ => Error::io(dir, "list a partition", error),
        })?;
        let named = partition.segment_paths();
        let complete = named.iter().all(|path| found.contains(path));
        found.sort();
        // Or that were removed or compacted before an orderly close, and could not be taken away then.
        let start = partition.start();
        let stray = |path: &PathBuf| {
            let Some(name) = SegmentHead::name_of(path) else { return SegmentHead::is_unfinished(path) };
            name.epoch < orderly_since || name.base < start || partition.is_replaced(&name)
        };
        let kept = |path: &PathBuf| named.contains(&path.with_extension("segment"));
        found.retain(|path| stray(path) && !kept(path));
        Ok((found, complete))
    }

    /// What the next opening will remove may be copies of frames that a damaged journal no longer has.
    fn keep_copies(&self, partition: &Partition, orderly_since: Epoch, mends: &Mends) -> Result<()> {
        if let Some((path, end)) = partition.tail(orderly_since) {
            mends.keep_copies_of_frames(&path, end)?;
        }
        let (strays, _) = self.strays(partition, orderly_since)?;
        strays.iter().try_for_each(|path| mends.keep_copies_of_frames(path, 0))
    }
}
