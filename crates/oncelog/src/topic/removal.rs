//! Removing the oldest records of a partition: decided under the turn, durable with the next trim point, then files.
//!
//! ```text
//! plan_removal (turn) -> rows of the trim point: the new start, none for what goes -> removed (start moves, files go)
//! ```
//!
//! Until the trim point is durable nothing has changed, for readers and on the disk: a crash leaves all or nothing. A
//! file that a crash then leaves is named by no row, and taken away when its partition is next put together.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::exchange::is_among;
use super::partition::{Partition, Removal, Turn};
use super::retention::{FileView, elapsed};
use crate::error::{Error, Result};
use crate::ids::LogOffset;
use crate::segment::Segment;
use crate::wake::{Arc, Ordering};

impl Partition {
    /// Decides that the records below `start` go with the next trim point, with the segments that hold no other ones.
    /// `start` must not be above what is applied. Nothing if it is not above what was decided before.
    pub(crate) fn plan_removal(&self, turn: &mut Turn, start: LogOffset) {
        let mut removal = self.removal.lock();
        if start <= self.start().max(removal.start) {
            return;
        }
        let segments = self.segments.read();
        // A segment is complete where the next one begins, and the last one where nothing more has its place behind it.
        let behind = segments.iter().skip(1).map(|segment| segment.head.base_offset).chain([turn.last_place()]);
        let goes = segments.iter().zip(behind).take_while(|(_, behind)| *behind <= start).map(|(segment, _)| segment);
        removal.segments = goes.cloned().collect();
        removal.start = start;
        turn.leave(&removal.segments);
    }

    /// Its files, for retention. Those that get no more records are sealed at `now_ms`; the newest is ended if it was
    /// first seen with records so long ago. Also whether the next trim point has something new to say of them.
    pub(crate) fn files(&self, turn: &mut Turn, now_ms: i64, max_age: Option<Duration>) -> (Vec<FileView>, bool) {
        let applied = self.applied_end();
        let segments = self.segments.read().clone();
        if self.is_aged(turn, now_ms, max_age) {
            turn.leave(&segments);
        }
        let (mut files, mut news) = (Vec::with_capacity(segments.len()), false);
        for (at, segment) in segments.iter().enumerate() {
            let next = segments.get(at + 1).map(|next| next.head.base_offset);
            let behind = next.unwrap_or(turn.last_place());
            let is_active = turn.writes(segment);
            if !is_active && behind <= applied && segment.is_filled() {
                news |= segment.end().sealed_ms.is_none();
                segment.seal(now_ms);
                self.unsettle(segment);
            }
            let end = segment.end();
            files.push(FileView { behind, bytes: end.position, sealed_ms: end.sealed_ms });
        }
        (files, news)
    }

    /// Has the next trim point say of the segment what it does not say yet.
    pub(super) fn unsettle(&self, segment: &Arc<Segment>) {
        if segment.recorded() == Some(segment.end()) {
            return;
        }
        let mut unsettled = self.unsettled.lock();
        let at = unsettled.partition_point(|known| known.head.base_offset < segment.head.base_offset);
        let mut same = unsettled[at..].iter().take_while(|known| known.head.base_offset == segment.head.base_offset);
        if !same.any(|known| Arc::ptr_eq(known, segment)) {
            unsettled.insert(at, Arc::clone(segment));
        }
    }

    /// Whether the segment that is written to has held records for `max_age`.
    fn is_aged(&self, turn: &Turn, now_ms: i64, max_age: Option<Duration>) -> bool {
        let Some(segment) = turn.filled() else { return false };
        segment.note_filled(now_ms);
        let since = segment.end().filled_ms.unwrap_or(now_ms);
        // What is gathered has its room there.
        turn.open.is_none() && max_age.is_some_and(|max_age| elapsed(since, now_ms) >= max_age)
    }

    /// What the next trim point removes.
    pub(crate) fn removal(&self) -> Removal {
        self.removal.lock().clone()
    }

    /// Takes back what was decided: the trim point could not be moved.
    pub(crate) fn keep_all(&self) {
        *self.removal.lock() = Removal::default();
    }

    /// The trim point no longer holds what `removal` names: moves the start and takes the segments away. Their files
    /// are left over.
    pub(crate) fn removed(&self, removal: &Removal) {
        if removal.start == LogOffset(0) {
            return;
        }
        let stays = |segment: &Arc<Segment>| !is_among(&removal.segments, segment);
        {
            let mut decided = self.removal.lock();
            decided.segments.retain(stays);
            if decided.start == removal.start {
                *decided = Removal::default();
            }
        }
        // First the start: whoever finds a segment gone asks for it.
        self.start.fetch_max(removal.start.0, Ordering::SeqCst);
        self.segments.write().retain(stays);
        self.unsettled.lock().retain(stays);
        removal.segments.iter().for_each(|segment| segment.close());
        self.usage().free(removal.bytes());
        self.leave_over(removal.segments.iter().map(|segment| segment.path.clone()));
    }

    /// Removes the file of a segment and its index; that they are gone already is no error. Once the segment is gone
    /// nothing fails any more, and it is never removed again: its name is free.
    pub(super) fn remove_file(&self, segment: &Path) -> Result<()> {
        for path in [&segment.with_extension("index"), segment] {
            match self.maker.files.disk.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(path, "remove an old segment", error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Removal {
    /// How many segments go.
    pub(crate) fn count(&self) -> usize {
        self.segments.len()
    }

    /// How much goes.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.end().position).sum()
    }

    /// Where the segments begin that go.
    pub(crate) fn bases(&self) -> impl Iterator<Item = LogOffset> + '_ {
        self.segments.iter().map(|segment| segment.head.base_offset)
    }
}
