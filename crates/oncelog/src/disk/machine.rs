//! What the machine knows of a directory: whether it is shared over a network, and who on this machine has a store of
//! one identity open, wherever that is.
//!
//! The second is a lock in the runtime directory of the user, one file for each identity, in it where the store is. The
//! file is removed by who holds its lock; so whoever gets a lock looks whether the name still means that file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::FileIdentity;
use super::real::{identity, no_follow};

/// The kind of network file system that `dir` is on, if it is one: locks there may not hold what they promise.
#[cfg(target_os = "linux")]
pub(crate) fn network_file_system(dir: &Path) -> io::Result<Option<&'static str>> {
    // The numbers of `statfs(2)`.
    const KINDS: [(u64, &str); 12] = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFE53_4D42, "SMB"),
        (0xFF53_4D42, "CIFS"),
        (0x0102_1997, "9P"),
        (0x5346_414F, "AFS"),
        (0x6B41_4653, "AFS"),
        (0x7375_7245, "Coda"),
        (0x00C3_6400, "Ceph"),
        (0x0BD0_0BD0, "Lustre"),
        (0x4750_4653, "GPFS"),
        (0x0116_1970, "GFS"),
    ];
    let found = rustix::fs::statfs(dir)?;
    // 32 bits of meaning, in a word of the machine's size and sign.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let kind = u64::from(found.f_type as u32);
    Ok(KINDS.iter().find(|(number, _)| *number == kind).map(|(_, name)| *name))
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub(crate) fn network_file_system(_dir: &Path) -> io::Result<Option<&'static str>> {
    Ok(None)
}

/// That a store of some identity is open at one place of this machine. Given back when dropped.
pub(crate) struct RuntimeLock {
    path: PathBuf,
    _file: File,
}

/// Who has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OpenAt {
    /// Of the manifest there.
    pub(crate) manifest: FileIdentity,
    pub(crate) dir: String,
}

/// What came of asking for a [`RuntimeLock`].
pub(crate) enum Taken {
    Held(RuntimeLock),
    /// Another has it; it may not have said where yet.
    Busy(Option<OpenAt>),
}

/// Takes the lock of the name `key`, leaving word that it is open at `at`. `None`: this user has no directory for such
/// locks.
pub(crate) fn take_runtime_lock(key: &str, at: &OpenAt) -> io::Result<Option<Taken>> {
    let Some(dir) = runtime_dir() else { return Ok(None) };
    let path = dir.join(key);
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = no_follow(&mut options).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.take(64 << 10).read_to_string(&mut text);
                return Ok(Some(Taken::Busy(parse(&text))));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let is_it = fs::symlink_metadata(&path).is_ok_and(|found| {
            identity(&found) == file.metadata().map_or(FileIdentity::default(), |ours| identity(&ours))
        });
        if is_it {
            file.set_len(0)?;
            writeln!(file, "{} {} {}", at.manifest.device, at.manifest.inode, at.dir)?;
            return Ok(Some(Taken::Held(RuntimeLock { path, _file: file })));
        }
    }
}

fn parse(text: &str) -> Option<OpenAt> {
    let mut parts = text.strip_suffix('\n')?.splitn(3, ' ');
    let (device, inode) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(OpenAt { manifest: FileIdentity { device, inode }, dir: parts.next()?.to_owned() })
}

impl Drop for RuntimeLock {
    #[allow(clippy::disallowed_methods, reason = "this is the room that touches the operating system")]
    fn drop(&mut self) {
        // While the lock is held: nobody else can believe that this name is a lock of theirs.
        let _ = fs::remove_file(&self.path);
    }
}

/// A directory that is this user's alone, and gone or useless after a restart of the machine.
#[cfg(unix)]
fn runtime_dir() -> Option<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let user = rustix::process::geteuid().as_raw();
    let is_ours = |dir: &Path| fs::symlink_metadata(dir).is_ok_and(|found| found.is_dir() && found.uid() == user);
    let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let known = of_session.into_iter().chain([PathBuf::from(format!("/run/user/{user}"))]).find(|dir| is_ours(dir));
    let dir = known.map_or_else(|| std::env::temp_dir().join(format!("oncelog-{user}")), |dir| dir.join("oncelog"));
    let _ = fs::DirBuilder::new().mode(0o700).create(&dir);
    is_ours(&dir).then_some(dir)
}

#[cfg(not(unix))]
fn runtime_dir() -> Option<PathBuf> {
    None
}
