//! Which checkpoint, and what follows from which there are: the current line, who may save, what goes. Pure.
//!
//! A rewind to sequence `s` begins a line with the next number, which says from which line it parted and where. So the
//! checkpoints that count are those of the newest line, those of its parent up to where it parted, and so on:
//!
//! ```text
//! line 0   100   200   300          rewind to 200, to 300 of line 1, and again to 200:
//! line 1          200'  300'
//! line 2                 300"
//! line 3          200'''            current: 200''' of line 3, 100 of line 0
//! ```
//!
//! A checkpoint that a rewind went back to is saved again as the first of its line, so each line has one at the place
//! where it parted, which is the last of its own to be given up: a line is known as long as a checkpoint on the way of
//! the newest one needs it.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// A line of a stream: what came of it between two rewinds. The one with the highest number is the current one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage {
    /// Which it is: 0 for the first, and one more with each rewind.
    pub number: u32,
    /// The line from which it parted; 0 for the first.
    pub parent: u32,
    /// The last sequence that it shares with its parent; 0 for the first.
    pub from: u64,
}

impl Lineage {
    /// The line of a stream that was never rewound.
    pub const FIRST: Lineage = Lineage { number: 0, parent: 0, from: 0 };

    pub(super) fn can_be(self) -> bool {
        if self.number == 0 { self == Lineage::FIRST } else { self.parent < self.number }
    }

    /// The line that begins, as `number`, at `sequence` of this one.
    pub(super) fn branch(self, number: u32, sequence: u64) -> Lineage {
        if self.number > 0 && sequence == self.from {
            // At the place where this one parted: so the new one parts from the same.
            return Lineage { number, ..self };
        }
        Lineage { number, parent: self.number, from: sequence }
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Lineage::FIRST => f.write_str("0"),
            Lineage { number, parent, from } => write!(f, "{number}, from line {parent} at {from}"),
        }
    }
}

/// What a checkpoint is called in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) sequence: u64,
    pub(crate) lineage: Lineage,
}

/// How many bytes a key has as a row's.
const KEY_BYTES: usize = 24;

impl Key {
    /// By line, then by sequence: the greatest is the newest.
    pub(super) fn age(&self) -> (u32, u64) {
        (self.lineage.number, self.sequence)
    }

    /// As the name of a file or an object: sequence, line, parent, from.
    pub(super) fn name(&self) -> String {
        let Lineage { number, parent, from } = self.lineage;
        format!("{:020}-{number}-{parent}-{from}.checkpoint", self.sequence)
    }

    /// The key of a name; `None` for every other spelling.
    pub(super) fn of_name(name: &str) -> Option<Key> {
        let mut parts = name.strip_suffix(".checkpoint")?.split('-');
        let sequence = parts.next()?.parse().ok()?;
        let (number, parent) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let key = Key { sequence, lineage: Lineage { number, parent, from: parts.next()?.parse().ok()? } };
        (key.name() == name && key.can_be()).then_some(key)
    }

    pub(super) fn can_be(&self) -> bool {
        self.lineage.can_be() && self.sequence >= self.lineage.from
    }

    /// As part of a row's key: numbers, the most significant byte first.
    pub(crate) fn to_bytes(self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes[..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.lineage.number.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.lineage.parent.to_be_bytes());
        bytes[16..].copy_from_slice(&self.lineage.from.to_be_bytes());
        bytes
    }

    /// Reads what [`Key::to_bytes`] wrote, one behind the other.
    pub(crate) fn all_of_bytes(bytes: &[u8]) -> Option<Vec<Key>> {
        let (keys, rest) = bytes.as_chunks::<KEY_BYTES>();
        let key = |bytes: &[u8; KEY_BYTES]| {
            let number = |at: usize| Some(u32::from_be_bytes(*bytes[at..].first_chunk()?));
            let long = |at: usize| Some(u64::from_be_bytes(*bytes[at..].first_chunk()?));
            let key = Key {
                sequence: long(0)?,
                lineage: Lineage { number: number(8)?, parent: number(12)?, from: long(16)? },
            };
            key.can_be().then_some(key)
        };
        if rest.is_empty() { keys.iter().map(key).collect() } else { None }
    }
}

/// Those on the current line, the newest first.
pub(super) fn current(keys: &[Key]) -> Vec<Key> {
    let mut found = Vec::new();
    let mut line = keys.iter().max_by_key(|key| key.lineage.number).map(|key| key.lineage);
    let mut bound = u64::MAX;
    while let Some(lineage) = line {
        let on_line = keys.iter().filter(|key| key.lineage == lineage && key.sequence <= bound);
        let mut on_line: Vec<Key> = on_line.copied().collect();
        on_line.sort_unstable_by_key(|key| std::cmp::Reverse(key.sequence));
        found.extend(on_line);
        bound = bound.min(lineage.from);
        // A parent has a lower number, so this ends.
        let parent = keys.iter().find(|key| lineage.number > 0 && key.lineage.number == lineage.parent);
        line = parent.map(|key| key.lineage);
    }
    found
}

/// Whether a checkpoint may be saved beside those that are there.
pub(super) fn admit(stream: &str, keys: &[Key], new: Key) -> Result<()> {
    if !new.can_be() {
        let what = format!("stream {stream:?}: sequence {} cannot be on line {}", new.sequence, new.lineage);
        return Err(Error::invalid(what));
    }
    let Some(newest) = keys.iter().map(|key| key.lineage).max_by_key(|line| line.number) else { return Ok(()) };
    if new.lineage.number < newest.number {
        let what = format!("stream {stream:?} was rewound: it is on line {newest}, this is of line {}", new.lineage);
        return Err(Error::new(ErrorKind::Fenced, what));
    }
    if keys.iter().any(|key| key.lineage.number == new.lineage.number && key.lineage != new.lineage) {
        let what = format!("stream {stream:?} was rewound twice at once: there is another line {newest}");
        return Err(Error::new(ErrorKind::Conflict, what));
    }
    Ok(())
}

/// What goes when `new` is there: others of its sequence, then what is too much, first what no longer counts, then the
/// oldest. `new` is good, and stays; and so does `newer`, which is the newest good one where `new` is not.
pub(super) fn surplus(keys: &[Key], new: Key, newer: Option<Key>, max: usize) -> Vec<Key> {
    let (mut gone, mut there): (Vec<Key>, Vec<Key>) =
        keys.iter().filter(|key| **key != new).partition(|key| key.sequence == new.sequence);
    there.push(new);
    let current = current(&there);
    there.sort_unstable_by_key(|key| (current.contains(key), key.age()));
    let too_many = there.len().saturating_sub(max.max(1));
    gone.extend(there.into_iter().filter(|key| *key != new && Some(*key) != newer).take(too_many));
    gone
}
