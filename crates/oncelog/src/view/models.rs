//! One writer, one reader with a pin: what a pin shows is one state, all of it, for as long as it is held.

use std::collections::VecDeque;

use super::*;
use crate::wake::models::{check, check_needs};
use crate::wake::{RaceSite, spawn};

/// Something with versions, which lets go of what nobody can ask for, as the ends of partitions and the rows of tables
/// do.
struct Versions(Mutex<VecDeque<Lsn>>);

impl Versions {
    fn new() -> Versions {
        Versions(Mutex::new(VecDeque::from([Lsn(0)])))
    }

    fn put(&self, view: &View, lsn: Lsn) {
        let horizon = view.horizon();
        let mut versions = self.0.lock();
        while versions.get(1).is_some_and(|second| *second <= horizon) {
            versions.pop_front();
        }
        versions.push_back(lsn);
    }

    fn at(&self, lsn: Lsn) -> Option<Lsn> {
        self.0.lock().iter().rev().find(|version| **version <= lsn).copied()
    }
}

fn a_pin_beside_a_writer() {
    let view = Arc::new(View::default());
    let things = Arc::new([Versions::new(), Versions::new()]);
    let (theirs, their_view) = (Arc::clone(&things), Arc::clone(&view));
    let write = move || {
        for lsn in (1..=3).map(Lsn) {
            theirs.iter().for_each(|thing| thing.put(&their_view, lsn));
            their_view.publish(lsn);
        }
    };
    let writer = spawn("writer".to_owned(), write).expect("a model starts threads");
    let pin = view.pin(|| view.visible());
    for _ in 0..2 {
        for thing in things.iter() {
            assert_eq!(thing.at(pin.lsn()), Some(pin.lsn()), "a state that is pinned is there, whole");
        }
    }
    drop(pin);
    writer.join().expect("the writer does not panic");
    assert_eq!((view.visible(), view.horizon()), (Lsn(3), Lsn(3)));
}

#[test]
fn a_pin_shows_one_state() {
    check(3, 100, a_pin_beside_a_writer);
}

#[test]
fn a_pin_is_chosen_under_the_lock() {
    check_needs(RaceSite::PinUnderLock, 3, a_pin_beside_a_writer);
}
