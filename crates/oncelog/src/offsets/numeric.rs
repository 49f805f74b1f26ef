//! The same stores addressed by numbers, as a broker's client does: a topic and a consumer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::error::OffsetError;
use super::offset::Offset;
use super::store::OffsetStore;

/// A source named by two numbers. As text it is `topic-1-consumer-100`, and no other spelling parses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NumericKey {
    /// The topic.
    pub topic: u32,
    /// The consumer.
    pub consumer: u64,
}

impl fmt::Display for NumericKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "topic-{}-consumer-{}", self.topic, self.consumer)
    }
}

impl FromStr for NumericKey {
    type Err = OffsetError;

    fn from_str(text: &str) -> Result<NumericKey, OffsetError> {
        let parse = || {
            let (topic, consumer) = text.strip_prefix("topic-")?.split_once("-consumer-")?;
            let key = NumericKey { topic: topic.parse().ok()?, consumer: consumer.parse().ok()? };
            // Neither `+1` nor `007`, which the numbers alone would let pass.
            (key.to_string() == text).then_some(key)
        };
        parse().ok_or_else(|| OffsetError::InvalidOffset(format!("{text:?} is not of the form topic-1-consumer-100")))
    }
}

/// What a broker's client asks of its offsets, over any [`OffsetStore`].
///
/// ```
/// use oncelog::{InMemoryOffsetStore, NumericOffsets};
/// # fn main() -> Result<(), oncelog::OffsetError> {
/// let offsets = InMemoryOffsetStore::new();
/// offsets.save(1, 100, 42)?;
/// assert_eq!(offsets.load(1, 100)?, Some(42));
/// assert_eq!(offsets.load(1, 101)?, None);
/// # Ok(())
/// # }
/// ```
pub trait NumericOffsets: OffsetStore {
    /// The next to read.
    ///
    /// # Errors
    /// As [`OffsetStore::get`]; `InvalidOffset`: what is stored is no number.
    fn load(&self, topic_id: u32, consumer_id: u64) -> Result<Option<u64>, OffsetError> {
        let source = NumericKey { topic: topic_id, consumer: consumer_id }.to_string();
        self.get(&source)?.map(|offset| number(&source, &offset)).transpose()
    }

    /// Commits the next to read; gives the one that it replaced. Never goes back.
    ///
    /// # Errors
    /// As [`OffsetStore::commit`].
    fn save(&self, topic_id: u32, consumer_id: u64, offset: u64) -> Result<Option<u64>, OffsetError> {
        let source = NumericKey { topic: topic_id, consumer: consumer_id }.to_string();
        let before = self.commit(&source, &Offset::Sequence(offset))?;
        before.map(|offset| number(&source, &offset)).transpose()
    }

    /// Forgets it; gives what was committed.
    ///
    /// # Errors
    /// As [`OffsetStore::clear`].
    fn delete(&self, topic_id: u32, consumer_id: u64) -> Result<Option<u64>, OffsetError> {
        let source = NumericKey { topic: topic_id, consumer: consumer_id }.to_string();
        // Looked at before, so that what is no number is not removed.
        self.load(topic_id, consumer_id)?;
        let before = self.clear(&source)?;
        before.map(|offset| number(&source, &offset)).transpose()
    }

    /// Everything that is committed under two numbers; sources of other names are not among it.
    ///
    /// # Errors
    /// As [`OffsetStore::get_all`].
    fn list_all(&self) -> Result<BTreeMap<NumericKey, u64>, OffsetError> {
        let numeric = |(source, offset): (String, Offset)| {
            let key = source.parse::<NumericKey>().ok()?;
            Some(number(&source, &offset).map(|offset| (key, offset)))
        };
        self.get_all()?.into_iter().filter_map(numeric).collect()
    }
}

impl<S: OffsetStore + ?Sized> NumericOffsets for S {}

fn number(source: &str, offset: &Offset) -> Result<u64, OffsetError> {
    let complaint = || OffsetError::InvalidOffset(format!("source {source:?}: {offset} is no number"));
    offset.as_sequence().ok_or_else(complaint)
}
