//! Operations on a second owner, beside the one that the rest of the history works on.

use oncelog::{
    Bytes, ConsumerOptions, ConsumerStyle, Error, ErrorKind, LogOffset, Outcome, PartitionId, Step, Store, TopicDef,
    Whence,
};

use super::ops_changes::Holder;
use super::ops_styles::{handed, is_next};
use super::world::{DIR, World};
use crate::model::Content;
use crate::schema::PLAIN;

type Done = Result<(), String>;

const SIDE: &str = "Side/1";
const NOTES: TopicDef<Bytes, Bytes> = TopicDef::new("notes").file_roll_size(1024);
/// What it has consumed of the other owner's `PLAIN`, record by record.
const TAKEN: TopicDef<Bytes, Bytes> = TopicDef::new("taken").file_roll_size(1024);
const TAKER: &str = "taker";

/// What is known of the second owner.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    /// Answered as durable, in order.
    notes: Vec<Vec<u8>>,
    /// Appended without an answer, behind the others.
    pending: Option<Vec<u8>>,
    /// So many records of `PLAIN` it has taken, and so many it may have.
    taken: u64,
    taken_max: u64,
    /// It has been open once.
    made: bool,
    /// Its making was tried. That a name made by a killed attempt then fails to sync in the next would be two faults.
    pub(super) tried: bool,
}

impl World {
    /// Attaches as the other owner, looks, appends a few records, and closes it or leaves that to the drop.
    pub(super) fn side(&mut self) -> Done {
        if self.side.tried && !self.side.made {
            self.disk.clear_faults();
            self.arm();
        }
        if !self.quiet && !self.side.made && self.dice.one_in(2) {
            let after = 1 + self.dice.below(20);
            self.disk.crash_after(after);
        }
        self.side.tried = true;
        let options = self.options();
        let store = match options.attach(DIR, SIDE) {
            Ok(store) => store,
            Err(error) => return self.after_side_error(&error),
        };
        self.side.made = true;
        match read(&store, NOTES).and_then(|notes| Ok((notes, read(&store, TAKEN)?))) {
            Ok((notes, taken)) => {
                self.check_side(notes.into_iter().map(|(_, note)| note).collect())?;
                self.check_taken(&taken)?;
            }
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
        if let Err(error) = self.take_from_main(&store)? {
            drop(store);
            return self.after_side_error(&error);
        }
        let takes = !self.holders.may_be(Holder::Side) || self.dice.one_in(2);
        if let Err(error) = self.pass_round(&store, Holder::Side, takes)? {
            drop(store);
            return self.after_side_error(&error);
        }
        match store.close() {
            Ok(()) => Ok(()),
            Err(error) => self.after_side_error(&error),
        }
    }

    /// Consumes some records of the other owner: each has its copy and its progress in one commit here.
    fn take_from_main(&mut self, store: &Store) -> Result<oncelog::Result<()>, String> {
        let place = ("plain", 0);
        let openings = self.outcome.crashes;
        self.reconcile()?;
        if self.outcome.crashes > openings || self.certain.next(place) == 0 {
            return Ok(Ok(()));
        }
        let most = 1 + self.dice.below(6);
        let how = ConsumerOptions::new(ConsumerStyle::ClientTx(TAKER.to_owned()))
            .start(Whence::Oldest)
            .commit_records(1 + self.dice.below(3));
        let (mut next, mut wrong) = (self.side.taken, Ok(()));
        let ran = store.consumer(PLAIN, how).and_then(|mut consumer| {
            consumer.try_process(Some(most), |record, tx| {
                if let Err(what) = is_next(&self.certain, place, next, handed(&record)) {
                    wrong = Err(what);
                }
                next = record.offset().0 + 1;
                tx.append(TAKEN, record.key()?, record.value()?)?;
                Ok(Outcome::Commit)
            })
        });
        self.side.taken_max = next;
        wrong?;
        if ran.is_ok() {
            self.side.taken = next;
        }
        Ok(ran.map(drop))
    }

    /// What was taken is the other owner's log from the first record on, each record once, up to where progress is.
    fn check_taken(&mut self, taken: &[Content]) -> Done {
        let count = taken.len() as u64;
        if count < self.side.taken || count > self.side.taken_max {
            return Err(format!("{count} records taken, {} to {} expected", self.side.taken, self.side.taken_max));
        }
        let there = self.head.logs.get(&("plain", 0)).cloned().unwrap_or_default();
        if !there.records.values().take(taken.len()).eq(taken) {
            return Err(format!("the {count} records taken are not the first of those that there are"));
        }
        (self.side.taken, self.side.taken_max) = (count, count);
        Ok(())
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
        self.was_to_fail(error)?;
        self.disk.clear_faults();
        self.arm();
        if let ErrorKind::Corrupt | ErrorKind::Locked = error.kind() {
            return Err(format!("the second owner says {error}"));
        }
        // Nothing is wrong with the disk any more: so it comes back.
        let options = self.options();
        match options.attach(DIR, SIDE) {
            Ok(_) => {
                self.side.made = true;
                Ok(())
            }
            Err(_) if self.disk.is_dead() => self.crash(),
            Err(again) => Err(format!("the second owner does not come back: {error:?}, then {again:?}")),
        }
    }
}

fn read(store: &Store, topic: TopicDef<Bytes, Bytes>) -> oncelog::Result<Vec<Content>> {
    let mut seen = Vec::new();
    let read = store.snapshot()?.read(topic.name(), PartitionId(0), LogOffset(0), |record| {
        seen.push((record.key.unwrap_or_default().to_vec(), record.value.unwrap_or_default().to_vec()));
        Ok(Step::Next)
    });
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map(|_| seen),
    }
}
