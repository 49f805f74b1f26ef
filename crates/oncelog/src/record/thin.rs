//! A batch without some of its records: what compaction leaves of it.
//!
//! Offsets, timestamps, keys, values and headers stay as they were. A batch that is written anew may stand for more
//! offsets than it did: those of batches before it that are gone as a whole. So batches still follow each other without
//! a gap, and an offset between two batches is lost, while one within a batch was compacted away.

use super::{Batch, BatchBuilder, BatchError, Draft, Header, RecordView, Span, Tombstones};
use crate::ids::LogOffset;

/// What becomes of the records of a batch.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// For each, in order, whether it stays.
    stays: Vec<bool>,
    pub(crate) gone: u64,
    /// Tombstones among those that stay.
    tombstones: u64,
}

impl Verdict {
    /// Asks `stays` of each record.
    ///
    /// # Errors
    /// `Malformed`: the batch contradicts itself.
    pub(crate) fn judge(
        &mut self,
        batch: &Batch<'_>,
        mut stays: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<(), BatchError> {
        (self.gone, self.tombstones) = (0, 0);
        self.stays.clear();
        for record in batch.records() {
            let record = record?;
            let kept = stays(&record);
            self.gone += u64::from(!kept);
            // Without a key it ends nothing, and never goes.
            self.tombstones += u64::from(kept && record.value.is_none() && record.key.is_some());
            self.stays.push(kept);
        }
        Ok(())
    }

    /// Whether no record stays.
    pub(crate) fn is_empty(&self) -> bool {
        self.gone == self.stays.len() as u64
    }

    /// Whether a tombstone stays.
    pub(crate) fn has_tombstones(&self) -> bool {
        self.tombstones > 0
    }

    /// Puts the records of `batch` that stay into `into`, which is emptied before, and gives what is to be said of
    /// them: that they stand for the offsets from `base` to the end of the batch, and that tombstones may go at
    /// `until_ms`. At least one record must stay, and `base` be no more than 2^31 offsets before that end.
    ///
    /// # Errors
    /// `Malformed`: the batch contradicts itself, or is too long to stand for so much.
    pub(crate) fn thin(
        &self,
        batch: &Batch<'_>,
        base: LogOffset,
        until_ms: Option<i64>,
        into: &mut BatchBuilder,
    ) -> Result<Span, BatchError> {
        const FAR: BatchError = BatchError::Malformed("a batch stands for too many offsets");
        let delta = |offset: LogOffset| u32::try_from(offset.0.saturating_sub(base.0)).map_err(|_| FAR);
        into.clear();
        let until_ms = until_ms.filter(|_| self.has_tombstones());
        let mut base_ms = until_ms;
        let mut headers: Vec<Header<'_>> = Vec::new();
        for (record, stays) in batch.records().zip(&self.stays) {
            let record = record?;
            if !stays {
                continue;
            }
            headers.clear();
            headers.extend(record.headers());
            let (key, value, timestamp_ms) = (record.key, record.value, record.timestamp_ms);
            let base_timestamp_ms = *base_ms.get_or_insert(timestamp_ms);
            into.push_at(
                &Draft { key, value, headers: &headers, timestamp_ms },
                delta(record.offset)?,
                base_timestamp_ms,
            );
        }
        let tombstones = if until_ms.is_some() { Tombstones::UntilBaseTimestamp } else { Tombstones::Unknown };
        let last_offset_delta = delta(LogOffset(batch.next_offset().0.saturating_sub(1)))?;
        if i32::try_from(last_offset_delta).is_err() {
            return Err(FAR);
        }
        Ok(Span { base, last_offset_delta, tombstones })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{BatchHead, Compression, Inflated, set_base_offset};
    use proptest::collection::vec;
    use proptest::option::of;
    use proptest::prelude::*;

    type Content = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, usize);

    fn contents(batch: &Batch<'_>) -> Vec<Content> {
        let content = |record: RecordView<'_>| {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            (record.offset.0, record.timestamp_ms, owned(record.key), owned(record.value), record.headers().count())
        };
        batch.records().map(|record| content(record.unwrap())).collect()
    }

    fn batch(base: u64, records: &[(u8, Option<Vec<u8>>, i64)]) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        for (key, value, timestamp_ms) in records {
            let headers = [Header { name: "h", value: None }];
            let (key, headers) = ([*key], &headers[..usize::from(*key % 2)]);
            builder.push(&Draft { key: Some(&key), value: value.as_deref(), headers, timestamp_ms: *timestamp_ms });
        }
        let mut bytes = Vec::new();
        builder.finish_into(&mut bytes);
        set_base_offset(&mut bytes, LogOffset(base));
        bytes
    }

    proptest! {
        #[test]
        fn what_stays_is_what_it_was(
            records in vec((0u8..5, of(vec(0u8..9, 0..40)), any::<i64>(), any::<bool>()), 1..40),
            before in 0u64..1000,
            until_ms in of(any::<i64>()),
            lz4 in any::<bool>(),
        ) {
            let stays: Vec<bool> = records.iter().map(|record| record.3).collect();
            let plain: Vec<_> = records.iter().map(|(key, value, at, _)| (*key, value.clone(), *at)).collect();
            let bytes = batch(1000, &plain);
            let inflated = Inflated::default();
            let before_it = Batch::open(&bytes, &inflated).unwrap();
            let mut verdict = Verdict::default();
            verdict.judge(&before_it, |record| stays[usize::try_from(record.offset.0 - 1000).unwrap()]).unwrap();
            let both = contents(&before_it).into_iter().zip(&stays);
            let expected: Vec<_> = both.filter(|(_, stays)| **stays).map(|(content, _)| content).collect();
            prop_assert_eq!(verdict.is_empty(), expected.is_empty());
            if expected.is_empty() {
                return Ok(());
            }
            let mut builder = BatchBuilder::new();
            let span = verdict.thin(&before_it, LogOffset(1000 - before), until_ms, &mut builder).unwrap();
            let mut out = Vec::new();
            let way = if lz4 && Compression::Lz4.is_built_in() { Compression::Lz4 } else { Compression::None };
            builder.finish_span(&span, way, &mut out);
            let inflated = Inflated::default();
            let thinned = Batch::open(&out, &inflated).unwrap();
            prop_assert_eq!(contents(&thinned), expected.clone());
            prop_assert_eq!(thinned.base_offset(), LogOffset(1000 - before));
            prop_assert_eq!(thinned.next_offset(), before_it.next_offset());
            prop_assert_eq!(thinned.max_timestamp_ms(), expected.iter().map(|content| content.1).max().unwrap());
            let has_tombstone = expected.iter().any(|content| content.3.is_none());
            prop_assert_eq!(thinned.tombstones_until_ms(), until_ms.filter(|_| has_tombstone));
        }
    }

    #[test]
    fn a_batch_without_records_stands_for_offsets() {
        let span = Span { base: LogOffset(7), last_offset_delta: i32::MAX as u32, tombstones: Tombstones::Unknown };
        let mut out = Vec::new();
        BatchBuilder::new().finish_span(&span, Compression::Lz4, &mut out);
        let inflated = Inflated::default();
        let batch = Batch::open(&out, &inflated).unwrap();
        assert_eq!(batch.records().count(), 0);
        assert_eq!((batch.base_offset(), batch.next_offset()), (LogOffset(7), LogOffset(7 + (1 << 31))));
        assert_eq!(BatchHead::peek(&out).unwrap().max_timestamp_ms, i64::MIN);
        // And nothing else does: a batch that claims none and has some bytes is refused.
        let mut lies = batch_of_one();
        lies[57..61].copy_from_slice(&0u32.to_be_bytes());
        assert_eq!(BatchHead::peek(&lies), Err(BatchError::Malformed("there are no records")));
    }

    fn batch_of_one() -> Vec<u8> {
        batch(0, &[(1, None, 5)])
    }

    #[test]
    fn offsets_that_are_too_far_from_the_base_are_refused() {
        let bytes = batch(5 << 31, &[(1, None, 5), (2, None, 6)]);
        let inflated = Inflated::default();
        let far = Batch::open(&bytes, &inflated).unwrap();
        let mut verdict = Verdict::default();
        verdict.judge(&far, |_| true).unwrap();
        let mut builder = BatchBuilder::new();
        assert!(verdict.thin(&far, LogOffset((4 << 31) + 2), None, &mut builder).is_ok());
        assert!(verdict.thin(&far, LogOffset((4 << 31) + 1), None, &mut builder).is_err());
        assert!(verdict.thin(&far, LogOffset(0), None, &mut builder).is_err());
    }
}
