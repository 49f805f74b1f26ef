//! One state of everything, pinned.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::RangeBounds;

use super::super::rows::RowsAt;
use super::cursor::{PartitionCursor, Stopped};
use super::owner::OwnerReader;
use super::tables::TablesAt;
use super::{StoreReader, TopicInfo, no_partition};
use crate::codec::{Codec, Pair, PairRow};
use crate::error::{Error, Result};
use crate::handles::{Scan, TableDef};
use crate::ids::{LogOffset, Lsn, PartitionId};
use crate::page::{Ends, Watched};
use crate::record::RecordView;
use crate::table::Direction;
use crate::transaction::Step;
use crate::wake::Arc;

/// All topics as of one LSN of each owner, and all its tables as of one. It stays as it is, whatever is appended
/// meanwhile; only what retention removes can no longer be read.
///
/// Tables are shown as the owner has last written them to its table file: at the LSN of its trim point, which is
/// [`ReaderSnapshot::tables_lsn`] and not above [`ReaderSnapshot::lsn`]. Where no owner lives the two are the same. The
/// owner uses the room of a state again when it has moved the trim point twice: then a call that looks at rows answers
/// `Conflict`, never a row of another state, and a new snapshot shows a newer one.
pub struct ReaderSnapshot {
    reader: StoreReader,
    owners: BTreeMap<String, Pinned>,
}

struct Pinned {
    owner: Arc<OwnerReader>,
    lsn: Lsn,
    ends: Ends,
    tables: TablesAt,
}

impl ReaderSnapshot {
    pub(super) fn take(reader: &StoreReader) -> Result<ReaderSnapshot> {
        let mut owners = BTreeMap::new();
        for (name, owner) in reader.inner.all_owners()? {
            let (lsn, ends, tables) = TablesAt::with_ends(&owner)?;
            owners.insert(name, Pinned { owner, lsn, ends, tables });
        }
        Ok(ReaderSnapshot { reader: reader.clone(), owners })
    }

    /// The newest commit of an owner that it shows; `None`: there was no such owner.
    #[must_use]
    pub fn lsn(&self, owner: &str) -> Option<Lsn> {
        self.owners.get(owner).map(|pinned| pinned.lsn)
    }

    /// The newest commit of an owner whose rows it shows; `None`: there was no such owner.
    #[must_use]
    pub fn tables_lsn(&self, owner: &str) -> Option<Lsn> {
        self.owners.get(owner).map(|pinned| pinned.tables.lsn())
    }

    /// The value of a row; `None` also where there was no such table.
    ///
    /// # Errors
    /// `Conflict`: the owner has used the room of this state again, take another snapshot; `Invalid`: the table has
    /// other codecs, or the bytes are none of this codec; `Corrupt`, with file and position; `Unavailable`.
    pub fn get<K: Codec, V: Codec>(&self, table: TableDef<K, V>, key: &K::Value) -> Result<Option<V::Owned>> {
        self.rows(table.name(), |rows| rows.get(&table, key))
    }

    /// The rows whose keys lie in `range`, in the order of their encoded keys within each shard.
    ///
    /// # Errors
    /// As [`ReaderSnapshot::get`].
    pub fn scan<'k, K: Codec, V: Codec>(
        &self,
        table: TableDef<K, V>,
        range: impl RangeBounds<&'k K::Value>,
    ) -> Result<Vec<(K::Owned, V::Owned)>>
    where
        K::Value: 'k,
    {
        let scan = Scan::range::<K>(range)?;
        self.rows(table.name(), |rows| rows.run(&table, scan))
    }

    /// The first `limit` rows of `range`, from its low or its high end, as [`ReaderSnapshot::scan`]. Looks at no more
    /// rows than it gives.
    ///
    /// # Errors
    /// As [`ReaderSnapshot::get`].
    pub fn page<'k, K: Codec, V: Codec>(
        &self,
        table: TableDef<K, V>,
        range: impl RangeBounds<&'k K::Value>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(K::Owned, V::Owned)>>
    where
        K::Value: 'k,
    {
        let scan = Scan::range::<K>(range)?.page(direction, limit);
        self.rows(table.name(), |rows| rows.run(&table, scan))
    }

    /// The rows whose encoded keys begin with the encoding of `prefix`, as [`ReaderSnapshot::scan`].
    ///
    /// # Errors
    /// As [`ReaderSnapshot::get`].
    pub fn prefix<K: Codec, V: Codec>(
        &self,
        table: TableDef<K, V>,
        prefix: &K::Value,
    ) -> Result<Vec<(K::Owned, V::Owned)>> {
        let scan = Scan::prefix::<K>(prefix)?;
        self.rows(table.name(), |rows| rows.run(&table, scan))
    }

    /// The rows whose keys have this first part, in the order of the second, as [`ReaderSnapshot::scan`].
    ///
    /// # Errors
    /// As [`ReaderSnapshot::get`].
    pub fn group<A: Codec, B: Codec, V: Codec>(
        &self,
        table: TableDef<Pair<A, B>, V>,
        first: &A::Value,
    ) -> Result<Vec<PairRow<A, B, V>>>
    where
        A::Owned: Borrow<A::Value>,
        B::Owned: Borrow<B::Value>,
    {
        let scan = Scan::group::<A>(first)?;
        self.rows(table.name(), |rows| rows.run(&table, scan))
    }

    /// Asks the owner's tables as they are shown here; nothing where nobody had such a table.
    fn rows<R: Default>(&self, table: &str, ask: impl FnOnce(&RowsAt<'_>) -> Result<R>) -> Result<R> {
        let owner = self.reader.inner.table_owner(table)?;
        match owner.and_then(|owner| self.owners.get(&owner)) {
            Some(pinned) => pinned.tables.ask(ask),
            None => Ok(R::default()),
        }
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
