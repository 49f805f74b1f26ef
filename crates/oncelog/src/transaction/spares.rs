//! The memory of batches that have become frames, for those that come.
//!
//! A batch of some hundred KiB that begins with nothing grows a dozen times, and each time its memory is new, to be
//! cleared by the operating system and then by us. Small batches have nothing to gain and never come here, so that many
//! threads with a record each do not meet at the lock.

use crate::record::BatchBuilder;
use crate::wake::Mutex;

/// Batches up to this have memory of their own.
pub(super) const SMALL_BYTES: usize = 8 << 10;
/// Those that are larger are given back to the allocator.
const SPARE_BYTES_MAX: usize = 4 << 20;
const SPARES_MAX: usize = 4;

/// Empty batches with memory.
#[derive(Default)]
pub(crate) struct Spares(Mutex<Vec<BatchBuilder>>);

impl Spares {
    /// One with memory, if there is one.
    pub(super) fn take(&self) -> BatchBuilder {
        self.0.lock().pop().unwrap_or_default()
    }

    /// Takes a batch that is done with.
    pub(super) fn keep(&self, mut batch: BatchBuilder) {
        if !(SMALL_BYTES + 1..=SPARE_BYTES_MAX).contains(&batch.memory_bytes()) {
            return;
        }
        batch.clear();
        let mut spares = self.0.lock();
        if spares.len() < SPARES_MAX {
            spares.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Compression, Draft};

    fn filled(value: &[u8], count: usize, spares: &Spares) -> BatchBuilder {
        let mut batch = BatchBuilder::new();
        for _ in 0..count {
            let draft = Draft { key: None, value: Some(value), headers: &[], timestamp_ms: 1 };
            if batch.outgrows(SMALL_BYTES, BatchBuilder::encoded_len(&draft)) {
                batch.continue_in(spares.take());
            }
            batch.push(&draft);
        }
        batch
    }

    fn bytes(batch: &BatchBuilder) -> Vec<u8> {
        let mut out = Vec::new();
        assert!(batch.deflated(Compression::None).is_none());
        batch.finish_into(&mut out);
        out
    }

    #[test]
    fn nothing_of_an_earlier_batch_is_in_a_later_one() {
        let spares = Spares::default();
        let plain = |value: &[u8], count| bytes(&filled(value, count, &Spares::default()));
        spares.keep(filled(b"an earlier and longer value", 1000, &spares));
        let memory = spares.0.lock()[0].memory_bytes();
        for count in [1, 300, 700, 2000] {
            let batch = filled(b"a later value", count, &spares);
            assert_eq!(bytes(&batch), plain(b"a later value", count));
            assert!(count < 700 || batch.memory_bytes() >= memory, "it has grown by itself");
            spares.keep(batch);
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let spares = Spares::default();
        spares.keep(filled(b"small", 10, &spares));
        spares.keep(filled(&[7; 5 << 20], 1, &spares));
        assert_eq!(spares.0.lock().len(), 0);
        for _ in 0..10 {
            spares.keep(filled(&[7; 100], 1000, &Spares::default()));
        }
        assert_eq!(spares.0.lock().len(), SPARES_MAX);
    }
}
