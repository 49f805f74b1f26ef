//! The processes of the machine: which one this is, whether another one still lives, waiting for its end, ending it.
//!
//! A process id alone names nobody: it is given again. So a process is named by id, start time, boot, and the id
//! namespace in which the id counts; only when all agree is it waited for or killed, through a pidfd, which stays on
//! that one process. Who has locked a file and has not said so is asked of the kernel. Elsewhere than on Linux a
//! process has an id only, and can neither be found, waited for nor killed.

use std::path::Path;
use std::time::Duration;

use crate::error::Result;

/// A process, now or earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Its id.
    pub(crate) pid: u32,
    /// When it started, in clock ticks since boot; 0 where that is not known.
    pub(crate) started: u64,
    /// The boot of the machine; zeros where that is not known.
    pub(crate) boot: [u8; 16],
    /// The namespace of `pid`, a number of the kernel's; 0 where that is not known.
    pub(crate) namespace: u64,
}

/// Whether a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It does, perhaps stopped.
    Lives,
    /// It has ended.
    Ended,
    /// It is of another machine, boot or namespace, or this system cannot tell.
    Unknown,
}

/// The namespace of processes that only a simulation knows.
const SIMULATED: u64 = u64::MAX;

impl Process {
    /// A process of a simulation.
    pub(crate) fn simulated(number: u64) -> Process {
        Process { pid: 1, started: number, boot: [0xFF; 16], namespace: SIMULATED }
    }

    /// Whether it may still do something, as seen by `own`, which has found its lock free. Where that cannot be known
    /// on the running machine it may; where nothing can be known of processes, the lock is believed.
    pub(crate) fn may_act(&self, own: &Process) -> bool {
        if own.namespace == SIMULATED || own.started == 0 {
            return self == own && own.started != 0;
        }
        match self.life() {
            Life::Lives => true,
            Life::Ended => false,
            Life::Unknown => self.boot == own.boot,
        }
    }

    /// Whether this is the process that asks.
    pub(crate) fn is_own(&self) -> bool {
        *self == Process::own()
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

    use super::*;
    use crate::error::{Error, ErrorKind};

    impl Process {
        /// The process that asks.
        pub(crate) fn own() -> Process {
            let pid = std::process::id();
            Process { pid, started: stat(pid).map_or(0, |(_, started)| started), boot: boot(), namespace: namespace() }
        }

        /// The process that has the file at `path` locked for itself alone, as far as the kernel tells: it says nothing
        /// of other containers, and without privilege nothing of other users.
        pub(crate) fn that_locks(path: &Path) -> Option<Process> {
            let file = identity(path)?;
            let mut pids = read("/proc/locks")?.lines().filter_map(locker).collect::<Vec<u32>>();
            pids.sort_unstable();
            pids.dedup();
            // A process may have this file open and another one locked: the descriptor that has the lock is looked for.
            let pid = pids.into_iter().find(|pid| has_locked(*pid, file))?;
            Some(Process { pid, started: stat(pid)?.1, ..Process::own() })
        }

        /// Whether it still lives.
        pub(crate) fn life(&self) -> Life {
            if self.started == 0 || self.boot != boot() || self.namespace != namespace() {
                return Life::Unknown;
            }
            match stat(self.pid) {
                Some((state, found)) if found == self.started && !state.starts_with(['Z', 'X']) => Life::Lives,
                _ => Life::Ended,
            }
        }

        /// Waits for its end, at most so long. `true`: it has ended.
        ///
        /// # Errors
        /// `Unavailable`: it cannot be waited for; no time has passed.
        pub(crate) fn wait_end(&self, limit: Duration) -> Result<bool> {
            Ok(self.handle()?.is_none_or(|handle| has_ended(&handle, limit)))
        }

        /// Ends it at once, also when it is stopped, and waits until it is gone. Nothing to do if it has ended.
        ///
        /// # Errors
        /// `Unavailable`: it is of another machine, boot or container, it may not be killed, or does not end in time.
        pub(crate) fn kill(&self, limit: Duration) -> Result<()> {
            let Some(handle) = self.handle()? else { return Ok(()) };
            match pidfd_send_signal(&handle, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(self.cannot("be killed", std::io::Error::from(error))),
            }
            if has_ended(&handle, limit) { Ok(()) } else { Err(self.cannot("be killed", "it does not end")) }
        }

        /// A handle on this very process; `None`: it has ended.
        fn handle(&self) -> Result<Option<OwnedFd>> {
            if self.life() == Life::Unknown {
                return Err(self.cannot("be reached", "it belongs to another machine, boot or container"));
            }
            let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
            let handle = match pidfd_open(pid, PidfdFlags::empty()) {
                Ok(handle) => handle,
                Err(Errno::SRCH) => return Ok(None),
                Err(error) => return Err(self.cannot("be reached", std::io::Error::from(error))),
            };
            // The id may have been given again before the handle was made, and not since.
            Ok(stat(self.pid).is_some_and(|(_, started)| started == self.started).then_some(handle))
        }

        fn cannot(&self, what: &str, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
            Error::new(ErrorKind::Unavailable, format!("process {} cannot {what}", self.pid)).because(why)
        }
    }

    fn has_ended(handle: &OwnedFd, limit: Duration) -> bool {
        let limit = Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(handle, PollFlags::IN)];
        poll(&mut fds, Some(&limit)).is_ok_and(|ready| ready > 0)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the room that asks for processes")]
    fn read(path: &str) -> Option<String> {
        std::fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// State and start time, fields 3 and 22; field 2, the command, may hold anything and ends with the last `)`.
    pub(super) fn stat(pid: u32) -> Option<(String, u64)> {
        let stat = read(&format!("/proc/{pid}/stat"))?;
        let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
        let state = fields.next()?.to_owned();
        Some((state, fields.nth(18)?.parse().ok()?))
    }

    /// Who has the lock that a line of the kernel's is about, if it is one of ours: of an open file, for one alone, and
    /// not only waited for.
    fn locker(line: &str) -> Option<u32> {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_ours = fields.next() == Some("FLOCK") && fields.nth(1) == Some("WRITE");
        is_ours.then(|| fields.next()?.parse().ok()).flatten()
    }

    fn has_locked(pid: u32, file: (u64, u64)) -> bool {
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        open.flatten().any(|open| {
            let name = open.file_name();
            let about = || read(&format!("/proc/{pid}/fdinfo/{}", name.to_string_lossy()));
            // Through the link, so of the file itself, whatever it is called now.
            identity(&open.path()) == Some(file)
                && about().is_some_and(|about| {
                    about.lines().filter_map(|line| line.strip_prefix("lock:")).any(|lock| locker(lock) == Some(pid))
                })
        })
    }

    fn identity(path: &Path) -> Option<(u64, u64)> {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
    }

    fn boot() -> [u8; 16] {
        let text = read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: Vec<u8> = text.chars().filter_map(|c| u8::try_from(c.to_digit(16)?).ok()).collect();
        let mut boot = [0; 16];
        for (byte, pair) in boot.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        boot
    }

    fn namespace() -> u64 {
        let link = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        digits.parse().unwrap_or(0)
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::*;
    use crate::error::{Error, ErrorKind};

    impl Process {
        /// The process that asks.
        pub(crate) fn own() -> Process {
            Process { pid: std::process::id(), started: 0, boot: [0; 16], namespace: 0 }
        }

        /// The process that has the file locked.
        pub(crate) fn that_locks(_path: &Path) -> Option<Process> {
            None
        }

        /// Whether it still lives.
        pub(crate) fn life(&self) -> Life {
            Life::Unknown
        }

        /// Waits for its end.
        ///
        /// # Errors
        /// `Unavailable`, always.
        pub(crate) fn wait_end(&self, _limit: Duration) -> Result<bool> {
            Err(Error::new(ErrorKind::Unavailable, "processes can be waited for on Linux only"))
        }

        /// Ends it.
        ///
        /// # Errors
        /// `Unavailable`, always.
        pub(crate) fn kill(&self, _limit: Duration) -> Result<()> {
            Err(Error::new(ErrorKind::Unavailable, "processes can be killed on Linux only"))
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command};

    use super::*;
    use crate::error::ErrorKind;

    #[allow(clippy::unwrap_used, reason = "clippy sees no test in a helper")]
    fn sleeper() -> (Child, Process) {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let process = Process { pid: child.id(), started: linux::stat(child.id()).unwrap().1, ..Process::own() };
        (child, process)
    }

    #[test]
    fn knows_itself() {
        let own = Process::own();
        assert!(own.is_own() && own.started > 0 && own.namespace > 0 && own.boot != [0; 16]);
        assert_eq!(own.life(), Life::Lives);
        assert!(!own.wait_end(Duration::ZERO).unwrap());
    }

    #[test]
    fn kills_the_very_process_and_no_other() {
        let (mut child, process) = sleeper();
        let recycled = Process { started: process.started - 1, ..process };
        assert_eq!(recycled.life(), Life::Ended);
        recycled.kill(Duration::from_secs(5)).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "an id that was given again is left alone");
        for stranger in [Process { boot: [7; 16], ..process }, Process { namespace: 7, ..process }] {
            assert_eq!(stranger.life(), Life::Unknown);
            assert_eq!(stranger.kill(Duration::from_secs(5)).unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert!(child.try_wait().unwrap().is_none());
        process.kill(Duration::from_secs(5)).unwrap();
        assert_eq!(process.life(), Life::Ended);
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn only_who_has_ended_for_certain_cannot_act() {
        let (mut child, process) = sleeper();
        let own = Process::own();
        assert!(process.may_act(&own) && own.may_act(&own));
        assert!(!Process { started: process.started - 1, ..process }.may_act(&own), "an id that was given again");
        assert!(!Process { boot: [7; 16], ..process }.may_act(&own), "before the machine was started again");
        assert!(Process { namespace: 7, ..process }.may_act(&own), "in another container");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.may_act(&own));
        let (one, other) = (Process::simulated(1), Process::simulated(2));
        assert!(one.may_act(&one) && !one.may_act(&other));
    }

    #[test]
    fn finds_who_has_locked_a_file_and_nobody_else() {
        let home = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let options = std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).clone();
            options.open(home.path().join(name)).unwrap()
        };
        let (one, other) = (home.path().join("one"), home.path().join("other"));
        let (file, beside) = (open("one"), open("other"));
        assert_eq!(Process::that_locks(&one), None);
        // The other is open here too, and only this one locked.
        file.lock().unwrap();
        assert_eq!((Process::that_locks(&one), Process::that_locks(&other)), (Some(Process::own()), None));
        file.unlock().unwrap();
        // One among several is not this lock.
        beside.lock_shared().unwrap();
        assert_eq!((Process::that_locks(&one), Process::that_locks(&other)), (None, None));
        assert_eq!(Process::that_locks(&home.path().join("none")), None);
    }

    #[test]
    fn waits_for_an_end() {
        let (mut child, process) = sleeper();
        assert!(!process.wait_end(Duration::from_millis(1)).unwrap());
        child.kill().unwrap();
        assert!(process.wait_end(Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
        assert!(process.wait_end(Duration::ZERO).unwrap());
    }
}
