//! Rule: `unsafe` stands only in the files listed here, each with the reason why it cannot do without.

use super::Complaint;
use super::repo::{Repo, Text};
use super::rust::{code_only, tokens};

/// Path, and why.
const LISTED: &[(&str, &str)] = &[
    ("crates/oncelog/src/disk/map.rs", "memory that processes share cannot be had from the system without"),
    ("fuzz/src/memory.rs", "an allocator that counts, to limit what one input may take"),
];

/// Complains about `unsafe` in a file that is not listed, and about a listed file that has none or is gone.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    check_against(repo, LISTED)
}

fn check_against(repo: &Repo, listed: &[(&str, &str)]) -> Vec<Complaint> {
    let is_listed = |file: &Text| listed.iter().any(|(path, _)| *path == file.path);
    let unlisted = repo.rust().filter(|file| !is_listed(file)).flat_map(|file| {
        let complain = |line| Complaint::new(&file.path, line, "`unsafe` in a file that is not listed for it in tidy");
        unsafe_lines(file).into_iter().map(complain)
    });
    let idle = listed.iter().filter(|(path, _)| repo.text(path).is_none_or(|file| unsafe_lines(file).is_empty()));
    unlisted
        .chain(idle.map(|(path, _)| Complaint::new(path, 1, "is listed for `unsafe` in tidy and has none")))
        .collect()
}

fn unsafe_lines(file: &Text) -> Vec<usize> {
    let code = code_only(&file.text);
    tokens(&code).iter().filter(|token| token.text == "unsafe").map(|token| token.line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "fn f() {\n    unsafe { g() }\n}";

    #[test]
    fn only_listed_files_may() {
        let repo = Repo::of(&[("crates/a/src/b.rs", BLOCK)]);
        assert_eq!(check_against(&repo, &[])[0].line, 2);
        assert!(check_against(&repo, &[("crates/a/src/b.rs", "made up")]).is_empty());
    }

    #[test]
    fn a_list_that_is_out_of_date_is_a_complaint() {
        let repo = Repo::of(&[("crates/a/src/b.rs", "fn f() {}")]);
        assert_eq!(check_against(&repo, &[("crates/a/src/b.rs", "made up"), ("gone.rs", "made up")]).len(), 2);
    }

    #[test]
    fn talking_of_it_is_fine() {
        let repo = Repo::of(&[("a.rs", "#![deny(unsafe_code)]\n// unsafe\nconst A: &str = \"unsafe\";")]);
        assert!(check_against(&repo, &[]).is_empty());
    }
}
