//! What tells one history of an owner from another: a link for every frame, made of the link before and the frame.
//!
//! A machine that was set back to an older image of its disk goes on from there, with the same names, epochs and LSNs
//! as the first time. What it writes then is another history. Two histories have the same links up to where they part
//! and others behind, however the frames are cut into pieces; so whoever puts pieces together compares links, and never
//! mixes two. Not a defence against forgers: 32 bits of each frame go into it. Checksums of files are elsewhere.

use crate::codec::crc32c;
use crate::ids::Lsn;

/// See the module. Of a frame: what identifies it and all before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Link(pub(crate) u64);

/// The fractional part of the golden ratio (Steele, Lea, Flood 2014).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Link {
    /// Where an archive begins: by what identifies the place in the journal.
    pub(crate) fn begin(place: &[u64]) -> Link {
        Link(place.iter().fold(0, |state, word| mix(state ^ mix(*word))))
    }

    /// The link of the frame behind this one.
    #[must_use]
    pub(crate) fn next(self, lsn: Lsn, body: &[u8]) -> Link {
        let told = u64::from(crc32c(body)) << 32 ^ body.len() as u64;
        Link(mix(mix(self.0 ^ lsn.0) ^ told))
    }
}

/// The output function of SplitMix64, a bijection.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(STEP);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_depends_on_all_frames_before_it() {
        let begin = Link::begin(&[1, 2, 3]);
        assert_ne!(begin, Link::begin(&[1, 3, 2]));
        let link = |bodies: &[&[u8]]| bodies.iter().zip(5..).fold(begin, |link, (body, lsn)| link.next(Lsn(lsn), body));
        assert_eq!(link(&[b"a", b"b"]), begin.next(Lsn(5), b"a").next(Lsn(6), b"b"));
        let others: [&[&[u8]]; 5] = [&[b"a"], &[b"b", b"a"], &[b"a", b"c"], &[b"ab", b""], &[b"a", b"b", b""]];
        others.iter().for_each(|other| assert_ne!(link(&[b"a", b"b"]), link(other), "{other:?}"));
        assert_ne!(begin.next(Lsn(5), b"a"), begin.next(Lsn(6), b"a"));
    }

    /// Written down: archives that were begun by an earlier program go on.
    #[test]
    fn links_stay_what_they_are() {
        let begin = Link::begin(&[7, 512, 42]);
        assert_eq!((begin.0, begin.next(Lsn(42), b"frame").0), (GOLDEN.0, GOLDEN.1));
    }

    const GOLDEN: (u64, u64) = (15_972_294_408_197_316_953, 3_165_793_478_441_901_171);
}
