//! Every example is run, and what it prints is looked at; those that claim to survive a kill are killed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// Runs an example to its end, which must be good; gives what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn path(dir: &Path) -> &str {
    dir.to_str().unwrap()
}

#[test]
fn hello_log_reads_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let printed = run(env!("CARGO_BIN_EXE_hello-log"), &[path(dir.path())]);
        let read: Vec<_> = printed.lines().filter(|line| line.starts_with("read")).map(str::to_owned).collect();
        let names = ["ann", "bob", "cleo"];
        let expected: Vec<_> =
            (0..).zip(names).map(|(at, name)| format!("read {}: hello, {name}", round * 3 + at)).collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn word_count_counts_each_line_once() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("text");
    let lines: Vec<_> = (0..300).map(|line| format!("every line; some{} and every", line % 7)).collect();
    std::fs::write(&text, lines.join("\n")).unwrap();
    let store = dir.path().join("store");
    let arguments = [path(&store), path(&text)];
    // Killed on the way some times, at moments that nobody chose.
    for round in 0..3 {
        let mut child =
            Command::new(env!("CARGO_BIN_EXE_word-count")).args(arguments).stdout(Stdio::null()).spawn().unwrap();
        thread::sleep(std::time::Duration::from_millis(30 + 40 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    for _ in 0..2 {
        let printed = run(env!("CARGO_BIN_EXE_word-count"), &arguments);
        let counts: Vec<_> = printed.lines().take(3).map(str::trim).collect();
        assert_eq!(counts, ["600 every", "300 and", "300 line"]);
    }
}

#[test]
fn transfer_ledger_keeps_its_sum_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_transfer-ledger"))
            .args([path(dir.path()), "100000"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(std::time::Duration::from_millis(200 + 100 * round));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // It looks at its books before and after.
    let printed = run(env!("CARGO_BIN_EXE_transfer-ledger"), &[path(dir.path()), "400"]);
    let right = printed.lines().filter(|line| line.ends_with("2000000 cents in all: the books are right")).count();
    assert_eq!(right, 2, "{printed}");
}

#[test]
fn dedup_ingester_stores_each_line_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file) = (dir.path().join("store"), dir.path().join("lines"));
    let lines: Vec<_> = (0..5_000).map(|line| format!("line {line}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let arguments = [path(&store), path(&file)];
    for die_after in ["1", "1700", "2"] {
        let mut dying = Command::new(env!("CARGO_BIN_EXE_dedup-ingester"));
        let status = dying.args(arguments).arg(die_after).stdout(Stdio::null()).status().unwrap();
        assert!(!status.success());
    }
    for _ in 0..2 {
        let printed = run(env!("CARGO_BIN_EXE_dedup-ingester"), &arguments);
        assert!(printed.ends_with("5000 lines are there now\n"), "{printed}");
    }
}

#[test]
fn tail_sees_what_another_process_writes() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let printed = run(env!("CARGO_BIN_EXE_tail"), &[path(dir.path()), "5"]);
        let begins = |at: usize| format!("{}: tick {at} of process", round * 5 + at);
        assert_eq!(printed.lines().count(), 5);
        assert!(printed.lines().enumerate().all(|(at, line)| line.starts_with(&begins(at))), "{printed}");
    }
}

#[test]
fn rate_limiter_decides_as_a_plain_program_does() {
    let dir = tempfile::tempdir().unwrap();
    // Half of the requests, then all.
    for requests in ["250", "500"] {
        let printed = run(env!("CARGO_BIN_EXE_rate-limiter"), &[path(dir.path()), requests]);
        assert!(printed.contains("ann: "), "{printed}");
    }
}

#[test]
fn order_book_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    for orders in ["500", "2000"] {
        let printed = run(env!("CARGO_BIN_EXE_order-book"), &[path(dir.path()), orders]);
        assert_eq!(printed.lines().count(), 3, "{printed}");
    }
}

#[test]
fn file_indexer_follows_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, folder) = (dir.path().join("store"), dir.path().join("texts"));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a"), "one two").unwrap();
    std::fs::write(folder.join("b"), "two three").unwrap();
    let search = |words: &[&str]| {
        let mut arguments = vec![path(&store), path(&folder)];
        arguments.extend(words);
        let printed = run(env!("CARGO_BIN_EXE_file-indexer"), &arguments);
        let names = printed.lines().map(|line| line.rsplit('/').next().unwrap_or_default().to_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(search(&["Two"]), ["2 changes", "a", "b"]);
    assert_eq!(search(&["two", "three"]), ["0 changes", "b"]);
    std::fs::write(folder.join("a"), "three").unwrap();
    std::fs::remove_file(folder.join("b")).unwrap();
    assert_eq!(search(&["three"]), ["2 changes", "a"]);
    assert_eq!(search(&["two"]), ["0 changes"]);
}

/// The service, with the port that it listens on.
fn serve(dir: &Path) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_http-intake")).arg(dir).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").unwrap().to_owned();
    (child, address)
}

/// One request, and the answer's status and body.
#[test]
fn remote_checkpoints_count_each_number_once_through_kills_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_remote-checkpoints");
    let stored = || {
        let files = std::fs::read_dir(dir.path().join("checkpoints/numbers")).into_iter().flatten();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|end| end == "checkpoint"));
        files.sort();
        files
    };
    for round in 1..4 {
        let arguments = [path(dir.path()), "100000000"];
        let mut child = Command::new(program).args(arguments).stdout(Stdio::null()).spawn().unwrap();
        let before = stored().pop();
        while stored().pop() == before {
            thread::sleep(std::time::Duration::from_millis(5 * round));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let newest = stored().pop().unwrap();
    let sequence: u64 = newest.file_name().unwrap().to_str().unwrap().split('-').next().unwrap().parse().unwrap();
    std::fs::write(&newest, b"spoilt").unwrap();
    let end = sequence + 2_345;
    let printed = run(program, &[path(dir.path()), &end.to_string()]);
    assert!(printed.contains("passed over: ") && printed.contains(&format!("{sequence:020}")), "{printed}");
    assert!(printed.contains(&format!("\n5: {}\n", (end + 5) / 10)), "{printed}");
    assert!(printed.ends_with(&format!("{end} events\n")), "{printed}");
    assert!(stored().len() <= 3);
}

/// Runs a program that kills itself after so much of its work.
fn run_to_death(program: &str, arguments: &[&str], die_after: &str) {
    let status =
        Command::new(program).args(arguments).arg(die_after).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(!status.unwrap().success(), "{program} was to die after {die_after}");
}

#[test]
fn from_txlog_takes_each_job_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, old) = (dir.path().join("store"), dir.path().join("old"));
    let jobs = ["build 60", "noop 0", "test 600", "build 60", "crawl 90000", "test 600"];
    std::fs::write(&old, (0..50).map(|at| jobs[at % 6]).collect::<Vec<_>>().join("\n")).unwrap();
    let (program, arguments) = (env!("CARGO_BIN_EXE_from-txlog"), [path(&store), path(&old)]);
    for die_after in ["3", "20", "1"] {
        run_to_death(program, &arguments, die_after);
    }
    let printed = run(program, &arguments);
    // Eight rounds of the six jobs, and two more.
    let seconds = 8 * (60 + 600 + 60 + 90_000 + 600) + 60;
    let expected = format!(
        "50 jobs are worked off now\n50 for whoever was first\n{seconds} seconds in all\nbuild: 17\ntest: 16\n"
    );
    assert!(printed.ends_with(&expected), "{printed}");
    let printed = run(program, &arguments);
    assert!(printed.starts_with("0 jobs were taken over\n0 jobs are worked off now\n0 for whoever"), "{printed}");
}

#[test]
fn from_offset_package_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (program, arguments) = (env!("CARGO_BIN_EXE_from-offset-package"), [path(dir.path())]);
    // The old package had processed events 0 to 9: the tenth record commits 20, the seven behind it are lost.
    run_to_death(program, &arguments, "13");
    let printed = run(program, &arguments);
    let expected = "clicks goes on at 20\nviews goes on at 5\norders goes on at 0\n50 events were processed\n";
    assert_eq!(printed, expected);
    let printed = run(program, &arguments);
    assert!(printed.ends_with("orders goes on at 25\n0 events were processed\n"), "{printed}");
}

#[test]
fn from_checkpoints_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (program, arguments) = (env!("CARGO_BIN_EXE_from-checkpoints"), [path(dir.path())]);
    // Taken over at 500; the checkpoint at 700 is there, and 30 events behind it are done again.
    run_to_death(program, &arguments, "230");
    let printed = run(program, &arguments);
    assert_eq!(printed, "goes on behind sequence 700\n333 of 1000 events lay on the second half\n");
    let printed = run(program, &arguments);
    assert_eq!(printed, "goes on behind sequence 1000\n333 of 1000 events lay on the second half\n");
}

#[test]
fn from_broker_client_shares_the_old_directory() {
    let dir = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_from-broker-client");
    let printed = run(program, &[path(dir.path()), "60"]);
    assert_eq!(printed, "topic-1-consumer-100 has passed 100\ntopic-1-consumer-100: 102\n");
    // Two at once: neither goes back, and what is left is what the further one saved.
    let start = || Command::new(program).args([path(dir.path()), "30"]).stdout(Stdio::piped()).spawn().unwrap();
    let both = [start(), start()];
    for child in both {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let file = std::fs::read_to_string(dir.path().join("billing/topic-1-consumer-100.offset")).unwrap();
    let next: u64 = file.trim_end().parse().unwrap();
    assert!((132..=162).contains(&next), "{next}");
}

#[test]
fn from_coordinator_counts_each_message_once() {
    let dir = tempfile::tempdir().unwrap();
    let (program, arguments) = (env!("CARGO_BIN_EXE_from-coordinator"), [path(dir.path())]);
    for die_after in ["0", "70", "101"] {
        run_to_death(program, &arguments, die_after);
    }
    // Of 300 of one producer 171 are in, of the other the old coordinator had 120.
    let printed = run(program, &arguments);
    let expected = "count/foaf:knows 200\ncount/foaf:name 200\ncount/rdf:type 200\n309 taken in, 592 duplicates\n";
    assert_eq!(printed, expected);
    let printed = run(program, &arguments);
    assert!(printed.contains("count/rdf:type 200\n") && printed.contains("\n0 taken in, "), "{printed}");
}

fn ask(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.trim().to_owned())
}

fn order(address: &str, name: &str, cents: u64) -> u16 {
    let body = format!("{{\"customer\":\"ann\",\"cents\":{cents}}}");
    let head = "POST /orders HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: application/json\r\n";
    let length = body.len();
    ask(address, &format!("{head}Idempotency-Key: {name}\r\nContent-Length: {length}\r\n\r\n{body}")).0
}

fn total(address: &str) -> (u16, String) {
    ask(address, "GET /totals/ann HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
}

#[test]
fn http_intake_takes_each_order_once() {
    let dir = tempfile::tempdir().unwrap();
    let (mut service, address) = serve(dir.path());
    assert_eq!(total(&address).0, 404);
    // Eight clients send the same ten orders at once.
    let clients = (0..8).map(|_| {
        let address = address.clone();
        thread::spawn(move || (0..10).map(|number| order(&address, &format!("n{number}"), 5)).collect::<Vec<_>>())
    });
    let statuses: Vec<u16> =
        clients.collect::<Vec<_>>().into_iter().flat_map(|client| client.join().unwrap()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 10, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 70, "{statuses:?}");
    assert_eq!(order(&address, "n0", 6), 409);
    service.kill().unwrap();
    service.wait().unwrap();

    // After the kill all is there, and the same orders are known.
    let (mut service, address) = serve(dir.path());
    assert_eq!(order(&address, "n3", 5), 200);
    assert_eq!(order(&address, "last", 1), 201);
    let began = std::time::Instant::now();
    while total(&address) != (200, "51".to_owned()) {
        assert!(began.elapsed().as_secs() < 60, "{:?}", total(&address));
        thread::sleep(std::time::Duration::from_millis(10));
    }
    service.kill().unwrap();
    service.wait().unwrap();
}
