//! What the examples share: where their stores are. Each example is one file under `src/bin`, to be read alone:
//!
//! ```text
//! cargo run -p oncelog-examples --bin hello-log
//! ```
//!
//! The first argument is the directory of the store, else one under the system's place for temporary files is used.
//! Running an example again goes on where it was.

use std::path::PathBuf;

/// The directory that the first argument names, else one for this example.
#[must_use]
pub fn store_dir(example: &str) -> PathBuf {
    std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join(format!("oncelog-{example}")), PathBuf::from)
}

/// The argument at `index` (the directory is 1) as a number, else `default`.
#[must_use]
pub fn number(index: usize, default: u64) -> u64 {
    std::env::args().nth(index).and_then(|text| text.parse().ok()).unwrap_or(default)
}
