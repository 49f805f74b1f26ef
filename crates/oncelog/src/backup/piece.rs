//! A piece of an archived journal: frames without a gap, what they follow, and when some of them were the newest.
//! `docs/format.md` has the tables.

use std::fmt;
use std::path::Path;

use super::history::Place;
use super::link::Link;
use super::stream::put_frame;
use crate::codec::{CheckSite, Input, crc32c, put_bytes, put_varint, same};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StoreId};

const MAGIC: [u8; 8] = *b"OLPIECE\0";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 88;
const SUM_BYTES: usize = 4;
/// Of a whole piece: one frame, which has 1 GiB at most, and what is around it.
pub(crate) const PIECE_BYTES_MAX: u64 = 2 << 30;

/// At that time, by the clock of the machine in milliseconds since 1970, this frame was the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeMark {
    pub(crate) lsn: Lsn,
    pub(crate) ms: i64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) store: StoreId,
    pub(crate) identity: StoreId,
    pub(crate) owner: String,
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    /// Of the frame before the first.
    pub(crate) before: Link,
    /// Of the last frame.
    pub(crate) after: Link,
    /// In order of LSNs.
    pub(crate) marks: Vec<TimeMark>,
    /// The frames, one behind the other, each its LSN and its body.
    pub(crate) frames: Vec<u8>,
}

impl Piece {
    /// A piece that is filled by [`Piece::push`]; `first` is the LSN of the first frame, `before` the link of that
    /// before it.
    pub(crate) fn begin(store: StoreId, identity: StoreId, owner: &str, (first, before): (Lsn, Link)) -> Piece {
        let (owner, marks, frames) = (owner.to_owned(), Vec::new(), Vec::new());
        let last = Lsn(first.0.saturating_sub(1));
        Piece { store, identity, owner, first, last, before, after: before, marks, frames }
    }

    /// Adds the next frame.
    pub(crate) fn push(&mut self, lsn: Lsn, body: &[u8]) {
        put_frame(&mut self.frames, lsn, body);
        self.last = lsn;
        self.after = self.after.next(lsn, body);
    }

    /// What its file or object is called.
    pub(crate) fn name(&self) -> PieceName {
        PieceName { first: self.first, last: self.last, before: self.before, after: self.after }
    }

    /// The link of frame `lsn`, which it holds, or of that before it.
    ///
    /// # Errors
    /// As [`Piece::each`].
    pub(crate) fn link_of(&self, lsn: Lsn) -> Result<Link> {
        let mut found = self.before;
        self.each(|at, body| {
            if at <= lsn {
                found = found.next(at, body);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Hands the frames to `each`.
    ///
    /// # Errors
    /// `Corrupt`: they are not those that its head says.
    pub(crate) fn each(&self, mut each: impl FnMut(Lsn, &[u8]) -> Result<()>) -> Result<()> {
        let malformed =
            || Error::new(ErrorKind::Corrupt, "the frames of an archived journal are not those of its head");
        let (mut input, mut next, mut link) = (Input::new(&self.frames), self.first, self.before);
        while !input.is_empty() {
            let (Some(lsn), Some(body)) = (input.u64(), input.bytes()) else { return Err(malformed()) };
            if Lsn(lsn) != next {
                return Err(malformed());
            }
            next = next.next();
            link = link.next(Lsn(lsn), body);
            each(Lsn(lsn), body)?;
        }
        if (next, link) == (self.last.next(), self.after) { Ok(()) } else { Err(malformed()) }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; HEAD_BYTES];
        put_bytes(&mut out, self.owner.as_bytes());
        put_varint(&mut out, self.marks.len() as u64);
        for mark in &self.marks {
            out.extend_from_slice(&mark.lsn.0.to_le_bytes());
            out.extend_from_slice(&mark.ms.to_le_bytes());
        }
        out.extend_from_slice(&self.frames);
        let bytes = (out.len() + SUM_BYTES) as u64;
        let head: [&[u8]; 9] = [
            &MAGIC,
            &VERSION.to_le_bytes(),
            &self.store.0,
            &self.identity.0,
            &self.first.0.to_le_bytes(),
            &self.last.0.to_le_bytes(),
            &self.before.0.to_le_bytes(),
            &self.after.0.to_le_bytes(),
            &bytes.to_le_bytes(),
        ];
        let head = head.concat();
        out[..head.len()].copy_from_slice(&head);
        out[head.len()..HEAD_BYTES].copy_from_slice(&crc32c(&head).to_le_bytes());
        let sum = crc32c(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// # Errors
    /// `Corrupt`, `UnsupportedVersion`, naming `place`.
    pub(crate) fn decode(bytes: &[u8], place: &Path) -> Result<Piece> {
        let flawed = |position: usize, what: &str| {
            Error::corrupt(place, position as u64, format!("a piece of an archived journal: {what}"))
        };
        let head = bytes.first_chunk::<HEAD_BYTES>().ok_or_else(|| flawed(bytes.len(), "it ends within its head"))?;
        let (summed, sum) = head.split_at(HEAD_BYTES - SUM_BYTES);
        if head[..MAGIC.len()] != MAGIC || !same(CheckSite::BackupHead, little_u32(sum), crc32c(summed)) {
            return Err(flawed(0, "its head is damaged"));
        }
        let mut input = Input::new(&summed[MAGIC.len()..]);
        let version = input.u32().unwrap_or_default();
        if version != VERSION {
            let what = format!("an archived journal of version {version}, this program knows {VERSION}");
            return Err(Error::new(ErrorKind::UnsupportedVersion, what).at(place, 8));
        }
        let fields = (|| {
            let (store, identity) = (StoreId(input.array()?), StoreId(input.array()?));
            let (first, last) = (Lsn(input.u64()?), Lsn(input.u64()?));
            let (before, after) = (Link(input.u64()?), Link(input.u64()?));
            Some((store, identity, PieceName { first, last, before, after }, input.u64()?))
        })();
        let (store, identity, name, length) = fields.ok_or_else(|| flawed(0, "its head is short"))?;
        if length != bytes.len() as u64 || bytes.len() < HEAD_BYTES + SUM_BYTES {
            return Err(flawed(bytes.len(), &format!("it should have {length} bytes, and has {}", bytes.len())));
        }
        let (summed, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
        if !same(CheckSite::BackupBody, little_u32(sum), crc32c(summed)) {
            return Err(flawed(summed.len(), "its checksum does not fit"));
        }
        let mut input = Input::new(&summed[HEAD_BYTES..]);
        let rest = (|| {
            let owner = std::str::from_utf8(input.bytes()?).ok()?.to_owned();
            let mut marks = Vec::new();
            for _ in 0..input.varint()? {
                marks.push(TimeMark { lsn: Lsn(input.u64()?), ms: i64::from_le_bytes(input.array()?) });
            }
            Some((owner, marks))
        })();
        let (owner, marks) = rest.ok_or_else(|| flawed(HEAD_BYTES, "it is malformed"))?;
        let PieceName { first, last, before, after } = name;
        if first > last || last.0 == u64::MAX {
            return Err(flawed(44, "its frames are in no order"));
        }
        Ok(Piece { store, identity, owner, first, last, before, after, marks, frames: input.rest().to_vec() })
    }
}

fn little_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// What a piece is called, and says in its head: pieces sort by their first frames. The same frames make the same name,
/// so two that differ never take each other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PieceName {
    pub(crate) first: Lsn,
    pub(crate) last: Lsn,
    /// Of the frame before the first.
    pub(crate) before: Link,
    /// Of the last frame.
    pub(crate) after: Link,
}

impl PieceName {
    /// The frame before it.
    pub(super) fn before_place(self) -> Place {
        (Lsn(self.first.0.saturating_sub(1)), self.before)
    }

    /// Its last frame.
    pub(super) fn end(self) -> Place {
        (self.last, self.after)
    }

    /// Reads a name; `None`: it is that of something else.
    pub(crate) fn read(name: &str) -> Option<PieceName> {
        let mut parts = name.strip_suffix(".frames")?.split('-');
        let mut part = || parts.next();
        let (first, last) = (Lsn(part()?.parse().ok()?), Lsn(part()?.parse().ok()?));
        let mut link = || u64::from_str_radix(part()?, 16).ok().map(Link);
        let read = PieceName { first, last, before: link()?, after: link()? };
        (read.to_string() == name && first <= last && last.0 != u64::MAX).then_some(read)
    }
}

impl fmt::Display for PieceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PieceName { first, last, before, after } = self;
        write!(f, "{:020}-{:020}-{:016x}-{:016x}.frames", first.0, last.0, before.0, after.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_every_flipped_bit_is_seen() {
        let mut piece = Piece::begin(StoreId([1; 16]), StoreId([2; 16]), "main", (Lsn(7), Link(3)));
        piece.push(Lsn(7), b"seven");
        piece.push(Lsn(8), b"");
        piece.marks.push(TimeMark { lsn: Lsn(8), ms: -5 });
        let (bytes, place) = (piece.encode(), Path::new("/p"));
        assert_eq!(Piece::decode(&bytes, place).unwrap(), piece);
        let mut seen = Vec::new();
        let read = piece.each(|lsn, body| {
            seen.push((lsn.0, body.to_vec()));
            Ok(())
        });
        read.unwrap();
        assert_eq!(seen, [(7, b"seven".to_vec()), (8, Vec::new())]);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Piece::decode(&bad, place).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(Piece::decode(&bytes[..len], place).is_err(), "{len} bytes");
        }
        assert_eq!(PieceName::read(&piece.name().to_string()), Some(piece.name()));
        assert_eq!(PieceName::read("7-8-3-4.frames"), None);
        let endless = PieceName { last: Lsn(u64::MAX), ..piece.name() };
        assert_eq!(PieceName::read(&endless.to_string()), None, "nothing can be behind it");
        assert_eq!((piece.link_of(Lsn(6)).unwrap(), piece.link_of(Lsn(8)).unwrap()), (piece.before, piece.after));
        assert_eq!(piece.link_of(Lsn(7)).unwrap(), Link(3).next(Lsn(7), b"seven"));
        let other = Piece { before: Link(4), ..piece.clone() };
        assert!(other.each(|_, _| Ok(())).is_err(), "its frames do not lead from one link to the other");
        piece.last = Lsn(9);
        assert!(piece.each(|_, _| Ok(())).is_err());
    }
}
