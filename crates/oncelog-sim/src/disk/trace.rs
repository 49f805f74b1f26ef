//! A running hash over everything asked of the disk and everything it answered: two runs that differ anywhere differ
//! here, so one number per run is enough to check that a seed replays.

use std::io;
use std::path::Path;

use crate::dice::mix;

/// The hash of all operations so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    hash: u64,
}

impl Trace {
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    /// Adds numbers, in order.
    pub(super) fn note(&mut self, words: &[u64]) {
        for word in words {
            self.hash = fold(self.hash, *word);
        }
    }

    /// Adds how an operation ended: its count, or the kind of its error.
    pub(super) fn note_outcome(&mut self, outcome: &io::Result<u64>) {
        match outcome {
            Ok(count) => self.note(&[0, *count]),
            Err(error) => self.note(&[1, hash_bytes(format!("{:?}", error.kind()).as_bytes())]),
        }
    }
}

/// A quick hash of content, eight bytes at a time. It finds accidents, not attacks.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut hash = bytes.len() as u64;
    for word in &mut words {
        hash = fold(hash, u64::from_le_bytes(word.try_into().expect("chunks of eight")));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(fold(hash, u64::from_le_bytes(last)))
}

pub(super) fn hash_path(path: &Path) -> u64 {
    hash_bytes(path.as_os_str().as_encoded_bytes())
}

fn fold(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
