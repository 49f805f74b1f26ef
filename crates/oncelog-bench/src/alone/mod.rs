//! What concerns the store by itself: sizes, openings, wake-ups, how cost grows. No yardstick runs beside it; where a
//! figure is a ratio, both of its parts are of the same run.
//!
//! Reading order: [`large`] (one large store, looked at from many sides), [`wake_up`], [`tables`], [`names`].

mod large;
mod names;
mod tables;
mod wake_up;

use std::path::Path;

pub(crate) use large::{read_all, write_on};
pub(crate) use wake_up::wait_for_records;

use crate::Result;
use crate::figures::Spread;
use crate::options::Options;
use crate::print;
use crate::scratch::Scratch;
use crate::workload::Size;

/// How large a run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) size: Size,
    pub(crate) rounds: usize,
    /// Payload bytes of the large store.
    pub(crate) bytes: u64,
    /// How many topics and consumers are many.
    pub(crate) names: usize,
}

/// One thing that is measured of the store alone.
pub(crate) trait Alone {
    /// Short, for tables and `--only`.
    fn name(&self) -> &'static str;
    /// What is done, and what of it is measured.
    fn about(&self) -> &'static str;
    /// Measures in `dir`, which is empty.
    fn run(&self, dir: &Path, scale: Scale) -> Result<Vec<Value>>;
}

/// A figure, over its rounds.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) what: &'static str,
    pub(crate) spread: Spread,
    pub(crate) unit: &'static str,
    /// `-` where there is none.
    pub(crate) goal: &'static str,
}

impl Value {
    /// Of one number for each round.
    fn of(
        what: &'static str,
        rounds: impl IntoIterator<Item = f64>,
        unit: &'static str,
        goal: &'static str,
    ) -> Result<Value> {
        let spread = Spread::of(rounds).ok_or("nothing was measured")?;
        Ok(Value { what, spread, unit, goal })
    }
}

/// What one of them has found.
pub(crate) struct Found {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) values: Vec<Value>,
}

/// One of each, in the order of the table.
pub(crate) fn all() -> Vec<Box<dyn Alone>> {
    vec![Box::new(large::Large), Box::new(wake_up::WakeUp), Box::new(tables::Tables), Box::new(names::Names)]
}

/// Runs them one after the other in directories inside `dir`.
pub(crate) fn run(chosen: &[Box<dyn Alone>], dir: &Path, options: &Options) -> Result<Vec<Found>> {
    let scale = options.scale();
    let mut found = Vec::new();
    for alone in chosen {
        print::note(&format!("{} ...", alone.name()));
        let scratch = Scratch::inside(dir, alone.name())?;
        let values = alone.run(scratch.path(), scale).map_err(|error| format!("{}: {error}", alone.name()))?;
        scratch.clear()?;
        found.push(Found { name: alone.name(), about: alone.about(), values });
    }
    Ok(found)
}
