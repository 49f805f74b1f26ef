//! Who survives a power cut. One [`Plan`] is drawn for the whole disk, and answers for each unsynced sector, length and
//! name. Answers are hashes of the seed and of what is asked about, not draws: they do not depend on the order of the
//! questions, so going over the files in another order changes nothing.

use super::pages::PAGE_SECTORS;
use super::tree::Ino;
use crate::dice::{Dice, mix};

/// The count of mutating operations at which something happened: the only time a disk knows.
pub(super) type Time = u64;

/// How a power cut chooses among what was not synced. What was synced stays under all of them.
///
/// Each kind of choice catches another kind of mistake: a missing sync shows under [`Nothing`](Self::Nothing), a wrong
/// order under [`Suffix`](Self::Suffix), a torn record under [`Prefix`](Self::Prefix) and [`Sectors`](Self::Sectors),
/// a forgotten cleanup under [`Everything`](Self::Everything).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survival {
    /// All of it is lost.
    Nothing,
    /// All of it is kept.
    Everything,
    /// What came before some moment, on the whole disk, in the order it was asked for; the write of that moment is torn
    /// at a sector.
    Prefix,
    /// Only the sectors and names touched since some moment: the earlier ones are lost.
    Suffix,
    /// Each sector and each name on its own.
    Sectors,
    /// Each 4 KiB page and each name on its own.
    Pages,
    /// Each sector as it was at a moment of its own, which may be between two writes to it.
    Moments,
    /// Each file and each directory by another of these rules.
    PerFile,
}

impl Survival {
    /// Every rule, for tests that try each.
    pub const ALL: [Survival; 8] = [
        Survival::Nothing,
        Survival::Everything,
        Survival::Prefix,
        Survival::Suffix,
        Survival::Sectors,
        Survival::Pages,
        Survival::Moments,
        Survival::PerFile,
    ];

    /// The rules for the throws of a die. The torn prefix, which real disks show most, comes up most.
    fn pick(throw: u64) -> Self {
        match throw % 16 {
            0 | 1 => Survival::Nothing,
            2 => Survival::Everything,
            3..=6 => Survival::Prefix,
            7 | 8 => Survival::Suffix,
            9..=11 => Survival::Sectors,
            12 => Survival::Pages,
            13 | 14 => Survival::Moments,
            _ => Survival::PerFile,
        }
    }
}

/// The fate of everything unsynced on a disk.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    survival: Survival,
    seed: u64,
    /// The moments among which a prefix, a suffix or a sector chooses: first unsynced operation to last, inclusive.
    oldest: Time,
    newest: Time,
}

impl Plan {
    /// A plan of the rule `survival`, or of one that `dice` chooses.
    pub(super) fn draw(dice: &mut Dice, survival: Option<Survival>, oldest: Time, newest: Time) -> Self {
        let seed = dice.next();
        let picked = Survival::pick(dice.next());
        Plan { survival: survival.unwrap_or(picked), seed, oldest: oldest.min(newest), newest }
    }

    pub(super) fn survival(&self) -> Survival {
        self.survival
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// The part of the plan for one file or directory.
    pub(super) fn for_node(&self, ino: Ino) -> NodePlan {
        let own = mix(self.seed ^ mix(ino));
        let (survival, shared) = match self.survival {
            Survival::PerFile => match Survival::pick(own) {
                Survival::PerFile => (Survival::Sectors, own),
                other => (other, own),
            },
            other => (other, self.seed),
        };
        let span = self.newest - self.oldest + 1;
        NodePlan {
            survival,
            seed: own,
            oldest: self.oldest,
            span,
            moment: self.oldest + mix(shared ^ 1) % span,
            percent: match shared % 3 {
                0 => 10,
                1 => 50,
                _ => 90,
            },
        }
    }
}

/// The fate of what is unsynced in one file or directory.
#[derive(Clone, Debug)]
pub(super) struct NodePlan {
    survival: Survival,
    seed: u64,
    oldest: Time,
    span: u64,
    /// End of the prefix, or start of the suffix.
    moment: Time,
    percent: u64,
}

/// One write as the plan sees it: when, and how many sectors from which.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteSpan {
    pub(super) time: Time,
    pub(super) first_sector: usize,
    pub(super) sectors: usize,
}

impl NodePlan {
    /// For a suffix: the moment from which on a write saves the sectors it touches.
    pub(super) fn suffix_from(&self) -> Option<Time> {
        (self.survival == Survival::Suffix).then_some(self.moment)
    }

    /// Whether the sector `sector` of `write` reached the disk. `is_late` tells whether a write since
    /// [`suffix_from`](Self::suffix_from) touched it.
    pub(super) fn keeps(&self, write: WriteSpan, sector: usize, is_late: impl FnOnce() -> bool) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Prefix if write.time == self.moment => {
                let torn_after = self.roll(write.time) % (write.sectors as u64 + 1);
                ((sector - write.first_sector) as u64) < torn_after
            }
            Survival::Prefix => write.time < self.moment,
            Survival::Suffix => is_late(),
            Survival::Sectors | Survival::PerFile => self.happens(sector as u64),
            Survival::Pages => self.happens((sector / PAGE_SECTORS) as u64),
            Survival::Moments => write.time < self.oldest + self.roll(sector as u64) % (self.span + 1),
        }
    }

    /// Whether a change of names at `time` reached the disk.
    pub(super) fn keeps_entry(&self, time: Time) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            Survival::Prefix => time < self.moment || time == self.moment && self.roll(time).is_multiple_of(2),
            Survival::Suffix => time >= self.moment,
            _ => self.happens(!time),
        }
    }

    /// Whether space taken and not synced stays taken.
    pub(super) fn keeps_reservation(&self) -> bool {
        match self.survival {
            Survival::Nothing => false,
            Survival::Everything => true,
            _ => self.happens(u64::MAX / 2),
        }
    }

    /// The length that survives: `durable`, one of the unsynced `changes`, or on the way of a growing one. Changes of
    /// length go through the file system's journal, so that one of them implies those before it.
    pub(super) fn len(&self, durable: usize, changes: &[(Time, usize)]) -> usize {
        let throw = self.roll(u64::MAX);
        let kept = match self.survival {
            Survival::Nothing => 0,
            Survival::Everything => changes.len(),
            Survival::Prefix => changes.partition_point(|(time, _)| *time <= self.moment),
            Survival::Suffix if !throw.is_multiple_of(4) => changes.len(),
            Survival::Suffix => 0,
            _ => match throw % 8 {
                0 | 1 => 0,
                2..=4 => changes.len(),
                _ => usize::try_from(mix(throw) % (changes.len() as u64 + 1)).expect("not more than changes"),
            },
        };
        let Some(last) = kept.checked_sub(1) else { return durable };
        let before = if last == 0 { durable } else { changes[last - 1].1 };
        let (time, after) = changes[last];
        let torn = match self.survival {
            Survival::Everything | Survival::Suffix => false,
            Survival::Prefix => time == self.moment,
            _ => true,
        };
        if torn { self.between(before, after) } else { after }
    }

    /// A growing file may be caught at any length on the way, most often where a sector ends.
    fn between(&self, before: usize, after: usize) -> usize {
        let throw = self.roll(u64::MAX - 1);
        let Some(growth) = after.checked_sub(before) else { return after };
        let part = usize::try_from(mix(throw) % (growth as u64 + 1)).expect("not more than the growth");
        match throw % 4 {
            0 => before + part,
            1 => (before + part).next_multiple_of(super::pages::SECTOR).min(after),
            2 => before,
            _ => after,
        }
    }

    fn happens(&self, subject: u64) -> bool {
        self.roll(subject) % 100 < self.percent
    }

    fn roll(&self, subject: u64) -> u64 {
        mix(self.seed ^ mix(subject.wrapping_add(0x9e37_79b9_7f4a_7c15)))
    }
}
