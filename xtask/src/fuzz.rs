//! `cargo xtask fuzz`: any bytes to everything that reads bytes, under libFuzzer, which learns from the branches taken.
//!
//! The targets are in `fuzz/`, a workspace of its own. They are built on the same Rust as all else: the flags are those
//! that tell LLVM to count branches, and nothing of it needs a nightly compiler or another tool. Seeds are made anew by
//! the library itself; what the fuzzer learns is kept under the target directory, and never in the repository.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;

/// The targets, as `fuzz/src/main.rs` knows them.
const TARGETS: [&str; 17] = [
    "store",
    "batch",
    "frame",
    "journal",
    "segment",
    "index",
    "manifest",
    "claim",
    "page",
    "table",
    "values",
    "checkpoint",
    "checkpoint-import",
    "backup",
    "backup-piece",
    "offsets",
    "command",
];

/// So many targets run at the same time.
const AT_ONCE: usize = 2;

/// Counts each branch and what is compared, for libFuzzer; `fuzzing` opens the library's doors for the targets.
const FLAGS: &str = "--cfg fuzzing -Dwarnings -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1";

/// What to run, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Options {
    targets: Vec<String>,
    /// For each target.
    seconds: u32,
}

/// Reads the words behind `fuzz`.
pub(crate) fn parse(words: &[&str]) -> Result<Options, String> {
    let mut options = Options { targets: Vec::new(), seconds: 60 };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--seconds" => {
                let number = words.next().and_then(|number| number.parse().ok()).filter(|seconds| *seconds > 0);
                options.seconds = number.ok_or("--seconds wants a number above 0")?;
            }
            target if TARGETS.contains(&target) => options.targets.push(target.to_owned()),
            other => return Err(format!("not a fuzz target: {other}; there are {}", TARGETS.join(", "))),
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.map(str::to_owned).to_vec();
    }
    Ok(options)
}

/// Builds, makes seeds, and runs one target after the other. The exit code says whether nothing was found.
pub(crate) fn run(root: &Path, options: &Options) -> ExitCode {
    match try_run(root, options) {
        Ok(inputs) => {
            println!("checked: {} fuzz targets, {inputs} inputs, 0 findings", options.targets.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(root: &Path, options: &Options) -> io::Result<u64> {
    let home = root.join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into())).join("fuzz");
    let host = host()?;
    // With a target named, the flags are not for build scripts and macros, which run in the compiler.
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--target", &host]);
    build.arg("--manifest-path").arg(root.join("fuzz").join("Cargo.toml"));
    build.env("CARGO_TARGET_DIR", &home).env("RUSTFLAGS", FLAGS).env_remove("CARGO_ENCODED_RUSTFLAGS");
    succeed(&mut build, "the build of the fuzz targets")?;

    let binary = home.join(host).join("release").join("oncelog-fuzz");
    let seeds = home.join("seeds");
    succeed(Command::new(&binary).env("ONCELOG_FUZZ_SEEDS", &seeds), "the making of seeds")?;
    let (left, inputs) = (Mutex::new(options.targets.iter()), Mutex::new(Ok(0)));
    let next = || left.lock().ok()?.next();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(target) = next() {
                    let ran = fuzz(&home, &binary, target, options.seconds);
                    if let Ok(mut inputs) = inputs.lock() {
                        *inputs = match (std::mem::replace(&mut *inputs, Ok(0)), ran) {
                            (Ok(before), Ok(ran)) => Ok(before + ran),
                            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
                        };
                    }
                }
            });
        }
    });
    inputs.into_inner().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

/// Runs one target; gives how many inputs it tried.
fn fuzz(home: &Path, binary: &Path, target: &str, seconds: u32) -> io::Result<u64> {
    let (corpus, findings) = (home.join("corpus").join(target), home.join("findings"));
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&findings)?;
    let mut run = Command::new(binary);
    run.env("ONCELOG_FUZZ_TARGET", target);
    run.arg(&corpus).arg(home.join("seeds").join(target));
    run.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/{target}-", findings.display()));
    run.args(["-rss_limit_mb=512", "-timeout=10", "-print_final_stats=1", "-verbosity=0", "-max_len=8192"]);
    let output = run.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let ran = number_behind(&said, "stat::number_of_executed_units:");
    match ran {
        Some(ran) if output.status.success() && ran > 0 => {
            println!("{target}: {ran} inputs in {seconds} s");
            Ok(ran)
        }
        _ => {
            println!("{said}");
            let how = format!("ONCELOG_FUZZ_TARGET={target} {} INPUT", binary.display());
            Err(io::Error::other(format!("{target}: see above; the input is in {}: {how}", findings.display())))
        }
    }
}

fn number_behind(text: &str, mark: &str) -> Option<u64> {
    text.lines().find_map(|line| line.trim().strip_prefix(mark)?.trim().parse().ok())
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// The triple of this machine, as the compiler calls it.
fn host() -> io::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let output = Command::new(PathBuf::from(rustc)).arg("-vV").output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| io::Error::other("rustc does not say what machine this is"))
}

fn succeed(command: &mut Command, what: &str) -> io::Result<()> {
    if command.status()?.success() { Ok(()) } else { Err(io::Error::other(format!("{what} failed, see above"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_targets_for_a_minute_unless_told() {
        assert_eq!(parse(&[]).map(|options| (options.targets.len(), options.seconds)), Ok((TARGETS.len(), 60)));
        let one = Options { targets: vec!["store".to_owned()], seconds: 7 };
        assert_eq!(parse(&["--seconds", "7", "store"]), Ok(one));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        assert!(parse(&["stor"]).is_err());
        assert!(parse(&["--seconds"]).is_err());
        assert!(parse(&["--seconds", "0"]).is_err());
    }

    #[test]
    fn the_count_is_read_from_what_the_fuzzer_says() {
        assert_eq!(
            number_behind("Done\nstat::number_of_executed_units: 512\n", "stat::number_of_executed_units:"),
            Some(512)
        );
        assert_eq!(number_behind("nothing", "stat::number_of_executed_units:"), None);
    }
}
