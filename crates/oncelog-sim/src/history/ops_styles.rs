//! Operations on consumers: the global one over records that may be lost, one that begins at the end, one that forgets.

use oncelog::{
    Codec, Consumer, ConsumerOptions, ConsumerStyle, GapPolicy, LogOffset, Outcome, PartitionId, RecordRef, Visibility,
    Whence,
};

use super::ops::Done;
use super::world::World;
use crate::model::{Effect, Model, Place};
use crate::schema::{GLOBAL, LATE, LAX, PLAIN, ROWS};

/// What the model has as the next record of a partition for somebody who stands at `from`.
pub(super) fn is_next(model: &Model, place: Place, from: u64, found: (LogOffset, &[u8], &[u8])) -> Result<(), String> {
    let expected = model.logs.get(&place).and_then(|log| log.records.range(from..).next());
    let (offset, key, value) = found;
    match expected {
        Some((at, (k, v))) if (*at, &k[..], &v[..]) == (offset.0, key, value) => Ok(()),
        Some((at, _)) => Err(format!("{place:?} from {from}: given {offset}, and {at} is the next")),
        None => Err(format!("{place:?} from {from}: given {offset}, and there is none")),
    }
}

/// What the global consumer commits when there is nothing more for it: that it is past records that are lost, where
/// none has come behind them.
fn passes(state: &Model) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (place, log) in state.logs.iter().filter(|(place, _)| place.0 == "lax") {
        let from = state.progress.get(&(GLOBAL, *place)).copied().unwrap_or(0);
        let next = log.records.range(from..).next().map_or(log.next, |(offset, _)| *offset);
        if next > from {
            effects.push(Effect { progress: vec![((GLOBAL, *place), next)], ..Effect::default() });
        }
    }
    effects
}

/// A record as [`is_next`] takes it.
pub(super) fn handed<'r, K: Codec, V: Codec>(record: &RecordRef<'r, K, V>) -> (LogOffset, &'r [u8], &'r [u8]) {
    (record.offset(), record.key_bytes().unwrap_or_default(), record.value_bytes().unwrap_or_default())
}

impl World {
    /// The global consumer takes records that may not be durable yet: each once, and none whose loss outlives it.
    pub(super) fn tail(&mut self) -> Done {
        let store = self.store()?;
        let visibility = if self.dice.one_in(3) { Visibility::Durable } else { Visibility::Written };
        let most = 1 + self.dice.below(4);
        let how = ConsumerOptions::new(ConsumerStyle::GlobalTx)
            .start(Whence::Position(LogOffset(0)))
            .visibility(visibility)
            .commit_records(1 + self.dice.below(2))
            .on_gap(GapPolicy::Skip);
        let group = how.clone();
        let (mut effects, mut state, mut wrong) = (Vec::new(), self.head.clone(), Ok(()));
        let opened = store.consumer(LAX, group);
        let ran = opened.and_then(|mut consumer| {
            if store.consumer(LAX, how).is_ok() {
                wrong = Err("two global consumers of one topic".to_owned());
            }
            consumer.try_process(Some(most), |record, tx| {
                let place = ("lax", record.partition().0);
                if let Err(what) = is_next(&state, place, state.stands(GLOBAL, place), handed(&record)) {
                    wrong = Err(what);
                }
                let seen = state.row("rows", "global").unwrap_or(0) + 1;
                let effect = Effect {
                    rows: vec![(("rows", "global".to_owned()), Some(seen))],
                    progress: vec![((GLOBAL, place), record.offset().0 + 1)],
                    ..Effect::default()
                };
                state.apply(&effect);
                effects.push(effect);
                tx.table(ROWS)?.update("global", |seen| seen.unwrap_or(0) + 1)?;
                Ok(Outcome::Commit)
            })
        });
        wrong?;
        let handed = effects.len() as u64;
        if handed < most {
            effects.append(&mut passes(&state));
        }
        match ran {
            Ok(done) if done != handed => Err(format!("{done} records reported, {handed} handed out")),
            Ok(_) => {
                effects.into_iter().for_each(|effect| self.is_durable(effect));
                Ok(())
            }
            Err(error) => self.in_doubt(effects, &error),
        }
    }

    /// A consumer that begins at the end, as an iterator: where that is, is committed when it is opened first.
    pub(super) fn late(&mut self) -> Done {
        let store = self.store()?;
        let place = ("plain", 0);
        let end = match store.offsets("plain", PartitionId(0)) {
            // At 0 the model could not tell whether it was opened before.
            Ok((_, LogOffset(end))) if end > 0 => end,
            _ => return Ok(()),
        };
        let known = self.head.progress.get(&(LATE, place)).copied();
        let start = known.unwrap_or(end);
        let passed = |next| Effect { progress: vec![((LATE, place), next)], ..Effect::default() };
        let how = ConsumerOptions::new(ConsumerStyle::ClientTx(LATE.to_owned())).start(Whence::Latest);
        let mut consumer = match store.consumer(PLAIN, how) {
            Ok(consumer) => consumer,
            Err(error) => return self.in_doubt(known.is_none().then(|| passed(start)).into_iter().collect(), &error),
        };
        if known.is_none() {
            self.is_durable(passed(start));
        }
        let taken = self.take_some(&mut consumer, start, passed);
        drop(consumer);
        match taken? {
            Ok(()) => Ok(()),
            Err((effect, error)) => self.in_doubt(effect.into_iter().collect(), &error),
        }
    }

    /// Asks an iterator a few times: each question commits what was given before.
    #[allow(clippy::type_complexity, reason = "what is wrong, else what is in doubt")]
    fn take_some(
        &mut self,
        consumer: &mut Consumer<oncelog::Bytes, oncelog::Bytes>,
        start: u64,
        passed: impl Fn(u64) -> Effect,
    ) -> Result<Result<(), (Option<Effect>, oncelog::Error)>, String> {
        let (mut from, mut at_hand) = (start, None);
        for _ in 0..1 + self.dice.below(4) {
            let given = consumer.next();
            let before: Option<Effect> = at_hand.take();
            let record = match given {
                Some(Err(error)) => return Ok(Err((before, error))),
                Some(Ok(record)) => Some(record),
                None => None,
            };
            before.into_iter().for_each(|effect| self.is_durable(effect));
            let Some(record) = record else { return Ok(Ok(())) };
            let (key, value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
            is_next(&self.head, ("plain", 0), from, (record.id.offset, &key, &value))?;
            from = record.id.offset.0 + 1;
            at_hand = Some(passed(from));
        }
        if self.dice.one_in(2) {
            return Ok(Ok(()));
        }
        match consumer.commit() {
            Ok(()) => {
                at_hand.into_iter().for_each(|effect| self.is_durable(effect));
                Ok(Ok(()))
            }
            Err(error) => Ok(Err((at_hand, error))),
        }
    }

    /// A consumer that forgets, with effects: from the first record each time, three records to a commit.
    pub(super) fn read_again(&mut self) -> Done {
        let store = self.store()?;
        let most = 1 + self.dice.below(8);
        let how = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).commit_records(3);
        let (mut from, mut wrong) = (0, Ok(()));
        let before = self.head.row("rows", "again").unwrap_or(0);
        let mut count = 0;
        let ran = store.consumer(PLAIN, how).and_then(|mut consumer| {
            consumer.try_process(Some(most), |record, tx| {
                if let Err(what) = is_next(&self.head, ("plain", 0), from, handed(&record)) {
                    wrong = Err(what);
                }
                from = record.offset().0 + 1;
                count += 1;
                tx.table(ROWS)?.update("again", |seen| seen.unwrap_or(0) + 1)?;
                Ok(Outcome::Commit)
            })
        });
        wrong?;
        let ends = (1..=count).filter(|end| end % 3 == 0 || *end == count);
        let effect = |count: u64| Effect {
            rows: vec![(("rows", "again".to_owned()), Some(before + count))],
            ..Effect::default()
        };
        let effects: Vec<Effect> = ends.map(effect).collect();
        match ran {
            Ok(done) if done != count => Err(format!("{done} records reported, {count} handed out")),
            Ok(_) => {
                effects.into_iter().for_each(|effect| self.is_durable(effect));
                Ok(())
            }
            Err(error) => self.in_doubt(effects, &error),
        }
    }
}
