//! Whether an opening may write on in the table file that it finds, or makes one of its own.
//!
//! The table file is the one file that an opening goes on writing in. Blocks that the state in force uses are safe from
//! everybody, also from an opening before that has lost its lock, does not know, and sleeps in the middle of a trim.
//! But that one writes the blocks that are free in the state it goes by, and the new opening writes the same. So where
//! the one before may still live, what the manifest names is copied to a new file, which nobody else has open. An
//! opening that has lost its lock writes one state at most before it learns so, and touches nothing that the copy is
//! made of.
//!
//! Invariant: an opening that suspects another says so by the new file's name before it says that it is the holder. As
//! long as the manifest names an older file, that name makes every later opening suspect the same, also when this one
//! has ended. The name need not be durable: with the machine the other one ends too.

use super::layout::Layout;
use super::manifest::{Manifest, ManifestFile};
use super::options::StoreOptions;
use crate::disk::OpenMode;
use crate::error::{Error, Result};
use crate::ids::Epoch;
use crate::process::Process;
use crate::table::TableFileName;

/// What becomes of the table file that the manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inherits {
    /// Nobody else can have it open for writing.
    File,
    /// Somebody may: its content goes to a new one.
    Copy,
}

impl Inherits {
    /// Decides. Only with the lock, and before the manifest names the new holder.
    pub(super) fn judge(
        options: &StoreOptions,
        layout: &Layout,
        manifest: &ManifestFile,
        found: &Manifest,
        own: &Process,
    ) -> Result<Inherits> {
        let Some((_, root)) = found.trim.as_ref().filter(|_| !options.only_looks) else { return Ok(Inherits::File) };
        let state = &layout.state;
        let names = options.disk.list(state).map_err(|error| Error::io(state, "list the table files", error))?;
        let is_newer = |path| TableFileName::of_path(path).is_some_and(|name| name.epoch > root.file.epoch);
        if !names.iter().any(|path| is_newer(path)) {
            if !manifest.may_be_shared(own)? {
                return Ok(Inherits::File);
            }
            let path = TableFileName { epoch: Epoch(found.epoch.0 + 1), ..root.file }.path(state);
            let made = options.disk.open(&path, OpenMode::Create);
            made.map_err(|error| Error::io(&path, "make the table file", error))?;
        }
        tracing::warn!(owner = layout.name, "whoever had this owner before may still live: its tables are copied");
        Ok(Inherits::Copy)
    }
}
