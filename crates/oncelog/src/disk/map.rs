//! A file as memory that several processes share, and waiting for a change of a word of it: the only memory map of the
//! project, and the only place of `unsafe`.
//!
//! Used for the small page that tells readers in other processes how far the log is visible, never for data: what
//! fails on the disk would be a signal here and not an error. Invariants: the file is as long as the map when it is
//! mapped, has all of its blocks, and is never cut by Oncelog (it is replaced by another file, and removed).

use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{MapAccess, SharedMap};
use crate::wake::{AtomicU32, AtomicU64};

/// A mapped file. Unmapped when dropped.
pub(super) struct FileMap {
    start: NonNull<AtomicU64>,
    words: usize,
    access: MapAccess,
}

impl FileMap {
    /// Maps the first `words` words of `file`, which must be open for what `access` says.
    pub(super) fn of(file: &File, words: usize, access: MapAccess) -> io::Result<FileMap> {
        let bytes = words.checked_mul(size_of::<u64>()).filter(|bytes| *bytes > 0);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        if file.metadata()?.len() < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is shorter than its map"));
        }
        let protection = match access {
            MapAccess::Read => ProtFlags::READ,
            MapAccess::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the system chooses an address that nothing else uses, so no memory of this program is touched. What
        // other processes do to the same words they do by atomic operations of the same size, as we do.
        #[allow(unsafe_code, reason = "a memory map cannot be had without")]
        let start = unsafe { mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(FileMap { start, words, access })
    }
}

impl SharedMap for FileMap {
    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map is page aligned, `words` words long, lives as long as `self`, and is only ever seen through
        // shared references to atomics, for which every bit pattern is a value. Words of a map for reading are loaded
        // relaxed only, which is defined for memory that cannot be written; see `SharedMap::words`.
        #[allow(unsafe_code, reason = "this is where the map becomes words")]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.words)
        }
    }

    fn access(&self) -> MapAccess {
        self.access
    }

    #[cfg(target_os = "linux")]
    fn wait(&self, word: usize, seen: u32, limit: Duration) {
        use rustix::thread::futex::{Flags, Timespec, wait};
        let Some(low) = self.low_half(word) else { return };
        let limit = Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // Whatever it says (woken, changed before, interrupted, time over): the caller looks again.
        let _ = wait(low, Flags::empty(), seen, Some(&limit));
    }

    #[cfg(target_os = "linux")]
    fn wake(&self, word: usize) {
        use rustix::thread::futex::{Flags, wake};
        if let Some(low) = self.low_half(word) {
            // It fails only for an address that is no memory.
            let _ = wake(low, Flags::empty(), i32::MAX.cast_unsigned());
        }
    }

    /// Looks again after a short while: there is no waiting for a word across processes here.
    #[cfg(not(target_os = "linux"))]
    fn wait(&self, word: usize, seen: u32, limit: Duration) {
        let unchanged =
            self.words().get(word).is_some_and(|word| word.load(crate::wake::Ordering::Relaxed) as u32 == seen);
        if unchanged {
            let (never, changed) = (crate::wake::Mutex::new(()), crate::wake::Condvar::new());
            drop(changed.wait_timeout(never.lock(), limit.min(Duration::from_millis(1))));
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn wake(&self, _word: usize) {}
}

#[cfg(target_os = "linux")]
impl FileMap {
    /// The low half of a word, for the kernel to look at.
    fn low_half(&self, word: usize) -> Option<&AtomicU32> {
        let whole = std::ptr::from_ref(self.words().get(word)?).cast::<AtomicU32>();
        let low = if cfg!(target_endian = "big") { whole.wrapping_add(1) } else { whole };
        // SAFETY: half of a word that lives as long as `self`, aligned as half a word must be. This program never loads
        // or stores through it: it is handed to the kernel as an address.
        #[allow(unsafe_code, reason = "the kernel waits on half a word")]
        unsafe {
            low.as_ref()
        }
    }
}

impl Drop for FileMap {
    fn drop(&mut self) {
        // SAFETY: this is the whole map as it was made, and no reference into it outlives `self`.
        #[allow(unsafe_code, reason = "what was mapped is unmapped")]
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
        debug_assert!(unmapped.is_ok(), "a map can be unmapped once");
    }
}

// SAFETY: the pointer is to shared memory that belongs to no thread, and all access is atomic.
#[allow(unsafe_code, reason = "a raw pointer is neither by itself")]
unsafe impl Send for FileMap {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "a raw pointer is neither by itself")]
unsafe impl Sync for FileMap {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wake::{Arc, Ordering};

    fn file(bytes: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(bytes).unwrap();
        file
    }

    #[test]
    fn two_maps_of_a_file_are_one_memory() {
        let file = file(4096);
        let (one, other) =
            (FileMap::of(&file, 512, MapAccess::Write).unwrap(), FileMap::of(&file, 512, MapAccess::Read).unwrap());
        one.words()[511].store(7, Ordering::SeqCst);
        assert_eq!(other.words()[511].load(Ordering::Relaxed), 7);
        assert_eq!(other.words().len(), 512);
    }

    #[test]
    fn a_file_that_is_too_short_is_not_mapped() {
        let refused = FileMap::of(&file(4095), 512, MapAccess::Read).map(drop).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
        assert_eq!(
            FileMap::of(&file(8), 0, MapAccess::Read).map(drop).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    #[test]
    fn who_waits_is_woken_through_another_map() {
        let file = file(4096);
        let wakes = FileMap::of(&file, 512, MapAccess::Write).unwrap();
        let waits = Arc::new(FileMap::of(&file, 512, MapAccess::Read).unwrap());
        let theirs = Arc::clone(&waits);
        let waiter = std::thread::spawn(move || {
            while theirs.words()[3].load(Ordering::Relaxed) == 0 {
                theirs.wait(3, 0, Duration::from_secs(60));
            }
        });
        wakes.words()[3].store(1, Ordering::SeqCst);
        wakes.wake(3);
        waiter.join().unwrap();
        // Changed before: no wait at all.
        waits.wait(3, 0, Duration::from_secs(60));
    }
}
