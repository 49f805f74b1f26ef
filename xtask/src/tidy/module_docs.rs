//! Rule: every source file starts with a module doc, which says what the file is for.

use super::Complaint;
use super::repo::{Repo, Text};

/// Complains about source that starts with anything else.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    let sources = repo.rust().filter(|file| file.is_crate_source() || file.path.starts_with("xtask/src/"));
    let silent = sources.filter(|file| !starts_with_doc(file));
    silent.map(|file| Complaint::new(&file.path, 1, "start with a module doc: `//! What this is for`")).collect()
}

fn starts_with_doc(file: &Text) -> bool {
    file.text.strip_prefix("//!").is_some_and(|rest| rest.lines().next().is_some_and(|line| !line.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Repo::of(&[(path, text)])).len()
    }

    #[test]
    fn a_doc_comes_first() {
        assert_eq!(count("crates/a/src/lib.rs", "//! A crate.\n"), 0);
        assert_eq!(count("crates/a/src/lib.rs", "use a;\n//! A crate.\n"), 1);
        assert_eq!(count("crates/a/src/lib.rs", "//!\n"), 1);
        assert_eq!(count("xtask/src/main.rs", ""), 1);
    }

    #[test]
    fn other_places_may_do_without() {
        assert_eq!(count("crates/a/tests/b.rs", ""), 0);
    }
}
