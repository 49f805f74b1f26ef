//! `oncelog backup`: made beside a writer, listed, verified, restored, pruned; wrong calls and damage.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests live in the real world and may fail loudly")]

mod common;

use common::shell::Shell;
use oncelog::{Store, TopicDef, U64, Utf8};

const ORDERS: TopicDef<Utf8, U64> = TopicDef::new("orders");

/// The names of the backups that are listed.
fn names(shell: &Shell) -> Vec<String> {
    let listed = shell.ok("backup list --from place");
    listed.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
fn a_store_is_copied_beside_its_owner_and_made_again() {
    let shell = Shell::new();
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    let orders = store.producer(ORDERS).unwrap();
    orders.append("ann", &1).unwrap();
    let created = shell.ok("backup create --to place --output json");
    assert!(created.contains(r#""owners":[{"name":"main","lsn":"#), "{created}");
    orders.append("ann", &2).unwrap();
    // The same place, by its URL.
    let url = format!("file://{}", shell.path("%70lace").display());
    shell.ok(&format!("backup create --to {url}"));
    let backups = names(&shell);
    assert_eq!(shell.ok(&format!("backup list --from {url}")), shell.ok("backup list --from place"));
    assert_eq!(backups.len(), 2);

    shell.ok(&format!("backup restore --from place --backup {} --into one", backups[0]));
    let told = shell.ok("backup restore --from place --into two");
    for line in [format!("backup   {}", backups[1]), "topics   1".to_owned(), "records  2".to_owned()] {
        assert!(told.contains(&line), "no {line:?} in\n{told}");
    }
    assert_eq!(shell.ok("consume orders --store one").lines().count(), 1);
    assert_eq!(shell.ok("consume orders --store two").lines().count(), 2);
    assert!(shell.ok("backup verify --from place").contains("result   sound"));

    let pruned = shell.ok("backup prune --from place --keep 1");
    assert!(pruned.contains(&format!("removed  {}", backups[0])), "{pruned}");
    assert_eq!(names(&shell), backups[1..]);
    assert!(shell.ok("backup list --from place --output json").contains(r#""damage":null"#));
}

#[test]
fn what_is_wrong_is_told_with_its_code() {
    let shell = Shell::new();
    shell.fails("backup list --from nowhere", 3, "nowhere");
    shell.fails("backup create --to place", 3, "store");
    shell.fails("backup create --to s3://bucket/place", 2, "BackupTarget::objects");
    for url in ["file://elsewhere/place", "file://place", "file:///a%2", "file:///a%zz", "file:///a%00"] {
        shell.fails(&format!("backup create --to {url}"), 2, "file:///DIR");
    }
    let store = Store::open(shell.path("oncelog-data")).unwrap();
    store.producer(ORDERS).unwrap().append("ann", &1).unwrap();
    shell.ok("backup create --to place");
    shell.fails("backup restore --from place --into oncelog-data", 2, "empty directory");
    shell.fails("backup restore --from place --into x --backup 00000009-00000000", 3, "00000009-00000000");
    shell.fails("backup prune --from place --keep 0", 2, "--keep");
    std::fs::write(shell.path("place/marks/backup-0000000000000007"), "pid 7").unwrap();
    shell.fails("backup prune --from place --keep 1", 5, "backup-0000000000000007");
    shell.ok("backup prune --from place --keep 1 --unlock");

    let name = names(&shell).remove(0);
    let manifest = shell.path(&format!("place/backups/{name}.backup"));
    let good = std::fs::read(&manifest).unwrap();
    let chunks = shell.path("place/chunks");
    let folder = std::fs::read_dir(&chunks).unwrap().next().unwrap().unwrap().path();
    let chunk = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&chunk, "spoilt").unwrap();
    shell.fails("backup verify --from place", 4, chunk.file_name().unwrap().to_str().unwrap());
    shell.fails("backup restore --from place --into half", 4, "damaged");
    shell.fails("topic list --store half", 2, "restore");
    shell.fails("backup verify --from place --set-aside", 4, "set aside");
    assert!(!chunk.exists() && chunk.with_extension("damaged").exists());
    shell.ok("backup create --to place");
    shell.ok("backup verify --from place --set-aside");
    shell.ok(&format!("backup verify --from place --backup {name}"));
    std::fs::write(&manifest, &good[..good.len() - 1]).unwrap();
    shell.fails("backup list --from place", 4, &name);
}

/// How far the archive carries a backup, and what is missing, is in the list and in a verification.
#[test]
fn a_gap_in_the_archive_is_listed() {
    let shell = Shell::new();
    let target = oncelog::BackupTarget::dir(shell.path("place")).unwrap();
    let data = shell.path("oncelog-data");
    let round = |archived: bool| {
        let options = if archived { Store::options().journal_archive(target.clone()) } else { Store::options() };
        let store = options.open(&data).unwrap();
        store.producer(ORDERS).unwrap().append("ann", &1).unwrap();
        store.close().unwrap();
    };
    round(true);
    shell.ok("backup create --to place");
    round(true);
    assert!(shell.ok("backup list --from place --output json").contains(r#""missing":null"#));
    round(false);
    round(true);
    let listed = shell.ok("backup list --from place");
    assert!(listed.contains("ARCHIVE") && listed.contains(" missing)"), "{listed}");
    assert!(shell.ok("backup verify --from place").contains(" missing)\nresult   sound"));
    shell.fails("backup restore --from place --time 2100-01-01T00:00:00Z --into x", 1, "are missing in the archive");
    shell.ok("backup create --to place");
    assert!(!shell.ok("backup verify --from place").contains("missing"));
    let told = shell.ok("backup restore --from place --time 2100-01-01T00:00:00Z --into x");
    assert!(told.contains("records  4"), "{told}");
}
