//! What fuzzers may do to a journal file.

use std::path::Path;

use super::file::{FILE_HEAD_BYTES, JournalPosition, read_head};
use super::replay;
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::ids::{Lsn, StoreId};

/// Replays a file of these bytes from its first frame on, as the store of that identity would.
pub(crate) fn replay_file(store: StoreId, bytes: &[u8]) {
    let (disk, dir) = (MemoryDisk::default(), Path::new("/"));
    let write = |path: &Path| {
        let file = disk.open(path, OpenMode::Create).expect("a disk in memory makes files");
        file.write_all_at(bytes, 0).expect("a disk in memory takes all");
        file
    };
    let scratch = Path::new("/scratch");
    let Ok(head) = read_head(&*write(scratch), scratch, store) else { return };
    drop(write(&head.name.path(dir)));
    let start =
        JournalPosition { file: head.name, salt: head.salt, position: FILE_HEAD_BYTES, next_lsn: Lsn(1), chain: 0 };
    let mut frames = 0;
    let replayed = replay(&disk, dir, store, start, None, |_, _| {
        frames += 1;
        Ok(())
    });
    if let Ok(replayed) = replayed {
        assert_eq!(replayed.frames, frames);
    }
}
