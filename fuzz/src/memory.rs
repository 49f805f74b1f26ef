//! A limit on what one input may make us allocate, whatever lengths and counts it claims.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// More than this above what was in use before an input is a finding.
const LIMIT_BYTES: usize = 64 << 20;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

#[global_allocator]
static ALLOCATOR: Limited = Limited;

/// The system's allocator, which has nothing more to give beyond [`LIMIT`].
struct Limited;

// SAFETY: every call goes to `System` as it came, or is refused with a null pointer, which `alloc` may return at any
// time. The count beside it touches no memory that is handed out.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IN_USE.fetch_add(layout.size(), Relaxed) + layout.size() > LIMIT.load(Relaxed) {
            IN_USE.fetch_sub(layout.size(), Relaxed);
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps to the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `pointer` came from `alloc` above, so from `System`, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `with` under the limit. An allocation beyond it ends the process, which the fuzzer reports with its input.
pub(crate) fn within_limit<R>(with: impl FnOnce() -> R) -> R {
    LIMIT.store(IN_USE.load(Relaxed) + LIMIT_BYTES, Relaxed);
    let result = with();
    LIMIT.store(usize::MAX, Relaxed);
    result
}
