//! The page in every order of its owner's steps and a reader's, and with every value that a load may then see: ends
//! that belong together or none, and no news is missed.

#![allow(clippy::unwrap_used, reason = "a model fails by panicking")]

use std::time::Duration;

use super::*;
use crate::disk::{MapAccess, SharedMap};
use crate::wake::models::{check, check_needs};
use crate::wake::{Arc, Condvar, Mutex, spawn};

const ONE: (TopicId, PartitionId) = (TopicId(1), PartitionId(0));
const TWO: (TopicId, PartitionId) = (TopicId(2), PartitionId(0));

/// The memory that owner and reader share: no more of it than two partitions need.
struct Shared {
    words: Vec<AtomicU64>,
    /// As the system does it: whether the word still is what it was is looked at under a lock, which a waker takes too.
    waiting: Mutex<()>,
    woken: Condvar,
}

impl SharedMap for Shared {
    fn words(&self) -> &[AtomicU64] {
        &self.words
    }

    fn access(&self) -> MapAccess {
        MapAccess::Write
    }

    fn wait(&self, word: usize, seen: u32, limit: Duration) {
        let guard = self.waiting.lock();
        if low_half(self.words[word].load(Ordering::SeqCst)) == seen {
            drop(self.woken.wait_timeout(guard, limit));
        }
    }

    fn wake(&self, _word: usize) {
        drop(self.waiting.lock());
        self.woken.notify_all();
    }
}

/// An owner that shows two empty partitions, and a reader that knows both.
fn page() -> (Board, Watch) {
    let words = (0..HEAD_WORDS + 2 * ENTRY_WORDS).map(|_| AtomicU64::new(0)).collect();
    let shared = Arc::new(Shared { words, waiting: Mutex::new(()), woken: Condvar::new() });
    let theirs = Arc::clone(&shared);
    let name = PageName { store: StoreId([3; 16]), epoch: Epoch(5), pid: 77, boot: 9 };
    let board = Board::begin(name, Box::new(move |_| Ok(Arc::clone(&shared) as _))).unwrap();
    for (topic, partition) in [ONE, TWO] {
        let empty = Watched { start: LogOffset(0), end: LogOffset(0) };
        board.show((topic, "name"), partition, empty).unwrap();
    }
    let watch = Watch::open(Box::new(move |_| Ok(Arc::clone(&theirs) as _))).unwrap().unwrap();
    watch.all().unwrap();
    (board, watch)
}

/// A group that appends to both partitions, so that the ends of both are its LSN.
fn apply(board: &Board, lsn: u64) {
    for (topic, partition) in [ONE, TWO] {
        board.set_end(topic, partition, Lsn(lsn), LogOffset(lsn));
    }
}

/// What a reader finds is one state of both partitions, and is not taken back.
fn groups_beside_a_reader(groups: [u64; 2], looks: usize) {
    let (board, watch) = page();
    for lsn in 1..groups[0] {
        apply(&board, lsn);
        board.publish(Lsn(lsn));
    }
    let owner = move || {
        for lsn in groups {
            apply(&board, lsn);
            board.publish(Lsn(lsn));
        }
    };
    let owner = spawn("owner".to_owned(), owner).unwrap();
    let mut before = 0;
    for _ in 0..looks {
        let (lsn, ends) = watch.all().unwrap();
        assert_eq!((ends[&ONE].end.0, ends[&TWO].end.0), (lsn.0, lsn.0), "both as of what is visible");
        assert!(lsn.0 >= before, "taken back");
        before = lsn.0;
    }
    owner.join().unwrap();
}

/// A reader of one partition, past which the owner goes on by two groups, the first of them visible by itself or with
/// the second.
fn one_partition_beside_a_reader(first_is_shown: bool) {
    let (board, watch) = page();
    for lsn in 1..=3 {
        apply(&board, lsn);
        board.publish(Lsn(lsn));
    }
    let owner = move || {
        for lsn in [4, 5] {
            board.set_end(ONE.0, ONE.1, Lsn(lsn), LogOffset(lsn));
            if lsn == 5 || first_is_shown {
                board.publish(Lsn(lsn));
            }
        }
    };
    let owner = spawn("owner".to_owned(), owner).unwrap();
    let before = watch.visible();
    let found = watch.partition(ONE.0, ONE.1).unwrap().unwrap().end;
    let after = watch.visible();
    assert!((before.0..=after.0).contains(&found.0), "{found} is no end between {before} and {after}");
    assert!(found.0 != 4 || first_is_shown, "an end that was never shown");
    owner.join().unwrap();
}

/// A reader that sleeps until both groups are visible.
fn a_reader_waits_for_two_groups() {
    let (board, watch) = page();
    let owner = move || {
        board.publish(Lsn(1));
        board.publish(Lsn(2));
    };
    let owner = spawn("owner".to_owned(), owner).unwrap();
    let mut seen = watch.visible();
    while seen < Lsn(2) {
        // The wait has no other end in a model: time does not pass.
        watch.wait(Duration::from_secs(1), || watch.visible() > seen);
        seen = watch.visible();
    }
    owner.join().unwrap();
}

#[test]
fn a_reader_finds_ends_that_belong_together() {
    check(2, 100, || groups_beside_a_reader([1, 2], 1));
}

#[test]
fn a_reader_that_is_overtaken_twice_finds_no_older_end() {
    check(3, 100, || one_partition_beside_a_reader(true));
    check(3, 100, || one_partition_beside_a_reader(false));
}

#[test]
fn no_news_of_a_page_is_missed() {
    check(3, 100, a_reader_waits_for_two_groups);
}

#[test]
fn each_step_of_a_page_is_needed() {
    check_needs(RaceSite::OlderSlot, 2, || groups_beside_a_reader([3, 4], 1));
    check_needs(RaceSite::SlotIsMarked, 3, || one_partition_beside_a_reader(true));
    check_needs(RaceSite::SlotIsStillThere, 3, || one_partition_beside_a_reader(true));
    check_needs(RaceSite::PageAsksAgain, 3, a_reader_waits_for_two_groups);
}

/// Only loom knows that a store may be seen late.
#[cfg(loom)]
#[test]
fn what_is_shown_is_ordered_before_the_look_for_those_who_wait() {
    check_needs(RaceSite::PageFence, 3, a_reader_waits_for_two_groups);
}
