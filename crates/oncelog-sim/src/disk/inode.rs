//! One file: what reads see, what would survive, and the writes between the two.
//!
//! ```text
//! write -> pages (the cache)      shadow: the durable version of each page where the two differ
//!       -> writes, lens           the log of what is unsynced, in order, for a power cut to choose from
//! sync  -> shadow and log are emptied: the cache is the durable content
//! cut   -> the survivors of the log are applied to shadow, and shadow goes back over the cache
//! ```
//!
//! Invariants:
//! * a page that is not in `shadow` is the same in the cache and on the disk;
//! * every byte past a length is zero, in the cache and in the durable version, so that growing shows zeros;
//! * a sector in `stale` differs and no sync will write it: it was dirty when a sync failed. Writing to it ends that;
//! * all costs follow what is dirty, not the length of the file.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::pages::{self, PAGE, PAGE_SECTORS, Pages, SECTOR, Slot, pieces, units};
use super::survival::{NodePlan, Time, WriteSpan};
use super::trace::{Trace, hash_bytes};

/// More than this, and the log of unsynced bytes gives its memory back when it is emptied.
const LOG_BYTES_KEPT: usize = 1 << 20;

/// A file under the page cache.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pages: Pages,
    len: usize,
    reserved: usize,
    shadow: BTreeMap<usize, Slot>,
    durable_len: usize,
    durable_reserved: usize,
    writes: Vec<Write>,
    /// The bytes of `writes`, one after the other.
    log: Vec<u8>,
    lens: Vec<(Time, usize)>,
    stale: BTreeSet<usize>,
}

/// An unsynced write. `log_start` is `None` for zeros.
#[derive(Clone, Debug)]
struct Write {
    time: Time,
    range: Range<usize>,
    log_start: Option<usize>,
}

impl Inode {
    /// A durable file.
    pub(super) fn with_content(bytes: &[u8]) -> Self {
        let mut inode = Inode::default();
        inode.write(0, 0, bytes);
        inode.sync();
        inode
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the disk that the file takes: its length, or what was preallocated if that is more.
    pub(super) fn charge(&self) -> usize {
        self.len.max(self.reserved)
    }

    /// The time of the first operation that is not synced.
    pub(super) fn unsynced_since(&self) -> Option<Time> {
        let written = self.writes.first().map(|write| write.time);
        let resized = self.lens.first().map(|(time, _)| *time);
        written.into_iter().chain(resized).min()
    }

    /// What reads see, from `position` on; less than asked for at the end.
    pub(super) fn read(&self, position: usize, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.len.saturating_sub(position));
        self.pages.read(position, &mut buffer[..count]);
        count
    }

    /// What reads see and what space it takes, in one number.
    pub(super) fn content_hash(&self) -> u64 {
        let mut trace = Trace::default();
        trace.note(&[self.len as u64, self.reserved as u64]);
        for index in (0..self.pages.end()).filter(|index| !self.pages.is_hole(*index)) {
            trace.note(&[index as u64, hash_bytes(self.pages.page(index))]);
        }
        trace.hash()
    }

    pub(super) fn write(&mut self, time: Time, position: usize, bytes: &[u8]) {
        let range = position..position + bytes.len();
        let zeros = bytes.iter().all(|byte| *byte == 0);
        for (index, piece) in pieces(range.clone(), PAGE) {
            if zeros && self.pages.is_hole(index) {
                continue;
            }
            self.keep_durable(index);
            let target = &mut self.pages.page_mut(index)[pages::within(&piece, index)];
            target.copy_from_slice(&bytes[piece.start - position..piece.end - position]);
        }
        self.log_write(time, range.clone(), (!zeros).then_some(bytes));
        if range.end > self.len {
            self.log_len(time, range.end);
        }
    }

    /// Cuts or extends, and gives back what was preallocated. Cutting also counts as writing zeros past the new end:
    /// until the next sync those bytes may be there, zero, or gone.
    pub(super) fn set_len(&mut self, time: Time, len: usize) {
        self.reserved = 0;
        if len < self.len {
            for index in len / PAGE..self.pages.end() {
                if !self.pages.is_hole(index) {
                    self.keep_durable(index);
                }
            }
            self.pages.cut(len.div_ceil(PAGE));
            if !self.pages.is_hole(len / PAGE) {
                self.pages.page_mut(len / PAGE)[len % PAGE..].fill(0);
            }
            self.log_write(time, len..self.len, None);
        }
        if len != self.len {
            self.log_len(time, len);
        }
    }

    pub(super) fn preallocate(&mut self, end: usize) {
        self.reserved = self.reserved.max(end);
    }

    /// Makes the cache durable, all but the stale sectors. The length goes too: it is in the file system's journal,
    /// which did not fail, so that stale growth becomes zeros.
    pub(super) fn sync(&mut self) {
        self.forget_log();
        self.lens.clear();
        self.durable_len = self.len;
        self.durable_reserved = self.reserved;
        if self.stale.is_empty() {
            return self.shadow.clear();
        }
        let end = self.len.div_ceil(SECTOR);
        self.stale.retain(|sector| *sector < end);
        let (pages, stale) = (&self.pages, &self.stale);
        self.shadow.retain(|index, slot| {
            let sectors = index * PAGE_SECTORS..(index + 1) * PAGE_SECTORS;
            let is_stale = stale.range(sectors.clone()).next().is_some();
            for sector in sectors.filter(|sector| is_stale && !stale.contains(sector)) {
                let part = pages::sector_in_page(sector);
                pages::slot_mut(slot)[part.clone()].copy_from_slice(&pages.page(*index)[part]);
            }
            is_stale
        });
        clip(&mut self.shadow, self.len);
    }

    /// A sync that failed: what `plan` spares reached the disk, and the rest is clean in the eyes of every later sync,
    /// as on Linux, though reads still show it (Rebello et al., "Can Applications Recover from fsync Failures?", 2020).
    pub(super) fn fail_sync(&mut self, time: Time, plan: &NodePlan) {
        self.settle(plan);
        for write in &self.writes {
            for sector in units(&write.range, SECTOR) {
                if self.differs(sector) {
                    self.stale.insert(sector);
                } else {
                    self.stale.remove(&sector);
                }
            }
        }
        self.forget_log();
        self.lens.clear();
        if self.len != self.durable_len {
            self.lens.push((time, self.len));
        }
        let stale = &self.stale;
        self.shadow.retain(|index, _| stale.range(index * PAGE_SECTORS..(index + 1) * PAGE_SECTORS).next().is_some());
    }

    /// The power goes: what `plan` spares of the unsynced joins the durable content, and that is what reads see now.
    pub(super) fn power_cut(&mut self, plan: &NodePlan) {
        self.settle(plan);
        for (index, slot) in std::mem::take(&mut self.shadow) {
            self.pages.set_slot(index, slot);
        }
        self.len = self.durable_len;
        self.pages.cut(self.len.div_ceil(PAGE));
        self.reserved = self.durable_reserved;
        self.forget_log();
        self.lens.clear();
        self.stale.clear();
    }

    /// Makes durable exactly what reads see, stale sectors included. For tests that edit files by hand.
    pub(super) fn adopt_cache(&mut self) {
        self.stale.clear();
        self.sync();
    }

    /// Changes a byte in the cache and on the disk alike, as rot does. Unsynced writes of it stay unsynced.
    pub(super) fn rot(&mut self, position: usize, change: impl Fn(&mut u8)) {
        let (index, offset) = (position / PAGE, position % PAGE);
        if let Some(slot) = self.shadow.get_mut(&index)
            && position < self.durable_len
        {
            change(&mut pages::slot_mut(slot)[offset]);
        }
        change(&mut self.pages.page_mut(index)[offset]);
    }

    /// Applies the survivors of the log to the durable version.
    fn settle(&mut self, plan: &NodePlan) {
        let late = plan.suffix_from().map_or_else(Vec::new, |from| self.sectors_since(from));
        for write in &self.writes {
            let sectors = units(&write.range, SECTOR);
            let span = WriteSpan { time: write.time, first_sector: sectors.start, sectors: sectors.len() };
            for (sector, piece) in pieces(write.range.clone(), SECTOR) {
                if plan.keeps(span, sector, || is_among(&late, sector)) {
                    let start = write.log_start.map(|start| start + piece.start - write.range.start);
                    let bytes = start.map(|start| &self.log[start..start + piece.len()]);
                    patch(&mut self.shadow, piece, bytes);
                }
            }
        }
        self.durable_len = plan.len(self.durable_len, &self.lens);
        clip(&mut self.shadow, self.durable_len);
        if plan.keeps_reservation() {
            self.durable_reserved = self.reserved;
        }
    }

    /// Sectors written at or after `from`: ranges in order, not overlapping.
    fn sectors_since(&self, from: Time) -> Vec<Range<usize>> {
        let late = self.writes.iter().filter(|write| write.time >= from);
        let mut ranges: Vec<_> = late.map(|write| units(&write.range, SECTOR)).collect();
        ranges.sort_by_key(|range| range.start);
        ranges.dedup_by(|next, before| {
            let joins = next.start <= before.end;
            if joins {
                before.end = before.end.max(next.end);
            }
            joins
        });
        ranges
    }

    /// Keeps the durable version of a page before the first change to its cached one.
    fn keep_durable(&mut self, index: usize) {
        let pages = &self.pages;
        self.shadow.entry(index).or_insert_with(|| pages.slot(index));
    }

    /// Notes a write that the cache has already taken. Sectors go to the disk whole, so where the first or the last one
    /// was stale, the write takes the rest of it along.
    fn log_write(&mut self, time: Time, mut range: Range<usize>, bytes: Option<&[u8]>) {
        let start = self.log.len();
        let sectors = units(&range, SECTOR);
        if self.stale.range(sectors.clone()).next().is_some() {
            range = sectors.start * SECTOR..sectors.end * SECTOR;
            self.log.resize(start + range.len(), 0);
            self.pages.read(range.start, &mut self.log[start..]);
            self.stale.retain(|sector| !sectors.contains(sector));
            return self.writes.push(Write { time, range, log_start: Some(start) });
        }
        self.log.extend_from_slice(bytes.unwrap_or_default());
        self.writes.push(Write { time, range, log_start: bytes.map(|_| start) });
    }

    fn log_len(&mut self, time: Time, len: usize) {
        self.len = len;
        self.lens.push((time, len));
    }

    fn forget_log(&mut self) {
        self.writes.clear();
        self.log.clear();
        if self.log.capacity() > LOG_BYTES_KEPT {
            self.log = Vec::new();
        }
    }

    fn differs(&self, sector: usize) -> bool {
        let index = sector / PAGE_SECTORS;
        let part = pages::sector_in_page(sector);
        let durable = self.shadow.get(&index);
        durable.is_some_and(|slot| pages::slot_page(slot)[part.clone()] != self.pages.page(index)[part])
    }
}

/// Writes into the durable version. A page that has none was a hole when zeros were written to it, and still is one.
fn patch(shadow: &mut BTreeMap<usize, Slot>, piece: Range<usize>, bytes: Option<&[u8]>) {
    let index = piece.start / PAGE;
    let Some(slot) = shadow.get_mut(&index) else {
        debug_assert!(bytes.is_none_or(|bytes| bytes.iter().all(|byte| *byte == 0)), "bytes over an unkept page");
        return;
    };
    let part = pages::within(&piece, index);
    match bytes {
        Some(bytes) => pages::slot_mut(slot)[part].copy_from_slice(bytes),
        None if slot.is_none() => {}
        None => pages::slot_mut(slot)[part].fill(0),
    }
}

/// Zeroes what lies past `len`.
fn clip(shadow: &mut BTreeMap<usize, Slot>, len: usize) {
    for (index, slot) in shadow.range_mut(len / PAGE..) {
        let start = index * PAGE;
        if start >= len {
            *slot = None;
        } else if slot.is_some() {
            pages::slot_mut(slot)[len - start..].fill(0);
        }
    }
}

fn is_among(ranges: &[Range<usize>], sector: usize) -> bool {
    let after = ranges.partition_point(|range| range.start <= sector);
    after > 0 && ranges[after - 1].contains(&sector)
}
