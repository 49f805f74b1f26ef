//! Forgetting ids that are remembered for long enough: by age, the oldest first, a bounded number at a time.
//!
//! ```text
//! table ids.NAME          id -> when it came
//! table ids-by-age.NAME   when it came, id -> nothing
//! ```
//!
//! Invariants:
//! * An id has both rows or none: they are put in one transaction and removed in one.
//! * Ids are removed by one at a time, from the oldest on, and only what is beyond a limit at that moment. A crash
//!   between two transactions leaves more than need be remembered, never less.
//! * What is counted towards the last so many is what was seen under a snapshot, less whatever was removed since: too
//!   few rather than too many, so too much stays rather than too little.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use super::{Core, Snapshot, Store};
use crate::codec;
use crate::disk::{StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::handles::{AsEngine, SeenIds, TableDef};
use crate::ids::TableId;
use crate::table::{Direction, ScanRange};
use crate::topic::elapsed;
use crate::transaction::{EngineTx, IdTables, KeepIds, system};
use crate::wake::{AtomicBool, AtomicU64, Mutex, Ordering};

/// Ids that leave in one transaction, and about the bytes of their rows.
const REMOVED_AT_ONCE: usize = 1024;
const BYTES_AT_ONCE: usize = 1 << 20;
/// Transactions of one name in one round.
const REMOVALS: usize = 4;
/// Ids that are counted in one round.
const COUNTED_AT_ONCE: usize = 16 * 1024;
/// All are counted again when this part of those that are kept is new.
const COUNT_PART: u64 = 8;
/// Or so many.
const NEW_AT_MOST: u64 = 1 << 20;

/// The names in use, and how far their forgetting has come.
#[derive(Default)]
pub(super) struct Remembering {
    names: Mutex<BTreeMap<String, Remembered>>,
    /// One round at a time, and when the last one over all names began.
    round: Mutex<Option<Duration>>,
    /// A round has left something to do.
    unfinished: AtomicBool,
    /// When the newest id came.
    newest_us: AtomicU64,
}

#[derive(Clone)]
struct Remembered {
    tables: IdTables,
    keep: KeepIds,
    count: Count,
}

/// How many ids are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Count {
    /// Nobody has counted.
    #[default]
    Unknown,
    /// So many up to that key, and more behind it.
    Counting { so_far: u64, up_to: Vec<u8> },
    /// So many are too many.
    Surplus(u64),
    /// Not too many up to some key, and so many `new` ones from there to `up_to`.
    Enough { new: u64, up_to: Vec<u8> },
}

/// What a round has done for one name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Forgot {
    ids: u64,
    more: bool,
}

impl Core {
    pub(super) fn open_ids(
        &self,
        engine: &dyn crate::transaction::Engine,
        name: &str,
        keep: KeepIds,
    ) -> Result<IdTables> {
        let mut names = self.remembering.names.lock();
        if let Some(known) = names.get_mut(name) {
            // Of those who use a name the one who remembers longest is right for all.
            let keep = known.keep.longest(keep);
            if known.keep != keep {
                (known.keep, known.count) = (keep, Count::Unknown);
            }
            return Ok(known.tables);
        }
        drop(names);
        let tables = self.id_tables(engine, name)?;
        names = self.remembering.names.lock();
        names.entry(name.to_owned()).or_insert(Remembered { tables, keep, count: Count::Unknown });
        drop(names);
        // Somebody else may have been faster, and have another limit.
        self.open_ids(engine, name, keep)
    }

    fn id_tables(&self, engine: &dyn crate::transaction::Engine, name: &str) -> Result<IdTables> {
        let open = |prefix| engine.open_table(&table_of(prefix, name).spec(1));
        let (by_id, by_age) = (open("ids")?, open("ids-by-age")?);
        let newest = self.ids_by_age(by_age, Bound::Unbounded, Direction::Down, 1)?;
        if let Some(key) = newest.keys.first() {
            self.remembering.newest_us.fetch_max(read_age_key(key)?.0, Ordering::SeqCst);
        }
        Ok(IdTables::new(by_id, by_age))
    }

    /// The place of an id among all that come: the time in microseconds, and later than any before it, of an earlier
    /// opening too once [`Core::open_ids`] has seen the name.
    pub(super) fn next_arrival(&self) -> u64 {
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        let now_us = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1000);
        let next = |newest: u64| now_us.max(newest.saturating_add(1));
        let newest = &self.remembering.newest_us;
        match newest.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |newest| Some(next(newest))) {
            Ok(before) | Err(before) => next(before),
        }
    }

    pub(super) fn forget_ids_if_due(&self) -> Result<()> {
        let now = self.options.clock.monotonic();
        let mut round = self.remembering.round.lock();
        let is_due = round.is_none_or(|last| now.saturating_sub(last) >= self.options.retention_interval);
        if !is_due && !self.remembering.unfinished.load(Ordering::SeqCst) {
            return Ok(());
        }
        if is_due {
            *round = Some(now);
        }
        let names: Vec<String> = self.remembering.names.lock().keys().cloned().collect();
        let mut unfinished = false;
        for name in names {
            match self.forget_known(&name) {
                Ok(forgot) => unfinished |= forgot.more,
                // The next round tries again; until then more is remembered than need be.
                Err(error) if !self.pipeline.journal.has_failed() => tracing::warn!(%error, name, "old ids stay"),
                Err(error) => {
                    self.remembering.unfinished.store(false, Ordering::SeqCst);
                    return Err(error);
                }
            }
        }
        self.remembering.unfinished.store(unfinished, Ordering::SeqCst);
        Ok(())
    }

    /// Whether a round of forgetting goes on at once.
    pub(super) fn has_ids_to_forget(&self) -> bool {
        self.remembering.unfinished.load(Ordering::SeqCst)
    }

    /// Forgets what is beyond `keep`, all of it. Others have their turn between two steps, the background too.
    fn forget_ids(&self, tables: &IdTables, keep: KeepIds) -> Result<u64> {
        let (mut forgotten, mut count) = (0, Count::Unknown);
        loop {
            self.check_open()?;
            self.pipeline.wait_for_table_memory()?;
            let round = self.remembering.round.lock();
            let forgot = self.forget_some(tables, keep, &mut count)?;
            self.remembering
                .names
                .lock()
                .values_mut()
                .filter(|known| known.tables.by_id == tables.by_id)
                .for_each(|known| known.count.less(forgot.ids));
            drop(round);
            forgotten += forgot.ids;
            if !forgot.more {
                return Ok(forgotten);
            }
        }
    }

    /// One step for a name in use, by who has the round.
    fn forget_known(&self, name: &str) -> Result<Forgot> {
        let Some(known) = self.remembering.names.lock().get(name).cloned() else { return Ok(Forgot::default()) };
        let Remembered { tables, keep, mut count } = known;
        let forgot = self.forget_some(&tables, keep, &mut count)?;
        if let Some(known) = self.remembering.names.lock().get_mut(name).filter(|known| known.keep == keep) {
            known.count = count;
        }
        Ok(forgot)
    }

    fn forget_some(&self, tables: &IdTables, keep: KeepIds, count: &mut Count) -> Result<Forgot> {
        let by_age = self.forget_by_age(tables, keep)?;
        count.less(by_age.ids);
        let Some(last) = keep.count() else { return Ok(by_age) };
        let by_count = self.forget_by_count(tables, last, count)?;
        Ok(Forgot { ids: by_age.ids + by_count.ids, more: by_age.more || by_count.more })
    }

    fn forget_by_age(&self, tables: &IdTables, keep: KeepIds) -> Result<Forgot> {
        let Some(time) = keep.time() else { return Ok(Forgot::default()) };
        let now_ms = self.store_time.now_ms(&*self.options.clock);
        self.remove_oldest(tables, usize::MAX, |came_us| elapsed(milliseconds(came_us), now_ms) >= time)
    }

    fn forget_by_count(&self, tables: &IdTables, last: u64, count: &mut Count) -> Result<Forgot> {
        if let Count::Enough { new, up_to } = count {
            let more =
                self.ids_by_age(tables.by_age, Bound::Excluded(up_to.as_slice()), Direction::Up, COUNTED_AT_ONCE)?;
            *new += more.keys.len() as u64;
            *up_to = more.keys.into_iter().next_back().unwrap_or_else(|| std::mem::take(up_to));
            if *new < (last / COUNT_PART).clamp(1, NEW_AT_MOST) {
                return Ok(Forgot { ids: 0, more: more.is_cut });
            }
            *count = Count::Unknown;
        }
        if !matches!(count, Count::Surplus(_)) {
            self.count_ids(tables, last, count)?;
        }
        match count {
            Count::Surplus(surplus) => {
                let most = usize::try_from(*surplus).unwrap_or(usize::MAX);
                let forgot = self.remove_oldest(tables, most, |_| true)?;
                count.less(forgot.ids);
                // Counted anew when they are gone: more may have come.
                Ok(Forgot { more: forgot.ids > 0, ..forgot })
            }
            Count::Enough { .. } => Ok(Forgot::default()),
            Count::Unknown | Count::Counting { .. } => Ok(Forgot { ids: 0, more: true }),
        }
    }

    /// Counts on, to the newest or as far as a round may.
    fn count_ids(&self, tables: &IdTables, last: u64, count: &mut Count) -> Result<()> {
        let (so_far, from) = match count {
            Count::Counting { so_far, up_to } => (*so_far, Bound::Excluded(up_to.clone())),
            _ => (0, Bound::Unbounded),
        };
        let from = from.as_ref().map(Vec::as_slice);
        let IdsByAge { mut keys, is_cut } = self.ids_by_age(tables.by_age, from, Direction::Up, COUNTED_AT_ONCE)?;
        let (found, newest) = (keys.len(), keys.pop());
        let so_far = so_far + found as u64;
        let up_to = newest.or_else(|| from_key(from)).unwrap_or_default();
        *count = match so_far.checked_sub(last).filter(|surplus| *surplus > 0) {
            _ if is_cut => Count::Counting { so_far, up_to },
            Some(surplus) => Count::Surplus(surplus),
            None => Count::Enough { new: 0, up_to },
        };
        Ok(())
    }

    /// Removes ids from the oldest on, `most` of them and as many as a round may, while `goes` says so of their times.
    fn remove_oldest(&self, tables: &IdTables, most: usize, goes: impl Fn(u64) -> bool) -> Result<Forgot> {
        let mut forgot = Forgot::default();
        // Behind what was removed: there is no need to pass over it again.
        let mut from: Bound<Vec<u8>> = Bound::Unbounded;
        for _ in 0..REMOVALS {
            let left = most.saturating_sub(usize::try_from(forgot.ids).unwrap_or(usize::MAX));
            let limit = REMOVED_AT_ONCE.min(left);
            if limit == 0 {
                return Ok(forgot);
            }
            let oldest = self.ids_by_age(tables.by_age, from.as_ref().map(Vec::as_slice), Direction::Up, limit)?;
            let mut tx = self.begin();
            // Rows that were within the limits when they came.
            tx.admit();
            let mut removed = 0;
            for key in &oldest.keys {
                let (came_us, id) = read_age_key(key)?;
                if !goes(came_us) {
                    break;
                }
                tx.put(tables.by_age, system::SHARD, key, None)?;
                if !is_kept(StepSite::IdRowsTogether) {
                    self.pipeline.submit_at_once(std::mem::replace(&mut tx, self.begin()))?.wait()?;
                }
                tx.put(tables.by_id, system::SHARD, id, None)?;
                removed += 1;
            }
            if removed > 0 {
                // At once: nobody else would relieve the background, should it wait for room in memory.
                self.pipeline.submit_at_once(tx)?.wait()?;
            }
            forgot.ids += removed as u64;
            if removed < oldest.keys.len() || !oldest.is_cut {
                return Ok(forgot);
            }
            from = oldest.keys.into_iter().next_back().map_or(Bound::Unbounded, Bound::Excluded);
        }
        Ok(Forgot { more: true, ..forgot })
    }

    /// Keys by age that are visible, up to `limit` of them and about [`BYTES_AT_ONCE`].
    fn ids_by_age(&self, by_age: TableId, from: Bound<&[u8]>, direction: Direction, limit: usize) -> Result<IdsByAge> {
        let visible = self.pin_visible();
        let range = ScanRange { start: from, end: Bound::Unbounded, direction, limit, bytes: BYTES_AT_ONCE };
        let rows = self.tables.shard(by_age, system::SHARD).scan(range, visible.lsn())?;
        let keys: Vec<_> = rows.into_iter().map(|(key, _)| key).collect();
        let is_cut = keys.len() == limit || keys.iter().map(Vec::len).sum::<usize>() >= BYTES_AT_ONCE;
        Ok(IdsByAge { keys, is_cut })
    }
}

/// Keys by age, and whether there may be more.
struct IdsByAge {
    keys: Vec<Vec<u8>>,
    is_cut: bool,
}

impl Count {
    /// So many of the oldest are gone.
    fn less(&mut self, ids: u64) {
        match self {
            Count::Counting { so_far, .. } => *so_far = so_far.saturating_sub(ids),
            Count::Surplus(surplus) if *surplus > ids => *surplus -= ids,
            Count::Surplus(_) => *self = Count::Unknown,
            Count::Unknown | Count::Enough { .. } => {}
        }
    }
}

fn from_key(from: Bound<&[u8]>) -> Option<Vec<u8>> {
    match from {
        Bound::Included(key) | Bound::Excluded(key) => Some(key.to_vec()),
        Bound::Unbounded => None,
    }
}

fn milliseconds(us: u64) -> i64 {
    i64::try_from(us / 1000).unwrap_or(i64::MAX)
}

fn read_age_key(key: &[u8]) -> Result<(u64, &[u8])> {
    let malformed = || Error::new(ErrorKind::Corrupt, "a row of ids by age is malformed");
    IdTables::read_age_key(key).ok_or_else(malformed)
}

impl Store {
    /// Forgets the ids of that name that are remembered for long enough by the limits of `ids`, now. The background
    /// does so too once the name has been used in this opening, some at a time and by the limits of its users.
    /// Those stay as they are. Gives how many; durable on return.
    ///
    /// # Errors
    /// `Invalid`: a name that cannot be a table's; `Full`, `InDoubt`, `Closed`: some of them may be forgotten.
    pub fn forget_ids(&self, ids: &SeenIds) -> Result<u64> {
        let core = self.core();
        core.check_open()?;
        let tables = core.id_tables(&*self.as_engine(), ids.name())?;
        core.forget_ids(&tables, ids.keep())
    }
}

impl Snapshot {
    /// Whether `id` has come, as far as is remembered: what [`Tx::first_time`](crate::Tx::first_time) would find.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn has_seen(&self, ids: &SeenIds, id: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(table_of("ids", ids.name()), id.as_ref())?.is_some())
    }
}

fn table_of(prefix: &str, name: &str) -> TableDef<codec::Bytes, codec::Bytes> {
    TableDef::named(format!("{prefix}.{name}"))
}
