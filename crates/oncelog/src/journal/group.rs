//! Group commit: frames queue up with their LSN and place, one leader at a time writes all that wait and syncs once.
//!
//! No timer adds latency: a caller that finds no leader leads at once, and while it syncs the next group forms. A group
//! has its own condition variable, so a finished sync wakes its own callers and one next leader, nobody else (waking
//! everybody halves the rate at 64 threads).

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use super::JournalOptions;
use super::file::{FILE_HEAD_BYTES, FileName, JournalFile, JournalPosition};
use super::frame::{HEAD_BYTES, ROTATE_BYTES, frame_bytes};
use super::ticket::{Done, Group, Ticket};
use super::writer::{Durability, Placed, Writer};
use crate::chance::Chance;
use crate::disk::{Disk, OpenMode};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, StoreId};
use crate::wake::{Arc, AtomicU64, Condvar, Mutex, Ordering, RaceSite, keeps, yield_now};

/// Takes groups of frames that are written, in LSN order.
pub(crate) trait Apply: Send {
    /// What rides along with a frame from `enqueue` to `apply`; never stored.
    type Context: Send;
    /// Applies `frames`; the journal is durable up to `durable`. An error ends the journal.
    fn apply(&mut self, frames: &mut [Placed<Self::Context>], durable: Lsn) -> Result<()>;
    /// A write or sync of the journal failed: what is behind the last durable frame may be in memory alone.
    fn failed(&mut self) {}
}

/// The journal of one owner.
pub(crate) struct Journal<A: Apply> {
    disk: Arc<dyn Disk>,
    chance: Arc<Chance>,
    store: StoreId,
    epoch: Epoch,
    options: JournalOptions,
    queue: Mutex<Queue<A::Context>>,
    writer: Mutex<Writer>,
    applier: Mutex<A>,
    /// One maker of files at a time, outside the queue's lock.
    maker: Mutex<u32>,
    /// Somebody should lead, and nobody waits to do it.
    idle: (Mutex<bool>, Condvar),
    /// Bytes of frames placed since the journal was opened.
    placed_bytes: AtomicU64,
}

struct Queue<C> {
    next_lsn: Lsn,
    file: Arc<JournalFile>,
    position: u64,
    spares: VecDeque<JournalFile>,
    /// Bytes of frames that are still to come and were promised their room.
    promised: u64,
    /// Files that hold frames not yet trimmed, oldest first; the last is `file`.
    live: VecDeque<Arc<JournalFile>>,
    frames: Vec<Placed<C>>,
    frames_bytes: usize,
    group: Arc<Group>,
    leading: bool,
    /// Takes no more frames, in order.
    closed: bool,
    failed: bool,
}

impl<A: Apply> Journal<A> {
    /// A journal that continues at `start`, in a file that must be there.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        chance: Arc<Chance>,
        store: StoreId,
        epoch: Epoch,
        options: JournalOptions,
        start: JournalPosition,
        applier: A,
    ) -> Result<Journal<A>> {
        let file = JournalFile::open(&*disk, &options.dir, store, start.file, start.salt, OpenMode::Write)?;
        if !(FILE_HEAD_BYTES..=file.bytes).contains(&start.position) {
            return Err(Error::corrupt(&file.path, start.position, "the trim point lies outside its journal file"));
        }
        Ok(Self::at(disk, chance, store, epoch, options, start, 1, file, applier))
    }

    /// A journal that starts in a new file, after frame `next_lsn - 1` of files that are given up.
    pub(crate) fn create(
        disk: Arc<dyn Disk>,
        chance: Arc<Chance>,
        store: StoreId,
        epoch: Epoch,
        options: JournalOptions,
        next_lsn: Lsn,
        applier: A,
    ) -> Result<Journal<A>> {
        let name = FileName { epoch, slot: 1 };
        let salt = chance.next_u64();
        let file = JournalFile::create(&*disk, &options.dir, store, name, salt, options.file_bytes)?;
        let start = JournalPosition { file: name, salt, position: FILE_HEAD_BYTES, next_lsn, chain: 0 };
        Ok(Self::at(disk, chance, store, epoch, options, start, 2, file, applier))
    }

    #[allow(clippy::too_many_arguments, reason = "the one constructor behind the two above")]
    fn at(
        disk: Arc<dyn Disk>,
        chance: Arc<Chance>,
        store: StoreId,
        epoch: Epoch,
        options: JournalOptions,
        start: JournalPosition,
        next_slot: u32,
        file: JournalFile,
        applier: A,
    ) -> Journal<A> {
        let file = Arc::new(file);
        let queue = Queue {
            next_lsn: start.next_lsn,
            file: Arc::clone(&file),
            position: start.position,
            spares: VecDeque::new(),
            promised: 0,
            live: VecDeque::from([file]),
            frames: Vec::new(),
            frames_bytes: 0,
            group: Arc::default(),
            leading: false,
            closed: false,
            failed: false,
        };
        let writer = Writer::new(start);
        Journal {
            disk,
            chance,
            store,
            epoch,
            options,
            queue: Mutex::new(queue),
            writer: Mutex::new(writer),
            applier: Mutex::new(applier),
            maker: Mutex::new(next_slot),
            idle: (Mutex::new(false), Condvar::new()),
            placed_bytes: AtomicU64::new(0),
        }
    }

    /// Makes sure that a frame with a body of `body_bytes` has a place, making a file if need be. A later `enqueue` of
    /// as much finds it unless another thread was faster.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: no room could be had; nothing has changed.
    fn make_room(&self, body_bytes: usize) -> Result<()> {
        let mut next_slot = self.maker.lock();
        let wanted = self
            .options
            .file_bytes
            .max((FILE_HEAD_BYTES + frame_bytes(body_bytes) + ROTATE_BYTES).next_multiple_of(4 << 10));
        {
            let queue = self.queue.lock();
            let free = queue.spares.len() > self.files_for(queue.promised);
            if free && queue.spares.front().is_some_and(|spare| spare.bytes >= wanted) {
                return Ok(());
            }
        }
        self.make_file(&mut next_slot, wanted)
    }

    fn make_file(&self, next_slot: &mut u32, wanted: u64) -> Result<()> {
        let name = FileName { epoch: self.epoch, slot: *next_slot };
        let salt = self.chance.next_u64();
        // Also when it fails: a file that could not be taken away again must not stand in the way of the next.
        *next_slot += 1;
        let made = JournalFile::create(&*self.disk, &self.options.dir, self.store, name, salt, wanted)?;
        self.queue.lock().spares.push_front(made);
        Ok(())
    }

    /// Promises room for a frame of `bytes` as [`frame_bytes`] counts them, at most a quarter of a file and a little.
    /// The frame comes with [`Journal::enqueue_promised`] or never, which [`Journal::give_back`] tells.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: no room could be had; `Closed`. Nothing is promised then.
    pub(crate) fn promise(&self, bytes: u64) -> Result<()> {
        let mut next_slot = self.maker.lock();
        loop {
            {
                let mut queue = self.queue.lock();
                if queue.failed || queue.closed {
                    return Err(Error::closed());
                }
                if queue.spares.len() >= self.files_for(queue.promised + bytes) {
                    queue.promised += bytes;
                    return Ok(());
                }
            }
            self.make_file(&mut next_slot, self.options.file_bytes)?;
        }
    }

    /// Takes a promise back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.queue.lock().promised -= bytes;
    }

    /// So many spare files hold promised frames of that many bytes, in any order: as none is larger than half of a
    /// file, each file is filled to half at least.
    fn files_for(&self, promised: u64) -> usize {
        let half = (self.options.file_bytes - FILE_HEAD_BYTES - ROTATE_BYTES) / 2;
        usize::try_from(promised.div_ceil(half)).unwrap_or(usize::MAX)
    }

    /// The size of a journal file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.options.file_bytes
    }

    /// Keeps one spare file ready, so that no append has to wait for its zeros.
    pub(crate) fn prepare_spare(&self) -> Result<()> {
        let ready = {
            let queue = self.queue.lock();
            queue.failed || queue.spares.len() > self.files_for(queue.promised)
        };
        if ready { Ok(()) } else { self.make_room(0) }
    }

    /// Gives a frame its LSN and place. `bytes` hold [`HEAD_BYTES`] of room and the body. Does not wait for the disk
    /// unless a new file must be made or too much is queued already.
    ///
    /// # Errors
    /// `Full`, `Unavailable`: no room in the journal; `Closed`: it has failed before. The frame does not exist then.
    pub(crate) fn enqueue(&self, bytes: Vec<u8>, context: A::Context, durability: Durability) -> Result<Ticket> {
        self.enqueue_promised(bytes, context, durability, 0)
    }

    /// As [`Journal::enqueue`], for a frame whose room was promised; 0 for one without a promise.
    ///
    /// # Errors
    /// `Closed`, if anything was promised.
    pub(crate) fn enqueue_promised(
        &self,
        bytes: Vec<u8>,
        context: A::Context,
        durability: Durability,
        promised: u64,
    ) -> Result<Ticket> {
        let body_bytes = bytes.len() - HEAD_BYTES;
        let need = frame_bytes(body_bytes);
        while self.queue.lock().frames_bytes > self.options.queue_bytes_max {
            if !self.lead() {
                self.wait_for_room();
            }
        }
        loop {
            let mut queue = self.queue.lock();
            if queue.failed || queue.closed {
                return Err(Error::closed());
            }
            let kept = if promised > 0 { 0 } else { self.files_for(queue.promised) };
            let Some((file, position, rotates)) = queue.place(need, kept) else {
                drop(queue);
                self.make_room(body_bytes)?;
                continue;
            };
            queue.promised -= promised;
            let lsn = queue.next_lsn;
            queue.next_lsn = lsn.next();
            queue.frames_bytes += bytes.len();
            self.placed_bytes.fetch_add(need, Ordering::Relaxed);
            let new_file = rotates.is_some();
            queue.frames.push(Placed { lsn, bytes, context, durability, file, position, rotates });
            let ticket = Ticket { lsn, group: Arc::clone(&queue.group) };
            drop(queue);
            if new_file {
                // The background makes the next spare.
                self.wake_background();
            }
            return Ok(ticket);
        }
    }

    /// Waits until the queue may have room again.
    fn wait_for_room(&self) {
        let group = Arc::clone(&self.queue.lock().group);
        group.wait_a_moment();
    }

    /// Waits until the frame is as durable as it asked to be, applied and visible; leads if nobody does.
    ///
    /// # Errors
    /// `InDoubt`: the disk failed under this frame. `Closed`: under an earlier one; this frame was not written.
    pub(crate) fn wait(&self, ticket: &Ticket) -> Result<()> {
        let group = &ticket.group;
        loop {
            if let Some(done) = group.done() {
                return done.answer();
            }
            if !self.lead() {
                group.wait();
            }
        }
    }

    /// Whether the frame has its answer already.
    pub(crate) fn is_done(ticket: &Ticket) -> bool {
        ticket.group.done().is_some()
    }

    /// Has `waker` woken when the frame has its answer; `false`: it has. Somebody else must lead: see
    /// [`Journal::nudge`].
    pub(crate) fn register(ticket: &Ticket, waker: &Waker) -> bool {
        ticket.group.register(ticket.lsn, waker)
    }

    /// Asks the background to lead, for a caller that will not wait itself.
    pub(crate) fn nudge(&self) {
        if !self.queue.lock().leading {
            self.wake_background();
        }
    }

    /// Ends [`Journal::wait_for_work`] early.
    pub(crate) fn wake_background(&self) {
        let (flag, changed) = &self.idle;
        *flag.lock() = keeps(RaceSite::NudgeIsKept);
        changed.notify_one();
    }

    /// For the background: waits until there is a group that nobody leads, or `limit` is over.
    pub(crate) fn wait_for_work(&self, limit: Duration) {
        let (flag, changed) = &self.idle;
        let mut nudged = flag.lock();
        if !*nudged {
            nudged = changed.wait_timeout(nudged, limit);
        }
        *nudged = false;
    }

    /// Writes, syncs and applies all frames that wait, as their leader. `false`: there were none, or another leads.
    pub(crate) fn lead(&self) -> bool {
        let (mut frames, group, failed_before) = {
            let mut queue = self.queue.lock();
            if queue.leading || queue.frames.is_empty() {
                return false;
            }
            queue.leading = true;
            queue.frames_bytes = 0;
            (std::mem::take(&mut queue.frames), std::mem::take(&mut queue.group), queue.failed)
        };
        // Declared before it: should a panic pass, others get these only when it is told that the journal has failed.
        let (mut writer, mut applier);
        let mut leading = Leading { journal: self, group: Some(&group) };
        if !keeps(RaceSite::AnswerLast) {
            group.finish(Done::Applied);
        }
        writer = self.writer.lock();
        let written = if failed_before { Ok(Lsn(0)) } else { self.write(&mut writer, &mut frames) };
        // Taken before the writer is free: groups are applied in LSN order, and whoever holds both sees all that is
        // written applied.
        let writer = keeps(RaceSite::ApplierBeforeWriterIsFree).then_some(writer);
        applier = self.applier.lock();
        drop(writer);
        self.pass_on(written.is_err());
        if written.is_err() {
            applier.failed();
        }
        let done = match written {
            _ if failed_before => Done::NotWritten,
            Ok(durable) => match applier.apply(&mut frames, durable) {
                Ok(()) => Done::Applied,
                Err(error) => {
                    tracing::error!(%error, "a durable group could not be applied; the store must be reopened");
                    self.queue.lock().failed = true;
                    Done::InDoubt
                }
            },
            Err(error) => {
                tracing::error!(%error, "the journal could not be written; the store must be reopened");
                if error.kind() == ErrorKind::Fenced { Done::Fenced } else { Done::InDoubt }
            }
        };
        drop(applier);
        leading.group = None;
        group.finish(done);
        if done != Done::Applied {
            // It tells those who wait for news, and answers tasks that came meanwhile.
            self.wake_background();
        }
        true
    }

    /// Writes a group. Where it is synced too, asks behind the sync whether this process still has the journal: if so,
    /// whoever takes it later reads these frames.
    fn write(&self, writer: &mut Writer, frames: &mut [Placed<A::Context>]) -> Result<Lsn> {
        let settled_before = writer.settled();
        let settled = writer.write(frames)?;
        if settled > settled_before {
            (self.options.fence)()?;
        }
        Ok(settled)
    }

    fn pass_on(&self, failed: bool) {
        let mut queue = self.queue.lock();
        queue.leading = false;
        queue.failed |= failed && keeps(RaceSite::FailureIsPassedOn);
        if queue.frames.is_empty() {
            return;
        }
        let group = Arc::clone(&queue.group);
        drop(queue);
        if !keeps(RaceSite::Baton) || !group.pass_baton() {
            self.wake_background();
        }
    }

    /// The orderly end: takes no more frames, and makes those it has taken durable.
    ///
    /// # Errors
    /// `InDoubt`, `Fenced`, `Closed`: the disk failed, or another process has the journal, now or before.
    pub(crate) fn close(&self) -> Result<()> {
        self.queue.lock().closed = true;
        self.settle()
    }

    /// Makes all that has its place durable and shows it. Needs no frame of its own, so it works where there is no room
    /// for one. Those who come together share one sync: the first does it, the others find it done.
    ///
    /// # Errors
    /// `InDoubt`, `Fenced`, `Closed`: the disk failed, or another process has the journal, now or before.
    pub(crate) fn settle(&self) -> Result<()> {
        let head = self.head();
        loop {
            while self.lead() {}
            let mut writer = self.writer.lock();
            let mut applier = self.applier.lock();
            if self.has_failed() {
                return Err(Error::closed());
            }
            if keeps(RaceSite::SettleWaits) && writer.written() < head {
                // Another leads: it has its frames and not yet the writer.
                drop((writer, applier));
                yield_now();
                continue;
            }
            let mut fails = Fails(Some(self));
            let settled_before = writer.settled();
            let settled = writer.settle().and_then(|settled| {
                if settled > settled_before {
                    (self.options.fence)()?;
                }
                Ok(settled)
            });
            let done = match settled {
                Ok(settled) if applier.apply(&mut [], settled).is_ok() => {
                    fails.0 = None;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Fenced => Done::Fenced,
                Ok(_) => Done::InDoubt,
                Err(error) => {
                    tracing::error!(%error, "the journal could not be synced; the store must be reopened");
                    Done::InDoubt
                }
            };
            drop(fails);
            applier.failed();
            return done.answer();
        }
    }

    /// Refuses every later frame and waits until nobody writes any more, so that another process may take over. Frames
    /// that nobody leads are answered as not written.
    pub(crate) fn halt(&self) {
        self.fail();
        loop {
            while self.lead() {}
            let queue = self.queue.lock();
            if !queue.leading && queue.frames.is_empty() {
                return;
            }
            drop(queue);
            yield_now();
        }
    }

    /// Refuses every later frame.
    pub(crate) fn fail(&self) {
        self.queue.lock().failed = true;
        self.wake_background();
    }

    /// Whether an earlier failure has ended the journal.
    pub(crate) fn has_failed(&self) -> bool {
        self.queue.lock().failed
    }

    /// LSN of the newest frame that has its place, durable or not.
    pub(crate) fn head(&self) -> Lsn {
        Lsn(self.queue.lock().next_lsn.0 - 1)
    }

    /// Whether frames are written that no sync has covered yet.
    pub(crate) fn has_unsynced(&self) -> bool {
        self.writer.lock().has_unsynced()
    }

    /// Bytes of frames placed since opening, to know when a trim is due.
    pub(crate) fn placed_bytes(&self) -> u64 {
        self.placed_bytes.load(Ordering::Relaxed)
    }

    /// Runs `with` while nothing is applied, written or led; it gets the applier and where the next frame will be
    /// written. Frames may be enqueued meanwhile.
    pub(crate) fn at_rest<R>(&self, with: impl FnOnce(&mut A, JournalPosition) -> R) -> R {
        // The order of a leader: writer, then applier.
        let writer = self.writer.lock();
        let mut applier = self.applier.lock();
        with(&mut applier, writer.end())
    }

    /// Gives up the files before `trim`, which must be durable as the place where replay starts. Files that this
    /// opening made are kept as spares, up to `spares_max`; others may still be open in a process that lost its lock,
    /// so they are removed.
    pub(crate) fn release_before(&self, trim: JournalPosition) -> Result<()> {
        loop {
            let (file, spare_wanted) = {
                let mut queue = self.queue.lock();
                let first = queue.live.front().map(|file| (file.name, file.salt));
                if first == Some((trim.file, trim.salt)) || queue.live.len() <= 1 {
                    return Ok(());
                }
                let wanted = queue.spares.len() < self.options.spares_max;
                (queue.live.pop_front(), wanted)
            };
            let Some(file) = file else { return Ok(()) };
            let ours = file.name.epoch == self.epoch && file.bytes == self.options.file_bytes;
            match Arc::try_unwrap(file) {
                Ok(file) if ours && spare_wanted => {
                    let fresh = file.recycle(self.store, self.chance.next_u64())?;
                    self.queue.lock().spares.push_back(fresh);
                }
                Ok(file) => self.remove(&file)?,
                Err(shared) => self.remove(&shared)?,
            }
        }
    }

    fn remove(&self, file: &JournalFile) -> Result<()> {
        self.disk.remove(&file.path).map_err(|error| Error::io(&file.path, "remove a journal file", error))
    }

    /// The paths of the files in use, for whoever sweeps away the others.
    pub(crate) fn file_names(&self) -> Vec<FileName> {
        let queue = self.queue.lock();
        queue.live.iter().map(|file| file.name).chain(queue.spares.iter().map(|file| file.name)).collect()
    }
}

/// A leader at work. Should it panic (a disk of the user's may), those who wait get their answer all the same.
struct Leading<'a, A: Apply> {
    journal: &'a Journal<A>,
    group: Option<&'a Group>,
}

impl<A: Apply> Drop for Leading<'_, A> {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let mut queue = self.journal.queue.lock();
            queue.failed = true;
            queue.leading = false;
            drop(queue);
            group.finish(Done::InDoubt);
            self.journal.wake_background();
        }
    }
}

/// Ends the journal unless it is told that all went well: a panic of the disk is no success of its sync.
struct Fails<'a, A: Apply>(Option<&'a Journal<A>>);

impl<A: Apply> Drop for Fails<'_, A> {
    fn drop(&mut self) {
        if let Some(journal) = self.0 {
            journal.fail();
        }
    }
}

impl<C> Queue<C> {
    /// Decides where the next frame of `need` bytes goes; `None` when there is no file for it yet, and `kept` of the
    /// spare ones are for others.
    #[allow(clippy::type_complexity, reason = "the fields of Placed that it decides")]
    fn place(&mut self, need: u64, kept: usize) -> Option<(Arc<JournalFile>, u64, Option<(Arc<JournalFile>, u64)>)> {
        let mut rotates = None;
        if self.position + need + ROTATE_BYTES > self.file.bytes {
            let fits = self.spares.len() > kept
                && self.spares.front().is_some_and(|file| FILE_HEAD_BYTES + need + ROTATE_BYTES <= file.bytes);
            let next = Arc::new(if fits { self.spares.pop_front()? } else { return None });
            self.live.push_back(Arc::clone(&next));
            rotates = Some((std::mem::replace(&mut self.file, next), self.position));
            self.position = FILE_HEAD_BYTES;
        }
        let position = self.position;
        self.position += need;
        Some((Arc::clone(&self.file), position, rotates))
    }
}
