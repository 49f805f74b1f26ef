//! An owner that lives: its page, and the segments that it writes.

use std::path::{Path, PathBuf};

use super::super::layout::Layout;
use super::super::page::{Earlier, page_path};
use super::owner::View;
use crate::disk::{Disk, DiskFile, MapAccess, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, LogOffset, PartitionId, StoreId, TopicId};
use crate::page::{PageState, Watch, file_words};
use crate::record::Batch;
use crate::segment::{Follower, Generation, segment_path};
use crate::topic::{Piece, Polled, SegmentRow, partition_dir, pieces, topic_dir};
use crate::wake::Arc;

/// The page of an opening, and the file whose lock shows that its owner lives.
pub(super) struct Live {
    pub(super) watch: Watch,
    pub(super) epoch: Epoch,
    file: Box<dyn DiskFile>,
}

/// What there is of an owner.
pub(super) enum Found {
    Serving(Arc<Live>),
    /// It has its lock and does not show anything yet.
    Opening,
    /// Nobody; `failed_at` is what was visible when its journal failed, in this running of the machine.
    Nobody {
        failed_at: Option<crate::ids::Lsn>,
    },
}

impl Live {
    /// Looks for the owner of the opening that the manifest names.
    pub(super) fn find(disk: &Arc<dyn Disk>, layout: &Layout, store: StoreId, epoch: Epoch) -> Result<Found> {
        let path = page_path(&layout.page, epoch, 0);
        let file = match disk.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Live::nobody(disk, layout),
            Err(error) => return Err(Error::io(&path, "open a page", error)),
        };
        let lives = is_locked(&*file, &path)?;
        let watch = match open_watch(disk, layout, epoch) {
            Ok(watch) => watch.filter(|watch| (watch.name().store, watch.name().epoch) == (store, epoch)),
            Err(error) if lives => {
                let what = "the owner lives, and what it shows cannot be seen from here";
                return Err(Error::new(ErrorKind::Unavailable, what).because(error).in_file(&path));
            }
            Err(_) => None,
        };
        match watch {
            Some(watch) if lives && watch.state() == PageState::Serving => {
                Ok(Found::Serving(Arc::new(Live { watch, epoch, file })))
            }
            // Its journal failed, and it still answers for what was visible then.
            Some(watch) if lives && watch.state() == PageState::Failed => {
                Ok(Found::Serving(Arc::new(Live { watch, epoch, file })))
            }
            _ if lives => Ok(Found::Opening),
            _ => Live::nobody(disk, layout),
        }
    }

    fn nobody(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<Found> {
        Ok(Found::Nobody { failed_at: Earlier::find(disk, &layout.page)?.failed_at })
    }

    /// Whether the owner still is there and serves.
    pub(super) fn lives(&self, layout: &Layout) -> Result<bool> {
        let serves = matches!(self.watch.state(), PageState::Serving | PageState::Failed);
        Ok(serves && is_locked(&*self.file, &page_path(&layout.page, self.epoch, 0))?)
    }
}

fn is_locked(file: &dyn DiskFile, path: &Path) -> Result<bool> {
    file.is_locked().map_err(|error| Error::io(path, "look for the owner", error))
}

fn open_watch(disk: &Arc<dyn Disk>, layout: &Layout, epoch: Epoch) -> Result<Option<Watch>> {
    let (disk, dir) = (Arc::clone(disk), layout.page.clone());
    Watch::open(Box::new(move |number| {
        let path = page_path(&dir, epoch, number);
        let map = |access| disk.map_shared(&path, file_words(number), access);
        // To be woken, a reader says in the page that it waits. Where it may not, it looks again now and then.
        let mapped = map(MapAccess::Write).or_else(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => map(MapAccess::Read),
            _ => Err(error),
        });
        mapped.map_err(|error| Error::io(&path, "map a page", error))
    }))
}

/// A cursor in a partition that a living owner writes.
///
/// It goes by names, which tell no file that counts from one that should be gone: what retention or a compaction could
/// not remove, or what a compaction of a fenced opening has named. So it says what it doubts
/// ([`Trail::is_doubted`]); its owner's trim point knows, and then it is told ([`Trail::trust`], [`Trail::go_by`]).
pub(super) struct Trail {
    disk: Arc<dyn Disk>,
    layout: Layout,
    store: StoreId,
    name: String,
    topic: TopicId,
    partition: PartitionId,
    next: LogOffset,
    at: Option<Place>,
}

/// An open segment.
struct Place {
    piece: Piece,
    follower: Follower,
    /// Where the next one begins, if there was one when this was opened: records from there on do not count here.
    until: Option<LogOffset>,
    /// The last one that its opening wrote: there may be records behind its end that a later opening knows as lost.
    is_last: bool,
    /// Something in this directory was compacted: it may be a file that should be gone, or that came to nothing.
    may_be_stray: bool,
    /// Records below it are known to count.
    trusted: LogOffset,
}

/// Files come and go while they are looked at: so often it is looked again before something counts as wrong.
const LOOKS: u32 = 16;

impl Trail {
    pub(super) fn new(
        disk: &Arc<dyn Disk>,
        layout: &Layout,
        store: StoreId,
        name: &str,
        topic: TopicId,
        partition: PartitionId,
    ) -> Trail {
        let (disk, layout, name) = (Arc::clone(disk), layout.clone(), name.to_owned());
        Trail { disk, layout, store, name, topic, partition, next: LogOffset(0), at: None }
    }

    /// Gives the buffers back: nothing more comes for now.
    pub(super) fn rest(&mut self) {
        if let Some(place) = &mut self.at {
            place.follower.rest();
        }
    }

    /// The batch that holds record `next`, or what stands in its place. Everything below `limit` must be visible.
    pub(super) fn poll(&mut self, next: LogOffset, limit: LogOffset) -> Result<Polled> {
        if next >= limit {
            return Ok(Polled::End);
        }
        if self.next != next {
            self.next = next;
            self.at = self.at.take().filter(|place| place.piece.base <= next);
            if let Some(place) = &mut self.at {
                place.follower.seek(next, limit)?;
            }
        }
        match self.approach(limit)? {
            Some(lost) => Ok(Polled::Gap(lost)),
            None => self.take(limit),
        }
    }

    /// Finds the segment and the place in it; gives what is lost if there is none.
    fn approach(&mut self, limit: LogOffset) -> Result<Option<std::ops::Range<LogOffset>>> {
        let dir = self.dir();
        let mut looks = 0;
        loop {
            let next = self.next;
            if let Some(place) = &mut self.at
                && place.until.is_none_or(|until| next < until)
                && place.follower.is_at_batch(next, limit)?
            {
                return Ok(None);
            }
            let found = pieces(&*self.disk, &dir)?;
            let behind = found.partition_point(|piece| piece.base <= self.next);
            let (here, after) = (behind.checked_sub(1).map(|at| &found[at]), found.get(behind));
            let until = after.map(|piece| piece.base);
            let is_last = here.is_some_and(|here| after.is_none_or(|after| after.epoch > here.epoch));
            let same = self
                .at
                .as_ref()
                .is_some_and(|place| Some(&place.piece) == here && (place.until, place.is_last) == (until, is_last));
            looks += 1;
            match here {
                Some(piece) if !same && looks < 2 * LOOKS => {
                    let may_be_stray = found.iter().any(|piece| piece.generation != Generation(0));
                    self.enter(piece.clone(), (until, is_last), may_be_stray, limit)?;
                }
                _ if looks < LOOKS => self.at = None,
                _ => {
                    // The segment ends before the record, at the end of a batch: lost with the power, where appends
                    // were answered before they were durable, or removed.
                    return Ok(Some(self.next..after.map_or(limit, |after| after.base.min(limit))));
                }
            }
        }
    }

    fn dir(&self) -> PathBuf {
        partition_dir(&topic_dir(&self.layout.topics, &self.name), self.partition)
    }

    fn enter(
        &mut self,
        piece: Piece,
        (until, is_last): (Option<LogOffset>, bool),
        may_be_stray: bool,
        limit: LogOffset,
    ) -> Result<()> {
        let (store, topic, partition) = (self.store, self.topic, self.partition);
        let ours = move |head: &crate::segment::SegmentHead| {
            (head.store, head.topic, head.partition) == (store, topic, partition)
        };
        self.at = match Follower::open(&*self.disk, &piece.path, ours)? {
            Some(mut follower) => {
                follower.seek(self.next, limit)?;
                Some(Place { piece, follower, until, is_last, may_be_stray, trusted: LogOffset(0) })
            }
            None => None,
        };
        Ok(())
    }

    fn take(&mut self, limit: LogOffset) -> Result<Polled> {
        let Some(Place { follower, .. }) = &mut self.at else { return Ok(Polled::End) };
        match follower.advance(self.next, limit)? {
            Some(offsets) if offsets.contains(&self.next) => {
                self.next = offsets.end;
                Ok(Polled::Batch)
            }
            _ => {
                let what = format!("record {} is missing from its segment", self.next);
                Err(Error::corrupt(follower.path(), 0, what))
            }
        }
    }

    /// Whether the record that was found at `next` may be one that counts no more: at the end of what an opening before
    /// that of `view` wrote, or in a file that should not be there.
    pub(super) fn is_doubted(&self, next: LogOffset, view: &View) -> bool {
        let View::Live(live) = view else { return false };
        let is_tail = |place: &Place| place.is_last && place.piece.epoch < live.epoch;
        let doubted = |place: &Place| next >= place.trusted && (place.may_be_stray || is_tail(place));
        self.at.as_ref().is_some_and(doubted)
    }

    /// Whether it reads the segment of `row`.
    pub(super) fn reads(&self, row: &SegmentRow) -> bool {
        let named = (row.base_offset, row.epoch, row.generation);
        self.at.as_ref().is_some_and(|place| (place.piece.base, place.piece.epoch, place.piece.generation) == named)
    }

    /// Reads the segment of `row` from here on, up to where it ends, whatever else is there; what is gone is looked for
    /// by name again.
    pub(super) fn go_by(&mut self, row: &SegmentRow, limit: LogOffset) -> Result<()> {
        let path = segment_path(&self.dir(), row.base_offset, row.epoch, row.generation);
        let piece = Piece { base: row.base_offset, epoch: row.epoch, generation: row.generation, path };
        self.enter(piece, (Some(row.end_offset), false), true, limit)?;
        self.trust(row.end_offset);
        Ok(())
    }

    /// Records below `until` count in the segment that it reads.
    pub(super) fn trust(&mut self, until: LogOffset) {
        if let Some(place) = &mut self.at {
            place.trusted = until;
        }
    }

    /// The batch that the last poll found.
    pub(super) fn current(&self) -> Result<Batch<'_>> {
        self.at.as_ref().ok_or_else(Error::closed)?.follower.current()
    }
}
