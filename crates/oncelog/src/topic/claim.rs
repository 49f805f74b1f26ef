//! The claim on the name of a topic, a table or a consumer: a directory made exclusively, and in it a small file that
//! says whose it is and which.

use std::io;
use std::path::{Path, PathBuf};

use crate::codec::{CheckSite, Input, crc32c, put_bytes, same};
use crate::disk::{Disk, DiskFile, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{StoreId, TopicId};

/// The last byte is the version.
const MAGIC: [u8; 8] = *b"OLCLAIM1";

/// What a claim says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) store: StoreId,
    /// The topic's id; a table's id in the same place; 0 for a consumer.
    pub(crate) topic: TopicId,
    /// How many partitions the topic has; 0 for a table or a consumer.
    pub(crate) partitions: u32,
    pub(crate) owner: String,
    pub(crate) name: String,
    /// Of a topic, for other owners, who cannot see its catalogue row; empty for a table or a consumer.
    pub(crate) key_codec: String,
    pub(crate) value_codec: String,
}

impl Claim {
    pub(crate) fn path(topic_dir: &Path) -> PathBuf {
        topic_dir.join("CLAIM")
    }
}

/// Writes claims, each into the directory of its name; durable on return. At no time is there half a claim: one that
/// does not verify has rotted. Each file is synced before any is put in its place, and the places after that: what is
/// done to many at once costs a file system with a journal little more for the second and later ones.
pub(crate) fn write_claims(disk: &dyn Disk, claims: &[(PathBuf, Claim)]) -> Result<()> {
    let claiming = |dir: &Path, error| Error::io(&Claim::path(dir), "claim a name", error);
    let mut files = Vec::with_capacity(claims.len());
    for (dir, claim) in claims {
        files.push(write_new(disk, dir, claim).map_err(|error| claiming(dir, error))?);
    }
    for ((dir, _), file) in claims.iter().zip(files) {
        file.sync(SyncSite::TopicClaim).map_err(|error| claiming(dir, error))?;
    }
    for (dir, _) in claims {
        disk.rename(&new_path(dir), &Claim::path(dir)).map_err(|error| claiming(dir, error))?;
    }
    for (dir, _) in claims {
        disk.sync_dir(dir, SyncSite::TopicDir).map_err(|error| Error::io(dir, "sync a claim", error))?;
    }
    Ok(())
}

fn new_path(dir: &Path) -> PathBuf {
    dir.join("CLAIM.new")
}

fn write_new(disk: &dyn Disk, dir: &Path, claim: &Claim) -> io::Result<Box<dyn DiskFile>> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&claim.store.0);
    bytes.extend_from_slice(&claim.topic.0.to_le_bytes());
    bytes.extend_from_slice(&claim.partitions.to_le_bytes());
    for text in [&claim.owner, &claim.name, &claim.key_codec, &claim.value_codec] {
        put_bytes(&mut bytes, text.as_bytes());
    }
    let sum = crc32c(&bytes);
    bytes.extend_from_slice(&sum.to_le_bytes());
    let file = disk.open(&new_path(dir), OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(&bytes, 0)?;
    Ok(file)
}

/// Reads the claim of a topic that is known to exist.
pub(crate) fn read_claim(disk: &dyn Disk, dir: &Path) -> Result<Claim> {
    let gone = || Error::corrupt(&Claim::path(dir), 0, "the claim of a topic is gone");
    find_claim(disk, dir)?.ok_or_else(gone)
}

/// Reads the claim on a name, if there is one.
pub(crate) fn find_claim(disk: &dyn Disk, dir: &Path) -> Result<Option<Claim>> {
    let path = Claim::path(dir);
    let file = match disk.open(&path, OpenMode::Read) {
        Ok(file) => file,
        // No directory of a name that is too long for one.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io(&path, "open a claim", error)),
    };
    let bytes = file.read_whole(64 << 10).map_err(|error| Error::io(&path, "read a claim", error))?;
    let damaged = || Error::corrupt(&path, 0, "the claim on a name is damaged");
    let (summed, sum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    if !same(CheckSite::TopicClaim, u32::from_le_bytes(*sum), crc32c(summed)) {
        return Err(damaged());
    }
    if summed.starts_with(&MAGIC[..7]) && !summed.starts_with(&MAGIC) {
        let what = "the claim on a name has a newer format than this program knows";
        return Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(&path));
    }
    let mut input = Input::new(summed);
    let parsed = (|| {
        let magic: [u8; 8] = input.array()?;
        let (store, topic, partitions) = (StoreId(input.array()?), TopicId(input.u32()?), input.u32()?);
        let mut text = || std::str::from_utf8(input.bytes()?).ok().map(str::to_owned);
        let (owner, name, key_codec, value_codec) = (text()?, text()?, text()?, text()?);
        let claim = Claim { store, topic, partitions, owner, name, key_codec, value_codec };
        (magic == MAGIC && input.is_empty()).then_some(claim)
    })();
    parsed.map(Some).ok_or_else(damaged)
}
