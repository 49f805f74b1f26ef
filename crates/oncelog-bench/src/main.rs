//! The program `oncelog-bench`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    oncelog_bench::main()
}
