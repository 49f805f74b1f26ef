//! Removing old backups, and the chunks that only they named.

use std::collections::{BTreeMap, BTreeSet};

use super::chunks::ChunkId;
use super::manifest::BackupManifest;
use super::marks::{MARKS, Mark, MarkKind};
use super::piece::PieceName;
use super::target::{BACKUPS, BackupTarget, CHUNKS, JOURNAL, manifest_object, number_of};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, escape_name};

/// What a prune has removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PruneReport {
    /// Backups that are gone, by name.
    pub removed: Vec<String>,
    /// Backups that are left.
    pub kept: Vec<String>,
    /// Chunks that no backup names any more.
    pub removed_chunks: u64,
    /// Pieces of archived journals whose frames are in all backups of their owner that are kept.
    pub removed_pieces: u64,
}

impl BackupTarget {
    /// Removes all but the newest `keep` backups of each store, one at least, and the chunks that no backup names.
    /// While it is at work no backup can be made. A crash leaves whole backups, and chunks that the next one removes.
    /// Backups that somebody has given names of his own are not counted, and stay, with their chunks and the archived
    /// frames behind them. Costs a look at all manifests and at the names of all chunks.
    ///
    /// # Errors
    /// `Invalid`: `keep` is 0. `Locked`: a backup is being made, or another prune is at work, or was when its process
    /// was killed: see [`BackupTarget::unlock`]. `Corrupt`, `UnsupportedVersion`: a manifest cannot be read, and so not
    /// what it names: nothing was removed; take it away first. `Unavailable`.
    pub fn prune(&self, keep: usize) -> Result<PruneReport> {
        if keep == 0 {
            return Err(Error::invalid("one backup of each store is kept at least"));
        }
        let _mark = Mark::put(self, MarkKind::Prune)?;
        let (mut report, mut kept, mut kept_of) = (PruneReport::default(), Kept::default(), Vec::new());
        // All are read before one is removed: newest first.
        for name in self.names()?.into_iter().rev() {
            let manifest = match self.read_manifest(&name) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                manifest => manifest?,
            };
            if kept_of.iter().filter(|store| **store == manifest.identity).count() >= keep {
                report.removed.push(name);
                continue;
            }
            kept_of.push(manifest.identity);
            kept.add(&manifest);
            report.kept.push(name);
        }
        for name in self.manifests()?.into_iter().filter(|name| number_of(name).is_none()) {
            kept.add(&self.read_manifest(&name)?);
        }
        report.removed.reverse();
        report.kept.reverse();
        for name in &report.removed {
            self.remove_object(&manifest_object(name))?;
        }
        // No manifest may come back whose chunks are gone.
        self.settle_if_there(BACKUPS)?;
        self.remove_unfinished(BACKUPS)?;
        let mut folders = BTreeSet::new();
        for object in self.list_objects(CHUNKS, 2)? {
            folders.extend(object.split_once('/').map(|(folder, _)| folder.to_owned()));
            if ChunkId::of_object(&object).is_some_and(|id| !kept.chunks.contains(&id)) {
                report.removed_chunks += u64::from(self.remove_object(&format!("{CHUNKS}/{object}"))?);
            }
        }
        folders.iter().try_for_each(|folder| self.remove_unfinished(&format!("{CHUNKS}/{folder}")))?;
        report.removed_pieces = self.prune_journals(&kept)?;
        // Whoever writes just then, an archive or a backup that is refused, writes it once more.
        self.remove_unfinished(MARKS)?;
        Ok(report)
    }

    /// Removes frames that are in all backups of their owner that are kept. Of an owner that is in none all stay.
    fn prune_journals(&self, kept: &Kept) -> Result<u64> {
        let (mut removed, mut folders) = (0, BTreeSet::new());
        for object in self.list_objects(JOURNAL, 3)? {
            let parts: Vec<&str> = object.split('/').collect();
            let [identity, owner, name] = parts[..] else { continue };
            folders.insert(format!("{JOURNAL}/{identity}/{owner}"));
            let end = kept.ends.get(&(identity.to_owned(), owner.to_owned()));
            if let (Some(end), Some(piece)) = (end, PieceName::read(name))
                && piece.last <= *end
            {
                removed += u64::from(self.remove_object(&format!("{JOURNAL}/{object}"))?);
            }
        }
        folders.iter().try_for_each(|folder| self.remove_unfinished(folder))?;
        Ok(removed)
    }
}

/// What the backups need that are kept.
#[derive(Default)]
struct Kept {
    chunks: BTreeSet<ChunkId>,
    /// By the folders of store and owner: the least LSN, whatever the numbers of the backups say, since a machine may
    /// have been set back between them.
    ends: BTreeMap<(String, String), Lsn>,
}

impl Kept {
    fn add(&mut self, manifest: &BackupManifest) {
        self.chunks.extend(manifest.files.values().flat_map(|file| &file.chunks).map(|chunk| chunk.id));
        for image in &manifest.owners {
            let place = (manifest.identity.to_string(), escape_name(&image.name));
            let end = self.ends.entry(place).or_insert(image.lsn);
            *end = image.lsn.min(*end);
        }
    }
}
