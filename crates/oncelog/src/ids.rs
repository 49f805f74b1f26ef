//! Names and numbers as newtypes, so that no two integers of one type stand side by side in a call.
//!
//! Invariants: a [`LogOffset`] counts records of one partition and starts at 0; an [`Lsn`] counts frames of one journal
//! and starts at 1, so that `Lsn(0)` always means "before everything". Neither is ever used for the other.
//! Lowest floor: knows nothing, is known by all.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Place of a record in its partition: 0 for the first ever written, never given out twice.
    LogOffset, u64
}
number! {
    /// Place of a frame in the journal of one owner: 1 for the first, dense. Also the version of everything that the
    /// frame changed.
    Lsn, u64
}
number! {
    /// A topic for life. A topic that is deleted and made anew under the same name gets another id.
    TopicId, u32
}
number! {
    /// One ordered sequence of records within a topic, counted from 0.
    PartitionId, u32
}
number! {
    /// A table for life. Ids below 16 are the store's own tables.
    TableId, u32
}
number! {
    /// One independent part of a table, counted from 0. The tables of a processor have a shard for each input
    /// partition.
    ShardId, u32
}
number! {
    /// Generation of an owner: each opening that may write takes the next. The lower one is refused.
    Epoch, u64
}
number! {
    /// Generation of a producer: each opening of an idempotent producer takes the next. The lower one is refused.
    ProducerEpoch, u64
}
number! {
    /// A producer's own count of what it writes to one partition. What comes twice under one sequence is stored once.
    Sequence, u64
}

impl Sequence {
    /// The sequence `records` further on.
    #[must_use]
    pub fn plus(self, records: u64) -> Sequence {
        Sequence(self.0.saturating_add(records))
    }
}

number! {
    /// An owner's number in its store: 0 is `main`. Given once, and part of the ids of its topics.
    OwnerId, u32
}

impl OwnerId {
    /// Owners of one store at most: what ten bits hold.
    pub const MAX: OwnerId = OwnerId((1 << (32 - TopicId::COUNT_BITS)) - 1);

    /// The id of its first topic.
    #[must_use]
    pub(crate) fn first_topic(self) -> TopicId {
        TopicId((self.0 << TopicId::COUNT_BITS) + 1)
    }
}

impl TopicId {
    /// The lower bits count the topics of one owner; those above are the owner's number, so ids are unique in a store.
    pub(crate) const COUNT_BITS: u32 = 22;

    /// No topic: stamps that a transaction was given by [`Tx::stamp`](crate::Tx::stamp).
    pub(crate) const STAMPED: TopicId = TopicId(0);
    /// No topic: stamps of messages that a coordinator takes in. Never given, as an owner's last id is not.
    pub(crate) const COORDINATED: TopicId = TopicId(u32::MAX);

    /// Whose topic it is.
    #[must_use]
    pub fn owner(self) -> OwnerId {
        OwnerId(self.0 >> TopicId::COUNT_BITS)
    }

    /// The owner's next id after this one; `None` when they are all given.
    #[must_use]
    pub(crate) fn next(self) -> Option<TopicId> {
        let next = TopicId(self.0.checked_add(1)?);
        (next.owner() == self.owner()).then_some(next)
    }
}

impl LogOffset {
    /// The offset `records` further on.
    #[must_use]
    pub fn plus(self, records: u64) -> LogOffset {
        LogOffset(self.0.saturating_add(records))
    }
}

impl Lsn {
    /// The frame after this one.
    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// Identity of a store directory: 16 random bytes, given when it is made and written into every file of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// The stable identity of one record, fit to serve as an idempotency key in the world outside the store: the same
/// record has the same id in every delivery, and no other record of this store ever has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The topic, by its id and not its name: a topic made anew is another topic.
    pub topic: TopicId,
    /// The partition within the topic.
    pub partition: PartitionId,
    /// The place within the partition.
    pub offset: LogOffset,
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.topic, self.partition, self.offset)
    }
}

/// Longest name of a topic, table or consumer, in bytes of its escaped form: file systems allow 255.
pub const NAME_BYTES_MAX: usize = 240;

/// The directory name that stands for `name` on disk: letters, digits, `-`, `_` and inner `.` stand for themselves,
/// every other byte becomes `%XX`. Upper-case letters are escaped too, so that two names that differ by case only
/// stay two directories on a file system that ignores case; nothing that comes out can leave its parent directory.
#[must_use]
pub(crate) fn escape_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') || (byte == b'.' && at > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The name that [`escape_name`] made `escaped` of; `None` where it made it of none.
#[must_use]
pub(crate) fn unescape_name(escaped: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte == b'%' {
            let (digits, behind) = rest.split_first_chunk::<2>()?;
            bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = behind;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|name| escape_name(name) == escaped)
}

/// Whether `name` can name a topic, table or consumer; if not, why.
pub(crate) fn name_complaint(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if escape_name(name).len() > NAME_BYTES_MAX {
        Some("it is too long (240 bytes at most; letters other than a-z and 0-9 count three for each byte)")
    } else {
        None
    }
}

/// Bytes of an owner's name.
pub(crate) const OWNER_NAME_BYTES_MAX: usize = 64;

/// Why a name cannot be that of an owner; `None`: it can.
pub(crate) fn owner_name_complaint(name: &str) -> Option<&'static str> {
    match name_complaint(name) {
        None if name.len() > OWNER_NAME_BYTES_MAX => Some("it is too long (64 bytes at most)"),
        None if name.contains('\0') => Some("it holds a NUL"),
        complaint => complaint,
    }
}

/// A record that waits for its time, as the producer that delayed it was told: for which topic, when it is due, and a
/// number of its own among all that were ever delayed in the store by one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TimerId {
    /// The topic that it waits for.
    pub topic: TopicId,
    /// When it is due, in milliseconds since the Unix epoch.
    pub due_ms: i64,
    /// Which of those that are due then.
    pub number: u64,
}

impl fmt::Display for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic.0, self.due_ms, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_inside_their_directory() {
        assert_eq!(escape_name("orders"), "orders");
        assert_eq!(escape_name("v1.orders"), "v1.orders");
        assert_eq!(escape_name("../../x"), "%2E.%2F..%2Fx");
        assert_eq!(escape_name(".."), "%2E.");
        assert_eq!(escape_name("/etc"), "%2Fetc");
        assert_eq!(escape_name("a\0b"), "a%00b");
        assert_ne!(escape_name("Orders").to_lowercase(), escape_name("orders"));
    }

    #[test]
    fn topic_ids_of_owners_never_meet() {
        assert_eq!(OwnerId(0).first_topic(), TopicId(1));
        for owner in [OwnerId(0), OwnerId(1), OwnerId::MAX] {
            let first = owner.first_topic();
            let last = TopicId(first.0 | ((1 << TopicId::COUNT_BITS) - 1));
            assert_eq!((first.owner(), last.owner()), (owner, owner));
            assert_eq!(first.next().map(TopicId::owner), Some(owner));
            assert_eq!(last.next(), None);
        }
    }

    #[test]
    fn escaped_names_come_back_and_nothing_else_does() {
        for name in ["orders", "v1.orders", "../../x", "..", "/etc", "a\0b", "Orders", "%41", "é", ""] {
            assert_eq!(unescape_name(&escape_name(name)).as_deref(), Some(name));
        }
        for spelled in ["Orders", "%41x%", "%4", "%2e", "%61", "%+1", ".hidden", "%FF", "a b"] {
            assert_eq!(unescape_name(spelled), None, "{spelled}");
        }
    }

    #[test]
    fn escaping_keeps_different_names_apart() {
        let names = ["a", "A", "%41", "a.b", ".a", "a/b", "a%2Fb", "", "é"];
        let escaped: std::collections::BTreeSet<_> = names.iter().map(|name| escape_name(name)).collect();
        assert_eq!(escaped.len(), names.len());
    }
}
