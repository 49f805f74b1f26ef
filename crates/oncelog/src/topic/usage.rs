//! How many bytes a topic holds, and whether it may hold more.
//!
//! Counted as places are given out, so what is on its way counts. Several partitions are asked at the same time, so the
//! limit may be passed by what they append at that moment.

use std::time::Duration;

use super::TopicSpec;
use crate::error::{Error, ErrorKind, Result};
use crate::wake::{AtomicU64, Ordering, Signal};

/// The limit of a topic without one.
const UNLIMITED: u64 = u64::MAX;

/// Shared by the partitions of a topic.
#[derive(Debug)]
pub(crate) struct Usage {
    bytes: AtomicU64,
    /// Beyond it appends wait or are refused.
    limit: AtomicU64,
    /// Beyond it, old records can go.
    kept: AtomicU64,
    /// The most bytes that an append was refused since one last found room or something was freed.
    wanted: AtomicU64,
    freed: Signal,
}

/// What a topic says to more bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// Not until old records go.
    Full {
        limit: u64,
    },
    /// Never.
    TooLarge {
        limit: u64,
    },
}

impl Room {
    /// # Errors
    /// `TopicFull`: not until old records of the topic of that name go; `Invalid`: never.
    pub(crate) fn check(self, name: &str) -> Result<()> {
        match self {
            Room::Enough => Ok(()),
            Room::Full { limit } => {
                let what = format!("topic {name:?} holds as many of its {limit} bytes as it may, and none that may go");
                Err(Error::new(ErrorKind::TopicFull, what))
            }
            Room::TooLarge { limit } => {
                Err(Error::invalid(format!("topic {name:?} may hold {limit} bytes, and this is more at once")))
            }
        }
    }
}

impl Usage {
    pub(crate) fn of(spec: &TopicSpec) -> Usage {
        let atomic = AtomicU64::new;
        let (bytes, limit, kept, wanted) = (atomic(0), atomic(UNLIMITED), atomic(UNLIMITED), atomic(0));
        let usage = Usage { bytes, limit, kept, wanted, freed: Signal::default() };
        usage.set_limit(spec);
        usage
    }

    pub(super) fn set_limit(&self, spec: &TopicSpec) {
        self.limit.store(spec.retention.hard_limit().unwrap_or(UNLIMITED), Ordering::SeqCst);
        self.kept.store(spec.retention.max_total_bytes.unwrap_or(UNLIMITED), Ordering::SeqCst);
        self.freed.raise();
    }

    pub(super) fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }

    pub(super) fn free(&self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        let less = |held: u64| Some(held.saturating_sub(bytes));
        let _ = self.bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        self.wanted.store(0, Ordering::SeqCst);
        self.freed.raise();
    }

    /// Whether so many bytes more may be appended. If not, they are noted for [`Usage::wanted`].
    pub(crate) fn room_for(&self, bytes: u64) -> Room {
        let limit = self.limit.load(Ordering::SeqCst);
        if limit == UNLIMITED {
            return Room::Enough;
        }
        if self.bytes.load(Ordering::SeqCst).saturating_add(bytes) <= limit {
            if self.wanted() > 0 {
                self.wanted.store(0, Ordering::SeqCst);
            }
            return Room::Enough;
        }
        if bytes > limit {
            return Room::TooLarge { limit };
        }
        self.wanted.fetch_max(bytes, Ordering::SeqCst);
        Room::Full { limit }
    }

    /// As [`Usage::room_for`], for a batch that may grow to so many bytes.
    pub(crate) fn room_for_open(&self, bytes: u64) -> Room {
        self.room_for(bytes.min(self.limit.load(Ordering::SeqCst)))
    }

    /// Whether there is more than is to be kept, or somebody was refused.
    pub(crate) fn is_over(&self) -> bool {
        let over = self.bytes.load(Ordering::SeqCst) > self.kept.load(Ordering::SeqCst);
        over || self.wanted() > 0
    }

    /// Whether appends are ever refused.
    pub(crate) fn has_limit(&self) -> bool {
        self.limit.load(Ordering::SeqCst) != UNLIMITED
    }

    /// How many bytes were refused.
    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::SeqCst)
    }

    /// Waits until something was freed, for `limit` at most.
    pub(crate) fn wait(&self, limit: Duration) {
        let before = self.bytes.load(Ordering::SeqCst);
        self.freed.wait_until(limit, || self.bytes.load(Ordering::SeqCst) < before);
    }
}
