//! The operations of a history. Each tells the model what it did, and what it knows of its fate.

mod join;

use std::time::Duration;

use oncelog::{AsEngine, Committed, ConsumerStyle, ErrorKind, LogOffset, PartitionId, Processor, SyncPolicy};

use super::ops_styles::{handed, is_next};
use super::world::World;
use crate::model::{Content, Effect, Model, Place, partition_of};
use crate::observe::look;
use crate::schema::{CONSUMER, LAX, OUT, PLAIN, PROCESSOR, ROWS, SPREAD, TOTALS, count, total};

pub(super) type Done = Result<(), String>;

type Op = fn(&mut World) -> Done;

/// What a history does, each with its weight.
const OPS: &[(u64, &str, Op)] = &[
    (4, "append", World::append),
    (2, "append spread", World::append_spread),
    (1, "append expecting", World::append_expecting),
    (3, "append lax", World::append_lax),
    (3, "transact", World::transact),
    (1, "interleave", World::interleave),
    (1, "abort", World::abort),
    (2, "submit some", World::submit_some),
    (2, "process", World::process),
    (1, "append side", World::append_side),
    (2, "join", World::join),
    (2, "consume", World::consume),
    (3, "tail", World::tail),
    (2, "late", World::late),
    (1, "read again", World::read_again),
    (1, "flush or trim", World::flush_or_trim),
    (1, "look around", World::look_around),
    (1, "full disk", World::full_disk),
    (1, "second owner", World::side),
    (3, "append stamped", World::append_stamped),
    (2, "send again", World::send_again),
    (3, "gather", World::gather),
    (2, "take in", World::take_in),
    (1, "zombie", World::zombie),
    (3, "coordinate", World::coordinate),
    (1, "forget outcomes", World::forget_outcomes),
    (2, "first time", World::first_time),
    (1, "forget ids", World::forget_ids),
    (2, "fleeting", World::fleeting),
    (3, "shrink", World::shrink),
    (4, "compact", World::compact),
    (1, "ask for a time", World::ask_for_a_time),
    (1, "back up", World::back_up),
    (1, "look from beside", World::look_from_beside),
    (1, "follow", World::follow),
    (1, "churn", World::churn),
    (1, "alter", World::alter),
    (2, "move a consumer", World::move_consumer),
    (2, "forget a consumer", World::forget_consumer),
    (1, "disturb a consumer", World::disturb_consumer),
    (2, "go round", World::go_round),
    (2, "offsets outside", World::offsets_outside),
    (3, "delay some", World::delay_some),
    (1, "end", World::end),
];

impl World {
    /// Does one operation, or lets the machine crash in one.
    pub(super) fn step(&mut self) -> Done {
        if self.dice.one_in(6) {
            let after = 1 + self.dice.below(30);
            self.disk.crash_after(after);
        } else if self.dice.one_in(60) {
            self.disk.fail_next_sync(None);
        }
        let (name, op) = self.choose();
        tracing::debug!(name, ops = self.disk.ops(), "operation");
        op(self)
    }

    /// One of [`OPS`], by weight.
    fn choose(&mut self) -> (&'static str, Op) {
        let all: u64 = OPS.iter().map(|(weight, ..)| weight).sum();
        let mut at = self.dice.below(all);
        for (weight, name, op) in OPS {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return (name, *op),
            }
        }
        ("end", World::end)
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let len = match self.dice.below(20) {
            0 => 0,
            1 => self.dice.up_to(6000),
            2..=4 => self.dice.up_to(900),
            _ => self.dice.up_to(60),
        };
        let first = u8::try_from(self.dice.below(256)).unwrap_or(0);
        // Every other value is the same byte again and again, so that compressed topics have something to compress.
        let step = first & 1;
        (0..len).map(|at| first.wrapping_add(step * u8::try_from(at % 251).unwrap_or(0))).collect()
    }

    pub(super) fn name(&mut self) -> String {
        format!("k{}", self.dice.below(6))
    }

    pub(super) fn append(&mut self) -> Done {
        let value = self.bytes();
        self.append_value(value)
    }

    /// A record nearly as long as a segment may be.
    pub(super) fn append_long(&mut self) -> Done {
        let byte = u8::try_from(self.dice.below(256)).unwrap_or(0);
        self.append_value(vec![byte; 1800])
    }

    fn append_value(&mut self, value: Vec<u8>) -> Done {
        let key = self.name().into_bytes();
        let store = self.store()?;
        let place = ("plain", 0);
        let effect = Effect { appends: vec![(place, (key.clone(), value.clone()))], ..Effect::default() };
        match store.producer(PLAIN).and_then(|producer| producer.append(&key, &value)) {
            Ok(offset) => self.durable_at(effect, &[(place, offset.0)]),
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// Appends where the next offset is the expected one, and only there.
    fn append_expecting(&mut self) -> Done {
        let (key, value) = (self.name().into_bytes(), self.bytes());
        let place = ("plain", 0);
        let next = self.head.next(place);
        let expected = if self.dice.one_in(3) { next + 1 } else { next };
        let effect = Effect { appends: vec![(place, (key.clone(), value.clone()))], ..Effect::default() };
        let appended = self
            .store()?
            .producer(PLAIN)
            .and_then(|producer| producer.append_expecting(PartitionId(0), LogOffset(expected), &key, &value));
        match appended {
            Ok(offset) if expected == next => self.durable_at(effect, &[(place, offset.0)]),
            Ok(offset) => Err(format!("{place:?}: {expected} expected, appended at {offset}")),
            Err(error) if error.kind() == ErrorKind::Conflict => match error.next_offset() {
                Some(LogOffset(told)) if told == next && expected != next => Ok(()),
                _ => Err(format!("{place:?} at {next}: {error}")),
            },
            Err(error) => self.in_doubt(if expected == next { vec![effect] } else { vec![] }, &error),
        }
    }

    pub(super) fn append_spread(&mut self) -> Done {
        let mut records = Vec::new();
        for _ in 0..=self.dice.below(8) {
            let (key, value) = (self.name(), self.bytes());
            records.push((key, value[..value.len().min(700)].to_vec()));
        }
        let store = self.store()?;
        let appends = records.iter().map(|(key, value)| {
            (("Spread/3", partition_of(key.as_bytes(), 3)), (key.clone().into_bytes(), value.clone()))
        });
        let effect = Effect { appends: appends.collect(), ..Effect::default() };
        let appended = store.producer(SPREAD).and_then(|producer| {
            producer.append_batch(records.iter().map(|(key, value)| (key.as_str(), value.as_slice())))
        });
        match appended {
            Ok(committed) => {
                let firsts = self.firsts("Spread/3", &committed);
                self.durable_at(effect, &firsts)
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    fn firsts(&self, topic: &'static str, committed: &Committed) -> Vec<(Place, u64)> {
        committed.appended.iter().map(|appended| ((topic, appended.partition.0), appended.first.0)).collect()
    }

    pub(super) fn append_lax(&mut self) -> Done {
        let partition = u32::try_from(self.dice.below(2)).unwrap_or(0);
        let (key, value) = (self.name().into_bytes(), self.bytes());
        let store = self.store()?;
        let place = ("lax", partition);
        let effect = Effect { appends: vec![(place, (key.clone(), value.clone()))], ..Effect::default() };
        self.lax_used = true;
        let policy = match self.dice.below(3) {
            0 => SyncPolicy::Os,
            1 => SyncPolicy::Periodic(Duration::from_secs(1 + self.dice.below(3))),
            _ => SyncPolicy::Bytes(100),
        };
        let synced =
            policy == SyncPolicy::Bytes(100) && effect.appends[0].1.0.len() + effect.appends[0].1.1.len() >= 100;
        let appended = store.producer(LAX).and_then(|producer| {
            let producer = producer.sync_policy(policy);
            producer.append_record(Some(PartitionId(partition)), Some(&key), Some(&value), &[], None)
        });
        match appended {
            Ok(offset) if offset.0 != self.head.next(place) => {
                Err(format!("{place:?}: offset {offset}, expected {}", self.head.next(place)))
            }
            Ok(_) if synced => {
                self.is_durable(effect);
                Ok(())
            }
            Ok(_) => {
                // Written, and durable with the next sync; a raised bound may have synced what came before.
                self.is_pending(effect);
                if self.dice.one_in(4) { self.reconcile() } else { Ok(()) }
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// A transaction over two topics and a few rows, one of them read and counted up.
    pub(super) fn transact(&mut self) -> Done {
        let (name, gone, value) = (self.name(), self.name(), self.bytes());
        let store = self.store()?;
        let old = self.head.row("rows", &name);
        let new = old.unwrap_or(0) + 1;
        let mut rows = vec![(("rows", name.clone()), Some(new))];
        if gone != name {
            rows.push((("rows", gone.clone()), None));
        }
        let appends = vec![
            (("plain", 0), (name.clone().into_bytes(), value.clone())),
            (("out", 0), (name.clone().into_bytes(), new.to_be_bytes().to_vec())),
        ];
        let effect = Effect { appends, rows, ..Effect::default() };
        let mut found = None;
        let ran = store.transact(|tx| {
            let mut table = tx.table(ROWS)?;
            found = Some(table.get(&name)?);
            table.put(&name, &new)?;
            if gone != name {
                table.delete(&gone)?;
            }
            let own = table.get(&name)?;
            assert_eq!(own, Some(new), "a transaction reads its own writes");
            tx.append(PLAIN, name.as_bytes(), &value)?;
            tx.append(OUT, &name, &new)
        });
        if found.is_some_and(|found| found != old) {
            return Err(format!("row {name}: read {found:?}, expected {old:?}"));
        }
        match ran {
            Ok(()) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// Two transactions at once: the one that read what the other changed must fail, and only that.
    fn interleave(&mut self) -> Done {
        let (read, changed) = (self.name(), self.name());
        let store = self.store()?;
        let first = Effect { rows: vec![(("rows", changed.clone()), Some(77))], ..Effect::default() };
        let second = Effect { rows: vec![(("rows", "second".to_owned()), Some(1))], ..Effect::default() };
        let mut late = match store.begin() {
            Ok(late) => late,
            Err(error) => return self.after_error(&error),
        };
        let scans = self.dice.one_in(2);
        let looked = late.table(ROWS).and_then(|mut table| {
            if scans { table.scan(&read.as_str()..=&read.as_str()).map(drop) } else { table.get(&read).map(drop) }
        });
        if let Err(error) = looked {
            return self.after_error(&error);
        }
        if let Err(error) = store.transact(|tx| tx.table(ROWS)?.put(&changed, &77)) {
            return self.in_doubt(vec![first], &error);
        }
        self.is_durable(first);
        let staged = late.table(ROWS).and_then(|mut table| table.put("second", &1));
        if let Err(error) = staged {
            return self.after_error(&error);
        }
        match late.commit() {
            Ok(_) if read == changed => Err(format!("row {read} changed under a transaction that read it")),
            Ok(_) => {
                self.is_durable(second);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Conflict && read == changed => Ok(()),
            Err(error) if error.kind() == ErrorKind::Conflict => Err("a conflict over nothing".to_owned()),
            Err(error) => self.in_doubt(vec![second], &error),
        }
    }

    fn abort(&mut self) -> Done {
        let store = self.store()?;
        let staged = store.begin().and_then(|mut given_up| {
            given_up.append(PLAIN, b"never", b"seen")?;
            given_up.table(ROWS)?.put("never", &1)?;
            given_up.abort();
            Ok(())
        });
        match staged {
            Ok(()) => Ok(()),
            Err(error) => self.after_error(&error),
        }
    }

    /// Several transactions handed over; then all are waited for, or none.
    pub(super) fn submit_some(&mut self) -> Done {
        let store = self.store()?;
        let mut waiting = Vec::new();
        for _ in 0..=self.dice.below(4) {
            let (name, value) = (self.name(), self.bytes());
            let effect = Effect {
                appends: vec![(("plain", 0), (name.clone().into_bytes(), value.clone()))],
                rows: vec![(("rows", name.clone()), Some(value.len() as u64))],
                ..Effect::default()
            };
            let submitted = store.begin().and_then(|mut tx| {
                tx.append(PLAIN, name.as_bytes(), &value)?;
                tx.table(ROWS)?.put(&name, &(value.len() as u64))?;
                tx.submit()
            });
            match submitted {
                Ok(pending) => {
                    self.is_pending(effect);
                    waiting.push(pending);
                }
                Err(error) => return self.in_doubt(vec![], &error),
            }
        }
        if self.dice.one_in(3) {
            return Ok(());
        }
        for pending in waiting {
            if let Err(error) = pending.wait() {
                return self.after_error(&error);
            }
        }
        self.all_durable();
        Ok(())
    }

    /// The processor over the spread topic, in groups; the closure writes down what it did.
    pub(super) fn process(&mut self) -> Done {
        let store = self.store()?;
        let group = 1 + self.dice.below(4);
        let in_flight = self.dice.up_to(3);
        let mut effects: Vec<Effect> = Vec::new();
        let (mut state, mut wrong) = (self.head.clone(), Ok(()));
        let mut processed = 0;
        let built = Processor::new(PROCESSOR, SPREAD)
            .table(TOTALS)
            .output(OUT)
            .commit_records(group)
            .commits_in_flight(in_flight)
            .build(store.as_engine(), |record, tx| {
                let place = ("Spread/3", record.partition().0);
                if let Err(what) = is_next(&state, place, state.stands(PROCESSOR, place), handed(&record)) {
                    wrong = Err(what);
                }
                let effect = total_by_hand(&state, place, record.offset().0, record.key_bytes(), record.value_bytes());
                state.apply(&effect);
                if processed % group == 0 {
                    effects.push(Effect::default());
                }
                if let Some(last) = effects.last_mut() {
                    join(last, effect);
                }
                processed += 1;
                total(record, tx)
            });
        let ran = built.and_then(|mut task| task.step(None));
        wrong?;
        match ran {
            Ok(count) if count != processed => Err(format!("{count} records reported, {processed} handed out")),
            Ok(_) => {
                // Nothing was processed: nothing is known of what came before.
                effects.into_iter().for_each(|effect| self.is_durable(effect));
                Ok(())
            }
            Err(error) => self.in_doubt(effects, &error),
        }
    }

    /// One record, one commit, a few times.
    pub(super) fn consume(&mut self) -> Done {
        let store = self.store()?;
        let most = 1 + self.dice.below(5);
        let (mut effects, mut wrong) = (Vec::new(), Ok(()));
        let mut state = self.head.clone();
        let ran = store.consumer(PLAIN, ConsumerStyle::ClientTx(CONSUMER.to_owned())).and_then(|mut consumer| {
            consumer.try_process(Some(most), |record, tx| {
                let place = ("plain", 0);
                if let Err(what) = is_next(&state, place, state.stands(CONSUMER, place), handed(&record)) {
                    wrong = Err(what);
                }
                let seen = state.row("rows", "seen").unwrap_or(0) + 1;
                let effect = Effect {
                    rows: vec![(("rows", "seen".to_owned()), Some(seen))],
                    progress: vec![((CONSUMER, place), record.offset().0 + 1)],
                    ..Effect::default()
                };
                state.apply(&effect);
                effects.push(effect);
                count(record, tx)
            })
        });
        wrong?;
        match ran {
            Ok(done) if done != effects.len() as u64 => {
                Err(format!("{done} records reported, {} handed out", effects.len()))
            }
            Ok(_) => {
                effects.into_iter().for_each(|effect| self.is_durable(effect));
                Ok(())
            }
            Err(error) => self.in_doubt(effects, &error),
        }
    }

    fn flush_or_trim(&mut self) -> Done {
        let store = self.store()?;
        self.clock.pass(Duration::from_secs(self.dice.below(4)));
        if self.dice.one_in(8) {
            let wall = i64::try_from(self.dice.below(4_000_000_000_000)).unwrap_or(0);
            self.clock.jump_to(wall);
        }
        self.note_time();
        let ran = match self.dice.below(3) {
            0 => match store.flush() {
                Err(error) if error.kind() == ErrorKind::Full => return Err(format!("a flush takes no room: {error}")),
                flushed => flushed.map(|()| true),
            },
            1 => store.trim().map(|()| true),
            _ => store.run_duties().map(|()| false),
        };
        match ran {
            Ok(true) => {
                self.all_durable();
                self.all_written();
                Ok(())
            }
            Ok(false) => self.reconcile(),
            Err(error) => self.after_error(&error),
        }
    }

    pub(super) fn trim_now(&mut self) -> Done {
        match self.store()?.trim() {
            Ok(()) => {
                self.all_durable();
                self.all_written();
                Ok(())
            }
            Err(error) => self.after_error(&error),
        }
    }

    /// Looks at everything now, and at an older state again.
    fn look_around(&mut self) -> Done {
        self.check_held()?;
        self.reconcile()?;
        if let Ok(snapshot) = self.store()?.snapshot() {
            match look(&snapshot) {
                Ok(shown) => self.held = Some((snapshot, shown)),
                Err(error) => return self.unreadable(&error),
            }
        }
        Ok(())
    }

    /// Some operations while there is hardly any space: they fail or not, what was there stays readable.
    fn full_disk(&mut self) -> Done {
        let used: u64 = self.disk.paths().iter().map(|(_, len)| len).sum();
        let room = self.dice.below(12 << 10);
        self.disk.capacity(Some(used + room));
        for _ in 0..3 {
            match self.dice.below(11) {
                9 | 10 => self.compact()?,
                8 => self.alter()?,
                7 => self.move_consumer()?,
                6 => self.forget_consumer()?,
                5 => self.offsets_outside()?,
                4 => self.gather()?,
                0 => self.append()?,
                1 => self.append_spread()?,
                2 => self.transact()?,
                _ => self.flush_or_trim()?,
            }
        }
        self.disk.capacity(None);
        self.reconcile()
    }

    /// An orderly end, or the power cut.
    fn end(&mut self) -> Done {
        if self.dice.one_in(2) { self.crash() } else { self.close_now() }
    }

    pub(super) fn close_now(&mut self) -> Done {
        self.held = None;
        let Some(store) = self.store.take() else { return Ok(()) };
        match store.close() {
            Ok(()) => {
                self.all_durable();
                self.all_written();
                self.lax_used = false;
                self.open()
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => Err(format!("closing says {error}")),
            Err(_) => self.reopen_after_error(),
        }
    }

    pub(super) fn durable_at(&mut self, effect: Effect, firsts: &[(Place, u64)]) -> Done {
        for (place, first) in firsts {
            if *first != self.head.next(*place) {
                return Err(format!("{place:?}: offset {first}, expected {}", self.head.next(*place)));
            }
        }
        self.is_durable(effect);
        Ok(())
    }

    /// The operation failed; its effects may be there, in order.
    pub(super) fn in_doubt(&mut self, effects: Vec<Effect>, error: &oncelog::Error) -> Done {
        tracing::debug!(%error, effects = effects.len(), "in doubt");
        effects.into_iter().for_each(|effect| self.is_pending(effect));
        self.after_error(error)
    }
}

/// What [`total`] does to one record, in the model's words.
fn total_by_hand(state: &Model, place: Place, offset: u64, key: Option<&[u8]>, value: Option<&[u8]>) -> Effect {
    let (key, value) = (key.unwrap_or_default(), value.unwrap_or_default());
    let name = String::from_utf8_lossy(key).into_owned();
    let mut effect = Effect { progress: vec![((PROCESSOR, place), offset + 1)], ..Effect::default() };
    if value.first() == Some(&7) {
        return effect;
    }
    let sum = state.row("totals", &name).unwrap_or(0) + value.len() as u64;
    effect.rows.push((("totals", name), Some(sum)));
    if sum.is_multiple_of(3) {
        let content: Content = (key.to_vec(), sum.to_be_bytes().to_vec());
        effect.appends.push((("out", 0), content));
    }
    effect
}

fn join(into: &mut Effect, more: Effect) {
    into.appends.extend(more.appends);
    into.rows.extend(more.rows);
    into.progress.extend(more.progress);
}
