//! What goes wrong on request: a crash at the n-th change, an error at the n-th call, syncs that fail or do nothing,
//! calls that do half of what was asked.

use std::io;

use oncelog::disk::SyncSite;

use super::slip::Slip;

/// An error to answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An error of this kind, as `ErrorKind::StorageFull`.
    Kind(io::ErrorKind),
    /// The error of this number, as 24 for `EMFILE`.
    Errno(i32),
}

impl Failure {
    /// Input/output error.
    pub const EIO: Failure = Failure::Errno(5);
    /// Too many open files.
    pub const EMFILE: Failure = Failure::Errno(24);
    /// No space left on device.
    pub const ENOSPC: Failure = Failure::Kind(io::ErrorKind::StorageFull);
    /// Read-only file system.
    pub const EROFS: Failure = Failure::Kind(io::ErrorKind::ReadOnlyFilesystem);
    /// Interrupted system call. Only reads and writes answer with it: of the others the standard library makes the
    /// call again by itself, or the system is never interrupted in them.
    pub const EINTR: Failure = Failure::Kind(io::ErrorKind::Interrupted);

    fn error(self) -> io::Error {
        match self {
            Failure::Kind(kind) => kind.into(),
            Failure::Errno(number) => io::Error::from_raw_os_error(number),
        }
    }

    /// Whether a disk in this state would fail `call` too: a read-only disk still reads, a full one still syncs.
    fn fits(self, call: Call) -> bool {
        match self {
            Failure::EINTR => matches!(call, Call::Read | Call::Write),
            Failure::EROFS => call.mutates() || matches!(call, Call::Open { writes: true }),
            Failure::EMFILE => matches!(call, Call::Open { .. } | Call::Create | Call::List | Call::SyncDir(_)),
            Failure::ENOSPC => {
                matches!(call, Call::Create | Call::CreateDir | Call::Write | Call::SetLen | Call::Preallocate)
            }
            _ => true,
        }
    }
}

/// How long an injected failure lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// One call fails.
    Once,
    /// That call fails, and then every call that such an error would stop, until the next crash or
    /// [`clear_faults`](super::SimDisk::clear_faults). An interruption never lasts: nothing would ever be done.
    Sticky,
}

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Open { writes: bool },
    Create,
    Read,
    Write,
    Len,
    SetLen,
    Preallocate,
    Sync(SyncSite),
    Lock,
    Identify,
    List,
    Rename,
    Remove,
    CreateDir,
    RemoveDir,
    SyncDir(SyncSite),
    Room,
}

impl Call {
    /// Whether it may change what a crash leaves behind, and so is a point to crash at.
    pub(super) fn mutates(self) -> bool {
        let reads =
            matches!(self, Call::Open { .. } | Call::Read | Call::Len | Call::List | Call::Identify | Call::Room);
        !reads && self != Call::Lock
    }

    pub(super) fn sync_site(self) -> Option<SyncSite> {
        match self {
            Call::Sync(site) | Call::SyncDir(site) => Some(site),
            _ => None,
        }
    }

    /// A number for the trace.
    pub(super) fn code(self) -> u64 {
        match self {
            Call::Open { writes } => 1 + u64::from(writes),
            Call::Create => 3,
            Call::Read => 4,
            Call::Write => 5,
            Call::Len => 6,
            Call::SetLen => 7,
            Call::Preallocate => 8,
            Call::Lock => 9,
            Call::List => 10,
            Call::Rename => 11,
            Call::Remove => 12,
            Call::CreateDir => 13,
            Call::RemoveDir => 14,
            Call::Identify => 15,
            Call::Room => 16,
            Call::Sync(site) => 0x100 + site as u64,
            Call::SyncDir(site) => 0x200 + site as u64,
        }
    }
}

/// What becomes of a call.
pub(super) enum Verdict {
    Go,
    /// Answer `Ok` and do nothing yet.
    Pretend,
    Fail(io::Error),
    /// The machine stops in the middle of it.
    Crash,
    /// The machine has stopped before.
    Dead,
}

/// The faults in wait, and the counters they wait for.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Changes so far. This is also the clock of the disk.
    pub(super) ops: u64,
    /// Calls so far, changes included.
    pub(super) all_ops: u64,
    pub(super) dead: bool,
    crash_at: Option<u64>,
    crash_at_sync: Option<SyncSite>,
    failures: Vec<Pending>,
    failing_syncs: Vec<Option<SyncSite>>,
    pub(super) capacity: Option<u64>,
    pub(super) choppy: bool,
    pub(super) slip: Option<Slip>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    at: u64,
    failure: Failure,
    repeat: Repeat,
}

impl Faults {
    pub(super) fn crash_after(&mut self, changes: u64) {
        self.crash_at = Some(self.ops + changes.max(1));
    }

    pub(super) fn crash_at_sync(&mut self, site: SyncSite) {
        self.crash_at_sync = Some(site);
    }

    pub(super) fn fail_op(&mut self, nth: u64, failure: Failure, repeat: Repeat) {
        self.failures.push(Pending { at: self.all_ops + nth.max(1), failure, repeat });
    }

    pub(super) fn fail_next_sync(&mut self, site: Option<SyncSite>) {
        self.failing_syncs.push(site);
    }

    /// Forgets the faults that wait for a moment; what is a property of the disk (its capacity, its choppiness, the
    /// syncs that slip) stays.
    pub(super) fn clear(&mut self) {
        self.dead = false;
        self.crash_at = None;
        self.crash_at_sync = None;
        self.failures.clear();
        self.failing_syncs.clear();
    }

    /// Counts `call` and says what becomes of it.
    pub(super) fn admit(&mut self, call: Call) -> Verdict {
        if self.dead {
            return Verdict::Dead;
        }
        self.all_ops += 1;
        self.ops += u64::from(call.mutates());
        let stops_here = self.crash_at_sync.is_some() && self.crash_at_sync == call.sync_site();
        if stops_here || call.mutates() && self.crash_at.is_some_and(|at| at <= self.ops) {
            self.dead = true;
            return Verdict::Crash;
        }
        if let Some(failure) = self.failure_of(call) {
            return Verdict::Fail(failure.error());
        }
        if let Some(site) = call.sync_site() {
            let failing = self.failing_syncs.iter().position(|wanted| wanted.is_none_or(|wanted| wanted == site));
            if let Some(index) = failing {
                self.failing_syncs.remove(index);
                return Verdict::Fail(Failure::EIO.error());
            }
            if self.slip.is_some_and(|slip| slip.site() == site) {
                return Verdict::Pretend;
            }
        }
        Verdict::Go
    }

    fn failure_of(&mut self, call: Call) -> Option<Failure> {
        let now = self.all_ops;
        let strikes = |pending: &Pending| match pending.failure {
            // One that lasted would never let anything be done.
            Failure::EINTR => now == pending.at && pending.failure.fits(call),
            failure => now == pending.at || pending.repeat == Repeat::Sticky && now > pending.at && failure.fits(call),
        };
        self.failures.iter().find(|pending| strikes(pending)).map(|pending| pending.failure)
    }
}

/// The answer of a disk whose machine has stopped.
pub(super) fn dead() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

/// The answer to a handle of a process that is gone.
pub(super) fn stale_handle() -> io::Error {
    io::Error::other("this handle was opened before the crash")
}
