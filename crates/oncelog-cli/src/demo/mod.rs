//! `oncelog demo`: a stream is counted by a process that is killed again and again, and nothing is lost or counted
//! twice.
//!
//! ```text
//! parent: recount of the input ---------------------------------------------------> verify --> summary
//!    |  starts, kills, starts again                                                  ^
//!    `--> worker: input --load--> topic requests --processor--> table totals, topic alerts
//! ```
//!
//! Invariants: the demo believes nothing that the worker says about its result, it reads the store; a number in the
//! summary is counted, never assumed; a kill counts only if it is proven.
//!
//! * [`arguments`]: what can be told;
//! * the job: [`job`] is what a user of the library would write; [`input`], [`parse`] and [`orders`] feed it,
//!   [`worker`] runs it and speaks [`protocol`];
//! * the show: [`parent`] and [`home`] around it, [`life`] for one worker, [`kills`] for the plan of kills;
//! * the check: [`recount`] and [`verify`], told by [`summary`].

mod arguments;
mod dice;
mod home;
mod input;
mod job;
mod kills;
mod life;
mod orders;
mod parent;
mod parse;
mod protocol;
mod recount;
mod summary;
mod verify;
mod worker;

pub(crate) use arguments::{DemoArguments, WorkerArguments};

use crate::exit::Failure;
use input::Input;

/// Runs `oncelog demo`.
///
/// # Errors
/// As the demo says.
pub(crate) fn run(arguments: &DemoArguments) -> Result<(), Failure> {
    parent::run(arguments)
}

/// Runs the worker of a demo.
///
/// # Errors
/// As the worker says.
pub(crate) fn work(arguments: &WorkerArguments) -> Result<(), Failure> {
    worker::run(arguments)
}
