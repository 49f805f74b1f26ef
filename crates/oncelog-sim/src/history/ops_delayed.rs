//! Records that wait for their time. When one is appended is for the clock and the background to say, so they have a
//! topic of their own, and a book of their own beside the model: each that was delayed and not cancelled waits or is
//! there, once, and never both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oncelog::clock::Clock as _;
use oncelog::{PartitionId, Snapshot, TimerId};

use super::ops::Done;
use super::ops_linger::read;
use super::world::World;
use crate::schema::DELAYED;

/// What is known of something that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    No,
    /// It was not answered.
    Maybe,
    Yes,
}

/// One delayed record, which has a time of its own.
#[derive(Clone, Debug)]
struct Delayed {
    /// As it was told; `None`: it was not.
    timer: Option<TimerId>,
    waits: Known,
    cancelled: Known,
}

/// What is known of the delayed records.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    /// Those that are not seen in the topic yet, by their time.
    delayed: BTreeMap<i64, Delayed>,
    /// The times of those that are, in order.
    appended: Vec<i64>,
    /// The latest that the clock has shown.
    latest: i64,
}

impl World {
    /// Delays a record, takes one back, or lets time pass and appends what is due.
    pub(super) fn delay_some(&mut self) -> Done {
        match self.dice.below(6) {
            0..=2 => {
                let ahead = self.dice.below(6000);
                self.delay(i64::try_from(ahead).unwrap_or(0) - 500)
            }
            3 => self.cancel_one(),
            _ => {
                self.clock.pass(Duration::from_millis(self.dice.below(2500)));
                self.deliver()
            }
        }
    }

    /// One that is due at once, one that is not and may be taken back, and what is due is appended.
    pub(super) fn delay_and_deliver(&mut self) -> Done {
        let crashes = self.outcome.crashes;
        let steps: [fn(&mut World) -> Done; 4] =
            [|world| world.delay(-500), |world| world.delay(1 << 40), World::cancel_one, World::deliver];
        for step in steps {
            step(self)?;
            if self.outcome.crashes > crashes {
                break;
            }
        }
        Ok(())
    }

    /// The clock may have been set ahead: what it has shown once may have brought what was due then.
    pub(super) fn note_time(&mut self) {
        self.timers.latest = self.timers.latest.max(self.clock.now_ms());
    }

    fn delay(&mut self, ahead_ms: i64) -> Done {
        self.note_time();
        let mut due = self.clock.now_ms().saturating_add(ahead_ms);
        // A time of its own, by which it is known where its id was never told.
        while self.timers.delayed.contains_key(&due) || self.timers.appended.contains(&due) {
            due += 1;
        }
        let producer = match self.store()?.producer(DELAYED) {
            Ok(producer) => producer,
            Err(error) => return self.in_doubt(vec![], &error),
        };
        match producer.append_at(due, "timer", &due.cast_unsigned()) {
            Ok(timer) if timer.due_ms == due => {
                let waits = Delayed { timer: Some(timer), waits: Known::Yes, cancelled: Known::No };
                self.timers.delayed.insert(due, waits);
                self.all_durable();
                Ok(())
            }
            Ok(timer) => Err(format!("a record that is due at {due} was given the timer {timer}")),
            Err(error) => {
                let waits = Delayed { timer: None, waits: Known::Maybe, cancelled: Known::No };
                self.timers.delayed.insert(due, waits);
                self.in_doubt(vec![], &error)
            }
        }
    }

    /// Takes one back that may still wait.
    fn cancel_one(&mut self) -> Done {
        let told: Vec<_> = self.timers.delayed.iter().filter_map(|(due, it)| Some((*due, it.timer?))).collect();
        if told.is_empty() {
            return Ok(());
        }
        let (due, timer) = told[self.dice.up_to(told.len() - 1)];
        let cancelled = self.store()?.producer(DELAYED).and_then(|producer| producer.cancel(timer));
        let Some(it) = self.timers.delayed.get_mut(&due) else { return Ok(()) };
        match cancelled {
            Ok(true) if it.cancelled == Known::Yes => Err(format!("{timer} was cancelled twice")),
            Ok(true) => {
                it.cancelled = Known::Yes;
                self.all_durable();
                Ok(())
            }
            Ok(false) if it.waits == Known::Yes && it.cancelled == Known::No && due > self.timers.latest => {
                Err(format!("{timer} was not there to be cancelled, and its time had not come"))
            }
            Ok(false) => Ok(()),
            Err(error) => {
                if it.cancelled == Known::No {
                    it.cancelled = Known::Maybe;
                }
                self.in_doubt(vec![], &error)
            }
        }
    }

    fn deliver(&mut self) -> Done {
        self.note_time();
        let (store, now) = (self.store()?, self.clock.now_ms());
        if let Err(error) = store.deliver_due() {
            return self.in_doubt(vec![], &error);
        }
        let snapshot = match store.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => return self.unreadable(&error),
        };
        let crashes = self.outcome.crashes;
        self.check_timers(&snapshot, false)?;
        // A topic that could not take its records is tried again later, and it has no limit.
        if self.outcome.crashes > crashes || self.fail_at.is_some() || self.disk.is_dead() {
            return Ok(());
        }
        let is_late =
            |(due, it): &(&i64, &Delayed)| **due <= now && it.waits == Known::Yes && it.cancelled == Known::No;
        match self.timers.delayed.iter().find(is_late) {
            Some((due, _)) => Err(format!("what is due at {due} was not appended at {now}")),
            None => Ok(()),
        }
    }

    /// Compares the book with what is shown; behind a recovery, what is neither there nor waits is gone for good.
    pub(super) fn check_timers(&mut self, snapshot: &Snapshot, recovered: bool) -> Done {
        self.note_time();
        let store = self.store()?;
        let seen = read(snapshot, DELAYED.name()).and_then(|read| {
            let Some((found, _)) = read else { return Ok((BTreeMap::new(), Vec::new())) };
            Ok((found, store.timers(DELAYED.name())?))
        });
        let (found, waiting) = match seen {
            Ok(seen) => seen,
            Err(error) if self.was_to_fail(&error)? => return self.check_timers(snapshot, recovered),
            Err(error) if !recovered => return self.unreadable(&error),
            Err(error) => return Err(format!("reading timers says {error:?}")),
        };
        let value = |value: &[u8]| value.try_into().map(u64::from_be_bytes).map(u64::cast_signed).ok();
        let appended: Vec<i64> = found.values().filter_map(|(_, bytes)| value(bytes)).collect();
        if !appended.starts_with(&self.timers.appended) || !found.keys().copied().eq(0..appended.len() as u64) {
            return Err(format!("delayed records {:?} became {appended:?}", self.timers.appended));
        }
        let waiting: BTreeSet<i64> = waiting.into_iter().map(|timer| timer.due_ms).collect();
        for due in &appended[self.timers.appended.len()..] {
            match self.timers.delayed.remove(due) {
                None => return Err(format!("what is due at {due} is there twice, or was never delayed")),
                Some(it) if it.cancelled == Known::Yes => return Err(format!("{due} was cancelled, and is there")),
                Some(_) if *due > self.timers.latest => return Err(format!("{due} came before its time")),
                Some(_) => {}
            }
        }
        if let Some(due) = waiting.iter().find(|due| !self.timers.delayed.contains_key(due)) {
            return Err(format!("what is due at {due} waits, and is there or was never delayed"));
        }
        let mut wrong = None;
        self.timers.delayed.retain(|due, it| match (waiting.contains(due), it.waits, it.cancelled) {
            (true, _, Known::Yes) => {
                wrong = Some(format!("{due} was cancelled, and waits"));
                true
            }
            (true, _, cancelled) => {
                it.waits = Known::Yes;
                it.cancelled = if recovered { Known::No } else { cancelled };
                true
            }
            (false, Known::Yes, Known::No) => {
                wrong = Some(format!("what is due at {due} is lost"));
                true
            }
            (false, ..) => !recovered,
        });
        self.timers.appended = appended;
        wrong.map_or(Ok(()), Err)
    }

    /// What a store that was taken over may try.
    pub(super) fn delay_as(store: &oncelog::Store) -> oncelog::Result<()> {
        store.producer(DELAYED)?.append_record_at(0, Some(PartitionId(0)), None, None, &[]).map(drop)
    }
}
