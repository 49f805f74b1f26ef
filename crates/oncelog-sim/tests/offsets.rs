//! The stores of offsets on a disk that loses what was not synced: cut at every change, with every rule of what
//! survives, and with each of their syncs and their check left out, which must be noticed.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use oncelog::clock::SystemClock;
use oncelog::disk::{Disk, OpenMode, SyncSite};
use oncelog::{FileOffsetStore, LockFileOffsetStore, Offset, OffsetError, OffsetStore};
use oncelog_sim::disk::{Failure, Repeat, SimDisk, Slip};

type State = BTreeMap<String, Offset>;

#[derive(Clone, Copy, Debug)]
enum Kind {
    File,
    Locked,
}

impl Kind {
    fn open(self, disk: &SimDisk) -> Result<Box<dyn OffsetStore>, OffsetError> {
        let (disk, clock) = (Arc::new(disk.clone()) as Arc<dyn Disk>, SystemClock::shared());
        Ok(match self {
            Kind::File => Box::new(FileOffsetStore::open_on(disk, clock, "/d/offsets.json")?),
            Kind::Locked => Box::new(LockFileOffsetStore::open_on(disk, clock, "/d/base", "client")?),
        })
    }
}

/// One change, and what it makes of a state.
enum Step {
    Commit(&'static str, u64),
    CommitAll(&'static [(&'static str, u64)]),
    Reset(&'static str, u64),
    Clear(&'static str),
    ClearAll,
}

const NUMERIC: &str = "topic-1-consumer-2";

const STEPS: [Step; 11] = [
    Step::Commit("a", 1),
    Step::Commit(NUMERIC, 10),
    Step::CommitAll(&[("a", 2), ("b", 2), (NUMERIC, 20)]),
    Step::Commit("a", 3),
    Step::Reset(NUMERIC, 5),
    Step::Clear("a"),
    Step::CommitAll(&[("a", 4), (NUMERIC, 30)]),
    Step::Commit("b", 9),
    Step::ClearAll,
    Step::CommitAll(&[("a", 1), (NUMERIC, 1)]),
    Step::Commit("a", 2),
];

impl Step {
    fn run(&self, store: &dyn OffsetStore) -> Result<(), OffsetError> {
        match self {
            Step::Commit(source, offset) => store.commit(source, &Offset::Sequence(*offset)).map(drop),
            Step::CommitAll(offsets) => store.commit_all(&state(offsets)).map(drop),
            Step::Reset(source, offset) => store.reset(source, &Offset::Sequence(*offset)).map(drop),
            Step::Clear(source) => store.clear(source).map(drop),
            Step::ClearAll => store.clear_all().map(drop),
        }
    }

    fn model(&self, state_before: &State) -> State {
        let mut after = state_before.clone();
        match self {
            Step::Commit(source, offset) | Step::Reset(source, offset) => after.extend(state(&[(source, *offset)])),
            Step::CommitAll(offsets) => after.extend(state(offsets)),
            Step::Clear(source) => drop(after.remove(*source)),
            Step::ClearAll => after.clear(),
        }
        after
    }
}

fn state(offsets: &[(&str, u64)]) -> State {
    offsets.iter().map(|(source, offset)| ((*source).to_owned(), Offset::Sequence(*offset))).collect()
}

/// A disk with the directory that the stores are in.
fn disk(seed: u64, dropped: Option<SyncSite>) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/"), SyncSite::StoreDir).unwrap();
    disk.slip_syncs(dropped.map(Slip::LeftOut));
    disk
}

/// Runs the steps until one fails; gives the state that was answered last, and the one that was on its way.
fn run(kind: Kind, disk: &SimDisk) -> (State, Option<State>) {
    let mut now = State::new();
    let Ok(store) = kind.open(disk) else { return (now, None) };
    for step in &STEPS {
        let next = step.model(&now);
        if step.run(&*store).is_err() {
            return (now, Some(next));
        }
        now = next;
    }
    (now, None)
}

/// What is there, source by source and as a whole: the same.
fn shown(store: &dyn OffsetStore) -> Result<State, OffsetError> {
    let mut each = State::new();
    for source in ["a", "b", NUMERIC] {
        each.extend(store.get(source)?.map(|offset| (source.to_owned(), offset)));
    }
    let all = store.get_all()?;
    assert_eq!(each, all.clone().into_iter().filter(|(source, _)| source != "c").collect());
    Ok(all)
}

/// What is there must be what was answered, or what was on its way, as a whole.
fn look(kind: Kind, disk: &SimDisk, answered: &State, on_its_way: Option<&State>, when: &str) -> Result<State, String> {
    let found =
        kind.open(disk).and_then(|store| shown(&*store)).map_err(|error| format!("{kind:?} {when}: {error}"))?;
    if found == *answered || on_its_way.is_some_and(|next| found == *next) {
        return Ok(found);
    }
    Err(format!("{kind:?} {when}: {found:?} is there; {answered:?} was answered, {on_its_way:?} on its way"))
}

/// Cuts the power, or kills the process and cuts the power later, at each change in turn.
fn survey(kind: Kind, seed: u64, dropped: Option<SyncSite>) -> Result<u64, String> {
    let mut crashes = 0;
    for change in 1.. {
        for kill_first in [false, true] {
            let disk = disk(seed + change, dropped);
            disk.crash_after(change);
            let (answered, on_its_way) = run(kind, &disk);
            if !disk.is_dead() {
                // The end of the steps was reached, and all of it must be there.
                disk.power_cut();
                look(kind, &disk, &answered, None, "behind the last step")?;
                return Ok(crashes);
            }
            crashes += 1;
            let when = format!("seed {seed}, change {change}, killed first: {kill_first}");
            let mut shown = None;
            if kill_first {
                disk.process_kill();
                shown = Some(look(kind, &disk, &answered, on_its_way.as_ref(), &when)?);
            }
            if !kill_first || change % 2 == 0 {
                disk.power_cut();
                let found = look(kind, &disk, &answered, on_its_way.as_ref(), &when)?;
                if shown.as_ref().is_some_and(|shown| *shown != found) {
                    return Err(format!("{kind:?} {when}: {shown:?} was shown, and {found:?} is left"));
                }
            }
            // And it goes on, over what the killed one has left.
            let store = kind.open(&disk).map_err(|error| error.to_string())?;
            store.commit("c", &Offset::Sequence(1)).map_err(|error| format!("{kind:?} {when}: {error}"))?;
            disk.power_cut();
            let found = kind.open(&disk).and_then(|store| store.get("c")).map_err(|error| error.to_string())?;
            if found != Some(Offset::Sequence(1)) {
                return Err(format!("{kind:?} {when}: what was answered after the recovery is gone"));
            }
        }
    }
    Ok(crashes)
}

#[test]
fn a_power_cut_at_any_change_leaves_what_was_answered() {
    for kind in [Kind::File, Kind::Locked] {
        let crashes: u64 = (0..20).map(|seed| survey(kind, seed * 1_000, None).unwrap()).sum();
        assert!(crashes > 500, "{kind:?}: {crashes}");
    }
}

#[test]
fn without_any_of_their_syncs_it_is_noticed() {
    for kind in [Kind::File, Kind::Locked] {
        for site in [SyncSite::OffsetFile, SyncSite::OffsetDir, SyncSite::OffsetRead] {
            let noticed = (0..20).any(|seed| survey(kind, seed * 1_000, Some(site)).is_err());
            assert!(noticed, "{kind:?} without {site:?}");
        }
    }
}

/// For each kind of store, failure, seed and call a disk on which that call fails once; and what it is.
fn failing_disks() -> impl Iterator<Item = (Kind, SimDisk, String)> {
    [Kind::File, Kind::Locked].into_iter().flat_map(|kind| {
        let healthy = disk(1, None);
        run(kind, &healthy);
        let calls = move |failure| (1..=healthy.all_ops()).map(move |call| (failure, call));
        let failures = [Failure::EIO, Failure::ENOSPC, Failure::EMFILE].into_iter().flat_map(calls);
        failures.flat_map(move |(failure, call)| {
            (0..3).map(move |seed| {
                let disk = disk(seed * 10_000 + call, None);
                disk.fail_op(call, failure, Repeat::Once);
                (kind, disk, format!("call {call} failed by {failure:?}, seed {seed}"))
            })
        })
    })
}

#[test]
fn a_call_that_fails_changes_all_or_nothing() {
    for (kind, disk, what) in failing_disks() {
        let (answered, on_its_way) = run(kind, &disk);
        disk.clear_faults();
        disk.power_cut();
        look(kind, &disk, &answered, on_its_way.as_ref(), &what).unwrap();
    }
}

/// What failed is done again, and then all that is answered stays: also what a sync that failed had not saved.
#[test]
fn what_failed_is_done_when_it_is_repeated() {
    for (kind, disk, what) in failing_disks() {
        let store = kind.open(&disk).or_else(|_| kind.open(&disk)).unwrap();
        let mut answered = State::new();
        for (number, step) in STEPS.iter().enumerate() {
            let done = step.run(&*store).or_else(|_| step.run(&*store));
            done.unwrap_or_else(|error| panic!("{kind:?}, {what}, step {number}: {error}"));
            answered = step.model(&answered);
            if number % 4 == 3 {
                disk.power_cut();
                let store = kind.open(&disk).or_else(|_| kind.open(&disk)).unwrap();
                let found = shown(&*store).or_else(|_| shown(&*store)).unwrap();
                assert_eq!(found, answered, "{kind:?}, {what}, behind step {number}");
            }
        }
        disk.power_cut();
        look(kind, &disk, &answered, None, &what).unwrap();
    }
}

/// Flips each bit of a file in turn: it must be told, or read as it was.
fn flip_all(kind: Kind, path: &str) -> Result<(), String> {
    let disk = disk(3, None);
    let store = kind.open(&disk).unwrap();
    store.commit("orders", &Offset::Sequence(42)).unwrap();
    let before = store.get_all().unwrap();
    let file = disk.open(Path::new(path), OpenMode::Write).unwrap();
    let whole = file.read_whole(1 << 20).unwrap();
    for bit in 0..whole.len() * 8 {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        file.write_all_at(&[whole[at] ^ mask], at as u64).unwrap();
        match (store.get("orders"), store.get_all()) {
            (Ok(one), Ok(all)) if all != before || one.as_ref() != before.get("orders") => {
                return Err(format!("{kind:?}, bit {bit}: {one:?}, {all:?}"));
            }
            (Ok(_), Ok(_)) => {}
            (Err(error), _) | (_, Err(error)) => {
                let is_named = matches!(&error, OffsetError::Serialization { file, .. } if file == Path::new(path));
                assert!(is_named, "{kind:?}, bit {bit}: {error}");
            }
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    Ok(())
}

const FLIPPED: [(Kind, &str); 2] = [(Kind::File, "/d/offsets.json"), (Kind::Locked, "/d/base/client/orders.json")];

/// Held by those who flip bits: what they skip, the whole process skips.
static FLIPPING: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn every_flipped_bit_is_told_or_changes_nothing() {
    let _flipping = FLIPPING.lock().unwrap();
    FLIPPED.iter().for_each(|(kind, path)| flip_all(*kind, path).unwrap());
}

#[cfg(oncelog_mutants)]
#[test]
fn without_their_check_it_is_noticed() {
    let _flipping = FLIPPING.lock().unwrap();
    for (kind, path) in FLIPPED {
        oncelog::skip_check(Some(oncelog::CheckSite::OffsetFile));
        let noticed = flip_all(kind, path);
        oncelog::skip_check(None);
        assert!(noticed.is_err(), "{kind:?}");
    }
}
