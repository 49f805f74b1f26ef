//! Rows in a row: ranges, pages and prefixes in the user's types, over whatever answers for one shard.

use std::ops::{Bound, Range, RangeBounds};

use bytes::Bytes;

use super::tx::{decode_row, encode};
use crate::codec::{Codec, encode_first};
use crate::error::{Error, Result};
use crate::ids::ShardId;
use crate::table::{Direction, ScanRange};

/// Rows that are asked for at once.
const SCAN_ROWS: usize = 256;

/// Which rows are wanted, by their encoded keys.
pub(crate) struct Scan {
    start: Bound<Vec<u8>>,
    end: Bound<Vec<u8>>,
    direction: Direction,
    limit: usize,
}

impl Scan {
    /// All rows of a range, in key order.
    pub(crate) fn range<'k, K: Codec>(range: impl RangeBounds<&'k K::Value>) -> Result<Scan>
    where
        K::Value: 'k,
    {
        let encoded = |bound: Bound<&&'k K::Value>| match bound {
            Bound::Included(key) => encode::<K>(key).map(|key| Bound::Included(key.into_owned())),
            Bound::Excluded(key) => encode::<K>(key).map(|key| Bound::Excluded(key.into_owned())),
            Bound::Unbounded => Ok(Bound::Unbounded),
        };
        let (start, end) = (encoded(range.start_bound())?, encoded(range.end_bound())?);
        Ok(Scan { start, end, direction: Direction::Up, limit: usize::MAX })
    }

    /// All rows whose keys begin as `prefix` does, in key order.
    pub(crate) fn prefix<K: Codec>(prefix: &K::Value) -> Result<Scan> {
        let start = encode::<K>(prefix)?.into_owned();
        let end = behind_prefix(&start);
        Ok(Scan { start: Bound::Included(start), end, direction: Direction::Up, limit: usize::MAX })
    }

    /// All rows whose keys are pairs with this first part, in key order.
    pub(crate) fn group<A: Codec>(first: &A::Value) -> Result<Scan> {
        let mut start = Vec::new();
        encode_first::<A>(first, &mut start)
            .map_err(|reason| Error::invalid(format!("the key has no encoding as {}", A::id())).because(reason))?;
        let end = behind_prefix(&start);
        Ok(Scan { start: Bound::Included(start), end, direction: Direction::Up, limit: usize::MAX })
    }

    /// The first so many of them, from that end.
    pub(crate) fn page(self, direction: Direction, limit: usize) -> Scan {
        Scan { direction, limit, ..self }
    }

    /// Asks `shard` of `table` for the rows, shard after shard, a page at a time and no more than are wanted.
    pub(crate) fn run<K: Codec, V: Codec>(
        mut self,
        table: &str,
        shards: Range<u32>,
        mut shard: impl FnMut(ShardId, ScanRange<'_>) -> Result<Vec<(Vec<u8>, Bytes)>>,
    ) -> Result<Vec<(K::Owned, V::Owned)>> {
        let mut numbers: Vec<u32> = shards.collect();
        if self.direction == Direction::Down {
            numbers.reverse();
        }
        let mut rows = Vec::new();
        let (start, end) = (self.start.clone(), self.end.clone());
        for number in numbers {
            (self.start, self.end) = (start.clone(), end.clone());
            while rows.len() < self.limit {
                let (start, end) = (self.start.as_ref().map(Vec::as_slice), self.end.as_ref().map(Vec::as_slice));
                let (direction, limit) = (self.direction, SCAN_ROWS.min(self.limit - rows.len()));
                let page = shard(ShardId(number), ScanRange { start, end, direction, limit, ..ScanRange::ALL })?;
                for (key, value) in &page {
                    rows.push(decode_row::<K, V>(table, key, value)?);
                }
                let Some((last, _)) = page.into_iter().nth(limit - 1) else { break };
                match direction {
                    Direction::Up => self.start = Bound::Excluded(last),
                    Direction::Down => self.end = Bound::Excluded(last),
                }
            }
        }
        Ok(rows)
    }
}

/// The lowest key above all that begin with `prefix`.
fn behind_prefix(prefix: &[u8]) -> Bound<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Bound::Excluded(end);
        }
    }
    Bound::Unbounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_first_key_without_it() {
        assert_eq!(behind_prefix(b"ab"), Bound::Excluded(b"ac".to_vec()));
        assert_eq!(behind_prefix(&[1, 0xFF, 0xFF]), Bound::Excluded(vec![2]));
        assert_eq!(behind_prefix(&[0xFF]), Bound::Unbounded);
        assert_eq!(behind_prefix(b""), Bound::Unbounded);
    }
}
