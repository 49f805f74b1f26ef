//! The page that an owner shares with readers in other processes: how far everything is visible, and who owns it.
//!
//! ```text
//! owner   fills the older slot of each partition that a group touched, then stores the visible LSN, then wakes
//! reader  loads the visible LSN, takes the newest slot not above it of each partition it wants
//! ```
//!
//! Invariants:
//! * The visible LSN only grows and is durable, so nothing that a reader has seen is taken back.
//! * A slot is filled before the LSN that it belongs to is visible. At that moment it is the newest of its partition,
//!   and the other one holds the end as of the visible LSN: so whoever knows a visible LSN finds its ends, unless the
//!   owner has gone on by two groups meanwhile, and then the reader asks for a newer LSN.
//! * A slot is invalid while its end is changed, and is believed only if it was the same before and after (a seqlock);
//!   the one that is taken must still be there when both were looked at.
//! * The page means nothing by itself: its file is locked by the owner that serves, and without that lock it is not
//!   looked at. No part of it is ever needed after a crash.
//!
//! Pure over slices of words; where they come from is `disk`'s affair, and `store` brings the two together. The words
//! of a reader may be memory that it cannot write: it loads relaxed and orders its loads by fences.

mod board;
#[cfg(fuzzing)]
pub(crate) mod fuzz;
#[cfg(all(test, any(loom, shuttle)))]
mod models;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use board::Board;
pub(crate) use watch::{Ends, News, Watch, Watched};

use crate::codec::crc32c;
use crate::ids::{Epoch, LogOffset, Lsn, PartitionId, StoreId, TopicId};
use crate::wake::{AtomicU64, Ordering, RaceSite, fence, keeps};

const MAGIC: u64 = u64::from_le_bytes(*b"OLPAGE\0\x01");
/// The head of each file of a page; entries follow.
pub(crate) const HEAD_WORDS: usize = 64;
/// One partition: a cache line.
const ENTRY_WORDS: usize = 8;
/// Words of the first file. Each further one is twice as large, up to [`FILE_WORDS_MAX`].
const FIRST_FILE_WORDS: usize = 8 << 10;
const FILE_WORDS_MAX: usize = 8 << 20;

/// Where things are in the head of the first file, in words.
mod at {
    pub(super) const MAGIC: usize = 0;
    pub(super) const STORE: usize = 1;
    pub(super) const EPOCH: usize = 3;
    pub(super) const PROCESS: usize = 4;
    pub(super) const BOOT: usize = 5;
    pub(super) const FILE_NUMBER: usize = 7;
    pub(super) const SUM: usize = 8;
    pub(super) const STATE: usize = 9;
    pub(super) const ENTRIES: usize = 10;
    pub(super) const VISIBLE: usize = 16;
    pub(super) const WAITING: usize = 24;
    pub(super) const NEWS: usize = 25;
}

/// Where things are in an entry, in words.
mod of {
    pub(super) const KEY: usize = 0;
    pub(super) const SLOTS: [usize; 2] = [1, 3];
    pub(super) const START: usize = 5;
    pub(super) const NAME: usize = 6;
}

/// The LSN of a slot that is being changed: above every visible one.
const INVALID: u64 = u64::MAX;

/// What an owner is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PageState {
    /// What the entries say is not complete: it recovers, or it had no room for all partitions.
    Partial,
    /// It shows what is visible.
    Serving,
    /// It has been closed in order.
    Closed,
    /// Its disk failed: what lies behind the visible LSN may be in memory alone.
    Failed,
}

/// Whose page it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageName {
    pub(crate) store: StoreId,
    pub(crate) epoch: Epoch,
    pub(crate) pid: u32,
    /// The running of the machine in which it was made; 0 if not known.
    pub(crate) boot: u128,
}

/// How many words the file of that number has.
pub(crate) fn file_words(number: usize) -> usize {
    if number >= 10 { FILE_WORDS_MAX } else { (FIRST_FILE_WORDS << number).min(FILE_WORDS_MAX) }
}

/// Where an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// The number of its file.
    file: usize,
    /// Its first word there.
    word: usize,
}

impl Place {
    /// Where the entry of that number is.
    fn of(mut entry: usize) -> Place {
        let mut file = 0;
        loop {
            let entries = (file_words(file) - HEAD_WORDS) / ENTRY_WORDS;
            if entry < entries {
                return Place { file, word: HEAD_WORDS + entry * ENTRY_WORDS };
            }
            entry -= entries;
            file += 1;
        }
    }

    /// The entry's words, of those of its file.
    fn entry(self, words: &[AtomicU64]) -> &[AtomicU64] {
        &words[self.word..self.word + ENTRY_WORDS]
    }
}

fn name_sum(words: &[AtomicU64]) -> u64 {
    let mut bytes = [0; at::SUM * 8];
    for (word, out) in words[..at::SUM].iter().zip(bytes.chunks_exact_mut(8)) {
        out.copy_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    u64::from(crc32c(&bytes))
}

/// Says whose the file is; the entries must be zero still.
fn write_name(words: &[AtomicU64], name: &PageName, number: usize) {
    let [store_low, store_high] = halves(u128::from_le_bytes(name.store.0));
    let [boot_low, boot_high] = halves(name.boot);
    let fields = [
        (at::MAGIC, MAGIC),
        (at::STORE, store_low),
        (at::STORE + 1, store_high),
        (at::EPOCH, name.epoch.0),
        (at::PROCESS, u64::from(name.pid)),
        (at::BOOT, boot_low),
        (at::BOOT + 1, boot_high),
        (at::FILE_NUMBER, number as u64),
    ];
    for (word, value) in fields {
        words[word].store(value, Ordering::Relaxed);
    }
    words[at::SUM].store(name_sum(words), Ordering::Release);
}

/// Whose file of a page this is, and which; `None` if it is none, or not made to the end.
fn read_name(words: &[AtomicU64]) -> Option<(PageName, usize)> {
    let load = |word: usize| words[word].load(Ordering::Relaxed);
    let sum = load(at::SUM);
    fence(Ordering::Acquire);
    if words.len() < HEAD_WORDS || load(at::MAGIC) != MAGIC || sum != name_sum(words) {
        return None;
    }
    let wide = |word: usize| u128::from(load(word)) | u128::from(load(word + 1)) << 64;
    let name = PageName {
        store: StoreId(wide(at::STORE).to_le_bytes()),
        epoch: Epoch(load(at::EPOCH)),
        pid: u32::try_from(load(at::PROCESS)).ok()?,
        boot: wide(at::BOOT),
    };
    Some((name, usize::try_from(load(at::FILE_NUMBER)).ok()?))
}

/// The low and the high half.
fn halves(wide: u128) -> [u64; 2] {
    let (low, high) = (wide & u128::from(u64::MAX), wide >> 64);
    [low, high].map(|half| u64::try_from(half).unwrap_or(u64::MAX))
}

fn write_state(head: &[AtomicU64], state: PageState) {
    let number = match state {
        PageState::Partial => 0,
        PageState::Serving => 1,
        PageState::Closed => 2,
        PageState::Failed => 3,
    };
    head[at::STATE].store(number, Ordering::SeqCst);
}

/// Shows that everything is complete, unless the owner has ended meanwhile.
fn complete(head: &[AtomicU64]) -> bool {
    head[at::STATE].compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

fn read_state(head: &[AtomicU64]) -> PageState {
    let number = head[at::STATE].load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    match number {
        1 => PageState::Serving,
        2 => PageState::Closed,
        3 => PageState::Failed,
        _ => PageState::Partial,
    }
}

/// Shows everything up to `lsn`, whose slots are filled. `true`: somebody waits and must be woken.
fn publish(head: &[AtomicU64], lsn: Lsn) -> bool {
    head[at::VISIBLE].store(lsn.0, Ordering::Release);
    // Either this sees that somebody waits, or who begins to wait sees the new LSN.
    if keeps(RaceSite::PageFence) {
        fence(Ordering::SeqCst);
    }
    raise(head)
}

/// Tells those who wait to look again; `true` if there may be some.
fn raise(head: &[AtomicU64]) -> bool {
    // One look when nobody waits. A reader that was killed while it waited costs one wake-up and no more.
    if head[at::WAITING].load(Ordering::Relaxed) == 0 {
        return false;
    }
    head[at::WAITING].store(0, Ordering::SeqCst);
    head[at::NEWS].fetch_add(1, Ordering::SeqCst);
    true
}

/// Says that somebody is about to wait; gives what the low half of the word of news is. The caller asks once more
/// whether there is anything new, and only then waits for that word to change.
fn begin_wait(head: &[AtomicU64]) -> u32 {
    let seen = head[at::NEWS].load(Ordering::SeqCst);
    head[at::WAITING].store(1, Ordering::SeqCst);
    fence(Ordering::SeqCst);
    low_half(seen)
}

fn low_half(word: u64) -> u32 {
    u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

fn visible(head: &[AtomicU64]) -> Lsn {
    let lsn = head[at::VISIBLE].load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    Lsn(lsn)
}

fn key_of(topic: TopicId, partition: PartitionId) -> u64 {
    u64::from(topic.0) << 32 | u64::from(partition.0)
}

fn read_key(entry: &[AtomicU64]) -> Option<(TopicId, PartitionId)> {
    let key = entry[of::KEY].load(Ordering::Relaxed);
    fence(Ordering::Acquire);
    let (topic, partition) = (low_half(key >> 32), low_half(key));
    (topic != 0).then_some((TopicId(topic), PartitionId(partition)))
}

/// A topic's name in 64 bits (FNV-1a). A claim whose making failed may name an id that went to another topic since;
/// by this it is seen.
fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Fills an entry that nobody knows yet.
fn begin_entry(entry: &[AtomicU64], (topic, name): (TopicId, u64), partition: PartitionId, watched: Watched) {
    let Watched { start, end } = watched;
    entry[of::NAME].store(name, Ordering::Relaxed);
    entry[of::START].store(start.0, Ordering::Relaxed);
    entry[of::SLOTS[1]].store(INVALID, Ordering::Relaxed);
    entry[of::SLOTS[0] + 1].store(end.0, Ordering::Relaxed);
    // As of everything visible so far: nothing was ever appended, or the owner does not serve yet.
    entry[of::SLOTS[0]].store(0, Ordering::Relaxed);
    entry[of::KEY].store(key_of(topic, partition), Ordering::Release);
}

/// Takes an entry away: its topic is deleted.
fn clear_entry(entry: &[AtomicU64]) {
    entry[of::KEY].store(0, Ordering::SeqCst);
    for slot in of::SLOTS {
        entry[slot].store(INVALID, Ordering::SeqCst);
    }
}

/// Says where the partition ends as of `lsn`, which is above what is visible. Only the owner calls it, one at a time.
fn set_end(entry: &[AtomicU64], lsn: Lsn, end: LogOffset, visible: Lsn) {
    let [first, second] = of::SLOTS.map(|slot| entry[slot].load(Ordering::Relaxed));
    // The slot of what is visible stays. A slot above it belongs to a group that is not visible yet: the new end takes
    // its place, since everything of such groups becomes visible at once, by the last of them.
    let slot = match (first > visible.0, second > visible.0) {
        (true, _) => of::SLOTS[0],
        (false, true) => of::SLOTS[1],
        (false, false) if (first <= second) == keeps(RaceSite::OlderSlot) => of::SLOTS[0],
        (false, false) => of::SLOTS[1],
    };
    if keeps(RaceSite::SlotIsMarked) {
        entry[slot].store(INVALID, Ordering::Relaxed);
    }
    fence(Ordering::Release);
    entry[slot + 1].store(end.0, Ordering::Relaxed);
    entry[slot].store(lsn.0, Ordering::Release);
}

/// Where the partition ended as of `lsn`; `None` when the owner has gone on too far to tell.
fn end_at(entry: &[AtomicU64], lsn: Lsn) -> Option<LogOffset> {
    let believed = of::SLOTS.into_iter().filter_map(|slot| {
        let before = entry[slot].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let end = entry[slot + 1].load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        let after = entry[slot].load(Ordering::Relaxed);
        (before == after && before <= lsn.0).then_some((before, slot, LogOffset(end)))
    });
    let (version, slot, end) = believed.max()?;
    // While one was looked at, the other may have been filled twice over: then the newest at or below `lsn` is gone.
    fence(Ordering::Acquire);
    let is_still_there = entry[slot].load(Ordering::Relaxed) == version;
    (is_still_there || !keeps(RaceSite::SlotIsStillThere)).then_some(end)
}

fn set_start(entry: &[AtomicU64], start: LogOffset) {
    entry[of::START].fetch_max(start.0, Ordering::SeqCst);
}

fn start(entry: &[AtomicU64]) -> LogOffset {
    LogOffset(entry[of::START].load(Ordering::Relaxed))
}
