//! Operations that change what is there: topics that are written in another way, consumers that are put elsewhere or
//! forgotten, an id that goes from owner to owner. A crash leaves each of them whole or absent.

use oncelog::{Compression, ConsumerStyle, Error, ErrorKind, LogOffset, PartitionId, Store, TopicChange};

use super::ops::Done;
use super::world::World;
use crate::model::Effect;
use crate::schema::{CONSUMER, GLOBAL, JOINER, LATE, PLAIN, PROCESSOR, ROUND, way_of};

/// Topics that are altered; the last comes and goes.
const ALTERED: [&str; 4] = ["plain", "Spread/3", "lax", "fleeting"];

/// Consumers that are moved, and a topic of each with its number of partitions.
const MOVED: [(&str, &str, u32); 6] = [
    (CONSUMER, "plain", 1),
    (LATE, "plain", 1),
    (PROCESSOR, "Spread/3", 3),
    (JOINER, "Spread/3", 3),
    (JOINER, "side", 3),
    (GLOBAL, "lax", 2),
];

/// So far back a consumer is put at most, so that it does not do everything again each time.
const BACK_MAX: u64 = 6;

/// Who has the id that goes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    Main,
    Side,
}

/// Who may have it: more than one after an error, until somebody is answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holders([bool; 3]);

/// What an owner was told who asked for the id, or gave it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    Done,
    /// Another one has it, or nobody.
    Refused,
}

impl Default for Holders {
    fn default() -> Self {
        Holders::only(Holder::Nobody)
    }
}

impl Holders {
    fn only(holder: Holder) -> Holders {
        Holders([false; 3]).or(holder)
    }

    fn or(mut self, holder: Holder) -> Holders {
        self.0[holder as usize] = true;
        self
    }

    pub(super) fn may_be(self, holder: Holder) -> bool {
        self.0[holder as usize]
    }
}

impl World {
    /// Alters how a topic is written, and sees that it is written so.
    pub(super) fn alter(&mut self) -> Done {
        let topic = ALTERED[self.dice.up_to(ALTERED.len() - 1)];
        self.alter_topic(topic)
    }

    /// As [`World::alter`], of a topic that is there.
    pub(super) fn alter_plain(&mut self) -> Done {
        self.one_by_one(&[World::append, |world| world.alter_topic("plain")])
    }

    fn alter_topic(&mut self, topic: &'static str) -> Done {
        let now = self.head.ways.get(topic).copied().unwrap_or_else(|| way_of(topic));
        let (mut change, mut way) = (TopicChange::default(), now);
        if !self.dice.one_in(3) {
            way.compression = if self.dice.one_in(2) { Compression::Lz4 } else { Compression::None };
            change = change.compression(way.compression);
        }
        if !self.dice.one_in(3) {
            way.file_roll_size = 1024 << self.dice.below(3);
            change = change.file_roll_size(way.file_roll_size);
        }
        let cannot_be = self.dice.one_in(8);
        if cannot_be {
            change = change.file_roll_size(7);
        }
        let effect = Effect { ways: vec![(topic, way)], ..Effect::default() };
        let is_there = self.head.ways.contains_key(topic) || self.head.logs.keys().any(|place| place.0 == topic);
        match self.store()?.alter_topic(topic, &change) {
            Ok(()) if cannot_be => return Err(format!("{topic:?} rolls at 7 bytes")),
            Ok(()) => self.is_durable(effect),
            Err(error) if error.kind() == ErrorKind::Invalid && cannot_be => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound && !is_there => return Ok(()),
            Err(error) => return self.in_doubt(if cannot_be { vec![] } else { vec![effect] }, &error),
        }
        if self.dice.one_in(2) { self.append_squeezable() } else { Ok(()) }
    }

    /// A record that can be squeezed to next to nothing takes as much room as the way of its topic says.
    fn append_squeezable(&mut self) -> Done {
        let (place, content) = (("plain", 0), (b"squeezed".to_vec(), vec![b'z'; 1500]));
        let effect = Effect { appends: vec![(place, content.clone())], ..Effect::default() };
        let store = self.store()?;
        let bytes = || store.describe_topic(place.0).map(|partitions| partitions[0].bytes);
        let ran = store.producer(PLAIN).and_then(|producer| {
            let before = bytes()?;
            let offset = producer.append(&content.0, &content.1)?;
            Ok((offset, bytes()? - before))
        });
        let (offset, grown) = match ran {
            Ok(ran) => ran,
            Err(error) => return self.in_doubt(vec![effect], &error),
        };
        let way = self.head.ways.get(place.0).copied().unwrap_or_else(|| way_of(place.0));
        if (grown < 700) != (way.compression == Compression::Lz4) {
            return Err(format!("{grown} bytes more of a topic that is written as {way:?}"));
        }
        self.durable_at(effect, &[(place, offset.0)])
    }

    /// Puts a consumer elsewhere, in some partitions of a topic at once; now and then behind an end, which is refused
    /// as a whole. What it is handed next, its own operation compares with the model.
    pub(super) fn move_consumer(&mut self) -> Done {
        let moved = MOVED[self.dice.up_to(MOVED.len() - 1)];
        self.move_to_some_place(moved)
    }

    /// Moves the one that was just at work.
    pub(super) fn move_one_by_one(&mut self) -> Done {
        self.move_to_some_place(MOVED[0])
    }

    fn move_to_some_place(&mut self, (consumer, topic, partitions): (&'static str, &'static str, u32)) -> Done {
        let store = self.store()?;
        let (mut places, mut effect) = (Vec::new(), Effect::default());
        for partition in (0..partitions).map(PartitionId) {
            let end = match store.offsets(topic, partition) {
                Ok((_, end)) => end.0,
                Err(error) if error.kind() == ErrorKind::NotFound && self.head.next((topic, partition.0)) == 0 => {
                    return Ok(());
                }
                Err(error) => return self.in_doubt(vec![], &error),
            };
            let next = end.saturating_sub(self.dice.below(BACK_MAX + 1));
            // The model cannot tell one that stands at 0 from one that has never been there.
            if !self.dice.one_in(4) && (consumer, next) != (LATE, 0) {
                places.push((partition, LogOffset(next)));
                effect.progress.push(((consumer, (topic, partition.0)), next));
            }
        }
        if self.dice.one_in(6) {
            let partition = PartitionId(u32::try_from(self.dice.below(partitions.into())).unwrap_or(0));
            let beyond = self.head.next((topic, partition.0)) + 1;
            places.push((partition, LogOffset(beyond)));
            return match store.reset_consumer(consumer, topic, &places) {
                Ok(()) => Err(format!("{consumer:?} stands at {beyond} of {topic:?}, behind its end")),
                Err(error) if error.kind() == ErrorKind::Invalid => Ok(()),
                Err(error) => self.in_doubt(vec![], &error),
            };
        }
        match store.reset_consumer(consumer, topic, &places) {
            Ok(()) if places.is_empty() => Ok(()),
            Ok(()) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// Forgets a consumer: it begins anew when it comes next.
    pub(super) fn forget_consumer(&mut self) -> Done {
        let consumer = [CONSUMER, LATE, PROCESSOR, JOINER, GLOBAL][self.dice.up_to(4)];
        self.forget(consumer)
    }

    fn forget(&mut self, consumer: &'static str) -> Done {
        let store = self.store()?;
        let has_progress = self.head.progress.keys().any(|(id, _)| *id == consumer);
        let effect = Effect { forgotten: Some(consumer), ..Effect::default() };
        let forgotten = match consumer {
            GLOBAL => store.forget_global_consumer("lax"),
            id => store.forget_consumer(id),
        };
        match forgotten.and_then(|()| store.consumers()) {
            Ok(left) if left.iter().any(|progress| progress.consumer == consumer) => {
                Err(format!("{consumer:?} was forgotten, and there is {left:?}"))
            }
            Ok(_) => {
                // Without a row there was nothing to be made durable.
                if has_progress {
                    self.is_durable(effect);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !has_progress => Ok(()),
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// A consumer at work is neither moved nor forgotten.
    pub(super) fn disturb_consumer(&mut self) -> Done {
        let store = self.store()?;
        let at_work = match store.consumer(PLAIN, ConsumerStyle::ClientTx(CONSUMER.to_owned())) {
            Ok(at_work) => at_work,
            Err(error) => return self.in_doubt(vec![], &error),
        };
        let told = [
            store.reset_consumer(CONSUMER, PLAIN.name(), &[(PartitionId(0), LogOffset(0))]),
            store.forget_consumer(CONSUMER),
        ];
        drop(at_work);
        match told.into_iter().find(|told| told.as_ref().err().map(Error::kind) != Some(ErrorKind::Locked)) {
            None => Ok(()),
            Some(Ok(())) => Err("a consumer was moved or forgotten at work".to_owned()),
            Some(Err(error)) => self.in_doubt(vec![], &error),
        }
    }

    /// Something to consume, and the consumer that then is moved or forgotten.
    pub(super) fn consume_and(&mut self, then: fn(&mut World) -> Done) -> Done {
        self.one_by_one(&[World::append, World::append, World::consume, then])
    }

    /// Operations in a row, up to a crash.
    pub(super) fn one_by_one(&mut self, ops: &[fn(&mut World) -> Done]) -> Done {
        for op in ops {
            let crashes = self.outcome.crashes;
            op(self)?;
            if self.outcome.crashes > crashes {
                break;
            }
        }
        Ok(())
    }

    /// Forgets the one that was just at work.
    pub(super) fn forget_one_by_one(&mut self) -> Done {
        self.forget(CONSUMER)
    }

    /// The owner `main` takes the id that goes round, now and then puts it somewhere, or gives it back.
    pub(super) fn go_round(&mut self) -> Done {
        let takes = self.dice.one_in(2);
        self.take_or_give_back(takes)
    }

    /// Both owners have the id, one after the other.
    pub(super) fn go_all_round(&mut self) -> Done {
        let main_takes: fn(&mut World) -> Done = |world| world.take_or_give_back(true);
        let main_gives: fn(&mut World) -> Done = |world| world.take_or_give_back(false);
        self.one_by_one(&[World::append, main_takes, main_gives, World::side])
    }

    pub(super) fn take_or_give_back(&mut self, takes: bool) -> Done {
        let (store, place) = (self.store()?, ("plain", 0));
        let effect = Effect { forgotten: (!takes).then_some(ROUND), ..Effect::default() };
        let had_progress = self.head.stands(ROUND, place) > 0;
        match self.pass_round(&store, Holder::Main, takes)? {
            Err(error) => return self.in_doubt(vec![effect], &error),
            Ok(Passed::Refused) => return Ok(()),
            Ok(Passed::Done) if !takes && had_progress => self.is_durable(effect),
            Ok(Passed::Done) => {}
        }
        let next = self.certain.next(place);
        if !takes || next == 0 || self.dice.one_in(2) {
            return Ok(());
        }
        let effect = Effect { progress: vec![((ROUND, place), next)], ..Effect::default() };
        match store.reset_consumer(ROUND, place.0, &[(PartitionId(place.1), LogOffset(next))]) {
            Ok(()) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// An owner takes the id that goes round, or gives it back. Both are durable when they are answered, so what the
    /// other owner is told must fit, over any crash. The error is that of a disk that failed.
    pub(super) fn pass_round(
        &mut self,
        store: &Store,
        me: Holder,
        takes: bool,
    ) -> Result<oncelog::Result<Passed>, String> {
        let (ran, other, to) = match (takes, me) {
            (true, Holder::Main) => (store.create_consumers([ROUND]), Holder::Side, me),
            (true, _) => (store.create_consumers([ROUND]), Holder::Main, me),
            (false, Holder::Main) => (store.forget_consumer(ROUND), Holder::Side, Holder::Nobody),
            (false, _) => (store.forget_consumer(ROUND), Holder::Main, Holder::Nobody),
        };
        let may_be = |holder| self.holders.may_be(holder);
        let mine_or_free = may_be(me) || may_be(Holder::Nobody);
        let kind = ran.as_ref().err().map(Error::kind);
        let fits = match kind {
            None if takes => mine_or_free,
            None => may_be(me),
            Some(ErrorKind::Locked) => may_be(other),
            Some(ErrorKind::NotFound) => !takes && may_be(Holder::Nobody),
            Some(_) => true,
        };
        if !fits {
            return Err(format!("{me:?} takes an id ({takes}) that {:?} may have: {ran:?}", self.holders));
        }
        match (ran, kind) {
            (Ok(()), _) => {
                self.holders = Holders::only(to);
                Ok(Ok(Passed::Done))
            }
            // What is only seen may not be durable.
            (Err(_), Some(ErrorKind::Locked | ErrorKind::NotFound)) => Ok(Ok(Passed::Refused)),
            (Err(error), _) => {
                if mine_or_free {
                    self.holders = self.holders.or(to);
                }
                Ok(Err(error))
            }
        }
    }
}
