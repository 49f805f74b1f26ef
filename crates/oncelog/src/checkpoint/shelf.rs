//! What all stores have in common: a shelf keeps bytes under keys, and everything that is decided about them is here.

use std::path::PathBuf;

use super::bytes::{self, Flaw};
use super::key::{Key, admit, current, surplus};
use super::state::CheckpointState;
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
    let key = Key { sequence: state.id.sequence, lineage: state.lineage };
    let bytes = bytes::encode(state)?;
    let change = shelf.change(stream, &mut |view| {
        let keys = view.keys()?;
        admit(stream, &keys, key)?;
        Ok(Change { write: Some((key, bytes.clone())), remove: surplus(&keys, key, shelf.max_per_stream()) })
    });
    change.map(drop)
}

pub(crate) fn latest(shelf: &impl Shelf, stream: &str) -> Result<Option<LatestCheckpoint>> {
    let stream = stream_of(stream)?;
    for _ in 0..LOOKS_MAX {
        let mut view = shelf.view(stream)?;
        match newest_good(shelf, &mut *view, stream)? {
            Newest::None => return Ok(None),
            Newest::Gone => {}
            Newest::Found(found) => return view.confirm().map(|()| Some(*found)),
        }
    }
    Err(Error::new(ErrorKind::Unavailable, format!("stream {stream:?}: its checkpoints go faster than they are read")))
}

enum Newest {
    None,
    /// What was there a moment ago is gone: look again.
    Gone,
    Found(Box<LatestCheckpoint>),
}

fn newest_good(shelf: &impl Shelf, view: &mut dyn View, stream: &str) -> Result<Newest> {
    let keys = view.keys()?;
    let mut damaged = Vec::new();
    for key in current(&keys) {
        let Some(bytes) = view.read(key)? else { return Ok(Newest::Gone) };
        match read(shelf, stream, key, &bytes) {
            Ok(state) => return Ok(Newest::Found(Box::new(LatestCheckpoint { state, damaged }))),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                tracing::warn!(stream, sequence = key.sequence, %error, "a checkpoint is passed over");
                damaged.push(DamagedCheckpoint { sequence: key.sequence, lineage: key.lineage, error });
            }
            Err(error) => return Err(error),
        }
    }
    let count = damaged.len();
    let Some(newest) = damaged.into_iter().next() else { return Ok(Newest::None) };
    let what = format!("stream {stream:?}: none of its checkpoints can be read, {count} were tried");
    let error = Error::new(ErrorKind::Corrupt, what);
    Err(match newest.error.file().map(ToOwned::to_owned) {
        Some(file) => error.in_file(&file),
        None => error,
    }
    .because(newest.error))
}

pub(crate) fn get(shelf: &impl Shelf, stream: &str, sequence: u64) -> Result<Option<CheckpointState>> {
    let stream = stream_of(stream)?;
    for _ in 0..LOOKS_MAX {
        let mut view = shelf.view(stream)?;
        let keys = view.keys()?.into_iter().filter(|key| key.sequence == sequence);
        let Some(key) = keys.max_by_key(Key::age) else { return Ok(None) };
        if let Some(bytes) = view.read(key)? {
            let state = read(shelf, stream, key, &bytes)?;
            return view.confirm().map(|()| Some(state));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, format!("stream {stream:?}: its checkpoints go faster than they are read")))
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
        let mut keys = view.keys()?;
        keys.retain(|key| key.sequence < sequence);
        if keys.is_empty() {
            return Ok(Change::default());
        }
        let good = match newest_good(shelf, view, stream)? {
            Newest::Found(found) => Key { sequence: found.state.id.sequence, lineage: found.state.lineage },
            Newest::None | Newest::Gone => {
                let what = format!("stream {stream:?}: others change it without the lock");
                return Err(Error::new(ErrorKind::Unavailable, what));
            }
        };
        keys.retain(|key| *key != good);
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

/// What the bytes under a key say, which must be of that key.
fn read(shelf: &impl Shelf, stream: &str, key: Key, bytes: &[u8]) -> Result<CheckpointState> {
    let tell = |flaw: &Flaw| {
        let error = flaw.told(&format!("stream {stream:?}, checkpoint {}", key.sequence));
        match shelf.place(stream, key) {
            Some(place) => error.in_file(&place),
            None => error,
        }
    };
    let state = bytes::decode(bytes).map_err(|flaw| tell(&flaw))?;
    let said = Key { sequence: state.id.sequence, lineage: state.lineage };
    if said != key || state.id.stream_id != stream {
        let what = format!("it is checkpoint {} of stream {:?} by its content", said.sequence, state.id.stream_id);
        return Err(tell(&Flaw { kind: ErrorKind::Corrupt, position: 0, what }));
    }
    Ok(state)
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
