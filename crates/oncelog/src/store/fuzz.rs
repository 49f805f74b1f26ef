//! What fuzzers may do to the manifest.

use std::path::Path;

use super::manifest::ManifestFile;
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::ids::StoreId;

/// Copies of a manifest in a file of the right length, at all four places: looked at from outside, and taken by an
/// opening of the store and owner that the newest names.
pub(crate) fn manifest(bytes: &[u8]) {
    let (disk, path) = (MemoryDisk::default(), Path::new("/MANIFEST"));
    let file = disk.open(path, OpenMode::Create).expect("a disk in memory makes files");
    file.set_len(16384 + 64).expect("a disk in memory takes all");
    for (number, copy) in bytes.chunks(1024).take(4).enumerate() {
        file.write_all_at(copy, number as u64 * 4096).expect("a disk in memory takes all");
    }
    if let Some(holder) = bytes.get(4096..) {
        file.write_all_at(&holder[..holder.len().min(64)], 16384).expect("a disk in memory takes all");
    }
    let _ = ManifestFile::holder(&disk, path);
    let seen = ManifestFile::peek(&disk, path).ok().flatten();
    let (store, owner) = seen.map_or((StoreId([0; 16]), String::new()), |seen| (seen.store, seen.owner));
    if let Ok(mut taken) = ManifestFile::lock(&disk, path, OpenMode::Write) {
        let _ = taken.read(store, &owner);
    }
}
