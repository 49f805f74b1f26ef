//! One event, and the batch: events under one head and one checksum. The unit of write in journal and segments.
//!
//! ```text
//! head (61 bytes) | record | record | ...                                    all numbers big-endian or zig-zag varints
//!
//! record:  length | attributes | timestamp delta | offset delta | key | value | header count | name, value | ...
//! ```
//!
//! The bytes are those of Kafka's RecordBatch v2 (Apache Kafka documentation, "Message Format"; KIP-98 brought it), so
//! that a batch can leave for a Kafka log and come from one without being written anew. Two things are our own: the
//! encoder and decoder, which borrow and allocate nothing per record, and four bytes on disk, see [`set_place`].
//!
//! Invariants: nothing behind the head is parsed before the checksum over it was compared. No claimed length or count
//! is believed before the bytes are there, so hostile bytes cost no panic and no allocation. What
//! [`Batch::records`] hands out without an error has offsets that rise and stay within the batch.
//!
//! Flow: [`BatchBuilder`] fills a batch in a transaction, [`set_base_offset`] gives it its place in the partition,
//! [`set_place`] that in the segment; [`BatchHead::peek`] finds its way from batch to batch, [`Batch::open`] opens
//! one, inflated if it is compressed ([`Compression`]), [`Record`] is what the user keeps. Control batches are refused
//! by a typed error.

mod batch;
mod compress;
mod head;
#[cfg(test)]
mod kafka_tests;
mod owned;
mod partition;
#[cfg(test)]
mod tests;
mod thin;
mod view;

use std::fmt;

pub(crate) use batch::{BatchBuilder, Draft, Mark, Span, Tombstones};
pub use compress::Compression;
pub(crate) use compress::Inflated;
pub(crate) use head::{BATCH_HEAD_BYTES, BatchHead, place_checksum, place_of, set_base_offset, set_place};
pub use owned::Record;
pub use partition::partition_of;
pub(crate) use thin::Verdict;
pub(crate) use view::{Batch, Records};
pub use view::{Headers, RecordView};

/// A name and a value that travel beside the content of a record. Names need not differ within a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Header<'a> {
    /// What the value means to those who read it.
    pub name: &'a str,
    /// The value, if there is one: none is not the same as empty.
    pub value: Option<&'a [u8]>,
}

/// Why bytes are not a batch that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchError {
    /// The bytes end before the batch does.
    Truncated,
    /// The length field is out of range, or not that of the bytes.
    Length,
    /// Another version of the format.
    Magic(u8),
    /// The bytes are not those that were written.
    Checksum,
    /// Transactional or control batches, broker timestamps, or bits without a meaning yet.
    Attributes(u16),
    /// Compressed in a way that this build of the library lacks.
    NotBuiltIn(Compression),
    /// Compressed in a way of Kafka's that no build has.
    NotKnown(&'static str),
    /// Compressed, and more than so many bytes.
    TooLarge(usize),
    /// The checksum is right and the content contradicts itself: written wrong, or by an enemy.
    Malformed(&'static str),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BatchError::Truncated => f.write_str("a batch ends early"),
            BatchError::Length => f.write_str("the length of a batch is wrong"),
            BatchError::Magic(magic) => write!(f, "a batch of format version {magic}, only 2 is known"),
            BatchError::Checksum => f.write_str("the checksum of a batch does not fit its content"),
            BatchError::Attributes(bits) => write!(f, "a batch with attributes {bits:#06x}, which are not supported"),
            BatchError::NotBuiltIn(kind) => write!(f, "a batch compressed by {kind:?}, a feature that is not built in"),
            BatchError::NotKnown(name) => write!(f, "a batch compressed by {name}, which is not supported"),
            BatchError::TooLarge(max) => write!(f, "a compressed batch that holds more than {max} bytes"),
            BatchError::Malformed(what) => write!(f, "a malformed batch: {what}"),
        }
    }
}

impl std::error::Error for BatchError {}
