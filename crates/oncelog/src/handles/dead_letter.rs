//! The record that a dead-letter topic gets: what was in the log, and headers that say where it was and why it is here.
//!
//! It is staged in the transaction that passes the record, so there is one of it or none, as there is one step past the
//! record or none. It goes to the partition that a producer of the dead-letter topic would choose for its key.

use std::borrow::Cow;
use std::fmt;

use super::def::TopicDef;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{LogOffset, PartitionId, TopicId};
use crate::record::{Header, RecordView};
use crate::topic::TopicSpec;
use crate::transaction::{Engine, EngineTx, NewRecord};

/// Names of the headers, behind those that the record had. Values are text; numbers are decimal.
const TOPIC: &str = "oncelog.dead.topic";
const PARTITION: &str = "oncelog.dead.partition";
const OFFSET: &str = "oncelog.dead.offset";
const TIMESTAMP: &str = "oncelog.dead.timestamp";
const CONSUMER: &str = "oncelog.dead.consumer";
const ATTEMPTS: &str = "oncelog.dead.attempts";
const REASON: &str = "oncelog.dead.reason";

/// A reason is cut here: an error's text may quote the whole record.
const REASON_BYTES_MAX: usize = 512;

/// What decides the partition of an encoded key: [`Codec::route`].
type Route = fn(&[u8]) -> Cow<'_, [u8]>;

/// A dead-letter topic as it was named, with the codec of its keys forgotten but for what it says of partitions.
#[derive(Clone)]
pub(super) struct DeadLetterTopic {
    pub(super) spec: TopicSpec,
    route: Route,
}

/// A dead-letter topic that is there.
#[derive(Clone, Copy)]
pub(super) struct DeadLetters {
    topic: TopicId,
    route: Route,
}

impl DeadLetterTopic {
    pub(super) fn of<K: Codec, V: Codec>(topic: &TopicDef<K, V>) -> DeadLetterTopic {
        DeadLetterTopic { spec: topic.spec(), route: K::route }
    }

    /// Makes it if there is none.
    ///
    /// # Errors
    /// `Invalid`: it is compacted by key, or differs from what was named.
    pub(super) fn open(&self, engine: &dyn Engine) -> Result<DeadLetters> {
        Ok(DeadLetters { topic: engine.open_dead_letters(&self.spec)?, route: self.route })
    }
}

impl fmt::Debug for DeadLetterTopic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

/// Whether a letter that does not fit may fit another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Other records share the transaction: it is tried again in one of its own.
    Shared,
    /// It has the transaction for itself: rather without some of our headers than not at all.
    Alone,
}

/// How many of our headers go along, in turn, until the letter fits: all; those before the reason; where it was; none.
const HEADERS: [usize; 4] = [7, 6, 3, 0];

/// Why a record is given up, and by whom.
pub(super) struct Obituary<'a> {
    pub(super) topic_name: &'a str,
    pub(super) partition: PartitionId,
    pub(super) consumer: &'a str,
    pub(super) attempts: u32,
    pub(super) reason: &'a str,
}

/// Stages the dead letter of `record`.
///
/// # Errors
/// `Invalid`: it is over `max_record_bytes` or over what the transaction may still hold; where it is alone there, that
/// is so without our headers too.
pub(super) fn stage(
    tx: &mut dyn EngineTx,
    dead_letters: DeadLetters,
    record: &RecordView<'_>,
    why: &Obituary<'_>,
    room: Room,
) -> Result<()> {
    let headers: Vec<Header<'_>> = record.headers().collect();
    let parts = NewRecord {
        key: record.key,
        route: None,
        value: record.value,
        headers: &headers,
        timestamp_ms: Some(record.timestamp_ms),
    };
    stage_parts(tx, dead_letters, record.offset, parts, why, room)
}

/// As [`stage`], of a record in parts with the timestamp it had.
pub(super) fn stage_parts(
    tx: &mut dyn EngineTx,
    dead_letters: DeadLetters,
    offset: LogOffset,
    record: NewRecord<'_>,
    why: &Obituary<'_>,
    room: Room,
) -> Result<()> {
    let (partition, at) = (why.partition.to_string(), offset.to_string());
    let (timestamp, attempts) = (record.timestamp_ms.unwrap_or_default().to_string(), why.attempts.to_string());
    let ours = [
        (TOPIC, why.topic_name),
        (PARTITION, &partition),
        (OFFSET, &at),
        (TIMESTAMP, &timestamp),
        (CONSUMER, why.consumer),
        (ATTEMPTS, &attempts),
        (REASON, cut(why.reason)),
    ];
    let ours = ours.map(|(name, text)| Header { name, value: Some(text.as_bytes()) });
    let mut headers: Vec<Header<'_>> = record.headers.iter().copied().chain(ours).collect();
    let route = record.key.map(dead_letters.route);
    let tries = if room == Room::Alone { &HEADERS[..] } else { &HEADERS[..1] };
    let mut staged = Ok(());
    for kept in tries {
        headers.truncate(record.headers.len() + kept);
        let letter = NewRecord { route: route.as_deref(), headers: &headers, timestamp_ms: None, ..record };
        staged = tx.append(dead_letters.topic, None, letter).map(drop);
        if !staged.as_ref().is_err_and(|error| error.kind() == ErrorKind::Invalid) {
            break;
        }
    }
    staged.map_err(|error| {
        let Obituary { topic_name, partition, .. } = why;
        let what = format!("record {offset} of topic {topic_name:?}, partition {partition}, is no dead letter");
        Error::new(error.kind(), what).because(error)
    })
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = "ä".repeat(400);
        assert_eq!(cut(&long).len(), 512);
        assert_eq!(cut(&format!("x{long}")).len(), 511);
    }
}
