//! Short histories, exhaustively: every order of a few operations, with a crash at every change of the disk, the first
//! opening included, and every way to survive it; and every call of a longer one failed in turn, once and for good.
//!
//! Crashes that leave the same disk under the same expectations are one: what follows is the same, and is done once.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::short::Short;
use super::world::{STOPPED, World};
use crate::disk::{Failure, Repeat, Slip, Survival};
use crate::lanes::spread;

/// What was tried, and what went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Runs with one crash or failure each.
    pub tried: u64,
    /// Those of them that came to a state that another had come to.
    pub known: u64,
    /// Violations, each with what it takes to see it again.
    pub violations: Vec<String>,
}

const SEED: u64 = 7;

impl Tally {
    /// Runs, and notes a violation; says whether there was none.
    fn run(&mut self, name: impl Fn() -> String, run: impl FnOnce() -> Result<(), String>) -> bool {
        let ran = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err("panicked".to_owned()));
        let violation = ran.err().map(|what| format!("{}: {what}", name()));
        let is_good = violation.is_none();
        self.violations.extend(violation);
        is_good
    }

    fn add(&mut self, more: Tally) {
        self.tried += more.tried;
        self.known += more.known;
        self.violations.extend(more.violations);
    }
}

/// Every crash of every history of at most `core` operations of one of each kind, and of at most `all` of any kind.
#[must_use]
pub fn crashes(core: usize, all: usize) -> Tally {
    let mut histories: Vec<Vec<Short>> = (0..=all).flat_map(|len| orders(&Short::ALL, len)).collect();
    histories.extend((all + 1..=core).flat_map(|len| orders(&Short::CORE, len)));
    let mut tally = Tally::default();
    spread(
        histories,
        |history| every_crash(SEED, &history, None),
        |more| {
            tally.add(more);
            ControlFlow::Continue(())
        },
    );
    tally
}

/// All sequences of `len` operations.
fn orders(operations: &[Short], len: usize) -> Vec<Vec<Short>> {
    (0..len).fold(vec![Vec::new()], |shorter, _| {
        let longer = |before: &Vec<Short>| {
            let before = before.clone();
            operations.iter().map(move |op| [&before[..], &[*op]].concat())
        };
        shorter.iter().flat_map(longer).collect()
    })
}

/// Histories in whose last operation a mutant of some sync shows: the making of a store, of an owner, of topics and of
/// files, readers of ruins, two trims in a row, an id that is given back.
const TELLING: [&[Short]; 17] = [
    &[],
    &[Short::Append],
    &[Short::Append, Short::Append],
    &[Short::Side],
    &[Short::Fill],
    &[Short::Stamped],
    &[Short::Fill, Short::Trim],
    &[Short::Lax, Short::Trim],
    &[Short::Append, Short::Ruins],
    &[Short::Lax, Short::Lax, Short::Lax, Short::Ruins],
    &[Short::Stamped, Short::Kill],
    &[Short::Fill, Short::Kill],
    &[Short::Fill, Short::Trim, Short::Fill, Short::Trim],
    &[Short::Fleeting, Short::Trim, Short::Side],
    &[Short::Round],
    &[Short::Compact],
    &[Short::Compact, Short::Trim, Short::Compact],
];

/// Each of them is tried from so many seeds.
const TELLING_SEEDS: u64 = 6;

/// Crashes in telling histories until one shows that something is broken; after how many, and what.
pub(crate) fn hunt(slip: Option<Slip>) -> Option<(u64, String)> {
    let (mut tried, mut caught) = (0, None);
    let histories = (1..=TELLING_SEEDS).flat_map(|seed| TELLING.iter().map(move |history| (seed, *history)));
    spread(
        histories,
        |(seed, history)| every_crash(seed, history, slip),
        |tally| {
            tried += tally.tried;
            caught = tally.violations.into_iter().next();
            if caught.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    );
    caught.map(|what| (tried, what))
}

/// Every crash in the last operation of a history, or in the first opening for the one that has none.
pub(crate) fn every_crash(seed: u64, history: &[Short], slip: Option<Slip>) -> Tally {
    let (mut tally, mut known) = (Tally::default(), HashSet::new());
    let world = || World::quiet(seed, slip);
    let changes = changes_of(world(), history);
    // Crashes before the last operation were tried in the shorter history.
    let before = history.split_last().map_or(0, |(_, shorter)| changes_of(world(), shorter));
    for at in before + 1..=changes {
        let name = || format!("{history:?}, seed {seed}, crash at change {at}");
        let mut world = world();
        (world.crash_at, world.stops) = (Some(at), true);
        if !tally.run(name, || run_to_crash(&mut world, history)) {
            continue;
        }
        for survival in Survival::ALL {
            let mut fork = world.fork(survival);
            tally.tried += 1;
            if known.insert(fork.fingerprint()) {
                tally.run(|| format!("{}, {survival:?}", name()), || fork.open().and_then(|()| fork.finish()));
            } else {
                tally.known += 1;
            }
        }
        // A mutant is caught once.
        if slip.is_some() && !tally.violations.is_empty() {
            break;
        }
    }
    tally
}

/// Runs to where the machine stops: in the middle of something, or at the end.
fn run_to_crash(world: &mut World, history: &[Short]) -> Result<(), String> {
    world.arm();
    let mut run = || {
        world.open()?;
        history.iter().try_for_each(|op| world.short(*op))?;
        world.crash()
    };
    match run() {
        Err(what) if what == STOPPED => Ok(()),
        Err(what) => Err(what),
        Ok(()) => Err("it goes on behind its crash".to_owned()),
    }
}

/// How many changes of the disk a history makes, the first opening included.
fn changes_of(mut world: World, history: &[Short]) -> u64 {
    if world.open().is_ok() {
        let _ = history.iter().try_for_each(|op| world.short(*op));
    }
    world.disk.ops()
}

/// Every `stride`-th call to the disk of histories with everything in them, `length` operations to each, opening and
/// closing included, failed in turn, by each error, once and for good. Each of these begins at another call, so that
/// together they miss few.
#[must_use]
pub fn failures(length: usize, stride: u64) -> Tally {
    let mut tally = Tally::default();
    let mut planned = Vec::new();
    for operations in Short::ALL.chunks(length.max(1)) {
        let history = [operations, &[Short::Append, Short::Trim, Short::Close]].concat();
        let mut world = World::quiet(SEED, None);
        let ran = world.open().and_then(|()| history.iter().try_for_each(|op| world.short(*op)));
        if let Err(what) = ran {
            tally.violations.push(format!("{history:?} without a failure: {what}"));
        }
        let ways = (0..).zip(ways());
        let calls = ways.flat_map(|(way, kind)| calls(1 + way % stride.max(1), world.disk.all_ops(), stride, kind));
        planned.extend(calls.map(|call| (history.clone(), call)));
    }
    spread(
        planned,
        |(history, call)| fail_once(&history, call),
        |more| {
            tally.add(more);
            ControlFlow::Continue(())
        },
    );
    tally
}

/// Which call fails, how, and for how long.
type Planned = (u64, Failure, Repeat);

/// Every way to fail. An interruption never lasts.
fn ways() -> impl Iterator<Item = (Failure, Repeat)> {
    let lasting = [Failure::EIO, Failure::ENOSPC, Failure::EMFILE, Failure::EROFS];
    let lasting = lasting.into_iter().flat_map(|failure| [(failure, Repeat::Once), (failure, Repeat::Sticky)]);
    lasting.chain([(Failure::EINTR, Repeat::Once)])
}

fn calls(first: u64, last: u64, stride: u64, way: (Failure, Repeat)) -> impl Iterator<Item = Planned> {
    let stride = usize::try_from(stride).unwrap_or(1).max(1);
    (first..=last).step_by(stride).map(move |at| (at, way.0, way.1))
}

fn fail_once(history: &[Short], planned: Planned) -> Tally {
    let mut tally = Tally { tried: 1, ..Tally::default() };
    let (at, failure, repeat) = planned;
    let name = || format!("{history:?}, {failure:?} {repeat:?} at call {at}");
    tally.run(name, || {
        let mut world = World::quiet(SEED, None);
        world.fail_at = Some(planned);
        world.arm();
        world.open()?;
        for op in history {
            world.short(*op)?;
        }
        world.finish()
    });
    tally
}
