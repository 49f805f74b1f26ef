//! Key compaction: the last record of each key stays where it is, whoever reads, whatever happens on the way.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and looks at its files")]

#[path = "common/hooked_disk.rs"]
mod hooked_disk;
#[path = "common/set_clock.rs"]
mod set_clock;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use hooked_disk::Event;
use oncelog::disk::{MemoryDisk, OpenMode, SyncSite};
use oncelog::{
    Bytes, Compaction, Compression, ConsumerOptions, ConsumerStyle, ErrorKind, GapPolicy, LogOffset, MinimumRetention,
    PartitionId, Result, Step, Store, StoreOptions, StoreReader, SyncPolicy, TopicChange, TopicDef, Whence,
};
use set_clock::SetClock;

const ZERO: PartitionId = PartitionId(0);
const PRICES: TopicDef<Bytes, Bytes> =
    TopicDef::new("prices").file_roll_size(4096).compaction(Compaction::new().min_dirty_percent(0));

fn options() -> StoreOptions {
    Store::options().journal_file_bytes(64 << 10)
}

fn manual(clock: &Arc<SetClock>) -> StoreOptions {
    options().manual_duties().clock(Arc::clone(clock) as _)
}

type Row = (u64, Vec<u8>, Option<Vec<u8>>);
type Rows = Vec<Row>;

/// Says offsets where they differ, and not all that is in them.
fn same(left: &[Row], right: &[Row]) {
    let offsets = |rows: &[Row]| rows.iter().map(|row| row.0).collect::<Vec<_>>();
    assert_eq!(offsets(left), offsets(right));
    assert!(left == right, "the records differ");
}

/// Appends records of a few keys, one in seven a tombstone; gives all that were appended.
fn append(store: &Store, topic: TopicDef<Bytes, Bytes>, from: u64, count: u64, keys: u64) -> Rows {
    let producer = store.producer(topic).unwrap().sync_policy(SyncPolicy::Os);
    let mut rows = Rows::new();
    for number in from..from + count {
        let key = format!("key {}", number * 7 % keys).into_bytes();
        let value = (number % 7 != 3).then(|| format!("{number:<90}").into_bytes());
        let at = producer.append_record(Some(ZERO), Some(&key), value.as_deref(), &[], Some(number as i64)).unwrap();
        rows.push((at.0, key, value));
    }
    store.flush().unwrap();
    rows
}

fn owned(record: &oncelog::Record) -> (u64, Vec<u8>, Option<Vec<u8>>) {
    (
        record.id.offset.0,
        record.key.as_deref().unwrap_or_default().to_vec(),
        record.value.as_deref().map(<[u8]>::to_vec),
    )
}

/// What a consumer from that place on gets. A gap is a failure.
fn read(store: &Store, whence: Whence) -> Rows {
    let consumer = store.consumer(PRICES, ConsumerOptions::new(ConsumerStyle::NonTx(whence))).unwrap();
    consumer.map(|record| owned(&record.unwrap())).collect()
}

fn read_beside(dir: &Path, whence: Whence) -> Rows {
    let reader = StoreReader::open(dir).unwrap();
    reader.cursor("prices", whence).unwrap().map(|record| owned(&record.unwrap())).collect()
}

/// The last value of each key; one that ends in a tombstone has none.
fn last_values(rows: &Rows) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut last = BTreeMap::new();
    for (_, key, value) in rows {
        match value {
            Some(value) => last.insert(key.clone(), value.clone()),
            None => last.remove(key),
        };
    }
    last
}

/// What is left is some of what was written, each key's last record at least, and no record below `end` is followed by
/// one of its key below `end`.
fn check(written: &Rows, left: &Rows, end: u64) {
    let by_offset: BTreeMap<u64, _> = written.iter().map(|row| (row.0, row)).collect();
    assert!(left.iter().all(|row| by_offset[&row.0] == row), "a record changed");
    assert!(left.windows(2).all(|pair| pair[0].0 < pair[1].0), "out of order");
    assert!(last_values(written) == last_values(left), "the last values differ");
    let mut seen = BTreeMap::new();
    for (offset, key, _) in left.iter().filter(|row| row.0 < end) {
        assert_eq!(seen.insert(key, offset), None, "{offset} is not the first of its key below {end}");
    }
    let gone = written.iter().filter(|row| !left.iter().any(|kept| kept.0 == row.0));
    for (offset, key, value) in gone {
        let later = written.iter().any(|row| row.0 > *offset && row.1 == *key && row.0 < end);
        assert!(later || value.is_none(), "record {offset} is gone and nothing came behind it");
    }
}

fn files(dir: &Path) -> Vec<String> {
    let found = std::fs::read_dir(dir.join("topics/prices/000000")).unwrap();
    let mut names: Vec<_> = found.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn compacted(store: &Store) -> u64 {
    store.describe_topic("prices").unwrap()[0].compacted.0
}

fn is_sound(dir: &Path) {
    let found = StoreReader::open(dir).unwrap().verify(|_| {}).unwrap();
    assert!(found.damage.is_empty() && found.lost.is_empty(), "{:?} {:?}", found.damage, found.lost);
}

#[test]
fn the_last_record_of_each_key_stays_in_its_place_for_everybody() -> Result<()> {
    for compression in [Compression::None, Compression::Lz4] {
        let home = tempfile::tempdir().unwrap();
        let store = options().open(home.path())?;
        let topic = || PRICES.compression(compression);
        let mut written = append(&store, topic(), 0, 400, 23);
        let mut slow = store.consumer(PRICES, ConsumerStyle::NonTx(Whence::Oldest))?;
        let reader = StoreReader::open(home.path())?;
        let mut slow_beside = reader.cursor("prices", Whence::Oldest)?;
        let first = owned(&slow.next().unwrap()?);
        assert_eq!(owned(&slow_beside.next().unwrap()?), first);
        let stats = store.compact("prices")?;
        assert!(stats.removed_records > 250 && stats.bytes_after < stats.bytes_before / 3, "{stats:?}");
        assert_eq!((stats.dirty_bytes, stats.failures, stats.last_error.clone()), (0, 0, None), "{stats:?}");
        let end = compacted(&store);
        assert!(end > 300, "{end}");
        let left = read(&store, Whence::Oldest);
        check(&written, &left, end);
        same(&read_beside(home.path(), Whence::Oldest), &left);
        // Those who stood in files that are gone go on, over holes, with no gap told.
        let rest: Rows = slow.map(|record| owned(&record.unwrap())).collect();
        let rest_beside: Rows = slow_beside.map(|record| owned(&record.unwrap())).collect();
        for rest in [&rest, &rest_beside] {
            let all: Rows = std::iter::once(first.clone()).chain(rest.iter().cloned()).collect();
            let missing: Vec<_> = left.iter().filter(|row| !all.contains(row)).collect();
            assert!(missing.is_empty(), "{missing:?}");
            assert!(all.iter().all(|row| written.contains(row)));
        }
        // From within a hole the next record comes, and a time is found.
        for from in (0..400).step_by(3) {
            let expected: Vec<_> = left.iter().filter(|row| row.0 >= from).take(1).collect();
            let found = read(&store, Whence::Position(LogOffset(from)));
            assert!(found.iter().take(1).collect::<Vec<_>>() == expected, "{from}");
            let at = store.offset_at_time("prices", ZERO, i64::try_from(from).unwrap())?;
            assert_eq!(Some(at.0), expected.first().map(|row| row.0), "{from}");
        }
        for from in (0..400).step_by(37) {
            let expected: Rows = left.iter().filter(|row| row.0 >= from).cloned().collect();
            same(&read_beside(home.path(), Whence::Position(LogOffset(from))), &expected);
            same(&read_beside(home.path(), Whence::Time(i64::try_from(from).unwrap())), &expected);
        }
        is_sound(home.path());
        assert!(store.recovery_report().swept.is_empty());
        // More of it, and once more; also with nothing to do.
        written.extend(append(&store, topic(), 400, 300, 40));
        store.compact("prices")?;
        let (names, twice) = (files(home.path()), read(&store, Whence::Oldest));
        check(&written, &twice, compacted(&store));
        assert_eq!(store.compact("prices")?.rounds, 2);
        assert_eq!(files(home.path()), names);
        drop(store);
        // Without an owner, and with the next one.
        same(&read_beside(home.path(), Whence::Oldest), &twice);
        is_sound(home.path());
        let store = options().open(home.path())?;
        same(&read(&store, Whence::Oldest), &twice);
        assert_eq!(store.compaction_stats("prices")?.dirty_bytes, 0);
        written.extend(append(&store, topic(), 700, 200, 11));
        store.compact("prices")?;
        check(&written, &read(&store, Whence::Oldest), compacted(&store));
        is_sound(home.path());
        store.close()?;
    }
    Ok(())
}

#[test]
fn the_background_does_it_when_there_is_enough() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let half = PRICES.compaction(Compaction::new());
    let mut written = append(&store, half.clone(), 0, 200, 5);
    let work = |seconds: u64| -> Result<()> {
        clock.pass(seconds);
        (0..50).try_for_each(|_| store.run_duties())
    };
    work(6)?;
    let first = store.compaction_stats("prices")?;
    assert_eq!((first.rounds, first.dirty_bytes), (1, 0), "{first:?}");
    check(&written, &read(&store, Whence::Oldest), compacted(&store));
    // A little more is not enough: it is less than half of what is there.
    written.extend(append(&store, half.clone(), 200, 3000, 1000));
    work(6)?;
    let second = store.compaction_stats("prices")?;
    assert_eq!(second.rounds, 2, "{second:?}");
    let clean = second.clean_bytes;
    let mut next = 3200;
    while store.compaction_stats("prices")?.dirty_bytes < clean / 2 {
        written.extend(append(&store, half.clone(), next, 50, 1000));
        next += 50;
        work(6)?;
    }
    assert_eq!(store.compaction_stats("prices")?.rounds, 2);
    assert!(store.compaction_stats("prices")?.dirty_percent() < 50);
    while store.compaction_stats("prices")?.dirty_bytes < clean + 5000 {
        written.extend(append(&store, half.clone(), next, 50, 1000));
        next += 50;
    }
    work(6)?;
    assert_eq!(store.compaction_stats("prices")?.rounds, 3);
    check(&written, &read(&store, Whence::Oldest), compacted(&store));
    assert_eq!((store.stats().compactions, store.stats().compactions_failed), (3, 0));
    is_sound(home.path());
    store.close()
}

#[test]
fn what_is_younger_than_the_lag_stays() -> Result<()> {
    let clock = Arc::new(SetClock::default());
    let home = tempfile::tempdir().unwrap();
    let store = manual(&clock).open(home.path())?;
    let lagging = PRICES.compaction(Compaction::new().min_lag(Duration::from_secs(60)));
    let written = append(&store, lagging, 0, 200, 5);
    store.compact("prices")?;
    same(&read(&store, Whence::Oldest), &written);
    clock.wall_ms.fetch_add(1 << 40, Ordering::SeqCst);
    clock.pass(59);
    store.compact("prices")?;
    same(&read(&store, Whence::Oldest), &written); // a wall clock that jumps makes nothing old
    clock.pass(1);
    store.compact("prices")?;
    check(&written, &read(&store, Whence::Oldest), compacted(&store));
    assert!(compacted(&store) > 100);
    store.close()
}

#[test]
fn a_tombstone_stays_for_its_time_and_goes_then() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let topic = || PRICES.compaction(Compaction::new().tombstone_retention(Duration::from_secs(100)));
    let prices = store.producer(topic())?;
    prices.append(b"dead", b"1")?;
    prices.append_record(Some(ZERO), Some(b"dead"), None, &[], None)?;
    let mut written: Rows = vec![(0, b"dead".to_vec(), Some(b"1".to_vec())), (1, b"dead".to_vec(), None)];
    written.extend(append(&store, topic(), 2, 100, 200));
    let dead = |store: &Store| {
        read(store, Whence::Oldest).iter().filter(|row| row.1 == b"dead").map(|row| row.0).collect::<Vec<_>>()
    };
    // Long before it is first compacted: that time does not count.
    clock.pass(1000);
    store.compact("prices")?;
    assert_eq!(dead(&store), [1]);
    clock.pass(99);
    store.compact("prices")?;
    // Written anew meanwhile: its time goes on.
    written.extend(append(&store, topic(), 102, 100, 200));
    store.compact("prices")?;
    assert_eq!(dead(&store), [1]);
    store.close()?;
    let store = manual(&clock).open(home.path())?;
    assert_eq!(dead(&store), [1]);
    clock.pass(1);
    store.compact("prices")?;
    assert_eq!(dead(&store), [0u64; 0]);
    // The others of its batch's file were first compacted later.
    let others = read(&store, Whence::Oldest).iter().filter(|row| row.2.is_none()).count();
    assert!(others > 0);
    check(&written, &read(&store, Whence::Oldest), compacted(&store));
    is_sound(home.path());
    // And in the background, although nothing is written: all of them but those in the newest file.
    clock.pass(200);
    (0..20).try_for_each(|_| store.run_duties())?;
    let left = read(&store, Whence::Oldest);
    assert!(left.iter().all(|row| row.2.is_some() || row.0 >= compacted(&store)));
    assert_eq!(last_values(&written), last_values(&left));
    is_sound(home.path());
    store.close()
}

/// Files that become one again and again would have the age of the youngest for ever.
#[test]
fn records_go_for_their_age_however_often_they_are_written_anew() -> Result<()> {
    const AGE: u64 = 100;
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let aging = PRICES.max_file_age(Duration::from_secs(AGE));
    let producer = store.producer(aging)?.sync_policy(SyncPolicy::Os);
    let mut appended = BTreeMap::new();
    for now in (0..600).step_by(10) {
        // Ends a file, of which one small record stays.
        let at = producer.append(format!("once {now}").as_bytes(), b"stays")?;
        appended.insert(at.0, now);
        (0..9).try_for_each(|_| producer.append(b"hot", &[7; 480]).map(drop))?;
        store.flush()?;
        clock.pass(10);
        (0..12).try_for_each(|_| store.run_duties())?;
        let left: Vec<_> =
            read(&store, Whence::Oldest).iter().filter_map(|row| appended.get(&row.0)).copied().collect();
        // The time of the look that seals a file, and of the one that removes it, come on top.
        assert!(left.iter().all(|then| now - then <= 2 * AGE + 20), "{now}: {left:?}");
        assert!(appended.values().filter(|then| now - **then < AGE).all(|then| left.contains(then)), "{now}: {left:?}");
    }
    // And still some become one.
    let files = files(home.path()).iter().filter(|name| name.ends_with(".segment")).count();
    assert!(files < 10, "{files}");
    assert!(store.compaction_stats("prices")?.rounds > 20);
    is_sound(home.path());
    drop(producer);
    store.close()
}

#[test]
fn a_topic_whose_records_are_all_gone_goes_on() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let mut store = manual(&clock).open(home.path())?;
    let topic = || PRICES.compaction(Compaction::new().tombstone_retention(Duration::ZERO));
    for number in 0..60u8 {
        // A record and its end are in one batch, and so in one file.
        store.transact(|tx| {
            tx.append(topic(), &[number], &[7; 200])?;
            tx.append_record(topic(), Some(ZERO), Some(&[number]), None, &[], None)
        })?;
    }
    for round in 0..4 {
        clock.pass(1);
        store.compact("prices")?;
        let (left, end) = (read(&store, Whence::Oldest), compacted(&store));
        assert!(round == 0 || left.iter().all(|row| row.0 >= end), "{} {end}", left[0].0);
        same(&read_beside(home.path(), Whence::Oldest), &left);
        same(&read(&store, Whence::Position(LogOffset(3))), &left);
        same(&read(&store, Whence::Time(0)), &left);
        assert_eq!(store.offsets("prices", ZERO)?.0, LogOffset(0));
        is_sound(home.path());
        store.close()?;
        same(&read_beside(home.path(), Whence::Oldest), &left);
        store = manual(&clock).open(home.path())?;
        same(&read(&store, Whence::Oldest), &left);
    }
    assert!(files(home.path()).iter().filter(|name| name.ends_with(".segment")).count() <= 3);
    // A consumer that remembers walks over what is not there.
    let style = ConsumerStyle::ClientTx("audit".into());
    let mut audit = store.consumer(topic(), ConsumerOptions::new(style).on_gap(GapPolicy::Stop))?;
    let end = store.offsets("prices", ZERO)?.1;
    audit.try_process(None, |_, _| Ok(oncelog::Outcome::Commit))?;
    drop(audit);
    assert_eq!(store.committed_offsets("audit", "prices")?, [end]);
    store.close()
}

#[test]
fn little_memory_makes_more_rounds_and_the_same_in_the_end() -> Result<()> {
    let mut ends = Vec::new();
    for memory in [0, 2000, 64 << 20] {
        let home = tempfile::tempdir().unwrap();
        let store = options().compaction_memory(memory).open(home.path())?;
        let written = append(&store, PRICES, 0, 140, 60);
        let stats = store.compact("prices")?;
        let left = read(&store, Whence::Oldest);
        check(&written, &left, compacted(&store));
        is_sound(home.path());
        ends.push((stats.rounds, left));
        store.close()?;
    }
    assert!(
        ends[0].0 > ends[1].0 && ends[1].0 > ends[2].0 && ends[2].0 == 1,
        "{:?}",
        ends.iter().map(|end| end.0).collect::<Vec<_>>()
    );
    assert!(ends[0].1 == ends[2].1 && ends[1].1 == ends[2].1);
    Ok(())
}

#[test]
fn every_record_needs_a_key_and_old_ones_without_stay() -> Result<()> {
    let store = Store::in_memory()?;
    let plain: TopicDef<Bytes, Bytes> = TopicDef::new("prices").file_roll_size(4096);
    let old = store.producer(plain.clone())?;
    let lingering = store.producer(plain)?.sync_policy(SyncPolicy::Os).linger(Duration::from_secs(9));
    let keyless = |producer: &oncelog::Producer<Bytes, Bytes>| {
        producer.append_record(Some(ZERO), None, Some(&[1; 100]), &[], None).map(|at| at.0)
    };
    assert_eq!((keyless(&old)?, keyless(&lingering)?), (0, 1));
    assert_eq!(store.compact("prices").unwrap_err().kind(), ErrorKind::Invalid);
    store.alter_topic("prices", &TopicChange::default().compaction(Some(Compaction::new())))?;
    for producer in [&old, &lingering] {
        let refused = keyless(producer).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("\"prices\" is compacted by key"), "{refused}");
    }
    store.flush()?;
    // The empty key is one.
    old.append(b"", b"first")?;
    append(&store, PRICES, 3, 200, 5);
    old.append(b"", b"last")?;
    append(&store, PRICES, 204, 60, 5);
    store.compact("prices")?;
    let left = read(&store, Whence::Oldest);
    assert_eq!(left.iter().take(2).map(|row| row.0).collect::<Vec<_>>(), [0, 1]);
    let empty: Vec<_> = left.iter().skip(2).filter(|row| row.1.is_empty()).map(|row| row.2.clone().unwrap()).collect();
    assert_eq!(empty, [b"last".to_vec()]);
    store.alter_topic("prices", &TopicChange::default().compaction(None))?;
    assert!(keyless(&old).is_ok());
    assert_eq!(store.compact("prices").unwrap_err().kind(), ErrorKind::Invalid);
    store.close()
}

/// Letters of one key would take each other's place, and whoever buries one without a key could go no further.
#[test]
fn a_topic_of_dead_letters_is_never_a_compacted_one() -> Result<()> {
    let store = Store::in_memory()?;
    let input: TopicDef<Bytes, Bytes> = TopicDef::new("input");
    let compacted: TopicDef<Bytes, Bytes> = TopicDef::new("dead").compaction(Compaction::new());
    let plain: TopicDef<Bytes, Bytes> = TopicDef::new("dead");
    store.producer(input.clone())?.append_record(Some(ZERO), None, Some(b"no key"), &[], None)?;
    let bury = |dead: TopicDef<Bytes, Bytes>| {
        let how = ConsumerOptions::new(ConsumerStyle::ClientTx("c".into())).dead_letter(dead);
        store.consumer(input.clone(), how)
    };
    let process = |dead: TopicDef<Bytes, Bytes>| {
        oncelog::Processor::new("p", input.clone())
            .dead_letter(dead)
            .start(&store, |_, _| Ok(oncelog::Outcome::DeadLetter))
            .map(drop)
    };
    // By what is said of it; nothing was made.
    let refused = |refused: oncelog::Error| {
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        assert!(refused.to_string().contains("compacted by key"), "{refused}");
    };
    refused(bury(compacted.clone()).map(drop).unwrap_err());
    refused(process(compacted.clone()).unwrap_err());
    assert_eq!(store.compact("dead").unwrap_err().kind(), ErrorKind::NotFound);
    // By what it is.
    store.producer(compacted)?;
    refused(bury(plain.clone()).map(drop).unwrap_err());
    refused(process(plain.clone()).unwrap_err());
    store.alter_topic("dead", &TopicChange::default().compaction(None))?;
    let mut consumer = bury(plain.clone())?;
    // And it stays so.
    let change = TopicChange::default().compaction(Some(Compaction::new()));
    let kept = store.alter_topic("dead", &change).unwrap_err();
    assert!(kept.kind() == ErrorKind::Invalid && kept.to_string().contains("dead letters"), "{kept}");
    assert_eq!(consumer.try_process(None, |_, _| Ok(oncelog::Outcome::DeadLetter))?, 1);
    let letters = store.consumer(plain, ConsumerStyle::NonTx(Whence::Oldest))?;
    assert_eq!(letters.map(|letter| letter.map(|letter| letter.key)).collect::<Result<Vec<_>>>()?, [None]);
    drop(consumer);
    store.close()
}

#[test]
fn limits_and_consumers_count_beside_it() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    let store = manual(&clock).open(home.path())?;
    let both = PRICES.max_total_bytes(64 << 10).blocking_minimum_retention(MinimumRetention::consumers(&["audit"]));
    let written = append(&store, both.clone(), 0, 150, 5);
    store.compact("prices")?;
    same(&read(&store, Whence::Oldest), &written); // the consumer has read nothing yet
    let mut audit = store.consumer(both, ConsumerStyle::ClientTx("audit".into()))?;
    for row in &written[..100] {
        assert_eq!(owned(&audit.next().unwrap()?), *row);
    }
    audit.commit()?;
    store.compact("prices")?;
    let end = compacted(&store);
    assert!(end > 50 && end <= 100, "{end}");
    let left = read(&store, Whence::Oldest);
    check(&written, &left, end);
    let rest: Rows = audit.map(|record| owned(&record.unwrap())).collect();
    same(&rest, &written[100..]);
    // What is kept by the limit goes as before, compacted or not.
    store.alter_topic("prices", &TopicChange::default().max_total_bytes(Some(8 << 10)))?;
    store.compact("prices")?;
    clock.pass(6);
    store.retain()?;
    let (start, _) = store.offsets("prices", ZERO)?;
    let kept = read(&store, Whence::Oldest);
    assert!(kept.iter().all(|row| row.0 >= start.0));
    store.truncate_before("prices", ZERO, LogOffset(140))?;
    store.compact("prices")?;
    let kept = read(&store, Whence::Oldest);
    assert!(kept[0].0 >= 140 && last_values(&kept) == last_values(&written[140..].to_vec()), "{}", kept.len());
    is_sound(home.path());
    store.close()
}

#[test]
fn what_was_truncated_within_a_file_goes_with_the_next_compaction() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    let producer = store.producer(PRICES)?;
    let batch: Vec<_> = (0..20u8).map(|key| (vec![key], vec![key; 50])).collect();
    producer.append_batch(batch.iter().map(|(key, value)| (&key[..], &value[..])))?;
    let written = append(&store, PRICES, 20, 200, 9);
    // Within a batch.
    store.truncate_before("prices", ZERO, LogOffset(10))?;
    is_sound(home.path());
    store.compact("prices")?;
    let left = read(&store, Whence::Oldest);
    assert_eq!(left.iter().take(10).map(|row| row.0).collect::<Vec<_>>(), (10..20).collect::<Vec<_>>());
    check(&written, &left[10..].to_vec(), compacted(&store));
    same(&read_beside(home.path(), Whence::Oldest), &left);
    assert_eq!(store.offsets("prices", ZERO)?.0, LogOffset(10));
    is_sound(home.path());
    store.close()
}

#[test]
fn a_snapshot_reads_on_and_a_deleted_topic_leaves_nothing() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let store = options().open(home.path())?;
    let written = append(&store, PRICES, 0, 300, 7);
    let snapshot = store.snapshot()?;
    store.compact("prices")?;
    let mut seen = Rows::new();
    snapshot.read("prices", ZERO, LogOffset(0), |record| {
        seen.push((record.offset.0, record.key.unwrap().to_vec(), record.value.map(<[u8]>::to_vec)));
        Ok(Step::Next)
    })?;
    check(&written, &seen, compacted(&store));
    drop(snapshot);
    store.delete_topic("prices")?;
    assert!(!home.path().join("topics/prices").exists());
    append(&store, PRICES, 0, 100, 7);
    store.compact("prices")?;
    is_sound(home.path());
    store.close()
}

/// Names in a partition of a store on a disk in memory.
fn names_on(disk: &Arc<MemoryDisk>) -> Vec<String> {
    use oncelog::disk::Disk as _;
    let found = disk.list(Path::new("/s/topics/prices/000000")).unwrap();
    let mut names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    names.retain(|name| !name.ends_with(".index"));
    names.sort();
    names
}

/// A call that fails once, or for as long as it is asked to.
#[derive(Default)]
struct Fault {
    is_on: AtomicBool,
    met: AtomicU64,
}

impl Fault {
    fn say(&self, hit: bool, error: io::ErrorKind) -> io::Result<()> {
        if !hit || !self.is_on.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.met.fetch_add(1, Ordering::SeqCst);
        Err(error.into())
    }
}

fn is_unfinished(path: &Path) -> bool {
    path.to_str().unwrap().ends_with(".segment.new")
}

#[test]
fn what_fails_on_the_way_leaves_the_old_files_and_no_other() -> Result<()> {
    type Hits = fn(Event<'_>) -> bool;
    let cases: [(&str, Hits, io::ErrorKind, ErrorKind); 6] = [
        (
            "open",
            |event| matches!(event, Event::Open(path, _) if is_unfinished(path)),
            io::ErrorKind::StorageFull,
            ErrorKind::Full,
        ),
        (
            "room",
            |event| matches!(event, Event::Preallocate(path) if is_unfinished(path)),
            io::ErrorKind::StorageFull,
            ErrorKind::Full,
        ),
        (
            "write",
            |event| matches!(event, Event::Write(path, _) if is_unfinished(path)),
            io::ErrorKind::StorageFull,
            ErrorKind::Full,
        ),
        (
            "sync",
            |event| matches!(event, Event::Sync(_, SyncSite::Compacted)),
            io::ErrorKind::Other,
            ErrorKind::Unavailable,
        ),
        (
            "rename",
            |event| matches!(event, Event::Rename(path, _) if is_unfinished(path)),
            io::ErrorKind::Other,
            ErrorKind::Unavailable,
        ),
        (
            "trim",
            |event| matches!(event, Event::Write(path, _) if path.extension().is_some_and(|kind| kind == "table")),
            io::ErrorKind::StorageFull,
            ErrorKind::Full,
        ),
    ];
    for (name, hits, error, kind) in cases {
        let (disk, fault) = (Arc::new(MemoryDisk::default()), Arc::new(Fault::default()));
        let theirs = Arc::clone(&fault);
        let store = hooked_disk::on(&disk, move |event| theirs.say(hits(event), error)).manual_duties().open("/s")?;
        let written = append(&store, PRICES, 0, 300, 9);
        store.trim()?;
        let before = names_on(&disk);
        fault.is_on.store(true, Ordering::SeqCst);
        let failed = store.compact("prices").unwrap_err();
        assert_eq!(failed.kind(), kind, "{name}: {failed}");
        fault.is_on.store(false, Ordering::SeqCst);
        assert!(fault.met.load(Ordering::SeqCst) > 0, "{name}");
        assert_eq!(names_on(&disk), before, "{name}");
        same(&read(&store, Whence::Oldest), &written);
        let stats = store.compaction_stats("prices")?;
        assert_eq!((stats.rounds, stats.failures), (0, 1), "{name}");
        assert!(stats.last_error.is_some_and(|told| told == failed.to_string()), "{name}");
        // And then it goes well.
        store.compact("prices")?;
        check(&written, &read(&store, Whence::Oldest), compacted(&store));
        let stats = store.compaction_stats("prices")?;
        assert_eq!((stats.rounds, stats.last_error, store.stats().compactions_failed), (1, None, 1), "{name}");
        store.close()?;
    }
    Ok(())
}

/// Neither reading nor the end of a round grows with the number of files: others wait for it. Whether many small files
/// become one, or each is written anew.
#[test]
fn a_turn_is_short_however_many_files_there_are() -> Result<()> {
    const FILES: u64 = 2000;
    for together in [true, false] {
        let (disk, calls) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicU64::new(0)));
        let counted = Arc::clone(&calls);
        let hook = move |event: Event<'_>| {
            if matches!(event, Event::Open(..) | Event::Rename(..) | Event::Remove(_) | Event::Sync(..)) {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        };
        let clock = Arc::new(SetClock::default());
        let options = hooked_disk::on(&disk, hook).journal_file_bytes(16 << 20);
        let store = options.manual_duties().clock(Arc::clone(&clock) as _).open("/s")?;
        let producer = store.producer(PRICES.file_roll_size(1024))?.sync_policy(SyncPolicy::Os);
        for number in 0..FILES {
            producer.append(format!("{}", number % 7).as_bytes(), &[7; 800])?;
        }
        store.flush()?;
        store.trim()?;
        assert!(names_on(&disk).len() as u64 >= FILES);
        if together {
            store.alter_topic("prices", &TopicChange::default().file_roll_size(64 << 20))?;
        }
        clock.pass(6);
        let (mut most, mut turns) = (0, 0);
        let is_over = || -> Result<bool> {
            let old = names_on(&disk).iter().any(|name| name.len() < 40 && name.as_str() < "00000000000000001990");
            Ok(store.compaction_stats("prices")?.rounds > 0 && !old)
        };
        while !is_over()? {
            // What the pace of exchanges leaves of them.
            clock.pass_by(Duration::from_millis(100));
            calls.store(0, Ordering::SeqCst);
            store.run_duties()?;
            most = most.max(calls.load(Ordering::SeqCst));
            turns += 1;
            assert!(turns < 1000, "it comes to no end");
        }
        assert!(most < 400, "{most} calls in one of {turns} turns");
        if together {
            assert!(names_on(&disk).len() < 20, "{}", names_on(&disk).len());
        }
        store.close()?;
    }
    Ok(())
}

/// The exchange may take as long as it likes: whoever begins to read just before it is durable has the whole time.
#[test]
fn the_time_of_a_tombstone_begins_when_what_it_ends_can_be_seen_no_more() -> Result<()> {
    for is_cut in [false, true] {
        let (disk, slow, dead) =
            (Arc::new(MemoryDisk::default()), Arc::new(Fault::default()), Arc::new(Fault::default()));
        let clock = Arc::new(SetClock::default());
        let (their_slow, their_dead, their_clock) = (Arc::clone(&slow), Arc::clone(&dead), Arc::clone(&clock));
        let hook = move |event: Event<'_>| {
            let is_naming = matches!(event, Event::SyncDir(_, SyncSite::CompactedDir));
            if is_naming && their_slow.is_on.swap(false, Ordering::SeqCst) {
                their_clock.pass(50);
            }
            let writes = matches!(event, Event::Write(..) | Event::Sync(..) | Event::Rename(..) | Event::Remove(_));
            their_dead.say(writes, io::ErrorKind::Other)
        };
        let opened = |disk: Arc<dyn oncelog::disk::Disk>| manual(&clock).disk(disk).open("/s");
        let store = opened(hooked_disk::over(Arc::clone(&disk) as _, hook))?;
        let topic = PRICES.compaction(Compaction::new().tombstone_retention(Duration::from_secs(100)));
        let prices = store.producer(topic.clone())?;
        prices.append(b"dead", b"1")?;
        prices.append_record(Some(ZERO), Some(b"dead"), None, &[], None)?;
        drop(prices);
        append(&store, topic, 2, 100, 200);
        let dead_ones = |store: &Store| -> Vec<u64> {
            let consumer = store.consumer(PRICES, ConsumerStyle::NonTx(Whence::Oldest)).unwrap();
            let rows = consumer.map_while(|record| record.ok().map(|record| owned(&record)));
            rows.filter(|row| row.1 == b"dead").map(|row| row.0).collect()
        };
        slow.is_on.store(true, Ordering::SeqCst);
        store.compact("prices")?;
        assert!(!slow.is_on.load(Ordering::SeqCst), "the exchange took its time");
        assert_eq!(dead_ones(&store), [1]);
        // A crash before any trim point could say since when it counts: then it counts from the next look.
        dead.is_on.store(is_cut, Ordering::SeqCst);
        if is_cut {
            drop(store)
        } else {
            store.close()?
        }
        let store = opened(Arc::clone(&disk) as _)?;
        clock.pass(if is_cut { 0 } else { 99 });
        store.compact("prices")?;
        assert_eq!(dead_ones(&store), [1]);
        clock.pass(if is_cut { 99 } else { 1 });
        store.compact("prices")?;
        assert_eq!(dead_ones(&store).is_empty(), !is_cut);
        clock.pass(1);
        store.compact("prices")?;
        assert_eq!(dead_ones(&store), [0u64; 0]);
        store.close()?;
    }
    Ok(())
}

/// It may have been the name of the segment that is written, of which a later sync says nothing any more.
#[test]
fn a_failed_sync_of_names_ends_the_store() -> Result<()> {
    let (disk, fault) = (Arc::new(MemoryDisk::default()), Arc::new(Fault::default()));
    let theirs = Arc::clone(&fault);
    let hook = move |event: Event<'_>| {
        theirs.say(matches!(event, Event::SyncDir(_, SyncSite::CompactedDir)), io::ErrorKind::Other)
    };
    let store = hooked_disk::on(&disk, hook).manual_duties().open("/s")?;
    let written = append(&store, PRICES, 0, 300, 9);
    store.trim()?;
    fault.is_on.store(true, Ordering::SeqCst);
    assert_eq!(store.compact("prices").unwrap_err().kind(), ErrorKind::Unavailable);
    fault.is_on.store(false, Ordering::SeqCst);
    assert_eq!(store.trim().unwrap_err().kind(), ErrorKind::Closed);
    let appended = store.producer(PRICES).and_then(|producer| producer.append(b"k", b"v"));
    assert_eq!(appended.unwrap_err().kind(), ErrorKind::Closed);
    drop(store);
    let store = Store::options().disk(disk).manual_duties().open("/s")?;
    // Behind the last record a gap is told, since more may have been given out under the lax policy.
    let whole = |store: &Store| -> Rows {
        let oldest = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest));
        let consumer = store.consumer(PRICES, oldest).unwrap();
        consumer.map_while(Result::ok).map(|record| owned(&record)).collect()
    };
    same(&whole(&store), &written);
    store.compact("prices")?;
    check(&written, &whole(&store), compacted(&store));
    store.close()
}

/// A gate at which a call on the disk waits until it is opened.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    waits: AtomicBool,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut is_shut = self.is_shut.lock().unwrap();
        while *is_shut {
            self.waits.store(true, Ordering::SeqCst);
            is_shut = self.opened.wait(is_shut).unwrap();
        }
    }

    fn shut(&self, shut: bool) {
        *self.is_shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }

    fn wait_for_somebody(&self) {
        while !self.waits.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// By hand, beside a background at work: answers of tasks, lax syncs and an altered topic do not wait for its end.
/// Stopped while it writes its first file, so that there is no doubt that the topic changes within a round.
#[test]
fn by_hand_it_is_in_nobodys_way_and_goes_by_what_the_topic_is() -> Result<()> {
    let (disk, gate) = (Arc::new(MemoryDisk::default()), Arc::new(Gate::default()));
    let theirs = Arc::clone(&gate);
    let hook = move |event: Event<'_>| {
        if matches!(event, Event::Write(path, _) if is_unfinished(path)) {
            theirs.pass();
        }
        Ok(())
    };
    let store = hooked_disk::on(&disk, hook).retention_interval(Duration::from_secs(3600)).open("/s")?;
    // More than one step writes.
    let written = append(&store, PRICES, 0, 20_000, 9);
    store.trim()?;
    gate.shut(true);
    let by_hand = {
        let store = store.clone();
        std::thread::spawn(move || store.compact("prices"))
    };
    gate.wait_for_somebody();
    // Those who append, durably and not, and the background with its lax syncs, do not know of it.
    let others = store.producer(TopicDef::<Bytes, Bytes>::new("others"))?;
    let appended = others.append(b"k", b"v").and_then(|_| others.submit(b"k", b"w")?.wait());
    let lax = store.producer(PRICES)?.sync_policy(SyncPolicy::Os).append(b"key 1", b"newest").map(drop);
    let altering = {
        let store = store.clone();
        std::thread::spawn(move || store.alter_topic("prices", &TopicChange::default().compaction(None)))
    };
    // It is altered as soon as it takes a record without a key; then it waits for the step, which waits at the gate.
    let keyless = store.producer(PRICES)?;
    while keyless.append_record(Some(ZERO), None, Some(b"v"), &[], None).is_err() {
        std::thread::sleep(Duration::from_millis(1));
    }
    gate.shut(false);
    let (altered, ended) = (altering.join().unwrap(), by_hand.join().unwrap());
    appended?;
    lax?;
    altered?;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Invalid, "what the topic is now counts");
    assert_eq!(store.compaction_stats("prices")?.removed_records, 0, "nothing of a round that was given up counts");
    same(&read(&store, Whence::Oldest)[..written.len()], &written);
    assert!(names_on(&disk).iter().all(|name| !name.ends_with(".new")));
    store.close()
}

#[test]
fn old_files_that_cannot_be_removed_keep_the_next_compaction_waiting() -> Result<()> {
    let (disk, fault) = (Arc::new(MemoryDisk::default()), Arc::new(Fault::default()));
    let theirs = Arc::clone(&fault);
    let hook = move |event: Event<'_>| {
        let hit = matches!(event, Event::Remove(path) if path.extension().is_some_and(|kind| kind == "segment"));
        theirs.say(hit, io::ErrorKind::PermissionDenied)
    };
    let store = hooked_disk::on(&disk, hook).manual_duties().open("/s")?;
    let reader = || StoreReader::options().disk(Arc::clone(&disk) as _).open("/s");
    let beside = || -> Result<Rows> {
        reader()?.cursor("prices", Whence::Oldest)?.map(|record| record.map(|record| owned(&record))).collect()
    };
    let mut written = append(&store, PRICES, 0, 300, 9);
    fault.is_on.store(true, Ordering::SeqCst);
    store.compact("prices")?;
    let crowded = names_on(&disk).len();
    check(&written, &read(&store, Whence::Oldest), compacted(&store));
    // Beside it some of what should be gone is seen, and nothing is missing.
    let seen = beside()?;
    assert!(last_values(&seen) == last_values(&written) && seen.iter().all(|row| written.contains(row)));
    written.extend(append(&store, PRICES, 300, 100, 9));
    let refused = store.compact("prices").unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    fault.is_on.store(false, Ordering::SeqCst);
    store.compact("prices")?;
    assert!(names_on(&disk).len() < crowded / 2);
    let left = read(&store, Whence::Oldest);
    check(&written, &left, compacted(&store));
    same(&beside()?, &left);
    // Those that an orderly end has left are taken away by the next opening.
    fault.is_on.store(true, Ordering::SeqCst);
    written.extend(append(&store, PRICES, 400, 100, 9));
    store.compact("prices")?;
    let crowded = names_on(&disk).len();
    store.close()?;
    fault.is_on.store(false, Ordering::SeqCst);
    same(&beside()?, &{
        let store = hooked_disk::on(&disk, |_| Ok(())).manual_duties().open("/s")?;
        let left = read(&store, Whence::Oldest);
        check(&written, &left, compacted(&store));
        assert!(names_on(&disk).len() < crowded / 2);
        store.close()?;
        left
    });
    Ok(())
}

#[test]
fn readers_of_all_kinds_go_on_at_every_step() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    let clock = Arc::new(SetClock::default());
    // One file open, so that whoever reads has to open it again.
    let store = manual(&clock).max_open_files(1).compaction_memory(800).open(home.path())?;
    let written = append(&store, PRICES, 0, 250, 40);
    let reader = StoreReader::open(home.path())?;
    let mut all: Vec<Rows> = vec![Rows::new(); 3];
    let mut plain = store.consumer(PRICES, ConsumerStyle::NonTx(Whence::Oldest))?;
    let mut remembers = store.consumer(PRICES, ConsumerStyle::ClientTx("audit".into()))?;
    let mut beside = reader.cursor("prices", Whence::Oldest)?;
    let mut more = true;
    while more {
        clock.pass(6);
        store.run_duties()?;
        more = false;
        for (rows, next) in all.iter_mut().zip([plain.next(), remembers.next(), beside.next()]) {
            if let Some(record) = next {
                rows.push(owned(&record?));
                more = true;
            }
        }
    }
    assert!(store.compaction_stats("prices")?.rounds > 3);
    for rows in &all {
        assert!(rows.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(rows.iter().all(|row| written.contains(row)) && last_values(rows) == last_values(&written));
    }
    is_sound(home.path());
    drop((plain, remembers, beside));
    store.close()
}

#[test]
fn a_backup_holds_what_is_left_and_comes_back_so() -> Result<()> {
    let home = tempfile::tempdir().unwrap();
    // The background would compact on, between a look and the next.
    let store = options().manual_duties().open(home.path().join("s"))?;
    append(&store, PRICES, 0, 300, 20);
    store.compact("prices")?;
    append(&store, PRICES, 300, 50, 20);
    let left = read(&store, Whence::Oldest);
    let target = oncelog::BackupTarget::dir(home.path().join("b"))?;
    store.backup(&target)?;
    store.close()?;
    oncelog::RestoreOptions::new().restore(&target, home.path().join("r"))?;
    let restored = options().manual_duties().open(home.path().join("r"))?;
    same(&read(&restored, Whence::Oldest), &left);
    restored.compact("prices")?;
    is_sound(&home.path().join("r"));
    restored.close()
}

/// What is left of a damaged file is as old as it was, and its tombstones go when they were to go: neither earlier nor
/// never.
#[test]
fn a_repair_keeps_ages_and_the_time_of_tombstones() -> Result<()> {
    for at_front in [true, false] {
        let (disk, slow) = (Arc::new(MemoryDisk::default()), Arc::new(AtomicBool::new(true)));
        let clock = Arc::new(SetClock::default());
        let (their_slow, their_clock) = (Arc::clone(&slow), Arc::clone(&clock));
        let hook = move |event: Event<'_>| {
            let is_naming = matches!(event, Event::SyncDir(_, SyncSite::CompactedDir));
            if is_naming && their_slow.swap(false, Ordering::SeqCst) {
                their_clock.pass(50);
            }
            Ok(())
        };
        let aging =
            PRICES.compaction(Compaction::new().min_dirty_percent(0).tombstone_retention(Duration::from_secs(100)));
        let aging = aging.max_file_age(Duration::from_secs(1000));
        let opened = |disk: Arc<dyn oncelog::disk::Disk>| manual(&clock).disk(disk).open("/s");
        let store = opened(hooked_disk::over(Arc::clone(&disk) as _, hook))?;
        let producer = store.producer(aging)?;
        producer.append(b"a", b"stays")?;
        producer.append(b"dead", b"1")?;
        producer.append_record(Some(ZERO), Some(b"dead"), None, &[], None)?;
        (0..6u8).try_for_each(|key| producer.append(&[key], &[key; 900]).map(drop))?;
        drop(producer);
        store.compact("prices")?;
        assert!(!slow.load(Ordering::SeqCst));
        store.close()?;
        // The first file is what was compacted: `a`, the tombstone, and others. One batch of it rots.
        let path = Path::new("/s/topics/prices/000000").join(&names_on(&disk)[0]);
        let file = oncelog::disk::Disk::open(&*disk, &path, OpenMode::Write).unwrap();
        let bytes = file.read_whole(1 << 20).unwrap();
        let rots = if at_front { b"stays".to_vec() } else { vec![2; 900] };
        let at = bytes.windows(rots.len()).position(|part| part == rots).unwrap();
        file.write_all_at(b"x", at as u64).unwrap();
        drop(file);
        let done = manual(&clock).disk(Arc::clone(&disk) as _).repair("/s")?.done;
        assert!(done.lost.len() == 1 && done.left.is_empty(), "{done:?}");
        let store = opened(Arc::clone(&disk) as _)?;
        let work = |seconds: u64| -> Result<Vec<u64>> {
            clock.pass(seconds);
            (0..30).try_for_each(|_| store.run_duties())?;
            let how = ConsumerOptions::new(ConsumerStyle::NonTx(Whence::Oldest)).on_gap(GapPolicy::Skip);
            let all = store.consumer(PRICES, how)?.map(|record| record.map(|record| owned(&record)));
            Ok(all.collect::<Result<Rows>>()?.iter().filter(|row| row.1 == b"dead").map(|row| row.0).collect())
        };
        assert_eq!(work(99)?, [2], "{at_front}");
        // Nothing is written any more: only that its time has come brings somebody here.
        assert_eq!(work(7)?, [0u64; 0], "{at_front}");
        assert!(store.describe_topic("prices")?[0].start < LogOffset(3));
        // Sealed 50 s before the exchange was durable; a look comes every 5 s.
        work(1000 - 156 - 5)?;
        assert!(store.describe_topic("prices")?[0].start < LogOffset(3), "{at_front}");
        work(11)?;
        assert!(store.describe_topic("prices")?[0].start > LogOffset(3), "{at_front}");
        store.close()?;
    }
    Ok(())
}

/// What a fenced opening named, and what could not be removed, lies beside what counts. A reader in another process
/// goes by what the owner's trim point names: it sees no record that is gone, and misses none.
#[test]
fn a_reader_beside_believes_no_file_that_should_not_be_there() -> Result<()> {
    use oncelog::disk::Disk as _;
    let dir = Path::new("/s/topics/prices/000000");
    let whole = |disk: &MemoryDisk| -> BTreeMap<std::path::PathBuf, Vec<u8>> {
        let names = disk.list(dir).unwrap().into_iter().filter(|name| name.extension().is_some_and(|k| k == "segment"));
        let bytes = |name: &Path| disk.open(name, OpenMode::Read).unwrap().read_whole(1 << 20).unwrap();
        names.map(|name| (name.clone(), bytes(&name))).collect()
    };
    let (disk, clock) = (Arc::new(MemoryDisk::default()), Arc::new(SetClock::default()));
    let store = manual(&clock).disk(Arc::clone(&disk) as _).open("/s")?;
    let topic = || PRICES.compaction(Compaction::new().min_dirty_percent(0).tombstone_retention(Duration::ZERO));
    let mut written = append(&store, topic(), 0, 200, 300);
    let mut strays = whole(&disk);
    store.compact("prices")?;
    strays.extend(whole(&disk));
    // Tombstones of all of them, which are gone in the end with what they ended.
    let producer = store.producer(topic())?.sync_policy(SyncPolicy::Os);
    for key in 0..150u64 {
        let key = format!("key {}", key * 7 % 300).into_bytes();
        let at = producer.append_record(Some(ZERO), Some(&key), None, &[], None)?;
        written.push((at.0, key, None));
    }
    drop(producer);
    written.extend(append(&store, topic(), 350, 80, 300));
    store.alter_topic("prices", &TopicChange::default().file_roll_size(1 << 20))?;
    for _ in 0..3 {
        clock.pass(1);
        store.compact("prices")?;
    }
    let here = read(&store, Whence::Oldest);
    let count = whole(&disk);
    strays.retain(|name, _| !count.contains_key(name));
    assert!(strays.len() > 10, "{}", strays.len());
    let put = |name: &Path, bytes: &[u8]| {
        disk.open(name, OpenMode::Create).and_then(|file| file.write_all_at(bytes, 0)).unwrap();
    };
    let beside = || -> Result<Rows> {
        let reader = StoreReader::options().disk(Arc::clone(&disk) as _).open("/s")?;
        reader.cursor("prices", Whence::Oldest)?.map(|record| record.map(|record| owned(&record))).collect()
    };
    // Each alone, so that what would follow it is missing; then all; then with rot in them.
    for (name, bytes) in &strays {
        put(name, bytes);
        same(&beside()?, &here);
        disk.remove(name).unwrap();
    }
    strays.iter().for_each(|(name, bytes)| put(name, bytes));
    same(&beside()?, &here);
    for (name, bytes) in &strays {
        put(name, &vec![0xa5; bytes.len()]);
    }
    same(&beside()?, &here);
    // From any place too.
    let reader = StoreReader::options().disk(Arc::clone(&disk) as _).open("/s")?;
    for from in (0..430).step_by(7) {
        let first = reader.cursor("prices", Whence::Position(LogOffset(from)))?.next().transpose()?;
        let expected = here.iter().find(|row| row.0 >= from).cloned();
        assert_eq!(first.as_ref().map(owned), expected, "{from}");
    }
    drop(reader);
    // The next opening sweeps them.
    store.close()?;
    let store = manual(&clock).disk(Arc::clone(&disk) as _).open("/s")?;
    same(&read(&store, Whence::Oldest), &here);
    assert!(strays.keys().all(|name| !whole(&disk).contains_key(name)), "{:?}", names_on(&disk));
    store.close()
}

#[test]
fn a_topic_that_waits_for_its_consumer_keeps_no_other_waiting() -> Result<()> {
    let clock = Arc::new(SetClock::default());
    let home = tempfile::tempdir().unwrap();
    let store = manual(&clock).open(home.path())?;
    let half = Compaction::new();
    let held: TopicDef<Bytes, Bytes> = TopicDef::new("held").partitions(10).file_roll_size(2048).compaction(half);
    let held = held.max_total_bytes(10 << 20).blocking_minimum_retention(MinimumRetention::consumers(&["nobody"]));
    let producer = store.producer(held)?.sync_policy(SyncPolicy::Os);
    for number in 0..400u16 {
        producer.append_record(Some(PartitionId(u32::from(number) % 10)), Some(b"k"), Some(&[7; 200]), &[], None)?;
    }
    let written = append(&store, PRICES, 0, 200, 5);
    for _ in 0..10 {
        clock.pass(6);
        (0..10).try_for_each(|_| store.run_duties())?;
    }
    assert_eq!(store.compaction_stats("held")?.rounds, 0);
    check(&written, &read(&store, Whence::Oldest), compacted(&store));
    assert!(compacted(&store) > 100);
    store.close()
}
