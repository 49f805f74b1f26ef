//! What we write another implementation reads, and the other way round.

use bytes::{Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, NO_PARTITION_LEADER_EPOCH, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, Record as KafkaRecord,
    RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use proptest::prelude::*;

#[cfg(feature = "lz4")]
use super::Inflated;
#[cfg(feature = "lz4")]
use super::tests::compressed_batch_of;
use super::tests::{Event, batch_of, events};
use super::{Batch, set_base_offset};
use crate::ids::LogOffset;

/// Timestamps whose differences the other implementation can take.
fn timestamps() -> impl Strategy<Value = i64> {
    -(1i64 << 45)..1i64 << 45
}

/// It keeps headers in a map, so their names must differ.
fn with_distinct_headers(mut events: Vec<Event>) -> Vec<Event> {
    for event in &mut events {
        event.headers.sort();
        event.headers.dedup_by(|a, b| a.0 == b.0);
    }
    events
}

fn to_kafka(event: &Event, offset: i64) -> KafkaRecord {
    let owned = |bytes: &Option<Vec<u8>>| bytes.clone().map(Bytes::from);
    let header = |(name, value): &(String, Option<Vec<u8>>)| (StrBytes::from_string(name.clone()), owned(value));
    KafkaRecord {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: NO_PARTITION_LEADER_EPOCH,
        producer_id: NO_PRODUCER_ID,
        producer_epoch: NO_PRODUCER_EPOCH,
        timestamp_type: TimestampType::Creation,
        offset,
        // One batch is made as long as sequences run in step with offsets.
        sequence: i32::try_from(offset).unwrap(),
        timestamp: event.timestamp_ms,
        key: owned(&event.key),
        value: owned(&event.value),
        headers: event.headers.iter().map(header).collect(),
    }
}

fn of_kafka(record: &KafkaRecord) -> Event {
    let vec = |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| bytes.to_vec());
    Event {
        key: vec(&record.key),
        value: vec(&record.value),
        headers: record.headers.iter().map(|(name, value)| (name.to_string(), vec(value))).collect(),
        timestamp_ms: record.timestamp,
    }
}

proptest! {
    #[cfg(feature = "lz4")]
    #[test]
    fn kafka_inflates_ours_and_we_inflate_kafkas(
        events in events(timestamps()).prop_map(with_distinct_headers),
        filler in 200..3000usize,
    ) {
        // Something to compress.
        let mut events = events;
        events.push(Event { key: None, value: Some(vec![7; filler]), headers: Vec::new(), timestamp_ms: 5 });
        let records: Vec<_> = events.iter().zip(0..).map(|(event, offset)| to_kafka(event, offset)).collect();

        let ours = compressed_batch_of(&events);
        let mut bytes = Bytes::from(ours.clone());
        let read = RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert_eq!(read.compression, Compression::Lz4);
        prop_assert_eq!(read.records.iter().map(of_kafka).collect::<Vec<_>>(), events.clone());

        let mut theirs = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::Lz4 };
        RecordBatchEncoder::encode(&mut theirs, &records, &options).unwrap();
        for bytes in [&theirs[..], &ours] {
            let inflated = Inflated::default();
            let batch = Batch::open(bytes, &inflated).unwrap();
            let read: Vec<_> = batch.records().map(|record| Event::of(&record.unwrap())).collect();
            prop_assert_eq!(&read, &events);
        }
    }

    #[test]
    fn kafka_reads_ours(events in events(timestamps()).prop_map(with_distinct_headers), base in 0..1i64 << 40) {
        let mut batch = batch_of(&events);
        set_base_offset(&mut batch, LogOffset(base.unsigned_abs()));
        let mut bytes = Bytes::from(batch);
        let read = RecordBatchDecoder::decode(&mut bytes).unwrap();
        prop_assert!(bytes.is_empty());
        prop_assert_eq!((read.version, read.compression), (2, Compression::None));
        prop_assert_eq!(read.records.iter().map(of_kafka).collect::<Vec<_>>(), events);
        for (record, offset) in read.records.iter().zip(base..) {
            prop_assert_eq!(record.offset, offset);
            prop_assert_eq!((record.producer_id, record.producer_epoch), (NO_PRODUCER_ID, NO_PRODUCER_EPOCH));
            prop_assert_eq!(record.partition_leader_epoch, NO_PARTITION_LEADER_EPOCH);
            prop_assert!(!record.transactional && !record.control && !record.delete_horizon);
            prop_assert_eq!(record.timestamp_type, TimestampType::Creation);
        }
    }

    #[test]
    fn we_read_kafkas(
        events in events(timestamps()).prop_map(with_distinct_headers),
        steps in proptest::collection::vec(1..1000i64, 12),
    ) {
        // With holes between the offsets, as compaction leaves them.
        let offsets = steps.iter().scan(0, |offset, step| { *offset += step; Some(*offset) });
        let records: Vec<_> = events.iter().zip(offsets).map(|(event, offset)| to_kafka(event, offset)).collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut bytes, &records, &options).unwrap();

        let batch = Batch::check(&bytes).unwrap();
        prop_assert_eq!(batch.count() as usize, events.len());
        prop_assert_eq!(Some(batch.max_timestamp_ms()), events.iter().map(|event| event.timestamp_ms).max());
        for (read, record) in batch.records().zip(&records) {
            let read = read.unwrap();
            prop_assert_eq!(read.offset.0, record.offset.unsigned_abs());
            prop_assert_eq!(Event::of(&read), of_kafka(record));
        }
        prop_assert_eq!(batch.records().count(), events.len());
        prop_assert_eq!(batch.next_offset().0, records.last().unwrap().offset.unsigned_abs() + 1);
    }
}
