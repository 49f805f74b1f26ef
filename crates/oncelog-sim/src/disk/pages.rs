//! The bytes of a file as shared 4 KiB pages. A page is copied only when it is written while someone else holds it, and
//! a page of zeros that was never written otherwise takes no memory: so a durable version beside the cached one, a copy
//! of a whole disk, and a large zero-filled file all cost next to nothing.

use std::ops::Range;
use std::sync::Arc;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;
/// What the page cache keeps, and often writes back, together.
pub(super) const PAGE: usize = 4096;
/// Sectors in a page.
pub(super) const PAGE_SECTORS: usize = PAGE / SECTOR;

pub(super) type Page = [u8; PAGE];
/// A page, or `None` for a hole, which reads as zeros.
pub(super) type Slot = Option<Arc<Page>>;

static ZEROS: Page = [0; PAGE];

/// Content without a length: holes and everything past the last page read as zeros.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    slots: Vec<Slot>,
}

impl Pages {
    pub(super) fn slot(&self, index: usize) -> Slot {
        self.slots.get(index).cloned().flatten()
    }

    pub(super) fn page(&self, index: usize) -> &Page {
        self.slots.get(index).and_then(Option::as_deref).unwrap_or(&ZEROS)
    }

    pub(super) fn is_hole(&self, index: usize) -> bool {
        !matches!(self.slots.get(index), Some(Some(_)))
    }

    /// Number of slots: no page at or after it holds anything.
    pub(super) fn end(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn set_slot(&mut self, index: usize, slot: Slot) {
        if index >= self.slots.len() {
            if slot.is_none() {
                return;
            }
            self.slots.resize(index + 1, None);
        }
        self.slots[index] = slot;
    }

    pub(super) fn page_mut(&mut self, index: usize) -> &mut Page {
        if index >= self.slots.len() {
            self.slots.resize(index + 1, None);
        }
        slot_mut(&mut self.slots[index])
    }

    /// Forgets the pages from `index` on.
    pub(super) fn cut(&mut self, index: usize) {
        self.slots.truncate(index);
    }

    pub(super) fn read(&self, position: usize, buffer: &mut [u8]) {
        for (index, piece) in pieces(position..position + buffer.len(), PAGE) {
            let page = &self.page(index)[within(&piece, index)];
            buffer[piece.start - position..piece.end - position].copy_from_slice(page);
        }
    }
}

/// The page of `slot` for writing: filled with zeros if it is a hole, copied if it is shared.
pub(super) fn slot_mut(slot: &mut Slot) -> &mut Page {
    Arc::make_mut(slot.get_or_insert_with(|| Arc::new(ZEROS)))
}

pub(super) fn slot_page(slot: &Slot) -> &Page {
    slot.as_deref().unwrap_or(&ZEROS)
}

/// Cuts `range` where it crosses multiples of `unit`: the number of each unit and the part of `range` in it.
pub(super) fn pieces(range: Range<usize>, unit: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    units(&range, unit).map(move |index| {
        let start = range.start.max(index * unit);
        let end = range.end.min((index + 1) * unit);
        (index, start..end)
    })
}

/// The units that `range` touches; none if it is empty.
pub(super) fn units(range: &Range<usize>, unit: usize) -> Range<usize> {
    if range.is_empty() { 0..0 } else { range.start / unit..range.end.div_ceil(unit) }
}

/// Where `piece`, a range of the file, lies in page `index`.
pub(super) fn within(piece: &Range<usize>, index: usize) -> Range<usize> {
    piece.start - index * PAGE..piece.end - index * PAGE
}

/// Sector `sector` of the file in the page that holds it.
pub(super) fn sector_in_page(sector: usize) -> Range<usize> {
    let start = sector % PAGE_SECTORS * SECTOR;
    start..start + SECTOR
}
