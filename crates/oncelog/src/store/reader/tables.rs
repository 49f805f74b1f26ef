//! The tables of one owner, as a reader beside it sees them: one state, or an error.
//!
//! An owner that lives has its newest rows in memory, and all rows as of its trim point in the table file. The manifest
//! names that state. A reader opens the file for reading, with a library of its own over it that keeps in memory what
//! it would write. The owner never writes a block that the state in force uses. It does write blocks of states before
//! that: so a look at a state that is no longer in force may meet a block that is half written, or whole and of a later
//! state. Each block carries its check and its generation, so either is noticed (`table::file`), and then the manifest
//! decides what it means:
//!
//! * it still names this state: then the state was in force all the while, nobody had written the block, and it is
//!   damaged: `Corrupt`;
//! * it names another: the owner has gone on, and this state cannot be read to the end: `Conflict`, take another.
//!
//! What verifies and is not of a later state is what the state is made of, whatever the owner does meanwhile: so a row
//! that is shown is always one of the snapshot's LSN.

use super::super::rows::RowsAt;
use super::offline::Offline;
use super::owner::{ATTEMPTS, OwnerReader, View};
use crate::disk::OpenMode;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn};
use crate::page::Ends;
use crate::table::{TableBackend, TableHome, TableRoot, TableStore, Tables};
use crate::view;
use crate::wake::{Arc, Mutex};

/// See the module.
pub(super) struct TablesAt {
    owner: Arc<OwnerReader>,
    lsn: Lsn,
    source: Source,
}

enum Source {
    /// There was no state yet.
    Nothing,
    /// A state that was in force when this was made; opened when it is first asked.
    File { root: TableRoot, opened: Mutex<Option<Arc<Tables>>> },
    /// Nobody owned the tables.
    Offline(Arc<Offline>),
}

impl TablesAt {
    /// All ends of an owner as of one LSN, and its tables as of one that is not above it.
    ///
    /// The manifest is read when the owner is known to serve, and so to have moved the trim point behind all that a
    /// reader could see before; and before the ends are, which only grow.
    pub(super) fn with_ends(owner: &Arc<OwnerReader>) -> Result<(Lsn, Ends, TablesAt)> {
        for _ in 0..ATTEMPTS {
            let before = owner.view()?;
            let at_trim_point = TablesAt::trim_point(owner)?;
            let (view, lsn, ends) = owner.all()?;
            let tables = match &view {
                View::Live(_) if view.is(&before) => at_trim_point,
                View::Live(_) => continue,
                View::Offline(offline) => {
                    TablesAt { owner: Arc::clone(owner), lsn, source: Source::Offline(Arc::clone(offline)) }
                }
            };
            return Ok((lsn, ends, tables));
        }
        Err(owner.restless())
    }

    /// The state that the manifest names now.
    pub(super) fn trim_point(owner: &Arc<OwnerReader>) -> Result<TablesAt> {
        let (lsn, source) = match owner.manifest()?.trim {
            Some((at, root)) => (Lsn(at.next_lsn.0 - 1), Source::File { root, opened: Mutex::default() }),
            None => (Lsn(0), Source::Nothing),
        };
        Ok(TablesAt { owner: Arc::clone(owner), lsn, source })
    }

    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Asks the rows of this state.
    ///
    /// # Errors
    /// `Conflict`: the state is no longer whole; those of `ask`.
    pub(super) fn ask<R: Default>(&self, ask: impl FnOnce(&RowsAt<'_>) -> Result<R>) -> Result<R> {
        let lsn = self.lsn;
        match &self.source {
            Source::Nothing => Ok(R::default()),
            Source::File { root, opened } => {
                let tables = self.open(root, &mut opened.lock());
                let answer = tables.and_then(|tables| ask(&RowsAt { tables: &tables, lsn }));
                match answer {
                    Err(error) if error.kind() == ErrorKind::Invalid => Err(error),
                    Err(_) if !self.is_in_force(root)? => Err(self.gone()),
                    answer => answer,
                }
            }
            Source::Offline(offline) => {
                let answer = ask(&RowsAt { tables: &offline.store.core().tables, lsn });
                // Part of it lies in files beneath. An owner takes its epoch before it writes any of them.
                if self.is_epoch(offline.epoch)? { answer } else { Err(self.gone()) }
            }
        }
    }

    fn open(&self, root: &TableRoot, opened: &mut Option<Arc<Tables>>) -> Result<Arc<Tables>> {
        if let Some(tables) = opened {
            return Ok(Arc::clone(tables));
        }
        let OwnerReader { disk, layout, store, table_memory, .. } = &*self.owner;
        let (disk, dir) = (Arc::clone(disk), layout.state.clone());
        let home = TableHome { disk, dir, store: *store, memory: *table_memory };
        let file = TableStore::open(&home, root, self.lsn, OpenMode::Read)?;
        let view = Arc::new(view::View::default());
        view.publish(self.lsn);
        let tables = Arc::new(Tables::new(Arc::new(file) as Arc<dyn TableBackend>, view));
        Ok(Arc::clone(opened.insert(tables)))
    }

    fn is_in_force(&self, root: &TableRoot) -> Result<bool> {
        let now = self.owner.manifest()?.trim;
        Ok(now.is_some_and(|(_, now)| (now.file, now.generation) == (root.file, root.generation)))
    }

    fn is_epoch(&self, epoch: Epoch) -> Result<bool> {
        Ok(self.owner.manifest()?.epoch == epoch)
    }

    fn gone(&self) -> Error {
        let owner = &self.owner.layout.name;
        let what = format!("the owner {owner:?} has gone on and uses the room of this state of its tables again");
        Error::new(ErrorKind::Conflict, format!("{what}: take another snapshot")).in_file(&self.owner.layout.state)
    }
}
