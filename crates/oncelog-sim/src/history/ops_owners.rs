//! Operations on a second owner, beside the one that the rest of the history works on.

use oncelog::{Bytes, Error, ErrorKind, PartitionId, Step, Store, TopicDef};

use super::world::{DIR, World};

type Done = Result<(), String>;

const SIDE: &str = "Side/1";
const NOTES: TopicDef<Bytes, Bytes> = TopicDef::new("notes").file_roll_size(1024);

/// What is known of the second owner.
#[derive(Default)]
pub(super) struct Side {
    /// Answered as durable, in order.
    notes: Vec<Vec<u8>>,
    /// Appended without an answer, behind the others.
    pending: Option<Vec<u8>>,
    /// It has been open once.
    made: bool,
    /// Its making was tried. That a name made by a killed attempt then fails to sync in the next would be two faults.
    tried: bool,
}

impl World {
    /// Attaches as the other owner, looks, appends a few records, and closes it or leaves that to the drop.
    pub(super) fn side(&mut self) -> Done {
        if self.side.tried && !self.side.made {
            self.disk.clear_faults();
            if self.dice.one_in(2) {
                let after = 1 + self.dice.below(40);
                self.disk.crash_after(after);
            }
        }
        self.side.tried = true;
        let options = self.options();
        let store = match options.attach(DIR, SIDE) {
            Ok(store) => store,
            Err(error) => return self.after_side_error(&error),
        };
        self.side.made = true;
        match read(&store) {
            Ok(seen) => self.check_side(seen)?,
            Err(error) => {
                drop(store);
                return self.after_side_error(&error);
            }
        }
        for _ in 0..self.dice.below(4) {
            let note = self.bytes();
            let expected = self.side.notes.len() as u64;
            match store.producer(NOTES).and_then(|producer| producer.append(b"", &note)) {
                Ok(offset) if offset.0 == expected => self.side.notes.push(note),
                Ok(offset) => return Err(format!("notes: offset {offset}, expected {expected}")),
                Err(error) => {
                    self.side.pending = Some(note);
                    drop(store);
                    return self.after_side_error(&error);
                }
            }
        }
        match store.close() {
            Ok(()) => Ok(()),
            Err(error) => self.after_side_error(&error),
        }
    }

    fn check_side(&mut self, seen: Vec<Vec<u8>>) -> Done {
        let behind = seen.get(self.side.notes.len()..).ok_or("answered notes are gone")?;
        let may_be = self.side.pending.take();
        let is_allowed = behind.is_empty() || behind == may_be.as_slice();
        if seen[..self.side.notes.len()] != self.side.notes || !is_allowed {
            return Err(format!("notes: {} answered, {} seen, or others", self.side.notes.len(), seen.len()));
        }
        self.side.notes = seen;
        Ok(())
    }

    /// The second owner has ended by an error; the next attempt finds out. A machine that stopped has taken both.
    fn after_side_error(&mut self, error: &Error) -> Done {
        if self.disk.is_dead() {
            return self.crash();
        }
        self.disk.clear_faults();
        match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Locked => Err(format!("the second owner says {error}")),
            _ => Ok(()),
        }
    }
}

fn read(store: &Store) -> oncelog::Result<Vec<Vec<u8>>> {
    let mut seen = Vec::new();
    let read = store.snapshot()?.read("notes", PartitionId(0), oncelog::LogOffset(0), |record| {
        seen.push(record.value.unwrap_or_default().to_vec());
        Ok(Step::Next)
    });
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map(|_| seen),
    }
}
