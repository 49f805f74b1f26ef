//! One history: random operations on a store, crashes, recoveries, and after each the question whether the store is
//! what the model says after some prefix of the effects that nobody answered for.
//!
//! * What was answered as durable is in `certain`: it must be there.
//! * What was handed over without such an answer is in `pending`, in the order of its places: a prefix of it may be
//!   there.
//! * Nothing else may be.

pub mod exhaust;
mod ops;
mod ops_backup;
mod ops_changes;
mod ops_churn;
mod ops_compact;
mod ops_coordinator;
mod ops_delayed;
mod ops_fleeting;
mod ops_linger;
mod ops_outside;
mod ops_owners;
mod ops_readers;
mod ops_removal;
mod ops_seen;
mod ops_stamped;
mod ops_styles;
mod ops_zombie;
mod short;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::dice::Dice;
use crate::disk::Slip;
use world::World;

/// What a history is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything.
    pub seed: u64,
    /// How many crashes until it ends.
    pub crashes: u64,
    /// Syncs that do not do their work: something must notice.
    pub slip: Option<Slip>,
}

/// What came of a history without a violation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Crashes survived, those during recovery included.
    pub crashes: u64,
    /// Crashes that hit a recovery.
    pub in_recovery: u64,
    /// Effects that were answered as durable.
    pub certain: u64,
    /// Operations.
    pub ops: u64,
    /// Everything that happened on the disk, in one number.
    pub trace: u64,
}

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The history that shows it.
    pub seed: u64,
    /// At which operation.
    pub op: u64,
    /// What was expected and what was found.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Violation { seed, op, what } = self;
        write!(f, "seed {seed}, operation {op}: {what}\n  again: oncelog-sim replay {seed}")
    }
}

/// Runs one history.
///
/// # Errors
/// The first violation; a panic anywhere in the engine is one.
pub fn run(plan: Plan) -> Result<Outcome, Violation> {
    let mut op = 0;
    let ran = catch_unwind(AssertUnwindSafe(|| run_world(plan, &mut op)));
    let ended = ran.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panicked: {}", text.unwrap_or_default()))
    });
    ended.map_err(|what| Violation { seed: plan.seed, op, what })
}

fn run_world(plan: Plan, op: &mut u64) -> Result<Outcome, String> {
    let mut world = World::new(Dice::new(plan.seed), plan.slip);
    world.open()?;
    while world.outcome.crashes < plan.crashes {
        *op += 1;
        world.step()?;
    }
    world.finish()?;
    world.outcome.ops = *op;
    let (disk, mut outcome) = (world.disk.clone(), world.outcome);
    drop(world);
    outcome.trace = disk.trace_hash();
    // Stores whose disk failed under them, too: a service that opens again and again must not grow.
    match disk.holders() {
        1 => Ok(outcome),
        more => Err(format!("all stores are dropped, and their disk is still held {} times", more - 1)),
    }
}
