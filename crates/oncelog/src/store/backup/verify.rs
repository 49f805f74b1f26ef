//! Verifying a backup: by making a store of it.

use std::path::Path;

use super::super::{StoreReader, Verification};
use super::restore::{RestoreOptions, RestoreReport, remove_tree};
use crate::backup::BackupTarget;
use crate::error::{Error, Result};

/// A backup that was verified.
#[derive(Debug)]
#[non_exhaustive]
pub struct BackupVerification {
    /// What a restore of it gives.
    pub restored: RestoreReport,
    /// What the verification of the restored store has looked at and found.
    pub store: Verification,
}

impl RestoreOptions {
    /// Reads all of a backup and compares it with its hashes, restores it into `scratch`, which must be empty or not
    /// there and have room for all of it, verifies the store that it makes, and removes that.
    ///
    /// # Errors
    /// As [`RestoreOptions::restore`]. Damage of the restored store is no error here: it is what is told.
    pub fn verify(&self, target: &BackupTarget, scratch: impl AsRef<Path>) -> Result<BackupVerification> {
        let scratch = scratch.as_ref();
        let verified = self.restore(target, scratch).and_then(|restored| {
            let reader = StoreReader::options().disk(self.shared_disk()).open(scratch)?;
            Ok(BackupVerification { restored, store: reader.verify(|_| ())? })
        });
        // What is not a restore's is not ours to remove.
        let removed = self.remove_restored(scratch);
        let verified = verified?;
        removed?;
        Ok(verified)
    }

    fn remove_restored(&self, scratch: &Path) -> Result<()> {
        let disk = self.shared_disk();
        let is_ours = ["STORE", "RESTORING"].iter().any(|name| {
            let names = disk.list(scratch).unwrap_or_default();
            names.contains(&scratch.join(name))
        });
        if !is_ours {
            return Ok(());
        }
        remove_tree(&*disk, scratch).map_err(|error| Error::io(scratch, "remove the scratch directory", error))
    }
}
