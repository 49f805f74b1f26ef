//! The store that is there, if one is.

use std::path::Path;

use oncelog::{ErrorKind, StoreReader};

use super::Check;

pub(super) fn checks(dir: &Path) -> Vec<Check> {
    const NAME: &str = "store";
    let reader = match StoreReader::open(dir) {
        Ok(reader) => reader,
        Err(error) => return vec![refused(NAME, &error)],
    };
    let mut checks = vec![Check::ok(NAME, format!("{}, format 1", reader.id()))];
    match reader.owners() {
        Ok(owners) => checks.extend(owners.iter().map(|owner| {
            let times = owner.openings;
            let found = match owner.pid {
                Some(pid) => format!("{:?}, opened {times} times, now by {}", owner.name, crate::exit::process(pid)),
                None => format!("{:?}, opened {times} times, now by nobody", owner.name),
            };
            Check::ok("owner", found)
        })),
        Err(error) => checks.push(refused("owners", &error)),
    }
    checks
}

fn refused(name: &'static str, error: &oncelog::Error) -> Check {
    match error.kind() {
        ErrorKind::NotFound => Check::ok(name, "there is none yet"),
        ErrorKind::UnsupportedVersion => {
            Check::fail(name, error.to_string(), "use the version of oncelog that wrote it, or a newer one")
        }
        ErrorKind::Corrupt => {
            let advice = "restore from a backup; where there is none, `oncelog repair` tells what can be kept";
            Check::fail(name, error.to_string(), advice)
        }
        _ => Check::fail(name, error.to_string(), "see to it that this user can read the directory"),
    }
}
