//! Consuming without being remembered: beside whoever writes, woken when records come.

use std::time::Duration;

use oncelog::{ReaderCursor, Step};

use super::ConsumeArguments;
use super::format::Format;
use crate::exit::Failure;
use crate::open;
use crate::out::{self, Stdout};

/// How long it waits at most before it looks whether anybody still reads what it prints.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Prints the records.
///
/// # Errors
/// There is no such topic, partition or offset; the store failed, or what was printed could not be written.
pub(super) fn run(arguments: &ConsumeArguments, format: &Format) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let info = open::topic_of(&reader, &arguments.topic)?;
    let partitions = arguments.partitions(info.partitions)?;
    open::check_place(&reader, &arguments.topic, &partitions, arguments.from.0)?;
    let mut cursor = reader.cursor_over(&arguments.topic, &partitions, arguments.from.0)?;
    let mut printer = Printer { format, out: Stdout::new(), left: arguments.max.unwrap_or(u64::MAX), line: Vec::new() };
    while printer.left > 0 {
        match printer.print(&mut cursor) {
            Err(failure) => {
                // What came before it is told first.
                printer.out.flush()?;
                match cursor.gap().filter(|_| arguments.skip_gaps) {
                    Some((partition, lost)) => {
                        out::complain(&format!("partition {partition}: lost {}..{}", lost.start, lost.end));
                        cursor.seek(partition, lost.end);
                        continue;
                    }
                    None => return Err(failure),
                }
            }
            Ok(()) => printer.out.flush()?,
        }
        if !arguments.follow {
            return Ok(());
        }
        while printer.left > 0 && !cursor.wait(WAIT_MAX)? {
            out::check_read()?;
        }
    }
    printer.out.flush()
}

struct Printer<'a> {
    format: &'a Format,
    out: Stdout,
    /// Records to be printed still.
    left: u64,
    line: Vec<u8>,
}

impl Printer<'_> {
    /// Prints what is there.
    fn print(&mut self, cursor: &mut ReaderCursor) -> Result<(), Failure> {
        let topic = cursor.topic().name.clone();
        let mut failed = None;
        let polled = cursor.poll(|partition, record| {
            self.line.clear();
            let written = self.format.write(&topic, partition, &record, &mut self.line);
            match written.and_then(|()| self.out.write(&self.line)) {
                Ok(()) => {
                    self.left -= 1;
                    Ok(if self.left > 0 { Step::Next } else { Step::NextAndReturn })
                }
                Err(failure) => {
                    failed = Some(failure);
                    Ok(Step::Stay)
                }
            }
        });
        match failed {
            Some(failure) => Err(failure),
            None => polled.map(drop).map_err(super::told),
        }
    }
}
