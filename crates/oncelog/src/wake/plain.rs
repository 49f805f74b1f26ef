//! Locks and words that are no steps of a model: those of `std` also under a model checker, which does not see them.
//!
//! For the lowest places only: a file in memory, the blocks under the embedded library. The library keeps locks of
//! `std` of its own while it calls us there, and a checker that changes threads at such a place, all of them being one
//! thread of the machine, would wait for such a lock for ever. So each call into the library is one step of a model.
//!
//! Rule: whoever holds one takes nothing else of `wake`, and waits for nothing.

#[cfg(not(any(loom, shuttle)))]
pub(crate) use super::{AtomicBool, AtomicU64, Mutex, RwLock};
#[cfg(any(loom, shuttle))]
pub(crate) use models::{AtomicBool, AtomicU64, Mutex, RwLock};

#[cfg(any(loom, shuttle))]
mod models {
    use std::sync::{self, MutexGuard, PoisonError, RwLockReadGuard, RwLockWriteGuard};

    pub(crate) use sync::atomic::{AtomicBool, AtomicU64};

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Mutex<T> {
            Mutex(sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T>(sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub(crate) fn new(value: T) -> RwLock<T> {
            RwLock(sync::RwLock::new(value))
        }

        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            self.0.read().unwrap_or_else(PoisonError::into_inner)
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            self.0.write().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
