//! Readers that are not the owner: beside it, and between a crash and the next opening. What they show must be what is
//! certain, with a prefix of what is pending; and as it was shown, it is certain from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oncelog::{Error, ErrorKind, LogOffset, PartitionId, ReaderSnapshot, StoreReader, Whence};

use super::ops::Done;
use super::world::{DIR, World};
use crate::model::{Content, Log, Model, Place, Rows};
use crate::observe::{look_beside, rows_beside};
use crate::schema::{FLEETING, SHRINKING, TOPICS};

/// Where a reader that comes and goes is in each partition, and what it was shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Followed {
    next: BTreeMap<Place, u64>,
    shown: BTreeMap<Place, BTreeMap<u64, Content>>,
}

/// What is known of the tables that a reader beside the owner sees.
#[derive(Default)]
pub(super) struct Beside {
    /// The rows after each transaction of the history: a reader shows those of one of them.
    states: BTreeSet<Rows>,
    /// The newest state that a reader was shown, by LSN.
    newest: u64,
    /// A snapshot from earlier, with what it has shown.
    pub(super) held: Option<(ReaderSnapshot, Option<Rows>)>,
}

impl Beside {
    /// A transaction has its place, and makes this of the rows.
    pub(super) fn may_show(&mut self, state: &Model) {
        if !self.states.contains(&state.rows) {
            self.states.insert(state.rows.clone());
        }
    }
}

impl World {
    pub(super) fn reader(&self) -> oncelog::Result<StoreReader> {
        StoreReader::options().disk(Arc::new(self.disk.clone())).clock(Arc::clone(&self.clock) as _).open(DIR)
    }

    /// A reader beside the owner sees what the owner's own snapshot shows.
    pub(super) fn look_from_beside(&mut self) -> Done {
        self.reconcile()?;
        let seen = self.reader().and_then(|reader| look_beside(&reader.snapshot()?));
        match seen {
            Ok(logs) if filled(&logs) == filled(&self.certain.logs) => self.rows_from_beside(),
            Ok(logs) => Err(format!("a reader beside sees {}", difference(&self.certain, logs))),
            Err(error) => self.reader_failed(&error),
        }
    }

    /// The rows that a reader sees are those after one transaction, never older than before, and after a trim those of
    /// now. What a snapshot has shown it shows again or says that the owner has gone on.
    fn rows_from_beside(&mut self) -> Done {
        if let Some((held, shown)) = self.beside.held.take() {
            match rows_beside(&held) {
                Ok(again) if shown.as_ref().is_none_or(|shown| *shown == again) => self.is_state(&again)?,
                Ok(again) => return Err(format!("a reader's snapshot has shown {shown:?}, now {again:?}")),
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return self.reader_failed(&error),
            }
        }
        let trimmed = self.dice.one_in(3);
        if trimmed && let Err(error) = self.store()?.trim() {
            return self.after_error(&error);
        }
        let looked = self.reader().and_then(|reader| reader.snapshot());
        let (snapshot, rows) = match looked.and_then(|snapshot| rows_beside(&snapshot).map(|rows| (snapshot, rows))) {
            Ok(seen) => seen,
            Err(error) => return self.reader_failed(&error),
        };
        let (tables, records) = (snapshot.tables_lsn("main"), snapshot.lsn("main"));
        let lsn = tables.map_or(0, |lsn| lsn.0);
        if tables > records || lsn < self.beside.newest {
            let before = self.beside.newest;
            return Err(format!(
                "a reader sees tables of LSN {tables:?}, records of {records:?}, tables before {before}"
            ));
        }
        self.beside.newest = lsn;
        self.is_state(&rows)?;
        if trimmed {
            self.all_durable();
            if rows != self.certain.rows {
                return Err(format!("behind a trim a reader sees {rows:?}, not {:?}", self.certain.rows));
            }
        }
        self.beside.held = Some(if self.dice.one_in(2) {
            (snapshot, Some(rows))
        } else {
            // One that nobody has looked at yet.
            match self.reader().and_then(|reader| reader.snapshot()) {
                Ok(fresh) => (fresh, None),
                Err(error) => return self.reader_failed(&error),
            }
        });
        Ok(())
    }

    fn is_state(&self, rows: &Rows) -> Done {
        let known = rows.is_empty() || self.beside.states.contains(rows);
        if known { Ok(()) } else { Err(format!("a reader sees rows that never were: {rows:?}")) }
    }

    /// A reader goes on where it was, also over crashes: each record once, and what it was shown stays.
    pub(super) fn follow(&mut self) -> Done {
        self.reconcile()?;
        // Where a reader was in a topic says nothing once that is deleted and made anew.
        for (topic, partitions) in TOPICS.into_iter().filter(|(topic, _)| *topic != FLEETING.name()) {
            match self.follow_topic(topic, partitions) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return self.reader_failed(&error),
            }
        }
        self.check_followed()
    }

    fn follow_topic(&mut self, topic: &'static str, partitions: u32) -> oncelog::Result<()> {
        let mut cursor = self.reader()?.cursor(topic, Whence::Oldest)?;
        for partition in 0..partitions {
            let next = self.followed.next.get(&(topic, partition)).copied().unwrap_or(0);
            cursor.seek(PartitionId(partition), LogOffset(next));
        }
        loop {
            match cursor.next_record(std::time::Duration::ZERO) {
                Ok(Some(record)) => {
                    let place = (topic, record.id.partition.0);
                    let content = (record.key.unwrap_or_default().to_vec(), record.value.unwrap_or_default().to_vec());
                    let offset = record.id.offset.0;
                    self.followed.next.insert(place, offset + 1);
                    let twice = self.followed.shown.entry(place).or_default().insert(offset, content);
                    assert!(twice.is_none(), "{place:?}: record {offset} came twice");
                }
                Ok(None) => return Ok(()),
                Err(error) => match cursor.gap() {
                    Some((partition, lost)) => {
                        self.followed.next.insert((topic, partition.0), lost.end.0);
                        cursor.seek(partition, lost.end);
                    }
                    None => return Err(error),
                },
            }
        }
    }

    /// What a reader was shown is there, and nothing was left out before where it stands.
    pub(super) fn check_followed(&self) -> Done {
        for (place, next) in &self.followed.next {
            let log = self.certain.logs.get(place).cloned().unwrap_or_default();
            let there: BTreeMap<_, _> = log.records.into_iter().filter(|(offset, _)| offset < next).collect();
            let mut shown = self.followed.shown.get(place).cloned().unwrap_or_default();
            if place.0 == SHRINKING.name() {
                // What was removed on purpose since is gone.
                let start = there.keys().next().unwrap_or(next);
                shown.retain(|offset, _| offset >= start);
            }
            if there != shown {
                let lost = shown.keys().find(|offset| there.get(offset) != shown.get(offset));
                let missed = there.keys().find(|offset| !shown.contains_key(offset));
                return Err(format!("{place:?}: a reader was shown {lost:?} and it is gone, and missed {missed:?}"));
            }
        }
        Ok(())
    }

    /// A reader of a store that crashed, before anybody opens it. What it shows is certain from then on, whatever
    /// happens next.
    pub(super) fn look_at_ruins(&mut self) -> Done {
        let looked = self.reader().and_then(|reader| {
            let snapshot = reader.snapshot()?;
            let keyed = self.check_keyed_ruins(&reader)?;
            Ok((look_beside(&snapshot)?, rows_beside(&snapshot)?, keyed))
        });
        let (seen, rows) = match looked {
            Ok((seen, rows, keyed)) => {
                keyed?;
                (seen, rows)
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => return Err(format!("a reader of ruins says {error}")),
            // The store was never made, or a fault hit the reader.
            Err(error) => return self.was_to_fail(&error).map(drop),
        };
        let mut expected = self.certain.clone();
        let mut used = 0;
        while filled(&expected.logs) != filled(&seen) || expected.rows != rows {
            let Some(effect) = self.pending.get(used) else {
                let pending = self.pending.len();
                let seen = Model { rows, logs: seen, ..self.certain.clone() };
                let difference = self.certain.difference(&seen);
                return Err(format!("a reader of ruins sees {difference} ({pending} pending)"));
            };
            expected.apply(effect);
            used += 1;
        }
        self.pending.drain(..used);
        self.certain = expected;
        Ok(())
    }

    pub(super) fn reader_failed(&mut self, error: &Error) -> Done {
        if self.disk.is_dead() {
            return self.crash();
        }
        if is_readers_sync(error) { Ok(()) } else { Err(format!("a reader says {error:?}")) }
    }
}

/// Whether the sync that was to fail has met a reader's own, of the journal or manifest of an owner that is gone.
pub(super) fn is_readers_sync(error: &Error) -> bool {
    let told = error.to_string();
    error.kind() == ErrorKind::Unavailable && (told.contains("sync the journal") || told.contains("sync the manifest"))
}

/// Only what has records: a hole alone, or a topic that nobody used, is told apart by the owner.
fn filled(logs: &BTreeMap<Place, Log>) -> BTreeMap<Place, BTreeMap<u64, Content>> {
    let filled = logs.iter().filter(|(_, log)| !log.records.is_empty());
    filled.map(|(place, log)| (*place, log.records.clone())).collect()
}

fn difference(certain: &Model, logs: BTreeMap<Place, Log>) -> String {
    certain.difference(&Model { logs, ..certain.clone() })
}
