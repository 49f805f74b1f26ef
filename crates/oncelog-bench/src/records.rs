//! The records that all subjects write: the same bytes in the same order.

/// Bytes of every key; the value fills the record up to its size.
pub(crate) const KEY_BYTES: usize = 16;
/// So many records differ; then they come again.
const DISTINCT: usize = 1000;

/// Records of one size, in memory before anything is timed.
pub(crate) struct Records {
    bytes: Vec<u8>,
    record_bytes: usize,
}

impl Records {
    /// Records of `record_bytes` each, key included. Every call makes the same ones.
    pub(crate) fn of(record_bytes: usize) -> Records {
        assert!(record_bytes > KEY_BYTES, "a record holds a key and something of a value");
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut bytes = Vec::with_capacity(DISTINCT * record_bytes);
        while bytes.len() < DISTINCT * record_bytes {
            // Xorshift (Marsaglia 2003): nothing that a file system could compress away.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        Records { bytes, record_bytes }
    }

    pub(crate) fn record_bytes(&self) -> usize {
        self.record_bytes
    }

    /// Key and value of the `n`-th record.
    pub(crate) fn get(&self, n: usize) -> (&[u8], &[u8]) {
        let start = n % DISTINCT * self.record_bytes;
        self.bytes[start..start + self.record_bytes].split_at(KEY_BYTES)
    }

    /// `count` records from the first on.
    pub(crate) fn batch(&self, count: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
        (0..count).map(|n| self.get(n))
    }
}
