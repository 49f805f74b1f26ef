//! Where each key was last written: keys and offsets in little memory, for compaction.
//!
//! ```text
//! slots   hash % n -> tag (24 bits) | place in the arena (40 bits)
//! arena   offset | length | key, one after the other
//! ```
//!
//! Invariant: two keys are the same if their bytes are. The hash only says where to look, so keys that collide cost
//! time and never a record; it is salted, so nobody can choose keys that do. (Kafka compares 16 bytes of MD5 instead.)

use std::hash::{DefaultHasher, Hasher};

use crate::ids::LogOffset;

const SLOTS_MIN: usize = 64;
const PLACE_BITS: u32 = 40;
/// What stands in the arena before a key.
const ENTRY_BYTES: usize = 12;

/// The last offset of each key that was noted.
pub(crate) struct LastOffsets {
    salt: u64,
    hash: fn(u64, &[u8]) -> u64,
    arena: Vec<u8>,
    /// Empty, or a power of two; a quarter is free. 0 is a free slot, else the place plus one.
    slots: Vec<u64>,
    count: usize,
}

fn salted(salt: u64, key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write_u64(salt);
    hasher.write(key);
    hasher.finish()
}

impl LastOffsets {
    pub(crate) fn new(salt: u64) -> LastOffsets {
        LastOffsets { salt, hash: salted, arena: Vec::new(), slots: Vec::new(), count: 0 }
    }

    /// Notes that the key was written at `offset`, which is above all that were noted before.
    pub(crate) fn note(&mut self, key: &[u8], offset: LogOffset) {
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let (slot, tag, place) = self.find(key);
        match place {
            Some(place) => self.arena[place..place + 8].copy_from_slice(&offset.0.to_le_bytes()),
            None => {
                let place = self.arena.len() as u64 + 1;
                self.arena.extend_from_slice(&offset.0.to_le_bytes());
                self.arena.extend_from_slice(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_le_bytes());
                self.arena.extend_from_slice(key);
                self.slots[slot] = tag << PLACE_BITS | place;
                self.count += 1;
            }
        }
    }

    /// Where the key was last written, if it was.
    pub(crate) fn last(&self, key: &[u8]) -> Option<LogOffset> {
        if self.slots.is_empty() {
            return None;
        }
        let (.., place) = self.find(key);
        let place = place?;
        Some(LogOffset(u64::from_le_bytes(*self.arena[place..].first_chunk()?)))
    }

    /// Whether nothing was noted.
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How much memory is in use.
    pub(crate) fn bytes(&self) -> usize {
        self.arena.len() + self.slots.len() * size_of::<u64>()
    }

    /// The slot of the key, or the free one where it would be; its tag; and where it stands in the arena.
    fn find(&self, key: &[u8]) -> (usize, u64, Option<usize>) {
        let (hash, mask) = ((self.hash)(self.salt, key), self.slots.len() - 1);
        // The upper bits, beside those that choose the slot.
        let tag = hash >> PLACE_BITS;
        let mut slot = usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & mask;
        loop {
            let held = self.slots[slot];
            let Some(place) = (held & ((1 << PLACE_BITS) - 1)).checked_sub(1) else { return (slot, tag, None) };
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            if held >> PLACE_BITS == tag && self.key_at(place) == key {
                return (slot, tag, Some(place));
            }
            slot = (slot + 1) & mask;
        }
    }

    fn key_at(&self, place: usize) -> &[u8] {
        let entry = &self.arena[place..];
        let length = entry[8..].first_chunk().map_or(0, |length| u32::from_le_bytes(*length) as usize);
        &entry[ENTRY_BYTES..ENTRY_BYTES + length]
    }

    #[cold]
    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        self.slots = vec![0; slots];
        let mut place = 0;
        while place < self.arena.len() {
            let key = self.key_at(place);
            let ((slot, tag, _), length) = (self.find(key), key.len());
            self.slots[slot] = tag << PLACE_BITS | (place as u64 + 1);
            place += ENTRY_BYTES + length;
        }
    }
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

    #[test]
    fn memory_goes_by_keys_and_not_by_records() {
        let mut map = LastOffsets::new(1);
        for offset in 0..100_000u64 {
            map.note(&(offset % 1000).to_le_bytes(), LogOffset(offset));
        }
        assert_eq!(map.last(&999u64.to_le_bytes()), Some(LogOffset(99_999)));
        assert!(map.bytes() <= 1000 * (ENTRY_BYTES + 8) + 2048 * 8, "{}", map.bytes());
        let long = vec![7; 20 << 20];
        map.note(&long, LogOffset(100_000));
        assert_eq!(map.last(&long), Some(LogOffset(100_000)));
    }
}
