//! The same work from many threads at once.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::Result;
use crate::figures::{Latency, Timed};

/// What each thread does.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) calls: usize,
    /// Calls before those, not timed.
    pub(crate) warm_up: usize,
    /// One of so many calls is timed by itself, with two readings of the clock.
    pub(crate) sample: usize,
}

/// One thread for each of `workers`, which is called with the number of the call. Timed: from the moment when all stand
/// ready until the last has its last answer.
pub(crate) fn together<W>(workers: impl IntoIterator<Item = W>, plan: Plan) -> Result<Timed>
where
    W: FnMut(usize) -> Result<()> + Send,
{
    let workers: Vec<W> = workers.into_iter().collect();
    let count = workers.len();
    let (ready, done) = (Barrier::new(count + 1), Barrier::new(count + 1));
    std::thread::scope(|scope| {
        let (ready, done) = (&ready, &done);
        let work = |(thread, mut worker): (usize, W)| {
            scope.spawn(move || {
                let warm = (0..plan.warm_up).try_for_each(&mut worker);
                ready.wait();
                let worked = warm.and_then(|()| run(thread, plan, &mut worker));
                done.wait();
                worked
            })
        };
        let threads: Vec<_> = workers.into_iter().enumerate().map(work).collect();
        ready.wait();
        let start = Instant::now();
        done.wait();
        let elapsed = start.elapsed();
        let mut samples = Vec::new();
        for thread in threads {
            samples.extend(thread.join().map_err(|_| "a thread of the workload panicked")??);
        }
        Ok(Timed { count: (count * plan.calls) as u64, elapsed, latency: Latency::of(samples) })
    })
}

/// The calls of one thread; gives the times of those that were sampled. Threads start at different places of the
/// sampling, so that they do not all read the clock in the same group.
fn run(thread: usize, plan: Plan, worker: &mut impl FnMut(usize) -> Result<()>) -> Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(plan.calls / plan.sample + 1);
    for n in 0..plan.calls {
        if !(n + thread).is_multiple_of(plan.sample) {
            worker(plan.warm_up + n)?;
            continue;
        }
        let start = Instant::now();
        worker(plan.warm_up + n)?;
        samples.push(start.elapsed());
    }
    Ok(samples)
}
