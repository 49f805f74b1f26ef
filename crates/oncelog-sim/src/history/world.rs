//! The machine, the store on it, and what is known of what must be there.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use oncelog::{Error, ErrorKind, Snapshot, Store, StoreOptions, TxnId};

use super::Outcome;
use super::ops_changes::{Holder, Holders};
use super::ops_compact::Keyed;
use super::ops_delayed::Timers;
use super::ops_linger::Book;
use super::ops_owners::Side;
use super::ops_readers::{Beside, Followed};
use super::ops_stamped::Sent;
use crate::clock::SimClock;
use crate::dice::Dice;
use crate::disk::{Failure, Repeat, SimDisk, Slip, Survival};
use crate::model::{Effect, Model};
use crate::observe::{look, observe};
use crate::schema::LAX_TOPICS;

/// Where the store is: two directories deep, so that those are made too.
pub(super) const DIR: &str = "/data/store";

pub(super) struct World {
    pub(super) disk: SimDisk,
    pub(super) clock: Arc<SimClock>,
    pub(super) dice: Dice,
    pub(super) store: Option<Store>,
    /// What must be there.
    pub(super) certain: Model,
    /// What may be there, the first ones rather than the last.
    pub(super) pending: Vec<Effect>,
    /// `certain` with all of `pending`: what the next transaction meets.
    pub(super) head: Model,
    /// Partitions that may jump over a hole after an unclean stop.
    pub(super) lax_used: bool,
    /// A snapshot and what it showed when it was taken.
    pub(super) held: Option<(Snapshot, Model)>,
    /// The second owner.
    pub(super) side: Side,
    /// Who may have the consumer id that both owners take in turn.
    pub(super) holders: Holders,
    /// The last stamped batches, for sending them again.
    pub(super) sent: Vec<Sent>,
    /// The last transactions of the coordinator.
    pub(super) txns: Vec<TxnId>,
    /// Outcomes were forgotten, or are about to be.
    pub(super) forgot: bool,
    /// The records that are gathered before they are written.
    pub(super) book: Book,
    pub(super) timers: Timers,
    /// The records of the topic that is compacted.
    pub(super) keyed: Keyed,
    /// A reader that comes and goes.
    pub(super) followed: Followed,
    /// What a reader of tables may find.
    pub(super) beside: Beside,
    pub(super) outcome: Outcome,
    /// The store has been open once. Before, a sync fails only in the first attempt to make it: a name that a killed
    /// attempt has made, and whose sync then fails in the next, is two faults (docs/guarantees.md).
    made: bool,
    /// Nothing fails but what the caller asks for.
    pub(super) quiet: bool,
    /// What a power cut leaves; by chance when `None`.
    pub(super) survival: Option<Survival>,
    tight: bool,
    /// Which process of the simulation opens stores.
    process: u64,
    /// The change of the disk, counted from its beginning, at which the machine stops.
    pub(super) crash_at: Option<u64>,
    /// The call to the disk, counted likewise, that fails.
    pub(super) fail_at: Option<(u64, Failure, Repeat)>,
    /// The run ends where the machine does: see [`World::fork`].
    pub(super) stops: bool,
    /// The next crash is that of the process, then a reader looks, then the power goes: what only memory held was
    /// shown.
    pub(super) shows_ruins: bool,
}

/// How a run ends that was to stop where the machine does.
pub(super) const STOPPED: &str = "the machine has stopped";

impl World {
    /// A machine on which nothing goes wrong by itself.
    pub(super) fn quiet(seed: u64, slip: Option<Slip>) -> World {
        let world = World::new(Dice::new(seed), slip);
        world.disk.choppy(false);
        World { quiet: true, survival: Some(Survival::Nothing), tight: true, ..world }
    }

    pub(super) fn new(mut dice: Dice, slip: Option<Slip>) -> World {
        let disk = SimDisk::new(dice.next());
        disk.choppy(dice.one_in(4));
        disk.slip_syncs(slip);
        World {
            disk,
            clock: Arc::default(),
            made: false,
            quiet: false,
            survival: None,
            tight: dice.one_in(2),
            process: 1,
            crash_at: None,
            fail_at: None,
            stops: false,
            shows_ruins: false,
            dice,
            store: None,
            certain: Model::default(),
            pending: Vec::new(),
            head: Model::default(),
            lax_used: false,
            held: None,
            side: Side::default(),
            holders: Holders::default(),
            sent: Vec::new(),
            txns: Vec::new(),
            forgot: false,
            book: Book::default(),
            timers: Timers::default(),
            keyed: Keyed::default(),
            followed: Followed::default(),
            beside: Beside::default(),
            outcome: Outcome::default(),
        }
    }

    pub(super) fn options(&mut self) -> StoreOptions {
        let (file, trim) = if self.tight { (4096, 6 << 10) } else { (16 << 10, 64 << 10) };
        StoreOptions::new()
            .disk(Arc::new(self.disk.clone()))
            .clock(Arc::clone(&self.clock) as _)
            .seed(self.dice.next())
            .simulated_process(self.process)
            .manual_duties()
            .journal_file_bytes(file)
            .trim_bytes(trim)
            .compaction_memory(if self.tight { 300 } else { 64 << 20 })
            // One file at a time takes the place of others, so that a crash comes between two.
            .compaction_piece_bytes(if self.tight { 1 } else { 32 << 20 })
            .compaction_reserve(self.reserve())
            .batch_bytes(1024)
            .max_record_bytes(8 << 10)
            .max_transaction_bytes(32 << 10)
            // Fewer than there are segments, so that they are closed and opened again.
            .max_open_files(if self.tight { 3 } else { 512 })
    }

    /// What compaction leaves to others: enough to move the trim point; or nothing, so that it meets a full disk.
    pub(super) fn reserve(&self) -> u64 {
        if self.tight { 0 } else { 256 << 10 }
    }

    pub(super) fn store(&self) -> Result<Store, String> {
        self.store.clone().ok_or_else(|| "the history lost its store".to_owned())
    }

    /// Opens the store, crashing on the way now and then, until it is open; then checks it.
    pub(super) fn open(&mut self) -> Result<(), String> {
        let mut again = 0;
        let mut last = String::new();
        loop {
            // Three in ten recoveries are hit, and of these some again.
            let hit = !self.quiet && again < 3 && self.dice.below(10) < 3;
            if hit {
                // The first steps are the manifest's, where one crash after another matters most.
                let reach = if self.dice.one_in(2) { 8 } else { 40 };
                let after = 1 + self.dice.below(reach);
                self.disk.crash_after(after);
            } else if !self.quiet && again < 3 && (self.made || again == 0) && self.dice.one_in(20) {
                self.disk.fail_next_sync(None);
            }
            let options = self.options();
            let opened = options.open(DIR);
            tracing::debug!(?opened, hit, "opened");
            let dead = self.disk.is_dead();
            match opened {
                Ok(store) if !dead => {
                    self.disk.clear_faults();
                    self.arm();
                    self.store = Some(store);
                    self.made = true;
                    return self.check_recovered();
                }
                Err(error) if error.kind() == ErrorKind::Corrupt && !dead => {
                    return Err(format!("recovery says {error}"));
                }
                Err(error) => {
                    self.was_to_fail(&error)?;
                    last = error.to_string();
                }
                Ok(_) => {}
            }
            if dead {
                self.outcome.in_recovery += 1;
                self.lose_power()?;
            }
            self.disk.clear_faults();
            self.disk.capacity(None);
            again += 1;
            if again > 10 {
                return Err(format!("the store does not open: {last}"));
            }
        }
    }

    /// Prepares for what was asked to happen, if it has not happened: faults are forgotten with each opening.
    pub(super) fn arm(&self) {
        if let Some(at) = self.crash_at.filter(|at| *at > self.disk.ops()) {
            self.disk.crash_after(at - self.disk.ops());
        }
        if let Some((at, failure, repeat)) = self.fail_at.filter(|(at, ..)| *at > self.disk.all_ops()) {
            self.disk.fail_op(at - self.disk.all_ops(), failure, repeat);
        }
    }

    /// Ends the machine or the process.
    fn lose_power(&mut self) -> Result<(), String> {
        self.outcome.crashes += 1;
        self.beside.held = None;
        // One in four that end cannot be known to have ended.
        self.process += u64::from(self.quiet || !self.dice.one_in(4));
        if self.stops {
            return Err(STOPPED.to_owned());
        }
        if let Some(survival) = self.survival {
            self.disk.power_cut_with(survival);
        } else if self.dice.one_in(3) {
            self.disk.process_kill();
            tracing::debug!("process killed");
        } else {
            let survival = self.disk.power_cut();
            tracing::debug!(?survival, "power cut");
        }
        Ok(())
    }

    /// Another world in which the power went now, and left what `survival` says. For one that has stopped.
    pub(super) fn fork(&self, survival: Survival) -> World {
        let disk = self.disk.copy_tree();
        disk.power_cut_with(survival);
        World {
            disk,
            clock: Arc::clone(&self.clock),
            dice: self.dice.clone(),
            store: None,
            certain: self.certain.clone(),
            pending: self.pending.clone(),
            head: self.head.clone(),
            held: None,
            beside: Beside::default(),
            side: self.side.clone(),
            sent: self.sent.clone(),
            txns: self.txns.clone(),
            book: self.book.clone(),
            timers: self.timers.clone(),
            keyed: self.keyed.clone(),
            followed: self.followed.clone(),
            survival: Some(survival),
            stops: false,
            ..*self
        }
    }

    /// All that what follows depends on, in one number: the disk, and what is expected of it. A map of shared memory
    /// is left out, because nothing that was in it is looked at after a crash.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.disk.image_hash(), &self.certain, &self.pending, &self.head).hash(&mut hasher);
        let owners = (&self.side, self.holders);
        let others = (
            &self.dice,
            self.lax_used,
            self.made,
            owners,
            &self.sent,
            (&self.txns, self.forgot),
            &self.book,
            (&self.timers, &self.keyed),
            &self.followed,
        );
        format!("{others:?}").hash(&mut hasher);
        hasher.finish()
    }

    /// The crash: everything in memory is gone.
    pub(super) fn crash(&mut self) -> Result<(), String> {
        if !self.disk.is_dead() {
            // Nothing that a drop would still write may reach the disk.
            self.disk.crash_after(1);
        }
        self.end_store();
        if std::mem::take(&mut self.shows_ruins) && self.made {
            self.outcome.crashes += 1;
            self.process += 1;
            self.disk.process_kill();
            self.look_at_ruins()?;
            self.lose_power()?;
            return self.open();
        }
        self.lose_power()?;
        if !self.quiet && self.made && self.dice.one_in(3) {
            self.look_at_ruins()?;
            if self.dice.one_in(2) {
                self.lose_power()?;
            }
        }
        self.open()
    }

    /// Kills the process, whose writes the page cache keeps, and opens the store again.
    pub(super) fn kill_and_open(&mut self) -> Result<(), String> {
        self.kill();
        self.open()
    }

    /// Kills the process and lets a reader look before the store is opened again.
    pub(super) fn kill_and_look(&mut self) -> Result<(), String> {
        self.kill();
        self.look_at_ruins()?;
        if self.disk.is_dead() { self.crash() } else { self.open() }
    }

    fn kill(&mut self) {
        if !self.disk.is_dead() {
            self.disk.crash_after(1);
        }
        self.end_store();
        self.beside.held = None;
        self.process += 1;
        self.disk.process_kill();
        self.arm();
    }

    /// Ends the store whatever it says; handles that an operation still has answer `Closed` from now on.
    fn end_store(&mut self) {
        self.held = None;
        if let Some(store) = self.store.take() {
            let _ = store.close();
        }
    }

    /// Drops the store without a crash, after an error that ended it, and opens it again.
    pub(super) fn reopen_after_error(&mut self) -> Result<(), String> {
        if self.disk.is_dead() || (!self.quiet && self.dice.one_in(2)) {
            return self.crash();
        }
        self.end_store();
        self.disk.clear_faults();
        self.open()
    }

    /// An answer that it is durable: so is everything before it.
    pub(super) fn is_durable(&mut self, effect: Effect) {
        self.head.apply(&effect);
        self.beside.may_show(&self.head);
        self.pending.clear();
        self.certain = self.head.clone();
        self.outcome.certain += 1;
    }

    /// It has its place, and no answer yet or ever.
    pub(super) fn is_pending(&mut self, effect: Effect) {
        self.head.apply(&effect);
        self.beside.may_show(&self.head);
        self.pending.push(effect);
    }

    /// All that has its place is durable.
    pub(super) fn all_durable(&mut self) {
        self.pending.clear();
        self.certain = self.head.clone();
    }

    /// What the store shows must be what is certain, with a prefix of what is pending. That prefix is certain from now
    /// on.
    pub(super) fn reconcile(&mut self) -> Result<(), String> {
        let seen = match observe(&self.store()?) {
            Ok(seen) => seen,
            Err(error) => return self.unreadable(&error),
        };
        let mut expected = self.certain.clone();
        let mut used = 0;
        while expected != seen {
            let Some(effect) = self.pending.get(used) else {
                let whole = self.certain.difference(&seen);
                let pending = self.pending.len();
                return Err(format!("what was answered / what is seen: {whole} ({pending} pending)"));
            };
            expected.apply(effect);
            used += 1;
        }
        self.pending.drain(..used);
        self.certain = expected;
        self.rebuild_head();
        match self.store()?.snapshot() {
            Ok(snapshot) => self.check_books(&snapshot, false),
            Err(error) => self.unreadable(&error),
        }
    }

    /// Reading fails only when the machine has stopped, an earlier failure has ended the store, or its own call was to
    /// fail; then it reads again.
    pub(super) fn unreadable(&mut self, error: &Error) -> Result<(), String> {
        if self.disk.is_dead() {
            return self.crash();
        }
        match error.kind() {
            ErrorKind::Closed => self.reopen_after_error(),
            _ if self.was_to_fail(error)? => self.reconcile(),
            _ => Err(format!("reading says {error:?}")),
        }
    }

    /// Whether the error is that of the call that was to fail; from then on none fails any more.
    ///
    /// # Errors
    /// An interruption was told, which nobody but the disk's caller may ever see.
    pub(super) fn was_to_fail(&mut self, error: &Error) -> Result<bool, String> {
        let Some((at, failure, _)) = self.fail_at else { return Ok(false) };
        if failure == Failure::EINTR {
            return Err(format!("an interruption is told: {error:?}"));
        }
        let is_it = at <= self.disk.all_ops() && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Full);
        if is_it {
            self.fail_at = None;
            self.disk.clear_faults();
        }
        Ok(is_it)
    }

    fn check_books(&mut self, snapshot: &Snapshot, recovered: bool) -> Result<(), String> {
        let crashes = self.outcome.crashes;
        self.check_book(snapshot, recovered)?;
        if self.outcome.crashes > crashes { Ok(()) } else { self.check_timers(snapshot, recovered) }
    }

    fn rebuild_head(&mut self) {
        self.head = self.certain.clone();
        for effect in &self.pending {
            self.head.apply(effect);
        }
    }

    /// As [`World::reconcile`], after an opening: what did not make it is gone, and holes are told and never filled.
    fn check_recovered(&mut self) -> Result<(), String> {
        let store = self.store()?;
        let seen = match observe(&store) {
            Ok(seen) => seen,
            Err(error) if self.was_to_fail(&error)? => return self.check_recovered(),
            Err(error) => return Err(format!("reading after recovery says {error:?}")),
        };
        let mut expected = self.certain.clone();
        let mut used = 0;
        while !same_but_for_holes(&expected, &seen) {
            let Some(effect) = self.pending.get(used) else {
                let whole = self.certain.difference(&seen);
                let (pending, report) = (self.pending.len(), store.recovery_report());
                return Err(format!("answered / recovered: {whole} ({pending} pending; {report})"));
            };
            expected.apply(effect);
            used += 1;
        }
        self.check_holes(&store, &expected, &seen)?;
        let snapshot = store.snapshot().map_err(|error| format!("looking after recovery says {error:?}"))?;
        self.check_books(&snapshot, true)?;
        self.certain = seen;
        self.pending.clear();
        self.rebuild_head();
        self.lax_used = false;
        self.check_followed()
    }

    fn check_holes(&self, store: &Store, expected: &Model, seen: &Model) -> Result<(), String> {
        for (place, log) in &seen.logs {
            let end = expected.next(*place);
            if log.next == end {
                continue;
            }
            let told = store.recovery_report().lost.iter().any(|lost| {
                (lost.topic.as_str(), lost.partition.0) == *place
                    && (lost.offsets.start.0, lost.offsets.end.0) == (end, log.next)
            });
            // A crash between two recoveries may have made the hole in the first; then it was told there.
            if !LAX_TOPICS.contains(&place.0) || !self.lax_used || (!told && store.recovery_report().clean) {
                return Err(format!("{place:?} jumps from {end} to {} and nobody told", log.next));
            }
            let given_out = self.head.next(*place);
            if log.next < given_out {
                return Err(format!("{place:?} goes on at {} but {given_out} was given out", log.next));
            }
        }
        Ok(())
    }

    /// Acts on an error of an operation whose effect may be there.
    pub(super) fn after_error(&mut self, error: &Error) -> Result<(), String> {
        if self.disk.is_dead() {
            return self.crash();
        }
        self.was_to_fail(error)?;
        match error.kind() {
            ErrorKind::Corrupt => Err(format!("an operation says {error}")),
            ErrorKind::InDoubt | ErrorKind::Closed | ErrorKind::Unavailable | ErrorKind::Full => {
                self.disk.capacity(None);
                self.disk.clear_faults();
                match self.store()?.flush() {
                    Ok(()) => self.reconcile_all(),
                    Err(_) => self.reopen_after_error(),
                }
            }
            _ => Err(format!("an operation says {error:?}")),
        }
    }

    /// After a flush that went well nothing is pending any more: each effect is there or never will be.
    fn reconcile_all(&mut self) -> Result<(), String> {
        self.reconcile()?;
        self.pending.clear();
        self.rebuild_head();
        Ok(())
    }

    /// A snapshot that was held must still show what it showed.
    pub(super) fn check_held(&mut self) -> Result<(), String> {
        let Some((snapshot, then)) = self.held.take() else { return Ok(()) };
        let now = match look(&snapshot) {
            Ok(now) => now,
            Err(error) => return self.unreadable(&error),
        };
        if now == then { Ok(()) } else { Err(format!("a snapshot changed: {}", then.difference(&now))) }
    }

    /// The last check: close in order, open, and everything is there.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.disk.clear_faults();
        self.fail_at = None;
        if self.disk.is_dead() || self.store()?.flush().is_err() {
            self.reopen_after_error()?;
        }
        self.held = None;
        let Some(store) = self.store.take() else { return Ok(()) };
        store.close().map_err(|error| format!("closing says {error:?}"))?;
        self.all_durable();
        self.all_written();
        let options = self.options();
        let store = options.open(DIR).map_err(|error| format!("opening after a close says {error:?}"))?;
        if !store.recovery_report().clean {
            return Err(format!("after an orderly close: {}", store.recovery_report()));
        }
        let seen = observe(&store).map_err(|error| format!("reading after a close says {error:?}"))?;
        if seen != self.certain {
            return Err(format!("after a close: {}", self.certain.difference(&seen)));
        }
        let snapshot = store.snapshot().map_err(|error| format!("looking after a close says {error:?}"))?;
        self.store = Some(store);
        self.check_books(&snapshot, true)?;
        if !self.quiet {
            return Ok(());
        }
        // What a crash has left of the second owner is seen when that comes back; of the id that goes round when both
        // ask for it.
        let goes_round = self.holders.may_be(Holder::Main);
        if self.side.tried || goes_round {
            self.side()?;
        }
        if goes_round { self.take_or_give_back(true) } else { Ok(()) }
    }
}

pub(super) fn same_but_for_holes(expected: &Model, seen: &Model) -> bool {
    let records = |model: &Model| -> Vec<_> {
        let filled = model.logs.iter().filter(|(_, log)| !log.records.is_empty());
        filled.map(|(place, log)| (*place, log.records.clone())).collect()
    };
    expected.rows == seen.rows
        && expected.stamps == seen.stamps
        && expected.progress == seen.progress
        && expected.ways == seen.ways
        && records(expected) == records(seen)
}
