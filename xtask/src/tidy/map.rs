//! Rule: the map is of this country. Every path that ARCHITECTURE.md names in backticks exists.

use super::Complaint;
use super::repo::Repo;

const MAP: &str = "ARCHITECTURE.md";

/// Complains about paths that lead nowhere, and about a missing map.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    let Some(map) = repo.text(MAP) else {
        return vec![Complaint::new(MAP, 1, "there is no map of the code")];
    };
    let mut complaints = Vec::new();
    let mut fenced = false;
    for (number, line) in map.lines() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for path in spans(line).filter(|span| is_path(span)).filter(|path| !exists(repo, path)) {
            complaints.push(Complaint::new(MAP, number, format!("`{path}` does not exist")));
        }
    }
    complaints
}

/// What stands between backticks.
fn spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

fn is_path(span: &str) -> bool {
    let foreign = span.starts_with('/') || span.starts_with('<') || span.contains("://") || span.contains("::");
    let shaped = span.contains('/') || span.ends_with(".rs") || span.ends_with(".md");
    shaped && !foreign && !span.contains(char::is_whitespace)
}

/// A path with a `*` exists if the directory before the star does.
fn exists(repo: &Repo, path: &str) -> bool {
    let path = match path.split_once('*') {
        Some((before, _)) => before.rsplit_once('/').map_or("", |(dir, _)| dir),
        None => path.trim_end_matches('/'),
    };
    path.is_empty() || repo.has(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(line: &str) -> usize {
        check(&Repo::of(&[(MAP, line), ("crates/oncelog/src/ids.rs", ""), ("README.md", "")])).len()
    }

    #[test]
    fn named_paths_exist() {
        assert_eq!(lost("see `crates/oncelog/src/ids.rs`, `crates/oncelog/` and `README.md`"), 0);
        assert_eq!(lost("see `crates/oncelog/src/idz.rs` and `READYOU.md`"), 2);
        assert_eq!(lost("each of `crates/*/src`; none of `boxes/*`"), 1);
    }

    #[test]
    fn what_is_no_path_is_let_be() {
        assert_eq!(lost("`cargo xtask test`, `GET /topics`, `/metrics`, `a::b`, `ids`, and/or"), 0);
        assert_eq!(lost("```text\n`no/path`\n```"), 0);
    }

    #[test]
    fn a_missing_map_is_a_complaint() {
        assert_eq!(check(&Repo::of(&[("README.md", "")])).len(), 1);
    }
}
