//! What a store asks of the machine: locks, shared memory, room taken ahead, open files, a clock.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use oncelog::disk::{Disk, MapAccess, OpenMode, RealDisk};

use super::Check;

/// What a store keeps open unless told otherwise, and some more for journal, tables and the program.
const FILES_WANTED: u64 = 640;
const FILES_NEEDED: u64 = 64;
/// 2024-01-01: before this was written.
const PAST: Duration = Duration::from_secs(1_704_067_200);
const SKEW_MAX: Duration = Duration::from_secs(5);

/// Those that need files.
pub(super) fn checks_in(scratch: &Path) -> Vec<Check> {
    vec![locks(scratch), memory(scratch), ahead(scratch), clock(scratch)]
}

/// The others.
pub(super) fn checks() -> Vec<Check> {
    open_files().into_iter().collect()
}

fn locks(scratch: &Path) -> Check {
    const NAME: &str = "locks";
    let path = scratch.join("lock");
    let tried = || -> io::Result<(bool, bool, bool)> {
        let (one, other) = (RealDisk.open(&path, OpenMode::Create)?, RealDisk.open(&path, OpenMode::Write)?);
        let (first, second) = (one.try_lock()?, other.try_lock()?);
        drop(one);
        Ok((first, second, other.try_lock()?))
    };
    let advice = "take another file system: without locks two processes could write one store";
    match tried() {
        Ok((true, false, true)) => Check::ok(NAME, "a lock keeps others out and ends with its holder"),
        Ok(_) => Check::fail(NAME, "a lock was given twice, or stayed when its holder had let go", advice),
        Err(error) => Check::fail(NAME, format!("a file cannot be locked: {error}"), advice),
    }
}

fn memory(scratch: &Path) -> Check {
    const NAME: &str = "shared memory";
    const WORDS: usize = 1024;
    let path = scratch.join("memory");
    let tried = || -> io::Result<bool> {
        RealDisk.open(&path, OpenMode::Create)?.set_len(8 * WORDS as u64)?;
        let written = RealDisk.map_shared(&path, WORDS, MapAccess::Write)?;
        let read = RealDisk.map_shared(&path, WORDS, MapAccess::Read)?;
        written.words()[7].store(1, Ordering::Relaxed);
        let seen = read.words()[7].load(Ordering::Relaxed) == 1;
        // Returns at once: the word is another than the one to wait for.
        written.wait(7, 0, Duration::from_secs(1));
        written.wake(7);
        Ok(seen)
    };
    let advice = "readers in other processes see a store only while nobody has it open; in one process nothing changes";
    match tried() {
        Ok(true) => Check::ok(NAME, "what one maps and writes the other sees; readers can be woken"),
        Ok(false) => Check::warn(NAME, "what one map writes another does not see", advice),
        Err(error) => Check::warn(NAME, format!("a file cannot be mapped: {error}"), advice),
    }
}

fn ahead(scratch: &Path) -> Check {
    const NAME: &str = "room ahead";
    let taken = RealDisk.open(&scratch.join("ahead"), OpenMode::Create).and_then(|file| file.preallocate(1 << 20));
    match taken {
        Ok(()) => Check::ok(NAME, "room can be taken before it is written"),
        Err(error) => {
            let advice = "keep some room free: a disk that fills up may be found full only at the sync";
            Check::warn(NAME, format!("room cannot be taken ahead: {error}"), advice)
        }
    }
}

/// Against the years, and against the clock of the file system.
fn clock(scratch: &Path) -> Check {
    const NAME: &str = "clock";
    let now = SystemTime::now();
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since < PAST {
        let advice = "set it: timestamps of records, retention by age and `--from TIME` go by it";
        return Check::fail(NAME, "the clock is years behind", advice);
    }
    let path = scratch.join("clock");
    let touched = std::fs::write(&path, b"now").and_then(|()| std::fs::metadata(&path)?.modified());
    let Ok(touched) = touched else { return Check::ok(NAME, "plausible") };
    let skew = touched.duration_since(now).unwrap_or_else(|behind| behind.duration());
    if skew > SKEW_MAX {
        let found = format!("the file system's clock differs by {} s", skew.as_secs());
        return Check::warn(NAME, found, "set both by one source; order and locks do not depend on it");
    }
    Check::ok(NAME, "plausible, and that of the file system; what must be right does not depend on it")
}

#[cfg(unix)]
fn open_files() -> Option<Check> {
    const NAME: &str = "open files";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let advice = "raise it (`ulimit -n 4096`), or set StoreOptions::max_open_files lower";
    Some(match limit.current {
        None => Check::ok(NAME, "no limit"),
        Some(most) if most < FILES_NEEDED => Check::fail(NAME, format!("{most} at most"), advice),
        Some(most) if most < FILES_WANTED => Check::warn(
            NAME,
            format!("{most} at most; a store keeps up to 512 segments open unless told otherwise"),
            advice,
        ),
        Some(most) => Check::ok(NAME, format!("{most} at most")),
    })
}

#[cfg(not(unix))]
fn open_files() -> Option<Check> {
    None
}
