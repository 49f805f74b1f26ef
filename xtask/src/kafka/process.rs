//! What one asks the system about a process: whether it runs, and is the one that we mean.
//!
//! By `/proc`, as elsewhere on Linux; on a system without it nothing is found, and so nothing is killed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// So long a killed process may take until it is gone.
const GONE_MAX: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whether the process of that number runs and its command line names `path`.
pub(super) fn runs(pid: u32, path: &Path) -> bool {
    let proc = Path::new("/proc").join(pid.to_string());
    let Ok(line) = std::fs::read(proc.join("cmdline")) else { return false };
    // What has ended and was not waited for has an empty command line.
    String::from_utf8_lossy(&line).split('\0').any(|word| Path::new(word) == path)
}

/// Kills it without warning, as a power cut would, and waits until it is gone. Only what [`runs`].
pub(super) fn kill(pid: u32, path: &Path) -> Result<(), String> {
    if !runs(pid, path) {
        return Ok(());
    }
    let killed = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).stdin(Stdio::null()).status();
    let killed = killed.map_err(|error| format!("cannot kill process {pid}: {error}"))?;
    let deadline = Instant::now() + GONE_MAX;
    while runs(pid, path) {
        if !killed.success() || Instant::now() > deadline {
            return Err(format!("process {pid} cannot be killed"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_meant_is_killed() {
        let mut child = Command::new("sh").args(["-c", "sleep 1000", "marked"]).spawn().unwrap();
        let (pid, marked, other) = (child.id(), Path::new("marked"), Path::new("other"));
        // The shell may not have begun.
        let deadline = Instant::now() + GONE_MAX;
        while !runs(pid, marked) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
        assert!(runs(pid, marked));
        kill(pid, other).unwrap();
        assert!(runs(pid, marked));
        kill(pid, marked).unwrap();
        assert!(!runs(pid, marked));
        child.wait().unwrap();
    }
}
