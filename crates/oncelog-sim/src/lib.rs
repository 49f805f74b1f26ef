//! A simulated machine for Oncelog: a disk that loses what was not synced, and histories checked against a plain model.
pub mod disk;
