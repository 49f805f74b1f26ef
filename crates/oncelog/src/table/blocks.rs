//! Where the blocks of a table file are, and how each is checked. Pure: numbers and bytes only.
//!
//! ```text
//! head | checks of group 0 | 512 blocks | checks of group 1 | 512 blocks | ...      each of 4096 bytes
//! ```
//!
//! The library under the tables sees one space of blocks from 0 on. Block 0 is its own header and is not in this file:
//! the manifest holds it, so that what the file means changes in one step with the trim point. Its place stays empty.
//!
//! Each other block has a check of eight bytes: the generation that wrote it, and CRC-32C over the file's salt, the
//! block's number, the generation and the block. So a block that rots, is swapped with another, or comes from another
//! file does not verify. Checks are written over in place; those of blocks that the state in force uses do not change
//! while it is in force, so any mixture of old and new sectors says the same of them.

use std::path::{Path, PathBuf};

use crate::codec::{CheckSite, Input, crc32c, crc32c_of, same};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, StoreId};

/// Bytes of a block, which is a page of the library.
pub(super) const BLOCK_BYTES: usize = 4096;
const BLOCK_BYTES_U32: u32 = 4096;
/// Blocks of one group: as many as one block has checks.
pub(super) const GROUP_BLOCKS: u64 = (BLOCK_BYTES / CHECK_BYTES) as u64;
const CHECK_BYTES: usize = 8;
/// Bytes of the library's header that mean something.
pub(crate) const ROOT_HEAD_BYTES: usize = 320;

const MAGIC: [u8; 8] = *b"OLTABLES";
const VERSION: u32 = 1;
const SUMMED_BYTES: usize = 48;
/// Bytes of a file's head: one sector.
pub(super) const HEAD_BYTES: usize = 512;

const BLOCK: u64 = BLOCK_BYTES as u64;

const _: () = assert!(BLOCK_BYTES_U32 as usize == BLOCK_BYTES);
const _: () = assert!(SUMMED_BYTES + 4 <= HEAD_BYTES && HEAD_BYTES <= BLOCK_BYTES && ROOT_HEAD_BYTES <= BLOCK_BYTES);

/// Which table file: the opening that made it, and its salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableFileName {
    pub(crate) epoch: Epoch,
    pub(crate) salt: u64,
}

impl TableFileName {
    pub(crate) fn path(&self, dir: &Path) -> PathBuf {
        dir.join(format!("{:010}-{:016x}.table", self.epoch.0, self.salt))
    }

    pub(crate) fn of_path(path: &Path) -> Option<TableFileName> {
        let (epoch, salt) = path.file_name()?.to_str()?.strip_suffix(".table")?.split_once('-')?;
        Some(TableFileName { epoch: Epoch(epoch.parse().ok()?), salt: u64::from_str_radix(salt, 16).ok()? })
    }
}

/// What makes a table file mean a state. The manifest holds it, and only what it says counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableRoot {
    pub(crate) file: TableFileName,
    /// Raised by one with each state; blocks carry it.
    pub(crate) generation: u64,
    /// Bytes of the space that the library sees.
    pub(crate) len: u64,
    /// The library's header, which lies at the beginning of that space.
    pub(crate) head: Box<[u8; ROOT_HEAD_BYTES]>,
}

/// Where the checks of a group are in the file.
pub(super) fn checks_at(group: u64) -> u64 {
    BLOCK + group * (GROUP_BLOCKS + 1) * BLOCK
}

/// Where a block is in the file.
pub(super) fn block_at(block: u64) -> u64 {
    checks_at(block / GROUP_BLOCKS) + BLOCK + block % GROUP_BLOCKS * BLOCK
}

/// Where a file ends at most whose space has `len` bytes.
pub(super) fn end_of(len: u64) -> u64 {
    match len.div_ceil(BLOCK) {
        0 => HEAD_BYTES as u64,
        blocks => block_at(blocks - 1) + BLOCK,
    }
}

/// What is known of a block besides its bytes, as one number: 0 for one that was never written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Check(pub(super) u64);

impl Check {
    /// The check of `bytes` as block number `block`, written by `generation`, which is not 0.
    pub(super) fn of(salt: u64, block: u64, generation: u32, bytes: &[u8]) -> Check {
        Check(u64::from(generation) << 32 | u64::from(sum(salt, block, generation, bytes)))
    }

    pub(super) fn generation(self) -> u32 {
        lower(self.0 >> 32)
    }

    /// Whether `bytes` are what was written as that block.
    pub(super) fn admits(self, salt: u64, block: u64, bytes: &[u8]) -> bool {
        self.generation() != 0 && same(CheckSite::TableBlock, lower(self.0), sum(salt, block, self.generation(), bytes))
    }
}

fn sum(salt: u64, block: u64, generation: u32, bytes: &[u8]) -> u32 {
    crc32c_of(&[&salt.to_le_bytes(), &block.to_le_bytes(), &generation.to_le_bytes(), bytes])
}

/// A generation as blocks carry it: its lower half, and never 0.
pub(super) fn short(generation: u64) -> u32 {
    lower(generation).max(1)
}

/// Whether a block of generation `found` was written after the state of generation `newest`. Both as blocks carry them,
/// so less than 2^31 apart.
pub(super) fn is_later(found: u32, newest: u32) -> bool {
    found != newest && found.wrapping_sub(newest) < 1 << 31
}

fn lower(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

pub(super) fn encode_head(store: StoreId, name: TableFileName) -> [u8; HEAD_BYTES] {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&BLOCK_BYTES_U32.to_le_bytes());
    head.extend_from_slice(&store.0);
    head.extend_from_slice(&name.epoch.0.to_le_bytes());
    head.extend_from_slice(&name.salt.to_le_bytes());
    let sum = crc32c(&head);
    head.extend_from_slice(&sum.to_le_bytes());
    let mut sector = [0; HEAD_BYTES];
    sector[..head.len()].copy_from_slice(&head);
    sector
}

/// Whether `head` is that of the file `name` of `store`.
///
/// # Errors
/// `Corrupt`: it is not; `UnsupportedVersion`.
pub(super) fn check_head(head: &[u8], store: StoreId, name: TableFileName, path: &Path) -> Result<()> {
    let damaged = || Error::corrupt(path, 0, "the head of the table file is damaged");
    let mut input = Input::new(head);
    let parsed = (|| {
        let (magic, version, block): ([u8; 8], u32, u32) = (input.array()?, input.u32()?, input.u32()?);
        let (found, epoch, salt) = (StoreId(input.array()?), Epoch(input.u64()?), input.u64()?);
        Some((magic, version, block, found, TableFileName { epoch, salt }, input.u32()?))
    })();
    let (magic, version, block, found, found_name, sum) = parsed.ok_or_else(damaged)?;
    if magic != MAGIC || !same(CheckSite::TableHead, sum, crc32c(&head[..SUMMED_BYTES])) {
        return Err(damaged());
    }
    if version != VERSION {
        let what = format!("table format {version}, this program knows {VERSION}");
        return Err(Error::new(ErrorKind::UnsupportedVersion, what).in_file(path));
    }
    if found != store || found_name != name || block != BLOCK_BYTES_U32 {
        return Err(Error::corrupt(path, 0, "this is the table file of another store or opening"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_checks_follow_each_other_without_overlap() {
        assert_eq!(checks_at(0), BLOCK);
        assert_eq!(block_at(0), 2 * BLOCK);
        assert_eq!(block_at(GROUP_BLOCKS - 1) + BLOCK, checks_at(1));
        assert_eq!(block_at(GROUP_BLOCKS), checks_at(1) + BLOCK);
        assert_eq!(end_of((GROUP_BLOCKS + 1) * BLOCK), block_at(GROUP_BLOCKS) + BLOCK);
    }

    #[test]
    fn a_check_admits_its_block_only() {
        let (block, other) = ([7; BLOCK_BYTES], [8; BLOCK_BYTES]);
        let check = Check::of(1, 2, 3, &block);
        assert!(check.admits(1, 2, &block));
        assert!(!check.admits(1, 2, &other) && !check.admits(1, 3, &block) && !check.admits(2, 2, &block));
        for bit in 0..64 {
            assert!(!Check(check.0 ^ (1 << bit)).admits(1, 2, &block), "bit {bit}");
        }
        assert!(!Check(0).admits(1, 2, &[0; BLOCK_BYTES]));
    }

    #[test]
    fn a_short_generation_is_never_nothing() {
        assert_eq!([short(1), short(1 << 32), short((1 << 32) + 5), short(u64::MAX)], [1, 1, 5, u32::MAX]);
    }

    #[test]
    fn later_generations_are_told_across_the_end_of_their_numbers() {
        let generations = [u64::from(u32::MAX) - 1, u64::from(u32::MAX), (1 << 32) + 2, (1 << 32) + 3].map(short);
        for (at, one) in generations.iter().enumerate() {
            for (other_at, other) in generations.iter().enumerate() {
                assert_eq!(is_later(*one, *other), at > other_at, "{one} {other}");
            }
        }
    }

    #[test]
    fn names_come_back() {
        let name = TableFileName { epoch: Epoch(12), salt: 0xAB };
        assert_eq!(TableFileName::of_path(&name.path(Path::new("/x"))), Some(name));
        assert_eq!(TableFileName::of_path(Path::new("/x/12.table")), None);
    }
}
