//! Readers that are not the owner: beside it, and between a crash and the next opening. What they show must be what is
//! certain, with a prefix of what is pending; and as it was shown, it is certain from then on.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncelog::{Error, ErrorKind, LogOffset, PartitionId, StoreReader, Whence};

use super::ops::Done;
use super::world::{DIR, World};
use crate::model::{Content, Log, Model, Place};
use crate::observe::look_beside;
use crate::schema::{FLEETING, TOPICS};

/// Where a reader that comes and goes is in each partition, and what it was shown.
#[derive(Debug, Default)]
pub(super) struct Followed {
    next: BTreeMap<Place, u64>,
    shown: BTreeMap<Place, BTreeMap<u64, Content>>,
}

impl World {
    fn reader(&self) -> oncelog::Result<StoreReader> {
        StoreReader::options().disk(Arc::new(self.disk.clone())).clock(Arc::clone(&self.clock) as _).open(DIR)
    }

    /// A reader beside the owner sees what the owner's own snapshot shows.
    pub(super) fn look_from_beside(&mut self) -> Done {
        self.reconcile()?;
        let seen = self.reader().and_then(|reader| look_beside(&reader.snapshot()?));
        match seen {
            Ok(logs) if filled(&logs) == filled(&self.certain.logs) => Ok(()),
            Ok(logs) => Err(format!("a reader beside sees {}", difference(&self.certain, logs))),
            Err(error) => self.reader_failed(&error),
        }
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
            let shown = self.followed.shown.get(place).cloned().unwrap_or_default();
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
        let seen = match self.reader().and_then(|reader| look_beside(&reader.snapshot()?)) {
            Ok(seen) => seen,
            Err(error) if error.kind() == ErrorKind::Corrupt => return Err(format!("a reader of ruins says {error}")),
            // The store was never made, or a fault hit the reader.
            Err(_) => return Ok(()),
        };
        let mut expected = self.certain.clone();
        let mut used = 0;
        while filled(&expected.logs) != filled(&seen) {
            let Some(effect) = self.pending.get(used) else {
                let pending = self.pending.len();
                return Err(format!("a reader of ruins sees {} ({pending} pending)", difference(&self.certain, seen)));
            };
            expected.apply(effect);
            used += 1;
        }
        self.pending.drain(..used);
        self.certain = expected;
        Ok(())
    }

    fn reader_failed(&mut self, error: &Error) -> Done {
        if self.disk.is_dead() {
            return self.crash();
        }
        // The sync that was to fail has met a reader's own, of the journal of an owner that is gone.
        if error.kind() == ErrorKind::Unavailable && error.to_string().contains("sync the journal") {
            return Ok(());
        }
        Err(format!("a reader says {error:?}"))
    }
}

/// Only what has records: a hole alone, or a topic that nobody used, is told apart by the owner.
fn filled(logs: &BTreeMap<Place, Log>) -> BTreeMap<Place, BTreeMap<u64, Content>> {
    let filled = logs.iter().filter(|(_, log)| !log.records.is_empty());
    filled.map(|(place, log)| (*place, log.records.clone())).collect()
}

fn difference(certain: &Model, logs: BTreeMap<Place, Log>) -> String {
    certain.difference(&Model { logs, ..certain.clone() })
}
