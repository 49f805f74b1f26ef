//! A simulated machine for Oncelog: a disk that loses what was not synced, a clock that stands still, and histories of
//! operations checked against a model that a child could read.
//!
//! ```text
//! history (one seed) -> Store on SimDisk -> crash -> recovery -> observe -> equal to Model after some prefix?
//! ```
//!
//! Everything follows from the seed: no thread is spawned, no clock is read. A violation names its seed, and the seed
//! brings it back.

pub mod clock;
mod dice;
pub mod disk;
pub mod history;
pub mod lanes;
pub mod model;
pub mod mutants;
pub mod observe;
pub mod rot;
pub mod schema;
