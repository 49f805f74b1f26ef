//! The process that is killed: loads the input and counts it at the same time, from wherever the last one got to.
//!
//! It knows nothing of kills and has no code for them: it opens the store, asks it how far things are, and goes on.
//! When nobody listens to it any more it ends, so that a demo that is killed leaves no worker behind.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use oncelog::{Committed, PartitionId, Pending, Processor, ProcessorHandle, Store};

use super::input::{Line, Reader};
use super::job::{self, Loaded, Request};
use super::protocol::Message;
use super::{Input, WorkerArguments};
use crate::exit::{self, Failure};
use crate::out;

/// Input that a transaction is ended at, however few lines it is.
const TRANSACTION_BYTES: usize = 4 << 20;
/// Transactions of the loader that may wait for the disk while it fills the next.
const IN_FLIGHT: usize = 4;
/// How often the processor is asked how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// Does the job, telling of it on stdout.
///
/// # Errors
/// Nobody listens. Any other failure has been told on stdout, where the demo listens, and gives only its code.
pub(super) fn run(arguments: &WorkerArguments) -> Result<(), Failure> {
    match work(arguments) {
        Err(Failure::Told { code, message, .. }) => {
            out::line(Message::Failed { code, message: message.clone() })?;
            std::process::exit(code.into())
        }
        other => other,
    }
}

fn work(arguments: &WorkerArguments) -> Result<(), Failure> {
    out::line(Message::Opening)?;
    let store = Store::open(&arguments.store)?;
    let loaded = Loaded::read(&store)?;
    out::line(Message::Ready { loaded: loaded.lines(), frames: store.recovery_report().frames })?;
    let limit = arguments.alert_over;
    let processor = Processor::new(job::PROCESSOR, job::REQUESTS)
        .table(job::TOTALS)
        .output(job::ALERTS)
        .start(&store, move |request, tx| job::count(limit, request, tx))?;
    let mut worker = Worker { store, processor: Some(processor), processed: 0, looked: None };
    let loaded = worker.load(arguments, loaded)?;
    worker.await_processor(loaded)?;
    worker.stop_processor()?;
    worker.store.close()?;
    out::line(Message::Done)
}

struct Worker {
    store: Store,
    processor: Option<ProcessorHandle>,
    processed: u64,
    looked: Option<Instant>,
}

impl Worker {
    /// Appends what is not yet loaded; gives how many lines are done in all.
    fn load(&mut self, arguments: &WorkerArguments, mut loaded: Loaded) -> Result<u64, Failure> {
        let mut reader = Reader::new(input_of(arguments), arguments.repeat, loaded.position);
        let mut waiting: VecDeque<Pending<Committed>> = VecDeque::new();
        loop {
            let Some(pending) = self.load_some(&mut reader, &mut loaded, arguments.transaction_lines)? else { break };
            waiting.push_back(pending);
            if waiting.len() > IN_FLIGHT
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.wait()?;
            }
            self.tell(loaded.lines())?;
            if arguments.pace_ms > 0 {
                std::thread::sleep(Duration::from_millis(arguments.pace_ms));
            }
        }
        for pending in waiting {
            pending.wait()?;
        }
        Ok(loaded.lines())
    }

    /// Hands over one transaction of lines, and with it where the loader stands then. `None` at the end of the input.
    fn load_some(
        &self,
        reader: &mut Reader,
        loaded: &mut Loaded,
        lines_max: u64,
    ) -> Result<Option<Pending<Committed>>, Failure> {
        let mut transaction = self.store.begin()?;
        let mut tx = transaction.tx();
        let (mut lines, mut bytes) = (0, 0);
        while lines < lines_max && bytes < TRANSACTION_BYTES {
            let Some((line, read)) = reader.next()? else { break };
            lines += 1;
            match read {
                Line::Taken(parsed) => {
                    bytes += parsed.text.len();
                    let request = Request { line, amount: parsed.amount, text: parsed.text };
                    tx.append(job::REQUESTS, &parsed.client, &request)?;
                }
                Line::NotParsed => loaded.not_parsed += 1,
                Line::TooLong => loaded.too_long += 1,
            }
        }
        if lines == 0 {
            return Ok(None);
        }
        loaded.position = reader.position();
        loaded.write(&mut tx)?;
        Ok(Some(transaction.submit()?))
    }

    /// Waits until the processor has seen everything.
    fn await_processor(&mut self, loaded: u64) -> Result<(), Failure> {
        while self.look()? > 0 {
            self.tell(loaded)?;
            std::thread::sleep(LOOK / 2);
        }
        self.tell(loaded)
    }

    /// Tells how far things are.
    fn tell(&mut self, loaded: u64) -> Result<(), Failure> {
        if self.looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
            self.look()?;
        }
        out::line(Message::Progress { loaded, processed: self.processed })
    }

    /// Asks how many records are processed; gives how many are not.
    fn look(&mut self) -> Result<u64, Failure> {
        if self.processor.as_ref().is_none_or(ProcessorHandle::is_finished) {
            self.stop_processor()?;
            return Err(Failure::new(exit::FAILURE, "the processor ended before its work was done"));
        }
        let (consumed, ends) = progress(&self.store)?;
        self.looked = Some(Instant::now());
        self.processed = consumed;
        Ok(ends.saturating_sub(consumed))
    }

    fn stop_processor(&mut self) -> Result<(), Failure> {
        Ok(self.processor.take().map_or(Ok(()), ProcessorHandle::stop)?)
    }
}

/// Records that the processor has consumed, and records that there are.
fn progress(store: &Store) -> Result<(u64, u64), Failure> {
    let committed = store.committed_offsets(job::PROCESSOR, job::REQUESTS.name())?;
    let (mut consumed, mut ends) = (0, 0);
    for (partition, next) in (0..).zip(committed) {
        consumed += next.0;
        ends += store.offsets(job::REQUESTS.name(), PartitionId(partition))?.1.0;
    }
    Ok((consumed, ends))
}

fn input_of(arguments: &WorkerArguments) -> Input {
    match &arguments.input {
        Some(path) => Input::Log { path: path.clone(), bytes: arguments.input_bytes },
        None => Input::Orders { records: arguments.records, seed: arguments.seed },
    }
}
