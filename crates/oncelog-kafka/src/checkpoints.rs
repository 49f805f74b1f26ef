//! Up to where a shard of a local table holds its changelog: rows of a table of our own in the local store.
//!
//! Invariant: a checkpoint is written in the local commit that brings the shard there. So it is never ahead of the
//! shard; that it is behind does no harm, since a change that is applied again changes nothing.

use std::sync::Arc;

use bytes::Bytes;
use oncelog::{Engine, EngineTx, Error, ErrorKind, LogOffset, PartitionId, Result, ShardId, TableId, TableSpec};

const TABLE: &str = "oncelog.kafka.checkpoints";
/// Next offset, then milliseconds since the Unix epoch; both big-endian.
const VALUE_BYTES: usize = 16;

/// The rows, in the local store.
pub(crate) struct Checkpoints {
    local: Arc<dyn Engine>,
    table: TableId,
}

/// What is known of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// The next offset of the changelog that the shard does not hold.
    pub(crate) next: LogOffset,
    /// When that was so, by the clock of the machine.
    pub(crate) at_ms: i64,
}

impl Checkpoints {
    pub(crate) fn open(local: &Arc<dyn Engine>) -> Result<Checkpoints> {
        let spec = TableSpec {
            name: TABLE.to_owned(),
            shards: 1,
            key_codec: "bytes".to_owned(),
            value_codec: "bytes".to_owned(),
        };
        Ok(Checkpoints { local: Arc::clone(local), table: local.open_table(&spec)? })
    }

    pub(crate) fn get(&self, changelog: &str, partition: PartitionId) -> Result<Option<Checkpoint>> {
        let mut tx = self.local.begin()?;
        let row = tx.get(self.table, ShardId(0), &key(changelog, partition))?;
        row.map(|row| decode(&row).ok_or_else(|| malformed(changelog, partition))).transpose()
    }

    /// Stages that the shard holds everything before `next`.
    pub(crate) fn put(
        &self,
        tx: &mut dyn EngineTx,
        changelog: &str,
        partition: PartitionId,
        next: LogOffset,
    ) -> Result<()> {
        let value = encode(Checkpoint { next, at_ms: self.local.now_ms() });
        tx.put(self.table, ShardId(0), &key(changelog, partition), Some(Bytes::copy_from_slice(&value)))
    }

    /// Stages that nothing is known of the shard.
    pub(crate) fn forget(&self, tx: &mut dyn EngineTx, changelog: &str, partition: PartitionId) -> Result<()> {
        tx.put(self.table, ShardId(0), &key(changelog, partition), None)
    }
}

/// No name of a topic has a NUL in it.
fn key(changelog: &str, partition: PartitionId) -> Vec<u8> {
    [changelog.as_bytes(), &[0], &partition.0.to_be_bytes()].concat()
}

fn encode(checkpoint: Checkpoint) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    value[..8].copy_from_slice(&checkpoint.next.0.to_be_bytes());
    value[8..].copy_from_slice(&checkpoint.at_ms.to_be_bytes());
    value
}

fn decode(value: &[u8]) -> Option<Checkpoint> {
    let (next, rest) = value.split_first_chunk::<8>()?;
    let at_ms = <[u8; 8]>::try_from(rest).ok()?;
    Some(Checkpoint { next: LogOffset(u64::from_be_bytes(*next)), at_ms: i64::from_be_bytes(at_ms) })
}

fn malformed(changelog: &str, partition: PartitionId) -> Error {
    let what = format!("the local checkpoint of changelog {changelog:?}, partition {partition} cannot be read");
    Error::new(ErrorKind::Corrupt, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncelog::{AsEngine, Store};

    #[test]
    fn what_is_put_is_found_again_by_changelog_and_partition() {
        let store = Store::in_memory().unwrap();
        let local = store.as_engine();
        let checkpoints = Checkpoints::open(&local).unwrap();
        let mut tx = local.begin().unwrap();
        checkpoints.put(&mut *tx, "a", PartitionId(1), LogOffset(7)).unwrap();
        checkpoints.put(&mut *tx, "a", PartitionId(2), LogOffset(8)).unwrap();
        let _ = tx.submit().unwrap().wait().unwrap();
        let next = |changelog, partition| {
            checkpoints.get(changelog, PartitionId(partition)).unwrap().map(|checkpoint| checkpoint.next)
        };
        assert_eq!((next("a", 1), next("a", 2), next("b", 1)), (Some(LogOffset(7)), Some(LogOffset(8)), None));
        let mut tx = local.begin().unwrap();
        checkpoints.forget(&mut *tx, "a", PartitionId(1)).unwrap();
        let _ = tx.submit().unwrap().wait().unwrap();
        assert_eq!(next("a", 1), None);
    }

    #[test]
    fn other_bytes_are_no_checkpoint() {
        let checkpoint = Checkpoint { next: LogOffset(3), at_ms: -5 };
        assert_eq!(decode(&encode(checkpoint)), Some(checkpoint));
        assert_eq!(decode(&encode(checkpoint)[1..]), None);
        assert_eq!(decode(&[0; 17]), None);
    }
}
