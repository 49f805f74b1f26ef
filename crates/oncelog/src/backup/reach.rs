//! How far the archive of a journal carries a backup.

use std::collections::{BTreeMap, BTreeSet};

use super::history::History;
use super::manifest::{BackupManifest, OwnerImage};
use super::piece::PieceName;
use super::target::{BackupTarget, JOURNAL};
use crate::error::{Error, Result};
use crate::ids::{Lsn, escape_name};

/// What the archive of an owner holds behind a backup.
#[derive(Debug)]
#[non_exhaustive]
pub struct ArchiveReach {
    /// The owner's name.
    pub owner: String,
    /// The last frame that the backup, or the archive without a gap behind it, holds.
    pub until: Lsn,
    /// The first and the last of the frames that are missing behind that one, if the archive goes on behind them. The
    /// next backup needs them no more.
    pub gap: Option<(Lsn, Lsn)>,
    /// The archive holds another history of the owner too: its last frame. A machine that was set back to an older
    /// image of its disk writes a second history under the same name; nothing is ever put together of two. Known only
    /// where the archive was read.
    pub other_history: Option<Lsn>,
    /// What is wrong with it, if it was read: frames from there on cannot be had.
    pub damage: Option<Error>,
}

impl ArchiveReach {
    /// What names alone tell: that a piece which begins before the backup's end follows it is believed.
    fn by_names(all: BTreeSet<PieceName>, owner: &OwnerImage) -> ArchiveReach {
        let entries = History::candidates(&all, owner.lsn).into_iter();
        let entries = entries.filter(|piece| piece.first <= owner.lsn || piece.before == owner.link).collect();
        let history = History::behind(all, entries);
        let until = history.longest().map_or(owner.lsn, |tip| tip.last);
        let (owner, gap) = (owner.name.clone(), history.gap_behind(until));
        ArchiveReach { owner, until, gap, other_history: None, damage: None }
    }
}

/// The names of all pieces in a target, by the folders of store and owner.
pub(super) struct Archives(BTreeMap<(String, String), BTreeSet<PieceName>>);

impl Archives {
    pub(super) fn list(target: &BackupTarget) -> Result<Archives> {
        let mut found: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for object in target.list_objects(JOURNAL, 3)? {
            let parts: Vec<&str> = object.split('/').collect();
            let [identity, owner, name] = parts[..] else { continue };
            if let Some(piece) = PieceName::read(name) {
                found.entry((identity.to_owned(), owner.to_owned())).or_default().insert(piece);
            }
        }
        Ok(Archives(found))
    }

    /// Of the owners of a backup that have an archive.
    pub(super) fn reaches(&self, manifest: &BackupManifest) -> Vec<ArchiveReach> {
        let identity = manifest.identity.to_string();
        let owners = manifest.owners.iter().filter(|owner| owner.rows_lsn.is_some());
        let reach = |owner: &OwnerImage| {
            let pieces = self.0.get(&(identity.clone(), escape_name(&owner.name)))?;
            Some(ArchiveReach::by_names(pieces.clone(), owner))
        };
        owners.filter_map(reach).collect()
    }
}
