//! What a backup says of itself, as bytes and back. `docs/format.md` has the tables.
//!
//! Invariants: equal manifests have equal bytes, and what decodes encodes to the same bytes again. Checksums are
//! compared before anything else is believed; the head stays as it is in all versions, up to its checksum. A path names
//! a file that a store has and nothing else, so that no manifest leads out of the directory that is restored.

use std::collections::BTreeMap;
use std::path::Path;

use super::chunks::{CHUNK_BYTES, Chunk, ChunkId};
use super::link::Link;
use crate::codec::{CheckSite, Input, crc32c, put_bytes, put_varint, same, varint_len};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, OwnerId, StoreId, owner_name_complaint, unescape_name};

const MAGIC: [u8; 8] = *b"OLBACKUP";
const VERSION: u32 = 1;
/// The head with its checksum.
pub(super) const HEAD_BYTES: usize = 64;
const SUM_BYTES: usize = 4;
/// Of a whole manifest: a hundred million chunks.
pub(super) const BYTES_MAX: u64 = 4 << 30;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupManifest {
    /// What the files of the store call it.
    pub(crate) store: StoreId,
    /// What it was called outside.
    pub(crate) identity: StoreId,
    /// By the clock of the machine, milliseconds since 1970.
    pub(crate) taken_ms: i64,
    /// By name.
    pub(crate) owners: Vec<OwnerImage>,
    /// By path.
    pub(crate) files: BTreeMap<String, FileImage>,
}

/// What is there of an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnerImage {
    pub(crate) name: String,
    pub(crate) number: OwnerId,
    /// The newest opening.
    pub(crate) epoch: Epoch,
    /// What that has drawn.
    pub(crate) opening: u64,
    /// What its rows reflect; `None`: no opening of it was ever finished, and it has neither rows nor frames.
    pub(crate) rows_lsn: Option<Lsn>,
    /// What its rows and frames together reflect.
    pub(crate) lsn: Lsn,
    /// Of the frame of that LSN: which of its histories this is.
    pub(crate) link: Link,
}

/// A file of the store, or a stream in the place of several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FileImage {
    /// Of a segment, what tells it from others of its name; else 0.
    pub(crate) salt: u64,
    pub(crate) chunks: Vec<Chunk>,
}

impl FileImage {
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| u64::from(chunk.bytes)).sum()
    }
}

impl BackupManifest {
    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(FileImage::bytes).sum()
    }
}

/// What a path in a manifest can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilePlace {
    /// `owners/OWNER/rows`.
    Rows,
    /// `owners/OWNER/frames`.
    Frames,
    /// `topics/NAME/PARTITION/BASE-EPOCH.segment`, or with the generation behind the epoch.
    Segment,
}

impl FilePlace {
    /// `None`: no store has such a file.
    pub(crate) fn of(path: &str) -> Option<FilePlace> {
        let digits = |text: &str, count: usize| text.len() >= count && text.bytes().all(|byte| byte.is_ascii_digit());
        let named = |name: &str| unescape_name(name).is_some_and(|name| !name.is_empty());
        let parts: Vec<&str> = path.split('/').collect();
        match parts[..] {
            ["owners", owner, "rows"] if named(owner) => Some(FilePlace::Rows),
            ["owners", owner, "frames"] if named(owner) => Some(FilePlace::Frames),
            ["topics", name, partition, segment] if named(name) && partition.len() == 6 && digits(partition, 6) => {
                let said: Vec<&str> = segment.strip_suffix(".segment")?.split('-').collect();
                let is_one = match said[..] {
                    [base, epoch] => digits(base, 20) && digits(epoch, 10),
                    [base, epoch, generation] => digits(base, 20) && digits(epoch, 10) && digits(generation, 20),
                    _ => false,
                };
                is_one.then_some(FilePlace::Segment)
            }
            _ => None,
        }
    }
}

/// Why bytes are no manifest, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    kind: ErrorKind,
    position: u64,
    what: String,
}

impl Flaw {
    fn new(position: usize, what: impl Into<String>) -> Flaw {
        Flaw { kind: ErrorKind::Corrupt, position: position as u64, what: what.into() }
    }

    pub(super) fn in_object(self, place: &Path) -> Error {
        Error::new(self.kind, format!("the manifest of a backup: {}", self.what)).at(place, self.position)
    }
}

pub(super) fn encode(manifest: &BackupManifest) -> Result<Vec<u8>> {
    let mut out = vec![0; HEAD_BYTES];
    put_varint(&mut out, manifest.owners.len() as u64);
    for owner in &manifest.owners {
        put_bytes(&mut out, owner.name.as_bytes());
        out.extend_from_slice(&owner.number.0.to_le_bytes());
        out.extend_from_slice(&owner.epoch.0.to_le_bytes());
        out.extend_from_slice(&owner.opening.to_le_bytes());
        // One more, so that 0 is none.
        out.extend_from_slice(&owner.rows_lsn.map_or(0, |lsn| lsn.0 + 1).to_le_bytes());
        out.extend_from_slice(&owner.lsn.0.to_le_bytes());
        out.extend_from_slice(&owner.link.0.to_le_bytes());
    }
    put_varint(&mut out, manifest.files.len() as u64);
    for (path, file) in &manifest.files {
        put_bytes(&mut out, path.as_bytes());
        out.extend_from_slice(&file.salt.to_le_bytes());
        put_varint(&mut out, file.chunks.len() as u64);
        for chunk in &file.chunks {
            out.extend_from_slice(&chunk.id.0);
            out.extend_from_slice(&chunk.bytes.to_le_bytes());
        }
    }
    let bytes = (out.len() + SUM_BYTES) as u64;
    if bytes > BYTES_MAX {
        return Err(Error::invalid(format!("a backup whose manifest has {bytes} bytes, more than {BYTES_MAX}")));
    }
    let head: [&[u8]; 6] = [
        &MAGIC,
        &VERSION.to_le_bytes(),
        &manifest.store.0,
        &manifest.identity.0,
        &manifest.taken_ms.to_le_bytes(),
        &bytes.to_le_bytes(),
    ];
    let head = head.concat();
    out[..head.len()].copy_from_slice(&head);
    out[head.len()..HEAD_BYTES].copy_from_slice(&crc32c(&head).to_le_bytes());
    let sum = crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(out)
}

pub(super) fn decode(bytes: &[u8]) -> std::result::Result<BackupManifest, Flaw> {
    let head = bytes.first_chunk::<HEAD_BYTES>().ok_or_else(|| Flaw::new(bytes.len(), "it ends within its head"))?;
    if head[..MAGIC.len()] != MAGIC {
        return Err(Flaw::new(0, "it does not begin as one does"));
    }
    let (summed, sum) = head.split_at(HEAD_BYTES - SUM_BYTES);
    if !same(CheckSite::BackupHead, little_u32(sum), crc32c(summed)) {
        return Err(Flaw::new(summed.len(), "the checksum of its head does not fit"));
    }
    let mut input = Input::new(&summed[MAGIC.len()..]);
    let version = input.u32().unwrap_or_default();
    if version != VERSION {
        let what = format!("its version is {version}, this program knows {VERSION}");
        return Err(Flaw { kind: ErrorKind::UnsupportedVersion, position: MAGIC.len() as u64, what });
    }
    let head = (|| {
        let (store, identity) = (StoreId(input.array()?), StoreId(input.array()?));
        Some((store, identity, i64::from_le_bytes(input.array()?), input.u64()?))
    })();
    let Some((store, identity, taken_ms, length)) = head else { return Err(Flaw::new(0, "its head is short")) };
    if length != bytes.len() as u64 || bytes.len() < HEAD_BYTES + SUM_BYTES {
        return Err(Flaw::new(bytes.len(), format!("it should have {length} bytes, and has {}", bytes.len())));
    }
    let (summed, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
    if !same(CheckSite::BackupBody, little_u32(sum), crc32c(summed)) {
        return Err(Flaw::new(summed.len(), "its checksum does not fit"));
    }
    let mut reader = Reader { input: Input::new(&summed[HEAD_BYTES..]), end: summed.len() };
    let owners = reader.owners()?;
    let files = reader.files()?;
    if !reader.input.is_empty() {
        return Err(reader.flaw("something is behind its end"));
    }
    Ok(BackupManifest { store, identity, taken_ms, owners, files })
}

fn little_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

struct Reader<'b> {
    input: Input<'b>,
    end: usize,
}

impl Reader<'_> {
    fn flaw(&self, what: impl Into<String>) -> Flaw {
        Flaw::new(self.end - self.input.rest().len(), what)
    }

    fn short(&self) -> Flaw {
        self.flaw("it ends in the middle")
    }

    /// A varint that is no longer than need be.
    fn number(&mut self) -> std::result::Result<u64, Flaw> {
        let before = self.input.rest().len();
        let number = self.input.varint().ok_or_else(|| self.short())?;
        if before - self.input.rest().len() != varint_len(number) {
            return Err(self.flaw("a number is longer than need be"));
        }
        Ok(number)
    }

    fn text(&mut self) -> std::result::Result<String, Flaw> {
        let len = self.number()?;
        let bytes = usize::try_from(len).ok().and_then(|len| self.input.take(len)).ok_or_else(|| self.short())?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| self.flaw("a text is not UTF-8"))
    }

    fn owners(&mut self) -> std::result::Result<Vec<OwnerImage>, Flaw> {
        let mut owners: Vec<OwnerImage> = Vec::new();
        for _ in 0..self.number()? {
            let name = self.text()?;
            if owners.last().is_some_and(|last| last.name >= name) {
                return Err(self.flaw("the owners are not in order"));
            }
            let number = OwnerId(self.input.u32().ok_or_else(|| self.short())?);
            let epoch = Epoch(self.input.u64().ok_or_else(|| self.short())?);
            let opening = self.input.u64().ok_or_else(|| self.short())?;
            let rows_lsn = self.input.u64().ok_or_else(|| self.short())?.checked_sub(1).map(Lsn);
            let lsn = Lsn(self.input.u64().ok_or_else(|| self.short())?);
            let link = Link(self.input.u64().ok_or_else(|| self.short())?);
            if let Some(complaint) = owner_name_complaint(&name) {
                return Err(self.flaw(format!("{name:?} cannot name an owner: {complaint}")));
            }
            if owners.iter().any(|other: &OwnerImage| other.number == number) {
                return Err(self.flaw(format!("owner {name:?} has the number of another one")));
            }
            if number > OwnerId::MAX || lsn < rows_lsn.unwrap_or_default() || lsn.0 == u64::MAX {
                return Err(self.flaw(format!("owner {name:?} cannot be as it says")));
            }
            owners.push(OwnerImage { name, number, epoch, opening, rows_lsn, lsn, link });
        }
        if owners.is_empty() {
            return Err(self.flaw("no owner is in it"));
        }
        Ok(owners)
    }

    fn files(&mut self) -> std::result::Result<BTreeMap<String, FileImage>, Flaw> {
        let mut files: BTreeMap<String, FileImage> = BTreeMap::new();
        for _ in 0..self.number()? {
            let path = self.text()?;
            if FilePlace::of(&path).is_none() {
                return Err(self.flaw(format!("no store has a file {path:?}")));
            }
            if files.last_key_value().is_some_and(|(last, _)| *last >= path) {
                return Err(self.flaw("the files are not in order"));
            }
            let salt = self.input.u64().ok_or_else(|| self.short())?;
            let mut chunks = Vec::new();
            for _ in 0..self.number()? {
                let id = ChunkId(self.input.array().ok_or_else(|| self.short())?);
                let bytes = self.input.u32().ok_or_else(|| self.short())?;
                if bytes == 0 || bytes as usize > CHUNK_BYTES {
                    return Err(self.flaw(format!("a chunk of {bytes} bytes")));
                }
                chunks.push(Chunk { id, bytes });
            }
            files.insert(path, FileImage { salt, chunks });
        }
        Ok(files)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::backup) fn example() -> BackupManifest {
        let file = |salt, bytes: &[u8]| FileImage {
            salt,
            chunks: vec![Chunk { id: ChunkId::of(bytes), bytes: u32::try_from(bytes.len()).unwrap() }],
        };
        let owner = |name: &str, number, rows_lsn, lsn| OwnerImage {
            name: name.to_owned(),
            number: OwnerId(number),
            epoch: Epoch(3),
            opening: 4,
            rows_lsn,
            lsn: Lsn(lsn),
            link: Link(lsn + 1),
        };
        BackupManifest {
            store: StoreId([1; 16]),
            identity: StoreId([2; 16]),
            taken_ms: 1_795_840_860_250,
            owners: vec![owner("billing", 1, Some(Lsn(40)), 42), owner("main", 0, None, 0)],
            files: BTreeMap::from([
                ("owners/billing/frames".to_owned(), file(0, b"frames")),
                ("owners/billing/rows".to_owned(), file(0, b"rows")),
                ("topics/orders/000000/00000000000000000000-0000000001.segment".to_owned(), file(7, b"records")),
            ]),
        }
    }

    #[test]
    fn comes_back_and_every_flipped_bit_is_seen() {
        let bytes = encode(&example()).unwrap();
        assert_eq!(decode(&bytes).unwrap(), example());
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "{len} bytes");
        }
        assert!(decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn no_path_leads_out_of_a_store() {
        for good in [
            "owners/main/rows",
            "owners/a%2Fb/frames",
            "topics/%2E./000001/00000000000000000017-0000000003.segment",
            "topics/t/000001/00000000000000000017-0000000003.segment",
        ] {
            assert!(FilePlace::of(good).is_some(), "{good}");
        }
        for bad in [
            "",
            "/",
            "STORE",
            "owners/main/MANIFEST",
            "owners/main/rows/",
            "owners/../rows",
            "owners/./rows",
            "owners//rows",
            "owners/MAIN/rows",
            "../topics/t/000001/00000000000000000017-0000000003.segment",
            "/topics/t/000001/00000000000000000017-0000000003.segment",
            "topics/../000001/00000000000000000017-0000000003.segment",
            "topics/t/x/00000000000000000017-0000000003.segment",
            "topics/t/000001/../CLAIM",
            "topics/t/CLAIM",
            "topics/t/000001/17-3.segment",
            "topics/a\0/000001/00000000000000000017-0000000003.segment",
        ] {
            assert_eq!(FilePlace::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_newer_version_is_told_from_damage() {
        let mut bytes = encode(&example()).unwrap();
        bytes[8] = 2;
        let sum = crc32c(&bytes[..HEAD_BYTES - SUM_BYTES]);
        bytes[HEAD_BYTES - SUM_BYTES..HEAD_BYTES].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(decode(&bytes).unwrap_err().kind, ErrorKind::UnsupportedVersion);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut made = encode(&example()).unwrap();
            made.truncate(HEAD_BYTES);
            made.extend_from_slice(&bytes);
            let _ = (decode(&bytes), decode(&made));
        }
    }
}
