//! The archive of an owner's journal, read: which of its pieces follow a backup, and which of several histories is
//! meant.

use std::collections::BTreeSet;

use super::super::super::archive::archive_folder;
use super::Until;
use crate::backup::{
    ArchiveReach, BackupManifest, BackupTarget, History, OwnerImage, PIECE_BYTES_MAX, Piece, PieceName, TimeMark,
};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, StoreId};
use crate::table::Visit;

/// The archive of an owner.
pub(super) struct Archive<'s> {
    target: &'s BackupTarget,
    folder: String,
    store: StoreId,
    identity: StoreId,
    owner: &'s OwnerImage,
}

/// Pieces that follow the backup and each other, of one history.
#[derive(Debug, Default)]
pub(super) struct Trail {
    pub(super) pieces: Vec<PieceName>,
    /// The last frame.
    pub(super) end: Lsn,
    pub(super) gap: Option<(Lsn, Lsn)>,
    pub(super) other_history: Option<Lsn>,
}

impl Trail {
    /// Frames that are missing behind its end, as an error.
    pub(super) fn check_gap(&self, archive: &Archive<'_>) -> Result<()> {
        let Some((first, last)) = self.gap else { return Ok(()) };
        let what = format!("frames {first} to {last} of owner {:?} are missing in the archive", archive.owner.name);
        Err(Error::new(ErrorKind::Gap, what).in_file(&archive.target.object_place(&archive.folder)))
    }
}

impl<'s> Archive<'s> {
    pub(super) fn of(target: &'s BackupTarget, manifest: &BackupManifest, owner: &'s OwnerImage) -> Archive<'s> {
        let folder = archive_folder(manifest.identity, &owner.name);
        Archive { target, folder, store: manifest.store, identity: manifest.identity, owner }
    }

    /// The pieces that follow the backup. Where there are several histories: the one that had come furthest at the time
    /// that is asked for, or reaches the frame that is, and of those the one that was written last.
    pub(super) fn trail(&self, until: &Until) -> Result<Trail> {
        let names = self.target.list_objects(&self.folder, 1)?;
        let all: BTreeSet<_> = names.iter().filter_map(|name| PieceName::read(name)).collect();
        let from = self.owner.lsn;
        let mut entries = Vec::new();
        let candidates = History::candidates(&all, from);
        for piece in &candidates {
            let link = if piece.first > from { piece.before } else { self.read(*piece)?.link_of(from)? };
            if link == self.owner.link {
                entries.push(*piece);
            }
        }
        let history = History::behind(all, entries);
        let mut tip = history.longest();
        if history.tips().len() > 1 {
            let mut best = None;
            for one in history.tips() {
                let rank = (self.rank(&history.path(*one), until)?, one.last);
                if best.as_ref().is_none_or(|(best, _)| *best < rank) {
                    best = Some((rank, *one));
                }
            }
            tip = best.map(|(_, tip)| tip);
        }
        let Some(tip) = tip else {
            // What begins no later than the backup ends, and does not follow it.
            let other_history = candidates.iter().map(|piece| piece.last).max();
            return Ok(Trail { gap: history.gap_behind(from), end: from, pieces: Vec::new(), other_history });
        };
        let pieces = history.path(tip);
        let mut other_history = None;
        for other in history.tips().iter().filter(|other| **other != tip) {
            if !self.is_same_history(&pieces, &history.path(*other))? {
                other_history = other_history.max(Some(other.last));
            }
        }
        Ok(Trail { gap: history.gap_behind(tip.last), end: tip.last, pieces, other_history })
    }

    /// Whether the shorter of two is a part of the longer one: after a crash frames may be spooled once more, in other
    /// pieces.
    fn is_same_history(&self, one: &[PieceName], other: &[PieceName]) -> Result<bool> {
        let (Some(one_end), Some(other_end)) = (one.last(), other.last()) else { return Ok(true) };
        let (end, longer) = if one_end.last <= other_end.last { (one_end, other) } else { (other_end, one) };
        let over = longer.iter().find(|piece| piece.first <= end.last && end.last <= piece.last);
        let Some(over) = over else { return Ok(false) };
        Ok(self.read(*over)?.link_of(end.last)? == end.after)
    }

    /// How well a history answers what is asked for: more is better.
    fn rank(&self, pieces: &[PieceName], until: &Until) -> Result<(i64, i64)> {
        let (mut fits, mut newest) = (i64::MIN, i64::MIN);
        for piece in pieces.iter().rev() {
            let times = self.read(*piece)?.marks.into_iter().map(|mark| mark.ms).collect::<Vec<_>>();
            newest = times.iter().copied().fold(newest, i64::max);
            if let Until::Time(wanted) = until {
                fits = times.into_iter().filter(|ms| ms <= wanted).fold(fits, i64::max);
            }
            if fits > i64::MIN || !matches!(until, Until::Time(_)) {
                break;
            }
        }
        if let (Until::Lsn(_, wanted), Some(end)) = (until, pieces.last()) {
            fits = i64::from(end.last >= *wanted);
        }
        Ok((fits, newest))
    }

    /// Reads a piece, and compares all that it says of itself.
    ///
    /// # Errors
    /// `Corrupt`, `UnsupportedVersion`, naming the object.
    pub(super) fn read(&self, name: PieceName) -> Result<Piece> {
        let object = format!("{}/{name}", self.folder);
        let place = self.target.object_place(&object);
        let gone = || Error::corrupt(&place, 0, "a piece of the archived journal is gone");
        let bytes = self.target.read_object(&object, PIECE_BYTES_MAX)?.ok_or_else(gone)?;
        let piece = Piece::decode(&bytes, &place)?;
        let told = (piece.store, piece.identity, &piece.owner, piece.name());
        if told != (self.store, self.identity, &self.owner.name, name) {
            return Err(Error::corrupt(&place, 0, "a piece of another archive"));
        }
        piece.each(|_, _| Ok(())).map_err(|error| error.in_file(&place))?;
        Ok(piece)
    }

    /// Hands the notes of time to `each`, in order, until it answers `Stop`. Whether it did.
    pub(super) fn each_mark(&self, trail: &Trail, mut each: impl FnMut(TimeMark) -> Visit) -> Result<bool> {
        for name in &trail.pieces {
            for mark in self.read(*name)?.marks {
                if each(mark) == Visit::Stop {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Hands the frames from `from` on to `each`, in order, up to `until`, or until it answers `Stop`.
    pub(super) fn each_frame(
        &self,
        trail: &Trail,
        (from, until): (Lsn, Lsn),
        each: &mut dyn FnMut(Lsn, &[u8]) -> Result<Visit>,
    ) -> Result<()> {
        let mut asked = Visit::Next;
        for name in trail.pieces.iter().filter(|piece| piece.last >= from && piece.first <= until) {
            self.read(*name)?.each(|lsn, body| {
                if asked == Visit::Next && from <= lsn && lsn <= until {
                    asked = each(lsn, body)?;
                }
                Ok(())
            })?;
            if asked == Visit::Stop {
                break;
            }
        }
        Ok(())
    }

    /// Reads all that follows the backup: up to where it can be had. `None`: there is no archive.
    pub(in crate::store::backup) fn verify(&self) -> Result<Option<ArchiveReach>> {
        let owner = &self.owner.name;
        let is_damage = |error: &Error| matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion);
        if self.target.list_objects(&self.folder, 1)?.is_empty() {
            return Ok(None);
        }
        let (mut until, mut damage) = (self.owner.lsn, None);
        let trail = match self.trail(&Until::Time(i64::MAX)) {
            Err(error) if is_damage(&error) => {
                let (owner, damage) = (owner.clone(), Some(error));
                return Ok(Some(ArchiveReach { owner, until, gap: None, other_history: None, damage }));
            }
            trail => trail?,
        };
        for name in &trail.pieces {
            match self.read(*name) {
                Ok(_) => until = name.last,
                Err(error) if is_damage(&error) => {
                    damage = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let Trail { gap, other_history, .. } = trail;
        Ok(Some(ArchiveReach { owner: owner.clone(), until, gap, other_history, damage }))
    }
}
