//! `cargo xtask tidy`: the house rules that no compiler knows, each in a file of its own.
//!
//! To add a rule: a file here with `check(&Repo) -> Vec<Complaint>` and tests on made-up files, and a line in
//! [`RULES`]. Rules see the repository in memory ([`repo::Repo`]) and are pure.

mod dependencies;
mod floors;
mod layout;
mod leftovers;
mod map;
mod module_docs;
mod repo;
mod rust;
mod threads;
mod unsafety;
mod unwraps;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use repo::Repo;

/// The rules, in the order of their complaints.
const RULES: &[fn(&Repo) -> Vec<Complaint>] = &[
    floors::check,
    threads::check,
    module_docs::check,
    map::check,
    leftovers::check,
    unsafety::check,
    unwraps::check,
    layout::check,
    dependencies::check,
];

/// One breach of a rule, at a line counted from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Complaint {
    path: String,
    line: usize,
    message: String,
}

impl Complaint {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Complaint {
        Complaint { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// Reads the repository at `root`, prints what breaks a rule, and says in the exit code whether anything does.
pub(crate) fn run(root: &Path) -> ExitCode {
    let repo = match Repo::read(root) {
        Ok(repo) => repo,
        Err(error) => {
            eprintln!("tidy: the repository at {} cannot be read: {error}", root.display());
            return ExitCode::FAILURE;
        }
    };
    let complaints: Vec<Complaint> = RULES.iter().flat_map(|rule| rule(&repo)).collect();
    complaints.iter().for_each(|complaint| println!("{complaint}"));
    println!("tidy: {} files, {} complaints", repo.texts().len(), complaints.len());
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
