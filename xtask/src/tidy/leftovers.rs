//! Rule: nothing unfinished is left in the repository: no placeholders, no ignored tests, no examples that nobody runs.
//!
//! The words looked for are put together here from pieces, so that this file does not contain them.

use super::Complaint;
use super::repo::{Repo, Text};

/// Found anywhere in a line.
const MARKS: &[&str] =
    &[concat!("to", "do!("), concat!("unimple", "mented!("), concat!("#[ig", "nore"), concat!("db", "g!(")];
/// Found as a word of their own.
const WORDS: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];

/// Complains about each mark, each word and each example that is not run.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    repo.rust().chain(repo.ending(".md")).flat_map(check_file).collect()
}

fn check_file(file: &Text) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for (number, line) in file.lines() {
        let marks = MARKS.iter().filter(|mark| line.contains(**mark));
        for left in marks.chain(WORDS.iter().filter(|word| has_word(line, word))) {
            complaints.push(Complaint::new(&file.path, number, format!("`{left}` is left over")));
        }
        if is_unrun_example(line) {
            complaints.push(Complaint::new(
                &file.path,
                number,
                "an example that nobody runs: let it compile, or call it text",
            ));
        }
    }
    complaints
}

fn has_word(line: &str, word: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(|c| c == '_' || c.is_alphanumeric());
    let mut places = line.match_indices(word).map(|(at, _)| (&line[..at], &line[at + word.len()..]));
    places.any(|(before, after)| !joins(before.chars().next_back()) && !joins(after.chars().next()))
}

/// Does a code block start here that is marked to be skipped?
fn is_unrun_example(line: &str) -> bool {
    let line = line.trim_start();
    let text = ["///", "//!"].iter().find_map(|comment| line.strip_prefix(comment)).unwrap_or(line);
    let Some(info) = text.trim_start().strip_prefix("```") else { return false };
    info.split([',', ' ']).any(|word| word.trim().starts_with(concat!("ig", "nore")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Repo::of(&[(path, text)])).len()
    }

    #[test]
    fn marks_are_found_in_code_and_text() {
        for mark in MARKS.iter().chain(WORDS) {
            assert_eq!(count("crates/a/src/lib.rs", &format!("    {mark}")), 1, "{mark}");
            assert_eq!(count("docs/a.md", &format!("see {mark}")), 1, "{mark}");
            assert_eq!(count("a.toml", mark), 0, "{mark}");
        }
    }

    #[test]
    fn words_inside_others_are_not_meant() {
        for word in WORDS {
            assert_eq!(count("a.rs", &format!("A{word} {word}B {word}_C")), 0);
            assert_eq!(count("a.rs", &format!("A{word} {word}: later")), 1);
        }
    }

    #[test]
    fn examples_run() {
        let skipped = ["``", "`ig", "nore"].concat();
        assert_eq!(count("a.rs", &format!("/// {skipped}")), 1);
        assert_eq!(count("a.rs", &format!("//! {}", skipped.replace("ig", "rust,ig"))), 1);
        assert_eq!(count("a.md", &skipped), 1);
        assert_eq!(count("a.md", "```text\n```"), 0);
    }
}
