//! All workloads, in the order of the tables.

mod buffered;
mod durable;
mod offsets;
mod once;
mod read;

pub(crate) use offsets::{commit_one, open_consumers};

use crate::workload::Workload;

/// One of each.
pub(crate) fn all() -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(buffered::BATCHES_100),
        Box::new(buffered::BATCHES_1K),
        Box::new(buffered::ONES_100),
        Box::new(buffered::ONES_LINGER_100),
        Box::new(durable::THREADS_1),
        Box::new(durable::THREADS_8),
        Box::new(durable::THREADS_64),
        Box::new(offsets::DURABLE_8),
        Box::new(read::RECORDS_100),
        Box::new(read::RECORDS_1K),
        Box::new(read::FUNCTION_100),
        Box::new(read::PROCESSOR_100),
        Box::new(once::ONE_BY_ONE),
        Box::new(once::ONE_AHEAD),
        Box::new(once::HUNDREDS),
    ]
}

/// Those of a short run, with records of that size.
pub(crate) fn of_short_run(record_bytes: usize) -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(durable::THREADS_1.of(record_bytes)),
        Box::new(durable::THREADS_8.of(record_bytes)),
        Box::new(buffered::BATCHES_100.of(record_bytes)),
        Box::new(read::RECORDS_100.of(record_bytes)),
    ]
}
