//! Rule: in the library, threads and what they synchronise by come from `wake`, so that a model checker can stand in
//! for them. Test code is free: it is not what is checked.

use super::Complaint;
use super::repo::{Repo, Text};
use super::rust::{Token, code_only, test_lines, tokens};

const HOUSE: &str = "crates/oncelog/src/";
/// The room that stands between the library and the threads of `std`.
const SHIM: &str = "crates/oncelog/src/wake";

/// Files that name them all the same, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/oncelog/src/codec/checksum.rs", "a switch for mutants, in a static; set before a thread starts"),
    ("crates/oncelog/src/disk/steps.rs", "a switch for mutants, in a static; set before a thread starts"),
    ("crates/oncelog/src/clock.rs", "the clock of the machine sleeps; a model brings a clock of its own"),
];

/// Complains about each path into `std::sync` (but for `Arc` and `Weak`), `std::thread` or `thread_local`.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    let bound = |file: &&Text| {
        let path = file.path.as_str();
        path.starts_with(HOUSE) && !path.starts_with(SHIM) && ALLOWED.iter().all(|(allowed, _)| *allowed != path)
    };
    repo.rust().filter(bound).flat_map(check_file).collect()
}

fn check_file(file: &Text) -> Vec<Complaint> {
    let code = code_only(&file.text);
    let tests = test_lines(file, &code);
    let tokens = tokens(&code);
    let found = (0..tokens.len()).filter_map(|at| Some((tokens[at].line, named_at(&tokens[at..])?)));
    let found = found.filter(|(line, _)| !tests.get(line - 1).copied().unwrap_or(false));
    found
        .map(|(line, name)| Complaint::new(&file.path, line, format!("`{name}`: take what `crate::wake` offers")))
        .collect()
}

/// What is named here that only the shim may name.
fn named_at(tokens: &[Token<'_>]) -> Option<String> {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    match (text(0), text(1), text(2)) {
        ("thread_local", "!", _) => Some("thread_local!".to_owned()),
        ("std" | "core", "::", "{") => {
            let mut inside = (3..tokens.len()).take_while(|at| text(*at) != ";").map(text);
            inside.find(|name| matches!(*name, "sync" | "thread")).map(|name| format!("std::{name}"))
        }
        ("std" | "core", "::", "thread") => Some("std::thread".to_owned()),
        ("std" | "core", "::", "sync") if !matches!(text(4), "Arc" | "Weak") => Some("std::sync".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        check(&Repo::of(&[(path, text)])).len()
    }

    #[test]
    fn only_the_shim_names_them() {
        for text in [
            "use std::sync::Mutex;",
            "use std::sync::{Arc, Mutex};",
            "use std::{fmt, sync::Mutex};",
            "fn f() { std::thread::spawn(g); }",
            "static A: core::sync::atomic::AtomicBool = f();",
            "thread_local! { static A: u8 = 1; }",
        ] {
            assert_eq!(count("crates/oncelog/src/view.rs", text), 1, "{text}");
            assert_eq!(count("crates/oncelog/src/wake.rs", text), 0, "{text}");
            assert_eq!(count("crates/oncelog/src/view/tests.rs", text), 0, "{text}");
            assert_eq!(count("crates/other/src/view.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn counting_owners_is_fine() {
        for text in ["use std::sync::Arc;", "fn f(a: std::sync::Weak<u8>) {}", "// std::thread::spawn", "use std::fmt;"]
        {
            assert_eq!(count("crates/oncelog/src/view.rs", text), 0, "{text}");
        }
    }
}
