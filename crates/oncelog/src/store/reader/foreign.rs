//! A topic as an owner of the same store reads it that does not write it.

use std::time::Duration;

use super::cursor::{PartitionCursor, find_time};
use super::owner::{OwnerReader, View};
use super::{StoreReader, TopicInfo, Watcher, Watchers};
use crate::consumer::Whence;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId};
use crate::page::Watched;
use crate::view;
use crate::wake::Arc;

/// So long at most nobody asks whether the one who waits has been stopped, or whether the owner was overtaken.
const WAIT_SLICE: Duration = Duration::from_millis(20);
/// Without an owner nothing comes; one that opens is noticed after so long.
const LOOK_FOR_OWNER: Duration = Duration::from_millis(5);

/// A topic that another owner writes.
pub(in crate::store) struct ForeignTopic {
    pub(in crate::store) info: TopicInfo,
    owner: Arc<OwnerReader>,
}

impl StoreReader {
    /// The topic of that name.
    ///
    /// # Errors
    /// `NotFound`: there is none, or it is claimed and its owner has not made it; `Unavailable`: its owner is being
    /// opened; `Corrupt`.
    pub(in crate::store) fn foreign(&self, name: &str) -> Result<ForeignTopic> {
        let (info, owner) = self.inner.find(name)?;
        Ok(ForeignTopic { info, owner })
    }
}

impl ForeignTopic {
    /// A partition as it is now: only what is durable counts, whoever asks.
    ///
    /// # Errors
    /// `NotFound`: the topic is deleted; `Unavailable`: its owner is being opened; `Corrupt`.
    pub(in crate::store) fn watched(&self, partition: PartitionId) -> Result<Watched> {
        let gone = || Error::new(ErrorKind::NotFound, format!("topic {:?} is deleted", self.info.name));
        self.owner.partition(self.info.id, partition)?.ok_or_else(gone)
    }

    /// A cursor whose next record is the one at `next`.
    pub(in crate::store) fn cursor(&self, partition: PartitionId, next: LogOffset) -> PartitionCursor {
        PartitionCursor::new(&self.owner, &self.info, partition, next)
    }

    /// Where a consumer begins that has never been there.
    pub(in crate::store) fn resolve(&self, partition: PartitionId, whence: Whence) -> Result<LogOffset> {
        let Watched { start, end } = self.watched(partition)?;
        match whence {
            Whence::Oldest => Ok(start),
            Whence::Latest => Ok(end),
            Whence::Position(position) if position > end => {
                let name = &self.info.name;
                let what =
                    format!("topic {name:?}, partition {partition}: position {position} is behind the end, {end}");
                Err(Error::invalid(what))
            }
            Whence::Position(position) => Ok(position),
            Whence::Time(from_ms) => {
                let mut cursor = self.cursor(partition, start);
                find_time(&mut cursor, end, from_ms)?;
                Ok(cursor.next)
            }
        }
    }

    /// Has what its owner shows raised as news of `view`, as long as the watcher is kept.
    ///
    /// # Errors
    /// `Unavailable`: there is no thread to be had.
    pub(in crate::store) fn watch(&self, watchers: &Watchers, view: &Arc<view::View>) -> Result<Arc<Watcher>> {
        watchers.watch(&self.owner, view)
    }

    /// Waits until `ready` says so, for `limit` at most. `ready` is asked after each commit of the owner, and now and
    /// then.
    pub(in crate::store) fn wait(&self, limit: Duration, ready: &dyn Fn() -> bool) -> Result<()> {
        let clock = &self.owner.clock;
        let deadline = clock.monotonic().saturating_add(limit);
        loop {
            let left = deadline.saturating_sub(clock.monotonic());
            if ready() || left.is_zero() {
                return Ok(());
            }
            match self.owner.view()? {
                View::Live(live) => {
                    let visible = live.watch.visible();
                    // Asked again: what came before the look at the visible LSN wakes nobody.
                    live.watch.wait(left.min(WAIT_SLICE), || live.watch.visible() != visible || ready());
                    if live.watch.visible() == visible {
                        self.owner.look_again()?;
                    }
                }
                View::Offline(_) => clock.sleep(left.min(LOOK_FOR_OWNER)),
            }
        }
    }
}
