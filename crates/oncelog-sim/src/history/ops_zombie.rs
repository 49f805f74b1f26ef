//! A store whose lock is taken away while it lives: another opening takes the owner over, and the first goes on as if
//! nothing had happened. It must be told with its next commit, and leave everything of its successor as it is.

use oncelog::{
    Compression, ConsumerStyle, Error, ErrorKind, LogOffset, Offset, OffsetError, OffsetStore, PartitionId, Store,
    TopicChange, Whence,
};

use super::world::World;
use crate::observe::observe;
use crate::schema::{CONSUMER, FEEDS, PLAIN, ROUND, ROWS};

type Done = Result<(), String>;

impl World {
    /// Takes the lock away, opens again, and lets the first one do what it likes.
    pub(super) fn zombie(&mut self) -> Done {
        self.held = None;
        let zombie = self.store()?;
        if self.dice.one_in(2) {
            // It may have handed over what nobody has written yet.
            self.submit_some()?;
            if self.disk.is_dead() || self.is_other(&zombie) {
                return Ok(());
            }
        }
        self.disk.break_locks();
        self.store = None;
        self.open()?;
        let haunted = self.haunt(&zombie);
        // The last handle: it closes, or tries to.
        drop(zombie);
        haunted?;
        if self.disk.is_dead() {
            return self.crash();
        }
        let seen = match observe(&self.store()?) {
            Ok(seen) => seen,
            Err(error) => return self.unreadable(&error),
        };
        if seen != self.certain {
            return Err(format!("after a zombie: {}", self.certain.difference(&seen)));
        }
        // Files that it has named lie beside those that count.
        self.look_at_keyed()?;
        if self.disk.is_dead() || self.store.is_none() {
            return Ok(());
        }
        if self.dice.one_in(2) { self.append() } else { self.crash() }
    }

    fn haunt(&mut self, zombie: &Store) -> Done {
        for _ in 0..=self.dice.below(4) {
            let (note, which) = (self.bytes(), self.dice.below(15));
            let done = match which {
                0 => zombie.producer(PLAIN).and_then(|plain| plain.append(b"zombie", &note)).map(drop),
                1 => zombie.transact(|tx| tx.table(ROWS)?.put("zombie", &1)),
                2 => zombie.trim(),
                3 => zombie.flush(),
                4 => zombie.begin().and_then(|mut tx| {
                    tx.append(PLAIN, b"zombie", &note)?;
                    tx.submit().map(drop)
                }),
                5 => zombie.run_duties(),
                6 => zombie.consumer(PLAIN, ConsumerStyle::NonTx(Whence::Oldest)).and_then(|mut reader| {
                    while let Some(batch) = reader.next_batch()? {
                        batch.into_iter().try_for_each(|record| record.map(drop))?;
                    }
                    Ok(())
                }),
                7 => zombie.alter_topic(PLAIN.name(), &TopicChange::default().compression(Compression::Lz4)),
                8 => zombie.reset_consumer(CONSUMER, PLAIN.name(), &[(PartitionId(0), LogOffset(0))]),
                9 => zombie.forget_consumer([CONSUMER, ROUND][self.dice.up_to(1)]),
                11 => World::delay_as(zombie),
                10 => zombie.create_consumers(["zombie"]),
                12 | 13 => match World::compact_as(zombie) {
                    Ok(0) => Ok(()),
                    Ok(bytes) => return Err(format!("a zombie has compacted {bytes} bytes")),
                    Err(error) => Err(error),
                },
                _ => match zombie.offset_store(FEEDS).reset("feed-0", &Offset::Sequence(77)) {
                    Err(OffsetError::Store(error)) => Err(error),
                    other => return Err(format!("a zombie's offsets were answered {other:?}")),
                },
            };
            match done {
                // A flush promises nothing new of what was answered before; handing over, duties, a look at what was
                // there and a compaction of nothing promise nothing.
                Ok(()) if matches!(which, 3..=6 | 12 | 13) => {}
                Ok(()) => return Err(format!("a zombie was answered, in its try {which}")),
                Err(error) if self.is_told(&error) => {}
                // It never had the topic.
                Err(error)
                    if error.kind() == ErrorKind::NotFound
                        && matches!(which, 7 | 8)
                        && self.head.next(("plain", 0)) == 0 => {}
                Err(error) if error.kind() == ErrorKind::NotFound && matches!(which, 12 | 13) => {}
                Err(error) => return Err(format!("a zombie was told {error:?}")),
            }
        }
        Ok(())
    }

    fn is_told(&self, error: &Error) -> bool {
        self.disk.is_dead()
            || matches!(
                error.kind(),
                ErrorKind::Fenced | ErrorKind::Closed | ErrorKind::InDoubt | ErrorKind::Unavailable
            )
    }

    fn is_other(&self, store: &Store) -> bool {
        self.store.as_ref().is_none_or(|now| format!("{now:?}") != format!("{store:?}"))
    }
}
