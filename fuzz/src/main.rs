//! Fuzz targets for everything that reads bytes: one program, told by `ONCELOG_FUZZ_TARGET` which of them it is.
//!
//! Run by `cargo xtask fuzz`, which builds with the flags that libFuzzer needs and has the seeds made anew: no
//! corpus is kept in the repository. The first byte of an input says whether checksums count; at `0` they do.
#![no_main]

mod command;
mod memory;
mod seeds;
mod small_disk;
mod specimen;

use std::path::Path;
use std::sync::LazyLock;

use oncelog::fuzzing;

use memory::within_limit;
use specimen::{Specimen, damage};

/// One kind of bytes, and who reads it.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 16] = [
    ("batch", fuzzing::batch),
    ("frame", fuzzing::frame),
    ("journal", fuzzing::journal),
    ("segment", fuzzing::segment),
    ("index", fuzzing::index),
    ("manifest", fuzzing::manifest),
    ("claim", fuzzing::claim),
    ("page", fuzzing::page),
    ("table", fuzzing::table),
    ("values", fuzzing::values),
    ("checkpoint", fuzzing::checkpoint),
    ("checkpoint-import", fuzzing::checkpoint_import),
    ("backup", fuzzing::backup),
    ("backup-piece", fuzzing::backup_piece),
    ("offsets", fuzzing::offsets),
    ("command", command::input),
];

/// A store that was closed in order, and one that was not.
static SPECIMENS: LazyLock<[Specimen; 2]> =
    LazyLock::new(|| [true, false].map(|closed| Specimen::make(closed).expect("an undamaged store")));

/// What this process was told to be; anything but a name in the table is a whole store.
static READS: LazyLock<Option<fn(&[u8])>> = LazyLock::new(|| {
    let name = std::env::var("ONCELOG_FUZZ_TARGET").expect("ONCELOG_FUZZ_TARGET names a target");
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    assert!(found.is_some() || name == "store", "{name}: no such target");
    found.map(|(_, reads)| *reads)
});

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(dir) = std::env::var_os("ONCELOG_FUZZ_SEEDS") {
            seeds::write(Path::new(&dir), &SPECIMENS).expect("a directory for seeds");
            std::process::exit(0);
        }
        LazyLock::force(&READS);
        LazyLock::force(&SPECIMENS);
    },
    |input: &[u8]| {
        let Some((trust, bytes)) = input.split_first() else { return };
        match *READS {
            Some(reads) => {
                fuzzing::trust_checksums(trust % 2 == 1);
                within_limit(|| reads(bytes));
            }
            None => within_limit(|| damage(&SPECIMENS, trust % 2 == 1, bytes)),
        }
    }
);
