//! One state of everything, pinned.

use std::collections::BTreeMap;

use super::cursor::{PartitionCursor, Stopped};
use super::owner::OwnerReader;
use super::{StoreReader, TopicInfo, no_partition};
use crate::error::{Error, Result};
use crate::ids::{LogOffset, Lsn, PartitionId};
use crate::page::{Ends, Watched};
use crate::record::RecordView;
use crate::transaction::Step;
use crate::wake::Arc;

/// All topics as of one LSN of each owner. It stays as it is, whatever is appended meanwhile; only what retention
/// removes can no longer be read.
pub struct ReaderSnapshot {
    reader: StoreReader,
    owners: BTreeMap<String, Pinned>,
}

struct Pinned {
    owner: Arc<OwnerReader>,
    lsn: Lsn,
    ends: Ends,
}

impl ReaderSnapshot {
    pub(super) fn take(reader: &StoreReader) -> Result<ReaderSnapshot> {
        let mut owners = BTreeMap::new();
        for (name, owner) in reader.inner.all_owners()? {
            let (_, lsn, ends) = owner.all()?;
            owners.insert(name, Pinned { owner, lsn, ends });
        }
        Ok(ReaderSnapshot { reader: reader.clone(), owners })
    }

    /// The newest commit of an owner that it shows; `None`: there was no such owner.
    #[must_use]
    pub fn lsn(&self, owner: &str) -> Option<Lsn> {
        self.owners.get(owner).map(|pinned| pinned.lsn)
    }

    /// The first offset of a partition that was kept, and the offset behind the last record that it shows.
    ///
    /// # Errors
    /// `NotFound`: no such topic then or now; `Invalid`: no such partition; `Corrupt`.
    pub fn offsets(&self, topic: &str, partition: PartitionId) -> Result<(LogOffset, LogOffset)> {
        let (_, _, watched) = self.find(topic, partition)?;
        Ok((watched.start, watched.end))
    }

    /// The offset behind the last record of a partition that it shows.
    ///
    /// # Errors
    /// As [`ReaderSnapshot::offsets`].
    pub fn end_offset(&self, topic: &str, partition: PartitionId) -> Result<LogOffset> {
        self.offsets(topic, partition).map(|(_, end)| end)
    }

    /// Hands the records of a partition that it shows to `visit`, from `from` on, until it says otherwise. Gives the
    /// next offset to read.
    ///
    /// # Errors
    /// `Gap`: records from there on are gone, [`Error::gap`] says which; `NotFound`, `Invalid`, `Corrupt`,
    /// `Unavailable`; whatever `visit` fails with.
    pub fn read(
        &self,
        topic: &str,
        partition: PartitionId,
        from: LogOffset,
        mut visit: impl FnMut(RecordView<'_>) -> Result<Step>,
    ) -> Result<LogOffset> {
        let (info, owner, watched) = self.find(topic, partition)?;
        let mut cursor = PartitionCursor::new(&owner, &info, partition, from);
        match cursor.read(watched.end, &mut 0, &mut visit)? {
            Stopped::Gap(lost) => Err(Error::lost(topic, partition.0, lost)),
            Stopped::AtLimit | Stopped::ByVisitor => Ok(cursor.next),
        }
    }

    fn find(&self, topic: &str, partition: PartitionId) -> Result<(TopicInfo, Arc<OwnerReader>, Watched)> {
        let (info, _) = self.reader.inner.find(topic)?;
        let missing = || Error::new(crate::error::ErrorKind::NotFound, format!("there was no topic {topic:?}"));
        let pinned = self.owners.get(&info.owner).ok_or_else(missing)?;
        match pinned.ends.get(&(info.id, partition)) {
            Some(watched) => Ok((info, Arc::clone(&pinned.owner), *watched)),
            None if pinned.ends.keys().any(|(id, _)| *id == info.id) => Err(no_partition(&info, partition)),
            None => Err(missing()),
        }
    }
}
