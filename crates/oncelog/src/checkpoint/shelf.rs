//! What all stores have in common: a shelf keeps bytes under keys, and everything that is decided about them is here.

use std::path::PathBuf;

use super::bytes::{self, Flaw};
use super::key::{Key, admit, current, surplus};
use super::state::{CheckpointId, CheckpointState};
use super::store::{CheckpointEntry, DamagedCheckpoint, LatestCheckpoint};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::name_complaint;

/// Keeps the bytes of checkpoints; decides nothing.
pub(crate) trait Shelf: Send + Sync {
    /// How many of a stream there may be.
    fn max_per_stream(&self) -> usize;
    /// Where the bytes of a checkpoint are, where they are in a place of their own.
    fn place(&self, stream: &str, key: Key) -> Option<PathBuf>;
    /// What there is of a stream. Needs no lock: what it shows may be gone a moment later.
    fn view(&self, stream: &str) -> Result<Box<dyn View + '_>>;
    /// Has `decide` decide over what there is, with no other change between, and does so: first the write, which is
    /// durable before anything goes. Gives how many went. `decide` may be asked again.
    fn change(&self, stream: &str, decide: &mut dyn FnMut(&mut dyn View) -> Result<Change>) -> Result<u64>;
    /// The streams of which there may be something.
    fn stream_names(&self) -> Result<Vec<String>>;
}

/// The checkpoints of one stream.
pub(crate) trait View {
    /// All of them, in no order.
    fn keys(&mut self) -> Result<Vec<Key>>;
    /// The bytes of one; `None` where it has gone meanwhile.
    fn read(&mut self, key: Key) -> Result<Option<Vec<u8>>>;
    /// What was seen stays: nothing of it is such as a power cut could take back.
    fn confirm(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What is to become of a stream.
#[derive(Default)]
pub(crate) struct Change {
    /// What is written, in place of what has the key.
    pub(crate) write: Option<(Key, Vec<u8>)>,
    /// What is removed then.
    pub(crate) remove: Vec<Key>,
}

/// How often a stream is looked at again that others change meanwhile.
const LOOKS_MAX: u32 = 100;

pub(crate) fn save(shelf: &impl Shelf, state: &CheckpointState) -> Result<()> {
    let stream = stream_of(&state.id.stream_id)?;
    let (key, bytes) = (key_of(state), bytes::encode(state)?);
    let change = shelf.change(stream, &mut |view| {
        let max = shelf.max_per_stream();
        let (keys, good) = settled(stream, || {
            let keys = view.keys()?;
            admit(stream, &keys, key)?;
            if keys.iter().all(|other| other.lineage != key.lineage) {
                // A line begins here, and parts from what those before it say.
                return Ok(Some((keys, None)));
            }
            Ok(newest_good(shelf, view, stream, &keys)?.map(|newest| (keys, newest.good)))
        })?;
        if let Some(good) = &good {
            follow(good, state, max)?;
        }
        let newer = good.map(|good| key_of(&good)).filter(|good| good.age() > key.age());
        Ok(Change { write: Some((key, bytes.clone())), remove: surplus(&keys, key, newer, max) })
    });
    change.map(drop)
}

fn key_of(state: &CheckpointState) -> Key {
    Key { sequence: state.id.sequence, lineage: state.lineage }
}

/// Whether `new` may be saved on the line of which `good` is the newest good one.
fn follow(good: &CheckpointState, new: &CheckpointState, max: usize) -> Result<()> {
    let CheckpointId { stream_id: stream, sequence, .. } = &new.id;
    let at = good.id.sequence;
    if *sequence >= at && new.watermark_ns < good.watermark_ns {
        let (back, was) = (new.watermark_ns, good.watermark_ns);
        let what = format!("stream {stream:?}: the watermark {back} ns of {sequence} is before {was} ns, that of {at}");
        return Err(Error::invalid(what));
    }
    if *sequence < at && max <= 1 {
        let what = format!("stream {stream:?} is at {at}: there is room for one, and {sequence} is older");
        return Err(Error::invalid(what));
    }
    Ok(())
}

pub(crate) fn latest(shelf: &impl Shelf, stream: &str) -> Result<Option<LatestCheckpoint>> {
    let stream = stream_of(stream)?;
    let (mut view, Newest { good, damaged }) = settled(stream, || {
        let mut view = shelf.view(stream)?;
        let keys = view.keys()?;
        Ok(newest_good(shelf, &mut *view, stream, &keys)?.map(|newest| (view, newest)))
    })?;
    for DamagedCheckpoint { sequence, error, .. } in &damaged {
        tracing::warn!(stream, sequence, %error, "a checkpoint is passed over");
    }
    match good {
        Some(state) => view.confirm().map(|()| Some(LatestCheckpoint { state, damaged })),
        None if damaged.is_empty() => Ok(None),
        None => Err(none_readable(stream, damaged)),
    }
}

/// Looks until nothing that was there a moment ago is gone, which is `None`.
fn settled<T>(stream: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for _ in 0..LOOKS_MAX {
        if let Some(seen) = look()? {
            return Ok(seen);
        }
    }
    Err(Error::new(ErrorKind::Unavailable, format!("stream {stream:?}: its checkpoints go faster than they are read")))
}

/// What the current line ends with.
struct Newest {
    /// `None` where none can be read.
    good: Option<CheckpointState>,
    /// What is newer and cannot be read, the newest first.
    damaged: Vec<DamagedCheckpoint>,
}

/// `None`: one of them has gone meanwhile.
fn newest_good(shelf: &impl Shelf, view: &mut dyn View, stream: &str, keys: &[Key]) -> Result<Option<Newest>> {
    let mut damaged = Vec::new();
    for key in current(keys) {
        match read(shelf, view, stream, key) {
            Ok(Some(state)) => return Ok(Some(Newest { good: Some(state), damaged })),
            Ok(None) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                damaged.push(DamagedCheckpoint { sequence: key.sequence, lineage: key.lineage, error });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(Newest { good: None, damaged }))
}

fn none_readable(stream: &str, damaged: Vec<DamagedCheckpoint>) -> Error {
    let what = format!("stream {stream:?}: none of its checkpoints can be read, {} were tried", damaged.len());
    let error = Error::new(ErrorKind::Corrupt, what);
    let Some(newest) = damaged.into_iter().next() else { return error };
    match newest.error.file().map(ToOwned::to_owned) {
        Some(file) => error.in_file(&file),
        None => error,
    }
    .because(newest.error)
}

pub(crate) fn get(shelf: &impl Shelf, stream: &str, sequence: u64) -> Result<Option<CheckpointState>> {
    let stream = stream_of(stream)?;
    settled(stream, || {
        let mut view = shelf.view(stream)?;
        let keys = view.keys()?.into_iter().filter(|key| key.sequence == sequence);
        let Some(key) = keys.max_by_key(Key::age) else { return Ok(Some(None)) };
        match read(shelf, &mut *view, stream, key)? {
            Some(state) => view.confirm().map(|()| Some(Some(state))),
            None => Ok(None),
        }
    })
}

pub(crate) fn list(shelf: &impl Shelf, stream: &str) -> Result<Vec<CheckpointEntry>> {
    let mut view = shelf.view(stream_of(stream)?)?;
    let mut keys = view.keys()?;
    if !keys.is_empty() {
        view.confirm()?;
    }
    keys.sort_unstable_by_key(|key| (key.sequence, key.lineage.number));
    let current = current(&keys);
    let entry =
        |key: &Key| CheckpointEntry { sequence: key.sequence, lineage: key.lineage, is_current: current.contains(key) };
    Ok(keys.iter().map(entry).collect())
}

pub(crate) fn delete_before(shelf: &impl Shelf, stream: &str, sequence: u64) -> Result<u64> {
    let stream = stream_of(stream)?;
    if shelf.view(stream)?.keys()?.is_empty() {
        return Ok(0);
    }
    shelf.change(stream, &mut |view| {
        let (mut keys, newest) = settled(stream, || {
            let keys = view.keys()?;
            if keys.iter().all(|key| key.sequence >= sequence) {
                return Ok(Some((Vec::new(), Newest { good: None, damaged: Vec::new() })));
            }
            Ok(newest_good(shelf, view, stream, &keys)?.map(|newest| (keys, newest)))
        })?;
        match newest.good {
            // What is newer than the good one, and damaged, leads to it: a line may be known by nothing else.
            Some(good) => keys.retain(|key| key.sequence < sequence && key.age() < key_of(&good).age()),
            None if keys.is_empty() => {}
            None => return Err(none_readable(stream, newest.damaged)),
        }
        Ok(Change { write: None, remove: keys })
    })
}

pub(crate) fn clear(shelf: &impl Shelf, stream: &str) -> Result<u64> {
    let stream = stream_of(stream)?;
    if shelf.view(stream)?.keys()?.is_empty() {
        return Ok(0);
    }
    shelf.change(stream, &mut |view| Ok(Change { write: None, remove: view.keys()? }))
}

pub(crate) fn streams(shelf: &impl Shelf) -> Result<Vec<String>> {
    let mut streams = Vec::new();
    for stream in shelf.stream_names()? {
        if !shelf.view(&stream)?.keys()?.is_empty() {
            streams.push(stream);
        }
    }
    streams.sort_unstable();
    Ok(streams)
}

/// The name, if it can be one.
fn stream_of(stream: &str) -> Result<&str> {
    match name_complaint(stream) {
        None => Ok(stream),
        Some(complaint) => Err(Error::invalid(format!("{stream:?} cannot name a stream: {complaint}"))),
    }
}

/// What there is under a key, which must be of that key; `None` where it has gone meanwhile.
fn read(shelf: &impl Shelf, view: &mut dyn View, stream: &str, key: Key) -> Result<Option<CheckpointState>> {
    let Some(bytes) = view.read(key)? else { return Ok(None) };
    let tell = |flaw: &Flaw| {
        let error = flaw.told(&format!("stream {stream:?}, checkpoint {}", key.sequence));
        match shelf.place(stream, key) {
            Some(place) => error.in_file(&place),
            None => error,
        }
    };
    let state = bytes::decode(&bytes).map_err(|flaw| tell(&flaw))?;
    let said = key_of(&state);
    if said != key || state.id.stream_id != stream {
        let what = format!("it is checkpoint {} of stream {:?} by its content", said.sequence, state.id.stream_id);
        return Err(tell(&Flaw { kind: ErrorKind::Corrupt, position: 0, what }));
    }
    Ok(Some(state))
}

/// Makes a shelf a store.
macro_rules! shelved {
    ($store:ty) => {
        impl $crate::checkpoint::CheckpointStore for $store {
            fn save(&self, state: &$crate::checkpoint::CheckpointState) -> $crate::error::Result<()> {
                $crate::checkpoint::shelf::save(self, state)
            }

            fn latest(&self, stream: &str) -> $crate::error::Result<Option<$crate::checkpoint::LatestCheckpoint>> {
                $crate::checkpoint::shelf::latest(self, stream)
            }

            fn get(
                &self,
                stream: &str,
                sequence: u64,
            ) -> $crate::error::Result<Option<$crate::checkpoint::CheckpointState>> {
                $crate::checkpoint::shelf::get(self, stream, sequence)
            }

            fn list(&self, stream: &str) -> $crate::error::Result<Vec<$crate::checkpoint::CheckpointEntry>> {
                $crate::checkpoint::shelf::list(self, stream)
            }

            fn delete_before(&self, stream: &str, sequence: u64) -> $crate::error::Result<u64> {
                $crate::checkpoint::shelf::delete_before(self, stream, sequence)
            }

            fn streams(&self) -> $crate::error::Result<Vec<String>> {
                $crate::checkpoint::shelf::streams(self)
            }

            fn clear(&self, stream: &str) -> $crate::error::Result<u64> {
                $crate::checkpoint::shelf::clear(self, stream)
            }
        }
    };
}
pub(crate) use shelved;
