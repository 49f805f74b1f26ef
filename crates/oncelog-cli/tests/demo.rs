//! `oncelog demo`, killed for real: what it says, and what the test finds in the store by itself.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

#[path = "common/audit.rs"]
mod audit;
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use audit::{Audit, made_up_log};
use common::{failure, oncelog, summary};
use oncelog::{Postcard, Store, TableDef, Utf8};

const ALERT_OVER: u64 = 10_000_000;

#[test]
fn made_up_orders_survive_kills_and_a_second_demo_starts_over() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let call = ["demo", "--records", "20000", "--kills", "5", "--alert-over", "50000", "--pace-ms", "2"];
        let said = summary(&oncelog(dir.path()).args(call).output().unwrap());
        said.assert_exact();
        assert_eq!((said.number("records"), said.number("crashes"), said.number("not parsed")), (20_000, 5, 0));
        assert!(said.number("alerts") > 10);
        // Each order is there once, and what the table says is what the orders say.
        let mut orders = BTreeSet::new();
        let mut sums = std::collections::BTreeMap::<String, (u64, u64)>::new();
        let found = Audit::of_store(&dir.path().join("oncelog-demo/store"), |line, text| {
            let words: Vec<_> = text.split(' ').collect();
            assert_eq!(words[1].parse(), Ok(line - 1));
            assert!(orders.insert(line), "line {line} twice");
            let (hits, cents) = sums.entry(words[2].to_owned()).or_default();
            (*hits, *cents) = (*hits + 1, *cents + words[3].replace('.', "").parse::<u64>().unwrap());
        });
        assert!(orders.into_iter().eq(1..=20_000));
        assert_eq!(found.totals, sums);
        let alerted = sums.iter().filter(|(_, (_, cents))| *cents > 50_000).map(|(name, _)| name);
        assert!(found.alerts.iter().map(|(name, _)| name).eq(alerted));
        assert_eq!(found.alerts.len() as u64, said.number("alerts"));
    }
}

/// The real log that `ONCELOG_ACCESS_LOG` names, or else one made up.
fn access_log(dir: &Path) -> (PathBuf, String) {
    let path = std::env::var_os("ONCELOG_ACCESS_LOG").map(PathBuf::from).unwrap_or_else(|| {
        let path = dir.join("access.log");
        fs::write(&path, made_up_log(10_000)).unwrap();
        path
    });
    let log = fs::read_to_string(&path).unwrap();
    (path, log)
}

fn demo_on_log(repeat: u64, call: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = access_log(dir.path());
    let store = dir.path().join("store");
    let mut command = oncelog(dir.path());
    command.args(["demo", "--alert-over", &ALERT_OVER.to_string(), "--repeat", &repeat.to_string()]).args(call);
    let output = command.arg("--input").arg(path).arg("--store").arg(&store).output().unwrap();
    let said = summary(&output);
    said.assert_exact();

    let (expected, unread) = Audit::of_log(&log, repeat, ALERT_OVER);
    assert!(expected.alerts.len() > 10 && !unread.is_empty());
    let found = Audit::of_store(&store, |_, _| {});
    assert_eq!(found.totals, expected.totals);
    assert_eq!(found.alerts, expected.alerts);
    assert!(found.lines == expected.lines, "the records are not the lines, each once and in order");

    let kills = call.iter().skip_while(|word| **word != "--kills").nth(1).unwrap();
    assert!(said.get("crashes").starts_with(&format!("{kills} survived, ")), "{}", said.get("crashes"));
    assert!(said.get("crashes").ends_with(" of them during recovery"), "{}", said.get("crashes"));
    assert_eq!(said.number("records"), log.lines().count() as u64 * repeat - unread.len() as u64);
    assert_eq!(said.number("not parsed"), unread.len() as u64);
    assert!(said.get("not parsed").contains(&format!(" {}", unread[0])));
    assert_eq!(said.number("alerts"), expected.alerts.len() as u64);
    assert_eq!(said.number("clients"), expected.totals.len() as u64);
}

#[test]
fn ten_thousand_lines_of_a_log_survive_fifty_kills() {
    demo_on_log(1, &["--kills", "50", "--pace-ms", "8", "--transaction-lines", "10"]);
}

#[test]
fn a_million_lines_of_a_log_survive_kills() {
    demo_on_log(100, &["--kills", "12"]);
}

fn demo_in(store: &Path, more: &[&str]) -> Output {
    let mut command = oncelog(store.parent().unwrap());
    command.args(["demo", "--records", "30000", "--store"]).arg(store).args(more).output().unwrap()
}

#[test]
fn a_demo_that_is_killed_goes_on_where_it_stopped_and_leaves_no_worker() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut first = std::process::Command::new(env!("CARGO_BIN_EXE_oncelog"));
    first.args(["demo", "--records", "30000", "--pace-ms", "20", "--store"]).arg(&store);
    let mut first = first.stdout(Stdio::null()).spawn().unwrap();
    while !store.join("topics/requests").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the demo ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(300));
    first.kill().unwrap();
    first.wait().unwrap();
    // Its worker notices soon that nobody listens, and until then the store is its own.
    let started = Instant::now();
    let output = loop {
        let output = demo_in(&store, &["--kills", "3"]);
        if output.status.code() != Some(5) {
            break output;
        }
        assert!(failure(&output).1.contains("held by process "));
        assert!(started.elapsed() < Duration::from_secs(20), "the worker lives on");
    };
    let said = summary(&output);
    said.assert_exact();
    assert!(said.get("records").starts_with("30,000, "), "{}", said.get("records"));
    assert!(said.get("records").contains(" of them loaded now, "), "{}", said.get("records"));

    let again = summary(&demo_in(&store, &["--kills", "0"]));
    again.assert_exact();
    assert_eq!(again.get("records"), "30,000, all there from an earlier run");
    assert_eq!(again.number("alerts"), said.number("alerts"));
    let (code, line) = failure(&demo_in(&store, &["--seed", "9"]));
    assert_eq!(code, 1);
    assert!(line.contains("holds a demo of 30000 made-up orders of seed 1"), "{line}");
}

#[test]
fn a_result_that_is_not_the_recount_is_told() {
    const TOTALS: TableDef<Utf8, Postcard<(u64, u64)>> = TableDef::new("totals");
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    summary(&demo_in(&store, &["--kills", "0"])).assert_exact();
    let spoilt = Store::open(&store).unwrap();
    spoilt
        .transact(|tx| {
            let mut totals = tx.table(TOTALS)?;
            let (hits, amount) = totals.get("customer-0000")?.unwrap();
            totals.put("customer-0000", &(hits + 2, amount))
        })
        .unwrap();
    spoilt.close().unwrap();
    let output = demo_in(&store, &["--kills", "0"]);
    let (code, line) = failure(&output);
    assert_eq!(code, 1);
    assert!(
        line.contains("differs from a plain recount of the input: hits of customer-0000 in table totals: "),
        "{line}"
    );
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("\nduplicates  2\n") && !stdout.contains("exactly once"), "{stdout}");
}

#[test]
fn nobody_reading_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    for call in [&["demo", "--records", "2000", "--kills", "1"][..], &["--help"], &["demo", "--help"]] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oncelog"));
        command.current_dir(&dir).args(call).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    }
}
