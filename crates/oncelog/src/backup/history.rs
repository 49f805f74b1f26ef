//! Which pieces of an archive follow each other, by their names alone.
//!
//! ```text
//! backup at (LSN, link) -> 21-40 -> 41-52 -> 53-60        a tip: nothing follows
//!                               \-> 41-47                 spooled once more after a crash: the same frames
//!                               \-> 41-49 -> 50-55        the machine was set back: another history
//! ```
//!
//! A piece names the link of the frame before it and that of its last one, so it follows just those pieces that end
//! with the former. Pure: whoever has the pieces' content decides what names leave open.

use std::collections::{BTreeMap, BTreeSet};

use super::link::Link;
use super::piece::PieceName;
use crate::ids::Lsn;

/// A frame of one history.
pub(crate) type Place = (Lsn, Link);

/// The pieces of an owner that follow what a restore begins with.
#[derive(Debug, Default)]
pub(crate) struct History {
    all: BTreeSet<PieceName>,
    /// Each place that is reached, and the piece that leads there.
    reached: BTreeMap<Place, PieceName>,
    /// The pieces behind which nothing follows.
    tips: Vec<PieceName>,
}

impl History {
    /// Pieces that may hold the frame behind `lsn`; whether they follow is said by that frame's link, which their name
    /// tells only where they begin with it.
    pub(crate) fn candidates(all: &BTreeSet<PieceName>, lsn: Lsn) -> Vec<PieceName> {
        all.iter().filter(|piece| piece.first <= lsn.next() && piece.last > lsn).copied().collect()
    }

    /// What follows `entries`, the candidates that do follow.
    pub(crate) fn behind(all: BTreeSet<PieceName>, entries: Vec<PieceName>) -> History {
        let mut followers: BTreeMap<Place, Vec<PieceName>> = BTreeMap::new();
        for piece in &all {
            followers.entry(piece.before_place()).or_default().push(*piece);
        }
        let (mut reached, mut tips, mut ahead) = (BTreeMap::new(), Vec::new(), entries);
        while let Some(piece) = ahead.pop() {
            if reached.contains_key(&piece.end()) {
                continue;
            }
            reached.insert(piece.end(), piece);
            match followers.get(&piece.end()) {
                Some(next) => ahead.extend(next),
                None => tips.push(piece),
            }
        }
        tips.sort();
        History { all, reached, tips }
    }

    pub(crate) fn tips(&self) -> &[PieceName] {
        &self.tips
    }

    /// The tip that is furthest.
    pub(crate) fn longest(&self) -> Option<PieceName> {
        self.tips.iter().max_by_key(|tip| tip.last).copied()
    }

    /// The pieces that lead to `tip`, in order, from the one that follows the beginning.
    pub(crate) fn path(&self, tip: PieceName) -> Vec<PieceName> {
        let mut path = vec![tip];
        let mut at = tip;
        while let Some(before) = self.reached.get(&at.before_place()) {
            path.push(*before);
            at = *before;
        }
        path.reverse();
        path
    }

    /// The frames that are missing behind frame `end`, if the archive goes on somewhere behind them. Pieces that begin
    /// no later than there and do not follow are of another history, and so are those that follow them.
    pub(crate) fn gap_behind(&self, end: Lsn) -> Option<(Lsn, Lsn)> {
        let mut others: BTreeSet<Place> = BTreeSet::new();
        // By their first frames, so what a piece follows comes before it.
        for piece in &self.all {
            if self.reached.contains_key(&piece.end()) {
                continue;
            }
            if piece.first <= end.next() || others.contains(&piece.before_place()) {
                others.insert(piece.end());
            } else {
                return Some((end.next(), Lsn(piece.first.0 - 1)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(first: u64, last: u64, before: u64, after: u64) -> PieceName {
        PieceName { first: Lsn(first), last: Lsn(last), before: Link(before), after: Link(after) }
    }

    fn history(pieces: &[PieceName], entries: &[PieceName]) -> History {
        History::behind(pieces.iter().copied().collect(), entries.to_vec())
    }

    #[test]
    fn pieces_follow_by_their_links() {
        let (one, two, three) = (piece(1, 10, 0, 10), piece(11, 20, 10, 20), piece(21, 30, 20, 30));
        let (again, other, behind) = (piece(11, 15, 10, 15), piece(11, 22, 10, 99), piece(23, 40, 99, 98));
        let all = [one, two, three, again, other, behind];
        let found = history(&all, &[one]);
        assert_eq!(found.tips(), [again, three, behind]);
        assert_eq!(found.longest(), Some(behind));
        assert_eq!(found.path(three), [one, two, three]);
        assert_eq!(found.path(behind), [one, other, behind]);
        assert_eq!(found.gap_behind(Lsn(30)), None);
        // From the middle of the first history the other one is not reached, and is no gap.
        let found = history(&all, &[three]);
        assert_eq!((found.path(three), found.tips()), (vec![three], &[three][..]));
        assert_eq!(found.gap_behind(Lsn(30)), None);
    }

    #[test]
    fn what_is_missing_is_a_gap() {
        let (one, far, further) = (piece(1, 10, 0, 10), piece(15, 20, 14, 20), piece(21, 30, 20, 30));
        let found = history(&[one, far, further], &[one]);
        assert_eq!((found.longest(), found.gap_behind(Lsn(10))), (Some(one), Some((Lsn(11), Lsn(14)))));
        // Nothing follows at all.
        let found = history(&[far, further], &[]);
        assert_eq!((found.longest(), found.gap_behind(Lsn(12))), (None, Some((Lsn(13), Lsn(14)))));
        assert_eq!(found.gap_behind(Lsn(30)), None);
        assert_eq!(History::candidates(&[one, far].into(), Lsn(10)), []);
        assert_eq!(History::candidates(&[one, far].into(), Lsn(14)), [far]);
        assert_eq!(History::candidates(&[one, far].into(), Lsn(16)), [far]);
    }
}
