//! How long a sync takes. One that reaches a device takes that device's time; one that answers at once has reached
//! nothing but memory, or a cache that somebody promises to keep.

use std::fs::OpenOptions;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Check;

/// At most so many, and for so long.
const SYNCS: u64 = 200;
const LIMIT: Duration = Duration::from_secs(2);
const BLOCK: usize = 4096;

/// Below it not even flash with a cache that survives a power cut has been seen to answer.
const IMPLAUSIBLE: Duration = Duration::from_micros(15);
/// Below it a disk that turns has not turned.
const IMPLAUSIBLE_TURNING: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(20);

pub(super) fn check(scratch: &Path) -> Check {
    const NAME: &str = "sync";
    let times = match measure(&scratch.join("sync")) {
        Ok(times) => times,
        Err(error) => {
            let advice = "look at the system's log: a store ends at the first sync that fails";
            return Check::fail(NAME, format!("a write and its sync failed: {error}"), advice);
        }
    };
    let (count, median, worst) = (times.len(), times[times.len() / 2], times[times.len() - 1]);
    let device = Device::of(scratch);
    let found = format!(
        "{count} times 4 KiB written and synced: {} in the median, {} at worst{}",
        text(median),
        text(worst),
        device.as_ref().map_or_else(String::new, Device::text)
    );
    let turns = device.is_some_and(|device| device.turns);
    if median < IMPLAUSIBLE || turns && median < IMPLAUSIBLE_TURNING {
        let found = format!("{found}; too fast for a device: it is answered from memory or from a cache");
        let advice =
            "find out whether that cache survives a power cut; if not, nothing here does, whatever is answered";
        return Check::warn(NAME, found, advice);
    }
    if median > SLOW {
        let advice = "each durable commit waits so long: commit in batches, or take a faster disk";
        return Check::warn(NAME, format!("{found}; plausible, and slow"), advice);
    }
    Check::ok(NAME, format!("{found}; plausible for a device, which a measurement cannot prove"))
}

/// Sorted. Onto blocks that were written before, as a journal does, with other content each time.
fn measure(path: &Path) -> io::Result<Vec<Duration>> {
    const BLOCKS: u64 = 64;
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
    for _ in 0..BLOCKS {
        file.write_all(&[0; BLOCK])?;
    }
    file.sync_all()?;
    // Nothing is left of it, however this ends.
    std::fs::remove_file(path)?;
    let (begun, mut times) = (Instant::now(), Vec::new());
    for number in 1..=SYNCS {
        let mut fresh = [0; BLOCK];
        fresh[..8].copy_from_slice(&number.to_le_bytes());
        let start = Instant::now();
        file.seek(SeekFrom::Start(number % BLOCKS * BLOCK as u64))?;
        file.write_all(&fresh)?;
        file.sync_data()?;
        times.push(start.elapsed());
        if begun.elapsed() > LIMIT {
            break;
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// What the kernel knows of the device below.
struct Device {
    name: String,
    turns: bool,
    cache: String,
}

impl Device {
    #[cfg(not(target_os = "linux"))]
    fn of(_path: &Path) -> Option<Device> {
        None
    }

    #[cfg(target_os = "linux")]
    fn of(path: &Path) -> Option<Device> {
        use std::os::unix::fs::MetadataExt as _;
        let number = std::fs::metadata(path).ok()?.dev();
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        let dir = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        // A partition has its queue one above.
        let disk = dir.ancestors().find(|dir| dir.join("queue").is_dir())?;
        let read = |name: &str| std::fs::read_to_string(disk.join("queue").join(name)).ok();
        let name = disk.file_name()?.to_string_lossy().into_owned();
        let cache = read("write_cache").unwrap_or_default().trim().to_owned();
        Some(Device { name, turns: read("rotational")?.trim() == "1", cache })
    }

    fn text(&self) -> String {
        let cache = if self.cache.is_empty() { String::new() } else { format!(", cache: {}", self.cache) };
        format!(" (device {}{}{cache})", self.name, if self.turns { ", said to turn" } else { "" })
    }
}

fn text(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        format!("{} us", time.as_micros())
    } else {
        format!("{} ms", time.as_millis())
    }
}
