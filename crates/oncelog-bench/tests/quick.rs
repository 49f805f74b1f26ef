//! Every workload runs on every subject and reports something. How fast is nobody's business here.

use std::process::Command;

const BENCH: &str = env!("CARGO_BIN_EXE_oncelog-bench");

/// What has no yardstick beside it.
const ALONE: [&str; 4] = ["large", "wake-up", "tables", "names"];

#[test]
fn every_workload_reports_figures() {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("figures.json");
    let ran =
        Command::new(BENCH).arg("--quick").arg("--dir").arg(dir.path()).arg("--json").arg(&json).output().unwrap();
    let (out, remarks) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{remarks}");
    assert!(out.starts_with("machine: "), "{out}");
    assert!(out.ends_with("verdict: none\n"), "{out}");

    let listed = Command::new(BENCH).arg("--list").output().unwrap();
    let names: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(first_word).collect();
    let (alone, compared): (Vec<_>, Vec<_>) = names.into_iter().partition(|name| ALONE.contains(&name.as_str()));
    assert!(compared.len() >= 15 && alone.len() == ALONE.len(), "{compared:?} {alone:?}");
    let text = std::fs::read_to_string(&json).unwrap();
    for name in alone {
        let start = format!("{{\"workload\": \"{name}\", \"figure\": ");
        let rows: Vec<_> = text.lines().filter(|line| line.starts_with(&start)).collect();
        assert!(rows.len() >= 2, "{name} reports too little:\n{text}");
        for row in rows {
            // A reader that has its record before the writer has its answer has waited no time at all.
            assert!(field(row, "median") > 0.0 || name == "wake-up", "{row}");
        }
    }
    for name in compared {
        for subject in ["raw", "zeroed", "oncelog"] {
            let start = format!("{{\"workload\": \"{name}\", \"subject\": \"{subject}\"");
            let row = text.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("{name} on {subject} reports nothing:\n{text}"));
            assert!(field(row, "median") > 0.0, "{row}");
            assert!(field(row, "count") > 0.0, "{row}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["figures.json"], "only the file that was asked for stays");
}

#[test]
fn the_help_tells_each_workload() {
    let helped = Command::new(BENCH).arg("--help").output().unwrap();
    let listed = Command::new(BENCH).arg("--list").output().unwrap();
    // Lines are broken where the terminal ends.
    let words = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    let help = words(helped.stdout);
    for line in listed.stdout.split(|byte| *byte == b'\n') {
        assert!(help.contains(&words(line.to_vec())), "{line:?} is not in\n{help}");
    }
    assert!(!help.contains("--child"), "{help}");
}

#[test]
fn an_unknown_name_is_an_error() {
    let ran = Command::new(BENCH).args(["--only", "no such workload"]).output().unwrap();
    assert!(!ran.status.success());
    assert!(String::from_utf8_lossy(&ran.stderr).contains("--list"));
}

fn first_word(line: &str) -> String {
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

/// A number of a row, 0 where there is none.
fn field(row: &str, name: &str) -> f64 {
    let value = row.split_once(&format!("\"{name}\": ")).and_then(|(_, rest)| rest.split(',').next());
    value.and_then(|value| value.parse().ok()).unwrap_or_default()
}
