//! What one run gives, and what many give together.

use std::time::Duration;

/// One run of one workload on one subject.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// What was counted: records or operations.
    pub(crate) count: u64,
    pub(crate) elapsed: Duration,
    /// From call to answer, for a sample of the operations.
    pub(crate) latency: Option<Latency>,
    /// Syncs of files and directories while the clock ran, by whatever thread.
    pub(crate) syncs: u64,
}

/// Half of the operations took no longer than `p50`, 99 of 100 no longer than `p99`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// A run before its syncs are counted.
#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) count: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Option<Latency>,
}

impl Timed {
    pub(crate) fn with_syncs(self, syncs: u64) -> Figures {
        let Timed { count, elapsed, latency } = self;
        Figures { count, elapsed, latency, syncs }
    }
}

impl Figures {
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

impl Latency {
    /// Of samples in any order; `None` when there are none.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Option<Latency> {
        samples.sort_unstable();
        let rank = |percent: usize| samples.get((samples.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Latency { p50: rank(50)?, p99: rank(99)? })
    }
}

/// Many figures of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of numbers in any order; `None` when there are none.
    pub(crate) fn of(numbers: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut numbers: Vec<f64> = numbers.into_iter().collect();
        numbers.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*numbers.first()?, *numbers.last()?);
        let (low, high) = (numbers[(numbers.len() - 1) / 2], numbers[numbers.len() / 2]);
        Some(Spread { median: f64::midpoint(low, high), min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between() {
        let spread = Spread::of([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.min, spread.max), (2.5, 1.0, 4.0));
        assert_eq!(Spread::of([7.0]).unwrap().median, 7.0);
        assert!(Spread::of([]).is_none());
    }

    #[test]
    fn ranks_are_the_nearest_ones() {
        let latency = Latency::of((1..=200).map(Duration::from_micros).collect()).unwrap();
        assert_eq!((latency.p50, latency.p99), (Duration::from_micros(100), Duration::from_micros(198)));
        assert!(Latency::of(Vec::new()).is_none());
    }
}
