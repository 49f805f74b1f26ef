//! Records that are gathered before they are written. When their batch becomes a frame is nobody's business: so they
//! have a topic of their own, and a book of their own beside the model. It knows which offsets were given out and
//! which of them must be there.

use std::collections::BTreeMap;
use std::time::Duration;

use oncelog::{ErrorKind, LogOffset, PartitionId, Snapshot, Step, SyncPolicy};

use super::ops::Done;
use super::world::World;
use crate::model::Content;
use crate::schema::GATHERED;

/// What is known of the gathered records.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    /// All that may be there, by the offset that was given out.
    given: BTreeMap<u64, Content>,
    /// The offset that comes next.
    next: u64,
    /// Below it all are there.
    certain: u64,
}

impl World {
    /// Some records in a row, by one producer.
    pub(super) fn gather(&mut self) -> Done {
        let linger = Duration::from_millis(200 + self.dice.below(3000));
        let policy = if self.dice.one_in(2) { SyncPolicy::Os } else { SyncPolicy::Periodic(Duration::from_secs(2)) };
        let store = self.store()?;
        let producer = match store.producer(GATHERED) {
            Ok(producer) => producer.sync_policy(policy).linger(linger),
            Err(error) => return self.in_doubt(vec![], &error),
        };
        for _ in 0..=self.dice.below(7) {
            let (key, value) = (self.name().into_bytes(), self.bytes());
            // Small enough to be gathered, so that an error means that no offset was given out.
            let value = value[..value.len().min(700)].to_vec();
            match producer.append(&key, &value) {
                Ok(LogOffset(offset)) if offset == self.book.next => {
                    self.book.given.insert(offset, (key, value));
                    self.book.next += 1;
                }
                Ok(offset) => return Err(format!("gathered at {offset}, expected {}", self.book.next)),
                Err(error) => return self.in_doubt(vec![], &error),
            }
        }
        Ok(())
    }

    /// A flush went well: whatever was given out is there.
    pub(super) fn all_written(&mut self) {
        self.book.certain = self.book.next;
    }

    /// Compares the book with what is shown. After a recovery what is not there is gone, and its offsets with it.
    pub(super) fn check_book(&mut self, snapshot: &Snapshot, recovered: bool) -> Done {
        let crashes = self.outcome.crashes;
        self.check_keyed(snapshot)?;
        if self.outcome.crashes > crashes {
            // The machine has stopped in that look: the snapshot is of a store that is gone, and all was checked anew.
            return Ok(());
        }
        let read = match read(snapshot, GATHERED.name()) {
            Ok(read) => read,
            Err(error) if self.was_to_fail(&error)? => return self.check_book(snapshot, recovered),
            Err(error) => return Err(format!("reading what was gathered says {error:?}")),
        };
        let Some((found, end)) = read else {
            return if self.book.certain == 0 { Ok(()) } else { Err("the gathered topic is gone".to_owned()) };
        };
        let all_there = found.iter().zip(&self.book.given).all(|(found, given)| found == given);
        if !all_there || found.len() > self.book.given.len() {
            return Err(format!("{} gathered records are shown that were not, or in another order", found.len()));
        }
        let behind = found.keys().next_back().map_or(0, |last| last + 1);
        let must = self.book.given.range(..self.book.certain).next_back().map_or(0, |(last, _)| last + 1);
        if behind < must {
            return Err(format!("gathered records {behind}..{must} are lost"));
        }
        if !recovered {
            self.book.certain = self.book.certain.max(behind);
            return if end <= self.book.next { Ok(()) } else { Err(format!("the end {end} was not given out")) };
        }
        if end < self.book.next {
            return Err(format!("gathered records go on at {end}, {} was given out", self.book.next));
        }
        self.book = Book { given: found, next: end, certain: end };
        Ok(())
    }
}

type Found = (BTreeMap<u64, Content>, u64);

/// The records of a topic that are shown, over holes, and the end; `None` while there is no such topic.
pub(super) fn read(snapshot: &Snapshot, name: &str) -> oncelog::Result<Option<Found>> {
    let partition = PartitionId(0);
    let mut found = BTreeMap::new();
    let end = match snapshot.end_offset(name, partition) {
        Ok(end) => end.0,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut from = LogOffset(0);
    loop {
        let read = snapshot.read(name, partition, from, |record| {
            let content = (record.key.unwrap_or_default().to_vec(), record.value.unwrap_or_default().to_vec());
            found.insert(record.offset.0, content);
            Ok(Step::Next)
        });
        match read {
            Ok(_) => return Ok(Some((found, end))),
            Err(error) => match error.gap() {
                Some(lost) => from = lost.end,
                None => return Err(error),
            },
        }
    }
}
