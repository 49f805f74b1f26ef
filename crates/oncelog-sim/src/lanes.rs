//! Work spread over the cores of the machine. Each piece of work is one run from one seed on one thread, so nothing of
//! what a run does depends on how many there are.

use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Does `work` with each of `items` on all cores, and hands the results to `take`, one at a time and in no order, until
/// that breaks off or there are no more items.
pub fn spread<T: Send, R: Send>(
    items: impl IntoIterator<Item = T, IntoIter: Send>,
    work: impl Fn(T) -> R + Sync,
    take: impl FnMut(R) -> ControlFlow<()> + Send,
) {
    let lanes = thread::available_parallelism().map_or(1, NonZero::get);
    // `None` once it was broken off.
    let items = Mutex::new(Some(items.into_iter()));
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).as_mut().and_then(Iterator::next);
    let take = Mutex::new(take);
    let lane = || {
        while let Some(item) = next() {
            let result = work(item);
            let mut take = take.lock().unwrap_or_else(PoisonError::into_inner);
            let is_over = items.lock().unwrap_or_else(PoisonError::into_inner).is_none();
            if !is_over && take(result).is_break() {
                *items.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    };
    thread::scope(|scope| {
        (1..lanes).for_each(|_| drop(scope.spawn(lane)));
        lane();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once() {
        let mut seen = Vec::new();
        spread(
            0..1000,
            |item| item * 2,
            |result| {
                seen.push(result);
                ControlFlow::Continue(())
            },
        );
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).map(|item| item * 2).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_taken_once_it_is_broken_off() {
        let mut taken = 0;
        spread(
            1..,
            |item: u64| item,
            |_| {
                taken += 1;
                if taken == 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        assert_eq!(taken, 10);
    }
}
