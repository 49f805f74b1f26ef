//! Everything a disk is, under one lock: each call of the two traits goes through the faults, does its work on the
//! names and inodes, and leaves a mark in the trace.

mod files;
mod names;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use oncelog::disk::SyncSite;

use super::faults::{Call, Faults, Verdict, dead};
use super::map::SimMap;
use super::slip::Slipped;
use super::survival::{Plan, Survival, Time};
use super::trace::Trace;
use super::tree::{Ino, Tree};
use crate::dice::Dice;

/// The state of a simulated disk.
#[derive(Clone, Debug)]
pub(super) struct World {
    dice: Dice,
    pub(super) tree: Tree,
    pub(super) faults: Faults,
    slipped: Slipped,
    trace: Trace,
    /// Counts crashes: a handle of another generation is dead.
    generation: u64,
    next_handle: u64,
    /// Shared memory, by file.
    maps: BTreeMap<Ino, Arc<SimMap>>,
    /// Counts power cuts.
    boots: u128,
}

/// What an open file knows of itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle {
    ino: Ino,
    id: u64,
    generation: u64,
    writes: bool,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        World {
            dice: Dice::new(seed),
            tree: Tree::default(),
            faults: Faults::default(),
            slipped: Slipped::default(),
            trace: Trace::default(),
            generation: 0,
            next_handle: 0,
            maps: BTreeMap::new(),
            boots: 1,
        }
    }

    pub(super) fn reseed(&mut self, seed: u64) {
        self.dice = Dice::new(seed);
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.hash()
    }

    /// The same disk for another machine: names and bytes, cached and durable, and no one who has them open.
    pub(super) fn copy(&self) -> Self {
        let mut copy = self.clone();
        copy.process_kill();
        copy.leave_maps();
        copy
    }

    pub(super) fn power_cut(&mut self, survival: Option<Survival>) -> Survival {
        let now = self.faults.ops;
        let oldest = self.tree.unsynced_since().unwrap_or(now);
        let plan = Plan::draw(&mut self.dice, survival, oldest, now);
        self.trace.note(&[0x1000, plan.survival() as u64, plan.seed()]);
        self.tree.power_cut(&plan);
        self.boots += 1;
        for map in self.maps.values_mut() {
            *map = Arc::new(map.remains(plan.seed()));
        }
        self.start_again();
        plan.survival()
    }

    pub(super) fn process_kill(&mut self) {
        self.trace.note(&[0x1001]);
        self.tree.close_all();
        self.start_again();
    }

    pub(super) fn break_locks(&mut self) {
        self.trace.note(&[0x1002]);
        self.tree.break_locks();
    }

    fn start_again(&mut self) {
        self.generation += 1;
        self.maps.retain(|ino, _| self.tree.file(*ino).is_ok());
        self.faults.clear();
        self.slipped = Slipped::default();
    }

    /// The process stops here: what it still does to shared memory is seen by nobody.
    fn leave_maps(&mut self) {
        self.maps.values_mut().for_each(|map| *map = Arc::new(map.copy()));
    }

    pub(super) fn boots(&self) -> u128 {
        self.boots
    }

    fn now(&self) -> Time {
        self.faults.ops
    }

    /// What a sync that fails has saved all the same.
    fn plan_of_failed_sync(&mut self) -> Plan {
        let now = self.now();
        let oldest = self.tree.unsynced_since().unwrap_or(now);
        Plan::draw(&mut self.dice, None, oldest, now)
    }

    /// Counts a call and says what becomes of it.
    fn admit(&mut self, call: Call) -> Verdict {
        let verdict = self.faults.admit(call);
        if call.mutates() && !matches!(verdict, Verdict::Crash | Verdict::Dead) {
            self.slipped.catch_up(&mut self.tree);
        }
        verdict
    }

    /// A sync of a file or directory was answered: where syncs slip, it may be one of those.
    fn synced(&mut self, ino: Ino, site: SyncSite) {
        match self.faults.slip {
            Some(slip) if slip.site() == site => self.slipped.slips(slip, ino),
            Some(slip) => self.slipped.passes(slip, site),
            None => {}
        }
    }

    /// A call that is done whole or not at all. Where the machine stops in the middle of it, the dice say which.
    fn call(
        &mut self,
        call: Call,
        subject: &[u64],
        work: impl FnOnce(&mut Self) -> io::Result<u64>,
    ) -> io::Result<u64> {
        let outcome = match self.admit(call) {
            Verdict::Go => work(self),
            Verdict::Pretend => Ok(0),
            Verdict::Fail(error) => Err(error),
            Verdict::Crash => {
                self.leave_maps();
                if self.dice.one_in(2) {
                    let _done_and_not_told = work(self);
                }
                Err(dead())
            }
            Verdict::Dead => Err(dead()),
        };
        self.trace.note(&[call.code()]);
        self.trace.note(subject);
        self.trace.note_outcome(&outcome);
        outcome
    }
}
