//! Which partition a key belongs to: as Kafka's default partitioner decides, so that a topic that moves to Kafka, or is
//! fed from there, keeps each key in its partition.

use crate::ids::PartitionId;

/// The partition of `key` in a topic of `partitions`, 1 at least. The same for ever: changing it would tear
/// the records of a key apart.
#[must_use]
pub fn partition_of(key: &[u8], partitions: u32) -> PartitionId {
    // Kafka clears the sign where one would expect an absolute value.
    PartitionId((murmur2(key) & 0x7FFF_FFFF) % partitions.max(1))
}

/// MurmurHash2 of 32 bits (A. Appleby, 2008) with Kafka's seed, reading little-endian words.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_B28C;
    const FACTOR: u32 = 0x5BD1_E995;
    #[allow(clippy::cast_possible_truncation, reason = "a record, and so its key, has less than 2 GiB")]
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ mixed.wrapping_mul(FACTOR);
    }
    if !tail.is_empty() {
        let last = tail.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafka() {
        // The vectors of Kafka's own test of its hash.
        let known = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), hash, "{key}");
        }
    }

    #[test]
    fn a_key_has_one_partition_of_those_there_are() {
        assert_eq!(partition_of(b"abc", 1), PartitionId(0));
        assert_eq!(partition_of(b"abc", 10), PartitionId(7));
        // Negative as a signed number: the sign is cleared, the number not turned round.
        assert_eq!(partition_of(b"21", 10), PartitionId((-973_932_308i32 & i32::MAX).cast_unsigned() % 10));
        for partitions in 1..50 {
            assert!(partition_of(b"", partitions).0 < partitions);
        }
    }
}
