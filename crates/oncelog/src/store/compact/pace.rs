//! How fast compaction may move the trim point. Whoever looks at a store from beside begins again when the trim point
//! moves while he looks, and gives up after so many times: so moves of compaction come in bursts that are short enough
//! for him, and after each the trim point is left where it is for long enough to see all.

use std::time::Duration;

/// So many moves may follow each other: fewer than anybody looks again.
const BURST: u32 = 16;
/// Then there is none for so long.
const REST: Duration = Duration::from_millis(500);

/// The moves of one store, by its monotonic clock.
#[derive(Default)]
pub(super) struct Pace {
    /// So many without a rest between two.
    moves: u32,
    last: Duration,
    rests_until: Duration,
}

impl Pace {
    /// The trim point was moved, or may have been.
    pub(super) fn moves(&mut self, now: Duration) {
        if now.saturating_sub(self.last) >= REST {
            self.moves = 0;
        }
        (self.moves, self.last) = (self.moves + 1, now);
        if self.moves == BURST {
            (self.moves, self.rests_until) = (0, now.saturating_add(REST));
        }
    }

    /// How long it must not be moved.
    pub(super) fn rest(&self, now: Duration) -> Duration {
        self.rests_until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When moves happen of one that would move each `every` milliseconds, as long as it does not rest.
    fn moves(every: u64, until: u64) -> Vec<u64> {
        let (mut pace, mut made) = (Pace::default(), Vec::new());
        for now in (0..until).step_by(usize::try_from(every).unwrap()) {
            let at = Duration::from_millis(now);
            if pace.rest(at).is_zero() {
                pace.moves(at);
                made.push(now);
            }
        }
        made
    }

    #[test]
    fn after_a_burst_there_is_a_rest() {
        assert_eq!(moves(1, 600), (0..16).chain(515..531).collect::<Vec<_>>());
        for every in [1, 7, 100, 333, 499] {
            let made = moves(every, 100_000);
            let longest = made.windows(17).map(|some| some[16] - some[0]).min().unwrap();
            assert!(longest >= 500, "{every}: seventeen moves within {longest} ms");
        }
        assert_eq!(moves(500, 20_000).len(), 40, "who rests anyhow is not kept");
    }
}
