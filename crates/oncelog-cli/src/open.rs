//! How commands come to a store: for looking, beside whoever has it; or as one of its owners, alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncelog::{
    AsEngine as _, Engine, ErrorKind, LogOffset, PartitionId, Store, StoreMode, StoreOptions, StoreReader, Whence,
};

use crate::cli::{LockArguments, StoreArgument};
use crate::exit::{self, Failure};

/// The owner that a store is made with.
pub(crate) const MAIN: &str = "main";

/// Opens the store for looking. Needs no lock, and writes nothing.
///
/// # Errors
/// There is none, or it cannot be read.
pub(crate) fn reader(store: &StoreArgument) -> Result<StoreReader, Failure> {
    StoreReader::open(&store.dir).map_err(|error| no_store(&store.dir, error))
}

/// Takes an owner of a store that is there.
///
/// # Errors
/// There is none, or another process has the owner, or it cannot be opened.
pub(crate) fn owner(store: &StoreArgument, owner: &str, lock: &LockArguments) -> Result<Store, Failure> {
    let opened = options(lock).open_mode(StoreMode::Existing).attach(&store.dir, owner);
    opened.map_err(|error| not_opened(&store.dir, error))
}

/// Takes an owner of a store. Both are made if they are not there.
///
/// # Errors
/// Another process has the owner, or it cannot be opened or made.
pub(crate) fn owner_or_new(store: &StoreArgument, owner: &str, lock: &LockArguments) -> Result<Store, Failure> {
    options(lock).attach(&store.dir, owner).map_err(|error| not_opened(&store.dir, error))
}

/// Takes the owner of a topic, which must be there.
///
/// # Errors
/// As [`owner`]; there is no such topic.
pub(crate) fn owner_of_topic(store: &StoreArgument, topic: &str, lock: &LockArguments) -> Result<Store, Failure> {
    let info = topic_of(&reader(store)?, topic)?;
    owner(store, &info.owner, lock)
}

/// What the topic of that name is.
///
/// # Errors
/// There is none.
pub(crate) fn topic_of(reader: &StoreReader, topic: &str) -> Result<oncelog::TopicInfo, Failure> {
    reader.topic(topic).map_err(no_topic)
}

/// The engine behind a store, for those who know no types.
pub(crate) fn engine(store: &Store) -> Arc<dyn Engine> {
    store.as_engine()
}

fn options(lock: &LockArguments) -> StoreOptions {
    let options = StoreOptions::new().standby(Duration::from_secs(lock.wait));
    if lock.takeover { options.takeover() } else { options }
}

fn not_opened(dir: &Path, error: oncelog::Error) -> Failure {
    let Some(pid) = error.holder_pid().filter(|_| error.kind() == ErrorKind::Locked) else {
        return no_store(dir, error);
    };
    Failure::from(error).hint(format!(
        "stop {}, or wait for it with --wait SECONDS, or kill it with --takeover; `consume` without a group, `topic \
         list`, `stats` and the like work beside it",
        exit::process(pid)
    ))
}

/// A failure, and where there is no store how to name one.
pub(crate) fn no_store(dir: &Path, error: oncelog::Error) -> Failure {
    let is_missing = error.kind() == ErrorKind::NotFound && error.file() == Some(dir);
    let failure = Failure::from(error);
    if is_missing {
        failure.hint("name the store with --store DIR or ONCELOG_STORE; `oncelog topic create NAME` makes one")
    } else {
        failure
    }
}

fn no_topic(error: oncelog::Error) -> Failure {
    let is_missing = error.kind() == ErrorKind::NotFound;
    let failure = Failure::from(error);
    if is_missing { failure.hint("`oncelog topic list` shows what there is") } else { failure }
}

/// A place behind the end of a partition is a wrong call.
///
/// # Errors
/// It is one.
pub(crate) fn check_place(
    reader: &StoreReader,
    topic: &str,
    partitions: &[PartitionId],
    place: Whence,
) -> Result<(), Failure> {
    let Whence::Position(position) = place else { return Ok(()) };
    for partition in partitions {
        let (_, end) = reader.offsets(topic, *partition)?;
        if position > end {
            let what = format!("offset {position} is behind the end of partition {partition}, which is {end}");
            return Err(Failure::usage_of(what));
        }
    }
    Ok(())
}

/// Where a place is in each of these partitions.
///
/// # Errors
/// It is behind the end of one.
pub(crate) fn places(
    reader: &StoreReader,
    topic: &str,
    partitions: &[PartitionId],
    place: Whence,
) -> Result<Vec<(PartitionId, LogOffset)>, Failure> {
    check_place(reader, topic, partitions, place)?;
    Ok(reader.cursor_over(topic, partitions, place)?.positions())
}
