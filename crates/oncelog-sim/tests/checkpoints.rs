//! Checkpoints in files on a disk that loses what was not synced: cut at every change, with every rule of what
//! survives, with every call failed in turn, and with each of their syncs and checks left out, which must be noticed.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use oncelog::clock::SystemClock;
use oncelog::disk::{Disk, OpenMode, SyncSite};
use oncelog::{CheckpointId, CheckpointState, CheckpointStore, Error, ErrorKind, FileCheckpointStore, Lineage};
use oncelog_sim::disk::{Failure, Repeat, SimDisk, Slip};

const MAX: usize = 3;

fn open(disk: &SimDisk) -> oncelog::Result<FileCheckpointStore> {
    let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
    Ok(FileCheckpointStore::open_on(disk, SystemClock::shared(), "/d/base")?.max_per_stream(MAX))
}

/// One change.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A sequence, and how often it was saved.
    Save(u64, u64),
    Rewind(u64),
    DeleteBefore(u64),
}

const STEPS: [Step; 10] = [
    Step::Save(10, 1),
    Step::Save(20, 1),
    Step::Save(30, 1),
    Step::Save(40, 1),
    Step::Save(40, 2),
    Step::Rewind(35),
    Step::Save(33, 3),
    Step::DeleteBefore(31),
    Step::Save(50, 3),
    Step::Save(60, 3),
];

/// What was answered: the newest that counts, with its version, and the line that is the current one.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    /// The current line: sequence to version.
    line: BTreeMap<u64, u64>,
    lineage: Lineage,
}

fn state(sequence: u64, version: u64, lineage: Lineage) -> CheckpointState {
    let mut state = CheckpointState::new(CheckpointId::new("s", sequence));
    state.lineage = lineage;
    state.event_count = version;
    // More than a sector, so that one can be torn.
    state.set_operator_state("sum", vec![version.to_le_bytes()[0]; 1_500]);
    state
}

impl Step {
    fn run(self, store: &FileCheckpointStore, lineage: Lineage) -> oncelog::Result<()> {
        match self {
            Step::Save(sequence, version) => store.save(&state(sequence, version, lineage)),
            Step::Rewind(sequence) => store.rewind("s", sequence).map(drop),
            Step::DeleteBefore(sequence) => store.delete_before("s", sequence).map(drop),
        }
    }

    fn model(self, before: &Model) -> Model {
        let mut after = before.clone();
        match self {
            Step::Save(sequence, version) => drop(after.line.insert(sequence, version)),
            Step::Rewind(sequence) => {
                after.line.retain(|kept, _| *kept <= sequence);
                let from = after.line.last_key_value().map_or(0, |(sequence, _)| *sequence);
                let mut lineage = Lineage::FIRST;
                (lineage.number, lineage.from) = (before.lineage.number + 1, from);
                after.lineage = lineage;
            }
            Step::DeleteBefore(_) => {}
        }
        after
    }
}

fn disk(seed: u64, dropped: Option<SyncSite>) -> SimDisk {
    let disk = SimDisk::new(seed);
    disk.create_dir(Path::new("/d")).unwrap();
    disk.sync_dir(Path::new("/"), SyncSite::StoreDir).unwrap();
    disk.slip_syncs(dropped.map(Slip::LeftOut));
    disk
}

/// Runs the steps until one fails; gives what was answered last, what was on its way, and why it failed.
fn run(disk: &SimDisk) -> (Model, Option<(Model, Error)>) {
    let mut now = Model::default();
    let store = match open(disk) {
        Ok(store) => store,
        Err(error) => return (now.clone(), Some((now, error))),
    };
    for step in STEPS {
        let next = step.model(&now);
        if let Err(error) = step.run(&store, now.lineage) {
            return (now, Some((next, error)));
        }
        now = next;
    }
    (now, None)
}

/// The newest must be what was answered, or what was on its way; nothing may be damaged; those before it that are still
/// there must be as they were saved; and no more than may be.
fn look(disk: &SimDisk, answered: &Model, on_its_way: Option<&Model>, when: &str) -> Result<Seen, String> {
    let told = |error: Error| format!("{when}: {error}");
    let store = open(disk).map_err(told)?;
    let found = store.latest("s").map_err(told)?;
    let newest = |model: &Model| model.line.last_key_value().map(|(sequence, version)| (*sequence, *version));
    let seen = found.as_ref().map(|found| (found.state.id.sequence, found.state.event_count));
    let expected = [Some(answered), on_its_way];
    let model = expected.into_iter().flatten().find(|model| {
        newest(model) == seen && found.as_ref().is_none_or(|found| found.state.lineage.number == model.lineage.number)
    });
    let Some(_) = model else {
        return Err(format!("{when}: {seen:?} is there; {answered:?} was answered, {on_its_way:?} on its way"));
    };
    if let Some(found) = found {
        if !found.damaged.is_empty() {
            return Err(format!("{when}: {:?}", found.damaged));
        }
        if found.state.operator_states["sum"] != [found.state.event_count.to_le_bytes()[0]; 1_500] {
            return Err(format!("{when}: half of one and half of another"));
        }
    }
    for entry in store.list("s").map_err(told)? {
        store.get("s", entry.sequence).map_err(told)?;
    }
    Ok(seen)
}

/// Sequence and version of the newest.
type Seen = Option<(u64, u64)>;

/// Goes on over what a crash has left: another one is saved, is the newest, and nothing is there that should not be.
fn go_on(disk: &SimDisk, when: &str) -> Result<(), String> {
    let told = |error: Error| format!("{when}, afterwards: {error}");
    let store = open(disk).map_err(told)?;
    let lineage = store.latest("s").map_err(told)?.map_or(Lineage::FIRST, |latest| latest.state.lineage);
    store.save(&state(1_000, 9, lineage)).map_err(told)?;
    let listed = store.list("s").map_err(told)?;
    let names = disk.list(Path::new("/d/base/s")).map_err(|error| error.to_string())?;
    // The lock is the one file more.
    if listed.len() > MAX || names.len() != listed.len() + 1 {
        return Err(format!("{when}: litter: {names:?}"));
    }
    disk.power_cut();
    match store_after(disk)? {
        Some(1_000) => Ok(()),
        other => Err(format!("{when}: {other:?} is there after 1000 was saved")),
    }
}

fn store_after(disk: &SimDisk) -> Result<Option<u64>, String> {
    let latest = open(disk).and_then(|store| store.latest("s")).map_err(|error| error.to_string())?;
    Ok(latest.map(|latest| latest.state.id.sequence))
}

/// Cuts the power, or kills the process and cuts the power later, at each change in turn.
fn survey(seed: u64, dropped: Option<SyncSite>) -> Result<u64, String> {
    let mut crashes = 0;
    for change in 1.. {
        for kill_first in [false, true] {
            let disk = disk(seed + change, dropped);
            disk.crash_after(change);
            let (answered, failed) = run(&disk);
            if !disk.is_dead() {
                disk.power_cut();
                look(&disk, &answered, None, "behind the last step")?;
                return Ok(crashes);
            }
            crashes += 1;
            let on_its_way = failed.as_ref().map(|(model, _)| model);
            let when = format!("seed {seed}, change {change}, killed first: {kill_first}");
            let mut shown = None;
            if kill_first {
                disk.process_kill();
                shown = Some(look(&disk, &answered, on_its_way, &when)?);
            }
            if !kill_first || change % 2 == 0 {
                disk.power_cut();
                let found = look(&disk, &answered, on_its_way, &when)?;
                if shown.is_some_and(|shown| shown != found) {
                    return Err(format!("{when}: {shown:?} was shown, and {found:?} is left"));
                }
            }
            go_on(&disk, &when)?;
        }
    }
    Ok(crashes)
}

#[test]
fn a_power_cut_at_any_change_leaves_what_was_answered() {
    let crashes: u64 = (0..20).map(|seed| survey(seed * 1_000, None).unwrap()).sum();
    assert!(crashes > 500, "{crashes}");
}

#[test]
fn without_any_of_their_syncs_it_is_noticed() {
    for site in [SyncSite::CheckpointFile, SyncSite::CheckpointDir, SyncSite::CheckpointRead] {
        let noticed = (0..20).any(|seed| survey(seed * 1_000, Some(site)).is_err());
        assert!(noticed, "without {site:?}");
    }
}

#[test]
fn a_call_that_fails_leaves_the_old_one_and_no_litter() {
    for failure in [Failure::EIO, Failure::ENOSPC, Failure::EMFILE] {
        let calls = {
            let disk = disk(1, None);
            run(&disk);
            disk.all_ops()
        };
        let mut failures = 0;
        for call in 1..=calls {
            let disk = disk(call, None);
            disk.fail_op(call, failure, Repeat::Once);
            let when = format!("call {call} failed by {failure:?}");
            let (answered, failed) = run(&disk);
            disk.clear_faults();
            if let Some((_, error)) = &failed {
                failures += 1;
                assert!(error.file().is_some() || error.kind() == ErrorKind::NotFound, "{when}: {error}");
                let names = disk.list(Path::new("/d/base/s")).unwrap_or_default();
                let litter: Vec<_> =
                    names.iter().filter(|name| name.extension().is_some_and(|end| end == "new")).collect();
                assert!(litter.is_empty(), "{when}: {litter:?}");
            }
            disk.power_cut();
            look(&disk, &answered, failed.as_ref().map(|(model, _)| model), &when).unwrap();
            go_on(&disk, &when).unwrap();
        }
        assert!(failures > 50, "{failures}");
    }
}

#[test]
fn a_full_disk_leaves_the_old_one_valid_and_goes_on_when_there_is_room() {
    let disk = disk(7, None);
    let store = open(&disk).unwrap();
    store.save(&state(10, 1, Lineage::FIRST)).unwrap();
    let before = disk.list(Path::new("/d/base/s")).unwrap();
    let used = state(10, 1, Lineage::FIRST).serialize().unwrap().len() as u64;
    for room in (0..used).step_by(50) {
        disk.capacity(Some(used + room));
        let error = store.save(&state(20, 2, Lineage::FIRST)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Full, "{error}");
        assert_eq!(disk.list(Path::new("/d/base/s")).unwrap().len(), before.len(), "litter");
        assert_eq!(store.latest("s").unwrap().unwrap().state.id.sequence, 10);
    }
    disk.capacity(None);
    store.save(&state(20, 2, Lineage::FIRST)).unwrap();
    assert_eq!(store.latest("s").unwrap().unwrap().state.id.sequence, 20);
}

/// Flips each bit of the newest file in turn: it must be passed over, or read as it was.
fn flip_all() -> Result<(), String> {
    let disk = disk(3, None);
    let store = open(&disk).unwrap();
    store.save(&state(10, 1, Lineage::FIRST)).unwrap();
    store.save(&state(20, 2, Lineage::FIRST)).unwrap();
    let path = Path::new("/d/base/s/00000000000000000020-0-0-0.checkpoint");
    let file = disk.open(path, OpenMode::Write).unwrap();
    let whole = file.read_whole(1 << 20).unwrap();
    for bit in 0..whole.len() * 8 {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        file.write_all_at(&[whole[at] ^ mask], at as u64).unwrap();
        let found = store.latest("s").map_err(|error| format!("bit {bit}: {error}"))?;
        let found = found.ok_or_else(|| format!("bit {bit}: nothing is there"))?;
        if found.state.id.sequence != 10 || found.damaged.len() != 1 {
            return Err(format!("bit {bit} was not noticed"));
        }
        file.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    Ok(())
}

/// Held by those who flip bits: what they skip, the whole process skips.
static FLIPPING: std::sync::Mutex<()> = std::sync::Mutex::new(());

#[test]
fn every_flipped_bit_of_the_newest_falls_back_to_the_one_before() {
    let _flipping = FLIPPING.lock().unwrap();
    flip_all().unwrap();
}

#[cfg(oncelog_mutants)]
#[test]
fn without_either_check_it_is_noticed() {
    let _flipping = FLIPPING.lock().unwrap();
    for site in [oncelog::CheckSite::CheckpointHead, oncelog::CheckSite::CheckpointBody] {
        oncelog::skip_check(Some(site));
        let noticed = flip_all();
        oncelog::skip_check(None);
        assert!(noticed.is_err(), "without {site:?}");
    }
}
