//! Compacted segments in place of those that they were made from: decided under the turn, durable with the next trim
//! point, then files.
//!
//! ```text
//! compactable (turn) -> new files, durable -> plan_exchange (turn) -> rows of the trim point -> exchanged (files go)
//! ```
//!
//! As with a removal nothing has changed until the trim point is durable, and a crash leaves all or nothing. Readers of
//! this process that stand in an old segment read on in it as long as its file is open, and else in the one that took
//! its place. Those of other processes go by names: there is a whole file for every record at any moment. Such a reader
//! takes a file that should be gone for the one of its records, so nothing is compacted again before that is gone.

use std::path::PathBuf;
use std::time::Duration;

use super::compaction::Dirt;
use super::partition::{Partition, Turn};
use super::retention::elapsed;
use crate::error::Result;
use crate::ids::LogOffset;
use crate::segment::{Generation, OpenFiles, Segment, SegmentName};
use crate::wake::{Arc, Ordering};

/// So many old segments are taken away at once.
const CLEARED_AT_ONCE: usize = 32;

/// What a compaction may work on.
pub(crate) struct Compactable {
    /// From the first of the partition on, without one left out.
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The trim point says how all of them end.
    pub(crate) is_settled: bool,
    /// The next trim point has something new to say of some segment.
    pub(crate) has_news: bool,
    pub(crate) dirt: Dirt,
    /// One holds tombstones that may all go.
    pub(crate) has_old_tombstones: bool,
}

/// What is to be exchanged with the next trim point: until that is durable the old ones count.
#[derive(Clone)]
pub(crate) struct Exchange {
    pub(crate) old: Vec<Arc<Segment>>,
    pub(crate) new: Vec<Arc<Segment>>,
    /// Below it each key is once then.
    pub(crate) compacted: LogOffset,
}

impl Exchange {
    /// How much goes, and how much comes.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let bytes = |segments: &[Arc<Segment>]| segments.iter().map(|segment| segment.end().position).sum();
        (bytes(&self.old), bytes(&self.new))
    }
}

impl Partition {
    /// The segments that may be compacted at `now_ms`: all older ones that got their last record `least_age` ago, and
    /// hold none from `floor` on. The newest that holds records never is, so the end of the log is what it was.
    pub(crate) fn compactable(
        &self,
        turn: &mut Turn,
        now_ms: i64,
        (least_age, tombstones_ms): (Duration, i64),
        floor: LogOffset,
    ) -> Compactable {
        let all = self.segments.read().clone();
        // A crash came between an exchange and the trim point that would have said since when it was.
        self.count_tombstones(&all, now_ms, tombstones_ms);
        let (_, has_news) = self.files(turn, now_ms, None);
        let newest = all.iter().rposition(|segment| segment.is_filled()).unwrap_or(0);
        let ripe = |segment: &Arc<Segment>| {
            let end = segment.end();
            end.sealed_ms.is_some_and(|sealed| elapsed(sealed, now_ms) >= least_age) && end.offset <= floor
        };
        let segments: Vec<_> = all[..newest].iter().take_while(|segment| ripe(segment)).cloned().collect();
        let is_settled = segments.iter().all(|segment| segment.recorded() == Some(segment.end()));
        let due = |segment: &Arc<Segment>| segment.end().tombstones_until().is_some_and(|until| until <= now_ms);
        let has_old_tombstones = segments.iter().any(due);
        Compactable { dirt: self.dirt_in(&segments), segments, is_settled, has_news, has_old_tombstones }
    }

    /// Has the time of tombstones begin in those of these segments, which are in place of others, where it has not
    /// begun.
    pub(crate) fn count_tombstones(&self, segments: &[Arc<Segment>], now_ms: i64, tombstones_ms: i64) {
        for segment in segments.iter().filter(|segment| segment.end().fresh.is_some_and(|fresh| !fresh.is_counted())) {
            segment.count_tombstones(now_ms.saturating_add(tombstones_ms));
            self.unsettle(segment);
        }
    }

    /// This one holds no tombstone that may ever go, whatever was said of it. The next trim point says so.
    pub(crate) fn has_no_tombstones(&self, segment: &Arc<Segment>) {
        segment.has_no_tombstones();
        self.unsettle(segment);
    }

    /// How much of what may be compacted was not, as far as that is known without waiting for anybody.
    pub(crate) fn dirt(&self) -> Dirt {
        let all = self.segments.read().clone();
        let newest = all.iter().rposition(|segment| segment.is_filled()).unwrap_or(0);
        self.dirt_in(&all[..newest])
    }

    fn dirt_in(&self, segments: &[Arc<Segment>]) -> Dirt {
        let compacted = self.compacted();
        let mut dirt = Dirt::default();
        for end in segments.iter().map(|segment| segment.end()) {
            if end.offset <= compacted { dirt.clean += end.position } else { dirt.dirty += end.position }
        }
        dirt
    }

    /// Below it each key is once.
    pub(crate) fn compacted(&self) -> LogOffset {
        LogOffset(self.compacted.load(Ordering::SeqCst))
    }

    /// Notes that each key is once below `compacted`, without any file that changes. The next trim point says so.
    pub(crate) fn is_compacted(&self, compacted: LogOffset) {
        self.compacted.fetch_max(compacted.0, Ordering::SeqCst);
    }

    /// Where its files are open.
    pub(crate) fn open_files(&self) -> &Arc<OpenFiles> {
        &self.maker.files
    }

    pub(crate) fn fresh_salt(&self) -> u64 {
        self.maker.chance.next_u64()
    }

    /// The number of the next writing of its segments.
    pub(crate) fn next_generation(&self) -> Option<Generation> {
        let number = self.generations.fetch_add(1, Ordering::SeqCst) + 1;
        Generation::made_by(self.maker.epoch, number)
    }

    /// Whether it is one of its segments now.
    pub(crate) fn holds(&self, segment: &Arc<Segment>) -> bool {
        is_among(&self.segments.read(), segment)
    }

    /// Notes segment files that nothing names, to be taken away: soon, and before anything is compacted again.
    pub(crate) fn leave_over(&self, files: impl IntoIterator<Item = PathBuf>) {
        self.leftovers.lock().extend(files);
    }

    /// Takes away what is left over of removals and earlier compactions.
    ///
    /// # Errors
    /// `Unavailable`: some of it stays, and nothing may be compacted.
    pub(crate) fn clear_leftovers(&self) -> Result<()> {
        while self.clear_some()? {}
        Ok(())
    }

    /// Takes some of that away; `false`: nothing is left. Nobody waits for it but who deletes the topic.
    ///
    /// # Errors
    /// As [`Partition::clear_leftovers`].
    pub(crate) fn clear_some(&self) -> Result<bool> {
        let _no_deletion = self.clearing.lock();
        if self.check_there().is_err() {
            // Who deletes it takes all of its files, and then one of these names may be another's.
            self.leftovers.lock().clear();
            return Ok(false);
        }
        for _ in 0..CLEARED_AT_ONCE {
            let Some(path) = self.leftovers.lock().pop_front() else { return Ok(false) };
            if let Err(error) = self.remove_file(&path) {
                self.leftovers.lock().push_front(path);
                return Err(error);
            }
        }
        Ok(!self.leftovers.lock().is_empty())
    }

    /// Whether a segment of that name stands aside for another writing of the same records.
    pub(crate) fn is_replaced(&self, name: &SegmentName) -> bool {
        let segments = self.segments.read();
        let behind = segments.partition_point(|segment| segment.head.base_offset <= name.base);
        let here = behind.checked_sub(1).and_then(|at| segments.get(at));
        here.is_some_and(|segment| name.base < segment.end().offset && segment.head.generation != name.generation)
    }

    /// Decides that this is exchanged with the next trim point.
    pub(crate) fn plan_exchange(&self, _turn: &mut Turn, exchange: Exchange) {
        *self.exchange.lock() = Some(exchange);
    }

    /// What the next trim point exchanges.
    pub(crate) fn exchange(&self) -> Option<Exchange> {
        self.exchange.lock().clone()
    }

    /// Takes back what was decided; `false` when it has happened. Only while no trim point is moved.
    pub(crate) fn cancel_exchange(&self) -> bool {
        self.exchange.lock().take().is_some()
    }

    /// The trim point names the new segments. The files of the old ones are left over.
    pub(crate) fn exchanged(&self, exchange: &Exchange) {
        *self.exchange.lock() = None;
        let stays = |segment: &Arc<Segment>| !is_among(&exchange.old, segment);
        exchange.new.iter().for_each(|segment| segment.is_recorded(segment.end()));
        {
            let mut segments = self.segments.write();
            segments.retain(stays);
            segments.extend(exchange.new.iter().cloned());
            segments.sort_by_key(|segment| segment.head.base_offset);
        }
        self.unsettled.lock().retain(stays);
        self.is_compacted(exchange.compacted);
        exchange.old.iter().for_each(|segment| segment.close());
        exchange.new.iter().for_each(|segment| segment.save_index());
        let (went, came) = exchange.bytes();
        self.usage().add(came.saturating_sub(went));
        self.usage().free(went.saturating_sub(came));
        self.leave_over(exchange.old.iter().map(|segment| segment.path.clone()));
    }
}

/// Whether it is one of these, which are in order.
pub(super) fn is_among(segments: &[Arc<Segment>], segment: &Arc<Segment>) -> bool {
    let found = segments.binary_search_by_key(&segment.head.base_offset, |one| one.head.base_offset);
    found.is_ok_and(|at| Arc::ptr_eq(&segments[at], segment))
}
