//! How a store is opened.

use std::path::Path;
use std::time::Duration;

use super::Store;
use super::archive::ArchiveOptions;
use super::layout::MAIN;
use super::owner::check_owner_name;
use super::repair::Mends;
use crate::backup::BackupTarget;
use crate::clock::{Clock, SystemClock};
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::ids::Lsn;
use crate::wake::Arc;

/// Options of a store, for this opening only. Each has a default that suits most programs.
#[derive(Clone)]
#[must_use]
pub struct StoreOptions {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) seed: Option<u64>,
    pub(super) process: Option<u64>,
    pub(super) manual_duties: bool,
    pub(super) create: bool,
    /// Whether readers in other processes are shown what is visible.
    pub(super) shared_page: bool,
    /// Nothing that is written reaches the files.
    pub(super) only_looks: bool,
    /// The owner lives, and will go on where it is: no offset that it may have told is lost.
    pub(super) beside_owner: bool,
    /// Frames behind it are not believed.
    pub(super) replay_until: Option<Lsn>,
    /// The directory is being restored: a store to nobody else, and nobody was ever told more than its journal holds.
    pub(super) restoring: bool,
    /// Offsets may be left out.
    pub(super) over_holes: bool,
    pub(super) continued: bool,
    /// What is damaged is mended on the way, as far as that goes.
    pub(super) mends: Option<Arc<Mends>>,
    pub(super) journal_file_bytes: u64,
    pub(super) trim_bytes: u64,
    pub(super) record_bytes_max: usize,
    pub(super) transaction_bytes_max: usize,
    pub(super) batch_bytes: usize,
    pub(super) queue_bytes_max: usize,
    pub(super) open_files_max: usize,
    pub(super) os_sync_interval: Duration,
    pub(super) retention_interval: Duration,
    pub(super) compaction_memory: usize,
    pub(super) compaction_reserve: u64,
    pub(super) compaction_piece_bytes: u64,
    pub(super) standby: Duration,
    pub(super) takeover: bool,
    pub(super) table_memory: usize,
    pub(super) network: bool,
    pub(super) journal_archive: Option<ArchiveOptions>,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions::new()
    }
}

/// For whom a recovery in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// Beside an owner that lives: it shows what that owner has.
    Owner,
    /// Nobody has it: it shows what the next opening will.
    Nobody,
}

impl StoreOptions {
    /// The defaults.
    pub fn new() -> StoreOptions {
        StoreOptions {
            disk: Arc::new(RealDisk),
            clock: SystemClock::shared(),
            seed: None,
            process: None,
            manual_duties: false,
            create: true,
            shared_page: true,
            only_looks: false,
            beside_owner: false,
            replay_until: None,
            restoring: false,
            over_holes: false,
            continued: false,
            mends: None,
            journal_file_bytes: 16 << 20,
            trim_bytes: 64 << 20,
            record_bytes_max: (16 << 20) + (64 << 10),
            transaction_bytes_max: 64 << 20,
            batch_bytes: 1 << 20,
            queue_bytes_max: 64 << 20,
            open_files_max: 512,
            os_sync_interval: Duration::from_secs(5),
            retention_interval: Duration::from_secs(5),
            compaction_memory: 64 << 20,
            compaction_reserve: 64 << 20,
            compaction_piece_bytes: 32 << 20,
            standby: Duration::ZERO,
            takeover: false,
            table_memory: 256 << 20,
            network: false,
            journal_archive: None,
        }
    }

    /// Sets whether a store is made where there is none; with `Existing` that is `NotFound`.
    pub fn open_mode(self, mode: StoreMode) -> StoreOptions {
        StoreOptions { create: mode == StoreMode::CreateIfMissing, ..self }
    }

    /// Sets the size of a journal file, at least 4096 bytes: 16 MiB unless set. Four to six of them are kept.
    pub fn journal_file_bytes(self, bytes: u64) -> StoreOptions {
        StoreOptions { journal_file_bytes: bytes, ..self }
    }

    /// Sets after how many bytes of journal the trim point moves: 64 MiB unless set. A recovery replays about as much
    /// at most.
    pub fn trim_bytes(self, bytes: u64) -> StoreOptions {
        StoreOptions { trim_bytes: bytes, ..self }
    }

    /// Sets the largest record or row, in bytes with key and headers: 16 MiB and 64 KiB unless set, so that a value of
    /// 16 MiB has room for its key.
    pub fn max_record_bytes(self, bytes: usize) -> StoreOptions {
        StoreOptions { record_bytes_max: bytes, ..self }
    }

    /// Sets the largest transaction in bytes: 64 MiB unless set; 1 GiB at most.
    pub fn max_transaction_bytes(self, bytes: usize) -> StoreOptions {
        StoreOptions { transaction_bytes_max: bytes, ..self }
    }

    /// Sets the bytes at which a batch is ended and the next begun: 1 MiB unless set. A reader holds one batch at a
    /// time.
    pub fn batch_bytes(self, bytes: usize) -> StoreOptions {
        StoreOptions { batch_bytes: bytes, ..self }
    }

    /// Sets how many bytes may be handed over without being written: 64 MiB unless set. Beyond it `submit` waits.
    pub fn queue_bytes(self, bytes: usize) -> StoreOptions {
        StoreOptions { queue_bytes_max: bytes, ..self }
    }

    /// Sets how many segment files are kept open, at least 1: 512 unless set. More topics than that can be in use at
    /// once; those used longest ago are closed, and opened again when they are needed. A few files more are open for
    /// the journal and the tables.
    pub fn max_open_files(self, files: usize) -> StoreOptions {
        StoreOptions { open_files_max: files, ..self }
    }

    /// Sets the longest time that appends under `SyncPolicy::Os` stay undurable: 5 s unless set.
    pub fn os_sync_interval(self, interval: Duration) -> StoreOptions {
        StoreOptions { os_sync_interval: interval, ..self }
    }

    /// Sets how often retention and compaction look for records that may go: 5 s unless set. A topic that holds too
    /// much, or whose appends wait, is looked at sooner.
    pub fn retention_interval(self, interval: Duration) -> StoreOptions {
        StoreOptions { retention_interval: interval, ..self }
    }

    /// Sets the most memory that a compaction takes for keys: 64 MiB unless set. A key takes its own bytes and about 25
    /// more, and half of these again for the moment in which the map grows. Where a partition has more keys than that,
    /// it is compacted piece by piece, each over all before it. The keys of one batch are taken whatever they need.
    pub fn compaction_memory(self, bytes: usize) -> StoreOptions {
        StoreOptions { compaction_memory: bytes, ..self }
    }

    /// Sets how many bytes of the file system compaction leaves free: 64 MiB unless set. What it writes needs room
    /// beside what it takes the place of, a [piece](StoreOptions::compaction_piece_bytes) and one segment file at a
    /// time; a file that would take of these is passed over, and tried again later. Where the system does not tell what
    /// is free, a compaction may fill the disk, and then removes what it wrote.
    pub fn compaction_reserve(self, bytes: u64) -> StoreOptions {
        StoreOptions { compaction_reserve: bytes, ..self }
    }

    /// Sets how much a compaction writes before that takes the place of what it was made from: 32 MiB unless set, one
    /// segment file at least. So much room it needs beside what is there; each piece costs a move of the trim point.
    pub fn compaction_piece_bytes(self, bytes: u64) -> StoreOptions {
        StoreOptions { compaction_piece_bytes: bytes, ..self }
    }

    /// Waits so long for another process that has the owner before it says `Locked`: not at all unless set. A standby
    /// takes over the moment that the other one dies, and within a tenth of a second when it closes its store.
    pub fn standby(self, limit: Duration) -> StoreOptions {
        StoreOptions { standby: limit, ..self }
    }

    /// Kills the process that has the owner, running or stopped, once [`standby`](StoreOptions::standby) is over, and
    /// recovers what it left. Never this very process, and never one that only has the other's old process id: that is
    /// `Locked` as without this. Linux only, within one machine, boot and container: else `Unavailable`.
    pub fn takeover(self) -> StoreOptions {
        StoreOptions { takeover: true, ..self }
    }

    /// Sets about how much memory tables take: 256 MiB unless set, 1 MiB at least. Half of it is for what was read from
    /// the table file and for what is being written to it, half for rows that were changed and are not in it yet: when
    /// these take half of their half, the trim point is moved; when they take all of it, commits that change rows wait
    /// until it has moved, or move it themselves under [`manual_duties`](StoreOptions::manual_duties). A snapshot that
    /// is held keeps what it shows beyond.
    pub fn table_memory(self, bytes: usize) -> StoreOptions {
        StoreOptions { table_memory: bytes, ..self }
    }

    /// Opens a store on a network file system too: `Unavailable` unless set. Only for one whose locks and syncs are
    /// known to hold what they promise, and with all processes on one machine.
    pub fn allow_network_file_system(self) -> StoreOptions {
        StoreOptions { network: true, ..self }
    }

    /// Archives the journal in `target`, where backups of the store are too: a backup can then be restored to any later
    /// frame, or time, that has come there ([`RestoreOptions::until_lsn`](crate::RestoreOptions::until_lsn)). To be set
    /// with every opening: what is given up in one without it is missing for ever, until the next backup.
    ///
    /// Before a trim point passes frames, they are spooled in the owner's directory, durably; a thread of its own
    /// brings them to the target. So each frame is written twice here and once there, and nothing waits for the target.
    /// Closing the store does, once. Where the target cannot be written the spool grows up to
    /// [`archive_spool_bytes`](StoreOptions::archive_spool_bytes); then appends and commits are refused, `Full`.
    pub fn journal_archive(self, target: BackupTarget) -> StoreOptions {
        let (interval, spool_bytes_max) = match &self.journal_archive {
            Some(before) => (before.interval, before.spool_bytes_max),
            None => (Duration::from_secs(60), 1 << 30),
        };
        StoreOptions { journal_archive: Some(ArchiveOptions { target, interval, spool_bytes_max }), ..self }
    }

    /// Sets after how long a new frame is archived at the latest, while the target can be written: a minute unless set.
    /// Costs a move of the trim point each time. Only behind [`journal_archive`](StoreOptions::journal_archive).
    pub fn archive_interval(mut self, interval: Duration) -> StoreOptions {
        if let Some(archive) = &mut self.journal_archive {
            archive.interval = interval;
        }
        self
    }

    /// Sets how much may wait for the archive: 1 GiB unless set. Only behind
    /// [`journal_archive`](StoreOptions::journal_archive).
    pub fn archive_spool_bytes(mut self, bytes: u64) -> StoreOptions {
        if let Some(archive) = &mut self.journal_archive {
            archive.spool_bytes_max = bytes;
        }
        self
    }

    /// Sets the disk: the machine's unless set.
    pub fn disk(self, disk: Arc<dyn Disk>) -> StoreOptions {
        StoreOptions { disk, ..self }
    }

    /// Sets the clock: the machine's unless set.
    pub fn clock(self, clock: Arc<dyn Clock>) -> StoreOptions {
        StoreOptions { clock, ..self }
    }

    /// Sets the seed of salts and identities, so that a run can be repeated byte for byte. For simulations only: two
    /// stores of one seed have one identity.
    pub fn seed(self, seed: u64) -> StoreOptions {
        StoreOptions { seed: Some(seed), ..self }
    }

    /// Sets which process of a simulation opens the store: one of another number has ended, one of the same may still
    /// write. Of the machine's own processes the machine is asked.
    pub fn simulated_process(self, number: u64) -> StoreOptions {
        StoreOptions { process: Some(number), ..self }
    }

    /// Starts no thread: the program calls [`Store::run_duties`] itself.
    pub fn manual_duties(self) -> StoreOptions {
        StoreOptions { manual_duties: true, ..self }
    }

    /// Shares no page: nobody else can reach the store anyhow.
    pub(super) fn private(self) -> StoreOptions {
        StoreOptions { shared_page: false, ..self }
    }

    /// For whoever restores a backup.
    pub(super) fn restoring(self) -> StoreOptions {
        StoreOptions { restoring: true, shared_page: false, ..self }
    }

    /// The frames that are replayed are those of several openings: offsets that one of them has skipped are left out.
    pub(super) fn over_holes(self) -> StoreOptions {
        StoreOptions { over_holes: true, ..self }
    }

    /// More frames are laid behind its end: it commits none by itself.
    pub(super) fn continued(self) -> StoreOptions {
        StoreOptions { continued: true, ..self }
    }

    /// For a reader that recovers in memory, without frames behind `until`.
    pub(super) fn only_looks(self, until: Option<Lsn>, beside: Beside) -> StoreOptions {
        let beside_owner = beside == Beside::Owner;
        StoreOptions { only_looks: true, beside_owner, shared_page: false, replay_until: until, seed: Some(0), ..self }
    }

    /// Opens the store in `dir`.
    ///
    /// # Errors
    /// As [`Store::open`]; `Invalid`: an option out of its range.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Store> {
        self.check()?;
        super::open::open(self, dir.as_ref(), MAIN)
    }

    /// Opens the store in `dir` as its owner `owner`: see [`Store::attach`].
    ///
    /// # Errors
    /// As [`Store::attach`]; `Invalid`: an option out of its range.
    pub fn attach(self, dir: impl AsRef<Path>, owner: &str) -> Result<Store> {
        self.check()?;
        check_owner_name(owner)?;
        super::open::open(self, dir.as_ref(), owner)
    }

    fn check(&self) -> Result<()> {
        if self.journal_file_bytes < 4096 || self.journal_file_bytes > 1 << 30 {
            return Err(Error::invalid("journal_file_bytes must be 4 KiB to 1 GiB"));
        }
        if self.transaction_bytes_max > 1 << 30 {
            return Err(Error::invalid("max_transaction_bytes must be at most 1 GiB"));
        }
        if self.open_files_max == 0 {
            return Err(Error::invalid("max_open_files must be at least 1"));
        }
        if self.record_bytes_max > self.transaction_bytes_max {
            return Err(Error::invalid("max_record_bytes must not be above max_transaction_bytes"));
        }
        if self.table_memory < 1 << 20 {
            return Err(Error::invalid("table_memory must be at least 1 MiB"));
        }
        Ok(())
    }
}

/// What to do where there is no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreMode {
    /// Make one.
    CreateIfMissing,
    /// Answer `NotFound`.
    Existing,
}
