//! What fuzzers may do to the blocks of a table file. What a block holds is the library's affair, which is given none
//! whose check does not admit it.

use std::path::Path;

use super::blocks::{ROOT_HEAD_BYTES, TableFileName, TableRoot};
use super::file::BlockFile;
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::ids::{Epoch, StoreId};
use crate::wake::Arc;

/// A manifest that says more is none.
const LEN_MAX: u64 = 1 << 60;

/// Opens a file of these bytes as what it says it is, and reads all blocks that it can hold and one more.
pub(crate) fn blocks(bytes: &[u8]) {
    let field = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |field| u64::from_le_bytes(*field));
    let store = StoreId(bytes.get(16..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default());
    let name = TableFileName { epoch: Epoch(field(32)), salt: field(40) };
    let (disk, dir): (Arc<dyn Disk>, _) = (Arc::new(MemoryDisk::default()), Path::new("/"));
    let file = disk.open(&name.path(dir), OpenMode::Create).expect("a disk in memory makes files");
    file.write_all_at(bytes, 0).expect("a disk in memory takes all");
    for len in [(bytes.len() as u64).next_multiple_of(4096) + 4096, field(64) & (LEN_MAX - 4096)] {
        let root = TableRoot { file: name, generation: 1, len, head: Box::new([0; ROOT_HEAD_BYTES]) };
        let Ok(blocks) = BlockFile::open(&disk, dir, store, &root, OpenMode::Read, 4) else { return };
        let mut block = [0; 4096];
        for at in (0..len).step_by(block.len()).take(8).chain([len]) {
            let _ = blocks.read(at, &mut block);
        }
    }
}
