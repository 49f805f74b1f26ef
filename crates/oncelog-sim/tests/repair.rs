//! Repairs: each kind of damage is mended or told, all that is good stays, nothing is cut out that was not kept before,
//! and a repair that is stopped at any change of the disk and run again ends as one that was not.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oncelog::clock::SystemClock;
use oncelog::disk::{Disk, SyncSite};
use oncelog::{
    Bytes, Compression, ConsumerStyle, ErrorKind, LogOffset, PartitionId, RepairPlan, RepairReport, StoreOptions,
    StoreReader, TableDef, TopicDef, U64, Utf8, Whence,
};
use oncelog_sim::disk::{Failure, Repeat, SimDisk, Slip};

const DIR: &str = "/data/store";
const LINES: TopicDef<Utf8, Utf8> = TopicDef::new("lines").file_roll_size(2048);
const PACKED: TopicDef<Bytes, Bytes> =
    TopicDef::new("packed").partitions(2).file_roll_size(2048).compression(Compression::Lz4);
const COUNTS: TableDef<Utf8, U64> = TableDef::new("counts");

fn options(disk: &SimDisk) -> StoreOptions {
    let disk = Arc::new(disk.clone()) as Arc<dyn Disk>;
    StoreOptions::new().disk(disk).clock(SystemClock::shared()).seed(7).journal_file_bytes(8 << 10).manual_duties()
}

/// How the store was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Closed,
    Killed,
}

/// Several segments, rows, a consumer; where it is killed, some frames behind the trim point.
fn specimen(left: Left) -> SimDisk {
    let disk = SimDisk::new(1);
    let store = options(&disk).open(DIR).unwrap();
    let round = |from: u64, to: u64| {
        let (lines, packed) = (store.producer(LINES).unwrap(), store.producer(PACKED).unwrap());
        for n in from..to {
            lines.append("k", &line(n)).unwrap();
            let value = vec![u8::try_from(n % 251).unwrap(); 300];
            packed.append(&n.to_be_bytes()[..], &value).unwrap();
            store.transact(|tx| tx.table(COUNTS)?.put(&n.to_string(), &n)).unwrap();
        }
    };
    round(0, 40);
    let mut mail = store.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
    assert_eq!(mail.by_ref().take(10).count(), 10);
    drop(mail);
    store.trim().unwrap();
    round(40, 46);
    match left {
        Left::Closed => store.close().unwrap(),
        Left::Killed => {
            disk.process_kill();
            drop(store);
            disk.power_cut();
        }
    }
    disk
}

fn line(n: u64) -> String {
    format!("line {n} {}", "y".repeat(usize::try_from(n % 7).unwrap() * 30))
}

/// All that a store shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    records: BTreeMap<(String, u32, u64), Vec<u8>>,
    gaps: BTreeSet<(String, u32, u64, u64)>,
    rows: BTreeMap<String, u64>,
    progress: Vec<String>,
}

fn shown(disk: &SimDisk) -> Shown {
    look(disk).unwrap()
}

fn look(disk: &SimDisk) -> oncelog::Result<Shown> {
    let reader = StoreReader::options().disk(Arc::new(disk.clone())).open(DIR)?;
    let mut shown = Shown::default();
    for topic in reader.topics()? {
        let mut cursor = reader.cursor(&topic.name, Whence::Oldest)?;
        loop {
            match cursor.poll(|partition, record| {
                let value = record.value.unwrap_or_default().to_vec();
                shown.records.insert((topic.name.clone(), partition.0, record.offset.0), value);
                Ok(oncelog::Step::Next)
            }) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Gap => {
                    let (partition, gap) = cursor.gap().unwrap();
                    shown.gaps.insert((topic.name.clone(), partition.0, gap.start.0, gap.end.0));
                    cursor.seek(partition, gap.end);
                }
                Err(error) => return Err(error),
            }
        }
    }
    reader.look("main", |state| {
        shown.rows = state.snapshot()?.scan(COUNTS, ..)?.into_iter().collect();
        shown.progress = state.consumers()?.iter().map(|progress| format!("{progress:?}")).collect();
        Ok(())
    })?;
    Ok(shown)
}

impl Shown {
    /// What differs, in short.
    fn unlike(&self, other: &Shown) -> Option<String> {
        let places = |one: &Shown, other: &Shown| {
            one.records.iter().filter(|(place, value)| other.records.get(place) != Some(value)).count()
        };
        (self != other).then(|| {
            format!(
                "{} and {} records differ, {:?} {:?}, {} rows {}, {:?} {:?}",
                places(self, other),
                places(other, self),
                self.gaps,
                other.gaps,
                self.rows.len(),
                other.rows.len(),
                self.progress,
                other.progress
            )
        })
    }
}

fn files(disk: &SimDisk, kind: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = disk.paths().into_iter().map(|(path, _)| path).collect();
    found.retain(|path| path.to_string_lossy().contains(kind));
    found.sort();
    found
}

fn len(disk: &SimDisk, path: &Path) -> u64 {
    disk.read_file(path).unwrap().len() as u64
}

/// One way to damage a store.
struct Case {
    name: &'static str,
    left: Left,
    damage: fn(&SimDisk),
    /// Whether records are lost by it.
    loses: bool,
}

fn segment(disk: &SimDisk, topic: &str, number: usize) -> PathBuf {
    files(disk, &format!("topics/{topic}/000000/"))
        .into_iter()
        .filter(|path| path.extension().unwrap() == "segment")
        .nth(number)
        .unwrap()
}

/// Where replay starts, as the newest copy of the manifest says: file and position.
fn trim_point(disk: &SimDisk) -> (PathBuf, u64) {
    let manifest = disk.read_file(Path::new(DIR).join("owners/main/MANIFEST")).unwrap();
    let number = |at: usize| u64::from_le_bytes(manifest[at..at + 8].try_into().unwrap());
    let newest = [0, 4096, 8192, 12288].into_iter().max_by_key(|at| (number(at + 104), number(at + 16))).unwrap();
    let slot = u32::from_le_bytes(manifest[newest + 116..newest + 120].try_into().unwrap());
    let name = format!("owners/main/journal/{:010}-{slot:06}.journal", number(newest + 120));
    (Path::new(DIR).join(name), number(newest + 136))
}

fn remove_under(disk: &SimDisk, dir: &str) {
    files(disk, dir).iter().for_each(|path| disk.remove_file(path).unwrap());
}

const CASES: [Case; 18] = [
    Case {
        name: "a bit in the content of a batch",
        left: Left::Closed,
        damage: |disk| disk.flip_bit(segment(disk, "lines", 1), 700, 3).unwrap(),
        loses: true,
    },
    Case {
        name: "a bit in the content of a batch of the open segment",
        left: Left::Killed,
        damage: |disk| disk.flip_bit(segment(disk, "lines", 0), 200, 3).unwrap(),
        loses: true,
    },
    Case {
        name: "a bit in the first head of a compressed segment",
        left: Left::Closed,
        damage: |disk| disk.flip_bit(segment(disk, "packed", 0), 82, 0).unwrap(),
        loses: true,
    },
    Case {
        name: "a sector in the middle of a segment",
        left: Left::Killed,
        damage: |disk| disk.zero_sector(segment(disk, "lines", 1), 2).unwrap(),
        loses: true,
    },
    Case {
        name: "two places of one segment",
        left: Left::Closed,
        damage: |disk| {
            let path = segment(disk, "lines", 1);
            disk.flip_bit(&path, 300, 1).unwrap();
            disk.flip_bit(&path, len(disk, &path) - 3, 1).unwrap();
        },
        loses: true,
    },
    Case {
        name: "the head of a segment",
        left: Left::Closed,
        damage: |disk| disk.flip_bit(segment(disk, "lines", 1), 61, 1).unwrap(),
        loses: false,
    },
    Case {
        name: "a segment that is gone",
        left: Left::Closed,
        damage: |disk| disk.remove_file(segment(disk, "lines", 1)).unwrap(),
        loses: true,
    },
    Case {
        name: "the last segment is gone",
        left: Left::Closed,
        damage: |disk| {
            let last =
                files(disk, "topics/lines/000000/").into_iter().rfind(|path| path.extension().unwrap() == "segment");
            disk.remove_file(last.unwrap()).unwrap();
        },
        loses: true,
    },
    Case {
        name: "a segment that is cut short",
        left: Left::Killed,
        damage: |disk| {
            let path = segment(disk, "lines", 0);
            disk.truncate(&path, len(disk, &path) / 2).unwrap();
        },
        loses: true,
    },
    Case {
        name: "a segment of another name",
        left: Left::Closed,
        damage: |disk| {
            let path = segment(disk, "lines", 1);
            disk.rename_file(&path, path.with_extension("old")).unwrap();
        },
        loses: false,
    },
    Case {
        name: "the directory of a topic is empty",
        left: Left::Closed,
        damage: |disk| remove_under(disk, "topics/lines/"),
        loses: true,
    },
    Case {
        name: "a frame of the journal",
        left: Left::Killed,
        damage: |disk| {
            let (path, position) = trim_point(disk);
            disk.flip_bit(path, position + 600, 0).unwrap();
        },
        loses: true,
    },
    Case {
        name: "a journal file is gone",
        left: Left::Killed,
        damage: |disk| disk.remove_file(trim_point(disk).0).unwrap(),
        loses: true,
    },
    Case {
        name: "a journal file of which nothing counts is gone",
        left: Left::Closed,
        damage: |disk| disk.remove_file(trim_point(disk).0).unwrap(),
        loses: false,
    },
    Case {
        name: "the head of a journal file",
        left: Left::Killed,
        damage: |disk| disk.flip_bit(trim_point(disk).0, 41, 0).unwrap(),
        loses: false,
    },
    Case {
        name: "claims",
        left: Left::Closed,
        damage: |disk| {
            disk.flip_bit(Path::new(DIR).join("topics/lines/CLAIM"), 20, 0).unwrap();
            disk.remove_file(Path::new(DIR).join("tables/counts/CLAIM")).unwrap();
            disk.truncate(Path::new(DIR).join("consumers/mail/CLAIM"), 3).unwrap();
        },
        loses: false,
    },
    Case {
        name: "STORE",
        left: Left::Closed,
        damage: |disk| disk.flip_bit(Path::new(DIR).join("STORE"), 30, 0).unwrap(),
        loses: false,
    },
    Case {
        name: "a copy of the manifest",
        left: Left::Closed,
        damage: |disk| disk.flip_bit(Path::new(DIR).join("owners/main/MANIFEST"), 12288 + 50, 0).unwrap(),
        loses: false,
    },
];

fn plan(disk: &SimDisk) -> RepairPlan {
    options(disk).plan_repair(DIR).unwrap()
}

fn repair(disk: &SimDisk) -> oncelog::Result<RepairReport> {
    options(disk).repair(DIR)
}

/// What was there before is shown, but for what is said to be lost; and nothing else.
fn check(case: &Case, before: &Shown, after: &Shown, done: &RepairPlan, when: &str) {
    let at = format!("{} {when}: {done:?}", case.name);
    let is_lost = |(topic, partition, offset): &(String, u32, u64)| {
        done.lost.iter().chain(&done.skipped).any(|lost| {
            lost.topic == *topic && lost.partition.0 == *partition && lost.offsets.contains(&LogOffset(*offset))
        })
    };
    for (place, value) in &before.records {
        match after.records.get(place) {
            Some(found) => assert_eq!(found, value, "{at}: {place:?}"),
            None => assert!(is_lost(place), "{at}: {place:?} is gone and was not told"),
        }
        if is_lost(place) {
            assert!(!after.records.contains_key(place), "{at}: {place:?} is told as lost and is there");
        }
    }
    assert!(after.records.keys().all(|place| before.records.contains_key(place)), "{at}: records that never were");
    let is_cut = !done.skipped.is_empty();
    assert!(is_cut || after.rows == before.rows, "{at}: {:?}", after.rows);
    assert!(after.rows.iter().all(|(key, value)| before.rows.get(key) == Some(value)), "{at}");
    // Every hole is a gap to readers, but for one in front of the first record that is kept: there the log begins.
    for lost in done.lost.iter().chain(&done.skipped) {
        let (start, end) = (lost.offsets.start.0, lost.offsets.end.0);
        let told = after.gaps.iter().any(|(topic, partition, from, to)| {
            *topic == lost.topic && *partition == lost.partition.0 && *from <= start && end <= *to
        });
        let kept =
            after.records.keys().filter(|(topic, partition, _)| (topic, *partition) == (&lost.topic, lost.partition.0));
        let is_begin = start == 0 && kept.map(|(_, _, offset)| *offset).min() == Some(end);
        assert!(told || is_begin, "{at}: no gap for {lost:?} in {:?}", after.gaps);
    }
}

/// An offset that was given out is not given out again.
fn check_appends(disk: &SimDisk, before: &Shown, when: &str) {
    let store = options(disk).open(DIR).unwrap();
    let at = store.producer(LINES).unwrap().append("k", "new").unwrap();
    let is_new = before.records.keys().all(|(topic, _, offset)| topic != "lines" || *offset < at.0);
    assert!(is_new, "{when}: offset {at} was given out before");
    let mut mail = store.consumer(LINES, ConsumerStyle::ClientTx("mail".into())).unwrap();
    let mut left = 0;
    loop {
        match mail.try_process(Some(1), |_, _| Ok(oncelog::Outcome::Commit)) {
            Ok(0) => break,
            Ok(_) => left += 1,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Gap, "{when}: {error}");
                mail.skip_gap().unwrap();
            }
        }
    }
    assert!(left > 0, "{when}");
    drop(mail);
    store.close().unwrap();
}

#[test]
fn every_kind_of_damage_is_mended_and_the_rest_stays() {
    for case in &CASES {
        let disk = specimen(case.left);
        let before = shown(&disk.copy_tree());
        (case.damage)(&disk);
        let image = disk.image_hash();
        let planned = plan(&disk);
        assert_eq!(disk.image_hash(), image, "{}: a plan changes nothing", case.name);
        assert!(!planned.mends.is_empty() && planned.left.is_empty(), "{}: {planned:?}", case.name);
        assert_eq!(!planned.lost.is_empty(), case.loses, "{}: {planned:?}", case.name);
        let report = repair(&disk).unwrap();
        let done = &report.done;
        let what =
            |plan: &RepairPlan| plan.mends.iter().map(|mend| (mend.what.clone(), mend.cut_bytes)).collect::<Vec<_>>();
        assert_eq!(what(done), what(&planned), "{}", case.name);
        assert_eq!((&done.lost, &done.skipped), (&planned.lost, &planned.skipped), "{}", case.name);
        assert!(report.verification.is_sound(), "{}: {:?}", case.name, report.verification.damage);
        for mend in &done.mends {
            let kept: u64 = mend.kept_in.iter().map(|path| len(&disk, path)).sum();
            assert_eq!(kept, mend.cut_bytes, "{}: {mend}", case.name);
        }
        check(case, &before, &shown(&disk), done, "");
        check_beside_owner(&disk, case.name);
        assert!(plan(&disk).is_empty(), "{}: {:?}", case.name, plan(&disk));
        check_appends(&disk, &before, case.name);
        disk.power_cut();
        let reader = StoreReader::options().disk(Arc::new(disk.clone())).open(DIR).unwrap();
        assert!(reader.verify(|_| {}).unwrap().is_sound(), "{}", case.name);
    }
}

/// Readers in other processes find segments by their names, and see the same as the owner.
fn check_beside_owner(disk: &SimDisk, when: &str) {
    let before = shown(disk);
    let store = options(disk).open(DIR).unwrap();
    let unlike = shown(disk).unlike(&before);
    assert_eq!(unlike, None, "{when}: beside the owner");
    store.close().unwrap();
}

#[test]
fn what_is_sound_is_left_alone() {
    for left in [Left::Closed, Left::Killed] {
        let disk = specimen(left);
        let image = disk.image_hash();
        let report = repair(&disk).unwrap();
        assert!(report.done.is_empty() && report.verification.is_sound(), "{report:?}");
        assert_eq!(disk.image_hash(), image);
    }
}

#[test]
fn what_cannot_be_mended_is_told_and_left() {
    let both_copies: fn(&SimDisk) = |disk| {
        for at in [0, 4096, 8192, 12288] {
            disk.flip_bit(Path::new(DIR).join("owners/main/MANIFEST"), at + 50, 0).unwrap();
        }
    };
    let tables: fn(&SimDisk) = |disk| disk.remove_file(&files(disk, ".table")[0]).unwrap();
    let block: fn(&SimDisk) = |disk| {
        let path = &files(disk, ".table")[0];
        for sector in 16..len(disk, path) / 512 {
            disk.zero_sector(path, sector).unwrap();
        }
    };
    for damage in [both_copies, tables, block] {
        let disk = specimen(Left::Closed);
        damage(&disk);
        let image = disk.image_hash();
        let planned = plan(&disk);
        assert!(planned.mends.is_empty() && !planned.left.is_empty(), "{planned:?}");
        let report = repair(&disk).unwrap();
        assert!(!report.done.left.is_empty() && !report.verification.is_sound(), "{report:?}");
        assert_eq!(disk.image_hash(), image, "it is left as it is");
    }
}

#[test]
fn an_owner_at_work_is_not_repaired() {
    let disk = specimen(Left::Closed);
    let store = options(&disk).open(DIR).unwrap();
    for error in [options(&disk).plan_repair(DIR).unwrap_err(), repair(&disk).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::Locked, "{error}");
    }
    store.close().unwrap();
    let nothing = options(&disk).plan_repair("/data/nothing").unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
}

/// So many changes further on the next repair is stopped; 1 with the variable set, by hand.
fn stride() -> usize {
    if std::env::var_os("REPAIR_ALL").is_some() { 1 } else { 11 }
}

/// Ends a repair at changes of the disk in turn, by a power cut or a kill, and runs it again.
fn survey(case: &Case, step: usize, slip: Option<SyncSite>) -> Result<u64, String> {
    let damaged = specimen(case.left);
    let before = shown(&damaged.copy_tree());
    (case.damage)(&damaged);
    let (expected, done) = {
        let disk = damaged.copy_tree();
        let done = repair(&disk).unwrap().done;
        (shown(&disk), done)
    };
    let mut stops = 0;
    for change in (1u64..).step_by(step) {
        let disk = damaged.copy_tree();
        disk.reseed(change);
        disk.slip_syncs(slip.map(Slip::LeftOut));
        disk.crash_after(change);
        let ended = repair(&disk);
        let is_done = !disk.is_dead();
        if change % 3 == 0 {
            disk.process_kill();
        } else {
            disk.power_cut();
        }
        let when = format!("{}, stopped at change {change}", case.name);
        if is_done && ended.is_err() {
            return Err(format!("{when}: {ended:?}"));
        }
        let again = repair(&disk).map_err(|error| format!("{when}: {error}"))?;
        disk.power_cut();
        let found = look(&disk).map_err(|error| format!("{when}: {error}"))?;
        let unlike = found.unlike(&expected);
        if !again.verification.is_sound() || !again.done.left.is_empty() || unlike.is_some() {
            return Err(format!("{when}: {again:?}, {unlike:?}"));
        }
        check(case, &before, &found, &done, &when);
        check_kept(&disk, &damaged, &done, &when)?;
        if is_done {
            return Ok(stops);
        }
        stops += 1;
    }
    Ok(stops)
}

/// Each byte that is given up is in `aside`, whichever attempt has kept it.
fn check_kept(disk: &SimDisk, damaged: &SimDisk, done: &RepairPlan, when: &str) -> Result<(), String> {
    let kept: Vec<Vec<u8>> = files(disk, "/aside/").iter().map(|path| disk.read_file(path).unwrap()).collect();
    for mend in done.mends.iter().filter(|mend| mend.cut_bytes > 0) {
        let Ok(was) = damaged.read_file(&mend.file) else { continue };
        let wanted = usize::try_from(mend.cut_bytes).unwrap();
        let found = kept.iter().any(|bytes| bytes.len() == wanted && was.windows(wanted).any(|part| part == bytes));
        if !found {
            return Err(format!("{when}: {mend} is not kept"));
        }
    }
    Ok(())
}

#[test]
fn a_repair_that_is_stopped_anywhere_ends_the_same() {
    for case in &CASES {
        let stops = survey(case, stride(), None).unwrap();
        assert!(stops > 1, "{}: {stops}", case.name);
    }
}

#[test]
fn without_any_of_their_syncs_it_is_noticed() {
    for site in [SyncSite::Aside, SyncSite::AsideDir, SyncSite::Mended] {
        let noticed = CASES.iter().any(|case| survey(case, 1, Some(site)).is_err());
        assert!(noticed, "without {site:?}");
    }
}

#[test]
fn a_call_that_fails_leaves_a_store_that_can_be_repaired() {
    for case in CASES.iter().step_by(3) {
        let damaged = specimen(case.left);
        (case.damage)(&damaged);
        let expected = {
            let disk = damaged.copy_tree();
            repair(&disk).unwrap();
            shown(&disk)
        };
        for call in (1..).step_by(stride()) {
            let disk = damaged.copy_tree();
            let before = disk.all_ops();
            disk.fail_op(call, Failure::EIO, Repeat::Once);
            let failed = repair(&disk).err();
            let reached = disk.all_ops() - before >= call;
            disk.clear_faults();
            disk.power_cut();
            let again = repair(&disk).unwrap();
            assert!(again.verification.is_sound(), "{} at call {call}: {again:?}", case.name);
            let unlike = shown(&disk).unlike(&expected);
            assert_eq!(unlike, None, "{} at call {call}: {failed:?}, {again:?}", case.name);
            if !reached && failed.is_none() {
                break;
            }
        }
    }
}

/// Where only partitions are looked at.
#[test]
fn a_gap_is_told_once_with_its_range() {
    let disk = specimen(Left::Closed);
    let path = segment(&disk, "lines", 1);
    disk.remove_file(&path).unwrap();
    let report = repair(&disk).unwrap();
    let [lost] = &report.done.lost[..] else { panic!("{report:?}") };
    assert_eq!((lost.topic.as_str(), lost.partition), ("lines", PartitionId(0)));
    let store = options(&disk).open(DIR).unwrap();
    let (start, end) = store.offsets("lines", PartitionId(0)).unwrap();
    assert!(start < lost.offsets.start && lost.offsets.end < end);
    let mut consumer = store.consumer(LINES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
    let error = consumer.by_ref().find_map(Result::err).unwrap();
    assert_eq!((error.kind(), error.gap()), (ErrorKind::Gap, Some(lost.offsets.clone())));
}

/// Topics that were made, deleted and made anew in frames behind the damage; and another owner, which has consumed what
/// is lost.
#[test]
fn what_happened_behind_a_damaged_frame_does_not_come_back() {
    const LATE: TopicDef<Utf8, Utf8> = TopicDef::new("late");
    let disk = SimDisk::new(3);
    let store = options(&disk).open(DIR).unwrap();
    let lines = store.producer(LINES).unwrap();
    store.producer(PACKED).unwrap().append(b"k", b"v").unwrap();
    lines.append("k", "first").unwrap();
    store.trim().unwrap();
    let (file, position) = trim_point(&disk);
    for n in 0..5 {
        lines.append("k", &line(n)).unwrap();
    }
    store.producer(LATE).unwrap().append("k", "late").unwrap();
    let late = store.topics().unwrap().into_iter().find(|(_, spec)| spec.name == "late").unwrap().0;
    store.delete_topic("packed").unwrap();
    store.transact(|tx| tx.table(COUNTS)?.put("behind", &1)).unwrap();
    let other = options(&disk).attach(DIR, "other").unwrap();
    let mut mail = other.consumer(LINES, ConsumerStyle::ClientTx("theirs".into())).unwrap();
    assert_eq!(mail.try_process(None, |_, _| Ok(oncelog::Outcome::Commit)).unwrap(), 6);
    drop(mail);
    other.close().unwrap();
    disk.process_kill();
    drop((store, lines));
    disk.power_cut();
    // The first frame behind the trim point.
    disk.flip_bit(&file, position + 60, 0).unwrap();
    let report = repair(&disk).unwrap();
    assert!(report.done.left.is_empty() && report.verification.is_sound(), "{report:?}");
    let lost = |topic: &str| report.done.lost.iter().find(|lost| lost.topic == topic).map(|lost| lost.offsets.clone());
    assert_eq!(lost("lines"), Some(LogOffset(1)..LogOffset(6)));
    assert_eq!(lost("packed"), Some(LogOffset(0)..LogOffset(1)), "its files went with its deletion");
    assert!(report.done.mends.iter().any(|mend| mend.what.contains("\"late\" was made behind the damage")));
    check_beside_owner(&disk, "behind the damage");

    let store = options(&disk).open(DIR).unwrap();
    assert_eq!(store.tables().unwrap(), [], "the table was made behind the damage");
    store.transact(|tx| tx.table(COUNTS)?.put("new", &1)).unwrap();
    assert_eq!(store.snapshot().unwrap().scan(COUNTS, ..).unwrap(), [("new".to_owned(), 1)]);
    // Made anew it inherits nothing, its id least of all.
    let at = store.producer(LATE).unwrap().append("k", "anew").unwrap();
    let anew = store.topics().unwrap().into_iter().find(|(_, spec)| spec.name == "late").unwrap().0;
    assert!(at == LogOffset(0) && anew > late, "{at} {anew} {late}");
    let first: Vec<_> = store.consumer(LATE, ConsumerStyle::NonTx(Whence::Oldest)).unwrap().collect();
    assert_eq!(first.len(), 1);
    let appended = store.producer(LINES).unwrap().append("k", "behind the gap").unwrap();
    // Who had consumed what is lost is told of the gap, and gets what is new.
    let other = options(&disk).attach(DIR, "other").unwrap();
    let mut mail = other.consumer(LINES, ConsumerStyle::ClientTx("theirs".into())).unwrap();
    let error = mail.try_process(None, |_, _| Ok(oncelog::Outcome::Commit)).unwrap_err();
    assert_eq!(error.gap(), Some(LogOffset(6)..appended), "{error}");
    mail.skip_gap().unwrap();
    assert_eq!(mail.try_process(None, |_, _| Ok(oncelog::Outcome::Commit)).unwrap(), 1);
    drop(mail);
    other.close().unwrap();
    store.close().unwrap();
    disk.power_cut();
    let reader = StoreReader::options().disk(Arc::new(disk.clone())).open(DIR).unwrap();
    let found = reader.verify(|_| {}).unwrap();
    assert!(found.is_sound(), "{:?}", found.damage);
}

/// A store with a second owner, which reads `lines` as its global consumer and as `theirs`; damage that can be mended
/// is in the manifest of the first.
fn two_owners() -> SimDisk {
    let disk = specimen(Left::Closed);
    let main = options(&disk).open(DIR).unwrap();
    let other = options(&disk).attach(DIR, "other").unwrap();
    for style in [ConsumerStyle::GlobalTx, ConsumerStyle::ClientTx("theirs".into())] {
        let mut consumer = other.consumer(LINES, style).unwrap();
        assert!(consumer.try_process(Some(3), |_, _| Ok(oncelog::Outcome::Commit)).unwrap() > 0);
    }
    other.close().unwrap();
    main.close().unwrap();
    disk.flip_bit(Path::new(DIR).join("owners/main/MANIFEST"), 12288 + 50, 0).unwrap();
    disk
}

/// The claim of the global consumer of `lines`.
fn global_claim(disk: &SimDisk) -> PathBuf {
    files(disk, "consumers/%global-").remove(0)
}

#[test]
fn a_damaged_claim_of_a_global_consumer_goes_back_to_its_owner() {
    let disk = two_owners();
    let (global, theirs) = (global_claim(&disk), Path::new(DIR).join("consumers/theirs/CLAIM"));
    let written = [&global, &theirs].map(|path| disk.read_file(path).unwrap());
    disk.flip_bit(&global, 20, 0).unwrap();
    disk.flip_bit(&theirs, 20, 0).unwrap();
    let report = repair(&disk).unwrap();
    assert!(report.done.left.is_empty() && report.verification.is_sound(), "{report:?}");
    assert_eq!([&global, &theirs].map(|path| disk.read_file(path).unwrap()), written);
}

#[test]
fn no_name_is_free_while_an_owner_cannot_be_read() {
    let disk = two_owners();
    let claims = [global_claim(&disk), Path::new(DIR).join("consumers/theirs/CLAIM")];
    claims.iter().for_each(|path| disk.flip_bit(path, 20, 0).unwrap());
    for at in [0, 4096, 8192, 12288] {
        disk.flip_bit(Path::new(DIR).join("owners/other/MANIFEST"), at + 50, 0).unwrap();
    }
    let damaged = claims.clone().map(|path| disk.read_file(path).unwrap());
    let report = repair(&disk).unwrap();
    assert!(!report.done.mends.is_empty() && !report.done.left.is_empty(), "{report:?}");
    assert_eq!(claims.map(|path| disk.read_file(path).unwrap()), damaged, "{report:?}");
}

#[test]
fn segments_that_were_swapped_get_their_names_again() {
    for left in [Left::Closed, Left::Killed] {
        let disk = specimen(left);
        let before = shown(&disk.copy_tree());
        let (one, two) = (segment(&disk, "packed", 0), segment(&disk, "packed", 1));
        swap(&disk, &one, &two);
        let damaged = disk.copy_tree();
        let report = repair(&disk).unwrap();
        assert!(report.done.lost.is_empty() && report.done.left.is_empty(), "{report:?}");
        assert!(report.verification.is_sound(), "{report:?}");
        assert_eq!(shown(&disk).unlike(&before), None);
        for change in (1..).step_by(stride()) {
            let disk = damaged.copy_tree();
            disk.reseed(change);
            disk.crash_after(change);
            let _ = repair(&disk);
            let is_done = !disk.is_dead();
            disk.power_cut();
            let again = repair(&disk).unwrap();
            assert!(again.done.lost.is_empty() && again.verification.is_sound(), "at {change}: {again:?}");
            assert_eq!(shown(&disk).unlike(&before), None, "at {change}");
            if is_done {
                break;
            }
        }
    }
}

fn swap(disk: &SimDisk, one: &Path, two: &Path) {
    let between = one.with_extension("between");
    disk.rename_file(one, &between).unwrap();
    disk.rename_file(two, one).unwrap();
    disk.rename_file(&between, two).unwrap();
}

/// What is whole, and elsewhere in the store, is not lost: it is told, and nothing is cut.
#[test]
fn what_is_in_another_place_of_the_store_is_not_cut_out() {
    let partition: fn(&SimDisk) =
        |disk| swap(disk, &Path::new(DIR).join("topics/packed/000000"), &Path::new(DIR).join("topics/packed/000001"));
    let topic: fn(&SimDisk) =
        |disk| swap(disk, &Path::new(DIR).join("topics/lines"), &Path::new(DIR).join("topics/packed"));
    let moved: fn(&SimDisk) = |disk| {
        let path = segment(disk, "lines", 1);
        disk.rename_file(&path, Path::new(DIR).join("topics/packed/000001").join(path.file_name().unwrap())).unwrap();
    };
    for (name, damage) in [("partitions", partition), ("topics", topic), ("a file", moved)] {
        let disk = specimen(Left::Closed);
        damage(&disk);
        let was: BTreeMap<_, _> =
            files(&disk, "/topics/").into_iter().map(|path| (path.clone(), disk.read_file(path).unwrap())).collect();
        // Something else is mended.
        disk.flip_bit(Path::new(DIR).join("owners/main/MANIFEST"), 12288 + 50, 0).unwrap();
        let report = repair(&disk).unwrap();
        assert!(report.done.lost.is_empty() && !report.done.left.is_empty(), "{name}: {report:?}");
        for (path, bytes) in was.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "segment")) {
            assert!(disk.read_file(path).is_ok_and(|found| found == *bytes), "{name}: {}", path.display());
        }
        for (path, bytes) in was.iter().filter(|(path, _)| path.ends_with("CLAIM")) {
            assert!(disk.read_file(path).unwrap() == *bytes, "{name}: {}", path.display());
        }
    }
}

/// Behind a damaged journal nobody knows what was given out of a topic that cannot be put together.
#[test]
fn a_damaged_journal_is_left_if_a_topic_cannot_go_further_on() {
    let disk = specimen(Left::Killed);
    let (lines, packed) = (Path::new(DIR).join("topics/lines/CLAIM"), Path::new(DIR).join("topics/packed/CLAIM"));
    swap(&disk, &lines, &packed);
    let (path, position) = trim_point(&disk);
    disk.flip_bit(path, position + 600, 0).unwrap();
    let image = disk.image_hash();
    let report = repair(&disk).unwrap();
    assert!(report.done.mends.is_empty() && !report.done.left.is_empty(), "{report:?}");
    assert_eq!(disk.image_hash(), image);
}

#[test]
fn directories_that_a_backup_left_out_are_made() {
    let disk = SimDisk::new(5);
    let store = options(&disk).open(DIR).unwrap();
    store.producer(LINES).unwrap().append("k", "v").unwrap();
    store.close().unwrap();
    for dir in ["tables", "consumers", "owners/main/aside"] {
        disk.remove_dir(&Path::new(DIR).join(dir)).unwrap();
    }
    let report = repair(&disk).unwrap();
    assert!(!report.done.mends.is_empty() && report.done.left.is_empty(), "{report:?}");
    disk.power_cut();
    for dir in ["tables", "consumers", "owners/main/aside"] {
        assert_eq!(disk.list(&Path::new(DIR).join(dir)).unwrap(), Vec::<PathBuf>::new());
    }
    assert!(plan(&disk).is_empty());
    assert_eq!(shown(&disk).records.len(), 1);
}

#[test]
fn a_damaged_claim_on_a_topic_that_nobody_knows_is_free_again_unless_it_has_records() {
    let disk = specimen(Left::Closed);
    let ghost = Path::new(DIR).join("topics/ghost");
    disk.create_dir(&ghost).unwrap();
    disk.write_file(ghost.join("CLAIM"), b"no claim at all").unwrap();
    disk.sync_dir(&ghost, SyncSite::TopicDir).unwrap();
    disk.sync_dir(&Path::new(DIR).join("topics"), SyncSite::TopicDir).unwrap();
    let with_records = disk.copy_tree();
    let report = repair(&disk).unwrap();
    assert!(!report.done.mends.is_empty() && report.done.left.is_empty(), "{report:?}");
    let store = options(&disk).open(DIR).unwrap();
    store.producer(TopicDef::<Utf8, Utf8>::new("ghost")).unwrap().append("k", "v").unwrap();
    store.close().unwrap();

    with_records.create_dir(&ghost.join("000000")).unwrap();
    let records = with_records.read_file(segment(&with_records, "lines", 0)).unwrap();
    with_records.write_file(ghost.join("000000/00000000000000000000-0000000001.segment"), &records).unwrap();
    let report = repair(&with_records).unwrap();
    assert!(report.done.mends.is_empty() && !report.done.left.is_empty(), "{report:?}");
    assert!(with_records.read_file(ghost.join("CLAIM")).is_ok());
}

#[test]
fn an_owner_in_a_directory_of_another_name_is_told() {
    let disk = two_owners();
    disk.rename_file(Path::new(DIR).join("owners/other"), Path::new(DIR).join("owners/moved")).unwrap();
    let planned = plan(&disk);
    assert!(planned.left.iter().any(|error| error.to_string().contains("moved")), "{planned:?}");
    let report = repair(&disk).unwrap();
    assert!(!report.done.mends.is_empty() && !report.done.left.is_empty(), "the other owner is mended: {report:?}");
}

/// What was lost up to an error is known, also if the next attempt finds nothing to tell of it any more.
#[test]
fn what_is_lost_is_told_if_a_later_step_fails() {
    let disk = specimen(Left::Closed);
    disk.remove_file(segment(&disk, "lines", 1)).unwrap();
    let mut told_with_an_error = 0;
    for call in (1..).step_by(stride()) {
        let disk = disk.copy_tree();
        let before = disk.all_ops();
        disk.fail_op(call, Failure::EIO, Repeat::Once);
        let mut done = RepairPlan::default();
        let ended = options(&disk).repair_into(DIR, &mut done);
        let reached = disk.all_ops() - before >= call;
        disk.clear_faults();
        disk.power_cut();
        let again = repair(&disk).unwrap().done;
        assert!(!done.lost.is_empty() || !again.lost.is_empty(), "at call {call}: {ended:?}, {done:?}, {again:?}");
        told_with_an_error += u64::from(ended.is_err() && !done.lost.is_empty());
        if !reached && ended.is_ok() {
            break;
        }
    }
    assert!(told_with_an_error > 0);
}
