//! Operations with stamps. A producer sends, sends again what it has or has not got an answer for, loses batches and
//! skips ahead, is opened again while an older handle goes on. What was sent is remembered across crashes, so that it
//! can be sent again after one.

use oncelog::{
    Bytes, Error, ErrorKind, IdempotentProducer, IdempotentProducerConfig, PartitionId, ProducerStamp, Sequence,
    Stamped, StampedAppend, SyncPolicy, Utf8,
};

use super::ops::Done;
use super::world::World;
use crate::model::{Effect, Place};
use crate::schema::{DEVICE, GATE, OUT, ROWS, STAMPED};

/// A batch that was sent, answered or not.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    partition: u32,
    first: u64,
    records: Vec<(String, Vec<u8>)>,
    /// Under sequences that are not its own.
    moved: bool,
}

impl Sent {
    fn place(&self) -> Place {
        ("stamped", self.partition)
    }

    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn effect(&self) -> Effect {
        let content = |(key, value): &(String, Vec<u8>)| (key.clone().into_bytes(), value.clone());
        Effect {
            appends: self.records.iter().map(|record| (self.place(), content(record))).collect(),
            stamps: vec![((GATE, self.place()), self.end())],
            ..Effect::default()
        }
    }

    fn send(&self, producer: &IdempotentProducer<Utf8, Bytes>) -> oncelog::Result<StampedAppend> {
        let records = self.records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        producer.append_batch_with(Sequence(self.first), records)
    }
}

/// So many batches are remembered for sending again.
const SENT_MAX: usize = 8;

impl World {
    /// A batch under the next sequences; now and then it is sent again at once, or by a handle that has been fenced.
    pub(super) fn append_stamped(&mut self) -> Done {
        let partition = u32::try_from(self.dice.below(2)).unwrap_or(0);
        let mut records = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let (key, value) = (self.name(), self.bytes());
            records.push((key, value[..value.len().min(700)].to_vec()));
        }
        let first = self.head.stamp((GATE, ("stamped", partition)));
        let sent = Sent { partition, first, records, moved: false };
        let producer = match self.open_gate(partition) {
            Ok(producer) => producer,
            Err(error) => return self.in_doubt(vec![], &error),
        };
        if producer.current_sequence() != Sequence(first) {
            return Err(format!("{GATE} goes on at {}, expected {first}", producer.current_sequence()));
        }
        if self.sent.len() == SENT_MAX {
            self.sent.remove(0);
        }
        self.sent.push(sent.clone());
        if self.dice.one_in(4) {
            return self.send_by_zombie(&producer, &sent);
        }
        self.send(&producer, &sent)?;
        if self.dice.one_in(3) { self.send_again() } else { Ok(()) }
    }

    /// One of the batches that were sent, under the sequences that it had.
    pub(super) fn send_again(&mut self) -> Done {
        if self.sent.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(self.dice.below(self.sent.len() as u64)).unwrap_or(0);
        let mut sent = self.sent[at].clone();
        if self.dice.one_in(8) {
            sent.first += 1 + self.dice.below(3);
            sent.moved = true;
        }
        match self.open_gate(sent.partition) {
            Ok(producer) => self.send(&producer, &sent),
            Err(error) => self.in_doubt(vec![], &error),
        }
    }

    fn open_gate(&mut self, partition: u32) -> Result<IdempotentProducer<Utf8, Bytes>, Error> {
        let lax = self.dice.one_in(3);
        let store = self.store().map_err(Error::user)?;
        let config = IdempotentProducerConfig::new(GATE).partition(PartitionId(partition));
        let producer = store.idempotent_producer(STAMPED, config)?;
        Ok(if lax { producer.sync_policy(SyncPolicy::Os) } else { producer })
    }

    /// A handle that is not the newest writes nothing, whatever it sends.
    fn send_by_zombie(&mut self, zombie: &IdempotentProducer<Utf8, Bytes>, sent: &Sent) -> Done {
        if let Err(error) = self.open_gate(sent.partition) {
            return self.in_doubt(vec![], &error);
        }
        match sent.send(zombie) {
            Err(error) if error.kind() == ErrorKind::Fenced => Ok(()),
            Err(error) => self.in_doubt(vec![], &error),
            Ok(answer) => Err(format!("an older handle of {GATE} was answered {answer:?}")),
        }
    }

    /// Sends, and compares the answer with what the model says must come of it.
    fn send(&mut self, producer: &IdempotentProducer<Utf8, Bytes>, sent: &Sent) -> Done {
        let place = sent.place();
        let next = self.head.stamp((GATE, place));
        if sent.first == next {
            // What else was sent under these sequences was lost, or they would not be the next.
            let kept = |old: &Sent| old.partition != sent.partition || old.end() <= next || old.records == sent.records;
            self.sent.retain(kept);
        }
        // Which of the two policies the producer has does not matter here: both may be synced by others.
        self.lax_used = true;
        match sent.send(producer) {
            Ok(StampedAppend::Appended(offset)) => {
                if sent.first != next || offset.0 != self.head.next(place) {
                    let expected = self.head.next(place);
                    return Err(format!("sequence {} stored at {offset}, expected {next} at {expected}", sent.first));
                }
                self.is_pending(sent.effect());
                self.reconcile()
            }
            Ok(StampedAppend::Repeated(offset)) => {
                let log = self.head.logs.get(&place).cloned().unwrap_or_default();
                let (key, value) = &sent.records[0];
                let known = log.records.get(&offset.0) == Some(&(key.clone().into_bytes(), value.clone()));
                if sent.end() > next || !(known || sent.moved) {
                    return Err(format!("sequence {} is said to be at {offset}, it is not", sent.first));
                }
                self.must_be_certain(place, sent)
            }
            Ok(StampedAppend::Duplicate) if sent.end() <= next => self.must_be_certain(place, sent),
            Err(error) if error.expected_sequence().is_some() => {
                if sent.end() <= next || sent.first == next || error.expected_sequence() != Some(Sequence(next)) {
                    return Err(format!("{GATE} at {next} answers {error}"));
                }
                Ok(())
            }
            Ok(other) => Err(format!("{GATE} at {next} was answered {other:?} for {}", sent.first)),
            Err(error) => self.in_doubt(if sent.first == next { vec![sent.effect()] } else { vec![] }, &error),
        }
    }

    /// A duplicate is answered when the first is durable.
    fn must_be_certain(&mut self, place: Place, sent: &Sent) -> Done {
        self.reconcile()?;
        if self.store.is_some() && self.certain.stamp((GATE, place)) < sent.end() {
            return Err(format!("a duplicate of {} was answered before the first was durable", sent.first));
        }
        Ok(())
    }

    /// Something from outside that is taken in once, or was before.
    pub(super) fn take_in(&mut self) -> Done {
        let name = (DEVICE, ("", 0));
        let next = self.head.stamp(name);
        let sequence = if self.dice.one_in(3) { next.saturating_sub(1) } else { next };
        let stamp = |sequence| ProducerStamp {
            producer_id: DEVICE.to_owned(),
            partition: PartitionId(0),
            sequence: Sequence(sequence),
        };
        let taken = self.head.row("rows", "taken").unwrap_or(0) + 1;
        let effect = Effect {
            appends: vec![(("out", 0), (b"taken".to_vec(), taken.to_be_bytes().to_vec()))],
            rows: vec![(("rows", "taken".to_owned()), Some(taken))],
            stamps: vec![(name, next + 1)],
            ..Effect::default()
        };
        let store = self.store()?;
        let gives_up = self.dice.one_in(5);
        let mut tx = match store.begin() {
            Ok(tx) => tx,
            Err(error) => return self.after_error(&error),
        };
        match tx.stamp(&stamp(sequence)) {
            Ok(Stamped::New) if sequence == next => {}
            Ok(Stamped::Duplicate(None)) if sequence < next => {
                self.reconcile()?;
                let durable = self.store.is_none() || self.certain.stamp(name) > sequence;
                return if durable { Ok(()) } else { Err(format!("{DEVICE}: {sequence} is not durable yet")) };
            }
            Ok(stamped) => return Err(format!("{DEVICE} at {next}: {sequence} was answered {stamped:?}")),
            Err(error) => return self.in_doubt(vec![], &error),
        }
        let other = store.begin().and_then(|mut other| other.stamp(&stamp(sequence)));
        if !matches!(other, Ok(Stamped::InProgress) | Err(_)) {
            return Err(format!("{DEVICE}: a second transaction was answered {other:?}"));
        }
        let staged = tx
            .table(ROWS)
            .and_then(|mut rows| rows.put("taken", &taken))
            .and_then(|()| tx.append(OUT, "taken", &taken));
        if let Err(error) = staged {
            return self.after_error(&error);
        }
        if gives_up {
            tx.abort();
            return Ok(());
        }
        match tx.commit() {
            Ok(_) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }
}
