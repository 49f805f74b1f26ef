//! What readers see: one visible LSN, and the oldest LSN that somebody still looks at.
//!
//! Everything that has versions (rows of tables, ends of partitions) keeps, for each thing, the newest version at or
//! below the [`View::horizon`] and all newer ones; older ones nobody can ask for any more. Invariant: the visible LSN
//! only grows, and is durable; beside it stands the LSN up to which everything is applied and may still be lost.

use std::collections::BTreeMap;

use crate::ids::Lsn;
use crate::wake::{Arc, AtomicU64, Mutex, Ordering, Signal};

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
        let mut pins = self.pins.lock();
        let lsn = at();
        *pins.entry(lsn).or_default() += 1;
        self.set_horizon(&pins);
        Pin { view: Arc::clone(self), lsn }
    }

    fn set_horizon(&self, pins: &BTreeMap<Lsn, usize>) {
        let visible = self.visible.load(Ordering::SeqCst);
        let oldest = pins.keys().next().map_or(visible, |lsn| lsn.0.min(visible));
        self.horizon.store(oldest, Ordering::SeqCst);
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
