//! Random calls against plain models, and every run twice.

use std::io;

use super::super::SimDisk;
use super::super::pages::SECTOR;
use super::{DIR, SITE, durable, open, path};
use crate::dice::Dice;
use oncelog::disk::{Disk, OpenMode};

/// One file against a list of all it has been since the last sync: after a cut, each sector and the length are those
/// of one of these versions, or the length is on the way between two.
#[test]
fn every_sector_was_there_since_the_last_sync() {
    for seed in 0..3000 {
        let disk = SimDisk::new(seed);
        let mut dice = Dice::new(!seed);
        let mut file = durable(&disk, "a", &[]);
        let mut versions: Vec<Vec<u8>> = vec![vec![]];
        for step in 1..=40 {
            let mut now = versions.last().unwrap().clone();
            match dice.below(12) {
                0..=6 => {
                    let (position, len) = (dice.up_to(12_000), dice.up_to(3000));
                    let byte = if dice.one_in(8) { 0 } else { step };
                    file.write_all_at(&vec![byte; len], position as u64).unwrap();
                    if len > 0 {
                        now.resize(now.len().max(position + len), 0);
                        now[position..position + len].fill(byte);
                    }
                    versions.push(now);
                }
                7 | 8 => {
                    let len = dice.up_to(14_000);
                    file.set_len(len as u64).unwrap();
                    now.resize(len, 0);
                    versions.push(now);
                }
                9 => {
                    file.sync(SITE).unwrap();
                    versions = vec![now];
                }
                10 => {
                    disk.process_kill();
                    file = open(&disk, "a", OpenMode::Write);
                }
                _ => {
                    disk.power_cut();
                    let found = disk.read_file("a").unwrap();
                    check_against(&versions, &found);
                    versions = vec![found];
                    file = open(&disk, "a", OpenMode::Write);
                }
            }
            assert_eq!(&disk.read_file("a").unwrap(), versions.last().unwrap());
        }
    }
}

fn check_against(versions: &[Vec<u8>], found: &[u8]) {
    let shortest = versions.iter().map(Vec::len).min().unwrap();
    let longest = versions.iter().map(Vec::len).max().unwrap();
    assert!((shortest..=longest).contains(&found.len()));
    for (sector, bytes) in found.chunks(SECTOR).enumerate() {
        let was_there = versions.iter().any(|version| {
            let start = version.len().min(sector * SECTOR);
            let end = version.len().min(start + bytes.len());
            let (known, rest) = bytes.split_at(end - start);
            known == &version[start..end] && rest.iter().all(|byte| *byte == 0)
        });
        assert!(was_there, "sector {sector}");
    }
}

/// Calls of all kinds on a few names in a few directories, with crashes and faults. Returns the trace and what is left.
fn wild_run(seed: u64, steps: u64) -> (u64, Vec<(std::path::PathBuf, Vec<u8>)>) {
    const PATHS: [&str; 8] = ["a", "b", "d", "d/a", "d/b", "e", "e/a", "e/d"];
    let disk = SimDisk::new(seed);
    let mut dice = Dice::new(seed ^ 0xabcd);
    let mut files = Vec::new();
    for _ in 0..steps {
        let chosen = path(PATHS[dice.up_to(PATHS.len() - 1)]);
        let other = path(PATHS[dice.up_to(PATHS.len() - 1)]);
        let done: io::Result<()> = match dice.below(24) {
            0..=3 => disk.open(&chosen, OpenMode::Create).map(|file| files.push(file)),
            4 => disk.create_dir(&chosen),
            5 => disk.remove_dir(&chosen),
            6 => disk.remove(&chosen),
            7 | 8 => disk.rename(&chosen, &other),
            9 | 10 => disk.sync_dir(chosen.parent().unwrap(), DIR),
            11..=15 if !files.is_empty() => {
                let file = &files[dice.up_to(files.len() - 1)];
                file.write_at(&[7; 3000][..dice.up_to(3000)], dice.below(9000)).map(drop)
            }
            16 | 17 if !files.is_empty() => files[dice.up_to(files.len() - 1)].sync(SITE),
            18 if !files.is_empty() => files[dice.up_to(files.len() - 1)].set_len(dice.below(9000)),
            19 if !files.is_empty() => {
                files.swap_remove(dice.up_to(files.len() - 1));
                Ok(())
            }
            20 if !files.is_empty() => files[dice.up_to(files.len() - 1)].read_at(&mut [0; 4000], 0).map(drop),
            21 => {
                disk.crash_after(1 + dice.below(10));
                disk.choppy(dice.one_in(2));
                Ok(())
            }
            22 => {
                disk.fail_next_sync(None);
                disk.capacity(Some(dice.below(60_000)));
                Ok(())
            }
            23 => {
                if dice.one_in(2) {
                    disk.process_kill()
                } else {
                    let _rule = disk.power_cut();
                }
                files.clear();
                Ok(())
            }
            _ => Ok(()),
        };
        drop(done);
        if disk.is_dead() && dice.one_in(2) {
            disk.power_cut();
        }
        disk.world().tree.assert_sound();
    }
    let left = disk.paths().into_iter().map(|(path, _)| (path.clone(), disk.read_file(path).unwrap()));
    (disk.trace_hash(), left.collect())
}

#[test]
fn one_seed_one_trace() {
    let mut traces = std::collections::BTreeSet::new();
    for seed in 0..300 {
        let first = wild_run(seed, 300);
        assert_eq!(first, wild_run(seed, 300));
        traces.insert(first.0);
    }
    assert_eq!(traces.len(), 300);
}

/// Many crash cycles on one disk: nothing piles up. In release a hundred thousand are a matter of seconds.
#[test]
fn thousands_of_crash_cycles() {
    let disk = SimDisk::new(1);
    disk.write_file("journal", &[0; 65_536]).unwrap();
    for name in ["s0", "s1", "s2"] {
        disk.write_file(name, &[9; 16_384]).unwrap();
    }
    for cycle in 0..5_000_u64 {
        let journal = open(&disk, "journal", OpenMode::Write);
        for group in 0..12 {
            journal.write_all_at(&[5; 700], (cycle * 7919 + group * 700) % 60_000).unwrap();
            if group % 2 == 0 {
                journal.sync(SITE).unwrap();
            }
            let segment = open(&disk, ["s0", "s1", "s2"][usize::try_from(group % 3).unwrap()], OpenMode::Write);
            segment.write_all_at(&[6; 600], (cycle * 101 + group * 600) % 20_000).unwrap();
        }
        open(&disk, "new", OpenMode::Create).write_all_at(b"state", 0).unwrap();
        disk.rename(&path("new"), &path("state")).unwrap();
        disk.sync_dir(super::root(), DIR).unwrap();
        disk.power_cut();
        assert!(disk.read_file("journal").unwrap().len() == 65_536);
    }
}
