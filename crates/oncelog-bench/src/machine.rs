//! What figures were measured on. Without it they say nothing.

use std::fs;
use std::path::Path;

/// The machine, as far as it can be asked.
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    /// Load averages before the start: another's work is in our figures.
    pub(crate) load: String,
}

const UNKNOWN: &str = "unknown";

impl Machine {
    /// Looks at the machine and at the file system of `dir`.
    pub(crate) fn look(dir: &Path) -> Machine {
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        Machine {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            file_system: dir.canonicalize().ok().and_then(|dir| file_system(&mounts, &dir)).unwrap_or(UNKNOWN.into()),
            load: first_line("/proc/loadavg"),
        }
    }

    /// For the head of the output.
    pub(crate) fn lines(&self) -> Vec<String> {
        let Machine { cores, kernel, file_system, load } = self;
        let build = if cfg!(debug_assertions) { "debug" } else { "release" };
        vec![
            format!("machine: {cores} cores, {}, kernel {kernel}", std::env::consts::ARCH),
            format!("file system: {file_system}"),
            format!("load before: {load}"),
            format!("build: oncelog {}, {build}", env!("CARGO_PKG_VERSION")),
        ]
    }
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or(UNKNOWN).to_owned()
}

/// Type and options of the file system that is mounted nearest above `dir`.
fn file_system(mounts: &str, dir: &Path) -> Option<String> {
    let mut nearest: Option<(usize, String)> = None;
    for mount in mounts.lines() {
        let mut fields = mount.split_ascii_whitespace().skip(1);
        let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
        // Of two mounts in one place the later hides the earlier.
        if dir.starts_with(at) && nearest.as_ref().is_none_or(|(len, _)| at.len() >= *len) {
            nearest = Some((at.len(), format!("{kind} ({options})")));
        }
    }
    nearest.map(|(_, found)| found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_counts() {
        let mounts = "a / ext4 rw 0 0\nb /data xfs ro 0 0\nc /dat tmpfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/data/x")).as_deref(), Some("xfs (ro)"));
        assert_eq!(file_system(mounts, Path::new("/home")).as_deref(), Some("ext4 (rw)"));
        assert_eq!(file_system("", Path::new("/home")), None);
    }
}
