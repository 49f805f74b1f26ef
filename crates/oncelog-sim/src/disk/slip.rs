//! Syncs that are not where they should be: mutants of the library, made underneath it. A sync that slips answers `Ok`
//! at once, and what it should have made durable is durable later or never.

use oncelog::disk::SyncSite;

use super::tree::{Ino, Tree};

/// What is wrong with the syncs of one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slip {
    /// They do nothing.
    LeftOut(SyncSite),
    /// They come behind the next change of the disk by the same process, and so behind the answer that they were for.
    Late(SyncSite),
    /// The first comes behind the next sync of the second: the two have changed places.
    Behind(SyncSite, SyncSite),
}

impl Slip {
    /// Whose syncs do not do their work.
    pub(super) fn site(self) -> SyncSite {
        match self {
            Slip::LeftOut(site) | Slip::Late(site) | Slip::Behind(site, _) => site,
        }
    }
}

/// The syncs that are still to come.
#[derive(Clone, Debug, Default)]
pub(super) struct Slipped {
    files_and_dirs: Vec<Ino>,
    /// They come with the next change.
    due: bool,
}

impl Slipped {
    /// A sync was answered and not done.
    pub(super) fn slips(&mut self, slip: Slip, ino: Ino) {
        if matches!(slip, Slip::LeftOut(_)) {
            return;
        }
        if !self.files_and_dirs.contains(&ino) {
            self.files_and_dirs.push(ino);
        }
        self.due |= matches!(slip, Slip::Late(_));
    }

    /// A sync of another site was done.
    pub(super) fn passes(&mut self, slip: Slip, done: SyncSite) {
        self.due |= matches!(slip, Slip::Behind(_, behind) if behind == done) && !self.files_and_dirs.is_empty();
    }

    /// Before a change: does what is due by now.
    pub(super) fn catch_up(&mut self, tree: &mut Tree) {
        if !std::mem::take(&mut self.due) {
            return;
        }
        for ino in self.files_and_dirs.drain(..) {
            if tree.is_dir(ino) {
                tree.sync_dir(ino);
            } else if let Ok(file) = tree.file_mut(ino) {
                file.inode.sync();
            }
        }
    }
}
