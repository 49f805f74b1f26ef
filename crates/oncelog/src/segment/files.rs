//! The open files of segments: bounded over all partitions of an owner, those given up first that nobody has used for
//! longest (second chance, Corbato 1968).
//!
//! Invariants: a file that somebody is working with is not given up; one with unsynced bytes is synced before, while
//! its descriptor can still tell of an error that the kernel met in writing it back. A sync that failed there is told
//! by the next [`Segment::sync`], so the trim point cannot pass what it did not cover. A segment's own lock is never
//! held while another file is given up.
//!
//! Here is also where an owner asks itself before it calls its own files damaged: see [`OpenFiles::judge`].

use std::collections::VecDeque;
use std::io;

use super::Segment;
use crate::disk::{Disk, lacks_descriptors};
use crate::error::{Error, ErrorKind, Result};
use crate::wake::{Arc, AtomicU64, AtomicUsize, Mutex, Ordering, Weak};

/// So many candidates are looked at for one that needs no sync before some are synced.
const LOOKS: usize = 16;

/// Asks whether the files are still this opening's.
///
/// # Errors
/// `Fenced`, `Closed`: no, and never again; anything else: it could not be found out.
pub(crate) type Standing = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// The open segment files of one owner, and the disk they are on.
pub(crate) struct OpenFiles {
    pub(crate) disk: Arc<dyn Disk>,
    standing: Standing,
    limit: usize,
    /// Segments whose file is open, in the order in which they were opened or last spared.
    ring: Mutex<VecDeque<Weak<Segment>>>,
    open: AtomicUsize,
    /// Indexes read from their files.
    pub(super) indexes_loaded: AtomicU64,
    /// Indexes found wrong and made anew.
    pub(super) indexes_rebuilt: AtomicU64,
}

/// What came of asking a segment for its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GivenUp {
    /// It is closed, or was already.
    Closed,
    /// In use, or used since it was last asked, or not to be given up without a sync.
    Spared,
}

/// How much may be done to get a file closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    /// Only what costs nothing.
    Mild,
    /// A sync too, and files that were used lately.
    Hard,
}

impl OpenFiles {
    pub(crate) fn new(disk: Arc<dyn Disk>, standing: Standing, limit: usize) -> OpenFiles {
        OpenFiles {
            disk,
            standing,
            limit: limit.max(1),
            ring: Mutex::default(),
            open: AtomicUsize::new(0),
            indexes_loaded: AtomicU64::new(0),
            indexes_rebuilt: AtomicU64::new(0),
        }
    }

    /// How many are open now.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Indexes that were read from their files, and those that were found wrong and made anew.
    pub(crate) fn indexes(&self) -> (u64, u64) {
        (self.indexes_loaded.load(Ordering::Relaxed), self.indexes_rebuilt.load(Ordering::Relaxed))
    }

    /// What is to be said where a file of this owner is gone or not as it was written. Whoever has taken the owner over
    /// cuts and removes files that the opening before it still knows, so one that has lost its owner is told that, and
    /// not that something is damaged; and nothing is called damaged while that cannot be found out.
    pub(crate) fn judge(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) {
            return error;
        }
        match (self.standing)() {
            Ok(()) => error,
            Err(over) if matches!(over.kind(), ErrorKind::Fenced | ErrorKind::Closed) => over.because(error),
            Err(unknown) => {
                let what = format!("whether this opening still has its owner cannot be found out, and {error}");
                Error::new(unknown.kind(), what).because(unknown)
            }
        }
    }

    /// Does something that needs a descriptor; where there are none left, gives up half of ours and tries once more.
    pub(crate) fn with_room<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match act() {
            Err(error) if lacks_descriptors(&error) => {
                self.shrink_to(self.open() / 2);
                act()
            }
            other => other,
        }
    }

    /// A segment has opened its file: others give up theirs, if there are too many now.
    pub(super) fn opened(&self, segment: &Arc<Segment>) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.ring.lock().push_back(Arc::downgrade(segment));
        if self.open() > self.limit {
            self.shrink_to(self.limit);
        }
    }

    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives up files until no more than `count` are open, or every one was asked twice.
    fn shrink_to(&self, count: usize) {
        let mut looks = self.ring.lock().len();
        let mild = looks.min(LOOKS);
        let mut asked = 0;
        looks *= 2;
        while asked < looks && self.open() > count {
            let Some(next) = self.ring.lock().pop_front() else { return };
            asked += 1;
            // A segment that is gone has closed its file.
            let Some(segment) = next.upgrade() else { continue };
            let pressure = if asked <= mild { Pressure::Mild } else { Pressure::Hard };
            if segment.give_up_file(pressure) == GivenUp::Spared {
                self.ring.lock().push_back(next);
            }
        }
    }
}
