//! The file system: what kind, how it is mounted, how much room it has.

use std::path::Path;

use oncelog::disk::RealDisk;

use super::Check;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// How `place` is mounted.
struct Mount {
    kind: String,
    source: String,
    at: String,
    options: String,
}

pub(super) fn checks(place: &Path) -> Vec<Check> {
    let mut checks = vec![file_system(place)];
    checks.extend(space(place));
    checks
}

fn file_system(place: &Path) -> Check {
    const NAME: &str = "file system";
    if let Ok(Some(kind)) = RealDisk::network_file_system(place) {
        let found =
            format!("{} is on {kind}, a network file system, whose locks are not to be relied on", place.display());
        return Check::fail(NAME, found, "put the store on a disk of this machine; it is refused there");
    }
    let Some(mount) = mount_of(place) else {
        return Check::warn(
            NAME,
            "this system does not tell what kind it is",
            "make sure that it is no network file system and not in memory",
        );
    };
    let Mount { kind, source, at, options } = &mount;
    let found = format!("{kind} on {source}, mounted at {at}");
    let has = |option: &str| options.split(',').any(|one| one == option);
    if has("ro") {
        return Check::fail(NAME, format!("{found}, for reading only"), "mount it for writing, or only read there");
    }
    if has("nobarrier") || has("barrier=0") {
        let advice = "mount it without that option, unless the device keeps its cache through a power cut";
        return Check::warn(NAME, format!("{found}, with write barriers off: a sync may not reach the device"), advice);
    }
    match kind.as_str() {
        "tmpfs" | "ramfs" => {
            let found = format!("{found}: in memory, gone with the next restart");
            Check::warn(NAME, found, "put a store that must outlive the machine's restart on a disk")
        }
        "overlay" | "aufs" => {
            let found = format!("{found}: a layer of a container, gone with it");
            Check::warn(NAME, found, "mount a volume for the store")
        }
        kind if kind.starts_with("fuse") => {
            let advice = "make sure that it passes syncs and locks on; a disk's own file system is known to";
            Check::warn(NAME, format!("{found}: a program between the store and the disk"), advice)
        }
        _ => Check::ok(NAME, found),
    }
}

/// The mount that `place` is in: of those whose directory is above it the longest, and of these the last.
fn mount_of(place: &Path) -> Option<Mount> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = table.lines().filter_map(parse);
    mounts.filter(|mount| place.starts_with(&mount.at)).max_by_key(|mount| mount.at.len())
}

/// A line of the table: numbers, root, mount point, options, optional fields, `-`, kind, source, options of the file
/// system (proc(5)).
fn parse(line: &str) -> Option<Mount> {
    let (first, second) = line.split_once(" - ")?;
    let mut first = first.split(' ').skip(4);
    let (at, options) = (first.next()?, first.next()?);
    let mut second = second.split(' ');
    let (kind, source, more) = (second.next()?, second.next()?, second.next().unwrap_or_default());
    let plain = |text: &str| text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    Some(Mount { kind: kind.to_owned(), source: plain(source), at: plain(at), options: format!("{options},{more}") })
}

#[cfg(unix)]
fn space(place: &Path) -> Vec<Check> {
    const NAME: &str = "room";
    let Ok(found) = rustix::fs::statvfs(place) else { return Vec::new() };
    let bytes = found.f_bavail.saturating_mul(found.f_frsize);
    let free = if bytes >= GIB { format!("{} GiB free", bytes / GIB) } else { format!("{} MiB free", bytes / MIB) };
    let advice = "free some: a store that finds the disk full refuses to append until there is room";
    let check = match bytes {
        // A journal alone takes some files of 16 MiB.
        bytes if bytes < 128 * MIB => Check::fail(NAME, free, advice),
        bytes if bytes < GIB => Check::warn(NAME, free, advice),
        _ => Check::ok(NAME, free),
    };
    let mut checks = vec![check];
    // Some file systems make them as they need them, and say 0 of 0.
    if found.f_files > 0 && found.f_favail < 1000 {
        let few = format!("room for {} more files", found.f_favail);
        checks.push(Check::warn("files", few, "remove files there: each topic takes some"));
    }
    checks
}

#[cfg(not(unix))]
fn space(_place: &Path) -> Vec<Check> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read() {
        let line = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue";
        let mount = parse(line).unwrap();
        assert_eq!((mount.kind.as_str(), mount.source.as_str(), mount.at.as_str()), ("ext3", "/dev/root", "/mnt 2"));
        assert_eq!(mount.options, "rw,noatime,rw,errors=continue");
        assert!(parse("nonsense").is_none());
    }
}
