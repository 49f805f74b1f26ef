//! Groups under threads: every frame applied once and in order, answers only after the apply, files rotated, recycled
//! and replayed to the same sequence.

use std::path::PathBuf;

use super::file::FILE_HEAD_BYTES;
use super::{Apply, Durability, FRAME_HEAD_BYTES, Journal, JournalOptions, JournalPosition, Placed, replay};
use crate::chance::Chance;
use crate::disk::{Disk, MemoryDisk};
use crate::error::{ErrorKind, Result};
use crate::ids::{Epoch, Lsn, StoreId};
use crate::wake::{Arc, Mutex};

const STORE: StoreId = StoreId([2; 16]);

/// Writes down what it is given.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<Note>>>);

/// A frame's LSN and body, and how far the journal was durable.
type Note = (Lsn, Vec<u8>, Lsn);

impl Apply for Notes {
    type Context = ();

    fn apply(&mut self, frames: &mut [Placed<()>], durable: Lsn) -> Result<()> {
        let mut notes = self.0.lock();
        notes.extend(frames.iter().map(|frame| (frame.lsn, frame.bytes[FRAME_HEAD_BYTES..].to_vec(), durable)));
        Ok(())
    }
}

fn journal(disk: &Arc<MemoryDisk>, notes: &Notes, file_bytes: u64) -> Journal<Notes> {
    let fence: super::Fence = Arc::new(|| Ok(()));
    let options =
        JournalOptions { dir: PathBuf::from("/"), file_bytes, spares_max: 2, queue_bytes_max: 1 << 20, fence };
    let chance = Arc::new(Chance::from_seed(1));
    Journal::create(Arc::clone(disk) as _, chance, STORE, Epoch(1), options, Lsn(1), notes.clone()).unwrap()
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&[0; FRAME_HEAD_BYTES][..], body].concat()
}

fn append(journal: &Journal<Notes>, body: &[u8]) -> Lsn {
    let ticket = journal.enqueue(frame(body), (), Durability::Synced).unwrap();
    journal.wait(&ticket).unwrap();
    ticket.lsn
}

fn start(journal: &Journal<Notes>) -> JournalPosition {
    let mut at = journal.at_rest(|_, end| end);
    at.position = FILE_HEAD_BYTES;
    at
}

fn replayed(disk: &MemoryDisk, from: JournalPosition) -> Vec<(Lsn, Vec<u8>)> {
    let mut found = Vec::new();
    let done = replay(disk, &PathBuf::from("/"), STORE, from, None, |lsn, body| {
        found.push((lsn, body.to_vec()));
        Ok(())
    });
    let done = done.unwrap();
    assert_eq!((done.torn, done.frames), (None, found.len() as u64));
    found
}

#[test]
fn many_threads_get_dense_lsns_and_answers_after_the_apply() {
    let disk = Arc::new(MemoryDisk::default());
    let notes = Notes::default();
    let journal = journal(&disk, &notes, 64 << 10);
    let from = start(&journal);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let (journal, notes) = (&journal, &notes);
            scope.spawn(move || {
                for n in 0..400u16 {
                    let lsn = append(journal, &[&[thread][..], &n.to_le_bytes()].concat());
                    let seen = notes.0.lock().get(usize::try_from(lsn.0 - 1).unwrap()).cloned();
                    let (applied, body, durable) = seen.expect("applied before it is answered");
                    assert_eq!((applied, body[0]), (lsn, thread));
                    assert!(durable >= lsn);
                }
            });
        }
    });
    let notes = notes.0.lock();
    assert!(notes.iter().map(|note| note.0).eq((1..=3200).map(Lsn)));
    let frames: Vec<_> = notes.iter().map(|(lsn, body, _)| (*lsn, body.clone())).collect();
    assert_eq!(replayed(&disk, from), frames);
}

#[test]
fn frames_larger_than_a_file_get_one_of_their_own() {
    let disk = Arc::new(MemoryDisk::default());
    let journal = journal(&disk, &Notes::default(), 4096);
    let from = start(&journal);
    let bodies: Vec<Vec<u8>> =
        (0..40usize).map(|n| vec![u8::try_from(n).unwrap(); [10, 900, 3400, 9000][n % 4]]).collect();
    for body in &bodies {
        append(&journal, body);
    }
    assert!(replayed(&disk, from).into_iter().map(|(_, body)| body).eq(bodies));
}

#[test]
fn released_files_are_used_again_and_old_frames_in_them_are_not() {
    let disk = Arc::new(MemoryDisk::default());
    let journal = journal(&disk, &Notes::default(), 4096);
    for round in 0..30u8 {
        for _ in 0..5 {
            append(&journal, &[round; 700]);
        }
        let end = journal.at_rest(|_, end| end);
        journal.release_before(end).unwrap();
        append(&journal, b"behind the trim point");
        assert_eq!(replayed(&disk, end), [(end.next_lsn, b"behind the trim point".to_vec())]);
    }
    let files = disk.list(&PathBuf::from("/")).unwrap().len();
    assert!(files <= 4, "{files} files");
}

#[test]
fn submitted_frames_go_with_the_next_that_waits() {
    let disk = Arc::new(MemoryDisk::default());
    let notes = Notes::default();
    let journal = journal(&disk, &notes, 64 << 10);
    let tickets: Vec<_> = (0..10u8).map(|n| journal.enqueue(frame(&[n]), (), Durability::Synced).unwrap()).collect();
    assert!(notes.0.lock().is_empty());
    journal.wait(tickets.last().unwrap()).unwrap();
    assert!(tickets.iter().all(Journal::<Notes>::is_done));
    assert_eq!(notes.0.lock().len(), 10);
}

#[test]
fn an_unsynced_frame_is_durable_only_after_a_later_sync() {
    let disk = Arc::new(MemoryDisk::default());
    let notes = Notes::default();
    let journal = journal(&disk, &notes, 64 << 10);
    let ticket = journal.enqueue(frame(b"lax"), (), Durability::Written).unwrap();
    journal.wait(&ticket).unwrap();
    assert_eq!(notes.0.lock()[0].2, Lsn(0));
    assert!(journal.has_unsynced());
    append(&journal, b"strict");
    assert_eq!(notes.0.lock()[1].2, Lsn(2));
    assert!(!journal.has_unsynced());
}

#[test]
fn a_closed_journal_takes_nothing_more() {
    let disk = Arc::new(MemoryDisk::default());
    let journal = journal(&disk, &Notes::default(), 64 << 10);
    let ticket = journal.enqueue(frame(b"in time"), (), Durability::Written).unwrap();
    journal.close().unwrap();
    journal.wait(&ticket).unwrap();
    assert!(!journal.has_unsynced());
    let late = journal.enqueue(frame(b"late"), (), Durability::Synced);
    assert_eq!(late.err().unwrap().kind(), ErrorKind::Closed);
}
