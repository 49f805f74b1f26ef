//! Who is at work in a target. A backup counts on chunks that it finds; a prune removes chunks that no manifest names.
//! So neither goes on beside the other.
//!
//! Each puts a mark of its own first, and then looks for marks of the other: whichever comes first, one of them sees
//! the other (Dekker 1965), and gives up. Storage has no locks, so a mark that a killed process left stays, and is told
//! of, until it is taken away by hand: see [`BackupTarget::unlock`]. That of a backup keeps nobody from making others.

use super::target::BackupTarget;
use crate::error::{Error, Result};

const MARKS: &str = "marks";

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
    object: String,
}

impl<'t> Mark<'t> {
    /// Puts the mark, unless somebody else is at work who must not be disturbed.
    ///
    /// # Errors
    /// `Locked`, naming the mark of the other.
    pub(crate) fn put(target: &'t BackupTarget, kind: MarkKind) -> Result<Mark<'t>> {
        let prefix = if kind == MarkKind::Backup { "backup" } else { "prune" };
        let name = format!("{prefix}-{:016x}", target.draw());
        let mark = Mark { target, object: format!("{MARKS}/{name}") };
        target.write_object(&mark.object, format!("pid {}\n", std::process::id()).as_bytes())?;
        let others = target.list_objects(MARKS, 1)?;
        let bars = |other: &&String| **other != name && (kind == MarkKind::Prune || other.starts_with("prune-"));
        if let Some(other) = others.iter().find(bars) {
            let who = if other.starts_with("prune-") { "backups are being pruned" } else { "a backup is being made" };
            let place = target.object_place(&format!("{MARKS}/{other}"));
            return Err(Error::locked(&place, format!("{who}, or was when its process was killed"), None));
        }
        Ok(mark)
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
