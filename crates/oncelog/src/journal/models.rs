//! Group commit in every order of two or three threads: an answer comes after the sync that covers it and after the
//! apply, in LSN order; nobody waits for ever; after a failed sync nothing is written and nobody hears `Ok`.

#![allow(clippy::unwrap_used, reason = "a model fails by panicking")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex as Plain;
use std::task::Waker;
use std::time::Duration;

use super::file::FILE_HEAD_BYTES;
use super::{Apply, Durability, FRAME_HEAD_BYTES, Journal, JournalOptions, Placed};
use crate::chance::Chance;
use crate::disk::{Disk, DiskFile, FileIdentity, OpenMode, SyncSite};
use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, Lsn, StoreId};
use crate::wake::models::{Task, check, check_needs};
#[cfg(shuttle)]
use crate::wake::yield_now;
use crate::wake::{Arc, AtomicBool, Mutex, Ordering, RaceSite, Thread, spawn};

const FILE_BYTES: u64 = 4096;
const BODY_BYTES: usize = 8;

/// A disk with one file. Its calls are no steps of the model: each happens at once, between two steps.
#[derive(Clone, Default)]
struct Platter(Arc<Plain<State>>);

#[derive(Default)]
struct State {
    written: Vec<u8>,
    durable: Vec<u8>,
    /// Syncs of groups that go well before one fails; none fails unless set.
    good_syncs: Option<u32>,
    failed: bool,
}

impl Platter {
    fn state<R>(&self, with: impl FnOnce(&mut State) -> R) -> R {
        with(&mut self.0.lock().unwrap())
    }

    /// Whether a power cut now would leave the frame with that body.
    fn has_durably(&self, body: [u8; BODY_BYTES]) -> bool {
        self.state(|state| state.durable.windows(BODY_BYTES).any(|window| window == body))
    }
}

impl Disk for Platter {
    fn open(&self, _path: &Path, _mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.clone()))
    }

    fn list(&self, _dir: &Path) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    fn rename(&self, _from: &Path, _to: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn remove_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn identity(&self, _path: &Path) -> io::Result<FileIdentity> {
        Ok(FileIdentity::default())
    }

    fn sync_dir(&self, _dir: &Path, _site: SyncSite) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Platter {
    fn read_at(&self, _buffer: &mut [u8], _position: u64) -> io::Result<usize> {
        Ok(0)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<usize> {
        self.state(|state| {
            assert!(!state.failed, "a write after a sync that failed");
            let start = usize::try_from(position).unwrap();
            let end = start + bytes.len();
            let len = state.written.len().max(end);
            state.written.resize(len, 0);
            state.written[start..end].copy_from_slice(bytes);
        });
        Ok(bytes.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(FILE_BYTES)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn preallocate(&self, _end: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self, site: SyncSite) -> io::Result<()> {
        self.state(|state| {
            assert!(!state.failed, "a sync after a sync that failed");
            if site == SyncSite::JournalGroup && state.good_syncs == Some(0) {
                state.failed = true;
                return Err(io::Error::other("the sync fails"));
            }
            state.good_syncs = state.good_syncs.map(|count| count.saturating_sub(1));
            state.durable = state.written.clone();
            Ok(())
        })
    }

    fn try_lock(&self) -> io::Result<bool> {
        Ok(true)
    }

    fn identity(&self) -> io::Result<FileIdentity> {
        Ok(FileIdentity::default())
    }
}

/// Writes down what is applied, and holds it against the disk.
#[derive(Clone)]
struct Notes {
    platter: Platter,
    applied: Arc<Plain<Vec<Lsn>>>,
    /// Taken to apply, as the pins of a view are.
    pins: Arc<Mutex<()>>,
}

impl Apply for Notes {
    type Context = ();

    fn apply(&mut self, frames: &mut [Placed<()>], durable: Lsn) -> Result<()> {
        let _pins = self.pins.lock();
        let mut applied = self.applied.lock().unwrap();
        for frame in frames {
            assert_eq!(frame.lsn.0, applied.len() as u64 + 1, "applied in LSN order");
            if frame.lsn <= durable {
                let body = frame.bytes[FRAME_HEAD_BYTES..].try_into().unwrap();
                assert!(self.platter.has_durably(body), "called durable and is not");
            }
            applied.push(frame.lsn);
        }
        Ok(())
    }
}

#[derive(Clone)]
struct Bench {
    journal: Arc<Journal<Notes>>,
    notes: Notes,
}

impl Bench {
    fn new(good_syncs: Option<u32>, queue_bytes_max: usize) -> Bench {
        let platter = Platter::default();
        let notes = Notes { platter: platter.clone(), applied: Arc::default(), pins: Arc::default() };
        let dir = PathBuf::from("/");
        let fence: super::Fence = Arc::new(|| Ok(()));
        let options = JournalOptions { dir, file_bytes: FILE_BYTES, spares_max: 0, queue_bytes_max, fence };
        let chance = Arc::new(Chance::from_seed(1));
        let disk = Arc::new(platter.clone());
        let made = Journal::create(disk, chance, StoreId([2; 16]), Epoch(1), options, Lsn(1), notes.clone());
        platter.state(|state| state.good_syncs = good_syncs);
        Bench { journal: Arc::new(made.unwrap()), notes }
    }

    fn applied(&self) -> usize {
        self.notes.applied.lock().unwrap().len()
    }

    /// Appends durably, and holds the answer against disk and applier.
    fn append(&self, tag: u8) -> Result<()> {
        let body = [tag; BODY_BYTES];
        let ticket = self.journal.enqueue([&[0; FRAME_HEAD_BYTES][..], &body].concat(), (), Durability::Synced)?;
        let answer = self.journal.wait(&ticket);
        if answer.is_ok() {
            assert!(self.notes.platter.has_durably(body), "answered before it was durable");
            assert!(self.applied() as u64 >= ticket.lsn.0, "answered before it was applied");
        }
        answer
    }

    /// Hands a frame over and does not wait for it.
    fn submit(&self, tag: u8) {
        let bytes = [&[0; FRAME_HEAD_BYTES][..], &[tag; BODY_BYTES]].concat();
        let _ticket = self.journal.enqueue(bytes, (), Durability::Synced).unwrap();
        self.journal.nudge();
    }

    fn thread<T: Send + 'static>(&self, run: impl FnOnce(&Bench) -> T + Send + 'static) -> Thread<T> {
        let bench = self.clone();
        spawn("caller".to_owned(), move || run(&bench)).unwrap()
    }
}

fn three_append() {
    let bench = Bench::new(None, 1 << 20);
    let others = [1, 2].map(|tag| bench.thread(move |bench| bench.append(tag)));
    bench.append(3).unwrap();
    for other in others {
        other.join().unwrap().unwrap();
    }
    assert_eq!(bench.applied(), 3);
}

/// A full queue makes whoever comes next lead for others.
fn two_append_to_a_full_queue() {
    let bench = Bench::new(None, 0);
    let other = bench.thread(|bench| bench.append(1).and_then(|()| bench.append(2)));
    bench.append(3).unwrap();
    other.join().unwrap().unwrap();
    assert_eq!(bench.applied(), 3);
}

/// Nobody waits for two of the frames but the background, which nothing but a nudge wakes.
fn the_background_leads_for_those_who_do_not_wait() {
    let bench = Bench::new(None, 1 << 20);
    let background = bench.thread(|bench| {
        while bench.applied() < 3 {
            while bench.journal.lead() {}
            if bench.applied() < 3 {
                bench.journal.wait_for_work(std::time::Duration::from_secs(1));
            }
        }
    });
    let other = bench.thread(|bench| bench.submit(1));
    bench.append(2).unwrap();
    bench.submit(3);
    other.join().unwrap();
    background.join().unwrap();
}

/// Larger than loom can finish: five threads, some of whose frames nobody waits for.
#[cfg(shuttle)]
fn many_append_beside_a_background() {
    let bench = Bench::new(None, 300);
    let background = bench.thread(|bench| {
        while bench.applied() < 12 {
            while bench.journal.lead() {}
            if bench.applied() < 12 {
                bench.journal.wait_for_work(std::time::Duration::from_secs(1));
            }
        }
    });
    let others = [10, 20, 30].map(|tag| {
        bench.thread(move |bench| {
            bench.append(tag)?;
            bench.submit(tag + 1);
            bench.append(tag + 2)
        })
    });
    for tag in [1, 2, 3] {
        bench.append(tag).unwrap();
    }
    for other in others {
        other.join().unwrap().unwrap();
    }
    // Those that were handed over come without more ado.
    while bench.applied() < 12 {
        yield_now();
    }
    bench.journal.wake_background();
    background.join().unwrap();
}

#[cfg(shuttle)]
#[test]
fn many_threads_share_groups() {
    check(3, 100, many_append_beside_a_background);
}

fn three_append_and_the_second_sync_fails() {
    let bench = Bench::new(Some(1), 1 << 20);
    let others = [1, 2].map(|tag| bench.thread(move |bench| bench.append(tag)));
    let mut answers = vec![bench.append(3)];
    answers.extend(others.into_iter().map(|other| other.join().unwrap()));
    let failed = bench.notes.platter.state(|state| state.failed);
    assert_eq!(failed, answers.iter().any(Result::is_err));
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(error.kind(), ErrorKind::InDoubt | ErrorKind::Closed), "{error}");
    }
    if failed {
        assert!(answers.iter().flatten().count() >= 1, "the first group was good");
        let late = bench.append(4).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Closed);
    }
}

fn the_first_sync_fails_under_two() {
    let bench = Bench::new(Some(0), 1 << 20);
    let other = bench.thread(|bench| bench.append(1));
    let ours = bench.append(2).unwrap_err();
    let theirs = other.join().unwrap().unwrap_err();
    assert!([&ours, &theirs].iter().any(|error| error.kind() == ErrorKind::InDoubt));
    assert_eq!(bench.applied(), 0);
}

/// What a trim looks at: where the journal ends, and what is applied.
fn one_appends_beside_a_look() {
    let bench = Bench::new(None, 1 << 20);
    let other = bench.thread(|bench| bench.append(1).and_then(|()| bench.append(2)));
    for _ in 0..2 {
        let (applied, end) = bench.journal.at_rest(|notes, end| (notes.applied.lock().unwrap().len(), end));
        assert_eq!(applied as u64 + 1, end.next_lsn.0, "what is written is applied");
    }
    other.join().unwrap().unwrap();
}

fn one_appends_while_it_is_closed() {
    let bench = Bench::new(None, 1 << 20);
    let other = bench.thread(|bench| bench.append(1));
    bench.journal.close().unwrap();
    assert!(!bench.journal.has_unsynced());
    let at_close = bench.applied();
    match other.join().unwrap() {
        Ok(()) => assert_eq!(at_close, 1, "closed with a frame at work"),
        Err(error) => assert_eq!((error.kind(), at_close), (ErrorKind::Closed, 0)),
    }
}

/// Who settles has all durable that had its place, whoever leads it.
fn two_settle_what_was_handed_over() {
    let bench = Bench::new(None, 1 << 20);
    let body = [2; BODY_BYTES];
    let bytes = [&[0; FRAME_HEAD_BYTES][..], &body].concat();
    let _ticket = bench.journal.enqueue(bytes, (), Durability::Written).unwrap();
    let settles = move |bench: &Bench| {
        bench.journal.settle().unwrap();
        assert!(bench.notes.platter.has_durably(body), "settled and not durable");
        assert_eq!(bench.applied(), 1, "settled and not applied");
    };
    let other = bench.thread(settles);
    settles(&bench);
    other.join().unwrap();
}

/// Who pins the newest state asks the journal for it while the pins cannot move.
fn one_pins_while_it_is_closed() {
    let bench = Bench::new(None, 1 << 20);
    let other = bench.thread(|bench| {
        let _pins = bench.notes.pins.lock();
        bench.journal.head()
    });
    bench.journal.close().unwrap();
    assert_eq!(other.join().unwrap(), Lsn(0));
}

fn one_appends_while_it_is_halted() {
    let bench = Bench::new(None, 1 << 20);
    let halted = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&halted);
    let other = bench.thread(move |bench| bench.append(1).map(|()| theirs.load(Ordering::SeqCst)));
    bench.journal.halt();
    let written = bench.notes.platter.state(|state| state.written.clone());
    halted.store(true, Ordering::SeqCst);
    let _ = other.join().unwrap();
    let after = bench.notes.platter.state(|state| state.written.clone());
    assert!(written == after, "written after the halt had returned");
    let late = bench.append(2).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Closed);
}

/// A task never leads; the background does, or the other caller that passes the baton.
fn a_task_and_a_thread_append(good_syncs: Option<u32>) {
    let bench = Bench::new(good_syncs, 1 << 20);
    let ended = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&ended);
    let background = bench.thread(move |bench| {
        while !theirs.load(Ordering::SeqCst) {
            while bench.journal.lead() {}
            bench.journal.wait_for_work(Duration::from_secs(1));
        }
    });
    let other = bench.thread(|bench| bench.append(1).is_ok());
    let bytes = [&[0; FRAME_HEAD_BYTES][..], &[2; BODY_BYTES]].concat();
    if let Ok(ticket) = bench.journal.enqueue(bytes, (), Durability::Synced) {
        bench.journal.nudge();
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        while Journal::<Notes>::register(&ticket, &waker) {
            task.sleep();
        }
        let answered = bench.journal.wait(&ticket).is_ok();
        assert!(!answered || bench.notes.platter.has_durably([2; BODY_BYTES]), "answered before it was durable");
    }
    let _ = other.join().unwrap();
    ended.store(true, Ordering::SeqCst);
    bench.journal.wake_background();
    background.join().unwrap();
}

#[test]
fn each_task_is_woken() {
    check(2, 100, || a_task_and_a_thread_append(None));
}

#[test]
fn each_task_is_woken_when_the_disk_fails() {
    check(2, 100, || a_task_and_a_thread_append(Some(0)));
}

#[test]
fn a_task_whose_group_is_done_does_not_sleep() {
    check_needs(RaceSite::TaskOfDoneGroup, 2, || a_task_and_a_thread_append(None));
}

#[test]
fn answers_come_after_sync_and_apply() {
    check(4, 1000, three_append);
}

#[test]
fn a_full_queue_blocks_nobody() {
    check(4, 100, two_append_to_a_full_queue);
}

#[test]
fn no_nudge_is_lost() {
    check(3, 1000, the_background_leads_for_those_who_do_not_wait);
}

#[test]
fn a_failed_sync_fails_all_later_frames() {
    check(4, 1000, three_append_and_the_second_sync_fails);
    check(4, 100, the_first_sync_fails_under_two);
}

#[test]
fn a_look_sees_all_that_is_written_applied() {
    check(5, 15, one_appends_beside_a_look);
}

#[test]
fn a_close_loses_nothing() {
    check(4, 50, one_appends_while_it_is_closed);
    check(4, 5, one_pins_while_it_is_closed);
}

#[test]
fn what_is_settled_is_durable() {
    check(4, 20, two_settle_what_was_handed_over);
}

#[test]
fn nothing_is_written_after_a_halt() {
    check(4, 20, one_appends_while_it_is_halted);
}

#[test]
fn each_step_is_needed() {
    check_needs(RaceSite::Baton, 2, three_append);
    check_needs(RaceSite::ApplierBeforeWriterIsFree, 3, one_appends_beside_a_look);
    check_needs(RaceSite::AnswerLast, 2, three_append);
    check_needs(RaceSite::NudgeIsKept, 2, the_background_leads_for_those_who_do_not_wait);
    check_needs(RaceSite::SettleWaits, 3, two_settle_what_was_handed_over);
    check_needs(RaceSite::FailureIsPassedOn, 2, three_append_and_the_second_sync_fails);
}

#[test]
fn the_file_holds_what_the_models_write() {
    assert!(FILE_BYTES - FILE_HEAD_BYTES > 5 * 128);
}
