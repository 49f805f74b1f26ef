//! Short histories, exhaustively: every order of at most three operations (two, where that is asked for), with a crash
//! at every change of the disk and every way to survive it; and every call of a longer one failed in turn, once and
//! for good.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::ops::Short;
use super::world::World;
use crate::disk::{Failure, Repeat, Survival};

/// What was tried, and what went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs with one crash or failure each.
    pub tried: u64,
    /// Violations, each with what it takes to see it again.
    pub violations: Vec<String>,
}

const SEED: u64 = 7;

impl Tally {
    fn run(&mut self, name: impl Fn() -> String, run: impl FnOnce() -> Result<(), String>) {
        self.tried += 1;
        let ran = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("panicked".to_owned()));
        if let Err(what) = ran {
            self.violations.push(format!("{}: {what}", name()));
        }
    }
}

/// Every crash of every history of at most three operations, or of two where `longest` is less.
#[must_use]
pub fn crashes(longest: usize) -> Tally {
    let mut tally = Tally::default();
    let operations: Vec<Option<Short>> = Short::ALL.iter().copied().map(Some).chain([None]).collect();
    let thirds = if longest < 3 { &operations[operations.len() - 1..] } else { &operations };
    for first in Short::ALL {
        for second in &operations {
            for third in thirds {
                // Shorter histories once each: their later places are empty.
                if second.is_none() && third.is_some() {
                    continue;
                }
                let history: Vec<Short> = [Some(first), *second, *third].into_iter().flatten().collect();
                every_crash(&history, &mut tally);
            }
        }
    }
    tally
}

fn every_crash(history: &[Short], tally: &mut Tally) {
    let changes = changes_of(history);
    // Crashes before the last operation were tried in the shorter history.
    let before = changes_of(&history[..history.len() - 1]);
    for at in before + 1..=changes {
        for survival in Survival::ALL {
            let name = || format!("{history:?}, crash at change {at}, {survival:?}");
            tally.run(name, || {
                let mut world = World::quiet(SEED, Some(survival));
                world.open()?;
                world.disk.crash_after(at);
                for op in history {
                    world.short(*op)?;
                    if world.outcome.crashes > 0 {
                        break;
                    }
                }
                if world.outcome.crashes == 0 {
                    world.crash()?;
                }
                world.finish()
            });
        }
    }
}

/// How many changes of the disk a history makes behind the opening.
fn changes_of(history: &[Short]) -> u64 {
    let mut world = World::quiet(SEED, None);
    if world.open().is_err() {
        return 0;
    }
    let before = world.disk.ops();
    for op in history {
        if world.short(*op).is_err() {
            break;
        }
    }
    world.disk.ops() - before
}

/// Every call to the disk of one history with everything in it, opening and closing included, failed in turn.
#[must_use]
pub fn failures() -> Tally {
    let mut tally = Tally::default();
    let history = [Short::ALL, Short::ALL].concat();
    let calls = {
        let mut world = World::quiet(SEED, None);
        let ran = world.open().and_then(|()| history.iter().try_for_each(|op| world.short(*op)));
        if let Err(what) = ran {
            tally.violations.push(format!("without a failure: {what}"));
        }
        world.disk.all_ops()
    };
    for failure in [Failure::EIO, Failure::ENOSPC, Failure::EMFILE, Failure::EROFS, Failure::EINTR] {
        for repeat in [Repeat::Once, Repeat::Sticky] {
            for at in 1..=calls {
                let name = || format!("{failure:?} {repeat:?} at call {at}");
                tally.run(name, || {
                    let mut world = World::quiet(SEED, Some(Survival::Nothing));
                    world.disk.fail_op(at, failure, repeat);
                    world.open()?;
                    for op in &history {
                        world.short(*op)?;
                    }
                    world.finish()
                });
            }
        }
    }
    tally
}
