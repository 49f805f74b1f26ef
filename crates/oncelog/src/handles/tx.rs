//! A transaction in the user's types.

use std::any::TypeId;
use std::borrow::Borrow;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::ops::RangeBounds;

use bytes::Bytes;

use super::append::encode_into;
use super::def::{TableDef, TopicDef, shard_of};
use super::idempotent::ProducerStamp;
use super::producer::Pending;
use super::scan::Scan;
use super::seen_ids::SeenIds;
use crate::codec::{Codec, Pair, PairRow};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, Sequence, ShardId, TableId, TopicId};
use crate::record::Header;
use crate::table::{Direction, TableSpec};
use crate::transaction::{Committed, Engine, EngineTx, IdTables, NewRecord, NewStamp, Stamped};
use crate::wake::Arc;

/// What definitions became when they were first used: so that using one costs no lookup by name in the engine.
#[derive(Default)]
pub(crate) struct Bindings {
    topics: Vec<(Binding, TopicId)>,
    tables: Vec<(Binding, TableId, u32)>,
    pub(super) ids: Vec<(SeenIds, IdTables)>,
    scratch: Scratch,
}

/// Where keys and values are encoded on their way to the engine, again and again in the same memory.
#[derive(Default)]
struct Scratch {
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A name with the codecs it was used with.
struct Binding {
    name: String,
    codecs: (TypeId, TypeId),
}

impl Binding {
    fn of<K: Codec, V: Codec>(name: &str) -> Binding {
        Binding { name: name.to_owned(), codecs: (TypeId::of::<K>(), TypeId::of::<V>()) }
    }

    fn is<K: Codec, V: Codec>(&self, name: &str) -> bool {
        self.name == name && self.codecs == (TypeId::of::<K>(), TypeId::of::<V>())
    }
}

impl Bindings {
    pub(crate) fn topic<K: Codec, V: Codec>(&mut self, engine: &dyn Engine, def: &TopicDef<K, V>) -> Result<TopicId> {
        if let Some((_, id)) = self.topics.iter().find(|(bound, _)| bound.is::<K, V>(def.name())) {
            return Ok(*id);
        }
        let id = engine.open_topic(&def.spec())?;
        self.topics.push((Binding::of::<K, V>(def.name()), id));
        Ok(id)
    }

    /// The table. If there is none it is made, with the shards that its definition says, else one; but a processor
    /// over several partitions must say.
    fn table<K: Codec, V: Codec>(
        &mut self,
        engine: &dyn Engine,
        def: &TableDef<K, V>,
        scope: Option<Scope>,
    ) -> Result<(TableId, u32)> {
        let bound = self.tables.iter().find(|(bound, ..)| bound.is::<K, V>(def.name()));
        if let Some((_, id, shards)) = bound
            && def.shard_count().is_none_or(|said| said == *shards)
        {
            return Ok((*id, *shards));
        }
        let shards = match (engine.find_table(def.name())?, def.shard_count(), scope) {
            (_, Some(said), _) => said,
            (Some((_, TableSpec { shards, .. })), None, _) => shards,
            (None, None, Some(Scope { partitions: 2.., .. })) => {
                let name = def.name();
                return Err(Error::invalid(format!(
                    "there is no table {name:?} yet: name it with Processor::table, which gives it a shard for each \
                     partition, or say by TableDef::shards how many it has"
                )));
            }
            (None, None, _) => 1,
        };
        let id = engine.open_table(&def.spec(shards))?;
        self.tables.push((Binding::of::<K, V>(def.name()), id, shards));
        Ok((id, shards))
    }
}

/// What a processor's function may touch of sharded tables: the shard of the record at hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope {
    /// The input partition of the record.
    pub(crate) partition: PartitionId,
    /// How many partitions its topic has.
    pub(crate) partitions: u32,
}

/// The view of a transaction that a processing function gets.
///
/// Everything done through it happens in one atomic step with the record's consumption, or not at all.
pub struct Tx<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) inner: &'a mut dyn EngineTx,
    pub(crate) bindings: &'a mut Bindings,
    /// In a processor: sharded tables take only keys that belong to the record at hand.
    pub(crate) scope: Option<Scope>,
}

impl Tx<'_> {
    /// Stages a record for the topic, which is made if it does not exist. It goes to the partition of its key.
    ///
    /// # Errors
    /// `Invalid`: over a limit, no encoding, or another definition of the topic.
    pub fn append<K: Codec, V: Codec>(
        &mut self,
        topic: TopicDef<K, V>,
        key: &K::Value,
        value: &V::Value,
    ) -> Result<()> {
        let id = self.bindings.topic(self.engine, &topic)?;
        let Scratch { key: key_bytes, value: value_bytes } = &mut self.bindings.scratch;
        encode_into::<K>(key, key_bytes)?;
        encode_into::<V>(value, value_bytes)?;
        let route = K::route(key_bytes);
        let record =
            NewRecord { key: Some(key_bytes), route: Some(&route), value: Some(value_bytes), ..NewRecord::default() };
        self.inner.append(id, None, record).map(drop)
    }

    /// Stages a record without a key.
    ///
    /// # Errors
    /// As [`Tx::append`].
    pub fn append_value<K: Codec, V: Codec>(&mut self, topic: TopicDef<K, V>, value: &V::Value) -> Result<()> {
        let id = self.bindings.topic(self.engine, &topic)?;
        let bytes = &mut self.bindings.scratch.value;
        encode_into::<V>(value, bytes)?;
        self.inner.append(id, None, NewRecord { value: Some(bytes), ..NewRecord::default() }).map(drop)
    }

    /// Stages a record with everything given: key or none, value or tombstone, headers, timestamp, partition.
    ///
    /// # Errors
    /// As [`Tx::append`].
    pub fn append_record<K: Codec, V: Codec>(
        &mut self,
        topic: TopicDef<K, V>,
        partition: Option<PartitionId>,
        key: Option<&K::Value>,
        value: Option<&V::Value>,
        headers: &[Header<'_>],
        timestamp_ms: Option<i64>,
    ) -> Result<()> {
        let id = self.bindings.topic(self.engine, &topic)?;
        let key = key.map(encode::<K>).transpose()?;
        let value = value.map(encode::<V>).transpose()?;
        let route = key.as_deref().map(K::route);
        let (key, route, value) = (key.as_deref(), route.as_deref(), value.as_deref());
        let record = NewRecord { key, route, value, headers, timestamp_ms };
        self.inner.append(id, partition, record).map(drop)
    }

    /// The transaction happens only if `next` is the next offset of that partition when it gets its place; its records
    /// there begin at that offset then.
    ///
    /// # Errors
    /// `Invalid`: no such partition. The commit answers `Conflict` if it is not so, with
    /// [`Error::next_offset`].
    pub fn expect_offset<K: Codec, V: Codec>(
        &mut self,
        topic: TopicDef<K, V>,
        partition: PartitionId,
        next: LogOffset,
    ) -> Result<()> {
        let id = self.bindings.topic(self.engine, &topic)?;
        self.inner.expect_offset(id, partition, next)
    }

    /// Stages the stamp of something that came from outside, so that what this transaction does about it is done once:
    /// the mark is in the same atomic step. Of a producer that was never heard of, sequence 0 is the next.
    ///
    /// With [`Stamped::Duplicate`] give the transaction up (in a processing function:
    /// [`Outcome::Skip`](crate::Outcome)), as it was done before.
    ///
    /// # Errors
    /// `Invalid`: the sequence skips ahead, so something was lost on the way; the next one is in
    /// [`Error::expected_sequence`].
    pub fn stamp(&mut self, stamp: &ProducerStamp) -> Result<Stamped> {
        self.stamp_from(stamp, Sequence(0))
    }

    /// As [`Tx::stamp`], with the first sequence of a producer that was never heard of.
    ///
    /// # Errors
    /// As [`Tx::stamp`].
    pub fn stamp_from(&mut self, stamp: &ProducerStamp, initial: Sequence) -> Result<Stamped> {
        self.inner.stamp(&NewStamp {
            producer: &stamp.producer_id,
            epoch: None,
            topic: TopicId::STAMPED,
            partition: stamp.partition,
            first: stamp.sequence,
            count: 1,
            initial,
        })
    }

    /// The table, which is made if it does not exist. It reads its own writes.
    ///
    /// # Errors
    /// `Invalid`: it exists with other codecs or another number of shards; in a processor over several partitions also:
    /// it does not exist, and nobody has said how many shards it has.
    pub fn table<K: Codec, V: Codec>(&mut self, table: TableDef<K, V>) -> Result<Table<'_, K, V>> {
        let (id, shards) = self.bindings.table(self.engine, &table, self.scope)?;
        let scratch = &mut self.bindings.scratch;
        let name = table.into_name();
        Ok(Table { tx: self.inner, scratch, name, id, shards, scope: self.scope, codecs: PhantomData })
    }
}

/// A table within a transaction.
pub struct Table<'a, K, V> {
    tx: &'a mut dyn EngineTx,
    scratch: &'a mut Scratch,
    name: Cow<'static, str>,
    id: TableId,
    shards: u32,
    scope: Option<Scope>,
    codecs: PhantomData<fn() -> (K, V)>,
}

impl<K: Codec, V: Codec> Table<'_, K, V> {
    /// The value of a row, own writes included. Becomes part of what must not change until the commit.
    ///
    /// # Errors
    /// `Invalid`: the key belongs to another partition, or the bytes are none of this codec; `Corrupt`.
    pub fn get(&mut self, key: &K::Value) -> Result<Option<V::Owned>> {
        let shard = self.route(key)?;
        self.get_routed(shard)
    }

    /// The value of the row whose key is in the scratch.
    fn get_routed(&mut self, shard: ShardId) -> Result<Option<V::Owned>> {
        let Some(bytes) = self.tx.get(self.id, shard, &self.scratch.key)? else { return Ok(None) };
        match V::decode_owned(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => Err(bad_row(&self.name, &self.scratch.key, "value", &V::id(), reason)),
        }
    }

    /// Stages a row.
    ///
    /// # Errors
    /// `Invalid`: over a limit, no encoding, or the key belongs to another partition.
    pub fn put(&mut self, key: &K::Value, value: &V::Value) -> Result<()> {
        let shard = self.route(key)?;
        self.put_routed(shard, value)
    }

    fn put_routed(&mut self, shard: ShardId, value: &V::Value) -> Result<()> {
        let Scratch { key, value: bytes } = &mut *self.scratch;
        encode_into::<V>(value, bytes)?;
        self.tx.put(self.id, shard, key, Some(Bytes::copy_from_slice(bytes)))
    }

    /// Stages the removal of a row, there or not.
    ///
    /// # Errors
    /// As [`Table::put`].
    pub fn delete(&mut self, key: &K::Value) -> Result<()> {
        let shard = self.route(key)?;
        self.tx.put(self.id, shard, &self.scratch.key, None)
    }

    /// Replaces a row by what `change` makes of it; gives the new value.
    ///
    /// # Errors
    /// As [`Table::get`] and [`Table::put`].
    pub fn update(&mut self, key: &K::Value, change: impl FnOnce(Option<V::Owned>) -> V::Owned) -> Result<V::Owned>
    where
        V::Owned: Borrow<V::Value>,
    {
        let shard = self.route(key)?;
        let new = change(self.get_routed(shard)?);
        self.put_routed(shard, new.borrow())?;
        Ok(new)
    }

    /// The rows whose keys lie in `range`, in the order of their encoded keys, own writes included. Of a sharded table
    /// a processor sees the shard of its record; elsewhere the shards follow one another.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn scan<'k>(&mut self, range: impl RangeBounds<&'k K::Value>) -> Result<Vec<(K::Owned, V::Owned)>>
    where
        K::Value: 'k,
    {
        self.run(Scan::range::<K>(range)?)
    }

    /// The first `limit` rows of `range`, from its low or its high end, as [`Table::scan`]. Looks at no more rows than
    /// it gives, and what lies behind the last one may change without a `Conflict`.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn page<'k>(
        &mut self,
        range: impl RangeBounds<&'k K::Value>,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(K::Owned, V::Owned)>>
    where
        K::Value: 'k,
    {
        self.run(Scan::range::<K>(range)?.page(direction, limit))
    }

    /// The rows whose encoded keys begin with the encoding of `prefix`, as [`Table::scan`].
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn prefix(&mut self, prefix: &K::Value) -> Result<Vec<(K::Owned, V::Owned)>> {
        self.run(Scan::prefix::<K>(prefix)?)
    }

    fn run(&mut self, scan: Scan) -> Result<Vec<(K::Owned, V::Owned)>> {
        let shards = match self.bound()? {
            Some(ShardId(shard)) => shard..shard + 1,
            None => 0..self.shards,
        };
        let (tx, id) = (&mut *self.tx, self.id);
        scan.run::<K, V>(&self.name, shards, |shard, range| tx.scan(id, shard, range))
    }

    /// Encodes the key into the scratch, and finds the shard that it belongs to.
    fn route(&mut self, key: &K::Value) -> Result<ShardId> {
        encode_into::<K>(key, &mut self.scratch.key)?;
        let shard = shard_of::<K>(&self.scratch.key, self.shards);
        match self.bound()? {
            Some(bound) if bound != shard => Err(Error::invalid(format!(
                "table {:?}: the key belongs to partition {shard}, the record at hand to partition {bound}: a \
                 processor's tables are keyed like its input",
                self.name
            ))),
            _ => Ok(shard),
        }
    }

    /// The one shard that a processor's function may touch now.
    fn bound(&self) -> Result<Option<ShardId>> {
        let Some(Scope { partition, partitions }) = self.scope.filter(|_| self.shards > 1) else { return Ok(None) };
        if self.shards != partitions {
            return Err(Error::invalid(format!(
                "table {:?} has {} shards and the topic of the record at hand {partitions} partitions: a processor \
                 uses tables of one shard, or of one for each partition of its input",
                self.name, self.shards
            )));
        }
        Ok(Some(ShardId(partition.0)))
    }
}

impl<A: Codec, B: Codec, V: Codec> Table<'_, Pair<A, B>, V>
where
    A::Owned: Borrow<A::Value>,
    B::Owned: Borrow<B::Value>,
{
    /// The rows whose keys have this first part, in the order of the second, as [`Table::scan`].
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn group(&mut self, first: &A::Value) -> Result<Vec<PairRow<A, B, V>>> {
        self.run(Scan::group::<A>(first)?)
    }
}

/// A transaction in the long form: fill it, then commit. Dropping it aborts it.
#[must_use]
pub struct Transaction {
    engine: Arc<dyn Engine>,
    inner: Box<dyn EngineTx>,
    bindings: Bindings,
}

impl Transaction {
    pub(crate) fn begin(engine: Arc<dyn Engine>) -> Result<Transaction> {
        let inner = engine.begin()?;
        Ok(Transaction { engine, inner, bindings: Bindings::default() })
    }

    /// What is in it, to be committed with more.
    ///
    /// # Errors
    /// `Invalid`: it is one of another engine.
    pub(super) fn into_inner(self, engine: &dyn Engine) -> Result<Box<dyn EngineTx>> {
        if self.engine.handle_id() == engine.handle_id() {
            return Ok(self.inner);
        }
        Err(Error::invalid("the transaction is one of another store"))
    }

    /// The view through which it is filled.
    pub fn tx(&mut self) -> Tx<'_> {
        Tx { engine: &*self.engine, inner: &mut *self.inner, bindings: &mut self.bindings, scope: None }
    }

    /// Stages a record, as [`Tx::append`].
    ///
    /// # Errors
    /// As [`Tx::append`].
    pub fn append<K: Codec, V: Codec>(
        &mut self,
        topic: TopicDef<K, V>,
        key: &K::Value,
        value: &V::Value,
    ) -> Result<()> {
        self.tx().append(topic, key, value)
    }

    /// Stages a stamp, as [`Tx::stamp`].
    ///
    /// # Errors
    /// As [`Tx::stamp`].
    pub fn stamp(&mut self, stamp: &ProducerStamp) -> Result<Stamped> {
        self.tx().stamp(stamp)
    }

    /// The table, as [`Tx::table`].
    ///
    /// # Errors
    /// As [`Tx::table`].
    pub fn table<K: Codec, V: Codec>(&mut self, table: TableDef<K, V>) -> Result<Table<'_, K, V>> {
        let (id, shards) = self.bindings.table(&*self.engine, &table, None)?;
        let scratch = &mut self.bindings.scratch;
        let name = table.into_name();
        Ok(Table { tx: &mut *self.inner, scratch, name, id, shards, scope: None, codecs: PhantomData })
    }

    /// Makes all of it happen; durable on return.
    ///
    /// # Errors
    /// `Conflict`: something it read has changed, run it again; `TopicFull`: a topic has no room for it, and it does
    /// not wait for that ([`Store::transact_patiently`](crate::Store::transact_patiently) does); `Full`, `Closed`: it
    /// did not happen; `InDoubt`: the disk failed, reopen the store and look.
    pub fn commit(self) -> Result<Committed> {
        self.inner.submit()?.wait()
    }

    /// Hands it over without waiting: it has its place, and later transactions of this store come after it.
    ///
    /// # Errors
    /// As [`Transaction::commit`], but for `InDoubt`, which [`Pending::wait`] tells.
    pub fn submit(self) -> Result<Pending<Committed>> {
        let pending = self.inner.submit()?;
        pending.hand_over();
        Ok(Pending::new(pending, |committed| committed))
    }

    /// As [`Transaction::commit`], with a future for the answer. It is handed over by the call, not by the first poll:
    /// dropping the future takes nothing back, and it happens as a whole, or after a crash not at all. To abort, drop
    /// the transaction.
    #[cfg(feature = "async")]
    pub fn commit_async(self) -> Pending<Committed> {
        self.submit().unwrap_or_else(|error| Pending::there(Err(error)))
    }

    /// Gives it up. Nothing of it was ever visible.
    pub fn abort(self) {}
}

#[inline]
pub(crate) fn encode<C: Codec>(value: &C::Value) -> Result<Cow<'_, [u8]>> {
    if let Some(bytes) = C::as_encoded(value) {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut out = Vec::new();
    C::encode(value, &mut out)
        .map_err(|reason| Error::invalid(format!("the value has no encoding as {}", C::id())).because(reason))?;
    Ok(Cow::Owned(out))
}

/// A row of `table` in the user's types.
pub(crate) fn decode_row<K: Codec, V: Codec>(table: &str, key: &[u8], value: &[u8]) -> Result<(K::Owned, V::Owned)> {
    let bad = |part: &str, codec: &str, reason| bad_row(table, key, part, codec, reason);
    Ok((
        K::decode_owned(key).map_err(|reason| bad("key", &K::id(), reason))?,
        V::decode_owned(value).map_err(|reason| bad("value", &V::id(), reason))?,
    ))
}

/// Bytes of a key that an error shows.
const KEY_BYTES_SHOWN: usize = 64;

/// What is stored is whole, by its checksum: it is not what this codec writes.
fn bad_row(table: &str, key: &[u8], part: &str, codec: &str, reason: crate::codec::CodecError) -> Error {
    let shown = &key[..key.len().min(KEY_BYTES_SHOWN)];
    let more = if shown.len() < key.len() { "..." } else { "" };
    let what = format!("table {table:?}, row \"{}{more}\": the {part} is none of {codec}", shown.escape_ascii());
    Error::new(ErrorKind::Invalid, what).because(reason)
}
