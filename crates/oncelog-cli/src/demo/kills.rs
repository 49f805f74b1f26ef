//! When to kill: moments spread over the work that is left, some of them in recovery. Pure.

use std::time::Duration;

use super::dice::Dice;

/// One in so many kills hits a worker that recovers from the one before.
const ONE_IN_RECOVERY: u64 = 3;
/// How long after the moment that was aimed at a kill comes at the latest: it shall not always hit the same code.
const DELAY_MS_MAX: u64 = 10;

/// What a worker's life is to end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing: it may finish.
    Lives,
    /// A kill so long after it began to open the store.
    DiesOpening(Duration),
    /// A kill so long after it has come to so many units of work.
    DiesAt(u64, Duration),
}

/// The kills to come.
#[derive(Clone, Debug)]
pub(super) struct Kills {
    asked: u64,
    done: u64,
    in_recovery: u64,
    /// Kills in a row that came too late to hit a recovery.
    missed: u64,
    dice: Dice,
}

impl Kills {
    pub(super) fn new(asked: u64, seed: u64) -> Kills {
        Kills { asked, done: 0, in_recovery: 0, missed: 0, dice: Dice::new(seed) }
    }

    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Kills that hit a worker at work.
    pub(super) fn done(&self) -> u64 {
        self.done
    }

    /// How many of them hit it while it recovered from the one before.
    pub(super) fn in_recovery(&self) -> u64 {
        self.in_recovery
    }

    /// Counts a kill that hit.
    pub(super) fn count(&mut self, fate: Fate, in_recovery: bool) {
        self.done += 1;
        self.in_recovery += u64::from(in_recovery);
        match fate {
            Fate::DiesOpening(_) if !in_recovery => self.missed += 1,
            _ => self.missed = 0,
        }
    }

    /// What the next worker's life is to end with. `left` is the work not yet done, `total` all of it; `opening` how
    /// long the shortest recovery so far took, if there was one.
    pub(super) fn next(&mut self, left: u64, total: u64, opening: Option<Duration>) -> Fate {
        let kills = self.asked - self.done;
        if kills == 0 {
            return Fate::Lives;
        }
        if self.done > 0 && self.done % ONE_IN_RECOVERY == ONE_IN_RECOVERY - 1 && self.missed < 2 {
            let span = opening.unwrap_or(Duration::from_millis(4)).as_micros() / (2 << self.missed);
            let span = u64::try_from(span).unwrap_or(u64::MAX).max(1);
            return Fate::DiesOpening(Duration::from_micros(self.dice.below(span)));
        }
        // Between half and three halves of an even share of what is left, so that the last kill comes before the end.
        let share = left / (kills + 1);
        let aim = share / 2 + self.dice.below(share.max(1));
        let delay = Duration::from_micros(self.dice.below(DELAY_MS_MAX * 1000));
        Fate::DiesAt(total - left + aim, delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_spread_and_some_hit_a_recovery() {
        let mut kills = Kills::new(50, 7);
        let (total, mut done, mut recoveries) = (100_000, 0, 0);
        loop {
            let fate = kills.next(total - done, total, Some(Duration::from_millis(10)));
            match fate {
                Fate::Lives => break,
                Fate::DiesOpening(delay) => {
                    assert!(delay < Duration::from_millis(5));
                    recoveries += 1;
                }
                Fate::DiesAt(at, _) => {
                    assert!((done..total).contains(&at), "{at}");
                    assert!(at - done < 8 * total / 50, "{at} after {done}");
                    done = at;
                }
            }
            kills.count(fate, matches!(fate, Fate::DiesOpening(_)));
        }
        assert_eq!((kills.done(), kills.in_recovery(), recoveries), (50, 16, 16));
        assert!(done > total / 2, "{done}");
    }

    #[test]
    fn a_recovery_that_is_too_fast_to_hit_is_given_up() {
        let mut kills = Kills::new(7, 7);
        for _ in 0..7 {
            let fate = kills.next(10, 100, None);
            kills.count(fate, false);
        }
        assert_eq!(kills.next(10, 100, None), Fate::Lives);
        assert_eq!((kills.done(), kills.in_recovery()), (7, 0));
    }
}
