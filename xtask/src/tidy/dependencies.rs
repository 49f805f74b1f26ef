//! Rule: every dependency has a sentence that says why we took it.

use std::collections::BTreeSet;

use super::Complaint;
use super::repo::{Repo, Text};

/// Where the sentences are; a dependency stands there in backticks.
const REASONS: &str = "docs/decisions/dependencies.md";

/// Complains about each dependency of the workspace or of one of its crates that [`REASONS`] does not name.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    let Some(reasons) = repo.text(REASONS) else {
        return vec![Complaint::new(REASONS, 1, "there is no list of dependencies and their reasons")];
    };
    let manifests: Vec<&Text> = repo.ending("Cargo.toml").collect();
    let ours: BTreeSet<&str> = manifests.iter().filter_map(|file| package_name(file)).collect();
    let mut complaints = Vec::new();
    for manifest in manifests {
        for (line, name) in dependencies(manifest) {
            if !ours.contains(name) && !reasons.text.contains(&format!("`{name}`")) {
                complaints.push(Complaint::new(&manifest.path, line, format!("`{name}` has no reason in {REASONS}")));
            }
        }
    }
    complaints
}

fn package_name(manifest: &Text) -> Option<&str> {
    let in_package = manifest.text.split("[package]").nth(1)?;
    let value = in_package.lines().find_map(|line| line.strip_prefix("name")?.trim_start().strip_prefix('='))?;
    Some(value.trim().trim_matches('"'))
}

/// The names under every table of dependencies, also those for one target, and those that have a table of their own.
fn dependencies(manifest: &Text) -> Vec<(usize, &str)> {
    let mut names = Vec::new();
    let mut inside = false;
    let mut open_brackets = 0;
    for (number, line) in manifest.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(table) = table_name(line).filter(|_| open_brackets == 0) {
            inside = is_dependencies(table);
            let own = table.rsplit_once('.').filter(|(parent, _)| is_dependencies(parent));
            names.extend(own.map(|(_, name)| (number, name)));
            continue;
        }
        if inside && open_brackets == 0 {
            names.extend(key(line).map(|name| (number, name)));
        }
        open_brackets += balance(line);
    }
    names
}

fn table_name(line: &str) -> Option<&str> {
    line.strip_prefix('[')?.strip_suffix(']')
}

fn is_dependencies(table: &str) -> bool {
    matches!(table.rsplit('.').next(), Some("dependencies" | "dev-dependencies" | "build-dependencies"))
}

fn key(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    key.split('.').next().map(|name| name.trim().trim_matches('"'))
}

/// How many brackets a line opens more than it closes.
fn balance(line: &str) -> i32 {
    line.chars().map(|c| i32::from(matches!(c, '[' | '{')) - i32::from(matches!(c, ']' | '}'))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unexplained(manifest: &str, reasons: &str) -> Vec<String> {
        let own = "[package]\nname = \"house\"\n";
        let files = [("Cargo.toml", manifest), (REASONS, reasons), ("crates/house/Cargo.toml", own)];
        check(&Repo::of(&files))
            .into_iter()
            .map(|complaint| format!("{}: {}", complaint.line, complaint.message))
            .collect()
    }

    #[test]
    fn each_needs_its_sentence() {
        let manifest = "[workspace.dependencies]\nbytes = \"1\"\nserde = { version = \"1\" }\n";
        assert_eq!(unexplained(manifest, "`bytes` and `serde`").len(), 0);
        assert_eq!(unexplained(manifest, "`bytes` and serde"), [format!("3: `serde` has no reason in {REASONS}")]);
    }

    #[test]
    fn every_kind_of_table_is_read() {
        let tables = [
            "[dependencies]\na.workspace = true",
            "[dev-dependencies]\na = \"1\"",
            "[dependencies.a]\nversion = \"1\"",
        ];
        for table in tables
            .iter()
            .chain(&["[target.'cfg(unix)'.dependencies]\na = \"1\"", "[build-dependencies]\n\"a\" = \"1\""])
        {
            assert_eq!(unexplained(table, "").len(), 1, "{table}");
            assert_eq!(unexplained(table, "`a`").len(), 0, "{table}");
        }
    }

    #[test]
    fn other_keys_and_our_own_crates_need_none() {
        let manifest =
            "[package]\nedition = \"2024\"\n[dependencies]\nhouse = { path = \"x\" }\n# b = \"1\"\n[lints]\nc = true\n";
        assert_eq!(unexplained(manifest, "").len(), 0);
    }

    #[test]
    fn lists_over_several_lines_are_one_value() {
        assert_eq!(
            unexplained("[dependencies]\na = { version = \"1\", features = [\n  \"b = c\",\n] }\n", "`a`").len(),
            0
        );
    }

    #[test]
    fn a_missing_list_is_a_complaint() {
        assert_eq!(check(&Repo::of(&[])).len(), 1);
    }
}
