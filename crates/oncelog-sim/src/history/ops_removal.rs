//! Removing the oldest records of a topic by hand.

use oncelog::disk::SyncSite;
use oncelog::{ErrorKind, LogOffset, PartitionId};

use super::ops::Done;
use super::world::World;
use crate::model::{Effect, Place};
use crate::schema::SHRINKING;

const PLACE: Place = ("shrinking", 0);

impl World {
    /// Appends some records, or removes those below a place: within a segment, between two, or all.
    pub(super) fn shrink(&mut self) -> Done {
        match self.dice.below(8) {
            0..4 => self.append_shrinking(),
            4..7 => self.truncate(),
            _ => self.truncate_and_show(),
        }
    }

    /// Removes, and is killed when the new trim point is in memory only; a reader shows what it says before the power
    /// goes too.
    fn truncate_and_show(&mut self) -> Done {
        self.disk.crash_at_sync(SyncSite::ManifestFirst);
        self.shows_ruins = true;
        let done = self.truncate();
        self.shows_ruins = false;
        done
    }

    fn append_shrinking(&mut self) -> Done {
        let mut records = Vec::new();
        for _ in 0..=self.dice.below(6) {
            records.push((self.name().into_bytes(), self.bytes()));
        }
        let appends = records.iter().map(|content| (PLACE, content.clone()));
        let effect = Effect { appends: appends.collect(), ..Effect::default() };
        let first = self.head.next(PLACE);
        let store = self.store()?;
        let appended = store
            .producer(SHRINKING)
            .and_then(|producer| producer.append_batch(records.iter().map(|(key, value)| (&key[..], &value[..]))));
        match appended {
            Ok(_) => self.durable_at(effect, &[(PLACE, first)]),
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    pub(super) fn truncate(&mut self) -> Done {
        let end = self.head.next(PLACE);
        let place = if self.dice.one_in(4) { end } else { self.dice.below(end + 1) };
        self.truncate_to(place)
    }

    /// Removes the records below `place`.
    pub(super) fn truncate_to(&mut self, place: u64) -> Done {
        let effect = Effect { removed: Some((PLACE, place)), ..Effect::default() };
        let removes = self.head.logs.get(&PLACE).is_some_and(|log| log.records.range(..place).next().is_some());
        // A snapshot does not keep files.
        self.held = None;
        match self.store()?.truncate_before(PLACE.0, PartitionId(PLACE.1), LogOffset(place)) {
            // Where there is nothing to be removed nothing is made durable either.
            Ok(()) if !removes => Ok(()),
            Ok(()) => {
                self.is_durable(effect);
                // Files are removed as far as that goes: the answer is good on a machine that has stopped at one.
                if self.disk.is_dead() { self.crash() } else { Ok(()) }
            }
            Err(error) if error.kind() == ErrorKind::NotFound && self.head.next(PLACE) == 0 => Ok(()),
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }
}
