//! A processor over two inputs with one table, whose functions panic, fail, ask for retries and give records up: each
//! record has its effects once, or its dead letter once, together with its progress.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oncelog::{AsEngine, Error, FailurePolicy, LogOffset, Outcome, Processor, RecordRef, Result, RetryPolicy, Tx};

use super::Done;
use crate::history::ops_styles::is_next;
use crate::history::world::World;
use crate::model::{Effect, Model, Place, partition_of};
use crate::schema::{DEAD, JOINED, JOINER, SIDE, SPREAD};

/// How often a record is tried.
const ATTEMPTS: u32 = 2;

/// What a function is to do with a record, by what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Adds so much to the row of its key.
    Add(u64),
    Skip,
    Panic,
    Fail,
    GiveUp,
    /// Asks for a retry, and at the second attempt adds so much.
    AddAtLast(u64),
    AskForEver,
}

impl Fate {
    fn of(number: u64, amount: u64) -> Fate {
        match number % 16 {
            1 => Fate::Panic,
            2 => Fate::Fail,
            3 => Fate::GiveUp,
            4 => Fate::Skip,
            5 => Fate::AddAtLast(amount),
            6 => Fate::AskForEver,
            _ => Fate::Add(amount),
        }
    }

    /// Does it, after effects that must not stay unless it commits.
    fn act(self, key: &str, attempt: u32, tx: &mut Tx<'_>) -> Result<Outcome> {
        let amount = match self {
            Fate::Add(amount) | Fate::AddAtLast(amount) => amount,
            _ => 1 << 40,
        };
        tx.table(JOINED)?.update(key, |old| old.unwrap_or(0) + amount)?;
        match self {
            Fate::Add(_) => Ok(Outcome::Commit),
            Fate::AddAtLast(_) if attempt == ATTEMPTS => Ok(Outcome::Commit),
            Fate::AddAtLast(_) | Fate::AskForEver => Ok(Outcome::Retry),
            Fate::Skip => Ok(Outcome::Skip),
            Fate::GiveUp => Ok(Outcome::DeadLetter),
            Fate::Fail => Err(Error::user("as it was to be")),
            // Without the hook that prints it.
            Fate::Panic => std::panic::resume_unwind(Box::new("as it was to be")),
        }
    }

    /// Whether no other attempt follows.
    fn is_final(self, attempt: u32) -> bool {
        match self {
            Fate::AddAtLast(_) | Fate::AskForEver | Fate::Fail => attempt == ATTEMPTS,
            _ => true,
        }
    }

    fn effect(self, state: &Model, record: &Seen) -> Effect {
        let progress = vec![((JOINER, record.place), record.offset + 1)];
        let mut effect = Effect { progress, ..Effect::default() };
        match self {
            Fate::Add(amount) | Fate::AddAtLast(amount) => {
                let sum = state.row("joined", &record.key).unwrap_or(0) + amount;
                effect.rows.push((("joined", record.key.clone()), Some(sum)));
            }
            Fate::Panic | Fate::Fail | Fate::GiveUp | Fate::AskForEver => {
                effect.appends.push((("dead", 0), (record.key.clone().into_bytes(), record.value.clone())));
            }
            Fate::Skip => {}
        }
        effect
    }
}

/// A record as a function got it.
struct Seen {
    place: Place,
    offset: u64,
    key: String,
    value: Vec<u8>,
}

/// What the functions have done so far, in order.
struct Diary {
    state: Model,
    effects: Vec<Effect>,
    /// Of each partition the record of the last call, and how often it was handed out.
    last: BTreeMap<Place, (u64, u32)>,
    /// The first record that was not the next one.
    wrong: Option<String>,
}

impl Diary {
    /// Writes down a call; gives which attempt it is.
    fn called(&mut self, fate: Fate, record: &Seen) -> u32 {
        let last = self.last.entry(record.place).or_insert((record.offset, 0));
        let attempt = if last.0 == record.offset { last.1 + 1 } else { 1 };
        *last = (record.offset, attempt);
        let handed = (LogOffset(record.offset), record.key.as_bytes(), &record.value[..]);
        let checked = is_next(&self.state, record.place, self.state.stands(JOINER, record.place), handed);
        self.wrong = self.wrong.take().or(checked.err());
        if fate.is_final(attempt) {
            let effect = fate.effect(&self.state, record);
            self.state.apply(&effect);
            self.effects.push(effect);
        }
        attempt
    }
}

impl World {
    pub(super) fn append_side(&mut self) -> Done {
        let mut records = Vec::new();
        for _ in 0..=self.dice.below(6) {
            records.push((self.name(), self.dice.below(1 << 20)));
        }
        self.append_to_side(&records)
    }

    /// A record for each fate, all with one key, and the processor over them.
    pub(in crate::history) fn join_every_fate(&mut self) -> Done {
        let crashes = self.outcome.crashes;
        self.append_to_side(&(0..8).map(|number| ("fate".to_owned(), number)).collect::<Vec<_>>())?;
        if self.outcome.crashes == crashes { self.join() } else { Ok(()) }
    }

    fn append_to_side(&mut self, records: &[(String, u64)]) -> Done {
        let store = self.store()?;
        let appends = records.iter().map(|(key, value)| {
            let place = ("side", partition_of(key.as_bytes(), 3));
            (place, (key.clone().into_bytes(), value.to_be_bytes().to_vec()))
        });
        let effect = Effect { appends: appends.collect(), ..Effect::default() };
        let appended = store
            .producer(SIDE)
            .and_then(|producer| producer.append_batch(records.iter().map(|(key, value)| (key.as_str(), value))));
        match appended {
            Ok(committed) => {
                let firsts = self.firsts("side", &committed);
                self.durable_at(effect, &firsts)
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// The processor over both inputs. Its diary has one effect for each record; groups are whole, so a prefix of
    /// groups is a prefix of records.
    pub(super) fn join(&mut self) -> Done {
        let store = self.store()?;
        let (group, in_flight) = (1 + self.dice.below(4), self.dice.up_to(3));
        let state = self.head.clone();
        let diary = Diary { state, effects: Vec::new(), last: BTreeMap::new(), wrong: None };
        let diary = Arc::new(Mutex::new(diary));
        let lock = |diary: &Mutex<Diary>, fate, seen: &Seen| {
            diary.lock().unwrap_or_else(PoisonError::into_inner).called(fate, seen)
        };
        let (ours, theirs) = (Arc::clone(&diary), Arc::clone(&diary));
        let side = move |record: RecordRef<'_, oncelog::Utf8, oncelog::U64>, tx: &mut Tx<'_>| {
            let fate = Fate::of(record.value()?, record.value()? % 1000);
            let attempt = lock(&theirs, fate, &seen("side", &record));
            fate.act(record.key()?, attempt, tx)
        };
        let built = Processor::new(JOINER, SPREAD)
            .input(SIDE, side)
            .table(JOINED)
            .dead_letter(DEAD)
            .on_panic(FailurePolicy::DeadLetter)
            .on_error(FailurePolicy::Retry)
            .retry(
                RetryPolicy::new().backoff(Duration::from_millis(1), Duration::from_millis(1)).attempts_max(ATTEMPTS),
            )
            .commit_records(group)
            .commits_in_flight(in_flight)
            .build(store.as_engine(), move |record, tx| {
                let value = record.value()?;
                let fate = Fate::of(value.first().copied().unwrap_or(0).into(), value.len() as u64);
                let attempt = lock(&ours, fate, &seen("Spread/3", &record));
                fate.act(record.key()?, attempt, tx)
            });
        let ran = built.and_then(|mut task| task.step(None));
        let (effects, wrong) = {
            let mut diary = diary.lock().unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut diary.effects), diary.wrong.take())
        };
        wrong.map_or(Ok(()), Err)?;
        match ran {
            Ok(count) if count != effects.len() as u64 => {
                Err(format!("{count} records reported, {} done with", effects.len()))
            }
            Ok(_) => {
                effects.into_iter().for_each(|effect| self.is_durable(effect));
                Ok(())
            }
            Err(error) => self.in_doubt(effects, &error),
        }
    }
}

fn seen<K: oncelog::Codec, V: oncelog::Codec>(topic: &'static str, record: &RecordRef<'_, K, V>) -> Seen {
    Seen {
        place: (topic, record.partition().0),
        offset: record.offset().0,
        key: String::from_utf8_lossy(record.key_bytes().unwrap_or_default()).into_owned(),
        value: record.value_bytes().unwrap_or_default().to_vec(),
    }
}
