//! Where each key was last written: keys and offsets in little memory, for compaction.
//!
//! ```text
//! slots   hash % n -> tag (24 bits) | place in the arena (40 bits)
//! arena   pieces; in each: offset | length | key, one after the other
//! ```
//!
//! Memory: a piece is never made larger, so nothing is held twice but the slots while there come to be more of them.
//! [`LastOffsets::peak_with`] says before what it will take, so whoever asks it first keeps a limit.
//!
//! Invariant: two keys are the same if their bytes are. The hash only says where to look, so keys that collide cost
//! time and never a record; it is salted, so nobody can choose keys that do. (Kafka compares 16 bytes of MD5 instead.)

use std::hash::{DefaultHasher, Hasher};

use crate::ids::LogOffset;

const SLOTS_MIN: usize = 64;
const PLACE_BITS: u32 = 40;
/// The place within a piece; the bits above say which.
const PIECE_BITS: u32 = 21;
const PIECE_MIN: usize = 256;
const PIECE_MAX: usize = 1 << 20;
/// A piece takes this part of what there is: so little is free.
const PIECES: usize = 16;
/// What stands in the arena before a key.
const ENTRY_BYTES: usize = 12;

/// The last offset of each key that was noted.
pub(crate) struct LastOffsets {
    salt: u64,
    hash: fn(u64, &[u8]) -> u64,
    arena: Vec<Vec<u8>>,
    /// What its pieces take.
    arena_bytes: usize,
    /// Empty, or a power of two; a quarter is free. 0 is a free slot, else the place plus one.
    slots: Vec<u64>,
    count: usize,
    #[cfg(test)]
    peak: usize,
}

/// Of the next piece, where there are so many bytes of pieces and it is to hold an entry of so many.
fn piece_bytes(arena_bytes: usize, entry: usize) -> usize {
    (arena_bytes / PIECES).clamp(PIECE_MIN, PIECE_MAX).max(entry)
}

fn more_slots(slots: usize) -> usize {
    (slots * 2).max(SLOTS_MIN)
}

fn salted(salt: u64, key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(salt);
    hasher.write(key);
    hasher.finish()
}

impl LastOffsets {
    pub(crate) fn new(salt: u64) -> LastOffsets {
        LastOffsets {
            salt,
            hash: salted,
            arena: Vec::new(),
            arena_bytes: 0,
            slots: Vec::new(),
            count: 0,
            #[cfg(test)]
            peak: 0,
        }
    }

    /// Notes that the key was written at `offset`, which is above all that were noted before.
    pub(crate) fn note(&mut self, key: &[u8], offset: LogOffset) {
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let (slot, tag, place) = self.find(key);
        match place {
            Some(place) => {
                let (piece, at) = split(place);
                self.arena[piece][at..at + 8].copy_from_slice(&offset.0.to_le_bytes());
            }
            None => {
                let place = self.add(key, offset) + 1;
                self.slots[slot] = tag << PLACE_BITS | place;
                self.count += 1;
            }
        }
    }

    /// Puts an entry behind the others, and gives its place.
    fn add(&mut self, key: &[u8], offset: LogOffset) -> u64 {
        let entry = ENTRY_BYTES + key.len();
        if self.free() < entry {
            let bytes = piece_bytes(self.arena_bytes, entry);
            self.arena.push(Vec::with_capacity(bytes));
            self.arena_bytes += bytes;
            self.notes_peak(0);
        }
        let piece = self.arena.len() - 1;
        let last = &mut self.arena[piece];
        let at = last.len();
        last.extend_from_slice(&offset.0.to_le_bytes());
        last.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
        last.extend_from_slice(key);
        (piece as u64) << PIECE_BITS | at as u64
    }

    /// How much the last piece still takes.
    fn free(&self) -> usize {
        self.arena.last().map_or(0, |last| last.capacity() - last.len())
    }

    /// The most memory that it takes on the way if keys of these lengths are noted, each of them a new one.
    pub(crate) fn peak_with(&self, keys: impl IntoIterator<Item = usize>) -> usize {
        let (mut arena, mut free, mut slots, mut count) = (self.arena_bytes, self.free(), self.slots.len(), self.count);
        let mut peak = self.bytes();
        for length in keys {
            count += 1;
            if count * 4 > slots * 3 {
                let more = more_slots(slots);
                peak = peak.max(arena + (slots + more) * size_of::<u64>());
                slots = more;
            }
            let entry = ENTRY_BYTES + length;
            if free < entry {
                free = piece_bytes(arena, entry);
                arena += free;
            }
            free -= entry;
            peak = peak.max(arena + slots * size_of::<u64>());
        }
        peak
    }

    /// Where the key was last written, if it was.
    pub(crate) fn last(&self, key: &[u8]) -> Option<LogOffset> {
        if self.slots.is_empty() {
            return None;
        }
        let (.., place) = self.find(key);
        let (piece, at) = split(place?);
        Some(LogOffset(u64::from_le_bytes(*self.arena[piece][at..].first_chunk()?)))
    }

    /// Whether nothing was noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much memory it takes now.
    pub(crate) fn bytes(&self) -> usize {
        self.arena_bytes + self.slots.capacity() * size_of::<u64>()
    }

    #[cfg(test)]
    fn notes_peak(&mut self, beside: usize) {
        let arena: usize = self.arena.iter().map(Vec::capacity).sum();
        self.peak = self.peak.max(arena + self.slots.capacity() * size_of::<u64>() + beside);
    }

    #[cfg(not(test))]
    fn notes_peak(&self, _beside: usize) {}

    /// The slot of the key, or the free one where it would be; its tag; and where it stands in the arena.
    fn find(&self, key: &[u8]) -> (usize, u64, Option<u64>) {
        let (hash, mask) = ((self.hash)(self.salt, key), self.slots.len() - 1);
        // The upper bits, beside those that choose the slot.
        let tag = hash >> PLACE_BITS;
        let mut slot = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & mask;
        loop {
            let held = self.slots[slot];
            let Some(place) = (held & ((1 << PLACE_BITS) - 1)).checked_sub(1) else { return (slot, tag, None) };
            if held >> PLACE_BITS == tag && self.key_at(place) == key {
                return (slot, tag, Some(place));
            }
            slot = (slot + 1) & mask;
        }
    }

    fn key_at(&self, place: u64) -> &[u8] {
        let (piece, at) = split(place);
        let entry = &self.arena[piece][at..];
        let length = entry[8..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        &entry[ENTRY_BYTES..ENTRY_BYTES + length]
    }

    #[cold]
    fn grow(&mut self) {
        let more = vec![0; more_slots(self.slots.len())];
        self.notes_peak(more.capacity() * size_of::<u64>());
        self.slots = more;
        for piece in 0..self.arena.len() {
            let mut at = 0;
            while at < self.arena[piece].len() {
                let place = (piece as u64) << PIECE_BITS | at as u64;
                let key = self.key_at(place);
                let ((slot, tag, _), length) = (self.find(key), key.len());
                self.slots[slot] = tag << PLACE_BITS | (place + 1);
                at += ENTRY_BYTES + length;
            }
        }
    }
}

/// Which piece, and where in it.
fn split(place: u64) -> (usize, usize) {
    let at = place & ((1 << PIECE_BITS) - 1);
    (usize::try_from(place >> PIECE_BITS).unwrap_or(usize::MAX), usize::try_from(at).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn check(mut map: LastOffsets, keys: &[Vec<u8>]) {
        let mut model: BTreeMap<&[u8], u64> = BTreeMap::new();
        for (offset, key) in (0..).zip(keys) {
            map.note(key, LogOffset(offset));
            model.insert(key, offset);
        }
        for (key, offset) in &model {
            assert_eq!(map.last(key), Some(LogOffset(*offset)));
        }
        assert_eq!((map.last(b"never noted"), map.count, map.is_empty()), (None, model.len(), model.is_empty()));
    }

    proptest! {
        #[test]
        fn says_what_a_map_says(keys in vec(vec(0u8..4, 0..6), 0..400), salt: u64) {
            check(LastOffsets::new(salt), &keys);
        }

        /// All keys collide: in their slots, or in their tags too.
        #[test]
        fn collisions_mix_nothing_up(keys in vec(vec(0u8..4, 0..4), 0..100), tags: bool) {
            let same: fn(u64, &[u8]) -> u64 = if tags { |_, _| 7 } else { |_, key| (key.len() as u64) << PLACE_BITS };
            check(LastOffsets { hash: same, ..LastOffsets::new(1) }, &keys);
        }
    }

    proptest! {
        /// What was said before is what it takes, also while it grows: keys that are noted before they would pass a
        /// limit never do.
        #[test]
        fn memory_stays_below_a_limit(lengths in vec(0usize..200, 1..2000), limit in 1000usize..60_000, salt: u64) {
            let (mut map, mut noted) = (LastOffsets::new(salt), 0);
            for length in lengths {
                let said = map.peak_with([length]);
                if said > limit {
                    break;
                }
                let mut key = vec![0; length.max(8)];
                key[..8].copy_from_slice(&(noted as u64).to_le_bytes());
                if map.peak_with([key.len()]) > limit {
                    break;
                }
                map.note(&key, LogOffset(noted as u64));
                noted += 1;
                prop_assert!(map.peak <= limit, "{} of {limit}", map.peak);
            }
            prop_assert_eq!(map.count, noted);
        }

        #[test]
        fn what_many_take_is_said_before(lengths in vec(8usize..100, 1..1000)) {
            let mut map = LastOffsets::new(1);
            map.note(b"first", LogOffset(0));
            let said = map.peak_with(lengths.iter().copied());
            for (number, length) in lengths.iter().enumerate() {
                let mut key = vec![1; *length];
                key[..8].copy_from_slice(&(number as u64).to_le_bytes());
                map.note(&key, LogOffset(1));
            }
            prop_assert!(map.peak <= said, "{} of {said}", map.peak);
            prop_assert!(said <= map.peak + PIECE_MAX, "{} of {said}", map.peak);
        }
    }

    #[test]
    fn memory_goes_by_keys_and_not_by_records() {
        let mut map = LastOffsets::new(1);
        for offset in 0..100_000u64 {
            map.note(&(offset % 1000).to_le_bytes(), LogOffset(offset));
        }
        assert_eq!(map.last(&999u64.to_le_bytes()), Some(LogOffset(99_999)));
        assert!(
            map.bytes() <= 1000 * (ENTRY_BYTES + 8) * (PIECES + 1) / PIECES + PIECE_MIN + 2048 * 8,
            "{}",
            map.bytes()
        );
        let long = vec![7; 20 << 20];
        map.note(&long, LogOffset(100_000));
        assert_eq!(map.last(&long), Some(LogOffset(100_000)));
    }
}
