//! Rule: in the library, a room uses lower floors only and does not know its neighbours.
//!
//! An arrow is a path in code that starts at the crate's root: `use crate::x`, `crate::x::f()`, and `super::` as often
//! as it takes to get there. Test code obeys too: what a test needs from above belongs in a test above.

use super::Complaint;
use super::repo::{Repo, Text};
use super::rust::{Token, code_only, tokens};

/// The source that has floors.
const HOUSE: &str = "crates/oncelog/src/";
/// May use everything, and is used by nobody.
const FRONT_DOOR: &str = "lib";

/// The rooms, low floors first. ARCHITECTURE.md says what each is for.
const FLOORS: &[&[&str]] = &[
    &["error"],
    &["ids", "disk", "clock", "chance", "process", "wake", "codec"],
    &["record", "view", "page", "objects"],
    &["segment", "journal"],
    &["topic", "producer", "table", "offsets"],
    &["consumer"],
    &["transaction"],
    &["checkpoint", "backup"],
    &["handles"],
    &["store"],
    &["connect"],
    &["fuzzing"],
];

/// Arrows that point up or sideways all the same: from, to, and why.
const ALLOWED: &[(&str, &str, &str)] = &[
    ("error", "ids", "an error names the log offsets where a gap is"),
    ("chance", "wake", "threads share a seed under a lock, and locks come from `wake` alone"),
    ("disk", "wake", "threads share the disk in memory under locks, and locks come from `wake` alone"),
];

/// Complains about files that are in no known room, and about arrows that point up or sideways.
pub(super) fn check(repo: &Repo) -> Vec<Complaint> {
    repo.rust().filter(|file| file.path.starts_with(HOUSE)).flat_map(check_file).collect()
}

fn check_file(file: &Text) -> Vec<Complaint> {
    let module = module_path(&file.path);
    let Some(&room) = module.first() else { return Vec::new() };
    if floor_of(room).is_none() {
        return vec![Complaint::new(&file.path, 1, format!("`{room}` is not a room: give it a floor in tidy"))];
    }
    let code = code_only(&file.text);
    let arrows = arrows(&tokens(&code), module.len());
    let objections = arrows.iter().filter_map(|(to, line)| Some((objection(room, to)?, *line)));
    objections.map(|(objection, line)| Complaint::new(&file.path, line, objection)).collect()
}

/// The module that a file is, outermost first; empty for the front door.
fn module_path(path: &str) -> Vec<&str> {
    let inside = path.strip_prefix(HOUSE).unwrap_or(path);
    let mut module: Vec<&str> = inside.strip_suffix(".rs").unwrap_or(inside).split('/').collect();
    if module.last() == Some(&"mod") || module == [FRONT_DOOR] {
        module.pop();
    }
    module
}

fn floor_of(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// What is wrong with an arrow between two rooms, if anything is.
fn objection(from: &str, to: &str) -> Option<String> {
    let from_floor = floor_of(from)?;
    let Some(to_floor) = floor_of(to) else {
        return Some(format!("`crate::{to}` is not a room: name the room where it lives, not the front door"));
    };
    if from == to || to_floor < from_floor || ALLOWED.iter().any(|(a, b, _)| (*a, *b) == (from, to)) {
        return None;
    }
    let direction = if to_floor == from_floor { "sideways" } else { "up" };
    Some(format!("`{from}` (floor {from_floor}) points {direction} to `{to}` (floor {to_floor})"))
}

/// Every name that the code looks up in the crate's root, in a file `depth` modules below it.
fn arrows<'a>(tokens: &[Token<'a>], depth: usize) -> Vec<(&'a str, usize)> {
    let mut found = Vec::new();
    let mut braces: Vec<Brace> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match text(tokens, at) {
            "{" => braces.push(if at >= 2 && text(tokens, at - 2) == "mod" { Brace::Module } else { Brace::Other }),
            "}" => drop(braces.pop()),
            // What a macro of the house writes into the code of others goes through the front door.
            "crate" if at > 0 && text(tokens, at - 1) == "$" => {}
            "crate" if text(tokens, at + 1) == "::" => names_at(tokens, at + 2, &mut found),
            "super" => {
                let modules = braces.iter().filter(|brace| **brace == Brace::Module).count();
                let supers = supers_at(tokens, at);
                at += 2 * (supers - 1);
                if supers == depth + modules && text(tokens, at + 1) == "::" {
                    names_at(tokens, at + 2, &mut found);
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Brace {
    Module,
    Other,
}

fn text<'a>(tokens: &[Token<'a>], at: usize) -> &'a str {
    tokens.get(at).map_or("", |token| token.text)
}

/// How many `super` follow each other from here.
fn supers_at(tokens: &[Token<'_>], at: usize) -> usize {
    (0..)
        .take_while(|n| text(tokens, at + 2 * n) == "super" && (*n == 0 || text(tokens, at + 2 * n - 1) == "::"))
        .count()
}

/// The first names of the use tree that starts here: one, or each of those in braces.
fn names_at<'a>(tokens: &[Token<'a>], at: usize, found: &mut Vec<(&'a str, usize)>) {
    if text(tokens, at) != "{" {
        found.extend(tokens.get(at).map(|token| (token.text, token.line)));
        return;
    }
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if depth == 1 && matches!(text(tokens, index - 1), "{" | ",") => found.push((name, token.line)),
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        let path = format!("{HOUSE}{path}");
        check(&Repo::of(&[(&path, text)])).into_iter().map(|complaint| complaint.message).collect()
    }

    fn objects(path: &str, text: &str) -> bool {
        !complaints(path, text).is_empty()
    }

    #[test]
    fn arrows_point_down() {
        assert!(!objects("journal/file.rs", "use crate::disk::Disk;\nuse crate::error::Error;"));
        assert!(objects("journal/file.rs", "use crate::store::Store;"));
        assert!(objects("disk/mod.rs", "pub use crate::record::Batch;"));
    }

    #[test]
    fn neighbours_do_not_know_each_other() {
        let found = complaints("journal.rs", "\nuse crate::segment::Segment;");
        assert_eq!(found, ["`journal` (floor 3) points sideways to `segment` (floor 3)"]);
        assert!(!objects("journal/file.rs", "use crate::journal::frame::seal;"));
    }

    #[test]
    fn listed_exceptions_hold_one_way_only() {
        assert!(!objects("error.rs", "use crate::ids::LogOffset;"));
        assert!(!objects("disk/memory.rs", "use crate::wake::Mutex;"));
        assert!(objects("wake.rs", "use crate::disk::Disk;"));
        assert!(objects("error.rs", "use crate::codec::Input;"));
    }

    #[test]
    fn braces_are_read_at_every_depth() {
        let text = "use crate::{\n    ids::{Lsn, store},\n    store::Store,\n};";
        let found = check(&Repo::of(&[("crates/oncelog/src/record.rs", text)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
    }

    #[test]
    fn paths_in_code_count_and_comments_do_not() {
        assert!(objects("record.rs", "fn f() { crate::store::open() }"));
        assert!(!objects("record.rs", "//! See [`crate::store`].\nconst A: &str = \"crate::store::B\";"));
    }

    #[test]
    fn super_up_to_the_root_is_an_arrow() {
        assert!(objects("record.rs", "use super::store::Store;"));
        assert!(objects("journal/file.rs", "use super::super::store::Store;"));
        assert!(!objects("journal/file.rs", "use super::frame::store;"));
        assert!(!objects("record.rs", "mod tests { use super::store; }"));
        assert!(objects("record.rs", "mod tests { use super::super::store; }"));
        assert!(objects("record.rs", "mod tests { mod more {} }\nuse super::store;"));
    }

    #[test]
    fn the_front_door_may_use_all_and_is_used_by_none() {
        assert!(!objects("lib.rs", "pub use crate::store::Store;"));
        assert!(objects("record.rs", "use crate::Error;"));
        assert!(!objects("record.rs", "macro_rules! m { () => { $crate::Error } }"));
    }

    #[test]
    fn every_file_is_in_a_room() {
        assert!(objects("cellar.rs", ""));
        assert!(objects("cellar/mod.rs", ""));
        assert!(!objects("topic/mod.rs", ""));
    }
}
