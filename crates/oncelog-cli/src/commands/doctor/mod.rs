//! `oncelog doctor`: whether this place and this machine can keep a store, and what to do where they cannot.
//!
//! ```text
//! place  file system, room      sync  how long one takes      machine  limits, locks, memory, clock      store  if any
//! ```
//!
//! Each check says what it found and, if that is not good, one thing to do. Nothing is claimed that was not looked at:
//! a sync that takes its time is a sign, and no proof, that it reaches the device.

mod machine;
mod place;
mod store;
mod sync;

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::cli::{Output, OutputArgument, StoreArgument};
use crate::exit::Failure;
use crate::out;

/// What `oncelog doctor` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog doctor\n  oncelog doctor --store /data/store --output json\n\n\
                        Needs no store: where there is none yet, it looks at the nearest directory above. Works in a \
                        directory of its own there for a second or two, and removes it; one that was interrupted \
                        leaves .oncelog-doctor-*, which is in no store's way and can be removed. Exit code 1 where a \
                        check fails.")]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Serialize)]
struct Check {
    check: &'static str,
    result: Verdict,
    /// What was seen or measured.
    found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Check {
        Check { check, result: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: &str) -> Check {
        Check { check, result: Verdict::Warn, found: found.into(), advice: Some(advice.to_owned()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: &str) -> Check {
        Check { check, result: Verdict::Fail, found: found.into(), advice: Some(advice.to_owned()) }
    }

    fn text(&self) -> String {
        let verdict = match self.result {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let Check { check, found, advice, .. } = self;
        let advice = advice.as_ref().map_or_else(String::new, |advice| format!("{:22}to do: {advice}\n", ""));
        format!("{verdict:<4}  {check:<14}  {found}\n{advice}")
    }
}

/// Looks at everything.
///
/// # Errors
/// A check fails, or nothing can be written there.
pub(crate) fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let dir = &arguments.store.dir;
    let place = nearest(dir)?;
    let mut checks = place::checks(&place);
    // Gone with this value, also where a check panics.
    match tempfile::Builder::new().prefix(".oncelog-doctor-").tempdir_in(&place) {
        Ok(scratch) => {
            checks.push(sync::check(scratch.path()));
            checks.extend(machine::checks_in(scratch.path()));
            if let Err(error) = scratch.close() {
                let left = format!("the directory of this check could not be removed: {error}");
                checks.push(Check::warn("clean", left, "remove the directory .oncelog-doctor-* there"));
            }
        }
        Err(error) => {
            let found = format!("nothing can be written in {}: {error}", place.display());
            checks.push(Check::fail(
                "writable",
                found,
                "give this user the right to write there, or take another place",
            ));
        }
    }
    checks.extend(machine::checks());
    checks.extend(store::checks(dir));
    out::answer(arguments.output.output, &checks, |checks| checks.iter().map(Check::text).collect())?;
    match checks.iter().filter(|check| check.result == Verdict::Fail).count() {
        0 => Ok(()),
        count if arguments.output.output == Output::Json => Err(Failure::plain(format_args!("{count} checks failed"))),
        1 => Err(Failure::plain("1 check failed")),
        count => Err(Failure::plain(format_args!("{count} checks failed"))),
    }
}

/// The directory, or the nearest one above that is there.
fn nearest(dir: &Path) -> Result<PathBuf, Failure> {
    let full = std::path::absolute(dir).map_err(|error| Failure::io(format_args!("find {}", dir.display()), &error))?;
    let found = full.ancestors().find(|place| place.exists());
    match found {
        // Where it really is: mounts are known by their own paths, not by links that lead there.
        Some(place) if place.is_dir() => {
            place.canonicalize().map_err(|error| Failure::io(format_args!("find {}", place.display()), &error))
        }
        Some(place) => Err(Failure::plain(format_args!("{} is a file, a store is a directory", place.display()))),
        None => Err(Failure::plain(format_args!("there is no directory above {}", dir.display()))),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_to_where_the_store_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let real = real.canonicalize().unwrap();
        assert_eq!(nearest(&link), Ok(real.clone()));
        assert_eq!(nearest(&link.join("not/yet")), Ok(real));
    }
}
