//! Everything that can be wrong with what the command is given: one clear line, and the right exit code.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{failure, oncelog, summary};
use oncelog::{Store, TopicDef, U64, Utf8};
use tempfile::TempDir;

/// A user that owns nothing.
const NOBODY: u32 = 65_534;

fn demo(dir: &Path, call: &[&str]) -> Output {
    oncelog(dir).args(["demo", "--records", "1000", "--kills", "1"]).args(call).output().unwrap()
}

fn demo_on(dir: &Path, input: &str) -> Output {
    oncelog(dir).args(["demo", "--kills", "1", "--input", input]).output().unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, parts: &[&str]) {
    let (found, line) = failure(output);
    assert_eq!(found, code, "{line}");
    parts.iter().for_each(|part| assert!(line.contains(part), "no {part:?} in: {line}"));
}

/// Says, past the test harness, which keeps the output of tests to itself, that something was not tested.
fn left_out(reason: &str) {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "LEFT OUT: {reason}").unwrap();
}

#[test]
fn wrong_calls() {
    let dir = tempfile::tempdir().unwrap();
    for (call, part) in [
        (&["dem"][..], "unrecognized subcommand 'dem'; a similar subcommand exists: 'demo'"),
        (&["demo", "--kill", "3"], "'--kill'"),
        (&["demo", "--kills", "many"], "'many'"),
        (&["demo", "--repeat", "0"], "'--repeat <N>'"),
        (&["demo", "--input", "a", "--records", "5"], "cannot be used with"),
        (&["demo", "here"], "'here'"),
    ] {
        let help = if call[0] == "demo" { "(see 'oncelog demo --help')" } else { "(see 'oncelog --help')" };
        assert_fails(&oncelog(dir.path()).args(call).output().unwrap(), 2, &[part, help]);
    }
    let output = oncelog(dir.path()).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &[][..]));
    assert!(fs::read_dir(&dir).unwrap().next().is_none());
}

#[test]
fn a_store_that_is_a_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for call in ["topic create t", "topic list", "stats", "consume t", "verify", "repair"] {
        let call = oncelog(dir.path()).args(call.split(' ')).args(["--store", "file"]).output().unwrap();
        assert_fails(&call, 2, &["this is a file", "(file)"]);
    }
}

#[test]
fn inputs_that_are_no_readable_file() {
    let dir = tempfile::tempdir().unwrap();
    assert_fails(&demo_on(dir.path(), "missing.log"), 3, &["missing.log", "No such file"]);
    fs::create_dir(dir.path().join("logs")).unwrap();
    assert_fails(&demo_on(dir.path(), "logs"), 1, &["logs", "it is a directory"]);
    assert_fails(&demo_on(dir.path(), "/dev/null"), 1, &["/dev/null", "not a plain file"]);
    assert!(!dir.path().join("oncelog-demo").exists());
}

/// The command as run by a user who owns nothing, from a place that everybody can reach.
fn powerless(dir: &TempDir) -> Command {
    let program = dir.path().join("oncelog");
    // By another process: a program that this one has open for writing, in a child just forked, cannot be started.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_oncelog")).arg(&program).status();
    assert!(copied.unwrap().success());
    fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.current_dir(dir).args(["demo", "--records", "1000", "--kills", "1"]);
    if fs::metadata(dir).unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn unreachable_to_others(path: &Path) {
    // Also for its owner, who is the one that is powerless where the tests are not run by root.
    fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
}

#[test]
fn inputs_and_directories_without_permission() {
    let dir = tempfile::tempdir().unwrap();
    let (log, closed) = (dir.path().join("access.log"), dir.path().join("closed"));
    fs::write(&log, "").unwrap();
    fs::create_dir(&closed).unwrap();
    unreachable_to_others(&log);
    unreachable_to_others(&closed);
    let mut command = powerless(&dir);
    let denied = "Permission denied";
    let output = command.arg("--store").arg(closed.join("store")).output().unwrap();
    assert_fails(&output, 1, &["closed", denied]);
    assert_fails(&powerless(&dir).arg("--store").arg(&closed).output().unwrap(), 1, &["closed", denied]);
    let mut command = Command::new(dir.path().join("oncelog"));
    if fs::metadata(&dir).unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_fails(&command.args(["demo", "--input"]).arg(&log).output().unwrap(), 1, &["access.log", denied]);
    fs::set_permissions(&closed, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn store_directories_that_are_something_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    fs::write(path.join("file"), "mine").unwrap();
    assert_fails(&demo(path, &["--store", "file"]), 2, &["file", "a store is a directory"]);
    fs::create_dir(path.join("photos")).unwrap();
    fs::write(path.join("photos/one.jpg"), "mine").unwrap();
    assert_fails(&demo(path, &["--store", "photos"]), 2, &["not a store", "photos"]);
    let store = Store::open(path.join("mine")).unwrap();
    store.producer(TopicDef::<Utf8, U64>::new("requests")).unwrap().append("a", &1).unwrap();
    store.close().unwrap();
    assert_fails(&demo(path, &["--store", "mine"]), 1, &["mine", "did not make"]);
    assert_eq!(fs::read_to_string(path.join("photos/one.jpg")).unwrap(), "mine");
}

#[test]
fn a_demo_directory_of_somebody_else_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("oncelog-demo");
    fs::create_dir_all(home.join("store")).unwrap();
    assert_fails(&demo(dir.path(), &[]), 1, &["oncelog-demo", "was not made by the demo"]);
    assert!(home.join("store").exists());
    fs::remove_dir_all(&home).unwrap();
    fs::write(&home, "mine").unwrap();
    assert_fails(&demo(dir.path(), &[]), 1, &["oncelog-demo"]);
}

/// A store that a demo has finished.
fn finished(dir: &Path) -> PathBuf {
    summary(&demo(dir, &["--store", "store"])).assert_exact();
    dir.join("store")
}

#[test]
fn stores_of_a_newer_format_and_damaged_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = finished(dir.path());
    let file = store.join("STORE");
    let good = fs::read(&file).unwrap();
    let mut newer = good.clone();
    newer[8] += 1;
    let summed = newer.len() - 4;
    let sum = crc32c(&newer[..summed]);
    newer[summed..].copy_from_slice(&sum.to_le_bytes());
    fs::write(&file, newer).unwrap();
    assert_fails(&demo(dir.path(), &["--store", "store"]), 4, &["format 2", "STORE"]);
    let mut damaged = good.clone();
    damaged[20] ^= 1;
    fs::write(&file, damaged).unwrap();
    assert_fails(&demo(dir.path(), &["--store", "store"]), 4, &["damaged", "STORE", "at byte"]);
    fs::write(&file, good).unwrap();
    let mut files = fs::read_dir(store.join("topics/requests/000000")).unwrap().map(|entry| entry.unwrap().path());
    let segment = files.find(|path| path.extension().is_some_and(|kind| kind == "segment")).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&segment, bytes).unwrap();
    assert_fails(&demo(dir.path(), &["--store", "store"]), 4, &[".segment", "at byte"]);
}

/// CRC-32C, bit by bit (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| sum >> 1 ^ if sum & 1 == 1 { 0x82F6_3B78 } else { 0 })
    })
}

#[test]
fn a_store_that_another_process_has_open() {
    let dir = tempfile::tempdir().unwrap();
    let held = Store::open(dir.path().join("store")).unwrap();
    let holder = format!("held by process {}", std::process::id());
    assert_fails(&demo(dir.path(), &["--store", "store"]), 5, &["MANIFEST", &holder]);
    held.close().unwrap();
    summary(&demo(dir.path(), &["--store", "store"])).assert_exact();
}

#[test]
fn two_demos_in_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_oncelog"));
    let first = command.current_dir(&dir).args(["demo", "--records", "20000", "--pace-ms", "50"]).spawn();
    let mut first = first.unwrap();
    while !dir.path().join("oncelog-demo/store").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the demo ended");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let holder = format!("held by process {}", first.id());
    assert_fails(&demo(dir.path(), &[]), 5, &["oncelog-demo", &holder]);
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn lines_that_cannot_be_taken_are_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let good = r#"192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 7 "-" "-""#;
    let long = "x".repeat(17 << 20);
    // One that is too long for a record, one that fits barely, one that is no line of a log, one without an end.
    let fits = "x".repeat((16 << 20) - 5000);
    fs::write(dir.path().join("log"), format!("{good}\n{good} {long}\n{good} {fits}\nhello\n{good}")).unwrap();
    let said = summary(&demo_on(dir.path(), "log"));
    said.assert_exact();
    assert_eq!((said.number("records"), said.get("too long"), said.get("not parsed")), (3, "1 (line 2)", "1 (line 4)"));

    fs::write(dir.path().join("log"), b"\xFF\xFE binary \0\n\n\r\n").unwrap();
    let said = summary(&demo_on(dir.path(), "log"));
    said.assert_exact();
    assert_eq!((said.number("records"), said.get("not parsed")), (0, "3 (lines 1, 2, 3)"));
    fs::write(dir.path().join("log"), "").unwrap();
    summary(&demo_on(dir.path(), "log")).assert_exact();
}

/// A file system of its own, of a size; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Option<SmallDisk> {
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o"]).arg(format!("size={size}")).arg("tmpfs").arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| SmallDisk(at.to_owned()))
    }

    fn grow(&self, size: &str) {
        let grown = Command::new("mount").arg("-o").arg(format!("remount,size={size}")).arg(&self.0).status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_and_the_work_goes_on_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let mount = dir.path().join("disk");
    fs::create_dir(&mount).unwrap();
    // Too small for a store, and too small for the records.
    for size in ["1m", "64m"] {
        let Some(disk) = SmallDisk::mount(&mount, size) else {
            return left_out("a full disk: no small file system can be mounted here");
        };
        let store = mount.join("store");
        let store = store.to_str().unwrap();
        let call = ["--records", "400000", "--store", store];
        let full = || oncelog(dir.path()).args(["demo", "--kills", "2"]).args(call).output().unwrap();
        for _ in 0..3 {
            assert_fails(&full(), 1, &["No space left on device", store]);
        }
        disk.grow("1g");
        let said = summary(&full());
        said.assert_exact();
        assert_eq!(said.number("records"), 400_000);
    }
}
