//! `produce` and `consume`: what goes in comes out, once, whoever is killed or goes away meanwhile.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use common::shell::Shell;
use oncelog::{PartitionId, StoreReader};

#[test]
fn lines_become_records() {
    let shell = Shell::new();
    shell.fails_on("produce lines", "a\n", 3, "there is no store");
    shell.ok("topic create other");
    shell.fails_on("produce lines", "a\n", 3, "\"lines\"");
    assert_eq!(shell.ok_on("produce lines --create", "a\n\nb\r\nlast"), "4 records appended\n");
    assert_eq!(shell.ok("consume lines"), "a\n\nb\r\nlast\n");
    shell.ok_on("produce lines --key-delimiter \\t", "k\tv\tw\n");
    assert_eq!(shell.ok("consume lines --from 4 --template {key}={value}"), "k=v\tw\n");
    shell.fails_on("produce lines --key-delimiter :", "a:b\nc\n", 1, "line 2");
    assert_eq!(shell.ok("consume lines --from 5"), "b\n", "what comes before a bad line is stored");
    for sync in ["always", "os", "periodic:5", "bytes:10"] {
        shell.ok_on(&format!("produce lines --sync {sync} --batch 2"), "1\n2\n3\n");
    }
    assert_eq!(shell.ok("consume lines --from 6").lines().count(), 12);
    std::fs::write(shell.path("input"), "from a file\n").unwrap();
    assert_eq!(
        shell.ok("produce lines input --output json"),
        "{\"topic\":\"lines\",\"records\":1,\"stored_before\":0}\n"
    );
    shell.fails("produce lines .", 1, "directory");
}

#[test]
fn a_topic_takes_what_its_codecs_can_read() {
    let shell = Shell::new();
    shell.ok("topic create texts --value-codec utf8");
    shell.fails_on("produce texts", b"good\n\xff\n".to_vec(), 1, "line 2");
    shell.ok("topic create numbers --value-codec u64-be");
    shell.fails_on("produce numbers", "12\n", 1, "8 bytes");
    shell.ok_on("produce numbers", "12345678\n");
}

#[test]
fn a_line_that_is_too_long_is_named() {
    let shell = Shell::new();
    shell.fails_on("produce lines --create", vec![b'x'; (17 << 20) + 2], 1, "line 1: longer than");
    let mut input = b"short\n".to_vec();
    input.resize((16 << 20) + (70 << 10), b'x');
    shell.fails_on("produce lines --create", input, 1, "line 2");
}

#[test]
fn places_to_begin_at() {
    let shell = Shell::new();
    shell.ok("topic create orders --partitions 2");
    let json = |key: &str, ms: u64| format!("{{\"key\":\"{key}\",\"value\":\"{key}{ms}\",\"timestamp_ms\":{ms}}}\n");
    let lines: String = [("a", 1000), ("b", 2000), ("a", 3000), ("b", 4000)].map(|(key, ms)| json(key, ms)).concat();
    shell.ok_on("produce orders --format json", lines);
    let sorted = |line: &str| {
        let mut found: Vec<_> = shell.ok(line).lines().map(str::to_owned).collect();
        found.sort();
        found
    };
    assert_eq!(sorted("consume orders"), ["a1000", "a3000", "b2000", "b4000"]);
    assert_eq!(sorted("consume orders --from 1970-01-01T00:00:03Z"), ["a3000", "b4000"]);
    assert_eq!(sorted("consume orders --from latest"), [""; 0]);
    let parts = [0, 1].map(|partition| sorted(&format!("consume orders --partition {partition}")));
    assert_eq!(parts.concat().len(), 4);
    shell.fails("consume orders --from 1", 2, "--partition");
    shell.fails("consume orders --from 9 --partition 0", 2, "behind the end");
    shell.fails("consume orders --partition 2", 2, "there is no 2");
    shell.fails("consume others", 3, "others");
    assert_eq!(sorted("consume orders --max 0"), [""; 0]);
}

#[test]
fn lost_records_are_told_and_passed_only_when_asked() {
    let shell = Shell::new();
    shell.ok("topic create lines");
    let mut lax = shell.start("produce lines --sync periodic:5");
    let mut to = lax.0.stdin.take().unwrap();
    writeln!(to, "before").unwrap();
    while shell.ok("consume lines") != "before\n" {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Offsets up to the bound may have been given out, and are not given out again.
    lax.kill();
    shell.ok_on("produce lines", "after\n");
    shell.fails("consume lines", 1, "lost");
    let skipped = shell.command("consume lines --skip-gaps").output().unwrap();
    let (stdout, stderr) = (String::from_utf8(skipped.stdout).unwrap(), String::from_utf8(skipped.stderr).unwrap());
    assert!(stdout.ends_with("after\n") && stderr.contains("lost"), "{stdout}{stderr}");
    let group = shell.command("consume lines --skip-gaps --group g").output().unwrap();
    assert_eq!(String::from_utf8(group.stdout).unwrap(), stdout);
    assert_eq!(shell.ok("consume lines --group g"), "");
}

/// Each line once, in order, whenever the load is killed; and the same input again does nothing.
#[test]
fn a_named_load_is_killed_and_run_again() {
    const LINES: u64 = 6_000;
    let shell = Shell::new();
    let input: String = (0..LINES).map(|n| format!("{}:line {n}\n", n % 7)).collect();
    std::fs::write(shell.path("input"), &input).unwrap();
    shell.ok("topic create lines --partitions 3");
    let reader = StoreReader::open(shell.path("oncelog-data")).unwrap();
    let stored = || (0..3).map(|partition| reader.offsets("lines", PartitionId(partition)).unwrap().1.0).sum::<u64>();
    let call = "produce lines input --producer-id nightly --batch 3 --key-delimiter :";
    let mut interrupted = 0;
    for _ in 0..4 {
        let before = stored();
        let mut load = shell.start(call);
        while stored() == before && load.0.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(3));
        }
        load.kill();
        interrupted += u64::from((before + 1..LINES).contains(&stored()));
    }
    assert!(interrupted > 0, "no kill has hit a load at work");
    let last = shell.ok(call);
    assert!(last.contains("lines were stored before"), "{last}");
    let mut seen: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for line in shell.ok("consume lines --template {key}\\t{value}").lines() {
        let (key, number) = line.split_once("\tline ").unwrap();
        seen.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    for (key, numbers) in &seen {
        let expected: Vec<u64> = (0..LINES).filter(|n| (n % 7).to_string() == *key).collect();
        assert_eq!(*numbers, expected, "key {key}");
    }
    assert_eq!(seen.len(), 7);
    assert_eq!(shell.ok(call), format!("0 records appended, {LINES} lines were stored before\n"));
}

#[test]
fn a_named_load_knows_its_lines() {
    let shell = Shell::new();
    shell.ok_on("produce lines --create --producer-id p", "a\nb\nc");
    shell.fails_on("produce lines --producer-id p", "a\nX\nc\nd\n", 1, "first 3 lines");
    shell.fails_on("produce lines --producer-id p", "a\nb\n", 1, "has 2 lines");
    shell.fails_on("produce lines --producer-id p", "a\nb\ncc\n", 1, "first 3 lines");
    shell.fails_on("produce lines --producer-id p --key-delimiter b", "a\nb\nc\n", 1, "first 3 lines");
    shell.ok_on("produce lines --producer-id p", "a\nb\nc\nd\n");
    shell.ok_on("produce lines --producer-id q", "a\n");
    assert_eq!(shell.ok("consume lines"), "a\nb\nc\nd\na\n");
    // A topic made anew has loaded nothing.
    shell.ok("topic delete lines --yes");
    shell.ok_on("produce lines --create --producer-id p", "a\n");
    assert_eq!(shell.ok("consume lines"), "a\n");
}

/// `head` takes what it wants and goes: no failure, and the group has not passed what nobody took.
#[test]
fn a_pipe_that_is_closed_ends_it_quietly() {
    let shell = Shell::new();
    let input: String = (0..200_000).map(|n| format!("line {n}\n")).collect();
    shell.ok_on("produce lines --create", input);
    for line in ["consume lines", "consume lines --group g", "consume lines --format json --follow"] {
        let mut consume = shell.start(line);
        let mut stdout = BufReader::new(consume.0.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        assert!(first.contains("line 0"), "{first}");
        drop(stdout);
        let status = consume.0.wait().unwrap();
        let mut stderr = String::new();
        consume.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        assert_eq!((status.code(), stderr.as_str()), (Some(0), ""), "{line}");
    }
    let lag: u64 =
        shell.ok("group describe g").lines().nth(1).unwrap().split_whitespace().nth(4).unwrap().parse().unwrap();
    assert!(lag > 100_000, "{lag}: what nobody took was passed");
}

/// Those who wait for records find out that nobody waits for them.
#[test]
fn a_follower_ends_with_its_reader() {
    let shell = Shell::new();
    shell.ok("topic create lines");
    for line in ["consume lines --follow", "consume lines --follow --group g --owner side"] {
        let mut follow = shell.start(line);
        drop(follow.0.stdout.take());
        let until = Instant::now() + Duration::from_secs(30);
        while follow.0.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "{line}: still there");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A writer that stays, a follower beside it, and whoever needs the lock is told who has it.
#[test]
fn two_processes_on_one_store() {
    let shell = Shell::new();
    shell.ok("topic create lines");
    let mut writer = shell.start("produce lines");
    let mut to = writer.0.stdin.take().unwrap();
    let mut follow = shell.start("consume lines --follow --max 3");
    let mut from = BufReader::new(follow.0.stdout.take().unwrap());
    for n in 0..3 {
        writeln!(to, "line {n}").unwrap();
        to.flush().unwrap();
        let mut line = String::new();
        from.read_line(&mut line).unwrap();
        assert_eq!(line, format!("line {n}\n"));
    }
    assert!(follow.0.wait().unwrap().success());

    let pid = format!("held by process {}", writer.0.id());
    for line in ["produce lines", "topic create other", "consume lines --group g", "topic delete lines --yes"] {
        shell.fails(line, 5, &pid);
        let told = shell.command(line).output().unwrap();
        assert!(String::from_utf8(told.stderr).unwrap().contains("(oncelog), or wait for it with --wait"));
    }
    for line in ["topic list", "topic describe lines", "consume lines", "group list", "table list", "stats"] {
        shell.ok(line);
    }
    assert!(shell.ok("stats --output json").contains(&format!("\"pid\":{}", writer.0.id())));
    assert_eq!(shell.ok("consume lines --group g --owner side"), "line 0\nline 1\nline 2\n");

    // A standby goes on when the writer ends; a takeover ends it.
    let mut waiting = shell.start("produce lines --wait 30");
    waiting.0.stdin.take().unwrap().write_all(b"line 3\n").unwrap();
    drop(to);
    assert!(writer.0.wait().unwrap().success() && waiting.0.wait().unwrap().success());
    let mut stuck = shell.start("produce lines");
    let mut to = stuck.0.stdin.take().unwrap();
    writeln!(to, "line 4").unwrap();
    while shell.ok("consume lines").lines().count() < 5 {
        std::thread::sleep(Duration::from_millis(10));
    }
    shell.ok_on("produce lines --takeover", "line 5\n");
    assert!(!stuck.0.wait().unwrap().success());
    assert_eq!(shell.ok("consume lines").lines().last(), Some("line 5"));
}

#[test]
fn damage_is_told_with_its_place() {
    let shell = Shell::new();
    shell.ok("topic create lines");
    shell.ok_on("produce lines", "a\nb\nc\n");
    let sound = shell.ok("verify");
    assert!(sound.contains("records  3") && sound.ends_with("result   sound\n"), "{sound}");
    let segment = std::fs::read_dir(shell.path("oncelog-data/topics/lines/000000")).unwrap();
    let segment =
        segment.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "segment").unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[150] ^= 4;
    std::fs::write(&segment, &bytes).unwrap();
    shell.fails("consume lines", 4, ".segment at byte 80");
    let verified = shell.command("verify --output json").output().unwrap();
    let (code, told) = common::failure(&verified);
    assert_eq!((code, told.as_str()), (4, "1 place is damaged"));
    let json = String::from_utf8(verified.stdout).unwrap();
    assert!(json.contains("\"sound\":false") && json.contains("\"position\":80"), "{json}");
    shell.fails("verify --store nowhere", 3, "there is no store");
}

/// A writer that is stopped and one that was killed are no damage.
#[test]
fn verifying_beside_a_writer() {
    let shell = Shell::new();
    shell.ok("topic create lines");
    let mut writer = shell.start("produce lines --batch 1");
    let mut to = writer.0.stdin.take().unwrap();
    for n in 0..5 {
        for line in 0..200 {
            writeln!(to, "{n} {line} {}", "x".repeat(200)).unwrap();
        }
        assert!(shell.ok("verify").ends_with("result   sound\n"));
    }
    writer.kill();
    assert!(shell.ok("verify").ends_with("result   sound\n"));
}

#[test]
fn files_are_dumped() {
    let shell = Shell::new();
    shell.ok("topic create lines");
    shell.ok_on("produce lines --batch 2", "a\nb\nc\n");
    let segment = std::fs::read_dir(shell.path("oncelog-data/topics/lines/000000")).unwrap();
    let segment =
        segment.map(|entry| entry.unwrap().path()).find(|path| path.extension().unwrap() == "segment").unwrap();
    let call = format!("segment dump {}", segment.display());
    let text = shell.ok(&call);
    let batches: Vec<_> = text.lines().skip_while(|line| !line.contains("POSITION")).skip(1).collect();
    let numbers = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        (numbers(batches[0])[0].as_str(), &numbers(batches[0])[2..5]),
        ("80", &["2", "0", "2"].map(str::to_owned)[..])
    );
    assert_eq!(numbers(batches[1])[2..5], ["1", "2", "3"]);
    assert!(shell.ok(&format!("{call} --output json")).contains(r#""base_offset":0"#));
    shell.fails("segment dump missing.segment", 3, "missing.segment");
    shell.fails("segment dump oncelog-data/STORE", 2, "STORE");
    std::fs::copy(shell.path("oncelog-data/STORE"), shell.path("none.segment")).unwrap();
    shell.fails("segment dump none.segment", 4, "none.segment");
    shell.fails("segment dump", 2, "<FILE>");

    // Nothing to replay after an orderly end; what a writer has written since, while it is at work or was killed.
    assert_eq!(shell.ok("journal dump --output json"), "[]\n");
    shell.fails("journal dump --owner nobody", 3, "nobody");
    let mut writer = shell.start("produce lines --producer-id p");
    let mut to = writer.0.stdin.take().unwrap();
    writeln!(to, "d").unwrap();
    while shell.ok("consume lines").lines().count() < 4 {
        std::thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..2 {
        let frames = shell.ok("journal dump");
        let last = numbers(frames.lines().last().unwrap());
        assert_eq!(last[2..], ["1", "1", "1", "p"], "{frames}");
        writer.kill();
    }
    assert!(shell.ok("journal dump --output json").contains(r#""first":3,"next":4"#));
}
