//! Who is at work in a target. A backup counts on chunks that it finds; a prune removes chunks that no manifest names.
//! So neither goes on beside the other.
//!
//! Each puts a mark of its own first, and then looks for marks of the other: whichever comes first, one of them sees
//! the other (Dekker 1965), and gives up. Storage has no locks, so a mark that a killed process left stays, and is told
//! of, until it is taken away by hand: see [`BackupTarget::unlock`]. That of a backup keeps nobody from making others.
//!
//! The mark of a backup also holds its number, once its owners are cut: so one that is cut later gets a greater number,
//! whichever of the two is written first.

use super::target::BackupTarget;
use crate::error::{Error, ErrorKind, Result};

pub(super) const MARKS: &str = "marks";
/// How names of marks begin.
const BACKUP: &str = "backup-";
const PRUNE: &str = "prune-";

/// What a mark stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// A backup is made: others may be too, and nobody prunes.
    Backup,
    /// Chunks are removed: nobody else is at work.
    Prune,
}

/// Somebody at work. The mark is taken away when this is dropped.
pub(crate) struct Mark<'t> {
    target: &'t BackupTarget,
    kind: MarkKind,
    object: String,
}

impl<'t> Mark<'t> {
    /// Puts the mark, unless somebody else is at work who must not be disturbed.
    ///
    /// # Errors
    /// `Locked`, naming the mark of the other.
    pub(crate) fn put(target: &'t BackupTarget, kind: MarkKind) -> Result<Mark<'t>> {
        let prefix = if kind == MarkKind::Backup { BACKUP } else { PRUNE };
        let name = format!("{prefix}{:016x}", target.draw());
        let mark = Mark { target, kind, object: format!("{MARKS}/{name}") };
        mark.write()?;
        mark.look()?;
        Ok(mark)
    }

    fn write(&self) -> Result<()> {
        match self.target.write_object(&self.object, format!("pid {}\n", std::process::id()).as_bytes()) {
            // Pruning is what makes room. The name alone needs none, or little, and says enough.
            Err(error) if error.kind() == ErrorKind::Full => self.target.write_object(&self.object, &[]),
            written => written,
        }
    }

    /// Draws the number of a backup whose owners were just cut: above those of all that are there or being made.
    ///
    /// # Errors
    /// `Full`, `Unavailable`.
    pub(crate) fn draw_number(&mut self) -> Result<u64> {
        let marks = self.target.list_objects(MARKS, 1)?;
        let drawn = marks.iter().filter_map(|mark| drawn_by(mark)).max().unwrap_or(0);
        let number = drawn.max(self.target.last_number()?).saturating_add(1);
        let object = format!("{MARKS}/{BACKUP}{:016x}-{number:08}", self.target.draw());
        let before = std::mem::replace(&mut self.object, object);
        // There is one at each instant.
        let written = self.write().and_then(|()| self.target.remove_object(&before).map(drop));
        written.map(|()| number)
    }

    /// Whether it has kept others off until now: by hand marks may be taken away while somebody is at work.
    ///
    /// # Errors
    /// `Locked`, naming the mark that is gone, or that of the other.
    pub(crate) fn check(&self) -> Result<()> {
        if self.look()? {
            return Ok(());
        }
        let place = self.target.object_place(&self.object);
        Err(Error::locked(&place, "the mark was taken away meanwhile, and backups may have been pruned", None))
    }

    /// Whether it is there.
    fn look(&self) -> Result<bool> {
        let marks = self.target.list_objects(MARKS, 1)?;
        let is_own =
            |mark: &String| self.object.strip_prefix(MARKS).and_then(|own| own.strip_prefix('/')) == Some(mark);
        let bars = |other: &&String| !is_own(other) && (self.kind == MarkKind::Prune || other.starts_with(PRUNE));
        if let Some(other) = marks.iter().find(bars) {
            let who = if other.starts_with(PRUNE) { "backups are being pruned" } else { "a backup is being made" };
            let place = self.target.object_place(&format!("{MARKS}/{other}"));
            return Err(Error::locked(&place, format!("{who}, or was when its process was killed"), None));
        }
        Ok(marks.iter().any(is_own))
    }
}

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.target.remove_object(&self.object) {
            let mark = self.target.object_place(&self.object);
            tracing::warn!(%error, mark = %mark.display(), "a mark stays; nothing is pruned until it is taken away");
        }
    }
}

/// The number that a mark holds.
fn drawn_by(mark: &str) -> Option<u64> {
    let (_, number) = mark.strip_prefix(BACKUP)?.split_once('-')?;
    let parsed: u64 = number.parse().ok()?;
    (number == format!("{parsed:08}")).then_some(parsed)
}

impl BackupTarget {
    /// Takes away what killed processes have left to say that they are at work. Only when none is: a prune beside a
    /// backup may remove what that counts on. Gives how many marks there were.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn unlock(&self) -> Result<u64> {
        let mut removed = 0;
        for mark in self.list_objects(MARKS, 1)? {
            removed += u64::from(self.remove_object(&format!("{MARKS}/{mark}"))?);
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemoryDisk;
    use crate::wake::Arc;

    #[test]
    fn a_mark_that_was_taken_away_no_longer_stands() {
        let target = BackupTarget::dir_on(Arc::new(MemoryDisk::default()), "/target").unwrap();
        let mark = Mark::put(&target, MarkKind::Backup).unwrap();
        mark.check().unwrap();
        let beside = Mark::put(&target, MarkKind::Backup).unwrap();
        mark.check().unwrap();
        drop(beside);
        assert_eq!(Mark::put(&target, MarkKind::Prune).map(drop).unwrap_err().kind(), ErrorKind::Locked);
        assert_eq!(target.unlock().unwrap(), 1);
        assert_eq!(mark.check().unwrap_err().kind(), ErrorKind::Locked, "a prune may have come and gone");
        let prune = Mark::put(&target, MarkKind::Prune).unwrap();
        let told = mark.check().unwrap_err();
        assert!(told.file().is_some_and(|file| file.to_str().unwrap().contains("prune-")), "{told}");
        drop(prune);
    }
}
