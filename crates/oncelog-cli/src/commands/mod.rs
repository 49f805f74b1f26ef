//! What the command can do, one file for each noun: its arguments, and what is done with them.

pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod checkpoint;
pub(crate) mod compaction;
pub(crate) mod completions;
pub(crate) mod consume;
pub(crate) mod doctor;
pub(crate) mod dump;
pub(crate) mod group;
pub(crate) mod keep;
pub(crate) mod man;
pub(crate) mod produce;
pub(crate) mod producer;
pub(crate) mod repair;
pub(crate) mod stats;
pub(crate) mod table;
pub(crate) mod topic;
pub(crate) mod verify;
