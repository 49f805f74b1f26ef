//! The page against a model, and under threads that hammer it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::disk::{Disk, MapAccess, MemoryDisk, OpenMode, SharedMap};
use crate::error::Error;
use crate::wake::{Arc, AtomicBool};

/// A page in memory: what the owner makes, the reader finds.
fn page() -> (Board, impl Fn() -> Option<Watch>) {
    let disk = Arc::new(MemoryDisk::default());
    let path = |number: usize| std::path::PathBuf::from(format!("/{number}"));
    let name = PageName { store: StoreId([3; 16]), epoch: Epoch(5), pid: 77, boot: 1 << 100 | 9 };
    let theirs = Arc::clone(&disk);
    let board = Board::begin(
        name,
        Box::new(move |number| {
            let file = theirs.open(&path(number), OpenMode::CreateNew).unwrap();
            file.set_len(file_words(number) as u64 * 8).unwrap();
            Ok(theirs.map_shared(&path(number), file_words(number), MapAccess::Write).unwrap())
        }),
    );
    let watch = move || {
        let disk = Arc::clone(&disk);
        let map = move |number| -> crate::error::Result<Arc<dyn SharedMap>> {
            let mapped = disk.map_shared(&path(number), file_words(number), MapAccess::Read);
            mapped.map_err(|error| Error::io(&path(number), "map", error))
        };
        Watch::open(Box::new(map)).unwrap()
    };
    (board.unwrap(), watch)
}

const ONE: (TopicId, PartitionId) = (TopicId(1), PartitionId(0));
const TWO: (TopicId, PartitionId) = (TopicId(2), PartitionId(3));

fn watched(start: u64, end: u64) -> Watched {
    Watched { start: LogOffset(start), end: LogOffset(end) }
}

fn show(board: &Board, (topic, partition): (TopicId, PartitionId)) {
    board.show((topic, "name"), partition, watched(0, 0)).unwrap();
}

#[test]
fn an_owner_says_who_it_is() {
    let (board, watch) = page();
    let watch = watch().unwrap();
    let name = watch.name();
    assert_eq!((name.store, name.epoch, name.pid, name.boot), (StoreId([3; 16]), Epoch(5), 77, 1 << 100 | 9));
    assert_eq!(watch.state(), PageState::Partial);
    for state in [PageState::Serving, PageState::Closed, PageState::Failed] {
        board.set_state(state);
        assert_eq!(watch.state(), state);
    }
}

#[test]
fn a_name_with_any_bit_flipped_is_no_name() {
    let words: Vec<_> = (0..HEAD_WORDS).map(|_| AtomicU64::new(0)).collect();
    assert_eq!(read_name(&words), None);
    let name = PageName { store: StoreId([3; 16]), epoch: Epoch(5), pid: 77, boot: 4 };
    write_name(&words, &name, 2);
    assert_eq!(read_name(&words), Some((name, 2)));
    for bit in 0..at::STATE * 64 {
        words[bit / 64].fetch_xor(1 << (bit % 64), Ordering::SeqCst);
        assert_eq!(read_name(&words), None, "bit {bit}");
        words[bit / 64].fetch_xor(1 << (bit % 64), Ordering::SeqCst);
    }
}

#[test]
fn an_end_is_seen_when_its_lsn_is_visible_and_not_before() {
    let (board, watch) = page();
    let watch = watch().unwrap();
    show(&board, ONE);
    board.publish(Lsn(4));
    let end = || watch.partition(ONE.0, ONE.1).unwrap().unwrap().end;
    assert_eq!(end(), LogOffset(0));
    board.set_end(ONE.0, ONE.1, Lsn(5), LogOffset(10));
    assert_eq!(end(), LogOffset(0));
    // Copied before they are durable, again and again: what is visible stays.
    for lsn in 6..20 {
        board.set_end(ONE.0, ONE.1, Lsn(lsn), LogOffset(lsn * 10));
        assert_eq!(end(), LogOffset(0));
    }
    board.publish(Lsn(19));
    assert_eq!(end(), LogOffset(190));
    board.set_end(ONE.0, ONE.1, Lsn(20), LogOffset(200));
    assert_eq!(end(), LogOffset(190));
}

#[test]
fn partitions_beyond_one_file_are_found() {
    let (board, watch) = page();
    let watch = watch().unwrap();
    for partition in 0..5000 {
        board.show((TopicId(9), "nine"), PartitionId(partition), watched(0, u64::from(partition))).unwrap();
    }
    assert_eq!(watch.partitions(TopicId(9), "nine").unwrap(), 5000);
    assert_eq!(watch.partitions(TopicId(8), "nine").unwrap(), 0);
    let (_, all) = watch.all().unwrap();
    assert_eq!(all.len(), 5000);
    assert!(all.iter().all(|((_, partition), watched)| watched.end.0 == u64::from(partition.0)));
}

#[test]
fn places_of_entries_do_not_overlap_and_lie_in_their_files() {
    let mut before = Place { file: 0, word: HEAD_WORDS - ENTRY_WORDS };
    for entry in 0..300_000 {
        let place = Place::of(entry);
        assert!(place.word + ENTRY_WORDS <= file_words(place.file));
        let follows = place == Place { word: before.word + ENTRY_WORDS, ..before };
        let begins = place == Place { file: before.file + 1, word: HEAD_WORDS };
        assert!(follows || begins, "{entry}: {before:?} then {place:?}");
        before = place;
    }
}

#[test]
fn a_deleted_topic_is_gone_and_a_new_one_is_another() {
    let (board, watch) = page();
    let watch = watch().unwrap();
    show(&board, ONE);
    board.show((TWO.0, "two"), TWO.1, watched(3, 9)).unwrap();
    assert_eq!(watch.partition(ONE.0, ONE.1).unwrap().map(|it| it.end), Some(LogOffset(0)));
    board.forget(ONE.0);
    assert_eq!(watch.partition(ONE.0, ONE.1).unwrap(), None);
    assert_eq!(watch.partitions(ONE.0, "name").unwrap(), 0);
    assert_eq!(watch.partition(TWO.0, TWO.1).unwrap().map(|it| it.start), Some(LogOffset(3)));
    assert_eq!(watch.all().unwrap().1.len(), 1);
    // Who looked it up before the deletion shows it no more.
    show(&board, ONE);
    assert_eq!(watch.partition(ONE.0, ONE.1).unwrap(), None);
}

#[test]
fn an_id_that_another_topic_has_is_no_topic_of_that_name() {
    let (board, watch) = page();
    let watch = watch().unwrap();
    show(&board, ONE);
    assert_eq!(watch.partitions(ONE.0, "name").unwrap(), 1);
    assert_eq!(watch.partitions(ONE.0, "nama").unwrap(), 0);
}

/// One step of an owner.
#[derive(Clone, Debug)]
enum Move {
    /// A group that touches some of the partitions; synced or not.
    Group { touches: Vec<(usize, u64)>, synced: bool },
    /// A sync alone.
    Sync,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let group = (prop::collection::vec((0..4usize, 1..5u64), 0..6), any::<bool>());
    let one = prop_oneof![
        4 => group.prop_map(|(touches, synced)| Move::Group { touches, synced }),
        1 => Just(Move::Sync),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// After each step of the owner, a reader sees the ends as of the last sync, of all partitions together.
    #[test]
    fn a_reader_sees_the_ends_of_the_last_sync(moves in moves()) {
        let (board, watch) = page();
        let watch = watch().unwrap();
        let partitions: Vec<_> = (0..4).map(|number| (TopicId(1 + number / 2), PartitionId(number % 2))).collect();
        partitions.iter().for_each(|partition| show(&board, *partition));
        let (mut lsn, mut durable) = (0, 0);
        let mut ends = BTreeMap::new();
        let mut shown = BTreeMap::new();
        for step in moves {
            let synced = match step {
                Move::Group { touches, synced } => {
                    lsn += 1;
                    for (number, records) in touches {
                        *ends.entry(partitions[number]).or_insert(0) += records;
                        let (topic, partition) = partitions[number];
                        board.set_end(topic, partition, Lsn(lsn), LogOffset(ends[&partitions[number]]));
                    }
                    synced
                }
                Move::Sync => true,
            };
            if synced && lsn > durable {
                durable = lsn;
                shown = ends.clone();
                board.publish(Lsn(lsn));
            }
            let (at, seen) = watch.all().unwrap();
            prop_assert_eq!(at, Lsn(durable));
            for partition in &partitions {
                let expected = LogOffset(shown.get(partition).copied().unwrap_or(0));
                prop_assert_eq!(seen[partition].end, expected);
                prop_assert_eq!(watch.partition(partition.0, partition.1).unwrap().unwrap().end, expected);
            }
        }
    }
}

/// An owner appends one record to each of two partitions in each group, some of them not visible at once; readers must
/// never see one without the other, nor a step back.
#[test]
fn threads_see_both_partitions_of_a_group_or_neither() {
    let (board, watch) = page();
    show(&board, ONE);
    show(&board, TWO);
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (watch, done) = (watch().unwrap(), Arc::clone(&done));
            std::thread::spawn(move || {
                let (mut last, mut looks) = (0, 0u64);
                while !done.load(Ordering::SeqCst) {
                    let (lsn, seen) = watch.all().unwrap();
                    let (one, two) = (seen[&ONE].end.0, seen[&TWO].end.0);
                    assert_eq!(one, two, "as of {lsn}");
                    assert_eq!(one, lsn.0);
                    assert!(one >= last);
                    last = one;
                    looks += 1;
                }
                looks
            })
        })
        .collect();
    for lsn in 1..=200_000 {
        board.set_end(ONE.0, ONE.1, Lsn(lsn), LogOffset(lsn));
        board.set_end(TWO.0, TWO.1, Lsn(lsn), LogOffset(lsn));
        if lsn % 3 != 1 {
            board.publish(Lsn(lsn));
        }
    }
    done.store(true, Ordering::SeqCst);
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
}

#[test]
fn no_wake_up_is_lost() {
    let (board, watch) = page();
    show(&board, ONE);
    let watch = watch().unwrap();
    let seen = Arc::new(AtomicU64::new(0));
    let theirs = Arc::clone(&seen);
    let waiter = std::thread::spawn(move || {
        while watch.visible() < Lsn(2000) {
            let before = watch.visible();
            theirs.store(before.0, Ordering::SeqCst);
            // A lost one would cost a minute.
            watch.wait(Duration::from_secs(60), || watch.visible() > before);
        }
    });
    for lsn in 1..=2000 {
        board.publish(Lsn(lsn));
        while lsn % 7 == 0 && lsn < 1900 && seen.load(Ordering::SeqCst) < lsn {
            std::thread::yield_now();
        }
    }
    waiter.join().unwrap();
}
