//! Where the demo keeps its store, and whose that place is.
//!
//! ```text
//! ./oncelog-demo/MADE-BY-ONCELOG-DEMO    the marker: locked while a demo runs, names its process
//! ./oncelog-demo/store/                  removed and made anew by each demo
//! ```
//!
//! Invariants: nothing is removed but `store` beside a marker; a store named with `--store` is never removed, and is
//! used only if it is new or holds this very demo.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use oncelog::{Lsn, Store, TableDef, Utf8};

use crate::exit::{self, Failure};

const DIR: &str = "oncelog-demo";
const MARKER: &str = "MADE-BY-ONCELOG-DEMO";
const MARKED: &str = "`oncelog demo` made this directory, and removes and remakes the store in it when it runs again.";
/// What a store is a demo of: one row.
const DEMO: TableDef<Utf8, Utf8> = TableDef::new("demo");

/// The place of a store, for as long as the demo runs.
pub(super) struct Home {
    pub(super) store: PathBuf,
    /// Locked.
    _marker: Option<File>,
}

impl Home {
    /// The store at `given`, or else a new one in the demo's own directory.
    ///
    /// # Errors
    /// The directory is somebody else's, or another demo runs in it, or it cannot be made.
    pub(super) fn take(given: Option<&Path>) -> Result<Home, Failure> {
        match given {
            Some(store) => Ok(Home { store: store.to_owned(), _marker: None }),
            None => Home::remake(Path::new(DIR)),
        }
    }

    fn remake(dir: &Path) -> Result<Home, Failure> {
        let failed = |error: io::Error| Failure::io(format_args!("make the directory {}", dir.display()), &error);
        match fs::create_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made.map_err(failed)?,
        }
        let marker = dir.join(MARKER);
        let is_ours = fs::exists(&marker).map_err(failed)? || fs::read_dir(dir).map_err(failed)?.next().is_none();
        if !is_ours {
            let what = "was not made by the demo: name another place with --store, or remove it";
            return Err(Failure::plain(format_args!("the directory {} {what}", dir.display())));
        }
        let marker = lock(&marker)?;
        let store = dir.join("store");
        match fs::remove_dir_all(&store) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io(format_args!("remove the earlier demo's {}", store.display()), &error))
            }
            _ => Ok(Home { store, _marker: Some(marker) }),
        }
    }

    /// Opens the store once, makes sure that it is new or a demo of `what`, and closes it. Says whether it is new.
    ///
    /// # Errors
    /// The store cannot be opened, or it holds something else.
    pub(super) fn claim(&self, what: &str) -> Result<bool, Failure> {
        let store = Store::open(&self.store)?;
        let snapshot = store.snapshot()?;
        let held = snapshot.get(DEMO, "input")?;
        let is_new = held.is_none() && snapshot.lsn() == Lsn(0);
        drop(snapshot);
        let shown = self.store.display();
        match held {
            Some(held) if held != what => {
                let advice = "ask for the same again, or name another directory";
                return Err(Failure::plain(format_args!("{shown} holds a demo of {held}, not of {what}: {advice}")));
            }
            None if !is_new => {
                let what = "holds a store that the demo did not make: name another directory";
                return Err(Failure::plain(format_args!("{shown} {what}")));
            }
            None => store.transact(|tx| tx.table(DEMO)?.put("input", what))?,
            Some(_) => {}
        }
        store.close()?;
        Ok(is_new)
    }
}

/// Locks the marker for this process, making it if there is none.
fn lock(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| Failure::io(format_args!("lock {}", path.display()), &error);
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let held = fs::read_to_string(path).unwrap_or_default();
            let holder = held.lines().find_map(|line| line.strip_prefix("process "));
            let holder = holder.map_or(String::new(), |pid| format!(", held by process {pid}"));
            let what = format!("another demo runs in this directory ({}){holder}", path.display());
            return Err(Failure::new(exit::LOCKED, what));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let text = format!("{MARKED}\nprocess {}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_of_the_demo_is_remade() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("demo");
        let home = Home::remake(&dir).unwrap();
        assert_eq!(home.claim("a"), Ok(true));
        assert_eq!(home.claim("a"), Ok(false));
        assert!(matches!(home.claim("b"), Err(Failure::Told { code: 1, .. })));
        let Err(Failure::Told { code: 5, message, .. }) = Home::remake(&dir) else { panic!("not locked") };
        assert!(message.ends_with(&format!("held by process {}", std::process::id())), "{message}");
        drop(home);
        fs::write(dir.join("mine"), "kept").unwrap();
        assert_eq!(Home::remake(&dir).unwrap().claim("b"), Ok(true));
        assert!(dir.join("mine").exists());
        fs::remove_file(dir.join(MARKER)).unwrap();
        assert!(matches!(Home::remake(&dir), Err(Failure::Told { code: 1, .. })));
        assert!(dir.join("store/STORE").exists());
    }

    #[test]
    fn a_store_of_somebody_else_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.transact(|tx| tx.table(TableDef::<Utf8, Utf8>::new("mine"))?.put("a", "b")).unwrap();
        store.close().unwrap();
        let home = Home::take(Some(dir.path())).unwrap();
        assert!(matches!(home.claim("a"), Err(Failure::Told { code: 1, .. })));
    }
}
