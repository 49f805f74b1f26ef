//! What readers see: one visible LSN, and the oldest LSN that somebody still looks at.
//!
//! Everything that has versions (rows of tables, ends of partitions) keeps, for each thing, the newest version at or
//! below the [`View::horizon`] and all newer ones; older ones nobody can ask for any more. Invariant: the visible LSN
//! only grows, and is durable; beside it stands the LSN up to which everything is applied and may still be lost.

#[cfg(all(test, any(loom, shuttle)))]
mod models;

use std::collections::BTreeMap;

use crate::ids::Lsn;
use crate::wake::{Arc, AtomicU64, Mutex, Ordering, RaceSite, Signal, keeps};

/// The visible LSN and the pins below or above it.
#[derive(Debug, Default)]
pub(crate) struct View {
    visible: AtomicU64,
    /// Written and applied as a whole, durable or not; never below `visible`.
    written: AtomicU64,
    horizon: AtomicU64,
    pins: Mutex<BTreeMap<Lsn, usize>>,
    pub(crate) news: Signal,
}

impl View {
    pub(crate) fn visible(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::SeqCst))
    }

    /// The newest LSN that is applied with all before it, durable or not.
    pub(crate) fn written(&self) -> Lsn {
        Lsn(self.written.load(Ordering::SeqCst))
    }

    /// The oldest LSN anybody can look at.
    pub(crate) fn horizon(&self) -> Lsn {
        Lsn(self.horizon.load(Ordering::SeqCst))
    }

    /// Shows everything up to `lsn` at once and tells those who wait.
    pub(crate) fn publish(&self, lsn: Lsn) {
        {
            let pins = self.pins.lock();
            self.written.fetch_max(lsn.0, Ordering::SeqCst);
            self.visible.fetch_max(lsn.0, Ordering::SeqCst);
            self.set_horizon(&pins);
        }
        self.news.raise();
    }

    /// Shows everything up to `lsn` to those who do not wait for it to be durable.
    pub(crate) fn publish_written(&self, lsn: Lsn) {
        self.written.fetch_max(lsn.0, Ordering::SeqCst);
        self.news.raise();
    }

    /// Keeps what is needed to look at `at()`, which is asked while the horizon cannot move.
    pub(crate) fn pin(self: &Arc<Self>, at: impl FnOnce() -> Lsn) -> Pin {
        let (mut pins, lsn);
        if keeps(RaceSite::PinUnderLock) {
            pins = self.pins.lock();
            lsn = at();
        } else {
            lsn = at();
            pins = self.pins.lock();
        }
        *pins.entry(lsn).or_default() += 1;
        self.set_horizon(&pins);
        Pin { view: Arc::clone(self), lsn }
    }

    /// Who can ask for what, now. It may be used later: whoever comes asks for nothing below the visible LSN of now.
    pub(crate) fn holds(&self) -> Holds {
        let pins = self.pins.lock();
        let pins = pins.keys().copied().collect();
        Holds { pins, visible: self.visible() }
    }

    fn set_horizon(&self, pins: &BTreeMap<Lsn, usize>) {
        let visible = self.visible.load(Ordering::SeqCst);
        let oldest = pins.keys().next().map_or(visible, |lsn| lsn.0.min(visible));
        self.horizon.store(oldest, Ordering::SeqCst);
    }
}

/// The LSNs that somebody looks at, lowest first, and the one from which on anybody may.
#[derive(Debug)]
pub(crate) struct Holds {
    pins: Vec<Lsn>,
    visible: Lsn,
}

impl Holds {
    /// Drops of a row's versions, oldest first, those that nobody can ask for any more: a later one has replaced them
    /// and nobody looks at an LSN in between.
    pub(crate) fn prune<T>(&self, versions: &mut Vec<(Lsn, T)>) {
        if versions.len() < 2 {
            return;
        }
        let mut at = 0;
        let next: Vec<Lsn> = versions.iter().skip(1).map(|(lsn, _)| *lsn).collect();
        versions.retain(|(from, _)| {
            let needed = next.get(at).is_none_or(|until| *until > self.visible || self.is_pinned(*from, *until));
            at += 1;
            needed
        });
    }

    /// Whether somebody looks at an LSN from `from` on and below `until`.
    fn is_pinned(&self, from: Lsn, until: Lsn) -> bool {
        let first = self.pins.partition_point(|pin| *pin < from);
        self.pins.get(first).is_some_and(|pin| *pin < until)
    }
}

/// As long as it lives, the state at its LSN can be read.
#[derive(Debug)]
pub(crate) struct Pin {
    view: Arc<View>,
    lsn: Lsn,
}

impl Pin {
    pub(crate) fn lsn(&self) -> Lsn {
        self.lsn
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.view.pins.lock();
        if let Some(count) = pins.get_mut(&self.lsn) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.lsn);
            }
        }
        self.view.set_horizon(&pins);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(pins: &[u64], visible: u64, versions: &[u64]) -> Vec<u64> {
        let holds = Holds { pins: pins.iter().copied().map(Lsn).collect(), visible: Lsn(visible) };
        let mut versions: Vec<_> = versions.iter().map(|lsn| (Lsn(*lsn), ())).collect();
        holds.prune(&mut versions);
        versions.into_iter().map(|(lsn, ())| lsn.0).collect()
    }

    #[test]
    fn only_versions_that_somebody_can_ask_for_are_kept() {
        assert_eq!(left(&[], 9, &[1, 3, 5, 7]), [7]);
        assert_eq!(left(&[], 6, &[1, 3, 5, 7]), [5, 7]);
        assert_eq!(left(&[4], 9, &[1, 3, 5, 7]), [3, 7]);
        assert_eq!(left(&[3, 6], 9, &[1, 3, 5, 7]), [3, 5, 7]);
        assert_eq!(left(&[0], 9, &[1, 3, 5, 7]), [7]);
        assert_eq!(left(&[8], 2, &[1, 3, 5, 7]), [1, 3, 5, 7]);
        assert_eq!(left(&[7], 9, &[7]), [7]);
    }
}
