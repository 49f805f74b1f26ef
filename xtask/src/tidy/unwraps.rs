//! Rule: no `.unwrap()` outside tests. An error goes to the caller; an `expect` states the invariant that it trusts.

use super::Complaint;
use super::repo::{Repo, Text};
use super::rust::{code_only, test_lines};

/// Complains about each one in a crate's source, outside test code. Examples in docs are tests.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    repo.rust().filter(|file| file.is_crate_source()).flat_map(check_file).collect()
}

fn check_file(file: &Text) -> Vec<Complaint> {
    let code = code_only(&file.text);
    let tests = test_lines(file, &code);
    let lines = code.lines().zip(tests).enumerate();
    let bad = lines.filter(|(_, (line, is_test))| !is_test && line.contains(".unwrap()"));
    bad.map(|(index, _)| Complaint::new(&file.path, index + 1, "`.unwrap()` outside tests")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tests_may() {
        let text =
            "//! a.unwrap()\nfn a() {\n    b.unwrap();\n}\n#[cfg(test)]\nmod tests {\n    fn c() { d.unwrap(); }\n}\n";
        let found = check(&Repo::of(&[("crates/a/src/lib.rs", text), ("crates/a/tests/b.rs", text)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
    }

    #[test]
    fn relatives_are_fine() {
        let text = "fn a() { b.unwrap_or(0); c.expect(\"true\"); }";
        assert!(check(&Repo::of(&[("crates/a/src/lib.rs", text)])).is_empty());
    }
}
