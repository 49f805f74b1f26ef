//! Verifying a backup: by making a store of it.

use std::path::Path;

use super::super::{StoreReader, Verification};
use super::restore::{RestoreMark, RestoreOptions, RestoreReport};
use crate::backup::{ArchiveReach, BackupTarget};
use crate::error::Result;

/// A backup that was verified.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackupVerification {
    /// What a restore of it gives.
    pub restored: RestoreReport,
    /// What the verification of the restored store has looked at and found.
    pub store: Verification,
    /// How far the archived journals of the owners carry the backup: read to their ends, and compared with their
    /// checksums and with what they follow. Only of owners that have something there.
    pub archives: Vec<ArchiveReach>,
}

impl BackupVerification {
    /// Whether nothing is damaged, neither in the backup nor in what is archived behind it. A gap in that is no damage:
    /// see [`ArchiveReach::gap`].
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.store.is_sound() && self.archives.iter().all(|reach| reach.damage.is_none())
    }
}

impl RestoreOptions {
    /// Reads all of a backup and compares it with its hashes, restores it into `scratch`, which must be empty or not
    /// there and have room for all of it, verifies the store that it makes, and removes just that. Reads too what is
    /// archived behind the backup.
    ///
    /// # Errors
    /// As [`RestoreOptions::restore`]. Damage of the restored store, or of the archive, is no error here: it is what is
    /// told.
    pub fn verify(&self, target: &BackupTarget, scratch: impl AsRef<Path>) -> Result<BackupVerification> {
        let (scratch, mut mark) = (scratch.as_ref(), None);
        let verified = self.restore_marked(target, scratch, &mut mark).and_then(|restored| {
            let reader = StoreReader::options().disk(self.shared_disk()).open(scratch)?;
            let archives = self.verify_archives(target, &restored.backup)?;
            Ok(BackupVerification { restored, store: reader.verify(|_| ())?, archives })
        });
        // What somebody else has made there is not ours to remove.
        let removed = mark.map_or(Ok(()), RestoreMark::remove_restored);
        let verified = verified?;
        removed?;
        Ok(verified)
    }
}
