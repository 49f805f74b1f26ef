//! The files of a store laid out as a backup has them: manifests, table files, segments.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::super::super::layout::{Layout, make_dir};
use super::super::super::manifest::ManifestFile;
use super::names::Known;
use super::points::Point;
use super::{RestoreOptions, Until};
use crate::backup::{BackupManifest, BackupTarget, ChunkReader, OwnerImage};
use crate::chance::Chance;
use crate::disk::{Disk, OpenMode, SyncSite};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, escape_name};
use crate::segment::SegmentHead;
use crate::table::{StateKey, TableBackend, TableBatch, TableFileName, TableHome, TableStore};
use crate::topic::{self, topic_dir};
use crate::transaction::system;
use crate::wake::Arc;

/// Rows are written in batches of about so many bytes.
const ROWS_AT_ONCE: usize = 8 << 20;
const TABLE_MEMORY: usize = 64 << 20;

/// Where a backup is being restored.
pub(super) struct Site<'s> {
    pub(super) options: &'s RestoreOptions,
    pub(super) target: &'s BackupTarget,
    pub(super) manifest: &'s BackupManifest,
    /// Of `main`.
    pub(super) layout: Layout,
    pub(super) chance: Arc<Chance>,
}

impl Site<'_> {
    pub(super) fn disk(&self) -> &dyn Disk {
        &*self.options.disk
    }

    pub(super) fn make_dirs(&self) -> Result<()> {
        let layout = &self.layout;
        for dir in [&layout.owners, &layout.topics, &layout.tables, &layout.consumers] {
            make_dir(self.disk(), dir).map_err(|error| Error::io(dir, "restore the store", error))?;
        }
        self.sync_dir(&layout.dir)
    }

    pub(super) fn sync_dir(&self, dir: &Path) -> Result<()> {
        let synced = self.disk().sync_dir(dir, SyncSite::RestoreDir);
        synced.map_err(|error| Error::sync(dir, "sync a restored directory", error))
    }

    /// Manifest, table file and journal of an owner.
    /// Gives the last frame that was laid.
    pub(super) fn lay_owner(&self, owner: &OwnerImage, point: &Point, known: &mut Known) -> Result<Lsn> {
        let (disk, store) = (self.disk(), self.manifest.store);
        let layout = Layout::of(&self.layout.dir, &owner.name);
        for dir in [&layout.owner].into_iter().chain(layout.owner_dirs()) {
            make_dir(disk, dir).map_err(|error| Error::io(dir, "restore an owner", error))?;
        }
        let mut laid = owner.lsn;
        let trim = match owner.rows_lsn {
            None => None,
            Some(rows_lsn) => {
                let table = self.lay_rows(owner, &layout, rows_lsn, known)?;
                let root = table.root().ok_or_else(Error::closed)?;
                let (start, last) = self.lay_frames(owner, &layout, (rows_lsn, point), known)?;
                laid = last;
                Some((start, root))
            }
        };
        let mut manifest = ManifestFile::lock(disk, &layout.manifest, OpenMode::CreateNew)?;
        manifest.begin(store, &owner.name, owner.number)?;
        manifest.update(|next| {
            (next.epoch, next.trim) = (owner.epoch, trim);
        })?;
        [&layout.owner, &layout.owners].into_iter().try_for_each(|dir| self.sync_dir(dir))?;
        Ok(laid)
    }

    pub(super) fn lay_rows(
        &self,
        owner: &OwnerImage,
        layout: &Layout,
        lsn: Lsn,
        known: &mut Known,
    ) -> Result<TableStore> {
        let home = TableHome {
            disk: Arc::clone(&self.options.disk),
            dir: layout.state.clone(),
            store: self.manifest.store,
            memory: TABLE_MEMORY,
        };
        let table = TableStore::create(&home, TableFileName { epoch: owner.epoch, salt: self.chance.next_u64() })?;
        let (mut batch, mut bytes) = (TableBatch::new(), 0);
        self.open(&owner_file(&owner.name, "rows"))?.rows(|key, value| {
            if let Some((table, shard, own)) = StateKey::read(key)
                && shard == system::SHARD
            {
                known.note(&owner.name, table, own, Some(value))?;
            }
            batch.insert(key.to_vec(), Some(bytes::Bytes::copy_from_slice(value)));
            bytes += key.len() + value.len();
            if bytes >= ROWS_AT_ONCE {
                table.apply(&batch, lsn)?;
                table.confirm();
                (batch, bytes) = (TableBatch::new(), 0);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        table.apply(&batch, lsn)?;
        table.confirm();
        Ok(table)
    }

    /// A file of the backup.
    pub(super) fn open(&self, path: &str) -> Result<ChunkReader<'_>> {
        let gone = || Error::new(ErrorKind::Corrupt, format!("the backup does not hold {path}"));
        let file = self.manifest.files.get(path).ok_or_else(gone)?;
        Ok(ChunkReader::new(self.target, path, file))
    }

    /// The segments that the rows name, of topics that are there. The backup has them all, but for those of topics that
    /// its own frames delete, if it is restored up to before that.
    pub(super) fn named_segments(&self, known: &Known) -> Result<BTreeSet<String>> {
        let mut named = BTreeSet::new();
        for (topic, partition, row) in &known.segments {
            let Some((_, spec)) = known.topics.get(topic) else { continue };
            let head = SegmentHead {
                store: self.manifest.store,
                topic: *topic,
                partition: *partition,
                base_offset: row.base_offset,
                epoch: row.epoch,
                generation: row.generation,
                salt: row.salt,
            };
            let path = head.path(&topic::partition_dir(&topic_dir(Path::new("topics"), &spec.name), *partition));
            let file = path.to_str().and_then(|path| self.manifest.files.get_key_value(path));
            let file = file.map(|(path, file)| {
                named.insert(path.clone());
                file
            });
            if file.is_none_or(|file| (file.salt, file.bytes()) != (row.salt, row.end_position)) {
                let what = format!("the backup does not hold {}, which its rows name", path.display());
                return Err(match &self.options.until {
                    Until::Lsn(..) => {
                        let why = format!("{what}: the topic was deleted behind that frame; take an earlier backup");
                        Error::new(ErrorKind::NotFound, why)
                    }
                    _ => Error::new(ErrorKind::Corrupt, what),
                });
            }
        }
        Ok(named)
    }

    /// The segments, as they are.
    pub(super) fn lay_segments(&self, named: &BTreeSet<String>) -> Result<()> {
        let mut dirs = BTreeSet::new();
        for path in named {
            let to = path.split('/').fold(self.layout.dir.clone(), |dir, part| dir.join(part));
            let above: Vec<PathBuf> = to.ancestors().skip(1).take(2).map(Path::to_owned).collect();
            for dir in above.iter().rev().filter(|dir| !dirs.contains(*dir)) {
                make_dir(self.disk(), dir).map_err(|error| Error::io(dir, "restore a topic", error))?;
            }
            dirs.extend(above);
            let doing = |error| Error::io(&to, "restore a segment", error);
            let (file, mut position) = (self.disk().open(&to, OpenMode::CreateNew).map_err(doing)?, 0);
            let mut chunks = self.open(path)?;
            while let Some(chunk) = chunks.next_chunk()? {
                file.write_all_at(&chunk, position).map_err(doing)?;
                position += chunk.len() as u64;
            }
            file.sync(SyncSite::RestoreFile).map_err(|error| Error::sync(&to, "sync a restored segment", error))?;
        }
        // The deepest first.
        dirs.iter().rev().try_for_each(|dir| self.sync_dir(dir))
    }
}

pub(super) fn owner_file(owner: &str, stream: &str) -> String {
    format!("owners/{}/{stream}", escape_name(owner))
}
