//! What fuzzers may do to the claim on a name.

use std::path::Path;

use super::claim::{Claim, find_claim, write_claims};
use crate::disk::{Disk, MemoryDisk, OpenMode};

/// A claim: what is read, written again, is read as the same.
pub(crate) fn claim(bytes: &[u8]) {
    let (disk, dir) = (MemoryDisk::default(), Path::new("/"));
    let file = disk.open(&Claim::path(dir), OpenMode::Create).expect("a disk in memory makes files");
    file.write_all_at(bytes, 0).expect("a disk in memory takes all");
    let Ok(found) = find_claim(&disk, dir) else { return };
    let claims = [(dir.to_owned(), found.expect("it is there"))];
    write_claims(&disk, &claims).expect("a disk in memory takes all");
    let [(_, claim)] = claims;
    assert_eq!(find_claim(&disk, dir).ok().flatten(), Some(claim), "written again, it is another");
}
