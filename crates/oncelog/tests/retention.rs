//! Removing old records: by hand, by size, by age; what must be kept; and what everybody who reads is told.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and looks at its files")]

#[path = "common/copy.rs"]
mod copy;
#[path = "common/hooked_disk.rs"]
mod hooked_disk;
#[path = "common/set_clock.rs"]
mod set_clock;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use copy::copy_dir;
use oncelog::clock::Clock;
use oncelog::disk::MemoryDisk;
use oncelog::{
    Bytes, ConsumerOptions, ConsumerStyle, ErrorKind, GapPolicy, IdempotentProducerConfig, LogOffset, MinimumRetention,
    Outcome, PartitionId, Processor, Result, Sequence, Store, StoreOptions, StoreReader, SyncPolicy, TopicChange,
    TopicDef, WhenFull, Whence,
};
use set_clock::SetClock;

const LINES: TopicDef<Bytes, Bytes> = TopicDef::new("lines").file_roll_size(2048);
const ZERO: PartitionId = PartitionId(0);

fn options() -> StoreOptions {
    Store::options().journal_file_bytes(64 << 10)
}

fn append(store: &Store, count: usize) {
    let lines = store.producer(LINES).unwrap();
    (0..count).try_for_each(|_| lines.append(&b"k"[..], &[7; 200]).map(drop)).unwrap();
}

fn segments(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir.join("topics/lines/000000")).unwrap();
    let mut names: Vec<_> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".segment"));
    names.sort();
    names
}

fn offsets(store: &Store, whence: Whence) -> (Vec<u64>, Vec<(u64, u64)>) {
    let mut consumer = store.consumer(LINES, ConsumerOptions::new(ConsumerStyle::NonTx(whence))).unwrap();
    let (mut found, mut gaps) = (Vec::new(), Vec::new());
    while let Some(record) = consumer.next() {
        match record {
            Ok(record) => found.push(record.id.offset.0),
            Err(error) => {
                let gap = error.gap().unwrap_or_else(|| panic!("{error}"));
                gaps.push((gap.start.0, gap.end.0));
                consumer.skip_gap().unwrap();
            }
        }
    }
    (found, gaps)
}

#[test]
fn truncation_is_told_to_everybody_and_stays() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    append(&store, 40);
    let reader = StoreReader::open(home.path())?;
    let mut behind = reader.cursor("lines", Whence::Oldest)?;
    let before = segments(home.path());
    // In the middle of a segment: it stays, and what is below cannot be read any more.
    store.truncate_before("lines", ZERO, LogOffset(20))?;
    let kept = segments(home.path());
    assert!(kept.len() < before.len() && kept.len() > 1, "{before:?} {kept:?}");
    let first: u64 = kept[0][..20].parse().unwrap();
    assert!(first < 20, "it ends within a segment: {kept:?}");
    assert_eq!(store.offsets("lines", ZERO)?, (LogOffset(20), LogOffset(40)));
    assert_eq!(reader.offsets("lines", ZERO)?, (LogOffset(20), LogOffset(40)));
    let error = behind.find_map(Result::err).expect("a gap is told");
    assert_eq!(error.gap(), Some(LogOffset(0)..LogOffset(20)), "{error}");
    assert_eq!(offsets(&store, Whence::Oldest), ((20..40).collect(), vec![]));
    assert_eq!(offsets(&store, Whence::Position(LogOffset(first))), ((20..40).collect(), vec![(first, 20)]));
    assert_eq!(offsets(&store, Whence::Time(0)), ((20..40).collect(), vec![]));
    let found: Vec<_> = reader.cursor("lines", Whence::Time(0))?.map(|record| record.unwrap().id.offset.0).collect();
    assert_eq!(found, (20..40).collect::<Vec<_>>());
    // Back is no way, and twice is once.
    store.truncate_before("lines", ZERO, LogOffset(3))?;
    assert_eq!(store.offsets("lines", ZERO)?.0, LogOffset(20));
    assert!(StoreReader::open(home.path())?.verify(|_| {})?.damage.is_empty());
    drop(store);
    // Without an owner, and with the next one.
    assert_eq!(StoreReader::open(home.path())?.offsets("lines", ZERO)?, (LogOffset(20), LogOffset(40)));
    let store = options().open(home.path())?;
    assert_eq!(segments(home.path()), kept);
    assert_eq!(offsets(&store, Whence::Oldest), ((20..40).collect(), vec![]));
    append(&store, 1);
    assert_eq!(offsets(&store, Whence::Oldest), ((20..41).collect(), vec![]));
    Ok(())
}

#[test]
fn a_topic_that_is_emptied_goes_on_at_its_end() -> Result<()> {
    for reopened in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let mut store = options().open(home.path())?;
        append(&store, 25);
        store.truncate_before("lines", ZERO, LogOffset(25))?;
        assert_eq!(segments(home.path()), Vec::<String>::new());
        if reopened {
            drop(store);
            store = options().open(home.path())?;
        }
        assert_eq!(store.offsets("lines", ZERO)?, (LogOffset(25), LogOffset(25)));
        assert_eq!(offsets(&store, Whence::Oldest), (vec![], vec![]));
        append(&store, 2);
        assert_eq!(offsets(&store, Whence::Position(LogOffset(0))), (vec![25, 26], vec![(0, 25)]));
        assert_eq!(segments(home.path()).len(), 1);
        assert!(StoreReader::open(home.path())?.verify(|_| {})?.damage.is_empty());
    }
    Ok(())
}

#[test]
fn wrong_places_are_refused_and_nothing_is_removed() -> Result<()> {
    let store = Store::in_memory()?;
    append(&store, 5);
    let refused = |topic: &str, partition, offset| {
        store.truncate_before(topic, PartitionId(partition), LogOffset(offset)).unwrap_err().kind()
    };
    assert_eq!(refused("lines", 0, 6), ErrorKind::Invalid);
    assert_eq!(refused("lines", 1, 0), ErrorKind::Invalid);
    assert_eq!(refused("others", 0, 0), ErrorKind::NotFound);
    assert_eq!(offsets(&store, Whence::Oldest), ((0..5).collect(), vec![]));
    store.close()
}

#[test]
fn a_consumer_that_was_overtaken_is_told_once_and_goes_on() -> Result<()> {
    let store = Store::in_memory()?;
    append(&store, 30);
    let style = ConsumerStyle::ClientTx("audit".into());
    let mut audit = store.consumer(LINES, ConsumerOptions::new(style).on_gap(GapPolicy::Skip))?;
    assert_eq!(audit.next().unwrap()?.id.offset, LogOffset(0));
    store.truncate_before("lines", ZERO, LogOffset(17))?;
    let rest: Vec<_> = audit.by_ref().map(|record| record.map(|record| record.id.offset.0)).collect::<Result<_>>()?;
    assert_eq!(rest, (17..30).collect::<Vec<_>>());
    drop(audit);
    assert_eq!(store.committed_offsets("audit", "lines")?, [LogOffset(30)]);
    store.close()
}

fn manual(clock: &Arc<SetClock>) -> StoreOptions {
    options().manual_duties().clock(Arc::clone(clock) as Arc<dyn Clock>)
}

/// What the topic holds; with what is taken ahead in the newest of four segments it is on the disk.
fn bytes_kept(store: &Store, dir: &Path) -> u64 {
    let bytes: u64 = store.describe_topic("lines").unwrap().iter().map(|partition| partition.bytes).sum();
    let found = std::fs::read_dir(dir.join("topics/lines/000000")).unwrap();
    let on_disk: u64 = found.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(on_disk < bytes + (5 << 10), "{on_disk} {bytes}");
    bytes
}

#[test]
fn by_bytes_the_oldest_segments_go_and_the_newest_records_stay() -> Result<()> {
    const SMALL: TopicDef<Bytes, Bytes> = LINES_OF_16_KIB;
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let lines = store.producer(SMALL)?;
    for _ in 0..20 {
        (0..20).try_for_each(|_| lines.append(&b"k"[..], &[7; 200]).map(drop))?;
        clock.pass(1);
        store.run_duties()?;
        assert!(bytes_kept(&store, home.path()) <= 16 << 10);
    }
    let (start, end) = store.offsets("lines", ZERO)?;
    assert_eq!(end, LogOffset(400));
    assert!(start > LogOffset(300) && start < LogOffset(380), "{start}");
    assert_eq!(offsets(&store, Whence::Oldest), ((start.0..400).collect(), vec![]));
    let stats = store.stats();
    assert!(stats.removed_segments > 10 && stats.removed_bytes > 50_000, "{stats:?}");
    drop(lines);
    store.close()?;
    let store = manual(&clock).open(home.path())?;
    assert_eq!(store.offsets("lines", ZERO)?, (start, end));
    // What may be kept is part of the topic, and can be changed.
    store.alter_topic("lines", &TopicChange::default().max_total_bytes(Some(8 << 10)))?;
    store.run_duties()?;
    clock.pass(6);
    store.run_duties()?;
    assert!(bytes_kept(&store, home.path()) <= 8 << 10);
    Ok(())
}

const LINES_OF_16_KIB: TopicDef<Bytes, Bytes> = TopicDef::new("lines").max_total_bytes(16 << 10);

#[test]
fn by_age_nothing_goes_early_whatever_the_wall_clock_does() -> Result<()> {
    const AGED: TopicDef<Bytes, Bytes> = LINES.max_file_age(Duration::from_secs(3600));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    clock.wall_ms.store(1_700_000_000_000, Ordering::SeqCst);
    let store = manual(&clock).open(home.path())?;
    store.producer(AGED)?;
    append(&store, 25);
    let start = |store: &Store| store.offsets("lines", ZERO).map(|(start, _)| start.0);
    store.retain()?;
    clock.wall_ms.fetch_add(1 << 40, Ordering::SeqCst);
    store.retain()?;
    assert_eq!(start(&store)?, 0, "the wall clock jumped ahead");
    clock.wall_ms.store(5, Ordering::SeqCst);
    store.retain()?;
    assert_eq!(start(&store)?, 0, "the wall clock went back");
    clock.pass(3599);
    store.retain()?;
    assert_eq!(start(&store)?, 0);
    // The sealed ones go, the newest is ended.
    clock.pass(1);
    store.retain()?;
    let sealed = start(&store)?;
    assert!(sealed > 10 && sealed < 25, "{sealed}");
    append(&store, 1);
    assert_eq!(segments(home.path()).len(), 2);
    store.close()?;
    // Closed with the wall clock far back: the store's own goes on.
    let store = manual(&clock).open(home.path())?;
    clock.pass(3599);
    store.retain()?;
    assert_eq!(start(&store)?, sealed);
    clock.pass(1);
    store.retain()?;
    assert_eq!(start(&store)?, 25);
    assert_eq!(offsets(&store, Whence::Oldest), (vec![25], vec![]));
    Ok(())
}

const KEPT: TopicDef<Bytes, Bytes> =
    LINES_OF_16_KIB.blocking_minimum_retention(MinimumRetention::consumers(&["audit"]));

fn audit(store: &Store) -> Result<oncelog::Consumer<Bytes, Bytes>> {
    store.consumer(KEPT, ConsumerStyle::ClientTx("audit".into()))
}

#[test]
fn a_full_topic_refuses_and_drops_nothing_that_is_unread() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    for policy in [SyncPolicy::Always, SyncPolicy::Os] {
        let lines = store.producer(KEPT)?.sync_policy(policy).when_full(WhenFull::Fail);
        let mut audit = audit(&store)?;
        let mut read = store.committed_offsets("audit", "lines")?[0].0;
        for _ in 0..5 {
            let full = loop {
                match lines.append(&b"k"[..], &[7; 200]) {
                    Ok(_) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(full.kind(), ErrorKind::TopicFull, "{full}");
            assert!(full.to_string().contains("\"lines\""), "{full}");
            let batch = lines.append_batch([(&b"k"[..], &[7; 200][..])]);
            assert_eq!(batch.unwrap_err().kind(), ErrorKind::TopicFull);
            store.flush()?;
            let (start, end) = store.offsets("lines", ZERO)?;
            assert!(start.0 <= read && end.0 > read + 5, "{start} {read} {end}");
            assert!(bytes_kept(&store, home.path()) <= 16 << 10);
            store.retain()?;
            assert!(store.offsets("lines", ZERO)?.0.0 <= read, "nothing unread goes");
            let found: Vec<_> =
                audit.by_ref().map(|record| record.map(|record| record.id.offset.0)).collect::<Result<_>>()?;
            assert_eq!(found, (read..end.0).collect::<Vec<_>>());
            read = end.0;
            store.retain()?;
            assert!(store.offsets("lines", ZERO)?.0 > start);
        }
    }
    assert!(store.stats().appends_refused >= 20);
    let lines = store.producer(KEPT)?;
    let error = lines.append(&b"k"[..], &[7; 20 << 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    Ok(())
}

#[test]
fn an_append_waits_for_the_consumer_whichever_owner_it_has() -> Result<()> {
    for owner in ["main", "other"] {
        let home = tempfile::tempdir().unwrap();
        let store = options().open(home.path())?;
        let lines = store.producer(KEPT)?;
        let other = if owner == "main" { store.clone() } else { options().attach(home.path(), owner)? };
        let mut audit = audit(&other)?;
        let appended =
            std::thread::spawn(move || (0..300).try_for_each(|_| lines.append(&b"k"[..], &[7; 200]).map(drop)));
        let mut next = 0;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while next < 300 && std::time::Instant::now() < deadline {
            audit.try_process(None, |record, _| {
                assert_eq!(record.id().offset.0, next);
                next += 1;
                Ok(Outcome::Commit)
            })?;
            std::thread::sleep(Duration::from_millis(2));
        }
        appended.join().unwrap()?;
        assert_eq!(next, 300);
        assert!(store.stats().appends_refused > 0);
    }
    Ok(())
}

#[test]
fn a_producer_with_sequences_waits_too_and_keeps_its_order() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    let mut audit = audit(&store)?;
    let config = IdempotentProducerConfig::new("device");
    let lines = Arc::new(store.idempotent_producer(KEPT, config.clone())?);
    let asked = Arc::clone(&lines);
    let appended = std::thread::spawn(move || {
        for number in 0..100u64 {
            let numbers = [3 * number, 3 * number + 1].map(u64::to_be_bytes);
            let batch = numbers.iter().map(|number| (&number[..], &[7; 200][..]));
            lines.append_batch(batch)?;
            lines.append(&(3 * number + 2).to_be_bytes(), &[7; 200])?;
        }
        Result::Ok(())
    });
    let mut next = 0u64;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while next < 300 && std::time::Instant::now() < deadline {
        audit.try_process(None, |record, _| {
            assert_eq!(record.key()?, &next.to_be_bytes());
            next += 1;
            // Who makes room asks it, and does not wait for whom he makes it.
            assert!(asked.was_issued(Sequence(0)) && asked.current_sequence().0 + 3 >= next);
            Ok(Outcome::Commit)
        })?;
        std::thread::sleep(Duration::from_millis(2));
    }
    appended.join().unwrap()?;
    assert_eq!(next, 300);
    assert!(store.stats().appends_refused > 0);
    // One that does not want to wait has used no sequence.
    let lines = store.idempotent_producer(KEPT, config)?.when_full(WhenFull::Fail);
    let full = std::iter::from_fn(|| lines.append(&b"k"[..], &[7; 200]).err().map(Some).or(Some(None))).find_map(|e| e);
    assert_eq!(full.unwrap().kind(), ErrorKind::TopicFull);
    let (at, end) = (lines.current_sequence(), store.offsets("lines", ZERO)?.1);
    assert_eq!(at.0, end.0);
    Ok(())
}

#[test]
fn a_consumer_that_is_abandoned_is_waited_for_until_its_expiry() -> Result<()> {
    const UNTIL: TopicDef<Bytes, Bytes> = LINES_OF_16_KIB
        .blocking_minimum_retention(MinimumRetention::consumers_until(&["audit"], Duration::from_secs(3600)));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let mut store = manual(&clock).open(home.path())?;
    let fill = |store: &Store| -> Result<()> {
        let lines = store.producer(UNTIL)?.when_full(WhenFull::Fail);
        while lines.append(&b"k"[..], &[7; 200]).is_ok() {}
        Ok(())
    };
    let start = |store: &Store| store.offsets("lines", ZERO).map(|(start, _)| start.0);
    fill(&store)?;
    store.retain()?;
    for _ in 0..3 {
        clock.pass(1190);
        // A restart is no reason to wait anew.
        store.close()?;
        store = manual(&clock).open(home.path())?;
        fill(&store)?;
        store.retain()?;
        assert_eq!(start(&store)?, 0);
    }
    clock.pass(40);
    fill(&store)?;
    store.retain()?;
    let abandoned = start(&store)?;
    assert!(abandoned > 0);
    // It comes back, is told, and counts again.
    let audit =
        store.consumer(UNTIL, ConsumerOptions::new(ConsumerStyle::ClientTx("audit".into())).on_gap(GapPolicy::Skip))?;
    assert_eq!(audit.take(3).last().unwrap()?.id.offset.0, abandoned + 2);
    for _ in 0..4 {
        clock.pass(3000);
        fill(&store)?;
        store.retain()?;
        if start(&store)? > abandoned + 2 {
            return Ok(());
        }
    }
    panic!("it is abandoned again in the end")
}

#[test]
fn what_must_be_kept_for_a_time_is_kept_for_it() -> Result<()> {
    const FOR_AN_HOUR: TopicDef<Bytes, Bytes> =
        LINES_OF_16_KIB.blocking_minimum_retention(MinimumRetention::Age(Duration::from_secs(3600)));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let lines = store.producer(FOR_AN_HOUR)?.when_full(WhenFull::Fail);
    while lines.append(&b"k"[..], &[7; 200]).is_ok() {}
    let end = store.offsets("lines", ZERO)?.1;
    store.retain()?;
    assert_eq!(store.offsets("lines", ZERO)?, (LogOffset(0), end));
    clock.pass(3601);
    assert!(lines.append(&b"k"[..], &[7; 200]).is_err(), "room is made by the next round");
    store.retain()?;
    assert!(store.offsets("lines", ZERO)?.0 > LogOffset(0));
    lines.append(&b"k"[..], &[7; 200])?;
    Ok(())
}

#[test]
fn a_processor_waits_while_its_output_is_full() -> Result<()> {
    const INPUT: TopicDef<Bytes, Bytes> = TopicDef::new("input");
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    let input = store.producer(INPUT)?;
    (0..200).try_for_each(|_| input.append(&b"k"[..], &[1; 200]).map(drop))?;
    store.producer(KEPT)?;
    let run = Processor::new("copies", INPUT).output(KEPT).commit_records(5).start(&store, |record, tx| {
        tx.append(KEPT, record.key()?, record.value()?)?;
        Ok(Outcome::Commit)
    })?;
    assert!(!run.wait_caught_up(Duration::from_millis(300))?);
    assert!(!run.is_finished());
    let mut audit = audit(&store)?;
    let mut next = 0;
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while next < 200 && std::time::Instant::now() < deadline {
        audit.try_process(None, |record, _| {
            assert_eq!(record.id().offset.0, next);
            next += 1;
            Ok(Outcome::Commit)
        })?;
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(next, 200);
    run.stop()
}

#[test]
fn what_was_ended_for_its_age_is_not_written_on() -> Result<()> {
    const AGED: TopicDef<Bytes, Bytes> = LINES.max_file_age(Duration::from_secs(3600));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    store.producer(AGED)?;
    append(&store, 1);
    store.retain()?;
    clock.pass(3600);
    store.retain()?;
    store.close()?;
    let store = manual(&clock).open(home.path())?;
    append(&store, 1);
    clock.pass(3600);
    store.retain()?;
    assert_eq!(store.offsets("lines", ZERO)?, (LogOffset(1), LogOffset(2)), "the first went, the other is young");
    assert_eq!(offsets(&store, Whence::Oldest), (vec![1], vec![]));
    store.close()
}

#[test]
fn a_program_that_is_started_again_and_again_keeps_nothing_for_ever() -> Result<()> {
    const AGED: TopicDef<Bytes, Bytes> = LINES.max_file_age(Duration::from_secs(3600));
    for orderly in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let clock = Arc::new(SetClock::default());
        let mut dir = home.path().join("0");
        let store = manual(&clock).open(&dir)?;
        store.producer(AGED)?;
        append(&store, 1);
        store.close()?;
        for number in 1..20 {
            let store = manual(&clock).open(&dir)?;
            store.retain()?;
            clock.pass(600);
            if !orderly {
                // As a kill leaves it.
                store.trim()?;
                let next = home.path().join(number.to_string());
                copy_dir(&dir, &next);
                dir = next;
            }
            store.close()?;
        }
        let store = manual(&clock).open(&dir)?;
        store.retain()?;
        assert_eq!(store.offsets("lines", ZERO)?, (LogOffset(1), LogOffset(1)), "{orderly}");
    }
    Ok(())
}

#[test]
fn several_consumers_of_another_owner_are_all_seen() -> Result<()> {
    const BOTH: TopicDef<Bytes, Bytes> =
        LINES_OF_16_KIB.blocking_minimum_retention(MinimumRetention::consumers(&["one", "two"]));
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    let lines = store.producer(BOTH)?.when_full(WhenFull::Fail);
    let mut appended = 0u64;
    let mut fill = || {
        while lines.append(&b"k"[..], &[7; 200]).is_ok() {
            appended += 1;
        }
        appended
    };
    let full = fill();
    let other = options().attach(home.path(), "other")?;
    for id in ["one", "two"] {
        let read =
            other.consumer(BOTH, ConsumerStyle::ClientTx(id.into()))?.try_process(None, |_, _| Ok(Outcome::Commit))?;
        assert_eq!(read, full);
        let more = std::time::Instant::now();
        while id == "two" && fill() == full {
            assert!(more.elapsed() < Duration::from_secs(60), "there is room when both have read");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(id == "two" || fill() == full, "one of them has not read");
    }
    Ok(())
}

#[test]
fn a_consumer_that_had_nothing_to_read_is_not_abandoned() -> Result<()> {
    const UNTIL: TopicDef<Bytes, Bytes> = LINES_OF_16_KIB
        .blocking_minimum_retention(MinimumRetention::consumers_until(&["audit"], Duration::from_secs(3600)));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let lines = store.producer(UNTIL)?.when_full(WhenFull::Fail);
    let mut audit = store.consumer(UNTIL, ConsumerStyle::ClientTx("audit".into()))?;
    let mut read = 0;
    for quiet in [7200, 7200, 7200] {
        for _ in 0..6 {
            while lines.append(&b"k"[..], &[7; 200]).is_ok() {}
            store.retain()?;
        }
        assert!(store.offsets("lines", ZERO)?.0.0 <= read, "after {quiet} s");
        read += audit.try_process(None, |_, _| Ok(Outcome::Commit))?;
        clock.pass(300);
        store.retain()?;
        clock.pass(quiet);
        store.retain()?;
    }
    // Put back to where it was noted once: it has not been waited for there.
    drop(audit);
    while lines.append(&b"k"[..], &[7; 200]).is_ok() {}
    store.retain()?;
    let start = store.offsets("lines", ZERO)?.0;
    store.reset_consumer("audit", "lines", &[(ZERO, start)])?;
    store.retain()?;
    assert_eq!(store.offsets("lines", ZERO)?.0, start);
    Ok(())
}

#[test]
fn an_owner_that_cannot_be_looked_at_holds_all() -> Result<()> {
    const UNTIL: TopicDef<Bytes, Bytes> = LINES_OF_16_KIB
        .blocking_minimum_retention(MinimumRetention::consumers_until(&["audit"], Duration::from_secs(3600)));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let lines = store.producer(UNTIL)?.when_full(WhenFull::Fail);
    let other = options().attach(home.path(), "other")?;
    other.create_consumers(["audit"])?;
    other.close()?;
    let manifest = home.path().join("owners/other/MANIFEST");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, [0; 4096]).unwrap();
    while lines.append(&b"k"[..], &[7; 200]).is_ok() {}
    for _ in 0..5 {
        clock.pass(4000);
        store.retain()?;
        assert_eq!(store.offsets("lines", ZERO)?.0, LogOffset(0));
    }
    std::fs::write(&manifest, whole).unwrap();
    for _ in 0..3 {
        clock.pass(4000);
        store.retain()?;
    }
    assert!(store.offsets("lines", ZERO)?.0 > LogOffset(0), "it can be seen, and is abandoned");
    Ok(())
}

#[test]
fn what_is_gathered_is_counted_as_it_is_freed() -> Result<()> {
    let store = Store::in_memory()?;
    let lines = store
        .producer(KEPT)?
        .sync_policy(SyncPolicy::Os)
        .linger(Duration::from_millis(1))
        .batch_bytes(1000)
        .when_full(WhenFull::Fail);
    for _ in 0..50 {
        (0..10).try_for_each(|_| lines.append(&b"k"[..], &[7; 200]).map(drop))?;
        lines.flush()?;
        let (_, end) = store.offsets("lines", ZERO)?;
        store.truncate_before("lines", ZERO, end)?;
    }
    assert_eq!(store.stats().appends_refused, 0);
    store.close()
}

#[test]
fn large_batches_under_an_age_that_must_be_kept_find_room_in_the_end() -> Result<()> {
    const FOR_AN_HOUR: TopicDef<Bytes, Bytes> = TopicDef::new("lines")
        .max_total_bytes(64 << 10)
        .blocking_minimum_retention(MinimumRetention::Age(Duration::from_secs(3600)));
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let lines = store.producer(FOR_AN_HOUR)?.when_full(WhenFull::Fail);
    for _ in 0..4 {
        lines.append(&b"k"[..], &[7; 40 << 10])?;
        assert!(lines.append(&b"k"[..], &[7; 40 << 10]).is_err());
        store.retain()?;
        assert!(lines.append(&b"k"[..], &[7; 40 << 10]).is_err(), "it is young");
        // Ended when it is old enough, and gone when it has been ended for so long.
        clock.pass(3600);
        store.retain()?;
        assert!(lines.append(&b"k"[..], &[7; 40 << 10]).is_err());
        clock.pass(3600);
        store.retain()?;
    }
    Ok(())
}

/// A transaction over a full topic waits for room, and is all there or not at all.
#[test]
fn a_transaction_waits_for_room_as_long_as_it_is_told() -> Result<()> {
    const OTHER: TopicDef<Bytes, Bytes> = TopicDef::new("other");
    let home = tempfile::tempdir().unwrap();
    let store = Store::options().retention_interval(Duration::from_millis(20)).open(home.path())?;
    store.create_consumers(["audit"])?;
    let mut audit = store.consumer(KEPT, ConsumerStyle::ClientTx("audit".into()))?;
    let both = |store: &Store, patience| {
        store.transact_patiently(patience, |tx| {
            tx.append(OTHER, b"k", b"beside")?;
            tx.append(KEPT, b"k", &[7; 200])
        })
    };
    let mut done = 0u64;
    let full = loop {
        match both(&store, Duration::from_millis(50)) {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), ErrorKind::TopicFull, "{full}");
    assert!(done > 5);
    assert_eq!(store.offsets("other", ZERO)?.1, LogOffset(done), "nothing of one that was refused is there");
    let waiting = {
        let store = store.clone();
        std::thread::spawn(move || both(&store, Duration::from_secs(60)))
    };
    std::thread::sleep(Duration::from_millis(150));
    let (is_waiting, before) = (!waiting.is_finished(), store.offsets("other", ZERO)?.1);
    audit.try_process(None, |_, _| Ok(Outcome::Commit))?;
    waiting.join().unwrap()?;
    assert!(is_waiting);
    assert_eq!((before, store.offsets("other", ZERO)?.1), (LogOffset(done), LogOffset(done + 1)));
    assert_eq!(store.offsets("lines", ZERO)?.1, LogOffset(done + 1));
    drop(audit);
    store.close()
}

/// A truncation that was answered with `Full` does not happen later, whoever moves the trim point beside it.
#[test]
fn a_truncation_without_room_is_taken_back_for_good() -> Result<()> {
    let (disk, writes) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(0)));
    let (is_on, theirs) = (Arc::new(AtomicBool::new(false)), Arc::clone(&writes));
    let on = Arc::clone(&is_on);
    let hook = move |event: hooked_disk::Event<'_>| match event {
        hooked_disk::Event::Write(path, _) if path.extension().is_some_and(|kind| kind == "table") => {
            let its_turn = theirs.fetch_add(1, Ordering::SeqCst) % 13 == 0;
            if on.load(Ordering::SeqCst) && its_turn { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
        _ => Ok(()),
    };
    let store = hooked_disk::on(&disk, hook).manual_duties().open("/s")?;
    let lines: TopicDef<Bytes, Bytes> = TopicDef::new("plain");
    let producer = store.producer(lines)?;
    (0..150u64).try_for_each(|number| producer.append(b"k", &number.to_be_bytes()).map(drop))?;
    is_on.store(true, Ordering::SeqCst);
    let stop = Arc::new(AtomicBool::new(false));
    let trimming = {
        let (store, stop) = (store.clone(), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let _ = store.trim();
                std::thread::sleep(Duration::from_micros(100));
            }
        })
    };
    let (mut refused, mut wrong) = (0, Vec::new());
    for to in 1..150u64 {
        match store.truncate_before("plain", ZERO, LogOffset(to)) {
            Ok(()) if store.offsets("plain", ZERO)?.0 == LogOffset(to) => {}
            Err(error) if error.kind() == ErrorKind::Full => {
                refused += 1;
                let moved = (0..100).any(|_| store.trim().is_ok());
                assert!(moved, "the disk is not full for good");
                if store.offsets("plain", ZERO)?.0 >= LogOffset(to) {
                    wrong.push(to);
                }
            }
            other => wrong.extend(other.err().map(|_| to).or(Some(to))),
        }
    }
    stop.store(true, Ordering::SeqCst);
    trimming.join().unwrap();
    is_on.store(false, Ordering::SeqCst);
    assert!(refused > 5, "{refused}");
    assert!(wrong.is_empty(), "{wrong:?} of {refused}");
    drop(producer);
    store.close()
}
