//! The segments of a partition as another process finds them: by the names in its directory.
//!
//! A segment counts from its base offset up to the base of the next. One of an earlier opening does not count where a
//! later opening has begun at or before it: what recovery wrote anew stands in place of what was there. Of one opening
//! the later generation counts. A compaction that has put several segments into one may not have taken all of them away
//! yet: what they hold may still be read, and they count as well.

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::ids::{Epoch, LogOffset};
use crate::segment::{Generation, SegmentName};

/// A segment file and what its name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) base: LogOffset,
    pub(crate) epoch: Epoch,
    pub(crate) generation: Generation,
    pub(crate) path: PathBuf,
}

impl Piece {
    fn of_path(path: &Path) -> Option<Piece> {
        let SegmentName { base, epoch, generation } = SegmentName::of(path, ".segment")?;
        Some(Piece { base, epoch, generation, path: path.to_owned() })
    }
}

/// The segments that count in `dir`, in order; none where there is no such directory.
pub(crate) fn pieces(disk: &dyn Disk, dir: &Path) -> Result<Vec<Piece>> {
    match disk.list(dir) {
        Ok(paths) => Ok(those_that_count(paths.iter().filter_map(|path| Piece::of_path(path)).collect())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(dir, "list a partition", error)),
    }
}

fn those_that_count(mut found: Vec<Piece>) -> Vec<Piece> {
    found.sort_by_key(|piece| (piece.base, Reverse(piece.epoch), Reverse(piece.generation)));
    found.dedup_by_key(|piece| piece.base);
    let mut newest = Epoch(0);
    found.retain(|piece| {
        // In order of their bases: a later opening has begun here or before.
        let counts = piece.epoch >= newest;
        newest = newest.max(piece.epoch);
        counts
    });
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::segment_path;

    fn counting(names: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let names: Vec<_> = names.iter().map(|(base, epoch)| (*base, *epoch, 0)).collect();
        written(&names).into_iter().map(|(base, epoch, _)| (base, epoch)).collect()
    }

    fn written(names: &[(u64, u64, u64)]) -> Vec<(u64, u64, u64)> {
        let piece = |&(base, epoch, generation): &(u64, u64, u64)| Piece {
            base: LogOffset(base),
            epoch: Epoch(epoch),
            generation: Generation(generation),
            path: PathBuf::from(format!("{base}-{epoch}")),
        };
        let found = those_that_count(names.iter().map(piece).collect());
        found.iter().map(|piece| (piece.base.0, piece.epoch.0, piece.generation.0)).collect()
    }

    #[test]
    fn what_a_later_opening_wrote_anew_counts() {
        assert_eq!(counting(&[(0, 1), (10, 1), (20, 1)]), [(0, 1), (10, 1), (20, 1)]);
        assert_eq!(counting(&[(10, 2), (0, 1), (12, 1), (20, 1)]), [(0, 1), (10, 2)]);
        assert_eq!(counting(&[(0, 1), (10, 1), (10, 3), (30, 3)]), [(0, 1), (10, 3), (30, 3)]);
        assert_eq!(counting(&[(0, 1), (10, 2), (10, 3), (15, 2)]), [(0, 1), (10, 3)]);
    }

    #[test]
    fn what_was_compacted_later_counts() {
        assert_eq!(written(&[(0, 1, 0), (0, 1, 7), (10, 1, 0), (20, 2, 0)]), [(0, 1, 7), (10, 1, 0), (20, 2, 0)]);
        assert_eq!(written(&[(0, 1, 9), (0, 1, 8), (0, 2, 0), (10, 1, 9)]), [(0, 2, 0)]);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for generation in [0, 1, u64::MAX] {
            let path = segment_path(Path::new("/t"), LogOffset(17), Epoch(3), Generation(generation));
            let piece = Piece::of_path(&path).unwrap();
            assert_eq!((piece.base, piece.epoch, piece.generation.0), (LogOffset(17), Epoch(3), generation));
        }
        for other in
            ["/t/CLAIM", "/t/1.segment", "/t/a-b.segment", "/t/1-2.index", "/t/1-2-3-4.segment", "/t/1-2-3.segment.new"]
        {
            assert_eq!(Piece::of_path(Path::new(other)), None);
        }
    }
}
