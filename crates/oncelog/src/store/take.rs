//! Taking the lock of an owner that another process may have: at once, as a standby, or by ending the other.
//!
//! A standby is woken by the end of the other process. That one may also let go and live on, so it looks again a few
//! times a second. A stopped process keeps its lock: only [`StoreOptions::takeover`] gets past it, also where it was
//! stopped before it had named itself in the manifest.

use std::time::Duration;

use super::layout::Layout;
use super::manifest::ManifestFile;
use super::options::StoreOptions;
use crate::disk::OpenMode;
use crate::error::{Error, ErrorKind, Result};
use crate::process::{Life, Process};

/// The longest that a lock which was let go of is not noticed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A killed process may have to finish a call to the disk first.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// The kernel frees a lock a moment after the process is seen to have ended, if another thread of it held the file.
const FREED_LIMIT: Duration = Duration::from_secs(5);
const FREED_INTERVAL: Duration = Duration::from_millis(2);

/// Locks the manifest as `options` say.
///
/// # Errors
/// `Locked`: another process has it, still or again; with `takeover` also when it is this very process. `Unavailable`:
/// the other cannot be killed from here.
pub(super) fn take(options: &StoreOptions, layout: &Layout) -> Result<ManifestFile> {
    let (disk, clock) = (&*options.disk, &*options.clock);
    let lock = || ManifestFile::lock(disk, &layout.manifest, OpenMode::Write);
    let until = clock.monotonic().saturating_add(options.standby);
    loop {
        match lock() {
            Err(error) if error.kind() == ErrorKind::Locked => {}
            taken => return taken,
        }
        let holder = holder(options, layout)?;
        let left = until.saturating_sub(clock.monotonic());
        if !left.is_zero() {
            wait(options, holder, left.min(LOOK_INTERVAL));
        } else if options.takeover {
            let holder = holder.filter(|holder| !holder.is_own()).ok_or_else(|| locked(layout, holder))?;
            tracing::warn!(pid = holder.pid, owner = layout.name, "taking the owner over: its process is killed");
            holder.kill(KILL_LIMIT).map_err(|error| error.in_file(&layout.manifest))?;
            return freed(options, layout, &holder);
        } else {
            return Err(locked(layout, holder));
        }
    }
}

/// Who has the lock: whom the manifest names, unless that process has ended. One that was stopped before it could say
/// so is asked of the kernel.
fn holder(options: &StoreOptions, layout: &Layout) -> Result<Option<Process>> {
    let named = ManifestFile::holder(&*options.disk, &layout.manifest)?;
    if named.is_some_and(|named| named.life() != Life::Ended) || !options.disk.is_of_machine() {
        return Ok(named);
    }
    Ok(Process::that_locks(&layout.manifest).or(named))
}

fn locked(layout: &Layout, holder: Option<Process>) -> Error {
    let holder = holder.filter(|holder| holder.life() != Life::Ended);
    let what = match holder {
        Some(_) => "another process has this store open",
        None => "another process has this store open, and which one cannot be seen from here: end it by hand, or wait",
    };
    Error::locked(&layout.manifest, what, holder.map(|holder| holder.pid))
}

fn wait(options: &StoreOptions, holder: Option<Process>, limit: Duration) {
    match holder.filter(|holder| !holder.is_own()).map(|holder| holder.wait_end(limit)) {
        Some(Ok(false)) => {}
        // The next look finds the lock free, or one who has it and has not said so yet.
        Some(Ok(true)) => options.clock.sleep(FREED_INTERVAL),
        Some(Err(_)) | None => options.clock.sleep(limit),
    }
}

/// The lock after its holder was killed. One who was faster is not killed too.
fn freed(options: &StoreOptions, layout: &Layout, killed: &Process) -> Result<ManifestFile> {
    let until = options.clock.monotonic().saturating_add(FREED_LIMIT);
    loop {
        match ManifestFile::lock(&*options.disk, &layout.manifest, OpenMode::Write) {
            Err(error) if error.kind() == ErrorKind::Locked => {
                let holder = ManifestFile::holder(&*options.disk, &layout.manifest)?;
                let is_other = holder.is_some_and(|holder| holder != *killed);
                if is_other || options.clock.monotonic() >= until {
                    return Err(error);
                }
                options.clock.sleep(FREED_INTERVAL);
            }
            taken => return taken,
        }
    }
}
