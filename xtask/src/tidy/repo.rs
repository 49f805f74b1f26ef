//! The repository in memory: every path, and the text of the files that rules look into.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// A file that rules read.
#[derive(Debug)]
pub(super) struct Text {
    /// From the root of the repository, with `/` on every system.
    pub(super) path: String,
    pub(super) text: String,
}

/// The files of the repository, without what builds and runs leave behind.
#[derive(Debug, Default)]
pub(super) struct Repo {
    texts: Vec<Text>,
    paths: BTreeSet<String>,
}

/// Directories that are not part of the repository, wherever they are.
const NOT_OURS: &[&str] = &["target", "node_modules", "oncelog-data", "oncelog-demo"];
/// Hidden directories that are part of it.
const HIDDEN_OURS: &[&str] = &[".cargo", ".ci", ".config", ".github"];
/// What rules read: by ending, and by name.
const TEXT_ENDINGS: &[&str] = &[".rs", ".md", ".toml"];
const TEXT_NAMES: &[&str] = &["justfile", ".ci/run"];

impl Repo {
    /// Reads what is at `root` on disk.
    pub(super) fn read(root: &Path) -> io::Result<Repo> {
        let mut repo = Repo::default();
        repo.read_dir(root, "")?;
        repo.texts.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(repo)
    }

    fn read_dir(&mut self, dir: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                if is_ours(&name) {
                    self.read_dir(&entry.path(), &format!("{path}/"))?;
                    self.paths.insert(path);
                }
            } else {
                if is_text(&path) {
                    let text = fs::read(entry.path())?;
                    self.texts.push(Text { path: path.clone(), text: String::from_utf8_lossy(&text).into_owned() });
                }
                self.paths.insert(path);
            }
        }
        Ok(())
    }

    /// All files that rules read, by path.
    pub(super) fn texts(&self) -> &[Text] {
        &self.texts
    }

    /// The Rust files.
    pub(super) fn rust(&self) -> impl Iterator<Item = &Text> {
        self.ending(".rs")
    }

    /// The files whose name ends so.
    pub(super) fn ending(&self, ending: &str) -> impl Iterator<Item = &Text> {
        self.texts.iter().filter(move |file| file.path.ends_with(ending))
    }

    /// The file at exactly this path.
    pub(super) fn text(&self, path: &str) -> Option<&Text> {
        self.texts.iter().find(|file| file.path == path)
    }

    /// Is there a file or a directory at this path?
    pub(super) fn has(&self, path: &str) -> bool {
        self.paths.contains(path)
    }

    /// A made-up repository of these paths and texts.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Repo {
        let mut repo = Repo::default();
        for (path, text) in files {
            repo.texts.push(Text { path: (*path).to_owned(), text: (*text).to_owned() });
            let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
            repo.paths.extend(ends.map(|end| path[..end].to_owned()));
        }
        repo
    }
}

impl Text {
    /// The lines with their numbers, from 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Is it source of a crate that we ship or build on, and not a test, bench or example beside it?
    pub(super) fn is_crate_source(&self) -> bool {
        self.path.ends_with(".rs") && self.path.starts_with("crates/") && self.path.split('/').nth(2) == Some("src")
    }
}

fn is_ours(name: &str) -> bool {
    !NOT_OURS.contains(&name) && (!name.starts_with('.') || HIDDEN_OURS.contains(&name))
}

fn is_text(path: &str) -> bool {
    TEXT_NAMES.contains(&path) || TEXT_ENDINGS.iter().any(|ending| path.ends_with(ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_repository_has_its_files_and_their_directories() {
        let repo = Repo::of(&[("crates/a/src/lib.rs", "")]);
        assert!(repo.has("crates/a/src/lib.rs") && repo.has("crates/a") && repo.has("crates"));
        assert!(!repo.has("crates/b"));
        assert!(repo.texts()[0].is_crate_source());
    }

    #[test]
    fn builds_and_hidden_places_are_not_ours() {
        assert!(is_ours("src") && is_ours(".ci"));
        assert!(!is_ours("target") && !is_ours(".git"));
        assert!(is_text("README.md") && is_text(".ci/run") && !is_text("Cargo.lock"));
    }
}
