//! A topic that is compacted by key. When a record is compacted away is nobody's business, so it has a book of its own
//! beside the model: what was written, and what may be missing of it. A record may be missing only if one of its key is
//! behind it, or if it is a tombstone and nothing of its key is left; offsets and contents never change.

use std::collections::BTreeMap;
use std::time::Duration;

use oncelog::{ErrorKind, LogOffset, PartitionId, RecordView, Snapshot, Step, Store, StoreReader};

use super::ops::Done;
use super::world::World;
use crate::schema::KEYED;

/// Key and value; none is a tombstone.
type Row = (Vec<u8>, Option<Vec<u8>>);

/// What is known of the compacted topic.
#[derive(Clone, Debug, Default)]
pub(super) struct Keyed {
    /// By offset; the last ones may not be there.
    written: Vec<Row>,
    /// So many are there.
    certain: usize,
}

/// Records by offset, and the end.
type Found = (BTreeMap<u64, Row>, u64);

const ZERO: PartitionId = PartitionId(0);

impl World {
    /// Appends some records of few keys, or compacts them: by hand, or as the background does it.
    pub(super) fn compact(&mut self) -> Done {
        match self.dice.below(5) {
            0 => self.compact_by_hand(),
            1 => self.compact_by_duties(),
            2 => self.compact_in_little_room(),
            _ => self.append_keyed(),
        }
    }

    /// Some files fit into what is left beside the reserve, and some do not: again and again, so that those that were
    /// passed over may be so again when tombstones behind them have come of age.
    fn compact_in_little_room(&mut self) -> Done {
        for _ in 0..6 {
            self.append_keyed()?;
        }
        let room = self.reserve() + 512 + self.dice.below(768);
        for _ in 0..3 {
            // What that takes is not to be counted.
            if let Err(error) = self.store()?.trim() {
                return self.after_error(&error);
            }
            if self.disk.is_dead() {
                return self.crash();
            }
            self.disk.leave_room(room);
            let done = if self.dice.one_in(2) { self.compact_by_hand() } else { self.compact_by_duties() };
            self.disk.capacity(None);
            done?;
            self.clock.pass(Duration::from_secs(6));
            self.note_time();
        }
        Ok(())
    }

    /// As [`World::compact`], from the first record on.
    pub(super) fn fill_and_compact(&mut self) -> Done {
        let more: [fn(&mut World) -> Done; 4] =
            [World::append_keyed, World::append_keyed, World::append_keyed, World::compact_by_hand];
        self.one_by_one(&more)
    }

    fn append_keyed(&mut self) -> Done {
        let mut rows: Vec<Row> = Vec::new();
        for _ in 0..2 + self.dice.below(4) {
            let (key, value) = (self.name().into_bytes(), self.bytes());
            // Some 300 bytes, so that a few of these fill a segment.
            let value = [&value[..value.len().min(100)], &[7; 200]].concat();
            rows.push((key, (!self.dice.one_in(4)).then_some(value)));
        }
        let ran = self.store()?.transact(|tx| {
            rows.iter().try_for_each(|(key, value)| {
                tx.append_record(KEYED, Some(ZERO), Some(key), value.as_deref(), &[], None)
            })
        });
        // Whatever the answer is to those before: this one came behind them.
        let before = self.keyed.written.len();
        self.keyed.written.extend(rows);
        match ran {
            Ok(()) => {
                self.keyed.certain = self.keyed.written.len();
                self.is_durable(crate::model::Effect::default());
                Ok(())
            }
            Err(error) => {
                self.keyed.certain = self.keyed.certain.min(before);
                self.after_error(&error)
            }
        }
    }

    pub(super) fn compact_by_hand(&mut self) -> Done {
        // A snapshot does not keep files.
        self.held = None;
        match self.store()?.compact("keyed") {
            Ok(_) if self.disk.is_dead() => self.crash(),
            Ok(_) => self.look_at_keyed(),
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Invalid) && self.keyed.certain == 0 =>
            {
                Ok(())
            }
            Err(error) => self.after_error(&error),
        }
    }

    /// An opening that was overtaken goes on compacting: its files may get their names, and are part of nothing. Gives
    /// how many bytes it says that it has exchanged.
    pub(super) fn compact_as(zombie: &Store) -> oncelog::Result<u64> {
        let before = zombie.compaction_stats("keyed")?.bytes_before;
        Ok(zombie.compact("keyed")?.bytes_before - before)
    }

    /// A round of the background takes some steps; appends come between.
    fn compact_by_duties(&mut self) -> Done {
        self.clock.pass(Duration::from_secs(6));
        self.note_time();
        for _ in 0..6 {
            if let Err(error) = self.store()?.run_duties() {
                return self.after_error(&error);
            }
            if self.disk.is_dead() {
                return self.crash();
            }
            if self.dice.one_in(6) {
                self.append_keyed()?;
            }
        }
        self.look_at_keyed()
    }

    /// The owner and a reader beside it see the same.
    pub(super) fn look_at_keyed(&mut self) -> Done {
        let here = match self.store()?.snapshot().and_then(|snapshot| read(&snapshot)) {
            Ok(here) => here,
            Err(error) => return self.unreadable(&error),
        };
        self.settle_keyed(here.clone())?;
        if !self.dice.one_in(2) {
            return Ok(());
        }
        match self.reader().and_then(|reader| read_beside(&reader)) {
            Ok(beside) if beside == here => Ok(()),
            Ok(beside) => {
                let offsets =
                    |found: &Option<Found>| found.as_ref().map(|found| found.0.keys().copied().collect::<Vec<_>>());
                Err(format!("a reader sees {:?} of the compacted topic, not {:?}", offsets(&beside), offsets(&here)))
            }
            Err(error) => self.reader_failed(&error),
        }
    }

    /// Compares the book with what is shown, which is certain from then on.
    pub(super) fn check_keyed(&mut self, snapshot: &Snapshot) -> Done {
        match read(snapshot) {
            Ok(found) => self.settle_keyed(found),
            // A look can close a file that wants a sync.
            Err(_) if self.disk.is_dead() => self.crash(),
            Err(error) if self.was_to_fail(&error)? => self.check_keyed(snapshot),
            Err(error) => Err(format!("reading the compacted topic says {error:?}")),
        }
    }

    /// As [`World::check_keyed`], by a reader while nobody has the store.
    pub(super) fn check_keyed_ruins(&mut self, reader: &StoreReader) -> oncelog::Result<Done> {
        read_beside(reader).map(|found| self.know_keyed(found))
    }

    /// What is shown is all that is there and ever will be of what was written.
    fn settle_keyed(&mut self, found: Option<Found>) -> Done {
        self.know_keyed(found)?;
        self.keyed.written.truncate(self.keyed.certain);
        Ok(())
    }

    /// What is shown is certain; the next opening may find more.
    fn know_keyed(&mut self, found: Option<Found>) -> Done {
        let (found, end) = found.unwrap_or_default();
        let Keyed { written, certain } = &mut self.keyed;
        let end = usize::try_from(end).unwrap_or(usize::MAX);
        if end < *certain || end > written.len() {
            return Err(format!("the compacted topic ends at {end}, {certain} to {} were written", written.len()));
        }
        *certain = end;
        justify(&written[..end], &found)
    }
}

/// Whether what is missing may be.
fn justify(written: &[Row], found: &BTreeMap<u64, Row>) -> Done {
    let mut last: BTreeMap<&[u8], u64> = BTreeMap::new();
    for (offset, row) in (0u64..).zip(written) {
        match found.get(&offset) {
            Some(same) if same == row => {}
            Some(_) => return Err(format!("record {offset} of the compacted topic has changed")),
            None => {}
        }
        last.insert(&row.0, offset);
    }
    if found.keys().any(|offset| *offset >= written.len() as u64) {
        return Err("the compacted topic has records that were never written".to_owned());
    }
    for (key, offset) in &last {
        let at = usize::try_from(*offset).unwrap_or(usize::MAX);
        let is_tombstone = written[at].1.is_none();
        let older = found.iter().find(|(other, row)| row.0 == *key && *other != offset).map(|(other, _)| *other);
        match (found.contains_key(offset), is_tombstone, older) {
            (true, ..) | (false, true, None) => {}
            (false, true, Some(older)) => {
                return Err(format!("tombstone {offset} is gone, and {older}, which it ended, is there"));
            }
            (false, false, _) => return Err(format!("record {offset}, the last of its key, is gone")),
        }
    }
    Ok(())
}

fn read(snapshot: &Snapshot) -> oncelog::Result<Option<Found>> {
    let end = snapshot.end_offset("keyed", ZERO);
    collect(end, |visit| snapshot.read("keyed", ZERO, LogOffset(0), visit))
}

fn read_beside(reader: &StoreReader) -> oncelog::Result<Option<Found>> {
    let snapshot = reader.snapshot()?;
    let end = snapshot.end_offset("keyed", ZERO);
    collect(end, |visit| snapshot.read("keyed", ZERO, LogOffset(0), visit))
}

type Visitor<'a> = &'a mut dyn FnMut(RecordView<'_>) -> oncelog::Result<Step>;

/// All records in one go: what compaction leaves has no gap. `None` while there is no such topic.
fn collect(
    end: oncelog::Result<LogOffset>,
    read: impl FnOnce(Visitor<'_>) -> oncelog::Result<LogOffset>,
) -> oncelog::Result<Option<Found>> {
    let end = match end {
        Ok(end) => end.0,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut found = BTreeMap::new();
    read(&mut |record| {
        let row = (record.key.unwrap_or_default().to_vec(), record.value.map(<[u8]>::to_vec));
        found.insert(record.offset.0, row);
        Ok(Step::Next)
    })?;
    Ok(Some((found, end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_missing_and_what_not() {
        let row =
            |key: &str, value: Option<&str>| (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()));
        let written =
            [row("a", Some("1")), row("b", Some("2")), row("a", Some("3")), row("b", None), row("c", Some("5"))];
        let left = |offsets: &[usize]| {
            let found = offsets.iter().map(|at| (*at as u64, written[*at].clone())).collect();
            justify(&written, &found).is_ok()
        };
        assert!(left(&[0, 1, 2, 3, 4]) && left(&[2, 3, 4]) && left(&[2, 4]) && left(&[0, 2, 3, 4]));
        assert!(!left(&[0, 3, 4]) && !left(&[2, 3]) && !left(&[1, 2, 4]));
        let mut changed: BTreeMap<u64, Row> = (0..).zip(written.clone()).collect();
        changed.insert(2, row("a", Some("4")));
        assert!(justify(&written, &changed).is_err());
    }
}
