//! What fuzzers may do to the contents of frames and to the store's own rows.

use super::frame::{Effect, FrameWriter, effects};
use super::system::{CatalogueKey, NextIds, decode_row, encode_row, read_partition_key};
use crate::journal::FRAME_HEAD_BYTES;
use crate::producer::StampState;
use crate::table::TableSpec;
use crate::topic::{PartitionState, SegmentRow, TopicSpec};

/// Reads the content of a frame. Rows and stamps, encoded again, are read as the same.
pub(crate) fn content(bytes: &[u8]) {
    let Ok(found) = effects(bytes) else { return };
    let kept: Vec<_> = found.into_iter().filter(|effect| !matches!(effect, Effect::Batch { .. })).collect();
    let rows = kept.iter().filter(|effect| matches!(effect, Effect::Row { .. })).count();
    let mut writer = FrameWriter::new(0, 0);
    writer.rows(rows);
    for (index, effect) in kept.iter().enumerate() {
        if index == rows {
            writer.stamps(kept.len() - rows);
        }
        match *effect {
            Effect::Row { table, shard, key, value } => writer.row(table, shard, key, value),
            Effect::Stamp { producer, topic, partition, ref stamp } => writer.stamp(producer, topic, partition, stamp),
            Effect::Batch { .. } => {}
        }
    }
    if kept.len() == rows {
        writer.stamps(0);
    }
    let again = writer.finish();
    assert_eq!(effects(&again[FRAME_HEAD_BYTES..]).expect("what was just encoded"), kept);
}

/// Reads keys and values of the store's own rows as every kind there is.
pub(crate) fn rows(bytes: &[u8]) {
    if let Some(key) = CatalogueKey::decode(bytes) {
        assert_eq!(key.encode(), bytes);
    }
    let _ = read_partition_key(bytes);
    row::<NextIds>(bytes);
    row::<TopicSpec>(bytes);
    row::<TableSpec>(bytes);
    row::<PartitionState>(bytes);
    row::<SegmentRow>(bytes);
    row::<StampState>(bytes);
}

/// What decodes, encodes to something that decodes to the same. Not to the same bytes: a number has longer forms too.
fn row<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(found) = decode_row::<T>(bytes) {
        let again = encode_row(&found).expect("what was just decoded");
        assert_eq!(decode_row::<T>(&again).expect("what was just encoded"), found);
    }
}
