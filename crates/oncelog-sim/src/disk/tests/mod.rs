//! Each claim of the model, over many seeds: what must hold holds in all of them, what may happen happens in some.

mod faults;
mod names;
mod power;
mod random;
mod rot;

use std::path::{Path, PathBuf};

use oncelog::disk::{Disk, DiskFile, OpenMode, SyncSite};

use super::SimDisk;

const SITE: SyncSite = SyncSite::Segment;
const DIR: SyncSite = SyncSite::SegmentDir;

fn root() -> &'static Path {
    Path::new("/")
}

fn path(name: &str) -> PathBuf {
    root().join(name)
}

fn open(disk: &SimDisk, name: &str, mode: OpenMode) -> Box<dyn DiskFile> {
    disk.open(&path(name), mode).unwrap()
}

/// A file whose content and name are durable, by the calls that make them so.
fn durable(disk: &SimDisk, name: &str, bytes: &[u8]) -> Box<dyn DiskFile> {
    let file = open(disk, name, OpenMode::CreateNew);
    file.write_all_at(bytes, 0).unwrap();
    file.sync(SITE).unwrap();
    disk.sync_dir(path(name).parent().unwrap(), DIR).unwrap();
    file
}

/// What `outcome` gives over `seeds` seeds: the set of all that can be seen.
fn outcomes<T: Ord>(seeds: u64, outcome: impl Fn(&SimDisk) -> T) -> std::collections::BTreeSet<T> {
    (0..seeds).map(|seed| outcome(&SimDisk::new(seed))).collect()
}

fn kind<T>(result: std::io::Result<T>) -> std::io::ErrorKind {
    result.err().expect("an error").kind()
}
