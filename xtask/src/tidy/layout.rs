//! Rule: lines fit, and nothing invisible is in them. rustfmt lays out code; comments, strings and prose are ours.

use super::Complaint;
use super::repo::{Repo, Text};

const RUST_COLUMNS: usize = 120;
const PROSE_COLUMNS: usize = 160;

/// Complains about long lines, tabs, white space at the end of a line, and a last line without an end.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    repo.texts().iter().flat_map(check_file).collect()
}

fn check_file(file: &Text) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (index, line) in file.text.split('\n').enumerate() {
        let objections = [too_long(&file.path, line), tabbed(line), trailing(line)];
        complaints.extend(objections.into_iter().flatten().map(|text| Complaint::new(&file.path, index + 1, text)));
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        complaints.push(Complaint::new(&file.path, file.text.lines().count(), "the last line does not end"));
    }
    complaints
}

/// Tables cannot be broken into lines, so they may be as wide as they need.
fn too_long(path: &str, line: &str) -> Option<String> {
    let limit = match path.rsplit_once('.') {
        Some((_, "rs")) => RUST_COLUMNS,
        Some((_, "md")) if !line.trim_start().starts_with('|') => PROSE_COLUMNS,
        _ => return None,
    };
    let columns = line.chars().count();
    (columns > limit).then(|| format!("{columns} columns, the limit is {limit}"))
}

fn tabbed(line: &str) -> Option<String> {
    line.contains('\t').then(|| "a tab".to_owned())
}

fn trailing(line: &str) -> Option<String> {
    line.ends_with(char::is_whitespace).then(|| "white space at the end".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Repo::of(&[(path, text)])).len()
    }

    #[test]
    fn lines_fit() {
        let line = |columns| format!("{}\n", "ä".repeat(columns));
        assert_eq!(count("a.rs", &line(120)), 0);
        assert_eq!(count("a.rs", &line(121)), 1);
        assert_eq!(count("a.md", &line(160)), 0);
        assert_eq!(count("a.md", &line(161)), 1);
        assert_eq!(count("a.md", &format!("| {}", line(200))), 0);
        assert_eq!(count("a.toml", &line(200)), 0);
    }

    #[test]
    fn nothing_invisible() {
        assert_eq!(count("a.rs", "a\tb\n"), 1);
        assert_eq!(count("a.rs", "a \nb\r\n"), 2);
        assert_eq!(count("a.rs", "a"), 1);
        assert_eq!(count("a.rs", ""), 0);
    }
}
