//! What a checkpoint says.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::bytes;
use super::key::Lineage;
use crate::clock::SystemClock;
use crate::error::Result;
use crate::offsets::Offset;

/// Which checkpoint it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointId {
    /// The stream.
    pub stream_id: String,
    /// The last event that is included.
    pub sequence: u64,
    /// When it was taken. For people; nothing depends on it.
    pub created_at: DateTime<Utc>,
}

impl CheckpointId {
    /// One that is taken now, by the clock of the machine.
    #[must_use]
    pub fn new(stream_id: impl Into<String>, sequence: u64) -> CheckpointId {
        CheckpointId { stream_id: stream_id.into(), sequence, created_at: time_of_ms(SystemClock::shared().now_ms()) }
    }
}

/// The time that many milliseconds after 1970; the ends of time where there is none.
pub(super) fn time_of_ms(ms: i64) -> DateTime<Utc> {
    let end = if ms < 0 { DateTime::<Utc>::MIN_UTC } else { DateTime::<Utc>::MAX_UTC };
    DateTime::from_timestamp_millis(ms).unwrap_or(end)
}

/// The state of a stream after an event: of its operators and of its sources.
///
/// ```
/// use oncelog::{CheckpointId, CheckpointState, Offset};
/// # fn main() -> oncelog::Result<()> {
/// let mut state = CheckpointState::new(CheckpointId::new("orders", 42));
/// state.set_operator_state("totals", b"ann=7".to_vec());
/// state.set_source_offset("feed-0", Offset::after(41).map_err(oncelog::Error::from)?);
/// let bytes = state.serialize()?;
/// assert_eq!(CheckpointState::deserialize(&bytes)?, state);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckpointState {
    /// Which it is.
    pub id: CheckpointId,
    /// The line that it is on: the first, until somebody rewinds.
    pub lineage: Lineage,
    /// What each operator needs to go on.
    pub operator_states: BTreeMap<String, Vec<u8>>,
    /// What to read next of each source.
    pub source_offsets: BTreeMap<String, Offset>,
    /// How far event time has come: nanoseconds since 1970.
    pub watermark_ns: u64,
    /// How many events are included.
    pub event_count: u64,
    /// Anything else.
    pub metadata: BTreeMap<String, String>,
}

impl CheckpointState {
    /// An empty one, on the first line.
    #[must_use]
    pub fn new(id: CheckpointId) -> CheckpointState {
        CheckpointState {
            id,
            lineage: Lineage::FIRST,
            operator_states: BTreeMap::new(),
            source_offsets: BTreeMap::new(),
            watermark_ns: 0,
            event_count: 0,
            metadata: BTreeMap::new(),
        }
    }

    /// Sets what an operator needs to go on.
    pub fn set_operator_state(&mut self, operator: impl Into<String>, state: Vec<u8>) {
        self.operator_states.insert(operator.into(), state);
    }

    /// Sets what to read next of a source. A number is the sequence of the next record, and not of the last one.
    pub fn set_source_offset(&mut self, source: impl Into<String>, next: impl Into<Offset>) {
        self.source_offsets.insert(source.into(), next.into());
    }

    /// Its bytes: of equal states the same, with checksums over everything. `docs/format.md` says what they mean.
    ///
    /// # Errors
    /// `Invalid`: an offset is a policy (`Earliest`, `Latest`) and no place, the lineage cannot be, or it is larger
    /// than 1 GiB.
    pub fn serialize(&self) -> Result<Vec<u8>> {
        bytes::encode(self)
    }

    /// Reads what [`CheckpointState::serialize`] wrote. Takes any bytes: never panics, and allocates no more than these
    /// hold.
    ///
    /// # Errors
    /// `Corrupt`: they are not whole, not all of it, more than it, or never were a checkpoint. `UnsupportedVersion`: a
    /// newer version wrote them.
    pub fn deserialize(bytes: &[u8]) -> Result<CheckpointState> {
        bytes::decode(bytes).map_err(|flaw| flaw.told("a checkpoint"))
    }

    /// Reads a checkpoint of the earlier library, whose bytes lack the name of the stream, and perhaps the sources.
    /// They have no checksum: a changed byte inside a state is not noticed. What they do not say is set to nothing:
    /// when it was taken (1970) and the metadata. Where that library counted sequence numbers as events, they stay so.
    ///
    /// # Errors
    /// `Corrupt`: they are cut short, too long, or something else.
    pub fn import(stream_id: impl Into<String>, bytes: &[u8]) -> Result<CheckpointState> {
        bytes::import(stream_id.into(), bytes).map_err(|flaw| flaw.told("a checkpoint of the earlier library"))
    }
}
