//! Removing old records: by hand, by size, by age; what must be kept; and what everybody who reads is told.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and looks at its files")]

use std::path::Path;

use oncelog::{
    Bytes, ConsumerOptions, ConsumerStyle, ErrorKind, GapPolicy, LogOffset, PartitionId, Result, Store, StoreOptions,
    StoreReader, TopicDef, Whence,
};

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

fn offsets(store: &Store, whence: Whence) -> (Vec<u64>, Vec<std::ops::Range<u64>>) {
    let mut consumer = store.consumer(LINES, ConsumerOptions::new(ConsumerStyle::NonTx(whence))).unwrap();
    let (mut found, mut gaps) = (Vec::new(), Vec::new());
    while let Some(record) = consumer.next() {
        match record {
            Ok(record) => found.push(record.id.offset.0),
            Err(error) => {
                let gap = error.gap().unwrap_or_else(|| panic!("{error}"));
                gaps.push(gap.start.0..gap.end.0);
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
    assert_eq!(offsets(&store, Whence::Position(LogOffset(first))), ((20..40).collect(), vec![first..20]));
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
        assert_eq!(offsets(&store, Whence::Position(LogOffset(0))), (vec![25, 26], vec![0..25]));
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
